"""What people ask of a fleet: answered once, done to its end, each blocker named meanwhile."""

from __future__ import annotations

import pytest

from protocol import control as c
from protocol import events as ev
from protocol.status import OperationState
from supervisor.core import instructions as li
from supervisor.core import stimuli as s
from supervisor.core.fleet_terms import Forget, Refused, Spawned, Wish
from supervisor.core.life import Desired
from supervisor.core.operations import KEPT, SAY_EVERY_S
from supervisor.core.restart import Exit
from tests.supervisor.fleets import PID, Driven, end_of, for_pod, published, refusal, replies
from tests.supervisor.lives import CRASH, DONE

ALICE = ("alice",)
STARTED = c.Started(operation="q")


def test_start_is_done_when_every_pod_is_ready() -> None:
    fleet = Driven().add("alice", "bob")
    out = fleet.start("alice", "bob")
    assert [for_pod(out, pod)[0] for pod in ("alice", "bob")] == [li.Fork(1), li.Fork(1)]
    fleet.join("alice")
    assert fleet.is_running("up")
    assert "bob [forking, pid None]" in fleet.operation("up").message
    fleet.fork("bob")
    (told,) = published(fleet.hello("bob"), ev.Operation)
    assert isinstance(told, ev.Operation)
    assert (told.id, told.state, told.kind, told.message) == ("up", "done", "start", "")
    assert told.result == {"failures": {}, "codes": {}}


def test_start_that_failed_names_each_pod_with_its_cause_and_has_the_code_of_the_first() -> None:
    fleet = Driven().add("alice", "bob", "carol")
    fleet.start("alice", "bob", "carol")
    fleet.refuse("bob", "write_conflict")
    fleet.refuse("carol", "missing_key")
    assert fleet.is_running("up"), "alice may still start"
    fleet.join("alice")

    error = fleet.failure("up")
    assert error.code == "write_conflict"
    assert error.details is not None
    assert error.details["causes"] == {"bob": "write_conflict", "carol": "missing_key"}
    assert set(error.details["pods"]) == {"bob", "carol"}
    assert error.next == "podsup why bob"
    assert fleet.status("alice") == "idle"


def test_reason_of_many_pods_is_told_once_with_its_own_next_step() -> None:
    fleet = Driven().add("alice", "bob")
    fleet.start("alice", "bob")
    for pod in ("alice", "bob"):
        refused = s.StartRefused(1, "missing_key", "KEY was not set")
        fleet.feed(Refused(pod, refused, {"mend": "export KEY=…"}))
    error = fleet.failure("up")
    assert error.message == "alice, bob: missing_key: KEY was not set"
    assert error.next == "export KEY=…"


def test_refusals_evidence_comes_with_the_error_and_does_not_outlive_the_start() -> None:
    fleet = Driven().add("alice", "bob").up("bob")
    fleet.feed(Spawned("q", "alice"))
    refused = s.StartRefused(1, "write_conflict", "bob writes there")
    fleet.feed(Refused("alice", refused, {"holder": "bob"}))
    assert fleet.failure().details == {
        "holder": "bob",
        "pods": {"alice": "bob writes there"},
        "causes": {"alice": "write_conflict"},
    }
    fleet.ask(c.Restore(pod="alice"), "again")
    fleet.fork("alice")
    fleet.gone("alice", Exit(78, None, "exit code 78"))
    assert "holder" not in (fleet.failure("again").details or {})


def test_start_waits_through_a_crash_for_the_restart() -> None:
    fleet = Driven().add("alice")
    fleet.start("alice")
    fleet.fork("alice")
    fleet.gone("alice", CRASH)
    assert fleet.is_running("up")
    fleet.join("alice")
    assert fleet.is_done("up")


def test_configuration_error_of_a_start_is_its_end() -> None:
    fleet = Driven().add("alice", "bob")
    fleet.feed(Spawned("q", "alice"))
    fleet.fork("alice")
    fleet.gone("alice", Exit(78, None, "exit code 78", message="no such folder"))
    assert "no such folder" in fleet.failure().message


def test_stop_is_done_when_the_tree_is_gone_and_names_what_it_waits_for() -> None:
    fleet = Driven().add("alice", "bob").up("alice", "bob")
    out = fleet.ask(c.Stop(pods=("alice", "bob"), grace_s=2.0))
    (reply,) = replies(out)
    assert (reply.body, reply.ok, reply.method) == (STARTED, True, "stop")
    assert out[0] == reply, "the answer comes first"
    assert for_pod(out, "alice")[0] == li.SendShutdown(grace_ms=2000)

    message = fleet.operation().message
    assert f"alice [stopping (asked), pid {PID}]" in message
    assert f"bob [stopping (asked), pid {PID}]" in message
    fleet.gone("bob")
    out = fleet.feel("alice", s.Tick(), after_s=2.0)
    assert fleet.operation().message == f"waiting for alice [stopping (termed), pid {PID}]"
    (told,) = published(out, ev.Operation)
    assert isinstance(told, ev.Operation)
    assert (told.state, told.message) == ("running", fleet.operation().message)
    fleet.exit("alice", DONE)
    assert fleet.operation().message == "waiting for alice [clearing, pid None]"
    fleet.clear("alice")
    assert fleet.is_done()


def test_blockers_of_a_large_stop_are_told_now_and_then_and_not_all_by_name() -> None:
    names = tuple(f"pod{number}" for number in range(20))
    fleet = Driven().add(*names).up(*names)
    fleet.ask(c.Stop(all_pods=True))
    assert fleet.operation().message.endswith("and 15 more")
    told = [published(fleet.exit(name, DONE), ev.Operation) for name in names]
    assert not any(told), "nothing new is told at once"
    fleet.now += SAY_EVERY_S
    assert published(fleet.clear(names[0]), ev.Operation)


def test_stop_of_a_stopped_pod_is_done_at_once() -> None:
    fleet = Driven().add("alice", "bob").up("alice")
    fleet.ask(c.Stop(pods=ALICE), "first")
    fleet.gone("alice")
    for id, pod in (("a", "alice"), ("b", "bob")):
        out = fleet.ask(c.Stop(pods=(pod,)), id)
        assert replies(out)[0].ok
        assert fleet.is_done(id)
        assert not any(isinstance(what, li.Signal) for what in for_pod(out, pod))


def test_kill_kills_the_whole_tree_and_no_policy_starts_it_again() -> None:
    fleet = Driven().add("alice").up("alice")
    out = fleet.ask(c.Kill(pods=ALICE))
    assert li.Signal("SIGKILL", whole_tree=True) in for_pod(out, "alice")
    fleet.exit("alice", Exit(None, "SIGKILL", "killed by SIGKILL"))
    assert fleet.is_running()
    fleet.clear("alice")
    assert fleet.is_done()
    assert fleet.status("alice") == "stopped"


def test_restart_is_done_when_the_next_incarnation_is_ready() -> None:
    fleet = Driven().add("alice").up("alice")
    fleet.ask(c.Restart(pods=ALICE))
    assert fleet.is_running(), "the old one is still ready"
    fleet.gone("alice")
    assert fleet.life("alice").incarnation == 2
    assert fleet.is_running()
    fleet.join("alice")
    assert fleet.is_done()


def test_restore_starts_a_stopped_pod_and_is_done_at_once_for_a_live_one() -> None:
    fleet = Driven().add("alice").up("alice")
    fleet.ask(c.Restore(pod="alice"), "live")
    assert fleet.is_done("live")
    fleet.ask(c.Kill(pods=ALICE), "k")
    fleet.gone("alice")
    out = fleet.ask(c.Restore(pod="alice"))
    assert li.Fork(2) in for_pod(out, "alice")
    assert Wish("alice", Desired.UP) in out
    fleet.join("alice")
    assert fleet.is_done()


def test_delete_forgets_a_stopped_pod_and_refuses_a_live_one() -> None:
    fleet = Driven().add("alice", "bob").up("alice", "bob")
    error = refusal(fleet.ask(c.Delete(pods=("bob", "alice")), "early"))
    assert error.code == "conflict"
    assert error.next == "podsup stop bob"

    fleet.ask(c.Stop(pods=ALICE), "s")
    fleet.gone("alice")
    out = fleet.ask(c.Delete(pods=("alice", "alice")))
    assert [one for one in out if isinstance(one, Forget)] == [Forget("alice")]
    assert published(out, ev.PodDeleted)
    assert fleet.is_done()
    assert refusal(fleet.ask(c.StatusOf(pod="alice"))).code == "unknown_pod"


def test_delete_refuses_a_pod_that_waits_for_its_next_start() -> None:
    fleet = Driven().add("alice").up("alice")
    fleet.gone("alice", CRASH)
    fleet.join("alice")
    fleet.gone("alice", CRASH)
    assert fleet.status("alice") == "backoff"
    assert refusal(fleet.ask(c.Delete(pods=ALICE))).code == "conflict"
    assert li.Release() in for_pod(fleet.ask(c.Stop(pods=ALICE), "s"), "alice")
    assert replies(fleet.ask(c.Delete(pods=ALICE), "d"))[0].ok


def test_down_is_done_in_the_step_that_ends_the_fleet() -> None:
    fleet = Driven().add("alice", "bob").up("alice")
    out = fleet.ask(c.Down(grace_s=1.0))
    assert for_pod(out, "alice")[0] == li.SendShutdown(grace_ms=1000)
    assert fleet.operation().message == f"waiting for alice [stopping (asked), pid {PID}]"
    assert end_of(fleet.exit("alice", DONE)) is None
    out = fleet.clear("alice")
    end = end_of(out)
    assert end is not None
    assert fleet.is_done()
    (told,) = published(out, ev.Operation)
    assert [getattr(one, "event", one) for one in out].index(told) < out.index(end)


@pytest.mark.parametrize("control", [c.Stop(pods=ALICE), c.Kill(pods=ALICE), c.Down()])
def test_restart_overtaken_by_an_end_fails_and_does_not_wait_for_ever(control: c.Control) -> None:
    fleet = Driven().add("alice").up("alice")
    fleet.ask(c.Restart(pods=ALICE), "r")
    fleet.ask(control)
    fleet.gone("alice")
    assert fleet.is_done()
    assert "stopped" in fleet.failure("r").message


@pytest.mark.parametrize("control", [c.Restart(pods=ALICE), c.Restore(pod="alice")])
def test_stop_overtaken_by_a_start_fails_and_does_not_wait_for_ever(control: c.Control) -> None:
    fleet = Driven().add("alice").up("alice")
    fleet.ask(c.Stop(pods=ALICE), "s")
    fleet.ask(control)
    fleet.gone("alice")
    assert "started again" in fleet.failure("s").message
    fleet.join("alice")
    assert fleet.is_done()


def test_start_overtaken_by_a_stop_fails() -> None:
    fleet = Driven().add("alice", "bob")
    fleet.start("alice", "bob")
    fleet.join("bob")
    fleet.ask(c.Stop(pods=ALICE))
    fleet.fork("alice")
    fleet.gone("alice")
    assert fleet.is_done()
    assert "alice: stopped: stop asked" in fleet.failure("up").message


# -- answers


def test_control_with_a_known_id_is_answered_alike_and_not_done_again() -> None:
    fleet = Driven().add("alice").up("alice")
    (first,) = replies(fleet.ask(c.Restart(pods=ALICE)))
    assert fleet.ask(c.Restart(pods=ALICE)) == [first]
    fleet.gone("alice")
    fleet.join("alice")
    fleet.now += 599.0
    assert fleet.ask(c.Restart(pods=ALICE)) == [first]
    assert fleet.life("alice").incarnation == 2


def test_refused_control_is_refused_alike_when_it_is_repeated() -> None:
    fleet = Driven().add("alice").up("alice")
    first = fleet.ask(c.Delete(pods=ALICE))
    fleet.ask(c.Kill(pods=ALICE), "k")
    fleet.gone("alice")
    assert fleet.ask(c.Delete(pods=ALICE)) == first


def test_ids_are_compared_per_sender() -> None:
    fleet = Driven().add("alice").up("alice")
    fleet.ask(c.Stop(pods=ALICE), "q", "operator")
    fleet.gone("alice")
    (reply,) = replies(fleet.ask(c.Restore(pod="alice"), "q", "bob"))
    assert (reply.sender, reply.ok) == ("bob", True)
    assert fleet.status("alice") == "starting"


def test_id_under_which_another_senders_work_goes_on_is_refused_and_changes_nothing() -> None:
    fleet = Driven().add("alice", "bob").up("alice", "bob")
    fleet.ask(c.Stop(pods=ALICE), "q", "operator")
    for control in (c.Stop(pods=("bob",)), c.Down(), c.Restart(pods=("bob",))):
        assert refusal(fleet.ask(control, "q", f"a pod with {control.method}")).code == "conflict"
    assert fleet.status("bob") == "idle"
    fleet.gone("alice")
    assert fleet.is_done()


def test_answer_of_an_earlier_supervisors_life_is_given_again() -> None:
    fleet = Driven().add("alice")
    fleet.fleet.remember("operator", "q", STARTED, fleet.now)
    out = fleet.ask(c.Restore(pod="alice"))
    assert [reply.body for reply in replies(out)] == [STARTED]
    assert (len(out), fleet.status("alice")) == (1, "defined")


def test_reads_are_simply_done_again() -> None:
    fleet = Driven().add("alice")
    before = replies(fleet.ask(c.StatusOf(pod="alice")))[0].body
    fleet.start("alice")
    after = replies(fleet.ask(c.StatusOf(pod="alice")))[0].body
    assert isinstance(before, c.StatusRow)
    assert isinstance(after, c.StatusRow)
    assert (before.status, after.status) == ("defined", "starting")
    story = replies(fleet.ask(c.Why(pod="alice")))[0].body
    assert isinstance(story, c.Story)
    assert story.lines[-1].why == "start asked"


@pytest.mark.parametrize(
    "control",
    [
        c.Stop(pods=("bob", "mallory")),
        c.Kill(pods=("bob", "mallory")),
        c.Restart(pods=("bob", "mallory")),
        c.Restore(pod="mallory"),
        c.Delete(pods=("bob", "mallory")),
        c.StatusOf(pod="mallory"),
        c.Why(pod="mallory"),
    ],
)
def test_unknown_pod_is_refused_with_the_known_names_and_nothing_is_done(
    control: c.Control,
) -> None:
    fleet = Driven().add("bob", "alice").up("alice")
    error = refusal(fleet.ask(control))
    assert error.code == "unknown_pod"
    assert "'mallory'" in error.message
    assert error.details is not None
    assert error.details["known"] == ["alice", "bob"]
    assert (fleet.status("alice"), fleet.status("bob")) == ("idle", "defined")
    assert "q" not in fleet.fleet.operations


@pytest.mark.parametrize("control", [c.Kill(pods=()), c.Restart(pods=()), c.Reload(), c.Drain()])
def test_control_that_names_nobody_or_is_not_built_is_refused(control: c.Control) -> None:
    fleet = Driven().add("alice").up("alice")
    assert refusal(fleet.ask(control)).code == "invalid_request"
    assert fleet.status("alice") == "idle"


# -- what stays listed


def test_snapshot_lists_work_that_goes_on_however_much_came_after_it() -> None:
    fleet = Driven().add("alice", "bob").up("alice")
    fleet.ask(c.Stop(pods=ALICE), "long")
    for number in range(KEPT + 20):
        fleet.ask(c.Stop(pods=("bob",)), f"short {number}")
    listed = [record.id for record in fleet.fleet.snapshot({}).operations]
    assert len(listed) == KEPT
    assert listed[0] == "long"
    assert listed[-1] == f"short {KEPT + 19}"
    (alice, bob) = fleet.fleet.snapshot({}).pods
    assert (alice.endpoint, bob.endpoint, alice.status) == (None, None, "stopping")


def test_snapshot_says_where_a_ready_pod_can_be_watched_and_how_work_failed() -> None:
    fleet = Driven().add("alice", "bob")
    fleet.start("alice", "bob")
    fleet.refuse("bob")
    fleet.join("alice")
    snapshot = fleet.fleet.snapshot({})
    assert [pod.endpoint for pod in snapshot.pods] == ["ipc://pod", None]
    (record,) = snapshot.operations
    assert record.state == OperationState.FAILED
    assert record.error is not None
    assert record.error["code"] == "write_conflict"
