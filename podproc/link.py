"""The pod's line to its supervisor.

One DEALER for methods, replies, beats and the pod's own requests.

It says `hello` on every new connection and whenever the supervisor asks who it is (`who`): a route
belongs to a token, and only a hello binds them. It decodes each message once. What a message means
is not its affair: requests go to `on_request`, whose answers come back through `reply`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from podproc.turn_terms import Request
from protocol.base import Wire
from protocol.calls import Answered, InProgress
from protocol.control import Control, Hello, Progress, Welcome
from protocol.error_body import ErrorBody, error_from_body
from protocol.errors import Internal, InvalidRequest, PodsupError, Timeout
from protocol.methods import Method, decode_method
from protocol.status import Lane, PodStatus
from protocol.transport import Transport, WouldBlock
from protocol.wire import (
    BadFrame,
    BeatHeader,
    ForwardHeader,
    ReplyHeader,
    RequestHeader,
    body_of,
    header_fields,
    message,
    read_body,
    read_header,
)

HELLO_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Now:
    """What a reply's header and a beat say of the pod at this moment."""

    status: PodStatus
    seqs: dict[Lane, int]


class Link:
    """One pod's connection; reconnects by itself."""

    def __init__(
        self,
        transport: Transport,
        endpoint: str,
        *,
        token: str,
        hello: Callable[[], Hello],
        on_request: Callable[[Request], None],
        on_welcome: Callable[[Welcome], None] = lambda welcome: None,
        now: Callable[[], Now],
        clock: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self._token = token
        self._hello = hello
        self._on_request = on_request
        self._on_welcome = on_welcome
        self._now = now
        self._clock = clock
        self._new_id = new_id
        self._answered: Answered[tuple[bool, Wire]] = Answered()
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        self._beats = 0
        self._hello_id: str | None = None
        self.welcome: asyncio.Future[Welcome] = asyncio.get_running_loop().create_future()
        self.dropped = 0
        self._socket = transport.dealer(endpoint, self._on_frames)

    def say_hello(self) -> None:
        """Introduce this incarnation; the answer completes `welcome`."""
        self._hello_id = self._new_id()
        self._request(self._hello_id, self._hello())

    async def ask(
        self, control: Control, *, timeout_s: float = 30.0, request_id: str | None = None
    ) -> Any:
        """Ask the supervisor; returns the typed reply, raises PodsupError."""
        return await self._ask("", control, timeout_s, request_id)

    async def send(self, pod: str, method: Method, *, timeout_s: float = 30.0) -> Any:
        """Send a method to another pod; returns the typed reply, raises PodsupError."""
        return await self._ask(pod, method, timeout_s, None)

    async def _ask(
        self, to: str, message: Control | Method, timeout_s: float, request_id: str | None
    ) -> Any:
        request_id = request_id or self._new_id()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        try:
            self._request(request_id, message, to=to, deadline_ms=round(timeout_s * 1000))
            async with asyncio.timeout(timeout_s):
                body = await future
        except TimeoutError as error:
            whom = f"pod {to}" if to else "the supervisor"
            raise Timeout(f"{whom} did not answer {message.method}") from error
        finally:
            self._waiting.pop(request_id, None)
        try:
            return type(message).reply.from_wire(body)
        except ValidationError as error:
            told = f"the answer to {message.method} cannot be understood: {_in_words(error)}"
            raise Internal(told) from error

    def reply(self, request: Request, result: Wire) -> None:
        """Answer a request with its result, once."""
        self._answer(request, True, result)

    def refuse(self, request: Request, error: PodsupError) -> None:
        """Answer a request with an error, once.

        Remembered like a result: a repeat that was on its way must not find the pod in a better
        mood.
        """
        self._answer(request, False, error.to_body())

    def beat(
        self, pod: str, incarnation: int, progress: Progress, notification_runs: tuple[int, int]
    ) -> None:
        """Prove that the loop turns."""
        self._beats += 1
        now = self._now()
        self._send(
            message(
                BeatHeader(
                    pod=pod,
                    incarnation=incarnation,
                    seq=self._beats,
                    status=now.status,
                    progress=progress,
                    seqs=now.seqs,
                    notification_runs=notification_runs,
                )
            )
        )

    def close(self) -> None:
        """Close; replies on their way get the transport's linger."""
        for future in self._waiting.values():
            future.cancel()
        self._socket.close()

    def _request(
        self,
        request_id: str,
        asked: Control | Method,
        *,
        to: str = "",
        deadline_ms: int | None = None,
    ) -> None:
        header = RequestHeader(
            id=request_id,
            to=to,
            method=asked.method,
            token=self._token,
            deadline_ms=deadline_ms,
        )
        self._send(message(header, asked))

    def _send(self, frames: list[bytes]) -> None:
        try:
            self._socket.send(frames)
        except WouldBlock:
            self.dropped += (
                1  # nobody reads: the supervisor is away, and repeats what it wants to know
            )

    def _answer(self, request: Request, ok: bool, body: Wire) -> None:
        if request.method.changes:  # a read is simply done again, and must not crowd these out
            self._answered.finish(request.sender, request.id, (ok, body), self._clock())
        self._send_reply(request.id, ok, body)

    def _send_reply(self, request_id: str, ok: bool, body: Wire) -> None:
        now = self._now()
        header = ReplyHeader(
            id=request_id, ok=ok, status=now.status, seq=now.seqs.get(Lane.STATE, 0)
        )
        self._send(message(header, body))

    def _on_frames(self, frames: list[bytes]) -> None:
        try:
            fields = header_fields(frames)
            match fields.get("type"):
                case "request":
                    self._on_method(read_header(fields, ForwardHeader), frames)
                case "reply":
                    self._on_reply(read_header(fields, ReplyHeader), frames)
                case "who":
                    self.say_hello()
        except (BadFrame, PodsupError):
            self.dropped += 1  # not from our supervisor, or of a version it should not speak to us

    def _on_method(self, header: ForwardHeader, frames: list[bytes]) -> None:
        try:
            method = decode_method(header.method, read_body(body_of(frames)))
        except KeyError:
            error = InvalidRequest(f"a pod has no method {header.method!r}")
            self._send_reply(header.id, False, error.to_body())
            return
        except (ValidationError, BadFrame, PodsupError) as problem:
            error = InvalidRequest(f"{header.method}: {_in_words(problem)}")
            self._send_reply(header.id, False, error.to_body())
            return
        if method.changes:
            earlier = self._answered.begin(header.sender, header.id, self._clock())
            if isinstance(earlier, InProgress):
                return
            if earlier is not None:
                self._send_reply(header.id, *earlier)
                return
        self._on_request(Request(header.id, header.sender, method))

    def _on_reply(self, header: ReplyHeader, frames: list[bytes]) -> None:
        body = read_body(body_of(frames)) or {}
        if header.id == self._hello_id:
            if header.ok:
                welcome = Welcome.from_wire(body)
                self._on_welcome(welcome)
                if not self.welcome.done():
                    self.welcome.set_result(welcome)
            elif not header.ok and not self.welcome.done():
                self.welcome.set_exception(error_from_body(ErrorBody.from_wire(body)))
            return
        future = self._waiting.get(header.id)
        if future is None or future.done():
            return
        if header.ok:
            future.set_result(body)
        else:
            future.set_exception(error_from_body(ErrorBody.from_wire(body)))


def _in_words(problem: Exception) -> str:
    if isinstance(problem, ValidationError):
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "parameters"
        return f"{where}: {first['msg']}"
    return str(problem)
