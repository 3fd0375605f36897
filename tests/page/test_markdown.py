"""Words in Markdown stay words, and names tell nobody's home."""

from __future__ import annotations

import pytest

from groundling.page.markdown import escape, public_name, table


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the red mug", "the red mug"),
        ("a|b", "a\\|b"),
        ("[x](y)", "\\[x\\](y)"),
        ("<img src=x>", "&lt;img src=x&gt;"),
        ("&lt;", "&amp;lt;"),
        ("**bold** `code` _it_ ~no~ $x$", "\\*\\*bold\\*\\* \\`code\\` \\_it\\_ \\~no\\~ \\$x\\$"),
        ("two\nlines\r\n\tand\x00 more", "two lines and more"),
        ("back\\slash|", "back\\\\slash\\|"),
        ("@someone #1 https://x: acc@0.5", "\\@someone \\#1 https\\://x: acc@0.5"),
    ],
)
def test_words_act_as_nothing_but_words(text: str, expected: str):
    assert escape(text) == expected


def test_long_texts_are_cut():
    assert escape("x" * 20, 10) == "x" * 7 + "..."
    assert escape("x" * 10, 10) == "x" * 10


def test_a_table():
    assert table(["name", "n"], [["a", "1"]]) == "| name | n |\n| --- | ---: |\n| a | 1 |"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct"),
        ("runs/x", "runs/x"),
        ("tiny", "tiny"),
        ("/home/me/runs/x", "x"),
        ("~/runs/x", "x"),
        ("C:\\Users\\me\\x", "x"),
        ("../../home/me/x", "x"),
    ],
)
def test_names_tell_nobodys_home(name: str, expected: str):
    assert public_name(name) == expected
