"""From labelled things to questions: one a class with all its boxes, one a box, or one about all classes at once."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from groundling.data.formats.detection import Annotated, Thing
from groundling.data.formats.found import Found
from groundling.data.record import Rejected, Target
from groundling.errors import SettingsError

Per = Literal["class", "box", "picture"]

TEMPLATES: dict[Per, str] = {
    "class": "{label}",
    "box": "{label}",
    # the vendor's detection prompt goes "Locate every instance that ..." (Qwen3-VL, evaluation/ODinW-13)
    "picture": "every instance that belongs to the following categories: '{labels}'",
}
"""What a question says by default; the recipe's prompt template is put around it."""


@dataclass(frozen=True)
class Asking:
    """How pictures with labelled things become questions. SettingsError for values that do not fit.

    `negatives` is how many questions for absent labels come with each question for a present one, on average; a picture
    with nothing on it counts as one. `labels` are the only ones asked about, in that order; None: all.
    """

    per: Per = "class"
    template: str | None = None  # None: that of TEMPLATES
    negatives: float = 0.0
    labels: tuple[str, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.per not in get_args(Per):
            raise SettingsError(f"one question per {self.per!r}; expected {', '.join(get_args(Per))}")
        mark = "{labels}" if self.per == "picture" else "{label}"
        if mark not in self.words:
            raise SettingsError(f"the question {self.words!r} has no {mark} in it")
        if not 0 <= self.negatives <= 1000:
            raise SettingsError(f"{self.negatives} negatives a question; expected 0 or more, such as 0.5")
        if self.negatives and self.per == "picture":
            raise SettingsError("one question about all labels has its negatives in it; leave the rate out")

    @property
    def words(self) -> str:
        """The template that is used."""
        return self.template or TEMPLATES[self.per]

    @property
    def needs_all_labels(self) -> bool:
        """Whether a question depends on labels that its own picture does not have."""
        return self.negatives > 0 or self.per == "picture"


def ask_about(annotated: Annotated, asking: Asking, known: Sequence[str] = ()) -> Iterator[Found | Rejected]:
    """The questions about one picture, whose things lie in its original pixels.

    `known` are the labels of the whole source. A thing that cannot be used is rejected, and with it every question
    whose answer would leave it out. A question that the file itself has stands as it is.
    """
    if annotated.question:
        yield _ask_as_written(annotated, asking)
        return
    wanted = _labels_of(annotated, asking, known)
    things = [thing for thing in annotated.things if thing.label in wanted]
    spoilt = {thing.label for thing in things if thing.fault}
    for number, thing in enumerate(annotated.things):
        if thing.fault and (thing in things or not asking.labels):
            yield _reject(annotated, f"thing {number} ({thing.label!r}): {thing.fault}")
    sound = [thing for thing in things if not thing.fault]
    if asking.per == "box":
        yield from (_question(annotated, asking, thing.label, [thing]) for thing in sound)
    elif asking.per == "class":
        present = dict.fromkeys(thing.label for thing in sound)
        for label in (label for label in wanted if label in present and label not in spoilt):
            yield _question(annotated, asking, label, [thing for thing in sound if thing.label == label])
    elif spoilt:
        yield _reject(annotated, f"not asked about: the answer would leave out things of {', '.join(sorted(spoilt))}")
    elif wanted:
        yield _question(annotated, asking, "", sound, labels=wanted)
    absent = [label for label in wanted if label not in {thing.label for thing in things}]
    chosen = _choose_negatives(annotated, asking, absent, positives=len({thing.label for thing in sound}))
    yield from (_question(annotated, asking, label, []) for label in chosen)
    if not annotated.things and asking.per != "picture" and not chosen:
        yield _reject(
            annotated, "nothing on this picture is labelled; with --negatives it is asked about what it lacks"
        )


def _ask_as_written(annotated: Annotated, asking: Asking) -> Found | Rejected:
    faults = [thing.fault for thing in annotated.things if thing.fault]
    if faults:
        return _reject(annotated, f"{annotated.question[:200]!r}: {'; '.join(faults[:10])}")
    return replace(_question(annotated, asking, "", annotated.things), question=annotated.question)


def _labels_of(annotated: Annotated, asking: Asking, known: Sequence[str]) -> list[str]:
    """The labels that may be asked about, each once: those looked for, then what else is on the picture."""
    looked_for = known if annotated.looked_for is None else annotated.looked_for
    labels = dict.fromkeys([*looked_for, *(thing.label for thing in annotated.things)])
    if asking.labels is None:
        return [label for label in labels if label]
    return [label for label in asking.labels if label in labels]


def _choose_negatives(annotated: Annotated, asking: Asking, absent: Sequence[str], *, positives: int) -> list[str]:
    """Labels that are not on the picture, as many as the rate says: a fraction is a chance, seeded by the picture."""
    if not asking.negatives:
        return []
    dice = random.Random(f"{asking.seed} {annotated.image_name} {annotated.line}")
    count = asking.negatives * max(positives, 1)
    whole = int(count) + (dice.random() < count % 1)
    return dice.sample(list(absent), min(whole, len(absent)))


def _question(
    annotated: Annotated, asking: Asking, label: str, things: Sequence[Thing], *, labels: Sequence[str] = ()
) -> Found:
    words = asking.words.replace("{labels}", ", ".join(labels)).replace("{label}", label)
    return Found(
        question=words,
        image=annotated.image,
        file=annotated.file,
        line=annotated.line,
        image_name=annotated.image_name,
        targets=tuple(_target(thing) for thing in things),
        id=":".join(part for part in (annotated.id, label) if part),
        extra=dict(annotated.extra),
    )


def _target(thing: Thing) -> Target:
    if len(thing.numbers) == 2:
        return Target(point=thing.numbers, label=thing.label or None, extra=thing.extra)
    left, top, right, bottom = thing.numbers
    return Target(box=(left, top, right, bottom), label=thing.label or None, extra=thing.extra)


def _reject(annotated: Annotated, reason: str) -> Rejected:
    name = f"{annotated.image_name}: " if annotated.image_name else ""
    return Rejected(str(annotated.file), annotated.line, f"{name}{reason}")
