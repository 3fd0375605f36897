"""What a model's answers to the cards tell: its convention, its answer form, and where a contract says otherwise."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from groundling.dialect.family import AnswerForm
from groundling.evaluation.cards import Card
from groundling.evaluation.conventions import MEANINGS, POINT_ORDERS, Order, Turned
from groundling.evaluation.fitting import CLOSE, Fit, Trial, fit_convention
from groundling.evaluation.heard import Heard, read_numbers
from groundling.geometry.boxes import Boxes
from groundling.geometry.frame import Frame
from groundling.model.contract import Contract


class Reply(NamedTuple):
    """What came of one card."""

    card: Card
    text: str | None  # None: nothing came
    seen: Frame | None = None  # the frame that the model saw the upright card in, if known
    trouble: str | None = None  # why nothing came


@dataclass(frozen=True)
class Calibration:
    """What a model's answers tell about their convention."""

    model: str
    replies: Sequence[Reply]
    heard: Sequence[Heard]  # what could be read of them: all boxes, or all points, whichever is more
    fit: Fit | None  # None: too little could be read
    answer_form: AnswerForm | None  # in which most are written

    @property
    def is_found(self) -> bool:
        """Whether one convention explains the answers, and no other would."""
        return self.fit is not None and self.fit.is_found

    @property
    def is_of_points(self) -> bool:
        """Whether what was heard are points."""
        return bool(self.heard) and self.heard[0].is_point

    @property
    def things(self) -> str:
        """What was heard: boxes, or points."""
        return "points" if self.is_of_points else "boxes"


def measure(model: str, replies: Sequence[Reply], *, turns: Sequence[Turned] = ("upright", "stored")) -> Calibration:
    """What replies tell."""
    read = [
        Heard(reply.card, numbers, reply.seen)
        for reply in replies
        if reply.text is not None and (numbers := read_numbers(reply.text)) is not None
    ]
    points = sum(each.is_point for each in read)
    heard = [each for each in read if each.is_point == (2 * points > len(read))]
    forms = Counter[AnswerForm](form for reply in replies if reply.text and (form := _form_of(reply.text)))
    return Calibration(
        model=model,
        replies=replies,
        heard=heard,
        fit=fit_convention(heard, turns),
        answer_form=forms.most_common(1)[0][0] if forms else None,
    )


_BEGINNINGS: dict[str, AnswerForm] = {"```": "fenced", "[": "list", "{": "bare", "<|": "tokens"}


def _form_of(text: str) -> AnswerForm | None:
    words = text.strip()
    return next((form for start, form in _BEGINNINGS.items() if words.startswith(start)), None)


# ---- more than the convention ----------------------------------------------------------------------------------


def differences(found: Calibration, contract: Contract) -> list[str]:
    """Where a model answers otherwise than a contract says, each in a sentence; none where no convention was found.

    The replies must have been `seen` in the contract's frames.
    """
    fit = found.fit
    if fit is None or not fit.is_found:
        return []
    counts, order, turned = fit.best.kind
    said: list[str] = []
    expected = "seen" if contract.coordinates == "seen_pixels" else contract.coordinates
    if counts != expected:
        said.append(f"its numbers count {fit.best.likeliest.meaning}, the contract says {MEANINGS[expected]}")
    elif fit.best.budget is not None:  # so it is told from the contract's own frames
        least, most = contract.min_pixels, contract.max_pixels
        budget = fit.best.budget
        said.append(
            f"it answers as if it saw pictures within {budget.min_pixels} to {budget.max_pixels} pixels, "
            f"the contract says {least} to {most}"
        )
    if order != "xyxy":
        here, there = describe_order(found, order), describe_order(found, "xyxy")
        said.append(f"its {found.things} are {here}, a contract's are {there}")
    if turned != "upright":
        said.append("it does not turn pictures upright; send them so")
    if found.answer_form not in (None, contract.answer_form):
        said.append(f"it writes answers of the form {found.answer_form}, the contract says {contract.answer_form}")
    return said


def describe_order(found: Calibration, order: Order) -> str:
    """The order of the numbers, as letters."""
    return POINT_ORDERS[order] if found.is_of_points else order


EDGES = {"the first pixels outside a box (half-open)": 0, "the last pixels inside a box (closed)": -1}
"""What right and bottom may be, and by how much a box is wider than the truth then, in units of its numbers."""


def describe_edges(found: Calibration) -> str | None:
    """Whether right and bottom are the first pixels outside a box, or its last ones; None where that is not told.

    By the median of how much wider and higher than the truth the answers are, in units of their own numbers.
    """
    fit = found.fit
    if (
        fit is None
        or not fit.explains
        or fit.misplaced
        or found.is_of_points
        or fit.best.kind[0] not in ("seen", "original")
    ):
        return None
    excess = [
        _sides(place, each, fit.best) - _sides(each.card.box.xyxy[0], each, fit.best)
        for each, place, error in zip(found.heard, fit.best.places, fit.best.errors, strict=True)
        if error < CLOSE
    ]
    middle = float(np.median(excess))
    doubt = float(np.std(excess)) / math.sqrt(2 * len(excess))
    if doubt > 0.25:
        return None
    return next((words for words, expected in EDGES.items() if abs(middle - expected) < 0.25), None)


def _sides(place: np.ndarray, each: Heard, trial: Trial) -> np.ndarray:
    """Width and height of a box in an upright card, in the units of what was answered."""
    frame = trial.counts[0].frame(each.card.upright, each.seen)
    assert frame is not None, "it was known when it was tried"
    left, top, right, bottom = Boxes([place], each.card.upright).to(frame).xyxy[0]
    return np.array([right - left, bottom - top])
