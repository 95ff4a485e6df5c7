"""Random histories of a session on disk, what they were promised, and whether it was kept.

A `Life` does steps on a log and an inbox as a pod does, and notes each one before and after it. A
`Promised` is the fold of these notes: which contents of which file are possible now, and how much
of it was called durable. The notes of a process that is gone (a file of them) fold to the same, so
one check fits a death that is played and one by SIGKILL.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from pathlib import Path

from podproc.notifications import SETTLED_BYTES, Arrived, Inbox
from podproc.recorder import Recorder
from podproc.segments import Position, Segments
from podproc.session.continuing import Continuation, first_entries
from podproc.session.log import SegmentLog
from protocol import entries as en
from protocol.errors import Internal, PodsupError
from protocol.session.line import decode_line, encode_line
from protocol.session.problems import LogDamaged, LogProblem
from protocol.session.replay import EMPTY, Replayed, apply, fold
from protocol.session.store import SessionStore
from protocol.status import RunResult
from tests.podproc.session.disk import Killed, answered, asked, called, ended, invoked, said, told
from tests.podproc.session.fail_points import FailingFiles

SESSION = "01a00000-0000-7000-8000-000000000001"
SEGMENT = "01a00000-0000-7000-8000-000000000002"
CONFIG = {"model": "m"}
SOME_TIME = 1_790_000_000_000
BIG = 40_000
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp"
"""Where a session is played: what a disk keeps, the files say that play it; it is only slower."""

Step = tuple[str, int]
"""What is done, and a number that says how."""

STEPS = (
    *("run", "run", "say", "say", "call", "answer", "answer", "tell", "end", "big"),
    *("sync", "sync", "cut", "cut", "go_on", "reopen", "tear", "tear"),
    *("store", "store", "take", "give_back", "settle", "fill", "tear_inbox"),
)

STANDARD: tuple[Step, ...] = (
    *(("run", 1), ("call", 1), ("answer", 0), ("say", 1), ("big", 1), ("end", 0), ("sync", 0)),
    *(("run", 2), ("say", 2), ("cut", 3), ("sync", 0), ("reopen", 0), ("tear", 0), ("tear", 1)),
    *(("store", 0), ("store", 1), ("take", 0), ("settle", 0), ("store", 2), ("go_on", 0)),
    *(("run", 3), ("call", 2), ("answer", 0), ("fill", 0), ("take", 0), ("store", 3)),
    *(("settle", 0), ("cut", 2), ("end", 0), ("tear", 2), ("sync", 0), ("reopen", 0), ("say", 9)),
    *(("tear_inbox", 0), ("store", 4)),
)
"""A history that does everything once at least."""


def random_steps(dice: random.Random, count: int) -> list[Step]:
    """Return a history."""
    return [(dice.choice(STEPS), dice.randrange(1 << 16)) for _ in range(count)]


class Violation(AssertionError):
    """A promise was not kept."""


def expect(is_so: bool, what: str) -> None:
    """Raise Violation where something is not so."""
    if not is_so:
        raise Violation(what)


# -- what was promised -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Note:
    """One line of a history: an operation begins, is done, or has failed."""

    what: str
    op: str = ""
    segment: str = ""
    lines: tuple[str, ...] = ()
    size: int = 0
    is_final: bool = False

    def line(self) -> str:
        """Return it as a line of JSON."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def of_line(cls, line: str) -> Note:
        """Read a line."""
        fields = json.loads(line)
        return cls(**{**fields, "lines": tuple(fields["lines"])})


@dataclass
class Promised:
    """What may be on disk: of each segment these contents, and at least so much of it for ever.

    `newborn` is a segment that is on its way; `orphans` are those that could not be finished: each
    is whole or not there.
    """

    contents: dict[str, list[bytes | None]] = field(default_factory=dict)
    synced: Counter[str] = field(default_factory=Counter)
    active: str | None = None
    newborn: bytes | None = None
    orphans: list[bytes] = field(default_factory=list)
    inbox: list[tuple[str, ...]] = field(default_factory=lambda: [()])
    known: set[str] = field(default_factory=set)
    _flight: Note | None = None
    _before: list[bytes | None] = field(default_factory=list)
    _inbox_before: list[tuple[str, ...]] = field(default_factory=list)

    def take(self, note: Note) -> None:
        """Fold one note."""
        match note.what:
            case "done" if note.op == "found":
                self._found_again(note.segment, note.lines[0].encode())
            case "begin":
                self._flight = note
                self._before = self.contents.get(note.segment, [])
                self._inbox_before = self.inbox
                self._begin(note)
            case "done" | "failed":
                flight, self._flight = self._flight, None
                assert flight is not None
                if note.what == "done":
                    self._done(flight, note)
                else:
                    self._failed(flight, note)

    def _begin(self, note: Note) -> None:
        data = [line.encode() for line in note.lines]
        match note.op:
            case "create":
                self.active = note.segment
                self.contents[note.segment] = [None, b"".join(data)]
            case "append":
                added = list(accumulate(data, initial=b""))
                self.contents[note.segment] = [(c or b"") + a for c in self._before for a in added]
            case "cut":
                cut = [(c or b"")[: note.size] for c in self._before]
                self.contents[note.segment] = [*self._before, *cut]
            case "go_on":
                self.newborn = b"".join(data)
            case "store":
                self.inbox = [*self.inbox, *((*w, *note.lines) for w in self.inbox)]
            case "settle":
                gone = set(note.lines)
                self.inbox = [*self.inbox, *(_without(w, gone) for w in self.inbox)]

    def _done(self, flight: Note, note: Note) -> None:
        match flight.op:
            case "create" | "cut" | "append":
                self.contents[flight.segment] = self.contents[flight.segment][-1:]
                if flight.op != "append":
                    self._all_is_durable(flight.segment)
            case "sync":
                self._all_is_durable(flight.segment)
            case "go_on":
                self.contents[note.segment] = [self.newborn]
                self.active, self.newborn = note.segment, None
                self._all_is_durable(note.segment)
            case "store":
                self.inbox = self.inbox[-1:]
                self.known |= set(flight.lines)
            case "settle":
                self.inbox = self.inbox[-1:]

    def _failed(self, flight: Note, note: Note) -> None:
        match flight.op:
            case "append" | "cut" if not note.is_final:
                self.contents[flight.segment] = self._before
            case "go_on" if self.newborn is not None:
                self.orphans.append(self.newborn)
                self.newborn = None
            case "store" | "settle":
                self.inbox = self._inbox_before

    def _all_is_durable(self, segment: str) -> None:
        (content,) = self.contents[segment]
        self.synced[segment] = len(content or b"")

    def _found_again(self, segment: str, content: bytes) -> None:
        if segment in self.contents:
            expect(content in self.contents[segment], f"reopened, {segment} is {content!r}")
        self.found(segment, content)

    def found(self, segment: str, content: bytes) -> None:
        """This is what a segment was found to be: it goes on from there."""
        self.contents[segment] = [content]
        self.synced[segment] = min(self.synced[segment], len(content))
        self.active, self.newborn = segment, None


def _without(waiting: tuple[str, ...], gone: set[str]) -> tuple[str, ...]:
    return tuple(one for one in waiting if one not in gone)


# -- a history -------------------------------------------------------------------------------------


class Life:
    """Does steps as a pod does them; `note` hears of each before and after it."""

    def __init__(
        self, root: Path, files: FailingFiles, note: Callable[[Note], None], *, name: str = "a"
    ) -> None:
        self.root = root
        self.files = files
        self.failures: list[PodsupError | OSError] = []
        self.repairs = 0
        self.log: SegmentLog | None = None
        self.inbox: Inbox | None = None
        self.state: Replayed = EMPTY
        self._note = note
        self._name = name
        self._numbers = 0
        self._logs: list[SegmentLog] = []
        self._clock = SOME_TIME
        root.mkdir(parents=True, exist_ok=True)
        if not (root / "record").exists():
            self._record(SEGMENT)

    def play(self, steps: Sequence[Step]) -> bool:
        """Do one step after the other; False where the process died of one."""
        try:
            asyncio.run(self._play(steps))
        except Killed:
            return False
        finally:
            for log in self._logs:  # a process takes its threads along
                log._thread.close()
            self.files.bury()
        return True

    async def _play(self, steps: Sequence[Step]) -> None:
        await self._reopen()
        for name, number in steps:
            await self.do(name, number)
        self._close()

    async def do(self, name: str, number: int) -> None:
        """Do one step."""
        if self.log is not None and self.log.broken is not None and name != "go_on":
            await self._go_on()
        if self.log is None or self.log.broken is not None:
            await self._reopen()
        if self.inbox is None:
            self._open_inbox()
        match name:
            case "run":
                await self._append(invoked(self._next("r")), asked(f"question {number}"))
                await self._sync()
            case "say":
                await self._append(*(said(self._next("word ")) for _ in range(1 + number % 4)))
            case "big":
                await self._append(said("x" * BIG), said(self._next("small ")))
            case "call":
                await self._append(called(self._next("c")))
                await self._sync()
            case "answer" if unanswered := self.state.unanswered:
                await self._append(answered(unanswered[number % len(unanswered)].call_id))
            case "tell":
                await self._append(told("notification", "news", self._next("n")))
            case "end":
                await self._append(ended(RunResult.FINISHED))
                await self._sync()
            case "sync":
                await self._sync()
            case "cut":
                await self._cut(number)
            case "go_on":
                await self._go_on()
            case "reopen":
                self._close()
                await self._reopen()
            case "tear":
                self._tear(number)
                await self._reopen()
            case "tear_inbox":
                self._close()
                with (self.root / "pods" / "alice" / "inbox.jsonl").open("ab") as file:
                    file.write(b'{"kind":"arri')
            case "store":
                self._store(self._next("m"))
            case "fill":
                self._store(self._next("m"), "x" * SETTLED_BYTES)
            case "take" if self.inbox is not None:
                self.inbox.take()
            case "give_back" if self.inbox is not None:
                self.inbox.give_back()
            case "settle":
                self._settle()

    def _next(self, kind: str) -> str:
        self._numbers += 1
        return f"{kind}{self._name}{self._numbers}"

    def _wall_ms(self) -> int:
        return self._clock

    # -- the log

    async def _try(self, note: Note, work: Callable[[], object], recipe: str = "") -> bool:
        """Note an operation, do it, note what came of it."""
        self._note(note)
        try:
            with self.files.during(recipe or note.op):
                result = work()
                if asyncio.iscoroutine(result):
                    await result
        except PodsupError as error:
            if self.files.is_dead:
                raise Killed from None
            self.failures.append(error)
            expect(
                note.op == "go_on" or isinstance(error, LogProblem),
                f"{note.op} raised {error!r}",
            )
            is_final = self.log is not None and self.log.broken is not None
            self._note(Note("failed", is_final=is_final))
            return False
        if note.op != "go_on":
            self._note(Note("done"))
        return True

    async def _append(self, *entries: en.Entry) -> None:
        log = self._usable()
        if log is None:
            return
        lines = tuple(encode_line(one).decode() for one in entries)
        note = Note("begin", "append", log.segment_id, lines)
        if await self._try(note, lambda: log.append(*entries)):
            self.state = fold(entries, self.state)

    async def _sync(self) -> None:
        if (log := self._usable()) is not None:
            await self._try(Note("begin", "sync", log.segment_id), log.sync)

    async def _cut(self, number: int) -> None:
        if (log := self._usable()) is None:
            return
        head = 1 + number % log.head_entries
        size = log._bounds[head]
        with self.files.during("read"):
            try:
                entries = log.read(0, head)
            except OSError as error:
                self.failures.append(error)
                return
        note = Note("begin", "cut", log.segment_id, size=size)
        if await self._try(note, lambda: log.cut(head)):
            self.state = fold(entries)

    def _usable(self) -> SegmentLog | None:
        return self.log if self.log is not None and self.log.broken is None else None

    async def _go_on(self) -> None:
        assert self.log is not None
        old, self._clock = self.log, self._clock + 1
        of = Continuation(
            state=self.state,
            source=en.SegmentRef(segment_id=old.segment_id, at_turn_index=0),
            is_compacted=False,
            history=self.state.history[-3:],
            system_prompt="be good",
        )
        start, more = first_entries(of, ts=self._clock, config=CONFIG)
        lines = tuple(encode_line(one).decode() for one in (start, *more))
        segments = self._segments()

        async def go_on() -> None:
            self.log, entries = await segments.go_on(lambda: of, CONFIG, leaving=old.segment_id)
            self._logs.append(self.log)
            self.state = fold(entries)
            old.close()

        if await self._try(Note("begin", "go_on", old.segment_id, lines), go_on):
            assert self.log is not None
            self._note(Note("done", segment=self.log.segment_id))

    async def _reopen(self) -> None:
        """Open what is there, as a new process does; a first segment is made where there is none.

        An error is met by trying again.
        """
        self._close()
        for _ in range(3):
            try:
                with self.files.during("open"):
                    opened = self._segments().open()
                break
            except (LogProblem, OSError) as error:
                if self.files.is_dead:
                    raise Killed from None
                expect(not isinstance(error, LogDamaged), f"a good log is damaged: {error}")
                self.failures.append(error)
        else:
            raise Violation("it could not be opened again")
        if opened is not None:
            self.log, restored = opened
            self.repairs += len(restored.notes)
            self._logs.append(self.log)
            self.state = restored.state
            data = self.log.path.read_bytes()
            expect(len(data) == self.log.size, "its end was not repaired")
            self._note(Note("done", "found", self.log.segment_id, (data.decode(),)))
        else:
            first = en.SegmentStart(ts=1, session_id=SESSION, system_prompt="p", config=CONFIG)
            segments = self._segments()

            def create() -> None:
                self.log = segments.create(first)
                self._logs.append(self.log)
                self.state = apply(EMPTY, first)

            line = encode_line(first).decode()
            await self._try(Note("begin", "create", SEGMENT, (line,)), create)

    def _close(self) -> None:
        if self.log is not None:
            with self.files.during("close"):
                self.log.close()
            self.log = None
        if self.inbox is not None:
            with self.files.during("close"):
                self.inbox.close()
            self.inbox = None

    def _tear(self, number: int) -> None:
        """Leave at the end of the log what a death or a loss of power could have left there."""
        assert self.log is not None
        path = self.log.path
        self._close()
        line = encode_line(said("never told"))
        ends = (line[:-1], bytes(50) + b"\n" + line, line[: len(line) // 2], b"\n")
        with path.open("ab") as file:
            file.write(ends[number % len(ends)])

    def _segments(self) -> Segments:
        named = (self.root / "record").read_text()
        return Segments(
            SessionStore(self.root),
            Position(SESSION, named),
            wall_ms=self._wall_ms,
            claim=self._claim,
            files=self.files,
        )

    async def _claim(self, session_id: str, segment_id: str) -> None:
        try:
            self.files.passing("go_on.record.claim.before")
        except OSError as error:
            raise Internal("the supervisor cannot write its table") from error
        self._record(segment_id)
        self.files.passing("go_on.record.claim.after")

    def _record(self, segment_id: str) -> None:
        new = self.root / "record.new"
        new.write_text(segment_id)
        new.rename(self.root / "record")

    # -- the inbox

    def _open_inbox(self) -> None:
        try:
            with self.files.during("inbox"):
                path = self.root / "pods" / "alice" / "inbox.jsonl"
                self.inbox = Inbox(path, logged=(), files=self.files)
        except OSError as error:
            self.failures.append(error)

    def _store(self, key: str, body: str = "news") -> None:
        if (inbox := self.inbox) is None:
            return
        item = en.SystemItem(kind="notification", body=body)
        message = Arrived(ts=1, id=key, item=item, wakes=True, request=key)
        self._quick(Note("begin", "store", lines=(key,)), lambda: inbox.store(message, run=0))

    def _settle(self) -> None:
        if (inbox := self.inbox) is None:
            return
        gone = tuple(sorted(inbox.unsettled()))
        if self._quick(Note("begin", "settle", lines=gone), lambda: inbox.settle(1)):
            self._quick(Note("begin", "shrink"), lambda: inbox.shrink(1))

    def _quick(self, note: Note, work: Callable[[], object]) -> bool:
        self._note(note)
        try:
            with self.files.during(note.op):
                work()
        except PodsupError as error:
            self.failures.append(error)
            self._note(Note("failed"))
            return False
        self._note(Note("done"))
        return True


# -- whether it was kept ---------------------------------------------------------------------------


@contextlib.contextmanager
def copied(root: Path) -> Iterator[Path]:
    """Have a copy of all that is on disk."""
    with tempfile.TemporaryDirectory(prefix="ps", dir=IN_MEMORY) as folder:
        shutil.copytree(root, copy := Path(folder) / "copy")
        yield copy


def check(root: Path, promised: Promised, *, lost_power: bool = False) -> bool:
    """Open what a death has left, twice, and compare it with what was promised; raises Violation.

    False where a loss of power has left what only a person may judge: a bad region and behind it a
    record that is only written when all before it is durable (see protocol/session/reading.py).
    """
    folder = root / "sessions" / SESSION
    there = {path.stem: path.read_bytes() for path in folder.glob("*.jsonl")}
    expected = {name for name, contents in promised.contents.items() if None not in contents}
    expect(expected <= set(there), f"segments are gone: {expected - set(there)}")
    try:
        active, data = _opened(root)
    except LogDamaged as damaged:
        expect(lost_power and _may_be_taken_for_damage(promised, damaged), f"{damaged}")
        return False
    except (LogProblem, OSError) as error:
        raise Violation(f"reopening failed: {error}") from error
    if active is None:
        expect(promised.active is None or None in promised.contents[promised.active], "it is gone")
        check_inbox(root, promised, lost_power=lost_power)
        return True
    for name, content in {**there, active: data}.items():
        if name not in promised.contents:
            whole = (promised.newborn, *promised.orphans)
            expect(content in whole, f"nobody wrote segment {name}: {content!r}")
            continue
        _check_content(promised, name, content, lost_power, is_repaired=name == active)
    is_newborn = active not in promised.contents
    expect(is_newborn or active == promised.active, f"it goes on in {active}")
    before = _everything(root)
    expect(_opened(root) == (active, data), "a second opening finds something else")
    expect(_everything(root) == before, "a second opening changes something")
    _check_restart(root)
    check_inbox(root, promised, lost_power=lost_power)
    promised.found(active, data)
    return True


def _check_content(
    promised: Promised, name: str, content: bytes, lost_power: bool, *, is_repaired: bool
) -> None:
    """Compare a segment with what it may hold; one that was left is never opened nor repaired."""
    contents = [c for c in promised.contents[name] if c is not None]
    kept = promised.synced[name]
    if lost_power and not is_repaired:
        is_kept = any(content[:kept] == c[:kept] for c in contents)
    elif lost_power:
        is_kept = any(c.startswith(content) and len(content) >= min(kept, len(c)) for c in contents)
    elif is_repaired:
        is_kept = content in contents
    else:
        is_kept = any(content.startswith(c) for c in contents)
    expect(is_kept, f"of segment {name} {kept} bytes were durable, and it is {content!r}")


def _may_be_taken_for_damage(promised: Promised, damaged: LogDamaged) -> bool:
    """Whether a record that follows a durable point was still on its way behind the bad region."""
    name = damaged.file.stem
    if damaged.offset < promised.synced[name]:
        return False
    on_the_way = [(c or b"")[damaged.offset :] for c in promised.contents[name]]
    kinds = (b"invoke", b"user_input", b"run_completed", b"run_errored", b"tool_result")
    return any(b'{"kind":"%b"' % kind in part for part in on_the_way for kind in kinds)


def _opened(root: Path) -> tuple[str | None, bytes]:
    named = (root / "record").read_text()
    segments = Segments(SessionStore(root), Position(SESSION, named), wall_ms=lambda: SOME_TIME)
    if (opened := segments.open()) is None:
        return None, b""
    log, restored = opened
    try:
        data = log.path.read_bytes()
        entries = [decode_line(line) for line in data.splitlines()]
        expect(fold(entries) == restored.state, "the state is not that of the entries")
        return log.segment_id, data
    finally:
        log.close()


def _everything(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def _check_restart(root: Path) -> None:
    """Let a pod start twice from a copy: what a crash has cut is closed once, and stays closed."""
    with copied(root) as copy:
        first, second = (_restarted(copy) for _ in range(2))
        expect(first == second, "a second start is told something else")
        named = (copy / "record").read_text()
        store = SessionStore(copy)
        active = store.active(SESSION, named) or ""
        lines = store.path(SESSION, active).read_bytes().splitlines()
        results = [e["item"]["call_id"] for e in map(decode_line, lines) if _is_result(e)]
        expect(len(results) == len(set(results)), f"a call was answered twice: {results}")


def _is_result(entry: dict[str, object]) -> bool:
    return entry["kind"] == "tool_result"


def _restarted(root: Path) -> Replayed:
    async def prompt() -> str:
        return "p"

    async def main() -> Replayed:
        named = (root / "record").read_text()
        segments = Segments(SessionStore(root), Position(SESSION, named), wall_ms=lambda: 1)
        record = Recorder(segments, wall_ms=lambda: 1, system_prompt=prompt, config=CONFIG)
        try:
            record.open()
            was_open = record.state.open_run is not None
            await record.close_crash(None)
            expect(record.state.open_run is None, "a run that a crash has cut is still open")
            expect(not (was_open and record.state.unanswered), "a call of it has no result")
            return record.state
        finally:
            record.close()

    return asyncio.run(main())


def check_inbox(root: Path, promised: Promised, *, lost_power: bool = False) -> None:
    """Open a copy of the inbox: what waits in it is what was promised, and what it knows."""
    with copied(root) as copy:
        inbox = Inbox(copy / "pods" / "alice" / "inbox.jsonl", logged=())
        try:
            waiting = tuple(one.id for one in inbox.take())
            unknown = {one for one in promised.known if not inbox.knows(one)}
        finally:
            inbox.close()
    if lost_power:
        return
    allowed = {tuple(sorted(one)) for one in promised.inbox}
    expect(tuple(sorted(waiting)) in allowed, f"{waiting} wait, not one of {promised.inbox}")
    expect(not unknown, f"requests are forgotten: {unknown}")
    promised.inbox = [waiting]


def check_mirror(life: Life) -> None:
    """Compare what a living pod takes its session for with what a fresh opening finds."""
    if life.log is None or life.log.broken is not None:
        return
    with copied(life.root) as copy:
        path = copy / life.log.path.relative_to(life.root)
        log, restored = SegmentLog.open(path)
        log.close()
        expect(restored.notes == (), f"a living log is torn: {restored.notes}")
        expect(path.read_bytes() == life.log.path.read_bytes(), "its end is torn")
        expect(replace(restored.state) == life.state, "the mirror is not what the file says")
