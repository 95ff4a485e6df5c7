"""A server of the OpenAI formats in a thread of its own, for tests without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.support.providers.openai_sse import Judge, Reply, SseServer

MOST_S = 20.0


@contextmanager
def serving(replies: Sequence[Reply], *, judge: Judge | None = None) -> Iterator[SseServer]:
    """Serve the replies until the block ends."""
    up, made = threading.Event(), list[SseServer]()
    loops = list[tuple[asyncio.AbstractEventLoop, asyncio.Event]]()

    async def serve() -> None:
        over = asyncio.Event()
        async with SseServer(replies, judge=judge) as server:
            made.append(server)
            loops.append((asyncio.get_running_loop(), over))
            up.set()
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="provider")
    thread.start()
    assert up.wait(MOST_S), "the server did not come up"
    try:
        yield made[0]
    finally:
        loop, over = loops[0]
        loop.call_soon_threadsafe(over.set)
        thread.join(MOST_S)
        assert not thread.is_alive(), "the server did not end"
