"""Envelopes and frames. A message is `[header, body]` in msgpack.

An event has its topic before them.

    request    DEALER -> ROUTER   RequestHeader    token, and `to` ("" = supervisor)
    request    ROUTER -> pod      ForwardHeader    `from` instead of both; the token never goes on
    reply      either way         ReplyHeader      body: the result; an ErrorBody when not ok
    beat       pod -> supervisor  BeatHeader       no body
    who        supervisor -> pod  WhoHeader        "say hello"; no body
    event      PUB                EventHeader      behind its topic

The header is decodable alone: the supervisor routes by it and hands on the body's bytes as they
are. What cannot be decoded raises `BadFrame` and is counted and dropped by whoever received it;
nothing here retries or answers. Limits are checked before anything is unpacked; nesting is bounded
by the unpacker, at 1023.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import msgpack
from pydantic import Field, ValidationError

from protocol.base import Wire
from protocol.control import Progress
from protocol.errors import TooLarge, UnsupportedVersion
from protocol.status import Lane, PodStatus

VERSION = 1
MAX_FRAMES = 4
MAX_HEADER_BYTES = 16 * 1024
MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_STRANGER_BYTES = 64 * 1024
"""The most of a body that is looked at before its sender is known."""

MAX_FRAME_BYTES = 64 * 1024 * 1024
DEFAULT_DEADLINE_MS = 30_000
MAX_DEADLINE_MS = 24 * 3600 * 1000

Frames = Sequence[bytes]


class BadFrame(Exception):
    """Bytes that are no message. The connection is kept; the frames are dropped."""


class _Header(Wire):
    v: int = VERSION


class RequestHeader(_Header):
    """A request as its sender makes it; `deadline_ms` is a duration, counted from receipt."""

    type: Literal["request"] = "request"
    id: str = Field(min_length=1, max_length=128)
    to: str = Field(default="", max_length=64)
    method: str = Field(max_length=64)
    deadline_ms: int | None = Field(default=None, ge=0, le=MAX_DEADLINE_MS)
    token: str = Field(default="", max_length=128)


class ForwardHeader(_Header):
    """A request as the pod sees it; `sender` is "" (supervisor), "operator", or a pod's name."""

    type: Literal["request"] = "request"
    id: str = Field(min_length=1, max_length=128)
    sender: str = Field(default="", alias="from")
    method: str
    deadline_ms: int | None = None


class ReplyHeader(_Header):
    """The one answer to a request; a pod's reply carries its status and state-lane number."""

    type: Literal["reply"] = "reply"
    id: str
    ok: bool
    status: PodStatus | None = None
    seq: int | None = None


class BeatHeader(_Header):
    """Once a second, from the pod's own loop: it turns.

    `notification_runs`: how many runs began without a person's input within the last minute and
    within the last hour.
    """

    type: Literal["beat"] = "beat"
    pod: str
    incarnation: int
    seq: int
    status: PodStatus
    progress: Progress
    seqs: dict[Lane, int] = Field(default_factory=dict)
    notification_runs: tuple[int, int] = (0, 0)


class WhoHeader(_Header):
    """The supervisor does not know this connection: say hello."""

    type: Literal["who"] = "who"


class EventHeader(_Header):
    """Who published, when, and which number.

    An event republished for the fleet keeps the origin's (incarnation, lane, seq) and adds the
    fleet's own `(epoch, fleet_seq)`.
    """

    pod: str
    incarnation: int
    lane: Lane
    seq: int
    ts_ms: int
    epoch: int | None = None
    fleet_seq: int | None = None


H = TypeVar("H", bound=_Header)


def pack(value: Any) -> bytes:
    """Return msgpack of plain data or of a wire model."""
    plain = value.to_wire() if isinstance(value, Wire) else value
    packed: bytes = msgpack.packb(plain, use_bin_type=True)
    return packed


def message(header: _Header, body: Any = None) -> list[bytes]:
    """Return the frames of a message; `body` is a wire model, plain data, packed bytes, or None."""
    packed = body if isinstance(body, bytes) else b"" if body is None else pack(body)
    return [pack(header), packed]


def unpack(data: bytes) -> Any:
    """Return plain data; raises BadFrame for anything that is not exactly one msgpack value."""
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True)
    except (
        Exception
    ) as error:  # msgpack raises its own, ValueError, UnicodeDecodeError, RecursionError
        raise BadFrame(f"not msgpack: {error}") from error


def header_fields(frames: Frames) -> dict[str, Any]:
    """Return the header's fields.

    Raises BadFrame, or UnsupportedVersion for another major version.
    """
    if not 1 <= len(frames) <= MAX_FRAMES:
        raise BadFrame(f"{len(frames)} frames")
    if len(frames[0]) > MAX_HEADER_BYTES:
        raise BadFrame(f"a header of {len(frames[0])} bytes")
    fields = unpack(frames[0])
    if not isinstance(fields, dict) or type(fields.get("v")) is not int:  # True is no version
        raise BadFrame("no header")
    if fields["v"] != VERSION:
        raise UnsupportedVersion(
            f"message of protocol version {fields['v']}, this is version {VERSION}",
            theirs=fields["v"],
            ours=VERSION,
        )
    return fields


def read_header(fields: Any, kind: type[H]) -> H:
    """Return the typed header; raises BadFrame."""
    try:
        return kind.from_wire(fields)
    except ValidationError as error:
        raise BadFrame(f"bad {kind.__name__}: {error.errors()[0]['msg']}") from error


def body_of(frames: Frames, limit: int = MAX_BODY_BYTES) -> bytes:
    """Return the body's bytes, empty where there is none; raises TooLarge over `limit` bytes."""
    body = frames[1] if len(frames) > 1 else b""
    if len(body) > limit:
        raise TooLarge(
            f"a body of {len(body)} bytes is over the limit of {limit}", size=len(body), limit=limit
        )
    return body


def read_body(body: bytes) -> Any:
    """Return the body's plain data, None where it is empty; raises BadFrame."""
    return unpack(body) if body else None
