"""Which checkpoint a run goes on from, when it is refused, and how folders come to be whole."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from groundling.errors import SettingsError
from groundling.settings import Settings
from groundling.training.checkpoint import (
    compare_recipes,
    copy_model,
    drop_old_checkpoints,
    evaluations_since_best,
    explain_unreadable,
    find_resume,
    is_at_end,
    is_foreign,
    list_checkpoints,
    owes_evaluation,
    partial_name,
    put_in_place,
    set_damaged_aside,
    sweep_partial,
)
from groundling.training.manifest import write_manifest


def settings_of(folder: Path, **sections: Any) -> Settings:
    values: dict[str, Any] = {"model": {"name": "tiny"}, "data": {"train": "a.jsonl", "test": "b.jsonl"}}
    return Settings.model_validate(values | sections | {"run": {"dir": folder} | sections.get("run", {})})


def begin_run(run: Path, *steps: int, **sections: Any) -> Settings:
    """A run folder with whole checkpoints of these steps, of 12."""
    settings = settings_of(run, **sections)
    run.mkdir(exist_ok=True)
    (run / "recipe.yaml").write_text(settings.to_yaml(), encoding="utf-8")
    for step in steps:
        folder = run / "checkpoints" / str(step)
        folder.mkdir(parents=True)
        state = {"global_step": step, "max_steps": 12, "log_history": []}
        (folder / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            (folder / name).touch()
    return settings


# ---- finding ---------------------------------------------------------------------------------------------------


def test_the_newest_whole_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    settings = begin_run(tmp_path / "run", 5, 10)
    folder = tmp_path / "run" / "checkpoints"
    (folder / "checkpoint-15").mkdir()  # being written
    (folder / "checkpoint-15" / "trainer_state.json").write_text("{}", encoding="utf-8")
    (folder / "20").mkdir()  # without its state
    (folder / "runs").mkdir()
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["5", "10"]
    assert find_resume(settings) == folder / "10"


def test_nothing_to_go_on_from_is_a_fresh_start(tmp_path: Path) -> None:
    assert find_resume(settings_of(tmp_path / "new")) is None
    (tmp_path / "empty").mkdir()
    assert find_resume(settings_of(tmp_path / "empty")) is None
    assert find_resume(settings_of(tmp_path / "empty", run={"resume": "never"})) is None


def test_a_run_that_kept_nothing_starts_again_by_whatever_recipe(tmp_path: Path) -> None:
    begin_run(tmp_path / "run")  # and stopped before its first checkpoint: too high a rate, say
    lower = settings_of(tmp_path / "run", train={"learning_rate": 1e-9})
    assert find_resume(lower) is None
    (tmp_path / "run" / "best").mkdir()
    with pytest.raises(SettingsError, match="another recipe"):
        find_resume(lower)


def test_a_finished_run_is_refused(tmp_path: Path) -> None:
    settings = begin_run(tmp_path / "run", 12)
    (tmp_path / "run" / "final").mkdir()
    assert find_resume(settings) == tmp_path / "run" / "checkpoints" / "12", "its report is still to be written"
    (tmp_path / "run" / "report").mkdir()
    (tmp_path / "run" / "report" / "report.json").write_text("{", encoding="utf-8")
    assert find_resume(settings) is not None, "half a report"
    (tmp_path / "run" / "report" / "report.json").write_text("{}", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"run is finished: its weights are in .*final; choose another run\.dir"):
        find_resume(settings)


def test_another_recipe_is_refused_with_what_differs(tmp_path: Path) -> None:
    begin_run(tmp_path / "run", 5, train={"learning_rate": 1e-4})
    other = settings_of(tmp_path / "run", train={"learning_rate": 2e-4}, tune={"freeze": ["vision"]})
    with pytest.raises(SettingsError, match="another recipe") as refused:
        find_resume(other)
    assert "train.learning_rate: 0.0001 in recipe.yaml, now 0.0002" in str(refused.value)
    assert "tune.freeze: [] in recipe.yaml, now ['vision']" in str(refused.value)
    assert "run." not in str(refused.value).replace("run.dir, or the same", "")


def test_what_is_kept_and_how_fast_may_change(tmp_path: Path) -> None:
    settings = begin_run(tmp_path / "run", 5)
    run = {"save_every": 3, "keep": 9, "log_every": 1, "dir": tmp_path / "moved"}
    assert compare_recipes(settings, settings_of(tmp_path, run=run, track=["swanlab"], train={"workers": 4})) == []
    assert compare_recipes(settings, settings_of(tmp_path, evaluate={"batch_size": 1})) == [], "out of memory's remedy"
    assert compare_recipes(settings, settings_of(tmp_path, evaluate={"every": 3})) == [
        "evaluate.every: 0 in recipe.yaml, now 3"
    ]


def test_never_wants_an_empty_folder(tmp_path: Path) -> None:
    begin_run(tmp_path / "run", 5)
    with pytest.raises(SettingsError, match=r"run\.resume is never, and .*run is not empty"):
        find_resume(settings_of(tmp_path / "run", run={"resume": "never"}))


def test_a_checkpoint_that_is_no_folder_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"run\.resume is sometimes, no folder; expected auto, never or a check"):
        find_resume(settings_of(tmp_path / "run", run={"resume": "sometimes"}))


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"no run of groundling \(no recipe\.yaml\)"):
        find_resume(settings_of(tmp_path))


def test_a_recipe_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    settings = begin_run(tmp_path / "run", 5)
    (tmp_path / "run" / "recipe.yaml").write_text("model: {name: tiny", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"recipe\.yaml is damaged, .* cannot be gone on with: .*choose another"):
        find_resume(settings)
    (tmp_path / "run" / "recipe.yaml").write_text("", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"recipe\.yaml is damaged, .*\nit is empty$"):
        find_resume(settings)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"tune": {"freeze": ["vision"]}}, r"tune\.freeze: \[\] in recipe\.yaml, now \['vision'\]"),
        ({"tune": {"method": "lora"}}, r"tune\.method: 'full' in recipe\.yaml, now 'lora'"),
        ({"train": {"learning_rates": {"vision": 1e-5}}}, r"train\.learning_rates\.vision: None in .*, now 1e-05"),
        ({"train": {"learning_rate": 2e-4}}, r"train\.learning_rate: 1e-05 in recipe\.yaml, now 0\.0002"),
        ({"trainer": {"optim": "adafactor"}}, r"trainer\.optim: None in recipe\.yaml, now 'adafactor'"),
    ],
)
def test_a_named_checkpoint_is_gone_on_from_by_what_its_optimizer_fits(
    tmp_path: Path, sections: dict[str, Any], told: str
) -> None:
    begin_run(tmp_path / "run", 5)
    named = tmp_path / "run" / "checkpoints" / "5"
    asked = {"run": {"resume": str(named)}}
    with pytest.raises(
        SettingsError, match=r"optimizer's state is by other settings; [^\n]*\(model\.name=.*\n  " + told
    ):
        find_resume(settings_of(tmp_path / "new", **sections, **asked))
    other = {"train": {"batch_size": 9, "max_steps": 99, "schedule": "linear"}, "evaluate": {"sample": 3}}
    assert find_resume(settings_of(tmp_path / "new", **other, **asked)) == named


@pytest.mark.parametrize(
    "sections",
    [
        {"trainer": {"optim": "adamw_torch"}},
        {"trainer": {"optim": "adamw_torch_fused"}},
        {"tune": {"lora": {"dropout": 0.2}}},
    ],
)
def test_the_default_by_its_name_and_dropout_are_in_no_state(tmp_path: Path, sections: dict[str, Any]) -> None:
    begin_run(tmp_path / "run", 5)
    named = tmp_path / "run" / "checkpoints" / "5"
    assert find_resume(settings_of(tmp_path / "new", **sections, run={"resume": str(named)})) == named


def test_a_state_that_does_not_fit_the_recipe_is_told(tmp_path: Path) -> None:
    told = r"5: its state does not fit this recipe \(.*group.*\); .* \(model\.name="
    with pytest.raises(SettingsError, match=told), explain_unreadable(str(tmp_path / "5")):
        raise ValueError("loaded state dict has a different number of parameter groups")


def test_fewer_steps_than_are_done_are_refused(tmp_path: Path) -> None:
    begin_run(tmp_path / "run", 5)
    named = tmp_path / "run" / "checkpoints" / "5"

    def wanting(steps: int) -> Settings:
        return settings_of(tmp_path / "new", train={"max_steps": steps}, run={"resume": str(named)})

    with pytest.raises(SettingsError, match=r"5, of 5 steps, and the recipe has 4: nothing would be trained"):
        find_resume(wanting(4))
    assert find_resume(wanting(5)) == named


def test_a_named_checkpoint_has_to_be_whole(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    with pytest.raises(SettingsError, match=r"no whole checkpoint: it has no trainer_state\.json"):
        find_resume(settings_of(tmp_path / "new", run={"resume": str(tmp_path / "7")}))
    begin_run(tmp_path / "run", 5)
    named = tmp_path / "run" / "checkpoints" / "5"
    for folder in ("run", "new"):
        assert find_resume(settings_of(tmp_path / folder, run={"resume": str(named)})) == named


def seal(run: Path) -> None:
    for checkpoint in list_checkpoints(run):
        write_manifest(checkpoint)


def test_a_checkpoint_that_lost_its_state_is_named_and_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    settings = begin_run(run, 5, 10)
    seal(run)
    (run / "checkpoints" / "10" / "trainer_state.json").unlink()
    resume = find_resume(settings)
    assert resume == run / "checkpoints" / "5"
    assert "10 is damaged: trainer_state.json is missing; the run goes on from" in caplog.text
    set_damaged_aside(run, resume)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["10.damaged", "5"]


def test_a_run_whose_checkpoints_lost_their_state_does_not_begin_anew(tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = begin_run(run, 5, 10)
    seal(run)
    for checkpoint in list_checkpoints(run):
        (checkpoint / "trainer_state.json").unlink()
    told = r"10 is damaged: trainer_state\.json is missing\n.*5 is damaged: trainer_state\.json is missing"
    with pytest.raises(SettingsError, match=told):
        find_resume(settings)
    with pytest.raises(SettingsError, match=r"5, which is damaged: trainer_state\.json is missing"):
        find_resume(settings_of(run, run={"resume": str(run / "checkpoints" / "5")}))


def test_where_others_are_sealed_a_lost_manifest_is_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tmp_path / "run"
    settings = begin_run(run, 5, 10)
    seal(run)
    newest = run / "checkpoints" / "10"
    (newest / "manifest.json").unlink()
    assert find_resume(settings) == run / "checkpoints" / "5"
    assert "10 is damaged: its manifest.json is missing, and others of its run have theirs" in caplog.text
    with pytest.raises(SettingsError, match=r"10, which is damaged: its manifest\.json is missing"):
        find_resume(settings_of(run, run={"resume": str(newest)}))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", r"cannot be read \(JSONDecodeError"),
        ("[]", r"cannot be read \(AttributeError"),
        ('{"global_step": 10}', "lacks log_history, max_steps"),
    ],
)
def test_a_state_from_before_there_were_manifests_has_to_be_readable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, told: str
) -> None:
    run = tmp_path / "run"
    settings = begin_run(run, 5, 10)
    (run / "checkpoints" / "10" / "trainer_state.json").write_text(text, encoding="utf-8")
    assert find_resume(settings) == run / "checkpoints" / "5"
    assert re.search(f"10 is damaged: its trainer_state.json {told}", caplog.text)


# ---- the end ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "waited"),
    [([], 0), ([0.2], 0), ([0.2, 0.3], 0), ([0.3, 0.2], 1), ([0.3, 0.3, 0.1], 2), ([0.1, 0.4, 0.2, 0.4], 2)],
)
def test_evaluations_since_the_best_one(scores: list[float], waited: int) -> None:
    history: list[dict[str, Any]] = [{"loss": 1.0, "step": 1}]
    history += [{"eval_miou": score, "eval_acc@0.5": -score, "step": 2} for score in scores]
    assert evaluations_since_best(history, "miou") == waited


def write_state(checkpoint: Path, history: list[dict[str, Any]]) -> None:
    state = {"global_step": int(checkpoint.name), "max_steps": 12, "log_history": history}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")


def test_a_run_is_at_its_end_by_steps_or_by_patience(tmp_path: Path) -> None:
    settings = begin_run(tmp_path / "run", 5, 12, evaluate={"every": 1, "patience": 2, "metric": "miou"})
    first, last = list_checkpoints(tmp_path / "run")
    write_state(last, [{"eval_miou": 0.5, "step": 12}])
    assert not is_at_end(first, settings) and is_at_end(last, settings)
    write_state(first, [{"eval_miou": score, "step": 3 + place} for place, score in enumerate((0.5, 0.4, 0.5))])
    assert is_at_end(first, settings)
    waiting = {"every": 1, "patience": 2, "metric": "miou"}
    assert not is_at_end(first, settings_of(tmp_path / "other", evaluate=waiting)), "whose scores are another run's"
    assert not is_at_end(first, settings_of(tmp_path / "run", evaluate={"every": 1, "metric": "miou"}))
    assert not is_at_end(last, settings_of(tmp_path / "more", train={"max_steps": 13})), "by a recipe of more steps"


def test_a_checkpoint_is_the_runs_own_through_links(tmp_path: Path) -> None:
    """It lies on another disk, or the recipe names it by a link."""
    begin_run(tmp_path / "run", 5, 12)
    begin_run(tmp_path / "other", 5)
    first, last = list_checkpoints(tmp_path / "run")
    (tmp_path / "latest").symlink_to(last)
    first.rename(tmp_path / "elsewhere")
    first.symlink_to(tmp_path / "elsewhere")
    assert not any(is_foreign(path, tmp_path / "run") for path in (first, last, tmp_path / "latest"))
    assert is_foreign(tmp_path / "other" / "checkpoints" / "5", tmp_path / "run")


@pytest.mark.parametrize(("step", "every", "owes"), [(5, 5, True), (5, 2, False), (12, 5, True), (12, 0, False)])
def test_an_evaluation_that_was_due_and_is_not_in_a_checkpoint_is_owed(
    tmp_path: Path, step: int, every: int, owes: bool
) -> None:
    begin_run(tmp_path / "run", step)
    settings, checkpoint = (
        settings_of(tmp_path / "run", evaluate={"every": every}),
        list_checkpoints(tmp_path / "run")[0],
    )
    assert owes_evaluation(checkpoint, settings) == owes
    assert is_at_end(checkpoint, settings) == (step == 12 and not owes)
    write_state(checkpoint, [{"eval_miou": 0.5, "step": step - 1}, {"loss": 1.0, "step": step}])
    assert owes_evaluation(checkpoint, settings) == owes
    write_state(checkpoint, [{"eval_miou": 0.5, "step": step}])
    assert not owes_evaluation(checkpoint, settings)


def test_how_many_steps_epochs_have_is_told_by_what_the_run_itself_wrote(tmp_path: Path) -> None:
    begin_run(tmp_path / "run", 12)
    named = tmp_path / "run" / "checkpoints" / "12"
    fork = settings_of(tmp_path / "fork", run={"resume": str(named)})
    assert find_resume(fork) == named and not is_at_end(named, fork)
    begin_run(tmp_path / "fork", 12)
    (tmp_path / "fork" / "recipe.yaml").write_text(fork.to_yaml(), encoding="utf-8")
    own = find_resume(fork)
    assert own == tmp_path / "fork" / "checkpoints" / "12" and is_at_end(own, fork)


# ---- writing ---------------------------------------------------------------------------------------------------


def test_a_folder_takes_its_name_and_anothers_place_when_it_is_whole(tmp_path: Path) -> None:
    best = tmp_path / "best"
    for text in ("first", "second"):
        partial = partial_name(best)
        partial.mkdir()
        (partial / text).write_text(text, encoding="utf-8")
        put_in_place(partial, best)
        assert sorted(path.name for path in best.iterdir()) == sorted(["manifest.json", text])
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    begin_run(tmp_path, 2, 10, 9)
    drop_old_checkpoints(tmp_path, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["9", "10"]
    drop_old_checkpoints(tmp_path, keep=5)
    assert len(list_checkpoints(tmp_path)) == 2


def test_only_what_is_half_written_is_swept_away(tmp_path: Path) -> None:
    begin_run(tmp_path, 2)
    for name in ("best", "best.partial", "best-former.partial", "checkpoints/checkpoint-4", "checkpoints/2.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"")
    sweep_partial(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "checkpoints", "recipe.yaml"]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]


def test_of_a_checkpoint_that_is_a_link_the_link_is_removed(tmp_path: Path) -> None:
    begin_run(tmp_path, 2, 9, 10)
    for step in ("2", "9"):
        checkpoint = tmp_path / "checkpoints" / step
        checkpoint.rename(tmp_path / step)
        checkpoint.symlink_to(tmp_path / step)
    drop_old_checkpoints(tmp_path, keep=2)
    (tmp_path / "checkpoints" / "9").rename(tmp_path / "checkpoints" / "9.partial")
    sweep_partial(tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["10"]
    assert (tmp_path / "2" / "optimizer.pt").is_file() and (tmp_path / "9" / "optimizer.pt").is_file()


def test_a_copied_model_has_no_state_of_its_training(tmp_path: Path) -> None:
    begin_run(tmp_path, 2)
    checkpoint = tmp_path / "checkpoints" / "2"
    for name in (
        "model.safetensors",
        "config.json",
        "groundling.json",
        "chat_template.jinja",
        "optimizer.pt",
        "rng_state.pth",
    ):
        (checkpoint / name).write_text(name, encoding="utf-8")
    for name in ("manifest.json", "test-sample.json"):
        (checkpoint / name).write_text("{}", encoding="utf-8")
    copy_model(checkpoint, tmp_path / "final")
    names = sorted(path.name for path in (tmp_path / "final").iterdir())
    assert names == ["chat_template.jinja", "config.json", "groundling.json", "model.safetensors"]
