"""How long a pod has been silent, and what that says about it.

A beat comes every second from the pod's own loop: it proves that the loop turns, and says what the
pod is doing since when. Silence is the time since the newest beat, measured in *awake time*: the
supervisor's tick adds what passed since the last one, but never more than two ticks. A supervisor
that was stopped, or a laptop that slept, thereby learns that it was away and not that its fleet is
dead. Two things belong to that, and are the caller's: a tick counts after every message that is
waiting has been read, and a beat counts from its arrival, not from any time written in it.

A tick before which a beat came adds nothing. Silence is thus understated by one tick at most, and
never overstated: the two ticks of a long sleep stay below the three beats that make a pod suspect.

No *progress* is another matter. A pod that works on the same thing for long is `slow`: people see
it and nobody acts on it, unless a stall timeout is set. Idle and paused pods have none to make.

Silence proves nothing about life: death is seen through the kernel, and only that frees a scope.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from protocol.control import Progress
from protocol.status import Flag, PodStatus

SUSPECT_AFTER_BEATS = 3


class Verdict(StrEnum):
    """What silence, or no progress, says about a pod; the worst that is true."""

    OK = "ok"
    SUSPECT = "suspect"
    UNREACHABLE = "unreachable"
    STALL = "stall"
    HANG = "hang"


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """From when on silence means something, in seconds; for the two timeouts 0 means never."""

    beat_interval_s: float = 1.0
    unreachable_after_s: float = 10.0
    hang_timeout_s: float = 60.0
    stall_timeout_s: float = 0.0
    slow_after_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of one incarnation by its beats; a new incarnation starts with a new one.

    `silence_s` and `still_s` are awake time: since the newest beat, and since the latest progress.
    `fresh` says that a beat came since the last tick.
    """

    seq: int = 0
    silence_s: float = 0.0
    still_s: float = 0.0
    fresh: bool = True
    working: bool = False
    progress: Progress | None = None
    heard_at: float | None = None

    def beat_age_s(self, now: float) -> float | None:
        """Return the seconds since the newest beat, asleep or awake; None before the first."""
        return None if self.heard_at is None else max(0.0, now - self.heard_at)


def observe_beat(
    health: Health, seq: int, *, status: PodStatus, progress: Progress, now: float
) -> Health:
    """Return the health after a beat at `now`; one that is not newer changes nothing."""
    if seq <= health.seq:
        return health
    working = status is PodStatus.RUNNING
    at_the_same = working and progress == health.progress
    return Health(
        seq=seq,
        still_s=health.still_s if at_the_same else 0.0,
        working=working,
        progress=progress,
        heard_at=now,
    )


def tick(health: Health, elapsed_s: float, *, tick_s: float) -> Health:
    """Return the health after a tick: `elapsed_s` since the last one, planned were `tick_s`.

    To be called when all messages that had arrived by then are observed.
    """
    awake_s = max(0.0, min(elapsed_s, 2 * tick_s))
    return replace(
        health,
        silence_s=0.0 if health.fresh else health.silence_s + awake_s,
        still_s=health.still_s + awake_s if health.working else 0.0,
        fresh=False,
    )


def judge(health: Health, limits: HealthLimits) -> Verdict:
    """Return what the health says now."""
    silence_s = health.silence_s
    if 0 < limits.hang_timeout_s <= silence_s:
        return Verdict.HANG
    if 0 < limits.stall_timeout_s <= health.still_s:
        return Verdict.STALL
    if silence_s >= limits.unreachable_after_s:
        return Verdict.UNREACHABLE
    if silence_s >= SUSPECT_AFTER_BEATS * limits.beat_interval_s:
        return Verdict.SUSPECT
    return Verdict.OK


def flags(health: Health, limits: HealthLimits) -> frozenset[Flag]:
    """Return what stands beside the status: `suspect` by silence, `slow` by no progress."""
    suspect = health.silence_s >= SUSPECT_AFTER_BEATS * limits.beat_interval_s
    slow = health.still_s >= limits.slow_after_s
    return frozenset({Flag.SUSPECT} if suspect else ()) | frozenset({Flag.SLOW} if slow else ())
