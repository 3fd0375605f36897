"""What training and its preview begin with alike: a recipe's processor and records, and the rows that they stand in.

Nothing is written and no weights are loaded here, so what is previewed is what will be trained on.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from groundling.data.check import Finding
from groundling.data.record import Record
from groundling.errors import SettingsError
from groundling.evaluation.processes import from_main_process
from groundling.evaluation.report import hash_records
from groundling.model.contract import Contract, installed_versions, read_contract, recipe_contract
from groundling.model.load import Checkpoint, find_checkpoint, load_processor
from groundling.model.processor import Processor
from groundling.settings import Settings
from groundling.training.checkpoint import SAMPLE_FILE, has_scores, names_checkpoint, refuse_past_end
from groundling.training.mixture import Mixture
from groundling.training.records import (
    Gathered,
    RecordDataset,
    build_augmenter,
    gather_records,
    longest_sample,
    measure_changed,
    pictures_of,
    room_for_samples,
)
from groundling.training.rows import RowPlan, RowSampler
from groundling.training.space import count_steps


class Ready(NamedTuple):
    """All that a run has before its weights."""

    base: Checkpoint  # that it starts from
    processor: Processor  # under the run's own contract
    records: Gathered
    dataset: RecordDataset  # the records as samples
    sampler: RowSampler  # the rows that they stand in


def make_ready(settings: Settings, *, processes: int = 1, progress: Callable[[int, int], None] | None = None) -> Ready:
    """What a recipe says, for so many processes; `progress` is told (pictures looked at, pictures in all).

    SettingsError, ContractError or RecordError where one of them cannot be had or used.
    """
    base = find_checkpoint(settings.model.name, revision=settings.model.revision)
    contract = recipe_contract(base.contract, settings, is_derived=base.is_contract_derived)
    processor = load_processor(base).with_contract(contract)
    records = from_main_process(lambda: gather_records(settings, processor, progress=progress))
    processor = processor.with_contract(sign_contract(contract, records.train))
    dataset = build_dataset(records, processor, settings)
    return Ready(base, processor, records, dataset, build_sampler(records, dataset, settings, processes=processes))


def sign_contract(contract: Contract, records: Sequence[Record]) -> Contract:
    """The contract with what the model is trained on and made with."""
    trained_on = {"sha256": hash_records(records), "records": len(records)}
    return dataclasses.replace(contract, trained_on=trained_on, made_with=installed_versions())


def refuse_other_data(resume: Path | None, contract: Contract, findings: Sequence[Finding] = ()) -> None:
    """SettingsError where a run would go on in the middle of other records than it began with.

    `findings` tell what of the data cannot be used, since that may be why.
    """
    before = None if resume is None else read_contract(resume)
    if before is not None and before.trained_on != contract.trained_on:
        errors = [finding for finding in findings if finding.level == "error"]
        unusable = f"; {len(errors)} errors set records aside, the first: {errors[0].message}" if errors else ""
        raise SettingsError(
            f"{resume} has learned from other records than data.train holds: {_tell_data(before)}, "
            f"now {_tell_data(contract)}{unusable}. Put the former ones back, or start a new run from its weights "
            f"(model.name={resume})"
        )


def sign_sample(sample: Sequence[Record]) -> dict[str, Any]:
    """What tells the records that are asked in training from others."""
    return {"sha256": hash_records(sample), "records": len(sample)}


def refuse_other_sample(resume: Path | None, sample: Sequence[Record]) -> None:
    """SettingsError where scores would be held against those of other records: for the best weights, and patience."""
    if resume is None or not has_scores(resume):
        return
    file = resume / SAMPLE_FILE
    if not file.is_file():  # a checkpoint from before there was the file
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    if before != sign_sample(sample):
        raise SettingsError(
            f"{resume} was measured on {before['records']} other records of data.test than the {len(sample)} of now "
            f"({file}), so its scores are no measure for later ones; put the former ones back, or start a new run from "
            f"its weights (model.name={resume})"
        )


def refuse_no_step(resume: Path | None, settings: Settings, sampler: RowSampler) -> None:
    """SettingsError where a checkpoint that the recipe names has more steps behind it than the recipe's epochs have."""
    if resume is not None and names_checkpoint(settings) and settings.train.max_steps is None:
        refuse_past_end(resume, count_steps(settings, steps_an_epoch=sampler.steps))


def _tell_data(contract: Contract) -> str:
    trained_on = contract.trained_on or {}
    return f"{trained_on.get('records')} with hash {str(trained_on.get('sha256'))[:12]}"


def build_dataset(records: Gathered, processor: Processor, settings: Settings) -> RecordDataset:
    """The records as samples, their pictures changed as the recipe says."""
    return RecordDataset(
        records.train,
        processor,
        max_pixels=settings.images.max_file_pixels,
        share_pictures=settings.train.share_pictures,
        augmenter=build_augmenter(records, settings, processor),
    )


def build_sampler(records: Gathered, dataset: RecordDataset, settings: Settings, *, processes: int = 1) -> RowSampler:
    """Which of the records stand together in the rows of an epoch."""
    train = settings.train
    room = train.pack_tokens and room_for_samples(records.train, dataset.processor, train.pack_tokens)
    plan = RowPlan(train.batch_size, room, train.accumulate, processes, train.share_pictures)
    changed = None
    if dataset.augmenter is not None:
        changed = partial(
            measure_changed,
            records=records,
            augmenter=dataset.augmenter,
            processor=dataset.processor,
            limit=longest_sample(settings),
        )
    windows = records.train.windows if isinstance(records.train, Mixture) else None
    images = pictures_of(records.train)
    return RowSampler(images, records.lengths, plan, seed=train.seed, changed=changed, windows=windows)
