"""A plan as text for a terminal."""

from __future__ import annotations

from groundling.evaluation.pace import in_words
from groundling.settings import Launch
from groundling.training.disk import show_bytes
from groundling.training.memory import GIB, SPARE
from groundling.training.plan import Plan
from groundling.training.workload import Workload

_ROWS = {
    "weights": "weights",
    "optimizer": "optimizer",
    "gradients": "gradients",
    "vision": "kept, vision tower",
    "language": "kept, language model",
    "working": "logits, loss, work",
    "engine": "engine's buckets",
    "device": "CUDA and libraries",
}


def describe_plan(plan: Plan) -> str:
    """All of a plan, in paragraphs."""
    parts = [_describe_model(plan), _describe_data(plan), _describe_memory(plan), _describe_run(plan)]
    parts += [f"note: {note}" for note in plan.notes]
    return "\n\n".join([*parts, plan.command])


def _describe_model(plan: Plan) -> str:
    trained = ", ".join(f"{part} {count:,}" for part, count in plan.numbers.trained.items() if count)
    of = sum(plan.numbers.parameters.values())
    beside = "beside" if plan.settings.tune.has_adapters else "of"
    method, devices = plan.settings.tune.method, _describe_launch(plan.settings.launch)
    return f"{plan.name} on {devices}\n{method}: trains {trained} {beside} {of:,} parameters"


def _describe_launch(launch: Launch) -> str:
    if launch.devices == 1:
        return "one GPU"
    gpus = launch.processes or 1
    machines = f" on each of {launch.machines} machines" if launch.machines > 1 else ""
    return f"{gpus} GPU{'s' if gpus > 1 else ''}{machines}, {launch.engine or 'ddp'}"


def _describe_data(plan: Plan) -> str:
    work = plan.workload
    if work is None:
        return "data: not measured"
    lines = [f"data: {work.records:,} records about {work.pictures:,} pictures{_describe_sampling(work)}"]
    if work.unreadable or work.too_long:
        lines.append(f"  set aside: {work.unreadable:,} unreadable, {work.too_long:,} too long")
    spread = work.tokens
    lines.append(f"  tokens a sample: {spread.least} to {spread.most}, median {spread.median}, 95 % up to {spread.p95}")
    lines.append(
        f"  {work.rows:,} rows an epoch, {work.epoch_tokens:,} tokens, no padding; "
        f"padded batches of as many samples would be {work.padding:.0%} padding"
    )
    lines.append(f"  sharing pictures saves {work.saved:.0%} of the samples' tokens")
    return "\n".join(lines)


def _describe_sampling(work: Workload) -> str:
    return "" if work.measured >= work.records else f", judged by {work.measured:,} of them"


def _describe_memory(plan: Plan) -> str:
    moments, row = plan.memory.moments, plan.row
    unit, name = (GIB, "GiB") if plan.memory.most.total > 2 * GIB else (GIB / 1024, "MiB")
    lines = [
        f"memory of each GPU in {name}, an estimate, for a row of {row.tokens:,} tokens, {len(row.grids)} pictures:",
        f"  {'':22}" + "".join(f"{moment.name:>16}" for moment in moments),
    ]
    for field, label in _ROWS.items():
        values = [getattr(moment, field) for moment in moments]
        if any(values):
            lines.append(f"  {label:22}" + "".join(f"{value / unit:16.1f}" for value in values))
    lines.append(f"  {'together':22}" + "".join(f"{moment.total / unit:16.1f}" for moment in moments))
    lines.append(f"  {_describe_fit(plan)}")
    lines += [f"    {remedy}" for remedy in plan.remedies]
    return "\n".join(lines)


def _describe_fit(plan: Plan) -> str:
    most = plan.memory.most.total / GIB
    if plan.device_bytes is None:
        return f"{most:.1f} GiB at most; --gpu-memory tells whether that fits"
    room = plan.device_bytes / GIB
    if plan.fits:
        return f"{most:.1f} GiB at most fits in {room:.0f} GiB"
    told = f"{most:.1f} GiB at most does not fit in {room:.0f} GiB less {SPARE:.0%} for gaps"
    if not plan.remedies:
        return f"{told}, and no change that is known takes less"
    if any(remedy.fits for remedy in plan.remedies):
        return f"{told}; what takes less, cheapest first:"
    return f"{told}, and no change that is known does; what takes less, cheapest first:"


def _describe_run(plan: Plan) -> str:
    lines: list[str] = []
    train = plan.settings.train
    if plan.steps is not None:
        length = f"{train.epochs:g} epochs" if train.max_steps is None else "train.max_steps"
        lines.append(
            f"run: {plan.steps:,} steps ({length}), the first {plan.warmup_steps:,} to warm up; "
            f"{_count(plan.evaluations, 'evaluation')} and {_count(plan.saves, 'checkpoint')} on the way"
        )
    if plan.seconds is not None:
        lines.append(f"  {in_words(plan.seconds)} at the rate given, evaluations not counted")
    disk = plan.disk
    lines.append(
        f"{'  ' if lines else ''}disk: a checkpoint takes {show_bytes(disk.checkpoint)}; {disk.checkpoints} kept; "
        f"the run folder takes {show_bytes(disk.whole)} at its most"
    )
    return "\n".join(lines)


def _count(number: int | None, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
