"""What a compaction keeps, reads out of an answer and begins a segment with: the pure parts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podproc.engine import compaction as core
from podproc.engine.compaction import (
    MUST_READ,
    Summary,
    files_of,
    new_history,
    read_summary,
    refusal_of,
    split,
    tail_tokens,
    transcript,
)
from podproc.engine.estimate import PER_ITEM, item_tokens
from podproc.session.continuing import REQUEST_IDS, Continuation, first_entries
from protocol.entries import (
    AssistantItem,
    Entry,
    Extension,
    Invoke,
    Item,
    LlmUsage,
    Message,
    Reasoning,
    RunCompleted,
    RunEnd,
    RunErrored,
    SegmentRef,
    SegmentStart,
    SystemItem,
    SystemItemEntry,
    ToolCall,
    ToolResult,
    Usage,
    UserInput,
)
from protocol.segments import Text
from protocol.session.replay import Replayed, Submitted, fold
from protocol.status import RunResult, Trigger
from tests.podproc.histories import asked, flat, rounds, said, tool_call, tool_result

# -- where a history is cut ----------------------------------------------------------------------


def words(items: tuple[Item, ...]) -> list[str]:
    """Return items in a word each."""
    out: list[str] = []
    for item in items:
        match item:
            case Message(role=role):
                out.append(role)
            case ToolCall(call_id=call_id):
                out.append(call_id)
            case ToolResult(call_id=call_id):
                out.append(f"={call_id}")
            case _:
                out.append(item.kind)
    return out


ROUND: list[Item] = [
    asked("u" * 24),
    Reasoning(text="r" * 24),
    said("a" * 24),
    tool_call("c1", "x" * 20),
    tool_call("c2", "x" * 20),
    tool_result("c2", 18),
    tool_result("c1", 18),
    said("a" * 24),
]
"""Ten tokens each."""


@pytest.mark.parametrize(
    ("room", "tail"),
    [
        (0, []),
        (9, []),
        (10, ["assistant"]),
        (20, ["assistant"]),
        (60, ["assistant"]),
        (69, ["assistant"]),
        (70, ["reasoning", "assistant", "c1", "c2", "=c2", "=c1", "assistant"]),
        (80, ["user", "reasoning", "assistant", "c1", "c2", "=c2", "=c1", "assistant"]),
        (10**6, ["user", "reasoning", "assistant", "c1", "c2", "=c2", "=c1", "assistant"]),
    ],
)
def test_the_tail_is_as_long_as_fits_and_begins_at_a_clean_place(
    room: int, tail: list[str]
) -> None:
    assert item_tokens(ROUND, []) == [10] * 8
    assert words(split(ROUND, [], room).tail) == tail


def test_a_call_that_has_no_result_yet_stays_with_what_comes() -> None:
    items: list[Item] = [asked("u" * 24), tool_call("c1", "x" * 20), tool_call("c2", "x" * 20)]
    assert words(split(items, [], 10).tail) == []
    assert words(split(items, [], 20).tail) == ["c1", "c2"]


def is_answer(item: Item) -> bool:
    return isinstance(item, ToolCall | Reasoning) or (
        isinstance(item, Message) and item.role == "assistant"
    )


@given(parts=rounds(), room=st.integers(0, 12_000), is_cut_off=st.booleans())
def test_a_split_loses_nothing_and_parts_neither_a_call_from_its_result_nor_an_answer(
    parts: list[list[Item]], room: int, is_cut_off: bool
) -> None:
    items = flat(parts)
    if is_cut_off:
        items = items[:-1]
    found = split(items, [], room)
    assert [*found.head, *found.tail] == items
    assert sum(item_tokens(items, [])[len(found.head) :]) <= room
    calls = {item.call_id for item in found.head if isinstance(item, ToolCall)}
    results = {item.call_id for item in found.tail if isinstance(item, ToolResult)}
    assert not calls & results
    if found.head and found.tail:
        assert not (is_answer(found.head[-1]) and is_answer(found.tail[0]))


@given(parts=rounds())
def test_with_room_for_everything_nothing_is_summarised(parts: list[list[Item]]) -> None:
    assert split(flat(parts), [], 10**9).head == ()


def test_the_tail_is_a_quarter_at_most() -> None:
    assert tail_tokens(wanted=8000, total=100_000) == 8000
    assert tail_tokens(wanted=8000, total=4000) == 1000
    assert tail_tokens(wanted=0, total=4000) == 0


# -- what the summariser is shown, and what it says ----------------------------------------------


@given(parts=rounds(), most=st.integers(1, 20_000))
def test_a_transcript_fits_and_shows_where_something_is_left_out(
    parts: list[list[Item]], most: int
) -> None:
    items = flat(parts)
    text = transcript(items, most_bytes=most)
    gaps = [line for line in text.splitlines() if "items are left out here" in line]
    assert len(text.encode()) <= most + len("".join(gaps)) + 2
    if not gaps:
        assert f"[{len(items) - 1}] " in text or not items


def test_files_are_named_once_the_latest_first() -> None:
    items: list[Item] = [
        tool_call("c1", '{"file_path":"/a"}'),
        tool_call("c2", '{"file_path":"/b"}'),
        tool_call("c3", '{"file_path":"/a"}'),
        tool_call("c4", "not JSON"),
        tool_call("c5", '["file_path"]'),
        tool_call("c6", '{"file_path":7}'),
        tool_call("c7", "[" * 100_000),
        said('{"file_path":"/never"}'),
    ]
    assert files_of(items) == ("/a", "/b")
    assert files_of(items, known=["/c", "/b"]) == ("/b", "/c", "/a")
    assert files_of([]) == ()


ANSWER = """\
## Done
Read `/w/a.py`.
## Where things stand
- /w/a.py is half done
"""


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("/w/a.py", "/w/a.py"),
        ("- /w/a.py", "/w/a.py"),
        ("  * `/w/a.py`  ", "/w/a.py"),
        ("12. /w/a.py", "/w/a.py"),
        ("1) `2024-notes.md`", "2024-notes.md"),
        ("2024-notes.md", "2024-notes.md"),
        ("- .env", ".env"),
        ("./x.py", "./x.py"),
        ("-", None),
        ("/w/other.py", None),
        ("none", None),
    ],
)
def test_a_file_is_found_however_the_list_is_written(line: str, path: str | None) -> None:
    touched = ["/w/a.py", "2024-notes.md", ".env", "./x.py"]
    summary = read_summary(f"{ANSWER}## {MUST_READ}\n{line}\n", touched)
    assert summary == Summary(ANSWER.strip(), (path,) if path else ())


@pytest.mark.parametrize("heading", ["## {}", "# {}:", "### {} ##", "## **{}:**"])
def test_the_list_of_files_is_found_under_its_heading(heading: str) -> None:
    answer = f"{heading.format(MUST_READ.upper())}\n/w/a.py\n/w/a.py\n{ANSWER}"
    assert read_summary(answer, ["/w/a.py"]) == Summary(ANSWER.strip(), ("/w/a.py",))


@pytest.mark.parametrize("answer", ["", "  \n", f"## {MUST_READ}\n/w/a.py"])
def test_an_answer_without_a_summary_is_empty(answer: str) -> None:
    assert read_summary(answer, []).text == ""


def test_a_new_history_has_summary_files_tasks_and_tail_in_this_order() -> None:
    tail = ROUND[-1:]
    items = new_history("all of it", ["/a\none", "/b\ntwo"], "Open tasks: 1", tail)
    texts = [item.content for item in items if isinstance(item, Message)]
    assert [text.splitlines()[-1] for text in texts] == [
        *("all of it", "one", "two", "Open tasks: 1", "a" * 24)
    ]
    assert "/b" in texts[2]
    assert len(new_history("s", [], None, [])) == 1


@pytest.mark.parametrize(
    ("after", "said_why"),
    [(50, None), (60, None), (61, "over the threshold"), (100, "no smaller"), (101, "no smaller")],
)
def test_what_is_no_smaller_or_too_large_is_refused(after: int, said_why: str | None) -> None:
    refusal = refusal_of(before=100, after=after, most=60)
    assert (refusal is None) if said_why is None else (refusal is not None and said_why in refusal)


# -- what a segment begins with that continues another -------------------------------------------

TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
INVOKES = st.builds(
    Invoke,
    ts=st.integers(0, 9),
    trigger=st.sampled_from(Trigger),
    request_id=st.none() | st.sampled_from(["task", "r1", "r2"]),
)
ENDS: st.SearchStrategy[RunEnd] = st.one_of(
    st.builds(
        RunCompleted,
        ts=st.integers(0, 9),
        result=st.sampled_from(RunResult),
        reason=st.none() | TEXTS,
        report=st.none() | TEXTS,
    ),
    st.builds(
        RunErrored,
        ts=st.integers(0, 9),
        code=TEXTS,
        message=TEXTS,
        interrupted=st.booleans(),
        report=st.none() | TEXTS,
    ),
)
COUNTS = st.integers(0, 2**40)
PAYLOADS = st.dictionaries(TEXTS, st.integers() | TEXTS, max_size=2)
STATES = st.builds(
    Replayed,
    session_id=st.just("s"),
    system_prompt=st.none() | TEXTS,
    config=st.just({"old": True}),
    history=rounds(most=2).map(lambda parts: tuple(flat(parts))),
    user_segments=st.just((Submitted(3, 4, (Text(content="before"),)),)),
    usage_history=st.just((LlmUsage(ts=1, history_len=1, input_tokens=9),)),
    head_entries=st.integers(1, 99),
    turn_count=COUNTS,
    usage=st.builds(
        Usage,
        input_tokens=COUNTS,
        output_tokens=COUNTS,
        cache_read_tokens=COUNTS,
        cache_write_tokens=COUNTS,
        cost_usd=st.none() | st.floats(0, 1e6),
    ),
    extensions=st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), PAYLOADS), max_size=6).map(
        tuple
    ),
    open_run=st.none() | INVOKES,
    last_result=st.none() | ENDS,
    paused=st.booleans(),
    note_due=st.booleans(),
    owed=st.lists(ENDS, max_size=3).map(tuple),
    unasked=st.lists(st.integers(1, 10**13), max_size=3).map(tuple),
    request_ids=st.lists(st.sampled_from(["task", "r1", "r2", "r3"]), max_size=6).map(tuple),
    delivered=st.frozensets(st.sampled_from("abcd")),
    used_answers=st.frozensets(st.integers(0, 9)),
)


def continuation(state: Replayed, **changes: Any) -> Continuation:
    settings: dict[str, Any] = {
        "state": state,
        "source": SegmentRef(segment_id="old", at_turn_index=7, at_entry=5),
        "is_compacted": True,
        "history": (asked("summary"),),
        "system_prompt": "be brief",
    }
    return Continuation(**{**settings, **changes})


def begun(of: Continuation) -> tuple[Replayed, tuple[Entry, ...]]:
    """Return the state behind the first entries, as a restart folds them, and the entries."""
    start, more = first_entries(of, ts=8, config={"new": True})
    return fold([entry.to_wire() for entry in (start, *more)]), (start, *more)


def start_of(entries: tuple[Entry, ...]) -> SegmentStart:
    """Return the first entry."""
    start = entries[0]
    assert isinstance(start, SegmentStart)
    return start


SAME = (
    *("turn_count", "usage", "open_run", "last_result", "paused", "note_due", "owed"),
    "unasked",
)
DIFFERENT = ("extensions", "request_ids", "delivered", "used_answers", "session_id")
OF_THE_SEGMENT = (
    *("system_prompt", "config", "history", "unanswered"),
    *("user_segments", "usage_history", "head_entries"),
)


def test_each_field_of_a_state_is_said_to_be_carried_or_not() -> None:
    assert {*SAME, *DIFFERENT, *OF_THE_SEGMENT} == set(Replayed.__dataclass_fields__)


@given(state=STATES, kept=st.frozensets(st.sampled_from("abcdef")), is_compacted=st.booleans())
def test_a_segment_that_continues_another_carries_all_that_the_session_is(
    state: Replayed, kept: frozenset[str], is_compacted: bool
) -> None:
    of = continuation(state, kept_ids=kept, is_compacted=is_compacted)
    after, entries = begun(of)
    for name in SAME:
        assert getattr(after, name) == getattr(state, name), name
    assert dict(after.extensions) == dict(state.extensions), "the newest of each"
    assert set(after.request_ids) == set(state.request_ids)
    assert after.delivered == state.delivered & kept
    assert after.used_answers == state.used_answers
    assert (after.session_id, after.system_prompt, after.config) == ("s", "be brief", {"new": True})
    assert after.history == (asked("summary"),)
    assert (after.user_segments, after.usage_history) == ((), ())
    assert after.head_entries == len(entries) == 1 + len(dict(state.extensions))
    start = start_of(entries)
    assert (start.forked_from, start.compacted_from) == (
        (None, of.source) if is_compacted else (of.source, None)
    )


RUN: tuple[Entry, ...] = (
    Invoke(ts=1, trigger=Trigger.USER_SEND, request_id="now"),
    UserInput(ts=1, segments=(Text(content="hello"),)),
    SystemItemEntry(ts=1, item=SystemItem(kind="notification", body="ding", id="n1")),
    LlmUsage(ts=1, history_len=0, input_tokens=11, answer=42, purpose="compaction"),
    Extension(ts=1, domain="a", payload={"of": "the run"}),
)


@given(state=STATES)
def test_a_run_that_has_shown_nothing_is_begun_again_in_the_new_segment(state: Replayed) -> None:
    after, entries = begun(continuation(state, run_entries=RUN))
    assert entries[-len(RUN) :] == RUN
    assert after.open_run == RUN[0]
    assert not after.paused
    assert after.request_ids[-1] == "now"
    assert after.history == (
        *(asked("summary"), asked("hello")),
        Message(role="system", content="ding"),
    )
    assert "n1" in after.delivered
    assert after.usage == state.usage.plus(Usage(input_tokens=11))
    assert after.used_answers == state.used_answers | {42}
    assert dict(after.extensions)["a"] == {"of": "the run"}
    carried = start_of(entries).carried
    assert carried is not None
    assert (carried.entries, carried.run_entries) == (len(entries) - 1 - len(RUN), len(RUN))


@pytest.mark.parametrize("times", [1, 2, 5])
def test_the_newest_thousand_requests_are_known_and_the_task_for_ever(times: int) -> None:
    state = Replayed(session_id="s", request_ids=("task", *(f"r{n}" for n in range(2500))))
    for _ in range(times):
        state, _ = begun(continuation(state))
    assert state.request_ids[0] == "task"
    assert state.request_ids[1:] == tuple(f"r{n}" for n in range(2500 - REQUEST_IDS, 2500))


def test_no_task_is_made_up_for_a_session_that_had_none() -> None:
    assert begun(continuation(Replayed(session_id="s", request_ids=("r1",))))[0].request_ids == (
        "r1",
    )


@given(state=STATES, more=st.lists(ENDS | INVOKES, max_size=4))
def test_what_happens_next_leads_to_the_same_state_as_without_a_new_segment(
    state: Replayed, more: list[Entry]
) -> None:
    after, _ = begun(continuation(state, kept_ids=frozenset("abcd")))
    here, there = fold(more, state), fold(more, after)
    for name in SAME:
        assert getattr(here, name) == getattr(there, name), name


def test_a_call_that_was_open_is_open_in_the_new_segment() -> None:
    state = fold(
        [
            {"kind": "segment_start", "ts": 1, "session_id": "s"},
            AssistantItem(ts=1, item=tool_call("c1")),
        ]
    )
    after, _ = begun(continuation(state, history=state.history, is_compacted=False))
    assert after.unanswered == state.unanswered != ()


def test_a_compaction_that_nobody_asked_for_has_a_twentieth_of_the_window_to_make_less_of() -> None:
    def head(tokens: int) -> list[Item]:
        return [asked("x" * (tokens * 4 - PER_ITEM))]

    assert core.is_worth_it(head(50), window=1000)
    assert not core.is_worth_it(head(49), window=1000)
    assert not core.is_worth_it([], window=1000)


@pytest.mark.parametrize(
    ("before", "tools", "after"),
    [
        (1000, 0, 100),  # nothing is said of tools
        (1000, 800, 300),  # their 200 tokens are in the figures
        (1000, 8000, 600),  # more than figures and sizes differ by is not in the figures
        (500, 800, 100),  # the old history was not measured: it is its size
        (400, 800, 100),
    ],
)
def test_what_a_request_carries_besides_is_added_as_far_as_the_figures_have_it(
    before: int, tools: int, after: int
) -> None:
    assert core.tokens_after(before=before, old=2000, new=400, tools=tools) == after
