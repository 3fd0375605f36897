"""What the processes of one launch do together: one reads for all, each asks its share.

Launched by `torchrun` or `accelerate launch` there are several, each with its own device and copy of the program;
else there is one, and everything here is what it would be without.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from groundling.errors import GroundlingError, SettingsError

Made = TypeVar("Made")


def this_process() -> PartialState:
    """This process's place among those of the launch; SettingsError where it knows nothing of the others.

    accelerate 1.15 has to be told that processes without a GPU belong together; else each would do all the work.
    """
    state = PartialState(cpu=not torch.cuda.is_available())
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes != launched:
        raise SettingsError(f"{launched} processes were launched, and this one knows of {state.num_processes}")
    return state


def from_main_process(make: Callable[[], Made]) -> Made:
    """What `make` gives on the main process, on every process; an error of groundling's that it raises is, too."""
    state = this_process()
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
