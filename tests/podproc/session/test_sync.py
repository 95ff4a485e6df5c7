"""Durability off the event loop: one fdatasync for many, and none after one has failed."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from threading import Event

import pytest

from podproc.session.log import SegmentLog
from protocol.session.problems import LogBroken
from tests.podproc.session.disk import START, Disk, lines_of, said


class SlowDisk(Disk):
    """A disk whose fdatasync lasts until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = Event()
        self.released = Event()

    def fdatasync(self, fd: int) -> None:
        self.begun.set()
        assert self.released.wait(10)
        super().fdatasync(fd)

    async def wait_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, 10)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "seg.jsonl"


def test_a_record_is_durable_when_sync_returns_and_once_is_enough(path: Path) -> None:
    disk = Disk()
    log = SegmentLog.create(path, START, files=disk)

    async def scenario() -> None:
        await log.sync()
        assert disk.counts["fdatasync"] == 0
        log.append(said("x"))
        await log.sync()
        await log.sync()
        assert disk.counts["fdatasync"] == 1

    asyncio.run(scenario())
    log.close()


def test_what_an_earlier_process_wrote_is_not_taken_for_durable(path: Path) -> None:
    SegmentLog.create(path, START).close()
    disk = Disk()
    log, _ = SegmentLog.open(path, files=disk)
    disk.done.clear()
    asyncio.run(log.sync())
    name = ["open", "fsync"]  # whoever renamed the file was perhaps killed before it did this
    assert disk.done == ["dup", "fdatasync", *name]
    log.append(said("x"))
    asyncio.run(log.sync())
    assert disk.done == ["dup", "fdatasync", *name, "write", "dup", "fdatasync"]
    log.close()


def test_a_hundred_callers_share_one_fdatasync(path: Path) -> None:
    disk = Disk()
    log = SegmentLog.create(path, START, files=disk)

    async def commit(number: int) -> None:
        log.append(said(str(number)))
        await log.sync()

    async def scenario() -> None:
        await asyncio.gather(*map(commit, range(100)))

    asyncio.run(scenario())
    assert log.head_entries == 101
    assert disk.counts["fdatasync"] <= 2
    log.close()


def test_the_loop_turns_and_appends_while_the_disk_is_slow(path: Path) -> None:
    disk = SlowDisk()
    log = SegmentLog.create(path, START, files=disk)

    async def scenario() -> None:
        log.append(said("one"))
        first = asyncio.create_task(log.sync())
        await disk.wait_begun()
        log.append(said("two"))
        second = asyncio.create_task(log.sync())
        await asyncio.sleep(0)
        assert not first.done()
        assert path.read_bytes() == lines_of(START, said("one"), said("two"))
        disk.released.set()
        await asyncio.gather(first, second)
        # The record that came too late for the first fdatasync has had one of its own.
        assert disk.counts["fdatasync"] == 2

    asyncio.run(scenario())
    log.close()


def test_a_caller_that_gives_up_does_not_stop_the_others(path: Path) -> None:
    disk = SlowDisk()
    log = SegmentLog.create(path, START, files=disk)

    async def scenario() -> None:
        log.append(said("x"))
        impatient, patient = (asyncio.create_task(log.sync()) for _ in range(2))
        await disk.wait_begun()
        impatient.cancel()
        await asyncio.sleep(0)
        disk.released.set()
        await patient
        assert impatient.cancelled()
        assert disk.counts["fdatasync"] == 1

    asyncio.run(scenario())
    log.close()


def test_a_failed_fdatasync_is_final(path: Path) -> None:
    disk = Disk()
    log = SegmentLog.create(path, START, files=disk)

    async def scenario() -> None:
        log.append(said("x"))
        disk.fail("fdatasync", errno.EIO)
        results = await asyncio.gather(*(log.sync() for _ in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [LogBroken] * 3
        disk.mend()
        with pytest.raises(LogBroken, match=r"fdatasync failed: .*EIO") as caught:
            await log.sync()
        assert caught.value.file == path
        assert "podsup restart" in (caught.value.next_step or "")
        with pytest.raises(LogBroken):
            log.append(said("y"))
        with pytest.raises(LogBroken):
            await log.cut(1)
        assert disk.counts["fdatasync"] == 1

    asyncio.run(scenario())
    assert len(log.read(0, 5)) == 2  # what is known can still be shown
    log.close()


@pytest.mark.parametrize("fails", [False, True])
def test_a_cut_during_a_sync_waits_for_the_disk_and_makes_durable_what_it_keeps(
    path: Path, fails: bool
) -> None:
    disk = SlowDisk()
    log = SegmentLog.create(path, START, files=disk)

    async def scenario() -> None:
        log.append(said("kept"))
        log.append(said("cut"))
        waiting = asyncio.create_task(log.sync())
        await disk.wait_begun()
        cutting = asyncio.create_task(log.cut(2))
        if fails:
            disk.fail("fdatasync", errno.EIO)
        disk.released.set()
        if fails:  # final: the file it would be renamed over is given up
            for task in (waiting, cutting):
                with pytest.raises(LogBroken):
                    await task
            return
        await waiting
        await cutting
        await log.sync()
        assert disk.counts["fdatasync"] == 1
        log.append(said("on"))

    asyncio.run(scenario())
    kept = (START, said("kept"), said("cut")) if fails else (START, said("kept"), said("on"))
    assert path.read_bytes() == lines_of(*kept)
    assert list(path.parent.iterdir()) == [path]
    log.close()


def test_what_is_appended_while_a_cut_is_copied_goes_with_the_rest(path: Path) -> None:
    log = SegmentLog.create(path, START)

    async def scenario() -> None:
        log.append(said("a"), said("b"))
        cutting = asyncio.create_task(log.cut(2))
        await asyncio.sleep(0)
        log.append(said("c"))
        await cutting
        assert log.append(said("d")) == 2

    asyncio.run(scenario())
    assert path.read_bytes() == lines_of(START, said("a"), said("d"))
    log.close()


def test_a_log_closed_during_a_sync_waits_for_the_disk(path: Path) -> None:
    disk = SlowDisk()
    log = SegmentLog.create(path, START, files=disk)

    async def scenario() -> None:
        log.append(said("x"))
        waiting = asyncio.create_task(log.sync())
        await disk.wait_begun()
        disk.released.set()
        log.close()
        await waiting

    asyncio.run(scenario())
    assert disk.counts["fdatasync"] == 1
