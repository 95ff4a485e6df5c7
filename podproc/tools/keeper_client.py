"""The pod's side of its keeper: one object, one keeper process at a time.

The keeper is started at the first command, from the loop's thread: its death signal is tied to the
thread that makes it. Should it die, everything below it dies too; running commands fail with a
readable error, and the next command starts a new keeper once the old one is proven gone (the pidfds
of both its processes are ready).

No threads, no blocking: messages go through the loop's readers and writers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

from podproc.tools.base import off_loop
from podproc.tools.cage import Cage
from podproc.tools.cage_plan import Order
from podproc.tools.keeper import NO_NAMESPACE, frame, take_frames
from podproc.tools.pipe import PipeReader
from protocol.scope import ScopeRule

_SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "keeper.py")
_START_S = 10.0
_TRIES = 3
_KILL_S = 1.5
_LAST_S = 0.4
_GONE_S = 2.0


class KeeperError(Exception):
    """A command could not be started or followed; the text is fit for the model."""


class KeeperLevel(StrEnum):
    """What ends a command's tree with certainty, strongest first."""

    PIDNS = "pidns"
    SUBREAPER = "subreaper"


@dataclass(frozen=True, slots=True)
class Job:
    """A process right below the keeper: a running command's shell, or what a shell left behind.

    `pid` is as the commands see it; `id` that of the command, 0 where it is unknown.
    """

    id: int
    pid: int
    command: str
    age_s: float


@dataclass(frozen=True, slots=True)
class Exit:
    """How a shell ended, by code or by signal, and what it left running."""

    code: int | None
    signal: int | None
    left: tuple[Job, ...]


class Command:
    """A command below the keeper; `pid` is its shell's, as the commands see it."""

    def __init__(self, link: _Link, command_id: int) -> None:
        loop = asyncio.get_running_loop()
        self.id = command_id
        self.started: asyncio.Future[int] = loop.create_future()
        self.exited: asyncio.Future[Exit] = loop.create_future()
        self.killed: asyncio.Future[None] = loop.create_future()
        self._link = link

    @property
    def pid(self) -> int:
        """The shell's pid; only once it has started."""
        return self.started.result()

    async def wait(self) -> Exit:
        """Wait for the shell, not for its descendants; raises KeeperError if the keeper died."""
        return await asyncio.shield(self.exited)

    async def kill(self) -> None:
        """End the command and all it started, within two seconds.

        A tree that resists for 1.5 s takes the whole keeper, and every other command, with it.
        """
        self._link.send({"kind": "kill", "id": self.id})
        with contextlib.suppress(KeeperError):
            try:
                async with asyncio.timeout(_KILL_S):
                    await asyncio.shield(self.killed)
            except TimeoutError:
                self._link.hang_up(f"command {self.id} could not be killed alone")
        if not self._link.is_open:
            await asyncio.wait({self._link.gone}, timeout=_LAST_S)

    def settle(self, error: KeeperError) -> None:
        """Fail everything that is still awaited."""
        for future in (self.started, self.exited, self.killed):
            _fail(future, error)


class Keeper:
    """Runs commands below the pod's keeper; for one event loop.

    `environment` is the keeper's own and can be read by commands: no secrets. `life_lock` is a
    descriptor the keeper holds until all is gone. `strongest` is the level to try first. `cage`
    confines every command; without one they may do what the pod may.
    """

    def __init__(
        self,
        *,
        environment: Mapping[str, str],
        life_lock: int | None = None,
        strongest: KeeperLevel = KeeperLevel.PIDNS,
        cage: Cage | None = None,
    ) -> None:
        self._environment = dict(environment)
        self._cage = cage
        self._launches: set[asyncio.Future[None]] = set()
        self._life_lock = life_lock
        self._level = strongest
        self._link: _Link | None = None
        self._starting = asyncio.Lock()
        self._sending = asyncio.Lock()
        self._ids = count(1)
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """The pid of the keeper's outer process, None while there is none."""
        return self._link.pid if self._link and self._link.is_open else None

    @property
    def level(self) -> KeeperLevel | None:
        """The level in force, None before the first start."""
        return self._level if self._link else None

    async def start(self) -> None:
        """Start the keeper if there is none; raises KeeperError."""
        await self._ready()

    async def run(
        self,
        argv: Sequence[str],
        *,
        cwd: str,
        environment: Mapping[str, str],
        output: int,
        writes: bool = True,
    ) -> Command:
        """Start a command with stdout and stderr to the descriptor, which stays the caller's.

        Where commands are caged this one may write what the scope lets the pod write now, or
        nothing. Raises KeeperError where it cannot be started. Cancelled, it leaves nothing
        running.
        """
        env = self._cage.searched(environment) if self._cage else dict(environment)
        request = {"argv": list(argv), "cwd": cwd, "env": env}
        with self._launching():
            link, command = await self._launch(request, output, writes=writes)
        try:
            async with asyncio.timeout(_START_S):
                await asyncio.shield(command.started)
        except TimeoutError as error:
            link.hang_up("a command did not start")
            raise KeeperError(f"the command did not start within {_START_S:g} s") from error
        except asyncio.CancelledError:
            link.send({"kind": "kill", "id": command.id})
            raise
        return command

    async def capture(
        self, argv: Sequence[str], *, cwd: str, environment: Mapping[str, str], limit: int
    ) -> tuple[bytes, bool]:
        """Run a command that only reads; returns its output, and whether that is all of it."""
        read_end, write_end = os.pipe()
        pipe = PipeReader(read_end)
        output = bytearray()
        try:
            try:
                command = await self.run(
                    argv, cwd=cwd, environment=environment, output=write_end, writes=False
                )
            finally:
                os.close(write_end)
            try:
                while len(output) < limit and (data := await pipe.read()):
                    output += data
            finally:
                await command.kill()
        finally:
            pipe.close()
        return bytes(output), len(output) < limit

    async def jobs(self) -> list[Job]:
        """Return every process right below the keeper; raises KeeperError if it dies meanwhile."""
        return await self._link.jobs() if self._link and self._link.is_open else []

    async def running(self) -> list[Job]:
        """Return what runs below the keeper, for certain: where it died, once all is proven gone.

        A command that is about to start has started by then. Bound it: a keeper that is stopped
        never answers.
        """
        if self._launches:
            await asyncio.wait(tuple(self._launches))
        if self._link is not None and self._link.is_open:
            with contextlib.suppress(KeeperError):
                return await self._link.jobs()
        if self._link is not None:
            await asyncio.shield(self._link.gone)
        return []

    def could_write(self, rules: Sequence[ScopeRule]) -> bool:
        """Say whether what runs may write under one of the rules; without a cage it may anywhere.

        Which process belongs to which command is a guess that a command can mislead; so what runs
        may be anything that was started since nothing ran.
        """
        orders = self._link.orders if self._link else []
        return not orders or any(order.could_write(rule) for order in orders for rule in rules)

    async def stop_all(self, why: str) -> None:
        """End every command and all it started; the next one starts a new keeper."""
        if self._link is not None:
            self._link.hang_up(why)
            await asyncio.wait({self._link.gone}, timeout=_GONE_S)

    async def close(self) -> None:
        """End the keeper and everything below it; returns when that is proven gone."""
        self._is_closed = True
        async with self._starting:
            if self._link is not None:
                self._link.hang_up("the pod is leaving")
                await asyncio.shield(self._link.gone)

    @contextlib.contextmanager
    def _launching(self) -> Iterator[None]:
        launch: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._launches.add(launch)
        try:
            yield
        finally:
            self._launches.discard(launch)
            launch.set_result(None)

    async def _launch(
        self, request: dict[str, Any], output: int, *, writes: bool
    ) -> tuple[_Link, Command]:
        """Send a command to a keeper that is there; one that ends meanwhile is replaced."""
        for _ in range(_TRIES):
            link = await self._ready()
            async with self._sending:  # who asks whether anything runs sees all that was sent
                order = await self._order(writes=writes)
                if order is not None:
                    await link.note(order)
                if link.is_open:
                    command = Command(link, next(self._ids))
                    link.commands[command.id] = command
                    wire = None if order is None else order.to_wire()
                    link.send({"kind": "run", "id": command.id, "order": wire, **request}, output)
                    return link, command
        raise KeeperError("the keeper of the pod's commands ends again and again")

    async def _cell(self) -> dict[str, Any] | None:
        if self._cage is None:
            return None
        try:
            return await off_loop(self._cage.cell)
        except OSError as error:
            raise KeeperError(f"commands have no room for temporary files: {error}") from error

    async def _order(self, *, writes: bool) -> Order | None:
        if self._cage is None:
            return None
        try:
            return await off_loop(self._cage.order, writes=writes)
        except OSError as error:
            raise KeeperError(f"the cage cannot be built: {error}") from error

    async def _ready(self) -> _Link:
        async with self._starting:
            if self._is_closed:
                raise KeeperError("the pod is leaving: no command is started any more")
            if self._link is None or not self._link.is_open:
                self._link = await self._start()
            return self._link

    async def _start(self) -> _Link:
        if self._link is not None:
            done, _ = await asyncio.wait({self._link.gone}, timeout=_GONE_S)
            if not done:
                raise KeeperError(
                    "processes of an earlier command cannot be killed; try again later"
                )
        cell = await self._cell()
        link = _Link(self._level, self._environment, self._life_lock, cell)
        try:
            async with asyncio.timeout(_START_S):
                self._level = await link.hello
        except _NoNamespace:
            self._level = KeeperLevel.SUBREAPER
            return await self._start()
        except BaseException as error:
            link.hang_up("it did not start")
            if isinstance(error, TimeoutError):
                raise KeeperError(f"the keeper did not start within {_START_S:g} s") from error
            raise
        return link


class _NoNamespace(KeeperError):
    """The keeper could make a pid namespace and not use it."""


class _Link:
    """One keeper process, from its start to the proof of its end."""

    def __init__(
        self,
        level: KeeperLevel,
        environment: Mapping[str, str],
        life_lock: int | None,
        cell: Mapping[str, Any] | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.orders: list[Order] = []
        self.commands: WeakValueDictionary[int, Command] = WeakValueDictionary()
        self.hello: asyncio.Future[KeeperLevel] = self._loop.create_future()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self.is_open = True
        self._listings: deque[asyncio.Future[list[Job]]] = deque()
        self._received = bytearray()
        self._unsent: deque[tuple[bytes, int | None]] = deque()
        self._inner: tuple[int, int] | None = None  # pid and pidfd
        self._sock, theirs = socket.socketpair()
        kept = [theirs.fileno(), *([] if life_lock is None else [life_lock])]
        lock = -1 if life_lock is None else life_lock
        furniture = "" if cell is None else json.dumps(cell)
        own = [str(theirs.fileno()), str(os.getpid()), level.value, str(lock), furniture]
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-X", "utf8", _SCRIPT, *own],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    cwd="/",
                    env=environment,
                    pass_fds=kept,
                    start_new_session=True,
                )
            except OSError as error:
                self._sock.close()
                raise KeeperError(f"the keeper could not be started: {error}") from error
        self.pid = self._process.pid
        outer_ended = os.pidfd_open(self.pid)
        self._loop.add_reader(outer_ended, self._on_outer_gone, outer_ended)
        self._sock.setblocking(False)
        self._loop.add_reader(self._sock, self._receive)

    def send(self, message: dict[str, Any], descriptor: int | None = None) -> None:
        """Queue a message; does nothing once the keeper is gone."""
        if self.is_open:
            copy = None if descriptor is None else os.dup(descriptor)
            self._unsent.append((frame(message), copy))
            self._flush()

    async def jobs(self) -> list[Job]:
        """Ask for the jobs; raises KeeperError if the keeper is gone, or dies meanwhile."""
        if not self.is_open:
            raise KeeperError("the keeper of the pod's commands has ended")
        listing: asyncio.Future[list[Job]] = self._loop.create_future()
        self._listings.append(listing)
        self.send({"kind": "jobs"})
        return await asyncio.shield(listing)

    async def note(self, order: Order) -> None:
        """Remember what a command is about to be able to write, beside that of all that runs."""
        if any((one.claims, one.less) == (order.claims, order.less) for one in self.orders):
            return
        if self.orders and await self._is_idle():
            self.orders.clear()
        self.orders.append(order)

    async def _is_idle(self) -> bool:
        try:
            async with asyncio.timeout(_START_S):
                return not await self.jobs()
        except TimeoutError:
            self.hang_up("it does not answer")
        except KeeperError:
            pass  # it is gone, and whoever sends finds that
        return False

    def hang_up(self, why: str) -> None:
        """Close the socket, which ends the keeper, and fail everything that waits for it."""
        if not self.is_open:
            return
        self.is_open = False
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        for _, descriptor in self._unsent:
            if descriptor is not None:
                os.close(descriptor)
        error = KeeperError(f"the keeper of the pod's commands has ended: {why}")
        for command in list(self.commands.values()):
            command.settle(error)
        for listing in self._listings:
            _fail(listing, error)

    def _flush(self) -> None:
        while self._unsent:
            data, descriptor = self._unsent[0]
            try:
                if descriptor is None:
                    sent = self._sock.send(data)
                else:
                    sent = socket.send_fds(self._sock, [data], [descriptor])
                    os.close(descriptor)
            except BlockingIOError:
                self._loop.add_writer(self._sock, self._flush)
                return
            except OSError as error:
                self.hang_up(error.strerror or str(error))
                return
            if sent < len(data):
                self._unsent[0] = (data[sent:], None)
            else:
                self._unsent.popleft()
        self._loop.remove_writer(self._sock)

    def _receive(self) -> None:
        try:
            data = self._sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.hang_up("it died")
            return
        self._received += data
        try:
            messages = take_frames(self._received)
        except ValueError as error:
            self.hang_up(str(error))
            return
        for message in messages:
            self._on_message(message)

    def _on_message(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "hello":
            with contextlib.suppress(ProcessLookupError):  # outer will say so, too
                self._inner = message["inner"], os.pidfd_open(message["inner"])
            _resolve(self.hello, KeeperLevel(message["level"]))
        elif kind == "no_cell":
            told = f"commands cannot be caged as was promised: {message['error']}"
            _fail(self.hello, KeeperError(told))
        elif kind == "jobs":
            _resolve(self._listings.popleft(), [Job(**job) for job in message["jobs"]])
        elif (command := self.commands.get(message["id"])) is not None:
            self._on_command(kind, message, command)

    def _on_command(self, kind: str, message: dict[str, Any], command: Command) -> None:
        match kind:
            case "started":
                _resolve(command.started, message["pid"])
            case "failed":
                command.settle(KeeperError(message["error"]))
            case "exited":
                left = tuple(Job(**job) for job in message["left"])
                _resolve(command.exited, Exit(message.get("code"), message.get("signal"), left))
            case "killed":
                _resolve(command.killed, None)

    def _unwatch(self, pidfd: int) -> None:
        self._loop.remove_reader(pidfd)
        os.close(pidfd)

    def _on_outer_gone(self, pidfd: int) -> None:
        self._unwatch(pidfd)
        code = self._process.wait()
        if not self.hello.done():
            failure = _NoNamespace if code == NO_NAMESPACE else KeeperError
            _fail(self.hello, failure(f"the keeper ended with exit code {code}"))
        self.hang_up("it died")
        if self._inner is None:
            _resolve(self.gone, None)
        else:
            self._loop.add_reader(self._inner[1], self._on_inner_gone, *self._inner)

    def _on_inner_gone(self, pid: int, pidfd: int) -> None:
        self._unwatch(pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)  # ours if outer was killed and the pod is a subreaper
        _resolve(self.gone, None)


def _resolve(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # it is not an accident if nobody asks
