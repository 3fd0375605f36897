"""Where a difference lies: sizes and classes, and that looking at many of them finds no more than there is."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from called import Call

from groundling.data.record import Record, Target
from groundling.dialect.answer import Answer
from groundling.evaluation.change import holm
from groundling.evaluation.compare import compare, comparison_to_json
from groundling.evaluation.compare_page import write_comparison
from groundling.evaluation.groups import MOST_CLASSES, Marked, change_by_class
from groundling.evaluation.metrics import Prediction, mark
from groundling.evaluation.report import Report, build_report, read_report, write_report
from groundling.geometry.boxes import Boxes, Points
from groundling.geometry.frame import Frame

PHOTO = Frame(100, 100)
CUP, PAN = (10.0, 10.0, 30.0, 30.0), (50.0, 50.0, 80.0, 90.0)


def predict(number: int, label: str | None, side: float, is_hit: bool, *, targets: int = 1) -> Prediction:
    """A question about a picture of its own, for squares of one side, found all or none."""
    boxes = [(left, 10.0, left + side, 10 + side) for left in (10.0 + 25 * place for place in range(targets))]
    record = Record("it", Path(f"{number}.jpg"), tuple(Target(box, label=label) for box in boxes), id=str(number))
    found = Boxes(boxes if is_hit else [], PHOTO)
    answer = Answer(found, Points([], PHOTO), [None] * len(found), "", None, PHOTO)
    return Prediction(record, answer, PHOTO)


def report(rows: Sequence[tuple[str | None, float, bool]], *, targets: int = 1) -> Report:
    predictions = [predict(number, *row, targets=targets) for number, row in enumerate(rows)]
    return build_report(predictions, contract={}, versions={}, name="run")


def test_holm_by_hand():
    # 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1 is lifted to what stands before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]) == [1, 1]
    assert holm([]) == []
    one, nothing = holm([0.04, math.nan])
    assert one == 0.04 and math.isnan(nothing), "what was not measured was not looked at"


def test_a_gain_on_small_targets_is_found_there_and_nowhere_else():
    # Squares of side 5, 15 and 40 cover 0.0025, 0.0225 and 0.16 of the picture.
    before = report([(None, side, is_large) for side, is_large in [(5.0, False), (15.0, True), (40.0, True)] * 20])
    after = report([(None, side, True) for side in (5.0, 15.0, 40.0) * 20])

    found = compare(before, after).by_size

    assert (found.metric, found.left_out) == ("acc@0.5", {})
    assert [(group.name, group.questions, group.change.difference) for group in found.groups] == [
        ("small", 20, 1),
        ("medium", 20, 0),
        ("large", 20, 0),
    ]
    assert [group.differs for group in found.groups] == [True, False, False]


def test_sizes_without_a_question_are_not_looked_at():
    one = report([(None, 5.0, True)] * 4)
    assert [group.name for group in compare(one, one).by_size.groups] == ["small"]
    several = report([("mug", 5.0, True)] * 4, targets=2)
    found = compare(several, several).by_size
    assert (found.metric, [group.name for group in found.groups]) == ("recall@0.5", ["small"]), "each target has one"


def test_classes_are_those_of_the_targets_labels():
    before = report([("mug", 20.0, False), ("lamp", 20.0, True), (None, 20.0, True)] * 10)
    after = report([("mug", 20.0, True), ("lamp", 20.0, True), (None, 20.0, False)] * 10)

    found = compare(before, after).by_class

    assert {group.name: (group.questions, group.change.difference, group.differs) for group in found.groups} == {
        "mug": (10, 1, True),
        "lamp": (10, 0, False),
    }


def test_labels_name_one_class_in_capitals_or_not():
    one = report([("Mug", 20.0, True), ("mug", 20.0, True), (" ", 20.0, True)] * 6)
    assert [(group.name, group.questions) for group in compare(one, one).by_class.groups] == [("mug", 12)]


def test_questions_with_several_targets_count_by_f1():
    before, after = report([("mug", 20.0, False)] * 6, targets=2), report([("mug", 20.0, True)] * 6, targets=2)

    found = compare(before, after).by_class

    (mug,) = found.groups
    assert (found.metric, mug.questions, mug.change.before, mug.change.after) == ("f1@0.5", 6, 0, 1)


def test_classes_in_one_question_count_by_their_own_boxes():
    """Cups and pans in each of 20 pictures: cups stay, pans are lost; in half of them pans were called cups before."""

    def ask(number: int, said: str, boxes: list[tuple[float, ...]]) -> Prediction:
        targets = (Target(box=CUP, label="cup"), Target(box=PAN, label="pan"))
        answer = Answer(Boxes(boxes, PHOTO), Points([], PHOTO), [*said.split()], "", None, PHOTO)
        return Prediction(Record("all", Path(f"{number}.jpg"), targets, id=str(number)), answer, PHOTO)

    before = [ask(number, "cup pan" if number % 2 else "cup cup", [CUP, PAN]) for number in range(20)]
    after = [ask(number, "Cup", [CUP]) for number in range(20)]
    found = compare(*(build_report(each, contract={}, versions={}) for each in (before, after))).by_class

    cup, pan = found.groups
    assert (cup.name, cup.questions, cup.change.before, cup.change.after) == ("cup", 20, 40 / 50, 1)
    assert (pan.name, pan.questions, pan.change.before, pan.change.after) == ("pan", 20, 20 / 30, 0)


def point(number: int, targets: Sequence[Target], *places: tuple[float, float]) -> Prediction:
    """A question about a picture of its own, answered with points."""
    answer = Answer(Boxes([], PHOTO), Points(places, PHOTO), [None] * len(places), "", None, PHOTO)
    return Prediction(Record("all", Path(f"{number}.jpg"), tuple(targets), id=str(number)), answer, PHOTO)


IN_CUP, IN_PAN, NOWHERE = (20.0, 20.0), (60.0, 70.0), (95.0, 95.0)


@pytest.mark.parametrize("protocol", [None, "pointing", "screenspot"])
def test_points_at_one_target_count_by_point_hit(protocol: str | None):
    """Cups, 0.04 of the picture, are pointed at afterwards only, pans of 0.12 before, too; a second point is no hit."""
    cup, pan = (Target(box=CUP, label="cup"),), (Target(box=PAN, label="pan"),)
    before = [point(2 * row, cup, NOWHERE, IN_CUP) for row in range(8)]
    after = [point(2 * row, cup, IN_CUP) for row in range(8)]
    pans = [*(point(2 * row + 1, pan, IN_PAN) for row in range(8)), point(99, (), NOWHERE)]

    found = compare(
        *(build_report([*each, *pans], contract={}, versions={}, protocol=protocol) for each in (before, after))
    )

    assert found.headline == ("point_hit" if protocol == "screenspot" else "point_f1")
    assert found.verdict.startswith(f"better: {found.headline} +") and "but" not in found.verdict
    for groups, names in ((found.by_size, ("medium", "large")), (found.by_class, ("cup", "pan"))):
        assert groups.metric == "point_hit"
        told = [(group.name, group.questions, *group.change[:2]) for group in groups.groups]
        assert told == [(names[0], 8, 0, 1), (names[1], 8, 1, 1)]


def test_points_at_several_targets_count_by_the_share_of_each_size_and_class():
    """One of two cups and the pan before, both cups and no pan after; one cup is a point, with a class and no size."""
    cup, pan = Target(box=CUP, label="cup"), Target(box=PAN, label="pan")
    other = Target(box=(10, 60, 30, 80), label="Cup")
    asked = [other, pan, cup]
    before = [point(row, asked, IN_CUP, IN_PAN) for row in range(9)]
    after = [point(row, asked, (20, 70), IN_CUP) for row in range(9)]
    far = [point(9, [Target(point=(90, 10), label="cup")], NOWHERE), point(10, [], NOWHERE)]

    found = compare(*(build_report([*each, *far], contract={}, versions={}) for each in (before, after)))

    assert (found.headline, found.by_size.metric, found.by_class.metric) == ("point_f1", "point_recall", "point_recall")
    sizes, classes = (
        {group.name: (group.questions, *group.change[:2]) for group in groups.groups}
        for groups in (found.by_size, found.by_class)
    )
    assert sizes == {"medium": (9, 0.5, 1), "large": (9, 1, 0)}
    assert classes == {"cup": (10, pytest.approx(4.5 / 10), 9 / 10), "pan": (9, 1, 0)}


@pytest.mark.parametrize(
    ("boxes", "silent", "protocol", "headline"),
    [
        (0, 0, "refcoco", "acc@0.5"),
        (1, 0, None, "point_f1"),
        (3, 0, None, "point_f1"),
        (4, 0, None, "acc@0.5"),
        (2, 5, None, "acc@0.5"),
        (0, 8, None, "point_f1"),
    ],
)
def test_points_are_judged_where_most_answers_of_each_report_are(
    boxes: int, silent: int, protocol: str | None, headline: str
):
    """Eight questions for a box are answered with points in one report, in the other some with boxes or not at all."""
    asked = [Target(box=CUP, label="cup")]
    points = [point(row, asked, IN_CUP) for row in range(8)]
    box = Answer(Boxes([CUP], PHOTO), Points([], PHOTO), [None], "", None, PHOTO)
    other = [
        *(replace(one, answer=box) for one in points[:boxes]),
        *(point(row, asked) for row in range(boxes, boxes + silent)),
        *points[boxes + silent :],
    ]
    one, two = (build_report(each, contract={}, versions={}, protocol=protocol) for each in (points, other))
    for found in (compare(one, two), compare(two, one)):
        of_group = "acc@0.5" if headline == "acc@0.5" else "point_hit"
        assert (found.headline, found.by_size.metric, found.by_class.metric) == (headline, of_group, of_group)


def test_answers_to_questions_for_points_do_not_tell_how_boxes_are_judged():
    nose = [point(row, [Target(point=IN_CUP)], IN_CUP) for row in range(9)]
    cups = [predict(row, "cup", 20.0, True) for row in range(10, 19)]
    made_up = predict(20, "cup", 20.0, True)
    made_up = replace(made_up, record=replace(made_up.record, targets=()))
    both = [point(21, [Target(point=IN_CUP), Target(box=CUP)], IN_CUP), made_up]

    one, other = (build_report([*nose, *more], contract={}, versions={}) for more in (cups, both))

    assert compare(one, one).headline == "acc@0.5"
    assert compare(other, other).headline == "point_f1", "a box beside a point is not judged by F1"
    fewer = build_report([*nose, *cups[:-1]], contract={}, versions={})
    assert compare(fewer, fewer).headline == "point_f1", "most questions are for points"


def test_a_verdict_on_points_tells_what_became_of_boxes():
    points = [point(row, [Target(box=CUP)], IN_CUP) for row in range(11)]
    right = [predict(row, "cup", 20.0, True) for row in range(20, 30)]
    inner = Boxes([(15.0, 15.0, 25.0, 25.0)], PHOTO)
    small = [replace(one, answer=replace(one.answer, boxes=inner)) for one in right]
    before, after = (build_report([*points, *boxes], contract={}, versions={}) for boxes in (right, small))

    found = compare(before, after)

    assert found.headline == "point_f1" and "; but acc@0.5 -0.48" in found.verdict


def classes_of(found: Report) -> dict[str, float]:
    assert found.detection is not None
    return {each.label: each.f1 for each in found.detection.classes if each.targets}


@pytest.mark.parametrize("protocol", [None, "odinw"])
@pytest.mark.parametrize("targets", [1, 2])
def test_classes_are_those_of_the_report(protocol: str | None, targets: int):
    """Half of the answers to questions for cups call them mugs; one more question is for a pan beside a point."""
    cups = [predict(row, "cup", 20.0, True, targets=targets) for row in range(8)]
    called = [
        replace(one, answer=replace(one.answer, labels=[("cup", "mug")[row % 2]] * targets))
        for row, one in enumerate(cups)
    ]
    beside = point(9, [Target(box=CUP, label="cup"), Target(box=PAN, label="pan"), Target(point=NOWHERE)], NOWHERE)
    beside = replace(beside, record=replace(beside.record, question="it"))
    one = build_report([*called, beside], contract={}, versions={}, protocol=protocol)

    (cup,) = compare(one, one).by_class.groups

    assert {cup.name: cup.change.before} == classes_of(one) == {"cup": 8 / 12 if protocol else 1}


def test_a_protocol_that_takes_labels_as_said_has_classes_of_labels_that_hardly_recur():
    found = [predict(row, f"class {row}", 20.0, True, targets=2) for row in range(9)]
    asked = [replace(one, record=replace(one.record, question=f"thing {row}")) for row, one in enumerate(found)]
    one = build_report(asked, contract={}, versions={}, protocol="odinw")
    assert compare(one, one).by_class.left_out.keys() == classes_of(one).keys()


def test_a_label_acts_on_no_terminal(call: Call, tmp_path: Path):
    label, other = "mug\n\x1b[31mworse", "cup\x1b[0m"
    before, after = report([(label, 20.0, False)] * 8), report([(label, 20.0, True)] * 8)
    renamed = [
        replace(one, record=replace(one.record, targets=(replace(one.record.targets[0], label=other),)))
        for one in after.predictions
    ]
    write_report(before, tmp_path / "before")
    write_report(build_report(renamed, contract={}, versions={}), tmp_path / "after")

    ended = call("compare", tmp_path / "before", tmp_path / "after")

    assert "acc@0.5 by class: 1 looked at, different: mug [31mworse +1.000\n" in ended.out
    assert "labels mug [31mworse / cup [0m (before / after)\n" in ended.err
    assert "\x1b" not in ended.out + ended.err


def test_where_only_points_are_left_to_compare_no_protocol_judges_boxes():
    one = build_report(
        [point(row, [Target(point=IN_CUP, label="cup")], IN_CUP) for row in range(6)],
        contract={},
        versions={},
        protocol="odinw",
    )
    found = compare(one, one)
    assert (found.headline, found.by_class.metric) == ("point_f1", "point_hit")


def test_the_classes_looked_at_are_the_largest_and_the_rest_are_named(tmp_path: Path):
    labels = [f"class {number:02}" for number in range(MOST_CLASSES + 3)]
    rows = [(label, 20.0, True) for number, label in enumerate(labels) for _ in range(6 + (number % 2))]
    one = report(rows)

    comparison = compare(one, one)
    write_comparison(comparison, tmp_path)

    found = comparison.by_class
    assert len(found.groups) == MOST_CLASSES
    assert [group.questions for group in found.groups] == [7] * 11 + [6] * 9
    assert len(found.left_out) == 3
    for name in ("comparison.html", "comparison.md"):
        text = (tmp_path / name).read_text("utf-8")
        assert f"{MOST_CLASSES} looked at" in text
        assert all(label in text for label in found.left_out)


def test_a_class_of_too_few_pictures_is_not_looked_at():
    rows = [("mug", 20.0)] * 6 + [("lamp", 20.0)] * 5
    found = compare(report([(*row, False) for row in rows]), report([(*row, True) for row in rows])).by_class

    assert [group.name for group in found.groups] == ["mug"] and found.left_out == {"lamp": 5}
    assert found.groups[0].differs, "six pictures are the fewest that can show a difference"


def test_looking_at_many_classes_of_a_model_and_its_like_shows_no_difference():
    """Two models that are right by the toss of a coin, 20 classes, 100 times over: uncorrected, some class would do."""
    generator = np.random.default_rng(0)
    asked = report([(f"class {number % 20}", 20.0, True) for number in range(400)]).predictions
    perfect = mark(asked)
    seen = uncorrected = 0
    for _ in range(100):
        old, new = (
            replace(perfect, earned=perfect.possible * generator.integers(0, 2, (len(asked), 1))) for _ in range(2)
        )
        groups = change_by_class(Marked(asked, old), Marked(asked, new), seed=0, draws=1000).groups
        seen += any(group.differs for group in groups)
        uncorrected += any(group.change.is_seen() for group in groups)
    assert seen <= 8, "one time in twenty, give or take what chance does to a hundred"
    assert uncorrected > 30, "which is why it is corrected"


def test_groups_are_in_the_json_and_survive_the_disk(tmp_path: Path):
    before = report([("mug", 5.0, False), ("lamp | <b>", 40.0, True)] * 8)
    after = report([("mug", 5.0, True), ("lamp | <b>", 40.0, True)] * 8)
    for name, one in (("before", before), ("after", after)):
        write_report(one, tmp_path / name)

    from_disk = compare(read_report(tmp_path / "before"), read_report(tmp_path / "after"))
    write_comparison(from_disk, tmp_path)

    value = json.loads((tmp_path / "comparison.json").read_text("utf-8"))
    assert value == comparison_to_json(compare(before, after))
    mug = value["by_class"]["groups"]["mug"]
    assert (value["by_class"]["looked_at"], mug["questions"], mug["differs"]) == (2, 8, True)
    assert mug["p_holm"] == pytest.approx(2 * mug["p"])
    assert set(value["by_size"]["groups"]) == {"small", "large"}
    assert "<b>" not in (tmp_path / "comparison.html").read_text("utf-8").partition("By class")[2].partition("mug")[0]
    assert "lamp \\| &lt;b&gt;" in (tmp_path / "comparison.md").read_text("utf-8")


def test_markdown_holds_what_the_page_holds_and_no_path_of_this_machine(tmp_path: Path):
    before = build_report(report([("mug", 5.0, False)] * 8).predictions, contract={}, versions={}, name="/home/me/base")
    after = build_report(report([("mug", 5.0, True)] * 8).predictions, contract={}, versions={}, name="runs/a_b")
    write_comparison(compare(before, after), tmp_path)

    text = (tmp_path / "comparison.md").read_text("utf-8")

    assert text.startswith("# Better: acc@0.5 +1.00 \\[+1.00, +1.00\\], p = 0.008\n")
    assert "**base** (before) and **runs/a\\_b** (after)" in text and "/home" not in text
    for title in ("## By size of the target", "## By class", "## Question by question"):
        assert title in text
    assert "| acc@0.5 | 0.000 | 1.000 | +1.000 | +1.000 to +1.000 | 0.008 |" in text
    assert "| **mug** | 8 | 0.000 | 1.000 | +1.000 | +1.000 to +1.000 | 0.008 |" in text
    assert "closer to the truth: 8, further from the truth: 0, much the same: 0" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count(" | ") for line in tables} <= {2, 5, 6}, "no cell is cut in two"
