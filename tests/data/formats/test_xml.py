from __future__ import annotations

import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundling.data.formats.xml import parse_xml
from groundling.errors import RecordError


def test_elements_attributes_and_text_are_read():
    root = parse_xml('<?xml version="1.0" encoding="utf-8"?>\n<a><b n="1">caf\u00e9 &amp; &#65;</b></a>'.encode())
    assert [(child.tag, child.get("n"), child.text) for child in root] == [("b", "1", "caf\u00e9 & A")]
    latin = '<?xml version="1.0" encoding="iso-8859-1"?><a>caf\u00e9</a>'.encode("latin-1")
    assert parse_xml(latin).text == "caf\u00e9"


LAUGHS = '<!DOCTYPE a [<!ENTITY l0 "ha">' + "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 30))


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS + "]><a>&l29;</a>",
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
        '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd"><a/>',
        "<!DOCTYPE a><a/>",
    ],
)
def test_document_types_are_refused_before_anything_is_expanded(text: str):
    start = time.perf_counter()
    with pytest.raises(RecordError, match="document type"):
        parse_xml(text.encode())
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    "raw",
    [b"", b"<a>", b"<a></b>", b"not xml", b"<a>&x;</a>", b'<?xml version="1.0" encoding="klingon"?><a/>', b"\xff\xfe<"],
)
def test_what_is_no_xml_is_an_error(raw: bytes):
    with pytest.raises(RecordError, match="not XML"):
        parse_xml(raw)


def test_nesting_is_no_trouble():
    assert parse_xml(b"<a>" * 50_000 + b"</a>" * 50_000).tag == "a"


@given(st.binary(max_size=60) | st.text("<a/>&;!DOCTYPE[]\"' \n", max_size=60).map(str.encode))
def test_bytes_are_xml_or_a_record_error(raw: bytes):
    with suppress(RecordError):
        parse_xml(raw)
