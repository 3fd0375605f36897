"""One measurement, in the environment of its framework: python bench/one.py JOB.json RESULT.json"""

from __future__ import annotations

import importlib
import json
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from frameworks import FRAMEWORKS
from measure import Job, Measured, watch

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


def main(job_file: str, result_file: str) -> None:
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
