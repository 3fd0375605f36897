"""Everything a recipe says, declared once: name, unit, default, and what may not stand together.

A recipe is YAML with these sections, every setting but three having a default (an extract):

    model: {name: Qwen/Qwen2.5-VL-3B-Instruct}
    data: {train: data/textvqa-train.jsonl, test: data/textvqa-test.jsonl}
    train: {epochs: 2, learning_rate: 1e-5}
    run: {dir: runs/first}

Paths count from the current folder, not from the recipe's. `run.dir` is `runs/<recipe name>` where the recipe has none.
`recipe` reads all this, and tells what is wrong with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from groundling.dialect.family import AnswerForm, ImageBackend
from groundling.dialect.prompt import check_template
from groundling.recipe_file import write_yaml
from groundling.tutorial_recipe import DECIDED, OWNED

Part = Literal["vision", "merger", "language"]
Engine = Literal["ddp", "zero2", "zero3", "fsdp2"]
Tracker = Literal["swanlab", "wandb", "tensorboard", "trackio"]
Metric = Literal[
    "acc@0.5",
    "acc@0.75",
    "acc@0.9",
    "miou",
    "center_hit",
    "f1@0.5",
    "f1@0.75",
    "f1@miou",
    "recall@0.5",
    "label_f1@0.5",
    "point_hit",
    "point_f1",
    "point_precision",
    "point_recall",
    "count_exact",
    "none_recall",
    "parse_rate",
]


# ---- values ----------------------------------------------------------------------------------------------------


def _refuse_switch(value: object) -> object:
    """Python counts with True as 1; a recipe that says `epochs: true` means something else."""
    if isinstance(value, bool):
        raise ValueError(f"found {value}; expected a number")
    return value


def _refuse_no_path(value: object) -> object:
    if value == "" or (isinstance(value, str) and "\0" in value):
        raise ValueError(f"found {value!r}; expected a path")
    return value


def _listed(value: Any) -> Any:
    """One value stands for a list of that one, null for an empty list."""
    if value is None:
        return []
    return value if type(value) in (list, tuple) else [value]


def _refuse_empty(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Only where all entries are good: pydantic's own `min_length` counts bad ones out and complains twice."""
    if not values:
        raise ValueError("found an empty list; expected at least one")
    return values


def _refuse_decided(name: str) -> str:
    """The name of a TrainingArgument that is left to the user."""
    if name in OWNED:
        raise ValueError(f"{name} is set by {OWNED[name]}; set that instead")
    if name in DECIDED:
        raise ValueError(f"{name} cannot be set: {DECIDED[name]}")
    return name


Whole = Annotated[int, BeforeValidator(_refuse_switch)]
Number = Annotated[float, BeforeValidator(_refuse_switch)]
Text = Annotated[str, Field(min_length=1)]
Place = Annotated[Path, BeforeValidator(_refuse_no_path)]


class _Section(BaseModel):
    """Settings that belong together: frozen, and a key that is not declared is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _take_nothing(cls, value: Any) -> Any:
        """A section whose every line is commented out reads as null."""
        return {} if value is None else value


# ---- sections --------------------------------------------------------------------------------------------------


class Model(_Section):
    """Which model is tuned."""

    name: Text = Field(description="hub name, folder, run folder, or tiny: the one that comes with groundling")
    revision: Text | None = Field(default=None, description="branch, tag or commit on the hub; null: its newest")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="of the weights in memory; auto: as the method needs"
    )


class Source(_Section):
    """One record file, or folder of shards, and how often its records come up next to those of the others."""

    path: Place = Field(description="a record file or folder of shards, from the current folder")
    weight: Number = Field(default=1.0, gt=0, description="how often a record is seen per epoch; 1: once")

    @model_validator(mode="before")
    @classmethod
    def _take_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str | Path) else value


class Data(_Section):
    """What it learns from, and what it is measured on."""

    train: Annotated[tuple[Source, ...], BeforeValidator(_listed), AfterValidator(_refuse_empty)] = Field(
        description="a record file or folder of shards, a list of them, or a list of {path, weight}"
    )
    test: Annotated[tuple[Place, ...], BeforeValidator(_listed)] = Field(
        default=(), description="a record file or folder of shards, or a list of them; null: no evaluation"
    )
    max_length: Whole = Field(
        default=8192, ge=1, description="tokens of a sample, picture included; longer ones are set aside"
    )
    allow_absolute: bool = Field(default=False, description="whether records may name pictures by absolute path")
    strict: bool = Field(default=False, description="whether error findings in the data stop the run")


class Images(_Section):
    """How large a picture the model gets to see."""

    max_tokens: Whole | None = Field(
        default=None,
        ge=1,
        description="visual tokens of one picture, at most; null: the checkpoint's own, 1280 for a base model",
    )
    min_tokens: Whole | None = Field(
        default=None,
        ge=1,
        description="visual tokens of one picture, at least; null: the checkpoint's own, 4 for a base model",
    )
    backend: ImageBackend | None = Field(
        default=None,
        description="what resizes pictures, torch or pil; null: the checkpoint's own, torch for a base model",
    )
    max_file_pixels: Whole = Field(
        default=100_000_000, ge=1, description="pixels of a picture file; larger ones stay unopened"
    )

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.min_tokens and self.max_tokens and self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens is {self.min_tokens}; expected at most max_tokens, {self.max_tokens}")
        return self


Chance = Annotated[Number, Field(ge=0, le=1)]
Share = Annotated[Number, Field(gt=0, le=1)]


class Augment(_Section):
    """What is done to training pictures, and how often; targets go with their pictures, and words may forbid it."""

    flip: Chance = Field(default=0.0, description="chance that left and right are swapped, in questions too")
    rotate: Chance = Field(default=0.0, description="chance of a turn by one, two or three quarters")
    crop: Chance = Field(default=0.0, description="chance that only a part of the picture is kept")
    crop_sides: Share = Field(default=0.5, description="share of each side that a crop keeps, at least")
    crop_visible: Share = Field(
        default=0.6, ge=0.1, description="share of a target's area that a crop keeps, if it does not lose the target"
    )
    crop_negatives: Chance = Field(
        default=0.0, description="chance that a crop may lose all targets of a question, which is then a negative"
    )
    scale: Chance = Field(default=0.0, description="chance that the picture is made smaller on a grey one of its size")
    scale_sides: Share = Field(
        default=0.5, description="share of each side that a picture made smaller takes, at least"
    )
    colour: Chance = Field(default=0.0, description="chance that brightness, contrast and saturation are changed")
    colour_strength: Number = Field(
        default=0.2, ge=0, le=1, description="how far from 1 the factor of each of the three may be"
    )
    jpeg: Chance = Field(default=0.0, description="chance that the picture is compressed as a JPEG")
    jpeg_quality: Whole = Field(default=40, ge=1, le=95, description="quality of that JPEG, at least; 95 at most")
    mosaic: Chance = Field(
        default=0.0, description="chance that three other pictures that are asked the same stand beside the picture"
    )


class Prompt(_Section):
    """The words around a question."""

    template: Text | None = Field(
        default=None, description="the user's turn, with {question} in it; null: the family's"
    )
    system: str | None = Field(default=None, description="the system's turn; null: the family's chat template decides")

    @field_validator("template")
    @classmethod
    def _check_template(cls, template: str | None) -> str | None:
        return template if template is None else check_template(template)


class AnswerText(_Section):
    """How the model writes its boxes."""

    form: AnswerForm | None = Field(default=None, description="fenced, list, bare or tokens; null: the family's")


class Lora(_Section):
    """The adapters of `tune.method: lora` and `qlora`."""

    rank: Whole = Field(default=16, ge=1, description="inner width of an adapter")
    alpha: Number = Field(default=32, gt=0, description="adapters are scaled by alpha / rank")
    dropout: Number = Field(default=0.05, ge=0, lt=1, description="share of an adapter's inputs dropped while training")
    parts: Annotated[
        tuple[Literal["vision", "language"], ...], BeforeValidator(_listed), AfterValidator(_refuse_empty)
    ] = Field(default=("language",), description="parts whose linear layers get adapters: vision, language")


class Tune(_Section):
    """Which weights learn."""

    method: Literal["full", "lora", "qlora"] = Field(
        default="full",
        description="full: the weights themselves; lora: adapters; qlora: adapters on a language model in 4 bits",
    )
    freeze: Annotated[tuple[Part, ...], BeforeValidator(_listed)] = Field(
        default=(), description="parts that stay as they are under method full: vision, merger, language"
    )
    lora: Lora = Lora()

    @property
    def has_adapters(self) -> bool:
        """Whether adapters learn, and the weights themselves do not."""
        return self.method in ("lora", "qlora")

    @model_validator(mode="after")
    def _check_something_learns(self) -> Self:
        if self.has_adapters and self.freeze:
            raise ValueError(
                f"freeze is {list(self.freeze)} with method {self.method}, which freezes every weight already and"
                " trains adapters in lora.parts; leave freeze out"
            )
        if set(self.freeze) == set(get_args(Part)):
            raise ValueError(f"freeze is {list(self.freeze)}, so nothing would learn; leave one part out")
        return self


class LearningRates(_Section):
    """Peak learning rates by part, where one differs from `train.learning_rate`."""

    vision: Number | None = Field(default=None, gt=0, description="of the vision tower; null: train.learning_rate")
    merger: Number | None = Field(
        default=None, gt=0, description="of the merger between the two; null: train.learning_rate"
    )
    language: Number | None = Field(default=None, gt=0, description="of the language model; null: train.learning_rate")


class Train(_Section):
    """How it learns."""

    epochs: Number = Field(default=1.0, gt=0, description="times through the training data")
    max_steps: Whole | None = Field(
        default=None, ge=1, description="optimizer steps to stop at; null: what the epochs take"
    )
    batch_size: Whole = Field(default=1, ge=1, description="samples per device and batch")
    pack_tokens: Whole | None = Field(
        default=None,
        ge=1,
        description="tokens per device and batch: as many samples as fit, in place of batch_size; null: batch_size",
    )
    accumulate: Whole = Field(default=1, ge=1, description="batches per device that make one optimizer step")
    share_pictures: bool = Field(
        default=True, description="whether questions about one picture stand in one batch and see it once"
    )
    learning_rate: Number = Field(default=1e-5, gt=0, description="the learning rate at its peak")
    learning_rates: LearningRates = LearningRates()
    weight_decay: Number = Field(default=0.0, ge=0, description="AdamW's; norms and biases are spared")
    warmup: Number = Field(default=0.03, ge=0, le=1, description="share of the steps in which the learning rate rises")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="of the rate after its warm-up"
    )
    max_grad_norm: Number = Field(default=1.0, gt=0, description="gradients are scaled down to this L2 norm")
    bf16: Literal["auto", True, False] = Field(
        default="auto", description="bfloat16 arithmetic; auto: where the device has it"
    )
    gradient_checkpointing: bool = Field(
        default=False, description="whether activations are computed twice to save memory"
    )
    liger: bool = Field(
        default=False, description="whether liger-kernel's norms, rotations and SwiGLU are used; needs a GPU"
    )
    seed: Whole = Field(default=0, ge=0, lt=2**32, description="seed of sampling, dropout and new weights")
    workers: Whole | None = Field(
        default=None,
        ge=0,
        description="processes per device that load pictures ahead; 0: the training itself; null: some beside a GPU",
    )

    @property
    def rates(self) -> dict[Part, float]:
        """The peak learning rate of each part."""
        own, usual = self.learning_rates, self.learning_rate
        return {"vision": own.vision or usual, "merger": own.merger or usual, "language": own.language or usual}

    @model_validator(mode="after")
    def _check_one_measure(self) -> Self:
        if self.pack_tokens is not None and self.batch_size != 1:
            raise ValueError(
                f"batch_size is {self.batch_size} and pack_tokens {self.pack_tokens}; set one, as each says how much a"
                " batch holds"
            )
        return self


class Launch(_Section):
    """How many processes train, and what spreads the model over them; `groundling train` starts them."""

    processes: Whole | None = Field(
        default=None, ge=1, description="on each machine, one a GPU; null: one, or what a launcher has started"
    )
    machines: Whole = Field(
        default=1, ge=1, description="on each give the same command, with NODE_RANK and MASTER_ADDR in its environment"
    )
    engine: Engine | None = Field(
        default=None, description="ddp: a copy on each device; zero2, zero3, fsdp2: spread; null: ddp, or a launcher's"
    )

    @property
    def devices(self) -> int:
        """On all machines, each with a process of its own."""
        return (self.processes or 1) * self.machines

    @property
    def has_deepspeed(self) -> bool:
        """Whether it is DeepSpeed's engine."""
        return self.engine in ("zero2", "zero3")


class Evaluate(_Section):
    """How often and on what it is measured while it learns."""

    every: Whole = Field(default=0, ge=0, description="optimizer steps between evaluations; 0: only at the end")
    sample: Whole = Field(default=100, ge=1, description="test records asked in training, the same ones every time")
    metric: Metric = Field(default="acc@0.5", description="the score that picks the best checkpoint")
    patience: Whole | None = Field(
        default=None, ge=1, description="evaluations without a better score to stop at; null: never"
    )
    batch_size: Whole = Field(default=16, ge=1, description="questions per device that are answered at once")
    max_new_tokens: Whole = Field(default=512, ge=1, description="room for one answer, in tokens")
    free: bool = Field(default=False, description="whether answers may say anything; false: only what can be read")
    guard: Text | None = Field(
        default="general",
        description="questions that are not grounding, to see what is forgotten: general, or a record file; null: none",
    )
    before: bool = Field(
        default=False, description="whether the untrained model is measured first, to compare; costs one evaluation"
    )

    @model_validator(mode="after")
    def _check_patience(self) -> Self:
        if self.patience is not None and not self.every:
            raise ValueError(f"patience is {self.patience}, but evaluate.every is 0: set how many steps lie between")
        return self


class Run(_Section):
    """What is kept on disk."""

    dir: Place = Field(description="the run folder, from the current folder")
    resume: Text = Field(
        default="auto", description="auto: go on with an unfinished run; never; or a checkpoint folder"
    )
    save_every: Whole | None = Field(
        default=None, ge=1, description="steps between checkpoints; null: evaluations, epochs"
    )
    keep: Whole = Field(default=2, ge=1, description="newest checkpoints to keep, beside the best")
    log_every: Whole = Field(default=10, ge=1, description="steps between lines of metrics.jsonl")
    pictures: Whole = Field(default=8, ge=0, description="test pictures drawn with their boxes at every evaluation")


class Settings(_Section):
    """A whole recipe."""

    model: Model
    data: Data
    images: Images = Images()
    augment: Augment = Augment()
    prompt: Prompt = Prompt()
    answer: AnswerText = AnswerText()
    tune: Tune = Tune()
    train: Train = Train()
    launch: Launch = Launch()
    evaluate: Evaluate = Evaluate()
    run: Run
    track: Annotated[tuple[Tracker, ...], BeforeValidator(_listed)] = Field(
        default=(), description="where curves go beside metrics.jsonl: swanlab, wandb, tensorboard, trackio"
    )
    trainer: dict[Annotated[str, AfterValidator(_refuse_decided)], Any] = Field(
        default_factory=dict, description="verbatim to transformers.TrainingArguments"
    )

    @model_validator(mode="after")
    def _check_something_to_evaluate(self) -> Self:
        if self.evaluate.every and not self.data.test:
            raise ValueError(f"evaluate.every is {self.evaluate.every}, but data.test is empty: nothing to evaluate on")
        if self.evaluate.before and not self.data.test:
            raise ValueError("evaluate.before is true, but data.test is empty: nothing to evaluate on")
        return self

    def to_yaml(self) -> str:
        """The settings as resolved, defaults included; `load_settings` of this text gives equal settings."""
        return write_yaml(self.model_dump(mode="json"))
