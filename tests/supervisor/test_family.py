"""Who is whose parent, and who sees whom, when pods in the middle go and come back."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import control as c
from protocol.scope import LentRule, Permission, Scope, ScopeRule
from protocol.status import Relation
from supervisor.core.family import (
    children_of,
    descendants_of,
    givers,
    is_parent,
    kept_below,
    line,
    line_above,
    parent_of,
    relation,
    shown_parent,
)
from supervisor.core.fleet_terms import SaveFamily
from supervisor.core.health import HealthLimits
from supervisor.core.life import Life, LifePolicy, Phase
from supervisor.core.member import Member, Tombstone
from supervisor.core.rows import TOP_LEVEL, Lender
from tests.supervisor.fleets import Driven, manifest

NOTHING = Scope()
RESTING = (Phase.DEFINED, Phase.STOPPED, Phase.FAILED)
UP = tuple(phase for phase in Phase if phase not in RESTING)


def member(
    name: str,
    parent: str | None = None,
    *,
    phase: Phase = Phase.READY,
    peers: tuple[str, ...] = (),
    lends: Scope = NOTHING,
) -> Member:
    return Member(
        manifest(name, delegation_scope=lends.model_dump()),
        LifePolicy(),
        HealthLimits(),
        parent=parent,
        peers=peers,
        life=Life(phase=phase),
    )


def kin(*members: Member) -> dict[str, Member]:
    return {one.name: one for one in members}


def line_of_four(**phases: Phase) -> dict[str, Member]:
    """top -> middle -> leaf -> bud; a phase for each that is not ready."""
    above = {"top": None, "middle": "top", "leaf": "middle", "bud": "leaf"}
    return kin(
        *(member(one, its, phase=phases.get(one, Phase.READY)) for one, its in above.items())
    )


def parents(members: Mapping[str, Member]) -> dict[str, str | None]:
    return {name: parent_of(members, name) for name in members}


def shown(members: Mapping[str, Member]) -> dict[str, str | None]:
    return {name: shown_parent(members, name) for name in members}


# -- the parent that counts


def test_the_parent_that_counts_is_the_recorded_one_while_it_is_up() -> None:
    members = line_of_four()
    assert parents(members) == {"top": None, "middle": "top", "leaf": "middle", "bud": "leaf"}
    assert shown(members) == parents(members)


@pytest.mark.parametrize("phase", RESTING)
def test_children_of_a_pod_at_rest_are_its_parents(phase: Phase) -> None:
    members = line_of_four(middle=phase)
    assert parents(members)["leaf"] == "top"
    assert children_of(members, "top") == ["middle", "leaf"]
    assert children_of(members, "middle") == []


@pytest.mark.parametrize("phase", UP)
def test_a_pod_that_is_silent_leaving_or_to_be_started_again_keeps_its_children(
    phase: Phase,
) -> None:
    """Pitfall 26: nobody is dropped for not having answered."""
    members = line_of_four(middle=phase)
    assert parents(members)["leaf"] == "middle"
    assert children_of(members, "middle") == ["leaf"]
    assert children_of(members, "top") == ["middle"]


def test_several_at_rest_in_a_row_are_passed_over() -> None:
    members = line_of_four(middle=Phase.STOPPED, leaf=Phase.FAILED)
    assert parents(members)["bud"] == "top"
    assert children_of(members, "top") == ["middle", "bud"]


def test_nobody_counts_where_all_above_are_at_rest() -> None:
    members = line_of_four(top=Phase.STOPPED, middle=Phase.STOPPED)
    assert parents(members) == {"top": None, "middle": None, "leaf": None, "bud": "leaf"}
    assert shown(members)["leaf"] is None


def test_a_pod_at_rest_is_shown_with_its_recorded_parent_at_rest_or_not() -> None:
    members = line_of_four(middle=Phase.STOPPED, leaf=Phase.STOPPED)
    assert shown(members) == {"top": None, "middle": "top", "leaf": "middle", "bud": "top"}
    assert children_of(members, "middle") == ["leaf"]


def test_a_restored_pod_has_its_children_again_and_nothing_was_moved() -> None:
    """Pitfalls 24 and 29: derived each time, so that nothing can be forgotten."""
    fleet = Driven()
    for one, above in (("top", None), ("middle", "top"), ("leaf", "middle")):
        fleet.fleet.add(manifest(one), policy=LifePolicy(), limits=HealthLimits(), parent=above)
    members = fleet.fleet.members
    fleet.up("top", "middle", "leaf")
    fleet.ask(c.Stop(pods=("middle",)), "stop")
    told = fleet.gone("middle")
    assert parent_of(members, "leaf") == "top"
    assert members["leaf"].parent == "middle"
    fleet.ask(c.Restore(pod="middle"), "restore")
    told += fleet.join("middle")
    assert parent_of(members, "leaf") == "middle"
    assert relation(members, "middle", "leaf") is Relation.CHILD
    assert not any(isinstance(one, SaveFamily) for one in told)


def test_a_deleted_pod_leaves_its_children_to_its_parent_for_good() -> None:
    fleet = Driven()
    for one, above in (("top", None), ("middle", "top"), ("leaf", "middle"), ("bud", "leaf")):
        fleet.fleet.add(manifest(one), policy=LifePolicy(), limits=HealthLimits(), parent=above)
    members = fleet.fleet.members
    fleet.up("top", "leaf", "bud")
    told = fleet.ask(c.Delete(pods=("middle",)))
    assert {name: one.parent for name, one in members.items()} == {
        "top": None,
        "leaf": "top",
        "bud": "leaf",
    }
    saved = {one.pod: one for one in told if isinstance(one, SaveFamily)}
    assert saved.keys() == {"top", "leaf"}
    assert saved["leaf"].parent == "top"
    assert saved["top"].tombstones == (Tombstone(name="middle", cause="defined"),)
    fleet.add("middle").up("middle")
    assert children_of(members, "middle") == []


def test_children_of_a_deleted_top_level_pod_stand_alone() -> None:
    fleet = Driven().add("top")
    fleet.fleet.add(manifest("leaf"), policy=LifePolicy(), limits=HealthLimits(), parent="top")
    fleet.ask(c.Delete(pods=("top",)))
    assert fleet.fleet.members["leaf"].parent is None
    assert line(fleet.fleet.members, "leaf") == TOP_LEVEL


def test_a_parent_that_the_fleet_does_not_have_ends_the_line() -> None:
    """Its record went in an earlier life of the supervisor."""
    members = kin(member("leaf", "lost"), member("bud", "leaf"))
    assert parents(members) == {"leaf": None, "bud": "leaf"}
    assert [one.name for one in line_above(members, "bud")] == ["leaf"]
    assert relation(members, "lost", "leaf") is None


# -- where a pod stands, for the scope table


def test_the_line_has_all_above_at_rest_or_not_and_what_each_may_lend() -> None:
    w = ScopeRule(target="/w", permission=Permission.WRITE)
    d = ScopeRule(target="/w/d", permission=Permission.WRITE)
    members = kin(
        member("top", lends=Scope(allow=(w,))),
        member("middle", "top", phase=Phase.STOPPED, lends=Scope(allow=(d,))),
        member("leaf", "middle"),
        member("bud", "leaf", phase=Phase.STOPPED),
        member("twig", "leaf"),
        member("shoot", "twig"),
    )
    where = line(members, "leaf")
    assert where.above == (
        Lender("middle", Scope(allow=(d,))),
        Lender("top", Scope(allow=(w,))),
    )
    assert where.below == {"bud", "twig"}


@pytest.mark.parametrize(
    ("at_rest", "below"),
    [
        ((), {"top": {"middle"}, "middle": {"leaf"}, "leaf": {"bud"}, "bud": set()}),
        (
            ("middle",),
            {"top": {"middle", "leaf"}, "middle": {"leaf"}, "leaf": {"bud"}, "bud": set()},
        ),
        (
            ("middle", "leaf"),
            {
                "top": {"middle", "leaf", "bud"},
                "middle": {"leaf", "bud"},
                "leaf": {"bud"},
                "bud": set(),
            },
        ),
        (("top",), {"top": {"middle"}, "middle": {"leaf"}, "leaf": {"bud"}, "bud": set()}),
    ],
)
def test_what_hangs_on_a_pod_when_it_is_up_is_all_that_has_nobody_nearer(
    at_rest: tuple[str, ...], below: dict[str, set[str]]
) -> None:
    """Pitfall 29: whoever comes back has again all that hang on it, not only its own children."""
    members = line_of_four(**dict.fromkeys(at_rest, Phase.STOPPED))
    assert {name: set(line(members, name).below) for name in members} == below


def test_what_those_below_may_write_is_kept_when_a_pod_goes() -> None:
    w = ScopeRule(target="/w/l", permission=Permission.WRITE)
    members = line_of_four(bud=Phase.STOPPED)
    for name in ("leaf", "bud"):
        changed = members[name].manifest.model_copy(update={"scope": Scope(allow=(w,))})
        members[name].manifest = changed
    kept = (LentRule(**dict(w), pod="leaf"),)
    assert kept_below(members, "middle") == kept_below(members, "top") == kept
    assert kept_below(members, "leaf") == (), "what is at rest writes nothing"


def test_what_a_lender_may_not_read_is_not_in_its_line_either() -> None:
    secret = ScopeRule(target="/w/s", permission=Permission.READ)
    everything = ScopeRule(target="/w", permission=Permission.WRITE)
    boss = member("boss", lends=Scope(allow=(everything,)))
    boss.manifest = boss.manifest.model_copy(update={"scope": Scope(deny=(secret,))})
    (lender,) = line(kin(boss, member("kid", "boss")), "kid").above
    assert lender.delegation == Scope(allow=(everything,))
    assert lender.denies == (secret,)


def test_a_pod_without_kin_is_a_top_level_one() -> None:
    assert line(kin(member("alice"), member("bob")), "alice") == TOP_LEVEL


# -- who sees whom


def village(**phases: Phase) -> dict[str, Member]:
    """Two families: top -> middle -> (leaf, sister), leaf -> bud; and elder -> friend.

    `leaf` and `friend` are peers, and so are `top` and its `middle`.
    """
    above = {
        "top": None,
        "middle": "top",
        "leaf": "middle",
        "sister": "middle",
        "bud": "leaf",
        "elder": None,
        "friend": "elder",
    }
    peers = {"leaf": ("friend",), "friend": ("leaf",), "top": ("middle",), "middle": ("top",)}
    return kin(
        *(
            member(one, its, phase=phases.get(one, Phase.READY), peers=peers.get(one, ()))
            for one, its in above.items()
        )
    )


SEEN = {
    "top": {"middle": "child", "leaf": "descendant", "sister": "descendant", "bud": "descendant"},
    "middle": {"leaf": "child", "sister": "child", "bud": "descendant", "top": "peer"},
    "leaf": {"bud": "child", "friend": "peer"},
    "sister": {},
    "bud": {},
    "elder": {"friend": "child"},
    "friend": {"leaf": "peer"},
}
NAMES = sorted(SEEN)


@pytest.mark.parametrize("other", NAMES)
@pytest.mark.parametrize("seer", NAMES)
def test_a_pod_sees_itself_what_is_below_it_and_its_peers(seer: str, other: str) -> None:
    expected = "self" if seer == other else SEEN[seer].get(other)
    assert relation(village(), seer, other) == expected


@pytest.mark.parametrize("phase", RESTING)
def test_a_pod_at_rest_is_seen_and_sees_as_before_and_its_children_have_two_parents(
    phase: Phase,
) -> None:
    members = village(middle=phase)
    found = {
        seer: {
            other: str(known)
            for other in NAMES
            if other != seer and (known := relation(members, seer, other)) is not None
        }
        for seer in NAMES
    }
    stand_in = {"leaf": "child", "sister": "child"}
    assert found == {**SEEN, "top": {**SEEN["top"], **stand_in}}


def test_peers_of_both_sides_see_each_other_and_a_childs_peer_is_not_its_parents() -> None:
    members = village()
    assert relation(members, "top", "friend") is None
    assert relation(members, "elder", "leaf") is None


def test_whoever_is_not_of_the_fleet_sees_nobody_and_is_seen_by_nobody() -> None:
    members = village()
    assert relation(members, "mallory", "top") is None
    assert relation(members, "top", "mallory") is None


@pytest.mark.parametrize(
    ("other", "child", "expected"),
    [
        ("middle", "leaf", True),
        ("top", "leaf", False),
        ("leaf", "leaf", False),
        ("leaf", "middle", False),
        ("sister", "leaf", False),
        ("friend", "leaf", False),
        ("elder", "leaf", False),
        ("top", "mallory", False),
        ("mallory", "top", False),
    ],
)
def test_a_pod_may_write_to_its_parent_as_such(other: str, child: str, expected: bool) -> None:
    assert is_parent(village(), other, child) is expected


def test_while_its_parent_is_at_rest_a_pod_may_write_to_the_one_that_stands_in() -> None:
    """Pitfall 29: whoever is restored finds that its children can reach it."""
    members = village(middle=Phase.STOPPED)
    assert is_parent(members, "top", "leaf")
    assert is_parent(members, "middle", "leaf"), "it is still the recorded one"
    assert not is_parent(village(), "top", "leaf")


# -- whatever the records say


@st.composite
def records(draw: st.DrawFn) -> dict[str, Member]:
    """Draw records as they should never be: rings, lost parents, peers of one side."""
    names = ("a", "b", "c", "d", "e")
    phases = st.sampled_from((Phase.READY, Phase.STOPPED, Phase.FAILED, Phase.UNREACHABLE))
    anybody = st.sampled_from((None, *names, "lost"))
    return kin(
        *(
            member(
                name,
                draw(anybody),
                phase=draw(phases),
                peers=tuple(draw(st.sets(st.sampled_from(names), max_size=2))),
            )
            for name in names
        )
    )


def is_ring(members: Mapping[str, Member], name: str) -> bool:
    """Say whether one comes back to the pod, parent by parent."""
    at = members[name].parent
    for _ in members:
        if at == name:
            return True
        at = members[at].parent if at is not None and at in members else None
    return False


@settings(max_examples=500)
@given(records())
def test_no_record_makes_a_pod_its_own_ancestor_or_a_line_without_end(
    members: dict[str, Member],
) -> None:
    for name in members:
        above = [one.name for one in line_above(members, name)]
        assert len(above) == len(set(above)) < len(members)
        assert name not in above
        assert parent_of(members, name) in (None, *above)
        assert name not in children_of(members, name) or members[name].parent == name
        assert relation(members, name, name) is Relation.SELF
        assert {one.pod for one in line(members, name).above} == set(above)
        assert set(descendants_of(members, name)) == {
            other for other in members if name in [one.name for one in line_above(members, other)]
        }


@settings(max_examples=500)
@given(records())
def test_what_each_pod_sees_follows_from_its_parent_and_its_peers(
    members: dict[str, Member],
) -> None:
    for seer in members:
        for other in members.keys() - {seer}:
            above = [one.name for one in line_above(members, other)]
            near = {members[other].parent, parent_of(members, other)}
            known = relation(members, seer, other)
            if known in (Relation.CHILD, Relation.DESCENDANT):
                assert seer in above
                assert (known is Relation.CHILD) == (seer in near)
                both = relation(members, other, seer) in (Relation.CHILD, Relation.DESCENDANT)
                assert not both or is_ring(members, seer), "neither is below the other"
            else:
                assert seer not in above
                assert (known is Relation.PEER) == (other in members[seer].peers)


@settings(max_examples=500)
@given(records())
def test_each_pod_is_the_child_of_one_at_most_and_those_agree(members: dict[str, Member]) -> None:
    for name in members:
        having = [other for other in members if name in children_of(members, other)]
        assert having == [other for other in members if other == shown_parent(members, name)]
        counts = parent_of(members, name)
        assert counts is None or members[counts].life.phase in UP
        assert counts is None or is_parent(members, counts, name)


def test_pod_is_judged_by_its_line_up_to_who_lends() -> None:
    """A parent that is down judges, too: else its child had what the parent was denied since."""

    def judges(**phases: Phase) -> list[str]:
        members = line_of_four(**phases)
        return [one.name for one in givers(members, "leaf", parent_of(members, "leaf"))]

    assert judges() == ["middle"]
    for rests in RESTING:
        assert judges(middle=rests) == ["middle", "top"]
        assert judges(middle=rests, top=rests) == ["middle", "top"]
    assert [*givers(kin(member("leaf", "lost")), "leaf", None)] == []
