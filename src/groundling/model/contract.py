"""The frame contract: `groundling.json`, which travels with every checkpoint.

It says how a picture becomes what the model sees, how the model is asked, and what its numbers count. Training,
evaluation, prediction and serving read it and nothing else, so they cannot disagree. For a tuned Qwen2.5-VL:

    {"version": 1, "family": "qwen2_5_vl", "coordinates": "seen_pixels", "patch": 14, "merge": 2, "min_pixels": 3136,
     "max_pixels": 1003520, "image_backend": "pil", "image_policy": {"orientation": "upright", ...},
     "prompt_template": "Locate {question} ...", "system_prompt": null, "answer_form": "fenced",
     "trained_on": {"sha256": "...", "records": 3000}, "made_with": {"groundling": "0.1.0", ...}}
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from groundling.dialect.family import FAMILIES, AnswerForm, Budget, Coordinates, Family, find_family
from groundling.dialect.prompt import check_template
from groundling.errors import ContractError, GroundlingError
from groundling.geometry.images import IMAGE_POLICY
from groundling.settings import Settings

CONTRACT_FILE = "groundling.json"
CONTRACT_VERSION = 1

DEFAULT_MAX_TOKENS = 1280  # the budget of the vendor's own conversion of boxes, about 1 megapixel
DEFAULT_MIN_TOKENS = 4


@dataclass(frozen=True)
class Contract:
    """What a checkpoint was trained to see and to say. Raises ContractError where its parts contradict each other."""

    family: str
    coordinates: Coordinates
    patch: int
    merge: int
    min_pixels: int
    max_pixels: int
    prompt_template: str
    answer_form: AnswerForm
    system_prompt: str | None = None
    image_backend: Literal["pil"] = "pil"
    image_policy: Mapping[str, str] = field(default_factory=lambda: dict(IMAGE_POLICY))
    trained_on: Mapping[str, Any] | None = None  # {"sha256": of the records used, "records": how many}
    made_with: Mapping[str, str] = field(default_factory=dict)
    version: int = CONTRACT_VERSION

    def __post_init__(self) -> None:
        try:
            family = find_family(self.family)
            check_template(self.prompt_template)
            Budget(family, self.min_pixels, self.max_pixels)
        except GroundlingError as error:
            raise ContractError(f"the contract cannot hold: {error}") from None
        _refuse_difference(self, _facts_of(family), f"groundling's table of families says of {family.name}")

    @property
    def known_family(self) -> Family:
        """The family's row of the table."""
        return FAMILIES[self.family]

    @property
    def budget(self) -> Budget:
        """How large a picture may become on its way to the model."""
        return Budget(self.known_family, self.min_pixels, self.max_pixels)

    def with_max_tokens(self, max_tokens: int, min_tokens: int | None = None) -> Contract:
        """The same contract with another budget of visual tokens for one picture."""
        side = self.patch * self.merge
        least = self.min_pixels if min_tokens is None else min_tokens * side**2
        most = max_tokens * side**2
        return dataclasses.replace(self, min_pixels=min(least, most), max_pixels=most)

    def to_json(self) -> dict[str, Any]:
        """The content of `groundling.json`, `version` first."""
        return {"version": self.version} | dataclasses.asdict(self)


def derive_contract(model_type: str, image_processor: Mapping[str, Any]) -> Contract:
    """The contract of a base model: its family's row, and the budget of its own `preprocessor_config.json`."""
    family = find_family(model_type)
    contract = Contract(
        family=family.name,
        coordinates=family.coordinates,
        patch=family.patch,
        merge=family.merge,
        prompt_template=family.prompt_template,
        answer_form=family.answer_form,
        **_pixels_of(image_processor),
    )
    check_processor(contract, image_processor)
    return contract


def recipe_contract(contract: Contract, settings: Settings, *, is_derived: bool) -> Contract:
    """The contract that a run trains under: its checkpoint's own, changed where the recipe says otherwise.

    A base model's derived contract states the most it could see, not what it should: DEFAULT_MAX_TOKENS stands in.
    """
    images, prompt = settings.images, settings.prompt
    own = contract.budget
    if is_derived:
        own = contract.with_max_tokens(DEFAULT_MAX_TOKENS, min_tokens=DEFAULT_MIN_TOKENS).budget
    contract = contract.with_max_tokens(
        images.max_tokens or own.max_tokens,
        min_tokens=images.min_tokens or own.min_pixels // own.family.token_side**2,
    )
    return dataclasses.replace(
        contract,
        prompt_template=prompt.template or contract.prompt_template,
        system_prompt=prompt.system if prompt.system is not None else contract.system_prompt,
        answer_form=settings.answer.form or contract.answer_form,
    )


def check_processor(contract: Contract, image_processor: Mapping[str, Any]) -> None:
    """ContractError with both values where the processor's configuration says otherwise than the contract."""
    stated = {"patch": image_processor.get("patch_size"), "merge": image_processor.get("merge_size")}
    known = {name: value for name, value in stated.items() if value is not None}
    _refuse_difference(contract, known | _pixels_of(image_processor), "the processor beside it says")


def read_contract(folder: Path) -> Contract | None:
    """The contract beside a checkpoint's weights, or None where there is no `groundling.json`."""
    file = folder / CONTRACT_FILE
    if not file.is_file():
        return None
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ContractError(f"{file} is not JSON: {error}") from None
    return _parse_contract(value, file)


def write_contract(contract: Contract, folder: Path) -> None:
    """Write `groundling.json` into a checkpoint's folder."""
    text = json.dumps(contract.to_json(), indent=2, ensure_ascii=False)
    (folder / CONTRACT_FILE).write_text(text + "\n", encoding="utf-8")


def installed_versions() -> dict[str, str]:
    """Versions of the packages that decide what a model sees and says."""
    found: dict[str, str] = {}
    for package in ("groundling", "torch", "transformers", "peft", "accelerate", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout that was never installed
            continue
    return found


def _parse_contract(value: Any, file: Path) -> Contract:
    if not isinstance(value, dict) or value.get("version") != CONTRACT_VERSION:
        found = value.get("version") if isinstance(value, dict) else value
        raise ContractError(f"{file}: version {found!r} of the contract; this groundling reads {CONTRACT_VERSION}")
    fields = {field.name: field for field in dataclasses.fields(Contract)}
    needed = {name for name, field in fields.items() if _is_required(field)}
    if missing := sorted(needed - value.keys()):
        raise ContractError(f"{file}: the contract lacks {', '.join(missing)}")
    try:
        return Contract(**{name: value[name] for name in fields if name in value})
    except TypeError as error:
        raise ContractError(f"{file}: a value of the wrong kind: {error}") from None
    except ContractError as error:
        raise ContractError(f"{file}: {error}") from None


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _facts_of(family: Family) -> dict[str, Any]:
    return {"coordinates": family.coordinates, "patch": family.patch, "merge": family.merge}


def _pixels_of(image_processor: Mapping[str, Any]) -> dict[str, int]:
    """The budget as a processor states it: `size` where it has one, else the older `min_pixels` and `max_pixels`."""
    size = image_processor.get("size") or {}
    least = size.get("shortest_edge") or image_processor.get("min_pixels")
    most = size.get("longest_edge") or image_processor.get("max_pixels")
    if not least or not most:
        raise ContractError(f"the image processor states no budget of pixels: size is {dict(size)!r}")
    return {"min_pixels": int(least), "max_pixels": int(most)}


def _refuse_difference(contract: Contract, expected: Mapping[str, Any], who: str) -> None:
    for name, value in expected.items():
        found = dataclasses.asdict(contract)[name]
        if found != value:
            raise ContractError(f"the contract says {name} {found!r}, but {who} {value!r}")
