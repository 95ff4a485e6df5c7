"""One control, asked and answered without an event loop: what makes `podsup ps` quick to start.

It sends again after 5 s with the same id, like the client; it cannot watch, and asks the supervisor
only.
"""

from __future__ import annotations

import time
from typing import Any

import zmq

from protocol.calls import RESEND_S
from protocol.control import Control
from protocol.errors import ErrorBody, Timeout, error_from_body
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
from supervisor.reach import is_listening, new_id, no_supervisor

TIMEOUT_S = 30.0


def ask_once(paths: Paths, fleet: str, control: Control, *, timeout_s: float = TIMEOUT_S) -> Any:
    """Return the typed reply; raises what it was refused with, Unreachable or Timeout."""
    path = paths.control_socket(fleet)
    if not is_listening(path):
        raise no_supervisor(fleet)
    token = (paths.fleet_runtime(fleet) / "token").read_text()
    header = RequestHeader(
        id=new_id(), method=control.method, deadline_ms=int(timeout_s * 1000), token=token
    )
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    try:
        socket.connect(f"ipc://{path}")
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if not is_listening(path):
                raise no_supervisor(fleet)
            socket.send_multipart(message(header, control))
            wait_s = max(0.0, min(RESEND_S, end - time.monotonic()))
            if socket.poll(int(wait_s * 1000)):
                return _read(socket.recv_multipart(), control)
        raise Timeout("no answer came in time", next_step="podsup doctor")
    finally:
        socket.close()
        context.term()


def _read(frames: list[bytes], control: Control) -> Any:
    header = read_header(header_fields(frames), ReplyHeader)
    body = read_body(body_of(frames)) or {}
    if not header.ok:
        raise error_from_body(ErrorBody.from_wire(body))
    return type(control).reply.from_wire(body)
