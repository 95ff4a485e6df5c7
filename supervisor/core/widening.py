"""What an operator's files give that they did not give at the last start. Pure.

A fleet file may lie where a pod of the fleet may write. Commands cannot change it at level
`namespaces`, but at a lower level they can, and a file that was not there at the last start could
be made at any level. So `start` asks two questions before it believes what it reads:

    widenings    what do the files give now that they did not give then?
    unguarded    which of the files that changed could a pod have changed?

Where both have an answer, a person has to look. What only narrows is never asked about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from protocol.cage import CageLevel
from protocol.manifest import PodManifest, SandboxMode, Scheme
from protocol.scope import Permission, Scope, ScopeRule, contains, effective_permission, shares
from supervisor.core.descent import opens
from supervisor.core.operator_settings import (
    OperatorSettings,
    ReadFile,
    models_with_keys,
    place_of,
)

LAST = "than at the last start"


def writers(pods: Iterable[PodManifest], path: str) -> list[PodManifest]:
    """Return the pods that may write a canonical path: themselves, by a command, by a child."""
    return [pod for pod in pods if any(_may_write(scope, path) for scope in _scopes(pod))]


def unguarded(
    before: OperatorSettings,
    after: OperatorSettings,
    pods: Sequence[PodManifest],
    level: CageLevel,
) -> list[ReadFile]:
    """Return the files that changed since, and that one of the pods of then could have changed.

    At level `namespaces` a file that was there is denied to commands, where they have a sandbox.
    """
    were = {file.path: file.sha256 for file in before.files}
    found = []
    for file in after.files:
        those = writers(pods, file.path) if were.get(file.path) != file.sha256 else []
        held = level is CageLevel.NAMESPACES and file.path in were
        if any(not held or pod.sandbox.mode is SandboxMode.OFF for pod in those):
            found.append(file)
    return found


def widenings(
    before: OperatorSettings,
    then: Mapping[str, PodManifest],
    after: OperatorSettings,
    now: Sequence[PodManifest],
) -> list[str]:
    """Return what a fleet gives now and did not give then, a line each."""
    found: list[str] = []
    for pod in now:
        earlier = then.get(pod.name)
        if earlier is None:
            found.append(f"pod '{pod.name}' is new")
        else:
            found += (f"pod '{pod.name}': {what}" for what in widens(earlier, pod))
    if before.bare is not None and after.bare is not None:
        found += (f"[defaults]: {what}" for what in widens(before.bare, after.bare))
    for name, profile in after.profiles.items():
        if name not in before.profiles:
            found.append(f"profile '{name}' is new")
        elif before.profiles[name].table != profile.table:
            found.append(f"profile '{name}' says something else")
    return found


def widens(before: PodManifest, after: PodManifest) -> list[str]:
    """Return what one pod is given that it was not given before."""
    return [*_widens(before, after)]


def _widens(before: PodManifest, after: PodManifest) -> Iterator[str]:
    for key in ("scope", "delegation_scope"):
        yield from _wider_scope(key, getattr(before, key), getattr(after, key))
    for key in dict.fromkeys(told.partition(":")[0] for told in opens(before, after)):
        yield f"{key}: {_change(_value(before, key), _value(after, key))}"
    if before.workspace != after.workspace:
        yield f"workspace: was {before.workspace}, is {after.workspace}"
    yield from _moved_models(before, after)


def _wider_scope(key: str, before: Scope, after: Scope) -> Iterator[str]:
    for rule in after.allow:
        if not any(_includes(had, rule) for had in before.allow):
            yield f"{key}: allows to {rule.permission} {rule.target}"
    for rule in before.deny:
        is_kept = any(contains(now, rule) and _as_strict(now, rule) for now in after.deny)
        if not is_kept and any(shares(rule, allow) for allow in after.allow):
            yield f"{key}: does not deny to {rule.permission} {rule.target} any more"


def _includes(outer: ScopeRule, inner: ScopeRule) -> bool:
    return outer.permission.includes(inner.permission) and contains(outer, inner)


def _as_strict(deny: ScopeRule, other: ScopeRule) -> bool:
    return other.permission.includes(deny.permission)  # who may not read may do nothing


def _moved_models(before: PodManifest, after: PodManifest) -> Iterator[str]:
    known = [place_of(model) for _, model in models_with_keys(before)]
    for key, model in models_with_keys(after):
        if model.scheme is not Scheme.SCRIPTED and place_of(model) not in known:
            where = model.base_url or f"the usual address of {model.scheme}"
            yield f"{key}: is somewhere else, or takes another key, {LAST}: {where}"


def _change(before: object, after: object) -> str:
    if isinstance(before, str | int | float | None) and isinstance(after, str | int | float | None):
        return f"was {_word(before)}, is {_word(after)}"
    return f"gives more {LAST}"


def _word(value: object) -> str:
    if value is None:
        return "without a bound"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _value(manifest: PodManifest, key: str) -> object:
    value: Any = manifest
    for step in key.split("."):
        value = getattr(value, step, None)
    return value


def _may_write(scope: Scope, path: str) -> bool:
    return effective_permission(scope, path) is Permission.WRITE


def _scopes(pod: PodManifest) -> Iterator[Scope]:
    yield pod.scope
    yield pod.delegation_scope
    extra = (ScopeRule(target=p, permission=Permission.WRITE) for p in pod.sandbox.extra_write)
    yield Scope(allow=tuple(extra))
