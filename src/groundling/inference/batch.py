"""What a model takes: token ids, labels and positions of a question, and the batches made of them.

Two layouts. Training joins its samples end to end in one packed row: positions restart with each sample, and the
stretches keep them apart, so nothing is padded. Samples about one picture are a tree there: what they begin with, the
picture above all, stands in the row once, and each goes on from it, seeing nothing of the others; their gradients are
those of samples apart. Generation stands its prompts side by side, padded on the left.

A label is made where its token is made: IGNORED in the prompt, the token itself in the answer and its end token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice, pairwise, takewhile
from typing import Any, NamedTuple

import torch
from PIL import Image

from groundling.data.record import Record
from groundling.dialect.answer import Item, write_answer
from groundling.dialect.prompt import Piece, write_prompt
from groundling.geometry.boxes import Points
from groundling.geometry.frame import Frame
from groundling.model.layout import Layout, Stretch
from groundling.model.patches import Patches
from groundling.model.processor import Processor

IGNORED = -100  # torch's cross_entropy passes over this label


class Sample(NamedTuple):
    """One question, with its answer where that is to be learned, before it is joined with others."""

    input_ids: list[int]
    labels: list[int]  # as long as input_ids
    patches: Patches | None  # None without a picture


# ---- one sample ------------------------------------------------------------------------------------------------


class Sketch(NamedTuple):
    """A sample in words, before it is encoded. In its prompt one token stands for all of its picture's."""

    prompt: list[Piece]
    answer: list[Piece]  # with its end token
    visual_tokens: int  # 0 without a picture


def sketch_sample(processor: Processor, record: Record, original: Frame | None, patches: Patches | None) -> Sketch:
    """A record's question and right answer about a picture of the `original` size; both are None without one.

    The targets are scaled to the frame that the processor makes of it. General instruction data is asked as it stands,
    without the prompt template.
    """
    end = Piece(processor.family.end_token, is_control=True)
    if record.answer is not None:
        return _sketch_prompt(processor, record.question, [Piece(record.answer, is_control=False), end], patches)
    assert original is not None and patches is not None, "targets lie in a picture"
    words = write_prompt(processor.contract.prompt_template, record.question)
    return _sketch_prompt(processor, words, [*answer_pieces(processor, record, original, patches.seen), end], patches)


def _sketch_prompt(processor: Processor, words: str, answer: list[Piece], patches: Patches | None) -> Sketch:
    turns = processor.turns(has_image=patches is not None)
    opening, asking = Piece(turns.opening, is_control=True), Piece(turns.asking, is_control=True)
    visual_tokens = 0 if patches is None else _visual_tokens(patches.grid, processor.family.merge)
    return Sketch([opening, Piece(words, is_control=False), asking], answer, visual_tokens)


def encode_question(processor: Processor, question: str, patches: Patches) -> Sample:
    """The prompt for a bare question about a picture, ready to be answered; nothing in it is learned."""
    words = write_prompt(processor.contract.prompt_template, question)
    return _encode(processor, _sketch_prompt(processor, words, [], patches), patches)


def encode_record(processor: Processor, record: Record, picture: Image.Image | None) -> Sample:
    """A record's question about its upright picture, and the answer that the model should learn."""
    if picture is None:
        return encode_words(processor, record, None)
    return encode_seen(processor, record, Frame(*picture.size), processor.see(picture))


def encode_seen(processor: Processor, record: Record, original: Frame, patches: Patches) -> Sample:
    """As `encode_record`, for a picture that the processor has seen already."""
    return _encode(processor, sketch_sample(processor, record, original, patches), patches)


def encode_words(processor: Processor, record: Record, patches: Patches | None) -> Sample:
    """General instruction data, with or without a picture."""
    assert record.answer is not None, "a record without targets has an answer text"
    return _encode(processor, sketch_sample(processor, record, None, patches), patches)


def _encode(processor: Processor, sketch: Sketch, patches: Patches | None) -> Sample:
    prompt, answer = encode_apart(processor, [sketch.prompt, sketch.answer])
    if patches is not None:
        place = prompt.index(processor.image_token_id)
        prompt[place : place + 1] = [processor.image_token_id] * sketch.visual_tokens
    return Sample(prompt + answer, [IGNORED] * len(prompt) + answer, patches)


def answer_pieces(processor: Processor, record: Record, original: Frame, seen: Frame) -> list[Piece]:
    """The right answer to a record as the model's family writes it for a picture seen so."""
    frame = processor.family.text_frame(seen)
    boxes = iter(record.true_boxes(original).to(frame).xyxy.tolist())
    spots = [target.point for target in record.targets if target.point is not None]
    points = iter(Points(spots, original).to(frame).xy.tolist() if spots else [])
    items = [Item(tuple(next(points if target.box is None else boxes)), target.label) for target in record.targets]
    return write_answer(items, processor.contract.answer_form, frame)


def encode_pieces(processor: Processor, pieces: Sequence[Piece]) -> list[int]:
    """Token ids of text in pieces. Control tokens act only in control pieces; elsewhere they are plain characters."""
    return encode_apart(processor, [pieces])[0]


def encode_apart(processor: Processor, parts: Sequence[Sequence[Piece]]) -> list[list[int]]:
    """Token ids of each part, as `encode_pieces` gives them; asked at once, as each call of a tokenizer takes time."""
    cut = [_cut_pieces(processor, pieces) for pieces in parts]
    encoded = iter(_encode_texts(processor, [text for texts in cut for text in texts]))
    return [[token for ids in islice(encoded, len(texts)) for token in ids] for texts in cut]


def _encode_texts(processor: Processor, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    found = processor.tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)
    return found["input_ids"]  # type: ignore[return-value]


def _cut_pieces(processor: Processor, pieces: Sequence[Piece]) -> list[str]:
    """The texts that are encoded one by one."""
    begins = processor.control_begins
    return [text for piece in pieces for text in ([piece.text] if piece.is_control else _defuse(piece.text, begins))]


def _defuse(text: str, begins: re.Pattern[str]) -> list[str]:
    """The text cut after the first character of every control token in it, so that none is left whole."""
    cuts = [0, *(match.start() + 1 for match in begins.finditer(text)), len(text)]
    return [text[start:end] for start, end in pairwise(cuts)]


def _visual_tokens(grid: tuple[int, int, int], merge: int) -> int:
    time, rows, columns = grid
    return time * rows * columns // merge**2


# ---- lengths ---------------------------------------------------------------------------------------------------


class Counted(NamedTuple):
    """Tokens of a sample."""

    tokens: int  # all of them
    shared: int  # up to its picture's end, which its picture's questions share; 0 without a picture
    learned: int  # of its answer, the end token among them


def count_tokens(processor: Processor, sketches: Sequence[Sketch]) -> list[Counted]:
    """The tokens that each sample has once it is encoded; what several say alike is read once for all of them."""
    prompts = [_cut_pieces(processor, sketch.prompt) for sketch in sketches]
    answers = [_cut_pieces(processor, sketch.answer) for sketch in sketches]
    texts = list(dict.fromkeys(text for cut in (*prompts, *answers) for text in cut))
    tokenizer: Any = processor.tokenizer  # its own call makes lists of all ids, which takes a third longer
    encoded = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    count = dict(zip(texts, map(len, encoded), strict=True))
    before_picture = _before_picture(processor) if any(sketch.visual_tokens for sketch in sketches) else 0
    counted: list[Counted] = []
    for sketch, prompt, answer in zip(sketches, prompts, answers, strict=True):
        asked, learned = sum(count[text] for text in prompt), sum(count[text] for text in answer)
        visual = sketch.visual_tokens
        whole = asked + learned + (visual - 1 if visual else 0)  # in place of the one token
        counted.append(Counted(whole, before_picture + visual if visual else 0, learned))
    return counted


def _before_picture(processor: Processor) -> int:
    """Tokens of a prompt that stand before its picture's."""
    opening = Piece(processor.turns(has_image=True).opening, is_control=True)
    return encode_pieces(processor, [opening]).index(processor.image_token_id)


# ---- positions -------------------------------------------------------------------------------------------------


def mrope_positions(input_ids: list[int], grid: tuple[int, int, int] | None, processor: Processor) -> torch.Tensor:
    """(3, T): time, row and column of each token (multimodal rotary positions, arXiv 2409.12191 section 2.1).

    Words count up in all three alike. The picture's tokens keep one time, and count rows and columns from where the
    words stopped; the words after it go on past the larger of its sides.
    """
    length = len(input_ids)
    if grid is None:
        return torch.arange(length).expand(3, -1)
    start = input_ids.index(processor.image_token_id)
    time, rows, columns = grid[0], grid[1] // processor.family.merge, grid[2] // processor.family.merge
    places = torch.cartesian_prod(torch.arange(time), torch.arange(rows), torch.arange(columns)).T + start
    after = start + max(rows, columns)
    tail = torch.arange(length - start - places.shape[1]) + after
    return torch.cat([torch.arange(start).expand(3, -1), places, tail.expand(3, -1)], dim=1)


# ---- batches ---------------------------------------------------------------------------------------------------


def pack_row(samples: Sequence[Sample], processor: Processor) -> dict[str, Any]:
    """The samples as one row without padding: what the model's forward takes for training.

    `input_ids`, `labels` (1, T); `position_ids` (4, 1, T), the text position first, then time, row, column, all
    restarting with each sample; `layout`, for `packed_attention`; pixels and grids of the pictures in order. Samples
    that hold the same `patches` object share what they begin with.
    """
    stretches = share_prefixes(samples, processor)
    starts = [stretch.prefix for stretch in stretches]
    positions = [_packed_positions(sample, processor)[:, start:] for sample, start in zip(samples, starts, strict=True)]
    row: dict[str, Any] = {
        "input_ids": torch.tensor([_joined([sample.input_ids for sample in samples], starts)]),
        "labels": torch.tensor([_joined([sample.labels for sample in samples], starts)]),
        "position_ids": torch.cat(positions, dim=1).unsqueeze(1),
        "layout": Layout(stretches),
        "use_cache": False,
    }
    assert row["position_ids"].shape == (4, 1, row["input_ids"].shape[1]), (
        "without positions the model falls back to 1-D"
    )
    return row | _join_pictures([sample for sample, start in zip(samples, starts, strict=True) if not start])


def share_prefixes(samples: Sequence[Sample], processor: Processor) -> list[Stretch]:
    """What of each sample has to stand in a row.

    Of the first about a picture all; of the others what comes behind the tokens that they begin with like the first.
    """
    roots: dict[int, int] = {}  # the picture's identity -> place of the first sample about it
    stretches: list[Stretch] = []
    for place, sample in enumerate(samples):
        root = place if sample.patches is None else roots.setdefault(id(sample.patches), place)
        prefix = 0 if root == place else _common_prompt(samples[root], sample)
        if processor.image_token_id in sample.input_ids[prefix:]:
            prefix = 0  # words before the picture differ, so the picture's states do
        stretches.append(Stretch(len(sample.input_ids) - prefix, prefix, root if prefix else 0))
    return stretches


def _common_prompt(one: Sample, other: Sample) -> int:
    """How many tokens of two prompts are the same from the start, the last of `other` not among them.

    What stands before an answer foretells its first token, so even of a question that is asked twice each has its own.
    """
    both = zip(one.input_ids, other.input_ids, one.labels, other.labels, strict=False)
    same = sum(1 for _ in takewhile(lambda four: four[0] == four[1] and four[2] == four[3] == IGNORED, both))
    is_whole = same == len(other.input_ids) or other.labels[same] != IGNORED
    return same - is_whole


def _joined(tokens: Sequence[list[int]], starts: Sequence[int]) -> list[int]:
    return [token for whole, start in zip(tokens, starts, strict=True) for token in whole[start:]]


def pad_left(samples: Sequence[Sample], processor: Processor) -> dict[str, torch.Tensor]:
    """Prompts side by side, padded on the left, for `generate`: (B, T) ids, mask and `mm_token_type_ids`."""
    longest = max(len(sample.input_ids) for sample in samples)
    rows = [[processor.pad_token_id] * (longest - len(sample.input_ids)) + sample.input_ids for sample in samples]
    mask = [[0] * (longest - len(sample.input_ids)) + [1] * len(sample.input_ids) for sample in samples]
    ids = torch.tensor(rows)
    return {
        "input_ids": ids,
        "attention_mask": torch.tensor(mask),
        "mm_token_type_ids": (
            ids == processor.image_token_id
        ).int(),  # without it Qwen2.5-VL silently uses 1-D positions
    } | _join_pictures(samples)


def last_positions(samples: Sequence[Sample], processor: Processor) -> torch.Tensor:
    """(4, samples): the positions of each sample's last token, as `pack_row` gives them."""
    return torch.stack([_packed_positions(sample, processor)[:, -1] for sample in samples], dim=1)


def _packed_positions(sample: Sample, processor: Processor) -> torch.Tensor:
    grid = None if sample.patches is None else sample.patches.grid
    return torch.cat([torch.arange(len(sample.input_ids))[None], mrope_positions(sample.input_ids, grid, processor)])


def _join_pictures(samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
    pictures = [sample.patches for sample in samples if sample.patches is not None]
    if not pictures:
        return {}
    return {
        "pixels": torch.cat([patches.pixels for patches in pictures]),  # bytes, until `Processor.normalise`
        "image_grid_thw": torch.tensor([patches.grid for patches in pictures]),
    }
