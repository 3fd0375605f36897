"""What a model thought of its answers: the probabilities are its own, whatever stood beside them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import build_family_model, build_family_processor, draw_noise
from transformers import PreTrainedModel

import groundling as gl
from groundling.dialect.family import FAMILIES
from groundling.dialect.score import Written
from groundling.inference import generate
from groundling.inference.batch import Sample, encode_question, pad_left
from groundling.inference.decode import read_prompts, write_answers
from groundling.inference.generate import generate_tokens
from groundling.inference.lines import ForcedLine, FreeLine, Line, choose
from groundling.model.processor import Processor
from groundling.tiny.scenes import draw_shapes

SEEDS = {"qwen2_vl": 0, "qwen2_5_vl": 0, "qwen3_vl": 3}  # of random models that have much to say


@pytest.fixture(params=list(FAMILIES))
def processor(request: pytest.FixtureRequest) -> Processor:
    return build_family_processor(request.param)


def build_model(processor: Processor) -> PreTrainedModel:
    return build_family_model(processor, seed=SEEDS[processor.family.name])


def draw_prompts(processor: Processor) -> list[Sample]:
    """Seven questions about three pictures of several sizes."""
    rng = np.random.default_rng(0)
    pictures = [processor.see(draw_noise(rng, *size)) for size in ((60, 90), (120, 40), (33, 33))]
    return [encode_question(processor, "the mug " * (1 + place % 4), pictures[place % 3]) for place in range(7)]


def log_probabilities(model: PreTrainedModel, processor: Processor, prompt: Sample, tokens: list[int]) -> torch.Tensor:
    """(tokens, vocabulary) by one plain pass over the prompt and what was answered to it."""
    whole = Sample(prompt.input_ids + tokens, prompt.labels + tokens, prompt.patches)
    with torch.inference_mode():
        logits = model.eval()(**processor.normalise(pad_left([whole], processor))).logits[0]
    return logits[len(prompt.input_ids) - 1 : -1].log_softmax(dim=-1)


@pytest.mark.parametrize("free", [True, False])
def test_chances_are_those_of_one_pass_over_the_written_answer(processor: Processor, free: bool):
    model, prompts = build_model(processor), draw_prompts(processor)
    lines: list[Line] = []
    for prompt in prompts:
        assert prompt.patches is not None
        frame, end = processor.family.text_frame(prompt.patches.seen), processor.family.end_token
        forced = ForcedLine(processor.vocabulary, processor.contract.answer_form, frame, end, 100)
        lines.append(FreeLine([processor.end_token_id], 20) if free else forced)

    with torch.inference_mode():
        write_answers(model.eval(), processor, read_prompts(model, processor, prompts), range(len(prompts)), lines)

    asked = 0
    for line, prompt in zip(lines, prompts, strict=True):
        truth = log_probabilities(model, processor, prompt, line.tokens)
        assert len(line.tokens) == len(line.chances)
        for place, chance in enumerate(line.chances):
            if chance is not None:
                own = truth[place, line.tokens[place]].item()
                assert np.log(chance.token) == pytest.approx(own, abs=1e-4)
                digits = truth[place, processor.vocabulary.digits].tolist()
                assert np.log(chance.digits).tolist() == pytest.approx(digits, abs=1e-4)
                asked += 1
    assert asked > 60
    assert free == all(chance is not None for line in lines for chance in line.chances)


def flat(answers: list[list[Written]]) -> list[float]:
    return [number for answer in answers for _, chance in answer if chance for number in (chance.token, *chance.digits)]


def test_chances_are_the_same_in_batches_one_by_one_and_in_transformers_loop(
    processor: Processor, monkeypatch: pytest.MonkeyPatch
):
    model, prompts = build_model(processor), draw_prompts(processor)

    def ask(batch_size: int) -> list[list[Written]]:
        answers = generate_tokens(model, processor, prompts, batch_size=batch_size, max_new_tokens=100)
        return [answer.tokens for answer in answers]

    alone = ask(1)
    assert len(flat(alone)) > 500
    assert flat(ask(3)) == pytest.approx(flat(alone), abs=1e-5)
    monkeypatch.setattr(generate, "is_spread", lambda _: True)
    spread = ask(3)
    assert flat(spread) == pytest.approx(flat(alone), abs=1e-5)
    assert [[token.text for token in answer] for answer in spread] == [
        [token.text for token in answer] for answer in alone
    ]


def test_a_boxs_score_is_the_same_alone_in_a_batch_and_beside_others_about_its_picture():
    grounder, rng = gl.load("tiny", device="cpu"), np.random.default_rng(3)
    scenes = [draw_shapes(rng, most=3) for _ in range(4)]
    asked = [(scene.picture, text) for scene in scenes for text in ("every object", f"the {scene.objects[0].name}")]

    together = grounder.predict_many(asked)

    scores = [answer.scores.tolist() for answer in together if answer.scores is not None]
    assert len(scores) == len(asked)
    assert max(map(len, scores)) > 1
    assert all(0 < score <= 1 for some in scores for score in some)
    assert len({round(score, 4) for some in scores for score in some}) > 8
    for (picture, text), those in zip(asked, scores, strict=True):
        alone = grounder.predict(picture, text).scores
        assert alone is not None
        assert alone.tolist() == pytest.approx(those, abs=1e-5)
    free = grounder.predict_many(asked, free=True)
    for own, other in zip(together, free, strict=True):
        assert own.text == other.text
        assert own.scores == pytest.approx(other.scores, abs=0.05), "the form, too, has to be chosen there"


def test_a_model_that_breaks_is_sure_of_nothing(tiny_processor: Processor):
    frame = gl.Frame(112, 112)
    line = ForcedLine(tiny_processor.vocabulary, "list", frame, tiny_processor.family.end_token, 100)
    logits = torch.full((1, len(tiny_processor.tokenizer)), torch.nan)

    ((_, chance),) = choose(logits, [line], tiny_processor.vocabulary)

    assert (chance.token, *chance.digits) == (0.0,) * 11
