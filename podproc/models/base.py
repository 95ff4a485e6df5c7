"""What every model adapter looks like: one request in, one stream of typed block events out.

    request ─► Opened [ThinkingStart ThinkingDelta* ThinkingDone | TextDelta* TextDone
                       | CallStart CallArgs* CallDone]* [Figures] Ended

A stream without its `Ended` is an interruption, never a success. Blocks are numbered by the adapter
from 0 within one answer. Failures are raised: `ProviderFailure` before the first event (retryable
or not), `StreamCut` after it. Adapters never retry, never time out and never sleep for politeness:
the loop owns all of that, so that every retry is seen.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from podproc.tools.base import ToolSchema
from protocol.entries import Item, Usage
from protocol.manifest import Reasoning as Effort


@dataclass(frozen=True, slots=True)
class Reach:
    """How a provider is reached; the key is shown nowhere. `base_url` None is the provider's own.

    `context_window` in tokens; `provider` is what is shown, where it is not the adapter's own.
    """

    model_id: str
    api_key: str = field(repr=False)
    base_url: str | None = None
    context_window: int = 200_000
    provider: str | None = None


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One request; `items` is the projected history, results in call order.

    `cache_key` is alike for all requests that begin alike: the segment's id. `used` is for the
    scripted model.
    """

    system_prompt: str
    items: tuple[Item, ...]
    tools: tuple[ToolSchema, ...] = ()
    max_tokens: int = 8192
    temperature: float | None = None
    reasoning: Effort | None = None
    cache_key: str = ""
    used: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Opened:
    """The headers of the response have come: from now on the wait is for its first event."""


@dataclass(frozen=True, slots=True)
class ThinkingStart:
    """Reasoning begins, even where the provider shows no text of it."""

    block: int


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """More reasoning."""

    block: int
    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDone:
    """The reasoning block is complete; opaque parts go back with the next request."""

    block: int
    text: str = ""
    summary: str = ""
    encrypted_content: str | None = None
    signature: str | None = None


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text."""

    block: int
    text: str


@dataclass(frozen=True, slots=True)
class TextDone:
    """The text block is complete."""

    block: int
    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """The model begins to write a tool call."""

    call_id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArgs:
    """More of a call's arguments, as JSON text."""

    call_id: str
    json: str


@dataclass(frozen=True, slots=True)
class CallDone:
    """The call is complete; `arguments` is the JSON text exactly as it came."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Figures:
    """What the request cost; `answer` is the scripted answer that was played."""

    usage: Usage
    answer: int | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The terminal event; `max_tokens` as reason means that the answer was truncated."""

    stop_reason: str


ModelEvent: TypeAlias = (
    Opened
    | ThinkingStart
    | ThinkingDelta
    | ThinkingDone
    | TextDelta
    | TextDone
    | CallStart
    | CallArgs
    | CallDone
    | Figures
    | Ended
)


class ProviderFailure(Exception):
    """The provider refused or could not be reached, before its first event."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after_s: float | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.retry_after_s = retry_after_s
        self.retryable = status in RETRYABLE if retryable is None else retryable


class StreamCut(Exception):
    """The stream broke after its first event."""


RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504, 529})


class Model(Protocol):
    """One adapter, for one pod."""

    provider: str
    model_id: str
    context_window: int

    def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Make the request; closing the iterator closes the connection."""

    async def close(self) -> None:
        """Close what is kept open between requests."""


@dataclass(slots=True)
class Places:
    """What a script's `${…}` stand for."""

    pod: str
    cwd: str
    workspace: str
    fleet: str
    incarnation: int
    _table: dict[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._table = {
            "${pod}": self.pod,
            "${cwd}": self.cwd,
            "${workspace}": self.workspace,
            "${fleet}": self.fleet,
            "${incarnation}": str(self.incarnation),
        }

    def fill(self, text: str) -> str:
        """Return the text with every placeholder replaced."""
        if "${" in text:
            for name, value in self._table.items():
                text = text.replace(name, value)
        return text
