"""The library that people script with: what the command line does, a program can.

    async with AsyncClient.connect() as podsup:
        done = await podsup.run("alice", "fix the test")
        print(done.result, done.text)

`Client` is the same with a sync face. A request that is not answered within 5 s is sent again with
the same id, which has one effect and one answer; so every call returns its one answer, raises the
error it was refused with, or raises `Unreachable` or `Timeout`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from protocol import control as c
from protocol.base import Wire
from protocol.calls import Asked
from protocol.error_body import ErrorBody, error_from_body
from protocol.errors import PodsupError, Timeout, Unreachable
from protocol.segments import Segment, Text
from protocol.status import Lane
from protocol.transport.zeromq import ZmqTransport
from protocol.watch import Deliver, Synced, Watch
from protocol.wire import (
    MAX_BODY_BYTES,
    BadFrame,
    ReplyHeader,
    RequestHeader,
    body_of,
    header_fields,
    message,
    read_body,
    read_header,
)
from supervisor.choice import choose_fleet
from supervisor.following import FLEET, RunDone
from supervisor.paths import Paths
from supervisor.reach import is_listening, new_id, no_supervisor
from supervisor.submitting import submit
from supervisor.watcher import Told, Watcher

LOOK_S = 0.25
DEFAULT_TIMEOUT_S = 30.0


@dataclass(slots=True)
class _Call:
    frames: list[bytes]
    future: asyncio.Future[tuple[ReplyHeader, Any]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class AsyncClient:
    """One connection to one supervisor; made by `connect`, ended by `close` or `async with`."""

    def __init__(self, fleet: str, paths: Paths) -> None:
        self.fleet = fleet
        self.paths = paths
        self._socket_path = paths.control_socket(fleet)
        self._loop = asyncio.get_running_loop()
        self._require_supervisor()
        token = (paths.fleet_runtime(fleet) / "token").read_text()
        self._token = token
        self._asked = Asked()
        self._calls: dict[str, _Call] = {}
        self._followed: list[tuple[asyncio.Queue[tuple[str, Told]], Watcher]] = []
        self._events_endpoint: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._transport = ZmqTransport(self._loop)
        self._dealer = self._transport.dealer(f"ipc://{self._socket_path}", self._on_frames)
        self._look()

    @classmethod
    def connect(
        cls, fleet: str | None = None, *, home: str | None = None, folder: Path | None = None
    ) -> AsyncClient:
        """Connect to a fleet (default: that of ./podsup.toml, else the only one running).

        Raises Unreachable when its supervisor does not run, InvalidRequest when the choice is not
        clear.
        """
        paths = Paths.here(home)
        return cls(choose_fleet(paths, fleet, folder or Path.cwd()), paths)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection and every subscription."""
        if self._timer is not None:
            self._timer.cancel()
        for _, watcher in self._followed:
            watcher.close()
        self._transport.close()

    # -- requests

    async def control(self, control: c.Control, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Any:
        """Ask the supervisor; returns the typed reply of the control's class."""
        _, body = await self.request("", control.method, control, timeout_s=timeout_s)
        return type(control).reply.from_wire(body)

    async def send(self, pod: str, method: Any, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Any:
        """Send a method to a pod; returns the typed reply of the method's class."""
        _, body = await self.request(pod, method.method, method, timeout_s=timeout_s)
        return type(method).reply.from_wire(body)

    async def request(
        self,
        to: str,
        method: str,
        body: Wire,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        request_id: str | None = None,
    ) -> tuple[ReplyHeader, Any]:
        """Send one request and return its reply's header and plain body.

        Raises what it was refused with.
        """
        request_id = request_id or new_id()
        header = RequestHeader(
            id=request_id,
            to=to,
            method=method,
            deadline_ms=int(timeout_s * 1000),
            token=self._token,
        )
        frames = message(header, body)
        if len(frames[1]) > MAX_BODY_BYTES:
            raise error_from_body(
                ErrorBody(
                    code="too_large",
                    message=f"a message of {len(frames[1])} bytes is over {MAX_BODY_BYTES}",
                )
            )
        call = self._calls[request_id] = _Call(frames)
        now = time.monotonic()
        self._asked.ask(request_id, now, now + timeout_s + 1.0)
        self._dealer.send(frames)
        try:
            return await call.future
        finally:
            self._calls.pop(request_id, None)
            self._asked.answer(request_id)

    def _on_frames(self, frames: list[bytes]) -> None:
        try:
            header = read_header(header_fields(frames), ReplyHeader)
            body = read_body(body_of(frames)) or {}
        except (BadFrame, PodsupError):
            return  # no reply of a version that we speak; the request is sent again, or times out
        call = self._calls.get(header.id)
        if call is None or call.future.done() or not self._asked.answer(header.id):
            return
        if header.ok:
            call.future.set_result((header, body))
        else:
            call.future.set_exception(error_from_body(ErrorBody.from_wire(body)))

    def _look(self) -> None:
        """Now and then: repeat what has no answer, give up what is overdue, let watchers look."""
        self._timer = self._loop.call_later(LOOK_S, self._look)
        now = time.monotonic()
        for request_id in self._asked.expire(now):
            self._fail(request_id, Timeout("no answer came in time; the work may go on"))
        due = self._asked.due(now)
        if self._calls and not is_listening(self._socket_path):
            for request_id in list(self._calls):
                self._fail(request_id, no_supervisor(self.fleet))
        for request_id in due:
            if request_id in self._calls:
                self._dealer.send(self._calls[request_id].frames)
        for _, watcher in self._followed:
            watcher.tick()

    def _fail(self, request_id: str, error: PodsupError) -> None:
        call = self._calls.get(request_id)
        self._asked.answer(request_id)
        if call is not None and not call.future.done():
            call.future.set_exception(error)

    def _require_supervisor(self) -> None:
        if not is_listening(self._socket_path):
            raise no_supervisor(self.fleet)

    @property
    def is_supervised(self) -> bool:
        """Whether somebody listens where the supervisor should."""
        return is_listening(self._socket_path)

    # -- watching

    async def watch_fleet(
        self,
        queue: asyncio.Queue[tuple[str, Told]],
        *,
        pod: str | None = None,
        complete: bool = False,
    ) -> Watcher:
        """Put what the fleet's events tell into `queue`, tagged "", from a snapshot on.

        With `complete` also what was before and is still kept. `pod` narrows it to one pod's; the
        narrowing is done here, because the fleet's numbers count over all pods.
        """
        if self._events_endpoint is None:
            info = await self.control(c.EventsEndpoint())
            self._events_endpoint = info.endpoint
        watch = Watch(_nonce, (Lane.STATE,), complete=complete)
        return self._follow(FLEET, self._events_endpoint, watch, queue, only=pod)

    async def watch_pod(
        self,
        pod: str,
        queue: asyncio.Queue[tuple[str, Told]],
        *,
        lanes: Iterable[Lane] = tuple(Lane),
    ) -> c.StatusRow:
        """Put what a pod's lanes tell into `queue`, tagged with its name, from a snapshot on.

        Returns the pod's row; raises Unreachable when it has no process to be watched.
        """
        row: c.StatusRow = await self.control(c.StatusOf(pod=pod))
        if row.endpoint is None:
            raise Unreachable(
                f"pod {pod} is {row.status}: {row.reason}", next_step=f"podsup why {pod}", pod=pod
            )
        self._follow(pod, row.endpoint, Watch(_nonce, lanes), queue)
        return row

    def _follow(
        self,
        tag: str,
        endpoint: str,
        watch: Watch,
        queue: asyncio.Queue[tuple[str, Told]],
        *,
        only: str | None = None,
    ) -> Watcher:
        def tell(told: Told) -> None:
            if only is None or not isinstance(told, Deliver) or told.header.pod == only:
                queue.put_nowait((tag, told))

        watcher = Watcher(self._transport, endpoint, watch, on_told=tell, clock=time.monotonic)
        self._followed.append((queue, watcher))
        return watcher

    def unwatch(self, queue: asyncio.Queue[tuple[str, Told]]) -> None:
        """End the subscriptions that fill this queue."""
        for watched, watcher in self._followed:
            if watched is queue:
                watcher.close()
        self._followed = [(q, w) for q, w in self._followed if q is not queue]

    def unwatch_all(self) -> None:
        """End every subscription."""
        for _, watcher in self._followed:
            watcher.close()
        self._followed.clear()

    async def snapshot(self, pod: str, *, timeout_s: float = 5.0) -> Any:
        """Return one snapshot of a pod, as plain data."""
        queue: asyncio.Queue[tuple[str, Told]] = asyncio.Queue()
        await self.watch_pod(pod, queue, lanes=(Lane.STATE,))
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    _, told = await queue.get()
                    if isinstance(told, Synced):
                        return told.body
        except TimeoutError as error:
            raise Unreachable(f"pod {pod} shows nothing of itself", pod=pod) from error
        finally:
            self.unwatch(queue)

    async def events(self, *, pod: str | None = None) -> AsyncGenerator[Told]:
        """Yield what the fleet's events tell, for ever: Synced first, then Deliver and Gap."""
        queue: asyncio.Queue[tuple[str, Told]] = asyncio.Queue()
        await self.watch_fleet(queue, pod=pod)
        while True:
            _, told = await queue.get()
            yield told

    async def next_of(self, queue: asyncio.Queue[tuple[str, Told]]) -> tuple[str, Told]:
        """Return what a queue brings next; raises Unreachable when the supervisor is gone."""
        while True:
            try:
                async with asyncio.timeout(1.0):
                    return await queue.get()
            except TimeoutError:
                if not self.is_supervised and queue.empty():
                    raise no_supervisor(self.fleet) from None

    # -- runs

    async def run(
        self,
        pod: str,
        text: str | Iterable[Segment],
        *,
        wait: bool = True,
        timeout_s: float | None = None,
        on_text: Callable[[str], None] = lambda text: None,
        on_busy: Callable[[], None] = lambda: None,
        on_told: Callable[[Told], None] = lambda told: None,
    ) -> RunDone | None:
        """Submit a turn; with `wait` return how its run ended, else None once it is accepted.

        `on_text` gets the answer as it streams, `on_told` the pod's snapshot and all that it tells
        of the run. A run that the pod started by itself is waited for, with `on_busy` called once.
        Raises AlreadyRunning for somebody's own run, Timeout, Unreachable.
        """
        segments = (Text(content=text),) if isinstance(text, str) else tuple(text)
        return await submit(
            self,
            pod,
            segments,
            wait=wait,
            timeout_s=timeout_s,
            on_text=on_text,
            on_busy=on_busy,
            on_told=on_told,
        )

    # -- operations

    async def operate(
        self,
        control: c.Control,
        *,
        timeout_s: float = 60.0,
        on_progress: Callable[[str], None] = lambda text: None,
    ) -> dict[str, Any]:
        """Do long work to its end; returns its result, raises what it failed with, or Timeout."""
        queue: asyncio.Queue[tuple[str, Told]] = asyncio.Queue()
        try:
            await self.watch_fleet(queue, pod="")
            started: c.Started = await self.control(control)
            return await self.wait_operation(
                started.operation, queue, timeout_s=timeout_s, on_progress=on_progress
            )
        finally:
            self.unwatch(queue)

    async def wait_operation(
        self,
        operation: str,
        queue: asyncio.Queue[tuple[str, Told]],
        *,
        timeout_s: float,
        on_progress: Callable[[str], None] = lambda text: None,
    ) -> dict[str, Any]:
        """Wait for the end of an operation that the fleet's events in `queue` tell of."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    _, told = await self.next_of(queue)
                    for record in _operations(told):
                        if record["id"] == operation:
                            if record["state"] == "running":
                                on_progress(str(record.get("message") or ""))
                            else:
                                return _ended(record)
        except TimeoutError as error:
            raise Timeout(
                f"not within {timeout_s:g} s; the work goes on", next_step="podsup ps"
            ) from error


def _operations(told: Told) -> list[dict[str, Any]]:
    match told:
        case Synced(body=dict() as body):
            return list(body.get("operations", ()))
        case Deliver(event=event) if event.event == "operation":
            return [event.to_wire()]
        case _:
            return []


def _ended(record: dict[str, Any]) -> dict[str, Any]:
    if record.get("error"):
        raise error_from_body(ErrorBody.from_wire(record["error"]))
    return dict(record.get("result") or {})


def _nonce() -> str:
    return secrets.token_hex(8)


class Client:
    """The sync face: every coroutine method of `AsyncClient`, run to its end."""

    def __init__(self, fleet: str | None = None, *, home: str | None = None) -> None:
        self._runner = asyncio.Runner()

        async def connect() -> AsyncClient:
            return AsyncClient.connect(fleet, home=home)

        try:
            self._client = self._runner.run(connect())
        except BaseException:
            self._runner.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""

        async def close() -> None:
            self._client.close()

        self._runner.run(close())
        self._runner.close()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if not asyncio.iscoroutinefunction(method):
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._runner.run(method(*args, **kwargs))

        return call


__all__ = ["AsyncClient", "Client"]
