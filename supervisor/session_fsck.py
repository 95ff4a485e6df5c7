"""What is wrong with the log of a session, and how it becomes one that a pod can open again.

    ok            every terminated line is a record, and nothing follows the last
    unterminated  behind the last newline stands a record that was never committed
    torn          what a loss of power leaves: the pod moves it aside itself when it starts
    damaged       a line that was safely there is not what was written: no pod starts from this
    newer         written by a newer version of podsup: left alone

**A repair deletes nothing and invents no history.** What is bad goes, byte for byte and in order,
to `<segment>.torn-<n>`. What stays is as much as a pod can go on from:

- An unterminated or torn end goes as a whole, from its first bad line on.
- Of a damaged segment only the bad lines go. In the place of each stands a mark (`extension` of the
  domain `fsck`, which says where the line is now), so that the entries behind it keep their
  numbers: other segments, and what was told of this one, refer to them.
- Calls stay paired with their results. A result whose call was damaged goes, too. A call whose
  result was damaged gets one that says so, in the place of the damaged line: nobody knows what the
  tool did, and it is not run again.
- Without its first record nothing of a segment can be read. A new one takes its place, with the
  session's id and nothing else: the system prompt, the history it began with and what it continued
  are lost, the configuration is logged anew when the pod starts.

The examination and the plan are pure and take their time. `carry_out` only writes, and is for one
who holds the scope table, so that no pod can begin to write meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from protocol.entries import (
    AssistantItem,
    Entry,
    Extension,
    Item,
    LlmUsage,
    SegmentStart,
    SystemItemEntry,
    ToolCall,
    ToolResult,
    ToolResultEntry,
    TurnEnd,
    UserInput,
)
from protocol.errors import Conflict, Internal
from protocol.session.line import BadLine, decode_line, encode_line
from protocol.session.problems import LogDamaged, in_words
from protocol.session.reading import BadRecord, decode_record, scan
from protocol.session.replay import SCHEMA
from supervisor.durable import write_atomically
from supervisor.session_view import REPAIRED

RESULT_LOST = (
    "the result was damaged in the log, outcome unknown: it may have had effects; "
    "check before you repeat it"
)
"""What a call is answered with whose result was damaged."""


class Condition(StrEnum):
    """How a segment is; the head of this module says what each means."""

    OK = "ok"
    UNTERMINATED = "unterminated"
    TORN = "torn"
    DAMAGED = "damaged"
    NEWER = "newer"


@dataclass(frozen=True, slots=True)
class Examined:
    """One segment looked at; `problem` is the first bad line, `tail` an end without newline.

    `entries` counts the good lines, `bad` the others.
    """

    condition: Condition
    entries: int
    size: int
    bad: int = 0
    tail: int = 0
    problem: BadRecord | None = None

    @property
    def is_clean(self) -> bool:
        """Whether there is nothing to repair and nothing that cannot be read."""
        return self.condition is Condition.OK


def examine(path: Path, data: bytes) -> Examined:
    """Look at the bytes of a segment; `path` is for words only."""
    tail = len(data) - (data.rfind(b"\n") + 1)
    bad = [line.bad for line in _lines_of(data) if line.bad is not None]
    problem: BadRecord | None = bad[0] if bad else None
    condition = Condition.UNTERMINATED if tail else Condition.OK
    try:
        torn = scan(path, data).torn
        if torn is not None:
            condition, problem = Condition.TORN, torn
        if any(one.offset < (torn.offset if torn else len(data)) for one in bad):
            condition, problem = Condition.DAMAGED, bad[0]
    except LogDamaged as damaged:
        condition = Condition.NEWER if _is_newer(data) else Condition.DAMAGED
        if problem is None or problem.offset > damaged.offset:
            problem = BadRecord(damaged.line, damaged.offset, damaged.cause)
    entries = data.count(b"\n") - len(bad)
    return Examined(condition, entries, len(data), len(bad), tail, problem)


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of a segment: the bytes that stay and those that go.

    `closed` calls get a result that says it is lost.
    """

    kept: bytes
    moved: bytes
    lines: int
    closed: int = 0
    has_new_start: bool = False


def plan(path: Path, data: bytes, *, session_id: str, aside: str) -> Plan | None:
    """Return how the segment is repaired, None where nothing is to be done or may be.

    `aside` names the file that takes what is bad. What stays can be opened by a pod: that is
    proven here. Raises Internal where it cannot be had.
    """
    examined = examine(path, data)
    match examined.condition:
        case Condition.OK | Condition.NEWER:
            return None
        case Condition.UNTERMINATED | Condition.TORN:
            torn = examined.problem
            end = torn.offset if torn else len(data) - examined.tail
            return Plan(data[:end], data[end:], lines=data.count(b"\n", end))
        case Condition.DAMAGED:
            return _mend(path, data, session_id, aside)


def _mend(path: Path, data: bytes, session_id: str, aside: str) -> Plan:
    also_bad: dict[int, str] = {}
    while True:
        mending = _Mending(session_id, aside)
        mending.take(list(_lines_of(data, also_bad)))
        tail = data[data.rfind(b"\n") + 1 :]
        kept, moved = b"".join(mending.kept), b"".join(mending.moved) + tail
        try:
            found = scan(path, kept)
            if found.torn is None:
                return Plan(kept, moved, mending.lines, mending.closed, mending.has_new_start)
            line, cause = found.torn.line, found.torn.cause
        except LogDamaged as damaged:
            line, cause = damaged.line, damaged.cause
        number = mending.sources[line - 1]
        if number is None or number in also_bad:
            raise Internal(
                f"{path} cannot be repaired: line {line} would still be bad ({cause})",
                next_step="podsup start --fresh files the session away and begins anew",
                path=str(path),
            )
        also_bad[number] = cause


@dataclass(frozen=True, slots=True)
class _Line:
    """A terminated line: its number from 1, its bytes, and what it is."""

    number: int
    offset: int
    data: bytes
    entry: Entry | None
    bad: BadRecord | None


def _lines_of(data: bytes, also_bad: dict[int, str] | None = None) -> Iterator[_Line]:
    start, number = 0, 0
    while end := data.find(b"\n", start) + 1:
        line, number = data[start:end], number + 1
        entry: Entry | None = None
        bad: BadRecord | None = None
        try:
            if also_bad and number in also_bad:
                raise BadLine(also_bad[number])
            entry = decode_record(line)
        except BadLine as error:
            bad = BadRecord(number, start, error.cause)
        yield _Line(number, start, line, entry, bad)
        start = end


@dataclass(slots=True)
class _Mending:
    """A damaged segment being written anew, line by line.

    `waiting` are calls, not answered so far, whose result stands nowhere: it was in a bad line,
    unless the run ended without it. `is_over` once the answer that made them is complete.
    """

    session_id: str
    aside: str
    kept: list[bytes] = field(default_factory=list)
    moved: list[bytes] = field(default_factory=list)
    sources: list[int | None] = field(default_factory=list)
    lines: int = 0
    closed: int = 0
    has_new_start: bool = False
    ts: int = 0
    open: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    is_over: bool = False

    def take(self, lines: list[_Line]) -> None:
        good = [line.entry for line in lines if line.entry is not None]
        self.ts = good[0].ts if good else 0
        answered = _answered(good)
        first = lines[0] if lines else None
        if first is None or not isinstance(first.entry, SegmentStart):
            self.has_new_start = True
            self._write(SegmentStart(ts=self.ts, session_id=self.session_id))
            if first is not None and first.bad is not None:
                self._move(first)
                lines = lines[1:]
        for line in lines:
            if line.bad is not None or line.entry is None:
                self._replace(line, line.bad.cause if line.bad else "")
            else:
                self._keep(line, line.entry, answered)

    def _keep(self, line: _Line, entry: Entry, answered: set[tuple[int, str]]) -> None:
        self.ts = entry.ts
        match entry:
            case ToolResultEntry(item=ToolResult(call_id=call_id)):
                self.is_over = True
                if call_id not in self.open:
                    self._replace(line, "the result of a call that is damaged")
                    return
                self.open.remove(call_id)
            case AssistantItem() | UserInput() | SystemItemEntry():
                if self.is_over or not isinstance(entry, AssistantItem):
                    self._close_waiting()
                if isinstance(entry, AssistantItem) and isinstance(entry.item, ToolCall):
                    call_id = entry.item.call_id
                    self._call(call_id, has_result=(id(entry), call_id) in answered)
            case SegmentStart(history=history):
                for call_id in _unanswered(history):
                    self._call(call_id, has_result=(id(entry), call_id) in answered)
            case LlmUsage(purpose=None) | TurnEnd():
                self.is_over = True
        self._put(line.data, line.number)

    def _call(self, call_id: str, *, has_result: bool) -> None:
        self.is_over = False
        self.open.append(call_id)
        if not has_result:
            self.waiting.append(call_id)

    def _replace(self, line: _Line, cause: str) -> None:
        """Put a mark in the place of a line, or the result that was most likely in it."""
        self._move(line)
        if self.waiting and line.bad is not None:
            self.is_over = True
            self._answer(self.waiting.pop(0), line.number)
            return
        payload: dict[str, Any] = {
            "line": line.number,
            "offset": line.offset,
            "cause": cause,
            "moved_to": self.aside,
        }
        self._write(Extension(ts=self.ts, domain=REPAIRED, payload=payload), line.number)

    def _close_waiting(self) -> None:
        """Answer what is open before the conversation goes on: its bad lines were fewer."""
        while self.waiting:
            self._answer(self.waiting.pop(0), None)

    def _answer(self, call_id: str, number: int | None) -> None:
        self.open.remove(call_id)
        self.closed += 1
        lost = ToolResult(call_id=call_id, summary=RESULT_LOST, is_error=True)
        self._write(ToolResultEntry(ts=self.ts, item=lost), number)

    def _move(self, line: _Line) -> None:
        self.moved.append(line.data)
        self.lines += 1

    def _write(self, entry: Entry, number: int | None = None) -> None:
        self._put(encode_line(entry), number)

    def _put(self, data: bytes, number: int | None) -> None:
        self.kept.append(data)
        self.sources.append(number)


def _answered(good: Iterable[Entry]) -> set[tuple[int, str]]:
    """Return the calls that have their results, each by the `id` of its entry and its own.

    What a person or the system says ends the wait: a call is closed before either.
    """
    found: set[tuple[int, str]] = set()
    waiting: list[tuple[int, str]] = []
    for entry in good:
        match entry:
            case AssistantItem(item=ToolCall(call_id=call_id)):
                waiting.append((id(entry), call_id))
            case SegmentStart(history=history):
                waiting += [(id(entry), call_id) for call_id in _unanswered(history)]
            case ToolResultEntry(item=ToolResult(call_id=call_id)):
                place = next((p for p, (_, waits) in enumerate(waiting) if waits == call_id), None)
                if place is not None:
                    found.add(waiting.pop(place))
            case UserInput() | SystemItemEntry():
                waiting.clear()
    return found


def _unanswered(history: Iterable[Item]) -> list[str]:
    calls: list[str] = []
    for item in history:
        if isinstance(item, ToolCall):
            calls.append(item.call_id)
        elif isinstance(item, ToolResult) and item.call_id in calls:
            calls.remove(item.call_id)
    return calls


def _is_newer(data: bytes) -> bool:
    try:
        first = decode_line(data.partition(b"\n")[0])
    except BadLine:
        return False
    schema = first.get("schema")
    return first.get("kind") == "segment_start" and isinstance(schema, int) and schema > SCHEMA


# -- carrying it out


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was done to a segment; `moved_to` is None where there was nothing to move."""

    segment_id: str
    moved_to: str | None
    moved: int
    lines: int
    closed: int
    has_new_start: bool


def aside_files(path: Path) -> list[Path]:
    """Return the files that hold what was moved out of a segment, in the order of their numbers."""
    found = (one for one in path.parent.glob(f"{path.stem}.torn-*") if _number(one) is not None)
    return sorted(found, key=lambda one: _number(one) or 0)


def _number(path: Path) -> int | None:
    digits = path.suffix.removeprefix(".torn-")
    return int(digits) if digits.isascii() and digits.isdigit() else None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A repair that is ready to be made, and which version of the file it is for."""

    path: Path
    aside: Path
    plan: Plan
    version: tuple[int, int, int]


def prepare(path: Path, *, session_id: str) -> Prepared | None:
    """Plan the repair of a segment, None where nothing is to do; takes seconds for a large one.

    Raises Internal where it cannot be repaired, and OSError where it cannot be read.
    """
    version = _version(path)
    aside = path.with_name(f"{path.stem}.torn-{_next_number(path)}")
    planned = plan(path, path.read_bytes(), session_id=session_id, aside=aside.name)
    return None if planned is None else Prepared(path, aside, planned, version)


def carry_out(prepared: Prepared) -> Repaired:
    """Make a repair, while nobody can write the segment; what goes is durable before it goes.

    Raises Conflict where the file is not as it was, and Internal where the disk refuses; the log is
    as it was then.
    """
    path, aside, planned = prepared.path, prepared.aside, prepared.plan
    if _version(path) != prepared.version or aside.exists():
        raise Conflict(
            f"session log {path} has changed meanwhile", next_step="try again", path=str(path)
        )
    try:
        if planned.moved:
            write_atomically(aside, planned.moved)
        write_atomically(path, planned.kept)
    except OSError as error:
        if _version(path) == prepared.version:
            aside.unlink(missing_ok=True)
        raise Internal(
            f"session log {path} was not repaired: {in_words(error)}",
            next_step=f"look at the file system of {path.parent}, then try again",
            path=str(path),
        ) from error
    return Repaired(
        segment_id=path.stem,
        moved_to=aside.name if planned.moved else None,
        moved=len(planned.moved),
        lines=planned.lines,
        closed=planned.closed,
        has_new_start=planned.has_new_start,
    )


def _version(path: Path) -> tuple[int, int, int]:
    now = path.stat()
    return now.st_ino, now.st_size, now.st_mtime_ns


def _next_number(path: Path) -> int:
    return max((_number(one) or 0 for one in aside_files(path)), default=0) + 1
