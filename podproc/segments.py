"""Which segment of its session a pod writes to, and how the session goes on in another one.

    named by the record, or the newest there is ─► opened, or made with the first run
    to go on in a new one:  claim it ─► make it, durable ─► it is the active one

The claim comes first, so at no moment two pods can hold one segment. A crash between claim and file
leaves a record that names nothing; the newest segment there is goes on then. New ids are higher
than all before them, whatever the clock says.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from podproc.session.continuing import Continuation, first_entries
from podproc.session.files import Files, OsFiles
from podproc.session.log import Restored, SegmentLog
from protocol import entries as en
from protocol.errors import PodsupError
from protocol.ids import time_of, uuid7
from protocol.session.store import SessionStore

_OS_FILES = OsFiles()


@dataclass(frozen=True, slots=True)
class Position:
    """Where a segment of a session is, or will be."""

    session_id: str
    segment_id: str


async def _claim_nothing(session_id: str, segment_id: str) -> None:
    """Stand in where nobody else could write to the session."""


class Segments:
    """The segments of one session. `claim` asks the supervisor; raises PodsupError."""

    def __init__(
        self,
        store: SessionStore,
        position: Position,
        *,
        wall_ms: Callable[[], int],
        claim: Callable[[str, str], Awaitable[None]] = _claim_nothing,
        files: Files = _OS_FILES,
    ) -> None:
        self.store = store
        self.session_id = position.session_id
        self._named = position.segment_id
        self._wall_ms = wall_ms
        self._claim = claim
        self._files = files

    def open(self) -> tuple[SegmentLog, Restored] | None:
        """Open the active segment; None where the session has none yet.

        Raises LogDamaged, RewriteFailed, OSError.
        """
        active = self.store.active(self.session_id, self._named)
        if active is None:
            return None
        return SegmentLog.open(self.store.path(self.session_id, active), files=self._files)

    def create(self, first: en.SegmentStart) -> SegmentLog:
        """Make the first segment of the session; raises RewriteFailed."""
        path = self.store.path(self.session_id, self._named)
        return SegmentLog.create(path, first, files=self._files)

    async def go_on(
        self, of: Callable[[], Continuation], config: dict[str, Any], *, leaving: str
    ) -> tuple[SegmentLog, tuple[en.Entry, ...]]:
        """Make the segment in which the session goes on; return it and what it begins with.

        `of` is asked when the claim is granted, right before the file is made: what was logged
        meanwhile is carried. `leaving` is the segment that the pod writes to now. Raises
        PodsupError with nothing changed, but for a claim on it that could not be had back.
        """
        segment_id = self._next_id()
        path = self.store.path(self.session_id, segment_id)
        await self._claim(self.session_id, segment_id)
        try:
            start, more = first_entries(of(), ts=self._wall_ms(), config=config)
            log = SegmentLog.create(path, start, *more, files=self._files)
        except PodsupError:
            await self._claim(self.session_id, leaving)
            raise
        return log, (start, *more)

    def _next_id(self) -> str:
        newest = self.store.segments(self.session_id)[-1:]
        now = max([self._wall_ms(), *(time_of(one) + 1 for one in newest)])
        return uuid7(now, os.urandom(10))
