"""Formats of other tools, written: each module holds one, and undoes the reader of that name in `data.formats`."""

from __future__ import annotations
