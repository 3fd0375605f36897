"""Lines held to a grammar: whatever the model says can be read, and what a taught model says is what it would have."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from families import build_family_model, build_family_processor, draw_noise, generate_texts
from hypothesis import given, settings
from hypothesis import strategies as st
from taught import Taught

from groundling.dialect.answer import Item, read_answer, write_answer
from groundling.dialect.family import FAMILIES, AnswerForm
from groundling.dialect.prompt import Piece
from groundling.geometry.boxes import Boxes
from groundling.geometry.frame import Frame
from groundling.inference import generate
from groundling.inference.batch import Sample, encode_pieces, encode_question
from groundling.inference.lines import MOST_LABEL_TOKENS, ForcedLine, FreeLine, choose
from groundling.inference.predict import Grounder
from groundling.model.processor import Processor

END = "<|im_end|>"
FORMS = get_args(AnswerForm)
SEEN = Frame(1036, 672)
FAMILY_OF: dict[AnswerForm, str] = {"tokens": "qwen2_vl"}  # whose frame is 1000x1000; the others' is SEEN


def frame_of(form: AnswerForm) -> Frame:
    return FAMILIES[FAMILY_OF.get(form, "qwen2_5_vl")].text_frame(SEEN)


def begin(processor: Processor, form: AnswerForm, *, most: int = 512) -> ForcedLine:
    return ForcedLine(processor.vocabulary, form, frame_of(form), END, most)


# ---- whatever the model says -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_whatever_a_model_likes_to_say_can_be_read(form: AnswerForm, tiny_processor: Processor):
    vocabulary, size = tiny_processor.vocabulary, len(tiny_processor.tokenizer)
    longest = 0
    for seed in range(40):
        rng, line = np.random.default_rng(seed), begin(tiny_processor, form, most=200)
        while line.choices is not None:
            line.write(*choose(torch.from_numpy(rng.normal(size=(1, size))), [line], vocabulary)[0])
        text = str(tiny_processor.tokenizer.decode(line.tokens))
        found = read_answer(text, family=FAMILY_OF.get(form, "qwen2_5_vl"), seen=SEEN)
        assert found.flaw is None, text
        assert (found.boxes.areas() > 0).all()
        assert len(line.tokens) <= 200 + 2 * MOST_LABEL_TOKENS, "a thing begun in time is written to its end"
        longest = max(longest, len(found.boxes) + len(found.points))
    assert longest > 1 or form == "bare"


def test_a_label_that_finds_no_end_is_given_one(tiny_processor: Processor):
    """A model that only ever wants to say `a` writes its labels, and ends."""
    vocabulary, size = tiny_processor.vocabulary, len(tiny_processor.tokenizer)
    logits = torch.zeros(1, size)
    logits[0, list(vocabulary.spell("a"))] = 9
    logits[0, list(vocabulary.spell('[{"bbox_2d": [], "label": "'))] = 5
    line = begin(tiny_processor, "list", most=10)

    while line.choices is not None:
        line.write(*choose(logits, [line], vocabulary)[0])

    (label,) = read_answer(str(tiny_processor.tokenizer.decode(line.tokens)), family="qwen2_5_vl", seen=SEEN).labels
    assert label is not None and label.startswith("a" * 47) and len(label) < 60


@pytest.mark.parametrize("label", [None, "mug"])
@pytest.mark.parametrize("form", [form for form in FORMS if form != "bare"])
def test_an_answer_that_would_go_on_without_room_ends_and_says_so(
    form: AnswerForm, label: str | None, tiny_processor: Processor
):
    """A thing that is begun in time is whole, its label ends where the model ended it, and none begins afterwards.

    What the model likes second are digits, another word, and a label's key, which would go on with the number, the
    label, and the thing.
    """
    vocabulary, size = tiny_processor.vocabulary, len(tiny_processor.tokenizer)
    frame = frame_of(form)
    second = [*vocabulary.digits, *vocabulary.spell("red"), vocabulary.spell('], "label":')[0]]

    def say(things: int, most: int) -> ForcedLine:
        items = [Item((10 + place, 20, 300, 40), label) for place in range(things)]
        learned = encode_pieces(tiny_processor, [*write_answer(items, form, frame), Piece(END, is_control=True)])
        line = begin(tiny_processor, form, most=most)
        while line.choices is not None:
            logits = torch.zeros(1, size)
            logits[0, second] = 5
            logits[0, learned[len(line.tokens)]] = 9
            (chosen,) = choose(logits, [line], vocabulary)
            assert (chosen.chance is None) == (chosen.token != learned[len(line.tokens)])
            line.write(*chosen)
        return line

    def count(line: ForcedLine) -> int:
        found = read_answer(str(tiny_processor.tokenizer.decode(line.tokens)), family=family, seen=SEEN)
        assert found.flaw is None
        assert found.labels == [label] * len(found.boxes)
        true = Boxes([(10 + place, 20, 300, 40) for place in range(len(found.boxes))], frame)
        assert found.boxes.xyxy == pytest.approx(true.to(SEEN).xyxy, abs=0.01)
        return len(found.boxes)

    family = FAMILY_OF.get(form, "qwen2_5_vl")
    whole = say(9, 512)
    assert count(whole) == 9 and not whole.is_full
    held = say(9, 100)
    assert 3 <= count(held) < 9 and held.is_full and 100 <= len(held.tokens) < 100 + 48
    assert count(say(count(held), 100)) == count(held) and not say(count(held), 100).is_full, "it wanted no more"
    again = say(9, len(whole.tokens))
    assert count(again) == 9 and not again.is_full, "room for an answer is its number of tokens"
    assert count(say(9, 1)) == 1, "one thing there always may be"


# ---- what a taught model says ----------------------------------------------------------------------------------

numbers = st.integers(0, 671)
boxes = st.tuples(numbers, numbers, numbers, numbers).filter(lambda box: box[0] < box[2] and box[1] < box[3])
labels = st.one_of(
    st.none(),
    st.sampled_from(["mug", "St. John's", 'the "best" mug', "K\u00e4se!", "a\\b", "x]}", "100 %"]),
    st.sampled_from(["...", "", "(x)", "'s", '\\"', ":", ": a"]),  # spelled together with the quotes
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="<|"), max_size=12),
)


@pytest.mark.parametrize("form", FORMS)
def test_a_right_answer_is_written_in_the_tokens_that_are_learned(form: AnswerForm, tiny_processor: Processor):
    """A model that is sure of them is never turned away from the tokens that training teaches."""

    @given(st.lists(st.builds(Item, boxes, labels), max_size=1 if form == "bare" else 3))
    @settings(deadline=None, max_examples=60)
    def every(items: list[Item]) -> None:
        pieces = [*write_answer(items, form, frame_of(form)), Piece(END, is_control=True)]
        learned = encode_pieces(tiny_processor, pieces)
        line, asked = begin(tiny_processor, form), 0
        while (choices := line.choices) is not None:
            token = learned[len(line.tokens)]
            is_open = choices.spellers is not None
            kind = tiny_processor.vocabulary.mask(choices.spellers or "any", len(tiny_processor.tokenizer), DEVICE)
            assert token in choices.tokens or (is_open and kind[token]), (line.tokens, token, choices.tokens)
            line.write(token)
            asked += 1
        assert [*line.tokens, tiny_processor.end_token_id] == learned
        if items and form != "tokens":
            assert asked < len(learned)

    every()


DEVICE = torch.device("cpu")


@pytest.mark.parametrize(("label", "tokens", "of_label"), [(None, 34, 0), ("mug", 41, 4)])
def test_most_of_a_box_is_written_without_asking(
    label: str | None, tokens: int, of_label: int, tiny_processor: Processor
):
    pieces = write_answer([Item((346, 137, 619, 407), label)], "fenced", SEEN)
    learned = encode_pieces(tiny_processor, [*pieces, Piece(END, is_control=True)])
    line, asked = begin(tiny_processor, "fenced"), 0
    while line.choices is not None:
        line.write(learned[len(line.tokens)])
        asked += 1

    # Something or nothing, a box or a point, 3 digits a number (a fourth would leave the frame), what follows the last.
    assert asked == 1 + 1 + 4 * 3 + 1 + of_label
    assert len(learned) == tokens


def test_a_taught_model_gives_the_answers_it_would_give_freely(taught: Taught, grounder: Grounder):
    free = grounder.predict_many(taught.questions, free=True)
    forced = grounder.predict_many(taught.questions)

    assert [answer.text for answer in forced] == [answer.text for answer in free]
    assert all(len(answer.boxes) == 1 for answer in forced)


# ---- with a model ----------------------------------------------------------------------------------------------


@pytest.fixture(params=list(FAMILIES))
def processor(request: pytest.FixtureRequest) -> Processor:
    return build_family_processor(request.param)


def draw_prompts(processor: Processor) -> list[Sample]:
    rng = np.random.default_rng(0)
    pictures = [processor.see(draw_noise(rng, *size)) for size in ((60, 90), (120, 40), (33, 33))]
    return [encode_question(processor, "the mug " * (1 + place % 4), pictures[place % 3]) for place in range(7)]


def test_an_untaught_model_answers_alike_in_batches_one_by_one_and_in_transformers_loop(
    processor: Processor, monkeypatch: pytest.MonkeyPatch
):
    model, prompts = build_family_model(processor), draw_prompts(processor)

    def ask(batch_size: int) -> list[str]:
        return generate_texts(model, processor, prompts, batch_size=batch_size, max_new_tokens=100)

    alone = ask(1)
    assert ask(3) == alone
    assert ask(100) == alone
    monkeypatch.setattr(generate, "is_spread", lambda _: True)
    assert ask(3) == alone
    for text, prompt in zip(alone, prompts, strict=True):
        assert prompt.patches is not None
        assert read_answer(text, family=processor.family.name, seen=prompt.patches.seen).flaw is None


def test_free_lines_end_where_the_model_or_the_limit_says():
    line = FreeLine([9], most=3)
    assert line.write(5) == [5]
    assert line.write(9) == [9]
    assert (line.tokens, line.choices) == ([5], None)
    cut = FreeLine([9], most=2)
    for token in (5, 6):
        cut.write(token)
    assert (cut.tokens, cut.choices) == ([5, 6], None)
