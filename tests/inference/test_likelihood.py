"""Likelihoods of given answers: the negative loss, however samples share rows and pictures."""

from __future__ import annotations

import pytest
import torch
from families import build_family_model, build_family_processor, draw_shared_samples
from torch.nn.functional import cross_entropy

from groundling.dialect.family import FAMILIES
from groundling.inference import likelihood
from groundling.inference.batch import IGNORED, Sample, pack_row
from groundling.inference.likelihood import answer_likelihoods
from groundling.model.attention import attend_packed


@pytest.mark.parametrize("family", FAMILIES)
def test_each_is_the_negative_loss_of_its_sample_alone(family: str, monkeypatch: pytest.MonkeyPatch):
    processor = build_family_processor(family)
    model, samples = build_family_model(processor), draw_shared_samples(processor)

    def loss(sample: Sample) -> float:
        row = pack_row([sample], processor)
        labels = row.pop("labels")
        with torch.no_grad(), attend_packed(model):
            logits = model(**processor.normalise(row)).logits
        return float(cross_entropy(logits[0, :-1].float(), labels[0, 1:], ignore_index=IGNORED))

    together = answer_likelihoods(model, processor, samples)
    monkeypatch.setattr(likelihood, "_ROW_TOKENS", 1)
    apart = answer_likelihoods(model, processor, samples)

    for sample, one, alone in zip(samples, together, apart, strict=True):
        assert one.tokens == alone.tokens == sum(label != IGNORED for label in sample.labels)
        assert one.mean == pytest.approx(-loss(sample), abs=1e-5)
        assert alone.mean == pytest.approx(one.mean, abs=1e-5)
    assert len({round(one.mean, 4) for one in together}) == len(samples), "each its own"
    assert answer_likelihoods(model, processor, []) == []
