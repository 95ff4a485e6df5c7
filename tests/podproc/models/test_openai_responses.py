"""The Responses adapter: reasoning that survives, and what it asks for."""

from __future__ import annotations

import asyncio

from podproc.models.base import ModelRequest
from protocol.entries import Message, Reasoning
from protocol.manifest import Reasoning as Effort
from tests.podproc.models.openai_runs import adapter, ask_again, events_of, play_replies
from tests.podproc.models.openai_runs import plain_environment as plain_environment
from tests.support.providers.openai_cases import RESPONSES, TALKS
from tests.support.providers.openai_server import Script, judge_responses
from tests.support.providers.openai_sse import Cut, Received, SseServer

TALK = TALKS[RESPONSES]


def reasoning_of(request: Received) -> list[dict[str, object]]:
    return [item for item in request.body["input"] if item["type"] == "reasoning"]


def test_encrypted_reasoning_goes_back_with_its_call_also_after_a_restore() -> None:
    seen = play_replies(RESPONSES, TALK.thought_and_call(), TALK.hello())
    wanted = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "hm"}],
        "encrypted_content": "gAAA-opaque",
    }
    assert reasoning_of(seen.requests[1]) == [wanted]
    thought = seen.sink.history[1]
    assert isinstance(thought, Reasoning)
    assert (thought.signature, thought.encrypted_content) == ("rs_1", "gAAA-opaque")
    assert (
        ask_again(RESPONSES, seen.sink.history[:4]).body["input"] == seen.requests[1].body["input"]
    )


def test_the_opaque_part_is_the_one_of_the_finished_item() -> None:
    seen = play_replies(RESPONSES, TALK.thought_and_call(), TALK.hello())
    assert reasoning_of(seen.requests[1])[0]["encrypted_content"] != ""


def test_reasoning_of_an_answer_that_was_cut_is_not_sent_alone() -> None:
    seen = play_replies(RESPONSES, TALK.begun(Cut()), TALK.hello())
    assert seen.history == ["thought: hm", "assistant: Hello there"]
    assert reasoning_of(seen.requests[1]) == []


def test_a_finished_text_of_an_answer_that_was_cut_takes_its_reasoning_along() -> None:
    cut = Script().reasoning("hm").text("Hello").move(Cut()).reply()
    seen = play_replies(RESPONSES, cut, TALK.hello())
    kinds = [item["type"] for item in seen.requests[1].body["input"]]
    assert kinds == ["message", "reasoning", "message"]
    assert seen.history == ["thought: hm", "assistant: Hello", "assistant: Hello there"]


def test_the_segment_is_the_key_of_the_prompt_cache() -> None:
    async def main() -> Received:
        async with SseServer([TALK.hello()], judge=judge_responses) as server:
            model = adapter(RESPONSES, f"{server.url}/v1")
            hi = Message(role="user", content="hi")
            request = ModelRequest("", (hi,), cache_key="segment-1", reasoning=Effort.LOW)
            await events_of(model, request)
            await model.close()
            return server.requests[0]

    body = asyncio.run(main()).body
    assert body["prompt_cache_key"] == "segment-1"
    assert body["store"] is False
    assert body["include"] == ["reasoning.encrypted_content"]
    assert body["reasoning"] == {"effort": "low", "summary": "auto"}
