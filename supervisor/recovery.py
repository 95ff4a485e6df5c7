"""Ending what a dead supervisor has left: recorded pods, by proven identity; their claims.

Their sockets.

A pod is ended like by `down`, without a supervisor to send `shutdown`: SIGTERM (which a pod takes
as the same), grace, SIGKILL. It is gone when its life lock can be taken: its keeper holds the lock
too, until everything the pod started is gone. Only then is its claim released. An identity that
cannot be proven is never signalled.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import Conflict, PodsupError
from supervisor import life_lock
from supervisor.core.fleet_record import Exited, PodRecord
from supervisor.identity import is_same_process
from supervisor.scope_table import ScopeTable

LOOK_S = 0.01
LAST_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Found:
    """A recorded pod whose process may live."""

    record: PodRecord
    lock: Path
    pidfd: int | None


def end_recorded(
    records: Iterable[PodRecord], *, grace_s: float, last_wait_s: float = LAST_WAIT_S
) -> list[Exited]:
    """End every recorded pod that lives and return what to write down.

    Blocks for `grace_s` after SIGTERM and `last_wait_s` after SIGKILL at most.

    Raises Conflict naming those that cannot be ended or not be proven gone.
    """
    found = [f for f in (_look(record) for record in records) if f is not None]
    try:
        for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, last_wait_s)):
            alive = [f for f in found if not _is_gone(f)]
            for one in alive:
                _signal(one, number)
            _wait_until_gone(alive, wait_s)
        left = [f.record.name for f in found if not _is_gone(f)]
    finally:
        for one in found:
            if one.pidfd is not None:
                os.close(one.pidfd)
    if left:
        raise Conflict(
            f"these pods of an earlier supervisor cannot be proven gone: {', '.join(left)}",
            next_step="podsup doctor; end them by hand, then try again",
        )
    now_ms = time.time_ns() // 1_000_000
    return [
        Exited(
            pod=one.record.name,
            incarnation=one.record.incarnation,
            cause="ended after its supervisor was gone",
            at=now_ms,
        )
        for one in found
    ]


def release_claims(table: ScopeTable, records: Iterable[PodRecord]) -> list[PodsupError]:
    """Release the claims of recorded pods that are gone; returns what was refused."""
    claims = [(r.name, r.intent.token) for r in records if r.intent is not None]
    return [refused for refused in table.release_many(claims) if refused is not None]


def remove_runtime(folder: Path) -> None:
    """Remove what an ended fleet leaves in its run folder; a stranger's file stays there."""
    remove_sockets(folder)
    (folder / "token").unlink(missing_ok=True)
    with suppress(OSError):  # it is not there, or not empty
        folder.rmdir()


def remove_sockets(folder: Path) -> None:
    """Remove the sockets of a fleet that has no supervisor; libzmq never does."""
    for path in folder.glob("*.sock"):
        path.unlink(missing_ok=True)


def _look(record: PodRecord) -> Found | None:
    """Return the pod if any of it may live; opens its pidfd before its identity is proven."""
    if record.intent is None or record.ended is not None:
        return None
    lock = Path(record.intent.life_lock)
    pidfd = None
    if record.identity is not None:
        try:
            pidfd = os.pidfd_open(record.identity.pid)
        except ProcessLookupError:
            pidfd = None
        if pidfd is not None and is_same_process(record.identity) != "alive":
            os.close(pidfd)
            pidfd = None
    return Found(record, lock, pidfd)


def _is_gone(found: Found) -> bool:
    free = life_lock.is_free(found.lock)
    if free is not None:
        return free
    identity = found.record.identity
    return identity is None or is_same_process(identity) == "dead"


def _signal(found: Found, number: signal.Signals) -> None:
    """Signal the pod; one that was forked but never recorded is found by who holds its lock.

    So is what has outlived the pod and keeps the lock.
    """
    if found.pidfd is not None:
        _send(found.pidfd, number)
        if number is signal.SIGTERM:
            return
    for pid in holders_of(found.lock):
        if pid == os.getpid():
            continue
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if pid in holders_of(found.lock):
                _send(pidfd, number)
        finally:
            os.close(pidfd)


def _send(pidfd: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number)
        if number is signal.SIGTERM:
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
    except ProcessLookupError:
        return


def holders_of(path: Path) -> list[int]:
    """Return the pids that hold the lock on this very file; to have it open is not enough."""
    try:
        wanted = path.stat()
    except FileNotFoundError:
        return []
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _has_locked(entry, (wanted.st_dev, wanted.st_ino)):
            pids.append(int(entry.name))
    return pids


def _has_locked(process: Path, wanted: tuple[int, int]) -> bool:
    try:
        fds = os.listdir(process / "fd")
    except OSError:
        return False
    for fd in fds:
        try:
            status = os.stat(process / "fd" / fd)
            is_it = (status.st_dev, status.st_ino) == wanted
            if is_it and "FLOCK" in (process / "fdinfo" / fd).read_text():
                return True
        except OSError:
            continue  # closed while we looked
    return False


def _wait_until_gone(found: list[Found], wait_s: float) -> None:
    end = time.monotonic() + wait_s
    while time.monotonic() < end and not all(_is_gone(one) for one in found):
        time.sleep(LOOK_S)
