"""The pod's own log file, which is its stdout and stderr: rotation by rename, open, dup2.

No pipe and no reader stand between a pod and its log, so nobody can die or block on the way. The
pod looks at each beat and rotates when the file is over its size; between two looks the cap may be
passed. What can fail (the fresh file, a file that somebody removed) is tried before anything is
renamed, so a rotation that fails at every beat moves nothing and loses no older part.
"""

from __future__ import annotations

import os
import stat

from protocol.manifest import Logs


def rotate_output(logs: Logs) -> str | None:
    """Rotate stdout's file if it is a regular file over `logs.size` bytes.

    Return what to alert people of when it could not be done; output then goes where it went before.
    """
    try:
        status = os.fstat(1)
        if stat.S_ISREG(status.st_mode) and status.st_size > logs.size:
            _rotate(logs.keep)
    except OSError as error:
        return f"the pod's output file could not be rotated: {error}"
    return None


def _rotate(keep: int) -> None:
    if keep == 1:
        os.ftruncate(1, 0)
        return
    path = os.readlink("/proc/self/fd/1")
    os.stat(path)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    fresh = os.open(f"{path}.new", flags, 0o600)
    try:
        for number in range(keep - 2, 0, -1):  # the oldest part is written over
            if os.path.exists(f"{path}.{number}"):
                os.replace(f"{path}.{number}", f"{path}.{number + 1}")
        os.replace(path, f"{path}.1")
        os.replace(f"{path}.new", path)
        os.dup2(fresh, 1)
        os.dup2(fresh, 2)
    finally:
        os.close(fresh)
