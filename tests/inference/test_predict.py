"""From a picture and a question to boxes in that picture's own upright pixels."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from cameras import STORING, as_stored, exif
from PIL import Image
from taught import Taught

import groundling as gl
from groundling.dialect.answer import Answer, read_answer
from groundling.geometry.frame import Frame
from groundling.geometry.images import Source, open_image
from groundling.inference import predict as module
from groundling.inference.predict import BATCHES_AT_ONCE, Grounder, Question, load, plan_windows

UNIT = 224 / 112  # a pixel of the seen picture, in pixels of the drawn one


def assert_right(answer: Answer, record: gl.Record) -> None:
    """The box and the label that were taught, to within a unit of what the model can say."""
    assert answer.flaw is None, answer.text
    assert answer.boxes.frame == Frame(224, 224)
    assert answer.labels == [record.targets[0].label]
    assert record.targets[0].box is not None
    assert np.abs(answer.boxes.xyxy - [record.targets[0].box]).max() <= UNIT, answer.text


def test_boxes_are_in_the_pictures_own_pixels(taught: Taught, grounder: Grounder):
    for record, (file, question) in zip(taught.records, taught.questions, strict=True):
        answer = grounder.predict(file, question)

        assert answer.seen == Frame(112, 112)
        assert_right(answer, record)


@pytest.mark.parametrize("orientation", STORING)
def test_a_turned_photograph_is_answered_upright(orientation: int, taught: Taught, grounder: Grounder, tmp_path: Path):
    file, question = taught.questions[0]
    as_stored(Image.open(file), orientation).save(tmp_path / "turned.png", exif=exif(orientation))

    assert_right(grounder.predict(tmp_path / "turned.png", question), taught.records[0])


def test_every_kind_of_source_will_do(taught: Taught, grounder: Grounder):
    file, question = taught.questions[0]
    picture = Image.open(file)
    sources = [file, str(file), file.read_bytes(), picture, np.asarray(picture)]

    answers = grounder.predict_many([(source, question) for source in sources])

    assert len({answer.text for answer in answers}) == 1
    assert_right(answers[0], taught.records[0])


def test_many_answers_are_in_the_order_of_their_questions(taught: Taught, grounder: Grounder):
    asked = [*range(len(taught.records)), *reversed(range(len(taught.records)))]
    questions = (taught.questions[index] for index in asked)

    answers = grounder.predict_many(questions, batch_size=2, max_new_tokens=64)

    for index, answer in zip(asked, answers, strict=True):
        assert_right(answer, taught.records[index])
    assert grounder.predict_many([]) == []


def test_pictures_are_opened_a_few_batches_ahead(
    taught: Taught, grounder: Grounder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    picture = open_image(taught.records[0].image)
    files = [tmp_path / f"{number}.png" for number in range(5 * BATCHES_AT_ONCE)]
    for file in files:
        picture.save(file)
    opened: list[Source] = []
    monkeypatch.setattr(module, "open_image", lambda image, **_: opened.append(image) or open_image(image))

    answers = grounder.answer_each([Question(file, "the mug") for file in files], batch_size=1, max_new_tokens=4)
    for number in range(BATCHES_AT_ONCE):
        assert next(answers).place == number
    assert set(opened) <= set(files[: 2 * BATCHES_AT_ONCE]), "those being answered, and the next ones"
    assert [place for place, _ in answers] == list(range(BATCHES_AT_ONCE, len(files)))
    assert sorted(opened) == sorted(files), "each once"


def test_a_picture_is_opened_and_seen_once_for_all_its_questions(
    taught: Taught, grounder: Grounder, monkeypatch: pytest.MonkeyPatch
):
    files = [record.image for record in taught.records[::2]]
    questions = [Question(file, f"the {word}") for word in ("cup", "red star", "cup") for file in files if file]
    alone = [grounder.predict(*question).text for question in questions]
    opened: list[Source] = []
    monkeypatch.setattr(module, "open_image", lambda image, **_: opened.append(image) or open_image(image))
    patches: list[int] = []
    visual: torch.nn.Module = grounder.model.model.visual  # type: ignore[assignment]
    watch = visual.register_forward_pre_hook(lambda _, given: patches.append(len(given[0])))

    together = grounder.answer_all(questions, batch_size=2)
    watch.remove()

    assert sorted(opened) == sorted(file for file in files if file)
    seen = [grounder.processor.see(open_image(file)) for file in files if file]
    assert sum(patches) == sum(len(one.pixels) for one in seen), "each picture went through the vision tower once"
    assert [found.answer.text for found in together] == alone


def test_windows_are_of_whole_pictures_where_they_fit():
    assert plan_windows(["a", "b", "a", "c", "b"], 4) == [[[0, 2], [1, 4]], [[3]]]
    assert plan_windows(["a"] * 5 + ["b"], 2) == [[[0, 1]], [[2, 3]], [[4], [5]]]
    one, other = Image.new("RGB", (1, 1)), Image.new("RGB", (1, 1))
    assert plan_windows([one, other, one, Path("a"), "a"], 9) == [[[0, 2], [1], [3, 4]]]
    assert plan_windows([], 2) == []
    assert plan_windows(["a", "b", "a", "c", "b"], 4, exact=True) == [[[0, 2], [1, 4]], [[3]]]
    assert plan_windows(["a", "b", "a", "b", "b", "c"], 4, exact=True) == [[[0, 2], [1, 3]], [[4], [5]]]
    assert plan_windows(["a", "b", "a", "b", "b", "c"], 4) == [[[0, 2]], [[1, 3, 4], [5]]]


def test_what_is_no_picture_is_named(taught: Taught, grounder: Grounder, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("no picture", encoding="utf-8")

    with pytest.raises(gl.ImageError, match=r"notes\.txt: no picture of a known kind"):
        grounder.predict_many([taught.questions[0], (tmp_path / "notes.txt", "the mug")])
    with pytest.raises(gl.ImageError, match="more than the 1000 allowed"):
        grounder.answer_all([Question(*taught.questions[0])], max_pixels=1000)
    bad, good = Question(tmp_path / "notes.txt", "the mug"), Question(*taught.questions[0])
    replies = dict(grounder.answer_each([bad, good, bad], max_new_tokens=4))
    assert [isinstance(replies[place], gl.ImageError) for place in range(3)] == [True, False, True]


def test_another_budget_is_said_aloud_and_its_boxes_stay_in_place(taught: Taught, grounder: Grounder, caplog):
    file, question = taught.questions[0]

    with caplog.at_level(logging.WARNING, logger="groundling"):
        less = grounder.with_max_tokens(4)

    assert caplog.messages == [f"budget of 4 visual tokens; {taught.folder} was trained with 16"]
    answer = less.predict(file, question)
    assert answer.seen == Frame(56, 56)
    read = read_answer(answer.text, family="qwen2_5_vl", seen=Frame(56, 56))
    np.testing.assert_allclose(answer.boxes.xyxy, read.boxes.xyxy * 4)
    assert answer.boxes.frame == Frame(224, 224)
    assert grounder.predict(file, question).seen == Frame(112, 112), "the first one is as it was"


def test_a_grounder_is_loaded_ready_to_answer(taught: Taught):
    grounder = load(str(taught.folder), device="cpu")

    assert grounder.name == str(taught.folder)
    assert grounder.contract == grounder.processor.contract
    assert not grounder.model.training
    assert {parameter.dtype for parameter in grounder.model.parameters()} == {torch.float32}
    assert gl.load is load
