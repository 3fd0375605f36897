"""transformers' Trainer with what grounding needs of its own: the loss, the scores, the weights that are kept.

- The loss is summed over answer tokens and divided by their number in the whole global batch, over all devices and
  accumulated batches, so that long answers and short ones weigh by their tokens (the stock Trainer averages averages).
- Logits are made where there are labels, and nowhere else.
- Evaluation asks the model and scores its boxes; `best/` gets the weights of the best score at that moment.
- Checkpoints are `checkpoints/<step>/`, complete once they bear that name; the stock reload, which matches no key of a
  full Qwen2.5-VL and says so in a warning only, is never used.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from groundling.data.record import Record
from groundling.errors import TrainingError
from groundling.evaluation.evaluate import predict_records
from groundling.evaluation.metrics import Prediction, measure
from groundling.inference.batch import IGNORED, pack_row
from groundling.inference.predict import Grounder
from groundling.model.processor import Processor
from groundling.model.tune import PARTS, Part, parameter_groups
from groundling.settings import Settings
from groundling.training.checkpoint import list_checkpoints
from groundling.training.pictures import draw_predictions
from groundling.training.records import RecordDataset


class GroundingTrainer(Trainer):
    """Trains on records, measures by asking. `loaded_from` is the checkpoint whose weights the model already holds."""

    def __init__(
        self,
        model: PreTrainedModel,
        processor: Processor,
        settings: Settings,
        arguments: TrainingArguments,
        *,
        train: Sequence[Record],
        test: Sequence[Record],
        loaded_from: Path | None,
    ) -> None:
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=RecordDataset(train, processor, settings.images.max_file_pixels),
            eval_dataset=list(test) or None,  # type: ignore[arg-type]
            data_collator=partial(pack_row, processor=processor),
        )
        self.processor = processor
        self.settings = settings
        self.test = test
        self.loaded_from = loaded_from
        self.tokens = 0  # on this device, prompts and pictures included
        self.model_accepts_loss_kwargs = True  # have the labels of the whole global batch counted (compute_loss)

    # ---- every step

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
        self.tokens += inputs["input_ids"].numel()
        outputs = model(**inputs, logits_to_keep=learned)
        total = cross_entropy(outputs.logits[0].float(), labels[learned], reduction="sum")
        assert num_items_in_batch is not None, "without the global count every batch would weigh the same"
        loss = total * self.accelerator.num_processes / num_items_in_batch  # the devices' gradients are averaged
        if not torch.isfinite(loss):
            raise TrainingError(self._not_finite("the loss"))
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """One group of parameters for each part's learning rate."""
        if self.optimizer is None:
            tuned = self.model if model is None else model
            train = self.settings.train
            own: dict[Part, float | None] = {part: getattr(train.learning_rates, part) for part in PARTS}
            rates = {part: train.learning_rate if rate is None else rate for part, rate in own.items()}
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, tuned)
            self.optimizer = kind(parameter_groups(tuned, rates=rates, weight_decay=train.weight_decay), **options)
        return self.optimizer

    # ---- every evaluation

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Scores on the fixed sample of test records, asked over all devices; a line of the log, and pictures."""
        predictions = self._predict_share(self.test)
        scores = measure(predictions, draws=100)
        metrics = {f"eval_{name}": value for name, value in scores.metrics.items() if not math.isnan(value)}
        if self.is_world_process_zero():
            shown = predictions[: self.settings.run.pictures]
            draw_predictions(shown, self.settings.run.dir / "samples" / f"step-{self.state.global_step:06d}.jpg")
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _predict_share(self, records: Sequence[Record]) -> list[Prediction]:
        """All predictions on every device, each device having asked about its share."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        grounder = Grounder(self.accelerator.unwrap_model(self.model), self.processor, "model in training")
        plan = self.settings.evaluate
        mine = predict_records(
            grounder,
            records[rank::world],
            batch_size=plan.batch_size,
            max_new_tokens=plan.max_new_tokens,
            max_pixels=self.settings.images.max_file_pixels,
        )
        if world == 1:
            return mine
        numbered = gather_object(list(zip(range(rank, len(records), world), mine, strict=True)))
        return [prediction for _, prediction in sorted(numbered, key=lambda pair: pair[0])]

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        is_best = super()._determine_best_metric(metrics, trial)
        if is_best:
            self.save_model(str(self.settings.run.dir / "best"))
        return is_best

    # ---- weights

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Weights in safetensors, processor and contract; no pickled arguments, which would hold secrets."""
        assert output_dir is not None
        self.model.save_pretrained(output_dir, state_dict=state_dict, is_main_process=self.args.should_save)
        if self.args.should_save:
            self.processor.save(Path(output_dir))

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and not torch.isfinite(parameter).all():
                raise TrainingError(self._not_finite(f"the weight {name}"))
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = Path(self.args.output_dir or "")
            whole = folder / str(self.state.global_step)
            shutil.rmtree(whole, ignore_errors=True)
            (folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}").rename(whole)
            for old in list_checkpoints(self.settings.run.dir)[: -self.settings.run.keep]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """The model was loaded, strictly, from the checkpoint itself; only sharded weights are still to be read."""
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            assert self.loaded_from == Path(resume_from_checkpoint), "a resumed model holds the checkpoint's weights"

    def _not_finite(self, what: str) -> str:
        whole = list_checkpoints(self.settings.run.dir)
        kept = f"the last finite checkpoint is {whole[-1]}" if whole else "no checkpoint had been written yet"
        return (
            f"{what} is not finite at step {self.state.global_step + 1}; {kept}. "
            "Lower train.learning_rate or raise train.warmup, and look at the batch's pictures and boxes"
        )
