"""Which fleet a command means: the one it names, that of ./podsup.toml, or the only one running.

An agent, or another user, may write ./podsup.toml. So a name from there must be a name, and must be
that of a fleet of this workspace: a file cannot turn `podsup down` against another fleet.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from protocol.errors import Conflict, InvalidRequest, Unreachable
from protocol.operator_file import BadFile, read_operator_file
from supervisor import life_lock
from supervisor.paths import Paths, checked_name

_STARTED = b'{"kind":"fleet_started",'


def choose_fleet(paths: Paths, named: str | None, folder: Path) -> str:
    """Return the fleet's name.

    Raises Unreachable when none runs, InvalidRequest when several do, Conflict where the file names
    the fleet of another workspace.
    """
    if named:
        return checked_name(named)
    file = folder / "podsup.toml"
    if (table := _fleet_table(file)) is not None:
        name = _name(table, file)
        _require_own(paths, name, file, _workspace(table, file))
        return name
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
    table = _fleet_table(file)
    return None if table is None else _name(table, file)


def _fleet_table(file: Path) -> dict[str, Any] | None:
    """Return `[fleet]` of a file, None where there is none to read; raises InvalidRequest."""
    try:
        data = tomllib.loads(read_operator_file(file, anybodys=True).decode())
    except BadFile as error:
        raise InvalidRequest(
            f"{file} {error.strerror}", next_step="or name the fleet: podsup --fleet NAME …"
        ) from error
    except (OSError, ValueError, RecursionError):
        return None
    table = data.get("fleet")
    return table if isinstance(table, dict) else {}


def _name(table: dict[str, Any], file: Path) -> str:
    if isinstance(name := table.get("name"), str):
        return checked_name(name)
    from supervisor.mistakes import valid_name

    return valid_name(os.path.basename(_workspace(table, file))) or "fleet"


def _workspace(table: dict[str, Any], file: Path) -> str:
    written = os.path.expanduser(str(table.get("workspace", ".")))
    return os.path.realpath(os.path.join(os.path.abspath(file.parent), written))


def _require_own(paths: Paths, name: str, file: Path, workspace: str) -> None:
    """Raise Conflict when the fleet of that name was last started for another workspace."""
    recorded = _recorded_workspace(paths.journal(name))
    if recorded not in ("", workspace):
        raise Conflict(
            f"{file} names fleet {name!r}, but that is the fleet of {recorded}, not of {workspace}",
            next_step=f"look at the file; if that fleet is meant: podsup --fleet {name} …",
            recorded=recorded,
            asked=workspace,
        )


def _recorded_workspace(journal: Path) -> str:
    """Return the workspace of the last start, "" where none is recorded.

    The journal is not folded: that would cost `podsup ps` more than its question.
    """
    import orjson

    try:
        data = journal.read_bytes()
    except OSError:
        return ""
    at = data.rfind(_STARTED)
    try:
        record = orjson.loads(data[at:].partition(b"\n")[0]) if at >= 0 else {}
    except ValueError:
        return ""
    return str(record.get("workspace", ""))


def running_fleets(paths: Paths) -> list[str]:
    """Return the fleets of this home whose supervisor lives: its instance lock is held."""
    locks = (paths.data / "fleets").glob("*/lock")
    return sorted(lock.parent.name for lock in locks if life_lock.is_free(lock) is False)
