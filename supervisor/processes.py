"""The only place that asks the zygote, signals, and reaps.

Who is whose child: pods are the zygote's, the zygote is ours. We are a *child subreaper*, so
everything that loses its parent below us becomes ours: pods of a zygote that died (their status
intact), and whatever a dead pod leaves behind. A live pod is a subreaper itself, so a child of ours
that is neither the zygote nor a known pod is a leftover of the dead, and is ended.

A death is seen through the pidfd that came with the fork, at once. Its status comes from the
zygote, which holds the zombie until it is told to reap; or, when the zygote is gone, from the
kernel directly. Nothing here waits for "any child": one reaper, by pid.

Every fork is answered. A zygote that owes an answer and says nothing for ten seconds, or whose
answer came without its pidfd, is killed: its pods are ours then, the forks it owes fail, and the
kernel has the statuses it did not tell. Nothing here waits for room in its channel.

Not guaranteed: a process in uninterruptible sleep cannot be ended; its pod stays `stopping`, and
says so.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protocol import isolation
from protocol.errors import Internal, PodsupError
from protocol.manifest import Scheme
from protocol.transport.fork_channel import ChannelClosed, MessageReader, MessageWriter, NotSent

PR_SET_CHILD_SUBREAPER = 36
ORPHAN_STATUS_S = 0.5
ANSWER_S = 10.0
SCAN_S = 0.002
ZYGOTE_READY_S = 30.0
_COMMAND_LINE = 4096


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended: by code or by signal name; neither where nobody could tell."""

    code: int | None = None
    signal: str | None = None


@dataclass(slots=True)
class Process:
    """One forked pod, until it is reaped."""

    pid: int
    pidfd: int
    status: ExitStatus | None = None
    is_dead: bool = False
    told: bool = False
    zygote: _Zygote | None = field(default=None, repr=False)


@dataclass(slots=True, eq=False)
class _Zygote:
    popen: subprocess.Popen[bytes]
    channel: socket.socket
    reader: MessageReader
    writer: MessageWriter
    ready: asyncio.Future[None]
    is_ready: bool = False
    forks: dict[int, asyncio.Future[Process]] = field(default_factory=dict)
    heard_at: float = 0.0
    watch: asyncio.TimerHandle | None = None

    @property
    def is_gone(self) -> bool:
        return self.channel.fileno() < 0


class ZygoteDied(PodsupError):
    """The fork server ended while a fork was asked of it."""


class Processes:
    """All processes below one supervisor. `on_exit(pid, status)` hears of each pod's death once.

    A zygote that is silent for `answer_s` seconds while it owes an answer is given up.
    """

    def __init__(
        self,
        *,
        on_exit: Callable[[int, ExitStatus], None],
        environment: Mapping[str, str],
        schemes: Sequence[Scheme] = (),
        log: Callable[[str], None],
        answer_s: float = ANSWER_S,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_exit = on_exit
        self._environment = dict(environment)
        self._schemes = [scheme.value for scheme in schemes]
        self._log = log
        self._answer_s = answer_s
        self._zygote: _Zygote | None = None
        self._starting = asyncio.Lock()
        self._pods: dict[int, Process] = {}
        self._forks = 0
        self._closing = False
        self.reaped_strays = 0
        become_subreaper()

    # -- the zygote

    async def start_zygote(self) -> None:
        """Start the fork server if there is none; raises Internal with what it printed."""
        async with self._starting:
            if self._zygote is not None:
                return
            zygote = self._spawn_zygote()
            try:
                async with asyncio.timeout(ZYGOTE_READY_S):
                    await zygote.ready
            except BaseException as error:
                self._zygote_gone(zygote)
                if isinstance(error, TimeoutError):
                    raise Internal(
                        "the fork server did not become ready; see the supervisor's log"
                    ) from error
                raise
            if zygote.is_gone:
                raise Internal("the fork server died while it started")
            self._zygote = zygote

    def _spawn_zygote(self) -> _Zygote:
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise Internal(f"the fork server could not be started: {error}") from error
        with theirs:
            try:
                popen = subprocess.Popen(
                    isolation.isolated("podproc.zygote", str(theirs.fileno()), *self._schemes),
                    stdin=subprocess.DEVNULL,
                    cwd="/",
                    env=self._environment,
                    pass_fds=[theirs.fileno()],
                )
            except OSError as error:
                ours.close()
                raise Internal(f"the fork server could not be started: {error}") from error
        ours.setblocking(False)
        ready = self._loop.create_future()
        zygote = _Zygote(popen, ours, MessageReader(ours), MessageWriter(ours), ready)
        self._loop.add_reader(ours, self._on_channel, zygote)
        return zygote

    @property
    def zygote_pid(self) -> int | None:
        """The fork server's pid while it lives."""
        return self._zygote.popen.pid if self._zygote else None

    async def fork(self, birth: bytes, log_fd: int, lock_fd: int) -> Process:
        """Fork one pod; the descriptors stay the caller's. Raises Internal or ZygoteDied."""
        await self.start_zygote()
        zygote = self._zygote
        if zygote is None:
            raise ZygoteDied("the fork server died before the fork")
        self._forks += 1
        number = self._forks
        future: asyncio.Future[Process] = self._loop.create_future()
        message = {"op": "fork", "id": number, "birth": birth, "fds": 2}
        try:
            zygote.writer.add(message, [log_fd, lock_fd])
        except OSError as error:
            raise Internal(f"the fork failed: {error}") from error
        zygote.forks[number] = future
        self._flush(zygote)
        self._watch(zygote)
        return await future

    def _flush(self, zygote: _Zygote) -> None:
        """Send what fits; the loop sends the rest as the zygote reads."""
        while not zygote.is_gone:
            try:
                is_sent = zygote.writer.flush()
            except NotSent as failure:
                self._fork_failed(zygote, failure.message["id"], str(failure))
                continue
            except ChannelClosed:
                self._zygote_gone(zygote)
                return
            if is_sent:
                self._loop.remove_writer(zygote.channel)
            else:
                self._loop.add_writer(zygote.channel, self._flush, zygote)
            return

    def _watch(self, zygote: _Zygote) -> None:
        """See to it that a zygote which owes the answer to a fork says something in time."""
        if zygote.watch is None and zygote.forks and not zygote.is_gone:
            zygote.heard_at = self._loop.time()
            zygote.watch = self._loop.call_later(self._answer_s, self._on_watch, zygote)

    def _on_watch(self, zygote: _Zygote) -> None:
        zygote.watch = None
        due = zygote.heard_at + self._answer_s
        if zygote.is_gone or not zygote.forks:
            return
        if self._loop.time() < due:
            zygote.watch = self._loop.call_at(due, self._on_watch, zygote)
        else:
            self._give_up(zygote, f"did not answer a fork for {self._answer_s:g} s")

    def _give_up(self, zygote: _Zygote, why: str) -> None:
        if not zygote.is_gone:
            self._log(f"the fork server {why}: it is killed")
            self._zygote_gone(zygote)

    def _on_channel(self, zygote: _Zygote) -> None:
        try:
            is_sound = self._receive(zygote)
        except ChannelClosed:
            self._zygote_gone(zygote)
            return
        if not is_sound:
            self._give_up(zygote, "forked a pod whose descriptor did not arrive")

    def _receive(self, zygote: _Zygote) -> bool:
        """Read once; False if a fork's descriptor is missing. Raises ChannelClosed."""
        zygote.heard_at = self._loop.time()
        is_sound = True
        for message, fds in zygote.reader.read():
            if message["op"] == "forked" and not fds:
                is_sound = False
            else:
                self._on_zygote(zygote, message, fds)
        return is_sound

    def _on_zygote(self, zygote: _Zygote, message: dict[str, Any], fds: list[int]) -> None:
        match message["op"]:
            case "ready":
                zygote.is_ready = True
                if not zygote.ready.done():
                    zygote.ready.set_result(None)
            case "forked":
                process = Process(int(message["pid"]), fds[0], zygote=zygote)
                self._pods[process.pid] = process
                self._loop.add_reader(process.pidfd, self._on_pidfd, process)
                future = zygote.forks.pop(message["id"])
                if future.done():  # nobody waits for it any more
                    process.told = True
                    self.send_signal(process.pid, signal.SIGKILL)
                else:
                    future.set_result(process)
            case "fork_failed":
                self._fork_failed(zygote, message["id"], message["error"])
            case "exited":
                if (dead := self._pods.get(int(message["pid"]))) is not None:
                    dead.status = _status(message.get("code"), message.get("signal"))
                    self._tell(dead)

    def _fork_failed(self, zygote: _Zygote, number: int, why: str) -> None:
        future = zygote.forks.pop(number)
        if not future.done():
            future.set_exception(Internal(f"the fork failed: {why}"))

    def _zygote_gone(self, zygote: _Zygote) -> None:
        """Make sure that it is, hear its last words, and answer for it."""
        if zygote.is_gone:
            return
        zygote.popen.kill()
        zygote.popen.wait()
        self._loop.remove_reader(zygote.channel)
        self._loop.remove_writer(zygote.channel)
        self._hear_last_words(zygote)
        zygote.writer.close()
        zygote.channel.close()
        if zygote.watch is not None:
            zygote.watch.cancel()
        was_in_service = zygote is self._zygote
        if was_in_service:
            self._zygote = None
        if not zygote.ready.done():
            zygote.ready.set_exception(Internal("the fork server died while it started"))
        for future in zygote.forks.values():
            if not future.done():
                future.set_exception(ZygoteDied("the fork server died during the fork"))
        zygote.forks.clear()
        for process in list(self._pods.values()):
            if process.is_dead and process.zygote is zygote:
                self._ask_kernel(process)
        # one that never got ready would not do so the next time: whoever started it is told
        if zygote.is_ready and was_in_service and not self._closing:
            self._log("the fork server died; running pods are not touched, a new one is started")
            self._loop.create_task(self._restart_zygote())

    def _hear_last_words(self, zygote: _Zygote) -> None:
        poll = select.poll()
        poll.register(zygote.channel, select.POLLIN)
        try:
            while poll.poll(0):
                self._receive(zygote)
        except ChannelClosed:
            return

    async def _restart_zygote(self) -> None:
        try:
            await self.start_zygote()
        except PodsupError as error:
            self._log(f"no fork server: {error}")

    # -- deaths

    def _on_pidfd(self, process: Process) -> None:
        self._loop.remove_reader(process.pidfd)
        process.is_dead = True
        if process.told:
            self._reap(process.pid)
        elif process.status is not None:
            self._tell(process)
        elif process.zygote is None or process.zygote.is_gone:
            self._ask_kernel(process)
        else:
            self._loop.call_later(self._answer_s, self._status_is_due, process)

    def _status_is_due(self, process: Process) -> None:
        if not process.told and process.zygote is not None:
            self._give_up(process.zygote, f"did not tell how pid {process.pid} ended")

    def _ask_kernel(self, process: Process) -> None:
        """The kernel answers for our own children, as the pods of a zygote that is gone are."""
        if not self._settle(process):
            self._loop.call_later(ORPHAN_STATUS_S, self._settle, process, True)

    def _settle(self, process: Process, at_last: bool = False) -> bool:
        if process.told:
            return True
        try:
            result = os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:
            result = None
        if result is not None:
            by_code = result.si_code == os.CLD_EXITED
            process.status = (
                _status(result.si_status, None) if by_code else _status(None, result.si_status)
            )
        elif at_last:
            process.status = ExitStatus()
        if process.status is not None:
            self._tell(process)
        return process.told

    def _tell(self, process: Process) -> None:
        if process.is_dead and not process.told and process.status is not None:
            process.told = True
            self._on_exit(process.pid, process.status)

    # -- signals and trees

    def send_signal(self, pid: int, number: signal.Signals) -> None:
        """Signal a pod; a stopped one is continued after a TERM, or it would never see it."""
        process = self._pods.get(pid)
        if process is None or process.is_dead:
            return
        try:
            signal.pidfd_send_signal(process.pidfd, number)
            if number is signal.SIGTERM:
                signal.pidfd_send_signal(process.pidfd, signal.SIGCONT)
        except ProcessLookupError:
            return  # it died meanwhile, and its pidfd says so

    async def end_tree(self, pid: int, lock_is_free: Callable[[], bool]) -> None:
        """Return when nothing that the dead pod started is left.

        No leftovers in two scans, lock free.
        """
        quiet = 0
        pause = SCAN_S
        while quiet < 2:
            if self._end_strays() == 0 and lock_is_free():
                quiet += 1
                continue
            quiet = 0
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.1)
        self._reap(pid)

    async def end_all_strays(self) -> None:
        """Return when no leftover of any dead pod is left."""
        while self._end_strays():
            await asyncio.sleep(SCAN_S)

    def _end_strays(self) -> int:
        """Kill and reap the children of ours that are neither zygote nor pod.

        Return how many live.
        """
        known = set(self._pods) | ({self._zygote.popen.pid} if self._zygote else set())
        living = 0
        for pid in children_of(os.getpid()):
            if pid in known or self._is_starting_zygote(pid):
                continue
            for below in reversed(descendants_of(pid)):
                _kill(below)
            _kill(pid)
            try:
                done, _ = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue
            if done:
                self.reaped_strays += 1
            else:
                living += 1
        return living

    def _is_starting_zygote(self, pid: int) -> bool:
        return self._starting.locked() and b"podproc.zygote" in _command_line(pid)

    def _reap(self, pid: int) -> None:
        process = self._pods.pop(pid, None)
        if process is None:
            return
        os.close(process.pidfd)
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            if process.zygote is not None and not process.zygote.is_gone:
                process.zygote.writer.add({"op": "reap", "pid": pid})
                self._flush(process.zygote)

    def close(self) -> None:
        """End the zygote; pods must be gone by then."""
        self._closing = True
        if self._zygote is not None:
            self._zygote_gone(self._zygote)


def become_subreaper() -> None:
    """Whatever loses its parent below this process becomes its child."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def children_of(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """Return the pids of a process's children, zombies among them."""
    found: list[int] = []
    try:
        for task in (proc / str(pid) / "task").iterdir():
            try:
                found += [int(child) for child in (task / "children").read_text().split()]
            except FileNotFoundError:
                if task.exists():  # then it is the kernel that has no such file
                    return _children_by_scan(pid, proc)
    except OSError:
        return found
    return found


def _children_by_scan(pid: int, proc: Path) -> list[int]:
    found: list[int] = []
    for one in proc.iterdir():
        if not one.name.isdecimal():
            continue
        try:
            stat = (one / "stat").read_text()
        except OSError:
            continue  # it ended meanwhile
        if int(stat.rpartition(")")[2].split()[1]) == pid:
            found.append(int(one.name))
    return found


def descendants_of(pid: int) -> list[int]:
    """Return everything below a process, nearest first."""
    found: list[int] = []
    todo = [pid]
    while todo:
        below = children_of(todo.pop())
        found += below
        todo += below
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _command_line(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read(_COMMAND_LINE)
    except OSError:
        return b""


def _status(code: int | None, number: int | None) -> ExitStatus:
    if number is None:
        return ExitStatus(code=code)
    try:
        return ExitStatus(signal=signal.Signals(number).name)
    except ValueError:
        return ExitStatus(signal=f"SIG{number}")
