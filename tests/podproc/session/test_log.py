"""The writer: what is on disk after every success, failure and death."""

from __future__ import annotations

import errno
import stat
import zlib
from pathlib import Path

import pytest

from podproc.session.log import SegmentLog
from protocol.entries import Entry, Extension
from protocol.session.line import encode_line
from protocol.session.problems import AppendFailed, LogBroken, LogDamaged, RewriteFailed
from protocol.session.replay import fold
from protocol.status import RunResult
from tests.podproc.session.disk import (
    START,
    Disk,
    Killed,
    answered,
    asked,
    called,
    cut,
    death,
    ended,
    invoked,
    lines_of,
    plain,
    said,
    told,
)

RUN: tuple[Entry, ...] = (invoked("r1"), asked("hello"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "sessions" / "s1" / "seg.jsonl"


def everything(log: SegmentLog) -> list[dict[str, object]]:
    return plain(log.read(0, log.head_entries))


# -- create ---------------------------------------------------------------------------------------


def test_a_new_segment_is_private_and_holds_its_first_record(path: Path) -> None:
    log = SegmentLog.create(path, START)
    assert path.read_bytes() == lines_of(START)
    assert (log.head_entries, log.size, log.segment_id) == (1, path.stat().st_size, "seg")
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent, path.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]
    log.close()


def test_a_new_segment_is_durable_name_and_all_before_it_is_given_out(path: Path) -> None:
    disk = Disk()
    SegmentLog.create(path, START, files=disk).close()
    above, folder = ["open", "fsync"], ["mkdir", "open", "fsync"]
    file = ["open", "write", "fsync", "rename", "open", "fsync"]
    assert disk.done == above + folder * 3 + file


def test_a_folder_that_a_killed_process_made_is_durable_before_a_segment_in_it(path: Path) -> None:
    path.parent.mkdir(parents=True)
    disk = Disk()
    SegmentLog.create(path, START, files=disk).close()
    assert disk.done == [*("open", "fsync"), *("open", "write", "fsync", "rename", "open", "fsync")]


def test_an_existing_segment_is_never_created_again(path: Path) -> None:
    SegmentLog.create(path, START).close()
    with pytest.raises(FileExistsError):
        SegmentLog.create(path, START)


@pytest.mark.parametrize("op", ["mkdir", "open", "write", "fsync", "rename"])
def test_a_segment_the_disk_refuses_does_not_exist(path: Path, op: str) -> None:
    disk = Disk()
    disk.fail(op, errno.ENOSPC)
    with pytest.raises(RewriteFailed, match=r"No space left on device \(ENOSPC\)") as caught:
        SegmentLog.create(path, START, files=disk)
    assert "free space" in (caught.value.next_step or "")
    assert not path.exists()


# -- append ---------------------------------------------------------------------------------------


def test_records_and_newlines_go_out_in_one_write(path: Path) -> None:
    disk = Disk()
    log = SegmentLog.create(path, START, files=disk)
    disk.done.clear()
    assert log.append(*RUN) == 1
    assert log.append(said("hi")) == 3
    assert disk.done == ["write", "write"]
    assert path.read_bytes() == lines_of(START, *RUN, said("hi"))
    log.close()


@pytest.mark.parametrize("room", [0, 1, 50, len(lines_of(*RUN)) - 1])
def test_a_full_disk_leaves_whole_records_only_and_says_so(path: Path, room: int) -> None:
    disk = Disk()
    log = SegmentLog.create(path, START, files=disk)
    disk.leave_room(room)
    with pytest.raises(AppendFailed, match="ENOSPC") as caught:
        log.append(*RUN)
    assert caught.value.file == path
    assert caught.value.details["file"] == str(path)
    assert "free space" in (caught.value.next_step or "")
    assert path.read_bytes() == lines_of(START)
    assert log.head_entries == 1

    disk.mend()
    assert log.append(*RUN) == 1
    log.close()
    again, restored = SegmentLog.open(path)
    assert restored.state == fold([START, *RUN])
    again.close()


def test_a_log_that_cannot_be_rolled_back_refuses_everything(path: Path) -> None:
    disk = Disk()
    log = SegmentLog.create(path, START, files=disk)
    disk.leave_room(30)
    disk.fail("ftruncate", errno.EIO)
    with pytest.raises(LogBroken, match="taking it back failed"):
        log.append(*RUN)
    disk.mend()
    disk.done.clear()
    for attempt in (lambda: log.append(said("x")), lambda: cut(log, 1)):
        with pytest.raises(LogBroken):
            attempt()
    assert log.broken is not None
    assert disk.done == []
    log.close()

    again, restored = SegmentLog.open(path)
    assert (restored.state, restored.notes) == (fold([START]), ())
    again.close()


def test_what_json_cannot_hold_is_not_written(path: Path) -> None:
    log = SegmentLog.create(path, START)
    with pytest.raises(AppendFailed, match="surrogates"):
        log.append(said("fine"), said("\ud800"))
    assert path.read_bytes() == lines_of(START)
    log.close()


def test_a_file_that_grew_by_another_hand_is_left_alone(path: Path) -> None:
    log = SegmentLog.create(path, START)
    log.append(*RUN)
    assert not log.grew_by_other_hand()
    with path.open("ab") as other:
        other.write(lines_of(said("from elsewhere")))
    content = path.read_bytes()
    assert log.grew_by_other_hand()
    for attempt in (lambda: log.append(said("x")), lambda: cut(log, 1)):
        with pytest.raises(LogBroken, match="another process"):
            attempt()
    assert path.read_bytes() == content
    log.close()


def test_a_file_that_was_replaced_or_removed_is_another_hand_too(path: Path) -> None:
    log = SegmentLog.create(path, START)
    (copy := path.with_suffix(".copy")).write_bytes(path.read_bytes())
    copy.rename(path)
    assert log.grew_by_other_hand()
    path.unlink()
    assert log.grew_by_other_hand()
    log.close()


# -- cut ------------------------------------------------------------------------------------------


def test_a_cut_keeps_the_first_records_byte_for_byte(path: Path) -> None:
    SegmentLog.create(path, START).close()
    # A field that this version does not know, in an order it would not write.
    strange = b'{"ts":2,"kind":"turn_end","mood":"good","turn_count":1'
    line = encode_line(said("x"))
    with path.open("ab") as newer:
        newer.write(b'%b,"crc":"%08x"}\n' % (strange, zlib.crc32(strange)))
        newer.write(line * 2)
    kept = path.read_bytes()[: -len(line)]
    log, _ = SegmentLog.open(path)
    cut(log, 3)
    assert path.read_bytes() == kept
    assert log.append(said("y")) == 3
    assert path.read_bytes() == kept + lines_of(said("y"))
    assert not log.grew_by_other_hand()
    log.close()


def test_a_rolled_back_run_restores_as_if_it_had_never_been(path: Path) -> None:
    log = SegmentLog.create(path, START)
    log.append(*RUN, said("hi"), ended(RunResult.FINISHED))
    head, before = log.head_entries, path.read_bytes()
    log.append(invoked("r2"), asked("no, wait"))
    log.append(told("notification", "n", "n1"))
    cut(log, head)
    log.close()
    assert path.read_bytes() == before
    again, restored = SegmentLog.open(path)
    assert restored.state == fold([START, *RUN, said("hi"), ended(RunResult.FINISHED)])
    again.close()


def test_whoever_reads_while_a_log_is_cut_keeps_the_old_one_whole(path: Path) -> None:
    log = SegmentLog.create(path, START)
    log.append(*RUN)
    with path.open("rb") as reader:
        cut(log, 1)
        assert reader.read() == lines_of(START, *RUN)
    log.close()


def test_a_cut_is_a_new_file_synced_and_renamed_before_its_folder_is_synced(path: Path) -> None:
    disk = Disk()
    log = SegmentLog.create(path, START, files=disk)
    log.append(*RUN)
    disk.done.clear()
    cut(log, 2)
    assert disk.done == ["open", "write", "fsync", "rename", "open", "fsync"]
    log.close()


@pytest.mark.parametrize("op", ["open", "write", "fsync", "rename"])
def test_a_cut_that_fails_leaves_the_old_log_in_use(path: Path, op: str) -> None:
    disk = Disk()
    log = SegmentLog.create(path, START, files=disk)
    log.append(*RUN)
    disk.fail(op, errno.ENOSPC)
    with pytest.raises(RewriteFailed, match="ENOSPC"):
        cut(log, 1)
    disk.mend()
    assert log.append(said("still here")) == 3
    assert path.read_bytes() == lines_of(START, *RUN, said("still here"))
    assert list(path.parent.iterdir()) == [path]
    log.close()


@pytest.mark.parametrize("kept", [-1, 0, 4])
def test_a_cut_keeps_at_least_the_first_record_and_invents_none(path: Path, kept: int) -> None:
    log = SegmentLog.create(path, START)
    log.append(*RUN)
    with pytest.raises(ValueError, match="cannot keep"):
        cut(log, kept)
    log.close()


# -- death ----------------------------------------------------------------------------------------


def test_a_kill_at_any_moment_leaves_a_log_that_is_before_or_after_the_step(
    tmp_path: Path,
) -> None:
    """Kill at every operation of a life of creating, appending and cutting, one life for each."""
    number = 0
    while True:
        path = tmp_path / str(number) / "seg.jsonl"
        disk = Disk(dies_at=number)
        allowed: list[bytes | None] = [None]
        finished = False
        log = None
        with death(disk):
            allowed.append(lines_of(START))
            log = SegmentLog.create(path, START, files=disk)
            content = lines_of(START)
            for entry in (*RUN, called("c1"), answered("c1")):
                allowed = [content, content + lines_of(entry)]
                log.append(entry)
                content = allowed[1] or b""
            allowed = [content, lines_of(START, RUN[0])]
            cut(log, 2)
            allowed = [lines_of(START, RUN[0]), lines_of(START, RUN[0], said("x"))]
            log.append(said("x"))
            log.close()
            finished = True
        if log is not None:
            log._thread.close()  # a process takes its threads along
        if not path.exists():
            assert None in allowed
        else:
            log, restored = SegmentLog.open(path)
            assert path.read_bytes() in allowed
            assert restored.notes == ()
            log.append(said("and on"))
            log.close()
        if finished:
            assert number > 15  # every step was on the way of some death
            return
        number += 1


def test_a_kill_while_a_torn_tail_is_moved_aside_loses_nothing(tmp_path: Path) -> None:
    good, torn = lines_of(START, *RUN), bytes(40) + b"\n" + lines_of(said("on its way"))
    for number in range(20):
        path = tmp_path / str(number) / "seg.jsonl"
        path.parent.mkdir()
        path.write_bytes(good + torn)
        disk = Disk(dies_at=number)
        with death(disk):
            SegmentLog.open(path, files=disk)[0].close()
        log, restored = SegmentLog.open(path)
        assert restored.state == fold([START, *RUN])
        assert torn in {aside.read_bytes() for aside in path.parent.glob("seg.torn-*")}
        log.close()
        if len(disk.done) < number:
            return
    raise AssertionError("the repair never came to its end")


def test_a_killed_process_runs_no_cleanup() -> None:
    with pytest.raises(Killed):
        Disk(dies_at=0).mkdir(Path("never"))


# -- reading --------------------------------------------------------------------------------------


def test_entries_are_read_by_position(path: Path) -> None:
    log = SegmentLog.create(path, START)
    texts = [said(str(n)) for n in range(10)]
    log.append(*texts)
    assert everything(log) == plain((START, *texts))
    assert plain(log.read(3, 2)) == plain((texts[2], texts[3]))
    assert plain(log.read(9, 50)) == plain((texts[8], texts[9]))
    assert log.read(11, 5) == log.read(3, 0) == ()
    log.close()


def test_the_tail_is_bounded_by_count_and_by_bytes(path: Path) -> None:
    log = SegmentLog.create(path, START)
    texts = [said(str(n)) for n in range(10)]
    log.append(*texts)
    one = len(encode_line(texts[0]))
    assert log.tail(200, 1 << 20) == (0, log.read(0, 11))
    assert log.tail(3, 1 << 20) == (8, log.read(8, 3))
    assert log.tail(200, 2 * one) == (9, log.read(9, 2))
    assert log.tail(200, 2 * one - 1) == (10, log.read(10, 1))
    assert log.tail(2, 1 << 20, before=5) == (3, log.read(3, 2))
    assert log.tail(2, 1 << 20, before=0) == (0, ())
    assert log.tail(2, 1 << 20, before=99) == (9, log.read(9, 2))
    log.close()


def test_an_entry_over_the_limit_is_still_read_so_that_a_reader_gets_on(path: Path) -> None:
    log = SegmentLog.create(path, START)
    log.append(said("x" * 1000), said("y"))
    assert log.tail(5, 10, before=2) == (1, log.read(1, 1))
    assert len(log.read(1, 5, max_bytes=10)) == 1
    assert len(log.read(0, 5, max_bytes=len(lines_of(START)))) == 1
    log.close()


def test_reading_what_rotted_since_it_was_written_is_an_error(path: Path) -> None:
    log = SegmentLog.create(path, START)
    log.append(*RUN)
    with path.open("r+b") as file:
        file.seek(log.size - 30)
        file.write(b"#")
    with pytest.raises(LogDamaged) as caught:
        log.read(0, 5)
    assert (caught.value.line, caught.value.offset) == (3, len(lines_of(START, RUN[0])))
    log.close()


def test_a_closed_log_takes_nothing(path: Path) -> None:
    log = SegmentLog.create(path, START)
    log.close()
    log.close()
    with pytest.raises(LogBroken, match="closed"):
        log.append(Extension(ts=1, domain="d", payload={}))
