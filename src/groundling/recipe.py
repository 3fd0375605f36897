"""A recipe, read and judged: its settings, or all that is wrong with it at once.

    first.yaml:4: unknown setting train.lerning_rate (= 0.001); the closest is train.learning_rate (by default 1e-05)

The tutorial's flat YAML is read too (`tutorial_recipe`).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from groundling.errors import SettingsError
from groundling.recipe_file import find_recipe, read_yaml
from groundling.settings import Settings
from groundling.tutorial_recipe import FLAT_NAMES, OWNED, translate


class Recipe(NamedTuple):
    """A recipe as written, before it is judged: our settings by section, from whichever kind of file."""

    file: Path
    values: dict[str, Any]
    places: dict[str, str]  # dotted key -> `file:line`, or the command line
    notes: list[str]  # what the user should know: settings of the tutorial's YAML that have no effect here
    is_tutorial: bool

    def place(self, key: str) -> str:
        """Where a dotted key was set; for one that was not, the nearest section or the file."""
        while key and key not in self.places:
            key = key.rpartition(".")[0]
        return self.places.get(key, str(self.file))


def load_settings(path: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """The settings of a recipe, changed by `section.key=value` (the value as in YAML: `tune.freeze=[vision]`).

    `path` counts from the current folder; the name of a shipped recipe will do. SettingsError lists everything that is
    wrong at once, each with its place, what was found, what was expected, and the closest name for an unknown one.
    """
    return resolve_recipe(read_recipe(path), overrides)


def resolve_recipe(written: Recipe, overrides: Sequence[str] = ()) -> Settings:
    """The settings of a recipe that has been read, as `load_settings` gives them."""
    recipe = _override(written, overrides)
    try:
        return Settings.model_validate(recipe.values)
    except ValidationError as error:
        problems = [_explain(detail, recipe) for detail in error.errors(include_url=False)]
    raise SettingsError(f"{recipe.file} cannot be used:\n" + "\n".join(f"  {problem}" for problem in problems))


def read_recipe(path: str | Path) -> Recipe:
    """A recipe as written, the tutorial's flat YAML put into our terms. SettingsError where it is no YAML."""
    file = find_recipe(path)
    try:
        document = read_yaml(file.read_text(encoding="utf-8-sig"), str(file))
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file}: not UTF-8: {error}") from None
    values: dict[str, Any] = {} if document.values is None else document.values
    if not isinstance(document.values, dict | type(None)):
        raise SettingsError(
            f"{file}: {_shorten(repr(document.values))}; expected sections such as `model:` and `data:`"
        )
    places = {key: f"{file}:{line}" for key, line in document.lines.items()}
    if _is_flat(values):
        return _from_tutorial(file, values, places)
    return _with_defaults(Recipe(file, values, places, [], is_tutorial=False))


def _is_flat(values: Mapping[str, Any]) -> bool:
    """Whether these are the tutorial's settings: names of its own, none of our sections."""
    return not values.keys() & Settings.model_fields.keys() and bool(values.keys() & FLAT_NAMES)


def _from_tutorial(file: Path, flat: Mapping[str, Any], places: Mapping[str, str]) -> Recipe:
    translation = translate(flat)
    recipe = Recipe(file, {}, {**places}, translation.notes, is_tutorial=True)
    for key, value in translation.values.items():
        _fill_value(recipe.values, key, value)
        recipe.places[key] = places[translation.sources[key]]
    return _with_defaults(recipe)


def _with_defaults(recipe: Recipe) -> Recipe:
    """The recipe with the sections that hold required settings, so that the settings are missed and not the section."""
    required: dict[str, Any] = {name: recipe.values.get(name) or {} for name in ("model", "data", "run")}
    if isinstance(required["run"], dict):
        required["run"] = {"dir": f"runs/{recipe.file.stem}"} | required["run"]
    return recipe._replace(values=recipe.values | required)


def _override(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    values, places = copy.deepcopy(recipe.values), dict(recipe.places)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not key or not equals:
            raise SettingsError(f"command line: {override!r}; expected section.key=value, such as train.epochs=2")
        _fill_value(values, key, read_yaml(text, f"command line, {key}").values)
        places = dict.fromkeys(_sections_of(key), "command line") | places | {key: "command line"}
    return recipe._replace(values=values, places=places)


def _sections_of(key: str) -> list[str]:
    """`tune` and `tune.lora` for `tune.lora.rank`."""
    parts = key.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _fill_value(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key, with the sections on the way to it."""
    *sections, name = key.split(".")
    for section in sections:
        if not isinstance(values.get(section), dict):
            values[section] = {}
        values = values[section]
    values[name] = value


# ---- what is wrong -----------------------------------------------------------------------------------------------


def _explain(detail: ErrorDetails, recipe: Recipe) -> str:
    key = ".".join(str(part) for part in detail["loc"] if part != "[key]")
    place, found = recipe.place(key), _shorten(repr(detail["input"]))
    about = _SETTINGS.get(".".join(part for part in key.split(".") if not part.isdigit()))
    meaning = f" ({about.description})" if about and about.description else ""
    match detail["type"]:
        case "extra_forbidden":
            return f"{place}: unknown setting {key} (= {found}); {_name_closest(key, detail['input'], recipe)}"
        case "missing":
            return f"{place}: {key} is missing{meaning}"
        case "value_error":
            return f"{place}: {key + ': ' if key else ''}{detail['msg'].removeprefix('Value error, ')}"
        case "model_type":
            return f"{place}: {key} is {found}; expected settings by name"
        case _:
            expected = _PYDANTIC_SUBJECT.sub("", detail["msg"])
            return f"{place}: {key} is {found}; expected {expected}{meaning}"


def _name_closest(key: str, value: object, recipe: Recipe) -> str:
    section, _, name = key.rpartition(".")
    if name in OWNED and not recipe.is_tutorial:
        return f"here it is {OWNED[name]}"
    if section:
        known: Collection[str] = _SETTINGS
    elif isinstance(value, dict):
        known = Settings.model_fields
    else:
        known = FLAT_NAMES if recipe.is_tutorial else _SETTINGS
    closest = closest_name(key, known)
    if closest is None:
        beside = [other for other in _SETTINGS if section and other.startswith(f"{section}.")]
        return f"known are {', '.join(beside or Settings.model_fields)}"
    return f"the closest is {closest}{_describe_default(closest)}"


def closest_name(name: str, known: Collection[str]) -> str | None:
    """The dotted name most like `name`, as a whole or in its last part; None where nothing is much alike."""

    def likeness(other: str) -> tuple[float, float]:
        whole = SequenceMatcher(None, name, other).ratio()
        last = SequenceMatcher(None, name.rpartition(".")[2], other.rpartition(".")[2]).ratio()
        return max(whole, last), whole

    best = max(sorted(known), key=likeness)
    return best if likeness(best)[0] >= 0.7 else None


def _describe_default(key: str) -> str:
    field = _SETTINGS.get(key)
    if field is None:
        return ""
    if field.is_required():
        return " (required)"
    return f" (by default {_shorten(repr(field.get_default(call_default_factory=True)))})"


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _settings_of(section: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Every setting by dotted name; what stands in a list goes by the list's name."""
    settings: dict[str, FieldInfo] = {}
    for name, field in section.model_fields.items():
        if not _is_section(field.annotation):
            settings[prefix + name] = field
        for kind in (field.annotation, *get_args(field.annotation)):
            if _is_section(kind):
                settings |= _settings_of(kind, f"{prefix}{name}.")
    return settings


def _is_section(kind: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


_SETTINGS = _settings_of(Settings)
_PYDANTIC_SUBJECT = re.compile(r"^(Input|String) should (be|have) ")  # pydantic 2.14's messages: the rest is ours
