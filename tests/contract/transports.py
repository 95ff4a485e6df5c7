"""Two transports behind one face, so that one test speaks of both.

The memory twin delivers when told; ZeroMQ when its loop turns and the kernel feels like it. A test
says `rig.until(condition)` and does not see which.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from protocol.transport import Transport
from protocol.transport.memory import MemoryNet, MemoryTransport
from protocol.transport.zeromq import ZmqTransport

PATIENCE_S = 10.0


class Rig(Protocol):
    """One wire for a test."""

    problems: list[BaseException]
    """What callbacks raised."""

    def transport(self) -> Transport:
        """Return the transport of one more party."""

    def endpoint(self, name: str) -> str:
        """Return an endpoint of this rig; the same for the same name."""

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Let the wire work until the condition holds; AssertionError when it never does."""

    def idle(self) -> None:
        """Let everything that is on its way arrive."""

    def close(self) -> None:
        """Close every transport."""


class MemoryRig:
    """The memory twin: everything arrives in one pump."""

    def __init__(self) -> None:
        self.problems: list[BaseException] = []
        self._net = MemoryNet()
        self._made: list[MemoryTransport] = []

    def transport(self) -> Transport:
        self._made.append(made := MemoryTransport(self._net))
        return made

    def endpoint(self, name: str) -> str:
        return f"mem://{name}"

    def until(self, condition: Callable[[], bool], what: str) -> None:
        self.idle()
        assert condition(), what

    def idle(self) -> None:
        while True:
            try:
                return self._net.pump()
            except Exception as problem:
                self.problems.append(problem)

    def close(self) -> None:
        for made in self._made:
            made.close()


class ZmqRig:
    """ZeroMQ over Unix sockets in a short directory of its own, on a loop of its own."""

    def __init__(self) -> None:
        self.problems: list[BaseException] = []
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._note)
        self._folder = Path(tempfile.mkdtemp(prefix="z", dir="/tmp"))
        self._made: list[ZmqTransport] = []

    def transport(self) -> Transport:
        self._made.append(made := ZmqTransport(self._loop))
        return made

    def endpoint(self, name: str) -> str:
        return f"ipc://{self._folder}/{name}"

    def until(self, condition: Callable[[], bool], what: str) -> None:
        async def wait() -> None:
            deadline = time.monotonic() + PATIENCE_S
            while not condition():
                assert time.monotonic() < deadline, what
                await asyncio.sleep(0.001)

        self._loop.run_until_complete(wait())

    def idle(self) -> None:
        """Give it a moment: the absence of a message has no condition to wait for."""
        self._loop.run_until_complete(asyncio.sleep(0.05))

    def close(self) -> None:
        for made in self._made:
            made.close()
        self._loop.close()
        shutil.rmtree(self._folder)

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        problem = context.get("exception")
        if isinstance(problem, BaseException):
            self.problems.append(problem)
