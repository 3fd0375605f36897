"""A checkpoint's processor: what turns pictures into patches and words into tokens.

The image processor tells how pictures are to be cut and normalised, which is done here (`patches`); the tokenizer and
the chat template are the checkpoint's own. (transformers' processor classes need torchvision, for videos.)
"""

from __future__ import annotations

import re
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from groundling.dialect.family import Family
from groundling.errors import ContractError, FrameError
from groundling.geometry.frame import Frame, seen_frame
from groundling.model.contract import Contract, write_contract
from groundling.model.patches import Patches, cut_patches, normalise, resize
from groundling.model.vocabulary import Vocabulary

_QUESTION = "\u2063question\u2063"  # a stand-in that no template changes


def fit_frame(original: Frame, contract: Contract) -> Frame:
    """The size that a picture is resized to under a contract: whole visual tokens, an area within its budget."""
    side = contract.patch * contract.merge
    least, most = contract.min_pixels, contract.max_pixels
    try:
        height, width = smart_resize(original.height, original.width, side, min_pixels=least, max_pixels=most)
    except ValueError as error:
        raise FrameError(f"no picture of {original} can be seen: {error}") from None
    return Frame(width, height)


class Turns(NamedTuple):
    """The control text around a question and its answer, as the chat template writes it."""

    opening: str  # up to the question, with one image token where there is a picture
    asking: str  # between the question and the answer
    closing: str  # the end token after the answer


@dataclass(frozen=True)
class Processor:
    """The image processor, tokenizer and chat template of one checkpoint, under one contract."""

    images: Qwen2VLImageProcessorPil
    tokenizer: PreTrainedTokenizerBase
    contract: Contract

    @property
    def family(self) -> Family:
        """The family that the checkpoint belongs to."""
        return self.contract.known_family

    @cached_property
    def image_token_id(self) -> int:
        """The token that stands for one visual token."""
        return self._token_id(self.family.image_token)

    @cached_property
    def end_token_id(self) -> int:
        """The token that closes an answer."""
        return self._token_id(self.family.end_token)

    @cached_property
    def pad_token_id(self) -> int:
        """The token that fills up padded rows; never learned, never attended to."""
        pad = self.tokenizer.pad_token
        return self.end_token_id if pad is None else self._token_id(str(pad))

    @cached_property
    def control_begins(self) -> re.Pattern[str]:
        """Finds each place where an added token begins, also inside another: none of them may act in a user's words."""
        tokens = (re.escape(token.content) for token in self.tokenizer.added_tokens_decoder.values())
        return re.compile(f"(?={'|'.join(tokens)})")

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What the tokenizer's tokens spell."""
        return Vocabulary(self.tokenizer)

    def see(self, picture: Image.Image) -> Patches:
        """The patches of an upright RGB picture, and the frame that they cover."""
        planned = self.expect(Frame(*picture.size))
        levels = resize(picture, planned.seen, self.contract.image_backend)
        pixels = cut_patches(levels, self.images.patch_size, self.images.merge_size)
        assert len(pixels) == planned.grid[1] * planned.grid[2], "a picture has the patches of its grid"
        return planned._replace(pixels=pixels)

    def expect(self, original: Frame) -> Patches:
        """What `see` will make of a picture of this size, without pixels: to plan lengths, never for coordinates."""
        patch = self.contract.patch
        wanted = fit_frame(original, self.contract)
        grid = (1, wanted.height // patch, wanted.width // patch)
        return Patches(torch.empty(0, dtype=torch.uint8), grid, seen_frame(grid, patch))

    def normalise(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with the pixels of its pictures, wherever they are, as the model takes them (`pixel_values`)."""
        if "pixels" not in batch:
            return batch
        found = normalise(batch["pixels"], self._mean, self._deviation, self.images.temporal_patch_size)
        return {name: value for name, value in batch.items() if name != "pixels"} | {"pixel_values": found}

    @cached_property
    def _mean(self) -> torch.Tensor:
        return torch.tensor(self.images.image_mean) * (1 / self.images.rescale_factor)  # in transformers' order

    @cached_property
    def _deviation(self) -> torch.Tensor:
        return torch.tensor(self.images.image_std) * (1 / self.images.rescale_factor)

    def turns(self, *, has_image: bool) -> Turns:
        """The chat template's text around one question and its answer."""
        return self._turns[has_image]

    @cached_property
    def _turns(self) -> dict[bool, Turns]:
        return {has_image: self._render(has_image) for has_image in (True, False)}

    def _render(self, has_image: bool) -> Turns:
        content: list[dict[str, str]] = [{"type": "image"}] if has_image else []
        system = self.contract.system_prompt
        messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
        messages.append({"role": "user", "content": [*content, {"type": "text", "text": _QUESTION}]})
        rendered = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert isinstance(rendered, str)
        opening, found, asking = rendered.partition(_QUESTION)
        if not found or opening.count(self.family.image_token) != has_image:
            raise ContractError(f"the chat template does not write a picture and a question as {self.family.name} does")
        return Turns(opening, asking, self.family.end_token)

    def _token_id(self, token: str) -> int:
        found = self.tokenizer.convert_tokens_to_ids(token)
        if not isinstance(found, int) or found == self.tokenizer.unk_token_id:
            raise ContractError(f"the tokenizer has no {token}, which {self.family.name} models need")
        return found

    def with_contract(self, contract: Contract) -> Processor:
        """The same processor under another contract: another budget, prompt or answer form."""
        images = copy(self.images)
        images.size = {"shortest_edge": contract.min_pixels, "longest_edge": contract.max_pixels}
        return Processor(images, self.tokenizer, contract)

    def save(self, folder: Path) -> None:
        """Write the processor's files and the contract beside a checkpoint's weights."""
        self.images.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        write_contract(self.contract, folder)
