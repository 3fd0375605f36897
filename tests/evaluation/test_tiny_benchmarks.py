"""Benchmarks drawn on the spot, as RefCOCO, detection and pointing sets are, asked and scored from end to end.

The bundled model answers them; so do a perfect model and one whose answers are off by a known way, whose texts are
written here and read back as any other's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import groundling as gl
from groundling.data.questions import TEMPLATES
from groundling.data.record import Target
from groundling.evaluation.matching import REACH
from groundling.evaluation.metrics import METRICS, Prediction
from groundling.evaluation.ranking import DETECTION
from groundling.evaluation.report import Report, build_report, report_to_json
from groundling.inference.predict import Grounder
from groundling.tiny.scenes import CANVAS, SHAPES, Placed, draw_shapes, shade

SCENES = 24
EVERY_SHAPE = TEMPLATES["picture"].replace("{labels}", ", ".join(SHAPES))
FRAME = gl.Frame(CANVAS, CANVAS)

Say = Callable[[Target], list[float]]  # the numbers that are answered to a target


class Benchmark(NamedTuple):
    """A record file and the protocol that it is scored by."""

    file: Path
    protocol: str

    @property
    def records(self) -> list[gl.Record]:
        return gl.read_records(self.file)


def shape_of(placed: Placed) -> str:
    return placed.name.split()[-1]


def middle(placed: Placed) -> tuple[float, float]:
    left, top, right, bottom = placed.box
    return (left + right) / 2, (top + bottom) / 2


def ask_refcoco(objects: list[Placed]) -> tuple[str, list[Target]]:
    first = objects[0]
    return f"the {first.name}", [Target(box=first.box, label=first.name)]


def ask_for_every_shape(objects: list[Placed]) -> tuple[str, list[Target]]:
    return EVERY_SHAPE, [Target(box=placed.box, label=shape_of(placed)) for placed in objects]


def ask_for_points(objects: list[Placed]) -> tuple[str, list[Target]]:
    if not objects:
        return "the red circle", []
    return f"the {objects[0].name}", [Target(point=middle(objects[0]), label=objects[0].name)]


def ask_for_clicks(objects: list[Placed]) -> tuple[str, list[Target]]:
    return f"the {objects[0].name}", [Target(box=objects[0].box)]


BENCHMARKS = {
    "refcoco": ask_refcoco,
    "odinw": ask_for_every_shape,
    "pointing": ask_for_points,
    "screenspot": ask_for_clicks,
}


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Benchmark]:
    """A set of drawn scenes for each protocol. One scene in six of detection and pointing has nothing on it."""
    folder, rng = tmp_path_factory.mktemp("benchmarks"), np.random.default_rng(6)
    (folder / "images").mkdir()
    records: dict[str, list[gl.Record]] = {name: [] for name in BENCHMARKS}
    for number in range(SCENES):
        scene = draw_shapes(rng)
        scene.picture.save(folder / "images" / f"{number}.png")
        shade(rng).save(folder / "images" / f"{number}-empty.png")
        for name, ask in BENCHMARKS.items():
            is_empty = number % 6 == 5 and name in ("odinw", "pointing")
            question, targets = ask([] if is_empty else scene.objects)
            image = folder / "images" / f"{number}{'-empty' if is_empty else ''}.png"
            records[name].append(gl.Record(question, image, tuple(targets), id=f"{name}-{number}"))
    for name, asked in records.items():
        gl.write_records(asked, folder / f"{name}.jsonl")
    return {name: Benchmark(folder / f"{name}.jsonl", name) for name in BENCHMARKS}


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    return gl.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def reports(
    grounder: Grounder, benchmarks: dict[str, Benchmark], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The folders of the bundled model's reports."""
    folder = tmp_path_factory.mktemp("reports")
    for name, benchmark in benchmarks.items():
        gl.evaluate(grounder, benchmark.records, folder / name, protocol=name, max_new_tokens=96)
    return {name: folder / name for name in benchmarks}


def answer(benchmark: Benchmark, say: Say) -> Report:
    """The report of a model that answers every target, in its words, with what is said of it."""
    predictions: list[Prediction] = []
    for record in benchmark.records:
        items: list[dict[str, object]] = []
        for target in record.targets:
            numbers = say(target)
            items.append({"bbox_2d" if len(numbers) == 4 else "point_2d": numbers, "label": target.label})
        found = gl.read_answer(json.dumps(items), family="qwen2_5_vl", seen=FRAME)
        predictions.append(Prediction(record, found, FRAME))
    return build_report(predictions, contract={}, versions={}, protocol=benchmark.protocol)


def perfectly(target: Target) -> list[float]:
    return list(target.numbers)


# ---- the bundled model -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_bundled_model_is_scored_by_each_protocol(name: str, reports: dict[str, Path]):
    value = json.loads((reports[name] / "report.json").read_text("utf-8"))
    headline = value["protocol"]

    assert value["n"] == headline["n"] == SCENES
    known = value["detection"]["map"] if name == "odinw" else value["metrics"][headline["headline"]]
    assert headline["value"] == known
    assert 0 <= known <= 1
    page = (reports[name] / "report.html").read_text("utf-8")
    assert headline["source"] in page and f"{name}: {headline['headline']}" in page
    assert ("<h2>Detection</h2>" in page) == (name == "odinw")


def test_the_bundled_model_finds_points_and_clicks_what_it_was_taught(reports: dict[str, Path]):
    headlines = {name: gl.read_report(folder).headline for name, folder in reports.items()}

    for name in ("refcoco", "screenspot"):
        headline = headlines[name]
        assert headline is not None
        assert headline.value >= 0.8, f"{name}: of scenes as in its schooling it finds nine in ten"
    pointing = gl.read_report(reports["pointing"])
    assert pointing.metrics["point_hit"] >= 0.8, "the middles of its boxes lie within reach of the true points"
    assert pointing.metrics["none_recall"] == 0, "it was never taught to say that there is nothing"
    assert pointing.metrics["point_f1"] < pointing.metrics["point_hit"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_metric_that_applies_is_measured_on_disk_as_in_memory(name: str, reports: dict[str, Path]):
    report = gl.read_report(reports[name])
    again = build_report(
        report.predictions,
        contract=report.contract,
        versions=report.versions,
        name=report.name,
        protocol=name,
        guard=report.guard,
        options=report.options,
        weights=report.weights,
    )

    again = report_to_json(again) | {"records_sha256": report.records_sha256}
    assert json.loads(json.dumps(again)) == json.loads((reports[name] / "report.json").read_text("utf-8"))


def test_all_metrics_are_exercised_by_one_of_them(reports: dict[str, Path]):
    measured = [gl.read_report(folder).metrics for folder in reports.values()]

    never = {name for name in METRICS if all(math.isnan(metrics[name]) for metrics in measured)}
    assert never <= {"none_precision"}, "the bundled model never says that there is nothing"


def test_a_benchmark_compares_with_itself(reports: dict[str, Path]):
    for name, folder in reports.items():
        report = gl.read_report(folder)
        found = gl.compare(report, report)
        assert all(change.difference == 0 for change in found.shown.values())
        assert set(found.shown) <= {*report.shown, "point_hit", *DETECTION}
        if name == "odinw":
            assert report.detection is not None
            assert found.metrics["map"].before == pytest.approx(report.detection.map, abs=1e-12)
            assert found.verdict.partition(": ")[2].startswith("map ")


# ---- known models ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_perfect_model_earns_everything(name: str, benchmarks: dict[str, Benchmark]):
    report = answer(benchmarks[name], perfectly)

    assert report.headline is not None and report.headline.value == pytest.approx(1)
    measured = {key: value for key, value in report.metrics.items() if not math.isnan(value)}
    assert measured == pytest.approx(dict.fromkeys(measured, 1.0))
    assert (report.scores.count_error, report.scores.flaws) == (0, {})
    if name == "pointing":
        assert report.detection is None
    else:
        assert report.detection is not None
        numbers = [report.detection.map, report.detection.map50, report.detection.map75, *report.detection.f1.values()]
        assert numbers == pytest.approx([1.0] * 6)
        assert all(each.f1 == each.precision == each.recall == 1 for each in report.detection.classes)
    if name == "odinw":
        assert report.detection is not None and {each.label for each in report.detection.classes} <= set(SHAPES)
        assert len(report.detection.classes) >= 5
        assert measured.keys() >= {"label_f1@0.5", "none_recall", "none_precision"}


def shifted(target: Target) -> list[float]:
    """A quarter of its width away, to the side where there is room: 3/4 shared of 5/4, IoU 0.6."""
    left, top, right, bottom = target.numbers
    quarter = (right - left) / 4
    way = quarter if right + quarter <= CANVAS else -quarter
    return [left + way, top, right + way, bottom]


@pytest.mark.parametrize("name", ["refcoco", "odinw", "screenspot"])
def test_a_model_that_is_off_by_a_quarter_earns_what_iou_three_fifths_earns(
    name: str, benchmarks: dict[str, Benchmark]
):
    report = answer(benchmarks[name], shifted)

    known = {"f1@0.5": 1, "f1@0.75": 0, "f1@miou": 0.3, "precision@0.5": 1, "recall@0.5": 1, "count_exact": 1}
    if name != "odinw":
        known |= {"acc@0.5": 1, "acc@0.75": 0, "acc@0.9": 0, "miou": 0.6, "center_hit": 1, "point_hit": 1}
    assert {key: report.metrics[key] for key in known} == pytest.approx(known)
    assert report.detection is not None
    assert (report.detection.map, report.detection.map50, report.detection.map75) == pytest.approx((0.3, 1, 0))
    assert report.headline is not None
    assert report.headline.value == pytest.approx(0.3 if name == "odinw" else 1)


def pointed_away(shares: float) -> Say:
    """Points that are off by so many shares of the picture's side."""

    def say(target: Target) -> list[float]:
        x, y = target.numbers
        return [x + shares * CANVAS if x < CANVAS / 2 else x - shares * CANVAS, y]

    return say


def test_points_are_right_within_reach_and_wrong_beyond(benchmarks: dict[str, Benchmark]):
    empty = sum(record.is_negative for record in benchmarks["pointing"].records) / SCENES
    assert empty == 1 / 6

    near = answer(benchmarks["pointing"], pointed_away(0.99 * REACH)).metrics
    far = answer(benchmarks["pointing"], pointed_away(1.01 * REACH)).metrics

    assert (near["point_hit"], near["point_f1"], near["count_exact"]) == (1, 1, 1)
    assert (far["point_hit"], far["point_f1"], far["count_exact"]) == pytest.approx((0, empty, 1))


def test_a_model_with_the_wrong_words_is_a_detector_of_nothing(benchmarks: dict[str, Benchmark]):
    benchmark = benchmarks["odinw"]
    renamed: list[Prediction] = []
    for one in answer(benchmark, perfectly).predictions:
        text = one.answer.text
        for name in SHAPES:
            text = text.replace(f'"{name}"', f'"{name}s"')
        renamed.append(Prediction(one.record, gl.read_answer(text, family="qwen2_5_vl", seen=FRAME), FRAME))
    report = build_report(renamed, contract={}, versions={}, protocol="odinw")

    assert (report.metrics["f1@0.5"], report.metrics["label_f1@0.5"]) == (1, 0)
    assert report.headline is not None and report.headline.value == 0
