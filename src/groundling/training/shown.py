"""Samples read back from what the model is given: words from token ids, pictures from patches, boxes from both.

Nothing here comes from a record, so what is shown of a sample, and is right, proves the whole way to the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Literal, NamedTuple

from PIL import Image

from groundling.dialect.answer import Answer, read_answer
from groundling.inference.batch import IGNORED, Sample
from groundling.model.patches import Patches, join_patches
from groundling.model.processor import Processor

Kind = Literal["picture", "prompt", "learned"]
KINDS: tuple[Kind, ...] = ("picture", "prompt", "learned")

_HALF = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer shows of a character that goes on in the next token


class Chip(NamedTuple):
    """A token as it reads; or several that stand for one thing: a picture's, or those that make one character."""

    text: str  # nothing in it is invisible
    ids: tuple[int, ...]
    kind: Kind
    is_control: bool


class Span(NamedTuple):
    """Neighbouring tokens of one kind, and of one sample where there are several (by its place among them)."""

    kind: Kind
    tokens: int
    sample: int = 0


@dataclass(frozen=True)
class ShownSample:
    """A sample as the model gets it. `picture` and `answer`, in the picture's seen frame, are None for words alone."""

    chips: list[Chip]
    picture: Image.Image | None
    answer: Answer | None

    @cached_property
    def counts(self) -> dict[Kind, int]:
        """Tokens of each kind."""
        return {kind: sum(len(chip.ids) for chip in self.chips if chip.kind == kind) for kind in KINDS}

    @property
    def tokens(self) -> int:
        """All of them."""
        return sum(self.counts.values())

    @property
    def spans(self) -> list[Span]:
        """What it holds, in order."""
        kinds: list[Kind] = [chip.kind for chip in self.chips for _ in chip.ids]
        return spans_of(kinds, [0] * len(kinds))

    @property
    def prompt(self) -> str:
        """What is asked, control tokens and all; the picture's tokens are counted in its place."""
        return "".join(
            f"{len(chip.ids)} x {chip.text}" if chip.kind == "picture" else chip.text
            for chip in self.chips
            if chip.kind != "learned"
        )

    @property
    def learned(self) -> str:
        """What is learned, with its end token."""
        return "".join(chip.text for chip in self.chips if chip.kind == "learned")


def show_sample(sample: Sample, processor: Processor) -> ShownSample:
    """The sample read back. Its boxes are those that the learned tokens say."""
    chips = list(read_chips(sample.input_ids, sample.labels, processor))
    if sample.patches is None:
        return ShownSample(chips, None, None)
    learned = [label for label in sample.labels if label not in (IGNORED, processor.end_token_id)]
    answer = read_answer(_decode(learned, processor), family=processor.family.name, seen=sample.patches.seen)
    return ShownSample(chips, restore_picture(sample.patches, processor), answer)


def restore_picture(patches: Patches, processor: Processor) -> Image.Image:
    """The picture that lies in a processor's patches: its cutting undone."""
    return Image.fromarray(join_patches(patches, processor.images.patch_size, processor.images.merge_size))


def kinds_of(input_ids: Sequence[int], labels: Sequence[int], processor: Processor) -> list[Kind]:
    """What each token is, by its label first: what is learned is learned, wherever it stands."""
    return [_kind(token, label, processor) for token, label in zip(input_ids, labels, strict=True)]


def spans_of(kinds: Sequence[Kind], samples: Sequence[int]) -> list[Span]:
    """Tokens, each of a kind and a sample, in spans as long as both stay the same."""
    return [Span(kind, len(list(alike)), sample) for (kind, sample), alike in groupby(zip(kinds, samples, strict=True))]


def _kind(token: int, label: int, processor: Processor) -> Kind:
    if label != IGNORED:
        return "learned"
    return "picture" if token == processor.image_token_id else "prompt"


# ---- tokens ----------------------------------------------------------------------------------------------------


def read_chips(input_ids: Sequence[int], labels: Sequence[int], processor: Processor) -> Iterator[Chip]:
    """Tokens one by one, in order, and together only where one alone says nothing."""
    control = processor.tokenizer.added_tokens_decoder.keys()
    kinds = kinds_of(input_ids, labels, processor)
    alike = groupby(zip(input_ids, kinds, strict=True), key=lambda pair: (pair[1], pair[0] in control))
    for (kind, is_control), pairs in alike:
        ids = [token for token, _ in pairs]
        if kind == "picture":
            yield Chip(_decode(ids[:1], processor), tuple(ids), kind, is_control)
        else:
            yield from (Chip(text, group, kind, is_control) for text, group in _whole_characters(ids, processor))


def _whole_characters(ids: Sequence[int], processor: Processor) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Visible text with its tokens: those of a character that takes several stand together."""
    waiting: list[int] = []
    for place, token in enumerate(ids):
        waiting.append(token)
        text = _decode(waiting, processor)
        if not text.endswith(_HALF) or place == len(ids) - 1:
            yield make_visible(text), tuple(waiting)
            waiting = []


def _decode(ids: Sequence[int], processor: Processor) -> str:
    return str(processor.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def make_visible(text: str) -> str:
    r"""The text with what cannot be seen written out: `\n`, `\x1b`, `\u202e`. Spaces stay."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
