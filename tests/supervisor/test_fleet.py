"""The fleet's pods: their tasks, what is heard of them, how they end, and the story `why` tells."""

from __future__ import annotations

import pytest

from protocol import control as c
from protocol import events as ev
from protocol.status import Flag, OperationState, PodStatus
from protocol.summaries import Usage
from supervisor.core import instructions as li
from supervisor.core import stimuli as s
from supervisor.core.fleet import exit_of
from supervisor.core.fleet_terms import (
    Beat,
    DeliverTask,
    EndAsked,
    EndFleet,
    EventHeard,
    SaveTasked,
    Spawned,
    StatusHeard,
    TaskAnswered,
    Ticked,
    Wish,
)
from supervisor.core.life import Desired
from tests.supervisor.fleets import PID, Driven, end_of, for_pod, published, refusal
from tests.supervisor.lives import CRASH, DONE

KILLED = exit_of(None, "SIGKILL", "")


# -- the task


def test_task_is_delivered_once_with_the_first_hello() -> None:
    fleet = Driven().add("alice", task="look around")
    fleet.start("alice")
    assert fleet.fork("alice") == []

    assert DeliverTask("alice", "look around") in fleet.hello("alice")
    assert fleet.hello("alice") == []
    assert fleet.feed(TaskAnswered("alice"))[0] == SaveTasked("alice")

    fleet.gone("alice", CRASH)
    assert not any(isinstance(one, DeliverTask) for one in fleet.join("alice"))


def test_task_is_delivered_again_when_its_pod_died_before_it_answered() -> None:
    fleet = Driven().add("alice", task="look around").up("alice")
    fleet.exit("alice", CRASH)
    fleet.feed(TaskAnswered("alice", "pod alice ended before it answered"))
    fleet.clear("alice")
    assert DeliverTask("alice", "look around") in fleet.join("alice")


def test_task_that_the_session_already_has_is_not_delivered() -> None:
    fleet = Driven().add("alice", task="look around")
    fleet.start("alice")
    fleet.fork("alice")
    out = fleet.hello("alice", tasked=True)
    assert not any(isinstance(one, DeliverTask) for one in out)
    assert fleet.is_done("up")


def test_task_is_not_delivered_again_when_a_silent_pod_comes_back() -> None:
    fleet = Driven().add("alice", task="look around").up("alice")
    fleet.silent(11)
    assert fleet.status("alice") == "unreachable"
    assert not any(isinstance(one, DeliverTask) for one in fleet.beat("alice", 1))


def test_spawn_whose_task_was_never_accepted_fails_and_says_that_the_pod_lives() -> None:
    fleet = Driven().add("alice", task="look around")
    fleet.feed(Spawned("q", "alice"))
    fleet.join("alice")
    assert fleet.is_running(), "ready is not enough while the task is not accepted"

    fleet.feed(TaskAnswered("alice", "the disk is full"))

    message = fleet.failure().message
    assert "the disk is full" in message
    assert "the pod lives" in message
    assert fleet.status("alice") == "idle"
    detail = fleet.fleet.detail("alice", fleet.now)
    assert detail.last_error == "the disk is full"


def test_late_refusal_of_a_task_that_the_session_has_says_nothing() -> None:
    fleet = Driven().add("alice", task="look around")
    fleet.feed(Spawned("q", "alice"))
    fleet.join("alice")
    fleet.hello("alice", tasked=True)
    fleet.feed(TaskAnswered("alice", "no answer in 30 s"))
    assert fleet.is_done()
    fleet.ask(c.Restart(pods=("alice",)), "r")
    fleet.gone("alice")
    fleet.join("alice")
    assert fleet.is_done("r")


def test_start_idle_waits_for_the_task_and_for_its_run() -> None:
    fleet = Driven().add("alice", task="look around")
    fleet.start("alice", kind="start idle")
    fleet.join("alice")
    assert fleet.is_running("up"), "the task is due"

    fleet.feed(StatusHeard("alice", 1, PodStatus.RUNNING, 1))
    fleet.feed(TaskAnswered("alice"))
    assert fleet.is_running("up"), "its run is in progress"

    fleet.event("alice", 2, ev.Status(status=PodStatus.IDLE))
    assert fleet.is_done("up")


@pytest.mark.parametrize("status", [PodStatus.IDLE, PodStatus.PAUSED])
def test_start_idle_without_a_task_needs_no_more_than_the_hello(status: PodStatus) -> None:
    fleet = Driven().add("alice")
    fleet.start("alice", kind="start idle")
    fleet.fork("alice")
    fleet.hello("alice", status=status)
    assert fleet.is_done("up")


# -- what is heard


def test_older_number_never_overwrites_a_newer_status() -> None:
    fleet = Driven().add("alice").up("alice")
    fleet.feed(StatusHeard("alice", 1, PodStatus.RUNNING, 7))

    fleet.event("alice", 6, ev.Status(status=PodStatus.IDLE))
    fleet.feed(StatusHeard("alice", 1, PodStatus.PAUSED, 5))
    fleet.beat("alice", 1, state_seq=6)
    assert fleet.status("alice") == "running"

    fleet.beat("alice", 2, state_seq=8)
    fleet.event("alice", 7, ev.Status(status=PodStatus.RUNNING))
    assert fleet.status("alice") == "idle"
    assert fleet.fleet.member("alice").heard == 8


def test_numbers_of_a_new_incarnation_begin_again() -> None:
    fleet = Driven().add("alice").up("alice")
    fleet.event("alice", 40, ev.Status(status=PodStatus.RUNNING, flags=(Flag.BUSY,)))
    fleet.gone("alice", CRASH)
    fleet.join("alice")
    assert fleet.fleet.member("alice").flags() == ()
    fleet.event("alice", 1, ev.Status(status=PodStatus.PAUSED))
    assert fleet.status("alice") == "paused"


def test_segment_is_always_that_of_the_latest_hello() -> None:
    fleet = Driven().add("alice")
    fleet.start("alice")
    for number, segment in enumerate([None, "one", "two"]):
        fleet.fork("alice")
        fleet.hello("alice", session_id=segment and "s", segment_id=segment)
        assert fleet.fleet.member("alice").segment_id == segment
        fleet.hello("alice", session_id="s", segment_id=f"later {number}")
        assert fleet.fleet.member("alice").segment_id == f"later {number}"
        fleet.gone("alice", CRASH)
        fleet.feel("alice", s.Tick(), after_s=60.0)


def test_words_of_an_earlier_incarnation_are_not_heard() -> None:
    fleet = Driven().add("alice").up("alice")
    fleet.gone("alice", CRASH)
    fleet.join("alice")
    waiting = c.Progress(what="waiting")
    before = fleet.fleet.member("alice").row(fleet.now)
    figures = ev.UsageEvent(turn=9, context_tokens=9, input_tokens=9)
    for late in (
        StatusHeard("alice", 1, PodStatus.RUNNING, 99),
        EventHeard("alice", 1, 99, ev.Status(status=PodStatus.RUNNING)),
        EventHeard("alice", 1, 99, figures),
        Beat("alice", 1, 99, PodStatus.RUNNING, waiting, 99),
        StatusHeard("nobody", 1, PodStatus.RUNNING, 99),
    ):
        assert fleet.feed(late) == []
    assert fleet.fleet.member("alice").row(fleet.now) == before


def test_usage_is_what_the_session_had_and_what_came_since() -> None:
    fleet = Driven().add("alice")
    fleet.start("alice")
    fleet.fork("alice")
    had = Usage(input_tokens=100, output_tokens=10, cost_usd=0.5)
    fleet.hello("alice", usage=had, turn=3, context_tokens=80, context_window=1000)
    one = ev.UsageEvent(turn=4, context_tokens=90, input_tokens=7, output_tokens=1, cost_usd=0.25)
    other = ev.UsageEvent(turn=5, context_tokens=95, cache_read_tokens=90, cache_write_tokens=2)
    fleet.event("alice", 1, one)
    fleet.event("alice", 2, other)

    row = fleet.fleet.detail("alice", fleet.now)
    assert row.usage == Usage(
        input_tokens=107,
        output_tokens=11,
        cache_read_tokens=90,
        cache_write_tokens=2,
        cost_usd=0.75,
    )
    assert (row.turn, row.context_tokens, row.context_window) == (5, 95, 1000)
    assert (row.input_tokens, row.cost_usd) == (107, 0.75)


def test_usage_is_not_counted_twice_when_a_connection_says_hello_again() -> None:
    fleet = Driven().add("alice")
    fleet.start("alice")
    fleet.fork("alice")
    fleet.hello("alice", usage=Usage(input_tokens=10))
    # This hello was built after a request whose figures are still on their way.
    fleet.hello("alice", usage=Usage(input_tokens=15))
    fleet.event("alice", 1, ev.UsageEvent(turn=1, context_tokens=5, input_tokens=5))
    assert fleet.fleet.member("alice").usage.input_tokens == 15


# -- silence


def test_tick_of_a_supervisor_that_was_stopped_makes_nobody_suspect() -> None:
    fleet = Driven().add("alice", "bob").up("alice", "bob")
    for second in range(1, 4):
        for pod in ("alice", "bob"):
            fleet.beat(pod, second)
        fleet.feed(Ticked(1.0, 1.0), after_s=1.0)

    fleet.feed(Ticked(6.0, 1.0), after_s=6.0)

    assert [row.flags for row in fleet.fleet.rows(fleet.now)] == [(), ()]
    assert [row.status for row in fleet.fleet.rows(fleet.now)] == ["idle", "idle"]


def test_silence_makes_a_pod_suspect_then_unreachable_and_then_a_hang() -> None:
    fleet = Driven().add("alice").up("alice")
    fleet.beat("alice", 1)
    assert fleet.silent(4) == []
    assert fleet.fleet.member("alice").flags() == (Flag.SUSPECT,)
    assert fleet.status("alice") == "idle"

    (lost,) = published(fleet.silent(7), ev.PodUnreachable)
    assert lost == ev.PodUnreachable(silence_s=10.0)
    assert fleet.status("alice") == "unreachable"

    out = for_pod(fleet.silent(50), "alice")
    assert out[0] == li.DumpStacks()
    assert fleet.status("alice") == "stopping"
    out = for_pod(fleet.feel("alice", s.Tick(), after_s=1.0), "alice")
    assert out[:2] == [li.Signal("SIGTERM"), li.Signal("SIGCONT")]
    out = for_pod(fleet.feel("alice", s.Tick(), after_s=5.0), "alice")
    assert out == [li.Signal("SIGKILL", whole_tree=True)]
    (gone,) = published(fleet.exit("alice", KILLED), ev.PodExited)
    assert gone == ev.PodExited(cause="hang", signal="SIGKILL")
    assert li.Fork(2) in for_pod(fleet.clear("alice"), "alice")


def test_word_of_an_unreachable_pod_makes_it_ready_again() -> None:
    fleet = Driven().add("alice").up("alice")
    fleet.beat("alice", 1)
    fleet.silent(12)
    assert fleet.status("alice") == "unreachable"
    (ready,) = published(fleet.beat("alice", 2), ev.PodReady)
    assert ready == ev.PodReady(incarnation=1, pid=PID, endpoint="ipc://pod")
    assert fleet.fleet.member("alice").flags() == ()


# -- how it came about


def test_story_names_every_cause_and_signals_by_name() -> None:
    fleet = Driven().add("alice").up("alice")
    fleet.gone("alice", KILLED)
    fleet.join("alice")
    fleet.ask(c.Stop(pods=("alice",)))
    fleet.gone("alice")

    story = fleet.fleet.story("alice")
    assert story.status == "stopped"
    assert [(line.incarnation, line.before, line.after, line.why) for line in story.lines] == [
        (1, "defined", "starting", "start asked"),
        (1, "starting", "idle", "hello"),
        (1, "idle", "stopping", "killed by SIGKILL"),
        (2, "stopping", "starting", "restart after killed by SIGKILL"),
        (2, "starting", "idle", "hello"),
        (2, "idle", "stopping", "stop asked"),
        (2, "stopping", "stopped", "stop asked (exit code 0)"),
    ]


def test_story_of_a_stop_that_was_not_heeded_names_the_signal_that_ended_it() -> None:
    fleet = Driven().add("alice").up("alice")
    fleet.ask(c.Kill(pods=("alice",)))
    fleet.gone("alice", KILLED)
    assert fleet.fleet.story("alice").lines[-1].why == "kill asked (killed by SIGKILL)"


def test_story_of_a_refused_start_has_its_cause_its_evidence_and_the_last_output() -> None:
    fleet = Driven().add("alice", "bob")
    fleet.start("alice", "bob")
    fleet.refuse("alice")
    assert fleet.fleet.story("alice").lines[-1].why == "write_conflict: bob writes there"
    fleet.join("bob")
    fleet.gone("bob", exit_of(78, None, "no such folder\n"))
    assert fleet.fleet.story("bob").stderr_tail == "no such folder\n"
    assert "exit code 78" in fleet.fleet.story("bob").lines[-1].why


def test_last_exit_names_code_or_signal_and_when() -> None:
    fleet = Driven().add("alice").up("alice")
    assert fleet.fleet.rows(fleet.now)[0].last_exit is None
    fleet.gone("alice", KILLED)
    (row,) = fleet.fleet.rows(fleet.now)
    assert row.last_exit is not None
    assert (row.last_exit.signal, row.last_exit.code) == ("SIGKILL", None)
    assert row.last_exit.at > 0
    assert (row.restarts, row.pid) == (1, None)


# -- the end of the fleet


def test_essential_pod_that_failed_ends_the_fleet_with_9_when_all_are_gone() -> None:
    fleet = Driven().add("alice", essential=True).add("bob", "carol")
    fleet.up("alice", "bob")
    out = fleet.gone("alice", exit_of(78, None, "bad"))
    assert [what for what in for_pod(out, "bob") if isinstance(what, li.SendShutdown)]
    assert end_of(out) is None
    assert end_of(fleet.exit("bob", DONE)) is None, "its tree may live"
    end = end_of(fleet.clear("bob"))
    assert end is not None
    assert (end.code, end.cause) == (9, "essential pod alice failed")
    assert not any(isinstance(one, Wish) for one in out), "nobody asked for it"


def test_pod_that_failed_and_is_not_essential_leaves_the_fleet_up() -> None:
    fleet = Driven().add("alice", "bob").up("alice", "bob")
    assert for_pod(fleet.gone("alice", exit_of(78, None, "bad")), "bob") == []
    assert not fleet.fleet.is_ending


def test_essential_pod_that_fails_while_the_fleet_goes_down_changes_no_exit_code() -> None:
    fleet = Driven().add("alice", essential=True).up("alice")
    fleet.ask(c.Down())
    end = end_of(fleet.gone("alice", exit_of(78, None, "bad")))
    assert end is not None
    assert end.code == 0


def test_fleet_none_of_whose_pods_could_start_ends_with_1() -> None:
    fleet = Driven().add("alice", "bob")
    fleet.start("alice", "bob")
    assert end_of(fleet.refuse("alice", "missing_key")) is None
    out = fleet.refuse("bob", "missing_key")
    end = end_of(out)
    assert end is not None
    assert end.code == 1
    assert fleet.operation("up").state is OperationState.FAILED
    told = [i for i, one in enumerate(out) if isinstance(one, EndFleet)]
    (operation,) = published(out, ev.Operation)
    assert out.index(next(o for o in out if getattr(o, "event", None) is operation)) < told[0]


def test_fleet_of_which_one_pod_could_start_stays_up() -> None:
    fleet = Driven().add("alice", "bob")
    fleet.start("alice", "bob")
    fleet.join("alice")
    fleet.refuse("bob")
    assert fleet.operation("up").state is OperationState.FAILED
    assert not fleet.fleet.is_ending
    assert fleet.status("alice") == "idle"


def test_signal_ends_the_fleet_with_0_and_stops_pods_in_every_phase() -> None:
    fleet = Driven().add("ready", "forking", "joining", "waiting", "stopped", "defined")
    fleet.up("ready", "joining", "waiting", "stopped")
    fleet.start("forking")
    fleet.ask(c.Stop(pods=("stopped",)))
    fleet.gone("stopped")
    fleet.gone("joining", CRASH)
    fleet.fork("joining")
    fleet.gone("waiting", CRASH)
    fleet.join("waiting")
    fleet.gone("waiting", CRASH)
    assert [fleet.life(pod).phase for pod in ("waiting", "joining")] == ["backoff", "joining"]

    assert end_of(fleet.feed(EndAsked("SIGTERM"))) is None
    fleet.fork("forking")
    for pod in ("ready", "joining"):
        assert end_of(fleet.gone(pod)) is None
    end = end_of(fleet.gone("forking"))
    assert end == EndFleet(0, "SIGTERM")
    assert {fleet.status(pod) for pod in ("ready", "forking", "joining", "waiting")} == {"stopped"}


def test_fleet_that_is_already_empty_ends_at_once_and_only_once() -> None:
    fleet = Driven().add("alice")
    assert end_of(fleet.feed(EndAsked("SIGTERM"))) == EndFleet(0, "SIGTERM")
    assert end_of(fleet.feed(EndAsked("SIGTERM"))) is None
    assert end_of(fleet.feed(Ticked(1.0, 1.0))) is None


def test_down_writes_no_wishes_and_a_stop_does() -> None:
    fleet = Driven().add("alice", "bob")
    assert Wish("alice", Desired.UP) in fleet.start("alice", "bob")
    fleet.join("alice", "bob")
    stopped = fleet.ask(c.Stop(pods=("alice",)), "s")
    assert [one for one in stopped if isinstance(one, Wish)] == [Wish("alice", Desired.DOWN)]
    out = fleet.ask(c.Down(), "d") + fleet.gone("alice") + fleet.gone("bob")
    assert not any(isinstance(one, Wish) for one in out)
    assert end_of(out) == EndFleet(0, "down asked")


@pytest.mark.parametrize("control", [c.Restart(pods=("alice",)), c.Restore(pod="alice")])
def test_nothing_is_started_while_the_fleet_goes_down(control: c.Control) -> None:
    fleet = Driven().add("alice", "bob").up("alice", "bob")
    fleet.ask(c.Down(), "d")
    fleet.gone("alice")
    assert refusal(fleet.ask(control)).code == "conflict"
    assert end_of(fleet.gone("bob")) is not None
    assert refusal(fleet.ask(control, "later")).code == "conflict"
    assert fleet.status("alice") == "stopped"
