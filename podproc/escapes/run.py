"""Make every attempt of the list at one level, and judge what came of it.

First everything is made and looked at, then attempts are made side by side, a few at a time, and
only when all that they have started is gone is everything looked at again: what a job left behind
does late counts, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

from podproc.escapes import prelude
from podproc.escapes.attempts import ATTEMPTS, Attempt, Control, Victim
from podproc.escapes.ground import (
    VICTIM,
    Ground,
    Snapshot,
    Target,
    difference,
    lent_rule,
    make_ground,
    written,
)
from podproc.tools.base import off_loop
from podproc.tools.cage import Cage
from podproc.tools.keeper import children
from podproc.tools.keeper_client import Keeper, KeeperError
from podproc.tools.pipe import PipeReader
from podproc.tools.shell import command_environment
from protocol.cage import CageLevel, CageSupport, describe
from protocol.manifest import Sandbox
from protocol.scope import LentRule
from protocol.surroundings import look_around

WORKS = "works"
WORKS_UNCAGED = "works uncaged"
NOT_HERE = "cannot be shown here"
FAILS = "FAILS"
REFUSED = "refused"
SUCCEEDS = "SUCCEEDS"
_ENDS = ("held", "got_out", "open", "skipped", "unclear")
LEFT = "left"
"""The row that is about all of them: whether their processes have ended."""

_DEADLINE_S = 12.0
_LEVEL_S = 240.0
_LEFT_S = 2.0
_AT_ONCE = 4
_TOLD = 300
_DONE = "it worked"
_PRELUDE = inspect.getsource(prelude)


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one attempt: where it has to work, outside, and what is told about it."""

    name: str
    what: str
    inside: str
    outside: str
    told: str = ""

    @property
    def is_good(self) -> bool:
        """Whether it was refused, or nothing else was promised, and that means something."""
        is_shown = not self.inside.startswith(FAILS)
        return is_shown and (bool(self.told) or not self.outside.startswith(SUCCEEDS))

    @property
    def end(self) -> str:
        """How it ended, as `Total` counts it."""
        if self.outside.startswith(SUCCEEDS):
            return "open" if self.told else "got_out"
        if self.inside.startswith(FAILS):
            return "unclear"
        return "skipped" if self.inside == NOT_HERE else "held"


@dataclass(frozen=True, slots=True)
class Total:
    """How many attempts at how many levels ended in which way.

    `open` are those that `protocol.cage` tells of, `skipped` those that work nowhere here, and
    `unclear` those that do not work where they have to, so that a refusal would mean nothing.
    """

    attempts: int
    levels: int
    held: int
    got_out: int
    open: int
    skipped: int
    unclear: int

    @classmethod
    def of(cls, levels: Iterable[Sequence[Row]]) -> Total:
        """Count the rows of each level."""
        each = list(levels)
        rows = [row for level in each for row in level]
        ends = Counter(row.end for row in rows)
        return cls(len(rows), len(each), *(ends[end] for end in _ENDS))

    def line(self) -> str:
        """Return the sum in words, open and unclear ones only where there are any."""
        told = [f"{self.held} held", f"{self.got_out} got out"]
        told += [f"{self.open} open, as status says"] if self.open else []
        told += [f"{self.skipped} skipped"]
        told += [f"{self.unclear} unclear"] if self.unclear else []
        at = f"{self.levels} level{'' if self.levels == 1 else 's'}"
        return f"{self.attempts} attempts at {at}: {', '.join(told)}"


@dataclass(frozen=True, slots=True)
class _Ran:
    """What a command printed, and the folder for what it wrote."""

    output: str
    scratch: Path

    def says(self, word: str) -> bool:
        return word in self.output

    def holds(self, word: str) -> bool:
        return word in self.output or word.encode() in written([self.scratch])


@dataclass(slots=True)
class _Try:
    """One attempt while it is made."""

    attempt: Attempt
    targets: list[Path]
    inside: Path
    before: dict[Path, Snapshot] = field(default_factory=dict)
    victim: Target | None = None
    aimed: dict[int, str] = field(default_factory=dict)
    runs: dict[Control | None, _Ran] = field(default_factory=dict)
    """By where it had to work; None for the one that must not."""


class _Shell:
    """Runs commands below one keeper."""

    def __init__(self, keeper: Keeper, environment: Mapping[str, str], cwd: Path) -> None:
        self.keeper = keeper
        self._environment = dict(environment)
        self._cwd = str(cwd)

    async def run(self, argv: Sequence[str], environment: Mapping[str, str]) -> str:
        """Run a command to its end, or its deadline, and return what it printed."""
        read_end, write_end = os.pipe()
        pipe = PipeReader(read_end)
        output = bytearray()
        reading: asyncio.Task[None] | None = None
        try:
            try:
                command = await self.keeper.run(
                    argv,
                    cwd=self._cwd,
                    environment={**self._environment, **environment},
                    output=write_end,
                )
            finally:
                os.close(write_end)
            reading = asyncio.create_task(_collect(pipe, output))
            try:
                async with asyncio.timeout(_DEADLINE_S):
                    await command.wait()
            except TimeoutError:
                output += b"(it took too long)"
                await command.kill()
            await asyncio.wait({reading}, timeout=0.2)
        except KeeperError as error:
            output += f"({error})".encode()
        finally:
            if reading is not None:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            pipe.close()
        return output.decode("utf-8", "replace")


async def _collect(pipe: PipeReader, output: bytearray) -> None:
    while data := await pipe.read():
        output += data


class Run:
    """All attempts at one level."""

    def __init__(self, level: CageLevel, support: CageSupport, ground: Ground) -> None:
        self._level = level
        self._support = replace(support, level=level)
        self._ground = ground
        self._rooms = count(1)
        self._scratches = count(1)
        home = {**os.environ, "HOME": str(ground.root / "home")}
        self._environment = command_environment(home)
        ground.python, self._reads = _interpreter()
        self._running = asyncio.Semaphore(_AT_ONCE)

    async def rows(self) -> list[Row]:
        """Make the attempts and return what came of them; raises OSError, TimeoutError."""
        tries = [self._prepared(attempt) for attempt in ATTEMPTS]
        await off_loop(self._look, tries)
        shared = [one for one in tries if not one.attempt.apart]
        by_settings: dict[bool, list[_Try]] = {}
        for one in shared:
            by_settings.setdefault(one.attempt.unix_sockets, []).append(one)
        async with asyncio.timeout(_LEVEL_S), self._uncaged() as uncaged:
            work = [self._make_all(group, uncaged) for group in by_settings.values()]
            work += [self._make_apart(one, uncaged) for one in tries if one.attempt.apart]
            await asyncio.gather(*work)
        received = self._ground.received()
        left = await self._left()
        rows = [self._judge(one, received) for one in tries]
        outside = f"{SUCCEEDS}: {left}" if left else REFUSED
        return [*rows, Row(LEFT, "leave a process behind", WORKS, outside)]

    def _settings(self, attempt: Attempt) -> Sandbox:
        return Sandbox(unix_sockets=attempt.unix_sockets, extra_read=self._reads)

    # -- before

    def _prepared(self, attempt: Attempt) -> _Try:
        ground = self._ground
        regions = [one for one in attempt.regions if one in ground.folders]
        for region in {attempt.inside, *regions}:
            ground.furnish(region, attempt.name)
        targets = [ground.place(region, attempt.name) for region in regions]
        if "product" in attempt.regions:
            targets.append(ground.product)
        made = _Try(attempt, targets, ground.place(attempt.inside, attempt.name))
        if attempt.victim is Victim.STRANGER:
            made.victim = ground.start_target(ground.held)
        return made

    def _look(self, tries: Iterable[_Try]) -> None:
        for one in tries:
            for folder in (*one.targets, one.inside):
                one.before[folder] = self._ground.snapshot(folder)

    # -- meanwhile

    @asynccontextmanager
    async def _caged(self, attempt: Attempt, lent: list[LentRule]) -> AsyncIterator[_Shell]:
        ground = self._ground
        cage = Cage(
            self._level,
            self._settings(attempt),
            scope=ground.scope(),
            lent=lambda: tuple(lent),
            closed=[str(ground.product)],
            opened=str(ground.outputs),
            room=str(ground.product / f"data/pods/me/cage-{next(self._rooms)}"),
            readable=look_around(self._environment, [str(ground.product)]).readable(),
            processes=attempt.processes,
        )
        keeper = Keeper(environment=self._environment, cage=cage)
        try:
            yield _Shell(keeper, cage.environment(self._environment), ground.work)
        finally:
            await keeper.close()
            await off_loop(cage.close)

    @asynccontextmanager
    async def _uncaged(self) -> AsyncIterator[_Shell]:
        keeper = Keeper(environment=self._environment)
        try:
            yield _Shell(keeper, self._environment, self._ground.work)
        finally:
            await keeper.close()

    async def _make_all(self, tries: Sequence[_Try], uncaged: _Shell) -> None:
        async with self._caged(tries[0].attempt, self._ground.lent) as shell:
            await asyncio.gather(*(self._make(one, shell, uncaged) for one in tries))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LEFT_S):
                    while await shell.keeper.jobs():
                        await asyncio.sleep(0.05)

    async def _make_apart(self, one: _Try, uncaged: _Shell) -> None:
        lent = list(self._ground.lent)
        async with self._caged(one.attempt, lent) as shell:
            await self._make(one, shell, uncaged, lent if one.attempt.is_earlier else None)

    async def _make(
        self, one: _Try, shell: _Shell, uncaged: _Shell, lent: list[LentRule] | None = None
    ) -> None:
        async with self._running:
            if _is_missing(one.attempt):
                return
            if one.attempt.control is Control.INSIDE:
                await self._control(one, Control.INSIDE, shell)
            if one.attempt.control is Control.UNCAGED or not self._has_worked(one, Control.INSIDE):
                await self._control(one, Control.UNCAGED, uncaged)
            more = {"OUTSIDE": "1"}
            if lent is not None:
                more["PIDS"] = await self._earlier_job(one, shell)
                lent += [lent_rule(target / "a/b") for target in one.targets]
            elif one.victim is not None:
                where = await off_loop(one.victim.whereabouts)
                one.aimed[one.victim.pid] = ""
                more |= {"VICTIM_AT": where, "VICTIM_HOLDS": str(one.victim.held)}
                more["PIDS"] = str(one.victim.pid)
            elif one.attempt.victim is Victim.KEEPER:
                await shell.keeper.start()
                outer = shell.keeper.pid or 0
                one.aimed |= dict.fromkeys([outer, *children(outer)], "")
                first = ["1"] if self._is_alone else []
                more["PIDS"] = " ".join([*map(str, one.aimed), *first])
            one.aimed |= {pid: prelude.state(pid) for pid in one.aimed}
            one.runs[None] = await self._command(one.attempt, shell, one.targets, more)
            if one.aimed:
                await asyncio.sleep(0.05)  # a signal or a limit takes its time
                for pid, before in one.aimed.items():
                    after = prelude.state(pid)
                    one.aimed[pid] = "" if after == before else f"{before}\n--- is now\n{after}"

    @property
    def _is_alone(self) -> bool:
        """Whether commands see no process but their pod's own, of which the first is its keeper."""
        return self._level is CageLevel.NAMESPACES or self._support.is_alone

    async def _control(self, one: _Try, control: Control, shell: _Shell) -> None:
        more = {"UNCAGED": "1"} if control is Control.UNCAGED else {}
        one.runs[control] = await self._command(one.attempt, shell, [one.inside], more)
        if control is Control.INSIDE:
            for _ in range(20):  # what works in the background takes its time
                if self._has_worked(one, control):
                    return
                await asyncio.sleep(0.05)

    async def _command(
        self, attempt: Attempt, shell: _Shell, targets: Sequence[Path], more: Mapping[str, str]
    ) -> _Ran:
        scratch = self._ground.scratch / str(next(self._scratches))
        scratch.mkdir()
        environment = {
            **self._ground.environment,
            "I": str(scratch),
            "MARK": self._ground.mark,
            "TAG": _tag(attempt, more),
            "VICTIM": VICTIM,
            **more,
        }
        argv = [*_program(attempt, self._ground.python), *map(str, targets or [scratch])]
        return _Ran(await shell.run(argv, environment), scratch)

    async def _earlier_job(self, one: _Try, shell: _Shell) -> str:
        """Start what may write a folder that is lent a moment later; returns its pid inside."""
        (folder,) = (target / "a/b" for target in one.targets)
        told, tell = os.pipe()
        with open(told, "rb") as output, open(tell, "wb") as own_end:
            command = await shell.keeper.run(
                ["bash", "-c", 'cd "$0" && exec 7>> f && echo ready; exec sleep 20', str(folder)],
                cwd="/",
                environment=self._environment,
                output=own_end.fileno(),
            )
            await off_loop(output.readline)
        return str(command.pid)

    # -- afterwards

    async def _left(self) -> list[int]:
        """Return the processes that an attempt has left behind, given some time to end."""
        left: list[int] = []
        for _ in range(40):
            if not (left := self._ground.strays()):
                break
            await asyncio.sleep(0.05)
        return left

    def _has_worked(self, one: _Try, control: Control, received: str = "") -> bool:
        ran = one.runs.get(control)
        if ran is None:
            return False
        more = {"UNCAGED": "1"} if control is Control.UNCAGED else {}
        return (
            ran.says(_DONE)
            or ran.holds(self._ground.mark)
            or _tag(one.attempt, more) in received
            or bool(difference(one.before[one.inside], self._ground.snapshot(one.inside)))
        )

    def _judge(self, one: _Try, received: str) -> Row:
        attempt = one.attempt
        told = describe(self._settings(attempt), self._support).unprotected
        gap = attempt.gap if attempt.gap in told and self._is_open_here(attempt) else None
        effects = list(self._effects(one, received))
        outside = f"{SUCCEEDS}: {'; '.join(effects)[:_TOLD]}" if effects else REFUSED
        inside = self._worked(one, received)
        return Row(attempt.name, attempt.what, inside, outside, gap or "")

    def _is_open_here(self, attempt: Attempt) -> bool:
        """Whether what the cage tells of an attempt is about folders like these."""
        return self._ground.root.is_relative_to(os.path.realpath(attempt.gap_below))

    def _worked(self, one: _Try, received: str) -> str:
        """Say where the attempt has worked, since only then its refusal means something."""
        if self._has_worked(one, Control.INSIDE):
            return WORKS
        if not self._has_worked(one, Control.UNCAGED, received):
            return NOT_HERE
        if one.attempt.control is Control.UNCAGED:
            return WORKS_UNCAGED
        return f"{FAILS}: {one.runs[Control.INSIDE].output.strip()[-_TOLD:]}"

    def _effects(self, one: _Try, received: str) -> Iterator[str]:
        """Yield what an attempt has done outside."""
        ran = one.runs.get(None)
        if ran is None:
            return
        for folder in one.targets:
            changes = difference(one.before[folder], self._ground.snapshot(folder))
            if changes:
                yield f"{self._ground.region_of(folder)}: {', '.join(changes[:3])}"
        if ran.holds(self._ground.secret):
            yield "a secret came out"
        if _tag(one.attempt, {}) in received:
            yield "it arrived"
        if one.attempt.is_word_taken and ran.says(_DONE):
            yield f"it says: {ran.output.strip().splitlines()[0]}"
        for pid, change in one.aimed.items():
            if change:
                yield f"process {pid}: {change}"


def _tag(attempt: Attempt, more: Mapping[str, str]) -> str:
    return f"<{attempt.name} {'uncaged' if 'UNCAGED' in more else 'caged'}>"


def _program(attempt: Attempt, python: str) -> list[str]:
    if attempt.shell:
        body = f'for T in "$@"; do (\n{attempt.shell}\n) done'
        return ["bash", "-c", body, "attempt"]
    body = textwrap.indent(attempt.python.strip(), "    ")
    head = f"{_PRELUDE}\ndef attempt(T):\n{body}\n"
    tail = (
        "for T in sys.argv[1:]:\n    try:\n        attempt(T)\n"
        "    except Exception as error:\n        print(repr(error), flush=True)\n"
    )
    return [python, "-I", "-S", "-c", head + tail]


def _is_missing(attempt: Attempt) -> bool:
    return any(shutil.which(need) is None for need in attempt.needs)


def _interpreter() -> tuple[str, tuple[str, ...]]:
    """Return a Python that caged commands can run, and what they must read for that besides."""
    usual = "/usr/bin/python3"
    if os.access(usual, os.X_OK):
        return usual, ()
    return os.path.realpath(sys.executable), (sys.base_prefix,)


def run_level(level: CageLevel, support: CageSupport, *, above: str | None = None) -> list[Row]:
    """Make every attempt at a level and return what came of them; raises OSError, TimeoutError.

    `above` is where the folders are made: the home, unless it cannot be written.
    """
    ground = make_ground(above or _usual_place())
    try:
        ground.open_sockets()
        ground.share_memory()
        return asyncio.run(Run(level, support, ground).rows())
    finally:
        ground.close()


def _usual_place() -> str:
    home = os.path.expanduser("~")
    return home if os.access(home, os.W_OK | os.X_OK) else "/tmp"


def levels_of(support: CageSupport) -> list[CageLevel]:
    """Return the levels that a machine can do."""
    order = [CageLevel.NAMESPACES, CageLevel.LANDLOCK]
    return order[order.index(support.level) :] if support.level in order else []
