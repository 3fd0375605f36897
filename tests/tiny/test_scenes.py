"""Drawn scenes: their boxes are exact, which everything taught and measured on them stands on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from PIL import Image, ImageDraw

from groundling.tiny.scenes import (
    CANVAS,
    ICONS,
    SHAPES,
    Ground,
    Paint,
    Scene,
    draw_screen,
    draw_shapes,
    panel,
    plain,
    shade,
)


@pytest.mark.parametrize(("name", "paint"), [*SHAPES.items(), *ICONS.items()])
@pytest.mark.parametrize("box", [(10, 20, 60, 80), (0, 0, 36, 48), (100, 150, 200, 224)])
def test_what_is_painted_fills_its_box_to_the_pixel(name: str, paint: Paint, box: tuple[int, int, int, int]) -> None:
    picture = Image.new("RGB", (CANVAS, CANVAS), (0, 0, 0))
    paint(ImageDraw.Draw(picture), box, (255, 255, 255))
    found = picture.getbbox()
    assert found is not None
    assert np.abs(np.subtract(found, box)).max() <= 1, f"{name} painted {found} into {box}"


@pytest.mark.parametrize("draw", [draw_shapes, partial(draw_shapes, blobs=1.0), draw_screen])
def test_objects_have_names_of_their_own_and_keep_apart(draw: Callable[[np.random.Generator], Scene]) -> None:
    for seed in range(50):
        objects = draw(np.random.default_rng(seed)).objects
        assert len({placed.name for placed in objects}) == len(objects) >= 1
        taken = np.zeros((CANVAS, CANVAS), dtype=int)
        for left, top, right, bottom in (placed.box for placed in objects):
            assert 0 <= left < right <= CANVAS and 0 <= top < bottom <= CANVAS
            taken[top:bottom, left:right] += 1
        assert taken.max() == 1


def test_a_seed_draws_the_same_scene() -> None:
    one, other = (draw_screen(np.random.default_rng(5)) for _ in range(2))
    assert one.objects == other.objects and one.picture.tobytes() == other.picture.tobytes()


def test_blobs_come_in_the_share_that_is_asked_for() -> None:
    scenes = [draw_shapes(np.random.default_rng(seed), most=1, blobs=0.5) for seed in range(200)]
    assert 70 <= sum(scene.objects[-1].name == "" for scene in scenes) <= 130
    assert all(scene.objects[0].name for scene in scenes)


@pytest.mark.parametrize("ground", [plain, shade, panel])
def test_a_shape_stands_out_from_every_ground(ground: Ground) -> None:
    bare = np.asarray(ground(np.random.default_rng(3)), dtype=int)
    scene = draw_shapes(np.random.default_rng(3), most=1, grounds=(ground,))
    left, top, right, bottom = scene.objects[0].box
    assert bare.shape == (CANVAS, CANVAS, 3)
    inside = np.abs(np.asarray(scene.picture, dtype=int) - bare)[top:bottom, left:right].max(axis=2)
    assert (inside > 20).mean() > 0.3
