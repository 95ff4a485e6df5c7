"""The Chat Completions adapter on its connection: requests, closing, secrets, the environment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from podproc.models.base import (
    Ended,
    ModelRequest,
    Opened,
    ProviderFailure,
    Reach,
    StreamCut,
    TextDelta,
    TextDone,
)
from podproc.models.openai_chat import OpenAIChatModel
from podproc.turn_terms import Ending
from protocol.entries import Message
from tests.podproc.engines import Bench
from tests.podproc.models.openai_runs import (
    PATIENT,
    adapter,
    ask_again,
    closed_port,
    events_of,
    play_replies,
)
from tests.podproc.models.openai_runs import plain_environment as plain_environment
from tests.support.providers import openai_server as srv
from tests.support.providers.openai_cases import CHAT, NOW_MS, SCHEMES, TALKS
from tests.support.providers.openai_server import KEY, MODEL, piece
from tests.support.providers.openai_sse import Cut, Frame, Raw, Reply, Silence, SseServer

T = TypeVar("T")
CHAT_TALK = TALKS[CHAT]
HI = ModelRequest("be good", (Message(role="user", content="hi"),))

every_format = pytest.mark.parametrize("scheme", SCHEMES)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


# -- what is asked for


def test_the_thought_goes_back_with_its_call_also_after_a_restore() -> None:
    seen = play_replies(CHAT, CHAT_TALK.thought_and_call(), CHAT_TALK.hello())
    again = seen.requests[1].body["messages"]
    assert again[2]["reasoning_content"] == "hm"
    assert again[2]["tool_calls"][0]["id"] == again[3]["tool_call_id"] == "c1"
    history = [*seen.sink.history[:4]]
    assert ask_again(CHAT, history).body["messages"] == again


def test_malformed_arguments_do_not_break_the_next_request() -> None:
    bad = srv.call_delta(piece(id="c1", name="Echo", arguments='{"text": a'))
    seen = play_replies(CHAT, srv.chat(bad, finish="tool_calls"), CHAT_TALK.hello())
    sent = seen.requests[1].body["messages"][2]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(sent) == {"malformed_arguments": '{"text": a'}
    assert seen.ran == []


@every_format
def test_tools_are_told_and_the_limit_of_the_answer(scheme: str) -> None:
    body = play_replies(scheme, TALKS[scheme].hello()).requests[0].body
    tool = body["tools"][0]
    assert tool.get("function", tool)["name"] == "Echo"
    assert body.get("max_tokens", body.get("max_output_tokens")) == PATIENT.max_tokens


@every_format
def test_one_connection_serves_all_requests_of_a_run(scheme: str) -> None:
    talk = TALKS[scheme]
    seen = play_replies(scheme, talk.thought_and_call(), talk.calls(("c2", ["{}"])), talk.hello())
    assert [request.connection for request in seen.requests] == [1, 1, 1]


# -- how it begins and ends


@every_format
def test_the_headers_are_told_before_any_event(scheme: str) -> None:
    async def main() -> None:
        async with SseServer([TALKS[scheme].opened(Silence())]) as server:
            model = adapter(scheme, f"{server.url}/v1")
            stream: Any = model.stream(HI)
            async with asyncio.timeout(5):
                assert await anext(stream) == Opened()
            await stream.aclose()
            await server.wait_until_closed()
            assert server.went_early == 1
            await model.close()

    run(main())


@every_format
def test_closing_the_iterator_in_the_middle_closes_the_connection(scheme: str) -> None:
    async def main() -> None:
        async with SseServer([TALKS[scheme].begun(Silence())]) as server:
            model = adapter(scheme, f"{server.url}/v1")
            stream: Any = model.stream(HI)
            async with asyncio.timeout(5):
                while not isinstance(await anext(stream), TextDelta):
                    pass
            assert server.open == 1
            await stream.aclose()
            await server.wait_until_closed()
            await model.close()

    run(main())


@every_format
@pytest.mark.parametrize("when", ["llm_call_start", "text_delta"])
def test_a_stopped_run_closes_the_connection_and_keeps_nothing(scheme: str, when: str) -> None:
    async def main() -> None:
        talk = TALKS[scheme]
        silent = talk.begun(Silence()) if when == "text_delta" else Reply(before=[Silence()])
        async with SseServer([silent]) as server:
            model = adapter(scheme, f"{server.url}/v1")
            bench = Bench(model=model, rules=PATIENT)
            over = await bench.run_and_stop(when)
            assert over.ending is Ending.STOPPED
            assert len(bench.sink.history) == 1
            assert not bench.sink.alerts
            await server.wait_until_closed()
            await model.close()

    run(main())


def test_a_server_that_stays_silent_behind_the_figures_delays_nobody() -> None:
    async def main() -> None:
        end = [srv.chunk({}, "stop"), srv.chunk(usage=srv.chat_usage())]
        async with SseServer([Reply([srv.said("a"), *end, Silence()])]) as server:
            model = adapter(CHAT, f"{server.url}/v1")
            async with asyncio.timeout(5):
                assert isinstance((await events_of(model, HI))[-1], Ended)
            await server.wait_until_closed()
            await model.close()

    run(main())


# -- the framing


@pytest.mark.parametrize("ending", [b"\r\n", b"\n", b"\r"])
def test_lines_may_end_in_each_of_three_ways(ending: bytes) -> None:
    frames = [srv.said("a"), *srv.chat_end()]
    whole = b"".join(frame.encode() for frame in frames if isinstance(frame, Frame))
    seen = play_replies(CHAT, Reply([Raw(whole.replace(b"\n", ending))], drip=7))
    assert seen.history == ["assistant: a"]


def test_characters_may_be_cut_anywhere_and_frames_may_be_large() -> None:
    text = "größer 🙂 " * 20_000
    seen = play_replies(CHAT, Reply([srv.said(text), *srv.chat_end()], drip=60_001))
    assert seen.history == [f"assistant: {text}"]


def test_a_stream_without_done_is_whole_if_it_said_so() -> None:
    seen = play_replies(CHAT, Reply([srv.said("a"), srv.chunk({}, "stop")]))
    assert seen.history == ["assistant: a"]
    assert seen.over.ending is Ending.FINISHED


# -- failures


def failure_of(base_url: str | None, *, key: str = KEY) -> ProviderFailure:
    async def main() -> ProviderFailure:
        model = OpenAIChatModel(Reach(MODEL, key, base_url), wall_ms=lambda: NOW_MS)
        try:
            with pytest.raises(ProviderFailure) as caught:
                await events_of(model, HI)
        finally:
            await model.close()
        return caught.value

    return run(main())


@pytest.mark.parametrize("url", ["nonsense", "ftp://models.test/v1", "http://models.test:port/"])
def test_an_address_that_is_none_fails_at_once(url: str) -> None:
    failure = failure_of(url)
    assert not failure.retryable
    assert "could not be reached" in failure.message


def test_a_failure_names_the_address_without_its_secrets() -> None:
    url = closed_port().replace("http://", "http://user:hidden@")
    failure = failure_of(f"{url}/v1?token=hidden")
    assert failure.retryable
    assert failure.status is None
    assert "/v1 could not be reached" in failure.message
    assert "hidden" not in failure.message


def test_a_stream_that_breaks_later_is_cut_and_one_that_breaks_first_has_failed() -> None:
    async def broken(reply: Reply) -> Exception:
        async with SseServer([reply]) as server:
            model = adapter(CHAT, f"{server.url}/v1")
            with pytest.raises((StreamCut, ProviderFailure)) as caught:
                await events_of(model, HI)
            await model.close()
            return caught.value

    garbage = Frame("{")
    assert isinstance(run(broken(CHAT_TALK.begun(garbage))), StreamCut)
    assert isinstance(run(broken(CHAT_TALK.opened(garbage))), ProviderFailure)


def test_what_breaks_behind_the_end_breaks_nothing() -> None:
    async def main() -> None:
        whole = [srv.said("a"), srv.chunk({}, "stop")]
        async with SseServer([Reply([*whole, Cut()]), Reply([*whole, Frame("{")])]) as server:
            model = adapter(CHAT, f"{server.url}/v1")
            for _ in range(2):
                assert (await events_of(model, HI))[-1] == Ended("end_turn")
            await model.close()

    run(main())


def test_what_was_spent_is_told_of_a_stream_that_is_cut() -> None:
    async def main() -> None:
        spent = srv.chunk({"content": "a"}, usage=srv.chat_usage(100, 1))
        async with SseServer([Reply([spent, Frame("{")])]) as server:
            model = adapter(CHAT, f"{server.url}/v1")
            bench = Bench(model=model, rules=PATIENT)
            await bench.run()
            await model.close()
            assert bench.sink.told("usage") == ["usage"] * 4

    run(main())


# -- secrets and the environment


@every_format
def test_the_environment_neither_redirects_nor_identifies(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", closed_port())
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-environment")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-of-the-administrator")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
    headers = play_replies(scheme, TALKS[scheme].hello()).requests[0].headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert not {"openai-organization", "openai-project"} & headers.keys()


def test_a_server_that_needs_no_key_is_asked_without_one() -> None:
    async def main() -> None:
        async with SseServer([CHAT_TALK.hello()]) as server:
            model = adapter(CHAT, f"{server.url}/v1", key="")
            events = await events_of(model, HI)
            await model.close()
            assert TextDone(0, "Hello there") in events
            assert server.requests[0].headers["authorization"] == "Bearer none"

    run(main())


def test_the_address_is_openais_own_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", closed_port())  # nothing may leave this machine
    failure = failure_of(None)
    assert "https://api.openai.com/v1 could not be reached" in failure.message


@every_format
def test_the_key_is_in_no_repr(scheme: str) -> None:
    model = adapter(scheme, "http://127.0.0.1:1/v1")
    shown = [repr(model), *(repr(value) for value in vars(model).values())]
    wire: Any = vars(model)["_wire"]
    shown += [repr(value) for value in vars(wire).values()]
    assert not [text for text in shown if KEY in text]
