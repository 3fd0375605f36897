"""Reports on disk: the keys others read, the way back, and a page that is safe and complete in itself."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from groundling.data.record import Record, Target
from groundling.dialect.answer import Answer, read_answer
from groundling.errors import RecordError
from groundling.evaluation.metrics import Prediction
from groundling.evaluation.report import (
    Report,
    build_report,
    find_report,
    hash_records,
    read_report,
    report_to_json,
    write_report,
)
from groundling.evaluation.report_text import describe_report
from groundling.geometry.boxes import Boxes, Points
from groundling.geometry.frame import Frame

PHOTO = Frame(200, 100)
SEEN = Frame(196, 84)
CONTRACT = {"version": 1, "family": "qwen2_5_vl", "image_policy": {"alpha": "white"}}
NASTY = "<img src=x onerror=alert(1)></script>&\u201c"


def answer_text(text: str) -> Answer:
    return read_answer(text, family="qwen2_5_vl", seen=SEEN).to(PHOTO)


@pytest.fixture
def report(tmp_path: Path) -> Report:
    image = tmp_path / "images" / "a.jpg"
    image.parent.mkdir()
    Image.new("RGB", PHOTO.size_wh, "teal").save(image)
    found, none, lost, pointed = (
        Record(NASTY, image, (Target(box=(50, 25, 100, 50), label="mug"),), id="1"),
        Record("a cat", image, (), id="2"),
        Record("two dogs", image.with_name("gone.jpg"), (Target(box=(0, 0, 9, 9)), Target(box=(20, 0, 29, 9))), id="3"),
        Record("its nose", image, (Target(point=(3, 4)),), id="4"),
    )
    predictions = [
        Prediction(found, answer_text(json.dumps([{"bbox_2d": [49, 21, 98, 42], "label": NASTY}])), PHOTO),
        Prediction(none, answer_text("[]"), PHOTO),
        Prediction(lost, answer_text("sorry \ud800"), PHOTO),
        Prediction(pointed, answer_text('[{"point_2d": [3, 4]}]'), PHOTO),
    ]
    return build_report(predictions, contract=CONTRACT, versions={"groundling": "0"}, name=NASTY)


@pytest.fixture
def folder(report: Report, tmp_path: Path) -> Path:
    folder = tmp_path / "evaluations" / "one"
    write_report(report, folder)
    return folder


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def test_report_json_has_the_promised_keys_and_no_nan(folder: Path):
    value = json.loads((folder / "report.json").read_text("utf-8"), parse_constant=refuse)

    promised = {"n", "n_single", "n_negative", "metrics", "ci95", "by_size", "baselines", "flaws", "contract"}
    assert promised | {"records_sha256", "versions"} <= set(value)
    assert (value["n"], value["n_single"], value["n_negative"], value["n_point"]) == (4, 1, 1, 1)
    assert value["metrics"]["acc@0.5"] == 1
    assert value["by_size"]["small"] == {"n": 0, "acc@0.5": None, "miou": None}
    assert value["flaws"] == {"no_boxes": 1}
    assert value["contract"] == CONTRACT


def test_a_line_of_predictions_holds_original_pixels(folder: Path):
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text("utf-8").splitlines()]

    first = lines[0]
    assert first["boxes"] == first["truth"] == [[50, 25, 100, 50]], "seen 196x84 to original 200x100"
    assert (first["iou"], first["hit"], first["flaw"], first["seen"]) == (1, True, None, [196, 84])
    assert first["image"] == "../../images/a.jpg"
    assert first["labels"] == [NASTY]
    assert [(line["iou"], line["hit"]) for line in lines[1:]] == [(None, None)] * 3
    assert lines[2]["text"] == "sorry ?", "half a surrogate pair has no place in UTF-8"
    assert lines[3]["truth_points"] == [[3, 4]]


def test_a_report_read_back_measures_the_same(report: Report, folder: Path):
    again = read_report(folder)

    np.testing.assert_equal(again.metrics, report.metrics)
    np.testing.assert_equal(asdict(again.scores), asdict(report.scores))
    assert (again.records_sha256, again.name) == (report.records_sha256, NASTY)
    measured = build_report(again.predictions, contract=CONTRACT, versions={})
    np.testing.assert_equal(asdict(measured.scores), asdict(report.scores))
    assert again.predictions[0].record.image is not None
    assert again.predictions[0].record.image.is_file()


def test_no_two_numbers_of_the_page_have_one_name(tmp_path: Path):
    targets = (Target(box=(0, 0, 9, 9), label="cat"), Target(box=(20, 0, 29, 9), label="dog"))
    record = Record("all of it", tmp_path / "a.jpg", targets, id="1")
    write_report(build_report([Prediction(record, answer_text("[]"), PHOTO)], contract={}, versions={}), tmp_path)

    page = (tmp_path / "report.html").read_text("utf-8")

    names = re.findall(r"<tr>\s*<td>([^<]+)<small>", page)
    assert {"f1@0.5", "f1@0.5 where labels agree"} <= set(names) and len(names) == len(set(names))


def test_scores_survive(tmp_path: Path):
    scored = Answer(Boxes([[0, 0, 9, 9]], PHOTO), Points([], PHOTO), [None], "x", None, SEEN, scores=np.array([0.25]))
    nothing = Answer(Boxes([], PHOTO), Points([], PHOTO), [], "[]", None, SEEN, np.array([]), none_score=0.75)
    asked = Record("q", tmp_path / "a.jpg", ())
    report = build_report([Prediction(asked, one, PHOTO) for one in (scored, nothing)], contract={}, versions={})
    write_report(report, tmp_path)

    first, second = (prediction.answer for prediction in read_report(tmp_path).predictions)

    assert first.scores is not None and second.scores is not None
    assert (first.scores.tolist(), first.none_score) == ([0.25], None)
    assert (second.scores.tolist(), second.none_score) == ([], 0.75)


def test_answers_without_room_are_counted_and_stay_so(tmp_path: Path):
    record = Record("q", tmp_path / "a.jpg", (Target(box=(0, 0, 9, 9)),))
    said = [replace(answer_text('[{"bbox_2d": [0, 0, 9, 9]}]'), is_full=is_full) for is_full in (True, False, True)]
    found = [Prediction(record, one, PHOTO) for one in said]
    report = build_report(found, contract={}, versions={}, options={"max_new_tokens": 64, "free": False})
    write_report(report, tmp_path)

    again = read_report(tmp_path)

    assert [one.answer.is_full for one in again.predictions] == [True, False, True]
    assert (again.scores.full, again.metrics["parse_rate"]) == (2, 1)
    words = "2 of 3 answers would have gone on, had there been room: raise --max-new-tokens (64)"
    assert words in describe_report(again)
    assert "2 answers would have gone on" in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.parametrize(("protocol", "is_told"), [(None, True), ("refcoco", True), ("pointing", False)])
def test_points_in_place_of_boxes_are_counted_and_told_unless_points_are_judged(
    protocol: str | None, is_told: bool, tmp_path: Path
):
    box, nose = (Target(box=(0, 0, 9, 9)),), (Target(point=(3, 4)),)
    asked = [(box, "point_2d"), (box, "point_2d"), (box, "bbox_2d"), (nose, "point_2d"), ((), "point_2d")]
    numbers = {"point_2d": [3, 4], "bbox_2d": [0, 0, 9, 9]}
    found = [
        Prediction(Record("q", tmp_path / "a.jpg", targets), answer_text(json.dumps([{key: numbers[key]}])), PHOTO)
        for targets, key in asked
    ]
    write_report(build_report(found, contract={}, versions={}, protocol=protocol), tmp_path)

    again = read_report(tmp_path)

    assert (again.pointed, report_to_json(again)["pointed"]) == (2, 2)
    line = (
        "2 of 5 answers are points alone where boxes are asked for, which all metrics of boxes count as misses: "
        "evaluate --protocol pointing (or screenspot) judges points"
    )
    page = (tmp_path / "report.html").read_text("utf-8")
    assert (line in describe_report(again), f'<p class="warning">{line}.</p>' in page) == (is_told, is_told)


def test_reports_from_before_there_was_a_score_of_none_are_read(folder: Path, tmp_path: Path):
    for name in ("report.json", "predictions.jsonl"):
        text = (folder / name).read_text("utf-8").replace('"none_score": null, ', "").replace('"full": false, ', "")
        (tmp_path / name).write_text(text, "utf-8")

    lines = (tmp_path / "predictions.jsonl").read_text("utf-8")
    assert "none_score" not in lines and "full" not in lines
    assert [one.answer.none_score for one in read_report(tmp_path).predictions] == [None] * 4


def test_labels_of_the_truth_survive_in_the_order_of_boxes_and_points(tmp_path: Path):
    targets = (
        Target(point=(3, 4), label="nose"),
        Target(box=(0, 0, 9, 9), label="cat"),
        Target(point=(5, 6)),
        Target(box=(20, 0, 29, 9)),
    )
    record = Record("all of it", tmp_path / "a.jpg", targets, id="1")
    write_report(build_report([Prediction(record, answer_text("[]"), PHOTO)], contract={}, versions={}), tmp_path)

    (line,) = (tmp_path / "predictions.jsonl").read_text("utf-8").splitlines()
    again = read_report(tmp_path).predictions[0].record.targets

    assert json.loads(line)["truth_labels"] == ["cat", None, "nose", None]
    assert again == (targets[1], targets[3], targets[0], targets[2])


def test_a_report_from_before_labels_and_detection_is_read(folder: Path):
    value = json.loads((folder / "report.json").read_text("utf-8"))
    later = {"detection", "protocol", "count"}
    value = {key: part for key, part in value.items() if key not in later}
    value["metrics"] = {"acc@0.5": 1.0}
    value["ci95"] = {"acc@0.5": [0.5, 1.0]}
    (folder / "report.json").write_text(json.dumps(value), encoding="utf-8")
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text("utf-8").splitlines()]
    for line in lines:
        del line["truth_labels"]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    again = read_report(folder)

    assert (again.metrics["acc@0.5"], again.ci95["acc@0.5"]) == (1, (0.5, 1))
    assert math.isnan(again.metrics["f1@miou"]) and math.isnan(again.scores.count_error)
    assert again.detection is None and again.headline is None and again.shown == ["acc@0.5"]
    assert again.predictions[0].record.targets[0].label is None
    write_report(again, folder)


def test_classes_stand_in_the_page_the_worst_first(tmp_path: Path):
    def one(label: str, found: bool, number: int) -> Prediction:
        record = Record("all", None, (Target(box=(0, 0, 50, 50), label=label),), id=str(number))
        text = json.dumps([{"bbox_2d": [0, 0, 49, 42] if found else [99, 0, 120, 9], "label": label}])
        return Prediction(record, answer_text(text), PHOTO)

    predictions = [one("cat", True, 0), one("dog", False, 1), one(NASTY, True, 2), one("dog", True, 3)]
    write_report(build_report(predictions, contract={}, versions={}), tmp_path)

    page = (tmp_path / "report.html").read_text("utf-8")
    table = page[page.index("class, worst first") :]

    assert table.index("<td>dog</td>") < table.index("<td>cat</td>")
    assert "&lt;img src=x onerror=alert(1)&gt;" in table and "<img" not in page
    assert "every box at 1.0" in page and "10 random orders" in page


def test_detection_stands_in_the_page_where_it_tells_something(folder: Path, tmp_path: Path):
    assert "<h2>Detection</h2>" in (folder / "report.html").read_text("utf-8"), "record 3 has two targets"
    one = read_report(folder).predictions[0]
    write_report(build_report([one], contract={}, versions={}), tmp_path)

    page = (tmp_path / "report.html").read_text("utf-8")

    assert "<h2>Detection</h2>" not in page and "point_f1" not in page


def test_the_page_fetches_nothing_and_runs_nothing(folder: Path):
    page = (folder / "report.html").read_text("utf-8")

    assert not re.search(r"(?:src|href)\s*=\s*[\"']?\s*(?:https?:|//|file:)", page)
    assert not re.search(r"@import|url\(", page)
    assert "<script" not in page
    assert 'href="data:image/jpeg;base64,' in page


def test_points_are_shown_over_their_pictures(folder: Path):
    page = (folder / "report.html").read_text("utf-8")

    assert '<path class="dot truth" d="M3.0 4.0h0"/>' in page
    assert "its nose" in page and '<span class="badge good">F1 1.00</span>' in page


def test_a_point_in_a_box_is_shown_by_what_it_hit(tmp_path: Path):
    record = Record("the button", None, (Target(box=(50, 25, 100, 50)),), id="1")
    points = ['[{"point_2d": [70, 30]}]', '[{"point_2d": [5, 5]}]']
    predictions = [Prediction(record, answer_text(text), PHOTO) for text in points]
    write_report(build_report(predictions, contract={}, versions={}), tmp_path)

    page = (tmp_path / "report.html").read_text("utf-8")

    assert page.index('"badge bad">F1 0.00<') < page.index('"badge good">F1 1.00<')


def test_the_page_escapes_what_strangers_wrote(folder: Path):
    page = (folder / "report.html").read_text("utf-8")

    assert "<img" not in page
    assert "</script>" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_a_picture_that_is_gone_leaves_a_grey_field(folder: Path):
    page = (folder / "report.html").read_text("utf-8")

    assert page.count('class="missing"') == 2, "the whole picture and the close-up of record 3"
    assert "two dogs" in page


def test_a_report_of_nothing_can_be_written_and_read(tmp_path: Path):
    write_report(build_report([], contract={}, versions={}), tmp_path)

    again = read_report(tmp_path)

    assert again.predictions == []
    assert math.isnan(again.metrics["miou"])
    assert math.isnan(again.ci95["miou"][0])


def test_the_gallery_is_limited_and_spans_worst_to_best(tmp_path: Path):
    box = (0, 0, 100, 100)
    predictions = [
        Prediction(
            Record(f"question {width}", None, (Target(box=box),), id=str(width)),
            Answer(Boxes([[0, 0, width, 100]], PHOTO), Points([], PHOTO), [None], "", None, SEEN),
            PHOTO,
        )
        for width in range(1, 101)
    ]
    write_report(build_report(predictions, contract={}, versions={}), tmp_path)

    page = (tmp_path / "report.html").read_text("utf-8")

    assert page.count("<figure") == 60
    shown = [int(number) for number in re.findall(r"<h3>question (\d+)</h3>", page)]
    assert shown == sorted(shown)
    assert shown[:20] == [*range(1, 21)]
    assert shown[-20:] == [*range(81, 101)]


def test_the_hash_is_of_questions_and_places_wherever_the_file_lies():
    def record(folder: str, question: str = "a", box: tuple[float, float, float, float] = (1, 2, 3, 4)) -> Record:
        return Record(question, Path(folder) / "i.jpg", (Target(box=box),), id="1", file=Path(folder) / "r.jsonl")

    assert hash_records([record("x")]) == hash_records([record("y")])
    assert hash_records([record("x")]) != hash_records([record("x", question="b")])
    assert hash_records([record("x")]) != hash_records([record("x", box=(1, 2, 3, 5))])


def test_a_folder_without_a_report_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(RecordError, match=r"no report\.json.*groundling evaluate"):
        read_report(tmp_path)


def test_a_run_folder_means_its_report(folder: Path, tmp_path: Path):
    (tmp_path / "run").mkdir()
    shutil.copytree(folder, tmp_path / "run" / "report")
    assert find_report(folder) == folder
    assert find_report(tmp_path / "run") == tmp_path / "run" / "report"
    assert find_report(tmp_path) == tmp_path, "which is told to hold none"


@pytest.mark.parametrize("line", ["{", "[]", '{"id": "1"}', '{"width": -1, "height": 2}'])
def test_a_broken_line_is_named(folder: Path, line: str):
    with (folder / "predictions.jsonl").open("a") as out:
        out.write(line + "\n")

    with pytest.raises(RecordError, match=r"predictions\.jsonl:5: "):
        read_report(folder)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"labels": []}, r"\[\] are no labels of 1 places"),
        ({"labels": None}, "null are no labels"),
        ({"labels": [7]}, r"\[7\] are no labels"),
        ({"scores": [0.5, 0.5]}, r"\[0\.5, 0\.5\] are no scores of 1 boxes"),
        ({"scores": [None]}, r"\[null\] are no scores"),
        ({"truth_labels": [7]}, r"\[7\] are no labels"),
    ],
)
def test_labels_and_scores_are_one_a_place(tmp_path: Path, changed: dict[str, object], told: str):
    record = Record("the button", None, (Target(box=(50, 25, 100, 50)),), id="1")
    text = '[{"bbox_2d": [70, 30, 90, 40], "label": "a"}]'
    write_report(build_report([Prediction(record, answer_text(text), PHOTO)], contract={}, versions={}), tmp_path)
    file = tmp_path / "predictions.jsonl"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed) + "\n")
    with pytest.raises(RecordError, match=rf"predictions\.jsonl:1: not a prediction .*{told}.*; evaluate again"):
        read_report(tmp_path)


def test_answers_that_were_cut_off_are_told(folder: Path):
    lines = (folder / "predictions.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "predictions.jsonl").write_bytes(b"".join(lines[:-1]))
    with pytest.raises(RecordError, match=r"it tells of 4 answers, and predictions\.jsonl holds 3\); evaluate again"):
        read_report(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"n": 1}'])
def test_a_broken_report_is_named(folder: Path, text: str):
    (folder / "report.json").write_text(text)

    with pytest.raises(RecordError, match=r"report\.json: not a report"):
        read_report(folder)
