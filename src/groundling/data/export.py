"""Records into the formats that other tools train on, their boxes in the frame that those tools expect."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from groundling.data.check import check
from groundling.data.convert import refuse_overwriting, rejected_file, write_rejected
from groundling.data.formats import qwen_chat, tutorial
from groundling.data.formats.chat import Chat, TextFrame, Turn, declared_frame, resized_to, write_targets
from groundling.data.pictures import Pictures
from groundling.data.record import Record, Rejected
from groundling.dialect.family import AnswerForm, find_family
from groundling.errors import ImageError, RecordError, SettingsError
from groundling.geometry.images import read_frame


class Exported(NamedTuple):
    """What was written where, and which records the format cannot hold."""

    file: Path
    written: int
    rejected: list[Rejected]


class _Style(NamedTuple):
    """How one format is written for one model."""

    write_chat: Callable[[Chat], dict[str, Any]]
    frame: TextFrame
    form: AnswerForm


def export(
    records: Sequence[Record],
    format: str,
    out: str | Path,
    *,
    family: str | None = None,
    max_tokens: int | None = None,
) -> Exported:
    """Write `tutorial` (its frame and form are fixed) or `qwen-chat` (boxes as `family` writes them): undoes `convert`.

    `max_tokens` is the budget of one picture in visual tokens, needed where the family counts resized pixels. JSONL, or
    a JSON list where `out` ends in .json. Pictures outside its folder are copied to `images` there. Questions stay
    bare: no prompt is put around them. Extra keys are left out; records that the format cannot hold, and those in which
    `check` finds an error, go to OUT.rejected.jsonl. SettingsError for options that do not fit, and where a file that
    was read would be overwritten.
    """
    file = Path(out)
    for source in {record.file for record in records if record.file is not None}:
        refuse_overwriting(source, [file, rejected_file(file)])
    style = _find_style(format, family, max_tokens)
    pictures = Pictures(file.parent)
    entries: list[dict[str, Any]] = []
    rejected: list[Rejected] = []
    for record, fault in zip(records, find_faults(records), strict=True):
        try:
            if fault is not None:
                raise RecordError(fault)
            entries.append(style.write_chat(_chat_of(record, style, pictures)))
        except (RecordError, ImageError) as error:
            rejected.append(Rejected(str(record.file or record.id), record.line, str(error)))
    write_rejected(rejected, file)
    _write_entries(entries, file)
    return Exported(file, len(entries), rejected)


def find_faults(records: Sequence[Record]) -> list[str | None]:
    """What `check` finds wrong with each record, the first error of each; None where there is none."""
    numbered = [replace(record, id=str(number)) for number, record in enumerate(records)]
    faults: dict[str | None, str] = {}
    for finding in check(numbered):
        if finding.level == "error":
            faults.setdefault(finding.record, finding.message)
    return [faults.get(record.id) for record in numbered]


def _find_style(format: str, family: str | None, max_tokens: int | None) -> _Style:
    if format == "tutorial":
        if family is not None or max_tokens is not None:
            raise SettingsError("the tutorial's file is for one model and one budget; leave family and max_tokens out")
        return _Style(tutorial.write_chat, tutorial.FRAME, "bare")
    if format != "qwen-chat":
        raise SettingsError(f"unknown format {format!r}; groundling writes tutorial, qwen-chat")
    if family is None:
        raise SettingsError("qwen-chat holds boxes as one family of models writes them; name it with --family")
    return _Style(qwen_chat.write_chat, _family_frame(family, max_tokens), find_family(family).answer_form)


def _family_frame(name: str, max_tokens: int | None) -> TextFrame:
    family = find_family(name)
    if family.coordinates == "thousandths":
        return declared_frame("thousandths")  # whatever the budget
    if max_tokens is None:
        raise SettingsError(f"{name} counts pixels of the resized picture; give the budget it trains at: --max-tokens")
    return resized_to(max_tokens * family.token_side**2, family)


def _chat_of(record: Record, style: _Style, pictures: Pictures) -> Chat:
    is_one_box = record.image is not None and len(record.targets) == 1 and record.targets[0].box is not None
    if style.form == "bare" and not is_one_box:
        raise RecordError("the tutorial's format holds one box on one picture a line, and nothing else")
    if record.image is None:
        return Chat(None, [Turn(record.question, record.answer or "")], record.id)
    answer = record.answer
    if answer is None:
        answer = write_targets(record.targets, read_frame(record.image), style.frame, style.form)
    return Chat(_place_picture(record.image, pictures), [Turn(record.question, answer)], record.id)


def _place_picture(image: Path, pictures: Pictures) -> str:
    """Its path relative to the file that is written, below whose folder it lies or is copied."""
    folder = pictures.folder.parent.resolve()
    if not image.resolve().is_relative_to(folder):
        image = pictures.keep(image, image.name).path
    return image.resolve().relative_to(folder).as_posix()


def _write_entries(entries: Sequence[dict[str, Any]], file: Path) -> None:
    texts = [json.dumps(entry, ensure_ascii=False) for entry in entries]
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "[\n" + ",\n".join(texts) + "\n]\n" if file.suffix == ".json" else "".join(f"{text}\n" for text in texts)
    file.write_text(text, encoding="utf-8", newline="\n")
