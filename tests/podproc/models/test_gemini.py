"""Gemini through Google's compatible endpoint: its signatures, its errors, its figures.

The shapes are those of https://ai.google.dev/gemini-api/docs/openai and /thought-signatures.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from podproc.models.base import ModelRequest, ProviderFailure, Reach
from podproc.models.openai_chat import make_gemini
from podproc.turn_terms import Ending
from protocol.entries import Message, Reasoning, Usage
from tests.podproc.models.openai_runs import GEMINI, Seen, ask_again, closed_port, events_of
from tests.podproc.models.openai_runs import plain_environment as plain_environment
from tests.podproc.models.openai_runs import play_replies as replies_to
from tests.support.providers import openai_server as srv
from tests.support.providers.openai_cases import CHAT, NOW_MS, TALKS
from tests.support.providers.openai_server import KEY, MODEL, piece
from tests.support.providers.openai_sse import Reply

SIGNED: dict[str, Any] = {"google": {"thought_signature": "AY89a18opaque"}}
HELLO = TALKS[CHAT].hello()


def play(*replies: Reply) -> Seen:
    return replies_to(GEMINI, *replies)


def google_error(status: int, word: str, message: str, *details: Any) -> Reply:
    body = {"code": status, "message": message, "status": word, "details": list(details)}
    return srv.plain(status, [{"error": body}])


def signed_calls() -> Reply:
    """Two calls, each in one piece and both with index 0; only the first is signed."""
    first = piece(0, id="f1", name="Echo", arguments='{"text":"a"}', extra_content=SIGNED)
    second = piece(0, id="f2", name="Echo", arguments='{"text":"b"}')
    usage = srv.chat_usage(100, 7, total_tokens=150)
    calls = [srv.call_delta(first), srv.call_delta(second)]
    return Reply([*calls, srv.chunk({"role": "assistant"}, "stop", usage=usage), srv.DONE])


def test_it_is_shown_as_gemini() -> None:
    model = make_gemini(Reach(MODEL, KEY), wall_ms=lambda: NOW_MS)
    assert (model.provider, model.model_id, model.context_window) == ("gemini", MODEL, 200_000)


def test_a_signature_goes_back_with_its_call_also_after_a_restore() -> None:
    seen = play(signed_calls(), HELLO)
    assert seen.ran == ["a", "b"]
    again = seen.requests[1].body["messages"]
    assert [call.get("extra_content") for call in again[2]["tool_calls"]] == [SIGNED, None]
    thoughts = [item for item in seen.sink.history if isinstance(item, Reasoning)]
    assert [thought.signature for thought in thoughts] == ["extra_content"]
    assert ask_again(GEMINI, seen.sink.history[:-1]).body["messages"] == again


def test_thinking_that_is_in_the_total_alone_is_counted() -> None:
    seen = play(signed_calls(), HELLO)
    assert seen.told == []
    first = play(
        Reply([srv.said("a"), srv.chunk({}, "stop", usage=srv.chat_usage(total_tokens=150))])
    )
    assert first.heard.usage == Usage(input_tokens=100, output_tokens=50)


def test_the_wait_that_an_error_names_is_honoured() -> None:
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.02s"}
    seen = play(google_error(429, "RESOURCE_EXHAUSTED", "Quota exceeded", retry), HELLO)
    assert seen.told == ["retry 429/20"]
    assert seen.over.ending is Ending.FINISHED


def test_a_wrong_key_is_a_bad_request_whose_words_are_told() -> None:
    seen = play(
        google_error(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid key.")
    )
    assert seen.over.error is not None
    assert "API key not valid" in seen.over.error.message
    assert len(seen.requests) == 1


def test_the_address_is_googles_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", closed_port())  # nothing may leave this machine

    async def main() -> str:
        model = make_gemini(Reach(MODEL, KEY), wall_ms=lambda: NOW_MS)
        with pytest.raises(ProviderFailure) as caught:
            await events_of(model, ModelRequest("", (Message(role="user", content="hi"),)))
        await model.close()
        return caught.value.message

    words = asyncio.run(main())
    assert "https://generativelanguage.googleapis.com/v1beta/openai/ could not be" in words
