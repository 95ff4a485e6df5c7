"""A real HTTP server on loopback that streams server-sent events as a script says.

It knows HTTP/1.1 and SSE and nothing of any provider. One reply answers one request, in order; the
last one answers all that follow. Everything is bounded: sizes, requests, and the seconds that a
silence lasts, so that a client that hangs fails its test instead of the run.

    async with SseServer([Reply([Frame("hello"), Cut()])]) as server:
        ... server.url ... server.requests
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

HEAD_LIMIT = 64 * 1024
BODY_LIMIT = 16 * 1024 * 1024
REQUEST_LIMIT = 200
SILENCE_LIMIT_S = 30.0
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many"}


@dataclass(frozen=True, slots=True)
class Frame:
    """One event: `data` is text, or made JSON."""

    data: Any
    event: str | None = None

    def encode(self) -> bytes:
        """Return it as it goes over the wire."""
        text = self.data if isinstance(self.data, str) else json.dumps(self.data)
        lines = [f"event: {self.event}"] if self.event else []
        lines += [f"data: {line}" for line in text.split("\n")]
        return ("\n".join(lines) + "\n\n").encode()


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes of the body as they are."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Comment:
    """A line that says nothing, which keeps connections alive."""

    text: str = "PROCESSING"


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Silence:
    """Nothing more, until the client goes."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection ends here: in the middle of the body, or by a reset."""

    reset: bool = False


Move: TypeAlias = Frame | Raw | Comment | Pause | Silence | Cut


@dataclass(frozen=True, slots=True)
class Reply:
    """How one request is answered.

    `drip` sends the body in pieces of so many bytes; `before` are moves that come before the
    headers.
    """

    moves: Sequence[Move] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "text/event-stream"
    drip: int | None = None
    before: Sequence[Pause | Silence | Cut] = ()


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came; header names in lower case, `connection` counted from 1."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    connection: int


Judge: TypeAlias = Callable[[Received], Reply | None]
"""Looks at a request before the script does; a reply is a refusal."""


class _Gone(Exception):
    """The connection is over."""


class SseServer:
    """Serves the replies in order; `judge` may refuse a request, which uses up no reply."""

    def __init__(self, replies: Sequence[Reply], *, judge: Judge | None = None) -> None:
        assert replies, "a server needs something to say"
        self.requests: list[Received] = []
        self.refused: list[Reply] = []
        self.open = 0
        self.went_early = 0
        self._replies = list(replies)
        self._judge = judge
        self._used = 0
        self._connections = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """The address, without a path."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return f"http://{host}:{port}"

    async def wait_until_closed(self) -> None:
        """Return when no connection is open."""
        async with asyncio.timeout(5):
            while self.open:
                self._changed.clear()
                await self._changed.wait()

    async def _on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._connections += 1
        self.open += 1
        number = self._connections
        try:
            with contextlib.suppress(_Gone, OSError, asyncio.IncompleteReadError):
                while (request := await _read(reader, number)) is not None:
                    await self._answer(request, reader, writer)
        except asyncio.CancelledError:
            pass  # the server ends: asyncio would print of a handler that was cancelled
        finally:
            self.open -= 1
            self._tasks.discard(task)
            self._changed.set()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(
        self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        assert len(self.requests) < REQUEST_LIMIT, "the client asks without end"
        self.requests.append(request)
        reply = self._judge(request) if self._judge else None
        if reply is not None:
            self.refused.append(reply)
        else:
            reply = self._replies[min(self._used, len(self._replies) - 1)]
            self._used += 1
        for early in reply.before:
            await self._do(early, reply, reader, writer)
        head = [f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, 'Status')}"]
        head += [f"content-type: {reply.content_type}", "transfer-encoding: chunked"]
        head += [f"{name}: {value}" for name, value in reply.headers.items()]
        writer.write("\r\n".join([*head, "", ""]).encode())
        await writer.drain()
        for move in reply.moves:
            await self._do(move, reply, reader, writer)
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _do(
        self,
        move: Move,
        reply: Reply,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        match move:
            case Frame():
                await _send(writer, move.encode(), reply.drip)
            case Raw(data):
                await _send(writer, data, reply.drip)
            case Comment(text):
                await _send(writer, f": {text}\n\n".encode(), reply.drip)
            case Pause(seconds):
                await asyncio.sleep(seconds)
            case Silence():
                async with asyncio.timeout(SILENCE_LIMIT_S):
                    await reader.read(1)  # nothing comes but the end
                self.went_early += 1
                raise _Gone
            case Cut(reset):
                if reset:
                    writer.transport.abort()
                raise _Gone


async def _send(writer: asyncio.StreamWriter, data: bytes, drip: int | None) -> None:
    size = drip or len(data) or 1
    for at in range(0, len(data), size):
        piece = data[at : at + size]
        writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if drip:
            await writer.drain()
            await asyncio.sleep(0)
    await writer.drain()


async def _read(reader: asyncio.StreamReader, connection: int) -> Received | None:
    """Return the next request; None where the client has closed."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    assert len(head) <= HEAD_LIMIT
    first, *lines = head.decode("latin-1").rstrip().split("\r\n")
    method, path, _ = first.split(" ", 2)
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    size = int(headers.get("content-length", "0"))
    assert size <= BODY_LIMIT
    body = await reader.readexactly(size)
    return Received(method, path, headers, json.loads(body) if body else None, connection)
