"""A recipe as text: where it lies, and YAML without those parts of YAML that a recipe never needs.

    train:
      learning_rate: 1e-5     # a number here, as in YAML 1.2

Numbers with an exponent are numbers with or without a point (YAML 1.1 calls `1e-5` a text), dates and merge keys are
plain text. Refused: a key given twice, aliases (they can grow without bound), tags, nesting deeper than any setting.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from groundling.errors import SettingsError

SHIPPED = Path(__file__).parent / "recipes"

MAX_CHARACTERS = 200_000  # a recipe is a page or two; more is a data file given by mistake
MAX_DEPTH = 20  # the deepest recipe is a DeepSpeed configuration under `trainer`, six levels

_LEFT_OUT = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:merge")
_FLOAT = "tag:yaml.org,2002:float"
_EXPONENT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")


class Document(NamedTuple):
    """What YAML text says, and the line (from 1) of each dotted key in it."""

    values: Any
    lines: dict[str, int]


def find_recipe(path: str | Path) -> Path:
    """The file at `path` (from the current folder), else the shipped recipe `tiny`, `tiny.yaml` or `recipes/tiny.yaml`.

    SettingsError where there is neither, with the names of the shipped ones.
    """
    file = Path(path)
    if file.is_file():
        return file
    shipped = SHIPPED / f"{file.name.removesuffix('.yaml')}.yaml"
    if file.parent.as_posix() in (".", "recipes") and shipped.is_file():
        return shipped
    names = ", ".join(sorted(recipe.stem for recipe in SHIPPED.glob("*.yaml")))
    raise SettingsError(f"no recipe {file} in {Path.cwd()}; shipped with groundling: {names}")


def read_yaml(text: str, place: str) -> Document:
    """The one document in `text`, an empty one being None. SettingsError names `place` and line of what is amiss."""
    if len(text) > MAX_CHARACTERS:
        raise SettingsError(f"{place}: {len(text)} characters; a recipe has at most {MAX_CHARACTERS} (is this data?)")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        values = None if node is None else loader.construct_document(node)
        return Document(values, {} if node is None else _key_lines(node))
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SettingsError(f"{place}{line}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:  # a control character; an integer of more digits than Python reads
        raise SettingsError(f"{place}: {error}") from None


def write_yaml(values: Mapping[str, Any]) -> str:
    """YAML that `read_yaml` reads back to equal values, keys in their order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _key_lines(node: yaml.Node, prefix: str = "") -> dict[str, int]:
    """Lines from 1 by dotted key; what stands in a list carries its number (`data.train.0.path`)."""
    if isinstance(node, yaml.MappingNode):
        children = [(str(key.value), key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(str(number), value, value) for number, value in enumerate(node.value)]
    else:
        return {}
    lines: dict[str, int] = {}
    for name, head, value in children:
        lines[prefix + name] = head.start_mark.line + 1
        lines |= _key_lines(value, f"{prefix}{name}.")
    return lines


def _number_resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """By first character, which plain texts mean more than themselves."""
    resolvers = {
        first: [(tag, pattern) for tag, pattern in entries if tag not in _LEFT_OUT]
        for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for first in "-+.0123456789":
        resolvers[first] = [*resolvers.get(first, []), (_FLOAT, _EXPONENT)]
    return resolvers


_RESOLVERS = _number_resolvers()


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses more."""

    yaml_implicit_resolvers = _RESOLVERS
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refusal(f"an alias, *{event.anchor}; write the value out", event.start_mark)
        if event.tag is not None:
            raise _refusal(f"a tag, {event.tag}; a recipe holds plain values", event.start_mark)
        if self.depth == MAX_DEPTH:
            raise _refusal(f"nested more than {MAX_DEPTH} levels deep", event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str):
                raise _refusal("a key that is no text; put it in quotes", key.start_mark)
            if name in seen:
                raise _refusal(f"the key {name!r} is given twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever `_Loader` would take for a number, and writes shared values out."""

    yaml_implicit_resolvers = _RESOLVERS

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    """In double quotes where a line separator would else stand in it unescaped, and be read back as a line's end."""
    style = '"' if set(text) & set("\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _refusal(problem: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
