"""Numbers that are none: no step is made by them, and no weights are kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from groundling.errors import TrainingError
from groundling.training.checkpoint import describe_last


def refuse_not_finite(weights: Mapping[str, torch.Tensor], run: Path, *, step: int) -> None:
    """TrainingError for the first of the weights that is not finite."""
    for name, weight in weights.items():
        if not torch.isfinite(weight.detach()).all():
            raise TrainingError(describe_not_finite(f"the weight {name}", run, step=step))


def describe_not_finite(what: str, run: Path, *, step: int) -> str:
    """What is wrong, what of the run is left, and what to change; `step` is how many are done."""
    return (
        f"{what} is not finite after {step} steps; {describe_last(run, 'finite checkpoint')}. "
        "Lower train.learning_rate or raise train.warmup, and look at the batch's pictures and boxes"
    )
