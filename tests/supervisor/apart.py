"""A supervisor's half of the process tree for tests, in a process of its own.

`Processes` makes its process a subreaper and ends every child it does not know: nothing for the
process that runs the tests. A scenario is run in a fork of it, and fails like a test.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from protocol.birth import Birth
from protocol.wire import pack
from supervisor.processes import ExitStatus, Process, Processes, descendants_of
from tests.supervisor.fleets import manifest

PROJECT = Path(__file__).parents[2]
TIMEOUT_S = 30.0


@dataclass
class Shell:
    """The processes below this one, and what was heard of them. `folder` is for files."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    exits: list[tuple[int, ExitStatus]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.processes = Processes(
            on_exit=lambda pid, status: self.exits.append((pid, status)),
            environment=os.environ | {"PYTHONPATH": str(PROJECT)} | self.environment,
            log=self.said.append,
        )

    async def fork(self, pod: str = "alice", birth: bytes | None = None) -> Process:
        """Fork a pod that finds no supervisor, or one with another birth record."""
        log = os.open(self.folder / f"{pod}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        lock = os.open(self.folder / f"{pod}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            return await self.processes.fork(birth or pack(self.birth(pod)), log, lock)
        finally:
            os.close(log)
            os.close(lock)

    def birth(self, pod: str) -> Birth:
        """Return the birth record of a pod that does nothing."""
        return Birth(
            manifest=manifest(pod).model_copy(update={"cwd": str(self.folder)}),
            pod_id=pod,
            incarnation=1,
            token="token",
            cookie="cookie",
            control_endpoint=f"ipc://{self.folder}/c.sock",
            events_endpoint=f"ipc://{self.folder}/{pod}.sock",
            data_dir=str(self.folder / "data"),
            product_dirs=(),
            session_id="01890a5d-ac96-774b-bcce-b302099a8057",
            segment_id="01890a5d-ac96-774b-bcce-b302099a8058",
        )

    async def living(self, pod: str = "alice") -> Process:
        """Fork a pod and return once it is itself, and nothing of the zygote any more."""
        process = await self.fork(pod)
        title = f"podsup pod {pod}".encode()
        path = Path(f"/proc/{process.pid}/cmdline")
        await until(lambda: path.read_bytes().startswith(title), f"{pod} has its title")
        return process

    async def status_of(self, process: Process) -> ExitStatus:
        """Return how a process ended, once that is told; AssertionError if it is told twice."""
        await until(lambda: self._told(process), f"the exit of {process.pid} is told")
        (status,) = self._told(process)
        return status

    async def end(self, process: Process) -> None:
        """End what a dead pod left, and return once it is reaped."""
        await self.processes.end_tree(process.pid, lambda: True)
        await until(lambda: not state_of(process.pid), f"{process.pid} is reaped")

    async def kill(self, *processes: Process) -> None:
        """Kill pods, and return once nothing is left of them."""
        for process in processes:
            self.processes.send_signal(process.pid, signal.SIGKILL)
            await self.status_of(process)
            await self.end(process)

    def _told(self, process: Process) -> list[ExitStatus]:
        return [status for pid, status in self.exits if pid == process.pid]


async def until(condition: Callable[[], object], what: str, timeout_s: float = 10.0) -> None:
    """Return when the condition is true; AssertionError after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.005)


def state_of(pid: int) -> str:
    """Return the state letter of a process, "" when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def run_apart(
    scenario: Callable[[Shell], Awaitable[None]], folder: Path, **environment: str
) -> None:
    """Run a scenario in a process of its own; raises AssertionError with its traceback."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _live(scenario, folder, environment, writing)
    os.close(writing)
    try:
        report = _read_to_end(reading, pid)
    finally:
        os.close(reading)
        _, status = os.waitpid(pid, 0)
    assert status == 0, report or f"it ended with wait status {status}"


def _live(
    scenario: Callable[[Shell], Awaitable[None]],
    folder: Path,
    environment: dict[str, str],
    report: int,
) -> None:
    """Never returns."""
    code = 1

    async def run() -> None:
        shell = Shell(folder, environment)
        try:
            await scenario(shell)
        finally:
            shell.processes.close()

    try:
        asyncio.run(run())
        left = {pid: state_of(pid) for pid in descendants_of(os.getpid())}
        assert not left, f"left behind: {left}"
        code = 0
    except BaseException:
        os.write(report, traceback.format_exc().encode())
    finally:
        for below in descendants_of(os.getpid()):
            os.kill(below, signal.SIGKILL)
        os._exit(code)


def _read_to_end(fd: int, pid: int) -> str:
    end, said = time.monotonic() + TIMEOUT_S, b""
    while select.select([fd], [], [], max(0.0, end - time.monotonic()))[0]:
        piece = os.read(fd, 1 << 16)
        if not piece:
            return said.decode()
        said += piece
    os.kill(pid, signal.SIGKILL)
    return f"not within {TIMEOUT_S:g} s; {said.decode()}"
