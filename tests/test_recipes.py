"""The shipped recipes load, say what they promise, and accelerate knows every key of the configurations beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from groundling.recipe import load_settings, read_recipe
from groundling.recipe_file import SHIPPED
from groundling.training.rows import Length, RowPlan, RowSampler

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted(path.stem for path in SHIPPED.glob("*.yaml"))
LAUNCHES = sorted(path.name for path in (SHIPPED / "accelerate").glob("*.yaml"))


def test_the_shipped_ones_are_all_there() -> None:
    assert RECIPES == ["textvqa-3b", "textvqa-3b-lora", "textvqa-3b-qlora", "tiny"]
    assert LAUNCHES == ["ddp.yaml", "fsdp2.yaml", "zero2.yaml", "zero3.yaml"]
    assert (ROOT / "recipes").resolve() == SHIPPED.resolve()


@pytest.mark.parametrize("name", RECIPES)
def test_every_shipped_recipe_loads_by_name(name: str) -> None:
    settings = load_settings(name)
    assert settings.evaluate.every
    assert settings.data.test
    assert not read_recipe(name).notes


@pytest.mark.parametrize("name", RECIPES)
def test_every_line_of_a_recipe_fits_a_screen(name: str) -> None:
    assert all(len(line) <= 120 for line in (SHIPPED / f"{name}.yaml").read_text().splitlines())


def test_the_tutorials_job_done_right() -> None:
    settings = load_settings("textvqa-3b")
    assert settings.model.name == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert settings.images.max_tokens == 1280
    assert (settings.tune.method, settings.tune.freeze) == ("full", ())
    train = settings.train
    assert (train.batch_size, train.pack_tokens, train.accumulate) == (1, 6144, 1)
    assert (train.epochs, train.learning_rate, train.bf16, train.gradient_checkpointing) == (2, 1e-5, True, True)
    assert settings.answer.form == "bare"


@pytest.mark.parametrize(("name", "gpus", "questions"), [("textvqa-3b", 8, 64), ("textvqa-3b-lora", 1, 16)])
def test_a_step_of_packed_rows_holds_about_as_many_questions_as_it_says(name: str, gpus: int, questions: int) -> None:
    """Three questions about two pictures of 1024 x 768, as photographs with writing have, each of 70 tokens."""
    recipe = load_settings(name)
    assert recipe.train.share_pictures and recipe.train.pack_tokens
    assert recipe.train.pack_tokens >= 2 * recipe.data.max_length
    picture = min(recipe.images.max_tokens, 36 * 27) + 25
    images = [Path(f"{number * 2 // 3}") for number in range(3000)]
    plan = RowPlan(1, recipe.train.pack_tokens, recipe.train.accumulate, gpus, True)
    sampler = RowSampler(images, [Length(picture + 70, picture)] * 3000, plan, seed=0)

    steps = len(sampler) / plan.rows_a_step
    assert questions * 0.8 <= 3000 / steps <= questions * 1.2
    assert "a picture is seen 1.0 times" in sampler.describe() and "would share more" not in sampler.describe()


@pytest.mark.parametrize("name", ["textvqa-3b", "textvqa-3b-lora", "textvqa-3b-qlora"])
def test_augmentation_waits_behind_comments_and_never_mirrors_writing(name: str, tmp_path: Path) -> None:
    text = (SHIPPED / f"{name}.yaml").read_text()
    place = text.index("# augment:")
    block = text[place:].partition("\n\n")[0]
    (tmp_path / "wanted.yaml").write_text(text.replace(block, "\n".join(line[2:] for line in block.splitlines())))
    plain, wanted = load_settings(name).augment, load_settings(tmp_path / "wanted.yaml").augment
    assert not any((plain.flip, plain.crop, plain.scale, plain.colour, plain.jpeg))
    assert wanted.crop and wanted.scale and wanted.colour and wanted.jpeg and not wanted.flip and not wanted.mosaic


def test_the_job_for_one_small_gpu_asks_and_answers_in_the_same_words() -> None:
    full, lora = load_settings("textvqa-3b"), load_settings("textvqa-3b-lora")
    assert lora.tune.method == "lora"
    assert (lora.images.max_tokens, lora.train.pack_tokens, lora.train.accumulate) == (640, 4096, 2)
    assert (lora.prompt, lora.answer, lora.data.train, lora.data.test) == (
        full.prompt,
        full.answer,
        full.data.train,
        full.data.test,
    )


# ---- accelerate --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAUNCHES)
def test_accelerate_reads_a_configuration_and_knows_every_key(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    config = load_config_from_file(str(SHIPPED / "accelerate" / name))  # refuses unknown keys of the first level
    assert (config.num_processes, config.num_machines, config.mixed_precision) == (8, 1, "bf16")
    known = {action.dest for action in launch_command_parser()._actions}
    assert {*config.deepspeed_config, *config.fsdp_config} <= known


def read(name: str) -> dict[str, object]:
    return yaml.safe_load((SHIPPED / "accelerate" / name).read_text())


def test_each_configuration_asks_for_its_engine() -> None:
    engines = {name: read(name)["distributed_type"] for name in LAUNCHES}
    assert engines == {
        "ddp.yaml": "MULTI_GPU",
        "fsdp2.yaml": "FSDP",
        "zero2.yaml": "DEEPSPEED",
        "zero3.yaml": "DEEPSPEED",
    }


def test_deepspeed_takes_batch_and_clipping_from_the_recipe_and_saves_whole_weights() -> None:
    for name, stage in (("zero2.yaml", 2), ("zero3.yaml", 3)):
        deepspeed = read(name)["deepspeed_config"]
        assert isinstance(deepspeed, dict)
        assert deepspeed["zero_stage"] == stage
        assert not deepspeed.keys() & {"gradient_accumulation_steps", "gradient_clipping"}
        assert deepspeed.get("zero3_save_16bit_model", stage == 2)


def test_fsdp_is_the_second_version_and_saves_whole_weights() -> None:
    fsdp = read("fsdp2.yaml")["fsdp_config"]
    assert isinstance(fsdp, dict)
    assert fsdp["fsdp_version"] == 2
    assert fsdp["fsdp_state_dict_type"] == "FULL_STATE_DICT"
