"""A stand-in for a pod: starts a keeper and one command, says so, and waits to be killed.

Arguments: level, command, a life lock's file or nothing, and `powerless` or nothing. Prints the
keeper's pid and its level.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import sys

from podproc.tools.keeper_client import Keeper, KeeperLevel

_PR_CAPBSET_DROP = 24


async def _main(level: str, command: str, lock: str, powerless: str) -> None:
    if powerless:
        _drop_capabilities()
    life_lock = os.open(lock, os.O_RDWR) if lock else None
    if life_lock is not None:
        fcntl.flock(life_lock, fcntl.LOCK_EX)
    keeper = Keeper(environment=os.environ, life_lock=life_lock, strongest=KeeperLevel(level))
    output = os.open(os.devnull, os.O_WRONLY)
    await keeper.run(["sh", "-c", command], cwd="/", environment=os.environ, output=output)
    print(keeper.pid, keeper.level, flush=True)
    await asyncio.Event().wait()


def _drop_capabilities() -> None:
    """Have everything started from here run without capabilities, as an ordinary user's does."""
    libc = ctypes.CDLL(None)
    for capability in range(64):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
