"""How often a pod runs without a person's input: the windows, and what the machine does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podproc import turn_terms as t
from podproc.pace import HOUR_S, MINUTE_S, Pace
from podproc.turn import Turn
from protocol import entries as en
from protocol import methods as m
from protocol.errors import Conflict
from protocol.manifest import RunBounds
from protocol.pod_events import TurnEnded
from protocol.segments import Text
from protocol.session.replay import fold
from protocol.status import PodStatus, RunResult, Trigger

FEW = RunBounds(per_minute=2, per_hour=3)
RUN = m.Run(input=(Text(content="go"),))
TOLD = m.PodEventMethod(
    event_id="kid.1", event=TurnEnded(pod_name="kid", result=RunResult.FINISHED)
)


def paced(*begun: float) -> Pace:
    return Pace(FEW, begun)


# -- the windows


@pytest.mark.parametrize(
    ("begun", "now", "key", "seconds"),
    [
        ((), 0, None, None),
        ((0,), 1, None, None),
        ((0, 10), 20, "per_minute", 40),
        ((0, 10), 60, None, None),
        ((0, 1, 100), 200, "per_hour", 3400),
        ((0, 1, 3590), 3595, "per_hour", 5),
        ((0, 3585, 3590), 3595, "per_minute", 50),
        ((0, 3590, 3590), 3600, "per_minute", 50),
        ((0, 1, 100), 3600, None, None),
    ],
)
def test_run_waits_until_both_windows_have_room(
    begun: tuple[float, ...], now: float, key: str | None, seconds: float | None
) -> None:
    wait = paced(*begun).wait(now)
    assert (wait and wait.key, wait and wait.seconds) == (key, seconds)


@pytest.mark.parametrize(
    ("per_minute", "most"), [(1, 1), (5, 5), (6, 5), (15, 5), (16, 6), (30, 10), (300, 100)]
)
def test_third_of_a_minutes_runs_may_begin_in_ten_seconds(per_minute: int, most: int) -> None:
    pace, begun = Pace(RunBounds(per_minute=per_minute, per_hour=1000)), 0
    while pace.wait(begun / 1000) is None and begun < 2 * per_minute:
        pace, begun = pace.after(begun / 1000), begun + 1
    assert begun == most
    wait = pace.wait(begun / 1000)
    assert wait is not None
    assert f"{most} runs began in the last" in wait.cause
    assert f"max_notification_runs.per_minute is {per_minute}" in wait.cause


@given(
    st.builds(
        lambda minute, hour: RunBounds(per_minute=minute, per_hour=hour),
        st.integers(1, 4),
        st.integers(1, 8),
    ),
    st.lists(st.floats(0, 900), max_size=60),
)
def test_no_window_ever_holds_more_than_its_bound(bounds: RunBounds, gaps: list[float]) -> None:
    """Whoever begins whenever there is room, and looks again when it was told to."""
    pace, now, begun = Pace(bounds), 0.0, []
    for gap in gaps:
        now += gap
        if (wait := pace.wait(now)) is not None:
            assert 0 < wait.seconds < HOUR_S + 1e-3
            now += wait.seconds
            assert pace.wait(now + 1e-6) is None
            now += 1e-6
        pace = pace.after(now)
        begun.append(now)
        for length, most in ((MINUTE_S, bounds.per_minute), (HOUR_S, bounds.per_hour)):
            assert sum(1 for at in begun if at > now - length) <= most
        assert len(pace.begun) <= bounds.per_hour


def test_ages_of_a_log_are_put_on_this_clock() -> None:
    pace = Pace.restored(FEW, [70.0, 5.0, -3600.0], now=1000.0)
    assert pace.begun == (930.0, 995.0, 1000.0)
    assert pace.counts(1000.0) == (2, 3)


# -- the machine


class Machine:
    """A turn with a clock; runs begin and finish at once, the inbox keeps what waits."""

    def __init__(self, *, status: PodStatus = PodStatus.IDLE, bounds: RunBounds = FEW) -> None:
        self.turn = Turn(status, Pace(bounds))
        self.now = 0.0
        self.waiting: list[Trigger] = []
        self.runs: list[t.RunPlan] = []
        self.held: list[t.Hold] = []
        self.ended: list[t.EndHold] = []
        self.refused: list[Exception] = []
        self.asked = 0
        self.seen = 0

    def feed(self, stimulus: t.Stimulus) -> None:
        for one in self.turn.handle(stimulus, self.now):
            match one:
                case t.Store(asked, wakes):
                    if wakes:
                        self.waiting.append(Trigger.NOTIFY)
                    self.feed(t.Stored(asked, wakes))
                case t.Begin(plan):
                    self.runs.append(plan)
                    self.feed(t.Begun())
                case t.StartEngine():
                    self.waiting.clear()
                    self.feed(t.RunOver(t.Ending.FINISHED))
                case t.Close():
                    waiting = self.waiting[-1] if self.waiting else None
                    self.feed(t.Closed(waiting=waiting))
                case t.Hold():
                    self.held.append(one)
                case t.EndHold():
                    self.ended.append(one)
                case t.Reply(_, error) if error is not None:
                    self.refused.append(error)
                case _:
                    pass

    def ask(self, method: m.Method, sender: str) -> None:
        self.asked += 1
        self.feed(t.Asked(t.Request(f"r{self.asked}", sender, method)))

    def new_runs(self) -> list[t.RunPlan]:
        """Return the runs that nobody has looked at yet."""
        seen, self.seen = self.seen, len(self.runs)
        return self.runs[seen:]

    def full(self) -> Machine:
        """Have used up a minute."""
        for _ in range(FEW.per_minute):
            self.ask(m.Notify(message="ball"), "bob")
        assert len(self.runs) == FEW.per_minute
        return self


UNASKED = [
    pytest.param(m.Notify(message="ball"), "bob", id="a peer's notification"),
    pytest.param(TOLD, "", id="a child's report"),
    pytest.param(m.Notify(message="news"), "", id="the supervisor's notification"),
]


@pytest.mark.parametrize(("method", "sender"), UNASKED)
def test_notification_run_waits_when_the_window_is_full(method: m.Method, sender: str) -> None:
    machine = Machine().full()
    machine.ask(method, sender)
    assert len(machine.runs) == 2
    assert machine.waiting, "it stays in the inbox"
    assert machine.turn.state.status is PodStatus.IDLE
    assert machine.held[0].wait.key == "per_minute"
    assert not machine.refused


def test_held_run_begins_when_there_is_room() -> None:
    machine = Machine().full()
    machine.ask(TOLD, "")
    machine.now = 30.0
    machine.feed(t.Woken())
    assert (len(machine.runs), len(machine.held)) == (2, 2)
    machine.now = 60.0
    machine.feed(t.Woken())
    assert (len(machine.runs), len(machine.ended)) == (3, 1)
    assert machine.waiting == []


@pytest.mark.parametrize(
    "method", [RUN, m.Notify(message="look"), m.Notify(message="look", auto_run=False)]
)
def test_persons_input_lets_a_held_run_begin(method: m.Method) -> None:
    machine = Machine().full()
    machine.ask(TOLD, "")
    machine.ask(method, "operator")
    assert (len(machine.runs), len(machine.ended)) == (3, 1)
    assert machine.waiting == []
    assert len(machine.turn.state.pace.begun) == (0 if method is RUN else 1)


def test_run_that_another_pod_asks_for_counts_and_is_refused() -> None:
    machine = Machine()
    for _ in range(3):
        machine.ask(RUN, "boss")
    assert len(machine.runs) == 2
    (refusal,) = machine.refused
    assert isinstance(refusal, Conflict)
    assert "2 runs began in the last minute without a person's input" in refusal.message
    assert "supervisor.max_notification_runs.per_minute is 2" in refusal.message
    machine.ask(RUN, "operator")
    machine.ask(RUN, "boss")
    assert len(machine.runs) == 4


def test_first_task_and_a_persons_runs_do_not_count() -> None:
    machine = Machine()
    machine.ask(RUN, "")
    for _ in range(5):
        machine.ask(RUN, "operator")
    assert len(machine.runs) == 6
    assert machine.turn.state.pace.begun == ()


def test_refused_run_of_a_person_does_not_empty_the_window() -> None:
    machine = Machine().full()
    machine.ask(m.Resume(), "operator")
    assert len(machine.turn.state.pace.begun) == 2


def test_run_held_behind_a_compaction_is_judged_when_that_is_over() -> None:
    machine = Machine().full()
    machine.ask(m.Compact(), "operator")
    machine.ask(TOLD, "")
    machine.feed(t.CompactionOver("s2"))
    assert (len(machine.runs), len(machine.held)) == (2, 1)
    assert machine.turn.state.status is PodStatus.IDLE


def test_two_pods_that_answer_each_other_stop_at_the_bound() -> None:
    """Each run of one leaves a notification for the other; nobody else does anything."""
    pods = {"alice": Machine(), "bob": Machine()}
    pods["alice"].ask(RUN, "operator")
    for _ in range(50):
        for name, other in (("alice", "bob"), ("bob", "alice")):
            if pods[name].new_runs():
                pods[other].ask(m.Notify(message="ball"), name)
    assert [len(pod.runs) for pod in pods.values()] == [3, 2]


SENDERS = st.sampled_from(["operator", "bob", ""])
ASKED = st.sampled_from([RUN, m.Notify(message="ball"), TOLD, m.Compact(), m.Pause()])


@given(st.lists(st.one_of(st.tuples(ASKED, SENDERS), st.floats(0, 100)), max_size=80))
def test_machine_never_begins_more_unasked_runs_than_the_bounds_say(steps: list[Any]) -> None:
    machine = Machine()
    begun: list[float] = []
    for step in steps:
        if isinstance(step, float):
            machine.now += step
            if machine.waiting:
                machine.feed(t.Woken())
        else:
            method, sender = step
            is_persons = sender == "operator" and isinstance(method, m.Run | m.Notify)
            machine.ask(method, "" if method is TOLD else sender)
            begun = [] if is_persons else begun
        begun += [machine.now for plan in machine.new_runs() if plan.is_unasked]
        for length, most in ((MINUTE_S, FEW.per_minute), (HOUR_S, FEW.per_hour)):
            assert sum(1 for at in begun if at > machine.now - length) <= most


# -- from the log


def invoke(ts_s: float, trigger: Trigger, by: str | None = None) -> en.Invoke:
    return en.Invoke(ts=int(ts_s * 1000), trigger=trigger, by=by)


@pytest.mark.parametrize(
    ("entries", "unasked"),
    [
        ([], ()),
        ([invoke(1, Trigger.NOTIFY), invoke(2, Trigger.POD_EVENT)], (1000, 2000)),
        ([invoke(1, Trigger.NOTIFY), invoke(2, Trigger.USER_SEND)], ()),
        ([invoke(1, Trigger.NOTIFY), invoke(2, Trigger.RESUME)], ()),
        ([invoke(1, Trigger.NOTIFY), invoke(2, Trigger.USER_SEND, by="boss")], (1000, 2000)),
        ([invoke(1, Trigger.NOTIFY), invoke(3601, Trigger.NOTIFY)], (3_601_000,)),
    ],
)
def test_log_tells_when_unasked_runs_began(
    entries: list[en.Invoke], unasked: tuple[int, ...]
) -> None:
    assert fold(entries).unasked == unasked


def test_spawns_and_runs_together_fill_the_minute_and_the_hour_for_spawns_alone() -> None:
    bounds = RunBounds(per_minute=4, per_hour=6)
    pace = Pace(bounds).after(0.0)
    for at in (1.0, 1.0, 1.0):
        assert pace.spawn_wait(at) is None
        pace = pace.after_spawn(at)
    wait = pace.spawn_wait(2.0)
    assert wait is not None
    assert (wait.key, wait.bound, wait.seconds) == ("per_minute", 4, 58.0)
    assert "4 runs and spawns began in the last minute" in wait.cause
    assert pace.wait(2.0) is None, "its children keep no run of it back"
    assert pace.counts(2.0) == (1, 1)
    pace = pace.after_spawn(100.0).after_spawn(101.0)
    wait = pace.spawn_wait(200.0)
    assert wait is not None
    assert (wait.key, wait.seconds) == ("per_hour", 3400.0)
    assert pace.without_spawn().spawn_wait(200.0) is None
    assert pace.emptied().spawn_wait(200.0) is None


def test_sixteen_children_at_once_are_within_the_default_bounds() -> None:
    pace = Pace(RunBounds())
    for _ in range(16):
        assert pace.spawn_wait(0.0) is None
        pace = pace.after_spawn(0.0)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 30)), max_size=60))
def test_no_minute_has_more_spawns_than_its_bound(steps: list[tuple[bool, float]]) -> None:
    """Whatever runs there are in between, and however often it asks."""
    pace, now, spawned = Pace(RunBounds(per_minute=3, per_hour=8)), 0.0, []
    for is_spawn, gap in steps:
        now += gap
        if not is_spawn:
            pace = pace.after(now)
        elif pace.spawn_wait(now) is None:
            pace = pace.after_spawn(now)
            spawned.append(now)
    for at in spawned:
        assert sum(at - 60 < one <= at for one in spawned) <= 3
        assert sum(at - 3600 < one <= at for one in spawned) <= 8
