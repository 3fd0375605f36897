"""A report: the scores of one model on one set of records, with every answer and with pictures.

On disk it is a folder of three files: `report.json` (the numbers), `predictions.jsonl` (a line an answer, boxes in
original pixels) and `report.html` (one self-contained page). One line of predictions.jsonl (made by hand):

    {"id": "7", "image": "../images/7.jpg", "width": 1024, "height": 681, "question": "the ghost",
     "text": "[{\\"bbox_2d\\": [465, 642, 519, 676]}]", "boxes": [[460, 635, 513, 669]], "labels": [null],
     "scores": [0.93], "none_score": null, "points": [], "flaw": null, "full": false, "iou": 1.0, "hit": true,
     "seen": [1036, 686], "truth": [[460, 635, 513, 669]], "truth_points": [], "truth_labels": ["ghost"]}

`image` is relative to the file, `iou` and `hit` (IoU 0.5 or more) are null unless there is exactly one target, a box.
`truth_labels` are of `truth`, then of `truth_points`. `full`: the model would have gone on, had there been room.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from groundling.data.record import Record, Target, parse_json, record_to_json
from groundling.dialect.answer import FLAWS, Answer
from groundling.errors import RecordError
from groundling.evaluation.detection import (
    ClassScores,
    Detection,
    detection_from_json,
    detection_to_json,
    measure_detection,
    with_nan,
)
from groundling.evaluation.guard import Guard, guard_from_json, guard_to_json
from groundling.evaluation.metrics import (
    METRICS,
    Marks,
    Prediction,
    Scores,
    accuracy_curve,
    count_pointed,
    is_of_points,
    mark,
    measure,
    worth_showing,
)
from groundling.evaluation.plot import AXES, trace
from groundling.evaluation.protocols import Headline, find_headline, find_protocol
from groundling.geometry.boxes import Boxes, Points
from groundling.geometry.frame import Frame
from groundling.page.page import View, around, embed, layer, open_or_none, whole, write_page

ONLY_POINTS = (
    "are points alone where boxes are asked for, which all metrics of boxes count as misses: "
    "evaluate --protocol pointing (or screenspot) judges points"
)

_SHOWN = 20  # pictures of each part of the gallery
_LEAST_CLOSE_UP = 0.1  # of each side of the picture
_MOST_CLOSE_UP = 0.25  # of its area; boxes that need more are large enough in the whole picture
_CLOSE_UP_ASPECT = 2.5  # of the strip below a picture, as the page's style has it
_MOST_CLASSES = 60  # rows of the table in the page; all are in report.json
_MAX_TEXT = 600  # characters of a raw answer in the page; all of it is in predictions.jsonl


@dataclass(frozen=True, eq=False)
class Report:
    """What `evaluate` returns. `predictions` are in the records' order, their boxes in original pixels."""

    scores: Scores
    predictions: list[Prediction] = field(repr=False)
    contract: Mapping[str, Any]  # of the model, as in its groundling.json
    records_sha256: str
    versions: Mapping[str, str]  # of the packages that answered
    name: str = ""  # the page's heading
    detection: Detection | None = None  # None where no target is a box
    protocol: str | None = None  # a key of PROTOCOLS
    guard: Guard | None = None
    options: Mapping[str, Any] | None = None  # how it was asked, beside the contract; None in reports of before
    weights: str | None = None  # of the model, as `Grounder.weights` tells them from others

    @property
    def headline(self) -> Headline | None:
        """What the protocol reports; None without a protocol."""
        if self.protocol is None:
            return None
        return find_headline(self.protocol, self.scores, self.detection, [one.record for one in self.predictions])

    @property
    def pointed(self) -> int:
        """How many questions for boxes are answered with points alone."""
        return count_pointed(self.predictions)

    @property
    def only_points(self) -> str | None:
        """How many answers are points in place of boxes, in one line; None where none is, or points are judged."""
        told = bool(self.pointed) and not self.is_of_points
        return f"{self.pointed} of {self.scores.n} answers {ONLY_POINTS}" if told else None

    @property
    def shown(self) -> list[str]:
        """The metrics that were measured and tell something: of points only where there is one, and the headline."""
        names = worth_showing(self.predictions)
        headline = find_protocol(self.protocol).headline if self.protocol else None
        return [name for name in METRICS if name in (*names, headline) and not math.isnan(self.metrics[name])]

    @property
    def detects(self) -> bool:
        """Whether the numbers of detection tell something: some question has several boxes to find, or classes."""
        several = any(len(one.truth) > 1 for one in self.predictions)
        if self.detection is None or self.is_of_points:
            return False
        return several or len(self.detection.classes) > 1 or self.protocol == "odinw"

    @property
    def is_of_points(self) -> bool:
        """Whether the protocol judges points."""
        return self.protocol is not None and is_of_points(find_protocol(self.protocol).headline)

    @property
    def metrics(self) -> dict[str, float]:
        """Value of each metric of METRICS; NaN where it applies to no record."""
        return self.scores.metrics

    @property
    def ci95(self) -> dict[str, tuple[float, float]]:
        """Lower and upper end of each metric's 95 % interval, pictures drawn again."""
        return self.scores.ci95

    @property
    def by_size(self) -> dict[str, dict[str, float]]:
        """`n`, `acc@0.5` and `miou` of small, medium and large targets."""
        return self.scores.by_size


def build_report(
    predictions: Sequence[Prediction],
    *,
    contract: Mapping[str, Any],
    versions: Mapping[str, str],
    name: str = "",
    protocol: str | None = None,
    guard: Guard | None = None,
    options: Mapping[str, Any] | None = None,
    weights: str | None = None,
    seed: int = 0,
) -> Report:
    """Measure predictions."""
    rules = find_protocol(protocol) if protocol else None
    return Report(
        scores=measure(predictions, seed=seed),
        predictions=list(predictions),
        contract=contract,
        records_sha256=hash_records(prediction.record for prediction in predictions),
        versions=versions,
        name=name,
        detection=measure_detection(
            predictions,
            use_scores=rules is None or rules.use_scores,
            as_said=rules is not None and rules.as_said,
            seed=seed,
        ),
        protocol=protocol,
        guard=guard,
        options=options,
        weights=weights,
    )


def hash_records(records: Iterable[Record]) -> str:
    """SHA-256 of what the records ask and where the answers lie, in order; wherever their file may be."""
    digest = hashlib.sha256()
    for record in records:
        folder = record.file.parent if record.file else Path()
        line = json.dumps(record_to_json(record, folder), sort_keys=True)
        digest.update(line.encode("ascii") + b"\n")
    return digest.hexdigest()


# ---- writing ---------------------------------------------------------------------------------------------------


def write_report(report: Report, folder: str | Path) -> None:
    """Write `report.json`, `predictions.jsonl` and `report.html` into a folder, made where it is missing."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    marks = mark(report.predictions)
    rows = [
        _prediction_to_json(prediction, overlap, folder)
        for prediction, overlap in zip(report.predictions, marks.iou.tolist(), strict=True)
    ]
    _write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), folder / "predictions.jsonl")
    _write_html(report, marks, folder / "report.html")
    write_json(report_to_json(report), folder / "report.json")  # the last: by it a report is known to be there


def write_json(value: Mapping[str, Any], path: Path) -> None:
    """Write numbers and words as JSON that every reader takes: NaN becomes null."""
    _write_text(json.dumps(without_nan(value), ensure_ascii=False, indent=2) + "\n", path)


def _write_text(text: str, path: Path) -> None:
    # A model may say half of a surrogate pair, which no file can hold: it becomes a question mark.
    path.write_text(text, encoding="utf-8", errors="replace", newline="\n")


def without_nan(value: Any) -> Any:
    """The value with None, JSON's null, for each NaN in it."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def report_to_json(report: Report) -> dict[str, Any]:
    """The content of `report.json`; null where a number applies to no record."""
    scores = report.scores
    value = {
        "name": report.name,
        "n": scores.n,
        "n_single": scores.n_single,
        "n_negative": scores.n_negative,
        "n_point": scores.n_point,
        "metrics": scores.metrics,
        "ci95": scores.ci95,
        "by_size": scores.by_size,
        "baselines": scores.baselines,
        "flaws": scores.flaws,
        "full": scores.full,
        "pointed": report.pointed,
        "count": {"error": scores.count_error, "excess": scores.count_excess},
        "detection": None if report.detection is None else detection_to_json(report.detection),
        "protocol": _headline_to_json(report.headline),
        "contract": report.contract,
        "records_sha256": report.records_sha256,
        "versions": report.versions,
        "guard": guard_to_json(report.guard),
        "options": report.options,
        "weights": report.weights,
    }
    return without_nan(value)


def _headline_to_json(headline: Headline | None) -> dict[str, Any] | None:
    if headline is None:
        return None
    protocol = find_protocol(headline.protocol)
    return {
        "name": headline.protocol,
        "headline": headline.metric,
        "value": headline.value,
        "ci95": headline.ci95,
        "n": headline.n,
        "words": protocol.words,
        "source": protocol.source,
    }


def _prediction_to_json(prediction: Prediction, overlap: float, folder: Path) -> dict[str, Any]:
    record, answer = prediction.record, prediction.answer
    row = {
        "id": record.id,
        "image": None if record.image is None else _relative(record.image, folder),
        "width": prediction.original.width,
        "height": prediction.original.height,
        "question": record.question,
        "text": answer.text,
        "boxes": answer.boxes.xyxy.tolist(),
        "labels": answer.labels,
        "scores": None if answer.scores is None else answer.scores.tolist(),
        "none_score": answer.none_score,
        "points": answer.points.xy.tolist(),
        "flaw": answer.flaw,
        "full": answer.is_full,
        "iou": overlap,
        "hit": overlap >= 0.5 if prediction.is_single else None,
        "seen": answer.seen.size_wh,
        "truth": prediction.truth.xyxy.tolist(),
        "truth_points": [target.point for target in record.targets if target.point is not None],
        "truth_labels": [target.label for target in sorted(record.targets, key=lambda target: target.box is None)],
    }
    return without_nan(row)


def _relative(image: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(image, folder)).as_posix()
    except ValueError:  # two drives of Windows
        return image.absolute().as_posix()


# ---- reading ---------------------------------------------------------------------------------------------------


def find_report(folder: str | Path) -> Path:
    """The folder of a report: itself, or that of a run which holds its report in `report`."""
    inside = Path(folder) / "report"
    is_run = (inside / "report.json").is_file() and not (Path(folder) / "report.json").is_file()
    return inside if is_run else Path(folder)


def read_report(folder: str | Path) -> Report:
    """The report that `write_report` wrote; RecordError where the folder holds none, or a line is not one of its.

    Further keys of the records are not part of it. Metrics that came later than the report are NaN. A picture may have
    gone and is then shown grey.
    """
    folder = Path(folder)
    for name in ("report.json", "predictions.jsonl"):
        if not (folder / name).is_file():
            raise RecordError(f"no {name} in {folder}; `groundling evaluate MODEL RECORDS --to {folder}` writes one")
    lines = (folder / "predictions.jsonl").read_bytes().split(b"\n")
    predictions = [
        _read_line(raw, folder / "predictions.jsonl", line) for line, raw in enumerate(lines, start=1) if raw.strip()
    ]
    path = folder / "report.json"
    try:
        value = parse_json(path.read_bytes())
        scores = _scores_from_json(value)
        if scores.n != len(predictions):
            raise RecordError(f"it tells of {scores.n} answers, and predictions.jsonl holds {len(predictions)}")
        return Report(
            scores=scores,
            predictions=predictions,
            contract=value["contract"],
            records_sha256=value["records_sha256"],
            versions=value["versions"],
            name=value["name"],
            detection=detection_from_json(value["detection"]) if value.get("detection") else None,
            protocol=value["protocol"]["name"] if value.get("protocol") else None,
            guard=guard_from_json(value.get("guard")),
            options=value.get("options"),
            weights=value.get("weights"),
        )
    except (RecordError, KeyError, TypeError) as error:
        raise RecordError(f"{path}: not a report of groundling ({_reason(error)}); evaluate again") from None


def _scores_from_json(value: dict[str, Any]) -> Scores:
    counts = {key: int(value[key]) for key in ("n", "n_single", "n_negative", "n_point")}
    ci95 = {name: tuple(with_nan(dict(enumerate(ends))).values()) for name, ends in value["ci95"].items()}
    return Scores(
        **counts,
        metrics=dict.fromkeys(METRICS, math.nan) | with_nan(value["metrics"]),
        ci95=dict.fromkeys(METRICS, (math.nan, math.nan)) | ci95,
        by_size={name: with_nan(row) for name, row in value["by_size"].items()},
        baselines={name: with_nan(row) for name, row in value["baselines"].items()},
        flaws=value["flaws"],
        full=value.get("full", 0),
        **{f"count_{key}": number for key, number in with_nan(value.get("count", {})).items()},
    )


def _read_line(raw: bytes, file: Path, line: int) -> Prediction:
    try:
        return _prediction_from_json(parse_json(raw), file, line)
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{file}:{line}: not a prediction of groundling ({_reason(error)}); evaluate again") from None


def _reason(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)


def _prediction_from_json(value: dict[str, Any], file: Path, line: int) -> Prediction:
    original = Frame(value["width"], value["height"])
    count = len(value["truth"])
    places = count + len(value["truth_points"])
    labels = _names(value.get("truth_labels") or [None] * places, places)  # an older groundling wrote none
    boxes = [Target(tuple(box), label=label) for box, label in zip(value["truth"], labels[:count], strict=True)]
    points = [
        Target(point=tuple(point), label=label)
        for point, label in zip(value["truth_points"], labels[count:], strict=True)
    ]
    record = Record(
        question=value["question"],
        image=None if value["image"] is None else file.parent / value["image"],
        targets=(*boxes, *points),
        id=value["id"],
        file=file,
        line=line,
    )
    answer = Answer(
        boxes=Boxes(value["boxes"], original),
        points=Points(value["points"], original),
        labels=_names(value["labels"], len(value["boxes"]) + len(value["points"])),
        text=value["text"],
        flaw=value["flaw"],
        seen=Frame(*value["seen"]),
        scores=None if value["scores"] is None else _numbers(value["scores"], len(value["boxes"])),
        none_score=value.get("none_score"),  # reports of before 2026-11-28 have neither this
        is_full=value.get("full", False),  # nor that
    )
    return Prediction(record, answer, original)


def _names(value: Any, count: int) -> list[str | None]:
    """The labels of so many places; ValueError where they are none."""
    if not (isinstance(value, list) and len(value) == count and all(isinstance(each, str | None) for each in value)):
        raise ValueError(f"{json.dumps(value)} are no labels of {count} places")
    return value


def _numbers(value: Any, count: int) -> np.ndarray:
    """The scores of so many boxes, likewise."""
    scores = np.array(value, dtype=np.float64)
    if scores.shape != (count,) or not np.isfinite(scores).all():
        raise ValueError(f"{json.dumps(value)} are no scores of {count} boxes")
    return scores


# ---- the page --------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A line of the table of metrics. `baselines` are names and values of answers that saw nothing."""

    name: str
    words: str
    value: float
    low: float
    high: float
    baselines: list[tuple[str, float]]


class Card(NamedTuple):
    """One picture of the gallery with its question and answer."""

    views: list[View]
    standing: float
    verdict: str
    prediction: Prediction
    text: str


class Part(NamedTuple):
    """A part of the gallery."""

    title: str
    cards: list[Card]


def _write_html(report: Report, marks: Marks, path: Path) -> None:
    scores = report.scores
    line = None if report.is_of_points else trace(accuracy_curve(marks), "accuracy", "answer")
    write_page(
        path,
        Path(__file__).with_name("report.html.j2"),
        report=report,
        scores=scores,
        pictures=len(set(marks.pictures.tolist())),
        rows=[_row(scores, name) for name in report.shown],
        headline=report.headline,
        rules=find_protocol(report.protocol) if report.protocol else None,
        detection=report.detection if report.detects else None,
        classes=_worst_first(report.detection.classes) if report.detection else [],
        most_classes=_MOST_CLASSES,
        lines=[line] if line else [],
        axes=AXES,
        parts=_gallery(report.predictions, _to_sort_by(report, marks)),
        flaw_words=FLAWS,
        contract={key: _in_words(value) for key, value in report.contract.items()},
    )


def _in_words(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _row(scores: Scores, name: str) -> Row:
    baselines = [(baseline, values[name]) for baseline, values in scores.baselines.items() if name in values]
    return Row(name, METRICS[name], scores.metrics[name], *scores.ci95[name], baselines)


def _worst_first(classes: Sequence[ClassScores]) -> list[ClassScores]:
    """By AP, then F1; those without a target at the end."""
    return sorted(classes, key=lambda each: (math.isnan(each.ap), each.ap, each.f1, each.label))


def _to_sort_by(report: Report, marks: Marks) -> np.ndarray:
    """(N,) the standing of each prediction; the F1 of its points where they are to be found or may stand for boxes."""
    may_be = report.protocol is None or report.is_of_points
    points = np.array([one.has_points or (may_be and one.answers_points) for one in report.predictions], dtype=bool)
    return np.where(points, marks.column("point_f1"), marks.standing)


def _gallery(predictions: Sequence[Prediction], standing: np.ndarray) -> list[Part]:
    """Worst, spread evenly between, and best; all of them where they are few."""
    order = np.argsort(standing, kind="stable").tolist()
    if len(order) <= 3 * _SHOWN:
        chosen = {"All questions, worst first": order}
    else:
        middle = order[_SHOWN:-_SHOWN]
        spread = np.linspace(0, len(middle) - 1, _SHOWN).round().astype(int).tolist()
        chosen = {
            "The worst": order[:_SHOWN],
            "Evenly between": [middle[rank] for rank in spread],
            "The best": order[-_SHOWN:],
        }
    return [
        Part(title, [_card(predictions[index], float(standing[index]), index) for index in indices])
        for title, indices in chosen.items()
        if indices
    ]


def _card(prediction: Prediction, standing: float, number: int) -> Card:
    original, image = prediction.original, open_or_none(prediction.record.image)
    shown = [prediction.truth, prediction.answer.boxes]
    points = prediction.record.true_points(original)
    layers = [layer("answer", shown[1], prediction.answer.points), layer("truth", shown[0], points)]
    regions = [whole(original)]
    near = around(shown, original, least=_LEAST_CLOSE_UP, aspect=_CLOSE_UP_ASPECT)
    if near.width * near.height <= _MOST_CLOSE_UP * original.area:
        regions.append(near)
    views = [
        View(f"p{number}-{count}", region, embed(image, region, original), layers)
        for count, region in enumerate(regions)
    ]
    text = prediction.answer.text
    shortened = text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]} ... ({len(text)} characters)"
    return Card(views, standing, _verdict(prediction, standing), prediction, shortened)


def _verdict(prediction: Prediction, standing: float) -> str:
    if prediction.record.is_negative:
        return "rightly none" if standing else "none to find"
    if not len(prediction.answer.boxes) and not len(prediction.answer.points):
        return "no point" if prediction.has_points else "no box"
    is_overlap = prediction.is_single and not prediction.answers_points
    return f"IoU {standing:.2f}" if is_overlap else f"F1 {standing:.2f}"
