"""Waiting on conditions, with a deadline. The one place in the tests that sleeps."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

INTERVAL_S = 0.01


def eventually(probe: Callable[[], T], what: str, timeout: float = 30) -> T:
    """Return the first truthy value of `probe`, asked every 10 ms for `timeout` seconds.

    A probe that raises has not succeeded yet. Raises AssertionError with `what` and the last value
    or error.
    """
    deadline = time.monotonic() + timeout
    last: object = None
    while True:
        is_last = time.monotonic() >= deadline
        try:
            if value := probe():
                return value
            last = value
        except Exception as error:
            last = error
        if is_last:
            raise AssertionError(f"not within {timeout} s: {what} (last: {last!r})")
        time.sleep(INTERVAL_S)


def wait_for_exit(pid: int, timeout: float = 30) -> None:
    """Return when the process is gone or a zombie; AssertionError after `timeout` seconds."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        assert poll.poll(timeout * 1000), f"process {pid} did not exit within {timeout} s"
    finally:
        os.close(handle)
