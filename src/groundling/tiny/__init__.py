"""The bundled tiny model: a real Qwen2.5-VL of half a million parameters, and the drawn scenes it was taught with."""

from __future__ import annotations
