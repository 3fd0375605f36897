"""YAML of a recipe: what is read, what is refused, and where a recipe is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundling.errors import SettingsError
from groundling.recipe_file import MAX_CHARACTERS, MAX_DEPTH, find_recipe, read_yaml, write_yaml


def test_values_and_the_lines_of_their_keys() -> None:
    document = read_yaml("model:\n  name: tiny\ntrack: [swanlab]\n", "x.yaml")
    assert document.values == {"model": {"name": "tiny"}, "track": ["swanlab"]}
    assert document.lines == {"model": 1, "model.name": 2, "track": 3, "track.0": 3}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 0.0001),  # PyYAML alone gives the text '1e-4'
        ("1E5", 100000.0),
        ("-.5e2", -50.0),
        ("1.0e-4", 0.0001),
        ("100_000_000", 100_000_000),
        ("'1e-4'", "1e-4"),
        ("2026-11-22", "2026-11-22"),  # a revision, not a date
        ("e5", "e5"),
        ("", None),
    ],
)
def test_plain_values(text: str, value: object) -> None:
    found = read_yaml(text, "x.yaml").values
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3\n", "x.yaml:3: the key 'a' is given twice"),
        ("a: &x [1]\nb: *x\n", "x.yaml:2: an alias, *x; write the value out"),
        ("a: &x [*x]\n", "x.yaml:1: an alias, *x; write the value out"),
        (
            "a: !!python/object/apply:os.system [ls]\n",
            "x.yaml:1: a tag, tag:yaml.org,2002:python/object/apply:os.system",
        ),
        ("a: !!int ''\n", "x.yaml:1: a tag"),
        ("1: a\n", "x.yaml:1: a key that is no text; put it in quotes"),
        ("a: {b: [}\n", "x.yaml:1: "),
        ("a: '\n", "x.yaml:"),
        ("a: \x00\n", "x.yaml: "),
        ("a: " + "9" * 5000, "x.yaml: "),
        ("[" * (MAX_DEPTH + 1), f"x.yaml:1: nested more than {MAX_DEPTH} levels deep"),
        ("[" * 100_000, f"x.yaml:1: nested more than {MAX_DEPTH} levels deep"),
        ("a" * (MAX_CHARACTERS + 1), f"x.yaml: {MAX_CHARACTERS + 1} characters; a recipe has at most {MAX_CHARACTERS}"),
        ("a: 1\n---\nb: 2\n", "x.yaml:2: "),
    ],
)
def test_what_a_recipe_must_not_hold_is_named_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_yaml(text, "x.yaml")
    assert str(caught.value).startswith(problem)


def test_an_alias_bomb_ends_at_its_first_alias() -> None:
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 9)]
    with pytest.raises(SettingsError, match=r"x\.yaml:2: an alias"):
        read_yaml("\n".join(["l0: &l0 lol", *levels]), "x.yaml")


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read_yaml(text, "x.yaml")
    except SettingsError as error:
        assert str(error).startswith("x.yaml")


_WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_WORDS, _VALUES, max_size=4))
def test_what_is_written_is_read_back(values: dict[str, object]) -> None:
    assert read_yaml(write_yaml(values), "x.yaml").values == values


@pytest.mark.parametrize("name", ["1e-4", "1E5", "2026-11-22", "no", "007", "<<", "=", "~"])
def test_text_that_looks_like_something_else_stays_text(name: str) -> None:
    assert read_yaml(write_yaml({"name": name}), "x.yaml").values == {"name": name}


def test_a_file_here_goes_before_a_shipped_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = find_recipe("tiny")
    assert find_recipe("tiny.yaml") == find_recipe("recipes/tiny.yaml") == find_recipe(Path("recipes/tiny")) == shipped
    assert shipped.parent.name == "recipes"
    (tmp_path / "tiny.yaml").write_text("mine")
    assert find_recipe("tiny.yaml").read_text() == "mine"


def test_a_missing_recipe_is_answered_with_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match="shipped with groundling: textvqa-3b, textvqa-3b-lora, textvqa-3b-qlora, tiny"
    ):
        find_recipe(tmp_path / "tiny.yaml")
