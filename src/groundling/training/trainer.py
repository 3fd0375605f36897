"""transformers' Trainer with what grounding needs of its own: the loss, the scores, the weights that are kept.

- The loss is summed over answer tokens and divided by their number in the whole global batch, over all devices and
  accumulated batches, so that long answers and short ones weigh by their tokens (the stock Trainer averages averages).
- Logits are made where there are labels, and nowhere else.
- Evaluation asks the model and scores its boxes; `best/` gets the weights of the best score at that moment.
- A step by a loss or a gradient that is not finite is not made, and weights that are not finite are never kept
  (`finite`). What is kept appears under its name when it is whole (`saving`).
- Asked to stop, it saves after the step, on every process alike (`step_news`).
- The stock reload, which matches no key of a full Qwen2.5-VL and says so in a warning only, is never used.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from groundling.data.record import Record
from groundling.errors import TrainingError
from groundling.evaluation.metrics import measure
from groundling.evaluation.processes import from_main_process
from groundling.inference.batch import IGNORED
from groundling.inference.predict import Grounder
from groundling.model.tune import parameter_groups, spare_frozen_parts
from groundling.settings import Settings
from groundling.training.bad_batch import BAD_BATCH_FILE, RowLoss, write_bad_batch
from groundling.training.checkpoint import (
    RECIPE_FILE,
    SAMPLE_FILE,
    drop_old_checkpoints,
    evaluations_since_best,
    explain_unreadable,
    is_foreign,
    partial_name,
)
from groundling.training.exhaustion import explain_asking, explain_exhaustion
from groundling.training.finite import describe_not_finite, refuse_not_finite
from groundling.training.pictures import draw_predictions
from groundling.training.processes import ask_together
from groundling.training.ready import Ready, sign_sample
from groundling.training.records import join_samples
from groundling.training.saving import Saver
from groundling.training.space import Sizes
from groundling.training.step_news import StepNews, StopsAfterStep
from groundling.training.stop import StopAsked, StopRequest, leave_stopping_to_parent


class GroundingTrainer(Trainer):
    """Trains on records, measures by asking. `loaded_from` is the checkpoint whose weights the model already holds."""

    def __init__(
        self,
        model: PreTrainedModel,
        ready: Ready,
        settings: Settings,
        arguments: TrainingArguments,
        *,
        test: Sequence[Record],
        sizes: Sizes,
        loaded_from: Path | None,
        stop: StopRequest,
    ) -> None:
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=ready.dataset,
            eval_dataset=list(test) or None,  # type: ignore[arg-type]
            data_collator=partial(join_samples, processor=ready.processor),
        )
        self.augmenter = ready.dataset.augmenter
        self.sampler = ready.sampler
        # accelerate tells a sampler its epoch, but not one of several processes after a stop
        self.sampler.epoch = lambda: self.state.global_step // self.sampler.steps
        self.processor = ready.processor
        self.settings = settings
        self.test = test
        self.loaded_from = loaded_from
        self.stop = stop
        self.news = StepNews(self.accelerator, stop)
        self.stopping = StopsAfterStep(self.news)
        self.add_callback(_SparesFrozenParts())
        self.add_callback(_KeepsTheRecipesPace())
        if loaded_from is not None and is_foreign(loaded_from, settings.run.dir):
            self.add_callback(_LeavesOtherScores())
        self.add_callback(self.stopping)
        self.saver = Saver(settings.run.dir, is_spread=self.is_deepspeed_enabled or self.is_fsdp_enabled)
        self.sizes = sizes
        self.model_accepts_loss_kwargs = True  # have the labels of the whole global batch counted (compute_loss)

    # ---- what a training begins with

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

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """One group of parameters for each learning rate, `train.learning_rate` first: that of the first is logged."""
        if self.optimizer is None:
            tuned: Any = self.model if model is None else model
            train = self.settings.train
            groups = parameter_groups(tuned, rates=train.rates, weight_decay=train.weight_decay)
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, tuned)
            self.optimizer = kind(sorted(groups, key=lambda group: group["lr"] != train.learning_rate), **options)
        return self.optimizer

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """The model was loaded, strictly, from the checkpoint itself; only sharded weights are still to be read."""
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            assert self.loaded_from == Path(resume_from_checkpoint), "a resumed model holds the checkpoint's weights"

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with explain_unreadable(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with explain_unreadable(checkpoint):
            super()._load_rng_state(checkpoint)

    # ---- every step

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The next step's batches; none where nothing is left to train but an evaluation was to be made up for."""
        if self.control.should_training_stop or self.state.global_step >= self.state.max_steps:
            return [], None
        return super().get_batch_samples(*args, **kwargs)

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
        self.news.note(loss)
        if self.accelerator.sync_gradients:  # the last batch of the step
            self.news.exchange()
            if not all(map(math.isfinite, self.news.losses)):
                raise self._bad_step("the loss")
        return (loss, outputs) if return_outputs else loss

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
        run, step = self.settings.run.dir, self.state.global_step
        if self.is_world_process_zero():
            drawn = zip(self.sampler.draw_step(step), self.news.losses, strict=True)
            rows = [RowLoss(row.numbers, loss) for row, loss in drawn]
            write_bad_batch(run / BAD_BATCH_FILE, rows, self.train_dataset.records, step=step + 1)  # type: ignore[union-attr]
        told = describe_not_finite(what, run, step=step)
        return TrainingError(f"{told}: the records of this step are in {run / BAD_BATCH_FILE}")

    # ---- every evaluation

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Scores on the fixed sample of test records, asked over all devices; a line of the log, and pictures.

        The best weights so far are kept as they are, and the training ends where the recipe's patience does.
        """
        model: Any = self.accelerator.unwrap_model(self.model)
        grounder = Grounder(model, self.processor, "model in training")
        when = f"after step {self.state.global_step}"
        try:
            with explain_asking(self.settings, self.processor.contract, when, in_training=True):
                predictions = ask_together(grounder, self.test, self.settings, stop=self.stop)
        except StopAsked as asked:
            self.stopping.end_training(asked.number, self.control)
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
        if from_main_process(lambda: waited == 0 or not best.is_dir()):
            self.save_partial(best)
            self.saver.put_in_place(partial_name(best), best, needed=self.sizes.weights)
        patience = self.settings.evaluate.patience
        if patience is not None and waited >= patience:
            self.control.should_training_stop = True

    # ---- weights

    def save_partial(self, folder: Path) -> None:
        """The weights with processor and contract, under the name that the folder has until it is whole.

        Every process has to call this.
        """
        with self.saver.writing(partial_name(folder), needed=self.sizes.weights):
            self.save_model(str(partial_name(folder)))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Weights in safetensors, processor and contract; no pickled arguments, which would hold secrets.

        `state_dict` holds the weights where they had to be gathered. TrainingError where one of them is not finite.
        """
        if self.args.should_save:
            assert output_dir is not None
            model: Any = self.accelerator.unwrap_model(self.model)
            weights = dict(model.named_parameters())
            if state_dict is not None:  # one that was gathered has shared weights by each of their names
                others = {name for name, _ in model.named_parameters(remove_duplicate=False)} - weights.keys()
                weights = state_dict = {name: each for name, each in state_dict.items() if name not in others}
            refuse_not_finite(weights, self.settings.run.dir, step=self.state.global_step)
            # PEFT would ask the hub about the base's embeddings, which no adapter of ours changes
            options: dict[str, Any] = {"save_embedding_layers": False} if self.settings.tune.has_adapters else {}
            model.save_pretrained(output_dir, state_dict=state_dict, **options)
            self.processor.save(Path(output_dir))

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """A checkpoint named after its step, and room made by the oldest ones."""
        run, step = self.settings.run, self.state.global_step
        folder = run.dir / "checkpoints"
        partial = folder / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        with self.saver.writing(partial, needed=self.sizes.checkpoint):
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                shutil.copyfile(run.dir / RECIPE_FILE, partial / RECIPE_FILE)  # wherever it is copied, it goes along
                if self.settings.evaluate.every:
                    (partial / SAMPLE_FILE).write_text(json.dumps(sign_sample(self.test)), encoding="utf-8")
        self.saver.put_in_place(partial, folder / str(step), needed=self.sizes.checkpoint)
        if self.args.should_save:
            drop_old_checkpoints(run.dir, keep=run.keep)


class _SparesFrozenParts(TrainerCallback):
    """The Trainer turns checkpointing on when a training begins, and calls this next."""

    def on_train_begin(self, *_: Any, model: PreTrainedModel, **__: Any) -> None:
        spare_frozen_parts(model)


class _KeepsTheRecipesPace(TrainerCallback):
    """Lines, evaluations and checkpoints come as often as the recipe says, where a checkpoint was by another too."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        state.compute_steps(args, state.max_steps)  # else those of trainer_state.json (transformers 5.17)


class _LeavesOtherScores(TrainerCallback):
    """A run that begins with another's checkpoint has the best weights, and the patience, of its own evaluations."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        state.log_history = [line for line in state.log_history if not any(name.startswith("eval_") for name in line)]
