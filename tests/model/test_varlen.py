"""Kernels for sequences of many lengths: fed rightly, whatever torch's version, and as exact as their 16 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from families import build_family_model, build_family_processor, draw_shared_samples
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from groundling.dialect.family import FAMILIES
from groundling.inference.batch import pack_row
from groundling.model import varlen
from groundling.model.attention import attend_by_kernel, attend_by_shape, packed_attention, use_packed_attention
from groundling.model.layout import Layout, Stretch
from groundling.model.varlen import adapt_torch

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
TWIGS = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=8)


def build_layout(twigs: list[tuple[int, int]]) -> Layout:
    """Stretches of those lengths, of which every third begins anew and the others go on from its first tokens."""
    stretches: list[Stretch] = []
    for place, (length, prefix) in enumerate(twigs):
        root = place - place % 3
        prefix = 0 if root == place else min(prefix, stretches[root].length)
        stretches.append(Stretch(length, prefix, root if prefix else 0))
    return Layout(stretches)


def draw_states(tokens: int, *, heads: int = 4, key_heads: int = 2, width: int = 8, **options: Any) -> list[Any]:
    torch.manual_seed(0)
    return [torch.randn(1, count, tokens, width, **options) for count in (heads, key_heads, key_heads)]


# ---- what the kernels are told, on a stand-in that does as they do ---------------------------------------------


def attend_plainly(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    queries: torch.Tensor,
    keys: torch.Tensor,
    longest: tuple[int, int],
    *,
    causal: bool,
    scale: float | None,
) -> torch.Tensor:
    """Sequence by sequence, causal ones aligned at their ends; (T, heads, head_dim)."""
    assert queries.dtype == keys.dtype == torch.int32
    assert longest == (int(queries.diff().max()), int(keys.diff().max()))
    found: list[torch.Tensor] = []
    for first, last, start, end in zip(queries, queries[1:], keys, keys[1:], strict=False):
        own = [part.transpose(0, 1) for part in (query[first:last], key[start:end], value[start:end])]
        behind = int(end - start) - int(last - first)
        mask = torch.ones(int(last - first), int(end - start), dtype=torch.bool).tril(behind) if causal else None
        found.append(scaled_dot_product_attention(*own, attn_mask=mask, scale=scale, enable_gqa=True).transpose(0, 1))
    return torch.cat(found)


def of_2_10(query: Any, key: Any, value: Any, cq: Any, ck: Any, mq: int, mk: int, is_causal: bool = False) -> Any:
    assert query.shape[1] == key.shape[1]
    return attend_plainly(query, key, value, cq, ck, (mq, mk), causal=is_causal, scale=None)


def of_2_11(
    query: Any,
    key: Any,
    value: Any,
    cq: Any,
    ck: Any,
    mq: int,
    mk: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> Any:
    assert query.shape[1] == key.shape[1] and window_size in ((-1, -1), (-1, 0))
    return attend_plainly(query, key, value, cq, ck, (mq, mk), causal=window_size[1] == 0, scale=scale)


def of_2_12(
    query: Any,
    key: Any,
    value: Any,
    cq: Any,
    ck: Any,
    mq: int,
    mk: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Any:
    assert enable_gqa == (query.shape[1] != key.shape[1])
    return attend_plainly(query, key, value, cq, ck, (mq, mk), causal=window_size[1] == 0, scale=scale)


@pytest.mark.parametrize("function", [of_2_10, of_2_11, of_2_12])
@given(twigs=TWIGS, causal=st.booleans(), scaling=st.sampled_from([None, 0.3]))
def test_a_row_in_one_call_is_the_row_by_shapes(
    function: Callable[..., Any], twigs: list[tuple[int, int]], causal: bool, scaling: float | None
):
    layout = build_layout(twigs)
    states = draw_states(sum(layout.lengths), requires_grad=True)
    kernel = adapt_torch(function)

    expected = attend_by_shape(*states, layout, causal=causal, scaling=scaling, dropout=0)
    found = attend_by_kernel(kernel, *states, layout.bounds(torch.device("cpu")), causal=causal, scaling=scaling)

    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    weights = torch.randn_like(expected)
    for one, other in zip(
        *(torch.autograd.grad((out * weights).sum(), states) for out in (found, expected)), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_torchs_own_function_has_the_parameters_that_are_told_it():
    kernel = varlen.load_kernel()
    if kernel is None:
        pytest.skip("needs torch 2.10 or flash-attn")
    layout = build_layout([(4, 0), (2, 3)])
    with pytest.raises((RuntimeError, NotImplementedError), match=r"(?i)cpu|cuda|backend"):  # not of its parameters
        attend_by_kernel(kernel, *draw_states(6), layout.bounds(torch.device("cpu")), causal=True, scaling=None)


# ---- who gets to the kernel ------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16], ids=["32 bits", "16 bits"])
@pytest.mark.parametrize("family", FAMILIES)
def test_under_autocast_every_layer_gets_to_the_kernel(
    family: str, weights: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    """Rotary positions leave queries and keys in the type of the weights, beside values in autocast's."""
    processor = build_family_processor(family)
    model = build_family_model(processor).to(weights)
    use_packed_attention(model)
    row = processor.normalise(pack_row(draw_shared_samples(processor), processor))
    del row["labels"]
    told: list[set[torch.dtype]] = []

    def attend(query: Any, key: Any, value: Any, bounds: Any, causal: bool, scaling: float | None) -> torch.Tensor:
        told.append({query.dtype, key.dtype, value.dtype})
        return adapt_torch(of_2_12)(query, key, value, bounds, causal, scaling)

    def run(kernel: varlen.Kernel | None) -> torch.Tensor:
        monkeypatch.setattr(varlen, "find_kernel", lambda _: kernel)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return model(**row).logits

    expected, found = run(None), run(attend)
    assert told == [{torch.bfloat16}] * 4, "two layers of each tower"
    assert found.dtype == expected.dtype == torch.bfloat16
    assert (found - expected).float().norm() <= 0.02 * expected.float().norm()


def test_attention_answers_in_the_type_that_torchs_own_does(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(varlen, "find_kernel", lambda _: adapt_torch(of_2_12))
    states, layout = draw_states(5), Layout([Stretch(5)])

    for allowed, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        with torch.autocast("cpu", torch.bfloat16, enabled=allowed):
            expected = scaled_dot_product_attention(*states, is_causal=True, enable_gqa=True)
            found, _ = packed_attention(torch.nn.Module(), *states, is_causal=True, layout=layout)
        assert found.dtype == expected.dtype == dtype


@pytest.mark.parametrize(("capability", "has_one"), [((7, 5), False), ((8, 0), True), ((8, 6), True), ((12, 0), True)])
def test_older_gpus_go_without_the_kernel(capability: tuple[int, int], has_one: bool, monkeypatch: pytest.MonkeyPatch):
    kernel = adapt_torch(of_2_12)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(varlen, "load_kernel", lambda: kernel)
    varlen.find_kernel.cache_clear()

    assert varlen.find_kernel(torch.device("cuda:0")) is (kernel if has_one else None)
    assert varlen.find_kernel(torch.device("cpu")) is None
    varlen.find_kernel.cache_clear()


# ---- the kernels themselves ------------------------------------------------------------------------------------


@CUDA
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)], ids=["all heads", "shared keys"])
@pytest.mark.parametrize("causal", [True, False])
def test_the_kernel_is_as_exact_as_its_sixteen_bits(causal: bool, heads: tuple[int, int]):
    """Its outputs and gradients are as far from those in 64 bits as torch's own attention in 16 is."""
    kernel = varlen.find_kernel(torch.device("cuda:0"))
    if kernel is None:
        pytest.skip("needs a GPU of compute capability 8.0")
    layout = build_layout([(300, 0), (17, 150), (40, 299), (5, 0), (1, 5), (64, 1)])
    states = draw_states(sum(layout.lengths), heads=heads[0], key_heads=heads[1], width=64, device="cuda")
    weights = torch.randn(1, sum(layout.lengths), heads[0], 64, device="cuda")

    def run(dtype: torch.dtype, by_kernel: bool) -> list[torch.Tensor]:
        own = [part.to(dtype).requires_grad_() for part in states]
        if by_kernel:
            bounds = layout.bounds(torch.device("cuda:0"))
            out = attend_by_kernel(kernel, *own, bounds, causal=causal, scaling=None)
        else:
            out = attend_by_shape(*own, layout, causal=causal, scaling=None, dropout=0)
        return [out.detach(), *torch.autograd.grad((out * weights.to(dtype)).sum(), own)]

    exact, plain, found = run(torch.float64, False), run(torch.bfloat16, False), run(torch.bfloat16, True)
    for name, truth, usual, ours in zip(("out", "query", "key", "value"), exact, plain, found, strict=True):
        allowed = 2 * (usual.double() - truth).norm() + 1e-6 * truth.norm()
        assert (ours.double() - truth).norm() <= allowed, name


@CUDA
@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_model_gives_with_the_kernel_what_it_gives_without(family: str, monkeypatch: pytest.MonkeyPatch):
    processor = build_family_processor(family)
    model = build_family_model(processor).to("cuda", torch.bfloat16)
    use_packed_attention(model)

    def run() -> torch.Tensor:
        batch = pack_row(draw_shared_samples(processor), processor)
        on_device = {name: value.to("cuda") if torch.is_tensor(value) else value for name, value in batch.items()}
        del on_device["labels"]
        with torch.no_grad():
            return model(**processor.normalise(on_device)).logits[0].float()

    found = run()
    monkeypatch.setattr(varlen, "find_kernel", lambda _: None)
    expected = run()
    assert (found - expected).norm() <= 0.02 * expected.norm()


@CUDA
def test_thirty_two_bits_go_without_the_kernel(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(varlen, "find_kernel", lambda _: pytest.fail("the kernels hold 16 bits"))
    states = draw_states(5, device="cuda")

    packed_attention(torch.nn.Module(), *states, is_causal=True, layout=Layout([Stretch(5)]))
