"""The table of families, and the budget of a picture."""

from __future__ import annotations

import pytest

from groundling.dialect.family import FAMILIES, Budget, find_family
from groundling.dialect.prompt import check_template
from groundling.errors import GroundlingError, SettingsError
from groundling.geometry.frame import Frame

QWEN2_5 = find_family("qwen2_5_vl")


@pytest.mark.parametrize(
    ("name", "text_frame", "token_side", "answer_form"),
    [
        ("qwen2_vl", Frame(1000, 1000), 28, "tokens"),
        ("qwen2_5_vl", Frame(644, 420), 28, "fenced"),
        ("qwen3_vl", Frame(1000, 1000), 32, "fenced"),
    ],
)
def test_what_tells_the_families_apart(name: str, text_frame: Frame, token_side: int, answer_form: str) -> None:
    family = find_family(name)

    assert family.text_frame(Frame(644, 420)) == text_frame
    assert family.token_side == token_side
    assert family.answer_form == answer_form


def test_every_family_stands_under_its_own_name_and_asks_the_question() -> None:
    for name, family in FAMILIES.items():
        assert family.name == name
        assert check_template(family.prompt_template)


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        SettingsError, match="unknown model family 'qwen9'; groundling knows qwen2_vl, qwen2_5_vl, qwen3_vl"
    ) as raised:
        find_family("qwen9")

    assert isinstance(raised.value, GroundlingError)
    assert isinstance(raised.value, ValueError)


def test_a_budget_in_tokens() -> None:
    """1 003 520 pixels, the class default of transformers, are 1280 tokens of 28 x 28."""
    assert Budget(QWEN2_5, 3136, 1_003_520).max_tokens == 1280


def test_a_budget_of_exactly_one_token_will_do() -> None:
    assert Budget(QWEN2_5, 784, 784).max_tokens == 1


@pytest.mark.parametrize(("least", "most"), [(783, 1000), (2000, 1000), (0, 0), (-784, 784)])
def test_an_impossible_budget_is_refused_with_its_numbers(least: int, most: int) -> None:
    with pytest.raises(SettingsError, match=rf"a budget of {least} to {most} pixels; .*784 pixels for qwen2_5_vl"):
        Budget(QWEN2_5, least, most)


@pytest.mark.parametrize(
    ("original", "scale"),
    [
        (Frame(2000, 1000), 0.5),  # 2 000 000 pixels into 500 000
        (Frame(500, 1000), 1.0),  # fits as it is
        (Frame(20, 40), 10.0),  # 800 pixels grow to 80 000
    ],
)
def test_the_scale_to_expect(original: Frame, scale: float) -> None:
    assert Budget(QWEN2_5, 80_000, 500_000).estimate_scale(original) == pytest.approx(scale)
