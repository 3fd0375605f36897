"""Protocols: which records a published benchmark asks, which number it reports, and where that is written.

A protocol changes no answer and no metric. It says which one of them is the headline, over which records, and whether
labels and scores count; so that a number stands beside those of others only where it was made as theirs were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from groundling.data.record import Record
from groundling.errors import RecordError, SettingsError
from groundling.evaluation.detection import Detection
from groundling.evaluation.metrics import Scores


class Protocol(NamedTuple):
    """How one kind of benchmark is scored."""

    headline: str  # a key of METRICS, or "map" of the detection
    words: str
    source: str
    wants: str  # what a record of it has
    fits: Callable[[Record], bool]
    use_scores: bool = True  # rank boxes by the answers' own scores where there are any
    as_said: bool = False  # take every answered label at its word


def _has_one_box(record: Record) -> bool:
    return len(record.targets) == 1 and record.targets[0].box is not None


def _has_one_target(record: Record) -> bool:
    return len(record.targets) == 1


def _has_boxes_only(record: Record) -> bool:
    return all(target.box is not None for target in record.targets)


def _has_any_targets(record: Record) -> bool:
    return True


PROTOCOLS: dict[str, Protocol] = {
    "refcoco": Protocol(
        headline="acc@0.5",
        words="the first box of each answer, IoU 0.5 or more; an answer without one is a miss",
        source="RefCOCO, RefCOCO+ and RefCOCOg as in Qwen2.5-VL, arXiv 2502.13923, table 6",
        wants="exactly one target, a box",
        fits=_has_one_box,
    ),
    "odinw": Protocol(
        headline="map",
        words="COCO's AP of all classes at once, every box with the score 1.0, labels compared in lower case",
        source="ODinW-13 as in Qwen3-VL, arXiv 2511.21631, section 5.5",
        wants="boxes for targets, or none",
        fits=_has_boxes_only,
        use_scores=False,
        as_said=True,
    ),
    "screenspot": Protocol(
        headline="point_hit",
        words="the first point of each answer, or the middle of its first box, lies in the target",
        source="ScreenSpot, arXiv 2401.10935; ScreenSpot-Pro, arXiv 2504.07981",
        wants="exactly one target",
        fits=_has_one_target,
    ),
    "pointing": Protocol(
        headline="point_f1",
        words="mean F1 of the points that lie in a target of their own; no point where there is no target earns all",
        source="pointing as in Molmo, arXiv 2409.17146, and the evaluators of its successor molmo2",
        wants="any targets, or none",
        fits=_has_any_targets,
    ),
}
"""By the names that `--protocol` takes."""


def find_protocol(name: str) -> Protocol:
    """The protocol of that name, or SettingsError."""
    if name not in PROTOCOLS:
        raise SettingsError(f"no protocol {name!r}; expected {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def refuse_protocol(name: str, records: Sequence[Record]) -> None:
    """SettingsError for a name that no protocol has, RecordError where it fits no record that has a target."""
    protocol = find_protocol(name)
    if not any(record.targets and protocol.fits(record) for record in records):
        raise RecordError(f"the protocol {name} wants records with {protocol.wants}; none of the {len(records)} has")


class Headline(NamedTuple):
    """The number that a protocol reports, over the `n` records that it fits; no interval for AP."""

    protocol: str
    metric: str
    value: float
    ci95: tuple[float, float]
    n: int


def find_headline(name: str, scores: Scores, detection: Detection | None, records: Sequence[Record]) -> Headline:
    """What a protocol reports of an evaluation; NaN where it fits no record."""
    protocol = find_protocol(name)
    n = sum(protocol.fits(record) for record in records)
    if protocol.headline == "map":
        return Headline(name, "map", detection.map if detection else math.nan, (math.nan, math.nan), n)
    return Headline(name, protocol.headline, scores.metrics[protocol.headline], scores.ci95[protocol.headline], n)
