"""Replies in the streaming format of Anthropic's Messages, as its public documentation shows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.support.providers.sse import Head, Reply, frame

PATH = "/v1/messages"
PING = frame({"type": "ping"}, "ping")


def event(kind: str, **fields: Any) -> bytes:
    """Return one event."""
    return frame({"type": kind, **fields}, kind)


def start(**usage: int) -> bytes:
    """Return `message_start`; without figures it says 25 tokens of input."""
    return event(
        "message_start",
        message={
            "id": "msg_1nZdL29xx5MUA1yADyHTEsnR8uuvGzszyY",
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": "claude-test",
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage or {"input_tokens": 25, "output_tokens": 1},
        },
    )


def begin(index: int, kind: str, **fields: Any) -> bytes:
    """Return `content_block_start`."""
    return event("content_block_start", index=index, content_block={"type": kind, **fields})


def more(index: int, kind: str, **fields: Any) -> bytes:
    """Return `content_block_delta`."""
    return event("content_block_delta", index=index, delta={"type": kind, **fields})


def end(index: int) -> bytes:
    """Return `content_block_stop`."""
    return event("content_block_stop", index=index)


def text(*pieces: str, index: int = 0) -> bytes:
    """Return a block of text."""
    parts = [more(index, "text_delta", text=piece) for piece in pieces]
    return b"".join([begin(index, "text", text=""), *parts, end(index)])


def thinking(*pieces: str, index: int = 0, signature: str | None = "sig") -> bytes:
    """Return a block of thinking; without a signature it is not signed."""
    parts = [more(index, "thinking_delta", thinking=piece) for piece in pieces]
    if signature is not None:
        parts.append(more(index, "signature_delta", signature=signature))
    return b"".join([begin(index, "thinking", thinking="", signature=""), *parts, end(index)])


def redacted(data: str, index: int = 0) -> bytes:
    """Return a block of sealed thinking."""
    return begin(index, "redacted_thinking", data=data) + end(index)


def call(call_id: str, *pieces: str, name: str = "Echo", index: int = 0) -> bytes:
    """Return a call; its arguments come in these pieces."""
    parts = [more(index, "input_json_delta", partial_json=piece) for piece in pieces]
    first = begin(index, "tool_use", id=call_id, name=name, input={})
    return b"".join([first, *parts, end(index)])


def reason(stop_reason: str | None, stop_details: Any = None, **usage: int) -> bytes:
    """Return `message_delta`; without figures it says 15 tokens of output."""
    delta = {"stop_reason": stop_reason, "stop_sequence": None, "stop_details": stop_details}
    return event("message_delta", delta=delta, usage=usage or {"output_tokens": 15})


STOP = event("message_stop")


def answer(*blocks: bytes, stop: str = "end_turn") -> Reply:
    """Return a whole answer."""
    return (start(), PING, *blocks, reason(stop), STOP)


def error_event(kind: str, message: str) -> bytes:
    """Return an error within the stream."""
    return event("error", error={"type": kind, "message": message})


def refusal(
    status: int, kind: str, message: str, headers: Mapping[str, str] | None = None
) -> Reply:
    """Return an HTTP error with its JSON body."""
    body = {
        "type": "error",
        "error": {"type": kind, "message": message},
        "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy",
    }
    given = {
        "content-type": "application/json",
        "request-id": "req_011CSHoEeqs5C35K2UUqR7Fy",
        **(headers or {}),
    }
    return Head(status, given), json.dumps(body).encode()
