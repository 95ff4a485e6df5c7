"""The publishing side: numbers, the ring, what a subscription asks for, and what is too large."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.entries import AssistantItem, Message, SystemItem
from protocol.error_body import ErrorBody
from protocol.events import (
    LARGE_EVENT_BYTES,
    Alert,
    EntryEvent,
    Event,
    InvokeStart,
    RewindApplied,
    RewindSummary,
    RunEnd,
    Status,
    SystemItemEvent,
    TextDelta,
    TextDone,
    ThinkingDone,
    ToolCallDone,
    ToolOutputDelta,
    ToolResultEvent,
    UnknownEvent,
    UserMessage,
    decode_event,
)
from protocol.lanes import (
    HelloAsked,
    Lanes,
    ReplayAsked,
    ReplayEnd,
    encode_body,
    read_subscription,
)
from protocol.segments import Text
from protocol.status import AlertLevel, AlertSource, Lane, PodStatus, RunResult, Trigger
from protocol.wire import EventHeader, pack, read_header, unpack
from tests.protocol.watching import Seqs, numbered

IDLE = Status(status=PodStatus.IDLE)
LARGE = "x" * (LARGE_EVENT_BYTES + 1)


def header_of(frames: list[bytes]) -> EventHeader:
    return read_header(unpack(frames[-2]), EventHeader)


def published(lanes: Lanes, lane: Lane, count: int, *, now: float = 0) -> list[list[bytes]]:
    return [
        lanes.publish(numbered(lane, number), ts_ms=number, now=now)
        for number in range(1, count + 1)
    ]


def replayed(lanes: Lanes, lane: Lane, start: int) -> tuple[list[int], ReplayEnd]:
    """Return the numbers a replay brings, and its end mark."""
    *events, end = lanes.replay(ReplayAsked(b"replay/n/x/1", lane, start), ts_ms=0)
    assert all(message[0] == b"replay/n/x/1" for message in [*events, end])
    assert end[1] == b""
    numbers = [header_of(event).fleet_seq or header_of(event).seq for event in events]
    return numbers, ReplayEnd.from_wire(unpack(end[3]))


# -- numbers


def test_event_is_topic_header_and_body() -> None:
    topic, header, body = Lanes("alice", 3).publish(IDLE, ts_ms=17, now=0)
    assert topic == b"state/alice/status"
    assert unpack(header) == {
        "v": 1,
        "pod": "alice",
        "incarnation": 3,
        "lane": "state",
        "seq": 1,
        "ts_ms": 17,
    }
    assert decode_event("status", unpack(body)) == IDLE


def test_numbers_count_from_one_on_each_lane_by_itself() -> None:
    lanes = Lanes("alice", 1)
    assert lanes.seqs() == {Lane.STATE: 0, Lane.LOG: 0, Lane.STREAM: 0}
    for lane in Lane:
        frames = published(lanes, lane, 3)
        assert [header_of(event).seq for event in frames] == [1, 2, 3]
        assert {header_of(event).lane for event in frames} == {lane}
    assert lanes.seqs() == {Lane.STATE: 3, Lane.LOG: 3, Lane.STREAM: 3}


def test_event_passed_on_keeps_its_origins_numbers_and_gets_the_fleets() -> None:
    pod, fleet = Lanes("alice", 3), Lanes("", 0, epoch=12)
    fleet.publish_for("bob", 1, IDLE, ts_ms=1, now=0)
    topic, header, body = published(pod, Lane.STATE, 5)[4]
    passed = fleet.republish(topic, header_of([topic, header, body]), body, now=0)
    assert (passed[0], passed[2]) == (topic, body)
    got = header_of(passed)
    assert (got.pod, got.incarnation, got.lane, got.seq) == ("alice", 3, Lane.STATE, 5)
    assert (got.epoch, got.fleet_seq) == (12, 2)
    assert fleet.seqs()[Lane.STATE] == 2


def test_fleets_own_event_about_a_pod_has_the_fleets_number_alone() -> None:
    fleet = Lanes("", 0, epoch=12)
    topic, header, _ = fleet.publish_for("bob", 4, IDLE, ts_ms=1, now=0)
    got = header_of([topic, header, b""])
    assert topic == b"state/bob/status"
    assert (got.pod, got.incarnation, got.epoch, got.fleet_seq, got.seq) == ("bob", 4, 12, 1, 0)


def test_tick_names_the_newest_numbers_takes_none_and_ends_three_seconds_after_the_last() -> None:
    lanes = Lanes("alice", 1)
    assert lanes.tick(ts_ms=0, now=0) is None
    published(lanes, Lane.STREAM, 2, now=10)
    published(lanes, Lane.STATE, 1, now=10)
    frames = lanes.tick(ts_ms=0, now=13)
    assert frames is not None
    assert frames[0] == b"state/alice/tick"
    assert header_of(frames).seq == 1
    assert unpack(frames[2]) == {"seqs": {"state": 1, "log": 0, "stream": 2}}
    assert lanes.seqs()[Lane.STATE] == 1
    assert lanes.tick(ts_ms=0, now=13.01) is None


# -- what a subscription asks for


@pytest.mark.parametrize(
    ("topic", "asked"),
    [
        (b"~hello/n1", HelloAsked(b"~hello/n1")),
        (b"replay/n1/log/7", ReplayAsked(b"replay/n1/log/7", Lane.LOG, 7)),
        (b"replay/n1/state/0", ReplayAsked(b"replay/n1/state/0", Lane.STATE, 0)),
        (b"state/", None),
        (b"state/alice/", None),
        (b"", None),
        (b"~hello", None),
        (b"~hello/" + b"n" * 65, None),
        (b"replay/n1/log", None),
        (b"replay/n1/log/", None),
        (b"replay/n1/log/-1", None),
        (b"replay/n1/log/7/8", None),
        (b"replay/n1/tape/7", None),
        ("replay/n1/log/٧".encode(), None),
        ("replay/n1/log/²".encode(), None),
        (b"\xff\xfe", None),
    ],
)
def test_subscription_is_read(topic: bytes, asked: object) -> None:
    assert read_subscription(topic) == asked


@given(st.binary(max_size=60) | st.builds(lambda n: b"replay/n/log/" + n, st.binary(max_size=9000)))
def test_no_subscription_whatever_it_says_raises(topic: bytes) -> None:
    asked = read_subscription(topic)
    if isinstance(asked, ReplayAsked):
        replayed(Lanes("alice", 1), asked.lane, asked.start)


def test_hello_is_answered_on_its_own_topic_only() -> None:
    lanes = Lanes("alice", 3)
    published(lanes, Lane.LOG, 2)
    frames = lanes.snapshot(HelloAsked(b"~hello/n1"), Seqs(seqs=lanes.seqs()), ts_ms=5)
    assert frames[0] == b"~hello/n1"
    assert header_of(frames).incarnation == 3
    assert unpack(frames[2])["seqs"] == {"state": 0, "log": 2, "stream": 0}


# -- the ring


def test_replay_brings_events_from_the_number_asked_for_then_an_end() -> None:
    lanes = Lanes("alice", 1)
    frames = published(lanes, Lane.LOG, 5)
    messages = lanes.replay(ReplayAsked(b"r", Lane.LOG, 3), ts_ms=0)
    assert messages[:-1] == [[b"r", *event] for event in frames[2:]]
    assert replayed(lanes, Lane.LOG, 3) == ([3, 4, 5], ReplayEnd(lane=Lane.LOG, oldest=1, newest=5))


@pytest.mark.parametrize(("start", "numbers"), [(0, [1, 2]), (2, [2]), (3, []), (10**18, [])])
def test_replay_may_ask_for_more_than_there_is(start: int, numbers: list[int]) -> None:
    lanes = Lanes("alice", 1)
    published(lanes, Lane.LOG, 2)
    assert replayed(lanes, Lane.LOG, start)[0] == numbers


def test_replay_of_a_lane_where_nothing_was_published_is_an_end_alone() -> None:
    numbers, end = replayed(Lanes("alice", 1), Lane.LOG, 1)
    assert numbers == []
    assert end.oldest > end.newest


def test_ring_keeps_the_newest_events_of_each_lane() -> None:
    lanes = Lanes("alice", 1, ring_events=3)
    published(lanes, Lane.LOG, 10)
    published(lanes, Lane.STREAM, 2)
    assert replayed(lanes, Lane.LOG, 1) == (
        [8, 9, 10],
        ReplayEnd(lane=Lane.LOG, oldest=8, newest=10),
    )
    assert replayed(lanes, Lane.STREAM, 1)[0] == [1, 2]


def test_ring_keeps_no_more_bytes_than_it_may_but_always_the_newest_event() -> None:
    lanes = Lanes("alice", 1, ring_bytes=1000)
    for number in range(20):
        lanes.publish(TextDelta(block=number, text="x" * 200), ts_ms=0, now=0)
    numbers, _ = replayed(lanes, Lane.STREAM, 1)
    assert numbers[-1] == 20
    assert 2 <= len(numbers) <= 5
    lanes.publish(TextDelta(block=0, text="x" * 5000), ts_ms=0, now=0)
    assert replayed(lanes, Lane.STREAM, 1)[0] == [21]


# -- what is large


def test_event_of_64_kib_travels_whole() -> None:
    room = LARGE_EVENT_BYTES - len(encode_body(TextDelta(block=1, text="x" * 60_000))) + 60_000
    event = TextDelta(block=1, text="x" * room)
    assert len(encode_body(event)) == LARGE_EVENT_BYTES
    assert decode_event("text_delta", unpack(encode_body(event))) == event


LARGE_LOG = [
    UserMessage(segment_id="g", index=4, ts=5, segments=(Text(content=LARGE),)),
    SystemItemEvent(segment_id="g", index=4, ts=5, item=SystemItem(kind="knowledge", body=LARGE)),
    EntryEvent(
        segment_id="g",
        index=4,
        ts=5,
        block=7,
        entry=AssistantItem(ts=5, item=Message(role="assistant", content=LARGE)),
    ),
]


@pytest.mark.parametrize("event", LARGE_LOG, ids=lambda event: event.event)
def test_large_log_event_carries_its_position_and_size_instead(event: Event) -> None:
    body = encode_body(event)
    assert len(body) < 200
    got = decode_event(event.event, unpack(body)).to_wire()
    assert got.pop("omitted") == len(pack(event))
    assert {"segment_id": "g", "index": 4, "ts": 5}.items() <= got.items()
    assert got.get("block") == getattr(event, "block", None)
    assert "x" * 100 not in str(got)


def test_small_log_event_omits_nothing() -> None:
    event = InvokeStart(segment_id="g", index=1, ts=2, trigger=Trigger.RESUME, request_id="r")
    assert decode_event("invoke_start", unpack(encode_body(event))) == event


LARGE_OTHERS: list[Event] = [
    ToolResultEvent(id="c", summary="read", output=LARGE),
    ToolResultEvent(id="c", summary=LARGE),
    TextDelta(block=1, text=LARGE),
    TextDone(block=1, text=LARGE),
    ThinkingDone(block=1, text=LARGE),
    ToolCallDone(id="c", name="Write", arguments=LARGE),
    ToolOutputDelta(id="c", stream="stdout", text=LARGE),
    RunEnd(result=RunResult.ROLLED_BACK, input=(Text(content=LARGE),)),
    RunEnd(result=RunResult.ERRORED, error=ErrorBody(code="internal", message=LARGE)),
    RewindApplied(
        segment_id="g",
        head_entries=1,
        input=(Text(content=LARGE),),
        summary=RewindSummary(discarded_entries=1, discarded_turns=1, tools_ran=0),
    ),
    Alert(level=AlertLevel.WARN, source=AlertSource.POD, message=LARGE, timestamp_ms=1),
]


@pytest.mark.parametrize("event", LARGE_OTHERS, ids=lambda event: event.event)
def test_no_event_travels_with_more_than_64_kib(event: Event) -> None:
    body = encode_body(event)
    assert len(body) <= LARGE_EVENT_BYTES
    decode_event(event.event, unpack(body))


def test_event_of_a_newer_pod_is_passed_on_as_it_came() -> None:
    event = decode_event("sang", {"song": "la", "verses": [1, 2]})
    assert isinstance(event, UnknownEvent)
    assert unpack(encode_body(event)) == {"song": "la", "verses": [1, 2]}


@pytest.mark.parametrize("data", [None, [1], "la", 5, {}])
def test_unknown_event_is_carried_whatever_its_body(data: object) -> None:
    event = decode_event("sang", data)
    assert isinstance(event, UnknownEvent)
    assert event.name == "sang"
