"""The publishing side of a watched thing.

Numbering, the replay ring, and the answers to subscriptions. Pure.

A publisher has three lanes that leave by one socket. Each event gets the next number of its lane
and stays in that lane's ring until newer ones push it out. A subscriber asks by subscribing:

    ~hello/<nonce>                    -> a snapshot on that very topic, so only the asker gets it
    replay/<nonce>/<lane>/<from>      -> the ring from that number on, there, then an end mark

A replay message is `[asked topic, event topic, header, body]`; its end mark has an empty event
topic and a body `{lane, oldest, newest}`: a subscriber that asked for less than `oldest` has lost
something for good and must say so. Not guaranteed: PUB drops for a subscriber beyond its high-water
mark; the numbers are how it notices, `Tick` how it notices a lost last message.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from protocol.base import Wire
from protocol.events import (
    LARGE_EVENT_BYTES,
    Event,
    LogEvent,
    Tick,
    UnknownEvent,
    topic,
)
from protocol.status import Lane
from protocol.wire import VERSION, EventHeader, pack

HELLO = "~hello/"
REPLAY = "replay/"
RING_EVENTS = 8192
RING_BYTES = 8 * 1024 * 1024
TICK_AFTER_S = 3.0


@dataclass(frozen=True, slots=True)
class HelloAsked:
    """Somebody wants a snapshot, on this topic."""

    topic: bytes


@dataclass(frozen=True, slots=True)
class ReplayAsked:
    """Somebody wants the ring of a lane from a number on, on this topic."""

    topic: bytes
    lane: Lane
    start: int


def read_subscription(asked: bytes) -> HelloAsked | ReplayAsked | None:
    """Return what a subscription asks for; None for an ordinary one, or for anything malformed."""
    try:
        text = asked.decode()
    except UnicodeDecodeError:
        return None
    if text.startswith(HELLO) and len(text) <= len(HELLO) + 64:
        return HelloAsked(asked)
    parts = text.split("/")
    if text.startswith(REPLAY) and len(parts) == 4 and parts[3].isascii() and parts[3].isdigit():
        try:
            return ReplayAsked(asked, Lane(parts[2]), int(parts[3][:20]))
        except ValueError:
            return None
    return None


class ReplayEnd(Wire):
    """The body of a replay's end mark: the numbers the ring holds now (oldest > newest: none)."""

    lane: Lane
    oldest: int
    newest: int


class _Ring:
    __slots__ = ("bytes", "frames", "newest")

    def __init__(self) -> None:
        self.frames: deque[tuple[bytes, bytes, bytes]] = deque()
        self.bytes = 0
        self.newest = 0

    @property
    def oldest(self) -> int:
        return self.newest - len(self.frames) + 1


class Lanes:
    """The numbered lanes of one incarnation of one publisher."""

    def __init__(
        self,
        pod: str,
        incarnation: int,
        *,
        epoch: int | None = None,
        ring_events: int = RING_EVENTS,
        ring_bytes: int = RING_BYTES,
    ) -> None:
        self.pod = pod
        self.incarnation = incarnation
        self.epoch = epoch
        self._rings = {lane: _Ring() for lane in Lane}
        self._ring_events = ring_events
        self._ring_bytes = ring_bytes
        self._last_at: float | None = None

    def publish(self, event: Event, *, ts_ms: int, now: float) -> list[bytes]:
        """Number an event and return its frames `[topic, header, body]`.

        `now` is monotonic seconds.
        """
        header = {  # plain, not an EventHeader: this runs once per delta
            "v": VERSION,
            "pod": self.pod,
            "incarnation": self.incarnation,
            "lane": event.lane.value,
            "seq": self._rings[event.lane].newest + 1,
            "ts_ms": ts_ms,
        }
        if self.epoch is not None:
            header["epoch"] = self.epoch
        event_topic = topic(event, self.pod).encode()
        return self._keep(event.lane, event_topic, pack(header), encode_body(event), now)

    def publish_for(
        self, pod: str, incarnation: int, event: Event, *, ts_ms: int, now: float
    ) -> list[bytes]:
        """Publish the fleet's own event about one pod ("" = the fleet); it has no origin number."""
        header = EventHeader(pod=pod, incarnation=incarnation, lane=event.lane, seq=0, ts_ms=ts_ms)
        return self.republish(topic(event, pod).encode(), header, encode_body(event), now=now)

    def republish(
        self, event_topic: bytes, header: EventHeader, body: bytes, *, now: float
    ) -> list[bytes]:
        """Pass an event on.

        The origin's numbers stay, the fleet's own `(epoch, fleet_seq)` join them.
        """
        number = self._rings[header.lane].newest + 1
        mine = header.model_copy(update={"epoch": self.epoch, "fleet_seq": number})
        return self._keep(header.lane, event_topic, pack(mine), body, now)

    def _header(self, lane: Lane, seq: int, ts_ms: int) -> EventHeader:
        return EventHeader(
            pod=self.pod,
            incarnation=self.incarnation,
            lane=lane,
            seq=seq,
            ts_ms=ts_ms,
            epoch=self.epoch,
        )

    def _keep(
        self, lane: Lane, event_topic: bytes, header: bytes, body: bytes, now: float
    ) -> list[bytes]:
        ring = self._rings[lane]
        frames = (event_topic, header, body)
        ring.newest += 1
        ring.frames.append(frames)
        ring.bytes += len(body)
        while len(ring.frames) > self._ring_events or (
            ring.bytes > self._ring_bytes and len(ring.frames) > 1
        ):
            ring.bytes -= len(ring.frames.popleft()[2])
        self._last_at = now
        return list(frames)

    def tick(self, *, ts_ms: int, now: float) -> list[bytes] | None:
        """Return a tick's frames while something was published in the last 3 s.

        It takes no number.
        """
        if self._last_at is None or now - self._last_at > TICK_AFTER_S:
            return None
        event = Tick(seqs=self.seqs())
        header = self._header(Lane.STATE, self._rings[Lane.STATE].newest, ts_ms)
        return [topic(event, self.pod).encode(), pack(header), pack(event)]

    def seqs(self) -> dict[Lane, int]:
        """Return the newest number of each lane; 0 where nothing was published."""
        return {lane: ring.newest for lane, ring in self._rings.items()}

    def snapshot(self, asked: HelloAsked, body: Wire, *, ts_ms: int) -> list[bytes]:
        """Return the frames that answer a hello."""
        header = self._header(Lane.STATE, 0, ts_ms)
        return [asked.topic, pack(header), pack(body)]

    def replay(self, asked: ReplayAsked, *, ts_ms: int) -> list[list[bytes]]:
        """Return the messages that answer a replay.

        What the ring still holds, then the end mark.
        """
        ring = self._rings[asked.lane]
        skip = max(0, asked.start - ring.oldest)
        messages = [
            [asked.topic, *frames] for index, frames in enumerate(ring.frames) if index >= skip
        ]
        header = self._header(asked.lane, 0, ts_ms)
        end = ReplayEnd(lane=asked.lane, oldest=ring.oldest, newest=ring.newest)
        messages.append([asked.topic, b"", pack(header), pack(end)])
        return messages


def encode_body(event: Event) -> bytes:
    """Return the packed body; one over 64 KiB says so in `omitted` and carries less.

    A log event keeps its position, from which `get_history` brings the rest; of others the texts
    are cut, since their entry, or the run they belong to, is in the log.
    """
    plain = event.data if isinstance(event, UnknownEvent) else event.to_wire()
    body = pack(plain)
    if len(body) <= LARGE_EVENT_BYTES:
        return body
    if isinstance(event, LogEvent):
        kept = {key: value for key, value in plain.items() if key in _POSITION}
    else:
        kept = {key: _shortened(value) for key, value in plain.items() if key != "output"}
    return pack({**kept, "omitted": len(body)})


_POSITION = frozenset({"segment_id", "index", "ts", "block", "trigger", "request_id"})
_KEPT_TEXT = 4096
_KEPT_ITEMS = 8


def _shortened(value: Any) -> Any:
    match value:
        case str():
            return value[:_KEPT_TEXT]
        case list():
            return [_shortened(item) for item in value[:_KEPT_ITEMS]]
        case dict():
            return {key: _shortened(item) for key, item in value.items()}
        case _:
            return value
