"""Words under changes: what a mirror makes of them, and what is refused because it would become false."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundling.data.words import MOVES, RULES, mirror_words, moves_allowed

MIRRORED = {
    "the mug on the left": "the mug on the right",
    "mug on left": "mug on right",
    "The Left-most car": "The Right-most car",
    "the LEFTMOST car": "the RIGHTMOST car",
    "left of the plate": "right of the plate",
    "cup to the right of the bowl, left of the spoon": "cup to the left of the bowl, right of the spoon",
    "the man on the far right": "the man on the far left",
    "top left corner": "top right corner",
    "bottom-left": "bottom-right",
    "the lefthand side": "the righthand side",
    "left-hand side": "right-hand side",
    "the left-handed player": "the right-handed player",
    "left_eye": "right_eye",
    "LeftHand": "RightHand",
    "his left hand": "his right hand",
    "from left to right": "from right to left",
    "dog to the left and right of the man": "dog to the right and left of the man",
    "the second mug from the left": "the second mug from the right",
    "the car turning right": "the car turning left",
    "leftward arrow": "rightward arrow",
    "the man in the right lane": "the man in the left lane",
    "the clockwise arrow": "the counterclockwise arrow",
    "a bright lamp on the right": "a bright lamp on the left",
    "the leftovers": "the leftovers",
    "the upright piano": "the upright piano",
    "the red mug": "the red mug",
    "": "",
}

NO_SIDE_FOR_CERTAIN = [
    *("left", "right", "LEFT", "the right answer", "right now", "turn right now", "a right angle", "all right?"),
    *("what is left of the cake", "the pizza that is left", "she left the car", "the left over pizza", "who left"),
    *("right side up", "the mug right next to the plate", "looking right at the camera", "right in the middle"),
    *(
        "isLeft",
        "on the lEfT",
        "anticlockwise arrow",
        "counter-clockwise arrow",
        "in the right place",
        "right behind it",
    ),
    *("the dog that has left of its own", "he left of course", "on the right track"),
]


@pytest.mark.parametrize(("text", "mirrored"), MIRRORED.items())
def test_sides_change_places_and_go_back(text: str, mirrored: str) -> None:
    assert mirror_words(text) == mirrored
    assert mirror_words(mirrored) == text
    assert ("flip" in moves_allowed(text)) == ("flip" in moves_allowed(mirrored)) is True


@pytest.mark.parametrize("text", NO_SIDE_FOR_CERTAIN)
def test_where_it_is_not_sure_there_is_no_mirror(text: str) -> None:
    assert mirror_words(text) is None
    assert "flip" not in moves_allowed(text)


GEOMETRY = {"crop", "scale", "mosaic"}
REFUSED = {
    "the mug on the left": {"rotate", *GEOMETRY},
    "top_left window": {"rotate", *GEOMETRY},
    "the shelf above the door": {"rotate", *GEOMETRY},
    "the standing man": {"rotate"},
    "the horizontal bar": {"rotate"},
    "the mug in the middle": GEOMETRY,
    "the mug nearest to the camera": GEOMETRY,
    "the mug between the plates": {"crop", "mosaic"},
    "the only mug": {"crop", "mosaic"},
    "two mugs": {"crop", "mosaic"},
    "the largest dog": {"mosaic"},
    "the second mug": set(MOVES),
    "the 2nd mug": set(MOVES),
    "the north end": {"flip", "rotate"},
    "the driver's side": {"flip", *GEOMETRY},
    "an L-shaped desk": {"flip", "rotate"},
    "what is written on the ghost?": {"flip"},
    "what does the sign say": {"flip"},
    "the word STOP": {"flip"},
    'the "EXIT" door': {"flip"},
    "player 23": {"flip", "crop", "mosaic"},
    "what time is it": {"flip"},
    "die linke Tasse": set(MOVES),
    "\u732b": set(MOVES),
    "\u5de6": set(MOVES),
    "caf\u00e9 table": set(),
    "the red mug": set(),
    "laptop": set(),
    "all mugs": set(),
    "every instance that belongs to the following categories: 'cat, dog'": set(),
}


@pytest.mark.parametrize(("text", "refused"), REFUSED.items())
def test_what_words_refuse(text: str, refused: set[str]) -> None:
    assert MOVES - moves_allowed(text) == refused
    assert MOVES - moves_allowed(text.upper()) == refused or "L-shaped" in text


def test_each_rule_has_its_reason_and_refuses_something() -> None:
    assert len({rule.why for rule in RULES}) == len(RULES)
    assert all(rule.refused for rule in RULES)


WORDS = [
    *("left", "right", "Left", "RIGHT", "side", "hand", "most", "-most", "-", "bright", "clockwise"),
    *("the", "on", "to", "of", "and", "from", "top", "mug", "now", "is", "that", "over"),
]


@given(words=st.lists(st.sampled_from(WORDS), max_size=8), gap=st.sampled_from([" ", "_", ", "]))
def test_a_mirror_of_a_mirror_is_the_text_itself(words: list[str], gap: str) -> None:
    text = gap.join(words)
    mirrored = mirror_words(text)

    if mirrored is not None:
        assert mirror_words(mirrored) == text
        assert mirrored.lower().count("left") == text.lower().replace("bright", "").count("right")


@given(text=st.text(max_size=40))
def test_any_text_is_judged(text: str) -> None:
    assert moves_allowed(text) <= MOVES
    assert (
        mirror_words(text) == text or "left" in text.lower() or "right" in text.lower() or "clockwise" in text.lower()
    )
