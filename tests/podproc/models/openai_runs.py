"""A run of the turn loop against a server that plays a case, and what there is to see of it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from podproc.models import base
from podproc.models.base import Model, ModelEvent, ModelRequest, Reach
from podproc.models.openai_chat import OpenAIChatModel, make_gemini
from podproc.models.openai_responses import OpenAIResponsesModel
from podproc.turn_terms import RunOver
from protocol import events as ev
from protocol.entries import (
    AssistantItem,
    Item,
    Message,
    Reasoning,
    ToolCall,
    ToolResult,
    Usage,
    decode_entry,
)
from protocol.manifest import Engine, Retry, Timeouts
from tests.podproc.engines import Bench, Sink
from tests.support.providers.openai_cases import CHAT, NOW_MS, RESPONSES, TALKS, Case
from tests.support.providers.openai_server import KEY, MODEL, judge_chat, judge_responses
from tests.support.providers.openai_sse import Judge, Received, Reply, SseServer

QUICK_RETRY = Retry(base_s=0.001, cap_s=0.002)
PATIENT = Engine(retry=QUICK_RETRY)
IMPATIENT = Engine(
    retry=QUICK_RETRY, timeouts=Timeouts(headers_s=0.8, first_event_s=0.8, idle_s=0.4)
)

GEMINI = "gemini"

JUDGES: dict[str, Judge] = {
    CHAT: judge_chat,
    GEMINI: judge_chat,
    RESPONSES: judge_responses,
}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tester's proxies and OpenAI's own variables out."""
    for name in list(os.environ):
        if name.startswith("OPENAI_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def adapter(scheme: str, url: str, *, key: str = KEY, model_id: str = MODEL) -> Model:
    """Return the adapter of a scheme, with a wall clock that stands still."""
    reach = Reach(model_id, key, url)
    match scheme:
        case "openai_responses":
            return OpenAIResponsesModel(reach, wall_ms=lambda: NOW_MS)
        case "gemini":
            return make_gemini(reach, wall_ms=lambda: NOW_MS)
        case _:
            return OpenAIChatModel(reach, wall_ms=lambda: NOW_MS)


class Heard:
    """A model that passes on what another says, and remembers it."""

    def __init__(self, model: Model) -> None:
        self.provider = model.provider
        self.model_id = model.model_id
        self.context_window = model.context_window
        self.events: list[ModelEvent] = []
        self.failures: list[Exception] = []
        self._model = model

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Pass it on."""
        stream: Any = self._model.stream(request)
        self.events.clear()
        try:
            async for event in stream:
                self.events.append(event)
                yield event
        except Exception as error:
            self.failures.append(error)
            raise
        finally:
            await stream.aclose()

    async def close(self) -> None:
        """Close it."""
        await self._model.close()

    @property
    def usage(self) -> Usage | None:
        """The last figures that were heard."""
        found = [event.usage for event in self.events if isinstance(event, base.Figures)]
        return found[-1] if found else None

    @property
    def stop(self) -> str | None:
        """The last reason that was heard."""
        found = [event.stop_reason for event in self.events if isinstance(event, base.Ended)]
        return found[-1] if found else None


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run left behind."""

    over: RunOver
    sink: Sink
    ran: list[str]
    heard: Heard
    requests: list[Received]

    @property
    def history(self) -> list[str]:
        """What stands behind the first message, in words."""
        return [in_words(item) for item in self.sink.history[1:]]

    @property
    def told(self) -> list[str]:
        """Retries and continuations, in order."""
        words = []
        for event in self.sink.events:
            match event:
                case ev.LlmRetry(status=status, wait_ms=wait_ms):
                    words.append(f"retry {status}/{wait_ms}")
                case ev.LlmContinuation(reason=reason):
                    words.append(f"continuation {reason}")
        return words


def in_words(item: Item) -> str:
    """Return an item as a case says it."""
    match item:
        case Message(role=role, content=content):
            return f"{role}: {content}"
        case Reasoning(text=text):
            return f"thought: {text}"
        case ToolCall(call_id=call_id, name=name, arguments=arguments):
            return f"call {call_id} {name} {arguments}"
        case ToolResult(call_id=call_id, summary=summary):
            return f"result {call_id}: {summary}"
        case _:
            return item.kind


def play(case: Case, scheme: str) -> Seen:
    """Run a case."""
    replies = case.replies(TALKS[scheme])
    return asyncio.run(
        _play(
            scheme,
            replies,
            rules=IMPATIENT if case.is_impatient else PATIENT,
            key=case.key,
            model_id=case.model_id,
            is_away=case.is_away,
        )
    )


def play_replies(scheme: str, *replies: Reply) -> Seen:
    """Run the loop against replies; `gemini` speaks Chat Completions."""
    return asyncio.run(_play(scheme, replies))


async def _play(
    scheme: str,
    replies: Sequence[Reply],
    *,
    rules: Engine = PATIENT,
    key: str = KEY,
    model_id: str = MODEL,
    is_away: bool = False,
) -> Seen:
    async with SseServer(replies, judge=JUDGES[scheme]) as server:
        url = closed_port() if is_away else server.url
        heard = Heard(adapter(scheme, f"{url}/v1", key=key, model_id=model_id))
        bench = Bench(model=heard, rules=rules)
        over = await bench.run()
        await heard.close()
        await server.wait_until_closed()
        return Seen(over, bench.sink, bench.echo.ran, heard, server.requests)


def restored(history: Sequence[Item]) -> list[Item]:
    """Return a history as it is after it was written to a log and read again."""
    lines = [json.dumps(AssistantItem(ts=0, item=item).to_wire()) for item in history]
    entries = [decode_entry(json.loads(line)) for line in lines]
    return [entry.item for entry in entries if isinstance(entry, AssistantItem)]


def ask_again(scheme: str, history: Sequence[Item]) -> Received:
    """Return the request that a restored history makes; the server's judge must like it."""

    async def main() -> Received:
        async with SseServer(
            [TALKS[CHAT if scheme == GEMINI else scheme].hello()], judge=JUDGES[scheme]
        ) as server:
            model = adapter(scheme, f"{server.url}/v1")
            await events_of(model, ModelRequest("be good", tuple(restored(history))))
            await model.close()
            return server.requests[0]

    return asyncio.run(main())


def closed_port() -> str:
    """Return an address at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


async def events_of(model: Model, request: ModelRequest) -> list[ModelEvent]:
    """Return all that one request gives, and close the stream."""
    stream: Any = model.stream(request)
    try:
        return [event async for event in stream]
    finally:
        await stream.aclose()
