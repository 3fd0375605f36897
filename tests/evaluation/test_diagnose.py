"""Mistakes planted in a trained model's answers: each is named by its own code alone, and nothing where none is."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import draw_records
from made_answers import (
    IN_ORIGINAL,
    IN_SEEN,
    IN_THOUSANDTHS,
    SIZES,
    Answered,
    Kind,
    Numbers,
    as_middle,
    as_xywh,
    box_rows,
    in_square,
    longer_side,
    make,
    moved,
    padded,
    resized,
    swapped,
    taken_for_stretched,
    text_rows,
    turned,
    write,
)
from PIL import Image

import groundling as gl
from groundling.cli import main
from groundling.data.record import Target, write_records
from groundling.evaluation.cases import Cases, read_cases
from groundling.evaluation.diagnose import diagnose, examine
from groundling.evaluation.diagnosis import CODES, Diagnosis
from groundling.evaluation.frame_faults import _scale_words

Rows = list[dict[str, Any]]
Plant = Callable[[list[Answered]], Rows]


def look_at(answers: list[Answered], rows: Rows, folder: Path, **options: Any) -> Diagnosis:
    file = folder / "answers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return diagnose(file, [one.record for one in answers], **{"family": "qwen2_5_vl"} | options)


def codes(found: Diagnosis) -> list[str]:
    return [fault.code for fault in found.faults]


# ---- what boxes count ------------------------------------------------------------------------------------------

MISTAKES: dict[str, tuple[list[str], Plant]] = {
    "thousandths": (["thousandths_as_pixels"], lambda a: text_rows(a, IN_THOUSANDTHS)),
    "original pixels": (["wrong_frame"], lambda a: text_rows(a, IN_ORIGINAL)),
    "a larger budget": (["wrong_frame"], lambda a: text_rows(a, resized(12_845_056))),
    "a smaller budget": (["wrong_frame"], lambda a: text_rows(a, resized(50_176))),
    "a budget that is not listed": (["wrong_frame"], lambda a: text_rows(a, resized(700_000))),
    "a longer side of 700": (["wrong_frame"], lambda a: text_rows(a, longer_side(700))),
    "a padded square": (["padded"], lambda a: text_rows(a, padded)),
    "a square of 336": (["padded"], lambda a: text_rows(a, in_square(336, 0.5))),
    "a square of 1024": (["padded"], lambda a: text_rows(a, in_square(1024, 0.5))),
    "thousandths of a square of 1024": (["padded"], lambda a: text_rows(a, in_square(1024, 0.5, per=1000))),
    "a longer side of at most 1024": (["wrong_frame"], lambda a: text_rows(a, in_square(1024, 0))),
    "x and y swapped": (["swapped_axes"], lambda a: text_rows(a, swapped(IN_SEEN))),
    "x, y, width, height": (["box_form"], lambda a: text_rows(a, as_xywh(IN_SEEN))),
    "middle and size": (["box_form"], lambda a: text_rows(a, as_middle(IN_SEEN))),
    "swapped thousandths": (
        ["thousandths_as_pixels", "swapped_axes"],
        lambda a: text_rows(a, swapped(IN_THOUSANDTHS)),
    ),
    "x, y, width, height in thousandths": (
        ["thousandths_as_pixels", "box_form"],
        lambda a: text_rows(a, as_xywh(IN_THOUSANDTHS)),
    ),
    "boxes: a square of 640": (["padded"], lambda a: box_rows(a, in_square(640, 0.5, is_enlarged=True))),
    "boxes: thousandths": (["thousandths_as_pixels"], lambda a: box_rows(a, IN_THOUSANDTHS)),
    "boxes: never scaled back": (["wrong_frame"], lambda a: box_rows(a, IN_SEEN)),
    "boxes: too large": (["wrong_frame"], lambda a: box_rows(a, moved((1.47, 1.48), (0, 0)))),
    "moved": (["shifted"], lambda a: text_rows(a, lambda one: IN_SEEN(one) + 40)),
    "moved and swapped": (["swapped_axes", "shifted"], lambda a: text_rows(a, swapped(lambda one: IN_SEEN(one) + 40))),
    "boxes: scaled and moved": (["wrong_frame"], lambda a: box_rows(a, moved((1.3, 1.2), (40, -30)))),
    "boxes: moved": (["shifted"], lambda a: box_rows(a, moved((1, 1), (40, -30)))),
    "boxes: swapped": (["swapped_axes"], lambda a: box_rows(a, swapped(IN_ORIGINAL))),
    "boxes: a quarter turn": (["turned"], lambda a: box_rows(a, turned(6))),
    "boxes: mirrored": (["turned"], lambda a: box_rows(a, turned(2))),
    "rounded down": (["offset"], lambda a: text_rows(a, lambda one: IN_SEEN(one) - 0.5)),
    "counted from 1": (["offset"], lambda a: text_rows(a, lambda one: IN_SEEN(one) + 1)),
    "the last pixel inside": (["offset"], lambda a: text_rows(a, lambda one: IN_SEEN(one) - [0, 0, 1, 1])),
}

TRAINED = (
    pytest.param(Kind(count=160, noise=0.05, misses=0.5), id="weak"),
    pytest.param(Kind(noise=0.02, misses=0.2), id="good", marks=pytest.mark.slow),
    pytest.param(Kind(count=80, targets=5), id="several", marks=pytest.mark.slow),
)
FINE = ("rounded down", "counted from 1", "the last pixel inside")  # what noise hides where it is larger


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("kind", TRAINED)
def test_a_planted_mistake_is_named_by_its_code_alone(mistake: str, kind: Kind, tmp_path: Path) -> None:
    if mistake in FINE:
        kind = replace(kind, noise=0.01, count=240, targets=min(kind.targets, 2))
    expected, plant = MISTAKES[mistake]
    answers = make(3, kind)
    found = look_at(answers, plant(answers), tmp_path)
    assert codes(found) == expected
    for fault in found.faults:
        assert fault.level == CODES[fault.code].level and fault.cure == CODES[fault.code].cure
        if fault.level == "error":
            assert fault.before is not None and fault.after is not None and fault.after > fault.before
            assert fault.after == pytest.approx(1 - kind.misses, abs=0.15)


def test_pixels_read_as_thousandths(tmp_path: Path) -> None:
    answers = make(0, Kind(count=80, family="qwen3_vl"))
    for numbers in (IN_SEEN, IN_ORIGINAL, resized(451_584)):
        assert codes(look_at(answers, text_rows(answers, numbers), tmp_path, family="qwen3_vl")) == [
            "pixels_as_thousandths"
        ]


def test_a_wrong_frame_is_told_with_its_size_and_what_it_costs(tmp_path: Path) -> None:
    answers = make(0, Kind(misses=0.1, sizes=((1920, 1080),)))
    assert {one.seen.size_wh for one in answers} == {(1316, 728)}
    (fault,) = look_at(answers, text_rows(answers, resized(12_845_056)), tmp_path).faults
    assert fault.message.startswith("boxes are 1.47 x 1.50 too large (")
    assert "(1932x1092; read as 1316x728)" in fault.message
    told = re.search(r"rises from (\S+) to (\S+), the median IoU rises from (\S+) to (\S+)$", fault.message)
    assert told and float(told[2]) > 0.85 and float(told[1]) < 0.4 and float(told[4]) > 0.8


@pytest.mark.parametrize(
    ("scales", "words"),
    [
        ([[1.468, 1.5]] * 3, "1.47 x 1.50 too large"),
        ([[0.5, 0.8]] * 3, "2.00 x 1.25 too small"),
        ([[0.76, 1.37]] * 3, "0.76 x 1.37 times as large as they should be"),
        ([[1.001, 1.0]] * 3, "not where they should be"),
        ([[1.02, 1.008]] * 3, "1.020 x 1.008 too large"),
        ([[1, 1], [2, 2], [3, 3]], "2.00 x 2.00 too large, 1.00 to 3.00 by picture"),
        ([[1, 1], [1, 1], [3.57, 3.5]], "too large, 1.00 to 3.57 by picture"),
        ([[1, 1], [1, 1], [0.25, 0.25]], "too small, 1.00 to 4.00 by picture"),
        ([[0.993, 1], [0.97, 1], [1.14, 1]], "0.97 to 1.14 times as large as they should be, by picture"),
        ([[0.9, 0.9], [0.9, 0.9], [3, 3]], "0.90 x 0.90 times as large as they should be, 0.90 to 3.00 by picture"),
    ],
)
def test_a_scale_is_told_as_it_is_seen(scales: list[list[float]], words: str) -> None:
    assert _scale_words(np.array(scales)) == words


@pytest.mark.parametrize(("units", "side", "decimals"), [(1000, "625 (625x469;", 0), (1, "0.625 (0.625x0.469;", 4)])
def test_pictures_of_one_size_in_the_corner_of_a_square_are_told_by_their_longer_side(
    units: int, side: str, decimals: int, tmp_path: Path
) -> None:
    """A square of 1024: 640 of it are 625 thousandths."""
    answers = make(0, Kind(count=150, sizes=((640, 480),)))
    rows = text_rows(answers, lambda one: one.unit * np.tile([640, 480], 2) / 1024 * units, decimals=decimals)
    (fault,) = look_at(answers, rows, tmp_path).faults
    assert fault.code == "wrong_frame" and f"its longer side resized to {side}" in fault.message


def test_a_wrong_frame_of_large_pictures_alone_is_told_by_them(tmp_path: Path) -> None:
    answers = make(0, Kind(sizes=((640, 480), (500, 375), (480, 640), (4000, 3000))))
    (fault,) = look_at(answers, text_rows(answers, resized(12_845_056)), tmp_path).faults
    assert re.match(r"boxes are too large, 1\.00 to 3\.\d\d by picture \(", fault.message)
    assert re.search(r"\(4\d{3}x\d{4} for record \d+, of 4000x3000; read as 1148x840\)", fault.message)


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (
            lambda a: text_rows(a, lambda one: IN_SEEN(one) + [40, -30] * 2),
            (40, "right", 30, "up", "units of the text"),
        ),
        (lambda a: box_rows(a, moved((1, 1), (-60, 40))), (60, "left", 40, "down", "original pixels")),
        (
            lambda a: box_rows(a, lambda one: IN_ORIGINAL(one) + [0.08 * side for side in one.original.size_wh] * 2),
            (8, "right", 8, "down", "% of the picture"),
        ),
    ],
)
def test_a_shift_is_told_in_the_unit_that_it_is_the_same_in(
    plant: Plant, words: tuple[Any, ...], tmp_path: Path
) -> None:
    answers = make(0)
    (fault,) = look_at(answers, plant(answers), tmp_path).faults
    told = re.match(r"boxes lie (\S+) to the (\w+) and (\S+) (\w+) of their targets, in (.*) \(\d+ of", fault.message)
    assert fault.code == "shifted" and told
    assert (told[2], told[4], told[5]) == (words[1], words[3], words[4])
    assert (float(told[1]), float(told[3])) == pytest.approx((words[0], words[2]), rel=0.05)


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.9, "boxes shrink towards the middle of the picture by 10% ("),
        (1.12, "boxes spread from the middle of the picture by 12% ("),
    ],
)
@pytest.mark.parametrize("sizes", [SIZES, SIZES[:1]])
def test_boxes_that_shrink_to_the_middle_are_a_habit(
    share: float, words: str, sizes: tuple[tuple[int, int], ...], tmp_path: Path
) -> None:
    answers = make(1, Kind(misses=0.15, sizes=sizes))
    shrunk = [replace(one, unit=(one.unit - 0.5) * share + 0.5) for one in answers]
    for rows in (text_rows(shrunk, IN_SEEN), box_rows(shrunk, IN_ORIGINAL)):
        (fault,) = look_at(answers, rows, tmp_path).faults
        assert (fault.code, fault.level) == ("shrunk", "warning")
        assert fault.message.startswith(words[:-5]) and fault.after and fault.after > 0.75


SMALL = ((640, 480), (480, 640), (640, 427), (500, 375), (612, 612))
IN_MIDDLE = r"with the picture, shrunk where it is larger, in its middle"
IN_CORNER = r"with the picture, shrunk where it is larger, in its corner, padded at the right and bottom"


@pytest.mark.parametrize("kind", TRAINED)
@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (
            lambda a: text_rows(a, in_square(1024, 0.5)),
            rf"pixels of a square of 1024 {IN_MIDDLE} \(500x375 at 262, 324 for .*, of 500x375; read as 504x364\)",
        ),
        (
            lambda a: text_rows(a, in_square(448, 0.5, is_enlarged=True)),
            r"pixels of a square of 448 with the picture in its middle \(\d+x\d+ at ",
        ),
        (
            lambda a: text_rows(a, in_square(1024, 0.5, per=1000)),
            rf"thousandths of a square of 1024 {IN_MIDDLE} \(488x366",
        ),
        (
            lambda a: text_rows(a, in_square(800, 0, per=1000)),
            rf"thousandths of a square of 800 {IN_CORNER} \(625x469 at 0, 0",
        ),
        (
            lambda a: text_rows(a, in_square(1024, 0, per=1), decimals=3),
            rf"shares, 0 to 1, of a square of 1024 {IN_CORNER} \(0.488x0.366 at 0, 0 for",
        ),
        (
            lambda a: text_rows(a, in_square(336, 0.5, per=1), decimals=3),
            r"shares, 0 to 1, of a square with the picture in its middle \(1x0.\d+ at 0, 0.\d+ for",
        ),
        (
            lambda a: box_rows(a, taken_for_stretched(1024, in_square(1024, 0.5))),
            rf"the model's own units of a square of 1024 {IN_MIDDLE} \(244x137 at 128, 119",
        ),
    ],
)
def test_a_padded_picture_is_told_with_its_square_and_where_it_lies(
    plant: Plant, words: str, kind: Kind, tmp_path: Path
) -> None:
    """Pictures of a photo site's sizes, which few squares shrink: none of their sides is the square's."""
    answers = make(3, replace(kind, sizes=SMALL))
    (fault,) = look_at(answers, plant(answers), tmp_path).faults
    assert (fault.code, fault.level) == ("padded", "error")
    assert re.match(
        rf"boxes lie in a picture padded to a square \(\d+ of \d+ answers\): they count {words}", fault.message
    )
    assert fault.after == pytest.approx(1 - kind.misses, abs=0.15)


@pytest.mark.parametrize("sizes", [SMALL, SMALL[:1], SMALL[-1:]])
def test_a_shift_or_a_scale_is_no_padding(sizes: tuple[tuple[int, int], ...], tmp_path: Path) -> None:
    """Though all pictures are of one size, or squares themselves, which padding would move and scale alike."""
    answers = make(7, Kind(sizes=sizes))
    assert codes(look_at(answers, text_rows(answers, lambda one: IN_SEEN(one) + 40), tmp_path)) == ["shifted"]
    assert codes(look_at(answers, box_rows(answers, moved((1, 1), (60, 60))), tmp_path)) == ["shifted"]
    assert codes(look_at(answers, box_rows(answers, moved((1.5, 1.5), (0, 0))), tmp_path)) == ["wrong_frame"]


def in_part(share: float, change: Numbers) -> Plant:
    def plant(answers: list[Answered]) -> Rows:
        rows, others = text_rows(answers, IN_SEEN), text_rows(answers, change)
        return [
            other if number % 10 < 10 * share else row
            for number, (row, other) in enumerate(zip(rows, others, strict=True))
        ]

    return plant


@pytest.mark.parametrize(
    ("code", "plant"),
    [
        ("thousandths_as_pixels", in_part(0.5, IN_THOUSANDTHS)),
        ("swapped_axes", in_part(0.3, swapped(IN_SEEN))),
        ("box_form", in_part(0.4, as_xywh(IN_SEEN))),
    ],
)
def test_a_mistake_of_a_part_of_the_answers_is_named_as_that(code: str, plant: Plant, tmp_path: Path) -> None:
    answers = make(2, Kind(misses=0.15))
    (fault,) = look_at(answers, plant(answers), tmp_path).faults
    assert (fault.code, fault.level) == (code, "error")
    assert re.match(
        rf"in a part of the answers, of those {fault.of} that miss: .* \({fault.count} of {fault.of} ", fault.message
    )
    assert fault.of < 180 and fault.count > 40


def test_an_offset_is_told_with_its_side(tmp_path: Path) -> None:
    answers = make(3, Kind(noise=0.01))
    for shift, words in (
        (-0.5, r"boxes lie 0\.\d\d \[0\.\d\d, 0\.\d\d\] .* to the left of and above their targets"),
        (1, r"boxes lie [01]\.\d\d .* to the right of and below their targets"),
    ):
        found = look_at(answers, text_rows(answers, lambda one, shift=shift: IN_SEEN(one) + shift), tmp_path)
        (fault,) = found.faults
        assert fault.code == "offset" and re.match(words, fault.message)
        assert found.unseen is None


def test_an_offset_that_sizes_do_not_tell_from_a_share_says_so(tmp_path: Path) -> None:
    answers = make(1, Kind(noise=0.02, least=0.1, most=0.12, sizes=((640, 480),)))
    (fault,) = look_at(answers, text_rows(answers, lambda one: IN_SEEN(one) - 0.5), tmp_path).faults
    habit = "; or by a share of each box's side, as a habit of the model: boxes of so few sizes do not tell"
    assert fault.code == "offset" and fault.message.endswith(habit)


def test_a_bias_of_the_models_own_is_no_offset_and_may_hide_one(tmp_path: Path) -> None:
    answers = make(0, Kind(noise=0.01))
    found = look_at(answers, text_rows(answers, lambda one: IN_SEEN(one) - [0, 0, 0, -1]), tmp_path)
    assert codes(found) == [] and found.unseen
    assert re.fullmatch(
        r"edges of these boxes lie off in a way that is no offset and may hide one \(\d+ that are right\)", found.unseen
    )


def test_half_a_pixel_that_costs_small_boxes_hits_is_an_offset_too(tmp_path: Path) -> None:
    answers = make(2, Kind(count=120, least=0.004, most=0.01))
    (fault,) = look_at(answers, text_rows(answers, lambda one: IN_SEEN(one) - 0.5), tmp_path).faults
    assert fault.code == "offset" and (fault.after or 0) > (fault.before or 1)
    assert re.match(r"boxes lie 0\.\d+ to the left and 0\.\d+ up of their targets, in units of the text", fault.message)


def test_silence_about_an_offset_is_no_proof_and_says_so(tmp_path: Path) -> None:
    answers = make(0, Kind(count=300, noise=0.04))
    found = look_at(answers, text_rows(answers, IN_SEEN), tmp_path)
    assert codes(found) == [] and found.unseen
    told = re.fullmatch(
        r"an offset under (\d\.\d) (.*) could not be seen in these boxes \((\d+) that are right\), "
        r"nor one under (\d\.\d) of two edges alone",
        found.unseen,
    )
    assert told and 0.5 < float(told[1]) < float(told[4]) <= 1.4
    assert told[2] == "units of the text" and 150 <= int(told[3]) < 210
    assert found.as_lines()[1] == found.unseen and found.to_json()["unseen"] == found.unseen
    few = look_at(answers, text_rows(answers[:20], IN_SEEN), tmp_path).unseen
    assert few and few.startswith("an offset of 1.4 units of the text or less could not be seen in these boxes, ")
    many = make(0, Kind(noise=0.005))
    assert look_at(many, text_rows(many, IN_SEEN), tmp_path).unseen is None


# ---- a part of the answers, and a second mistake ---------------------------------------------------------------


def from_cameras(answers: list[Answered]) -> list[Answered]:
    """Their pictures lie in folders of five cameras, and their records tell one of three sources."""
    return [
        replace(
            one,
            record=replace(one.record, image=Path(f"cam{place % 5}/{place}.jpg"), extra={"source": "abc"[place % 3]}),
        )
        for place, one in enumerate(answers)
    ]


Choice = Callable[[Answered], bool]


def is_fork(one: Answered) -> bool:
    return one.record.targets[0].label == "fork"


def is_second_camera(one: Answered) -> bool:
    return one.record.image is not None and one.record.image.parent.name == "cam2"


def is_second_source(one: Answered) -> bool:
    return one.record.extra.get("source") == "b"


def on_its_side(one: Answered) -> np.ndarray:
    return gl.Boxes(IN_THOUSANDTHS(one), gl.Frame(1000, 1000)).turned(6).xyxy


SECOND: dict[str, tuple[Numbers, Numbers, Choice, list[str], str]] = {
    "a class swapped in thousandths": (
        IN_THOUSANDTHS,
        swapped(IN_THOUSANDTHS),
        is_fork,
        ["thousandths_as_pixels", "swapped_axes"],
        "found after thousandths_as_pixels was undone, in a part of the answers, of those {n} about 'fork': x and y of",
    ),
    "a camera on its side in thousandths": (
        IN_THOUSANDTHS,
        on_its_side,
        is_second_camera,
        ["thousandths_as_pixels", "turned"],
        "found after thousandths_as_pixels was undone, in a part of the answers, of those {n} about pictures in the "
        "folder 'cam2': boxes lie on a picture turned",
    ),
    "a source of sizes in a size that was fitted": (
        longer_side(700),
        as_xywh(longer_side(700)),
        is_second_source,
        ["wrong_frame", "box_form"],
        "found after wrong_frame was undone, in a part of the answers, of those {n} whose source is 'b': boxes are not",
    ),
    "a class swapped, else right": (
        IN_SEEN,
        swapped(IN_SEEN),
        is_fork,
        ["swapped_axes"],
        "in a part of the answers, of those {n} about 'fork': x and y of",
    ),
}


@pytest.mark.parametrize("mistake", SECOND)
def test_a_second_mistake_is_named_with_its_part(mistake: str, tmp_path: Path) -> None:
    whole, of_part, is_part, expected, words = SECOND[mistake]
    answers = from_cameras(make(50))
    chosen = [is_part(one) for one in answers]
    rows = [
        other if of_them else row
        for row, other, of_them in zip(text_rows(answers, whole), text_rows(answers, of_part), chosen, strict=True)
    ]
    found = look_at(answers, rows, tmp_path)
    assert codes(found) == expected
    second = found.faults[-1]
    assert second.message.startswith(words.format(n=sum(chosen)))
    assert second.of == sum(chosen) and (second.after or 0) > 0.5 > 0.1 > (second.before or 0)
    told = re.match(r"(\d+) of 240 .* once that is undone", found.standing)
    assert told and int(told[1]) == pytest.approx(0.65 * 240, abs=15), "both are undone"


@pytest.mark.parametrize(
    ("numbers", "code"), [(IN_THOUSANDTHS, "thousandths_as_pixels"), (lambda one: IN_SEEN(one) + 60, "shifted")]
)
def test_a_part_that_is_right_is_told_with_the_mistake_of_the_others(
    numbers: Numbers, code: str, tmp_path: Path
) -> None:
    answers = from_cameras(make(50))
    wrong, right = text_rows(answers, numbers), text_rows(answers, IN_SEEN)
    rows = [right[place] if is_second_camera(one) else wrong[place] for place, one in enumerate(answers)]
    (fault,) = look_at(answers, rows, tmp_path).faults
    assert fault.code == code
    assert re.search(
        r"; but not of all answers: of those 48 about pictures in the folder 'cam2', \d+ are right as they were read$",
        fault.message,
    )


# ---- things taken for each other ---------------------------------------------------------------------------------

Layout = Callable[[np.ndarray], np.ndarray]
LAYOUTS: dict[str, tuple[tuple[float, float], Layout]] = {
    "left and right": ((0.28, 0.5), lambda middle: middle * [-1, 1] + [1, 0]),
    "above and below": ((0.5, 0.28), lambda middle: middle * [1, -1] + [0, 1]),
    "on a diagonal": ((0.28, 0.28), lambda middle: 1 - middle),
    "on the other diagonal": ((0.28, 0.72), lambda middle: middle[::-1]),
}


def things_in_pairs(seed: int, layout: str, wrong: float, *, both: bool, jitter: float = 0.06) -> list[Answered]:
    """Two of a kind in each picture, asked for one or both; so many are taken for the other, else noise."""
    rng = np.random.default_rng(seed)
    place, mirror = LAYOUTS[layout]
    pairs: list[Answered] = []
    for number, one in enumerate(make(seed, Kind(count=200 if both else 400))):
        size, middle = rng.uniform([0.15, 0.3], [0.3, 0.45]), np.array(place) + rng.normal(0, jitter / 2, 2)
        middles = [middle, mirror(middle) + rng.normal(0, jitter, 2)]
        sizes = [size * np.exp(rng.normal(0, 0.15, 2)) for _ in middles]
        boxes = [np.clip(np.hstack([at - by / 2, at + by / 2]), 0, 1) for at, by in zip(middles, sizes, strict=True)]
        for which in (0, 1) if both else (int(rng.integers(2)),):
            told = boxes[1 - which if rng.random() < wrong else which]
            noise = rng.normal(0, 0.03, 4) * np.tile(told[2:] - told[:2], 2)
            (box,) = gl.Boxes(boxes[which][None], gl.Frame(1, 1)).to(one.original).xyxy.tolist()
            name = ("first", "second")[which]
            record = replace(
                one.record,
                id=f"{number} {name}",
                image=Path(f"{number}.jpg"),
                question=f"the {name} person",
                targets=(Target(box=tuple(box), label="person"),),
            )
            pairs.append(replace(one, record=record, unit=np.clip(told + noise, 0, 1)[None], labels=["person"]))
    return pairs


def frame_faults(answers: list[Answered], folder: Path) -> list[str]:
    """What is said but that one thing is taken for another."""
    return [code for code in codes(look_at(answers, text_rows(answers, IN_SEEN), folder)) if code != "confused_classes"]


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_thing_taken_for_the_one_across_the_picture_is_no_turn(layout: str, both: bool, tmp_path: Path) -> None:
    assert frame_faults(things_in_pairs(0, layout, 0.2, both=both), tmp_path) == []


def test_one_of_two_that_is_never_found_is_no_turn(tmp_path: Path) -> None:
    """Whichever is asked for, it shows the first."""
    answers = things_in_pairs(0, "left and right", 0, both=True)
    answers[1::2] = [
        replace(second, unit=first.unit) for first, second in zip(answers[::2], answers[1::2], strict=True)
    ]
    assert frame_faults(answers, tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_things_taken_for_each_other_are_no_turn_in_many_draws(layout: str, both: bool, tmp_path: Path) -> None:
    for seed in range(3):
        for wrong in (0.15, 0.25, 0.4):
            for jitter in (0.0, 0.03, 0.06):
                answers = things_in_pairs(100 + seed, layout, wrong, both=both, jitter=jitter)
                assert frame_faults(answers, tmp_path) == [], (seed, wrong, jitter)


# ---- how much a mistake costs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("least", "code"), [(0.4, "near_frame"), (0.03, "wrong_frame")])
def test_a_frame_that_is_a_little_off_is_an_error_where_it_costs_hits(least: float, code: str, tmp_path: Path) -> None:
    """Large boxes hit all the same, small ones no more."""
    answers = make(0, Kind(noise=0.01, misses=0, least=least, most=2 * least))
    (fault,) = look_at(answers, box_rows(answers, moved((1.03, 1.03), (0, 0))), tmp_path).faults
    assert (fault.code, fault.level) == (code, CODES[code].level)
    assert fault.before is not None and (fault.before == 1 if code == "near_frame" else fault.before < 0.5)
    assert re.match(r"boxes are 1\.0(29|30|31) x 1\.0(29|30|31) too large \(", fault.message)
    change = "stays at 1.00" if code == "near_frame" else r"rises from 0\.\d\d"
    assert re.search(rf"hits \(IoU 0\.5\) {change}.*, the median IoU rises from 0\.", fault.message)


@pytest.mark.parametrize(
    ("kind", "code"),
    [(Kind(misses=0.1, least=0.02, most=0.1), "wrong_frame"), (Kind(count=160, noise=0.05, misses=0.5), "near_frame")],
)
def test_another_familys_steps_are_an_error_for_small_boxes(kind: Kind, code: str, tmp_path: Path) -> None:
    """Steps of 32 for 28: sides differ by 3 % at most."""
    answers = make(3, kind)
    assert codes(look_at(answers, text_rows(answers, resized(1_003_520, "qwen3_vl")), tmp_path)) == [code]


def test_a_shift_that_costs_no_hits_is_a_warning(tmp_path: Path) -> None:
    """Boxes are drawn too low by a tenth of their height."""
    answers = make(0, Kind(count=400, misses=0.15))
    rows = text_rows(
        answers, lambda one: IN_SEEN(one) + 0.1 * (IN_SEEN(one)[:, [3]] - IN_SEEN(one)[:, [1]]) * np.tile([0, 1], 2)
    )
    (fault,) = look_at(answers, rows, tmp_path).faults
    assert (fault.code, fault.level) == ("near_shift", "warning")
    assert fault.before is not None and fault.after is not None and fault.after - fault.before < 0.05


# ---- silence ---------------------------------------------------------------------------------------------------

HEALTHY = {
    "perfect": Kind(noise=0, misses=0),
    "good": Kind(noise=0.01, misses=0.1),
    "weak": Kind(noise=0.05, misses=0.5),
    "rough": Kind(noise=0.15, misses=0.3),
    "few": Kind(count=30, misses=0.5),
    "several": Kind(targets=6),
    "small": Kind(least=0.01, most=0.1),
    "one size": Kind(sizes=SIZES[:1]),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_right_answers_are_met_with_silence(name: str, tmp_path: Path) -> None:
    kind = replace(HEALTHY[name], count=min(HEALTHY[name].count, 80))
    answers = make(0, kind)
    for rows in (text_rows(answers, IN_SEEN), box_rows(answers, IN_ORIGINAL)):
        found = look_at(answers, rows, tmp_path)
        assert codes(found) == []
        assert found.as_lines()[0] == f"nothing systematic found in {kind.count} answers"


@pytest.mark.slow
def test_silence_over_many_draws(tmp_path: Path) -> None:
    false: list[str] = []
    for seed in range(40):
        for kind in HEALTHY.values():
            answers = make(1000 + seed, kind)
            false += codes(look_at(answers, text_rows(answers, IN_SEEN), tmp_path))
            false += codes(look_at(answers, box_rows(answers, IN_ORIGINAL), tmp_path))
    assert len(false) <= 1, "at most one of 640"


def test_a_model_that_guesses_is_told_so_and_nothing_else(tmp_path: Path) -> None:
    for seed in range(2):
        answers = make(seed, Kind(count=100, misses=1))
        assert codes(look_at(answers, text_rows(answers, IN_SEEN), tmp_path)) == ["at_chance"]


def test_few_answers_prove_nothing(tmp_path: Path) -> None:
    answers = make(0, Kind(count=8, misses=0))
    assert codes(look_at(answers, box_rows(answers, turned(2)), tmp_path)) == ["too_few"]


# ---- how pictures are turned -----------------------------------------------------------------------------------


def with_pictures(answers: list[Answered], folder: Path, *, stored_turned: int) -> list[Answered]:
    """Small pictures, the first of them stored turned by a quarter; boxes keep their shares."""
    placed = []
    for number, one in enumerate(answers):
        stored = one.original.turned(6) if number < stored_turned else one.original
        metadata = Image.Exif()
        metadata[0x0112] = 6 if number < stored_turned else 1
        image = folder / f"{number}.jpg"
        Image.new("RGB", stored.size_wh).save(image, exif=metadata)
        placed.append(replace(one, record=replace(one.record, image=image)))
    return placed


def test_answers_about_pictures_as_they_are_stored(tmp_path: Path) -> None:
    answers = with_pictures(make(0, Kind(count=90, sizes=((64, 48),))), tmp_path, stored_turned=30)
    rows = box_rows(answers, IN_ORIGINAL)
    assert codes(look_at(answers, rows, tmp_path)) == []
    rows[:30] = box_rows(answers[:30], turned(8))
    (fault,) = look_at(answers, rows, tmp_path).faults
    assert fault.code == "turned" and fault.of == 30 and fault.count > 15
    assert "as it is stored, not upright" in fault.message


# ---- habits ----------------------------------------------------------------------------------------------------


def plant_text(answers: list[Answered], share: float, change: Callable[[str], str]) -> Rows:
    rows = text_rows(answers, IN_SEEN)
    return [row | {"text": change(row["text"])} if place < share * len(rows) else row for place, row in enumerate(rows)]


def repeated(text: str) -> str:
    unit = text[1:-1].partition("}")[0] + "}"
    return "[" + ", ".join([unit] * 30) + ", " + unit[:20]


def say_twice(text: str) -> str:
    return f"[{text[1:-1]}, {text[1:-1]}]"


def walking(_: str) -> str:
    return write(np.array([[10 + 15 * place, 10, 100 + 15 * place, 100] for place in range(12)]), ["cup"] * 12)


def in_turn(text: str) -> str:
    own, other = text[1:-1], '{"bbox_2d": [7, 9, 90, 88], "label": "pan"}'
    return f"[{', '.join([own, other] * 5)}]"


def stammering(text: str) -> str:
    label = text.rpartition(': "')[2].partition('"')[0]
    return text.replace(f'"{label}"', f'"{" ".join([label] * 20)}"')


def without_room(answers: list[Answered]) -> Rows:
    """As they are kept by `evaluate`: read, and nothing wrong with the text."""
    rows = text_rows(answers, IN_SEEN)
    return [row | {"full": place % 10 == 0} for place, row in enumerate(rows)]


def again(answers: list[Answered], share: float) -> Rows:
    """Each box a second time, wider by a share (or narrower), as a model that is not quite sure says it."""
    rows = box_rows(answers, IN_ORIGINAL)
    for row in rows:
        row["boxes"] += [
            [left, top, right + share * (right - left), bottom] for left, top, right, bottom in row["boxes"]
        ]
    return rows


def beyond(answers: list[Answered]) -> Rows:
    rows = box_rows(answers, IN_ORIGINAL)
    for row in rows[:20]:
        row["boxes"][0][2] += 3000
    return rows


def first_alone(one: Answered) -> np.ndarray:
    return IN_SEEN(one)[:1]


def one_box(answers: list[Answered]) -> Rows:
    return [
        {"id": one.record.id, "seen": [*one.seen.size_wh], "text": write(first_alone(one), one.labels[:1])}
        for one in answers
    ]


def one_place(answers: list[Answered]) -> Rows:
    rows = box_rows(answers, IN_ORIGINAL)
    for row, one in zip(rows[: len(rows) * 3 // 4], answers, strict=False):
        row["boxes"] = [
            [side * share for side, share in zip(one.original.size_wh * 2, (0.3, 0.4, 0.5, 0.7), strict=True)]
        ]
    return rows


def as_point(text: str) -> str:
    """The middle of its first box."""
    left, top, right, bottom = json.loads(text)[0]["bbox_2d"]
    return json.dumps([{"point_2d": [(left + right) // 2, (top + bottom) // 2]}])


def forks_for_spoons(answers: list[Answered]) -> Rows:
    rows = text_rows(answers, IN_SEEN)
    for row, one in zip(rows, answers, strict=True):
        if int(one.record.id) % 2:
            row["text"] = row["text"].replace('"fork"', '"plate"')
    return rows


def relabelled(answers: list[Answered], change: Callable[[str, int], str]) -> Rows:
    return [
        row | {"text": write(IN_SEEN(one), [change(label, number) for label in one.labels])}
        for number, (row, one) in enumerate(zip(text_rows(answers, IN_SEEN), answers, strict=True))
    ]


COLOURS = ("red", "blue", "green", "black", "white", "tan")


def drop_rows(answers: list[Answered], count: int = 20) -> Rows:
    rows = text_rows(answers, IN_SEEN)
    return [row | {"id": f"x{row['id']}"} if place < count else row for place, row in enumerate(rows)]


HABITS: dict[str, tuple[str, Plant]] = {
    "a loop to the cut": ("loop", lambda a: plant_text(a, 0.1, repeated)),
    "a row of boxes without an end": ("loop", lambda a: plant_text(a, 0.5, walking)),
    "two boxes in turn": ("loop", lambda a: plant_text(a, 0.5, in_turn)),
    "a word over and over": ("loop", lambda a: plant_text(a, 0.5, stammering)),
    "no room": ("truncated", without_room),
    "every box twice": ("duplicates", lambda a: plant_text(a, 0.2, say_twice)),
    "every box again, a little wider": ("duplicates", lambda a: again(a, 0.12)),
    "cut short": ("truncated", lambda a: plant_text(a, 0.1, lambda text: text[:-8])),
    "words": ("unreadable", lambda a: plant_text(a, 0.1, lambda text: "I cannot see that.")),
    "nothing": ("says_none", lambda a: plant_text(a, 0.5, lambda text: "[]")),
    "a point": ("points", lambda a: plant_text(a, 0.5, as_point)),
    "beyond the picture": ("outside", beyond),
    "one place": ("same_answer", one_place),
    "forks called plates": ("confused_classes", forks_for_spoons),
    "plurals": ("other_labels", lambda a: relabelled(a, lambda label, number: label.upper() + "S")),
    "colours too": ("other_labels", lambda a: relabelled(a, lambda label, number: f"{COLOURS[number % 6]} {label}")),
    "mostly ids of other records": ("set_aside", lambda a: drop_rows(a, 200)),
    "ids of other records": ("unpaired", drop_rows),
}


@pytest.mark.parametrize("habit", HABITS)
def test_a_habit_is_named_by_its_code_alone(habit: str, tmp_path: Path) -> None:
    code, plant = HABITS[habit]
    answers = make(0)
    found = look_at(answers, plant(answers), tmp_path)
    assert codes(found) == [code]
    assert found.faults[0].count >= 15


def test_boxes_of_targets_that_lie_on_each_other_are_no_copies(tmp_path: Path) -> None:
    """Two targets of one label, the second a quarter narrower: their answers overlap by 0.75."""
    answers = make(0, Kind(misses=0))
    crowded: list[Answered] = []
    for one in answers:
        (target,) = one.record.targets
        left, top, right, bottom = target.box or (0, 0, 0, 0)
        narrow = replace(target, box=(left, top, right - (right - left) / 4, bottom))
        crowded.append(replace(one, record=replace(one.record, targets=(target, narrow))))
    assert codes(look_at(crowded, again(answers, -0.25), tmp_path)) == []
    assert codes(look_at(answers, again(answers, -0.25), tmp_path)) == ["duplicates"]
    assert codes(look_at(answers, again(answers, -0.4), tmp_path)) == []


def test_labels_that_repeat_the_question_or_are_few_are_no_fault(tmp_path: Path) -> None:
    answers = make(0)
    asked = [
        row | {"text": write(IN_SEEN(one), [one.record.question])}
        for row, one in zip(text_rows(answers, IN_SEEN), answers, strict=True)
    ]
    assert codes(look_at(answers, asked, tmp_path)) == []
    rows = relabelled(answers, lambda label, number: f"{COLOURS[number % 6]} {label}" if number % 2 else label)
    assert "other_labels" not in codes(look_at(answers, rows, tmp_path))
    (fault,) = look_at(answers, relabelled(answers, lambda label, number: f"white {label}"), tmp_path).faults
    assert re.match(r"(\d+) of \1 labels of boxes that are right .* \(as 'white \w+' for '\w+', ", fault.message)


def test_boxes_that_stand_in_a_row_are_no_loop(tmp_path: Path) -> None:
    """Twelve keys of a keyboard, an even distance apart."""
    keys = [(10 + 30 * place, 10, 35 + 30 * place, 35) for place in range(12)]
    targets = tuple(Target(box=tuple(map(float, key)), label="key") for key in keys)
    answers = [
        replace(one, record=replace(one.record, targets=targets), labels=["key"] * 12, original=one.seen)
        for one in make(0, Kind(count=40))
    ]
    answers = [
        replace(one, record=replace(one.record, width=one.seen.width, height=one.seen.height)) for one in answers
    ]
    rows = [
        {"id": one.record.id, "seen": [*one.seen.size_wh], "text": write(np.array(keys), one.labels)} for one in answers
    ]
    assert codes(look_at(answers, rows, tmp_path)) == []


def test_noise_at_a_border_is_not_outside(tmp_path: Path) -> None:
    """A twentieth of a box beyond the border, in a tenth of the answers."""
    answers = make(0, Kind(most=0.5))
    rows = text_rows(answers, IN_SEEN)
    for row, one in zip(rows[:24], answers, strict=False):
        width, _ = one.seen.size_wh
        side = round(width * 0.5)
        row["text"] = write(np.array([[width - side, 20, width + side / 20, 200]]), one.labels[:1])
    assert codes(look_at(answers, rows, tmp_path)) == []


def test_one_box_where_there_are_several(tmp_path: Path) -> None:
    answers = [one for one in make(0, Kind(targets=4)) if len(one.record.targets) > 1]
    assert codes(look_at(answers, one_box(answers), tmp_path)) == ["one_box"]


def test_points_are_no_fault_where_points_are_asked_for(tmp_path: Path) -> None:
    answers = make(0)
    for place, one in enumerate(answers[:120]):
        left, top, right, bottom = one.record.targets[0].box or (0, 0, 0, 0)
        nose = replace(one.record, targets=(Target(point=((left + right) / 2, (top + bottom) / 2)),))
        answers[place] = replace(one, record=nose)
    rows = text_rows(answers, IN_SEEN)
    rows[:120] = [row | {"text": as_point(row["text"])} for row in rows[:120]]
    assert codes(look_at(answers, rows, tmp_path)) == []


def test_answers_that_are_all_points_are_told_to_be(tmp_path: Path) -> None:
    answers = make(0)
    found = look_at(answers, plant_text(answers, 1, as_point), tmp_path)
    assert codes(found) == ["points", "too_few"]
    assert found.faults[0].message.startswith("240 of 240 questions for boxes are answered with points alone (as ")


def test_boxes_where_there_is_nothing(tmp_path: Path) -> None:
    answers = make(0)
    answers[:30] = [replace(one, record=replace(one.record, targets=())) for one in answers[:30]]
    assert codes(look_at(answers, text_rows(answers, IN_SEEN), tmp_path)) == ["invents"]


def test_a_thing_that_is_asked_for_is_taken_for_another_of_its_picture(tmp_path: Path) -> None:
    """Forks and spoons share pictures; asked for the fork, the model shows the spoon."""
    answers = make(0, Kind(misses=0))
    forks, spoons = answers[:120], answers[120:]
    asked: list[Answered] = []
    for number, (fork, spoon) in enumerate(zip(forks, spoons, strict=True)):
        image = tmp_path / f"{number}.jpg"  # not there, hence the size is the record's
        for one, name in ((fork, "fork"), (spoon, "spoon")):
            (target,) = one.record.targets
            box = gl.Boxes([target.box], one.original).to(fork.original).xyxy[0]
            record = replace(
                one.record,
                image=image,
                width=fork.original.width,
                height=fork.original.height,
                question=f"the {name}",
                targets=(Target(box=tuple(box.tolist())),),
            )
            asked.append(replace(one, record=record, original=fork.original, seen=fork.seen))
    rows = box_rows(asked, IN_ORIGINAL)
    assert codes(look_at(asked, rows, tmp_path)) == []
    for place in range(0, 120, 2):
        rows[place]["boxes"] = rows[place + 1]["boxes"]
    (fault,) = look_at(asked, rows, tmp_path).faults
    assert fault.code == "confused_classes"
    assert fault.message.startswith("'the fork' is taken for 'the spoon' in ")


def test_x_and_y_swapped_in_pixels_of_the_picture_are_no_mirror(tmp_path: Path) -> None:
    """Its orientation 5 does the same; no camera stores pictures so."""
    answers = make(0)
    found = look_at(answers, text_rows(answers, swapped(IN_ORIGINAL)), tmp_path)
    assert codes(found) == ["wrong_frame", "swapped_axes"]


def test_questions_whose_pictures_could_not_be_read_are_told_apart(tmp_path: Path) -> None:
    """As `predict --json` writes them; they are no rows of another record file."""
    answers = make(0)
    rows = text_rows(answers, IN_SEEN)
    broken = dict.fromkeys(("boxes", "text", "seen")) | {"error": "a.jpg: no picture"}
    rows[:80] = [{"id": row["id"]} | broken for row in rows[:80]]
    (fault,) = look_at(answers, rows, tmp_path).faults
    assert fault.code == "unanswered"
    assert fault.message == "80 of 240 questions were not answered (line 1: not answered: a.jpg: no picture)"


def test_every_code_is_planted() -> None:
    named = {code for expected, _ in MISTAKES.values() for code in expected} | {code for code, _ in HABITS.values()}
    elsewhere = {
        "unanswered",
        "pixels_as_thousandths",
        "near_frame",
        "near_shift",
        "at_chance",
        "too_few",
        "one_box",
        "invents",
        "shrunk",
    }
    assert named | elsewhere == CODES.keys()


# ---- with the bundled model ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model's answers about new scenes, beside their records."""
    folder = tmp_path_factory.mktemp("evaluated")
    records = draw_records(folder / "images", "scene", count=48, seed=30_000_000)
    write_records(records, folder / "records.jsonl")
    gl.evaluate(gl.load("tiny"), records, folder / "report", max_new_tokens=48)
    return folder


def reread(evaluated: Path, folder: Path, change: Callable[[list[float]], list[float]]) -> Path:
    """The same answers as if the model had written other numbers, with nothing but texts."""
    rows = [json.loads(line) for line in (evaluated / "report/predictions.jsonl").read_text("utf-8").splitlines()]
    for row in rows:
        items = json.loads(row["text"])
        for item in items:
            item["bbox_2d"] = [round(number) for number in change(item["bbox_2d"])]
        row["text"] = json.dumps(items)
    file = folder / "predictions.jsonl"
    kept = ({key: row[key] for key in ("id", "question", "text", "seen")} for row in rows)
    file.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    return file


def test_the_bundled_model_is_met_with_silence(evaluated: Path) -> None:
    found = gl.diagnose(evaluated / "report/predictions.jsonl", evaluated / "records.jsonl")
    assert codes(found) == [] and found.answers == 48
    report = gl.read_report(evaluated / "report")
    assert codes(gl.diagnose(report, gl.read_records(evaluated / "records.jsonl"))) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda box: [number / 112 * 1000 for number in box], ["thousandths_as_pixels"]),
        (lambda box: [number * 2 for number in box], ["wrong_frame"]),
        (lambda box: [box[1], box[0], box[3], box[2]], ["swapped_axes"]),
        (lambda box: [box[0], box[1], box[2] - box[0], box[3] - box[1]], ["box_form"]),
    ],
)
def test_the_bundled_model_read_otherwise(
    change: Callable[[list[float]], list[float]], expected: list[str], evaluated: Path, tmp_path: Path
) -> None:
    file = reread(evaluated, tmp_path, change)
    assert codes(gl.diagnose(file, evaluated / "records.jsonl", family="qwen2_5_vl")) == expected


@pytest.mark.parametrize(("plant", "code"), [(False, 0), (True, 1)])
def test_the_command_line_tells_faults_and_ends_with_1_for_errors(
    plant: bool, code: int, evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    file = evaluated / "report/predictions.jsonl"
    if plant:
        file = reread(evaluated, tmp_path, lambda box: [number * 2 for number in box])
    words = ["diagnose", str(file), str(evaluated / "records.jsonl"), "--family", "qwen2_5_vl"]
    for extra in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["groundling", *words, *extra])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
    text, _, document = capsys.readouterr().out.rpartition("\n{")
    assert text.startswith("error wrong_frame: boxes are 2.00 x 2.00" if plant else "nothing systematic found in 48")
    value = json.loads("{" + document)
    assert value["answers"] == 48 and [fault["code"] for fault in value["faults"]] == ["wrong_frame"] * plant


def test_no_answers_are_no_faults() -> None:
    assert codes(examine(Cases([], [], 0))) == ["too_few"]


def test_a_family_is_needed_for_texts_alone(tmp_path: Path) -> None:
    answers = make(0, Kind(count=12))
    with pytest.raises(gl.SettingsError, match="give --family"):
        look_at(answers, text_rows(answers, IN_SEEN), tmp_path, family=None)
    assert len(read_cases(tmp_path / "answers.jsonl", [one.record for one in answers], family="qwen3_vl").cases) == 12


def test_the_document_has_every_code_as_it_is() -> None:
    document = Path(__file__).parents[2] / "docs" / "diagnosis.md"
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*) \| (.*) \|$", document.read_text(encoding="utf-8"), re.MULTILINE)
    assert {code: (level, meaning, cure) for code, level, meaning, cure in rows} == {**CODES}
    assert [row[0] for row in rows] == list(CODES)
    levels = [code.level for code in CODES.values()]
    assert levels == sorted(levels, key=("error", "warning", "note").index), "worst first"
