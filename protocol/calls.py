"""Bookkeeping of requests and replies: ids, deadlines, duplicates, late replies. Pure.

Time is passed in.

Three parties keep three books, so that every request gets exactly one answer and one effect:

    Asked     the asker: what it still waits for, what to send again, and which replies are late
    Relay     the supervisor, between asker and pod: who gets which reply, within limits, until when
    Answered  the target: what it answered lately; a repeated id has one effect and one reply

Ids are chosen by askers and compared per sender, so that one sender cannot claim another's answer.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from typing import Generic, TypeVar

R = TypeVar("R")

OPERATOR = "operator"
PER_TARGET = 256
PER_SENDER = 32
REMEMBERED = 1000
REMEMBERED_S = 600.0
RESEND_S = 5.0


@dataclass(slots=True)
class _Open:
    deadline: float
    resend_at: float


class Asked:
    """The requests of one asker that have no answer yet."""

    def __init__(self, resend_s: float = RESEND_S) -> None:
        self._open: dict[str, _Open] = {}
        self._resend_s = resend_s

    def ask(self, request_id: str, now: float, deadline: float) -> None:
        """Note a request sent at `now`, to be given up at `deadline` (both monotonic seconds)."""
        self._open[request_id] = _Open(deadline, now + self._resend_s)

    def answer(self, request_id: str) -> bool:
        """Take a reply; False when nobody waits for it (late, or a duplicate)."""
        return self._open.pop(request_id, None) is not None

    def expire(self, now: float) -> list[str]:
        """Give up and return the ids whose deadline has passed."""
        late = [i for i, call in self._open.items() if call.deadline <= now]
        for request_id in late:
            del self._open[request_id]
        return late

    def due(self, now: float) -> list[str]:
        """Return the ids to send again now, and wait another interval for each."""
        due = [i for i, call in self._open.items() if call.resend_at <= now]
        for request_id in due:
            self._open[request_id].resend_at = now + self._resend_s
        return due

    def next_at(self) -> float | None:
        """When `expire` or `due` has something to say next; None when nothing is open."""
        return min((min(c.deadline, c.resend_at) for c in self._open.values()), default=None)

    def __len__(self) -> int:
        return len(self._open)


@dataclass(frozen=True, slots=True)
class Pending:
    """One forwarded request: the asker's connection, and until when it is worth a reply."""

    sender: str
    request_id: str
    target: Hashable
    asker: bytes
    deadline: float

    @property
    def party(self) -> tuple[str, bytes]:
        """Whose requests are counted together: a pod's by its name, an operator's by connection.

        All operators have one name; one busy program must not keep a person from asking.
        """
        return self.sender, self.asker if self.sender == OPERATOR else b""


@dataclass(frozen=True, slots=True)
class Full:
    """Too much waits already; `what` says for whom."""

    what: str


class Relay:
    """Requests the supervisor has handed on and whose answers it owes."""

    def __init__(self, *, per_target: int = PER_TARGET, per_sender: int = PER_SENDER) -> None:
        self._pending: dict[Hashable, dict[str, Pending]] = {}
        self._lost: dict[Hashable, set[str]] = {}
        self._parties: Counter[tuple[Hashable, tuple[str, bytes]]] = Counter()
        self._deadlines: list[tuple[float, int, Pending]] = []
        self._numbered = 0
        self._per_target = per_target
        self._per_sender = per_sender

    def admit(self, call: Pending) -> bool | Full:
        """Take a request: True = hand it on, False = it is on its way already, Full = refuse it.

        A repeated request replaces the asker's connection, so that one who reconnected is answered;
        its deadline stays the first one's. A reply names the id alone: while one sender's request
        waits, another sender's with the same id is refused, so that neither gets the other's
        answer.
        """
        calls = self._pending.get(call.target, {})
        earlier = calls.get(call.request_id)
        if earlier is not None and earlier.sender != call.sender:
            return Full(f"another sender's request {call.request_id} waits for {call.target}")
        if earlier is not None:
            self._forget(earlier)
            calls = self._pending.setdefault(call.target, {})
            calls[call.request_id] = replace(call, deadline=earlier.deadline)
            self._parties[call.target, call.party] += 1
            again = self._lost.get(call.target, set())
            is_lost = call.request_id in again
            again.discard(call.request_id)
            return is_lost
        if len(calls) >= self._per_target:
            return Full(f"{len(calls)} requests wait for {call.target}")
        mine = self._parties[call.target, call.party]
        if mine >= self._per_sender:
            return Full(f"{mine} requests of {call.sender} wait for {call.target}")
        self._pending.setdefault(call.target, {})[call.request_id] = call
        self._parties[call.target, call.party] += 1
        self._numbered += 1
        heappush(self._deadlines, (call.deadline, self._numbered, call))
        return True

    def answer(self, target: Hashable, request_id: str) -> Pending | None:
        """Take a reply of `target`; None when nobody waits for it any more."""
        call = self._pending.get(target, {}).get(request_id)
        if call is not None:
            self._forget(call)
        return call

    def reconnected(self, target: Hashable) -> None:
        """The target's connection is new: what waits may be lost with the old one.

        A repeat of it is handed on once more; the target knows it by its id.
        """
        self._lost[target] = set(self._pending.get(target, ()))

    def drop(self, target: Hashable) -> list[Pending]:
        """Forget a target that is gone and return what must be answered in its stead."""
        self._lost.pop(target, None)
        gone = list(self._pending.get(target, {}).values())
        for call in gone:
            self._forget(call)
        return gone

    def expire(self, now: float) -> list[Pending]:
        """Give up and return the calls whose deadline has passed."""
        late: list[Pending] = []
        while (at := self.next_deadline()) is not None and at <= now:
            _, _, noted = heappop(self._deadlines)
            call = self._pending[noted.target][noted.request_id]
            self._forget(call)
            late.append(call)
        return late

    def waiting(self, target: Hashable) -> int:
        """How many requests wait for `target`."""
        return len(self._pending.get(target, ()))

    def next_deadline(self) -> float | None:
        """The earliest deadline of all; None when nothing is pending."""
        while self._deadlines and not self._is_pending(self._deadlines[0][2]):
            heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def _is_pending(self, noted: Pending) -> bool:
        call = self._pending.get(noted.target, {}).get(noted.request_id)
        return call is not None and call.deadline == noted.deadline

    def _forget(self, call: Pending) -> None:
        calls = self._pending[call.target]
        del calls[call.request_id]
        if not calls:
            del self._pending[call.target]
        party = (call.target, call.party)
        self._parties[party] -= 1
        if not self._parties[party]:
            del self._parties[party]


@dataclass(frozen=True, slots=True)
class InProgress:
    """The request is being worked on; its answer will come."""


class Answered(Generic[R]):
    """What a target answered lately: 10 minutes, 1000 ids.

    What it is still working on is never forgotten.
    """

    def __init__(self, *, keep: int = REMEMBERED, keep_s: float = REMEMBERED_S) -> None:
        self._begun: set[tuple[str, str]] = set()
        self._done: OrderedDict[tuple[str, str], tuple[float, R]] = OrderedDict()
        self._keep = keep
        self._keep_s = keep_s

    def begin(self, sender: str, request_id: str, now: float) -> R | InProgress | None:
        """Return the earlier answer, InProgress, or None for a new request, now begun."""
        self._forget(now)
        key = (sender, request_id)
        if key in self._begun:
            return InProgress()
        if key in self._done:
            return self._done[key][1]
        self._begun.add(key)
        return None

    def finish(self, sender: str, request_id: str, reply: R, now: float) -> None:
        """Remember the answer of a request that was begun.

        Any other is a read, and simply done again.
        """
        key = (sender, request_id)
        if key in self._begun:
            self._begun.remove(key)
            self._done[key] = (now, reply)
            self._forget(now)

    def _forget(self, now: float) -> None:
        while self._done:
            key, (at, _) = next(iter(self._done.items()))
            if len(self._done) <= self._keep and at + self._keep_s > now:
                return
            del self._done[key]
