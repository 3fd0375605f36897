"""The frame contract: `groundling.json`, which travels with every checkpoint.

It says how a picture becomes what the model sees, how the model is asked, and what its numbers count. Training,
evaluation, prediction and serving read it and nothing else, so they cannot disagree. For a tuned Qwen2.5-VL:

    {"version": 1, "family": "qwen2_5_vl", "coordinates": "seen_pixels", "patch": 14, "merge": 2, "min_pixels": 3136,
     "max_pixels": 1003520, "image_backend": "torch", "image_policy": {"orientation": "upright", ...},
     "prompt_template": "Locate {question} ...", "system_prompt": null, "answer_form": "fenced",
     "trained_on": {"sha256": "...", "records": 3000}, "made_with": {"groundling": "0.1.0", ...}}

Whatever changes what a model sees or says comes with a new `version`, and another version is refused; so a key that
this groundling does not know only informs, and is left out.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from groundling.dialect.family import FAMILIES, AnswerForm, Budget, Coordinates, Family, ImageBackend, find_family
from groundling.dialect.prompt import check_template
from groundling.errors import ContractError, GroundlingError
from groundling.geometry.images import IMAGE_POLICY
from groundling.settings import Settings

CONTRACT_FILE = "groundling.json"
CONTRACT_VERSION = 1

DEFAULT_MAX_TOKENS = 1280  # the budget of the vendor's own conversion of boxes, about 1 megapixel
DEFAULT_MIN_TOKENS = 4
_BICUBIC = 3  # in Pillow's numbering of filters


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
    image_backend: ImageBackend = "torch"
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
        _refuse_difference(self.to_json(), _facts_of(family), f"groundling's table of families says of {family.name}")
        _refuse_difference(self.image_policy, IMAGE_POLICY, "groundling's one image door says")

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
    least, most = _pixels_of(image_processor)
    contract = Contract(
        family=family.name,
        coordinates=family.coordinates,
        patch=family.patch,
        merge=family.merge,
        min_pixels=least,
        max_pixels=most,
        prompt_template=family.prompt_template,
        answer_form=family.answer_form,
    )
    check_processor(contract, image_processor)
    return contract


def recipe_contract(contract: Contract, settings: Settings, *, is_derived: bool) -> Contract:
    """The contract that a run trains under: its checkpoint's own, changed where the recipe says otherwise.

    A base model's derived contract states the most it could see, not what it should: DEFAULT_MAX_TOKENS stands in.
    A least set above the most is a ContractError; one that was not set goes down with it.
    """
    images, prompt = settings.images, settings.prompt
    if is_derived:
        contract = contract.with_max_tokens(DEFAULT_MAX_TOKENS, min_tokens=DEFAULT_MIN_TOKENS)
    area = contract.known_family.token_side**2
    most = contract.max_pixels if images.max_tokens is None else images.max_tokens * area
    least = min(contract.min_pixels, most) if images.min_tokens is None else images.min_tokens * area
    return dataclasses.replace(
        contract,
        min_pixels=least,
        max_pixels=most,
        image_backend=images.backend or contract.image_backend,
        prompt_template=prompt.template or contract.prompt_template,
        system_prompt=prompt.system if prompt.system is not None else contract.system_prompt,
        answer_form=settings.answer.form or contract.answer_form,
    )


def check_processor(contract: Contract, image_processor: Mapping[str, Any]) -> None:
    """ContractError with both values where the processor's configuration says otherwise than the contract."""
    least, most = _pixels_of(image_processor)
    stated = {
        "patch": image_processor.get("patch_size"),
        "merge": image_processor.get("merge_size"),
        "min_pixels": least,
        "max_pixels": most,
    }
    told = {name: value for name, value in stated.items() if value is not None}
    _refuse_difference(contract.to_json(), told, "the processor beside it says")
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if image_processor.get(step) is False:
            raise ContractError(f"the processor beside it says {step} false; {contract.family} models need it")
    resample = image_processor.get("resample", _BICUBIC)
    if resample != _BICUBIC:
        raise ContractError(f"the processor beside it says resample {resample}, expected {_BICUBIC} (bicubic)")


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
    found = value.get("version") if isinstance(value, dict) else value
    if found != CONTRACT_VERSION:
        raise ContractError(f"{file}: version {found!r} of the contract; this groundling reads {CONTRACT_VERSION}")
    try:
        return TypeAdapter(Contract).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
    raise ContractError(f"{file}: {'; '.join(problem.removeprefix(': Value error, ') for problem in problems)}")


def _facts_of(family: Family) -> dict[str, Any]:
    return {"coordinates": family.coordinates, "patch": family.patch, "merge": family.merge}


def _pixels_of(image_processor: Mapping[str, Any]) -> tuple[int, int]:
    """Least and most pixels that a processor states; as in transformers, `min_pixels` and `max_pixels` come first."""
    size = image_processor.get("size")
    places = [image_processor, size if isinstance(size, Mapping) else {}]
    least = _first_stated(places, "min_pixels", "shortest_edge")
    most = _first_stated(places, "max_pixels", "longest_edge")
    if not isinstance(least, int) or not isinstance(most, int):
        raise ContractError(f"the image processor states no budget of pixels: size is {size!r}")
    return least, most


def _first_stated(places: Sequence[Mapping[str, Any]], *names: str) -> Any:
    return next((place[name] for place in places for name in names if place.get(name) is not None), None)


def _refuse_difference(found: Mapping[str, Any], expected: Mapping[str, Any], who: str) -> None:
    for name, value in expected.items():
        if name in found and found[name] != value:
            raise ContractError(f"the contract says {name} {found[name]!r}, but {who} {value!r}")
