"""What benchmarks are made of: a figure, a fleet in a throw-away home, its events."""

from __future__ import annotations

import asyncio
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol import events as ev
from protocol.watch import Deliver, Synced
from supervisor.client import AsyncClient

PODSUP = Path(sys.executable).with_name("podsup")
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure: its value in each round, and what it should be at most, or at least."""

    name: str
    unit: str
    rounds: Sequence[float]
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """The value in the middle."""
        return statistics.median(self.rounds)

    @property
    def goal(self) -> str:
        """The goal, and whether the median meets it."""
        sign, goal = ("≤", self.at_most) if self.at_most is not None else ("≥", self.at_least)
        if goal is None:
            return ""
        is_met = self.median <= goal if sign == "≤" else self.median >= goal
        return f"{sign} {figure(goal)} {'yes' if is_met else 'NO'}"


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1]


def spread(
    name: str, times_s: Sequence[float], p50_ms: float | None, p99_ms: float | None
) -> list[Measure]:
    """Return p50 and p99 of single times; the range of the first is that of all."""
    ms = [value * 1000 for value in times_s]
    return [
        Measure(f"{name}, p50 of {len(ms)}", "ms", ms, at_most=p50_ms),
        Measure(f"{name}, p99", "ms", [percentile(ms, 0.99)], at_most=p99_ms),
    ]


# -- a fleet to measure ---------------------------------------------------------------------------


def podsup(*args: str) -> None:
    """Run one command; raises CalledProcessError with what it said."""
    done = subprocess.run([PODSUP, *args], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        print(done.stdout[-1000:], done.stderr[-1000:], file=sys.stderr)
        done.check_returncode()


def pod_tables(number: int, more: str = "") -> str:
    """Return a fleet file's text for pods that each may write a folder of their own."""
    return "".join(
        f'[[pod]]\nname = "p{i:04}"\n'
        f'scope = {{ allow = [{{ target = "out/{i}", permission = "write" }}] }}\n{more}\n'
        for i in range(number)
    )


@contextmanager
def fleet(text: str) -> Iterator[float]:
    """Have a fleet in a fresh home of the throw-away folder; yields the seconds its start took."""
    home = Path(tempfile.mkdtemp(prefix="h", dir=os.environ["BENCH_ROOT"]))
    os.environ |= {"PODSUP_HOME": str(home), "PODSUP_SCOPE_DIR": str(home / "scope")}
    work = home / "w"
    work.mkdir()
    os.chdir(work)
    (work / "podsup.toml").write_text(f'[fleet]\nname = "bench"\n{text}')
    try:
        began = time.perf_counter()
        podsup("start", "-d", "--wait", "ready")
        yield time.perf_counter() - began
    finally:
        podsup("down")


Told = asyncio.Queue[tuple[str, Any]]


@asynccontextmanager
async def watching() -> AsyncIterator[tuple[AsyncClient, Told]]:
    """Connect, and follow the fleet's events from now on."""
    async with AsyncClient.connect() as client, asyncio.timeout(PATIENCE_S):
        queue: Told = asyncio.Queue()
        await client.watch_fleet(queue)
        while not isinstance((await queue.get())[1], Synced):
            pass
        yield client, queue


async def until(queue: Told, pod: str, kind: type[ev.Event]) -> float:
    """Wait for an event of a pod, as the fleet tells it; returns when it came."""
    while True:
        _, told = await queue.get()
        if isinstance(told, Deliver) and told.header.pod == pod and isinstance(told.event, kind):
            return time.perf_counter()


def figure(value: float) -> str:
    """Return a figure as people read it."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
