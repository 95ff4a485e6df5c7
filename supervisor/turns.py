"""First come, first served, for a lock that processes poll for.

Who polls has no place in a line. Of eight processes that always want a lock, the one that just gave
it back finds it free before the others look again, and somebody waits a hundred times too long. So
each takes a ticket: a file in `<lock>.queue/`, named by the clock that all processes share, and
flocked by its owner, so that a dead owner's ticket is seen to be nobody's. Only the oldest asks for
the lock; it is given up once the lock is had.

The line is a courtesy; the lock is what excludes. A process that is stopped while it is first
delays the others by `COURTESY_S` each, not for ever: then they ask without their turn.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from supervisor import life_lock
from supervisor.durable import POLL_S, locked

COURTESY_S = 0.25
"""Longest that a process lets the others go first."""


@contextmanager
def locked_in_turn(path: Path) -> Iterator[None]:
    """Hold the lock file for the body, like `durable.locked`, after those who came before."""
    queue = path.with_name(f"{path.name}.queue")
    queue.mkdir(mode=0o700, exist_ok=True)
    with ExitStack() as waiting:
        waiting.enter_context(_first_in_line(queue))
        with locked(path):
            waiting.close()
            yield


@contextmanager
def _first_in_line(queue: Path) -> Iterator[None]:
    ticket = f"{time.monotonic_ns():020}.{os.getpid()}.{threading.get_ident()}"
    fd = life_lock.take(queue / ticket)
    try:
        patience = time.monotonic() + COURTESY_S
        while (first := min(os.listdir(queue), default=ticket)) < ticket:
            if life_lock.is_free(queue / first):
                life_lock.remove(queue / first)
            elif time.monotonic() < patience:
                time.sleep(POLL_S)
            else:
                break
        yield
    finally:
        life_lock.remove(queue / ticket)
        os.close(fd)
