"""A stderr for logs: it never raises, and nothing in it drives the terminal of who reads the log.

A process whose stderr is a file gets ENOSPC from a print like from any other write. Whoever prints
from a callback would die of it. Writes that fail are counted, and the count is told with the first
one that succeeds.

What is logged quotes text from outside: names that an agent chose, errors of providers. All of it
goes through `printable`. A line that begins at the margin is the process's own sentence: those who
print one put foreign text `on_one_line`, and tracebacks are indented.
"""

from __future__ import annotations

import io
import os
import sys
import textwrap
import traceback

from protocol.printable import printable


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
        data = printable(told + text).encode()
        try:
            os.write(self.fileno(), data)
            self.lost = 0
        except OSError:
            self.lost += 1
        return len(text)


def use_unfailing_stderr() -> None:
    """Print and tracebacks go through it from now on, stdout's too."""
    sys.stderr = sys.stdout = UnfailingStderr()


def print_traceback(error: BaseException) -> None:
    """Print an error's traceback, indented: no line of its message passes for a line of the log."""
    text = printable("".join(traceback.format_exception(error)))
    print(textwrap.indent(text, "  ", lambda line: True), end="", file=sys.stderr, flush=True)
