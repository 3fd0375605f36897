"""RefCOCO, RefCOCO+ and RefCOCOg: sentences that mean one thing on a COCO picture. One entry of the refs (made up):

    {"ref_id": 5, "ann_id": 1, "image_id": 7, "category_id": 3, "split": "val",
     "sentences": [{"sent_id": 12, "sent": "the brown horse", "raw": "The brown horse"}]}

`refs(unc).json` is a list of such; `instances.json` beside it is COCO's own format and holds the boxes. The data sets
come with the refs as a Python pickle, which can run any program when it is opened, so it never is. Source:
lichengunc/refer (2016).
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from groundling.data.formats.coco import Instances, read_annotation, read_instances, read_key
from groundling.data.formats.detection import Annotated, read_size
from groundling.data.formats.documents import read_json
from groundling.data.formats.found import PictureFolder, Reading
from groundling.data.record import Rejected
from groundling.errors import RecordError, SettingsError

_PICKLES = (".p", ".pkl", ".pickle")


def read_refcoco(source: str, reading: Reading) -> Iterator[Annotated | Rejected]:
    """One question a sentence, in order; `line` is the entry of the refs, from 1; its label is the thing's category.

    `source` is the refs, or a folder with one file of them. `part` is a split: train, val, test, testA or testB.
    RecordError for a pickle, SettingsError where a folder has several refs.
    """
    file = _find_refs(Path(source))
    refs = read_json(file)
    if not isinstance(refs, list):
        raise RecordError(f"{file} holds {reprlib.repr(refs)}; expected a list of refs with their sentences")
    splits = sorted({str(ref.get("split")) for ref in refs if isinstance(ref, dict)})
    if reading.part is not None and reading.part not in splits:
        raise SettingsError(f"no part {reading.part!r} in {file}; its splits are {', '.join(splits)[:200]}")
    instances = read_instances(file.parent / "instances.json")
    pictures = PictureFolder(reading.images or file.parent)
    annotations = {
        read_key(annotation.get("id")): annotation for found in instances.annotations.values() for annotation in found
    }
    yield from instances.rejected
    for line, ref in enumerate(refs, start=1):
        if isinstance(ref, dict) and reading.part not in (None, ref.get("split")):
            continue
        try:
            yield from _read_ref(ref, line, file, instances, annotations, pictures)
        except RecordError as error:
            yield Rejected(str(file), line, str(error))


def _find_refs(source: Path) -> Path:
    if source.is_dir():
        there = sorted(file for file in source.glob("refs*") if file.suffix in (".json", *_PICKLES))
        files = [file for file in there if file.suffix == ".json"]
        if len(files) > 1:
            raise SettingsError(f"{', '.join(file.name for file in files)} in {source}; give one of them")
        if not there:
            raise RecordError(f"no refs(...).json in {source}; expected the folder of one data set")
        return (files or [_refuse_pickle(there[0])])[0]
    if not source.is_file():
        raise RecordError(f"no file or folder {source}")
    with source.open("rb") as start:
        is_pickle = source.suffix in _PICKLES or start.read(1) == b"\x80"
    return _refuse_pickle(source) if is_pickle else source


def _refuse_pickle(file: Path) -> Path:
    raise RecordError(
        f"{file} is a Python pickle, which can run any program when it is opened. Where you trust it, make JSON of it: "
        f"""python -c "import json, pickle; json.dump(pickle.load(open('{file.name}', 'rb')), """
        f"""open('{file.with_suffix(".json").name}', 'w'))" """.rstrip()
    )


def _read_ref(
    ref: Any,
    line: int,
    file: Path,
    instances: Instances,
    annotations: Mapping[str | None, Mapping[str, Any]],
    pictures: PictureFolder,
) -> Iterator[Annotated | Rejected]:
    if not isinstance(ref, dict) or not isinstance(ref.get("sentences"), list):
        raise RecordError(f"the ref is {reprlib.repr(ref)}; expected an object with a list of sentences")
    annotation = annotations.get(read_key(ref.get("ann_id")) or "")
    if annotation is None:
        raise RecordError(f"there is no annotation {reprlib.repr(ref.get('ann_id'))} in instances.json")
    picture = instances.pictures.get(instances.lines[read_key(annotation["image_id"]) or ""], {})
    if read_key(ref.get("image_id")) != read_key(picture.get("id")):
        raise RecordError(f"annotation {ref['ann_id']} is not on the picture {reprlib.repr(ref.get('image_id'))}")
    name = picture.get("file_name")
    if not isinstance(name, str):
        raise RecordError(f"the picture's file_name is {reprlib.repr(name)}; expected a path")
    image, size = pictures.find(name), read_size(picture.get("width"), picture.get("height"))
    thing = read_annotation(annotation, instances.labels, reduce=False)
    for number, sentence in enumerate(ref["sentences"], start=1):
        words = sentence.get("sent") or sentence.get("raw") if isinstance(sentence, dict) else None
        if not isinstance(words, str) or not words.strip():
            yield Rejected(
                str(file), line, f"sentence {number} is {reprlib.repr(sentence)}; expected a text under sent"
            )
            continue
        yield Annotated(
            image=image,
            file=file,
            line=line,
            things=[thing],
            size=size,
            image_name=name,
            id=f"{read_key(ref.get('ref_id')) or line}-{number}",
            question=words.strip(),
            extra={"coco_image_id": picture["id"], "ref_id": ref.get("ref_id"), "split": ref.get("split")},
        )
