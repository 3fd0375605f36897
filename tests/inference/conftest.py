"""The taught model, made once."""

from __future__ import annotations

import pytest
from taught import Taught, teach

from groundling.inference.predict import Grounder, load
from groundling.model.processor import Processor


@pytest.fixture(scope="session")
def taught(tiny_processor: Processor, tmp_path_factory: pytest.TempPathFactory) -> Taught:
    return teach(tiny_processor, tmp_path_factory.mktemp("taught"))


@pytest.fixture
def grounder(taught: Taught) -> Grounder:
    return load(str(taught.folder), device="cpu")
