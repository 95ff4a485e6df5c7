"""The way to a server that speaks one of OpenAI's formats: the one door to OpenAI's SDK.

The SDK gives the connection, the reading of server-sent events and its errors; nothing else of it
is used. Its `post` hands over each event as decoded JSON: the typed streams of its resources build
a model of each, which costs several times what the event itself does, and importing them a second.
Its retries are off, and so are its timeouts but for connecting: the loop owns both.

What goes wrong, and what it becomes:

    no connection, connection lost before the headers    ProviderFailure, retryable, no status
    a status other than 200                              ProviderFailure
    an error object inside the stream                    ProviderFailure, whenever it comes
    lost or senseless before the first event             ProviderFailure, retryable
    lost or senseless after it                           StreamCut
    lost after the answer's end, before its figures      nothing: the answer is whole

The client is made at the first request: its certificates take tens of milliseconds, which a pod
that starts does not have. Of the SDK's environment variables the organisation and the project are
told to OpenAI alone, and the address is never taken from there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import httpx2
from openai import APIConnectionError, APIError, APIStatusError, AsyncOpenAI, AsyncStream, Timeout

from podproc.models.base import ModelEvent, Opened, ProviderFailure, Reach, StreamCut
from podproc.models.openai_errors import (
    InStreamError,
    Malformed,
    Where,
    status_failure,
    stream_failure,
    unreachable,
)

CONNECT_S = 10.0
DRAIN_S = 0.1
"""Seconds that may be spent on what stands behind an answer, so that its connection lives on."""

OPENAI_URL = "https://api.openai.com/v1"
_NO_KEY = "none"
_SENSELESS = (json.JSONDecodeError, UnicodeDecodeError, Malformed)


class Assembler(Protocol):
    """What makes events of one stream: see `openai_chat_format`."""

    @property
    def is_ended(self) -> bool: ...

    @property
    def is_complete(self) -> bool: ...

    def feed(self, chunk: object) -> Sequence[ModelEvent]:
        """Take one decoded event."""

    def end(self) -> Sequence[ModelEvent]:
        """Return what is left to say."""


class OpenAIWire:
    """Makes requests of one server; `wall_ms` is the wall clock, for `Retry-After` as a date."""

    def __init__(self, reach: Reach, base_url: str, *, wall_ms: Callable[[], int]) -> None:
        self._reach = reach
        self._base_url = base_url
        self._wall_ms = wall_ms
        self._where = Where(shown_url(base_url), reach.model_id, reach.api_key)
        self._client: AsyncOpenAI | None = None

    async def play(
        self, path: str, body: dict[str, Any], assembler: Assembler
    ) -> AsyncIterator[ModelEvent]:
        """Make a request and yield what comes; closing the iterator closes the connection."""
        stream = await self._open(path, body)
        told = False
        try:
            yield Opened()
            while not assembler.is_complete:
                try:
                    chunk = await anext(stream)
                    events = assembler.feed(chunk)
                except StopAsyncIteration:
                    break
                except (APIError, httpx2.HTTPError, InStreamError, *_SENSELESS) as error:
                    if assembler.is_ended:
                        break
                    for event in assembler.end():
                        yield event
                    raise self._broken(error, told) from None
                for event in events:
                    told = True
                    yield event
            for event in assembler.end():
                yield event
            if not told and not assembler.is_ended:
                raise self._empty(stream)
        finally:
            if assembler.is_complete:
                await _drain(stream)
            await stream.close()

    async def close(self) -> None:
        """Close the connections that are kept."""
        if self._client is not None:
            await self._client.close()

    async def _open(self, path: str, body: dict[str, Any]) -> AsyncStream[object]:
        try:
            if self._client is None:
                self._client = self._connect()
            return await self._client.post(
                path, cast_to=object, body=body, stream=True, stream_cls=AsyncStream[object]
            )
        except APIStatusError as error:
            response = error.response
            failure = status_failure(
                self._where,
                error.status_code,
                body=error.body or response.reason_phrase,
                headers=response.headers,
                now_ms=self._wall_ms(),
            )
        except (APIConnectionError, httpx2.HTTPError) as error:
            cause = error.__cause__ or error
            is_wrong = isinstance(cause, httpx2.UnsupportedProtocol)
            failure = unreachable(self._where, _cause(error), retryable=not is_wrong)
        except httpx2.InvalidURL as error:
            failure = unreachable(self._where, f"{error}; check base_url", retryable=False)
        raise failure

    def _connect(self) -> AsyncOpenAI:
        client = AsyncOpenAI(
            api_key=self._reach.api_key or _NO_KEY,
            base_url=self._base_url,
            max_retries=0,
            timeout=Timeout(None, connect=CONNECT_S),
        )
        client.admin_api_key = None
        if self._base_url != OPENAI_URL:
            client.organization = client.project = None
        return client

    def _broken(self, error: Exception, told: bool) -> Exception:
        match error:
            case InStreamError(body=body):
                return stream_failure(self._where, body)
            case APIConnectionError() | httpx2.HTTPError():
                what = f"lost the connection: {_cause(error)}"
            case APIError(body=body):
                return stream_failure(self._where, body or error.message)
            case _:
                what = f"sent what is not of the format: {error}"
        words = self._where.clean(f"{self._where.url} {what}")
        return StreamCut(words) if told else ProviderFailure(words, retryable=True)

    def _empty(self, stream: AsyncStream[object]) -> ProviderFailure:
        """Return the failure of a stream that ended before its first event."""
        url = self._where.url
        kind = stream.response.headers.get("content-type", "").partition(";")[0].strip()
        if kind and kind != "text/event-stream":
            what = f"{url} answered with {kind} instead of a stream of events; check base_url"
            return ProviderFailure(self._where.clean(what), retryable=False)
        return ProviderFailure(f"{url} ended its stream before the first event", retryable=True)


def shown_url(base_url: str) -> str:
    """Return an address without what may be secret in it: user, password, query."""
    try:
        url = httpx2.URL(base_url)
    except httpx2.InvalidURL:
        return "[an invalid base_url]"
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))


def _cause(error: Exception) -> str:
    """Return what lies behind an error of the SDK, whose own words say little."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__


async def _drain(stream: AsyncStream[object]) -> None:
    with suppress(APIError, httpx2.HTTPError, TimeoutError, *_SENSELESS):
        async with asyncio.timeout(DRAIN_S):
            while True:
                try:
                    await anext(stream)
                except StopAsyncIteration:
                    return
