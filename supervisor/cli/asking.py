"""What most commands do: connect, ask one thing, close."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from supervisor.cli.output import note

if TYPE_CHECKING:
    from supervisor.cli.app import App
    from supervisor.client import AsyncClient

T = TypeVar("T")


def with_client(app: App, work: Callable[[AsyncClient], Awaitable[T]]) -> T:
    """Connect to the fleet that is meant, do the work, close."""
    from supervisor.client import AsyncClient

    async def do() -> T:
        async with AsyncClient.connect(app.fleet, home=app.home) as client:
            return await work(client)

    return asyncio.run(do())


def operate(app: App, control: Any, *, timeout_s: float = 60.0) -> dict[str, Any]:
    """Do long work to its end, naming each blocker on stderr."""
    progress = Progress()
    return with_client(
        app, lambda client: client.operate(control, timeout_s=timeout_s, on_progress=progress)
    )


QUIET_S = 1.0


class Progress:
    """Says what is waited for, each thing once; work that takes less than a second says nothing."""

    def __init__(self) -> None:
        self._said = ""
        self._begun = time.monotonic()

    def __call__(self, text: str) -> None:
        if text and text != self._said and time.monotonic() - self._begun > QUIET_S:
            self._said = text
            note(text)
