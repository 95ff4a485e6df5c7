"""Whether a person has looked at what the files of a fleet give more than at its last start.

The last start is in the fleet's journal. What is asked, and when, is decided in `core.widening`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from protocol.cage import CageLevel
from protocol.errors import Conflict, PodsupError
from protocol.manifest import PodManifest
from supervisor.cage_support import cage_support
from supervisor.core.fleet_record import FleetRecord, SettingsFixed, fold
from supervisor.core.operator_settings import ReadFile
from supervisor.core.widening import unguarded, widenings
from supervisor.fleet_file import FLEET_FILE, Fleet
from supervisor.journal import read
from supervisor.paths import Paths
from supervisor.pod_store import PodStore


def require_looked_at(fleet: Fleet, paths: Paths) -> None:
    """Raise Conflict, with what widens, where a pod may have changed the operator's files."""
    record = _last_start(fleet, paths)
    if record is None or (last := record.fixed) is None:
        return
    then = {pod.name: pod for pod in last.pods}
    renamed = [] if record.fleet == fleet.name else [f"fleet: was {record.fleet}, is {fleet.name}"]
    more = [*renamed, *widenings(last.settings, then, fleet.settings, fleet.pods)]
    changed = _changed(last, fleet, _spawned(record.fleet, paths)) if more else []
    if changed:
        raise Conflict(
            f"{', '.join(file.path for file in changed)} changed since the last start, lies where "
            f"a pod may write, and gives more: {'; '.join(more)}",
            next_step="look at it, then podsup start --accept-changes",
            files=[file.path for file in changed],
            widened=more,
        )


def _last_start(fleet: Fleet, paths: Paths) -> FleetRecord | None:
    """Return the record of the last start of this file, else of this fleet.

    A file that changed may name another fleet, which would have no record at all.
    """
    own = paths.journal(fleet.name)
    others = sorted(own.parent.parent.glob("*/journal.jsonl"), key=_age)
    started = (_record(path) for path in (own, *others) if path.exists())
    records = [one for one in started if one.fixed is not None]
    of_file = [one for one in records if os.path.realpath(fleet.file) in _fleet_files(one)]
    of_name = [one for one in records if one.fleet == fleet.name]
    same_workspace = [one for one in of_name if one.workspace == str(fleet.workspace)]
    return next(iter([*of_file, *same_workspace]), None)


def _record(journal: Path) -> FleetRecord:
    try:
        return fold(read(journal)[0])
    except OSError:
        return FleetRecord()


def _fleet_files(record: FleetRecord) -> set[str]:
    return {file.path for file in record.settings.files if file.kind == FLEET_FILE}


def _age(path: Path) -> float:
    return -path.stat().st_mtime


def _changed(last: SettingsFixed, fleet: Fleet, spawned: Iterable[PodManifest]) -> list[ReadFile]:
    pods = [*last.pods, *spawned]
    if not unguarded(last.settings, fleet.settings, pods, CageLevel.NONE):
        return []  # whatever this machine can: it need not be asked
    return unguarded(last.settings, fleet.settings, pods, _level())


def _spawned(fleet: str, paths: Paths) -> Iterator[PodManifest]:
    """Yield the pods that belong to the fleet without standing in its file."""
    store = PodStore(paths.data)
    for name in store.names():
        try:
            stored = store.load(name)
            if stored is not None and stored.spawned and stored.fleet == fleet:
                yield PodManifest.from_wire(stored.manifest)
        except (PodsupError, ValueError):  # what cannot be read cannot be started either
            continue


def _level() -> CageLevel:
    try:
        return cage_support().level
    except (OSError, ValueError):
        return CageLevel.NONE
