"""How each model family is asked, how it writes boxes, and how its text is read back."""

from __future__ import annotations
