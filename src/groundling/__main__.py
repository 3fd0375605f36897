"""`python -m groundling`, for launchers that start modules (accelerate, torchrun)."""

from __future__ import annotations

from groundling.cli import main

if __name__ == "__main__":
    main()
