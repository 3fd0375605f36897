"""What a page is made of: close-ups and numbers in words."""

from __future__ import annotations

import math

from groundling.geometry.boxes import Boxes
from groundling.geometry.frame import Frame
from groundling.page.page import Region, around, show_change, show_p, show_share

PHOTO = Frame(200, 100)


def test_a_close_up_holds_the_boxes_with_their_margin():
    # 10 x 10 in the middle: 22 x 22 with margins, 50 wide where 2.5 wide as high would be 55.
    region = around([Boxes([[95, 45, 105, 55]], PHOTO)], PHOTO, least=0.1, aspect=2.5)

    assert region == Region(72.5, 39, 55, 22)


def test_a_close_up_stays_inside_the_picture():
    corner = Boxes([[190, 90, 250, 120]], PHOTO)

    region = around([corner], PHOTO, least=0.1, aspect=2.5)

    assert region.left + region.width == PHOTO.width
    assert region.top + region.height == PHOTO.height
    assert around([Boxes([], PHOTO)], PHOTO, least=0.1, aspect=1) == Region(0, 0, 200, 100)


def test_numbers_in_words():
    assert (show_share(0.4124), show_share(math.nan)) == ("0.412", "\N{EN DASH}")
    assert (show_change(0.4124), show_change(-0.4126), show_change(-0.0001)) == ("+0.412", "-0.413", "0.000")
    assert (show_p(0.00009), show_p(0.0321), show_p(0.5)) == ("< 0.001", "0.032", "0.50")
