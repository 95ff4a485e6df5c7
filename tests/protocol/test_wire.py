"""Frames: what is a message, what is refused and how; garbage never does anything else."""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings

from protocol.control import Ping
from protocol.errors import ErrorCode, PodsupError, TooLarge, UnknownPod, UnsupportedVersion
from protocol.methods import Notify
from protocol.status import PodStatus
from protocol.wire import (
    MAX_BODY_BYTES,
    MAX_DEADLINE_MS,
    MAX_FRAME_BYTES,
    MAX_FRAMES,
    MAX_HEADER_BYTES,
    VERSION,
    BadFrame,
    BeatHeader,
    EventHeader,
    ForwardHeader,
    ReplyHeader,
    RequestHeader,
    WhoHeader,
    body_of,
    header_fields,
    message,
    pack,
    read_body,
    read_header,
    unpack,
)
from supervisor.broker import Broker, Principal
from tests.protocol.garbage import bomb, frame_lists, stream

KINDS = (RequestHeader, ForwardHeader, ReplyHeader, BeatHeader, WhoHeader, EventHeader)
RUN = RequestHeader(id="r-1", to="alice", method="run", token="t")


def fields(**changes: Any) -> bytes:
    """Return a packed request header with some fields changed."""
    return pack(RUN.to_wire() | changes)


def broker() -> Broker:
    """Return a broker that knows an operator and one pod, alice, on route `pod`."""

    def presence(name: str) -> tuple[int, bool]:
        if name != "alice":
            raise UnknownPod("no pod has this name", pod=name)
        return 1, True

    made = Broker(presence)
    made.trust_operator("operator-token")
    made.trust_pod("alice", 1, "alice-token")
    made.bind(b"pod", Principal("alice", 1))
    return made


# -- envelopes


def test_numbers_of_the_protocol() -> None:
    assert (VERSION, MAX_FRAMES) == (1, 4)
    assert (MAX_BODY_BYTES, MAX_FRAME_BYTES) == (16 * 2**20, 64 * 2**20)


def test_message_is_a_header_and_a_body() -> None:
    header, body = message(RUN, Notify(message="look"))
    assert unpack(header) == {
        "v": 1,
        "type": "request",
        "id": "r-1",
        "to": "alice",
        "method": "run",
        "token": "t",
    }
    assert unpack(body) == {"message": "look", "auto_run": True, "queued": False, "news": []}


def test_message_without_a_body_has_an_empty_one() -> None:
    frames = message(WhoHeader())
    assert frames[1] == b""
    assert read_body(body_of(frames)) is None


def test_packed_body_is_handed_on_as_it_is() -> None:
    assert message(RUN, b"\xc1 anything")[1] == b"\xc1 anything"


def test_header_is_read_without_the_body() -> None:
    frames = [fields(), b"\xc1 no msgpack"]
    assert read_header(header_fields(frames), RequestHeader) == RUN


def test_forwarded_request_says_from_and_knows_no_token() -> None:
    header = ForwardHeader(id="r-1", sender="operator", method="run")
    assert header.to_wire()["from"] == "operator"
    assert "token" not in ForwardHeader.model_fields
    assert "to" not in ForwardHeader.model_fields


def test_header_keeps_working_with_fields_of_a_newer_sender() -> None:
    assert read_header(header_fields([fields(priority=3)]), RequestHeader) == RUN


# -- refusals


@pytest.mark.parametrize("count", [0, 5, 100])
def test_too_few_or_too_many_frames_are_no_message(count: int) -> None:
    with pytest.raises(BadFrame):
        header_fields([fields()] * count)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xc1",
        b"\x01",
        pack([1, 2]),
        pack("request"),
        pack({}),
        pack({"v": "1"}),
        pack({"v": None}),
        pack({"v": 1.0}),
        pack({"v": True}),
        msgpack.packb({1: 2, "v": 1}),
        fields() + b"\x00",
        fields()[:-1],
        b"\xa2\xff\xfe",
        bomb(b"\x91", 100_000),
        bomb(b"\x81\xa1v", 5_000),
        b"\xdf\xff\xff\xff\xff",
    ],
)
def test_header_that_is_none_is_a_bad_frame(header: bytes) -> None:
    with pytest.raises(BadFrame):
        header_fields([header, b""])


def test_header_over_its_limit_is_a_bad_frame_and_is_not_unpacked() -> None:
    room = MAX_HEADER_BYTES - len(fields(x=""))
    assert header_fields([fields(x="a" * (room - 10))])
    with pytest.raises(BadFrame, match=str(MAX_HEADER_BYTES + 1)):
        header_fields([b"\xc1" * (MAX_HEADER_BYTES + 1)])


@pytest.mark.parametrize("theirs", [0, 2, 99, -1, 2**63])
def test_other_version_is_refused_with_both_named(theirs: int) -> None:
    with pytest.raises(UnsupportedVersion) as caught:
        header_fields([fields(v=theirs), b""])
    assert caught.value.details == {"theirs": theirs, "ours": VERSION}
    assert str(theirs) in caught.value.message
    assert str(VERSION) in caught.value.message
    assert caught.value.to_body().code == ErrorCode.UNSUPPORTED_VERSION


@pytest.mark.parametrize(
    "changes",
    [
        {"id": ""},
        {"id": "x" * 129},
        {"id": None},
        {"id": 7},
        {"to": "x" * 65},
        {"method": "x" * 65},
        {"method": None},
        {"deadline_ms": -1},
        {"deadline_ms": MAX_DEADLINE_MS + 1},
        {"deadline_ms": "soon"},
        {"token": "x" * 129},
        {"type": "reply"},
    ],
)
def test_request_header_with_a_bad_field_is_a_bad_frame(changes: dict[str, Any]) -> None:
    with pytest.raises(BadFrame, match="RequestHeader"):
        read_header(header_fields([fields(**changes)]), RequestHeader)


def test_reply_with_a_status_nobody_knows_is_a_bad_frame() -> None:
    good = ReplyHeader(id="r", ok=True, status=PodStatus.IDLE, seq=1).to_wire()
    assert read_header(good, ReplyHeader).status is PodStatus.IDLE
    with pytest.raises(BadFrame):
        read_header(good | {"status": "dreaming"}, ReplyHeader)


def test_body_over_the_limit_is_too_large_and_says_by_how_much() -> None:
    assert body_of([b"", b"123"], limit=3) == b"123"
    with pytest.raises(TooLarge) as caught:
        body_of([b"", b"1234"], limit=3)
    assert caught.value.details == {"size": 4, "limit": 3}


def test_body_of_exactly_the_limit_is_taken() -> None:
    body = bytes(MAX_BODY_BYTES)
    assert body_of([b"", body]) is body
    with pytest.raises(TooLarge):
        body_of([b"", body + b"\0"])


@pytest.mark.parametrize(
    "body", [b"\xc1", b"\x91", b"\x01\x02", b"\xa2\xff\xfe", bomb(b"\x91", 9999)]
)
def test_body_that_is_no_msgpack_is_a_bad_frame(body: bytes) -> None:
    with pytest.raises(BadFrame):
        read_body(body)


# -- garbage


def attempt(action: Callable[[], object]) -> object:
    """Do it; only the two errors that receivers know may come out."""
    try:
        return action()
    except (BadFrame, PodsupError):
        return None


@settings(max_examples=300)
@given(frame_lists)
def test_garbage_raises_nothing_but_bad_frame_or_a_podsup_error(frames: list[bytes]) -> None:
    read = attempt(lambda: header_fields(frames))
    for kind in KINDS:
        attempt(lambda kind=kind: read_header(read, kind))  # type: ignore[misc]
    attempt(lambda: read_body(body_of(frames, limit=64)))


@settings(max_examples=300)
@given(frame_lists)
def test_garbage_never_stops_the_broker(frames: list[bytes]) -> None:
    one = broker()
    for route in (b"pod", b"stranger"):
        one.on_frames(route, frames, 0.0)
        one.on_frames(route, [*frames[:1], b"\xc1"], 0.0)
    one.expire(1e9)
    ping = message(RequestHeader(id="still", method="ping", token="operator-token"), Ping())
    assert len(one.on_frames(b"operator", ping, 1e9)) == 1


def resident_bytes() -> int:
    """Return what this process holds in memory now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_million_bent_messages_leave_nothing_behind() -> None:
    one = broker()
    messages = stream(seed=7)

    def feed(count: int) -> None:
        for number, frames in enumerate(itertools.islice(messages, count)):
            attempt(lambda frames=frames: header_fields(frames))  # type: ignore[misc]
            one.on_frames(b"pod" if number % 2 else b"stranger", frames, float(number))
            if number % 1000 == 0:
                one.expire(float(number) - 60)

    feed(10_000)
    before = resident_bytes()
    feed(990_000)
    assert resident_bytes() - before < 8 * 2**20
    assert one.counts["garbage"] > 100_000
