"""What a run learns from and is measured on: records read, judged, mixed, and the unusable ones set aside by name."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import Dataset, Sampler

from groundling.data.check import Finding, check, usable
from groundling.data.record import Record, Rejected, scan_records
from groundling.dialect.answer import Answer
from groundling.errors import RecordError, SettingsError
from groundling.evaluation.metrics import METRICS, Prediction, mark
from groundling.geometry.boxes import Boxes, Points
from groundling.geometry.frame import Frame
from groundling.geometry.images import open_image, read_frame
from groundling.inference.batch import IGNORED, Sample, encode_question, encode_seen, encode_words, pack_row
from groundling.model.patches import Patches
from groundling.model.processor import Processor
from groundling.settings import Settings

LOOK_AHEAD = 64  # groups


class TooLong(NamedTuple):
    """A sample that does not fit a row; nothing is ever cut from it, so it is left out."""

    record: Record
    tokens: int


class Gathered(NamedTuple):
    """The records of a run, in order."""

    train: list[Record]  # as often as its file's weight says
    test: list[Record]
    findings: list[Finding]  # everything `check` has to say
    too_long: list[TooLong]
    read: int  # lines of all files, readable or not


# ---- reading ---------------------------------------------------------------------------------------------------


def gather_records(settings: Settings, processor: Processor) -> Gathered:
    """Read, judge and mix a recipe's records.

    SettingsError where none is left to train on or, if there is a test file, to measure on; under `data.strict` also
    where any is bad. RecordError for one that the answer form cannot hold.
    """
    train, rejected = _scan([source.path for source in settings.data.train], settings)
    test, rejected_test = _scan(settings.data.test, settings)
    everything = [record for records in (*train, *test) for record in records]
    findings = check(
        everything,
        rejected=rejected + rejected_test,
        budget=processor.contract.budget,
        max_pixels=settings.images.max_file_pixels,
    )
    errors = [finding for finding in findings if finding.level == "error"]
    if errors and settings.data.strict:
        raise SettingsError(f"data.strict is set, and the data has {len(errors)} errors{_first(errors)}")

    usable_train = [usable(records, findings) for records in train]
    too_long = [found for records in usable_train for found in find_too_long(records, processor, settings)]
    left_out = {id(found.record) for found in too_long}
    kept = [[record for record in records if id(record) not in left_out] for records in usable_train]
    gathered = Gathered(
        train=mix_records(kept, [source.weight for source in settings.data.train], seed=settings.train.seed),
        test=[record for records in test for record in usable(records, findings) if record.answer is None],
        findings=findings,
        too_long=too_long,
        read=len(everything) + len(rejected) + len(rejected_test),
    )
    _refuse_nothing(gathered, settings)
    return gathered


def _scan(paths: Sequence[Path], settings: Settings) -> tuple[list[list[Record]], list[Rejected]]:
    scans = [scan_records(path, allow_absolute=settings.data.allow_absolute) for path in paths]
    return [scan.records for scan in scans], [bad for scan in scans for bad in scan.rejected]


def _refuse_nothing(gathered: Gathered, settings: Settings) -> None:
    errors = [finding for finding in gathered.findings if finding.level == "error"]
    if not gathered.train:
        long = f", {len(gathered.too_long)} longer than data.max_length" if gathered.too_long else ""
        raise SettingsError(f"no record of data.train can be used: {len(errors)} errors{long}{_first(errors)}")
    if settings.data.test and not gathered.test:
        raise SettingsError(f"no record of data.test can be used: {len(errors)} errors{_first(errors)}")


def _first(errors: Sequence[Finding]) -> str:
    if not errors:
        return ""
    place = f"{errors[0].file}:{errors[0].line}: " if errors[0].file else ""
    return f"; the first: {place}{errors[0].message}"


def mix_records(groups: Sequence[Sequence[Record]], weights: Sequence[float], *, seed: int) -> list[Record]:
    """The records of all groups, each group's as often as its weight says: 2 is twice each, 0.5 a seeded half.

    SettingsError for a weight that leaves none of them.
    """
    mixed: list[Record] = []
    for number, (records, weight) in enumerate(zip(groups, weights, strict=True)):
        whole, rest = divmod(round(weight * len(records)), max(1, len(records)))
        if records and not whole and not rest:
            raise SettingsError(f"data.train: a weight of {weight} leaves none of the {len(records)} records of a file")
        chosen = np.random.default_rng([seed, number]).permutation(len(records))[:rest]
        mixed += [*records] * whole + [records[index] for index in sorted(chosen.tolist())]
    return mixed


def choose_sample(records: Sequence[Record], size: int, *, seed: int) -> list[Record]:
    """The same `size` records every time, in file order; all where there are no more."""
    chosen = np.random.default_rng(seed).permutation(len(records))[:size]
    return [records[index] for index in sorted(chosen.tolist())]


def refuse_unmeasurable(sample: Sequence[Record], metric: str) -> None:
    """SettingsError where the metric that is to pick the best checkpoint applies to no record of the test sample."""
    unit = Frame(1, 1)
    silence = Answer(Boxes([], unit), Points([], unit), labels=[], text="", flaw="empty", seen=unit)
    shares = mark([Prediction(record, silence, unit) for record in sample]).shares()
    if np.isnan(dict(zip(METRICS, shares, strict=True))[metric]):
        raise SettingsError(
            f"evaluate.metric is {metric}, which applies to none of the {len(sample)} test records asked"
        )


# ---- lengths ---------------------------------------------------------------------------------------------------


def find_too_long(records: Sequence[Record], processor: Processor, settings: Settings) -> Iterator[TooLong]:
    """Records whose sample is longer than `data.max_length`. RecordError for one that the answer form cannot hold."""
    for record in records:
        try:
            tokens = count_tokens(record, processor, settings.images.max_file_pixels)
        except SettingsError as error:
            raise RecordError(f"{record.place}: {error}") from None
        if tokens > settings.data.max_length:
            yield TooLong(record, tokens)


def count_tokens(record: Record, processor: Processor, max_pixels: int) -> int:
    """Tokens of a record's sample."""
    return len(_expect_sample(record, processor, max_pixels).input_ids)


def longest_answer(records: Sequence[Record], processor: Processor, max_pixels: int) -> int:
    """Tokens of the longest true answer, its end token counted; 0 without records."""
    samples = (_expect_sample(record, processor, max_pixels) for record in records)
    return max((sum(label != IGNORED for label in sample.labels) for sample in samples), default=0)


def _expect_sample(record: Record, processor: Processor, max_pixels: int) -> Sample:
    """A record's sample without its pixels, from the picture's header alone."""
    if record.image is None:
        return encode_words(processor, record, None)
    original = read_frame(record.image, max_pixels=max_pixels)
    return encode_seen(processor, record, original, processor.expect(original))


def write_set_aside(gathered: Gathered, file: Path) -> int:
    """One line for each reason why a record is not trained on or measured, with its place; returns how many records."""
    lines: list[dict[str, Any]] = [
        {"file": bad.file, "line": bad.line, "record": bad.record, "code": bad.code, "reason": bad.message}
        for bad in gathered.findings
        if bad.level == "error"
    ]
    for record, tokens in gathered.too_long:
        place = {"file": str(record.file), "line": record.line, "record": record.id}
        lines.append(place | {"code": "too_long", "reason": f"{tokens} tokens, more than data.max_length"})
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return len({(line["file"], line["line"], line["record"]) for line in lines})


# ---- samples ---------------------------------------------------------------------------------------------------


class RecordDataset(Dataset[Sample]):
    """Records as training samples; pictures are opened when they are asked for.

    With `share_pictures` samples of a row about one picture hold the same patches, by which `pack_row` knows them.
    """

    def __init__(
        self, records: Sequence[Record], processor: Processor, *, max_pixels: int, share_pictures: bool = True
    ) -> None:
        self.records = records
        self.processor = processor
        self.max_pixels = max_pixels
        self.share_pictures = share_pictures

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """The samples of one row; each picture is opened once."""
        seen: dict[Path, tuple[Frame, Patches]] = {}
        samples: list[Sample] = []
        for record in (self.records[index] for index in indices):
            if record.image is None:
                samples.append(encode_words(self.processor, record, None))
                continue
            if record.image not in seen:
                picture = open_image(record.image, max_pixels=self.max_pixels)
                seen[record.image] = Frame(*picture.size), self.processor.see(picture)
            original, patches = seen[record.image]
            own = patches if self.share_pictures else Patches(*patches)
            samples.append(encode_seen(self.processor, record, original, own))
        return samples


class RowSampler(Sampler[int]):
    """Every record once an epoch, questions about one picture side by side in the rows of an optimizer step.

    A step of `step_size` records comes in rows of `batch_size`, over all devices and accumulated batches; it holds the
    same records however it is cut into rows. Of one picture a step takes `most` questions together, so that none owns
    it; 1 is a plain shuffle. The order depends on seed and epoch alone.
    """

    def __init__(self, records: Sequence[Record], *, step_size: int, batch_size: int, most: int, seed: int) -> None:
        self.images = [record.image for record in records]
        self.step_size = step_size
        self.batch_size = batch_size
        self.most = most
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Told by accelerate before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[int]:
        groups = group_questions(self.images, self.most, np.random.default_rng([self.seed, self.epoch]))
        rows = (row for step in fill(groups, self.step_size) for row in fill(step, self.batch_size))
        return (index for row in rows for group in row for index in group)


def group_questions(images: Sequence[Path | None], most: int, rng: np.random.Generator) -> list[list[int]]:
    """Indices in random groups of up to `most` about one picture, the groups in random order."""
    by_image: dict[Path, list[int]] = {}
    groups: list[list[int]] = []
    for index in rng.permutation(len(images)).tolist():
        image = images[index]
        if image is None:
            groups.append([index])
        else:
            by_image.setdefault(image, []).append(index)
    groups += [found[start : start + most] for found in by_image.values() for start in range(0, len(found), most)]
    return [groups[place] for place in rng.permutation(len(groups))]


def fill(groups: Sequence[list[int]], size: int) -> list[list[list[int]]]:
    """The groups in bins of `size` members, the last of what is left.

    One that does not fit whole waits, if one a little further on does; where none does, it is cut.
    """
    waiting, bins, room = deque(groups), list[list[list[int]]](), 0
    while waiting:
        if not room:
            bins.append([])
            room = size
        fitting = (place for place, group in enumerate(islice(waiting, LOOK_AHEAD)) if len(group) <= room)
        place = next(fitting, 0)
        group = waiting[place]
        del waiting[place]
        bins[-1].append(group[:room])
        if group[room:]:
            waiting.appendleft(group[room:])
        room -= len(bins[-1][-1])
    return bins


def join_samples(samples: Sequence[Sample], processor: Processor) -> dict[str, Any]:
    """A training row of the samples (`pack_row`), with a picture in it whatever they are.

    A row of words alone gets a blank picture that nobody is asked about: the vision tower then runs, and has gradients
    (of zero), on every process, which all ways of spreading a model over devices rely on.
    """
    if all(sample.patches is None for sample in samples):
        side = processor.family.token_side
        blank = processor.see(Image.new("RGB", (side, side)))
        samples = [*samples, encode_question(processor, "", blank)]
    return pack_row(samples, processor)
