"""What the fleet is told, and what it wants done: a class each. `Fleet.handle` joins them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from protocol import control as c
from protocol import events as ev
from protocol.base import Wire
from protocol.methods import News
from protocol.pod_events import PodEvent
from protocol.status import PodStatus
from supervisor.core import instructions as li
from supervisor.core import stimuli as s
from supervisor.core.life import Desired
from supervisor.core.member import Tombstone

# -- stimuli


@dataclass(frozen=True, slots=True)
class PodStimulus:
    """Something happened to one pod."""

    pod: str
    what: s.Stimulus


@dataclass(frozen=True, slots=True)
class Refused:
    """A start was refused; `details` is the evidence, such as who holds what it would write."""

    pod: str
    refusal: s.StartRefused
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Hello:
    """A pod's connection introduced itself; its token was checked.

    `session` holds the session and segment id it was given at birth: they are told once they are
    begun.
    """

    pod: str
    hello: c.Hello
    session: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Beat:
    """A beat arrived."""

    pod: str
    incarnation: int
    seq: int
    status: PodStatus
    progress: c.Progress
    state_seq: int
    notification_runs: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class StatusHeard:
    """A reply's header carried the pod's status."""

    pod: str
    incarnation: int
    status: PodStatus
    state_seq: int


@dataclass(frozen=True, slots=True)
class SegmentMoved:
    """The pod's claim was moved to the segment in which its session goes on."""

    pod: str
    incarnation: int
    session_id: str
    segment_id: str


@dataclass(frozen=True, slots=True)
class EventHeard:
    """An event of a pod's state lane; `lane_seq` is the origin's number."""

    pod: str
    incarnation: int
    lane_seq: int
    event: ev.Event


@dataclass(frozen=True, slots=True)
class TaskAnswered:
    """The pod took its task, or refused it."""

    pod: str
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A control of an operator or pod whose right to it was checked."""

    request_id: str
    sender: str
    control: c.Control


@dataclass(frozen=True, slots=True)
class Begun:
    """The supervisor is up: start these pods, as the operation its starter waits for."""

    operation: str
    kind: str
    pods: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Spawned:
    """A pod was added while the fleet runs: start it, as an operation.

    `stop_jobs`: commands of its parent that stand in the way of the lend are ended.
    """

    request_id: str
    pod: str
    stop_jobs: bool = False


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A spawn was refused before anything of the pod was alive: it never was."""

    pod: str


@dataclass(frozen=True, slots=True)
class Released:
    """The pod's claim was given back, and those it was lent from are told."""

    pod: str


@dataclass(frozen=True, slots=True)
class ReportAnswered:
    """A parent took reports, or could not be reached; `final`: it will never take them."""

    parent: str
    event_ids: tuple[str, ...]
    final: bool = True


@dataclass(frozen=True, slots=True)
class EndAsked:
    """A signal, not a client, asks for the end of the fleet."""

    cause: str


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time passed, and every message that had come by then was handled."""

    elapsed_s: float
    tick_s: float


Stimulus: TypeAlias = (
    PodStimulus
    | Refused
    | Hello
    | Beat
    | StatusHeard
    | SegmentMoved
    | EventHeard
    | TaskAnswered
    | Asked
    | Begun
    | Spawned
    | Withdrawn
    | Released
    | ReportAnswered
    | EndAsked
    | Ticked
)

# -- instructions


@dataclass(frozen=True, slots=True)
class ForPod:
    """Something the lifecycle wants done for one pod."""

    pod: str
    what: li.Instruction


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish the fleet's own event about a pod ("" = the fleet)."""

    pod: str
    incarnation: int
    event: ev.Event


@dataclass(frozen=True, slots=True)
class DeliverTask:
    """Send the task as `run` with request id `task`; answered by `TaskAnswered`."""

    pod: str
    task: str


@dataclass(frozen=True, slots=True)
class StoreReport:
    """Write down that a parent is to be told this; `while_away`: it came while it was at rest."""

    parent: str
    event_id: str
    event: PodEvent
    while_away: bool = False


@dataclass(frozen=True, slots=True)
class ForgetReports:
    """Write down that these need not be told any more."""

    parent: str
    event_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeliverReport:
    """Send a report to a parent; answered by `ReportAnswered`."""

    parent: str
    event_id: str
    event: PodEvent


@dataclass(frozen=True, slots=True)
class DeliverNews:
    """Send a parent what it missed, as one notification that wakes nobody.

    Answered by `ReportAnswered` with these ids.
    """

    parent: str
    request_id: str
    heading: str
    news: tuple[News, ...]


@dataclass(frozen=True, slots=True)
class SaveFamily:
    """Write down a pod's parent, its peers and its tombstones."""

    pod: str
    parent: str | None
    peers: tuple[str, ...]
    tombstones: tuple[Tombstone, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer a control."""

    request_id: str
    sender: str
    body: Wire
    ok: bool = True
    method: str = ""


@dataclass(frozen=True, slots=True)
class Wish:
    """Write down what is wanted of a pod from now on."""

    pod: str
    desired: Desired


@dataclass(frozen=True, slots=True)
class SaveTasked:
    """Write down that the pod has its task."""

    pod: str


@dataclass(frozen=True, slots=True)
class Forget:
    """The pod's record leaves the fleet."""

    pod: str


@dataclass(frozen=True, slots=True)
class EndFleet:
    """Every pod is gone and nobody wants the supervisor any more.

    `code` is the fleet's exit code.
    """

    code: int
    cause: str


Instruction: TypeAlias = (
    ForPod
    | Publish
    | DeliverTask
    | StoreReport
    | ForgetReports
    | DeliverReport
    | DeliverNews
    | SaveFamily
    | Reply
    | Wish
    | SaveTasked
    | Forget
    | EndFleet
)
