"""`podsup pause`, `resume`, `cancel`, `compact`, `rewind`: control one pod."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from protocol import events as ev
from protocol import methods as m
from protocol.errors import InvalidRequest, Timeout
from protocol.segments import flatten
from protocol.status import PodStatus
from protocol.watch import Deliver, Synced
from supervisor.cli.app import App, command
from supervisor.cli.asking import with_client

if TYPE_CHECKING:
    from supervisor.client import AsyncClient
    from supervisor.watcher import Told

wait_option = click.option("--wait", is_flag=True, help="Return when it has taken effect.")


def _accepted(app: App, verb: str, pod: str) -> None:
    app.out.text({"pod": pod, "accepted": verb}, f"{pod}: {verb} accepted")


@command("pause", example="podsup pause alice")
@click.argument("pod")
@wait_option
def pause(app: App, pod: str, wait: bool) -> None:
    """Stop a pod's run and keep it resumable. A run without output yet is taken back."""
    with_client(app, lambda client: _stop(client, pod, m.Pause(), wait))
    _accepted(app, "pause", pod)


@command("resume", example="podsup resume alice")
@click.argument("pod")
def resume(app: App, pod: str) -> None:
    """Continue a paused run."""
    with_client(app, lambda client: client.send(pod, m.Resume()))
    _accepted(app, "resume", pod)


@command("cancel", example="podsup cancel alice")
@click.argument("pod")
@wait_option
def cancel(app: App, pod: str, wait: bool) -> None:
    """Stop a pod's run, or give up a paused one."""
    with_client(app, lambda client: _stop(client, pod, m.Cancel(), wait))
    _accepted(app, "cancel", pod)


@command("compact", example="podsup compact alice")
@click.argument("pod")
def compact(app: App, pod: str) -> None:
    """Compact a pod's history now; the pod must be idle."""
    with_client(app, lambda client: client.send(pod, m.Compact()))
    _accepted(app, "compact", pod)


@command("rewind", example="podsup rewind alice --list")
@click.argument("pod")
@click.option("--list", "show", is_flag=True, help="Show what can be rewound to, newest first.")
@click.option("--to", "turn", type=int, metavar="N", help="Take back this input and what followed.")
def rewind(app: App, pod: str, show: bool, turn: int | None) -> None:
    """Take back an input and everything after it. Effects of tools on files stay."""
    if show == (turn is not None):
        raise click.UsageError("either --list or --to N")
    if turn is None:
        _list_targets(app, pod)
        return

    async def apply(client: AsyncClient) -> m.Rewound:
        listed: m.RewindTargets = await client.send(pod, m.ListRewindTargets())
        target = next((t for t in listed.targets if t.turn_index == turn), None)
        if target is None:
            raise InvalidRequest(
                f"pod {pod} has no input {turn}", next_step=f"podsup rewind {pod} --list"
            )
        rewound: m.Rewound = await client.send(
            pod,
            m.RewindTo(
                target=m.RewindTargetId(
                    segment_id=target.segment_id,
                    user_input_entry_index=target.user_input_entry_index,
                ),
                expected_head_entries=listed.head_entries,
            ),
        )
        return rewound

    done = with_client(app, apply)
    app.out.text(done.to_wire(), flatten(done.input))


def _list_targets(app: App, pod: str) -> None:
    listed: m.RewindTargets = with_client(
        app, lambda client: client.send(pod, m.ListRewindTargets())
    )
    data = listed.to_wire()
    rows = ((str(t.turn_index), t.preview, t.warning or "") for t in listed.targets)
    app.out.rows(data, "targets", ("N", "INPUT", "WARNING"), rows)


async def _stop(client: AsyncClient, pod: str, method: Any, wait: bool) -> None:
    if not wait:
        await client.send(pod, method)
        return
    queue: asyncio.Queue[tuple[str, Told]] = asyncio.Queue()
    await client.watch_fleet(queue, pod=pod)
    while not isinstance((await queue.get())[1], Synced):
        pass
    header, _ = await client.request(pod, method.method, method)
    if header.status is not PodStatus.RUNNING:
        return
    try:
        async with asyncio.timeout(30.0):
            while True:
                _, told = await queue.get()
                if (
                    isinstance(told, Deliver)
                    and isinstance(told.event, ev.Status)
                    and told.event.status is not PodStatus.RUNNING
                ):
                    return
    except TimeoutError as error:
        raise Timeout(f"pod {pod} still runs", next_step=f"podsup status {pod}") from error
