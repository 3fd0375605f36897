"""What is installed and what the machine has, for `groundling info` and for bug reports."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets", "pillow", "numpy", "pydantic")
EXTRAS = {  # package -> extra
    "torchvision": "never needed",
    "deepspeed": "deepspeed",
    "bitsandbytes": "qlora",
    "swanlab": "swanlab",
    "wandb": "wandb",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "pillow_heif": "heif",
    "liger_kernel": "gpu",
}


def describe_machine() -> dict[str, Any]:
    """Versions of the packages, the extras that are there, and the GPUs as the driver tells, without loading torch."""
    from groundling import __version__

    return {
        "groundling": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "gpus": _find_gpus(),
        "packages": {name: _version_of(name) or "missing" for name in PACKAGES},
        "extras": {name: _version_of(name) or f"not installed ({extra})" for name, extra in EXTRAS.items()},
    }


def as_lines(value: Mapping[str, Any], indent: str = "") -> str:
    """A nested value for reading: one `key: value` a line."""
    lines: list[str] = []
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            lines += [f"{indent}{key}:", as_lines(inner, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {inner}")
    return "\n".join(lines)


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _find_gpus() -> list[str]:
    """Names of the NVIDIA cards that the kernel driver lists; none where there is no driver."""
    folder = "/proc/driver/nvidia/gpus"
    if not os.path.isdir(folder):
        return []
    found: list[str] = []
    for card in sorted(os.listdir(folder)):
        with open(f"{folder}/{card}/information", encoding="utf-8") as lines:
            found += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return found
