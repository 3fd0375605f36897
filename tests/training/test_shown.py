"""Samples read back: every token shown once, characters whole, and nothing invisible."""

from __future__ import annotations

import pytest
from PIL import Image

import groundling as gl
from groundling.inference.batch import IGNORED, answer_pieces, encode_record, encode_seen
from groundling.model.processor import Processor
from groundling.training.shown import Chip, Span, make_visible, show_sample, spans_of

PHOTO = gl.Frame(224, 112)  # seen at 140x56 pixels by 5x2 visual tokens
MUG = gl.Record("the mug", None, (gl.Target(box=(16, 8, 32, 56), label="mug"),), id="1")


def canvas() -> Image.Image:
    return Image.new("RGB", PHOTO.size_wh, "teal")


def test_what_is_learned_is_the_answer_that_was_written(tiny_processor: Processor) -> None:
    patches = tiny_processor.see(canvas())
    sample = encode_seen(tiny_processor, MUG, PHOTO, patches)
    shown = show_sample(sample, tiny_processor)
    written = "".join(piece.text for piece in answer_pieces(tiny_processor, MUG, PHOTO, patches.seen))
    assert patches.seen == gl.Frame(140, 56)
    assert written == '[{"bbox_2d": [10, 4, 20, 28], "label": "mug"}]'
    assert shown.learned == f"{written}<|im_end|>"
    assert shown.answer is not None and shown.answer.boxes.xyxy.tolist() == [[10, 4, 20, 28]]
    assert shown.answer.labels == ["mug"]
    assert shown.prompt.count("10 x <|image_pad|>") == 1 and shown.prompt.endswith("<|im_start|>assistant\\n")


def test_every_token_is_shown_once_in_order(tiny_processor: Processor) -> None:
    sample = encode_record(tiny_processor, MUG, canvas())
    shown = show_sample(sample, tiny_processor)
    assert [token for chip in shown.chips for token in chip.ids] == sample.input_ids
    assert shown.counts["learned"] == sum(label != IGNORED for label in sample.labels)
    assert shown.counts["picture"] == 10 and shown.tokens == len(sample.input_ids)
    assert [span.kind for span in shown.spans] == ["prompt", "picture", "prompt", "learned"]
    digits = [chip.text for chip in shown.chips if chip.kind == "learned" and chip.text.isdigit()]
    assert digits == ["2", "1", "0", "4", "2", "0", "2", "8"], "a token each; the first is that of bbox_2d"


def test_the_label_of_a_token_decides_what_it_is(tiny_processor: Processor) -> None:
    sample = encode_record(tiny_processor, MUG, canvas())
    leaky = sample._replace(labels=[IGNORED] * 4 + sample.input_ids[4:])
    assert show_sample(leaky, tiny_processor).counts == {
        "picture": 0,
        "prompt": 4,
        "learned": len(sample.input_ids) - 4,
    }


def test_tokens_of_one_character_stand_together(tiny_processor: Processor) -> None:
    words = gl.Record("cat", None, answer="a \u732b \N{REPLACEMENT CHARACTER}.")
    shown = show_sample(encode_record(tiny_processor, words, None), tiny_processor)
    cat = next(chip for chip in shown.chips if "\u732b" in chip.text)
    assert cat.text == "\u732b" and len(cat.ids) == 3, "its bytes in UTF-8, as this tokenizer has no merges for them"
    assert shown.learned == "a \u732b \N{REPLACEMENT CHARACTER}.<|im_end|>"
    assert shown.picture is None and shown.answer is None


def test_control_tokens_are_told_from_words_that_look_like_them(tiny_processor: Processor) -> None:
    record = gl.Record("the <|im_end|>", None, answer="no")
    shown = show_sample(encode_record(tiny_processor, record, None), tiny_processor)
    whole = [chip for chip in shown.chips if chip.text == "<|im_end|>"]
    assert shown.prompt.count("<|im_end|>") == 3 and len(whole) == 3, "system, user, answer"
    assert all(chip.is_control for chip in whole)
    assert Chip("<", (whole[0].ids[0],), "prompt", True) not in shown.chips


def test_the_picture_is_that_of_the_patches(tiny_processor: Processor) -> None:
    picture = show_sample(encode_record(tiny_processor, MUG, canvas()), tiny_processor).picture
    assert picture is not None and picture.size == (140, 56) and picture.getpixel((70, 28)) == (0, 128, 128)


@pytest.mark.parametrize(
    ("text", "seen"),
    [("a b", "a b"), ("a\nb\t", r"a\nb\t"), ("\x1b[31m", r"\x1b[31m"), ("\u202edet", r"\u202edet"), ("\xa0", r"\xa0")],
)
def test_what_cannot_be_seen_is_written_out(text: str, seen: str) -> None:
    assert make_visible(text) == seen


def test_spans_end_where_kind_or_sample_changes() -> None:
    assert spans_of(["prompt", "learned", "learned", "prompt"], [0, 0, 1, 1]) == [
        *(Span("prompt", 1, 0), Span("learned", 1, 0), Span("learned", 1, 1), Span("prompt", 1, 1)),
    ]
