"""Ways to make a box's score of its tokens' probabilities, side by side: how well they rank boxes, how true they are.

    .venv/bin/python bench/scores.py --noise 60            # the bundled model, on scenes that are hard for it
    .venv/bin/python bench/scores.py MODEL --records RECORDS.jsonl
    .venv/bin/python bench/scores.py --draw FOLDER         # records of icons to teach a model that there may be none

Answers are asked for once, and every way scores the same boxes. AP is COCO's (IoU 0.50 to 0.95, 101 recalls, the label
has to agree), all labels ranked together. ECE (ten bins of equal width) and Brier score are those of "is right":
matched one to one with IoU 0.5 or more. Intervals draw pictures again, 95 %.
"""

from __future__ import annotations

import argparse
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw

import groundling as gl
from groundling.dialect.answer import Answer, read_answer
from groundling.dialect.score import Written
from groundling.geometry.images import open_image
from groundling.inference.batch import encode_question
from groundling.inference.generate import generate_tokens
from groundling.inference.predict import Grounder
from groundling.tiny.scenes import COLORS, ICONS, SHAPES, Placed, Scene, draw_shapes, free_box, panel, shade

OVERLAPS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
BINS = 10
DRAWS = 300
MOST_TOKENS = 300  # of an answer
SCALE = 1.5  # records' pictures are larger than the canvas, so that original and seen frame differ
SHIPPED = "all of its tokens, numbers within 1/8 of the side"


class Asked(NamedTuple):
    """A question about a picture, and the boxes that should be answered."""

    picture: Image.Image
    place: int  # of the picture
    text: str
    truth: gl.Boxes
    labels: list[str | None]


class Number(NamedTuple):
    """A number's digits, what was thought of each, and how long the box is along its axis."""

    digits: str
    chances: list[Written]
    side: float


class Own(NamedTuple):
    """The tokens of one box that the model was asked for."""

    begin: list[float]  # probabilities of what led to it
    label: list[float]
    ends: list[float]  # of what ended its numbers
    numbers: list[Number]

    @property
    def digits(self) -> list[float]:
        """Probabilities of the digits."""
        return [token.chance.token for number in self.numbers for token in number.chances if token.chance]


# ---- ways ------------------------------------------------------------------------------------------------------


def _geometric(values: Sequence[float]) -> float:
    return math.prod(values) ** (1 / max(len(values), 1))


def _leading(own: Own, share: float = math.inf) -> list[float]:
    """Probabilities of the first digits; or of those that count more than this share of the side."""
    return [
        token.chance.token
        for number in own.numbers
        for place, token in enumerate(number.chances)
        if token.chance
        and (place == 0 if share == math.inf else 10 ** (len(number.digits) - place - 1) > share * number.side)
    ]


def _near(own: Own, share: float, *, evenly: bool = False) -> float:
    """All four numbers within `share` of their side; `evenly`: of what another digit begins, only the near part."""
    return math.prod(_near_one(number, share * number.side, evenly) for number in own.numbers)


def _near_one(number: Number, slack: float, evenly: bool) -> float:
    value, found, reached = int(number.digits), 0.0, 1.0
    for place, token in enumerate(number.chances):
        if token.chance is None:
            continue
        rest = len(number.digits) - place - 1
        for digit in "0123456789".replace(number.digits[place], ""):
            begun = range(
                int(number.digits[:place] + digit) * 10**rest, (int(number.digits[:place] + digit) + 1) * 10**rest
            )
            near = sum(abs(other - value) <= slack for other in begun)
            found += reached * token.chance.digits[int(digit)] * (near / len(begun) if evenly else near > 0)
        reached *= token.chance.token
    return found + reached


def _rest(own: Own) -> float:
    return math.prod(own.begin + own.ends + own.label)


WAYS: dict[str, Callable[[Own], float]] = {
    "1 for every box": lambda own: 1.0,
    "that another thing comes": lambda own: math.prod(own.begin),
    "its label": lambda own: math.prod(own.label),
    "its digits, product": lambda own: math.prod(own.digits),
    "its digits, geometric mean": lambda own: _geometric(own.digits),
    "its digits, least": lambda own: min(own.digits, default=1.0),
    "first digits, product": lambda own: math.prod(_leading(own)),
    "digits over 1/10 of the side, product": lambda own: math.prod(_leading(own, 0.1)),
    "all of its tokens, product": lambda own: math.prod(own.digits) * _rest(own),
    "all of its tokens, geometric mean": lambda own: _geometric(own.begin + own.digits + own.ends + own.label),
    "all of its tokens, numbers' geometric mean": lambda own: (
        math.prod(own.digits + own.ends) ** 0.25 * math.prod(own.begin + own.label)
    ),
    "numbers within 1/8 of the side": lambda own: _near(own, 1 / 8),
    SHIPPED: lambda own: _near(own, 1 / 8) * _rest(own),
    "the same, within 1/16": lambda own: _near(own, 1 / 16) * _rest(own),
    "the same, within 1/4": lambda own: _near(own, 1 / 4) * _rest(own),
    "the same, 1/8, spread evenly": lambda own: _near(own, 1 / 8, evenly=True) * _rest(own),
}

# ---- questions and answers -------------------------------------------------------------------------------------


def draw_questions(pictures: int, seed: int) -> Iterator[Asked]:
    """About each shape, about one that is not there, and about all, in scenes of one to five."""
    rng = np.random.default_rng(seed)
    for place in range(pictures):
        scene = draw_shapes(rng, most=5, grounds=(shade, panel), blobs=0.3)
        frame = gl.Frame(*scene.picture.size)
        things = sorted(scene.objects, key=lambda thing: thing.box)
        names = [thing.name for thing in things if thing.name]
        absent = [f"{color} {shape}" for color in COLORS for shape in SHAPES if f"{color} {shape}" not in names]
        for name in [*names, str(rng.choice(absent))]:
            boxes = [thing.box for thing in things if thing.name == name]
            yield Asked(scene.picture, place, f"the {name}", gl.Boxes(boxes, frame), [name] * len(boxes))
        labels: list[str | None] = [thing.name or "object" for thing in things]
        yield Asked(scene.picture, place, "every object", gl.Boxes([thing.box for thing in things], frame), labels)


def draw_records(file: Path, *, pictures: int, seed: int) -> None:
    """About each kind of icon on a screen, about two that are not there, and about all; up to six, of three kinds."""
    rng = np.random.default_rng(seed)
    (file.parent / "images").mkdir(parents=True, exist_ok=True)
    records: list[gl.Record] = []
    for number in range(pictures):
        picture, things = draw_icons(rng)
        side = round(picture.width * SCALE)
        image = file.parent / "images" / f"{file.stem}-{number:04d}.png"
        picture.resize((side, side)).save(image, compress_level=1)
        present = sorted({thing.name for thing in things})
        absent = [str(name) for name in rng.permutation([name for name in ICONS if name not in present])[:2]]
        asked = {f"the {name} icon": {name} for name in present + absent} | {"every icon": set(present)}
        for question, names in asked.items():
            targets = tuple(
                gl.Target(box=tuple(round(edge * SCALE, 1) for edge in thing.box), label=thing.name)
                for thing in sorted(things, key=lambda thing: thing.box)
                if thing.name in names
            )
            records.append(gl.Record(question, image, targets, id=f"{image.stem}-{question}", width=side, height=side))
    gl.write_records(records, file)


def draw_icons(rng: np.random.Generator) -> Scene:
    """One to six icons of up to three kinds on a screen or a shaded ground."""
    picture = (panel, shade)[int(rng.integers(2))](rng)
    kinds = rng.permutation(list(ICONS))[: int(rng.integers(1, 4))]
    things: list[Placed] = []
    for _ in range(int(rng.integers(1, 7))):
        box = free_box(rng, [thing.box for thing in things])
        if box is not None:
            things.append(Placed(str(rng.choice(kinds)), box))
            ICONS[things[-1].name](ImageDraw.Draw(picture), box, COLORS[str(rng.choice(list(COLORS)))])
    return Scene(picture, things)


def read_questions(file: str, pictures: int) -> Iterator[Asked]:
    """Those of a record file about its first pictures."""
    records = [record for record in gl.read_records(file) if record.image and record.answer is None]
    places: dict[object, int] = {}
    for record in records:
        places.setdefault(record.image, len(places))
    for image, about in groupby(records, key=lambda record: record.image):
        if image is None or places[image] >= pictures:
            continue
        picture = open_image(image)
        for record in about:
            targets = [target for target in record.targets if target.box is not None]
            truth = record.true_boxes(gl.Frame(*picture.size))
            yield Asked(picture, places[image], record.question, truth, [target.label for target in targets])


def add_noise(questions: Sequence[Asked], most: float, seed: int) -> list[Asked]:
    """Their pictures with Gaussian noise, of a strength of its own each, up to `most` of 255 levels."""
    rng = np.random.default_rng(seed)
    noisy: list[Asked] = []
    for _, about in groupby(questions, key=lambda asked: asked.place):
        those = list(about)
        pixels = np.asarray(those[0].picture).astype(np.float32)
        pixels = pixels + rng.normal(0, most * rng.random(), pixels.shape)
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        noisy += [asked._replace(picture=picture) for asked in those]
    return noisy


def answer(grounder: Grounder, questions: Sequence[Asked]) -> list[tuple[Answer, list[Own]]]:
    """The answers in their pictures' pixels, and each box's own tokens."""
    found: list[tuple[Answer, list[Own]]] = []
    for start in range(0, len(questions), 64):
        part = questions[start : start + 64]
        seen = {asked.place: grounder.processor.see(asked.picture) for asked in part}
        prompts = [encode_question(grounder.processor, asked.text, seen[asked.place]) for asked in part]
        answers = generate_tokens(
            grounder.model, grounder.processor, prompts, batch_size=64, max_new_tokens=MOST_TOKENS
        )
        for asked, (written, _) in zip(part, answers, strict=True):
            text = "".join(token.text for token in written)
            family, frame = grounder.contract.family, seen[asked.place].seen
            read = read_answer(text, family=family, seen=frame, written=written)
            own = list(find_own(text, written))
            assert len(own) == len(read.boxes), f"an answer in JSON, whose boxes all have an area: {text}"
            found.append((read.to(asked.truth.frame), own))
    return found


_BOX = re.compile(r'\{"bbox_2d": \[(\d+), (\d+), (\d+), (\d+)\](?:, "label": "(?:[^"\\]|\\.)*")?\}')


def find_own(text: str, written: Sequence[Written]) -> Iterator[Own]:
    """The tokens of each box of an answer in JSON. A token belongs to where its last letter stands."""
    ends = np.cumsum([len(token.text) for token in written]).tolist()

    def tokens(start: int, stop: int) -> list[Written]:
        return [token for token, end in zip(written, ends, strict=True) if start < end <= stop]

    def chances(start: int, stop: int) -> list[float]:
        return [token.chance.token for token in tokens(start, stop) if token.chance]

    before = 0
    for box in _BOX.finditer(text):
        left, top, right, bottom = (int(number) for number in box.groups())
        sides = (right - left, bottom - top) * 2
        yield Own(
            begin=chances(before, box.start(1)),
            label=chances(box.end(4), box.end()),
            ends=list(chain(*(chances(box.end(place), box.start(place + 1)) for place in (1, 2, 3)))),
            numbers=[Number(box[place], tokens(*box.span(place)), sides[place - 1]) for place in (1, 2, 3, 4)],
        )
        before = box.end()


# ---- how good the scores are -----------------------------------------------------------------------------------


class Ranked(NamedTuple):
    """Boxes under one way of scoring."""

    scores: np.ndarray  # (N,)
    matched: np.ndarray  # (N, OVERLAPS): whether a target of its label is its own
    pictures: np.ndarray  # (N,)


def match(answered: gl.Boxes, labels: Sequence[str | None], scores: np.ndarray, asked: Asked) -> np.ndarray:
    """(N, OVERLAPS): the surest box first, each takes the free target that it overlaps most, as COCO does."""
    overlaps = gl.iou(answered, asked.truth)
    agrees = np.array([[label == true for true in asked.labels] for label in labels], dtype=bool)
    overlaps = np.where(agrees.reshape(overlaps.shape), overlaps, 0.0)
    matched = np.zeros((len(answered), len(OVERLAPS)), dtype=bool)
    for column, least in enumerate(OVERLAPS - 1e-9):
        free = np.ones(len(asked.truth), dtype=bool)
        for one in np.argsort(-scores, kind="stable"):
            reach = np.where(free, overlaps[one], 0.0)
            if reach.size and reach.max() >= least:
                free[reach.argmax()] = False
                matched[one, column] = True
    return matched


def rank(way: Callable[[Own], float], asked: Sequence[Asked], answers: Sequence[tuple[Answer, list[Own]]]) -> Ranked:
    """All boxes of all answers."""
    rows: list[tuple[np.ndarray, np.ndarray, int]] = []
    for question, (found, own) in zip(asked, answers, strict=True):
        scores = np.array([way(one) for one in own])
        rows.append((scores, match(found.boxes, found.labels, scores, question), question.place))
    pictures = np.repeat([place for _, _, place in rows], [len(scores) for scores, _, _ in rows])
    return Ranked(np.concatenate([row[0] for row in rows]), np.concatenate([row[1] for row in rows]), pictures)


def average_precision(ranked: Ranked, weights: np.ndarray, targets: float) -> np.ndarray:
    """(OVERLAPS,): mean precision over RECALLS, each the best at that recall or above; boxes count by their weight."""
    order = np.argsort(-ranked.scores, kind="stable")
    found = np.cumsum(ranked.matched[order] * weights[order, None], axis=0)
    precision = found / np.maximum(np.cumsum(weights[order])[:, None], 1e-12)
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    padded = np.concatenate([precision, np.zeros((1, len(OVERLAPS)))])
    columns = range(len(OVERLAPS))
    places = [np.searchsorted(found[:, column] / targets, RECALLS - 1e-12) for column in columns]
    return np.array([padded[places[column], column].mean() for column in columns])


def calibration_error(scores: np.ndarray, right: np.ndarray, weights: np.ndarray) -> float:
    """Mean distance of score and share of right ones over BINS bins of equal width, by how many fall into each."""
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    excess = np.bincount(bins, weights * (scores - right), minlength=BINS)
    return float(np.abs(excess).sum() / weights.sum())


def measure(ranked: Ranked, times: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """AP, AP50, ECE and Brier score with each picture `times` so often; `targets`: in each picture."""
    weights = times[ranked.pictures].astype(float)
    precision = average_precision(ranked, weights, float((times * targets).sum()))
    right = ranked.matched[:, 0]
    brier = np.average((ranked.scores - right) ** 2, weights=weights)
    return np.array([precision.mean(), precision[0], calibration_error(ranked.scores, right, weights), brier])


def compare(asked: Sequence[Asked], answers: Sequence[tuple[Answer, list[Own]]], seed: int) -> Iterator[str]:
    """A line a way: its numbers, and the intervals of what AP and Brier score differ from those of SHIPPED."""
    pictures = 1 + max(question.place for question in asked)
    targets = np.bincount([question.place for question in asked], [len(question.truth) for question in asked], pictures)
    rng = np.random.default_rng(seed)
    draws = [np.bincount(rng.integers(pictures, size=pictures), minlength=pictures) for _ in range(DRAWS)]
    ranked = {name: rank(way, asked, answers) for name, way in WAYS.items()}
    redrawn = {name: np.array([measure(one, times, targets) for times in draws]) for name, one in ranked.items()}
    yield "| the probability of | AP | AP to the shipped | AP50 | ECE | Brier | Brier to the shipped |"
    yield "|---|---|---|---|---|---|---|"
    for name, one in ranked.items():
        ap, ap50, ece, brier = measure(one, np.ones(pictures, dtype=int), targets)
        low, high = np.percentile(redrawn[name] - redrawn[SHIPPED], [2.5, 97.5], axis=0)
        better = [f"{low[column]:+.3f} to {high[column]:+.3f}" if name != SHIPPED else "" for column in (0, 3)]
        yield f"| {name} | {ap:.3f} | {better[0]} | {ap50:.3f} | {ece:.3f} | {brier:.3f} | {better[1]} |"


def describe_none(asked: Sequence[Asked], answers: Sequence[tuple[Answer, list[Own]]]) -> str:
    """How true the scores of empty answers are."""
    empty = [
        (found.none_score, not len(question.truth))
        for question, (found, _) in zip(asked, answers, strict=True)
        if found.none_score is not None
    ]
    if not empty:
        return "no answer was empty"
    scores, right = np.array(empty, dtype=float).T
    error = calibration_error(scores, right, np.ones(len(scores)))
    return (
        f"{len(empty)} empty answers, {right.mean():.3f} of them right; score {scores.mean():.3f} on the mean, "
        f"ECE {error:.3f}, Brier {((scores - right) ** 2).mean():.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", default="tiny")
    parser.add_argument("--records", help="record file; drawn scenes of shapes without one")
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--noise", type=float, default=0.0, help="of the pictures, up to so many of 255 levels")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--draw", type=Path, help="only write train.jsonl and test.jsonl to this folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.draw:
        draw_records(options.draw / "train.jsonl", pictures=3000, seed=1)
        draw_records(options.draw / "test.jsonl", pictures=200, seed=2)
        return
    started = time.process_time()
    grounder = gl.load(options.model, device="cpu")
    found = (
        read_questions(options.records, options.pictures)
        if options.records
        else draw_questions(options.pictures, options.seed)
    )
    asked = add_noise(list(found), options.noise, options.seed)
    answers = answer(grounder, asked)
    for line in compare(asked, answers, options.seed):
        print(line)
    pictures = len({question.place for question in asked})
    boxes, targets = sum(len(found.boxes) for found, _ in answers), sum(len(question.truth) for question in asked)
    print(f"\n{len(asked)} questions about {pictures} pictures, {targets} targets, {boxes} boxes answered")
    print(describe_none(asked, answers))
    print(f"{time.process_time() - started:.0f} CPU seconds")


if __name__ == "__main__":
    main()
