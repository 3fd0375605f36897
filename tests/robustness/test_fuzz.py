"""Random damage for FUZZ_SECONDS (60) a reader: whatever a file holds is read or refused with a reason.

Every damage comes from its number, so a failure names the one that does it again.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_sources import picture, save_lines, save_picture

from groundling.data.export import export
from groundling.data.formats.chat import declared_frame
from groundling.data.formats.detection import Annotated
from groundling.data.formats.found import Found, Reading
from groundling.data.record import Record, Rejected, Target
from groundling.data.sources import FORMATS
from groundling.dialect.answer import FLAWS, read_answer
from groundling.errors import GroundlingError
from groundling.geometry.frame import Frame

SECONDS = float(os.environ.get("FUZZ_SECONDS", "60"))
SEEN = Frame(1036, 672)

# What mutations put in, beside random bytes: what readers have stumbled over, here or elsewhere
WORDS = (
    *(b"null", b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"true", b'""', b"[]", b"{}", b"[[]]", b"," * 9),
    *(b"[" * 3000, b"9" * 5000, b"../../../etc/passwd", b"/etc/passwd", b"http://127.0.0.1:9/x.jpg", b"\\u0000"),
    *(b"&lol;", b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>", b"!!python/object:os.system", b"\\ud800"),
    *(b"\x00", b"%00", b"\xff\xfe"),
)


def damage(raw: bytes, dice: random.Random) -> bytes:
    """The bytes after a few cuts, copies, swaps and insertions."""
    for _ in range(dice.randint(1, 4)):
        start = dice.randint(0, len(raw))
        end = min(len(raw), start + dice.choice([0, 1, 2, 8, 40, 400]))
        pieces = [b"", dice.choice(WORDS), dice.randbytes(dice.randint(1, 6)), raw[start:end] * 2, raw[start:end][::-1]]
        raw = raw[:start] + dice.choice(pieces) + raw[end:]
        if numbers := list(re.finditer(rb"-?\d+(?:\.\d+)?", raw)):
            number = dice.choice(numbers)
            raw = raw[: number.start()] + dice.choice([*WORDS[:12], number[0]]) + raw[number.end() :]
    return raw


# ---- a sound source of each format -----------------------------------------------------------------------------

DOG = [262, 210, 323, 338]


def _exported(format: str, name: str = "", **options: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        image = save_picture(folder.parent / "origin" / "photo.jpg")
        targets = (Target(box=(262, 210, 323, 338), label="dog"), Target(box=(1, 2, 30, 40), label="dog"))
        record = Record("dog", image, targets[:1] if format == "tutorial" else targets, id="1")
        export([record], format, folder / name if name else folder, **options)
        return folder / name if name and format != "coco" else folder

    return make


def _lines(*entries: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        save_picture(folder / "photo.jpg")
        return save_lines(folder / "a.jsonl", *entries)

    return make


def _cvat(folder: Path) -> Path:
    save_picture(folder / "photo.jpg")
    box = '<box label="dog" xtl="262" ytl="210" xbr="323" ybr="338" occluded="0"></box>'
    image = f'<image id="0" name="photo.jpg" width="640" height="480">{box}</image>'
    meta = "<meta><task><labels><label><name>dog</name></label></labels></task></meta>"
    (folder / "a.xml").write_text(f"<annotations><version>1.1</version>{meta}{image}</annotations>")
    return folder / "a.xml"


def _label_studio(folder: Path) -> Path:
    save_picture(folder / "photo.jpg")
    value = {"x": 40.9, "y": 43.75, "width": 9.5, "height": 26.7, "rotation": 0, "rectanglelabels": ["dog"]}
    result = {"type": "rectanglelabels", "value": value, "original_width": 640, "original_height": 480}
    task = {"id": 1, "data": {"image": "/data/upload/1/photo.jpg"}, "annotations": [{"id": 2, "result": [result]}]}
    (folder / "a.json").write_text(json.dumps([task]))
    return folder / "a.json"


def _refcoco(folder: Path) -> Path:
    save_picture(folder / "photo.jpg")
    images = [{"id": 7, "file_name": "photo.jpg", "width": 640, "height": 480}]
    annotations = [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [262, 210, 61, 128]}]
    whole = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "dog"}]}
    refs = [{"ref_id": 5, "ann_id": 1, "image_id": 7, "split": "val", "sentences": [{"sent": "the dog"}]}]
    (folder / "instances.json").write_text(json.dumps(whole))
    (folder / "refs(unc).json").write_text(json.dumps(refs))
    return folder


def _parquet(**columns: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        image = {"bytes": picture(), "path": "photo.jpg"}
        pq.write_table(pa.Table.from_pylist([{"image": image} | columns] * 3), folder / "a.parquet")
        return folder / "a.parquet"

    return make


_ANSWER = json.dumps({"bbox_2d": DOG, "label": "dog"})
_OBJECTS = {"ref": ["dog"], "bbox": [DOG], "bbox_type": "real"}
_SWIFT = [
    {"role": "user", "content": "<image>find <ref-object>"},
    {"role": "assistant", "content": "<bbox>"},
]
SOURCES: dict[str, Callable[[Path], Path]] = {
    "textvqa": _parquet(question="what?", answer=["dog"], dataset_id="1", bbox=[262.0, 210.0, 61.0, 128.0]),
    "tutorial": _exported("tutorial", "a.jsonl"),
    "qwen-chat": _exported("qwen-chat", "a.json", family="qwen3_vl"),
    "swift": _lines({"messages": _SWIFT, "images": ["photo.jpg"], "objects": _OBJECTS}),
    "llamafactory": _lines(
        {
            "conversations": [{"from": "human", "value": "<image>dog"}, {"from": "gpt", "value": _ANSWER}],
            "images": ["photo.jpg"],
        }
    ),
    "roboflow": _lines(
        {"image": "photo.jpg", "prefix": "detect dog", "suffix": "<loc0256><loc0102><loc0512><loc0800> dog"}
    ),
    "label-studio": _label_studio,
    "cvat": _cvat,
    "odvg": _lines(
        {
            "filename": "photo.jpg",
            "width": 640,
            "height": 480,
            "detection": {"instances": [{"bbox": DOG, "label": 0, "category": "dog"}]},
        },
        {"filename": "photo.jpg", "grounding": {"caption": "a dog", "regions": [{"bbox": [DOG], "phrase": "a dog"}]}},
    ),
    "coco": _exported("coco", "annotations.json"),
    "yolo": _exported("yolo"),
    "voc": _exported("voc"),
    "labelme": _exported("labelme"),
    "createml": _exported("createml", "a.json"),
    "refcoco": _refcoco,
    "hf-objects": _parquet(objects={"bbox": [[262.0, 210.0, 61.0, 128.0]], "category": ["dog"]}),
}
NEEDS_FRAME = ("qwen-chat", "swift", "llamafactory", "roboflow")


def _reading(format: str) -> Reading:
    if format in NEEDS_FRAME:
        return Reading(frame=declared_frame("thousandths"))
    return Reading(box_form="xywh") if format == "hf-objects" else Reading()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a reader opens a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_every_format_is_here() -> None:
    assert SOURCES.keys() == FORMATS.keys()


@pytest.mark.parametrize("format", FORMATS)
def test_the_sound_sources_are_read(format: str, tmp_path: Path) -> None:
    found = list(FORMATS[format].read(str(SOURCES[format](tmp_path / "set")), _reading(format)))
    assert any(isinstance(item, Found | Annotated) for item in found)
    assert not [item for item in found if isinstance(item, Rejected)]


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_reader_stands_damage(format: str, tmp_path: Path, no_network: None) -> None:
    source = SOURCES[format](tmp_path / "set")
    folder = source if source.is_dir() else source.parent
    (tmp_path / "secret.jpg").write_bytes(picture())
    sound = {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
    texts = [file for file in sound if file.suffix not in (".jpg", ".png")]
    until, number, slowest = time.monotonic() + SECONDS, 0, 0.0
    while time.monotonic() < until:
        dice = random.Random(f"{format} {number}")
        file = dice.choice(texts)
        file.write_bytes(damage(sound[file], dice))
        begun = time.process_time()
        try:
            for item in FORMATS[format].read(str(source), _reading(format)):
                if isinstance(item, Found | Annotated) and isinstance(item.image, Path):
                    assert item.image.resolve().is_relative_to(folder.resolve()), f"damage {number}: {item.image}"
        except GroundlingError:
            pass
        except Exception as error:
            shutil.copy(file, tmp_path / f"damage-{number}")
            raise AssertionError(f"damage {number} of {format}: {type(error).__name__}: {error}") from error
        slowest = max(slowest, time.process_time() - begun)
        file.write_bytes(sound[file])
        number += 1
    assert number > 50 and slowest < 5, f"{number} damages, the slowest took {slowest:.1f} s"


@pytest.mark.slow
def test_the_answer_reader_stands_damage() -> None:
    sound = [
        '```json\n[\n\t{"bbox_2d": [262, 210, 323, 338], "label": "dog"},\n\t{"point_2d": [5, 6]}\n]\n```',
        "<|object_ref_start|>dog<|object_ref_end|><|box_start|>(262,210),(323,338)<|box_end|>",
        "<think>maybe [1, 2, 3, 4]</think>The dog is at [[262, 210, 323, 338]].",
        "{'bbox_2d': [262, 210, 323, 338], 'label': 'the \"dog\"'}",
    ]
    until, number = time.monotonic() + SECONDS, 0
    while time.monotonic() < until:
        dice = random.Random(number)
        text = damage(dice.choice(sound).encode(), dice).decode("utf-8", errors="surrogateescape")
        answer = read_answer(text, family=dice.choice(["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]), seen=SEEN)
        assert answer.flaw in (None, *FLAWS) and answer.text == text, f"damage {number}"
        assert len(answer.labels) == len(answer.boxes) + len(answer.points), f"damage {number}"
        assert (answer.boxes.areas() > 0).all() and (answer.boxes.clip().xyxy == answer.boxes.xyxy).all()
        number += 1
    assert number > 1000
