"""The notify buffer: on disk before it is answered, handed on once, given back with a run."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podproc.notifications import CAPACITY, KNOWN_IDS, SETTLED_BYTES, Arrived, Inbox
from protocol.entries import SystemItem
from protocol.errors import Internal
from protocol.session.line import decode_line
from protocol.status import Trigger
from tests.podproc.session.disk import Disk


def message(
    key: str, *, wakes: bool = True, kind: str = "notification", from_parent: bool = False
) -> Arrived:
    item = SystemItem(kind=kind, body=f"body of {key}")
    return Arrived(ts=1, id=key, item=item, wakes=wakes, request=key, from_parent=from_parent)


@contextlib.contextmanager
def opened(
    path: Path, *, logged: Collection[str] = (), disk: Disk | None = None
) -> Iterator[Inbox]:
    inbox = Inbox(path, logged=logged, files=disk or Disk())
    try:
        yield inbox
    finally:
        inbox.close()


def put(inbox: Inbox, *keys: str, run: int = 0, **settings: Any) -> list[str | None]:
    return [inbox.store(message(key, **settings), run=run) for key in keys]


def taken(inbox: Inbox) -> list[str]:
    return [one.id for one in inbox.take()]


def left(path: Path, *, logged: Collection[str] = ()) -> list[str]:
    """Return what waits after a restart."""
    with opened(path, logged=logged) as inbox:
        return taken(inbox)


def lines(path: Path) -> list[dict[str, Any]]:
    return [decode_line(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pods" / "alice" / "inbox.jsonl"


class FullDisk:
    """Writes fail from the n-th on; with `takes`, only after so many bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, after: int = 0, takes: int = 0) -> None:
        self._write, self._after, self._takes = os.write, after, takes
        self._patch = monkeypatch
        monkeypatch.setattr(os, "write", self.write)

    def mend(self) -> None:
        """Have room again."""
        self._patch.setattr(os, "write", self._write)

    def write(self, fd: int, data: bytes) -> int:
        """Write, or not."""
        self._after -= 1
        if self._after >= 0:
            return self._write(fd, data)
        if self._takes:
            return self._write(fd, data[: self._takes])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# -- what is stored ------------------------------------------------------------------------------


def test_a_message_is_on_disk_when_store_returns(path: Path) -> None:
    with opened(path) as inbox:
        put(inbox, "a")
        [line] = lines(path)
    assert (line["kind"], line["id"], line["item"]["body"]) == ("arrived", "a", "body of a")


def test_what_waits_survives_a_restart_in_order(path: Path) -> None:
    with opened(path) as inbox:
        put(inbox, "a", "b", "c")
    assert left(path) == ["a", "b", "c"]


def test_the_first_in_is_the_first_out(path: Path) -> None:
    with opened(path) as inbox:
        put(inbox, "b", "a")
        assert taken(inbox) == ["b", "a"]
        assert taken(inbox) == []


def test_the_folder_and_the_file_are_for_their_owner_alone(path: Path) -> None:
    with opened(path):
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_message_that_is_known_is_not_stored_again(path: Path) -> None:
    with opened(path) as inbox:
        put(inbox, "a", "a")
        assert len(lines(path)) == 1
        assert inbox.knows("a")
        assert not inbox.knows("b")


def test_a_message_is_known_after_it_was_delivered_and_after_a_restart(path: Path) -> None:
    with opened(path) as inbox:
        put(inbox, "a")
        inbox.take()
        inbox.settle(ts=2)
    with opened(path) as inbox:
        assert inbox.knows("a")


def test_no_id_is_never_known(path: Path) -> None:
    with opened(path) as inbox:
        inbox.store(Arrived(ts=1, id="x", item=SystemItem(kind="k", body="b"), wakes=True), run=0)
        assert not inbox.knows("")


def test_beyond_128_the_oldest_is_dropped_with_an_alert_and_for_good(path: Path) -> None:
    keys = [f"m{number}" for number in range(CAPACITY + 2)]
    with opened(path) as inbox:
        alerts = put(inbox, *keys)
        assert alerts[:CAPACITY] == [None] * CAPACITY
        assert all(alert and "128" in alert for alert in alerts[CAPACITY:])
    assert CAPACITY == 128
    assert left(path) == keys[2:]


# -- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize("takes", [0, 7])
def test_a_message_that_cannot_be_written_is_not_held(
    path: Path, monkeypatch: pytest.MonkeyPatch, takes: int
) -> None:
    with opened(path) as inbox:
        put(inbox, "a")
        disk = FullDisk(monkeypatch, takes=takes)
        with pytest.raises(Internal, match="inbox"):
            put(inbox, "b")
        disk.mend()
        assert not inbox.knows("b")
        put(inbox, "c")
        assert taken(inbox) == ["a", "c"]
    assert left(path) == ["a", "c"]


def test_a_message_that_has_no_room_since_the_drop_of_another_was_not_written_is_not_held(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"m{number}" for number in range(CAPACITY)]
    with opened(path) as inbox:
        put(inbox, *keys)
        disk = FullDisk(monkeypatch, after=1)
        with contextlib.suppress(Internal):
            put(inbox, "one more")
            keys = [*keys[1:], "one more"]
        disk.mend()
        assert taken(inbox) == keys


def test_half_a_line_that_cannot_be_taken_back_is_taken_back_before_the_next(path: Path) -> None:
    disk = Disk()
    with opened(path, disk=disk) as inbox:
        put(inbox, "a")
        disk.leave_room(7)
        disk.fail("ftruncate", errno.EIO)
        for key in ("b", "c"):
            with pytest.raises(Internal, match="inbox"):
                put(inbox, key)
        disk.mend()
        put(inbox, "d")
        assert taken(inbox) == ["a", "d"]
    assert left(path) == ["a", "d"]
    assert b"body of b" not in path.read_bytes()


def test_a_torn_last_line_was_never_committed(path: Path) -> None:
    with opened(path) as inbox:
        put(inbox, "a", "b")
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with opened(path) as inbox:
        put(inbox, "c")
        assert taken(inbox) == ["a", "c"]
    assert left(path) == ["a", "c"]


@given(st.integers(0, 400))
def test_a_file_cut_anywhere_gives_the_messages_whose_lines_are_whole(
    tmp_path_factory: pytest.TempPathFactory, size: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "inbox.jsonl"
    with opened(path) as inbox:
        put(inbox, "a", "b", "c")
    data = path.read_bytes()[:size]
    path.write_bytes(data)
    assert left(path) == ["a", "b", "c"][: data.count(b"\n")]


@pytest.mark.parametrize(
    "bad", [b"not json", b"", b"\0\0\0", b'{"kind":"arrived","crc":"00000000"}', b"\xff\xfe"]
)
def test_a_bad_line_does_not_keep_the_pod_from_starting(path: Path, bad: bytes) -> None:
    with opened(path) as inbox:
        put(inbox, "a")
    first = path.read_bytes()
    path.write_bytes(first + bad + b"\n")
    with opened(path) as inbox:
        put(inbox, "b")
    assert left(path) == ["a", "b"]
    assert path.read_bytes().startswith(first + bad + b"\n")


def test_a_line_of_a_newer_writer_does_not_keep_the_pod_from_starting(path: Path) -> None:
    from protocol.base import Wire
    from protocol.session.line import encode_line

    class Newer(Wire):
        kind: str
        ts: int = 1

    with opened(path) as inbox:
        put(inbox, "a")
    with path.open("ab") as file:
        file.write(encode_line(Newer(kind="postponed")))
        file.write(encode_line(Newer(kind="arrived")))
    assert left(path) == ["a"]


# -- delivery ------------------------------------------------------------------------------------


def test_what_a_run_consumed_is_marked_at_its_end(path: Path) -> None:
    with opened(path) as inbox:
        put(inbox, "a", "b")
        inbox.take()
        put(inbox, "c")
        inbox.settle(ts=9)
        assert lines(path)[-1] == {"kind": "delivered", "ts": 9, "ids": ["a", "b"]}
    assert left(path) == ["c"]


def test_a_run_that_consumed_nothing_marks_nothing(path: Path) -> None:
    with opened(path) as inbox:
        put(inbox, "a")
        before = path.read_bytes()
        assert not inbox.settle(ts=9)
        assert path.read_bytes() == before


def test_a_run_that_was_taken_back_gives_back_what_it_consumed_in_front(path: Path) -> None:
    with opened(path) as inbox:
        put(inbox, "a", "b")
        inbox.take()
        put(inbox, "c")
        inbox.give_back()
        assert taken(inbox) == ["a", "b", "c"]
    assert left(path) == ["a", "b", "c"]


def test_messages_taken_in_two_turns_of_a_run_are_given_back_in_order(path: Path) -> None:
    with opened(path) as inbox:
        put(inbox, "a")
        inbox.take()
        put(inbox, "b")
        inbox.take()
        put(inbox, "c")
        inbox.give_back()
        assert taken(inbox) == ["a", "b", "c"]


def test_what_was_given_back_is_settled_by_the_run_that_takes_it_next(path: Path) -> None:
    with opened(path) as inbox:
        put(inbox, "a")
        inbox.take()
        inbox.give_back()
        inbox.take()
        inbox.settle(ts=9)
    assert left(path) == []


def test_a_message_in_the_log_is_not_delivered_again_after_a_crash_before_its_mark(
    path: Path,
) -> None:
    with opened(path) as inbox:
        put(inbox, "a", "b")
        inbox.take()
    assert left(path, logged={"a"}) == ["b"]


def test_what_a_cut_run_had_consumed_is_marked_and_no_longer_needs_the_log(path: Path) -> None:
    with opened(path) as inbox:
        put(inbox, "a", from_parent=True)
        put(inbox, "b")
    with opened(path, logged={"a"}) as inbox:
        assert inbox.unsettled() == {"a"}
        assert inbox.has_taken_from_parent()
        inbox.settle(ts=9)
    assert left(path, logged=()) == ["b"]


def test_a_message_that_was_taken_and_neither_logged_nor_marked_is_delivered_after_a_crash(
    path: Path,
) -> None:
    with opened(path) as inbox:
        put(inbox, "a")
        inbox.take()
    assert left(path) == ["a"]


def test_a_mark_holds_when_the_log_no_longer_has_the_message(path: Path) -> None:
    with opened(path) as inbox:
        put(inbox, "a")
        inbox.take()
        inbox.settle(ts=9)
    assert left(path, logged=()) == []


def test_a_run_that_consumed_a_message_of_its_parent_is_told_so_once(path: Path) -> None:
    with opened(path) as inbox:
        put(inbox, "a")
        put(inbox, "b", from_parent=True)
        inbox.take()
        assert inbox.settle(ts=2)
        put(inbox, "c")
        inbox.take()
        assert not inbox.settle(ts=3)


def test_what_a_mark_could_not_name_is_named_by_the_next(path: Path) -> None:
    disk = Disk()
    with opened(path, disk=disk) as inbox:
        put(inbox, "a")
        inbox.take()
        disk.fail("write", errno.ENOSPC)
        with pytest.raises(Internal):
            inbox.settle(ts=2)
        disk.mend()
        assert inbox.unsettled() == {"a"}
        inbox.settle(ts=3)
        assert inbox.unsettled() == frozenset()
    assert left(path) == []


def test_what_only_the_log_names_after_a_crash_is_unsettled_until_a_mark_names_it(
    path: Path,
) -> None:
    """A new segment carries what is unsettled: it does not have the entries of the old one."""
    with opened(path) as inbox:
        put(inbox, "a")
        inbox.take()
    with opened(path, logged={"a"}) as inbox:
        assert inbox.unsettled() == {"a"}
        inbox.settle(ts=9)
    assert left(path) == []


def test_what_a_run_consumed_whose_end_is_not_in_the_log_stays_unsettled(path: Path) -> None:
    with opened(path) as inbox:
        put(inbox, "a")
        inbox.take()
        inbox.release()
        assert inbox.unsettled() == {"a"}
    assert left(path) == ["a"]


# -- a file that has grown -------------------------------------------------------------------------


def grown(inbox: Inbox) -> None:
    """Let the file grow by settled messages until it is to be written anew."""
    filling = message("filling").model_copy(
        update={"item": SystemItem(kind="notification", body="x" * SETTLED_BYTES)}
    )
    inbox.store(filling, run=0)


def test_an_inbox_of_settled_messages_is_written_anew_with_those_that_wait(path: Path) -> None:
    with opened(path) as inbox:
        grown(inbox)
        inbox.take()
        put(inbox, "b", "a", from_parent=True)
        inbox.settle(ts=2)
        inbox.shrink(ts=2)
        assert path.stat().st_size < 2000
        put(inbox, "c")
        assert inbox.knows("filling")
    assert left(path) == ["b", "a", "c"]
    with opened(path) as inbox:
        assert inbox.knows("filling")
        assert inbox.knows("b")


def test_an_inbox_is_written_anew_with_a_new_file_that_is_synced_first(path: Path) -> None:
    disk = Disk()
    with opened(path, disk=disk) as inbox:
        grown(inbox)
        inbox.take()
        inbox.settle(ts=2)
        disk.done.clear()
        inbox.shrink(ts=2)
        inbox.shrink(ts=2)
    assert disk.done == ["open", "write", "fsync", "rename", "open", "fsync"]
    assert list(path.parent.iterdir()) == [path]


def test_a_small_inbox_is_left_alone(path: Path) -> None:
    with opened(path) as inbox:
        put(inbox, "a")
        inbox.take()
        inbox.settle(ts=2)
        before = path.stat().st_ino
        inbox.shrink(ts=2)
    assert path.stat().st_ino == before


def test_the_newest_thousand_requests_are_known_after_an_inbox_was_written_anew(
    path: Path,
) -> None:
    with opened(path) as inbox:
        for number in range(KNOWN_IDS):
            put(inbox, f"r{number}")
            inbox.take()
        grown(inbox)
        inbox.take()
        inbox.settle(ts=2)
        inbox.shrink(ts=2)
        known = [inbox.knows(one) for one in ("r0", "r1", f"r{KNOWN_IDS - 1}", "filling")]
        assert known == [False, True, True, True]
    with opened(path) as inbox:
        assert [inbox.knows(one) for one in ("r0", "r1", "filling")] == [False, True, True]


def test_a_line_that_nobody_can_read_stays_when_the_inbox_is_written_anew(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not json\n")
    with opened(path) as inbox:
        grown(inbox)
        inbox.take()
        inbox.settle(ts=2)
        inbox.shrink(ts=2)
    assert path.read_bytes().startswith(b"not json\n")
    assert path.stat().st_size < 2000


@pytest.mark.parametrize("op", ["open", "write", "fsync", "rename"])
def test_an_inbox_that_cannot_be_written_anew_stays_in_use(path: Path, op: str) -> None:
    disk = Disk()
    with opened(path, disk=disk) as inbox:
        grown(inbox)
        inbox.take()
        put(inbox, "b")
        inbox.settle(ts=2)
        disk.fail(op, errno.ENOSPC)
        with pytest.raises(Internal, match="ENOSPC"):
            inbox.shrink(ts=2)
        inbox.shrink(ts=2)  # not again before it has grown as much again
        disk.mend()
        put(inbox, "c")
        assert list(path.parent.iterdir()) == [path]
    assert left(path) == ["b", "c"]


# -- what wakes ----------------------------------------------------------------------------------


def test_only_what_may_wake_wakes(path: Path) -> None:
    with opened(path) as inbox:
        assert inbox.waking() is None
        put(inbox, "a", wakes=False)
        assert inbox.waking() is None
        put(inbox, "b")
        assert inbox.waking() is Trigger.NOTIFY
        put(inbox, "c", kind="pod_event")
        assert inbox.waking() is Trigger.POD_EVENT
        inbox.take()
        assert inbox.waking() is None


def test_what_came_after_the_last_request_of_a_run_is_still_there_to_wake(path: Path) -> None:
    with opened(path) as inbox:
        put(inbox, "a", run=1)
        inbox.take()
        put(inbox, "late", run=1)
        inbox.settle(ts=2)
        assert inbox.waking() is Trigger.NOTIFY
        assert inbox.waking(since_run=1) is Trigger.NOTIFY
        assert inbox.waking(since_run=2) is None


def test_what_was_given_back_wakes_as_before(path: Path) -> None:
    with opened(path) as inbox:
        put(inbox, "a", run=1)
        inbox.take()
        inbox.give_back()
        assert inbox.waking(since_run=1) is Trigger.NOTIFY


def test_what_waits_from_before_a_restart_wakes_but_arrived_in_no_run(path: Path) -> None:
    with opened(path) as inbox:
        put(inbox, "a", run=5)
    with opened(path) as inbox:
        assert inbox.waking() is Trigger.NOTIFY
        assert inbox.waking(since_run=1) is None


# -- whatever happens ----------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["store", "take", "settle", "give back", "restart"]), max_size=25))
def test_whatever_happens_each_message_is_settled_once_or_waits(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    path = tmp_path_factory.mktemp("inbox") / "inbox.jsonl"
    inbox = Inbox(path, logged=())
    stored: list[str] = []
    settled: list[str] = []
    on_the_way: list[str] = []
    try:
        for step in steps:
            match step:
                case "store":
                    stored.append(f"m{len(stored)}")
                    put(inbox, stored[-1])
                case "take":
                    on_the_way += taken(inbox)
                case "settle":
                    inbox.settle(ts=1)
                    settled, on_the_way = settled + on_the_way, []
                case "give back":
                    inbox.give_back()
                    on_the_way = []
                case "restart":
                    inbox.close()
                    inbox, on_the_way = Inbox(path, logged=()), []
        assert settled + on_the_way + taken(inbox) == stored
    finally:
        inbox.close()


def test_messages_that_did_not_reach_the_log_are_in_front_again(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "inbox.jsonl", logged=())
    for name in ("one", "two", "three"):
        item = SystemItem(kind="notification", body=name)
        inbox.store(Arrived(ts=1, id=name, item=item, wakes=True), run=0)
    taken = inbox.take()
    inbox.untake(taken[1:])
    assert [message.id for message in inbox.take()] == ["two", "three"]
    inbox.close()
