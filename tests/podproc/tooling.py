"""What tests of tools share: a scope over a folder, calls, and processes told apart by a number."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from podproc.tools.base import Call, Registry, ToolResult
from podproc.tools.files import Edit, Files, Read, ReadTracker, Write
from podproc.tools.fsview import ScopeView
from podproc.tools.search import Glob, Grep
from protocol.scope import Permission, Scope, ScopeRule, effective_permission

T = TypeVar("T")

_used = count()


def rule(target: Path, permission: str = "write", *, recursive: bool = True) -> ScopeRule:
    """Return a rule over a folder of the test."""
    return ScopeRule(
        target=os.path.realpath(target), permission=Permission(permission), recursive=recursive
    )


def view_of(scope: Scope, cwd: Path, **gates: Any) -> ScopeView:
    """Return the files a pod with this scope may use."""
    return ScopeView(lambda path: effective_permission(scope, path), cwd=str(cwd), **gates)


class Workbench:
    """The file tools of one pod over one scope; `denied` and `defects` are what it reported."""

    def __init__(self, scope: Scope, cwd: Path, **gates: Any) -> None:
        self.denied: list[tuple[str, str]] = []
        self.defects: list[Exception] = []
        self.view = view_of(scope, cwd, **gates)
        self.tracker = ReadTracker()
        files = Files(self.view, self.tracker, on_denied=lambda *what: self.denied.append(what))
        self.registry = Registry(on_defect=self.defects.append)
        grep = Grep(self.view, keeper=None, environment={})
        for tool in (Read(files), Write(files), Edit(files), Glob(self.view), grep):
            self.registry.register(tool, "podsup")

    def call(self, name: str, **arguments: Any) -> ToolResult:
        """Make one call and return its result."""
        return run(self.registry.call(name, arguments, quiet_call()))

    def batch(self, *calls: tuple[str, dict[str, Any]]) -> list[ToolResult]:
        """Make calls at once, as one answer of a model does."""

        async def all_at_once() -> list[ToolResult]:
            return await asyncio.gather(
                *(self.registry.call(name, arguments, quiet_call()) for name, arguments in calls)
            )

        return run(all_at_once())


def quiet_call() -> Call:
    """Return a call whose streamed output nobody watches."""
    return Call("call-1", lambda stream, text: None)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of its own."""
    return asyncio.run(work)


def sleepers(*seconds: int) -> set[int]:
    """Return which of these `sleep <seconds>` run on this machine, by their one argument."""
    wanted = {b"sleep\0%d\0" % number: number for number in seconds}
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if command in wanted and state not in "ZX":
                found.add(wanted[command])
    return found


def marks(number: int) -> list[int]:
    """Return seconds to sleep that no other process of this machine sleeps."""
    return [100_000_000 + os.getpid() * 1000 + next(_used) for _ in range(number)]
