"""The transport seam: four kinds of socket as Protocols, with two implementations behind them.

`protocol.transport.zeromq` is the real one, `protocol.transport.memory` its deterministic twin for
tests; one contract test file runs over both. Everything is driven by callbacks on one event loop;
nothing blocks.

What the seam promises:
  - frames of one dealer to one router arrive in order, and so do those of a router to one dealer;
  - a router that cannot deliver raises `Unroutable` (nobody there) or `WouldBlock` (full) at once;
  - a publisher sees every subscription, in the order they were made; a subscriber gets what was
    published after its subscription arrived, or silently nothing beyond the publisher's high-water
    mark.
What it does not promise: that a frame sent by a dealer arrives at all. That is what replies are
for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol


class Unroutable(Exception):
    """Nobody is connected under this route."""


class WouldBlock(Exception):
    """The peer's queue is full; nothing was queued."""


class Socket(Protocol):
    """What all sockets can do."""

    def drain(self) -> None:
        """Hand every message that has arrived to the callback, now."""

    def close(self) -> None:
        """Close at once; frames not yet handed over get at most the transport's linger."""


class Router(Socket, Protocol):
    """Bound; speaks to many dealers by route."""

    def send(self, route: bytes, frames: Sequence[bytes]) -> None:
        """Send to one dealer; raises Unroutable or WouldBlock."""


class Dealer(Socket, Protocol):
    """Connected to one router; reconnects by itself."""

    def send(self, frames: Sequence[bytes]) -> None:
        """Send; raises WouldBlock when the queue is full."""


class Publisher(Socket, Protocol):
    """Bound; publishes to whoever subscribed to a prefix of the first frame."""

    def send(self, frames: Sequence[bytes]) -> None:
        """Publish; never blocks and never raises for a slow subscriber."""


class Subscriber(Socket, Protocol):
    """Connected to one or more publishers."""

    def subscribe(self, topic: bytes) -> None:
        """Add a prefix."""

    def unsubscribe(self, topic: bytes) -> None:
        """Take a prefix back."""

    def connect(self, endpoint: str) -> None:
        """Follow one more publisher."""

    def disconnect(self, endpoint: str) -> None:
        """Follow it no more."""


OnRouted = Callable[[bytes, list[bytes]], None]
OnFrames = Callable[[list[bytes]], None]
OnSubscription = Callable[[bytes, bool], None]


class Transport(Protocol):
    """Makes sockets; owns whatever they share."""

    def router(self, endpoint: str, on_message: OnRouted) -> Router:
        """Bind a router; raises Conflict or InvalidRequest for an endpoint that cannot be bound."""

    def dealer(self, endpoint: str, on_message: OnFrames) -> Dealer:
        """Connect a dealer."""

    def publisher(self, endpoint: str, on_subscription: OnSubscription) -> Publisher:
        """Bind a publisher; the callback gets each (un)subscription."""

    def subscriber(self, on_message: OnFrames) -> Subscriber:
        """Make a subscriber that is connected to nothing yet."""

    def close(self) -> None:
        """Close every socket, then what they share; bounded by the linger."""
