from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from groundling.data.formats.detection import PERCENT, Annotated, Thing
from groundling.data.formats.found import Found
from groundling.data.labelled import LabelledThing, label_picture, list_labels, name_things, refuse_unknown_labels
from groundling.data.questions import Asking, Per, ask_about
from groundling.data.record import Record, Target
from groundling.errors import SettingsError
from groundling.geometry.frame import Frame


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labelled") / "a.png"
    Image.new("RGB", (200, 100)).save(path)
    return path


def test_a_thing_is_called_by_its_label_or_else_by_the_question(image: Path):
    record = Record(" the cat ", image, (Target(box=(1, 2, 3, 4)), Target(point=(5, 6), label="dog ")))
    assert name_things(record) == [
        LabelledThing("the cat", (1, 2, 3, 4)),
        LabelledThing("dog", (5, 6)),
    ]


def test_a_score_becomes_a_value_of_its_own(image: Path):
    target = Target(box=(1, 2, 3, 4), extra={"score": 0.5, "annotation_id": 7})
    (thing,) = name_things(Record("cat", image, (target,)))
    assert thing == LabelledThing("cat", (1, 2, 3, 4), 0.5, {"annotation_id": 7})


def test_a_thing_that_two_questions_name_is_there_once_with_its_best_score(image: Path):
    def answered(question: str, score: float) -> Record:
        return Record(question, image, (Target(box=(1, 2, 3, 4), label="cat", extra={"score": score}),))

    picture = label_picture([answered("cat", 0.25), answered("every animal", 0.75), answered("a pet", 0.5)])
    assert picture.things == (LabelledThing("cat", (1, 2, 3, 4), 0.75),)
    assert picture.frame == Frame(200, 100)


def test_numbers_in_other_units_stay_within_the_picture(image: Path):
    picture = label_picture([Record("cat", image, (Target(box=(100, 50, 201, 101)), Target(point=(50, 25))))])
    assert [thing.numbers for thing in picture.things_in(PERCENT)] == [(50, 50, 100, 100), (25, 25)]


def test_labels_are_in_alphabetical_order_or_as_given(image: Path):
    picture = label_picture([Record(label, image, (Target(box=(1, 2, 3, 4)),)) for label in ("cat", "ant", "cat")])
    assert list_labels([picture]) == ["ant", "cat"]
    assert list_labels([picture], ["cat", "ant", "bee"]) == ["cat", "ant", "bee"]


def test_a_label_that_nothing_has_is_refused_where_it_is_a_slip_and_told_where_its_class_is_empty(
    image: Path, caplog: pytest.LogCaptureFixture
):
    named = [Record(label, image, (Target(box=(1, 2, 3, 4)),)) for label in ("person", "level1", "level2")]
    records = [*named, Record("bird", image)]
    refuse_unknown_labels(records, ["person", "bird"])
    assert not caplog.text
    refuse_unknown_labels(records, ["level1", "level2", "level3", "person"])
    assert "nothing is labelled 'level3'" in caplog.text, "the number of another split's class"
    for labels, words in [
        (["level1", "persn"], "nothing is labelled 'persn'; the closest labels are person"),
        (["automobile"], "nothing is labelled 'automobile'; the closest labels are "),
    ]:
        with pytest.raises(SettingsError, match=words):
            refuse_unknown_labels(records, labels)


sides = st.integers(0, 100)
things = st.lists(st.tuples(st.sampled_from("abc"), sides, sides), max_size=6, unique=True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(things, st.sampled_from(["class", "box", "picture"]), st.sampled_from([0.0, 2.0]))
def test_it_undoes_asking_however_one_asks(image: Path, found: list[tuple[str, int, int]], per: Per, negatives: float):
    annotated = Annotated(
        image,
        Path("source"),
        1,
        [Thing(label, (x, y, x + 100, y + 1), extra={"annotation_id": 7}) for label, x, y in found],
        extra={"coco_image_id": 9},
    )
    asking = Asking(per, negatives=0 if per == "picture" else negatives)
    asked = [item for item in ask_about(annotated, asking, known=["a", "b", "c"]) if isinstance(item, Found)]
    if not asked:  # nothing is labelled, and no negatives were wanted
        assert not found
        return
    picture = label_picture([Record(item.question, image, item.targets, extra=item.extra) for item in asked])
    assert {(thing.label, thing.numbers) for thing in picture.things} == {
        (thing.label, thing.numbers) for thing in annotated.things
    }
    assert len(picture.things) == len(annotated.things)
    assert picture.extra == {"coco_image_id": 9} and all(thing.extra["annotation_id"] == 7 for thing in picture.things)
