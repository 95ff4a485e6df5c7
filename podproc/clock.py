"""The wall clock of a pod, and the ids that are made of it."""

from __future__ import annotations

import os
import time

from protocol.ids import uuid7


def wall_ms() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000


def new_id() -> str:
    """A fresh UUIDv7."""
    return uuid7(wall_ms(), os.urandom(10))
