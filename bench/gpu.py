"""Speed of a training step on one GPU, and what each of groundling's ideas adds to it.

    python bench/gpu.py --questions 1 4 --sizes 1024x768 560x420 --json FILE       Qwen2.5-VL-3B, all weights
    python bench/gpu.py --method lora
    python bench/gpu.py --device cpu --geometry tiny --steps 1 --sizes 112x84 --pictures 2     that it runs, in a minute

Random weights in the shape of the published model, float32 with bfloat16 arithmetic (LoRA: bfloat16), made-up pictures
and boxes. An arm is a way to take the same optimizer step over the same samples: with everything, with one idea left
out, and `plain`: padded batches, logits of every token, float pictures, torch's attention, as a stock Trainer has it.
All arms have to come to the same loss, and with everything both towers have to call the kernel. `share` is of the
bfloat16 matrix rate measured in the same run, counting the products of the linear layers for the tokens that the arm
really has, three times (forward, and both gradients).
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers
from PIL import Image
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from groundling.data.record import Record, Target
from groundling.geometry.frame import Frame
from groundling.inference.batch import IGNORED, Sample, encode_seen, pack_row, pad_left
from groundling.model import varlen
from groundling.model.attention import use_packed_attention
from groundling.model.processor import Processor
from groundling.model.tune import Adapter, add_adapter
from groundling.tiny.build import build_processor

TEXT = {
    "3b": {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1280,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
    },
}
VISION = {
    "3b": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 2048,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
    "tiny": {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [1],
    },
}


@dataclass(frozen=True)
class Arm:
    """A way to take a step."""

    name: str
    shares: bool = True  # questions about one picture have it once
    packs: bool = True  # samples end to end, none padded
    lean: bool = True  # logits where there are labels only
    kernel: bool = True  # one call of the varlen kernel for the whole row
    joins_windows: bool = True  # a picture's windows in one call, not one each
    ships_bytes: bool = True  # pixels become floats on the device


EVERYTHING = Arm("everything")
PLAIN = Arm("plain", shares=False, packs=False, lean=False, kernel=False, joins_windows=False, ships_bytes=False)
ARMS = [
    EVERYTHING,
    replace(EVERYTHING, name="no sharing", shares=False),
    replace(EVERYTHING, name="no sharing, padded", shares=False, packs=False),
    replace(EVERYTHING, name="all logits", lean=False),
    replace(EVERYTHING, name="no kernel", kernel=False),
    replace(EVERYTHING, name="windows apart", joins_windows=False),
    replace(EVERYTHING, name="float pictures", ships_bytes=False),
    PLAIN,
]
SIZES = [Frame(1024, 768), Frame(560, 420)]


# ---- what is trained, and on what ------------------------------------------------------------------------------


def build_model(geometry: str, processor: Processor, method: str, device: str) -> PreTrainedModel:
    """Random weights on the device: in float32 to train them all, in bfloat16 under adapters."""
    token = processor.tokenizer.convert_tokens_to_ids
    ends = {"bos_token_id": None, "eos_token_id": processor.end_token_id, "pad_token_id": processor.pad_token_id}
    config = Qwen2_5_VLConfig(
        text_config=TEXT[geometry] | ends | {"tie_word_embeddings": True, "max_position_embeddings": 32768},
        vision_config=VISION[geometry] | {"window_size": 112, "patch_size": 14, "spatial_merge_size": 2},
        image_token_id=processor.image_token_id,
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = Qwen2_5_VLForConditionalGeneration(config)
    model = model.to(torch.bfloat16 if method == "lora" and device != "cpu" else torch.float32)
    if method == "lora":
        model = add_adapter(model, Adapter(16, 32, 0.0, ("language",)), family="qwen2_5_vl", base="random")
    return model.train()


def draw_samples(processor: Processor, size: Frame, pictures: int, questions: int) -> list[list[Sample]]:
    """So many questions, each with a box, about each of so many pictures."""
    rng = np.random.default_rng(0)
    drawn: list[list[Sample]] = []
    for _ in range(pictures):
        levels = rng.integers(0, 256, (size.height, size.width, 3), dtype=np.uint8)
        patches = processor.see(Image.fromarray(levels))
        corners = rng.uniform(0, 0.5, (questions, 2)) * size.size_wh
        boxes = np.hstack([corners, corners + rng.uniform(20, 200, (questions, 2))])
        records = [
            Record(f"where is sign number {number}?", None, (Target(box=tuple(box), label="sign"),))
            for number, box in enumerate(boxes.tolist())
        ]
        drawn.append([encode_seen(processor, record, size, patches) for record in records])
    return drawn


def cut_into_rows(
    groups: Sequence[Sequence[Sample]], arm: Arm, row_tokens: int, picture_token: int
) -> list[list[Sample]]:
    """Samples that go through the model together, in whole groups where they share pictures."""
    units = groups if arm.shares else [[sample] for group in groups for sample in group]
    takes: list[int] = []
    for first, *others in units:
        takes.append(len(first.input_ids))
        takes[-1] += sum(len(one.input_ids) - one.input_ids.count(picture_token) for one in others)
    size = max(1, row_tokens // max(takes))
    rows = [units[start : start + size] for start in range(0, len(units), size)]
    return [[sample for unit in row for sample in unit] for row in rows]


def make_batch(samples: Sequence[Sample], arm: Arm, processor: Processor) -> dict[str, Any]:
    """What the model takes, and `labels`, on the CPU."""
    if arm.shares:
        batch = pack_row(samples, processor)
    elif arm.packs:
        apart = [one._replace(patches=None if one.patches is None else one.patches._replace()) for one in samples]
        batch = pack_row(apart, processor)
    else:
        batch: dict[str, Any] = pad_left(samples, processor)
        width = batch["input_ids"].shape[1]
        labels = [[IGNORED] * (width - len(one.labels)) + one.labels for one in samples]
        batch |= {"labels": torch.tensor(labels), "use_cache": False}
    return batch if arm.ships_bytes else processor.normalise(batch)


# ---- a step ----------------------------------------------------------------------------------------------------


@contextmanager
def attending(model: PreTrainedModel, arm: Arm) -> Iterator[Counter[str]]:
    """The model's attention as the arm has it; counts the kernel's calls by tower, `vision` and `language`."""
    find_kernel, calls = varlen.find_kernel, Counter[str]()

    def find_counted(device: torch.device) -> varlen.Kernel | None:
        kernel = find_kernel(device) if arm.kernel else None

        def call(query: Any, key: Any, value: Any, bounds: Any, causal: bool, scaling: float | None) -> torch.Tensor:
            calls["language" if causal else "vision"] += 1
            return kernel(query, key, value, bounds, causal, scaling)

        return None if kernel is None else call

    with ExitStack() as stack:
        use_packed_attention(model)
        if not arm.packs:
            model.set_attn_implementation({"text_config": "sdpa"})
        if not arm.joins_windows:
            model.set_attn_implementation({"vision_config": "sdpa"})
        stack.enter_context(mock.patch.object(varlen, "find_kernel", find_counted))
        yield calls


def take_step(
    model: PreTrainedModel, batches: Sequence[dict[str, Any]], arm: Arm, processor: Processor, optimizer: Any
) -> float:
    """One optimizer step over the batches; the loss, a mean over all learned tokens."""
    learned = sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batches)
    device = next(model.parameters()).device
    total = torch.zeros((), device=device)
    for batch in batches:
        here = {
            name: value.to(device, non_blocking=True) if torch.is_tensor(value) else value
            for name, value in batch.items()
        }
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = find_loss(model, processor.normalise(here), arm) / learned
        loss.backward()
        total += loss.detach()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total.item()


def find_loss(model: PreTrainedModel, inputs: dict[str, Any], arm: Arm) -> torch.Tensor:
    """Summed over the learned tokens."""
    labels = inputs.pop("labels")[:, 1:]
    if arm.lean and arm.packs:
        kept = (labels[0] != IGNORED).nonzero().flatten()
        return cross_entropy(model(**inputs, logits_to_keep=kept).logits[0].float(), labels[0][kept], reduction="sum")
    logits = model(**inputs).logits[:, :-1].float()
    return cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")


# ---- measuring -------------------------------------------------------------------------------------------------


def measure(model: PreTrainedModel, arm: Arm, groups: Any, processor: Processor, options: Any) -> dict[str, Any]:
    """One arm's figures; a message in their place where it does not fit the memory."""
    on_gpu = options.device != "cpu"
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, fused=on_gpu)  # moves nothing, so that all arms see one model
    rows = cut_into_rows(groups, arm, options.row_tokens, processor.image_token_id)
    batches = [make_batch(row, arm, processor) for row in rows]
    tokens = sum(batch["input_ids"].numel() for batch in batches)
    samples = sum(map(len, groups))
    with attending(model, arm) as calls:
        losses: list[float] = []
        try:
            products = count_products(model, batches, arm, processor)
            losses += [take_step(model, batches, arm, processor, optimizer) for _ in range(2)]
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
                torch.cuda.synchronize()
            started = time.perf_counter()
            losses += [take_step(model, batches, arm, processor, optimizer) for _ in range(options.steps)]
            seconds = (time.perf_counter() - started) / options.steps
        except torch.cuda.OutOfMemoryError:
            return {"arm": arm.name, "error": "out of memory; try --row-tokens or --pictures with less"}
        finally:
            optimizer.zero_grad(set_to_none=True)
    return {
        "arm": arm.name,
        "samples_per_second": samples / seconds,
        "tokens_per_second": tokens / seconds,
        "rows": len(rows),
        "kernel_calls": dict(calls),
        "tokens_per_sample": tokens / samples,
        "memory_gigabytes": torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None,
        "operations_per_second": 3 * products / seconds if options.method == "full" else None,
        "loss": losses[0],
    }


@torch.no_grad()
def count_products(model: PreTrainedModel, batches: Any, arm: Arm, processor: Processor) -> int:
    """Floating-point operations of the linear layers in a forward pass over the batches."""
    counted = [0]

    def count(layer: Any, given: Any, _: Any) -> None:
        counted[0] += 2 * given[0].numel() * layer.out_features

    hooks = [part.register_forward_hook(count) for part in model.modules() if isinstance(part, torch.nn.Linear)]
    device = next(model.parameters()).device
    try:
        for batch in batches:
            here = {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                find_loss(model, processor.normalise(here), arm)
    finally:
        for hook in hooks:
            hook.remove()
    return counted[0]


def matrix_rate(device: str) -> float:
    """Operations a second of large products in bfloat16."""
    side, rounds = (8192, 30) if device != "cpu" else (512, 3)
    one = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    for _ in range(3):
        one @ one
    if device != "cpu":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(rounds):
        one @ one
    if device != "cpu":
        torch.cuda.synchronize()
    return 2 * side**3 * rounds / (time.perf_counter() - started)


def name_kernel(device: str) -> str:
    """Whose kernel `varlen` has, and whether it serves this device."""
    if varlen.load_kernel() is None:
        return "none"
    owner = "torch's" if find_spec("torch.nn.attention.varlen") else "flash-attn's"
    usable = varlen.find_kernel(torch.device(device)) is not None
    return owner if usable else f"{owner}, not usable on {'a CPU' if device == 'cpu' else 'this device'}"


def main() -> None:
    options = read_options()
    processor = build_processor()
    processor = processor.with_contract(processor.contract.with_max_tokens(1280))
    rate = matrix_rate(options.device)
    model = build_model(options.geometry, processor, options.method, options.device)
    named = torch.cuda.get_device_name() if options.device != "cpu" else "CPU"
    kernel = name_kernel(options.device)
    print(f"{named}, torch {torch.__version__}, transformers {transformers.__version__}, varlen kernel: {kernel}")
    print(f"bfloat16 matrix products: {rate / 1e12:.2f} tera-operations a second\n")
    results: list[dict[str, Any]] = []
    for size in options.sizes:
        for questions in options.questions:
            groups = draw_samples(processor, size, options.pictures, questions)
            print(f"{size}, {questions} questions a picture, {options.pictures} pictures a step, {options.method}")
            for arm in [arm for arm in ARMS if arm.name in options.arms]:
                found = measure(model, arm, groups, processor, options)
                results.append({"size": str(size), "questions": questions} | found)
                print(as_line(found, rate), flush=True)
            refuse_other_losses(results[-len(options.arms) :])
            if options.device != "cpu":
                refuse_idle_kernel(results[-len(options.arms) :])
            print()
    if options.json:
        about = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "device": named, "matrix_rate": rate}
        written = about | {"options": vars(options), "results": results}
        options.json.write_text(json.dumps(written, indent=1, default=str))


def as_line(found: dict[str, Any], rate: float) -> str:
    if "error" in found:
        return f"  {found['arm']:20} {found['error']}"
    memory = found["memory_gigabytes"]
    share = found["operations_per_second"]
    return (
        f"  {found['arm']:20} {found['samples_per_second']:8.2f} samples/s  {found['tokens_per_second']:8.0f} tokens/s"
        f"  {f'{memory:6.1f} GB' if memory else ''}  {f'share {share / rate:.2f}' if share else ''}"
        f"  {found['rows']} rows  loss {found['loss']:.5f}"
    )


def refuse_other_losses(results: Sequence[dict[str, Any]]) -> None:
    """A faster step to another loss would be no result."""
    losses = {found["arm"]: found["loss"] for found in results if "loss" in found}
    if losses and max(losses.values()) - min(losses.values()) > 5e-3 * max(losses.values()):
        raise SystemExit(f"the arms' losses differ: {losses}")


def refuse_idle_kernel(results: Sequence[dict[str, Any]]) -> None:
    """On a GPU the arm with everything has the kernel in both towers, or it is not what its name says."""
    for found in results:
        if found["arm"] == EVERYTHING.name and "error" not in found:
            idle = {"vision", "language"} - found["kernel_calls"].keys()
            if idle:
                towers = " and ".join(sorted(idle))
                raise SystemExit(f"{towers}: the varlen kernel was never called (not in 16 bits, or too old a GPU)")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--geometry", choices=TEXT, default="3b")
    parser.add_argument("--method", choices=("full", "lora"), default="full")
    parser.add_argument("--sizes", nargs="+", type=read_size, default=SIZES, help="of the pictures, as 1024x768")
    parser.add_argument("--questions", nargs="+", type=int, default=[1, 4], help="about a picture")
    parser.add_argument("--pictures", type=int, default=16, help="in an optimizer step")
    parser.add_argument("--row-tokens", type=int, default=5000, help="of the language model in one pass, at most")
    parser.add_argument("--steps", type=int, default=5, help="timed, after two that are not")
    parser.add_argument("--arms", nargs="+", choices=[arm.name for arm in ARMS], default=[arm.name for arm in ARMS])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error("torch finds no GPU; `--device cpu --geometry tiny --steps 1` shows that it runs")
    return options


def read_size(text: str) -> Frame:
    try:
        width, height = map(int, text.split("x"))
        return Frame(width, height)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no width and height in pixels, as 1024x768") from None


if __name__ == "__main__":
    main()
