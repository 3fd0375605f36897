"""What a data set is to a recipe: samples in tokens, rows and steps, from the headers of its pictures alone.

Nothing is decoded. Of a large data set a seeded sample of pictures is measured, with all their questions, and rows are
counted up to the whole; `measured` says how many. What only looking at pictures shows, `groundling check` tells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from groundling.data.record import Record
from groundling.data.shards import Shards, open_records, refuse_empty
from groundling.errors import GroundlingError, SettingsError
from groundling.geometry.frame import Frame
from groundling.geometry.images import read_frame
from groundling.inference.batch import IGNORED, Sample, encode_seen, encode_words, share_prefixes
from groundling.model.layout import Stretch
from groundling.model.patches import Patches
from groundling.model.processor import Processor
from groundling.settings import Settings
from groundling.training.records import blank_sample, longest_sample, measure_all, mix_numbers, room_for_samples
from groundling.training.rehearsal import RowShape
from groundling.training.rows import Length, RowPlan, RowSampler

MOST_MEASURED = 1000  # records, which take half a second
WORDS = 100  # tokens of a sample beside its picture: about 25 of control text, a question and a box
LEARNED = 40  # of them, a box with its label


class Spread(NamedTuple):
    """How a number is spread over the samples."""

    least: int
    median: int
    p95: int
    most: int


class Workload(NamedTuple):
    """What is trained on."""

    records: int  # usable ones, as often as an epoch has them
    pictures: int
    measured: int  # records whose lengths were counted; the rest is taken to be like them
    unreadable: int  # lines or pictures
    too_long: int  # of the measured
    tokens: Spread  # of a sample
    epoch_tokens: int  # in rows, shared pictures counted once
    rows: int  # an epoch, over all processes
    steps_an_epoch: int
    steps: int
    padding: float  # share of a padded batch of as many samples that would be padding; rows have none
    saved: float  # share of the samples' tokens that sharing pictures saves
    largest: RowShape  # the row that takes most


class _Measured(NamedTuple):
    record: Record
    frame: Frame | None
    length: Length


@dataclass(frozen=True)
class Samples:
    """Measured samples that stand for all of an epoch."""

    measured: Sequence[_Measured]
    processor: Processor
    scale: float  # samples of an epoch for each of these
    unreadable: int  # lines or pictures of the whole
    too_long: int  # beside these

    @property
    def tokens(self) -> int:
        """Of all that were measured, each with its own picture."""
        return sum(one.length.tokens for one in self.measured)

    def at_budget(self, max_tokens: int) -> Samples:
        """The same samples, their pictures of so many visual tokens at most."""
        processor = self.processor.with_contract(self.processor.contract.with_max_tokens(max_tokens))
        lengths = measure_all([(one.record, one.frame) for one in self.measured], processor)
        again = [one._replace(length=length) for one, length in zip(self.measured, lengths, strict=True)]
        return replace(self, measured=again, processor=processor)

    def fit(self, settings: Settings) -> bool:
        """Whether a row of the recipe has room for each of them."""
        return max(one.length.tokens for one in self.measured) <= min(
            settings.data.max_length, _room(self, settings) or settings.data.max_length
        )


def measure_workload(settings: Settings, processor: Processor) -> Workload:
    """The workload of a recipe's training records. SettingsError where none can be used, RecordError where none is."""
    return plan_rows(measure_samples(settings, processor), settings)


def measure_samples(settings: Settings, processor: Processor) -> Samples:
    """A recipe's training records as samples, of many a part. Errors as in `measure_workload`."""
    paths = [source.path for source in settings.data.train]
    scans = [open_records(path, allow_absolute=settings.data.allow_absolute) for path in paths]
    refuse_empty(paths, scans)
    lines = sum(len(scan.records) for scan in scans)
    share = min(1.0, MOST_MEASURED / max(1, lines))
    unreadable = sum(len(scan.rejected) for scan in scans)
    groups: list[list[_Measured]] = []
    too_long, taken = 0, 0
    for number, scan in enumerate(scans):
        chosen = _choose(scan.records, share, seed=settings.train.seed + number)
        taken += len(chosen)
        measured, lost = _measure(chosen, processor, settings)
        unreadable += round(lost / max(share, 1e-9))
        fitting = [one for one in measured if one.length.tokens <= longest_sample(settings)]
        too_long += len(measured) - len(fitting)
        groups.append(fitting)
    weights = [source.weight for source in settings.data.train]
    numbers = mix_numbers([len(group) for group in groups], weights, seed=settings.train.seed)
    mixed = [group[number] for group, chosen in zip(groups, numbers, strict=True) for number in chosen.tolist()]
    if not mixed:
        files = " ".join(map(str, paths))
        raise SettingsError(f"no record of data.train can be used; `groundling check {files}` tells why")
    return Samples(mixed, processor, lines / taken, unreadable, too_long)


def _choose(records: Sequence[Record], share: float, *, seed: int) -> list[Record]:
    """All records, or those about a seeded share of the pictures; words alone count as a picture each.

    Of shards, whose pictures lie in random order, so many row groups are taken: no others are read.
    """
    if share >= 1:
        return list(records)
    if isinstance(records, Shards):
        names = records.groups_of(records.rows_of(np.arange(len(records)))).tolist()
    else:
        names = [str(record.image) if record.image else f"line {record.line}" for record in records]
    pictures = list(dict.fromkeys(names))
    kept = np.random.default_rng(seed).permutation(len(pictures))[: max(1, round(share * len(pictures)))]
    wanted = {pictures[place] for place in kept.tolist()}
    return [records[number] for number, name in enumerate(names) if name in wanted]


def _measure(records: Sequence[Record], processor: Processor, settings: Settings) -> tuple[list[_Measured], int]:
    """The records with picture sizes and lengths, and how many have neither size nor readable picture."""
    find_frame = cache(partial(_read_frame, max_pixels=settings.images.max_file_pixels))
    sized = [(record, record.declared or (record.image and find_frame(record.image))) for record in records]
    readable = [(record, frame) for record, frame in sized if frame is not None or record.image is None]
    lengths = measure_all(readable, processor)
    measured = [_Measured(record, frame, length) for (record, frame), length in zip(readable, lengths, strict=True)]
    return measured, len(records) - len(measured)


def _read_frame(image: Path, max_pixels: int) -> Frame | None:
    try:
        return read_frame(image, max_pixels=max_pixels)
    except (GroundlingError, OSError):
        return None


def plan_rows(samples: Samples, settings: Settings) -> Workload:
    """What a recipe makes of the samples: its rows, and its steps."""
    train, mixed = settings.train, samples.measured
    records, lengths = [one.record for one in mixed], [one.length for one in mixed]
    plan = RowPlan(
        train.batch_size, _room(samples, settings), train.accumulate, settings.launch.devices, train.share_pictures
    )
    rows = [row.numbers for row in RowSampler([record.image for record in records], lengths, plan, seed=train.seed)]
    in_rows = [_tokens(row, records, lengths, train.share_pictures) for row in rows]
    tokens = [length.tokens for length in lengths]
    shapes = (
        _shape([mixed[number] for number in row], samples.processor, train.share_pictures)
        for row in _largest(rows, in_rows)
    )
    median, p95 = np.percentile(tokens, [50, 95])
    whole = round(len(rows) * samples.scale)
    steps = -(-whole // plan.rows_a_step)
    return Workload(
        records=round(len(mixed) * samples.scale),
        pictures=round(len({record.image for record in records} - {None}) * samples.scale),
        measured=len(mixed),
        unreadable=samples.unreadable,
        too_long=samples.too_long,
        tokens=Spread(min(tokens), round(float(median)), round(float(p95)), max(tokens)),
        epoch_tokens=round(sum(in_rows) * samples.scale),
        rows=whole,
        steps_an_epoch=steps,
        steps=train.max_steps or math.ceil(train.epochs * steps),
        padding=_padding(tokens, len(rows), seed=train.seed),
        saved=1 - sum(in_rows) / sum(tokens),
        largest=max(shapes, key=lambda shape: shape.tokens + shape.patches),
    )


def _room(samples: Samples, settings: Settings) -> int | None:
    """Tokens of a row that samples may have; None where rows are counted in samples."""
    pack_tokens = settings.train.pack_tokens
    return pack_tokens and room_for_samples([one.record for one in samples.measured], samples.processor, pack_tokens)


def _tokens(row: Sequence[int], records: Sequence[Record], lengths: Sequence[Length], is_shared: bool) -> int:
    """Of a row, each picture counted once where questions share it."""
    seen: set[Path | None] = {None}
    total = 0
    for number in row:
        image, length = records[number].image, lengths[number]
        total += length.tokens - (length.shared if is_shared and image in seen and image is not None else 0)
        seen.add(image)
    return total


def _largest(rows: Sequence[list[int]], tokens: Sequence[int], *, most: int = 8) -> list[list[int]]:
    return [rows[place] for place in np.argsort(tokens)[::-1][:most].tolist()]


def _shape(row: Sequence[_Measured], processor: Processor, is_shared: bool) -> RowShape:
    """A row as `pack_row` would lay it out."""
    seen: dict[Path, Patches] = {}
    samples: list[Sample] = []
    for record, frame, _ in row:
        if frame is None or record.image is None:
            samples.append(encode_words(processor, record, None))
            continue
        patches = seen.setdefault(record.image, processor.expect(frame))
        samples.append(encode_seen(processor, record, frame, patches if is_shared else Patches(*patches)))
    if all(sample.patches is None for sample in samples):
        samples.append(blank_sample(processor))
    stretches = share_prefixes(samples, processor)
    shown = [sample.patches for sample, stretch in zip(samples, stretches, strict=True) if not stretch.prefix]
    learned = sum(label != IGNORED for sample in samples for label in sample.labels)
    return RowShape(stretches, [patches.grid for patches in shown if patches is not None], learned)


def _padding(tokens: Sequence[int], rows: int, *, seed: int) -> float:
    """Of batches of as many samples as a row has, in random order, filled up to the longest of each."""
    order = np.random.default_rng(seed).permutation(len(tokens))
    size = max(1, round(len(tokens) / rows))
    batches = [
        [tokens[place] for place in order[start : start + size].tolist()] for start in range(0, len(order), size)
    ]
    return 1 - sum(tokens) / sum(len(batch) * max(batch) for batch in batches)


def worst_row(settings: Settings, *, max_tokens: int) -> RowShape:
    """A row of pictures at the budget, as full as the recipe allows, for where there are no data to measure."""
    train = settings.train
    sample = max_tokens + WORDS
    samples = max(1, train.pack_tokens // sample) if train.pack_tokens else train.batch_size
    rows = math.isqrt(max_tokens)
    grid = (1, 2 * rows, 2 * (max_tokens // rows))  # every family merges two by two patches
    return RowShape([Stretch(sample)] * samples, [grid] * samples, LEARNED * samples)
