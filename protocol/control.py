"""What may be asked of the supervisor, and by whom.

`rights` says who may use a control at all: an `operator`, a `pod`, or both; what a pod may aim it
at (only below itself) is checked by the broker. Long work is answered at once with
`Started{operation}`: the operation's id is the request's id, its progress comes as `operation`
events on the fleet's state lane, and a fleet snapshot still lists it, so that it can be awaited
again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from protocol.base import Accepted, Wire
from protocol.methods import Inspected, PeersRegistered, PodRows
from protocol.pod_events import PodEvent
from protocol.scope import LentRule, ScopeRule
from protocol.status import Flag, PodStatus
from protocol.summaries import Sandbox, ScopeSummary, Usage

OPERATOR = frozenset({"operator"})
POD = frozenset({"pod"})
ANYONE = OPERATOR | POD


class Started(Wire):
    """Long work has begun; await the operation by this id.

    A pod has no ear for the fleet's events: it is answered when the work is done, with its result.
    """

    operation: str
    result: dict[str, Any] | None = None


class Control(Wire):
    """Base of all controls."""

    method: ClassVar[str]
    reply: ClassVar[type[Wire]] = Started
    rights: ClassVar[frozenset[str]] = OPERATOR
    changes: ClassVar[bool] = True


class Shown(Wire):
    """Base of what is printed as it is: a figure that is not there is null, not left out."""

    def to_wire(self) -> dict[str, Any]:
        """Return plain data, nulls among it."""
        return self.model_dump(mode="json", by_alias=True)


# -- from a pod


class Resume(Wire):
    """What a pod found when it opened its session."""

    status: PodStatus
    session_id: str | None = None
    segment_id: str | None = None
    turn: int = 0
    context_tokens: int = 0
    context_window: int = 0
    usage: Usage = Usage()
    tasked: bool = False


class Welcome(Wire):
    """The reply to `hello`: what this pod has lent out, and the number of that statement."""

    lent: tuple[LentRule, ...] = ()
    number: int = 0


class Hello(Control):
    """First message of every connection of a pod; binds the connection to its token."""

    method: ClassVar[str] = "hello"
    reply: ClassVar[type[Wire]] = Welcome
    rights: ClassVar[frozenset[str]] = POD

    pod: str
    incarnation: int
    endpoint: str
    pid: int
    resume: Resume
    sandbox: Sandbox = Sandbox()


class ClaimSegment(Control):
    """Before a rotation or fork: move the claim on the session to the new segment."""

    method: ClassVar[str] = "claim_segment"
    reply: ClassVar[type[Wire]] = Accepted
    rights: ClassVar[frozenset[str]] = POD

    session_id: str
    segment_id: str


class ReportUp(Control):
    """A report for this pod's parent, answered once it is stored; idempotent by `event_id`."""

    method: ClassVar[str] = "pod_event"
    reply: ClassVar[type[Wire]] = Accepted
    rights: ClassVar[frozenset[str]] = POD

    event_id: str
    event: PodEvent


class SeenPods(Control):
    """All pods that this pod sees: itself, its descendants, its peers."""

    method: ClassVar[str] = "list_pods"
    reply: ClassVar[type[Wire]] = PodRows
    rights: ClassVar[frozenset[str]] = POD
    changes: ClassVar[bool] = False


class SeenPod(Control):
    """One pod that this pod sees, closely."""

    method: ClassVar[str] = "inspect_pod"
    reply: ClassVar[type[Wire]] = Inspected
    rights: ClassVar[frozenset[str]] = POD
    changes: ClassVar[bool] = False

    name: str


# -- reads


class Progress(Wire):
    """What a pod is doing, and since when (epoch milliseconds).

    The same value until it does something else.
    """

    what: str
    since_ms: int = 0


class LastExit(Wire):
    """How the latest process of a pod ended; `at` in epoch milliseconds."""

    code: int | None = None
    signal: str | None = None
    cause: str
    at: int


class PsRow(Wire):
    """One pod in `ps`; figures are None where there is nothing to show."""

    name: str
    status: PodStatus
    flags: tuple[Flag, ...] = ()
    pid: int | None = None
    incarnation: int = 0
    parent: str | None = None
    model: str = ""
    started_at: int | None = None
    age_s: float | None = None
    restarts: int = 0
    last_exit: LastExit | None = None
    turn: int = 0
    context_tokens: int = 0
    context_window: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    beat_age_s: float | None = None
    progress: Progress | None = None
    scope: ScopeSummary = ScopeSummary()


class SupervisorRow(Wire):
    """The supervisor's own figures."""

    pid: int
    version: str
    uptime_s: float
    lag_ms: float


class Ps(Shown):
    """The fleet as a table."""

    fleet: str
    supervisor: SupervisorRow
    pods: tuple[PsRow, ...] = ()


class ListFleet(Control):
    """The fleet as a table: `podsup ps`."""

    method: ClassVar[str] = "list"
    reply: ClassVar[type[Wire]] = Ps
    rights: ClassVar[frozenset[str]] = ANYONE
    changes: ClassVar[bool] = False


class Figure(Wire):
    """How many there are now, and how many there may be."""

    now: int
    most: int


class PodCaps(Wire):
    """How far a pod has used its caps.

    `children` are the live pods it is the parent of, `tree` those below its top-level pod, and
    `depth` is its own: that of a top-level pod is 0. The other two count the runs that began
    without a person's input.
    """

    children: Figure
    tree: Figure
    depth: Figure
    notification_runs_per_minute: Figure
    notification_runs_per_hour: Figure


class StatusRow(PsRow):
    """One pod, closely: the row, and what the supervisor knows besides."""

    children: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    usage: Usage = Usage()
    sandbox: Sandbox = Sandbox()
    caps: PodCaps | None = None
    last_error: str | None = None
    endpoint: str | None = None
    session_id: str | None = None
    segment_id: str | None = None
    state_seq: int = 0
    reason: str = ""


class StatusOf(Control):
    """One pod, closely: `podsup status`."""

    method: ClassVar[str] = "status"
    reply: ClassVar[type[Wire]] = StatusRow
    rights: ClassVar[frozenset[str]] = ANYONE
    changes: ClassVar[bool] = False

    pod: str


class StoryLine(Wire):
    """One step of a pod's life; `at` in epoch milliseconds, `why` the cause of the change."""

    at: int
    incarnation: int
    before: PodStatus
    after: PodStatus
    why: str


class Story(Shown):
    """The causal chain of a pod's state, oldest first."""

    pod: str
    status: PodStatus
    lines: tuple[StoryLine, ...]
    stderr_tail: str = ""


class Why(Control):
    """How a pod came to its state: `podsup why`."""

    method: ClassVar[str] = "why"
    reply: ClassVar[type[Wire]] = Story
    changes: ClassVar[bool] = False

    pod: str


class Allocated(Wire):
    """One row of the scope table, without its token."""

    home: str
    pod: str
    incarnation: int
    pid: int | None = None
    supervisor: str = ""
    scope_allow: tuple[ScopeRule, ...] = ()
    scope_deny: tuple[ScopeRule, ...] = ()
    delegated_from: str | None = None
    session_id: str | None = None
    segment_id: str | None = None
    state: str = "reserved"


class Allocations(Shown):
    """All rows of the scope table of this user."""

    allocations: tuple[Allocated, ...]


class Locks(Control):
    """Who may write where: `podsup locks`."""

    method: ClassVar[str] = "locks"
    reply: ClassVar[type[Wire]] = Allocations
    changes: ClassVar[bool] = False


class EndpointInfo(Wire):
    """Where the fleet's events are published, and the epoch of this supervisor."""

    endpoint: str
    epoch: int


class EventsEndpoint(Control):
    """Where to subscribe for the fleet's events."""

    method: ClassVar[str] = "events_endpoint"
    reply: ClassVar[type[Wire]] = EndpointInfo
    rights: ClassVar[frozenset[str]] = ANYONE
    changes: ClassVar[bool] = False


class Pong(Wire):
    """The supervisor lives."""

    fleet: str
    workspace: str
    pid: int
    version: str
    uptime_s: float
    epoch: int


class Ping(Control):
    """Ask whether the supervisor answers."""

    method: ClassVar[str] = "ping"
    reply: ClassVar[type[Wire]] = Pong
    rights: ClassVar[frozenset[str]] = ANYONE
    changes: ClassVar[bool] = False


class LogsTail(Wire):
    """The end of a pod's process output, and where the file is."""

    path: str
    text: str


class LogsTailOf(Control):
    """The end of the output of a pod's latest (or an earlier) process."""

    method: ClassVar[str] = "logs_tail"
    reply: ClassVar[type[Wire]] = LogsTail
    changes: ClassVar[bool] = False

    pod: str
    lines: int = Field(default=50, ge=1, le=10_000)
    previous: bool = False


class Stats(Control):
    """The rows of `list`, with figures of each process tree."""

    method: ClassVar[str] = "stats"
    reply: ClassVar[type[Wire]] = Ps
    changes: ClassVar[bool] = False


class Approval(Wire):
    """A tool call that waits for a person."""

    id: str
    pod: str
    tool: str
    summary: str = ""
    deadline_ms: int | None = None


class ApprovalList(Wire):
    """All that waits for a person."""

    approvals: tuple[Approval, ...] = ()


class Approvals(Control):
    """What waits for a person."""

    method: ClassVar[str] = "approvals"
    reply: ClassVar[type[Wire]] = ApprovalList
    changes: ClassVar[bool] = False


# -- changes

Grace = Annotated[float | None, Field(ge=0, le=86_400, allow_inf_nan=False)]
"""Seconds for each stage of a stop; None: what the pod's manifest says."""


class Spawn(Control):
    """One more pod. `table` is a `[[pod]]` table as in a fleet file, with absolute paths."""

    method: ClassVar[str] = "spawn"
    rights: ClassVar[frozenset[str]] = ANYONE

    table: dict[str, Any]
    parent: str | None = None
    stop_jobs: bool = False


class Stop(Control):
    """Stop pods in the three stages; `all_pods` instead of names means each of them."""

    method: ClassVar[str] = "stop"
    rights: ClassVar[frozenset[str]] = ANYONE

    pods: tuple[str, ...] = ()
    all_pods: bool = False
    grace_s: Grace = None


class Kill(Control):
    """SIGKILL to pods and everything they started; not restarted."""

    method: ClassVar[str] = "kill"
    rights: ClassVar[frozenset[str]] = ANYONE

    pods: tuple[str, ...]


class Restart(Control):
    """Stop and start pods, or start stopped and failed ones; sessions continue."""

    method: ClassVar[str] = "restart"

    pods: tuple[str, ...]
    grace_s: Grace = None


class Restore(Control):
    """Start a stopped pod from its stored manifest and session."""

    method: ClassVar[str] = "restore"
    rights: ClassVar[frozenset[str]] = ANYONE

    pod: str


class Delete(Control):
    """Forget stopped pods; their sessions stay on disk."""

    method: ClassVar[str] = "delete"

    pods: tuple[str, ...]


class RegisterPeers(Control):
    """Make two pods see each other, without ownership: `podsup peer`."""

    method: ClassVar[str] = "register_peer"
    reply: ClassVar[type[Wire]] = PeersRegistered
    rights: ClassVar[frozenset[str]] = ANYONE

    source: str
    peer: str


class Reclaimed(Shown):
    """What settling the dead came to: the rows that are gone, and those that are left, with why."""

    reclaimed: tuple[str, ...] = ()
    left: dict[str, str] = Field(default_factory=dict)


class Reclaim(Control):
    """Settle the dead in the scope table now, of all fleets of this user or one pod of this one."""

    method: ClassVar[str] = "reclaim"
    reply: ClassVar[type[Wire]] = Reclaimed

    pod: str | None = None


class Apply(Control):
    """Bring the fleet to the given pods."""

    method: ClassVar[str] = "apply"

    pods: tuple[dict[str, Any], ...]
    dry_run: bool = False


class Drain(Control):
    """Take no new work; returns when all runs have ended."""

    method: ClassVar[str] = "drain"


class Down(Control):
    """Stop the fleet and the supervisor."""

    method: ClassVar[str] = "down"

    grace_s: Grace = None


class Reload(Control):
    """New code, same pods."""

    method: ClassVar[str] = "reload"


class ApprovalAnswer(Control):
    """Allow or deny a waiting tool call."""

    method: ClassVar[str] = "approval_answer"
    reply: ClassVar[type[Wire]] = Accepted

    id: str
    allow: bool


CONTROLS: Mapping[str, type[Control]] = {cls.method: cls for cls in Control.__subclasses__()}
"""The class of each control name."""


def decode_control(name: str, data: Any) -> Control:
    """Return the typed control.

    Raises KeyError for an unknown name, ValidationError for bad parameters.
    """
    return CONTROLS[name].from_wire(data if data is not None else {})
