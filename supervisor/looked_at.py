"""Whether a person has looked at what the files of a fleet give more than at its last start.

The last start is in the fleet's journal; who may write is in the journals of all fleets of this
home. What is asked, and when, is decided in `core.widening`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from protocol.errors import Conflict
from supervisor.core.fleet_record import FleetRecord
from supervisor.core.widening import unguarded, widenings
from supervisor.fleet_file import FLEET_FILE, Fleet
from supervisor.journal import started_fleets
from supervisor.paths import Paths


def require_looked_at(fleet: Fleet, paths: Paths) -> None:
    """Raise Conflict, with what widens, where a pod may have changed the operator's files."""
    records = started_fleets(paths.fleets)
    record = _last_start(fleet, records)
    if record is None or (last := record.fixed) is None:
        return
    then = {pod.name: pod for pod in last.pods}
    renamed = [] if record.fleet == fleet.name else [f"fleet: was {record.fleet}, is {fleet.name}"]
    more = [*renamed, *widenings(last.settings, then, fleet.settings, fleet.pods)]
    pods = [pod for one in records for pod in one.writers]
    if more and (changed := unguarded(last.settings, fleet.settings, pods)):
        raise Conflict(
            f"{', '.join(file.path for file in changed)} changed since the last start, lies where "
            f"a pod may write, and gives more: {'; '.join(more)}",
            next_step="look at it, then podsup start --accept-changes",
            files=[file.path for file in changed],
            widened=more,
        )


def _last_start(fleet: Fleet, records: Sequence[FleetRecord]) -> FleetRecord | None:
    """Return the record of the last start of this file, else of this fleet.

    A file that changed may name another fleet, which would have no record at all.
    """
    own_first = sorted(records, key=lambda one: one.fleet != fleet.name)
    of_file = [one for one in own_first if os.path.realpath(fleet.file) in _fleet_files(one)]
    of_name = [one for one in own_first if one.fleet == fleet.name]
    same_workspace = [one for one in of_name if one.workspace == str(fleet.workspace)]
    return next(iter([*of_file, *same_workspace]), None)


def _fleet_files(record: FleetRecord) -> set[str]:
    return {file.path for file in record.settings.files if file.kind == FLEET_FILE}
