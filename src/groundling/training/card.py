"""What a run tells of itself: `model_card.md`, the same beside its weights, and before against after where it is known.

Everything in a card was read from the run: its contract, its recipe, its reports. What was not measured is said to be
so. A recipe may hold paths and keys that are nobody's business, so only the settings in `_TOLD` are in it, no value of
the `trainer` block, and of no path more than its last part.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from accelerate import PartialState

from groundling.dialect.answer import FLAWS
from groundling.evaluation.compare import Comparison, compare
from groundling.evaluation.compare_page import SIZES_TOLD, change_table, guard_to_markdown, write_comparison
from groundling.evaluation.metrics import METRICS
from groundling.evaluation.report import Report, read_report
from groundling.model.contract import Contract
from groundling.model.load import TINY, Checkpoint, find_checkpoint
from groundling.page.markdown import escape, public_name, table
from groundling.page.page import show_share
from groundling.settings import Settings
from groundling.training.journal import METRICS_FILE, read_lines

CARD_FILE = "model_card.md"
BASE_REPORT = "report-before"  # the untrained model's, in a run folder

_COORDINATES = {
    "seen_pixels": "pixels of the picture as resized for the model",
    "thousandths": "thousandths of the picture's width and height",
}
_HELD = {
    False: "Answers were held to the form above, as groundling does by itself.",
    True: "Answers were free to say anything.",
}
_TOLD = (
    *("tune.method", "tune.freeze", "train.epochs", "train.batch_size", "train.pack_tokens", "train.accumulate"),
    *("train.learning_rate", "train.schedule", "train.warmup", "train.weight_decay", "train.max_grad_norm"),
    *("train.seed", "evaluate.metric"),
)
_TOLD_OF_LORA = ("tune.lora.rank", "tune.lora.alpha", "tune.lora.dropout", "tune.lora.parts")


class CardFacts(NamedTuple):
    """All that a card is made of."""

    name: str
    settings: Settings
    contract: Contract
    base: str  # as others may see it
    is_on_hub: bool  # whether `base` is a hub's name
    processes: int
    steps: int | None
    measured: str  # the folder whose weights the report is of: best or final
    report: Report | None
    comparison: Comparison | None


def write_results(settings: Settings, base: Checkpoint) -> None:
    """Write what follows from a finished run's reports: the comparison with the untrained model, and the cards."""
    run = settings.run.dir
    report = read_report(run / "report") if (run / "report" / "report.json").is_file() else None
    comparison = None
    if report is not None and (run / BASE_REPORT / "report.json").is_file():
        comparison = compare(read_report(run / BASE_REPORT), report)
        write_comparison(comparison, run)
    measured = find_checkpoint(str(run))
    facts = CardFacts(
        name=run.name,
        settings=settings,
        contract=measured.contract,
        base=public_name(base.name),
        is_on_hub=base.name != TINY and not Path(base.name).exists(),
        processes=PartialState().num_processes,
        steps=max((line["step"] for line in read_lines(run / METRICS_FILE)), default=None),
        measured=measured.folder.name,
        report=report,
        comparison=comparison,
    )
    _write(write_card(facts), run / CARD_FILE)
    for folder in ("best", "final"):
        if (run / folder).is_dir():
            same = facts if folder == measured.folder.name else facts._replace(report=None, comparison=None)
            _write(write_card(same), run / folder / "README.md")


def _write(text: str, file: Path) -> None:
    file.write_text(text, encoding="utf-8", errors="replace", newline="\n")


def write_card(facts: CardFacts) -> str:
    """A model card as Markdown, with the head that model hubs read."""
    return f"{_head(facts)}\n" + "\n\n".join(_sections(facts)) + "\n"


def _head(facts: CardFacts) -> str:
    """YAML between lines of dashes; the licence, which nobody told, is left for the user to fill in."""
    value: dict[str, Any] = {"base_model": facts.base} if facts.is_on_hub else {}
    value |= {
        "library_name": "peft" if facts.settings.tune.method == "lora" else "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["groundling", "visual-grounding", "object-detection", facts.contract.family],
    }
    if facts.report is not None:
        value["metrics"] = ["accuracy", "mean_iou", "f1"]
    return f"---\n{yaml.safe_dump(value, sort_keys=False)}---\n"


def _sections(facts: CardFacts) -> Iterator[str]:
    yield f"# {escape(facts.name)}"
    yield _what(facts)
    yield "## How to use it"
    yield _USE
    yield "## What it sees, and what its numbers mean"
    yield _frame_in_words(facts.contract)
    yield "## Training"
    yield _trained_on(facts)
    yield table(["setting", "value"], [[f"`{name}`", escape(value)] for name, value in _told_settings(facts).items()])
    yield "## Results"
    yield from _results(facts)
    yield "## Made with"
    yield ", ".join(f"{package} {escape(version)}" for package, version in facts.contract.made_with.items())


def _what(facts: CardFacts) -> str:
    method = "LoRA adapters on" if facts.settings.tune.method == "lora" else "A full fine-tune of"
    base = "the tiny model that comes with groundling" if facts.base == TINY else f"**{escape(facts.base)}**"
    return (
        f"{method} {base}, by groundling. Asked about a picture where something is, it answers with boxes; its answers "
        "are read back into the pixels of the picture as it was given."
    )


_USE = """```
pip install groundling
groundling predict THIS_FOLDER photo.jpg --ask "the red mug" --draw drawn
```

```python
import groundling as gl

answer = gl.load("THIS_FOLDER").predict("photo.jpg", "the red mug")
print(answer.boxes.xyxy)  # left, top, right, bottom in the photo's own upright pixels
```"""


def _frame_in_words(contract: Contract) -> str:
    """The frame contract, for whoever serves the model by other means."""
    side = contract.known_family.token_side
    lines = [
        f"- Pictures are resized, sides to multiples of {side}, to between {contract.min_pixels:,} and "
        f"{contract.max_pixels:,} pixels: {contract.budget.max_tokens} visual tokens at most.",
        f"- The numbers in its answers count {_COORDINATES[contract.coordinates]}; groundling converts them.",
        f"- Pictures come in upright, RGB; transparency on {contract.image_policy['alpha']}.",
        f"- Asked with: {escape(contract.prompt_template, 1000)}",
        f"- Answers are written in the form `{contract.answer_form}`.",
        "- All of it is in `groundling.json`, which travels with the weights. Served with another budget of pixels, "
        "boxes may be in the wrong place without any error.",
    ]
    return "\n".join(lines)


def _trained_on(facts: CardFacts) -> str:
    told = facts.contract.trained_on
    if told is None:
        return "What it was trained on is not known."
    steps = "" if facts.steps is None else f", {facts.steps} optimizer steps"
    devices = "one process" if facts.processes == 1 else f"{facts.processes} processes"
    return f"{told['records']} records{steps}, {devices}. SHA-256 of the records: `{told['sha256']}`."


def _told_settings(facts: CardFacts) -> dict[str, str]:
    settings: Mapping[str, Any] = json.loads(facts.settings.model_dump_json())
    names = [*_TOLD, *(_TOLD_OF_LORA if facts.settings.tune.method == "lora" else ())]
    found = {name: _at(settings, name) for name in names}
    changed = [name for name, chance in settings["augment"].items() if chance and "_" not in name]  # others say how far
    told = {name: _in_words(value) for name, value in found.items() if value not in (None, [])}
    if changed:
        told["augment"] = ", ".join(f"{name} {settings['augment'][name]:g}" for name in changed)
    if settings["trainer"]:
        told["trainer (names only)"] = ", ".join(settings["trainer"])
    return told


def _at(settings: Mapping[str, Any], name: str) -> Any:
    for key in name.split("."):
        settings = settings[key]
    return settings


def _in_words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


# ---- results ---------------------------------------------------------------------------------------------------


def _results(facts: CardFacts) -> Iterator[str]:
    report, comparison = facts.report, facts.comparison
    if report is None:
        yield "These weights were not measured."
        return
    scores = report.scores
    pictures = len({prediction.record.image for prediction in report.predictions})
    yield (
        f"Of the weights in `{facts.measured}/`, on {scores.n} questions about {pictures} pictures, the recipe's test "
        f"data. {_HELD[facts.settings.evaluate.free]} Intervals are 95 %, drawn by picture."
    )
    yield _metric_table(report)
    if scores.n_single:
        yield "### By size of the target"
        yield SIZES_TOLD
        yield _size_table(report)
    yield from _flaws(report)
    if comparison is None:
        yield "The model that it was tuned from was not measured on these questions."
        return
    yield "### Before and after"
    yield f"Against the model that it was tuned from, on the same questions: {escape(comparison.verdict, 400)}."
    yield change_table("metric", comparison.shown)
    for warning in comparison.warnings:
        yield f"But {escape(warning, 1000)}."
    if comparison.guard:
        yield from guard_to_markdown(comparison.guard, "###")
    else:
        yield f"Whether other abilities suffered was {comparison.no_guard or 'not measured'}."


def _metric_table(report: Report) -> str:
    rows: list[list[str]] = []
    for name in report.shown:
        low, high = report.ci95[name]
        interval = f"{show_share(low)} to {show_share(high)}" if low == low else ""
        rows.append([f"{name} ({escape(METRICS[name])})", show_share(report.metrics[name]), interval])
    for name, values in report.scores.baselines.items():
        if values["acc@0.5"] == values["acc@0.5"]:
            rows.append([f"acc@0.5 of a {name} box, which sees nothing", show_share(values["acc@0.5"]), ""])
    return table(["metric", "value", "95 %"], rows)


def _size_table(report: Report) -> str:
    rows = [
        [name, str(size["n"]), show_share(size["acc@0.5"]), show_share(size["miou"])]
        for name, size in report.by_size.items()
    ]
    return table(["size", "questions", "acc@0.5", "miou"], rows)


def _flaws(report: Report) -> Iterator[str]:
    """What is known to go wrong."""
    yield "### Known flaws"
    flaws = [
        f"- {count} of {report.scores.n} answers: {escape(FLAWS.get(code, code))}"
        for code, count in report.scores.flaws.items()
    ]
    if report.scores.full:
        flaws.append(f"- {report.scores.full} of {report.scores.n} answers would have gone on, had there been room")
    if report.only_points:
        flaws.append(f"- {report.only_points}")
    yield "\n".join(flaws) if flaws else "Every answer could be read."
    if not report.scores.n_negative:
        yield "No test question asks for something that is not there, so how often it invents a box is not known."
