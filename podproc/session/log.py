"""The writer of one segment file: `<segment_id>.jsonl`, one record a line.

A record is *written* when `append` returns: its newline is on its way to the disk in the kernel's
hands, so it survives the death of any process. It is *durable* when `sync` returns: it survives a
loss of power too.

    append   one write, all lines, newline last; refused whole or taken whole
    sync     fdatasync off the event loop; who asks while one is on its way shares the next one;
             the first of a file that was found syncs its folder, too
    cut      a new file with the first records, byte for byte, renamed over the old one; copied
             off the event loop
    open     tail repair: an unterminated tail is cut, a torn one moved aside (see `reading.py`)

Two failures are final for the file, and everything that would add to it raises `LogBroken` from
then on. A failed fdatasync: the kernel drops what it could not write and reports it once, so a
second call would claim success for pages that are gone. A file that has grown by another hand:
positions are no longer ours to say.

Not guaranteed: nothing keeps a second writer out, that is the claim in the scope table; and all
methods belong to one thread: only `sync` and `cut` use another one, inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from podproc.session.files import (
    Files,
    OsFiles,
    discard,
    make_folder,
    open_log,
    put_in_place,
    read_range,
    stage,
    staged,
    sync_folder,
)
from podproc.session.syncing import DiskThread
from protocol.entries import Entry, SegmentStart
from protocol.session.line import BadLine, encode_line
from protocol.session.problems import (
    AppendFailed,
    LogBroken,
    LogDamaged,
    RewriteFailed,
    in_words,
)
from protocol.session.reading import BadRecord, decode_record, scan
from protocol.session.replay import EMPTY, Replayed

_OS_FILES = OsFiles()


@dataclass(frozen=True, slots=True)
class Restored:
    """What a segment was when it was opened; each note is a line for an alert."""

    state: Replayed
    notes: tuple[str, ...] = ()


class SegmentLog:
    """One open segment. Made by `create` or `open`; `close` it."""

    def __init__(self, path: Path, fd: int, bounds: array[int], files: Files) -> None:
        self.path = path
        self._files = files
        self._fd = fd
        self._bounds = bounds
        self._inode = files.stat(path).st_ino
        self._durable = 0  # bytes; what was found on disk may still be in the kernel's hands only
        self._has_durable_name = False  # nor need whoever renamed it have lived to sync its folder
        self._broken: str | None = None
        self._thread = DiskThread()
        self._syncing = False
        self._waiting: list[asyncio.Future[None]] = []

    @classmethod
    def create(
        cls, path: Path, first: SegmentStart, *more: Entry, files: Files = _OS_FILES
    ) -> SegmentLog:
        """Return a new segment whose first records, file and folders are durable.

        Raises FileExistsError, and RewriteFailed where the disk refuses; then no such segment
        exists.
        """
        if path.exists():
            raise FileExistsError(path)
        try:
            lines = [encode_line(entry) for entry in (first, *more)]
            make_folder(files, path.parent)
            fd = put_in_place(files, path, b"".join(lines))
        except (OSError, TypeError, ValueError) as error:
            raise RewriteFailed(path, error) from error
        try:
            sync_folder(files, path.parent)
            log = cls(path, fd, array("Q", accumulate(map(len, lines), initial=0)), files)
        except OSError as error:
            files.close(fd)
            with contextlib.suppress(OSError):
                files.unlink(path)
            raise RewriteFailed(path, error) from error
        log._durable, log._has_durable_name = log.size, True
        return log

    @classmethod
    def open(
        cls, path: Path, *, since: Replayed = EMPTY, files: Files = _OS_FILES
    ) -> tuple[SegmentLog, Restored]:
        """Return an existing segment, its tail repaired, and what it was.

        `since` is the state at the end of the segment it continues. Raises LogDamaged,
        RewriteFailed where the repair fails, and OSError.
        """
        fd = open_log(files, path)
        try:
            data = read_range(files, fd)
            with _no_collections():
                found = scan(path, data, since)
            try:
                notes = (_move_aside(files, path, data, found.torn),) if found.torn else ()
                if found.bounds[-1] < len(data):
                    files.ftruncate(fd, found.bounds[-1])
            except OSError as error:
                raise RewriteFailed(path, error) from error
            return cls(path, fd, found.bounds, files), Restored(found.state, notes)
        except Exception:
            files.close(fd)
            raise

    def close(self) -> None:
        """Close the file; makes nothing durable."""
        self._thread.close()
        if self._fd >= 0:
            self._files.close(self._fd)
        self._fd, self._broken = -1, self._broken or "it is closed"

    @property
    def segment_id(self) -> str:
        """The name of the file without its ending."""
        return self.path.stem

    @property
    def head_entries(self) -> int:
        """How many records the segment holds."""
        return len(self._bounds) - 1

    @property
    def size(self) -> int:
        """Its length in bytes, as this writer left it."""
        return self._bounds[-1]

    @property
    def broken(self) -> str | None:
        """Why it takes no record any more; None while it does."""
        return self._broken

    @property
    def is_usable(self) -> bool:
        """Whether it takes records: it is not given up, and nobody else wrote to it."""
        return self._broken is None and not self.grew_by_other_hand()

    def grew_by_other_hand(self) -> bool:
        """Say whether the file at this path is no longer as this writer left it."""
        try:
            now = self._files.stat(self.path)
        except OSError:
            return True
        return (now.st_ino, now.st_size) != (self._inode, self.size)

    # -- writing --------------------------------------------------------------------------------

    def append(self, *entries: Entry) -> int:
        """Write records in one go; return the index of the first of them.

        Raises AppendFailed with the file as it was before, LogBroken where that cannot be had.
        """
        self._refuse_if_unusable()
        first = self.head_entries
        try:
            lines = [encode_line(entry) for entry in entries]
        except (TypeError, ValueError) as error:
            raise AppendFailed(self.path, error) from error
        data = b"".join(lines)
        try:
            written = self._files.write(self._fd, data)
            if written < len(data):
                # A regular file takes less only where space ends: the next write would say so.
                raise OSError(errno.ENOSPC, f"only {written} of {len(data)} bytes were taken")
        except OSError as error:
            self._take_back(error)
            raise AppendFailed(self.path, error) from error
        for line in lines:
            self._bounds.append(self.size + len(line))
        return first

    def _take_back(self, failure: OSError) -> None:
        try:
            self._files.ftruncate(self._fd, self.size)
        except OSError as error:
            self._broken = f"{in_words(failure)}, and taking it back failed: {in_words(error)}"
            raise LogBroken(self.path, self._broken) from error

    async def sync(self) -> None:
        """Return once everything appended so far is durable; raises LogBroken if that failed.

        Callers that come while a sync is on its way wait for it and share the one after it.
        """
        self._refuse_if_broken()
        target = self.size
        while self._durable < min(target, self.size):  # a cut may come in between
            self._refuse_if_broken()
            woken = asyncio.get_running_loop().create_future()
            self._waiting.append(woken)
            if not self._syncing:
                self._begin_sync()
            await woken

    def _begin_sync(self) -> None:
        size, inode = self.size, self._inode
        try:
            fd = self._files.dup(self._fd)  # a cut meanwhile closes ours
        except OSError as error:
            self._on_synced(size, inode, error)
            return

        def wait_for_disk() -> None:
            try:
                self._files.fdatasync(fd)
                if not self._has_durable_name:
                    sync_folder(self._files, self.path.parent)
            finally:
                self._files.close(fd)

        self._syncing = True
        self._thread.run(wait_for_disk, lambda failure: self._on_synced(size, inode, failure))

    def _on_synced(self, size: int, inode: int, failure: BaseException | None) -> None:
        self._syncing = False
        if inode == self._inode:
            if failure is None:
                self._durable, self._has_durable_name = size, True
            else:
                self._broken = f"fdatasync failed: {in_words(failure)}"
        woken, self._waiting = self._waiting, []
        for waiter in woken:
            if not waiter.done():
                waiter.set_result(None)

    async def cut(self, head_entries: int) -> None:
        """Keep the first records, byte for byte, in a new durable file.

        The copy is made off the event loop; what is appended meanwhile goes with the rest. Raises
        ValueError unless 1 <= head_entries <= self.head_entries, RewriteFailed with the old file
        still in place and in use, LogBroken if it is not known which of the two a loss of power
        would leave.
        """
        if not 1 <= head_entries <= self.head_entries:
            raise ValueError(f"cannot keep {head_entries} of {self.head_entries} records")
        self._refuse_if_unusable()
        files, path, source, size = self._files, self.path, self._fd, self._bounds[head_entries]
        copies: list[int] = []

        def copy() -> None:
            copies.append(stage(files, path, read_range(files, source, 0, size)))

        try:
            await self._off_loop(copy)
        except OSError as error:
            raise RewriteFailed(path, error) from error
        self._put_in_place(copies[0], head_entries)

    async def _off_loop(self, work: Callable[[], None]) -> None:
        """Have the disk's thread do it; raises what it raises."""
        over: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self._thread.run(work, over.set_result)
        if (failure := await asyncio.shield(over)) is not None:
            raise failure

    def _put_in_place(self, fd: int, head_entries: int) -> None:
        try:
            self._refuse_if_unusable()
            self._files.rename(staged(self.path), self.path)
        except (OSError, LogBroken) as error:
            discard(self._files, self.path, fd)
            if isinstance(error, LogBroken):
                raise
            raise RewriteFailed(self.path, error) from error
        self._files.close(self._fd)
        self._fd = fd
        del self._bounds[head_entries + 1 :]
        try:
            self._inode = self._files.stat(self.path).st_ino
            sync_folder(self._files, self.path.parent)
        except OSError as error:
            self._broken = f"its folder could not be synced: {in_words(error)}"
            raise LogBroken(self.path, self._broken) from error
        self._durable, self._has_durable_name = self.size, True

    def _refuse_if_broken(self) -> None:
        if self._broken is not None:
            raise LogBroken(self.path, self._broken)

    def _refuse_if_unusable(self) -> None:
        self._refuse_if_broken()
        if self.grew_by_other_hand():
            raise LogBroken(self.path, "another process wrote to it")

    # -- reading --------------------------------------------------------------------------------

    def read(self, first: int, limit: int, *, max_bytes: int | None = None) -> tuple[Entry, ...]:
        """Return entries from `first` on; none if there are none.

        At most `limit`, and `max_bytes` of lines, but one at least: a reader must get on. Raises
        OSError, and LogDamaged if the file no longer holds what was written.
        """
        first = max(first, 0)
        stop = min(first + limit, self.head_entries)
        if first >= stop:
            return ()
        if max_bytes is not None:
            fits = bisect_right(self._bounds, self._bounds[first] + max_bytes) - 1
            stop = max(first + 1, min(stop, fits))
        return self._entries(first, stop)

    def tail(
        self, limit: int, max_bytes: int, *, before: int | None = None
    ) -> tuple[int, tuple[Entry, ...]]:
        """Return the last entries (those before index `before`) and the index of the first of them.

        At most `limit`, and `max_bytes` of lines, but one at least where there is one. Raises as
        `read`.
        """
        stop = self.head_entries if before is None else max(0, min(before, self.head_entries))
        fits = bisect_left(self._bounds, self._bounds[stop] - max_bytes)
        first = max(0, min(max(fits, stop - limit), stop - 1))
        return first, self._entries(first, stop)

    def _entries(self, first: int, stop: int) -> tuple[Entry, ...]:
        data = self._read_bytes(first, stop)
        entries: list[Entry] = []
        for index in range(first, stop):
            offset = self._bounds[index]
            start, end = offset - self._bounds[first], self._bounds[index + 1] - self._bounds[first]
            try:
                entries.append(decode_record(data[start:end]))
            except BadLine as bad:
                raise LogDamaged(
                    self.path, line=index + 1, offset=offset, cause=bad.cause
                ) from None
        return tuple(entries)

    def _read_bytes(self, first: int, stop: int) -> bytes:
        return read_range(self._files, self._fd, self._bounds[first], self._bounds[stop])


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """Keep the collector from walking again and again over objects that are all in use."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _move_aside(files: Files, path: Path, data: bytes, torn: BadRecord) -> str:
    """Keep the bytes from the first bad line on in `<segment>.torn-<n>`; return a line about it."""
    number = 1
    while (aside := path.with_name(f"{path.stem}.torn-{number}")).exists():
        number += 1
    files.close(put_in_place(files, aside, data[torn.offset :]))
    sync_folder(files, path.parent)
    return (
        f"the end of session log {path} was torn (line {torn.line}, byte {torn.offset}: "
        f"{torn.cause}); {len(data) - torn.offset} bytes were moved to {aside.name}"
    )
