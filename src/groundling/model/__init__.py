"""Checkpoints: their contract, loading them, choosing what of them is trained."""

from __future__ import annotations
