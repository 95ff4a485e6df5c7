"""Every word for a state or an outcome, once.

The same word stands in code, on the wire and on the screen.
"""

from __future__ import annotations

from enum import StrEnum


class PodStatus(StrEnum):
    """The state of a pod. The first three are the pod's own word, the others the supervisor's."""

    IDLE = "idle"
    RUNNING = "running"
    PAUSED = "paused"
    DEFINED = "defined"
    STARTING = "starting"
    UNREACHABLE = "unreachable"
    STOPPING = "stopping"
    STOPPED = "stopped"
    BACKOFF = "backoff"
    FAILED = "failed"


READY = frozenset({PodStatus.IDLE, PodStatus.RUNNING, PodStatus.PAUSED})
"""The pod answers: its session is restored, its tools are usable, its link is up."""

ALIVE = READY | {PodStatus.STARTING, PodStatus.UNREACHABLE, PodStatus.STOPPING}
"""There is, or may be, a process."""

ENDED = frozenset({PodStatus.STOPPED, PodStatus.FAILED})
"""There is no process, and nobody will start one without being asked."""


class Flag(StrEnum):
    """What stands beside a status. `waiting` means: for a person."""

    BUSY = "busy"
    SUSPECT = "suspect"
    SLOW = "slow"
    WAITING = "waiting"


class RunResult(StrEnum):
    """How a run ended."""

    FINISHED = "finished"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    LIMIT_REACHED = "limit_reached"
    ROLLED_BACK = "rolled_back"
    ERRORED = "errored"


class TurnResult(StrEnum):
    """How one request with its tool round ended."""

    FINISHED = "finished"
    PAUSED = "paused"
    INTERRUPTED = "interrupted"


class Trigger(StrEnum):
    """What started a run."""

    USER_SEND = "user_send"
    RESUME = "resume"
    NOTIFY = "notify"
    POD_EVENT = "pod_event"
    SYSTEM_REMINDER = "system_reminder"
    WAKEUP = "wakeup"


class AlertLevel(StrEnum):
    """How much an alert matters to a person."""

    WARN = "warn"
    ERROR = "error"


class AlertSource(StrEnum):
    """Who raised an alert."""

    POD = "pod"
    ENGINE = "engine"
    COMPACTOR = "compactor"
    AGENTS_MD = "agents_md"
    SUPERVISOR = "supervisor"


class Lane(StrEnum):
    """The three lanes of a pod's events; `seq` counts per lane and incarnation, from 1."""

    STATE = "state"
    LOG = "log"
    STREAM = "stream"


class Relation(StrEnum):
    """What a visible pod is to the one that looks."""

    SELF = "self"
    CHILD = "child"
    DESCENDANT = "descendant"
    PEER = "peer"


class OperationState(StrEnum):
    """The states of long work that was answered with an operation id."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
