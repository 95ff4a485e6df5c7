"""A second belt for changes of files: the thread that makes one can make no other.

The scope is judged in Python and the path is walked without following links; a mistake in either
would be a write where this pod may not write. So what changes a file runs in a thread of its own
that first gives up, by Landlock and for good, to change anything but what lies below the one folder
that was judged and opened. The thread ends with its work.

Why not the whole process: whatever a process has given up, what it starts has given up as well, and
a confined process may mount nothing; the pod's keeper has to. And a rule holds for a folder, not
for its name: a scope folder that a person removes and makes anew would be closed until a restart.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TypeVar

from podproc.confine import landlock

T = TypeVar("T")


def confined_to(folder: int, work: Callable[[], T]) -> T:
    """Do work that changes nothing but what is below an open folder; raises what the work raises.

    Where the kernel has no Landlock the work is done all the same. Raises OSError where it has, and
    refuses.
    """
    abi = _abi()
    if not abi:
        return work()
    outcome: list[T] = []
    failure: list[BaseException] = []

    def confined() -> None:
        try:
            landlock.change_only_beneath(folder, abi=abi)
            outcome.append(work())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=confined, name="confined")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


@functools.cache
def _abi() -> int:
    return landlock.abi()
