"""A model's regular expression, held against texts in a process of its own.

That process is started for one search and killed with it: when the search is cancelled, and when a
text has taken longer than `LONGEST_S`. It gets texts and gives back numbers of lines, opens nothing
and inherits nothing.

    to it      eight bytes of length, then UTF-8: first the order in JSON, then one text at a time
    from it    a line of JSON each: what is wrong with the pattern or null, then which lines match
"""

from __future__ import annotations

import json
import os
import selectors
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Self

from podproc.tools.base import ToolFailure

LONGEST_S = 10.0
"""How long one text may take."""

_WORKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pattern_worker.py")
_LOOK_S = 0.05
_PIECE = 1 << 18


class Stopped(Exception):
    """The search was given up while it went on."""


class PatternProcess:
    """One pattern; a context, whose end is the process's. Blocks: call it off the event loop."""

    def __init__(
        self, pattern: str, flags: int, *, multiline: bool, is_stopped: Callable[[], bool]
    ) -> None:
        """Start the process; raises ToolFailure for a pattern that is none, and Stopped."""
        self._is_stopped = is_stopped
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-X", "utf8", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        for fd in (self._to, self._from):
            os.set_blocking(fd, False)
        order = {"pattern": pattern, "flags": flags, "multiline": multiline}
        try:
            if (wrong := self._ask(json.dumps(order), "the pattern")) is not None:
                raise ToolFailure("invalid_argument", f"regex parse error: {wrong}")
        except BaseException:
            self.close()
            raise

    def hits(self, text: str, name: str) -> set[int]:
        """Return the lines that match, from 0; raises ToolFailure, and Stopped.

        `name` is what a failure calls the text.
        """
        return set(self._ask(text, name))

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def _ask(self, text: str, name: str) -> Any:
        """Send a text and return the answer to it."""
        data = text.encode("utf-8", "surrogatepass")
        unsent = memoryview(struct.pack(">Q", len(data)) + data)
        answer = bytearray()
        end = time.monotonic() + LONGEST_S
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._to, selectors.EVENT_WRITE)
            waiting.register(self._from, selectors.EVENT_READ)
            while not answer.endswith(b"\n"):
                self._require_time(end, name)
                for ready, _ in waiting.select(_LOOK_S):
                    if ready.fd == self._to:
                        unsent = unsent[self._write(unsent) :]
                        if not unsent:
                            waiting.unregister(self._to)
                    elif piece := os.read(self._from, _PIECE):
                        answer += piece
                    else:
                        raise ToolFailure("execution_failed", f"the search ended itself at {name}")
        return json.loads(answer)

    def _write(self, data: memoryview) -> int:
        try:
            return os.write(self._to, data[:_PIECE])
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            return len(data)  # it is gone: the reading side tells

    def _require_time(self, end: float, name: str) -> None:
        if self._is_stopped():
            raise Stopped
        if time.monotonic() > end:
            raise ToolFailure(
                "execution_failed",
                f"the pattern took more than {LONGEST_S:g} s at {name} and was ended: a "
                "repetition inside of a repetition is tried in every way; write it without one",
            )
