"""Checkpoints of a run: where they lie, which one to go on from, and when not to.

`checkpoints/<step>/` appears only once it is whole: it is written under another name and renamed last.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from groundling.errors import SettingsError
from groundling.settings import Settings

RECIPE_FILE = "recipe.yaml"
STATE_FILE = "trainer_state.json"  # transformers' own; written last into a checkpoint


def list_checkpoints(run: Path) -> list[Path]:
    """The whole checkpoints of a run folder, oldest first."""
    folder = run / "checkpoints"
    found = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    return sorted((path for path in found if (path / STATE_FILE).is_file()), key=lambda path: int(path.name))


def find_resume(settings: Settings) -> Path | None:
    """The checkpoint to go on from, None for a fresh start; SettingsError where neither would be right.

    `auto` goes on with an unfinished run of the same recipe. A finished run, another recipe, or a folder of other things
    is refused with what differs. `never` wants an empty folder; a path is gone on from as it is.
    """
    run, wish = settings.run.dir, settings.run.resume
    if wish not in ("auto", "never"):
        return _checked(Path(wish))
    if not run.exists() or not any(run.iterdir()):
        return None
    if wish == "never":
        raise SettingsError(f"run.resume is never, and {run} is not empty; choose another run.dir or empty it")
    recipe = run / RECIPE_FILE
    if not recipe.is_file():
        raise SettingsError(f"{run} is not empty and no run of groundling (no {RECIPE_FILE}); choose another run.dir")
    if differences := compare_recipes(yaml.safe_load(recipe.read_text(encoding="utf-8")), settings):
        shown = "\n".join(f"  {line}" for line in differences)
        raise SettingsError(f"{run} holds a run of another recipe; choose another run.dir, or the same settings:\n{shown}")
    if (run / "final").is_dir():
        raise SettingsError(f"{run} is finished: its weights are in {run / 'final'}; choose another run.dir to train anew")
    whole = list_checkpoints(run)
    return whole[-1] if whole else None


def compare_recipes(stored: Mapping[str, Any], settings: Settings) -> list[str]:
    """`key: stored, now other` for each setting that a run would not share with its own earlier part."""
    old, new = _flatten(stored), _flatten(yaml.safe_load(settings.to_yaml()))
    free = {"run.resume", "run.dir"}  # how and where, not what
    return [
        f"{key}: {old.get(key)!r} in {RECIPE_FILE}, now {new.get(key)!r}"
        for key in sorted({*old, *new} - free)
        if old.get(key) != new.get(key)
    ]


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    parts = [_flatten(inner, f"{prefix}.{key}" if prefix else str(key)) for key, inner in value.items()]
    return {key: found for part in parts for key, found in part.items()}


def _checked(checkpoint: Path) -> Path:
    if not (checkpoint / STATE_FILE).is_file():
        raise SettingsError(f"run.resume is {checkpoint}, which is no whole checkpoint: it has no {STATE_FILE}")
    return checkpoint
