"""Many pictures at once: what is taken for a picture, and where drawings go."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from taught import Taught

from groundling.errors import SettingsError
from groundling.geometry.images import open_image
from groundling.inference.gallery import answer_pictures, find_pictures
from groundling.inference.predict import Grounder


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
