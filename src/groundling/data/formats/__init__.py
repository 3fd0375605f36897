"""Other people's data: each module reads one format and yields what it found, in original pixels."""

from __future__ import annotations
