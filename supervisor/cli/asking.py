"""What most commands do: connect, ask one thing, close."""

from __future__ import annotations

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
    import asyncio

    from supervisor.client import AsyncClient

    async def do() -> T:
        async with AsyncClient.connect(app.fleet, home=app.home) as client:
            return await work(client)

    return asyncio.run(do())


def ask(app: App, method: str, **params: Any) -> dict[str, Any]:
    """Ask the supervisor for one thing and return it as plain data; the quickest way there is."""
    from pathlib import Path

    from supervisor.choice import choose_fleet
    from supervisor.paths import Paths
    from supervisor.quick import ask_once

    paths = Paths.here(app.home)
    return ask_once(paths, choose_fleet(paths, app.fleet, Path.cwd()), method, params)


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
