"""What makes a training take less memory: changes of its recipe, what they cost, and how much less it then takes.

No change is made by itself. One that puts other records into a step says how many steps an epoch then has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple

from groundling.model.layout import Stretch
from groundling.settings import Engine, Settings
from groundling.training.memory import DEVICE, SPARE, Estimates, Subject, show_memory
from groundling.training.rehearsal import Grid, RowShape
from groundling.training.workload import Samples, Workload, plan_rows

_HELPS = 0.99  # of the memory from before is left, at most, by what is worth telling
_BLANK: Grid = (1, 2, 2)  # the picture that a row of words alone gets
_FEW_TOKENS = 256  # of a picture: with half of them little would be seen
_FEW_RANKS = 8  # of an adapter: half of them learn little
_SAME_STEP = 0.01  # more or fewer steps an epoch, at most, are as good as the same ones
_PARTS = range(2, 9)  # into which rows may be cut
_NEAR = (0, 2, -2, 4, -4, 8, -8)  # per cent by which rows may be longer or shorter than their pictures make them
_MOST_TOGETHER = 4  # changes


class Change(NamedTuple):
    """One setting, by its dotted name, and its other value."""

    key: str
    value: bool | int | float | str | tuple[str, ...] | None

    def __str__(self) -> str:
        match self.value:
            case bool():
                shown = str(self.value).lower()
            case float():
                shown = f"{self.value:g}"
            case tuple():
                shown = f"[{','.join(self.value)}]"
            case _:
                shown = str(self.value)
        return f"{self.key}={shown}"


class Remedy(NamedTuple):
    """What to change, what that costs, and the memory that it then takes."""

    changes: tuple[Change, ...]
    costs: str
    total: int  # bytes at the moment that takes most
    fits: bool | None  # None where the device's memory is not known

    def __str__(self) -> str:
        what = " ".join(map(str, self.changes))
        verdict = {True: ", fits", False: ", still too much", None: ""}[self.fits]
        return f"{what}: {show_memory(self.total)}{verdict} ({self.costs})"


@dataclass(frozen=True)
class Case:
    """A training for which there may be too little memory, as its recipe is or as it was changed."""

    recipe: Settings
    settings: Settings  # of the recipe as it was changed
    row: RowShape  # that takes most
    samples: Samples | None  # None where there are none to measure
    has_gpu: bool  # where it is trained
    before: Workload | None  # of the recipe as it is
    work: Workload | None  # of the recipe as it was changed
    changes: Mapping[str, Change] = field(default_factory=dict)  # by their keys
    costs: Mapping[str, str] = field(default_factory=dict)  # by the key of what they are for

    def after(self, costs: str, first: Change, *others: Change) -> Case:
        """The same training with other values, and what these cost; what the others undo costs nothing any more."""
        undone = {change.key for change in others}
        left = {key: told for key, told in self.costs.items() if key not in undone}
        return replace(self.beside(first, *others), costs=left | {first.key: costs})

    def beside(self, *changes: Change) -> Case:
        """The same training with other values beside those that it has been changed by; the recipe's are no change."""
        changed = {**self.changes} | {change.key: change for change in changes}
        others = {key: change for key, change in changed.items() if change != read(self.recipe, key)}
        return replace(self, settings=apply(self.settings, changes), changes=others)

    def with_rows(self, samples: Samples | None, guess: RowShape) -> Case:
        """The same with the rows of these samples; where there are none, with a guess at the row that takes most."""
        return replace(self, row=guess) if samples is None else self.with_work(plan_rows(samples, self.settings))

    def with_work(self, work: Workload) -> Case:
        """The same with rows as they were planned."""
        return replace(self, work=work, row=work.largest)


Option = Callable[[Case], Case | None]  # None where there is nothing to change


def find_remedies(
    subject: Subject,
    settings: Settings,
    row: RowShape,
    *,
    samples: Samples | None,
    device_bytes: float | None,
    has_gpu: bool = True,
    most: int = 3,
) -> list[Remedy]:
    """The cheapest changes after which it fits, alone or together, cheapest first, then those that help at least.

    Where nothing suffices, all that is known together comes last, beside so many.
    """
    work = None if samples is None else plan_rows(samples, settings)
    case, estimates = Case(settings, settings, row, samples, has_gpu, work, work), Estimates(subject)
    before = estimates.estimate(settings, row).most.total

    def judge(changed: Case) -> Remedy:
        memory = estimates.estimate(changed.settings, changed.row)
        fits = None if device_bytes is None else memory.fits(device_bytes)
        return Remedy(tuple(changed.changes.values()), _describe_costs(changed), memory.most.total, fits)

    def may_fit(changed: Case) -> bool:
        return estimates.least(changed.settings) <= (device_bytes or 0) * (1 - SPARE)

    fitting = list(islice(_find_fitting(case, judge, may_fit), most)) if device_bytes else []
    judged = (judge(changed) for option in OPTIONS if (changed := option(case))) if len(fitting) < most else ()
    helping = (remedy for remedy in judged if not remedy.fits and remedy.total - DEVICE < (before - DEVICE) * _HELPS)
    found = [*fitting, *islice(helping, most - len(fitting))]
    if device_bytes and not fitting and len(found) > 1:
        found.append(judge(_change_all(case)))
    return found


def _find_fitting(case: Case, judge: Callable[[Case], Remedy], may_fit: Callable[[Case], bool]) -> Iterator[Remedy]:
    """Changes that suffice, none of which could be left out; sets without the dearest option first, then the next."""
    enough: list[set[Option]] = []
    known: dict[tuple[Option, ...], Case | None] = {(): case}

    def change(options: tuple[Option, ...]) -> Case | None:
        """The case after all of them; None where one has nothing to change."""
        if options not in known:
            before = change(options[:-1])
            known[options] = None if before is None else options[-1](before)
        return known[options]

    for options in _combine():
        if any(other <= set(options) for other in enough):
            continue
        of_rows = tuple(each for each in options if each in _OF_ROWS)
        others = tuple(each for each in options if each not in _OF_ROWS)
        light = change(others)
        changed = change(of_rows + others) if light is not None and may_fit(light) else None
        if changed is not None and (remedy := judge(changed)).fits:
            enough.append(set(options))
            yield remedy


def _combine() -> Iterator[tuple[Option, ...]]:
    """Sets of options, each as a number in binary whose digits they are."""
    for number in range(1, 2 ** len(OPTIONS)):
        if number.bit_count() <= _MOST_TOGETHER:
            yield tuple(option for place, option in enumerate(OPTIONS) if number >> place & 1)


def _change_all(case: Case) -> Case:
    """The case after each that has something to change."""
    for option in OPTIONS:
        case = option(case) or case
    return case


def _describe_costs(case: Case) -> str:
    """What the changes cost, and what they do to a step's records where rows are cut by tokens."""
    told = ["together", *case.costs.values()] if len(case.costs) > 1 else [*case.costs.values()]
    if "train.pack_tokens" in case.changes:
        told.append(_describe_steps(case.before, case.work))
        tokens = case.settings.train.pack_tokens or 0
        if tokens < case.settings.data.max_length:
            told.append(f"samples of more than {tokens} tokens are set aside")
    return "; ".join(told)


def _describe_steps(before: Workload | None, after: Workload | None) -> str:
    """How many steps there are, and how many records each has by that."""
    if before is None or after is None:
        return "steps of other records, how many cannot be told without data"
    if after.steps_an_epoch == before.steps_an_epoch:
        return f"steps of other records, {after.steps_an_epoch:,} an epoch as before"
    more = before.steps_an_epoch / after.steps_an_epoch - 1
    told = f"{before.steps_an_epoch:,} -> {after.steps_an_epoch:,} steps an epoch"
    return f"{told}, each of {abs(more):.1%} {'more' if more > 0 else 'fewer'} records"


def apply(settings: Settings, changes: Sequence[Change]) -> Settings:
    """The recipe with other values."""
    values: Any = settings.model_dump()
    for key, value in changes:
        *sections, name = key.split(".")
        inner = values
        for section in sections:
            inner = inner[section]
        inner[name] = value
    return Settings.model_validate(values)


def read(settings: Settings, key: str) -> Change:
    """A setting as it is; None where a library's own default stands."""
    *sections, name = key.split(".")
    values: Any = settings.model_dump()
    for section in sections:
        values = values[section]
    return Change(key, values.get(name))


# ---- what only takes time --------------------------------------------------------------------------------------


def _shorten_rows(case: Case) -> Case | None:
    """Smaller rows, and more of them in a step."""
    train, costs = case.settings.train, "a little more time"
    if train.pack_tokens is not None and case.samples is not None:
        return _pack_shorter(case, case.samples, costs)
    size = train.pack_tokens or train.batch_size
    parts = 2 if train.pack_tokens else next((each for each in _PARTS if size % each == 0), None)
    row = None if parts is None else cut_row(case.row, parts)
    if parts is None or row is None:
        return None
    name = "train.pack_tokens" if train.pack_tokens else "train.batch_size"
    changed = case.after(costs, Change(name, size // parts), _accumulate(train.accumulate * parts))
    return changed.with_rows(case.samples, row)


def _pack_shorter(case: Case, samples: Samples, costs: str) -> Case | None:
    """Rows of fewer tokens, and so many in a step that it has about as many records as before."""
    assert case.work is not None
    train, steps = case.settings.train, case.work.steps_an_epoch * case.settings.launch.devices

    def cut(parts: int) -> Case | None:
        tokens = Change("train.pack_tokens", (train.pack_tokens or 0) // parts)
        shorter = case.after(costs, tokens, _accumulate(train.accumulate * parts))
        if not samples.fit(shorter.settings):
            return None
        rows = plan_rows(samples, shorter.settings).rows
        changed = case.after(costs, tokens, _accumulate(max(1, round(rows / steps))))
        return changed.with_work(plan_rows(samples, changed.settings))

    return _choose_step(cut(parts) for parts in _PARTS)


def _accumulate(rows: int) -> Change:
    return Change("train.accumulate", rows)


def _choose_step(tried: Iterable[Case | None]) -> Case | None:
    """The first whose steps are as many as the recipe's, give or take one per cent, else that which is nearest."""
    nearest: tuple[float, Case] | None = None
    for case in tried:
        if case is None or case.work is None or case.before is None:
            continue
        apart = abs(case.work.steps_an_epoch / case.before.steps_an_epoch - 1)
        if apart <= _SAME_STEP:
            return case
        nearest = min(nearest or (apart, case), (apart, case), key=lambda each: each[0])
    return nearest and nearest[1]


def _compute_twice(case: Case) -> Case | None:
    if case.settings.train.gradient_checkpointing:
        return None
    return case.after("about a third more time", Change("train.gradient_checkpointing", True))


def _spread(engine: Engine) -> Option:
    """An option that spreads the model over the devices by an engine."""

    def spread(case: Case) -> Case | None:
        launch = case.settings.launch
        is_further = engine in _FURTHER[launch.engine or "ddp"]
        if launch.devices == 1 or case.settings.tune.method == "qlora" or not is_further:
            return None
        if engine == "fsdp2" and not case.has_gpu:
            return None
        return case.after(_TALK[engine], Change("launch.engine", engine))

    return spread


_FURTHER: dict[Engine, tuple[Engine, ...]] = {
    "ddp": ("zero2", "fsdp2", "zero3"),
    "zero2": ("zero3",),
    "zero3": (),
    "fsdp2": (),
}
_TALK: dict[Engine, str] = {
    "zero2": 'more talk between devices; needs "groundling[deepspeed]"',
    "fsdp2": "much more talk between devices",
    "zero3": 'much more talk between devices; needs "groundling[deepspeed]"',
}


# ---- what rounds -----------------------------------------------------------------------------------------------


def _round_arithmetic(case: Case) -> Case | None:
    if case.settings.train.bf16 is not False or not case.has_gpu:
        return None
    return case.after("arithmetic of fewer digits, and faster", Change("train.bf16", True))


def _round_frozen(case: Case) -> Case | None:
    if not case.settings.tune.has_adapters or case.settings.model.dtype != "float32":
        return None
    return case.after("frozen weights of fewer digits", Change("model.dtype", "bfloat16"))


def _round_optimizer(case: Case) -> Case | None:
    """bitsandbytes knows GPUs only, and no weights that are spread."""
    launch, optimizer = case.settings.launch, str(case.settings.trainer.get("optim", "adamw_torch"))
    is_spread = launch.devices > 1 and not _is_whole(case.settings)
    if not case.has_gpu or is_spread or optimizer not in _ADAMW:
        return None
    costs = 'AdamW\'s numbers in 8 bits, hardly a loss; needs "groundling[qlora]"'
    return case.after(costs, Change("trainer.optim", "adamw_8bit"), *_as_copies(case))


_ADAMW = ("adamw_torch", "adamw_torch_fused")  # of transformers' TrainingArguments


def _is_whole(settings: Settings) -> bool:
    return settings.launch.engine in (None, "ddp")


def _as_copies(case: Case) -> tuple[Change, ...]:
    """What has a whole copy of the model on each device, as the recipe has where it does."""
    whole = case.recipe.launch.engine if _is_whole(case.recipe) else "ddp"
    return () if _is_whole(case.settings) else (Change("launch.engine", whole),)


# ---- what learns or sees less ----------------------------------------------------------------------------------


def _halve_adapter(case: Case) -> Case | None:
    """Half the rank at the same scale, alpha / rank."""
    tune = case.settings.tune
    if not tune.has_adapters or tune.lora.rank < 2 * _FEW_RANKS or tune.lora.rank % 2:
        return None
    changes = Change("tune.lora.rank", tune.lora.rank // 2), Change("tune.lora.alpha", tune.lora.alpha / 2)
    return case.after("adapters of half the width learn less", *changes)


def _freeze_tower(case: Case) -> Case | None:
    tune = case.settings.tune
    if tune.method != "full" or tune.freeze:
        return None
    return case.after("the vision tower does not learn", Change("tune.freeze", ("vision",)))


def _factor_optimizer(case: Case) -> Case | None:
    """Adafactor keeps a number for each row and column of a weight (arXiv 1804.04235)."""
    optimizer = str(case.settings.trainer.get("optim", "adamw_torch"))
    if optimizer not in (*_ADAMW, "adamw_8bit") or not _is_whole(case.settings):
        return None
    costs = "another optimizer than AdamW, which may want another learning rate"
    return case.after(costs, Change("trainer.optim", "adafactor"))


def _halve_sight(case: Case) -> Case | None:
    """Pictures of half the tokens, and rows by tokens as much shorter: else they would only hold more pictures."""
    largest = max(map(_visual_tokens, case.row.grids), default=0)
    tokens, pack_tokens = largest // 2, case.settings.train.pack_tokens
    row = see_less(case.row, tokens)
    if largest < _FEW_TOKENS or tokens < (case.settings.images.min_tokens or 0) or row is None:
        return None
    changed = case.after("half the sight: small targets suffer", Change("images.max_tokens", tokens))
    less = None if case.samples is None else case.samples.at_budget(tokens)
    if pack_tokens is None:
        return changed.with_rows(less, row)
    if case.samples is None or less is None:
        shorter = Change("train.pack_tokens", round(pack_tokens * row.tokens / case.row.tokens))
        return changed.beside(shorter).with_rows(None, row)
    return _pack_less(changed, case.samples, less)


def _pack_less(case: Case, samples: Samples, less: Samples) -> Case | None:
    """Rows as much shorter as samples have become, or nearly so, for steps of about as many records."""
    pack_tokens = (case.settings.train.pack_tokens or 0) * less.tokens / samples.tokens

    def pack(per_cent: int) -> Case | None:
        changed = case.beside(Change("train.pack_tokens", round(pack_tokens * (1 + per_cent / 100))))
        return changed.with_work(plan_rows(less, changed.settings)) if less.fit(changed.settings) else None

    return _choose_step(pack(per_cent) for per_cent in _NEAR)


def _use_adapters(case: Case) -> Case | None:
    if case.settings.tune.method != "full":
        return None
    costs = "adapters can learn less than all weights"
    return case.after(costs, Change("tune.method", "lora"), *_unfreeze(case.settings))


def _use_4_bits(case: Case) -> Case | None:
    """Of copies side by side alone."""
    if case.settings.tune.method == "qlora" or not case.has_gpu:
        return None
    costs = 'adapters beside rounded weights, slower; needs "groundling[qlora]"'
    beside = (*_unfreeze(case.settings), *_as_copies(case))
    return case.after(costs, Change("tune.method", "qlora"), *beside)


def _unfreeze(settings: Settings) -> tuple[Change, ...]:
    """What adapters ask for, beside which all is frozen."""
    return (Change("tune.freeze", ()),) if settings.tune.freeze else ()


OPTIONS: tuple[Option, ...] = (
    _shorten_rows,
    _compute_twice,
    _spread("zero2"),
    _spread("fsdp2"),
    _spread("zero3"),
    _round_optimizer,
    _round_frozen,
    _round_arithmetic,
    _halve_adapter,
    _freeze_tower,
    _factor_optimizer,
    _halve_sight,
    _use_adapters,
    _use_4_bits,
)
"""Cheapest first: what takes time, what rounds, what learns or sees less."""

_OF_ROWS = (_shorten_rows, _halve_sight)  # take some time to work out, and change no weights


# ---- rows ------------------------------------------------------------------------------------------------------


def cut_row(row: RowShape, parts: int) -> RowShape | None:
    """The first of so many parts of a row's samples, with as many pictures as they have; None for one sample."""
    samples = len(row.stretches)
    if samples < 2:
        return None
    kept = row.stretches[: -(-samples // parts)]
    roots = [stretch.length for stretch in kept if not stretch.prefix]  # each with a picture, or of words alone
    sizes = iter(row.grids)
    grid = next(sizes, None)
    grids: list[Grid] = []
    for length in roots:
        if grid is not None and _visual_tokens(grid) <= length:
            grids.append(grid)
            grid = next(sizes, None)
    return RowShape(kept, grids or [_BLANK], -(-row.learned // parts))


def _visual_tokens(grid: Grid) -> int:
    time, rows, columns = grid
    return time * rows * columns // 4  # every family merges two by two patches


def see_less(row: RowShape, max_tokens: int) -> RowShape | None:
    """A row whose larger pictures are so much lower that they have so many tokens; None where words stand alone."""
    roots = [place for place, stretch in enumerate(row.stretches) if not stretch.prefix]
    if len(roots) != len(row.grids):
        return None
    grids = [_lower(grid, max_tokens) for grid in row.grids]
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


def _lower(grid: Grid, max_tokens: int) -> Grid:
    time, rows, columns = grid
    tokens = _visual_tokens(grid)
    return grid if tokens <= max_tokens else (time, max(2, rows * max_tokens // tokens // 2 * 2), columns)
