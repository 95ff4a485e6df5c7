"""What each pod of a fleet has around its scope: looked up once, judged by all scopes there are.

The disk is looked at once, before the first pod is forked. Which of the folders found then a pod
may use depends on what the others may write, and is worked out anew for each start: pods that were
spawned meanwhile count, too, and so does what a pod may delegate. So do the pods of all other
fleets of this user, by what they have in the scope table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from protocol.manifest import PodManifest
from protocol.scope import Scope
from protocol.surroundings import Found, Surroundings, around, changeable
from supervisor.core.rows import Allocation


class FleetSurroundings:
    """The surroundings of one fleet's pods; what was worked out for a manifest is remembered."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self._known: dict[str, tuple[object, frozenset[str]]] = {}

    def changers(
        self, pods: Iterable[PodManifest], others: Iterable[Allocation] = ()
    ) -> Mapping[str, frozenset[str]]:
        """Return, of those pods that may, which places each may change.

        `others` are the rows of other fleets' pods, which stand here below their homes.
        """
        mine = {pod.name: self._changes(pod.name, pod, _scopes(pod)) for pod in pods}
        named = {f"{row.home}/{row.pod}": row for row in others}
        theirs = {name: self._changes(name, row, [_scope(row)]) for name, row in named.items()}
        self._known = {name: self._known[name] for name in (*mine, *theirs)}
        return {name: found for name, found in (mine | theirs).items() if found}

    def of(self, pod: PodManifest, changers: Mapping[str, frozenset[str]]) -> Surroundings:
        """Return what a pod has around it, given what all pods of its fleet may change."""
        return around(self._found, pod.name, changers, pod.scope)

    def _changes(self, name: str, pod: object, scopes: Iterable[Scope]) -> frozenset[str]:
        known = self._known.get(name)
        if known is None or known[0] is not pod:
            known = self._known[name] = (pod, changeable(self._found, scopes))
        return known[1]


def _scopes(pod: PodManifest) -> tuple[Scope, Scope]:
    return pod.scope, pod.delegation_scope


def _scope(row: Allocation) -> Scope:
    return Scope(allow=row.scope_allow, deny=row.scope_deny)
