"""What the processes of a training tell each other once a step, and how it ends where one of them was asked to stop."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from groundling.training.stop import StopRequest


class StepNews:
    """The losses of a step's rows, and whether a process was asked to stop: known to all of them alike."""

    def __init__(self, accelerator: Accelerator, stop: StopRequest) -> None:
        self.losses: list[float] = []  # of the rows over all processes, as they were dealt
        self._asked_by = 0  # the highest signal that a process had been sent when news were exchanged
        self._own: list[torch.Tensor] = []  # losses of this process in this step
        self._accelerator = accelerator
        self._stop = stop

    def note(self, loss: torch.Tensor) -> None:
        """Keep the loss of a row that this process had."""
        self._own.append(loss.detach())

    def exchange(self) -> None:
        """Tell and be told. Every process has to call this, once a step, before its last gradients."""
        signal = torch.tensor(float(self._stop.signal), device=self._own[0].device)
        told: Any = self._accelerator.gather(torch.stack([*self._own, signal]))
        self._own.clear()
        told = told.view(self._accelerator.num_processes, -1)
        self.losses = told[:, :-1].T.flatten().tolist()
        self._asked_by = int(told[:, -1].max())

    @property
    def stop_signal(self) -> int:
        """The signal that asks for a stop, 0 for none. One process alone need not wait for the next exchange."""
        return self._asked_by or (self._stop.signal if self._accelerator.num_processes == 1 else 0)


class StopsAfterStep(TrainerCallback):
    """Where a stop is asked for, a checkpoint falls due after the step and nothing else, and no step follows."""

    def __init__(self, news: StepNews) -> None:
        self.signal = 0  # after which the training has ended early
        self._news = news

    def end_training(self, signal: int, control: TrainerControl) -> None:
        """Because of that signal."""
        self.signal = signal
        control.should_log = control.should_save = control.should_training_stop = True
        control.should_evaluate = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Look once whether to stop."""
        if signal := self._news.stop_signal:
            self.end_training(signal, control)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The stock loop does here once more what is due: by then all that was is done."""
        if self.signal:
            control.should_log = control.should_evaluate = control.should_save = False
