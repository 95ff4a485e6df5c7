"""The only place that asks the zygote, signals, and reaps.

Who is whose child: pods are the zygote's, the zygote is ours. We are a *child subreaper*, so
everything that loses its parent below us becomes ours: pods of a zygote that died (their status
intact), and whatever a dead pod leaves behind. A live pod is a subreaper itself, so a child of ours
that is neither the zygote nor a known pod is a leftover of the dead, and is ended.

A death is seen through the pidfd that came with the fork, at once. Its status comes from the
zygote, which holds the zombie until it is told to reap; or, when the zygote is gone, from the
kernel directly. Nothing here waits for "any child": one reaper, by pid.

Not guaranteed: a process in uninterruptible sleep cannot be ended; its pod stays `stopping`, and
says so.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protocol.errors import Internal, PodsupError
from protocol.transport.fork_channel import ChannelClosed, MessageReader, send_message

PR_SET_CHILD_SUBREAPER = 36
STATUS_WAIT_S = 0.5
SCAN_S = 0.002
ZYGOTE_READY_S = 30.0


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


@dataclass(slots=True)
class _Zygote:
    popen: subprocess.Popen[bytes]
    channel: socket.socket
    reader: MessageReader
    ready: asyncio.Future[int]
    forks: dict[int, asyncio.Future[Process]] = field(default_factory=dict)


class ZygoteDied(PodsupError):
    """The fork server ended while a fork was asked of it."""


class Processes:
    """All processes below one supervisor. `on_exit(pid, status)` hears of each pod's death once."""

    def __init__(
        self,
        *,
        on_exit: Callable[[int, ExitStatus], None],
        environment: Mapping[str, str],
        log: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_exit = on_exit
        self._environment = dict(environment)
        self._log = log
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
            ours, theirs = socket.socketpair()
            popen = subprocess.Popen(
                [sys.executable, "-m", "podproc.zygote", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                cwd="/",
                env=self._environment,
                pass_fds=[theirs.fileno()],
            )
            theirs.close()
            ours.setblocking(False)
            zygote = _Zygote(popen, ours, MessageReader(ours), self._loop.create_future())
            self._loop.add_reader(ours, self._on_channel, zygote)
            try:
                async with asyncio.timeout(ZYGOTE_READY_S):
                    await zygote.ready
            except TimeoutError as error:
                popen.kill()
                raise Internal(
                    "the fork server did not become ready; see the supervisor's log"
                ) from error
            if ours.fileno() < 0:
                raise Internal("the fork server died while it started")
            self._zygote = zygote

    @property
    def zygote_pid(self) -> int | None:
        """The fork server's pid while it lives."""
        return self._zygote.popen.pid if self._zygote else None

    async def fork(self, birth: bytes, log_fd: int, lock_fd: int) -> Process:
        """Fork one pod; the descriptors stay the caller's. Raises Internal or ZygoteDied."""
        await self.start_zygote()
        zygote = self._zygote
        assert zygote is not None
        self._forks += 1
        number = self._forks
        future: asyncio.Future[Process] = self._loop.create_future()
        zygote.forks[number] = future
        message = {"op": "fork", "id": number, "birth": birth, "fds": 2}
        self._send(zygote, message, [log_fd, lock_fd])
        return await future

    def _send(self, zygote: _Zygote, message: dict[str, Any], fds: list[int]) -> None:
        """The zygote reads all the time, so a full buffer lasts for microseconds: wait for it."""
        zygote.channel.setblocking(True)
        try:
            send_message(zygote.channel, message, fds)
        except ChannelClosed:
            self._zygote_gone(zygote)
        finally:
            if zygote.channel.fileno() >= 0:
                zygote.channel.setblocking(False)

    def _on_channel(self, zygote: _Zygote) -> None:
        try:
            for message, fds in zygote.reader.read():
                self._on_zygote(zygote, message, fds)
        except ChannelClosed:
            self._zygote_gone(zygote)

    def _on_zygote(self, zygote: _Zygote, message: dict[str, Any], fds: list[int]) -> None:
        match message["op"]:
            case "ready":
                zygote.ready.set_result(int(message["pid"]))
            case "forked":
                process = Process(int(message["pid"]), fds[0])
                self._pods[process.pid] = process
                self._loop.add_reader(process.pidfd, self._on_pidfd, process)
                zygote.forks.pop(message["id"]).set_result(process)
            case "fork_failed":
                error = Internal(f"the fork failed: {message['error']}")
                zygote.forks.pop(message["id"]).set_exception(error)
            case "exited":
                if (dead := self._pods.get(int(message["pid"]))) is not None:
                    dead.status = _status(message.get("code"), message.get("signal"))
                    self._tell(dead)

    def _zygote_gone(self, zygote: _Zygote) -> None:
        if zygote.channel.fileno() < 0:
            return
        self._loop.remove_reader(zygote.channel)
        zygote.channel.close()
        if zygote is self._zygote:
            self._zygote = None
        zygote.popen.kill()
        zygote.popen.wait()
        was_ready = zygote.ready.done()
        if not was_ready:
            zygote.ready.set_exception(Internal("the fork server died while it started"))
        for future in zygote.forks.values():
            if not future.done():
                future.set_exception(ZygoteDied("the fork server died during the fork"))
        for process in list(self._pods.values()):
            if process.is_dead:
                self._settle(process)
        if was_ready and not self._closing:  # else the next one would not start either
            self._log("the fork server died; running pods are not touched, a new one is started")
            self._loop.create_task(self._restart_zygote())

    async def _restart_zygote(self) -> None:
        try:
            await self.start_zygote()
        except PodsupError as error:
            self._log(f"no fork server: {error}")

    # -- deaths

    def _on_pidfd(self, process: Process) -> None:
        self._loop.remove_reader(process.pidfd)
        process.is_dead = True
        if process.status is not None:
            self._tell(process)
        elif self._zygote is None or not self._settle(process):
            self._loop.call_later(STATUS_WAIT_S, self._settle, process, True)

    def _settle(self, process: Process, at_last: bool = False) -> bool:
        """Ask the kernel: it answers when the dead process is our own child."""
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
            if self._zygote is not None:
                self._send(self._zygote, {"op": "reap", "pid": pid}, [])

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


def children_of(pid: int) -> list[int]:
    """Return the pids of a process's children, zombies among them."""
    found: list[int] = []
    try:
        for task in (Path("/proc") / str(pid) / "task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    except OSError:
        return found
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
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _status(code: int | None, number: int | None) -> ExitStatus:
    if number is None:
        return ExitStatus(code=code)
    try:
        return ExitStatus(signal=signal.Signals(number).name)
    except ValueError:
        return ExitStatus(signal=f"SIG{number}")
