"""How a COCO file numbers its pictures and categories, for results that are scored against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundling.data.pictures import plain_stem
from groundling.data.record import parse_json
from groundling.errors import RecordError, SettingsError
from groundling.geometry.frame import Frame
from groundling.geometry.images import read_frame


@dataclass(frozen=True)
class CocoNumbers:
    """The pictures and categories of one file."""

    file: Path
    sizes: Mapping[int, Frame | None]  # of each picture, by its number
    named: Mapping[str, Sequence[int]]  # pictures by `plain_stem` of their files
    categories: Mapping[str, int]

    def find_image(self, image: Path, own: object = None) -> int:
        """The number of a picture by the name of its file, wherever it lies now; or the one that it brought (`own`).

        RecordError where there is none or several, or where the file says another size than the picture has.
        """
        alike = self.named.get(plain_stem(image.name), [])
        found = [own] if type(own) is int and own in (alike or self.sizes) else alike
        if len(found) != 1:
            raise RecordError(f"{len(found) or 'no'} pictures of {self.file} are called {image.name}; expected one")
        size, frame = self.sizes[found[0]], read_frame(image)
        if size not in (None, frame):
            raise RecordError(
                f"{self.file} says that {image.name} is {size}, and upright it is {frame}: the boxes would be scored "
                "in other pixels than they count; bring the picture that the file describes"
            )
        return found[0]


def read_coco_numbers(path: str | Path) -> CocoNumbers:
    """The numbers of a COCO file. SettingsError where there is none, RecordError where it is something else."""
    file = Path(path)
    if not file.is_file():
        raise SettingsError(f"no file {file}; expected the COCO file that the results are to be scored against")
    named: dict[str, list[int]] = {}
    try:
        value = parse_json(file.read_bytes())
        if not isinstance(value, dict):
            raise RecordError(f"it holds a {type(value).__name__}")
        for image in value["images"]:
            named.setdefault(plain_stem(image["file_name"]), []).append(image["id"])
        sizes = {image["id"]: _read_size(image) for image in value["images"]}
        categories = {category["name"].strip(): category["id"] for category in value["categories"]}
    except (RecordError, KeyError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise RecordError(f"{file} is no COCO file ({reason}); expected images and categories, with ids") from None
    return CocoNumbers(file, sizes, named, categories)


def _read_size(image: Mapping[str, Any]) -> Frame | None:
    width, height = image.get("width"), image.get("height")
    return Frame(width, height) if type(width) is int and type(height) is int and min(width, height) > 0 else None
