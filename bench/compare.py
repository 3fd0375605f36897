"""Training speed of groundling beside other ways to train the same model, on the CPU, one thread, in float32.

    .venv/bin/python bench/compare.py                        all that is installed, one round
    .venv/bin/python bench/compare.py --repeats 5 --questions 1 2.86 8 --pixels 250880 1003520 --json FILE
    .venv/bin/python bench/compare.py --only groundling plain --ours --ours train.share_pictures=false
    bench/environments.sh                                    installs the other frameworks

Everybody trains all weights of one random tiny checkpoint on the same pictures, questions and answer texts, with as
many samples in an optimizer step and as large a picture. The frameworks take turns, each in a process of its own, and
what is counted is CPU seconds of whole epochs after a warm-up epoch. The table shows medians over the rounds, the range
in brackets; `x plain` is the ratio to transformers' Trainer of the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from assets import CHECKPOINT, CYCLES, dialogues_file, records_file
from frameworks import FRAMEWORKS

BENCH = Path(__file__).parent
ENVIRONMENTS = BENCH / "environments"
LOGS = BENCH / "assets" / "logs"
QUIET = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    **dict.fromkeys(("HF_HUB_OFFLINE", "MODELSCOPE_OFFLINE", "USE_HF", "DISABLE_VERSION_CHECK"), "1"),
    "CUDA_VISIBLE_DEVICES": "",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "disabled",
}


class Entrant(NamedTuple):
    """One row of a table: a framework, and how groundling's recipe is changed."""

    framework: str
    overrides: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return " ".join([FRAMEWORKS[self.framework].title, *self.overrides])

    @property
    def python(self) -> Path:
        """The interpreter that has the framework."""
        environment = FRAMEWORKS[self.framework].environment
        return Path(sys.executable) if environment is None else ENVIRONMENTS / environment / "bin" / "python"

    @property
    def is_installed(self) -> bool:
        """Whether its environment was made to the end."""
        environment = FRAMEWORKS[self.framework].environment
        return environment is None or (ENVIRONMENTS / environment / "installed").exists()


class Course(NamedTuple):
    """What one table is about."""

    questions: str  # per picture
    max_pixels: int


class Run(NamedTuple):
    """One measurement, or why there is none."""

    entrant: Entrant
    course: Course
    mode: str
    round: int
    figures: dict[str, float]
    versions: dict[str, str]
    error: str | None


# ---- measuring -------------------------------------------------------------------------------------------------


def main() -> int:
    options = read_options()
    entrants = list(list_entrants(options))
    absent = [entrant for entrant in entrants if not entrant.is_installed]
    present = [entrant for entrant in entrants if entrant.is_installed]
    make_assets(options)
    runs: list[Run] = []
    for course in [Course(questions, pixels) for questions in options.questions for pixels in options.pixels]:
        for number in range(options.repeats):
            for mode in options.modes:
                for entrant in present:
                    print(f"round {number + 1}, {mode}: {entrant.title}", file=sys.stderr, flush=True)
                    runs.append(measure(entrant, course, mode, number, options))
        print_table([run for run in runs if run.course == course], course, present, absent, options)
    if options.json:
        write_json(runs, absent, options)
    return int(any(run.error for run in runs))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--questions", nargs="+", choices=CYCLES, default=["2.86"], help="per picture")
    parser.add_argument("--pixels", nargs="+", type=int, default=[250880], help="of a picture as seen, at most")
    parser.add_argument("--samples", type=int, default=64, help="in an epoch")
    parser.add_argument("--epochs", type=int, default=1, help="that are counted, after one that is not")
    parser.add_argument("--step", type=int, default=32, help="samples in an optimizer step")
    parser.add_argument("--batch", type=int, default=2, help="samples in a batch of the others")
    parser.add_argument("--batch-ours", type=int, default=8, help="samples in a batch of groundling")
    parser.add_argument("--ours", nargs="*", action="append", help="settings of groundling's recipe; each use is a row")
    parser.add_argument("--only", nargs="+", choices=FRAMEWORKS, default=list(FRAMEWORKS), help="frameworks to run")
    parser.add_argument("--modes", nargs="+", choices=("train", "data"), default=["train", "data"])
    parser.add_argument(
        "--floats", action="store_true", help="count the bytes' becoming floats as groundling's data path"
    )
    parser.add_argument("--repeats", type=int, default=1, help="rounds")
    parser.add_argument("--minutes", type=float, default=30, help="that one measurement may take")
    parser.add_argument("--json", type=Path, help="a file for all figures of all rounds")
    options = parser.parse_args()
    if options.step % options.batch or options.step % options.batch_ours:
        parser.error("--step has to be a multiple of --batch and of --batch-ours")
    return options


def list_entrants(options: argparse.Namespace) -> Iterator[Entrant]:
    for framework in options.only:
        for overrides in (options.ours or [[]]) if framework == "groundling" else [[]]:
            yield Entrant(framework, tuple(overrides))


def make_assets(options: argparse.Namespace) -> None:
    pixels = [str(each) for each in options.pixels]
    arguments = ["--samples", str(options.samples), "--questions", *options.questions, "--pixels", *pixels]
    subprocess.run([sys.executable, BENCH / "assets.py", *arguments], check=True, env=os.environ | QUIET)


def measure(entrant: Entrant, course: Course, mode: str, number: int, options: argparse.Namespace) -> Run:
    """One measurement in a process of its own; its output goes to a log."""
    LOGS.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.=-]+", "-", f"{entrant.title} {course.questions} {course.max_pixels} {mode} {number + 1}")
    log = LOGS / f"{name}.log"
    with tempfile.TemporaryDirectory() as folder, log.open("w") as output:
        job, result = Path(folder, "job.json"), Path(folder, "result.json")
        job.write_text(json.dumps(describe_job(entrant, course, mode, options) | {"folder": folder}), encoding="utf-8")
        command = [entrant.python, BENCH / "one.py", job, result]
        try:
            subprocess.run(
                command, stdout=output, stderr=output, env=os.environ | QUIET, timeout=60 * options.minutes, check=False
            )
        except subprocess.TimeoutExpired:
            return Run(entrant, course, mode, number, {}, {}, f"not done after {options.minutes:g} minutes")
        if not result.exists():
            return Run(entrant, course, mode, number, {}, {}, last_line(log))
        found = json.loads(result.read_text(encoding="utf-8"))
    return Run(entrant, course, mode, number, found["figures"], found["versions"], None)


def describe_job(entrant: Entrant, course: Course, mode: str, options: argparse.Namespace) -> dict[str, Any]:
    batch_size = options.batch_ours if entrant.framework == "groundling" else options.batch
    return {
        "framework": entrant.framework,
        "mode": mode,
        "checkpoint": str(CHECKPOINT.resolve()),
        "records": str(records_file(course.questions, options.samples).resolve()),
        "dialogues": str(dialogues_file(course.questions, options.samples, course.max_pixels).resolve()),
        "max_pixels": course.max_pixels,
        "batch_size": batch_size,
        "accumulate": options.step // batch_size,
        "epochs": 1 + options.epochs,
        "overrides": list(entrant.overrides),
        "floats": options.floats,
    }


def last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"{lines[-1] if lines else 'ended without a word'} ({log.relative_to(BENCH.parent)})"


# ---- the table -------------------------------------------------------------------------------------------------

COLUMNS = (
    "framework",
    "samples/CPU-s",
    "x plain",
    "peak MB",
    "padded",
    "tokens",
    "learned",
    "head",
    "decodes",
    "data samples/CPU-s",
    "first batch CPU s",
    "first step CPU s",
    "wall s",
)


def print_table(
    runs: Sequence[Run],
    course: Course,
    present: Sequence[Entrant],
    absent: Sequence[Entrant],
    options: argparse.Namespace,
) -> None:
    """Medians and ranges over the rounds; tokens, learned ones, head positions and decodes are per sample."""
    print(
        f"\n{course.questions} questions a picture, {course.max_pixels} pixels, {options.samples} samples an epoch,"
        f" {options.step} a step, {options.epochs} epochs counted, {options.repeats} rounds"
    )
    plain = "plain" if any(entrant.framework == "plain" for entrant in present) else "plain-pil"
    rows = [COLUMNS, *(table_row(entrant, runs, plain) for entrant in present)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(COLUMNS))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if any(entrant.framework == plain == "plain-pil" for entrant in present):
        print("x plain: against the Trainer with PIL images; the one with torchvision's is not in this table")
    for run in runs:
        if run.error:
            print(f"{run.entrant.title}, {run.mode}, round {run.round + 1}: FAILED: {run.error}")
    for entrant in absent:
        environment = FRAMEWORKS[entrant.framework].environment
        print(f"{entrant.title}: not installed; bench/environments.sh {environment}")
    for note in find_differences(runs, options):
        print(note)


def table_row(entrant: Entrant, runs: Sequence[Run], plain: str) -> tuple[str, ...]:
    own = [run for run in runs if run.entrant == entrant]
    trained = [run for run in own if run.mode == "train" and not run.error]
    loaded = [run for run in own if run.mode == "data" and not run.error]
    if any(run.error for run in own) and not trained:
        return (entrant.title, "failed", *[""] * (len(COLUMNS) - 2))
    base = {run.round: speed(run) for run in runs if run.entrant.framework == plain and run.mode == "train"}
    ratios = [speed(run) / base[run.round] for run in trained if base.get(run.round)]

    def share(name: str, digits: int) -> str:
        values = [run.figures[name] for run in trained if name in run.figures]
        return f"{median(values):.{digits}f}" if values else "?" * bool(trained)

    return (
        entrant.title,
        middle([speed(run) for run in trained]),
        middle(ratios),
        share("peak_megabytes", 0),
        share("padded_share", 3),
        share("positions_per_sample", 1),
        share("labelled_per_sample", 1),
        share("head_per_sample", 1),
        share("decodes_per_sample", 2),
        middle([speed(run) for run in loaded]),
        share("first_batch_cpu_seconds", 1),
        share("first_step_cpu_seconds", 1),
        share("first_batch_wall_seconds", 1),
    )


def speed(run: Run) -> float:
    return run.figures.get("samples_per_cpu_second", 0.0)


def middle(values: Sequence[float]) -> str:
    """The median, with the range where there are several."""
    if not values:
        return ""
    spread = f" ({min(values):.2f}..{max(values):.2f})" if len(values) > 1 else ""
    return f"{median(values):.2f}{spread}"


def find_differences(runs: Sequence[Run], options: argparse.Namespace) -> Iterator[str]:
    """Where somebody did other work than was asked for, or than the plain Trainer did, one line each."""
    trained = [run for run in runs if run.mode == "train" and run.round == 0 and not run.error]
    plain = next((run.figures for run in trained if run.entrant.framework.startswith("plain")), {})
    for run in trained:
        is_ours = run.entrant.framework == "groundling"
        asked = {"samples_per_epoch": options.samples, "samples_per_step": options.step}
        alike = ("labelled_per_sample",) if is_ours else ("labelled_per_sample", "patches_per_sample")
        for name, expected in (asked | {name: plain[name] for name in alike if plain}).items():
            if abs(run.figures[name] - expected) > 1e-6:
                yield f"{run.entrant.title}: {run.figures[name]:g} {name.replace('_', ' ')}, not {expected:g}"
        if "head_per_sample" not in run.figures:
            yield f"{run.entrant.title}: computes its logits past the model's LM head, so their number is not known"


def write_json(runs: Sequence[Run], absent: Sequence[Entrant], options: argparse.Namespace) -> None:
    written = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "bench/compare.py", *sys.argv[1:]]),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "not_installed": [entrant.title for entrant in absent],
        "runs": [run._asdict() | {"entrant": run.entrant.title, "course": run.course._asdict()} for run in runs],
    }
    options.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


def cpu_model() -> str:
    """As the kernel names it; elsewhere than on Linux, as Python does."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} threads" if names else platform.processor()


if __name__ == "__main__":
    sys.exit(main())
