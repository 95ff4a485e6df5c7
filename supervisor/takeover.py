"""Taking a fleet.

The single-instance lock, the journal, what a dead supervisor left, the pods it had.

Everything here blocks and happens once, before the first socket is bound. In this order, so that
there are never two processes for one pod: lock, journal, recorded pods ended and proven gone, their
claims released, stale sockets removed; then the pods of the file and those spawned into the fleet
before.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass

from protocol.errors import Conflict, DuplicatePod, Internal
from protocol.manifest import PodManifest
from supervisor import life_lock
from supervisor.background import say
from supervisor.boot import Boot
from supervisor.core.fleet import Fleet
from supervisor.core.fleet_record import FleetRecord, PodRecord
from supervisor.core.health import HealthLimits
from supervisor.core.life import LifePolicy
from supervisor.journal import Journal, refuse_foreign
from supervisor.logs import log_files
from supervisor.paths import Paths, make_private_dir
from supervisor.pod_store import PodMetadata, PodStore
from supervisor.pod_store import refuse_foreign as refuse_foreign_pod
from supervisor.recovery import end_recorded, release_claims, remove_sockets
from supervisor.scope_table import ScopeTable

GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class KnownPod:
    """One pod to add: its manifest, and what is stored of it; `up` says whether it starts.

    `spawned`: it does not stand in the fleet file; `was_up`: an earlier supervisor had it up.
    """

    manifest: PodManifest
    stored: PodMetadata | None
    up: bool = True
    parent: str | None = None
    spawned: bool = False
    was_up: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """A fleet that is ours. `lock_fd` stays open as long as it is."""

    lock_fd: int
    journal: Journal
    store: PodStore
    table: ScopeTable
    pods: tuple[KnownPod, ...]


def take_over(boot: Boot, paths: Paths) -> Taken:
    """Take the fleet; raises PodsupError and OSError, and nothing is changed but what was dead."""
    lock_fd = _take_instance_lock(boot, paths)
    journal = Journal(paths.journal(boot.fleet))
    for alert in journal.alerts:
        say(f"alert: {alert}")
    if not boot.fresh:
        refuse_foreign(journal.record, boot.workspace)
    store = PodStore(paths.data)
    pods = tuple(known_pods(boot, store, journal.record))
    table = ScopeTable(paths.scope_dir, str(paths.home), f"{boot.fleet}:{os.getpid()}")
    make_private_dir(paths.runtime)
    make_private_dir(paths.fleet_runtime(boot.fleet))
    _end_what_was_left(boot, paths, journal, table)
    if boot.fresh:
        _file_away(boot, store, table)
    for alert in table.take_alerts():
        say(f"alert: {alert}")
    return Taken(lock_fd, journal, store, table, pods)


def add_pod(fleet: Fleet, boot: Boot, paths: Paths, journal: Journal, pod: KnownPod) -> None:
    """Add a pod to the fleet core; its incarnations go on counting where any record left off."""
    manifest, stored = pod.manifest, pod.stored
    recorded = journal.record.pods.get(manifest.name)
    known = [0, *(int(file.stem) for file in log_files(paths.data, manifest.name))]
    known += [one.incarnation for one in (stored, recorded) if one is not None]
    fleet.add(
        manifest,
        policy=LifePolicy(
            restart=manifest.restart,
            success_codes=manifest.success_codes,
            grace_s=manifest.stop_grace_s,
            jitter=random.random(),
        ),
        limits=HealthLimits(
            beat_interval_s=manifest.beat_interval_s,
            unreachable_after_s=boot.supervisor.unreachable_after_s,
            hang_timeout_s=manifest.hang_timeout_s,
            stall_timeout_s=manifest.stall_timeout_s,
        ),
        incarnation=max(known),
        tasked=stored.tasked if stored else False,
        parent=pod.parent,
        peers=stored.peers if stored else (),
        tombstones=stored.reclaimed if stored else (),
        spawned=pod.spawned,
        was_up=pod.was_up,
        session=_begun_session(paths, stored),
    )


def _take_instance_lock(boot: Boot, paths: Paths) -> int:
    folder = make_private_dir(paths.data) / "fleets"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = make_private_dir(folder / boot.fleet) / "lock"
    try:
        fd = life_lock.take(path)
    except Conflict:
        pid = path.read_text().strip() or "unknown"
        raise Conflict(
            f"fleet {boot.fleet} has a supervisor already (pid {pid})",
            next_step=f"podsup --fleet {boot.fleet} ps, or down",
            pid=int(pid) if pid.isdigit() else None,
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def known_pods(boot: Boot, store: PodStore, record: FleetRecord) -> list[KnownPod]:
    """The file's pods, and those that were spawned into this fleet.

    Raises Conflict for a stranger's.
    """
    pods: list[KnownPod] = []
    named = {manifest.name for manifest in boot.pods}
    for manifest in boot.pods:
        stored = None if boot.fresh else store.load(manifest.name)
        if stored is not None:
            refuse_foreign_pod(stored, fleet=boot.fleet, workspace=boot.workspace)
        pods.append(KnownPod(manifest, stored))
    for name in () if boot.fresh else store.names():
        if name in named or (stored := store.load(name)) is None or not stored.spawned:
            continue  # who was taken out of the file is in the fleet no more; the record stays
        if (stored.fleet, stored.workspace) != (boot.fleet, boot.workspace):
            continue
        if _was_never_born(stored, record.pods.get(name)):
            store.file_away(name)
            continue
        up = stored.desired == "up"
        bounds = {"max_notification_runs": boot.supervisor.max_notification_runs}
        manifest = PodManifest.from_wire(stored.manifest).model_copy(update=bounds)
        pods.append(KnownPod(manifest, stored, up, stored.parent, spawned=True, was_up=up))
    return pods


def _was_never_born(stored: PodMetadata, recorded: PodRecord | None) -> bool:
    """Whether a child's spawn was cut before anybody had lent it anything."""
    if stored.parent is None or stored.desired == "up" or recorded is None:
        return False
    return recorded.identity is None and recorded.last_exit is None


def _begun_session(paths: Paths, stored: PodMetadata | None) -> tuple[str, str] | None:
    if stored is None or not (paths.data / "sessions" / stored.session_id).exists():
        return None
    return stored.session_id, stored.segment_id


def _file_away(boot: Boot, store: PodStore, table: ScopeTable) -> None:
    """File away what is stored of the fleet's pods, even what cannot be read.

    Raises DuplicatePod for the name of a pod that lives in another fleet: its record is in use.
    """
    named = {manifest.name for manifest in boot.pods}
    wanted = []
    for name in store.names():
        try:
            stored = store.load(name)
        except Internal:
            stored = None
        if name in named or (stored is not None and stored.fleet == boot.fleet):
            wanted.append(name)
            if table.is_live(name):
                raise DuplicatePod(
                    f"a pod named {name!r} is alive in fleet {stored.fleet if stored else '?'}",
                    next_step="use another name, or end that fleet first",
                    holder=name,
                )
    for name in wanted:
        store.file_away(name)


def _end_what_was_left(boot: Boot, paths: Paths, journal: Journal, table: ScopeTable) -> None:
    record = journal.record
    ended = end_recorded(record.pods.values(), grace_s=GRACE_S)
    if ended:
        say("ended after an earlier supervisor: " + ", ".join(one.pod for one in ended))
        journal.note(*ended)
    for refused in release_claims(table, record.pods.values()):
        say(f"alert: a claim was not released: {refused}")
    remove_sockets(paths.fleet_runtime(boot.fleet))
