"""A training from recipe to run folder: which weights change, which are kept, and when it stops."""

from __future__ import annotations

import json
import math
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn import Recipe, changed_weights, read_metrics, read_weights
from PIL import Image

import groundling as gl
from groundling.errors import TrainingError
from groundling.model.load import find_checkpoint, load_model
from groundling.model.tune import PARTS, part_of
from groundling.recipe import load_settings
from groundling.settings import Settings
from groundling.training import arguments as module
from groundling.training.arguments import build_arguments, loading_arguments
from groundling.training.checkpoint import list_checkpoints

LORA: dict[str, Any] = {"method": "lora", "lora": {"rank": 4, "alpha": 8, "dropout": 0}}
STILL = {"max_steps": 1, "learning_rate": 1e-60}  # one step, less than any float32


def parts_of(names: set[str]) -> set[str]:
    """The parts of the model that tensors belong to."""
    return {part_of(name) for name in names}


# ---- the run folder --------------------------------------------------------------------------------------------


def test_a_run_folder_has_everything(recipe: Recipe, scenes: Path) -> None:
    run = gl.train(
        recipe(
            data={"test": str(scenes / "test.jsonl")},
            evaluate={"every": 2, "sample": 4},
            run={"pictures": 3, "keep": 1},
        )
    )
    assert sorted(path.name for path in run.iterdir()) == [
        *("best", "checkpoints", "curves.png", "final", "findings.jsonl", "groundling.json", "metrics.jsonl"),
        *("model_card.md", "recipe.yaml", "report", "samples", "set-aside.jsonl"),
    ]  # fmt: skip
    assert [path.name for path in list_checkpoints(run)] == ["4"], "the newest one"
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["4"]
    for folder in ("best", "final", "checkpoints/4"):
        names = {path.name for path in (run / folder).iterdir()}
        assert names >= {"config.json", "groundling.json", "model.safetensors", "preprocessor_config.json"}
        assert names >= {"tokenizer.json", "chat_template.jinja"}
    assert load_settings(run / "recipe.yaml").run.dir == run
    for name in ("first-batch", "step-000002", "step-000004"):
        assert Image.open(run / "samples" / f"{name}.jpg").width > 1000, "three pictures side by side"
    report = json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["n"] == 6, "all test records, not the sample only"
    evaluations = [line for line in read_metrics(run) if "acc@0.5" in line]
    assert [line["step"] for line in evaluations] == [2, 4]


def test_a_run_has_learned(recipe: Recipe) -> None:
    run = gl.train(recipe(train={"max_steps": 20, "learning_rate": 3e-3}))
    losses = [line["loss"] for line in read_metrics(run)]
    assert losses[-1] < losses[0] - 1


def test_every_epoch_has_rows_of_its_own(recipe: Recipe) -> None:
    """Of a model that stays as it is, so that the same row would have the same loss again."""
    still = {"max_steps": None, "epochs": 2, "learning_rate": 1e-60}
    run = gl.train(recipe(train=still, run={"log_every": 1}))
    losses = [round(line["loss"], 4) for line in read_metrics(run) if "loss" in line]
    assert len(losses) == 10, "twenty records in rows of four, twice"
    assert not set(losses[:5]) & set(losses[5:])


# ---- which weights change --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frozen",
    [[], ["vision"], ["merger"], ["language"], ["vision", "merger"], ["vision", "language"], ["merger", "language"]],
)
def test_frozen_parts_stay_to_the_bit_and_the_others_change(
    recipe: Recipe, tiny_model_folder: Path, frozen: tuple[str, ...]
) -> None:
    run = gl.train(recipe(tune={"freeze": list(frozen)}, train={"max_steps": 2}))
    assert parts_of(changed_weights(tiny_model_folder, run / "final")) == set(PARTS) - set(frozen)


def test_each_part_has_its_own_learning_rate(recipe: Recipe, tiny_model_folder: Path) -> None:
    rates = {"vision": 1e-60, "merger": 1e-60}
    run = gl.train(recipe(train={"max_steps": 3, "learning_rate": 2e-3, "learning_rates": rates}, run={"log_every": 1}))
    assert parts_of(changed_weights(tiny_model_folder, run / "final")) == {"language"}
    assert read_metrics(run)[0]["learning_rate"] == pytest.approx(2e-3), "train.learning_rate is the one that is logged"


def test_lora_leaves_the_base_and_names_it(recipe: Recipe, tiny_model_folder: Path) -> None:
    run = gl.train(recipe(tune=LORA, train={"max_steps": 3}))
    adapter = read_weights(run / "final")
    assert adapter and all("lora_" in name for name in adapter)
    assert any(tensor.any() for name, tensor in adapter.items() if "lora_B" in name), "B starts at zero and has moved"
    assert not (run / "final" / "model.safetensors").exists()
    config = json.loads((run / "final" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == str(tiny_model_folder)
    tuned: Any = load_model(find_checkpoint(str(run)), dtype=torch.float32)
    base = load_model(find_checkpoint(str(tiny_model_folder)), dtype=torch.float32).state_dict()
    kept = {name: tensor for name, tensor in tuned.get_base_model().state_dict().items() if "lora_" not in name}
    assert {name.replace(".base_layer", ""): None for name in kept}.keys() == base.keys()
    assert all(torch.equal(tensor, base[name.replace(".base_layer", "")]) for name, tensor in kept.items())


# ---- starting from an earlier run ------------------------------------------------------------------------------


def test_full_from_full(recipe: Recipe) -> None:
    first = gl.train(recipe("first"))
    second = gl.train(recipe("second", model={"name": str(first)}, train=STILL))
    assert not changed_weights(first / "final", second / "final")


def test_lora_from_lora_goes_on_with_the_adapter(recipe: Recipe, tiny_model_folder: Path) -> None:
    first = gl.train(recipe("first", tune=LORA))
    second = gl.train(recipe("second", model={"name": str(first)}, tune=LORA, train=STILL))
    assert not changed_weights(first / "final", second / "final")
    config = json.loads((second / "final" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == str(tiny_model_folder)


def test_lora_from_lora_wants_the_same_adapter(recipe: Recipe) -> None:
    first = gl.train(recipe("first", tune=LORA, train={"max_steps": 1}))
    other = {"method": "lora", "lora": {"rank": 8, "alpha": 9, "dropout": 0.1}}
    with pytest.raises(gl.SettingsError, match=r"rank=4, not 8; tune\.lora\.alpha=8\.0, not 9\.0; set the recipe so"):
        gl.train(recipe("second", model={"name": str(first)}, tune=other))


def test_lora_from_lora_wants_adapters_in_the_same_parts(recipe: Recipe) -> None:
    first = gl.train(recipe("first", tune=LORA, train={"max_steps": 1}))
    both = LORA | {"lora": LORA["lora"] | {"parts": ["vision", "language"]}}
    with pytest.raises(gl.SettingsError, match=r"parts=\[language\], not \[language,vision\]; set the recipe so"):
        gl.train(recipe("second", model={"name": str(first)}, tune=both))


@pytest.mark.parametrize(("before", "dropout"), [(0, 0.5), (0.5, 0)])
def test_lora_from_lora_goes_on_with_the_recipes_dropout(recipe: Recipe, before: float, dropout: float) -> None:
    def lora(dropout: float) -> dict[str, Any]:
        return {"method": "lora", "lora": {"rank": 4, "alpha": 8, "dropout": dropout}}

    train = {"max_steps": 2, "learning_rate": 1e-3}
    first = gl.train(recipe("first", tune=lora(before), train=train))
    goes_on, as_before = (
        gl.train(recipe(name, model={"name": str(first)}, tune=lora(each), train=train))
        for name, each in (("on", dropout), ("as", before))
    )
    assert changed_weights(goes_on / "final", as_before / "final"), "it is trained with"
    told = json.loads((goes_on / "final" / "adapter_config.json").read_text(encoding="utf-8"))
    assert told["lora_dropout"] == dropout


def test_full_from_lora_starts_with_the_product_merged_in(recipe: Recipe, tiny_model_folder: Path) -> None:
    first = gl.train(recipe("first", tune=LORA, train={"max_steps": 3, "learning_rate": 1e-2}))
    second = gl.train(recipe("second", model={"name": str(first)}, train=STILL))
    changed = changed_weights(tiny_model_folder, second / "final")
    assert changed and all("layers." in name and "visual" not in name and "norm" not in name for name in changed)
    name, adapter = next(iter(changed)), read_weights(first / "final")
    key = name.removesuffix(".weight").split("layers.")[1]
    product = next(
        adapter[found.replace("lora_A", "lora_B")] @ adapter[found]
        for found in adapter
        if f"language_model.layers.{key}.lora_A" in found
    )
    merged, base = read_weights(second / "final")[name], read_weights(tiny_model_folder)[name]
    torch.testing.assert_close(merged, base + product * 8 / 4)


def test_lora_from_full_names_the_run(recipe: Recipe) -> None:
    first = gl.train(recipe("first"))
    second = gl.train(recipe("second", model={"name": str(first)}, tune=LORA, train={"max_steps": 1}))
    config = json.loads((second / "final" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == str(first / "final"), "where any other program finds it too"


# ---- best, patience --------------------------------------------------------------------------------------------


def test_best_holds_the_weights_of_the_best_score(recipe: Recipe, scenes: Path) -> None:
    """That there is nothing to find is soon learned; then no evaluation is better, and the weights go on changing."""
    none = str(scenes / "none.jsonl")
    run = gl.train(
        recipe(
            data={"train": none, "test": none},
            train={"max_steps": 60, "learning_rate": 3e-3},
            evaluate={"every": 5, "metric": "none_recall", "max_new_tokens": 4, "patience": 2},
            run={"keep": 20},
        )
    )
    scores = {line["step"]: line["none_recall"] for line in read_metrics(run) if "none_recall" in line}
    best = max(scores, key=lambda step: (scores[step], -step))
    last = max(scores)
    assert scores[best] == 1 and last == best + 2 * 5 < 60, "patience: two evaluations that were no better"
    assert not changed_weights(run / "best", run / "checkpoints" / str(best))
    assert changed_weights(run / "best", run / "final")
    assert not changed_weights(run / "final", run / "checkpoints" / str(last))
    report = json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["metrics"]["none_recall"] == 1, "the report is about the best weights"


def test_a_metric_that_nothing_is_measured_by_is_refused(recipe: Recipe, scenes: Path, tmp_path: Path) -> None:
    data = {"test": str(scenes / "test.jsonl")}
    with pytest.raises(gl.SettingsError, match=r"evaluate\.metric is none_recall, which applies to none of the 6"):
        gl.train(recipe(data=data, evaluate={"every": 2, "metric": "none_recall"}))


def test_evaluations_leave_the_training_as_it_is(recipe: Recipe, scenes: Path) -> None:
    data, three = {"test": str(scenes / "test.jsonl")}, {"max_steps": 3}
    for name, tune in (("full", {}), ("lora", LORA | {"lora": {"rank": 4, "dropout": 0.5}})):
        without = gl.train(recipe(f"{name} without", tune=tune, train=three))
        watched = gl.train(recipe(f"{name} with", tune=tune, train=three, data=data, evaluate={"every": 2}))
        assert not changed_weights(without / "final", watched / "final")


# ---- numbers that are none -------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_the_run(recipe: Recipe, tmp_path: Path) -> None:
    file = recipe(train={"learning_rate": 1e30, "warmup": 0.5, "max_steps": 12}, run={"save_every": 1, "log_every": 1})
    with pytest.raises(TrainingError, match=r"the loss is not finite after \d+ steps; the last finite") as stopped:
        gl.train(file)
    run = tmp_path / "run"
    last = list_checkpoints(run)[-1]
    assert f"the last finite checkpoint is {last}." in str(stopped.value)
    assert all(torch.isfinite(tensor).all() for tensor in read_weights(last).values())
    assert not (run / "final").exists() and not (run / "best").exists()
    assert all(math.isfinite(line["loss"]) for line in read_metrics(run))


def test_weights_that_are_no_numbers_are_never_kept(recipe: Recipe, scenes: Path, tmp_path: Path) -> None:
    """A rate beyond float32 makes them infinite in the first step, whose loss was fine."""
    data = {"test": str(scenes / "test.jsonl")}
    file = recipe(data=data, train={"learning_rate": 1e39}, evaluate={"every": 1})
    with pytest.raises(TrainingError, match=r"the weight \S+ is not finite after 1 steps; no checkpoint had been"):
        gl.train(file)
    assert not list((tmp_path / "run").rglob("*.safetensors"))


# ---- settings to arguments -------------------------------------------------------------------------------------


def settings_of(**sections: Any) -> Settings:
    values = {"model": {"name": "tiny"}, "data": {"train": "a.jsonl", "test": "b.jsonl"}, "run": {"dir": "runs/x"}}
    return Settings.model_validate(values | sections)


def test_settings_reach_the_trainer() -> None:
    arguments = build_arguments(
        settings_of(
            train={
                "batch_size": 3,
                "accumulate": 2,
                "weight_decay": 0.1,
                "warmup": 0.25,
                "gradient_checkpointing": True,
            },
            evaluate={"every": 7},
            trainer={"adam_beta2": 0.95, "lr_scheduler_kwargs": {"num_cycles": 0.4}},
        )
    )
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (3, 2)
    assert arguments.adam_beta2 == 0.95 and arguments.lr_scheduler_kwargs == {"num_cycles": 0.4}
    assert (arguments.eval_steps, arguments.save_steps) == (7, 7)
    assert arguments.gradient_checkpointing, "by whichever name this transformers has for it"
    assert arguments.get_warmup_steps(40) == 10


@pytest.mark.parametrize(("share", "steps"), [(0, 0), (0.03, 2), (0.5, 20), (1, 40)])
def test_warmup_is_a_share_of_the_steps(share: float, steps: int) -> None:
    assert build_arguments(settings_of(train={"warmup": share})).get_warmup_steps(40) == steps


def test_unknown_and_refused_arguments_are_told() -> None:
    with pytest.raises(gl.SettingsError, match=r"trainer\.adam_beta22; the closest is adam_beta2, trainer\.lerning; "):
        build_arguments(settings_of(trainer={"adam_beta22": 0.95, "lerning": 2}))
    with pytest.raises(gl.SettingsError, match=r"TrainingArguments refuses the recipe: .*no_such_optimizer"):
        build_arguments(settings_of(trainer={"optim": "no_such_optimizer"}))


def test_ligers_kernels_are_taken_without_its_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(gl.SettingsError, match=r'liger-kernel is not installed; pip install "groundling\[gpu\]"'):
        build_arguments(settings_of(train={"liger": True}))
    monkeypatch.setattr(module, "find_spec", lambda _: object())
    with pytest.raises(gl.SettingsError, match="liger-kernel needs a GPU, and there is none"):
        build_arguments(settings_of(train={"liger": True}))
    monkeypatch.setattr(module, "_refuse_missing_liger", lambda: None)
    arguments = build_arguments(settings_of(train={"liger": True}))
    assert arguments.use_liger_kernel
    assert arguments.liger_kernel_config == {"cross_entropy": False, "fused_linear_cross_entropy": False}


def test_pictures_are_loaded_by_so_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert build_arguments(settings_of()).dataloader_num_workers == 0, "beside no GPU none"
    assert build_arguments(settings_of(train={"workers": 2})).dataloader_num_workers == 2
    for cores, processes, wanted in ((64, 8, 4), (16, 8, 1), (2, 1, 1), (1, 1, 1), (4, 1, 3)):
        monkeypatch.setattr(module.os, "cpu_count", lambda cores=cores: cores)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert loading_arguments(None, has_gpu=True)["dataloader_num_workers"] == wanted


def test_processes_that_load_pictures_end_by_themselves(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that do not are waited for, five seconds each, before they are killed."""
    killed: list[BaseProcess] = []
    kill = BaseProcess.terminate
    monkeypatch.setattr(BaseProcess, "terminate", lambda process: (killed.append(process), kill(process)))
    gl.train(recipe(train={"max_steps": 2, "workers": 2}))
    assert not killed and not active_children()


def test_bf16_runs_on_a_cpu(recipe: Recipe) -> None:
    exact, rounded = gl.train(recipe("exact")), gl.train(recipe("rounded", train={"bf16": True}))
    losses = [[line["loss"] for line in read_metrics(run)] for run in (exact, rounded)]
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.02)
    assert all(tensor.dtype == torch.float32 for tensor in read_weights(rounded / "final").values())


def test_weights_that_are_trained_in_bf16_are_warned_of(recipe: Recipe, caplog) -> None:
    gl.train(recipe(model={"dtype": "bfloat16"}, train={"max_steps": 1}))
    assert "model.dtype is bfloat16: steps smaller than 1/256 of a weight are rounded away" in caplog.text


FROZEN = {"lora": {"method": "lora"}, "frozen": {"freeze": ["vision", "merger"]}, "full": {}}


@pytest.mark.parametrize("kind", FROZEN)
def test_a_frozen_tower_has_no_backward_pass_though_activations_are_computed_twice(recipe: Recipe, kind: str) -> None:
    """transformers would have its input require gradients; the adapters learn the same without."""
    wants: set[bool] = set()

    def watch(part: torch.nn.Module, _: Any, output: Any) -> None:
        if part.training and type(part).__name__.endswith("PatchMerger"):
            wants.add(output.requires_grad)

    settings = {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-2, "warmup": 0}
    hook = torch.nn.modules.module.register_module_forward_hook(watch)
    try:
        twice = gl.train(recipe("twice", train=settings | {"gradient_checkpointing": True}, tune=FROZEN[kind]))
    finally:
        hook.remove()
    once = gl.train(recipe("once", train=settings, tune=FROZEN[kind]))
    assert wants == {kind == "full"}
    found, expected = read_weights(twice / "final"), read_weights(once / "final")
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected)
