"""What each pod of a fleet has around its scope: looked up once, judged by all scopes there are.

The disk is looked at once, before the first pod is forked. Which of the folders found then a pod
may use depends on what the others may write, and is worked out anew for each start: pods that were
spawned meanwhile count, too, and so does what a pod may delegate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from protocol.manifest import PodManifest
from protocol.surroundings import Found, Surroundings, around, changeable


class FleetSurroundings:
    """The surroundings of one fleet's pods; what was worked out for a manifest is remembered."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self._known: dict[str, tuple[PodManifest, frozenset[str]]] = {}

    def changers(self, pods: Iterable[PodManifest]) -> Mapping[str, frozenset[str]]:
        """Return, of those pods that may, which places each may change."""
        places = ((pod.name, self._changes(pod)) for pod in pods)
        return {name: found for name, found in places if found}

    def of(self, pod: PodManifest, changers: Mapping[str, frozenset[str]]) -> Surroundings:
        """Return what a pod has around it, given what all pods of its fleet may change."""
        return around(self._found, pod.name, changers, pod.scope)

    def _changes(self, pod: PodManifest) -> frozenset[str]:
        known = self._known.get(pod.name)
        if known is None or known[0] is not pod:
            places = changeable(self._found, (pod.scope, pod.delegation_scope))
            known = self._known[pod.name] = (pod, places)
        return known[1]
