"""The tutorial's flat YAML in our terms."""

from __future__ import annotations

from pathlib import Path

import pytest

from groundling.errors import SettingsError
from groundling.recipe import load_settings, read_recipe
from groundling.tutorial_recipe import DECIDED, FLAT_NAMES, OWNED, translate

# The tutorial's keys, with values as it would give them
FLAT = """\
model_name_or_path: ./models/Qwen2.5-VL-3B-Instruct
torch_dtype: bfloat16
attn_implementation: flash_attention_2
train_dataset_name: ./data/train.jsonl
test_dataset_name: ./data/test.jsonl
preprocessing_num_workers: 1
max_seq_length: 1024
max_image_side: 1024
seed: 2025
data_seed: 2025
remove_unused_columns: false
overwrite_output_dir: true
eval_strategy: steps
eval_steps: 100
output_dir: ./output/sft
max_steps: 2000
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1e-5
bf16: true
fp16: false
optim: adamw_torch
lr_scheduler_type: cosine
warmup_ratio: 0.1
gradient_checkpointing: true
save_steps: 500
save_total_limit: 1
logging_steps: 5
report_to: swanlab
freeze_vision_tower: true
freeze_llm: false
use_peft: false
lora_r: 32
lora_target_modules: [q_proj, v_proj]
resume_from_checkpoint: null
"""


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    path = tmp_path / "sft.yaml"
    path.write_text(FLAT)
    return path


def test_the_tutorials_settings_in_ours(flat: Path) -> None:
    settings = load_settings(flat)
    assert (settings.model.name, settings.model.dtype) == ("./models/Qwen2.5-VL-3B-Instruct", "auto")
    assert [source.path for source in settings.data.train] == [Path("data/train.jsonl")]
    assert settings.data.test == (Path("data/test.jsonl"),)
    assert settings.data.max_length == 1024
    assert settings.images.max_tokens == 1296  # (1024 // 28) ** 2
    assert settings.tune.method == "full"
    assert settings.tune.freeze == ("vision",)
    assert settings.tune.lora.rank == 32
    train = settings.train
    assert (train.max_steps, train.batch_size, train.accumulate, train.learning_rate) == (2000, 1, 8, 1e-5)
    assert (train.schedule, train.warmup, train.bf16, train.gradient_checkpointing) == ("cosine", 0.1, True, True)
    assert train.seed == 2025
    assert settings.evaluate.every == 100
    run = settings.run
    assert (run.dir, run.save_every, run.keep, run.log_every) == (Path("output/sft"), 500, 1, 5)
    assert run.resume == "auto"  # null: our default
    assert settings.track == ("swanlab",)
    assert settings.trainer == {"optim": "adamw_torch"}


def test_keys_without_effect_are_named_with_the_reason(flat: Path) -> None:
    notes = dict(note.split(": ", 1) for note in read_recipe(flat).notes)
    assert notes["overwrite_output_dir"].startswith("no effect: run.resume says")
    dead = {name for name, note in notes.items() if note.startswith("no effect: ")}
    assert dead == {
        "torch_dtype",
        "attn_implementation",
        "preprocessing_num_workers",
        "data_seed",
        "remove_unused_columns",
        "overwrite_output_dir",
        "eval_strategy",
        "fp16",
        "lora_target_modules",
    }
    assert notes["max_image_side"] == (
        "1024 pixels a side become images.max_tokens: 1296, what a square takes; small targets want 1280"
    )


def test_it_can_be_overridden_by_our_names_and_stored_as_ours(flat: Path, tmp_path: Path) -> None:
    settings = load_settings(flat, ["images.max_tokens=1280", "run.dir=runs/again"])
    assert settings.images.max_tokens == 1280
    stored = tmp_path / "recipe.yaml"
    stored.write_text(settings.to_yaml())
    assert load_settings(stored) == settings
    assert not read_recipe(stored).is_tutorial


def test_an_unknown_key_is_answered_with_the_tutorials_name(tmp_path: Path) -> None:
    path = tmp_path / "sft.yaml"
    path.write_text(FLAT + "lerning_rate: 1\nper_device_train_batch: 2\nlogging_steps_: -1\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(path, ["train.epoch=1"])
    lines = [line.strip().removeprefix(f"{tmp_path}/") for line in str(caught.value).splitlines()[1:]]
    assert lines == [
        "command line: unknown setting train.epoch (= 1); the closest is train.epochs (by default 1.0)",
        "sft.yaml:36: unknown setting lerning_rate (= 1); the closest is learning_rate",
        "sft.yaml:37: unknown setting per_device_train_batch (= 2); the closest is per_device_train_batch_size",
        "sft.yaml:38: unknown setting logging_steps_ (= -1); the closest is logging_steps",
    ]


def test_a_bad_value_is_found_at_its_own_line(tmp_path: Path) -> None:
    path = tmp_path / "sft.yaml"
    path.write_text("model_name_or_path: x\ntrain_data_path: a.jsonl\nlr_scheduler_type: polynomial\n")
    with pytest.raises(SettingsError, match=r"sft\.yaml:3: train\.schedule is 'polynomial'; expected 'cosine'"):
        load_settings(path)


@pytest.mark.parametrize(
    ("flat", "values"),
    [
        ({"max_pixels": 1_003_520, "min_pixels": 3136}, {"images.max_tokens": 1280, "images.min_tokens": 4}),
        ({"image_max_len": 1280}, {"images.max_tokens": 1280}),
        ({"max_steps": -1}, {"train.max_steps": None}),
        ({"warmup_steps": 0.1}, {"train.warmup": 0.1}),
        ({"warmup_steps": 100}, {}),
        ({"report_to": "none"}, {"track": []}),
        ({"report_to": ["swanlab"]}, {"track": ["swanlab"]}),
        ({"use_peft": True, "lora_r": 8}, {"tune.method": "lora", "tune.lora.rank": 8}),
        ({"freeze_vision": True, "freeze_llm": True}, {"tune.freeze": ["vision", "language"]}),
        ({"eval_strategy": False, "eval_steps": 10}, {}),  # YAML reads `no` as false
        ({"deepspeed": "zero2.json"}, {"trainer.deepspeed": "zero2.json"}),
    ],
)
def test_single_keys(flat: dict[str, object], values: dict[str, object]) -> None:
    assert translate(flat).values == values


def test_no_value_breaks_the_translation() -> None:
    for name in FLAT_NAMES:
        for value in (None, 0, -1, True, "x", [1], {"a": 1}):
            assert len(translate({name: value}).values) <= 1, (name, value)


def test_names_of_the_trainer_are_set_by_settings_that_exist() -> None:
    known = read_known()
    assert set(OWNED.values()) <= known
    assert not OWNED.keys() & DECIDED.keys()


def read_known() -> set[str]:
    """Dotted names of all settings, from the stored form of a complete recipe."""
    stored = load_settings("tiny").model_dump()
    return {"track"} | {
        f"{section}.{key}" for section, values in stored.items() if isinstance(values, dict) for key in values
    }
