"""What the processes of one training do together, beside what those of an evaluation do (`evaluation.processes`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather
from transformers import TrainingArguments

from groundling.data.record import Record
from groundling.errors import SettingsError
from groundling.evaluation.evaluate import predict_records
from groundling.evaluation.metrics import Prediction
from groundling.evaluation.pace import StopAsked
from groundling.evaluation.processes import this_process
from groundling.inference.generate import is_spread
from groundling.inference.predict import Grounder
from groundling.settings import Settings
from groundling.training.stop import StopRequest

# What accelerate's launcher, and the `deepspeed` and `fsdp` arguments, put into the environment for an engine
_ENGINES = {
    "ACCELERATE_USE_DEEPSPEED": DistributedType.DEEPSPEED,
    "ACCELERATE_USE_FSDP": DistributedType.FSDP,
}

# What a kind of engine alone writes into a checkpoint; ZeRO's stages 1 and 2 write alike, both versions of FSDP too
_WRITTEN = {
    "zero3": "global_step*/zero_pp_rank_*_model_states.pt",
    "zero": "global_step*",
    "fsdp": "optimizer*.bin",
}
_PIECES = "global_step*/*zero_pp_rank_*_optim_states.pt"  # one a process, which DeepSpeed 0.19 deals to no other number
_SHOWN = {"zero": "zero1 or zero2", "ddp": "one process or ddp"}


def ask_together(
    grounder: Grounder, records: Sequence[Record], settings: Settings, *, stop: StopRequest
) -> list[Prediction]:
    """All predictions in the records' order, on every process, as the recipe has them asked.

    StopAsked on every process where one was asked to stop meanwhile: weights that are spread over devices, which take
    every pass together, finish the batch that is being answered.
    """
    return predict_records(
        grounder,
        records,
        batch_size=settings.evaluate.batch_size,
        max_new_tokens=settings.evaluate.max_new_tokens,
        free=settings.evaluate.free,
        max_pixels=settings.images.max_file_pixels,
        progress=partial(_leave_together, stop) if is_spread(grounder.model) else stop.leave_if_asked,
    )


def _leave_together(stop: StopRequest, *_: int) -> None:
    """StopAsked on all processes at one answer, where any was asked to stop; all have to call it equally often."""
    signals: Any = gather(torch.tensor([stop.signal], device=this_process().device))
    if asked := int(signals.max()):
        raise StopAsked(asked)


def asked_engine(arguments: TrainingArguments) -> str:
    """As `name_engine` before there is an accelerator: what is asked for, whether a recipe or a launcher does."""
    if arguments.deepspeed_plugin is not None:
        return f"zero{arguments.deepspeed_plugin.zero_stage}"
    return "fsdp" if arguments.fsdp_plugin_args is not None or _is_asked("ACCELERATE_USE_FSDP") else "ddp"


def name_engine(accelerator: Accelerator) -> str:
    """What spreads the model over the processes, as `launch.engine` has it: ddp, zero2, fsdp2 and so on."""
    state = accelerator.state
    if state.distributed_type == DistributedType.DEEPSPEED:
        return f"zero{state.deepspeed_plugin.zero_stage}"  # type: ignore[union-attr]
    if state.distributed_type == DistributedType.FSDP:
        return f"fsdp{state.fsdp_plugin.fsdp_version}"  # type: ignore[attr-defined]
    return "ddp"


def refuse_other_state(checkpoint: Path, engine: str, *, processes: int) -> None:
    """SettingsError where a checkpoint's optimizer's state cannot be read by so many processes under an engine."""
    writer = next((kind for kind, pattern in _WRITTEN.items() if any(checkpoint.glob(pattern))), "ddp")
    pieces = len(list(checkpoint.glob(_PIECES)))
    if writer != (engine if engine == "zero3" else engine.rstrip("012")):
        wrong = f"was written under {_SHOWN.get(writer, writer)}, and {engine} runs"
    elif pieces not in (0, processes):
        wrong = f"was written under {engine} by {pieces} processes, and now there are {processes}"
    else:
        return
    raise SettingsError(
        f"{checkpoint} {wrong}, which cannot read the optimizer's state; launch as before, or start a new run from "
        f"its weights (model.name={checkpoint})"
    )


def refuse_lone_fsdp() -> None:
    """SettingsError where FSDP is asked for and this process is alone, which is known before anything is loaded."""
    if _is_asked("ACCELERATE_USE_FSDP") and this_process().distributed_type == DistributedType.NO:
        refuse_other_engine(DistributedType.NO)


def _is_asked(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() == "true"


def refuse_other_engine(found: DistributedType) -> None:
    """SettingsError where the launcher asked for an engine or for processes that are not there.

    accelerate 1.15 says nothing when it runs plain data parallelism for FSDP, or one process for two on a CPU.
    """
    for variable, engine in _ENGINES.items():
        if _is_asked(variable) and found != engine:
            running = "one process" if found == DistributedType.NO else found.value
            raise SettingsError(
                f"asked for {engine.value}, but {running} runs; this machine has no devices for {engine.value}, or "
                f"{variable} is set by mistake"
            )
    is_launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ
    if is_launched and "WORLD_SIZE" not in os.environ:
        raise SettingsError("accelerate was asked for several processes and started one; use torchrun --nproc_per_node")
