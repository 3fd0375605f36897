"""The model families, one literal table: what differs between them and nothing else.

Sources: Qwen2-VL and Qwen2.5-VL from the vendor's process_bbox notebook and fine-tuning README, Qwen3-VL from its
technical report (arXiv 2511.21631, section 3.2.4); patch and merge sizes from the published configurations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from groundling.errors import SettingsError
from groundling.geometry.frame import THOUSANDTHS, Frame

Coordinates = Literal["seen_pixels", "thousandths"]
AnswerForm = Literal["fenced", "list", "bare", "tokens"]
ImageBackend = Literal["torch", "pil"]  # what resizes pictures


@dataclass(frozen=True)
class Family:
    """One line of models that share a coordinate convention and a way of writing boxes."""

    name: str  # the `model_type` of its config.json
    coordinates: Coordinates  # what the numbers in its text count
    patch: int  # side of a vision patch, in pixels of the seen picture
    merge: int  # patches per visual token, along each side
    answer_form: AnswerForm  # what it writes by default
    prompt_template: str  # how it is asked by default; holds {question}
    end_token: str = "<|im_end|>"  # closes the answer, and is learned with it
    image_token: str = "<|image_pad|>"

    @property
    def token_side(self) -> int:
        """Side of the square that one visual token covers, in pixels of the seen picture."""
        return self.patch * self.merge

    def text_frame(self, seen: Frame) -> Frame:
        """The frame that the numbers in its text count in, for a picture seen so."""
        return seen if self.coordinates == "seen_pixels" else THOUSANDTHS


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="qwen2_vl",
            coordinates="thousandths",
            patch=14,
            merge=2,
            answer_form="tokens",
            prompt_template="Detect the bounding box of {question}",
        ),
        Family(
            name="qwen2_5_vl",
            coordinates="seen_pixels",
            patch=14,
            merge=2,
            answer_form="fenced",
            prompt_template="Locate {question} in this image and output the bbox coordinates in JSON format.",
        ),
        Family(
            name="qwen3_vl",
            coordinates="thousandths",
            patch=16,
            merge=2,
            answer_form="fenced",
            prompt_template="Locate {question} in this image and output the bbox coordinates in JSON format.",
        ),
    )
}


def find_family(name: str) -> Family:
    """The family of that name (a config.json's `model_type`); SettingsError with the known ones otherwise."""
    if name not in FAMILIES:
        raise SettingsError(f"unknown model family {name!r}; groundling knows {', '.join(FAMILIES)}")
    return FAMILIES[name]


@dataclass(frozen=True)
class Budget:
    """How large a picture of this family may become on its way to the model, in pixels of the seen frame."""

    family: Family
    min_pixels: int
    max_pixels: int

    def __post_init__(self) -> None:
        if not self.family.token_side**2 <= self.min_pixels <= self.max_pixels:
            raise SettingsError(
                f"a budget of {self.min_pixels} to {self.max_pixels} pixels; expected at least one visual token "
                f"({self.family.token_side**2} pixels for {self.family.name}) and a maximum no smaller than the minimum"
            )

    @property
    def max_tokens(self) -> int:
        """The most visual tokens that one picture takes."""
        return self.max_pixels // self.family.token_side**2

    def estimate_scale(self, original: Frame) -> float:
        """About how much a picture shrinks (< 1) or grows (> 1) per side: an estimate, for warnings and plans only.

        What really happened is read from the processor's grid (`seen_frame`), never computed.
        """
        wanted = min(max(original.area, self.min_pixels), self.max_pixels)
        return (wanted / original.area) ** 0.5
