"""Long work that was answered with an operation id: what it waits for, and how it ended. Pure.

An operation is over when what it waits for is true of every pod it names; what that is stands in
one table by kind. The latest hundred stay listed, so that a client that reconnects can still learn
how its went.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from protocol.error_body import ErrorBody
from protocol.errors import ErrorCode
from protocol.events import Operation as OperationEvent
from protocol.snapshot import OperationRecord
from protocol.status import OperationState, PodStatus
from supervisor.core.family import kept_below
from supervisor.core.life import NO_PROCESS, Phase
from supervisor.core.member import Member

KEPT = 100
NAMED = 5
SAY_EVERY_S = 0.25

Verdict = str | None
"""None: still waiting. "": well. Anything else: what went wrong."""


@dataclass(slots=True)
class Operation:
    """One piece of long work.

    `since` maps each pod to its incarnation when the work was asked for.
    """

    id: str
    kind: str
    pods: tuple[str, ...]
    since: Mapping[str, int]
    state: OperationState = OperationState.RUNNING
    message: str = ""
    error: ErrorBody | None = None
    said: str = ""
    said_at: float = 0.0
    waiting: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)

    def event(self) -> OperationEvent:
        """The event that tells its present state."""
        return OperationEvent(
            id=self.id,
            state=self.state.value,
            kind=self.kind,
            pods=self.pods,
            message=self.message,
            result=self._result(),
            error=self.error,
        )

    def record(self) -> OperationRecord:
        """The form a fleet snapshot lists."""
        return OperationRecord(
            id=self.id,
            kind=self.kind,
            pods=self.pods,
            state=self.state.value,
            message=self.message,
            result=self._result(),
            error=self.error.to_wire() if self.error else None,
        )

    def _result(self) -> dict[str, Any] | None:
        if self.state is OperationState.RUNNING:
            return None
        return {"failures": self.failures, "codes": self.codes, **self.result}


def look(operation: Operation, members: Mapping[str, Member], touched: Iterable[str]) -> bool:
    """Look at the pods something happened to.

    True, with the operation's end set, when all are done.
    """
    waits_for = WAITS_FOR[operation.kind]
    for name in touched:
        if name not in operation.since:
            continue
        member = members.get(name)
        verdict = "" if member is None else waits_for(member, operation.since[name])
        operation.waiting.pop(name, None)
        operation.failures.pop(name, None)
        if verdict is None:
            assert member is not None
            operation.waiting[name] = _blocker(member)
        elif verdict:
            operation.failures[name] = verdict
            operation.codes[name] = member.life.cause if member is not None else ""
    if operation.waiting:
        operation.message = _waiting_for(operation.waiting)
        return False
    operation.message = ""
    operation.state = OperationState.DONE
    if operation.kind in ("stop", "kill"):
        operation.result |= _freed(operation, members)
    if operation.failures:
        operation.state = OperationState.FAILED
        operation.error = _error_of(operation, members)
    return True


def _error_of(operation: Operation, members: Mapping[str, Member]) -> ErrorBody:
    """The first failure's code and evidence, and what failed of each."""
    name = next(pod for pod in operation.pods if pod in operation.failures)
    evidence = members[name].refusal if name in members else {}
    code = operation.codes.get(name, "")
    known = code if code in ErrorCode.__members__.values() else ErrorCode.INTERNAL
    return ErrorBody(
        code=known,
        message="; ".join(_told(operation.failures)),
        details={
            **evidence,
            **_tail_of(members.get(name)),
            "pods": dict(operation.failures),
            "causes": dict(operation.codes),
        },
        next=evidence.get("mend") or f"podsup why {name}",
    )


def _told(failures: Mapping[str, str]) -> Iterator[str]:
    """Yield each reason once, with the pods that failed of it."""
    for text in dict.fromkeys(failures.values()):
        yield f"{', '.join(pod for pod, why in failures.items() if why == text)}: {text}"


def _freed(operation: Operation, members: Mapping[str, Member]) -> dict[str, Any]:
    """What each of the pods could write, and what of it others go on to write."""
    there = [members[name] for name in operation.pods if name in members]
    kept = {
        one.name: {rule.target: rule.pod for rule in kept_below(members, one.name)} for one in there
    }
    return {
        "reclaimed": {one.name: [r.target for r in one.writes()] for one in there if one.writes()},
        "kept": {name: rules for name, rules in kept.items() if rules},
    }


def _tail_of(member: Member | None) -> dict[str, str]:
    """The end of what the pod's process printed, where one has ended."""
    last = member.life.last_exit if member is not None else None
    return {"stderr_tail": last.message} if last is not None and last.message else {}


def _waiting_for(waiting: Mapping[str, str]) -> str:
    named = list(waiting.values())[:NAMED]
    more = len(waiting) - len(named)
    return "waiting for " + ", ".join(named) + (f" and {more} more" if more else "")


def _blocker(member: Member) -> str:
    stage = f" ({member.life.stage})" if member.life.stage else ""
    return f"{member.name} [{member.life.phase}{stage}, pid {member.life.pid}]"


def _gone(member: Member, since: int) -> Verdict:
    if member.life.incarnation > since:
        return f"started again: {member.life.cause}"
    at_rest = member.life.phase in NO_PROCESS and member.life.phase is not Phase.BACKOFF
    return "" if at_rest and not member.releasing else None


def _ready(member: Member, since: int) -> Verdict:
    if member.life.phase is Phase.FAILED:
        return None if member.releasing else member.life.reason
    if member.life.phase is Phase.STOPPED:
        return f"stopped: {member.life.cause}"
    if not member.is_ready or member.life.incarnation <= since:
        return None
    if member.task_error is not None:
        return (
            f"its task was not accepted: {member.task_error}; the pod lives: "
            f"podsup run {member.name} TEXT, or podsup stop {member.name}"
        )
    return None if member.is_task_due else ""


def _idle(member: Member, since: int) -> Verdict:
    verdict = _ready(member, since)
    if verdict == "" and member.life.status not in (PodStatus.IDLE, PodStatus.PAUSED):
        return None
    return verdict


def _at_once(member: Member, since: int) -> Verdict:
    return ""


WAITS_FOR: Mapping[str, Callable[[Member, int], Verdict]] = {
    "start": _ready,
    "start idle": _idle,
    "spawn": _ready,
    "restart": _ready,
    "restore": _ready,
    "stop": _gone,
    "kill": _gone,
    "down": _gone,
    "delete": _at_once,
    "reclaim": _at_once,
}
"""What each kind of operation waits for."""
