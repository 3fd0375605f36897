"""XML of someone else: elements, attributes and text, and nothing that a document could define or fetch."""

from __future__ import annotations

from typing import Any, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from groundling.errors import RecordError


def parse_xml(raw: bytes) -> Element:
    """The root element. RecordError where it is no XML, or has a document type: entities are defined in those only."""
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(raw, True)
    except RecordError:
        raise
    except (expat.ExpatError, ValueError, LookupError) as error:  # the last two for encodings that expat cannot read
        raise RecordError(f"not XML: {error}") from None
    return builder.close()


def _refuse_doctype(*_: Any) -> NoReturn:
    raise RecordError("the XML has a document type (<!DOCTYPE ...>), which can hold entities; take it out")
