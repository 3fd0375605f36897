"""Pictures inside Parquet files: through the one door like any other, and named where they cannot be read."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cameras import as_stored, exif
from PIL import Image

from groundling.errors import ImageError
from groundling.geometry import packed as module
from groundling.geometry.frame import Frame
from groundling.geometry.images import open_image, read_header
from groundling.geometry.packed import Packed, find_packed, is_there, read_stored


def noise(number: int, orientation: int = 1) -> bytes:
    rng, out = np.random.default_rng(number), io.BytesIO()
    upright = Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8))
    as_stored(upright, orientation).save(out, "PNG", exif=exif(orientation))
    return out.getvalue()


def save(file: Path, contents: list[bytes | None], group: int = 3) -> Path:
    """As `datasets` writes them."""
    rows = [None if content is None else {"bytes": content, "path": "x.png"} for content in contents]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), file, row_group_size=group)
    return file


def test_a_picture_in_a_row_is_the_picture_of_its_file(tmp_path: Path) -> None:
    contents = [noise(number, orientation=1 + number % 8) for number in range(11)]
    file = save(tmp_path / "some.parquet", contents)
    for row in (10, 0, 4, 3, 9, 2):
        path = file / str(row)
        assert is_there(path) and find_packed(path) == Packed(file, row)
        assert read_stored(path) == contents[row]
        np.testing.assert_array_equal(open_image(str(path)), open_image(contents[row]))
        assert read_header(path) == read_header(contents[row])
        assert read_header(path).upright == Frame(40, 30)


def test_only_rows_of_parquet_files_are_packed(tmp_path: Path) -> None:
    file = save(tmp_path / "some.parquet", [noise(0)])
    own = tmp_path / "folder.parquet" / "7"
    own.parent.mkdir()
    own.write_bytes(noise(1))
    assert find_packed(own) is None and is_there(own) and read_stored(own) == noise(1), "a file in a folder called so"
    for path in (file / "x", file / "-1", file / "1.5", tmp_path / "none.parquet" / "0", tmp_path / "none.png"):
        assert find_packed(path) is None and not is_there(path)
        with pytest.raises(ImageError, match="no such file"):
            open_image(path)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = save(tmp_path / "some.parquet", [noise(0), None, b"", b"no picture"])
    for row, reason in ((1, "the row has no picture"), (2, "is empty"), (3, "no picture of a known kind")):
        with pytest.raises(ImageError, match=rf"some\.parquet/{row}: .*{reason}"):
            open_image(file / str(row))
    with pytest.raises(ImageError, match=r"some\.parquet/4: the file has 4 rows"):
        open_image(file / "4")

    (tmp_path / "text.parquet").write_text("no table")
    pq.write_table(pa.table({"picture": [1]}), tmp_path / "other.parquet")
    whole = file.read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    for name in ("text", "other", "cut"):
        with pytest.raises(ImageError, match=rf"{name}\.parquet/0: the Parquet file is damaged, or no picture's"):
            open_image(tmp_path / f"{name}.parquet" / "0")


def test_no_more_is_kept_than_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [noise(number) for number in range(20)]
    file = save(tmp_path / "some.parquet", contents, group=2)
    monkeypatch.setattr(module, "KEPT_BYTES", 5 * len(contents[0]))
    reader = module._Reader()
    for row in [*range(20), *range(20)]:
        assert reader.read(Packed(file, row)) == contents[row]
        assert 1 <= len(reader._groups) <= 2
        assert reader._bytes == sum(group.nbytes for group in reader._groups.values())
    monkeypatch.setattr(module, "KEPT_BYTES", 1)
    assert reader.read(Packed(file, 0)) == contents[0] and len(reader._groups) == 1, "the one that was asked for"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_reads_for_itself(tmp_path: Path) -> None:
    """Even where its parent was just reading, and would never let go of the lock in the child's copy."""
    contents = [noise(number) for number in range(6)]
    file = save(tmp_path / "some.parquet", contents)
    read_stored(file / "0")
    with module._READERS[os.getpid()]._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if read_stored(file / "0") == contents[0] and read_stored(file / "5") == contents[5] else 1)
        assert os.waitpid(child, 0)[1] == 0
