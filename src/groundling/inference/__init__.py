"""From records to what a model takes, from what it says to boxes in original pixels, and merged checkpoints."""

from __future__ import annotations
