"""The error tree. Every failure that crosses a boundary is one of these.

Each has one code, both ways.

    PodsupError                     carries code, message, details, next_step
     ├─ StateRefused                the target's state does not allow it
     │   ├─ AlreadyRunning          details: trigger, request_id?
     │   ├─ NotRunning
     │   └─ NotPaused
     ├─ BadRequest                  the request itself is wrong
     │   ├─ InvalidRequest
     │   ├─ InvalidScope
     │   ├─ TooLarge                details: size, limit
     │   └─ UnsupportedVersion      details: theirs, ours
     ├─ NotAllowed                  the sender lacks the authority
     │   ├─ Forbidden
     │   ├─ NotSubset               details: rule
     │   └─ WrongToken
     ├─ Unknown
     │   ├─ UnknownPod              details: pod, known
     │   └─ NotVisible
     ├─ Clash                       somebody else has it
     │   ├─ Conflict
     │   ├─ WriteConflict           details: holders [{pod, pid, age_s, rule, holder_rule}]
     │   ├─ DuplicatePod            details: holder
     │   └─ SegmentConflict         details: holder
     ├─ NoAnswer                    safe to repeat with the same id
     │   ├─ Unreachable
     │   ├─ Timeout
     │   ├─ Overloaded
     │   └─ Interrupted
     └─ Failure                     it was tried and went wrong
         ├─ ProviderError
         ├─ ToolError
         ├─ BudgetExhausted
         └─ Internal

`code` is what programs branch on, `message` what people read, `details` the evidence, `next_step` a
command or an action. An unknown code from a newer peer becomes `Internal` with the foreign code in
its details.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from protocol.error_body import ErrorBody


class ErrorCode(StrEnum):
    """Every error code of the wire."""

    ALREADY_RUNNING = "already_running"
    NOT_RUNNING = "not_running"
    NOT_PAUSED = "not_paused"
    PROVIDER_ERROR = "provider_error"
    TOOL_ERROR = "tool_error"
    INVALID_REQUEST = "invalid_request"
    FORBIDDEN = "forbidden"
    UNKNOWN_POD = "unknown_pod"
    UNREACHABLE = "unreachable"
    NOT_VISIBLE = "not_visible"
    CONFLICT = "conflict"
    WRITE_CONFLICT = "write_conflict"
    DUPLICATE_POD = "duplicate_pod"
    SEGMENT_CONFLICT = "segment_conflict"
    NOT_SUBSET = "not_subset"
    INVALID_SCOPE = "invalid_scope"
    WRONG_TOKEN = "wrong_token"
    INTERRUPTED = "interrupted"
    OVERLOADED = "overloaded"
    BUDGET_EXHAUSTED = "budget_exhausted"
    TOO_LARGE = "too_large"
    UNSUPPORTED_VERSION = "unsupported_version"
    TIMEOUT = "timeout"
    INTERNAL = "internal"


class PodsupError(Exception):
    """A failure with a code, evidence and a next step. Subclasses fix the code."""

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL

    def __init__(self, message: str, *, next_step: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step
        self.details: dict[str, Any] = {k: v for k, v in details.items() if v is not None}

    def to_body(self) -> ErrorBody:
        """Return the wire form; imported here, so that an error costs no model to define."""
        from protocol.error_body import ErrorBody

        return ErrorBody(
            code=self.code, message=self.message, details=self.details or None, next=self.next_step
        )


class StateRefused(PodsupError):
    """The target's present state does not allow the request."""


class AlreadyRunning(StateRefused):
    """A run or a compaction is in progress; details say what started it."""

    code = ErrorCode.ALREADY_RUNNING


class NotRunning(StateRefused):
    """There is no run to stop."""

    code = ErrorCode.NOT_RUNNING


class NotPaused(StateRefused):
    """There is no paused run to resume."""

    code = ErrorCode.NOT_PAUSED


class BadRequest(PodsupError):
    """The request itself is wrong; repeating it cannot help."""


class InvalidRequest(BadRequest):
    """A parameter, method or reference that cannot be understood or resolved."""

    code = ErrorCode.INVALID_REQUEST


class InvalidScope(BadRequest):
    """A scope rule that is not canonical or not meaningful."""

    code = ErrorCode.INVALID_SCOPE


class TooLarge(BadRequest):
    """A message over a limit; details carry `size` and `limit` in bytes."""

    code = ErrorCode.TOO_LARGE


class UnsupportedVersion(BadRequest):
    """A message of another major version; details carry `theirs` and `ours`."""

    code = ErrorCode.UNSUPPORTED_VERSION


class NotAllowed(PodsupError):
    """The sender has no authority for this."""


class Forbidden(NotAllowed):
    """The sender may not address this target or use this method."""

    code = ErrorCode.FORBIDDEN


class NotSubset(NotAllowed):
    """Asked for more than the giver may give."""

    code = ErrorCode.NOT_SUBSET


class WrongToken(NotAllowed):
    """The token does not match the one that was given out."""

    code = ErrorCode.WRONG_TOKEN


class Unknown(PodsupError):
    """The target does not exist for the sender."""


class UnknownPod(Unknown):
    """No pod has this name."""

    code = ErrorCode.UNKNOWN_POD


class NotVisible(Unknown):
    """The pod exists and the sender may not see it."""

    code = ErrorCode.NOT_VISIBLE


class Clash(PodsupError):
    """Somebody else holds what was asked for."""


class Conflict(Clash):
    """The target changed, or is in use, since the sender looked."""

    code = ErrorCode.CONFLICT


class WriteConflict(Clash):
    """Another allocation may write there; details list every holder."""

    code = ErrorCode.WRITE_CONFLICT


class DuplicatePod(Clash):
    """A live pod has this name."""

    code = ErrorCode.DUPLICATE_POD


class SegmentConflict(Clash):
    """A live pod writes this session segment."""

    code = ErrorCode.SEGMENT_CONFLICT


class NoAnswer(PodsupError):
    """No answer was had; repeating with the same id is safe."""


class Unreachable(NoAnswer):
    """The target is gone, stopped, or not taking messages."""

    code = ErrorCode.UNREACHABLE


class Timeout(NoAnswer):
    """The deadline passed; the work may still go on."""

    code = ErrorCode.TIMEOUT


class Overloaded(NoAnswer):
    """Too much is waiting already; nothing was queued."""

    code = ErrorCode.OVERLOADED


class Interrupted(NoAnswer):
    """A crash cut the work; its outcome is unknown."""

    code = ErrorCode.INTERRUPTED


class Failure(PodsupError):
    """It was tried and went wrong."""


class ProviderError(Failure):
    """The model provider failed: its answer, its stream or its silence."""

    code = ErrorCode.PROVIDER_ERROR


class ToolError(Failure):
    """A tool or hook aborted the run. (A tool that merely fails is a result.)"""

    code = ErrorCode.TOOL_ERROR


class BudgetExhausted(Failure):
    """A budget is used up."""

    code = ErrorCode.BUDGET_EXHAUSTED


class Internal(Failure):
    """Everything that has no better name; a defect, or the machine."""

    code = ErrorCode.INTERNAL


def _leaves(cls: type[PodsupError]) -> list[type[PodsupError]]:
    below = cls.__subclasses__()
    return [leaf for sub in below for leaf in _leaves(sub)] if below else [cls]


BY_CODE: Mapping[str, type[PodsupError]] = {leaf.code.value: leaf for leaf in _leaves(PodsupError)}
"""The one class of each code; the tests hold it against `ErrorCode` in both directions."""
