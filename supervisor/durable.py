"""Files that are whole or not there: the one way to replace one, and the one way to lock one.

A file is replaced by writing another one beside it, syncing that, and renaming it over the old.
Whoever opens the name sees the old version or the new one, never half of either, and so does the
next boot. `os.replace` needs no lock to be read safely; a *change* (read, decide, write) needs
`locked`.

The lock is a file of its own: a lock on the data file would be a lock on the version that the next
rename takes away.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from protocol import errors

POLL_S = 0.001
"""How often a waiter asks; at the library's 50 ms, eight contenders starve one another."""

PATIENCE_S = 10.0
"""Longest wait for what is held for milliseconds; longer means that its holder is stopped."""


@contextmanager
def locked(path: Path, *, timeout_s: float = PATIENCE_S) -> Iterator[None]:
    """Hold the lock file, mode 0600, for the body; the kernel frees it when a holder dies.

    Blocks: not for an event loop. Never fork in the body. Raises errors.Timeout when the lock is
    not to be had, after which nothing was done.
    """
    lock = FileLock(path, mode=0o600, poll_interval=POLL_S, fallback_to_soft=False)
    try:
        lock.acquire(timeout=timeout_s)
    except Timeout:
        raise errors.Timeout(
            f"{path} has been locked by another process for {timeout_s:g} s",
            next_step=f"find the process that holds it with `fuser {path}`: it may be stopped",
        ) from None
    try:
        yield
    finally:
        lock.release()


def write_atomically(path: Path, data: bytes, *, keep: Path | None = None) -> None:
    """Replace the file, mode 0600, durably; the previous version stays at `keep`, if that is given.

    One writer at a time: the caller's lock sees to it. Raises OSError, the old file untouched.
    """
    beside = path.with_name(f"{path.name}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    try:
        with open(os.open(beside, flags, 0o600), "wb", buffering=0) as file:
            write_all(file.fileno(), data)
            os.fsync(file.fileno())
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    if keep is not None and path.exists():
        keep.unlink(missing_ok=True)
        os.link(path, keep)
    os.replace(beside, path)
    sync_folder(path.parent)


def write_all(fd: int, data: bytes) -> None:
    """Write all of the data; raises OSError, for a full disk after some of it was written."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable: what was made, renamed or removed there."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
