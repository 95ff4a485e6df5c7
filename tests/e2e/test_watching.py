"""Watching a real pod through real sockets: no gap and no duplicate, whenever one attaches.

The reference is a watcher that was there before the first run, and the segment file. Every other
watcher is compared with them by (lane, seq) and by entry index.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from protocol import events as ev
from protocol import methods as m
from protocol.control import StatusOf, StatusRow
from protocol.segments import Text
from protocol.status import Lane, PodStatus
from protocol.transport.zeromq import ZmqTransport
from protocol.watch import Deliver, Gap, Subscribe, Synced, Unsubscribe, Watch
from supervisor.client import AsyncClient
from supervisor.watcher import Told, Watcher
from tests.support.home import Home

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

ATTACHMENTS = 250
AT_ONCE = 8
FOLLOWED = 40

FLEET = """
[fleet]
name = "w"
[[pod]]
name = "talker"
scope = {{ allow = [{{ target = ".", permission = "write" }}] }}
compaction = {{ auto = false }}
[pod.model]
scheme = "scripted"
chars_per_s = {chars_per_s}
[[pod.model.answers]]
match = "talk"
repeat = true
text = "{text}"
tool_calls = [{{ name = "Glob", arguments = {{ pattern = "*.toml" }} }}]
[[pod.model.answers]]
repeat = true
text = "done"
"""


def fleet(*, words: int, chars_per_s: int) -> str:
    text = " ".join(f"word{number:05d}" for number in range(words))
    return FLEET.format(text=text, chars_per_s=chars_per_s)


class Seen:
    """Everything one watcher was told, in order."""

    def __init__(self) -> None:
        self.synced: list[Synced] = []
        self.delivered: list[Deliver] = []
        self.gaps: list[Gap] = []

    def __call__(self, told: Told) -> None:
        match told:
            case Synced():
                self.synced.append(told)
            case Deliver():
                self.delivered.append(told)
            case Gap():
                self.gaps.append(told)

    def numbers(self, lane: Lane) -> list[int]:
        return [d.header.seq for d in self.delivered if d.header.lane is lane]

    def by_number(self) -> dict[tuple[Lane, int], dict[str, Any]]:
        return {(d.header.lane, d.header.seq): d.event.to_wire() for d in self.delivered}

    def start(self) -> dict[Lane, int]:
        seqs: dict[str, int] = self.synced[0].body["seqs"]  # type: ignore[index]
        return {Lane(lane): seq for lane, seq in seqs.items()}


def attach(transport: ZmqTransport, endpoint: str, seen: Seen) -> Watcher:
    watch = Watch(lambda: secrets.token_hex(8))
    return Watcher(transport, endpoint, watch, on_told=seen, clock=time.monotonic)


async def until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.005)


def logged(home: Home) -> list[dict[str, Any]]:
    (path,) = Path(home.home, "data/sessions").rglob("*.jsonl")
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    return [{key: value for key, value in line.items() if key != "crc"} for line in lines]


def entries_of(seen: Seen) -> dict[int, dict[str, Any]]:
    """Entry index -> entry, from the log lane of one watcher."""
    found: dict[int, dict[str, Any]] = {}
    for told in seen.delivered:
        match told.event:
            case ev.EntryEvent(index=index, entry=entry) if entry is not None:
                found[index] = entry.to_wire()
            case ev.SegmentRotated(index=index, entry=entry) if entry is not None:
                found[index] = entry.to_wire()
            case ev.InvokeStart(index=index, ts=ts, trigger=trigger, request_id=request_id):
                found[index] = {
                    "kind": "invoke",
                    "ts": ts,
                    "trigger": trigger.value,
                    "request_id": request_id,
                }
            case ev.UserMessage(index=index, ts=ts, segments=segments):
                found[index] = {
                    "kind": "user_input",
                    "ts": ts,
                    "segments": [segment.to_wire() for segment in segments],
                }
    return found


async def endpoint_of(client: AsyncClient) -> str:
    row: StatusRow = await client.control(StatusOf(pod="talker"))
    assert row.endpoint is not None
    return row.endpoint


async def run_to_end(client: AsyncClient, reference: Seen) -> None:
    runs = sum(1 for d in reference.delivered if isinstance(d.event, ev.RunEnd))
    await client.send("talker", m.Run(input=(Text(content="talk"),)))
    await until(
        lambda: sum(1 for d in reference.delivered if isinstance(d.event, ev.RunEnd)) > runs,
        "the run ended",
        60.0,
    )


def test_a_watcher_that_attaches_at_any_moment_sees_everything_exactly_once(home: Home) -> None:
    home.write("podsup.toml", fleet(words=4000, chars_per_s=0))
    home.podsup("start", "-d", "--wait", "idle")

    async def scenario() -> tuple[Seen, list[Seen]]:
        dice = random.Random(20_261_120)
        async with AsyncClient.connect("w", home=str(home.home)) as client:
            endpoint = await endpoint_of(client)
            transport = ZmqTransport(asyncio.get_running_loop())
            reference = Seen()
            watcher = attach(transport, endpoint, reference)
            await until(lambda: bool(reference.synced), "the reference is live")
            talking = asyncio.create_task(talk(client, reference))
            others: list[Seen] = []

            async def attach_once(seen: Seen) -> None:
                await asyncio.sleep(dice.random() * 0.01)
                mine = attach(transport, endpoint, seen)
                await until(lambda: bool(seen.synced), "a snapshot came")
                await until(
                    lambda: len(seen.delivered) >= FOLLOWED or talking.done(), "events came"
                )
                mine.close()

            async def attach_often() -> None:
                while len(others) < ATTACHMENTS:
                    others.append(Seen())
                    await attach_once(others[-1])

            try:
                await asyncio.gather(*(attach_often() for _ in range(AT_ONCE)))
            finally:
                stopping.set()
                await talking
                watcher.close()
                transport.close()
            return reference, others

    stopping = asyncio.Event()

    async def talk(client: AsyncClient, reference: Seen) -> None:
        while not stopping.is_set():
            await run_to_end(client, reference)

    reference, others = asyncio.run(scenario())
    truth = reference.by_number()
    for lane in Lane:
        numbers = reference.numbers(lane)
        first = reference.start()[lane] + 1
        assert numbers == list(range(first, first + len(numbers))), f"a gap in {lane}"
    assert not reference.gaps
    assert len(others) >= ATTACHMENTS
    for seen in others:
        assert not seen.gaps
        for lane, start in seen.start().items():
            numbers = seen.numbers(lane)
            assert numbers == list(range(start + 1, start + 1 + len(numbers))), lane
        for key, event in seen.by_number().items():
            assert truth[key] == event
        check_in_flight(seen, reference)
    found, file = entries_of(reference), logged(home)
    for index, entry in found.items():
        assert {**file[index]} == entry, f"entry {index} differs from the segment file"
    assert sorted(found) == list(range(len(file)))


def check_in_flight(seen: Seen, reference: Seen) -> None:
    """The text that a snapshot shows in flight is what its stream had said until then."""
    snapshot: Any = seen.synced[0].body
    start = seen.start()[Lane.STREAM]
    for block in snapshot["in_flight"]["blocks"]:
        if block["kind"] == "text":
            said = "".join(
                d.event.text
                for d in reference.delivered
                if isinstance(d.event, ev.TextDelta)
                and d.event.block == block["block"]
                and d.header.seq <= start
            )
            assert block["text"] == said


def test_a_watcher_that_loses_every_seventh_event_ends_equal_to_the_log(home: Home) -> None:
    home.write("podsup.toml", fleet(words=800, chars_per_s=0))
    home.podsup("start", "-d", "--wait", "idle")

    async def scenario() -> tuple[Seen, Seen]:
        async with AsyncClient.connect("w", home=str(home.home)) as client:
            endpoint = await endpoint_of(client)
            transport = ZmqTransport(asyncio.get_running_loop())
            reference, lossy = Seen(), Seen()
            watchers: list[Watcher | LossyWatcher] = [
                attach(transport, endpoint, reference),
                LossyWatcher(transport, endpoint, lossy),
            ]
            await until(lambda: bool(reference.synced and lossy.synced), "both are live")
            await run_to_end(client, reference)
            await until(
                lambda: all(
                    lossy.numbers(lane)[-1:] == reference.numbers(lane)[-1:] for lane in Lane
                ),
                "the lossy one caught up",
                20.0,
            )
            for watcher in watchers:
                watcher.close()
            transport.close()
            return reference, lossy

    reference, lossy = asyncio.run(scenario())
    assert not lossy.gaps
    assert lossy.by_number() == reference.by_number()
    for lane in Lane:
        assert lossy.numbers(lane) == reference.numbers(lane)
    assert entries_of(lossy) == dict(enumerate(logged(home)))


class LossyWatcher:
    """A watcher whose SUB loses every seventh event of a lane, first time round."""

    def __init__(self, transport: ZmqTransport, endpoint: str, seen: Seen) -> None:
        self._watch = Watch(lambda: secrets.token_hex(8))
        self._seen = seen
        self._count = 0
        self._socket = transport.subscriber(self._on_frames)
        self._socket.connect(endpoint)
        self._run(self._watch.subscribe(time.monotonic()))
        self._timer = asyncio.get_running_loop().create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            self._run(self._watch.tick(time.monotonic()))

    def _on_frames(self, frames: list[bytes]) -> None:
        if len(frames) == 3 and not frames[0].startswith(b"~hello"):
            self._count += 1
            if self._count % 7 == 0:
                return
        self._run(self._watch.receive(frames, time.monotonic()))

    def _run(self, steps: list[Any]) -> None:
        for step in steps:
            match step:
                case Subscribe(topic):
                    self._socket.subscribe(topic)
                case Unsubscribe(topic):
                    self._socket.unsubscribe(topic)
                case told:
                    self._seen(told)

    def close(self) -> None:
        self._timer.cancel()
        self._socket.close()


def test_a_watcher_that_is_away_until_the_ring_moved_on_is_told_the_gap(home: Home) -> None:
    home.write("podsup.toml", fleet(words=20_000, chars_per_s=0))
    home.podsup("start", "-d", "--wait", "idle")

    async def scenario() -> tuple[Seen, Seen]:
        async with AsyncClient.connect("w", home=str(home.home)) as client:
            endpoint = await endpoint_of(client)
            transport = ZmqTransport(asyncio.get_running_loop())
            reference, away = Seen(), Seen()
            watcher, deaf = attach(transport, endpoint, reference), DeafWatcher(transport, away)
            ticking = asyncio.create_task(tick(watcher))
            deaf.begin(endpoint)
            try:
                await until(lambda: bool(reference.synced and away.synced), "both are live")
                deaf.is_deaf = True
                await run_until_idle(client, "talk")  # more than a ring holds
                await until(
                    lambda: deaf.missed[Lane.STREAM] > 0, "it has missed what the ring lost"
                )
                deaf.is_deaf = False
                await run_until_idle(client, "talk")
                await until(
                    lambda: Lane.STREAM in {gap.lane for gap in away.gaps}, "the gap is told"
                )
                cores = (watcher.core, deaf.watch)
                await until(lambda: all(core.is_live for core in cores), "both are live again")
                await run_until_idle(client, "short")
                await until(
                    lambda: (
                        cores[0].seqs() == cores[1].seqs()
                        and isinstance(reference.delivered[-1].event, ev.Status)
                    ),
                    "both have seen the last run",
                )
            finally:
                ticking.cancel()
                watcher.close()
                deaf.close()
                transport.close()
            return reference, away

    reference, away = asyncio.run(scenario())
    (gap, *_) = [g for g in away.gaps if g.lane is Lane.STREAM]
    assert gap.first == away.start()[Lane.STREAM] + 1
    for seen in (reference, away):  # at full speed the reference may miss some, too
        for lane in Lane:
            told = sorted([*seen.numbers(lane), *numbers_of(seen.gaps, lane)])
            first = seen.start()[lane] + 1
            assert told == list(range(first, first + len(told))), f"{lane}: not told, or twice"
    truth, told_away = reference.by_number(), away.by_number()
    both = told_away.keys() & truth.keys()
    assert {lane for lane, _ in both} == set(Lane)
    assert all(told_away[key] == truth[key] for key in both)


def numbers_of(gaps: list[Gap], lane: Lane) -> list[int]:
    return [n for gap in gaps if gap.lane is lane for n in range(gap.first, gap.last + 1)]


async def tick(watcher: Watcher) -> None:
    while True:
        await asyncio.sleep(0.1)
        watcher.tick()


async def run_until_idle(client: AsyncClient, text: str) -> None:
    """Run a turn; asks for the pod's status, since a watcher may lose the run's end."""
    await client.send("talker", m.Run(input=(Text(content=text),)))
    end = time.monotonic() + 60.0
    row: StatusRow = await client.control(StatusOf(pod="talker"))
    while row.status != PodStatus.IDLE:
        assert time.monotonic() < end, f"not within 60 s: {text!r} is answered"
        await asyncio.sleep(0.05)
        row = await client.control(StatusOf(pod="talker"))


class DeafWatcher(LossyWatcher):
    """A watcher that can be made to hear nothing for a while; `missed` counts what it missed."""

    def __init__(self, transport: ZmqTransport, seen: Seen) -> None:
        self.watch = self._watch = Watch(lambda: secrets.token_hex(8))
        self._seen = seen
        self.is_deaf = False
        self.missed: Counter[str] = Counter()
        self._socket = transport.subscriber(self._on_frames)

    def begin(self, endpoint: str) -> None:
        self._socket.connect(endpoint)
        self._run(self._watch.subscribe(time.monotonic()))
        self._timer = asyncio.get_running_loop().create_task(self._tick())

    def _on_frames(self, frames: list[bytes]) -> None:
        if self.is_deaf:
            self.missed[frames[0].split(b"/")[0].decode()] += 1
        else:
            self._run(self._watch.receive(frames, time.monotonic()))


STOPPED_WATCHER = """
import os, signal, sys, zmq
socket = zmq.Context().socket(zmq.SUB)
socket.setsockopt(zmq.RCVHWM, 10)
socket.connect(sys.argv[1])
socket.subscribe(b"")
socket.subscribe(b"~hello/stopped")
while not socket.recv_multipart()[0].startswith(b"~hello"):
    pass
print("live", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_watcher_that_is_stopped_costs_the_pod_and_the_other_watchers_nothing(home: Home) -> None:
    home.write("podsup.toml", fleet(words=1000, chars_per_s=0))
    home.podsup("start", "-d", "--wait", "idle")

    async def scenario() -> tuple[Seen, StatusRow]:
        async with AsyncClient.connect("w", home=str(home.home)) as client:
            endpoint = await endpoint_of(client)
            stopped = subprocess.Popen(
                [sys.executable, "-c", STOPPED_WATCHER, endpoint], stdout=subprocess.PIPE
            )
            transport = ZmqTransport(asyncio.get_running_loop())
            try:
                assert stopped.stdout is not None
                assert stopped.stdout.readline() == b"live\n"
                seen = Seen()
                watcher = attach(transport, endpoint, seen)
                await until(lambda: bool(seen.synced), "the other watcher is live")
                for _ in range(4):
                    await run_to_end(client, seen)
                row: StatusRow = await client.control(StatusOf(pod="talker"))
                watcher.close()
                return seen, row
            finally:
                transport.close()
                stopped.kill()
                stopped.communicate()

    seen, row = asyncio.run(scenario())
    assert row.flags == (), "the pod's loop turns"
    assert row.restarts == 0
    runs = [d for d in seen.delivered if isinstance(d.event, ev.RunEnd)]
    assert len(runs) == 4
    for lane in Lane:
        numbers = seen.numbers(lane)
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), f"a gap in {lane}"
