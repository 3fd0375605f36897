"""Other people's names for our settings: Hugging Face's TrainingArguments, and the flat YAML of the tutorial.

The tutorial (fine-tuning Qwen2.5-VL-3B on TextVQA_GT_bbox) keeps all its settings on one level, as TRL's TrlParser
reads them (an extract):

    model_name_or_path: ./models/Qwen2.5-VL-3B-Instruct
    train_dataset_name: ./data/train.jsonl
    max_image_side: 256
    per_device_train_batch_size: 1
    learning_rate: 1.0e-5
    report_to: swanlab
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from groundling.dialect.family import FAMILIES

OWNED: dict[str, str] = {
    "output_dir": "run.dir",
    "resume_from_checkpoint": "run.resume",
    "save_steps": "run.save_every",
    "save_total_limit": "run.keep",
    "logging_steps": "run.log_every",
    "report_to": "track",
    "num_train_epochs": "train.epochs",
    "max_steps": "train.max_steps",
    "per_device_train_batch_size": "train.batch_size",
    "gradient_accumulation_steps": "train.accumulate",
    "learning_rate": "train.learning_rate",
    "weight_decay": "train.weight_decay",
    "warmup_ratio": "train.warmup",
    "warmup_steps": "train.warmup",
    "lr_scheduler_type": "train.schedule",
    "max_grad_norm": "train.max_grad_norm",
    "bf16": "train.bf16",
    "gradient_checkpointing": "train.gradient_checkpointing",
    "activation_checkpointing": "train.gradient_checkpointing",
    "seed": "train.seed",
    "dataloader_num_workers": "train.workers",
    "use_liger_kernel": "train.liger",
    "eval_steps": "evaluate.every",
    "per_device_eval_batch_size": "evaluate.batch_size",
}
"""TrainingArguments by the setting of ours that decides it."""

_STAYS = "a run stays where it is; `hf upload NAME RUN/final` sends what came of it"

DECIDED: dict[str, str] = {
    "overwrite_output_dir": "run.resume says what happens to a run folder that is not empty",
    "data_seed": "train.seed is the one seed",
    "fp16": "training is in bfloat16 or float32 (train.bf16)",
    "eval_strategy": "evaluate.every says when, in steps",
    "evaluation_strategy": "evaluate.every says when, in steps",
    "save_strategy": "checkpoints are always kept; run.save_every says when, in steps",
    "logging_strategy": "run.log_every says when, in steps",
    "load_best_model_at_end": "best/ always holds the best checkpoint",
    "metric_for_best_model": "the best checkpoint is the one with the highest evaluate.metric",
    "greater_is_better": "of every metric more is better",
    "do_train": "`groundling train` trains",
    "do_eval": "evaluate.every says when",
    "remove_unused_columns": "records reach the model through groundling's own batches",
    "save_on_each_node": "a run has one folder, on a disk that all its machines share",
    "enable_jit_checkpoint": "SIGTERM has the run saved and stopped anyway",
    "ignore_data_skip": "a run that goes on would see some records again, and others never",
    "logging_nan_inf_filter": "a loss that is no number ends the run, and is no 0",
    "save_only_model": "a checkpoint without the optimizer's state could not be gone on from",
    "auto_find_batch_size": "it changes how many samples a step sees; set train.batch_size and train.accumulate",
    "train_sampling_strategy": "questions about one picture stand side by side (train.share_pictures)",
    "group_by_length": "nothing is padded, so like lengths need not come together",
    "dataloader_drop_last": "every record is seen once an epoch",
    "liger_kernel_config": "train.liger takes all of its kernels but the losses, which would need all logits",
    "average_tokens_across_devices": "the loss is always a mean over the answer tokens of all devices",
    "eval_delay": "evaluate.every says when, in steps",
    "accelerator_config": "rows are dealt to the processes by groundling's own sampler",
    "fsdp": "launch.engine: fsdp2 spreads the weights over devices",
    "fsdp_config": "launch.engine: fsdp2 spreads the weights over devices",
    "push_to_hub": _STAYS,
    "hub_model_id": _STAYS,
    "hub_strategy": _STAYS,
    "hub_private_repo": _STAYS,
    "hub_always_push": _STAYS,
    "hub_revision": _STAYS,
    "hub_token": "recipes are kept in run folders, no place for secrets; set HF_TOKEN in the environment",
    "push_to_hub_token": "recipes are kept in run folders, no place for secrets; set HF_TOKEN in the environment",
}
"""TrainingArguments that groundling always sets itself, with the reason."""

_RENAMED: dict[str, str] = {
    "model_name_or_path": "model.name",
    "model_revision": "model.revision",
    "test_data_path": "data.test",
    "test_dataset_name": "data.test",
    "eval_data_path": "data.test",
    "eval_dataset_name": "data.test",
    "max_seq_length": "data.max_length",
    "max_length": "data.max_length",
    "image_max_len": "images.max_tokens",
    "lora_r": "tune.lora.rank",
    "lora_alpha": "tune.lora.alpha",
    "lora_dropout": "tune.lora.dropout",
}

_FREEZES: dict[str, str] = {
    "freeze_vision": "vision",
    "freeze_vision_tower": "vision",
    "freeze_vit": "vision",
    "freeze_merger": "merger",
    "freeze_aligner": "merger",
    "freeze_projector": "merger",
    "freeze_language": "language",
    "freeze_language_model": "language",
    "freeze_llm": "language",
}

_WITHOUT_EFFECT: dict[str, str] = {
    "torch_dtype": "trained weights stay in float32, with bfloat16 arithmetic where train.bf16 says so",
    "dtype": "trained weights stay in float32, with bfloat16 arithmetic where train.bf16 says so",
    "attn_implementation": "groundling picks the attention that fits its batches",
    "trust_remote_code": "code from a model folder is never run",
    "lora_target_modules": "adapters go on every linear layer of tune.lora.parts",
    "lora_bias": "biases are not adapted",
    "lora_task_type": "the task is always this one",
    "preprocessing_num_workers": "nothing is preprocessed to disk; train.workers loads pictures",
    "dataset_kwargs": "groundling prepares its data itself",
    "dataset_num_proc": "groundling prepares its data itself",
    "dataset_text_field": "a record's question and targets are known by name",
    "packing": "groundling lays out its batches itself",
    "model_type": "the family is read from the model's config.json",
    "int8": "groundling trains no 8-bit weights",
    "local_files_only": "set HF_HUB_OFFLINE=1 to stay off the network",
    "project_name": "set it in the tracker's own environment variables",
    "swanlab_project": "set it in the tracker's own environment variables",
}

_VERBATIM = (
    "run_name",
    "deepspeed",
    "optim",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "tf32",
    "gradient_checkpointing_kwargs",
    "dataloader_pin_memory",
    "dataloader_drop_last",
    "ddp_timeout",
    "ddp_find_unused_parameters",
    "label_smoothing_factor",
)


class Translation(NamedTuple):
    """Values by dotted key of ours, where each came from, and what the user should know about the rest."""

    values: dict[str, Any]
    sources: dict[str, str]  # our dotted key -> the flat key that set it
    notes: list[str]


class _Setting(NamedTuple):
    """One flat key in our terms; without a `key` it has no effect."""

    key: str | None
    value: Any = None
    note: str | None = None


def translate(flat: Mapping[str, Any]) -> Translation:
    """The tutorial's settings in ours. Keys without effect are named in the notes; unknown ones stay as they are."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    notes: list[str] = []
    for name, value in flat.items():
        setting = _translate_one(name, value, flat)
        if setting.note:
            notes.append(f"{name}: {setting.note}")
        if setting.key:
            values[setting.key] = setting.value
            sources[setting.key] = name
    return Translation(values, sources, notes)


def _translate_one(name: str, value: Any, flat: Mapping[str, Any]) -> _Setting:
    if value is None:
        return _Setting(None)
    if name in _FREEZES:
        parts = [part for flag, part in _FREEZES.items() if flat.get(flag) is True]
        return _Setting("tune.freeze", list(dict.fromkeys(parts)))
    if name == "eval_steps" and flat.get("eval_strategy", flat.get("evaluation_strategy")) in ("no", False):
        return _Setting(None, note="no effect: eval_strategy is no")
    if name in _CHANGED:
        return _CHANGED[name](value)
    if name in _VERBATIM:
        return _Setting(f"trainer.{name}", value)
    reason = DECIDED.get(name) or _WITHOUT_EFFECT.get(name)
    if reason:
        return _Setting(None, note=f"no effect: {reason}")
    return _Setting(OWNED.get(name) or _RENAMED.get(name) or name, value)


def _train_data(value: Any) -> _Setting:
    note = "becomes data.train, a record file; `groundling convert tutorial` makes one from the tutorial's JSONL"
    return _Setting("data.train", value, note)


def _image_side(value: Any) -> _Setting:
    tokens = (value // _TOKEN_SIDE) ** 2 if isinstance(value, int) and value > 0 else value
    note = f"{value} pixels a side become images.max_tokens: {tokens}, what a square takes; small targets want 1280"
    return _Setting("images.max_tokens", tokens, note)


def _pixels_as(key: str) -> Callable[[Any], _Setting]:
    def to_tokens(value: Any) -> _Setting:
        return _Setting(key, value // _TOKEN_SIDE**2 if isinstance(value, int) else value)

    return to_tokens


def _max_steps(value: Any) -> _Setting:
    is_unset = isinstance(value, int) and value < 1  # -1: as many as the epochs take
    return _Setting("train.max_steps", None if is_unset else value)


def _warmup_steps(value: Any) -> _Setting:
    if isinstance(value, int | float) and value >= 1:
        return _Setting(None, note="no effect: train.warmup is a share of the steps, such as 0.03")
    return _Setting("train.warmup", value)


def _report_to(value: Any) -> _Setting:
    return _Setting("track", [] if value in ("none", "no", False) else value)


def _use_peft(value: Any) -> _Setting:
    return _Setting("tune.method", "lora" if value is True else "full")


_TOKEN_SIDE = FAMILIES["qwen2_5_vl"].token_side  # the tutorial knows no other family

_CHANGED: dict[str, Callable[[Any], _Setting]] = {
    "train_data_path": _train_data,
    "train_dataset_name": _train_data,
    "max_image_side": _image_side,
    "image_max_side": _image_side,
    "max_pixels": _pixels_as("images.max_tokens"),
    "min_pixels": _pixels_as("images.min_tokens"),
    "max_steps": _max_steps,
    "warmup_steps": _warmup_steps,
    "report_to": _report_to,
    "use_peft": _use_peft,
}

FLAT_NAMES = frozenset({*OWNED, *DECIDED, *_RENAMED, *_FREEZES, *_WITHOUT_EFFECT, *_VERBATIM, *_CHANGED})
"""Every flat key that is understood."""
