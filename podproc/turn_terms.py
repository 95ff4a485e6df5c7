"""What the turn machine is told, and what it wants done: a class each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from podproc.pace import Wait
from protocol import methods as m
from protocol.calls import OPERATOR
from protocol.error_body import ErrorBody
from protocol.errors import PodsupError
from protocol.segments import Segment
from protocol.status import Flag, PodStatus, RunResult, Trigger

# -- values


class RunKind(StrEnum):
    """What sort of run: `run` and `notification` can be rolled back, `resume` cannot."""

    RUN = "run"
    RESUME = "resume"
    NOTIFICATION = "notification"


class StopWish(StrEnum):
    """Why a run is to stop, weakest first.

    Cancel beats pause in either order, shutdown beats both.
    """

    PAUSE = "pause"
    CANCEL = "cancel"
    SHUTDOWN = "shutdown"


SHUTDOWN = "shutdown"
"""The reason of a run that was cancelled because its pod leaves."""

STRENGTH = {None: 0, StopWish.PAUSE: 1, StopWish.CANCEL: 2, StopWish.SHUTDOWN: 3}


@dataclass(frozen=True, slots=True)
class Request:
    """One method as it came; `sender` is "" for the supervisor, "operator", or a pod's name."""

    id: str
    sender: str
    method: m.Method

    @property
    def pod(self) -> str | None:
        """The pod that asks; None where a person does, or the supervisor."""
        return None if self.sender in ("", OPERATOR) else self.sender


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run that was staged."""

    kind: RunKind
    trigger: Trigger
    request: Request | None = None
    input: tuple[Segment, ...] = ()

    @property
    def request_id(self) -> str | None:
        """The id that `run_end` repeats."""
        return self.request.id if self.request else None

    @property
    def pod(self) -> str | None:
        """The pod that asked for it; None where a person did, or nobody."""
        return self.request.pod if self.request else None

    @property
    def is_unasked(self) -> bool:
        """Whether it begins without a person's input; the first task has one."""
        return self.kind is RunKind.NOTIFICATION or self.pod is not None


# -- stimuli


@dataclass(frozen=True, slots=True)
class Asked:
    """A method arrived."""

    request: Request


@dataclass(frozen=True, slots=True)
class Stored:
    """A notification or child event is in the inbox; `wakes`: it may start a run of an idle pod."""

    request: Request
    wakes: bool


@dataclass(frozen=True, slots=True)
class Woken:
    """A waking notification waits in the inbox: at the start, or when a hold may be over."""

    trigger: Trigger = Trigger.NOTIFY


@dataclass(frozen=True, slots=True)
class Begun:
    """The run's first entries are on disk."""


@dataclass(frozen=True, slots=True)
class BeginFailed:
    """The run was refused by validation, or its first append failed: there is no run."""

    error: PodsupError


class Ending(StrEnum):
    """What the engine did, whatever anybody asked for."""

    FINISHED = "finished"
    LIMIT_REACHED = "limit_reached"
    STOPPED = "stopped"
    PAUSED = "paused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class RunOver:
    """The engine is done. `output`: the model, or a tool, had shown something."""

    ending: Ending
    output: bool = True
    reason: str | None = None
    error: ErrorBody | None = None


@dataclass(frozen=True, slots=True)
class Closed:
    """The run's last entries are on disk (or could not be: `error`).

    `waiting`: what the newest waking notification in the buffer starts; `arrived`: some of them
    came during this run;
    `consumed_report`: the run consumed a message its parent had queued.
    """

    waiting: Trigger | None = None
    arrived: bool = False
    consumed_report: bool = False
    error: ErrorBody | None = None


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The paused run's abandonment is on disk, or could not be logged."""

    request: Request
    error: PodsupError | None = None


@dataclass(frozen=True, slots=True)
class CompactionOver:
    """The compaction task ended; `new_segment_id` or `error`."""

    new_segment_id: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RewindOver:
    """The rewind is on disk (`result` is its reply), or nothing was changed (`error`)."""

    request: Request
    result: m.Rewound | None = None
    error: PodsupError | None = None


@dataclass(frozen=True, slots=True)
class LeaveAsked:
    """SIGTERM or SIGINT: the same as `shutdown`."""


@dataclass(frozen=True, slots=True)
class LeaveWhenIdle:
    """A hook asks to shut down once idle."""


Stimulus: TypeAlias = (
    Asked
    | Stored
    | Woken
    | Begun
    | BeginFailed
    | RunOver
    | Closed
    | Abandoned
    | CompactionOver
    | RewindOver
    | LeaveAsked
    | LeaveWhenIdle
)

# -- instructions


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer a request: with its result (None = accepted) or an error."""

    request: Request
    error: PodsupError | None = None
    result: m.Rewound | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A read, or a request that does not touch the machine: the shell answers it."""

    request: Request


@dataclass(frozen=True, slots=True)
class Store:
    """Write a notification or child event to the inbox, then say `Stored`."""

    request: Request
    wakes: bool


@dataclass(frozen=True, slots=True)
class RecordChild:
    """A control-plane event: the tools' list of children only."""

    request: Request


class ClosePrevious(StrEnum):
    """What a new run does about an interruption that is still open."""

    RESULTS = "results"
    RESULTS_AND_NOTE = "results_and_note"


@dataclass(frozen=True, slots=True)
class Begin:
    """Commit the run's first entries, durably; then say `Begun` or `BeginFailed`."""

    plan: RunPlan
    close: ClosePrevious


@dataclass(frozen=True, slots=True)
class PublishBegin:
    """Publish the committed first entries of the run."""


@dataclass(frozen=True, slots=True)
class SetStatus:
    """Publish the status and its flags."""

    status: PodStatus
    flags: tuple[Flag, ...] = ()


@dataclass(frozen=True, slots=True)
class Hold:
    """No notification run may begin now: tell people, and say `Woken` when the wait is over."""

    wait: Wait


@dataclass(frozen=True, slots=True)
class EndHold:
    """A run begins after all: take back what people were told."""


@dataclass(frozen=True, slots=True)
class StartEngine:
    """Start the turn loop as a task; `stop` when somebody already asked for it."""

    plan: RunPlan
    stop: StopWish | None = None


@dataclass(frozen=True, slots=True)
class StopEngine:
    """Close the stream and end the tools within 2 s; the outcome comes as `RunOver`."""

    wish: StopWish


@dataclass(frozen=True, slots=True)
class Close:
    """Commit the end of the run (or take the run back whole), then say `Closed`."""

    plan: RunPlan
    result: RunResult
    reason: str | None = None
    error: ErrorBody | None = None
    abandon: bool = False


@dataclass(frozen=True, slots=True)
class PublishRunEnd:
    """Publish `run_end` (after `error` where it failed)."""

    plan: RunPlan
    result: RunResult
    reason: str | None = None
    error: ErrorBody | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Tell the parent how the run ended."""

    result: RunResult
    error: ErrorBody | None = None


@dataclass(frozen=True, slots=True)
class StartPostRunJobs:
    """Start background work that follows every run."""

    result: RunResult


@dataclass(frozen=True, slots=True)
class Abandon:
    """Commit the abandonment of the paused run, then say `Abandoned`."""

    request: Request


@dataclass(frozen=True, slots=True)
class StartCompaction:
    """Start a compaction as a task of its own."""

    request: Request


@dataclass(frozen=True, slots=True)
class StopCompaction:
    """Stop it; nothing changes; the outcome comes as `CompactionOver`."""


@dataclass(frozen=True, slots=True)
class PublishCompaction:
    """Publish how the compaction ended."""

    new_segment_id: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Rewind:
    """Take the session back as asked, then say `RewindOver`."""

    request: Request


@dataclass(frozen=True, slots=True)
class PublishRewind:
    """Publish what the rewind left and took."""

    result: m.Rewound


@dataclass(frozen=True, slots=True)
class Leave:
    """Take no new work, join the jobs, close everything, exit."""


Instruction: TypeAlias = (
    Reply
    | Answer
    | Store
    | RecordChild
    | Begin
    | PublishBegin
    | SetStatus
    | Hold
    | EndHold
    | StartEngine
    | StopEngine
    | Close
    | PublishRunEnd
    | Report
    | StartPostRunJobs
    | Abandon
    | StartCompaction
    | StopCompaction
    | PublishCompaction
    | Rewind
    | PublishRewind
    | Leave
)
