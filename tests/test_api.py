"""The names that groundling promises, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import groundling as gl

PICTURES = Path(__file__).parent / "pictures"


@pytest.mark.parametrize("name", gl.__all__)
def test_every_promised_name_is_there_and_documented(name: str) -> None:
    assert getattr(gl, name).__doc__


def test_names_that_are_not_promised_are_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'chekc'"):
        gl.chekc  # type: ignore[attr-defined]  # noqa: B018


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, groundling; print(sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not [name for name in ("torch", "transformers", "numpy", "PIL", "pydantic") if f"'{name}'" in loaded]


@pytest.mark.parametrize("name", ["RecordError", "ImageError", "FrameError", "SettingsError", "ContractError"])
def test_errors_about_input_are_value_errors(name: str) -> None:
    assert issubclass(getattr(gl, name), gl.GroundlingError)
    assert issubclass(getattr(gl, name), ValueError)


def test_check_takes_a_model_by_name_or_loaded() -> None:
    records = gl.read_records(PICTURES / "records.jsonl")
    assert gl.check(records) == []
    assert gl.check(records, "tiny") == gl.check(records, gl.load("tiny"))
