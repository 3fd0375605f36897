"""Answers while they are written, token by token: freely, or held to the grammar of their form.

A line says which tokens may come next; where only one may, it is written without asking the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from groundling.dialect.family import AnswerForm
from groundling.dialect.grammar import Filled, Label, Number, Slot, may_begin, skeleton
from groundling.dialect.score import Chance
from groundling.geometry.frame import Frame
from groundling.model.vocabulary import Place, Spellers, Vocabulary

MOST_LABEL_TOKENS = 48


class Choices(NamedTuple):
    """The tokens that may come next: some by number, and all of a kind."""

    tokens: Sequence[int]
    spellers: Spellers | None = None


class Line(Protocol):
    """An answer that is being written."""

    tokens: list[int]  # so far, without the one that ends it
    chances: list[Chance | None]  # of each; None where the model did not choose it

    @property
    def is_full(self) -> bool:
        """Whether the model would have gone on, had there been room."""
        ...

    @property
    def choices(self) -> Choices | None:
        """What may come next; None where the answer is complete."""
        ...

    def refuse(self, token: int) -> bool:
        """Whether there is no room for what the token begins; from then on it is no choice."""
        ...

    def write(self, token: int, chance: Chance | None = None) -> list[int]:
        """Take the next token; what was written is it and whatever has to follow."""
        ...


class Chosen(NamedTuple):
    """A token that comes next, and what the model thought of it; None where it wanted one that has no room."""

    token: int
    chance: Chance | None


class FreeLine:
    """Any tokens, up to one of `ends` or to `most` of them."""

    def __init__(self, ends: Sequence[int], most: int) -> None:
        self.tokens: list[int] = []
        self.chances: list[Chance | None] = []
        self._ends = ends
        self._most = most
        self._is_ended = False

    @property
    def choices(self) -> Choices | None:
        """All tokens, until the end."""
        return None if self._is_ended or len(self.tokens) >= self._most else Choices((), "any")

    @property
    def is_full(self) -> bool:
        """Whether it was cut before its end."""
        return not self._is_ended and len(self.tokens) >= self._most

    def refuse(self, token: int) -> bool:
        """Never: a free answer is cut where its room ends."""
        return False

    def write(self, token: int, chance: Chance | None = None) -> list[int]:
        """The token, unless it ends the answer."""
        self._is_ended = token in self._ends
        if not self._is_ended:
            self.tokens.append(token)
            self.chances.append(chance)
        return [token]


class ForcedLine:
    """Only what the grammar of `form` has in the text's `frame`.

    Another thing may begin while there are fewer than `most` tokens, so an answer of that many can be given whole. One
    there always may be, and a thing begun is written to its end.
    """

    def __init__(self, vocabulary: Vocabulary, form: AnswerForm, frame: Frame, end: str, most: int) -> None:
        self.tokens: list[int] = []
        self.chances: list[Chance | None] = []
        self.is_full = False
        self._vocabulary = vocabulary
        self._most = most
        self._skeleton = skeleton(form, frame, end)
        self._slot: Slot | None = next(self._skeleton)
        self._written = 0  # tokens in the slot
        self._value = 0  # of the number in it
        self._place: Place = "before"  # in the label
        self._branches: list[tuple[int, tuple[int, ...]]] = []  # texts begun: which, and the tokens that are left

    @property
    def choices(self) -> Choices | None:
        """What the grammar allows."""
        slot = self._slot
        if slot is None:
            return None
        if self._branches:
            return Choices([rest[0] for _, rest in self._branches])
        firsts = [self._vocabulary.spell(text)[0] for _, text in self._texts(slot)]
        if isinstance(slot, Number):
            is_number = self._written > 0 and slot.least <= self._value <= slot.most
            digits = [] if self.is_full else self._digits(slot)  # the model has ended the number, as a label below
            return Choices([*digits, *(firsts if is_number else [])])
        if isinstance(slot, Label):
            return self._label_choices(slot)
        return Choices(firsts)

    def refuse(self, token: int) -> bool:
        """Whether the token begins another thing and nothing else, and there is no room for one."""
        slot = self._slot
        if slot is None or not slot.more or len(self.tokens) < self._most:
            return False
        texts = self._begun(token, slot)
        others = [rest[0] for branch, rest in texts if not 1 <= branch <= slot.more]
        ends = [(branch, rest) for branch, rest in self._branches if not branch]
        if not texts or (self._branches and not ends) or token in others:
            return False  # no other thing, one that is begun already, or perhaps one
        self.is_full = True
        self._branches = ends
        return True

    def write(self, token: int, chance: Chance | None = None) -> list[int]:
        """The token, and all that stand alone behind it."""
        before = len(self.tokens)
        self._push(token)
        while (choices := self.choices) is not None and not choices.spellers and len(set(choices.tokens)) == 1:
            self._push(choices.tokens[0])
        written = self.tokens[before:]
        self.chances += [chance, *[None] * (len(written) - 1)]
        if self._slot is None:
            self.tokens.pop()  # the end token
            self.chances.pop()
        return written

    def _texts(self, slot: Slot) -> list[tuple[int, str]]:
        """What may follow in the slot, by its branch; the end alone where the model has ended the last thing."""
        return list(enumerate(slot.then[:1] if self.is_full else slot.then))

    def _digits(self, slot: Number) -> list[int]:
        if self._written and not self._value:
            return []  # nothing follows a leading 0
        begun = (self._value * 10 + digit for digit in range(10))
        return [self._vocabulary.digits[value % 10] for value in begun if may_begin(value, slot.least, slot.most)]

    def _label_choices(self, slot: Label) -> Choices:
        is_long = self._written >= MOST_LABEL_TOKENS
        if not slot.is_quoted:
            return Choices([self._vocabulary.spell(slot.then[0])[0]], None if is_long else "words")
        if self.is_full and self._place == "inside":  # the model has ended the label, with what has no room
            return Choices([self._vocabulary.spell(text)[0] for _, text in self._texts(slot)])
        return Choices(list(self._closers(slot)), None if is_long and self._place == "inside" else self._place)

    def _closers(self, slot: Label) -> dict[int, bytes]:
        """Tokens that close the label and go on as one of its texts does, with what they spell from the quote on."""
        starts = {text.partition("<|")[0].encode() for _, text in self._texts(slot)}
        beginnings = {start[:length] for start in starts for length in range(1, len(start) + 1)}
        closing = self._vocabulary.closing[self._place]
        return {token: spelled for spelled in beginnings & closing.keys() for token in closing[spelled]}

    # ---- one token further

    def _push(self, token: int) -> None:
        slot = self._slot
        assert slot is not None, "a complete answer is not written further"
        self.tokens.append(token)
        begun = self._begun(token, slot)
        if begun:
            self._go_on(token, begun)
            return
        self._written += 1
        if isinstance(slot, Number):
            self._value = self._value * 10 + self._vocabulary.digits.index(token)
        elif isinstance(slot, Label) and slot.is_quoted:
            self._place = self._vocabulary.place_behind(token, self._place)

    def _closes(self, slot: Label, token: int) -> bool:
        if slot.is_quoted:
            return token in self._closers(slot)
        return token == self._vocabulary.spell(slot.then[0])[0]

    def _begun(self, token: int, slot: Slot) -> list[tuple[int, tuple[int, ...]]]:
        """The fixed texts that are begun or that the token may begin; none where it is of a number or a label."""
        if self._branches:
            return self._branches
        is_digit = isinstance(slot, Number) and token in self._vocabulary.digits
        is_word = isinstance(slot, Label) and not self._closes(slot, token)
        return [] if is_digit or is_word else self._begin(token, slot)

    def _go_on(self, token: int, begun: list[tuple[int, tuple[int, ...]]]) -> None:
        """A token of the fixed texts."""
        self._branches = [(branch, rest[1:]) for branch, rest in begun if rest[0] == token]
        assert self._branches, "only what may come next is written"
        if not self._branches[0][1]:
            self._fill(self._branches[0][0])

    def _begin(self, token: int, slot: Slot) -> list[tuple[int, tuple[int, ...]]]:
        """The texts that the token may begin, each as tokens from it on."""
        spell = self._vocabulary.spell
        if isinstance(slot, Label) and slot.is_quoted:
            start = self._closers(slot)[token].decode()
            texts = [(branch, text) for branch, text in self._texts(slot) if text.startswith(start)]
            return [(branch, (token, *spell(text[len(start) :]))) for branch, text in texts]
        return [(branch, spell(text)) for branch, text in self._texts(slot)]

    def _fill(self, branch: int) -> None:
        filled = Filled(branch, self._value)
        self._branches, self._written, self._value, self._place = [], 0, 0, "before"
        try:
            self._slot = self._skeleton.send(filled)
        except StopIteration:
            self._slot = None


def choose(logits: torch.Tensor, lines: Sequence[Line], vocabulary: Vocabulary) -> list[Chosen]:
    """For each line the likeliest of the tokens that may come next; `logits` is (lines, vocabulary)."""
    tokens = _find_likeliest(logits, lines, vocabulary)
    refused = [line.refuse(token) for line, token in zip(lines, tokens.tolist(), strict=True)]
    if any(refused):
        tokens = _find_likeliest(logits, lines, vocabulary)
    wide = logits.float()
    asked = torch.cat([wide.gather(1, tokens.unsqueeze(1)), wide[:, vocabulary.digits]], dim=1)
    chances = (asked - wide.logsumexp(dim=1, keepdim=True)).exp().nan_to_num(0)  # of broken weights
    return [
        Chosen(token, None if is_other else Chance(own, digits))
        for token, (own, *digits), is_other in zip(tokens.tolist(), chances.tolist(), refused, strict=True)
    ]


def _find_likeliest(logits: torch.Tensor, lines: Sequence[Line], vocabulary: Vocabulary) -> torch.Tensor:
    """(lines,) tokens."""
    allowed = [line.choices for line in lines]
    assert all(choices is not None for choices in allowed), "only lines that go on are written"
    few = [list(choices.tokens) for choices in allowed if choices is not None]
    most = max(1, *map(len, few))
    padded = torch.tensor([tokens + [-1] * (most - len(tokens)) for tokens in few], device=logits.device)
    found = logits.gather(1, padded.clamp(min=0)).masked_fill(padded < 0, -torch.inf).max(dim=1)
    tokens, best = padded.gather(1, found.indices.unsqueeze(1)).squeeze(1), found.values
    kinds: set[Spellers] = {choices.spellers for choices in allowed if choices is not None and choices.spellers}
    for spellers in kinds:
        is_open = torch.tensor(
            [choices is not None and choices.spellers == spellers for choices in allowed], device=logits.device
        )
        mask = vocabulary.mask(spellers, logits.shape[1], logits.device)
        other = logits.masked_fill(~mask, -torch.inf).max(dim=1)
        tokens = torch.where(is_open & (other.values > best), other.indices, tokens)
    return tokens
