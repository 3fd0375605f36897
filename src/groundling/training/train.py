"""Training, from a recipe to a run folder."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import EarlyStoppingCallback, PreTrainedModel, PrinterCallback, TrainingArguments
from transformers.trainer_callback import TrainerCallback

from groundling.data.check import write_findings
from groundling.data.record import Record
from groundling.errors import SettingsError
from groundling.evaluation.evaluate import evaluate
from groundling.evaluation.report import hash_records
from groundling.inference.predict import load
from groundling.model.attention import use_packed_attention
from groundling.model.contract import Contract, installed_versions, recipe_contract
from groundling.model.load import Checkpoint, find_checkpoint, load_model, load_processor
from groundling.model.processor import Processor
from groundling.model.tune import Adapter, add_adapter, count_trained, freeze_parts
from groundling.settings import Settings, load_settings
from groundling.training.checkpoint import RECIPE_FILE, find_resume, read_step
from groundling.training.journal import Journal
from groundling.training.pictures import draw_first_batch
from groundling.training.records import Gathered, gather_records, write_set_aside
from groundling.training.trainer import GroundingTrainer

log = logging.getLogger(__name__)


def train(recipe: str | Path, *overrides: str) -> Path:
    """Tune a model as a recipe says, changed by `section.key=value`; returns the run folder.

    SettingsError and its kin before anything is computed, TrainingError where the training itself fails.
    """
    settings = load_settings(recipe, overrides)
    arguments = build_arguments(settings)
    resume = find_resume(settings)
    arguments.distributed_state.wait_for_everyone()  # type: ignore[union-attr]

    base = find_checkpoint(settings.model.name, revision=settings.model.revision)
    processor = load_processor(base).with_contract(recipe_contract(base.contract, settings, is_derived=base.is_contract_derived))
    records = gather_records(settings, processor)
    processor = processor.with_contract(sign_contract(processor.contract, records.train))
    start_run_folder(settings, records, arguments)

    model = build_model(base, settings, resume)
    use_packed_attention(model)
    trainer = build_trainer(model, processor, settings, arguments, records, resume)
    if trainer.is_world_process_zero():
        show_first_batch(trainer, settings.run.dir)

    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    trainer.save_model(str(settings.run.dir / "final"))
    if trainer.is_world_process_zero():
        measure_run(settings, records.test)
        log.info("done: %s", settings.run.dir)
    return settings.run.dir


# ---- settings to arguments -------------------------------------------------------------------------------------


def build_arguments(settings: Settings) -> TrainingArguments:
    """What transformers' Trainer is told; the recipe's `trainer` block goes in as it stands."""
    plan, run, measured = settings.train, settings.run, settings.evaluate
    has_gpu = torch.cuda.is_available()
    wants_bf16 = has_gpu and torch.cuda.is_bf16_supported() if plan.bf16 == "auto" else plan.bf16
    save_every = run.save_every or measured.every
    options: dict[str, Any] = {
        "output_dir": str(run.dir / "checkpoints"),
        "num_train_epochs": plan.epochs,
        "max_steps": plan.max_steps or -1,
        "per_device_train_batch_size": plan.batch_size,
        "gradient_accumulation_steps": plan.accumulate,
        "learning_rate": plan.learning_rate,
        "weight_decay": plan.weight_decay,
        "warmup_steps": plan.warmup,  # below 1 it is a share of the steps
        "lr_scheduler_type": plan.schedule if plan.schedule != "constant" else "constant_with_warmup",
        "max_grad_norm": plan.max_grad_norm,
        "bf16": wants_bf16,
        "seed": plan.seed,
        "dataloader_num_workers": plan.workers,
        "use_cpu": not has_gpu,
        "eval_strategy": "steps" if measured.every else "no",
        "eval_steps": measured.every or None,
        "metric_for_best_model": f"eval_{measured.metric}" if measured.every else None,
        "greater_is_better": True if measured.every else None,
        "save_strategy": "steps" if save_every else "epoch",
        "save_steps": save_every or 500,
        "restore_callback_states_from_checkpoint": measured.patience is not None,
        "logging_steps": run.log_every,
        "logging_nan_inf_filter": False,  # a NaN is to be seen, not counted as 0
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "report_to": [name for name in settings.track if name != "swanlab"],
        "run_name": run.dir.name,
        "disable_tqdm": True,
        "ddp_find_unused_parameters": False,
    }
    if plan.gradient_checkpointing:
        options |= _checkpointing_options()
    return TrainingArguments(**options | settings.trainer)


def _checkpointing_options() -> dict[str, Any]:
    """Gradient checkpointing under the name that this transformers has for it (another one from 5.23 on)."""
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    name = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    return {name: True, f"{name}_kwargs": {"use_reentrant": False}}


def sign_contract(contract: Contract, records: Sequence[Record]) -> Contract:
    """The contract with what the model is trained on and made with."""
    trained_on = {"sha256": hash_records(records), "records": len(records)}
    return dataclasses.replace(contract, trained_on=trained_on, made_with=installed_versions())


# ---- model and trainer -----------------------------------------------------------------------------------------


def build_model(base: Checkpoint, settings: Settings, resume: Path | None) -> PreTrainedModel:
    """The model to train, its weights those of the checkpoint to resume from where there is one."""
    tune = settings.tune
    dtype = _training_dtype(settings)
    if resume is not None:
        model = load_model(find_checkpoint(str(resume)), dtype=dtype, is_trainable=True)
    else:
        model = load_model(base, dtype=dtype, is_trainable=tune.method == "lora")
    is_adapted = base.base is not None or (resume is not None and tune.method == "lora")
    if tune.method == "full":
        model = model.merge_and_unload() if is_adapted and resume is None else model  # type: ignore[operator]
        freeze_parts(model, tune.freeze)
    elif not is_adapted:
        adapter = Adapter(tune.lora.rank, tune.lora.alpha, tune.lora.dropout, tune.lora.parts)
        torch.manual_seed(settings.train.seed)
        model = add_adapter(model, adapter, family=base.contract.family, base=_lasting_name(settings.model.name))
    trained = count_trained(model)
    shown = ", ".join(f"{part} {trained[part]:,}" for part in trained if part != "all" and trained[part])
    log.info("%s: training %s of %s parameters", tune.method, shown, f"{trained['all']:,}")
    return model


def _training_dtype(settings: Settings) -> torch.dtype:
    """Trained weights stay in float32, with bf16 arithmetic by autocast; frozen ones under adapters need no more than bf16."""
    if settings.model.dtype != "auto":
        return torch.float32 if settings.model.dtype == "float32" else torch.bfloat16
    return torch.bfloat16 if settings.tune.method == "lora" and torch.cuda.is_available() else torch.float32


def _lasting_name(name: str) -> str:
    """A folder's name that still finds it from elsewhere; hub names as they are."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def build_trainer(
    model: PreTrainedModel,
    processor: Processor,
    settings: Settings,
    arguments: TrainingArguments,
    records: Gathered,
    resume: Path | None,
) -> GroundingTrainer:
    """The trainer with what watches over it: journal, early stopping, trackers."""
    trainer = GroundingTrainer(
        model,
        processor,
        settings,
        arguments,
        train=records.train,
        test=choose_sample(records.test, settings.evaluate.sample, seed=settings.train.seed),
        loaded_from=resume,
    )
    if any(record.image is None for record in records.train):
        arguments.ddp_find_unused_parameters = True  # a batch of words alone leaves the vision tower out
    trainer.remove_callback(PrinterCallback)
    resumed_step = 0 if resume is None else read_step(resume)
    trainer.add_callback(Journal(settings.run.dir, resumed_step=resumed_step, count_tokens=lambda: trainer.tokens))
    if settings.evaluate.patience is not None:
        trainer.add_callback(EarlyStoppingCallback(settings.evaluate.patience))
    if "swanlab" in settings.track:
        trainer.add_callback(_swanlab(settings))
    return trainer


def choose_sample(records: Sequence[Record], size: int, *, seed: int) -> list[Record]:
    """The same `size` records every time, in file order; all where there are no more."""
    chosen = np.random.default_rng(seed).permutation(len(records))[:size]
    return [records[index] for index in sorted(chosen.tolist())]


def _swanlab(settings: Settings) -> TrainerCallback:
    try:
        from swanlab.integration.transformers import SwanLabCallback
    except ImportError:
        raise SettingsError('track: swanlab is not installed; pip install "groundling[swanlab]"') from None
    mode = os.environ.get("SWANLAB_MODE", "offline")  # offline needs no account; `swanlab sync` sends it later
    return SwanLabCallback(
        project="groundling",
        experiment_name=settings.run.dir.name,
        mode=mode,
        logdir=str(settings.run.dir / "swanlab"),
    )


# ---- the run folder --------------------------------------------------------------------------------------------


def start_run_folder(settings: Settings, records: Gathered, arguments: TrainingArguments) -> None:
    """Write the recipe as resolved and what was set aside; say how much is left."""
    run = settings.run.dir
    log.info("%d lines read: %d to train on, %d to measure on", records.read, len(records.train), len(records.test))
    if arguments.process_index == 0:
        run.mkdir(parents=True, exist_ok=True)
        (run / RECIPE_FILE).write_text(settings.to_yaml(), encoding="utf-8")
        write_findings(records.findings, run)
        write_set_aside(records, run / "set-aside.jsonl")
    set_aside = records.too_long or [finding for finding in records.findings if finding.level == "error"]
    if set_aside:
        log.warning("some records were set aside, each with its reason: %s", run / "set-aside.jsonl")
    arguments.distributed_state.wait_for_everyone()  # type: ignore[union-attr]


def show_first_batch(trainer: GroundingTrainer, run: Path) -> None:
    """Draw the first samples as the model will see them."""
    dataset = trainer.train_dataset
    count = min(len(dataset), trainer.settings.run.pictures)  # type: ignore[arg-type]
    samples = [dataset[index] for index in range(count)]  # type: ignore[index]
    draw_first_batch(samples, trainer.processor, run / "samples" / "first-batch.jpg")


def measure_run(settings: Settings, test: Sequence[Record]) -> None:
    """Load what was saved, the best weights where there are any, and report on all test records."""
    grounder = load(str(settings.run.dir))
    if not test:
        log.info("no data.test: no report")
        return
    report = evaluate(
        grounder,
        test,
        settings.run.dir / "report",
        batch_size=settings.evaluate.batch_size,
        max_new_tokens=settings.evaluate.max_new_tokens,
        max_pixels=settings.images.max_file_pixels,
    )
    low, high = report.ci95["acc@0.5"]
    log.info("acc@0.5 %.3f [%.3f, %.3f] on %d questions", report.metrics["acc@0.5"], low, high, report.scores.n_single)
