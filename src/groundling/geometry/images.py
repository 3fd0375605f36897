"""The one door through which pictures come in: upright, RGB, 8 bits, the first frame, on white.

Tools differ in what they make of a phone photo, a transparent logo or a 16-bit scan, and a box is only right on the
picture it was drawn on. So every picture, in training, evaluation, prediction and serving, passes `open_image`, and
what it does is part of a checkpoint's contract (`IMAGE_POLICY`).

Orientation values are those of EXIF 2.3, section 4.6.4 A, tag 0x0112; the alpha rule equals the vendor's own
preparation of pictures (pasted on white through their alpha).
"""

from __future__ import annotations

import hashlib
import io
import struct
import threading
import zlib
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from groundling.errors import ImageError, ImageSizeError
from groundling.geometry.frame import Frame
from groundling.geometry.packed import find_packed, read_packed

Source = str | Path | bytes | Image.Image | np.ndarray

IMAGE_POLICY: dict[str, str] = {
    "orientation": "upright",
    "alpha": "white",
    "depth": "scaled to 8 bits",
    "animation": "first frame",
}
"""What `open_image` does to every picture, as a checkpoint's contract tells it."""

MAX_PIXELS = 100_000_000  # of one picture, before decoding: 300 MB as RGB; today's phones make up to 200 million
_RAISE = "raise max_pixels (--max-file-pixels, images.max_file_pixels) if you trust it"
MAX_ASPECT = 200  # the longer side by the shorter; the families' processors refuse more

# No format that runs a program (EPS), draws vectors, or has no mark of its own to be known by (TGA).
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "PPM", "JPEG2000")

_MANY_FRAMES = ("GIF", "PNG", "WEBP", "AVIF", "TIFF")  # not MPO: a phone's JPEG with its gain map

_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 0x0102
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What Pillow's readers raise on bad bytes: the first six on files with random damage (Pillow 13.0, 2026-11-22), the
# others by their sources.
_BAD_DATA = (
    OSError,
    ValueError,
    SyntaxError,
    RuntimeError,
    TypeError,
    ArithmeticError,
    LookupError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
)


def open_image(source: Source, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture, decoded, as `IMAGE_POLICY` says: mode RGB, without metadata; a new one, whatever came in.

    `source` is a path (of a file, or of a row in one: `packed`), a file's bytes, a PIL picture (its current frame,
    turned by its metadata), or an array (H, W), (H, W, 3) or (H, W, 4) of uint8 or uint16. Orientation comes from EXIF
    or XMP; where those are damaged the pixels stay as they are stored. The size is checked before anything is decoded.
    ImageError, naming the file, for whatever cannot be read whole, is too large or too long, holds floats, or lies on
    the web.
    """
    with _opened(source, max_pixels) as image:
        return _decode(image, max_pixels)


class FirstFrame(NamedTuple):
    """A picture as `open_image` gives it, and whether its file holds more: an animation, or further pages."""

    picture: Image.Image
    has_more: bool


def open_first_frame(source: Source, *, max_pixels: int = MAX_PIXELS) -> FirstFrame:
    """As `open_image`, telling whether frames were passed over."""
    with _opened(source, max_pixels) as image:
        has_more = image.format in _MANY_FRAMES and bool(getattr(image, "is_animated", False))  # Pillow 11.3 to 13.0
        return FirstFrame(_decode(image, max_pixels), has_more)


def refuse_unreadable(source: Source, *, max_pixels: int = MAX_PIXELS) -> None:
    """ImageError where `open_image` would raise it, in less time: all bytes of a JPEG are read, few pixels are made."""
    with _opened(source, max_pixels) as image:
        image.draft(None, (1, 1))  # an eighth of each side; only JPEG knows of it
        _decode(image, max_pixels)


def _decode(image: Image.Image, max_pixels: int) -> Image.Image:
    with _pillow_limit(max_pixels) if _area(image) > _PILLOW_LIMIT else nullcontext():
        image.load()
    _check_size(image.size, max_pixels)  # HEIC may say another size than it holds
    orientation = _orientation(image)
    rgb = _to_rgb(image)
    upright = turn_image(rgb, orientation)
    upright.info = {}  # or a second reader would turn it once more
    return upright


def turn_image(image: Image.Image, orientation: int) -> Image.Image:
    """The picture as a viewer turns one that is stored with that EXIF orientation, 1 to 8; `Boxes.turned` follows it.

    1 leaves the picture as it is, the same object.
    """
    return image if orientation == 1 else image.transpose(_TURNS[orientation])


def read_frame(source: Source, *, max_pixels: int = MAX_PIXELS) -> Frame:
    """The size that `open_image` would give, from the header alone: pixels are neither decoded nor checked.

    Only a PNG whose metadata follow its pixels is decoded to find them. ImageError as for `open_image`.
    """
    header = read_header(source, max_pixels=max_pixels)
    return header.upright


class Header(NamedTuple):
    """What a picture's header says: its size once upright, and how it has to be turned to be so."""

    upright: Frame
    orientation: int  # 1 to 8, as in EXIF; 1: it is stored upright

    @property
    def stored(self) -> Frame:
        """Its size as stored, which tools that pass over the orientation see."""
        return self.upright.turned(self.orientation)


def read_header(source: Source, *, max_pixels: int = MAX_PIXELS) -> Header:
    """The upright size and the orientation, from the header alone; the rest as `read_frame`."""
    with _opened(source, max_pixels) as image:
        frame, orientation = Frame(*image.size), _orientation(image)
        is_upright = image.format == "TIFF"  # Pillow swaps the sides of a TIFF while it reads the header
    return Header(frame if is_upright else frame.turned(orientation), orientation)


def pixel_digest(image: Image.Image) -> str:
    """SHA-256, in hex, of the size and the pixels of a picture from `open_image`: equal for any lossless copy."""
    if image.mode != "RGB":
        raise ImageError(f"a digest is of an upright RGB picture, not of mode {image.mode}; pass it through open_image")
    digest = hashlib.sha256(f"{image.width}x{image.height}\n".encode("ascii"))
    digest.update(image.tobytes())
    return digest.hexdigest()


# ---- opening ---------------------------------------------------------------------------------------------------


@contextmanager
def _opened(source: Source, max_pixels: int) -> Generator[Image.Image, None, None]:
    """The picture with its header read and its size checked; bad data, here or in the body, becomes an ImageError."""
    name = _name(source)
    try:
        with _stream(source) as stream:
            image = _from_memory(source) if stream is None else _read_header(stream, max_pixels)
            _check_size(image.size, max_pixels)
            yield image
    except ImageError as error:
        raise type(error)(f"{name}: {error}") from None
    except Image.DecompressionBombError:
        raise ImageSizeError(f"{name}: its header claims more than the {max_pixels} pixels allowed; {_RAISE}") from None
    except UnidentifiedImageError:
        raise ImageError(
            f"{name}: no picture of a known kind ({', '.join(FORMATS)}), or its header is damaged"
        ) from None
    except _BAD_DATA as error:
        raise ImageError(f"{name}: cannot be read: {error or type(error).__name__}") from error


def _name(source: Source) -> str:
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, bytes):
        return f"a picture of {len(source)} bytes"
    if isinstance(source, np.ndarray):
        return f"an array of shape {source.shape} and type {source.dtype}"
    if isinstance(source, Image.Image):
        return f"a PIL picture of mode {source.mode}"
    return repr(source)  # whoever passes something else is told so by _from_memory


def _stream(source: Source) -> IO[bytes] | nullcontext[None]:
    """The bytes of a file; nothing for a picture that is in memory already."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not isinstance(source, str | Path):
        return nullcontext()
    if str(source).startswith(("http://", "https://")):
        raise ImageError("pictures are not fetched from the web; download it and give the file")
    if Path(source).is_file():
        return Path(source).open("rb")
    packed = find_packed(source)
    if packed is None:
        raise ImageError("no such file")
    return io.BytesIO(read_packed(packed))


def _from_memory(source: Source) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if not isinstance(source, np.ndarray):
        raise ImageError(f"expected a path, bytes, a PIL picture or an array, not {type(source).__name__}")
    is_picture = source.ndim == 2 or (source.ndim == 3 and source.shape[2] in (3, 4))
    if not is_picture or source.size == 0 or source.dtype.name not in ("uint8", "uint16"):
        raise ImageError("expected (H, W), (H, W, 3) or (H, W, 4) of uint8 or uint16, with at least one pixel")
    return Image.fromarray(source if source.dtype == np.uint8 else _eight_bits(source, bits=16))


def _read_header(stream: IO[bytes], max_pixels: int) -> Image.Image:
    start = stream.read(64)
    stream.seek(0)
    if not start:
        raise ImageError("the file is empty")
    if _is_heif(start):
        return _read_heif_header(stream)
    with _pillow_limit(max_pixels):
        return Image.open(stream, formats=FORMATS)


def _is_heif(start: bytes) -> bool:
    """Whether a file's first bytes are those of HEIC and kin, by the brands in its `ftyp` box (ISO/IEC 23008-12)."""
    brands = start[8 : int.from_bytes(start[:4], "big")]
    is_avif = b"avif" in brands or b"avis" in brands
    return (
        start[4:8] == b"ftyp" and not is_avif and brands[:4] in (b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1")
    )


def _read_heif_header(stream: IO[bytes]) -> Image.Image:
    try:
        from pillow_heif import HeifImageFile  # pyright: ignore[reportMissingImports, reportUnknownVariableType]
    except ImportError:
        raise ImageError('HEIC pictures need an extra: pip install "groundling[heif]"') from None
    image: Image.Image = HeifImageFile(stream)
    return image


def _check_size(size_wh: tuple[int, int], max_pixels: int) -> None:
    width, height = size_wh
    if min(size_wh) < 1:
        raise ImageError(f"{width}x{height}: a picture has at least one pixel")
    if width * height > max_pixels:
        raise ImageSizeError(
            f"{width}x{height} is {width * height} pixels, more than the {max_pixels} allowed; {_RAISE}"
        )
    if max(size_wh) > MAX_ASPECT * min(size_wh):
        raise ImageSizeError(f"{width}x{height} is longer than {MAX_ASPECT} times its shorter side; cut it into pieces")


def _area(image: Image.Image) -> int:
    return image.width * image.height


_PILLOW_LIMIT = 1024**3 // 4 // 3  # Pillow's own default for Image.MAX_IMAGE_PIXELS
_PILLOW_LIMIT_LOCK = threading.Lock()


class _HardLimit(int):
    """A limit that Pillow refuses to pass: above a plain one it only warns, and refuses above two times that."""

    def __rmul__(self, factor: int) -> int:
        return int(self)


@contextmanager
def _pillow_limit(max_pixels: int) -> Generator[None, None, None]:
    """Holds Pillow's one global limit at ours: some of its readers allocate while they read a header (GIF, WebP)."""
    with _PILLOW_LIMIT_LOCK:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = _HardLimit(max(max_pixels, _PILLOW_LIMIT))
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


# ---- upright ---------------------------------------------------------------------------------------------------


def _orientation(image: Image.Image) -> int:
    """The EXIF or XMP orientation, 1..8; 1 (as stored) where the metadata are damaged or say something else."""
    try:
        value = _metadata(image).get(_ORIENTATION, 1)
    except _BAD_DATA:
        return 1
    return value if value in _TURNS else 1


def _metadata(image: Image.Image) -> Image.Exif:
    """EXIF, or XMP in its form; a PNG that is still in its file is decoded only if metadata follow its pixels."""
    if isinstance(image, PngImagePlugin.PngImageFile) and image.fp is not None and not _has_late_metadata(image.fp):
        return Image.Image.getexif(image)  # PngImageFile's own decodes every PNG without EXIF
    return image.getexif()


def _has_late_metadata(png: IO[bytes]) -> bool:
    """Whether a PNG file holds text or EXIF after its first pixels, by the names of its chunks."""
    place = png.tell()
    png.seek(len(b"\x89PNG\r\n\x1a\n"))
    has_pixels = has_late = False
    while not has_late and len(head := png.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        has_pixels = has_pixels or kind == b"IDAT"
        has_late = has_pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
        png.seek(length + 4, io.SEEK_CUR)
    png.seek(place)
    return has_late


# ---- RGB, 8 bits, on white -------------------------------------------------------------------------------------


def _to_rgb(image: Image.Image) -> Image.Image:
    """A new picture of mode RGB; ImageError where nothing says which level is white."""
    if image.mode == "F":
        raise ImageError("a picture of floating-point numbers has no known white; save it with 8 or 16 bits a channel")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _deep_grey_to_rgb(image)
    if image.has_transparency_data:
        return _on_white(image.convert("RGBA"))
    return image.convert("RGB")


def _on_white(rgba: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", rgba.size, "white")
    canvas.paste(rgba, mask=rgba.getchannel("A"))
    return canvas


def _deep_grey_to_rgb(image: Image.Image) -> Image.Image:
    """A grey picture of more than 8 bits, its whole range scaled to 0..255; a PNG's one clear level becomes white."""
    levels = np.asarray(image)
    bits = _depth(image)
    if bits > 16 or levels.min() < 0 or levels.max() > 65535:
        raise ImageError("grey levels beyond 16 bits have no known white; save it with 8 or 16 bits a channel")
    grey = _eight_bits(levels, bits)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey = np.where(levels == clear, np.uint8(255), grey)
    return Image.fromarray(grey).convert("RGB")


def _depth(image: Image.Image) -> int:
    """Bits of a deep grey level: as the TIFF tag BitsPerSample says, 16 for PNG, PGM and JPEG 2000 (Pillow scales)."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0])
    return 16


def _eight_bits(levels: np.ndarray, bits: int) -> np.ndarray:
    """uint8 of the same shape: 0..2**bits - 1 to 0..255, rounded; by table, since a large picture has few levels."""
    table = np.arange(65536) * (255 / (2**bits - 1))
    return np.minimum(table.round(), 255).astype(np.uint8)[levels]
