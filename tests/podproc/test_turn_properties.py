"""What stays true of the machine whatever is asked, in whatever order, however things go."""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from podproc import turn as t
from protocol import methods as m
from protocol.errors import ErrorBody, Internal
from protocol.pod_events import ScopeSubDelegated, TurnEnded
from protocol.segments import Text
from protocol.status import PodStatus, RunResult, Trigger

TARGET = m.RewindTargetId(segment_id="s", user_input_entry_index=2)
METHODS = st.sampled_from(
    [
        m.Run(input=(Text(content="hi"),)),
        m.Resume(),
        m.Notify(message="look"),
        m.Notify(message="look", auto_run=False),
        m.PodEventMethod(
            event_id="kid.1", event=TurnEnded(pod_name="kid", result=RunResult.FINISHED)
        ),
        m.PodEventMethod(
            event_id="kid.2", event=ScopeSubDelegated(parent_pod="kid", sub_pod="grandkid")
        ),
        m.Pause(),
        m.Cancel(),
        m.Compact(),
        m.ListRewindTargets(),
        m.RewindTo(target=TARGET, expected_head_entries=4),
        m.ListPods(),
        m.GetHistory(),
        m.ShutdownMethod(),
    ]
)
STARTS = (t.Begin, t.StartEngine, t.StartCompaction, t.Abandon, t.Rewind, t.Store)
AFTER = {
    RunResult.PAUSED: {PodStatus.PAUSED},
    RunResult.FINISHED: {PodStatus.IDLE, PodStatus.RUNNING},
    RunResult.LIMIT_REACHED: {PodStatus.IDLE, PodStatus.RUNNING},
    RunResult.ERRORED: {PodStatus.IDLE, PodStatus.RUNNING},
    RunResult.CANCELLED: {PodStatus.IDLE},
    RunResult.ROLLED_BACK: {PodStatus.IDLE},
}


class Shell(RuleBasedStateMachine):
    """A shell that carries everything out in its own time, and keeps books."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = t.Turn()
        self.answers: Counter[str] = Counter()
        self.asked = 0
        self.beginning: t.Begin | None = None
        self.engine: t.RunPlan | None = None
        self.closing: t.Close | None = None
        self.abandoning: list[t.Request] = []
        self.compaction = False
        self.stops: list[t.StopWish] = []
        self.published = 0
        self.ends = 0
        self.jobs = 0
        self.said = PodStatus.IDLE
        self.owed: RunResult | None = None
        self.left = False

    @initialize(status=st.sampled_from([PodStatus.IDLE, PodStatus.PAUSED]), can=st.booleans())
    def begin_life(self, status: PodStatus, can: bool) -> None:
        self.turn = t.Turn(status, can_compact=can)
        self.said = status

    # -- the world

    @rule(method=METHODS)
    def ask(self, method: m.Method) -> None:
        self.asked += 1
        request = t.Request(f"q{self.asked}", "operator", method)
        self.answers[request.id] = 0
        self.feed(t.Asked(request))

    @rule()
    def leave(self) -> None:
        self.feed(t.LeaveAsked())

    @rule()
    def leave_when_idle(self) -> None:
        self.feed(t.LeaveWhenIdle())

    @rule(trigger=st.sampled_from([Trigger.NOTIFY, Trigger.POD_EVENT]))
    def wake(self, trigger: Trigger) -> None:
        self.feed(t.Woken(trigger))

    @precondition(lambda self: self.beginning is not None)
    @rule(fails=st.booleans())
    def end_begin(self, fails: bool) -> None:
        assert self.beginning is not None
        plan, self.beginning = self.beginning.plan, None
        self.feed(t.BeginFailed(Internal("the disk is full")) if fails else t.Begun())
        if fails and plan.request is not None:
            assert self.answers[plan.request.id] == 1

    @precondition(lambda self: self.engine is not None and not self.stops)
    @rule(
        ending=st.sampled_from([e for e in t.Ending if e is not t.Ending.STOPPED]),
        output=st.booleans(),
    )
    def end_engine(self, ending: t.Ending, output: bool) -> None:
        self.over(ending, output)

    @precondition(lambda self: self.engine is not None and self.stops)
    @rule(ending=st.sampled_from(t.Ending), output=st.booleans())
    def stop_engine(self, ending: t.Ending, output: bool) -> None:
        self.over(ending, output)

    def over(self, ending: t.Ending, output: bool) -> None:
        self.engine, self.stops = None, []
        self.feed(t.RunOver(ending, output=output))

    @precondition(lambda self: self.closing is not None)
    @rule(waiting=st.booleans(), arrived=st.booleans(), fails=st.booleans(), parent=st.booleans())
    def end_close(self, waiting: bool, arrived: bool, fails: bool, parent: bool) -> None:
        self.closing = None
        error = ErrorBody(code="internal", message="the disk is full") if fails else None
        self.feed(t.Closed(waiting or arrived, arrived, parent, error))

    @precondition(lambda self: self.abandoning)
    @rule(fails=st.booleans())
    def end_abandonment(self, fails: bool) -> None:
        request = self.abandoning.pop()
        self.feed(t.Abandoned(request, Internal("the disk is full") if fails else None))

    @precondition(lambda self: self.compaction)
    @rule(works=st.booleans())
    def end_compaction(self, works: bool) -> None:
        self.compaction = False
        self.feed(t.CompactionOver("s2") if works else t.CompactionOver(error="no"))

    # -- carrying out

    def feed(self, stimulus: t.Stimulus) -> None:
        for one in self.turn.handle(stimulus):
            assert not (self.left and isinstance(one, STARTS)), f"{one} after the pod left"
            self.do(one)

    def do(self, one: t.Instruction) -> None:
        match one:
            case t.Reply(request) | t.Answer(request) | t.Rewind(request):
                self.answers[request.id] += 1
            case t.Store(request, wakes):
                self.feed(t.Stored(request, wakes))
            case t.Begin():
                assert self.beginning is None
                assert self.engine is None
                assert self.closing is None
                assert not self.compaction
                assert not self.abandoning
                self.beginning = one
            case t.PublishBegin():
                self.published += 1
            case t.StartEngine(plan, stop):
                assert self.engine is None
                self.engine, self.stops = plan, [stop] if stop else []
            case t.StopEngine(wish):
                assert self.engine is not None
                self.stops.append(wish)
            case t.Close():
                assert self.engine is None
                self.closing = one
            case t.PublishRunEnd(result=result):
                assert self.owed is None
                self.ends += 1
                self.owed = result
            case t.SetStatus(status):
                self.tell(status)
            case t.StartPostRunJobs():
                self.jobs += 1
            case t.Abandon(request):
                self.abandoning.append(request)
            case t.StartCompaction():
                assert not self.compaction
                self.compaction = True
            case t.StopCompaction():
                assert self.compaction
            case t.Leave():
                assert not self.left
                self.left = True
            case t.Report() | t.RecordChild() | t.PublishCompaction():
                pass

    def tell(self, status: PodStatus) -> None:
        if self.owed is not None:
            assert status in AFTER[self.owed]
            self.owed = None
        else:
            assert (self.said, status) not in {
                (PodStatus.RUNNING, PodStatus.IDLE),
                (PodStatus.RUNNING, PodStatus.PAUSED),
                (PodStatus.IDLE, PodStatus.PAUSED),
            }, f"from {self.said} to {status} without a run_end"
        self.said = status

    # -- what stays true

    @invariant()
    def no_request_is_answered_twice(self) -> None:
        assert max(self.answers.values(), default=0) <= 1

    @invariant()
    def every_run_that_was_published_ends_once(self) -> None:
        active = self.engine is not None or self.closing is not None
        assert self.published == self.ends + active
        assert self.jobs == self.ends

    @invariant()
    def what_was_said_is_what_is(self) -> None:
        if self.beginning is None:
            assert self.owed is None
            assert self.said is self.turn.state.status

    def teardown(self) -> None:
        """Let everything come to its end: then nobody waits any more."""
        if self.beginning is not None:
            self.end_begin(fails=False)
        if self.compaction:
            self.end_compaction(works=True)
            if self.beginning is not None:
                self.end_begin(fails=False)
        if self.engine is not None:
            self.over(t.Ending.FINISHED, output=True)
        if self.closing is not None:
            self.end_close(waiting=False, arrived=False, fails=False, parent=False)
        while self.abandoning:
            self.end_abandonment(fails=False)
        assert set(self.answers.values()) <= {1}, self.answers
        self.feed(t.LeaveAsked())
        assert self.left
        self.what_was_said_is_what_is()


Shell.TestCase.settings = Shell.TestCase.settings.__class__(
    Shell.TestCase.settings, max_examples=150, stateful_step_count=40
)
TestShell = Shell.TestCase
