from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sources import boxes, garbage, make, read_all, reasons, save_lines, save_picture

from groundling.data.formats.found import Found
from groundling.data.record import Target
from groundling.errors import RecordError, SettingsError


def line(prefix: str, suffix: str, **more: object) -> dict[str, Any]:
    return {"image": "photo.jpg", "prefix": prefix, "suffix": suffix, **more}


BINS = "<loc_0><loc_99><loc_499><loc_999>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_picture(tmp_path / "in/photo.jpg", 512, 1024)
    return tmp_path / "in"


def test_paligemma_counts_1024ths_from_the_top(folder: Path, tmp_path: Path):
    suffix = "<loc0256><loc0102><loc0512><loc0800> cat ; <loc0000><loc0000><loc1023><loc0512> big dog"
    (record,) = make("roboflow", save_lines(folder / "a.jsonl", line("detect cat ; big dog", suffix)), tmp_path).records
    assert record.question == "cat, big dog" and record.extra == {"prefix": "detect cat ; big dog"}
    assert record.targets == (
        Target(box=(51, 256, 400, 512), label="cat"),
        Target(box=(0, 0, 256, 1023), label="big dog"),
    )


def test_masks_and_end_marks_behind_a_box_are_passed_over(folder: Path, tmp_path: Path):
    suffix = "<loc0256><loc0102><loc0512><loc0800><seg001><seg127> cat<eos>"
    (record,) = make("roboflow", save_lines(folder / "a.jsonl", line("segment cat", suffix)), tmp_path).records
    assert record.targets == (Target(box=(51, 256, 400, 512), label="cat"),)


@pytest.mark.parametrize(
    ("prefix", "suffix", "question", "labels"),
    [
        ("<OD>", "cat<loc_0><loc_99><loc_499><loc_999>", "all objects", ["cat"]),
        ("<OD>", "<loc_0><loc_99><loc_499><loc_999>cat", "all objects", ["cat"]),  # as some write it
        ("find it", "<loc_0><loc_99><loc_499><loc_999>", "find it", [None]),
        (
            "<CAPTION_TO_PHRASE_GROUNDING>a cat and dogs",
            f"a cat{BINS}dogs{BINS}{BINS}</s>",
            "a cat and dogs",
            ["a cat", "dogs", "dogs"],
        ),
    ],
)
def test_florence_counts_bins_and_means_their_middle(
    folder: Path, tmp_path: Path, prefix: str, suffix: str, question: str, labels: list[str | None]
):
    (record,) = make("roboflow", save_lines(folder / "a.jsonl", line(prefix, suffix)), tmp_path).records
    # of 512x1024: 0.5 and 499.5 thousandths of the width, 99.5 and 999.5 of the height
    assert all(target.box == pytest.approx((0.256, 101.888, 255.744, 1023.488)) for target in record.targets)
    assert [target.label for target in record.targets] == labels and record.question == question


def test_labels_after_their_boxes_stay_with_them(folder: Path, tmp_path: Path):
    suffix = "<loc_0><loc_0><loc_9><loc_9>cat<loc_500><loc_500><loc_509><loc_509>dog"
    (record,) = make("roboflow", save_lines(folder / "a.jsonl", line("<OD>", suffix)), tmp_path).records
    assert [(target.label, target.numbers[0] > 200) for target in record.targets] == [("cat", False), ("dog", True)]


def test_other_text_is_read_in_the_frame_declared(folder: Path, tmp_path: Path):
    save_lines(
        folder / "a.jsonl",
        line("the cat", '```json\n[{"bbox_2d": [100, 200, 300, 400], "label": "cat"}]\n```'),
        line("what is it?", "A cat."),
        line("<OD>", "cat<loc_0><loc_99><loc_499><loc_999>"),
    )
    done = make("roboflow", folder / "a.jsonl", tmp_path, frame="thousandths")
    assert boxes(done)["the cat"] == [(51.2, 204.8, 153.6, 409.6)]
    assert boxes(done)["all objects"] == [(0.256, 101.888, 255.744, 1023.488)]
    assert done.records[1].answer == "A cat."
    with pytest.raises(SettingsError, match="its 1 boxes do not prove it"):
        make("roboflow", folder / "a.jsonl", tmp_path)


def test_tokens_that_make_no_boxes_are_set_aside(folder: Path, tmp_path: Path):
    good = "cat<loc_0><loc_99><loc_499><loc_999>"
    save_lines(
        folder / "a.jsonl",
        line("<OD>", "cat<loc_1><loc_2><loc_3>"),
        line("<OD>", "cat<loc_1><loc_2><loc_3><loc_1000>"),
        line("detect cat", "<loc0001><loc0002><loc0003> cat"),
        line("detect cat", "<loc0001><loc0002><loc0003><loc1024> cat"),
        line("detect cat", "<loc0001><loc0002><loc0003><loc0004> cat ; dog"),
        line("detect cat", "<loc0001><loc0002><loc0003><loc0004>" * 2 + " cat"),
        line("<REFERRING_EXPRESSION_SEGMENTATION>cat", good + "<loc_1><loc_2><loc_3><loc_4>"),
        line("<OCR_WITH_REGION>", "word" + "<loc_1>" * 8),
        {"image": "photo.jpg", "prefix": "x"},
        {"prefix": "x", "suffix": "y"},
        line("<OD>", good),
    )
    done = make("roboflow", folder / "a.jsonl", tmp_path)
    assert [bad.line for bad in done.rejected] == list(range(1, 11)) and len(done.records) == 1
    assert "expected four for each box, all below 1000" in reasons(done) and "holds polygons" in reasons(done)


def test_a_folder_has_parts(folder: Path, tmp_path: Path):
    save_lines(folder / "_annotations.train.jsonl", line("<OD>", "cat<loc_0><loc_99><loc_499><loc_999>"))
    save_lines(folder / "_annotations.valid.jsonl", line("<OD>", "dog<loc_0><loc_99><loc_499><loc_999>"))
    save_picture(folder / "test/photo.jpg", 512, 1024)
    save_lines(folder / "test/annotations.jsonl", line("<OD>", "cow<loc_0><loc_99><loc_499><loc_999>"))

    def labels(part: str | None) -> list[str | None]:
        done = make("roboflow", folder, tmp_path / str(part), part=part)
        return [record.targets[0].label for record in done.records]

    assert labels("train") == ["cat"] and labels("valid") == ["dog"] and labels("test") == ["cow"]
    assert labels(None) == ["cat", "dog", "cow"]
    with pytest.raises(SettingsError, match=r"no part 'val' in .*; it has train, valid, test"):
        labels("val")
    with pytest.raises(RecordError, match=r"no \*annotations\*\.jsonl below"):
        make("roboflow", tmp_path / "train/out", tmp_path)


KEYS = ("image", "prefix", "suffix", "id")
WORDS = ("photo.jpg", "detect cat", "<OD>", "<loc0001><loc0002><loc0003><loc0004> a", "a<loc_1><loc_2><loc_3><loc_4>")


@settings(max_examples=60)
@given(st.lists(garbage(KEYS, WORDS), max_size=3), st.text("<loc_0123456789>; a\n", max_size=80))
def test_garbage_is_rejected_and_its_neighbour_is_read(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Any], suffix: str
):
    folder = tmp_path_factory.mktemp("g")
    save_picture(folder / "photo.jpg", 512, 1024)
    sound = line("detect cat", "<loc0256><loc0102><loc0512><loc0800> cat")
    last = read_all("roboflow", save_lines(folder / "g.jsonl", *entries, line("x", suffix), sound))[-1]
    assert isinstance(last, Found) and last.targets[0].box == (51, 256, 400, 512)
