"""What commands print: streamed as it comes, kept whole in a file once it is long.

    pipe ── Capture ──┬── emit(text)          as it comes, up to a limit a watcher can use
                      ├── head and tail       for the result
                      └── OutputStore         named in the result; total capped, oldest removed

The reader is never slower than the disk and never ahead of it: a chunk is written, in a thread,
before the next is read, so a flood is throttled by its own pipe.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass

from podproc.clock import wall_ms
from podproc.tools.base import off_loop
from podproc.tools.pipe import PipeReader

MOST_BYTES = 12 * 1024
MOST_LINES = 80
STORE_LIMIT = 64 * 1024 * 1024
STREAM_LIMIT = 1024 * 1024
_END_BYTES = 4 * 1024
_END_LINES = 40


@dataclass(slots=True)
class StoredOutput:
    """One file of the store; `dropped` bytes found no room."""

    path: str
    fd: int
    dropped: int = 0


class OutputStore:
    """A directory of outputs (0700, files 0600) whose total size never passes its limit.

    The oldest finished files make room. Blocks and may be used from several threads.
    """

    def __init__(self, directory: str, *, limit: int = STORE_LIMIT) -> None:
        self._directory = directory
        self._limit = limit
        self._lock = threading.Lock()
        self._sizes: dict[str, int] | None = None
        self._open: set[str] = set()

    def create(self) -> StoredOutput:
        """Make a new file; raises OSError."""
        with self._lock:
            if self._sizes is None:
                self._sizes = self._find()
            name = f"{wall_ms()}-{secrets.token_hex(3)}.txt"
            path = os.path.join(self._directory, name)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            output = StoredOutput(path, os.open(path, flags, 0o600))
            self._sizes[path] = 0
            self._open.add(path)
            return output

    def append(self, output: StoredOutput, data: bytes) -> None:
        """Add data; what has no room, or meets a full disk, is counted as dropped."""
        with self._lock:
            room = data[: self._make_room(len(data))]
            written = 0
            try:
                while written < len(room):
                    written += os.write(output.fd, room[written:])
            except OSError:
                pass  # counted below, and said in the result
            output.dropped += len(data) - written
            assert self._sizes is not None
            self._sizes[output.path] += written

    def finish(self, output: StoredOutput) -> None:
        """Close the file; from now on it may be removed for newer ones."""
        with self._lock:
            os.close(output.fd)
            self._open.discard(output.path)

    def _find(self) -> dict[str, int]:
        os.makedirs(self._directory, 0o700, exist_ok=True)
        os.chmod(self._directory, 0o700)
        with os.scandir(self._directory) as entries:
            files = [entry for entry in entries if entry.is_file(follow_symlinks=False)]
        return {file.path: file.stat().st_size for file in sorted(files, key=lambda f: f.name)}

    def _make_room(self, wanted: int) -> int:
        assert self._sizes is not None
        used = sum(self._sizes.values())
        for path in [p for p in self._sizes if p not in self._open]:
            if used + wanted <= self._limit:
                break
            used -= self._sizes.pop(path)
            with contextlib.suppress(FileNotFoundError):  # a person has removed it
                os.unlink(path)
        return min(wanted, max(0, self._limit - used))


class Capture:
    """Reads one command's output to its end; owns the pipe's reading end."""

    def __init__(self, read_end: int, store: OutputStore, emit: Callable[[str, str], None]) -> None:
        self._pipe = PipeReader(read_end)
        self._store = store
        self._emit = emit
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._streamed = 0
        self._head = bytearray()  # everything, until there is a file
        self._tail = bytearray()  # everything, until it is long
        self._lines = 0
        self._read = 0
        self._taken = 0
        self._stored: StoredOutput | None = None
        self._trouble: str | None = None
        self._is_closed = False
        self._storing = asyncio.Lock()
        self._progress = asyncio.Condition()
        self._pump = asyncio.create_task(self._take_all(), name="command output")

    @property
    def path(self) -> str | None:
        """The file that has the output, None while it is short."""
        return self._stored.path if self._stored else None

    async def keep(self) -> None:
        """Have the output in a file from now on, however short it is."""
        async with self._storing:
            if self._stored is None and self._trouble is None:
                try:
                    self._stored = await off_loop(self._store.create)
                except OSError as error:
                    self._trouble = error.strerror or str(error)
                    return
                await off_loop(self._store.append, self._stored, bytes(self._head))

    async def catch_up(self) -> None:
        """Wait until all that was written before now has been taken in."""
        goal = self._read + (0 if self._pump.done() else self._pipe.pending())
        async with self._progress:
            await self._progress.wait_for(lambda: self._taken >= goal or self._pump.done())

    async def finish(self, note: str = "") -> None:
        """Wait for the last writer to leave, add a note to the file, and let go of everything."""
        try:
            await asyncio.wait({self._pump})
            if self._stored is not None:
                await off_loop(self._store.append, self._stored, note.encode())
        finally:
            await self.abandon()

    async def abandon(self) -> None:
        """Stop reading and let go of everything; who still writes gets SIGPIPE."""
        self._pump.cancel()
        await asyncio.wait({self._pump})
        if not self._is_closed:
            self._is_closed = True
            self._pipe.close()
            if self._stored is not None:
                self._store.finish(self._stored)

    def text(self) -> str:
        """Return the whole output where it is short, else head and tail and where all of it is."""
        if not self._is_long():
            return _decoded(self._tail)
        head = _ends(_decoded(self._head[:_END_BYTES]), last=False)
        tail = _ends(_decoded(self._tail[-_END_BYTES:]), last=True)
        return f"{head}\n[… {self._where()} …]\n{tail}"

    def _where(self) -> str:
        size = f"{self._taken} bytes, {self._lines} lines in all"
        if self._stored is None:
            return f"{size}; they could not be kept: {self._trouble}"
        lost = f", less {self._stored.dropped} bytes without room" if self._stored.dropped else ""
        return f"{size}{lost}; see {self._stored.path}"

    def _is_long(self) -> bool:
        return self._taken > MOST_BYTES or self._lines > MOST_LINES

    async def _take_all(self) -> None:
        try:
            while data := await self._pipe.read():
                self._read += len(data)
                await self._take(data)
                async with self._progress:
                    self._taken += len(data)
                    self._progress.notify_all()
            self._stream(b"", final=True)
        finally:
            async with self._progress:
                self._progress.notify_all()

    async def _take(self, data: bytes) -> None:
        self._stream(data)
        self._lines += data.count(b"\n")
        self._tail = (self._tail + data)[-MOST_BYTES:]
        async with self._storing:
            if self._stored is not None:
                await off_loop(self._store.append, self._stored, data)
                return
            if self._trouble is None:
                self._head += data
        if len(self._head) > MOST_BYTES or self._lines > MOST_LINES:
            await self.keep()

    def _stream(self, data: bytes, *, final: bool = False) -> None:
        if self._streamed > STREAM_LIMIT:
            return
        text = self._decoder.decode(data, final)
        self._streamed += len(data)
        if self._streamed > STREAM_LIMIT:
            text += "\n[more than can be shown live]\n"
        if text:
            self._emit("output", text)


def _decoded(data: bytes | bytearray) -> str:
    return data.decode("utf-8", "replace")


def _ends(text: str, *, last: bool) -> str:
    """Return whole lines from one end of a text, as far as there are any."""
    lines = text.split("\n")
    if last:
        return "\n".join(lines[1:][-_END_LINES:] if len(lines) > 1 else lines)
    return "\n".join(lines[:-1][:_END_LINES] if len(lines) > 1 else lines)
