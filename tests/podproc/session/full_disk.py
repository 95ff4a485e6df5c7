"""A file system of 1 MiB that really fills up, in a mount namespace of its own.

    unshare --map-root-user --mount python -m tests.podproc.session.full_disk FOLDER

mounts it on the folder and raises AssertionError where something is not as it should be; with its
process the mount is gone. Its last line says how much was written.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from podproc.notifications import Arrived, Inbox
from podproc.session.log import SegmentLog
from protocol.entries import Entry, SystemItem
from protocol.errors import Internal, PodsupError
from protocol.session.problems import AppendFailed, RewriteFailed
from protocol.session.replay import fold
from tests.podproc.session.disk import START, lines_of, said


def main(folder: Path) -> None:
    """Fill the disk with a log, make room, and go on."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    (filler := folder / "filler").write_bytes(bytes(600_000))
    path = folder / "sessions" / "s1" / "seg.jsonl"
    log = SegmentLog.create(path, START)
    inbox = Inbox(folder / "pods" / "alice" / "inbox.jsonl", logged=())
    written: list[Entry] = [START]
    while (failure := append(log, written)) is None:
        pass
    assert isinstance(failure, AppendFailed)
    full(failure, path)
    assert path.read_bytes() == lines_of(*written), "half a record is left"
    told = False
    for number in range(100):
        try:
            inbox.store(message(number), run=0)
        except Internal as error:
            full(error, folder / "pods" / "alice" / "inbox.jsonl")
            told = True
            break
    assert told, "the inbox never filled"
    stored = [one.id for one in inbox.take()]
    assert log.is_usable
    try:
        asyncio.run(log.cut(len(written) - 1))
    except RewriteFailed as error:
        full(error, path)
    else:
        raise AssertionError("there was room for a second log")
    assert not path.with_name("seg.jsonl.new").exists(), "what was copied takes room"

    filler.unlink()
    assert append(log, written) is None
    asyncio.run(log.sync())
    inbox.store(message(1000), run=0)
    asyncio.run(log.cut(len(written) - 1))
    log.close()
    inbox.close()
    again, restored = SegmentLog.open(path)
    again.close()
    assert (restored.state, restored.notes) == (fold(written[:-1]), ())
    inbox = Inbox(folder / "pods" / "alice" / "inbox.jsonl", logged=())
    assert [one.id for one in inbox.take()] == [*stored, "m1000"]
    inbox.close()
    print(f"{len(written)} records and {len(stored)} messages before it was full")


def append(log: SegmentLog, written: list[Entry]) -> PodsupError | None:
    """Write a record of about two pages; a full file system takes a part of it."""
    entry = said("x" * 9000)
    try:
        log.append(entry)
    except PodsupError as error:
        return error
    written.append(entry)
    return None


def message(number: int) -> Arrived:
    """Return a message that fits no page's rest."""
    item = SystemItem(kind="notification", body="x" * 3000)
    return Arrived(ts=1, id=f"m{number}", item=item, wakes=False, request=f"m{number}")


def full(error: PodsupError, path: Path) -> None:
    """Hold that an error names the file and the cause."""
    assert str(path) in str(error), error
    assert "No space left on device" in str(error) or "bytes were taken (ENOSPC)" in str(error)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
