"""What OpenAI, and those who speak its formats, say when something fails; in our words. Pure.

    {"error": {"message", "type", "code"}}    OpenAI, OpenRouter (`code` a number), vLLM, Ollama
    [{"error": {…, "details": […]}}]           Google; how long to wait stands in `details`
    {"object": "error", "message", "code"}     vLLM, older
    {"error": "…"}, {"detail": "…"}, text      llama.cpp's and others' proxies

The same bodies come with a status, and in the middle of a stream without one; there the code or the
type tells which status it would have been. Whatever is said passes `Where.clean`: some providers
repeat the key that they refuse.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from podproc.models.base import RETRYABLE, ProviderFailure
from podproc.models.retry_after import number_of, retry_after_s

LONGEST = 500
"""Characters kept of what a provider says."""

_SHORTEST_KEY = 6
"""A key that is shorter is a word for "none" and hides nothing."""

_OUT_OF_CREDIT = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",
        "billing_not_active",
    }
)
_TOO_LONG_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_TOO_LONG = re.compile(
    r"context (length|window|size)|maximum (context|input)|input is too long|prompt is too long"
    r"|too many (input )?tokens|token count .{0,40}exceeds",
    re.IGNORECASE,
)
_OVER_THE_RATE = re.compile(r"request too large", re.IGNORECASE)
"""One request is more than a whole minute allows (OpenAI, 429): no waiting helps."""
_MEANT = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "resource_exhausted": 429,
    "overloaded": 529,
    "overloaded_error": 529,
    "server_is_overloaded": 503,
    "service_unavailable_error": 503,
    "slow_down": 503,
    "unavailable": 503,
    "server_error": 500,
    "internal_error": 500,
    "internalservererror": 500,
    "api_error": 500,
    "timeout": 504,
    "vector_store_timeout": 504,
    "context_length_exceeded": 400,
    "invalid_request_error": 400,
    "invalid_prompt": 400,
    "badrequesterror": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "model_not_found": 404,
}
_OVERLOADED = re.compile(r"\boverloaded\b", re.IGNORECASE)


class InStreamError(Exception):
    """The provider said inside its stream that it failed; `body` is what it said."""

    def __init__(self, body: object) -> None:
        super().__init__("the provider reported an error inside its stream")
        self.body = body


class Malformed(ValueError):
    """What came is not of the format."""


@dataclass(frozen=True, slots=True)
class Where:
    """Whom a failure is told of; `url` without what may be secret in it."""

    url: str
    model_id: str
    key: str = field(repr=False)

    def clean(self, text: str) -> str:
        """Return the text on one line, cut, and without the key."""
        if len(self.key) >= _SHORTEST_KEY:
            text = text.replace(self.key, "[the key]")
        text = " ".join(text.split())
        return text if len(text) <= LONGEST else text[:LONGEST] + "…"


@dataclass(frozen=True, slots=True)
class Told:
    """What a provider said: its words, its codes in lower case, and how long to wait."""

    message: str = ""
    code: str = ""
    type: str = ""
    retry_after_s: float | None = None

    @property
    def is_out_of_credit(self) -> bool:
        """Whether waiting will not help, paying will."""
        return self.code in _OUT_OF_CREDIT or self.type in _OUT_OF_CREDIT

    def is_too_long(self, status: int | None) -> bool:
        """Whether the same request can never pass.

        Of a rate limit (429) that is said in words of its own: "too many tokens" are only too many
        at once.
        """
        words = _OVER_THE_RATE if status == 429 else _TOO_LONG
        return self.code in _TOO_LONG_CODES or bool(words.search(self.message))


def read_told(body: object) -> Told:
    """Return what an error's body says, whatever shape it has."""
    if isinstance(body, list):
        body = body[0] if body else None
    if not isinstance(body, dict):
        return Told(str(body or ""))
    inner = body.get("error") or body
    if not isinstance(inner, dict):
        return Told(str(inner))
    message = inner.get("message") or inner.get("detail") or ""
    metadata = inner.get("metadata")
    if isinstance(metadata, dict) and metadata.get("raw"):
        message = f"{message} ({metadata.get('provider_name', 'upstream')}: {metadata['raw']})"
    return Told(
        message=message if isinstance(message, str) else str(message),
        code=_word(inner.get("code")),
        type=_word(inner.get("type") or inner.get("status")),
        retry_after_s=_google_delay(inner.get("details")),
    )


def _word(value: object) -> str:
    return "" if value is None else str(value).lower()


def _google_delay(details: object) -> float | None:
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str):
            return number_of(delay.removesuffix("s"))
    return None


def status_failure(
    where: Where, status: int, *, body: object, headers: Mapping[str, str], now_ms: int
) -> ProviderFailure:
    """Return the failure that a response other than 200 stands for."""
    told = read_told(body)
    wait = retry_after_s(headers, now=now_ms / 1000)
    return _failure(where, status, told, told.retry_after_s if wait is None else wait)


def stream_failure(where: Where, body: object) -> ProviderFailure:
    """Return the failure that an error inside a stream stands for.

    One that nobody knows is taken for a passing one: the request itself was accepted.
    """
    told = read_told(body)
    status = int(told.code) if told.code.isdecimal() else None
    if status is None or not 400 <= status < 600:
        status = _MEANT.get(told.code) or _MEANT.get(told.type)
    if status is None and _OVERLOADED.search(told.message):
        status = 529
    if status is None and told.is_too_long(status):
        status = 400
    return _failure(where, status, told, told.retry_after_s)


def unreachable(where: Where, cause: str, *, retryable: bool = True) -> ProviderFailure:
    """Return the failure of a request that got no response."""
    return ProviderFailure(
        where.clean(f"{where.url} could not be reached: {cause}"), retryable=retryable
    )


def _failure(where: Where, status: int | None, told: Told, wait_s: float | None) -> ProviderFailure:
    url, model = where.url, where.model_id
    retryable = status in RETRYABLE or status is None
    said = where.clean(told.message) or "it did not say why"
    if told.is_out_of_credit or status == 402:
        what = f"out of credit at {url} (model {model}): {said}; add credit or raise its limit"
        return ProviderFailure(what, status=status, retryable=False)
    if status in (400, 413, 422, 429, 500) and told.is_too_long(status):
        what = f"the request is too long for {model} at {url}: {said}; compact the session"
        return ProviderFailure(what, status=status, retryable=False)
    match status:
        case 401:
            what = f"{url} refused the key for {model}: {said}; check the key the manifest names"
        case 403:
            what = f"{url} does not let this key use {model}: {said}"
        case 404:
            what = f"{url} knows no model {model}: {said}; check model_id and base_url"
        case 429:
            what = f"{url} limits the rate of {model}: {said}"
        case 503 | 529:
            what = f"{url} is overloaded (model {model}): {said}"
        case None:
            what = f"{url} broke off with an error (model {model}): {said}"
        case _ if status < 500:
            what = f"{url} did not accept the request for {model}: {said}"
        case _:
            what = f"{url} failed (model {model}): {said}"
    return ProviderFailure(what, status=status, retry_after_s=wait_s, retryable=retryable)


def as_mapping(value: Any) -> dict[str, Any]:
    """Return a JSON object as it is, and anything else as an empty one."""
    return value if isinstance(value, dict) else {}


def count(value: object) -> int:
    """Return a number of tokens; 0 for what is none."""
    return max(0, value) if isinstance(value, int) and not isinstance(value, bool) else 0
