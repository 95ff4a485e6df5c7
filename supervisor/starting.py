"""What must be on disk before a pod is forked, for many pods at once. Blocking.

Run it off the loop.

For each start, in this order: life lock taken, metadata written, intent journaled, scope row
reserved, log file opened. A start that is refused leaves nothing but its metadata. Fifty starts
cost one journal record each, one sync, and one turn of the scope table's lock.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from protocol.birth import Access, Birth
from protocol.errors import Internal, PodsupError
from protocol.ids import uuid7
from protocol.manifest import PodManifest
from protocol.surroundings import Surroundings
from supervisor import life_lock
from supervisor.core.fleet_record import Intent
from supervisor.core.rows import TOP_LEVEL, Allocation, Line
from supervisor.core.widening import writers
from supervisor.journal import Journal, started_fleets
from supervisor.keys import Keys
from supervisor.logs import open_log
from supervisor.nodes import nodes_of
from supervisor.paths import Paths
from supervisor.pod_store import PodMetadata, PodStore, refuse_foreign
from supervisor.scope_table import Claim, ScopeTable
from supervisor.surroundings import FleetSurroundings

SEVERAL = 4
WRITERS = 8
MOST_FILES_OF_OTHERS = 512


@dataclass(frozen=True, slots=True)
class Wanted:
    """One start. `parent` is the recorded one; a `newborn` child is not started without it.

    `spawned`: it belongs to the fleet without standing in its file.
    """

    manifest: PodManifest
    incarnation: int
    parent: str | None = None
    line: Line = TOP_LEVEL
    newborn: bool = False
    spawned: bool = False


@dataclass(slots=True)
class Prepared:
    """A pod that may be forked; whoever has it closes both descriptors.

    `lender` is whose child it is; `lenders` could write until now in what was reserved for it: they
    must agree before the fork.
    """

    wanted: Wanted
    birth: Birth
    log_fd: int
    lock_fd: int
    lender: str | None = None
    lenders: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The pod's name."""
        return self.wanted.manifest.name

    @property
    def incarnation(self) -> int:
        """The number of the incarnation."""
        return self.wanted.incarnation

    @property
    def token(self) -> str:
        """The token of the incarnation."""
        return self.birth.token

    def close(self) -> None:
        """Close what is the supervisor's copy."""
        self.close_log()
        self.close_lock()

    def close_log(self) -> None:
        """The process has its own copy."""
        if self.log_fd >= 0:
            os.close(self.log_fd)
            self.log_fd = -1

    def close_lock(self) -> None:
        """The process has said hello, or is gone: from now on the lock tells whether it lives."""
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
            self.lock_fd = -1


def files_of_others(paths: Paths, fleet: str) -> list[str]:
    """Return the files of the operator that other fleets of this home were started with."""
    others = (one for one in started_fleets(paths.fleets) if one.fleet != fleet)
    found = dict.fromkeys(file.path for one in others for file in one.settings.files)
    return [*islice(found, MOST_FILES_OF_OTHERS)]


class Starter:
    """Prepares starts for one fleet; `others` are the operator's files of other fleets."""

    def __init__(
        self,
        paths: Paths,
        journal: Journal,
        table: ScopeTable,
        store: PodStore,
        keys: Keys | None = None,
        *,
        surroundings: FleetSurroundings | None = None,
        own_code: Sequence[str] = (),
        start_files: Sequence[str] = (),
        others: Sequence[str] = (),
    ) -> None:
        self._keys = keys or Keys({})
        self._surroundings = surroundings
        self._own_code = tuple(own_code)
        self._start_files = tuple(start_files)
        self._files_of_others = tuple(others)
        self._changers: Mapping[str, frozenset[str]] = {}
        self._rows: Sequence[Allocation] = ()
        self._paths = paths
        self._journal = journal
        self._table = table
        self._store = store

    def prepare(
        self, wanted: Sequence[Wanted], fleet: Sequence[PodManifest] = ()
    ) -> list[Prepared | PodsupError]:
        """Prepare each start; one that is refused does not touch the others. Raises OSError.

        `fleet` has the manifests of all its pods, since what one may write concerns the others.
        """
        if self._surroundings is not None:
            self._changers = self._surroundings.changers(fleet, self._others(fleet))
        outcomes: list[Prepared | PodsupError]
        if len(wanted) < SEVERAL:
            outcomes = [self._first_half(one) for one in wanted]
        else:
            with ThreadPoolExecutor(WRITERS) as writers:  # their fsyncs share the disk's turns
                outcomes = list(writers.map(self._first_half, wanted))
        ready = [one for one in outcomes if isinstance(one, Prepared)]
        ready.sort(key=lambda one: len(one.wanted.line.above))  # parents first
        newborn = {one.name for one in ready if one.wanted.newborn}
        try:
            self._journal.append(*(self._intent(one) for one in ready))
            rows = self._table.enter_many([self._claim(one) for one in ready], newborn=newborn)
        except BaseException:
            for one in ready:
                one.close()
                life_lock.remove(self._table.life_lock(one.name, one.incarnation))
            raise
        granted: list[tuple[Prepared, Allocation]] = []
        for one, row in zip(ready, rows, strict=True):
            if isinstance(row, PodsupError):
                one.close()
                life_lock.remove(self._table.life_lock(one.name, one.incarnation))
                outcomes[outcomes.index(one)] = row
            else:
                granted.append((one, row))
        self._add_lends(granted)
        return outcomes

    def _others(self, fleet: Sequence[PodManifest]) -> Sequence[Allocation]:
        """Return the rows of pods of other fleets; those of before where the table is damaged."""
        own = {self._table.key_of(pod.name) for pod in fleet}
        with suppress(Internal):  # the reservation mends it
            self._rows = self._table.list()
        return [row for row in self._rows if row.key not in own]

    def note_granted(self, name: str) -> None:
        """Write down that a newborn child is wanted: what it writes was lent to it. Blocks."""
        if (known := self._store.load(name)) is not None:
            self._store.save(known.model_copy(update={"desired": "up"}))

    def _add_lends(self, granted: Sequence[tuple[Prepared, Allocation]]) -> None:
        """Tell each what it has lent, and of each child who else must be told before its fork.

        Those that are forked now, too, are told by their birth.
        """
        told = {one.name for one, _ in granted}
        is_family = any(row.lend_number or row.delegated_from for _, row in granted)
        lends = self._table.lends(told) if is_family else {}
        for one, row in granted:
            if row.delegated_from is not None:
                one.lender = row.delegated_from
                is_new = row.lent_ms == row.since_ms  # else it was lent all the time
                lenders = self._table.lenders(one.name) if is_new else ()
                one.lenders = tuple(pod for pod in lenders if pod not in told)
            if (known := lends.get(one.name)) is not None and known.number:
                update = {"lent": known.lent, "lend_number": known.number}
                one.birth = one.birth.model_copy(update=update)

    def _first_half(self, wanted: Wanted) -> Prepared | PodsupError:
        name = wanted.manifest.name
        lock_fd = log_fd = -1
        try:
            lock_fd = life_lock.take(self._table.life_lock(name, wanted.incarnation))
            meta = self._metadata(wanted)
            log_fd = open_log(self._paths.data, name, wanted.incarnation)
            birth = self._birth(wanted, meta)
        except Exception as error:  # whatever it is, it is this start's alone
            if log_fd >= 0:
                os.close(log_fd)
            if lock_fd >= 0:
                os.close(lock_fd)
                life_lock.remove(self._table.life_lock(name, wanted.incarnation))
            if isinstance(error, PodsupError):
                return error
            return Internal(f"cannot write what a start needs: {error}")
        return Prepared(wanted, birth, log_fd, lock_fd)

    def _metadata(self, wanted: Wanted) -> PodMetadata:
        """Return the pod's record; it is written when it says anything new.

        The incarnation alone is nothing new: the journal's intent has it.
        """
        manifest = wanted.manifest
        known = self._store.load(manifest.name)
        if known is not None:
            refuse_foreign(known, fleet=manifest.fleet, workspace=manifest.workspace)
        if known is None:
            now_ms = time.time_ns() // 1_000_000
            meta = PodMetadata(
                name=manifest.name,
                fleet=manifest.fleet,
                workspace=manifest.workspace,
                parent=wanted.parent,
                session_id=uuid7(now_ms, os.urandom(10)),
                segment_id=uuid7(now_ms, os.urandom(10)),
                incarnation=wanted.incarnation,
                manifest=manifest.to_wire(),
                created_ms=now_ms,
                spawned=wanted.spawned,
                desired="down" if wanted.newborn else "up",
            )
        else:
            changes = {"manifest": manifest.to_wire(), "spawned": wanted.spawned, "desired": "up"}
            meta = known.model_copy(update=changes)
        if meta != known:
            self._store.save(meta.model_copy(update={"incarnation": wanted.incarnation}))
        return meta

    def _birth(self, wanted: Wanted, meta: PodMetadata) -> Birth:
        manifest, paths = wanted.manifest, self._paths
        settings = self._journal.record.settings
        events = paths.pod_socket(manifest.fleet, manifest.name, wanted.incarnation)
        return Birth(
            manifest=manifest,
            pod_id=paths.pod_id(manifest.name),
            incarnation=wanted.incarnation,
            token=secrets.token_urlsafe(24),
            cookie=secrets.token_hex(8),
            control_endpoint=f"ipc://{paths.control_socket(manifest.fleet)}",
            events_endpoint=f"ipc://{events}",
            data_dir=str(paths.data),
            product_dirs=paths.product_dirs,
            config_dir=str(paths.config),
            protected=(
                *(file.path for file in settings.files),
                *(path for path in self._files_of_others if writers([manifest], path)),
            ),
            template=settings.template,
            catalog=settings.catalog,
            surroundings=self._around(manifest),
            own_code=self._own_code,
            start_files=self._start_files,
            session_id=meta.session_id,
            segment_id=meta.segment_id,
            beat_interval_s=manifest.beat_interval_s,
            parent=wanted.parent,
            access=self._keys.access(manifest.model),
            summary_access=self._summary_access(manifest),
        )

    def _around(self, manifest: PodManifest) -> Surroundings:
        if self._surroundings is None:
            return Surroundings()
        return self._surroundings.of(manifest, self._changers)

    def _summary_access(self, manifest: PodManifest) -> Access | None:
        model = manifest.compaction.model
        return None if model is None else self._keys.access(model)

    def _intent(self, one: Prepared) -> Intent:
        return Intent(
            pod=one.name,
            pod_id=one.birth.pod_id,
            incarnation=one.incarnation,
            token=one.token,
            life_lock=str(self._table.life_lock(one.name, one.incarnation)),
            session_id=one.birth.session_id,
            segment_id=one.birth.segment_id,
        )

    @staticmethod
    def _claim(one: Prepared) -> Claim:
        return Claim(
            pod=one.name,
            incarnation=one.incarnation,
            token=one.token,
            scope=one.birth.manifest.scope,
            session_id=one.birth.session_id,
            segment_id=one.birth.segment_id,
            line=one.wanted.line,
            nodes=nodes_of(one.birth.manifest.scope),
        )
