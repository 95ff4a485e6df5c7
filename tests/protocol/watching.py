"""A publisher and watchers on a wire without sockets, and the account of what each was told."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from pydantic import Field

from protocol import transport
from protocol.base import Wire
from protocol.events import Alert, EntryEvent, Event, TextDelta, Tick, topic
from protocol.lanes import HelloAsked, Lanes, ReplayAsked, read_subscription
from protocol.status import AlertLevel, AlertSource, Lane
from protocol.transport.memory import MemoryNet, MemoryTransport
from protocol.watch import Deliver, Gap, Synced, Watch
from protocol.wire import EventHeader, pack
from supervisor.watcher import Told, Watcher

ENDPOINT = "mem://events"


class Seqs(Wire):
    """As much of a snapshot as a watch looks at."""

    seqs: dict[Lane, int] = Field(default_factory=dict)


@dataclass(slots=True)
class Clock:
    """A clock that is wound by hand."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def numbered(lane: Lane, number: int) -> Event:
    """Return an event that says which one it is."""
    match lane:
        case Lane.STATE:
            return Alert(
                level=AlertLevel.WARN,
                source=AlertSource.POD,
                message=str(number),
                timestamp_ms=number,
            )
        case Lane.LOG:
            return EntryEvent(segment_id="g", index=number, ts=number)
        case Lane.STREAM:
            return TextDelta(block=number, text=str(number))


@dataclass(slots=True)
class Publisher:
    """One pod's lanes on one endpoint; `restart` is another incarnation of it."""

    net: MemoryNet
    clock: Clock
    ring_events: int = 8192
    hellos: int = 0
    replays: list[ReplayAsked] = field(default_factory=list)
    lanes: Lanes = field(init=False)
    history: dict[int, dict[Lane, int]] = field(default_factory=dict)
    """How many events each incarnation published."""
    connected: bool = False
    _socket: transport.Publisher = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin another incarnation, with numbers from 1 again."""
        incarnation = len(self.history) + 1
        self.lanes = Lanes("alice", incarnation, ring_events=self.ring_events)
        self.history[incarnation] = dict.fromkeys(Lane, 0)
        self.reconnect()

    def reconnect(self) -> None:
        """Bind again: every subscriber announces itself again."""
        if self.connected:
            self._socket.close()
        self._socket = MemoryTransport(self.net).publisher(ENDPOINT, self._on_subscription)
        self.connected = True

    def disconnect(self) -> None:
        """Publish to nobody until `reconnect`."""
        self._socket.close()
        self.connected = False

    def publish(self, lane: Lane, event: Event | None = None) -> None:
        counts = self.history[self.lanes.incarnation]
        counts[lane] += 1
        made = event or numbered(lane, counts[lane])
        self.send(self.lanes.publish(made, ts_ms=counts[lane], now=self.clock()))

    def tick(self) -> None:
        frames = self.lanes.tick(ts_ms=0, now=self.clock())
        if frames is not None:
            self.send(frames)

    def send_old_tick(self) -> None:
        """Say what was true before the first event."""
        tick, incarnation = Tick(seqs={}), self.lanes.incarnation
        header = EventHeader(pod="alice", incarnation=incarnation, lane=Lane.STATE, seq=0, ts_ms=0)
        self.send([topic(tick, "alice").encode(), pack(header), pack(tick)])

    def send(self, frames: list[bytes]) -> None:
        if self.connected:
            self._socket.send(frames)

    def drain(self) -> None:
        self._socket.drain()

    def _on_subscription(self, wanted: bytes, is_on: bool) -> None:
        asked = read_subscription(wanted) if is_on else None
        match asked:
            case HelloAsked():
                self.hellos += 1
                self.send(self.lanes.snapshot(asked, Seqs(seqs=self.lanes.seqs()), ts_ms=0))
            case ReplayAsked():
                self.replays.append(asked)
                for frames in self.lanes.replay(asked, ts_ms=0):
                    self.send(frames)
            case None:
                pass


_nonces = itertools.count()


class Viewer:
    """A watcher that keeps what it was told."""

    def __init__(
        self,
        net: MemoryNet,
        clock: Clock,
        *,
        lanes: tuple[Lane, ...] = tuple(Lane),
        complete: bool = False,
    ) -> None:
        self.complete = complete
        self.wanted = {*lanes, Lane.STATE}
        self.told: list[Told] = []
        self.watch = Watch(lambda: f"n{next(_nonces)}", lanes, complete=complete)
        self.watcher = Watcher(
            MemoryTransport(net), ENDPOINT, self.watch, on_told=self.told.append, clock=clock
        )

    def delivered(self, lane: Lane) -> list[int]:
        """Return the numbers delivered on a lane, as they came."""
        return [d.header.seq for d in self.told if isinstance(d, Deliver) and d.header.lane is lane]

    def gaps(self) -> list[Gap]:
        return [told for told in self.told if isinstance(told, Gap)]

    def snapshots(self) -> list[Synced]:
        return [told for told in self.told if isinstance(told, Synced)]

    def account(self, publisher: Publisher) -> None:
        """Check that nothing is missing, doubled or out of order.

        Each number of each wanted lane was delivered, or told as a gap, or (without `complete`)
        stands in the first snapshot of its incarnation; in order; and delivered events are those
        that were published.
        """
        incarnation = 0
        reached: dict[Lane, int] = {}
        for told in self.told:
            match told:
                case Synced(header=header):
                    seqs = Seqs.from_wire(told.body).seqs
                    if header.incarnation != incarnation:
                        incarnation = header.incarnation
                        reached = dict.fromkeys(Lane, 0) if self.complete else {**seqs}
                    for lane in self.wanted:
                        assert seqs[lane] >= reached[lane], "a snapshot is never older"
                        assert self.complete or seqs[lane] == reached[lane], "a gap is told"
                case Gap(lane=lane, first=first, last=last):
                    assert first == reached[lane] + 1 <= last
                    reached[lane] = last
                case Deliver(header=header, event=event):
                    assert header.incarnation == incarnation
                    assert header.lane in self.wanted
                    assert header.seq == reached[header.lane] + 1
                    assert event == numbered(header.lane, header.seq)
                    reached[header.lane] = header.seq
        assert incarnation == publisher.lanes.incarnation
        for lane in self.wanted:
            assert reached[lane] == publisher.history[incarnation][lane], lane
        assert self.watch.is_live


def settle(net: MemoryNet, publisher: Publisher, clock: Clock, *viewers: Viewer) -> None:
    """Let things calm down: nothing is lost any more, and ten seconds pass.

    Nothing new is published: what was lost last has to be found without a later event. All that is
    heard is a tick from before the loss, since ZeroMQ drops only behind messages that still come.
    """
    net.lose = lambda frames: False
    if not publisher.connected:
        publisher.reconnect()
    publisher.send_old_tick()
    for _ in range(10):
        net.pump()
        clock.now += 1
        publisher.tick()
        for viewer in viewers:
            viewer.watcher.tick()
    net.pump()
