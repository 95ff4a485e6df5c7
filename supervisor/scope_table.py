"""The scope table on disk: one file per user, shared by all supervisors, changed under one lock.

    table.json          the rows, one per line; replaced whole, never written in place
    table.json.bak      the version before
    table.json.damaged  what could not be read, if that ever happened
    table.lock          held for each change (read, decide, write); never the data file itself
    table.lock.queue/   who waits for it
    life/<pod id>.<incarnation>     the life locks

What is decided stands in `core.allocations`; here it is read, written and locked. Every method
blocks, for milliseconds and at most ten seconds: callers on an event loop use an executor. Nothing
may fork while one runs.

**When the table cannot be read** it is made again, with an alert. Each row stands once more, in the
file of its pod's life lock, written when it was granted and at each change: so the rows of all who
live are known. Of the dead, what the version before has is taken where it is in no live one's way.
A row that was granted in the very moment of a crash may be missing: its pod is not forked yet. A
lock that is held and cannot be read may be anybody's: then each change is refused, and it is named.

Rows stand on lines of their own so that a change costs the rows it touches: what a line means is
remembered, and the same bytes are not parsed again.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import orjson

from protocol.errors import Internal, PodsupError, UnsupportedVersion, WriteConflict
from protocol.scope import Scope
from supervisor import life_lock
from supervisor.core import allocations
from supervisor.core.rows import TOP_LEVEL, Adoption, Allocation, Key, Lends, Line, Table
from supervisor.durable import write_atomically
from supervisor.identity import Life, identity_of, is_same_process
from supervisor.nodes import nodes_of
from supervisor.paths import make_private_dir, pod_id
from supervisor.turns import locked_in_turn

SCHEMA = 1

Decision: TypeAlias = Callable[..., Table | PodsupError]
"""An operation of `core.allocations` with all it needs but `table` and `life`."""

Settled: TypeAlias = tuple[tuple[str, ...], dict[str, str]]
"""The pods whose rows were removed, and those whose rows were left, with why."""

Outcome: TypeAlias = Allocation | PodsupError
"""What became of one pod of many: its row, or the refusal."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a pod asks for at its start; the targets of its scope are canonical.

    `nodes` is what the targets of its write rules are (`supervisor.nodes`).
    """

    pod: str
    incarnation: int
    token: str
    scope: Scope
    session_id: str | None = None
    segment_id: str | None = None
    line: Line = TOP_LEVEL
    nodes: tuple[str, ...] = ()


class ScopeTable:
    """One supervisor's hand on the table, for the pods of one home.

    Making one makes the folders and the first table. A change comes in two forms: for one pod,
    where a refusal is raised, and for many, under one lock and in one write, where each pod has its
    own outcome and the earlier go first. Either raises errors.Timeout when the lock is not to be
    had, Internal for a folder that is not ours alone or a table that is lost, and OSError; then
    nothing was changed.
    """

    def __init__(
        self,
        scope_dir: Path,
        home: str,
        supervisor_id: str,
        *,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        look: Callable[[Scope], tuple[str, ...]] = nodes_of,
    ) -> None:
        self._home = home
        self.supervisor = supervisor_id
        self._clock = clock
        self._look = look
        self._path = scope_dir / "table.json"
        self._backup = scope_dir / "table.json.bak"
        self._life = scope_dir / "life"
        self._lock = scope_dir / "table.lock"
        self._turn = threading.Lock()  # threads of one process queue here and do not poll
        self._text = _TableText()
        self._alerts: list[str] = []
        make_private_dir(scope_dir)
        with self._locked(), suppress(Internal):  # of a lost table the first change will speak
            self._load()
        make_private_dir(self._life)

    def life_lock(self, pod: str, incarnation: int) -> Path:
        """Return the path of a life lock: to be taken before its row is reserved."""
        return self._life / f"{pod_id(self._home, pod)}.{incarnation}"

    def take_alerts(self) -> Sequence[str]:
        """Return what was wrong with the files and has been mended; each alert once."""
        alerts, self._alerts = self._alerts, []
        return alerts

    def list(self) -> tuple[Allocation, ...]:
        """Return the rows of all homes, of the dead too; raises Internal and mends nothing."""
        return tuple(self._now().rows.values())

    @contextmanager
    def frozen(self) -> Iterator[tuple[Allocation, ...]]:
        """Hold the table for the body and give its rows: nobody claims anything meanwhile."""
        with self._locked():
            yield tuple(self._load().rows.values())

    def is_live(self, pod: str) -> bool:
        """Whether a row of this home's pod has a holder that is not proven dead."""
        row = next((r for r in self.list() if r.key == self.key_of(pod)), None)
        return row is not None and self.life_of(row) != "dead"

    def register(self, claim: Claim) -> Allocation:
        """Reserve a top-level row; refused as `allocations.register` says.

        Raises ValueError when the life lock is not held: the row would be a dead one to everybody.
        """
        return _only(self.register_many([claim]))

    def register_many(self, claims: Sequence[Claim]) -> Sequence[Outcome]:
        """Reserve top-level rows, each like `register`."""
        return self._reserve(claims, allocations.register)

    def reserve(self, claim: Claim) -> Allocation:
        """Reserve the row of a child, lent by its line; refused as `allocations.reserve` says.

        Raises ValueError like `register`.
        """
        return _only(self._reserve([claim], allocations.reserve))

    def enter_many(self, claims: Sequence[Claim], *, newborn: Set[str]) -> Sequence[Outcome]:
        """Reserve the rows of pods that start, each as `allocations.enter` says, in this order.

        A `newborn` child is not started without a parent.
        """
        return self._reserve(
            claims,
            lambda table, wanted, **more: (
                allocations.reserve if wanted.pod in newborn else allocations.enter
            )(table, wanted, **more),
        )

    def renew(self, claim: Claim) -> Allocation:
        """Reserve the row of a pod's next incarnation; refused as `allocations.renew` says.

        Raises ValueError like `register`.
        """
        return _only(self._reserve([claim], allocations.renew))

    def adopt(self, hello: Adoption) -> Allocation:
        """Have a row held by the process that said hello; refused as `allocations.adopt` says."""
        return _only(self.adopt_many([hello]))

    def adopt_many(self, hellos: Sequence[Adoption]) -> Sequence[Outcome]:
        """Have rows held by the processes that said hello."""
        adopt = partial(allocations.adopt, now_ms=self._clock())
        return self._rows(
            [(h.pod, partial(adopt, key=self.key_of(h.pod), hello=h)) for h in hellos]
        )

    def claim_segment(self, pod: str, token: str, session_id: str, segment_id: str) -> Allocation:
        """Move a pod's claim to another segment; refused as `allocations.claim_segment` says."""
        claim = partial(
            allocations.claim_segment,
            key=self.key_of(pod),
            token=token,
            session_id=session_id,
            segment_id=segment_id,
            now_ms=self._clock(),
        )
        return _only(self._rows([(pod, claim)]))

    def release(self, pod: str, token: str) -> None:
        """Remove a dead pod's row and its life lock; refused as `allocations.release` says."""
        for refused in self.release_many([(pod, token)]):
            if refused is not None:
                raise refused

    def release_many(self, pods: Iterable[tuple[str, str]]) -> Sequence[PodsupError | None]:
        """Remove the rows of dead pods, given by name and token; None for each that is gone."""
        outcomes = self._change(
            [partial(allocations.release, key=self.key_of(pod), token=token) for pod, token in pods]
        )
        return [None if isinstance(outcome, Table) else outcome for outcome in outcomes]

    def reclaim(self, pods: Set[str] | None, *, busy: Set[str]) -> Settled:
        """Remove the rows of the dead, of all or of these pods of this home.

        What somebody may be about to renew is left, and said so: a `busy` pod of this home, and a
        row of another supervisor that may live. Not more than a process with its pid is asked for.
        """
        outcome: deque[Settled] = deque()
        decide = partial(self._reclaim, pods=pods, busy=busy, outcome=outcome)
        self._change([decide])
        return outcome[0]

    def _reclaim(
        self,
        table: Table,
        *,
        life: Callable[[Allocation], Life],
        pods: Set[str] | None,
        busy: Set[str],
        outcome: deque[Settled],
    ) -> Table:
        gone: deque[str] = deque()
        left: dict[str, str] = {}
        for key, row in list(table.rows.items()):
            ours = key[0] == self._home
            if pods is not None and not (ours and row.pod in pods):
                continue
            known = life(row)
            if known != "dead":
                left[row.pod] = known
            elif (ours and row.pod in busy) or not self._is_abandoned(row):
                left[row.pod] = "dead; its supervisor may start it again"
            else:
                table = table.without(table.rows[key])
                gone.append(row.pod)
        outcome.append((tuple(gone), left))
        return table

    def _is_abandoned(self, row: Allocation) -> bool:
        pid = row.supervisor.rpartition(":")[2]
        is_other = row.supervisor != self.supervisor
        return not (is_other and pid.isdigit() and identity_of(int(pid)) is not None)

    def lends(self, pods: Iterable[str]) -> dict[str, Lends]:
        """Return what each of these pods has lent at this moment; raises Internal like `list`."""
        table = self._now()
        rows = {pod: table.rows.get(self.key_of(pod)) for pod in pods}
        return {
            pod: Lends(allocations.lent_by(table, row), row.lend_number) if row else Lends()
            for pod, row in rows.items()
        }

    def lenders(self, pod: str) -> Sequence[str]:
        """Return the pods that could write in a new row's scope until now, nearest first."""
        table = self._now()
        row = table.rows.get(self.key_of(pod))
        return [] if row is None else [one.pod for one in allocations.lenders(table, row)]

    # -- one change ------------------------------------------------------------------------------

    def _reserve(self, claims: Sequence[Claim], decide: Decision) -> Sequence[Outcome]:
        now_ms = self._clock()
        changes = []
        for claim in claims:
            row = self._row(claim, now_ms)
            if life_lock.is_free(self._lock_of(row)) is not False:
                raise ValueError(f"the life lock of {row.pod!r} is not held")
            asked = partial(decide, wanted=row, line=claim.line, now_ms=now_ms)
            changes.append((row.pod, partial(self._looked_again, asked)))
        return self._rows(changes)

    def _looked_again(
        self, decide: Decision, table: Table, *, life: Callable[[Allocation], Life]
    ) -> Table | PodsupError:
        """Decide; where somebody stands in the way, look again what is at their targets.

        A folder may be gone since, and its number be another folder's: then the name alone counts.
        """
        outcome = decide(table, life=life)
        if not isinstance(outcome, WriteConflict):
            return outcome
        now = table
        for holder in outcome.details["holders"]:
            row = table.rows[holder["home"], holder["pod"]]
            nodes = self._look(Scope(allow=row.scope_allow)) if row.nodes else ()
            if nodes != row.nodes:
                now = now.with_row(row.model_copy(update={"nodes": nodes}))
        return outcome if now is table else decide(now, life=life)

    def _row(self, claim: Claim, now_ms: int) -> Allocation:
        return Allocation(
            home=self._home,
            pod=claim.pod,
            pod_id=pod_id(self._home, claim.pod),
            incarnation=claim.incarnation,
            token=claim.token,
            supervisor=self.supervisor,
            scope_allow=claim.scope.allow,
            scope_deny=claim.scope.deny,
            nodes=claim.nodes,
            session_id=claim.session_id,
            segment_id=claim.segment_id,
            since_ms=now_ms,
        )

    def _rows(self, changes: Sequence[tuple[str, Decision]]) -> Sequence[Outcome]:
        """Make changes that each leave a row, and return those rows."""
        outcomes = self._change([decide for _, decide in changes])
        return [
            outcome.rows[self.key_of(pod)] if isinstance(outcome, Table) else outcome
            for (pod, _), outcome in zip(changes, outcomes, strict=True)
        ]

    def _change(self, decisions: Sequence[Decision]) -> Sequence[Table | PodsupError]:
        """Make changes in one step: a refused one changes nothing, the rest is written together."""
        outcomes = []
        with self._locked():
            before = table = self._load()
            life = functools.cache(self.life_of)
            for decide in decisions:
                outcomes.append(outcome := decide(table, life=life))
                table = outcome if isinstance(outcome, Table) else table
            if table is not before:
                known = {id(row) for row in before.rows.values()}
                changed = [row for row in table.rows.values() if id(row) not in known]
                self._note(row for row in changed if _was_passed_on(row, before, table))
                self._store(table)
                self._note(changed)
                left = {id(row) for row in table.rows.values()}
                for row in before.rows.values():
                    if id(row) not in left and not _goes_on(row, table):
                        life_lock.remove(self._lock_of(row))
        return outcomes

    def key_of(self, pod: str) -> Key:
        """Return the key of this home's pod."""
        return self._home, pod

    def _lock_of(self, row: Allocation) -> Path:
        return self._life / f"{row.pod_id}.{row.incarnation}"

    def life_of(self, row: Allocation) -> Life:
        """Return what is known of a row's holder."""
        match life_lock.is_free(self._lock_of(row)):
            case True:
                return "dead"
            case False:
                return "alive"
            case None:
                return "dead" if row.identity is None else is_same_process(row.identity)

    # -- the files -------------------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._turn, locked_in_turn(self._lock):
            yield

    def _load(self) -> Table:
        """Return the table, made again where it is lost; raises Internal where it cannot be."""
        table, trouble = self._read(self._path)
        if table is not None:
            return table
        before, also = self._read(self._backup)
        table = self._made_again(before or Table(), trouble if before else f"{trouble}; {also}")
        if self._life.exists():  # else there never was a table
            mended = f"made again of {len(table.rows)} claims" if table.rows else "began anew"
            self._alerts.append(f"{trouble}; {mended}")
        with suppress(FileNotFoundError):
            self._path.replace(self._path.with_name("table.json.damaged"))
        self._store(table)
        self._note(table.rows.values())
        return table

    def _made_again(self, before: Table, trouble: str) -> Table:
        """Return the table that the life locks tell, and the version before of those they do not.

        A file without a text is of somebody who was never granted anything, or of whom the version
        before knows. Raises Internal where a lock is held whose row nobody knows.
        """
        live: deque[Allocation] = deque()
        others: deque[Allocation] = deque()
        untold: deque[str] = deque()
        known = {self._lock_of(row) for row in before.rows.values()}
        for path in sorted(self._life.iterdir()) if self._life.exists() else []:
            is_held = life_lock.is_free(path) is False
            try:
                if text := life_lock.noted(path):
                    (live if is_held else others).append(Allocation.model_validate_json(text))
            except FileNotFoundError:
                continue
            except ValueError:
                if is_held and path not in known:
                    untold.append(str(path))
        if untold:
            raise Internal(
                f"{trouble}; and {len(untold)} pods are alive whose claims are not known",
                next_step="end all fleets of this user with `podsup down`, and start them again",
                locks=[*untold],
            )
        return allocations.rebuilt(_oldest_first(live), before, _oldest_first(others))

    def _note(self, rows: Iterable[Allocation]) -> None:
        """Write rows into the files of their life locks, too: after they are granted, never before.

        A row that was noted and not granted would come back as one that was. Only who was passed on
        to somebody above is noted before: the one between may be gone the next moment.
        """
        for row in rows:
            try:
                life_lock.note(self._lock_of(row), _line_of(row))
            except OSError as error:
                self._alerts.append(f"the claim of {row.pod!r} stands in the table alone: {error}")

    def _now(self) -> Table:
        """Return the table as it is; raises Internal and mends nothing."""
        with self._turn:
            table, trouble = self._read(self._path)
        if table is None:
            raise Internal(
                trouble,
                next_step="start or stop any pod: the first change makes it again",
            )
        return table

    def _read(self, path: Path) -> tuple[Table | None, str]:
        """Return what the file says, or why it says nothing; raises UnsupportedVersion."""
        try:
            return self._text.decode(path.read_bytes()), ""
        except FileNotFoundError:
            return None, f"there is no {path}"
        except ValueError as error:
            return None, f"{path} cannot be read ({error})"

    def _store(self, table: Table) -> None:
        write_atomically(self._path, self._text.encode(table), keep=self._backup)


class _TableText:
    """A table as text, and back; what was read or written last is known and not parsed again."""

    HEAD, BETWEEN, TAIL = b'{"schema":1,"allocations":[\n', b",\n", b"\n]}\n"

    def __init__(self) -> None:
        self._text: bytes | None = None
        self._table = Table()
        self._rows: dict[bytes, Allocation] = {}

    def encode(self, table: Table) -> bytes:
        """Return the text of a table."""
        known = {id(row): line for line, row in self._rows.items()}
        rows = {known.get(id(row)) or _line_of(row): row for row in table.rows.values()}
        text = self.HEAD + self.BETWEEN.join(rows) + self.TAIL
        self._text, self._table, self._rows = text, table, rows
        return text

    def decode(self, text: bytes) -> Table:
        """Return the table of a text; raises ValueError, and UnsupportedVersion for a newer one."""
        if text == self._text:
            return self._table
        if not (text.startswith(self.HEAD) and text.endswith(self.TAIL)):
            raise _not_a_table(text)
        lines = text[len(self.HEAD) : -len(self.TAIL)].split(self.BETWEEN)
        rows = {
            line: self._rows.get(line) or Allocation.model_validate_json(line)
            for line in lines
            if line
        }
        table = Table.of(rows.values())
        self._text, self._table, self._rows = text, table, rows
        return table


def _goes_on(row: Allocation, table: Table) -> bool:
    now = table.rows.get(row.key)
    return now is not None and now.incarnation == row.incarnation


def _was_passed_on(row: Allocation, before: Table, after: Table) -> bool:
    """Say whether a row has another parent because the one it had is gone."""
    known = before.rows.get(row.key)
    if known is None or known.delegated_from in (None, row.delegated_from):
        return False
    return (row.home, known.delegated_from) not in after.rows


def _oldest_first(rows: Iterable[Allocation]) -> Sequence[Allocation]:
    """Return rows in the order they came: of two incarnations of a pod the later one counts."""
    return sorted(rows, key=lambda row: (row.since_ms, row.incarnation))


def _line_of(row: Allocation) -> bytes:
    return row.model_dump_json(exclude_none=True).encode()


def _not_a_table(text: bytes) -> Exception:
    try:
        schema = orjson.loads(text)["schema"]
    except (ValueError, KeyError, TypeError):
        return ValueError("damaged")
    if schema == SCHEMA:
        return ValueError("not as it was written")
    return UnsupportedVersion(
        f"the scope table was written by another version of podsup (schema {schema})",
        next_step="use that version for all fleets of this user, or end them all first",
        theirs=schema,
        ours=SCHEMA,
    )


def _only(outcomes: Sequence[Outcome]) -> Allocation:
    (outcome,) = outcomes
    if isinstance(outcome, PodsupError):
        raise outcome
    return outcome
