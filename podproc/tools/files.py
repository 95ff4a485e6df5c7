"""Read, Write and Edit.

What a model changes it must have seen: `ReadTracker` remembers the hash of each whole file that was
read or written, for as long as the process lives, and a file whose bytes are others by now must be
read again first. The comparison happens with the directory open, right before the replacement.

Changes of one file follow each other in the order of the calls, also where one batch edits it
twice.
"""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar
from weakref import WeakValueDictionary

from pydantic import Field

from podproc.escaping import name_of
from podproc.tools.base import CONTENT_LIMIT, Call, ToolArgs, ToolFailure, ToolResult, off_loop
from podproc.tools.fsview import BIGGEST_FILE, FileState, ScopeDenied, ScopeView
from protocol.scope import Permission

LINES = 2000
LINE_LENGTH = 2000
_READ_BYTES = CONTENT_LIMIT - 2048
_SNIFFED = 8192
_PIECE = 64 * 1024
_COMPARED = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Seen:
    """The bytes a path had when they were last read or written here; `at` is wall clock."""

    digest: bytes
    at: float


class ReadTracker:
    """What this process has seen of each file, by canonical path."""

    def __init__(self) -> None:
        self._seen: dict[str, Seen] = {}

    def note(self, path: str, data: bytes) -> None:
        """Remember the file's present content as seen."""
        self._seen.pop(path, None)
        self._seen[path] = Seen(_digest(data), time.time())

    def touched(self) -> list[str]:
        """Return the paths that were read or written, the latest last."""
        return list(self._seen)

    def require_unchanged(self, path: str, state: FileState) -> None:
        """Raise ToolFailure unless the file's content is the one last seen."""
        seen = self._seen.get(path)
        if seen is None:
            raise ToolFailure(
                "execution_failed", f"{name_of(path)} exists and was not read yet: Read it first"
            )
        if seen.digest != _digest(state.data):
            raise ToolFailure(
                "execution_failed",
                f"{name_of(path)} was read at {_clock(seen.at)} and changed at "
                f"{_clock(state.changed_at)}: Read it again first",
            )


class Files:
    """What the file tools of one pod share. `on_denied(path, layer)` hears of refused writes."""

    def __init__(
        self, view: ScopeView, tracker: ReadTracker, *, on_denied: Callable[[str, str], None]
    ) -> None:
        self.view = view
        self.tracker = tracker
        self._on_denied = on_denied
        self._door = asyncio.Lock()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def change(self, path: str) -> AsyncIterator[str]:
        """Hold the one right to change a file; yields its canonical path.

        Calls get their turn in the order they came: each stands at the door until it has its lock.
        """
        async with self._door:
            try:
                real = await off_loop(self.view.resolve, path, Permission.WRITE)
            except ScopeDenied as denied:
                self._on_denied(denied.path, "file")
                raise
            lock = self._locks.setdefault(real, asyncio.Lock())
            await lock.acquire()
        try:
            yield real
        except ScopeDenied as denied:
            self._on_denied(denied.path, "file")
            raise
        finally:
            lock.release()


class ReadArgs(ToolArgs):
    """Arguments of Read."""

    file_path: str = Field(description="absolute, or relative to the working directory")
    offset: int = Field(1, ge=1, description="first line, from 1")
    limit: int = Field(LINES, ge=1, le=LINES, description="how many lines at most")


class Read:
    """Shows a part of a text file."""

    name: ClassVar[str] = "Read"
    description: ClassVar[str] = (
        "Read a text file with line numbers, 2000 lines at a time; use offset to read on. "
        "A file must be read before Write or Edit may change it."
    )
    Args: ClassVar[type[ReadArgs]] = ReadArgs

    def __init__(self, files: Files) -> None:
        self._files = files

    async def run(self, args: ReadArgs, call: Call) -> ToolResult:
        """Return numbered lines; raises ToolFailure."""
        return await off_loop(self._read, args)

    def _read(self, args: ReadArgs) -> ToolResult:
        path, state = self._files.view.read(args.file_path)
        if b"\0" in state.data[:_SNIFFED]:
            raise ToolFailure(
                "execution_failed", f"{name_of(path)} is a binary file of {len(state.data)} bytes"
            )
        self._files.tracker.note(path, state.data)
        count = state.data.count(b"\n") + (not state.data.endswith(b"\n") and bool(state.data))
        if not count:
            return ToolResult(f"{name_of(path)} is empty", "")
        if args.offset > count:
            raise ToolFailure("invalid_argument", f"{name_of(path)} has {count} lines only")
        shown: list[str] = []
        size = 0
        lines = _lines_from(state.data, args.offset)
        for number, text in enumerate(islice(lines, args.limit), args.offset):
            line = f"{number:>6}\t{_shortened(text.removesuffix(chr(13)))}"
            size += len(line.encode("utf-8", "replace")) + 1
            if size > _READ_BYTES:
                break
            shown.append(line)
        last = args.offset + len(shown) - 1
        more = f"; read on with offset {last + 1}" if last < count else ""
        span = f"lines {args.offset}–{last} of {count}"
        return ToolResult(f"{name_of(path)}: {span}{more}", "\n".join(shown))


def _lines_from(data: bytes, number: int) -> Iterator[str]:
    """Yield the lines from one on, which is there, and make nothing of those before."""
    at, left = 0, number - 1
    while (here := data.count(b"\n", at, at + _PIECE)) < left:
        at, left = at + _PIECE, left - here
    for _ in range(left):
        at = data.index(b"\n", at) + 1
    while at < len(data):
        end = data.find(b"\n", at)
        end = len(data) if end < 0 else end
        yield data[at:end].decode("utf-8", "replace")
        at = end + 1


class WriteArgs(ToolArgs):
    """Arguments of Write."""

    file_path: str = Field(description="absolute, or relative to the working directory")
    content: str = Field(description="the whole new content")


class Write:
    """Makes or replaces a file."""

    name: ClassVar[str] = "Write"
    description: ClassVar[str] = (
        "Write a whole file, making its parent directories. An existing file must have been read, "
        "and not changed since; prefer Edit for changes."
    )
    Args: ClassVar[type[WriteArgs]] = WriteArgs

    def __init__(self, files: Files) -> None:
        self._files = files

    async def run(self, args: WriteArgs, call: Call) -> ToolResult:
        """Replace the file atomically; raises ToolFailure and changes nothing then."""
        async with self._files.change(args.file_path) as path:
            return await off_loop(self._write, path, args.content.encode())

    def _write(self, path: str, data: bytes) -> ToolResult:
        def check(before: FileState | None) -> bytes:
            if before is not None:
                self._files.tracker.require_unchanged(path, before)
            return data

        real, before, _ = self._files.view.rewrite(path, check)
        self._files.tracker.note(real, data)
        verb = "made" if before is None else "replaced"
        lines = data.count(b"\n") + (not data.endswith(b"\n") and bool(data))
        return ToolResult(f"{verb} {name_of(real)}: {lines} lines, {len(data)} bytes")


class EditArgs(ToolArgs):
    """Arguments of Edit."""

    file_path: str = Field(description="absolute, or relative to the working directory")
    old_string: str = Field(min_length=1, description="the exact text to replace, once in the file")
    new_string: str = Field(description="what to put in its place")
    replace_all: bool = Field(False, description="replace every occurrence")


class Edit:
    """Replaces a piece of text in a file."""

    name: ClassVar[str] = "Edit"
    description: ClassVar[str] = (
        "Replace old_string by new_string in a file that was read. old_string must match exactly, "
        "white space included, and only once unless replace_all is true."
    )
    Args: ClassVar[type[EditArgs]] = EditArgs

    def __init__(self, files: Files) -> None:
        self._files = files

    async def run(self, args: EditArgs, call: Call) -> ToolResult:
        """Return a unified diff of the change; raises ToolFailure and changes nothing then."""
        async with self._files.change(args.file_path) as path:
            return await off_loop(self._edit, path, args)

    def _edit(self, path: str, args: EditArgs) -> ToolResult:
        count = 0

        def change(before: FileState | None) -> bytes:
            nonlocal count
            if before is None:
                raise ToolFailure("execution_failed", f"{name_of(path)} does not exist")
            self._files.tracker.require_unchanged(path, before)
            text, count = _replaced(before.data.decode("utf-8", "surrogateescape"), args)
            return text.encode("utf-8", "surrogateescape")

        real, before, data = self._files.view.rewrite(path, change)
        self._files.tracker.note(real, data)
        old = b"" if before is None else before.data
        times = "" if count == 1 else f", {count} replacements"
        return ToolResult(f"edited {name_of(real)}{times}", _diff(real, old, data))


def _replaced(text: str, args: EditArgs) -> tuple[str, int]:
    old, new = args.old_string, args.new_string
    if old == new:
        raise ToolFailure("invalid_argument", "old_string and new_string are the same")
    if old not in text and "\r\n" in text:  # Read shows such lines without their carriage return
        old, new = (part.replace("\r\n", "\n").replace("\n", "\r\n") for part in (old, new))
    count = text.count(old)
    if count == 0:
        raise ToolFailure("execution_failed", "old_string does not occur in the file")
    if count > 1 and not args.replace_all:
        raise ToolFailure(
            "execution_failed",
            f"old_string occurs {count} times: add context to make it unique, or use replace_all",
        )
    size = _size(text) + count * (_size(new) - _size(old))
    if size > BIGGEST_FILE:
        raise ToolFailure(
            "invalid_argument",
            f"the file would have {size} bytes after {count} replacements; "
            f"{BIGGEST_FILE} are allowed: replace fewer, or by less",
        )
    return text.replace(old, new), count


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


def _diff(path: str, old: bytes, new: bytes) -> str:
    if len(old) + len(new) > _COMPARED:
        return f"[no diff is shown: the file had {len(old)} bytes and has {len(new)}]"
    before, after = (data.decode("utf-8", "replace").split("\n") for data in (old, new))
    diff = difflib.unified_diff(
        before, after, name_of(f"a{path}"), name_of(f"b{path}"), lineterm=""
    )
    return "\n".join(line.removesuffix("\r") for line in diff)


def _shortened(line: str) -> str:
    over = len(line) - LINE_LENGTH
    return line if over <= 0 else f"{line[:LINE_LENGTH]}… [{over} characters more]"


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
