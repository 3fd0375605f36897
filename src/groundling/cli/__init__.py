"""The command line: one verb, one function. What a verb needs is imported when it is called.

With `--json`, stdout is one JSON document and everything else goes to stderr. An error is one `error: ...` block. Exit
codes: 0 done, 1 error-level findings or a failed run, 2 wrong use, settings or a missing file, 75 a training that
SIGTERM stopped and the same command goes on with, 130 Ctrl-C.
"""

from __future__ import annotations

from groundling.cli.app import main

__all__ = ["main"]
