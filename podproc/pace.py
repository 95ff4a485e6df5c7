"""How often a pod may run without a person's input. Pure; times are seconds of one clock.

Two peers that answer each other's notifications would go on for ever, whatever bounds each of their
runs. So the runs that began without a person's input are counted in sliding windows: the last hour,
the last minute, and the last ten seconds, in which a third of a minute's runs may begin, or five
where that is more. Once one is full, no further run begins until there is room again. What waits in
the inbox stays there. A person's `run`, `resume` or `notify` empties all windows.

Runs count that a notification, a child's report or another pod started. The first task of a pod
does not count for it: the supervisor delivers it, once. It counts for the parent that spawned it: a
pod whose runs and spawns together fill the minute or the hour may not spawn. Spawns do not count in
the ten seconds, since children are started many at once, and they keep no run of the parent back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from protocol.manifest import RunBounds

BURST_S = 10.0
BURST_PART, BURST_LEAST = 3, 5
"""A minute's runs cannot all begin at once: a loop at full speed is slowed within seconds."""

MINUTE_S = 60.0
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Wait:
    """Why no such run may begin now, and after how many seconds one may.

    `most` began in the `window`; the operator's `key` is `bound`.
    """

    key: str
    bound: int
    most: int
    window: str
    seconds: float
    what: str = "runs"

    @property
    def cause(self) -> str:
        """What happened, and which key bounds it."""
        part = "" if self.most == self.bound else f", {self.most} of them in {self.window}"
        return (
            f"{self.most} {self.what} began in the last {self.window} without a person's input, "
            f"and supervisor.max_notification_runs.{self.key} is {self.bound}{part}"
        )


@dataclass(frozen=True, slots=True)
class Pace:
    """The runs of the last hour that began without a person's input, oldest first.

    `spawned` is when the pod spawned others in that time.
    """

    bounds: RunBounds
    begun: tuple[float, ...] = ()
    spawned: tuple[float, ...] = ()

    @classmethod
    def restored(cls, bounds: RunBounds, ages_s: Iterable[float], now: float) -> Pace:
        """Return what a log tells of runs that began so long ago.

        A clock that was set back makes an age negative: such a run counts as one of this moment.
        """
        return cls(bounds, tuple(sorted(now - max(0.0, age) for age in ages_s)))

    def after(self, now: float) -> Pace:
        """Return the pace after one more such run."""
        return replace(self, begun=(*_within(self.begun, HOUR_S, now), now))

    def after_spawn(self, now: float) -> Pace:
        """Return the pace after the pod spawned another."""
        return replace(self, spawned=(*_within(self.spawned, HOUR_S, now), now))

    def without_spawn(self) -> Pace:
        """Return the pace where the last spawn was refused."""
        return replace(self, spawned=self.spawned[:-1])

    def emptied(self) -> Pace:
        """Return the pace after a person's input."""
        return replace(self, begun=(), spawned=())

    def counts(self, now: float) -> tuple[int, int]:
        """Return how many began within the last minute, and within the last hour."""
        return len(_within(self.begun, MINUTE_S, now)), len(_within(self.begun, HOUR_S, now))

    def wait(self, now: float) -> Wait | None:
        """Return why a run must wait, the longest of the reasons; None where it may begin."""
        minute, hour = self.bounds.per_minute, self.bounds.per_hour
        waits = [
            Wait(key, bound, most, window, within[-most] + length - now)
            for key, bound, most, window, length in (
                ("per_minute", minute, _burst_of(minute), "10 seconds", BURST_S),
                ("per_minute", minute, minute, "minute", MINUTE_S),
                ("per_hour", hour, hour, "hour", HOUR_S),
            )
            if len(within := _within(self.begun, length, now)) >= most
        ]
        return max(waits, key=lambda one: one.seconds, default=None)

    def spawn_wait(self, now: float) -> Wait | None:
        """Return why the pod must not spawn now, the longest of the reasons; None where it may."""
        both = tuple(sorted((*self.begun, *self.spawned)))
        waits = [
            Wait(key, most, most, window, within[-most] + length - now, "runs and spawns")
            for key, most, window, length in (
                ("per_minute", self.bounds.per_minute, "minute", MINUTE_S),
                ("per_hour", self.bounds.per_hour, "hour", HOUR_S),
            )
            if len(within := _within(both, length, now)) >= most
        ]
        return max(waits, key=lambda one: one.seconds, default=None)


def _within(times: Iterable[float], length: float, now: float) -> tuple[float, ...]:
    return tuple(at for at in times if at > now - length)


def _burst_of(per_minute: int) -> int:
    return min(per_minute, max(BURST_LEAST, math.ceil(per_minute / BURST_PART)))


EMPTY = Pace(RunBounds())
"""The pace of a pod that has not run yet, with the default bounds."""
