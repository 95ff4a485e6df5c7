"""The pod's own log file, which is its stdout and stderr: rotation by rename, open, dup2.

No pipe and no reader stand between a pod and its log, so nobody can die or block on the way. The
pod looks at each beat and rotates when the file is over its size; between two looks the cap may be
passed.
"""

from __future__ import annotations

import os
import stat

from protocol.manifest import Logs


def rotate_output(logs: Logs) -> bool:
    """Rotate stdout's file if it is a regular file over `logs.size` bytes; True when it did."""
    status = os.fstat(1)
    if not stat.S_ISREG(status.st_mode) or status.st_size <= logs.size:
        return False
    path = os.readlink("/proc/self/fd/1")
    if logs.keep == 1:
        os.ftruncate(1, 0)
        return True
    for number in range(logs.keep - 1, 0, -1):
        older = f"{path}.{number}"
        if os.path.exists(older):
            os.replace(older, f"{path}.{number + 1}") if number + 1 < logs.keep else os.unlink(
                older
            )
    os.replace(path, f"{path}.1")
    fresh = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.dup2(fresh, 1)
    os.dup2(fresh, 2)
    os.close(fresh)
    return True
