"""One hand-chosen sample of every message class, each showing all of its fields.

What a class looks like on the wire is kept in `golden/`. A change of a message is a change of the
protocol: `test_golden.py` fails until `REVISION` is raised here (or `protocol.wire.VERSION`, where
an older reader would misunderstand a newer writer) and the files are written again with
`python -m tests.protocol.regenerate_golden`.
"""

from __future__ import annotations

from protocol import control as c
from protocol import entries as en
from protocol import events as ev
from protocol import methods as m
from protocol import pod_events as pe
from protocol import segments as sg
from protocol import snapshot as sn
from protocol import wire as w
from protocol.base import Wire
from protocol.error_body import ErrorBody
from protocol.lanes import ReplayEnd
from protocol.scope import LentRule, Permission, Scope, ScopeRule
from protocol.status import (
    AlertLevel,
    AlertSource,
    Flag,
    Lane,
    PodStatus,
    Relation,
    RunResult,
    Trigger,
    TurnResult,
)

REVISION = 11
"""Raise it with a change of a message that older readers survive; VERSION with any other one."""

TS = 1_700_000_000_123
RULE = ScopeRule(target="/w/src", permission=Permission.WRITE, recursive=False)
NEWS = m.News(event_id="bob/1/shut_down", line="Pod bob has stopped")
LENT = LentRule(target="/w/src", permission=Permission.WRITE, recursive=False, pod="bob")
TEXT = sg.Text(content="fix the test – bitte\n")
USAGE = en.Usage(
    input_tokens=1200,
    output_tokens=34,
    cache_read_tokens=1000,
    cache_write_tokens=200,
    cost_usd=0.0125,
)
CALL = en.ToolCall(call_id="call_1", name="Read", arguments='{"path": "a.py"}')
RESULT = en.ToolResult(call_id="call_1", summary="read 2 lines", content="1\n2\n", is_error=True)
ITEM = en.SystemItem(kind="notification", body="[notice] done", id="n-1")
INVOKE = en.Invoke(ts=TS, trigger=Trigger.USER_SEND, request_id="r-1", by="boss")
END = en.RunCompleted(ts=TS, result=RunResult.PAUSED, reason="pause", report="bob/1/2")
ERROR = ErrorBody(
    code="write_conflict",
    message="bob writes there",
    details={"holders": [{"pod": "bob", "pid": 7}]},
    next="podsup locks",
)
SUMMARY = ev.RewindSummary(discarded_entries=5, discarded_turns=2, tools_ran=1)
SCOPES = sn.ScopeSummary(read=("/w",), write=("/w/src",))
SANDBOX = sn.Sandbox(level="landlock", unprotected=("network",))
GREETING = sn.Greeting(
    pod_name="alice",
    incarnation=3,
    cwd="/w",
    workspace="/w",
    provider="anthropic",
    model="claude-x",
    scope_summary=SCOPES,
    delegation_summary=sn.ScopeSummary(read=("/w/docs",)),
    sandbox=SANDBOX,
    tools=("Bash", "Read"),
    context_window=200_000,
    context_tokens=1234,
)
BLOCK = sn.TextBlock(block=1, text="so", finished=True)
ALERT = sn.AlertRecord(
    level=AlertLevel.WARN, source=AlertSource.ENGINE, message="slow", timestamp_ms=TS
)
OPERATION = sn.OperationRecord(
    id="o-1",
    kind="stop",
    pods=("alice",),
    state="failed",
    message="waits for bash",
    result={"stopped": 1},
    error={"code": "timeout"},
)
PRESENCE = sn.PodPresence(
    name="alice", status=PodStatus.IDLE, incarnation=3, endpoint="ipc:///r/e1"
)
EXIT = c.LastExit(code=1, signal="SIGKILL", cause="crashed", at=TS)
PROGRESS = c.Progress(what="tool Bash", since_ms=TS)
RESUME = c.Resume(
    status=PodStatus.PAUSED,
    session_id="s-1",
    segment_id="g-1",
    turn=4,
    context_tokens=1234,
    context_window=200_000,
    usage=USAGE,
    tasked=True,
)
PS_ROW = c.PsRow(
    name="alice",
    status=PodStatus.RUNNING,
    flags=(Flag.BUSY,),
    pid=4711,
    incarnation=3,
    parent="root",
    model="anthropic:claude-x",
    started_at=TS,
    age_s=1.5,
    restarts=2,
    last_exit=EXIT,
    turn=4,
    context_tokens=1234,
    context_window=200_000,
    input_tokens=1200,
    output_tokens=34,
    cost_usd=0.0125,
    beat_age_s=0.25,
    progress=PROGRESS,
    scope=SCOPES,
)
SUPERVISOR = c.SupervisorRow(pid=4700, version="0.1.0", uptime_s=12.5, lag_ms=0.5)
FIGURE = c.Figure(now=3, most=16)
CAPS = c.PodCaps(
    children=FIGURE,
    tree=c.Figure(now=5, most=64),
    depth=c.Figure(now=1, most=4),
    notification_runs_per_minute=c.Figure(now=2, most=30),
    notification_runs_per_hour=c.Figure(now=20, most=200),
)
STORY_LINE = c.StoryLine(
    at=TS, incarnation=3, before=PodStatus.STARTING, after=PodStatus.IDLE, why="hello"
)
ALLOCATED = c.Allocated(
    home="/h/.podsup",
    pod="alice",
    incarnation=3,
    pid=4711,
    supervisor="fleet",
    scope_allow=(RULE,),
    scope_deny=(ScopeRule(target="/w/src/secret", permission=Permission.READ),),
    delegated_from="root",
    session_id="s-1",
    segment_id="g-1",
    state="held",
)
APPROVAL = c.Approval(id="a-1", pod="alice", tool="Bash", summary="rm -r build", deadline_ms=60_000)
POD_ROW = m.PodRow(
    name="bob",
    relation=Relation.CHILD,
    status=PodStatus.STOPPED,
    reachable=False,
    restorable=True,
    reason="asked to stop",
    parent="alice",
    scope_summary=SCOPES,
    children=("carol",),
)
DETAIL = m.PodDetail(
    name="bob",
    relation=Relation.PEER,
    status=PodStatus.IDLE,
    reachable=True,
    restorable=False,
    reason="live",
    parent="alice",
    scope_summary=SCOPES,
    children=("carol",),
    incarnation=3,
    session_id="s-1",
    segment_id="g-1",
    last_result=RunResult.FINISHED,
    last_error="timeout",
    usage=USAGE,
    context_tokens=1234,
    peers=("dave",),
)
TARGET = m.RewindTarget(
    segment_id="g-1",
    user_input_entry_index=7,
    turn_index=2,
    timestamp_ms=TS,
    preview="fix the…",
    warning="tools ran",
)

SAMPLES: tuple[Wire, ...] = (
    # -- methods and their replies
    m.Accepted(),
    m.Run(input=(TEXT,)),
    m.Notify(message="look", auto_run=False, queued=True, news=(NEWS,)),
    NEWS,
    m.PodEventMethod(event_id="3-1", event=pe.ShutDown(pod_name="bob", cause="exit 0")),
    m.Resume(),
    m.Pause(),
    m.Cancel(),
    m.Compact(),
    TARGET,
    m.RewindTargets(head_entries=9, targets=(TARGET,)),
    m.ListRewindTargets(),
    m.RewindTargetId(segment_id="g-1", user_input_entry_index=7),
    m.Rewound(segment_id="g-1", head_entries=7, input=(TEXT,), summary=SUMMARY),
    m.RewindTo(
        target=m.RewindTargetId(segment_id="g-1", user_input_entry_index=7),
        expected_head_entries=9,
    ),
    m.Completion(value="src/", is_dir=True),
    m.Completions(entries=(m.Completion(value="src/", is_dir=True),)),
    m.ListCompletions(kind="file", prefix="sr"),
    POD_ROW,
    m.PodRows(pods=(POD_ROW,)),
    m.ListPods(),
    DETAIL,
    m.Inspected(pod=DETAIL),
    m.InspectPod(name="bob"),
    m.Restored(name="bob", outcome="already_live"),
    m.RestorePod(name="bob"),
    m.PeersRegistered(source="alice", peer="bob"),
    m.RegisterPeer(name="bob"),
    m.HistoryPosition(index=5),
    m.History(segment_id="g-1", first_index=5, entries=(INVOKE,), head_entries=6),
    m.GetHistory(
        segment_id="g-1",
        since=m.HistoryPosition(index=5),
        before=m.HistoryPosition(index=9),
        limit=2,
    ),
    m.ScopeLend(lent=(LENT,), number=4, stop_jobs=True),
    m.ShutdownMethod(grace_ms=5000),
    # -- controls and their replies
    c.Started(operation="o-1", result={"reclaimed": ["/w/src"]}),
    RESUME,
    c.Welcome(lent=(LENT,), number=4),
    c.Hello(
        pod="alice",
        incarnation=3,
        endpoint="ipc:///r/e1",
        pid=4711,
        resume=RESUME,
        sandbox=SANDBOX,
    ),
    c.ClaimSegment(session_id="s-1", segment_id="g-2"),
    PROGRESS,
    EXIT,
    PS_ROW,
    SUPERVISOR,
    c.Ps(fleet="f", supervisor=SUPERVISOR, pods=(PS_ROW,)),
    c.ListFleet(),
    c.StatusRow(
        **dict(PS_ROW),
        children=("carol",),
        peers=("dave",),
        usage=USAGE,
        sandbox=SANDBOX,
        caps=CAPS,
        last_error="timeout",
        endpoint="ipc:///r/e1",
        session_id="s-1",
        segment_id="g-1",
        state_seq=77,
        reason="asked to stop",
    ),
    FIGURE,
    CAPS,
    c.StatusOf(pod="alice"),
    STORY_LINE,
    c.Story(pod="alice", status=PodStatus.IDLE, lines=(STORY_LINE,), stderr_tail="Traceback"),
    c.Why(pod="alice"),
    ALLOCATED,
    c.Allocations(allocations=(ALLOCATED,)),
    c.Locks(),
    c.EndpointInfo(endpoint="ipc:///r/ev", epoch=12),
    c.EventsEndpoint(),
    c.Pong(fleet="f", workspace="/w", pid=4700, version="0.1.0", uptime_s=12.5, epoch=12),
    c.Ping(),
    c.LogsTail(path="/h/alice.log", text="started\n"),
    c.LogsTailOf(pod="alice", lines=5, previous=True),
    c.Stats(),
    APPROVAL,
    c.ApprovalList(approvals=(APPROVAL,)),
    c.Approvals(),
    c.Spawn(table={"name": "bob", "task": "count"}, parent="alice", stop_jobs=True),
    c.Stop(pods=("bob",), all_pods=True, grace_s=2.5),
    c.Kill(pods=("bob",)),
    c.Restart(pods=("bob",), grace_s=2.5),
    c.Restore(pod="bob"),
    c.Delete(pods=("bob",)),
    c.Reclaim(pod="bob"),
    c.Reclaimed(reclaimed=("bob",), left={"carol": "alive"}),
    c.RegisterPeers(source="alice", peer="bob"),
    c.ReportUp(event_id="3-1", event=pe.ShutDown(pod_name="bob", cause="exit 0")),
    c.SeenPods(),
    c.SeenPod(name="bob"),
    c.Apply(pods=({"name": "bob"},), dry_run=True),
    c.Drain(),
    c.Down(grace_s=2.5),
    c.Reload(),
    c.ApprovalAnswer(id="a-1", allow=True),
    # -- events
    ev.UnknownEvent(name="sang", data={"song": "la"}),
    ev.UserMessage(segment_id="g-1", index=7, ts=TS, omitted=99_000, segments=(TEXT,)),
    ev.SystemItemEvent(segment_id="g-1", index=8, ts=TS, omitted=99_000, item=ITEM),
    ev.InvokeStart(
        segment_id="g-1", index=6, ts=TS, omitted=1, trigger=Trigger.NOTIFY, request_id="r-1"
    ),
    ev.SegmentRotated(segment_id="g-1", index=0, ts=TS, omitted=99_000, entry=INVOKE),
    ev.EntryEvent(segment_id="g-1", index=9, ts=TS, omitted=99_000, entry=INVOKE, block="call_1"),
    ev.LogCut(segment_id="g-1", head_entries=7, reason="rewind"),
    ev.TurnStart(turn=4),
    ev.TurnEnd(turn=4, result=TurnResult.INTERRUPTED),
    ev.LlmCallStart(llm_call=5),
    ev.LlmCallEnd(llm_call=5),
    ev.LlmRetry(
        llm_call=5,
        failed_attempt=1,
        max_attempts=4,
        wait_ms=500,
        elapsed_ms=1500,
        status=529,
        error="overloaded",
    ),
    ev.LlmContinuation(llm_call=5, attempt=1, max_attempts=2, reason="stream broke"),
    ev.TextDelta(block=1, text="so"),
    ev.TextDone(block=1, text="so it is"),
    ev.ThinkingStart(block=0),
    ev.ThinkingDelta(block=0, text="hm"),
    ev.ThinkingDone(block=0, text="hmm"),
    ev.ToolCallStart(id="call_1", name="Read"),
    ev.ToolCallArgsDelta(id="call_1", json_='{"pa'),
    ev.ToolCallDone(id="call_1", name="Read", arguments='{"path": "a.py"}'),
    ev.ToolOutputDelta(id="call_1", stream="stdout", text="1\n"),
    ev.ToolResultEvent(id="call_1", summary="read 2 lines", output="1\n2\n", is_error=True),
    ev.Status(status=PodStatus.RUNNING, flags=(Flag.BUSY, Flag.SLOW)),
    ev.RunEnd(
        result=RunResult.ROLLED_BACK,
        request_id="r-1",
        reason="cancel",
        input=(TEXT,),
        error=ERROR,
    ),
    ev.ErrorEvent(code="provider_error", message="529"),
    ev.UsageEvent(
        turn=4,
        context_tokens=1234,
        input_tokens=1200,
        output_tokens=34,
        cache_read_tokens=1000,
        cache_write_tokens=200,
        cost_usd=0.0125,
    ),
    ev.Alert(level=AlertLevel.ERROR, source=AlertSource.POD, message="disk full", timestamp_ms=TS),
    ev.CompactStart(),
    ev.CompactDone(new_segment_id="g-2"),
    ev.CompactFailed(error="too long"),
    SUMMARY,
    ev.RewindApplied(segment_id="g-1", head_entries=7, input=(TEXT,), summary=SUMMARY),
    ev.MemoryWorker(
        worker="extract",
        status="failed",
        run_id="r-2",
        trigger="run_end",
        reason="budget",
        message="none left",
        timestamp_ms=TS,
    ),
    ev.PeerRegistered(source="alice", peer="bob"),
    ev.PodRestored(name="bob", outcome="restored"),
    ev.ApprovalRequested(id="a-1", tool="Bash", summary="rm -r build", deadline_ms=60_000),
    ev.ApprovalResolved(id="a-1", answer="deny"),
    ev.ScopeDenied(path="/etc/passwd", layer="file"),
    ev.Budget(kind="tokens", used=80.5, limit=100.0),
    ev.Shutdown(),
    ev.Tick(seqs={Lane.STATE: 3, Lane.STREAM: 500}),
    ev.PodStarting(incarnation=3),
    ev.PodReady(incarnation=3, pid=4711, endpoint="ipc:///r/e1"),
    ev.PodUnreachable(silence_s=5.5),
    ev.PodExited(cause="crashed", code=1, signal="SIGSEGV"),
    ev.PodBackoff(until=TS, attempt=2, wait_s=0.5),
    ev.PodFailed(cause="start_limit", message="5 starts in 10 s"),
    ev.PodStopped(cause="asked"),
    ev.PodDeleted(),
    ev.ScopeGranted(rules=(RULE,)),
    ev.ScopeDelegated(child="bob", rules=(RULE,)),
    ev.ScopeReclaimed(cause="exit"),
    ev.Operation(
        id="o-1",
        state="failed",
        kind="stop",
        pods=("alice",),
        message="waits for bash",
        result={"stopped": 1},
        error=ERROR,
    ),
    # -- entries and items
    USAGE,
    en.Message(role="assistant", content="so it is"),
    CALL,
    RESULT,
    en.Reasoning(text="hmm", summary="thought", encrypted_content="AAE=", signature="sig"),
    en.UnknownItem.from_wire({"kind": "image", "url": "data:"}),
    ITEM,
    en.SegmentRef(segment_id="g-0", at_turn_index=3, at_entry=17),
    en.Carried(
        turn_count=3,
        usage=USAGE,
        request_ids=("task", "r-1"),
        delivered=("n-1",),
        used_answers=(0, 2),
        entries=2,
        run_entries=2,
        open_run=INVOKE,
        last_result=END,
        paused=True,
        note_due=True,
        owed=(END,),
        unasked=(TS,),
    ),
    en.SegmentStart(
        ts=TS,
        schema_=1,
        session_id="s-1",
        system_prompt="be brief",
        config={"max_turns": 40, "stop": None},
        history=(en.Message(role="user", content="hi"), CALL, RESULT),
        forked_from=en.SegmentRef(segment_id="g-0", at_turn_index=3),
        compacted_from=en.SegmentRef(segment_id="g-0", at_turn_index=4),
        carried=en.Carried(turn_count=4),
    ),
    INVOKE,
    en.UserInput(ts=TS, segments=(TEXT, sg.FileRef(path="a.py"))),
    en.AssistantItem(ts=TS, item=CALL),
    en.ToolResultEntry(ts=TS, item=RESULT),
    en.SystemItemEntry(ts=TS, item=ITEM),
    en.TurnEnd(ts=TS, turn_count=4),
    en.LlmUsage(
        ts=TS,
        history_len=12,
        input_tokens=1200,
        output_tokens=34,
        cache_read_tokens=1000,
        cache_write_tokens=200,
        cost_usd=0.0125,
        answer=2,
        purpose="compaction",
    ),
    END,
    en.RunErrored(ts=TS, code="provider_error", message="529", interrupted=True, report="bob/1/3"),
    en.PausedTurnAbandoned(ts=TS),
    en.ConfigChanged(ts=TS, config={"max_turns": 50}),
    en.Extension(ts=TS, domain="tasks", payload={"done": [1, 2]}),
    en.UnknownEntry.from_wire({"kind": "dream", "ts": TS, "of": "sheep"}),
    # -- input segments
    TEXT,
    sg.Paste(id=1, chars=8, lines=2, content="one\ntwo\n"),
    sg.FileRef(path="src/a.py"),
    sg.KnowledgeRef(slug="style"),
    sg.WorkflowInvoke(slug="release"),
    sg.UnknownSegment.from_wire({"kind": "sketch", "svg": "<svg/>"}),
    # -- a child's reports
    pe.TurnEnded(pod_name="bob", result=RunResult.FINISHED, usage=USAGE),
    pe.Errored(pod_name="bob", code="provider_error", message="529"),
    pe.ShutDown(pod_name="bob", cause="exit 0", scope=(RULE,), kept=(LENT,)),
    pe.ScopeSubDelegated(parent_pod="bob", sub_pod="carol", scope=(RULE,)),
    # -- snapshots and their parts
    SCOPES,
    SANDBOX,
    GREETING,
    BLOCK,
    sn.ThinkingBlock(block=0, text="hm", finished=True),
    sn.ToolCallBlock(id="call_1", name="Read", args="{}", state="running", output_tail="1\n"),
    sn.InFlight(blocks=(BLOCK,)),
    ALERT,
    sn.Snapshot(
        segment_id="g-1",
        head_entries=9,
        tail=(INVOKE,),
        greeting=GREETING,
        status=PodStatus.RUNNING,
        flags=(Flag.WAITING,),
        in_flight=sn.InFlight(blocks=(BLOCK,)),
        alerts=(ALERT,),
        seqs={Lane.STATE: 3, Lane.LOG: 9, Lane.STREAM: 500},
        usage=USAGE,
    ),
    OPERATION,
    PRESENCE,
    sn.FleetSnapshot(
        fleet="f", epoch=12, pods=(PRESENCE,), operations=(OPERATION,), seqs={Lane.STATE: 3}
    ),
    # -- headers, and what stands beside them
    w.RequestHeader(id="r-1", to="alice", method="run", deadline_ms=5000, token="t0ken"),
    w.ForwardHeader(id="r-1", sender="operator", method="run", deadline_ms=5000),
    w.ReplyHeader(id="r-1", ok=True, status=PodStatus.RUNNING, seq=4),
    w.BeatHeader(
        pod="alice",
        incarnation=3,
        seq=60,
        status=PodStatus.IDLE,
        progress=PROGRESS,
        seqs={Lane.STATE: 3, Lane.LOG: 9, Lane.STREAM: 500},
        notification_runs=(2, 20),
    ),
    w.WhoHeader(),
    w.EventHeader(
        pod="alice",
        incarnation=3,
        lane=Lane.STATE,
        seq=4,
        ts_ms=TS,
        epoch=12,
        fleet_seq=40,
    ),
    ERROR,
    ReplayEnd(lane=Lane.LOG, oldest=5, newest=9),
    RULE,
    LENT,
    Scope(allow=(RULE,), deny=(ScopeRule(target="/w/src/secret", permission=Permission.READ),)),
)
"""Every class once."""
