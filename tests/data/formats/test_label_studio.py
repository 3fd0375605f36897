from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_sources import boxes, garbage, make, read_all, reasons, rejected_lines, save_lines, save_picture

from groundling.data.formats.detection import Annotated
from groundling.data.record import Target
from groundling.errors import RecordError


def rectangle(label: str = "cat", x: float = 10, y: float = 20, width: float = 30, height: float = 40, **more: Any):
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0, "rectanglelabels": [label], **more}
    return {
        "id": f"r{x}{y}{label}",
        "type": "rectanglelabels",
        "original_width": 640,
        "original_height": 480,
        "image_rotation": 0,
        "value": value,
    }


def task(*results: object, image: str = "/data/upload/1/photo.jpg", **more: Any) -> dict[str, Any]:
    annotation = {"was_cancelled": False, "updated_at": "2026-01-01T00:00:00Z", "result": list(results)}
    return {"id": 5, "data": {"image": image}, "annotations": [annotation], "predictions": []} | more


@pytest.fixture
def export(tmp_path: Path) -> Path:
    save_picture(tmp_path / "in/photo.jpg")
    return tmp_path / "in/export.json"


def save(export: Path, *tasks: object) -> Path:
    export.write_text(json.dumps(tasks, indent=1))
    return export


def test_percent_become_pixels(export: Path, tmp_path: Path):
    save(export, task(rectangle(), rectangle("dog", 50, 50, 50, 50), rectangle("cat", 0, 0, 1, 1)))
    done = make("label-studio", export, tmp_path)
    assert boxes(done) == {"cat": [(64, 96, 256, 288), (0, 0, 6.4, 4.8)], "dog": [(320, 240, 640, 480)]}
    assert done.rejected == []
    assert [record.id for record in done.records] == ["5:cat", "5:dog"]


def test_a_rectangle_is_turned_about_its_top_left_corner_in_square_pixels(export: Path, tmp_path: Path):
    # 160x96 pixels at (320, 240), a quarter clockwise: it hangs to the left of the corner, 96 wide and 160 high
    save(export, task(rectangle("cat", 50, 50, 25, 20, rotation=90), rectangle("dog")))
    assert boxes(make("label-studio", export, tmp_path, reduce=True)) == {
        "cat": [(224, 240, 320, 400)],
        "dog": [(64, 96, 256, 288)],
    }
    done = make("label-studio", export, tmp_path / "as it is")
    assert list(boxes(done)) == ["dog"]
    assert "a rectangle turned by 90 degrees is no upright box; with --reduce" in reasons(done)


def test_polygons_ellipses_and_points(export: Path, tmp_path: Path):
    size = {"original_width": 640, "original_height": 480}
    polygon = {"id": "a", **size, "value": {"points": [[10, 10], [30, 20], [20, 50]], "polygonlabels": ["leaf"]}}
    ellipse = {"id": "b", **size, "value": {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20, "ellipselabels": ["eye"]}}
    point = {"id": "c", **size, "value": {"x": 50, "y": 25, "width": 0.5, "keypointlabels": ["nose"]}}
    brush = {"id": "d", **size, "value": {"format": "rle", "rle": [1, 2], "brushlabels": ["mud"]}}
    save(export, task(polygon, ellipse, point, brush))
    done = make("label-studio", export, tmp_path, reduce=True)
    assert boxes(done) == {"leaf": [(64, 48, 192, 240)], "eye": [(256, 144, 384, 336)], "nose": [(320, 120)]}
    assert done.records[-1].targets == (Target(point=(320, 120), label="nose"),)
    assert "'mud'" in reasons(done) and "brushed mask" in reasons(done)
    assert list(boxes(make("label-studio", export, tmp_path / "as it is"))) == ["nose"]


def test_an_ellipse_turned_by_a_quarter_swaps_its_radii_in_pixels(export: Path, tmp_path: Path):
    value = {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20, "rotation": 90, "ellipselabels": ["eye"]}
    save(export, task({"original_width": 640, "original_height": 480, "value": value}))
    # 64 and 96 pixels about (320, 240)
    assert boxes(make("label-studio", export, tmp_path, reduce=True)) == {"eye": [(224, 176, 416, 304)]}


def test_a_plain_rectangle_and_its_label_are_two_results_of_one_region(export: Path, tmp_path: Path):
    place = {"x": 10, "y": 20, "width": 30, "height": 40}
    words = {"id": "1", "type": "textarea", "value": {**place, "text": ["open"]}}
    label = {"id": "1", "type": "labels", "value": {**place, "labels": ["sign"]}}
    save(export, task({"id": "1", "type": "rectangle", "value": place}, label, words, {"type": "choices", "value": {}}))
    (record,) = make("label-studio", export, tmp_path).records
    assert record.targets == (Target(box=(64, 96, 256, 288), label="sign", extra={"text": ["open"]}),)


def test_the_ground_truth_is_read_or_else_the_newest_that_was_not_cancelled(export: Path, tmp_path: Path):
    def made(label: str, day: int, **more: object) -> dict[str, object]:
        return {"updated_at": f"2026-01-{day:02}T00:00:00Z", "result": [rectangle(label)], **more}

    annotations = [made("old", 1), made("new", 3), made("cancelled", 9, was_cancelled=True), made("older", 2)]
    save(export, task(annotations=annotations))
    assert list(boxes(make("label-studio", export, tmp_path / "a"))) == ["new"]
    save(export, task(annotations=[*annotations, made("agreed", 1, ground_truth=True)]))
    assert list(boxes(make("label-studio", export, tmp_path / "b"))) == ["agreed"]
    save(export, task(annotations=annotations[2:3], predictions=[made("guess", 4)]))
    done = make("label-studio", export, tmp_path / "c")
    assert not done.records and "no annotation that was submitted" in reasons(done)


def test_the_short_export_is_read_too_the_newest_annotation_of_each_task(export: Path, tmp_path: Path):
    def short(label: str, day: int, id: int = 1) -> dict[str, object]:
        region = rectangle(label)["value"] | {"original_width": 640, "original_height": 480}
        day_text = f"2026-01-{day:02}T00:00:00Z"
        return {"image": "/data/upload/photo.jpg", "id": id, "label": [region], "annotator": 1, "updated_at": day_text}

    save(export, short("old", 1), short("new", 2), short("other", 1, id=2), {"image": "photo.jpg", "id": 3})
    done = make("label-studio", export, tmp_path, negatives=1)
    assert {record.question: len(record.targets) for record in done.records if record.targets} == {"new": 1, "other": 1}
    assert done.records[0].extra == {"annotator": 1, "updated_at": "2026-01-02T00:00:00Z"}
    assert any(record.id.startswith("3:") and record.is_negative for record in done.records)


@pytest.mark.parametrize(
    "name",
    [
        "/data/upload/7/photo.jpg",
        "/data/upload/3fa85f64-photo.jpg",  # as the server renames what it is given
        "/data/local-files/?d=sets/a/photo.jpg",
        "/data/local-files/?d=sets%2Fa%2Fphoto.jpg",
        "s3://bucket/a/photo.jpg",
        "https://example.com/a/photo.jpg?width=640",
        "photo.jpg",
    ],
)
def test_pictures_are_found_by_name_whatever_server_they_were_on(export: Path, tmp_path: Path, name: str):
    save_picture(tmp_path / "pictures/a/photo.jpg")
    save_picture(tmp_path / "pictures/b/other.jpg")
    (record,) = make("label-studio", save(export, task(rectangle(), image=name)), tmp_path).records
    assert record.image is not None and "photo" in record.image.name
    again = make("label-studio", export, tmp_path / "elsewhere", images=tmp_path / "pictures")
    assert len(again.records) == 1


def test_of_pictures_called_alike_the_one_in_the_same_folders_is_meant(export: Path, tmp_path: Path):
    for name, width in (("train", 64), ("test", 32)):
        save_picture(tmp_path / "pictures" / name / "1.jpg", width, 32)
    tasks = [task(rectangle(), image=f"s3://bucket/{name}/1.jpg", id=name) for name in ("train", "test")]
    done = make("label-studio", save(export, *tasks), tmp_path, images=tmp_path / "pictures")
    assert [record.width for record in done.records] == [64, 32]
    done = make("label-studio", save(export, task(rectangle(), image="1.jpg")), tmp_path, images=tmp_path / "pictures")
    assert "2 files below it are called so" in reasons(done)


def test_nothing_outside_the_folder_is_read_or_fetched(export: Path, tmp_path: Path):
    save_picture(tmp_path / "secret.jpg")
    names = ["../secret.jpg", str(tmp_path / "secret.jpg"), "https://127.0.0.1:9/secret.jpg", "file:///secret.jpg"]
    done = make("label-studio", save(export, *[task(rectangle(), image=name, id=name) for name in names]), tmp_path)
    assert not done.records and len(done.rejected) == 4


@pytest.mark.parametrize(
    ("orientation", "declared", "box"),
    [
        (6, (480, 640), (48, 128, 192, 384)),  # what browsers show since 2020: upright, 480 wide
        (6, (640, 480), (192, 64, 384, 256)),  # before: as stored; (64, 96, 256, 288) of it, a quarter clockwise
        (1, (480, 640), (48, 128, 192, 384)),
    ],
)
def test_the_declared_size_tells_how_a_turned_picture_was_shown(
    export: Path, tmp_path: Path, orientation: int, declared: tuple[int, int], box: tuple[float, ...]
):
    save_picture(export.parent / "photo.jpg", 480, 640, orientation=orientation)
    width, height = declared
    (record,) = make(
        "label-studio",
        save(export, task(rectangle() | {"original_width": width, "original_height": height})),
        tmp_path,
    ).records
    assert record.targets[0].box == pytest.approx(box)
    assert "doubt" not in record.extra


def test_a_size_that_is_none_or_differs_is_not_told(export: Path, tmp_path: Path):
    save_picture(export.parent / "photo.jpg", 480, 640, orientation=6)
    listed = rectangle("a") | {"original_width": [480]}
    tasks = [task(listed), task(rectangle("b"), rectangle("c") | {"original_height": 7}, id=6)]
    done = make("label-studio", save(export, *tasks), tmp_path)
    assert len(done.records) == 3 and all("orientation 6" in record.extra["doubt"] for record in done.records)


def test_a_picture_turned_in_the_tool_is_set_aside(export: Path, tmp_path: Path):
    done = make("label-studio", save(export, task(rectangle() | {"image_rotation": 90})), tmp_path)
    assert "was turned by 90 degrees in Label Studio" in reasons(done)


def test_broken_tasks_lose_nothing_else(export: Path, tmp_path: Path):
    whole = json.dumps([task(rectangle()), task(id=6, annotations=3), "?", task(rectangle("dog"), id=7)])
    export.write_text(whole.replace('"?"', '{"id": NaN}, {"id": 1, "id": 2}, 17'))
    done = make("label-studio", export, tmp_path)
    assert list(boxes(done)) == ["cat", "dog"]
    assert [bad.line for bad in done.rejected] == [2, 3, 4, 5]
    export.write_text(whole[: whole.rindex("rectanglelabels")])
    done = make("label-studio", export, tmp_path / "cut")
    assert list(boxes(done)) == ["cat"] and len(done.rejected) == 3


def test_regions_that_cannot_be_used_are_named(export: Path, tmp_path: Path):
    results = [rectangle("wide", "ten"), rectangle(""), 5, rectangle("far", 1e300), rectangle("cat"), {"value": 3}]  # type: ignore[arg-type]
    done = make("label-studio", save(export, task(*results)), tmp_path)
    assert list(boxes(done)) == ["cat"]
    for words in ("'wide'", "the label is ''", "the label is None", "'far'"):
        assert words in reasons(done)


def test_a_file_that_is_none_is_refused(tmp_path: Path):
    with pytest.raises(RecordError, match="no file"):
        make("label-studio", tmp_path / "absent.json", tmp_path)


KEYS = ("data", "annotations", "result", "value", "image", "x", "y", "width", "height", "rotation", "id", "points")
KEYS += ("rectanglelabels", "labels", "radiusX", "rle", "was_cancelled", "original_width", "image_rotation")


@given(st.lists(garbage(KEYS, ["photo.jpg", "cat"]), max_size=3))
def test_garbage_is_rejected_and_its_neighbour_is_read(tmp_path_factory: pytest.TempPathFactory, entries: list[Any]):
    folder = tmp_path_factory.mktemp("g")
    save_picture(folder / "photo.jpg", 64, 48)
    file = save_lines(folder / "g.jsonl", *entries, task(rectangle(), id="sound"))
    items = read_all("label-studio", file, reduce=True)
    sound = [item for item in items if isinstance(item, Annotated) and item.id == "sound"]
    assert [thing.numbers for thing in sound[-1].things] == [(10, 20, 40, 60)]
    assert all(line is None or line <= len(entries) for line in rejected_lines(items))
