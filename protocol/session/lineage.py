"""The line of a session: its segments from the first to the active one, as one story.

A segment may say what it continues (`forked_from`, `compacted_from`), and a session is what stands
along that chain. Other segments of its folder are branches that were left, by a rewind for one:
they stay on disk and are not part of the line.

    first    0 ━━━━━━━━━━━━━━━ at_entry ─ ─ ─ ─     cut: its first `at_entry` entries belong to it
    second                     0 ━━┅┅┅━━━━━━━━━     ┅ repeats what stood before: `carried.entries`
    active                                    0 ━━┅┅━━━━━━━━━━━▶

Reading is lenient, since it is for showing: a bad line is a row that says so, a segment that is not
there is one row in its place, and where a first record cannot be read the line begins with that
segment, because nobody knows what it continued. Only a segment that continues itself is an error.

A row's `index` counts the terminated lines of its segment from 0. In a segment that a pod can open
it is the index of the entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from protocol.entries import Entry, SegmentStart
from protocol.errors import InvalidRequest
from protocol.session.line import BadLine
from protocol.session.problems import LogProblem
from protocol.session.reading import BadRecord, decode_record, read_leniently


class Segments(Protocol):
    """Where segments lie; `SessionStore` is one."""

    def path(self, session_id: str, segment_id: str) -> Path:
        """Return the file of a segment; raises InvalidRequest for what is not an id."""


class LineLoops(LogProblem):
    """A segment continues itself, perhaps by way of others: there is no first one."""

    def __init__(self, file: Path, segment_id: str) -> None:
        super().__init__(
            f"the session of {file} has no beginning",
            file=file,
            cause=f"segment {segment_id} continues itself",
            next_step="podsup session show POD --segment ID shows one segment alone",
        )


@dataclass(frozen=True, slots=True)
class Part:
    """One segment of a line, of which the first `stop` entries belong to it (None: all).

    `start` is its first record, None where that cannot be had; then `trouble` says why.
    """

    segment_id: str
    stop: int | None = None
    start: SegmentStart | None = None
    trouble: str | None = None

    @property
    def repeats(self) -> int:
        """How many entries behind the first one repeat what stood before the segment."""
        if self.start is None or self.start.continues is None or self.start.carried is None:
            return 0
        return self.start.carried.entries


@dataclass(frozen=True, slots=True)
class MissingSegment:
    """Stands in the place of a segment that is not there."""

    cause: str


Told: TypeAlias = Entry | BadRecord | MissingSegment


@dataclass(frozen=True, slots=True)
class Row:
    """What stands at one place of a line; `is_repeat` for an entry that stood before already."""

    segment_id: str
    index: int
    entry: Told
    is_repeat: bool = False


def line_of(store: Segments, session_id: str, segment_id: str) -> list[Part]:
    """Return the segments that lead to this one, oldest first, it last.

    Reads their first records only. Raises LineLoops, and OSError for a file that is there and
    cannot be read.
    """
    parts: list[Part] = []
    wanted, stop = segment_id, None
    while True:
        if any(part.segment_id == wanted for part in parts):
            raise LineLoops(store.path(session_id, wanted), wanted)
        part = part_of(store, session_id, wanted, stop)
        parts.append(part)
        before = part.start.continues if part.start else None
        if before is None:
            return parts[::-1]
        wanted, stop = before.segment_id, before.at_entry


def rows(
    store: Segments, session_id: str, line: Sequence[Part], *, repeats: bool = False
) -> Iterator[Row]:
    """Yield what stands along a line, oldest first; with `repeats` also what stands there twice.

    Raises OSError for a file that is there and cannot be read.
    """
    for part in line:
        try:
            entries = read_leniently(store.path(session_id, part.segment_id))
            for index, entry in enumerate(entries):
                if part.stop is not None and index >= part.stop:
                    break
                is_repeat = 1 <= index <= part.repeats
                if repeats or not is_repeat:
                    yield Row(part.segment_id, index, entry, is_repeat)
        except (FileNotFoundError, InvalidRequest):
            cause = part.trouble or "its file is gone"
            yield Row(part.segment_id, 0, MissingSegment(cause))


def raw_lines(store: Segments, session_id: str, line: Sequence[Part]) -> Iterator[bytes]:
    """Yield the committed lines along a line as they stand on disk, bad ones and repeats too."""
    for part in line:
        try:
            with store.path(session_id, part.segment_id).open("rb") as file:
                for index, data in enumerate(file):
                    if index == part.stop or not data.endswith(b"\n"):
                        break
                    yield data
        except (FileNotFoundError, InvalidRequest):
            continue


def part_of(store: Segments, session_id: str, segment_id: str, stop: int | None = None) -> Part:
    """Return one segment as a part of a line; reads its first record only."""
    try:
        with store.path(session_id, segment_id).open("rb") as file:
            line = file.readline()
    except FileNotFoundError:
        return Part(segment_id, stop, trouble="there is no such file")
    except InvalidRequest as error:
        return Part(segment_id, stop, trouble=error.message)
    if not line.endswith(b"\n"):
        return Part(segment_id, stop, trouble="it holds no record")
    try:
        first = decode_record(line)
    except BadLine as bad:
        return Part(segment_id, stop, trouble=bad.cause)
    if not isinstance(first, SegmentStart):
        return Part(segment_id, stop, trouble="the first record is not a segment_start")
    return Part(segment_id, stop, first)
