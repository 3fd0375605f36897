"""What a training step keeps in memory, found by rehearsing it on tensors that have shapes and types but no numbers.

The model of a `config.json` is built with three layers of each kind, at its real widths, and goes through one row
forwards and backwards: the real classes, adapters and losses, under torch's FakeTensorMode, which computes shapes only.
Every tensor that comes into being is counted until it is gone; what the middle layer leaves behind stands for that of
all but the first and the last. Nothing here is a formula of ours, so what a new transformers keeps is counted too; what
a kernel holds while it runs is not seen.
"""

from __future__ import annotations

import copy
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, PretrainedConfig, PreTrainedModel

from groundling.model.attention import attend_by_kernel, packed_attention
from groundling.model.layout import Bounds, Layout, Stretch
from groundling.model.load import build_bare
from groundling.model.tune import spare_frozen_parts

LAYERS = 3  # of each kind: the first, behind which Qwen3-VL puts more in, one that stands for many, and the last
Section = Literal["vision", "language", "rest"]
Grid = tuple[int, int, int]  # time, rows, columns of a picture's patches

_REHEARSED = "groundling_flash_rehearsed"  # "flash", as the name of the attention that it stands in for


class RowShape(NamedTuple):
    """A packed row without its contents."""

    stretches: Sequence[Stretch]  # of tokens, pictures' among them
    grids: Sequence[Grid]  # of its pictures
    learned: int  # tokens with a label

    @property
    def tokens(self) -> int:
        """In the row."""
        return sum(stretch.length for stretch in self.stretches)

    @property
    def patches(self) -> int:
        """Of all pictures."""
        return sum(time * rows * columns for time, rows, columns in self.grids)


class Kept(NamedTuple):
    """Bytes at one moment, gradients of weights and the weights themselves left out."""

    vision: int
    language: int
    rest: int  # embeddings, merger, logits and loss; in the backward pass, what it works on

    @property
    def total(self) -> int:
        """Of all sections."""
        return sum(self)


@dataclass(frozen=True)
class Rehearsal:
    """The most that is kept in each part of a step, in bytes."""

    forward: Kept
    language_backward: Kept
    vision_backward: Kept | None  # None where nothing of the vision tower learns, so that no gradient gets there


# ---- counting --------------------------------------------------------------------------------------------------


class LiveBytes(TorchDispatchMode):
    """Counts the storages that come into being while it is on, until they are gone; not those that were `given`.

    What is made between `enter` and `leave` belongs to a section, and what is left of it then counts several times.
    """

    def __init__(self, given: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self._given = {id(storage): storage for storage in _storages(list(given))}
        self._live: dict[int, _Storage] = {}
        self._bytes: Counter[Section] = Counter()
        self._section: Section = "rest"
        self.most = Kept(0, 0, 0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*_without_masks(args), **(kwargs or {}))
        for storage in _storages(made):
            if id(storage) not in self._live and id(storage) not in self._given:
                self._count(storage)
        if self.now.total > self.most.total:
            self.most = self.now
        return made

    @property
    def now(self) -> Kept:
        """What is alive."""
        return Kept(self._bytes["vision"], self._bytes["language"], self._bytes["rest"])

    def forget_most(self) -> None:
        """Look for the most from here on."""
        self.most = self.now

    def enter(self, section: Section) -> None:
        """What is made from here on belongs to a section."""
        self._section = section
        self._entered = set(self._live)

    def leave(self, times: int) -> None:
        """What was made since `enter` and is still there counts so many times."""
        for name in self._live.keys() - self._entered:
            storage = self._live[name]
            self._live[name] = storage._replace(size=storage.size * times)
            self._bytes[storage.section] += storage.size * (times - 1)
        self._section = "rest"

    def leave_out(self, tensor: torch.Tensor) -> None:
        """Count a tensor, such as a weight's gradient, no longer."""
        self._drop(id(tensor.untyped_storage()))

    def _count(self, storage: torch.UntypedStorage) -> None:
        name, size = id(storage), storage.nbytes()
        self._live[name] = _Storage(weakref.ref(storage, lambda _: self._drop(name)), self._section, size)
        self._bytes[self._section] += size

    def _drop(self, name: int) -> None:
        if name in self._live:
            storage = self._live.pop(name)
            self._bytes[storage.section] -= storage.size


class _Storage(NamedTuple):
    alive: weakref.ref[torch.UntypedStorage]
    section: Section
    size: int  # bytes, as often as it counts


def _without_masks(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Places instead of a mask of real values in an index, as a tensor without values cannot be asked how many."""

    def places(index: Any) -> list[Any]:
        is_mask = isinstance(index, torch.Tensor) and index.dtype == torch.bool and not isinstance(index, FakeTensor)
        return list(index.nonzero().unbind(1)) if is_mask else [index]

    return tuple([one for each in arg for one in places(each)] if isinstance(arg, list) else arg for arg in args)


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


# ---- the model -------------------------------------------------------------------------------------------------


def shorten(config: PretrainedConfig) -> PretrainedConfig:
    """The configuration with three layers of each kind, as wide as before."""
    short = copy.deepcopy(config)
    text, vision = short.text_config, short.vision_config
    text.num_hidden_layers, vision.depth = LAYERS, LAYERS
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:1] * LAYERS
    for places in ("fullatt_block_indexes", "deepstack_visual_indexes"):  # Qwen2.5-VL's, Qwen3-VL's
        if getattr(vision, places, None):
            setattr(vision, places, [0])
    return short


def rehearse(
    config: PretrainedConfig,
    row: RowShape,
    *,
    dtype: torch.dtype,
    autocast: bool,
    checkpointing: bool,
    prepare: Callable[[PreTrainedModel], PreTrainedModel] = lambda model: model,
    has_kernel: bool = True,
) -> Rehearsal:
    """What the configuration's model keeps while it learns from a row, weights in `dtype`.

    `prepare` freezes parts or adds adapters. `autocast` is to bfloat16. Without a kernel for sequences of many lengths
    attention is torch's own, stretch by stretch.
    """
    bare: Any = build_bare(shorten(config), dtype=dtype)
    AttentionInterface.register(_REHEARSED, _rehearse_attention if has_kernel else packed_attention)
    bare.set_attn_implementation({"text_config": _REHEARSED, "vision_config": _REHEARSED})
    prepared = prepare(bare)
    if checkpointing:
        _checkpoint(prepared)  # as the Trainer does: last
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    with fakes:
        model = prepared.to_empty(device="cpu").train()
        bare.tie_weights()
        pixels = torch.empty(row.patches, _patch_numbers(config))
    with LiveBytes([*model.parameters(), *model.buffers(), pixels]) as live:
        return _step(model, bare, row, pixels, live, config, autocast=autocast)


def _checkpoint(model: Any) -> None:
    """Compute activations twice; transformers has another name for it from 5.23 on."""
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False})
    spare_frozen_parts(model)


def _patch_numbers(config: PretrainedConfig) -> int:
    """Numbers of a patch: colours, moments, and its area."""
    vision = config.vision_config
    return 3 * vision.temporal_patch_size * vision.patch_size**2


def _step(
    model: Any,
    bare: Any,
    row: RowShape,
    pixels: torch.Tensor,
    live: LiveBytes,
    config: PretrainedConfig,
    *,
    autocast: bool,
) -> Rehearsal:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda weight: live.leave_out(weight.grad))
    with _sections(bare, live, config), torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        batch = _batch(row, bare.config)
        with _backward_reaching_vision(bare, live) as reached:
            logits = model(**batch, pixel_values=pixels, logits_to_keep=torch.arange(row.learned)).logits[0]
        loss = cross_entropy(logits.float(), torch.zeros(row.learned, dtype=torch.long), reduction="sum")
        del logits
    forward = live.most
    live.forget_most()
    loss.backward()
    return Rehearsal(forward, reached[0], live.most) if reached else Rehearsal(forward, live.most, None)


@contextmanager
def _backward_reaching_vision(model: Any, live: LiveBytes) -> Iterator[list[Kept]]:
    """The most that was alive before the backward pass of this forward pass comes to the vision tower, once it does."""
    reached: list[Kept] = []

    def reach(_: torch.Tensor) -> None:
        reached.append(live.most)
        live.forget_most()

    def watch(_: Any, __: Any, visual_tokens: torch.Tensor) -> None:
        if visual_tokens.requires_grad:
            visual_tokens.register_hook(reach)

    hook = _find(model, "merger").register_forward_hook(watch)
    yield reached
    hook.remove()


def _batch(row: RowShape, config: PretrainedConfig) -> dict[str, Any]:
    """What the model takes: real, small tensors, as it reads sizes from them."""
    visual = row.patches // config.vision_config.spatial_merge_size**2
    ids = torch.zeros(1, row.tokens, dtype=torch.long)
    ids[0, :visual] = config.image_token_id
    return {
        "input_ids": ids,
        "position_ids": torch.zeros(4, 1, row.tokens, dtype=torch.long),
        "image_grid_thw": torch.tensor(list(row.grids)),
        "layout": Layout(row.stretches),
        "use_cache": False,
    }


@contextmanager
def _sections(model: Any, live: LiveBytes, config: PretrainedConfig) -> Iterator[None]:
    """What layers make in the forward pass is counted as theirs; of the middle one as often as others are like it."""
    hooks: list[Any] = []

    def watch(layer: Any, section: Section, times: int) -> None:
        hooks.append(layer.register_forward_pre_hook(lambda *_: live.enter(section)))
        hooks.append(layer.register_forward_hook(lambda *_: live.leave(times)))

    kinds: list[tuple[Section, Any, int]] = [
        ("vision", _find(model, "blocks"), config.vision_config.depth),
        ("language", _find(model, "layers"), config.text_config.num_hidden_layers),
    ]
    for section, layers, depth in kinds:
        for layer, times in zip(layers, (1, depth - LAYERS + 1, 1), strict=True):
            watch(layer, section, times)
    yield
    for hook in hooks:
        hook.remove()


def _find(model: Any, name: str) -> Any:
    """The vision tower's `blocks` or `merger`, the language model's `layers`."""
    inside = "language_model" if name == "layers" else "visual"
    return next(module for path, module in model.named_modules() if path.endswith(f"{inside}.{name}"))


# ---- attention -------------------------------------------------------------------------------------------------


class _Kernel(torch.autograd.Function):
    """Keeps what torch's and flash-attn's kernels keep: queries, keys, values, results, and a float32 for each sum."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        found = torch.empty_like(query)
        sums = query.new_empty(query.shape[:2], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, found, sums)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: Bounds, causal: bool, scaling: float | None
) -> torch.Tensor:
    return _Kernel.apply(query, key, value)  # type: ignore[return-value]


def _rehearse_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    layout: Layout | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """`packed_attention` on a GPU, by its kernel."""
    if torch.is_autocast_enabled(query.device.type):
        query, key, value = (states.to(torch.bfloat16) for states in (query, key, value))
    if cu_seq_lens_q is None:
        assert layout is not None, "a packed row comes with its layout"
        bounds = layout.bounds(torch.device("cpu"))
    else:
        bounds = Bounds(cu_seq_lens_q, cu_seq_lens_q, 0, 0)
    return attend_by_kernel(_kernel, query, key, value, bounds, causal=layout is not None, scaling=None), None
