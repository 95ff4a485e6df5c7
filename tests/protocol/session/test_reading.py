"""Opening what a crash, a full disk, a loss of power or bad hardware has left."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podproc.session.log import SegmentLog
from protocol.base import Wire
from protocol.entries import Entry, LlmUsage, RunErrored, TurnEnd, UnknownEntry
from protocol.session.line import encode_line
from protocol.session.problems import LogDamaged
from protocol.session.reading import BadRecord, read_leniently
from protocol.session.replay import apply, fold
from protocol.status import RunResult
from tests.podproc.session.disk import (
    START,
    answered,
    asked,
    called,
    ended,
    invoked,
    lines_of,
    plain,
    said,
    told,
)

RUN: tuple[Entry, ...] = (START, invoked("r1"), asked("hello"))
USAGE = LlmUsage(ts=1, history_len=1)
TURN = TurnEnd(ts=1, turn_count=1)
NULS = bytes(64) + b"\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "seg.jsonl"


def reopened(path: Path) -> tuple[list[dict[str, object]], tuple[str, ...]]:
    log, restored = SegmentLog.open(path)
    with_next = apply(restored.state, said("next"))
    log.append(said("next"))
    entries = log.read(0, log.head_entries)
    log.close()
    assert fold(entries) == with_next
    return plain(entries[:-1]), restored.notes


@pytest.mark.parametrize("tail", [b'{"kind":"assis', b"\0" * 100, "ü".encode()[:1], b""])
def test_an_unterminated_tail_is_cut_back_to_the_last_newline(path: Path, tail: bytes) -> None:
    path.write_bytes(lines_of(*RUN, called("c1")) + tail)
    assert reopened(path) == (plain((*RUN, called("c1"))), ())
    assert path.read_bytes() == lines_of(*RUN, called("c1"), said("next"))
    assert list(path.parent.iterdir()) == [path]


def test_a_record_without_its_newline_was_never_committed(path: Path) -> None:
    path.write_bytes(lines_of(*RUN, called("c1"))[:-1])
    assert reopened(path) == (plain(RUN), ())


@pytest.mark.parametrize(
    "behind",
    [
        [],
        [said("on its way"), USAGE, TURN],
        [called("c2"), told("notification", "n")],
        [answered("c1")],
    ],
)
def test_a_bad_region_with_no_durable_point_behind_it_is_moved_aside(
    path: Path, behind: list[Wire]
) -> None:
    good = (*RUN, called("c1"))
    torn = NULS + lines_of(*behind) + b"unterminated"
    path.write_bytes(lines_of(*good) + torn)
    entries, notes = reopened(path)
    assert entries == plain(good)
    assert path.with_name("seg.torn-1").read_bytes() == torn
    assert len(notes) == 1
    for word in (str(path), "line 5", f"byte {len(lines_of(*good))}", "64 NUL bytes", "seg.torn-1"):
        assert word in notes[0]


def test_torn_tails_are_numbered_and_never_overwritten(path: Path) -> None:
    for number in (1, 2):
        path.write_bytes(lines_of(*RUN) + b"%d\n" % number)
        reopened(path)
    for number in (1, 2):
        assert path.with_name(f"seg.torn-{number}").read_bytes() == b"%d\n" % number


@pytest.mark.parametrize(
    "behind",
    [
        [invoked("r2")],
        [said("x"), asked("more")],
        [said("x"), ended(RunResult.FINISHED)],
        [RunErrored(ts=1, code="internal", message="m")],
        [called("c2"), USAGE, answered("c2")],
        [answered("swallowed"), said("x")],
    ],
)
def test_a_bad_line_before_a_durable_point_is_an_error_with_file_line_and_offset(
    path: Path, behind: list[Wire]
) -> None:
    content = lines_of(*RUN, called("c1")) + NULS + lines_of(*behind)
    path.write_bytes(content)
    with pytest.raises(LogDamaged) as caught:
        SegmentLog.open(path)
    problem = caught.value
    offset = len(lines_of(*RUN, called("c1")))
    assert (problem.file, problem.line, problem.offset) == (path, 5, offset)
    assert problem.cause == "64 NUL bytes"
    for word in (str(path), "line 5", f"byte {offset}", "64 NUL bytes"):
        assert word in problem.message
    assert problem.next_step is not None
    assert "podsup session fsck" in problem.next_step
    assert problem.details == {
        "file": str(path),
        "cause": "64 NUL bytes",
        "line": 5,
        "offset": offset,
    }
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (lambda line: line.replace(b"hello", b"hallo"), "checksum is wrong"),
        (lambda line: line.replace(b"hello", b"he\xffo"), "not valid UTF-8"),
        (lambda line: line[:30] + b"\n", "not valid JSON"),
        (lambda line: b"\n", "empty line"),
    ],
)
def test_every_kind_of_damage_is_named(
    path: Path, damage: Callable[[bytes], bytes], cause: str
) -> None:
    lines = [encode_line(entry) for entry in (*RUN, said("hi"), ended(RunResult.FINISHED))]
    lines[2] = damage(lines[2])
    path.write_bytes(b"".join(lines))
    with pytest.raises(LogDamaged, match=f"line 3.*{cause}"):
        SegmentLog.open(path)


@pytest.mark.parametrize(
    "content", [b"", b"{", lines_of(START)[:-1], NULS, NULS + lines_of(said("x")), lines_of(TURN)]
)
def test_a_segment_without_its_first_record_is_an_error(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(LogDamaged, match="line 1, byte 0"):
        SegmentLog.open(path)


def test_a_malformed_record_with_a_right_checksum_is_an_error_that_names_it(path: Path) -> None:
    bad = UnknownEntry.from_wire({"kind": "turn_end", "ts": 1})
    path.write_bytes(lines_of(*RUN, bad))
    with pytest.raises(LogDamaged, match=r"line 4.*not a valid turn_end: turn_count") as caught:
        SegmentLog.open(path)
    assert caught.value.offset == len(lines_of(*RUN))


def test_a_display_marks_bad_lines_and_goes_on(path: Path) -> None:
    first = lines_of(*RUN)
    bad = UnknownEntry.from_wire({"kind": "turn_end", "ts": 1})
    path.write_bytes(first + NULS + lines_of(said("hi"), bad, said("ho")) + b"tail")
    *run, nuls, hi, shapeless, ho = read_leniently(path)
    assert run == list(RUN)
    assert nuls == BadRecord(4, len(first), "64 NUL bytes")
    assert (hi, ho) == (said("hi"), said("ho"))
    assert isinstance(shapeless, BadRecord)
    assert shapeless.line == 6
    assert shapeless.offset == len(first + NULS + lines_of(said("hi")))


def test_a_segment_goes_on_from_the_one_before(path: Path) -> None:
    before = fold([*RUN, TURN])
    path.write_bytes(lines_of(START, said("x")))
    log, restored = SegmentLog.open(path, since=before)
    log.close()
    assert restored.state == fold([START, said("x")], before)
    assert restored.state.request_ids == ("r1",)


histories = st.lists(
    st.one_of(
        st.builds(said, st.text(max_size=20)),
        st.builds(asked, st.text(max_size=20)),
        st.builds(called, st.sampled_from("ab")),
        st.builds(answered, st.sampled_from("ab")),
        st.builds(told, st.just("notification"), st.text(max_size=5)),
        st.just(invoked("r")),
        st.just(ended(RunResult.FINISHED)),
    ),
    max_size=8,
)


@given(history=histories, data=st.data())
def test_a_cut_at_any_byte_loses_at_most_the_unterminated_tail_and_invents_nothing(
    history: list[Entry], data: st.DataObject
) -> None:
    lines = [encode_line(entry) for entry in (START, *history)]
    whole = b"".join(lines)
    cut = data.draw(st.integers(0, len(whole)))
    kept = whole[: whole.rfind(b"\n", 0, cut) + 1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seg.jsonl"
        path.write_bytes(whole[:cut])
        if not kept:
            with pytest.raises(LogDamaged, match="line 1, byte 0"):
                SegmentLog.open(path)
            return
        log, restored = SegmentLog.open(path)
        count = kept.count(b"\n")
        assert path.read_bytes() == kept
        assert plain(log.read(0, 99)) == plain((START, *history)[:count])
        assert restored.state == fold((START, *history)[:count])
        assert restored.notes == ()
        log.append(said("on"))
        log.close()
        assert path.read_bytes() == kept + lines_of(said("on"))


@given(history=histories, data=st.data())
def test_a_changed_byte_is_found_and_nothing_of_it_is_thrown_away(
    history: list[Entry], data: st.DataObject
) -> None:
    whole = lines_of(START, *history)
    position = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != whole[position]))
    changed = whole[:position] + bytes([byte]) + whole[position + 1 :]
    bad_line = whole.count(b"\n", 0, position)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seg.jsonl"
        path.write_bytes(changed)
        problem: LogDamaged | None = None
        try:
            log, restored = SegmentLog.open(path)
            log.close()
        except LogDamaged as error:
            problem = error
        if problem:
            assert problem.line == bad_line + 1
            assert path.read_bytes() == changed
            return
        assert restored.state == fold((START, *history)[:bad_line])
        kept = path.read_bytes()
        if restored.notes:
            assert kept + path.with_name("seg.torn-1").read_bytes() == changed
        else:  # only a last newline can go without a trace of damage
            assert b"\n" not in changed[len(kept) :]
