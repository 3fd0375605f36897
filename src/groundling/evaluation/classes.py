"""Which class a box is of: labels are classes where they recur, compared in lower case.

A question may ask for one class ("dog") or for several ("every dog and cat"). What it asks for is known from the truth:
the labels of all targets under questions of the same words. Where that is one class, whatever is answered is meant as
it, with any label or none; where it is several, a box is of the class that its label says (compared as the ODinW
evaluation of Qwen3-VL does: lower case, otherwise exactly).

Labels that hardly recur, such as the expressions of RefCOCO, are no classes: then all boxes are of one, ANY.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from groundling.data.record import Record
from groundling.dialect.answer import Answer

ANY = ""
"""The class of boxes without a label, and of all boxes where labels are no classes."""


class Named(NamedTuple):
    """The classes of one question's boxes: a true one for each target that is a box, one for each answered box."""

    true: list[str]
    answered: list[str]
    asks_for_several: bool

    def agree(self) -> np.ndarray:
        """(N, M) whether a true and an answered box are of one class."""
        return np.array([[one == other for other in self.answered] for one in self.true], dtype=bool).reshape(
            len(self.true), len(self.answered)
        )


def name_class(label: str | None) -> str:
    """The class that a label names; ANY without one."""
    return (label or "").strip().lower()


def name_boxes(records: Sequence[Record], answers: Sequence[Answer], *, as_said: bool = False) -> list[Named]:
    """The classes of the boxes of all questions of a set, with their answers, in order.

    `as_said` takes every label at its word, as ODinW does, also where they hardly recur or the question asks for one.
    """
    asked = _asked_for(records)
    any_several = any(len(wanted) > 1 for wanted in asked.values())
    if not (as_said or any_several or _recur(asked, records)):
        return [_all_any(record, answer) for record, answer in zip(records, answers, strict=True)]
    known = set().union(*asked.values())
    named: list[Named] = []
    for record, answer in zip(records, answers, strict=True):
        wanted = asked[record.question] or known
        said = [name_class(label) for label in answer.labels[: len(answer.boxes)]]
        only = None if as_said or len(wanted) != 1 else next(iter(wanted))
        answered = said if only is None else [only] * len(said)
        named.append(Named(_true_classes(record), answered, any_several and len(wanted) > 1))
    return named


def _true_classes(record: Record) -> list[str]:
    return [name_class(target.label) for target in record.targets if target.box is not None]


def _all_any(record: Record, answer: Answer) -> Named:
    return Named([ANY] * len(_true_classes(record)), [ANY] * len(answer.boxes), asks_for_several=False)


def _asked_for(records: Sequence[Record]) -> dict[str, set[str]]:
    """The classes that are to be found under each question's words; none where there never is anything."""
    asked: dict[str, set[str]] = {}
    for record in records:
        asked.setdefault(record.question, set()).update(_true_classes(record))
    return asked


def _recur(asked: dict[str, set[str]], records: Sequence[Record]) -> bool:
    """Whether each class is to be found by two questions on average."""
    classes = set().union(*asked.values())
    finding = sum(bool(_true_classes(record)) for record in records)
    return 2 * len(classes) <= finding
