"""What a child tells its parent. Reports travel child -> supervisor -> parent.

The supervisor writes the sender's name from its token, stores each report (128 per parent;
`errored` and `shut_down` are never dropped) and delivers it, also after the parent was away.
Receivers take them in any order and ignore an `event_id` they know. A top-level pod has nobody to
tell.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Discriminator

from protocol.base import Wire
from protocol.entries import Usage
from protocol.scope import LentRule, ScopeRule
from protocol.status import RunResult


class TurnEnded(Wire):
    """A run that reports has ended. Sent once per run, after the child's new status is set."""

    kind: Literal["turn_ended"] = "turn_ended"
    pod_name: str
    result: RunResult
    usage: Usage = Usage()


class Errored(Wire):
    """A run that reports has failed. Sent once per run, after the child's new status is set."""

    kind: Literal["errored"] = "errored"
    pod_name: str
    code: str
    message: str


class ShutDown(Wire):
    """The child is gone: once per life, handed on only when its exit is proven.

    `scope` is what it could write and its reader may again, but for what is `kept` by those that
    it had lent to.
    """

    kind: Literal["shut_down"] = "shut_down"
    pod_name: str
    cause: str
    scope: tuple[ScopeRule, ...] = ()
    kept: tuple[LentRule, ...] = ()


class ScopeSubDelegated(Wire):
    """A descendant lent scope on.

    From the supervisor to each ancestor of the spawner, never to the model.
    """

    kind: Literal["scope_sub_delegated"] = "scope_sub_delegated"
    parent_pod: str
    sub_pod: str
    scope: tuple[ScopeRule, ...] = ()


PodEvent: TypeAlias = Annotated[
    TurnEnded | Errored | ShutDown | ScopeSubDelegated, Discriminator("kind")
]

POD_EVENTS: tuple[type[Wire], ...] = (TurnEnded, Errored, ShutDown, ScopeSubDelegated)

_WAKING_RESULTS = frozenset({RunResult.FINISHED, RunResult.LIMIT_REACHED})


def is_agent_visible(event: PodEvent) -> bool:
    """Whether the model ever reads a line about this event."""
    return not isinstance(event, ScopeSubDelegated)


def wakes_parent(event: PodEvent) -> bool:
    """Whether an idle parent starts a run for it; what somebody did on purpose waits."""
    match event:
        case TurnEnded(result=result):
            return result in _WAKING_RESULTS
        case Errored() | ShutDown():
            return True
        case ScopeSubDelegated():
            return False


def line_for_model(event: PodEvent) -> str:
    """Return the one line the parent's model reads; empty for control-plane events."""
    match event:
        case TurnEnded(pod_name=name, result=RunResult.LIMIT_REACHED):
            return f"Pod {name} reached its limit; ReadPodOutput shows what it wrote."
        case TurnEnded(pod_name=name, result=RunResult.FINISHED):
            return f"Pod {name} finished a turn; ReadPodOutput shows what it wrote."
        case TurnEnded(pod_name=name, result=result):
            return f"Pod {name} ended a turn: {result}."
        case Errored(pod_name=name, code=code, message=message):
            return f"Pod {name} reported an error ({code}): {_one_line(message)[:500]}"
        case ShutDown(pod_name=name, cause=cause):
            return f"Pod {name} has stopped: {_one_line(cause)}.{_given_back(event)}"
        case ScopeSubDelegated():
            return ""


def _given_back(event: ShutDown) -> str:
    if not event.scope:
        return ""
    kept = ", ".join(f"{rule.target} (pod {rule.pod})" for rule in event.kept)
    targets = ", ".join(rule.target for rule in event.scope)
    return f" Free again: {targets}{f', but not {kept}' if kept else ''}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
