"""Teach vision-language models to point at things: fine-tune, measure, and get boxes in the pixels of your own picture.

    import groundling as gl
    grounder = gl.load("runs/first")
    answer = grounder.predict("photo.jpg", "the red mug")     # answer.boxes is in the photo's own upright pixels

Importing loads neither torch nor transformers nor numpy; what needs them brings them when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from groundling.errors import (
    ContractError,
    FrameError,
    GroundlingError,
    ImageError,
    PreemptedError,
    RecordError,
    ServerError,
    SettingsError,
    TrainingError,
)
from groundling.geometry.frame import Frame

if TYPE_CHECKING:
    from groundling.checking import check
    from groundling.data.convert import Conversion, convert
    from groundling.data.export import export
    from groundling.data.record import Record, Target, read_records, write_records
    from groundling.dialect.answer import Answer, read_answer
    from groundling.evaluation.compare import compare
    from groundling.evaluation.diagnose import diagnose
    from groundling.evaluation.evaluate import evaluate
    from groundling.evaluation.report import Report, read_report
    from groundling.geometry.boxes import Boxes, Points, iou
    from groundling.inference.merge import merge
    from groundling.inference.predict import Grounder, load
    from groundling.training.train import train

__version__ = "0.1.0"

_HOMES: dict[str, str] = {
    "Answer": "groundling.dialect.answer",
    "Boxes": "groundling.geometry.boxes",
    "Conversion": "groundling.data.convert",
    "Grounder": "groundling.inference.predict",
    "Record": "groundling.data.record",
    "Report": "groundling.evaluation.report",
    "Target": "groundling.data.record",
    "check": "groundling.checking",
    "compare": "groundling.evaluation.compare",
    "convert": "groundling.data.convert",
    "diagnose": "groundling.evaluation.diagnose",
    "evaluate": "groundling.evaluation.evaluate",
    "export": "groundling.data.export",
    "iou": "groundling.geometry.boxes",
    "load": "groundling.inference.predict",
    "merge": "groundling.inference.merge",
    "Points": "groundling.geometry.boxes",
    "read_answer": "groundling.dialect.answer",
    "read_records": "groundling.data.record",
    "read_report": "groundling.evaluation.report",
    "train": "groundling.training.train",
    "write_records": "groundling.data.record",
}

__all__ = [
    "Answer",
    "Boxes",
    "ContractError",
    "Conversion",
    "Frame",
    "FrameError",
    "Grounder",
    "GroundlingError",
    "ImageError",
    "Points",
    "PreemptedError",
    "Record",
    "RecordError",
    "Report",
    "ServerError",
    "SettingsError",
    "Target",
    "TrainingError",
    "check",
    "compare",
    "convert",
    "diagnose",
    "evaluate",
    "export",
    "iou",
    "load",
    "merge",
    "read_answer",
    "read_records",
    "read_report",
    "train",
    "write_records",
]


def __getattr__(name: str) -> Any:
    """The public names that live in heavier modules, imported when they are first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'groundling' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
