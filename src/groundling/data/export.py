"""Records, and what models answered, into the formats of other tools: to be trained with there, or to be labelled on.

Formats of chats hold a record a line, its boxes in the frame that the tool expects. Formats of labelled pictures hold
what all records about a picture say of it, in the picture's own pixels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from groundling.data.check import check
from groundling.data.convert import refuse_overwriting, rejected_file, write_rejected
from groundling.data.formats import qwen_chat, tutorial
from groundling.data.formats.chat import Chat, TextFrame, Turn, declared_frame, resized_to, write_targets
from groundling.data.formats.found import option_of
from groundling.data.labelled import LabelledPicture, label_picture, refuse_unknown_labels
from groundling.data.pictures import FOLDER, UprightPictures
from groundling.data.record import Record, Rejected
from groundling.data.writers import swift, voc, yolo
from groundling.data.writers.coco import refuse_unnumbered, write_coco, write_results
from groundling.data.writers.coco_numbers import read_coco_numbers
from groundling.data.writers.createml import write_createml
from groundling.data.writers.label_studio import write_label_studio
from groundling.data.writers.labelme import write_labelme
from groundling.data.writers.writing import Writing, hold_all, refuse_points, write_document
from groundling.dialect.family import AnswerForm, find_family
from groundling.errors import ImageError, RecordError, SettingsError
from groundling.geometry.images import read_frame


class Exported(NamedTuple):
    """What was written where, how many records it holds, and those that the format cannot hold."""

    file: Path  # a folder, for formats that are one
    written: int
    rejected: list[Rejected]


def export(
    records: Sequence[Record],
    format: str,
    out: str | Path,
    *,
    family: str | None = None,
    max_tokens: int | None = None,
    labels: Sequence[str] | None = None,
    one_based: bool = False,
    url_prefix: str = "",
    like: str | Path | None = None,
) -> Exported:
    """Write records in the format of that name, a key of FORMATS: what `convert` of the same name undoes.

    Pictures outside `out`'s folder are copied; those that their metadata turn are written upright, since many tools
    pass over that. Extra keys are left out. Records that the format cannot hold, and those in which `check` finds an
    error, go to OUT.rejected.jsonl. Where pictures are labelled, one such record takes its picture along: without it a
    thing would be missing there, and be learned as background. SettingsError for options that do not fit, and where
    something that was there would be overwritten.

    `family` and `max_tokens`, the budget of one picture in visual tokens, say how boxes stand in a text. `labels` are
    the only classes written, in the order of their numbers. `one_based` as in `voc`, `url_prefix` as in `label_studio`.
    `like` is the COCO file that `coco-results` are scored against.
    """
    found, file = _find_format(format), Path(out)
    writing = Writing(
        family=family,
        max_tokens=max_tokens,
        labels=None if labels is None else tuple(labels),
        one_based=one_based,
        url_prefix=url_prefix,
        like=None if like is None else read_coco_numbers(like),
    )
    _check_options(format, found, writing)
    if labels is not None:
        refuse_unknown_labels(records, labels)
    _refuse_harm(records, found, file, like)
    if isinstance(found, ChatFormat):
        rejected = _write_chats(records, found, file, writing)
    else:
        rejected = _write_pictures(records, found, file, writing)
    write_rejected(rejected, file)
    return Exported(file, len(records) - len(rejected), rejected)


def find_faults(records: Sequence[Record]) -> list[str | None]:
    """What `check` finds wrong with each record, the first error of each; None where there is none."""
    numbered = [replace(record, id=str(number)) for number, record in enumerate(records)]
    faults: dict[str | None, str] = {}
    for finding in check(numbered):
        if finding.level == "error":
            faults.setdefault(finding.record, finding.message)
    return [faults.get(record.id) for record in numbered]


# ---- chats: a record a line ------------------------------------------------------------------------------------

WriteLine = Callable[[Record, str | None], dict[str, Any]]
"""The object of a line, from a record and its picture's path as the file names it; RecordError where it cannot be."""


def _write_chats(records: Sequence[Record], format: ChatFormat, file: Path, writing: Writing) -> list[Rejected]:
    """Write JSONL, or a JSON list where `file` ends in .json; returns what is not in it."""
    write_line = format.prepare(writing)
    pictures = UprightPictures(file.parent / FOLDER, file.parent)
    entries: list[dict[str, Any]] = []
    rejected: list[Rejected] = []
    for record, fault in zip(records, find_faults(records), strict=True):
        try:
            if fault is not None:
                raise RecordError(fault)
            entries.append(write_line(record, _place_picture(record, pictures, file.parent)))
        except (RecordError, ImageError) as error:
            rejected.append(_reject(record, str(error)))
    if entries:
        _write_entries(entries, file)
    return rejected


def _place_picture(record: Record, pictures: UprightPictures, folder: Path) -> str | None:
    """Its path relative to the file that is written, below whose folder it lies or is copied."""
    if record.image is None:
        return None
    return pictures.place(record.image).resolve().relative_to(folder.resolve()).as_posix()


def _write_entries(entries: Sequence[dict[str, Any]], file: Path) -> None:
    if file.suffix == ".json":
        write_document(entries, file)
        return
    lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(lines), encoding="utf-8", newline="\n")


def _tutorial_lines(writing: Writing) -> WriteLine:
    def write(record: Record, image: str | None) -> dict[str, Any]:
        if image is None or len(record.targets) != 1 or record.targets[0].box is None:
            raise RecordError("the tutorial's format holds one box on one picture a line, and nothing else")
        return tutorial.write_chat(_chat_of(record, image, tutorial.FRAME, "bare"))

    return write


def _qwen_chat_lines(writing: Writing) -> WriteLine:
    assert writing.family is not None, "the user names it"
    frame, form = _family_frame(writing.family, writing.max_tokens), find_family(writing.family).answer_form
    return lambda record, image: qwen_chat.write_chat(_chat_of(record, image, frame, form))


def _swift_lines(writing: Writing) -> WriteLine:
    form: AnswerForm = "tokens" if writing.family is None else find_family(writing.family).answer_form
    return lambda record, image: swift.write_line(record, image, form)


def _family_frame(name: str, max_tokens: int | None) -> TextFrame:
    family = find_family(name)
    if family.coordinates == "thousandths":
        return declared_frame("thousandths")  # whatever the budget
    if max_tokens is None:
        raise SettingsError(f"{name} counts pixels of the resized picture; give the budget it trains at: --max-tokens")
    return resized_to(max_tokens * family.token_side**2, family)


def _chat_of(record: Record, image: str | None, frame: TextFrame, form: AnswerForm) -> Chat:
    answer = record.answer
    if answer is None and record.image is not None:
        answer = write_targets(record.targets, read_frame(record.image), frame, form)
    return Chat(image, [Turn(record.question, answer or "")], record.id)


# ---- labelled pictures -----------------------------------------------------------------------------------------


def _write_pictures(records: Sequence[Record], format: PictureFormat, file: Path, writing: Writing) -> list[Rejected]:
    """Write the file or folder; returns what is not in it."""
    found = enumerate(zip(records, find_faults(records), strict=True))
    reasons = {number: fault or _refuse(record, format, writing) for number, (record, fault) in found}
    faults = {number: reason for number, reason in reasons.items() if reason is not None}
    place = _placing(format, file)
    about: dict[Path, list[Record]] = {}
    for image, numbers in _group_by_picture(records).items():
        if format.is_complete:
            faults |= _spread_fault(numbers, faults, records)
        sound = [number for number in numbers if number not in faults]
        if not sound:
            continue
        try:
            about.setdefault(place(image), []).extend(records[number] for number in sound)
        except ImageError as error:
            faults |= dict.fromkeys(sound, str(error))
    pictures = [replace(label_picture(asked, writing.labels), image=image) for image, asked in about.items()]
    if pictures:
        format.write(pictures, file, writing)
    return [_reject(records[number], faults[number]) for number in sorted(faults)]


def _refuse(record: Record, format: PictureFormat, writing: Writing) -> str | None:
    if record.image is None or record.answer is not None:
        return "general instruction data, which says nothing of places on a picture"
    return format.refuse(record, writing)


def _group_by_picture(records: Sequence[Record]) -> dict[Path, list[int]]:
    """The numbers of the records that label each picture. Links stay as they are."""
    groups: dict[Path, list[int]] = {}
    for number, record in enumerate(records):
        if record.image is not None and record.answer is None:
            groups.setdefault(Path(os.path.abspath(record.image)), []).append(number)
    return groups


def _spread_fault(numbers: Sequence[int], faults: Mapping[int, str], records: Sequence[Record]) -> dict[int, str]:
    """Why none of these records of one picture can be written where one of them cannot."""
    faulty = [number for number in numbers if number in faults]
    if not faulty:
        return {}
    reason = f"left out with its picture, on which the things of {records[faulty[0]].place} would be missing"
    return {number: reason for number in numbers if number not in faults}


def _placing(format: PictureFormat, file: Path) -> Callable[[Path], Path]:
    """Where a picture is once it is placed."""
    if format.pictures is None:
        return lambda image: image
    if format.is_folder:
        return UprightPictures(file / format.pictures, file / format.pictures, paired=True).place
    return UprightPictures(file.parent / format.pictures, file.parent).place


def _reject(record: Record, reason: str) -> Rejected:
    return Rejected(str(record.file or record.id), record.line, reason)


# ---- the formats -----------------------------------------------------------------------------------------------


class ChatFormat(NamedTuple):
    """A format of questions and answers. `heeds` are the fields of `Writing` that it takes, `needs` some of them."""

    prepare: Callable[[Writing], WriteLine]
    heeds: tuple[str, ...] = ()
    needs: tuple[str, str] | None = None  # a field, and why it has to be given
    words: str = ""  # what it is, for a list of formats


class PictureFormat(NamedTuple):
    """A format of labelled pictures; a file, or a folder (`is_folder`)."""

    write: Callable[[Sequence[LabelledPicture], Path, Writing], None]
    refuse: Callable[[Record, Writing], str | None]  # why it cannot hold a record
    heeds: tuple[str, ...] = ("labels",)
    needs: tuple[str, str] | None = None
    words: str = ""
    pictures: str | None = FOLDER  # where they lie, seen from the folder that is written to; None: not written
    is_folder: bool = False
    is_complete: bool = True  # whether what is not labelled on a picture counts as not being there
    owned: tuple[str, ...] = ()  # patterns of the files that a folder of this format holds beside its pictures


FORMATS: dict[str, ChatFormat | PictureFormat] = {
    "tutorial": ChatFormat(_tutorial_lines, words="JSONL of image, query, response, as the TextVQA tutorial trains on"),
    "qwen-chat": ChatFormat(
        _qwen_chat_lines,
        heeds=("family", "max_tokens"),
        needs=("family", "it holds boxes as one family of models writes them"),
        words="conversations of from and value, boxes as the family writes them",
    ),
    "swift": ChatFormat(
        _swift_lines, heeds=("family",), words="ms-swift's messages and objects, boxes in pixels of the picture"
    ),
    "coco": PictureFormat(write_coco, refuse_points, words="COCO's JSON of images, annotations, categories"),
    "coco-results": PictureFormat(
        write_results,
        refuse_unnumbered,
        heeds=("like",),
        needs=("like", "its numbers are those of the COCO file that the results are scored against"),
        words="the list of boxes and scores that COCO's evaluators take",
        pictures=None,
        is_complete=False,
    ),
    "yolo": PictureFormat(
        yolo.write_yolo,
        refuse_points,
        words="a folder of data.yaml, images and labels",
        pictures=yolo.IMAGES,
        is_folder=True,
        owned=(yolo.NAMES, f"{yolo.LABELS}/**/*.txt"),
    ),
    "voc": PictureFormat(
        voc.write_voc,
        voc.refuse_unwritable,
        heeds=("labels", "one_based"),
        words="a folder of JPEGImages and Annotations",
        pictures=voc.IMAGES,
        is_folder=True,
        owned=(f"{voc.ANNOTATIONS}/**/*.xml",),
    ),
    "label-studio": PictureFormat(
        write_label_studio,
        hold_all,
        heeds=("labels", "url_prefix"),
        words="Label Studio's tasks, the boxes as predictions to correct",
    ),
    "labelme": PictureFormat(
        write_labelme,
        hold_all,
        words="a folder of pictures, a JSON file beside each",
        pictures="",
        is_folder=True,
        owned=("**/*.json",),
    ),
    "createml": PictureFormat(write_createml, refuse_points, words="CreateML's JSON list"),
}
"""By the name that `groundling export` knows."""


def _find_format(name: str) -> ChatFormat | PictureFormat:
    if name not in FORMATS:
        raise SettingsError(f"unknown format {name!r}; groundling writes {', '.join(FORMATS)}")
    return FORMATS[name]


def _check_options(name: str, format: ChatFormat | PictureFormat, writing: Writing) -> None:
    surplus = [option for option in writing.given if option not in format.heeds]
    if surplus:
        raise SettingsError(f"{name} takes no {' or '.join(map(option_of, surplus))}; leave it out")
    if format.needs is not None and format.needs[0] not in writing.given:
        option, reason = format.needs
        raise SettingsError(f"{name} needs {option_of(option)}: {reason}")
    if isinstance(format, ChatFormat):
        format.prepare(writing)  # a family that is unknown, or lacks its budget


def _refuse_harm(
    records: Sequence[Record], format: ChatFormat | PictureFormat, out: Path, like: str | Path | None
) -> None:
    """SettingsError where something that is there already would be overwritten, or mixed with what is written."""
    folder = format if isinstance(format, PictureFormat) and format.is_folder else None
    written = [rejected_file(out)] if folder else [out, rejected_file(out)]
    read = {place for record in records for place in (record.file, record.image) if place is not None}
    for source in read if like is None else {*read, Path(like)}:
        refuse_overwriting(source, written)
    if folder is None:
        if out.is_file():
            raise SettingsError(f"{out} is there already; delete it, or name another")
        return
    if out.exists() and not out.is_dir():
        raise SettingsError(f"{out} is a file, and the format is a folder; name a new one")
    labels = (file for pattern in folder.owned for file in out.glob(pattern))
    own = {place.resolve() for place in read}
    placed = (out / folder.pictures).rglob("*") if folder.pictures else ()
    others = (file for file in placed if file.is_file() and file.resolve() not in own)
    present = next(chain(labels, others), None)
    if present is not None:
        raise SettingsError(f"{present} is there already, and would be overwritten or mixed up; name a new folder")
