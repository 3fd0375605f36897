"""Training, from a recipe to a run folder."""

from __future__ import annotations

import dataclasses
import gc
import logging
import math
import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers import PreTrainedModel, PrinterCallback, TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from groundling.data.check import write_findings
from groundling.data.record import Record
from groundling.errors import SettingsError
from groundling.evaluation.evaluate import evaluate
from groundling.evaluation.guard import read_guard
from groundling.evaluation.pace import tell_progress
from groundling.evaluation.processes import from_main_process
from groundling.evaluation.report import Report
from groundling.inference.predict import Grounder, load
from groundling.model.attention import use_packed_attention
from groundling.model.contract import Contract, read_contract, write_contract
from groundling.model.load import Checkpoint, find_checkpoint, load_model
from groundling.model.processor import Processor
from groundling.model.quantise import refuse_no_4_bits
from groundling.model.tune import Adapter, add_adapter, count_trained, freeze_parts, weights_dtype
from groundling.settings import Settings, closest_name, load_settings
from groundling.training.card import BASE_REPORT, write_results
from groundling.training.checkpoint import (
    RECIPE_FILE,
    copy_model,
    find_resume,
    is_at_end,
    owes_evaluation,
    partial_name,
    put_in_place,
    read_step,
    set_damaged_aside,
    sweep_partial,
)
from groundling.training.disk import telling_full_disk, write_whole
from groundling.training.exhaustion import explain_exhaustion
from groundling.training.journal import Journal
from groundling.training.launch import refuse_other_launch
from groundling.training.lock import hold_run
from groundling.training.pictures import draw_first_batch
from groundling.training.processes import name_engine, refuse_other_engine, refuse_other_state
from groundling.training.ready import make_ready
from groundling.training.records import (
    Gathered,
    choose_sample,
    longest_answer,
    refuse_unmeasurable,
    write_set_aside,
)
from groundling.training.reload import Said, choose_asked, refuse_other_model, say
from groundling.training.secrets import refuse_secrets
from groundling.training.shown import show_sample
from groundling.training.space import count_saves, refuse_small_disk
from groundling.training.stop import StopAsked, StopRequest, stopped
from groundling.training.trackers import build_trackers, refuse_missing_trackers
from groundling.training.trainer import GroundingTrainer
from groundling.tutorial_recipe import DECIDED, OWNED

MOST_WORKERS = 4  # by default: some 80 megapixel pictures a second each, or 20 of a phone's twelve
_LIGER_LOSSES = ("cross_entropy", "fused_linear_cross_entropy")
_BELOW_ONE = math.nextafter(1, 0)  # transformers takes a warmup_steps below 1 as a share of the steps

log = logging.getLogger(__name__)


def train(recipe: str | Path, *overrides: str) -> Path:
    """Tune a model as a recipe says, changed by `section.key=value`; returns the run folder.

    SettingsError and its kin before anything is computed, TrainingError where the training itself fails,
    PreemptedError where SIGTERM asked it to stop: it has saved then, and the same call goes on.
    """
    settings = load_settings(recipe, overrides)
    refuse_missing_trackers(settings)
    refuse_secrets(settings)
    arguments = build_arguments(settings)
    refuse_impossible_measures(settings)
    stop = StopRequest()
    with hold_run(settings.run.dir), stop.listen(signal.SIGTERM), telling_full_disk(settings.run.dir):
        return train_alone(settings, arguments, stop)


def train_alone(settings: Settings, arguments: TrainingArguments, stop: StopRequest) -> Path:
    """The training itself, in a run folder that no other process writes to."""
    resume = from_main_process(lambda: find_resume(settings))

    base, processor, records = make_ready(settings, progress=stop.refuse_start)
    from_main_process(stop.refuse_start)
    refuse_other_data(resume, processor.contract)
    sample = choose_sample(records.test, settings.evaluate.sample, seed=settings.train.seed)
    if settings.evaluate.every:
        refuse_unmeasurable(sample, settings.evaluate.metric)
    start_run_folder(settings, processor, records, resume)
    measure_base(settings, base, processor, records.test, stop)
    asked = choose_asked(records.test, records.train)

    if resume is not None and is_at_end(resume, settings):
        trained = copy_last(resume, settings.run.dir)
    else:
        model = build_model(base, settings, resume)
        trainer = build_trainer(
            model, processor, settings, arguments, records=records, test=sample, resume=resume, stop=stop
        )
        saves = count_saves(settings, arguments, steps_an_epoch=trainer.steps_an_epoch)
        from_main_process(lambda: refuse_small_disk(settings, trainer.sizes, saves=saves))
        show_first_batch(trainer)
        with explain_exhaustion(trainer):
            run_trainer(trainer, resume)
        trained = save_last(trainer, asked)
        del trainer, model

    free_devices()
    keep_final(settings, asked, trained)
    measure_run(settings, base, records.test, stop)
    log.info("done: %s", settings.run.dir)
    return settings.run.dir


# ---- settings to arguments -------------------------------------------------------------------------------------


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
        raise SettingsError(f"no argument of transformers' TrainingArguments: {', '.join(lines)}")
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


def refuse_other_data(resume: Path | None, contract: Contract) -> None:
    """SettingsError where a run would go on in the middle of other records than it began with."""
    before = None if resume is None else read_contract(resume)
    if before is not None and before.trained_on != contract.trained_on:
        raise SettingsError(
            f"{resume} has learned from other records than data.train holds: {_told(before)}, now {_told(contract)}; "
            f"put the former ones back, or start a new run from its weights (model.name={resume})"
        )


def _told(contract: Contract) -> str:
    trained_on = contract.trained_on or {}
    return f"{trained_on.get('records')} with hash {str(trained_on.get('sha256'))[:12]}"


# ---- model and trainer -----------------------------------------------------------------------------------------


def build_model(base: Checkpoint, settings: Settings, resume: Path | None) -> PreTrainedModel:
    """The model to train, its weights those of the checkpoint to resume from where there is one.

    A full training from an adapter starts with its product merged in; a LoRA training from one goes on with it.
    """
    tune = settings.tune
    source = base if resume is None else find_checkpoint(str(resume))
    has_adapter, wants_adapter = source.base is not None, tune.has_adapters
    if resume is not None and has_adapter != wants_adapter:
        raise SettingsError(
            f"run.resume is {resume}, of method {'lora' if has_adapter else 'full'}, and tune.method is {tune.method}; "
            f"to change it start a new run (model.name={resume})"
        )
    dtype, in_4_bits = _training_dtype(settings), tune.method == "qlora"
    model = load_model(source, dtype=dtype, is_trainable=wants_adapter, in_4_bits=in_4_bits)
    adapter = Adapter(tune.lora.rank, tune.lora.alpha, tune.lora.dropout, tune.lora.parts)
    if not wants_adapter:
        model = model.merge_and_unload() if has_adapter else model  # type: ignore[operator]
        freeze_parts(model, tune.freeze)
    elif has_adapter:
        _refuse_other_adapter(model, adapter, source)
    else:
        torch.manual_seed(settings.train.seed)
        name, revision = _lasting_name(base), settings.model.revision
        model = add_adapter(model, adapter, family=base.contract.family, base=name, revision=revision)
    use_packed_attention(model)
    trained = count_trained(model)
    shown = ", ".join(f"{part} {trained[part]:,}" for part in trained if part != "all" and trained[part])
    log.info("%s: training %s of %s parameters", tune.method, shown, f"{trained['all']:,}")
    return model


def _training_dtype(settings: Settings) -> torch.dtype:
    has_masters = PartialState().distributed_type == DistributedType.DEEPSPEED  # in float32, of its own
    if settings.model.dtype == "bfloat16" and settings.tune.method == "full" and not has_masters:
        log.warning(
            "model.dtype is bfloat16: steps smaller than 1/256 of a weight are rounded away, so a full training "
            "at a small learning rate hardly changes it; leave it at auto, with train.bf16 for fast arithmetic"
        )
    return weights_dtype(settings, has_gpu=torch.cuda.is_available())


def _refuse_other_adapter(model: PreTrainedModel, wanted: Adapter, source: Checkpoint) -> None:
    """SettingsError where the adapter to go on with is not the one that the recipe describes."""
    found: Any = model.peft_config["default"]  # type: ignore[index]
    pairs = {
        "rank": (found.r, wanted.rank),
        "alpha": (found.lora_alpha, wanted.alpha),
        "dropout": (found.lora_dropout, wanted.dropout),
    }
    wrong = [f"tune.lora.{name}={has}, not {wants}" for name, (has, wants) in pairs.items() if has != wants]
    if wrong:
        raise SettingsError(
            f"{source.name} is an adapter to go on with, and has {'; '.join(wrong)}; set the recipe so, "
            "or merge it first (`groundling merge`) for a new adapter on top"
        )


def _lasting_name(base: Checkpoint) -> str:
    """What an adapter's base will be found by: its folder from wherever, or its name on the hub."""
    return str(base.folder.resolve()) if Path(base.name).exists() else base.name


def build_trainer(
    model: PreTrainedModel,
    processor: Processor,
    settings: Settings,
    arguments: TrainingArguments,
    *,
    records: Gathered,
    test: Sequence[Record],
    resume: Path | None,
    stop: StopRequest,
) -> GroundingTrainer:
    """The trainer with what watches over it: journal and trackers."""
    arguments.eval_on_start = resume is not None and owes_evaluation(resume, settings)
    trainer = GroundingTrainer(
        model, processor, settings, arguments, records=records, test=test, loaded_from=resume, stop=stop
    )
    refuse_other_engine(trainer.accelerator.distributed_type)
    engine = name_engine(trainer.accelerator)
    refuse_other_launch(settings.launch, engine=engine, processes=arguments.world_size)
    if resume is not None:
        refuse_other_state(resume, engine)
    if arguments.world_size > 1:
        log.info("%d processes, %s", arguments.world_size, engine)
    log.info("%s", trainer.sampler.describe())
    if trainer.augmenter is not None:
        log.info("%s", trainer.augmenter.describe())
    trainer.remove_callback(PrinterCallback)
    resumed_step = 0 if resume is None else read_step(resume)
    trainer.add_callback(Journal(settings.run.dir, resumed_step=resumed_step, metric=settings.evaluate.metric))
    if settings.track and trainer.is_world_process_zero():
        trainer.add_callback(build_trackers(settings))
    return trainer


# ---- the run folder --------------------------------------------------------------------------------------------


def start_run_folder(settings: Settings, processor: Processor, records: Gathered, resume: Path | None) -> None:
    """Write the contract, the recipe as resolved, what was found in the data and set aside; say how much is left."""
    run = settings.run.dir
    log.info("%d lines read: %d to train on, %d to measure on", records.read, len(records.train), len(records.test))
    if PartialState().is_main_process:
        run.mkdir(parents=True, exist_ok=True)
        sweep_partial(run)
        if resume is not None:
            set_damaged_aside(run, resume)
        write_whole(run / RECIPE_FILE, settings.to_yaml())
        write_contract(processor.contract, run)
        write_findings(records.findings, run)
        _tell_findings(records, settings)
        _warn_of_short_answers(records.test, processor, settings)
    PartialState().wait_for_everyone()


def _tell_findings(records: Gathered, settings: Settings) -> None:
    """How many records are set aside, and what else was found in the data, one line each."""
    run = settings.run.dir
    set_aside = write_set_aside(records, run / "set-aside.jsonl", settings)
    if set_aside:
        log.warning("%d records are set aside, each with its reason: %s", set_aside, run / "set-aside.jsonl")
    shared = {source.path.resolve() for source in settings.data.train} & {path.resolve() for path in settings.data.test}
    for file in sorted(shared):
        log.warning("%s is both trained on and measured on: its scores tell what was learned by heart", file)
    warnings = Counter(finding.code for finding in records.findings if finding.level == "warning")
    for code, count in warnings.most_common():
        log.warning("%s: %d findings in the data, listed in %s", code, count, run / "findings.jsonl")


def _warn_of_short_answers(test: Sequence[Record], processor: Processor, settings: Settings) -> None:
    longest = longest_answer(test, processor, settings.images.max_file_pixels)
    if longest > settings.evaluate.max_new_tokens:
        log.warning(
            "evaluate.max_new_tokens is %d, and a true answer in data.test has %d tokens: such answers are cut short",
            *(settings.evaluate.max_new_tokens, longest),
        )


def show_first_batch(trainer: GroundingTrainer) -> None:
    """Draw the first samples of the first row as the model will see them."""
    run = trainer.settings.run
    if trainer.is_world_process_zero() and run.pictures:
        row = next(iter(trainer.sampler))
        first = row._replace(numbers=row.numbers[: run.pictures])
        samples = trainer.train_dataset.__getitems__(first)  # type: ignore[union-attr]
        shown = [show_sample(sample, trainer.processor) for sample in samples]
        draw_first_batch(shown, run.dir / "samples" / "first-batch.jpg")


# ---- the end ---------------------------------------------------------------------------------------------------


def run_trainer(trainer: GroundingTrainer, resume: Path | None) -> None:
    """Train to the end. Asked to stop, PreemptedError for SIGTERM and KeyboardInterrupt for Ctrl-C, all saved."""
    with trainer.stop.listen(signal.SIGINT), trainer.stop.promise("the step is finished and saved first"):
        try:
            trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        finally:
            trainer.end_loading()
    if trainer.stopped_by:
        step = trainer.state.global_step
        kept = trainer.settings.run.dir / "checkpoints" / str(step)
        raise stopped(trainer.stopped_by, f"after step {step}; {kept} is whole, and the same command goes on from it")


def save_last(trainer: GroundingTrainer, asked: Record) -> Said:
    """Write the final weights, not yet by their name; returns what the trained model says to a record."""
    trainer.save_partial(trainer.settings.run.dir / "final")
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)  # type: ignore[arg-type]
    return say(model, trainer.processor, asked, trainer.settings.images.max_file_pixels)  # type: ignore[arg-type]


def copy_last(checkpoint: Path, run: Path) -> None:
    """Write the last checkpoint's weights as the final ones: a run that was ended before has only that to do."""
    if PartialState().is_main_process:
        copy_model(checkpoint, partial_name(run / "final"))
    PartialState().wait_for_everyone()


def keep_final(settings: Settings, asked: Record, said: Said | None) -> None:
    """Give the final weights their name, once they have been loaded again and say what the trained model `said`."""
    final = settings.run.dir / "final"

    def keep() -> None:
        refuse_other_model(partial_name(final), asked, said, max_pixels=settings.images.max_file_pixels)
        put_in_place(partial_name(final), final)

    from_main_process(keep)


def free_devices() -> None:
    """Let go of the training's memory, and of what spread its weights: what is asked from here on is whole."""
    unset_hf_deepspeed_config()
    gc.collect()
    torch.cuda.empty_cache()


def refuse_impossible_measures(settings: Settings) -> None:
    """RecordError where the guard's questions cannot be read, SettingsError where the untrained model has no device."""
    if settings.data.test and settings.evaluate.guard is not None:
        read_guard(settings.evaluate.guard)
    if settings.evaluate.before and PartialState().distributed_type == DistributedType.DEEPSPEED:
        raise SettingsError(
            "evaluate.before: DeepSpeed would spread the untrained model over the devices; leave it false, and "
            f"`groundling evaluate {settings.model.name} RECORDS --to before` by itself"
        )


def measure_base(
    settings: Settings, base: Checkpoint, processor: Processor, test: Sequence[Record], stop: StopRequest
) -> None:
    """Report on the model as it comes, where the recipe wants it; once, however often the run goes on.

    It is asked as it will be trained: at the run's budget, in its words and form.
    """
    folder = settings.run.dir / BASE_REPORT
    if not settings.evaluate.before or from_main_process((folder / "report.json").is_file):
        return
    contract = dataclasses.replace(
        processor.contract, trained_on=base.contract.trained_on, made_with=base.contract.made_with
    )
    with _keeping_answers(stop):
        grounder = load(settings.model.name, revision=settings.model.revision)
        grounder = dataclasses.replace(grounder, processor=processor.with_contract(contract))
        _measure(grounder, test, folder, settings, stop)
    del grounder
    gc.collect()
    torch.cuda.empty_cache()


def measure_run(settings: Settings, base: Checkpoint, test: Sequence[Record], stop: StopRequest) -> None:
    """Load what was saved, the best weights where there are any, and report on all test records; write the card."""
    run = settings.run.dir
    if not test:
        log.info("no data.test: no report")
    else:
        if PartialState().is_main_process:
            (run / "report" / "report.json").unlink(missing_ok=True)  # of weights that it has gone on from
        with _keeping_answers(stop):
            report = _measure(load(str(run)), test, run / "report", settings, stop)
        for name in dict.fromkeys((settings.evaluate.metric, "parse_rate")):
            log.info("%s %.3f [%.3f, %.3f] on all test records", name, report.metrics[name], *report.ci95[name])
    if PartialState().is_main_process:
        write_results(settings, base)
    PartialState().wait_for_everyone()


@contextmanager
def _keeping_answers(stop: StopRequest) -> Iterator[None]:
    """Listens to Ctrl-C too, while a model is measured."""
    with stop.listen(signal.SIGINT), stop.promise("the answers so far are kept"):
        yield


def _measure(grounder: Grounder, test: Sequence[Record], folder: Path, settings: Settings, stop: StopRequest) -> Report:
    """Asked to stop meanwhile, it keeps the answers that there are."""
    tell = tell_progress(log, f"questions asked of {grounder.name}")

    def go_on(done: int, total: int) -> None:
        stop.leave_if_asked()
        tell(done, total)

    try:
        return evaluate(
            grounder,
            test,
            folder,
            batch_size=settings.evaluate.batch_size,
            max_new_tokens=settings.evaluate.max_new_tokens,
            free=settings.evaluate.free,
            max_pixels=settings.images.max_file_pixels,
            guard=settings.evaluate.guard,
            progress=go_on,
        )
    except StopAsked as asked:
        kept = "all weights and the answers so far are kept, and the same command goes on there"
        raise stopped(asked.number, f"while it was measured; {kept}") from None
