"""The line of a session: which segments it runs through, and what stands along it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.base import Wire
from protocol.entries import Carried, Extension, SegmentRef, SegmentStart, UnknownEntry
from protocol.session.lineage import (
    LineLoops,
    MissingSegment,
    Part,
    line_of,
    part_of,
    raw_lines,
    rows,
)
from protocol.session.reading import BadRecord
from protocol.session.replay import fold
from protocol.session.store import SessionStore
from tests.podproc.session.disk import asked, invoked, lines_of, said

SESSION = "01a1f950-0000-7000-8000-000000000000"


def segment(number: int) -> str:
    return f"01a1f950-0000-7000-8000-{number:012x}"


FIRST, SECOND, THIRD = map(segment, (1, 2, 3))


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path)


def write(store: SessionStore, segment_id: str, *parts: bytes | Wire) -> bytes:
    path = store.path(SESSION, segment_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"".join(part if isinstance(part, bytes) else lines_of(part) for part in parts)
    path.write_bytes(data)
    return data


def start(
    after: str | None = None, at_entry: int | None = None, carried: int | None = None
) -> SegmentStart:
    ref = SegmentRef(segment_id=after, at_turn_index=0, at_entry=at_entry) if after else None
    said_before = Carried(entries=carried) if carried is not None else None
    return SegmentStart(ts=1, session_id=SESSION, forked_from=ref, carried=said_before)


def told(store: SessionStore, segment_id: str, *, repeats: bool = False) -> list[object]:
    """Return the rows of the line as text where they are said or asked, else as they are."""
    line = line_of(store, SESSION, segment_id)
    return [
        (row.segment_id, row.index, words(row.entry))
        for row in rows(store, SESSION, line, repeats=repeats)
    ]


def words(entry: object) -> object:
    if isinstance(entry, BadRecord | MissingSegment):
        return entry
    assert isinstance(entry, Wire)
    fields = entry.to_wire()
    if fields["kind"] == "assistant_item":
        return fields["item"]["content"]
    return fields["kind"]


def test_a_session_of_one_segment_is_that_segment(store: SessionStore) -> None:
    write(store, FIRST, start(), said("a"), b'{"kind":"assistant_item"')
    assert line_of(store, SESSION, FIRST) == [Part(FIRST, None, start())]
    assert told(store, FIRST) == [(FIRST, 0, "segment_start"), (FIRST, 1, "a")]


def test_an_earlier_segment_is_cut_where_the_next_one_goes_on(store: SessionStore) -> None:
    write(store, FIRST, start(), said("a"), said("b"), said("left"))
    write(store, SECOND, start(FIRST, at_entry=3), said("c"))
    write(store, THIRD, start(SECOND), said("d"))
    write(store, segment(4), start(FIRST, at_entry=1), said("a branch"))
    assert [(part.segment_id, part.stop) for part in line_of(store, SESSION, THIRD)] == [
        (FIRST, 3),
        (SECOND, None),
        (THIRD, None),
    ]
    assert [row for row in told(store, THIRD) if "segment_start" not in str(row)] == [
        (FIRST, 1, "a"),
        (FIRST, 2, "b"),
        (SECOND, 1, "c"),
        (THIRD, 1, "d"),
    ]


def test_what_a_segment_repeats_is_left_out_of_the_story_and_told_when_asked_for(
    store: SessionStore,
) -> None:
    state = Extension(ts=1, domain="tasks", payload={"open": 1})
    write(store, FIRST, start(), state, invoked("r1"), said("a"))
    write(store, SECOND, start(FIRST, carried=2), state, invoked("r1"), said("b"))
    line = line_of(store, SESSION, SECOND)
    assert [row.index for row in rows(store, SESSION, line)] == [0, 1, 2, 3, 0, 3]
    both = list(rows(store, SESSION, line, repeats=True))
    assert [row.is_repeat for row in both] == [False] * 5 + [True, True, False]
    assert [row for row in both if not row.is_repeat] == list(rows(store, SESSION, line))


def test_a_first_segment_repeats_nothing_whatever_it_says(store: SessionStore) -> None:
    write(store, FIRST, start(carried=3), said("a"), said("b"))
    assert len(told(store, FIRST)) == 3


def test_an_earlier_segment_that_is_gone_is_one_marked_row(store: SessionStore) -> None:
    write(store, SECOND, start(FIRST, at_entry=2), said("b"))
    assert told(store, SECOND) == [
        (FIRST, 0, MissingSegment("there is no such file")),
        (SECOND, 0, "segment_start"),
        (SECOND, 1, "b"),
    ]


@pytest.mark.parametrize("named", ["../../etc/passwd", "x", ""])
def test_a_reference_that_is_no_id_leads_nowhere(store: SessionStore, named: str) -> None:
    write(store, SECOND, start(FIRST), said("b"))
    ref = SegmentRef(segment_id=named, at_turn_index=0)
    write(store, SECOND, SegmentStart(ts=1, session_id=SESSION, compacted_from=ref))
    first, *rest = told(store, SECOND)
    assert first == (named, 0, MissingSegment(f"not a segment id: {named!r}"))
    assert rest == [(SECOND, 0, "segment_start")]


def test_the_line_begins_where_a_first_record_cannot_be_read(store: SessionStore) -> None:
    write(store, FIRST, start(), said("a"))
    write(store, SECOND, b"\0\0\0\n", said("b"))
    write(store, THIRD, start(SECOND), said("c"))
    assert [part.trouble for part in line_of(store, SESSION, THIRD)] == ["3 NUL bytes", None]
    assert told(store, THIRD) == [
        (SECOND, 0, BadRecord(1, 0, "3 NUL bytes")),
        (SECOND, 1, "b"),
        (THIRD, 0, "segment_start"),
        (THIRD, 1, "c"),
    ]


@pytest.mark.parametrize(
    ("data", "trouble"),
    [
        (b"", "it holds no record"),
        (b'{"kind":"segment_start"', "it holds no record"),
        (lines_of(said("a")), "the first record is not a segment_start"),
    ],
)
def test_a_segment_without_its_start_says_why(
    store: SessionStore, data: bytes, trouble: str
) -> None:
    write(store, FIRST, data)
    assert part_of(store, SESSION, FIRST) == Part(FIRST, trouble=trouble)


def test_a_segment_that_continues_itself_is_an_error_which_names_it(store: SessionStore) -> None:
    write(store, FIRST, start(THIRD))
    write(store, SECOND, start(FIRST))
    write(store, THIRD, start(SECOND))
    with pytest.raises(LineLoops) as caught:
        line_of(store, SESSION, THIRD)
    assert THIRD in caught.value.message
    write(store, FIRST, start(FIRST))
    with pytest.raises(LineLoops):
        line_of(store, SESSION, FIRST)


def test_a_bad_line_is_a_row_with_line_and_offset_and_keeps_the_numbers_behind_it(
    store: SessionStore,
) -> None:
    good = lines_of(start(), said("a"))
    write(store, FIRST, good, b"\xff\xfe\n", said("b"))
    _, _, bad, last = told(store, FIRST)
    cause = "not valid UTF-8: invalid start byte at byte 0 of the line"
    assert bad == (FIRST, 2, BadRecord(3, len(good), cause))
    assert last == (FIRST, 3, "b")


def test_raw_lines_are_those_on_disk_byte_for_byte(store: SessionStore) -> None:
    dream = UnknownEntry.from_wire({"kind": "dream", "ts": 5, "depth": 3})
    first = write(store, FIRST, start(), dream, b"\0bad\n", said("a"), said("left"))
    second = write(store, SECOND, start(FIRST, at_entry=4, carried=1), said("a"), said("b"))
    write(store, SECOND, second, b"unterminated")
    line = line_of(store, SESSION, SECOND)
    kept = first.splitlines(keepends=True)[:4] + second.splitlines(keepends=True)
    assert list(raw_lines(store, SESSION, line)) == kept
    gone = [Part(THIRD), Part("no id"), *line]
    assert list(raw_lines(store, SESSION, gone)) == kept


def test_rows_with_repeats_fold_into_the_state_of_the_active_segment(store: SessionStore) -> None:
    write(store, FIRST, start(), invoked("r1"), asked("a"), said("b"))
    write(store, SECOND, start(FIRST, carried=1), invoked("r2"), asked("c"))
    line = line_of(store, SESSION, SECOND)
    entries = [row.entry for row in rows(store, SESSION, line, repeats=True)]
    state = fold(entry for entry in entries if isinstance(entry, Wire))
    alone = fold(
        row.entry
        for row in rows(store, SESSION, [line[-1]], repeats=True)
        if isinstance(row.entry, Wire)
    )
    assert state == alone
    assert state.open_run is not None
    assert state.open_run.request_id == "r2"


@pytest.mark.parametrize(
    ("there", "named", "active"),
    [
        ([], FIRST, None),
        ([FIRST, THIRD], FIRST, FIRST),
        ([FIRST, SECOND], THIRD, SECOND),
    ],
)
def test_the_active_segment_is_the_one_named_or_else_the_newest(
    store: SessionStore, there: Sequence[str], named: str, active: str | None
) -> None:
    for segment_id in there:
        write(store, segment_id, start())
    assert store.active(SESSION, named) == active


@given(data=st.binary(max_size=60), cut=st.integers(0, 400))
def test_no_bytes_stop_the_reading_of_a_line(data: bytes, cut: int) -> None:
    with tempfile.TemporaryDirectory(prefix="ps") as folder:
        store = SessionStore(Path(folder))
        write(store, FIRST, (lines_of(start(), said("a")) + data)[cut:])
        write(store, SECOND, start(FIRST), data, b"\n", said("last"))
        assert told(store, SECOND)[-1] == (SECOND, 1 + data.count(b"\n") + 1, "last")
