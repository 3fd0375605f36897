"""What makes a training take less memory, and how much less: changes of a recipe that leave its global batch alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from groundling.model.layout import Stretch
from groundling.settings import Engine, Settings
from groundling.training.memory import DEVICE, GIB, Subject, estimate_memory
from groundling.training.rehearsal import Grid, RowShape

_HELPS = 0.98  # of the memory from before is left, at most, by what is worth telling
_BLANK: Grid = (1, 2, 2)  # the picture that a row of words alone gets
_FEW_TOKENS = 256  # of a picture: with half of them little would be seen


class Change(NamedTuple):
    """One setting and its other value."""

    section: str
    name: str
    value: bool | int | str | tuple[()]

    def __str__(self) -> str:
        shown = "true" if self.value is True else "[]" if self.value == () else self.value
        return f"{self.section}.{self.name}={shown}"


class Remedy(NamedTuple):
    """What to change, what that costs, and the memory that it then takes."""

    changes: tuple[Change, ...]
    costs: str
    total: int  # bytes at the moment that takes most
    fits: bool | None  # None where the device's memory is not known

    def __str__(self) -> str:
        what = " ".join(map(str, self.changes))
        verdict = {True: ", fits", False: ", still too much", None: ""}[self.fits]
        return f"{what}: {self.total / GIB:.1f} GiB{verdict} ({self.costs})"


class _Candidate(NamedTuple):
    costs: str
    changes: tuple[Change, ...]
    row: RowShape | None = None  # where it becomes another one


def find_remedies(
    subject: Subject, settings: Settings, row: RowShape, *, device_bytes: float | None, most: int = 3
) -> list[Remedy]:
    """The cheapest changes that help, those that suffice first. No step's records change by any of them."""
    before = estimate_memory(subject, settings, row).most.total
    found: list[Remedy] = []
    for one in _candidates(settings, row):
        after = estimate_memory(subject, apply(settings, one.changes), one.row or row)
        if after.most.total - DEVICE < (before - DEVICE) * _HELPS:
            fits = None if device_bytes is None else after.fits(device_bytes)
            found.append(Remedy(one.changes, one.costs, after.most.total, fits))
    return sorted(found, key=lambda remedy: remedy.fits is not True)[:most]


def apply(settings: Settings, changes: tuple[Change, ...]) -> Settings:
    """The recipe with other values."""
    values = settings.model_dump()
    for section, name, value in changes:
        values[section][name] = value
    return Settings.model_validate(values)


def _candidates(settings: Settings, row: RowShape) -> Iterator[_Candidate]:
    """Cheapest first: what costs time, what makes devices talk more, what shows less, what learns less."""
    tune, engine = settings.tune, settings.launch.engine or "ddp"
    twice = () if settings.train.gradient_checkpointing else (Change("train", "gradient_checkpointing", True),)
    half = halve_row(row)
    halved = () if half is None else _halve_rows(settings)
    if twice:
        yield _Candidate("about a third more time", twice)
    left_out = _describe_left_out(settings)
    if halved:
        yield _Candidate(f"shorter rows, the same step: a little more time{left_out}", halved, row=half)
    if twice and halved:
        yield _Candidate(f"about a third more time{left_out}", twice + halved, row=half)
    if settings.launch.devices > 1 and tune.method != "qlora":
        for other in _ENGINES_BEHIND[engine]:
            yield _Candidate("more talk between devices", (Change("launch", "engine", other),))
    less = None if settings.train.pack_tokens is not None else see_less(row)
    if less is not None:
        tokens = max(map(_visual_tokens, less.grids))
        yield _Candidate("half the sight: small targets suffer", (Change("images", "max_tokens", tokens),), row=less)
    beside = (*((Change("tune", "freeze", ()),) if tune.freeze else ()), *twice)
    if tune.method == "full":
        yield _Candidate("adapters can learn less than all weights", (Change("tune", "method", "lora"), *beside))
    if tune.method != "qlora" and engine == "ddp":
        yield _Candidate("adapters beside rounded weights; slower", (Change("tune", "method", "qlora"), *beside))


_ENGINES_BEHIND: dict[Engine, tuple[Engine, ...]] = {
    "ddp": ("zero2", "zero3"),
    "zero2": ("zero3",),
    "zero3": (),
    "fsdp2": (),
}


def _halve_rows(settings: Settings) -> tuple[Change, ...]:
    """Rows of half the size and twice as many in a step; nothing where they cannot be halved."""
    train = settings.train
    accumulate = Change("train", "accumulate", train.accumulate * 2)
    if train.pack_tokens is not None:
        return (Change("train", "pack_tokens", train.pack_tokens // 2), accumulate)
    if train.batch_size % 2:
        return ()
    return (Change("train", "batch_size", train.batch_size // 2), accumulate)


def _describe_left_out(settings: Settings) -> str:
    """What shorter rows have no room for any more, where that may happen."""
    room = (settings.train.pack_tokens or 0) // 2
    return f"; longer samples than {room} are set aside" if 0 < room < settings.data.max_length else ""


def halve_row(row: RowShape) -> RowShape | None:
    """The first half of a row's samples, with as many pictures as they have; None for a row of one sample."""
    samples = len(row.stretches)
    if samples < 2:
        return None
    kept = row.stretches[: -(-samples // 2)]
    roots = [stretch.length for stretch in kept if not stretch.prefix]  # each with a picture, or of words alone
    sizes = iter(row.grids)
    grid = next(sizes, None)
    grids: list[Grid] = []
    for length in roots:
        if grid is not None and _visual_tokens(grid) <= length:
            grids.append(grid)
            grid = next(sizes, None)
    return RowShape(kept, grids or [_BLANK], -(-row.learned // 2))


def _visual_tokens(grid: Grid) -> int:
    time, rows, columns = grid
    return time * rows * columns // 4  # every family merges two by two patches


def see_less(row: RowShape) -> RowShape | None:
    """A row whose pictures are half as high; None where little of them would be left, or words stand alone."""
    roots = [place for place, stretch in enumerate(row.stretches) if not stretch.prefix]
    largest = max(map(_visual_tokens, row.grids), default=0)
    if len(roots) != len(row.grids) or largest < _FEW_TOKENS:
        return None
    grids = [(time, max(2, rows // 4 * 2), columns) for time, rows, columns in row.grids]
    lost = {
        root: _visual_tokens(old) - _visual_tokens(new) for root, old, new in zip(roots, row.grids, grids, strict=True)
    }
    stretches = [
        Stretch(stretch.length, stretch.prefix - lost[stretch.root], stretch.root)
        if stretch.prefix
        else Stretch(stretch.length - lost[place])
        for place, stretch in enumerate(row.stretches)
    ]
    return RowShape(stretches, grids, row.learned)
