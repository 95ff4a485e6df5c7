"""What a start after the last one gives more, and who could have had a hand in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from protocol.manifest import Budget, Model, PodManifest, SupervisorTable
from protocol.scope import Permission, Scope, ScopeRule, effective_permission
from supervisor.core.descent import exceeds
from supervisor.core.fleet_record import (
    Deleted,
    PlacesGiven,
    Record,
    SettingsFixed,
    Spawned,
    fold,
    snapshot,
)
from supervisor.core.operator_settings import (
    NO_PLACE,
    PLACE,
    WHERE_MODELS_ARE,
    OperatorSettings,
    PlacedTable,
    ReadFile,
    place_of,
    places_of,
)
from supervisor.core.widening import (
    GIVES,
    GIVES_NOTHING,
    OF_SUPERVISOR_NOTHING,
    unguarded,
    widenings,
    widens,
    writers,
)
from supervisor.journal import JOURNAL, Journal, started_fleets


def pod(name: str = "alice", **settings: Any) -> PodManifest:
    where = {"fleet": "f", "workspace": "/w", "cwd": "/w"}
    return PodManifest.model_validate({"name": name, **where, **settings})


def scope(*allow: tuple[str, str], deny: tuple[tuple[str, str], ...] = ()) -> dict[str, Any]:
    def rules(pairs: tuple[tuple[str, str], ...]) -> list[dict[str, str]]:
        return [{"target": target, "permission": permission} for permission, target in pairs]

    return {"allow": rules(allow), "deny": rules(deny)}


REAL = {"scheme": "anthropic", "model_id": "m"}

WIDER: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"scope": scope(("write", "/w"))}, "scope: allows to write /w"),
    (
        {"scope": scope(("read", "/w"))},
        {"scope": scope(("write", "/w"))},
        "scope: allows to write /w",
    ),
    (
        {"scope": scope(("write", "/w"), deny=(("write", "/w/keep"),))},
        {"scope": scope(("write", "/w"))},
        "scope: does not deny to write /w/keep any more",
    ),
    (
        {"scope": scope(("read", "/w"), deny=(("read", "/w/keep"),))},
        {"scope": scope(("read", "/w"), deny=(("write", "/w/keep"),))},
        "scope: does not deny to read /w/keep any more",
    ),
    (
        {},
        {"delegation_scope": scope(("write", "/x"))},
        "delegation_scope: allows to write /x",
    ),
    ({}, {"sandbox": {"mode": "off"}}, "sandbox.mode: was prefer, is off"),
    ({}, {"sandbox": {"network": True}}, "sandbox.network: was false, is true"),
    ({}, {"sandbox": {"extra_write": ["/x"]}}, "sandbox.extra_write: gives more"),
    ({}, {"sandbox": {"extra_read": ["/x"]}}, "sandbox.extra_read: gives more"),
    ({}, {"sandbox": {"unix_sockets": True}}, "sandbox.unix_sockets"),
    (
        {"sandbox": {"level": "namespaces"}},
        {"sandbox": {"level": "landlock"}},
        "sandbox.level: was namespaces, is landlock",
    ),
    (
        {"permissions": {"rule": [{"tool": "Bash", "action": "deny"}]}},
        {},
        "permissions",
    ),
    ({"permissions": {"default_action": "deny"}}, {}, "permissions.default_action"),
    ({}, {"feature": {"pods": True}}, "feature.pods: was false, is true"),
    ({"budget": {"usd": 1.0}}, {}, "budget.usd: was 1.0, is without a bound"),
    ({}, {"hooks": [{"at": "run_end", "command": ["x"]}]}, "hooks: gives more"),
    ({}, {"mcp": {"servers": {"s": {"command": "x"}}}}, "mcp: gives more"),
    ({}, {"plugins": ["x"]}, "plugins: gives more"),
    ({}, {"model": REAL}, "model: is somewhere else"),
    (
        {"model": REAL},
        {"model": {**REAL, "base_url": "http://evil/v1"}},
        "model: is somewhere else, or takes another key, than at the last start: http://evil/v1",
    ),
    ({"model": REAL}, {"model": {**REAL, "api_key_file": "/k"}}, "model: is somewhere else"),
    ({}, {"compaction": {"model": REAL}}, "compaction.model: is somewhere else"),
    ({}, {"memory": {"model": REAL}}, "memory.model: is somewhere else"),
    ({"model": REAL}, {"model": {**REAL, "model_id": "n"}}, "model: was anthropic:m, is"),
    (
        {"model": REAL, "compaction": {"model": {**REAL, "model_id": "n"}}},
        {"model": REAL, "compaction": {"model": REAL}},
        "compaction.model: was anthropic:n, is anthropic:m",
    ),
    ({}, {"engine": {"max_turns": 201}}, "engine.max_turns: was 200, is 201"),
    (
        {"engine": {"timeouts": {"run_s": 9.0}}},
        {},
        "engine.timeouts.run_s: was 9.0, is without a bound",
    ),
    ({}, {"hang_timeout_s": 61.0}, "hang_timeout_s: was 60, is 61.0"),
    ({}, {"hang_timeout_s": 0.0}, "hang_timeout_s: was 60, is 0.0"),
    ({"stall_timeout_s": 5.0}, {}, "stall_timeout_s: was 5.0, is 0"),
    (
        {},
        {"delegation_models": ["anthropic:m"]},
        "delegation_models: allows to name anthropic:m",
    ),
    (
        {},
        {"delegation_scope": {"override_denies": True}},
        "delegation_scope.override_denies: was false, is true",
    ),
    ({}, {"limits": {}, "web": {"allow_hosts": ["h"]}}, "web: gives more"),
    ({"limits": {"processes": 5}}, {}, "limits.processes: was 5, is without a bound"),
    ({}, {"workspace": "/elsewhere"}, "workspace: was /w, is /elsewhere"),
]

CAPS_RAISED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"max_children": 17}, "max_children: was 16, is 17"),
    ({}, {"max_tree": 65}, "max_tree: was 64, is 65"),
    ({}, {"max_depth": 5}, "max_depth: was 4, is 5"),
    (
        {},
        {"max_notification_runs": {"per_hour": 201}},
        "max_notification_runs.per_hour: was 200, is 201",
    ),
    (
        {},
        {"max_notification_runs": {"per_minute": 31}},
        "max_notification_runs.per_minute: was 30, is 31",
    ),
    ({}, {"hang_timeout_s": 0.0}, "hang_timeout_s: was 60, is 0.0"),
    ({"stall_timeout_s": 9.0}, {"stall_timeout_s": 10.0}, "stall_timeout_s: was 9.0, is 10.0"),
    ({}, {"unreachable_after_s": 0.0}, "unreachable_after_s: was 10, is 0.0"),
    ({"orphan_policy": "stop"}, {}, "orphan_policy: was stop, is adopt"),
    *(({"budget": {key: 1}}, {}, f"budget.{key}: was 1") for key in Budget.model_fields),
]


@pytest.mark.parametrize(("before", "after", "told"), CAPS_RAISED)
def test_bound_of_the_fleet_that_is_raised_is_told(
    before: dict[str, Any], after: dict[str, Any], told: str
) -> None:
    was, now = (fixed(supervisor=SupervisorTable(**table)) for table in (before, after))
    (line,) = widenings(was, {}, now, [])
    assert line.startswith(f"[supervisor]: {told}")
    assert widenings(now, {}, was, []) == [], "to narrow needs no question"


def test_every_key_of_a_pod_gives_something_or_nothing() -> None:
    """A new key of a pod, or of the fleet, fails here until it is decided which of the two."""
    assert set(PodManifest.model_fields) == GIVES | GIVES_NOTHING
    assert not GIVES & GIVES_NOTHING
    judged = {told.partition(":")[0].partition(".")[0] for *_, told in WIDER}
    assert judged == GIVES, "each has a case"


def test_every_key_of_the_supervisor_gives_something_or_nothing() -> None:
    judged = {told.partition(":")[0].partition(".")[0] for *_, told in CAPS_RAISED}
    assert set(SupervisorTable.model_fields) == judged | OF_SUPERVISOR_NOTHING
    assert not judged & OF_SUPERVISOR_NOTHING


_BOTH_WAYS = ("model", "compaction.model: was", "workspace", "scope: does not deny to read")


@pytest.mark.parametrize(("before", "after", "told"), WIDER)
def test_pod_that_is_given_more_is_told_and_less_is_not(
    before: dict[str, Any], after: dict[str, Any], told: str
) -> None:
    said = widens(pod(**before), pod(**after))
    assert any(line.startswith(told) for line in said), said
    if not told.startswith(_BOTH_WAYS):
        assert widens(pod(**after), pod(**before)) == [], "to narrow needs no question"
    assert widens(pod(**after), pod(**after)) == []


def test_change_that_gives_nothing_is_not_told() -> None:
    before = pod(scope=scope(("write", "/w"), deny=(("write", "/w/keep"),)), model=REAL)
    after = before.model_copy(
        update={"task": "another", "description": "d", "compaction": before.compaction}
    )
    narrower = pod(scope=scope(("write", "/w/a")), model=REAL)
    assert widens(before, after) == widens(before, narrower) == []


RULES = st.builds(
    ScopeRule,
    target=st.sampled_from(["/w", "/w/a", "/w/a/b", "/x"]),
    permission=st.sampled_from(list(Permission)),
    recursive=st.booleans(),
)
SCOPES = st.builds(
    Scope,
    allow=st.lists(RULES, max_size=3).map(tuple),
    deny=st.lists(RULES, max_size=2).map(tuple),
)
PROBES = (
    "/w",
    "/w/n",
    "/w/a",
    "/w/a/n",
    "/w/a/b",
    "/w/a/b/n",
    "/w/a/b/n/n",
    "/x",
    "/x/n",
    "/x/n/n",
)
RANK = {None: 0, Permission.READ: 1, Permission.WRITE: 2}


@given(before=SCOPES, after=SCOPES)
def test_scope_that_grants_more_anywhere_is_always_told(before: Scope, after: Scope) -> None:
    grows = any(
        RANK[effective_permission(after, path)] > RANK[effective_permission(before, path)]
        for path in PROBES
    )
    if grows:
        assert widens(pod(scope=before), pod(scope=after))


# -- a whole fleet


def fixed(**more: Any) -> OperatorSettings:
    return OperatorSettings(**more)


def profile(**table: Any) -> PlacedTable:
    return PlacedTable(file="/w/profiles/p.toml", table=table)


def test_new_pods_and_new_or_changed_profiles_and_defaults_are_told() -> None:
    before = fixed(profiles={"p": profile(role="a"), "q": profile()}, bare=pod("bare"))
    after = fixed(
        profiles={"p": profile(role="b"), "r": profile()},
        bare=pod("bare", sandbox={"mode": "off"}),
    )
    assert widenings(before, {"alice": pod()}, after, [pod(), pod("bob")]) == [
        "pod 'bob' is new",
        "[defaults]: sandbox.mode: was prefer, is off",
        "profile 'p' says something else",
        "profile 'r' is new",
    ]
    assert widenings(before, {"alice": pod(), "bob": pod("bob")}, before, [pod()]) == []


def test_defaults_that_suit_no_pod_are_compared_as_written() -> None:
    """Who makes them mistaken could hide what else they say."""
    suits = fixed(bare=pod("bare"))
    hid = fixed(defaults=(profile(sandbox={"mode": "off"}, model={"scheme": "anthropic"}),))
    for before, after in ((suits, hid), (hid, suits), (fixed(), hid)):
        assert widenings(before, {}, after, []) == ["[defaults] say something else"]
    assert widenings(hid, {}, hid, []) == []


FILE = ReadFile(path="/w/podsup.toml", kind="fleet file", sha256="1")
CHANGED = FILE.model_copy(update={"sha256": "2"})
WRITES = {"scope": scope(("write", "/w"))}
LENDS = {"delegation_scope": scope(("write", "/w"))}


@pytest.mark.parametrize(
    ("then", "now", "settings", "is_asked"),
    [
        (FILE, CHANGED, WRITES, True),
        (None, CHANGED, WRITES, True),
        (FILE, CHANGED, {**WRITES, "sandbox": {"mode": "off"}}, True),
        (FILE, CHANGED, LENDS, True),
        (FILE, CHANGED, {"sandbox": {"extra_write": ["/w"]}}, True),
        (FILE, FILE, WRITES, False),
        (FILE, CHANGED, {"scope": scope(("write", "/w/out"))}, False),
        (FILE, CHANGED, {"scope": scope(("read", "/w"))}, False),
        (
            FILE,
            CHANGED,
            {"scope": scope(("write", "/w"), deny=(("write", "/w/podsup.toml"),))},
            False,
        ),
    ],
)
def test_file_is_asked_about_wherever_a_pod_may_write_it(
    then: ReadFile | None, now: ReadFile, settings: dict[str, Any], is_asked: bool
) -> None:
    before = fixed(files=(then,) if then else ())
    found = unguarded(before, fixed(files=(now,)), [pod(**settings)])
    assert found == ([now] if is_asked else [])


def test_writers_are_those_that_may_write_lend_or_open_a_path() -> None:
    pods = [
        pod("own", **WRITES),
        pod("lends", **LENDS),
        pod("opens", sandbox={"extra_write": ["/w"]}),
        pod("reads", scope=scope(("read", "/w"))),
    ]
    assert [one.name for one in writers(pods, "/w/x")] == ["own", "lends", "opens"]


# -- where a model is


def test_every_key_of_a_model_is_judged_or_sends_nothing() -> None:
    """A new key of a model fails here until it is decided which of the two it is."""
    assert set(PLACE) | set(NO_PLACE) == set(Model.model_fields)
    assert not set(PLACE) & set(NO_PLACE)


def test_every_model_of_a_manifest_is_judged() -> None:
    def models(kind: type[BaseModel], at: tuple[str, ...]) -> set[tuple[str, ...]]:
        found: set[tuple[str, ...]] = set()
        for key, info in kind.model_fields.items():
            for one in (info.annotation, *getattr(info.annotation, "__args__", ())):
                if one is Model:
                    found.add((*at, key))
                elif isinstance(one, type) and issubclass(one, BaseModel):
                    found |= models(one, (*at, key))
        return found

    assert models(PodManifest, ()) == set(WHERE_MODELS_ARE)


ELSEWHERE: dict[str, Any] = {
    "scheme": "openai_chat",
    "ref": "x",
    "base_url": "http://evil/v1",
    "api_key_env": "OTHER",
    "api_key_file": "/k",
    "price": {"input": 1.0},
}


@pytest.mark.parametrize("key", PLACE)
@pytest.mark.parametrize("keys", WHERE_MODELS_ARE)
def test_child_whose_model_is_elsewhere_exceeds_its_parent(key: str, keys: tuple[str, ...]) -> None:
    moved: dict[str, Any] = {**REAL, key: ELSEWHERE[key]}
    table: dict[str, Any] = {"model": REAL}
    for step in keys[:-1]:
        table[step] = {"model": moved}
    if len(keys) == 1:
        table["model"] = moved
    parent, child = pod("boss", model=REAL), pod("kid", **table)
    told = f"{'.'.join(keys)}: it is where neither the parent's model nor an offered profile's is"
    assert told in exceeds(parent, child)
    offered = PlacedTable(file="/p", table={"model": {key: ELSEWHERE[key]}})
    assert told not in exceeds(parent, child, places=fixed(profiles={"p": offered}).model_tables())
    assert told not in exceeds(parent, child, places=fixed(defaults=(offered,)).model_tables())
    assert told not in exceeds(parent, child, places=places_of(child))
    other = PlacedTable(file="/p", table={"model": {"base_url": "http://mine"}, "role": "x"})
    assert told in exceeds(parent, child, places=fixed(profiles={"p": other}).model_tables())


def test_child_with_another_model_at_the_same_place_does_not_exceed() -> None:
    parent = pod("boss", model=REAL, compaction={"model": {**REAL, "base_url": "http://b"}})
    for model in (
        {**REAL, "model_id": "n"},
        {"context_window": 9},
        {**REAL, "base_url": "http://b"},
    ):
        assert not [t for t in exceeds(parent, pod("kid", model=model)) if "model" in t]


@pytest.mark.parametrize("keys", WHERE_MODELS_ARE)
@pytest.mark.parametrize("key", ["api_key_env", "api_key_file", "base_url"])
def test_key_of_one_table_never_goes_with_an_address_of_another(
    keys: tuple[str, ...], key: str
) -> None:
    mine = {**REAL, "base_url": "http://mine/v1", "api_key_env": "MINE"}
    other = {**REAL, key: ELSEWHERE[key]}
    mixed = {**mine, **({"api_key_env": None} if key == "api_key_file" else {}), **other}

    def at(model: dict[str, Any]) -> dict[str, Any]:
        table: dict[str, Any] = model
        for step in reversed(keys):
            table = {step: table}
        return {"model": REAL, **table} if len(keys) > 1 else table

    parent = pod("boss", **at(mine))
    offered = fixed(profiles={"p": profile(**at({key: ELSEWHERE[key]}))})
    told = f"{'.'.join(keys)}: it is where neither"
    for model, is_told in ((mixed, True), (other, False), (mine, False)):
        said = exceeds(parent, pod("kid", **at(model)), places=offered.model_tables())
        assert any(line.startswith(told) for line in said) is is_told, model


def test_profile_with_a_key_has_the_address_of_the_defaults() -> None:
    settings = fixed(
        defaults=(profile(model={"base_url": "http://proxy"}),),
        profiles={"p": profile(model={"api_key_env": "PAID"})},
    )
    child = pod("kid", model={**REAL, "base_url": "http://proxy", "api_key_env": "PAID"})
    parent = pod("boss", model={**REAL, "base_url": "http://mine", "api_key_env": "MINE"})
    assert not exceeds(parent, child, places=settings.model_tables())


def test_child_with_a_model_to_name_is_at_the_usual_address_of_its_scheme() -> None:
    parent = pod("boss", model=REAL, delegation_models=["openai_chat:gpt"])
    usual = {"scheme": "openai_chat", "model_id": "gpt"}
    assert not exceeds(parent, pod("kid", model=usual, delegation_models=[]))
    for more in ({"base_url": "http://evil"}, {"api_key_env": "OTHER"}, {"scheme": "gemini"}):
        assert exceeds(parent, pod("kid", model={**usual, **more}, delegation_models=[]))


# -- the journal


def test_pods_since_the_last_start_count_as_writers_until_the_next() -> None:
    """Whoever was deleted meanwhile may have written something all the same."""
    start = SettingsFixed(settings=fixed(), pods=(pod(),))
    eve, narrower = pod("eve", **WRITES), pod("eve")
    said: list[Record] = [start, Spawned(pod=eve), Deleted(pod="eve"), Spawned(pod=narrower)]
    record = fold([*said, Spawned(pod=eve)])
    assert record.writers == (pod(), narrower, eve)
    again = fold(type(one).from_wire(one.to_wire()) for one in snapshot(record))
    assert again.writers == record.writers
    assert fold([start], record).writers == (pod(),)


def test_fleets_of_a_home_are_read_newest_first_and_bounded(tmp_path: Path) -> None:
    for number, name in enumerate(("old", "new", "never")):
        journal = Journal(tmp_path / name / JOURNAL)
        if name != "never":
            journal.append(SettingsFixed(settings=fixed(), pods=(pod(name),)))
        journal.close()
        os.utime(tmp_path / name / JOURNAL, (number, number))
    (tmp_path / "broken" / JOURNAL).mkdir(parents=True)
    found = started_fleets(tmp_path)
    assert [one.writers[0].name for one in found] == ["new", "old"]


def test_settings_survive_the_next_supervisor() -> None:
    settings = fixed(
        defaults=(profile(sandbox={"network": True}),),
        profiles={"p": profile(model={"base_url": "http://a"})},
        files=(FILE,),
        bare=pod("bare"),
    )
    places = places_of(pod(model=REAL))
    said: list[Record] = [
        SettingsFixed(settings=fixed()),
        SettingsFixed(settings=settings, pods=(pod(),)),
        PlacesGiven(places=places),
        PlacesGiven(places=places),
    ]
    record = fold(said)
    assert record.settings == settings
    assert record.places == ({"base_url": "http://a"}, place_of(Model.model_validate(REAL)))
    again = fold(type(one).from_wire(one.to_wire()) for one in snapshot(record))
    assert (again.fixed, again.given) == (record.fixed, record.given)
