"""The processor: pictures to patches, and the frame they cover; the chat template around a question."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from families import build_family_processor, draw_noise
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from groundling.dialect.family import FAMILIES
from groundling.errors import ContractError
from groundling.geometry.frame import Frame
from groundling.geometry.images import MAX_ASPECT
from groundling.model.contract import read_contract
from groundling.model.processor import Processor, Turns
from groundling.tiny.build import build_processor

BUDGETS = [16, 64, 320, 1280, 16_384]  # visual tokens; the last is the published Qwen2.5-VL's


@pytest.fixture(params=list(FAMILIES))
def processor(request: pytest.FixtureRequest) -> Processor:
    return build_family_processor(request.param)


# ---- pictures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "grid", "seen"),
    [
        ("qwen2_vl", (1, 6, 8), Frame(112, 84)),  # 120 / 28 = 4.3 and 80 / 28 = 2.9 tokens, of 2 x 2 patches
        ("qwen2_5_vl", (1, 6, 8), Frame(112, 84)),
        ("qwen3_vl", (1, 4, 8), Frame(128, 64)),  # 120 / 32 = 3.75; 80 / 32 = 2.5, which rounds to even
    ],
)
def test_a_picture_is_seen_in_whole_tokens(family: str, grid: tuple[int, int, int], seen: Frame):
    processor = build_family_processor(family)
    patches = processor.see(draw_noise(np.random.default_rng(0), 120, 80))

    assert patches.grid == grid
    assert patches.seen == seen
    patch = processor.family.patch
    assert patches.pixels.shape == (grid[1] * grid[2], 3 * patch * patch)
    values = processor.normalise({"pixels": patches.pixels})["pixel_values"]
    assert values.shape == (grid[1] * grid[2], 3 * 2 * patch * patch), "each patch twice, as two moments"


def test_what_is_expected_is_what_is_seen(processor: Processor):
    rng = np.random.default_rng(0)
    small = [processor.with_contract(processor.contract.with_max_tokens(tokens)) for tokens in (1, 16, 64)]

    for width, height in rng.integers(1, 200, size=(150, 2)).tolist():
        picture = draw_noise(rng, width, height)
        for budget in small:
            seen, expected = budget.see(picture), budget.expect(Frame(width, height))
            assert (seen.grid, seen.seen) == (expected.grid, expected.seen), f"{width}x{height}"
            assert seen.seen.area == seen.pixels.shape[0] * processor.family.patch**2


@pytest.mark.parametrize("tokens", BUDGETS)
def test_expected_frames_have_the_patches_that_transformers_counts(processor: Processor, tokens: int):
    at_budget = processor.with_contract(processor.contract.with_max_tokens(tokens))
    side = processor.family.token_side
    sizes = np.exp(np.random.default_rng(tokens).uniform(0, np.log(8000), size=(20_000, 2))).astype(int)
    sizes = sizes[sizes.max(axis=1) <= MAX_ASPECT * sizes.min(axis=1)][:10_000]

    assert len(sizes) == 10_000
    for width, height in sizes.tolist():
        expected = at_budget.expect(Frame(width, height))
        rows, columns = expected.grid[1:]
        assert rows * columns == at_budget.images.get_number_of_image_patches(height, width)
        assert expected.seen.width % side == expected.seen.height % side == 0
        is_long = max(width, height) > side * tokens  # a strip has one token across, whatever the budget
        assert is_long or expected.seen.area <= at_budget.contract.max_pixels, f"{width}x{height}"


def test_another_contract_is_another_processor(processor: Processor):
    less = processor.with_contract(processor.contract.with_max_tokens(4))
    photo = Frame(640, 480)

    assert less.expect(photo).seen.area <= 4 * processor.family.token_side**2
    assert processor.expect(photo).seen.area > 4 * processor.family.token_side**2, "the first one is as it was"


# ---- tokens ----------------------------------------------------------------------------------------------------


def test_a_processor_survives_its_files(processor: Processor, tmp_path: Path):
    processor.save(tmp_path)
    contract = read_contract(tmp_path)
    assert contract == processor.contract
    images = Qwen2VLImageProcessorPil.from_pretrained(tmp_path)
    again = Processor(images, AutoTokenizer.from_pretrained(tmp_path), contract)

    assert again.turns(has_image=True) == processor.turns(has_image=True)
    assert (again.image_token_id, again.end_token_id) == (processor.image_token_id, processor.end_token_id)
    picture = draw_noise(np.random.default_rng(0), 300, 500)
    assert again.see(picture).grid == processor.see(picture).grid, "its files alone give the same budget"


def test_the_turns_are_the_chat_templates(tiny_processor: Processor):
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    asking = "<|im_end|>\n<|im_start|>assistant\n"

    with_picture = tiny_processor.turns(has_image=True)
    assert with_picture == Turns(f"{system}<|im_start|>user\n{picture}", asking, "<|im_end|>")

    words = tiny_processor.turns(has_image=False)
    assert words == Turns(f"{system}<|im_start|>user\n", asking, "<|im_end|>")


@pytest.mark.parametrize(
    "template",
    [
        "<|im_start|>user\nhello",
        "{{ messages[-1]['content'][-1]['text'] }}",
        "<|image_pad|><|image_pad|>{{ messages[-1]['content'][-1]['text'] }}",
    ],
    ids=["no question", "no picture", "two pictures"],
)
def test_a_template_that_leaves_out_the_question_or_the_picture_is_refused(template: str):
    processor = build_processor()
    processor.tokenizer.chat_template = template

    with pytest.raises(ContractError, match="does not write a picture and a question as qwen2_5_vl does"):
        processor.turns(has_image=True)


def test_a_tokenizer_without_the_familys_tokens_is_refused(tiny_processor: Processor):
    tokens = tiny_processor.tokenizer.backend_tokenizer.to_str()
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokens.replace("<|image_pad|>", "<image>")))
    processor = Processor(tiny_processor.images, other, tiny_processor.contract)

    with pytest.raises(ContractError, match=r"the tokenizer has no <\|image_pad\|>, which qwen2_5_vl models need"):
        _ = processor.image_token_id


def test_every_place_where_a_control_token_begins_is_found(tiny_processor: Processor):
    text = "a<|im_<|im_end|>b<|image_pad|>"

    places = [match.start() for match in tiny_processor.control_begins.finditer(text)]

    assert places == [text.index("<|im_end|>"), text.index("<|image_pad|>")]
