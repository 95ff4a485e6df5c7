"""Compacting a pod through a client, and waiting for what comes of it.

    watch ─► snapshot (tokens before) ─► compact ─► its reply ─► compact_done ─► tokens after
                                                              └► compact_failed, or the pod is gone

A reply carries the number of the pod's newest event on the state lane. What was published at or
before it belongs to an earlier compaction, and is not taken for the end of this one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol import events as ev
from protocol import methods as m
from protocol.errors import Internal, Interrupted, Timeout, Unreachable
from protocol.snapshot import Snapshot
from protocol.status import Flag, Lane
from protocol.watch import Deliver, Synced
from supervisor.following import FLEET
from supervisor.submitting import until_synced

if TYPE_CHECKING:
    from supervisor.client import AsyncClient
    from supervisor.watcher import Told

CANCELLED = "cancelled"
"""What a compaction that somebody stopped failed with."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction came to: the segment that goes on, the context before and after."""

    segment_id: str | None
    tokens_before: int
    tokens_after: int


async def compact_and_wait(
    client: AsyncClient, pod: str, timeout_s: float | None = None
) -> Compacted:
    """Compact a pod's history to its end.

    Raises what it was refused with, Internal (Interrupted where somebody stopped it) when it failed
    and nothing was changed, Unreachable when the pod went away, Timeout while it goes on.
    """
    queue: asyncio.Queue[tuple[str, Told]] = asyncio.Queue()
    try:
        async with asyncio.timeout(timeout_s):
            await client.watch_fleet(queue, pod=pod)
            watched = (await client.watch_pod(pod, queue, lanes=(Lane.STATE,))).incarnation
            synced = await until_synced(client, pod, queue, watched)
            before = Snapshot.from_wire(synced.body)
            header, _ = await client.request(pod, m.Compact.method, m.Compact())
            segment_id = await _end(client, pod, queue, header.seq or 0)
            after = Snapshot.from_wire(await client.snapshot(pod))
    except TimeoutError:
        raise Timeout(
            f"the compaction of {pod} goes on after {timeout_s:g} s",
            next_step=f"podsup attach {pod}",
        ) from None
    finally:
        client.unwatch(queue)
    tokens = before.greeting.context_tokens, after.greeting.context_tokens
    return Compacted(segment_id or after.segment_id, *tokens)


@dataclass(frozen=True, slots=True)
class Ended:
    """A compaction is over; the new segment is None where the event that names it was lost."""

    segment_id: str | None


def end_in(pod: str, source: str, told: Told, since: int) -> Ended | None:
    """Return the end of the compaction whose reply had the number `since`, if this is it. Pure.

    Raises what it failed with: Internal, Interrupted where somebody stopped it, Unreachable where
    the pod is gone.
    """
    match told:
        case Deliver(event=ev.PodExited(cause=cause)):
            how = f"pod {pod} exited while it compacted: {cause}"
            raise Unreachable(how, next_step=f"podsup why {pod}", pod=pod)
        case _ if source == FLEET:
            return None
        case Deliver(header=header) if header.seq <= since:
            return None
        case Deliver(event=ev.CompactDone(new_segment_id=segment_id)):
            return Ended(segment_id)
        case Deliver(event=ev.CompactFailed(error=error)):
            failed = f"the compaction of {pod} failed, nothing changed: {error}"
            if error == CANCELLED:
                raise Interrupted(failed, pod=pod)
            raise Internal(failed, next_step=f"podsup status {pod}", pod=pod)
        case Synced(body=body) if Flag.BUSY not in Snapshot.from_wire(body).flags:
            return Ended(None)
        case _:
            return None


async def _end(
    client: AsyncClient, pod: str, queue: asyncio.Queue[tuple[str, Told]], since: int
) -> str | None:
    while True:
        source, told = await client.next_of(queue)
        if (ended := end_in(pod, source, told, since)) is not None:
            return ended.segment_id
