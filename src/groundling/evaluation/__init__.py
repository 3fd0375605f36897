"""What a model's answers are worth: metrics with intervals, reports with pictures, before against after."""

from __future__ import annotations
