"""What can happen to one pod: a class each, and in `lifecycle` a row for each in each phase.

What a process did or said carries its incarnation: messages of an earlier life arrive late, by
other ways than the proof that it is gone, and must not be taken for the present one's.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.status import PodStatus
from supervisor.core.health import Verdict
from supervisor.core.restart import Exit

# -- what people and programs ask for -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """The pod is wanted up."""

    cause: str = "start asked"


@dataclass(frozen=True, slots=True)
class RestartAsked:
    """The pod is wanted up in a new process; `grace_s` for each stage, None: the policy's."""

    grace_s: float | None = None
    cause: str = "restart asked"


@dataclass(frozen=True, slots=True)
class Stop:
    """The pod is wanted down; `grace_s` for each stage, None: the policy's."""

    grace_s: float | None = None
    cause: str = "stop asked"


@dataclass(frozen=True, slots=True)
class Kill:
    """The pod is wanted down without a word."""

    cause: str = "kill asked"


# -- what became of a start: each `Fork` is answered by exactly one of these ----------------------


@dataclass(frozen=True, slots=True)
class OfIncarnation:
    """Base of what concerns one process of the pod."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class Forked(OfIncarnation):
    """There is a process."""

    pid: int


@dataclass(frozen=True, slots=True)
class ForkFailed(OfIncarnation):
    """There is no process; the next try may do better, unless the configuration is at fault."""

    message: str
    config_error: bool = False


@dataclass(frozen=True, slots=True)
class StartRefused(OfIncarnation):
    """There is no process and must not be one: a scope conflict, a missing key. Not tried again.

    `cause` is an error code or a word like one, `message` the sentence for people.
    """

    cause: str
    message: str = ""


# -- what a process says and does -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello(OfIncarnation):
    """The pod's connection is new; the first of an incarnation says that it is ready."""

    status: PodStatus
    pid: int
    endpoint: str


@dataclass(frozen=True, slots=True)
class StatusChanged(OfIncarnation):
    """The pod published or replied a status."""

    status: PodStatus


@dataclass(frozen=True, slots=True)
class Beat(OfIncarnation):
    """A beat, after `health.observe_beat` took it as newer."""

    status: PodStatus


@dataclass(frozen=True, slots=True)
class Exited(OfIncarnation):
    """The kernel says that the pod's process has ended."""

    exit: Exit


@dataclass(frozen=True, slots=True)
class TreeGone(OfIncarnation):
    """The answer to `EndTree`: nothing that the pod started is left."""


# -- time -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Silence:
    """What `health.judge` says after a tick, and the silence behind it in seconds of awake time."""

    verdict: Verdict
    silence_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed. Coming too early does no harm."""


Asked = Start | RestartAsked | Stop | Kill
Stimulus = (
    Asked
    | Forked
    | ForkFailed
    | StartRefused
    | Hello
    | StatusChanged
    | Beat
    | Exited
    | TreeGone
    | Silence
    | Tick
)
