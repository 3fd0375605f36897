"""Folders that all processes of a training write together: whole under their name, or not there and told on each."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object

from groundling.errors import TrainingError
from groundling.evaluation.processes import from_main_process
from groundling.training.checkpoint import describe_last, put_in_place
from groundling.training.disk import free_bytes, is_failed_write, show_bytes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saver:
    """Writes the folders of one run. Every process has to call what it has.

    `needed` is how many bytes a folder takes, for the error that says how many are free.
    """

    run: Path
    is_spread: bool  # whether each process has a part of the weights: then they wait for each other while they save

    @contextmanager
    def writing(self, partial: Path, *, needed: int) -> Iterator[None]:
        """TrainingError, on every process, where one cannot write its part of a folder, which is removed then.

        Of processes that wait for each other the one that fails ends alone, and the launcher ends the others.
        """
        failed: TrainingError | None = None
        try:
            yield
        except TrainingError as error:
            failed = error
        except Exception as error:
            if not is_failed_write(error):
                raise
            failed = self._give_up(partial, error, needed)
        if not self.is_spread:
            failed = next((each for each in gather_object([failed]) if each is not None), None)
        elif failed is not None and not PartialState().is_main_process:
            log.error("%s", failed)
        if failed is not None:
            shutil.rmtree(partial, ignore_errors=True)
            raise failed

    def put_in_place(self, partial: Path, folder: Path, *, needed: int) -> None:
        """Give a folder its name, once every process has written its part of it; TrainingError as for `writing`."""

        def seal() -> None:
            try:
                put_in_place(partial, folder)
            except OSError as error:
                raise self._give_up(partial, error, needed) from error

        PartialState().wait_for_everyone()
        from_main_process(seal)

    def _give_up(self, partial: Path, error: Exception, needed: int) -> TrainingError:
        """What to say of a folder that could not be written; what there is of it is removed."""
        shutil.rmtree(partial, ignore_errors=True)
        free = free_bytes(partial)
        reason = "the disk is full" if free < needed else str(error).splitlines()[0]
        return TrainingError(
            f"{partial} could not be written: {reason}; it needs {show_bytes(needed)}, and {show_bytes(free)} are "
            f"free. {describe_last(self.run, 'checkpoint')}; with more room the same command goes on from there"
        )
