"""What most commands do: connect, ask one thing, close."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from supervisor.cli.output import note

if TYPE_CHECKING:
    from supervisor.cli.app import App
    from supervisor.client import AsyncClient

T = TypeVar("T")

LOOK_S = 2.0


def with_client(app: App, work: Callable[[AsyncClient], Awaitable[T]]) -> T:
    """Connect to the fleet that is meant, do the work, close."""
    import asyncio

    from supervisor.client import AsyncClient

    async def do() -> T:
        async with AsyncClient.connect(app.fleet, home=app.home) as client:
            return await work(client)

    return asyncio.run(do())


async def asked(client: AsyncClient, pod: str, method: Any) -> Any:
    """Send a method to a pod; a refusal says what can be done instead."""
    return await helped(client, pod, client.send(pod, method))


async def helped(client: AsyncClient, pod: str, work: Coroutine[Any, Any, T]) -> T:
    """Do what asks a pod; where it is refused, say what can be done in the state the pod is in."""
    from protocol.control import StatusOf
    from protocol.errors import PodsupError, Unreachable
    from protocol.status import ENDED

    try:
        return await work
    except PodsupError as error:
        if error.next_step is not None and not isinstance(error, Unreachable):
            raise
        try:
            row = await client.control(StatusOf(pod=pod), timeout_s=LOOK_S)
        except PodsupError:
            raise error from None
        if isinstance(error, Unreachable) and row.status in ENDED:
            is_stopped = f"pod {pod} is {row.status}: {row.reason}"
            raise Unreachable(is_stopped, next_step=f"podsup restore {pod}", pod=pod) from error
        error.next_step = error.next_step or next_for(error.code, pod, row.status)
        raise


def next_for(code: str, pod: str, status: str) -> str | None:
    """Return the command that helps where a pod refused with this code; None where none does."""
    match code, status:
        case "already_running", _:
            return f"podsup wait {pod}, or podsup cancel {pod}"
        case (("not_running" | "not_paused"), _):
            return f"podsup status {pod}"
        case "invalid_request", "paused":
            return f"podsup resume {pod}, or podsup cancel {pod}"
        case "conflict", _:
            return f"podsup rewind {pod} --list"
        case _:
            return None


def interrupted(app: App, what: str, next_step: str) -> NoReturn:
    """End a command whose waiting was ended with Ctrl-C: what it waited for goes on."""
    from protocol.errors import Interrupted
    from supervisor.cli.app import Failed
    from supervisor.cli.exit_codes import INTERRUPTED

    app.out.error(Interrupted(f"interrupted; {what}", next_step=next_step))
    raise Failed(INTERRUPTED)


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
