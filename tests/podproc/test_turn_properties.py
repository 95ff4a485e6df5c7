"""What stays true of the machine whatever is asked, in whatever order, however things go."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from podproc import turn_terms as t
from podproc.turn import Turn
from protocol import methods as m
from protocol.error_body import ErrorBody
from protocol.errors import Internal
from protocol.events import RewindSummary
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


REWOUND = m.Rewound(
    segment_id="s1",
    head_entries=1,
    input=(),
    summary=RewindSummary(discarded_entries=1, discarded_turns=0, tools_ran=0),
)


@dataclass(frozen=True)
class World:
    """Something that is under way comes to its end, if anything is; `luck` says which and how."""

    luck: int


CHANCES = (t.LeaveAsked(), t.LeaveWhenIdle(), t.Woken(Trigger.POD_EVENT))
steps = st.lists(
    st.one_of(
        METHODS,
        METHODS,
        st.builds(World, st.integers(0, 4095)),
        st.builds(World, st.integers(0, 4095)),
        st.integers(0, 59).map(lambda n: CHANCES[n] if n < len(CHANCES) else World(n)),
    ),
    min_size=10,
    max_size=60,
)
statuses = st.sampled_from([PodStatus.IDLE, PodStatus.PAUSED])


class Shell:
    """A shell that carries everything out in its own time, and keeps books."""

    def __init__(self, status: PodStatus) -> None:
        self.turn = Turn(status)
        self.answers: Counter[str] = Counter()
        self.beginning: t.Begin | None = None
        self.engine: t.RunPlan | None = None
        self.closing: t.Close | None = None
        self.abandoning: list[t.Request] = []
        self.compaction = False
        self.rewind: t.Request | None = None
        self.stops: list[t.StopWish] = []
        self.published = 0
        self.ends = 0
        self.jobs = 0
        self.said = status
        self.owed: RunResult | None = None
        self.left = False

    # -- the world

    def take(self, step: m.Method | World | t.Stimulus) -> None:
        """Take one step, and look whether all is as it should be."""
        match step:
            case m.Method():
                request = t.Request(f"q{len(self.answers)}", "operator", step)
                self.answers[request.id] = 0
                self.feed(t.Asked(request))
            case World(luck):
                self.settle(luck)
            case _:
                self.feed(step)
        self.look()

    def settle(self, luck: int) -> bool:
        """Let one thing end that is under way; False where there is none."""
        under_way = [
            settle
            for settle, is_on in (
                (self.end_begin, self.beginning is not None),
                (self.end_engine, self.engine is not None),
                (self.end_close, self.closing is not None),
                (self.end_abandonment, bool(self.abandoning)),
                (self.end_compaction, self.compaction),
                (self.end_rewind, self.rewind is not None),
            )
            if is_on
        ]
        if under_way:
            under_way[luck % len(under_way)](luck // 8)
        return bool(under_way)

    def end_begin(self, luck: int) -> None:
        self.beginning = None
        fails = luck % 4 == 1
        self.feed(t.BeginFailed(Internal("the disk is full")) if fails else t.Begun())

    def end_engine(self, luck: int) -> None:
        endings = [e for e in t.Ending if self.stops or e is not t.Ending.STOPPED]
        self.engine, self.stops = None, []
        self.feed(t.RunOver(endings[luck % len(endings)], output=luck % 16 < 8))

    def end_close(self, luck: int) -> None:
        self.closing = None
        error = ErrorBody(code="internal", message="the disk is full") if luck % 8 == 1 else None
        arrived, consumed = luck % 16 < 4, luck % 32 < 8
        waiting = Trigger.POD_EVENT if arrived or luck % 16 < 8 else None
        self.feed(t.Closed(waiting, arrived, consumed, error))

    def end_abandonment(self, luck: int) -> None:
        error = Internal("the disk is full") if luck % 4 == 1 else None
        self.feed(t.Abandoned(self.abandoning.pop(), error))

    def end_compaction(self, luck: int) -> None:
        self.compaction = False
        self.feed(t.CompactionOver(error="no") if luck % 2 else t.CompactionOver("s2"))

    def end_rewind(self, luck: int) -> None:
        assert self.rewind is not None
        request, self.rewind = self.rewind, None
        error = Internal("the disk is full")
        self.feed(
            t.RewindOver(request, error=error) if luck % 2 else t.RewindOver(request, REWOUND)
        )

    # -- carrying out

    def feed(self, stimulus: t.Stimulus) -> None:
        for one in self.turn.handle(stimulus):
            assert not (self.left and isinstance(one, STARTS)), f"{one} after the pod left"
            self.do(one)

    def do(self, one: t.Instruction) -> None:
        match one:
            case t.Reply(request) | t.Answer(request):
                self.answers[request.id] += 1
            case t.Rewind(request):
                assert self.rewind is None
                assert not self.compaction
                self.rewind = request
            case t.Store(request, wakes):
                self.feed(t.Stored(request, wakes))
            case t.Begin():
                assert self.beginning is None
                assert self.engine is None
                assert self.closing is None
                assert not self.compaction
                assert self.rewind is None
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
                assert self.rewind is None
                self.compaction = True
            case t.StopCompaction():
                assert self.compaction
            case t.Leave():
                assert not self.left
                self.left = True
            case t.Report() | t.RecordChild() | t.PublishCompaction() | t.PublishRewind():
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

    def look(self) -> None:
        assert max(self.answers.values(), default=0) <= 1, "a request was answered twice"
        active = self.engine is not None or self.closing is not None
        assert self.published == self.ends + active
        assert self.jobs == self.ends
        if self.beginning is None:
            assert self.owed is None, "a run_end without a status"
            assert self.said is self.turn.state.status


@settings(max_examples=300)
@given(statuses, steps)
def test_whatever_happens_runs_end_once_and_requests_are_answered_once(
    status: PodStatus, steps: list[m.Method | World | t.Stimulus]
) -> None:
    shell = Shell(status)
    for step in steps:
        shell.take(step)
    shell.take(t.LeaveAsked())
    while shell.settle(luck=0):
        shell.look()
    assert shell.left
    assert set(shell.answers.values()) <= {1}, "a request was never answered"
