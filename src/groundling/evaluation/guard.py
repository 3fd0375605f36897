"""Whether a model forgot what it was not trained on: the likelihood of right answers to questions without boxes.

The set `general` comes with groundling; any record file with `answer` texts can stand in for it. One number by itself
says little, since models word their answers differently. Before against after, on the same questions, it says whether
other abilities suffered. `measure_guard` in `evaluate` asks the model; here is what came of it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from groundling.data.record import Record, read_records
from groundling.errors import RecordError
from groundling.evaluation.change import Change, changes
from groundling.evaluation.metrics import Marks, intervals

GENERAL = "general"
GENERAL_FILE = Path(__file__).with_name("general") / "general.jsonl"

_FALLS = 5  # questions whose answers lost most, told by name


def read_guard(name: str | Path, *, allow_absolute: bool = False) -> list[Record]:
    """The questions of `general`, or of a record file: those with an answer text. RecordError where there are none."""
    file = GENERAL_FILE if str(name) == GENERAL else Path(name)
    if not file.is_file():
        raise RecordError(
            f"no record file {file} to guard by; expected {GENERAL!r}, or a file of records with 'answer'"
        )
    records = [record for record in read_records(file, allow_absolute=allow_absolute) if record.answer]
    if not records:
        raise RecordError(
            f"no record of {file} has an 'answer' text; a guard is made of questions that are not grounding"
        )
    return records


def tell_guard(name: str, records: Sequence[Record]) -> str:
    """A guard in words that tell it from others: its name, how many questions, and a hash of them; `none` without."""
    return _tell(name, [(record.id, record.question, record.answer or "") for record in records])


def _tell(name: str, questions: Sequence[tuple[str, str, str]]) -> str:
    if not questions:
        return "none"
    digest = hashlib.sha256(json.dumps(questions).encode()).hexdigest()
    return f"{Path(name).name}, {len(questions)} questions, {digest[:8]}"


class Found(NamedTuple):
    """How likely a right answer was: `mean` log-likelihood of its `tokens`, of which the last is the end token."""

    id: str
    question: str
    answer: str
    image: str | None  # as its record file names it
    tokens: int
    mean: float


@dataclass(frozen=True)
class Guard:
    """What a model made of the questions of one set."""

    name: str
    found: list[Found]

    @property
    def mean(self) -> float:
        """Mean log-likelihood of an answer token, every question with the same weight; 0 at most."""
        return float(_mark(self.found).shares()[0])

    @property
    def ci95(self) -> tuple[float, float]:
        """Its 95 % interval, questions about one picture drawn together."""
        low, high = intervals(_mark(self.found))
        return float(low[0]), float(high[0])


def retell_guard(guard: Guard | None) -> str:
    """What `tell_guard` said of the questions that a guard was measured on."""
    return "none" if guard is None else _tell(guard.name, [one[:3] for one in guard.found])


def _mark(found: Sequence[Found]) -> Marks:
    """One column of log-likelihoods, questions about one picture together and those without one apart."""
    names = [one.image or f"\n{place}" for place, one in enumerate(found)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    pictures = np.array([numbers[name] for name in names], dtype=np.intp)
    return Marks(np.array([[one.mean] for one in found]).reshape(-1, 1), np.ones((len(found), 1)), pictures)


def guard_to_json(guard: Guard | None) -> dict[str, Any] | None:
    """The value of `guard` in report.json."""
    if guard is None:
        return None
    questions = [one._asdict() for one in guard.found]
    return {"name": guard.name, "n": len(questions), "mean": guard.mean, "ci95": guard.ci95, "questions": questions}


def guard_from_json(value: Mapping[str, Any] | None) -> Guard | None:
    """The inverse of `guard_to_json`; KeyError or TypeError for what it did not write."""
    if value is None:
        return None
    found = [Found(**one) for one in value["questions"]]
    return Guard(value["name"], [one._replace(mean=math.nan) if one.mean is None else one for one in found])


# ---- before and after ------------------------------------------------------------------------------------------


class Fall(NamedTuple):
    """A question, and how likely each token of its right answer was (0..1, geometric mean)."""

    question: str
    answer: str
    before: float
    after: float


@dataclass(frozen=True)
class GuardChange:
    """How the likelihood of the right answers changed over the questions that both reports hold."""

    name: str
    questions: int
    change: Change  # of the mean log-likelihood of an answer token
    falls: list[Fall]  # the largest first

    @property
    def is_worse(self) -> bool:
        """Whether right answers became less likely, and not by chance."""
        return self.change.is_seen() and self.change.difference < 0

    @property
    def verdict(self) -> str:
        """What it says, in one sentence."""
        if math.isnan(self.change.difference):
            return "not measured, since a likelihood is not a number"
        if self.is_worse:
            return "right answers to questions that are not grounding became less likely: other abilities suffered"
        if self.change.is_seen():
            return "right answers to questions that are not grounding became more likely"
        return f"no change that {self.questions} questions can show"


def compare_guards(before: Guard | None, after: Guard | None, *, seed: int, draws: int) -> GuardChange | None:
    """The change over the questions that both hold, paired by id, wording and answer; None where there are none."""
    pairs = _pair(before, after)
    if before is None or not pairs:
        return None
    change = changes(_mark([old for old, _ in pairs]), _mark([new for _, new in pairs]), seed=seed, draws=draws)[0]
    fallen = sorted(
        (pair for pair in pairs if pair[1].mean < pair[0].mean), key=lambda pair: pair[1].mean - pair[0].mean
    )
    falls = [Fall(old.question, old.answer, math.exp(old.mean), math.exp(new.mean)) for old, new in fallen[:_FALLS]]
    return GuardChange(before.name, len(pairs), change, falls)


def _pair(before: Guard | None, after: Guard | None) -> list[tuple[Found, Found]]:
    if before is None or after is None:
        return []
    waiting = {one[:3]: one for one in after.found}
    return [(one, waiting[one[:3]]) for one in before.found if one[:3] in waiting]


def why_not_compared(before: Guard | None, after: Guard | None) -> str | None:
    """Why two reports tell nothing of other abilities though one could; None where they do, or neither could."""
    if (before is None and after is None) or _pair(before, after):
        return None
    if before is None or after is None:
        return f"not measured (only the {'second' if before is None else 'first'} report has a guard)"
    return f"not measured (the guards of the two reports, {before.name} and {after.name}, share no question)"


def guard_change_to_json(found: GuardChange | None) -> dict[str, Any] | None:
    """The value of `guard` in comparison.json."""
    if found is None:
        return None
    falls = [fall._asdict() for fall in found.falls]
    return {"name": found.name, "questions": found.questions, "verdict": found.verdict, "falls": falls} | (
        found.change._asdict()
    )
