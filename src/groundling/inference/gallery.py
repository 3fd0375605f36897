"""Asking about many pictures at once, and drawing what was answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count, groupby, repeat
from pathlib import Path
from typing import Any

from groundling.errors import ImageError, SettingsError
from groundling.geometry.draw import Layer, draw_boxes
from groundling.geometry.images import MAX_PIXELS, open_image
from groundling.geometry.packed import is_there
from groundling.inference.predict import MAX_NEW_TOKENS, Answered, Grounder, Question

PICTURE_SUFFIXES = {
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".gif", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".jp2"),
    *(".heic", ".heif"),
}
COLORS = ("#f07818", "#2f7ed8", "#2ca25f", "#c51b8a", "#8c6d31", "#17becf")  # one a question


@dataclass(frozen=True)
class PictureAnswer:
    """What was answered to one question about one picture file."""

    image: Path
    question: str
    found: Answered
    left_out: int = 0  # boxes of too low a score, and copies

    def to_json(self) -> dict[str, Any]:
        """As `groundling predict --json` prints it; boxes and points in the picture's own upright pixels."""
        answer, original = self.found
        return {
            "image": str(self.image),
            "width": original.width,
            "height": original.height,
            "question": self.question,
            "boxes": answer.boxes.xyxy.round(2).tolist(),
            "labels": answer.labels,
            "scores": None if answer.scores is None else answer.scores.tolist(),
            "points": answer.points.xy.round(2).tolist(),
            "text": answer.text,
            "flaw": answer.flaw,
            "full": answer.is_full,
            "seen": list(answer.seen.size_wh),
        }

    def __str__(self) -> str:
        answer = self.found.answer
        places = [*answer.boxes.xyxy.round().astype(int).tolist(), *answer.points.xy.round().astype(int).tolist()]
        scores = [] if answer.scores is None else answer.scores.tolist()
        words = list(map(_in_words, map(str, places), answer.labels, chain(scores, repeat(None))))
        nothing = f"none of {self.left_out} boxes" if self.left_out else "nothing"
        found = "; ".join(words) or _in_words(nothing, None, answer.none_score)
        flaw = f"  ({answer.flaw})" if answer.flaw else "  (there may be more: no room)" if answer.is_full else ""
        return f"{self.image}: {self.question}: {found}{flaw}"


def _in_words(what: str, label: str | None, score: float | None) -> str:
    """What was found, its label and how sure the model was, as far as they are there."""
    return " ".join(filter(None, [what, label, None if score is None else f"{score:.2f}"]))


@dataclass(frozen=True)
class Unanswered:
    """A question about a picture file that could not be read."""

    image: Path
    question: str
    error: ImageError

    def to_json(self) -> dict[str, Any]:
        """The keys of an answer, null but for the picture and the question: not one that says there is nothing."""
        nothing = dict.fromkeys(("boxes", "labels", "scores", "points", "text", "flaw", "full", "seen"))
        sizes = dict.fromkeys(("width", "height"))
        return {"image": str(self.image), **sizes, "question": self.question, **nothing, "error": str(self.error)}

    def __str__(self) -> str:
        return f"{self.image}: {self.question}: not answered, the picture could not be read"


@dataclass(frozen=True)
class PictureAnswers:
    """What came of every question, in the order of the pictures, then of the questions."""

    told: list[PictureAnswer | Unanswered]

    @property
    def found(self) -> list[PictureAnswer]:
        """The answers."""
        return [one for one in self.told if isinstance(one, PictureAnswer)]

    @property
    def unreadable(self) -> list[ImageError]:
        """Why pictures could not be read, each once."""
        return list({one.image: one.error for one in self.told if isinstance(one, Unanswered)}.values())

    @property
    def fault(self) -> str | None:
        """Which pictures could not be read, and why; None where all could."""
        if not self.unreadable:
            return None
        pictures = len({one.image for one in self.told})
        others = "; the others were answered" if self.found else ""
        reasons = "".join(f"\n{error}" for error in self.unreadable)
        return f"{len(self.unreadable)} of {pictures} pictures could not be read{others}{reasons}"


def find_pictures(places: Sequence[Path]) -> list[Path]:
    """Picture files as named, and those of the folders among them, by name, hidden ones not.

    SettingsError where there are none, or one that is named is missing.
    """
    missing = [str(place) for place in places if not place.exists() and not is_there(place)]
    if missing:
        raise SettingsError(f"no such picture: {', '.join(missing)}")
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            found += sorted(path for path in place.iterdir() if is_picture(path))
        else:
            found.append(place)
    if not found:
        raise SettingsError(f"no pictures in {', '.join(map(str, places))}")
    return found


def is_picture(path: Path) -> bool:
    """Whether a file of a folder is taken for a picture, by its name."""
    return path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")


def answer_pictures(
    grounder: Grounder,
    pictures: Sequence[Path],
    questions: Sequence[str],
    *,
    draw: Path | None = None,
    least_score: float = 0,
    most_overlap: float = 1,
    max_new_tokens: int = MAX_NEW_TOKENS,
    free: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> PictureAnswers:
    """Every question about every picture; with `draw`, each picture with its boxes in that folder.

    Boxes of a score below `least_score` are left out, then those that a surer one of their label overlaps by an IoU of
    more than `most_overlap`. A picture that cannot be read keeps none of the others from being answered. SettingsError
    where a drawing would take the place of a picture.
    """
    drawings = {} if draw is None else _name_drawings(pictures, draw)
    asked = [Question(image, text) for image in pictures for text in questions]
    told: dict[int, PictureAnswer | Unanswered] = {}
    for place, reply in grounder.answer_each(asked, max_new_tokens=max_new_tokens, free=free, max_pixels=max_pixels):
        image = pictures[place // len(questions)]
        if isinstance(reply, ImageError):
            told[place] = Unanswered(image, asked[place].text, reply)
        else:
            kept = reply.answer.above(least_score).suppress(most_overlap)
            left_out = len(reply.answer.boxes) - len(kept.boxes)
            told[place] = PictureAnswer(image, asked[place].text, reply._replace(answer=kept), left_out)
    answers = PictureAnswers([told[place] for place in sorted(told)])
    for image, own in groupby(answers.found if draw is not None else [], key=lambda answer: answer.image):
        draw_answers(image, list(own), drawings[image], max_pixels)
    return answers


def _name_drawings(pictures: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """A PNG of its own in `folder` for each picture, named after it; a number follows where two have one name."""
    originals = {picture.resolve() for picture in pictures}
    drawings: dict[Path, Path] = {}
    taken: set[str] = set()
    for picture in dict.fromkeys(pictures):
        numbered = (f"{picture.stem}-{number}.png" for number in count(2))
        name = next(name for name in chain([f"{picture.stem}.png"], numbered) if name not in taken)
        if (folder / name).resolve() in originals:
            raise SettingsError(f"the drawing {folder / name} would overwrite a picture; choose another folder")
        taken.add(name)
        drawings[picture] = folder / name
    return drawings


def draw_answers(image: Path, answers: Sequence[PictureAnswer], file: Path, max_pixels: int = MAX_PIXELS) -> None:
    """Write the picture with its answers' boxes, a colour a question, with labels and scores, as a PNG."""
    layers: list[Layer] = []
    for number, one in enumerate(answers):
        answer = one.found.answer
        scores = repeat(None) if answer.scores is None else answer.scores.tolist()
        labels = [
            _in_words(label or one.question, None, score)
            for label, score, _ in zip(answer.labels, scores, answer.boxes.xyxy, strict=False)
        ]
        layers.append(Layer(answer.boxes, COLORS[number % len(COLORS)], labels))
    file.parent.mkdir(parents=True, exist_ok=True)
    draw_boxes(open_image(image, max_pixels=max_pixels), layers).save(file)
