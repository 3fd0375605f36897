"""What a run learns from and is measured on: records read, judged, mixed, and the unusable ones set aside by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from groundling.data.check import Finding, check, usable
from groundling.data.record import Record, Rejected, scan_records
from groundling.errors import RecordError, SettingsError
from groundling.geometry.images import open_image, read_frame
from groundling.inference.batch import Sample, encode_record, encode_seen, encode_words
from groundling.model.processor import Processor
from groundling.settings import Settings


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


class RecordDataset(Dataset[Sample]):
    """Records as training samples; pictures are opened when they are asked for."""

    def __init__(self, records: Sequence[Record], processor: Processor, max_pixels: int) -> None:
        self.records = records
        self.processor = processor
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        picture = None if record.image is None else open_image(record.image, max_pixels=self.max_pixels)
        return encode_record(self.processor, record, picture)


def gather_records(settings: Settings, processor: Processor) -> Gathered:
    """Read, judge and mix a recipe's records. SettingsError where too few are left, or under `data.strict` any is bad."""
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
        raise SettingsError(f"data.strict, and {len(errors)} errors in the data; the first: {errors[0].message}")
    weights = [source.weight for source in settings.data.train]
    fitting = [_fitting(usable(records, findings), processor, settings) for records in train]
    kept = [[record for record, tokens in measured if tokens <= settings.data.max_length] for measured in fitting]
    mixed = mix_records(kept, weights, seed=settings.train.seed)
    if not mixed:
        raise SettingsError(f"no record of data.train can be used; {len(errors)} errors in the data{_first(errors)}")
    return Gathered(
        train=mixed,
        test=[record for records in test for record in usable(records, findings) if record.answer is None],
        findings=findings,
        too_long=[
            TooLong(record, tokens)
            for measured in fitting
            for record, tokens in measured
            if tokens > settings.data.max_length
        ],
        read=len(everything) + len(rejected) + len(rejected_test),
    )


def mix_records(groups: Sequence[Sequence[Record]], weights: Sequence[float], *, seed: int) -> list[Record]:
    """The records of all groups, each group's as often as its weight says: 2 is twice each, 0.5 a seeded half of them."""
    mixed: list[Record] = []
    for number, (records, weight) in enumerate(zip(groups, weights, strict=True)):
        whole, rest = divmod(round(weight * len(records)), max(1, len(records)))
        chosen = np.random.default_rng([seed, number]).permutation(len(records))[:rest]
        mixed += [*records] * whole + [records[index] for index in sorted(chosen.tolist())]
    return mixed


def count_tokens(record: Record, processor: Processor, max_pixels: int) -> int:
    """Tokens of a record's sample, from the picture's header alone."""
    if record.image is None:
        return len(encode_words(processor, record, None).input_ids)
    original = read_frame(record.image, max_pixels=max_pixels)
    expected = processor.expect(original)
    if record.answer is not None:
        return len(encode_words(processor, record, expected).input_ids)
    return len(encode_seen(processor, record, original, expected).input_ids)


def write_set_aside(gathered: Gathered, file: Path) -> None:
    """One line for each record that is not trained on or measured, with its place and the reason."""
    lines = [
        {"file": finding.file, "line": finding.line, "record": finding.record, "code": finding.code, "reason": finding.message}
        for finding in gathered.findings
        if finding.level == "error"
    ]
    for record, tokens in gathered.too_long:
        reason = f"{tokens} tokens, more than data.max_length"
        place = {"file": str(record.file), "line": record.line, "record": record.id}
        lines.append(place | {"code": "too_long", "reason": reason})
    file.write_text("".join(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in lines), encoding="utf-8")


def _scan(paths: Sequence[Path], settings: Settings) -> tuple[list[list[Record]], list[Rejected]]:
    scans = [scan_records(path, allow_absolute=settings.data.allow_absolute) for path in paths]
    return [scan.records for scan in scans], [bad for scan in scans for bad in scan.rejected]


def _fitting(records: Sequence[Record], processor: Processor, settings: Settings) -> list[tuple[Record, int]]:
    """The records that the answer form can hold, each with its length in tokens."""
    form = processor.contract.answer_form
    if form == "bare" and (many := next((record for record in records if len(record.targets) > 1), None)):
        raise RecordError(
            f"{many.place}: {len(many.targets)} targets, and answer.form 'bare' holds one; set answer.form=list or fenced"
        )
    return [(record, count_tokens(record, processor, settings.images.max_file_pixels)) for record in records]


def _first(errors: Sequence[Finding]) -> str:
    return f"; the first: {errors[0].message}" if errors else ""
