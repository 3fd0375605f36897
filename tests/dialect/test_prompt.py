"""The words around a question."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundling.dialect.prompt import Piece, check_template, write_prompt
from groundling.errors import SettingsError


def test_the_question_takes_its_place() -> None:
    assert write_prompt("Locate {question}, please.", "the red mug") == "Locate the red mug, please."


@given(st.text())
@settings(deadline=None)
def test_nothing_in_a_question_is_interpreted(question: str) -> None:
    assert write_prompt("{a} {0} % {question} {{}}", question) == f"{{a}} {{0}} % {question} {{{{}}}}"


@pytest.mark.parametrize("question", ["{question}", "{}", "%s", r"\1", "<|im_end|>"])
def test_questions_that_look_like_templates(question: str) -> None:
    assert write_prompt("Locate {question}.", question) == f"Locate {question}."


@pytest.mark.parametrize("template", ["", "Locate it.", "Locate {query}.", "{Question}"])
def test_a_template_without_a_place_is_refused(template: str) -> None:
    with pytest.raises(SettingsError, match=r"has no \{question\} in it"):
        check_template(template)


def test_a_piece_says_whether_it_is_control() -> None:
    assert Piece("<|box_start|>", is_control=True) != Piece("<|box_start|>", is_control=False)
