"""The rules of the scope table, on tables made by hand; who lives is a set of names."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from protocol.errors import (
    Conflict,
    DuplicatePod,
    InvalidScope,
    PodsupError,
    SegmentConflict,
    UnknownPod,
    WriteConflict,
    WrongToken,
)
from protocol.scope import Permission, ScopeRule, clashes
from supervisor.core import allocations
from supervisor.core.rows import Adoption, Allocation, AllocationState, LifeOf, Table
from supervisor.identity import Identity, Life

HOME = "/home/u/h"
NOW_MS = 60_000
SOMEBODY = Identity(machine_id="m", pid_ns=1, boot_id="b", pid=4711, start_ticks=9)


def write(target: str, *, recursive: bool = True) -> ScopeRule:
    return ScopeRule(target=target, permission=Permission.WRITE, recursive=recursive)


def read(target: str) -> ScopeRule:
    return ScopeRule(target=target, permission=Permission.READ)


def row(
    pod: str,
    *rules: ScopeRule,
    home: str = HOME,
    incarnation: int = 1,
    parent: str | None = None,
    segment: str | None = None,
    identity: Identity | None = SOMEBODY,
) -> Allocation:
    return Allocation(
        home=home,
        pod=pod,
        pod_id=f"id-{pod}",
        incarnation=incarnation,
        token=f"{pod}-{incarnation}",
        supervisor="s",
        scope_allow=rules,
        delegated_from=parent,
        session_id=segment and f"session of {segment}",
        segment_id=segment,
        identity=identity,
        since_ms=NOW_MS - 5_000,
    )


def dead(*pods: str) -> LifeOf:
    """Everybody lives but these."""
    return lambda holder: "dead" if holder.pod in pods else "alive"


EVERYBODY_LIVES = dead()


def register(table: Table, wanted: Allocation, life: LifeOf = EVERYBODY_LIVES) -> Table:
    return accepted(allocations.register(table, wanted, life, now_ms=NOW_MS))


def accepted(outcome: Table | PodsupError) -> Table:
    assert isinstance(outcome, Table), outcome
    return outcome


def refused(table: Table, wanted: Allocation, life: LifeOf = EVERYBODY_LIVES) -> PodsupError:
    outcome = allocations.register(table, wanted, life, now_ms=NOW_MS)
    assert isinstance(outcome, PodsupError)
    return outcome


def pods(table: Table) -> list[str]:
    return [name for _, name in table.rows]


def test_disjoint_scopes_are_registered_side_by_side() -> None:
    table = register(Table(), row("a", write("/w/a"), read("/w")))
    table = register(table, row("b", write("/w/b"), read("/w")))
    assert pods(table) == ["a", "b"]


@pytest.mark.parametrize("target", ["/w/a", "/w/a/deep/below", "/w", "/"])
def test_overlapping_write_rules_of_a_live_holder_are_refused(target: str) -> None:
    table = register(Table(), row("a", write("/w/a")))
    assert isinstance(refused(table, row("b", write(target))), WriteConflict)


@pytest.mark.parametrize("target", ["/w/ab", "/w/b", "/w/a.txt"])
def test_a_name_that_only_begins_alike_is_no_overlap(target: str) -> None:
    table = register(Table(), row("a", write("/w/a")))
    assert "b" in pods(register(table, row("b", write(target))))


def test_a_reader_and_a_writer_of_one_path_are_no_conflict() -> None:
    table = register(Table(), row("a", write("/w/a")))
    assert "b" in pods(register(table, row("b", read("/w"))))


def test_every_overlapping_holder_is_listed_with_pid_age_and_both_rules() -> None:
    table = register(Table(), row("a", write("/w/a")))
    table = register(table, row("b", write("/w/b"), home="/other"))
    error = refused(table, row("c", write("/w")))
    assert isinstance(error, WriteConflict)
    assert error.details["holders"] == [
        {
            "pod": pod,
            "home": home,
            "pid": 4711,
            "age_s": 5.0,
            "life": "alive",
            "rule": write("/w").to_wire(),
            "holder_rule": write(f"/w/{pod}").to_wire(),
        }
        for pod, home in (("a", HOME), ("b", "/other"))
    ]
    assert "4711" in error.message
    assert error.next_step


def test_children_of_a_parent_that_only_reads_are_compared_with_each_other() -> None:
    table = register(Table(), row("boss", read("/w")))
    table = table.with_row(row("child", write("/w/a"), parent="boss"))
    error = refused(table, row("other", write("/w/a")))
    assert [holder["pod"] for holder in error.details["holders"]] == ["child"]


def test_a_pod_of_the_same_name_in_another_home_is_another_pod() -> None:
    table = register(Table(), row("a", write("/w/a")))
    assert pods(register(table, row("a", write("/v/a"), home="/other"))) == ["a", "a"]


def test_the_name_of_a_live_pod_is_taken() -> None:
    table = register(Table(), row("a", write("/w/a")))
    error = refused(table, row("a", write("/v/a")))
    assert isinstance(error, DuplicatePod)
    assert error.details["holder"]["pid"] == 4711


def test_a_segment_that_a_live_pod_writes_is_taken() -> None:
    table = register(Table(), row("a", segment="s1"))
    error = refused(table, row("b", segment="s1"))
    assert isinstance(error, SegmentConflict)
    assert error.details["holder"]["pod"] == "a"


def test_a_dead_holder_never_blocks_and_its_row_is_released() -> None:
    table = register(Table(), row("a", write("/w"), segment="s1"))
    table = register(table, row("b", write("/w"), segment="s1"), dead("a"))
    assert pods(table) == ["b"]


def test_a_dead_row_in_nobodys_way_waits_for_its_supervisor() -> None:
    table = register(Table(), row("a", write("/w/a")))
    assert pods(register(table, row("b", write("/w/b")), dead("a"))) == ["a", "b"]


def test_a_reserved_row_whose_life_lock_is_held_blocks() -> None:
    table = register(Table(), row("a", write("/w"), identity=None))
    error = refused(table, row("b", write("/w")))
    assert error.details["holders"][0]["pid"] is None


def test_a_holder_that_cannot_be_verified_blocks_and_is_reported() -> None:
    table = register(Table(), row("a", write("/w")))
    error = refused(table, row("b", write("/w")), lambda _: "unverifiable")
    assert isinstance(error, WriteConflict)
    assert error.details["holders"][0]["life"] == "unverifiable"
    assert "cannot be seen from here" in error.message


@pytest.mark.parametrize("target", ["w/a", "/w/../a", "/w/./a", "/w//a", ""])
def test_a_target_that_is_not_canonical_never_enters_the_table(target: str) -> None:
    assert isinstance(refused(Table(), row("a", read(target))), InvalidScope)


def test_a_settled_pods_children_pass_to_its_own_parent() -> None:
    table = Table.of(
        [
            row("top", write("/w")),
            row("middle", write("/w/m"), parent="top"),
            row("leaf", write("/w/m/l"), parent="middle"),
        ]
    )
    table = accepted(allocations.release(table, (HOME, "middle"), "middle-1", dead("middle")))
    assert table.rows[HOME, "leaf"].delegated_from == "top"
    assert [child.pod for child in table.descendants(table.rows[HOME, "top"])] == ["leaf"]


def test_a_late_release_with_an_old_token_changes_nothing() -> None:
    table = register(Table(), row("a", write("/w"), incarnation=2))
    outcome = allocations.release(table, (HOME, "a"), "a-1", dead("a"))
    assert isinstance(outcome, WrongToken)


def test_a_holder_that_still_lives_is_not_released() -> None:
    table = register(Table(), row("a", write("/w")))
    outcome = allocations.release(table, (HOME, "a"), "a-1", EVERYBODY_LIVES)
    assert isinstance(outcome, Conflict)
    assert outcome.details["pid"] == 4711


def test_releasing_twice_is_releasing_once() -> None:
    table = register(Table(), row("a", write("/w")))
    gone = accepted(allocations.release(table, (HOME, "a"), "a-1", dead("a")))
    assert allocations.release(gone, (HOME, "a"), "a-1", dead("a")) is gone


def adopt(table: Table, token: str, segment: str | None = None) -> Table | PodsupError:
    hello = Adoption(pod="a", token=token, identity=SOMEBODY, segment_id=segment)
    return allocations.adopt(table, (HOME, "a"), hello, EVERYBODY_LIVES, now_ms=NOW_MS)


def test_adoption_makes_the_row_held_by_the_process_that_said_hello() -> None:
    table = register(Table(), row("a", segment="s1", identity=None))
    held = accepted(adopt(table, "a-1")).rows[HOME, "a"]
    assert (held.state, held.identity) == (AllocationState.HELD, SOMEBODY)
    assert held.segment_id == "s1"


def test_a_late_hello_with_an_old_token_adopts_nothing() -> None:
    table = register(Table(), row("a", incarnation=2, identity=None))
    assert isinstance(adopt(table, "a-1"), WrongToken)


def test_a_hello_of_a_pod_without_a_row_is_refused() -> None:
    assert isinstance(adopt(Table(), "a-1"), UnknownPod)


def test_a_hello_that_names_another_pods_segment_is_refused() -> None:
    table = register(Table(), row("a", identity=None))
    table = register(table, row("b", segment="s2"))
    assert isinstance(adopt(table, "a-1", "s2"), SegmentConflict)


def claim_segment(table: Table, segment: str) -> Table | PodsupError:
    return allocations.claim_segment(
        table,
        (HOME, "a"),
        "a-1",
        EVERYBODY_LIVES,
        session_id="x",
        segment_id=segment,
        now_ms=NOW_MS,
    )


def test_a_claim_moves_to_the_next_segment_and_frees_the_one_before() -> None:
    table = register(Table(), row("a", segment="s1"))
    table = accepted(claim_segment(table, "s2"))
    assert "b" in pods(register(table, row("b", segment="s1")))
    assert isinstance(refused(table, row("b", segment="s2")), SegmentConflict)


def test_a_segment_of_a_live_pod_cannot_be_claimed() -> None:
    table = register(register(Table(), row("a", segment="s1")), row("b", segment="s2"))
    assert isinstance(claim_segment(table, "s2"), SegmentConflict)


def renew(table: Table, wanted: Allocation, life: LifeOf) -> Table | PodsupError:
    return allocations.renew(table, wanted, life, now_ms=NOW_MS)


def family() -> Table:
    return Table.of(
        [
            row("top", write("/w")),
            row("middle", write("/w/m"), parent="top", segment="s1"),
            row("leaf", write("/w/m/l"), parent="middle"),
        ]
    )


def test_a_renewed_pod_keeps_its_parent_its_children_and_its_segment() -> None:
    wanted = row("middle", write("/w/m"), incarnation=2, identity=None)
    table = accepted(renew(family(), wanted, dead("middle")))
    renewed = table.rows[HOME, "middle"]
    assert (renewed.delegated_from, renewed.segment_id) == ("top", "s1")
    assert (renewed.token, renewed.state) == ("middle-2", AllocationState.RESERVED)
    assert [child.pod for child in table.descendants(renewed)] == ["leaf"]


def test_a_pod_whose_old_incarnation_is_not_proven_dead_is_not_renewed() -> None:
    wanted = row("middle", write("/w/m"), incarnation=2)
    outcomes = [renew(family(), wanted, life) for life in (dead(), lambda _: "unverifiable")]
    assert [type(outcome) for outcome in outcomes] == [DuplicatePod, DuplicatePod]


def test_a_renewed_pod_may_not_take_more_than_it_had_from_its_parent() -> None:
    wanted = row("middle", write("/w/m"), write("/w/more"), incarnation=2)
    outcome = renew(family(), wanted, dead("middle"))
    assert isinstance(outcome, WriteConflict)
    assert [holder["pod"] for holder in outcome.details["holders"]] == ["top"]


def test_a_renewed_pod_may_take_more_where_nobody_is() -> None:
    wanted = row("top", write("/w"), write("/v"), incarnation=2)
    assert isinstance(renew(family(), wanted, dead("top")), Table)


def test_a_pod_whose_row_was_released_is_registered_anew() -> None:
    table = register(Table(), row("b", write("/w/b")))
    assert isinstance(renew(table, row("a", write("/w/a"), incarnation=2), dead()), Table)
    assert isinstance(renew(table, row("a", write("/w"), incarnation=2), dead()), WriteConflict)


TARGETS = st.sampled_from(["/", "/a", "/a/b", "/a/b/c", "/a/d", "/e", "/e/f"])
RULES = st.builds(
    ScopeRule,
    target=TARGETS,
    permission=st.sampled_from(Permission),
    recursive=st.booleans(),
)


class Fleet(RuleBasedStateMachine):
    """Pods come, greet, die and come again in any order; some cannot be seen any more."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()
        self.known: dict[tuple[str, int], Life] = {}
        self.numbers: dict[str, int] = {}

    def life(self, holder: Allocation) -> Life:
        return self.known[holder.pod, holder.incarnation]

    def take(self, outcome: Table | PodsupError) -> None:
        if isinstance(outcome, Table):
            self.table = outcome

    @rule(
        pod=st.sampled_from("abcd"),
        rules=st.lists(RULES, max_size=3),
        segment=st.sampled_from([None, "s1", "s2"]),
        again=st.booleans(),
    )
    def start(self, pod: str, rules: list[ScopeRule], segment: str | None, again: bool) -> None:
        number = self.numbers[pod] = self.numbers.get(pod, 0) + 1
        self.known[pod, number] = "alive"
        wanted = row(pod, *rules, incarnation=number, segment=segment, identity=None)
        operation = allocations.renew if again else allocations.register
        self.take(operation(self.table, wanted, self.life, now_ms=NOW_MS))

    @rule(pod=st.sampled_from("abcd"), life=st.sampled_from(["dead", "dead", "unverifiable"]))
    def end(self, pod: str, life: Life) -> None:
        self.known[pod, self.numbers.get(pod, 0)] = life

    @rule(pod=st.sampled_from("abcd"), late=st.booleans())
    def release(self, pod: str, late: bool) -> None:
        token = f"{pod}-{self.numbers.get(pod, 0) - late}"
        self.take(allocations.release(self.table, (HOME, pod), token, self.life))

    @rule(pod=st.sampled_from("abcd"), segment=st.sampled_from([None, "s1", "s2"]))
    def greet(self, pod: str, segment: str | None) -> None:
        token = f"{pod}-{self.numbers.get(pod, 0)}"
        hello = Adoption(pod=pod, token=token, identity=SOMEBODY, segment_id=segment)
        self.take(allocations.adopt(self.table, (HOME, pod), hello, self.life, now_ms=NOW_MS))

    def standing(self) -> Iterable[Allocation]:
        return [holder for holder in self.table.rows.values() if self.life(holder) != "dead"]

    @invariant()
    def no_two_live_holders_may_write_one_path(self) -> None:
        claims = [(h.pod, rule) for h in self.standing() for rule in h.writes]
        assert list(clashes(claims)) == []

    @invariant()
    def no_two_live_holders_have_one_segment(self) -> None:
        segments = [h.segment_id for h in self.standing() if h.segment_id]
        assert len(segments) == len(set(segments))

    @invariant()
    def the_claims_are_those_of_the_rows(self) -> None:
        assert sorted(map(str, self.table.claims)) == sorted(
            map(str, Table.of(self.table.rows.values()).claims)
        )


test_no_order_of_events_lets_two_live_pods_write_one_path = Fleet.TestCase
