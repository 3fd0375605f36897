"""Pictures as a vision tower takes them: resized in 8 bits, cut into patches, made numbers around 0 where the model is.

Until they are with the model, pixels stay bytes: an eighth of the published processors' float32, which also write each
patch twice. The result is theirs: with the `torch` backend what their torchvision backend makes, with `pil` what their
PIL backend does. The two resize differently, by up to a dozen of 256 levels at sharp edges, so a contract says which.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from groundling.dialect.family import ImageBackend
from groundling.geometry.frame import Frame

_CHANNELS = 3


class Patches(NamedTuple):
    """One picture as the model takes it."""

    pixels: torch.Tensor  # (patches, patch * patch * 3) uint8: lines of red, green, blue
    grid: tuple[int, int, int]  # time, rows, columns of patches
    seen: Frame


def resize(picture: Image.Image, size: Frame, backend: ImageBackend) -> np.ndarray:
    """(H, W, 3) uint8 of an RGB picture at another size, bicubic with antialiasing."""
    if backend == "pil":
        return np.asarray(picture.resize(size.size_wh, Image.Resampling.BICUBIC))
    levels = torch.from_numpy(np.array(picture))
    if picture.size == size.size_wh:
        return levels.numpy()
    apart = levels.unsqueeze(0).permute(0, 3, 1, 2)  # seen as (1, 3, H, W), in memory still pixel by pixel: faster
    found = interpolate(apart, (size.height, size.width), mode="bicubic", antialias=True, align_corners=False)
    return found[0].permute(1, 2, 0).numpy()


def cut_patches(levels: np.ndarray, patch: int, merge: int) -> torch.Tensor:
    """(patches, patch * patch * 3) of (H, W, 3) uint8, whose sides are whole visual tokens of `merge` patches.

    The patches of a token stand together, the tokens line by line.
    """
    height, width, _ = levels.shape
    line = np.dtype((np.void, patch * _CHANNELS))  # one patch's pixels of one line move as one item
    lines = np.ascontiguousarray(levels).reshape(height, -1).view(line)
    rows, columns = height // (patch * merge), width // (patch * merge)
    cut = lines.reshape(rows, merge, patch, columns, merge).transpose(0, 3, 1, 4, 2)
    return torch.from_numpy(np.ascontiguousarray(cut).view(np.uint8).reshape(-1, patch * patch * _CHANNELS))


def join_patches(patches: Patches, patch: int, merge: int) -> np.ndarray:
    """(H, W, 3) uint8 of a picture cut into patches: `cut_patches` undone."""
    _, rows, columns = patches.grid
    cut = patches.pixels.numpy().reshape(rows // merge, columns // merge, merge, merge, patch, patch, _CHANNELS)
    return cut.transpose(0, 2, 4, 1, 3, 5, 6).reshape(rows * patch, columns * patch, _CHANNELS)


def normalise(pixels: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor, moments: int) -> torch.Tensor:
    """(patches, 3 * moments * patch * patch) float32, (level - mean) / deviation, of uint8 pixels on their device.

    `mean` and `deviation` are of levels 0..255 by channel. A still picture is the same at each of its `moments`.
    """
    count = len(pixels)
    channels = pixels.view(count, -1, _CHANNELS).transpose(1, 2).contiguous().float()
    channels.sub_(mean.to(pixels.device)[:, None]).div_(deviation.to(pixels.device)[:, None])
    return channels.unsqueeze(2).expand(-1, -1, moments, -1).reshape(count, -1)
