"""A served model: pictures reach it upright, in the contract's frame; boxes come back in the picture's own pixels."""

from __future__ import annotations

import io
import json
import re
import sys

import numpy as np
import pytest
from cameras import as_stored, exif
from families import build_family_processor
from PIL import Image
from served import Asked, serve

from groundling.cli import main
from groundling.dialect.answer import Item, write_answer
from groundling.dialect.family import FAMILIES
from groundling.geometry.frame import Frame
from groundling.inference.served import GUIDES, Engine, ServedGrounder
from groundling.inference.server import connect

BOX = (200, 90, 420, 300)  # upright


def draw_photo(orientation: int) -> bytes:
    """A red box on grey, 640x480 once upright, as a camera stores it."""
    levels = np.full((480, 640, 3), 128, np.uint8)
    levels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = (255, 0, 0)
    file = io.BytesIO()
    as_stored(Image.fromarray(levels), orientation).save(file, "JPEG", quality=95, exif=exif(orientation))
    return file.getvalue()


def find_red(picture: Image.Image) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is red, half-open."""
    levels = np.asarray(picture.convert("RGB")).astype(int)
    is_red = levels[..., 0] - levels[..., 1] > 100
    ys, xs = np.flatnonzero(is_red.any(axis=1)), np.flatnonzero(is_red.any(axis=0))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_box_comes_back_in_the_picture_s_own_pixels(family: str, orientation: int):
    contract = build_family_processor(family, max_tokens=64).contract
    pictures: list[Image.Image] = []

    def answer(asked: Asked) -> str:
        """What a model says that finds the red box in the picture as it came."""
        picture = Image.open(io.BytesIO(asked.picture))
        pictures.append(picture)
        frame = contract.known_family.text_frame(Frame(*picture.size))
        left, top, right, bottom = find_red(picture)
        scale_x, scale_y = frame.width / picture.width, frame.height / picture.height
        item = Item((left * scale_x, top * scale_y, right * scale_x, bottom * scale_y), "mug")
        return "".join(piece.text for piece in write_answer([item], contract.answer_form, frame))

    with serve(answer) as served:
        found = ServedGrounder(connect(served.address), contract).predict(draw_photo(orientation), "the mug")

    assert pictures[0].format == "PNG" and pictures[0].mode == "RGB" and not pictures[0].getexif()
    assert Frame(*pictures[0].size) == found.seen != Frame(640, 480)
    assert found.flaw is None and found.labels == ["mug"] and found.boxes.frame == Frame(640, 480)
    np.testing.assert_allclose(found.boxes.xyxy[0], BOX, atol=4)  # a pixel as it is seen is 3.3 wide
    assert served.asked[0].text == contract.prompt_template.replace("{question}", "the mug")


@pytest.mark.parametrize("engine", list(GUIDES))
def test_a_guide_is_told_in_the_words_of_the_engine(engine: Engine):
    contract = build_family_processor("qwen2_5_vl", max_tokens=64).contract
    with serve(lambda asked: "[]") as served:
        grounder = ServedGrounder(connect(served.address), contract, engine)
        answer = grounder.predict(draw_photo(1), "the mug")

    body = served.asked[0].body
    width, height = answer.seen.size_wh
    if engine == "schema":
        thing = body["response_format"]["json_schema"]["schema"]["items"]["anyOf"][0]
        assert [each["maximum"] for each in thing["properties"]["bbox_2d"]["prefixItems"]] == [
            *(width - 1, height - 1, width, height)
        ]
        return
    guide = body["structured_outputs"]["regex"] if engine == "vllm" else body["regex"]

    def allows(right: int) -> bool:
        return re.fullmatch(guide, f'```json\n[\n\t{{"bbox_2d": [0, 0, {right}, {height}]}}\n]\n```') is not None

    assert allows(width) and not allows(width + 1)


def test_box_tokens_are_not_cut_out():
    contract = build_family_processor("qwen2_vl").contract
    with serve(lambda asked: "[]") as served:
        ServedGrounder(connect(served.address), contract, "vllm").predict(draw_photo(1), "the mug")
        ServedGrounder(connect(served.address), contract).predict(draw_photo(1), "the mug")
    assert [asked.body["skip_special_tokens"] for asked in served.asked] == [False, False]
    assert "structured_outputs" in served.asked[0].body and "structured_outputs" not in served.asked[1].body


def test_the_contract_s_words_around_the_question():
    contract = build_family_processor("qwen3_vl").contract
    contract = type(contract)(
        **{**contract.__dict__, "system_prompt": "Be exact.", "prompt_template": "Find {question}!"}
    )
    with serve(lambda asked: "nothing there") as served:
        answer = ServedGrounder(connect(served.address), contract).predict(draw_photo(1), "the mug")
    assert served.asked[0].body["messages"][0] == {"role": "system", "content": "Be exact."}
    assert served.asked[0].text == "Find the mug!"
    assert answer.flaw == "no_boxes", "bad words are data"


def test_the_command_line_tells_the_guide_of_a_picture_s_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["groundling", "info", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return (int(ended.value.code or 0), *capsys.readouterr())

    code, out, _ = run("tiny", "--guide", "640x480", "--json")
    found = json.loads(out)
    assert code == 0 and found["seen"] == [112, 84] and "{question}" in found["prompt"]
    assert re.fullmatch(found["regex"], '[{"bbox_2d": [0, 0, 112, 84], "label": "mug"}]')
    assert not re.fullmatch(found["regex"], '[{"bbox_2d": [0, 0, 113, 84], "label": "mug"}]')
    assert found["schema"]["type"] == "array"
    for words in (
        ["--guide", "640x480"],
        ["tiny", "--guide", "640"],
        ["tiny", "--guide", "0x5"],
    ):
        code, _, err = run(*words)
        assert code == 2 and err.startswith(f"error: --guide {words[-1]!r} is of a model and a picture's size")
    code, _, err = run("tiny", "--guide", "300x1")
    assert code == 2 and err.startswith("error: no picture of 300x1 can be seen")
