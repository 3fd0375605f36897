"""Scripts that start a training on machines that SLURM or SkyPilot lends: `groundling train` once on each of them.

Nothing is started here, and no script holds a secret.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from groundling.errors import SettingsError
from groundling.settings import Launch, Settings

CORES_A_GPU = 8  # of which four load pictures
_OURS = "# Written by `groundling plan`, which may write it anew."

_SLURM = """\
#!/bin/bash
{ours}
#SBATCH --job-name={name}
#SBATCH --nodes={machines}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus}
#SBATCH --cpus-per-task={cores}
#SBATCH --time={time}
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@{seconds}
#SBATCH --requeue

# {seconds} seconds before its time is up, or when the job is preempted, the training is told to stop: it writes a
# checkpoint and ends with code 75; the job is then queued again, and goes on from there. Add your site's partition,
# account and environment.
set -u
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT

srun --kill-on-bad-exit=1 bash -c {command} &
step=$!
stopped=0
stop() {{
    stopped=1
    kill -TERM "$step" # srun hands it on
}}
trap stop TERM
wait "$step"
code=$?
if [ "$stopped" -eq 1 ]; then # the signal has ended the wait, not the training
    wait "$step"
    code=$?
fi
if [ "$code" -eq 75 ] || {{ [ "$code" -ne 0 ] && [ "$stopped" -eq 1 ]; }}; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def start_command(launch: Launch, recipe: str, overrides: Sequence[str]) -> str:
    """The line that starts the training; of several machines, the one for the first."""
    where = "" if launch.machines == 1 else "NODE_RANK=0 MASTER_ADDR=FIRST_MACHINE "
    return f"{where}groundling {train_command(recipe, overrides)}"


def train_command(recipe: str, overrides: Sequence[str]) -> str:
    """What is run on each machine, behind `groundling`."""
    return shlex.join(["train", recipe, *overrides])


def slurm_script(
    launch: Launch, recipe: str, overrides: Sequence[str] = (), *, name: str, seconds: int, time: str = "24:00:00"
) -> str:
    """A script for sbatch: asks for the machines, starts the training on all of them, and queues itself again.

    `seconds` are those that the training gets to save in.
    """
    gpus = launch.processes or 1
    command = f"NODE_RANK=$SLURM_NODEID exec groundling {train_command(recipe, overrides)}"
    return _SLURM.format(
        ours=_OURS,
        seconds=seconds,
        name=_plain(name),
        machines=launch.machines,
        gpus=gpus,
        cores=CORES_A_GPU * gpus,
        time=time,
        command=shlex.quote(command),
    )


class Task(NamedTuple):
    """A SkyPilot task in YAML, and what is not on the machines that it will run on."""

    text: str
    notes: list[str]


def sky_task(settings: Settings, recipe: str, overrides: Sequence[str] = (), *, name: str, accelerator: str) -> Task:
    """For `sky launch` and, as it goes on with an unfinished run, `sky jobs launch`.

    The current folder goes along: what lies in it is named from there, and what does not is noted.
    """
    launch, here = settings.launch, Path.cwd()
    moved = _move(settings, overrides, here)
    where = 'export NODE_RANK=$SKYPILOT_NODE_RANK MASTER_ADDR=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)'
    task = {
        "name": _plain(name),
        "resources": {
            "accelerators": f"{accelerator}:{launch.processes or 1}",
            "use_spot": False,
            "job_recovery": {"max_restarts_on_errors": 3},
        },
        "num_nodes": launch.machines,
        "workdir": ".",
        "setup": _Block(f'pip install "groundling{_extras(settings)}"\n'),
        "run": _Block(f"{where}\ngroundling {train_command(_from_here(recipe, here), moved)}\n"),
    }
    notes = [
        f"{key} is {place}, outside of this folder, so it is not on the cloud's machines: move it here, or mount it "
        "there (file_mounts)"
        for key, place in [("the recipe", recipe), *_places(settings)]
        if _is_outside(_from_here(place, here))
    ]
    comment = (
        "The work folder goes along, with recipe and records. A managed job (sky jobs launch) that loses its",
        "machines begins again on others; for it to go on, mount a bucket over "
        f"{_from_here(str(settings.run.dir), here)} (file_mounts).",
        *(f"Note: {note}." for note in notes),
    )
    head = "".join(f"{line}\n" for line in (_OURS, *(f"# {line}" for line in comment)))
    return Task(head + yaml.dump(task, Dumper=_Dumper, sort_keys=False, width=1000), notes)


def _extras(settings: Settings) -> str:
    """What of groundling is installed beside its core, as pip takes it."""
    needs_4_bits = settings.tune.method == "qlora" or _OF_BITSANDBYTES.match(str(settings.trainer.get("optim", "")))
    wanted = {"deepspeed": settings.launch.has_deepspeed, "qlora": needs_4_bits, "gpu": settings.train.liger}
    extras = [name for name, is_wanted in wanted.items() if is_wanted] + list(settings.track)
    return f"[{','.join(extras)}]" if extras else ""


_OF_BITSANDBYTES = re.compile(r"(?!adamw_torch).*(8bit|bnb|paged)")  # optimizers of transformers' TrainingArguments


def _places(settings: Settings) -> Iterator[tuple[str, str]]:
    """What a recipe names on this machine's disk, by its setting."""
    yield "model.name", settings.model.name
    yield from (("data.train", str(source.path)) for source in settings.data.train)
    yield from (("data.test", str(path)) for path in settings.data.test)
    yield "evaluate.guard", settings.evaluate.guard or ""
    yield "run.dir", str(settings.run.dir)
    yield "run.resume", settings.run.resume


def _move(settings: Settings, overrides: Sequence[str], here: Path) -> list[str]:
    """The overrides, with those that name from `here` what is named by an absolute path and lies below it."""
    values = settings.model_dump(mode="json")
    moved: list[str] = []
    for key in dict.fromkeys(key for key, place in _places(settings) if place != _from_here(place, here)):
        section, _, name = key.partition(".")
        value = _replace_places(values[section][name], here)
        text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()
        moved.append(f"{key}={text}")
    kept = [each for each in overrides if each.partition("=")[0] not in {each.partition("=")[0] for each in moved}]
    return [*kept, *moved]


def _replace_places(value: Any, here: Path) -> Any:
    """A setting's value with its paths, alone, in a list or with weights, as they are from `here`."""
    if isinstance(value, list):
        return [_replace_places(each, here) for each in value]
    if isinstance(value, dict):
        path = _from_here(value["path"], here)
        return path if value["weight"] == 1 else value | {"path": path}
    return _from_here(value, here)


def _from_here(place: str, here: Path) -> str:
    """A path from `here` in place of an absolute one, where it lies below, be it by way of links."""
    path = Path(place)
    if not path.is_absolute():
        return place
    for below, above in ((path, here), (path.resolve(), here.resolve())):
        if below.is_relative_to(above):
            return str(below.relative_to(above))
    return place


def _is_outside(place: str) -> bool:
    return os.path.isabs(place) or os.path.normpath(place).startswith("..")


class _Block(str):
    """Text that stands in YAML line by line."""


class _Dumper(yaml.SafeDumper):
    """Writes such text so."""


_Dumper.add_representer(_Block, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|"))


def refuse_foreign_files(*files: Path | None) -> None:
    """SettingsError where a script has no folder to be written to, or would be written over something else."""
    given = [file for file in files if file is not None]
    if len({file.resolve() for file in given}) < len(given):
        raise SettingsError(f"{given[0]} is named for two scripts; name a file for each")
    for file in given:
        if not file.absolute().parent.is_dir():
            raise SettingsError(f"{file}: there is no folder {file.parent} to write it to")
        if file.exists() and not file.is_file():  # to read a pipe would be to wait for ever
            raise SettingsError(f"{file} is there already, and no regular file; name a file for the script")
        if file.exists() and not _is_ours(file):
            raise SettingsError(
                f"{file} is there already, and no script of `groundling plan`, or one of an earlier version; name "
                "another file"
            )


def _is_ours(file: Path) -> bool:
    try:
        return _OURS in file.read_text(encoding="utf-8").splitlines()[:2]
    except (OSError, UnicodeDecodeError):
        return False


def _plain(name: str) -> str:
    """As both schedulers take a job's name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-.") or "training"
