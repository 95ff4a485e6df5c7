"""The reading end of a pipe on the event loop."""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import termios

_CHUNK = 1 << 16


class PipeReader:
    """Reads a pipe without blocking the loop; owns the descriptor."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._loop = asyncio.get_running_loop()

    async def read(self) -> bytes:
        """Wait for output and return it, 64 KiB at most; empty when all writers have left."""
        while True:
            try:
                return os.read(self._fd, _CHUNK)
            except BlockingIOError:
                await self._readable()

    def pending(self) -> int:
        """Return how many bytes can be read right now."""
        count = array.array("i", [0])
        fcntl.ioctl(self._fd, termios.FIONREAD, count)
        return count[0]

    def close(self) -> None:
        """Let go of the pipe; a writer that goes on gets SIGPIPE. Nobody may be reading."""
        os.close(self._fd)

    async def _readable(self) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()

        def on_ready() -> None:
            if not ready.done():
                ready.set_result(None)

        self._loop.add_reader(self._fd, on_ready)
        try:
            await ready
        finally:
            self._loop.remove_reader(self._fd)
