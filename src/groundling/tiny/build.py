"""The tiny model before its schooling: tokenizer, image processor, random weights.

It has every part of Qwen2.5-VL (windowed and full vision attention, merger, multimodal rotary positions, grouped keys)
at about half a million parameters, and the family's control tokens over a small byte-level vocabulary.
"""

from __future__ import annotations

import itertools

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from groundling.dialect.family import FAMILIES
from groundling.model.contract import Contract
from groundling.model.processor import Processor
from groundling.tiny.scenes import COLORS, SHAPES
from groundling.tiny.words import LEADS, NOUNS, TRAILS, WORDINGS

CONTROL_TOKENS = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
]
MAX_TOKENS = 16  # visual tokens for one picture: 112 x 112 pixels of the seen frame

# Qwen2's way of cutting text into words, single digits and runs of signs (tokenizer.json of the published models)
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer whose merges come from the words that the scenes and the answers use."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    cut = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_special_tokens(CONTROL_TOKENS)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[token for token in CONTROL_TOKENS if token not in ("<|im_end|>", "<|endoftext|>")],
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def _corpus() -> list[str]:
    """Every wording that the schooling uses and every noun, each often enough to be merged whole."""
    prompts = [*(family.prompt_template for family in FAMILIES.values()), *WORDINGS]
    names = [f"{color} {shape}" for color, shape in itertools.product(COLORS, SHAPES)]
    questions = [prompt.replace("{question}", f"the {name}") for prompt in prompts for name in names]
    answers = [f'[{{"bbox_2d": [1, 2, 3, 4], "label": "{name}"}}, {{"bbox_2d"' for name in [*names, *NOUNS]]
    sides = [f"{lead}{name}{trail}" for lead in LEADS for name in NOUNS for trail in TRAILS]
    fences = ['```json\n[\n\t{"bbox_2d": [1, 2, 3, 4], "label": "x"},\n\t{"point_2d": [1, 2]}\n]\n```', "[]"] * 20
    words = ["system\nYou are a helpful assistant.\n", "user\n", "assistant\n", '{"bbox_2d": [1, 2, 3, 4]}'] * 20
    return questions + answers + sides + fences + words


def build_processor() -> Processor:
    """The tiny model's tokenizer and image processor under its contract."""
    family = FAMILIES["qwen2_5_vl"]
    contract = Contract(
        family=family.name,
        coordinates=family.coordinates,
        patch=family.patch,
        merge=family.merge,
        min_pixels=family.token_side**2,
        max_pixels=MAX_TOKENS * family.token_side**2,
        prompt_template=family.prompt_template,
        answer_form="list",
    )
    images = Qwen2VLImageProcessorPil(min_pixels=contract.min_pixels, max_pixels=contract.max_pixels)
    return Processor(images, build_tokenizer(), contract)


def build_model(processor: Processor, *, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """The architecture with random weights, in float32."""
    ids = {token: int(processor.tokenizer.convert_tokens_to_ids(token)) for token in CONTROL_TOKENS}  # type: ignore[arg-type]
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(processor.tokenizer),
            "hidden_size": 64,
            "intermediate_size": 192,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]},
            "use_sliding_window": False,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 3,
            "hidden_size": 64,
            "intermediate_size": 192,
            "num_heads": 4,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
            "window_size": 112,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config).float()
    _widen_weights(model)
    model.generation_config = GenerationConfig(
        eos_token_id=[ids["<|im_end|>"], ids["<|endoftext|>"]], pad_token_id=ids["<|endoftext|>"], do_sample=False
    )
    return model


def _widen_weights(model: torch.nn.Module) -> None:
    """Draw matrices with a spread of 1 / sqrt(inputs) in place of the 0.02 that suits large models.

    At a width of 64 the signal all but dies in 0.02: grounding then emerges after some 1500 steps, so after some 500.
    """
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            inputs = 64 if "embed_tokens" in name else weight[0].numel()
            torch.nn.init.normal_(weight, std=inputs**-0.5)
