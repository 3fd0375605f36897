"""Tiny random models of each family, and processors under each family's contract: the real classes, no schooling."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from groundling.data.record import Record, Target
from groundling.dialect.family import FAMILIES
from groundling.geometry.frame import Frame
from groundling.inference.batch import Sample, encode_record, encode_seen
from groundling.inference.generate import generate_tokens
from groundling.model.contract import Contract
from groundling.model.processor import Processor
from groundling.tiny.build import build_tokenizer

# Four heads of 16, so that a head has 8 pairs of rotary angles: 2 + 3 + 3 of them for time, row, column
TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
    "tie_word_embeddings": True,
}
CLASSES: dict[str, tuple[type, type[PreTrainedModel], dict[str, Any], dict[str, Any]]] = {
    "qwen2_vl": (
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        {},
        {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2},
    ),
    "qwen2_5_vl": (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        {},
        {
            **{"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64},
            **{"fullatt_block_indexes": [1], "window_size": 56},
        },
    ),
    "qwen3_vl": (
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        {"head_dim": 16},
        {
            **{"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64},
            **{"num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
        },
    ),
}


def build_family_processor(name: str, *, max_tokens: int = 64) -> Processor:
    """The tiny model's tokenizer, with the image processor and the contract of a family."""
    family = FAMILIES[name]
    budget = {"min_pixels": family.token_side**2, "max_pixels": max_tokens * family.token_side**2}
    contract = Contract(
        family=family.name,
        coordinates=family.coordinates,
        patch=family.patch,
        merge=family.merge,
        prompt_template=family.prompt_template,
        answer_form=family.answer_form,
        **budget,
    )
    images = Qwen2VLImageProcessorPil(patch_size=family.patch, merge_size=family.merge)
    return Processor(images, build_tokenizer(), contract).with_contract(contract)


def build_family_model(processor: Processor, *, seed: int = 0) -> PreTrainedModel:
    """The processor's family in its smallest, with weights large enough that answers depend on every part."""
    config_class, model_class, text, vision = CLASSES[processor.family.name]
    token_ids = processor.tokenizer.convert_tokens_to_ids
    tokens = {
        "vocab_size": len(processor.tokenizer),
        "bos_token_id": processor.pad_token_id,
        "eos_token_id": processor.end_token_id,
        "pad_token_id": processor.pad_token_id,
    }
    config = config_class(
        text_config=TEXT | text | tokens,
        vision_config=vision,
        image_token_id=processor.image_token_id,
        video_token_id=token_ids("<|video_pad|>"),
        vision_start_token_id=token_ids("<|vision_start|>"),
        vision_end_token_id=token_ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = model_class(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)  # the usual 0.02 leaves attention nearly even, and mistakes in it small
    return model.eval()


def draw_samples(processor: Processor, *, seed: int = 0) -> list[Sample]:
    """Questions with answers about pictures of three sizes, two samples of one length, and one without a picture."""
    rng = np.random.default_rng(seed)
    found = Target(box=(1, 2, 30, 40), label="mug")
    sizes = [(120, 80), (200, 150), (64, 64), (120, 80)]
    samples = [
        encode_record(processor, Record(question="the mug", image=None, targets=(found,)), draw_noise(rng, *size))
        for size in sizes
    ]
    words = Record(question=f"what is {seed} and {seed}?", image=None, answer="twice as much")
    return [samples[0], encode_record(processor, words, None), *samples[1:]]


def draw_shared_samples(processor: Processor, *, seed: int = 0) -> list[Sample]:
    """As `draw_samples`, with three more questions about the first picture, of several lengths, spread over the row."""
    rng = np.random.default_rng(seed + 1)
    first, *others = draw_samples(processor, seed=seed)
    picture = draw_noise(rng, 120, 80)
    patches, original = processor.see(picture), Frame(*picture.size)
    box = Target(box=(5, 6, 70, 30), label="cat")
    records = [
        Record(question="the cat", image=None, targets=(box,)),
        Record(question="the dog", image=None),
        Record(question="Which animal is in the picture?", image=None, answer="A cat."),
        Record(question="the cat", image=None, targets=(box, Target(box=(1, 2, 3, 4), label="cat"))),
    ]
    shared = [encode_seen(processor, record, original, patches) for record in records]
    return [shared[0], first, *shared[1:3], *others, shared[3]]


def draw_noise(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A picture in which every pixel differs."""
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def generate_texts(model: PreTrainedModel, processor: Processor, prompts: list[Sample], **options: Any) -> list[str]:
    """What a model's tokens spell, one text a prompt."""
    answers = generate_tokens(model, processor, prompts, **options)
    return ["".join(token.text for token in answer.tokens) for answer in answers]
