"""What a supervisor does besides turning its loop.

Tasks it keeps, and one thread for the disk, in order.

Nothing that waits for a disk or for the scope table's lock may stop the loop. One thread, not a
pool: what is handed over first is on disk first, so an intent is always before its fork's record.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from protocol.printable import on_one_line
from protocol.unfailing import print_traceback

T = TypeVar("T")


class Background:
    """Tasks and the disk thread of one loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="disk")
        self._tasks: set[asyncio.Task[Any]] = set()

    async def on_disk(self, work: Callable[..., T], *args: Any) -> T:
        """Run blocking work in the disk's thread, after everything handed over before."""
        return await self._loop.run_in_executor(self._disk, work, *args)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task and keep it; one that fails is printed with its traceback."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    async def settle(self, timeout_s: float) -> None:
        """Wait for the other tasks, as long as that."""
        others = [task for task in self._tasks if task is not asyncio.current_task()]
        if others:
            await asyncio.wait(others, timeout=timeout_s)

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            print_traceback(error)


def say(text: str) -> None:
    """Write one line to the supervisor's own log, whatever the text quotes."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    print(f"{stamp}Z {on_one_line(text)}", file=sys.stderr, flush=True)


def wall_ms() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000
