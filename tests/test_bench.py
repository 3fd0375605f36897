"""The benchmarks run, on a CPU; what they measure is for BENCHMARKS.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"
pytestmark = pytest.mark.skipif(not BENCH.is_dir(), reason="bench/ is not here")

TINY = ("--device", "cpu", "--geometry", "tiny", "--steps", "1")


def run(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCH / script, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_steps_of_all_arms_are_measured_and_come_to_one_loss():
    ended = run("gpu.py", *TINY, "--sizes", "112x84", "--questions", "2", "--pictures", "2")

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("samples/s") == 8
    assert "varlen kernel: none" in ended.stdout or "not usable on a CPU" in ended.stdout
    assert "token_id" not in ended.stderr, "no warning about tokens outside the vocabulary"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*TINY, "--sizes", "280"), "'280' is no width and height in pixels, as 1024x768"),
        ((*TINY, "--sizes", "0x5"), "'0x5' is no width and height in pixels, as 1024x768"),
        (("--device", "cuda"), "torch finds no GPU; `--device cpu --geometry tiny --steps 1` shows that it runs"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_line(words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    ended = run("gpu.py", *words)

    assert ended.returncode == 2
    assert said in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.slow
def test_answers_together_are_those_of_a_loop_of_generate():
    ended = run("answers.py", "--pictures", "2", "--repeats", "1")

    assert ended.returncode == 0, ended.stderr
    assert "0 answers differ" in ended.stdout
