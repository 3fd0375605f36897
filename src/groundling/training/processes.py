"""What the processes of one training do together: one reads for all, all ask for one report.

Launched by `torchrun` or `accelerate launch` there are several, each with its own device and copy of the program;
else there is one, and everything here is what it would be without.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import DistributedType, broadcast_object_list, gather_object

from groundling.data.record import Record
from groundling.errors import GroundlingError, SettingsError
from groundling.evaluation.evaluate import predict_records
from groundling.evaluation.metrics import Prediction
from groundling.inference.generate import is_spread
from groundling.inference.predict import Grounder
from groundling.settings import Settings
from groundling.training.stop import StopAsked, StopRequest

Made = TypeVar("Made")

# What accelerate's launcher, and the `deepspeed` and `fsdp` arguments, put into the environment for an engine
_ENGINES = {
    "ACCELERATE_USE_DEEPSPEED": DistributedType.DEEPSPEED,
    "ACCELERATE_USE_FSDP": DistributedType.FSDP,
}


def from_main_process(make: Callable[[], Made]) -> Made:
    """What `make` gives on the main process, on every process; an error of groundling's that it raises is, too."""
    state = PartialState()
    if state.num_processes == 1:
        return make()
    made: Made | GroundlingError | None = None
    if state.is_main_process:
        try:
            made = make()
        except GroundlingError as error:
            made = error
    told = broadcast_object_list([made])[0]
    if isinstance(told, GroundlingError):
        raise told
    return told  # type: ignore[return-value]


def ask_together(
    grounder: Grounder, records: Sequence[Record], settings: Settings, *, stop: StopRequest
) -> list[Prediction]:
    """All predictions in the records' order, on every process, each having asked about its share.

    StopAsked on every process where one was asked to stop meanwhile; weights that are spread over devices, which take
    every pass together, are asked to the end.
    """
    state = PartialState()
    images = [record.image for record in records]
    share = choose_share(images, processes=state.num_processes, process=state.process_index)
    left = 0
    mine: list[Prediction] = []
    try:
        mine = predict_records(
            grounder,
            [records[index] for index in share],
            batch_size=settings.evaluate.batch_size,
            max_new_tokens=settings.evaluate.max_new_tokens,
            free=settings.evaluate.free,
            max_pixels=settings.images.max_file_pixels,
            progress=None if is_spread(grounder.model) else stop.leave_if_asked,
        )
    except StopAsked as asked:
        left = asked.number
    if state.num_processes > 1:
        left = max(gather_object([left]))
    if left:
        raise StopAsked(left)
    if state.num_processes == 1:
        return mine
    found: dict[int, Prediction] = dict(gather_object(list(zip(share, mine, strict=True))))
    return [found[index] for index in range(len(records))]


def choose_share(images: Sequence[Path | None], *, processes: int, process: int) -> list[int]:
    """Numbers of the records that one process asks, those about one picture together.

    All shares are of one size, some records in two where they do not divide evenly: where weights are spread over
    devices, every forward pass needs all processes.
    """
    first: dict[Path | None, int] = {}
    for number, image in enumerate(images):
        first.setdefault(image, number)
    by_picture = sorted(range(len(images)), key=lambda number: first[images[number]])
    size = -(-len(images) // processes)
    return [by_picture[place % len(images)] for place in range(process * size, (process + 1) * size)]


def refuse_other_engine(found: DistributedType) -> None:
    """SettingsError where the launcher asked for an engine or for processes that are not there.

    accelerate 1.15 says nothing when it runs plain data parallelism for FSDP, or one process for two on a CPU.
    """
    for variable, engine in _ENGINES.items():
        if os.environ.get(variable, "false").lower() == "true" and found != engine:
            raise SettingsError(
                f"asked for {engine.value}, but {found.value} runs; this machine has no devices for {engine.value}"
            )
    is_launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ
    if is_launched and "WORLD_SIZE" not in os.environ:
        raise SettingsError("accelerate was asked for several processes and started one; use torchrun --nproc_per_node")
