"""Room on the disk: what a run will take, and what happens where there is none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from drawn import Recipe, at_step, changed_weights

import groundling as gl
from groundling.errors import TrainingError
from groundling.settings import Settings
from groundling.training.arguments import build_arguments
from groundling.training.checkpoint import list_checkpoints, put_back_former, sweep_partial
from groundling.training.manifest import find_damage
from groundling.training.memory import OPTIMIZERS, Numbers
from groundling.training.space import (
    Kept,
    Sizes,
    bytes_to_come,
    count_saves,
    count_sizes,
    find_kept,
    refuse_full_disk,
)

WEIGHTS = 515_520 * 4  # bytes of the tiny model in float32


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


# ---- how much --------------------------------------------------------------------------------------------------


def settings_with(**sections: dict[str, object]) -> Settings:
    values = {"model": {"name": "tiny"}, "data": {"train": "a.jsonl", "test": "b.jsonl"}, "run": {"dir": "runs/x"}}
    return Settings.model_validate(values | sections)


def test_sizes_by_hand() -> None:
    """Of 130 numbers in float32, of which 30 are trained."""
    numbers = Numbers({"language": 130}, {"language": 30}, weights=4 * 130, gradients=4 * 30, largest_unit=130)

    def counted(engine: str, *, has_gpu: bool = False, **sections: dict[str, object]) -> Sizes:
        return count_sizes(numbers, settings_with(**sections), engine=engine, has_gpu=has_gpu)

    assert counted("ddp") == (4 * 130, 4 * 130 + 8 * 30)
    assert counted("ddp", trainer={"optim": "sgd"}) == (4 * 130, 4 * 130)
    assert counted("ddp", trainer={"optim": "adamw_torch"}) == counted("ddp")
    assert counted("ddp", tune={"method": "lora"}) == (4 * 30, 4 * 30 + 8 * 30)
    assert counted("fsdp2") == counted("fsdp") == (4 * 130, 2 * 4 * 130 + 8 * 30)
    assert counted("zero2") == (4 * 130, 2 * 4 * 130 + 12 * 30)
    assert counted("zero3") == (4 * 130, 4 * 130 + 4 * 100 + 12 * 30), "masters stand for what is trained"
    assert counted("zero2", has_gpu=True) == (2 * 130, 2 * 2 * 130 + 12 * 30), "bf16, beside masters in float32"
    assert counted("zero2", has_gpu=True, train={"bf16": False}) == (4 * 130, 2 * 4 * 130 + 12 * 30), "as loaded"
    assert counted("zero2", train={"bf16": True}) == counted("zero2", has_gpu=True), "the recipe decides"
    lora: dict[str, object] = {"method": "lora"}
    assert counted("zero2", tune=lora) == (4 * 30, 2 * 4 * 30 + 12 * 30)
    assert counted("zero2", has_gpu=True, tune=lora) == (2 * 30, 2 * 2 * 30 + 12 * 30)
    assert counted("zero3", has_gpu=True, tune=lora) == (4 * 30, 4 * 30 + 12 * 30), "adapters stay in float32"


@pytest.mark.parametrize(
    ("optimizer", "alone", "beside_masters"),
    [
        ("adamw_torch", 8, 8),
        ("adamw_torch_8bit", 2, 2),
        ("adamw_torch_4bit", 1, 1),
        ("adamw_bnb_8bit", 2, 2),
        ("lion_32bit", 4, 4),
        ("rmsprop", 4, 4),
        ("sgd", 0, 0),
        ("adafactor", 0, 4),  # of flat pieces it has no rows and columns
        ("lomo", 0, 0),  # what is not known counts nothing
    ],
)
def test_an_optimizer_counts_what_it_keeps(optimizer: str, alone: int, beside_masters: int) -> None:
    numbers = Numbers({"language": 130}, {"language": 30}, weights=4 * 130, gradients=4 * 30, largest_unit=130)
    settings = settings_with(trainer={"optim": optimizer})
    for engine, beside in {
        "ddp": 4 * 130 + alone * 30,
        "fsdp2": 2 * 4 * 130 + alone * 30,
        "zero2": 2 * 4 * 130 + (4 + beside_masters) * 30,
        "zero3": 4 * (130 + 100) + (4 + beside_masters) * 30,
    }.items():
        assert count_sizes(numbers, settings, engine=engine, has_gpu=False).checkpoint == beside, engine


@pytest.mark.parametrize("optimizer", ["adamw_torch_fused", "adagrad", "rmsprop", "sgd", "adafactor"])
def test_an_optimizer_writes_what_is_counted(recipe: Recipe, optimizer: str) -> None:
    """And at most a third of a byte a number beside it: names, small weights that are not rounded, rows and columns."""
    run = gl.train(recipe(train={"max_steps": 1}, run={"save_every": 1}, trainer={"optim": optimizer}))
    counted = OPTIMIZERS[optimizer].take(515_520, WEIGHTS)
    written = (run / "checkpoints" / "1" / "optimizer.pt").stat().st_size
    assert counted <= written <= counted + 515_520 / 3


@pytest.mark.parametrize(
    ("saves", "keep", "has_best", "total"),
    [
        (1, 2, False, 100 + 30),  # the one checkpoint, then the final weights
        (9, 2, False, 300),  # two that are kept, and the next while it is written
        (9, 2, True, 300 + 30),
        (2, 2, True, 200 + 30 + 30),
    ],
)
def test_what_a_run_takes_at_most(saves: int, keep: int, has_best: bool, total: int) -> None:
    assert bytes_to_come(Sizes(weights=30, checkpoint=100), saves=saves, keep=keep, has_best=has_best) == total


@pytest.mark.parametrize(
    ("kept", "saves", "keep", "more"),
    [
        (Kept(2, has_best=True), 5, 2, 100),  # the next one, and then the oldest goes
        (Kept(1, has_best=True), 5, 2, 200),
        (Kept(1, has_best=False), 5, 2, 200 + 30),
        (Kept(1, has_best=True), 1, 2, 100 + 30),  # then the final weights
        (Kept(3, has_best=True), 5, 1, 100),  # three are there until the next one is whole
        (Kept(2, has_best=True), 0, 2, 30),  # nothing is left but the final weights
        (Kept(2, has_best=True, unfinished=90), 5, 2, 10),
    ],
)
def test_what_a_run_that_goes_on_takes_beyond_what_is_kept(kept: Kept, saves: int, keep: int, more: int) -> None:
    assert bytes_to_come(Sizes(weights=30, checkpoint=100), kept, saves=saves, keep=keep, has_best=True) == more


def test_how_often_a_run_saves() -> None:
    def saves(*, done: int = 0, **sections: dict[str, object]) -> int:
        settings = settings_with(**sections)
        return count_saves(settings, build_arguments(settings), steps_an_epoch=10, done=done)

    assert saves(train={"epochs": 2.5}) == 3, "at the end of each epoch"
    assert saves(train={"epochs": 2.5}, run={"dir": "runs/x", "save_every": 4}) == 7, "every fourth of 25, and the last"
    assert saves(train={"max_steps": 8}, evaluate={"every": 4}) == 2
    ten: dict[str, Any] = {"train": {"max_steps": 10}, "evaluate": {"every": 4}}
    assert [saves(done=done, **ten) for done in (0, 3, 4, 8, 9, 10)] == [3, 3, 2, 1, 1, 0]


@pytest.mark.parametrize("tune", [{}, {"freeze": ["vision"]}, {"method": "lora"}], ids=["full", "frozen", "lora"])
def test_sizes_are_those_of_what_is_written(recipe: Recipe, tune: dict[str, object]) -> None:
    run = gl.train(recipe(tune=tune, train={"max_steps": 2}, run={"save_every": 2}))
    words = sum((run / "final" / name).stat().st_size for name in ("tokenizer.json", "chat_template.jinja"))
    trained = {"full": 515_520, "frozen": 515_520 - 237_504}
    kept, checkpoint = size_of(run / "final") - words, size_of(run / "checkpoints" / "2") - words
    if tune.get("method") == "lora":
        assert checkpoint - kept == pytest.approx(2 * size_of_adapter(run), rel=0.1, abs=60_000)
        return
    numbers = trained["frozen" if tune else "full"]
    assert kept == pytest.approx(WEIGHTS, rel=0.02)
    assert checkpoint == pytest.approx(WEIGHTS + 8 * numbers, rel=0.02)


def size_of_adapter(run: Path) -> int:
    return (run / "final" / "adapter_model.safetensors").stat().st_size


# ---- none left -------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a disk of so many bytes; the test is skipped where this user may mount none."""
    place = tmp_path / "disk"

    def mount(size: int) -> Path:
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("needs to mount a tmpfs (root on Linux)")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", "--lazy", str(place)], check=True)


SAVED = {"train": {"max_steps": 6}, "run": {"save_every": 2, "log_every": 1}}  # three times 6.2 MB, two of them kept


def test_what_is_kept_and_what_will_be_swept_away(tmp_path: Path) -> None:
    for name in ("4", "8", "8.damaged", "checkpoint-12", "4-former.partial", "16-former.partial", "20.partial"):
        folder = tmp_path / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(bytes(1000))
        if name in ("4", "8"):
            (folder / "trainer_state.json").write_text(json.dumps({"global_step": int(name)}), encoding="utf-8")
    (tmp_path / "final.partial").mkdir()
    assert find_kept(tmp_path) == Kept(3, has_best=False, unfinished=3000), "16 gets its name back"
    (tmp_path / "best-former.partial").mkdir()
    passed_over = find_kept(tmp_path, tmp_path / "checkpoints" / "4")
    assert passed_over == Kept(2, has_best=True, unfinished=3000), "8 is damaged, and stays"
    put_back_former(tmp_path)
    sweep_partial(tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["16", "4", "8", "8.damaged"]
    assert find_kept(tmp_path).unfinished == 0 and find_kept(tmp_path / "none") == Kept()
    (tmp_path / "checkpoints" / "8").rename(tmp_path / "elsewhere")
    (tmp_path / "checkpoints" / "8").symlink_to(tmp_path / "elsewhere")
    assert find_kept(tmp_path).checkpoints == 1, "a link gives no room back; 16 has no state"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_what_another_run_sweeps_meanwhile_is_left_to_the_lock(tmp_path: Path) -> None:
    """In a process of its own, which removes a folder just before it is listed; an audit hook stays for good."""
    unfinished = tmp_path / "checkpoints" / "20.partial"
    unfinished.mkdir(parents=True)
    process = os.fork()
    if not process:

        def sweep(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "os.scandir" and Path(arguments[0]) == unfinished and unfinished.exists():
                unfinished.rmdir()

        sys.addaudithook(sweep)
        try:
            refuse_full_disk(settings_with(run={"dir": tmp_path}), Sizes(weights=1, checkpoint=1))
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    assert not unfinished.exists()


def test_too_small_a_disk_is_told_before_the_start(
    recipe: Recipe, scenes: Path, small_disk: Callable[[int], Path]
) -> None:
    """Before the untrained model is asked anything, too."""
    data = {"train": str(scenes / "train.jsonl"), "test": str(scenes / "test.jsonl")}
    disk = small_disk(18_000_000)
    with pytest.raises(
        gl.SettingsError, match=r"disk/run: 18\.6 MB are needed, and 1[78]\.\d MB are free .* checkpoint has 6\.2 MB"
    ):
        gl.train(recipe(**SAVED, data=data, evaluate={"before": True}), f"run.dir={disk / 'run'}")
    assert not list(disk.iterdir())


def test_a_disk_without_any_room_is_told_with_its_path_and_nothing_is_left(
    recipe: Recipe, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(1_000_000)
    with pytest.raises(OSError), (disk / "others").open("wb") as filler:
        filler.write(bytes(2_000_000))
    told = r"disk/run: at least 8\.2 MB are needed, and 0\.0 kB are free on its disk \(a checkpoint has 6\.2 MB"
    with pytest.raises(gl.SettingsError, match=told):
        gl.train(recipe(), f"run.dir={disk / 'run'}")
    assert [path.name for path in disk.rglob("*")] == ["others"]


def test_a_finished_run_on_a_full_disk_is_told_as_that(recipe: Recipe, small_disk: Callable[[int], Path]) -> None:
    disk, file = small_disk(24_000_000), recipe(train={"max_steps": 1})
    run = gl.train(file, f"run.dir={disk / 'run'}")
    with pytest.raises(OSError), (disk / "others").open("wb") as filler:
        filler.write(bytes(24_000_000))
    with pytest.raises(gl.SettingsError, match=r"run is finished: its weights are in .*final; choose another run\.dir"):
        gl.train(file, f"run.dir={run}")
    with pytest.raises(gl.SettingsError, match=r"run holds a run of another recipe"):
        gl.train(file, f"run.dir={run}", "train.max_steps=2")


@pytest.mark.parametrize("left", [500_000, 3_000_000], ids=["in the weights", "in the optimizer's state"])
def test_a_disk_that_fills_while_saving(
    recipe: Recipe, tmp_path: Path, small_disk: Callable[[int], Path], left: int
) -> None:
    disk, filler = small_disk(24_000_000), tmp_path / "disk" / "others"
    file, run = recipe(**SAVED), disk / "run"

    def fill() -> None:
        filler.write_bytes(bytes(shutil.disk_usage(disk).free - left))

    told = (
        r"checkpoint-4 could not be written: the disk is full; it needs 6\.2 MB, and .* are free\. Make room; the last "
    )
    with at_step(3, fill), pytest.raises(TrainingError, match=f"{told}checkpoint is .*checkpoints/2, and"):
        gl.train(file, f"run.dir={run}")
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["2"]
    assert list_checkpoints(run) and find_damage(run / "checkpoints" / "2") is None
    assert not (run / "final").exists()
    filler.unlink()
    gl.train(file, f"run.dir={run}")
    assert not changed_weights(gl.train(recipe("whole", **SAVED)) / "final", run / "final")


def test_a_disk_that_fills_beside_a_checkpoint(
    recipe: Recipe, tmp_path: Path, small_disk: Callable[[int], Path]
) -> None:
    """A line of metrics.jsonl has no room either."""
    disk, filler = small_disk(24_000_000), tmp_path / "disk" / "others"
    run = disk / "run"

    def fill() -> None:
        with filler.open("wb") as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write("\n" * (-file.tell() % 4096))

    with at_step(3, fill), pytest.raises(TrainingError, match=r"No space left on device; .*, and 0\.0 kB are free"):
        gl.train(recipe(**SAVED), f"run.dir={run}")
    assert find_damage(run / "checkpoints" / "2") is None
