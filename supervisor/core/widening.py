"""What an operator's files give that they did not give at the last start. Pure.

A fleet file may lie where a pod may write. That it is denied to commands at level `namespaces`
proves nothing of a file that changed: the level may have been another one then, and a file that was
replaced from outside, as editors do, is open to commands that run. So `start` asks two questions
before it believes what it reads:

    widenings    what do the files give now that they did not give then?
    unguarded    which of the files that changed lie where a pod may write?

Where both have an answer, a person has to look. What only narrows is never asked about.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from protocol.manifest import Budget, OrphanPolicy, PodManifest, Scheme, SupervisorTable
from protocol.scope import Permission, Scope, ScopeRule, contains, effective_permission, shares
from supervisor.core.descent import models_to_name, opens
from supervisor.core.operator_settings import (
    OperatorSettings,
    ReadFile,
    models_with_keys,
    place_of,
)

LAST = "than at the last start"

GIVES = frozenset(
    {
        "workspace",
        "model",
        "scope",
        "delegation_scope",
        "delegation_models",
        "engine",
        "permissions",
        "sandbox",
        "compaction",
        "memory",
        "budget",
        "limits",
        "feature",
        "mcp",
        "web",
        "hooks",
        "plugins",
        "stall_timeout_s",
        "hang_timeout_s",
    }
)
"""What of a pod may give it more."""

GIVES_NOTHING = frozenset(
    {
        "name",
        "fleet",
        "cwd",
        "description",
        "role",
        "task",
        "restart",
        "success_codes",
        "essential",
        "depends_on",
        "on_parent_exit",
        "logs",
        "stop_grace_s",
        "supervisor_wait_s",
        "beat_interval_s",
        "max_notification_runs",
    }
)
"""What of a pod gives it nothing, or is judged elsewhere: its bounds are the supervisor's."""

BOUNDS_OF_POD = ("engine.max_turns", "engine.timeouts.run_s", "stall_timeout_s", "hang_timeout_s")
BOUNDS_OF_SUPERVISOR = (
    "unreachable_after_s",
    "hang_timeout_s",
    "stall_timeout_s",
    *(f"budget.{key}" for key in Budget.model_fields),
    "max_children",
    "max_tree",
    "max_depth",
    "max_notification_runs.per_minute",
    "max_notification_runs.per_hour",
)
"""Keys that give more when they are larger, or say that there is no bound."""

OF_SUPERVISOR_NOTHING = frozenset({"beat_interval_s"})
_ZERO_IS_NO_BOUND = frozenset({"unreachable_after_s", "hang_timeout_s", "stall_timeout_s"})

_Table: TypeAlias = PodManifest | SupervisorTable


def writers(pods: Iterable[PodManifest], path: str) -> list[PodManifest]:
    """Return the pods that may write a canonical path: themselves, by a command, by a child."""
    return [pod for pod in pods if any(_may_write(scope, path) for scope in _scopes(pod))]


def unguarded(
    before: OperatorSettings, after: OperatorSettings, pods: Sequence[PodManifest]
) -> list[ReadFile]:
    """Return the files that changed since, and that one of the pods of then could have changed."""
    were = {file.path: file.sha256 for file in before.files}
    changed = (file for file in after.files if were.get(file.path) != file.sha256)
    return [file for file in changed if writers(pods, file.path)]


def widenings(
    before: OperatorSettings,
    then: Mapping[str, PodManifest],
    after: OperatorSettings,
    now: Sequence[PodManifest],
) -> list[str]:
    """Return what a fleet gives now and did not give then, a line each."""
    found = [f"[supervisor]: {what}" for what in _looser(before.supervisor, after.supervisor)]
    for pod in now:
        earlier = then.get(pod.name)
        if earlier is None:
            found.append(f"pod '{pod.name}' is new")
        else:
            found += (f"pod '{pod.name}': {what}" for what in widens(earlier, pod))
    if before.bare is not None and after.bare is not None:
        found += (f"[defaults]: {what}" for what in widens(before.bare, after.bare))
    elif [one.table for one in before.defaults] != [one.table for one in after.defaults]:
        found.append("[defaults] say something else")
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
    yield from _larger(BOUNDS_OF_POD, before, after)
    if after.delegation_scope.override_denies and not before.delegation_scope.override_denies:
        yield "delegation_scope.override_denies: was false, is true"
    may = {*models_to_name(before), after.model.name}
    if more := [name for name in models_to_name(after) if name not in may]:
        yield f"delegation_models: allows to name {', '.join(more)}"
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
    had = dict(models_with_keys(before))
    known = [place_of(model) for model in had.values()]
    for key, model in models_with_keys(after):
        was = had.get(key, before.model)
        if model.scheme is Scheme.SCRIPTED:
            continue
        if place_of(model) not in known:
            where = model.base_url or f"the usual address of {model.scheme}"
            yield f"{key}: is somewhere else, or takes another key, {LAST}: {where}"
        elif model.name != was.name:  # it may be dearer, for all that is known here
            yield f"{key}: was {was.name}, is {model.name}"


def _looser(before: SupervisorTable, after: SupervisorTable) -> Iterator[str]:
    yield from _larger(BOUNDS_OF_SUPERVISOR, before, after)
    if after.orphan_policy is OrphanPolicy.ADOPT and before.orphan_policy is OrphanPolicy.STOP:
        yield "orphan_policy: was stop, is adopt"


def _larger(keys: Iterable[str], before: _Table, after: _Table) -> Iterator[str]:
    for key in keys:
        was, now = _value(before, key), _value(after, key)
        if _bound(key, now) > _bound(key, was):
            yield f"{key}: {_change(was, now)}"


def _bound(key: str, value: Any) -> float:
    is_none = value is None or (value == 0 and key in _ZERO_IS_NO_BOUND)
    return math.inf if is_none else float(value)


def _change(before: object, after: object) -> str:
    if isinstance(before, str | int | float | None) and isinstance(after, str | int | float | None):
        return f"was {_word(before)}, is {_word(after)}"
    return f"gives more {LAST}"


def _word(value: object) -> str:
    if value is None:
        return "without a bound"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _value(table: _Table, key: str) -> object:
    value: Any = table
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
