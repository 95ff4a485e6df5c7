"""Whether, and when, a pod whose process ended is started again.

An exit is a *success*, a *failure* or a *configuration error*. The policy says which of the first
two are followed by a restart; a configuration error never is, since the next start would meet it
again.

The first restart is immediate: most crashes do not repeat. From the second on the pod waits 0.5 s,
and twice as long each time up to 30 s. What ends the series is a *healthy minute*, 60 s of being
ready, and nothing else: a pod that comes up and crashes at once, for ever, must not find its
counter at zero each time. The restart that would be the sixth within 60 s is not made, the pod is
given up.

Jitter shortens a wait by up to half, so that pods which fell together do not rise together.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum

from protocol.manifest import Restart

HEALTHY_S = 60.0
"""Ready for so long, and earlier restarts no longer count."""

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0

WINDOW_S = 60.0
MOST_RESTARTS = 5
"""More restarts than this within the window are a pod that cannot run."""

EX_CONFIG = 78
"""The exit code by which a pod says that its configuration is wrong (sysexits.h)."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: by `code`, by `signal` (a name, `SIGKILL`); both None: unknown.

    `cause` is the short word for people, `message` the evidence (the last lines of its log).
    """

    code: int | None
    signal: str | None
    cause: str
    config_error: bool = False
    message: str = ""


class ExitKind(StrEnum):
    """What an exit means to the policy."""

    SUCCESS = "success"
    FAILURE = "failure"
    CONFIG_ERROR = "config_error"


def classify(exited: Exit, success_codes: Collection[int]) -> ExitKind:
    """Return what the exit means; one by signal, or by nobody knows what, is a failure."""
    if exited.config_error or exited.code == EX_CONFIG:
        return ExitKind.CONFIG_ERROR
    if exited.code in success_codes:
        return ExitKind.SUCCESS
    return ExitKind.FAILURE


@dataclass(frozen=True, slots=True)
class RestartHistory:
    """How many restarts there were since the last healthy minute, and when the latest were."""

    attempts: int = 0
    times: tuple[float, ...] = ()

    def restarted(self, now: float) -> RestartHistory:
        """Return the history with one more restart, made at `now`."""
        latest = (*self.times, now)[-MOST_RESTARTS:]
        return RestartHistory(attempts=self.attempts + 1, times=latest)

    def after_ready(self, ready_s: float) -> RestartHistory:
        """Return what still counts after the pod was ready for `ready_s` seconds on end."""
        return replace(self, attempts=0) if ready_s >= HEALTHY_S else self


@dataclass(frozen=True, slots=True)
class RestartNow:
    """Start it again at once."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Start it again after `wait_s` seconds; it is restart number `attempt` of the series."""

    wait_s: float
    attempt: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Leave it ended: it failed."""

    cause: str


@dataclass(frozen=True, slots=True)
class Stay:
    """Leave it ended: it is done."""

    cause: str


Decision = RestartNow | Backoff | GiveUp | Stay


def decide(
    exited: Exit,
    history: RestartHistory,
    *,
    policy: Restart,
    success_codes: Collection[int],
    now: float,
    jitter: float,
) -> Decision:
    """Return what follows an exit; `jitter` in [0, 1) is the caller's die.

    The caller records a restart, when it makes one, with `RestartHistory.restarted`.
    """
    match classify(exited, success_codes):
        case ExitKind.CONFIG_ERROR:
            return GiveUp(exited.cause)
        case ExitKind.SUCCESS if policy is not Restart.ALWAYS:
            return Stay(exited.cause)
        case ExitKind.FAILURE if policy is Restart.NEVER:
            return GiveUp(exited.cause)
    wait_s = _wait_s(history.attempts, jitter)
    recent = sum(time > now + wait_s - WINDOW_S for time in history.times)
    if recent >= MOST_RESTARTS:
        return GiveUp(f"{recent} restarts in {WINDOW_S:g} s, the last exit: {exited.cause}")
    return Backoff(wait_s, history.attempts + 1) if wait_s else RestartNow()


def _wait_s(attempts: int, jitter: float) -> float:
    if attempts == 0:
        return 0.0
    doublings = min(attempts - 1, 10)  # 2.0 ** a year of restarts would overflow
    return min(FIRST_WAIT_S * 2.0**doublings, LONGEST_WAIT_S) * (1 - jitter / 2)
