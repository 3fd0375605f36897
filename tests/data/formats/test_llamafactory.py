from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sources import boxes, garbage, make, read_all, reasons, save_lines, save_picture

from groundling.data.formats.found import Found

SHAREGPT = ("conversations", "from", "value", "human", "gpt")
OPENAI = ("messages", "role", "content", "user", "assistant")


def entry(*texts: str, names: tuple[str, ...] = SHAREGPT, **more: object) -> dict[str, Any]:
    key, role, text, asks, answers = names
    said = [{role: (asks, answers)[n % 2], text: words} for n, words in enumerate(texts)]
    return {key: said, "images": ["photo.jpg"], **more}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_picture(tmp_path / "in/photo.jpg", 640, 428)
    return tmp_path / "in/data.json"


@pytest.mark.parametrize("names", [SHAREGPT, OPENAI])
def test_both_namings_are_read_in_the_frame_declared(file: Path, tmp_path: Path, names: tuple[str, ...]):
    answer = '{"bbox_2d": [228, 320, 961, 970], "label": "horse"}'  # the vendor's own conversion of the box below
    chat = entry("<image>Where is the horse?", answer, "And a cow?", "[]", names=names, videos=[], system="Be brief.")
    file.write_text(json.dumps([chat], indent=2))
    done = make("llamafactory", file, tmp_path, frame="thousandths")
    assert list(boxes(done)) == ["Where is the horse?", "And a cow?"]
    assert done.records[0].targets[0].box == pytest.approx((146, 137, 615, 415), abs=0.5)
    assert done.records[1].is_negative


def test_a_system_turn_is_left_out_and_general_text_stays(file: Path, tmp_path: Path):
    chat = entry("<image>What is it?", "A horse.", names=OPENAI)
    chat["messages"].insert(0, {"role": "system", "content": "You see horses."})
    save_lines(file, chat, entry("Hello", "Hi", images=[]))
    done = make("llamafactory", file, tmp_path, frame="original")
    assert [record.answer for record in done.records] == ["A horse.", "Hi"]
    assert done.records[1].image is None


def test_conversations_of_another_shape_are_set_aside(file: Path, tmp_path: Path):
    save_lines(
        file,
        entry("<image><image>two", "x"),
        entry("<image>two", "x", images=["photo.jpg", "photo.jpg"]),
        entry("no answer"),
        {"images": ["photo.jpg"]},
        entry("a tool", "x", names=("messages", "role", "content", "user", "function_call")),
        entry("a film", "x", videos=["a.mp4"]),
        entry("parts", "x") | {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        entry("<image>fine", "[]"),
    )
    done = make("llamafactory", file, tmp_path, frame="original")
    assert [bad.line for bad in done.rejected] == [1, 2, 3, 4, 5, 6, 7]
    assert [record.question for record in done.records] == ["fine"]
    assert "no list of messages under 'conversations'" in reasons(done)


def test_a_turned_picture_leaves_a_doubt_for_nothing_tells_which_way_it_was_seen(file: Path, tmp_path: Path):
    save_picture(file.parent / "photo.jpg", 428, 640, orientation=6)
    save_lines(file, entry("<image>it", '{"bbox_2d": [10, 20, 30, 40]}'), entry("<image>none", "[]"))
    done = make("llamafactory", file, tmp_path, frame="original")
    assert done.records[0].targets[0].box == (10, 20, 30, 40)
    assert "orientation 6" in done.records[0].extra["doubt"]
    assert "doubt" not in done.records[1].extra


KEYS = ("conversations", "messages", "images", "from", "value", "role", "content", "id")


@settings(max_examples=60)
@given(st.lists(garbage(KEYS, ["photo.jpg", "human", "gpt", "[1,2,3,4]"]), max_size=3))
def test_garbage_is_rejected_and_its_neighbour_is_read(tmp_path_factory: pytest.TempPathFactory, entries: list[Any]):
    folder = tmp_path_factory.mktemp("g")
    save_picture(folder / "photo.jpg")
    sound = entry("<image>it", '{"bbox_2d": [10, 20, 30, 40]}')
    items = read_all("llamafactory", save_lines(folder / "g.jsonl", *entries, sound), frame=lambda original: original)
    last = items[-1]
    assert isinstance(last, Found) and last.targets[0].box == (10, 20, 30, 40)
