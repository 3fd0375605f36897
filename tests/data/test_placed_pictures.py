from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cameras import as_stored, exif
from PIL import Image

from groundling.data.pictures import Pictures, UprightPictures, plain_stem
from groundling.errors import ImageError
from groundling.geometry.images import open_image, pixel_digest


def draw(path: Path, color: str = "red", size_wh: tuple[int, int] = (40, 20)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size_wh, color).save(path)
    return path


def draw_turned(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).normal(128, 25, (64, 96, 3)).clip(0, 255).astype(np.uint8)
    smooth = Image.fromarray(noise).resize((384, 256), Image.Resampling.BICUBIC)  # about as rough as a photograph
    as_stored(smooth, 6).save(path, exif=exif(6), **({"quality": 95} if path.suffix == ".jpg" else {}))
    return path


def test_a_picture_keeps_its_name_and_bytes_and_is_copied_once(tmp_path: Path):
    image, pictures = draw(tmp_path / "a/cat.png"), UprightPictures(tmp_path / "out/images", tmp_path / "out")
    placed = pictures.place(image)
    assert placed == tmp_path / "out/images/cat.png" and placed.read_bytes() == image.read_bytes()
    assert pictures.place(image) == pictures.place(draw(tmp_path / "b/cat.png")) == placed


def test_two_pictures_of_one_name_do_not_meet(tmp_path: Path):
    pictures = UprightPictures(tmp_path / "out", tmp_path / "out")
    first, second = pictures.place(draw(tmp_path / "a/cat.png")), pictures.place(draw(tmp_path / "b/cat.png", "blue"))
    third = pictures.place(draw(tmp_path / "b/cat.jpg", "blue"))  # another ending, and yet one name for a label file
    assert len({path.stem for path in (first, second, third)}) == 3
    assert all(path.stem.startswith("cat") for path in (first, second, third))


def test_what_lies_there_is_not_written_over(tmp_path: Path):
    mine = draw(tmp_path / "out/cat.png", "blue").read_bytes()
    placed = UprightPictures(tmp_path / "out", tmp_path / "out").place(draw(tmp_path / "a/cat.png"))
    assert (tmp_path / "out/cat.png").read_bytes() == mine
    assert plain_stem(placed.name) == "cat" and placed.name != "cat.png"


def test_a_copy_of_a_converted_picture_is_called_as_the_picture_was(tmp_path: Path):
    kept = Pictures(tmp_path / "records").keep(draw(tmp_path / "a/cat.png"), "cat.png").path
    assert kept.name != "cat.png" and plain_stem(kept.name) == plain_stem("cat.png") == "cat"
    assert UprightPictures(tmp_path / "out", tmp_path / "out").place(kept).name == "cat.png"


@pytest.mark.parametrize("name", ["x" * 50 + ".jpg", "x" * 80 + ".jpg", "a b (1).png", "sub/a.b.png", "-.png"])
def test_long_and_strange_names_have_one_plain_stem(tmp_path: Path, name: str):
    kept = Pictures(tmp_path).keep(draw(tmp_path / "a/cat.png"), name).path
    assert plain_stem(kept.name) in (plain_stem(name), kept.stem)  # the second where nothing of the name could stay


def test_pictures_at_home_stay_where_they_are(tmp_path: Path):
    image = draw(tmp_path / "out/sub/cat.png")
    assert UprightPictures(tmp_path / "out/images", tmp_path / "out").place(image) == image


def test_a_link_that_leads_away_is_copied(tmp_path: Path):
    link = tmp_path / "out/cat.png"
    link.parent.mkdir()
    link.symlink_to(draw(tmp_path / "a/other.png"))
    placed = UprightPictures(tmp_path / "out/images", tmp_path / "out").place(link)
    assert placed == tmp_path / "out/images/cat.png" and not placed.is_symlink()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_a_turned_picture_is_written_anew_and_is_the_same_to_the_eye(tmp_path: Path, suffix: str):
    image = draw_turned(tmp_path / f"a/cat{suffix}")
    placed = UprightPictures(tmp_path / "out", tmp_path).place(image)
    seen = open_image(image)
    with Image.open(placed) as raw:
        assert raw.size == seen.size and not raw.getexif()
    if suffix == ".jpg":
        assert placed.name == "cat.jpg"
        off = np.asarray(open_image(placed), float) - np.asarray(seen, float)
        assert 10 * np.log10(255**2 / np.mean(off**2)) > 42  # dB; 40 is taken for not to be told apart
    else:
        assert placed.name == "cat.png" and pixel_digest(open_image(placed)) == pixel_digest(seen)


def test_where_pictures_are_paired_with_files_none_may_hide_another_or_lie_turned(tmp_path: Path):
    pictures = UprightPictures(tmp_path, tmp_path, paired=True)
    pictures.place(draw(tmp_path / "cat.png"))
    with pytest.raises(ImageError, match="differs from it only in the ending"):
        pictures.place(draw(tmp_path / "cat.bmp", "blue"))
    with pytest.raises(ImageError, match="export to a new folder"):
        pictures.place(draw_turned(tmp_path / "turned.jpg"))


def test_a_picture_that_is_none_is_told(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"text")
    with pytest.raises(ImageError, match="no picture of a known kind"):
        UprightPictures(tmp_path, tmp_path).place(tmp_path / "a.png")
