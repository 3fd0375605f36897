"""Packed rows: each sample as if it were alone, in all three families."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from families import build_family_model, build_family_processor, draw_samples, draw_shared_samples
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers import PreTrainedModel

from groundling.dialect.family import FAMILIES
from groundling.errors import ContractError
from groundling.inference.batch import IGNORED, Sample, pack_row, pad_left
from groundling.model import attention
from groundling.model.attention import (
    PACKED_ATTENTION,
    attend_padded,
    packed_attention,
    use_packed_attention,
)
from groundling.model.layout import Layout, Stretch, equal_places
from groundling.model.processor import Processor
from groundling.model.tune import Adapter, add_adapter

ADAPTER = Adapter(rank=4, alpha=8, dropout=0, parts=("vision", "language"))

# ---- by hand ---------------------------------------------------------------------------------------------------


def test_equal_shapes_stand_together():
    assert equal_places([(5, 0), (7, 0), (5, 0), (5, 7)]) == [[0, 2], [1], [3]]
    assert equal_places([]) == []


def lengths(*several: int) -> Layout:
    """Stretches that see themselves only."""
    return Layout([Stretch(length) for length in several])


def attend(values: Sequence[float], **options: Any) -> list[float]:
    """What one head answers for each token where query and key are 0, so that every visible token weighs the same."""
    zeros = torch.zeros(1, 1, len(values), 1)
    shown = torch.tensor(values, dtype=torch.float32).reshape(1, 1, -1, 1)
    found, weights = packed_attention(torch.nn.Module(), zeros, zeros, shown, **options)
    assert weights is None
    assert found.shape == (1, len(values), 1, 1)
    return found.flatten().tolist()


def test_a_token_sees_itself_and_what_came_before_in_its_sample():
    assert attend([8, 2, 4], is_causal=True, layout=lengths(1, 2)) == [8, 2, 3]
    assert attend([8, 2, 4], is_causal=True, layout=lengths(3)) == pytest.approx([8, 5, 14 / 3])


def test_a_token_sees_the_prefix_that_its_stretch_goes_on_from():
    row = [Stretch(1), Stretch(3), Stretch(2, prefix=2, root=1), Stretch(1, prefix=1, root=1)]

    assert attend([100, 2, 4, 90, 6, 8, 4], is_causal=True, layout=Layout(row)) == [100, 2, 3, 32, 4, 5, 3]


def test_stretches_of_one_shape_on_several_prefixes_keep_apart():
    row = [Stretch(2), Stretch(1, prefix=2, root=0), Stretch(2), Stretch(1, prefix=2, root=2)]

    assert attend([1, 3, 5, 10, 30, 50], is_causal=True, layout=Layout(row)) == [1, 2, 3, 10, 20, 30]


def test_stretches_of_one_shape_are_one_call(monkeypatch: pytest.MonkeyPatch):
    calls: list[tuple[int, ...]] = []

    def attend_counted(query: torch.Tensor, *states: torch.Tensor, **options: Any) -> torch.Tensor:
        calls.append(tuple(query.shape[::2]))
        return scaled_dot_product_attention(query, *states, **options)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", attend_counted)
    row = [Stretch(2), Stretch(1, prefix=2), Stretch(3), Stretch(2), Stretch(1, prefix=2, root=3), Stretch(1)]

    attend([1, 3, 5, 10, 30, 50, 6, 8, 2, 4], is_causal=True, layout=Layout(row))

    assert calls == [(2, 2), (2, 1), (1, 3), (1, 1)], "stretches of a call, and their length"


def test_a_patch_sees_all_of_its_window():
    windows = torch.tensor([0, 1, 3, 4], dtype=torch.int32)

    assert attend([8, 2, 4, 6], is_causal=False, cu_seq_lens_q=windows) == [8, 3, 3, 6]


def test_the_order_survives_lengths_that_come_again_and_empty_ones():
    assert attend([1, 3, 9, 5, 7], is_causal=False, layout=lengths(2, 1, 0, 2)) == [2, 2, 9, 6, 6]


def test_the_vision_towers_own_bounds_go_before_the_rows():
    windows = torch.tensor([0, 2, 4])

    assert attend([1, 3, 5, 7], is_causal=False, cu_seq_lens_q=windows, layout=lengths(1)) == [2, 2, 6, 6]


def test_fewer_keys_than_queries_are_shared():
    query, key = torch.zeros(1, 4, 2, 1), torch.zeros(1, 2, 2, 1)
    values = torch.tensor([[2.0, 4.0], [10.0, 30.0]]).reshape(1, 2, 2, 1)

    found, _ = packed_attention(torch.nn.Module(), query, key, values, is_causal=True, layout=lengths(2))

    assert found[0, :, :, 0].tolist() == [[2, 2, 10, 10], [3, 3, 20, 20]]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layout": Layout([Stretch(2)])},
        {"layout": Layout([Stretch(3)]), "attention_mask": torch.ones(1, 3)},
        {"layout": Layout([Stretch(3)]), "sliding_window": 2},
    ],
    ids=["no layout", "too short", "a mask", "a sliding window"],
)
def test_what_cannot_be_a_packed_row_is_refused(options: dict[str, Any]):
    with pytest.raises(AssertionError, match="a packed"):
        attend([1, 2, 3], is_causal=True, **options)


# ---- a packed row is its samples alone -------------------------------------------------------------------------


@pytest.fixture(params=list(FAMILIES))
def processor(request: pytest.FixtureRequest) -> Processor:
    return build_family_processor(request.param)


def run_packed(model: PreTrainedModel, samples: Sequence[Sample], processor: Processor) -> list[torch.Tensor]:
    """Logits of each sample (tokens, vocabulary), from one row; those of a prefix are of the sample it belongs to."""
    row = processor.normalise(pack_row(samples, processor))
    del row["labels"]
    use_packed_attention(model)
    own = model(**row).logits[0].split([stretch.length for stretch in row["layout"].stretches])
    return [torch.cat([own[at.root][: at.prefix], part]) for at, part in zip(row["layout"].stretches, own, strict=True)]


def run_padded(model: PreTrainedModel, samples: Sequence[Sample], processor: Processor) -> list[torch.Tensor]:
    """Logits of each sample (tokens, vocabulary), side by side under transformers' own attention and positions."""
    model.set_attn_implementation({"text_config": "sdpa", "vision_config": "sdpa"})
    logits = model(**processor.normalise(pad_left(samples, processor))).logits
    return [row[-len(sample.input_ids) :] for row, sample in zip(logits, samples, strict=True)]


def gradients(model: PreTrainedModel, samples: Sequence[Sample], logits: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of the loss on all answers, by parameter."""
    model.zero_grad()
    losses = [
        cross_entropy(found[:-1], torch.tensor(sample.labels[1:]), ignore_index=IGNORED, reduction="sum")
        for found, sample in zip(logits, samples, strict=True)
    ]
    torch.stack(losses).sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert len(found) == sum(parameter.requires_grad for parameter in model.parameters()), "every weight takes part"
    return found


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable.:FutureWarning")  # its other name came with 5.23
@pytest.mark.parametrize("checkpointed", [False, True], ids=["", "checkpointed"])
@pytest.mark.parametrize("shared", [False, True], ids=["apart", "shared"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_packed_row_equals_a_padded_batch_in_logits_and_gradients(
    processor: Processor, method: str, shared: bool, checkpointed: bool
):
    model = build_family_model(processor).train()
    if method == "lora":
        model = add_adapter(model, ADAPTER, family=processor.family.name, base="tiny")
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # else zero, and half of the gradients with them
                torch.nn.init.normal_(parameter, std=0.1)
    samples = draw_shared_samples(processor) if shared else draw_samples(processor)
    padded = run_padded(model, samples, processor)
    expected = gradients(model, samples, padded)

    if checkpointed:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    packed = run_packed(model, samples, processor)
    found = gradients(model, samples, packed)

    for alone, joined in zip(padded, packed, strict=True):
        torch.testing.assert_close(joined, alone, atol=1e-5, rtol=0)
    differences = {name: (found[name] - gradient).norm() for name, gradient in expected.items()}
    whole = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    assert torch.stack(list(differences.values())).norm() <= 1e-6 * whole
    for name, difference in differences.items():
        allowed = 1e-5 * expected[name].norm() + 1e-7 * whole
        assert difference <= allowed, f"{name}: {difference} of {expected[name].norm()}"


def test_a_shared_picture_is_seen_once(processor: Processor):
    samples = draw_shared_samples(processor)

    row = pack_row(samples, processor)

    pictures = {id(sample.patches): sample.patches for sample in samples if sample.patches is not None}
    assert row["image_grid_thw"].tolist() == [list(patches.grid) for patches in pictures.values()]
    shown = sum(sample.input_ids.count(processor.image_token_id) for sample in samples)
    assert row["input_ids"].eq(processor.image_token_id).sum() < shown
    assert sum(stretch.prefix > 0 for stretch in row["layout"].stretches) == 3
    assert row["labels"].ne(IGNORED).sum() == sum(label != IGNORED for one in samples for label in one.labels)


@torch.no_grad()
def test_a_changed_question_changes_no_other_about_its_picture(processor: Processor):
    model = build_family_model(processor)
    samples = draw_shared_samples(processor)
    before = run_packed(model, samples, processor)
    for place in [place for place, sample in enumerate(samples) if sample.patches is samples[0].patches]:
        changed = samples[place]._replace(input_ids=[*samples[place].input_ids[:-3], 5, 6, 7])
        after = run_packed(model, [*samples[:place], changed, *samples[place + 1 :]], processor)
        for number, (old, new) in enumerate(zip(before, after, strict=True)):
            difference = (old - new).abs().max()
            assert (difference > 1e-3) if number == place else (difference <= 1e-6), (place, number, difference)


@torch.no_grad()
def test_a_changed_sample_changes_no_other(processor: Processor):
    model = build_family_model(processor)
    samples, others = draw_samples(processor, seed=0), draw_samples(processor, seed=1)
    before = run_packed(model, samples, processor)

    for place in range(len(samples)):
        changed = [*samples[:place], others[place], *samples[place + 1 :]]
        after = run_packed(model, changed, processor)
        for number, (old, new) in enumerate(zip(before, after, strict=True)):
            difference = (old - new).abs().max()
            assert (difference > 1e-3) if number == place else (difference <= 1e-6), (place, number, difference)


@torch.no_grad()
def test_without_its_layout_the_row_would_be_one_long_sample(processor: Processor):
    model = build_family_model(processor)
    samples = draw_samples(processor)
    row = processor.normalise(pack_row(samples, processor))
    kept = run_packed(model, samples, processor)[-1]

    row["layout"] = lengths(row["input_ids"].shape[1])
    mixed = model(**row).logits[0, -len(kept) :]

    assert (mixed - kept).abs().max() > 1e-2, "the tests above could not see contamination"


@torch.no_grad()
def test_a_row_of_one_sample_is_a_plain_forward(processor: Processor):
    model = build_family_model(processor)

    for sample in draw_samples(processor):
        (alone,) = run_padded(model, [sample], processor)
        (packed,) = run_packed(model, [sample], processor)
        torch.testing.assert_close(packed, alone, atol=1e-6, rtol=0)


def test_layers_that_would_mix_samples_are_refused():
    model = build_family_model(build_family_processor("qwen2_5_vl"))
    model.config.text_config.layer_types = ["linear_attention", "full_attention"]

    with pytest.raises(ContractError, match="its layers of linear_attention would mix the samples of a row"):
        use_packed_attention(model)


# ---- switching -------------------------------------------------------------------------------------------------


def attention_of(model: PreTrainedModel) -> tuple[str, str]:
    return model.config.text_config._attn_implementation, model.config.vision_config._attn_implementation


def test_answering_pads_the_words_and_packs_the_pictures_for_a_while(processor: Processor):
    model = build_family_model(processor)
    model.set_attn_implementation({"text_config": "eager", "vision_config": "sdpa"})

    with pytest.raises(KeyError, match="stop"), attend_padded(model):
        assert attention_of(model) == ("sdpa", PACKED_ATTENTION)
        raise KeyError("stop")

    assert attention_of(model) == ("eager", "sdpa")


def test_a_saved_model_does_not_ask_for_our_attention(processor: Processor, tmp_path: Path):
    model = build_family_model(processor)
    use_packed_attention(model)

    model.save_pretrained(tmp_path)

    assert attention_of(model) == (PACKED_ATTENTION, PACKED_ATTENTION)
    assert PACKED_ATTENTION not in (tmp_path / "config.json").read_text(encoding="utf-8")
