"""A run as its asker follows it: the pod's lanes and the fleet's events, in every order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from protocol import events as ev
from protocol.entries import (
    AssistantItem,
    Entry,
    Message,
    ToolResult,
    ToolResultEntry,
    Usage,
    decode_entry,
)
from protocol.error_body import ErrorBody
from protocol.status import Lane, PodStatus, RunResult, Trigger
from protocol.watch import Deliver, Gap, Synced
from protocol.wire import EventHeader
from supervisor.following import FLEET, RunDone, RunFollower, outcome_in

OURS = "the-run"
Told = tuple[str, Deliver]
IDLE = ev.Status(status=PodStatus.IDLE)
RUNNING = ev.Status(status=PodStatus.RUNNING)
EXITED = ev.PodExited(cause="killed by SIGKILL", signal="SIGKILL")


def header(seq: int, lane: Lane = Lane.STATE, pod: str = "alice") -> EventHeader:
    return EventHeader(pod=pod, incarnation=1, lane=lane, seq=seq, ts_ms=0)


def begun(request_id: str | None = OURS) -> ev.InvokeStart:
    return ev.InvokeStart(segment_id="s", index=0, trigger=Trigger.USER_SEND, request_id=request_id)


def text(content: str) -> ev.EntryEvent:
    item = Message(role="assistant", content=content)
    return ev.EntryEvent(segment_id="s", index=0, entry=AssistantItem(ts=0, item=item))


def tool_result() -> ev.EntryEvent:
    item = ToolResult(call_id="1", summary="ok")
    return ev.EntryEvent(segment_id="s", index=0, entry=ToolResultEntry(ts=0, item=item))


def used(tokens: int, cost: float | None = None) -> ev.UsageEvent:
    return ev.UsageEvent(turn=1, context_tokens=1, output_tokens=tokens, cost_usd=cost)


def ended(
    request_id: str | None = OURS, result: RunResult = RunResult.FINISHED, **more: object
) -> ev.RunEnd:
    return ev.RunEnd.from_wire({"result": result, "request_id": request_id, **more})


def of_pod(*events: ev.Event) -> list[Told]:
    """Number the events of a pod lane by lane, as it publishes them."""
    counts = {lane: itertools.count(1) for lane in Lane}
    return [("alice", Deliver(header(next(counts[e.lane]), e.lane), e)) for e in events]


def of_fleet(pod_told: Sequence[Told], *own: ev.Event) -> list[Told]:
    """Return the pod's state lane as the fleet passes it on, and what the supervisor adds."""
    passed = [(FLEET, told) for _, told in pod_told if told.header.lane is Lane.STATE]
    return passed + [(FLEET, Deliver(header(99), event)) for event in own]


def interleavings(one: list[Told], other: list[Told]) -> Iterator[list[Told]]:
    """Yield every order of two sources, each in its own."""
    total = len(one) + len(other)
    for places in itertools.combinations(range(total), len(other)):
        left, right = iter(one), iter(other)
        yield [next(right if place in places else left) for place in range(total)]


def follow(told: Sequence[Told], follower: RunFollower | None = None) -> tuple[RunDone | None, int]:
    """Return the outcome, and after how many events it came."""
    follower = follower or RunFollower("alice", OURS)
    for count, (source, one) in enumerate(told, 1):
        if (done := follower.take(source, one)) is not None:
            return done, count
    return None, len(told)


RUN = of_pod(
    begun(),
    RUNNING,
    text("let me look"),
    used(3, 0.5),
    tool_result(),
    text("it is blue"),
    used(4),
    ended(),
    IDLE,
)
ANSWER = RunDone("finished", text="it is blue", usage=Usage(output_tokens=7, cost_usd=0.5))
ENDS: tuple[tuple[RunResult, dict[str, object], RunDone], ...] = (
    (RunResult.PAUSED, {"reason": "budget"}, RunDone("paused", reason="budget")),
    (RunResult.CANCELLED, {}, RunDone("cancelled")),
    (RunResult.LIMIT_REACHED, {}, RunDone("limit_reached")),
    (RunResult.ROLLED_BACK, {"input": []}, RunDone("rolled_back")),
)


def test_outcome_comes_with_the_later_of_the_pods_and_the_fleets_last_word() -> None:
    for order in interleavings(RUN, of_fleet(RUN)):
        assert follow(order) == (ANSWER, len(order))


def test_outcome_waits_for_the_status_after_the_end_from_both() -> None:
    fleet = of_fleet(RUN)
    assert follow([*RUN, *fleet[:-1]])[0] is None, "the supervisor has not the new status"
    assert follow([*fleet, *RUN[:-1]])[0] is None, "the pod's own status is to come"
    assert follow([*RUN[:-1], *fleet])[0] is None


@pytest.mark.parametrize(("result", "more", "outcome"), ENDS)
def test_every_way_to_end_is_told(
    result: RunResult, more: dict[str, object], outcome: RunDone
) -> None:
    run = of_pod(begun(), ended(OURS, result, **more), IDLE)
    assert follow([*run, *of_fleet(run)])[0] == outcome


def test_failed_run_brings_its_error() -> None:
    error = ErrorBody(code="provider_error", message="429")
    run = of_pod(begun(), ended(OURS, RunResult.ERRORED, error=error.to_wire()), IDLE)
    done, _ = follow([*run, *of_fleet(run)])
    assert done is not None
    assert (done.result, done.error) == ("errored", error.to_wire())


def test_pod_that_exits_in_the_middle_ends_the_wait_with_what_was_said() -> None:
    run = RUN[:6]
    for order in interleavings(run, of_fleet(run, EXITED)):
        done, count = follow(order)
        assert done is not None
        assert (done.result, done.reason) == ("exited", "killed by SIGKILL")
        assert order[count - 1][1].event == EXITED
    done, _ = follow([*run, *of_fleet(run, EXITED)])
    assert done == RunDone(
        "exited",
        reason="killed by SIGKILL",
        text="it is blue",
        usage=Usage(output_tokens=3, cost_usd=0.5),
    )


@pytest.mark.parametrize("run", [RUN, RUN[:-1]], ids=["after its status", "before its status"])
def test_pod_that_exits_after_the_run_ended_does_not_change_how_it_ended(run: list[Told]) -> None:
    for order in interleavings(run, of_fleet(run, EXITED)):
        done, count = follow(order)
        assert done is not None
        assert done.result == "finished"
        if all(told in order[:count] for told in run):
            assert done == ANSWER


def test_pods_own_end_counts_where_the_fleet_did_not_hear_it_before_the_exit() -> None:
    silent = [(FLEET, Deliver(header(99), EXITED))]
    for order in interleavings(RUN, silent):
        done, count = follow(order)
        assert done is not None
        has_ended = any(isinstance(told.event, ev.RunEnd) for _, told in order[:count])
        assert done.result == ("finished" if has_ended else "exited")


def test_runs_of_others_are_ignored() -> None:
    others = (
        *(begun("another"), RUNNING, text("not this"), used(50), ended("another"), IDLE),
        *(begun(None), RUNNING, text("nor this"), used(50), ended(None), IDLE),
    )
    before = of_pod(*others)
    assert follow([*before, *of_fleet(before)])[0] is None
    run = of_pod(*others, *(told.event for _, told in RUN))
    assert follow([*run, *of_fleet(run)]) == (ANSWER, 2 * len(run) - _log_events(run))
    assert follow([*of_fleet(run), *run]) == (ANSWER, 2 * len(run) - _log_events(run))


def _log_events(run: list[Told]) -> int:
    return sum(told.header.lane is not Lane.STATE for _, told in run)


def test_run_that_follows_at_once_does_not_touch_the_outcome() -> None:
    run = of_pod(*(told.event for _, told in RUN), begun(None), text("more"), used(50), RUNNING)
    done, _ = follow([*run, *of_fleet(run)])
    assert done == ANSWER


def test_status_of_before_the_end_is_not_the_one_that_is_waited_for() -> None:
    follower = RunFollower("alice", OURS)
    end, idle = RUN[-2][1], RUN[-1][1]
    early = replace(end, header=header(1), event=RUNNING)
    for source in ("alice", FLEET):
        for told in (end, early):
            assert follower.take(source, told) is None
    assert follower.take(FLEET, idle) is None
    assert follower.take("alice", idle) is not None


@pytest.mark.parametrize("other", ["bob", ""])
def test_what_other_pods_and_the_fleet_itself_say_is_ignored(other: str) -> None:
    follower = RunFollower("alice", OURS)
    for event in (begun(), text("no"), ended(), IDLE, EXITED):
        for source in (FLEET, "alice"):
            assert follower.take(source, Deliver(header(1, pod=other), event)) is None
    assert follower.end is None


def test_snapshots_and_gaps_are_no_outcome() -> None:
    follower = RunFollower("alice", OURS)
    for told in (Synced(header(1), {}, again=False), Gap(Lane.STATE, 1, 2)):
        assert follower.take("alice", told) is None
        assert follower.take(FLEET, told) is None


def test_text_that_streams_is_passed_on_while_the_run_is_ours() -> None:
    pieces: list[str] = []
    run = of_pod(
        begun("another"),
        ev.TextDelta(block=0, text="not this"),
        begun(),
        ev.TextDelta(block=0, text="it is "),
        ev.TextDelta(block=0, text="blue"),
        ended(),
        ev.TextDelta(block=1, text="nor this"),
    )
    follow(run, RunFollower("alice", OURS, pieces.append))
    assert pieces == ["it is ", "blue"]


def test_text_is_all_that_was_said_after_the_last_tool() -> None:
    run = of_pod(begun(), text("a"), tool_result(), text("b"), text("c"), ended(), IDLE)
    done, _ = follow([*run, *of_fleet(run)])
    assert done is not None
    assert done.text == "b\nc"


def test_cut_of_the_log_takes_the_text_back() -> None:
    cut = ev.LogCut(segment_id="s", head_entries=1, reason="rollback")
    run = of_pod(begun(), text("never mind"), cut, ended(OURS, RunResult.ROLLED_BACK), IDLE)
    done, _ = follow([*run, *of_fleet(run)])
    assert done is not None
    assert (done.result, done.text) == ("rolled_back", "")


def log(*kinds: dict[str, object]) -> list[Entry]:
    return [decode_entry({"ts": 0, **kind}) for kind in kinds]


INVOKE: dict[str, object] = {"kind": "invoke", "trigger": "user_send", "request_id": "mine"}
OTHER: dict[str, object] = {"kind": "invoke", "trigger": "notify"}
SAID: dict[str, object] = {
    "kind": "assistant_item",
    "item": {"kind": "message", "role": "assistant", "content": "done"},
}
FINISHED: dict[str, object] = {"kind": "run_completed", "result": "finished"}
FAILED: dict[str, object] = {"kind": "run_errored", "code": "internal", "message": "broken"}


@pytest.mark.parametrize(
    ("entries", "result"),
    [
        ([INVOKE, SAID, FINISHED], "finished"),
        ([INVOKE, FAILED], "errored"),
        ([INVOKE, SAID], None),
        ([INVOKE], None),
        ([OTHER, FINISHED], "rolled_back"),
        ([], "rolled_back"),
        ([OTHER, FINISHED, INVOKE, SAID, FINISHED, OTHER], "finished"),
    ],
)
def test_run_that_was_lost_from_sight_is_found_in_the_log(
    entries: list[dict[str, object]], result: str | None
) -> None:
    done = outcome_in(log(*entries), "mine")
    assert (done.result if done else None) == result
    if result == "finished":
        assert done is not None
        assert done.text == "done"
