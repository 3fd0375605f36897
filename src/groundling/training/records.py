"""What a run learns from and is measured on: records read, judged, mixed, and the unusable ones set aside by name."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import cache, lru_cache, partial
from itertools import islice, tee
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from groundling.data.augment import Augmentation, Augmenter
from groundling.data.change import Change, change_picture
from groundling.data.check import Finding, check, find_own_errors, usable
from groundling.data.findings import key_of
from groundling.data.look import find_unreadable
from groundling.data.record import Record, Rejected
from groundling.data.shards import Shards, open_records, refuse_empty
from groundling.dialect.answer import Answer
from groundling.errors import RecordError, SettingsError
from groundling.evaluation.metrics import METRICS, Prediction, mark
from groundling.geometry.boxes import Boxes, Points
from groundling.geometry.frame import Frame
from groundling.geometry.images import open_image, read_frame
from groundling.inference.batch import (
    Counted,
    Sample,
    Sketch,
    count_tokens,
    encode_question,
    encode_seen,
    encode_words,
    pack_row,
    sketch_sample,
)
from groundling.model.contract import Contract
from groundling.model.patches import Patches
from groundling.model.processor import Processor
from groundling.settings import Settings
from groundling.training.mixture import Mixture, Part
from groundling.training.rows import Length, Lengths, Row

_ENCODED_AT_ONCE = 1024  # samples
_KEPT_SIZES = 4096  # of pictures


class TooLong(NamedTuple):
    """A sample that does not fit a row; nothing is ever cut from it, so it is left out."""

    record: Record
    tokens: int


class Gathered(NamedTuple):
    """The records of a run, in order."""

    train: Sequence[Record]  # as often as its file's weight says; a Mixture where some of it lies in shards
    lengths: Sequence[Length]  # of the samples of `train`
    test: list[Record]
    findings: list[Finding]  # everything `check` has to say
    too_long: list[TooLong]
    read: int  # lines of all files, readable or not
    frames: dict[Path, Frame]  # upright sizes of the pictures of `train`, where they are augmented


# ---- reading ---------------------------------------------------------------------------------------------------


def gather_records(
    settings: Settings, processor: Processor, *, progress: Callable[[int, int], None] | None = None
) -> Gathered:
    """Read, judge and mix a recipe's records; `progress` is told (pictures looked at, pictures in all).

    SettingsError where none is left to train on or, if there is a test file, to measure on; under `data.strict` also
    where any is bad, and where the answer form cannot hold a mosaic's. RecordError for a record that it cannot hold,
    and for files without any.
    """
    _refuse_mosaic_of_one(settings, processor.contract)
    train, rejected = _scan([source.path for source in settings.data.train], settings)
    test, rejected_test = _scan(settings.data.test, settings)
    test = [list(records) for records in test]  # all of them are asked, so all of them are looked at
    max_pixels = settings.images.max_file_pixels
    together = [record for records in (*train, *test) if not isinstance(records, Shards) for record in records]
    budget, bad_lines = processor.contract.budget, rejected + rejected_test
    findings = check(together, rejected=bad_lines, budget=budget, max_pixels=max_pixels, progress=progress)
    _refuse_errors(findings, settings)
    judges = [
        _judge_alone(records, max_pixels, progress) if isinstance(records, Shards) else _judge_by(findings)
        for records in train
    ]
    measured = [measure_usable(*each, processor, settings) for each in zip(train, judges, strict=True)]
    of_shards = zip(train, measured, strict=True)
    findings += [found for records, each in of_shards if isinstance(records, Shards) for found in each.errors]
    _refuse_errors(findings, settings)

    weights = [source.weight for source in settings.data.train]
    mixed = mix_numbers([len(each.numbers) for each in measured], weights, seed=settings.train.seed)
    parts = [Part(records, each.numbers[places]) for records, each, places in zip(train, measured, mixed, strict=True)]
    records = Mixture(parts)
    gathered = Gathered(
        train=records if any(isinstance(part.records, Shards) for part in parts) else list(records),
        lengths=Lengths(np.concatenate([each.lengths[places] for each, places in zip(measured, mixed, strict=True)])),
        test=[record for records in test for record in usable(records, findings) if record.answer is None],
        findings=findings,
        too_long=[long for each in measured for long in each.too_long],
        read=sum(map(len, (*train, *test, rejected, rejected_test))),
        frames=_read_frames(records, settings),
    )
    _refuse_nothing(gathered, settings)
    return gathered


def _scan(paths: Sequence[Path], settings: Settings) -> tuple[list[Sequence[Record]], list[Rejected]]:
    scans = [open_records(path, allow_absolute=settings.data.allow_absolute) for path in paths]
    refuse_empty(paths, scans)
    return [scan.records for scan in scans], [bad for scan in scans for bad in scan.rejected]


Judge = Callable[[Record], list[Finding]]  # gives a record's errors


def _judge_alone(records: Shards, max_pixels: int, progress: Callable[[int, int], None] | None) -> Judge:
    """By what each record of shards shows by itself, and by whether its picture can be read."""
    bad = find_unreadable(records, max_pixels=max_pixels, progress=progress)
    return lambda record: list(find_own_errors([record], bad, max_pixels))


def _judge_by(findings: Sequence[Finding]) -> Judge:
    """By what was found before."""
    errors: dict[Hashable, list[Finding]] = {}
    for finding in findings:
        if finding.level == "error":
            errors.setdefault(finding.key, []).append(finding)
    return lambda record: errors.get(key_of(record), []) if errors else []


def _refuse_errors(findings: Sequence[Finding], settings: Settings) -> None:
    errors = [finding for finding in findings if finding.level == "error"]
    if errors and settings.data.strict:
        raise SettingsError(f"data.strict is set, and the data has {len(errors)} errors{_first(errors)}")


def _refuse_nothing(gathered: Gathered, settings: Settings) -> None:
    if not gathered.train:
        long = f", {len(gathered.too_long)} too long ({_limit(settings)})" if gathered.too_long else ""
        raise _nothing("data.train", [source.path for source in settings.data.train], gathered, long)
    if settings.data.test and not gathered.test:
        raise _nothing("data.test", settings.data.test, gathered, "; it takes records with targets")


def _nothing(part: str, paths: Sequence[Path], gathered: Gathered, words: str) -> SettingsError:
    files = [str(path) for path in paths]
    errors = [finding for finding in gathered.findings if finding.level == "error" and finding.file in files]
    cure = f"`groundling check {' '.join(files)}` tells all"
    return SettingsError(f"no record of {part} can be used: {len(errors)} errors{words}{_first(errors)}; {cure}")


def _refuse_mosaic_of_one(settings: Settings, contract: Contract) -> None:
    if settings.augment.mosaic and contract.answer_form == "bare":
        raise SettingsError(
            f"augment.mosaic is {settings.augment.mosaic:g}, and the answer form 'bare' holds one target, where "
            "a mosaic has those of four pictures; set answer.form to list or fenced, or augment.mosaic to 0"
        )


def _read_frames(records: Iterable[Record], settings: Settings) -> dict[Path, Frame]:
    if not _augmentation(settings).is_on:
        return {}
    images = dict.fromkeys(record.image for record in records if record.image is not None)
    return {image: read_frame(image, max_pixels=settings.images.max_file_pixels) for image in images}


def _first(errors: Sequence[Finding]) -> str:
    if not errors:
        return ""
    place = f"{errors[0].file}:{errors[0].line}: " if errors[0].file else ""
    return f"; the first: {place}{errors[0].message}"


def mix_numbers(counts: Sequence[int], weights: Sequence[float], *, seed: int) -> list[np.ndarray]:
    """Which of so many things of each file come up, by number: 2 is twice each, 0.5 a seeded half, in order.

    SettingsError for a weight that leaves none of them.
    """
    mixed: list[np.ndarray] = []
    for number, (count, weight) in enumerate(zip(counts, weights, strict=True)):
        whole, rest = divmod(round(weight * count), max(1, count))
        if count and not whole and not rest:
            raise SettingsError(f"data.train: a weight of {weight} leaves none of the {count} records of a file")
        chosen = np.random.default_rng([seed, number]).permutation(count)[:rest]
        mixed.append(np.concatenate([*[np.arange(count)] * whole, np.sort(chosen)]))
    return mixed


def pictures_of(records: Sequence[Record]) -> Sequence[Hashable | None]:
    """Something for each record that is the same for those about one picture; None without one."""
    return records.pictures() if isinstance(records, Mixture) else [record.image for record in records]


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


def longest_sample(settings: Settings) -> int:
    """Tokens that a sample may have, to be trained on."""
    return min(settings.data.max_length, settings.train.pack_tokens or settings.data.max_length)


def _limit(settings: Settings) -> str:
    """What decides `longest_sample`, for messages."""
    limit = longest_sample(settings)
    return f"train.pack_tokens is {limit}" if limit < settings.data.max_length else f"data.max_length is {limit}"


def _fits_alone(record: Record, length: Length, *, settings: Settings, blank: int) -> bool:
    """Whether a row may hold this sample alone; beside words there is a blank picture (`join_samples`)."""
    room = settings.train.pack_tokens
    beside = blank if record.image is None else 0
    return length.tokens <= settings.data.max_length and (room is None or length.tokens + beside <= room)


def room_for_samples(records: Sequence[Record], processor: Processor, pack_tokens: int) -> int:
    """Tokens of a row that samples may have: all, unless there are records of words alone, whose rows hold a blank."""
    if all(record.image is not None for record in records):
        return pack_tokens
    return max(1, pack_tokens - len(blank_sample(processor).input_ids))


class Measured(NamedTuple):
    """The records of a file that can be trained on, by number, and the lengths of their samples."""

    numbers: np.ndarray  # (N,) int64
    lengths: np.ndarray  # (N, 2) int32: tokens, and those that the picture's questions share
    too_long: list[TooLong]
    errors: list[Finding]  # of the others


def measure_usable(records: Sequence[Record], judge: Judge, processor: Processor, settings: Settings) -> Measured:
    """The records without an error whose samples fit a row. RecordError for one that the answer form cannot hold."""
    fits = partial(_fits_alone, settings=settings, blank=len(blank_sample(processor).input_ids))
    find_original = _declared if isinstance(records, Shards) else _header_reader(settings.images.max_file_pixels)
    numbers, lengths, too_long, errors = array("q"), array("i"), list[TooLong](), list[Finding]()

    def pass_good() -> Iterator[tuple[int, Record]]:
        for number, record in enumerate(records):
            found = judge(record)
            errors.extend(found)
            if not found:
                yield number, record

    good, same = tee(pass_good())
    measured = measure_all(((record, find_original(record)) for _, record in same), processor)
    for (number, record), length in zip(good, measured, strict=True):
        if fits(record, length):
            numbers.append(number)
            lengths.extend(length)
        else:
            too_long.append(TooLong(record, length.tokens))
    return Measured(np.array(numbers), np.array(lengths, dtype=np.int32).reshape(-1, 2), too_long, errors)


def _declared(record: Record) -> Frame | None:
    """A picture's size as a shard tells it."""
    return record.declared


def _header_reader(max_pixels: int) -> Callable[[Record], Frame | None]:
    """Gives the size of a record's picture from its header; each is opened once."""
    read = cache(partial(read_frame, max_pixels=max_pixels))
    return lambda record: None if record.image is None else read(record.image)


def measure(record: Record, processor: Processor, max_pixels: int) -> Length:
    """The length of a record's sample, from the header of its picture."""
    return next(measure_all([(record, _header_reader(max_pixels)(record))], processor))


def measure_all(sized: Iterable[tuple[Record, Frame | None]], processor: Processor) -> Iterator[Length]:
    """The lengths of samples, as `count_samples` counts them."""
    return (Length(tokens, shared) for tokens, shared, _ in count_samples(sized, processor))


def longest_answer(records: Sequence[Record], processor: Processor, max_pixels: int) -> int:
    """Tokens of the longest true answer, its end token counted; 0 without records."""
    sized = zip(records, map(_header_reader(max_pixels), records), strict=True)
    return max((counted.learned for counted in count_samples(sized, processor)), default=0)


def count_samples(sized: Iterable[tuple[Record, Frame | None]], processor: Processor) -> Iterator[Counted]:
    """The tokens of records' samples, in order, from the sizes of their pictures alone, None without one.

    So many are held at a time as are encoded together. RecordError for one that the answer form cannot hold.
    """
    expect = lru_cache(_KEPT_SIZES)(processor.expect)  # many pictures are of one size
    sketches = (_sketch(record, original, original and expect(original), processor) for record, original in sized)
    while together := list(islice(sketches, _ENCODED_AT_ONCE)):
        yield from count_tokens(processor, together)


def _sketch(record: Record, original: Frame | None, patches: Patches | None, processor: Processor) -> Sketch:
    try:
        return sketch_sample(processor, record, original, patches)
    except SettingsError as error:
        raise RecordError(f"{record.place}: {error}") from None


def write_set_aside(gathered: Gathered, file: Path, settings: Settings) -> int:
    """One line for each reason why a record is not trained on or measured, with its place; returns how many records."""
    lines: list[dict[str, Any]] = [
        {"file": bad.file, "line": bad.line, "record": bad.record, "code": bad.code, "reason": bad.message}
        for bad in gathered.findings
        if bad.level == "error"
    ]
    for record, tokens in gathered.too_long:
        place = {"file": str(record.file), "line": record.line, "record": record.id}
        beside = " and a blank picture's beside them" if tokens <= longest_sample(settings) else ""
        lines.append(place | {"code": "too_long", "reason": f"{tokens} tokens{beside}; {_limit(settings)}"})
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return len({(line["file"], line["line"], line["record"]) for line in lines})


# ---- changed while training ------------------------------------------------------------------------------------


def build_augmenter(records: Gathered, settings: Settings, processor: Processor) -> Augmenter | None:
    """What changes the training pictures; None where the recipe wants no change."""
    plan = _augmentation(settings)
    if not plan.is_on:
        return None
    return Augmenter(
        records.train,
        records.frames,
        plan,
        seed=settings.train.seed,
        budget=processor.contract.budget,
        fits=partial(_is_short_enough, processor=processor, limit=longest_sample(settings)),
    )


def _augmentation(settings: Settings) -> Augmentation:
    return Augmentation(**settings.augment.model_dump())


def _is_short_enough(record: Record, original: Frame, *, processor: Processor, limit: int) -> bool:
    return next(measure_all([(record, original)], processor)).tokens <= limit


def measure_changed(
    epoch: int, attempt: int, *, records: Gathered, augmenter: Augmenter, processor: Processor, limit: int
) -> list[Length]:
    """The lengths of the training samples as an epoch's changes make them; no picture is opened.

    `limit` is the augmenter's: a picture that would get a longer sample stays still.
    """
    changes = ((augmenter.propose(image, epoch, attempt), subject) for image, subject in augmenter.subjects.items())
    moving = [(change, subject) for change, subject in changes if not change.is_still]
    sized = (
        (augmenter.change_record(record, change), change.canvas)
        for change, subject in moving
        for record in subject.records
    )
    measured = measure_all(sized, processor)
    changed: dict[Record, Length] = {}
    for _, subject in moving:
        lengths = {record: next(measured) for record in subject.records}
        if all(length.tokens <= limit for length in lengths.values()):
            changed |= lengths
    return [changed.get(record, length) for record, length in zip(records.train, records.lengths, strict=True)]


# ---- samples ---------------------------------------------------------------------------------------------------


class Example(NamedTuple):
    """A training sample, and the record that it was made from."""

    record: Record
    original: Frame | None  # of the picture that the record's targets count in; None without one
    sample: Sample


class Shown(NamedTuple):
    """A picture as a row has it."""

    original: Frame  # before the processor saw it, after its change
    patches: Patches
    change: Change | None


class RecordDataset(Dataset[Sample]):
    """Records as training samples; pictures are opened, and changed, when they are asked for.

    With `share_pictures` samples of a row about one picture hold the same patches, by which `pack_row` knows them.
    """

    def __init__(
        self,
        records: Sequence[Record],
        processor: Processor,
        *,
        max_pixels: int,
        share_pictures: bool = True,
        augmenter: Augmenter | None = None,
    ) -> None:
        self.records = records
        self.processor = processor
        self.max_pixels = max_pixels
        self.share_pictures = share_pictures
        self.augmenter = augmenter

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, number: int) -> Sample:
        return self.__getitems__(Row([number]))[0]

    def __getitems__(self, row: Row) -> list[Sample]:
        """The samples of one row."""
        return [example.sample for example in self.read_row(row)]

    def read_row(self, row: Row) -> list[Example]:
        """The samples of one row beside their records, both as their pictures were changed; each is opened once."""
        shown: dict[Path, Shown] = {}
        examples: list[Example] = []
        for record in (self.records[number] for number in row.numbers):
            if record.image is None:
                examples.append(Example(record, None, encode_words(self.processor, record, None)))
                continue
            if record.image not in shown:
                shown[record.image] = self._show(record.image, row)
            original, patches, change = shown[record.image]
            own = patches if self.share_pictures else Patches(*patches)
            changed = self._change(record, change)
            examples.append(Example(changed, original, encode_seen(self.processor, changed, original, own)))
        return examples

    def _show(self, image: Path, row: Row) -> Shown:
        open_picture = partial(open_image, max_pixels=self.max_pixels)
        change = None if self.augmenter is None else self.augmenter.decide(image, row.epoch, row.attempt)
        picture = open_picture(image) if change is None else change_picture(change, open_picture)
        return Shown(Frame(*picture.size), self.processor.see(picture), change)

    def _change(self, record: Record, change: Change | None) -> Record:
        return record if self.augmenter is None or change is None else self.augmenter.change_record(record, change)


def join_samples(samples: Sequence[Sample], processor: Processor) -> dict[str, Any]:
    """A training row of the samples (`pack_row`), with a picture in it whatever they are.

    A row of words alone gets a blank picture that nobody is asked about: the vision tower then runs, and has gradients
    (of zero), on every process, which all ways of spreading a model over devices rely on.
    """
    if all(sample.patches is None for sample in samples):
        samples = [*samples, blank_sample(processor)]
    return pack_row(samples, processor)


def blank_sample(processor: Processor) -> Sample:
    """The smallest picture there is, and a question that nobody answers."""
    side = processor.family.token_side
    return encode_question(processor, "", processor.see(Image.new("RGB", (side, side))))
