"""A pod's shell in a cage, without the pod: a keeper, a cage, a workspace and secrets around it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from podproc.confine.support import look
from podproc.tools.cage import Cage
from podproc.tools.keeper_client import Keeper, KeeperLevel
from podproc.tools.pipe import PipeReader
from podproc.tools.shell import command_environment
from protocol.cage import CageLevel, CageSupport
from protocol.manifest import Sandbox
from protocol.scope import LentRule, Permission, Scope, ScopeRule
from protocol.surroundings import look_around

SUPPORT = CageSupport.found(look())
"""What the machine of the tests can do."""


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    code: int | None
    output: str


@dataclass
class Ground:
    """Folders: `work` is the workspace and cwd, `mine` in it the scope, `product` is closed.

    `lent` may be changed at any time; the next command sees it.
    """

    root: Path
    lent: tuple[LentRule, ...] = ()

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def mine(self) -> Path:
        return self.work / "mine"

    @property
    def product(self) -> Path:
        return self.root / "product"

    @property
    def outputs(self) -> Path:
        """The one opening in what is closed."""
        return self.product / "data/pods/me/bash-output"

    def make(self) -> None:
        for folder in (self.mine, self.outputs):
            folder.mkdir(parents=True)

    def scope(self) -> Scope:
        read = ScopeRule(target=str(self.work), permission=Permission.READ)
        write = ScopeRule(target=str(self.mine), permission=Permission.WRITE)
        outputs = ScopeRule(target=str(self.outputs), permission=Permission.READ)
        return Scope(allow=(read, write, outputs))


class Shell:
    """Runs commands in the cage; `environment` is what they see."""

    def __init__(self, ground: Ground, keeper: Keeper, environment: dict[str, str]) -> None:
        self.ground = ground
        self.keeper = keeper
        self.environment = environment

    async def __call__(self, command: str, *, timeout_s: float = 60, **more: str) -> Done:
        """Run a command to its shell's end and return what came out of it until then."""
        read_end, write_end = os.pipe()
        pipe = PipeReader(read_end)
        try:
            running = await self.keeper.run(
                ["bash", "-c", command],
                cwd=str(self.ground.work),
                environment={**self.environment, **more},
                output=write_end,
            )
            os.close(write_end)
            write_end = -1
            reading = asyncio.create_task(_read_all(pipe))
            async with asyncio.timeout(timeout_s):
                ended = await running.wait()
            await asyncio.wait({reading}, timeout=1.0)
            reading.cancel()
            (output,) = await asyncio.gather(reading, return_exceptions=True)
            text = output if isinstance(output, str) else "(what it left still has the pipe)"
            return Done(ended.code, text)
        finally:
            if write_end >= 0:
                os.close(write_end)
            pipe.close()


async def _read_all(pipe: PipeReader) -> str:
    output = b""
    while data := await pipe.read():
        output += data
    return output.decode("utf-8", "replace")


@asynccontextmanager
async def caged(
    ground: Ground,
    level: CageLevel,
    *,
    strongest: KeeperLevel = KeeperLevel.PIDNS,
    scope: Scope | None = None,
    settings: Sandbox | None = None,
    closed: Sequence[Path] | None = None,
    processes: int = 4096,
    protected: Sequence[Path] = (),
) -> AsyncIterator[Shell]:
    """Give a shell in a cage of this level (`none`: no cage); all of it is gone afterwards."""
    environment = command_environment(os.environ)
    cage = None
    if level is not CageLevel.NONE:
        cage = Cage(
            level,
            settings or Sandbox(),
            scope=scope or ground.scope(),
            lent=lambda: ground.lent,
            closed=[str(one) for one in closed or (ground.product,)],
            opened=str(ground.outputs),
            room=str(ground.product / "data/pods/me/cage"),
            readable=look_around(
                environment, [str(one) for one in closed or (ground.product,)]
            ).readable(),
            processes=processes,
            protected=[str(one) for one in protected],
        )
    keeper = Keeper(environment=environment, strongest=strongest, cage=cage)
    try:
        yield Shell(ground, keeper, environment if cage is None else cage.environment(environment))
    finally:
        await keeper.close()
        if cage is not None:
            cage.close()
