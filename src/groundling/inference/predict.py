"""A grounder: a loaded model that is asked about pictures and answers in their own pixels."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from groundling.dialect.answer import Answer, read_answer
from groundling.errors import SettingsError
from groundling.geometry.frame import Frame
from groundling.geometry.images import MAX_PIXELS, Source, open_image
from groundling.inference.batch import Sample, encode_question
from groundling.inference.generate import generate_texts
from groundling.model.contract import Contract
from groundling.model.load import find_checkpoint, load_model, load_processor
from groundling.model.processor import Processor

BATCH_SIZE = 16
BATCHES_AT_ONCE = 4  # read before any is asked, so that questions of like length come together
MAX_NEW_TOKENS = 512

log = logging.getLogger(__name__)


class Question(NamedTuple):
    """A bare question about a picture: a path, bytes, a PIL image or an array."""

    image: Source
    text: str


class Answered(NamedTuple):
    """An answer in the picture's own upright pixels, and that picture's size."""

    answer: Answer
    original: Frame


class _Asked(NamedTuple):
    """A question as the model takes it, and its picture's size before and after."""

    prompt: Sample
    seen: Frame
    original: Frame


@dataclass(frozen=True)
class Grounder:
    """A model and its processor under one contract."""

    model: PreTrainedModel
    processor: Processor
    name: str

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
    ) -> list[Answer]:
        """One answer a question, in order. ImageError names a picture that cannot be read."""
        asked = [Question(image, text) for image, text in questions]
        return [found.answer for found in self.answer_each(asked, batch_size=batch_size, max_new_tokens=max_new_tokens)]

    def answer_each(
        self,
        questions: Sequence[Question],
        *,
        batch_size: int = BATCH_SIZE,
        max_new_tokens: int = MAX_NEW_TOKENS,
        max_pixels: int = MAX_PIXELS,
    ) -> Iterator[Answered]:
        """As `predict_many`, a few batches at a time: of those the resized pictures are held, of one the original."""
        if batch_size < 1 or max_new_tokens < 1:
            raise SettingsError(f"batch_size is {batch_size} and max_new_tokens {max_new_tokens}; both start at 1")
        for start in range(0, len(questions), batch_size * BATCHES_AT_ONCE):
            group = questions[start : start + batch_size * BATCHES_AT_ONCE]
            asked = [self._ask(question, max_pixels) for question in group]
            prompts = [question.prompt for question in asked]
            texts = generate_texts(
                self.model, self.processor, prompts, batch_size=batch_size, max_new_tokens=max_new_tokens
            )
            for text, question in zip(texts, asked, strict=True):
                answer = read_answer(text, family=self.contract.family, seen=question.seen)
                yield Answered(answer.to(question.original), question.original)

    def _ask(self, question: Question, max_pixels: int) -> _Asked:
        picture = open_image(question.image, max_pixels=max_pixels)
        patches = self.processor.see(picture)
        return _Asked(encode_question(self.processor, question.text, patches), patches.seen, Frame(*picture.size))

    def with_max_tokens(self, max_tokens: int) -> Grounder:
        """The same model with another budget of visual tokens for one picture; its boxes stay in the right place.

        A model answers best at the budget it was trained with, so the change is said aloud.
        """
        contract = self.contract.with_max_tokens(max_tokens)
        log.warning(
            "budget of %d visual tokens; %s was trained with %d", max_tokens, self.name, self.contract.budget.max_tokens
        )
        return replace(self, processor=self.processor.with_contract(contract))


def load(name: str | Path, *, revision: str | None = None, device: str | None = None) -> Grounder:
    """A grounder from a run folder (its best, else final), any checkpoint, an adapter, a hub name, or "tiny".

    `device` is torch's name of one; by default the GPU where there is one. Weights are bfloat16 there, float32 on a
    CPU.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    checkpoint = find_checkpoint(str(name), revision=revision)
    model = load_model(checkpoint, dtype=torch.float32 if place.type == "cpu" else torch.bfloat16)
    return Grounder(model.to(place).eval(), load_processor(checkpoint), str(name))  # type: ignore[arg-type]
