"""The Messages adapter through the real SDK, against a server that speaks the format."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import pytest

from podproc.models import anthropic_messages
from podproc.models.anthropic_messages import LAST_BYTES_S, AnthropicModel, make
from podproc.models.base import (
    Ended,
    Figures,
    ModelEvent,
    ModelRequest,
    Opened,
    ProviderFailure,
    Reach,
    StreamCut,
)
from podproc.models.retry_after import retry_after_s
from podproc.turn_terms import Ending, RunOver
from protocol.entries import AssistantItem, Item, Message, Reasoning, ToolCall, ToolResult
from protocol.errors import InvalidRequest
from protocol.manifest import Engine
from protocol.session.line import encode_line
from protocol.session.reading import decode_record
from tests.podproc.engines import PATIENT, Bench
from tests.podproc.models.anthropic_cases import (
    BROKEN_CALL,
    CASE_IDS,
    FAILURES,
    KEY,
    MODEL,
    NOW,
    RUNS,
    STREAMS,
    TOLD,
    WELL,
    Failure,
    Run,
    Stream,
)
from tests.support.providers.anthropic_server import (
    PATH,
    answer,
    call,
    error_event,
    reason,
    redacted,
    refusal,
    start,
    text,
    thinking,
)
from tests.support.providers.sse import (
    Cut,
    Head,
    Provider,
    Reply,
    Reset,
    Silence,
    frame,
    refused_port,
)

HI = ModelRequest(system_prompt="be good", items=(Message(role="user", content="hi"),))
LIMIT_S = 20.0


@dataclass
class Heard:
    """What one request brought, and the failure it ended with, if it did."""

    events: list[ModelEvent] = field(default_factory=list)
    failure: ProviderFailure | StreamCut | None = None


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    async def within() -> Any:
        async with asyncio.timeout(LIMIT_S):
            return await coroutine

    return asyncio.run(within())


@asynccontextmanager
async def model_at(url: str, key: str = KEY) -> AsyncIterator[AnthropicModel]:
    model = AnthropicModel(Reach(MODEL, key, base_url=url), wall_clock=lambda: NOW)
    try:
        yield model
    finally:
        await model.close()


async def hear(model: AnthropicModel, request: ModelRequest = HI) -> Heard:
    heard = Heard()
    try:
        async for told in model.stream(request):
            heard.events.append(told)
    except (ProviderFailure, StreamCut) as failure:
        heard.failure = failure
    return heard


def heard_from(*replies: Reply, request: ModelRequest = HI) -> list[Heard]:
    """Make one request for each reply, over one adapter."""

    async def all_of(url: str) -> list[Heard]:
        async with model_at(url) as model:
            return [await hear(model, request) for _ in replies]

    with Provider(*replies) as provider:
        heard: list[Heard] = run(all_of(provider.url))
        assert provider.is_used_up
    return heard


# -- streams, failures, runs: one test for each table


@pytest.mark.parametrize("case", STREAMS, ids=lambda case: case.id)
def test_stream_becomes_events(case: Stream) -> None:
    [heard] = heard_from(case.reply)
    assert heard.failure is None
    opened, first, *rest = heard.events
    assert (opened, type(first)) == (Opened(), Figures)
    assert rest == [*case.told, *case.last, Ended(case.stop)]


@pytest.mark.parametrize("case", FAILURES, ids=lambda case: case.id)
def test_failure_says_what_happened_and_whether_it_is_worth_a_retry(case: Failure) -> None:
    [heard] = heard_from(case.reply)
    assert heard.failure is not None
    assert case.words in str(heard.failure)
    assert KEY not in str(heard.failure)
    assert len(str(heard.failure)) < 1300
    if case.is_cut:
        assert isinstance(heard.failure, StreamCut)
        return
    assert isinstance(heard.failure, ProviderFailure)
    found = heard.failure
    assert (found.status, found.retryable, found.retry_after_s) == (
        case.status,
        case.retryable,
        case.retry_after_s,
    )


def test_refused_connection_is_worth_a_retry_and_names_the_address() -> None:
    async def ask() -> Heard:
        async with model_at(f"http://127.0.0.1:{refused_port()}") as model:
            return await hear(model)

    heard = run(ask())
    assert isinstance(heard.failure, ProviderFailure)
    assert heard.failure.retryable
    assert heard.failure.status is None
    assert "http://127.0.0.1:" in heard.failure.message


def test_stream_without_its_terminal_event_ends_without_one() -> None:
    [heard] = heard_from((start(), text("a"), reason("end_turn")))
    assert heard.failure is None
    assert not any(isinstance(told, Ended) for told in heard.events)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "x", "retry-after": "2"}, 2.0),
        ({"retry-after": formatdate(NOW - 5, usegmt=True)}, 0.0),
        ({"retry-after": "Fri, 99 Foo 2026 00:00:00 GMT"}, None),
    ],
)
def test_retry_after_is_seconds_milliseconds_or_a_date(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after_s(headers, now=NOW) == seconds


def test_cases_have_ids_of_their_own() -> None:
    assert len(set(CASE_IDS)) == len(CASE_IDS)


async def drive(
    provider: Provider, rules: Engine = PATIENT, history: Sequence[Item] = ()
) -> tuple[RunOver, Bench]:
    async with model_at(provider.url) as model:
        bench = Bench(model=model, rules=rules)
        bench.sink.history += history
        return await bench.run(), bench


@pytest.mark.parametrize("case", RUNS, ids=lambda case: case.id)
def test_run_over_the_wire(case: Run) -> None:
    with Provider(*case.replies) as provider:
        over, bench = run(drive(provider, case.rules))
        told = tuple(bench.sink.told(*TOLD))
        assert provider.is_used_up
        assert len(provider.requests) == len(case.replies)
    assert over.ending is case.ending
    assert case.words in (over.error.message if over.error else over.reason or "")
    assert told == case.told


def test_result_of_a_malformed_call_says_so_and_the_next_request_is_valid() -> None:
    with Provider(answer(call("t1", '{"text": '), stop="tool_use"), WELL) as provider:
        _, bench = run(drive(provider))
        [*_, asked] = provider.requests
    assert bench.echo.ran == []
    _, called, results = asked.json["messages"]
    assert called["content"][0]["input"] == {"_malformed": '{"text": '}
    assert results["content"][0]["is_error"] is True
    assert "invalid_argument" in results["content"][0]["content"]


def test_continuation_asks_with_what_was_finished_and_a_word_to_go_on() -> None:
    with Provider((*BROKEN_CALL, Cut()), WELL) as provider:
        run(drive(provider))
        messages = provider.requests[1].json["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == [{"type": "text", "text": "a"}]


def test_reasoning_survives_log_and_restore_and_goes_back_as_it_came() -> None:
    signed, sealed = "EqoBCkgIARABGAIiQL+/ü==", "EmwKAhgBEgy3va3pzix/LafPsn4a"
    first = answer(
        thinking("Let me", " see", signature=signed),
        redacted(sealed, index=1),
        call("t1", '{"text": "x"}', index=2),
        stop="tool_use",
    )
    with Provider(first, WELL, WELL) as provider:
        _, bench = run(drive(provider))
        restored: list[Item] = []
        for item in bench.sink.history[1:]:
            entry = decode_record(encode_line(AssistantItem(ts=1, item=item)).rstrip(b"\n"))
            assert isinstance(entry, AssistantItem)
            assert type(item).from_wire(item.to_wire()) == item
            restored.append(entry.item)
        assert restored == bench.sink.history[1:]
        run(drive(provider, history=(*restored, Message(role="user", content="and now?"))))
        asked = [request.json["messages"][1] for request in provider.requests[1:]]
    assert asked[0]["content"] == [
        {"type": "thinking", "thinking": "Let me see", "signature": signed},
        {"type": "redacted_thinking", "data": sealed},
        {"type": "tool_use", "id": "t1", "name": "Echo", "input": {"text": "x"}},
    ]
    assert asked[1] == asked[0]


def test_unsigned_reasoning_of_a_broken_stream_is_not_sent() -> None:
    history: tuple[Item, ...] = (
        Reasoning(text="broken"),
        ToolCall(call_id="t1", name="Echo", arguments="{}"),
        ToolResult(call_id="t1", summary="done"),
    )
    with Provider(WELL) as provider:
        run(drive(provider, history=history))
        assert "broken" not in provider.requests[0].body.decode()


# -- the connection


def test_request_is_one_post_with_the_key_in_a_header_and_no_timeouts_of_the_sdk() -> None:
    with Provider(WELL) as provider:
        run(drive(provider))
        [asked] = provider.requests
    assert (asked.method, asked.path) == ("POST", PATH)
    assert any(KEY in value for value in asked.headers.values())
    assert KEY.encode() not in asked.body
    assert asked.json["stream"] is True
    assert asked.json["model"] == MODEL
    assert {tool["name"] for tool in asked.json["tools"]} == {"Echo"}


def test_connection_is_used_again() -> None:
    with Provider(*(WELL,) * 3) as provider:

        async def ask() -> None:
            async with model_at(provider.url) as model:
                for _ in range(3):
                    stream = model.stream(HI)
                    async for told in stream:
                        if isinstance(told, Ended):
                            break
                    await stream.aclose()  # type: ignore[attr-defined]

        run(ask())
        assert provider.connections == 1


def test_server_that_does_not_end_its_stream_is_not_waited_for() -> None:
    with Provider((*WELL, Silence())) as provider:

        async def ask() -> tuple[Heard, float]:
            async with model_at(provider.url) as model:
                await hear(model)
                provider.play((*WELL, Silence()))
                began = asyncio.get_running_loop().time()
                return await hear(model), asyncio.get_running_loop().time() - began

        heard, took = run(ask())
        assert isinstance(heard.events[-1], Ended)
        assert LAST_BYTES_S <= took < LAST_BYTES_S + 3
        provider.wait_for_hang_up()


@pytest.mark.parametrize("when", ["text_delta", "llm_call_start"])
def test_stopped_run_closes_its_connection(when: str) -> None:
    reply: Reply = (start(), text("a"), Silence()) if when == "text_delta" else (Silence(),)
    with Provider(reply) as provider:

        async def stop() -> RunOver:
            async with model_at(provider.url) as model:
                bench = Bench(model=model, rules=PATIENT)
                task = asyncio.create_task(bench.loop.run())
                await bench.sink.wait_for(when)
                while not provider.requests:
                    await asyncio.sleep(0)
                task.cancel()
                over = await task
                await asyncio.to_thread(provider.wait_for_hang_up)
                return over

        assert run(stop()).ending is Ending.STOPPED


# -- the key


def everything_about(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error) + str(vars(error))


@pytest.mark.parametrize(
    "reply",
    [
        refusal(401, "authentication_error", f"invalid x-api-key {KEY}"),
        (Head(500), f"you said {KEY}".encode()),
        (start(), error_event("api_error", f"you said {KEY}")),
        (start(), frame(KEY, "message_delta")),
        (Reset(),),
        (start(), Cut()),
    ],
    ids=["401", "500", "error-event", "garbage", "reset", "cut"],
)
def test_key_is_in_no_failure_log_or_event(reply: Reply, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Provider(*(reply,) * 4) as provider:

        async def ask() -> str:
            async with model_at(provider.url) as model:
                heard = await hear(model)
                assert heard.failure is not None
                bench = Bench(model=model, rules=PATIENT.model_copy(update={"max_turns": 1}))
                over = await bench.run()
                told = [event.to_wire() for event in bench.sink.events]
                return everything_about(heard.failure) + repr((model, over, told))

        shown = run(ask())
    assert KEY not in shown
    assert KEY not in caplog.text


def test_name_and_password_of_an_address_are_not_told() -> None:
    async def ask() -> Heard:
        async with model_at(f"http://me:secret@127.0.0.1:{refused_port()}") as model:
            return await hear(model)

    failure = run(ask()).failure
    assert failure is not None
    assert "secret" not in everything_about(failure)


@pytest.mark.parametrize("key", ["", "sk-with\nnewline", "sk with space", "sk-ü"])
def test_key_that_cannot_be_one_is_refused_without_being_told(key: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make(Reach(MODEL, key))
    assert not key or key not in everything_about(caught.value)


@pytest.mark.parametrize(
    "url", ["", "api.example.com", "ftp://x", "http://", "http://x:port", "http://[x"]
)
def test_address_that_cannot_be_one_is_refused(url: str) -> None:
    if not url:
        assert make(Reach(MODEL, KEY, base_url=url)).provider == "anthropic"
        return
    with pytest.raises(InvalidRequest):
        make(Reach(MODEL, KEY, base_url=url))


def test_environment_does_not_change_where_and_as_whom_it_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-of-somebody-else")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "token-of-somebody-else")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", f"http://127.0.0.1:{refused_port()}")
    with Provider(WELL) as provider:
        run(drive(provider))
        [asked] = provider.requests
    assert "somebody-else" not in str(asked.headers)
    model = make(Reach(MODEL, KEY))
    assert isinstance(model, AnthropicModel)
    assert anthropic_messages.BASE_URL in str(model._client().base_url)


# -- what is imported when


_FIRST_REQUEST = """
import asyncio, sys, threading
from tests.podproc.models import test_anthropic as t
from podproc.models import later
later.preload()
assert threading.active_count() == 1
with t.Provider(t.WELL) as provider:
    before = set(sys.modules)
    asyncio.run(t.drive(provider))
    print(sorted(set(sys.modules) - before))
"""


@pytest.mark.process
def test_first_request_imports_nothing_after_preload() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FIRST_REQUEST], capture_output=True, text=True, timeout=50
    )
    assert done.stdout.strip() == "[]", done.stderr
