"""Plans: numbers that can be worked out on paper, and rows that training would have."""

from __future__ import annotations

import dataclasses
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from published import write_published, write_sized_records
from transformers.integrations.deepspeed import (
    HfDeepSpeedConfig,
    deepspeed_config,
    is_deepspeed_zero3_enabled,
    unset_hf_deepspeed_config,
)

import groundling as gl
from groundling.model.quantise import BITS_A_WEIGHT
from groundling.recipe import load_settings
from groundling.settings import Launch, Settings
from groundling.training.memory import GIB, Memory, Moment, _static, count_numbers, estimate_memory, read_subject
from groundling.training.plan import Plan, Rate, _load_processor, _measure, _seconds, build_plan
from groundling.training.plan_text import describe_plan
from groundling.training.ready import make_ready
from groundling.training.rehearsal import RowShape
from groundling.training.remedies import Change, apply
from groundling.training.rows import Length
from groundling.training.workload import measure_workload, worst_row

ALL_3B, ALL_7B, TOWER = 3_754_622_976, 8_292_166_656, 668_684_288


def published(tmp_path: Path, size: str, *overrides: str, recipe: str = "textvqa-3b") -> Settings:
    return load_settings(recipe, [f"model.name={write_published(tmp_path / size, size)}", *overrides])


def plan_of(settings: Settings, **options: Any) -> Plan:
    return build_plan(settings, name="x", recipe="x.yaml", **{"rate": Rate()} | options)


def on(settings: Settings, processes: int, machines: int = 1, engine: Any = None) -> Settings:
    return settings.model_copy(update={"launch": Launch(processes=processes, machines=machines, engine=engine)})


# ---- numbers ---------------------------------------------------------------------------------------------------


def test_the_published_sizes_are_counted(tmp_path: Path) -> None:
    for size, expected in (("3b", ALL_3B), ("7b", ALL_7B)):
        settings = published(tmp_path, size)
        numbers = count_numbers(read_subject(Path(settings.model.name)), settings)
        assert sum(numbers.parameters.values()) == sum(numbers.trained.values()) == expected
        if size == "3b":
            assert numbers.parameters["vision"] + numbers.parameters["merger"] == TOWER
        assert numbers.weights == numbers.gradients == 4 * expected


def test_adapters_of_all_layers_are_counted(tmp_path: Path) -> None:
    """Rank r on a linear layer of n inputs and m outputs: r * (n + m)."""
    settings = published(tmp_path, "3b", recipe="textvqa-3b-lora")
    numbers = count_numbers(read_subject(Path(settings.model.name)), settings)
    attention, mlp = (2048 + 2048) * 2 + (2048 + 256) * 2, (2048 + 11008) * 3
    assert numbers.trained == {"vision": 0, "merger": 0, "language": 36 * 64 * (attention + mlp)}
    assert numbers.weights == 2 * ALL_3B + 4 * numbers.trained["language"]


def test_only_the_decoders_linear_layers_are_in_4_bits(tmp_path: Path) -> None:
    settings = published(tmp_path, "3b", recipe="textvqa-3b-qlora")
    numbers = count_numbers(read_subject(Path(settings.model.name)), settings)
    in_4_bits = 36 * ((2048 * 2048) * 2 + (2048 * 256) * 2 + (2048 * 11008) * 3)
    expected = 2 * (ALL_3B - in_4_bits) + in_4_bits * BITS_A_WEIGHT / 8 + 4 * numbers.trained["language"]
    assert numbers.weights == pytest.approx(expected, abs=1000)
    assert abs(BITS_A_WEIGHT - 4.127) < 1e-3


# ---- memory ----------------------------------------------------------------------------------------------------


def test_the_engines_spread_what_they_say(tmp_path: Path) -> None:
    """Bytes of weights, optimizer, gradients, and the engine's own."""
    settings = published(tmp_path, "3b")
    numbers = count_numbers(read_subject(Path(settings.model.name)), settings)

    def spread(*launch: Any) -> tuple[int, ...]:
        return _static(numbers, on(settings, *launch))

    assert spread(1) == (4 * ALL_3B, 8 * ALL_3B, 4 * ALL_3B, 0)
    assert spread(8) == (4 * ALL_3B, 8 * ALL_3B, 4 * ALL_3B, 4 * ALL_3B), "DDP's buckets"
    assert spread(8, 1, "zero2")[:3] == (2 * ALL_3B, 12 * ALL_3B // 8, 2 * ALL_3B // 8)
    assert spread(4, 2, "zero3")[:3] == (2 * ALL_3B // 8, 12 * ALL_3B // 8, 2 * ALL_3B // 8)
    assert spread(8, 1, "fsdp2")[:3] == (4 * ALL_3B // 8, 8 * ALL_3B // 8, 4 * ALL_3B // 8)


@pytest.mark.parametrize(
    ("optimizer", "alone", "beside_masters"),
    [("sgd", 0, 0), ("adafactor", 0, 4), ("adagrad", 4, 4), ("adamw_torch_4bit", 1, 1), ("lion_8bit", 1, 1)],
)
def test_each_optimizer_takes_what_it_keeps(tmp_path: Path, optimizer: str, alone: int, beside_masters: int) -> None:
    settings = published(tmp_path, "3b", f"trainer.optim={optimizer}")
    numbers = count_numbers(read_subject(Path(settings.model.name)), settings)
    taken = [_static(numbers, on(settings, 8, 1, engine))[1] for engine in (None, "fsdp2", "zero2", "zero3")]
    beside = (4 + beside_masters) * ALL_3B // 8
    assert taken == [alone * ALL_3B, alone * ALL_3B // 8, beside, beside]


def test_an_optimizer_that_is_not_known_is_told(tmp_path: Path) -> None:
    settings = published(tmp_path, "3b")
    known, other = plan_of(settings), plan_of(apply(settings, (Change("trainer.optim", "lomo"),)))
    assert other.memory == known.memory and other.disk.checkpoint == known.disk.checkpoint - 8 * ALL_3B
    assert [note for note in other.notes if "trainer.optim" in note] == [
        "trainer.optim is lomo, and what it keeps is not known: counted like AdamW in memory, and not on the disk"
    ]
    assert not any("trainer.optim" in note for note in known.notes)


def test_zero_without_bf16_has_weights_as_they_are_loaded(tmp_path: Path) -> None:
    """In float32, which ZeRO-3 needs no masters beside."""
    settings = published(tmp_path, "3b", "train.bf16=false")
    numbers = count_numbers(read_subject(Path(settings.model.name)), settings)
    second, third = (_static(numbers, on(settings, 8, 1, engine)) for engine in ("zero2", "zero3"))
    assert second == (4 * ALL_3B, 12 * ALL_3B // 8, 4 * ALL_3B // 8, 4 * 5 * 10**8)
    assert third == (4 * ALL_3B // 8, 8 * ALL_3B // 8, 4 * ALL_3B // 8, 4 * 10**9 + 2 * 4 * 5 * 10**8)


def test_gradients_wait_while_rows_accumulate_and_frozen_parts_have_none(tmp_path: Path) -> None:
    settings = published(tmp_path, "3b", "train.accumulate=2", "tune.freeze=[vision,merger]")
    row = worst_row(settings, max_tokens=640)
    subject = read_subject(Path(settings.model.name))
    waiting = estimate_memory(subject, settings, row)
    learned = 4 * (ALL_3B - TOWER)
    assert {moment.name: moment.gradients for moment in waiting.moments} == dict.fromkeys(
        ["forward", "back, language", "optimizer"], learned
    )
    assert waiting.moments[-1].optimizer == 2 * learned
    once = estimate_memory(subject, apply(settings, (Change("train.accumulate", 1),)), row)
    assert [moment.gradients for moment in once.moments] == [0, 0, learned]
    assert once.moments[0].vision == 0, "what is frozen keeps nothing"


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs the extra deepspeed")
@pytest.mark.parametrize("recipe", ["textvqa-3b", "textvqa-3b-lora"])
def test_a_plan_is_the_same_where_zero_3_spreads_what_is_loaded(tmp_path: Path, recipe: str) -> None:
    settings = on(published(tmp_path, "3b", recipe=recipe), 8, 1, "zero3")
    row, subject = worst_row(settings, max_tokens=640), read_subject(Path(settings.model.name))
    alone = estimate_memory(subject, settings, row)
    try:
        spreading = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": 1})
        assert is_deepspeed_zero3_enabled()
        assert estimate_memory(subject, settings, row) == alone
        assert is_deepspeed_zero3_enabled() and deepspeed_config() is spreading.config
    finally:
        unset_hf_deepspeed_config()


def test_what_fits_leaves_room_for_gaps() -> None:
    memory = Memory((Moment("a", 0, 0, 0, 0, 0, 0, 0, 10), Moment("b", 90, 0, 0, 0, 0, 0, 0, 5)))
    assert memory.most.name == "b"
    assert memory.fits(100) and not memory.fits(99)


# ---- data ------------------------------------------------------------------------------------------------------


def test_rows_and_steps_are_those_of_the_training(scenes: Path, tiny_model_folder: Path) -> None:
    values = {
        "model": {"name": str(tiny_model_folder)},
        "data": {"train": [str(scenes / "train.jsonl"), str(scenes / "words.jsonl")]},
        "train": {"pack_tokens": 400, "accumulate": 2, "epochs": 3},
        "run": {"dir": "x"},
    }
    settings = Settings.model_validate(values)
    ready = make_ready(settings)
    sampler = ready.sampler

    found = measure_workload(settings, ready.processor)
    assert (found.records, found.measured, found.rows) == (24, 24, len(sampler))
    assert found.steps_an_epoch == -(-len(sampler) // 2) and found.steps == 3 * found.steps_an_epoch
    lengths: list[Length] = ready.records.lengths
    assert found.tokens.least == min(length.tokens for length in lengths)
    assert found.tokens.most == max(length.tokens for length in lengths)
    assert found.epoch_tokens == sum(length.tokens for length in lengths), "no picture is asked about twice"
    assert found.saved == 0
    assert 0 < found.largest.tokens <= 400


def test_a_large_set_is_judged_by_some_of_its_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = published(tmp_path, "3b", f"data.train={write_sized_records(tmp_path / 'r.jsonl', count=300)}")
    processor = _load_processor(settings, settings.model.name)
    whole = measure_workload(settings, processor)
    monkeypatch.setattr("groundling.training.workload.MOST_MEASURED", 100)
    part = measure_workload(settings, processor)
    assert whole.measured == 300 and 80 < part.measured < 120
    assert part.rows == pytest.approx(whole.rows, rel=0.1)
    assert part.epoch_tokens == pytest.approx(whole.epoch_tokens, rel=0.05)
    assert 0.2 < whole.saved < 0.4, "three questions about two pictures"


# ---- plans -----------------------------------------------------------------------------------------------------


def test_a_configuration_alone_is_planned_as_far_as_it_goes(tmp_path: Path) -> None:
    folder = write_published(tmp_path / "bare", "7b", with_processor=False)
    settings = load_settings("textvqa-3b", [f"model.name={folder}"])
    plan = plan_of(on(settings, 8, 1, "zero2"), device_bytes=80 * GIB)
    assert plan.workload is None and plan.steps is None and plan.fits
    assert "tokens and steps are not known" in plan.notes[0] and "preprocessor_config.json" in plan.notes[0]
    assert "fits in 80 GiB" in describe_plan(plan) and "\n\ndisk: a checkpoint takes " in describe_plan(plan)


def test_a_plan_of_missing_records_says_so(tmp_path: Path) -> None:
    settings, notes = published(tmp_path, "3b", f"data.train={tmp_path / 'none.jsonl'}"), list[str]()
    assert _measure(settings, _load_processor(settings, settings.model.name), notes) is None
    assert "none.jsonl" in notes[0]


def test_steps_time_and_disk(tmp_path: Path) -> None:
    records = write_sized_records(tmp_path / "r.jsonl", count=60)
    settings = published(tmp_path, "3b", f"data.train={records}", "train.epochs=10", "evaluate.every=20")
    plan = plan_of(settings, rate=Rate(samples=6.0))
    assert plan.workload is not None and plan.steps == 10 * plan.workload.rows
    assert plan.warmup_steps == -(-plan.steps * 3 // 100)
    assert plan.evaluations == plan.steps // 20 and plan.saves == -(-plan.steps // 20)
    assert plan.seconds == pytest.approx(100)
    assert plan.disk.checkpoint == 12 * ALL_3B
    assert plan.disk.whole == 2 * 12 * ALL_3B + 4 * ALL_3B, "one checkpoint beside the next, and best"
    assert json.loads(json.dumps(plan.to_json()))["steps"] == plan.steps
    assert f"{plan.evaluations} evaluations and {plan.saves} checkpoints on the way" in describe_plan(plan)
    shorter = dataclasses.replace(plan, settings=apply(settings, (Change("evaluate.every", plan.steps),)))
    assert "; 1 evaluation and 1 checkpoint on the way" in describe_plan(shorter)
    assert _seconds(plan.workload, Rate(tokens=float(plan.workload.epoch_tokens))) == pytest.approx(10)
    assert _seconds(plan.workload, Rate()) is None


def test_what_cannot_be_planned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        gl.SettingsError,
        match=r"nobody/nothing: the hub cannot be reached \(or HF_HUB_OFFLINE is set\), and there is neither",
    ):
        plan_of(load_settings("textvqa-3b", ["model.name=nobody/nothing"]))
    with pytest.raises(gl.SettingsError, match="zero3 would have to cut weights of 4 bits"):
        plan_of(on(published(tmp_path, "3b", recipe="textvqa-3b-qlora"), 2, 1, "zero3"))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "llama", "hidden_size": 8}, "config.json describes no model: .*hidden size"),
        ({"model_type": "llama"}, "unknown model family 'llama'; groundling knows qwen2_vl"),
        ({"model_type": "none of them"}, "config.json describes no model"),
    ],
)
def test_a_configuration_of_no_model_of_ours_is_refused(tmp_path: Path, config: dict[str, Any], told: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(gl.GroundlingError, match=told):
        read_subject(tmp_path)


def test_a_row_of_the_largest_pictures_fills_the_budget(tmp_path: Path) -> None:
    settings = published(tmp_path, "3b")
    row = worst_row(settings, max_tokens=1280)
    assert isinstance(row, RowShape) and row.tokens <= 6144 and len(row.grids) == 4
    assert 0.95 * 1280 <= row.patches / 4 / 4 <= 1280
