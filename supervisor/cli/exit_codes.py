"""What an exit code means, and which error ends a command with which."""

from __future__ import annotations

from protocol.errors import ErrorCode as E
from protocol.errors import PodsupError, Unreachable
from protocol.status import RunResult

DONE = 0
FAILED = 1
USAGE = 2
NOT_RUNNING = 3
NO_SUPERVISOR = 4
CONFIGURATION = 5
CONFLICT = 6
UNKNOWN_POD = 7
TIMED_OUT = 8
FLEET_FAILED = 9
BUDGET = 10
WAITING = 11
NOT_ALLOWED = 12
INTERRUPTED = 130

OF_ERROR: dict[str, int] = {
    E.NOT_RUNNING: NOT_RUNNING,
    E.NOT_PAUSED: NOT_RUNNING,
    E.UNREACHABLE: NOT_RUNNING,
    E.ALREADY_RUNNING: CONFLICT,
    E.CONFLICT: CONFLICT,
    E.WRITE_CONFLICT: CONFLICT,
    E.DUPLICATE_POD: CONFLICT,
    E.SEGMENT_CONFLICT: CONFLICT,
    E.UNKNOWN_POD: UNKNOWN_POD,
    E.NOT_VISIBLE: UNKNOWN_POD,
    E.TIMEOUT: TIMED_OUT,
    E.INVALID_REQUEST: USAGE,
    E.INVALID_SCOPE: USAGE,
    E.TOO_LARGE: USAGE,
    E.FORBIDDEN: NOT_ALLOWED,
    E.NOT_SUBSET: NOT_ALLOWED,
    E.WRONG_TOKEN: NOT_ALLOWED,
    E.BUDGET_EXHAUSTED: BUDGET,
    E.PROVIDER_ERROR: FAILED,
    E.TOOL_ERROR: FAILED,
    E.INTERNAL: FAILED,
    E.INTERRUPTED: FAILED,
    E.OVERLOADED: FAILED,
    E.UNSUPPORTED_VERSION: FAILED,
}


def code_of(error: PodsupError) -> int:
    """Return the exit code of an error; `unreachable` is 4 for the supervisor and 3 for a pod."""
    if isinstance(error, Unreachable) and "pod" not in error.details:
        return NO_SUPERVISOR if _is_about_supervisor(error) else NOT_RUNNING
    return OF_ERROR.get(error.code, FAILED)


def _is_about_supervisor(error: Unreachable) -> bool:
    return bool(error.details.get("supervisor"))


def code_of_run(result: str, reason: str | None) -> int:
    """Return the exit code of a waited run; `exited` means that its pod is gone."""
    if result == RunResult.FINISHED:
        return DONE
    if result == "exited":
        return NOT_RUNNING
    return BUDGET if reason == "budget" else FAILED
