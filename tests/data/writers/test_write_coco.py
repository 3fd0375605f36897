from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster
from PIL import Image

from groundling.data.export import export
from groundling.data.formats.chat import read_targets, resized_to, write_targets
from groundling.data.record import Record, Target
from groundling.errors import RecordError, SettingsError
from groundling.geometry.frame import Frame


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def test_boxes_are_left_top_width_height_and_each_thing_is_there_once(records: list[Record], tmp_path: Path):
    exported = export(records, "coco", tmp_path / "coco.json")
    assert (exported.written, exported.rejected) == (5, [])
    assert read(exported.file) == {
        "images": [
            {"id": 1, "file_name": "photos/street.png", "width": 640, "height": 480},
            {"id": 2, "file_name": "photos/field.jpg", "width": 100, "height": 50},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 40], "area": 1200, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [100.5, 200, 63.75, 48], "area": 3060, "iscrowd": 0},
            {"id": 3, "image_id": 1, "category_id": 2, "bbox": [320, 240, 320, 240], "area": 76800, "iscrowd": 0},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def test_numbers_that_came_from_coco_are_kept_and_others_come_above_them(records: list[Record], tmp_path: Path):
    first = replace(records[0], extra={"coco_image_id": 397})
    first = replace(first, targets=(replace(first.targets[0], extra={"annotation_id": 82}), first.targets[1]))
    export([first, *records[1:]], "coco", tmp_path / "coco.json")
    written = read(tmp_path / "coco.json")
    assert [image["id"] for image in written["images"]] == [397, 398]
    assert [thing["id"] for thing in written["annotations"]] == [82, 83, 84]
    assert {thing["image_id"] for thing in written["annotations"]} == {397}


def test_two_pictures_with_one_number_get_two(records: list[Record], tmp_path: Path):
    export([replace(each, extra={"coco_image_id": 0}) for each in records], "coco", tmp_path / "coco.json")
    assert [image["id"] for image in read(tmp_path / "coco.json")["images"]] == [0, 1]


def test_only_the_labels_that_were_asked_for_in_their_order(records: list[Record], tmp_path: Path):
    export(records, "coco", tmp_path / "coco.json", labels=["dog", "bird"])
    written = read(tmp_path / "coco.json")
    assert [category["name"] for category in written["categories"]] == ["dog", "bird"]
    assert [thing["category_id"] for thing in written["annotations"]] == [1]
    with pytest.raises(SettingsError, match="'dog', 'dog'; expected each once"):
        export(records, "coco", tmp_path / "coco.json", labels=["dog", "dog"])


def test_scores_stand_beside_the_boxes(scored: list[Record], tmp_path: Path):
    export(scored, "coco", tmp_path / "coco.json")
    assert [thing["score"] for thing in read(tmp_path / "coco.json")["annotations"]] == [0.75, 0.25]


# ---- results -------------------------------------------------------------------------------------------------------


@pytest.fixture
def truth(records: list[Record], tmp_path: Path) -> Path:
    """The file to score against, with numbers and names of its own."""
    export(records, "coco", tmp_path / "truth.json")
    value = read(tmp_path / "truth.json")
    for image in value["images"]:
        image |= {"id": image["id"] + 1000, "file_name": image["file_name"].removeprefix("photos/")}
    for thing in value["annotations"]:
        thing |= {"image_id": thing["image_id"] + 1000, "category_id": thing["category_id"] + 10}
    for category in value["categories"]:
        category["id"] += 10
    (tmp_path / "truth.json").write_text(json.dumps(value))
    return tmp_path / "truth.json"


def test_results_have_the_numbers_of_the_file_they_are_scored_against(
    scored: list[Record], truth: Path, tmp_path: Path
):
    exported = export(scored, "coco-results", tmp_path / "out/results.json", like=truth)
    assert read(exported.file) == [
        {"image_id": 1001, "category_id": 11, "bbox": [10, 20, 30, 40], "score": 0.75},
        {"image_id": 1001, "category_id": 12, "bbox": [320, 240, 320, 240], "score": 0.25},
    ]
    assert [path.name for path in exported.file.parent.iterdir()] == ["results.json"]  # no pictures


def test_a_converted_picture_is_found_by_what_its_name_was(scored: list[Record], truth: Path, tmp_path: Path):
    copy = tmp_path / "street-0123456789ab.png"
    copy.write_bytes(scored[0].image.read_bytes())  # type: ignore[union-attr]
    exported = export([replace(scored[0], image=copy)], "coco-results", tmp_path / "results.json", like=truth)
    assert read(exported.file)[0]["image_id"] == 1001


def test_what_has_no_number_there_is_set_aside_alone(scored: list[Record], truth: Path, street: Path, tmp_path: Path):
    elsewhere, small = street.with_name("lane.png"), street.parent / "small/street.png"
    small.parent.mkdir()
    Image.new("RGB", (640, 480)).save(elsewhere)
    Image.new("RGB", (320, 240)).save(small)
    box = (Target(box=(1, 2, 3, 4), label="cat"),)
    strange = [
        Record("horse", street, (Target(box=(1, 2, 3, 4)),), id="3"),
        Record("cat", elsewhere, box, id="4"),
        Record("cat", small, box, id="5"),
        Record("cat", street, (Target(point=(1, 2)),), id="6"),
    ]
    exported = export([*scored, *strange], "coco-results", tmp_path / "results.json", like=truth)
    assert exported.written == len(read(exported.file)) == 2
    reasons = [bad.reason for bad in exported.rejected]
    assert "has no category 'horse'" in reasons[0]
    assert "no pictures of" in reasons[1] and "lane.png" in reasons[1]
    assert "is 640x480, and upright it is 320x240" in reasons[2]
    assert "point" in reasons[3]


def test_of_two_pictures_of_one_name_the_number_that_came_along_decides(
    scored: list[Record], truth: Path, tmp_path: Path
):
    value = read(truth)
    value["images"].append({"id": 5, "file_name": "other/street.png", "width": 640, "height": 480})
    truth.write_text(json.dumps(value))
    exported = export(scored, "coco-results", tmp_path / "results.json", like=truth)
    assert "2 pictures of" in exported.rejected[0].reason and exported.written == 0
    told = [replace(each, extra={"coco_image_id": 5}) for each in scored]
    exported = export(told, "coco-results", tmp_path / "results.json", like=truth)
    assert {row["image_id"] for row in read(exported.file)} == {5}


def test_the_file_to_score_against_has_to_be_named_and_to_be_one(scored: list[Record], tmp_path: Path):
    with pytest.raises(SettingsError, match="coco-results needs --like"):
        export(scored, "coco-results", tmp_path / "results.json")
    with pytest.raises(SettingsError, match=r"no file .*nosuch\.json"):
        export(scored, "coco-results", tmp_path / "results.json", like=tmp_path / "nosuch.json")
    for content, reason in [
        (b'{"images": [{"file": 1}]}', "no 'file_name'"),
        (b"[1]", "it holds a list"),
        (b"\x89PNG", "not UTF-8: .*"),
    ]:
        (tmp_path / "other.json").write_bytes(content)
        with pytest.raises(RecordError, match=rf"other\.json is no COCO file \({reason}\); expected images and "):
            export(scored, "coco-results", tmp_path / "results.json", like=tmp_path / "other.json")


# ---- the evaluator agrees: what is written means what was meant ------------------------------------------------------


@pytest.fixture
def crowd(tmp_path: Path) -> list[Record]:
    """Twelve pictures with three boxes each of two classes, of at least 40 pixels a side."""
    rng = np.random.default_rng(5)
    records: list[Record] = []
    for number in range(12):
        image = tmp_path / f"photos/{number}.png"
        image.parent.mkdir(exist_ok=True)
        Image.new("RGB", (1000, 700), (number, 0, 0)).save(image)
        for label, count in (("mug", 2), ("spoon", 1)):
            corners = rng.integers((0, 0), (500, 350), (count, 2))
            boxes = np.concatenate([corners, corners + rng.integers(40, 300, (count, 2))], axis=1).tolist()
            records.append(Record(label, image, tuple(Target(box=tuple(box)) for box in boxes), id=f"{number} {label}"))
    return records


def score(truth: list[Record], answers: list[Record], folder: Path) -> dict[str, float]:
    """AP over IoU 0.5 to 0.95, AP50 and AP75, by an evaluator that knows nothing of groundling."""
    coco = export(truth, "coco", folder / "truth.json").file
    results = export(answers, "coco-results", folder / "results.json", like=coco)
    assert results.rejected == []
    known = COCO(str(coco))
    run = COCOeval_faster(known, known.loadRes(str(results.file)), iouType="bbox", print_function=lambda *_: None)
    run.evaluate()
    run.accumulate()
    run.summarize()
    return {"AP": run.stats[0], "AP50": run.stats[1], "AP75": run.stats[2]}


def changed(records: list[Record], change: Any) -> list[Record]:
    return [replace(each, targets=tuple(change(each, target) for target in each.targets)) for each in records]


def shifted(record: Record, target: Target) -> Target:
    """By 15 % of each side: IoU 0.85**2 / (2 - 0.85**2) = 0.7225 / 1.2775 = 0.566."""
    left, top, right, bottom = target.numbers
    x, y = 0.15 * (right - left), 0.15 * (bottom - top)
    return replace(target, box=(left + x, top + y, right + x, bottom + y))


def test_perfect_answers_score_one(crowd: list[Record], tmp_path: Path):
    assert score(crowd, crowd, tmp_path) == pytest.approx({"AP": 1, "AP50": 1, "AP75": 1})


def test_a_shift_by_15_percent_of_each_side_is_a_hit_at_50_and_a_miss_at_75(crowd: list[Record], tmp_path: Path):
    scores = score(crowd, changed(crowd, shifted), tmp_path)
    assert scores == pytest.approx({"AP": 0.2, "AP50": 1, "AP75": 0})  # hits at 0.5 and 0.55, of ten thresholds


def test_swapped_classes_score_nothing(crowd: list[Record], tmp_path: Path):
    def swapped(record: Record, target: Target) -> Target:
        return replace(target, label="spoon" if record.question == "mug" else "mug")

    scores = score(crowd, changed(crowd, swapped), tmp_path)
    assert scores == pytest.approx({"AP": 0, "AP50": 0, "AP75": 0})


@pytest.mark.parametrize(("max_tokens", "seen"), [(1280, Frame(1008, 700)), (160, Frame(420, 280))])
def test_through_a_models_text_only_rounding_is_lost(crowd: list[Record], tmp_path: Path, max_tokens: int, seen: Frame):
    """Perfect answers as Qwen2.5-VL would write them at that budget: whole pixels of the resized picture."""
    frame, original = resized_to(max_tokens * 28**2), Frame(1000, 700)
    assert frame(original) == seen

    def spoken(record: Record) -> Record:
        text = write_targets(record.targets, original, frame, "fenced")
        return replace(record, targets=read_targets(text, original, frame) or ())

    scores = score(crowd, [spoken(record) for record in crowd], tmp_path)
    assert scores["AP50"] == pytest.approx(1) and scores["AP75"] == pytest.approx(1)
    assert 0.99 < scores["AP"] <= 1  # 0.996 at 160 tokens, where a pixel of the text is 2.4 x 2.5 of the picture


def test_supervision_reads_what_is_written(records: list[Record], tmp_path: Path):
    supervision = pytest.importorskip("supervision")
    file = export(records, "coco", tmp_path / "coco.json").file
    found = supervision.DetectionDataset.from_coco(str(tmp_path), str(file))
    assert found.classes == ["cat", "dog"]
    street = found.annotations[str(tmp_path / "photos/street.png")]
    np.testing.assert_allclose(street.xyxy, [target.box for target in records[2].targets])
