"""Verbs about data: bring it, put it into records and out of them, look for what is wrong with it."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from groundling.cli.options import AllowAbsolute, AsJson, MaxFilePixels
from groundling.cli.screen import progress_bar, quiet_libraries, say
from groundling.errors import RecordError, SettingsError


def fetch(
    name: Annotated[str, typer.Argument(help="owner/name on the hub")],
    to: Annotated[
        Path | None, typer.Option(file_okay=False, help="folder to fetch into; by default the last part of the name")
    ] = None,
    origin: Annotated[str, typer.Option("--from", help="hub or modelscope")] = "hub",
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit")] = None,
    kind: Annotated[str, typer.Option(help="model or dataset")] = "model",
) -> None:
    """Bring a model or a data set to a local folder, with its revision and the hash of every file."""
    from groundling.data.fetch import fetch

    _one_of("--from", origin, ("hub", "modelscope"))
    _one_of("--kind", kind, ("model", "dataset"))
    print(fetch(name, to, kind=kind, origin=origin, revision=revision))  # type: ignore[arg-type]


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise SettingsError(f"{option} {value!r}; expected {' or '.join(known)}")


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
        labels=_split(labels),
        link=link,
        limit=limit,
        shards=shards,
    )
    for note in done.notes:
        say(note)
    for file in done.files:
        print(file)
    general = sum(record.answer is not None for record in done.records)
    apart = f" ({general} of them general instructions, without places)" if general else ""
    say(f"{len(done.records)} records{apart}, {len(done.rejected)} rejected")
    if done.rejected:
        say(f"each with its reason: {out.with_suffix('.rejected.jsonl')}")
    if not done.records:
        reasons = f"; {out.with_suffix('.rejected.jsonl')} tells why" if done.rejected else ""
        raise RecordError(f"no record could be made of {source}{reasons}")


def _split(labels: str | None) -> list[str] | None:
    return None if labels is None else [label.strip() for label in labels.split(",")]


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
    allow_absolute: AllowAbsolute = False,
) -> None:
    """Write records or predictions in another tool's format, boxes in the frame that tool expects."""
    from groundling.data.export import export

    scan = _scan_records_or_predictions(records, images, allow_absolute)
    if not scan.records:
        reason = "".join(f"; the first: {bad.file}:{bad.line}: {bad.reason}" for bad in scan.rejected[:1])
        raise RecordError(f"nothing in {records} is a record or a prediction{reason}")
    done = export(
        scan.records,
        format,
        out,
        family=family,
        max_tokens=max_tokens,
        labels=_split(labels),
        one_based=one_based,
        url_prefix=url_prefix,
        like=like,
    )
    if done.written:
        print(done.file)
    rejected = [*scan.rejected, *done.rejected]
    say(f"{done.written} written, {len(rejected)} rejected")
    for bad in rejected[:10]:
        say(f"  {bad.file}:{bad.line}: {bad.reason}")
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


def check(
    records: Annotated[
        list[Path], typer.Argument(help="record files or folders of shards; of several, leaks between them too")
    ],
    recipe: Annotated[Path | None, typer.Option(help="judge at this recipe's budget")] = None,
    model: Annotated[str | None, typer.Option(help="judge at this model's budget")] = None,
    to: Annotated[Path | None, typer.Option(file_okay=False, help="folder for findings.jsonl and check.html")] = None,
    fix: Annotated[Path | None, typer.Option(help="file to write what can be mended to", metavar="OUT.jsonl")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="exit 1 for warnings too")] = False,
    allow_absolute: AllowAbsolute = False,
    max_file_pixels: MaxFilePixels = None,
    as_json: AsJson = False,
) -> None:
    """Tell what is wrong with data before a GPU-hour is spent on it."""
    import dataclasses

    from groundling.checking import examine_files
    from groundling.data.check_page import write_examination
    from groundling.data.check_summary import describe
    from groundling.data.mend import mend, refuse_place, write_mended
    from groundling.recipe import load_settings

    settings = None if recipe is None else load_settings(recipe)
    if fix is not None:
        refuse_place(fix, records)
    with progress_bar("pictures") as progress, nullcontext() if recipe is model is None else quiet_libraries():
        found = examine_files(
            records,
            settings=settings,
            model=model,
            allow_absolute=allow_absolute,
            max_pixels=max_file_pixels,
            progress=progress,
        )
    if to is not None:
        say("\n".join(str(file) for file in write_examination(found, to)))
    if fix is not None:
        mended = mend(found)
        write_mended(mended, fix, allow_absolute=allow_absolute)
        say(f"{fix}: {mended.summary}")
    print(json.dumps([dataclasses.asdict(each) for each in found.findings]) if as_json else describe(found))
    levels = {finding.level for finding in found.findings}
    if "error" in levels or (strict and "warning" in levels):
        raise typer.Exit(1)
