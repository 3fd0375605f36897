"""What a run writes down while it goes: metrics.jsonl, curves.png, and lines for whoever watches."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

METRICS_FILE = "metrics.jsonl"
CURVES_FILE = "curves.png"

log = logging.getLogger(__name__)


class Journal(TrainerCallback):
    """Writes a line for each logged step and each evaluation, on the main process only.

    A line of training holds step, epoch, loss, learning_rate, tokens, seconds; one of evaluation holds step, epoch and the
    scores. Tokens and seconds count over the whole run, resumed parts included.
    """

    def __init__(self, run: Path, *, resumed_step: int, count_tokens: Callable[[], int]) -> None:
        self.file = run / METRICS_FILE
        self.curves = run / CURVES_FILE
        self.lines = [line for line in _read_lines(self.file) if line["step"] <= resumed_step]
        last = next((line for line in reversed(self.lines) if "seconds" in line), {"seconds": 0.0, "tokens": 0})
        self.tokens_before, self.seconds_before = int(last["tokens"]), float(last["seconds"])
        self.count_tokens = count_tokens  # seen by this process
        self.first_step = resumed_step
        self.started = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock, and drop the lines of steps that are to be done again."""
        self.started = time.monotonic()
        if state.is_world_process_zero:
            self._write()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Put a line down."""
        logs = logs or {}
        line: dict[str, Any] = {"step": state.global_step, "epoch": round(state.epoch or 0.0, 4)}
        if "loss" in logs:
            line |= {name: logs[name] for name in ("loss", "grad_norm", "learning_rate") if name in logs}
            line |= {"tokens": self.tokens_before + self.count_tokens(), "seconds": round(self.seconds, 2)}
        elif scores := {name: value for name, value in logs.items() if name.startswith("eval_")}:
            line |= {name.removeprefix("eval_"): value for name, value in scores.items()}
        else:
            return
        self.lines.append(line)
        if state.is_world_process_zero:
            self._write()
            log.info(self._describe(line, state))

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw the curves again."""
        if state.is_world_process_zero:
            draw_curves(self.lines, self.curves)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw the curves once more."""
        if state.is_world_process_zero:
            draw_curves(self.lines, self.curves)

    @property
    def seconds(self) -> float:
        """How long the run has trained, resumed parts included."""
        return self.seconds_before + time.monotonic() - self.started

    def _write(self) -> None:
        self.file.write_text("".join(json.dumps(line) + "\n" for line in self.lines), encoding="utf-8")

    def _describe(self, line: dict[str, Any], state: TrainerState) -> str:
        where = f"step {line['step']}/{state.max_steps}"
        if "loss" not in line:
            scores = ", ".join(f"{name} {line[name]:.3f}" for name in ("acc@0.5", "miou", "parse_rate") if name in line)
            return f"{where}  {scores or 'evaluated'}"
        done = max(1, state.global_step - self.first_step)
        left = (time.monotonic() - self.started) / done * (state.max_steps - state.global_step)
        return f"{where}  loss {line['loss']:.4f}  rate {line['learning_rate']:.2e}  {_in_words(left)} left"


def draw_curves(lines: list[dict[str, Any]], file: Path) -> None:
    """Loss and scores over steps, as one PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    left.plot(*zip(*losses, strict=True) if losses else ([], []), color="#3b6fb5")
    left.set(xlabel="step", ylabel="loss per answer token", yscale="log" if losses else "linear")
    for name in ("acc@0.5", "miou", "parse_rate"):
        scores = [(line["step"], line[name]) for line in lines if name in line]
        if scores:
            right.plot(*zip(*scores, strict=True), marker=".", label=name)
    right.set(xlabel="step", ylabel="on the test sample", ylim=(0, 1.02))
    if right.lines:
        right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)


def _read_lines(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _in_words(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
