"""What a child may be given: never more than its parent may give. Pure.

A child's manifest is made in two steps that do not trust each other. It is *built*: the parent's
settings (`inherited`), a profile over them, the call over the profile. And it is *judged*, whole,
as it came out: `exceeds` names everything in it that goes beyond the parent. The second step is the
gate; it is passed by every child at its spawn, and again at every restore, since the parent's own
authority may have become smaller meanwhile.

    scope          writes: lendable     reads: lendable, or the workspace
    delegation     lendable
    denies         those of the parent's scope, too
    models to name those that the parent may name
    permissions    what the parent may not do comes first, and what it may do only then
    sandbox        as closed, at least
    features       those of the parent, at most
    budget         each bound, at most
    models         where the parent's are, or where a file of the operator says

*Lendable* is the parent's delegation scope. The two authorities of the parent are apart: what it
may lend may be more than what its own tools may do. But a deny is a never: the denies of the
parent's scope bind all below it, and so do the read denies of what it may lend (`binding`). What
lies wholly under such a deny is refused. What only overlaps it is given, and the deny comes with
it. An operator may free children of the write denies (`override_denies`); nobody frees them of the
read denies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

from protocol.manifest import (
    Action,
    Budget,
    Feature,
    Limits,
    Model,
    Permissions,
    PodManifest,
    Restart,
    Sandbox,
    SandboxLevel,
    SandboxMode,
    Scheme,
)
from protocol.scope import Permission, Scope, ScopeRule, contains, covers, shares, takes
from supervisor.core.operator_settings import laid_over, models_with_keys, place_of

NOT_INHERITED = frozenset(
    {
        "name",
        "description",
        "role",
        "task",
        "restart",
        "success_codes",
        "essential",
        "depends_on",
        "on_parent_exit",
        "scope",
        "delegation_scope",
        "permissions",
    }
)
"""What a child does not have from its parent's manifest; besides the engine's instruction."""

_STRICTNESS = [Action.ALLOW, Action.ASK, Action.DENY]
_MODES = [SandboxMode.OFF, SandboxMode.PREFER, SandboxMode.REQUIRE]
_LEVELS = [SandboxLevel.LANDLOCK, SandboxLevel.NAMESPACES]
_NO_BOUNDS = ("nice", "oom_score_adj")
"""Limits that say how, and not how much."""


def inherited(parent: PodManifest) -> dict[str, Any]:
    """Return the settings a child has where neither profile nor call says otherwise.

    Its scope begins with the workspace, for reading, and with the denies that bind the parent's
    children.
    """
    settings = parent.model_dump(mode="json", exclude=set(NOT_INHERITED))
    settings["engine"]["instruction"] = None
    settings["restart"] = Restart.NEVER.value
    workspace = {"target": parent.workspace, "permission": "read"}
    denies = [rule.to_wire() for rule in binding(parent)]
    settings["scope"] = {"allow": [workspace], "deny": denies}
    return settings


def narrowed(parent: Permissions, asked: Permissions) -> Permissions:
    """Return a policy that allows what both allow, and nothing that the parent's does not.

    The parent's refusals come first, so that nothing asked for can be matched before them. Where
    the parent refuses by default, an allow that it has not itself is left in: `exceeds` names it.
    """
    refusals = tuple(rule for rule in parent.rule if rule.action is not Action.ALLOW)
    allows = tuple(rule for rule in parent.rule if rule.action is Action.ALLOW)
    default = max(parent.default_action, asked.default_action, key=_STRICTNESS.index)
    return Permissions(default_action=default, rule=(*refusals, *asked.rule, *allows))


def lendable(parent: PodManifest) -> Scope:
    """Return all that a pod may lend."""
    own = parent.delegation_scope
    return Scope(allow=own.allow, deny=own.deny)


def binding(parent: PodManifest) -> tuple[ScopeRule, ...]:
    """Return the denies that bind those below a pod: of its scope, and of reading what it lends.

    What it may not lend for writing binds nobody who writes nothing; `covers` sees to the others.
    """
    lends = parent.delegation_scope
    own = (r for r in parent.scope.deny if not (lends.override_denies and _denies_writing(r)))
    return tuple(dict.fromkeys((*own, *(r for r in lends.deny if not _denies_writing(r)))))


def _denies_writing(deny: ScopeRule) -> bool:
    return deny.permission is Permission.WRITE


def unbound(
    denies: Iterable[ScopeRule], scope: Scope, delegation: Scope | None = None
) -> Iterator[ScopeRule]:
    """Yield the denies that a scope does not have, and that take something from what it allows.

    A read deny always does: whoever may read the workspace may be asked for any of it.
    """
    allowed = (*scope.allow, *(delegation.allow if delegation else ()))
    for deny in denies:
        is_met = deny.permission is Permission.READ or any(
            rule.permission.includes(deny.permission) and shares(deny, rule) for rule in allowed
        )
        if is_met and not any(takes(own, deny) for own in scope.deny):
            yield deny


def models_to_name(pod: PodManifest) -> tuple[str, ...]:
    """Return the models that a pod may name for a child, as `scheme:model id`."""
    named = pod.delegation_models
    return (pod.model.name,) if named is None else named


def exceeds(
    parent: PodManifest, child: PodManifest, *, places: Sequence[Mapping[str, Any]] = ()
) -> list[str]:
    """Return what in a child's manifest goes beyond what its parent may give; empty is well.

    `places` are the tables in which the operator says where models are.
    """
    return [*_beyond(parent, child), *_beyond_places(parent, child, places)]


def opens(before: PodManifest, after: PodManifest) -> Iterator[str]:
    """Yield what else than scopes and models one manifest opens that another one does not."""
    if before.permissions != after.permissions:
        yield from _beyond_permissions(before.permissions, after.permissions)
    yield from _beyond_sandbox(before.sandbox, after.sandbox)
    yield from _beyond_features(before.feature, after.feature)
    yield from _beyond_bounds("budget", before.budget, after.budget)
    yield from _beyond_bounds("limits", before.limits, after.limits)
    yield from _beyond_tools(before, after)


def _beyond(parent: PodManifest, child: PodManifest) -> Iterator[str]:
    yield from _beyond_scope(parent, child)
    yield from _beyond_models(parent, child)
    yield from _beyond_permissions(parent.permissions, child.permissions)
    yield from _beyond_sandbox(parent.sandbox, child.sandbox)
    yield from _beyond_features(parent.feature, child.feature)
    yield from _beyond_bounds("budget", parent.budget, child.budget)
    yield from _beyond_bounds("limits", parent.limits, child.limits)
    for key in ("fleet", "workspace"):
        if getattr(child, key) != getattr(parent, key):
            yield f"{key}: a child has its parent's, {getattr(parent, key)}"
    yield from _beyond_tools(parent, child)
    if child.essential:
        yield "essential: the end of a child cannot be the end of the fleet"


def _beyond_places(
    parent: PodManifest, child: PodManifest, places: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """Yield the models that are where neither the parent nor the operator has any.

    Who could say where a child's model is could have a key sent there. A table of the operator may
    say less than a whole place: it lay over the parent's model, or over what is built in.
    """
    mine = [model for _, model in models_with_keys(parent)]
    others = [(key, model) for key, model in models_with_keys(child) if model not in mine]
    if not others:
        return
    named = {Scheme(name.partition(":")[0]) for name in models_to_name(parent)}
    bare = [Model(), *(Model(scheme=scheme) for scheme in named)]
    had = [place_of(model) for model in (*bare, *mine)]
    allowed = [*had, *(laid_over(place, table) for table in places for place in had)]
    for key, model in others:
        if place_of(model) not in allowed:
            yield f"{key}: it is where neither the parent's model nor an offered profile's is"


def _beyond_scope(parent: PodManifest, child: PodManifest) -> Iterator[str]:
    may_lend, denies = lendable(parent), binding(parent)
    workspace = ScopeRule(target=parent.workspace, permission=Permission.READ)
    for rule in child.scope.allow:
        is_workspace = rule.permission is Permission.READ and contains(workspace, rule)
        if not is_workspace:
            yield from _beyond_rule("scope", rule, may_lend, denies)
    for rule in child.delegation_scope.allow:
        yield from _beyond_rule("delegation_scope", rule, may_lend, denies)
    for deny in unbound(denies, child.scope, child.delegation_scope):
        yield f"scope: {_never(deny)}"
    if child.delegation_scope.override_denies and not parent.delegation_scope.override_denies:
        yield "delegation_scope.override_denies: the parent has it not"


def _beyond_rule(
    key: str, rule: ScopeRule, may_lend: Scope, denies: Iterable[ScopeRule]
) -> Iterator[str]:
    if not covers(may_lend, rule):
        yield _not_lendable(key, rule, may_lend)
    elif (deny := next((one for one in denies if takes(one, rule)), None)) is not None:
        yield f"{key}: {rule.permission} {rule.target}: {_never(deny)}"


def _never(deny: ScopeRule) -> str:
    return f"the parent may not {deny.permission} {deny.target} or lend it, so neither may a child"


def _not_lendable(key: str, rule: ScopeRule, may_lend: Scope) -> str:
    has = ", ".join(f"{r.permission} {r.target}" for r in may_lend.allow) or "nothing"
    less = "".join(f", not {r.permission} {r.target}" for r in may_lend.deny)
    return f"{key}: {rule.permission} {rule.target} is not the parent's to lend: it has {has}{less}"


def _beyond_models(parent: PodManifest, child: PodManifest) -> Iterator[str]:
    """A child may name its own model, whoever chose it, and of the others what the parent may."""
    may = {*models_to_name(parent), child.model.name}
    if more := [name for name in models_to_name(child) if name not in may]:
        yield f"delegation_models: the parent may not name {', '.join(more)}"


def _beyond_permissions(parent: Permissions, child: Permissions) -> Iterator[str]:
    refusals = tuple(rule for rule in parent.rule if rule.action is not Action.ALLOW)
    first = list(takewhile(lambda rule: rule.action is not Action.ALLOW, child.rule))
    own = (n for n, rule in enumerate(first) if rule.action is Action.ASK and rule not in refusals)
    before_its_own = first[: next(own, len(first))]  # to ask is softer than to refuse
    if any(rule not in before_its_own for rule in refusals):
        yield "permissions: the parent's refusals do not come first"
    if _STRICTNESS.index(child.default_action) < _STRICTNESS.index(parent.default_action):
        yield f"permissions.default_action: the parent's is {parent.default_action}"
    if parent.default_action is Action.ALLOW:
        return
    for rule in child.rule:
        if rule.action is not Action.DENY and rule not in parent.rule:
            yield f"permissions.rule: the parent does not {rule.action} {rule.tool} {rule.pattern}"


def _beyond_sandbox(parent: Sandbox, child: Sandbox) -> Iterator[str]:
    if _MODES.index(child.mode) < _MODES.index(parent.mode):
        yield f"sandbox.mode: the parent's is {parent.mode}"
    if _LEVELS.index(child.level) < _LEVELS.index(parent.level):
        yield f"sandbox.level: the parent's is {parent.level}"
    for key in ("network", "unix_sockets"):
        if getattr(child, key) and not getattr(parent, key):
            yield f"sandbox.{key}: the parent has it not"
    for key in ("extra_read", "extra_write"):
        if more := set(getattr(child, key)) - set(getattr(parent, key)):
            yield f"sandbox.{key}: the parent has not {', '.join(sorted(more))}"


def _beyond_features(parent: Feature, child: Feature) -> Iterator[str]:
    for key, has in parent:
        wanted = getattr(child, key)
        if isinstance(wanted, bool):
            if wanted and not has:
                yield f"feature.{key}: the parent has it not"
        elif wanted.enabled and wanted != has:
            yield f"feature.{key}: a child has its parent's or none"


def _beyond_bounds(table: str, parent: Budget | Limits, child: Budget | Limits) -> Iterator[str]:
    for key, most in parent:
        wanted = getattr(child, key)
        if key not in _NO_BOUNDS and most is not None and (wanted is None or wanted > most):
            yield f"{table}.{key}: the parent's is {most:g}"


def _beyond_tools(parent: PodManifest, child: PodManifest) -> Iterator[str]:
    """Yield what runs outside of every bound and is not the parent's, too."""
    mine = parent.mcp.servers
    servers = [name for name, one in child.mcp.servers.items() if mine.get(name) != one]
    if servers or child.mcp.trust > parent.mcp.trust:
        yield "mcp: a child has its parent's or none"
    for key in ("hooks", "plugins"):
        if any(one not in getattr(parent, key) for one in getattr(child, key)):
            yield f"{key}: a child has its parent's or none"
    for key in ("web", "memory"):
        given = getattr(child, key)
        if given is not None and given != getattr(parent, key):
            yield f"{key}: a child has its parent's or none"
