"""Which change each training picture has in each epoch, decided before it is opened.

A change follows from a picture's size, its records, the seed and the epoch, so whoever plans rows knows how long a
changed sample is, every process decides alike, and a run that goes on from a checkpoint goes on with the same changes.
A picture has one change an epoch, whichever of its questions are asked and in however many rows: one that all of its
questions allow.

- Words may forbid a change (`words`), and a mirror rewrites them.
- A crop keeps a target (`crop_visible` of its area, the box cut to what is left) or loses it (`GONE`), nothing between.
  It leaves no question without targets, or, once in `crop_negatives` crops, makes a negative of it.
- A mosaic is of pictures that are asked the same: the right answer has the targets of all four, so for each question
  about the picture the other three need an answer of their own in the data.
- A record with an answer text may speak of any place in its picture: only colours and JPEG change there.
- No target is made so small by `scale` or `mosaic` that the model hardly sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from groundling.data.change import (
    GONE,
    LONGEST_JPEG,
    MIRRORED_TURNS,
    TURNS,
    Change,
    Colour,
    Pasted,
    change_targets,
    change_words,
    turned_frame,
    visible_shares,
)
from groundling.data.record import Record, Target
from groundling.data.words import MOVES, Move, moves_allowed
from groundling.dialect.family import Budget
from groundling.geometry.boxes import Boxes
from groundling.geometry.frame import Frame
from groundling.geometry.images import MAX_ASPECT

Answers = Mapping[str, Mapping[Path, tuple[Target, ...]]]

BEST_JPEG = 95  # above it files grow and pictures stay the same
SMALLEST_SIDE = 4  # seen pixels of a target, below which `check` calls it tiny
_WINDOWS = 20  # tried, until there is no crop this time
_PARTNERS = 64  # pictures looked at for the three others of a mosaic


@dataclass(frozen=True)
class Augmentation:
    """What may be done to a training picture: the recipe's section `augment`, which says the units."""

    flip: float
    rotate: float
    crop: float
    crop_sides: float
    crop_visible: float
    crop_negatives: float
    scale: float
    scale_sides: float
    colour: float
    colour_strength: float
    jpeg: float
    jpeg_quality: int
    mosaic: float

    @property
    def chances(self) -> dict[str, float]:
        """How often each change is wanted, in 0..1."""
        moves = {"flip": self.flip, "rotate": self.rotate, "crop": self.crop, "scale": self.scale}
        return moves | {"mosaic": self.mosaic, "colour": self.colour, "jpeg": self.jpeg}

    @property
    def is_on(self) -> bool:
        """Whether any change is ever wanted."""
        return any(self.chances.values())


@dataclass(frozen=True)
class Subject:
    """A picture, all that is asked about it, and the moves that every question allows."""

    number: int  # of its first record
    image: Path
    original: Frame
    records: tuple[Record, ...]
    allowed: frozenset[Move]

    @property
    def questions(self) -> list[str]:
        """Each question once."""
        return list(dict.fromkeys(record.question for record in self.records))


class Augmenter:
    """Decides every picture's change of every epoch, and makes it of records."""

    def __init__(
        self,
        records: Sequence[Record],
        frames: Mapping[Path, Frame],
        plan: Augmentation,
        *,
        seed: int,
        budget: Budget,
        fits: Callable[[Record, Frame], bool],
    ) -> None:
        """`frames` are the upright sizes of the records' pictures.

        `budget` is how large the model sees them; `fits` says of a changed record and its canvas whether it is short
        enough to be learned.
        """
        self.plan = plan
        self.seed = seed
        self.budget = budget
        self.fits = fits
        self.subjects = gather_subjects(records, frames)
        self.answers: Answers = gather_answers(records) if plan.mosaic else {}
        self._asked = {question: list(answers) for question, answers in self.answers.items()}

    def decide(self, image: Path, epoch: int, attempt: int = 0) -> Change | None:
        """The change of a picture; None where it stays as it is. Each attempt at an epoch's rows has its own."""
        change = self.propose(image, epoch, attempt)
        changed = (self.change_record(record, change) for record in self.subjects[image].records)
        is_kept = change.is_still or all(self.fits(record, change.canvas) for record in changed)
        return change.or_none if is_kept else change.stilled.or_none

    def propose(self, image: Path, epoch: int, attempt: int = 0) -> Change:
        """The change of a picture if no sample gets too long by it; else it is `Change.stilled`."""
        subject = self.subjects[image]
        dice = np.random.default_rng([self.seed, epoch, attempt, subject.number])
        chances = self.plan.chances
        rolls = dict(zip(chances, dice.random(len(chances)).tolist(), strict=True))
        wanted = {name for name, roll in rolls.items() if roll < chances[name]}

        change = self._choose_moves(subject, wanted & subject.allowed, dice)
        if "colour" in wanted:
            strength = self.plan.colour_strength
            change = replace(change, colour=Colour(*dice.uniform(1 - strength, 1 + strength, size=3).tolist()))
        if "jpeg" in wanted and max(subject.original.size_wh) <= LONGEST_JPEG:
            change = replace(change, jpeg=int(dice.integers(self.plan.jpeg_quality, BEST_JPEG, endpoint=True)))
        return change

    def change_record(self, record: Record, change: Change) -> Record:
        """The record about its changed picture: its question, and targets in the canvas's frame that are still seen.

        In a mosaic they are those that the same question has on all four pictures, in reading order.
        """
        if change.is_still:
            return record
        own = change.pictures[0]
        targets = [
            target
            for pasted in sorted(change.pictures, key=lambda pasted: (pasted.top, pasted.left))
            for target in change_targets(self._targets(record, pasted), pasted, change.canvas)
        ]
        width, height = change.canvas.size_wh
        question = change_words(record.question, own)
        return replace(record, question=question, targets=tuple(targets), width=width, height=height)

    def describe(self) -> str:
        """How many pictures may have each move; to the others words forbid it, or the lack of some asked the same."""
        counts = {move: sum(move in subject.allowed for subject in self.subjects.values()) for move in sorted(MOVES)}
        dice = np.random.default_rng(self.seed)
        with_others = (len(self._choose_partners(subject, dice)) == 3 for subject in self.subjects.values())
        told = ", ".join(f"{move} {count}" for move, count in counts.items() if self.plan.chances[move])
        told = f"augmentation, as words allow, of {len(self.subjects)} pictures: {told or 'no moves'}"
        return f"{told} ({sum(with_others)} have three others asked the same)" if self.plan.mosaic else told

    def _targets(self, record: Record, pasted: Pasted) -> Sequence[Target]:
        """The answer to a record's question on one picture of a change."""
        return record.targets if pasted.image == record.image else self.answers[record.question][pasted.image]

    # ---- moves

    def _choose_moves(self, subject: Subject, moves: Set[str], dice: np.random.Generator) -> Change:
        """A mosaic with the picture as it is; or the picture turned, then cut, then made smaller."""
        mosaic = self._choose_mosaic(subject, dice) if "mosaic" in moves else None
        if mosaic is not None:
            return mosaic
        turn = (MIRRORED_TURNS if "flip" in moves else TURNS)[int(dice.integers(1, 4)) if "rotate" in moves else 0]
        frame = turned_frame(subject.original, turn)
        kept = Pasted(subject.image, subject.original, turn, (0, 0, *frame.size_wh), frame, 0, 0)
        if "crop" in moves:
            kept = self._choose_window(subject, kept, dice)
        change = Change((kept,), kept.size)
        return self._choose_scale(subject, change, dice) if "scale" in moves else change

    def _choose_window(self, subject: Subject, whole: Pasted, dice: np.random.Generator) -> Pasted:
        """A part of the picture that keeps or loses each target; all of it where none was found."""
        may_lose_all = dice.random() < self.plan.crop_negatives
        for _ in range(_WINDOWS):
            size = _shrink(whole.size, *dice.uniform(self.plan.crop_sides, 1, size=2).tolist())
            left, top = _choose_place(size, whole.size, dice)
            kept = replace(whole, window=(left, top, left + size.width, top + size.height), size=size)
            is_too_long = max(size.size_wh) > MAX_ASPECT * min(size.size_wh)
            if not is_too_long and self._keeps_or_loses(subject, kept, may_lose_all=may_lose_all):
                return kept
        return whole

    def _keeps_or_loses(self, subject: Subject, kept: Pasted, *, may_lose_all: bool) -> bool:
        """Whether no target is half seen and no question without any; by leave, but then nothing of them is seen."""
        for record in subject.records:
            shares = visible_shares(record.targets, kept)
            is_kept = shares >= self.plan.crop_visible
            if not np.all(is_kept | (shares < GONE)):
                return False
            if record.targets and not is_kept.any() and (shares.any() or not may_lose_all):
                return False
        return True

    def _choose_scale(self, subject: Subject, change: Change, dice: np.random.Generator) -> Change:
        """The picture made smaller, somewhere on a canvas of the size that it had."""
        share = dice.uniform(self.plan.scale_sides, 1)
        size = _shrink(change.canvas, share, share)
        left, top = _choose_place(size, change.canvas, dice)
        smaller = replace(change, pictures=(replace(change.pictures[0], size=size, left=left, top=top),))
        return smaller if self._is_seen(subject, smaller) else change

    def _is_seen(self, subject: Subject, change: Change) -> bool:
        """Whether no side of a target's box is below SMALLEST_SIDE once the model sees the canvas."""
        changed = [self.change_record(record, change) for record in subject.records]
        boxes = Boxes(np.concatenate([record.true_boxes(change.canvas).xyxy for record in changed]), change.canvas)
        sides = boxes.xyxy[:, 2:] - boxes.xyxy[:, :2]
        return bool(np.all(sides * self.budget.estimate_scale(change.canvas) >= SMALLEST_SIDE))

    # ---- mosaics

    def _choose_mosaic(self, subject: Subject, dice: np.random.Generator) -> Change | None:
        """The picture and three others, each whole, in the quarters of a canvas of its size; None where it has none."""
        canvas = subject.original
        partners = self._choose_partners(subject, dice)
        if len(partners) < 3 or min(canvas.size_wh) < 2:
            return None
        quarters = _quarters(canvas)
        pictures = [
            _fit_into(self.subjects[image], quarters[place])
            for image, place in zip([subject.image, *partners], dice.permutation(4).tolist(), strict=True)
        ]
        mosaic = Change(tuple(pictures), canvas)
        return mosaic if self._is_seen(subject, mosaic) else None

    def _choose_partners(self, subject: Subject, dice: np.random.Generator) -> list[Path]:
        """Up to three other pictures that have an answer to every question about this one."""
        known = self._pictures_asked(subject)
        if not known:
            return []
        chosen = dict.fromkeys(known[place] for place in dice.integers(len(known), size=_PARTNERS).tolist())
        return list(islice((image for image in chosen if self._is_partner(image, subject)), 3))

    def _pictures_asked(self, subject: Subject) -> list[Path]:
        """Those that know the rarest of a picture's questions; none where one has two answers on the picture itself."""
        if not all(subject.image in self.answers.get(question, {}) for question in subject.questions):
            return []
        return min((self._asked[question] for question in subject.questions), key=len)

    def _is_partner(self, image: Path, subject: Subject) -> bool:
        is_known = all(image in self.answers[question] for question in subject.questions)
        return is_known and image != subject.image


# ---- what is asked ---------------------------------------------------------------------------------------------


def gather_subjects(records: Sequence[Record], frames: Mapping[Path, Frame]) -> dict[Path, Subject]:
    """The records by picture, those without one left out."""
    by_image: dict[Path, dict[Record, int]] = {}
    for number, record in enumerate(records):
        if record.image is not None:
            by_image.setdefault(record.image, {}).setdefault(record, number)
    return {
        image: Subject(next(iter(found.values())), image, frames[image], tuple(found), _moves_of(found))
        for image, found in by_image.items()
    }


def _moves_of(records: Mapping[Record, int]) -> frozenset[Move]:
    """The moves that leave every record true."""
    if any(record.answer is not None for record in records):
        return frozenset()
    return MOVES.intersection(*(moves_allowed(text) for record in records for text in _texts(record)))


def _texts(record: Record) -> list[str]:
    """A record's question and labels."""
    return [record.question, *(target.label for target in record.targets if target.label)]


def gather_answers(records: Sequence[Record]) -> Answers:
    """For each question the pictures that it is asked about, with its targets there.

    Without those where it has two answers, and where words, or labels, do not allow a mosaic.
    """
    answers: dict[str, dict[Path, tuple[Target, ...]]] = {}
    unsure: set[tuple[str, Path]] = set()
    for record in records:
        if record.image is None or record.answer is not None:
            continue
        known = answers.setdefault(record.question, {})
        is_other = known.setdefault(record.image, record.targets) != record.targets
        if is_other or not all("mosaic" in moves_allowed(text) for text in _texts(record)):
            unsure.add((record.question, record.image))
    for question, image in unsure:
        del answers[question][image]
    return answers


# ---- sizes -----------------------------------------------------------------------------------------------------


def _shrink(frame: Frame, width_share: float, height_share: float) -> Frame:
    return Frame(max(1, round(frame.width * width_share)), max(1, round(frame.height * height_share)))


def _choose_place(size: Frame, canvas: Frame, dice: np.random.Generator) -> tuple[int, int]:
    """Left and top of something of that size, anywhere on a canvas."""
    left = dice.integers(0, canvas.width - size.width, endpoint=True)
    top = dice.integers(0, canvas.height - size.height, endpoint=True)
    return int(left), int(top)


def _quarters(canvas: Frame) -> list[tuple[int, int, Frame]]:
    """Left, top and size of the quarters of a canvas of 2 pixels a side or more, in reading order."""
    middle, centre = canvas.width // 2, canvas.height // 2
    columns = ((0, middle), (middle, canvas.width - middle))
    rows = ((0, centre), (centre, canvas.height - centre))
    return [(left, top, Frame(width, height)) for top, height in rows for left, width in columns]


def _fit_into(subject: Subject, quarter: tuple[int, int, Frame]) -> Pasted:
    """A whole picture in the middle of a part of a canvas, as large as it holds."""
    left, top, room = quarter
    original = subject.original
    scale = min(room.width / original.width, room.height / original.height)
    width, height = (
        min(most, max(1, round(side * scale))) for side, most in zip(original.size_wh, room.size_wh, strict=True)
    )
    left, top = left + (room.width - width) // 2, top + (room.height - height) // 2
    return Pasted(subject.image, original, 1, (0, 0, *original.size_wh), Frame(width, height), left, top)
