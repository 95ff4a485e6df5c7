"""The in-memory twin of the transport: same promises, no sockets, delivery when you say so.

A `MemoryNet` is the wire. Nothing is delivered by itself: `pump()` hands every message on until
none is left, so a test is one straight line. `lose` decides which published messages vanish, as PUB
may do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from protocol.transport import OnFrames, OnRouted, OnSubscription, Unroutable, WouldBlock


class _Box:
    """A queue of frames before one callback."""

    def __init__(self, deliver: OnFrames, room: int) -> None:
        self._deliver = deliver
        self._queue: deque[list[bytes]] = deque()
        self._room = room
        self.closed = False

    def put(self, frames: Sequence[bytes]) -> None:
        if self.closed:
            raise Unroutable
        if len(self._queue) >= self._room:
            raise WouldBlock
        self._queue.append([bytes(frame) for frame in frames])

    def drain(self) -> None:
        while self._queue and not self.closed:
            self._deliver(self._queue.popleft())

    def close(self) -> None:
        self.closed = True
        self._queue.clear()

    def __len__(self) -> int:
        return len(self._queue)


class MemoryNet:
    """All endpoints of one test."""

    def __init__(self, *, method_room: int = 1000, event_room: int = 10_000) -> None:
        self.method_room = method_room
        self.event_room = event_room
        self.lose: Callable[[list[bytes]], bool] = lambda frames: False
        self.boxes: list[_Box] = []
        self.routers: dict[str, _Router] = {}
        self.publishers: dict[str, _Publisher] = {}
        self.subscribers: list[_Subscriber] = []
        self._routes = 0

    def pump(self) -> None:
        """Deliver until nothing is on the way."""
        while any(len(box) for box in self.boxes):
            for box in list(self.boxes):
                box.drain()

    def box(self, deliver: OnFrames, room: int) -> _Box:
        """Make a queue that `pump` empties."""
        made = _Box(deliver, room)
        self.boxes.append(made)
        return made

    def route(self) -> bytes:
        """Return a routing id that was never used."""
        self._routes += 1
        return self._routes.to_bytes(5, "big")


class _Router:
    def __init__(self, net: MemoryNet, endpoint: str, on_message: OnRouted) -> None:
        self.peers: dict[bytes, _Box] = {}
        self.box = net.box(lambda f: on_message(f[0], f[1:]), net.method_room * 100)
        net.routers[endpoint] = self

    def send(self, route: bytes, frames: Sequence[bytes]) -> None:
        peer = self.peers.get(route)
        if peer is None:
            raise Unroutable
        peer.put(frames)

    def drain(self) -> None:
        self.box.drain()

    def close(self) -> None:
        self.box.close()


class _Dealer:
    def __init__(self, net: MemoryNet, endpoint: str, on_message: OnFrames) -> None:
        self._net, self._endpoint = net, endpoint
        self.route = net.route()
        self.box = net.box(on_message, net.method_room)

    def send(self, frames: Sequence[bytes]) -> None:
        router = self._net.routers.get(self._endpoint)
        if router is None or router.box.closed:
            return
        router.peers[self.route] = self.box
        router.box.put([self.route, *frames])

    def drain(self) -> None:
        self.box.drain()

    def close(self) -> None:
        self.box.close()


class _Publisher:
    def __init__(self, net: MemoryNet, endpoint: str, on_subscription: OnSubscription) -> None:
        self._net, self._endpoint = net, endpoint
        self.box = net.box(lambda f: on_subscription(f[1], f[0] == b"\1"), net.event_room)
        net.publishers[endpoint] = self
        for subscriber in net.subscribers:
            if endpoint in subscriber.endpoints:
                subscriber.announce(self)

    def send(self, frames: Sequence[bytes]) -> None:
        sent = [bytes(frame) for frame in frames]
        for subscriber in self._net.subscribers:
            if self._endpoint in subscriber.endpoints and subscriber.wants(sent[0]):
                subscriber.offer(sent)

    def drain(self) -> None:
        self.box.drain()

    def close(self) -> None:
        self.box.close()
        self._net.publishers.pop(self._endpoint, None)


class _Subscriber:
    def __init__(self, net: MemoryNet, on_message: OnFrames) -> None:
        self._net = net
        self.endpoints: set[str] = set()
        self.topics: list[bytes] = []
        self.box = net.box(on_message, net.event_room)
        net.subscribers.append(self)

    def wants(self, topic: bytes) -> bool:
        return any(topic.startswith(prefix) for prefix in self.topics)

    def offer(self, frames: list[bytes]) -> None:
        if self.box.closed or self._net.lose(frames):
            return
        try:
            self.box.put(frames)
        except WouldBlock:
            return  # PUB drops for a subscriber that does not keep up: the numbers tell

    def announce(self, publisher: _Publisher) -> None:
        for topic in sorted(self.topics):
            publisher.box.put([b"\1", topic])

    def subscribe(self, topic: bytes) -> None:
        self.topics.append(topic)
        self._tell(b"\1", topic)

    def unsubscribe(self, topic: bytes) -> None:
        if topic in self.topics:
            self.topics.remove(topic)
            self._tell(b"\0", topic)

    def _tell(self, mark: bytes, topic: bytes) -> None:
        for endpoint in self.endpoints:
            if (publisher := self._net.publishers.get(endpoint)) is not None:
                publisher.box.put([mark, topic])

    def connect(self, endpoint: str) -> None:
        self.endpoints.add(endpoint)
        if (publisher := self._net.publishers.get(endpoint)) is not None:
            self.announce(publisher)

    def disconnect(self, endpoint: str) -> None:
        self.endpoints.discard(endpoint)

    def drain(self) -> None:
        self.box.drain()

    def close(self) -> None:
        self.box.close()
        self._net.subscribers.remove(self)


class MemoryTransport:
    """The sockets of one party on a `MemoryNet`."""

    def __init__(self, net: MemoryNet) -> None:
        self.net = net
        self._sockets: list[_Router | _Dealer | _Publisher | _Subscriber] = []

    def router(self, endpoint: str, on_message: OnRouted) -> _Router:
        """Bind a router."""
        self._sockets.append(made := _Router(self.net, endpoint, on_message))
        return made

    def dealer(self, endpoint: str, on_message: OnFrames) -> _Dealer:
        """Connect a dealer."""
        self._sockets.append(made := _Dealer(self.net, endpoint, on_message))
        return made

    def publisher(self, endpoint: str, on_subscription: OnSubscription) -> _Publisher:
        """Bind a publisher."""
        self._sockets.append(made := _Publisher(self.net, endpoint, on_subscription))
        return made

    def subscriber(self, on_message: OnFrames) -> _Subscriber:
        """Make a subscriber."""
        self._sockets.append(made := _Subscriber(self.net, on_message))
        return made

    def close(self) -> None:
        """Close every socket."""
        for socket in self._sockets:
            socket.close()
        self._sockets.clear()
