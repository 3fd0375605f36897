"""Verbs about models: what one is, what it says, which coordinates it answers in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundling.cli.options import AsJson, FreeAnswers, MaxFilePixels, MaxNewTokens, ModelName, OtherBudget
from groundling.cli.screen import fail, progress_bar, quiet_libraries, say
from groundling.errors import SettingsError

if TYPE_CHECKING:
    from groundling.inference.predict import Grounder


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
        with quiet_libraries():
            from groundling.model.load import find_checkpoint

            found = find_checkpoint(model).contract.to_json()
    print(json.dumps(found, ensure_ascii=False) if as_json else machine.as_lines(found))


def _find_guide(model: str | None, size: str) -> dict[str, Any]:
    from groundling.geometry.frame import Frame

    width, _, height = size.partition("x")
    if model is None or not all(side.isdecimal() and int(side) for side in (width, height)):
        raise SettingsError(f"--guide {size!r} is of a model and a picture's size; expected MODEL --guide 640x480")
    original = Frame(int(width), int(height))
    with quiet_libraries():
        from groundling.inference.served import guide_for
        from groundling.model.load import find_checkpoint

        return guide_for(find_checkpoint(model).contract, original)


def predict(
    model: ModelName,
    images: Annotated[list[Path], typer.Argument(help="pictures, or folders of them", metavar="IMAGE...")],
    ask: Annotated[list[str], typer.Option(help="what to find; may be given several times")],
    draw: Annotated[Path | None, typer.Option(file_okay=False, help="folder for the pictures with boxes drawn")] = None,
    max_tokens: OtherBudget = None,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="leave out boxes that the model is less sure of")] = 0,
    nms: Annotated[
        float, typer.Option(min=0, max=1, help="leave out boxes that a surer one of their label overlaps by more (IoU)")
    ] = 1,
    max_new_tokens: MaxNewTokens = 512,
    free: FreeAnswers = False,
    max_file_pixels: MaxFilePixels = None,
    as_json: AsJson = False,
) -> None:
    """Ask about pictures; boxes come back in each picture's own upright pixels.

    A picture that cannot be read keeps none of the others from being answered: its questions have an `error` in place
    of boxes, stderr tells why, and the exit code is 1. One that is not there is wrong use, and nothing is asked.
    """
    with quiet_libraries():
        from groundling.geometry.images import MAX_PIXELS
        from groundling.inference.gallery import answer_pictures, find_pictures

        pictures = find_pictures(images)
        grounder = load_grounder(model, max_tokens)
        answers = answer_pictures(
            grounder,
            pictures,
            ask,
            draw=draw,
            least_score=min_score,
            most_overlap=nms,
            max_new_tokens=max_new_tokens,
            free=free,
            max_pixels=max_file_pixels or MAX_PIXELS,
        )
    if as_json:
        print(json.dumps([each.to_json() for each in answers.told], ensure_ascii=False))
    else:
        for each in answers.told:
            print(each)
    if answers.fault is not None:
        raise typer.Exit(fail(answers.fault, 1))


def calibrate(
    model: Annotated[str, typer.Argument(help="a model as for predict, or a server's address", metavar="MODEL|URL")],
    to: Annotated[
        Path | None, typer.Option(file_okay=False, help="folder for groundling.json; by default the model's own")
    ] = None,
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
    with quiet_libraries():
        from groundling.evaluation.calibrate import calibrate, calibrate_server
        from groundling.evaluation.calibration_text import describe, to_json

        with progress_bar("pictures") as progress:
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
        say(str(outcome.contract))
    if not outcome.is_good:
        raise typer.Exit(1)


def merge(
    run: Annotated[str, typer.Argument(help="run folder or adapter")],
    out: Annotated[Path, typer.Argument(help="folder for the merged checkpoint")],
) -> None:
    """Write a run as one plain bf16 checkpoint, and check that it answers as before."""
    with quiet_libraries():
        from groundling.inference.merge import merge
        from groundling.inference.predict import Question
        from groundling.tiny.scenes import sample_scenes

        asked = [Question(scene.picture, f"the {scene.objects[0].name}") for scene in sample_scenes(8)]
        done = merge(run, out, questions=asked)
    print(done.folder)
    say(f"{done.same} of {done.asked} sample answers are the same to the letter")


def demo(
    to: Annotated[
        Path, typer.Option(file_okay=False, help="folder for everything it makes, new or an earlier demo's")
    ] = Path("demo"),
) -> None:
    """Fine-tune the bundled tiny model on pictures it has never seen the like of, and show before and after."""
    with quiet_libraries():
        from groundling.tiny.demo import run_demo

        page = run_demo(to)
    print(page)


def load_grounder(model: str, max_tokens: int | None) -> Grounder:
    """A model by name, at another budget than its own where one is asked for."""
    from groundling.inference.predict import load

    grounder = load(model)
    return grounder if max_tokens is None else grounder.with_max_tokens(max_tokens)
