"""Where sessions lie, in the one place that knows: `<data>/sessions/<session>/<segment>.jsonl`."""

from __future__ import annotations

import re
from pathlib import Path

from protocol.errors import InvalidRequest

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class SessionStore:
    """The sessions under one data folder. Makes nothing and opens nothing: `SegmentLog` does."""

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir / "sessions"

    def folder(self, session_id: str) -> Path:
        """Return the folder of a session; raises InvalidRequest for what is not an id."""
        return self._root / _checked("session", session_id)

    def path(self, session_id: str, segment_id: str) -> Path:
        """Return the file of a segment; raises InvalidRequest for what is not an id."""
        return self.folder(session_id) / f"{_checked('segment', segment_id)}.jsonl"

    def segments(self, session_id: str) -> tuple[str, ...]:
        """Return the ids of a session's segments, oldest first; none if there is no session."""
        files = self.folder(session_id).glob("*.jsonl")
        return tuple(sorted(file.stem for file in files if _ID.fullmatch(file.stem)))

    def active(self, session_id: str, named: str) -> str | None:
        """Return the segment in which a session goes on; None where it has none yet.

        It is the one that the pod's record names, and the newest where that is not there: a segment
        is claimed before it is made, and each is given a higher id than those before it.
        """
        there = self.segments(session_id)
        return named if named in there else (there[-1] if there else None)

    def sessions(self) -> tuple[str, ...]:
        """Return the ids of all sessions, oldest first."""
        folders = self._root.glob("*")
        return tuple(sorted(folder.name for folder in folders if _ID.fullmatch(folder.name)))


def _checked(what: str, text: str) -> str:
    if _ID.fullmatch(text) is None:
        raise InvalidRequest(f"not a {what} id: {text!r}")
    return text
