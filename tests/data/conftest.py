"""The clean set, drawn once, and copies of it to spoil."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from clean_set import draw_set


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clean set's folder; not to be written to."""
    folder = tmp_path_factory.mktemp("drawn") / "set"
    draw_set(folder)
    return folder


@pytest.fixture
def folder(drawn: Path, tmp_path: Path) -> Path:
    """A copy of the clean set to plant a fault in."""
    return Path(shutil.copytree(drawn, tmp_path / "set"))
