"""ZeroMQ behind the seam.

Plain sockets, drained from the event loop's readiness of their descriptor.

Why not `zmq.asyncio`: it makes a future per message and costs 1.5 to 2.3 times as much. A ZeroMQ
descriptor is edge-triggered and is consumed by *any* call on its socket, sends included. So: when
it fires, drain up to a bound and look again in the next loop turn (others get theirs in between);
and after sends, look once in the next loop turn, because the send may have eaten the edge.

A context belongs to the process that made it and must never cross a fork: make the transport after
it. ROUTER is MANDATORY (an unroutable message raises instead of vanishing) and never HANDOVER (a
stranger cannot take over a route). libzmq takes over a bound path without a word and never removes
it: whoever binds holds the lock that makes it the only one, and unlinks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar

import zmq

from protocol.errors import Conflict, InvalidRequest
from protocol.transport import (
    OnFrames,
    OnRouted,
    OnSubscription,
    Unroutable,
    WouldBlock,
)
from protocol.wire import MAX_FRAME_BYTES

EVENT_HWM = 10_000
METHOD_HWM = 1_000
LINGER_MS = 500
BATCH = 256


class _ZmqSocket:
    """One socket on one loop; every subclass says what a received message means."""

    linger_ms = LINGER_MS

    def __init__(
        self, socket: zmq.Socket[bytes], loop: asyncio.AbstractEventLoop, deliver: OnFrames
    ) -> None:
        self._socket = socket
        self._loop = loop
        self._deliver = deliver
        self._looking = False
        self._closed = False
        self._fd = int(socket.getsockopt(zmq.FD))
        loop.add_reader(self._fd, self._on_ready)
        self._look_soon()

    def _look_soon(self) -> None:
        if not self._looking and not self._closed:
            self._looking = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._looking = False
        self._on_ready()

    def _on_ready(self) -> None:
        more = (
            True  # also when the callback raises: the edge is consumed, and others wait behind it
        )
        try:
            more = self._drain(BATCH)
        finally:
            if more:
                self._look_soon()

    def drain(self) -> None:
        """Hand every message that has arrived to the callback, now."""
        while self._drain(BATCH):
            pass

    def _drain(self, bound: int) -> bool:
        """Deliver up to `bound` messages; True when there may be more."""
        for _ in range(bound):
            if self._closed:
                return False
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return False
            self._deliver(frames)
        return True

    def _send(self, frames: Sequence[bytes]) -> None:
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again as error:
            raise WouldBlock from error
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                raise Unroutable from error
            raise
        finally:
            self._look_soon()

    def close(self) -> None:
        """Close at once; libzmq goes on sending for at most the linger."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._fd)
            self._socket.close(self.linger_ms)


S = TypeVar("S", bound=_ZmqSocket)


def _bind(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Bind, or close the socket: one left open would keep its context from ending."""
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        socket.close(0)
        kind = Conflict if error.errno == zmq.EADDRINUSE else InvalidRequest
        raise kind(f"{endpoint} cannot be bound: {error.strerror}") from error


class _Router(_ZmqSocket):
    def send(self, route: bytes, frames: Sequence[bytes]) -> None:
        self._send([route, *frames])


class _Dealer(_ZmqSocket):
    def send(self, frames: Sequence[bytes]) -> None:
        self._send(frames)


class _Publisher(_ZmqSocket):
    def send(self, frames: Sequence[bytes]) -> None:
        self._send(frames)


class _Subscriber(_ZmqSocket):
    linger_ms = 0  # what it would still send are subscriptions; a publisher that is gone has no use

    def subscribe(self, topic: bytes) -> None:
        self._socket.setsockopt(zmq.SUBSCRIBE, topic)
        self._look_soon()

    def unsubscribe(self, topic: bytes) -> None:
        self._socket.setsockopt(zmq.UNSUBSCRIBE, topic)
        self._look_soon()

    def connect(self, endpoint: str) -> None:
        self._socket.connect(endpoint)
        self._look_soon()

    def disconnect(self, endpoint: str) -> None:
        self._socket.disconnect(endpoint)


class ZmqTransport:
    """Sockets of one process on one event loop, sharing one context."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, io_threads: int = 1) -> None:
        self._loop = loop
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads)
        self._sockets: list[_ZmqSocket] = []

    def router(self, endpoint: str, on_message: OnRouted) -> _Router:
        """Bind a router; MANDATORY, so that nothing is dropped silently."""
        socket = self._make(zmq.ROUTER, METHOD_HWM)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        _bind(socket, endpoint)
        return self._own(_Router(socket, self._loop, lambda f: on_message(f[0], f[1:])))

    def dealer(self, endpoint: str, on_message: OnFrames) -> _Dealer:
        """Connect a dealer; its routing id is left to ZeroMQ."""
        socket = self._make(zmq.DEALER, METHOD_HWM)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        socket.connect(endpoint)
        return self._own(_Dealer(socket, self._loop, on_message))

    def publisher(self, endpoint: str, on_subscription: OnSubscription) -> _Publisher:
        """Bind an XPUB that reports every subscription, repeated ones too."""
        socket = self._make(zmq.XPUB, EVENT_HWM)
        socket.setsockopt(zmq.XPUB_VERBOSER, 1)
        _bind(socket, endpoint)

        def asked(frames: list[bytes]) -> None:
            if frames and frames[0]:
                on_subscription(frames[0][1:], frames[0][0] == 1)

        return self._own(_Publisher(socket, self._loop, asked))

    def subscriber(self, on_message: OnFrames) -> _Subscriber:
        """Make a SUB with room for a burst."""
        socket = self._make(zmq.SUB, EVENT_HWM)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        return self._own(_Subscriber(socket, self._loop, on_message))

    def close(self) -> None:
        """Close the sockets, then the context.

        Waits at most the linger for what is still to be sent.
        """
        for socket in self._sockets:
            socket.close()
        self._sockets.clear()
        self._context.term()

    def _make(self, kind: int, high_water_mark: int) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        socket.setsockopt(zmq.SNDHWM, high_water_mark)
        socket.setsockopt(zmq.RCVHWM, high_water_mark)
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        return socket

    def _own(self, socket: S) -> S:
        self._sockets.append(socket)
        return socket
