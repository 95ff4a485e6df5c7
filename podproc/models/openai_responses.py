"""The Responses API of OpenAI, and of servers that are compatible with it.

The conversion is in `openai_responses_format`, the connection in `openai_wire`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from podproc.clock import wall_ms
from podproc.models.base import Model, ModelEvent, ModelRequest, Reach
from podproc.models.openai_responses_format import ResponsesAssembler, request_body
from podproc.models.openai_wire import OPENAI_URL, OpenAIWire


class OpenAIResponsesModel:
    """Speaks the Responses API with one server, which keeps nothing."""

    def __init__(self, reach: Reach, *, wall_ms: Callable[[], int] = wall_ms) -> None:
        self.provider = reach.provider or "openai_responses"
        self.model_id = reach.model_id
        self.context_window = reach.context_window
        self._wire = OpenAIWire(reach, reach.base_url or OPENAI_URL, wall_ms=wall_ms)

    def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Make the request; closing the iterator closes the connection."""
        body = request_body(request, self.model_id)
        return self._wire.play("/responses", body, ResponsesAssembler())

    async def close(self) -> None:
        """Close the connections that are kept."""
        await self._wire.close()


def make(reach: Reach) -> Model:
    """Return the adapter; raises InvalidRequest for an address or a key that cannot be one."""
    return OpenAIResponsesModel(reach)
