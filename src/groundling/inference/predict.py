"""A grounder: a loaded model that is asked about pictures and answers in their own pixels."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from groundling.dialect.answer import Answer, read_answer
from groundling.dialect.score import Written
from groundling.errors import ImageError, SettingsError
from groundling.geometry.frame import Frame
from groundling.geometry.images import MAX_PIXELS, Source, open_image
from groundling.inference.batch import encode_question
from groundling.inference.generate import generate_tokens, is_spread
from groundling.model.contract import Contract
from groundling.model.load import Checkpoint, find_checkpoint, hash_weights, load_model, load_processor
from groundling.model.patches import Patches
from groundling.model.processor import Processor

BATCH_SIZE = 16
BATCHES_AT_ONCE = 4  # read before any is asked, so that questions of like length come together
MAX_NEW_TOKENS = 512
MOST_READERS = 8  # threads that open pictures

log = logging.getLogger(__name__)


class Question(NamedTuple):
    """A bare question about a picture: a path, bytes, a PIL image or an array."""

    image: Source
    text: str


class Answered(NamedTuple):
    """An answer in the picture's own upright pixels, and that picture's size."""

    answer: Answer
    original: Frame


class Reply(NamedTuple):
    """What came of one question: an answer, or why its picture could not be read."""

    place: int  # of the question among those asked
    found: Answered | ImageError


class _Seen(NamedTuple):
    """A picture as the model takes it, and its size before."""

    patches: Patches
    original: Frame


@dataclass(frozen=True)
class Grounder:
    """A model and its processor under one contract."""

    model: PreTrainedModel
    processor: Processor
    name: str
    checkpoint: Checkpoint | None = None  # that it was loaded from; None for a model still in training

    @cached_property
    def weights(self) -> str | None:
        """What tells its weights from others': a hash, for which all are read; None for a model still in training."""
        return None if self.checkpoint is None else hash_weights(self.checkpoint)

    @property
    def contract(self) -> Contract:
        """What the model was trained to see and to say."""
        return self.processor.contract

    def predict(self, image: Source, question: str) -> Answer:
        """The model's answer about one picture, boxes in that picture's own upright pixels."""
        return self.predict_many([(image, question)])[0]

    def predict_many(
        self,
        questions: Iterable[tuple[Source, str]],
        *,
        batch_size: int = BATCH_SIZE,
        max_new_tokens: int = MAX_NEW_TOKENS,
        free: bool = False,
    ) -> list[Answer]:
        """One answer a question, in order. ImageError names a picture that cannot be read.

        Answers are held to the contract's form, so that each can be read; `free` ones may say anything.
        """
        asked = [Question(image, text) for image, text in questions]
        return [
            found.answer
            for found in self.answer_all(asked, batch_size=batch_size, max_new_tokens=max_new_tokens, free=free)
        ]

    def answer_all(
        self,
        questions: Sequence[Question],
        *,
        batch_size: int = BATCH_SIZE,
        max_new_tokens: int = MAX_NEW_TOKENS,
        free: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> list[Answered]:
        """One answer a question, in order. ImageError names a picture that cannot be read."""
        answers: dict[int, Answered] = {}
        for place, found in self.answer_each(
            questions, batch_size=batch_size, max_new_tokens=max_new_tokens, free=free, max_pixels=max_pixels
        ):
            if isinstance(found, ImageError):
                raise found
            answers[place] = found
        return [answers[place] for place in range(len(questions))]

    def answer_each(
        self,
        questions: Sequence[Question],
        *,
        batch_size: int = BATCH_SIZE,
        max_new_tokens: int = MAX_NEW_TOKENS,
        free: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> Iterator[Reply]:
        """Replies as they come, all about one picture together: each is opened once, and the model sees it once.

        A few batches' pictures are held, and those that come next are read while the model answers.
        """
        if batch_size < 1 or max_new_tokens < 1:
            raise SettingsError(f"batch_size is {batch_size} and max_new_tokens {max_new_tokens}; both start at 1")
        images = [question.image for question in questions]
        # devices that take every pass in step have to come to as many, and may only stop between two batches
        in_step = is_spread(self.model)
        windows = plan_windows(images, batch_size * (1 if in_step else BATCHES_AT_ONCE), exact=in_step)
        with ThreadPoolExecutor(min(MOST_READERS, os.cpu_count() or 1)) as readers:

            def begin_reading(window: Sequence[Sequence[int]]) -> list[Future[_Seen | ImageError]]:
                return [readers.submit(self._see, questions[places[0]].image, max_pixels) for places in window]

            coming = begin_reading(windows[0]) if windows else []
            for window, following in zip_longest(windows, windows[1:], fillvalue=[]):
                seen = [future.result() for future in coming]
                coming = begin_reading(following)
                yield from self._answer_window(questions, window, seen, batch_size, max_new_tokens, free)

    def _answer_window(
        self,
        questions: Sequence[Question],
        window: Sequence[Sequence[int]],
        seen: Sequence[_Seen | ImageError],
        batch_size: int,
        max_new_tokens: int,
        free: bool,
    ) -> Iterator[Reply]:
        """To questions in groups about one picture each, as it was read."""
        asked: list[tuple[int, _Seen]] = []
        for places, picture in zip(window, seen, strict=True):
            if isinstance(picture, ImageError):
                yield from (Reply(place, picture) for place in places)
            else:
                asked += [(place, picture) for place in places]
        prompts = [encode_question(self.processor, questions[place].text, picture.patches) for place, picture in asked]
        answers = generate_tokens(
            self.model, self.processor, prompts, batch_size=batch_size, max_new_tokens=max_new_tokens, free=free
        )
        for said, (place, picture) in zip(answers, asked, strict=True):
            text = "".join(token.text for token in said.tokens)
            found = self.read(text, picture.patches.seen, picture.original, said.tokens)
            yield Reply(place, found._replace(answer=replace(found.answer, is_full=said.is_full)))

    def read(self, text: str, seen: Frame, original: Frame, written: Sequence[Written] | None = None) -> Answered:
        """An answer's text about a picture of the `original` size, seen as `seen`; `written` gives its boxes scores."""
        answer = read_answer(text, family=self.contract.family, seen=seen, written=written)
        return Answered(answer.to(original), original)

    def _see(self, image: Source, max_pixels: int) -> _Seen | ImageError:
        try:
            picture = open_image(image, max_pixels=max_pixels)
        except ImageError as error:
            return error
        return _Seen(self.processor.see(picture), Frame(*picture.size))

    def with_max_tokens(self, max_tokens: int) -> Grounder:
        """The same model with another budget of visual tokens for one picture; its boxes stay in the right place.

        A model answers best at the budget it was trained with, so the change is said aloud.
        """
        contract = self.contract.with_max_tokens(max_tokens)
        log.warning(
            "budget of %d visual tokens; %s was trained with %d", max_tokens, self.name, self.contract.budget.max_tokens
        )
        return replace(self, processor=self.processor.with_contract(contract))


def plan_windows(images: Sequence[Source], size: int, *, exact: bool = False) -> list[list[list[int]]]:
    """Places of questions in groups about one picture each, as many groups together as have up to `size` questions.

    A picture about which there are more stands in several windows. With `exact` every window but the last has that
    many, whatever it takes.
    """
    by_image: dict[str | int, list[int]] = {}
    for place, image in enumerate(images):
        by_image.setdefault(str(image) if isinstance(image, str | Path) else id(image), []).append(place)
    windows: list[list[list[int]]] = []
    room = 0
    for places in by_image.values():
        rest = places
        while rest:
            if not room or (min(len(rest), size) > room and not exact):
                windows.append([])
                room = size
            windows[-1].append(rest[:room])
            rest = rest[room:]
            room -= len(windows[-1][-1])
    return windows


def load(name: str | Path, *, revision: str | None = None, device: str | None = None) -> Grounder:
    """A grounder from a run folder (its best, else final), any checkpoint, an adapter, a hub name, or "tiny".

    `device` is torch's name of one; by default the GPU where there is one. Weights are bfloat16 there, float32 on a
    CPU.
    """
    return load_checkpoint(find_checkpoint(str(name), revision=revision), device=device)


def load_checkpoint(checkpoint: Checkpoint, *, device: str | None = None) -> Grounder:
    """A grounder from a checkpoint that was found; `device` as in `load`."""
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = load_model(checkpoint, dtype=torch.float32 if place.type == "cpu" else torch.bfloat16)
    return Grounder(model.to(place).eval(), load_processor(checkpoint), checkpoint.name, checkpoint)  # type: ignore[arg-type]
