"""`podsup pause`, `resume`, `cancel`, `compact`, `rewind`: control one pod."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import click

from protocol import events as ev
from protocol import methods as m
from protocol.errors import Timeout
from protocol.segments import flatten
from protocol.status import PodStatus
from protocol.watch import Deliver, Synced
from supervisor.cli.app import App, command
from supervisor.cli.asking import asked, helped, interrupted, with_client
from supervisor.cli.output import note
from supervisor.cli.rewinding import rewind_to, row_of_target, words_of_rewound
from supervisor.compacting import compact_and_wait

if TYPE_CHECKING:
    from supervisor.client import AsyncClient
    from supervisor.watcher import Told

wait_option = click.option("--wait", is_flag=True, help="Return when it has taken effect.")


def _accepted(app: App, verb: str, pod: str) -> None:
    app.out.lines({"pod": pod, "accepted": verb}, [f"{pod}: {verb} accepted"])


@command("pause", example="podsup pause alice")
@click.argument("pod")
@wait_option
def pause(app: App, pod: str, wait: bool) -> None:
    """Stop a pod's run and keep it resumable. A run without output yet is taken back."""
    with_client(app, lambda client: helped(client, pod, _stop(client, pod, m.Pause(), wait)))
    _accepted(app, "pause", pod)


@command("resume", example="podsup resume alice")
@click.argument("pod")
def resume(app: App, pod: str) -> None:
    """Continue a paused run."""
    with_client(app, lambda client: asked(client, pod, m.Resume()))
    _accepted(app, "resume", pod)


@command("cancel", example="podsup cancel alice")
@click.argument("pod")
@wait_option
def cancel(app: App, pod: str, wait: bool) -> None:
    """Stop a pod's run, or give up a paused one."""
    with_client(app, lambda client: helped(client, pod, _stop(client, pod, m.Cancel(), wait)))
    _accepted(app, "cancel", pod)


@command("compact", example="podsup compact alice")
@click.argument("pod")
@wait_option
@click.option("--timeout", type=float, help="Seconds to wait (default: as long as it takes).")
def compact(app: App, pod: str, wait: bool, timeout: float | None) -> None:
    """Compact a pod's history now; the pod must be idle.

    With --wait it returns when the history is compacted, or with 1 when nothing was changed.
    """
    if not wait:
        with_client(app, lambda client: asked(client, pod, m.Compact()))
        _accepted(app, "compact", pod)
        return
    try:
        done = with_client(
            app, lambda client: helped(client, pod, compact_and_wait(client, pod, timeout))
        )
    except KeyboardInterrupt:
        interrupted(app, f"the compaction of {pod} goes on", f"podsup cancel {pod}")
    app.out.lines(
        {
            "pod": pod,
            "segment_id": done.segment_id,
            "context_tokens_before": done.tokens_before,
            "context_tokens_after": done.tokens_after,
        },
        [f"{pod}: compacted, {done.tokens_before} tokens of context are {done.tokens_after} now"],
    )


@command("rewind", example="podsup rewind alice --list")
@click.argument("pod")
@click.option("--list", "show", is_flag=True, help="Show what can be rewound to, newest first.")
@click.option("--to", "turn", type=int, metavar="N", help="Take back this input and what followed.")
def rewind(app: App, pod: str, show: bool, turn: int | None) -> None:
    """Take back an input and everything after it. Effects of tools on files stay.

    What is printed is the input that was taken back.
    """
    if show == (turn is not None):
        raise click.UsageError("either --list or --to N")
    if turn is None:
        _list_targets(app, pod)
        return
    number = turn
    done = with_client(app, lambda client: helped(client, pod, rewind_to(client, pod, number)))
    for words in words_of_rewound(done):
        note(f"{pod}: {words}")
    app.out.text(done.to_wire(), flatten(done.input))


def _list_targets(app: App, pod: str) -> None:
    listed: m.RewindTargets = with_client(
        app, lambda client: asked(client, pod, m.ListRewindTargets())
    )
    now_s = time.time()
    rows = (row_of_target(target, now_s) for target in listed.targets)
    app.out.rows(listed.to_wire(), "targets", ("N", "AGE", "INPUT", "WARNING"), rows)


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
