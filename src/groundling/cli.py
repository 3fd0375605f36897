"""The command line: one verb, one function. What a verb needs is imported when it is called.

With `--json`, stdout is one JSON document and everything else goes to stderr. An error is one `error: ...` block. Exit
codes: 0 done, 1 error-level findings or a failed run, 2 wrong use, settings or a missing file, 75 a training that
SIGTERM stopped and the same command goes on with, 130 Ctrl-C.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from groundling.errors import PREEMPTED, GroundlingError, PreemptedError, RecordError, SettingsError, TrainingError

app = typer.Typer(
    name="groundling",
    help="Teach vision-language models to point at things, and get boxes in the pixels of your own picture.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_UsageError: Any = typer.BadParameter.__base__  # click's, or that of the copy that typer carries since 0.2x

ModelName = Annotated[str, typer.Argument(help="run folder, checkpoint, adapter, hub name, or tiny", metavar="MODEL")]
MaxFilePixels = Annotated[
    int | None, typer.Option(min=1, help="refuse pictures of more pixels; by default 100 million")
]
FreeAnswers = Annotated[bool, typer.Option("--free", help="let answers say anything, not only what can be read")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON document")]


def main() -> None:
    """Run the command line; ends the process with the exit code."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("groundling").setLevel(logging.INFO if _is_speaker() else logging.ERROR)
    warnings.filterwarnings("ignore", "Corrupt EXIF")  # Pillow's; such a picture stays as it is stored
    logging.getLogger("DeepSpeed").addFilter(_is_news)
    try:
        code = app(standalone_mode=False)
    except _UsageError as error:
        code = _fail_use(error)
    except TrainingError as error:
        code = _fail(str(error), 1)
    except PreemptedError as error:
        code = _fail(str(error), PREEMPTED)
    except GroundlingError as error:
        code = _fail(str(error), 2)
    except OSError as error:
        code = _fail(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), 2)
    except (KeyboardInterrupt, typer.Abort) as error:
        code = _fail(str(error) or "interrupted", 130)
    sys.exit(code if isinstance(code, int) else 0)


def _is_news(record: logging.LogRecord) -> bool:
    """False for what every process has DeepSpeed say on stdout where there is no GPU, as torch knows too."""
    if not record.getMessage().startswith("Setting accelerator to CPU"):
        return True
    import torch

    return torch.cuda.is_available()


def _fail_use(error: Any) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":  # `groundling` alone: its message is the help
        print(error.format_message(), file=sys.stderr)
        return 2
    return _fail(f"{error.format_message()}\nTry `{_help_line(error)}`.", 2)


def _fail(message: str, code: int) -> int:
    if _is_speaker():
        print(f"error: {message}", file=sys.stderr)
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):  # what torchrun tells of a process, in the form it expects
        details = {"py_callstack": message, "timestamp": str(int(time.time()))}
        told = {"message": {"message": message, "extraInfo": details}}
        Path(file).write_text(json.dumps(told), encoding="utf-8")
    return code


def _is_speaker() -> bool:
    """Whether this is the process of a distributed launch that speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def _help_line(error: Any) -> str:
    return f"{error.ctx.command_path if error.ctx else 'groundling'} --help"


# ---- data ------------------------------------------------------------------------------------------------------


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="owner/name on the hub")],
    to: Annotated[Path | None, typer.Option(help="folder to fetch into")] = None,
    origin: Annotated[str, typer.Option("--from", help="hub or modelscope")] = "hub",
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit")] = None,
    kind: Annotated[str, typer.Option(help="model or dataset")] = "model",
) -> None:
    """Bring a model or a data set to a local folder, with its revision and the hash of every file."""
    from groundling.data.fetch import fetch

    _one_of("--from", origin, ("hub", "modelscope"))
    _one_of("--kind", kind, ("model", "dataset"))
    print(fetch(name, to, kind=kind, origin=origin, revision=revision))  # type: ignore[arg-type]


@app.command()
def convert(
    format: Annotated[str, typer.Argument(help="auto, or one of those in docs/formats.md")],
    source: Annotated[str, typer.Argument(help="a file, a folder, or a hub name")],
    out: Annotated[Path, typer.Argument(help="record file to write", metavar="OUT.jsonl")],
    split: Annotated[
        str | None, typer.Option(help="sizes in rows, as train=3000,test=100; pictures stay whole")
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of the split")] = 0,
    frame: Annotated[
        str | None,
        typer.Option(help="what a chat format's numbers count: original, thousandths, fractions, resized:PIXELS"),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="folder of the pictures, where it is another")] = None,
    part: Annotated[str | None, typer.Option(help="of a source with parts, such as train and val, only this")] = None,
    one_based: Annotated[bool, typer.Option("--one-based", help="its first pixel is number 1 (classic VOC)")] = False,
    reduce: Annotated[bool, typer.Option("--reduce", help="polygons and turned boxes: the boxes around them")] = False,
    boxes: Annotated[
        str | None, typer.Option(help="hf-objects: xywh, xyxy or cxcywh, with -fractions for shares of the picture")
    ] = None,
    per: Annotated[str, typer.Option(help="labelled boxes: one question per class, box or picture")] = "class",
    question: Annotated[str | None, typer.Option(help="what such a question says, with {label} or {labels}")] = None,
    negatives: Annotated[float, typer.Option(help="questions for absent labels, for each one for a present one")] = 0.0,
    labels: Annotated[str | None, typer.Option(help="only these labels, as cat,dog")] = None,
    link: Annotated[bool, typer.Option("--link", help="leave pictures where they are, by absolute path")] = False,
    limit: Annotated[int | None, typer.Option(help="stop after so many rows")] = None,
    shards: Annotated[
        int | None, typer.Option(min=1, help="write a folder OUT of so many Parquet files, pictures inside")
    ] = None,
) -> None:
    """Turn another format into record files; boxes become original pixels."""
    from groundling.data.convert import convert

    done = convert(
        format,
        source,
        out,
        split=split,
        seed=seed,
        frame=frame,
        images=images,
        part=part,
        one_based=one_based,
        reduce=reduce,
        box_form=boxes,  # type: ignore[arg-type]
        per=per,  # type: ignore[arg-type]
        question=question,
        negatives=negatives,
        labels=None if labels is None else [label.strip() for label in labels.split(",")],
        link=link,
        limit=limit,
        shards=shards,
    )
    for note in done.notes:
        _say(note)
    for file in done.files:
        print(file)
    general = sum(record.answer is not None for record in done.records)
    apart = f" ({general} of them general instructions, without places)" if general else ""
    _say(f"{len(done.records)} records{apart}, {len(done.rejected)} rejected")
    if done.rejected:
        _say(f"each with its reason: {out.with_suffix('.rejected.jsonl')}")
    if not done.records:
        reasons = f"; {out.with_suffix('.rejected.jsonl')} tells why" if done.rejected else ""
        raise RecordError(f"no record could be made of {source}{reasons}")


@app.command()
def export(
    records: Annotated[
        Path, typer.Argument(help="record file, folder of shards, predictions.jsonl, or what predict --json printed")
    ],
    format: Annotated[str, typer.Argument(help="one of those in docs/export.md")],
    out: Annotated[Path, typer.Argument(help="file to write, or folder for formats that are one")],
    family: Annotated[str | None, typer.Option(help="whose frame and form the boxes in a text have")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="visual tokens of one picture")] = None,
    labels: Annotated[str | None, typer.Option(help="only these classes, numbered in this order, as cat,dog")] = None,
    one_based: Annotated[bool, typer.Option("--one-based", help="the first pixel is number 1 (classic VOC)")] = False,
    url_prefix: Annotated[str, typer.Option(help="where pictures are served, as /data/local-files/?d=set/")] = "",
    like: Annotated[Path | None, typer.Option(help="COCO file that coco-results are scored against")] = None,
    images: Annotated[Path | None, typer.Option(help="folder of the pictures of predictions, where it moved")] = None,
    allow_absolute: Annotated[bool, typer.Option("--allow-absolute", help="pictures may have absolute paths")] = False,
) -> None:
    """Write records or predictions in another tool's format, boxes in the frame that tool expects."""
    from groundling.data.export import export

    scan = _scan_records_or_predictions(records, images, allow_absolute)
    if not scan.records:
        raise RecordError(f"nothing in {records} is a record or a prediction")
    done = export(
        scan.records,
        format,
        out,
        family=family,
        max_tokens=max_tokens,
        labels=None if labels is None else [label.strip() for label in labels.split(",")],
        one_based=one_based,
        url_prefix=url_prefix,
        like=like,
    )
    print(done.file)
    rejected = [*scan.rejected, *done.rejected]
    _say(f"{done.written} written, {len(rejected)} rejected")
    for bad in rejected[:10]:
        _say(f"  {bad.file}:{bad.line}: {bad.reason}")
    if not done.written:
        raise RecordError(f"no record of {records} can be written as {format}")


def _scan_records_or_predictions(file: Path, images: Path | None, allow_absolute: bool) -> Any:
    from groundling.data.predictions import holds_predictions, scan_predictions
    from groundling.data.shards import open_records

    if holds_predictions(file):
        return scan_predictions(file, images=images)
    if images is not None:
        raise SettingsError(f"{file} holds records, which say where their pictures are; leave --images out")
    return open_records(file, allow_absolute=allow_absolute)


@app.command()
def check(
    records: Annotated[
        list[Path], typer.Argument(help="record files or folders of shards; of several, leaks between them too")
    ],
    recipe: Annotated[Path | None, typer.Option(help="judge at this recipe's budget")] = None,
    model: Annotated[str | None, typer.Option(help="judge at this model's budget")] = None,
    to: Annotated[Path | None, typer.Option(help="folder for findings.jsonl and check.html")] = None,
    fix: Annotated[Path | None, typer.Option(help="file to write what can be mended to", metavar="OUT.jsonl")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="exit 1 for warnings too")] = False,
    allow_absolute: Annotated[bool, typer.Option("--allow-absolute", help="pictures may have absolute paths")] = False,
    max_file_pixels: MaxFilePixels = None,
    as_json: AsJson = False,
) -> None:
    """Tell what is wrong with data before a GPU-hour is spent on it."""
    import dataclasses

    from groundling.checking import examine_files
    from groundling.data.check_page import write_examination
    from groundling.data.check_summary import describe
    from groundling.data.mend import mend, refuse_place, write_mended
    from groundling.settings import load_settings

    settings = None if recipe is None else load_settings(recipe)
    if fix is not None:
        refuse_place(fix, records)
    with _progress("pictures") as progress, nullcontext() if recipe is model is None else _quiet_libraries():
        found = examine_files(
            records,
            settings=settings,
            model=model,
            allow_absolute=allow_absolute,
            max_pixels=max_file_pixels,
            progress=progress,
        )
    if to is not None:
        _say("\n".join(str(file) for file in write_examination(found, to)))
    if fix is not None:
        mended = mend(found)
        write_mended(mended, fix, allow_absolute=allow_absolute)
        _say(f"{fix}: {mended.summary}")
    print(json.dumps([dataclasses.asdict(each) for each in found.findings]) if as_json else describe(found))
    levels = {finding.level for finding in found.findings}
    if "error" in levels or (strict and "warning" in levels):
        raise typer.Exit(1)


def _tell_notes(recipe: str) -> None:
    """What of a recipe has no effect here, on stderr."""
    from groundling.settings import read_recipe

    if _is_speaker():
        for note in read_recipe(recipe).notes:
            _say(f"note: {note}")


@app.command()
def preview(
    recipe: Annotated[str, typer.Argument(help="a recipe file, or the name of a shipped one")],
    overrides: Annotated[list[str] | None, typer.Argument(help="settings to change", metavar="[key=value]...")] = None,
    samples: Annotated[int, typer.Option("-n", "--samples", min=1, help="how many to show")] = 8,
    to: Annotated[Path | None, typer.Option(help="folder for preview.html; previews/<recipe> by default")] = None,
) -> None:
    """Show what a model will see and learn by a recipe: pictures, prompts, answers, token by token."""
    settings, name = _load_recipe(recipe, overrides or []), Path(recipe).stem
    folder = to or Path("previews") / name
    _tell_notes(recipe)
    with _quiet_libraries():
        from rich.console import Console

        from groundling.training.preview import build_preview, refuse_run_folder, write_preview
        from groundling.training.preview_text import print_preview

        refuse_run_folder(folder, settings)
        with _progress("pictures") as progress:
            found = build_preview(settings, name=name, samples=samples, progress=progress)
    page = write_preview(found, folder)
    print_preview(found, Console(highlight=False))
    _say(str(page))


@app.command()
def plan(
    recipe: Annotated[str, typer.Argument(help="a recipe file, or the name of a shipped one")],
    overrides: Annotated[list[str] | None, typer.Argument(help="settings to change", metavar="[key=value]...")] = None,
    gpu_memory: Annotated[float | None, typer.Option(min=0.1, help="GiB of one GPU", metavar="GIB")] = None,
    samples_per_second: Annotated[
        float | None, typer.Option(min=1e-9, help="of all GPUs together, for the time that it takes")
    ] = None,
    tokens_per_second: Annotated[float | None, typer.Option(min=1e-9, help="the same in tokens")] = None,
    slurm: Annotated[Path | None, typer.Option(help="file to write a SLURM script to")] = None,
    sky: Annotated[Path | None, typer.Option(help="file to write a SkyPilot task to")] = None,
    accelerator: Annotated[str, typer.Option(help="SkyPilot's name of the GPU")] = "A100-80GB",
    as_json: AsJson = False,
) -> None:
    """Tell what a recipe takes before it is started: memory, tokens, steps, time, and the line that starts it."""
    settings, name = _load_recipe(recipe, overrides or []), Path(recipe).stem
    _tell_notes(recipe)
    with _quiet_libraries():
        from groundling.training.memory import GIB
        from groundling.training.plan import Rate, build_plan
        from groundling.training.plan_text import describe_plan
        from groundling.training.scripts import sky_task, slurm_script

        found = build_plan(
            settings,
            name=name,
            recipe=recipe,
            overrides=overrides or [],
            device_bytes=None if gpu_memory is None else round(gpu_memory * GIB),
            rate=Rate(samples_per_second, tokens_per_second),
        )
    if slurm is not None:
        script = slurm_script(settings.launch, recipe, overrides or [], name=name)
        slurm.write_text(script, encoding="utf-8")
    if sky is not None:
        run_dir = settings.run.dir
        task = sky_task(settings.launch, recipe, overrides or [], name=name, accelerator=accelerator, run_dir=run_dir)
        sky.write_text(task, encoding="utf-8")
    print(json.dumps(found.to_json(), ensure_ascii=False) if as_json else describe_plan(found))
    for file in (slurm, sky):
        if file is not None:
            _say(str(file))


# ---- models ----------------------------------------------------------------------------------------------------


@app.command()
def info(
    model: Annotated[str | None, typer.Argument(help="tell the contract of this model")] = None,
    guide: Annotated[
        str | None,
        typer.Option(help="how a server holds answers about pictures of that size to its form", metavar="WIDTHxHEIGHT"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Versions, devices and extras; or the contract of a model."""
    from groundling import info as machine

    if guide is not None:
        found = _find_guide(model, guide)
    elif model is None:
        found = machine.describe_machine()
    else:
        with _quiet_libraries():
            from groundling.model.load import find_checkpoint

            found = find_checkpoint(model).contract.to_json()
    print(json.dumps(found, ensure_ascii=False) if as_json else machine.as_lines(found))


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="a recipe file, or the name of a shipped one")],
    overrides: Annotated[list[str] | None, typer.Argument(help="settings to change", metavar="[key=value]...")] = None,
) -> None:
    """Tune a model as a recipe says."""
    from groundling.training.stop import leaving_at_once

    with leaving_at_once(lambda: _fail("stopped by SIGTERM before it began; the same command starts it", PREEMPTED)):
        _train(recipe, overrides or [])


def _train(recipe: str, overrides: list[str]) -> None:
    from groundling.training.launch import (
        end_with_launcher,
        find_meeting,
        has_lost_peer,
        launch_command,
        needs_launcher,
        refuse_impossible_start,
        refuse_other_number,
        start,
    )

    end_with_launcher()
    settings = _load_recipe(recipe, overrides)  # every mistake in a recipe is told before torch is loaded
    if needs_launcher(settings.launch):
        asked = (settings.launch, [recipe, *overrides], find_meeting(settings.launch))
        refuse_impossible_start(settings.launch)
        _say(f"starting: {shlex.join(launch_command(*asked))}")
        raise typer.Exit(start(*asked))
    refuse_other_number(settings.launch)
    _tell_notes(recipe)
    with _quiet_libraries():
        from groundling.training.train import train

        try:
            run = train(recipe, *overrides)
        except KeyboardInterrupt as interrupt:  # typer would drop what it says
            raise typer.Exit(_fail(str(interrupt) or "interrupted", 130)) from None
        except RuntimeError as error:
            if not has_lost_peer(error):
                raise
            if _is_speaker():
                _say("another process has ended, and this one with it")
            raise typer.Exit(1) from None  # told to the launcher by the other one
    if _is_speaker():
        print(run)


@app.command()
def evaluate(
    model: ModelName,
    records: Annotated[Path, typer.Argument(help="record file or folder of shards")],
    to: Annotated[Path | None, typer.Option(help="folder of the report")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="another budget of visual tokens than it was trained with")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="questions answered at once")] = 16,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="tokens of one answer, at most")] = 512,
    free: FreeAnswers = False,
    protocol: Annotated[
        str | None, typer.Option(help="report as a benchmark does: refcoco, odinw, screenspot or pointing")
    ] = None,
    guard: Annotated[
        str, typer.Option(help="questions that are not grounding, to see what is forgotten: general, or a record file")
    ] = "general",
    no_guard: Annotated[bool, typer.Option("--no-guard", help="leave those out")] = False,
    allow_absolute: Annotated[bool, typer.Option("--allow-absolute", help="pictures may have absolute paths")] = False,
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
    with _quiet_libraries():
        from groundling.evaluation.evaluate import evaluate
        from groundling.evaluation.report import report_to_json

        grounder = _load(model, max_tokens)
        with _progress("questions") as progress:
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
    if _is_speaker():
        print(json.dumps(report_to_json(report), ensure_ascii=False) if as_json else _describe_scores(report))
        _say(str(folder / "report.html"))


def _read_scorable(records: Path, allow_absolute: bool, max_pixels: int) -> list[Any]:
    """The records of a file that a model can be scored on; how many others there are is told."""
    from groundling.data.check import check, usable
    from groundling.data.shards import open_records

    scan = open_records(records, allow_absolute=allow_absolute)
    kept = usable(scan.records, check(scan.records, max_pixels=max_pixels))
    set_aside = len(scan.records) + len(scan.rejected) - len(kept)
    if set_aside:
        _say(f"{set_aside} records cannot be used and are left out; `groundling check {records}` tells why")
    general = sum(record.answer is not None for record in kept)
    if general:
        _say(f"{general} records are general instructions, without boxes to score, and are left out")
    if general == len(kept):
        raise RecordError(f"no record of {records} can be scored")
    return kept


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="report folder")],
    after: Annotated[Path, typer.Argument(help="report folder")],
    to: Annotated[
        Path | None, typer.Option(help="folder for comparison.json, comparison.html and comparison.md")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell whether one model is better than another, question by question."""
    from groundling.evaluation.compare import compare, comparison_to_json
    from groundling.evaluation.compare_page import write_comparison
    from groundling.evaluation.report import read_report

    found = compare(read_report(before), read_report(after))
    if to is not None:
        write_comparison(found, to)
        _say(str(to / "comparison.html"))
    for warning in filter(None, (found.warning, found.made_otherwise)):
        _say(f"warning: {warning}")
    print(json.dumps(comparison_to_json(found), ensure_ascii=False) if as_json else _describe_changes(found))


@app.command()
def diagnose(
    predictions: Annotated[Path, typer.Argument(help="predictions.jsonl, or JSONL of {id, text | boxes}")],
    records: Annotated[Path, typer.Argument(help="record file that the questions came from")],
    family: Annotated[
        str | None, typer.Option(help="how texts without boxes are read; report.json beside says")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="visual tokens of one picture, likewise")] = None,
    allow_absolute: Annotated[bool, typer.Option("--allow-absolute", help="pictures may have absolute paths")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell what is systematically wrong with answers: frames, axes, turned pictures, classes, repeats."""
    from groundling.data.record import read_records
    from groundling.evaluation.diagnose import diagnose

    known = read_records(records, allow_absolute=allow_absolute)
    found = diagnose(predictions, known, family=family, max_tokens=max_tokens)
    print(json.dumps(found.to_json(), ensure_ascii=False) if as_json else "\n".join(found.as_lines()))
    if any(fault.level == "error" for fault in found.faults):
        raise typer.Exit(1)


@app.command()
def predict(
    model: ModelName,
    images: Annotated[list[Path], typer.Argument(help="pictures, or folders of them", metavar="IMAGE...")],
    ask: Annotated[list[str], typer.Option(help="what to find; may be given several times")],
    draw: Annotated[Path | None, typer.Option(help="folder for the pictures with boxes drawn")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="another budget of visual tokens than it was trained with")
    ] = None,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="leave out boxes that the model is less sure of")] = 0,
    nms: Annotated[
        float, typer.Option(min=0, max=1, help="leave out boxes that a surer one of their label overlaps by more (IoU)")
    ] = 1,
    free: FreeAnswers = False,
    max_file_pixels: MaxFilePixels = None,
    as_json: AsJson = False,
) -> None:
    """Ask about pictures; boxes come back in each picture's own upright pixels."""
    with _quiet_libraries():
        from groundling.geometry.images import MAX_PIXELS
        from groundling.inference.gallery import answer_pictures, find_pictures

        pictures = find_pictures(images)
        grounder = _load(model, max_tokens)
        answers = answer_pictures(
            grounder,
            pictures,
            ask,
            draw=draw,
            least_score=min_score,
            most_overlap=nms,
            free=free,
            max_pixels=max_file_pixels or MAX_PIXELS,
        )
    for failed in answers.unreadable:
        _say(f"warning: {failed}")
    if as_json:
        print(json.dumps([answer.to_json() for answer in answers.found], ensure_ascii=False))
    else:
        for answer in answers.found:
            print(answer)
    if answers.unreadable:
        raise typer.Exit(1)


@app.command()
def calibrate(
    model: Annotated[str, typer.Argument(help="a model as for predict, or a server's address", metavar="MODEL|URL")],
    to: Annotated[Path | None, typer.Option(help="folder for groundling.json; by default the model's own")] = None,
    served: Annotated[str | None, typer.Option("--model", help="of a server: which of its models")] = None,
    against: Annotated[str | None, typer.Option(help="of a server: the model whose contract it should keep to")] = None,
    prompt: Annotated[str | None, typer.Option(help="of a server: how it is asked, with {question}")] = None,
    seconds: Annotated[float, typer.Option(help="of a server: how long one answer may take")] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Measure in which coordinates a model or a server answers, by drawn pictures with known boxes."""
    from groundling.inference.server import is_address

    of_servers = {"--model": served, "--against": against, "--prompt": prompt}
    if given := [option for option, value in of_servers.items() if value is not None and not is_address(model)]:
        raise SettingsError(f"{', '.join(given)} is of servers, and {model!r} is no address like http://localhost:8000")
    with _quiet_libraries():
        from groundling.evaluation.calibrate import calibrate, calibrate_server
        from groundling.evaluation.calibration_text import describe, to_json

        with _progress("pictures") as progress:
            outcome = (
                calibrate_server(
                    model,
                    model=served,
                    against=against,
                    to=to,
                    template=prompt,
                    seconds=seconds,
                    progress=progress,
                )
                if is_address(model)
                else calibrate(model, to=to, progress=progress)
            )
    print(json.dumps(to_json(outcome), ensure_ascii=False) if as_json else describe(outcome))
    if outcome.contract is not None:
        _say(str(outcome.contract))
    if not outcome.is_good:
        raise typer.Exit(1)


@app.command()
def merge(
    run: Annotated[str, typer.Argument(help="run folder or adapter")],
    out: Annotated[Path, typer.Argument(help="folder for the merged checkpoint")],
) -> None:
    """Write a run as one plain bf16 checkpoint, and check that it answers as before."""
    with _quiet_libraries():
        from groundling.inference.merge import merge
        from groundling.inference.predict import Question
        from groundling.tiny.scenes import sample_scenes

        asked = [Question(scene.picture, f"the {scene.objects[0].name}") for scene in sample_scenes(8)]
        done = merge(run, out, questions=asked)
    print(done.folder)
    _say(f"{done.same} of {done.asked} sample answers are the same to the letter")


@app.command()
def demo(
    to: Annotated[Path, typer.Option(help="folder for everything it makes")] = Path("demo"),
) -> None:
    """Fine-tune the bundled tiny model on pictures it has never seen the like of, and show before and after."""
    with _quiet_libraries():
        from groundling.tiny.demo import run_demo

        page = run_demo(to)
    print(page)


# ---- shared ----------------------------------------------------------------------------------------------------


def _load_recipe(recipe: str, overrides: list[str]) -> Any:
    """The settings of a recipe that may be printed and kept."""
    from groundling.settings import load_settings
    from groundling.training.secrets import refuse_secrets

    settings = load_settings(recipe, overrides)
    refuse_secrets(settings)
    return settings


def _from_main_process(make: Callable[[], Any]) -> Any:
    """What `make` gives, made by one process of a distributed launch for all."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return make()
    from groundling.evaluation.processes import from_main_process

    return from_main_process(make)


def _find_guide(model: str | None, size: str) -> dict[str, Any]:
    from groundling.geometry.frame import Frame

    width, _, height = size.partition("x")
    if model is None or not (width.isdecimal() and height.isdecimal()):
        raise SettingsError(f"--guide {size!r} is of a model and a picture's size; expected MODEL --guide 640x480")
    original = Frame(int(width), int(height))
    with _quiet_libraries():
        from groundling.inference.served import guide_for
        from groundling.model.load import find_checkpoint

        return guide_for(find_checkpoint(model).contract, original)


def _load(model: str, max_tokens: int | None) -> Any:
    from groundling.inference.predict import load

    grounder = load(model)
    return grounder if max_tokens is None else grounder.with_max_tokens(max_tokens)


def _describe_scores(report: Any) -> str:
    lines = [f"{'metric':15} {'value':>7}  95 % interval"]
    for name in report.shown:
        low, high = report.ci95[name]
        interval = f"{low:.3f} to {high:.3f}" if low == low else "none from one picture"
        lines.append(f"{name:15} {report.metrics[name]:7.3f}  {interval}")
    for name, scores in report.scores.baselines.items():
        if scores["acc@0.5"] == scores["acc@0.5"]:
            lines.append(f"{name + ' box':15} {scores['acc@0.5']:7.3f}  acc@0.5 of a model that sees nothing")
    lines += _describe_detection(report) if report.detects else []
    lines.append(f"{report.scores.n} questions")
    if report.headline is not None:
        lines.append(_describe_headline(report.headline))
    return "\n".join(lines)


def _describe_detection(report: Any) -> list[str]:
    found = report.detection
    ranked = "ranked by the answers' scores" if found.scored else "every box at 1.0"
    orders = found.orders
    luck = f"; {orders.mean:.3f} +- {orders.sd:.3f} over {orders.n} orders" if orders else ""
    values = {"map": f"COCO's AP, {ranked}{luck}", "map50": "the same at IoU 0.5", "map75": "the same at IoU 0.75"}
    return [f"{name:15} {getattr(found, name):7.3f}  {words}" for name, words in values.items()]


def _describe_headline(headline: Any) -> str:
    from groundling.evaluation.protocols import find_protocol

    low, high = headline.ci95
    interval = f" [{low:.3f}, {high:.3f}]" if low == low else ""
    asked = f"{headline.n} questions ({find_protocol(headline.protocol).source})"
    return f"{headline.protocol}: {headline.metric} {headline.value:.3f}{interval} over {asked}"


def _describe_changes(found: Any) -> str:
    lines = [f"{'metric':15} {'before':>7} {'after':>7} {'change':>7}  95 % interval      p"]
    for name, change in found.shown.items():
        low, high = change.ci95
        numbers = f"{change.before:7.3f} {change.after:7.3f} {change.difference:+7.3f}"
        lines.append(f"{name:15} {numbers}  {low:+.3f} to {high:+.3f}  {change.p:.4f}")
    for what, groups in (("size", found.by_size), ("class", found.by_class)):
        seen = [f"{group.name} {group.change.difference:+.3f}" for group in groups.groups if group.differs]
        if groups.groups:
            told = f"{len(groups.groups)} looked at, different: {', '.join(seen) or 'none'}"
            lines.append(f"{groups.metric} by {what}: {told}")
    if found.guard:
        lines.append(f"other abilities {found.guard.change.difference:+.3f}: {found.guard.verdict}")
    elif found.no_guard:
        lines.append(f"other abilities: {found.no_guard}")
    return "\n".join([*lines, found.verdict])


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise SettingsError(f"{option} {value!r}; expected {' or '.join(known)}")


def _say(line: str) -> None:
    print(line, file=sys.stderr)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Load what every model needs, and keep the libraries' own bars and hints off the screen while one is at work."""
    with _without_collection():
        import transformers.modeling_utils  # noqa: F401  # with torch, nearly all that is loaded
        from transformers.utils import logging as libraries

    libraries.disable_progress_bar()
    libraries.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _without_collection() -> Iterator[None]:
    """Look for no garbage while modules are loaded, nor ever among them.

    There is none, and looking takes a sixth of the time in which torch and transformers are loaded (2026-11-28).
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Something to call with (done, of how many): a bar with the time left on a terminal, silence elsewhere."""
    if not sys.stderr.isatty() or not _is_speaker():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from groundling.evaluation.pace import Pace, in_words

    pace = Pace()
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, left="")

        def tell(done: int, total: int) -> None:
            left = pace.left(done, total)
            bar.update(task, completed=done, total=total, left="" if left is None else f"{in_words(left)} left")

        yield tell
