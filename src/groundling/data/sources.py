"""Every format that is read: one literal table, and the questions that a source in any of them holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from groundling.data.formats.chat import Unplaced, declared_frame
from groundling.data.formats.coco import read_coco
from groundling.data.formats.createml import read_createml
from groundling.data.formats.cvat import read_cvat
from groundling.data.formats.detection import Annotated, place_things
from groundling.data.formats.found import Found, Reading, option_of
from groundling.data.formats.hf_objects import prove_box_form, read_hf_objects
from groundling.data.formats.label_studio import read_label_studio
from groundling.data.formats.labelme import read_labelme
from groundling.data.formats.llamafactory import read_llamafactory
from groundling.data.formats.odvg import read_odvg
from groundling.data.formats.qwen_chat import read_qwen_chat
from groundling.data.formats.refcoco import read_refcoco
from groundling.data.formats.roboflow import read_roboflow
from groundling.data.formats.swift import read_swift
from groundling.data.formats.textvqa import read_textvqa
from groundling.data.formats.tutorial import read_tutorial
from groundling.data.formats.voc import read_voc
from groundling.data.formats.yolo import read_yolo
from groundling.data.frame_proof import Proof, prove_frame
from groundling.data.questions import Asking, ask_about
from groundling.data.recognise import recognise
from groundling.data.record import Rejected
from groundling.errors import GroundlingError, SettingsError
from groundling.geometry.images import read_header

Item = Found | Annotated | Rejected | Unplaced


class Format(NamedTuple):
    """How a format is read. `heeds` are the fields of `Reading` that it takes, and `asking` where it has no questions.

    `frame` among them means that the user has to declare what the numbers of a text count, unless they prove it.
    """

    read: Callable[[str, Reading], Iterator[Item]]
    heeds: tuple[str, ...] = ()
    words: str = ""  # what it is, for a list of formats


FORMATS: dict[str, Format] = {
    "textvqa": Format(read_textvqa, words="Parquet of image, question, answer, bbox (x, y, w, h), from either hub"),
    "tutorial": Format(
        read_tutorial, ("images",), "JSONL of image, query, response, boxes resized within 1003520 pixels"
    ),
    "qwen-chat": Format(
        read_qwen_chat, ("frame", "images"), "conversations of from and value, as LLaVA and Qwen have them"
    ),
    "swift": Format(read_swift, ("frame", "images"), "ms-swift's messages, images and objects"),
    "llamafactory": Format(read_llamafactory, ("frame", "images"), "LLaMA-Factory's conversations or messages, images"),
    "roboflow": Format(read_roboflow, ("frame", "images", "part"), "Roboflow's JSONL of image, prefix and suffix"),
    "label-studio": Format(read_label_studio, ("images", "reduce", "asking"), "Label Studio's JSON or JSON-MIN"),
    "cvat": Format(read_cvat, ("images", "part", "reduce", "asking"), "CVAT for images 1.1, XML"),
    "odvg": Format(read_odvg, ("images", "asking"), "Grounding-DINO's JSONL of detection and grounding"),
    "coco": Format(
        read_coco, ("images", "part", "reduce", "asking"), "JSON of images, annotations and categories; LVIS"
    ),
    "yolo": Format(read_yolo, ("part", "reduce", "asking"), "data.yaml or classes.txt, and a text file a picture"),
    "voc": Format(read_voc, ("images", "part", "one_based", "asking"), "Pascal VOC: an XML file a picture"),
    "labelme": Format(read_labelme, ("images", "part", "reduce", "asking"), "a JSON file of shapes a picture"),
    "createml": Format(read_createml, ("images", "part", "asking"), "JSON list of image and annotations"),
    "refcoco": Format(read_refcoco, ("images", "part"), "refs(...).json beside instances.json, for RefCOCO/+/g"),
    "hf-objects": Format(
        read_hf_objects, ("images", "part", "box_form", "asking"), "Parquet, Arrow or metadata.jsonl with objects"
    ),
}
"""By the name that `groundling convert` knows."""


class Settled(NamedTuple):
    """How a source is read, once it was looked at."""

    format: str
    source: str
    reading: Reading
    notes: list[str]  # what was found out, for the user


def settle(format: str, source: str, reading: Reading, asking: Asking) -> Settled:
    """The format that `auto` stands for, and what was not declared but the source proves: the frame, the form of boxes.

    SettingsError where the source is not recognised, or proves none; and for options as in `read_questions`.
    """
    notes: list[str] = []
    if format == "auto":
        recognised = recognise(source)
        format = recognised.format
        notes.append(f"read as {format}: {recognised.reason}")
    reader = _find_format(format, reading, asking)
    source = _only_file(source) if format in _FILES else source
    if "frame" in reader.heeds and reading.frame is None:
        proof = _prove_frame(format, reader, source, reading)
        if proof is not None:
            reading = replace(reading, frame=declared_frame(proof.words))
            notes.append(proof.note)
    if "box_form" in reader.heeds and reading.box_form is None:
        proof = prove_box_form(source, reading)
        reading = replace(reading, box_form=proof.form)
        notes.append(proof.note)
    _refuse_unknown_labels(reader.read(source, reading), asking)
    return Settled(format, source, reading, notes)


_FILES = ("tutorial", "qwen-chat", "swift", "llamafactory", "label-studio", "odvg")  # whose source is one file


def _only_file(source: str) -> str:
    """The JSON or JSONL file of a folder; SettingsError where there is not exactly one. A file is itself."""
    folder = Path(source)
    if not folder.is_dir():
        return source
    files = sorted(file for file in folder.iterdir() if file.suffix in (".json", ".jsonl") and file.is_file())
    if len(files) != 1:
        found = ", ".join(file.name for file in files[:5]) or "no .json or .jsonl"
        raise SettingsError(f"{source} is a folder with {found}; name the file to read")
    return str(files[0])


def _refuse_unknown_labels(items: Iterator[Item], asking: Asking) -> None:
    """SettingsError for a label that is asked for, and that nothing in the source has or was looked for."""
    if asking.labels is None:
        return
    known: set[str] = set()
    for item in items:
        if isinstance(item, Annotated):
            known.update(thing.label for thing in item.things)
            known.update(item.looked_for or ())
    unknown = [label for label in asking.labels if label not in known]
    if unknown:
        there = ", ".join(sorted(known - {""})[:20]) or "none"
        raise SettingsError(f"nothing is labelled {', '.join(map(repr, unknown))}; the labels are {there}")


def _prove_frame(format: str, reader: Format, source: str, reading: Reading) -> Proof | None:
    """The frame that the source proves; None where every place in it tells its own."""
    unplaced: list[Unplaced] = []
    is_told = False
    for item in reader.read(source, reading):
        if isinstance(item, Unplaced):
            unplaced.append(item)
        is_told = is_told or (isinstance(item, Found) and bool(item.targets))
    return None if is_told and not unplaced else prove_frame(unplaced, format)


def read_questions(format: str, source: str, reading: Reading, asking: Asking) -> Iterator[Found | Rejected]:
    """What the source holds, in order. SettingsError for an unknown format, or for options that it does not take.

    The frame of a text format is settled before.
    """
    reader = _find_format(format, reading, asking)
    known = _all_labels(reader.read(source, reading)) if asking.needs_all_labels else []
    for item in reader.read(source, reading):
        if isinstance(item, Annotated):
            yield from _ask(item, asking, known)
        else:
            assert not isinstance(item, Unplaced), "the frame is settled before"
            yield item


def _ask(annotated: Annotated, asking: Asking, known: Sequence[str]) -> Iterator[Found | Rejected]:
    try:
        placed = place_things(annotated, read_header(annotated.image))
    except GroundlingError as error:
        yield Rejected(str(annotated.file), annotated.line, str(error))
        return
    doubt = {} if placed.doubt is None else {"doubt": placed.doubt}
    yield from ask_about(replace(annotated, things=placed.things, extra={**annotated.extra, **doubt}), asking, known)


def _all_labels(items: Iterator[Item]) -> list[str]:
    """The labels of all things, in alphabetical order, of pictures that do not say what was looked for."""
    pictures = (item for item in items if isinstance(item, Annotated) and item.looked_for is None)
    return sorted({thing.label for picture in pictures for thing in picture.things if thing.label})


def _find_format(name: str, reading: Reading, asking: Asking) -> Format:
    if name not in FORMATS:
        raise SettingsError(f"unknown format {name!r}; groundling reads {', '.join(FORMATS)}, and auto tells which")
    found = FORMATS[name]
    if "frame" not in found.heeds and reading.frame is not None:
        raise SettingsError(f"a frame was declared, but the frame of {name} is known; leave it out")
    given = [field for field in reading.given if field not in (*found.heeds, "frame")]
    if given:
        raise SettingsError(f"{name} takes no {' or '.join(map(option_of, given))}; leave it out")
    if asking != Asking(seed=asking.seed) and "asking" not in found.heeds:
        raise SettingsError(
            f"{name} has questions of its own; --per, --question, --negatives and --labels are for labelled boxes"
        )
    return found
