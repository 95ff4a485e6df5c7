"""What the transport seam promises, over its in-memory twin and over ZeroMQ."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol.errors import Conflict, InvalidRequest
from protocol.transport import Dealer, Router, Transport, Unroutable, WouldBlock
from tests.contract.transports import MemoryRig, Rig, ZmqRig
from tests.support.leaks import Held, assert_nothing_leaked

ENOUGH = 200_000


@pytest.fixture(params=[MemoryRig, ZmqRig], ids=["memory", "zeromq"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made: Rig = request.param()
    yield made
    made.close()


class Served:
    """A router that keeps what it gets, and answers with `reply`."""

    def __init__(self, rig: Rig, name: str = "r", transport: Transport | None = None) -> None:
        self.got: list[tuple[bytes, list[bytes]]] = []
        self.reply: Callable[[bytes, list[bytes]], None] = lambda route, frames: None
        made = transport or rig.transport()
        self.socket: Router = made.router(rig.endpoint(name), self._on_message)

    def _on_message(self, route: bytes, frames: list[bytes]) -> None:
        self.got.append((route, frames))
        self.reply(route, frames)

    @property
    def frames(self) -> list[list[bytes]]:
        return [frames for _, frames in self.got]


class Dealt:
    """A dealer that keeps what it gets."""

    def __init__(self, rig: Rig, name: str = "r", transport: Transport | None = None) -> None:
        self.got: list[list[bytes]] = []
        self.transport = transport or rig.transport()
        self.socket: Dealer = self.transport.dealer(rig.endpoint(name), self.got.append)

    def greet(self, rig: Rig, served: Served) -> bytes:
        """Become known to the router; returns the route."""
        count = len(served.got)
        self.socket.send([b"hello"])
        rig.until(lambda: len(served.got) > count, "the greeting arrives")
        return served.got[-1][0]


class Published:
    """A publisher that keeps the subscriptions it sees."""

    def __init__(self, rig: Rig, name: str = "p", transport: Transport | None = None) -> None:
        self.asked: list[tuple[bytes, bool]] = []
        self.on_asked: Callable[[bytes, bool], None] = lambda topic, is_on: None
        made = transport or rig.transport()
        self.socket = made.publisher(rig.endpoint(name), self._on_subscription)

    def _on_subscription(self, topic: bytes, is_on: bool) -> None:
        self.asked.append((topic, is_on))
        self.on_asked(topic, is_on)

    def sees(self, *topics: bytes) -> bool:
        return [topic for topic, is_on in self.asked if is_on] == list(topics)


class Subscribed:
    """A subscriber that keeps what it gets."""

    def __init__(self, rig: Rig, *topics: bytes, name: str = "p") -> None:
        self.got: list[list[bytes]] = []
        self.socket = rig.transport().subscriber(self.got.append)
        self.socket.connect(rig.endpoint(name))
        for topic in topics:
            self.socket.subscribe(topic)


def sends_until_blocked(send: Callable[[int], None]) -> int:
    """Send until the queue is full; returns how many were taken."""
    for number in range(ENOUGH):
        try:
            send(number)
        except WouldBlock:
            return number
    raise AssertionError("the queue is never full")


# -- methods


def test_frames_travel_both_ways_as_they_are(rig: Rig) -> None:
    served, dealt = Served(rig), Dealt(rig)
    served.reply = lambda route, frames: served.socket.send(route, [*frames, b"back"])
    for frames in ([b"one"], [b"", b"\x00\xff", b""], [b"x" * 1_000_000, b"body"]):
        dealt.socket.send(frames)
    rig.until(lambda: len(dealt.got) == 3, "three answers")
    assert served.frames == [[b"one"], [b"", b"\x00\xff", b""], [b"x" * 1_000_000, b"body"]]
    assert dealt.got == [[*frames, b"back"] for frames in served.frames]


def test_messages_of_a_dealer_arrive_in_order_and_so_do_the_answers(rig: Rig) -> None:
    served, dealt = Served(rig), Dealt(rig)
    served.reply = lambda route, frames: served.socket.send(route, frames)
    sent = [[str(number).encode()] for number in range(900)]
    for frames in sent:
        dealt.socket.send(frames)
    rig.until(lambda: len(dealt.got) == 900, "all answers")
    assert served.frames == dealt.got == sent


def test_answer_goes_to_the_asker_alone(rig: Rig) -> None:
    served, one, other = Served(rig), Dealt(rig), Dealt(rig)
    route = one.greet(rig, served)
    assert other.greet(rig, served) != route
    served.socket.send(route, [b"for one"])
    rig.until(lambda: one.got == [[b"for one"]], "the answer arrives")
    rig.idle()
    assert other.got == []


def test_route_nobody_ever_had_is_unroutable_at_once(rig: Rig) -> None:
    served = Served(rig)
    with pytest.raises(Unroutable):
        served.socket.send(b"nobody", [b"x"])


def test_route_of_a_dealer_that_closed_becomes_unroutable(rig: Rig) -> None:
    served, dealt = Served(rig), Dealt(rig)
    route = dealt.greet(rig, served)
    dealt.transport.close()

    def is_gone() -> bool:
        try:
            served.socket.send(route, [b"x"])
        except Unroutable:
            return True
        return False

    rig.until(is_gone, "the route is gone")


def test_dealer_that_reads_nothing_blocks_its_router_alone_and_not_for_ever(rig: Rig) -> None:
    served, slow, quick = Served(rig), Dealt(rig), Dealt(rig)
    route, other = slow.greet(rig, served), quick.greet(rig, served)
    sent = sends_until_blocked(
        lambda number: served.socket.send(route, [number.to_bytes(4, "big"), b"x" * 1000])
    )
    assert sent >= 1000
    served.socket.send(other, [b"you are free"])
    rig.until(lambda: quick.got == [[b"you are free"]], "others are answered")
    rig.until(lambda: len(slow.got) == sent, "all that was taken arrives")
    assert [int.from_bytes(frames[0], "big") for frames in slow.got] == list(range(sent))
    served.socket.send(route, [b"again"])
    rig.until(lambda: slow.got[-1] == [b"again"], "there is room again")


def test_dealer_whose_queue_is_full_is_told(rig: Rig) -> None:
    Served(rig)
    dealt = Dealt(rig)
    assert sends_until_blocked(lambda number: dealt.socket.send([b"x" * 1000])) >= 1000


def test_dealer_may_come_before_its_router_and_outlive_it(rig: Rig) -> None:
    dealt = Dealt(rig)
    transport = rig.transport()
    first = Served(rig, transport=transport)
    dealt.greet(rig, first)
    transport.close()
    second = Served(rig)

    def is_heard() -> bool:
        with contextlib.suppress(WouldBlock):
            dealt.socket.send([b"are you there"])
        return bool(second.got)

    is_heard()
    rig.until(is_heard, "the new router hears")
    second.socket.send(second.got[0][0], [b"yes"])
    rig.until(lambda: dealt.got == [[b"yes"]], "and answers")


def test_drain_hands_over_at_once_what_has_arrived(rig: Rig) -> None:
    served, dealt = Served(rig), Dealt(rig)
    route = dealt.greet(rig, served)
    served.socket.send(route, [b"1"])
    served.socket.send(route, [b"2"])

    def drained() -> bool:
        dealt.socket.drain()
        return len(dealt.got) == 2

    rig.until(drained, "both messages")
    assert dealt.got == [[b"1"], [b"2"]]


def test_callback_that_raises_stops_nothing_that_comes_after(rig: Rig) -> None:
    served, dealt = Served(rig), Dealt(rig)
    dealt.greet(rig, served)

    def fail(route: bytes, frames: list[bytes]) -> None:
        if frames == [b"3"]:
            raise ValueError("three")

    served.reply = fail
    for number in range(10):
        dealt.socket.send([str(number).encode()])
    rig.until(lambda: len(served.got) == 11, "what comes after the failure")
    assert [str(problem) for problem in rig.problems] == ["three"]


def test_socket_closed_by_its_own_callback_hands_over_nothing_more(rig: Rig) -> None:
    served, dealt = Served(rig), Dealt(rig)
    dealt.greet(rig, served)
    served.reply = lambda route, frames: served.socket.close()
    for number in range(10):
        dealt.socket.send([str(number).encode()])
    rig.until(lambda: len(served.got) == 2, "the first of them")
    rig.idle()
    assert len(served.got) == 2
    served.socket.close()


# -- events


def test_subscriber_gets_what_is_published_under_its_prefixes_in_order(rig: Rig) -> None:
    published, subscribed = Published(rig), Subscribed(rig, b"state/", b"log/al")
    rig.until(lambda: published.sees(b"state/", b"log/al"), "both subscriptions")
    topics = [
        b"state/alice/status",
        b"log/alice/entry",
        b"log/bob/entry",
        b"stream/x",
        b"state/bob/x",
    ]
    for number, topic in enumerate(topics):
        published.socket.send([topic, str(number).encode(), b"body"])
    rig.until(lambda: len(subscribed.got) == 3, "three events")
    rig.idle()
    assert [frames[1] for frames in subscribed.got] == [b"0", b"1", b"4"]


def test_what_is_published_from_the_callback_on_reaches_the_subscriber(rig: Rig) -> None:
    published = Published(rig)
    published.on_asked = lambda topic, is_on: published.socket.send([topic, b"snapshot"])
    subscribed = Subscribed(rig, b"state/", b"~hello/n")
    rig.until(lambda: len(subscribed.got) == 2, "both answers")
    published.socket.send([b"state/alice/status", b"later"])
    rig.until(lambda: len(subscribed.got) == 3, "what came later")
    assert subscribed.got == [
        [b"state/", b"snapshot"],
        [b"~hello/n", b"snapshot"],
        [b"state/alice/status", b"later"],
    ]


def test_every_subscription_is_seen_in_its_order_repeated_ones_of_others_too(rig: Rig) -> None:
    published = Published(rig)
    first = Subscribed(rig, b"stream/", b"log/", b"state/", b"~hello/1")
    rig.until(lambda: published.sees(b"stream/", b"log/", b"state/", b"~hello/1"), "the first")
    del published.asked[:]
    Subscribed(rig, b"state/", b"~hello/2")
    rig.until(lambda: published.sees(b"state/", b"~hello/2"), "the second, known topics too")
    first.socket.unsubscribe(b"state/")
    rig.until(lambda: (b"state/", False) in published.asked, "the end of the first's")


def test_subscription_taken_back_brings_nothing_more(rig: Rig) -> None:
    published, subscribed = Published(rig), Subscribed(rig, b"a", b"b")
    rig.until(lambda: published.sees(b"a", b"b"), "the subscriptions")
    subscribed.socket.unsubscribe(b"a")
    rig.until(lambda: (b"a", False) in published.asked, "its end")
    published.socket.send([b"a1"])
    published.socket.send([b"b1"])
    rig.until(lambda: subscribed.got == [[b"b1"]], "the other one")


def test_publisher_without_subscribers_is_never_stopped(rig: Rig) -> None:
    published = Published(rig)
    for number in range(20_000):
        published.socket.send([b"stream/alice/text_delta", str(number).encode()])


def test_subscriber_that_reads_nothing_loses_events_and_never_stops_the_publisher(rig: Rig) -> None:
    published, slow = Published(rig), Subscribed(rig, b"s")
    rig.until(lambda: published.sees(b"s"), "the subscription")
    for number in range(60_000):
        published.socket.send([b"s", number.to_bytes(4, "big"), b"x" * 100])
    rig.idle()

    published.socket.send([b"s", b"last"])

    def one_more_arrives() -> bool:
        if slow.got[-1] == [b"s", b"last"]:
            return True
        published.socket.send([b"s", b"last"])  # the one before was lost, too: there was no room
        return False

    rig.until(one_more_arrives, "it goes on when it reads again")
    numbers = [int.from_bytes(frames[1], "big") for frames in slow.got if len(frames) == 3]
    assert 10_000 <= len(numbers) < 60_000
    assert numbers == sorted(set(numbers))


def test_publisher_that_comes_late_sees_all_subscriptions_the_tilde_last(rig: Rig) -> None:
    Subscribed(rig, b"stream/", b"log/", b"replay/n/log/7", b"state/", b"~hello/n")
    published = Published(rig)
    topics = [b"log/", b"replay/n/log/7", b"state/", b"stream/", b"~hello/n"]
    rig.until(lambda: len(published.asked) == 5, "all subscriptions")
    assert sorted(published.asked) == [(topic, True) for topic in topics]
    assert published.asked[-1] == (b"~hello/n", True)


def test_publisher_that_comes_again_is_told_all_subscriptions_again(rig: Rig) -> None:
    transport = rig.transport()
    first = Published(rig, transport=transport)
    subscribed = Subscribed(rig, b"state/", b"log/", b"~hello/n", b"stream/")
    rig.until(lambda: len(first.asked) == 4, "all subscriptions")
    transport.close()
    second = Published(rig)
    second.on_asked = lambda topic, is_on: second.socket.send([topic, b"snapshot"])
    rig.until(lambda: len(second.asked) == 4, "all of them again")
    assert second.asked[-1] == (b"~hello/n", True)
    assert {topic for topic, _ in second.asked} == {b"state/", b"log/", b"~hello/n", b"stream/"}
    rig.until(lambda: [b"~hello/n", b"snapshot"] in subscribed.got, "a new snapshot")


def test_subscriber_follows_several_publishers_and_leaves_one(rig: Rig) -> None:
    one, two = Published(rig, "p1"), Published(rig, "p2")
    subscribed = Subscribed(rig, b"s", name="p1")
    subscribed.socket.connect(rig.endpoint("p2"))
    rig.until(lambda: one.sees(b"s") and two.sees(b"s"), "both see it")
    one.socket.send([b"s", b"1"])
    two.socket.send([b"s", b"2"])
    rig.until(lambda: len(subscribed.got) == 2, "one event of each")
    subscribed.socket.disconnect(rig.endpoint("p1"))
    rig.idle()
    one.socket.send([b"s", b"3"])
    two.socket.send([b"s", b"4"])
    rig.until(lambda: subscribed.got[-1] == [b"s", b"4"], "the other goes on")
    rig.idle()
    assert [b"s", b"3"] not in subscribed.got


# -- the end


def test_closing_leaves_no_descriptor_and_no_thread(rig: Rig) -> None:
    before = Held.now()
    transport = rig.transport()
    served = Served(rig, transport=transport)
    dealt = Dealt(rig, transport=transport)
    Published(rig, transport=transport)
    dealt.greet(rig, served)
    dealt.socket.send([b"on its way"])
    transport.close()
    rig.idle()
    assert_nothing_leaked(before)
    transport.close()


@pytest.mark.timeout(60)
def test_closing_does_not_wait_for_somebody_who_never_comes(rig: Rig) -> None:
    transport = rig.transport()
    dealt = Dealt(rig, transport=transport)
    with contextlib.suppress(WouldBlock):
        for _ in range(10):
            dealt.socket.send([b"is anybody there"])
    began = time.monotonic()
    transport.close()
    assert time.monotonic() - began < 5


def test_socket_may_be_closed_twice_and_before_its_transport(rig: Rig) -> None:
    served = Served(rig)
    served.socket.close()
    served.socket.close()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["router", "publisher"])
@pytest.mark.parametrize(
    ("endpoint", "error"),
    [
        ("ipc:///tmp/" + "x" * 120, InvalidRequest),
        ("ipc:///nowhere/at/all", InvalidRequest),
        ("nonsense", InvalidRequest),
    ],
)
def test_endpoint_that_cannot_be_bound_is_an_error_with_a_name(
    kind: str, endpoint: str, error: type[Exception]
) -> None:
    rig = ZmqRig()
    transport = rig.transport()
    try:
        bind = transport.router if kind == "router" else transport.publisher
        with pytest.raises(error) as caught:
            bind(endpoint, lambda one, other: None)
        assert endpoint in str(caught.value)
    finally:
        rig.close()  # must not hang for the socket that was never bound


@pytest.mark.timeout(60)
def test_endpoint_in_a_folder_that_is_no_folder_is_an_error_with_a_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    rig = ZmqRig()
    try:
        with pytest.raises((InvalidRequest, Conflict)):
            rig.transport().router(f"ipc://{tmp_path}/file/s", lambda route, frames: None)
    finally:
        rig.close()
