from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from groundling.data.convert import Conversion, convert
from groundling.data.formats.chat import declared_frame, read_targets, write_targets
from groundling.data.record import Target, read_records
from groundling.errors import RecordError, SettingsError
from groundling.geometry.frame import Frame


def picture(width: int = 640, height: int = 428, *, shade: int = 0, kind: str = "PNG", orientation: int = 1) -> bytes:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (width, height), (shade, 0, 0)).save(out, kind, exif=exif)
    return out.getvalue()


def row(**changes: object) -> dict[str, object]:
    whole: dict[str, object] = {
        "image": {"bytes": picture(), "path": "shop.png"},
        "question": "what brand is it?",
        "answer": ["acme", "acme"],
        "dataset_id": "36269",
        "bbox": [146.0, 137.0, 469.0, 278.0],
    }
    return whole | changes


def save_parquet(rows: list[dict[str, object]], file: Path, **options: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file, **options)
    return file


def save_lines(file: Path, *entries: object) -> Path:
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def reasons(conversion: Conversion) -> str:
    return "\n".join(bad.reason for bad in conversion.rejected)


# ---- textvqa ---------------------------------------------------------------------------------------------------


def test_a_textvqa_row_becomes_a_record_in_original_pixels(tmp_path: Path):
    save_parquet([row()], tmp_path / "set/data/train-0.parquet")
    conversion = convert("textvqa", tmp_path / "set", tmp_path / "out/r.jsonl")
    line = json.loads((tmp_path / "out/r.jsonl").read_text())
    image = line.pop("image")
    assert line == {
        "id": "36269",
        "width": 640,
        "height": 428,
        "question": "what brand is it?",
        "targets": [{"box": [146, 137, 615, 415]}],
        "answers": ["acme", "acme"],
        "dataset_id": "36269",
    }
    assert image.startswith("images/shop-") and image.endswith(".png")
    assert (tmp_path / "out" / image).read_bytes() == picture()
    assert conversion.rejected == [] and conversion.files == [tmp_path / "out/r.jsonl"]
    assert not (tmp_path / "out/r.rejected.jsonl").exists()


def test_the_broken_description_in_modelscopes_copy_is_never_opened(tmp_path: Path):
    save_parquet([row()], tmp_path / "set/data/train-0.parquet")
    (tmp_path / "set/dataset_infos.json").write_text('{"default": {"features": {"question": {"_type": "Value"}}}}')
    assert len(convert("textvqa", tmp_path / "set", tmp_path / "r.jsonl").records) == 1


def test_the_shared_data_set_loads_whole_and_splits_by_picture(tmp_path: Path, shared_data: Path):
    source = shared_data / "textvqa_like"
    whole = convert("textvqa", source, tmp_path / "all/r.jsonl")
    assert (len(whole.records), len(whole.rejected)) == (172, 0)
    assert len({record.image for record in whole.records}) == 46
    first = whole.records[0]
    assert first.id == "30015"
    assert first.targets[0].box == pytest.approx((375.9, 234.1, 412.9, 246.7))

    split = convert("textvqa", source, tmp_path / "parts/r.jsonl", split="train=120,test=30", seed=3)
    train, test = (read_records(file) for file in split.files)
    assert [file.name for file in split.files] == ["r-train.jsonl", "r-test.jsonl"]
    assert len(train) >= 120 and len(test) >= 30
    assert not {record.image for record in train} & {record.image for record in test}
    again = convert("textvqa", source, tmp_path / "again/r.jsonl", split="train=120,test=30", seed=3)
    assert [record.id for record in again.records] == [record.id for record in split.records]


def test_bad_rows_are_set_aside_with_file_line_and_reason_and_stop_nothing(tmp_path: Path):
    cut_off = picture()[:-40]
    file = save_parquet(
        [
            row(),
            row(bbox=[1.0, 2.0, 3.0]),
            row(bbox=[1.0, 2.0, float("nan"), 3.0]),
            row(bbox=None),
            row(image={"bytes": b"no picture", "path": "a.png"}),
            row(image={"bytes": cut_off, "path": "b.png"}),
            row(image={"bytes": None, "path": "../../outside.png"}),
            row(image={"bytes": None, "path": "http://127.0.0.1/x.png"}),
            row(image=None),
            row(question=None),
            row(question="  "),
            row(dataset_id="last"),
        ],
        tmp_path / "set/t.parquet",
    )
    (tmp_path / "outside.png").write_bytes(picture())
    (tmp_path / "set/broken.parquet").write_bytes(b"PAR1 cut off")
    save_parquet([{"question": "x"}], tmp_path / "set/other.parquet")

    conversion = convert("textvqa", tmp_path / "set", tmp_path / "r.jsonl")

    assert [record.id for record in conversion.records] == ["36269", "last"]
    listed = [json.loads(line) for line in (tmp_path / "r.rejected.jsonl").read_text().splitlines()]
    assert [(bad["file"], bad["line"]) for bad in listed if bad["line"]] == [(str(file), n) for n in range(2, 12)]
    assert [bad["file"] for bad in listed if not bad["line"]] == [
        str(tmp_path / "set/broken.parquet"),
        str(tmp_path / "set/other.parquet"),
    ]
    assert "no column image, bbox; found question" in reasons(conversion)
    assert "expected 4 finite numbers" in reasons(conversion)
    assert "never downloaded" in reasons(conversion)


def test_a_damaged_row_group_leaves_the_others(tmp_path: Path):
    rows = [row(dataset_id=str(number)) for number in range(4)]
    file = save_parquet(rows, tmp_path / "t.parquet", row_group_size=2, compression="zstd")
    start = pq.ParquetFile(file).metadata.row_group(0).column(0).data_page_offset
    damaged = bytearray(file.read_bytes())
    damaged[start : start + 200] = b"\xff" * 200
    file.write_bytes(damaged)
    conversion = convert("textvqa", file, tmp_path / "r.jsonl")
    assert [record.id for record in conversion.records] == ["2", "3"]
    assert "row group 0 are damaged" in reasons(conversion)


def test_the_same_picture_is_kept_once_and_repeated_ids_are_told_apart(tmp_path: Path):
    rows = [row(), row(), row(image={"bytes": picture(shade=9), "path": "shop.png"}, dataset_id=None)]
    records = convert("textvqa", save_parquet(rows, tmp_path / "t.parquet"), tmp_path / "r.jsonl").records
    assert [record.id for record in records] == ["36269", "36269-2", "3"]
    assert records[0].image == records[1].image != records[2].image
    assert len(list((tmp_path / "images").iterdir())) == 2


def test_names_of_pictures_are_made_safe_and_endings_fit_the_content(tmp_path: Path):
    names = ["../../x y/\u00e4.b\u00fcild.png", "C:\\photos\\me.JPG", "", ".hidden", "a" * 300]
    rows = [row(image={"bytes": picture(shade=50 * n, kind="JPEG"), "path": name}) for n, name in enumerate(names)]
    records = convert("textvqa", save_parquet(rows, tmp_path / "t.parquet"), tmp_path / "out/r.jsonl").records
    assert len(records) == len(names)
    for record in records:
        assert record.image is not None
        assert record.image.parent == tmp_path / "out/images"
        assert record.image.name.isascii() and record.image.suffix == ".jpg" and len(record.image.name) < 90
    assert records[1].image is not None and records[1].image.name.startswith("me-")


def test_a_turned_photo_keeps_its_bytes_and_its_upright_size(tmp_path: Path):
    turned = picture(64, 48, kind="JPEG", orientation=6)
    rows = [row(image={"bytes": turned, "path": "phone.jpg"}, bbox=[1.0, 2.0, 3.0, 4.0])]
    (record,) = convert("textvqa", save_parquet(rows, tmp_path / "t.parquet"), tmp_path / "r.jsonl").records
    assert (record.width, record.height) == (48, 64)
    assert record.image is not None and record.image.read_bytes() == turned


def test_columns_named_like_a_records_own_keys_are_kept_beside_them(tmp_path: Path):
    rows = [row(width=5, targets="x", source="ocr", when=float("inf"))]
    (record,) = convert("textvqa", save_parquet(rows, tmp_path / "t.parquet"), tmp_path / "r.jsonl").records
    assert record.width == 640
    assert {"source_width": 5, "source_targets": "x", "source": "ocr"}.items() <= record.extra.items()
    assert "when" not in record.extra
    assert read_records(tmp_path / "r.jsonl")[0].extra == record.extra


def test_a_limit_stops_after_so_many_records(tmp_path: Path):
    file = save_parquet([row(bbox=None), row(), row(), row()], tmp_path / "t.parquet")
    assert len(convert("textvqa", file, tmp_path / "r.jsonl", limit=2).records) == 2
    with pytest.raises(SettingsError, match="at least 1"):
        convert("textvqa", file, tmp_path / "r.jsonl", limit=0)


def test_a_source_without_data_is_an_error_that_names_it(tmp_path: Path):
    with pytest.raises(RecordError, match=r"no \*\.parquet below"):
        convert("textvqa", tmp_path, tmp_path / "r.jsonl")
    with pytest.raises(RecordError, match="no file or folder"):
        convert("textvqa", tmp_path / "absent", tmp_path / "r.jsonl")


# ---- tutorial --------------------------------------------------------------------------------------------------


def tutorial_line(image: str = "./data/train/000001.png", response: str = '{"bbox_2d": [147, 134, 619, 407]}'):
    return {"image": [image], "query": "where is the horse?", "response": response}


@pytest.fixture
def tutorial(tmp_path: Path) -> Path:
    """The tutorial's own folder: paths in its file begin where its script ran, one folder up."""
    (tmp_path / "data/train").mkdir(parents=True)
    (tmp_path / "data/train/000001.png").write_bytes(picture())
    return tmp_path / "data/train.jsonl"


def test_the_tutorials_boxes_are_brought_back_to_original_pixels(tutorial: Path, tmp_path: Path):
    save_lines(tutorial, tutorial_line())
    (record,) = convert("tutorial", tutorial, tmp_path / "out/r.jsonl").records
    # 640x428 is resized to 644x420: 147 * 640 / 644 and 134 * 428 / 420
    assert record.targets[0].box == pytest.approx((146.087, 136.552, 615.155, 414.752), abs=1e-3)
    assert record.question == "where is the horse?"
    assert record.image is not None and record.image.read_bytes() == picture()


def test_a_tutorial_file_is_found_from_inside_its_folder(tutorial: Path, monkeypatch: pytest.MonkeyPatch):
    save_lines(tutorial, tutorial_line(), tutorial_line("train/000001.png"))
    monkeypatch.chdir(tutorial.parent)
    assert len(convert("tutorial", "train.jsonl", "r.jsonl").records) == 2


@pytest.mark.parametrize(
    ("size_wh", "resized"),
    [
        ((640, 428), (644, 420)),  # the vendor's example
        ((1024, 768), (1036, 756)),  # 783216 pixels: only rounded to whole tokens
        ((1920, 1080), (1316, 728)),  # divided by sqrt(2073600 / 1003520) = 1.43746: 1335.7, 751.3, rounded down
        ((30, 30), (56, 56)),  # 28x28 is below 3136 pixels: multiplied by 56 / 30
    ],
)
def test_the_resized_frame_is_the_vendors(size_wh: tuple[int, int], resized: tuple[int, int]):
    assert declared_frame("resized:1003520")(Frame(*size_wh)) == Frame(*resized)


@given(st.integers(1, 6000), st.integers(1, 6000), st.integers(3136, 3_000_000))
def test_a_resized_frame_has_whole_tokens_within_its_budget(width: int, height: int, pixels: int):
    seen = declared_frame(f"resized:{pixels}")(Frame(width, height))
    assert seen.width % 28 == 0 and seen.height % 28 == 0
    if 28 in seen.size_wh:  # a strip keeps one token of height, whatever its length
        return
    assert seen.area <= max(pixels, 3136 * 4)


def test_lines_of_the_tutorial_that_cannot_be_trusted_are_set_aside(tutorial: Path, tmp_path: Path):
    (tmp_path / "secret.png").write_bytes(picture())
    (tutorial.parent / "train/link.png").symlink_to(tmp_path / "secret.png")
    save_lines(
        tutorial,
        "{not json",
        tutorial_line(),
        tutorial_line(response='{"bbox_2d": [712.0, 255.0, 64.0, 43.0]}'),
        tutorial_line(response='{"bbox_2d": [10, 20, 900, 400]}'),
        tutorial_line(response='{"bbox_2d": [10, 20, 30'),
        tutorial_line(response=""),
        tutorial_line("../secret.png"),
        tutorial_line("./data/train/link.png"),
        tutorial_line(str(tmp_path / "secret.png")),
        tutorial_line("./data/train/absent.png"),
        tutorial_line("x" * 5000),
        {"image": ["a.png", "b.png"], "query": "", "response": ""},
        {"image": "a.png", "question": "", "answer": ""},
        ["a list"],
        {"image": ["./data/train/000001.png"], "query": "half a pair: \ud800", "response": "[]"},
    )
    conversion = convert("tutorial", tutorial, tmp_path / "out/r.jsonl")
    assert [bad.line for bad in conversion.rejected] == [1, *range(3, 16)]
    assert len(conversion.records) == 1
    for words in (
        "not JSON",
        "x, y, width, height",
        "(inverted)",
        "(outside)",
        "(truncated)",
        "answer is empty",
        "lies outside",
    ):
        assert words in reasons(conversion)
    assert "found the keys image, question, answer; expected image, and query and response" in reasons(conversion)


# ---- qwen-chat -------------------------------------------------------------------------------------------------


def chat(*values: str, **changes: object) -> dict[str, object]:
    messages = [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(values)]
    return {"id": "c1", "image": "horse.png", "conversations": messages} | changes


@pytest.fixture
def horse(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/horse.png").write_bytes(picture())
    return tmp_path / "in/chat.json"


@pytest.mark.parametrize(
    ("frame", "numbers"),
    [
        ("original", [146, 137, 615, 415]),
        ("thousandths", [228, 320, 961, 970]),  # the vendor's own conversion of the same box
        ("resized:1003520", [147, 134, 619, 407]),
    ],
)
def test_boxes_are_read_in_the_frame_that_was_declared(horse: Path, tmp_path: Path, frame: str, numbers: list[int]):
    answer = f'```json\n[\n\t{{"bbox_2d": {numbers}, "label": "horse"}}\n]\n```'
    save_lines(horse, json.dumps([chat("<image>\nLocate the horse.", answer)], indent=1))
    (record,) = convert("qwen-chat", horse, tmp_path / "r.jsonl", frame=frame).records
    assert record.targets[0].box == pytest.approx((146, 137, 615, 415), abs=0.5)
    assert (record.question, record.targets[0].label, record.id) == ("Locate the horse.", "horse", "c1")


@pytest.mark.parametrize(("place", "found"), [("nowhere", "is not there"), ("r.jsonl", "is a file")])
def test_a_folder_of_pictures_that_is_none_is_refused_before_anything_is_written(
    horse: Path, tmp_path: Path, place: str, found: str
):
    save_lines(horse, chat("<image>\nx", "[]"))
    (tmp_path / "r.jsonl").write_text("before")
    with pytest.raises(SettingsError, match=f"--images .*{place} {found}; expected the folder of the pictures"):
        convert("qwen-chat", horse, tmp_path / "r.jsonl", frame="original", images=tmp_path / place)
    assert (tmp_path / "r.jsonl").read_text() == "before"


def test_the_frame_must_be_declared_and_known(horse: Path, tmp_path: Path):
    save_lines(horse, chat("<image>\nx", "[]"))
    with pytest.raises(SettingsError, match="--frame original, thousandths or resized:PIXELS"):
        convert("qwen-chat", horse, tmp_path / "r.jsonl")
    for frame in ("pixels", "resized:", "resized:big", "resized:3"):
        with pytest.raises(SettingsError, match="expected"):
            convert("qwen-chat", horse, tmp_path / "r.jsonl", frame=frame)
    with pytest.raises(SettingsError, match="frame of tutorial is known"):
        convert("tutorial", horse, tmp_path / "r.jsonl", frame="original")


def test_every_turn_becomes_a_record_and_answers_without_places_stay_text(horse: Path, tmp_path: Path):
    talk = chat(
        "<image>\nLocate the horse.",
        '{"bbox_2d": [146, 137, 615, 415]}',
        "And a dog?",
        "[]",
        "Its nose?",
        '[{"point_2d": [500, 200], "label": "nose"}]',
        "What colour is it?",
        "Brown, in the range [1, 2] of the chart [1, 2).",
        "As JSON?",
        '{"colour": "brown", "sizes": [1, 2, 3, 4]}',
    )
    plain = chat("Hello", "Say [1, 2, 3, 4].", image=None, id=0)
    save_lines(horse, talk, plain)
    conversion = convert("qwen-chat", horse, tmp_path / "r.jsonl", frame="original")
    records = read_records(tmp_path / "r.jsonl")
    assert conversion.rejected == []
    assert [record.id for record in records] == ["c1", "c1-2", "c1-3", "c1-4", "c1-5", "0"]
    assert records[0].targets == (Target(box=(146, 137, 615, 415)),)
    assert records[1].is_negative
    assert records[2].targets == (Target(point=(500, 200), label="nose"),)
    assert [record.answer for record in records[:3]] == [None] * 3
    assert records[3].answer == "Brown, in the range [1, 2] of the chart [1, 2)."
    assert records[4].answer == '{"colour": "brown", "sizes": [1, 2, 3, 4]}'
    assert records[5].image is None and records[5].answer == "Say [1, 2, 3, 4]."


def test_conversations_of_another_shape_are_set_aside(horse: Path, tmp_path: Path):
    save_lines(
        horse,
        chat("<image>\nfilm", "x", video="a.mp4"),
        chat("<image>\nno answer"),
        chat("<image><image>\ntwo", "x"),
        chat("<image>\nx", "y", image=["horse.png", "horse.png"]),
        chat("<image>\nx", "y", image=5),
        {"image": "horse.png"},
        chat("<image>\nwhich?", "x", image=None),
        chat("Hello", " ", image=None),
        chat("Where?", '{"bbox_2d": [1, 2, 3, 4]}', image=None),
        chat("<image>\nx", "y", conversations=[{"from": "human", "value": 3}, {"from": "gpt", "value": "y"}]),
        chat("<image>\nx", "y", conversations=[{"from": "gpt", "value": "y"}, {"from": "human", "value": "x"}]),
        chat("<image>\nx", '{"bbox_2d": [1, 2, 3, 4]}'),
    )
    conversion = convert("qwen-chat", horse, tmp_path / "r.jsonl", frame="original")
    assert [bad.line for bad in conversion.rejected] == list(range(1, 12))
    assert len(conversion.records) == 1


def test_a_picture_that_cannot_be_read_takes_only_its_own_records(horse: Path, tmp_path: Path):
    (horse.parent / "cut.png").write_bytes(picture()[:-40])
    save_lines(horse, chat("<image>\na", "[]", image="cut.png"), chat("<image>\nb", "[]"))
    conversion = convert("qwen-chat", horse, tmp_path / "r.jsonl", frame="original")
    assert [record.question for record in conversion.records] == ["b"]
    assert "cut.png" in reasons(conversion)


def test_a_broken_list_is_an_error_that_names_the_file(horse: Path, tmp_path: Path):
    horse.write_text('[{"image": "horse.png"')
    with pytest.raises(RecordError, match=r"chat\.json begins as a JSON list, but: not JSON"):
        convert("qwen-chat", horse, tmp_path / "r.jsonl", frame="original")


boxes = st.tuples(st.integers(0, 300), st.integers(0, 200), st.integers(20, 300), st.integers(20, 200))


@given(st.lists(boxes, max_size=5), st.sampled_from(["original", "thousandths", "resized:1003520", "resized:50176"]))
def test_reading_undoes_writing_to_half_a_unit_of_the_text(found: list[tuple[int, ...]], words: str):
    original, frame = Frame(640, 428), declared_frame(words)
    targets = [Target(box=(x, y, x + w, y + h), label=f"thing {x}") for x, y, w, h in found]
    for form in ("fenced", "list", "tokens"):
        text = write_targets(targets, original, frame, form)
        again = read_targets(text, original, frame)
        assert again is not None
        assert [target.label for target in again] == [target.label for target in targets]
        unit = max(640 / frame(original).width, 428 / frame(original).height)
        for target, before in zip(again, targets, strict=True):
            assert target.box == pytest.approx(before.box, abs=0.5 * unit + 1e-9)


# ---- all formats -----------------------------------------------------------------------------------------------


def test_linked_pictures_stay_where_they_are(horse: Path, tmp_path: Path):
    save_lines(horse, chat("<image>\nx", "[]"))
    convert("qwen-chat", horse, tmp_path / "out/r.jsonl", frame="original", link=True)
    assert not (tmp_path / "out/images").exists()
    (record,) = read_records(tmp_path / "out/r.jsonl", allow_absolute=True)
    assert record.image == horse.parent / "horse.png"


def test_copies_of_one_file_fall_on_one_side_of_a_split(horse: Path, tmp_path: Path):
    names = [f"{n}.png" for n in range(6)]
    for number, name in enumerate(names):
        (horse.parent / name).write_bytes(picture(shade=number % 2))
    save_lines(horse, *[chat("<image>\nx", "[]", image=name) for name in names])
    split = {"train": 3, "test": 3}
    conversion = convert("qwen-chat", horse, tmp_path / "out/r.jsonl", frame="original", split=split, link=True)
    sides = [{record.image for record in read_records(file, allow_absolute=True)} for file in conversion.files]
    even, odd = ({horse.parent / name for name in names[start::2]} for start in (0, 1))
    assert sides in ([even, odd], [odd, even])


def test_neither_the_source_nor_a_folder_is_overwritten(horse: Path, tmp_path: Path):
    save_lines(horse, chat("<image>\nx", "[]"))
    before = horse.read_bytes()
    with pytest.raises(SettingsError, match="overwritten while it is read"):
        convert("qwen-chat", horse, horse, frame="original")
    source = shutil.copy(horse, horse.with_name("r-train.jsonl"))
    with pytest.raises(SettingsError, match="overwritten while it is read"):
        convert("qwen-chat", source, horse.with_name("r.jsonl"), frame="original", split="train=1")
    with pytest.raises(SettingsError, match="is a folder"):
        convert("qwen-chat", horse, tmp_path, frame="original")
    assert horse.read_bytes() == before


def test_an_unknown_format_names_the_known_ones(tmp_path: Path):
    with pytest.raises(SettingsError, match="unknown format 'coco2'; groundling reads textvqa"):
        convert("coco2", tmp_path, tmp_path / "r.jsonl")


def test_an_old_list_of_rejected_lines_is_taken_away(horse: Path, tmp_path: Path):
    save_lines(horse, "{")
    convert("qwen-chat", horse, tmp_path / "r.jsonl", frame="original")
    assert (tmp_path / "r.rejected.jsonl").exists()
    save_lines(horse, chat("<image>\nx", "[]"))
    convert("qwen-chat", horse, tmp_path / "r.jsonl", frame="original")
    assert not (tmp_path / "r.rejected.jsonl").exists()


def test_a_split_that_is_not_to_the_row_or_leaves_some_is_told(tmp_path: Path):
    rows = [
        row(dataset_id=str(number), image={"bytes": picture(shade=number // 2), "path": "a.png"}) for number in range(7)
    ]
    source = save_parquet(rows, tmp_path / "set" / "a.parquet")
    done = convert("textvqa", source, tmp_path / "r.jsonl", split="train=2,test=1", seed=1)

    sizes = [len(read_records(file)) for file in done.files]
    assert sum(sizes) < 7
    assert done.notes[-1] == f"{7 - sum(sizes)} of 7 rows are in no part of the split"
    rounded = [name for name, size, asked in zip(("train", "test"), sizes, (2, 1), strict=True) if size != asked]
    assert len(done.notes) == 1 + bool(rounded)
    assert all(name in done.notes[0] for name in rounded)


def test_a_label_that_nothing_has_is_refused_with_those_there_are(tmp_path: Path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "1.png").write_bytes(picture())
    coco = {
        "images": [{"id": 1, "file_name": "1.png", "width": 640, "height": 428}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 30, 40]}],
        "categories": [{"id": 3, "name": "horse"}, {"id": 4, "name": "dog"}],
    }
    (tmp_path / "set" / "a.json").write_text(json.dumps(coco))
    kept = convert("coco", tmp_path / "set" / "a.json", tmp_path / "r.jsonl", labels=["dog", "horse"])
    assert [record.question for record in kept.records] == ["horse"]
    with pytest.raises(SettingsError, match="nothing is labelled 'hors'; the labels are dog, horse"):
        convert("coco", tmp_path / "set" / "a.json", tmp_path / "r.jsonl", labels=["dog", "hors"])


def test_a_table_whose_column_is_no_text_is_set_aside(tmp_path: Path):
    """Found by random damage (tests/robustness)."""
    file = save_parquet([row()], tmp_path / "set" / "a.parquet", compression="none")
    file.write_bytes(file.read_bytes().replace(b"question", b"quest\xde\xdfn"))
    save_parquet([row()], tmp_path / "set" / "b.parquet")

    done = convert("textvqa", tmp_path / "set", tmp_path / "r.jsonl")

    assert len(done.records) == 1
    assert "a.parquet" in done.rejected[0].file and "not a Parquet file that can be read" in done.rejected[0].reason


def test_what_an_earlier_conversion_left_outlives_one_that_makes_no_record(horse: Path, tmp_path: Path):
    save_lines(horse, chat("<image>\nx", "[]"))
    file = tmp_path / "out/r.jsonl"
    convert("qwen-chat", horse, file, frame="original")
    before = file.read_bytes()
    save_lines(horse, chat("<image>\nx", "[]", image="gone.png"))
    failed = convert("qwen-chat", horse, file, frame="original")
    assert (failed.records, failed.files) == ([], []) and failed.rejected
    assert file.read_bytes() == before and before
