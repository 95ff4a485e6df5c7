"""What is published of a history when a disk refuses: all that stays, and no more."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from podproc.recorder import Recorder
from podproc.segments import Position, Segments
from podproc.turn_terms import ClosePrevious, RunKind, RunPlan
from podproc.watchers import Watchers
from protocol.entries import RunErrored, SegmentStart, ToolCall
from protocol.lanes import Lanes
from protocol.segments import Text
from protocol.session.problems import LogBroken
from protocol.session.store import SessionStore
from protocol.snapshot import Snapshot
from protocol.status import Trigger
from protocol.transport.memory import MemoryNet, MemoryTransport
from protocol.wire import read_body
from tests.podproc.pods import EVENTS, SEGMENT, SESSION

PLAN = RunPlan(RunKind.RUN, Trigger.USER_SEND, input=(Text(content="hi"),))


async def brief() -> str:
    return "be brief"


class Desk:
    """A recorder and the log lane that it publishes on."""

    def __init__(self, data: Path) -> None:
        self.net = MemoryNet()
        self._got: list[list[bytes]] = []
        self.record = Recorder(
            Segments(SessionStore(data), Position(SESSION, SEGMENT), wall_ms=lambda: 1),
            wall_ms=lambda: 1,
            system_prompt=brief,
            config={},
        )
        self.record.open()
        self.record.watchers = Watchers(
            MemoryTransport(self.net),
            EVENTS,
            Lanes("alice", 1),
            snapshot=self._snapshot,
            monotonic=lambda: 0.0,
            wall_ms=lambda: 1,
        )
        subscriber = MemoryTransport(self.net).subscriber(self._got.append)
        subscriber.connect(EVENTS)
        subscriber.subscribe(b"log/")
        self.net.pump()

    def _snapshot(self) -> Snapshot:
        raise AssertionError("nobody said hello")

    def published(self) -> list[int]:
        """Return the positions that were published."""
        self.net.pump()
        bodies = [read_body(frames[2]) or {} for frames in self._got]
        return [body["index"] for body in bodies]


@contextmanager
def desk(data: Path) -> Iterator[Desk]:
    made = Desk(data)
    try:
        yield made
    finally:
        made.record.close()


def begin(record: Recorder) -> None:
    asyncio.run(record.begin(PLAN, ClosePrevious.RESULTS_AND_NOTE))


@contextmanager
def no_sync(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a sync fail before it has reached the disk."""

    def dup(fd: int) -> int:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(os, "dup", dup)
        yield


def test_the_start_of_a_segment_is_published_although_its_first_run_could_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with desk(tmp_path) as made:
        with no_sync(monkeypatch), pytest.raises(MemoryError):
            begin(made.record)
        assert made.record.head_entries == 1
        assert made.published() == [0]
        begin(made.record)
        made.record.publish_begin()
        assert made.published() == [0, 1, 2]


def test_what_closed_the_run_before_is_published_although_the_next_could_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with desk(tmp_path) as made:
        begin(made.record)
        made.record.publish_begin()
        made.record.commit_item(ToolCall(call_id="c1", name="Read", arguments="{}"))
        head = made.record.head_entries
        with no_sync(monkeypatch), pytest.raises(MemoryError):
            begin(made.record)
        closed = "the end of the run before, the result of its open call and the note stay"
        assert made.record.head_entries == head + 3, closed
        begin(made.record)
        made.record.publish_begin()
        assert made.published() == list(range(made.record.head_entries))


def test_a_run_whose_begin_could_not_be_synced_is_left_behind_and_the_next_goes_on_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fdatasync(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with desk(tmp_path) as made:
        begin(made.record)
        made.record.publish_begin()
        made.record.commit_item(ToolCall(call_id="c1", name="Read", arguments="{}"))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fdatasync)
            with pytest.raises(LogBroken):
                begin(made.record)
        assert made.published() == list(range(7)), "what closed the run before stays"
        assert made.record.shown_entries == 7
        begin(made.record)
        assert made.record.segment_id != SEGMENT
        asked = [item for item in made.record.items() if getattr(item, "role", "") == "user"]
        assert len(asked) == 2, "the question that was refused is not asked"


def test_what_waits_to_be_published_goes_before_the_next_commit(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        begin(made.record)
        made.record.commit_item(ToolCall(call_id="c1", name="Read", arguments="{}"))
        assert made.published() == [0, 1, 2, 3]


def test_a_run_whose_end_could_not_be_logged_is_closed_by_the_next(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        begin(made.record)
        made.record.publish_begin()
        begin(made.record)
        lost = made.record.history(3, None, 1)[2][0]
        assert isinstance(lost, RunErrored)
        assert (lost.code, lost.interrupted) == ("internal", False)
        assert made.record.state.open_run is not None


def test_a_run_that_could_not_begin_on_a_broken_log_is_not_carried_into_the_fork(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "no")

    with desk(tmp_path) as made:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            with pytest.raises(LogBroken):
                begin(made.record)
        begin(made.record)
        made.record.publish_begin()
        start = made.record.history(0, None, 1)[2][0]
        assert isinstance(start, SegmentStart)
        assert start.history == ()
        assert start.forked_from is not None
        assert start.forked_from.at_entry == 1
        assert len(made.record.state.history) == 1
