"""The preview: the very samples of a training, counted by hand, on a page that is safe and complete in itself."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from drawn import Recipe
from families import build_family_processor
from PIL import Image
from rich.console import Console

import groundling as gl
from groundling.dialect.family import FAMILIES
from groundling.inference.batch import IGNORED
from groundling.model.load import find_checkpoint
from groundling.model.processor import Processor
from groundling.recipe import load_settings
from groundling.settings import Settings
from groundling.training.pictures import draw_first_batch
from groundling.training.preview import (
    Preview,
    build_preview,
    compare_places,
    count_findings,
    measure_epoch,
    refuse_run_folder,
    show_numbers,
    write_preview,
)
from groundling.training.preview_text import print_preview
from groundling.training.ready import make_ready
from groundling.training.records import join_samples
from groundling.training.rows import Row

NASTY = "<img src=x onerror=alert(1)></span>&\x1b[31m\u202e"
PHOTO = gl.Frame(224, 112)  # seen at 140x56 pixels


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Three questions about one picture, one of words alone, one too long, one outside its picture, one broken line."""
    Image.new("RGB", PHOTO.size_wh, "teal").save(tmp_path / "a.png")
    about: dict[str, Any] = {"image": "a.png"}
    lines = [
        about | {"id": "mug", "question": NASTY, "targets": [{"box": [16, 8, 32, 56], "label": NASTY}]},
        about | {"id": "tip", "question": "the tip", "targets": [{"point": [33, 44]}]},
        about | {"id": "none", "question": "a cat", "targets": []},
        {"id": "words", "question": "Who are you?", "answer": "A model."},
        {"id": "long", "question": "count", "answer": "1 2 3 4 5 6 7 8 9 " * 40},
        about | {"id": "outside", "question": "it", "targets": [{"box": [0, 0, 999, 9]}]},
    ]
    file = tmp_path / "records.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{\n", encoding="utf-8")
    return file


def settings_of(records: Path, model: str = "tiny", **sections: Any) -> Settings:
    values = {"model": {"name": model}, "data": {"train": str(records), "max_length": 400}}
    return Settings.model_validate(values | {"run": {"dir": str(records.parent / "run")}} | sections)


@pytest.fixture
def preview(records: Path) -> Preview:
    return build_preview(settings_of(records, train={"batch_size": 8}), name="mine")


def text_of(preview: Preview, **options: Any) -> str:
    console = Console(file=io.StringIO(), highlight=False, **options)
    print_preview(preview, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


# ---- the samples -----------------------------------------------------------------------------------------------


def test_the_first_batch_of_a_training_is_what_was_previewed(recipe: Recipe, tmp_path: Path) -> None:
    file = recipe(train={"max_steps": 1, "seed": 5}, run={"pictures": 4})
    preview = build_preview(load_settings(file), name="run", samples=4)
    assert not (tmp_path / "run").exists(), "nothing is written where the run will be"
    draw_first_batch([shown.sample for shown in preview.samples], tmp_path / "first.jpg")
    run = gl.train(file)
    assert (tmp_path / "first.jpg").read_bytes() == (run / "samples" / "first-batch.jpg").read_bytes()


def test_rows_are_those_that_are_packed(preview: Preview, records: Path) -> None:
    settings = settings_of(records, train={"batch_size": 8})
    _, processor, gathered, dataset, (drawn,) = make_ready(settings)
    row = join_samples(dataset.__getitems__(drawn), processor)
    (shown,) = preview.rows
    labels, ids = row["labels"][0].tolist(), row["input_ids"][0].tolist()
    assert shown.tokens == len(ids) and shown.size == 4 and shown.pictures == 1
    assert shown.counts["learned"] == sum(label != IGNORED for label in labels)
    assert shown.counts["picture"] == ids.count(processor.image_token_id) == 10, "one picture, three questions"
    assert shown.tokens + shown.saved == sum(sample.sample.tokens for sample in preview.samples)
    assert sum(shown.groups) == shown.tokens and len(shown.groups) == 2, "the picture's, and the words'"
    assert [shown.record.id for shown in preview.samples] == [gathered.train[number].id for number in drawn.numbers]


def test_who_shares_a_picture_is_told(preview: Preview) -> None:
    about = [shown for shown in preview.samples if shown.record.image is not None]
    first, *others = sorted(about, key=lambda shown: shown.number)
    assert first.shared == 0 and all(other.shared > 10 and other.root == first.number for other in others)


def test_a_row_of_words_alone_has_a_blank_picture(records: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.jsonl"
    words.write_text('{"question": "Who are you?", "answer": "A model."}\n', encoding="utf-8")
    preview = build_preview(settings_of(words), name="words")
    (row,) = preview.rows
    assert (row.size, row.pictures, row.counts["picture"]) == (1, 0, 1)
    assert "1 sample about no picture but a blank one" in text_of(preview)
    write_preview(preview, tmp_path / "page")
    assert "data:image" not in (tmp_path / "page" / "preview.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("asked", "rows"), [(1, [1]), (3, [2, 1]), (99, [2, 2])])
def test_as_many_as_asked_are_shown(records: Path, asked: int, rows: list[int]) -> None:
    settings = settings_of(records, train={"batch_size": 2, "share_pictures": False})
    preview = build_preview(settings, name="mine", samples=asked)
    assert [len(row.samples) for row in preview.rows] == rows
    assert [shown.number for shown in preview.samples] == list(range(1, sum(rows) + 1))
    assert all(row.saved == 0 and row.size == 2 for row in preview.rows)


@pytest.mark.parametrize("form", ["fenced", "list", "bare", "tokens"])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_boxes_come_back_in_every_family_and_form_without_weights(
    records: Path, tmp_path: Path, family: str, form: str
) -> None:
    folder = tmp_path / family
    folder.mkdir()
    build_family_processor(family).save(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": family}), encoding="utf-8")
    settings = settings_of(records, str(folder), answer={"form": form}, train={"batch_size": 8})
    preview = build_preview(settings, name=family)
    shown = {shown.record.id: shown for shown in preview.samples}
    (mug,), (tip,) = shown["mug"].places, shown["tip"].places
    assert mug.is_good and tip.is_good
    assert shown["none"].places == [] and shown["words"].places == []
    assert shown["none"].sample.learned == "[]<|im_end|>"
    assert not list(folder.glob("*.safetensors")) and find_checkpoint(str(folder)).contract.family == family


# ---- there and back --------------------------------------------------------------------------------------------


def places_of(record: gl.Record, processor: Processor, text: str) -> list[tuple[str, bool]]:
    seen = processor.see(Image.new("RGB", PHOTO.size_wh)).seen
    answer = gl.read_answer(text, family=processor.family.name, seen=seen)
    return [(place.verdict, place.is_good) for place in compare_places(record, PHOTO, answer)]


def test_places_are_compared_in_original_pixels(tiny_processor: Processor) -> None:
    box = gl.Target(box=(16, 8, 32, 56))  # seen as 10, 4, 20, 28
    one, two = gl.Record("it", None, (box,)), gl.Record("they", None, (box, box))
    right, half = '[{"bbox_2d": [10, 4, 20, 28]}]', '[{"bbox_2d": [10, 4, 15, 28]}]'
    assert places_of(one, tiny_processor, right) == [("IoU 1.00", True)]
    assert places_of(one, tiny_processor, half) == [("IoU 0.50", False)]
    assert places_of(two, tiny_processor, right) == [("IoU 1.00", True), ("not read back", False)]
    assert places_of(gl.Record("no", None), tiny_processor, right) == [("not in the record", False)]
    point = gl.Record("tip", None, (gl.Target(point=(16, 8)),))
    assert places_of(point, tiny_processor, '[{"point_2d": [10, 4]}]') == [("0.0 px apart", True)]
    assert places_of(point, tiny_processor, '[{"point_2d": [20, 4]}]') == [("16.0 px apart", False)]
    assert places_of(gl.Record("say", None, answer="x"), tiny_processor, right) == []


def test_numbers_are_told_to_a_tenth() -> None:
    assert show_numbers((10, 20.04, 30.26, 1000.0)) == "[10, 20, 30.3, 1000]"
    assert show_numbers(None) == "-"


# ---- the whole epoch -------------------------------------------------------------------------------------------


def test_an_epoch_is_counted(records: Path, preview: Preview) -> None:
    epoch, lengths = preview.epoch, preview.records.lengths
    shared = [length.shared for length in lengths if length.shared]
    assert (epoch.rows, epoch.steps, epoch.samples, epoch.asked, epoch.pictures, epoch.seen) == (1, 1, 4, 3, 1, 1)
    assert epoch.tokens == epoch.longest == sum(length.tokens for length in lengths) - 2 * shared[0]
    rows = [Row([0]), Row([1]), Row([2, 3])]
    apart = measure_epoch(rows, lengths, preview.records, settings_of(records, train={"accumulate": 2}))
    assert (apart.rows, apart.steps, apart.seen) == (3, 2, 3)
    assert apart.tokens == sum(length.tokens for length in lengths)


def test_what_is_set_aside_is_counted_by_code(preview: Preview) -> None:
    found = {one.code: (one.records, one.is_set_aside) for one in count_findings(preview)}
    assert {"outside", "unreadable_record", "too_long"} == {code for code, (_, aside) in found.items() if aside}
    assert all(count == 1 for count, _ in found.values())


# ---- in words --------------------------------------------------------------------------------------------------


def test_plain_lines_have_bars_between_tokens_and_no_codes(preview: Preview) -> None:
    text = text_of(preview)
    assert "\x1b" not in text and "\u202e" not in text and all(line == line.rstrip() for line in text.splitlines())
    assert "box       [16, 8, 32, 56]" in text and "reads back as [16, 8, 32, 56], IoU 1.00" in text
    assert "|1|0|,| |4|,| |2|0|,| |2|8|]" in text
    assert "10 x <|image_pad|>" in text and "[]|<|im_end|>" in text
    assert "set aside   too_long, 1 record: a sample of more than 400 tokens" in text
    assert "7 read, 4 to train on, 0 to measure on" in text


def test_a_terminal_has_colors_and_its_own_width(preview: Preview, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = text_of(preview, force_terminal=True, color_system="256", width=60)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "\x1b[30;48;5;215m" in text and max(map(len, plain.splitlines())) <= 60
    assert "|1|0|" not in plain
    assert "|1|0|" in text_of(preview, force_terminal=True, color_system="256", no_color=True, width=200)


# ---- the page --------------------------------------------------------------------------------------------------


@pytest.fixture
def page(preview: Preview, tmp_path: Path) -> str:
    return write_preview(preview, tmp_path / "page").read_text(encoding="utf-8")


def test_the_page_fetches_nothing_and_runs_nothing(page: str) -> None:
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?\s*(?:https?:|//|file:)", page)
    assert not re.search(r"@import|url\(", page) and "<script" not in page
    assert page.count("data:image/png;base64,") == 1, "a picture that three questions share is in it once"


def test_the_page_escapes_what_strangers_wrote(page: str) -> None:
    assert "<img" not in page and "\x1b" not in page and "\u202e" not in page
    assert r"&lt;img src=x onerror=alert(1)&gt;&lt;/span&gt;&amp;\x1b[31m\u202e</h3>" in page


def test_the_page_has_a_chip_for_every_token(page: str, preview: Preview) -> None:
    chips = Counter(re.findall(r'<span class="chip (\w+)', page))
    shown = Counter(chip.kind for sample in preview.samples for chip in sample.sample.chips)
    assert chips == shown and chips["picture"] == 3
    token = next(chip.ids[0] for sample in preview.samples for chip in sample.sample.chips if chip.kind == "picture")
    assert page.count(f'title="{token}, 10 times"') == 3
    assert page.count('<rect class="line answer"') >= 1 and page.count('<path class="dot answer"') >= 1


def test_the_folder_of_the_run_is_refused(records: Path) -> None:
    settings = settings_of(records)
    for folder in (settings.run.dir, settings.run.dir / "page"):
        with pytest.raises(gl.SettingsError, match=r"is in run\.dir, .*run, which training has for itself"):
            refuse_run_folder(folder, settings)
    refuse_run_folder(settings.run.dir.with_name("runs"), settings)
