"""Controls that need the disk, or a manifest, before they can be answered."""

from __future__ import annotations

from pathlib import Path

from protocol import control as c
from protocol.errors import InvalidRequest
from protocol.manifest import unavailable
from supervisor.boot import Boot
from supervisor.logs import log_files, tail
from supervisor.paths import Paths, checked_name
from supervisor.pod_store import PodStore, refuse_foreign
from supervisor.scope_table import ScopeTable
from supervisor.takeover import KnownPod

LOG_BYTES = 1024 * 1024


class Desk:
    """Answers for one fleet; every method blocks."""

    def __init__(self, boot: Boot, paths: Paths, table: ScopeTable, store: PodStore) -> None:
        self._boot = boot
        self._paths = paths
        self._table = table
        self._store = store

    def allocations(self) -> c.Allocations:
        """All rows of the scope table, without tokens."""
        return c.Allocations(
            allocations=tuple(
                c.Allocated(
                    home=row.home,
                    pod=row.pod,
                    incarnation=row.incarnation,
                    pid=row.identity.pid if row.identity else None,
                    supervisor=row.supervisor,
                    scope_allow=row.scope_allow,
                    scope_deny=row.scope_deny,
                    delegated_from=row.delegated_from,
                    session_id=row.session_id,
                    segment_id=row.segment_id,
                    state=row.state.value,
                )
                for row in self._table.list()
            )
        )

    def logs_tail(self, wanted: c.LogsTailOf) -> c.LogsTail:
        """The end of a pod's output; raises InvalidRequest where there is none."""
        files = log_files(self._paths.data, checked_name(wanted.pod))
        if wanted.previous:
            files = files[:-1]
        if not files:
            raise InvalidRequest(f"pod {wanted.pod} has no such log")
        text = tail(files[-1], most=LOG_BYTES, lines=wanted.lines)
        return c.LogsTail(path=str(files[-1]), text=text)

    def resolve_spawn(self, spawn: c.Spawn) -> KnownPod:
        """The pod that a spawn asks for; raises FleetFileInvalid, InvalidRequest or Conflict."""
        from supervisor.fleet_file import resolve_pod  # only a spawn pays for it

        if spawn.parent is not None:
            raise InvalidRequest("children of pods: not available in this version")
        manifest = resolve_pod(
            spawn.table,
            fleet_file=Path(self._boot.file),
            fleet=self._boot.fleet,
            workspace=self._boot.workspace,
            supervisor=self._boot.supervisor,
            config_dir=self._paths.config,
        )
        if missing := unavailable(manifest):
            raise InvalidRequest("; ".join(missing))
        stored = self._store.load(manifest.name)
        if stored is not None:
            refuse_foreign(stored, fleet=self._boot.fleet, workspace=self._boot.workspace)
        return KnownPod(manifest, stored)
