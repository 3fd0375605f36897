"""The cards: what is said of them is in them, and they tell conventions apart."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from planted_eye import find

from groundling.data.formats.chat import resized_to
from groundling.dialect.family import FAMILIES
from groundling.evaluation.cards import SHOWN, Card, draw_cards
from groundling.geometry.frame import Frame
from groundling.geometry.images import read_frame

CARDS = draw_cards()


def test_they_are_the_same_every_time():
    again = draw_cards()
    assert [card.file for card in again] == [card.file for card in CARDS]
    assert len(CARDS) == 2 * len(SHOWN) == 34
    assert [card.question for card in CARDS[:2]] == ["the red square", "the blue circle"]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: f"{card.upright}-{card.orientation}-{card.question[4:]}")
def test_the_thing_is_where_its_box_is(card: Card):
    box, size = find(card.file, "red" if "red" in card.question else "blue", True)
    assert Frame(*map(int, size)) == card.upright == read_frame(card.file)
    np.testing.assert_allclose(box, card.box.xyxy[0], atol=1)  # JPEG blurs an edge by less than a pixel
    left, top, right, bottom = card.box.xyxy[0]
    assert 0 <= left < right <= card.upright.width and 0 <= top < bottom <= card.upright.height
    assert right - left == bottom - top >= 0.3 * min(card.upright.size_wh)


@pytest.mark.parametrize("card", CARDS[::2], ids=lambda card: f"{card.upright}-{card.orientation}")
def test_it_is_stored_as_a_camera_stores_it(card: Card):
    stored = Image.open(io.BytesIO(card.file))
    assert stored.format == "JPEG" and stored.getexif()[0x0112] == card.orientation
    assert Frame(*stored.size) == card.stored
    box, _ = find(card.file, "red", False)
    is_moved = np.abs(np.array(box) - card.box.xyxy[0]).max() > 0.1 * min(card.upright.size_wh)
    assert is_moved == (card.orientation != 1), "an orientation that is not heeded shows"


def test_states_and_sizes_are_all_there():
    assert {orientation for _, _, orientation in SHOWN} == {1, 3, 6, 8}
    areas = [width * height for width, height, _ in SHOWN]
    assert min(areas) < 10_000 and max(areas) > 4_000_000
    aspects = [width / height for width, height, _ in SHOWN]
    assert min(aspects) < 0.3 and max(aspects) > 3


def test_whole_tokens_show_on_small_ones():
    small = [card.upright for card in CARDS[::2] if card.upright.area < 20_000]
    sizes = [
        (frame, resized_to(12_845_056)(frame), resized_to(12_845_056, FAMILIES["qwen3_vl"])(frame)) for frame in small
    ]
    assert len(small) >= 4
    for original, by_28, by_32 in sizes:
        changes = [
            max(abs(a / b - 1) for a, b in zip(one.size_wh, original.size_wh, strict=True)) for one in (by_28, by_32)
        ]
        assert by_28 != by_32 and min(changes) > 0.03
