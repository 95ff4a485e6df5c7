"""What an adapter costs on top of its SDK: client CPU per event, on one stream from a local server.

    .venv/bin/python -m scripts.bench_models [DELTAS]

The server is a process of its own, so that the client's CPU is the client's alone. Both sides read
the same bytes: the SDK's lowest-level stream by itself, and the adapter, which goes through it.
They take turns, so that a busy machine slows both.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import anthropic

from podproc.models.anthropic_format import to_params
from podproc.models.anthropic_messages import AnthropicModel
from podproc.models.base import ModelRequest, Reach
from protocol.entries import Message
from tests.support.providers.anthropic_server import STOP, begin, end, more, reason, start
from tests.support.providers.sse import Provider

ROUNDS = 7
AT_MOST = 1.3
"""How much more than the SDK alone an adapter may cost."""

REQUEST = ModelRequest(system_prompt="", items=(Message(role="user", content="go"),))


def serve(deltas: int) -> None:
    """Answer with so many deltas until standard input is closed; prints the address."""
    body = b"".join(more(0, "text_delta", text="four chars") for _ in range(deltas))
    reply = (start(), begin(0, "text", text="") + body + end(0), reason("end_turn"), STOP)
    with Provider(*(reply,) * (2 * ROUNDS + 2)) as provider:
        print(provider.url, flush=True)
        sys.stdin.read()


async def bare(url: str) -> Callable[[], Awaitable[int]]:
    """Return a way to read one stream with the SDK alone; it counts the events."""
    client = anthropic.AsyncAnthropic(
        api_key="key", base_url=url, max_retries=0, timeout=60, open_telemetry=False
    )

    async def read() -> int:
        count = 0
        async for _ in await client.messages.create(**to_params(REQUEST, "model")):
            count += 1
        return count

    return read


async def adapted(url: str) -> Callable[[], Awaitable[int]]:
    """Return a way to read one stream through the adapter; it counts the events."""
    model = AnthropicModel(Reach("model", "key", base_url=url))

    async def read() -> int:
        count = 0
        async for _ in model.stream(REQUEST):
            count += 1
        return count

    return read


async def measure(url: str) -> tuple[list[float], list[float]]:
    """Return microseconds of CPU per event: the SDK's, the adapter's."""
    readers = [await bare(url), await adapted(url)]
    took: tuple[list[float], list[float]] = ([], [])
    for reader in readers:  # connections and caches
        await reader()
    for _ in range(ROUNDS):
        for reader, times in zip(readers, took, strict=True):
            began = time.process_time()
            count = await reader()
            times.append((time.process_time() - began) / count * 1e6)
    return took


def bench_anthropic(deltas: int) -> bool:
    """Print the figures; returns whether the adapter costs at most `AT_MOST` times the SDK."""
    command = [sys.executable, "-m", "scripts.bench_models", "--serve", str(deltas)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        assert server.stdin
        sdk, ours = asyncio.run(measure(server.stdout.readline().strip()))
        server.stdin.close()
    for name, times in (("anthropic SDK", sdk), ("anthropic adapter", ours)):
        middle = statistics.median(times)
        extent = f"[{min(times):.1f} – {max(times):.1f}]"
        print(f"{name:<20} {middle:6.1f} µs CPU/event {extent:<16} {1e6 / middle:>9,.0f} events/s")
    ratio = statistics.median(ours) / statistics.median(sdk)
    print(f"ratio {ratio:.2f} (goal: at most {AT_MOST})")
    return ratio <= AT_MOST


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--serve", number]:
            serve(int(number))
        case rest:
            sys.exit(not bench_anthropic(int(rest[0]) if rest else 10_000))
