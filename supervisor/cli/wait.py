"""`podsup wait`: block until pods are in a state, or their run has ended in a way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from protocol import control as c
from protocol import events as ev
from protocol.errors import Timeout
from protocol.status import ENDED, PodStatus, RunResult
from protocol.watch import Deliver, Synced
from supervisor.cli import exit_codes
from supervisor.cli.app import App, Failed, command
from supervisor.cli.asking import with_client

if TYPE_CHECKING:
    from supervisor.client import AsyncClient
    from supervisor.watcher import Told

STATES = tuple(status.value for status in PodStatus)
RESULTS = tuple(result.value for result in RunResult if result.value not in STATES)


@command("wait", example="podsup wait alice bob --for idle --timeout 60")
@click.argument("pods", metavar="POD…", nargs=-1, required=True)
@click.option("--any", "any_pod", is_flag=True, help="The first one is enough.")
@click.option(
    "--for",
    "wanted",
    type=click.Choice([*STATES, *RESULTS]),
    default="idle",
    show_default=True,
    help="A status, or the result of the next run.",
)
@click.option("--timeout", type=float, help="Seconds to wait (default: as long as it takes).")
def wait(
    app: App, pods: tuple[str, ...], any_pod: bool, wanted: str, timeout: float | None
) -> None:
    """Wait until pods have a status, or until their next run ends. Prints each result."""
    found = with_client(app, lambda client: wait_for(client, pods, any_pod, wanted, timeout))
    lines = [f"{name}: {what}" for name, what in found.items()]
    app.out.lines({"pods": found, "wanted": wanted}, lines)
    good = [what == wanted for what in found.values()]
    if not (any(good) if any_pod else all(good)):
        lost = any(what in {status.value for status in ENDED} for what in found.values())
        raise Failed(exit_codes.NOT_RUNNING if lost else exit_codes.FAILED)


async def wait_for(
    client: AsyncClient, pods: tuple[str, ...], any_pod: bool, wanted: str, timeout_s: float | None
) -> dict[str, str]:
    """Return what each pod came to: `wanted`, another run result, or the state it ended in."""
    queue: asyncio.Queue[tuple[str, Told]] = asyncio.Queue()
    await client.watch_fleet(queue)
    found: dict[str, str] = {}
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                _, told = await client.next_of(queue)
                if isinstance(told, Synced):
                    for name in pods:
                        row: c.StatusRow = await client.control(c.StatusOf(pod=name))
                        _take_status(found, name, row.status, wanted)
                elif isinstance(told, Deliver) and told.header.pod in pods:
                    _take_event(found, told, wanted)
                if found and (any_pod or len(found) == len(pods)):
                    return found
    except TimeoutError:
        left = [name for name in pods if name not in found]
        raise Timeout(
            f"not {wanted} within {timeout_s:g} s: {', '.join(left)}",
            next_step=f"podsup wait {' '.join(left)} --for {wanted}",
        ) from None


def _take_status(found: dict[str, str], name: str, status: PodStatus, wanted: str) -> None:
    if status.value == wanted or status in ENDED:
        found[name] = status.value


def _take_event(found: dict[str, str], told: Deliver, wanted: str) -> None:
    name = told.header.pod
    event: Any = told.event
    match event:
        case ev.RunEnd(result=result) if wanted in RESULTS or result.value == wanted:
            found[name] = result.value
        case ev.Status(status=status):
            _take_status(found, name, status, wanted)
        case ev.PodStopped():
            _take_status(found, name, PodStatus.STOPPED, wanted)
        case ev.PodFailed():
            _take_status(found, name, PodStatus.FAILED, wanted)
        case ev.PodUnreachable():
            _take_status(found, name, PodStatus.UNREACHABLE, wanted)
        case ev.PodBackoff():
            _take_status(found, name, PodStatus.BACKOFF, wanted)
        case _:
            pass
