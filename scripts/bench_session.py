"""The session's benchmarks: the log on disk, a restore, the first token, a late watcher."""

from __future__ import annotations

import asyncio
import os
import time
from itertools import count
from pathlib import Path

from bench_fleet import PATIENCE_S, Measure, Told, fleet, pod_tables, podsup, spread

from podproc.session.log import SegmentLog
from protocol import control as c
from protocol import entries as en
from protocol import events as ev
from protocol.methods import ListCompletions, Run
from protocol.segments import Text
from protocol.status import RunResult, Trigger
from protocol.watch import Deliver, Synced
from supervisor.client import AsyncClient

START = en.SegmentStart(ts=1, session_id="0196b1b0-0000-7000-8000-00000000000a")
SIZES = (1_000, 10_000, 100_000)


def _turn(number: int) -> tuple[en.Entry, ...]:
    """Return the ten entries of a run with one tool call."""
    call = en.ToolCall(call_id=f"c{number}", name="Read", arguments='{"file_path": "src/a.py"}')
    found = en.ToolResult(call_id=f"c{number}", summary="read 40 lines", content="x = 1\n" * 40)
    said = en.Message(role="assistant", content="The test wants another value. " * 4)
    figures = {"input_tokens": 1200, "output_tokens": 34, "cache_read_tokens": 1000}
    return (
        en.Invoke(ts=2, trigger=Trigger.USER_SEND, request_id=f"r{number}"),
        en.UserInput(ts=2, segments=(Text(content="Look at the test again, please."),)),
        en.AssistantItem(ts=2, item=call),
        en.LlmUsage(ts=2, history_len=4 * number + 2, **figures),
        en.ToolResultEntry(ts=2, item=found),
        en.TurnEnd(ts=2, turn_count=2 * number),
        en.AssistantItem(ts=2, item=said),
        en.LlmUsage(ts=2, history_len=4 * number + 4, **figures),
        en.TurnEnd(ts=2, turn_count=2 * number + 1),
        en.RunCompleted(ts=2, result=RunResult.FINISHED),
    )


def _fill(log: SegmentLog, entries: int) -> None:
    turns = count()
    while log.head_entries < entries:
        log.append(*_turn(next(turns)))


def log() -> list[Measure]:
    """One entry of the log, written, and written and durable; beside the bare system calls."""
    folder = Path(os.environ["BENCH_ROOT"])
    written, durable, raw = asyncio.run(_append(folder, 2000))
    return [
        *spread("log: an entry written", written, None, None),
        *spread("log: an entry written and durable", durable, None, None),
        *spread("log: bare write and fdatasync", raw, None, None),
    ]


async def _append(folder: Path, number: int) -> tuple[list[float], list[float], list[float]]:
    written, durable, raw = [], [], []
    entry = _turn(1)[6]
    made = SegmentLog.create(folder / "log" / "a.jsonl", START)
    bare = os.open(folder / "bare", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    line = b"x" * 300 + b"\n"
    for _ in range(number):
        began = time.perf_counter()
        made.append(entry)
        written.append(time.perf_counter() - began)
        await made.sync()
        durable.append(time.perf_counter() - began)
        began = time.perf_counter()
        os.write(bare, line)
        os.fdatasync(bare)
        raw.append(time.perf_counter() - began)
    made.close()
    os.close(bare)
    return written, durable, raw


def restore() -> list[Measure]:
    """A log opened, checked and replayed, by its size."""
    measures = []
    for size in SIZES:
        path = Path(os.environ["BENCH_ROOT"]) / str(size) / "a.jsonl"
        made = SegmentLog.create(path, START)
        _fill(made, size)
        made.close()
        times = []
        for _ in range(5):
            began = time.perf_counter()
            again, _ = SegmentLog.open(path)
            times.append(time.perf_counter() - began)
            again.close()
        note = f"{path.stat().st_size / 1e6:.1f} MB"
        goal = 0.5 if size == 100_000 else None
        measures.append(
            Measure(f"restore of {size:,} entries", "s", times, at_most=goal, note=note)
        )
    return measures


def run() -> list[Measure]:
    """From a `run` that is sent to the first delta that its asker sees."""
    with fleet(pod_tables(1)):
        first, whole = asyncio.run(_first_deltas("p0000", 200))
    return [
        *spread("run sent to its first delta", first, None, None),
        *spread("run sent to its end", whole, None, None),
    ]


async def _first_deltas(pod: str, number: int) -> tuple[list[float], list[float]]:
    first, whole = [], []
    async with AsyncClient.connect() as client, asyncio.timeout(PATIENCE_S):
        queue: Told = asyncio.Queue()
        await client.watch_pod(pod, queue)
        while not isinstance((await queue.get())[1], Synced):
            pass
        for _ in range(number):
            began = time.perf_counter()
            await client.send(pod, Run(input=(Text(content="Say it."),)))
            seen = False
            while True:
                _, told = await queue.get()
                if not isinstance(told, Deliver):
                    continue
                if isinstance(told.event, ev.TextDelta) and not seen:
                    seen = True
                    first.append(time.perf_counter() - began)
                if isinstance(told.event, ev.Status) and seen:
                    whole.append(time.perf_counter() - began)
                    break
    return first, whole


def attach() -> list[Measure]:
    """Watchers that come late to a session of 100,000 entries, and whether others wait for it."""
    with fleet(pod_tables(1, 'task = "Say something."')):
        podsup("wait", "p0000")
        podsup("stop", "p0000")
        data = Path(os.environ["PODSUP_HOME"]) / "data" / "sessions"
        (path,) = data.glob("*/*.jsonl")
        opened, _ = SegmentLog.open(path)
        _fill(opened, 100_000)
        opened.close()
        began = time.perf_counter()
        podsup("restore", "p0000")
        podsup("wait", "p0000")
        restored = time.perf_counter() - began
        late, waits = asyncio.run(_attach("p0000", 50))
    return [
        Measure("restore of a pod with 100,000 entries", "s", [restored]),
        *spread("watcher of it to its snapshot", late, None, None),
        *spread("a request meanwhile", waits, None, None),
    ]


async def _attach(pod: str, number: int) -> tuple[list[float], list[float]]:
    late: list[float] = []
    waits: list[float] = []
    over = asyncio.Event()
    async with AsyncClient.connect() as asker, asyncio.timeout(PATIENCE_S):

        async def ask() -> None:
            while not over.is_set():
                began = time.perf_counter()
                await asker.send(pod, ListCompletions(kind="knowledge"))
                waits.append(time.perf_counter() - began)

        asking = asyncio.create_task(ask())
        for _ in range(number):
            async with AsyncClient.connect() as client:
                await client.control(c.Ping())
                queue: Told = asyncio.Queue()
                began = time.perf_counter()
                await client.watch_pod(pod, queue)
                while not isinstance((await queue.get())[1], Synced):
                    pass
                late.append(time.perf_counter() - began)
        over.set()
        await asking
    return late, waits
