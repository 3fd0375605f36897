"""What a model's answers to the cards tell: its convention, its answer form, and where a contract says otherwise."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from groundling.dialect.answer import read_items
from groundling.dialect.family import AnswerForm
from groundling.evaluation.cards import Card
from groundling.evaluation.conventions import (
    CLOSE,
    MEANINGS,
    Fit,
    Heard,
    Numbers,
    Trial,
    Turned,
    fit_convention,
)
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
    heard: Sequence[Heard]  # what could be read of them
    fit: Fit | None  # None: too little could be read
    answer_form: AnswerForm | None  # in which most are written

    @property
    def is_found(self) -> bool:
        """Whether one convention explains the answers, and no other would."""
        return self.fit is not None and self.fit.is_found


def measure(model: str, replies: Sequence[Reply], *, turns: Sequence[Turned] = ("upright", "stored")) -> Calibration:
    """What replies tell."""
    heard = [
        Heard(reply.card, numbers, reply.seen)
        for reply in replies
        if reply.text is not None and (numbers := read_numbers(reply.text)) is not None
    ]
    forms = Counter[AnswerForm](form for reply in replies if reply.text and (form := _form_of(reply.text)))
    return Calibration(
        model=model,
        replies=replies,
        heard=heard,
        fit=fit_convention(heard, turns),
        answer_form=forms.most_common(1)[0][0] if forms else None,
    )


# ---- reading ---------------------------------------------------------------------------------------------------

_NUMBER = r"-?\d+(?:\.\d+)?"
_BETWEEN = r"[\s,;()\[\]<>|_]+(?:loc_?)?"
_FOUR = re.compile(rf"(?<![\d.]){_NUMBER}(?:{_BETWEEN}{_NUMBER}){{3}}(?![\d.])", re.ASCII)
_LONGEST = 100_000  # characters of an answer that are looked through
_MOST = 1e6  # no coordinate of a card is so large in any convention


def read_numbers(text: str) -> Numbers | None:
    """The first four numbers of an answer that may be a box, in its own order and units; None where there are none.

    What the reader of answers takes, or else four numbers in a row with nothing but brackets and commas between them.
    """
    text = text[:_LONGEST]
    boxes = [item.numbers for item in read_items(text) if len(item.numbers) == 4]
    if not boxes:
        match = _FOUR.search(text.rpartition("</think>")[2])
        boxes = [tuple(map(float, re.findall(_NUMBER, match.group())))] if match else []
    first = next(iter(boxes), None)
    if first is None or len(first) != 4 or max(map(abs, first)) > _MOST:
        return None
    return first


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
        said.append(f"its numbers count {MEANINGS[counts]}, the contract says {MEANINGS[expected]}")
    elif fit.best.budget is not None:  # so it is told from the contract's own frames
        least, most = contract.min_pixels, contract.max_pixels
        budget = fit.best.budget
        said.append(
            f"it answers as if it saw pictures within {budget.min_pixels} to {budget.max_pixels} pixels, "
            f"the contract says {least} to {most}"
        )
    if order != "xyxy":
        said.append(f"its boxes are {order}, a contract's are xyxy")
    if turned != "upright":
        said.append("it does not turn pictures upright; send them so")
    if found.answer_form not in (None, contract.answer_form):
        said.append(f"it writes answers of the form {found.answer_form}, the contract says {contract.answer_form}")
    return said


EDGES = {"the first pixels outside a box (half-open)": 0, "the last pixels inside a box (closed)": -1}
"""What right and bottom may be, and by how much a box is wider than the truth then, in units of its numbers."""


def describe_edges(found: Calibration) -> str | None:
    """Whether right and bottom are the first pixels outside a box, or its last ones; None where that is not told.

    By the median of how much wider and higher than the truth the answers are, in units of their own numbers.
    """
    fit = found.fit
    if fit is None or not fit.explains or fit.best.kind[0] not in ("seen", "original"):
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
