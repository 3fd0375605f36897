"""What tokens spell."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from groundling.errors import ContractError
from groundling.model.processor import Processor
from groundling.model.vocabulary import Vocabulary


@pytest.fixture
def vocabulary(tiny_processor: Processor) -> Vocabulary:
    return Vocabulary(tiny_processor.tokenizer)


def test_every_token_but_control_tokens_is_spelled(vocabulary: Vocabulary, tiny_processor: Processor):
    tokenizer = tiny_processor.tokenizer

    assert len(vocabulary.words) == len(tokenizer) - len(tokenizer.added_tokens_decoder)
    for token in vocabulary.spell("The m\u00fcg, \n\t[12] \u4e16"):
        assert token in vocabulary.words
    text = "a \u00e9t\u00e9 {[\n\t"
    assert b"".join(vocabulary.words[token] for token in vocabulary.spell(text)) == text.encode()


def test_numbers_are_spelled_by_their_digits(vocabulary: Vocabulary):
    assert vocabulary.spell("9071") == tuple(vocabulary.digits[digit] for digit in (9, 0, 7, 1))


def test_tokens_inside_a_json_string_leave_it_open(vocabulary: Vocabulary):
    mask = vocabulary.mask("inside", 900, torch.device("cpu"))

    assert mask.sum() > 500
    for token, word in vocabulary.words.items():
        if mask[token]:
            rest = "n" if vocabulary.place_behind(token, "inside") == "escaped" else ""
            assert json.loads(f'"{word.decode(errors="replace")}{rest}"') is not None
    assert not mask[list(vocabulary.spell('"<|im_end|>'))].any()


def test_closing_tokens_by_what_they_spell_from_the_quote_on(vocabulary: Vocabulary):
    (closer,) = vocabulary.spell('"}')

    assert closer in vocabulary.closing["inside"][b'"}']
    assert b'"}' not in vocabulary.closing["escaped"] or closer not in vocabulary.closing["escaped"][b'"}']
    for spelled, tokens in vocabulary.closing["inside"].items():
        assert spelled.startswith(b'"')
        assert all(vocabulary.words[token].endswith(spelled) for token in tokens)


def test_a_backslash_waits_for_the_next_token(vocabulary: Vocabulary):
    (backslash,) = vocabulary.spell("\\")

    assert vocabulary.place_behind(backslash, "inside") == "escaped"
    assert vocabulary.place_behind(backslash, "escaped") == "inside"


def test_a_tokenizer_that_joins_digits_is_refused():
    words = {"1": 0, "11": 1, "[UNK]": 2}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="[UNK]")))

    with pytest.raises(ContractError, match="does not spell numbers digit by digit"):
        Vocabulary(tokenizer)


def test_tokens_are_read_one_by_one_as_the_tokenizer_reads_them_together(
    vocabulary: Vocabulary, tiny_processor: Processor
):
    """Halves of letters, control tokens and numbers that no token has among them."""
    tokenizer = tiny_processor.tokenizer
    rng = np.random.default_rng(0)
    for _ in range(50):
        tokens = rng.integers(0, len(tokenizer) + 30, size=40).tolist()
        pieces = vocabulary.read(tokens)
        assert len(pieces) == len(tokens)
        assert "".join(pieces) == tokenizer.decode(tokens, clean_up_tokenization_spaces=False)


def test_a_letter_of_several_tokens_comes_with_the_last(vocabulary: Vocabulary):
    tokens = vocabulary.spell("a\u4e16b")
    assert len(tokens) > 3, "in bytes"

    pieces = vocabulary.read(tokens)

    assert [piece for piece in pieces if piece] == ["a", "\u4e16", "b"]
    assert vocabulary.read(tokens[:2]) == ["a", "\ufffd"], "a letter that was cut off"
    assert vocabulary.read([]) == []
