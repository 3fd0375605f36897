r"""A preview in words: for a terminal with colors, or as plain lines for a pipe or where NO_COLOR is set.

Of a sample on a terminal, what is learned has alternating colors, a token each; without colors, bars between tokens:

    1           train.jsonl:4182 (train-0934-star)
      picture   336x336, seen as 112x112
      tokens    16 of the picture + 41 of the prompt + 35 learned = 92 of 8,192 tokens allowed
      prompt    <|im_start|>system\nYou are ... <|vision_start|>16 x <|image_pad|><|vision_end|>Locate the star ...
      learned   [|{"|bbox|_|2|d|":| [|5|0|,| |5|2|,| |9|6|,| |1|0|1|],| "|label|":| "|star|"}]|<|im_end|>
      box       [150, 156, 288, 301.5] star, reads back as [150, 156, 288, 303], IoU 0.99
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from groundling.training.preview import (
    Place,
    Preview,
    ShownExample,
    count_findings,
    describe_epoch,
    describe_row,
    describe_sample,
    show_count,
    show_numbers,
)
from groundling.training.shown import ShownSample, make_visible

_LABEL = 12  # characters of the left column
_LEAST_WIDTH = 20  # of the right one
_LEARNED = ("black on color(215)", "black on color(222)")
_CONTROL = "cyan"
_FAINT = "dim"


class Line(NamedTuple):
    """A label and what it says."""

    label: str
    words: Text


def print_preview(preview: Preview, console: Console) -> None:
    """Write the preview; lines are broken on a terminal only."""
    is_colored = console.color_system is not None and not console.no_color
    room = max(_LEAST_WIDTH, console.width - _LABEL)
    for label, words in tell(preview, is_colored=is_colored):
        style = _FAINT if label.startswith(" ") else "bold"
        for number, part in enumerate(words.wrap(console, room) if console.is_terminal else [words]):
            line = Text.assemble((("" if number else f"{label} ").ljust(_LABEL), style), part)
            line.rstrip()
            console.print(line, soft_wrap=True)


def tell(preview: Preview, *, is_colored: bool) -> Iterator[Line]:
    """The first samples, row by row, then the whole epoch and what was found in the data."""
    shown, of = len(preview.samples), preview.epoch.samples
    yield Line(preview.name, Text(f"the first {shown:,} of {of:,} samples, as the model will see them", style="bold"))
    for row in preview.rows:
        yield Line("", Text())
        yield Line(f"row {row.number}", Text(describe_row(row)))
        for sample in row.samples:
            yield Line("", Text())
            yield from _tell_sample(sample, preview.most, is_colored=is_colored)
        if row.size > len(row.samples):
            yield Line("", Text())
            yield Line("", Text(f"and {row.size - len(row.samples):,} more in this row", style=_FAINT))
    yield Line("", Text())
    for name, words in describe_epoch(preview).items():
        yield Line(name, Text(words))
    yield from _tell_findings(preview)


def _tell_sample(shown: ShownExample, most: int, *, is_colored: bool) -> Iterator[Line]:
    yield Line(str(shown.number), Text(make_visible(f"{shown.record.place} ({shown.record.id})")))
    if shown.original is not None:
        shared = f", {shown.shared:,} tokens shared with sample {shown.root}" if shown.shared else ""
        yield Line("  picture", Text(f"{shown.original}, seen as {shown.seen}{shared}"))
    yield Line("  tokens", Text(describe_sample(shown.sample, most)))
    yield Line("  prompt", _prompt(shown.sample))
    yield Line("  learned", _learned(shown.sample, is_colored=is_colored))
    for place in shown.places:
        yield _tell_place(place)


def _prompt(sample: ShownSample) -> Text:
    """Control tokens apart from words."""
    words = Text()
    for chip in sample.chips:
        if chip.kind == "picture":
            words.append(f"{len(chip.ids):,} x {chip.text}", style=_CONTROL)
        elif chip.kind == "prompt":
            words.append(chip.text, style=_CONTROL if chip.is_control else "")
    return words


def _learned(sample: ShownSample, *, is_colored: bool) -> Text:
    """Where one token ends and the next begins, by color or by a bar."""
    texts = [chip.text for chip in sample.chips if chip.kind == "learned"]
    if not is_colored:
        return Text("|".join(texts))
    return Text.assemble(*((text, _LEARNED[number % len(_LEARNED)]) for number, text in enumerate(texts)))


def _tell_place(place: Place) -> Line:
    numbers = place.truth or place.read or ()
    label = "" if place.label is None else f" {make_visible(place.label)}"
    words = Text(f"{show_numbers(place.truth)}{label}, reads back as {show_numbers(place.read)}, ")
    words.append(place.verdict, style="" if place.is_good else "bold red")
    return Line("  box" if len(numbers) == 4 else "  point", words)


def _tell_findings(preview: Preview) -> Iterator[Line]:
    found = count_findings(preview)
    if not any(one.is_set_aside for one in found):
        yield Line("set aside", Text("none"))
    for one in found:
        words = f"{one.code}, {show_count(one.records, 'record')}: {one.meaning}"
        yield Line("set aside" if one.is_set_aside else "noticed", Text(words))
