"""transformers' Trainer with what grounding needs of its own: the loss, the scores, the weights that are kept.

- The loss is summed over answer tokens and divided by their number in the whole global batch, over all devices and
  accumulated batches, so that long answers and short ones weigh by their tokens (the stock Trainer averages averages).
- Logits are made where there are labels, and nowhere else.
- Evaluation asks the model and scores its boxes; `best/` gets the weights of the best score at that moment.
- Weights that are not finite are never kept. What is kept appears under its name when it is whole (`checkpoint`).
- The stock reload, which matches no key of a full Qwen2.5-VL and says so in a warning only, is never used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from groundling.data.record import Record
from groundling.errors import TrainingError
from groundling.evaluation.metrics import measure
from groundling.evaluation.processes import from_main_process
from groundling.inference.batch import IGNORED
from groundling.inference.predict import Grounder
from groundling.model.processor import Processor
from groundling.model.tune import Part, parameter_groups
from groundling.settings import Settings
from groundling.training.checkpoint import (
    drop_old_checkpoints,
    evaluations_since_best,
    list_checkpoints,
    partial_name,
    put_in_place,
)
from groundling.training.exhaustion import explain_exhaustion
from groundling.training.pictures import draw_predictions
from groundling.training.processes import ask_together
from groundling.training.ready import build_dataset, build_sampler
from groundling.training.records import Gathered, join_samples


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
    ) -> None:
        dataset = build_dataset(records, processor, settings)
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=dataset,
            eval_dataset=list(test) or None,  # type: ignore[arg-type]
            data_collator=partial(join_samples, processor=processor),
        )
        self.augmenter = dataset.augmenter
        self.sampler = build_sampler(records, dataset, settings, processes=self.args.world_size, epoch=self._epoch)
        self.processor = processor
        self.settings = settings
        self.test = test
        self.loaded_from = loaded_from
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
        if not torch.isfinite(loss):
            raise TrainingError(self._not_finite("the loss"))
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
        )
        return self.accelerator.prepare(loader)  # type: ignore[return-value]

    def _epoch(self) -> int:
        """That whose rows are drawn next. (accelerate tells a sampler, but not of several processes after a stop.)"""
        steps = -(-len(self.sampler) // (self.settings.train.accumulate * self.args.world_size))
        return self.state.global_step // steps

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

    # ---- every evaluation

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Scores on the fixed sample of test records, asked over all devices; a line of the log, and pictures.

        The best weights so far are kept as they are, and the training ends where the recipe's patience does.
        """
        grounder = Grounder(self._whole_model, self.processor, "model in training")
        predictions = ask_together(grounder, self.test, self.settings)
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
        self.save_model(str(partial_name(folder)))
        self._put_in_place(partial_name(folder), folder)

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
        super()._save_checkpoint(model, trial)
        run, step = self.settings.run, self.state.global_step
        folder = run.dir / "checkpoints"
        self._put_in_place(folder / f"{PREFIX_CHECKPOINT_DIR}-{step}", folder / str(step))
        if self.args.should_save:
            drop_old_checkpoints(run.dir, keep=run.keep)

    def _put_in_place(self, partial: Path, folder: Path) -> None:
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            put_in_place(partial, folder)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """The model was loaded, strictly, from the checkpoint itself; only sharded weights are still to be read."""
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            assert self.loaded_from == Path(resume_from_checkpoint), "a resumed model holds the checkpoint's weights"

    # ---- numbers that are none

    def _refuse_not_finite(self, weights: Mapping[str, torch.Tensor]) -> None:
        for name, weight in weights.items():
            if not torch.isfinite(weight.detach()).all():
                raise TrainingError(self._not_finite(f"the weight {name}"))

    def _not_finite(self, what: str) -> str:
        whole = list_checkpoints(self.settings.run.dir)
        kept = f"the last finite checkpoint is {whole[-1]}" if whole else "no checkpoint had been written yet"
        return (
            f"{what} is not finite after {self.state.global_step} steps; {kept}. "
            "Lower train.learning_rate or raise train.warmup, and look at the batch's pictures and boxes"
        )
