"""One read, asked and answered without an event loop and without a model.

What makes `podsup ps` quick.

To import pydantic costs more than everything else that `ps` does. So here the header is written out
by hand, field by field as `RequestHeader` has it (a test holds one against the other), and the
reply stays plain data. It asks the supervisor only, and sends again after 5 s with the same id,
like the client.
"""

from __future__ import annotations

import time
from typing import Any

import msgpack
import zmq

from protocol.calls import RESEND_S
from protocol.errors import Internal, Timeout
from supervisor.paths import Paths
from supervisor.reach import is_listening, new_id, no_supervisor

TIMEOUT_S = 30.0
VERSION = 1


def ask_once(
    paths: Paths, fleet: str, method: str, params: dict[str, Any], *, timeout_s: float = TIMEOUT_S
) -> dict[str, Any]:
    """Return the reply's plain body; raises what it was refused with, Unreachable or Timeout."""
    path = paths.control_socket(fleet)
    if not is_listening(path):
        raise no_supervisor(fleet)
    token = (paths.fleet_runtime(fleet) / "token").read_text()
    frames = request(method, params, request_id=new_id(), token=token, timeout_s=timeout_s)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    try:
        socket.connect(f"ipc://{path}")
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if not is_listening(path):
                raise no_supervisor(fleet)
            socket.send_multipart(frames)
            wait_s = max(0.0, min(RESEND_S, end - time.monotonic()))
            if socket.poll(int(wait_s * 1000)):
                return _read(socket.recv_multipart())
        raise Timeout("no answer came in time", next_step="podsup doctor")
    finally:
        socket.close()
        context.term()


def request(
    method: str, params: dict[str, Any], *, request_id: str, token: str, timeout_s: float
) -> list[bytes]:
    """Return the frames of a request to the supervisor."""
    header = {
        "v": VERSION,
        "type": "request",
        "id": request_id,
        "to": "",
        "method": method,
        "deadline_ms": int(timeout_s * 1000),
        "token": token,
    }
    return [msgpack.packb(header), msgpack.packb(params)]


def _read(frames: list[bytes]) -> dict[str, Any]:
    try:
        header, body = (msgpack.unpackb(frame) for frame in frames)
        if header["ok"]:
            return dict(body)
    except (ValueError, KeyError, TypeError) as error:
        raise Internal(f"the supervisor's answer cannot be read: {error}") from error
    from protocol.error_body import ErrorBody, error_from_body

    raise error_from_body(ErrorBody.from_wire(body))
