"""Checkpoints of a run: where they lie, which one to go on from, and when not to.

`checkpoints/<step>/`, `best/` and `final/` appear only once they are whole: each is written under another name, sealed
with a manifest, and renamed last. What a killed run leaves under such a name is never read, and swept away when the run
goes on. A checkpoint that is no longer as its manifest says is passed over for an older one, never deleted.
"""

from __future__ import annotations

import json
import logging
import math
import pickle
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState

from groundling.errors import GroundlingError, SettingsError
from groundling.evaluation.lock import LOCK_FILE
from groundling.model.load import WANTED_FILES
from groundling.recipe import load_settings
from groundling.settings import Settings
from groundling.training.disk import PARTIAL, sync
from groundling.training.manifest import MANIFEST_FILE, find_damage, write_manifest

RECIPE_FILE = "recipe.yaml"
STATE_FILE = "trainer_state.json"  # transformers' own
SAMPLE_FILE = "test-sample.json"  # what tells the test records that a checkpoint's scores are of from others
_FORMER = f"-former{PARTIAL}"  # ends the name of a whole folder while another one takes its place

_CHANGES_NOTHING = (
    "run.",
    "track",
    "train.workers",
    "evaluate.batch_size",
    "launch.",
)  # settings that decide what is kept, not what is learned
_IN_STATE = (
    "tune.method",
    "tune.freeze",
    "tune.lora.rank",
    "tune.lora.alpha",
    "tune.lora.parts",
    "train.learning_rate",
    "train.weight_decay",
    "trainer.optim",
    "trainer.adam_",
)  # settings that an optimizer's state has in it: by others it would not fit, or they would have no effect
_ADAMW = (None, "adamw_torch", "adamw_torch_fused")  # of trainer.optim; None is one of the others, all of one state

log = logging.getLogger(__name__)


# ---- what lies where -------------------------------------------------------------------------------------------


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run folder, oldest first; a file that one has lost makes it damaged, not unseen."""
    folder = run / "checkpoints"
    found = [path for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []
    return sorted((path for path in found if _is_checkpoint(path)), key=lambda path: int(path.name))


def _is_checkpoint(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (STATE_FILE, MANIFEST_FILE))


def describe_last(run: Path, what: str) -> str:
    """Which checkpoint there is to go on from; `what` it is called."""
    whole = list_checkpoints(run)
    return f"the last {what} is {whole[-1]}" if whole else "no checkpoint had been written yet"


def tell_way_on(run: Path) -> str:
    """Which checkpoint the same command goes on from, or that there is none."""
    whole = list_checkpoints(run)
    if not whole:
        return "no checkpoint had been written yet, so the same command begins anew"
    return f"the last checkpoint is {whole[-1]}, and the same command goes on from it"


def read_step(checkpoint: Path) -> int:
    """How many optimizer steps a checkpoint has behind it."""
    return int(_read_state(checkpoint)["global_step"])


def is_at_end(checkpoint: Path, settings: Settings) -> bool:
    """Whether nothing is left to train: all steps are done, or no score got better for as long as the recipe waits.

    How many steps a named checkpoint's new recipe has is told by its epochs only when its records are at hand.
    """
    if owes_evaluation(checkpoint, settings):
        return False
    state, patience = _read_state(checkpoint), settings.evaluate.patience
    if state["global_step"] >= _steps_known(checkpoint, settings, state):
        return True
    waited = evaluations_since_best(state["log_history"], settings.evaluate.metric)
    return patience is not None and waited >= patience and not is_foreign(checkpoint, settings.run.dir)


def owes_evaluation(checkpoint: Path, settings: Settings) -> bool:
    """Whether an evaluation was due at the checkpoint's step and is not in it, as the run was asked to stop first."""
    state, every = _read_state(checkpoint), settings.evaluate.every
    step = state["global_step"]
    if not every or (step % every and step < _steps_known(checkpoint, settings, state)):
        return False
    return not any(
        line["step"] == step and any(name.startswith("eval_") for name in line) for line in state["log_history"]
    )


def _steps_known(checkpoint: Path, settings: Settings, state: dict[str, Any]) -> float:
    """Of the whole run, infinitely many where only its records tell."""
    return settings.train.max_steps or (math.inf if _is_named(checkpoint, settings) else state["max_steps"])


def has_scores(checkpoint: Path) -> bool:
    """Whether it was measured on the way to a checkpoint."""
    return any(name.startswith("eval_") for line in _read_state(checkpoint)["log_history"] for name in line)


def evaluations_since_best(log_history: list[dict[str, Any]], metric: str) -> int:
    """How many evaluations came after the first one with the highest score; 0 where that is the last, or there is none.

    `log_history` is that of transformers' TrainerState, which every checkpoint carries.
    """
    scores = [line[f"eval_{metric}"] for line in log_history if f"eval_{metric}" in line]
    return len(scores) - 1 - scores.index(max(scores)) if scores else 0


# ---- going on --------------------------------------------------------------------------------------------------


def names_checkpoint(settings: Settings) -> bool:
    """Whether the recipe itself says which checkpoint to go on from; by it another recipe may, too."""
    return settings.run.resume not in ("auto", "never")


def is_foreign(checkpoint: Path, run: Path) -> bool:
    """Whether another run wrote it: the one that begins with it has scores, and best weights, of its own.

    A checkpoint of a run may be a link to another disk, and be named by a link.
    """
    return checkpoint.resolve() not in (path.resolve() for path in list_checkpoints(run))


def _is_named(checkpoint: Path, settings: Settings) -> bool:
    return names_checkpoint(settings) and checkpoint.resolve() == Path(settings.run.resume).resolve()


def find_resume(settings: Settings) -> Path | None:
    """The checkpoint to go on from, None for a fresh start; SettingsError where neither would be right.

    `auto` goes on with an unfinished run of the same recipe. A finished run, another recipe, or a folder of other
    things is refused with what differs; a run that has kept no weights yet starts again, by whatever recipe. `never`
    wants an empty folder. A checkpoint's path is gone on from by another recipe too, as far as the optimizer's state
    fits it, in its own run folder or in an empty one; the same command again goes on with the run that it began.
    """
    run, wish = settings.run.dir, settings.run.resume
    is_empty = not run.exists() or not any(path.name != LOCK_FILE for path in run.iterdir())
    if names_checkpoint(settings):
        return _chosen(Path(wish), settings, is_empty=is_empty)
    if is_empty:
        return None
    if wish == "never":
        raise SettingsError(f"run.resume is never, and {run} is not empty; choose another run.dir or empty it")
    if not (run / RECIPE_FILE).is_file():
        raise SettingsError(f"{run} is not empty and no run of groundling (no {RECIPE_FILE}); choose another run.dir")
    return _find_newest(settings)


def _find_newest(settings: Settings) -> Path | None:
    """The newest checkpoint of a run folder, None where there is none yet; SettingsError as `find_resume` with auto."""
    run = settings.run.dir
    whole = list_checkpoints(run)
    if not whole and not any((run / kept).is_dir() for kept in ("best", "final")):
        return None
    _refuse_other_recipe(run, settings)
    has_report = _has_report(run) or not settings.data.test
    if has_report or not whole:
        _refuse_finished(run)
    if not whole:
        return None
    newest = _find_undamaged(whole)
    _refuse_incomplete(newest)
    _refuse_other_count(newest)
    return newest


def _has_report(run: Path) -> bool:
    """Whether the report is there to its last byte: its numbers are written last."""
    try:
        json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def _find_undamaged(checkpoints: Sequence[Path]) -> Path:
    """The newest checkpoint that is as it was written. SettingsError where none is: too much to lose unasked."""
    told: list[str] = []
    for checkpoint in reversed(checkpoints):
        damage = _find_damage(checkpoint)
        if damage is None:
            for line in told:
                log.warning("%s; the run goes on from %s, and the damaged one is set aside", line, checkpoint)
            return checkpoint
        told.append(f"{checkpoint} is damaged: {damage}")
    raise SettingsError(
        "\n".join(told)
        + "\nNo checkpoint is left to go on from; move them away to begin anew, or choose another run.dir"
    )


def _find_damage(checkpoint: Path) -> str | None:
    """What of a checkpoint is not as it was written; one from before there were manifests has to be readable.

    Where others of its run are sealed, one without a manifest has lost it.
    """
    if (checkpoint / MANIFEST_FILE).is_file():
        return find_damage(checkpoint)
    if any(checkpoint.parent.glob(f"*/{MANIFEST_FILE}")):
        return f"its {MANIFEST_FILE} is missing, and others of its run have theirs"
    try:
        lost = sorted({"global_step", "max_steps", "log_history"} - _read_state(checkpoint).keys())
    except (OSError, ValueError, AttributeError) as error:
        return f"its {STATE_FILE} cannot be read ({type(error).__name__}: {error})"
    return f"its {STATE_FILE} lacks {', '.join(lost)}" if lost else None


def _chosen(checkpoint: Path, settings: Settings, *, is_empty: bool) -> Path:
    """The checkpoint that the recipe names; SettingsError where it is none, or something else is in its way.

    Where the same command began the run already, the newest one that it has written since.
    """
    run = settings.run.dir
    has_begun = not is_empty and _has_begun_from(checkpoint, settings)
    if has_begun and (newest := _find_newest(settings)):
        return newest
    if not checkpoint.is_dir():
        raise SettingsError(f"run.resume is {checkpoint}, no folder; expected auto, never or a checkpoint's folder")
    if not _is_checkpoint(checkpoint):
        raise SettingsError(f"run.resume is {checkpoint}, which is no whole checkpoint: it has no {STATE_FILE}")
    if damage := _find_damage(checkpoint):
        raise SettingsError(f"run.resume is {checkpoint}, which is damaged: {damage}; choose an earlier one")
    _refuse_incomplete(checkpoint)
    _refuse_other_state(checkpoint, settings)
    refuse_past_end(checkpoint, settings.train.max_steps)
    if is_empty or has_begun:
        return checkpoint
    _refuse_finished(run)
    later = [path for path in list_checkpoints(run) if int(path.name) > read_step(checkpoint)]
    if is_foreign(checkpoint, run):
        raise SettingsError(
            f"run.resume is {checkpoint}, of another run than {run}; choose an empty run.dir to go on in"
        )
    if later:
        shown = ", ".join(path.name for path in later)
        raise SettingsError(
            f"run.resume is {checkpoint}, and {run} has later ones: {shown}; "
            "move them away, or go on in another run.dir"
        )
    return checkpoint


def _has_begun_from(checkpoint: Path, settings: Settings) -> bool:
    """Whether the run folder is of this very recipe, and its newest checkpoint not the named one itself."""
    run = settings.run.dir
    is_newest = any(path.resolve() == checkpoint.resolve() for path in list_checkpoints(run)[-1:])
    if is_newest or not (run / RECIPE_FILE).is_file():
        return False
    stored = _read_recipe(run)
    return stored.run.resume == settings.run.resume and not compare_recipes(stored, settings)


def _refuse_incomplete(checkpoint: Path) -> None:
    """SettingsError where the state of optimizer, schedule or chance is gone: what went on would be another run."""
    kinds = {
        "the optimizer's state": ("optimizer*", "global_step*"),  # the latter is DeepSpeed's
        "the schedule's state": ("scheduler.pt", "global_step*"),
        "the random states": ("rng_state*.pth",),
    }
    lost = [what for what, patterns in kinds.items() if not any(any(checkpoint.glob(each)) for each in patterns)]
    if lost:
        raise SettingsError(
            f"{checkpoint} lacks {' and '.join(lost)}, so the run cannot go on from it as it was; "
            f"remove that folder to go on from an earlier one, or start a new run from its weights "
            f"(model.name={checkpoint})"
        )


def _refuse_other_count(checkpoint: Path) -> None:
    """SettingsError where as many processes as now would not see the batches that the run began with."""
    before, now = len(list(checkpoint.glob("rng_state*.pth"))), PartialState().num_processes
    if before != now:
        is_in_pieces = any(checkpoint.glob("global_step*"))  # which DeepSpeed deals to no other number
        by_name = f"name the checkpoint (run.resume={checkpoint}) and another run.dir"
        way = f"start a new run from its weights (model.name={checkpoint})" if is_in_pieces else by_name
        raise SettingsError(
            f"{checkpoint} was written by {before} processes, and now there are {now}: a step would see other records; "
            f"launch as many as before, or {way}"
        )


def _refuse_finished(run: Path) -> None:
    if (run / "final").is_dir():
        raise SettingsError(
            f"{run} is finished: its weights are in {run / 'final'}; choose another run.dir to train anew"
        )


def _refuse_other_state(checkpoint: Path, settings: Settings) -> None:
    """SettingsError where the optimizer's state is by other settings than the recipe's.

    The checkpoint holds the recipe that it is by, or, of before 2026-11-28, its run folder does.
    """
    places = (checkpoint, checkpoint.absolute().parent.parent)
    told = next((folder for folder in places if (folder / RECIPE_FILE).is_file()), None)
    if told is None:
        return
    stored = _read_recipe(told)
    differing = [line for line in compare_recipes(stored, settings) if line.startswith(_IN_STATE)]
    if all(recipe.trainer.get("optim") in _ADAMW for recipe in (stored, settings)):
        differing = [line for line in differing if not line.startswith("trainer.optim:")]
    if differing:
        shown = "\n".join(f"  {line}" for line in differing)
        raise SettingsError(
            f"run.resume is {checkpoint}, whose optimizer's state is by other settings; go on with the same, or start "
            f"a new run from its weights (model.name={checkpoint}):\n{shown}"
        )


def refuse_past_end(checkpoint: Path, steps: int | None) -> None:
    """SettingsError where a recipe has fewer steps than are done; None where they are not known yet."""
    done = read_step(checkpoint)
    if steps is not None and done > steps:
        raise SettingsError(
            f"run.resume is {checkpoint}, of {done} steps, and the recipe has {steps}: nothing would be trained; raise "
            f"train.max_steps or train.epochs, or `groundling evaluate {checkpoint}`"
        )


def _read_recipe(run: Path) -> Settings:
    """The recipe that a run began with. SettingsError where it cannot be read any more."""
    file = run / RECIPE_FILE
    try:
        return load_settings(file)
    except (GroundlingError, OSError) as error:
        told = str(error) if file.stat().st_size else "it is empty"
        raise SettingsError(
            f"{file} is damaged, or of another version of groundling, so {run} cannot be gone on with: put back the "
            f"recipe that the run began with, or choose another run.dir\n{told}"
        ) from None


def _refuse_other_recipe(run: Path, settings: Settings) -> None:
    stored = _read_recipe(run)
    if differences := compare_recipes(stored, settings):
        shown = "\n".join(f"  {line}" for line in differences)
        raise SettingsError(
            f"{run} holds a run of another recipe; choose another run.dir, or the same settings:\n{shown}"
        )


def compare_recipes(stored: Settings, settings: Settings) -> list[str]:
    """`key: was, now other` for each setting that a run would not share with its own earlier part."""
    old, new = (_flatten(yaml.safe_load(recipe.to_yaml())) for recipe in (stored, settings))
    return [
        f"{key}: {old.get(key)!r} in {RECIPE_FILE}, now {new.get(key)!r}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and not key.startswith(_CHANGES_NOTHING)
    ]


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Every setting by its dotted name."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    parts = [_flatten(inner, f"{prefix}.{key}" if prefix else str(key)) for key, inner in value.items()]
    return {key: found for part in parts for key, found in part.items()}


def _read_state(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))


@contextmanager
def explain_unreadable(checkpoint: str | None) -> Iterator[None]:
    """A state that cannot be read back, or fits no training by the recipe, becomes a SettingsError.

    (One of a sealed checkpoint is as it was written.)
    """
    try:
        yield
    except (ValueError, KeyError) as error:
        raise SettingsError(
            f"{checkpoint}: its state does not fit this recipe ({error}); go on with the settings that it was trained "
            f"by, or start a new run from its weights (model.name={checkpoint})"
        ) from error
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        is_full = isinstance(error, torch.OutOfMemoryError)
        if is_full or checkpoint is None or (Path(checkpoint) / MANIFEST_FILE).is_file():
            raise
        raise SettingsError(
            f"{checkpoint} is damaged: a state in it cannot be read ({type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]}); move it away to go on from an earlier one"
        ) from error


# ---- writing ---------------------------------------------------------------------------------------------------


def partial_name(folder: Path) -> Path:
    """Where a folder is written until it is whole."""
    return folder.with_name(folder.name + PARTIAL)


def put_in_place(partial: Path, folder: Path) -> None:
    """Seal a folder that is whole now and give it its name; one that had the name before is gone afterwards.

    A process that ends between the two renames leaves both under other names: `put_back_former` gives the former its
    own back.
    """
    write_manifest(partial)
    former = folder.with_name(folder.name + _FORMER)
    if folder.exists():
        shutil.rmtree(former, ignore_errors=True)
        folder.rename(former)
    partial.rename(folder)
    sync(folder.parent)
    shutil.rmtree(former, ignore_errors=True)


def drop_old_checkpoints(run: Path, *, keep: int) -> None:
    """Remove all but the newest checkpoints."""
    for old in list_checkpoints(run)[:-keep]:
        shutil.rmtree(partial_name(old), ignore_errors=True)
        _remove(old.rename(partial_name(old)))  # never half there under its own name


def put_back_former(run: Path) -> None:
    """Give the whole folders back their names that a killed run had taken for others, which never got there."""
    for former in list_former(run):
        former.rename(own_name(former))


def list_former(run: Path) -> list[Path]:
    """The whole folders that lost their names to others, which never got there."""
    left = [*run.glob(f"*{_FORMER}"), *run.glob(f"checkpoints/*{_FORMER}")]
    return [former for former in left if not own_name(former).exists()]


def own_name(former: Path) -> Path:
    """The name that a folder had before another one took its place."""
    return former.with_name(former.name.removesuffix(_FORMER))


def sweep_partial(run: Path) -> None:
    """Remove what a killed run was still writing, or removing."""
    for path in list_unfinished(run):
        _remove(path)


def list_unfinished(run: Path) -> list[Path]:
    """What a killed run was still writing, or removing, and what stands in its place is there."""
    left = [*run.glob(f"*{PARTIAL}"), *run.glob(f"checkpoints/*{PARTIAL}"), *run.glob("checkpoints/checkpoint-*")]
    return [path for path in left if not path.name.endswith(_FORMER) or own_name(path).exists()]


def _remove(path: Path) -> None:
    """Of a link, the link alone."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def set_damaged_aside(run: Path, resume: Path) -> None:
    """Rename the checkpoints that were passed over for the one that is gone on from, so that nothing counts on them."""
    for later in list_passed_over(run, resume):
        names = (later.with_name(f"{later.name}.damaged{number or ''}") for number in count())
        later.rename(next(name for name in names if not name.exists()))


def list_passed_over(run: Path, resume: Path) -> list[Path]:
    """The checkpoints of a run that are newer than the one that is gone on from, for they are damaged."""
    return [
        path for path in list_checkpoints(run) if path.parent == resume.parent and int(path.name) > read_step(resume)
    ]


def copy_model(checkpoint: Path, folder: Path) -> None:
    """A checkpoint's weights, processor and contract in a new folder, without the state of its training."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for pattern in WANTED_FILES:
        for file in checkpoint.glob(pattern):
            if file.name not in (STATE_FILE, SAMPLE_FILE, MANIFEST_FILE):
                shutil.copy2(file, folder)
