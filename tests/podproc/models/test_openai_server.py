"""The stand-in for OpenAI refuses what OpenAI refuses: one that likes all proves nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.providers.openai_server import (
    KEY,
    MODEL,
    judge_chat,
    judge_responses,
)
from tests.support.providers.openai_sse import Raw, Received

USER = {"role": "user", "content": "hi"}
CALLS = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c1", "function": {"name": "Echo", "arguments": "{}"}}],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "x"}

HI = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]}
CALL = {"type": "function_call", "call_id": "c1", "name": "Echo", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "x"}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}


def received(path: str, *, key: str = KEY, **body: Any) -> Received:
    headers = {"authorization": f"Bearer {key}"}
    return Received("POST", path, headers, {"model": MODEL} | body, 1)


def chat(*messages: Any, **more: Any) -> tuple[int, str] | None:
    return verdict(judge_chat(received("/v1/chat/completions", messages=messages, **more)))


def responses(*items: Any, **more: Any) -> tuple[int, str] | None:
    return verdict(judge_responses(received("/v1/responses", input=items, **more)))


def verdict(reply: Any) -> tuple[int, str] | None:
    if reply is None:
        return None
    assert isinstance(reply.moves[0], Raw)
    return reply.status, json.loads(reply.moves[0].data)["error"]["message"]


def test_what_is_of_the_format_passes() -> None:
    assert chat(USER, CALLS, RESULT, USER) is None
    assert responses(HI, THOUGHT, CALL, OUTPUT, THOUGHT, SAID, HI) is None


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([USER, CALLS], "did not have response messages"),
        ([USER, CALLS, USER], "did not have response messages"),
        ([USER, RESULT], "must answer a preceding tool_calls"),
        ([USER, {"role": "assistant", "content": None}], "needs content or calls"),
        ([{"role": "user", "content": None}], "content must be a string"),
    ],
)
def test_chat_completions_refuses(messages: list[Any], words: str) -> None:
    found = chat(*messages)
    assert found is not None
    assert found[0] == 400
    assert words in found[1]


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([HI, THOUGHT], "required following item"),
        ([HI, THOUGHT, HI], "required following item"),
        ([HI, THOUGHT | {"encrypted_content": None}, SAID], "not found"),
        ([HI, CALL], "No tool output found"),
        ([HI, OUTPUT], "No tool output found"),
        ([HI | {"role": "assistant"}], "Invalid value"),
        ([{"type": "picture"}], "Invalid value"),
    ],
)
def test_responses_refuses(items: list[Any], words: str) -> None:
    found = responses(*items)
    assert found is not None
    assert words in found[1]


def test_both_refuse_a_field_that_nobody_knows_a_wrong_key_and_a_wrong_model() -> None:
    for ask in (chat, responses):
        assert ask(top_k=3) == (400, "Unknown parameter: 'top_k'.")
        assert (ask(key="wrong") or (0,))[0] == 401
        assert (ask(model="other") or (0,))[0] == 404
