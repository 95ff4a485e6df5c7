"""What a child may be given: never more than its parent may give, judged by brute force.

The oracle (`beyond`) asks nothing of `core.descent`. It knows a small tree of paths, a few tool
calls and a few bounds, and compares what each of the two may do at each of them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from podproc.tools.policy import policy_of
from protocol import control as c
from protocol.errors import Forbidden, InvalidRequest, NotSubset
from protocol.manifest import (
    Action,
    Feature,
    Permissions,
    PodManifest,
    SandboxLevel,
    SandboxMode,
    SupervisorTable,
    TicketAccess,
    unavailable,
)
from protocol.scope import Permission, Scope, ScopeRule, effective_permission, matches
from supervisor.boot import Boot
from supervisor.core.descent import binding, exceeds, inherited, models_to_name, narrowed
from supervisor.core.fleet_record import SettingsFixed
from supervisor.core.operator_settings import OperatorSettings, PlacedTable
from supervisor.desk import Desk
from supervisor.fleet_file import FleetFileInvalid, load_fleet, resolve_child
from supervisor.journal import Journal
from supervisor.paths import Paths
from supervisor.pod_store import PodStore
from supervisor.scope_table import ScopeTable

SUPERVISOR = SupervisorTable()
PATHS = ("w", "w/a", "w/a/b", "w/ab", "w/d", "x", "x/y")
PROBES = tuple(f"{path}{below}" for path in ("", *PATHS) for below in ("", "/n", "/n/n"))
TOOLS = ("Bash", "Write")
SUBJECTS = ("", "rm it", "a", "w/a")

PROFILES = {
    "plain": 'role = "reader"\n',
    "writer": '[scope]\nallow = [{target = "a", permission = "write"}]\n',
    "giver": '[delegation_scope]\nallow = [{target = "d", permission = "write"}]\n',
    "tools": '[permissions]\nrule = [{tool = "Bash", action = "allow"}]\n',
    "strict": '[permissions]\ndefault_action = "deny"\n[sandbox]\nnetwork = false\n',
    "open": '[sandbox]\nmode = "off"\nnetwork = true\n',
    "again": 'restart = "on-failure"\n',
}


@dataclass(frozen=True)
class Ground:
    """A tree on disk: the workspace `w`, a neighbour `x`, and profiles beside them."""

    root: str

    def at(self, path: str) -> str:
        """Return the real path of one that is named from the root."""
        return f"{self.root}/{path}"

    def placed(self, scope: Mapping[str, Any]) -> dict[str, Any]:
        """Return a scope with its targets where they are."""
        return {
            side: rules
            if side == "override_denies"
            else [{**rule, "target": self.at(rule["target"])} for rule in rules]
            for side, rules in scope.items()
        }

    def parent(self, name: str = "boss", **settings: Any) -> PodManifest:
        """Return the manifest of a parent; it reads its workspace and more where it is told so."""
        scope = self.placed(settings.pop("scope", {}))
        workspace = {"target": self.at("w"), "permission": "read"}
        lends = self.placed(settings.pop("delegation_scope", {}))
        sandbox = self.opened(settings.pop("sandbox", {}))
        where = {"fleet": "f", "workspace": self.at("w"), "cwd": self.at("w")}
        return PodManifest.model_validate(
            {
                "name": name,
                **where,
                "scope": {**scope, "allow": [*scope.get("allow", []), workspace]},
                "delegation_scope": lends,
                "sandbox": sandbox,
                **settings,
            }
        )

    def opened(self, sandbox: Mapping[str, Any]) -> dict[str, Any]:
        """Return sandbox settings with their folders where they are."""
        keys = {"extra_read", "extra_write"} & sandbox.keys()
        return {**sandbox, **{key: [self.at(path) for path in sandbox[key]] for key in keys}}

    def child(self, parent: PodManifest, **table: Any) -> PodManifest:
        """Return what a `[[pod]]` table comes to below a parent; raises what is wrong with it."""
        for key in {"scope", "delegation_scope"} & table.keys():
            table[key] = self.placed(table[key])
        if "sandbox" in table:
            table["sandbox"] = self.opened(table["sandbox"])
        if "cwd" in table:
            table["cwd"] = self.at(table["cwd"])
        if "profile" in table:
            table["profile"] = self.at(f"profiles/{table['profile']}.toml")
        return resolve_child({"name": "kid", **table}, parent, supervisor=SUPERVISOR, places=None)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    root = Path(os.path.realpath(tmp_path_factory.mktemp("ground")))
    for path in ("profiles", *PATHS):
        (root / path).mkdir(parents=True, exist_ok=True)
    for name, text in PROFILES.items():
        (root / "profiles" / f"{name}.toml").write_text(text)
    return Ground(str(root))


def read(target: str, **more: Any) -> dict[str, Any]:
    return {"target": target, "permission": "read", **more}


def write(target: str, **more: Any) -> dict[str, Any]:
    return {"target": target, "permission": "write", **more}


def allow(*rules: dict[str, Any]) -> dict[str, Any]:
    return {"allow": list(rules)}


# -- the oracle


RANK = {None: 0, Permission.READ: 1, Permission.WRITE: 2}
STRICTNESS = (Action.ALLOW, Action.ASK, Action.DENY)
MODES = (SandboxMode.OFF, SandboxMode.PREFER, SandboxMode.REQUIRE)
LEVELS = (SandboxLevel.LANDLOCK, SandboxLevel.NAMESPACES)
ACCESS = (TicketAccess.READ_ONLY, TicketAccess.LIFECYCLE)


def beyond(parent: PodManifest, child: PodManifest, root: str) -> list[str]:
    """Return where a child may do what its parent may not give it."""
    return [
        *_beyond_at_a_path(parent, child, root),
        *_beyond_in_a_call(parent.permissions, child.permissions),
        *_beyond_in_a_bound(parent, child),
    ]


def _beyond_at_a_path(parent: PodManifest, child: PodManifest, root: str) -> Iterator[str]:
    everything = ScopeRule(target="/", permission=Permission.READ)
    readable = Scope(allow=(everything,), deny=parent.scope.deny)
    for path in (f"{root}/{probe}".rstrip("/") for probe in PROBES):
        lends = gives_at(parent, path)
        reads = Permission.READ if f"{path}/".startswith(f"{parent.workspace}/") else None
        if effective_permission(readable, path) is None:
            lends = reads = None
        has = effective_permission(child.scope, path)
        if RANK[has] > max(RANK[lends], RANK[reads]):
            yield f"{has} {path}"
        gives = gives_at(child, path)
        if RANK[gives] > RANK[lends]:
            yield f"lending {gives} {path}"


def gives_at(pod: PodManifest, path: str) -> Permission | None:
    """Return the most that a pod may give at a path: its delegation, under its own denies."""
    lends, denied = (
        pod.delegation_scope,
        {
            rule.permission
            for rule in pod.scope.deny
            if path == rule.target
            or (rule.recursive and path.startswith(f"{rule.target}/"))
            or os.path.dirname(path) == rule.target
        },
    )
    if lends.override_denies:
        denied.discard(Permission.WRITE)
    given = effective_permission(lends, path)
    if given is None or Permission.READ in denied:
        return None
    return Permission.READ if Permission.WRITE in denied else given


def _beyond_in_a_call(parent: Permissions, child: Permissions) -> Iterator[str]:
    for tool, subject in itertools.product((*TOOLS, "Edit"), SUBJECTS):
        most, has = decided(parent, tool, subject), decided(child, tool, subject)
        if STRICTNESS.index(has) < STRICTNESS.index(most):
            yield f"{has} {tool} {subject!r}"


def decided(permissions: Permissions, tool: str, subject: str) -> Action:
    """Return what a policy says of a call: its first rule that matches, else its default."""
    for rule in permissions.rule:
        if fnmatchcase(tool, rule.tool) and fnmatchcase(subject, rule.pattern):
            return rule.action
    return permissions.default_action


def _beyond_in_a_bound(parent: PodManifest, child: PodManifest) -> Iterator[str]:
    most, has = parent.sandbox, child.sandbox
    if MODES.index(has.mode) < MODES.index(most.mode):
        yield f"mode {has.mode}"
    if LEVELS.index(has.level) < LEVELS.index(most.level):
        yield f"level {has.level}"
    if (has.network, has.unix_sockets) > (most.network, most.unix_sockets):
        yield "network or sockets"
    if has.unix_sockets and not most.unix_sockets:
        yield "sockets"
    if not ({*has.extra_read} <= {*most.extra_read} and {*has.extra_write} <= {*most.extra_write}):
        yield "opened folders"
    for name in set(Feature.model_fields) - {"tickets"}:
        if getattr(child.feature, name) and not getattr(parent.feature, name):
            yield f"feature {name}"
    ours, theirs = child.feature.tickets, parent.feature.tickets
    if ours.enabled and not theirs.enabled:
        yield "tickets"
    if ours.enabled and ACCESS.index(ours.access) > ACCESS.index(theirs.access):
        yield "access to tickets"
    for name, bound in parent.budget:
        mine = getattr(child.budget, name)
        if bound is not None and (mine is None or mine > bound):
            yield f"budget {name}"
    if (child.fleet, child.workspace, child.essential) != (parent.fleet, parent.workspace, False):
        yield "place"


# -- what there is to ask for


SCOPE_RULES = tuple(
    {"target": path, "permission": permission, "recursive": recursive}
    for path in PATHS
    for permission in ("read", "write")
    for recursive in (True, False)
)
POLICY_RULES = tuple(
    {"tool": tool, "pattern": pattern, "action": action}
    for tool in (*TOOLS, "*")
    for pattern in ("*", "rm *", "a", "w/*")
    for action in ("allow", "deny", "ask")
)


OWN_RULES = tuple({"own": number, "below": below} for number in range(3) for below in ("", "/n"))
"""What stands for a rule of the parent's own: a request that is often granted."""


def scopes(
    rules: Sequence[Mapping[str, Any]] = SCOPE_RULES, *, least: int = 0
) -> st.SearchStrategy[dict[str, Any]]:
    some = st.lists(st.sampled_from(rules), min_size=least, max_size=3)
    return st.fixed_dictionaries(
        {"allow": some}, optional={"deny": st.lists(st.sampled_from(SCOPE_RULES), max_size=2)}
    )


def policies(
    rules: Sequence[Mapping[str, Any]] = POLICY_RULES,
) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "default_action": st.sampled_from(["allow", "deny", "ask"]),
            "rule": st.lists(st.sampled_from(rules), max_size=4),
        }
    )


SOME_PATHS = st.lists(st.sampled_from(PATHS[:3]), max_size=2)
SANDBOXES = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["off", "prefer", "require"]),
        "level": st.sampled_from(["landlock", "namespaces"]),
    },
    optional={
        "network": st.booleans(),
        "unix_sockets": st.booleans(),
        "extra_read": SOME_PATHS,
        "extra_write": SOME_PATHS,
    },
)
FEATURES = st.fixed_dictionaries(
    {},
    optional={
        "pods": st.booleans(),
        "web": st.booleans(),
        "tickets": st.fixed_dictionaries(
            {"enabled": st.booleans(), "access": st.sampled_from(["read_only", "lifecycle"])}
        ),
    },
)
BUDGETS = st.fixed_dictionaries(
    {},
    optional={
        "usd": st.sampled_from([None, 0.0, 1.0, 2.0]),
        "depth": st.sampled_from([None, 0, 3]),
    },
)
PARENT: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "scope": st.fixed_dictionaries({"deny": st.lists(st.sampled_from(SCOPE_RULES), max_size=2)}),
    "delegation_scope": scopes(least=1),
    "permissions": policies(),
    "sandbox": SANDBOXES,
    "feature": FEATURES,
    "budget": BUDGETS,
}


def parents(keys: Sequence[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Return parents that always lend something, and differ where it matters to these keys."""
    wanted = {"delegation_scope", "permissions", *keys} & PARENT.keys()
    return st.fixed_dictionaries({key: PARENT[key] for key in sorted(wanted)})


ASKED_SCOPES = scopes([*SCOPE_RULES, *OWN_RULES * 8])
REQUESTS: dict[str, st.SearchStrategy[Any]] = {
    "scope": ASKED_SCOPES,
    "delegation_scope": ASKED_SCOPES,
    "permissions": policies([*POLICY_RULES, *OWN_RULES * 8]),
    "sandbox": SANDBOXES,
    "feature": FEATURES,
    "budget": BUDGETS,
    "cwd": st.sampled_from(PATHS),
    "profile": st.sampled_from(sorted(PROFILES)),
    "workspace": st.just("/elsewhere"),
    "essential": st.booleans(),
    "restart": st.sampled_from(["never", "always"]),
    "engine": st.just({"instruction": "be quick"}),
}


@st.composite
def requests(draw: st.DrawFn, keys: Sequence[str]) -> dict[str, Any]:
    """Draw what to ask of a parent, by a few of these keys."""
    wanted = draw(st.lists(st.sampled_from(keys), min_size=1, max_size=3, unique=True))
    return {key: draw(REQUESTS[key]) for key in wanted}


def asked_of(parent: Mapping[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Return a request with the parent's own rules where they are meant."""
    lends = parent.get("delegation_scope", {}).get("allow", [])
    policy = parent.get("permissions", {}).get("rule", [])
    table = dict(asked)
    for key in {"scope", "delegation_scope"} & asked.keys():
        table[key] = {**asked[key], "allow": list(_meant(asked[key]["allow"], lends))}
    if "rule" in asked.get("permissions", {}):
        rules = list(_meant(asked["permissions"]["rule"], policy))
        table["permissions"] = {**asked["permissions"], "rule": rules}
    return table


def _meant(
    rules: Sequence[Mapping[str, Any]], own: Sequence[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    for rule in rules:
        if "own" not in rule:
            yield dict(rule)
        elif own:
            meant = dict(own[rule["own"] % len(own)])
            if "target" in meant:
                meant["target"] += rule["below"]
            yield meant


# -- whatever is asked


class Call(BaseModel):
    """What a tool is called with."""

    command: str


def answer_of(asked: Awaitable[str | None]) -> str | None:
    """Return what a check says; it waits for nothing."""
    with pytest.raises(StopIteration) as over:
        next(asked.__await__())
    answer: str | None = over.value.value
    return answer


@settings(max_examples=200)
@given(policies())
def test_the_oracle_reads_a_policy_as_the_pods_do(written: dict[str, Any]) -> None:
    policy = Permissions.model_validate(written)
    check = policy_of(policy)
    for tool, subject in itertools.product(TOOLS, SUBJECTS):
        refusal = answer_of(check(tool, Call(command=subject)))
        assert (refusal is None) == (decided(policy, tool, subject) is Action.ALLOW)


EACH = 3
"""How much is asked of each parent, by itself."""


@pytest.mark.parametrize(
    ("keys", "pairs"),
    [
        (("scope", "delegation_scope"), 1_200),
        (("permissions",), 600),
        (("sandbox", "feature", "budget"), 300),
        (tuple(REQUESTS), 900),
    ],
    ids=["scopes", "permissions", "bounds", "everything"],
)
def test_a_child_is_refused_or_within_what_its_parent_may_give(
    ground: Ground, keys: tuple[str, ...], pairs: int
) -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=pairs // EACH)
    @given(parents(keys), st.lists(requests(keys), min_size=EACH, max_size=EACH))
    def judge(has: dict[str, Any], wishes: list[dict[str, Any]]) -> None:
        parent = ground.parent(**has)
        for wish in wishes:
            seen["pairs"] += 1
            try:
                child = ground.child(parent, **asked_of(has, wish))
            except (FleetFileInvalid, NotSubset) as refused:
                seen[type(refused).__name__] += 1
                continue
            seen["given"] += 1
            assert beyond(parent, child, ground.root) == []
            assert exceeds(parent, child) == [], "so that it is not refused at its restore"

    judge()
    assert seen["pairs"] >= pairs
    assert seen["given"] >= pairs // 10, f"too few were given what they asked for: {seen}"
    assert seen["NotSubset"] >= pairs // 50, f"too few asked for too much: {seen}"


AUTHORITY = ("scope", "delegation_scope", "permissions")


def test_whoever_stands_in_for_a_lost_parent_judges_its_children_like_it(ground: Ground) -> None:
    """All above a pod are above what it has: six generations, each compared with all before."""
    depths: Counter[int] = Counter()

    @settings(max_examples=180)
    @given(parents(AUTHORITY), st.lists(requests(AUTHORITY), min_size=6, max_size=6))
    def descend(has: dict[str, Any], wishes: list[dict[str, Any]]) -> None:
        line = [ground.parent(**has)]
        for wish in wishes:
            table = asked_of(has, {"delegation_scope": has["delegation_scope"], **wish})
            for asked in (table, {"delegation_scope": has["delegation_scope"]}):
                try:
                    line.append(ground.child(line[-1], **asked))
                except (FleetFileInvalid, NotSubset):
                    continue
                has = {**has, "delegation_scope": asked["delegation_scope"]}
                break
            else:
                break
        depths[len(line) - 1] += 1
        for above, below in itertools.combinations(line, 2):
            assert beyond(above, below, ground.root) == []
            assert exceeds(above, below) == []

    descend()
    assert depths[6] >= 30, depths


# -- six generations, by hand


def writable(pod: PodManifest, ground: Ground, depth: int = 6) -> set[str]:
    folders = ["w", *("/".join(["w", *"abcdef"[:number]]) for number in range(1, depth + 1))]
    return {
        folder
        for folder in folders
        if effective_permission(pod.scope, ground.at(folder)) is Permission.WRITE
    }


def test_authority_shrinks_at_each_of_six_generations(ground: Ground) -> None:
    pod = ground.parent(scope=allow(write("w")), delegation_scope=allow(write("w")))
    folder, seen = "w", [writable(pod, ground)]
    for number, step in enumerate("abcdef", 1):
        folder = f"{folder}/{step}"
        pod = ground.child(
            pod,
            name=f"kid{number}",
            scope=allow(write(folder)),
            delegation_scope=allow(write(folder)),
        )
        seen.append(writable(pod, ground))
    assert [len(one) for one in seen] == [7, 6, 5, 4, 3, 2, 1]
    assert all(less < more for more, less in itertools.pairwise(seen))


@pytest.mark.parametrize("key", ["scope", "delegation_scope"])
def test_what_was_given_up_on_the_way_down_cannot_be_asked_for_below(
    ground: Ground, key: str
) -> None:
    pod = ground.parent(delegation_scope=allow(write("w")))
    pod = ground.child(pod, delegation_scope=allow(write("w/a")))
    pod = ground.child(pod, delegation_scope=allow(write("w/a/b")))
    ground.child(pod, **{key: allow(write("w/a/b/c"))})
    with pytest.raises(NotSubset, match=rf"{key}: write .*/w/a is not the parent's to lend"):
        ground.child(pod, **{key: allow(write("w/a"))})


def test_a_child_without_a_delegation_scope_ends_the_line(ground: Ground) -> None:
    pod = ground.child(ground.parent(delegation_scope=allow(write("w"))), scope=allow(write("w/a")))
    with pytest.raises(NotSubset, match="it has nothing"):
        ground.child(pod, scope=allow(write("w/a")))


# -- what a child begins with


def test_a_child_that_asks_for_nothing_reads_the_workspace_and_has_its_parents_settings(
    ground: Ground,
) -> None:
    parent = ground.parent(
        role="boss",
        task="lead",
        restart="always",
        essential=True,
        engine={"instruction": "lead", "max_turns": 7},
        scope={**allow(write("w/a")), "deny": [read("w/d")]},
        delegation_scope=allow(write("w/a")),
        feature={"pods": True, "web": True},
        budget={"usd": 2.0},
        stop_grace_s=9,
    )
    child = ground.child(parent)
    may = {path: effective_permission(child.scope, ground.at(path)) for path in PATHS}
    assert may == {
        "w": "read",
        "w/a": "read",
        "w/a/b": "read",
        "w/ab": "read",
        "w/d": None,
        "x": None,
        "x/y": None,
    }
    assert (child.role, child.task, child.essential) == (None, None, False)
    assert (child.restart, child.stop_grace_s, child.cwd) == ("never", 9, ground.at("w"))
    assert (child.engine.instruction, child.engine.max_turns) == (None, 7)
    assert (child.budget.usd, child.feature.web) == (2.0, True)
    assert child.delegation_scope.allow == ()
    assert not child.feature.pods, "it has nothing to lend"


@pytest.mark.parametrize(("parents", "lends", "pods"), [(True, True, True), (False, True, False)])
def test_a_child_that_may_lend_has_the_feature_pods_where_its_parent_has_it(
    ground: Ground, parents: bool, lends: bool, pods: bool
) -> None:
    parent = ground.parent(delegation_scope=allow(write("w")), feature={"pods": parents})
    scope = allow(write("w/a")) if lends else {}
    assert ground.child(parent, delegation_scope=scope).feature.pods is pods


def test_the_call_lies_over_the_profile_and_the_profile_over_the_parent(ground: Ground) -> None:
    parent = ground.parent(description="boss", stop_grace_s=9, delegation_scope=allow(write("w")))
    child = ground.child(parent, profile="again", description="kid")
    assert (child.restart, child.description, child.stop_grace_s) == ("on-failure", "kid", 9)
    child = ground.child(parent, profile="again", restart="never")
    assert child.restart == "never"
    child = ground.child(parent, profile="writer", scope=allow(write("w/d")))
    targets = {rule.target for rule in child.scope.allow if rule.permission is Permission.WRITE}
    assert targets == {ground.at("w/a"), ground.at("w/d")}, "rules add up"


def test_a_profile_gives_no_more_than_a_call(ground: Ground) -> None:
    parent = ground.parent(permissions={"default_action": "deny"})
    for profile, told in (
        ("writer", "scope: write"),
        ("giver", "delegation_scope: write"),
        ("tools", "the parent does not allow Bash"),
        ("open", "sandbox.mode: the parent's is prefer"),
    ):
        with pytest.raises(NotSubset, match=told):
            ground.child(parent, profile=profile)


def test_a_child_has_its_parents_workspace_and_may_name_none(ground: Ground) -> None:
    assert ground.child(ground.parent()).workspace == ground.at("w")
    with pytest.raises(FleetFileInvalid, match="a child has its parent's workspace"):
        ground.child(ground.parent(), workspace="/")


def test_a_child_of_a_parent_that_was_widened_is_still_within_it(ground: Ground) -> None:
    rules = [{"tool": tool, "action": "deny"} for tool in ("Bash", "Write")]
    child = ground.child(ground.parent(permissions={"rule": rules}))
    assert exceeds(ground.parent(permissions={"rule": rules[1:]}), child) == []


def test_a_child_has_its_parents_model_with_its_id(ground: Ground) -> None:
    model = {"scheme": "anthropic", "model_id": "x"}
    assert ground.child(ground.parent(model=model)).model.model_id == "x"


# -- refused by the rules of any pod, or by the child's own


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"nmae": "x"}, "pod.nmae: unknown key 'nmae' (did you mean 'name'?)"),
        ({"feature": {"pod": True}}, "unknown key 'pod' (did you mean 'pods'?)"),
        ({"feature": {"zzz": True}}, "pod.feature.zzz: unknown key 'zzz'"),
        ({"budget": {"dollars": 1}}, "pod.budget.dollars: unknown key 'dollars'"),
        ({"sandbox": {"netwrk": True}}, "unknown key 'netwrk' (did you mean 'network'?)"),
        ({"feature": {"pods": "yes"}}, 'pod.feature.pods: should be a boolean, not "yes"'),
        ({"name": "Kid One"}, "(did you mean 'kid-one'?)"),
        ({"name": "../kid"}, "pod.name: '../kid' is not a name"),
        ({"name": "operator"}, "'operator' is a reserved name"),
        (
            {"model": {"scheme": "antropic"}},
            "pod.model.scheme: should be 'scripted', 'anthropic', 'openai_chat', "
            "'openai_responses' or 'gemini', not \"antropic\" (did you mean 'anthropic'?)",
        ),
        ({"model": {"scheme": "gemini"}}, "scheme 'gemini' needs a 'model_id'"),
        ({"restart": "sometimes"}, "pod.restart: should be 'never', 'on-failure' or 'always'"),
        ({"budget": {"usd": -1.0}}, "pod.budget.usd: should be greater than or equal to 0"),
        ({"cwd": "w/nowhere"}, "is not a folder"),
        ({"cwd": "x"}, "pod.cwd: the pod could not read"),
        ({"cwd": "w/d"}, "pod.cwd: the pod could not read"),
        ({"feature": {"pods": True}}, "pod.feature.pods: needs a delegation_scope"),
        ({"profile": "nobodys"}, "pod.profile: there is no file"),
        ({"scope": {"allow": [{"target": "w"}]}}, "pod.scope.allow: needs a 'permission'"),
        (
            {"scope": {"allow": [{"target": "w", "permission": "wirte"}]}},
            "should be 'read' or 'write', not \"wirte\" (did you mean 'write'?)",
        ),
        ({"permissions": {"rule": [{"tool": "Bash"}]}}, "needs a 'action'"),
    ],
)
def test_a_mistake_is_told_with_its_key_and_what_was_meant(
    ground: Ground, table: dict[str, Any], told: str
) -> None:
    parent = ground.parent(
        feature={"pods": True},
        delegation_scope=allow(write("w")),
        scope={"deny": [read("w/d")]},
    )
    with pytest.raises(FleetFileInvalid) as refused:
        ground.child(parent, **table)
    (mistake,) = refused.value.mistakes
    assert told in str(mistake)


@pytest.mark.parametrize("target", ["../x", "nowhere/../../x"])
def test_a_target_that_climbs_out_of_the_workspace_is_refused(ground: Ground, target: str) -> None:
    """Pitfall 32: what is stored is canonical, or nothing is."""
    table = {"name": "kid", "scope": {"allow": [{"target": target, "permission": "write"}]}}
    with pytest.raises(FleetFileInvalid, match=r"'\.\.'"):
        resolve_child(table, ground.parent(), supervisor=SUPERVISOR)


def test_a_link_is_judged_by_what_it_leads_to(ground: Ground) -> None:
    """Pitfall 32: below what may be lent stands a name for what may not."""
    link = Path(ground.at("w/a/out"))
    link.symlink_to(ground.at("x"))
    try:
        parent = ground.parent(delegation_scope=allow(write("w/a")))
        with pytest.raises(NotSubset, match=r"scope: write .*/x is not the parent's to lend"):
            ground.child(parent, scope=allow(write("w/a/out")))
    finally:
        link.unlink()


def test_all_mistakes_are_told_at_once(ground: Ground) -> None:
    with pytest.raises(FleetFileInvalid) as refused:
        ground.child(
            ground.parent(), name="Kid", cwd="x", feature={"pods": True, "pos": True}, size=3
        )
    keys = {mistake.key for mistake in refused.value.mistakes}
    assert keys == {"pod.name", "pod.cwd", "pod.feature.pods", "pod.feature.pos", "pod.size"}


def test_a_table_without_a_name_needs_one(ground: Ground) -> None:
    with pytest.raises(FleetFileInvalid, match="needs a 'name'"):
        resolve_child({}, ground.parent(), supervisor=SUPERVISOR)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"budget": {"usd": 1.0}}, "budget: not available in this version"),
        ({"limits": {"memory": "1GiB"}}, "limits: not available in this version"),
        ({"model": {"ref": "big"}}, "model.ref: not available in this version"),
        ({"depends_on": [{"pod": "other"}]}, "depends_on: not available in this version"),
    ],
)
def test_what_this_version_has_not_is_named(
    ground: Ground, table: dict[str, Any], told: str
) -> None:
    assert unavailable(ground.child(ground.parent(), **table)) == [told]
    assert unavailable(ground.child(ground.parent())) == []


# -- refused because the parent may not give it


MUCH: dict[str, Any] = {
    "delegation_scope": {**allow(write("w/a"), read("x")), "deny": [write("w/a/b")]},
    "permissions": {
        "default_action": "ask",
        "rule": [
            {"tool": "Bash", "pattern": "rm *", "action": "deny"},
            {"tool": "Bash", "action": "allow"},
        ],
    },
    "sandbox": {"mode": "prefer", "level": "namespaces", "extra_read": ["x"]},
    "feature": {"web": True, "tickets": {"enabled": True}},
    "budget": {"usd": 1.0, "depth": 2},
    "mcp": {"servers": {"one": {"command": "one"}}},
}


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"scope": allow(write("w/d"))}, "scope: write {w}/d is not the parent's to lend"),
        ({"scope": allow(write("w/ab"))}, "scope: write {w}/ab is not the parent's to lend"),
        ({"scope": allow(write("w/a"))}, "scope: write {w}/a is not the parent's to lend"),
        ({"scope": allow(write("x"))}, "scope: write {x} is not the parent's to lend"),
        (
            {"delegation_scope": allow(read("w"))},
            "delegation_scope: read {w} is not the parent's to lend: "
            "it has write {w}/a, read {x}, not write {w}/a/b",
        ),
        (
            {"permissions": {"rule": [{"tool": "Write", "action": "allow"}]}},
            "permissions.rule: the parent does not allow Write *",
        ),
        (
            {"permissions": {"rule": [{"tool": "Write", "pattern": "a", "action": "ask"}]}},
            "permissions.rule: the parent does not ask Write a",
        ),
        ({"sandbox": {"mode": "off"}}, "sandbox.mode: the parent's is prefer"),
        ({"sandbox": {"level": "landlock"}}, "sandbox.level: the parent's is namespaces"),
        ({"sandbox": {"network": True}}, "sandbox.network: the parent has it not"),
        ({"sandbox": {"unix_sockets": True}}, "sandbox.unix_sockets: the parent has it not"),
        ({"sandbox": {"extra_read": ["x", "w"]}}, "sandbox.extra_read: the parent has not {w}"),
        ({"sandbox": {"extra_write": ["x"]}}, "sandbox.extra_write: the parent has not {x}"),
        ({"feature": {"tasks": True}}, "feature.tasks: the parent has it not"),
        (
            {"feature": {"tickets": {"access": "lifecycle"}}},
            "feature.tickets: a child has its parent's or none",
        ),
        ({"budget": {"usd": 1.5}}, "budget.usd: the parent's is 1"),
        ({"budget": {"depth": None}}, "budget.depth: the parent's is 2"),
        ({"mcp": {"trust": True}}, "mcp: a child has its parent's or none"),
        ({"hooks": [{"at": "run_end"}]}, "hooks: a child has its parent's or none"),
        ({"plugins": ["one"]}, "plugins: a child has its parent's or none"),
        ({"essential": True}, "essential: the end of a child cannot be the end of the fleet"),
    ],
)
def test_what_the_parent_has_not_is_refused_by_its_key(
    ground: Ground, table: dict[str, Any], told: str
) -> None:
    with pytest.raises(NotSubset) as refused:
        ground.child(ground.parent(**MUCH), **table)
    error = refused.value
    (said,) = error.details["beyond"]
    assert said.startswith(told.format(w=ground.at("w"), x=ground.at("x")))
    assert "'boss' may not give a child that much" in error.message
    assert said in error.message
    assert error.next_step
    assert "delegation_scope" in error.next_step


def test_all_that_is_too_much_is_told_at_once(ground: Ground) -> None:
    with pytest.raises(NotSubset) as refused:
        ground.child(
            ground.parent(),
            scope=allow(write("w")),
            sandbox={"mode": "off", "network": True},
            essential=True,
        )
    assert len(refused.value.details["beyond"]) == 4


@pytest.mark.parametrize(
    "table",
    [
        {"scope": allow(write("w/a/n"))},
        {"scope": allow(read("w/a"), read("x/y"))},
        {"scope": {"allow": [write("w/a/n")], "deny": [write("w/a/n/n")]}},
        {"delegation_scope": allow(write("w/a/n"), read("w/a"))},
        {"permissions": {"rule": [{"tool": "Bash", "pattern": "a", "action": "deny"}]}},
        {"permissions": {"rule": [{"tool": "Bash", "action": "allow"}]}},
        {"permissions": {"default_action": "allow"}},
        {"sandbox": {"mode": "require", "extra_read": []}},
        {"feature": {"web": False, "tickets": {"enabled": False}}},
        {"budget": {"usd": 0.0, "depth": 0, "turns": 9}},
        {"mcp": {"servers": {}}},
    ],
)
def test_what_the_parent_has_is_given(ground: Ground, table: dict[str, Any]) -> None:
    parent = ground.parent(**MUCH)
    child = ground.child(parent, **table)
    if "scope" in table or "delegation_scope" in table:
        assert child != ground.child(parent)
    assert beyond(parent, child, ground.root) == []


def test_two_rules_that_together_hold_what_is_asked_lend_it_not(ground: Ground) -> None:
    parent = ground.parent(
        delegation_scope=allow(write("w", recursive=False), write("w/a"), write("w/d"))
    )
    with pytest.raises(NotSubset):
        ground.child(parent, scope=allow(write("w")))


def test_a_refusal_of_the_parent_cannot_be_allowed_away(ground: Ground) -> None:
    parent = ground.parent(
        permissions={"rule": [{"tool": "Bash", "pattern": "rm *", "action": "deny"}]}
    )
    everything = {"rule": [{"tool": "*", "action": "allow"}]}
    child = ground.child(parent, permissions=everything)
    assert decided(child.permissions, "Bash", "rm it") is Action.DENY
    assert decided(child.permissions, "Bash", "a") is Action.ALLOW


def test_a_policy_that_is_narrowed_allows_what_both_allow(ground: Ground) -> None:
    parent = Permissions.model_validate(
        {"default_action": "deny", "rule": [{"tool": "Bash", "action": "allow"}]}
    )
    asked = Permissions.model_validate(
        {"rule": [{"tool": "Bash", "pattern": "rm *", "action": "deny"}]}
    )
    policy = narrowed(parent, asked)
    assert decided(policy, "Bash", "a") is Action.ALLOW
    assert decided(policy, "Bash", "rm it") is Action.DENY
    assert decided(policy, "Write", "a") is Action.DENY


def test_what_the_parent_may_not_read_it_cannot_lend(ground: Ground) -> None:
    parent = ground.parent(
        scope={"deny": [read("w/a/b")]}, delegation_scope=allow(write("w/a"), write("x"))
    )
    assert binding(parent) == parent.scope.deny
    for key in ("scope", "delegation_scope"):
        with pytest.raises(
            NotSubset, match=r"the parent may not read .*/w/a/b or lend it, so neither"
        ):
            ground.child(parent, **{key: allow(write("w/a/b/n"))})
    child = ground.child(parent, scope=allow(write("w/a")))
    assert effective_permission(child.scope, ground.at("w/a")) is Permission.WRITE
    assert effective_permission(child.scope, ground.at("w/a/b")) is None


@pytest.mark.parametrize("override", [False, True])
def test_read_deny_of_what_may_be_lent_binds_all_below(ground: Ground, override: bool) -> None:
    """Whoever reads the workspace would read it that way."""
    lends = {**allow(write("w")), "deny": [read("w/a")], "override_denies": override}
    parent = ground.parent(delegation_scope=lends)
    child = ground.child(parent, scope=allow(read("w/a")), delegation_scope=allow(write("w/d")))
    below = ground.child(child, scope=allow(read("w/a")))
    for pod in (child, below):
        assert effective_permission(pod.scope, ground.at("w/a")) is None
        assert effective_permission(pod.scope, ground.at("w/d")) is Permission.READ
    wider = child.model_copy(update={"scope": Scope(allow=child.scope.allow)})
    (told,) = exceeds(parent, wider)
    assert told.startswith("scope: the parent may not read")
    assert f"{ground.at('w/a')} or lend it" in told


# -- a deny is a never


@pytest.mark.parametrize("key", ["scope", "delegation_scope"])
def test_write_deny_refuses_what_lies_in_it(ground: Ground, key: str) -> None:
    parent = ground.parent(scope={"deny": [write("w/a")]}, delegation_scope=allow(write("w")))
    for target in ("w/a", "w/a/b", "w/a/b/n"):
        with pytest.raises(NotSubset, match=rf"{key}: write .* the parent may not write .*/w/a"):
            ground.child(parent, **{key: allow(write(target))})
    ground.child(parent, **{key: allow(read("w/a"))})


def test_write_deny_goes_with_what_overlaps_it_at_every_depth(ground: Ground) -> None:
    pod = ground.parent(scope={"deny": [write("w/a")]}, delegation_scope=allow(write("w")))
    for number in range(4):
        wish = {"scope": allow(write("w")), "delegation_scope": allow(write("w"))}
        pod = ground.child(pod, name=f"kid{number}", **wish)
        assert effective_permission(pod.scope, ground.at("w/d")) is Permission.WRITE
        assert effective_permission(pod.scope, ground.at("w/a/b")) is Permission.READ
        with pytest.raises(NotSubset, match="so neither may a child"):
            ground.child(pod, scope=allow(write("w/a/b")))


def test_override_frees_children_of_write_denies_and_of_no_read_deny(ground: Ground) -> None:
    lends = {**allow(write("w")), "override_denies": True}
    scope = {"deny": [write("w/a"), read("w/d")]}
    parent = ground.parent(scope=scope, delegation_scope=lends)
    child = ground.child(parent, scope=allow(write("w")))
    assert effective_permission(child.scope, ground.at("w/a")) is Permission.WRITE
    assert effective_permission(child.scope, ground.at("w/d")) is None
    bound = ground.parent(scope=scope, delegation_scope=allow(write("w")))
    with pytest.raises(NotSubset, match=r"delegation_scope\.override_denies: the parent has it"):
        ground.child(bound, delegation_scope=lends)


def test_child_that_could_not_write_there_needs_no_new_deny(ground: Ground) -> None:
    """A deny that an operator adds later keeps only those from coming back whom it concerns."""
    before = ground.parent(delegation_scope=allow(write("w")))
    less = ground.parent(scope={"deny": [write("w/a")]}, delegation_scope=allow(write("w")))
    assert exceeds(less, ground.child(before, scope=allow(write("w/d")))) == []
    for key in ("scope", "delegation_scope"):
        (told,) = exceeds(less, ground.child(before, **{key: allow(write("w"))}))
        assert told.startswith("scope: the parent may not write")


def test_no_descendant_passes_a_deny_of_any_ancestor(ground: Ground) -> None:
    """Whatever is asked for, at each of four generations, by an oracle over paths alone."""
    seen: Counter[str] = Counter()
    everything = {"allow": [write("w"), write("x")]}

    @settings(max_examples=200)
    @given(
        st.lists(st.sampled_from(SCOPE_RULES), min_size=1, max_size=3),
        st.lists(requests(("scope", "delegation_scope")), min_size=4, max_size=4),
    )
    def descend(denies: list[dict[str, Any]], wishes: list[dict[str, Any]]) -> None:
        has: dict[str, Any] = {"delegation_scope": everything}
        line = [ground.parent(scope={"deny": denies}, delegation_scope=everything)]
        for wish in wishes:
            table = asked_of(has, {"delegation_scope": everything, **wish})
            try:
                line.append(ground.child(line[-1], **table))
            except (FleetFileInvalid, NotSubset):
                seen["refused"] += 1
                continue
            seen["given"] += 1
            has = {**has, "delegation_scope": table["delegation_scope"]}
        for path in (ground.at(probe) for probe in PROBES if probe):
            most: Permission | None = Permission.WRITE
            for pod in line:
                may = effective_permission(pod.scope, path)
                assert RANK[may] <= RANK[most], (path, [one.scope for one in line])
                denied = {rule.permission for rule in pod.scope.deny if matches(rule, path)}
                most = min(
                    most,
                    None if "read" in denied else Permission.READ if denied else most,
                    key=RANK.__getitem__,
                )

    descend()
    assert seen["given"] >= 100, seen
    assert seen["refused"] >= 50, seen


# -- which models a pod may name


def test_pod_names_only_models_that_an_operator_lists(ground: Ground, desk: Desk) -> None:
    model = {"scheme": "anthropic", "model_id": "big", "base_url": "http://here"}
    listed: dict[str, Any] = {"delegation_models": ["anthropic:small", "openai_chat:a:b"]}
    for settings_, asked, got in (
        ({}, "big", "anthropic:big"),
        ({}, "anthropic:big", "anthropic:big"),
        ({}, "small", None),
        ({}, "openai_chat:big", None),
        (listed, "small", "anthropic:small"),
        (listed, "anthropic:small", "anthropic:small"),
        (listed, "openai_chat:a:b", "openai_chat:a:b"),
        (listed, "a:b", None),
        (listed, "big", None),
    ):
        parent = ground.parent(model=model, **settings_)
        asking = spawn(model={"model_id": asked})
        if got is None:
            with pytest.raises(Forbidden, match="may not name the model") as refused:
                desk.resolve_spawn(asking, parent=parent, by_pod=True)
            assert refused.value.details["models"] == list(models_to_name(parent))
        else:
            child = desk.resolve_spawn(asking, parent=parent, by_pod=True).manifest
            assert child.model.name == got
            is_parents = child.model.scheme is parent.model.scheme
            assert child.model.base_url == ("http://here" if is_parents else None)
            assert exceeds(parent, child) == []


def test_operator_names_any_model_for_a_child(ground: Ground, desk: Desk) -> None:
    asked = spawn(model={"model_id": "other"})
    child = desk.resolve_spawn(asked, parent=ground.parent(), by_pod=False).manifest
    assert child.model.model_id == "other"
    assert models_to_name(child) == ("scripted:other",)


def test_child_cannot_widen_the_models_that_it_may_name(ground: Ground, desk: Desk) -> None:
    parent = ground.parent(delegation_models=["scripted:a", "scripted:b"])
    child = ground.child(parent)
    assert child.delegation_models == parent.delegation_models
    assert models_to_name(ground.child(parent, delegation_models=["scripted:a"])) == ("scripted:a",)
    with pytest.raises(NotSubset, match="delegation_models: the parent may not name scripted:c"):
        ground.child(parent, delegation_models=["scripted:a", "scripted:c"])
    for key in ({"delegation_models": ["scripted:a"]}, {"model": {"scheme": "anthropic"}}):
        with pytest.raises(Forbidden, match="a pod may not say"):
            desk.resolve_spawn(spawn(**key), parent=parent, by_pod=True)
    override = {"delegation_scope": {"allow": [], "override_denies": True}}
    with pytest.raises(Forbidden, match=r"may not say delegation_scope\.override_denies"):
        desk.resolve_spawn(spawn(**override), parent=parent, by_pod=True)


# -- the second look, when a child starts again (pitfall 29)


@pytest.fixture
def given_once(ground: Ground) -> PodManifest:
    """A child that has all that its parent could give."""
    return ground.child(
        ground.parent(**MUCH),
        scope=allow(write("w/a/n")),
        delegation_scope=allow(write("w/a/n")),
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"delegation_scope": {}}, ["scope: write", "delegation_scope: write"]),
        ({"delegation_scope": allow(read("w/a"))}, ["scope: write", "delegation_scope: write"]),
        (
            {"delegation_scope": {**allow(write("w/a")), "deny": [write("w/a/n")]}},
            ["scope: write", "delegation_scope: write"],
        ),
        ({"scope": {"deny": [read("w/d")]}}, ["scope: the parent may not read"]),
        (
            {"permissions": {"default_action": "deny"}},
            ["permissions.default_action: the parent's is deny", "permissions.rule:"],
        ),
        (
            {"permissions": {"default_action": "ask", "rule": [{"tool": "*", "action": "deny"}]}},
            ["permissions: the parent's refusals", "permissions.rule:"],
        ),
        ({"sandbox": {"mode": "require", "level": "namespaces"}}, ["sandbox.mode:", "sandbox.ex"]),
        ({"feature": {}}, ["feature.tickets:", "feature.web:"]),
        ({"budget": {"usd": 0.5, "depth": 1}}, ["budget.usd:", "budget.depth:"]),
        ({"mcp": {}}, ["mcp:"]),
        ({"workspace": "/elsewhere"}, ["workspace:"]),
        ({"fleet": "other"}, ["fleet:"]),
    ],
)
def test_a_child_whose_parent_has_less_by_now_is_refused_and_told_why(
    ground: Ground, given_once: PodManifest, changes: dict[str, Any], told: list[str]
) -> None:
    assert exceeds(ground.parent(**MUCH), given_once) == []
    where = {key: changes.pop(key) for key in {"workspace", "fleet"} & changes.keys()}
    less = ground.parent(**{**MUCH, **changes}).model_copy(update=where)
    said = exceeds(less, given_once)
    assert len(said) >= len(told)
    for begin in told:
        assert any(one.startswith(begin) for one in said), (begin, said)


def test_a_child_whose_parent_has_more_by_now_is_welcome(
    ground: Ground, given_once: PodManifest
) -> None:
    more = {
        **MUCH,
        "delegation_scope": allow(write("w"), read("x")),
        "permissions": {"default_action": "allow"},
        "sandbox": {"mode": "off", "network": True, "extra_read": ["x", "w"]},
        "feature": {"web": True, "skills": True, "tickets": {"enabled": True}},
        "budget": {},
    }
    assert exceeds(ground.parent(**more), given_once) == []


def test_what_a_child_inherits_does_not_exceed_its_parent(ground: Ground) -> None:
    parent = ground.parent(**MUCH)
    settings = {**inherited(parent), "name": "kid", "permissions": parent.permissions}
    assert exceeds(parent, PodManifest.model_validate(settings)) == []


# -- a pod names a profile, an operator a file


@pytest.fixture
def desk(ground: Ground, tmp_path: Path) -> Iterator[Desk]:
    paths = Paths.resolve(str(tmp_path), {}, uid=os.getuid(), passwd_home=str(tmp_path))
    own = tmp_path / "fleet" / "profiles"
    users = paths.config / "profiles"
    for folder in (own, users):
        folder.mkdir(parents=True)
    (own / "reader.toml").write_text('role = "the fleet\'s"\n')
    (users / "reader.toml").write_text('role = "the user\'s"\n')
    (users / "writer.toml").write_text('role = "writer"\n')
    file = tmp_path / "fleet" / "podsup.toml"
    file.write_text(f'[fleet]\nname = "f"\nworkspace = "{ground.at("w")}"\n')
    boot = Boot(fleet="f", file=str(file), workspace=ground.at("w"), operation="up")
    table = ScopeTable(tmp_path / "scope", str(paths.home), "f:1")
    journal = Journal(paths.journal("f"))
    journal.append(SettingsFixed(settings=load_fleet(file, config_dir=paths.config).settings))
    yield Desk(boot, paths, table, PodStore(paths.data), journal)
    journal.close()


def spawn(**table: Any) -> c.Spawn:
    return c.Spawn(table={"name": "kid", **table})


def test_a_pod_names_a_profile_that_is_offered(ground: Ground, desk: Desk) -> None:
    pod = desk.resolve_spawn(spawn(profile="writer"), parent=ground.parent(), by_pod=True)
    assert (pod.manifest.role, pod.parent, pod.stored) == ("writer", "boss", None)


def test_profile_that_was_offered_is_not_read_again_for_an_operator(
    ground: Ground, desk: Desk, tmp_path: Path
) -> None:
    paths = Paths.resolve(str(tmp_path), {}, uid=os.getuid(), passwd_home=str(tmp_path))
    file = paths.config / "profiles/reader.toml"
    file.write_text('role = "changed"\nsandbox = { mode = "off" }\n')
    for parent in (None, ground.parent()):
        asked = spawn(profile=str(file))
        pod = desk.resolve_spawn(asked, parent=parent, by_pod=False).manifest
        assert (pod.role, pod.sandbox.mode) == ("the user's", SandboxMode.PREFER)


def test_profile_that_is_not_usable_is_refused_without_its_content(
    ground: Ground, desk: Desk, tmp_path: Path
) -> None:
    (tmp_path / "fleet/profiles/odd.toml").write_text("secret = ]")
    fleet = load_fleet(tmp_path / "fleet/podsup.toml", config_dir=None)
    desk._journal.append(SettingsFixed(settings=fleet.settings))
    with pytest.raises(InvalidRequest, match="is not usable") as refused:
        desk.resolve_spawn(spawn(profile="odd"), parent=ground.parent(), by_pod=True)
    assert "secret" not in str(refused.value.details)


def test_operators_spawn_reads_no_file_that_any_fleet_may_write(
    ground: Ground, desk: Desk, tmp_path: Path
) -> None:
    (tmp_path / "mine.toml").write_text('role = "mine"\n')
    wanted = spawn(profile=str(tmp_path / "mine.toml"))
    assert desk.resolve_spawn(wanted, parent=None, by_pod=False).manifest.role == "mine"
    other = Journal(desk._paths.journal("other"))
    rule = ScopeRule(target=str(tmp_path), permission=Permission.WRITE)
    writes = ground.parent().model_copy(update={"scope": Scope(allow=(rule,))})
    other.append(SettingsFixed(settings=OperatorSettings(), pods=(writes,)))
    other.close()
    with pytest.raises(Forbidden, match=r"mine\.toml lies where boss may write"):
        desk.resolve_spawn(wanted, parent=None, by_pod=False)


def test_child_whose_profile_has_a_key_takes_no_address_of_its_parent(ground: Ground) -> None:
    parent = ground.parent(
        model={
            "scheme": "openai_chat",
            "model_id": "m",
            "base_url": "http://mine",
            "api_key_env": "MINE",
        }
    )
    given = OperatorSettings(
        defaults=(PlacedTable(file="/f", table={"model": {"base_url": "http://proxy"}}),),
        profiles={
            "key": PlacedTable(file="/k", table={"model": {"api_key_env": "PAID"}}),
            "place": PlacedTable(file="/p", table={"model": {"base_url": "http://p"}}),
            "none": PlacedTable(file="/n", table={"model": {"model_id": "n"}}),
        },
    )
    for offered, name, place in (
        (given, "key", ("http://proxy", "PAID")),
        (given.model_copy(update={"defaults": ()}), "key", (None, "PAID")),
        (given, "place", ("http://p", None)),
        (given, "none", ("http://mine", "MINE")),
    ):
        child = resolve_child(
            {"name": "kid"},
            parent,
            supervisor=SUPERVISOR,
            settings=offered,
            profile=offered.profiles[name],
            places=offered.model_tables(),
        )
        assert (child.model.base_url, child.model.api_key_env) == place


def test_a_pod_that_names_another_profile_is_told_which_there_are(
    ground: Ground, desk: Desk
) -> None:
    for named in ("wrtier", ground.at("profiles/plain.toml"), "../fleet/profiles/reader"):
        with pytest.raises(InvalidRequest, match="there are: reader, writer") as refused:
            desk.resolve_spawn(spawn(profile=named), parent=ground.parent(), by_pod=True)
        assert refused.value.details["profiles"] == ["reader", "writer"]
        assert "profiles" in (refused.value.next_step or "")


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"model": {"base_url": "http://elsewhere"}}, "model.base_url"),
        ({"model": {"api_key_file": "/etc/key"}}, "model.api_key_file"),
        ({"model": {"script": "/etc/script.toml"}}, "model.script"),
        ({"engine": {"instruction": "be quick", "max_turns": 9}}, "engine.max_turns"),
        ({"restart": "always"}, "restart"),
        ({"permissions": {}}, "permissions"),
        ({"sandbox": {}}, "sandbox"),
        ({"mcp": {}}, "mcp"),
        ({"workspace": "/"}, "workspace"),
    ],
)
def test_a_pod_says_little_of_its_child_and_an_operator_all(
    ground: Ground, desk: Desk, table: dict[str, Any], told: str
) -> None:
    """A pod that could name a file, a key or an address could send the one to the other."""
    with pytest.raises(Forbidden, match=f"a pod may not say {told} of its child"):
        desk.resolve_spawn(spawn(**table), parent=ground.parent(), by_pod=True)
    with contextlib.suppress(FleetFileInvalid, NotSubset, InvalidRequest):
        desk.resolve_spawn(spawn(**table), parent=ground.parent(), by_pod=False)


def test_a_pod_says_what_the_tool_for_it_lets_it_say(ground: Ground, desk: Desk) -> None:
    parent = ground.parent(delegation_scope=allow(write("w/a")))
    asked = spawn(
        task="look",
        scope=ground.placed(allow(write("w/a/b"))),
        delegation_scope=ground.placed(allow(write("w/a/b/c"))),
        cwd=ground.at("w/a"),
        engine={"instruction": "be quick"},
        model={"model_id": "scripted"},
    )
    child = desk.resolve_spawn(asked, parent=parent, by_pod=True).manifest
    assert (child.task, child.cwd, child.model.model_id) == ("look", ground.at("w/a"), "scripted")
    assert beyond(parent, child, ground.root) == []


def test_an_operator_names_a_file(ground: Ground, desk: Desk) -> None:
    path = ground.at("profiles/plain.toml")
    pod = desk.resolve_spawn(spawn(profile=path), parent=ground.parent(), by_pod=False)
    assert pod.manifest.role == "reader"


def test_a_spawn_that_asks_for_a_budget_is_refused_as_not_available(
    ground: Ground, desk: Desk
) -> None:
    wanted = spawn(budget={"usd": 1.0})
    with pytest.raises(InvalidRequest, match="budget: not available in this version"):
        desk.resolve_spawn(wanted, parent=ground.parent(), by_pod=True)
