"""Which session a pod has, read from its record: the pod may live or not, nothing is asked of it.

To change one, hold it: `held` keeps the scope table, and with it every start of a pod, waiting.

A record names the session and the segment that were claimed last. The log itself says the rest: see
`protocol.session.lineage`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from protocol.errors import Conflict, InvalidRequest, UnknownPod
from protocol.session.lineage import Part, line_of
from protocol.session.store import SessionStore
from supervisor import life_lock
from supervisor.paths import Paths
from supervisor.pod_store import PodMetadata, PodStore
from supervisor.scope_table import ScopeTable


@dataclass(frozen=True, slots=True)
class PodSession:
    """A pod's session on disk; `segment_id` is the active one of `segments`, oldest first."""

    meta: PodMetadata
    store: SessionStore
    segment_id: str
    segments: tuple[str, ...]

    @property
    def pod(self) -> str:
        """Whose session it is."""
        return self.meta.name

    @property
    def session_id(self) -> str:
        """The session's id."""
        return self.meta.session_id

    def line(self) -> list[Part]:
        """Return its line of segments, oldest first; raises LineLoops."""
        return line_of(self.store, self.session_id, self.segment_id)


def find_session(paths: Paths, pod: str, fleet: str | None = None) -> PodSession:
    """Return a pod's session.

    Raises UnknownPod, also for a pod of another fleet where one is named, InvalidRequest for a pod
    whose session never began, Internal for a damaged record.
    """
    meta = PodStore(paths.data).load(pod)
    if meta is None:
        raise UnknownPod(
            f"there is no record of a pod {pod!r} in {paths.data}", next_step="podsup ps", pod=pod
        )
    if fleet is not None and fleet != meta.fleet:
        raise UnknownPod(
            f"pod {pod!r} belongs to fleet {meta.fleet!r}, not to {fleet!r}",
            next_step=f"podsup --fleet {meta.fleet} …",
            pod=pod,
        )
    store = SessionStore(paths.data)
    active = store.active(meta.session_id, meta.segment_id)
    if active is None:
        raise InvalidRequest(
            f"the session of pod {pod!r} has not begun: there is no log of it",
            next_step=f"its first run begins it: podsup run {pod} TEXT",
            pod=pod,
            session_id=meta.session_id,
        )
    return PodSession(meta, store, active, store.segments(meta.session_id))


def is_live(paths: Paths, meta: PodMetadata) -> bool:
    """Whether the pod's recorded incarnation lives; reads only, and says nothing for later."""
    lock = paths.scope_dir / "life" / f"{paths.pod_id(meta.name)}.{meta.incarnation}"
    return life_lock.is_free(lock) is False


@contextmanager
def held(paths: Paths, session: PodSession) -> Iterator[None]:
    """Keep every pod from claiming the session for the body, which is short.

    A pod claims it in the scope table before it opens a file of it, so who is not in the table now
    cannot come before the body is over. Raises Conflict while a holder is not proven dead,
    errors.Timeout and Internal as `ScopeTable` does.
    """
    table = ScopeTable(paths.scope_dir, str(paths.home), f"fsck:{os.getpid()}")
    with table.frozen() as rows:
        for row in rows:
            is_same = row.session_id == session.session_id
            if not is_same and row.key != (str(paths.home), session.pod):
                continue
            if table.life_of(row) == "dead":
                continue
            pid = row.identity.pid if row.identity else None
            raise Conflict(
                f"the session of pod {session.pod!r} is in use by pod {row.pod!r}"
                + (f" (pid {pid})" if pid else ""),
                next_step=f"podsup stop {row.pod}, then try again",
                holder=row.pod,
                pid=pid,
                supervisor=row.supervisor,
            )
        yield
