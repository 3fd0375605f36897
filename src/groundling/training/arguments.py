"""A recipe in the words of transformers' TrainingArguments."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from importlib.util import find_spec
from typing import Any

import torch
from transformers import TrainingArguments

from groundling.errors import SettingsError
from groundling.model.quantise import refuse_no_4_bits
from groundling.recipe import closest_name
from groundling.settings import Settings
from groundling.tutorial_recipe import DECIDED, OWNED

MOST_WORKERS = 4  # by default: some 80 megapixel pictures a second each, or 20 of a phone's twelve
_LIGER_LOSSES = ("cross_entropy", "fused_linear_cross_entropy")
_BELOW_ONE = math.nextafter(1, 0)  # transformers takes a warmup_steps below 1 as a share of the steps

log = logging.getLogger(__name__)


def build_arguments(settings: Settings) -> TrainingArguments:
    """What transformers' Trainer is told; the recipe's `trainer` block goes in as it stands.

    SettingsError for a name in that block that TrainingArguments does not have, and for what it refuses.
    """
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    unknown = sorted(settings.trainer.keys() - known)
    if unknown:
        free = known - OWNED.keys() - DECIDED.keys()
        closest = {name: closest_name(name, free) for name in unknown}
        lines = [f"trainer.{name}{f'; the closest is {near}' if near else ''}" for name, near in closest.items()]
        known_where = "" if all(closest.values()) else "; transformers' documentation lists those there are"
        raise SettingsError(f"no argument of transformers' TrainingArguments: {', '.join(lines)}{known_where}")
    if "ACCELERATE_MIXED_PRECISION" in os.environ:
        os.environ["ACCELERATE_MIXED_PRECISION"] = "no"  # the recipe decides, whatever the launcher's file says
    own = _own_arguments(settings, known)
    try:
        arguments = TrainingArguments(**own | settings.trainer)
    except (ValueError, TypeError, ImportError) as error:
        raise SettingsError(f"transformers' TrainingArguments refuses the recipe: {error}") from None
    if arguments.n_gpu > 1:
        log.warning("%d GPUs, and one is used; for all of them: launch.processes=%d", arguments.n_gpu, arguments.n_gpu)
        arguments._n_gpu = 1  # else the Trainer cuts each row into so many pieces (nn.DataParallel)
    if arguments.process_index > 0:
        logging.getLogger("groundling").setLevel(logging.ERROR)  # one process speaks for all
    return arguments


def _own_arguments(settings: Settings, known: set[str]) -> dict[str, Any]:
    plan, run, every = settings.train, settings.run, settings.evaluate.every
    has_gpu = torch.cuda.is_available()
    options: dict[str, Any] = {
        "output_dir": str(run.dir / "checkpoints"),
        "num_train_epochs": plan.epochs,
        "max_steps": plan.max_steps or -1,
        "per_device_train_batch_size": plan.batch_size,
        "gradient_accumulation_steps": plan.accumulate,
        "learning_rate": plan.learning_rate,
        "weight_decay": plan.weight_decay,
        "warmup_steps": min(plan.warmup, _BELOW_ONE),
        "lr_scheduler_type": plan.schedule if plan.schedule != "constant" else "constant_with_warmup",
        "max_grad_norm": plan.max_grad_norm,
        "bf16": has_gpu and torch.cuda.is_bf16_supported() if plan.bf16 == "auto" else plan.bf16,
        "seed": plan.seed,
        **loading_arguments(plan.workers, has_gpu=has_gpu),
        "use_cpu": not has_gpu,
        "eval_strategy": "steps" if every else "no",
        "eval_steps": every or None,
        "save_strategy": "steps" if run.save_every or every else "epoch",
        "save_steps": run.save_every or every or 500,
        "logging_steps": run.log_every,
        "logging_nan_inf_filter": False,  # a NaN is to be seen, not counted as 0
        "include_num_input_tokens_seen": "all",
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "report_to": "none",  # the recipe's trackers are added beside it
        "run_name": run.dir.name,
        "disable_tqdm": True,
        "ddp_find_unused_parameters": False,  # every row has a picture, so every weight a gradient
    }
    if settings.tune.method == "qlora":
        refuse_no_4_bits()
    if plan.liger:
        _refuse_missing_liger()
        # its losses would want logits of every token, or make them; ours are of the learned ones
        options |= {"use_liger_kernel": True, "liger_kernel_config": dict.fromkeys(_LIGER_LOSSES, False)}
    if plan.gradient_checkpointing:
        # from transformers 5.23 on under another name
        name = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
        options |= {name: True, f"{name}_kwargs": {"use_reentrant": False}}
    return options


def _refuse_missing_liger() -> None:
    if find_spec("liger_kernel") is None:
        raise SettingsError('train.liger: liger-kernel is not installed; pip install "groundling[gpu]"')
    if not torch.cuda.is_available():
        raise SettingsError("train.liger: liger-kernel needs a GPU, and there is none; leave it false")


def loading_arguments(workers: int | None, *, has_gpu: bool) -> dict[str, Any]:
    """Rows are made ready while the GPU is at work; on a CPU that would only take its cores away."""
    if workers is None:
        cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        workers = min(MOST_WORKERS, max(1, cores - 1)) if has_gpu else 0
    return {
        "dataloader_num_workers": workers,
        "dataloader_persistent_workers": workers > 0,
        "dataloader_pin_memory": has_gpu,
        "accelerator_config": {"non_blocking": has_gpu},
    }
