"""Settings: what a recipe may say, what every mistake is answered with, and the way back to YAML."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from groundling.data.augment import Augmentation
from groundling.data.change import GONE
from groundling.errors import SettingsError
from groundling.evaluation.metrics import METRICS, OF_THE_ANSWERED
from groundling.recipe import closest_name, load_settings, read_recipe
from groundling.settings import Augment, Metric, Settings

SMALLEST = "model: {name: tiny}\ndata: {train: a.jsonl}\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The smallest recipe that is complete."""
    return write(tmp_path, SMALLEST)


def write(folder: Path, text: str) -> Path:
    path = folder / "first.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(path: Path, *overrides: str) -> list[str]:
    """The lines of the error that a recipe is answered with, its place cut down to the file's name."""
    with pytest.raises(SettingsError) as caught:
        load_settings(path, overrides)
    head, *lines = str(caught.value).splitlines()
    assert head == f"{path} cannot be used:"
    return [line.strip().removeprefix(f"{path.parent}/") for line in lines]


# ---- reading -----------------------------------------------------------------------------------------------------


def test_the_smallest_recipe_and_some_defaults(recipe: Path) -> None:
    settings = load_settings(recipe)
    assert settings.model.name == "tiny"
    assert [(source.path, source.weight) for source in settings.data.train] == [(Path("a.jsonl"), 1.0)]
    assert settings.data.test == ()
    assert settings.run.dir == Path("runs/first")  # named after the recipe
    assert (settings.tune.method, settings.train.learning_rate, settings.evaluate.metric) == ("full", 1e-5, "acc@0.5")


def test_several_record_files_with_and_without_weights(tmp_path: Path) -> None:
    text = "model: {name: tiny}\ndata: {train: [{path: a.jsonl, weight: 2}, b.jsonl], test: [c.jsonl, d.jsonl]}\n"
    data = load_settings(write(tmp_path, text)).data
    assert [(str(source.path), source.weight) for source in data.train] == [("a.jsonl", 2.0), ("b.jsonl", 1.0)]
    assert data.test == (Path("c.jsonl"), Path("d.jsonl"))


def test_a_section_with_every_line_commented_out_is_its_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, SMALLEST + "train:\n  # epochs: 3\nrun:\n")
    assert load_settings(path) == load_settings(write(tmp_path, SMALLEST))


@pytest.mark.parametrize("number", ["1e-4", "'1e-4'", "0.0001", "1.0e-04"])
def test_a_number_with_an_exponent_is_a_number(tmp_path: Path, number: str) -> None:
    settings = load_settings(write(tmp_path, f"{SMALLEST}train: {{learning_rate: {number}}}\n"))
    assert settings.train.learning_rate == 0.0001


def test_overrides_win_and_are_read_as_yaml(recipe: Path) -> None:
    settings = load_settings(
        recipe,
        [
            "train.learning_rate=1e-4",
            "tune.freeze=[vision, merger]",
            "track=swanlab",
            "prompt.template=where is {question}?",
            "data.test=",
            "trainer.adam_epsilon=1e-6",
            "tune.lora.rank=8",
        ],
    )
    assert settings.train.learning_rate == 1e-4
    assert settings.tune.freeze == ("vision", "merger")
    assert settings.track == ("swanlab",)
    assert settings.prompt.template == "where is {question}?"
    assert settings.data.test == ()
    assert settings.trainer == {"adam_epsilon": 1e-6}
    assert settings.tune.lora.rank == 8


@pytest.mark.parametrize("override", ["train.epochs", "=3", ""])
def test_an_override_is_a_key_and_a_value(recipe: Path, override: str) -> None:
    with pytest.raises(SettingsError, match=r"expected section\.key=value, such as train\.epochs=2"):
        load_settings(recipe, [override])


def test_what_is_written_loads_as_the_same_settings(recipe: Path, tmp_path: Path) -> None:
    settings = load_settings(
        recipe,
        [
            "model.revision='1e5'",
            "train.learning_rates.vision=2e-6",
            'prompt.system="say: \\"where\\" \\x85 \u00e9"',
            "data.train=[{path: b.jsonl, weight: 0.5}]",
            "trainer.deepspeed={a: [1, {b: 1e-8}], c: '1e-8'}",
        ],
    )
    stored = tmp_path / "stored.yaml"
    stored.write_text(settings.to_yaml(), encoding="utf-8")
    assert load_settings(stored) == settings
    assert load_settings(stored).to_yaml() == settings.to_yaml()


def test_settings_do_not_change_once_made(recipe: Path) -> None:
    settings = load_settings(recipe)
    with pytest.raises(ValidationError, match="frozen"):
        settings.train.epochs = 3  # type: ignore[misc]


# ---- mistakes ----------------------------------------------------------------------------------------------------


def test_an_unknown_key_is_answered_with_the_closest_one_wherever_that_is(tmp_path: Path) -> None:
    path = write(tmp_path, "lerning_rate: 1e-4\n" + SMALLEST + "train: {epoch: 2}\nimages: {batch_size: 4}\n")
    assert problems(path) == [
        "first.yaml:5: unknown setting images.batch_size (= 4); the closest is train.batch_size (by default 1)",
        "first.yaml:4: unknown setting train.epoch (= 2); the closest is train.epochs (by default 1.0)",
        "first.yaml:1: unknown setting lerning_rate (= 0.0001); the closest is train.learning_rate (by default 1e-05)",
    ]


@pytest.mark.parametrize(
    ("key", "closest"),
    [
        ("lerning_rate", "train.learning_rate"),
        ("train.lerning_rate", "train.learning_rate"),
        ("tune.rank", "tune.lora.rank"),
        ("run.max_steps", "train.max_steps"),
        ("model.nam", "model.name"),
        ("train.xyzzy", None),
    ],
)
def test_closest_names(key: str, closest: str | None) -> None:
    known = ["model.name", "train.learning_rate", "train.learning_rates.vision", "train.max_steps", "tune.lora.rank"]
    assert closest_name(key, known) == closest


@pytest.mark.parametrize(
    "argument",
    [
        "accelerator_config={split_batches: true}",
        "fsdp=full_shard",
        "fsdp_config={}",
        "push_to_hub=true",
        "hub_model_id=us/grounder",
        "eval_delay=9",
    ],
)
def test_what_groundling_decides_is_refused_before_anything_is_loaded(recipe: Path, argument: str) -> None:
    name = argument.partition("=")[0]
    with pytest.raises(SettingsError, match=f"trainer.{name}: {name} cannot be set: "):
        load_settings(recipe, [f"trainer.{argument}"])


def test_a_name_of_the_trainer_is_answered_with_ours(recipe: Path) -> None:
    assert problems(recipe, "train.num_train_epochs=3", "per_device_train_batch_size=4") == [
        "command line: unknown setting train.num_train_epochs (= 3); here it is train.epochs",
        "command line: unknown setting per_device_train_batch_size (= 4); here it is train.batch_size",
    ]


def test_an_unknown_section_is_answered_with_a_section(recipe: Path) -> None:
    assert problems(recipe, "trian.epochs=3", "train.xyzzy.plugh=1", "q.r=1")[1:] == [
        "command line: unknown setting trian (= {'epochs': 3}); the closest is train",
        "command line: unknown setting q (= {'r': 1}); known are model, data, images, augment, prompt, answer, tune, "
        "train, launch, evaluate, run, track, trainer",
    ]


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    text = """\
model: {dtype: float16}
data:
  train: []
images: {max_tokens: 64, min_tokens: 65}
prompt: {template: hello}
train:
  epochs: true
  learning_rate: fast
evaluate: 3
run: {dir: ""}
trainer:
  learning_rate: 1
  fp16: true
"""
    assert problems(write(tmp_path, text), "train.batch_size=0") == [
        "first.yaml:1: model.name is missing "
        "(hub name, folder, run folder, or tiny: the one that comes with groundling)",
        "first.yaml:1: model.dtype is 'float16'; expected 'auto', 'float32' or 'bfloat16' "
        "(of the weights in memory; auto: as the method needs)",
        "first.yaml:3: data.train: found an empty list; expected at least one",
        "first.yaml:4: images: min_tokens is 65; expected at most max_tokens, 64",
        "first.yaml:5: prompt.template: the prompt template 'hello' has no {question} in it",
        "first.yaml:7: train.epochs: found True; expected a number",
        "command line: train.batch_size is 0; expected greater than or equal to 1 (samples per device and batch)",
        "first.yaml:8: train.learning_rate is 'fast'; expected a valid number, unable to parse string as a number "
        "(the learning rate at its peak)",
        "first.yaml:9: evaluate is 3; expected settings by name",
        "first.yaml:10: run.dir: found ''; expected a path",
        "first.yaml:12: trainer.learning_rate: learning_rate is set by train.learning_rate; set that instead",
        "first.yaml:13: trainer.fp16: fp16 cannot be set: training is in bfloat16 or float32 (train.bf16)",
    ]


def test_an_empty_recipe_misses_only_what_it_must_say(tmp_path: Path) -> None:
    path = write(tmp_path, "# nothing yet\n")
    assert [line.split(" is missing")[0] for line in problems(path)] == [
        "first.yaml: model.name",
        "first.yaml: data.train",
    ]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["tune.freeze=[vision, merger, language]"], "so nothing would learn; leave one part out"),
        (["tune.method=lora", "tune.freeze=vision"], "trains adapters in lora.parts; leave freeze out"),
        (["tune.lora.parts=[]"], "tune.lora.parts: found an empty list; expected at least one"),
        (["evaluate.metric=acc"], "evaluate.metric is 'acc'; expected 'acc@0.5', 'acc@0.75'"),
        (["evaluate.patience=3"], "patience is 3, but evaluate.every is 0"),
        (["evaluate.every=10"], "evaluate.every is 10, but data.test is empty: nothing to evaluate on"),
        (
            ["data.train=[{path: a.jsonl, wieght: 2}]"],
            "unknown setting data.train.0.wieght (= 2); the closest is data.train.weight",
        ),
        (["train.learning_rate=1e999"], "train.learning_rate is inf; expected a finite number"),
        (["train.bf16=maybe"], "train.bf16 is 'maybe'; expected 'auto', True or False"),
        (["augment.flip=2"], "augment.flip is 2; expected less than or equal to 1 (chance that left and right are"),
        (["augment.crop_visible=0.05"], "augment.crop_visible is 0.05; expected greater than or equal to 0.1"),
        (["augment.mirror=1"], "unknown setting augment.mirror"),
        (["answer.form=xml"], "answer.form is 'xml'; expected 'fenced', 'list', 'bare' or 'tokens'"),
    ],
)
def test_settings_that_may_not_be(recipe: Path, overrides: list[str], problem: str) -> None:
    (line,) = problems(recipe, *overrides)
    assert problem in line


@pytest.mark.parametrize("text", ["[1, 2]\n", "just words\n", "3\n"])
def test_a_recipe_is_sections(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match="expected sections such as `model:` and `data:`"):
        load_settings(write(tmp_path, text))


def test_a_recipe_is_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "first.yaml"
    path.write_bytes(b"model: {name: \xff}\n")
    with pytest.raises(SettingsError, match=r"first\.yaml: not UTF-8"):
        load_settings(path)


# ---- what the rest relies on -------------------------------------------------------------------------------------


def test_every_metric_can_pick_the_best_checkpoint() -> None:
    assert get_args(Metric) == tuple(name for name in METRICS if name not in OF_THE_ANSWERED)


def test_every_setting_says_what_it_is() -> None:
    def descriptions(schema: dict[str, object]) -> list[object]:
        sections = {"$ref", "allOf"}
        properties = schema.get("properties", {})
        assert isinstance(properties, dict)
        return [field.get("description") for field in properties.values() if not field.keys() & sections]

    schema = Settings.model_json_schema()
    found = [text for section in [schema, *schema["$defs"].values()] for text in descriptions(section)]
    assert len(found) > 40
    assert all(found)


def test_augmentation_goes_by_the_same_names_where_it_is_done() -> None:
    assert list(Augment.model_fields) == [field.name for field in fields(Augmentation)]
    assert not Augmentation(**Augment().model_dump()).is_on, "off by default"
    with pytest.raises(ValidationError):
        Augment(crop_visible=GONE - 0.01)


def test_settings_load_without_torch_or_transformers(recipe: Path) -> None:
    code = (
        "import sys; from groundling.recipe import load_settings; load_settings(sys.argv[1]);"
        "print([name for name in ('torch', 'transformers', 'datasets', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(recipe)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_read_recipe_says_where_each_setting_stands(recipe: Path) -> None:
    read = read_recipe(recipe)
    assert read.place("data.train") == f"{recipe}:2"
    assert read.place("train.epochs") == str(recipe)
    assert (read.notes, read.is_tutorial) == ([], False)


def test_a_batch_is_measured_in_samples_or_in_tokens(recipe: Path) -> None:
    assert problems(recipe, "train.batch_size=2", "train.pack_tokens=4096") == [
        "command line: train: batch_size is 2 and pack_tokens 4096; set one, as each says how much a batch holds"
    ]
    assert load_settings(recipe, ["train.pack_tokens=4096"]).train.pack_tokens == 4096
