"""A stderr that never raises: a full disk must not end what only wanted to say so.

A process whose stderr is a file gets ENOSPC from a print like from any other write. Whoever prints
from a callback would die of it. Writes that fail are counted, and the count is told with the first
one that succeeds.
"""

from __future__ import annotations

import io
import os
import sys


class UnfailingStderr(io.TextIOBase):
    """Writes to descriptor 2, whole strings at a time; loses what it cannot write."""

    def __init__(self) -> None:
        self.lost = 0

    def writable(self) -> bool:
        """It takes text."""
        return True

    def fileno(self) -> int:
        """For faulthandler and its like."""
        return 2

    def write(self, text: str) -> int:
        """Write, or count; never raises OSError."""
        told = f"[{self.lost} writes were lost]\n" if self.lost else ""
        data = (told + text).encode("utf-8", "backslashreplace")
        try:
            os.write(2, data)
            self.lost = 0
        except OSError:
            self.lost += 1
        return len(text)


def use_unfailing_stderr() -> None:
    """Print and tracebacks go through it from now on, stdout's too."""
    sys.stderr = sys.stdout = UnfailingStderr()
