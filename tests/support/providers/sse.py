"""A small real HTTP server that answers as a test says. Loopback only, in a thread of its own.

Each request takes the next reply of the list, whatever connection it comes on; a reply is a list of
steps that are taken in order. It knows just enough HTTP/1.1 for a client that posts JSON and reads
a chunked body: persistent connections, no pipelining. What a request was stands in `requests`, how
many connections were made in `connections`. Nothing outlives the `with`, and no exchange takes
longer than `MOST_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Self, TypeAlias, cast

from tests.support.waiting import eventually

MOST_S = 30.0
MOST_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Head:
    """The status line and the headers; without one of its own a reply begins with 200."""

    status: int = 200
    headers: Mapping[str, str] = field(
        default_factory=lambda: {"content-type": "text/event-stream; charset=utf-8"}
    )


@dataclass(frozen=True, slots=True)
class Drip:
    """These bytes, so many at a time, with a pause behind each."""

    data: bytes
    size: int = 1
    pause_s: float = 0.001


@dataclass(frozen=True, slots=True)
class Silence:
    """Nothing more, until the client hangs up."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection is closed in the middle of the body."""


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection is reset."""


Step: TypeAlias = Head | bytes | Drip | Silence | Cut | Reset
Reply: TypeAlias = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came; header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Provider:
    """Serves replies within a `with`; `hung_up` counts clients that left while it was silent."""

    def __init__(self, *replies: Reply) -> None:
        self._replies = list(replies)
        self.requests: list[Asked] = []
        self.connections = 0
        self.hung_up = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._handlers: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="provider")
        self._is_up = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_up.wait(MOST_S), "the server did not come up"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop
        assert self._over
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(MOST_S)
        assert not self._thread.is_alive(), "the server did not end"

    def play(self, *replies: Reply) -> None:
        """Add replies."""
        self._replies += replies

    def wait_for_hang_up(self) -> None:
        """Return once a client has left a silent connection."""
        eventually(lambda: self.hung_up, "the client hangs up")

    @property
    def is_used_up(self) -> bool:
        """Whether every reply was asked for."""
        return not self._replies

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._on_connection, sock=self._listener)
        self._is_up.set()
        await self._over.wait()
        server.close()
        for task in self._handlers:
            task.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    async def _on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._handlers.add(task)
        self.connections += 1
        try:
            async with asyncio.timeout(MOST_S):
                while (asked := await _read(reader)) is not None:
                    self.requests.append(asked)
                    if not await self._answer(reader, writer):
                        break
        except (OSError, EOFError, TimeoutError, asyncio.CancelledError):
            pass
        finally:
            self._handlers.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Take the steps; returns whether the connection can be used again."""
        steps = self._replies.pop(0) if self._replies else _NOTHING_LEFT
        if not isinstance(steps[0], Head | Silence | Reset | Cut):
            steps = (Head(), *steps)
        for step in steps:
            match step:
                case Head(status, headers):
                    writer.write(_head(status, headers))
                case bytes():
                    writer.write(_chunk(step))
                case Drip(data, size, pause_s):
                    for start in range(0, len(data), size):
                        writer.write(_chunk(data[start : start + size]))
                        await writer.drain()
                        await asyncio.sleep(pause_s)
                case Silence():
                    await writer.drain()
                    if not await reader.read(1):
                        self.hung_up += 1
                    return False
                case Cut():
                    await writer.drain()
                    return False
                case Reset():
                    await writer.drain()
                    sock = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    writer.transport.abort()
                    return False
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


def refused_port() -> int:
    """Return a port of this machine on which nobody listens."""
    with contextlib.closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def frame(data: Any, event: str | None = None) -> bytes:
    """Return one server-sent event; text and bytes stand for themselves, the rest as JSON."""
    match data:
        case bytes():
            body = data
        case str():
            body = data.encode()
        case _:
            body = json.dumps(data).encode()
    name = f"event: {event}\n".encode() if event else b""
    return name + b"data: " + body + b"\n\n"


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {_phrase(status)}", "transfer-encoding: chunked"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unnamed"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    """Read one request; None where the client has closed instead."""
    head = await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b""
    if not head:
        return None
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    length = int(headers.get("content-length", "0"))
    assert length <= MOST_BYTES
    return Asked(method, path, headers, await reader.readexactly(length))


_NOTHING_LEFT: Reply = (
    Head(418, {"content-type": "text/plain"}),
    b"the test asked once more than it has replies",
)
