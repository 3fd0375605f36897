"""Many pictures at once: what is taken for a picture, and where drawings go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from taught import Taught

from groundling.dialect.answer import Answer
from groundling.errors import SettingsError
from groundling.geometry.boxes import Boxes, Points
from groundling.geometry.frame import Frame
from groundling.geometry.images import open_image
from groundling.inference.gallery import PictureAnswer, answer_pictures, draw_answers, find_pictures
from groundling.inference.predict import Answered, Grounder, load
from groundling.tiny.scenes import draw_shapes


def save_pictures(*files: Path) -> list[Path]:
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + number, 30)).save(file)
    return list(files)


def test_a_folder_gives_its_pictures_by_name_and_no_hidden_ones(tmp_path: Path):
    kept = save_pictures(tmp_path / "a.jpg", tmp_path / "b.ppm")
    save_pictures(tmp_path / ".c.png")
    (tmp_path / "notes.txt").write_text("no picture")

    assert find_pictures([tmp_path, kept[1]]) == [*kept, kept[1]]


def test_pictures_that_are_not_there_are_all_named(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"no such picture: .*x\.png, .*y"):
        find_pictures([tmp_path / "x.png", tmp_path, tmp_path / "y"])


def test_drawings_of_one_name_stand_side_by_side(grounder: Grounder, tmp_path: Path):
    pictures = save_pictures(tmp_path / "a/1.jpg", tmp_path / "a/1.png", tmp_path / "b/1.png")

    answer_pictures(grounder, pictures, ["the cup"], draw=tmp_path / "drawn")

    sizes = [open_image(tmp_path / "drawn" / name).size for name in ("1.png", "1-2.png", "1-3.png")]
    assert sizes == [(40, 30), (41, 30), (42, 30)]


def test_no_drawing_takes_the_place_of_a_picture(taught: Taught, grounder: Grounder, tmp_path: Path):
    (picture,) = save_pictures(tmp_path / "own.png")
    before = picture.read_bytes()

    with pytest.raises(SettingsError, match=r"own\.png would overwrite a picture; choose another folder"):
        answer_pictures(grounder, [picture], ["the cup"], draw=tmp_path)

    assert picture.read_bytes() == before


def test_a_picture_over_the_limit_is_told_and_the_others_are_answered(grounder: Grounder, tmp_path: Path):
    pictures = save_pictures(tmp_path / "a.png", tmp_path / "b.png")

    answers = answer_pictures(grounder, pictures, ["the cup"], max_pixels=40 * 30)

    assert [answer.image for answer in answers.found] == pictures[:1]
    assert "raise max_pixels (--max-file-pixels" in str(answers.unreadable[0])


def test_what_could_not_be_read_stands_in_its_place_and_is_told_once(grounder: Grounder, tmp_path: Path):
    pictures = save_pictures(tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png")
    pictures[1].write_bytes(b"no picture")
    answers = answer_pictures(grounder, pictures, ["the cup", "the cat"], draw=tmp_path / "drawn")

    rows = [one.to_json() for one in answers.told]
    assert [(row["image"], row["question"], "error" in row) for row in rows] == [
        (str(picture), question, picture == pictures[1]) for picture in pictures for question in ("the cup", "the cat")
    ]
    assert list(rows[2])[:-1] == list(rows[0]), "the keys of an answer, then error"
    assert rows[2]["boxes"] is None and rows[2]["text"] is None and "b.png" in rows[2]["error"]
    assert str(answers.told[2]) == f"{pictures[1]}: the cup: not answered, the picture could not be read"
    assert answers.fault is not None and answers.fault.count("b.png") == 1
    assert answers.fault.startswith("1 of 3 pictures could not be read; the others were answered\n")
    assert sorted(file.name for file in (tmp_path / "drawn").iterdir()) == ["a.png", "c.png"]

    alone = answer_pictures(grounder, pictures[1:2], ["the cup"])
    assert alone.fault is not None and alone.fault.startswith("1 of 1 pictures could not be read\n")
    assert answer_pictures(grounder, pictures[:1], ["the cup"]).fault is None


def found(answer: Answer) -> PictureAnswer:
    return PictureAnswer(Path("a.png"), "the cup", Answered(answer, FRAME))


FRAME = Frame(40, 30)
BOXES = Boxes([[1, 2, 20, 20], [2, 2, 21, 20], [30, 2, 39, 9]], FRAME)


def test_an_answer_in_words_says_how_sure_it_is():
    one = Answer(BOXES[:1], Points([[5, 6]], FRAME), ["cup", None], "", None, FRAME, scores=np.array([0.926]))
    none = Answer(BOXES[:0], Points([], FRAME), [], "[]", None, FRAME, scores=np.array([]), none_score=0.714)

    assert str(found(one)) == "a.png: the cup: [1, 2, 20, 20] cup 0.93; [5, 6]"
    assert str(found(replace(one, scores=None))) == "a.png: the cup: [1, 2, 20, 20] cup; [5, 6]"
    assert str(found(none)) == "a.png: the cup: nothing 0.71"
    assert str(found(replace(none, none_score=None, flaw="empty"))) == "a.png: the cup: nothing  (empty)"
    assert found(one).to_json()["scores"] == [0.926]


def test_what_the_model_is_not_sure_of_and_what_it_says_twice_are_left_out(tmp_path: Path):
    """A noisy scene, of whose blue ring the model says two boxes that overlap by more than 0.8."""
    grounder, rng = load("tiny", device="cpu"), np.random.default_rng(56)
    scene = np.asarray(draw_shapes(rng, most=5).picture) + np.random.default_rng(56).normal(0, 60, (224, 224, 3))
    Image.fromarray(scene.clip(0, 255).astype(np.uint8)).save(tmp_path / "scene.png")

    def ask(**options: float) -> Answer:
        (one,) = answer_pictures(grounder, [tmp_path / "scene.png"], ["every object"], **options).found
        return one.found.answer

    whole = ask()
    assert whole.scores is not None
    assert whole.labels.count("blue ring") == 2
    least, *surer = sorted(whole.scores)

    above = ask(least_score=(least + surer[0]) / 2)
    apart = ask(most_overlap=0.8)

    assert above.scores is not None
    assert sorted(above.scores) == surer
    assert len(apart.boxes) == len(whole.boxes) - 1
    assert apart.labels.count("blue ring") == 1
    assert above.text == apart.text == whole.text
    (nothing,) = answer_pictures(grounder, [tmp_path / "scene.png"], ["every object"], least_score=1).found
    assert str(nothing).endswith(f": every object: none of {len(whole.boxes)} boxes")


def test_scores_are_drawn(tmp_path: Path):
    Image.new("RGB", FRAME.size_wh, "white").save(tmp_path / "a.png")
    sure = Answer(BOXES[:1], Points([], FRAME), ["cup"], "", None, FRAME, scores=np.array([0.5]))

    def draw(answer: Answer) -> bytes:
        draw_answers(tmp_path / "a.png", [found(answer)], tmp_path / "drawn.png")
        return (tmp_path / "drawn.png").read_bytes()

    assert draw(sure) == draw(replace(sure, scores=None, labels=["cup 0.50"]))
    assert draw(sure) != draw(replace(sure, scores=None))
    assert draw(replace(sure, labels=[None])) == draw(replace(sure, labels=["the cup"])), "the question names it"
