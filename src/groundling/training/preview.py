"""What a model will see and learn, shown before it is trained: the first samples of a recipe, read back from tokens.

A preview begins as a training does (`make_ready`), draws the rows that the first epoch begins with, and packs them. No
weights are loaded, and the run folder is left alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from groundling.data.check import CODES
from groundling.data.record import Record, Target
from groundling.dialect.answer import Answer
from groundling.errors import SettingsError
from groundling.geometry.boxes import Boxes, iou
from groundling.geometry.frame import Frame
from groundling.model.contract import Contract
from groundling.model.layout import Stretch
from groundling.model.processor import Processor
from groundling.page.page import View, around, embed_exactly, layer, whole, write_page
from groundling.settings import Settings
from groundling.training.ready import make_ready
from groundling.training.records import Example, Gathered, join_samples, longest_sample, pictures_of
from groundling.training.rows import Length, Row
from groundling.training.shown import KINDS, Kind, ShownSample, Span, kinds_of, make_visible, show_sample, spans_of

PAGE = "preview.html"
GOOD_OVERLAP = 0.9  # where rounding costs more, a perfect answer misses acc@0.9
NEAR = 0.01  # share of a picture's longer side that rounding moves no point by: half of one of 112 pixels is less
_LEAST_CLOSE_UP = 0.05  # of each side of the picture
_MOST_CLOSE_UP = 0.25  # of its area; boxes that take more are seen well in the whole picture
_CLOSE_UP_ASPECT = 2.6
_LEAST_SIDE = 420  # pixels on the page, up to which a small picture is enlarged by a whole number


# ---- values ----------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """A target of a record, and what the learned tokens say of it, both in the picture's original pixels.

    Each is the four numbers of a box or the two of a point; None where the other side has no such place. `agreement` is
    the IoU of boxes; of points 1 where they are as near as rounding leaves them, else 0.
    """

    label: str | None
    truth: tuple[float, ...] | None
    read: tuple[float, ...] | None
    agreement: float
    verdict: str

    @property
    def is_good(self) -> bool:
        """Whether hardly anything was lost on the way to the tokens."""
        return self.agreement >= GOOD_OVERLAP


@dataclass(frozen=True)
class ShownExample:
    """One sample of a row. Its first `shared` tokens stand in the row once, with the sample numbered `root`."""

    number: int  # of all that are shown, from 1
    record: Record
    original: Frame | None
    sample: ShownSample
    places: list[Place]
    root: int
    shared: int

    @property
    def seen(self) -> Frame | None:
        """The picture's size as the model sees it."""
        return None if self.sample.answer is None else self.sample.answer.seen

    @property
    def worst(self) -> Place | None:
        """The place that agrees least; None without places."""
        return min(self.places, key=lambda place: place.agreement, default=None)


@dataclass(frozen=True)
class ShownRow:
    """A packed row as the model gets it, and those of its samples that are shown."""

    number: int  # in its epoch, from 1
    samples: list[ShownExample]
    size: int  # samples in it, shown or not
    pictures: int
    spans: list[Span]
    stretches: Sequence[Stretch]  # one a sample, by whose `root` those about one picture are known

    @property
    def saved(self) -> int:
        """Tokens that sharing leaves out."""
        return sum(stretch.prefix for stretch in self.stretches)

    @property
    def groups(self) -> list[int]:
        """Tokens of neighbouring samples that share a picture, in order."""
        starts = [stretch.root if stretch.prefix else place for place, stretch in enumerate(self.stretches)]
        alike = groupby(zip(starts, self.stretches, strict=True), key=lambda pair: pair[0])
        return [sum(stretch.length for _, stretch in pairs) for _, pairs in alike]

    @property
    def counts(self) -> dict[Kind, int]:
        """Tokens of each kind."""
        return {kind: sum(span.tokens for span in self.spans if span.kind == kind) for kind in KINDS}

    @property
    def tokens(self) -> int:
        """All of them."""
        return sum(span.tokens for span in self.spans)


class Epoch(NamedTuple):
    """The first epoch, on one process. Tokens are those that rows are planned with, the pictures still unopened."""

    rows: int
    steps: int
    samples: int
    tokens: int
    longest: int  # tokens of the row that has most
    asked: int  # samples with a picture
    pictures: int
    seen: int  # times that one of them goes through the model


class Noticed(NamedTuple):
    """A kind of finding in the data, and how many records have it."""

    code: str
    records: int
    meaning: str
    is_set_aside: bool


@dataclass(frozen=True)
class Preview:
    """What a recipe makes of its records: the first epoch in numbers, and its first samples."""

    name: str
    settings: Settings
    contract: Contract
    records: Gathered
    epoch: Epoch
    rows: list[ShownRow]

    @property
    def samples(self) -> list[ShownExample]:
        """All that are shown."""
        return [shown for row in self.rows for shown in row.samples]

    @property
    def most(self) -> int:
        """Tokens that a sample may have."""
        return longest_sample(self.settings)


# ---- from a recipe to its first samples ------------------------------------------------------------------------


def build_preview(
    settings: Settings, *, name: str, samples: int = 8, progress: Callable[[int, int], None] | None = None
) -> Preview:
    """The first samples that a training by these settings draws, on one process; all of them where there are fewer.

    Errors are those of `make_ready`; `progress` is told (pictures looked at, pictures in all).
    """
    _, processor, records, dataset, sampler = make_ready(settings, progress=progress)
    drawn = list(sampler)
    lengths = sampler.lengths_in(drawn[0].epoch, drawn[0].attempt)
    rows: list[ShownRow] = []
    shown = 0
    for number, row in enumerate(drawn, start=1):
        if shown < samples:
            examples = dataset.read_row(row)
            rows.append(show_row(examples, processor, number=number, shown_before=shown, most=samples - shown))
            shown += len(rows[-1].samples)
    return Preview(name, settings, processor.contract, records, measure_epoch(drawn, lengths, records, settings), rows)


def show_row(
    examples: Sequence[Example], processor: Processor, *, number: int, shown_before: int, most: int
) -> ShownRow:
    """A row of samples, packed; the first `most` of them shown."""
    row = join_samples([example.sample for example in examples], processor)
    stretches = row["layout"].stretches
    shown: list[ShownExample] = []
    for place, (example, stretch) in enumerate(zip(examples[:most], stretches, strict=False), shown_before + 1):
        sample = show_sample(example.sample, processor)
        places = compare_places(example.record, example.original, sample.answer)
        root = shown_before + 1 + stretch.root
        shown.append(ShownExample(place, example.record, example.original, sample, places, root, stretch.prefix))
    blanks = len(stretches) - len(examples)  # a row of words alone has one
    return ShownRow(
        number=number,
        samples=shown,
        size=len(examples),
        pictures=len(row["image_grid_thw"]) - blanks,
        spans=read_spans(row, processor),
        stretches=stretches,
    )


def read_spans(row: dict[str, Any], processor: Processor) -> list[Span]:
    """What a packed row holds, in order."""
    kinds = kinds_of(row["input_ids"][0].tolist(), row["labels"][0].tolist(), processor)
    lengths = row["layout"].lengths
    assert len(kinds) == sum(lengths), "every token of a row is some sample's: nothing is padded"
    places = [sample for sample, length in enumerate(lengths) for _ in range(length)]
    return spans_of(kinds, places)


def compare_places(record: Record, original: Frame | None, answer: Answer | None) -> list[Place]:
    """Each target beside what the learned tokens say, boxes first; none for words alone and for answer texts."""
    if record.answer is not None or original is None or answer is None:
        return []
    read = answer.to(original)
    boxes = [target for target in record.targets if target.box is not None]
    points = [target for target in record.targets if target.point is not None]
    return [
        *(_compare(*pair, original) for pair in zip_longest(boxes, read.boxes.xyxy.tolist())),
        *(_compare(*pair, original) for pair in zip_longest(points, read.points.xy.tolist())),
    ]


def _compare(target: Target | None, found: list[float] | None, original: Frame) -> Place:
    label = None if target is None else target.label
    if found is None or target is None:
        truth, verdict = (None, "not in the record") if target is None else (target.numbers, "not read back")
        return Place(label, truth, None if found is None else tuple(found), 0.0, verdict)
    truth, read = target.numbers, tuple(found)
    if target.box is not None:
        overlap = float(iou(Boxes([truth], original), Boxes([read], original))[0, 0])
        return Place(label, truth, read, overlap, f"IoU {overlap:.2f}")
    apart = math.dist(truth, read)
    return Place(label, truth, read, float(apart <= NEAR * max(original.size_wh)), f"{apart:.1f} px apart")


def measure_epoch(rows: Sequence[Row], lengths: Sequence[Length], records: Gathered, settings: Settings) -> Epoch:
    """What an epoch of these rows takes, its samples being so long."""
    shares = settings.train.share_pictures
    images = pictures_of(records.train)
    tokens, seen = [0] * len(rows), 0
    for place, row in enumerate(rows):
        there: set[Hashable] = set()
        for number in row.numbers:
            image, length = images[number], lengths[number]
            is_there = shares and image in there
            tokens[place] += length.tokens - (length.shared if is_there else 0)
            if image is not None and not is_there:
                there.add(image)
                seen += 1
    return Epoch(
        rows=len(rows),
        steps=-(-len(rows) // settings.train.accumulate),
        samples=len(images),
        tokens=sum(tokens),
        longest=max(tokens, default=0),
        asked=sum(image is not None for image in images),
        pictures=len(set(images) - {None}),
        seen=seen,
    )


def count_findings(preview: Preview) -> list[Noticed]:
    """What was found in the data, by code: what sets records aside first, the most frequent first."""
    places = {(found.code, found.file, found.line, found.record) for found in preview.records.findings}
    counts = Counter(code for code, *_ in places)
    found = [Noticed(code, count, CODES[code].meaning, CODES[code].level == "error") for code, count in counts.items()]
    if preview.records.too_long:
        meaning = f"a sample of more than {preview.most:,} tokens"
        found.append(Noticed("too_long", len(preview.records.too_long), meaning, is_set_aside=True))
    return sorted(found, key=lambda one: (not one.is_set_aside, -one.records, one.code))


# ---- in words, for the terminal and the page -------------------------------------------------------------------


def show_numbers(numbers: Sequence[float] | None) -> str:
    """Coordinates to a tenth of a pixel: [150, 156.3]; a dash for none."""
    if numbers is None:
        return "-"
    return f"[{', '.join(f'{number:.1f}'.removesuffix('.0') for number in numbers)}]"


def describe_row(row: ShownRow) -> str:
    """What stands in a row, and what sharing saves."""
    counts = row.counts
    pictures = show_count(row.pictures, "picture") if row.pictures else "no picture but a blank one"
    held = f"{show_count(row.size, 'sample')} about {pictures}, {row.tokens:,} tokens"
    parts = f"{counts['picture']:,} of pictures, {counts['prompt']:,} of prompts, {counts['learned']:,} learned"
    return f"{held}: {parts}" + (f"; {row.saved:,} more without sharing" if row.saved else "")


def describe_epoch(preview: Preview) -> dict[str, str]:
    """The first epoch in words, by what they are about."""
    epoch, records = preview.epoch, preview.records
    a_step = f"{epoch.samples / epoch.steps:.1f} samples and {epoch.tokens / epoch.steps:,.0f} tokens"
    told = {
        "lines": f"{records.read:,} read, {len(records.train):,} to train on, {len(records.test):,} to measure on",
        "rows": f"{epoch.rows:,} an epoch, up to {epoch.longest:,} tokens each, padding none",
        "steps": f"{epoch.steps:,} an epoch, each of {a_step} (on one process)",
    }
    if epoch.pictures:
        times, questions = epoch.seen / epoch.pictures, epoch.asked / epoch.pictures
        told["pictures"] = f"{epoch.pictures:,}, each seen {times:.1f} times an epoch for {questions:.1f} questions"
    return told


def describe_contract(contract: Contract) -> dict[str, str]:
    """How the model is asked, and what its numbers count."""
    side = contract.known_family.token_side
    least, most = contract.min_pixels // side**2, contract.max_pixels // side**2
    return {
        "family": contract.family,
        "a picture": f"{least:,} to {most:,} visual tokens, each {side} pixels a side",
        "coordinates": contract.coordinates,
        "answer form": contract.answer_form,
        "prompt": contract.prompt_template,
        "system prompt": "as the chat template has it" if contract.system_prompt is None else contract.system_prompt,
        "image backend": contract.image_backend,
    }


def describe_sample(sample: ShownSample, most: int) -> str:
    """Its tokens by kind, and how many it may have."""
    words = {"picture": "of the picture", "prompt": "of the prompt", "learned": "learned"}
    parts = [f"{count:,} {words[kind]}" for kind, count in sample.counts.items() if count]
    return f"{' + '.join(parts)} = {sample.tokens:,} of {most:,} tokens allowed"


def show_count(number: int, what: str) -> str:
    """So many of a thing: 1 row, 1,204 rows."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


# ---- the page --------------------------------------------------------------------------------------------------


def refuse_run_folder(folder: Path, settings: Settings) -> None:
    """SettingsError for a folder in the recipe's run folder, which a training wants to find empty."""
    run = settings.run.dir
    if folder.resolve().is_relative_to(run.resolve()):
        raise SettingsError(f"--to {folder} is in run.dir, {run}, which training has for itself; choose another folder")


def write_preview(preview: Preview, folder: Path) -> Path:
    """Write the page `preview.html`, one file that needs no other, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_page(
        folder / PAGE,
        Path(__file__).with_name("preview.html.j2"),
        preview=preview,
        views=dict(_views(preview)),
        told=describe_epoch(preview),
        contract=describe_contract(preview.contract),
        noticed=count_findings(preview),
        describe_row=describe_row,
        describe_sample=describe_sample,
        numbers=show_numbers,
        count=show_count,
        scale_of=scale_of,
        visible=make_visible,
    )
    return folder / PAGE


def _views(preview: Preview) -> Iterator[tuple[int, list[View]]]:
    """By number of a shown sample with a picture: all of it, and a close-up where the boxes are small.

    Close-ups, and pictures that are shared, are of the pixels that are in the page already.
    """
    for shown in preview.samples:
        answer, picture, original = shown.sample.answer, shown.sample.picture, shown.original
        if answer is None or picture is None or original is None:
            continue
        truth = shown.record.true_boxes(original).to(answer.seen)
        true_points = shown.record.true_points(original).to(answer.seen)
        layers = [layer("answer", answer.boxes, answer.points), layer("truth", truth, true_points)]
        name, root = f"s{shown.number}", f"s{shown.root}"
        pixels = None if shown.shared else embed_exactly(picture)
        views = [View(name, whole(answer.seen), pixels, layers, same_as=root if shown.shared else None)]
        spots = Boxes(answer.points.xy[:, [0, 1, 0, 1]], answer.seen)
        near = around([answer.boxes, truth, spots], answer.seen, least=_LEAST_CLOSE_UP, aspect=_CLOSE_UP_ASPECT)
        if near.width * near.height <= _MOST_CLOSE_UP * answer.seen.area:
            views.append(View(f"{name}-near", near, None, layers, same_as=root if shown.shared else name))
        yield shown.number, views


def scale_of(seen: Frame) -> int:
    """How many pixels of the page one of the model's takes: whole pixels, so that each stays sharp."""
    return max(1, _LEAST_SIDE // max(seen.size_wh))
