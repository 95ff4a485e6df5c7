"""What of a process's memory may end up in a file, or in another process of the same user.

The supervisor, the fork server and the pods hold keys in memory. A core file would put them into
the working directory of a pod, where its commands may read them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource

_PR_SET_DUMPABLE = 4


def leave_no_core() -> None:
    """Have this process, and all it starts, leave no core file when it crashes.

    The filter is for a kernel that pipes cores to a program: that one ignores the limit.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError), open("/proc/self/coredump_filter", "w") as file:
        file.write("0")


def hide_memory() -> None:
    """Close this process to others of its user: memory, descriptors, environment; raises OSError.

    It lasts until the process runs a program, and a forked child inherits it.
    """
    _set_dumpable(0)


def show_memory() -> None:
    """Undo `hide_memory` for a forked child, whose user looks at it; raises OSError."""
    _set_dumpable(1)


def _set_dumpable(value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl(PR_SET_DUMPABLE): {os.strerror(error)}")
