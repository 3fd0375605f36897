"""Generation: in batches as one by one, as transformers itself, and the model left as it was."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from families import build_family_model, build_family_processor, draw_noise, draw_samples, generate_texts
from taught import Taught
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, PreTrainedModel

from groundling.dialect.family import FAMILIES
from groundling.geometry.images import open_image
from groundling.inference import decode
from groundling.inference.batch import IGNORED, Sample, encode_question, pack_row, pad_left
from groundling.inference.generate import plan_rows
from groundling.inference.predict import Grounder, load
from groundling.model.attention import PACKED_ATTENTION, attend_padded, use_packed_attention
from groundling.model.processor import Processor
from groundling.model.tune import Adapter, add_adapter
from groundling.tiny.scenes import draw_shapes


@pytest.fixture(params=list(FAMILIES))
def processor(request: pytest.FixtureRequest) -> Processor:
    return build_family_processor(request.param)


def draw_prompts(processor: Processor, count: int = 7) -> list[Sample]:
    """Prompts of several lengths, not in the order of their lengths."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(30, 200, size=(count, 2)).tolist()
    return [
        encode_question(processor, "the mug " * (1 + number % 3), processor.see(draw_noise(rng, *size)))
        for number, size in enumerate(sizes)
    ]


def generate_plainly(model: PreTrainedModel, processor: Processor, prompt: Sample, tokens: int) -> str:
    """One answer by transformers alone."""
    ends = [processor.end_token_id, processor.pad_token_id]
    plan = GenerationConfig(do_sample=False, max_new_tokens=tokens, eos_token_id=ends, pad_token_id=ends[1])
    ids = model.generate(**processor.normalise(pad_left([prompt], processor)), generation_config=plan)  # type: ignore[operator]
    text = processor.tokenizer.decode(ids[0, len(prompt.input_ids) :])
    assert isinstance(text, str)
    return text.removesuffix("<|im_end|>").removesuffix("<|endoftext|>")


def ask(model: PreTrainedModel, processor: Processor, prompts: Sequence[Sample], batch_size: int) -> list[str]:
    return generate_texts(model, processor, prompts, batch_size=batch_size, max_new_tokens=12, free=True)


def test_answers_in_batches_are_the_answers_one_by_one_and_transformers_own(processor: Processor):
    model = build_family_model(processor)
    prompts = draw_prompts(processor)
    plain = [generate_plainly(model, processor, prompt, 12) for prompt in prompts]
    assert len(set(plain)) > 1, "answers that depend on the prompt"

    assert ask(model, processor, prompts, batch_size=1) == plain
    assert ask(model, processor, prompts, batch_size=3) == plain
    assert ask(model, processor, prompts, batch_size=100) == plain
    assert ask(model, processor, [], batch_size=3) == []


def test_answers_of_an_adapter_are_those_of_its_merged_model(processor: Processor):
    model = build_family_model(processor)
    prompts = draw_prompts(processor, count=4)
    before = ask(model, processor, prompts, batch_size=4)
    adapter = Adapter(rank=2, alpha=4, dropout=0.5, parts=("language", "vision"))
    tuned = add_adapter(model, adapter, family=processor.family.name, base="tiny").train()
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_()

    answers = ask(tuned, processor, prompts, batch_size=4)

    assert answers != before
    assert ask(tuned, processor, prompts, batch_size=1) == answers
    merged = tuned.merge_and_unload()  # type: ignore[operator]
    assert [generate_plainly(merged.eval(), processor, prompt, 12) for prompt in prompts] == answers


def test_an_answer_ends_before_its_end_token_or_where_it_is_cut(taught: Taught, grounder: Grounder):
    processor = grounder.processor
    prompts = []
    for file, question in taught.questions:
        prompts.append(encode_question(processor, question, processor.see(open_image(file))))

    whole = generate_texts(grounder.model, processor, prompts, batch_size=4, max_new_tokens=64, free=True)
    cut = generate_texts(grounder.model, processor, prompts, batch_size=4, max_new_tokens=5, free=True)

    for text, start in zip(whole, cut, strict=True):
        assert text.startswith('[{"bbox_2d": [') and text.endswith('"}]')
        assert text.startswith(start) and len(start) < len(text)


def test_the_model_is_left_as_it_was(processor: Processor):
    model = build_family_model(processor).train()
    model.model.visual.eval()  # a frozen part, say
    use_packed_attention(model)
    modes = {name: module.training for name, module in model.named_modules()}

    ask(model, processor, draw_prompts(processor, count=2), batch_size=2)

    assert {name: module.training for name, module in model.named_modules()} == modes
    config = model.config
    assert config.text_config._attn_implementation == config.vision_config._attn_implementation == PACKED_ATTENTION


def test_training_goes_on_after_answers(processor: Processor):
    """Answers leave no inference tensor and no cache behind that a backward pass would stumble on."""
    model = build_family_model(processor).train()
    use_packed_attention(model)
    row = processor.normalise(pack_row(draw_samples(processor), processor))
    labels = row.pop("labels")[0, 1:]

    losses = []
    for _ in range(2):
        loss = cross_entropy(model(**row).logits[0, :-1], labels, ignore_index=IGNORED)
        loss.backward()
        losses.append(loss.item())
        ask(model, processor, draw_prompts(processor, count=2), batch_size=2)

    assert losses[0] == losses[1]


# ---- answers side by side --------------------------------------------------------------------------------------


def test_attention_is_set_once_for_all_steps_of_an_answer(processor: Processor, monkeypatch: pytest.MonkeyPatch):
    model, prompts = build_family_model(processor), draw_prompts(processor, count=2)
    entered: list[PreTrainedModel] = []
    monkeypatch.setattr(decode, "attend_padded", lambda model: entered.append(model) or attend_padded(model))

    texts = ask(model, processor, prompts, batch_size=2)

    assert all(len(processor.tokenizer.encode(text)) > 1 for text in texts), "several steps"
    assert len(entered) == 1, "it walks through the whole model"


def draw_crowd(processor: Processor) -> list[Sample]:
    """Prompts of the bundled model about scenes of several sizes, answered by one box or by all of them."""
    rng = np.random.default_rng(3)
    prompts: list[Sample] = []
    for number in range(5):
        scene = draw_shapes(rng, most=3)
        patches = processor.see(scene.picture.resize((50 + 30 * number, 110)))
        for question in ("every object", *(f"the {placed.name}" for placed in scene.objects)):
            prompts.append(encode_question(processor, question, patches))
    return prompts


@pytest.mark.parametrize("free", [True, False])
def test_answers_that_end_apart_are_the_answers_one_by_one(free: bool):
    """Those that are complete leave the batch; the others go on with tokens, cache, mask and positions of their own."""
    grounder = load("tiny", device="cpu")
    processor = grounder.processor
    prompts = draw_crowd(processor)

    def ask(batch_size: int) -> list[str]:
        return generate_texts(grounder.model, processor, prompts, batch_size=batch_size, max_new_tokens=70, free=free)

    alone = ask(1)

    assert len({len(processor.tokenizer.encode(text)) for text in alone}) > 3, "answers of many lengths"
    assert len({prompt.patches.seen for prompt in prompts if prompt.patches}) > 3, "pictures of several sizes"
    assert ask(8) == alone


def test_rows_are_of_whole_pictures_in_the_order_of_their_lengths(tiny_processor: Processor):
    """Lengths are those of each picture's longest prompt; what has no picture stands for itself."""
    pictures = [tiny_processor.see(draw_noise(np.random.default_rng(0), 56, 56)) for _ in range(3)]

    def prompt(length: int, picture: int | None) -> Sample:
        return Sample([0] * length, [IGNORED] * length, None if picture is None else pictures[picture])

    prompts = [prompt(90, 0), prompt(30, 1), prompt(70, 2), prompt(10, None), prompt(80, 1), prompt(20, None)]

    assert plan_rows(prompts, 1) == [[3], [5], [2], [1, 4], [0]], "shortest first; a picture's questions stay together"
    assert plan_rows(prompts, 3) == [[3, 5, 2], [1, 4, 0]]
    assert plan_rows(prompts, 4) == [[3, 5, 2], [1, 4, 0]], "no picture is split where it does not fit"
    assert plan_rows(prompts, 6) == [[3, 5, 2, 1, 4, 0]]
    assert plan_rows([], 2) == []
