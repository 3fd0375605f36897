"""The image door: whatever comes in leaves upright, RGB, 8 bits, on white, or is refused with a reason."""

from __future__ import annotations

import io
import json
import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from cameras import STORING, as_stored, exif
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from groundling.errors import ImageError
from groundling.geometry import images
from groundling.geometry.frame import Frame
from groundling.geometry.images import (
    IMAGE_POLICY,
    open_image,
    pixel_digest,
    read_frame,
    read_header,
    refuse_unreadable,
    turn_image,
)

RED = (255, 0, 0)


def pixels(image: Image.Image) -> list[list[list[int]]]:
    """(H, W, 3) as nested lists, so that a failure shows them."""
    return np.asarray(image).tolist()


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    with io.BytesIO() as out:
        image.save(out, kind, **options)
        return out.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def handmade_png(color: int, depth: int, size_wh: tuple[int, int], rows: list[bytes], *chunks: bytes) -> bytes:
    """A PNG as its specification writes it; `chunks` come between the header and the pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *size_wh, depth, color, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + body + png_chunk(b"IEND", b"")


# ---- orientation -----------------------------------------------------------------------------------------------


def marked_photo() -> Image.Image:
    """32x24 white, with one red pixel at the top left corner of the box [20, 5, 30, 15]."""
    photo = Image.new("RGB", (32, 24), "white")
    photo.putpixel((20, 5), RED)
    return photo


@pytest.mark.parametrize("orientation", STORING)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_the_corner_of_a_box_is_the_same_pixel_for_every_orientation(orientation: int, kind: str) -> None:
    stored = as_stored(marked_photo(), orientation)
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(stored, kind, exif=exif(orientation), **options)

    upright = open_image(data)

    assert upright.getpixel((20, 5)) == RED
    assert pixels(upright) == pixels(marked_photo())
    assert read_frame(data) == Frame(32, 24)
    assert read_header(data) == (Frame(32, 24), orientation)
    assert read_header(data).stored == Frame(*stored.size)


@pytest.mark.parametrize("orientation", STORING)
def test_a_jpeg_is_turned_too(orientation: int) -> None:
    photo = Image.new("RGB", (64, 32), "white")
    photo.paste(RED, (48, 0, 64, 8))
    data = encoded(as_stored(photo, orientation), "JPEG", exif=exif(orientation), quality=95, subsampling=0)
    upright = open_image(data)
    np.testing.assert_allclose(np.asarray(upright).astype(int), np.asarray(photo).astype(int), atol=12)
    assert read_frame(data).size_wh == upright.size == (64, 32)


@pytest.mark.parametrize("orientation", STORING)
def test_a_picture_is_turned_as_its_orientation_says(orientation: int) -> None:
    photo = marked_photo()
    assert pixels(turn_image(as_stored(photo, orientation), orientation)) == pixels(photo)
    assert (turn_image(photo, orientation) is photo) == (orientation == 1)


def test_orientation_six_by_hand() -> None:
    stored = Image.new("RGB", (2, 1), "white")  # turned a quarter clockwise, its left end comes up
    stored.putpixel((0, 0), RED)
    assert pixels(open_image(encoded(stored, "PNG", exif=exif(6)))) == [[[255, 0, 0]], [[255, 255, 255]]]


def test_an_orientation_after_the_pixels_of_a_png_counts() -> None:
    late = png_chunk(b"eXIf", exif(6).tobytes().removeprefix(b"Exif\0\0"))
    data = encoded(Image.new("RGB", (3, 2)), "PNG")
    data = data[:-12] + late + data[-12:]  # the closing chunk takes 12 bytes
    assert read_frame(data) == Frame(2, 3)
    assert open_image(data).size == (2, 3)


def test_reading_the_size_of_a_png_decodes_nothing() -> None:
    data = encoded(Image.effect_noise((64, 48), 50), "PNG")
    assert read_frame(data[: len(data) // 2]) == Frame(64, 48)


@pytest.mark.parametrize(
    "damage", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0junk", b"Exif\0\0MM\0*\0\0\0\x08\0\x09"]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_loses_no_picture(damage: bytes) -> None:
    data = encoded(Image.new("RGB", (3, 2)), "JPEG", exif=damage)
    assert open_image(data).size == (3, 2)
    assert read_frame(data) == Frame(3, 2)


@pytest.mark.parametrize("value", [0, 9, 600])
def test_an_impossible_orientation_is_none(value: int) -> None:
    assert open_image(encoded(Image.new("RGB", (3, 2)), "PNG", exif=exif(value))).size == (3, 2)


def test_what_came_out_is_not_turned_again() -> None:
    once = open_image(encoded(marked_photo().transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif(6)))
    assert pixels(open_image(once)) == pixels(once)
    assert once.info == {}
    assert open_image(once) is not once


# ---- alpha -----------------------------------------------------------------------------------------------------


def test_what_is_clear_becomes_white() -> None:
    clear_red, half_black, solid = (255, 0, 0, 0), (0, 0, 0, 128), (1, 2, 3, 255)
    image = Image.new("RGBA", (3, 1))
    for x, color in enumerate((clear_red, half_black, solid)):
        image.putpixel((x, 0), color)
    expected = [[[255, 255, 255], [127, 127, 127], [1, 2, 3]]]
    for source in (image, encoded(image, "PNG"), encoded(image, "WEBP", lossless=True, exact=True), np.asarray(image)):
        assert pixels(open_image(source)) == expected


def test_clear_grey_becomes_white() -> None:
    grey = Image.merge("LA", [Image.new("L", (1, 1), 7), Image.new("L", (1, 1), 0)])
    assert pixels(open_image(encoded(grey, "PNG"))) == [[[255, 255, 255]]]


def test_the_clear_color_of_a_palette_becomes_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        assert pixels(open_image(encoded(image, kind, transparency=0))) == [[[255, 255, 255], [0, 0, 255]]]


@pytest.mark.parametrize(
    ("color", "depth", "row", "clear", "expected"),
    [
        (2, 8, bytes([5, 6, 7, 8, 9, 10]), (5, 6, 7), [[255, 255, 255], [8, 9, 10]]),
        (0, 8, bytes([5, 6]), (5,), [[255, 255, 255], [6, 6, 6]]),
        (0, 16, struct.pack(">2H", 100, 65535), (100,), [[255, 255, 255], [255, 255, 255]]),
    ],
)
def test_the_one_clear_color_of_a_png_becomes_white(
    color: int, depth: int, row: bytes, clear: tuple[int, ...], expected: list[list[int]]
) -> None:
    chunk = png_chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear))
    assert pixels(open_image(handmade_png(color, depth, (2, 1), [row], chunk))) == [expected]


# ---- depth and color -------------------------------------------------------------------------------------------


def test_sixteen_bits_become_eight() -> None:
    levels = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)  # 257 is 65535 / 255
    expected = [[[0] * 3, [1] * 3, [128] * 3, [255] * 3]]
    pgm = b"P5 4 1 65535\n" + levels.astype(">u2").tobytes()
    for source in (levels, encoded(Image.fromarray(levels), "PNG"), encoded(Image.fromarray(levels), "TIFF"), pgm):
        assert pixels(open_image(source)) == expected
    assert pixels(open_image(Image.fromarray(levels.astype(np.int32)))) == expected
    big_endian = Image.frombytes("I;16B", (4, 1), levels.astype(">u2").tobytes())
    assert pixels(open_image(big_endian)) == expected


def test_twelve_bits_of_a_tiff_become_eight() -> None:
    """Two levels, 0 and 4095, packed in three bytes; the tag BitsPerSample says 12."""
    tags = [(256, 3, 2), (257, 3, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 110), (277, 3, 1), (278, 3, 1)]
    entries = [struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in [*tags, (279, 4, 3)]]
    ifd = struct.pack("<H", len(entries)) + b"".join(entries) + b"\0\0\0\0"
    data = (b"II*\0" + struct.pack("<I", 8) + ifd).ljust(122, b"\0") + bytes([0x00, 0x0F, 0xFF])
    data = data.replace(struct.pack("<HHII", 273, 4, 1, 110), struct.pack("<HHII", 273, 4, 1, 122))
    assert pixels(open_image(data)) == [[[0, 0, 0], [255, 255, 255]]]


def test_sixteen_bit_colors_of_an_array() -> None:
    levels = np.array([[[0, 32768, 65535, 65535]]], dtype=np.uint16)
    assert pixels(open_image(levels)) == [[[0, 128, 255]]]
    assert pixels(open_image(levels[:, :, :3])) == [[[0, 128, 255]]]


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("YCbCr", (255, 128, 128), (255, 255, 255)),
        ("LAB", (255, 128, 128), (255, 255, 255)),
    ],
)
def test_other_color_modes(mode: str, color: int | tuple[int, ...], expected: tuple[int, int, int]) -> None:
    assert open_image(Image.new(mode, (2, 2), color)).getpixel((1, 1)) == pytest.approx(expected, abs=2)


def test_the_first_frame_of_an_animation() -> None:
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    for kind, options in (("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
        data = encoded(red, kind, save_all=True, append_images=[blue], **options)
        assert open_image(data).getpixel((0, 0)) == RED


# ---- refused ---------------------------------------------------------------------------------------------------


def test_floats_are_refused() -> None:
    with pytest.raises(ImageError, match="floating-point numbers has no known white; save it with 8 or 16 bits"):
        open_image(encoded(Image.new("F", (4, 4), 0.5), "TIFF"))


def test_levels_beyond_sixteen_bits_are_refused() -> None:
    for level in (-1, 65536):
        with pytest.raises(ImageError, match="beyond 16 bits"):
            open_image(Image.new("I", (2, 2), level))
    with pytest.raises(ImageError, match="beyond 16 bits"):
        open_image(encoded(Image.new("I", (2, 2), 5), "TIFF"))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), dtype=np.float32),
        np.zeros((4, 4), dtype=bool),
        np.zeros((4, 4, 2), dtype=np.uint8),
        np.zeros((3, 4, 4, 3), dtype=np.uint8),
        np.zeros((0, 4, 3), dtype=np.uint8),
    ],
)
def test_an_array_that_is_no_picture_is_refused(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"array of shape .*expected \(H, W\), \(H, W, 3\) or \(H, W, 4\)"):
        open_image(array)


def test_what_is_no_source_is_refused() -> None:
    with pytest.raises(ImageError, match="None: expected a path, bytes, a PIL picture or an array, not NoneType"):
        open_image(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["http://example.com/a.jpg", "https://example.com/a.jpg"])
def test_web_addresses_are_refused(address: str) -> None:
    with pytest.raises(ImageError, match="not fetched from the web; download it"):
        open_image(address)


def test_files_that_are_no_pictures_are_named(tmp_path: Path) -> None:
    drawing, empty = tmp_path / "drawing.jpg", tmp_path / "empty.png"
    drawing.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    empty.touch()
    for path, reason in [
        (drawing, "no picture of a known kind"),
        (empty, "the file is empty"),
        (tmp_path / "none.png", "no such file"),
        (tmp_path, "no such file"),
        (tmp_path / ("x" * 300), "cannot be read"),
    ]:
        for read in (open_image, read_frame):
            with pytest.raises(ImageError) as caught:
                read(path)
            assert str(caught.value).startswith(f"{path}: {reason}")


def test_postscript_is_not_run() -> None:
    with pytest.raises(ImageError, match="no picture of a known kind"):
        open_image(encoded(Image.new("RGB", (4, 4)), "EPS"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM"])
def test_a_cut_off_file_is_refused(kind: str) -> None:
    data = encoded(Image.effect_noise((64, 64), 60).convert("RGB"), kind)
    with pytest.raises(ImageError):
        open_image(data[: len(data) * 3 // 4])


def test_heic_without_its_extra_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    start = struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic"
    with pytest.raises(ImageError, match=r'pip install "groundling\[heif\]"'):
        open_image(start)


# ---- limits ----------------------------------------------------------------------------------------------------


def test_the_limit_holds_for_every_source(tmp_path: Path) -> None:
    image = Image.new("RGB", (11, 10))
    path = tmp_path / "eleven.png"
    image.save(path)
    for source in (path, str(path), path.read_bytes(), image, np.asarray(image)):
        assert open_image(source, max_pixels=110).size == (11, 10)
        for read in (open_image, read_frame):
            with pytest.raises(ImageError, match="11x10 is 110 pixels, more than the 109 allowed; raise max_pixels"):
                read(source, max_pixels=109)


def claimed_size_png(width: int, height: int) -> bytes:
    return handmade_png(0, 1, (width, height), [b""])


def test_a_header_that_claims_too_much_is_refused_before_decoding() -> None:
    for data in (
        claimed_size_png(30_000, 30_000),
        b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0) + b",\0\0\0\0\x01\0\x01\0\0\x02\0;",
        # a small screen whose first frame is huge, and is to be disposed of
        b"GIF89a\x01\0\x01\0\0\0\0!\xf9\x04\x08\0\0\0\0,\0\0\0\0" + struct.pack("<HH", 60_000, 60_000) + b"\0\x02\0;",
    ):
        for read in (open_image, read_frame):
            with pytest.raises(ImageError, match="claims more than the 100000000 pixels allowed"):
                read(data)


def test_a_raised_limit_goes_beyond_that_of_pillow() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_frame(claimed_size_png(20_000, 10_000), max_pixels=200_000_000) == Frame(20_000, 10_000)
        assert read_frame(claimed_size_png(10_000, 9_900)) == Frame(10_000, 9_900)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_large_picture_is_decoded_without_a_warning(kind: str) -> None:
    data = encoded(Image.new("1", (10_000, 9_000)), kind, **({"compression": "group4"} if kind == "TIFF" else {}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(data, max_pixels=90_000_000).size == (10_000, 9_000)


def test_the_limit_of_pillow_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12345)
    read_frame(claimed_size_png(400, 300))
    with pytest.raises(ImageError):
        open_image(b"no picture")
    assert Image.MAX_IMAGE_PIXELS == 12345


def test_threads_may_read_at_once() -> None:
    data = encoded(marked_photo(), "PNG")
    with ThreadPoolExecutor(4) as pool:
        digests = set(pool.map(lambda _: pixel_digest(open_image(data)), range(64)))
    assert len(digests) == 1
    assert not isinstance(Image.MAX_IMAGE_PIXELS, images._HardLimit)


def test_too_long_a_picture_is_refused() -> None:
    assert open_image(Image.new("RGB", (200, 1))).size == (200, 1)
    for size_wh in ((201, 1), (1, 201)):
        with pytest.raises(ImageError, match="longer than 200 times its shorter side; cut it into pieces"):
            open_image(Image.new("RGB", size_wh))


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(ImageError, match="0x5: a picture has at least one pixel"):
        open_image(Image.new("RGB", (0, 5)))


# ---- digests, properties, real files ---------------------------------------------------------------------------


def test_a_digest_is_of_the_pixels_and_the_size() -> None:
    image = open_image(Image.effect_noise((6, 4), 50))
    assert pixel_digest(image) == pixel_digest(open_image(encoded(image, "PNG")))
    assert pixel_digest(image) == pixel_digest(open_image(encoded(image, "BMP")))
    black = {pixel_digest(Image.new("RGB", size_wh)) for size_wh in ((6, 4), (4, 6), (24, 1))}
    assert len(black) == 3
    with pytest.raises(ImageError, match="mode L; pass it through open_image"):
        pixel_digest(Image.new("L", (2, 2)))


def test_the_policy_of_a_contract() -> None:
    assert IMAGE_POLICY["orientation"] == "upright"
    assert IMAGE_POLICY["alpha"] == "white"


@given(
    width=st.integers(1, 20),
    height=st.integers(1, 20),
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA"]),
    orientation=st.integers(1, 8),
)
def test_header_and_pixels_agree_on_the_size(width: int, height: int, mode: str, orientation: int) -> None:
    data = encoded(Image.new(mode, (width, height)), "PNG", exif=exif(orientation))
    image = open_image(data)
    assert read_frame(data).size_wh == image.size
    assert image.mode == "RGB"


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM"]),
    place=st.floats(0, 1, exclude_max=True),
    junk=st.binary(min_size=1, max_size=8),
)
@pytest.mark.filterwarnings("ignore")
def test_random_damage_is_an_image_error_or_a_picture(kind: str, place: float, junk: bytes) -> None:
    data = bytearray(encoded(Image.linear_gradient("L").resize((24, 16)), kind))
    start = int(place * len(data))
    data[start : start + len(junk)] = junk
    try:
        assert open_image(bytes(data), max_pixels=1_000_000).mode == "RGB"
    except ImageError as error:
        assert str(error).startswith("a picture of ")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_real_awkward_files(shared_data: Path) -> None:
    folder = shared_data / "awkward"
    for line in (folder / "files.jsonl").read_text().splitlines():
        expected = json.loads(line)
        if expected["file"].endswith(".heic"):
            continue  # needs the extra `heif`
        source = folder / expected["file"]
        if not expected.get("loads"):
            with pytest.raises(ImageError, match=source.name):
                open_image(source)
            continue
        image = open_image(source)
        assert image.mode == "RGB"
        assert list(image.size) == list(read_frame(source).size_wh) == expected["upright_size"], source.name


def test_real_heic_files(shared_data: Path) -> None:
    pytest.importorskip("pillow_heif", reason="needs the extra heif")
    folder = shared_data / "awkward"
    for name, size_wh in (("arrow.heic", (3024, 4032)), ("xiaomi.heic", (2592, 1944)), ("invalid_id.heic", (564, 870))):
        assert open_image(folder / name).size == read_frame(folder / name).size_wh == size_wh
    with pytest.raises(ImageError, match="12240x16320 is 199756800 pixels"):
        open_image(folder / "200MP.heic")


@pytest.mark.parametrize("stem", ["rot", "baiona"])
def test_every_variant_of_one_picture_looks_alike(shared_data: Path, stem: str) -> None:
    """Word boxes hold in all variants, so their pixels may differ by compression and color only."""
    names = sorted(
        {json.loads(line)["image"] for line in (shared_data / "awkward/records.jsonl").read_text().splitlines()}
    )
    opened = [open_image(shared_data / "awkward" / name).convert("L") for name in names if name.startswith(stem)]
    assert len(opened) >= 6
    first = np.asarray(opened[0]).astype(int)
    for other in opened[1:]:
        assert np.abs(np.asarray(other).astype(int) - first).mean() < 12


@pytest.mark.parametrize("options", [{"quality": 80}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpeg_is_refused_unread_wherever_it_would_be_read(options: dict[str, object]) -> None:
    """Cut at any length, and changed anywhere: what says so without making its pixels says what `open_image` says."""
    rng = np.random.default_rng(0)
    saved = io.BytesIO()
    small = Image.fromarray(rng.integers(0, 255, (6, 9, 3), dtype=np.uint8))
    small.resize((180, 120)).save(saved, "JPEG", **options)
    whole = saved.getvalue()
    damaged = [whole[:length] for length in np.linspace(1, len(whole), 40).astype(int).tolist()]
    for place in rng.integers(0, len(whole), 120).tolist():
        damaged.append(whole[:place] + bytes([whole[place] ^ int(rng.integers(1, 256))]) + whole[place + 1 :])
    said = [(_refusal(open_image, content), _refusal(refuse_unreadable, content)) for content in damaged]
    assert [bool(read) for read, _ in said] == [bool(unread) for _, unread in said]
    assert 20 < sum(bool(read) for read, _ in said) < 120, "some can be read, some cannot"


def _refusal(door: Callable[[bytes], object], content: bytes) -> str:
    try:
        door(content)
    except ImageError as error:
        return str(error)
    return ""
