"""What a pod's lifecycle wants done. The shell does it in the order given, and decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from protocol.events import StateEvent

SignalName = Literal["SIGTERM", "SIGCONT", "SIGKILL"]


@dataclass(frozen=True, slots=True)
class Fork:
    """Claim or renew the scope, and fork.

    Always answered, by one of `Forked`, `ForkFailed` and `StartRefused`.
    """

    incarnation: int


@dataclass(frozen=True, slots=True)
class SendShutdown:
    """Send the `shutdown` method; an answer is not awaited."""

    grace_ms: int


@dataclass(frozen=True, slots=True)
class DumpStacks:
    """Have the process write the stacks of its threads to its log."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Signal the process, or it and everything below it; no process: nothing to do."""

    name: SignalName
    whole_tree: bool = False


@dataclass(frozen=True, slots=True)
class EndTree:
    """Kill whatever the dead pod has left behind, until nothing is; answered by `TreeGone`."""


@dataclass(frozen=True, slots=True)
class Release:
    """Give the scope claim back, if one is held: the pod is proven gone, no restart is due."""


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish an event on the fleet's state lane."""

    event: StateEvent


@dataclass(frozen=True, slots=True)
class PublishBackoff:
    """Publish `pod_backoff`; apart from `Publish` because its `until` is a wall-clock time."""

    wait_s: float
    attempt: int


@dataclass(frozen=True, slots=True)
class TellParent:
    """The pod has ended and is not started again: its parent may know, and write there."""

    cause: str


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Give the pod a `Tick` at this monotonic time; it replaces what was asked before."""

    at: float


Instruction = (
    Fork
    | SendShutdown
    | DumpStacks
    | Signal
    | EndTree
    | Release
    | Publish
    | PublishBackoff
    | TellParent
    | WakeAt
)
