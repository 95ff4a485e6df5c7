"""Framing between supervisor and zygote.

Length-prefixed msgpack over a socketpair, descriptors beside it.

    supervisor -> zygote   fork{id, birth} + descriptors (log file, life lock)     reap{pid}
    zygote -> supervisor   ready{}   forked{id, pid} + pidfd   fork_failed{id, error}
                           exited{pid, code | signal}

Descriptors ride on a message's first byte, and a receive ends with the bytes that carry some: they
belong to the message of the receive's last byte. So one whose descriptors got lost, because its
reader had no room for them, takes nothing from the next; it arrives with fewer than its `fds`.
Both ends are in this file because neither package may import the other.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

_LENGTH = struct.Struct(">I")
_MAX_FDS = 4
MAX_MESSAGE = 32 * 1024 * 1024


class ChannelClosed(Exception):
    """The other end is gone."""


class NotSent(Exception):
    """Nothing of this message was sent: its descriptors could not go. The channel is intact."""

    def __init__(self, message: dict[str, Any], why: OSError) -> None:
        super().__init__(str(why))
        self.message = message


def send_message(sock: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one message whole; blocks while the other end is slow. Raises ChannelClosed."""
    data = _frame(message)
    try:
        sent = socket.send_fds(sock, [data], list(fds)) if fds else sock.send(data)
        sock.sendall(data[sent:])
    except (BrokenPipeError, ConnectionResetError) as error:
        raise ChannelClosed from error


@dataclass(slots=True)
class _Unsent:
    message: dict[str, Any]
    data: memoryview
    fds: list[int]

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds = []


class MessageWriter:
    """Sends messages on an end that may not block; keeps what does not fit yet."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._unsent: deque[_Unsent] = deque()

    def add(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Queue a message; the descriptors stay the caller's. Raises OSError if none are free."""
        unsent = _Unsent(message, memoryview(_frame(message)), [])
        try:
            for fd in fds:
                unsent.fds.append(os.dup(fd))
        except OSError:
            unsent.close()
            raise
        self._unsent.append(unsent)

    def flush(self) -> bool:
        """Send what fits now; False if something is left. Raises ChannelClosed, NotSent.

        What was not sent is dropped: call again for the rest.
        """
        while self._unsent:
            first = self._unsent[0]
            try:
                if first.fds:
                    sent = socket.send_fds(self._sock, [first.data], first.fds)
                else:
                    sent = self._sock.send(first.data)
            except BlockingIOError:
                return False
            except OSError as error:
                if not first.fds or isinstance(error, BrokenPipeError | ConnectionResetError):
                    raise ChannelClosed from error
                self._unsent.popleft().close()
                raise NotSent(first.message, error) from error
            first.close()
            first.data = first.data[sent:]
            if not first.data:
                self._unsent.popleft()
        return True

    def close(self) -> None:
        """Drop what was not sent; the socket stays the caller's."""
        while self._unsent:
            self._unsent.popleft().close()


def _frame(message: dict[str, Any]) -> bytes:
    body: bytes = msgpack.packb(message, use_bin_type=True)
    return _LENGTH.pack(len(body)) + body


class MessageReader:
    """Reads messages from one end; keeps what is incomplete, so that it may be non-blocking."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._fds: list[int] = []

    def read(self) -> list[tuple[dict[str, Any], list[int]]]:
        """Return the messages that are complete after one receive; raises ChannelClosed at the end.

        A message may come with fewer descriptors than its `fds` says: then they are lost.
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
        messages: list[dict[str, Any]] = []
        owned = [self._fds]  # by message; the last are those of the incomplete one
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_MESSAGE:
                raise ChannelClosed(f"a message of {length} bytes")
            if len(self._buffer) < _LENGTH.size + length:
                break
            body = bytes(self._buffer[_LENGTH.size : _LENGTH.size + length])
            del self._buffer[: _LENGTH.size + length]
            messages.append(msgpack.unpackb(body, raw=False))
            owned.append([])
        owned[-1 if self._buffer else -2] += fds
        self._fds = owned.pop()
        return list(zip(messages, owned, strict=True))
