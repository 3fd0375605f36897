"""The command line: one verb, one function. What a verb needs is imported when it is called.

With `--json`, stdout is one JSON document and everything else goes to stderr. An error is one `error: ...` block. Exit
codes: 0 done, 1 error-level findings or a failed run, 2 wrong use, settings or a missing file, 75 a training that
SIGTERM stopped and the same command goes on with, 130 Ctrl-C.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from groundling.errors import GroundlingError, PreemptedError, RecordError, SettingsError, TrainingError

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
    logging.getLogger("groundling").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", "Corrupt EXIF")  # Pillow's; such a picture stays as it is stored
    try:
        code = app(standalone_mode=False)
    except _UsageError as error:
        code = _fail_use(error)
    except TrainingError as error:
        code = _fail(str(error), 1)
    except PreemptedError as error:
        code = _fail(str(error), 75)
    except GroundlingError as error:
        code = _fail(str(error), 2)
    except OSError as error:
        code = _fail(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), 2)
    except (KeyboardInterrupt, typer.Abort) as error:
        code = _fail(str(error) or "interrupted", 130)
    sys.exit(code if isinstance(code, int) else 0)


def _fail_use(error: Any) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":  # `groundling` alone: its message is the help
        print(error.format_message(), file=sys.stderr)
        return 2
    return _fail(f"{error.format_message()}\nTry `{_help_line(error)}`.", 2)


def _fail(message: str, code: int) -> int:
    if _is_speaker():
        print(f"error: {message}", file=sys.stderr)
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
    records: Annotated[Path, typer.Argument(help="record file, predictions.jsonl, or what predict --json printed")],
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
    from groundling.data.record import scan_records

    if holds_predictions(file):
        return scan_predictions(file, images=images)
    if images is not None:
        raise SettingsError(f"{file} holds records, which say where their pictures are; leave --images out")
    return scan_records(file, allow_absolute=allow_absolute)


@app.command()
def check(
    records: Annotated[list[Path], typer.Argument(help="record files; of several, leaks between them too")],
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
    from groundling.settings import load_settings

    settings, name = load_settings(recipe, overrides or []), Path(recipe).stem
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


# ---- models ----------------------------------------------------------------------------------------------------


@app.command()
def info(
    model: Annotated[str | None, typer.Argument(help="tell the contract of this model")] = None, as_json: AsJson = False
) -> None:
    """Versions, devices and extras; or the contract of a model."""
    from groundling import info as machine

    if model is None:
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
    from groundling.settings import load_settings

    load_settings(recipe, overrides or [])  # every mistake in a recipe is told before torch is loaded
    _tell_notes(recipe)
    with _quiet_libraries():
        from groundling.training.train import train

        try:
            run = train(recipe, *(overrides or []))
        except KeyboardInterrupt as interrupt:  # typer would drop what it says
            raise typer.Exit(_fail(str(interrupt) or "interrupted", 130)) from None
    if _is_speaker():
        print(run)


@app.command()
def evaluate(
    model: ModelName,
    records: Annotated[Path, typer.Argument(help="record file")],
    to: Annotated[Path | None, typer.Option(help="folder of the report")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="another budget of visual tokens than it was trained with")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="questions answered at once")] = 16,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="tokens of one answer, at most")] = 512,
    free: FreeAnswers = False,
    allow_absolute: Annotated[bool, typer.Option("--allow-absolute", help="pictures may have absolute paths")] = False,
    max_file_pixels: MaxFilePixels = None,
    as_json: AsJson = False,
) -> None:
    """Ask a model every question of a record file and score its boxes."""
    from groundling.data.check import check, usable
    from groundling.data.record import scan_records
    from groundling.geometry.images import MAX_PIXELS

    limit = max_file_pixels or MAX_PIXELS
    scan = scan_records(records, allow_absolute=allow_absolute)
    kept = usable(scan.records, check(scan.records, max_pixels=limit))
    set_aside = len(scan.records) + len(scan.rejected) - len(kept)
    if set_aside:
        _say(f"{set_aside} records cannot be used and are left out; `groundling check {records}` tells why")
    general = sum(record.answer is not None for record in kept)
    if general:
        _say(f"{general} records are general instructions, without boxes to score, and are left out")
    if general == len(kept):
        raise RecordError(f"no record of {records} can be scored")
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
                progress=progress,
            )
    print(json.dumps(report_to_json(report), ensure_ascii=False) if as_json else _describe_scores(report))
    _say(str(folder / "report.html"))


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="report folder")],
    after: Annotated[Path, typer.Argument(help="report folder")],
    to: Annotated[Path | None, typer.Option(help="folder for comparison.json and comparison.html")] = None,
    as_json: AsJson = False,
) -> None:
    """Tell whether one model is better than another, question by question."""
    from groundling.evaluation.compare import compare, comparison_to_json, write_comparison
    from groundling.evaluation.report import read_report

    found = compare(read_report(before), read_report(after))
    if to is not None:
        write_comparison(found, to)
        _say(str(to / "comparison.html"))
    if found.warning:
        _say(f"warning: {found.warning}")
    print(json.dumps(comparison_to_json(found), ensure_ascii=False) if as_json else _describe_changes(found))


@app.command()
def predict(
    model: ModelName,
    images: Annotated[list[Path], typer.Argument(help="pictures, or folders of them", metavar="IMAGE...")],
    ask: Annotated[list[str], typer.Option(help="what to find; may be given several times")],
    draw: Annotated[Path | None, typer.Option(help="folder for the pictures with boxes drawn")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="another budget of visual tokens than it was trained with")
    ] = None,
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
        limit = max_file_pixels or MAX_PIXELS
        answers = answer_pictures(grounder, pictures, ask, draw=draw, free=free, max_pixels=limit)
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


def _load(model: str, max_tokens: int | None) -> Any:
    from groundling.inference.predict import load

    grounder = load(model)
    return grounder if max_tokens is None else grounder.with_max_tokens(max_tokens)


def _describe_scores(report: Any) -> str:
    lines = [f"{'metric':12} {'value':>7}  95 % interval"]
    for name, value in report.metrics.items():
        if value == value:  # NaN: applies to no record
            low, high = report.ci95[name]
            interval = f"{low:.3f} to {high:.3f}" if low == low else "none from one picture"
            lines.append(f"{name:12} {value:7.3f}  {interval}")
    for name, scores in report.scores.baselines.items():
        lines.append(f"{name + ' box':12} {scores['acc@0.5']:7.3f}  acc@0.5 of a model that sees nothing")
    return "\n".join([*lines, f"{report.scores.n} questions"])


def _describe_changes(found: Any) -> str:
    lines = [f"{'metric':12} {'before':>7} {'after':>7} {'change':>7}  95 % interval      p"]
    for name, change in found.metrics.items():
        if change.before == change.before:
            low, high = change.ci95
            numbers = f"{change.before:7.3f} {change.after:7.3f} {change.difference:+7.3f}"
            lines.append(f"{name:12} {numbers}  {low:+.3f} to {high:+.3f}  {change.p:.4f}")
    return "\n".join([*lines, found.verdict])


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise SettingsError(f"{option} {value!r}; expected {' or '.join(known)}")


def _say(line: str) -> None:
    print(line, file=sys.stderr)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep the libraries' own bars and hints off the screen while a model is at work."""
    from transformers.utils import logging as libraries

    libraries.disable_progress_bar()
    libraries.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Something to call with (done, of how many): a bar with the time left on a terminal, silence elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
