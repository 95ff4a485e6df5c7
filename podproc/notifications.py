"""The notify buffer: what waits for the model, durable in every status.

`inbox.jsonl` holds one line per message before its method is answered, and one `delivered` line per
run that consumed some. The buffer is what the inbox has and neither the session's log nor a
`delivered` mark names; so a run that is rolled back gives its messages back by itself, and a crash
between log and mark delivers nothing twice: the next process makes up for the mark, for the log may
go on without what it has now. At most 128 wait; beyond that the oldest is dropped,
with an alert.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from protocol.base import Wire
from protocol.entries import SystemItem
from protocol.errors import Internal
from protocol.session.line import BadLine, decode_line, encode_line
from protocol.status import Trigger

CAPACITY = 128


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


@dataclass(frozen=True, slots=True)
class Waiting:
    """One message in the buffer; `in_run` counts the run it arrived during (0: none)."""

    message: Arrived
    in_run: int


class Inbox:
    """The buffer and its file. `logged` are the ids that the session's log has.

    `cut_from_parent`: a run that a crash has cut had consumed a message of the parent's.
    """

    def __init__(self, path: Path, *, logged: Collection[str]) -> None:
        self._path = path
        self._waiting: OrderedDict[str, Waiting] = OrderedDict()
        self._requests: set[str] = set()
        self._taken: list[Waiting] = []
        self._unmarked: list[str] = []
        self.cut_from_parent = False
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        known = self._load(logged)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, known)

    def _load(self, logged: Collection[str]) -> int:
        """Read the file.

        Return the length up to its last newline (the rest was never committed).
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return 0
        length = data.rfind(b"\n") + 1
        for line in data[:length].splitlines():
            try:
                self._replay(decode_line(line))
            except (BadLine, ValidationError):
                continue  # one bad line must not keep a pod from starting; the file keeps it
        cut = [self._waiting.pop(one) for one in list(self._waiting) if one in logged]
        self._unmarked = [waiting.message.id for waiting in cut]
        self.cut_from_parent = any(waiting.message.from_parent for waiting in cut)
        return length

    def _replay(self, fields: dict[str, Any]) -> None:
        match fields.get("kind"):
            case "arrived":
                message = Arrived.from_wire(fields)
                self._requests.update((message.request, *message.events))
                self._waiting[message.id] = Waiting(message, 0)
            case "delivered":
                for message_id in Delivered.from_wire(fields).ids:
                    self._waiting.pop(message_id, None)

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
        self._requests.update((message.request, *message.events))
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
        """The run has ended: mark what it consumed, and what runs before it left without a mark.

        True when a message of the parent was among what it consumed. Raises Internal when the mark
        cannot be written; the next one makes up for it.
        """
        from_parent = self.release()
        if self._unmarked:
            self._write(Delivered(ts=ts, ids=tuple(self._unmarked)))
            self._unmarked = []
        return from_parent

    def release(self) -> bool:
        """The run is over and its end is not in the log: no later run gives back what it consumed.

        Nothing is marked before the next run has ended, so a restart delivers what the log has
        lost. True as for `settle`.
        """
        taken, self._taken = self._taken, []
        self._unmarked += [waiting.message.id for waiting in taken]
        return any(waiting.message.from_parent for waiting in taken)

    def unsettled(self) -> frozenset[str]:
        """Return the ids of what this run and those before it have consumed without a mark yet."""
        return frozenset(waiting.message.id for waiting in self._taken) | {*self._unmarked}

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

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _write(self, *records: Wire) -> None:
        lines = b"".join(map(encode_line, records))
        before = os.fstat(self._fd).st_size
        try:
            written = os.write(self._fd, lines)
        except OSError as error:
            os.ftruncate(self._fd, before)
            raise Internal(f"cannot write {self._path}: {error.strerror}") from error
        if written != len(lines):
            os.ftruncate(self._fd, before)
            raise Internal(f"cannot write {self._path}: the disk is full")
