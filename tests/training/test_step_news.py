"""What processes tell each other once a step, and what falls due where one is to stop. (Several: `distributed`.)"""

from __future__ import annotations

import math
import signal

import torch
from accelerate import Accelerator
from transformers import TrainerControl, TrainerState, TrainingArguments

from groundling.training.step_news import StepNews, StopsAfterStep
from groundling.training.stop import StopRequest


def due(control: TrainerControl) -> tuple[bool, bool, bool, bool]:
    return control.should_log, control.should_evaluate, control.should_save, control.should_training_stop


def test_losses_are_of_the_last_step_alone() -> None:
    news = StepNews(Accelerator(cpu=True), StopRequest())
    news.note(torch.tensor(0.5, requires_grad=True))
    news.note(torch.tensor(math.inf))
    news.exchange()
    assert news.losses == [0.5, math.inf]
    news.note(torch.tensor(0.25))
    news.exchange()
    assert news.losses == [0.25]


def test_one_process_alone_is_asked_until_the_step_has_ended() -> None:
    stop = StopRequest()
    news = StepNews(Accelerator(cpu=True), stop)
    news.note(torch.tensor(0.5))
    news.exchange()
    assert news.stop_signal == 0
    stop.signal = signal.SIGTERM
    assert news.stop_signal == signal.SIGTERM


def test_a_stop_has_the_step_saved_and_nothing_else_once() -> None:
    stop, arguments, control = StopRequest(), TrainingArguments(use_cpu=True), TrainerControl(should_evaluate=True)
    stopping = StopsAfterStep(StepNews(Accelerator(cpu=True), stop))
    stopping.on_step_end(arguments, TrainerState(), control)
    stopping.on_epoch_end(arguments, TrainerState(), control)
    assert due(control) == (False, True, False, False) and stopping.signal == 0, "nobody has asked"
    stop.signal = signal.SIGINT
    stopping.on_step_end(arguments, TrainerState(), control)
    assert due(control) == (True, False, True, True) and stopping.signal == signal.SIGINT
    control.should_evaluate = True  # as the stock loop says where an epoch ends
    stopping.on_epoch_end(arguments, TrainerState(), control)
    assert due(control) == (False, False, False, True)
