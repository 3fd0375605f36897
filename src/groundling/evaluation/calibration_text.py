"""What a calibration found, in words and as JSON."""

from __future__ import annotations

from typing import Any

from groundling.dialect.family import Budget
from groundling.evaluation.calibrate import MAX_NEW_TOKENS, Outcome
from groundling.evaluation.calibration import Calibration, describe_edges, describe_order
from groundling.evaluation.cards import Card
from groundling.evaluation.conventions import LARGEST_SHOWN, Order, write_conversion
from groundling.evaluation.fitting import FEWEST, Fit, Trial
from groundling.evaluation.heard import read_numbers
from groundling.evaluation.misplaced import OFF


def describe(outcome: Outcome) -> str:
    """What was found and by what it is known, a line each, and how a contract stands to it."""
    lines = [_describe_found(outcome.found)]
    lines += [f"differs from its contract: {said}" for said in outcome.differences if outcome.is_held]
    lines += [f"no contract: {said}" for said in outcome.differences if not outcome.is_held]
    if outcome.is_held and outcome.is_good:
        lines.append("as its contract says")
    return "\n".join(lines)


def _describe_found(found: Calibration) -> str:
    unreadable = [reply.text for reply in found.replies if reply.text is not None and read_numbers(reply.text) is None]
    troubled = [reply.trouble for reply in found.replies if reply.trouble]
    lines = [f"{len(found.replies)} questions, {len(found.heard)} answers that hold a {_one(found)}"]
    if unreadable:
        lines.append(f"{len(unreadable)} without one, such as {_shorten(unreadable[0])}")
    if thoughts := sum(text.startswith("<think>") and "</think>" not in text for text in unreadable):
        lines.append(f"{thoughts} thought for all of their {MAX_NEW_TOKENS} tokens; serve the model without thinking")
    if troubled:
        lines.append(f"{len(troubled)} without an answer: {troubled[0]}")
    fit = found.fit
    if fit is None:
        return "\n".join([*lines, f"none fits: {FEWEST} boxes or points at least tell a convention"])
    lines += [f"best:   {_describe_trial(found, fit.best)}", f"second: {_describe_trial(found, fit.second)}"]
    wins, of = fit.best.against(fit.second)
    lines.append(f"the best is the closer one for {wins} of the {of} answers that the two place differently")
    if not fit.explains:
        return "\n".join([*lines, "none fits: no convention explains half of the answers; does the model see?"])
    if fit.misplaced:
        return "\n".join([*lines, _describe_misplaced(found, fit)])
    if fit.rivals:
        others = "; ".join(_describe_convention(found, trial) for trial in fit.rivals)
        return "\n".join([*lines, f"several fit: the answers do not tell the best from {others}"])
    if fit.best.is_tuned:
        lines.append(_describe_resizing(fit))
    if conversion := describe_conversion(found, fit.best):
        lines.append(f"in pixels of the picture: {conversion}")
    if not fit.is_sayable:
        lines.append(
            "no contract of groundling says this, for they say pixels of the resized picture or thousandths of its "
            "sides, x first: read the answers by the line above"
        )
    if edges := describe_edges(found):
        lines.append(f"right and bottom edges: {edges}")
    return "\n".join([*lines, f"answer form: {found.answer_form or 'none of ours'}"])


def _one(found: Calibration) -> str:
    return "point" if found.is_of_points else "box"


def _describe_convention(found: Calibration, trial: Trial) -> str:
    """In words: what the numbers count, their order, and whether EXIF was heeded."""
    within = f" within {_describe_budget(trial.budget)}" if trial.budget else ""
    exif = "upright" if trial.turned == "upright" else "as stored, EXIF not heeded"
    return f"{trial.likeliest.meaning}{within}, {describe_order(found, trial.order)}, pictures {exif}"


_READING: dict[Order, str] = {
    "xyxy": "",
    "yxyx": "; y is said before x",
    "xywh": "; the last two are width and height, by the same factors",
    "cxcywh": "; x and y are of the middle, the last two are width and height, by the same factors",
}


def describe_conversion(found: Calibration, trial: Trial) -> str | None:
    """How the numbers become pixels of the picture; None for pixels of a resized one, whose frame a budget tells."""
    formula = write_conversion(trial.likeliest)
    if formula is None:
        return None
    upright = "" if trial.turned == "upright" else "; of the picture as it is stored: send it upright"
    return f"{formula}{_READING[trial.order]}{upright}"


def _describe_budget(budget: Budget) -> str:
    if budget.max_pixels >= LARGEST_SHOWN:
        return f"{budget.min_pixels} to {LARGEST_SHOWN} pixels or more"
    return f"{budget.min_pixels} to {budget.max_pixels} pixels"


def _describe_trial(found: Calibration, trial: Trial) -> str:
    fits = f"{trial.explained} of {len(trial.errors)} answers fit"
    return f"{_describe_convention(found, trial)}: {fits}, median error {trial.median_px:.1f} px"


def _describe_misplaced(found: Calibration, fit: Fit) -> str:
    """Which kinds of pictures the best fits, and which it does not."""
    wrong = [_describe_picture(card) for card in fit.misplaced]
    off = [
        _describe_picture(each.card) for each, error in zip(found.heard, fit.best.errors, strict=True) if error > OFF
    ]
    heard = [_describe_picture(each.card) for each in found.heard]
    right = ", ".join(dict.fromkeys(kind for kind in heard if kind not in {*wrong, *off}))
    return (
        f"none fits: the best fits pictures of {right or 'no size'}, and not those of "
        f"{', '.join(dict.fromkeys(wrong))}, each of which is off by a scale of its own and not by chance: "
        "the numbers count what is not listed, or the model sees such pictures otherwise"
    )


def _describe_picture(card: Card) -> str:
    """Its size and state."""
    return f"{card.upright} stored turned" if card.orientation > 1 else str(card.upright)


def _describe_resizing(fit: Fit) -> str:
    """How exactly a size or a budget is told, and the side of a token."""
    most = fit.most_pixels
    if most is None:
        assert fit.sizes is not None, "a size was found by trying"
        least, largest = fit.sizes
        return f"the size may be {least} to {largest} by these answers" if least < largest else f"the size is {least}"
    told = "" if most[1] >= LARGEST_SHOWN else f", its most may be {most[0]} to {most[1]} by these answers"
    return f"resized to whole tokens of {fit.best.side} pixels a side{told}"


def _shorten(text: str | None, most: int = 80) -> str:
    words = repr(text)
    return words if len(words) <= most else words[:most] + "...'"


def to_json(outcome: Outcome) -> dict[str, Any]:
    """What `groundling calibrate --json` prints."""
    found = outcome.found
    fit = found.fit
    return {
        "model": found.model,
        "questions": len(found.replies),
        "read": len(found.heard),
        "failed": sum(reply.text is None for reply in found.replies),
        "is_found": found.is_found,
        "things": found.things,
        "best": fit and _trial_to_json(fit.best),
        "second": fit and _trial_to_json(fit.second),
        "misplaced": [_describe_picture(card) for card in fit.misplaced] if fit else [],
        "rivals": [_trial_to_json(trial) for trial in fit.rivals] if fit else [],
        "closer": fit and dict(zip(("answers", "of"), fit.best.against(fit.second), strict=True)),
        "max_pixels": fit and fit.most_pixels,
        "sizes": fit and fit.sizes,
        "conversion": (fit and fit.is_found and describe_conversion(found, fit.best)) or None,
        "edges": describe_edges(found),
        "answer_form": found.answer_form,
        "differences": outcome.differences,
        "contract": outcome.contract and str(outcome.contract),
        "replies": [
            {"question": reply.card.question, "picture": str(reply.card.upright), "orientation": reply.card.orientation}
            | {"box": reply.card.box.xyxy[0].tolist(), "text": reply.text, "trouble": reply.trouble}
            for reply in found.replies
        ],
    }


def _trial_to_json(trial: Trial) -> dict[str, Any]:
    counts, order, turned = trial.kind
    budget = trial.budget
    return {
        "counts": "resized" if counts == "seen" and budget else counts,
        "order": order,
        "pictures": turned,
        "min_pixels": budget and budget.min_pixels,
        "max_pixels": budget and budget.max_pixels,
        "token_side": trial.side,
        "size": trial.likeliest.size,
        "explained": trial.explained,
        "of": len(trial.errors),
        "median_px": round(trial.median_px, 3),
    }
