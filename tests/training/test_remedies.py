"""What takes less memory: offered cheapest first, each with what it costs, and never with another step unsaid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from published import write_published, write_sized_records

from groundling.model.layout import Stretch
from groundling.recipe import load_settings
from groundling.settings import Settings
from groundling.training.memory import DEVICE, GIB, Subject, estimate_memory, read_subject
from groundling.training.plan import _load_processor
from groundling.training.rehearsal import RowShape
from groundling.training.remedies import (
    OPTIONS,
    Case,
    Change,
    Remedy,
    _change_all,
    _describe_costs,
    _find_fitting,
    apply,
    cut_row,
    find_remedies,
    see_less,
)
from groundling.training.workload import Samples, measure_samples, plan_rows, worst_row

PICTURE = (1, 40, 40)  # patches: 400 tokens


@pytest.fixture(scope="session")
def model_3b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published(tmp_path_factory.mktemp("published") / "3b", "3b")


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sized_records(tmp_path_factory.mktemp("sized") / "r.jsonl", count=300)


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six questions about each of 20 pictures, and one about each of 80."""
    images = [number // 6 if number < 120 else number for number in range(200)]
    lines = [
        {
            **{"id": str(number), "image": f"images/{image}.jpg", "width": 1024, "height": 640 + 32 * (image % 5)},
            **{"question": f"sign number {number}", "targets": [{"label": "sign", "box": [10, 20, 130, 45]}]},
        }
        for number, image in enumerate(images)
    ]
    file = tmp_path_factory.mktemp("mixed") / "r.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def case_of(settings: Settings, samples: Samples | None = None, *, has_gpu: bool = True) -> Case:
    work = None if samples is None else plan_rows(samples, settings)
    row = worst_row(settings, max_tokens=1280) if work is None else work.largest
    return Case(settings, settings, row, samples, has_gpu, work, work)


def offered(case: Case) -> dict[str, Case]:
    """The case after each option by itself, by its changes."""
    changed = [found for option in OPTIONS if (found := option(case)) is not None]
    return {" ".join(map(str, found.changes.values())): found for found in changed}


def small(rows: dict[str, Any], **sections: Any) -> Settings:
    values = {"model": {"name": "tiny"}, "data": {"train": "a"}, "run": {"dir": "x"}, "train": rows | {"accumulate": 3}}
    return Settings.model_validate(values | sections)


# ---- the step --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["textvqa-3b", "textvqa-3b-lora"])
def test_steps_by_tokens_are_as_many_as_before_or_counted(model_3b: Path, records: Path, recipe: str) -> None:
    """What is said of a step is what a plan of the changed recipe says."""
    given = [f"model.name={model_3b}", f"data.train={records}"]
    settings = load_settings(recipe, given)
    samples = measure_samples(settings, _load_processor(settings, str(model_3b)))
    before = plan_rows(samples, settings).steps_an_epoch
    found = {name: one for name, one in offered(case_of(settings, samples)).items() if "pack_tokens" in name}
    assert len(found) == 2 and any("images.max_tokens" in name for name in found)
    for name, one in found.items():
        changed = load_settings(recipe, [*given, *name.split()])
        again = measure_samples(changed, _load_processor(changed, str(model_3b)))
        assert again.too_long == 0
        after = plan_rows(again, changed).steps_an_epoch
        share = abs(before / after - 1)
        by = f"{before} -> {after} steps an epoch, each of {share:.1%} {'more' if after < before else 'fewer'} records"
        told = f"{after} an epoch as before" if after == before else by
        assert told in _describe_costs(one) and share < 0.06


def test_a_step_of_many_has_as_many_records_in_shorter_rows(tmp_path: Path, model_3b: Path) -> None:
    """Half of a row by tokens has fewer than half of its records here: twice as many rows would be too few."""
    file = write_sized_records(tmp_path / "r.jsonl", count=1000)
    settings = load_settings("textvqa-3b-lora", [f"model.name={model_3b}", f"data.train={file}"])
    samples = measure_samples(settings, _load_processor(settings, str(model_3b)))
    before = plan_rows(samples, settings).steps_an_epoch
    twice = apply(settings, (Change("train.pack_tokens", 2048), Change("train.accumulate", 4)))
    assert plan_rows(samples, twice).steps_an_epoch > 1.2 * before
    costs = _describe_costs(offered(case_of(settings, samples))["train.pack_tokens=2048 train.accumulate=5"])
    assert costs == f"a little more time; steps of other records, {before} an epoch as before"


@pytest.mark.parametrize(("size", "parts"), [(8, 2), (3, 3), (35, 5)])
def test_rows_by_records_are_cut_into_whole_parts(size: int, parts: int) -> None:
    found = offered(case_of(small({"batch_size": size})))
    row = found[f"train.batch_size={size // parts} train.accumulate={3 * parts}"].row
    assert len(row.stretches) == -(-size // parts)
    for name in found:
        train = apply(small({"batch_size": size}), [change for change in found[name].changes.values()]).train
        assert train.batch_size * train.accumulate == 3 * size


def test_rows_by_records_are_those_that_a_plan_of_the_changed_recipe_has(model_3b: Path, mixed: Path) -> None:
    """Questions that share a picture stand together: a half of a row has other ones than the first of them."""
    given = [f"model.name={model_3b}", f"data.train={mixed}", "train.pack_tokens=null", "train.batch_size=16"]
    settings = load_settings("textvqa-3b", given)
    samples = measure_samples(settings, _load_processor(settings, str(model_3b)))
    shorter, smaller = "train.batch_size=8 train.accumulate=2", "images.max_tokens="
    first = offered(case_of(settings, samples))
    both = {name: one for name, one in offered(first[shorter]).items() if smaller in name}
    found = {name: one for name, one in (first | both).items() if shorter in name or smaller in name}
    assert len(found) == 3
    for name, one in found.items():
        changed = load_settings("textvqa-3b", [*given, *name.split()])
        work = plan_rows(measure_samples(changed, _load_processor(changed, str(model_3b))), changed)
        assert one.row == work.largest, name
        assert one.work == work and work.steps_an_epoch == plan_rows(samples, settings).steps_an_epoch


def test_without_records_nothing_is_said_of_their_number() -> None:
    settings = load_settings("textvqa-3b", ["train.pack_tokens=8192"])
    found = offered(case_of(settings))
    assert "cannot be told without data" in _describe_costs(found["train.pack_tokens=4096 train.accumulate=2"])
    name = next(name for name in found if "max_tokens" in name)
    assert name.startswith("images.max_tokens=630 train.pack_tokens=4")
    assert "cannot be told without data" in _describe_costs(found[name])


def test_rows_of_one_sample_cannot_be_cut() -> None:
    settings = load_settings("textvqa-3b", ["train.pack_tokens=2048"])
    case = case_of(settings)
    assert len(case.row.stretches) == 1
    assert not any(name.startswith("train.pack_tokens") for name in offered(case))


# ---- what is offered -------------------------------------------------------------------------------------------


def test_what_needs_a_gpu_is_offered_where_there_is_one() -> None:
    settings = small({"batch_size": 1}, tune={"method": "lora"}, launch={"processes": 2})
    with_gpu, without = offered(case_of(settings)), offered(case_of(settings, has_gpu=False))
    assert with_gpu.keys() - without.keys() == {
        *("trainer.optim=adamw_8bit", "tune.method=qlora", "launch.engine=fsdp2")
    }
    assert "launch.engine=zero2" in without and "tune.lora.rank=8 tune.lora.alpha=16" in without


def test_what_is_spread_is_offered_only_what_can_be() -> None:
    settings = load_settings("textvqa-3b", ["launch.engine=zero3", "launch.processes=8"])
    found = offered(case_of(settings))
    assert "tune.method=qlora launch.engine=ddp" in found and "trainer.optim=adamw_8bit" not in found
    assert not any(name.startswith("launch.engine") for name in found)


def test_every_offer_is_a_recipe() -> None:
    for changes in (["tune.freeze=[vision]"], ["train.bf16=false", "train.gradient_checkpointing=false"]):
        settings = load_settings("textvqa-3b", ["launch.processes=2", *changes])
        found = offered(case_of(settings))
        assert len(found) > 5 and ("tune.method=lora tune.freeze=[]" in found) == bool(settings.tune.freeze)
        for name, one in found.items():
            assert load_settings("textvqa-3b", ["launch.processes=2", *changes, *name.split()]) == one.settings


def test_changes_that_suffice_are_as_few_as_can_be() -> None:
    """Where both of two changes are needed, neither alone is offered, nor a third beside them."""
    settings = small({"batch_size": 4}, launch={"processes": 2})

    def judge(changed: Case) -> Remedy:
        enough = {"train.batch_size", "trainer.optim"} <= changed.changes.keys() or changed.settings.tune.has_adapters
        return Remedy(tuple(changed.changes.values()), _describe_costs(changed), 0, enough)

    found = list(_find_fitting(case_of(settings), judge, lambda _: True))
    assert [" ".join(map(str, remedy.changes)) for remedy in found] == [
        "train.batch_size=2 train.accumulate=6 trainer.optim=adamw_8bit",
        "train.batch_size=2 train.accumulate=6 trainer.optim=adafactor",
        "tune.method=lora",
        "tune.method=qlora",
    ]
    assert found[0].costs.startswith("together; a little more time; AdamW's numbers in 8 bits")


def test_costs_are_those_of_the_changes_that_are_left() -> None:
    """Nothing is spread any more and no part frozen by itself where weights of 4 bits are in whole copies."""
    changed = _change_all(case_of(small({"batch_size": 4}, launch={"processes": 2})))
    assert changed.settings.launch.engine is None and not changed.settings.tune.freeze
    assert not {"launch.engine", "tune.freeze"} & changed.changes.keys() and "tune.method" in changed.changes
    assert _describe_costs(changed).split("; ") == [
        *("together", "a little more time", "about a third more time"),
        *("half the sight: small targets suffer", "adapters beside rounded weights, slower"),
        'needs "groundling[qlora]"',
    ]


@pytest.mark.parametrize(("engine", "told"), [("ddp", False), ("zero2", True)])
def test_what_is_told_at_the_end_is_what_the_recipe_has_otherwise(engine: str, told: bool) -> None:
    recipe = small({"batch_size": 4}, launch={"processes": 2, "engine": engine}, tune={"freeze": ["merger"]})
    changed = _change_all(case_of(recipe))
    shown = set(map(str, changed.changes.values()))
    assert changed.settings.launch.engine == "ddp" and ("launch.engine=ddp" in shown) == told
    assert "tune.freeze=[]" in shown, "the recipe froze it"


def test_rows_that_become_shorter_twice_still_take_more_time() -> None:
    changed = _change_all(case_of(load_settings("textvqa-3b", ["train.pack_tokens=8192"])))
    assert {"train.pack_tokens", "images.max_tokens"} <= changed.changes.keys()
    assert _describe_costs(changed).startswith("together; a little more time; ")


# ---- memory ----------------------------------------------------------------------------------------------------


def test_changes_that_do_not_suffice_alone_are_put_together(model_3b: Path, records: Path) -> None:
    """Adapters on weights in bf16 take 8.4 GiB, the device's own among them, before anything else."""
    _, _, found = remedies_of("textvqa-3b-lora", model_3b, records, gib=8)
    assert [remedy.fits for remedy in found] == [True] * 3
    assert all("tune.method=qlora" in str(remedy) and "(together; " in str(remedy) for remedy in found)
    assert len({remedy.changes[0] for remedy in found}) == 3


def remedies_of(
    recipe: str, model: Path, records: Path, *changes: str, gib: float
) -> tuple[Settings, Subject, list[Remedy]]:
    settings = load_settings(recipe, [f"model.name={model}", f"data.train={records}", *changes])
    samples = measure_samples(settings, _load_processor(settings, str(model)))
    subject, row = read_subject(model), plan_rows(samples, settings).largest
    return settings, subject, find_remedies(subject, settings, row, samples=samples, device_bytes=gib * GIB)


def planned(subject: Subject, settings: Settings) -> int:
    """Bytes by a plan of its own."""
    samples = measure_samples(settings, _load_processor(settings, settings.model.name))
    return estimate_memory(subject, settings, plan_rows(samples, settings).largest).most.total


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "changes", "gib", "enough"),
    [
        ("textvqa-3b-qlora", ["train.pack_tokens=1100"], 4, 0),
        ("textvqa-3b-qlora", [], 7, 3),
        ("textvqa-3b", [], 24, 2),
        ("textvqa-3b", ["launch.processes=4"], 24, 3),
        ("textvqa-3b", ["train.pack_tokens=null", "train.batch_size=3", "train.gradient_checkpointing=false"], 60, 3),
    ],
)
def test_three_remedies_wherever_there_are_three(
    model_3b: Path, records: Path, recipe: str, changes: list[str], gib: float, enough: int
) -> None:
    settings, subject, found = remedies_of(recipe, model_3b, records, *changes, gib=gib)
    before = planned(subject, settings)
    assert [remedy.fits for remedy in found[:3]] == [True] * enough + [False] * (3 - enough)
    if enough == 0:
        assert len(found) == 4 and found[-1].costs.startswith("together; ")
        assert found[-1].total == min(remedy.total for remedy in found)
    for remedy in found:
        assert remedy.total == planned(subject, apply(settings, remedy.changes))
        assert remedy.total - DEVICE < 0.99 * (before - DEVICE)
        assert remedy.fits == (remedy.total <= gib * GIB * 0.95)


# ---- rows ------------------------------------------------------------------------------------------------------


def test_half_a_row_has_the_pictures_of_its_samples() -> None:
    """Five questions about three pictures: the first three are about two of them."""
    samples = [Stretch(500), Stretch(50, 450, 0), Stretch(500), Stretch(50, 450, 2), Stretch(500)]
    half = cut_row(RowShape(samples, [PICTURE] * 3, 50), 2)
    assert half == RowShape(samples[:3], [PICTURE] * 2, 25)
    words = cut_row(RowShape([Stretch(30), Stretch(30), Stretch(500), Stretch(500)], [PICTURE] * 2, 40), 2)
    assert words is not None and words.grids == [(1, 2, 2)], "words alone come first here"


def test_larger_pictures_are_cut_to_the_budget_and_smaller_ones_stay() -> None:
    shared = [Stretch(1000), Stretch(50, 990, 0), Stretch(500)]
    less = see_less(RowShape(shared, [(1, 60, 60), PICTURE], 9), 450)
    assert less is not None and less.grids == [(1, 30, 60), PICTURE]
    assert less.stretches == [Stretch(550), Stretch(50, 540, 0), Stretch(500)]


def test_values_are_written_as_the_command_line_takes_them() -> None:
    found = [Change("a.b", value) for value in (True, 64.0, (), ("vision", "merger"), "lora")]
    assert " ".join(map(str, found)) == "a.b=true a.b=64 a.b=[] a.b=[vision,merger] a.b=lora"
