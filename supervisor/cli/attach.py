"""`podsup attach`: a pod's history, then what it does as it does it.

Three faces of one feed. With a terminal on both sides it is interactive (`attach_screen`); without,
it prints each line when its entry is committed and reads nothing; with `-o jsonl` it prints what
the watcher is told, deltas too, one JSON object a line: `snapshot`, `event`, `gap`. The feed
survives the pod: when the pod starts again, it is watched again from a new snapshot.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from protocol import control as c
from protocol import events as ev
from protocol import methods as m
from protocol.entries import Entry
from protocol.errors import PodsupError, Unreachable
from protocol.snapshot import FleetSnapshot, Snapshot
from protocol.status import ENDED
from protocol.watch import Deliver, Synced
from supervisor.cli.app import App, command
from supervisor.cli.asking import with_client
from supervisor.cli.output import put_drawn
from supervisor.cli.rows import row_of

if TYPE_CHECKING:
    from supervisor.client import AsyncClient
    from supervisor.drawing import Line
    from supervisor.transcript import Missing, Passage, Transcript
    from supervisor.watcher import Told

PAGE = 1000

MOST_SEGMENTS = 20
"""How many segments that were missed are fetched; what was before them is a gap that is told."""


@command("attach", example="podsup attach alice --once")
@click.argument("pod")
@click.option("--all", "everything", is_flag=True, help="All of its history, not only the end.")
@click.option("--once", is_flag=True, help="Show what there is now, and end.")
def attach(app: App, pod: str, everything: bool, once: bool) -> None:
    """Show a pod's history, then what it does; type to run.

    Ctrl-C pauses a run; twice, or while nothing runs, it detaches; so does Ctrl-D. The pod goes on.
    A paste of several lines is one message. Tab completes @path, #page and /workflow. /help names
    the commands: /compact, /rewind, /thinking, …

    Without a terminal it follows only, until the pod is stopped or failed (exit code 3), its
    supervisor is gone (4), or a signal comes. With -o jsonl it prints snapshots and events as JSON
    lines, with --once -o json one document.
    """
    if app.output == "json" and not once:
        raise click.UsageError("one JSON document wants --once; -o jsonl follows")
    if app.output in ("json", "jsonl"):
        with_client(app, lambda client: _print_events(app, client, pod, once))
    elif once or not (sys.stdin.isatty() and sys.stdout.isatty()):
        with_client(app, lambda client: _print_lines(client, pod, everything, once))
    else:
        from supervisor.cli.attach_screen import show

        with_client(app, lambda client: show(client, pod, everything))


async def _print_lines(client: AsyncClient, pod: str, everything: bool, once: bool) -> None:
    from supervisor.transcript import Transcript

    transcript = Transcript(pod, everything=everything)
    async with aclosing(told_of(client, pod)) as feed:
        async for told in feed:
            put_drawn(await draw(client, transcript, told))
            if once and _is_snapshot(told):
                return
            _raise_if_ended(pod, told)


async def _print_events(app: App, client: AsyncClient, pod: str, once: bool) -> None:
    async with aclosing(told_of(client, pod)) as feed:
        async for told in feed:
            row = row_of(told)
            if row is not None and app.output == "jsonl":
                app.out.line(row)
            elif row is not None and _is_snapshot(told):
                app.out.document(row)
            if once and _is_snapshot(told):
                return
            _raise_if_ended(pod, told)


async def told_of(client: AsyncClient, pod: str) -> AsyncGenerator[Told, None]:
    """Yield what the pod tells, and what the fleet tells of it, from start to start.

    Raises UnknownPod, Unreachable when the supervisor is gone or the pod is at rest to begin with.
    """
    is_first = True
    while True:
        client.unwatch_all()
        queue: asyncio.Queue[tuple[str, Told]] = asyncio.Queue()
        await client.watch_fleet(queue, pod=pod)
        row: c.StatusRow = await client.control(c.StatusOf(pod=pod))
        if is_first and row.status in ENDED:
            raise _ended(pod, f"{row.status}: {row.reason}")
        is_first = False
        watched = await _watch(client, pod, queue)
        started: int | None = None
        while started in (None, watched):
            _, told = await client.next_of(queue)
            yield told
            started = _started(told, pod)


async def _watch(client: AsyncClient, pod: str, queue: asyncio.Queue[tuple[str, Told]]) -> int:
    """Watch the pod if it can be; returns the incarnation, 0 for none."""
    try:
        return (await client.watch_pod(pod, queue)).incarnation
    except Unreachable as absent:
        if "pod" not in absent.details:
            raise
        return 0


def _started(told: Told, pod: str) -> int | None:
    """Return the incarnation that can be watched, where the fleet tells of one."""
    match told:
        case Deliver(header=header, event=ev.PodReady(incarnation=incarnation)):
            return incarnation if header.epoch is not None else None
        case Synced(header=header, body=body) if header.epoch is not None:
            rows = FleetSnapshot.from_wire(body).pods
            return next((r.incarnation for r in rows if r.name == pod and r.endpoint), None)
        case _:
            return None


async def draw(client: AsyncClient, transcript: Transcript, told: Told) -> list[Line]:
    """Return the lines of what was told, with what an event or a snapshot only refers to."""
    match told:
        case Synced(header=header, body=body) if header.epoch is None:
            snapshot = Snapshot.from_wire(body)
            missing = transcript.missing(snapshot)
            earlier = await _entries(client, transcript.pod, missing) if missing else ()
            first = next(iter((*earlier, *snapshot.tail)), None)
            passages = await _passages(client, transcript, first) if first else []
            return transcript.sync(header.incarnation, snapshot, earlier, passages)
        case Deliver(header=header, event=ev.LogEvent(omitted=int()) as event):
            told = Deliver(header, await _completed(client, transcript.pod, event))
    return transcript.take(told, asyncio.get_running_loop().time())


async def _entries(client: AsyncClient, pod: str, wanted: Missing) -> tuple[Entry, ...]:
    """Return all entries that are wanted, or none: a pod that is gone has none to give."""
    entries: list[Entry] = []
    while (at := wanted.first + len(entries)) < wanted.end:
        asked = m.GetHistory(
            segment_id=wanted.segment_id,
            since=m.HistoryPosition(index=at),
            limit=min(PAGE, wanted.end - at),
        )
        try:
            history: m.History = await client.send(pod, asked)
        except PodsupError:
            return ()
        if not history.entries:
            return ()
        entries += history.entries
    return tuple(entries)


async def _passages(client: AsyncClient, transcript: Transcript, first: Entry) -> list[Passage]:
    """Return what was missed of the segments before the one that begins so, oldest first."""
    from supervisor.transcript import Passage

    passages: list[Passage] = []
    while len(passages) < MOST_SEGMENTS and (wanted := transcript.before(first)) is not None:
        entries = await _entries(client, transcript.pod, wanted)
        if not entries:
            break
        passages.insert(0, Passage(wanted.segment_id, wanted.first, entries))
        first = entries[0]
    return passages


async def _completed(client: AsyncClient, pod: str, event: ev.LogEvent) -> ev.LogEvent:
    """Return the event with the entry that was too large to be published."""
    from supervisor.transcript import Missing

    place = Missing(event.segment_id, event.index, event.index + 1)
    entries = await _entries(client, pod, place)
    if not entries:
        return event
    return ev.EntryEvent(
        segment_id=event.segment_id,
        index=event.index,
        ts=event.ts,
        entry=entries[0],
        block=event.block if isinstance(event, ev.EntryEvent) else None,
    )


def _is_snapshot(told: Told) -> bool:
    return isinstance(told, Synced) and told.header.epoch is None


def _raise_if_ended(pod: str, told: Told) -> None:
    match told:
        case Deliver(event=ev.PodStopped(cause=cause)):
            raise _ended(pod, f"stopped: {cause}")
        case Deliver(event=ev.PodFailed(cause=cause)):
            raise _ended(pod, f"failed: {cause}")
        case Deliver(event=ev.PodDeleted()):
            raise _ended(pod, "deleted")


def _ended(pod: str, how: str) -> Unreachable:
    return Unreachable(f"pod {pod} is {how}", next_step=f"podsup why {pod}", pod=pod)
