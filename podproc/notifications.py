"""The notify buffer: what waits for the model, durable in every status.

`inbox.jsonl` holds one line per message before its method is answered, and one `delivered` line per
run that consumed some. The buffer is what the inbox has and neither the session's log nor a
`delivered` mark names; so a run that is rolled back gives its messages back by itself, and a crash
between log and mark delivers nothing twice: the next process makes up for the mark, for the log may
go on without what it has now. At most 128 wait; beyond that the oldest is dropped,
with an alert.

    store    one write, newline last; refused whole or taken whole
    settle   one mark for all that the run consumed, and for what an earlier mark could not name
    shrink   a new file renamed over the old one, once most of what that holds is settled: what
             waits, and the newest ids of requests, so that none of these is taken twice
    open     an unterminated tail is cut: its message was never answered

Not guaranteed: a message survives the death of any process, but not a loss of power.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from podproc.session.files import (
    Files,
    OsFiles,
    make_folder,
    put_in_place,
    read_range,
    sync_folder,
)
from protocol.base import Wire
from protocol.entries import SystemItem
from protocol.errors import Internal
from protocol.session.line import BadLine, decode_line, encode_line
from protocol.session.problems import in_words
from protocol.status import Trigger

CAPACITY = 128
KNOWN_IDS = 1000
SETTLED_BYTES = 1 << 20
"""By how much the file grows before it is written anew."""

_OS_FILES = OsFiles()
_INBOX = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


class Arrived(Wire):
    """One message in the inbox. `from_parent`: the run that consumes it reports upward.

    `events` are those it tells of: none of them comes again.
    """

    kind: Literal["arrived"] = "arrived"
    ts: int
    id: str
    item: SystemItem
    wakes: bool
    request: str = ""
    from_parent: bool = False
    events: tuple[str, ...] = ()


class Delivered(Wire):
    """These were consumed by a run that has ended, or dropped."""

    kind: Literal["delivered"] = "delivered"
    ts: int
    ids: tuple[str, ...]


class Known(Wire):
    """Requests whose messages were stored and settled before the file was written anew."""

    kind: Literal["known"] = "known"
    ts: int
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    """One message in the buffer; `in_run` counts the run it arrived during (0: none)."""

    message: Arrived
    in_run: int


class Inbox:
    """The buffer and its file. `logged` are the ids that the session's log has.

    What is logged and not marked was consumed by a run that a crash has cut: it counts as taken
    until `settle` marks it. The log cannot remember it for good: it may be cut, or go on elsewhere.
    """

    def __init__(self, path: Path, *, logged: Collection[str], files: Files = _OS_FILES) -> None:
        self._path = path
        self._files = files
        self._waiting: OrderedDict[str, Waiting] = OrderedDict()
        self._requests: dict[str, None] = {}
        self._taken: list[Waiting] = []
        self._unmarked: dict[str, None] = {}  # consumed by runs that are over
        self._strange: list[bytes] = []  # lines that this version cannot read
        self._size = 0
        self._compact_size = 0
        self._has_torn_end = False
        if not path.parent.is_dir():
            make_folder(files, path.parent)
        self._fd = files.open(path, _INBOX)
        try:
            data = read_range(files, self._fd)
            self._size = data.rfind(b"\n") + 1
            if self._size < len(data):
                files.ftruncate(self._fd, self._size)
            self._load(data[: self._size], logged)
        except Exception:
            files.close(self._fd)
            raise

    def _load(self, data: bytes, logged: Collection[str]) -> None:
        for line in data.splitlines(keepends=True):
            try:
                self._replay(decode_line(line))
            except (BadLine, ValidationError):  # one bad line must not keep a pod from starting
                self._strange.append(line)
        self._taken = [self._waiting.pop(one) for one in list(self._waiting) if one in logged]

    def _replay(self, fields: dict[str, Any]) -> None:
        match fields.get("kind"):
            case "arrived":
                message = Arrived.from_wire(fields)
                self._know(message.request, *message.events)
                self._waiting[message.id] = Waiting(message, 0)
            case "delivered":
                for message_id in Delivered.from_wire(fields).ids:
                    self._waiting.pop(message_id, None)
            case "known":
                self._know(*Known.from_wire(fields).ids)
            case kind:
                raise BadLine(f"unknown kind {kind}")

    def _know(self, *requests: str) -> None:
        self._requests.update(dict.fromkeys(requests))

    def knows(self, request: str) -> bool:
        """Whether this request's message was stored before."""
        return bool(request) and request in self._requests

    def store(self, message: Arrived, *, run: int) -> str | None:
        """Write a message, then hold it; returns an alert when an older one had to go.

        Raises Internal when it cannot be written: then nothing is held.
        """
        if message.id in self._waiting:
            return None
        dropped = tuple(self._waiting)[:1] if len(self._waiting) >= CAPACITY else ()
        self._write(message, *(Delivered(ts=message.ts, ids=(oldest,)) for oldest in dropped))
        self._know(message.request, *message.events)
        self._waiting[message.id] = Waiting(message, run)
        for oldest in dropped:
            del self._waiting[oldest]
        return f"over {CAPACITY} notifications wait; the oldest was dropped" if dropped else None

    def take(self) -> list[Arrived]:
        """Return all that waits, oldest first; it is consumed when the run ends well."""
        taken = list(self._waiting.values())
        self._waiting.clear()
        self._taken += taken
        return [waiting.message for waiting in taken]

    def settle(self, ts: int) -> bool:
        """The run has ended, and its end is durable: mark what it consumed.

        True when a message of the parent was among it. Raises Internal when the mark cannot be
        written: then the next one names it.
        """
        from_parent = self.release()
        if self._unmarked:
            self._write(Delivered(ts=ts, ids=tuple(self._unmarked)))
            self._unmarked.clear()
        return from_parent

    def release(self) -> bool:
        """The run is over and its end is not in the log: no later run gives back what it consumed.

        Nothing is marked before a later run is, so a restart delivers what the log has lost. True
        as for `settle`.
        """
        taken, self._taken = self._taken, []
        self._unmarked.update(dict.fromkeys(waiting.message.id for waiting in taken))
        return any(waiting.message.from_parent for waiting in taken)

    def unsettled(self) -> frozenset[str]:
        """Return the ids of what was consumed and no mark names yet."""
        return frozenset((*self._unmarked, *(waiting.message.id for waiting in self._taken)))

    def has_taken_from_parent(self) -> bool:
        """Whether the present run has consumed a message of the parent's."""
        return any(waiting.message.from_parent for waiting in self._taken)

    def untake(self, messages: Sequence[Arrived]) -> None:
        """These did not reach the log after all: they are in front again."""
        ids = {message.id for message in messages}
        self._put_in_front([w for w in self._taken if w.message.id in ids])
        self._taken = [w for w in self._taken if w.message.id not in ids]

    def give_back(self) -> None:
        """The run was taken back: what it had consumed is in front again."""
        self._put_in_front(self._taken)
        self._taken = []

    def _put_in_front(self, back: Sequence[Waiting]) -> None:
        for waiting in reversed(back):
            self._waiting[waiting.message.id] = waiting
            self._waiting.move_to_end(waiting.message.id, last=False)

    def waking(self, *, since_run: int = 0) -> Trigger | None:
        """Return what would start a run.

        The newest waking message that came in `since_run` or later.
        """
        for waiting in reversed(self._waiting.values()):
            if waiting.message.wakes and waiting.in_run >= since_run:
                is_event = waiting.message.item.kind == "pod_event"
                return Trigger.POD_EVENT if is_event else Trigger.NOTIFY
        return None

    def shrink(self, ts: int) -> None:
        """Write the file anew, with what is not settled, once it has grown by `SETTLED_BYTES`.

        Raises Internal with the old file still in place and in use.
        """
        if self._size - self._compact_size <= SETTLED_BYTES or self._unmarked:
            return
        messages = [waiting.message for waiting in (*self._taken, *self._waiting.values())]
        ids = tuple(self._requests)[-KNOWN_IDS:]
        lines = map(encode_line, (Known(ts=ts, ids=ids), *messages))
        data = b"".join((*self._strange, *lines))
        try:
            fd = put_in_place(self._files, self._path, data)
        except OSError as error:
            self._compact_size = self._size  # it may grow by as much before this is tried again
            raise Internal(f"cannot write {self._path} anew: {in_words(error)}") from error
        self._files.close(self._fd)
        self._fd, self._has_torn_end = fd, False
        self._size = self._compact_size = len(data)
        self._requests = dict.fromkeys(ids)
        for message in messages:
            self._know(message.request, *message.events)
        with contextlib.suppress(OSError):  # a loss of power may bring the old file back, as true
            sync_folder(self._files, self._path.parent)

    def close(self) -> None:
        """Close the file."""
        self._files.close(self._fd)

    def _write(self, *records: Wire) -> None:
        lines = b"".join(map(encode_line, records))
        try:
            if self._has_torn_end:
                self._take_back()
            written = self._files.write(self._fd, lines)
            if written < len(lines):
                raise OSError(errno.ENOSPC, f"only {written} of {len(lines)} bytes were taken")
        except OSError as error:
            with contextlib.suppress(OSError):  # then it is tried again before the next record
                self._take_back()
            raise Internal(f"cannot write {self._path}: {in_words(error)}") from error
        self._size += len(lines)

    def _take_back(self) -> None:
        self._has_torn_end = True
        self._files.ftruncate(self._fd, self._size)
        self._has_torn_end = False
