"""Reading a segment: strictly, to go on from it; leniently, to show it.

A segment on disk is a run of terminated lines and perhaps an unterminated tail. The tail was never
committed and is ignored. A terminated line that is not a record has one of two histories:

- Power was lost while records were on their way to the disk. Then the bad region is the end of what
  was written, or records follow it that were on their way too (pages reach the disk in any order).
  Nothing of it was ever promised to anyone: a *torn tail*, to be moved aside.
- What was safely there was damaged later. Something that was promised is gone: an error, for a
  person.

They are told apart by what follows. The writer syncs before a run is acknowledged, before tools run
and at a run's end, so these records, behind a bad region, say that it had been synced (the *durable
points*):

- `invoke`, `user_input`, `run_completed`, `run_errored`;
- a `tool_result` whose call does not stand before the region: the region swallowed the call, or the
  call stands behind it, and either was durable before the tool ran.

The first four are written just before the sync that makes them one. If power is lost within it, a
torn tail is taken for damage: in doubt a person is asked, and no promise is silently broken. The
first record is durable before anybody learns of the segment, so a bad first line is damage always.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Set
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from protocol.entries import Entry, decode_entry
from protocol.session.line import BadLine, decode_line
from protocol.session.problems import LogDamaged, in_words
from protocol.session.replay import EMPTY, BadEntry, Replayed, fold

_DURABLE_POINTS = frozenset({"invoke", "user_input", "run_completed", "run_errored"})


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A terminated line that is not a record; `line` counts from 1, `offset` is its first byte."""

    line: int
    offset: int
    cause: str


@dataclass(frozen=True, slots=True)
class Scanned:
    """What stands in a segment.

    `bounds[i]` to `bounds[i + 1]` are the bytes of entry `i`; the last bound is where good lines
    end. `torn` is the first bad line behind them, None if only an unterminated tail follows, or
    nothing.
    """

    state: Replayed
    bounds: array[int]
    torn: BadRecord | None


def scan(path: Path, data: bytes, since: Replayed = EMPTY) -> Scanned:
    """Read the bytes of a segment strictly, from `since` on; `path` is for the error.

    Raises LogDamaged with the first line that is bad and not part of a torn tail.
    """
    bounds = array("Q", [0])
    torn: BadRecord | None = None

    def good_lines() -> Iterator[dict[str, Any]]:
        nonlocal torn
        start = 0
        while end := data.find(b"\n", start) + 1:
            try:
                entry = decode_line(data[start:end])
            except BadLine as bad:
                torn = BadRecord(len(bounds), start, bad.cause)
                return
            bounds.append(end)
            start = end
            yield entry

    try:
        lines = good_lines()
        first = next(lines, None)
        if first is None or first.get("kind") != "segment_start":
            cause = torn.cause if torn else "the first record is not a segment_start"
            raise LogDamaged(path, line=1, offset=0, cause=cause)
        state = fold(lines, fold((first,), replace(since, head_entries=0)))
    except BadEntry as bad:
        where = bounds[bad.index]
        raise LogDamaged(path, line=bad.index + 1, offset=where, cause=bad.cause) from bad
    if torn:
        open_calls = {call.call_id for call in state.unanswered}
        if _holds_durable_point(data[torn.offset :], open_calls):
            raise LogDamaged(path, line=torn.line, offset=torn.offset, cause=torn.cause)
    return Scanned(state, bounds, torn)


def state_of_beginning(path: Path, entries: int) -> Replayed:
    """Return what a session was behind the first so many entries of a segment.

    Raises LogDamaged, OSError.
    """
    with path.open("rb") as file:
        return scan(path, b"".join(islice(file, entries))).state


def _holds_durable_point(region: bytes, open_calls: Set[str]) -> bool:
    for line in region.split(b"\n")[:-1]:
        try:
            entry = decode_line(line)
        except BadLine:
            continue
        match entry:
            case {"kind": str(kind)} if kind in _DURABLE_POINTS:
                return True
            case {"kind": "tool_result", "item": {"call_id": str(call)}} if call not in open_calls:
                return True
    return False


def decode_record(line: bytes) -> Entry:
    """Return the typed entry of a line; raises BadLine, for a malformed known kind too."""
    fields = decode_line(line)
    try:
        return decode_entry(fields)
    except ValidationError as error:
        raise BadLine(f"not a valid {fields.get('kind')}: {in_words(error)}") from None


def read_leniently(path: Path) -> Iterator[Entry | BadRecord]:
    """Yield what stands in a segment, a mark in the place of each bad line; raises OSError."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield decode_record(line)
            except BadLine as bad:
                yield BadRecord(number, offset, bad.cause)
            offset += len(line)
