"""What the tokens of a byte-level vocabulary spell: which go on with a number or a label, and how a text is spelled.

The families' tokenizers spell every digit by a token of its own, so a number is the same tokens wherever it stands.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase

from groundling.errors import ContractError

Place = Literal["before", "spaced", "inside", "escaped"]
"""Where in a JSON string a token begins: before ` "`, behind that space, inside, or behind an escape's backslash."""

Spellers = Literal["any", "words"] | Place
"""All tokens; those that are no control tokens; those that go on with a string from there and leave it open."""

# What may stand between quotes in JSON (RFC 8259, section 7), \u left out: no label that is learned needs it.
_LETTER = rb'(?:[^"\\\x00-\x1f]|\\["\\/bfnrt])'
_BEGINS: dict[Place, bytes] = {"before": rb' "', "spaced": b'"', "inside": b"", "escaped": rb'["\\/bfnrt]'}
_STAYS: dict[Place, re.Pattern[bytes]] = {
    place: re.compile(begin + _LETTER + rb"*(\\?)") for place, begin in _BEGINS.items()
}
_STAYS["before"] = re.compile(rb' (?:"' + _LETTER + rb"*(\\?))?")  # the quote may belong to the label's first token
_BEHIND: dict[bytes | None, Place] = {None: "spaced", b"": "inside", b"\\": "escaped"}
_CLOSES: dict[Place, re.Pattern[bytes]] = {
    place: re.compile(begin + _LETTER + rb'*(".*)', re.DOTALL) for place, begin in _BEGINS.items()
}


class Vocabulary:
    """The tokens of one tokenizer. ContractError where it does not spell numbers digit by digit."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._spelled_texts: dict[str, tuple[int, ...]] = {}
        self._read_tokens: dict[int, bytes] = {}
        self._masks: dict[tuple[Spellers, int, torch.device], torch.Tensor] = {}
        self.digits = [self._digit(digit) for digit in range(10)]

    def _digit(self, digit: int) -> int:
        found = self.spell(f"{digit}{digit}")
        if len(found) != 2 or found[0] != found[1]:
            raise ContractError(
                "the tokenizer does not spell numbers digit by digit, so they cannot be held in a frame"
            )
        return found[0]

    def spell(self, text: str) -> tuple[int, ...]:
        """The tokens of a text, control tokens in it included."""
        if text not in self._spelled_texts:
            self._spelled_texts[text] = tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])  # type: ignore[arg-type]
        return self._spelled_texts[text]

    def read(self, tokens: Sequence[int]) -> list[str]:
        """What each token adds to the text that they all spell; a letter of several tokens comes with the last."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        last = len(tokens) - 1
        return [decoder.decode(self._read(token), final=place == last) for place, token in enumerate(tokens)]

    def _read(self, token: int) -> bytes:
        """A token's bytes, none for a number that the tokenizer does not know: a model may have more."""
        if token not in self._read_tokens:
            word = str(self._tokenizer.convert_ids_to_tokens(token) or "")
            is_spelled = token not in self._tokenizer.added_tokens_decoder and all(letter in _BYTES for letter in word)
            self._read_tokens[token] = bytes(_BYTES[letter] for letter in word) if is_spelled else word.encode()
        return self._read_tokens[token]

    @cached_property
    def words(self) -> dict[int, bytes]:
        """What each token spells, the added ones (control tokens) left out."""
        added = self._tokenizer.added_tokens_decoder
        return {
            number: bytes(_BYTES[letter] for letter in token)
            for token, number in self._tokenizer.get_vocab().items()
            if number not in added and all(letter in _BYTES for letter in token)
        }

    @cached_property
    def closing(self) -> dict[Place, dict[bytes, list[int]]]:
        """Tokens that close a JSON string, by where they begin and what they spell from the closing quote on."""
        found: dict[Place, dict[bytes, list[int]]] = {}
        for place, pattern in _CLOSES.items():
            closers = found.setdefault(place, {})
            for number, word in self.words.items():
                if match := pattern.fullmatch(word):
                    closers.setdefault(match[1], []).append(number)
        return found

    def place_behind(self, token: int, place: Place) -> Place:
        """Where the next token begins, behind one that began there and left the string open."""
        match = _STAYS[place].fullmatch(self.words[token])
        assert match is not None, "the token leaves the string open"
        return _BEHIND[match[1]]

    def mask(self, spellers: Spellers, size: int, device: torch.device) -> torch.Tensor:
        """(size,) bool: which of a model's logits belong to such tokens."""
        key = (spellers, size, device)
        if key not in self._masks:
            mask = torch.full((size,), spellers == "any")
            if spellers != "any":
                mask[self._numbers(spellers)] = True
            self._masks[key] = mask.to(device)
        return self._masks[key]

    def _numbers(self, spellers: Place | Literal["words"]) -> list[int]:
        if spellers == "words":
            return list(self.words)
        return [number for number, word in self.words.items() if _STAYS[spellers].fullmatch(word)]


def _bytes_of_letters() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for (GPT-2's table): itself where it is printable."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTES = _bytes_of_letters()
