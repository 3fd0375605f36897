"""The loss: a mean over the answer tokens of the whole global batch, however it is cut into rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn import Recipe, changed_weights, read_metrics, read_weights
from torch.nn.functional import cross_entropy

import groundling as gl
from groundling.geometry.images import open_image
from groundling.inference.batch import IGNORED, encode_record
from groundling.model.load import find_checkpoint, load_model, load_processor

# Plain gradient descent, so that parameters are as close as gradients are
ONE_STEP = {"max_steps": 1, "learning_rate": 0.1, "max_grad_norm": 1e9}
DESCENT = {"optim": "sgd"}


def losses_alone(records: list[gl.Record], model_folder: Path) -> list[torch.Tensor]:
    """The loss of each answer token, record by record, each alone in the model with stock attention and positions."""
    checkpoint = find_checkpoint(str(model_folder))
    model, processor = load_model(checkpoint, dtype=torch.float32).eval(), load_processor(checkpoint)
    losses: list[torch.Tensor] = []
    for record in records:
        assert record.image is not None
        sample = encode_record(processor, record, open_image(record.image))
        assert sample.patches is not None
        ids = torch.tensor([sample.input_ids])
        with torch.no_grad():
            logits = model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=(ids == processor.image_token_id).int(),
                **processor.normalise({"pixels": sample.patches.pixels}),
                image_grid_thw=torch.tensor([sample.patches.grid]),
            ).logits[0, :-1]
        labels = torch.tensor(sample.labels[1:])
        losses.append(cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")[labels != IGNORED])
    return losses


def test_the_logged_loss_is_the_mean_over_all_answer_tokens(
    recipe: Recipe, scenes: Path, tiny_model_folder: Path
) -> None:
    alone = losses_alone(gl.read_records(scenes / "uneven.jsonl"), tiny_model_folder)
    lengths = [len(losses) for losses in alone]
    assert max(lengths) > 5 * min(lengths), "the answers are to be of very different lengths"
    run = gl.train(recipe(data={"train": str(scenes / "uneven.jsonl")}, train=ONE_STEP | {"batch_size": 4}))
    found = read_metrics(run)[0]["loss"]
    assert found == pytest.approx(torch.cat(alone).mean().item(), abs=2e-5)
    assert abs(found - torch.stack([losses.mean() for losses in alone]).mean().item()) > 1e-3, "not a mean of means"


@pytest.mark.parametrize(("batch_size", "accumulate"), [(2, 2), (1, 4)])
def test_accumulated_rows_make_the_step_of_one_row(
    recipe: Recipe, scenes: Path, batch_size: int, accumulate: int
) -> None:
    data = {"train": str(scenes / "uneven.jsonl")}
    whole = gl.train(recipe("whole", data=data, train=ONE_STEP | {"batch_size": 4}, trainer=DESCENT))
    cut = ONE_STEP | {"batch_size": batch_size, "accumulate": accumulate}
    parts = gl.train(recipe("parts", data=data, train=cut, trainer=DESCENT))
    expected, found = read_weights(whole / "final"), read_weights(parts / "final")
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-6, msg=name)
    assert read_metrics(parts)[0]["loss"] == pytest.approx(read_metrics(whole)[0]["loss"], abs=1e-5)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(
    "rows",
    [{"batch_size": 8}, {"pack_tokens": 8192}, {"pack_tokens": 500, "accumulate": 8, "share_pictures": False}],
    ids=["shared", "packed", "packed apart"],
)
def test_however_rows_are_made_the_step_is_the_same(
    recipe: Recipe, scenes: Path, tmp_path: Path, method: str, rows: dict[str, Any]
) -> None:
    """Eight questions about two pictures: in one row or in several, each picture seen once, or for each question."""
    records = gl.read_records(scenes / "uneven.jsonl")
    asked = [
        replace(record, image=records[number % 2].image, question=f"{words} {record.question}", id=f"{words} {number}")
        for words in ("find", "where is")
        for number, record in enumerate(records)
    ]
    asked[1::2] = [replace(record, question="the same") for record in asked[1::2]]  # with answers of their own
    assert len({record.image for record in asked[1::2]}) == 1 and len({record.targets for record in asked[1::2]}) == 2
    gl.write_records(asked, tmp_path / "asked.jsonl")

    def run_step(name: str, train: dict[str, Any]) -> Path:
        return gl.train(
            recipe(
                name,
                data={"train": str(tmp_path / "asked.jsonl"), "allow_absolute": True},
                tune={"method": method, "lora": {"dropout": 0}},
                train=ONE_STEP | {"batch_size": 1} | train,
                trainer=DESCENT,
            )
        )

    run = run_step("rows", rows)
    apart = run_step("apart", {"accumulate": 8, "share_pictures": False})

    found, expected = read_weights(run / "final"), read_weights(apart / "final")
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-6, msg=name)
    assert read_metrics(run)[0]["loss"] == pytest.approx(read_metrics(apart)[0]["loss"], abs=1e-5)


def test_a_blank_picture_beside_words_alone_changes_nothing(
    recipe: Recipe, scenes: Path, tiny_model_folder: Path
) -> None:
    """Rows of words alone carry a blank picture: the vision tower gets gradients of zero, the words their own."""
    run = gl.train(recipe(data={"train": str(scenes / "words.jsonl")}, train=ONE_STEP, trainer=DESCENT))
    changed = changed_weights(tiny_model_folder, run / "final")
    assert changed
    assert not [name for name in changed if "visual" in name]


def test_label_smoothing_is_what_torch_calls_it(recipe: Recipe, scenes: Path) -> None:
    plain = gl.train(recipe("plain", train=ONE_STEP))
    smooth = gl.train(recipe("smooth", train=ONE_STEP, trainer={"label_smoothing_factor": 0.5}))
    assert read_metrics(smooth)[0]["loss"] != read_metrics(plain)[0]["loss"]


def test_logits_are_made_where_there_are_labels_and_nowhere_else(
    recipe: Recipe, scenes: Path, tiny_model_folder: Path
) -> None:
    learned = sum(map(len, losses_alone(gl.read_records(scenes / "uneven.jsonl"), tiny_model_folder)))
    words = len(load_processor(find_checkpoint(str(tiny_model_folder))).tokenizer)
    positions: list[int] = []

    def count(part: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        if isinstance(part, torch.nn.Linear) and part.training and part.out_features >= words:
            positions.append(given[0].shape[:-1].numel())

    hook = torch.nn.modules.module.register_module_forward_pre_hook(count)
    try:
        gl.train(recipe(data={"train": str(scenes / "uneven.jsonl")}, train=ONE_STEP | {"batch_size": 4}))
    finally:
        hook.remove()
    assert positions == [learned]
