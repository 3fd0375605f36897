"""Asking a served model about pictures, with boxes in each picture's own pixels.

A server resizes a picture as it likes and does not tell to what. So pictures go to it upright and resized already, to
the frame of the contract: a server at the same budget leaves them so, and the numbers count in a frame that is known.
`groundling calibrate ADDRESS --against MODEL` tells whether a server is at that budget.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from groundling.dialect.answer import Answer, read_answer
from groundling.dialect.family import AnswerForm
from groundling.dialect.prompt import write_prompt
from groundling.dialect.schema import answer_regex, answer_schema
from groundling.geometry.frame import Frame
from groundling.geometry.images import Source, open_image
from groundling.inference.predict import MAX_NEW_TOKENS
from groundling.inference.server import Server, Turn, keep_box_tokens
from groundling.model.contract import Contract
from groundling.model.patches import resize
from groundling.model.processor import fit_frame

Engine = Literal["vllm", "sglang", "schema"]

GUIDES: dict[Engine, Callable[[AnswerForm, Frame], dict[str, Any]]] = {
    "vllm": lambda form, frame: {"structured_outputs": {"regex": answer_regex(form, frame)}},
    "sglang": lambda form, frame: {"regex": answer_regex(form, frame)},
    "schema": lambda form, frame: {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": answer_schema(form, frame)},
        }
    },
}
"""The fields of a request that hold an answer to its form, by whose words they are.

vLLM 0.12 and later (0.33's documentation; before, it was `guided_regex`), SGLang 0.5, and OpenAI's own, which both of
them know too.
"""


def guide_for(contract: Contract, original: Frame) -> dict[str, Any]:
    """What somebody needs who asks a server about a picture of that size by other means than ours, as JSON.

    `seen` is the width and height to resize it to; `regex` and `schema` hold an answer to the contract's form, and are
    of such pictures only. `schema` is None where no schema can.
    """
    form, seen = contract.answer_form, fit_frame(original, contract)
    frame = contract.known_family.text_frame(seen)
    return {
        "seen": list(seen.size_wh),
        "prompt": contract.prompt_template,
        "system": contract.system_prompt,
        "regex": answer_regex(form, frame),
        "schema": None if form == "tokens" else answer_schema(form, frame),
    }


@dataclass(frozen=True)
class ServedGrounder:
    """A model on a server under the contract that it was trained under."""

    server: Server
    contract: Contract
    engine: Engine | None = None  # what holds answers to the contract's form; None: they may say anything

    def predict(self, image: Source, question: str, *, max_new_tokens: int = MAX_NEW_TOKENS) -> Answer:
        """The model's answer about one picture, boxes in that picture's own upright pixels."""
        picture = open_image(image)
        original = Frame(*picture.size)
        seen = fit_frame(original, self.contract)
        turn = Turn(
            picture=_as_png(picture, seen, self.contract),
            media_type="image/png",
            text=write_prompt(self.contract.prompt_template, question),
            system=self.contract.system_prompt,
        )
        text = self.server.answer(turn, max_tokens=max_new_tokens, extra=self._extra(seen))
        return read_answer(text, family=self.contract.family, seen=seen).to(original)

    def _extra(self, seen: Frame) -> dict[str, Any]:
        form = self.contract.answer_form
        guide = {} if self.engine is None else GUIDES[self.engine](form, self.contract.known_family.text_frame(seen))
        return guide | keep_box_tokens(form)


def _as_png(picture: Image.Image, seen: Frame, contract: Contract) -> bytes:
    file = io.BytesIO()
    Image.fromarray(resize(picture, seen, contract.image_backend)).save(file, "PNG")
    return file.getvalue()
