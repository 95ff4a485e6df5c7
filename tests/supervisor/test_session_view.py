"""What a session amounts to, its rows as lines, and the pace of a play-back."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from protocol.entries import (
    AssistantItem,
    Carried,
    Entry,
    Extension,
    LlmUsage,
    PausedTurnAbandoned,
    SegmentRef,
    SegmentStart,
    ToolCall,
    TurnEnd,
    UnknownEntry,
    Usage,
)
from protocol.session.lineage import MissingSegment, Row
from protocol.session.reading import BadRecord
from protocol.status import RunResult
from supervisor.cli.session import play
from supervisor.session_view import (
    LONGEST_S,
    Beat,
    Drawing,
    Summary,
    header_lines,
    plain_row,
    summarize,
    timeline,
)
from tests.podproc.session.disk import START, answered, asked, called, ended, invoked, said, told

BAD = BadRecord(3, 120, "its checksum is wrong")
RUN: tuple[Entry, ...] = (START, invoked("r1"), asked("hello"))


def rows_of(*entries: Entry | BadRecord | MissingSegment, repeats: int = 0) -> list[Row]:
    return [
        Row("s1", index, entry, is_repeat=1 <= index <= repeats)
        for index, entry in enumerate(entries)
    ]


def at(ts: int, entry: Entry) -> Entry:
    return entry.model_copy(update={"ts": ts})


# -- what it amounts to


@pytest.mark.parametrize(
    ("more", "is_live", "state"),
    [
        ([said("a"), ended(RunResult.FINISHED)], False, "idle"),
        ([said("a")], False, "interrupted"),
        ([said("a")], True, "running"),
        ([ended(RunResult.PAUSED)], False, "paused"),
        ([called("c1"), ended(RunResult.PAUSED)], False, "paused"),
        ([ended(RunResult.PAUSED), PausedTurnAbandoned(ts=1)], False, "idle"),
        ([called("c1"), ended(RunResult.CANCELLED)], True, "interrupted"),
        ([START.model_copy(update={"schema_": 9})], False, "unknown"),
    ],
)
def test_the_state_of_a_session_is_read_from_its_log(
    more: Sequence[Entry], is_live: bool, state: str
) -> None:
    assert summarize(rows_of(*RUN, *more), is_live=is_live).state == state


def test_a_summary_counts_what_is_shown_and_adds_up_what_was_used() -> None:
    used = LlmUsage(ts=1, history_len=1, input_tokens=10, output_tokens=2, cost_usd=0.5)
    first = rows_of(MissingSegment("there is no such file"))
    rest = rows_of(
        START.model_copy(
            update={
                "forked_from": SegmentRef(segment_id="s0", at_turn_index=1),
                "carried": Carried(turn_count=1, usage=Usage(input_tokens=5), entries=1),
            }
        ),
        invoked("r1"),
        asked("hello"),
        used,
        BAD,
        TurnEnd(ts=1, turn_count=2),
        repeats=1,
    )
    about = summarize([*first, *rest], is_live=False)
    assert about == Summary(
        entries=4,
        bad=1,
        missing=1,
        inputs=1,
        turns=2,
        usage=Usage(input_tokens=15, output_tokens=2, cost_usd=0.5),
        state="interrupted",
    )
    assert header_lines("alice", "S", ["s0", "s1"], about) == [
        "alice: interrupted",
        "  session    S",
        "  segment    s1, after 1 earlier",
        "  entries    4, 1 damaged line, 1 missing segment",
        "  turns      2, for 1 input",
        "  used       15 in, 2 out, cost $0.5000",
    ]


# -- rows as lines


def test_a_history_looks_as_it_does_attached_and_its_troubles_are_marked() -> None:
    repaired = {"line": 4, "offset": 9, "cause": "3 NUL bytes", "moved_to": "s1.torn-1"}
    drawing = Drawing()
    lines = [
        line.text
        for row in rows_of(
            MissingSegment("there is no such file"),
            START.model_copy(
                update={"history": (ToolCall(call_id="c0", name="grep", arguments="{}"),)}
            ),
            answered("c0"),
            asked("hello"),
            BAD,
            called("c1"),
            answered("c1"),
            Extension(ts=1, domain="fsck", payload=repaired),
            Extension(ts=1, domain="tasks", payload={}),
            told("notification", "psst"),
            said("a\x1b[2Jb"),
        )
        for line in drawing.draw(row)
    ]
    assert lines == [
        "✗ missing: segment s1: there is no such file",
        "→ grep",
        "← grep: read 3 lines",
        "> hello",
        "✗ damaged: line 3, byte 120 of segment s1: its checksum is wrong",
        "→ read",
        "← read: read 3 lines",
        "── line 4 was damaged (3 NUL bytes) and is moved to s1.torn-1",
        "» notification: psst",
        "a␛[2Jb",
    ]


def test_only_the_first_segment_shows_the_history_it_begins_with() -> None:
    began = SegmentStart(ts=1, session_id="s", history=(said("before").item,))
    later = began.model_copy(update={"forked_from": SegmentRef(segment_id="s0", at_turn_index=1)})
    drawing = Drawing()
    lines = [line.text for row in rows_of(began, later) for line in drawing.draw(row)]
    assert lines == ["before", "── goes on in a new segment"]


def test_a_row_as_plain_data_says_where_it_stands_and_what_it_is() -> None:
    entry, bad, missing = map(plain_row, rows_of(asked("x"), BAD, MissingSegment("gone")))
    assert entry["entry"]["kind"] == "user_input"
    assert bad == {
        "segment_id": "s1",
        "index": 1,
        "bad": {"line": 3, "offset": 120, "cause": "its checksum is wrong"},
    }
    assert missing == {"segment_id": "s1", "index": 2, "missing": "gone"}


# -- playing back


def pauses(speed: float, *times: int) -> list[float]:
    told_at = rows_of(*(at(ts, said("a")) for ts in times))
    return [beat.wait_s for beat in timeline(told_at, speed=speed)]


@pytest.mark.parametrize(
    ("speed", "expected"),
    [
        (1.0, [0.0, 0.5, 0.0, 0.0, LONGEST_S]),
        (2.0, [0.0, 0.25, 0.0, 0.0, LONGEST_S]),
        (0.25, [0.0, 2.0, 0.0, 0.0, LONGEST_S]),
        (100_000.0, [0.0, 0.000005, 0.0, 0.0, 0.036]),
        (0.0, [0.0] * 5),
        (float("inf"), [0.0] * 5),
        (1e-320, [0.0, LONGEST_S, 0.0, 0.0, LONGEST_S]),
    ],
)
def test_pauses_are_as_they_were_scaled_and_cut_and_a_clock_that_went_back_costs_none(
    speed: float, expected: list[float]
) -> None:
    assert pauses(speed, 10_000, 10_500, 9_000, 10_500, 3_610_500) == pytest.approx(expected)


def test_what_has_no_time_is_put_without_a_pause() -> None:
    newer = UnknownEntry.from_wire({"kind": "dream"})
    waits = timeline(rows_of(at(5000, said("a")), BAD, newer, at(5100, said("b"))), speed=1)
    assert [beat.wait_s for beat in waits] == pytest.approx([0, 0, 0, 0.1])


@pytest.mark.parametrize(("until", "last"), [(1, 3), (2, 5), (9, 6), (None, 6)])
def test_a_play_back_ends_with_what_followed_the_input_asked_for(
    until: int | None, last: int
) -> None:
    told_at = rows_of(
        START, asked("one"), said("a"), invoked("r2"), asked("two"), said("b"), asked("three")
    )
    played = [beat.row.index for beat in timeline(told_at, speed=0, until=until)]
    assert played[-1] == last


def test_each_row_is_put_after_its_pause_and_nothing_is_slept_where_there_is_none() -> None:
    done: list[object] = []
    first, second, third = rows_of(said("a"), said("b"), said("c"))
    beats = [Beat(0.0, first), Beat(0.5, second), Beat(0.0, third)]
    play(beats, done.append, lambda seconds: done.append(seconds))
    assert done == [first, 0.5, second, third]


def test_a_result_is_named_by_the_call_that_was_drawn() -> None:
    drawing = Drawing()
    call = AssistantItem(ts=1, item=ToolCall(call_id="x", name="Edit", arguments="{}"))
    drawing.draw(rows_of(call)[0])
    assert drawing.draw(rows_of(answered("x"))[0])[0].text == "← Edit: read 3 lines"
