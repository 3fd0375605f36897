"""What the tests of all readers share."""

from __future__ import annotations

from pathlib import Path

import pytest
from shown import save_picture


@pytest.fixture(scope="session")
def garbage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture `7.png`, for tests that overwrite the rest of it again and again."""
    return save_picture(tmp_path_factory.mktemp("garbage") / "7.png").parent
