"""What a child has said since it was last read: its session, followed from where we were.

The session is read where it lies, since it outlives the pod that wrote it. A place in it is a
segment, an offset, and the line before it. The line is what keeps the place honest: where it is
another one by now, the log was cut (a rewind, a run taken back) and has grown again, and the place
is set back to an earlier one that still holds. So a cut can show a text twice and can hide none;
a new segment (after a compaction) is read after the rest of the one before.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from podproc.session.line import BadLine
from podproc.session.reading import decode_record
from podproc.session.store import SessionStore
from protocol.entries import AssistantItem, Message

MOST_BYTES = 48 * 1024
"""How much text one reading gives; the rest comes with the next."""

PLACES = 256


@dataclass(frozen=True, slots=True)
class Place:
    """Behind a line of a segment: its offset, and the line itself."""

    segment_id: str
    offset: int = 0
    line: bytes = b""


@dataclass(slots=True)
class Cursor:
    """How far one session was read, and the places before."""

    session_id: str
    places: deque[Place] = field(default_factory=lambda: deque(maxlen=PLACES))


@dataclass(frozen=True, slots=True)
class Said:
    """New text, in order; `more`: there is more of it."""

    texts: tuple[str, ...]
    more: bool = False


class Sessions(Protocol):
    """Where sessions lie."""

    def path(self, session_id: str, segment_id: str) -> Path: ...

    def segments(self, session_id: str) -> tuple[str, ...]: ...


class PodOutputs:
    """How far this pod has read each of its children, for as long as it lives. Blocking."""

    def __init__(self, data_dir: Path) -> None:
        self._store: Sessions = SessionStore(data_dir)
        self._cursors: dict[str, Cursor] = {}

    def read(self, pod: str, session_id: str) -> Said:
        """Return what the pod has said since the last reading; raises OSError."""
        cursor = self._cursors.get(pod)
        if cursor is None or cursor.session_id != session_id:
            cursor = self._cursors[pod] = Cursor(session_id)
        self._set_back(cursor)
        texts: list[str] = []
        size = 0
        for place, text in self._lines(cursor):
            if text is not None:
                if size and size + len(text.encode()) > MOST_BYTES:
                    return Said(tuple(texts), more=True)
                size += len(text.encode())
                texts.append(text)
            _move(cursor, place, marks=text is not None)
        return Said(tuple(texts))

    def _set_back(self, cursor: Cursor) -> None:
        while cursor.places and not self._holds(cursor, cursor.places[-1]):
            cursor.places.pop()

    def _holds(self, cursor: Cursor, place: Place) -> bool:
        path = self._store.path(cursor.session_id, place.segment_id)
        try:
            with path.open("rb") as file:
                file.seek(place.offset - len(place.line))
                return file.read(len(place.line)) == place.line
        except OSError:
            return False

    def _lines(self, cursor: Cursor) -> Iterator[tuple[Place, str | None]]:
        """Yield each whole line that was not read, as the place behind it, and its text if any."""
        at = cursor.places[-1] if cursor.places else None
        for segment in self._store.segments(cursor.session_id):
            if at is not None and segment < at.segment_id:
                continue
            offset = at.offset if at is not None and segment == at.segment_id else 0
            with self._store.path(cursor.session_id, segment).open("rb") as file:
                file.seek(offset, os.SEEK_SET)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    offset += len(line)
                    yield Place(segment, offset, line), _text_of(line)


def _move(cursor: Cursor, place: Place, *, marks: bool) -> None:
    """Go on to a place; the one before is kept only where a text had ended."""
    places = cursor.places
    if places and not marks and places[-1].segment_id == place.segment_id and len(places) > 1:
        places[-1] = place
    else:
        places.append(place)


def _text_of(line: bytes) -> str | None:
    if b'"assistant_item"' not in line:
        return None
    try:
        entry = decode_record(line)
    except BadLine:
        return None
    match entry:
        case AssistantItem(item=Message(role="assistant", content=text)) if text:
            return text
    return None
