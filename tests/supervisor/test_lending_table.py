"""Lending and giving back in the scope table: by example, and for families in any order of events.

The records of the fleet are the second half of each question: who is whose recorded parent, and
what that one may lend (`Line`). Here they are made by hand; in `Families` the machine keeps them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol.errors import (
    Conflict,
    DuplicatePod,
    InvalidScope,
    NotSubset,
    PodsupError,
    SegmentConflict,
    UnknownPod,
    WriteConflict,
    WrongToken,
)
from protocol.scope import Permission, Scope, ScopeRule, effective_permission
from supervisor.core import allocations
from supervisor.core.rows import (
    TOP_LEVEL,
    Adoption,
    Allocation,
    AllocationState,
    Key,
    Lender,
    LifeOf,
    Line,
    Table,
)
from supervisor.identity import Life
from tests.supervisor.test_allocations import (
    EVERYBODY_LIVES,
    HOME,
    NOW_MS,
    SOMEBODY,
    accepted,
    dead,
    pods,
    read,
    row,
    write,
)

ANYTHING = Scope(allow=(write("/"),))


def line(*above: str, delegation: Scope = ANYTHING, below: Iterable[str] = ()) -> Line:
    """The line of a pod, its parent first; all of them may lend the same."""
    return Line(tuple(Lender(pod, delegation) for pod in above), frozenset(below))


def known(life: Life, *pods: str) -> LifeOf:
    """This is known of these; everybody else lives."""
    return lambda holder: life if holder.pod in pods else "alive"


def ask(
    table: Table, wanted: Allocation, where: Line, life: LifeOf = EVERYBODY_LIVES
) -> Table | PodsupError:
    return allocations.reserve(table, wanted, life, line=where, now_ms=NOW_MS)


def reserve(table: Table, wanted: Allocation, where: Line, life: LifeOf = EVERYBODY_LIVES) -> Table:
    return accepted(ask(table, wanted, where, life))


def enter(
    table: Table, wanted: Allocation, where: Line, life: LifeOf = EVERYBODY_LIVES
) -> Table | PodsupError:
    return allocations.enter(table, wanted, life, line=where, now_ms=NOW_MS)


def release(table: Table, pod: str, life: LifeOf | None = None) -> Table:
    outcome = allocations.release(table, (HOME, pod), f"{pod}-1", life or dead(pod))
    return accepted(outcome)


def family() -> Table:
    """Four generations, each inside what the one before has."""
    table = Table.of([row("top", write("/w"))])
    table = reserve(table, row("middle", write("/w/m")), line("top"))
    table = reserve(table, row("leaf", write("/w/m/l")), line("middle", "top"))
    return reserve(table, row("bud", write("/w/m/l/b")), line("leaf", "middle", "top"))


def parents(table: Table) -> dict[str, str | None]:
    return {found.pod: found.delegated_from for found in table.rows.values()}


def numbers(table: Table) -> dict[str, int]:
    return {found.pod: found.lend_number for found in table.rows.values()}


def lent(table: Table, pod: str) -> dict[str, list[str]]:
    """What a pod has lent: targets, by borrower."""
    found: dict[str, list[str]] = {}
    for one in allocations.lent_by(table, table.rows[HOME, pod]):
        found.setdefault(one.pod, []).append(one.target)
    return found


def asked(table: Table, pod: str) -> list[str]:
    """Who must agree before the pod may write."""
    return [one.pod for one in allocations.lenders(table, table.rows[HOME, pod])]


def holders(outcome: Table | PodsupError) -> list[str]:
    assert isinstance(outcome, WriteConflict), outcome
    return [holder["pod"] for holder in outcome.details["holders"]]


def may_write(rules: Iterable[ScopeRule], path: str) -> bool:
    """Whether rules grant a write there; not by the functions that the table compares with."""
    return effective_permission(Scope(allow=tuple(rules)), path) is Permission.WRITE


def writes_in_effect(table: Table, pod: str, path: str) -> bool:
    """What the pod is held to: its own write rules, less what it has lent."""
    found = table.rows[HOME, pod]
    return may_write(found.writes, path) and not may_write(allocations.lent_by(table, found), path)


# -- reserving -----------------------------------------------------------------------------------


def test_a_child_is_lent_a_part_of_what_its_parent_has() -> None:
    table = Table.of([row("top", write("/w"))])
    table = reserve(table, row("child", write("/w/c"), identity=None), line("top"))
    child = table.rows[HOME, "child"]
    assert (child.delegated_from, child.state) == ("top", AllocationState.RESERVED)
    assert list(table.ancestors(child)) == [table.rows[HOME, "top"]]


def test_a_child_may_have_all_that_its_parent_has_down_to_the_sixth_generation() -> None:
    table, above = Table.of([row("p0", write("/w"))]), ["p0"]
    for number in range(1, 6):
        table = reserve(table, row(f"p{number}", write("/w")), line(*above))
        above.insert(0, f"p{number}")
    assert [pod for pod in above if writes_in_effect(table, pod, "/w")] == ["p5"]


def test_what_may_be_lent_is_the_delegation_and_not_the_parents_own_scope() -> None:
    table = Table.of([row("top", read("/w"))])
    delegation = Scope(allow=(write("/w"),))
    table = reserve(table, row("child", write("/w/c")), line("top", delegation=delegation))
    assert lent(table, "top") == {"child": ["/w/c"]}


@pytest.mark.parametrize(
    ("delegation", "wanted"),
    [
        (Scope(), write("/w/c")),
        (Scope(allow=(read("/"),)), write("/w/c")),
        (Scope(allow=(write("/w"),)), write("/v")),
        (Scope(allow=(write("/w"),)), write("/wider")),
        (Scope(allow=(write("/w/c"),)), write("/w")),
        (Scope(allow=(write("/w", recursive=False),)), write("/w")),
        (Scope(allow=(write("/w", recursive=False),)), write("/w/c", recursive=False)),
        (Scope(allow=(write("/w/c", recursive=False), write("/w/c/d"))), write("/w/c")),
        (Scope(allow=(write("/w"),), deny=(write("/w/c/deep"),)), write("/w/c")),
        (Scope(allow=(write("/w"),), deny=(read("/w/c"),)), write("/w/c/deep")),
    ],
    ids=[
        "nothing",
        "only to read",
        "elsewhere",
        "begins alike",
        "a part",
        "flat",
        "flat and below",
        "two halves",
        "denied below",
        "denied above",
    ],
)
def test_what_one_rule_of_the_delegation_does_not_hold_is_no_subset(
    delegation: Scope, wanted: ScopeRule
) -> None:
    table = Table.of([row("top", write("/"))])
    outcome = ask(table, row("child", wanted), line("top", delegation=delegation))
    assert isinstance(outcome, NotSubset)
    assert outcome.details == {"rule": wanted.to_wire(), "lender": "top"}
    assert wanted.target in outcome.message
    assert outcome.next_step


def test_one_rule_too_many_refuses_the_whole_request() -> None:
    table = Table.of([row("top", write("/w"))])
    where = line("top", delegation=Scope(allow=(write("/w"),)))
    outcome = ask(table, row("child", write("/w/c"), write("/v")), where)
    assert isinstance(outcome, NotSubset)
    assert outcome.details["rule"]["target"] == "/v"


@pytest.mark.parametrize("target", ["w/c", "/w/../v", "/w/./c", "/w//c", ""])
def test_a_target_that_is_not_canonical_is_never_lent(target: str) -> None:
    table = Table.of([row("top", write("/w"))])
    assert isinstance(ask(table, row("child", write(target)), line("top")), InvalidScope)


def test_nobody_lends_for_a_pod_of_another_home() -> None:
    table = Table.of([row("top", write("/w"), home="/other")])
    outcome = ask(table, row("child", write("/w/c")), line("top"))
    assert isinstance(outcome, UnknownPod)


@pytest.mark.parametrize(("above", "said"), [((), "none"), (("top", "lost"), "top, lost")])
def test_where_nobody_of_the_line_lives_there_is_nobody_to_lend(
    above: Sequence[str], said: str
) -> None:
    table = Table.of([row("top", write("/w"))])
    outcome = ask(table, row("child", write("/w/c")), line(*above), dead("top"))
    assert isinstance(outcome, UnknownPod)
    assert outcome.message.endswith(f": {said}")


@pytest.mark.parametrize(
    ("gone", "lender"), [((), "leaf"), (("leaf",), "middle"), (("leaf", "middle"), "top")]
)
def test_the_nearest_of_the_line_that_lives_lends(gone: Sequence[str], lender: str) -> None:
    where = line("leaf", "lost", "middle", "top")
    table = reserve(family(), row("new", write("/v")), where, dead(*gone))
    assert parents(table)["new"] == lender


def test_a_lender_that_cannot_be_seen_from_here_counts_as_alive() -> None:
    table = Table.of([row("top", write("/")), row("parent", write("/w"), parent="top")])
    where = line("parent", "top")
    table = reserve(table, row("child", write("/w/c")), where, known("unverifiable", "parent"))
    assert parents(table)["child"] == "parent"


def test_it_is_the_living_lender_whose_delegation_counts() -> None:
    table = Table.of([row("top", write("/w")), row("parent", read("/w"), parent="top")])
    where = Line((Lender("parent", Scope()), Lender("top", Scope(allow=(write("/w"),)))))
    assert isinstance(ask(table, row("child", write("/w/c")), where), NotSubset)
    table = reserve(table, row("child", write("/w/c")), where, dead("parent"))
    assert parents(table)["child"] == "top"


# -- pitfall 19: everybody is a rival but the own line -----------------------------------------


@pytest.mark.parametrize("target", ["/w/c", "/w/c/deep", "/w"])
def test_two_children_of_a_parent_that_only_reads_never_get_one_directory(target: str) -> None:
    table = Table.of([row("boss", read("/w"))])
    table = reserve(table, row("one", write("/w/c")), line("boss"))
    assert holders(ask(table, row("two", write(target)), line("boss"))) == ["one"]


@pytest.mark.parametrize("above", [("boss", "top"), ("top",)])
def test_a_child_never_gets_what_a_relative_outside_its_line_has(above: Sequence[str]) -> None:
    table = Table.of([row("top", read("/"))])
    table = reserve(table, row("boss", read("/")), line("top"))
    table = reserve(table, row("aunt", read("/")), line("top"))
    table = reserve(table, row("cousin", write("/w/c")), line("aunt", "top"))
    outcome = ask(table, row("child", write("/w/c")), line(*above))
    assert holders(outcome) == ["cousin"]


def test_children_of_two_homes_are_compared_with_each_other() -> None:
    table = Table.of([row("top", read("/w")), row("top", read("/w"), home="/other")])
    table = reserve(table, row("one", write("/w/c"), home="/other"), line("top"))
    assert holders(ask(table, row("one", write("/w/c")), line("top"))) == ["one"]


def test_a_child_is_no_conflict_with_any_of_those_above_it() -> None:
    assert parents(family()) == {"top": None, "middle": "top", "leaf": "middle", "bud": "leaf"}


def test_a_child_is_not_lent_what_its_parent_has_lent_already_to_another() -> None:
    outcome = ask(family(), row("second", write("/w/m")), line("top"))
    assert holders(outcome) == ["middle", "leaf", "bud"]


def test_a_stranger_meets_every_row_of_a_family_that_writes_there() -> None:
    outcome = allocations.register(
        family(), row("other", write("/w/m/l")), EVERYBODY_LIVES, now_ms=NOW_MS
    )
    assert holders(outcome) == ["top", "middle", "leaf", "bud"]


def test_a_dead_sibling_in_the_way_is_settled_but_its_live_child_stands() -> None:
    table = Table.of([row("top", read("/w"))])
    table = reserve(table, row("one", write("/w/c")), line("top"))
    table = reserve(table, row("ones", write("/w/c/d")), line("one", "top"))
    outcome = ask(table, row("two", write("/w/c")), line("top"), dead("one"))
    assert holders(outcome) == ["ones"]
    table = reserve(table, row("two", write("/w/c/e")), line("top"), dead("one"))
    assert parents(table) == {"top": None, "ones": "top", "two": "top"}


def test_the_name_of_a_live_sibling_is_taken() -> None:
    table = reserve(Table.of([row("top")]), row("child"), line("top"))
    assert isinstance(ask(table, row("child", incarnation=2), line("top")), DuplicatePod)


def test_the_segment_of_a_live_sibling_is_taken() -> None:
    table = reserve(Table.of([row("top")]), row("one", segment="s1"), line("top"))
    assert isinstance(ask(table, row("two", segment="s1"), line("top")), SegmentConflict)


@pytest.mark.parametrize("life", ["alive", "unverifiable"])
def test_a_borrower_that_is_stopped_or_not_to_be_seen_keeps_what_it_was_lent(life: Life) -> None:
    """Pitfall 34: woken after a second grant, it would write beside the second borrower."""
    table = reserve(Table.of([row("top", read("/w"))]), row("one", write("/w/c")), line("top"))
    outcome = ask(table, row("two", write("/w/c")), line("top"), known(life, "one"))
    assert holders(outcome) == ["one"]


# -- what is lent is derived: pitfalls 24 and 25 -----------------------------------------------


def test_what_is_lent_is_told_with_the_borrower_down_to_the_last_generation() -> None:
    table = family()
    assert lent(table, "top") == {"middle": ["/w/m"], "leaf": ["/w/m/l"], "bud": ["/w/m/l/b"]}
    assert lent(table, "leaf") == {"bud": ["/w/m/l/b"]}
    assert lent(table, "bud") == {}


def test_only_what_is_for_writing_is_lent_and_only_in_the_same_home() -> None:
    table = Table.of([row("top", write("/w")), row("top", write("/v"), home="/other")])
    table = reserve(table, row("child", write("/v/c"), home="/other"), line("top"))
    table = reserve(table, row("child", write("/w/c", recursive=False), read("/")), line("top"))
    (rule,) = allocations.lent_by(table, table.rows[HOME, "top"])
    assert (rule.pod, rule.target, rule.permission, rule.recursive) == (
        "child",
        "/w/c",
        Permission.WRITE,
        False,
    )


@pytest.mark.parametrize("path", ["/w/m", "/w/m/l/b", "/w/m/x"])
def test_after_its_childs_death_and_release_a_parent_may_write_there_again(path: str) -> None:
    table = Table.of([row("top", write("/w"))])
    table = reserve(table, row("child", write("/w/m")), line("top"))
    assert not writes_in_effect(table, "top", path)
    table = release(table, "child")
    assert writes_in_effect(table, "top", path)
    assert lent(table, "top") == {}


def test_a_dead_borrowers_part_stays_lent_until_its_row_goes() -> None:
    """Its supervisor may be about to renew it."""
    table = reserve(Table.of([row("top", write("/w"))]), row("child", write("/w/c")), line("top"))
    table = reserve(table, row("other", write("/w/o")), line("top"), dead("child"))
    assert lent(table, "top") == {"child": ["/w/c"], "other": ["/w/o"]}


def test_a_borrower_that_still_lives_gives_nothing_back() -> None:
    table = reserve(Table.of([row("top", write("/w"))]), row("child", write("/w/c")), line("top"))
    outcome = allocations.release(table, (HOME, "child"), "child-1", EVERYBODY_LIVES)
    assert isinstance(outcome, Conflict)
    assert not writes_in_effect(table, "top", "/w/c")


def settled_by_a_stranger(table: Table, pod: str) -> Table:
    """Have a dead pod's row go because somebody starts under its name anew."""
    wanted = row(pod, read("/"), incarnation=2)
    outcome = allocations.register(table, wanted, dead(pod), now_ms=NOW_MS)
    return accepted(outcome).without(wanted)


@pytest.mark.parametrize("goes", [release, settled_by_a_stranger])
def test_after_a_middle_pods_exit_nobody_above_may_write_under_its_live_children(
    goes: Callable[[Table, str], Table],
) -> None:
    table = goes(family(), "middle")
    assert parents(table) == {"top": None, "leaf": "top", "bud": "leaf"}
    assert lent(table, "top") == {"leaf": ["/w/m/l"], "bud": ["/w/m/l/b"]}
    writers = {
        path: [pod for pod in parents(table) if writes_in_effect(table, pod, path)]
        for path in ("/w/m", "/w/m/l", "/w/m/l/b")
    }
    assert writers == {"/w/m": ["top"], "/w/m/l": ["leaf"], "/w/m/l/b": ["bud"]}


def test_children_of_a_top_level_pod_that_goes_stand_alone_and_stay_rivals_of_all() -> None:
    table = release(family(), "top")
    assert parents(table) == {"middle": None, "leaf": "middle", "bud": "leaf"}
    again = row("top", write("/w"), incarnation=2)
    outcome = allocations.register(table, again, EVERYBODY_LIVES, now_ms=NOW_MS)
    assert holders(outcome) == ["middle", "leaf", "bud"]


def test_only_the_own_children_of_a_pod_that_goes_get_another_parent() -> None:
    table = Table.of(
        [
            row("top"),
            row("middle", parent="top"),
            row("leaf", parent="middle"),
            row("middle", home="/other"),
            row("leaf", parent="middle", home="/other"),
        ]
    )
    table = release(table, "middle")
    assert {key: found.delegated_from for key, found in table.rows.items()} == {
        (HOME, "top"): None,
        (HOME, "leaf"): "top",
        ("/other", "middle"): None,
        ("/other", "leaf"): "middle",
    }


def test_a_newcomer_whose_dead_parent_is_passed_over_still_takes_nothing_from_a_live_pod() -> None:
    table = reserve(Table.of([row("top", read("/w"))]), row("one", write("/w/a")), line("top"))
    table = reserve(table, row("two", write("/w/b")), line("top"))
    where = line("one", "top")
    assert holders(ask(table, row("new", write("/w/b")), where, dead("one"))) == ["two"]
    table = reserve(table, row("new", write("/w/a/n")), where, dead("one"))
    assert parents(table) == {"top": None, "two": "top", "new": "top"}


# -- pitfall 22: tokens -----------------------------------------------------------------------


def late(table: Table) -> list[Table | PodsupError]:
    """All that the first incarnation of the child could still ask for."""
    key, token = (HOME, "child"), "child-1"
    hello = Adoption(pod="child", token=token, identity=SOMEBODY)
    return [
        allocations.release(table, key, token, dead("child")),
        allocations.adopt(table, key, hello, EVERYBODY_LIVES, now_ms=NOW_MS),
        allocations.claim_segment(
            table, key, token, EVERYBODY_LIVES, session_id="x", segment_id="y", now_ms=NOW_MS
        ),
    ]


def test_a_late_child_with_an_old_token_changes_nothing_for_the_one_that_replaced_it() -> None:
    table = reserve(Table.of([row("top", write("/w"))]), row("child", write("/w/c")), line("top"))
    table = accepted(
        enter(table, row("child", write("/w/c"), incarnation=2), line("top"), dead("child"))
    )
    assert [type(outcome) for outcome in late(table)] == [WrongToken] * 3


def test_a_late_child_with_an_old_token_changes_nothing_for_another_parents_child() -> None:
    table = Table.of([row("top", write("/w")), row("other", write("/v"))])
    table = reserve(table, row("child", write("/w/c")), line("top"))
    table = release(table, "child")
    table = reserve(table, row("child", write("/v/c"), incarnation=2), line("other"))
    assert [type(outcome) for outcome in late(table)] == [WrongToken] * 3
    assert lent(table, "other") == {"child": ["/v/c"]}


# -- the numbers of lends ------------------------------------------------------------------------


def test_each_lend_raises_the_number_of_all_above_and_of_nobody_else() -> None:
    table = Table.of([row("top"), row("other")])
    seen = [numbers(table)]
    for pod, *above in (("middle", "top"), ("leaf", "middle", "top"), ("second", "top")):
        table = reserve(table, row(pod), line(*above))
        seen.append(numbers(table))
    assert seen[1:] == [
        {"top": 1, "other": 0, "middle": 0},
        {"top": 2, "other": 0, "middle": 1, "leaf": 0},
        {"top": 3, "other": 0, "middle": 1, "leaf": 0, "second": 0},
    ]


def test_each_return_raises_the_number_of_all_above_and_of_nobody_else() -> None:
    table = family()
    assert numbers(table) == {"top": 3, "middle": 2, "leaf": 1, "bud": 0}
    table = release(table, "bud")
    assert numbers(table) == {"top": 4, "middle": 3, "leaf": 2}
    assert numbers(release(table, "middle")) == {"top": 5, "leaf": 2}


def test_a_lend_for_which_a_dead_pod_is_settled_is_counted_like_two() -> None:
    table = reserve(Table.of([row("top")]), row("one", write("/w")), line("top"))
    table = reserve(table, row("two", write("/w")), line("top"), dead("one"))
    assert numbers(table) == {"top": 3, "two": 0}


def test_what_changes_no_lend_raises_no_number() -> None:
    table = family()
    hello = Adoption(pod="leaf", token="leaf-1", identity=SOMEBODY, segment_id="s1")
    adopted = allocations.adopt(table, (HOME, "leaf"), hello, EVERYBODY_LIVES, now_ms=NOW_MS)
    again = enter(
        table, row("leaf", write("/w/m/l"), incarnation=2), line("middle", "top"), dead("leaf")
    )
    assert numbers(accepted(adopted)) == numbers(accepted(again)) == numbers(table)


@pytest.mark.parametrize("targets", [[], ["/w/m/l/b"], ["/w/m/l", "/v"]])
def test_a_renewal_that_changes_what_is_lent_raises_the_numbers_above(targets: list[str]) -> None:
    rules = [write(target) for target in targets]
    table = accepted(
        enter(family(), row("leaf", *rules, incarnation=2), line("middle", "top"), dead("leaf"))
    )
    assert numbers(table) == {"top": 4, "middle": 3, "leaf": 1, "bud": 0}


def test_a_renewed_lender_counts_on_from_where_it_was() -> None:
    again = row("middle", write("/w/m"), incarnation=2)
    table = accepted(enter(family(), again, line("top", below={"leaf"}), dead("middle")))
    assert numbers(table)["middle"] == 2
    assert lent(table, "middle") == {"leaf": ["/w/m/l"], "bud": ["/w/m/l/b"]}


def test_neither_a_grant_nor_a_refusal_touches_the_table_it_was_asked_of() -> None:
    table = family()
    before = dict(table.rows), table.claims
    reserve(table, row("new", write("/w/n")), line("top"))
    ask(table, row("new", write("/w/m")), line("top"))
    release(table, "middle")
    table.below(table.rows[HOME, "bud"], "top")
    assert (table.rows, table.claims) == before


# -- the shape of a family -----------------------------------------------------------------------


def test_those_above_come_nearest_first() -> None:
    table = family()
    assert [one.pod for one in table.ancestors(table.rows[HOME, "bud"])] == [
        "leaf",
        "middle",
        "top",
    ]


@pytest.mark.parametrize("missing", ["lost", "child", "parent"])
def test_those_above_end_where_a_row_is_missing_and_in_a_ring(missing: str) -> None:
    table = Table.of([row("parent", parent=missing), row("child", parent="parent")])
    assert [one.pod for one in table.ancestors(table.rows[HOME, "child"])] == ["parent"]


def test_a_row_put_below_another_keeps_all_that_it_claims() -> None:
    table = family()
    moved = table.below(table.rows[HOME, "bud"], "top")
    assert parents(moved) == parents(table) | {"bud": "top"}
    assert sorted(map(str, moved.claims)) == sorted(map(str, table.claims))
    assert numbers(moved) == numbers(table) | {"top": 4}


# -- coming back -----------------------------------------------------------------------------------


def test_children_come_back_to_their_restored_parent() -> None:
    table = release(family(), "middle")
    again = row("middle", write("/w/m"), incarnation=2)
    table = accepted(enter(table, again, line("top", below={"leaf"})))
    assert parents(table) == {"top": None, "leaf": "middle", "bud": "leaf", "middle": "top"}
    assert lent(table, "middle") == {"leaf": ["/w/m/l"], "bud": ["/w/m/l/b"]}
    assert lent(table, "top").keys() == {"middle", "leaf", "bud"}


def test_children_come_back_to_a_restored_pod_that_has_nobody_above() -> None:
    table = release(family(), "top")
    table = accepted(
        enter(table, row("top", write("/w"), incarnation=2), Line(below=frozenset({"middle"})))
    )
    assert parents(table) == {"middle": "top", "leaf": "middle", "bud": "leaf", "top": None}
    assert not writes_in_effect(table, "top", "/w/m/x")


@pytest.mark.parametrize("order", [("top", "middle", "leaf"), ("leaf", "middle", "top")])
def test_a_line_whose_rows_are_gone_comes_back_in_any_order_around_a_pod_that_lives(
    order: Sequence[str],
) -> None:
    """What is below a pod is what hangs on it where nobody between is there."""
    targets = {"top": "/w", "middle": "/w/m", "leaf": "/w/m/l"}
    table, there = family(), {"bud"}
    for pod in order:
        table = release(table, pod)
    for pod in order:
        at = list(targets).index(pod)
        below = next(one for one in [*targets, "bud"][at + 1 :] if one in there)
        where = line(*reversed(list(targets)[:at]), below={below})
        table = accepted(enter(table, row(pod, write(targets[pod]), incarnation=2), where))
        there.add(pod)
    assert parents(table) == parents(family())


def test_a_child_comes_back_that_was_passed_on_to_nobody_when_its_whole_line_went() -> None:
    table = Table.of([row("leaf", write("/w/m/l"))])
    table = accepted(enter(table, row("top", read("/w")), TOP_LEVEL))
    table = accepted(enter(table, row("middle", write("/w/m")), line("top", below={"leaf"})))
    assert parents(table) == {"leaf": "middle", "top": None, "middle": "top"}


def test_a_child_that_comes_back_raises_the_numbers_of_all_above_it() -> None:
    table = release(family(), "middle")
    before = numbers(table)
    again = row("middle", write("/w/m"), incarnation=2)
    table = accepted(enter(table, again, line("top", below={"leaf"})))
    assert numbers(table)["middle"] > 0
    assert numbers(table)["top"] > before["top"]
    assert numbers(table)["leaf"] == before["leaf"]


def test_a_restored_parent_that_is_not_told_of_its_children_is_refused_for_them() -> None:
    table = release(family(), "middle")
    outcome = enter(table, row("middle", write("/w/m"), incarnation=2), line("top"))
    assert holders(outcome) == ["leaf", "bud"]


def test_a_restored_parent_is_refused_for_what_others_got_meanwhile() -> None:
    table = release(family(), "middle")
    table = reserve(table, row("new", write("/w/m/n")), line("top"))
    again = row("middle", write("/w/m"), incarnation=2)
    assert holders(enter(table, again, line("top", below={"leaf"}))) == ["new"]


def test_a_recorded_child_that_another_pod_has_below_it_stays_there() -> None:
    table = Table.of([row("top"), row("aunt", parent="top"), row("child", parent="aunt")])
    table = accepted(enter(table, row("parent"), line("top", below={"child"})))
    assert parents(table)["child"] == "aunt"


def test_a_pod_whose_row_was_kept_is_renewed_where_it_stands() -> None:
    again = row("leaf", write("/w/m/l"), incarnation=2, identity=None)
    table = accepted(enter(family(), again, line("middle", "top"), dead("leaf", "middle")))
    assert parents(table) == parents(family())
    assert table.rows[HOME, "leaf"].token == "leaf-2"


def test_a_pod_whose_row_is_gone_is_the_child_of_the_nearest_that_lives() -> None:
    table = release(release(family(), "bud"), "leaf")
    again = row("leaf", write("/w/m/l"), incarnation=2)
    table = accepted(enter(table, again, line("middle", "top"), dead("middle")))
    assert parents(table) == {"top": None, "leaf": "top"}  # the dead one was in its way


def test_a_pod_of_whose_line_nobody_lives_comes_back_alone() -> None:
    table = Table.of([row("other", write("/v"))])
    table = accepted(enter(table, row("leaf", write("/w")), line("middle", "top")))
    assert parents(table) == {"other": None, "leaf": None}
    outcome = enter(table, row("bud", write("/v")), line("middle", "top"))
    assert holders(outcome) == ["other"]


def test_a_pod_that_lives_does_not_enter_again() -> None:
    outcome = enter(family(), row("leaf", write("/w/m/l"), incarnation=2), line("middle", "top"))
    assert isinstance(outcome, DuplicatePod)


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_child_never_comes_back_with_more_than_its_lender_may_lend(is_kept: bool) -> None:
    table = family() if is_kept else release(release(family(), "bud"), "leaf")
    where = line("middle", "top", delegation=Scope(allow=(write("/w/m/l"),)))
    life = dead("leaf")
    more = row("leaf", write("/w/m/l"), write("/v"), incarnation=2)
    assert isinstance(enter(table, more, where, life), NotSubset)
    as_before = row("leaf", write("/w/m/l"), incarnation=2)
    assert isinstance(enter(table, as_before, where, life), Table)


# -- who must agree --------------------------------------------------------------------------------


def test_a_parent_that_could_write_there_must_agree_and_those_who_had_lent_it_need_not() -> None:
    table = family()
    assert {pod: asked(table, pod) for pod in pods(table)} == {
        "top": [],
        "middle": ["top"],
        "leaf": ["middle"],
        "bud": ["leaf"],
    }


def test_all_above_that_could_write_there_must_agree_nearest_first() -> None:
    table = Table.of([row("top", write("/w"))])
    table = reserve(table, row("middle", write("/w/m/l/b")), line("top"))
    table = reserve(table, row("leaf", write("/w/m/l")), line("middle", "top"))
    assert asked(table, "leaf") == ["middle", "top"]


def test_who_could_not_write_there_need_not_agree() -> None:
    table = Table.of([row("top", write("/w"))])
    table = reserve(table, row("middle", read("/w")), line("top"))
    table = reserve(table, row("leaf", write("/w/l")), line("middle", "top"))
    table = reserve(table, row("bud", write("/v")), line("leaf", "middle", "top"))
    assert (asked(table, "leaf"), asked(table, "bud")) == (["top"], [])


# -- any order of events ---------------------------------------------------------------------------

TREE = ["/a", "/a/b", "/a/b/c", "/a/b/c/d", "/a/b/e", "/f", "/f/g"]
PATHS = ["/", *(f"{target}{below}" for target in TREE for below in ("", "/x", "/x/y"))]
"""In any two regions over these targets, and in what is left of one without others, one of these
paths lies if any path does."""

RULES = [
    ScopeRule(target=target, permission=permission, recursive=recursive)
    for target in TREE
    for permission in (Permission.WRITE, Permission.READ)
    for recursive in (True, False)
]
DELEGATIONS = st.builds(
    Scope,
    allow=st.lists(st.sampled_from([write("/a"), write("/a/b"), write("/f"), *RULES]), max_size=2),
    deny=st.lists(st.sampled_from(RULES), max_size=1),
)
NAMES = "abcdefghij"
DEEPEST = 6


@functools.cache
def region(rules: tuple[ScopeRule, ...]) -> frozenset[str]:
    """Where rules grant a write."""
    return frozenset(path for path in PATHS if may_write(rules, path))


def region_in_effect(table: Table, found: Allocation) -> frozenset[str]:
    """Where a pod is held to write: what its rules grant, less what it has lent."""
    return region(found.writes) - region(allocations.lent_by(table, found))


@dataclass(frozen=True, slots=True)
class Record:
    """What the fleet keeps of a pod whether it has a row or not."""

    parent: str | None
    rules: tuple[ScopeRule, ...]
    delegation: Scope


class Families(RuleBasedStateMachine):
    """Pods spawn, die, are renewed, released, forgotten and restored, six generations deep."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()
        self.before = Table()
        self.records: dict[str, Record] = {}
        self.known: dict[tuple[str, int], Life] = {}
        self.newest: dict[str, int] = {}
        self.resting: set[str] = set()

    # -- what there is ---------------------------------------------------------------------------

    def life(self, holder: Allocation) -> Life:
        return self.known[holder.pod, holder.incarnation]

    def living(self) -> list[Allocation]:
        return [found for found in self.table.rows.values() if self.life(found) != "dead"]

    def kept(self) -> list[str]:
        return [found.pod for found in self.table.rows.values() if self.life(found) == "dead"]

    def line_above(self, pod: str | None) -> list[str]:
        found = []
        while pod is not None:
            found.append(pod)
            pod = self.records[pod].parent
        return found

    def line(self, pod: str, parent: str | None) -> Line:
        above = [Lender(name, self.records[name].delegation) for name in self.line_above(parent)]
        below = [name for name in self.records if self.next_above(name, pod) == pod]
        return Line(tuple(above), frozenset(below))

    def next_above(self, name: str, pod: str) -> str | None:
        """The nearest above that is not at rest, once the pod is there."""
        above = self.line_above(self.records[name].parent)
        return next((one for one in above if one == pod or one not in self.resting), None)

    def next_of(self, pod: str, rules: Iterable[ScopeRule]) -> Allocation:
        number = self.newest[pod] = self.newest.get(pod, 0) + 1
        self.known[pod, number] = "alive"
        return row(pod, *rules, incarnation=number, segment=f"s-{pod}", identity=None)

    def take(self, outcome: Table | PodsupError) -> bool:
        """Have what came of an operation; a start that was refused is over."""
        if isinstance(outcome, Table):
            self.before, self.table = self.table, outcome
        return isinstance(outcome, Table)

    def started(self, outcome: Table | PodsupError, wanted: Allocation, record: Record) -> bool:
        if self.take(outcome):
            self.records[wanted.pod] = record
            self.resting.discard(wanted.pod)
            return True
        self.known[wanted.pod, wanted.incarnation] = "dead"
        return False

    # -- what happens ----------------------------------------------------------------------------

    @initialize(generations=st.integers(1, DEEPEST))
    def found(self, generations: int) -> None:
        """Begin with one line, each of which has and may lend all of one tree."""
        for parent, pod in zip([None, *NAMES], NAMES[:generations], strict=False):
            record = Record(parent, (write("/a"),), Scope(allow=(write("/a"),)))
            wanted, where = self.next_of(pod, record.rules), self.line(pod, parent)
            operation = allocations.reserve if parent else allocations.register
            outcome = operation(self.table, wanted, self.life, line=where, now_ms=NOW_MS)
            assert self.started(outcome, wanted, record)

    def is_name_free(self) -> bool:
        return len(self.records) < len(NAMES)

    @precondition(is_name_free)
    @rule(
        data=st.data(),
        rules=st.lists(st.sampled_from(RULES), max_size=2),
        delegation=DELEGATIONS,
    )
    def register(self, data: st.DataObject, rules: list[ScopeRule], delegation: Scope) -> None:
        pod = data.draw(st.sampled_from([name for name in NAMES if name not in self.records]))
        wanted = self.next_of(pod, rules)
        outcome = allocations.register(self.table, wanted, self.life, now_ms=NOW_MS)
        self.started(outcome, wanted, Record(None, tuple(rules), delegation))

    @precondition(lambda self: self.is_name_free() and self.living())
    @rule(data=st.data(), delegation=DELEGATIONS, lends_on=st.booleans())
    def reserve(self, data: st.DataObject, delegation: Scope, lends_on: bool) -> None:
        young = [one.pod for one in self.living() if len(self.line_above(one.pod)) < DEEPEST]
        if not young:
            return
        parent = data.draw(st.sampled_from(young))
        pod = data.draw(st.sampled_from([name for name in NAMES if name not in self.records]))
        lendable = self.records[parent].delegation
        likely = [one for one in RULES if one.target in region(lendable.allow)]
        rules = data.draw(st.lists(st.sampled_from([*likely, *likely, *RULES]), max_size=2))
        wanted = self.next_of(pod, rules)
        outcome = allocations.reserve(
            self.table, wanted, self.life, line=self.line(pod, parent), now_ms=NOW_MS
        )
        record = Record(parent, tuple(rules), lendable if lends_on else delegation)
        if self.started(outcome, wanted, record):
            self.check_lent(pod)

    @precondition(lambda self: self.living())
    @rule(data=st.data(), is_late=st.booleans())
    def adopt(self, data: st.DataObject, is_late: bool) -> None:
        one = data.draw(st.sampled_from(self.living()))
        token = f"{one.pod}-{one.incarnation - is_late}"
        hello = Adoption(pod=one.pod, token=token, identity=SOMEBODY)
        outcome = allocations.adopt(self.table, one.key, hello, self.life, now_ms=NOW_MS)
        assert self.take(outcome) is not is_late

    @precondition(lambda self: self.living())
    @rule(data=st.data(), life=st.sampled_from(["dead", "dead", "dead", "unverifiable"]))
    def end(self, data: st.DataObject, life: Life) -> None:
        one = data.draw(st.sampled_from(self.living()))
        self.known[one.pod, one.incarnation] = life

    @precondition(lambda self: self.living())
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.living()))
        self.known[one.pod, one.incarnation] = "dead"
        assert self.take(allocations.release(self.table, one.key, one.token, self.life))
        self.resting.add(one.pod)

    @precondition(lambda self: self.kept())
    @rule(
        data=st.data(),
        others=st.none() | st.lists(st.sampled_from(RULES), max_size=2),
    )
    def renew(self, data: st.DataObject, others: list[ScopeRule] | None) -> None:
        """With the rules it had, or with others."""
        pod = data.draw(st.sampled_from(self.kept()))
        record = self.records[pod]
        rules = record.rules if others is None else tuple(others)
        wanted, where = self.next_of(pod, rules), self.line(pod, record.parent)
        outcome = allocations.renew(self.table, wanted, self.life, line=where, now_ms=NOW_MS)
        self.started(outcome, wanted, Record(record.parent, rules, record.delegation))
        assert others is not None or not isinstance(outcome, WriteConflict)

    @precondition(lambda self: self.table.rows)
    @rule(data=st.data(), is_late=st.booleans())
    def release(self, data: st.DataObject, is_late: bool) -> None:
        one = data.draw(st.sampled_from(list(self.table.rows.values())))
        token = f"{one.pod}-{one.incarnation - is_late}"
        outcome = allocations.release(self.table, one.key, token, self.life)
        is_gone = self.take(outcome)
        assert is_gone is (self.life(one) == "dead" and not is_late)
        if is_gone:
            self.resting.add(one.pod)

    def at_rest(self) -> list[str]:
        living = {one.pod for one in self.living()}
        return [pod for pod in self.records if pod not in living]

    @precondition(lambda self: self.at_rest())
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        """As its records say, whether its row was kept, settled or released."""
        pod = data.draw(st.sampled_from(self.at_rest()))
        record = self.records[pod]
        wanted, where = self.next_of(pod, record.rules), self.line(pod, record.parent)
        is_kept = wanted.key in self.table.rows
        outcome = allocations.enter(self.table, wanted, self.life, line=where, now_ms=NOW_MS)
        if self.started(outcome, wanted, record) and not is_kept:
            self.check_lent(pod)
        if isinstance(outcome, WriteConflict) and not self.settled():
            own = {name for name in self.records if pod in self.line_above(name)}
            assert not set(holders(outcome)) <= {*own, *self.line_above(pod)}

    def settled(self) -> set[str]:
        """Those whose row went to somebody in whose way it stood; the fleet does not know yet."""
        return self.records.keys() - self.resting - {name for _, name in self.table.rows}

    def forgettable(self) -> list[str]:
        recorded = {record.parent for record in self.records.values()}
        rows = {name for _, name in self.table.rows}
        return [pod for pod in self.records if pod not in recorded and pod not in rows]

    @precondition(lambda self: self.forgettable())
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        """Have the name free for another pod, elsewhere in the fleet."""
        pod = data.draw(st.sampled_from(self.forgettable()))
        del self.records[pod]
        self.resting.discard(pod)

    # -- what holds ------------------------------------------------------------------------------

    def check_lent(self, pod: str) -> None:
        """A new row has no more than its lender may lend; who could write there is asked."""
        child = self.table.rows[HOME, pod]
        wanted = region(child.writes)
        if child.delegated_from is not None:
            lendable = self.records[child.delegated_from].delegation
            for path in wanted:
                assert effective_permission(lendable, path) is Permission.WRITE
        could = {
            above.pod
            for above in map(self.before.rows.__getitem__, self.keys_above(child))
            if wanted & region_in_effect(self.before, above)
        }
        assert could <= set(asked(self.table, pod))

    def keys_above(self, found: Allocation) -> list[Key]:
        return [above.key for above in self.table.ancestors(found)]

    @invariant()
    def no_two_live_pods_outside_one_line_may_write_one_path(self) -> None:
        for one, other in itertools.combinations(self.living(), 2):
            if one.key not in self.keys_above(other) and other.key not in self.keys_above(one):
                assert not region(one.writes) & region(other.writes), (one.pod, other.pod)

    @invariant()
    def in_effect_each_path_is_at_most_one_live_pods_to_write(self) -> None:
        in_effect = [region_in_effect(self.table, one) for one in self.living()]
        for one, other in itertools.combinations(in_effect, 2):
            assert not one & other

    @invariant()
    def nobody_loses_its_row_before_it_is_proven_dead(self) -> None:
        rows = {(found.pod, found.incarnation) for found in self.table.rows.values()}
        assert rows >= {one for one, life in self.known.items() if life != "dead"}

    @invariant()
    def each_parent_has_a_row_and_stands_above_in_the_records_too(self) -> None:
        for found in self.table.rows.values():
            above = [one.pod for one in self.table.ancestors(found)]
            assert found.delegated_from == (above[0] if above else None)
            assert found.pod not in above
            recorded = self.line_above(self.records[found.pod].parent)
            assert above == [name for name in recorded if name in above]

    @invariant()
    def a_change_of_what_a_pod_has_lent_has_a_higher_number(self) -> None:
        for key in self.table.rows.keys() & self.before.rows.keys():
            now, then = self.table.rows[key], self.before.rows[key]
            assert now.lend_number >= then.lend_number
            if set(allocations.lent_by(self.table, now)) != set(
                allocations.lent_by(self.before, then)
            ):
                assert now.lend_number > then.lend_number

    @invariant()
    def the_claims_are_those_of_the_rows(self) -> None:
        assert sorted(map(str, self.table.claims)) == sorted(
            map(str, Table.of(self.table.rows.values()).claims)
        )


test_no_order_of_events_lets_two_pods_of_any_families_write_one_path = Families.TestCase
