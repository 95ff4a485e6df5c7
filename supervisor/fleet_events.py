"""The fleet's own publisher.

The pods' state lanes passed on, and what the supervisor itself has to say.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from protocol.events import Event, topic
from protocol.lanes import HelloAsked, Lanes, ReplayAsked, encode_body, read_subscription
from protocol.snapshot import FleetSnapshot
from protocol.status import Lane
from protocol.transport import Publisher, Transport
from protocol.wire import EventHeader
from supervisor.background import wall_ms


class FleetEvents:
    """The XPUB of one supervisor; a new supervisor is a new epoch."""

    def __init__(
        self,
        transport: Transport,
        endpoint: str,
        *,
        epoch: int,
        snapshot: Callable[[dict[Lane, int]], FleetSnapshot],
    ) -> None:
        self.endpoint = endpoint
        self._lanes = Lanes("", 0, epoch=epoch)
        self._snapshot = snapshot
        self._socket: Publisher = transport.publisher(endpoint, self._on_subscription)

    def publish(self, pod: str, incarnation: int, event: Event) -> None:
        """Say something about a pod ("" = the fleet)."""
        self._socket.send(
            self._lanes.publish_for(pod, incarnation, event, ts_ms=wall_ms(), now=time.monotonic())
        )

    def pass_on(self, header: EventHeader, event: Event) -> None:
        """Republish a pod's event; its own numbers stay on it."""
        self._socket.send(
            self._lanes.republish(
                topic(event, header.pod).encode(),
                header,
                encode_body(event),
                now=time.monotonic(),
            )
        )

    def tick(self) -> None:
        """Once a second: tell the newest number, so that a lost last event is noticed."""
        frames = self._lanes.tick(ts_ms=wall_ms(), now=time.monotonic())
        if frames is not None:
            self._socket.send(frames)

    def _on_subscription(self, asked_topic: bytes, is_on: bool) -> None:
        asked = read_subscription(asked_topic) if is_on else None
        match asked:
            case HelloAsked():
                snapshot = self._snapshot(self._lanes.seqs())
                self._socket.send(self._lanes.snapshot(asked, snapshot, ts_ms=wall_ms()))
            case ReplayAsked():
                for frames in self._lanes.replay(asked, ts_ms=wall_ms()):
                    self._socket.send(frames)
            case None:
                pass
