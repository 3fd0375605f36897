"""What a run writes down while it goes: metrics.jsonl, curves.png, and lines for whoever watches.

    {"step": 20, "epoch": 0.4, "loss": 1.28, "grad_norm": 3.1, "learning_rate": 1e-05, "tokens": 61440, "seconds": 84.2}
    {"step": 20, "epoch": 0.4, "acc@0.5": 0.41, "miou": 0.38, "parse_rate": 1.0}

`loss` is the mean over the steps since the line before. There is a line at every checkpoint, so that a run that goes on
from one writes the lines that it would have written without the break.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from groundling.evaluation.pace import in_words
from groundling.training.disk import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRICS_FILE = "metrics.jsonl"
CURVES_FILE = "curves.png"
SHOWN_SCORES = ("acc@0.5", "miou", "parse_rate")  # and the one that picks the best checkpoint
_COLORS = ("#3b6fb5", "#2ca25f", "#9aa0a6", "#f07818")

log = logging.getLogger(__name__)


class Journal(TrainerCallback):
    """Writes a line for each logged step and each evaluation, on the main process only.

    Tokens (prompts and pictures included, over all devices) and seconds count over the whole run, resumed parts too.
    """

    def __init__(self, run: Path, *, resumed_step: int, metric: str = SHOWN_SCORES[0]) -> None:
        self.file = run / METRICS_FILE
        self.curves = run / CURVES_FILE
        self.shown = list(dict.fromkeys([*SHOWN_SCORES, metric]))
        self.lines = [line for line in read_lines(self.file) if line["step"] <= resumed_step]
        self.seconds_before = max((float(line["seconds"]) for line in self.lines if "seconds" in line), default=0.0)
        self.first_step = resumed_step
        self.lines_drawn = -1
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long the run has trained, resumed parts included."""
        return self.seconds_before + time.monotonic() - self.started

    # ---- events of the Trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock, and drop the lines of steps that are to be done again."""
        self.started = time.monotonic()
        if state.is_world_process_zero:
            write_whole(self.file, "".join(map(_as_line, self.lines)))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Have a line written wherever a checkpoint is."""
        control.should_log = control.should_log or control.should_save

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """As at the end of a step: this is where checkpoints fall due that are kept by epoch."""
        control.should_log = control.should_log or control.should_save

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Put a line down; the Trainer's summary at the end is none."""
        if not state.is_world_process_zero:
            return
        found = logs or {}
        line: dict[str, Any] = {"step": state.global_step, "epoch": round(state.epoch or 0.0, 4)}
        if "loss" in found:
            line |= {name: _finite(found[name]) for name in ("loss", "grad_norm", "learning_rate") if name in found}
            line |= {"tokens": state.num_input_tokens_seen, "seconds": round(self.seconds, 2)}
        elif scores := {name: value for name, value in found.items() if name.startswith("eval_")}:
            line |= {name.removeprefix("eval_"): value for name, value in scores.items()}
        else:
            return
        self.lines.append(line)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(_as_line(line))
        log.info(self._describe(line, state))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Draw the curves again."""
        self._draw(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw the curves once more."""
        self._draw(state)

    def _draw(self, state: TrainerState) -> None:
        if state.is_world_process_zero and self.lines_drawn < len(self.lines):
            draw_curves(self.lines, self.curves, scores=self.shown)
            self.lines_drawn = len(self.lines)

    def _describe(self, line: dict[str, Any], state: TrainerState) -> str:
        where = f"step {line['step']}/{state.max_steps}"
        if "loss" not in line:
            scores = ", ".join(f"{name} {line[name]:.3f}" for name in self.shown if name in line)
            return f"{where}  {scores or 'evaluated'}"
        done = max(1, state.global_step - self.first_step)
        left = (time.monotonic() - self.started) / done * (state.max_steps - state.global_step)
        return f"{where}  loss {line['loss']:.4f}  rate {line['learning_rate']:.2e}  {in_words(left)} left"


# ---- the file --------------------------------------------------------------------------------------------------


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, none without a file; one that a killed run left half-written is passed over."""
    lines: list[dict[str, Any]] = []
    for text in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def _as_line(line: dict[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"


def _finite(value: float) -> float | None:
    """The number, or None for one that JSON does not have."""
    return value if math.isfinite(value) else None


# ---- the curves ------------------------------------------------------------------------------------------------


def draw_curves(lines: Sequence[dict[str, Any]], file: Path, *, scores: Sequence[str] = SHOWN_SCORES) -> None:
    """Loss over steps, and beside it the scores where there are any, as one PNG."""
    from matplotlib.figure import Figure

    has_scores = any(name in line for line in lines for name in scores)
    figure = Figure(figsize=(9.6 if has_scores else 5.2, 3.6), layout="constrained")
    panels = figure.subplots(1, 2 if has_scores else 1, squeeze=False)[0]
    _draw_loss(panels[0], lines)
    if has_scores:
        _draw_scores(panels[1], lines, scores)
    for panel in panels:
        panel.set_xlabel("step")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.set_xlim(0, max([1, *(line["step"] for line in lines)]) * 1.02)
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=130)


def _draw_loss(panel: Axes, lines: Sequence[dict[str, Any]]) -> None:
    """Every line's loss, thin where there are many, and their running mean over a twentieth of them."""
    steps, losses = _column(lines, "loss")
    panel.set_title("loss per answer token", loc="left", fontsize=10)
    if not losses:
        return
    width = max(1, len(losses) // 20)
    means = [sum(losses[max(0, end - width) : end]) / min(width, end) for end in range(1, len(losses) + 1)]
    if width > 1:
        panel.plot(steps, losses, color="#3b6fb5", alpha=0.3, linewidth=0.8)
    panel.plot(steps, means, color="#3b6fb5", linewidth=1.6, marker="." if len(losses) < 20 else "")
    if min(losses) > 0 and max(losses) > 10 * min(losses):
        panel.set_yscale("log")
    panel.annotate(
        f"{means[-1]:.3g}", (steps[-1], means[-1]), (0, 6), textcoords="offset points", ha="right", fontsize=9
    )


def _draw_scores(panel: Axes, lines: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    panel.set_title("answers to the test sample", loc="left", fontsize=10)
    panel.set_ylim(-0.02, 1.05)
    for name, color in zip(names, _COLORS, strict=False):
        steps, values = _column(lines, name)
        if values:
            panel.plot(steps, values, color=color, linewidth=1.6, marker=".", label=f"{name}  {values[-1]:.2f}")
    panel.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _column(lines: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    found = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    return [step for step, _ in found], [value for _, value in found]
