"""`podsup down`.

Nothing of the fleet is left when it returns, whether its supervisor lived or not.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path

from protocol import control as c
from protocol.errors import Conflict, PodsupError, Timeout, Unreachable
from supervisor import life_lock
from supervisor.choice import choose_fleet
from supervisor.cli.app import App, command
from supervisor.cli.asking import Progress
from supervisor.cli.options import grace_option
from supervisor.client import AsyncClient
from supervisor.core.fleet_record import FleetDown
from supervisor.journal import Journal
from supervisor.paths import Paths
from supervisor.recovery import end_recorded, release_claims, remove_runtime
from supervisor.scope_table import ScopeTable

LOOK_S = 0.02


@command("down", example="podsup down")
@grace_option
def down(app: App, grace: float | None) -> None:
    """End the fleet: every pod, everything they started, the supervisor, and their claims."""
    paths = Paths.here(app.home)
    try:
        fleet = choose_fleet(paths, app.fleet, Path.cwd()) if app.fleet else _fleet_here(paths)
    except Unreachable:
        app.out.lines({"fleet": None, "was_running": False}, ["no fleet is running"])
        return
    was_running = asyncio.run(_ask(app, paths, fleet, grace)) or _settle(paths, fleet, grace)
    said = f"fleet {fleet} is down" if was_running else f"fleet {fleet} was not running"
    app.out.lines({"fleet": fleet, "was_running": was_running}, [said])


def _fleet_here(paths: Paths) -> str:
    """The fleet that is meant; without a running one, the only one that has anything left."""
    try:
        return choose_fleet(paths, None, Path.cwd())
    except Unreachable:
        left = [p.parent.name for p in (paths.data / "fleets").glob("*/journal.jsonl")]
        if len(left) == 1:
            return left[0]
        raise


async def _ask(app: App, paths: Paths, fleet: str, grace: float | None) -> bool:
    """End the fleet through its supervisor and wait until that is gone; False when there is none.

    The instance lock tells: it is held from before the first socket until after the last process.
    """
    lock = paths.data / "fleets" / fleet / "lock"
    if life_lock.is_free(lock) is not False:
        return False
    patience_s = 60.0 if grace is None else 30.0 + 2 * grace
    end = time.monotonic() + patience_s
    progress = Progress()
    while life_lock.is_free(lock) is False:
        if time.monotonic() >= end:
            pid = lock.read_text().strip() or "unknown"
            raise Timeout(
                f"the supervisor of {fleet} (pid {pid}) is still there after {patience_s:g} s",
                next_step="podsup doctor",
            )
        with suppress(Unreachable):  # it comes up, or is on its way out: look again
            async with AsyncClient.connect(fleet, home=app.home) as client:
                await client.operate(
                    c.Down(grace_s=grace), timeout_s=patience_s, on_progress=progress
                )
        await asyncio.sleep(LOOK_S)
    return True


def _settle(paths: Paths, fleet: str, grace: float | None) -> bool:
    """Without a supervisor: take its place, end what the journal knows, release the claims."""
    folder = paths.data / "fleets" / fleet
    if not (folder / "journal.jsonl").exists():
        return False
    lock = life_lock.take(folder / "lock")
    try:
        journal = Journal(folder / "journal.jsonl")
        record = journal.record
        if record.is_down:
            return False
        ended = end_recorded(record.pods.values(), grace_s=5.0 if grace is None else grace)
        journal.note(*ended)
        table = ScopeTable(paths.scope_dir, str(paths.home), f"down:{os.getpid()}")
        refused = [
            error
            for error in release_claims(table, record.pods.values())
            if not isinstance(error, PodsupError) or error.code == "conflict"
        ]
        if refused:
            raise Conflict(f"claims were not released: {refused[0]}", next_step="podsup locks")
        remove_runtime(paths.fleet_runtime(fleet))
        journal.note(FleetDown())
        journal.close()
    finally:
        os.close(lock)
    return True
