"""What a diagnosis can name: every code in one table, and a diagnosis as it is told and written.

Errors are mistakes around a model: its boxes are worth more than they score, or most could not be scored. Warnings are
habits of the model, or of its records. One fault as `--json` prints it (made by hand):

    {"code": "wrong_frame", "level": "error", "message": "boxes are 1.47 x 1.50 too large (212 of 240 answers): ...",
     "count": 212, "of": 240, "before": 0.03, "after": 0.88, "cure": "..."}

`docs/diagnosis.md` is the table for readers; a test holds it to this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from groundling.data.findings import Code, Level

CODES: dict[str, Code] = {
    "wrong_frame": Code(
        "error",
        "boxes that count in another frame than they were read in",
        "ask at the budget that the model was trained with: its groundling.json, or images.max_tokens of its recipe",
    ),
    "thousandths_as_pixels": Code(
        "error",
        "boxes of 0 to 1000 that were read as pixels",
        "the model writes thousandths, as Qwen2-VL and Qwen3-VL do: read it as that family, or convert its training "
        "data with another one",
    ),
    "pixels_as_thousandths": Code(
        "error",
        "boxes of pixels that were read as 0 to 1000",
        "the model writes pixels, as Qwen2.5-VL does: read it as that family, or convert its training data with "
        "another one",
    ),
    "padded": Code(
        "error",
        "boxes that count in a picture padded to a square",
        "take the padding away again where boxes are read: subtract where the picture lies in the square, then divide "
        "by its size there; or train on pictures as they are",
    ),
    "swapped_axes": Code(
        "error",
        "boxes whose x and y are swapped",
        "the model writes top, left, bottom, right, as Gemini and PaliGemma do: swap them where its training data "
        "were written",
    ),
    "box_form": Code(
        "error",
        "boxes that are not left, top, right, bottom",
        "the training data hold another form: convert them again, or turn the answers into corners",
    ),
    "shifted": Code(
        "error",
        "boxes that lie beside their targets, all as far to one side",
        "look for a crop, a padding or a border that the model saw and that was not undone where boxes are read",
    ),
    "turned": Code(
        "error",
        "boxes on the picture as it is stored, not as it is seen",
        "turn pictures upright by their EXIF orientation wherever they are opened (groundling's image door does)",
    ),
    "same_answer": Code(
        "error",
        "one and the same box whatever was asked",
        "the model does not look: check that pictures reach it, train longer, or with a smaller learning rate",
    ),
    "set_aside": Code(
        "error",
        "answers most of which are to no record",
        "give the very record file that the questions came from; what is told of the others may not hold for all",
    ),
    "offset": Code(
        "warning",
        "boxes that lie beside their targets by about a pixel, all to one side",
        "round to nearest, never down, where boxes are written; pixels count from 0, and right and bottom are the "
        "first ones outside",
    ),
    "near_frame": Code(
        "warning",
        "boxes that count in a frame a little off, which costs few hits",
        "look at the sides that boxes are scaled by: those of the picture as it was resized, in whole steps, not those "
        "of its budget; 1000 for thousandths, not 999 or 1024",
    ),
    "near_shift": Code(
        "warning",
        "boxes that lie a little beside their targets, all to one side, which costs few hits",
        "if large boxes lie farther off than small ones, it is a habit of the model: train longer; else look for a "
        "border that was added or cut off",
    ),
    "shrunk": Code(
        "warning",
        "boxes that shrink towards the middle of the picture, or spread from it",
        "an unsure model draws to the middle: train longer; if it does not pass, look for a border that was added or "
        "cut off on all sides",
    ),
    "other_labels": Code(
        "warning",
        "answered labels that are not those of the records",
        "scores by class count only the very same words: rename one side, or train on the records' own names",
    ),
    "confused_classes": Code(
        "warning",
        "one class taken for another",
        "look at examples of both: are they labelled as meant, and do the two names say what tells them apart?",
    ),
    "says_none": Code(
        "warning",
        "nothing found although there is something",
        "train with fewer records without targets (convert --negatives); if the targets are small, at a larger budget",
    ),
    "points": Code(
        "warning",
        "points where boxes are asked for",
        "ask for boxes, in the words and the form that the model was trained on; or have its points judged: evaluate "
        "--protocol pointing or screenspot",
    ),
    "invents": Code(
        "warning",
        "boxes where there is nothing to find",
        "train with records without targets (convert --negatives)",
    ),
    "one_box": Code(
        "warning",
        "one box where there are several targets",
        "train on records that hold all targets of a question (convert --per class), in the answer form list or fenced",
    ),
    "loop": Code(
        "warning",
        "answers that repeat themselves",
        "train on records with as many targets as these; answers of held form end sooner (leave --free out)",
    ),
    "duplicates": Code(
        "warning",
        "boxes that stand twice in one answer",
        "drop the copies; and let no target stand twice in the training data (`groundling check`: duplicate_box)",
    ),
    "truncated": Code("warning", "answers that are cut before they end", "raise --max-new-tokens"),
    "unreadable": Code(
        "warning",
        "answers that cannot be read as they are",
        "ask without --free, which holds answers to their form; or train on the form that is asked for",
    ),
    "outside": Code(
        "warning",
        "boxes that leave their pictures",
        "check which picture, and which size of it, was asked about",
    ),
    "at_chance": Code(
        "warning",
        "answers no better than boxes of other questions",
        "nothing around the model explains it: train longer, or look at `groundling preview`",
    ),
    "unanswered": Code(
        "warning",
        "questions about pictures that could not be read",
        "mend those pictures, or leave their records out (`groundling check` finds them)",
    ),
    "unpaired": Code(
        "warning",
        "answers without a record, or records without an answer",
        "give the very record file that the questions came from",
    ),
    "too_few": Code("note", "too few answers to tell mistakes from chance", "ask more questions about boxes"),
}
"""Every code of a fault: its level, meaning, and usual cure; the worst first."""


@dataclass(frozen=True)
class Fault:
    """One thing that is systematically wrong. `before` and `after` are shares that hit, where it can be undone."""

    code: str
    level: Level
    message: str
    count: int  # answers that show it
    of: int  # answers that could
    before: float | None
    after: float | None
    cure: str


def fault_of(
    code: str, message: str, count: int, of: int, *, before: float | None = None, after: float | None = None
) -> Fault:
    """A fault with its code's level and cure."""
    level, _, cure = CODES[code]
    return Fault(code, level, message, count, of, before, after, cure)


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` returns: the faults, worst first, and what is left without them."""

    answers: int
    faults: tuple[Fault, ...]
    standing: str  # one line: how many hit, and where the others are
    unseen: str | None = None  # one line: what so few answers, or so rough ones, could not have shown

    def as_lines(self) -> list[str]:
        """One block a fault, then the standing."""
        lines: list[str] = []
        for fault in self.faults:
            lines += [
                f"{fault.level} {fault.code}: {fault.message}",
                f"  Cure: {fault.cure}" + "." * (not fault.cure.endswith("?")),
            ]
        if not any(fault.level in ("error", "warning") for fault in self.faults):
            what = "nothing else can be told of" if self.faults else "nothing systematic found in"
            lines.append(f"{what} {self.answers} answers")
        return [*lines, *([self.unseen] if self.unseen else []), self.standing]

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        faults = [asdict(fault) for fault in self.faults]
        return {"answers": self.answers, "faults": faults, "standing": self.standing, "unseen": self.unseen}


def sort_faults(faults: Sequence[Fault]) -> tuple[Fault, ...]:
    """In the order of CODES, those of one code by how many answers show them."""
    order = list(CODES)
    return tuple(sorted(faults, key=lambda fault: (order.index(fault.code), -fault.count)))
