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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from protocol.entries import AssistantItem, Message
from protocol.session.line import BadLine
from protocol.session.reading import decode_record
from protocol.session.store import SessionStore

MOST_BYTES = 48 * 1024
"""How much text one reading gives; the rest comes with the next."""

PLACES = 256

BETWEEN = "\n\n"
"""What stands between two texts."""


@dataclass(frozen=True, slots=True)
class Place:
    """Behind a line of a segment: its offset, and the line itself."""

    segment_id: str
    offset: int = 0
    line: bytes = b""


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far one session was read: the places, and the rest of a text that was too long."""

    session_id: str
    places: tuple[Place, ...] = ()
    rest: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """New text, in order; `more`: there is more. `cursor`: where to go on, once it was shown."""

    texts: tuple[str, ...]
    more: bool = False
    cursor: Cursor = field(default=Cursor(""), compare=False)


class Sessions(Protocol):
    """Where sessions lie."""

    def path(self, session_id: str, segment_id: str) -> Path: ...

    def segments(self, session_id: str) -> tuple[str, ...]: ...


class PodOutputs:
    """How far this pod has read each of its children, for as long as it lives.

    `most` is how many bytes of text one reading gives; the rest comes with the next.
    """

    def __init__(self, data_dir: Path, *, most: int = MOST_BYTES) -> None:
        self._store: Sessions = SessionStore(data_dir)
        self._cursors: dict[str, Cursor] = {}
        self._most = most

    def read(self, pod: str, session_id: str) -> Said:
        """Return what the pod has said since what was kept; blocks, raises OSError."""
        cursor = self._cursors.get(pod)
        if cursor is None or cursor.session_id != session_id:
            cursor = Cursor(session_id)
        return self._read_on(self._set_back(cursor))

    def keep(self, pod: str, said: Said) -> None:
        """Go on from here the next time: what was read was shown."""
        self._cursors[pod] = said.cursor

    def _read_on(self, cursor: Cursor) -> Said:
        places = deque(cursor.places, maxlen=PLACES)
        shown = _Page(self._most)
        if cursor.rest and (rest := shown.add(cursor.rest)):
            return Said(tuple(shown.parts), True, replace(cursor, rest=rest))
        for place, text in self._lines(cursor):
            if text is not None and shown.parts and not shown.holds(text):
                at = Cursor(cursor.session_id, tuple(places))
                return Said(tuple(shown.parts), True, at)
            _move(places, place, marks=text is not None)
            if text is not None and (rest := shown.add(text)):
                at = Cursor(cursor.session_id, tuple(places), rest)
                return Said(tuple(shown.parts), True, at)
        return Said(tuple(shown.parts), False, Cursor(cursor.session_id, tuple(places)))

    def _set_back(self, cursor: Cursor) -> Cursor:
        """Return the latest place that still holds; a cut before it takes the rest along."""
        places = list(cursor.places)
        while places and not self._holds(cursor, places[-1]):
            places.pop()
        kept = tuple(places)
        return cursor if kept == cursor.places else Cursor(cursor.session_id, kept)

    def _holds(self, cursor: Cursor, place: Place) -> bool:
        path = self._store.path(cursor.session_id, place.segment_id)
        try:
            with path.open("rb") as file:
                file.seek(place.offset - len(place.line))
                return file.read(len(place.line)) == place.line
        except FileNotFoundError:
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


class _Page:
    """Texts up to a number of bytes, with what stands between them."""

    def __init__(self, most: int) -> None:
        self._room = most
        self.parts: list[str] = []

    def holds(self, text: str) -> bool:
        """Say whether a whole text has room."""
        return len(text.encode()) <= self._room

    def add(self, text: str) -> str:
        """Add as much of a text as has room; return the rest."""
        data = text.encode()
        kept = data[: max(self._room, 0)].decode(errors="ignore") or text[:1]
        self.parts.append(kept)
        self._room -= len(kept.encode()) + len(BETWEEN)
        return text[len(kept) :]


def _move(places: deque[Place], place: Place, *, marks: bool) -> None:
    """Go on to a place; the one before is kept only where a text had ended."""
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
