"""One measurement, in the environment of its framework: python bench/one.py JOB.json RESULT.json"""

from __future__ import annotations

import importlib
import json
import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from frameworks import FRAMEWORKS

PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "accelerate",
    "pillow",
    "groundling",
    "trl",
    "ms-swift",
    "llamafactory",
)
OPERATORS: list[Any] = []  # declared for as long as the process lives


def main(job_file: str, result_file: str) -> None:
    stand_in_for_broken_siblings()
    from measure import Job, Measured, watch

    written = json.loads(Path(job_file).read_text(encoding="utf-8"))
    job = Job(**written | {"overrides": tuple(written["overrides"])})
    framework = FRAMEWORKS[job.framework]
    meter = watch(job)
    try:
        getattr(importlib.import_module(f"frameworks.{framework.module}"), framework.function)(job, meter)
    except Measured:
        result = {"figures": meter.figures(), "versions": find_versions()}
        Path(result_file).write_text(json.dumps(result), encoding="utf-8")
    else:
        raise RuntimeError(f"{framework.title} ended without training")


def stand_in_for_broken_siblings() -> None:
    """Let the published torchvision and torchaudio be imported beside a CPU build of torch, where they do not load.

    Without the first transformers' Trainer cannot be imported, without the second LLaMA-Factory; nothing that is
    measured calls what is missing: two operators of torchvision, and all of torchaudio.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:
        return  # groundling's own environment
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        OPERATORS.append(torch.library.Library("torchvision", "DEF"))
        for name in ("nms", "qnms"):
            OPERATORS[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    try:
        import torchaudio  # noqa: F401
    except ModuleNotFoundError:
        return
    except OSError:
        sys.modules["torchaudio"] = ModuleType("torchaudio")
        sys.modules["torchaudio"].__spec__ = ModuleSpec("torchaudio", None)


def find_versions() -> dict[str, str]:
    """Of the packages that the figures depend on, those that are there."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    sys.argv, arguments = sys.argv[:1], sys.argv[1:]  # some frameworks read the command line
    main(*arguments)
