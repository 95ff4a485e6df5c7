"""What the fold says is still owed upward: ends that name a report, until a mark names it too."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podproc.session.continuing import Continuation, first_entries
from protocol.base import Wire
from protocol.entries import Extension, RunCompleted, RunErrored, SegmentRef
from protocol.session.replay import REPORTED, Replayed, fold
from protocol.status import RunResult
from tests.podproc.session.disk import START, asked, invoked


def finished(report: str | None) -> RunCompleted:
    return RunCompleted(ts=9, result=RunResult.FINISHED, report=report)


def failed(report: str | None) -> RunErrored:
    return RunErrored(ts=9, code="provider_error", message="away", report=report)


def taken(report: str) -> Extension:
    return Extension(ts=9, domain=REPORTED, payload={"report": report})


def owed(*entries: Wire) -> list[str | None]:
    return [end.report for end in fold([START, invoked(), asked("hi"), *entries]).owed]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], []),
        ([finished(None)], []),
        ([failed(None)], []),
        ([finished("a")], ["a"]),
        ([failed("a")], ["a"]),
        ([finished("a"), taken("a")], []),
        ([finished("a"), taken("b")], ["a"]),
        ([finished("a"), invoked(), failed("b")], ["a", "b"]),
        ([finished("a"), invoked(), failed("b"), taken("a")], ["b"]),
        ([finished("a"), invoked(), taken("a")], []),
        ([finished("a"), taken("a"), taken("a")], []),
    ],
)
def test_an_end_is_owed_until_its_mark(entries: list[Wire], expected: list[str]) -> None:
    assert owed(*entries) == expected


def test_a_mark_is_nothing_that_a_feature_keeps() -> None:
    assert fold([START, invoked(), finished("a"), taken("a")]).extensions == ()


def go_on(state: Replayed) -> Replayed:
    """Return the session in a segment that continues this one."""
    here = SegmentRef(segment_id="s1", at_turn_index=0, at_entry=3)
    of = Continuation(state=state, source=here, is_compacted=True, history=(), system_prompt=None)
    start, more = first_entries(of, ts=10, config={})
    return fold([start, *more])


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=12))
def test_a_new_segment_owes_what_the_one_before_did_and_marks_count_in_both(
    steps: list[tuple[str, bool]],
) -> None:
    entries: list[Wire] = [START]
    for name, is_mark in steps:
        entries += [taken(name)] if is_mark else [invoked(), finished(name)]
    state = fold(entries)
    assert go_on(state).owed == state.owed
    for name in "abc":
        assert fold([taken(name)], go_on(state)).owed == fold([taken(name)], state).owed
