"""A report as text for a terminal."""

from __future__ import annotations

from groundling.evaluation.detection import Detection
from groundling.evaluation.protocols import Headline, find_protocol
from groundling.evaluation.report import Report


def describe_report(report: Report) -> str:
    """Every metric that tells something, with its interval."""
    lines = [f"{'metric':15} {'value':>7}  95 % interval"]
    for name in report.shown:
        low, high = report.ci95[name]
        interval = f"{low:.3f} to {high:.3f}" if low == low else "none from one picture"
        lines.append(f"{name:15} {report.metrics[name]:7.3f}  {interval}")
    for name, scores in report.scores.baselines.items():
        if scores["acc@0.5"] == scores["acc@0.5"]:
            lines.append(f"{name + ' box':15} {scores['acc@0.5']:7.3f}  acc@0.5 of a model that sees nothing")
    if report.detection is not None and report.detects:
        lines += _describe_detection(report.detection)
    lines.append(f"{report.scores.n} questions")
    if report.scores.full:
        lines.append(describe_full(report))
    if report.only_points:
        lines.append(report.only_points)
    if report.headline is not None:
        lines.append(_describe_headline(report.headline))
    return "\n".join(lines)


def describe_full(report: Report) -> str:
    """How many answers ended for want of room."""
    limit = (report.options or {}).get("max_new_tokens")
    room = f"--max-new-tokens ({limit})" if limit else "--max-new-tokens"
    return f"{report.scores.full} of {report.scores.n} answers would have gone on, had there been room: raise {room}"


def _describe_detection(detection: Detection) -> list[str]:
    ranked = "ranked by the answers' scores" if detection.scored else "every box at 1.0"
    orders = detection.orders
    luck = f"; {orders.mean:.3f} +- {orders.sd:.3f} over {orders.n} orders" if orders else ""
    rows = (
        ("map", detection.map, f"COCO's AP, {ranked}{luck}"),
        ("map50", detection.map50, "the same at IoU 0.5"),
        ("map75", detection.map75, "the same at IoU 0.75"),
    )
    return [f"{name:15} {value:7.3f}  {words}" for name, value, words in rows]


def _describe_headline(headline: Headline) -> str:
    low, high = headline.ci95
    interval = f" [{low:.3f}, {high:.3f}]" if low == low else ""
    asked = f"{headline.n} questions ({find_protocol(headline.protocol).source})"
    return f"{headline.protocol}: {headline.metric} {headline.value:.3f}{interval} over {asked}"
