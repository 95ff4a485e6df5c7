"""The life lock: proof of death for one incarnation, without a pid, a clock or a supervisor.

A life lock is a file that is flocked before the fork and handed to the pod with it. A flock belongs
to the open file description, which the pod then shares, and the kernel drops it when the last copy
of the descriptor is closed. Nobody closes the pod's copy but the kernel, at the pod's death, 2 ms
after a SIGKILL; a command that the pod starts does not inherit it. So *dead* means: the lock can be
taken.

    supervisor   take ── row reserved ── fork ── hello, or exit: close its own copy
    pod                                    └── holds it ────────────────────── dies
    anyone                                       is_free? no: alive            yes: release, remove

Take the lock *before* the row is written: a row whose lock is free is a dead one, for everybody, at
once.

LOCK_UN is never called: it would free the lock for all who share the description. A probe opens a
description of its own and asks for a *shared* lock, so that two probes do not take each other for a
holder.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from protocol.errors import Conflict


def take(path: Path) -> int:
    """Make the file, lock it, and return the descriptor, which no exec inherits.

    Close the descriptor to give it up. Raises Conflict when somebody holds it: it is alive then.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(
                fd
            ).st_nlink:  # else it was settled between the two calls: a lock on no name
                return fd
        except BlockingIOError:
            os.close(fd)
            raise Conflict(f"the life lock {path} is held", path=str(path)) from None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def is_free(path: Path) -> bool | None:
    """Say whether the holder is dead; None when there is no file, which proves nothing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(fd)


def note(path: Path, text: bytes) -> None:
    """Write into a lock's file what its holder claims; nothing where there is no file.

    Not synced: what a power failure takes, it takes with the holder. One line, in one write; what
    stands behind its end is of an earlier note.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        line = text + b"\n"
        os.pwrite(fd, line, 0)
        os.ftruncate(fd, len(line))
    finally:
        os.close(fd)


def noted(path: Path) -> bytes:
    """Return what was noted, empty where nothing was; raises FileNotFoundError."""
    return path.read_bytes().partition(b"\n")[0]


def remove(path: Path) -> None:
    """Forget a lock that is settled: its holder is dead and no row names it."""
    path.unlink(missing_ok=True)
