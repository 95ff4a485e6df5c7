"""Which fleet a command means: the one it names, that of ./podsup.toml, or the only one running."""

from __future__ import annotations

import tomllib
from pathlib import Path

from protocol.errors import InvalidRequest, Unreachable
from supervisor import life_lock
from supervisor.paths import Paths


def choose_fleet(paths: Paths, named: str | None, folder: Path) -> str:
    """Return the fleet's name.

    Raises Unreachable when none runs, InvalidRequest when several do.
    """
    if named:
        return named
    if (written := name_in_file(folder / "podsup.toml")) is not None:
        return written
    running = running_fleets(paths)
    if len(running) == 1:
        return running[0]
    if running:
        raise InvalidRequest(
            f"several fleets run: {', '.join(running)}", next_step="podsup --fleet NAME …"
        )
    raise Unreachable(
        f"no fleet is running in {paths.home}",
        next_step="podsup start, in a folder with podsup.toml",
        supervisor=True,
    )


def name_in_file(file: Path) -> str | None:
    """Return the name a fleet file gives, or the one its folder gives; None without a file."""
    try:
        data = tomllib.loads(file.read_text())
    except (OSError, ValueError):
        return None
    table = data.get("fleet")
    table = table if isinstance(table, dict) else {}
    if isinstance(name := table.get("name"), str):
        return name
    from supervisor.mistakes import valid_name

    workspace = table.get("workspace", ".")
    return valid_name((file.parent / str(workspace)).resolve().name) or "fleet"


def running_fleets(paths: Paths) -> list[str]:
    """Return the fleets of this home whose supervisor lives: its instance lock is held."""
    locks = (paths.data / "fleets").glob("*/lock")
    return sorted(lock.parent.name for lock in locks if life_lock.is_free(lock) is False)
