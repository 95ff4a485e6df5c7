"""Submitting a run through a client, and following it to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from protocol import methods as m
from protocol.errors import AlreadyRunning, Timeout
from protocol.segments import Segment
from protocol.watch import Synced
from supervisor.following import RunDone, RunFollower, outcome_in
from supervisor.reach import new_id

if TYPE_CHECKING:
    from supervisor.client import AsyncClient
    from supervisor.watcher import Told

PATIENCE_S = 60.0
MOST_ENTRIES = 10_000
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
            await client.watch_pod(pod, queue)
            await client.watch_fleet(queue, pod=pod)
            synced: set[str] = set()
            while len(synced) < 2:
                source, told = await client.next_of(queue)
                if isinstance(told, Synced):
                    synced.add(source)
                    if source == pod:
                        on_told(told)
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


async def _look_in_log(client: AsyncClient, pod: str, request_id: str) -> RunDone | None:
    """Events were lost for good: see in the log whether the run has ended meanwhile."""
    history: m.History = await client.send(pod, m.GetHistory(limit=MOST_ENTRIES))
    return outcome_in(history.entries, request_id)


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
