"""Controls that need the disk, or a manifest, before they can be answered."""

from __future__ import annotations

import os
from collections.abc import Set
from pathlib import Path
from typing import Any

from protocol import control as c
from protocol.errors import Forbidden, Internal, InvalidRequest, SegmentConflict, UnknownPod
from protocol.manifest import PodManifest, Scheme, unavailable
from protocol.session.store import SessionStore
from supervisor.boot import Boot
from supervisor.core.descent import exceeds, models_to_name
from supervisor.core.fleet_record import PlacesGiven, Spawned
from supervisor.core.operator_settings import PlacedTable, places_of, without_answers
from supervisor.journal import Journal, started_fleets
from supervisor.logs import log_files, tail
from supervisor.paths import Paths, checked_name
from supervisor.pod_store import PodStore, refuse_foreign
from supervisor.scope_table import ScopeTable
from supervisor.takeover import KnownPod

LOG_BYTES = 1024 * 1024
BEGINNING = 8 * 1024 * 1024
"""More than the first record of a session can have."""


_PODS_MAY_SAY: dict[str, frozenset[str] | None] = {
    "name": None,
    "task": None,
    "scope": None,
    "delegation_scope": frozenset({"allow", "deny"}),
    "profile": None,
    "cwd": None,
    "budget": None,
    "engine": frozenset({"instruction"}),
    "model": frozenset({"model_id"}),
}
"""The keys that a pod's spawn may have; where a set stands, the keys of that table."""


def _null_in(table: Any) -> str | None:
    """Return the first key of a table, or of one in it, whose value is null."""
    items = table.items() if isinstance(table, dict) else enumerate(table)
    for key, value in items:
        if value is None:
            return str(key)
        if isinstance(value, dict | list) and (inner := _null_in(value)) is not None:
            return f"{key}.{inner}"
    return None


def _with_scheme(table: dict[str, Any]) -> dict[str, Any]:
    """Return the table of a pod's spawn with `scheme:model id` taken apart.

    Without a known scheme in front the text is an id, of the parent's scheme or the profile's.
    """
    model = table.get("model")
    named = model.get("model_id") if isinstance(model, dict) else None
    scheme, _, model_id = named.partition(":") if isinstance(named, str) else ("", "", "")
    if model_id and scheme in {one.value for one in Scheme}:
        return {**table, "model": {"scheme": scheme, "model_id": model_id}}
    return table


def _without_profile(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key != "profile"}


def _named_whole(table: dict[str, Any]) -> str | None:
    """Return the model that a pod's spawn names with its scheme."""
    model = table.get("model")
    if not isinstance(model, dict) or "scheme" not in model:
        return None
    return f"{model['scheme']}:{model['model_id']}"


def _require_model(parent: PodManifest, name: str) -> None:
    """Raise Forbidden where a pod has named a model for its child that it may not name."""
    may = models_to_name(parent)
    if name not in may:
        raise Forbidden(
            f"pod {parent.name} may not name the model {name} for a child; "
            f"it may name: {', '.join(may) or 'none'}",
            next_step="name one of these, or have an operator add it to delegation_models",
            models=list(may),
        )


class Desk:
    """Answers for one fleet; every method blocks."""

    def __init__(
        self, boot: Boot, paths: Paths, table: ScopeTable, store: PodStore, journal: Journal
    ) -> None:
        self._boot = boot
        self._paths = paths
        self._table = table
        self._store = store
        self._journal = journal

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

    def resolve_spawn(
        self, spawn: c.Spawn, *, parent: PodManifest | None, by_pod: bool
    ) -> KnownPod:
        """The pod that a spawn asks for, over its parent's settings or the fleet's defaults.

        A pod names a profile that was offered when the fleet was started; an operator names a file,
        which is read now unless it is such a profile. No other file is. Raises FleetFileInvalid,
        InvalidRequest, Forbidden, NotSubset or Conflict.
        """
        from supervisor.fleet_file import resolve_child, resolve_pod  # only a spawn pays for it

        if (key := _null_in(spawn.table)) is not None:
            raise InvalidRequest(f"{key}: null is no value; leave the key out")
        record = self._journal.record
        table, profile = (self._as_pods_may if by_pod else self._as_operators_may)(spawn.table)
        others = () if by_pod else self._writers()
        if parent is not None:
            if by_pod and (named := _named_whole(table)) is not None:
                _require_model(parent, named)  # before anybody asks where it is
            manifest = resolve_child(
                table,
                parent,
                supervisor=self._boot.supervisor,
                settings=record.settings,
                profile=profile,
                places=record.places if by_pod else None,
                others=others,
            )
            if by_pod and "model" in table:
                _require_model(parent, manifest.model.name)
        else:
            manifest = resolve_pod(
                table,
                fleet=self._boot.fleet,
                workspace=self._boot.workspace,
                supervisor=self._boot.supervisor,
                settings=record.settings,
                profile=profile,
                others=others,
            )
        if missing := unavailable(manifest):
            raise InvalidRequest("; ".join(missing))
        stored = self._store.load(manifest.name)
        if stored is not None:
            refuse_foreign(stored, fleet=self._boot.fleet, workspace=self._boot.workspace)
        if parent is not None and exceeds(parent, manifest, places=record.places):
            self._journal.append(PlacesGiven(places=places_of(manifest)))  # for its restores
        if not by_pod:
            self._journal.append(Spawned(pod=without_answers(manifest)))
        name = parent.name if parent else None
        return KnownPod(manifest, stored, parent=name, spawned=True)

    def _as_pods_may(self, table: dict[str, Any]) -> tuple[dict[str, Any], PlacedTable | None]:
        """Return the table of a pod's spawn: with what a pod may say, and an offered profile.

        What else a child is comes from its parent, or from an operator's profile: a pod that could
        say where its child's model is, or which key it uses, could send the key there.
        """
        for key, value in table.items():
            inside = _PODS_MAY_SAY.get(key)
            more = set(value) - inside if inside and isinstance(value, dict) else set()
            if key not in _PODS_MAY_SAY or more:
                told = ", ".join(f"{key}.{one}" for one in sorted(more)) or key
                raise Forbidden(f"a pod may not say {told} of its child; a profile may")
        table = _with_scheme(table)
        if (name := table.get("profile")) is None:
            return table, None
        if not isinstance(name, str):
            raise InvalidRequest("profile: should be the name of a profile")
        settings = self._journal.record.settings
        offered = settings.profiles
        if name in settings.unusable:
            raise InvalidRequest(
                f"profile {name!r} is not usable",
                next_step="an operator sees why: podsup check; then starts the fleet again",
                profiles=sorted(offered),
            )
        if name not in offered:
            folder = Path(self._boot.file).parent / "profiles"
            raise InvalidRequest(
                f"no profile is named {name!r}; there are: {', '.join(sorted(offered)) or 'none'}",
                next_step=f"an operator puts one into {folder}, and starts the fleet again",
                profiles=sorted(offered),
            )
        return _without_profile(table), offered[name]

    def _as_operators_may(self, table: dict[str, Any]) -> tuple[dict[str, Any], PlacedTable | None]:
        """Return the table of an operator's spawn; a profile that was offered is not read again."""
        named = table.get("profile")
        path = os.path.realpath(named) if isinstance(named, str) else None
        offered = self._journal.record.settings.profiles.values()
        profile = next((one for one in offered if one.file == path), None)
        return (table, None) if profile is None else (_without_profile(table), profile)

    def _writers(self) -> list[PodManifest]:
        """Return the pods of all fleets of this home that may write, or may have written."""
        return [pod for one in started_fleets(self._paths.fleets) for pod in one.writers]

    def require_restorable(self, name: str) -> None:
        """Raise what keeps a pod that is at rest from being restored, each case by itself."""
        stored = self._store.load(name)
        if stored is None:
            raise UnknownPod(f"there is no record of pod {name}", next_step="podsup ps", pod=name)
        sessions = SessionStore(self._paths.data)
        folder = sessions.folder(stored.session_id)
        segment = sessions.active(stored.session_id, stored.segment_id) or stored.segment_id
        log = sessions.path(stored.session_id, segment)
        if not folder.exists():
            raise InvalidRequest(
                f"the session of pod {name} never began: there is nothing to restore",
                next_step=f"podsup restart {name} starts it",
                session_id=stored.session_id,
            )
        if not log.exists():
            raise Internal(
                f"the session of pod {name} has no segment {stored.segment_id}: {log} is gone",
                next_step="--fresh files the record away and begins a new session",
                path=str(log),
            )
        with log.open("rb") as file:
            has_begun = b"\n" in file.read(BEGINNING)
        if not has_begun:
            raise Internal(
                f"the log of pod {name} is empty: {log}",
                next_step="--fresh files the record away and begins a new session",
                path=str(log),
            )
        for row in self._table.list():
            is_other = row.supervisor != self._table.supervisor
            is_same = row.segment_id == stored.segment_id or row.key == (
                str(self._paths.home),
                name,
            )
            if is_same and is_other and self._table.life_of(row) != "dead":
                raise SegmentConflict(
                    f"the session of pod {name} is in use by {row.pod!r} of {row.supervisor}",
                    next_step=f"stop it there first: podsup stop {row.pod}",
                    holder=row.pod,
                    supervisor=row.supervisor,
                )

    def claim_segment(self, pod: str, token: str, claim: c.ClaimSegment) -> None:
        """Move a pod's claim to another segment of its own session.

        Raises Forbidden for another session, and what the scope table says.
        """
        stored = self._store.load(pod)
        if stored is None or stored.session_id != claim.session_id:
            raise Forbidden(f"session {claim.session_id} is not pod {pod}'s")
        self._table.claim_segment(pod, token, claim.session_id, claim.segment_id)

    def reclaim(self, pods: Set[str] | None, *, busy: Set[str]) -> c.Reclaimed:
        """Settle the dead in the scope table: all, or these pods of ours; `busy` may come back."""
        gone, left = self._table.reclaim(pods, busy=busy)
        return c.Reclaimed(reclaimed=gone, left=left)
