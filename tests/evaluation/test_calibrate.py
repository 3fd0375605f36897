"""Calibrating whole: servers on the loopback that answer in planted conventions, and the bundled model."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from called import Call
from families import build_family_processor
from PIL import Image
from planted_eye import Eye, find, stretched, thousandths, within
from served import Asked, Reply, Said, as_completion, refuse, serve

from groundling.errors import ContractError, ServerError, SettingsError
from groundling.evaluation.calibrate import Outcome, ask_server, calibrate, calibrate_server
from groundling.inference.server import KEY_VARIABLE, connect
from groundling.model.contract import read_contract
from groundling.model.load import TINY_FOLDER, find_checkpoint

KEY = "sk-very-secret"


@pytest.fixture
def bare_tiny(tmp_path: Path) -> Path:
    """The bundled model without its contract."""
    folder = tmp_path / "bare"
    shutil.copytree(TINY_FOLDER, folder)
    (folder / "groundling.json").unlink()
    return folder


def seeing(eye: Eye) -> Callable[[Asked], str]:
    return lambda asked: eye.answer(asked.picture, asked.text)


def kind_of(outcome: Outcome) -> tuple[str, str, str]:
    assert outcome.found.fit is not None and outcome.found.is_found
    return outcome.found.fit.best.kind


# ---- servers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("eye", "kind"),
    [
        (Eye(), ("seen", "xyxy", "upright")),
        (Eye(thousandths, "yxyx", heeds_exif=False), ("thousandths", "yxyx", "stored")),
    ],
    ids=["vllm", "sglang"],
)
def test_a_server_s_convention_is_measured(eye: Eye, kind: tuple[str, str, str]):
    told: list[tuple[int, int]] = []
    with serve(seeing(eye)) as served:
        outcome = calibrate_server(served.address, progress=lambda done, total: told.append((done, total)))
    assert kind_of(outcome) == kind and outcome.is_good and outcome.contract is None
    assert told == [(number, 34) for number in range(1, 35)]
    assert outcome.found.model == f"mine at {served.address}"


def test_files_are_sent_as_they_are_stored():
    with serve(seeing(Eye())) as served:
        calibrate_server(served.address)
    orientations = {Image.open(io.BytesIO(asked.picture)).getexif().get(0x0112) for asked in served.asked}
    assert orientations == {1, 3, 6, 8}
    assert served.asked[0].body["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert served.asked[0].text == "Locate the red square in this image and output the bbox coordinates in JSON format."


def test_the_question_may_be_put_otherwise():
    with serve(seeing(Eye())) as served:
        calibrate_server(served.address, template="detect {question}")
        with pytest.raises(SettingsError, match=r"has no \{question\} in it"):
            calibrate_server(served.address, template="detect it")
    assert served.asked[0].text == "detect the red square" and len(served.asked) == 34


def test_a_server_that_runs_at_the_contract_s_budget(tmp_path: Path):
    contract = find_checkpoint("tiny").contract
    eye = Eye(within(contract.min_pixels, contract.max_pixels))
    with serve(seeing(eye)) as served:
        outcome = calibrate_server(served.address, against="tiny")
    assert outcome.is_good and outcome.is_held


def test_a_server_that_runs_at_another_budget_is_told(call: Call):
    with serve(seeing(Eye())) as served:
        ended = call("calibrate", served.address, "--against", "tiny")
    assert ended.code == 1
    assert (
        "differs from its contract: it answers as if it saw pictures within 3136 to 1003520 pixels, "
        "the contract says 784 to 12544" in ended.out
    )


def test_a_contract_is_written_for_a_server_of_pixels(tmp_path: Path, call: Call):
    with serve(seeing(Eye())) as served:
        ended = call("calibrate", served.address, "--to", tmp_path / "new")
    assert ended.code == 0, ended.err
    contract = read_contract(tmp_path / "new")
    assert contract is not None and contract.family == "qwen2_5_vl" and contract.answer_form == "list"
    assert (contract.min_pixels, contract.max_pixels) == (3136, 1_003_520)


def test_a_written_budget_is_no_larger_than_what_was_measured(tmp_path: Path, call: Call):
    with serve(seeing(Eye(within(3136, 12_845_056)))) as served:
        ended = call("calibrate", served.address, "--to", tmp_path)
    contract = read_contract(tmp_path)
    assert contract is not None and contract.max_pixels == 2400 * 1800
    assert "within 3136 to 4320000 pixels or more, xyxy, pictures upright: 34 of 34 answers fit" in ended.out


def test_no_contract_is_made_of_thousandths(tmp_path: Path, call: Call):
    with serve(seeing(Eye(thousandths))) as served:
        ended = call("calibrate", served.address, "--to", tmp_path / "new")
    assert ended.code == 1 and "no contract: these answers do not tell the family and the budget" in ended.out
    assert not (tmp_path / "new").exists()


def test_what_no_contract_says_is_told_as_a_formula(tmp_path: Path, call: Call):
    eye = Eye(stretched(1), "yxyx", square="middle", decimals=3, form="It is from ({}, {}) to ({}, {}).")
    with serve(lambda asked: Said([{"type": "text", "text": seeing(eye)(asked)}]), engine="vllm") as served:
        ended = call("calibrate", served.address, "--to", tmp_path / "new")
    assert ended.code == 1 and not (tmp_path / "new").exists()
    assert "best:   shares, 0 to 1, of a square with the picture in its middle, yxyx, pictures upright" in ended.out
    assert (
        "in pixels of the picture: x * L - (L - width) / 2, y * L - (L - height) / 2, L = max(width, height); "
        "y is said before x\nno contract of groundling says this"
    ) in ended.out
    assert "no contract: none says what these answers count, and in which order" in ended.out


def test_points_are_calibrated_too(call: Call):
    eye = Eye(stretched(100), "xy", decimals=1, form='<point x="{}" y="{}" alt="it">it</point>')
    with serve(lambda asked: Said(seeing(eye)(asked), thoughts="Where?"), engine="sglang") as served:
        ended = call("calibrate", served.address, "--json")
    found = json.loads(ended.out)
    assert ended.code == 0 and found["things"] == "points" and found["edges"] is None
    assert found["best"]["counts"] == "percent" and found["conversion"] == "x * width / 100, y * height / 100"


def test_a_size_is_told(call: Call):
    with serve(seeing(Eye(stretched(640)))) as served:
        ended = call("calibrate", served.address)
    assert "best:   pixels of the picture stretched to 640x640, xyxy, pictures upright" in ended.out
    assert "the size is 640\n" in ended.out and "x * width / 640, y * height / 640\n" in ended.out


def test_box_tokens_are_not_cut_out():
    contract = build_family_processor("qwen2_vl").contract
    assert contract.answer_form == "tokens"
    for against, expected in ((contract, [False]), (None, [None])):
        with serve(lambda asked: "[]") as served:
            ask_server(connect(served.address), against=against)
        assert list({asked.body.get("skip_special_tokens") for asked in served.asked}) == expected


def test_a_contract_that_is_there_is_left(tmp_path: Path):
    shutil.copy(TINY_FOLDER / "groundling.json", tmp_path)
    with serve(seeing(Eye())) as served:
        with pytest.raises(ContractError, match=r"groundling\.json is there already and is never replaced"):
            calibrate_server(served.address, to=tmp_path)
        with pytest.raises(SettingsError, match="give one of the two"):
            calibrate_server(served.address, to=tmp_path / "new", against="tiny")
    assert not served.asked


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("I cannot see pictures.", "34 without one, such as 'I cannot see pictures.'"),
        ("[250, 250, 750, 750]", "none fits: no convention explains half of the answers; does the model see?"),
    ],
)
def test_none_fits(answer: str, said: str, tmp_path: Path, call: Call):
    with serve(lambda asked: answer) as served:
        ended = call("calibrate", served.address, "--to", tmp_path / "new")
    assert ended.code == 1 and said in ended.out and "none fits" in ended.out
    assert not (tmp_path / "new").exists()


def test_what_fits_some_kinds_of_pictures_only_is_told(tmp_path: Path, call: Call):
    """Pixels of 336x336 cut out of the picture's middle, as CLIP's processor crops."""

    def answer(asked: Asked) -> str:
        box, (width, height) = find(asked.picture, "red" if "red" in asked.text else "blue", True)
        shorter = min(width, height)
        gaps = np.tile([(width - shorter) / 2, (height - shorter) / 2], 2)
        return str(((np.array(box) - gaps) * 336 / shorter).round().astype(int).tolist())

    with serve(answer) as served:
        ended = call("calibrate", served.address, "--to", tmp_path / "new")
        as_json = call("calibrate", served.address, "--json")
    assert ended.code == 1 and not (tmp_path / "new").exists()
    assert "none fits: the best fits pictures of 224x224, and not those of 100x68, 155x95, 120x76, " in ended.out
    assert "in pixels of the picture: " not in ended.out
    found = json.loads(as_json.out)
    assert as_json.code == 1 and not found["is_found"] and found["conversion"] is None and found["edges"] is None
    assert found["misplaced"][:3] == ["100x68", "155x95", "120x76"]


def test_random_boxes_of_a_server_fit_nothing():
    rng = np.random.default_rng(0)

    def answer(asked: Asked) -> str:
        (left, right), (top, bottom) = np.sort(rng.integers(0, 1001, (2, 2)), axis=1)
        return f'[{{"bbox_2d": [{left}, {top}, {right}, {bottom}]}}]'

    with serve(answer) as served:
        outcome = calibrate_server(served.address)
    assert len(outcome.found.heard) == 34 and not outcome.is_good


# ---- servers in trouble ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Reply(500, b'{"message": "out of memory"}', {"Retry-After": "0"}), "HTTP 500 4 times: out of memory"),
        (Reply(200, b"<html>"), "a reply that is no JSON: <html>"),
        (Reply(404, b'{"message": "no model mine"}'), "HTTP 404: no model mine"),
    ],
)
def test_a_server_that_never_answers(reply: Reply, told: str, call: Call):
    with serve(lambda asked: reply) as served:
        ended = call("calibrate", served.address)
    assert (
        ended.code == 2 and ended.out == "" and ended.err.startswith(f"error: {served.address}") and told in ended.err
    )


def test_a_slow_server():
    is_over = Event()

    def answer(asked: Asked) -> str:
        is_over.wait(10)
        return ""

    with serve(answer) as served:
        with pytest.raises(ServerError, match=r"no reply within 0.2 seconds"):
            calibrate_server(served.address, model="mine", seconds=0.2)
        is_over.set()


def test_a_server_that_goes_away_is_not_asked_for_ever():
    def answer(asked: Asked) -> str | Reply:
        is_up = len(served.asked) <= 4
        return Eye().answer(asked.picture, asked.text) if is_up else refuse("sglang", 400, "worker is gone")

    with serve(answer) as served, pytest.raises(ServerError, match=r"worker is gone; .* \(8 times in a row, after it"):
        calibrate_server(served.address)
    assert len(served.asked) == 12


def test_a_reply_that_is_none_is_counted(call: Call):
    def answer(asked: Asked) -> str | Reply:
        is_none = len(served.asked) == 5
        return Reply(200, b'{"choices": []}') if is_none else Eye(thousandths).answer(asked.picture, asked.text)

    with serve(answer) as served:
        ended = call("calibrate", served.address)
    assert ended.code == 0 and "34 questions, 33 answers that hold a box" in ended.out
    assert "1 without an answer: " in ended.out and "a reply without choices[0].message.content;" in ended.out


def test_a_model_that_only_thinks_is_told(call: Call):
    with serve(lambda asked: Said(None, "The user wants [1, 2, 3, 4]", "length"), engine="vllm") as served:
        ended = call("calibrate", served.address)
    assert ended.code == 1 and "34 questions, 0 answers that hold a box" in ended.out
    assert "34 thought for all of their 512 tokens; serve the model without thinking" in ended.out


def test_a_model_that_is_not_served(call: Call):
    with serve(lambda asked: "[]", engine="vllm") as served:
        ended = call("calibrate", served.address, "--model", "other")
    assert ended.code == 2 and "HTTP 404: The model `other` does not exist." in ended.err


def test_large_pictures_that_a_server_refuses_are_counted(call: Call):
    def answer(asked: Asked) -> str | Reply:
        if Image.open(io.BytesIO(asked.picture)).width > 1600:
            return Reply(400, b'{"error": {"message": "prompt too long"}}')
        return Eye(thousandths).answer(asked.picture, asked.text)

    with serve(answer) as served:
        ended = call("calibrate", served.address, "--json")
    found = json.loads(ended.out)
    assert ended.code == 0 and found["is_found"]
    assert found["questions"] == 34 and found["failed"] == 6 and found["read"] == 28
    assert found["best"]["counts"] == "thousandths" and found["best"]["explained"] == 28
    assert any("prompt too long" in str(reply["trouble"]) for reply in found["replies"])


def test_the_key_is_in_nothing_that_is_printed_or_written(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with serve(seeing(Eye())) as served:
        ended = call("calibrate", served.address, "--json", "--to", tmp_path)
    assert served.asked[0].headers["Authorization"] == f"Bearer {KEY}"
    written = [file.read_text(encoding="utf-8") for file in tmp_path.rglob("*") if file.is_file()]
    assert written and not any(KEY in text for text in (*written, ended.out, ended.err))


def test_words_of_servers_for_a_model_here(call: Call):
    ended = call("calibrate", "tiny", "--model", "x", "--against", "tiny")
    assert ended.code == 2 and "--model, --against is of servers, and 'tiny' is no address like" in ended.err


# ---- models ----------------------------------------------------------------------------------------------------


def test_the_bundled_model_keeps_to_its_contract(call: Call):
    ended = call("calibrate", "tiny", "--json")
    found = json.loads(ended.out)
    assert ended.code == 0 and found["is_found"] and found["differences"] == [] and found["contract"] is None
    assert (found["best"]["counts"], found["best"]["order"], found["best"]["pictures"]) == ("seen", "xyxy", "upright")
    assert found["best"]["explained"] >= 24 and found["answer_form"] == "list"


def test_a_model_without_a_contract_gets_the_one_it_was_shipped_with(bare_tiny: Path, call: Call):
    ended = call("calibrate", bare_tiny)
    assert ended.code == 0 and str(bare_tiny / "groundling.json") in ended.err
    written, shipped = (json.loads((folder / "groundling.json").read_text()) for folder in (bare_tiny, TINY_FOLDER))
    assert written.pop("made_with") and not shipped.pop("made_with")
    assert written == shipped

    before = (bare_tiny / "groundling.json").read_bytes()
    again = call("calibrate", bare_tiny)
    assert again.code == 0 and again.out.endswith("as its contract says\n")
    assert (bare_tiny / "groundling.json").read_bytes() == before


def test_a_model_whose_contract_says_another_form(bare_tiny: Path, call: Call):
    contract = json.loads((TINY_FOLDER / "groundling.json").read_text())
    (bare_tiny / "groundling.json").write_text(json.dumps(contract | {"answer_form": "fenced"}))
    ended = call("calibrate", bare_tiny)
    assert ended.code == 1
    assert "differs from its contract: it writes answers of the form list, the contract says fenced" in ended.out


def test_a_model_with_a_contract_gets_no_other(tmp_path: Path):
    with pytest.raises(SettingsError, match="tiny has a contract, which is compared and never replaced"):
        calibrate("tiny", to=tmp_path)


def test_a_folder_with_a_contract_is_refused_before_anything_is_asked(bare_tiny: Path):
    with pytest.raises(ContractError, match="is there already and is never replaced; give another folder by --to"):
        calibrate(str(bare_tiny), to=TINY_FOLDER)


@pytest.mark.slow  # it writes 512 tokens about each card
def test_a_model_that_does_not_see_gets_no_contract(tiny_model_folder: Path, tmp_path: Path):
    blind = tmp_path / "blind"
    shutil.copytree(tiny_model_folder, blind)
    (blind / "groundling.json").unlink()
    outcome = calibrate(str(blind))
    assert not outcome.is_good and outcome.contract is None and not (blind / "groundling.json").exists()


def test_a_family_that_is_not_known(bare_tiny: Path, call: Call):
    config = json.loads((bare_tiny / "config.json").read_text())
    (bare_tiny / "config.json").write_text(json.dumps(config | {"model_type": "paligemma"}))
    ended = call("calibrate", bare_tiny)
    assert ended.code == 2 and "unknown model family 'paligemma'" in ended.err


def test_an_unseen_completion_is_no_answer():
    with serve(lambda asked: Reply(200, as_completion(None))) as served:
        outcome = calibrate_server(served.address)
    assert not outcome.is_good and outcome.found.fit is None
