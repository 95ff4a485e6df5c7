"""What the tables do not show: orders, races, and what follows a run."""

from __future__ import annotations

import pytest

from podproc import turn_terms as t
from podproc.turn import TurnState
from protocol import methods as m
from protocol.error_body import ErrorBody
from protocol.errors import Internal, InvalidRequest
from protocol.status import PodStatus, RunResult, Trigger
from tests.podproc.turns import Machine, ask, child_ended, child_lent, notify, run, words

STOPPED, FINISHED = t.Ending.STOPPED, t.Ending.FINISHED
WAITING = t.Closed(waiting=Trigger.NOTIFY)
ARRIVED = t.Closed(waiting=Trigger.NOTIFY, arrived=True)
AGAIN = "begin notify"

# -- a run ----------------------------------------------------------------------------------------


def test_a_run_is_published_then_running_then_answered_then_started() -> None:
    machine = Machine()
    assert machine.ask(run()) == "begin run"
    assert machine.feel(t.Begun()) == "publish begin, status running, accepted, start engine"


def test_a_notification_run_has_nobody_to_answer() -> None:
    machine = Machine()
    assert machine.ask(notify()) == "store, accepted, begin notify"
    assert machine.feel(t.Begun()) == "publish begin, status running, start engine"


def test_a_run_that_cannot_begin_is_refused_and_nothing_is_published() -> None:
    machine = Machine()
    machine.ask(run())
    assert machine.feel(t.BeginFailed(InvalidRequest("no such workflow"))) == "invalid_request"
    assert machine.state == TurnState()


@pytest.mark.parametrize("method", [run(), ask(m.Resume())])
def test_a_run_that_cannot_begin_leaves_a_paused_pod_paused(method: t.Request) -> None:
    machine = Machine().paused()
    machine.ask(method)
    assert machine.feel(t.BeginFailed(Internal("the disk is full"))) == "internal"
    assert machine.state.status is PodStatus.PAUSED
    assert machine.ask(m.Resume()).startswith("begin resume")


def test_a_notification_that_waited_from_before_the_start_wakes_an_idle_pod() -> None:
    assert Machine().feel(t.Woken(Trigger.POD_EVENT)) == "begin pod_event"
    assert Machine(PodStatus.PAUSED).feel(t.Woken(Trigger.POD_EVENT)) == ""


def test_the_second_of_two_notifications_waits_for_the_run_of_the_first() -> None:
    machine = Machine()
    machine.ask(notify())
    assert machine.ask(notify()) == "store, accepted"
    assert machine.ask(child_ended()) == "store, accepted"


# -- stopping ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wishes", "stops"),
    [
        ((m.Pause(), m.Cancel()), ("stop for pause", "stop for cancel")),
        ((m.Cancel(), m.Pause()), ("stop for cancel", "")),
    ],
)
def test_cancel_beats_pause_in_either_order(
    wishes: tuple[m.Method, m.Method], stops: tuple[str, str]
) -> None:
    machine = Machine().running()
    said = [machine.ask(wish) for wish in wishes]
    assert said == [f"accepted, {stop}" if stop else "accepted" for stop in stops]
    assert "run_end cancelled, status idle" in machine.end(STOPPED)


@pytest.mark.parametrize("first", [m.Pause(), m.Cancel()])
def test_shutdown_beats_pause_and_cancel(first: m.Method) -> None:
    machine = Machine().running()
    machine.ask(first)
    assert machine.ask(m.ShutdownMethod()) == "accepted, stop for shutdown"
    assert "run_end cancelled (shutdown)" in machine.end(STOPPED, output=False)


@pytest.mark.parametrize("wish", [m.Pause(), m.Cancel()])
def test_a_stop_before_the_first_request_reaches_the_run(wish: m.Method) -> None:
    machine = Machine()
    machine.ask(run())
    assert machine.ask(wish) == "accepted"
    assert machine.feel(t.Begun()).endswith(f"start engine, to stop for {wish.method}")
    assert "run_end rolled_back, status idle" in machine.end(STOPPED, output=False)


@pytest.mark.parametrize("wish", [m.Pause(), m.Cancel()])
def test_a_stop_refused_in_idle_leaves_nothing_that_stops_a_later_run(wish: m.Method) -> None:
    machine = Machine()
    assert machine.ask(wish) == "not_running"
    machine.ask(run())
    assert machine.feel(t.Begun()).endswith("start engine")
    assert "run_end finished" in machine.end(FINISHED)


@pytest.mark.parametrize("wish", [m.Pause(), m.Cancel(), m.ShutdownMethod()])
def test_a_stop_of_one_run_does_not_reach_the_next(wish: m.Method) -> None:
    machine = Machine().running()
    machine.ask(wish)
    machine.end(STOPPED)
    if machine.state.leaving:
        assert machine.ask(run()) == "unreachable"
        return
    machine.ask(run())
    assert machine.feel(t.Begun()).endswith("start engine")


@pytest.mark.parametrize("wish", [m.Pause(), m.Cancel()])
def test_a_stop_that_comes_too_late_is_accepted_and_run_end_says_what_happened(
    wish: m.Method,
) -> None:
    machine = Machine().running()
    assert machine.feel(t.RunOver(FINISHED)) == "close finished"
    assert machine.ask(wish) == "accepted"
    assert machine.feel(t.Closed()).startswith("run_end finished, status idle")


@pytest.mark.parametrize("start", [Machine.running, Machine.notified])
@pytest.mark.parametrize("wish", [m.Pause(), m.Cancel()])
def test_a_run_or_notification_run_without_output_is_taken_back(start, wish) -> None:  # type: ignore[no-untyped-def]
    machine = start(Machine())
    machine.ask(wish)
    assert "run_end rolled_back, status idle" in machine.end(STOPPED, output=False)


def test_a_resumed_run_without_output_is_paused_again() -> None:
    machine = Machine().resumed()
    machine.ask(m.Pause())
    assert "run_end paused, status paused" in machine.end(STOPPED, output=False)


def test_a_resumed_run_without_output_is_abandoned_by_cancel() -> None:
    machine = Machine().resumed()
    machine.ask(m.Cancel())
    said = machine.end(STOPPED, output=False)
    assert said.startswith("close cancelled and abandon, run_end cancelled, status idle")


def test_a_resumed_run_with_output_is_cancelled_without_an_abandonment() -> None:
    machine = Machine().resumed()
    machine.ask(m.Cancel())
    assert machine.end(STOPPED).startswith("close cancelled, run_end cancelled, status idle")


# -- a paused pod --------------------------------------------------------------------------------


def test_cancel_of_a_paused_run_is_answered_when_the_abandonment_is_logged() -> None:
    machine = Machine().paused()
    request = ask(m.Cancel())
    assert machine.ask(request) == "abandon"
    assert machine.feel(t.Abandoned(request)) == "status idle, accepted"


def test_an_abandonment_that_cannot_be_logged_leaves_the_pod_paused() -> None:
    machine = Machine().paused()
    request = ask(m.Cancel())
    machine.ask(request)
    assert machine.feel(t.Abandoned(request, Internal("the disk is full"))) == "internal"
    assert machine.ask(m.Resume()) == "begin resume without a note"


def test_a_run_being_abandoned_is_neither_resumed_nor_overtaken() -> None:
    machine = Machine().paused()
    machine.ask(m.Cancel())
    assert machine.ask(m.Resume()) == "not_paused"
    assert machine.ask(run()) == "already_running"
    assert machine.ask(m.Cancel()) == "accepted"


def test_what_arrives_while_a_pod_is_paused_starts_nothing_when_it_is_abandoned() -> None:
    machine = Machine().paused()
    assert machine.ask(notify()) == "store, accepted"
    request = ask(m.Cancel())
    machine.ask(request)
    assert machine.ask(notify()) == "store, accepted"
    assert machine.feel(t.Abandoned(request)) == "status idle, accepted"


# -- shutdown ------------------------------------------------------------------------------------


def test_an_idle_pod_leaves_at_once_and_once() -> None:
    machine = Machine()
    assert machine.ask(m.ShutdownMethod()) == "accepted, leave"
    assert machine.ask(m.ShutdownMethod()) == "accepted"
    assert machine.feel(t.LeaveAsked()) == ""


def test_a_compacting_pod_stops_the_compaction_refuses_the_staged_run_and_leaves() -> None:
    machine = Machine().compacting()
    machine.ask(run())
    assert machine.ask(m.ShutdownMethod()) == "accepted, stop compaction"
    over = machine.feel(t.CompactionOver(error="cancelled"))
    assert over == "compact_failed (cancelled), unreachable, leave"


def test_a_running_pod_ends_its_run_and_leaves() -> None:
    machine = Machine().running()
    machine.ask(m.ShutdownMethod())
    assert machine.end(STOPPED) == (
        "close cancelled, run_end cancelled (shutdown), status idle, report cancelled, jobs, leave"
    )


def test_a_run_that_was_only_staged_is_begun_and_ended_before_the_pod_leaves() -> None:
    machine = Machine()
    machine.ask(run())
    assert machine.feel(t.LeaveAsked()) == ""
    assert machine.feel(t.Begun()).endswith("accepted, start engine, to stop for shutdown")
    assert machine.end(STOPPED, output=False).endswith("jobs, leave")


def test_a_run_that_cannot_begin_does_not_keep_the_pod_from_leaving() -> None:
    machine = Machine()
    machine.ask(run())
    machine.feel(t.LeaveAsked())
    assert machine.feel(t.BeginFailed(Internal("the disk is full"))) == "internal, leave"


def test_a_paused_pod_leaves_as_it_is() -> None:
    machine = Machine().paused()
    assert machine.ask(m.ShutdownMethod()) == "accepted, leave"
    assert machine.state.status is PodStatus.PAUSED


@pytest.mark.parametrize("error", [None, Internal("the disk is full")])
def test_a_pod_that_abandons_a_run_leaves_when_that_is_logged_or_cannot_be(
    error: Internal | None,
) -> None:
    machine = Machine().paused()
    request = ask(m.Cancel())
    machine.ask(request)
    assert machine.ask(m.ShutdownMethod()) == "accepted"
    over = machine.feel(t.Abandoned(request, error))
    assert over == ("internal, leave" if error else "status idle, accepted, leave")
    assert machine.feel(t.LeaveAsked()) == ""


def test_a_signal_is_the_same_as_shutdown() -> None:
    for asked, signalled in (
        (Machine(), Machine()),
        (Machine().compacting(), Machine().compacting()),
        (Machine().running(), Machine().running()),
        (Machine().paused(), Machine().paused()),
    ):
        assert asked.ask(m.ShutdownMethod()) == ", ".join(
            ["accepted", signalled.feel(t.LeaveAsked())]
        )


@pytest.mark.parametrize(
    "request_",
    [run(), notify(), child_ended(), child_lent(), ask(m.Resume()), ask(m.Compact())],
    ids=lambda one: one.method.method,
)
def test_a_leaving_pod_takes_no_new_work_and_still_answers_reads(request_: t.Request) -> None:
    machine = Machine().running()
    machine.feel(t.LeaveAsked())
    assert machine.ask(request_) == "unreachable"
    assert machine.ask(m.GetHistory()) == "answer"


# -- what follows a run --------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [FINISHED, t.Ending.LIMIT_REACHED])
def test_what_waits_after_a_finished_or_limited_run_stages_the_next_without_idle_between(
    ending: t.Ending,
) -> None:
    machine = Machine().running()
    assert machine.end(ending, WAITING) == (
        f"close {ending}, run_end {ending}, report {ending}, jobs, {AGAIN}"
    )
    assert machine.state.status is PodStatus.RUNNING
    assert machine.feel(t.Begun()) == "publish begin, status running, start engine"


def test_a_child_event_that_waits_stages_a_run_that_says_so() -> None:
    said = Machine().running().end(FINISHED, t.Closed(waiting=Trigger.POD_EVENT))
    assert said.endswith("begin pod_event")


def test_a_run_staged_again_that_cannot_begin_still_gives_the_status_it_owes() -> None:
    machine = Machine().running()
    machine.end(FINISHED, WAITING)
    assert machine.feel(t.BeginFailed(Internal("the disk is full"))) == "status idle"
    assert machine.state.status is PodStatus.IDLE


def test_after_an_error_only_what_arrived_during_the_run_is_staged() -> None:
    assert Machine().running().end(t.Ending.FAILED, ARRIVED).endswith(AGAIN)
    assert not Machine().running().end(t.Ending.FAILED, WAITING).endswith(AGAIN)


def test_after_a_notification_run_that_errored_nothing_is_staged() -> None:
    said = Machine().notified().end(t.Ending.FAILED, ARRIVED)
    assert said == "close errored, run_end errored, status idle, jobs"


@pytest.mark.parametrize("output", [True, False])
@pytest.mark.parametrize("wish", [m.Pause(), m.Cancel(), m.ShutdownMethod()])
def test_after_cancel_pause_rollback_or_shutdown_nothing_is_staged(
    wish: m.Method, output: bool
) -> None:
    machine = Machine().running()
    machine.ask(wish)
    assert AGAIN not in machine.end(STOPPED, ARRIVED, output=output)


def test_after_a_pause_of_the_engine_itself_nothing_is_staged() -> None:
    assert Machine().running().end(t.Ending.PAUSED, ARRIVED).endswith("jobs")


def test_a_finished_notification_run_stages_the_next_while_something_waits() -> None:
    machine = Machine().notified()
    assert machine.end(FINISHED, ARRIVED).endswith(AGAIN)
    machine.feel(t.Begun())
    assert machine.end(FINISHED).endswith("status idle, jobs")


@pytest.mark.parametrize(
    ("ending", "wish", "output"),
    [
        (FINISHED, None, True),
        (t.Ending.LIMIT_REACHED, None, True),
        (t.Ending.FAILED, None, True),
        (t.Ending.PAUSED, None, True),
        (STOPPED, m.Pause(), True),
        (STOPPED, m.Cancel(), True),
        (STOPPED, m.Cancel(), False),
        (STOPPED, m.ShutdownMethod(), True),
    ],
)
def test_jobs_start_after_every_outcome_behind_status_and_report(
    ending: t.Ending, wish: m.Method | None, output: bool
) -> None:
    machine = Machine().running()
    if wish is not None:
        machine.ask(wish)
    said = machine.end(ending, output=output).split(", ")
    kinds = [one.split()[0] for one in said[:5]]
    assert kinds == ["close", "run_end", "status", "report", "jobs"]
    assert said.count("jobs") == 1


@pytest.mark.parametrize(
    ("machine", "reports"),
    [(Machine.running, True), (Machine.resumed, True), (Machine.notified, False)],
)
def test_only_runs_that_were_asked_for_report_upward(machine, reports: bool) -> None:  # type: ignore[no-untyped-def]
    assert ("report finished" in machine(Machine()).end(FINISHED)) is reports
    assert ("report errored" in machine(Machine()).end(t.Ending.FAILED)) is reports


def test_a_notification_run_reports_if_it_consumed_a_message_its_parent_queued() -> None:
    said = Machine().notified().end(FINISHED, t.Closed(consumed_report=True))
    assert said.endswith("status idle, report finished, jobs")


def test_a_report_of_a_failure_carries_its_error() -> None:
    machine = Machine().running()
    body = ErrorBody(code="provider_error", message="overloaded")
    machine.feel(t.RunOver(t.Ending.FAILED, error=body))
    assert t.Report(RunResult.ERRORED, body) in machine.do(t.Closed())


def test_a_refused_request_reports_nothing() -> None:
    machine = Machine()
    machine.ask(run())
    assert "report" not in machine.feel(t.BeginFailed(InvalidRequest("no such workflow")))


# -- shut down once idle -------------------------------------------------------------------------


def test_a_hook_that_asks_to_shut_down_once_idle_goes_before_waiting_notifications() -> None:
    machine = Machine().running()
    assert machine.feel(t.LeaveWhenIdle()) == ""
    assert machine.end(FINISHED, ARRIVED) == (
        "close finished, run_end finished, status idle, report finished, jobs, leave"
    )
    assert machine.ask(run()) == "unreachable"


def test_a_paused_pod_waits_with_shutting_down_until_it_is_idle() -> None:
    machine = Machine().running()
    machine.feel(t.LeaveWhenIdle())
    machine.ask(m.Pause())
    assert machine.end(STOPPED).endswith("status paused, report paused, jobs")
    machine.ask(m.Resume())
    machine.feel(t.Begun())
    assert machine.end(FINISHED).endswith("jobs, leave")


def test_a_pod_that_is_to_shut_down_once_idle_leaves_when_its_next_run_cannot_begin() -> None:
    machine = Machine()
    machine.ask(run())
    assert machine.feel(t.LeaveWhenIdle()) == ""
    assert machine.feel(t.BeginFailed(Internal("the disk is full"))) == "internal, leave"
    assert machine.ask(run()) == "unreachable"


def test_a_pod_that_is_to_shut_down_once_idle_stays_paused_when_its_next_run_cannot_begin() -> None:
    machine = Machine().paused()
    machine.ask(run())
    machine.feel(t.LeaveWhenIdle())
    assert machine.feel(t.BeginFailed(Internal("the disk is full"))) == "internal"
    assert machine.ask(m.Resume()) == "begin resume without a note"


def test_a_pod_that_is_to_shut_down_once_idle_leaves_behind_a_compaction_before_what_woke_it() -> (
    None
):
    machine = Machine().compacting()
    assert machine.ask(notify()) == "store, accepted"
    assert machine.feel(t.LeaveWhenIdle()) == ""
    assert machine.feel(t.CompactionOver(new_segment_id="s2")) == "compact_done s2, leave"


def test_a_pod_that_is_to_shut_down_once_idle_does_the_run_that_it_took_before() -> None:
    machine = Machine().compacting()
    machine.ask(run())
    machine.feel(t.LeaveWhenIdle())
    over = machine.feel(t.CompactionOver(new_segment_id="s2"))
    assert over == "compact_done s2, status idle, begin run"
    machine.feel(t.Begun())
    assert machine.end(FINISHED).endswith("jobs, leave")


def test_a_pod_that_is_to_shut_down_once_idle_leaves_when_its_paused_run_is_abandoned() -> None:
    machine = Machine().running()
    machine.feel(t.LeaveWhenIdle())
    machine.ask(m.Pause())
    machine.end(STOPPED)
    request = ask(m.Cancel())
    machine.ask(request)
    assert machine.feel(t.Abandoned(request)) == "status idle, accepted, leave"


# -- compaction ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("over", "told"),
    [
        (t.CompactionOver(new_segment_id="s2"), "compact_done s2"),
        (t.CompactionOver(error="too large"), "compact_failed (too large)"),
    ],
)
def test_a_run_staged_behind_a_compaction_begins_when_it_is_over_however_it_went(
    over: t.CompactionOver, told: str
) -> None:
    machine = Machine().compacting()
    held = run()
    assert machine.ask(held) == ""
    assert machine.feel(over) == f"{told}, status idle, begin run"
    accepted = [one for one in machine.do(t.Begun()) if isinstance(one, t.Reply)]
    assert accepted == [t.Reply(held)]


def test_a_second_run_behind_a_compaction_is_refused() -> None:
    machine = Machine().compacting()
    machine.ask(run(request_id="first"))
    [refusal] = machine.do(t.Asked(run()))
    assert words([refusal]) == "already_running"
    assert isinstance(refusal, t.Reply)
    assert refusal.error is not None
    assert refusal.error.details["request_id"] == "first"


@pytest.mark.parametrize(
    ("request_", "trigger"), [(notify(), "notify"), (child_ended(), "pod_event")]
)
def test_a_notification_behind_a_compaction_is_answered_at_once_and_starts_its_run_after(
    request_: t.Request, trigger: str
) -> None:
    machine = Machine().compacting()
    assert machine.ask(request_) == "store, accepted"
    over = machine.feel(t.CompactionOver(new_segment_id="s2"))
    assert over == f"compact_done s2, status idle, begin {trigger}"


def test_cancel_stops_the_compaction_and_the_staged_run_goes_on() -> None:
    machine = Machine().compacting()
    machine.ask(run())
    assert machine.ask(m.Cancel()) == "accepted, stop compaction"
    over = machine.feel(t.CompactionOver(error="cancelled"))
    assert over == "compact_failed (cancelled), status idle, begin run"
    assert machine.feel(t.Begun()).endswith("accepted, start engine")


def test_busy_stands_beside_idle_only_while_a_compaction_runs() -> None:
    machine = Machine()
    assert machine.ask(m.Compact()).endswith("status idle busy")
    assert machine.feel(t.CompactionOver(new_segment_id="s2")) == "compact_done s2, status idle"
    assert machine.ask(run()) == "begin run"
