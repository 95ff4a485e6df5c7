"""Damaged session logs: what is found, what a repair moves, what a pod can go on from."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podproc.session.log import SegmentLog
from protocol.base import Wire
from protocol.entries import (
    Entry,
    Extension,
    LlmUsage,
    SegmentStart,
    ToolCall,
    ToolResult,
    ToolResultEntry,
    TurnEnd,
)
from protocol.errors import Conflict, Internal
from protocol.session.line import decode_line, encode_line
from protocol.session.reading import decode_record, scan
from protocol.status import RunResult
from supervisor.session_fsck import (
    RESULT_LOST,
    Condition,
    Repaired,
    aside_files,
    carry_out,
    examine,
    plan,
    prepare,
)
from tests.podproc.session.disk import (
    START,
    answered,
    asked,
    called,
    ended,
    invoked,
    lines_of,
    said,
    told,
)

PATH = Path("seg.jsonl")
ASIDE = "seg.torn-1"
USAGE, TURN = LlmUsage(ts=1, history_len=1), TurnEnd(ts=1, turn_count=1)
NULS = bytes(8) + b"\n"
RUN: tuple[Entry, ...] = (START, invoked("r1"), asked("hello"))
END = ended(RunResult.FINISHED)
NEXT: tuple[Entry, ...] = (invoked("r2"), asked("more"), said("yes"), USAGE, TURN, END)
_SAMPLE: tuple[Entry, ...] = (
    *RUN,
    called("c1"),
    called("c2"),
    USAGE,
    answered("c2"),
    answered("c1"),
    TURN,
    said("done"),
    USAGE,
    TURN,
    END,
    invoked("r2"),
    told("notification", "psst", "n1"),
    asked("more"),
    called("c3"),
    USAGE,
    answered("c3"),
    TURN,
    said("yes"),
    END,
)
WHOLE: tuple[Entry, ...] = tuple(
    entry.model_copy(update={"ts": 100 + number}) for number, entry in enumerate(_SAMPLE)
)
"""Two runs; no two lines of it are the same."""


def mended(data: bytes) -> tuple[list[Entry], bytes]:
    """Return the entries that stay, proven to be what a pod opens, and the bytes that go."""
    made = plan(PATH, data, session_id="s1", aside=ASIDE)
    assert made is not None
    assert scan(PATH, made.kept).torn is None
    return [decode_record(line) for line in made.kept.splitlines(keepends=True)], made.moved


def kinds(entries: Sequence[Entry]) -> list[str]:
    return [entry.kind for entry in entries]


def mark(entry: Entry) -> dict[str, object]:
    assert isinstance(entry, Extension)
    assert entry.domain == "fsck"
    return entry.payload


def unpaired(entries: Sequence[Entry]) -> list[str]:
    """Return what a provider would refuse: results out of place, calls passed over."""
    troubles: list[str] = []
    waiting: list[str] = []
    for entry in entries:
        match entry.to_wire():
            case {"kind": "assistant_item", "item": {"kind": "tool_call", "call_id": call_id}}:
                waiting.append(call_id)
            case {"kind": "tool_result", "item": {"call_id": call_id}}:
                if call_id in waiting:
                    waiting.remove(call_id)
                else:
                    troubles.append(f"result of {call_id}")
            case {"kind": "user_input" | "system_item"}:
                troubles += [f"call {call_id}" for call_id in waiting]
                waiting.clear()
    return troubles


# -- what is found


@pytest.mark.parametrize(
    ("data", "condition", "entries", "where"),
    [
        (lines_of(*WHOLE), Condition.OK, len(WHOLE), None),
        (lines_of(*RUN) + b'{"kind"', Condition.UNTERMINATED, 3, None),
        (lines_of(*RUN) + NULS + lines_of(said("x")), Condition.TORN, 4, 4),
        (lines_of(*RUN) + NULS + lines_of(*NEXT), Condition.DAMAGED, 9, 4),
        (lines_of(*RUN) + NULS + b"tail", Condition.TORN, 3, 4),
        (NULS + lines_of(*RUN), Condition.DAMAGED, 3, 1),
        (lines_of(invoked("r1"), asked("x")), Condition.DAMAGED, 2, 1),
        (b"", Condition.DAMAGED, 0, 1),
        (b"\0" * 100, Condition.DAMAGED, 0, 1),
        (lines_of(START.model_copy(update={"schema_": 2}), *NEXT), Condition.NEWER, 7, 1),
    ],
)
def test_each_condition_is_found_with_its_first_bad_line(
    data: bytes, condition: Condition, entries: int, where: int | None
) -> None:
    seen = examine(PATH, data)
    assert (seen.condition, seen.entries, seen.size) == (condition, entries, len(data))
    assert (seen.problem.line if seen.problem else None) == where
    assert seen.is_clean == (condition is Condition.OK)


def test_the_problem_names_byte_and_cause_and_the_bad_lines_are_counted() -> None:
    good = lines_of(*RUN)
    seen = examine(PATH, good + NULS + lines_of(said("x")) + b"\xff\n" + lines_of(*NEXT) + b"tail")
    assert seen.problem is not None
    assert (seen.problem.offset, seen.problem.cause) == (len(good), "8 NUL bytes")
    assert (seen.bad, seen.tail) == (2, 4)


def test_a_record_that_no_pod_takes_is_damage_though_its_checksum_is_right() -> None:
    strange = encode_line(TURN).replace(b'"turn_end"', b'"run_completed"')
    body = strange[: strange.rindex(b',"crc"')]
    line = b'%b,"crc":"%08x"}\n' % (body, zlib.crc32(body))
    assert decode_line(line)["kind"] == "run_completed"
    seen = examine(PATH, lines_of(*RUN) + line + lines_of(*NEXT))
    assert seen.condition is Condition.DAMAGED
    assert seen.problem is not None
    assert seen.problem.line == 4
    entries, moved = mended(lines_of(*RUN) + line + lines_of(*NEXT))
    assert moved == line
    assert kinds(entries) == kinds((*RUN, Extension(ts=1, domain="fsck", payload={}), *NEXT))


# -- what stays and what goes


def test_nothing_is_done_to_what_is_well_or_of_a_newer_version() -> None:
    newer = lines_of(START.model_copy(update={"schema_": 2}), *NEXT) + NULS + lines_of(*NEXT)
    for data in (lines_of(*WHOLE), newer):
        assert plan(PATH, data, session_id="s1", aside=ASIDE) is None


@pytest.mark.parametrize(
    "end",
    [b'{"kind":"assis', NULS, NULS + lines_of(said("on its way"), USAGE), NULS + b"unterminated"],
)
def test_an_end_that_was_never_promised_goes_as_a_whole(end: bytes) -> None:
    made = plan(PATH, lines_of(*RUN) + end, session_id="s1", aside=ASIDE)
    assert made is not None
    assert (made.kept, made.moved) == (lines_of(*RUN), end)


def test_a_mark_stands_in_the_place_of_a_bad_line_and_says_where_it_is() -> None:
    good = lines_of(*RUN, said("a"))
    entries, moved = mended(good + NULS + lines_of(END, *NEXT))
    assert moved == NULS
    assert entries[:4] == [*RUN, said("a")]
    assert mark(entries[4]) == {
        "line": 5,
        "offset": len(good),
        "cause": "8 NUL bytes",
        "moved_to": ASIDE,
    }
    assert entries[5:] == [END, *NEXT]


def test_a_call_whose_result_is_damaged_is_answered_in_the_place_of_the_line() -> None:
    data = lines_of(*RUN, called("c1"), USAGE) + NULS + lines_of(TURN, said("b"), END, *NEXT)
    entries, _ = mended(data)
    lost = entries[5]
    assert isinstance(lost, ToolResultEntry)
    assert lost.item == ToolResult(call_id="c1", summary=RESULT_LOST, is_error=True)
    assert len(entries) == len((*RUN, called("c1"), USAGE, TURN, said("b"), END, *NEXT)) + 1


def test_the_result_of_a_damaged_call_goes_with_it() -> None:
    data = lines_of(*RUN) + NULS + lines_of(USAGE, answered("c1"), TURN, said("b"), END)
    entries, moved = mended(data)
    assert moved == NULS + lines_of(answered("c1"))
    assert mark(entries[5])["cause"] == "the result of a call that is damaged"
    assert unpaired(entries) == []


def test_two_results_in_one_bad_line_are_both_answered_before_the_talk_goes_on() -> None:
    merged = lines_of(answered("c1"))[:-1] + lines_of(answered("c2"))
    data = lines_of(*RUN, called("c1"), called("c2"), USAGE) + merged + lines_of(TURN, *NEXT)
    entries, moved = mended(data)
    assert moved == merged
    assert unpaired(entries) == []
    results = [entry.item for entry in entries if isinstance(entry, ToolResultEntry)]
    assert [(one.call_id, one.summary) for one in results] == [
        ("c1", RESULT_LOST),
        ("c2", RESULT_LOST),
    ]


def test_a_call_that_is_open_at_the_end_is_left_for_the_pod_to_close() -> None:
    data = lines_of(START) + NULS + lines_of(*RUN[1:], called("c1"), USAGE)
    entries, _ = mended(data)
    assert "tool_result" not in kinds(entries)
    assert [call.call_id for call in scan(PATH, lines_of(*entries)).state.unanswered] == ["c1"]


def test_a_call_of_the_history_a_segment_begins_with_keeps_its_result() -> None:
    first = START.model_copy(
        update={"history": (ToolCall(call_id="c0", name="read", arguments="{}"),)}
    )
    data = lines_of(first, answered("c0"), *RUN[1:]) + NULS + lines_of(*NEXT)
    entries, moved = mended(data)
    assert moved == NULS
    assert entries[1] == answered("c0")


@pytest.mark.parametrize("first", [NULS, b"", b"{}\n"])
def test_without_its_first_record_a_segment_begins_anew_with_what_is_left(first: bytes) -> None:
    entries, moved = mended(first + lines_of(*WHOLE[1:]))
    assert moved == first
    assert entries[0] == SegmentStart(ts=WHOLE[1].ts, session_id="s1")
    assert entries[1:] == [*WHOLE[1:]]


@pytest.mark.parametrize("data", [b"", b"\0" * 50])
def test_a_log_without_a_record_becomes_the_beginning_of_a_session(data: bytes) -> None:
    entries, moved = mended(data)
    assert (kinds(entries), moved) == (["segment_start"], data)


@given(
    places=st.sets(st.integers(1, len(WHOLE) - 1), max_size=5),
    joined=st.sets(st.integers(1, len(WHOLE) - 2), max_size=2),
)
def test_whatever_lines_are_bad_every_good_one_stays_or_is_moved_and_calls_stay_paired(
    places: set[int], joined: set[int]
) -> None:
    lines = [encode_line(entry) for entry in WHOLE]
    for place in places:
        lines[place] = b"\0" * 5 + lines[place][5:]
    for place in joined:
        lines[place] = lines[place][:-1] + b" "  # the newline is gone: two lines become one
    data = b"".join(lines)
    made = plan(PATH, data, session_id="s1", aside=ASIDE)
    if made is None:
        assert not places
        assert not joined
        return
    kept = made.kept.splitlines(keepends=True)
    moved = made.moved.splitlines(keepends=True)
    entries = [decode_record(line) for line in kept]
    assert scan(PATH, made.kept).torn is None
    assert unpaired(entries) == []
    before = data.splitlines(keepends=True)
    assert [line for line in before if line in moved or line in kept] == before
    assert [line for line in before if line not in kept] == moved
    stays = [line for line in before if line not in moved]
    assert [line for line in kept if line in set(stays)] == stays
    if examine(PATH, data).condition is Condition.DAMAGED:
        # Marks and results stand in the places of bad lines; more only where lines were joined.
        assert len(before) <= len(kept) <= len(before) + 2 * len(joined)


@given(data=st.binary(max_size=200), at=st.integers(0, 2000))
def test_whatever_bytes_are_in_it_a_repaired_log_can_be_opened(data: bytes, at: int) -> None:
    whole = lines_of(*WHOLE)
    made = plan(PATH, whole[:at] + data + whole[at:], session_id="s1", aside=ASIDE)
    if made is not None:
        assert examine(PATH, made.kept).is_clean
        assert plan(PATH, made.kept, session_id="s1", aside=ASIDE) is None


# -- carrying it out


def repair(path: Path) -> Repaired | None:
    ready = prepare(path, session_id="s1")
    return None if ready is None else carry_out(ready)


def test_a_repaired_log_is_opened_by_the_writer_and_takes_the_next_record(tmp_path: Path) -> None:
    path = tmp_path / "seg.jsonl"
    path.write_bytes(lines_of(*RUN, called("c1"), USAGE) + NULS + lines_of(TURN, END, *NEXT))
    done = repair(path)
    assert done is not None
    assert (done.moved_to, done.moved, done.lines, done.closed) == ("seg.torn-1", len(NULS), 1, 1)
    assert (tmp_path / "seg.torn-1").read_bytes() == NULS
    log, restored = SegmentLog.open(path)
    assert log.append(said("next")) == len((*RUN, called("c1"), USAGE, NULS, TURN, END, *NEXT))
    assert restored.state.unanswered == ()
    log.close()
    assert repair(path) is None
    assert {one.name for one in tmp_path.iterdir()} == {"seg.jsonl", "seg.torn-1"}


def test_what_was_moved_before_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "seg.jsonl"
    (tmp_path / "seg.torn-9").write_bytes(b"old")
    (tmp_path / "seg.torn-x").write_bytes(b"not ours")
    for number in (10, 11):
        path.write_bytes(lines_of(*RUN) + b"%d" % number)
        assert repair(path) is not None
        assert (tmp_path / f"seg.torn-{number}").read_bytes() == b"%d" % number
    assert (tmp_path / "seg.torn-9").read_bytes() == b"old"
    assert [one.name for one in aside_files(path)] == ["seg.torn-9", "seg.torn-10", "seg.torn-11"]


def test_a_log_that_changed_since_it_was_looked_at_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "seg.jsonl"
    path.write_bytes(lines_of(*RUN) + NULS + lines_of(*NEXT))
    ready = prepare(path, session_id="s1")
    assert ready is not None
    data = lines_of(*RUN, said("by another hand")) + NULS + lines_of(*NEXT)
    path.write_bytes(data)
    with pytest.raises(Conflict, match="changed meanwhile"):
        carry_out(ready)
    assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_disk_that_is_full_leaves_the_log_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    path = tmp_path / "seg.jsonl"
    data = lines_of(*RUN) + NULS + lines_of(*NEXT)
    path.write_bytes(data)
    synced: list[int] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(fd)
        if len(synced) == 2 * fails_at - 1:  # a file and its folder are synced for each
            raise OSError(28, "No space left on device")
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(Internal, match="No space left"):
        repair(path)
    monkeypatch.undo()
    assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


def test_each_wire_entry_of_the_sample_is_good() -> None:
    sample: Sequence[Wire] = WHOLE
    assert unpaired(WHOLE) == []
    assert examine(PATH, lines_of(*sample)).is_clean
