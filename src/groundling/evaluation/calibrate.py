"""Measuring in which convention a model or a server answers, by pictures whose boxes are known.

A model may be trained, or served, otherwise than its files say: another budget of pixels, thousandths for pixels, y
before x, pictures not turned upright. Its scores are then near 0 and nothing tells why. Here it is asked about the
cards (`cards.py`), freely, and the convention that places its answers right is found (`conventions.py`), or none is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from groundling.data.formats.chat import resize_within
from groundling.dialect.family import FAMILIES
from groundling.dialect.prompt import check_template, write_prompt
from groundling.errors import ContractError, ImageError, ServerError, SettingsError
from groundling.evaluation.calibration import Calibration, Reply, differences, measure
from groundling.evaluation.cards import MEDIA_TYPE, draw_cards
from groundling.evaluation.conventions import LARGEST_SHOWN
from groundling.evaluation.fitting import find_family
from groundling.inference.predict import Grounder, Question, load_checkpoint
from groundling.inference.server import Server, Turn, connect, keep_box_tokens
from groundling.model.contract import CONTRACT_FILE, Contract, installed_versions, write_contract
from groundling.model.load import find_checkpoint

Progress = Callable[[int, int], None]

MAX_NEW_TOKENS = 512
MOST_IN_A_ROW = 8  # cards without a reply: more than there are of those that are large
DEFAULT_TEMPLATE = FAMILIES["qwen2_5_vl"].prompt_template  # plain English, that any model understands


class Outcome(NamedTuple):
    """What came of calibrating."""

    found: Calibration
    differences: list[str]  # where the model does otherwise than its contract or its files say; why none is written
    contract: Path | None  # the file that was written
    is_held: bool  # whether it was held against a contract that is there

    @property
    def is_good(self) -> bool:
        """Whether one convention was found, and nothing says otherwise."""
        return self.found.is_found and not self.differences


def calibrate(name: str, *, to: Path | None = None, progress: Progress | None = None) -> Outcome:
    """The convention of a model by any name that `load` takes, held against its contract.

    One without a contract gets what was measured as `groundling.json`, in `to` or its own folder, where it answers as
    its own files say; a model that lies with the hub's own copies gets none without `to`. ContractError, before
    anything is asked, where there is such a file already.
    """
    checkpoint = find_checkpoint(name)
    if not checkpoint.is_contract_derived:
        if to is not None:
            raise SettingsError(f"{name} has a contract, which is compared and never replaced; leave --to out")
        found = ask_model(load_checkpoint(checkpoint), progress=progress)
        return Outcome(found, differences(found, checkpoint.contract), None, True)
    folder = to or (checkpoint.folder if Path(name).exists() else None)
    _refuse_contract(folder)
    found = ask_model(load_checkpoint(checkpoint), progress=progress)
    contract = replace(
        checkpoint.contract,
        answer_form=found.answer_form or checkpoint.contract.answer_form,
        made_with=installed_versions(),
    )
    said = differences(found, contract)
    return Outcome(found, said, _write(contract, folder) if found.is_found and not said else None, False)


def calibrate_server(
    address: str,
    *,
    model: str | None = None,
    against: str | None = None,
    to: Path | None = None,
    template: str | None = None,
    seconds: float = 120.0,
    progress: Progress | None = None,
) -> Outcome:
    """The convention of a served model, held against the contract of the model named `against`.

    Where that is None, what was measured is written to `to` as `groundling.json`; None: nowhere.
    """
    if against is not None and to is not None:
        raise SettingsError("--against compares with a contract, and --to writes one; give one of the two")
    if template is not None:
        check_template(template)
    _refuse_contract(to)
    contract = None if against is None else find_checkpoint(against).contract
    server = connect(address, model, seconds=seconds)
    found = ask_server(server, template=template, against=contract, progress=progress)
    if contract is not None:
        return Outcome(found, differences(found, contract), None, True)
    if to is None or not found.is_found:
        return Outcome(found, [], None, False)
    try:
        measured = derive_from_server(found, template or DEFAULT_TEMPLATE)
    except ContractError as error:
        return Outcome(found, [str(error)], None, False)
    return Outcome(found, [], _write(measured, to), False)


# ---- asking ----------------------------------------------------------------------------------------------------


def ask_model(grounder: Grounder, *, progress: Progress | None = None) -> Calibration:
    """The convention of a model that is loaded here, asked in its contract's words; pictures come to it upright."""
    cards = draw_cards()
    questions = [Question(card.file, card.question) for card in cards]
    replies: dict[int, Reply] = {}
    for place, found in grounder.answer_each(questions, batch_size=4, max_new_tokens=MAX_NEW_TOKENS, free=True):
        assert not isinstance(found, ImageError), "cards can be read"
        replies[place] = Reply(cards[place], found.answer.text, found.answer.seen)
        if progress is not None:
            progress(len(replies), len(cards))
    return measure(grounder.name, [replies[place] for place in range(len(cards))], turns=("upright",))


def ask_server(
    server: Server,
    *,
    template: str | None = None,
    against: Contract | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    progress: Progress | None = None,
) -> Calibration:
    """The convention of a served model, which gets each card's file as it is, its EXIF included.

    It is asked in the words of `template`, of the contract that it is held `against`, or in plain ones. A card without
    a reply is counted. ServerError where the first brings none, or MOST_IN_A_ROW of them: the server is gone.
    """
    words = template or (against.prompt_template if against else DEFAULT_TEMPLATE)
    system = against.system_prompt if against else None
    extra = keep_box_tokens(against.answer_form) if against else {}
    cards = draw_cards()
    replies: list[Reply] = []
    for card in cards:
        turn = Turn(card.file, MEDIA_TYPE, write_prompt(words, card.question), system)
        seen = resize_within(card.upright, against.budget) if against else None
        try:
            replies.append(Reply(card, server.answer(turn, max_tokens=max_new_tokens, extra=extra), seen))
        except ServerError as error:
            if not replies:
                raise
            if all(reply.text is None for reply in replies[1 - MOST_IN_A_ROW :]):
                raise ServerError(f"{error} ({MOST_IN_A_ROW} times in a row, after it had answered)") from None
            replies.append(Reply(card, None, seen, str(error)))
        if progress is not None:
            progress(len(replies), len(cards))
    return measure(f"{server.model} at {server.address}", replies)


# ---- contracts -------------------------------------------------------------------------------------------------


def derive_from_server(found: Calibration, template: str) -> Contract:
    """The contract of a served model that writes pixels of the resized picture.

    Its budget is no larger than the largest card: by that much pictures are seen as they are sent, whatever more the
    server may take. ContractError for one of another convention, which no contract can say, and for thousandths, which
    tell neither the family nor the budget.
    """
    fit = found.fit
    assert fit is not None and fit.is_found, "a convention was found"
    family, budget = find_family(fit), fit.best.budget
    if family is None or budget is None:
        raise ContractError(
            "these answers do not tell the family and the budget; calibrate the model's folder in place of its server"
            if fit.is_sayable
            else "none says what these answers count, and in which order"
        )
    return Contract(
        family=family.name,
        coordinates=family.coordinates,
        patch=family.patch,
        merge=family.merge,
        min_pixels=budget.min_pixels,
        max_pixels=min(budget.max_pixels, LARGEST_SHOWN),
        prompt_template=template,
        answer_form=found.answer_form or family.answer_form,
    )


def _refuse_contract(folder: Path | None) -> None:
    if folder is not None and (file := folder / CONTRACT_FILE).exists():
        raise ContractError(f"{file} is there already and is never replaced; give another folder by --to")


def _write(contract: Contract, folder: Path | None) -> Path | None:
    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    write_contract(contract, folder)
    return folder / CONTRACT_FILE
