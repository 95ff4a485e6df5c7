"""A disk that fails on order, and the few entries that the tests of the log are made of."""

from __future__ import annotations

import asyncio
import errno
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from podproc.session.files import OsFiles
from podproc.session.log import SegmentLog
from protocol.base import Wire
from protocol.entries import (
    AssistantItem,
    Entry,
    Invoke,
    Message,
    RunCompleted,
    SegmentStart,
    SystemItem,
    SystemItemEntry,
    ToolCall,
    ToolResult,
    ToolResultEntry,
    UserInput,
)
from protocol.segments import Text
from protocol.session.line import encode_line
from protocol.status import RunResult, Trigger

START = SegmentStart(ts=1, session_id="s1", system_prompt="be good", config={"model": "m"})


def said(text: str) -> AssistantItem:
    return AssistantItem(ts=2, item=Message(role="assistant", content=text))


def called(call_id: str) -> AssistantItem:
    return AssistantItem(ts=3, item=ToolCall(call_id=call_id, name="read", arguments="{}"))


def answered(call_id: str) -> ToolResultEntry:
    return ToolResultEntry(ts=4, item=ToolResult(call_id=call_id, summary="read 3 lines"))


def told(kind: str, body: str, id: str | None = None) -> SystemItemEntry:
    return SystemItemEntry(ts=5, item=SystemItem(kind=kind, body=body, id=id))


def asked(text: str) -> UserInput:
    return UserInput(ts=6, segments=(Text(content=text),))


def invoked(request_id: str | None = None, trigger: Trigger = Trigger.USER_SEND) -> Invoke:
    return Invoke(ts=7, trigger=trigger, request_id=request_id)


def ended(result: RunResult) -> RunCompleted:
    return RunCompleted(ts=8, result=result)


def cut(log: SegmentLog, head_entries: int) -> None:
    """Cut a log, on a loop of its own."""
    asyncio.run(log.cut(head_entries))


def lines_of(*entries: Wire) -> bytes:
    return b"".join(map(encode_line, entries))


def plain(entries: tuple[Entry, ...]) -> list[dict[str, Any]]:
    return [entry.to_wire() for entry in entries]


class Killed(BaseException):
    """The process is gone; nothing of it runs any more, no `except Exception` either."""


class Disk(OsFiles):
    """Real files, with a plan: operations that fail, writes that stop short, a moment of death.

    `done` names the operations in order. `fail(op)` fails the next one and all after it, until
    `mend()`. With `dies_at` the process is killed instead of the operation of that number, a write
    after half of it.
    """

    def __init__(self, dies_at: int | None = None) -> None:
        self.done: list[str] = []
        self._open: set[int] = set()
        self._failures: dict[str, OSError] = {}
        self._room: int | None = None
        self._dies_at = dies_at

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.done)

    def fail(self, op: str, code: int) -> None:
        self._failures[op] = OSError(code, os.strerror(code))

    def leave_room(self, size: int) -> None:
        """Let the next write take `size` bytes, and none after it."""
        self._room = size

    def mend(self) -> None:
        self._failures.clear()
        self._room = None

    def bury(self) -> None:
        """Close what a killed process had open, as the kernel does."""
        for fd in self._open:
            os.close(fd)
        self._open.clear()

    def _do(self, op: str) -> None:
        if len(self.done) == self._dies_at:
            raise Killed
        self.done.append(op)
        if op in self._failures:
            raise self._failures[op]

    def open(self, path: Path, flags: int) -> int:
        self._do("open")
        fd = super().open(path, flags)
        self._open.add(fd)
        return fd

    def dup(self, fd: int) -> int:
        self._do("dup")
        fd = super().dup(fd)
        self._open.add(fd)
        return fd

    def close(self, fd: int) -> None:
        self._open.discard(fd)
        super().close(fd)

    def write(self, fd: int, data: bytes) -> int:
        if len(self.done) == self._dies_at:
            super().write(fd, data[: len(data) // 2])
        self._do("write")
        if self._room is None:
            return super().write(fd, data)
        if self._room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken, self._room = min(self._room, len(data)), 0
        return super().write(fd, data[:taken])

    def fsync(self, fd: int) -> None:
        self._do("fsync")
        super().fsync(fd)

    def fdatasync(self, fd: int) -> None:
        self._do("fdatasync")
        super().fdatasync(fd)

    def ftruncate(self, fd: int, size: int) -> None:
        self._do("ftruncate")
        super().ftruncate(fd, size)

    def rename(self, source: Path, target: Path) -> None:
        self._do("rename")
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._do("unlink")
        super().unlink(path)

    def mkdir(self, path: Path) -> None:
        self._do("mkdir")
        super().mkdir(path)


@contextmanager
def death(disk: Disk) -> Iterator[None]:
    """Run what may be killed; what it had open is closed as by the kernel."""
    try:
        yield
    except Killed:
        pass
    finally:
        disk.bury()
