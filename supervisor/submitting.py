"""Submitting a run through a client, and following it to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from protocol import events as ev
from protocol import methods as m
from protocol.entries import Entry, Invoke, SegmentStart
from protocol.errors import AlreadyRunning, Timeout, Unreachable
from protocol.segments import Segment
from protocol.snapshot import FleetSnapshot
from protocol.watch import Deliver, Synced
from supervisor.following import RunDone, RunFollower, outcome_in
from supervisor.reach import new_id

if TYPE_CHECKING:
    from supervisor.client import AsyncClient
    from supervisor.watcher import Told

PATIENCE_S = 60.0
MOST_ENTRIES = 10_000
MOST_PAGES = 100
RETRY_S = 0.1
_SELF_STARTED = ("notify", "pod_event")


async def submit(
    client: AsyncClient,
    pod: str,
    segments: tuple[Segment, ...],
    *,
    wait: bool,
    timeout_s: float | None,
    on_text: Callable[[str], None],
    on_busy: Callable[[], None],
    on_told: Callable[[Told], None],
) -> RunDone | None:
    """Submit a run and, with `wait`, follow it to its end; raises its refusal, or Timeout.

    `on_told` gets the pod's snapshot, then all that it tells from the run's first event to its end,
    and what was lost of that.
    """
    method = m.Run(input=segments)
    patience_s = PATIENCE_S if timeout_s is None else timeout_s
    if not wait:
        await _send_when_free(client, pod, method, patience_s, on_busy)
        return None
    queue: asyncio.Queue[tuple[str, Told]] = asyncio.Queue()
    follower = RunFollower(pod, "", on_text)
    try:
        async with asyncio.timeout(timeout_s):
            watched = (await client.watch_pod(pod, queue)).incarnation
            await client.watch_fleet(queue, pod=pod)
            on_told(await until_synced(client, pod, queue, watched))
            follower.request_id = await _send_when_free(client, pod, method, patience_s, on_busy)
            while True:
                source, told = await client.next_of(queue)
                was_ours = follower.ours
                if isinstance(told, Synced) and told.again and source == pod:
                    done = await _look_in_log(client, pod, follower.request_id)
                else:
                    done = follower.take(source, told)
                if source == pod and (was_ours or follower.ours):
                    on_told(told)
                if done is not None:
                    return done
    except TimeoutError:
        raise Timeout(
            f"the run of {pod} goes on after {timeout_s:g} s",
            next_step=f"podsup wait {pod} --for idle",
        ) from None
    finally:
        client.unwatch(queue)


async def until_synced(
    client: AsyncClient, pod: str, queue: asyncio.Queue[tuple[str, Told]], watched: int
) -> Synced:
    """Wait until pod and fleet are followed; return the pod's snapshot.

    Raises Unreachable where the pod is gone, or another process of it is there by now.
    """
    found: dict[str, Synced] = {}
    while len(found) < 2:
        source, told = await client.next_of(queue)
        match told:
            case Synced() if source == pod:
                found[pod] = told
            case Synced(body=body):
                rows = FleetSnapshot.from_wire(body).pods
                there = next((row for row in rows if row.name == pod), None)
                if there is None or there.endpoint is None or there.incarnation != watched:
                    raise _gone(pod, "it has ended, or begun anew, meanwhile")
                found[source] = told
            case Deliver(event=ev.PodExited(cause=cause)) if source != pod:
                raise _gone(pod, cause)
    return found[pod]


def _gone(pod: str, why: str) -> Unreachable:
    return Unreachable(
        f"pod {pod} could not be asked, nothing was sent: {why}",
        next_step=f"podsup why {pod}",
        pod=pod,
    )


async def _look_in_log(client: AsyncClient, pod: str, request_id: str) -> RunDone | None:
    """Events were lost for good: see in the log whether the run has ended meanwhile.

    Read backwards until the run's beginning is there, over as many segments as the session has.
    """
    entries: tuple[Entry, ...] = ()
    segment: str | None = None
    before: m.HistoryPosition | None = None
    for _ in range(MOST_PAGES):
        asked = m.GetHistory(segment_id=segment, before=before, limit=MOST_ENTRIES)
        page: m.History = await client.send(pod, asked)
        entries = (*page.entries, *entries)
        begun = any(isinstance(e, Invoke) and e.request_id == request_id for e in page.entries)
        if begun or not page.entries:
            break
        segment, first = page.segment_id, page.entries[0]
        if page.first_index > 0:
            before = m.HistoryPosition(index=page.first_index)
        elif isinstance(first, SegmentStart) and (source := first.continues) is not None:
            segment = source.segment_id
            before = None if source.at_entry is None else m.HistoryPosition(index=source.at_entry)
        else:
            break
    return outcome_in(entries, request_id)


async def _send_when_free(
    client: AsyncClient,
    pod: str,
    method: m.Run,
    patience_s: float,
    on_busy: Callable[[], None],
) -> str:
    """Send the run and return its id; one that the pod started by itself is waited for."""
    loop = asyncio.get_running_loop()
    end = loop.time() + patience_s
    said = False
    while True:
        request_id = new_id()
        try:
            await client.request(pod, m.Run.method, method, request_id=request_id)
        except AlreadyRunning as busy:
            if busy.details.get("trigger") not in _SELF_STARTED or loop.time() >= end:
                raise
            if not said:
                on_busy()
                said = True
            await asyncio.sleep(RETRY_S)
        else:
            return request_id
