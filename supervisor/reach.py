"""Whether a supervisor is there to be asked, and fresh ids to ask with."""

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path

from protocol.errors import Unreachable
from protocol.ids import uuid7


def new_id() -> str:
    """A fresh request id."""
    return uuid7(time.time_ns() // 1_000_000, os.urandom(10))


def is_listening(path: Path) -> bool:
    """Whether a process accepts connections there; a socket file alone says nothing."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError as error:
            return error.errno == errno.EAGAIN
    return True


def no_supervisor(fleet: str) -> Unreachable:
    """The error of a fleet whose supervisor does not run."""
    return Unreachable(
        f"the supervisor of fleet {fleet} does not run",
        next_step="podsup start; or podsup down, to end what an earlier one has left",
        fleet=fleet,
        supervisor=True,
    )
