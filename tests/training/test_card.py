"""The card of a run: what was measured is in it, what was not is said to be so, and nobody's paths or keys are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from drawn import Recipe

import groundling as gl
from groundling.errors import RecordError, SettingsError
from groundling.evaluation.report import read_report


def read_card(file: Path) -> tuple[dict[str, Any], str]:
    """The head, as a hub reads it, and the rest."""
    _, head, text = file.read_text("utf-8").split("---\n", 2)
    return yaml.safe_load(head), text


@pytest.fixture
def files(scenes: Path) -> dict[str, str]:
    return {"train": str(scenes / "train.jsonl"), "test": str(scenes / "test.jsonl")}


def test_a_run_tells_what_it_is_and_how_it_compares(
    recipe: Recipe, files: dict[str, str], tmp_path: Path, tiny_model_folder: Path
):
    name = "my|run <b>"
    file = recipe(
        name, data=files, evaluate={"before": True, "every": 2, "free": True}, trainer={"adam_beta2": 0.98765}
    )
    run = gl.train(file)

    head, text = read_card(run / "model_card.md")
    report, before = read_report(run / "report"), read_report(run / "report-before")
    comparison = json.loads((run / "comparison.json").read_text("utf-8"))

    assert head == {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["groundling", "visual-grounding", "object-detection", "qwen2_5_vl"],
        "metrics": ["accuracy", "mean_iou", "f1"],
    }, "a folder of one's own is no base model that a hub knows, and nobody told the licence"
    assert text.lstrip().startswith("# my\\|run &lt;b&gt;\n")
    assert f"fine-tune of **{tiny_model_folder.name}**" in text
    assert "20 records, 4 optimizer steps, one process" in text
    trained_on = report.contract["trained_on"]
    assert trained_on["sha256"] in text
    low, high = report.ci95["miou"]
    assert f"| {report.metrics['miou']:.3f} | {low:.3f} to {high:.3f} |" in text
    assert f"| {comparison['miou']['before']:.3f} | {comparison['miou']['after']:.3f} |" in text
    assert "point\\_" not in text and "point_" not in text, "nothing is a point"
    assert "### Other abilities" in text and f"{comparison['guard']['before']:.3f}" in text
    assert "Answers were free to say anything." in text
    assert report.scores.flaws, "a model with random weights, free to say anything, says nothing that can be read"
    assert all(f"- {count} of 6 answers: " in text for count in report.scores.flaws.values())
    assert "how often it invents a box is not known" in text
    assert comparison["full"] == {"before": 6, "after": 6}, "nor does it ever end"
    assert "But 6 of 6 answers of the first report and 6 of 6 answers of the second would have gone on" in text
    assert "trainer (names only)" in text and "adam\\_beta2" in text and "0.98765" not in text
    for file in run.rglob("*.md"):
        assert str(tmp_path.parent) not in file.read_text("utf-8"), "no path of this machine"

    assert before.contract["trained_on"] is None
    same = {key for key in report.contract if report.contract[key] == before.contract[key]}
    assert same >= {"max_pixels", "prompt_template", "answer_form"}, "asked as it was to be trained"
    assert comparison["matched"] == 6 and comparison["miou"]["after"] == pytest.approx(report.metrics["miou"])
    assert (run / "comparison.html").is_file() and (run / "comparison.md").is_file()

    assert (run / "best" / "README.md").read_text("utf-8") == (run / "model_card.md").read_text("utf-8")
    assert "Of the weights in `best/`" in text
    head, text = read_card(run / "final" / "README.md")
    assert "These weights were not measured." in text and "metrics" not in head


def test_what_was_not_measured_is_said_to_be_so(recipe: Recipe, files: dict[str, str]):
    run = gl.train(recipe("alone", data=files, evaluate={"guard": None}, tune={"method": "lora"}))

    head, text = read_card(run / "model_card.md")

    assert head["library_name"] == "peft" and "base_model" not in head
    assert "The model that it was tuned from was not measured on these questions." in text
    assert "### Before and after" not in text and "Other abilities" not in text
    assert read_report(run / "report").guard is None
    assert "| `tune.lora.rank` | 16 |" in text
    assert read_card(run / "final" / "README.md")[1] == text
    assert not (run / "report-before").exists() and not (run / "comparison.md").exists()

    _, text = read_card(gl.train(recipe("untested")) / "model_card.md")
    assert "These weights were not measured." in text


def test_the_untrained_model_is_measured_once(recipe: Recipe, files: dict[str, str]):
    file = recipe(data=files, evaluate={"before": True}, run={"save_every": 2})
    run = gl.train(file)
    measured = (run / "report-before" / "report.json").stat().st_mtime_ns
    for rest in ("report", "model_card.md", "comparison.md"):
        (run / rest).rename(run.parent / rest)

    gl.train(file)

    assert (run / "report-before" / "report.json").stat().st_mtime_ns == measured
    for again in ("model_card.md", "comparison.md"):
        assert (run / again).read_text("utf-8") == (run.parent / again).read_text("utf-8")


def test_what_cannot_be_measured_is_told_before_anything_is_computed(recipe: Recipe, files: dict[str, str]):
    with pytest.raises(SettingsError, match=r"evaluate\.before is true, but data\.test is empty"):
        gl.train(recipe("empty", evaluate={"before": True}))
    with pytest.raises(RecordError, match="no record file nowhere"):
        gl.train(recipe("guardless", data=files, evaluate={"guard": "nowhere.jsonl"}))


def test_a_run_that_goes_on_without_its_last_weights_is_measured_anew(recipe: Recipe, files: dict[str, str]):
    file = recipe(data=files, run={"save_every": 2})
    run = gl.train(file)
    (run / "final").rename(run.parent / "final")
    report = run / "report" / "report.json"
    report.write_text(report.read_text("utf-8").replace('"weights": "', '"weights": "of before '), "utf-8")

    gl.train(file)

    assert "of before" not in report.read_text("utf-8")
