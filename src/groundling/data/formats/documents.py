"""The documents that hold other people's annotations: found in a folder, read, refused where they could do harm."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import yaml

from groundling.data.formats.xml import parse_xml
from groundling.data.record import parse_document
from groundling.errors import RecordError, SettingsError

log = logging.getLogger(__name__)

# ---- which files -----------------------------------------------------------------------------------------------


def find_document(source: str, part: str | None, endings: Sequence[str], is_wanted: Callable[[Path], bool]) -> Path:
    """The one file of annotations that `source` is, or has below it: of several, the one of that `part`.

    SettingsError that lists them where there are several still; RecordError where there is none.
    """
    folder = Path(source)
    if folder.is_file():
        return choose_part([folder], folder.parent, part)[0]
    files = [file for file in find_documents(source, endings) if is_wanted(file)]
    if not files:
        raise RecordError(f"no file of annotations below {folder}, only of other kinds")
    chosen = choose_part(files, folder, part)
    if len(chosen) > 1:
        raise SettingsError(
            f"{len(chosen)} files of annotations in {folder}: {_list_names(chosen, folder)}; give one of them, or with "
            "--part a word that only one has in its name or folder"
        )
    return chosen[0]


def find_documents(source: str, endings: Sequence[str]) -> list[Path]:
    """All files with such an ending below a folder, in order of their paths, or the one file that `source` is."""
    path = Path(source)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise RecordError(f"no file or folder {source}")
    files = files_below(path, endings)
    if not files:
        raise RecordError(f"no file that ends in {' or '.join(endings)} below {path}")
    return files


def files_below(folder: Path, endings: Sequence[str], *, within: Path | None = None) -> list[Path]:
    """All files with such an ending (in small letters) below a folder, in order.

    Links that lead out of `within` (by default the folder) are left out, and that is said.
    """
    root = (within or folder).resolve()
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in endings and path.is_file())
    inside = [path for path in paths if path.resolve().is_relative_to(root)]
    if len(inside) < len(paths):
        log.warning("%d files below %s are links that lead out of it; left out", len(paths) - len(inside), folder)
    return inside


def choose_part(files: Sequence[Path], folder: Path, part: str | None) -> list[Path]:
    """Those with the word `part` in their name, or in that of a folder below `folder`; SettingsError for none."""
    chosen = [file for file in files if part is None or belongs_to(file.relative_to(folder), part)]
    if not chosen:
        raise SettingsError(
            f"no file of annotations of the part {part!r} in {folder}; there are {_list_names(files, folder)}"
        )
    return chosen


def belongs_to(path: Path, part: str) -> bool:
    """Whether a folder of that path is called `part`, or the file has it as a word: `val2017` in `x_val2017.json`."""
    return part in path.parts[:-1] or part in re.split(r"[\s_.()-]+", path.name)


def _list_names(files: Sequence[Path], folder: Path) -> str:
    names = [file.relative_to(folder).as_posix() for file in files]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


# ---- what they hold --------------------------------------------------------------------------------------------


def read_json(file: Path) -> Any:
    """What a JSON file holds; see `parse_document`. RecordError, naming the file, where it cannot be read."""
    return _read(file, parse_document)


def read_yaml(file: Path) -> Any:
    """What a YAML file holds: dicts and lists of text, for `no`, `1.0` and `null` may be names of classes."""
    return _read(file, _parse_yaml)


def read_xml(file: Path) -> Element:
    """The root of an XML file; see `parse_xml`."""
    return _read(file, parse_xml)


def read_text(file: Path) -> str:
    """A text in UTF-8."""
    return _read(file, lambda raw: raw.decode("utf-8-sig"))


def _read(file: Path, parse: Callable[[bytes], Any]) -> Any:
    try:
        return parse(file.read_bytes())
    except OSError as error:
        raise RecordError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RecordError(f"{file}: not UTF-8: {error}; save it so") from None
    except RecordError as error:
        raise RecordError(f"{file}: {error}") from None


class _TextLoader(yaml.BaseLoader):
    """Every scalar stays text, and a repeated key is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        repeated = [key for key in keys if keys.count(key) > 1] if len(set(keys)) < len(keys) else []
        if repeated:
            raise RecordError(f"the key {repeated[0]!r} is given twice")
        return super().construct_mapping(node, deep)


_MAX_YAML = 10_000_000  # bytes; a list of all 21 841 classes of ImageNet has 0.6 million


def _parse_yaml(raw: bytes) -> Any:
    if len(raw) > _MAX_YAML:
        raise RecordError(f"{len(raw)} bytes of YAML; expected a short description of a data set")
    try:
        return yaml.load(raw.decode("utf-8-sig"), Loader=_TextLoader)  # a BaseLoader: it makes texts, lists and dicts
    except yaml.YAMLError as error:
        raise RecordError(f"not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise RecordError("nested too deeply to be read") from None
