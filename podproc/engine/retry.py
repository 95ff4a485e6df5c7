"""When a failed request is tried again, and after how long. Pure: the dice are passed in."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.manifest import Retry


@dataclass(frozen=True, slots=True)
class Wait:
    """Try again after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not try again; `why` in words."""

    why: str


def after_failure(
    rule: Retry,
    *,
    failed_attempt: int,
    elapsed_s: float,
    retryable: bool,
    retry_after_s: float | None,
    dice: float,
) -> Wait | GiveUp:
    """Decide after the n-th failed attempt (from 1); `dice` in [0, 1) gives full jitter."""
    if not retryable:
        return GiveUp("this failure is not worth a retry")
    if failed_attempt >= rule.attempts:
        return GiveUp(f"{failed_attempt} attempts failed")
    if retry_after_s is not None:
        wait = retry_after_s
    else:
        wait = min(rule.cap_s, rule.base_s * 2 ** (failed_attempt - 1)) * dice
    if elapsed_s + wait > rule.total_s:
        return GiveUp(f"the next attempt would come {elapsed_s + wait:.1f} s after the first")
    return Wait(wait)
