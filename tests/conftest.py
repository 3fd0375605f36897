"""What all tests share: where optional real data lies, and quiet libraries."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from called import Call, Ended

if TYPE_CHECKING:
    from groundling.model.processor import Processor

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # models this small gain nothing from a second
os.environ["GROUNDLING_CACHE"] = "off"  # nothing is written to anybody's home


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data that is not part of the project; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("GROUNDLING_SHARED", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"needs real data in {folder.parent.name}/data beside the repository (or GROUNDLING_SHARED)")
    return folder


@pytest.fixture(scope="session")
def tiny_processor() -> Processor:
    """The bundled model's processor under its contract, built anew."""
    from groundling.tiny.build import build_processor

    return build_processor()


@pytest.fixture(scope="session")
def tiny_model_folder(tiny_processor: Processor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the bundled model's architecture with random weights; not to be written to."""
    from groundling.tiny.build import build_model

    folder = tmp_path_factory.mktemp("tiny")
    build_model(tiny_processor).save_pretrained(folder)
    tiny_processor.save(folder)
    return folder


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command line in this process."""
    from groundling.cli import main

    def run(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["groundling", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Ended(int(ended.value.code or 0), out, err)

    return run
