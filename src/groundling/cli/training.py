"""Verbs about recipes: see what one will do, reckon what it takes, train by it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundling.cli.options import AsJson, Overrides, RecipeName
from groundling.cli.screen import fail, is_speaker, progress_bar, quiet_libraries, say
from groundling.errors import PREEMPTED, SettingsError

if TYPE_CHECKING:
    from groundling.recipe import Recipe
    from groundling.settings import Settings


def preview(
    recipe: RecipeName,
    overrides: Overrides = None,
    samples: Annotated[int, typer.Option("-n", "--samples", min=1, help="how many to show")] = 8,
    to: Annotated[
        Path | None, typer.Option(file_okay=False, help="folder for preview.html; previews/<recipe> by default")
    ] = None,
) -> None:
    """Show what a model will see and learn by a recipe: pictures, prompts, answers, token by token."""
    written, settings = _read(recipe, overrides or [])
    name = Path(recipe).stem
    folder = to or Path("previews") / name
    _tell_notes(written)
    with quiet_libraries():
        from rich.console import Console

        from groundling.training.preview import build_preview, refuse_run_folder, write_preview
        from groundling.training.preview_text import print_preview

        refuse_run_folder(folder, settings)
        with progress_bar("pictures") as progress:
            found = build_preview(settings, name=name, samples=samples, progress=progress)
    page = write_preview(found, folder)
    print_preview(found, Console(highlight=False))
    say(str(page))


def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
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
    from groundling.training.scripts import refuse_foreign_files

    if samples_per_second is not None and tokens_per_second is not None:
        raise SettingsError("--samples-per-second and --tokens-per-second say the same thing; give one")
    refuse_foreign_files(slurm, sky)
    given = (recipe, overrides or [])
    written, settings = _read(*given)
    name = Path(recipe).stem
    _tell_notes(written)
    with quiet_libraries():
        from groundling.training.memory import GIB
        from groundling.training.plan import Rate, build_plan
        from groundling.training.plan_text import describe_plan

        found = build_plan(
            settings,
            name=name,
            recipe=recipe,
            overrides=overrides or [],
            device_bytes=None if gpu_memory is None else round(gpu_memory * GIB),
            rate=Rate(samples_per_second, tokens_per_second),
        )
    print(json.dumps(found.to_json(), ensure_ascii=False) if as_json else describe_plan(found))
    if slurm is not None:
        _write_slurm(slurm, settings, given, name=name, checkpoint=found.disk.checkpoint)
    if sky is not None:
        _write_sky(sky, settings, given, name=name, accelerator=accelerator)


def _write_slurm(file: Path, settings: Settings, given: tuple[str, list[str]], *, name: str, checkpoint: int) -> None:
    from groundling.training.launch import seconds_to_save
    from groundling.training.scripts import slurm_script

    script = slurm_script(settings.launch, *given, name=name, seconds=seconds_to_save(checkpoint))
    file.write_text(script, encoding="utf-8")
    say(str(file))


def _write_sky(file: Path, settings: Settings, given: tuple[str, list[str]], *, name: str, accelerator: str) -> None:
    from groundling.training.scripts import sky_task

    task = sky_task(settings, *given, name=name, accelerator=accelerator)
    file.write_text(task.text, encoding="utf-8")
    for note in task.notes:
        say(f"note: {note}")
    say(str(file))


def train(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Tune a model as a recipe says."""
    from groundling.training.stop import leaving_at_once

    with leaving_at_once(lambda: fail("stopped by SIGTERM before it began; the same command starts it", PREEMPTED)):
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
        seconds_to_save,
        start,
    )

    end_with_launcher()
    written, settings = _read(recipe, overrides)
    if needs_launcher(settings.launch):
        asked = (settings.launch, [recipe, *overrides], find_meeting(settings.launch))
        refuse_impossible_start(settings.launch)
        say(f"starting: {shlex.join(launch_command(*asked))}")
        raise typer.Exit(start(*asked, seconds=seconds_to_save(_checkpoint_bytes(settings))))
    refuse_other_number(settings.launch)
    _tell_notes(written)
    with quiet_libraries():
        from groundling.training.train import train_by

        try:
            run = train_by(settings)
        except KeyboardInterrupt as interrupt:  # typer would drop what it says
            raise typer.Exit(fail(str(interrupt) or "interrupted", 130)) from None
        except RuntimeError as error:
            if not has_lost_peer(error):
                raise
            if is_speaker():
                say("another process has ended, and this one with it")
            raise typer.Exit(1) from None  # told to the launcher by the other one
    if is_speaker():
        print(run)


def _checkpoint_bytes(settings: Settings) -> int:
    with quiet_libraries():
        from groundling.training.space import find_sizes

        return find_sizes(settings, engine=settings.launch.engine or "ddp", has_gpu=True).checkpoint


def _read(recipe: str, overrides: list[str]) -> tuple[Recipe, Settings]:
    """A recipe as written, and its settings, which may be printed and kept; every mistake is told without torch."""
    from groundling.recipe import read_recipe, resolve_recipe
    from groundling.training.secrets import refuse_secrets

    written = read_recipe(recipe)
    settings = resolve_recipe(written, overrides)
    refuse_secrets(settings)
    return written, settings


def _tell_notes(written: Recipe) -> None:
    """What of a recipe has no effect here, on stderr."""
    if is_speaker():
        for note in written.notes:
            say(f"note: {note}")
