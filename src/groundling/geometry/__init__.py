"""Frames, and the boxes and points that never travel without one; the one door through which pictures come in."""

from __future__ import annotations
