"""What one who waits for a run is told of it beside its answer."""

from __future__ import annotations

import pytest

from protocol import entries as en
from protocol import events as ev
from protocol.snapshot import Greeting, Snapshot
from protocol.status import AlertLevel, AlertSource, Lane, PodStatus, TurnResult
from protocol.watch import Deliver, Gap, Synced
from protocol.wire import EventHeader
from supervisor.telling import Telling

TS = 1_700_000_000_000


def header(lane: Lane = Lane.STATE) -> EventHeader:
    return EventHeader(pod="alice", incarnation=1, lane=lane, seq=1, ts_ms=TS)


def told(event: ev.Event) -> Deliver:
    return Deliver(header(event.lane), event)


def entry(of: en.Entry) -> ev.EntryEvent:
    return ev.EntryEvent(segment_id="s1", index=0, ts=TS, entry=of)


def item(of: en.Item) -> ev.EntryEvent:
    return entry(en.AssistantItem(ts=TS, item=of))


def synced(context_tokens: int) -> Synced:
    greeting = Greeting(
        pod_name="alice",
        incarnation=1,
        cwd="/w",
        workspace="/w",
        provider="scripted",
        model="echo",
        context_window=200_000,
        context_tokens=context_tokens,
    )
    body = Snapshot(greeting=greeting, status=PodStatus.IDLE).to_wire()
    return Synced(header(), body, again=False)


COMPACTED = en.SegmentStart(
    ts=TS,
    session_id="x",
    history=(en.Message(role="user", content="all of it"),),
    compacted_from=en.SegmentRef(segment_id="s0", at_turn_index=1),
)


@pytest.mark.parametrize(
    ("event", "lines"),
    [
        (
            item(en.ToolCall(call_id="c", name="Bash", arguments='{"command": "npm test"}')),
            ["→ Bash npm test"],
        ),
        (
            ev.LlmRetry(
                llm_call=1,
                failed_attempt=1,
                max_attempts=4,
                wait_ms=1500,
                elapsed_ms=1,
                status=529,
                error="busy",
            ),
            ["! attempt 1 of 4 failed (HTTP 529: busy); the next in 1.5 s"],
        ),
        (ev.CompactStart(), ["── compacting the history"]),
        (ev.CompactFailed(error="no"), ["── compaction failed, nothing changed: no"]),
        (
            ev.SegmentRotated(segment_id="s1", index=0, entry=COMPACTED),
            ["── compacted: 1 turn is summarised, 0 kept", "» summary: all of it"],
        ),
        (ev.Budget(kind="usd", used=0.8, limit=1), ["── budget usd: 0.8 of 1 used"]),
        (
            ev.ApprovalRequested(id="a1", tool="Bash", summary="rm x"),
            ["── waits for a person (a1): Bash rm x"],
        ),
        (
            ev.Alert(
                level=AlertLevel.WARN, source=AlertSource.ENGINE, message="hm", timestamp_ms=TS
            ),
            ["! engine: hm"],
        ),
        (item(en.Message(role="assistant", content="the answer")), []),
        (item(en.Reasoning(text="hm")), []),
        (entry(en.RunErrored(ts=TS, code="internal", message="said at the end")), []),
        (ev.TextDelta(block=1, text="the answer"), []),
        (ev.TurnEnd(turn=1, result=TurnResult.FINISHED), []),
        (ev.Status(status=PodStatus.RUNNING), []),
    ],
)
def test_what_happens_beside_the_answer_is_a_line(event: ev.Event, lines: list[str]) -> None:
    assert [line.text for line in Telling().take(told(event))] == lines


def test_a_result_names_its_call() -> None:
    telling = Telling()
    telling.take(told(item(en.ToolCall(call_id="c", name="Bash", arguments="{}"))))
    result = en.ToolResult(call_id="c", summary="exit code 1", is_error=True)
    (line,) = telling.take(told(entry(en.ToolResultEntry(ts=TS, item=result))))
    assert line.text == "✗ Bash: exit code 1"


def test_what_was_lost_is_said() -> None:
    (line,) = Telling().take(Gap(Lane.STREAM, 3, 4))
    assert line.text == "── gap: 2 events of the stream lane are lost"


def test_the_last_line_adds_up_the_run_and_says_how_full_the_context_is() -> None:
    telling = Telling()
    telling.take(synced(50_000))
    assert telling.summary("rolled_back") == (
        "── rolled_back · in 0 out 0 · context 25% (50k of 200k)"
    )
    for _ in range(2):
        usage = ev.UsageEvent(turn=1, context_tokens=60_000, input_tokens=100, cost_usd=0.5)
        telling.take(told(usage))
    assert telling.summary("finished") == (
        "── finished · in 200 out 0 · $1.0000 · context 30% (60k of 200k)"
    )
    telling.take(told(ev.SegmentRotated(segment_id="s1", index=0, entry=COMPACTED)))
    assert "context ? of 200k" in telling.summary("finished")


def test_a_compaction_whose_segment_was_too_large_to_be_published_is_said_all_the_same() -> None:
    done = told(ev.CompactDone(new_segment_id="s1"))
    seen, unseen = Telling(), Telling()
    for telling in (seen, unseen):
        telling.take(told(ev.CompactStart()))
    unseen.take(told(ev.SegmentRotated(segment_id="s1", index=0, omitted=99_000)))
    assert [line.text for line in unseen.take(done)] == ["── compacted"]
    seen.take(told(ev.SegmentRotated(segment_id="s1", index=0, entry=COMPACTED)))
    assert seen.take(done) == []
