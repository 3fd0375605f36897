"""ms-swift's lines for grounding: the text holds marks, and `objects` what stands in their place. One (made by hand):

    {"messages": [{"role": "user", "content": "<image>the cat"},
                  {"role": "assistant", "content": "<ref-object><bbox>"}],
     "images": ["images/7.jpg"], "objects": {"ref": ["cat"], "bbox": [[10, 20, 40, 60]], "bbox_type": "real"}}

Boxes (four numbers) and points (two) are in the picture's own pixels: the tool itself brings them into the frame of the
model that it trains. Source: ms-swift, "custom dataset", section grounding (version 4, 2026).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from groundling.data.record import Record, Target
from groundling.dialect.family import AnswerForm
from groundling.errors import RecordError

_MARKS = ("<image>", "<video>", "<audio>", "<ref-object>", "<bbox>")


def write_line(record: Record, image: str | None, form: AnswerForm) -> dict[str, Any]:
    """The object of one line. RecordError where a text holds marks of its own.

    In the forms of JSON the marks stand inside it, as the vendor's own models answer; that needs QWENVL_BBOX_FORMAT=new
    where it is trained. A label is then escaped as JSON wants it, so that the text is right once it is put in.
    """
    _refuse_marks(record)
    is_json = form != "tokens"
    answer = record.answer if record.answer is not None else _write_answer(record.targets, is_json)
    question = record.question if image is None else f"<image>{record.question}"
    line: dict[str, Any] = {"id": record.id} if record.id else {}
    line["messages"] = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    if image is not None:
        line["images"] = [image]
    if record.targets:
        boxes = [list(target.numbers) for target in record.targets]
        line["objects"] = {"ref": _list_labels(record.targets, is_json), "bbox": boxes, "bbox_type": "real"}
    return line


def _write_answer(targets: Sequence[Target], is_json: bool) -> str:
    """The text with its marks; `[]` for no targets, as everywhere."""
    if not targets:
        return "[]"
    if not is_json:
        return ("<ref-object><bbox>" if _is_labelled(targets) else "<bbox>") * len(targets)
    rows = [
        f'{{"{"point_2d" if target.box is None else "bbox_2d"}": <bbox>'
        + ("}" if target.label is None else ', "label": "<ref-object>"}')
        for target in targets
    ]
    return "```json\n[\n\t" + ",\n\t".join(rows) + "\n]\n```"


def _list_labels(targets: Sequence[Target], is_json: bool) -> list[str]:
    """What takes the place of each `<ref-object>`."""
    if is_json:
        return [json.dumps(target.label, ensure_ascii=False)[1:-1] for target in targets if target.label is not None]
    return [target.label or "" for target in targets] if _is_labelled(targets) else []


def _is_labelled(targets: Sequence[Target]) -> bool:
    """Whether any has a label: in the form of tokens it holds until the next one, so then all get one, be it empty."""
    return any(target.label is not None for target in targets)


def _refuse_marks(record: Record) -> None:
    texts = [record.question, record.answer or "", *(target.label or "" for target in record.targets)]
    found = [mark for mark in _MARKS if any(mark in text for text in texts)]
    if found:
        raise RecordError(f"a text of it holds {found[0]}, in whose place ms-swift would put something else")
