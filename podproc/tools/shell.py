"""Bash: a command below the keeper, its output streamed, its leftovers named.

A call returns when its shell exits, not when its pipe closes: what the shell left running holds the
pipe, goes on as a background job, and is still read, into a file. A timeout and a cancellation end
everything the command has started, within two seconds, however it tried to get away.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar

from pydantic import Field, field_validator

from podproc.tools.base import Call, ToolArgs, ToolFailure, ToolResult, off_loop
from podproc.tools.keeper_client import Command, Exit, Job, Keeper, KeeperError
from podproc.tools.output import Capture, OutputStore
from protocol.environment import OF_USERS
from protocol.surroundings import USUAL_PATH

_OURS = {"PODSUP_POD", "PODSUP_FLEET", "PODSUP_INCARNATION", "PODSUP_COOKIE"}
_FIXED = {"TERM": "dumb", "NO_COLOR": "1", "PAGER": "cat", "GIT_TERMINAL_PROMPT": "0"}
_LAST_OUTPUT_S = 1.0
_LISTED = 20
_TOLD = 5
_DESCRIPTION = (
    "Run a shell command in the working directory; each call starts a new shell. Long output "
    "goes to a file that Read can show. Processes left running become background jobs, which "
    "end with this agent; end them before that with kill."
)
_LONGEST_LINE = 4096
_REASONS = ("Permission denied", "Read-only file system")
_QUOTED = re.compile(r"(?:Permission denied|Read-only file system): '(?P<path>[^']+)'")
"""Python and node quote the path behind the reason."""


def command_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what a command may see of an environment: an allow-list, so never a key."""
    allowed = {name: value for name, value in environment.items() if name in OF_USERS | _OURS}
    return {"PATH": USUAL_PATH, **allowed, **_FIXED}


class BashArgs(ToolArgs):
    """Arguments of Bash."""

    command: str = Field(min_length=1, description="a shell command; stdin is empty")
    timeout: float = Field(
        120, gt=0, le=600, description="seconds until all of it is killed; not for background"
    )
    background: bool = Field(False, description="return at once and let it run on")

    @field_validator("command")
    @classmethod
    def _is_text(cls, command: str) -> str:
        if "\0" in command:
            raise ValueError("a command cannot hold NUL characters")
        return command


class Bash:
    """Runs shell commands."""

    name: ClassVar[str] = "Bash"
    Args: ClassVar[type[BashArgs]] = BashArgs

    def __init__(
        self,
        keeper: Keeper,
        *,
        cwd: str,
        environment: Mapping[str, str],
        store: OutputStore,
        judge: Callable[[str], str | None] = lambda path: None,
        on_denied: Callable[[str, str], None] = lambda path, layer: None,
        confined: str = "",
        programs: str | None = None,
    ) -> None:
        """Run commands in `cwd` with exactly this environment (see `command_environment`).

        `on_denied(path, layer)` hears of writes that a command was refused, as far as its output
        names them: `judge` returns the canonical path of one that the scope refuses, too, and
        blocks. `confined` tells the model what it may expect. `programs` is where the shell itself
        is looked for: the environment's PATH, less what pods may write.
        """
        self.description = f"{_DESCRIPTION} {confined}".rstrip()
        self._keeper = keeper
        self._judge = judge
        self._on_denied = on_denied
        self._cwd = cwd
        self._environment = dict(environment)
        self._store = store
        self._shell = (
            shutil.which("bash", path=programs or self._environment.get("PATH")) or "/bin/sh"
        )
        self._background: set[asyncio.Task[None]] = set()

    async def run(self, args: BashArgs, call: Call) -> ToolResult:
        """Return the output with exit code and duration; raises ToolFailure if it did not start."""
        since = asyncio.get_running_loop().time()
        command, capture = await self._start(args.command, call)
        try:
            if args.background:
                return await self._leave(command, capture, since)
            return await self._result(command, capture, args.timeout, since)
        except asyncio.CancelledError:
            try:
                await command.kill()
            finally:
                await capture.abandon()
            raise

    async def close(self) -> None:
        """Let go of what background jobs have printed; to be called once the keeper is closed."""
        if self._background:
            _, reading = await asyncio.wait(self._background, timeout=_LAST_OUTPUT_S)
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)

    async def _start(self, text: str, call: Call) -> tuple[Command, Capture]:
        read_end, write_end = os.pipe()
        capture = Capture(read_end, self._store, call.emit)
        try:
            command = await self._keeper.run(
                [self._shell, "-c", "--", text],
                cwd=self._cwd,
                environment=self._environment,
                output=write_end,
            )
        except BaseException as error:
            await capture.abandon()
            if isinstance(error, KeeperError):
                raise ToolFailure("execution_failed", str(error)) from error
            raise
        finally:
            os.close(write_end)
        return command, capture

    async def _leave(self, command: Command, capture: Capture, since: float) -> ToolResult:
        await capture.keep()
        self._go_on(self._follow(command, capture, since))
        summary = f"started in the background: pid {command.pid}"
        return ToolResult(summary, f"output: {capture.path or 'not kept'}")

    async def _result(
        self, command: Command, capture: Capture, timeout_s: float, since: float
    ) -> ToolResult:
        try:
            async with asyncio.timeout(timeout_s):
                ended = await command.wait()
        except TimeoutError:
            await command.kill()
            await self._close(capture)
            summary = f"timed out after {timeout_s:g} s; all it had started was killed"
            return ToolResult(summary, capture.text() or None, is_error=True)
        except KeeperError as error:
            await self._close(capture)
            raise ToolFailure("execution_failed", f"{error}\n{capture.text()}") from error
        summary = _outcome(ended, asyncio.get_running_loop().time() - since)
        jobs = ""
        await capture.catch_up()
        if ended.left:
            await capture.keep()
            self._go_on(capture.finish())
            jobs = _listed(ended.left, capture.path)
            summary += f"; left running: {len(ended.left)}"
        else:
            await self._close(capture)
        text = capture.text()
        for path in refused_paths(text):
            if (real := await off_loop(self._judge, path)) is not None:
                self._on_denied(real, "shell")
        return ToolResult(summary, text + jobs or None, is_error=ended.code != 0)

    async def _close(self, capture: Capture) -> None:
        """Take the last output; nobody that could be waited for holds the pipe any more."""
        finishing = self._go_on(capture.finish())
        await asyncio.wait({finishing}, timeout=_LAST_OUTPUT_S)

    async def _follow(self, command: Command, capture: Capture, since: float) -> None:
        try:
            ended = await command.wait()
            note = _outcome(ended, asyncio.get_running_loop().time() - since)
        except KeeperError as error:
            note = str(error)
        except asyncio.CancelledError:
            await capture.abandon()
            raise
        await capture.finish(f"\n[{note}]\n")

    def _go_on(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task


def refused_paths(output: str) -> list[str]:
    """Return the paths that a command says it was refused, the first few; a guess from its text."""
    found: dict[str, None] = {}
    for line in output.splitlines():
        if len(line) > _LONGEST_LINE or not any(reason in line for reason in _REASONS):
            continue
        head, _, reason = line.rpartition(": ")
        if reason in _REASONS:  # the last word before it, in quotes or not
            path = head.rstrip("'\"\u2019").rpartition(" ")[2].strip(":'\"\u2018")
        else:
            quoted = _QUOTED.search(line)
            path = quoted["path"] if quoted else ""
        if path:
            found[path] = None
        if len(found) == _TOLD:
            break
    return list(found)


def _outcome(ended: Exit, seconds: float) -> str:
    if ended.signal is not None:
        return f"ended by {_signal_name(ended.signal)} after {seconds:.1f} s"
    return f"exit code {ended.code} after {seconds:.1f} s"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _listed(jobs: tuple[Job, ...], path: str | None) -> str:
    lines = [f"  pid {job.pid}: {job.command}" for job in jobs[:_LISTED]]
    more = [f"  and {len(jobs) - _LISTED} more"] if len(jobs) > _LISTED else []
    where = f"their output goes to {path}" if path else "their output is not kept"
    return "\n".join(["", "[still running in the background:", *lines, *more, f"  {where}]"])
