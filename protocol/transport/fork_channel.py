"""Framing between supervisor and zygote.

Length-prefixed msgpack over a socketpair, descriptors beside it.

    supervisor -> zygote   fork{id, birth} + descriptors (log file, life lock)     reap{pid}
    zygote -> supervisor   ready{}   forked{id, pid} + pidfd   fork_failed{id, error}
                           exited{pid, code | signal}

Descriptors ride on a message's first byte, so a reader that takes the four length bytes with them
has them all. Both ends are in this file because neither package may import the other.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

import msgpack

_LENGTH = struct.Struct(">I")
_MAX_FDS = 4
MAX_MESSAGE = 32 * 1024 * 1024


class ChannelClosed(Exception):
    """The other end is gone."""


def send_message(sock: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one message whole; blocks while the other end is slow. Raises ChannelClosed."""
    body = msgpack.packb(message, use_bin_type=True)
    data = _LENGTH.pack(len(body)) + body
    try:
        sent = socket.send_fds(sock, [data], list(fds)) if fds else sock.send(data)
        sock.sendall(data[sent:])
    except (BrokenPipeError, ConnectionResetError) as error:
        raise ChannelClosed from error


class MessageReader:
    """Reads messages from one end; keeps what is incomplete, so that it may be non-blocking."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._fds: list[int] = []

    def read(self) -> list[tuple[dict[str, Any], list[int]]]:
        """Return the messages that are complete after one receive; raises ChannelClosed at the end.

        Descriptors belong to the message that is incomplete or next: a sender sends them with one
        only, and a receive never crosses into the bytes of a message that carries others.
        """
        try:
            data, fds, _, _ = socket.recv_fds(self._sock, 1 << 16, _MAX_FDS)
        except BlockingIOError:
            return []
        except ConnectionResetError as error:
            raise ChannelClosed from error
        if not data:
            raise ChannelClosed
        for fd in fds:
            os.set_inheritable(fd, False)  # recv_fds of this Python drops MSG_CMSG_CLOEXEC
        self._buffer += data
        self._fds += fds
        out: list[tuple[dict[str, Any], list[int]]] = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_MESSAGE:
                raise ChannelClosed(f"a message of {length} bytes")
            if len(self._buffer) < _LENGTH.size + length:
                break
            body = bytes(self._buffer[_LENGTH.size : _LENGTH.size + length])
            del self._buffer[: _LENGTH.size + length]
            message: dict[str, Any] = msgpack.unpackb(body, raw=False)
            taken = int(message.get("fds", 0))
            out.append((message, self._fds[:taken]))
            del self._fds[:taken]
        return out
