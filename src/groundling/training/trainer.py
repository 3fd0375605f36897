"""transformers' Trainer with what grounding needs of its own: the loss, the scores, the weights that are kept.

- The loss is summed over answer tokens and divided by their number in the whole global batch, over all devices and
  accumulated batches, so that long answers and short ones weigh by their tokens (the stock Trainer averages averages).
- Logits are made where there are labels, and nowhere else.
- Evaluation asks the model and scores its boxes; `best/` gets the weights of the best score at that moment.
- A step by a loss or a gradient that is not finite is not made, and weights that are not finite are never kept. What is
  kept appears under its name when it is whole (`checkpoint`).
- Asked to stop, it saves after the step, on every process alike (`stop`).
- The stock reload, which matches no key of a full Qwen2.5-VL and says so in a warning only, is never used.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.training_args import OptimizerNames

from groundling.data.record import Record
from groundling.errors import TrainingError
from groundling.evaluation.metrics import measure
from groundling.evaluation.processes import from_main_process
from groundling.inference.batch import IGNORED
from groundling.inference.predict import Grounder
from groundling.model.processor import Processor
from groundling.model.tune import Part, parameter_groups, spare_frozen_parts
from groundling.settings import Settings
from groundling.training.bad_batch import BAD_BATCH_FILE, RowLoss, write_bad_batch
from groundling.training.checkpoint import (
    drop_old_checkpoints,
    evaluations_since_best,
    explain_unreadable,
    list_checkpoints,
    partial_name,
    put_in_place,
)
from groundling.training.disk import free_bytes, in_words, is_failed_write
from groundling.training.exhaustion import explain_exhaustion
from groundling.training.pictures import draw_predictions
from groundling.training.processes import ask_together, name_engine
from groundling.training.ready import build_dataset, build_sampler
from groundling.training.records import Gathered, join_samples
from groundling.training.rows import Row
from groundling.training.space import expect_sizes
from groundling.training.stop import StopAsked, StopRequest, leave_stopping_to_parent

log = logging.getLogger(__name__)


class GroundingTrainer(Trainer):
    """Trains on records, measures by asking. `loaded_from` is the checkpoint whose weights the model already holds."""

    def __init__(
        self,
        model: PreTrainedModel,
        processor: Processor,
        settings: Settings,
        arguments: TrainingArguments,
        *,
        records: Gathered,
        test: Sequence[Record],
        loaded_from: Path | None,
        stop: StopRequest,
    ) -> None:
        dataset = build_dataset(records, processor, settings)
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=dataset,
            eval_dataset=list(test) or None,  # type: ignore[arg-type]
            data_collator=partial(join_samples, processor=processor),
        )
        self.add_callback(_SparesFrozenParts())
        self.augmenter = dataset.augmenter
        self.sampler = build_sampler(records, dataset, settings, processes=self.args.world_size, epoch=self._epoch)
        self.processor = processor
        self.settings = settings
        self.test = test
        self.loaded_from = loaded_from
        self.stop = stop
        self.stopped_by = 0  # the signal after which the training has ended early
        self._looked_at = 0  # the step after which it was last seen whether to stop
        self._asked_by = 0  # the signal that any process had been sent before the step's last batch
        self._losses: list[torch.Tensor] = []  # of this process in this step
        self._rows: list[float] = []  # the losses of the step's rows over all processes, as they were dealt
        self.sizes = expect_sizes(
            model,
            engine=name_engine(self.accelerator),
            optimizer=OptimizerNames(self.args.optim).value,
            is_adapter=settings.tune.has_adapters,
        )
        self.model_accepts_loss_kwargs = True  # have the labels of the whole global batch counted (compute_loss)

    @property
    def _whole_model(self) -> PreTrainedModel:
        """The model itself, out of whatever spreads it over devices."""
        return self.accelerator.unwrap_model(self.model)  # type: ignore[arg-type,return-value]

    # ---- every step

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *rest: Any, **options: Any) -> torch.Tensor:
        """The loss of one row, forwards and backwards; where memory runs out it is told what would take less."""
        with explain_exhaustion(self, dict(inputs)):
            return super().training_step(model, inputs, *rest, **options)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The loss of one packed row, as its share of the global batch's mean over answer tokens."""
        labels = inputs.pop("labels")[0, 1:]
        learned = (labels != IGNORED).nonzero().flatten()
        outputs = model(**self.processor.normalise(inputs), logits_to_keep=learned)
        total = cross_entropy(
            outputs.logits[0].float(),
            labels[learned],
            reduction="sum",
            label_smoothing=self.args.label_smoothing_factor,
        )
        assert num_items_in_batch is not None, "without the global count every batch would weigh the same"
        loss = total * self.accelerator.num_processes / num_items_in_batch  # the devices' gradients are averaged
        self._losses.append(loss.detach())
        if self.accelerator.sync_gradients:  # the last batch of the step
            self._look_at_step()
        return (loss, outputs) if return_outputs else loss

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Rows as `sampler` draws them, each process its own."""
        arguments = self.args
        loader = DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            batch_sampler=self.sampler,  # type: ignore[arg-type]  # of rows, which are no lists
            collate_fn=self.data_collator,
            num_workers=arguments.dataloader_num_workers,
            persistent_workers=arguments.dataloader_persistent_workers,
            prefetch_factor=arguments.dataloader_prefetch_factor,
            pin_memory=arguments.dataloader_pin_memory,
            worker_init_fn=leave_stopping_to_parent,
        )
        return self.accelerator.prepare(loader)  # type: ignore[return-value]

    def end_loading(self) -> None:
        """End the processes that load pictures.

        Left to the garbage collector, which undoes their queues first, each is waited for five seconds and killed.
        """
        loader: Any = self.callback_handler.train_dataloader
        if loader is not None and loader._iterator is not None:
            loader._iterator._shutdown_workers()

    @property
    def steps_an_epoch(self) -> int:
        """Optimizer steps, the last perhaps of fewer rows."""
        return -(-len(self.sampler) // self.sampler.plan.rows_a_step)

    def _epoch(self) -> int:
        """That whose rows are drawn next. (accelerate tells a sampler, but not of several processes after a stop.)"""
        return self.state.global_step // self.steps_an_epoch

    def draw_step(self) -> list[Row]:
        """The rows of the step that is under way, of all processes in turn."""
        place, size = self.state.global_step % self.steps_an_epoch, self.sampler.plan.rows_a_step
        return list(self.sampler)[place * size : (place + 1) * size]

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The next step's batches; none where nothing is left to train but an evaluation was to be made up for."""
        if self.control.should_training_stop or self.state.global_step >= self.state.max_steps:
            return [], None
        return super().get_batch_samples(*args, **kwargs)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """What falls due after a step. Asked to stop, that is a checkpoint and nothing else, and no step follows.

        The stock loop calls it once more where an epoch ends: then all that was due is done.
        """
        control, step = self.control, self.state.global_step
        if self.stopped_by:
            control.should_log = control.should_evaluate = control.should_save = False
        elif step > self._looked_at:
            self._looked_at = step
            self.stopped_by = self._asked_by or (self.stop.signal if self.args.world_size == 1 else 0)
            if self.stopped_by:
                control.should_log, control.should_evaluate, control.should_save = True, False, True
                control.should_training_stop = True
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """One group of parameters for each learning rate, `train.learning_rate` first: that of the first is logged."""
        if self.optimizer is None:
            tuned: Any = self.model if model is None else model
            train = self.settings.train
            own = train.learning_rates
            asked: dict[Part, float | None] = {"vision": own.vision, "merger": own.merger, "language": own.language}
            rates: dict[Part, float] = {part: rate or train.learning_rate for part, rate in asked.items()}
            groups = parameter_groups(tuned, rates=rates, weight_decay=train.weight_decay)
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, tuned)
            self.optimizer = kind(sorted(groups, key=lambda group: group["lr"] != train.learning_rate), **options)
        return self.optimizer

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with explain_unreadable(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with explain_unreadable(checkpoint):
            super()._load_rng_state(checkpoint)

    # ---- every evaluation

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Scores on the fixed sample of test records, asked over all devices; a line of the log, and pictures.

        The best weights so far are kept as they are, and the training ends where the recipe's patience does.
        """
        grounder = Grounder(self._whole_model, self.processor, "model in training")
        try:
            predictions = ask_together(grounder, self.test, self.settings, stop=self.stop)
        except StopAsked as asked:
            self.stopped_by = asked.number
            self.control.should_save = self.control.should_training_stop = True
            return {}
        scores = measure(predictions, draws=1)
        metrics = {f"eval_{name}": value for name, value in scores.metrics.items() if not math.isnan(value)}
        if self.is_world_process_zero():
            sheet = self.settings.run.dir / "samples" / f"step-{self.state.global_step:06d}.jpg"
            shown = predictions[: self.settings.run.pictures]
            draw_predictions(shown, sheet, max_pixels=self.settings.images.max_file_pixels)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._keep_best()
        return metrics

    def _keep_best(self) -> None:
        waited = evaluations_since_best(self.state.log_history, self.settings.evaluate.metric)
        best = self.settings.run.dir / "best"
        # a run that goes on from another's checkpoint has no best of its own yet
        if from_main_process(lambda: waited == 0 or not best.is_dir()):
            self.save_whole(best)
        patience = self.settings.evaluate.patience
        if patience is not None and waited >= patience:
            self.control.should_training_stop = True

    # ---- weights

    def save_whole(self, folder: Path) -> None:
        """The weights with processor and contract, as a folder that takes its name (from another) when it is whole.

        Every process has to call this.
        """
        self.save_partial(folder)
        self._put_in_place(partial_name(folder), folder)

    def save_partial(self, folder: Path) -> None:
        """As `save_whole`, but under the name that the folder has until it is whole."""
        with self._saving(partial_name(folder), self.sizes.weights):
            self.save_model(str(partial_name(folder)))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Weights in safetensors, processor and contract; no pickled arguments, which would hold secrets.

        `state_dict` holds the weights where they had to be gathered. TrainingError where one of them is not finite.
        """
        if self.args.should_save:
            assert output_dir is not None
            self._refuse_not_finite(state_dict or dict(self._whole_model.named_parameters()))
            # PEFT would ask the hub about the base's embeddings, which no adapter of ours changes
            options: dict[str, Any] = {"save_embedding_layers": False} if self.settings.tune.has_adapters else {}
            self._whole_model.save_pretrained(output_dir, state_dict=state_dict, **options)
            self.processor.save(Path(output_dir))

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """A checkpoint named after its step, and room made by the oldest ones."""
        run, step = self.settings.run, self.state.global_step
        folder = run.dir / "checkpoints"
        partial = folder / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        with self._saving(partial, self.sizes.checkpoint):
            super()._save_checkpoint(model, trial)
        self._put_in_place(partial, folder / str(step))
        if self.args.should_save:
            drop_old_checkpoints(run.dir, keep=run.keep)

    def _put_in_place(self, partial: Path, folder: Path) -> None:
        self.accelerator.wait_for_everyone()
        from_main_process(lambda: self._seal(partial, folder))

    def _seal(self, partial: Path, folder: Path) -> None:
        try:
            put_in_place(partial, folder)
        except OSError as error:
            raise self._not_written(partial, error, self.sizes.weights) from error

    @contextmanager
    def _saving(self, partial: Path, needed: int) -> Iterator[None]:
        """TrainingError, on every process, where one cannot write its part of a folder, which is removed then.

        Where weights are spread the processes wait for each other while they save, so there the one that fails ends
        alone, and the launcher ends the others.
        """
        failed: TrainingError | None = None
        try:
            yield
        except TrainingError as error:
            failed = error
        except Exception as error:
            if not is_failed_write(error):
                raise
            failed = self._not_written(partial, error, needed)
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            if failed is not None and not self.is_world_process_zero():
                log.error("%s", failed)
        else:
            failed = next((each for each in gather_object([failed]) if each is not None), None)
        if failed is not None:
            shutil.rmtree(partial, ignore_errors=True)
            raise failed

    def _not_written(self, partial: Path, error: Exception, needed: int) -> TrainingError:
        """What to say of a folder that could not be written; what there is of it is removed."""
        shutil.rmtree(partial, ignore_errors=True)
        free = free_bytes(partial)
        reason = "the disk is full" if free < needed else str(error).splitlines()[0]
        return TrainingError(
            f"{partial} could not be written: {reason}; it needs {in_words(needed)}, and {in_words(free)} are free. "
            f"{self._kept('checkpoint')}; with more room the same command goes on from there"
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """The model was loaded, strictly, from the checkpoint itself; only sharded weights are still to be read."""
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            assert self.loaded_from == Path(resume_from_checkpoint), "a resumed model holds the checkpoint's weights"

    # ---- numbers that are none

    def _look_at_step(self) -> None:
        """Once a step, before its last gradients: what all processes have to know of each other.

        TrainingError, on all of them, where the loss of any row is no number.
        """
        device = self._losses[0].device
        own = torch.stack([*self._losses, torch.tensor(float(self.stop.signal), device=device)])
        self._losses.clear()
        told: Any = self.accelerator.gather(own)
        told = told.view(self.args.world_size, -1)
        self._rows = told[:, :-1].T.flatten().tolist()
        self._asked_by = int(told[:, -1].max())
        if not all(map(math.isfinite, self._rows)):
            raise self._bad_step("the loss")

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        """The gradient's norm, before it is scaled down; TrainingError where it is no number, before the step is made.

        (DeepSpeed has made it by then; nothing of it is kept.)
        """
        norm = super()._clip_grad_norm(model)
        if norm is not None and not math.isfinite(float(norm)):
            raise self._bad_step("the gradient")
        return norm

    def _bad_step(self, what: str) -> TrainingError:
        """What to say of a step whose numbers are none; its records are written down."""
        file = self.settings.run.dir / BAD_BATCH_FILE
        if self.is_world_process_zero():
            rows = [RowLoss(row.numbers, loss) for row, loss in zip(self.draw_step(), self._rows, strict=True)]
            write_bad_batch(file, rows, self.train_dataset.records, step=self.state.global_step + 1)  # type: ignore[union-attr]
        return TrainingError(f"{self._not_finite(what)}: the records of this step are in {file}")

    def _refuse_not_finite(self, weights: Mapping[str, torch.Tensor]) -> None:
        for name, weight in weights.items():
            if not torch.isfinite(weight.detach()).all():
                raise TrainingError(self._not_finite(f"the weight {name}"))

    def _not_finite(self, what: str) -> str:
        return (
            f"{what} is not finite after {self.state.global_step} steps; {self._kept('finite checkpoint')}. "
            "Lower train.learning_rate or raise train.warmup, and look at the batch's pictures and boxes"
        )

    def _kept(self, what: str) -> str:
        whole = list_checkpoints(self.settings.run.dir)
        return f"the last {what} is {whole[-1]}" if whole else "no checkpoint had been written yet"


class _SparesFrozenParts(TrainerCallback):
    """The Trainer turns checkpointing on when a training begins, and calls this next."""

    def on_train_begin(self, *_: Any, model: PreTrainedModel, **__: Any) -> None:
        spare_frozen_parts(model)
