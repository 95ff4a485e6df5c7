"""Break podsup on purpose: scripts/chaos table [--seed N] [--for S] [--damage] …
                            scripts/chaos session [--seed N] [--for S]

`session`: a session's log and inbox, and what is left of them after each of many deaths (see the
head of scripts/chaos_session.py).

`table`: the scope table on disk, under as many supervisors as there are processes. Each has a home
and holds the life locks of its pods, as the pods would; it does one operation after another, and is
killed at random, often while it holds the table's lock. Another takes its place and finds its rows.
With `--damage` the file is cut, deleted or overwritten, too, between two changes. Each choice
follows from the seed; when it comes about does not.

Watched from outside, all the time and at the end:

* **No two write.** Of the table's live rows no two that are not in one line may write one path;
  nor, whatever the table says, two pods that were told so (their supervisor notes each adoption
  when it has succeeded, and each end before it). No pod that was told so is without its row.
* **No wedge.** An operation takes `--within` seconds at most, by default one. A process beside them
  does the same to a file of its own, without any lock; what it was kept waiting meanwhile is the
  machine's, and excused.
* **Never an unreadable table**, for who reads it without the lock; with `--damage` it is mended by
  the next change, and nobody who lives is forgotten.
* **Nothing is left over.** In the end all are dead, and one claim to everything is granted.

One line at the end says what was done and how long it took; the exit code is 1 if anything was not
as it should be. Nothing is left in /tmp, and no process.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import mmap
import os
import random
import selectors
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from chaos_session import session

from protocol.errors import ErrorCode, PodsupError
from protocol.scope import Permission, Scope, ScopeRule, clashes, effective_permission
from supervisor import life_lock
from supervisor.core import allocations
from supervisor.core.rows import Adoption, Allocation, Key, Lender, Line, Table
from supervisor.durable import write_atomically
from supervisor.identity import Identity, identity_of
from supervisor.scope_table import Claim, ScopeTable
from supervisor.turns import locked_in_turn

T = TypeVar("T")

WITHIN_S = 1.0
"""Longest that an operation may take by default, the machine's own stalls aside."""

STALL_S = 0.1
CHECK_EVERY_S = 0.1
READ_EVERY_S = 0.01
KILL_EVERY_S = 0.1
PATIENCE_S = 15.0

TO_END = {signal.SIGTERM, signal.SIGINT}

NAMES = [f"p{i}" for i in range(10)]
DEEPEST = 6
TARGETS = [
    *(f"/w/{i}" for i in range(6)),
    *(f"/w/{i}/{a}" for i in range(6) for a in "ab"),
    *(f"/w/{i}/{a}/{x}" for i in range(6) for a in "ab" for x in "xy"),
]
PATHS = [f"{target}{below}" for target in TARGETS for below in ("", "/f", "/f/f")]
"""In whatever is left of a region over these targets without others, one of these paths lies."""

WEIGHTS = {
    "register": 8,
    "reserve": 22,
    "adopt": 24,
    "segment": 3,
    "kill": 12,
    "renew": 9,
    "enter": 9,
    "release": 9,
    "release_live": 3,
    "late": 4,
    "list": 6,
    "lends": 4,
}

REFUSED = {
    "register": {ErrorCode.WRITE_CONFLICT},
    "reserve": {ErrorCode.WRITE_CONFLICT, ErrorCode.NOT_SUBSET},
    "renew": {ErrorCode.WRITE_CONFLICT, ErrorCode.NOT_SUBSET},
    "enter": {ErrorCode.WRITE_CONFLICT, ErrorCode.NOT_SUBSET},
    "restore": {ErrorCode.WRITE_CONFLICT, ErrorCode.NOT_SUBSET},
    "release_live": {ErrorCode.CONFLICT},
    "late": {ErrorCode.WRONG_TOKEN, ErrorCode.UNKNOWN_POD},
}
"""What an operation may be refused with; anything else is a defect."""

AFTER_DAMAGE = {ErrorCode.UNKNOWN_POD, ErrorCode.WRONG_TOKEN}
"""A registration may be lost with the last version; then its pod is not adopted."""

READS = {"list", "lends"}
"""They take no lock, and mend nothing: `internal` until the next change does."""


def write(target: str, *, recursive: bool = True) -> ScopeRule:
    """Return a write rule."""
    return ScopeRule(target=target, permission=Permission.WRITE, recursive=recursive)


def pick(among: Sequence[T], draw: float) -> T:
    """Return the one that a draw from [0, 1) points at."""
    return among[int(draw * len(among))]


# -- one supervisor ------------------------------------------------------------------------------


@dataclass(slots=True)
class Pod:
    """What a supervisor has recorded of a pod; `fd` is its life lock while it lives."""

    name: str
    parent: str | None
    scope: Scope
    delegation: Scope
    incarnation: int = 0
    token: str = ""
    fd: int = -1
    is_adopted: bool = False
    is_resting: bool = False

    @property
    def is_live(self) -> bool:
        """Whether its life lock is held."""
        return self.fd >= 0


class Worker:
    """One supervisor: works until it is told to end, and reports each operation."""

    def __init__(
        self, folder: Path, seed: int, number: int, generation: int, *, report: int, board: Board
    ) -> None:
        self._folder = folder
        self._home = f"/h{number}"
        self._number = number
        self._report = report
        self._board = board
        self._draw = random.Random(f"{seed}/{number}/{generation}").random
        self._incarnations = itertools.count(generation * 1_000_000 + 1)
        self._generation = generation
        self._pods: dict[str, Pod] = {}
        self._told: dict[str, int] = {}
        self._is_over = False
        path = folder.parent / f"witness.{number}.{generation}"
        self._witness = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        me = identity_of(os.getpid())
        assert me is not None
        # Whoever asks for the process of a pod, its life lock being gone, finds a stranger: dead.
        self._nobody: Identity = me.model_copy(update={"start_ticks": 1})
        self._is_damaging = board.damage is not Damage.NONE

    def end(self, *_: object) -> None:
        """Stop after the operation that is under way."""
        self._is_over = True

    def run(self) -> None:
        """Do one thing after another."""
        self._table = ScopeTable(self._folder, self._home, f"s{self._number}")
        parent = os.getppid()
        if self._generation:
            self._restore()
        weights = WEIGHTS | ({"damage": 2} if self._is_damaging else {})
        names, total = list(weights), sum(weights.values())
        cumulative = [edge / total for edge in itertools.accumulate(weights.values())]
        while not self._is_over and os.getppid() == parent:
            draws = [self._draw() for _ in range(6)]  # as many whatever comes of them
            at = next(i for i, edge in enumerate(cumulative) if draws[0] < edge)
            getattr(self, f"_{names[at]}")(*draws[1:])

    # -- what it does ----------------------------------------------------------------------------

    def _register(self, a: float, b: float, c: float, d: float, e: float) -> None:
        if (name := self._free_name(a)) is None:
            return self._kill(a, b, c, d, e)
        depth = 2 if b < 0.15 else 3 if b < 0.6 else 4
        among = [target for target in TARGETS if target.count("/") == depth]
        rule = write(pick(among, c), recursive=d < 0.9)
        if e < 0.25:  # it only reads, and lends
            top = write("/".join(rule.target.split("/")[:3]))
            allow = (ScopeRule(target=top.target, permission=Permission.READ),)
            pod = Pod(name, None, Scope(allow=allow), Scope(allow=(top,)))
        else:
            pod = Pod(name, None, Scope(allow=(rule,)), Scope(allow=(rule,)))
        if self._start("register", pod, self._table.register):
            self._pods[name] = pod

    def _reserve(self, a: float, b: float, c: float, d: float, e: float) -> None:
        lenders = [pod for pod in self._live() if len(self._above(pod.name)) + 1 < DEEPEST]
        name = self._free_name(a)
        if name is None or not lenders:
            return self._register(a, b, c, d, e)
        parent = pick(lenders, b)
        rule = self._part_of(parent.delegation, c, d)
        own = Scope(allow=(rule,))
        delegation = own if e < 0.7 else parent.delegation if e < 0.9 else Scope()
        pod = Pod(name, parent.name, own, delegation)
        if self._start("reserve", pod, self._table.reserve):
            self._pods[name] = pod

    def _part_of(self, delegation: Scope, c: float, d: float) -> ScopeRule:
        """Return a rule that may be lent, or now and then one that may not."""
        if d < 0.08 or not delegation.allow:
            return write(pick(TARGETS, c))
        held = pick(delegation.allow, c)
        names = {2: "ab", 3: "xy"}.get(held.target.count("/"), "")
        if d < 0.4 or not names or not held.recursive:
            return held
        return write(f"{held.target}/{pick(names, d * 997 % 1)}", recursive=d < 0.9)

    def _adopt(self, a: float, *_: float) -> None:
        waiting = [pod for pod in self._live() if not pod.is_adopted]
        if not waiting:
            return
        pod = pick(waiting, a)
        hello = Adoption(pod.name, pod.token, self._nobody)
        if isinstance(self._do("adopt", lambda: self._table.adopt(hello)), PodsupError):
            self._close(pod)  # it is refused before it has done anything
        else:
            pod.is_adopted = True
            writes = [rule.to_wire() for rule in pod.scope.allow]
            self._note("+", pod, writes=writes, above=self._above(pod.name))

    def _segment(self, a: float, b: float, *_: float) -> None:
        adopted = [pod for pod in self._live() if pod.is_adopted]
        if adopted:
            pod = pick(adopted, a)
            segment = f"{self._home} {pod.name} {next(self._incarnations)}"
            self._do(
                "segment", lambda: self._table.claim_segment(pod.name, pod.token, "s", segment)
            )

    def _kill(self, a: float, *_: float) -> None:
        if live := self._live():
            self._close(pick(live, a))

    def _renew(self, a: float, b: float, c: float, *_: float) -> None:
        if not (dead := self._dead()):
            return
        pod = pick(dead, a)
        more = Scope(allow=(*pod.scope.allow, write(pick(TARGETS, c))))
        before = pod.scope
        if b < 0.15:
            pod.scope = more
        if not self._start("renew", pod, self._table.renew):
            pod.scope = before

    def _enter(self, a: float, *_: float) -> None:
        if dead := self._dead():
            self._start("enter", pick(dead, a), self._enter_one)

    def _enter_one(self, claim: Claim) -> Allocation:
        (outcome,) = self._table.enter_many([claim], newborn=frozenset())
        if isinstance(outcome, PodsupError):
            raise outcome
        return outcome

    def _release(self, a: float, b: float, *_: float) -> None:
        if not (dead := self._dead()):
            return
        pod = pick(dead, a)
        refused = self._do("release", lambda: self._table.release(pod.name, pod.token))
        if isinstance(refused, PodsupError):
            return
        pod.is_resting = True
        if b < 0.5 and not any(other.parent == pod.name for other in self._pods.values()):
            del self._pods[pod.name]

    def _release_live(self, a: float, *_: float) -> None:
        if live := [pod for pod in self._live() if pod.is_adopted]:
            pod = pick(live, a)
            done = self._do("release_live", lambda: self._table.release(pod.name, pod.token))
            if not isinstance(done, PodsupError):
                self._defect(f"{pod.name} of {self._home} was released, alive")

    def _late(self, a: float, b: float, *_: float) -> None:
        """Say hello, or give up the row, as an incarnation that is long gone."""
        if not (live := [pod for pod in self._live() if pod.is_adopted]):
            return
        pod = pick(live, a)
        hello = Adoption(pod.name, "late", self._nobody)
        done = self._do(
            "late",
            lambda: self._table.adopt(hello) if b < 0.5 else self._table.release(pod.name, "late"),
        )
        if not isinstance(done, PodsupError):
            self._defect(f"an old token changed the row of {pod.name} of {self._home}")

    def _list(self, *_: float) -> None:
        self._do("list", self._table.list)

    def _lends(self, *_: float) -> None:
        live = [pod for pod in self._live() if pod.is_adopted]
        lends = self._do("lends", lambda: self._table.lends(pod.name for pod in live))
        if isinstance(lends, PodsupError) or self._is_damaging:
            return
        for pod in live:
            if (number := lends[pod.name].number) < self._told.get(pod.name, 0):
                self._defect(f"the lends of {pod.name} went back to number {number}")
            self._told[pod.name] = number

    def _damage(self, a: float, b: float, *_: float) -> None:
        """Spoil the table, as somebody could between two changes, and with it its backup if asked.

        Otherwise not while there is no backup of its own: a writer that is killed at its last step
        leaves none, or a second name of the table.
        """
        path, backup = (self._folder / name for name in ("table.json", "table.json.bak"))
        with locked_in_turn(self._folder / "table.lock"):
            if self._board.damage is Damage.BOTH and b < 0.5:
                _spoil(backup, a)
            elif not _is_readable(backup) or (path.exists() and path.samefile(backup)):
                return
            _spoil(path, a)
        self._send("damage", "", time.monotonic(), 0.0)

    def _restore(self) -> None:
        """Know the pods of the supervisor before, all dead; have some of them run again."""
        runs_again = {name: self._draw() < 0.5 for name in NAMES}
        rows = self._do("list", self._table.list)
        if isinstance(rows, PodsupError):
            return
        for row in rows:
            if row.home == self._home:
                may_lend = Scope(allow=row.writes)
                scope = Scope(allow=row.scope_allow)
                self._pods[row.pod] = Pod(
                    row.pod, row.delegated_from, scope, may_lend, row.incarnation, row.token
                )
        pods = sorted(self._pods.values(), key=lambda pod: len(self._above(pod.name)))
        again = [pod for pod in pods if runs_again[pod.name]]
        before = [(pod.incarnation, pod.token) for pod in again]
        claims = [self._claim(pod) for pod in again]
        outcomes = self._do(
            "restore", lambda: self._table.enter_many(claims, newborn=frozenset()), of=again
        )
        if isinstance(outcomes, PodsupError):
            outcomes = [outcomes] * len(again)
        for pod, outcome, known in zip(again, outcomes, before, strict=True):
            if isinstance(outcome, PodsupError):
                self._give_up(pod, *known)

    # -- how it does it --------------------------------------------------------------------------

    def _live(self) -> list[Pod]:
        return [pod for pod in self._pods.values() if pod.is_live]

    def _dead(self) -> list[Pod]:
        return [pod for pod in self._pods.values() if not pod.is_live]

    def _free_name(self, draw: float) -> str | None:
        free = [name for name in NAMES if name not in self._pods]
        return pick(free, draw) if free else None

    def _above(self, name: str) -> list[str]:
        """Return the recorded line of a pod, as far as there are records."""
        found: list[str] = []
        pod = self._pods.get(name)
        while pod is not None and pod.parent is not None and pod.parent not in found:
            found.append(pod.parent)
            pod = self._pods.get(pod.parent)
        return found

    def _next_above(self, name: str, pod: str) -> str | None:
        """Return the nearest above that is not at rest, once the pod is there."""
        above = (self._pods[one] for one in self._above(name) if one in self._pods)
        return next((one.name for one in above if one.name == pod or not one.is_resting), None)

    def _claim(self, pod: Pod) -> Claim:
        """Begin the next incarnation: its life lock is held before anything is asked."""
        pod.incarnation = next(self._incarnations)
        pod.token = f"{pod.name}-{pod.incarnation}"
        pod.fd = life_lock.take(self._table.life_lock(pod.name, pod.incarnation))
        first = [] if pod.parent is None else [pod.parent, *self._above(pod.parent)]
        above = [Lender(name, self._pods[name].delegation) for name in first if name in self._pods]
        below = [name for name in self._pods if self._next_above(name, pod.name) == pod.name]
        return Claim(
            pod.name,
            pod.incarnation,
            pod.token,
            pod.scope,
            "s",
            f"{self._home} {pod.name}",
            Line(tuple(above), frozenset(below)),
        )

    def _start(self, op: str, pod: Pod, ask: Callable[[Claim], object]) -> bool:
        before = pod.incarnation, pod.token
        claim = self._claim(pod)
        if not isinstance(self._do(op, lambda: ask(claim)), PodsupError):
            self._told.pop(pod.name, None)
            pod.is_resting = False
            return True
        self._give_up(pod, *before)
        return False

    def _give_up(self, pod: Pod, incarnation: int, token: str) -> None:
        """A start was refused: what is in the table, if anything, is still of the one before."""
        self._close(pod)
        life_lock.remove(self._table.life_lock(pod.name, pod.incarnation))
        pod.incarnation, pod.token = incarnation, token

    def _close(self, pod: Pod) -> None:
        """Have the pod die."""
        if pod.is_adopted:
            self._note("-", pod)
        os.close(pod.fd)
        pod.fd, pod.is_adopted = -1, False

    def _note(self, sign: str, pod: Pod, **more: object) -> None:
        told = {"sign": sign, "pod": pod.name, "incarnation": pod.incarnation, **more}
        os.write(self._witness, json.dumps(told).encode() + b"\n")

    def _do(self, op: str, call: Callable[[], T], of: Sequence[object] = ()) -> T | PodsupError:
        """Time an operation, and report what came of it."""
        began = time.monotonic()
        self._board.begin(self._number, began)
        outcome: T | PodsupError
        try:
            outcome = call()
        except PodsupError as error:
            outcome = error
        took = time.monotonic() - began
        self._board.begin(self._number, 0.0)
        for one in outcome if isinstance(outcome, list) and of else [outcome]:
            code = one.code if isinstance(one, PodsupError) else ""
            self._send(op, code, began, took)
            if isinstance(one, PodsupError) and not self._may_refuse(op, one.code):
                self._defect(f"{op} was refused: {one.code}: {one}")
        return outcome

    def _may_refuse(self, op: str, code: ErrorCode) -> bool:
        if self._is_damaging and (code in AFTER_DAMAGE or (op in READS and code == "internal")):
            return True
        return code in REFUSED.get(op, ())

    def _defect(self, what: str) -> None:
        self._send("defect", what, time.monotonic(), 0.0)

    def _send(self, op: str, code: str, began: float, took: float) -> None:
        os.write(self._report, json.dumps([op, code, began, took]).encode() + b"\n")


def _spoil(path: Path, draw: float) -> None:
    with suppress(FileNotFoundError):
        match pick(["cut", "empty", "zeros", "deleted"], draw):
            case "cut":
                os.truncate(path, path.stat().st_size // 2)
            case "empty":
                os.truncate(path, 0)
            case "zeros":
                path.write_bytes(bytes(path.stat().st_size))
            case _:
                path.unlink()


def _is_readable(path: Path) -> bool:
    try:
        _rows_of(path.read_bytes())
    except (OSError, ValueError):
        return False
    return True


class Damage(StrEnum):
    """What is spoiled now and then."""

    NONE = "none"
    TABLE = "table"
    BOTH = "both"


class Board:
    """What all processes see: since when each is busy with one operation, 0 for idle."""

    def __init__(self, processes: int, damage: Damage) -> None:
        self._memory = mmap.mmap(-1, 8 * processes)
        self.damage = damage

    def begin(self, number: int, now: float) -> None:
        """Say that an operation begins, or with 0 that it is over."""
        struct.pack_into("d", self._memory, 8 * number, now)

    def since(self, number: int) -> float:
        """Return when the operation that is under way began, 0 for none."""
        began: float = struct.unpack_from("d", self._memory, 8 * number)[0]
        return began


def control(folder: Path, report: int) -> None:
    """Write a file of one's own, as the table is written, and report each time it took long."""
    folder.mkdir()
    parent, text = os.getppid(), b"x" * 16_384
    while os.getppid() == parent:
        began = time.monotonic()
        time.sleep(0.03)
        write_atomically(folder / "file", text, keep=folder / "file.bak")
        if (took := time.monotonic() - began) > STALL_S:
            os.write(report, json.dumps(["stall", "", began, took]).encode() + b"\n")


# -- all of them ---------------------------------------------------------------------------------


@dataclass(slots=True)
class Process:
    """A child of ours, its report, and what of it is not a whole line yet."""

    pid: int
    report: int
    number: int
    generation: int
    rest: bytes = b""


@dataclass(slots=True)
class Tally:
    """What was seen."""

    operations: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    took: list[float] = field(default_factory=list)
    slow: list[tuple[str, float, float]] = field(default_factory=list)
    stalls: list[tuple[float, float]] = field(default_factory=list)
    defects: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    kills_of_holders: int = 0
    checks: int = 0
    most_live: int = 0
    deepest: int = 0
    reads: int = 0
    unreadable: int = 0

    def defect(self, what: str) -> None:
        """Say at once what is wrong, the first times."""
        self.defects[what] += 1
        if self.defects[what] == 1 and len(self.defects) <= 20:
            print(f"DEFECT: {what}", flush=True)


class Stress:
    """Starts the processes, kills them, and looks at the table; `with` ends what is left."""

    def __init__(
        self, folder: Path, seed: int, processes: int, damage: Damage, within_s: float
    ) -> None:
        self._root = folder
        self._within_s = within_s
        self._scope = folder / "scope"
        self._seed = seed
        self._size = processes
        self._damage = damage
        self._board = Board(processes, damage)
        self._selector = selectors.DefaultSelector()
        self._workers: dict[int, Process] = {}
        self._control: Process | None = None
        self._draw = random.Random(f"{seed}/kills").random
        self._is_ending = False
        self.signal = 0
        self.tally = Tally()

    def __enter__(self) -> Stress:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._all():
            self._kill(process)
        self._selector.close()

    def run(self, seconds: float, operations: int) -> None:
        """Let them work for so long and so much, then end them and look at what is left.

        A signal to end is kept in `signal`, and nothing is looked at then.
        """
        for told in TO_END:
            signal.signal(told, self._on_signal)
        ScopeTable(self._scope, "/first", "first")
        self._control = self._fork(-1, 0)
        for number in range(self._size):
            self._workers[number] = self._fork(number, 0)
        now = time.monotonic()
        end = now + seconds
        next_kill, next_check, next_read = now + KILL_EVERY_S, now, now
        while not self.signal:
            now = time.monotonic()
            if now >= end and self.tally.operations.total() >= operations:
                break
            if now >= next_kill:
                self._kill_one()
                next_kill = time.monotonic() - KILL_EVERY_S * math.log(1 - self._draw())
            if now >= next_check:
                self.check()
                next_check = time.monotonic() + CHECK_EVERY_S
            if now >= next_read:
                self._read_without_lock()
                next_read = time.monotonic() + READ_EVERY_S
            self._listen(max(0.0, min(next_kill, next_check, next_read) - time.monotonic()))
        if self.signal:
            return
        self._end()
        self._check_the_end()
        self._check_times()

    def _on_signal(self, number: int, _: object) -> None:
        self.signal = number

    # -- processes -------------------------------------------------------------------------------

    def _all(self) -> list[Process]:
        return [*self._workers.values(), *([self._control] if self._control else [])]

    def _fork(self, number: int, generation: int) -> Process:
        reader, writer = os.pipe()
        signal.pthread_sigmask(signal.SIG_BLOCK, TO_END)  # until it has a handler of its own
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            self._be_child(number, generation, writer)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TO_END)
        os.close(writer)
        process = Process(pid, reader, number, generation)
        self._selector.register(reader, selectors.EVENT_READ, process)
        return process

    def _be_child(self, number: int, generation: int, report: int) -> NoReturn:
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            for process in self._all():
                os.close(process.report)
            if number < 0:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, TO_END)
                control(self._root / "control", report)
            else:
                worker = Worker(
                    self._scope, self._seed, number, generation, report=report, board=self._board
                )
                signal.signal(signal.SIGTERM, worker.end)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, TO_END)
                worker.run()
            code = 0
        except BaseException:
            told = ["defect", f"a process failed: {traceback.format_exc(limit=-6)}", 0.0, 0.0]
            os.write(report, json.dumps(told).encode() + b"\n")
        finally:
            os._exit(code)

    def _kill_one(self) -> None:
        """Kill one, the holder of the lock if the draw says so, and have another in its place."""
        number, is_aimed = int(self._draw() * self._size), self._draw() < 0.5
        if is_aimed:
            if (holder := self._stopped_holder()) is not None:
                number = holder
                self.tally.kills_of_holders += 1
            else:  # it may be locked in a way that the kernel does not tell
                busy = {n: since for n in self._workers if (since := self._board.since(n))}
                number = min(busy, key=busy.__getitem__, default=number)
        process = self._workers[number]
        busy_since = self._board.since(number)
        now = time.monotonic()
        self._kill(process)
        self.tally.kills += 1
        if busy_since and now - busy_since > self._within_s:
            self.tally.slow.append(("an operation, killed", busy_since, now - busy_since))
        self._board.begin(number, 0.0)
        self._workers[number] = self._fork(number, process.generation + 1)

    def _stopped_holder(self) -> int | None:
        """Return who holds the table's lock, stopped while it does; None if nobody was caught."""
        try:
            inode = os.stat(self._scope / "table.lock").st_ino
        except FileNotFoundError:
            return None
        numbers = {process.pid: process.number for process in self._workers.values()}
        for _ in range(20):
            pid = _holder_of(inode)
            if pid in numbers:
                os.kill(pid, signal.SIGSTOP)
                if _holder_of(inode) == pid:
                    return numbers[pid]
                os.kill(pid, signal.SIGCONT)
        return None

    def _kill(self, process: Process) -> None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        self._drop(process)

    def _drop(self, process: Process) -> int:
        """Wait for a process that ends, and take what it has said; returns its status."""
        _, status = os.waitpid(process.pid, 0)
        while self._take(process):
            pass
        self._selector.unregister(process.report)
        os.close(process.report)
        if process is self._control:
            self._control = None
        else:
            self._workers.pop(process.number)
        return status

    def _end(self) -> None:
        """Have each finish what it is at; whoever does not is wedged."""
        self._is_ending = True
        for process in self._workers.values():
            os.kill(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE_S
        while self._workers and time.monotonic() < deadline:
            self._listen(0.05)
        for process in list(self._workers.values()):
            self.tally.defect(f"process {process.number} did not end within {PATIENCE_S:g} s")
            self._kill(process)
        if self._control is not None:
            self._kill(self._control)

    def _listen(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            process: Process = key.data
            if not self._take(process):
                status = self._drop(process)
                if status or not self._is_ending:
                    self.tally.defect(f"a process ended by itself, status {status}")
                if process.number >= 0 and not self._is_ending:
                    again = self._fork(process.number, process.generation + 1)
                    self._workers[process.number] = again

    def _take(self, process: Process) -> bool:
        """Take what a process has said; False when it will say nothing more."""
        data = os.read(process.report, 65_536)
        *lines, process.rest = (process.rest + data).split(b"\n")
        for line in lines:
            self._count(*json.loads(line))
        return bool(data)

    def _count(self, op: str, code: str, began: float, took: float) -> None:
        if op == "defect":
            return self.tally.defect(code)
        if op == "stall":
            return self.tally.stalls.append((began, began + took))
        self.tally.operations[op] += 1
        if code:
            self.tally.refusals[code] += 1
        if op not in READS and op != "damage":
            self.tally.took.append(took)
        if took > self._within_s:
            self.tally.slow.append((op, began, took))

    # -- what must hold --------------------------------------------------------------------------

    def _read_without_lock(self) -> None:
        self.tally.reads += 1
        try:
            _rows_of((self._scope / "table.json").read_bytes())
        except (OSError, ValueError) as error:
            self.tally.unreadable += 1
            if self._damage is Damage.NONE:
                self.tally.defect(f"the table could not be read without its lock: {error}")

    def check(self) -> None:
        """Look at the table, and at what the pods were told, at one moment."""
        self.tally.checks += 1
        rows = None
        try:
            with locked_in_turn(self._scope / "table.lock"):
                told = {p.number: self._told_by(p) for p in self._workers.values()}
                rows = _rows_of((self._scope / "table.json").read_bytes())
                live = [row for row in rows if life_lock.is_free(self._lock_of(row)) is False]
        except PodsupError as error:
            return self.tally.defect(f"the lock was not to be had: {error}")
        except (OSError, ValueError) as error:
            if self._damage is Damage.NONE:
                self.tally.defect(f"the table could not be read under its lock: {error}")
        self._check_told(told, rows)
        if rows is not None:
            self._check_rows(Table.of(rows), live)

    def _lock_of(self, row: Allocation) -> Path:
        return self._scope / "life" / f"{row.pod_id}.{row.incarnation}"

    def _told_by(self, process: Process) -> dict[str, dict[str, Any]]:
        """Return the pods that a supervisor knows to be adopted and has not let die."""
        found: dict[str, dict[str, Any]] = {}
        path = self._root / f"witness.{process.number}.{process.generation}"
        with suppress(FileNotFoundError):
            for line in path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    note = json.loads(line)
                    found[note["pod"]] = note
        return {pod: note for pod, note in found.items() if note["sign"] == "+"}

    def _check_told(
        self, told: Mapping[int, Mapping[str, dict[str, Any]]], rows: list[Allocation] | None
    ) -> None:
        claims: list[tuple[str, ScopeRule]] = []
        above: dict[str, set[str]] = {}
        incarnations = {row.key: row.incarnation for row in rows or ()}
        for number, pods in told.items():
            for pod, note in pods.items():
                owner = f"{number} {pod}"
                above[owner] = {f"{number} {name}" for name in note["above"]}
                claims += [(owner, ScopeRule.from_wire(rule)) for rule in note["writes"]]
                found = incarnations.get((f"/h{number}", pod))
                if rows is not None and found != note["incarnation"]:
                    self.tally.defect(f"{owner} was adopted and lives, and has no row")
        for (one, ours), (other, theirs) in clashes(claims):
            if one not in above[other] and other not in above[one]:
                self.tally.defect(
                    f"two pods were told to write: {one} {ours.target}, {other} {theirs.target}"
                )

    def _check_rows(self, table: Table, live: list[Allocation]) -> None:
        above = {row.key: [one.key for one in table.ancestors(row)] for row in live}
        self.tally.most_live = max(self.tally.most_live, len(live))
        self.tally.deepest = max([self.tally.deepest, *(len(keys) + 1 for keys in above.values())])
        for row in table.rows.values():
            if row.delegated_from and (row.home, row.delegated_from) not in table.rows:
                self.tally.defect(f"{row.key} has a parent without a row, {row.delegated_from}")
        claims = [(json.dumps(row.key), rule) for row in live for rule in row.writes]
        for (one, ours), (other, theirs) in clashes(claims):
            first, second = _key(one), _key(other)
            if first not in above[second] and second not in above[first]:
                self.tally.defect(
                    f"two live rows write: {first} {ours.target}, {second} {theirs.target}"
                )
        if self.tally.checks % 10 == 1:
            self._check_effect(table, live)

    def _check_effect(self, table: Table, live: list[Allocation]) -> None:
        """Each path is at most one live pod's to write, what is lent being its borrower's."""
        writer: dict[str, Key] = {}
        for row in live:
            if row.writes:
                lent = _region(allocations.lent_by(table, row))
                for path in _region(row.writes) - lent:
                    if writer.setdefault(path, row.key) != row.key:
                        self.tally.defect(f"{path} is {row.key}'s and {writer[path]}'s to write")

    def _check_the_end(self) -> None:
        """All are dead: one claim to everything is granted at once, and no ticket is left."""
        self.check()
        try:
            self._claim_everything(ScopeTable(self._scope, "/last", "last"))
        except PodsupError as error:
            self.tally.defect(f"when all were dead one claim to everything was refused: {error}")
        if left_over := os.listdir(self._scope / "table.lock.queue"):
            self.tally.defect(f"tickets were left: {left_over}")

    def _claim_everything(self, table: ScopeTable) -> None:
        fd = life_lock.take(table.life_lock("last", 1))
        try:
            began = time.monotonic()
            table.register(Claim("last", 1, "token", Scope(allow=(write("/"),))))
            self._count("register", "", began, time.monotonic() - began)
            if left := [row.key for row in table.list() if row.writes and row.pod != "last"]:
                self.tally.defect(f"claims of the dead were left: {left}")
        finally:
            os.close(fd)
        table.release("last", "token")

    def _check_times(self) -> None:
        for op, began, took in self.tally.slow:
            stalled = sum(
                max(0.0, min(end, began + took) - max(start, began))
                for start, end in self.tally.stalls
            )
            if took - stalled > self._within_s:
                self.tally.defect(f"{op} took {took:.2f} s, of them {stalled:.2f} s the machine's")

    def summary(self, seconds: float) -> str:
        """Return one line on all of it."""
        t = self.tally
        operations = ", ".join(f"{op} {count}" for op, count in t.operations.most_common())
        refusals = ", ".join(f"{code} {count}" for code, count in t.refusals.most_common())
        p50, p99 = (_percentile(t.took, share) * 1000 for share in (0.5, 0.99))
        parts = [
            f"table: seed {self._seed}, damage {self._damage}, {seconds:g} s, "
            f"{self._size} processes: {t.operations.total()} operations ({operations})",
            f"{t.kills} kills, {t.kills_of_holders} of who held the lock",
            f"refused: {refusals or 'nothing'}",
            f"changes p50 {p50:.0f} ms, p99 {p99:.0f} ms, max {max(t.took, default=0) * 1000:.0f} "
            f"ms, {len(t.slow)} longer than {self._within_s:g} s",
            f"the machine stalled {len(t.stalls)} times, for "
            f"{max((b - a for a, b in t.stalls), default=0) * 1000:.0f} ms at most",
            f"{t.checks} checks of up to {t.most_live} live pods in {t.deepest} generations",
            f"{t.reads} reads without the lock, {t.unreadable} unreadable",
            f"{t.defects.total()} defects" if t.defects else "as it should be",
        ]
        return "; ".join(parts)


def _holder_of(inode: int) -> int | None:
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if "FLOCK" in fields and "->" not in fields and fields[5].rpartition(":")[2] == str(inode):
            return int(fields[4])
    return None


def _rows_of(text: bytes) -> list[Allocation]:
    """Return the rows of a table; raises ValueError."""
    found = json.loads(text)
    if found["schema"] != 1:
        raise ValueError(f"schema {found['schema']}")
    return [Allocation.model_validate(row) for row in found["allocations"]]


def _key(text: str) -> Key:
    home, pod = json.loads(text)
    return home, pod


def _region(rules: Iterable[ScopeRule]) -> set[str]:
    scope = Scope(allow=tuple(rules))
    return {path for path in PATHS if effective_permission(scope, path) is Permission.WRITE}


def _percentile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else 0.0


@contextmanager
def throw_away_folder() -> Iterator[Path]:
    """Have a folder below /tmp of which nothing is left."""
    folder = Path(tempfile.mkdtemp(prefix="psc", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def table(asked: argparse.Namespace) -> int:
    """Run the stress of the scope table; returns the exit code."""
    with throw_away_folder() as folder:
        print(f"in {folder}", flush=True)
        with Stress(
            folder, asked.seed, asked.processes, Damage(asked.damage), asked.within
        ) as stress:
            stress.run(asked.seconds, asked.operations)
    if stress.signal:
        return 128 + stress.signal
    print(stress.summary(asked.seconds), flush=True)
    return bool(stress.tally.defects)


def main() -> int:
    """Run what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="scripts/chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_subparsers(required=True)
    of_table = what.add_parser("table", help="the scope table on disk")
    of_table.add_argument("--seed", type=int, default=1)
    of_table.add_argument("--for", type=float, default=60.0, dest="seconds", metavar="S")
    of_table.add_argument("--processes", type=int, default=16)
    of_table.add_argument("--operations", type=int, default=0, metavar="N", help="at least N")
    of_table.add_argument("--within", type=float, default=WITHIN_S, metavar="S")
    of_table.add_argument(
        "--damage",
        nargs="?",
        const=Damage.TABLE,
        default=Damage.NONE,
        choices=list(Damage),
        help="spoil table.json now and then; with `both` its backup, too",
    )
    of_table.set_defaults(run=table)
    of_session = what.add_parser("session", help="a session's log and inbox on disk")
    of_session.add_argument("--seed", type=int, default=1)
    of_session.add_argument("--for", type=float, default=60.0, dest="seconds", metavar="S")
    of_session.set_defaults(run=session)
    asked = parser.parse_args()
    exit_code: int = asked.run(asked)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
