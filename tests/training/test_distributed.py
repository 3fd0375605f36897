"""Several processes: the losses, the weights and the answers of one, whatever spreads the model over them.

Two processes on the CPU, each with half of every batch; among the records are some of words alone, so that a process
gets a row without a picture now and then. DeepSpeed builds a part of itself at the first run (a minute).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate.utils import DistributedType
from drawn import draw_records, read_metrics, read_weights
from packaging.version import Version
from safetensors.torch import save_file

import groundling as gl
from groundling.errors import SettingsError
from groundling.evaluation.processes import choose_share
from groundling.evaluation.report import read_report
from groundling.model.load import find_checkpoint, load_processor
from groundling.recipe import load_settings
from groundling.recipe_file import SHIPPED, write_yaml
from groundling.training.checkpoint import list_checkpoints
from groundling.training.manifest import find_damage
from groundling.training.processes import refuse_lone_fsdp, refuse_other_engine
from groundling.training.space import find_sizes
from groundling.training.train import train_by

SOURCE = Path(gl.__file__).parents[1]
COMMAND = ["-m", "groundling", "train"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs the extra `deepspeed`")

# accelerate 1.15 has no FSDP on a CPU: it would run plain data parallelism. This makes it believe in two GPUs.
FSDP_PROGRAM = """
import sys, torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
PartialState._prepare_backend = lambda self, *_, **__: ("gloo", DistributedType.MULTI_GPU)
PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
torch.distributed.init_process_group("gloo")
from groundling.cli import main
sys.argv[1:1] = ["train"]
main()
"""

TRAIN_PROGRAM = """
import sys
from groundling.cli import main
sys.argv[1:1] = ["train"]
main()
"""

# Stands before either program: the second process is asked to stop while it answers its second batch of questions
STOPPED_PROGRAM = """
import os, signal
from groundling.inference import generate
answer = generate._generate_batch
def count(*batch):
    answer(*batch)
    count.batches += 1
    print(f"batch {count.batches}.", flush=True)
    if count.batches == 2 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
count.batches = 0
generate._generate_batch = count
"""

# Stands before either program: the threads of gloo run when nothing else wants to, so that they end late
IDLE_PROGRAM = """
import os
from groundling.evaluation.processes import this_process
this_process()
for thread in map(int, os.listdir("/proc/self/task")):
    if thread != os.getpid():
        os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
"""

# The command line, telling how many questions each process asks
COUNTING_PROGRAM = """
from groundling.inference.predict import Grounder
answer_each = Grounder.answer_each
def count(self, questions, **options):
    print(f"asked {len(questions)},", flush=True)
    return answer_each(self, questions, **options)
Grounder.answer_each = count
from groundling.cli import main
main()
"""


# ---- without processes -----------------------------------------------------------------------------------------


def test_shares_are_of_one_size_and_leave_nothing_out() -> None:
    a, b, c = (Path(name) for name in "abc")
    assert choose_share([a, b, a, c, b], processes=2, process=0) == [0, 2, 1], "pictures together"
    assert choose_share([a, b, a, c, b], processes=2, process=1) == [4, 3, 0], "and the first once more"
    assert choose_share([], processes=2, process=1) == []
    for count in range(1, 12):
        images = [Path(f"{number % 5}") for number in range(count)]
        shares = [choose_share(images, processes=4, process=process) for process in range(4)]
        assert len({len(share) for share in shares}) == 1
        assert {index for share in shares for index in share} == set(range(count))


@pytest.mark.parametrize(
    ("variable", "engine"),
    [("ACCELERATE_USE_FSDP", DistributedType.FSDP), ("ACCELERATE_USE_DEEPSPEED", DistributedType.DEEPSPEED)],
)
def test_another_engine_than_asked_for_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, engine: DistributedType
) -> None:
    for other in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(other, raising=False)
    refuse_other_engine(DistributedType.NO)
    monkeypatch.setenv(variable, "true")
    refuse_other_engine(engine)
    with pytest.raises(SettingsError, match=f"asked for {engine.value}, but MULTI_CPU runs"):
        refuse_other_engine(DistributedType.MULTI_CPU)


def test_fsdp_for_one_process_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_lone_fsdp()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    settings = load_settings("tiny", ["data.train=no-such-records.jsonl"])
    told = "asked for FSDP, but one process runs; .* or ACCELERATE_USE_FSDP is set by mistake"
    with pytest.raises(SettingsError, match=told):
        train_by(settings)


# ---- with two --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shapes, each asked about twice, and words, a recipe, and its run in one process (`one`).

    Steps of 8, 8 and 1 record: of the last, one of two processes has none.
    """
    folder = tmp_path_factory.mktemp("distributed")
    once = draw_records(folder / "images", "train", count=10, seed=1)
    again = [replace(record, question=f"find {record.question}", id=f"{record.id}-again") for record in once]
    shapes = [*once, *again]  # two questions a picture, which a row lets share it
    words = [gl.Record(question="count", image=None, answer=" ".join(map(str, range(end)))) for end in (2, 4, 8, 16)]
    mixed = [record for number in range(4) for record in (*shapes[5 * number : 5 * number + 5], words[number])]
    gl.write_records(mixed[:17], folder / "train.jsonl")
    gl.write_records(draw_records(folder / "images", "test", count=5, seed=2), folder / "test.jsonl")
    recipe = {
        "model": {"name": "tiny"},
        "data": {"train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl")},
        "train": {"batch_size": 8, "max_steps": 12, "learning_rate": 1e-4, "bf16": False},
        "evaluate": {"every": 4, "max_new_tokens": 40, "metric": "miou"},
        "run": {"dir": str(folder / "one"), "log_every": 2},
    }
    (folder / "recipe.yaml").write_text(write_yaml(recipe), encoding="utf-8")
    gl.train(folder / "recipe.yaml")
    return folder


@pytest.fixture(scope="module")
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """DeepSpeed's part is built once, in pytest's cache. A lock that a killed build left there would be waited for."""
    built = request.config.cache.mkdir("torch_extensions")  # type: ignore[union-attr]
    for lock in built.rglob("lock"):
        lock.unlink()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "FSDP_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # ninja is there
    own = {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "TORCH_EXTENSIONS_DIR": str(built), "PATH": path}
    return kept | own


def run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The command by this Python, its output kept for the message of a failure."""
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=280)
    print(done.stdout[-4000:], done.stderr[-8000:])
    return done


def by_torchrun(recipe: Path, run_dir: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return run([*TORCHRUN, *COMMAND, *halved(recipe, run_dir)], environment)


def by_recipe(
    engine: str, recipe: Path, run_dir: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """As `groundling train` starts processes itself."""
    return run([*COMMAND, *halved(recipe, run_dir), "launch.processes=2", f"launch.engine={engine}"], environment)


def by_accelerate(
    options: list[str],
    program: list[str],
    recipe: Path,
    run_dir: Path,
    environment: dict[str, str],
    settings: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "accelerate.commands.launch", "--num_processes", "2", "--mixed_precision", "no", *options]
    return run([*launcher, *program, *halved(recipe, run_dir), *settings], environment)


def config_file(engine: str) -> list[str]:
    """The shipped configuration of an engine, as written for eight GPUs."""
    return ["--config_file", str(SHIPPED / "accelerate" / f"{engine}.yaml")]


def halved(recipe: Path, run_dir: Path) -> list[str]:
    return [str(recipe), "train.batch_size=4", f"run.dir={run_dir}"]


def check_like_one(folder: Path, run_dir: Path) -> None:
    """The losses to 1e-3, the evaluations and every answer of the report as in one process; weights that load."""
    one, two = read_metrics(folder / "one"), read_metrics(run_dir)
    assert [line["step"] for line in two] == [line["step"] for line in one]
    for expected, found in zip(one, two, strict=True):
        for name in expected.keys() - {"tokens", "seconds", "grad_norm"}:
            assert found[name] == pytest.approx(expected[name], abs=1e-3), (name, expected, found)
    answers = [
        [prediction.answer.text for prediction in read_report(at / "report").predictions]
        for at in (folder / "one", run_dir)
    ]
    assert answers[0] == answers[1] and any("bbox_2d" in text for text in answers[0])
    for weights in ("best", "final"):
        gl.load(str(run_dir / weights))
        kept = read_weights(run_dir / weights)
        assert kept.keys() == read_weights(folder / "one" / weights).keys(), "one that is shared is kept once"
    assert (run_dir / "samples" / "first-batch.jpg").exists()


@pytest.mark.slow
@pytest.mark.parametrize("changes", ["{}", "{flip: 0.5, rotate: 0.5, crop: 0.5, colour: 0.5}"])
def test_packed_rows_are_dealt_to_two_processes(folder: Path, environment: dict[str, str], changes: str) -> None:
    packed = [str(folder / "recipe.yaml"), "train.batch_size=1", "train.pack_tokens=240", f"augment={changes}"]
    one = gl.train(*packed, "train.accumulate=2", f"run.dir={folder / f'packed-one-{len(changes)}'}")
    two = folder / f"packed-two-{len(changes)}"
    assert run([*TORCHRUN, *COMMAND, *packed, f"run.dir={two}"], environment).returncode == 0
    expected, found = read_metrics(one), read_metrics(two)
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for before, after in zip(expected, found, strict=True):
        for name in before.keys() & {"loss", "miou", "tokens"}:
            assert after[name] == pytest.approx(before[name], abs=1e-3), (name, before, after)


@pytest.mark.slow
def test_a_step_of_two_processes_is_the_step_of_one(folder: Path, environment: dict[str, str]) -> None:
    """Plain gradient descent, so that weights tell how large gradients were: AdamW's steps do not."""
    step = ["train.max_steps=1", "train.learning_rate=0.1", "train.warmup=0", "train.max_grad_norm=1e9"]
    once = [str(folder / "recipe.yaml"), *step, "trainer.optim=sgd", "evaluate.every=0", "data.test=[]"]
    one = gl.train(*once, f"run.dir={folder / 'step-one'}")
    two = folder / "step-two"
    assert run([*TORCHRUN, *COMMAND, *once, "train.batch_size=4", f"run.dir={two}"], environment).returncode == 0
    before = read_weights(find_checkpoint("tiny").folder)
    expected, found = read_weights(one / "final"), read_weights(two / "final")
    whole = torch.stack([weight.norm() for weight in expected.values()]).norm()
    moved = torch.stack([(expected[name] - before[name]).norm() for name in expected]).norm()
    apart = torch.stack([(found[name] - expected[name]).norm() for name in expected]).norm()
    assert moved > 1e-4 * whole, "a step that could be seen"
    assert apart <= 1e-6 * whole and apart <= 1e-3 * moved


def read_answers(run_dir: Path) -> list[str]:
    return [prediction.answer.text for prediction in read_report(run_dir / "report").predictions]


def break_off(run_dir: Path) -> None:
    """Leave of a run what it had at its eighth step, two into its third epoch."""
    for name in ("final", "report", "checkpoints/12"):
        shutil.rmtree(run_dir / name)
    assert [path.name for path in list_checkpoints(run_dir)] == ["8"]


@pytest.mark.slow
def test_two_processes_learn_what_one_does_and_go_on_after_a_break(folder: Path, environment: dict[str, str]) -> None:
    done = by_torchrun(folder / "recipe.yaml", folder / "two", environment)
    assert done.returncode == 0
    assert done.stderr.count("17 to train on") == 1, "one process speaks for both"
    check_like_one(folder, folder / "two")
    if Version(transformers.__version__) < Version("5.23"):
        return  # 5.17 cannot read an optimizer back on several CPUs ("don't know how to restore cpu:0")
    break_off(folder / "two")
    assert by_torchrun(folder / "recipe.yaml", folder / "two", environment).returncode == 0
    check_like_one(folder, folder / "two")

    again = by_torchrun(folder / "recipe.yaml", folder / "two", environment)
    assert again.returncode != 0
    assert again.stderr.count("error: ") == 1 and "is finished" in again.stderr, "one process speaks for both"
    assert "groundling.errors" not in again.stderr, "and none ends in a traceback"


def read_predictions(run_dir: Path) -> tuple[list[dict[str, Any]], list[float]]:
    """The lines without their scores, and those."""
    lines = [json.loads(line) for line in (run_dir / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    return lines, [score for line in lines for score in line.pop("scores")]


@pytest.mark.slow
def test_two_processes_evaluate_as_one_does_and_go_on_from_its_answers(
    folder: Path, environment: dict[str, str]
) -> None:
    records = folder / "evaluated.jsonl"
    once = draw_records(folder / "images", "evaluated", count=9, seed=3)
    gl.write_records([*once, *(replace(record, id=f"{record.id}-again") for record in once[:4])], records)
    program = folder / "counting.py"
    program.write_text(COUNTING_PROGRAM, encoding="utf-8")
    command = [str(program), "evaluate", "tiny", str(records), "--max-new-tokens", "40", "--batch-size", "2"]
    one, two, broken = folder / "evaluated-one", folder / "evaluated-two", folder / "evaluated-broken"

    assert run([*command, "--to", str(one)], environment).returncode == 0
    done = run([*TORCHRUN, *command, "--to", str(two)], environment)
    assert done.returncode == 0
    assert done.stdout.count("asked 7,") == 2, "each asks its half"
    assert done.stdout.count("13 questions") == 1, "one process speaks for both"

    def stop(answered: int, _: int) -> None:
        if answered == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        options = {"max_new_tokens": 40, "batch_size": 2}
        gl.evaluate(gl.load("tiny"), gl.read_records(records), broken, progress=stop, **options)
    done = run([*TORCHRUN, *command, "--to", str(broken)], environment)
    assert done.returncode == 0
    assert done.stderr.count("5 of 13 answers were there already") == 1
    assert done.stdout.count("asked 4,") == 2, "each asks half of what is left"

    found = [(folder / "report.json").read_bytes() for folder in (one, two, broken)]
    assert found[0] == found[1] == found[2]
    expected, scores = read_predictions(one)
    for run_dir in (two, broken):
        found, others = read_predictions(run_dir)
        assert found == expected
        assert others == pytest.approx(scores, abs=1e-5), "which questions stand side by side shows in the last digits"
    assert {file.name for file in broken.iterdir()} == {"report.json", "predictions.jsonl", "report.html"}

    missing = run([*TORCHRUN, *command[:3], str(folder / "nowhere.jsonl")], environment)
    assert missing.returncode != 0
    assert missing.stderr.count("error: no record file") == 1, "one process speaks for both"


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize("engine", ["zero2", "zero3"])
def test_deepspeed_learns_what_one_process_does(folder: Path, environment: dict[str, str], engine: str) -> None:
    recipe, run_dir = folder / "recipe.yaml", folder / engine
    done = by_recipe(engine, recipe, run_dir, environment)
    assert done.returncode == 0 and f"2 processes, {engine}" in done.stderr
    assert "Setting accelerator" not in done.stdout, "DeepSpeed says on stdout that there is no GPU"
    check_like_one(folder, run_dir)
    shards = [path.name for path in (run_dir / "checkpoints" / "12").rglob("*optim_states.pt")]
    assert len(shards) == 2, "DeepSpeed ran, and spread the optimizer over both processes"
    counted = find_sizes(load_settings(recipe), engine=engine, has_gpu=False)
    written = sum(file.stat().st_size for file in (run_dir / "checkpoints" / "12" / "global_step12").iterdir())
    assert written == pytest.approx(counted.checkpoint - counted.weights, rel=0.02)

    break_off(run_dir)
    other = by_recipe("ddp", recipe, run_dir, environment)
    writer = "zero1 or zero2" if engine == "zero2" else engine
    assert other.returncode == 2 and f"was written under {writer}, and ddp runs" in other.stderr
    assert by_recipe(engine, recipe, run_dir, environment).returncode == 0
    check_like_one(folder, run_dir)


@pytest.mark.slow
def test_fsdp_learns_what_one_process_does(folder: Path, environment: dict[str, str]) -> None:
    program = folder / "fsdp.py"
    program.write_text(FSDP_PROGRAM, encoding="utf-8")
    recipe, run_dir = folder / "recipe.yaml", folder / "fsdp2"
    done = by_accelerate(config_file("fsdp2"), [str(program)], recipe, run_dir, environment)
    assert done.returncode == 0 and "2 processes, fsdp2" in done.stderr
    check_like_one(folder, run_dir)
    assert (run_dir / "checkpoints" / "12" / "pytorch_model_fsdp.bin").exists(), "FSDP ran"
    break_off(run_dir)
    assert by_accelerate(config_file("fsdp2"), [str(program)], recipe, run_dir, environment).returncode == 0
    check_like_one(folder, run_dir)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [pytest.param("zero3", marks=needs_deepspeed), "fsdp2"])
def test_spread_weights_leave_an_evaluation_after_the_batch_in_which_one_process_is_asked_to_stop(
    folder: Path, environment: dict[str, str], engine: str
) -> None:
    """Six questions each, in batches of one; both save what they had learned, and the evaluation is made up for."""
    gl.write_records(draw_records(folder / "images", "asked", count=12, seed=4), folder / "asked.jsonl")
    recipe, run_dir, options = folder / "recipe.yaml", folder / f"stopped-{engine}", config_file(engine)
    plain, stopped = folder / f"plain-{engine}.py", folder / f"stopped-{engine}.py"
    plain.write_text(FSDP_PROGRAM if engine == "fsdp2" else TRAIN_PROGRAM, encoding="utf-8")
    stopped.write_text(STOPPED_PROGRAM + plain.read_text(encoding="utf-8"), encoding="utf-8")
    own = [f"data.test={folder / 'asked.jsonl'}", "evaluate.batch_size=1", "train.max_steps=8"]
    options += ["--main_process_port", "0"]
    done = by_accelerate(options, [str(stopped)], recipe, run_dir, environment, own)
    assert done.returncode != 0 and done.stderr.count("error: stopped by SIGTERM after step 4") == 1
    assert done.stdout.count("batch 2.") == 2 and "batch 3." not in done.stdout, "both leave after that batch"
    assert [path.name for path in list_checkpoints(run_dir)] == ["4"] and not (run_dir / "final").exists()
    assert by_accelerate(options, [str(plain)], recipe, run_dir, environment, own).returncode == 0
    assert [line["step"] for line in read_metrics(run_dir) if "miou" in line] == [4, 8]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", pytest.param("zero2", marks=needs_deepspeed)])
def test_two_machines_learn_what_one_process_does(folder: Path, environment: dict[str, str], engine: str) -> None:
    """Two of one process each, that meet on this one."""
    run_dir = folder / f"machines-{engine}"
    command = [sys.executable, *COMMAND, *halved(folder / "recipe.yaml", run_dir)]
    command += ["launch.machines=2", "launch.processes=1", f"launch.engine={engine}"]
    where = environment | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    machines = [
        subprocess.Popen(command, env=where | {"NODE_RANK": rank}, stderr=subprocess.PIPE, text=True) for rank in "01"
    ]
    told = [machine.communicate(timeout=280)[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], told
    assert f"2 processes, {engine}" in told[0]
    check_like_one(folder, run_dir)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--cpu"], "accelerate was asked for several processes and started one"),
        (config_file("fsdp2"), "asked for FSDP, but MULTI_CPU runs"),
    ],
    ids=["one process", "plain data parallelism"],
)
def test_less_than_was_asked_for_is_refused(
    folder: Path, environment: dict[str, str], options: list[str], told: str
) -> None:
    """accelerate 1.15 starts one process for two on a CPU, or another engine, and says nothing."""
    done = by_accelerate(options, COMMAND, folder / "recipe.yaml", folder / "less", environment)
    assert done.returncode != 0 and told in done.stderr
    assert not (folder / "less" / "final").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["launch.processes=3"], "launch asks for 1 x 3 processes, but 2 run"),
        (["launch.processes=2", "launch.engine=zero2"], "launch.engine is zero2, but ddp runs"),
    ],
    ids=["number", "engine"],
)
def test_another_launch_than_the_recipe_asks_for_is_refused(
    folder: Path, environment: dict[str, str], asked: list[str], told: str
) -> None:
    done = run([*TORCHRUN, *COMMAND, *halved(folder / "recipe.yaml", folder / "fewer"), *asked], environment)
    assert done.returncode != 0
    assert done.stderr.count(f"error: {told}") == 1, "one process speaks for both"
    assert "has a new message format" not in done.stderr
    assert not (folder / "fewer" / "final").exists()


@pytest.mark.slow
def test_a_mistake_is_told_by_every_launcher(folder: Path, environment: dict[str, str]) -> None:
    broken = folder / "broken.yaml"
    broken.write_text((folder / "recipe.yaml").read_text(encoding="utf-8") + "trak: []\n", encoding="utf-8")
    done = by_torchrun(broken, folder / "broken", environment)
    assert done.returncode != 0 and "unknown setting trak" in done.stderr
    assert not (folder / "broken").exists()


@pytest.mark.slow
def test_what_processes_refuse_is_told_once_and_keeps_its_exit_code(folder: Path, environment: dict[str, str]) -> None:
    done = by_recipe("ddp", folder / "recipe.yaml", folder / "one", environment)
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1 and "holds a run of another recipe" in done.stderr
    assert "Traceback" not in done.stderr and "elastic" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="sets how threads are scheduled")
def test_threads_that_end_late_leave_the_exit_code_alone(folder: Path, environment: dict[str, str]) -> None:
    """Python ends by SIGABRT where such a thread lets go of a tensor after it has begun to end."""
    (folder / "idle.py").write_text(IDLE_PROGRAM + TRAIN_PROGRAM, encoding="utf-8")
    for _ in range(4):
        done = run([*TORCHRUN, str(folder / "idle.py"), *halved(folder / "recipe.yaml", folder / "one")], environment)
        assert "holds a run of another recipe" in done.stderr
        assert "exitcode  : 2" in done.stderr.partition("Root Cause")[2] and "SIGABRT" not in done.stderr


# ---- what one of them meets ------------------------------------------------------------------------------------


def wait_for_step(run_dir: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until metrics.jsonl tells of a step, or the launcher has ended."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        lines = read_metrics(run_dir) if (run_dir / "metrics.jsonl").is_file() else []
        if lines and lines[-1]["step"] >= step:
            return
        time.sleep(0.05)
    raise AssertionError(f"no step {step} in {run_dir}")


@pytest.mark.slow
def test_a_launcher_that_is_asked_to_stop_leaves_a_whole_checkpoint(folder: Path, environment: dict[str, str]) -> None:
    """torchrun passes SIGTERM on, waits (`--shutdown-timeout`), and exits with 1 whatever its processes say."""
    run_dir, log = folder / "stopped", ["run.log_every=1", "data.test=[]", "evaluate.every=0", "run.save_every=100"]
    command = [*TORCHRUN, *COMMAND, *halved(folder / "recipe.yaml", run_dir), *log, "train.max_steps=400"]
    process = subprocess.Popen([sys.executable, *command], env=environment, stderr=subprocess.PIPE, text=True)
    wait_for_step(run_dir, 3, process)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 1 and told.count("error: stopped by SIGTERM after step") == 1, told
    (kept,) = list_checkpoints(run_dir)
    assert find_damage(kept) is None and (kept / "manifest.json").is_file()
    assert len(list(kept.glob("rng_state_*.pth"))) == 2
    assert not (run_dir / "final").exists() and not list(run_dir.rglob("*.partial"))
    if Version(transformers.__version__) < Version("5.23"):
        return  # 5.17 cannot read an optimizer back on several CPUs ("don't know how to restore cpu:0")
    again = subprocess.Popen([sys.executable, *command], env=environment, stderr=subprocess.PIPE, text=True)
    wait_for_step(run_dir, int(kept.name) + 1, again)
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=120)
    assert int(list_checkpoints(run_dir)[-1].name) > int(kept.name), "it went on"


def workers_of(launcher: int) -> list[int]:
    """The trainings that a launcher has started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text("ascii").split()
    return [int(child) for child in children if b"groundling" in Path(f"/proc/{child}/cmdline").read_bytes()]


def is_alive(process: int) -> bool:
    """A process that nobody has asked for its exit code yet has ended nevertheless."""
    try:
        return Path(f"/proc/{process}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def start_launched(folder: Path, run_dir: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Two processes that `groundling train` has started, three steps into a long training."""
    log = ["run.log_every=1", "data.test=[]", "evaluate.every=0", "run.save_every=1000", "train.max_steps=800"]
    command = [*COMMAND, *halved(folder / "recipe.yaml", run_dir), *log, "launch.processes=2"]
    with (folder / f"{run_dir.name}.txt").open("w", encoding="utf-8") as told:
        process = subprocess.Popen([sys.executable, *command], env=environment, stderr=told, text=True)
    wait_for_step(run_dir, 3, process)
    return process


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process that its parent has gone")
def test_processes_whose_launcher_was_killed_save_and_end(folder: Path, environment: dict[str, str]) -> None:
    run_dir = folder / "orphaned"
    launcher = start_launched(folder, run_dir, environment)
    workers = workers_of(launcher.pid)
    assert len(workers) == 2
    launcher.kill()
    launcher.wait()
    deadline = time.monotonic() + 60
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_alive, workers))
    (kept,) = list_checkpoints(run_dir)
    assert find_damage(kept) is None and not (run_dir / "final").exists()
    told = (folder / "orphaned.txt").read_text(encoding="utf-8")
    assert told.count("error: stopped by SIGTERM after step") == 1 and "Traceback" not in told


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_is_all_that_is_told(folder: Path, environment: dict[str, str], rank: int) -> None:
    launcher = start_launched(folder, folder / f"killed-{rank}", environment)
    ranks = {f"RANK={number}".encode(): number for number in (0, 1)}
    for worker in workers_of(launcher.pid):
        variables = Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
        if any(ranks.get(variable) == rank for variable in variables):
            os.kill(worker, signal.SIGKILL)
    assert launcher.wait(timeout=150) == 1
    told = (folder / f"killed-{rank}.txt").read_text(encoding="utf-8")
    assert told.splitlines()[-1].startswith(f"error: process {rank} was ended by SIGKILL")
    assert "Traceback" not in told and "gloo" not in told
    assert told.count("another process has ended, and this one with it\n") == (rank == 1)


@pytest.mark.slow
def test_a_number_that_is_none_in_one_process_stops_both(folder: Path, environment: dict[str, str]) -> None:
    records = gl.read_records(folder / "train.jsonl")
    shapes = [record for record in records if record.image is not None]
    gl.write_records([*shapes[:-1], replace(shapes[-1], question="q")], folder / "poisoned.jsonl")
    base = find_checkpoint("tiny").folder
    shutil.copytree(base, folder / "poisoned")
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False
    (folder / "poisoned" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = {name: tensor.clone() for name, tensor in read_weights(base).items()}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    (token,) = load_processor(find_checkpoint("tiny")).tokenizer("q", add_special_tokens=False)["input_ids"]
    tensors["model.embed_tokens.weight"][token] = float("nan")
    save_file(tensors, folder / "poisoned" / "model.safetensors", metadata={"format": "pt"})
    settings = [f"model.name={folder / 'poisoned'}", f"data.train={folder / 'poisoned.jsonl'}", "train.max_steps=9"]
    done = run([*TORCHRUN, *COMMAND, *halved(folder / "recipe.yaml", folder / "bad"), *settings], environment)
    assert done.returncode == 1 and done.stderr.count("error: the loss is not finite after") == 1
    told = [json.loads(line) for line in (folder / "bad" / "bad-batch.jsonl").read_text(encoding="utf-8").splitlines()]
    assert shapes[-1].id in {line["id"] for line in told} and len(told) <= 4, "one row of two"
    assert {line["row"] for line in told} in ({0}, {1})
