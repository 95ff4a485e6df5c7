"""What a viewer of a pod is shown: each committed entry once, the rest only while it lasts."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import entries as en
from protocol import events as ev
from protocol.error_body import ErrorBody
from protocol.printable import printable
from protocol.segments import FileRef, Paste, Text
from protocol.snapshot import (
    AlertRecord,
    Greeting,
    InFlight,
    Snapshot,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from protocol.status import (
    AlertLevel,
    AlertSource,
    Flag,
    Lane,
    PodStatus,
    RunResult,
    Trigger,
    TurnResult,
)
from protocol.watch import Deliver, Gap
from protocol.wire import EventHeader
from supervisor.drawing import Line, draw_entry
from supervisor.transcript import Missing, Passage, Transcript

TS = 1_700_000_000_000
GREETING = Greeting(
    pod_name="alice",
    incarnation=1,
    cwd="/w",
    workspace="/w",
    provider="scripted",
    model="echo",
    context_window=200_000,
    context_tokens=50_000,
)


# -- making what a pod tells


def said(text: str, ts: int = TS) -> en.AssistantItem:
    return en.AssistantItem(ts=ts, item=en.Message(role="assistant", content=text))


def typed(text: str) -> en.UserInput:
    return en.UserInput(ts=TS, segments=(Text(content=text),))


def called(call_id: str, name: str, arguments: str = "{}") -> en.AssistantItem:
    return en.AssistantItem(
        ts=TS, item=en.ToolCall(call_id=call_id, name=name, arguments=arguments)
    )


def result(call_id: str, summary: str, is_error: bool = False) -> en.ToolResultEntry:
    item = en.ToolResult(call_id=call_id, summary=summary, is_error=is_error)
    return en.ToolResultEntry(ts=TS, item=item)


def snapshot(log: Sequence[en.Entry], tail: int = 200, **more: Any) -> Snapshot:
    fields: dict[str, Any] = {
        "segment_id": "s1" if log else None,
        "head_entries": len(log),
        "tail": tuple(log[max(0, len(log) - tail) :]),
        "greeting": GREETING,
        "status": PodStatus.IDLE,
    }
    return Snapshot(**(fields | more))


def told(event: ev.Event, epoch: int | None = None) -> Deliver:
    header = EventHeader(pod="alice", incarnation=1, lane=event.lane, seq=1, ts_ms=TS, epoch=epoch)
    return Deliver(header, event)


def committed(index: int, entry: en.Entry, block: int | str | None = None) -> Deliver:
    return told(ev.EntryEvent(segment_id="s1", index=index, ts=TS, entry=entry, block=block))


def texts(lines: Iterable[Line]) -> list[str]:
    return [line.text for line in lines]


def attached(*log: en.Entry, **more: Any) -> Transcript:
    transcript = Transcript("alice")
    transcript.sync(1, snapshot(log, **more))
    return transcript


def live(transcript: Transcript, now: float = 0.0) -> list[str]:
    return texts(transcript.live(now))


# -- entries as lines


@pytest.mark.parametrize(
    ("entry", "lines"),
    [
        (typed("hello\nworld"), ["> hello", "  world"]),
        (
            en.UserInput(
                ts=TS,
                segments=(
                    Text(content="see "),
                    FileRef(path="a.py"),
                    Text(content=" and "),
                    Paste(id=1, chars=9, lines=2, content="one\r\ntwo\n"),
                ),
            ),
            ["> see @a.py and [paste #1, 2 lines, 9 characters: one two]"],
        ),
        (said("one\ntwo"), ["one", "two"]),
        (
            en.AssistantItem(ts=TS, item=en.Reasoning(text="first\nthen")),
            ["· thinking: first then"],
        ),
        (en.AssistantItem(ts=TS, item=en.Reasoning()), ["· thinking"]),
        (
            called("c", "Write", '{"file_path": "/w/a", "content": "x y\\n", "n": 3}'),
            ['→ Write /w/a content="x y\\n" n=3'],
        ),
        (
            called("c", "Bash", '{"timeout": 9, "command": "npm test\\n"}'),
            ["→ Bash npm test timeout=9"],
        ),
        (
            called("c", "Grep", '{"path": "src", "pattern": "TODO|XXX"}'),
            ["→ Grep TODO|XXX path=src"],
        ),
        (called("c", "WaitForPods", '{"names": ["a", "b"]}'), ["→ WaitForPods a, b"]),
        (
            called("c", "Odd", '{"command": {"a": 1}, "name": ""}'),
            ['→ Odd command={"a": 1} name=""'],
        ),
        (called("c", "ListPods"), ["→ ListPods"]),
        (called("c", "Write", "{broken"), ["→ Write {broken"]),
        (result("known", "wrote 3 bytes"), ["← Write: wrote 3 bytes"]),
        (result("other", "no such\nfile", is_error=True), ["✗ result: no such file"]),
        (
            en.SystemItemEntry(ts=TS, item=en.SystemItem(kind="notification", body="a\nb")),
            ["» notification: a", "  b"],
        ),
        (
            en.SystemItemEntry(ts=TS, item=en.SystemItem(kind="file_attachment", body="a\nb")),
            ["» file_attachment: a b"],
        ),
        (
            en.SystemItemEntry(ts=TS, item=en.SystemItem(kind="task_reminder", body="1. a\n2. b")),
            ["» task_reminder: 1. a 2. b"],
        ),
        (en.Invoke(ts=TS, trigger=Trigger.USER_SEND), []),
        (en.Invoke(ts=TS, trigger=Trigger.RESUME), ["── resumed"]),
        (
            en.Invoke(ts=TS, trigger=Trigger.NOTIFY),
            ["── the pod began a run by itself: notify"],
        ),
        (en.RunCompleted(ts=TS, result=RunResult.FINISHED), []),
        (en.RunCompleted(ts=TS, result=RunResult.PAUSED), []),
        (
            en.RunCompleted(ts=TS, result=RunResult.LIMIT_REACHED, reason="max_turns"),
            ["── run limit_reached: max_turns"],
        ),
        (en.RunErrored(ts=TS, code="internal", message="it broke"), ["✗ internal: it broke"]),
        (en.TurnEnd(ts=TS, turn_count=1), []),
        (en.UnknownEntry(kind="from_the_future"), ["· an entry of a newer kind: from_the_future"]),
    ],
)
def test_entries_are_drawn_for_people(entry: en.Entry, lines: list[str]) -> None:
    assert texts(draw_entry(entry, {"known": "Write"})) == lines


def test_a_long_argument_and_a_long_summary_stay_on_one_line() -> None:
    (call,) = draw_entry(called("c", "Write", '{"content": "' + "x" * 10_000 + '"}'), {})
    (outcome,) = draw_entry(result("c", "y\n" * 10_000), {})
    assert max(len(call.text), len(outcome.text)) < 200


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", "␛[2J␛]0;title␇"),
        ("a\r\nb\tc", "a\nb\tc"),
        ("50%\r60%", "50%␍60%"),
        ("\x7f\x9b31m\x85", "␡\\x9b31m\\x85"),
        ("\u202egnp.exe\u2028", "\\u202egnp.exe\\u2028"),
        ("\ud800", "?"),
        ("naïve 日本 👩‍💻", "naïve 日本 👩‍💻"),
    ],
)
def test_what_would_drive_a_terminal_is_shown_instead(text: str, shown: str) -> None:
    assert printable(text) == shown


# -- history


def test_the_history_of_the_snapshot_is_drawn_in_order() -> None:
    log: list[en.Entry] = [typed("question"), *(said(f"answer {n}") for n in range(200))]
    lines = texts(Transcript("alice").sync(1, snapshot(log, tail=200)))
    assert lines == [
        "── alice · scripted/echo · /w",
        "── 1 earlier entries: podsup attach alice --all",
        *(f"answer {n}" for n in range(200)),
    ]


def test_earlier_entries_are_drawn_where_everything_is_wanted() -> None:
    log = [said(f"answer {n}") for n in range(10)]
    transcript = Transcript("alice", everything=True)
    seen = snapshot(log, tail=4)
    assert transcript.missing(seen) == Missing("s1", 0, 6)
    lines = texts(transcript.sync(1, seen, log[:6]))
    assert lines[1:] == [f"answer {n}" for n in range(10)]


def test_alerts_stand_between_the_entries_they_came_between() -> None:
    def alert(message: str, at: int) -> AlertRecord:
        return AlertRecord(
            level=AlertLevel.WARN, source=AlertSource.ENGINE, message=message, timestamp_ms=at
        )

    log = [said("one", TS + 10), said("two", TS + 20)]
    alerts = (alert("before", TS), alert("between", TS + 15), alert("after", TS + 30))
    transcript = Transcript("alice")
    lines = texts(transcript.sync(1, snapshot(log, alerts=alerts)))
    assert lines[1:] == ["one", "! engine: between", "two", "! engine: after"]
    assert transcript.take(told(ev.Alert(**dict(alerts[2]))), 0.0) == []
    assert transcript.sync(1, snapshot(log, alerts=alerts)) == []


# -- where the history goes on


SUMMARY = en.Message(role="system", content="What was before:\n\n## Done\nall of it")
KEPT: tuple[en.Item, ...] = (
    en.Message(role="system", content="must read:\n1\n2"),
    en.Message(role="user", content="hi"),
    en.Reasoning(text="hm"),
    en.ToolCall(call_id="c", name="Bash", arguments="{}"),
    en.ToolResult(call_id="c", summary="exit 0"),
    en.Message(role="assistant", content="ho"),
)


def compacted(run: int = 0, at_entry: int | None = None, of: str = "s1") -> en.SegmentStart:
    """A compaction that repeats the `run` entries that a run in progress has begun with."""
    return en.SegmentStart(
        ts=TS,
        session_id="x",
        history=(SUMMARY, *KEPT),
        compacted_from=en.SegmentRef(segment_id=of, at_turn_index=14, at_entry=at_entry),
        carried=en.Carried(entries=1, run_entries=run),
    )


def forked(at_entry: int | None, of: str = "s1") -> en.SegmentStart:
    return en.SegmentStart(
        ts=TS,
        session_id="x",
        history=KEPT,
        forked_from=en.SegmentRef(segment_id=of, at_turn_index=3, at_entry=at_entry),
        carried=en.Carried(entries=1),
    )


def rotated(start: en.SegmentStart, to: str = "s2") -> Deliver:
    return told(ev.SegmentRotated(segment_id=to, index=0, ts=TS, entry=start))


def in_segment(segment: str, index: int, entry: en.Entry) -> Deliver:
    return told(ev.EntryEvent(segment_id=segment, index=index, ts=TS, entry=entry))


def errored() -> en.RunErrored:
    return en.RunErrored(ts=TS, code="provider_error", message="no")


COMPACTED = ["── compacted: 12 turns are summarised, 2 kept", "» summary: ## Done all of it"]


KEPT_STATE = en.Extension(ts=TS, domain="tasks", payload={})
WOKEN = en.Invoke(ts=TS, trigger=Trigger.NOTIFY)
WOKEN_LINE = "── the pod began a run by itself: notify"


def test_a_newcomer_is_shown_what_a_compaction_kept_and_its_summary_on_one_line() -> None:
    log: list[en.Entry] = [compacted(2), KEPT_STATE, WOKEN, errored()]
    newcomer = texts(Transcript("alice").sync(1, snapshot(log)))
    assert newcomer[1:] == [
        *COMPACTED,
        "» must read: 1 2",
        "> hi",
        "· thinking: hm",
        "→ Bash",
        "← Bash: exit 0",
        "ho",
        WOKEN_LINE,
        "✗ provider_error: no",
    ]


def test_a_compaction_is_one_note_to_one_who_saw_what_it_summarises() -> None:
    transcript = attached(said("ho"), WOKEN, typed("hi"))
    assert texts(transcript.take(rotated(compacted(2, at_entry=1)), 0.0)) == COMPACTED
    again: list[en.Entry] = [KEPT_STATE, WOKEN, typed("hi")]
    for index, entry in enumerate(again, 1):
        assert transcript.take(in_segment("s2", index, entry), 0.0) == [], "it was drawn in s1"
    assert texts(transcript.take(in_segment("s2", 4, said("new")), 0.0)) == ["new"]
    log = [compacted(2, at_entry=1), *again, said("new")]
    assert transcript.sync(1, snapshot(log, segment_id="s2")) == []


@pytest.mark.parametrize("seen", [1, 2, 3, 4])
def test_a_compaction_that_was_missed_is_one_note_with_all_that_came_before_it(seen: int) -> None:
    before: list[en.Entry] = [said("0"), said("1"), WOKEN, typed("hi")]
    transcript = attached(*before[:seen])
    log: list[en.Entry] = [compacted(2, at_entry=2), KEPT_STATE, WOKEN, typed("hi"), said("new")]
    now = snapshot(log, segment_id="s2", tail=1)
    assert transcript.missing(now) == Missing("s2", 0, 4)
    passages: list[Passage] = []
    if wanted := transcript.before(log[0]):
        assert wanted == Missing("s1", seen, 2)
        passages.append(Passage("s1", seen, tuple(before[seen:2])))
    lines = texts(transcript.sync(1, now, log[:4], passages))
    in_order = ["0", "1", *COMPACTED, WOKEN_LINE, "> hi", "new"]
    drawn = {1: {"0"}, 2: {"0", "1"}, 3: {"0", "1", WOKEN_LINE}, 4: {"0", "1", WOKEN_LINE, "> hi"}}
    assert lines == [line for line in in_order if line not in drawn[seen]]


def test_several_segments_that_were_missed_are_asked_for_one_by_one() -> None:
    transcript = attached(said("0"))
    second, third = compacted(at_entry=2), compacted(at_entry=5, of="s2")
    assert transcript.before(third) == Missing("s2", 0, 5)
    assert transcript.before(second) == Missing("s1", 1, 2)
    passages = [
        Passage("s1", 1, (said("1"),)),
        Passage("s2", 0, (second, KEPT_STATE, *(said(f"2.{n}") for n in range(3)))),
    ]
    seen = snapshot([third, KEPT_STATE, said("3")], segment_id="s3")
    lines = texts(transcript.sync(1, seen, (), passages))
    assert lines == ["1", *COMPACTED, "2.0", "2.1", "2.2", *COMPACTED, "3"]


def test_what_was_missed_of_an_earlier_segment_and_cannot_be_had_is_a_gap() -> None:
    log: list[en.Entry] = [compacted(at_entry=4), KEPT_STATE, said("new")]
    of_same = attached(said("0")).sync(1, snapshot(log, segment_id="s2"))
    assert texts(of_same) == ["── gap: entries 1 to 3 are not shown", *COMPACTED, "new"]
    of_other = attached(said("0")).sync(1, snapshot([compacted(of="s9")], segment_id="s10"))
    assert texts(of_other) == ["── gap: what came between is not shown", *COMPACTED]
    no_start = attached(said("0")).sync(1, snapshot(log, segment_id="s2", tail=1))
    assert texts(no_start) == [
        "── the session goes on in another segment",
        "── gap: entries 0 to 1 are not shown",
        "new",
    ]


def test_a_fork_is_one_note_and_names_what_it_left_behind() -> None:
    whole = attached(said("0"), said("1")).take(rotated(forked(2)), 0.0)
    assert texts(whole) == ["── goes on in a new segment"]
    transcript = attached(said("0"), said("1"), said("2"))
    assert texts(transcript.take(rotated(forked(1)), 0.0)) == [
        "── goes on in a new segment: the last 2 entries are taken back"
    ]
    assert transcript.take(in_segment("s2", 1, KEPT_STATE), 0.0) == []
    assert texts(transcript.take(in_segment("s2", 2, said("1 again")), 0.0)) == ["1 again"]


def test_a_rewind_to_an_earlier_segment_is_one_note_and_effects_that_stay_another() -> None:
    transcript = attached(said("0"), said("1"))
    transcript.take(rotated(compacted(at_entry=2)), 0.0)
    transcript.take(told(ev.UsageEvent(turn=1, context_tokens=9)), 0.0)
    back = forked(1)
    assert transcript.before(back) is None, "it was drawn long ago"
    lines = texts(transcript.take(rotated(back, to="s3"), 0.0))
    assert lines == ["── rewound: goes on from turn 3, in a new segment"]
    assert "context ? of 200k" in transcript.status_line()

    def applied(tools_ran: int) -> Deliver:
        ran = ev.RewindSummary(discarded_entries=5, discarded_turns=2, tools_ran=tools_ran)
        done = ev.RewindApplied(segment_id="s3", head_entries=1, input=(), summary=ran)
        return told(done)

    assert transcript.take(applied(0), 0.0) == []
    assert texts(transcript.take(applied(2), 0.0)) == ["── the effects of 2 tool calls stay"]


def test_a_rewind_behind_what_a_newcomer_has_seen_is_no_gap() -> None:
    transcript = attached(*(said(str(n)) for n in range(9)), tail=3)
    lines = texts(transcript.take(rotated(forked(4, of="s0")), 0.0))
    assert lines == ["── rewound: goes on from turn 3, in a new segment"]


def test_all_of_the_history_begins_with_the_first_segment() -> None:
    transcript = Transcript("alice", everything=True)
    start = compacted(1, at_entry=2)
    seen = snapshot([start, KEPT_STATE, WOKEN, said("new")], segment_id="s2")
    assert transcript.before(start) == Missing("s1", 0, 2)
    assert Transcript("alice").before(start) is None
    passage = Passage("s1", 0, (typed("hi"), errored()))
    lines = texts(transcript.sync(1, seen, (), [passage]))
    assert lines[1:] == ["> hi", "✗ provider_error: no", *COMPACTED, WOKEN_LINE, "new"]


def test_a_compaction_is_shown_while_it_lasts() -> None:
    transcript = attached(said("0"))
    assert transcript.take(told(ev.CompactStart()), 0.0) == []
    assert live(transcript) == ["⋯ compacting the history"]
    transcript.take(rotated(compacted(at_entry=1)), 0.0)
    assert "context ? of 200k" in transcript.status_line()
    assert transcript.take(told(ev.CompactDone(new_segment_id="s2")), 0.0) == []
    assert live(transcript) == []
    transcript.take(told(ev.CompactStart()), 0.0)
    failed = told(ev.CompactFailed(error="too large"))
    assert texts(transcript.take(failed, 0.0)) == [
        "── compaction failed, nothing changed: too large"
    ]
    assert live(transcript) == []
    why = ev.Alert(
        level=AlertLevel.WARN, source=AlertSource.COMPACTOR, message="too large", timestamp_ms=TS
    )
    transcript.take(told(why), 0.0)
    assert texts(transcript.take(failed, 0.0)) == ["── compaction failed, nothing changed"]
    busy = attached(flags=(Flag.BUSY,))
    assert live(busy) == ["⋯ compacting the history"]


# -- one projection


def test_what_streams_is_shown_until_its_entry_comes_and_then_the_entry_alone() -> None:
    transcript = attached(typed("hi"))
    for piece in ("Writing", " it."):
        assert transcript.take(told(ev.TextDelta(block=1, text=piece)), 0.0) == []
    assert live(transcript) == ["Writing it."]
    transcript.take(told(ev.TextDone(block=1, text="Writing it.")), 0.0)
    assert live(transcript) == ["Writing it."]
    lines = transcript.take(committed(1, said("Writing it."), 1), 0.0)
    assert (texts(lines), live(transcript)) == (["Writing it."], [])
    transcript.take(told(ev.TextDelta(block=1, text="late, after a refill")), 0.0)
    assert live(transcript) == []


def test_an_entry_that_comes_twice_is_drawn_once() -> None:
    transcript = attached()
    assert texts(transcript.take(committed(0, said("once")), 0.0)) == ["once"]
    assert transcript.take(committed(0, said("once")), 0.0) == []
    assert transcript.sync(1, snapshot([said("once")])) == []


def test_thinking_is_seen_as_it_comes_and_folded_when_it_is_over() -> None:
    transcript = attached()
    transcript.take(told(ev.ThinkingStart(block=1)), 0.0)
    assert live(transcript) == ["· thinking"]
    transcript.take(told(ev.ThinkingDelta(block=1, text="a\nb")), 0.0)
    assert live(transcript) == ["· thinking: a", "  b"]
    transcript.take(told(ev.ThinkingDone(block=1, text="a\nb")), 0.0)
    assert live(transcript) == ["· thinking: a b"]
    thought = en.AssistantItem(ts=TS, item=en.Reasoning(text="a\nb"))
    assert texts(transcript.take(committed(0, thought, 1), 0.0)) == ["· thinking: a b"]
    assert live(transcript) == []
    transcript.with_thoughts = True
    assert texts(transcript.take(committed(1, thought, 2), 0.0)) == ["· thinking: a", "  b"]
    assert transcript.last_thought == thought.item


def test_a_call_is_shown_while_it_is_written_and_while_it_runs() -> None:
    transcript = attached()
    transcript.take(told(ev.ToolCallStart(id="c1", name="Bash")), 0.0)
    transcript.take(told(ev.ToolCallArgsDelta(id="c1", json_='{"command": "ma')), 0.0)
    assert live(transcript) == ['⋯ Bash {"command": "ma']
    entry = called("c1", "Bash", '{"command": "make"}')
    assert texts(transcript.take(committed(0, entry, "c1"), 0.0)) == ["→ Bash make"]
    assert live(transcript) == ["⋯ Bash make runs"]
    output = ev.ToolOutputDelta(id="c1", stream="stdout", text="one\n\x1b[31mtwo\n")
    transcript.take(told(output), 0.0)
    assert live(transcript) == ["⋯ Bash make runs: ␛[31mtwo"]
    progress = ev.ToolOutputDelta(id="c1", stream="stdout", text="10%\r20%\r")
    transcript.take(told(progress), 0.0)
    assert live(transcript, 12.0) == ["⋯ Bash make runs 12 s: 20%"]
    lines = transcript.take(committed(1, result("c1", "exit 0"), "c1"), 0.0)
    assert (texts(lines), live(transcript)) == (["← Bash: exit 0"], [])
    ended = ev.ToolResultEvent(id="c1", summary="exit 0", output="two")
    assert transcript.take(told(ended), 0.0) == []


def test_what_was_in_flight_at_the_snapshot_is_shown() -> None:
    blocks = (
        ThinkingBlock(block=1, text="hm", finished=True),
        TextBlock(block=2, text="Half a sen"),
        ToolCallBlock(id="c", name="Bash", args="{}", state="running", output_tail="last\n"),
    )
    transcript = attached(in_flight=InFlight(blocks=blocks))
    assert live(transcript) == ["· thinking: hm", "Half a sen", "⋯ Bash runs: last"]


@pytest.mark.parametrize("result", [RunResult.CANCELLED, RunResult.PAUSED, RunResult.ERRORED])
def test_what_a_run_did_not_commit_is_gone_when_it_ends(result: RunResult) -> None:
    transcript = attached()
    transcript.take(told(ev.TextDelta(block=1, text="half")), 0.0)
    assert transcript.take(told(ev.RunEnd(result=result)), 0.0) == []
    assert live(transcript) == []


@pytest.mark.parametrize("result", [TurnResult.INTERRUPTED, TurnResult.PAUSED])
def test_what_an_interrupted_turn_did_not_commit_is_gone(result: TurnResult) -> None:
    transcript = attached()
    transcript.take(told(ev.TextDelta(block=1, text="half")), 0.0)
    assert transcript.take(told(ev.TurnEnd(turn=1, result=result)), 0.0) == []
    assert live(transcript) == []


def test_a_broken_stream_loses_its_unfinished_blocks_and_says_so() -> None:
    transcript = attached()
    transcript.take(told(ev.TextDelta(block=1, text="half")), 0.0)
    broke = ev.LlmContinuation(llm_call=1, attempt=1, max_attempts=3, reason="reset")
    assert texts(transcript.take(told(broke), 0.0)) == [
        "! the stream broke (reset); going on, 1 of 3"
    ]
    assert live(transcript) == []


def test_a_retry_is_said_once_and_counted_down_until_something_comes() -> None:
    transcript = attached()
    retry = ev.LlmRetry(
        llm_call=1, failed_attempt=1, max_attempts=4, wait_ms=3000, elapsed_ms=5, status=529
    )
    assert texts(transcript.take(told(retry), 10.0)) == [
        "! attempt 1 of 4 failed (HTTP 529); the next in 3.0 s"
    ]
    assert [live(transcript, now) for now in (10.0, 12.0, 20.0)] == [
        ["⋯ attempt 2 of 4 in 3 s"],
        ["⋯ attempt 2 of 4 in 1 s"],
        ["⋯ attempt 2 of 4 in 0 s"],
    ]
    transcript.take(told(ev.TextDelta(block=1, text="at last")), 12.5)
    assert live(transcript, 12.5) == ["at last"]


def test_a_failed_run_says_its_error_once() -> None:
    error = ErrorBody(code="provider_error", message="no")
    transcript = attached()
    lines = [
        *transcript.take(
            committed(0, en.RunErrored(ts=TS, code=error.code, message=error.message)), 0.0
        ),
        *transcript.take(told(ev.ErrorEvent(code=error.code, message=error.message)), 0.0),
        *transcript.take(told(ev.RunEnd(result=RunResult.ERRORED, error=error)), 0.0),
    ]
    assert texts(lines) == ["✗ provider_error: no"]


# -- what is taken back, and what is missing


def test_entries_that_are_taken_back_are_named_and_their_places_are_drawn_anew() -> None:
    transcript = attached(said("kept"), typed("wrong"), said("gone"))
    cut = ev.LogCut(segment_id="s1", head_entries=1, reason="rewind")
    assert texts(transcript.take(told(cut), 0.0)) == [
        "── rewound: the last 2 entries are taken back"
    ]
    assert "context ? of 200k" in transcript.status_line()
    assert texts(transcript.take(committed(1, typed("right")), 0.0)) == ["> right"]


def test_a_history_that_changed_while_nobody_looked_is_drawn_from_where_it_changed() -> None:
    transcript = attached(said("kept"), said("gone"))
    lines = texts(transcript.sync(1, snapshot([said("kept"), said("new")])))
    assert lines == [
        "── the history was changed meanwhile: the last 1 entries are taken back",
        "new",
    ]


def test_a_gap_is_shown_and_filled_from_the_next_snapshot() -> None:
    transcript = attached(said("0"))
    lost = texts(transcript.take(Gap(Lane.LOG, 2, 4), 0.0))
    assert lost == ["── gap: 3 events of the log lane are lost; a new snapshot follows"]
    log = [said(str(n)) for n in range(6)]
    seen = snapshot(log, tail=2)
    assert transcript.missing(seen) == Missing("s1", 1, 4)
    assert texts(transcript.sync(1, seen, log[1:4])) == ["1", "2", "3", "4", "5"]


def test_entries_that_cannot_be_had_are_a_gap_that_is_shown() -> None:
    transcript = attached(said("0"))
    lines = texts(transcript.sync(1, snapshot([said(str(n)) for n in range(6)], tail=2)))
    assert lines == ["── gap: entries 1 to 3 are not shown", "4", "5"]


def test_an_entry_too_large_to_publish_has_its_line_even_where_it_cannot_be_had() -> None:
    left_out = ev.EntryEvent(segment_id="s1", index=0, ts=TS, omitted=70_000, block=1)
    assert texts(attached().take(told(left_out), 0.0)) == ["· entry 0 is too large to show"]


# -- the pod


def test_a_paused_run_says_how_it_goes_on_once() -> None:
    transcript = attached()
    paused = told(ev.Status(status=PodStatus.PAUSED))
    (line,) = texts(transcript.take(paused, 0.0))
    assert "/resume" in line
    assert "podsup resume alice" in line
    assert transcript.take(paused, 0.0) == []


def test_a_restart_is_told_from_the_exit_to_the_new_incarnation() -> None:
    transcript = attached(said("before"))
    transcript.take(told(ev.TextDelta(block=1, text="half")), 0.0)
    fleet: list[ev.Event] = [
        ev.PodExited(cause="SIGKILL", signal="SIGKILL"),
        ev.PodBackoff(until=TS, attempt=1, wait_s=0.5),
        ev.PodStarting(incarnation=2),
    ]
    lines = [line for event in fleet for line in transcript.take(told(event, epoch=1), 0.0)]
    assert live(transcript) == []
    lines += transcript.sync(2, snapshot([said("before"), said("after")]))
    assert texts(lines) == [
        "── alice exited: SIGKILL",
        "── alice starts again in 0.5 s (attempt 1)",
        "── alice starts: incarnation 2",
        "── connected to alice again: incarnation 2",
        "after",
    ]


def test_what_the_fleet_passes_on_of_the_pods_own_is_not_drawn_twice() -> None:
    alert = ev.Alert(
        level=AlertLevel.ERROR, source=AlertSource.POD, message="disk", timestamp_ms=TS
    )
    transcript = attached()
    assert texts(transcript.take(told(alert), 0.0)) == ["! pod: disk"]
    assert transcript.take(told(alert, epoch=1), 0.0) == []
    errored = ev.ErrorEvent(code="internal", message="no")
    assert transcript.take(told(errored, epoch=1), 0.0) == []


def test_the_status_line_adds_up_what_was_used() -> None:
    transcript = attached(usage=en.Usage(input_tokens=100, output_tokens=5, cost_usd=0.01))
    usage = ev.UsageEvent(
        turn=1, context_tokens=60_000, input_tokens=20_000, output_tokens=7, cost_usd=0.02
    )
    transcript.take(told(usage), 0.0)
    transcript.take(told(ev.Status(status=PodStatus.RUNNING)), 0.0)
    assert transcript.status_line() == (
        "alice · running · context 30% (60k of 200k) · in 20k out 12 · $0.0300"
    )


# -- properties

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)
WIRE_TEXT = st.text(max_size=40) | st.sampled_from(["\x1b[2J", "\r\n\x07", "\u202e", "\x9b0m"])


def is_harmless(char: str) -> bool:
    kind = unicodedata.category(char)
    return kind not in ("Cc", "Cs", "Zl", "Zp") and unicodedata.bidirectional(char)[:2] not in (
        *("LR", "RL", "PD"),
        *("FS",),
    )


def assert_harmless(lines: Iterable[Line]) -> None:
    for line in lines:
        assert all(is_harmless(char) or char == "\t" for char in line.text), repr(line.text)


@given(ANY_TEXT)
def test_no_text_drives_the_terminal(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert all(is_harmless(char) or char in "\t\n" for char in shown)


@given(WIRE_TEXT, WIRE_TEXT)
def test_no_entry_and_no_event_brings_a_control_character_out(one: str, two: str) -> None:
    transcript = attached()
    entries: list[en.Entry] = [
        en.UserInput(
            ts=TS, segments=(Text(content=one), Paste(id=1, chars=1, lines=2, content=two))
        ),
        said(one),
        en.AssistantItem(ts=TS, item=en.Reasoning(text=one)),
        called(one, two, one),
        called("c", two, '{"a": "\\u001b[2J"}'),
        result(one, two),
        en.SystemItemEntry(ts=TS, item=en.SystemItem(kind=one, body=two)),
        en.RunErrored(ts=TS, code=one, message=two),
        en.RunCompleted(ts=TS, result=RunResult.PAUSED, reason=one),
        en.UnknownEntry(kind=one),
    ]
    events: list[ev.Event] = [
        ev.TextDelta(block=1, text=one),
        ev.ThinkingDelta(block=2, text=two),
        ev.ToolCallStart(id="c1", name=one),
        ev.ToolCallArgsDelta(id="c1", json_=two),
        ev.ToolCallStart(id="c2", name=two),
        ev.ToolOutputDelta(id="c2", stream="stdout", text=one),
        ev.LlmRetry(
            llm_call=1, failed_attempt=1, max_attempts=2, wait_ms=1, elapsed_ms=1, error=one
        ),
        ev.Alert(level=AlertLevel.WARN, source=AlertSource.POD, message=one, timestamp_ms=TS),
        ev.ErrorEvent(code=one, message=two),
        ev.CompactFailed(error=one),
        ev.ScopeDenied(path=one, layer=two),
        ev.ApprovalRequested(id=one, tool=two, summary=one),
        ev.UnknownEvent(name=one),
    ]
    fleet: list[ev.Event] = [
        ev.PodExited(cause=one),
        ev.PodFailed(cause=one, message=two),
        ev.PodStopped(cause=two),
    ]
    for index, entry in enumerate(entries):
        assert_harmless(transcript.take(committed(index, entry), 0.0))
    for event in events:
        assert_harmless(transcript.take(told(event), 0.0))
        assert_harmless(transcript.live(0.0))
    for event in fleet:
        assert_harmless(transcript.take(told(event, epoch=1), 0.0))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.integers(0, 3)),
        st.tuples(st.just("again"), st.just(0)),
        st.tuples(st.just("away"), st.integers(0, 9)),
        st.tuples(st.just("restart"), st.integers(0, 9)),
        st.tuples(st.just("cut"), st.integers(0, 5)),
        st.tuples(st.just("cut away"), st.integers(0, 5)),
        st.tuples(st.just("rotate"), st.integers(0, 3)),
        st.tuples(st.just("rotate away"), st.integers(0, 3)),
    ),
    max_size=30,
)


@given(st.integers(0, 8), st.integers(1, 5), STEPS)
def test_every_committed_entry_is_drawn_exactly_once(
    before: int, tail: int, steps: list[tuple[str, int]]
) -> None:
    """A pod that commits, streams, cuts, restarts and begins new segments, which repeat what a run
    began with; a viewer that now and then is not there."""
    numbers = iter(range(10_000))
    log: list[en.Entry] = []
    logs = {"s1": log}
    shown: list[str] = []
    drawn: list[Line] = []
    transcript = Transcript("alice", everything=True)
    incarnation = 1

    def commit() -> en.Entry:
        log.append(said(f"answer {next(numbers)}"))
        return log[-1]

    def note_all(since: int) -> None:
        shown.extend(line.text for entry in log[since:] for line in draw_entry(entry, {}))

    def rotate(begun: int) -> None:
        nonlocal log
        again = log[max(len(logs) > 1, len(log) - begun) :] if begun else []
        place = len(log) - len(again)
        ref = en.SegmentRef(segment_id=f"s{len(logs)}", at_turn_index=0, at_entry=place)
        kept = en.Carried(entries=1, run_entries=len(again))
        start = en.SegmentStart(ts=TS, session_id="x", compacted_from=ref, carried=kept)
        log = [start, KEPT_STATE, *again]
        logs[f"s{len(logs) + 1}"] = log

    def at(index: int, block: int | None = None) -> Deliver:
        where: dict[str, Any] = {"segment_id": f"s{len(logs)}", "index": index, "ts": TS}
        match log[index]:
            case en.SegmentStart() as start:
                return told(ev.SegmentRotated(**where, entry=start))
            case entry:
                return told(ev.EntryEvent(**where, entry=entry, block=block))

    def look() -> None:
        seen = snapshot(log, tail=tail, segment_id=f"s{len(logs)}" if log else None)
        missing = transcript.missing(seen)
        earlier = log[missing.first : missing.end] if missing else []
        passages: list[Passage] = []
        first = [*earlier, *seen.tail][:1]
        while first and (wanted := transcript.before(first[0])):
            entries = logs[wanted.segment_id][wanted.first : wanted.end]
            passages.insert(0, Passage(wanted.segment_id, wanted.first, tuple(entries)))
            first = entries[:1]
        drawn.extend(transcript.sync(incarnation, seen, earlier, passages))

    for _ in range(before):
        commit()
    note_all(0)
    look()
    for what, count in steps:
        match what:
            case "commit":
                block = 1000 * incarnation + len(drawn)
                for _ in range(count):
                    drawn += transcript.take(told(ev.TextDelta(block=block, text="answer")), 0.0)
                commit()
                note_all(len(log) - 1)
                drawn += transcript.take(at(len(log) - 1, block), 0.0)
                assert transcript.live(0.0) == []
            case "again":
                look()
            case "away" | "restart":
                incarnation += what == "restart"
                since = len(log)
                for _ in range(count):
                    commit()
                note_all(since)
                look()
            case "cut":
                del log[max(len(logs) > 1, len(log) - count) :]
                cut = ev.LogCut(segment_id=f"s{len(logs)}", head_entries=len(log), reason="rewind")
                drawn += transcript.take(told(cut), 0.0)
            case "cut away":
                del log[max(len(logs) > 1, len(log) - min(count, tail - 1)) :]
                since = len(log)
                commit()
                note_all(since)
                look()
            case "rotate":
                rotate(count)
                for index in range(len(log)):
                    drawn += transcript.take(at(index), 0.0)
            case "rotate away":
                since = len(log)
                commit()
                note_all(since)
                rotate(count)
                since = len(log)
                commit()
                note_all(since)
                look()
    assert not [line for line in drawn if "gap" in line.text]
    assert [line.text for line in drawn if line.text.startswith("answer")] == shown
