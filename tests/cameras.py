"""Photographs as a camera stores them: turned, with the EXIF orientation that turns them upright again."""

from __future__ import annotations

from PIL import Image

ORIENTATION = 0x0112  # the EXIF tag (EXIF 2.3, section 4.6.4 A)

# What to do to the upright picture to get the stored one
STORING = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def exif(orientation: int) -> Image.Exif:
    """The metadata that a stored picture carries."""
    metadata = Image.Exif()
    metadata[ORIENTATION] = orientation
    return metadata


def as_stored(upright: Image.Image, orientation: int) -> Image.Image:
    """The pixels as the camera stores them."""
    turn = STORING[orientation]
    return upright if turn is None else upright.transpose(turn)
