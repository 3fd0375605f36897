"""Rehearsals tell what a real step on real tensors allocates, as torch's own profiler saw it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from itertools import product
from typing import Any

import pytest
import torch
from families import CLASSES, build_family_model, build_family_processor, draw_shared_samples
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForImageTextToText, PretrainedConfig, PreTrainedModel

from groundling.inference.batch import IGNORED, pack_row, share_prefixes
from groundling.model import varlen
from groundling.model.attention import use_packed_attention
from groundling.model.processor import Processor
from groundling.model.tune import Adapter, add_adapter, freeze_parts
from groundling.training.rehearsal import Rehearsal, RowShape, _kernel, rehearse

DEEP = {"language": 6, "vision": 5}  # layers: rehearsed are three


def deep_config(processor: Processor) -> PretrainedConfig:
    """A family's small model with many layers, and widths of which weights take less than activations."""
    config: Any = copy.deepcopy(build_family_model(processor).config)
    config.text_config.num_hidden_layers, config.vision_config.depth = DEEP["language"], DEEP["vision"]
    if getattr(config.text_config, "layer_types", None):
        config.text_config.layer_types = ["full_attention"] * DEEP["language"]
    return config


def draw_row(processor: Processor) -> tuple[dict[str, Any], RowShape]:
    """A row of some 500 tokens whose questions share pictures, and its shape."""
    samples = [sample for seed in range(3) for sample in draw_shared_samples(processor, seed=seed)]
    row = pack_row(samples, processor)
    learned = int((row["labels"] != IGNORED).sum())
    grids = [tuple(grid) for grid in row["image_grid_thw"].tolist()]
    return row, RowShape(share_prefixes(samples, processor), grids, learned)  # type: ignore[arg-type]


def measure_step(model: Any, row: dict[str, Any], processor: Processor, *, autocast: bool) -> tuple[int, int]:
    """The most bytes that a real step allocates in its forward pass, and at any time, gradients left out of both."""
    labels = row.pop("labels")[0, 1:]
    learned = (labels != IGNORED).nonzero().flatten()
    batch = processor.normalise(row)
    marks: list[int] = []
    freed: list[int] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda weight: freed.append(weight.grad.nbytes))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            logits = model(**batch, logits_to_keep=learned).logits[0]
            loss = cross_entropy(logits.float(), labels[learned], reduction="sum")
            del logits
        with torch.profiler.record_function("backward begins"):
            marks.append(0)
        loss.backward()
    events = sorted(seen.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    begins = next(event.start_ns() for event in events if event.name() == "backward begins")
    live, forward, most = 0, 0, 0
    for event in events:
        if event.name() == "[memory]":
            live += event.nbytes()
            most = max(most, live)
            forward = most if event.start_ns() < begins else forward
    return forward, most


def expect(found: Rehearsal, gradients: int) -> int:
    """The most at any time of a step that begins without gradients."""
    vision = 0 if found.vision_backward is None else found.vision_backward.total
    return max(found.forward.total, found.language_backward.total, vision + gradients)


LORA = Adapter(8, 16, 0.1, ["language"])
METHODS: dict[str, Callable[[PreTrainedModel, str], PreTrainedModel]] = {
    "full": lambda model, family: model,
    "frozen tower": lambda model, family: (freeze_parts(model, ["vision", "merger"]), model)[1],
    "lora": lambda model, family: add_adapter(model, LORA, family=family, base="x"),
}


USUAL = {  # what stands for the rest in the normal run
    ("qwen2_vl", "lora", True, "bfloat16", True),
    ("qwen2_5_vl", "full", True, "autocast", True),
    ("qwen2_5_vl", "full", False, "float32", False),
    ("qwen3_vl", "frozen tower", False, "autocast", True),
}
CASES = [
    pytest.param(*case, marks=() if case in USUAL else pytest.mark.slow, id="-".join(map(str, case)))
    for case in product(CLASSES, METHODS, (False, True), ("float32", "autocast", "bfloat16"), (False, True))
]


@pytest.mark.parametrize(("family", "method", "checkpointing", "arithmetic", "kernel"), CASES)
def test_a_real_step_takes_what_was_rehearsed(
    family: str, method: str, checkpointing: bool, arithmetic: str, kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 5 %, by torch's own account of what it allocated."""
    processor = build_family_processor(family)
    config = deep_config(processor)
    row, shape = draw_row(processor)
    dtype = torch.bfloat16 if arithmetic == "bfloat16" else torch.float32
    autocast = arithmetic == "autocast"
    has_kernel = kernel and arithmetic != "float32"
    if has_kernel:
        monkeypatch.setattr(varlen, "find_kernel", lambda _: _kernel)

    model: Any = AutoModelForImageTextToText.from_config(copy.deepcopy(config), dtype=dtype).train()
    use_packed_attention(model)
    tuned: Any = METHODS[method](model, family)
    if checkpointing:
        tuned.gradient_checkpointing_enable({"use_reentrant": False})
        tuned.disable_input_require_grads()  # as in training: test_train
    forward, most = measure_step(tuned, row, processor, autocast=autocast)

    found = rehearse(
        config,
        shape,
        dtype=dtype,
        autocast=autocast,
        checkpointing=checkpointing,
        prepare=lambda bare: METHODS[method](bare, family),
        has_kernel=has_kernel,
    )
    language = sum(p.nbytes for n, p in tuned.named_parameters() if p.requires_grad and "visual" not in n)
    assert found.forward.total == pytest.approx(forward, rel=0.05)
    assert expect(found, language) == pytest.approx(most, rel=0.05)
