"""The adapter for Anthropic's Messages, and for whatever else speaks that format.

It goes through the SDK's lowest streaming call. The SDK's own retries, timeouts and traces are off,
but for the time to connect: the loop owns the others, and sees each retry. What is said and what
is answered is converted by `anthropic_format` and `anthropic_answer`; here are the connection and
its failures:

    before the first event     ProviderFailure, with status and `Retry-After` where there is one
    an `error` event           ProviderFailure, with the status its type stands for
    the stream breaks          StreamCut; before its first event a ProviderFailure that is retried
    the stream just ends       nothing: the loop misses the terminal event

The key is in none of the messages, and neither is what stands before an `@` in the address.

Importing this imports the SDK, and `preload` what the SDK would import with the first request. The
client is made with the first request: it loads certificates, which is slow, and a pod that waits
needs none. It keeps its connection for the next request; so the end of a stream is read to its last
byte, but not waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import anthropic
import anthropic.resources.messages
import httpx2

from podproc.engine.text import cut_text
from podproc.models.anthropic_answer import Answer
from podproc.models.anthropic_format import to_params
from podproc.models.base import (
    Model,
    ModelEvent,
    ModelRequest,
    Opened,
    ProviderFailure,
    Reach,
    StreamCut,
)
from podproc.models.retry_after import retry_after_s
from protocol.errors import InvalidRequest

BASE_URL = "https://api.anthropic.com"
CONNECT_S = 10.0
LAST_BYTES_S = 0.25
"""How long the end of a finished stream may take, before its connection is given up instead."""

_MOST = 1000
"""Bytes of a provider's message: behind some refusals stands a whole page."""

_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""What the type of an `error` event would have been as an HTTP status."""

_TOO_LONG = ("prompt is too long", "exceed context limit", "context window")

_GARBAGE = (ValueError, TypeError, AttributeError)
"""What reading something raises that is not what it says it is."""


def make(reach: Reach) -> Model:
    """Return the adapter; raises InvalidRequest for an address or a key that cannot be one."""
    return AnthropicModel(reach)


class AnthropicModel:
    """One model behind one address. `wall_clock` is epoch seconds, to read dates by."""

    def __init__(self, reach: Reach, *, wall_clock: Callable[[], float] = time.time) -> None:
        self.provider = reach.provider or "anthropic"
        self.model_id = reach.model_id
        self.context_window = reach.context_window
        self._wall_clock = wall_clock
        self._key = reach.api_key
        self._base_url = (reach.base_url or BASE_URL).rstrip("/")
        self._place = _without_user(self._base_url)
        if not self._key or not all("!" <= character <= "~" for character in self._key):
            raise InvalidRequest(
                f"the API key for {self.model_id} is "
                + ("not plain text" if self._key else "empty"),
                next_step="look at what model.api_key_env or model.api_key_file names",
            )
        self._made: anthropic.AsyncAnthropic | None = None

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Make the request; closing the iterator closes the connection."""
        params, answer, has_begun = to_params(request, self.model_id), Answer(), False
        try:
            stream = await self._client().messages.create(**params)
        except (anthropic.APIError, httpx2.HTTPError) as error:
            raise self._failure(error) from None
        try:
            yield Opened()
            async for event in stream:
                for told in answer.take(event):
                    has_begun = True
                    yield told
                if answer.has_ended:
                    return
        except anthropic.APIStatusError as error:
            raise self._refused(error, error.body) from None
        except (anthropic.APIError, httpx2.HTTPError, httpx2.StreamError, *_GARBAGE) as error:
            what = f"the stream from {self._place} broke: {self._said(_cause(error))}"
            if has_begun:
                raise StreamCut(what) from None
            raise ProviderFailure(what, retryable=True) from None
        finally:
            await self._leave(stream, answer)
        if not has_begun:
            kind = stream.response.headers.get("content-type", "nothing named")
            raise ProviderFailure(
                f"{self._place} answered without an event ({self._said(kind)}); "
                "is it the right address?",
                retryable=True,
            )

    async def close(self) -> None:
        """Close the connections that are kept."""
        made, self._made = self._made, None
        if made is not None:
            await made.close()

    def _client(self) -> anthropic.AsyncAnthropic:
        if self._made is None:
            self._made = anthropic.AsyncAnthropic(
                api_key=self._key,
                base_url=self._base_url,
                max_retries=0,
                timeout=httpx2.Timeout(None, connect=CONNECT_S),
                open_telemetry=False,
            )
        return self._made

    async def _leave(self, stream: anthropic.AsyncStream[Any], answer: Answer) -> None:
        """Close the response; a connection is used again only if it was read to its end."""
        if answer.has_ended:
            with contextlib.suppress(TimeoutError, httpx2.HTTPError, anthropic.APIError, *_GARBAGE):
                async with asyncio.timeout(LAST_BYTES_S):
                    async for _ in stream:
                        pass
        await stream.close()

    # -- failures

    def _failure(self, error: anthropic.APIError | httpx2.HTTPError) -> ProviderFailure:
        if isinstance(error, anthropic.APIStatusError):
            return self._refused(error, error.body)
        cause = _cause(error)
        if isinstance(error, anthropic.APITimeoutError):
            return ProviderFailure(
                f"{self._place} could not be reached within {CONNECT_S:g} s", retryable=True
            )
        return ProviderFailure(
            f"{self._place} could not be reached: {self._said(cause)}",
            retryable=not isinstance(cause, httpx2.LocalProtocolError | httpx2.UnsupportedProtocol),
        )

    def _refused(self, error: anthropic.APIStatusError, body: object) -> ProviderFailure:
        kind, message = _told(body)
        headers = error.response.headers
        status, wait = error.status_code, None
        if status < 400:  # an event within a stream that had begun well
            status = _STATUS.get(kind, 500)
        else:
            wait = retry_after_s(headers, now=self._wall_clock())
        said = self._said(message or "it gave no reason")
        if request_id := headers.get("request-id"):
            said += f" (request {self._said(request_id)})"
        return ProviderFailure(self._words(status, said), status=status, retry_after_s=wait)

    def _words(self, status: int, said: str) -> str:
        place, model = self._place, self.model_id
        match status:
            case 401:
                return f"{place} refuses the API key for {model}: {said}"
            case 403:
                return f"{place} does not let this API key use {model}: {said}"
            case 404:
                return f"{place} has no model {model}: {said}"
            case 400 | 413 if any(words in said for words in _TOO_LONG):
                return (
                    f"the history is too long for {model} at {place}: {said}; "
                    "`podsup compact` makes it shorter"
                )
            case 400 | 402 | 413 | 422:
                return f"{place} refuses this request to {model}: {said}"
            case 429:
                return f"{place} limits the rate of requests to {model}: {said}"
            case 529:
                return f"{place} is overloaded: {said}"
            case _:
                return f"{place} failed: {said}"

    def _said(self, what: object) -> str:
        """Return somebody else's words on one line, cut, without the key."""
        text = str(what).strip() or type(what).__name__
        return cut_text(" ".join(text.replace(self._key, "[the key]").split()), _MOST)


def _cause(error: BaseException) -> BaseException:
    """Return what is behind the SDK's word for all that goes wrong with a connection."""
    return error.__cause__ if isinstance(error, anthropic.APIError) and error.__cause__ else error


def _told(body: object) -> tuple[str, str]:
    """Return the type and the message of a refusal, as far as they are there."""
    inner = body.get("error", body) if isinstance(body, Mapping) else body
    if isinstance(inner, Mapping):
        return str(inner.get("type") or ""), str(inner.get("message") or "")
    return "", str(inner or "")


def _without_user(url: str) -> str:
    """Return an address without name and password, query and fragment.

    Raises InvalidRequest where it is none.
    """
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        is_good = False
    if not is_good:
        raise InvalidRequest(
            "model.base_url is no address of the form https://host[:port][/path]",
            next_step="leave it out for the provider's own",
        )
    return f"{parts.scheme}://{host}{parts.path}"
