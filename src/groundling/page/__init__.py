"""HTML pages that are one file: the frame that they share, and pictures with boxes over them."""

from __future__ import annotations
