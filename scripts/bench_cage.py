"""The cage's benchmark: a shell that does nothing, with and without each level, and its parts."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from bench_fleet import Measure, spread

from podproc.confine.support import look
from podproc.tools.cage import Cage
from podproc.tools.keeper_client import Keeper
from podproc.tools.shell import command_environment
from protocol.cage import CageLevel, CageSupport
from protocol.manifest import Sandbox
from protocol.scope import Permission, Scope, ScopeRule
from protocol.surroundings import look_around

COMMANDS = 300
LEVELS = (CageLevel.NONE, CageLevel.LANDLOCK, CageLevel.NAMESPACES)


def cage() -> list[Measure]:
    """`bash -c true` below a keeper, from the asking to its exit, at each level there is."""
    strongest = CageSupport.found(look()).level
    folder = Path(os.environ["BENCH_ROOT"])
    found: list[Measure] = []
    for level in LEVELS[: LEVELS.index(strongest) + 1]:
        starts, orders = asyncio.run(_commands(folder / level, level))
        found += spread(f"cage: a shell, level {level}", starts, None, None)
        if orders:
            found += spread(f"cage: an order, level {level}", orders, None, None)
    return found


async def _commands(folder: Path, level: CageLevel) -> tuple[list[float], list[float]]:
    """Return the seconds of each command, and of each order for one."""
    mine = folder / "work/mine"
    mine.mkdir(parents=True)
    environment = command_environment(os.environ)
    confined = None if level is CageLevel.NONE else _cage_of(folder, level, environment)
    keeper = Keeper(environment=environment, cage=confined)
    starts, orders = [], []
    output = os.open(os.devnull, os.O_WRONLY)
    try:
        for _ in range(COMMANDS):
            began = time.perf_counter()
            command = await keeper.run(
                ["bash", "-c", "true"], cwd=str(mine), environment=environment, output=output
            )
            ended = await command.wait()
            starts.append(time.perf_counter() - began)
            assert ended.code == 0
            if confined is not None:
                began = time.perf_counter()
                confined.order()
                orders.append(time.perf_counter() - began)
    finally:
        os.close(output)
        await keeper.close()
        if confined is not None:
            confined.close()
    return starts[1:], orders[1:]


def _cage_of(folder: Path, level: CageLevel, environment: dict[str, str]) -> Cage:
    work = folder / "work"
    rules = {work: Permission.READ, work / "mine": Permission.WRITE}
    return Cage(
        level,
        Sandbox(),
        scope=Scope(allow=tuple(ScopeRule(target=str(p), permission=r) for p, r in rules.items())),
        lent=lambda: (),
        closed=[str(folder / "product")],
        opened=str(folder / "product/outputs"),
        room=str(folder / "product/room"),
        readable=look_around(environment, [str(folder / "product")]).readable(),
    )
