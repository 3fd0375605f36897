"""Records in original pixels: reading, writing, converting from other formats, checking."""

from __future__ import annotations
