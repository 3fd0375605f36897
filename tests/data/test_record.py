"""Record files: there and back, and every broken line by name without losing the others."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundling.data.record import (
    Record,
    Target,
    is_number,
    parse_document,
    parse_json,
    read_numbers,
    read_records,
    record_to_json,
    scan_records,
    write_records,
)
from groundling.errors import GroundlingError, RecordError
from groundling.geometry.frame import Frame

GHOST = (
    '{"id": "36269", "image": "images/000001.jpg", "width": 1024, "height": 681, '
    '"question": "what is written on the ghost?", "targets": [{"label": "ghost text", "box": [460, 635, 513, 669]}]}'
)


def line_with(**changes: Any) -> str:
    """A good line with other values; `...` takes a key out."""
    value = {"image": "a.jpg", "question": "the mug", "targets": []} | changes
    return json.dumps({key: value[key] for key in value if value[key] is not ...})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "records.jsonl"


def json_values() -> st.SearchStrategy[Any]:
    plain = (
        st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
    )
    return st.recursive(
        plain | st.text(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    )


def put(file: Path, *lines: str | bytes) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines))
    return file


# ---- reading ---------------------------------------------------------------------------------------------------


def test_the_documented_line(file: Path) -> None:
    (record,) = read_records(put(file, GHOST))

    assert record == Record(
        id="36269",
        image=file.parent / "images/000001.jpg",
        width=1024,
        height=681,
        question="what is written on the ghost?",
        targets=(Target(label="ghost text", box=(460, 635, 513, 669)),),
    )
    assert (record.file, record.line, record.place) == (file, 1, f"{file}:1")
    assert record.declared == Frame(1024, 681)
    assert record.true_boxes(Frame(1024, 681)).xyxy.tolist() == [[460, 635, 513, 669]]
    assert not record.is_negative


def test_the_smallest_line(file: Path) -> None:
    (record,) = read_records(str(put(file, line_with())))

    assert record == Record(question="the mug", image=file.parent / "a.jpg", id="1")
    assert record.is_negative
    assert record.declared is None
    assert record.true_boxes(Frame(5, 5)).xyxy.shape == (0, 4)


def test_ids_default_to_the_line_number_empty_lines_counted(file: Path) -> None:
    lines = [line_with(), "", line_with(id=None), "  ", line_with(id=""), line_with(id=7), line_with(id="b")]

    assert [record.id for record in read_records(put(file, *lines))] == ["1", "3", "5", "7", "b"]


def test_points_boxes_and_nulls(file: Path) -> None:
    targets = [{"point": [1.5, 2]}, {"box": [1, 2, 3, 4.5], "point": None, "label": None}]

    (record,) = read_records(put(file, line_with(targets=targets, width=None, answer=None)))

    assert record.targets == (Target(point=(1.5, 2)), Target(box=(1, 2, 3, 4.5)))
    assert [target.numbers for target in record.targets] == [(1.5, 2), (1, 2, 3, 4.5)]
    assert record.true_boxes(Frame(9, 9)).xyxy.tolist() == [[1, 2, 3, 4.5]]


def test_instruction_data_may_do_without_a_picture(file: Path) -> None:
    (record,) = read_records(put(file, line_with(answer="Paris.", image=..., targets=...)))

    assert (record.answer, record.image, record.targets) == ("Paris.", None, ())
    assert not record.is_negative


def test_windows_line_ends_a_mark_and_no_last_line_end(file: Path) -> None:
    put(
        file,
        b"\xef\xbb\xbf" + line_with().encode() + b"\r",
        line_with(question="two\u2028lines") + "\r",
        "\r",
        line_with(),
    )

    assert [record.question for record in read_records(file)] == ["the mug", "two\u2028lines", "the mug"]


BROKEN: list[tuple[str, str | bytes, str]] = [
    ("not JSON", "{'image': 'a.jpg'}", "not JSON: Expecting property name"),
    ("cut off", line_with()[:-3], "not JSON: "),
    ("two on a line", line_with() + line_with(), "not JSON: Extra data"),
    ("not UTF-8", line_with().encode("utf-16"), "not UTF-8"),
    ("Latin-1", '{"question": "caf\u00e9"}'.encode("latin-1"), "not UTF-8"),
    ("NUL", b"\0" * 20, "not JSON"),
    ("half a pair", line_with(question="a\ud800"), "surrogates not allowed"),
    ("half a pair in an unknown key", line_with(notes={"\udc00": 1}), "surrogates not allowed"),
    ("a list", "[1, 2]", r"a record is a JSON object, not \[1, 2\]"),
    ("a number", "7", "a record is a JSON object, not 7"),
    ("nested", "[" * 100_000, "nested too deeply"),
    ("nested in a key", '{"a":' * 100_000, "nested too deeply"),
    ("nested target", line_with(targets=[[[[[[[[[[1]]]]]]]]]]), r"target 0 is \[\[.*\.\.\..*\]\]; expected an object"),
    ("5000 digits", line_with()[:-1] + ', "x": ' + "9" * 5000 + "}", "not JSON: Exceeds the limit"),
    ("NaN", line_with(targets=[{"box": [1, 2, 3, float("nan")]}]), "NaN is no JSON number"),
    ("Infinity", line_with(width=float("-inf")), "-Infinity is no JSON number"),
    ("1e999", line_with()[:-1] + ', "x": [-1e999]}', "the number -1e999 is too large"),
    ("repeated key", '{"image": "a.jpg", "image": "b.jpg"}', "the key 'image' is given twice"),
    ("repeated key in a target", line_with()[:-2] + '{"label": "a", "label": "b"}]}', "the key 'label' is given twice"),
    ("no question", line_with(question=...), "'question' is None; expected a text"),
    ("null question", line_with(question=None), "'question' is None; expected a text"),
    ("question is a number", line_with(question=7), "'question' is 7; expected a text"),
    ("no targets", line_with(targets=...), "no 'targets'; an empty list says that there is nothing to find"),
    ("null targets", line_with(targets=None), "'targets' is None; expected a list"),
    ("targets is an object", line_with(targets={"box": [1, 2, 3, 4]}), "'targets' is {'box': .*}; expected a list"),
    ("target is a box", line_with(targets=[[1, 2, 3, 4]]), r"target 0 is \[1, 2, 3, 4\]; expected an object"),
    (
        "target without place",
        line_with(targets=[{"box": [1, 2, 3, 4]}, {"label": "a"}]),
        "target 1: expected either a 'box' or a 'point', not neither",
    ),
    (
        "target with both",
        line_with(targets=[{"box": [1, 2, 3, 4], "point": [1, 2]}]),
        "target 0: expected either a 'box' or a 'point', not both",
    ),
    (
        "three numbers",
        line_with(targets=[{"box": [1, 2, 3]}]),
        r"target 0: the box is \[1, 2, 3\]; expected 4 finite numbers",
    ),
    ("nested box", line_with(targets=[{"box": [[1, 2, 3, 4]]}]), "expected 4 finite numbers"),
    (
        "strings",
        line_with(targets=[{"box": ["1", "2", "3", "4"]}]),
        r"the box is \['1', '2', '3', '4'\]; expected 4 finite",
    ),
    ("one string", line_with(targets=[{"box": "1234"}]), "the box is '1234'; expected 4 finite numbers"),
    ("booleans", line_with(targets=[{"point": [True, 2]}]), r"the point is \[True, 2\]; expected 2 finite numbers"),
    ("null in a box", line_with(targets=[{"box": [1, None, 3, 4]}]), "expected 4 finite numbers"),
    ("too large to count pixels", line_with(targets=[{"box": [1, 2, 3, 1e15]}]), "below 1e15"),
    ("400 digits", line_with(targets=[{"box": [1, 2, 3, 10**400]}]), "expected 4 finite numbers"),
    (
        "label is a number",
        line_with(targets=[{"box": [1, 2, 3, 4], "label": 7}]),
        "target 0: 'label' is 7; expected a text",
    ),
    ("width is a string", line_with(width="640"), "'width' is '640'; expected a whole number of pixels"),
    ("width is a fraction", line_with(width=640.5), "'width' is 640.5; expected a whole"),
    ("height is nothing", line_with(height=0), "'height' is 0; expected a whole"),
    ("height is a boolean", line_with(height=True), "'height' is True; expected a whole"),
    ("id is a list", line_with(id=[1]), r"'id' is \[1\]; expected a text or a number"),
    ("id is a boolean", line_with(id=True), "'id' is True; expected a text or a number"),
    ("no picture", line_with(image=...), "no 'image'; only a record with an 'answer' text"),
    ("picture is a number", line_with(image=7), "'image' is 7; expected a path"),
    ("picture is empty", line_with(image=""), "'image' is empty; expected a path"),
    ("picture has a NUL", line_with(image="a\0.jpg"), r"'image' is 'a\\x00.jpg'; expected a path that a file can have"),
    ("picture above", line_with(image="../a.jpg"), r"'\.\./a\.jpg' leads out of the folder of its record file"),
    ("picture above in the middle", line_with(image="images/../../a.jpg"), "leads out of the folder"),
    ("picture in a sister folder of like name", line_with(image="../data2/a.jpg"), "leads out of the folder"),
    (
        "absolute",
        line_with(image=str(Path("/etc/passwd").absolute())),
        "is the absolute path .*; allow such with --allow-absolute",
    ),
    ("targets and answer", line_with(answer="a", targets=[{"box": [1, 2, 3, 4]}]), "both 'targets' and 'answer'"),
    ("nothing to find and answer", line_with(answer="a", targets=[]), "both 'targets' and 'answer'"),
    ("answer is a list", line_with(answer=["a"]), r"'answer' is \['a'\]; expected a text"),
]


@pytest.mark.parametrize(("line", "reason"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_broken_line_is_named_and_stops_no_other(file: Path, line: str | bytes, reason: str) -> None:
    put(
        file,
        line_with(id="before"),
        line.replace(b"\n", b"") if isinstance(line, bytes) else line,
        line_with(id="after"),
    )

    scan = scan_records(file)

    assert [record.id for record in scan.records] == ["before", "after"]
    (rejected,) = scan.rejected
    assert (rejected.file, rejected.line) == (str(file), 2)
    with pytest.raises(RecordError, match=reason):
        raise RecordError(rejected.reason)
    assert len(rejected.reason) < 500


def test_reading_a_broken_file_names_the_lines(file: Path) -> None:
    put(file, line_with(), *["{}"] * 12)

    with pytest.raises(RecordError, match=r"12 lines of .* are no records:\n  .*:2: no 'targets'.*\n") as raised:
        read_records(file)

    assert f"{file}:11: " in str(raised.value)
    assert str(raised.value).endswith("and 2 more")
    assert isinstance(raised.value, GroundlingError)
    assert isinstance(raised.value, ValueError)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(RecordError, match=r"no record file .*; `groundling convert` makes one"):
            scan_records(path)


def test_an_empty_file_has_no_records(file: Path) -> None:
    assert read_records(put(file, "")) == []


def test_plain_json_is_read_as_json_reads_it() -> None:
    assert parse_json('{"a": [1, 2.5, -0.0, 1e300, null, true, "\\ud83d\\ude00"]}') == {
        "a": [1, 2.5, 0.0, 1e300, None, True, "\U0001f600"]
    }


# ---- documents of many entries ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "shown"),
    [
        ("NaN", "NaN is no JSON number"),
        ("-Infinity", "-Infinity is no JSON number"),
        ("1e999", "inf"),
        ("1" * 5000, "the number 11111111111111111111 is too large"),
        ('{"a": 1, "b": 2, "a": 1}', "the key 'a' is given twice"),
        ("[" * 100_000 + "]" * 100_000, "[" * 62 + "None" + "]" * 62),
        ('[{"a": ' * 50_000 + '"}]\\""' + "}]" * 50_000, "[{'a': " * 31 + "None" + "}]" * 31),
    ],
)
def test_what_is_no_json_in_a_document_leaves_the_rest(bad: str, shown: str) -> None:
    document = f'{{"entries": [{bad}, "[[\\"", 7, {{"x": {bad}}}]}}'
    entries = parse_document(document.encode())["entries"]
    assert repr(entries[0]) == shown
    assert entries[1:3] == ['[["', 7] and not is_number(entries[0]) and not is_number(entries[3]["x"])


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[1,]", b"\xff", b"[" * 100_000, b'["' + b"[" * 100_000, b'{"a": 1, "a": 2}', b"[1] 2", b"NaN"]
)
def test_a_document_that_is_no_json_as_a_whole_is_an_error(raw: bytes) -> None:
    with pytest.raises(RecordError, match=r"not JSON|not UTF-8|given twice|no JSON number"):
        parse_document(raw)


@given(json_values())
def test_plain_documents_are_read_as_json_reads_them(value: Any) -> None:
    assert parse_document(b"\xef\xbb\xbf" + json.dumps(value).encode()) == value


# ---- where pictures may lie ------------------------------------------------------------------------------------


def test_absolute_paths_when_allowed(file: Path, tmp_path: Path) -> None:
    (record,) = read_records(put(file, line_with(image=str(tmp_path / "a.jpg"))), allow_absolute=True)

    assert record.image == tmp_path / "a.jpg"
    assert not scan_records(put(file, line_with(image="../a.jpg")), allow_absolute=True).records


@pytest.mark.skipif(sys.platform == "win32", reason="making links takes a privilege on Windows")
def test_links_are_followed(file: Path, tmp_path: Path) -> None:
    put(file, *(line_with(image=image) for image in ("out/a.jpg", "out.jpg", "loop", "in/a.jpg", "in.jpg")))
    for name, there in {
        "out": "..",
        "out.jpg": "../a.jpg",
        "loop": "loop",
        "in": "images",
        "in.jpg": "images/a.jpg",
    }.items():
        (file.parent / name).symlink_to(there)

    scan = scan_records(file)

    assert [rejected.line for rejected in scan.rejected] == [1, 2]
    assert all("leads out of the folder" in rejected.reason for rejected in scan.rejected)
    assert [record.line for record in scan.records] == [3, 4, 5]  # a loop leads nowhere, which `check` will say


@pytest.mark.skipif(sys.platform == "win32", reason="making links takes a privilege on Windows")
def test_the_record_file_may_lie_behind_a_link_itself(file: Path, tmp_path: Path) -> None:
    put(file, line_with())
    (tmp_path / "link").symlink_to(file.parent)

    (record,) = read_records(tmp_path / "link" / file.name)

    assert record.image == tmp_path / "link" / "a.jpg"


@pytest.mark.parametrize(
    "image", ["..\\..\\a.jpg", "\\a.jpg", "C:\\a.jpg", "C:a.jpg", "\\\\server\\share\\a.jpg", "images\\a.jpg"]
)
def test_a_path_in_the_way_of_windows_does_not_lead_out_on_any_system(file: Path, image: str) -> None:
    scan = scan_records(put(file, line_with(image=image)))

    assert len(scan.records) + len(scan.rejected) == 1
    for record in scan.records:
        assert record.image is not None
        assert Path(os.path.realpath(record.image)).is_relative_to(os.path.realpath(file.parent))


def test_a_name_longer_than_any_file_stops_nothing(file: Path) -> None:
    assert len(scan_records(put(file, line_with(image="a" * 100_000), line_with())).records) == 2


# ---- there and back --------------------------------------------------------------------------------------------


def test_what_is_written_is_what_was_read(file: Path) -> None:
    lines = [
        GHOST,
        line_with(id="2", source={"set": "a", "n": [1, 2.5, None]}, targets=[{"point": [1, 2], "iscrowd": 0}]),
        line_with(id="3", targets=..., answer="Paris."),
    ]
    again = file.with_name("again.jsonl")

    write_records(read_records(put(file, *lines)), again)

    assert [json.loads(line) for line in again.read_text(encoding="utf-8").splitlines()] == [
        json.loads(line) for line in lines
    ]
    assert again.read_text(encoding="utf-8").splitlines()[0] == GHOST  # keys in the documented order too
    assert read_records(again) == read_records(file)


def test_pictures_are_found_from_a_file_elsewhere(file: Path, tmp_path: Path) -> None:
    records = read_records(put(file, line_with(image="images/a.jpg")))

    write_records(records, tmp_path / "all.jsonl")  # above the pictures
    write_records(records, tmp_path / "other" / "new" / "all.jsonl")  # beside them

    assert json.loads((tmp_path / "all.jsonl").read_bytes())["image"] == "data/images/a.jpg"
    (beside,) = read_records(tmp_path / "other" / "new" / "all.jsonl", allow_absolute=True)
    assert beside.image == tmp_path / "data" / "images" / "a.jpg"


def test_a_path_that_goes_up_and_down_is_straightened(tmp_path: Path) -> None:
    record = Record("q", tmp_path / "data" / ".." / "images" / "a.jpg")

    assert record_to_json(record, tmp_path)["image"] == "images/a.jpg"
    assert record_to_json(record, tmp_path / "data")["image"] == str(tmp_path / "images" / "a.jpg")


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ({"x": float("nan")}, "not JSON compliant"),
        ({"x": Path("a")}, "not JSON serializable"),
        ({"x": "\ud800"}, "surrogates"),
    ],
)
def test_what_json_cannot_hold_is_refused_before_anything_is_written(
    file: Path, extra: dict[str, Any], why: str
) -> None:
    put(file, GHOST)
    records = [*read_records(file), Record("q", file.parent / "a.jpg", id="9", extra=extra)]

    with pytest.raises(RecordError, match=f"record '9' cannot be written as JSON: .*{why}"):
        write_records(records, file)

    assert file.read_text(encoding="utf-8") == GHOST


texts = st.text()
numbers = st.integers(-(10**14), 10**14) | st.floats(-1e14, 1e14)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


def extras(*known: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(texts.filter(lambda key: key not in known), json_values, max_size=3)


targets = st.builds(
    lambda place, label, extra: Target(**place, label=label, extra=extra),
    st.builds(lambda box: {"box": box}, st.tuples(numbers, numbers, numbers, numbers))
    | st.builds(lambda point: {"point": point}, st.tuples(numbers, numbers)),
    st.none() | texts,
    extras("label", "box", "point"),
)
plain = {
    "question": texts,
    "id": st.text(min_size=1),
    "width": st.none() | st.integers(1, 10**9),
    "height": st.none() | st.integers(1, 10**9),
    "extra": extras("id", "image", "width", "height", "question", "targets", "answer"),
}


@given(st.data())
@settings(deadline=None)
def test_any_record_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp()
    names = st.from_regex(r"[a-z0-9 \u00e9'\"#%-]{1,20}\.jpg", fullmatch=True).map(
        lambda name: folder / "images" / name
    )
    grounding = st.builds(Record, image=names, targets=st.lists(targets, max_size=3).map(tuple), **plain)
    instruction = st.builds(Record, image=st.none() | names, answer=texts, **plain)
    records = data.draw(st.lists(grounding | instruction, max_size=4))

    write_records(records, folder / "any.jsonl")

    assert read_records(folder / "any.jsonl") == records


# ---- the values themselves -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({}, "either a 'box' or a 'point', not neither"),
        ({"box": (1, 2, 3, 4), "point": (1, 2)}, "either a 'box' or a 'point', not both"),
        ({"box": (1, 2, 3)}, r"the box is \(1, 2, 3\); expected 4 finite numbers"),
        ({"box": ()}, "expected 4 finite numbers"),
        ({"box": (1, 2, 3, float("inf"))}, "expected 4 finite numbers"),
        ({"box": np.zeros(4)}, "expected 4 finite numbers"),
        ({"point": (1, 2, 3)}, "expected 2 finite numbers"),
        ({"point": 5}, "the point is 5; expected 2 finite numbers"),
    ],
)
def test_a_target_is_one_whole_place(place: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        Target(**place)


def test_a_place_at_the_origin_is_a_place() -> None:
    assert Target(point=(0, 0)).numbers == (0, 0)
    assert Target(box=(0, 0, 0, 0)).numbers == (0, 0, 0, 0)


def test_records_and_targets_can_be_kept_in_sets() -> None:
    """`extra` is a dict and has no hash; it counts in comparing all the same."""
    target = Target(box=[1, 2, 3, 4], extra={"iscrowd": 0})  # type: ignore[arg-type]
    record = Record("q", Path("a.jpg"), (target,), extra={"x": [1]}, file=Path("a.jsonl"), line=1)
    elsewhere = Record("q", Path("a.jpg"), (target,), extra={"x": [1]}, file=Path("b.jsonl"), line=2)
    other = Record("q", Path("a.jpg"), (target,), extra={"x": [2]})

    assert target.box == (1, 2, 3, 4)
    assert {record, elsewhere, other} == {record, other}


def test_a_record_has_targets_or_an_answer() -> None:
    with pytest.raises(RecordError, match="both 'targets' and 'answer'; a record has one of them"):
        Record("q", Path("a.jpg"), (Target(point=(1, 2)),), answer="a")


def test_a_record_names_its_place() -> None:
    assert Record("q", Path("a.jpg"), id="7").place == "record '7'"
    assert Record("q", Path("a.jpg"), id="7", file=Path("x/r.jsonl"), line=3).place == f"{Path('x/r.jsonl')}:3"


def test_numbers_stay_as_they_were_given() -> None:
    assert [type(number) for number in read_numbers([1, 2.0], 2, "point")] == [int, float]
    with pytest.raises(RecordError, match=r"the bbox is \[1, 2\]; expected 4 finite numbers"):
        read_numbers([1, 2], 4, "bbox")
