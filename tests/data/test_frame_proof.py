from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sources import make, save_lines, save_picture

from groundling.data.export import export
from groundling.data.formats.chat import Unplaced, declared_frame
from groundling.data.frame_proof import CANDIDATES, possible_frames, prove_frame
from groundling.data.record import Record, Target
from groundling.dialect.answer import Item
from groundling.errors import SettingsError
from groundling.geometry.boxes import Boxes
from groundling.geometry.frame import Frame

HERE = Path("chat.jsonl")
VENDORS = Frame(640, 428)


def named(original: Frame, *numbers: tuple[float, ...]) -> Unplaced:
    return Unplaced([Item(each, None) for each in numbers], original, HERE, 1)


def possible(source: list[Unplaced]) -> list[str]:
    return [words for fit in possible_frames(source).fits if fit.is_possible for words in fit.words]


def test_the_vendors_box_in_thousandths_fits_no_other_frame():
    # the others are 640x428 itself, 1x1, 252x168 within 50176, and 644x420 within each larger budget
    assert possible([named(VENDORS, (228, 320, 961, 970))]) == ["thousandths"]


def test_the_vendors_box_in_pixels_fits_several():
    found = possible([named(VENDORS, (147, 134, 619, 407))])
    assert set(found) == {"original", "thousandths", "resized:451584", "resized:1003520", "resized:12845056"}


def test_frames_that_are_the_same_on_these_pictures_are_one_candidate():
    fits = possible_frames([named(VENDORS, (147, 134, 619, 407))]).fits
    assert ("resized:451584", "resized:1003520", "resized:12845056") in [fit.words for fit in fits]
    whole_tokens = possible_frames([named(Frame(280, 280), (10, 20, 30, 40))]).fits
    assert ("original", "resized:451584", "resized:1003520", "resized:12845056") in [fit.words for fit in whole_tokens]


def test_reach_is_the_largest_share_of_each_side():
    (fit,) = (
        f for f in possible_frames([named(VENDORS, (0, 0, 320, 107), (0, 0, 64, 214))]).fits if "original" in f.words
    )
    assert fit.reach_wh == (0.5, 0.5) and (fit.fits, fit.leaves) == (2, 0)


def test_shares_of_a_picture_are_too_small_for_any_other_frame():
    source = [named(VENDORS, (0.2, 0.3, 0.95, 0.97), (0.1, 0.1, 0.2, 0.2), (0, 0, 0.5, 0.4))]
    assert possible(source) == ["fractions"]
    assert prove_frame(source, "swift").words == "fractions"


def test_a_proof_says_how_many_boxes_it_rests_on():
    source = [named(VENDORS, (228, 320, 961, 970), (700, 5, 990, 990), (10, 600, 900, 980), (1, 2, 3, 4))]
    proof = prove_frame(source, "qwen-chat")
    assert (proof.words, proof.boxes, proof.against) == ("thousandths", 4, 3)
    assert proof.note == (
        "the numbers count thousandths of its sides (thousandths): proven by its 4 boxes, all of which fit, "
        "and at least 3 of which leave each other frame"
    )


@pytest.mark.parametrize(
    "boxes",
    [
        [(1, 2, 30, 40)] * 500,  # small boxes in one corner
        [(228, 320, 961, 970)] * 2,  # too few: they may be mistakes
        [(228, 320, 961, 970)] * 5 + [(1, 2, 30, 40)] * 995,  # 5 of 1000 may be, too
        [(228, 20, 961, 600)] * 9,  # never near the bottom: of a frame that is not listed, perhaps
        [(228, 320, 961, 970)] * 9 + [(5, 5, 2000, 2000)],  # one box that fits nothing
        [(961, 970, 228, 320)] * 9,  # corners out of order tell nothing
    ],
)
def test_what_proves_nothing_is_refused_with_the_cure(boxes: list[tuple[float, ...]]):
    with pytest.raises(SettingsError, match="--frame original, thousandths or resized:PIXELS"):
        prove_frame([named(VENDORS, *boxes)], "qwen-chat")


def test_the_refusal_lists_what_is_possible_and_what_is_not():
    with pytest.raises(SettingsError) as error:
        prove_frame([named(VENDORS, (100, 100, 630, 427), (10, 20, 100, 100))], "qwen-chat")
    message = str(error.value)
    assert "qwen-chat does not say what its numbers count, and its 2 boxes do not prove it" in message
    assert "\n  original: possible, the boxes reach 98% of its width and 100% of its height" in message
    assert "\n  thousandths: possible, the boxes reach 63% of its width and 43% of its height" in message
    assert "\n  resized:50176: impossible, 1 of 2 boxes leave it or are too small for it" in message
    assert message.index("  original") < message.index("  thousandths") < message.index("  resized:50176")


def test_points_are_evidence_too():
    source = [named(VENDORS, (961, 970)), named(VENDORS, (700, 300)), named(VENDORS, (20, 900))]
    assert possible(source) == ["thousandths"]


FRAMES = st.sampled_from(CANDIDATES)


@settings(max_examples=60, deadline=None)
@given(FRAMES, st.integers(0, 10**6), st.integers(1, 60))
def test_the_frame_they_were_written_in_is_never_ruled_out_and_so_nothing_false_is_proven(
    words: str, seed: int, count: int
):
    dice = random.Random(seed)
    source: list[Unplaced] = []
    for _ in range(count):
        original = Frame(dice.randint(40, 2500), dice.randint(40, 2500))
        left, top = dice.uniform(0, original.width - 20), dice.uniform(0, original.height - 20)
        box = (left, top, dice.uniform(left + 20, original.width), dice.uniform(top + 20, original.height))
        frame = declared_frame(words)(original)
        numbers = Boxes([box], original).to(frame).xyxy[0].tolist()
        source.append(named(original, tuple(numbers if words == "fractions" else map(round, numbers))))
    source = [each for each in source if each.items[0].numbers[0] < each.items[0].numbers[2]]
    found = possible_frames(source)
    proof = found.prove()
    true = next(fit for fit in found.fits if words in fit.words)
    assert proof is None or proof.words in true.words


def test_a_budget_that_is_not_listed_is_not_taken_for_a_larger_one():
    # within 2007040 pixels, which no picture below 2 megapixels tells from 12845056; the larger ones do not reach it
    frame = declared_frame("resized:2007040")
    small, large = Frame(1500, 1300), Frame(3000, 2600)
    source = [named(size, (10, 20, *frame(size).size_wh)) for size in [small] * 80 + [large] * 20]
    (fit,) = (fit for fit in possible_frames(source).fits if fit.is_possible)
    assert fit.words == ("resized:12845056",) and fit.reach_wh == (1, 1)
    with pytest.raises(SettingsError, match="do not prove it"):
        prove_frame(source, "qwen-chat")
    assert prove_frame(source[:80], "qwen-chat").words == "resized:12845056"  # the same frame on those


# ---- through convert -------------------------------------------------------------------------------------------


def chat(text: str, *numbers: list[float], image: str = "photo.jpg") -> dict[str, object]:
    answer = json.dumps([{"bbox_2d": each} for each in numbers])
    said = [{"from": "human", "value": f"<image>\n{text}"}, {"from": "gpt", "value": answer}]
    return {"image": image, "conversations": said}


@pytest.mark.parametrize("format", ["qwen-chat", "auto"])
def test_a_proven_frame_is_used_and_said(tmp_path: Path, format: str):
    save_picture(tmp_path / "in/photo.jpg", 640, 428)
    file = save_lines(
        tmp_path / "in/chat.jsonl",
        chat("the horse", [228, 320, 961, 970]),
        chat("the sky", [0, 0, 1000, 300]),
        chat("the grass", [0, 900, 1000, 1000]),
        chat("a cow"),
    )
    done = make(format, file, tmp_path)
    assert [record.question for record in done.records] == ["the horse", "the sky", "the grass", "a cow"]
    assert done.records[0].targets[0].box == pytest.approx((146, 137, 615, 415), abs=0.5)
    assert done.notes[-1].startswith("the numbers count thousandths")
    assert make("qwen-chat", file, tmp_path, frame="thousandths").notes == []


def test_a_frame_that_is_not_proven_stops_before_anything_is_written(tmp_path: Path):
    save_picture(tmp_path / "in/photo.jpg", 640, 428)
    file = save_lines(tmp_path / "in/chat.jsonl", chat("the horse", [147, 134, 619, 407]))
    with pytest.raises(SettingsError, match="its 1 boxes do not prove it"):
        make("qwen-chat", file, tmp_path)
    assert not (tmp_path / "out").exists()


def test_shares_can_be_declared(tmp_path: Path):
    save_picture(tmp_path / "in/photo.jpg", 640, 428)
    file = save_lines(tmp_path / "in/chat.jsonl", chat("it", [0.25, 0.5, 0.75, 1.0]), chat("outside", [0, 0, 1.5, 0.5]))
    done = make("qwen-chat", file, tmp_path, frame="fractions")
    assert done.records[0].targets[0].box == (160, 214, 480, 428)
    assert "(outside)" in done.rejected[0].reason


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_what_export_writes_for_a_family_comes_back_proven_or_by_declaration(tmp_path: Path, family: str):
    picture = save_picture(tmp_path / "in/photo.jpg", 640, 428)
    sides = [(0, 0, 640, 428), (0, 0, 320, 428), (10, 20, 640, 400), (300, 200, 630, 428), (5, 6, 50, 60)]
    records = [Record(f"thing {n}", picture, (Target(box=box),), id=str(n)) for n, box in enumerate(sides)]
    written = export(records, "qwen-chat", tmp_path / "there/chat.jsonl", family=family, max_tokens=1280)
    if family == "qwen2_5_vl":  # 644x420: boxes of 644 leave the picture, and 420 fits thousandths too
        with pytest.raises(SettingsError, match="resized:451584 = resized:1003520"):
            make("qwen-chat", written.file, tmp_path)
        back = make("qwen-chat", written.file, tmp_path, frame="resized:1003520")
    else:
        back = make("qwen-chat", written.file, tmp_path)
        assert "thousandths" in back.notes[0]
    for before, after in zip(records, back.records, strict=True):
        assert after.targets[0].box == pytest.approx(before.targets[0].box, abs=0.6)
