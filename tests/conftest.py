"""What all tests share: where optional real data lies, and quiet libraries."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data that is not part of the project; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("GROUNDLING_SHARED", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"needs real data in {folder.parent.name}/data beside the repository (or GROUNDLING_SHARED)")
    return folder
