"""Protocols: what each reports, of which records, and what it says where it cannot."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from answered import predict

import groundling as gl
from groundling.errors import RecordError, SettingsError
from groundling.evaluation.metrics import METRICS, Prediction
from groundling.evaluation.protocols import PROTOCOLS, find_protocol, refuse_protocol
from groundling.evaluation.report import Report, build_report, read_report, report_to_json, write_report

BOX = [100.0, 100.0, 300.0, 200.0]
FAR = [600.0, 600.0, 800.0, 700.0]


def report(predictions: list[Prediction], protocol: str | None) -> Report:
    return build_report(predictions, contract={}, versions={}, protocol=protocol)


def test_every_protocol_reports_a_number_that_there_is():
    assert all(protocol.headline in METRICS or protocol.headline == "map" for protocol in PROTOCOLS.values())
    assert all("arXiv" in protocol.source for protocol in PROTOCOLS.values())


def test_refcoco_takes_the_first_box_and_counts_silence_as_a_miss():
    found = report(
        [
            predict([("mug", BOX)], [("mug", BOX), ("mug", FAR)], name="a"),
            predict([("mug", BOX)], [("mug", FAR), ("mug", BOX)], name="b"),
            predict([("mug", BOX)], [], name="c", flaw="no_boxes"),
            predict([("mug", BOX), ("mug", FAR)], [("mug", BOX)], name="d"),  # two targets: not of RefCOCO
        ],
        "refcoco",
    ).headline

    assert found is not None
    assert (found.protocol, found.metric, found.n) == ("refcoco", "acc@0.5", 3)
    assert found.value == pytest.approx(1 / 3)
    assert found.ci95[0] <= found.value <= found.ci95[1]


def test_odinw_ignores_scores_and_takes_labels_at_their_word():
    # The right box has the higher score and comes last; one label is not the class that the question asks for.
    ranked = predict([("cat", BOX)], [("cat", FAR), ("cat", BOX)], scores=[0.1, 0.9], question="cats", name="a")
    named = predict([("cat", BOX)], [("kitten", BOX)], scores=[0.5], question="cats", name="b")

    own, odinw = report([ranked, named], None), report([ranked, named], "odinw")

    assert own.headline is None
    assert own.detection is not None and own.detection.scored
    assert odinw.detection is not None and not odinw.detection.scored
    assert own.detection.map == pytest.approx(1)
    # Two targets, one of them found behind a wrong box: precision 1/2 at the recalls 0, 0.01 to 0.5.
    assert odinw.detection.map == pytest.approx(0.5 * 51 / 101)
    assert odinw.headline is not None
    assert (odinw.headline.metric, odinw.headline.value, odinw.headline.n) == ("map", odinw.detection.map, 2)
    assert math.isnan(odinw.headline.ci95[0])


def test_screenspot_takes_a_point_or_the_middle_of_a_box():
    found = report(
        [
            predict([("ok", BOX)], [("ok", [150.0, 150.0])], name="a"),
            predict([("ok", BOX)], [("ok", [190.0, 140.0, 210.0, 160.0])], name="b"),
            predict([("ok", BOX)], [("ok", [500.0, 500.0])], name="c"),
            predict([("ok", BOX)], [("ok", FAR)], name="d"),
        ],
        "screenspot",
    ).headline

    assert found is not None
    assert (found.metric, found.value, found.n) == ("point_hit", 0.5, 4)


def test_pointing_is_the_mean_over_questions():
    found = report(
        [
            predict([("nose", [10.0, 10.0]), ("ear", [500.0, 500.0])], [("nose", [10.0, 10.0])], name="a"),
            predict([], [], name="b"),
        ],
        "pointing",
    ).headline

    assert found is not None
    assert (found.metric, found.n) == ("point_f1", 2)
    assert found.value == pytest.approx((2 / 3 + 1) / 2)


def test_the_report_tells_the_protocol_and_its_source(tmp_path: Path):
    write_report(report([predict([("mug", BOX)], [("mug", BOX)])], "refcoco"), tmp_path)

    value = json.loads((tmp_path / "report.json").read_text("utf-8"))

    assert value["protocol"] == {
        "name": "refcoco",
        "headline": "acc@0.5",
        "value": 1.0,
        "ci95": [None, None],
        "n": 1,
        "words": PROTOCOLS["refcoco"].words,
        "source": PROTOCOLS["refcoco"].source,
    }
    assert PROTOCOLS["refcoco"].source in (tmp_path / "report.html").read_text("utf-8")
    again = read_report(tmp_path)
    assert again.protocol == "refcoco"
    assert json.dumps(report_to_json(again)) == json.dumps(report_to_json(read_report(tmp_path)))


def test_without_a_protocol_there_is_none_in_the_report():
    assert report_to_json(report([predict([("mug", BOX)], [])], None))["protocol"] is None


def test_a_protocol_that_nobody_knows_is_refused():
    with pytest.raises(SettingsError, match=r"no protocol 'coco'; expected refcoco, odinw, screenspot, pointing"):
        find_protocol("coco")


@pytest.mark.parametrize(
    ("name", "targets", "wanted"),
    [
        ("refcoco", (gl.Target(point=(1, 1)),), "exactly one target, a box"),
        ("refcoco", (gl.Target(box=(0, 0, 1, 1)), gl.Target(box=(0, 0, 1, 1))), "exactly one target, a box"),
        ("refcoco", (), "exactly one target, a box"),
        ("odinw", (gl.Target(point=(1, 1)),), "boxes for targets, or none"),
        ("odinw", (), "boxes for targets, or none"),
        ("screenspot", (gl.Target(point=(1, 1)), gl.Target(point=(2, 2))), "exactly one target"),
    ],
)
def test_a_protocol_that_fits_no_record_is_refused_before_anything_is_asked(
    name: str, targets: tuple[gl.Target, ...], wanted: str
):
    records = [gl.Record("it", Path("nowhere.jpg"), targets)]

    with pytest.raises(RecordError, match=rf"the protocol {name} wants records with {wanted}; none of the 1 "):
        refuse_protocol(name, records)
    with pytest.raises(RecordError, match=f"the protocol {name} wants"):
        gl.evaluate(None, records, protocol=name)  # type: ignore[arg-type]
