"""One control asked without an event loop."""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from protocol import control as c
from protocol.base import Wire
from protocol.errors import Timeout, UnknownPod, Unreachable
from protocol.wire import (
    ReplyHeader,
    RequestHeader,
    body_of,
    header_fields,
    message,
    read_body,
    read_header,
)
from supervisor.paths import Paths
from supervisor.quick import ask_once, request

PONG = c.Pong(fleet="f", workspace="/w", pid=1, version="0", uptime_s=1.0, epoch=1)
Answer = Callable[[RequestHeader, object], tuple[bool, Wire] | None]


class Supervisor:
    """Answers what comes to the control socket of fleet `f`; None is no answer."""

    def __init__(self, paths: Paths, answer: Answer) -> None:
        self.heard: list[RequestHeader] = []
        self._answer = answer
        path = paths.control_socket("f")
        path.parent.mkdir(parents=True)
        (path.parent / "token").write_text("secret")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.bind(f"ipc://{path}")
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._is_over.is_set():
            if not self._socket.poll(10):
                continue
            route, *frames = self._socket.recv_multipart()
            header = read_header(header_fields(frames), RequestHeader)
            self.heard.append(header)
            answer = self._answer(header, read_body(body_of(frames)))
            if answer is not None:
                reply = ReplyHeader(id=header.id, ok=answer[0])
                self._socket.send_multipart([route, *message(reply, answer[1])])

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()
        self._context.destroy(linger=0)


@pytest.fixture
def paths() -> Iterator[Paths]:
    with tempfile.TemporaryDirectory(prefix="ps", dir="/tmp") as folder:
        home = Path(folder)
        yield Paths(home, home / "run", home / "data", home / "config", home / "scope")


@pytest.fixture
def serve(paths: Paths) -> Iterator[Callable[[Answer], Supervisor]]:
    started: list[Supervisor] = []

    def serve(answer: Answer) -> Supervisor:
        started.append(Supervisor(paths, answer))
        return started[-1]

    yield serve
    for supervisor in started:
        supervisor.close()


def test_answer_is_the_controls_typed_reply(
    paths: Paths, serve: Callable[[Answer], Supervisor]
) -> None:
    supervisor = serve(lambda header, body: (True, PONG))
    assert ask_once(paths, "f", "ping", {}, timeout_s=2.5) == PONG.to_wire()
    (header,) = supervisor.heard
    assert (header.method, header.to, header.token) == ("ping", "", "secret")
    assert header.deadline_ms == 2500


def test_parameters_reach_the_supervisor_and_its_refusal_comes_back_typed(
    paths: Paths, serve: Callable[[Answer], Supervisor]
) -> None:
    refusal = UnknownPod("no pod is named 'bob'", pod="bob", next_step="podsup ps").to_body()
    bodies: list[object] = []

    def answer(header: RequestHeader, body: object) -> tuple[bool, Wire]:
        bodies.append(body)
        return False, refusal

    serve(answer)
    with pytest.raises(UnknownPod, match="bob") as refused:
        ask_once(paths, "f", "status", {"pod": "bob"})
    assert refused.value.next_step == "podsup ps"
    assert bodies == [{"pod": "bob"}]


def test_silent_supervisor_is_a_timeout(
    paths: Paths, serve: Callable[[Answer], Supervisor]
) -> None:
    serve(lambda header, body: None)
    began = time.monotonic()
    with pytest.raises(Timeout):
        ask_once(paths, "f", "ping", {}, timeout_s=0.2)
    assert time.monotonic() - began < 2.0


@pytest.mark.slow
def test_request_without_an_answer_is_sent_again_with_the_same_id(
    paths: Paths, serve: Callable[[Answer], Supervisor]
) -> None:
    answers: list[tuple[bool, Wire] | None] = [None, (True, PONG)]
    supervisor = serve(lambda header, body: answers.pop(0))
    assert ask_once(paths, "f", "ping", {}, timeout_s=9.0) == PONG.to_wire()
    first, second = supervisor.heard
    assert first.id == second.id


def test_supervisor_that_does_not_run_is_told_at_once(paths: Paths) -> None:
    with pytest.raises(Unreachable) as refused:
        ask_once(paths, "f", "ping", {})
    assert refused.value.details["supervisor"] is True


def test_socket_that_a_dead_supervisor_left_is_nobody(paths: Paths) -> None:
    path = paths.control_socket("f")
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with pytest.raises(Unreachable):
        ask_once(paths, "f", "ping", {})


def test_header_that_is_written_by_hand_is_the_header_of_the_wire() -> None:
    frames = request("list", {"a": 1}, request_id="i", token="t", timeout_s=2.0)
    header = RequestHeader(id="i", method="list", deadline_ms=2000, token="t")
    assert frames == message(header, {"a": 1})
