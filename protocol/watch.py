"""The subscribing side: snapshot first, then every event once, or a told gap. Pure.

    waiting ── snapshot ──► live ── number jumps, tick ahead, 5 s quiet ──► refilling(lane) ──► live
       ▲                                                                        │
       └─────── hello again: no snapshot or refill in 2 s, or the ring moved on ┘  (Gap is told)

`subscribe()` first subscribes the lanes, and last `~hello/<nonce>`. Subscriptions travel in order,
so when the publisher sees the hello the lanes are live: nothing can fall between snapshot and
stream. The nonce stays subscribed while the watcher lives; when ZeroMQ reconnects it sends all
subscriptions again in byte order, `~` last, which brings a new snapshot by itself.

While a lane is refilled its later events are held back, so each lane is delivered in order. Between
lanes the order is that of publication except after a refill.

A publisher drops events for a watcher that is too slow, and with them the ticks that would reveal
it: a tick that was sent before the drop confirms nothing. So a watcher that has heard something and
then nothing for 5 s asks once for what follows on each lane. A later snapshot of the same publisher
replaces the events between: their numbers are a `Gap`, told before the snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from pydantic import ValidationError

from protocol.errors import UnsupportedVersion
from protocol.events import Event, Tick, UnknownEvent, decode_event
from protocol.lanes import ReplayEnd
from protocol.status import Lane
from protocol.wire import BadFrame, EventHeader, header_fields, read_body, read_header

SNAPSHOT_TIMEOUT_S = 2.0
REFILL_TIMEOUT_S = 2.0
QUIET_S = 5.0
"""A publisher ticks for 3 s after its last event; who hears nothing for longer may have lost it."""


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Subscribe to a topic prefix."""

    topic: bytes


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Take a subscription back."""

    topic: bytes


@dataclass(frozen=True, slots=True)
class Synced:
    """Tell the user: this is the whole state now; what came before is contained in it."""

    header: EventHeader
    body: object
    again: bool


@dataclass(frozen=True, slots=True)
class Deliver:
    """Tell the user: the next event."""

    header: EventHeader
    event: Event


@dataclass(frozen=True, slots=True)
class Gap:
    """Tell the user: these numbers of a lane were not delivered; a new snapshot follows."""

    lane: Lane
    first: int
    last: int


WatchStep: TypeAlias = Subscribe | Unsubscribe | Synced | Deliver | Gap


@dataclass(slots=True)
class _Lane:
    seq: int = 0
    asked: bytes | None = None
    asked_at: float = 0.0
    held: dict[int, Deliver] = field(default_factory=dict)


def _publisher(header: EventHeader) -> int:
    return header.incarnation if header.epoch is None else header.epoch


def _read_event(event_topic: bytes, body: bytes) -> Event:
    """Return the event.

    One that cannot be read is unknown, as asking again would bring the same.
    """
    name = event_topic.rsplit(b"/", 1)[-1].decode(errors="replace")
    try:
        data = read_body(body)
    except BadFrame:
        return UnknownEvent(name=name)
    try:
        return decode_event(name, data)
    except ValidationError:
        return UnknownEvent.model_construct(name=name, data=data if isinstance(data, dict) else {})


def _number(header: EventHeader) -> int:
    return header.seq if header.fleet_seq is None else header.fleet_seq


class Watch:
    """One watcher of one publisher. Every input returns the steps to carry out, in order.

    `nonces` yields fresh unguessable texts; `lanes` are those wanted (`state` always is). With
    `complete` nothing is skipped because a snapshot contains it: what came before the first
    snapshot, or between two, is fetched from the ring.
    """

    def __init__(
        self,
        nonces: Callable[[], str],
        lanes: Iterable[Lane] = tuple(Lane),
        *,
        complete: bool = False,
    ) -> None:
        self._complete = complete
        self._nonces = nonces
        self._wanted = frozenset(lanes) | {Lane.STATE}
        self._hello: bytes | None = None
        self._hello_at = 0.0
        self._ever = False
        self._live = False
        self._publisher: int | None = None
        self._lanes: dict[Lane, _Lane] = {}
        self._heard_at: float | None = None

    @property
    def is_live(self) -> bool:
        """Whether a snapshot was applied and nothing is known to be missing."""
        return self._live and all(lane.asked is None for lane in self._lanes.values())

    def seqs(self) -> dict[Lane, int]:
        """The newest number delivered on each lane."""
        return {lane: state.seq for lane, state in self._lanes.items()}

    def subscribe(self, now: float) -> list[WatchStep]:
        """Begin: the lanes, then the hello."""
        lanes: list[WatchStep] = [Subscribe(f"{lane}/".encode()) for lane in sorted(self._wanted)]
        return lanes + self._say_hello(now)

    def receive(self, frames: list[bytes], now: float) -> list[WatchStep]:
        """Take one message; raises BadFrame for what is none of ours."""
        if len(frames) not in (3, 4):
            raise BadFrame(f"{len(frames)} frames")
        try:
            header = read_header(header_fields(frames[-2:]), EventHeader)
        except UnsupportedVersion as error:
            raise BadFrame(error.message) from error
        if frames[0] == self._hello:
            return self._on_snapshot(header, read_body(frames[-1]), now)
        if len(frames) == 4:
            return self._on_replayed(frames, header, now)
        if not self._live or self._publisher is None:
            return []
        if _publisher(header) > self._publisher:
            return self._say_hello(now)  # a new one, whose snapshot was lost or is still to come
        if _publisher(header) < self._publisher:
            return []
        self._heard_at = now
        return self._on_event(frames[0], header, frames[-1], now)

    def tick(self, now: float) -> list[WatchStep]:
        """Let time pass: ask for what may have been lost, and again where no answer came."""
        if not self._live:
            if self._hello is not None and now - self._hello_at >= SNAPSHOT_TIMEOUT_S:
                return self._say_hello(now)
            return []
        if any(
            lane.asked is not None and now - lane.asked_at >= REFILL_TIMEOUT_S
            for lane in self._lanes.values()
        ):
            return self._say_hello(now)
        if self._heard_at is not None and now - self._heard_at >= QUIET_S:
            self._heard_at = None
            return [step for lane in sorted(self._lanes) for step in self._refill(lane, now)]
        return []

    def _say_hello(self, now: float) -> list[WatchStep]:
        steps: list[WatchStep] = [] if self._hello is None else [Unsubscribe(self._hello)]
        for lane in self._lanes.values():
            if lane.asked is not None:
                steps.append(Unsubscribe(lane.asked))
                lane.asked = None
        self._hello = f"~hello/{self._nonces()}".encode()
        self._hello_at = now
        self._live = False
        return [*steps, Subscribe(self._hello)]

    def _on_snapshot(self, header: EventHeader, body: object, now: float) -> list[WatchStep]:
        seqs = body.get("seqs", {}) if isinstance(body, dict) else None
        if not isinstance(seqs, dict) or not all(type(seq) is int for seq in seqs.values()):
            raise BadFrame("a snapshot without numbers")
        steps: list[WatchStep] = [
            Unsubscribe(lane.asked) for lane in self._lanes.values() if lane.asked is not None
        ]
        newest = {lane: seqs.get(lane.value, 0) for lane in self._wanted}
        same = self._publisher == _publisher(header)
        before = self.seqs() if same else {}
        start = {lane: before.get(lane, 0) for lane in newest} if self._complete else newest
        steps += (
            Gap(lane, before[lane] + 1, start[lane])
            for lane in sorted(before.keys() & start.keys())
            if before[lane] < start[lane]
        )
        self._lanes = {lane: _Lane(start[lane]) for lane in self._wanted}
        self._publisher = _publisher(header)
        self._live = True
        again, self._ever = self._ever, True
        steps.append(Synced(header, body, again))
        for lane in sorted(self._wanted):
            if start[lane] < newest[lane]:
                steps += self._refill(lane, now)
        return steps

    def _on_event(
        self, event_topic: bytes, header: EventHeader, body: bytes, now: float
    ) -> list[WatchStep]:
        event = _read_event(event_topic, body)
        if isinstance(event, Tick):
            return [
                step
                for lane, newest in event.seqs.items()
                if lane in self._lanes and newest > self._reached(lane)
                for step in self._refill(lane, now)
            ]
        if header.lane not in self._lanes:
            return []
        return self._take(header.lane, _number(header), Deliver(header, event), now)

    def _take(self, lane: Lane, number: int, delivery: Deliver, now: float) -> list[WatchStep]:
        state = self._lanes[lane]
        if number <= state.seq:
            return []
        state.held[number] = delivery
        steps = self._release(state)
        if state.held and state.asked is None:
            steps += self._refill(lane, now)
        return steps

    def _reached(self, lane: Lane) -> int:
        state = self._lanes[lane]
        return max(state.held, default=state.seq)

    @staticmethod
    def _release(state: _Lane) -> list[WatchStep]:
        steps: list[WatchStep] = []
        while (delivery := state.held.pop(state.seq + 1, None)) is not None:
            state.seq += 1
            steps.append(delivery)
        return steps

    def _refill(self, lane: Lane, now: float) -> list[WatchStep]:
        state = self._lanes[lane]
        if state.asked is not None:
            return []
        state.asked = f"replay/{self._nonces()}/{lane}/{state.seq + 1}".encode()
        state.asked_at = now
        return [Subscribe(state.asked)]

    def _on_replayed(self, frames: list[bytes], header: EventHeader, now: float) -> list[WatchStep]:
        lane = next((n for n, s in self._lanes.items() if s.asked == frames[0]), None)
        if lane is None or _publisher(header) != self._publisher:
            return []  # nobody asked, or who answers is not the one that was asked
        state = self._lanes[lane]
        if frames[1]:
            event = _read_event(frames[1], frames[3])
            number = _number(header)
            if number <= state.seq:
                return []
            state.held[number] = Deliver(header, event)
            return self._release(state)
        try:
            end = ReplayEnd.from_wire(read_body(frames[3]))
        except ValidationError as error:
            raise BadFrame("a replay without an end") from error
        brought_nothing = state.seq < int(frames[0].rsplit(b"/", 1)[1])
        if brought_nothing and end.newest > state.seq >= end.oldest - 1:
            return []  # asking again at once would go round for ever: `tick` says hello again
        steps: list[WatchStep] = [Unsubscribe(frames[0])]
        state.asked = None
        if end.oldest > state.seq + 1:
            if self._complete:  # else the snapshot tells the gap, up to its own number
                steps.append(Gap(lane, state.seq + 1, end.oldest - 1))
                state.seq = end.oldest - 1
            return [*steps, *self._say_hello(now)]
        steps += self._release(state)
        if end.newest > state.seq or state.held:
            steps += self._refill(lane, now)
        return steps
