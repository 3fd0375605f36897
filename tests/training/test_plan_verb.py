"""`groundling plan`: what it prints where, and the files that it writes on request."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from published import write_published, write_sized_records

from groundling.cli import main


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["groundling", "plan", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_a_plan_for_a_person_and_its_scripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    changes = [
        f"model.name={write_published(tmp_path / '3b', '3b')}",
        f"data.train={write_sized_records(tmp_path / 'r.jsonl')}",
        "launch.processes=4",
    ]
    options = ["--gpu-memory", 24, "--samples-per-second", 2, "--slurm", "job.sh", "--sky", "task.yaml"]
    assert call(monkeypatch, "textvqa-3b", *changes, *options) == 0
    out, err = capsys.readouterr()
    assert out.startswith("textvqa-3b on 4 GPUs, ddp\nfull: trains vision 631,975,680, merger 36,708,608, language")
    assert "of 3,754,622,976 parameters" in out and "data: 30 records about 20 pictures\n" in out
    assert "does not fit in 24 GiB less 5% for gaps; what takes less, cheapest first:\n    launch.engine=fsdp2" in out
    assert out.rstrip().endswith(f"groundling train textvqa-3b {' '.join(changes)}")
    assert [line for line in err.splitlines() if not line.startswith("note: ")][-2:] == ["job.sh", "task.yaml"]
    assert "#SBATCH --signal=B:TERM@160\n" in (tmp_path / "job.sh").read_text(encoding="utf-8"), "45.1 GB to save"
    assert (tmp_path / "job.sh").read_text(encoding="utf-8").startswith("#!/bin/bash\n# Written by `groundling plan`")
    assert yaml.safe_load((tmp_path / "task.yaml").read_text(encoding="utf-8"))["name"] == "textvqa-3b"
    assert not (tmp_path / "runs").exists()


def test_one_document_for_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_published(tmp_path / "7b", "7b", with_processor=False)
    assert (
        call(monkeypatch, "textvqa-3b", f"model.name={folder}", "launch.engine=fsdp2", "launch.processes=8", "--json")
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert sum(found["parameters"].values()) == 8_292_166_656
    assert found["memory"]["most"] == max(each["total"] for each in found["memory"]["moments"])
    assert found["data"] is None and found["memory"]["fits"] is None and len(found["notes"]) == 1
    assert found["command"] == f"groundling train textvqa-3b model.name={folder} launch.engine=fsdp2 launch.processes=8"
    assert found["launch"]["devices"] == 8


def test_wrong_use_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "tiny", "launch.engine=zero9") == 2
    assert "launch.engine" in capsys.readouterr().err


def test_a_secret_is_printed_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "made-up-token-of-a-test")
    job = tmp_path / "job.sh"
    assert call(monkeypatch, "tiny", "prompt.system=made-up-token-of-a-test", "--slurm", job) == 2
    out, err = capsys.readouterr()
    assert "made-up-token-of-a-test" not in out + err and "HF_TOKEN" in err
    assert not job.exists()


def test_what_cannot_be_written_or_meant_is_refused_before_anything_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("groundling.training.plan.build_plan", lambda *_, **__: pytest.fail("it was planned"))
    (tmp_path / "r.yaml").write_text("model: {name: tiny}\ndata: {train: a.jsonl}\n", encoding="utf-8")
    for options, told in (
        (["--slurm", "r.yaml"], "r.yaml is there already"),
        (["--slurm", "x", "--sky", "x"], "x is named for two scripts"),
        (["--sky", "nodir/x.yaml"], "there is no folder nodir"),
        (["--samples-per-second", 1, "--tokens-per-second", 1], "give one"),
    ):
        assert call(monkeypatch, "r.yaml", *options) == 2
        assert told in capsys.readouterr().err
