"""Chat Completions: OpenAI's, and every server's that is compatible with it. Gemini's too.

The conversion is in `openai_chat_format`, the connection in `openai_wire`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from podproc.clock import wall_ms
from podproc.models.base import Model, ModelEvent, ModelRequest, Reach
from podproc.models.openai_chat_format import ChatAssembler, dialect_of, request_body
from podproc.models.openai_wire import OPENAI_URL, OpenAIWire

GEMINI_URL = "https://generativelanguage.googleapis.com/v1beta/openai/"


class OpenAIChatModel:
    """Speaks Chat Completions with one server; `provider` is what the fleet is shown."""

    def __init__(
        self,
        reach: Reach,
        *,
        wall_ms: Callable[[], int] = wall_ms,
        provider: str = "openai_chat",
        default_url: str = OPENAI_URL,
    ) -> None:
        url = reach.base_url or default_url
        self.provider = reach.provider or provider
        self.model_id = reach.model_id
        self.context_window = reach.context_window
        self._dialect = dialect_of(url)
        self._wire = OpenAIWire(reach, url, wall_ms=wall_ms)

    def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Make the request; closing the iterator closes the connection."""
        body = request_body(request, self.model_id, self._dialect)
        return self._wire.play("/chat/completions", body, ChatAssembler())

    async def close(self) -> None:
        """Close the connections that are kept."""
        await self._wire.close()


def make(reach: Reach) -> Model:
    """Return the adapter; raises InvalidRequest for an address or a key that cannot be one."""
    return OpenAIChatModel(reach, wall_ms=wall_ms)


def make_gemini(reach: Reach, *, wall_ms: Callable[[], int] = wall_ms) -> OpenAIChatModel:
    """Return the adapter to Google's endpoint that is compatible with OpenAI's."""
    return OpenAIChatModel(reach, wall_ms=wall_ms, provider="gemini", default_url=GEMINI_URL)
