"""From a recipe to a tuned checkpoint in a run folder."""

from __future__ import annotations
