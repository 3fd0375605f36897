"""Verbs about answers: what they are worth, whether others are better, what is wrong with them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from groundling.cli.models import load_grounder
from groundling.cli.options import (
    AllowAbsolute,
    AsJson,
    FreeAnswers,
    MaxFilePixels,
    MaxNewTokens,
    ModelName,
    OtherBudget,
)
from groundling.cli.screen import is_speaker, progress_bar, quiet_libraries, say
from groundling.errors import RecordError


def evaluate(
    model: ModelName,
    records: Annotated[Path, typer.Argument(help="record file or folder of shards")],
    to: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="folder of the report; evaluations/<model>-<records> by default"),
    ] = None,
    max_tokens: OtherBudget = None,
    batch_size: Annotated[int, typer.Option(min=1, help="questions answered at once")] = 16,
    max_new_tokens: MaxNewTokens = 512,
    free: FreeAnswers = False,
    protocol: Annotated[
        str | None, typer.Option(help="report as a benchmark does: refcoco, odinw, screenspot or pointing")
    ] = None,
    guard: Annotated[
        str, typer.Option(help="questions that are not grounding, to see what is forgotten: general, or a record file")
    ] = "general",
    no_guard: Annotated[bool, typer.Option("--no-guard", help="leave those out")] = False,
    allow_absolute: AllowAbsolute = False,
    max_file_pixels: MaxFilePixels = None,
    as_json: AsJson = False,
) -> None:
    """Ask a model every question of a record file and score its boxes.

    Several devices share the questions out: torchrun --nproc_per_node 8 -m groundling evaluate MODEL RECORDS
    """
    from groundling.geometry.images import MAX_PIXELS

    limit = max_file_pixels or MAX_PIXELS
    kept = _from_main_process(lambda: _read_scorable(records, allow_absolute, limit))
    if protocol is not None:
        from groundling.evaluation.protocols import refuse_protocol

        refuse_protocol(protocol, kept)  # before a model is loaded
    folder = to or Path("evaluations") / f"{'-'.join(Path(model).parts[-2:]).strip('/.')}-{records.stem}"
    with quiet_libraries():
        from groundling.evaluation.evaluate import evaluate
        from groundling.evaluation.report import report_to_json
        from groundling.evaluation.report_text import describe_report

        grounder = load_grounder(model, max_tokens)
        with progress_bar("questions") as progress:
            report = evaluate(
                grounder,
                kept,
                folder,
                batch_size=batch_size,
                max_new_tokens=max_new_tokens,
                free=free,
                max_pixels=limit,
                protocol=protocol,
                guard=None if no_guard else guard,
                progress=progress,
            )
    if is_speaker():
        print(json.dumps(report_to_json(report), ensure_ascii=False) if as_json else describe_report(report))
        say(str(folder / "report.html"))


def _read_scorable(records: Path, allow_absolute: bool, max_pixels: int) -> list[Any]:
    """The records of a file that a model can be scored on; how many others there are is told."""
    from groundling.data.check import check, usable
    from groundling.data.shards import open_records, refuse_empty

    scan = open_records(records, allow_absolute=allow_absolute)
    refuse_empty([records], [scan])
    kept = usable(scan.records, check(scan.records, max_pixels=max_pixels))
    set_aside = len(scan.records) + len(scan.rejected) - len(kept)
    if set_aside:
        say(f"{set_aside} records cannot be used and are left out; `groundling check {records}` tells why")
    general = sum(record.answer is not None for record in kept)
    if general:
        say(f"{general} records are general instructions, without boxes to score, and are left out")
    if general == len(kept):
        raise RecordError(f"no record of {records} can be scored")
    return kept


def _from_main_process(make: Callable[[], Any]) -> Any:
    """What `make` gives, made by one process of a distributed launch for all."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return make()
    from groundling.evaluation.processes import from_main_process

    return from_main_process(make)


def compare(
    before: Annotated[Path, typer.Argument(help="report folder, or run folder with its report")],
    after: Annotated[Path, typer.Argument(help="report folder, or run folder with its report")],
    to: Annotated[
        Path | None, typer.Option(file_okay=False, help="folder for comparison.json, comparison.html and comparison.md")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell whether one model is better than another, question by question."""
    from groundling.evaluation.compare import compare, comparison_to_json
    from groundling.evaluation.compare_page import write_comparison
    from groundling.evaluation.compare_text import describe_comparison
    from groundling.evaluation.report import find_report, read_report

    found = compare(read_report(find_report(before)), read_report(find_report(after)))
    if to is not None:
        write_comparison(found, to)
        say(str(to / "comparison.html"))
    for warning in found.warnings:
        say(f"warning: {warning}")
    print(json.dumps(comparison_to_json(found), ensure_ascii=False) if as_json else describe_comparison(found))


def diagnose(
    predictions: Annotated[
        Path, typer.Argument(help="predictions.jsonl or its report's folder, or JSONL of {id, text | boxes}")
    ],
    records: Annotated[Path, typer.Argument(help="record file that the questions came from")],
    family: Annotated[
        str | None, typer.Option(help="how texts without boxes are read; report.json beside says")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="visual tokens of one picture, likewise")] = None,
    allow_absolute: AllowAbsolute = False,
    as_json: AsJson = False,
) -> None:
    """Tell what is systematically wrong with answers: frames, axes, turned pictures, classes, repeats."""
    from groundling.data.record import Scan, read_records
    from groundling.data.shards import refuse_empty
    from groundling.evaluation.diagnose import diagnose

    known = read_records(records, allow_absolute=allow_absolute)
    refuse_empty([records], [Scan(known, [])])
    found = diagnose(predictions, known, family=family, max_tokens=max_tokens)
    print(json.dumps(found.to_json(), ensure_ascii=False) if as_json else "\n".join(found.as_lines()))
    if any(fault.level == "error" for fault in found.faults):
        raise typer.Exit(1)
