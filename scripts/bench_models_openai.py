"""CPU per delta of the adapters for OpenAI's formats, beside the SDK's own streams.

Streams many deltas from a server in a process of its own, and counts the CPU of this one. Four
ways, taken in turns so that a slow moment of the machine hits all alike; the median of the rounds:

    bytes     the SDK's response, its bytes read and thrown away: what HTTP alone costs
    events    the SDK's lowest-level stream of events: decoded JSON, no models
    typed     the SDK's stream of its own models, as its resources give it
    adapter   ours, which goes up to the loop's events

    PYTHONPATH=. .venv/bin/python scripts/bench_models_openai.py [--deltas 5000] [--rounds 7]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from openai import AsyncOpenAI, AsyncStream

from podproc.models.base import Model, ModelRequest, Reach, TextDelta
from podproc.models.openai_chat import OpenAIChatModel
from podproc.models.openai_responses import OpenAIResponsesModel
from protocol.entries import Message
from tests.support.providers import openai_server as srv
from tests.support.providers.openai_sse import Frame, Raw, Reply, SseServer

GOAL = 1.3
PATHS = {"openai_chat": "/chat/completions", "openai_responses": "/responses"}
WORDS = ["The", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog"]


def answer(scheme: str, deltas: int) -> Reply:
    """Return one long text, as few large writes as a busy network makes of it."""
    words = [WORDS[number % len(WORDS)] + " " for number in range(deltas)]
    if scheme == "openai_chat":
        moves = [srv.ROLE, *(srv.said(word) for word in words), *srv.chat_end()]
    else:
        moves = srv.Script().text(*words).completed().frames
    frames = [move.encode() for move in moves if isinstance(move, Frame)]
    return Reply([Raw(b"".join(frames[at : at + 16])) for at in range(0, len(frames), 16)])


async def serve(scheme: str, deltas: int) -> None:
    """Serve until the parent closes our input; the address is printed."""
    async with SseServer([answer(scheme, deltas)]) as server:
        print(server.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def measure(scheme: str, url: str, rounds: int) -> dict[str, float]:
    """Return microseconds of CPU for each delta, by way."""
    base = f"{url}/v1"
    client = AsyncOpenAI(api_key=srv.KEY, base_url=base, max_retries=0)
    reach = Reach(srv.MODEL, srv.KEY, base)
    kind = OpenAIChatModel if scheme == "openai_chat" else OpenAIResponsesModel
    model: Model = kind(reach, wall_ms=lambda: 0)
    body = {"model": srv.MODEL, "stream": True, "input": "hi", "messages": []}
    say: Any = {"model": srv.MODEL, "stream": True}

    async def of_bytes() -> int:
        stream = await client.post(
            PATHS[scheme], cast_to=object, body=body, stream=True, stream_cls=AsyncStream[object]
        )
        size = 0
        async for piece in stream.response.aiter_bytes():
            size += piece.count(b'"delta"')
        await stream.close()
        return size

    async def of_events() -> int:
        stream = await client.post(
            PATHS[scheme], cast_to=object, body=body, stream=True, stream_cls=AsyncStream[object]
        )
        return sum([1 async for event in stream if event])

    async def of_typed() -> int:
        if scheme == "openai_chat":
            message: Any = {"role": "user", "content": "hi"}
            stream = await client.chat.completions.create(messages=[message], **say)
            return sum([1 async for chunk in stream if chunk.choices])
        stream = await client.responses.create(input="hi", **say)
        return sum([1 async for event in stream if event.type == "response.output_text.delta"])

    async def of_adapter() -> int:
        stream: Any = model.stream(ModelRequest("be good", (Message(role="user", content="hi"),)))
        count = sum([1 async for event in stream if type(event) is TextDelta])
        await stream.aclose()
        return count

    ways: dict[str, Callable[[], Awaitable[int]]] = {
        "bytes": of_bytes,
        "events": of_events,
        "typed": of_typed,
        "adapter": of_adapter,
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            gc.collect()
            began = time.process_time()
            count = await way()
            spent = (time.process_time() - began) / count * 1e6
            if turn:  # the first warms up
                took[name].append(spent)
    await client.close()
    await model.close()
    return {name: median(times) for name, times in took.items()}


def bench(scheme: str, deltas: int, rounds: int) -> dict[str, float]:
    """Return the microseconds of one format, its server in a process of its own."""
    command = [sys.executable, __file__, "--serve", scheme, "--deltas", str(deltas)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        return asyncio.run(measure(scheme, server.stdout.readline().strip(), rounds))
    finally:
        server.stdin.close()
        server.wait(10)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deltas", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", choices=PATHS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    for name in [name for name in os.environ if name.startswith("OPENAI_")]:
        del os.environ[name]
    if asked.serve:
        asyncio.run(serve(asked.serve, asked.deltas))
        return
    for scheme in PATHS:
        found = bench(scheme, asked.deltas, asked.rounds)
        costs = ", ".join(f"{name} {cost:.1f}" for name, cost in found.items())
        ratio = found["adapter"] / found["events"]
        word = "holds" if ratio <= GOAL else "MISSED"
        rate = 1e6 / found["adapter"]
        print(f"{scheme}: µs of CPU per delta: {costs}; {rate:,.0f}/s;", end=" ")
        print(f"{ratio:.2f} × the SDK's events, goal {GOAL}: {word}")


if __name__ == "__main__":
    main()
