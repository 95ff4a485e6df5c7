"""The Idle/Running/Paused machine of one pod: methods and outcomes in, instructions out. Pure.

`Turn.handle(stimulus) -> [instruction]` is the only thing that changes the state. The shell carries
the instructions out in the order given; what can fail or takes time (a log append, a run, a
compaction) comes back as a stimulus. So a run lives like this:

    Asked(run) ─► Begin ─► (append) ─► Begun ─► publish, reply, StartEngine
               ─► RunOver ─► Close ─► (append) ─► Closed ─► run_end, status, report, what is next

The status is `running` from the moment a run is staged: a second `run` is refused, and a cancel or
pause reaches it even before its first request. What each method does in each column is `METHODS`,
how a run ends is `run_end_of`; a row that is not there does not exist.

A run without a person's input begins only where `pace` has room. Otherwise a notification run is
held until there is (`Hold`), and a pod that asked for a run is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from podproc.pace import EMPTY, Pace
from podproc.turn_table import (
    METHODS,
    NEXT_STATUS,
    Column,
    Do,
    is_told,
    run_end_of,
)
from podproc.turn_terms import (
    STRENGTH,
    Abandon,
    Abandoned,
    Answer,
    Asked,
    Begin,
    BeginFailed,
    Begun,
    Close,
    Closed,
    ClosePrevious,
    CompactionOver,
    EndHold,
    Hold,
    Instruction,
    Leave,
    LeaveAsked,
    LeaveWhenIdle,
    PublishBegin,
    PublishCompaction,
    PublishRewind,
    PublishRunEnd,
    RecordChild,
    Reply,
    Report,
    Request,
    Rewind,
    RewindOver,
    RunKind,
    RunOver,
    RunPlan,
    SetStatus,
    StartCompaction,
    StartEngine,
    StartPostRunJobs,
    Stimulus,
    StopCompaction,
    StopEngine,
    StopWish,
    Store,
    Stored,
    Woken,
)
from protocol import methods as m
from protocol.calls import OPERATOR
from protocol.error_body import ErrorBody
from protocol.errors import (
    AlreadyRunning,
    Conflict,
    InvalidRequest,
    NotPaused,
    NotRunning,
    PodsupError,
    Unreachable,
)
from protocol.pod_events import is_agent_visible, wakes_parent
from protocol.status import Flag, PodStatus, RunResult, Trigger

# -- the machine


@dataclass(frozen=True, slots=True)
class TurnState:
    """All the machine remembers. `status` is the pod's own word of `PodStatus`.

    `before` is what it was when the present run was staged: one that cannot begin changes nothing.
    `pace` counts the runs without a person's input; `holding`: one of them waits for room in it.
    """

    status: PodStatus = PodStatus.IDLE
    before: PodStatus = PodStatus.IDLE
    plan: RunPlan | None = None
    begun: bool = False
    stop: StopWish | None = None
    ending: tuple[RunResult, str | None, ErrorBody | None] | None = None
    compacting: bool = False
    rewinding: bool = False
    held: RunPlan | None = None
    abandoning: bool = False
    leaving: bool = False
    leave_when_idle: bool = False
    pace: Pace = EMPTY
    holding: bool = False

    @property
    def column(self) -> Column:
        """The column of the method table."""
        if self.status is PodStatus.IDLE:
            return Column.COMPACTING if self.is_aside else Column.IDLE
        return Column.RUNNING if self.status is PodStatus.RUNNING else Column.PAUSED

    @property
    def is_aside(self) -> bool:
        """Whether something other than a run is at work on the log: a compaction, a rewind."""
        return self.compacting or self.rewinding

    @property
    def flags(self) -> tuple[Flag, ...]:
        """What stands beside the status."""
        return (Flag.BUSY,) if self.compacting else ()


class Turn:
    """The machine, begun with the status and the pace that the log says."""

    def __init__(self, status: PodStatus = PodStatus.IDLE, pace: Pace | None = None) -> None:
        self.state = TurnState(status=status, pace=pace or EMPTY)
        self._now = 0.0

    def handle(self, stimulus: Stimulus, now: float = 0.0) -> list[Instruction]:
        """Take one stimulus and return what to do, in order; `now` is of the pace's clock."""
        self._now = now
        match stimulus:
            case Asked(request):
                return self._on_asked(request)
            case Stored(request, wakes):
                wakes = wakes or self.state.holding
                return [Reply(request), *self._wake(wakes, _trigger_of(request))]
            case Woken(trigger):
                return self._wake(True, trigger)
            case Begun():
                return self._on_begun()
            case BeginFailed(error):
                return self._on_begin_failed(error)
            case RunOver():
                return self._on_run_over(stimulus)
            case Closed():
                return self._on_closed(stimulus)
            case Abandoned(request, error):
                return self._on_abandoned(request, error)
            case CompactionOver(segment, error_text):
                return self._on_compaction_over(segment, error_text)
            case RewindOver():
                return self._on_rewind_over(stimulus)
            case LeaveAsked():
                return self._leave()
            case LeaveWhenIdle():
                return self._on_leave_when_idle()

    def spawn(self, now: float) -> PodsupError | None:
        """Count one more spawn of the pod; returns why there may be none now."""
        wait = self.state.pace.spawn_wait(now)
        if wait is None:
            self._set(pace=self.state.pace.after_spawn(now))
            return None
        return Conflict(
            f"no further pod may be spawned now: {wait.cause}; there is room in "
            f"{wait.seconds:.0f} s",
            next_step="give the next task to a child that is there, or wait; an operator may raise "
            f"supervisor.max_notification_runs.{wait.key}",
            key=f"max_notification_runs.{wait.key}",
            most=wait.most,
        )

    def spawn_refused(self) -> None:
        """Take back the last spawn: it did not come about."""
        self._set(pace=self.state.pace.without_spawn())

    def _set(self, **changes: object) -> None:
        self.state = replace(self.state, **changes)  # type: ignore[arg-type]

    # -- methods

    def _on_asked(self, request: Request) -> list[Instruction]:
        state = self.state
        row = METHODS[type(request.method)]
        do = row[list(Column).index(state.column)]
        if state.leaving and do is not Do.LEAVE and type(request.method).changes:
            return [Reply(request, Unreachable("the pod is leaving and takes no new work"))]
        if do in _TAKES_INPUT and request.sender == OPERATOR:
            self._set(pace=state.pace.emptied())
        match do:
            case Do.STAGE_RUN if state.abandoning:
                return [Reply(request, self._already("a paused run is being abandoned"))]
            case Do.STAGE_RUN | Do.HOLD_RUN | Do.STAGE_RESUME if refusal := self._too_often(
                request
            ):
                return [Reply(request, refusal)]
            case Do.STAGE_RUN:
                return self._stage(_run_plan(request))
            case Do.HOLD_RUN if state.held is not None:
                return [Reply(request, self._already(f"a run waits; {self._aside()}"))]
            case Do.HOLD_RUN:
                self._set(held=_run_plan(request))
                return []
            case Do.STAGE_RESUME if state.abandoning:
                return [Reply(request, NotPaused("the paused run is being abandoned"))]
            case Do.STAGE_RESUME:
                plan = RunPlan(RunKind.RESUME, Trigger.RESUME, request)
                return self._stage(plan)
            case Do.BUFFER:
                return self._buffer(request)
            case Do.ACCEPT:
                return [Reply(request)]
            case Do.PAUSE_RUN:
                return [Reply(request), *self._stop(StopWish.PAUSE)]
            case Do.CANCEL_RUN:
                return [Reply(request), *self._stop(StopWish.CANCEL)]
            case Do.STOP_COMPACTION if state.rewinding:
                return [Reply(request, self._refusal(Do.REFUSE_NOT_RUNNING, request))]
            case Do.STOP_COMPACTION:
                return [Reply(request), StopCompaction()]
            case Do.ABANDON if state.abandoning:
                return [Reply(request)]
            case Do.ABANDON:
                self._set(abandoning=True)
                return [Abandon(request)]
            case Do.COMPACT:
                self._set(compacting=True)
                status = SetStatus(PodStatus.IDLE, self.state.flags)
                return [Reply(request), StartCompaction(request), status]
            case Do.REWIND:
                self._set(rewinding=True)
                return [Rewind(request)]
            case Do.ANSWER:
                return [Answer(request)]
            case Do.LEAVE:
                return [Reply(request), *self._leave()]
            case _:
                return [Reply(request, self._refusal(do, request))]

    def _refusal(self, do: Do, request: Request) -> PodsupError:
        match do:
            case Do.REFUSE_NOT_RUNNING:
                return NotRunning(f"there is no run to {request.method.method}; the pod is idle")
            case Do.REFUSE_NOT_PAUSED:
                return NotPaused("there is no paused run to resume; the pod is idle")
            case Do.REFUSE_COMPACT:
                return self._already(f"{self._aside()}; compact and rewind want an idle pod")
            case Do.REFUSE_WHILE_PAUSED:
                return InvalidRequest(
                    f"{request.method.method} is not possible while a run is paused; "
                    "resume it or start a fresh run first"
                )
            case _:
                return self._already(
                    "a run is in progress; pause or cancel it, or wait for its end"
                )

    def _too_often(self, request: Request) -> PodsupError | None:
        """Return why a pod may not have this one run now; a person always may."""
        wait = self.state.pace.wait(self._now) if request.pod is not None else None
        if wait is None:
            return None
        return Conflict(
            f"it may not run for another pod now: {wait.cause}; there is room in "
            f"{wait.seconds:.0f} s, and queue=true leaves the message until then",
            next_step="wait, or podsup run the pod as an operator",
            key=f"max_notification_runs.{wait.key}",
            most=wait.most,
        )

    def _aside(self) -> str:
        if self.state.rewinding:
            return "a rewind is being applied"
        return "a compaction runs" if self.state.compacting else "a run is in progress"

    def _already(self, message: str) -> AlreadyRunning:
        plan = self.state.plan or self.state.held
        return AlreadyRunning(
            message,
            trigger=plan.trigger.value if plan else None,
            request_id=plan.request_id if plan else None,
        )

    def _buffer(self, request: Request) -> list[Instruction]:
        match request.method:
            case m.PodEventMethod(event=event):
                if not is_agent_visible(event):
                    return [RecordChild(request), Reply(request)]
                return [Store(request, wakes_parent(event))]
            case m.Notify(auto_run=auto_run):
                return [Store(request, auto_run)]
            case _:
                raise AssertionError(request.method.method)

    # -- a run

    def _wake(self, wakes: bool, trigger: Trigger) -> list[Instruction]:
        state = self.state
        if not wakes or state.leaving or state.status is not PodStatus.IDLE:
            return []
        plan = RunPlan(RunKind.NOTIFICATION, trigger)
        if state.is_aside:
            self._set(held=state.held or plan)
            return []
        if (wait := state.pace.wait(self._now)) is not None:
            self._set(holding=True)
            return [Hold(wait)]
        return self._stage(plan)

    def _stage(self, plan: RunPlan) -> list[Instruction]:
        resumed = plan.kind is RunKind.RESUME
        pace, holding = self.state.pace, self.state.holding
        self._set(
            pace=pace.after(self._now) if plan.is_unasked else pace,
            holding=False,
            status=PodStatus.RUNNING,
            before=self.state.status,
            plan=plan,
            begun=False,
            stop=None,
            ending=None,
            held=None,
        )
        close = ClosePrevious.RESULTS if resumed else ClosePrevious.RESULTS_AND_NOTE
        return [*([EndHold()] if holding else []), Begin(plan, close)]

    def _on_begun(self) -> list[Instruction]:
        plan = self._plan()
        self._set(begun=True)
        reply = [Reply(plan.request)] if plan.request else []
        return [
            PublishBegin(),
            SetStatus(PodStatus.RUNNING, self.state.flags),
            *reply,
            StartEngine(plan, self.state.stop),
        ]

    def _on_begin_failed(self, error: PodsupError) -> list[Instruction]:
        plan, before = self._plan(), self.state.before
        self._set(status=before, plan=None, stop=None)
        told: list[Instruction] = (
            [Reply(plan.request, error)] if plan.request else [SetStatus(before, self.state.flags)]
        )
        return [*told, *self._leave_if_due()]

    def _stop(self, wish: StopWish) -> list[Instruction]:
        if STRENGTH[wish] <= STRENGTH[self.state.stop]:
            return []
        self._set(stop=wish)
        running = self.state.begun and self.state.ending is None
        return [StopEngine(wish)] if running else []

    def _on_run_over(self, over: RunOver) -> list[Instruction]:
        plan = self._plan()
        result, reason = run_end_of(plan, self.state.stop, over)
        self._set(ending=(result, reason, over.error))
        abandon = (
            plan.kind is RunKind.RESUME
            and result is RunResult.CANCELLED
            and self.state.stop is StopWish.CANCEL
            and not over.output
        )
        return [Close(plan, result, reason, over.error, abandon)]

    def _on_closed(self, closed: Closed) -> list[Instruction]:
        plan = self._plan()
        assert self.state.ending is not None
        result, reason, error = self.state.ending
        if closed.error is not None:
            result, reason, error = RunResult.ERRORED, None, closed.error
        status = NEXT_STATUS[result]
        reports = is_told(plan.trigger, consumed_parents=closed.consumed_report)
        self._set(status=status, plan=None, begun=False, stop=None, ending=None)
        out: list[Instruction] = [PublishRunEnd(plan, result, reason, error)]
        nexts = self._after(plan, result, closed)
        if not nexts or isinstance(nexts[0], Leave | Hold):
            out.append(SetStatus(status, self.state.flags))
        if reports:
            out.append(Report(result, error))
        return [*out, StartPostRunJobs(result), *nexts]

    def _after(self, plan: RunPlan, result: RunResult, closed: Closed) -> list[Instruction]:
        if leave := self._leave_if_due():
            return leave
        match result:
            case RunResult.FINISHED | RunResult.LIMIT_REACHED:
                again = closed.waiting is not None
            case RunResult.ERRORED:
                again = closed.arrived and plan.kind is not RunKind.NOTIFICATION
            case _:
                again = False
        return self._wake(again, closed.waiting or Trigger.NOTIFY)

    def _plan(self) -> RunPlan:
        assert self.state.plan is not None, "an outcome without a run"
        return self.state.plan

    # -- the rest

    def _on_abandoned(self, request: Request, error: PodsupError | None) -> list[Instruction]:
        self._set(abandoning=False)
        if error is not None:
            return [Reply(request, error), *self._leave_if_due()]
        self._set(status=PodStatus.IDLE)
        return [SetStatus(PodStatus.IDLE, self.state.flags), Reply(request), *self._leave_if_due()]

    def _on_compaction_over(self, segment: str | None, error: str | None) -> list[Instruction]:
        self._set(compacting=False)
        idle = SetStatus(PodStatus.IDLE, self.state.flags)
        return [PublishCompaction(segment, error), *self._aside_over([idle])]

    def _on_rewind_over(self, over: RewindOver) -> list[Instruction]:
        self._set(rewinding=False)
        reply = Reply(over.request, over.error, over.result)
        if over.result is None:
            return [reply, *self._aside_over([])]
        idle = SetStatus(PodStatus.IDLE, self.state.flags)
        return [PublishRewind(over.result), idle, reply, *self._aside_over([])]

    def _aside_over(self, idle: Sequence[Instruction]) -> list[Instruction]:
        """Go on with what waited for the log; `idle` is said unless the pod leaves."""
        held = self.state.held
        self._set(held=None)
        by_hook = self.state.leave_when_idle and (held is None or held.request is None)
        if self.state.leaving or by_hook:
            self._set(leaving=True)
            gone = Unreachable("the pod is leaving")
            return [*([Reply(held.request, gone)] if held and held.request else []), Leave()]
        if held is not None and held.kind is RunKind.NOTIFICATION:
            return [*idle, *self._wake(True, held.trigger)]
        return [*idle, *(self._stage(held) if held is not None else [])]

    def _leave_if_due(self) -> list[Instruction]:
        """Leave where somebody asked for it, or a hook did and the pod is idle now."""
        if self.state.leave_when_idle and self.state.status is PodStatus.IDLE:
            self._set(leaving=True)
        return [Leave()] if self.state.leaving else []

    def _on_leave_when_idle(self) -> list[Instruction]:
        self._set(leave_when_idle=True)
        state = self.state
        if state.status is not PodStatus.IDLE or state.is_aside or state.leaving:
            return []
        return self._leave()

    def _leave(self) -> list[Instruction]:
        if self.state.leaving:
            return []
        self._set(leaving=True)
        if self.state.rewinding or self.state.abandoning:
            return []
        if self.state.compacting:
            return [StopCompaction()]
        if self.state.status is PodStatus.RUNNING:
            return self._stop(StopWish.SHUTDOWN)
        return [Leave()]


_TAKES_INPUT = (Do.STAGE_RUN, Do.HOLD_RUN, Do.STAGE_RESUME, Do.BUFFER)
"""What a method of a person does that counts as input."""


def _run_plan(request: Request) -> RunPlan:
    assert isinstance(request.method, m.Run)
    return RunPlan(RunKind.RUN, Trigger.USER_SEND, request, request.method.input)


def _trigger_of(request: Request) -> Trigger:
    is_event = isinstance(request.method, m.PodEventMethod)
    return Trigger.POD_EVENT if is_event else Trigger.NOTIFY
