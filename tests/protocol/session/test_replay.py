"""The fold as tables: what each history means for what may happen next."""

from __future__ import annotations

from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.base import Wire
from protocol.entries import (
    ConfigChanged,
    Entry,
    Extension,
    LlmUsage,
    Message,
    PausedTurnAbandoned,
    RunErrored,
    SegmentRef,
    SegmentStart,
    ToolCall,
    ToolResult,
    TurnEnd,
    UnknownEntry,
    UnknownItem,
    UserInput,
)
from protocol.segments import FileRef, Text
from protocol.session.replay import EMPTY, BadEntry, Replayed, Submitted, apply, fold
from protocol.status import RunResult, Trigger
from tests.podproc.session.disk import START, answered, asked, called, ended, invoked, said, told

RUN: list[Wire] = [START, invoked("r1"), asked("hello")]
PAUSED = [*RUN, said("well"), ended(RunResult.PAUSED)]
DANGLING = [*RUN, called("c1"), called("c2"), answered("c2"), ended(RunResult.PAUSED)]
FAILED = RunErrored(ts=9, code="provider_error", message="away")
CRASHED = RunErrored(ts=9, code="interrupted", message="died", interrupted=True)
ABANDONED = PausedTurnAbandoned(ts=9)
RESUMED = invoked(trigger=Trigger.RESUME)
NOTE = told("interrupt", "You were interrupted.")


@pytest.mark.parametrize(
    ("entries", "open_run", "paused", "interrupted", "note_due"),
    [
        ([START], False, False, False, False),
        ([START, invoked()], True, False, True, False),
        (RUN, True, False, True, False),
        ([*RUN, called("c1")], True, False, True, False),
        ([*RUN, ended(RunResult.FINISHED)], False, False, False, False),
        ([*RUN, ended(RunResult.LIMIT_REACHED)], False, False, False, False),
        ([*RUN, ended(RunResult.CANCELLED)], False, False, False, True),
        ([*RUN, called("c1"), ended(RunResult.CANCELLED)], False, False, True, True),
        (PAUSED, False, True, False, True),
        ([*PAUSED, told("notification", "hey")], False, True, False, True),
        ([*PAUSED, NOTE], False, True, False, False),
        ([*PAUSED, RESUMED], True, False, True, False),
        ([*PAUSED, NOTE, ABANDONED], False, False, False, False),
        ([*PAUSED, NOTE, invoked("r2"), asked("next")], True, False, True, False),
        (DANGLING, False, True, True, True),
        ([*DANGLING, answered("c1")], False, True, False, True),
        ([*DANGLING, answered("c1"), RESUMED], True, False, True, False),
        ([*DANGLING, answered("c1"), NOTE, ABANDONED], False, False, False, False),
        ([*DANGLING, ABANDONED], False, False, True, False),
        ([*PAUSED, RESUMED, ended(RunResult.PAUSED)], False, True, False, True),
        ([*RUN, FAILED], False, False, False, True),
        ([*RUN, called("c1"), FAILED], False, False, True, True),
        ([*RUN, called("c1"), answered("c1"), CRASHED], False, False, False, True),
        ([*RUN, CRASHED, NOTE, invoked("r2")], True, False, True, False),
    ],
)
def test_what_a_history_leaves_open(
    entries: list[Wire], open_run: bool, paused: bool, interrupted: bool, note_due: bool
) -> None:
    state = fold(entries)
    assert (state.open_run is not None, state.paused) == (open_run, paused)
    assert (state.interrupted, state.note_due) == (interrupted, note_due)


@pytest.mark.parametrize(
    ("entries", "dangling"),
    [
        ([called("a"), called("b"), answered("b")], ["a"]),
        ([called("a"), answered("a")], []),
        ([called("a"), answered("a"), called("a")], ["a"]),
        ([called("a"), called("a"), answered("a")], ["a"]),
        ([answered("stray")], []),
        ([called("a"), ended(RunResult.FINISHED), invoked("r2")], ["a"]),
        ([called("a"), CRASHED], ["a"]),
    ],
)
def test_a_call_dangles_until_its_result(entries: list[Wire], dangling: list[str]) -> None:
    assert [call.call_id for call in fold([*RUN, *entries]).unanswered] == dangling


def test_a_rolled_back_run_leaves_no_trace() -> None:
    before = fold(PAUSED)
    taken_back: list[Wire] = [NOTE, invoked("r2"), asked("no, wait"), told("notification", "x")]
    after = fold(taken_back, before)
    assert after != before
    assert fold(PAUSED) == before  # what the log holds once the run is cut from it


def test_every_item_becomes_what_the_model_saw() -> None:
    ref = UserInput(ts=1, segments=(Text(content="read "), FileRef(path="a.py")))
    state = fold(
        [
            START,
            ref,
            told("file_attachment", "a.py: print()"),
            said("ok"),
            called("c1"),
            answered("c1"),
            {"kind": "assistant_item", "ts": 1, "item": {"kind": "image", "url": "u"}},
        ]
    )
    assert state.history == (
        Message(role="user", content="read @a.py"),
        Message(role="system", content="a.py: print()"),
        Message(role="assistant", content="ok"),
        ToolCall(call_id="c1", name="read", arguments="{}"),
        ToolResult(call_id="c1", summary="read 3 lines"),
        UnknownItem.from_wire({"kind": "image", "url": "u"}),
    )
    assert state.user_segments == (Submitted(1, 1, ref.segments),)


def test_usage_is_summed_and_kept_by_position() -> None:
    first = LlmUsage(ts=1, history_len=2, input_tokens=10, output_tokens=3, cost_usd=0.5, answer=0)
    second = LlmUsage(ts=2, history_len=5, input_tokens=20, cache_read_tokens=7, answer=4)
    state = fold([START, first, second])
    assert state.usage == first.usage.plus(second.usage)
    assert state.usage_history == (first, second)
    assert state.used_answers == {0, 4}


def test_config_extensions_turns_and_ids_are_kept() -> None:
    state = fold(
        [
            *RUN,
            told("notification", "one", "n1"),
            told("notification", "from nobody"),
            TurnEnd(ts=1, turn_count=7),
            Extension(ts=1, domain="tasks", payload={"a": None}),
            Extension(ts=1, domain="tickets", payload={}),
            ConfigChanged(ts=1, config={"model": "n"}),
            ended(RunResult.FINISHED),
        ]
    )
    assert (state.session_id, state.system_prompt, state.turn_count) == ("s1", "be good", 7)
    assert state.config == {"model": "n"}
    assert state.extensions == (("tasks", {"a": None}), ("tickets", {}))
    assert state.delivered == {"n1"}
    assert state.request_ids == ("r1",)
    assert state.last_result == ended(RunResult.FINISHED)


def test_a_next_segment_begins_the_conversation_anew_and_goes_on_with_the_session() -> None:
    usage = LlmUsage(ts=1, history_len=2, input_tokens=10, answer=0)
    first = fold([*RUN, told("notification", "one", "n1"), usage, TurnEnd(ts=1, turn_count=1)])
    kept = (Message(role="user", content="summary"), ToolCall(call_id="c", name="n", arguments=""))
    compacted = SegmentStart(
        ts=2,
        session_id="s1",
        history=kept,
        compacted_from=SegmentRef(segment_id="old", at_turn_index=1),
    )
    state = apply(first, compacted)
    assert state.history == kept
    assert [call.call_id for call in state.unanswered] == ["c"]
    assert (state.user_segments, state.usage_history, state.head_entries) == ((), (), 1)
    assert (state.turn_count, state.usage.input_tokens) == (1, 10)
    assert state.request_ids == ("r1",)
    assert state.delivered == {"n1"}
    assert state.used_answers == {0}
    assert state.open_run == first.open_run


def test_another_session_inherits_nothing() -> None:
    other = START.model_copy(update={"session_id": "s2"})
    assert fold([*PAUSED, other]) == fold([other])


def test_an_unknown_entry_only_counts() -> None:
    before = fold(RUN)
    after = apply(before, UnknownEntry.from_wire({"kind": "dream", "ts": 5}))
    assert after.head_entries == before.head_entries + 1
    assert fold([*RUN, said("x")]).history == apply(after, said("x")).history


@pytest.mark.parametrize(
    ("entry", "cause"),
    [
        ({"kind": "turn_end", "ts": 1}, "not a valid turn_end: turn_count: field required"),
        ({"kind": "assistant_item", "ts": 1}, "not a valid assistant_item: item: field required"),
        (
            {"kind": "run_completed", "ts": 1, "result": "so-so"},
            "not a valid run_completed: result",
        ),
        ({"kind": "segment_start", "ts": 1, "session_id": "s1", "schema": 9}, "schema 9"),
    ],
)
def test_a_malformed_entry_is_named(entry: dict[str, object], cause: str) -> None:
    with pytest.raises(BadEntry) as caught:
        fold([*RUN, entry])
    assert caught.value.index == 3
    assert cause in caught.value.cause


IDS = st.sampled_from(["a", "b"])
entries: st.SearchStrategy[Entry] = st.one_of(
    st.builds(said, st.text(max_size=5)),
    st.builds(called, IDS),
    st.builds(answered, IDS),
    st.builds(told, st.sampled_from(["notification", "interrupt"]), st.text(max_size=5), IDS),
    st.builds(asked, st.text(max_size=5)),
    st.builds(invoked, IDS, st.sampled_from(Trigger)),
    st.builds(ended, st.sampled_from(RunResult)),
    st.sampled_from([FAILED, CRASHED, ABANDONED, START]),
    st.builds(TurnEnd, ts=st.just(1), turn_count=st.integers(0, 9)),
    st.builds(
        LlmUsage,
        ts=st.just(1),
        history_len=st.integers(0, 9),
        input_tokens=st.integers(0, 9),
        cost_usd=st.none() | st.floats(0, 1),
        answer=st.none() | st.integers(0, 3),
    ),
)


@given(history=st.lists(entries), cut=st.integers(0))
def test_the_mirror_of_a_living_pod_is_the_state_of_a_restored_one(
    history: list[Entry], cut: int
) -> None:
    whole = fold([START, *history])
    assert reduce(apply, history, fold([START])) == whole
    cut %= len(history) + 1
    assert fold(history[cut:], fold([START, *history[:cut]])) == whole
    assert fold([entry.to_wire() for entry in (START, *history)]) == whole


def test_nothing_replayed_is_the_empty_state() -> None:
    assert fold([]) == EMPTY == Replayed()
