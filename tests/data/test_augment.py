"""Augmentation: which changes are decided, that targets stay on their pixels, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from groundling.data.augment import SMALLEST_SIDE, Augmentation, Augmenter
from groundling.data.change import GREY, Change, change_picture
from groundling.data.record import Record, Target
from groundling.dialect.family import FAMILIES, Budget
from groundling.geometry.boxes import Boxes, iou
from groundling.geometry.frame import Frame
from groundling.settings import Augment

BUDGET = Budget(FAMILIES["qwen2_5_vl"], 4 * 28**2, 1280 * 28**2)
EVERYTHING = {"flip": 0.5, "rotate": 0.5, "crop": 0.5, "scale": 0.5, "mosaic": 0.3, "colour": 0.5, "jpeg": 0.5}
PHOTO = Frame(400, 300)


def plan_of(**chances: Any) -> Augmentation:
    return Augmentation(**Augment(**chances).model_dump())


def augmenter_of(
    records: list[Record],
    frames: dict[str, Frame] | None = None,
    *,
    seed: int = 0,
    fits: Callable[[Record, Frame], bool] = lambda *_: True,
    **chances: Any,
) -> Augmenter:
    """Pictures are PHOTO's size where `frames` does not say another."""
    known = {record.image: PHOTO for record in records if record.image is not None}
    known |= {Path(name): frame for name, frame in (frames or {}).items()}
    return Augmenter(records, known, plan_of(**chances), seed=seed, budget=BUDGET, fits=fits)


def ask(question: str, *boxes: tuple[float, ...], image: str = "a", label: str | None = None) -> Record:
    targets = tuple(Target(box=box, label=label) for box in boxes)  # type: ignore[arg-type]
    return Record(question=question, image=Path(image), targets=targets)


MUG = ask("the mug", (150, 100, 250, 200))


def changes_of(augmenter: Augmenter, image: str = "a", epochs: int = 200) -> list[Change]:
    found = [augmenter.decide(Path(image), epoch) for epoch in range(epochs)]
    return [change for change in found if change is not None]


# ---- pixels under boxes ----------------------------------------------------------------------------------------


def draw_things(frame: Frame, boxes: list[tuple[int, ...]]) -> Image.Image:
    """Blue with red things."""
    picture = Image.new("RGB", frame.size_wh, (0, 0, 200))
    for box in boxes:
        picture.paste((250, 0, 0), box)  # type: ignore[arg-type]
    return picture


def find_red(picture: Image.Image, box: tuple[float, ...]) -> tuple[float, ...]:
    """The box around what is red in and near a box."""
    left, top, right, bottom = (round(edge) for edge in box)
    margin = 5
    start = max(left - margin, 0), max(top - margin, 0)
    levels = np.asarray(picture).astype(int)[start[1] : bottom + margin, start[0] : right + margin]
    ys, xs = np.nonzero(levels[..., 0] - np.maximum(levels[..., 1], levels[..., 2]) > 60)
    assert len(xs), f"nothing red in {box}"
    return (start[0] + xs.min(), start[1] + ys.min(), start[0] + xs.max() + 1, start[1] + ys.max() + 1)


def count_red(picture: Image.Image) -> int:
    levels = np.asarray(picture).astype(int)
    return int((levels[..., 0] - np.maximum(levels[..., 1], levels[..., 2]) > 60).sum())


KINDS = {name: {name: 1} for name in ("flip", "rotate", "crop", "scale", "mosaic", "colour")}


@pytest.mark.parametrize("kind", [*KINDS, "all"])
def test_what_is_in_a_box_stays_in_its_box(kind: str) -> None:
    """Red things on pictures of many sizes: around each changed box there is red just as far as the box says."""
    chances = KINDS.get(kind, EVERYTHING | {"jpeg": 0})
    rng = np.random.default_rng(7)
    things: dict[Path, list[tuple[int, ...]]] = {}
    frames: dict[str, Frame] = {}
    for name in "abcdefgh":
        frame = Frame(*rng.integers(150, 700, size=2).tolist())
        column, row = frame.width // 2, frame.height // 2
        corners = [(x + int(rng.integers(8, 20)), y + int(rng.integers(8, 20))) for x in (0, column) for y in (0, row)]
        kept = [corner for corner in corners if rng.random() < 0.7]
        things[Path(name)] = [(x, y, x + column // 2, y + row // 2) for x, y in kept]
        frames[name] = frame
    pictures = {image: draw_things(frames[str(image)], boxes) for image, boxes in things.items()}
    records = [ask("red thing", *boxes, image=str(image)) for image, boxes in things.items()]
    augmenter = augmenter_of(records, frames, **chances)
    changed = 0
    for record in records:
        assert record.image is not None
        for epoch in range(12):
            change = augmenter.decide(record.image, epoch)
            if change is None:
                continue
            picture, new = change_picture(change, pictures.__getitem__), augmenter.change_record(record, change)
            canvas = Frame(*picture.size)
            assert canvas == change.canvas
            changed += 1
            for target in new.targets:
                assert target.box is not None
                truth = Boxes([find_red(picture, target.box)], canvas)
                assert iou(truth, Boxes([target.box], canvas)) > 0.9, (change, target)
            if not new.targets:
                assert count_red(picture) == 0
    assert changed > 30


def test_everything_on_a_mosaic_is_in_its_answer() -> None:
    """Everything red on a mosaic is in some box of its answer."""
    records = [ask("red thing", (10, 10, 60, 60), (200, 150, 300, 250), image=name) for name in "abcd"]
    pictures = {Path(name): draw_things(PHOTO, [(10, 10, 60, 60), (200, 150, 300, 250)]) for name in "abcd"}
    augmenter = augmenter_of(records, mosaic=1)
    for change in changes_of(augmenter, epochs=10):
        new = augmenter.change_record(records[0], change)
        picture = change_picture(change, pictures.__getitem__)
        assert len(new.targets) == 8
        for target in new.targets:
            left, top, right, bottom = (round(edge) for edge in target.numbers)
            picture.paste((0, 0, 0), (left - 1, top - 1, right + 1, bottom + 1))
        assert count_red(picture) == 0


# ---- the same everywhere ---------------------------------------------------------------------------------------


def test_a_change_follows_from_seed_epoch_and_picture_alone() -> None:
    records = [ask("mugs", (150, 100, 250, 200), image=name) for name in "abcde"]
    one, other = augmenter_of(records, **EVERYTHING), augmenter_of(records, **EVERYTHING)
    places = [(name, epoch, attempt) for name in "abcde" for epoch in range(4) for attempt in range(2)]

    def decided(augmenter: Augmenter, order: list[tuple[str, int, int]]) -> dict[tuple[str, int, int], Change | None]:
        return {place: augmenter.decide(Path(place[0]), place[1], place[2]) for place in order}

    assert decided(one, places) == decided(other, places[::-1])
    assert len(set(decided(one, places).values())) > 30
    assert decided(one, places) != decided(augmenter_of(records, seed=1, **EVERYTHING), places)


def test_chances_are_kept() -> None:
    augmenter = augmenter_of([MUG], flip=0.25, colour=0.5, jpeg=1, jpeg_quality=60)
    changes = changes_of(augmenter, epochs=400)
    assert len(changes) == 400
    assert 60 < sum(change.pictures[0].is_mirrored for change in changes) < 140
    assert 160 < sum(change.colour is not None for change in changes) < 240
    qualities = [change.jpeg for change in changes if change.jpeg is not None]
    assert min(qualities) == 60 and max(qualities) == 95
    factors = np.array([change.colour for change in changes if change.colour is not None])
    assert 0.8 <= factors.min() < 0.82 and 1.18 < factors.max() <= 1.2
    turns = {change.pictures[0].turn for change in changes_of(augmenter_of([MUG], rotate=1, flip=0.5))}
    assert turns == {3, 4, 5, 6, 7, 8}


def test_a_picture_without_a_change_has_none() -> None:
    assert not plan_of().is_on and plan_of(jpeg=0.1).is_on
    assert changes_of(augmenter_of([MUG])) == []


# ---- words -----------------------------------------------------------------------------------------------------


def test_a_mirrored_record_is_about_the_mirrored_picture() -> None:
    record = ask("the mug on the left", (10, 20, 30, 50), label="left mug hand")
    record = Record(record.question, Path("a"), (Target(box=(10, 20, 30, 50), label="left hand"),), id="7")
    augmenter = augmenter_of([record], flip=1)
    (change,) = changes_of(augmenter, epochs=1)
    assert augmenter.change_record(record, change) == Record(
        "the mug on the right",
        Path("a"),
        (Target(box=(370, 20, 390, 50), label="right hand"),),
        id="7",
        width=400,
        height=300,
    )


@pytest.mark.parametrize("other", [ask("what is written on it"), ask("the mug", label="left"), ask("the \u732b")])
def test_one_question_that_refuses_keeps_the_picture_as_it_is(other: Record) -> None:
    if other.question == "the mug":
        other = ask("the mug", (0, 0, 9, 9), label="left")
    assert changes_of(augmenter_of([MUG, ask("the cup"), other], flip=1)) == []
    assert len(changes_of(augmenter_of([MUG, ask("the cup")], flip=1))) == 200


def test_an_answer_text_leaves_pixels_in_their_places() -> None:
    text = Record("what is this", Path("a"), answer="a mug, with a spoon to its right")
    augmenter = augmenter_of([MUG, text], **dict.fromkeys(EVERYTHING, 1))
    changes = changes_of(augmenter)
    assert changes and all(change.is_still for change in changes)
    assert augmenter.change_record(text, changes[0]) is text and augmenter.change_record(MUG, changes[0]) is MUG


def test_words_alone_are_no_subject() -> None:
    augmenter = augmenter_of([Record("count", None, answer="1 2"), MUG], flip=1)
    assert list(augmenter.subjects) == [Path("a")]


# ---- crops -----------------------------------------------------------------------------------------------------


def test_a_crop_keeps_or_loses_a_target_and_cuts_none_in_half() -> None:
    boxes = [(0, 0, 80, 60), (300, 200, 380, 280), (160, 100, 240, 200), (10, 220, 40, 290)]
    record = ask("mugs", *boxes)
    augmenter = augmenter_of([record], crop=1, crop_visible=0.7)
    counts: set[int] = set()
    for change in changes_of(augmenter):
        window = change.pictures[0].window
        new = augmenter.change_record(record, change)
        counts.add(len(new.targets))
        for box in boxes:
            width = min(box[2], window[2]) - max(box[0], window[0])
            height = min(box[3], window[3]) - max(box[1], window[1])
            share = max(width, 0) * max(height, 0) / ((box[2] - box[0]) * (box[3] - box[1]))
            assert share >= 0.7 or share < 0.1
        assert change.canvas == Frame(window[2] - window[0], window[3] - window[1])
        assert change.canvas.width >= 200 and change.canvas.height >= 150, "half of each side at least"
    assert counts >= {1, 2, 3, 4} and 0 not in counts


def test_a_crop_makes_negatives_only_by_leave_and_with_nothing_in_sight() -> None:
    record = ask("mugs", (0, 0, 60, 60), (0, 70, 60, 130))
    never, always = (augmenter_of([record], crop=1, crop_negatives=chance) for chance in (0, 1))
    assert all(never.change_record(record, change).targets for change in changes_of(never))
    negatives = [change for change in changes_of(always) if not always.change_record(record, change).targets]
    assert len(negatives) > 20
    assert all(change.pictures[0].window[0] >= 60 or change.pictures[0].window[1] >= 130 for change in negatives)


def test_a_crop_keeps_what_every_question_needs() -> None:
    """Things in all four corners and no smaller windows than half: none keeps one of each."""
    corners = [(0, 0, 40, 30), (360, 0, 400, 30), (0, 270, 40, 300), (360, 270, 400, 300)]
    records = [ask(f"thing {name}", box) for name, box in zip("abcd", corners, strict=True)]
    augmenter = augmenter_of(records, crop=1)
    for change in changes_of(augmenter):
        assert all(len(augmenter.change_record(record, change).targets) == 1 for record in records)


def test_points_are_in_a_crop_or_gone() -> None:
    record = Record("mugs", Path("a"), (Target(point=(20, 20)), Target(point=(380, 280)), Target(point=(200, 150))))
    augmenter = augmenter_of([record], crop=1)
    for change in changes_of(augmenter):
        left, top, right, bottom = change.pictures[0].window
        points = (target.point or () for target in record.targets)
        inside = [(x - left, y - top) for x, y in points if left <= x <= right and top <= y <= bottom]
        assert [target.point for target in augmenter.change_record(record, change).targets] == inside


def test_no_crop_is_longer_than_a_processor_takes() -> None:
    augmenter = augmenter_of([ask("mugs", (0, 0, 4000, 20))], {"a": Frame(4000, 20)}, crop=1)
    assert max(change.canvas.width / change.canvas.height for change in changes_of(augmenter)) <= 200


# ---- smaller ---------------------------------------------------------------------------------------------------


def test_a_smaller_picture_is_somewhere_on_grey() -> None:
    augmenter = augmenter_of([MUG], scale=1, scale_sides=0.5)
    changes = changes_of(augmenter)
    shares = [change.pictures[0].size.width / 400 for change in changes]
    assert 0.5 <= min(shares) < 0.52 and 0.98 < max(shares) <= 1
    assert all(change.canvas == PHOTO for change in changes)
    for change in changes[:20]:
        picture = change_picture(change, lambda _: Image.new("RGB", PHOTO.size_wh, "red"))
        grey = (np.asarray(picture) == GREY).all(axis=2).sum()
        assert grey == PHOTO.area - change.pictures[0].size.area


def test_nothing_is_shrunk_until_it_is_hardly_seen() -> None:
    small, tiny = ask("mugs", (100, 100, 105, 130)), ask("mugs", (100, 100, 103, 130))
    shares = [change.pictures[0].size.width / 400 for change in changes_of(augmenter_of([small], scale=1))]
    assert min(shares) + 0.01 >= SMALLEST_SIDE / 5 and len(shares) < 150
    assert changes_of(augmenter_of([tiny], scale=1)) == []
    large = {name: Frame(4000, 3000) for name in "abcd"}  # seen at a quarter of its sides
    records = [ask("mugs", (100, 100, 124, 180), image=name) for name in "abcd"]
    assert changes_of(augmenter_of(records, mosaic=1)) and not changes_of(augmenter_of(records, large, mosaic=1))


# ---- mosaics ---------------------------------------------------------------------------------------------------


def test_a_mosaic_by_hand() -> None:
    """Four pictures of 200x150 in the quarters of one of 400x300 that is itself among them."""
    records = [ask("mugs", (100, 40, 200, 100), image="a", label="mug"), ask("mugs", image="b")]
    records += [ask("mugs", (10, 20, 30, 40), (50, 60, 70, 80), image=name) for name in "cd"]
    frames = {name: Frame(200, 150) for name in "bcd"}
    augmenter = augmenter_of(records, frames, mosaic=1)
    own = {(0, 0): (50, 20, 100, 50), (200, 0): (250, 20, 300, 50)}
    own |= {(0, 150): (50, 170, 100, 200), (200, 150): (250, 170, 300, 200)}
    found: set[tuple[int, int]] = set()
    for change in changes_of(augmenter, epochs=40):
        place = change.pictures[0].left, change.pictures[0].top
        found.add(place)
        targets = augmenter.change_record(records[0], change).targets
        assert change.canvas == PHOTO and len(targets) == 5
        assert own[place] in {target.box for target in targets if target.label == "mug"}
        order = [(target.numbers[1] // 150, target.numbers[0] // 200) for target in targets]
        assert order == sorted(order), "in reading order"
    assert found == own.keys()


def test_another_shape_stands_whole_in_the_middle_of_its_quarter() -> None:
    records = [ask("mugs", (0, 0, 100, 200), image=name) for name in "abcd"]
    augmenter = augmenter_of(records, {name: Frame(100, 200) for name in "bcd"}, mosaic=1)
    (change,) = changes_of(augmenter, epochs=1)
    for pasted in change.pictures[1:]:
        assert pasted.size == Frame(75, 150)  # of 200x150
        assert (pasted.left - 62) % 200 == 0 and pasted.top % 150 == 0


def test_a_mosaic_is_of_pictures_that_are_asked_the_same() -> None:
    asked = {"a": ["mug", "cup"], "b": ["mug", "cup", "pan"], "c": ["cup", "mug"], "d": ["mug"], "e": ["mug", "cup"]}
    records = [ask(question, (9, 9, 99, 99), image=name) for name, questions in asked.items() for question in questions]
    augmenter = augmenter_of(records, mosaic=1)
    for change in changes_of(augmenter):
        assert {str(pasted.image) for pasted in change.pictures} == {"a", "b", "c", "e"}, "of cups on d nobody knows"
    assert changes_of(augmenter, "b") == [], "nobody else is asked about pans"
    assert len(changes_of(augmenter, "d")) == 200
    assert augmenter.describe() == (
        "augmentation, as words allow, of 5 pictures: mosaic 5 (4 have three others asked the same)"
    )


def test_a_question_with_two_answers_about_a_picture_is_in_no_mosaic() -> None:
    records = [ask("mug", (9, 9, 99, 99), image=name) for name in "abcd"]
    twice = ask("mug", (200, 100, 300, 200), image="d")
    assert changes_of(augmenter_of(records, mosaic=1))
    for image in "ad":
        assert changes_of(augmenter_of([*records, twice], mosaic=1), image) == []
    assert changes_of(augmenter_of([*records, records[3]], mosaic=1)), "one that is only repeated has one answer"


def test_places_and_left_labels_are_in_no_mosaic() -> None:
    for question, label in (("the largest mug", None), ("mug", "left hand"), ("the mug on the left", None)):
        records = [ask(question, (9, 9, 99, 99), image=name, label=label) for name in "abcd"]
        augmenter = augmenter_of(records, mosaic=1)
        assert changes_of(augmenter) == [] and "mosaic 0 (0 have three" in augmenter.describe()


def test_too_few_others_are_told() -> None:
    augmenter = augmenter_of([ask("mug", image=name) for name in "abc"], mosaic=0.1, flip=0.5, jpeg=1)
    assert (
        augmenter.describe()
        == "augmentation, as words allow, of 3 pictures: flip 3, mosaic 3 (0 have three others asked the same)"
    )
    assert augmenter_of([MUG], jpeg=1).describe().endswith("1 pictures: no moves")


# ---- lengths ---------------------------------------------------------------------------------------------------


def test_what_would_be_too_long_stays_still_but_keeps_its_colours() -> None:
    records = [ask("mugs", (9, 9, 99, 99), image=name) for name in "abcd"]
    short = augmenter_of(records, mosaic=1, jpeg=1, fits=lambda record, _: len(record.targets) < 4)
    free = augmenter_of(records, mosaic=1, jpeg=1)
    for refused, change in zip(changes_of(short), changes_of(free), strict=True):
        assert len(change.pictures) == 4 and refused == change.stilled and refused.jpeg == change.jpeg
