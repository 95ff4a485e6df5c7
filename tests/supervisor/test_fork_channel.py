"""The framing between supervisor and zygote: whole messages with their descriptors, however cut."""

from __future__ import annotations

import itertools
import os
import resource
import select
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.transport.fork_channel import (
    MAX_MESSAGE,
    ChannelClosed,
    MessageReader,
    MessageWriter,
    NotSent,
    send_message,
)

Received = list[tuple[dict[str, Any], list[int]]]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def inode(fd: int) -> int:
    return os.fstat(fd).st_ino


def frame(message: dict[str, Any]) -> bytes:
    body: bytes = msgpack.packb(message, use_bin_type=True)
    return struct.pack(">I", len(body)) + body


@contextmanager
def no_free_descriptor() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def read_all(reader: MessageReader, end: socket.socket) -> Received:
    """Read while there is something to read."""
    received: Received = []
    while select.select([end], [], [], 0)[0]:
        received += reader.read()
    return received


def pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Cut data at the places, each modulo its length."""
    places = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


messages = st.lists(
    st.tuples(
        st.binary(max_size=40),
        st.integers(0, 2),
        st.lists(st.integers(0, 1000), max_size=4),
    ),
    max_size=8,
)


@given(messages, st.lists(st.booleans(), min_size=1))
def test_messages_arrive_whole_in_order_and_with_their_own_descriptors(
    sent: list[tuple[bytes, int, list[int]]], reads: list[bool]
) -> None:
    ours, theirs = socket.socketpair()
    files = [os.memfd_create(f"file {number}") for number in range(2)]
    received: Received = []
    with ours, theirs:
        theirs.setblocking(False)
        reader = MessageReader(theirs)
        turn = 0
        for number, (payload, count, cuts) in enumerate(sent):
            message = {"op": "fork", "id": number, "birth": payload} | (
                {"fds": count} if count else {}
            )
            for place, piece in enumerate(pieces(frame(message), cuts)):
                if place == 0 and count:
                    socket.send_fds(ours, [piece], files[:count])
                else:
                    ours.sendall(piece)
                turn += 1
                if reads[turn % len(reads)]:
                    received += reader.read()
        received += read_all(reader, theirs)
    try:
        told = [(one["id"], one["birth"]) for one, _ in received]
        assert told == [(number, payload) for number, (payload, _, _) in enumerate(sent)]
        for (_, fds), (_, count, _) in zip(received, sent, strict=True):
            assert [inode(fd) for fd in fds] == [inode(fd) for fd in files[:count]]
            assert not any(os.get_inheritable(fd) for fd in fds)
    finally:
        for fd in [*files, *(fd for _, fds in received for fd in fds)]:
            os.close(fd)


def test_message_larger_than_any_buffer_arrives_with_its_descriptors(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    birth = os.urandom(3 * 1024 * 1024)
    file = os.memfd_create("file")
    message = {"op": "fork", "id": 1, "birth": birth, "fds": 1}
    sender = threading.Thread(target=send_message, args=(ours, message, [file]))
    sender.start()
    reader = MessageReader(theirs)
    received: Received = []
    while not received:
        received += reader.read()
    sender.join()
    ((got, (fd,)),) = received
    try:
        assert got == message
        assert inode(fd) == inode(file)
    finally:
        os.close(fd)
        os.close(file)


def test_reader_that_may_not_block_returns_nothing_when_there_is_nothing(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    pair[1].setblocking(False)
    assert MessageReader(pair[1]).read() == []


@pytest.mark.parametrize("rest", [b"", b"\0\0", frame({"op": "reap", "pid": 1})[:-1]])
def test_end_of_the_channel_is_told_even_in_the_middle_of_a_message(
    pair: tuple[socket.socket, socket.socket], rest: bytes
) -> None:
    ours, theirs = pair
    reader = MessageReader(theirs)
    send_message(ours, {"op": "reap", "pid": 7})
    ours.sendall(rest)
    ours.close()
    assert reader.read() == [({"op": "reap", "pid": 7}, [])]
    with pytest.raises(ChannelClosed):
        reader.read()


def test_send_to_nobody_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.close()
    with pytest.raises(ChannelClosed):
        send_message(ours, {"op": "reap", "pid": 7})


def test_length_that_no_message_has_ends_the_channel(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    ours.sendall(struct.pack(">I", MAX_MESSAGE + 1))
    with pytest.raises(ChannelClosed, match=str(MAX_MESSAGE + 1)):
        MessageReader(theirs).read()


def test_message_whose_descriptors_found_no_room_takes_none_of_the_next(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    files = [os.memfd_create(f"file {number}") for number in range(2)]
    reader = MessageReader(theirs)
    lost = frame({"op": "forked", "id": 0, "fds": 1})
    socket.send_fds(ours, [lost[:-1]], files[:1])
    with no_free_descriptor():
        assert reader.read() == []
    ours.sendall(lost[-1:])
    send_message(ours, {"op": "forked", "id": 1, "fds": 1}, files[1:])
    (_, none), (_, (fd,)) = read_all(reader, theirs)
    try:
        assert none == []
        assert inode(fd) == inode(files[1])
    finally:
        for each in [fd, *files]:
            os.close(each)


def test_writer_never_blocks_and_sends_descriptors_that_its_caller_closed_meanwhile(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    ours.setblocking(False)
    writer, reader = MessageWriter(ours), MessageReader(theirs)
    inodes = []
    sent = [{"op": "fork", "id": n, "birth": os.urandom(50_000), "fds": 1} for n in range(30)]
    for message in sent:
        file = os.memfd_create("file")
        inodes.append(inode(file))
        writer.add(message, [file])
        os.close(file)
    assert not writer.flush()
    received: Received = []
    while not writer.flush():
        received += reader.read()
    received += read_all(reader, theirs)
    assert [message for message, _ in received] == sent
    assert [inode(fd) for _, (fd,) in received] == inodes
    for _, (fd,) in received:
        os.close(fd)


def test_writer_drops_a_message_whose_descriptors_cannot_go_and_sends_the_next(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    writer = MessageWriter(ours)
    open_before = len(os.listdir("/proc/self/fd"))
    with no_free_descriptor(), pytest.raises(OSError, match="Too many open files"):
        writer.add({"op": "fork", "id": 1}, [0])
    writer.add({"op": "fork", "id": 2}, [0] * 254)  # more than the kernel takes
    writer.add({"op": "reap", "pid": 7})
    with pytest.raises(NotSent) as failure:
        writer.flush()
    assert failure.value.message["id"] == 2
    assert writer.flush()
    assert MessageReader(theirs).read() == [({"op": "reap", "pid": 7}, [])]
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_writer_to_nobody_tells_so_and_keeps_no_descriptor_once_it_is_closed(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    theirs.close()
    writer = MessageWriter(ours)
    open_before = len(os.listdir("/proc/self/fd"))
    writer.add({"op": "fork", "id": 1}, [0, 0])
    with pytest.raises(ChannelClosed):
        writer.flush()
    writer.close()
    assert len(os.listdir("/proc/self/fd")) == open_before
