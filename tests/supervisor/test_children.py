"""The fleet with children: how they come and go, what they keep, and what is told of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol import control as c
from protocol import events as ev
from protocol import methods as m
from protocol.error_body import ErrorBody
from protocol.errors import (
    DuplicatePod,
    Forbidden,
    Internal,
    InvalidRequest,
    SegmentConflict,
    UnknownPod,
    WrongToken,
)
from protocol.manifest import Restart
from protocol.pod_events import PodEvent, ShutDown
from protocol.scope import Permission, Scope, ScopeRule
from protocol.status import Flag, OperationState, Relation
from supervisor import life_lock
from supervisor.boot import Boot
from supervisor.core import instructions as li
from supervisor.core import stimuli as s
from supervisor.core.fleet import TOMBSTONES, exit_of
from supervisor.core.fleet_terms import (
    DeliverReport,
    EndAsked,
    Forget,
    ForgetReports,
    ForPod,
    Instruction,
    Publish,
    Refused,
    Released,
    Reply,
    SaveFamily,
    Spawned,
    StoreReport,
    Ticked,
    Wish,
    Withdrawn,
)
from supervisor.core.health import HealthLimits
from supervisor.core.life import Desired, LifePolicy, Phase
from supervisor.core.member import Tombstone
from supervisor.desk import Desk
from supervisor.journal import Journal
from supervisor.paths import Paths
from supervisor.pod_store import PodMetadata, PodStore
from supervisor.scope_table import Claim, ScopeTable
from tests.supervisor.fleets import (
    Driven,
    end_of,
    for_pod,
    manifest,
    published,
    refusal,
    replies,
)
from tests.supervisor.lives import CRASH, DONE, KILLED

NEVER = LifePolicy(restart=Restart.NEVER)
SRC = ScopeRule(target="/w/src", permission=Permission.WRITE)
LENT = Scope(allow=(ScopeRule(target="/w", permission=Permission.READ), SRC))

SESSION = "0196b1b0-0000-7000-8000-00000000000a"
EARLIER = "0196b1b0-0000-7000-8000-00000000000b"
SEGMENT = "0196b1b0-0000-7000-8000-00000000000c"


def bear(
    fleet: Driven, name: str, parent: str, *, policy: LifePolicy = NEVER, **settings: Any
) -> None:
    """Add a child that is not started; unless told otherwise it may write `/w/src`."""
    settings = {"scope": LENT} | settings
    fleet.fleet.add(manifest(name, **settings), policy=policy, limits=HealthLimits(), parent=parent)


def spawn(fleet: Driven, name: str, parent: str, **settings: Any) -> list[Instruction]:
    """Add a child while the fleet runs, and have it ready."""
    bear(fleet, name, parent, **settings)
    return fleet.feed(Spawned(f"spawn {name}", name)) + fleet.join(name)


def family(*, gives_back: bool = True, policy: LifePolicy = NEVER) -> Driven:
    """A boss with a kid, both ready."""
    fleet = Driven(gives_back=gives_back).add("boss")
    bear(fleet, "kid", "boss", policy=policy)
    return fleet.up("boss", "kid")


def reports(out: list[Instruction]) -> list[tuple[str, PodEvent]]:
    """Return what is written down to be told, and to whom."""
    return [(one.parent, one.event) for one in out if isinstance(one, StoreReport)]


def wishes(out: list[Instruction]) -> list[Wish]:
    return [one for one in out if isinstance(one, Wish)]


def releases(out: list[Instruction]) -> list[str]:
    """Return the pods whose claims are to be given back."""
    return [one.pod for one in out if isinstance(one, ForPod) and one.what == li.Release()]


# -- a spawn


def spawned(**settings: Any) -> tuple[Driven, list[Instruction]]:
    """A boss that is ready, and its kid as a spawn that has just begun."""
    fleet = Driven().add("boss").up("boss")
    bear(fleet, "kid", "boss", **settings)
    return fleet, fleet.feed(Spawned("spawn", "kid"))


def refuse(fleet: Driven) -> list[Instruction]:
    refused = s.StartRefused(fleet.life("kid").incarnation, "write_conflict", "bob writes there")
    return fleet.feed(Refused("kid", refused, {"holder": "bob"}))


def test_spawn_is_done_when_the_child_is_ready_and_the_lend_is_told_in_its_parents_name() -> None:
    fleet, _ = spawned()
    fleet.fork("kid")
    assert fleet.is_running("spawn")
    out = fleet.hello("kid")
    assert fleet.is_done("spawn")
    (lent,) = [o for o in out if isinstance(o, Publish) and isinstance(o.event, ev.ScopeDelegated)]
    assert (lent.pod, lent.event) == ("boss", ev.ScopeDelegated(child="kid", rules=(SRC,)))
    assert not published(out, ev.ScopeGranted)


def test_child_of_nobody_that_is_up_holds_what_it_has_by_itself() -> None:
    fleet = Driven().add("boss")
    bear(fleet, "kid", "boss")
    out = fleet.start("kid") + fleet.join("kid")
    assert published(out, ev.ScopeGranted) == [ev.ScopeGranted(rules=(SRC,))]
    assert not published(out, ev.ScopeDelegated)


def test_spawn_that_is_refused_fails_with_its_evidence() -> None:
    fleet, _ = spawned()
    refuse(fleet)
    error = fleet.failure("spawn")
    assert error.code == "write_conflict"
    assert error.details is not None
    assert error.details["holder"] == "bob"


def test_spawn_that_was_refused_leaves_nothing_when_it_is_withdrawn() -> None:
    """Pitfall 27: nothing of a failed spawn lives on, and nobody is told that it ended."""
    fleet, _ = spawned()
    out = refuse(fleet) + fleet.feed(Withdrawn("kid"))
    assert fleet.fleet.members.keys() == {"boss"}
    assert Forget("kid") in out
    assert fleet.fleet.members["boss"].tombstones == ()
    assert not any(isinstance(one, SaveFamily) for one in out)
    assert reports(out) == []
    assert fleet.failure("spawn").code == "write_conflict", "it stays failed"
    fleet.fleet.require_free("kid")
    assert fleet.feed(Released("kid")) == [], "a late word"


def test_withdrawing_what_never_was_does_nothing() -> None:
    assert Driven().add("boss").feed(Withdrawn("kid")) == []


def test_spawn_that_crashed_at_once_fails_with_the_end_of_its_output() -> None:
    fleet, _ = spawned()
    fleet.fork("kid")
    fleet.gone("kid", exit_of(1, None, "no such module\n"))
    error = fleet.failure("spawn")
    assert error.details is not None
    assert error.details["stderr_tail"] == "no such module\n"


def test_failed_spawn_that_never_came_up_may_be_replaced_by_the_same_name() -> None:
    fleet, _ = spawned()
    with pytest.raises(DuplicatePod):
        fleet.fleet.require_free("kid")
    fleet.fork("kid")
    with pytest.raises(DuplicatePod):
        fleet.fleet.require_free("kid")
    fleet.gone("kid", CRASH)
    assert fleet.fleet.is_replaceable("kid")
    fleet.fleet.require_free("kid")

    fleet.feed(Withdrawn("kid"))
    bear(fleet, "kid", "boss", description="second")
    fleet.feed(Spawned("again", "kid"))
    fleet.join("kid")
    assert fleet.is_done("again")
    assert fleet.fleet.member("kid").manifest.description == "second"


def test_name_of_a_child_that_was_up_once_is_taken_until_it_is_deleted() -> None:
    fleet, _ = spawned()
    fleet.join("kid")
    fleet.gone("kid", CRASH)
    assert not fleet.fleet.is_replaceable("kid")
    with pytest.raises(DuplicatePod, match="'kid': failed"):
        fleet.fleet.require_free("kid")
    fleet.ask(c.Delete(pods=("kid",)))
    fleet.fleet.require_free("kid")


def test_child_that_never_came_up_is_not_told_as_one_that_ended() -> None:
    fleet, _ = spawned()
    fleet.fork("kid")
    assert reports(fleet.gone("kid", CRASH)) == []


# -- a stop, and what it gives back


def test_stop_is_done_only_when_the_claim_is_given_back() -> None:
    """Pitfall 25."""
    fleet = family(gives_back=False)
    fleet.ask(c.Stop(pods=("kid",)), "stop")
    assert releases(fleet.exit("kid", DONE)) == []
    assert releases(fleet.clear("kid")) == ["kid"]
    assert fleet.status("kid") == "stopped"
    assert fleet.is_running("stop")
    out = fleet.feed(Released("kid"))
    assert fleet.is_done("stop")
    assert published(out, ev.ScopeReclaimed) == [ev.ScopeReclaimed(cause="stop asked")]


def test_stop_says_what_was_reclaimed() -> None:
    fleet = family()
    fleet.ask(c.Stop(pods=("kid",)), "stop")
    out = fleet.gone("kid")
    (told,) = published(out, ev.Operation)
    assert isinstance(told, ev.Operation)
    assert told.result is not None
    assert told.result["reclaimed"] == {"kid": ["/w/src"]}


def test_parent_is_told_of_the_end_only_when_it_may_write_there_again() -> None:
    """Pitfall 25: who is told earlier writes while the child still does."""
    fleet = family(gives_back=False)
    fleet.ask(c.Stop(pods=("kid",)), "stop")
    assert reports(fleet.exit("kid", DONE) + fleet.clear("kid")) == []
    told = ShutDown(pod_name="kid", cause="stop asked", scope=(SRC,))
    assert reports(fleet.feed(Released("kid"))) == [("boss", told)]


def test_end_of_each_life_of_a_child_is_told_by_a_name_of_its_own() -> None:
    fleet = family()
    told = fleet.gone("kid", CRASH)
    fleet.ask(c.Restore(pod="kid"), "restore")
    fleet.join("kid")
    told += fleet.gone("kid", CRASH)
    names = [one.event_id for one in told if isinstance(one, StoreReport)]
    assert names == ["kid/1/shut_down", "kid/2/shut_down"]


def test_child_that_may_write_nothing_is_told_and_nothing_is_reclaimed() -> None:
    fleet = Driven().add("boss")
    bear(fleet, "kid", "boss", scope=Scope())
    fleet.up("boss", "kid")
    out = fleet.gone("kid", CRASH)
    assert reports(out) == [("boss", ShutDown(pod_name="kid", cause="exit code 1"))]
    assert not published(out, ev.ScopeReclaimed)


def test_fleet_ends_only_when_every_claim_is_given_back() -> None:
    fleet = family(gives_back=False)
    fleet.ask(c.Down())
    out = fleet.gone("boss") + fleet.feed(Released("boss")) + fleet.gone("kid")
    assert end_of(out) is None
    assert end_of(fleet.feed(Released("kid"))) is not None


def test_release_of_a_pod_that_is_gone_from_the_fleet_is_nothing() -> None:
    assert family().feed(Released("nobody")) == []


# -- children that go with their parent


def with_parent(fate: str) -> Driven:
    """A boss with a kid that goes with it or stays, and a grandchild that stays."""
    fleet = Driven(gives_back=False).add("boss")
    bear(fleet, "kid", "boss", on_parent_exit=fate)
    bear(fleet, "bud", "kid")
    return fleet.up("boss", "kid", "bud")


def test_child_that_is_not_to_outlive_its_parent_is_stopped_when_that_is_proven_gone() -> None:
    fleet = with_parent("stop")
    fleet.ask(c.Stop(pods=("boss",)), "stop")
    assert for_pod(fleet.gone("boss"), "kid") == []
    out = fleet.feed(Released("boss"))
    assert any(isinstance(what, li.SendShutdown) for what in for_pod(out, "kid"))
    assert fleet.life("kid").cause == "its parent boss ended"
    assert Wish("kid", Desired.DOWN) in out
    assert fleet.status("bud") == "idle"
    fleet.gone("kid")
    fleet.feed(Released("kid"))
    assert fleet.status("bud") == "idle", "its own parent's end is nothing to it"


def test_child_outlives_its_parent_unless_told_otherwise() -> None:
    fleet = with_parent("keep")
    fleet.ask(c.Stop(pods=("boss",)), "stop")
    out = fleet.gone("boss") + fleet.feed(Released("boss"))
    assert for_pod(out, "kid") == []
    assert fleet.status("kid") == "idle"


def test_child_of_a_pod_that_is_started_again_is_not_stopped() -> None:
    fleet = with_parent("stop")
    out = fleet.gone("boss", CRASH)
    fleet.ask(c.Restart(pods=("boss",)), "restart")
    out += fleet.join("boss") + fleet.feed(Released("boss"))
    assert fleet.status("kid") == "idle"
    assert for_pod(out, "kid") == []


# -- silence, step by step (pitfalls 23, 25, 26)


class Silence:
    """A kid that falls silent while its boss goes on; each step needs the one before."""

    def __init__(self) -> None:
        self.fleet = family(gives_back=False)
        self.beats = 0
        self.fleet.beat("kid", 1)
        self.so_far: list[Instruction] = []

    def step(self, out: list[Instruction]) -> list[Instruction]:
        self.so_far += out
        return out

    def silent(self, seconds: int) -> list[Instruction]:
        """Let seconds pass in which the boss beats and the kid does not."""
        out: list[Instruction] = []
        for _ in range(seconds):
            self.beats += 1
            out += self.fleet.beat("boss", self.beats)
            out += self.fleet.feed(Ticked(1.0, 1.0), after_s=1.0)
        return self.step(out)

    def suspect(self) -> list[Instruction]:
        return self.silent(4)

    def unreachable(self) -> list[Instruction]:
        self.suspect()
        return self.silent(7)

    def hang(self) -> list[Instruction]:
        self.unreachable()
        return self.silent(50)

    def kill(self) -> list[Instruction]:
        self.hang()
        term = self.step(self.fleet.feel("kid", s.Tick(), after_s=1.0))
        return term + self.step(self.fleet.feel("kid", s.Tick(), after_s=5.0))

    def exit(self) -> list[Instruction]:
        self.kill()
        return self.step(self.fleet.exit("kid", KILLED))

    def proof(self) -> list[Instruction]:
        self.exit()
        return self.step(self.fleet.clear("kid"))

    def released(self) -> list[Instruction]:
        self.proof()
        return self.step(self.fleet.feed(Released("kid")))

    def keeps_its_claim(self) -> bool:
        """Say whether nothing was given back or told so far."""
        return releases(self.so_far) == [] and reports(self.so_far) == []


@pytest.fixture
def silence() -> Silence:
    return Silence()


def test_silence_of_three_beats_makes_a_child_suspect_and_nothing_is_done(
    silence: Silence,
) -> None:
    assert silence.suspect() == []
    assert silence.fleet.fleet.member("kid").flags() == (Flag.SUSPECT,)
    assert silence.fleet.fleet.member("boss").flags() == ()


def test_silence_of_ten_seconds_makes_a_child_unreachable_and_it_keeps_its_claim(
    silence: Silence,
) -> None:
    (lost,) = published(silence.unreachable(), ev.PodUnreachable)
    assert lost == ev.PodUnreachable(silence_s=10.0)
    assert for_pod(silence.so_far, "kid") == []
    assert silence.keeps_its_claim()
    (row,) = [one for one in seen(silence.fleet, "boss") if one.name == "kid"]
    assert (row.status, row.reachable, row.restorable) == ("unreachable", False, False)
    assert (row.relation, row.reason, row.parent) == (Relation.CHILD, "silent", "boss")


def test_unreachable_child_that_is_heard_again_is_ready_and_nothing_was_lost(
    silence: Silence,
) -> None:
    silence.unreachable()
    out = silence.step(silence.fleet.beat("kid", 2))
    assert len(published(out, ev.PodReady)) == 1
    assert not published(out, ev.ScopeDelegated), "it was lent all the time"
    assert silence.keeps_its_claim()
    assert silence.fleet.life("kid").incarnation == 1


def test_hang_makes_a_child_dump_its_stacks_and_it_keeps_its_claim(silence: Silence) -> None:
    first, *_ = for_pod(silence.hang(), "kid")
    assert first == li.DumpStacks()
    assert silence.fleet.life("kid").phase is Phase.STOPPING
    assert silence.keeps_its_claim()


def test_hung_child_is_killed_with_its_tree_and_keeps_its_claim(silence: Silence) -> None:
    signals = [what for what in for_pod(silence.kill(), "kid") if isinstance(what, li.Signal)]
    assert signals == [
        li.Signal("SIGTERM"),
        li.Signal("SIGCONT"),
        li.Signal("SIGKILL", whole_tree=True),
    ]
    assert silence.keeps_its_claim()


def test_exit_of_a_killed_child_is_no_proof_that_its_tree_is_gone(silence: Silence) -> None:
    out = silence.exit()
    assert for_pod(out, "kid") == [li.EndTree()]
    assert published(out, ev.PodExited) == [ev.PodExited(cause="hang", signal="SIGKILL")]
    assert silence.keeps_its_claim()


def test_proof_that_all_is_gone_gives_the_claim_back_and_tells_nobody_yet(
    silence: Silence,
) -> None:
    out = silence.proof()
    assert releases(out) == ["kid"]
    assert (silence.fleet.status("kid"), silence.fleet.life("kid").cause) == ("failed", "hang")
    assert reports(silence.so_far) == []
    assert not published(out, ev.ScopeReclaimed)


def test_parent_is_told_when_the_claim_is_given_back(silence: Silence) -> None:
    out = silence.released()
    told = ShutDown(pod_name="kid", cause="hang", scope=(SRC,))
    assert reports(out) == [("boss", told)]
    assert DeliverReport("boss", "kid/1/shut_down", told) in out
    assert published(out, ev.ScopeReclaimed) == [ev.ScopeReclaimed(cause="hang")]
    assert not any(isinstance(what, li.Fork) for what in for_pod(silence.so_far, "kid"))


# -- who decides whether it comes back


def test_child_that_ended_by_itself_is_wished_down() -> None:
    fleet = family()
    assert wishes(fleet.gone("kid", CRASH)) == [Wish("kid", Desired.DOWN)]
    assert wishes(fleet.gone("boss", exit_of(78, None, "bad"))) == [], "its starter decides"


@pytest.mark.parametrize(
    "control", [c.Down(), c.Down(grace_s=0.0), None], ids=["down", "at once", "signal"]
)
def test_child_that_goes_down_with_its_fleet_comes_back_with_it(control: c.Down | None) -> None:
    fleet = family()
    out = fleet.feed(EndAsked("SIGTERM")) if control is None else fleet.ask(control)
    out += fleet.gone("kid", CRASH) + fleet.gone("boss")
    assert end_of(out) is not None
    assert wishes(out) == []


def test_child_that_is_started_again_by_its_policy_is_neither_wished_down_nor_told() -> None:
    fleet = family(policy=LifePolicy(restart=Restart.ON_FAILURE))
    out = fleet.gone("kid", CRASH)
    assert fleet.status("kid") == "starting"
    assert (wishes(out), reports(out), releases(out)) == ([], [], [])


def test_child_that_was_stopped_is_wished_down_and_up_by_its_restore() -> None:
    fleet = family()
    out = fleet.ask(c.Stop(pods=("kid",)), "stop") + fleet.gone("kid")
    assert set(wishes(out)) == {Wish("kid", Desired.DOWN)}
    assert wishes(fleet.ask(c.Restore(pod="kid"))) == [Wish("kid", Desired.UP)]


def test_restore_of_a_child_says_that_it_was_started() -> None:
    fleet = family()
    fleet.gone("kid", CRASH)
    out = fleet.ask(c.Restore(pod="kid"), "restore", sender="boss")
    assert published(out, ev.PodRestored) == [ev.PodRestored(name="kid", outcome="restored")]
    assert li.Fork(2) in for_pod(out, "kid")
    assert fleet.is_running("restore")
    fleet.join("kid")
    assert fleet.is_done("restore")
    assert fleet.operation("restore").result["outcome"] == "restored"


def test_restore_of_a_child_that_lives_says_so_and_is_done_at_once() -> None:
    fleet = family()
    out = fleet.ask(c.Restore(pod="kid"), "restore", sender="boss")
    assert published(out, ev.PodRestored) == [ev.PodRestored(name="kid", outcome="already_live")]
    assert for_pod(out, "kid") == []
    assert fleet.is_done("restore")
    (over,) = [o for o in published(out, ev.Operation) if getattr(o, "state", "") == "done"]
    assert isinstance(over, ev.Operation)
    assert over.result == {"failures": {}, "codes": {}, "outcome": "already_live"}


def test_restore_by_an_operator_is_published_in_nobodys_name() -> None:
    fleet = family()
    assert not published(fleet.ask(c.Restore(pod="kid")), ev.PodRestored)


def test_restored_child_is_lent_its_scope_again_and_is_no_newcomer() -> None:
    """Pitfall 29."""
    fleet = family()
    assert [parent for parent, _ in reports(spawn(fleet, "bud", "kid"))] == ["boss"]
    fleet.gone("bud", CRASH)
    fleet.ask(c.Restore(pod="bud"), "restore")
    out = fleet.join("bud")
    (lent,) = [o for o in out if isinstance(o, Publish) and isinstance(o.event, ev.ScopeDelegated)]
    assert (lent.pod, lent.event) == ("kid", ev.ScopeDelegated(child="bud", rules=(SRC,)))
    assert reports(out) == [], "its grandparent knows it"


# -- peers


def strangers() -> Driven:
    return Driven().add("alice", "bob", "carol").up("alice", "bob")


def peers(fleet: Driven) -> dict[str, tuple[str, ...]]:
    return {name: one.peers for name, one in fleet.fleet.members.items()}


def test_peers_are_so_for_both_sides_and_both_are_written_down() -> None:
    fleet = strangers()
    (reply, *out) = fleet.ask(c.RegisterPeers(source="alice", peer="carol"))
    assert replies([reply])[0].body == m.PeersRegistered(source="alice", peer="carol")
    assert peers(fleet) == {"alice": ("carol",), "bob": (), "carol": ("alice",)}
    assert {one.pod for one in out if isinstance(one, SaveFamily)} == {"alice", "carol"}
    made = ev.PeerRegistered(source="alice", peer="carol")
    assert published(out, ev.PeerRegistered) == [made]
    assert fleet.fleet.relation("carol", "alice") is Relation.PEER


def test_peers_that_are_made_again_are_written_down_once() -> None:
    fleet = strangers()
    fleet.ask(c.RegisterPeers(source="alice", peer="bob"), "one")
    out = fleet.ask(c.RegisterPeers(source="bob", peer="alice"), "two")
    assert not any(isinstance(one, SaveFamily) for one in out)
    assert peers(fleet) == {"alice": ("bob",), "bob": ("alice",), "carol": ()}


@pytest.mark.parametrize(
    ("source", "peer", "code"),
    [
        ("alice", "nobody", "unknown_pod"),
        ("nobody", "alice", "unknown_pod"),
        ("alice", "alice", "invalid_request"),
    ],
)
def test_peers_are_made_of_both_or_of_neither(source: str, peer: str, code: str) -> None:
    fleet = strangers()
    assert refusal(fleet.ask(c.RegisterPeers(source=source, peer=peer))).code == code
    assert set(peers(fleet).values()) == {()}


def test_peers_that_a_crash_wrote_down_for_one_side_are_made_whole() -> None:
    fleet = Driven()
    for name, known in (("alice", ("bob", "lost")), ("bob", ()), ("carol", ("bob",))):
        fleet.fleet.add(manifest(name), policy=NEVER, limits=HealthLimits(), peers=known)
    fleet.fleet.settle_peers()
    assert peers(fleet) == {"alice": ("bob",), "bob": ("alice", "carol"), "carol": ("bob",)}


def test_peers_of_a_deleted_pod_have_it_no_more() -> None:
    fleet = strangers()
    for number, peer in enumerate(("alice", "bob")):
        fleet.ask(c.RegisterPeers(source="carol", peer=peer), str(number))
    fleet.ask(c.RegisterPeers(source="alice", peer="bob"), "both")
    out = fleet.ask(c.Delete(pods=("carol",)))
    assert peers(fleet) == {"alice": ("bob",), "bob": ("alice",)}
    assert {one.pod for one in out if isinstance(one, SaveFamily)} == {"alice", "bob"}


def test_peers_own_nothing_of_each_other() -> None:
    fleet = strangers()
    fleet.ask(c.RegisterPeers(source="alice", peer="bob"), "peers")
    out = fleet.gone("bob", exit_of(78, None, "bad"))
    assert reports(out) == []
    (detail,) = replies(fleet.ask(c.StatusOf(pod="alice"), "status"))
    assert isinstance(detail.body, c.StatusRow)
    assert (detail.body.children, detail.body.parent) == ((), None)
    assert detail.body.peers == ("bob",)


# -- what a pod is shown


def seen(fleet: Driven, seer: str) -> tuple[m.PodRow, ...]:
    (reply,) = replies(fleet.ask(c.SeenPods(), "seen", sender=seer))
    assert isinstance(reply.body, m.PodRows)
    return reply.body.pods


def rows(fleet: Driven, seer: str) -> dict[str, m.PodRow]:
    return {row.name: row for row in seen(fleet, seer)}


def test_pod_is_shown_itself_what_is_below_it_and_its_peers() -> None:
    fleet = family().add("bob", "carol")
    bear(fleet, "bud", "kid")
    fleet.ask(c.RegisterPeers(source="kid", peer="bob"), "peers")
    relations = {
        seer: {row.name: str(row.relation) for row in seen(fleet, seer)}
        for seer in fleet.fleet.members
    }
    assert relations == {
        "boss": {"boss": "self", "kid": "child", "bud": "descendant"},
        "kid": {"kid": "self", "bob": "peer", "bud": "child"},
        "bob": {"bob": "self", "kid": "peer"},
        "carol": {"carol": "self"},
        "bud": {"bud": "self"},
    }


def test_row_of_a_child_says_what_it_is_and_what_can_be_done_with_it() -> None:
    fleet = family()
    bear(fleet, "bud", "kid")
    found = rows(fleet, "boss")
    assert (found["kid"].status, found["kid"].reachable, found["kid"].restorable) == (
        "idle",
        True,
        False,
    )
    assert (found["kid"].reason, found["kid"].parent, found["kid"].children) == (
        None,
        "boss",
        ("bud",),
    )
    assert found["kid"].scope_summary.write == ("/w/src",)
    assert found["kid"].scope_summary.read == ("/w",)
    assert (found["bud"].status, found["bud"].reachable, found["bud"].restorable) == (
        "defined",
        False,
        True,
    )

    fleet.gone("kid", exit_of(1, None, "out of disk\n"))
    row = rows(fleet, "boss")["kid"]
    assert (row.status, row.reachable, row.restorable) == ("failed", False, True)
    assert row.reason == "exit code 1: out of disk"


def test_pod_in_backoff_is_neither_reachable_nor_to_be_restored() -> None:
    fleet = family(policy=LifePolicy(restart=Restart.ON_FAILURE))
    fleet.gone("kid", CRASH)
    fleet.join("kid")
    fleet.gone("kid", CRASH)
    row = rows(fleet, "boss")["kid"]
    assert (row.status, row.reachable, row.restorable) == ("backoff", False, False)


def test_child_that_is_gone_is_never_dropped_from_what_its_parent_sees() -> None:
    """Pitfall 26."""
    fleet = family()
    for how in (CRASH, exit_of(None, "SIGKILL", ""), exit_of(None, None, "")):
        fleet.gone("kid", how)
        assert "kid" in rows(fleet, "boss")
        fleet.ask(c.Restore(pod="kid"), how.cause)
        fleet.join("kid")


def test_deleted_child_leaves_a_tombstone_that_is_shown_and_written_down() -> None:
    fleet = Driven().add("boss")
    bear(fleet, "kid", "boss")
    fleet.start("boss", "kid")
    fleet.join("boss")
    fleet.fork("kid")
    fleet.hello("kid", session_id="s", segment_id="g")
    fleet.gone("kid", CRASH)
    out = fleet.ask(c.Delete(pods=("kid",)))
    stone = Tombstone(name="kid", session_id="s", cause="exit code 1")
    assert SaveFamily("boss", None, (), (stone,)) in out
    assert Forget("kid") in out
    row = rows(fleet, "boss")["kid"]
    assert (row.relation, row.status, row.parent) == (Relation.CHILD, "stopped", "boss")
    assert (row.reachable, row.restorable, row.reason) == (False, False, "deleted; exit code 1")
    assert refusal(fleet.ask(c.SeenPod(name="kid"), "i", "boss")).code == "unknown_pod"


def test_tombstones_of_the_latest_hundred_are_kept() -> None:
    fleet = Driven().add("boss")
    for number in range(TOMBSTONES + 5):
        bear(fleet, f"kid{number}", "boss")
        fleet.ask(c.Delete(pods=(f"kid{number}",)), str(number))
    names = [one.name for one in fleet.fleet.member("boss").tombstones]
    assert names == [f"kid{number}" for number in range(5, TOMBSTONES + 5)]


def test_children_of_a_deleted_pod_are_its_parents_and_its_tombstone_is_its_parents_too() -> None:
    fleet = family()
    bear(fleet, "bud", "kid")
    fleet.gone("kid", CRASH)
    fleet.ask(c.Delete(pods=("kid",)))
    found = rows(fleet, "boss")
    assert (found["bud"].relation, found["bud"].parent) == (Relation.CHILD, "boss")
    assert found["kid"].reason == "deleted; exit code 1"


def test_child_that_lives_is_not_deleted() -> None:
    fleet = family()
    error = refusal(fleet.ask(c.Delete(pods=("kid",))))
    assert (error.code, error.next) == ("conflict", "podsup stop kid")
    assert "kid" in fleet.fleet.members


def test_waiting_reports_of_a_deleted_pod_are_forgotten() -> None:
    fleet = family()
    spawn(fleet, "bud", "kid")
    fleet.ask(c.Stop(pods=("kid",)), "stop")
    fleet.gone("bud", CRASH)
    fleet.gone("kid")
    out = fleet.ask(c.Delete(pods=("kid",)))
    assert ForgetReports("kid", ("bud/1/shut_down",)) in out


def inspect(fleet: Driven, seer: str, name: str) -> m.PodDetail | ErrorBody:
    (reply,) = replies(fleet.ask(c.SeenPod(name=name), "inspect", sender=seer))
    body = reply.body
    assert isinstance(body, m.Inspected | ErrorBody)
    return body if isinstance(body, ErrorBody) else body.pod


def test_pod_that_is_not_to_be_seen_and_one_that_is_not_there_are_different_answers() -> None:
    fleet = family().add("bob")
    for seer, name, code in (
        ("kid", "boss", "not_visible"),
        ("boss", "bob", "not_visible"),
        ("boss", "nobody", "unknown_pod"),
        ("bob", "nobody", "unknown_pod"),
    ):
        error = inspect(fleet, seer, name)
        assert isinstance(error, ErrorBody), (seer, name)
        assert error.code == code
        assert error.details is not None
        assert error.details["pod"] == name


def test_pod_is_told_only_the_names_that_it_sees() -> None:
    fleet = family().add("bob")
    error = inspect(fleet, "boss", "nobody")
    assert isinstance(error, ErrorBody)
    assert error.details == {"pod": "nobody", "known": ["boss", "kid"]}
    assert "bob" not in error.message


def test_child_is_inspected_closely() -> None:
    fleet = Driven().add("boss")
    bear(fleet, "kid", "boss")
    bear(fleet, "bud", "kid")
    fleet.start("boss", "kid")
    fleet.join("boss")
    fleet.fork("kid")
    fleet.hello("kid", session_id="s", segment_id="g", context_tokens=7)
    fleet.event("kid", 1, ev.ErrorEvent(code="tool_error", message="no"))
    detail = inspect(fleet, "boss", "kid")
    assert isinstance(detail, m.PodDetail)
    assert (detail.relation, detail.children, detail.parent) == (Relation.CHILD, ("bud",), "boss")
    assert (detail.session_id, detail.segment_id, detail.incarnation) == ("s", "g", 1)
    assert (detail.context_tokens, detail.last_error) == (7, "tool_error: no")


def test_ps_shows_each_pod_with_the_parent_that_counts() -> None:
    fleet = family()
    spawn(fleet, "bud", "kid")
    assert {row.name: row.parent for row in fleet.fleet.rows(fleet.now)} == {
        "boss": None,
        "kid": "boss",
        "bud": "kid",
    }
    fleet.gone("kid", CRASH)
    assert {row.name: row.parent for row in fleet.fleet.rows(fleet.now)} == {
        "boss": None,
        "kid": "boss",
        "bud": "boss",
    }


# -- what can be restored: five cases, five answers


class Shelf:
    """The records of one home, and the desk that reads them."""

    def __init__(self, root: Path) -> None:
        self.paths = Paths.resolve(str(root), {}, uid=os.getuid(), passwd_home=str(root))
        self.scope_dir = root / "scope"
        self.store = PodStore(self.paths.data)
        self.table = self.of("f:1")
        boot = Boot(fleet="f", file=str(root / "podsup.toml"), workspace="/w", operation="up")
        self.journal = Journal(self.paths.journal("f"))
        self.desk = Desk(boot, self.paths, self.table, self.store, self.journal)
        self.held: list[int] = []

    def of(self, supervisor: str) -> ScopeTable:
        return ScopeTable(self.scope_dir, str(self.paths.home), supervisor)

    def record(self) -> Path:
        """Write down the kid, and return the folder of its session."""
        self.store.save(
            PodMetadata(
                name="kid",
                fleet="f",
                workspace="/w",
                session_id=SESSION,
                segment_id=SEGMENT,
                incarnation=1,
                manifest={"name": "kid"},
                created_ms=5,
            )
        )
        return self.paths.data / "sessions" / SESSION

    def log(self, text: str) -> None:
        folder = self.record()
        folder.mkdir(parents=True)
        (folder / f"{SEGMENT}.jsonl").write_text(text)

    def hold(self, table: ScopeTable, pod: str) -> None:
        self.held.append(life_lock.take(table.life_lock(pod, 1)))
        table.register(
            Claim(
                pod=pod,
                incarnation=1,
                token="t",
                scope=Scope(),
                session_id=SESSION,
                segment_id=SEGMENT,
            )
        )


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path)
    try:
        yield shelf
    finally:
        shelf.journal.close()
        for fd in shelf.held:
            os.close(fd)


def test_pod_without_a_record_cannot_be_restored(shelf: Shelf) -> None:
    with pytest.raises(UnknownPod, match="no record of pod kid"):
        shelf.desk.require_restorable("kid")


def test_pod_whose_session_never_began_cannot_be_restored(shelf: Shelf) -> None:
    shelf.record()
    with pytest.raises(InvalidRequest, match="never began"):
        shelf.desk.require_restorable("kid")


def test_pod_whose_segment_is_gone_cannot_be_restored(shelf: Shelf) -> None:
    shelf.record().mkdir(parents=True)
    with pytest.raises(Internal, match=rf"has no segment {SEGMENT}: .*{SEGMENT}\.jsonl is gone"):
        shelf.desk.require_restorable("kid")


@pytest.mark.parametrize("text", ["", '{"kind": "segment_st'])
def test_pod_whose_log_is_empty_cannot_be_restored(shelf: Shelf, text: str) -> None:
    shelf.log(text)
    with pytest.raises(Internal, match="is empty"):
        shelf.desk.require_restorable("kid")


@pytest.mark.parametrize("name", ["kid", "other"])
def test_pod_whose_session_somebody_else_has_cannot_be_restored(shelf: Shelf, name: str) -> None:
    shelf.log("{}\n")
    shelf.hold(shelf.of("g:2"), name)
    with pytest.raises(SegmentConflict, match=f"in use by '{name}' of g:2"):
        shelf.desk.require_restorable("kid")
    os.close(shelf.held.pop())
    shelf.desk.require_restorable("kid")


def test_pod_whose_record_names_a_segment_that_was_never_made_can_be_restored(shelf: Shelf) -> None:
    folder = shelf.record()
    folder.mkdir(parents=True)
    (folder / f"{EARLIER}.jsonl").write_text('{"kind": "segment_start"}\n')
    shelf.desk.require_restorable("kid")


def test_a_claim_moves_within_its_own_session_only(shelf: Shelf) -> None:
    shelf.record()
    shelf.hold(shelf.table, "kid")
    shelf.desk.claim_segment("kid", "t", c.ClaimSegment(session_id=SESSION, segment_id=EARLIER))
    assert [row.segment_id for row in shelf.table.list()] == [EARLIER]
    with pytest.raises(Forbidden, match="is not pod kid's"):
        shelf.desk.claim_segment("kid", "t", c.ClaimSegment(session_id=EARLIER, segment_id=SEGMENT))
    with pytest.raises(WrongToken):
        shelf.desk.claim_segment("kid", "u", c.ClaimSegment(session_id=SESSION, segment_id=SEGMENT))


def test_pod_whose_session_is_there_can_be_restored(shelf: Shelf) -> None:
    shelf.log('{"kind": "segment_start"}\n')
    shelf.hold(shelf.table, "kid")
    shelf.desk.require_restorable("kid")


# -- while a claim is on its way back


def test_pod_whose_claim_is_not_back_yet_is_not_deleted() -> None:
    fleet = Driven(gives_back=False)
    fleet.add("boss")
    fleet.fleet.add(manifest("kid"), policy=LifePolicy(), limits=HealthLimits(), parent="boss")
    fleet.up("boss", "kid")
    fleet.gone("kid")
    out = fleet.ask(c.Delete(pods=("kid",)), "delete")
    assert [one.ok for one in out if isinstance(one, Reply)] == [False]
    fleet.feed(Released("kid"))
    out = fleet.ask(c.Delete(pods=("kid",)), "delete again")
    assert [one.ok for one in out if isinstance(one, Reply)] == [True]


def test_spawn_that_crashed_has_failed_only_when_its_reservation_is_gone() -> None:
    fleet = Driven(gives_back=False).add("boss").up("boss")
    fleet.fleet.add(
        manifest("kid"),
        policy=LifePolicy(restart=Restart.NEVER),
        limits=HealthLimits(),
        parent="boss",
    )
    fleet.feed(Spawned("q", "kid"))
    fleet.fork("kid")
    fleet.gone("kid", CRASH)
    assert not fleet.is_done()
    assert not fleet.fleet.is_replaceable("kid")
    fleet.feed(Released("kid"))
    assert fleet.operation().state is OperationState.FAILED
    assert fleet.fleet.is_replaceable("kid")
