"""Patches: resized and normalised as the published processors do it, cut and joined without loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from families import build_family_processor, draw_noise
from PIL import Image
from torch.nn.functional import interpolate

from groundling.dialect.family import FAMILIES
from groundling.geometry.frame import Frame
from groundling.model.contract import Contract
from groundling.model.patches import cut_patches, join_patches, normalise, resize
from groundling.model.processor import Processor

SIZES = 400  # pictures compared; each at a budget of its own


@pytest.fixture(params=list(FAMILIES))
def processor(request: pytest.FixtureRequest) -> Processor:
    return build_family_processor(request.param)


def draw_pictures(count: int, seed: int) -> Iterator[tuple[Image.Image, int]]:
    """Pictures of all sorts of sizes, rough and smooth, and a budget of visual tokens for each."""
    rng = np.random.default_rng(seed)
    for width, height in np.exp(rng.uniform(np.log(5), np.log(600), size=(count, 2))).astype(int).tolist():
        rough = draw_noise(rng, width, height)
        picture = (
            rough if rng.random() < 0.5 else rough.resize((2, 2)).resize((width, height), Image.Resampling.BICUBIC)
        )
        yield picture, int(rng.choice([1, 4, 16, 64, 256]))


def with_backend(processor: Processor, backend: str, tokens: int) -> Processor:
    values = processor.contract.with_max_tokens(tokens).to_json() | {"image_backend": backend}
    return processor.with_contract(Contract(**values))


def check_against(published: Any, processor: Processor, backend: str, count: int) -> None:
    """Grids equal and pixels within 1e-6 of a published image processor's, picture by picture."""
    for number, (picture, tokens) in enumerate(draw_pictures(count, seed=len(backend))):
        ours = with_backend(processor, backend, tokens)
        published.size = ours.images.size
        expected = published(images=[picture], return_tensors="pt")

        patches = ours.see(picture)
        values = ours.normalise({"pixels": patches.pixels})["pixel_values"]

        assert [list(patches.grid)] == expected["image_grid_thw"].tolist()
        difference = (values - expected["pixel_values"]).abs().max().item()
        assert difference <= 1e-6, f"{difference} in picture {number}, {picture.size} at {tokens} tokens"


def test_the_pil_backend_is_transformers_pil_backend(processor: Processor):
    check_against(processor.images.__class__.from_dict(processor.images.to_dict()), processor, "pil", SIZES)


def test_the_torch_backend_is_transformers_torchvision_backend(processor: Processor):
    pytest.importorskip("torchvision", reason="compares with the published processors' torchvision backend")
    from transformers import Qwen2VLImageProcessor

    values = processor.images.to_dict()
    published = Qwen2VLImageProcessor(patch_size=values["patch_size"], merge_size=values["merge_size"])
    check_against(published, processor, "torch", SIZES)


def test_the_torch_backend_rounds_what_floating_point_resizes():
    """Also without torchvision: on middling levels, which no pass of the filter has to clip, within rounding."""
    for picture, tokens in draw_pictures(200, seed=1):
        middling = picture.point(lambda level: level // 4 + 96)
        size = build_family_processor("qwen2_5_vl", max_tokens=tokens).expect(Frame(*picture.size)).seen
        levels = torch.from_numpy(np.array(middling)).permute(2, 0, 1).unsqueeze(0).double()
        exact = interpolate(levels, (size.height, size.width), mode="bicubic", antialias=True)[0].permute(1, 2, 0)

        found = torch.from_numpy(resize(middling, size, "torch")).double()

        assert (found - exact).abs().max() <= 1.5, f"{picture.size} to {size}: half a level for each of two passes"


@pytest.mark.parametrize("backend", ["torch", "pil"])
def test_a_picture_of_the_right_size_stays_as_it_is(backend: Any):
    picture = draw_noise(np.random.default_rng(0), 56, 28)

    assert np.array_equal(resize(picture, Frame(56, 28), backend), np.asarray(picture))


def test_patches_by_hand():
    """Two visual tokens of 2 x 2 patches of 2 x 2 pixels, each pixel's levels telling its place."""
    lines, columns = np.mgrid[0:4, 0:8]
    levels = np.stack([lines, columns, lines * 0 + 9], axis=-1).astype(np.uint8)

    found = cut_patches(levels, patch=2, merge=2).reshape(8, 4, 3)

    assert found[:, 0, :2].tolist() == [[0, 0], [0, 2], [2, 0], [2, 2], [0, 4], [0, 6], [2, 4], [2, 6]]
    assert found[3, :, :2].tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]], "line by line"
    assert (found[:, :, 2] == 9).all()


def test_patches_join_to_the_picture_they_were_cut_from(processor: Processor):
    picture = draw_noise(np.random.default_rng(0), 300, 170)
    patches = processor.see(picture)
    family = processor.family

    whole = join_patches(patches, family.patch, family.merge)

    assert np.array_equal(whole, resize(picture, patches.seen, "torch"))
    assert not np.shares_memory(whole, np.asarray(picture))


def test_normalising_by_hand():
    pixels = torch.tensor([[0, 10, 20, 30, 40, 50]], dtype=torch.uint8)  # one patch of two pixels

    found = normalise(pixels, torch.tensor([0.0, 10.0, 20.0]), torch.tensor([1.0, 2.0, 5.0]), moments=2)

    assert found.tolist() == [[0, 30, 0, 30, 0, 15, 0, 15, 0, 6, 0, 6]], "channels apart, each patch twice"
    assert found.dtype == torch.float32
