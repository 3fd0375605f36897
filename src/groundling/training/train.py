"""Training, from a recipe to a run folder."""

from __future__ import annotations

import gc
import logging
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from transformers import PrinterCallback, TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from groundling.data.record import Record
from groundling.evaluation.lock import hold_folder
from groundling.evaluation.pace import Progress, tell_progress
from groundling.evaluation.processes import from_main_process
from groundling.recipe import load_settings
from groundling.settings import Settings
from groundling.training.arguments import build_arguments
from groundling.training.checkpoint import find_resume, is_at_end, owes_evaluation, put_back_former, read_step
from groundling.training.disk import telling_full_disk
from groundling.training.exhaustion import explain_ending, explain_exhaustion, explain_loading
from groundling.training.journal import Journal
from groundling.training.launch import refuse_other_launch
from groundling.training.pictures import draw_first_batch
from groundling.training.processes import (
    asked_engine,
    name_engine,
    refuse_lone_fsdp,
    refuse_other_engine,
    refuse_other_state,
)
from groundling.training.ready import Ready, make_ready, refuse_no_step, refuse_other_data, refuse_other_sample
from groundling.training.records import choose_sample, refuse_unmeasurable
from groundling.training.reload import Said, choose_asked, say
from groundling.training.reports import measure_base, measure_run, refuse_impossible_measures
from groundling.training.run_folder import copy_last, keep_final, start_run_folder
from groundling.training.secrets import refuse_secrets
from groundling.training.shown import show_sample
from groundling.training.space import Sizes, count_saves, find_sizes, refuse_full_disk, refuse_small_disk
from groundling.training.stop import StopRequest, stopped
from groundling.training.trackers import build_trackers, refuse_missing_trackers
from groundling.training.trainer import GroundingTrainer
from groundling.training.weights import build_model

log = logging.getLogger(__name__)


def train(recipe: str | Path, *overrides: str) -> Path:
    """Tune a model as a recipe says, changed by `section.key=value`; returns the run folder.

    SettingsError and its kin before anything is computed, TrainingError where the training itself fails,
    PreemptedError where SIGTERM asked it to stop: it has saved then, and the same call goes on.
    """
    return train_by(load_settings(recipe, overrides))


def train_by(settings: Settings) -> Path:
    """As `train`, by settings that have been read."""
    refuse_missing_trackers(settings)
    refuse_secrets(settings)
    arguments = build_arguments(settings)
    refuse_lone_fsdp()
    refuse_impossible_measures(settings)
    folder, stop = settings.run.dir, StopRequest()
    sizes = find_sizes(settings, engine=asked_engine(arguments), has_gpu=torch.cuda.is_available())
    from_main_process(lambda: refuse_full_disk(settings, sizes))  # before the lock finds no room
    held = hold_folder(folder, "run.dir", telling=partial(telling_full_disk, folder))
    with held, stop.listen(signal.SIGTERM), telling_full_disk(folder):
        return train_alone(settings, arguments, sizes, stop)


def train_alone(settings: Settings, arguments: TrainingArguments, sizes: Sizes, stop: StopRequest) -> Path:
    """The training itself, in a run folder that no other process writes to."""
    resume = from_main_process(lambda: find_start(settings))
    ready = make_ready(settings, processes=arguments.world_size, progress=_tell_looking(stop))
    records = ready.records
    from_main_process(stop.refuse_start)
    refuse_other_data(resume, ready.processor.contract, records.findings)
    refuse_no_step(resume, settings, ready.sampler)
    is_over = resume is not None and is_at_end(resume, settings)
    if resume is not None and not is_over:
        refuse_other_state(resume, asked_engine(arguments), processes=arguments.world_size)
    done = 0 if resume is None else read_step(resume)
    saves = 0 if is_over else count_saves(settings, arguments, steps_an_epoch=ready.sampler.steps, done=done)
    from_main_process(lambda: refuse_small_disk(settings, sizes, resume, saves=saves))
    sample = choose_sample(records.test, settings.evaluate.sample, seed=settings.train.seed)
    if settings.evaluate.every:
        refuse_unmeasurable(sample, settings.evaluate.metric)
        from_main_process(lambda: refuse_other_sample(resume, sample))
    start_run_folder(settings, ready.processor, records, resume)
    measure_base(settings, ready.base, ready.processor, records.test, stop)

    asked = choose_asked(records.test, records.train)
    said: Said | None = None  # of that record by the trained model, where there is one in memory
    if resume is not None and is_over:
        log.info("nothing is left to train: the final weights are those of %s", resume)
        copy_last(resume, settings.run.dir)
    else:
        trainer = build_trainer(ready, settings, arguments, test=sample, sizes=sizes, resume=resume, stop=stop)
        show_first_batch(trainer)
        with explain_exhaustion(trainer):
            run_trainer(trainer, resume)
        with explain_ending(settings.run.dir, "saved and asked"):
            said = save_last(trainer, asked)
        del trainer

    free_devices()
    keep_final(settings, asked, said)
    measure_run(settings, ready.base, ready.processor, records.test, stop)
    log.info("done: %s", settings.run.dir)
    return settings.run.dir


def _tell_looking(stop: StopRequest) -> Progress:
    """A progress that tells of long looking at pictures, and leaves where the run is to stop."""
    tell = tell_progress(log, "pictures looked at", at_once=False)

    def go_on(done: int, total: int) -> None:
        stop.refuse_start()
        tell(done, total)

    return go_on


# ---- its steps -------------------------------------------------------------------------------------------------


def find_start(settings: Settings) -> Path | None:
    """As `find_resume`, once what a kill has left without its name has it back."""
    put_back_former(settings.run.dir)
    return find_resume(settings)


def build_trainer(
    ready: Ready,
    settings: Settings,
    arguments: TrainingArguments,
    *,
    test: Sequence[Record],
    sizes: Sizes,
    resume: Path | None,
    stop: StopRequest,
) -> GroundingTrainer:
    """The model in its trainer, with what watches over it: journal and trackers."""
    arguments.eval_on_start = resume is not None and owes_evaluation(resume, settings)
    with explain_loading(settings, ready.processor):
        trainer = GroundingTrainer(
            build_model(ready.base, settings, resume),
            ready,
            settings,
            arguments,
            test=test,
            sizes=sizes,
            loaded_from=resume,
            stop=stop,
        )
    refuse_other_engine(trainer.accelerator.distributed_type)
    engine = name_engine(trainer.accelerator)
    refuse_other_launch(settings.launch, engine=engine, processes=arguments.world_size)
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


def show_first_batch(trainer: GroundingTrainer) -> None:
    """Draw the first samples of the first row as the model will see them."""
    run = trainer.settings.run
    if trainer.is_world_process_zero() and run.pictures:
        row = next(iter(trainer.sampler))
        first = row._replace(numbers=row.numbers[: run.pictures])
        samples = trainer.train_dataset.__getitems__(first)  # type: ignore[union-attr]
        shown = [show_sample(sample, trainer.processor) for sample in samples]
        draw_first_batch(shown, run.dir / "samples" / "first-batch.jpg")


def run_trainer(trainer: GroundingTrainer, resume: Path | None) -> None:
    """Train to the end. Asked to stop, PreemptedError for SIGTERM and KeyboardInterrupt for Ctrl-C, all saved."""
    with trainer.stop.listen(signal.SIGINT), trainer.stop.promise("the step is finished and saved first"):
        try:
            trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        finally:
            trainer.end_loading()
    if trainer.stopping.signal:
        step = trainer.state.global_step
        kept = trainer.settings.run.dir / "checkpoints" / str(step)
        state = f"after step {step}; {kept} is whole, and the same command goes on from it"
        raise stopped(trainer.stopping.signal, state)


def save_last(trainer: GroundingTrainer, asked: Record) -> Said:
    """Write the final weights, not yet by their name; returns what the trained model says to a record."""
    trainer.save_partial(trainer.settings.run.dir / "final")
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)  # type: ignore[arg-type]
    return say(model, trainer.processor, asked, trainer.settings.images.max_file_pixels)  # type: ignore[arg-type]


def free_devices() -> None:
    """Let go of the training's memory, and of what spread its weights: what is asked from here on is whole."""
    unset_hf_deepspeed_config()
    gc.collect()
    torch.cuda.empty_cache()
