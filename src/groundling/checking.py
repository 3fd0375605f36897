"""The data doctor with a model in mind: `check` of the data room, at the budget of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from groundling.data.check import Finding
from groundling.data.check import check as check_records
from groundling.data.record import Record

if TYPE_CHECKING:
    from groundling.inference.predict import Grounder


def check(records: Sequence[Record], model: str | Grounder | None = None) -> list[Finding]:
    """What is wrong or odd with the records; with a model, also what its budget of pixels makes too small to see.

    `model` is a loaded grounder or the name of a checkpoint. The findings are ordered by file and line.
    """
    if model is None:
        return check_records(records)
    if isinstance(model, str):
        from groundling.model.load import find_checkpoint

        return check_records(records, budget=find_checkpoint(model).contract.budget)
    return check_records(records, budget=model.contract.budget)
