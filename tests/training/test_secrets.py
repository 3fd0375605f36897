"""Secrets in a recipe: by their name, their form, or a variable that holds them; and what is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from groundling.errors import SettingsError
from groundling.recipe import load_settings
from groundling.recipe_file import SHIPPED
from groundling.settings import Settings
from groundling.training.secrets import refuse_secrets

SECRET = "c0rrect-h0rse/battery"
HEX = "0123456789abcdef0123456789abcdef01234567"
HARMLESS = {
    "KEYBOARD": "textvqa-3b",
    "PATH": "runs/textvqa-3b",
    "MONKEY": "textvqa-3b",
    "COMPASS": "textvqa-3b",
    "SPAT": "textvqa-3b",
    "CACHE_KEY": "textvqa-3b",
    "SORT_KEY": "Qwen/Qwen2.5-VL-3B-Instruct",
    "GPG_KEY": "A035C8C19219BA821ECEA86B64E628F8D684696D",
    "SECOND_PASS": "language",
    "PWD": "runs/textvqa-3b",
    "TOKENIZERS_PARALLELISM": "textvqa-3b",
    "GOOGLE_APPLICATION_CREDENTIALS": "/home/me/credentials.json",
    "SSH_AUTH_SOCK": "/tmp/agent",
    "LANG": "C.UTF-8",
}


def settings_of(**sections: Any) -> Settings:
    values: dict[str, Any] = {"model": {"name": "tiny"}, "data": {"train": "a.jsonl"}, "run": {"dir": "runs/first"}}
    return Settings.model_validate(values | sections)


def refused(settings: Settings) -> str:
    with pytest.raises(SettingsError) as found:
        refuse_secrets(settings)
    return str(found.value)


@pytest.mark.parametrize(
    "variable",
    [
        *("HF_TOKEN", "WANDB_API_KEY", "SECRET_KEY", "DJANGO_SECRET_KEY_BASE", "DB_PASS", "DB_PASSWORD", "PGPASSWORD"),
        *("AZURE_STORAGE_CONNECTION_STRING", "TELEGRAM_BOT", "CARD_PIN"),
        *("OPENAI_KEY", "GITHUB_PAT", "GCP_CREDENTIALS", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MYSQL_PWD"),
    ],
)
def test_what_a_variable_hides_is_no_setting(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    settings = settings_of(trainer={"project": f"me-{SECRET}"})
    refuse_secrets(settings)
    monkeypatch.setenv(variable, SECRET)
    told = refused(settings)
    assert f"trainer.project holds the value of {variable}," in told and SECRET not in told


def test_a_key_may_look_like_a_path_that_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"/{SECRET}")
    assert "holds the value of AWS_SECRET_ACCESS_KEY," in refused(settings_of(trainer={"project": f"me/{SECRET}"}))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "/" * 9999)  # longer than any path
    refuse_secrets(settings_of())
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", str(tmp_path))
    refuse_secrets(settings_of(run={"dir": tmp_path / "run"}))


def test_nor_is_it_a_name_in_a_mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    told = refused(settings_of(trainer={"lr_scheduler_kwargs": {SECRET: {"deeper": "text"}}}))
    assert "trainer.lr_scheduler_kwargs holds the value of HF_TOKEN," in told and SECRET not in told


@pytest.mark.parametrize("name", ["key", "openai_key", "pass", "pat", "credentials"])
def test_what_was_drawn_by_lot_and_is_named_so(name: str) -> None:
    told = refused(settings_of(trainer={"deepspeed": {"wandb": {name: HEX}}}))
    assert f"trainer.deepspeed.wandb.{name} holds a secret," in told and HEX not in told
    refuse_secrets(settings_of(trainer={"deepspeed": {"wandb": {name: "eval_loss"}}}))


@pytest.mark.parametrize(
    "secret",
    [
        f"hf_{'a1B2' * 8}",
        f"sk-{'a1B2' * 8}",
        f"sk-proj-{'a1B2' * 8}",
        f"sk-ant-api03-{'a1B2' * 6}-_{'a1B2' * 3}",
        *(f"gh{kind}_{'a1B2' * 9}" for kind in "pousr"),
        f"github_pat_{'a1B2' * 9}",
        f"AKIA{'A1B2' * 4}",
        "xoxb-123456789012-abcdef",
        "xoxp-123456789012-abcdef",
    ],
)
def test_the_well_known_forms(secret: str) -> None:
    for values in ({"project": f"me/{secret}"}, {"lr_scheduler_kwargs": {secret: 1}}):
        told = refused(settings_of(trainer=values))
        assert "holds a secret," in told and secret not in told


@pytest.mark.parametrize("recipe", sorted(file.stem for file in SHIPPED.glob("*.yaml")))
def test_a_shipped_recipe_in_a_usual_environment_is_none(monkeypatch: pytest.MonkeyPatch, recipe: str) -> None:
    for name, value in HARMLESS.items():
        monkeypatch.setenv(name, value)
    refuse_secrets(load_settings(recipe))


@pytest.mark.parametrize(
    "text",
    [
        "data/task-segmentation-of-long-documents",
        "sk-learn-tables-of-many-cells",
        "runs/AKIA",
        "ghost_writing_of_letters",
    ],
)
def test_what_only_looks_like_one(text: str) -> None:
    refuse_secrets(settings_of(model={"name": text}))
