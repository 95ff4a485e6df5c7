"""A pod's history and live stream as lines of text: snapshots and events in, lines out. Pure.

There is one projection of what is committed: a line leaves here because its entry is in the pod's log, and
once. Nothing that was typed is echoed; it is drawn when its entry comes. What streams before its entry is
never a line of its own: `live` shows it, and shows it no more once the entry has come. So whatever a run
loses (a cancelled answer, a broken stream) vanishes from the screen as it vanished from the log.

    Snapshot ──► sync ──► lines not drawn yet          position = (segment, next index)
    log event ─► take ──► its entry, if new               an index below it: drawn already
    stream ────► take ──► (nothing) ─► live(now)          one above it: a gap, said
    fleet ─────► take ──► what became of the pod       log_cut and a changed tail move it back, said

Not guaranteed: after a refill of a lane its stream events may come later than the entry they lead to; blocks
that are settled are therefore ignored. Lines that were printed cannot be taken back: that an entry is gone is
a line, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from protocol import entries as en
from protocol import events as ev
from protocol.entries import Usage
from protocol.snapshot import TAIL_ENTRIES, AlertRecord, Block, Snapshot
from protocol.snapshot import TextBlock as TextSeen
from protocol.snapshot import ThinkingBlock as ThinkingSeen
from protocol.status import AlertLevel, Flag, PodStatus, RunResult
from protocol.watch import Deliver, Gap, Synced
from supervisor.drawing import (
    Line,
    Style,
    call_line,
    draw_entry,
    failure,
    lines_of,
    note,
    one_line,
    thinking,
)

LIVE_CHARS = 4096
"""The end of a block that is kept while it streams; its entry brings all of it."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Entries of a segment that a snapshot's tail does not reach back to: `first` up to `end`, exclusive."""

    segment_id: str
    first: int
    end: int


@dataclass(slots=True)
class _Block:
    """A block whose entry has not come; a call stays, running, until its result comes."""

    kind: str
    name: str = ""
    text: str = ""
    finished: bool = False
    output: str = ""

    def add(self, piece: str) -> None:
        self.text = (self.text + piece)[-LIVE_CHARS:]

    def lines(self) -> list[Line]:
        match self.kind:
            case "text":
                return lines_of(self.text)
            case "thinking":
                return [thinking(self.text[-100:])]
            case _ if self.finished:
                last = one_line(self.output.rstrip().rpartition("\n")[2])
                return [Line(f"⋯ {one_line(self.name)} runs {last}".rstrip(), Style.TOOL)]
            case _:
                return [Line(f"⋯ {call_line(self.name, self.text)}", Style.TOOL)]


@dataclass(frozen=True, slots=True)
class _Retry:
    """The next attempt of a request, and when it comes, on the clock of `take`."""

    text: str
    at: float


class Transcript:
    """One pod as a viewer shows it. `everything` asks for the whole segment, not only the snapshot's tail.

    Events that carry only a reference must be completed before they are given to `take`.
    """

    def __init__(self, pod: str, *, everything: bool = False) -> None:
        self.pod = pod
        self.status: PodStatus | None = None
        self.incarnation = 0
        self._everything = everything
        self._flags: tuple[Flag, ...] = ()
        self._usage = Usage()
        self._context_tokens = 0
        self._context_window = 0
        self._segment: str | None = None
        self._next = 0
        self._drawn: deque[tuple[int, en.Entry]] = deque(maxlen=2 * TAIL_ENTRIES)
        self._calls: dict[str, str] = {}
        self._alerts: set[AlertRecord] = set()
        self._failure: Line | None = None
        self._blocks: dict[int | str, _Block] = {}
        self._settled: set[int | str] = set()
        self._retry: _Retry | None = None

    # -- snapshots ----------------------------------------------------------------------------------

    def missing(self, snapshot: Snapshot) -> Missing | None:
        """Return what is neither drawn nor in the snapshot's tail and is wanted; for `sync` as `earlier`."""
        if snapshot.segment_id is None or not (self._is_synced or self._everything):
            return None
        first = self._next if snapshot.segment_id == self._segment else 0
        end = snapshot.head_entries - len(snapshot.tail)
        return Missing(snapshot.segment_id, first, end) if first < end else None

    def sync(
        self, incarnation: int, snapshot: Snapshot, earlier: Sequence[en.Entry] = ()
    ) -> list[Line]:
        """Take a snapshot, with the entries that `missing` asked for; returns what is not drawn yet."""
        lines = self._greet(incarnation, snapshot)
        start = snapshot.head_entries - len(snapshot.tail)
        rows = list(enumerate((*earlier, *snapshot.tail), start - len(earlier)))
        if snapshot.segment_id is not None:
            lines += self._move_to(snapshot.segment_id, snapshot.head_entries, rows)
        new = [alert for alert in snapshot.alerts if alert not in self._alerts]
        if not self._is_synced and rows:
            new = [alert for alert in new if alert.timestamp_ms >= rows[0][1].ts]
        self._alerts = set(snapshot.alerts)
        for index, entry in rows:
            while new and new[0].timestamp_ms < entry.ts:
                lines.append(_draw_alert(new.pop(0)))
            lines += self._commit(snapshot.segment_id or "", index, entry, fresh=not self._is_synced)
        lines += [_draw_alert(alert) for alert in new]
        self._follow(incarnation, snapshot)
        return lines + self._set_status(snapshot.status, snapshot.flags)

    @property
    def _is_synced(self) -> bool:
        return self.incarnation > 0

    def _greet(self, incarnation: int, snapshot: Snapshot) -> list[Line]:
        if not self._is_synced:
            of = snapshot.greeting
            return [note(f"{self.pod} · {of.provider}/{of.model} · {of.cwd}")]
        if incarnation != self.incarnation:
            return [note(f"connected to {self.pod} again: incarnation {incarnation}")]
        return []

    def _move_to(
        self, segment_id: str, head: int, rows: Sequence[tuple[int, en.Entry]]
    ) -> list[Line]:
        """Go to the snapshot's segment, or back to where its entries are no longer those drawn."""
        if self._segment == segment_id:
            drawn = dict(self._drawn)
            kept = next(
                (index for index, entry in rows if drawn.get(index, entry) != entry),
                min(head, self._next),
            )
            return self._cut(kept, "the history was changed meanwhile")
        lines = [note("the session goes on in another segment")] if self._segment else []
        self._begin_segment(segment_id)
        if not self._is_synced and rows and rows[0][0] > 0:
            self._next = rows[0][0]
            lines.append(note(f"{self._next} earlier entries: podsup attach {self.pod} --all"))
        return lines

    def _follow(self, incarnation: int, snapshot: Snapshot) -> None:
        self.incarnation = incarnation
        self._usage = snapshot.usage
        self._context_tokens = snapshot.greeting.context_tokens
        self._context_window = snapshot.greeting.context_window
        self._settled.clear()
        self._clear_live()
        for block in snapshot.in_flight.blocks:
            key, seen = _seen_block(block)
            self._blocks[key] = seen

    # -- events -------------------------------------------------------------------------------------

    def take(self, told: Synced | Deliver | Gap, now: float) -> list[Line]:
        """Take what a watcher of the pod or of the fleet told; `now` is monotonic seconds."""
        match told:
            case Gap(lane=lane, first=first, last=last):
                lost = f"gap: {last - first + 1} events of the {lane} lane are lost"
                return [note(f"{lost}; a new snapshot follows", Style.WARN)]
            case Deliver(header=header, event=event) if header.epoch is not None:
                return self._on_fleet(event) if header.pod == self.pod else []
            case Deliver(event=ev.LogEvent() as event):
                return self._on_log(event)
            case Deliver(event=ev.LogCut() as cut):
                return self._on_cut(cut)
            case Deliver(event=ev.StreamEvent() as event):
                return self._on_stream(event, now)
            case Deliver(event=event):
                return self._on_state(event)
            case Synced():
                return []

    def _on_log(self, event: ev.LogEvent) -> list[Line]:
        entry = entry_of(event)
        if isinstance(event, ev.EntryEvent) and event.block is not None:
            self._settle(event.block, entry)
        if entry is None:
            entry = en.UnknownEntry(kind=f"too large to show ({event.omitted or 0} bytes)")
        return self._commit(event.segment_id, event.index, entry, fresh=False)

    def _commit(self, segment_id: str, index: int, entry: en.Entry, *, fresh: bool) -> list[Line]:
        """Draw an entry at its position, unless it is drawn."""
        lines: list[Line] = []
        if segment_id != self._segment:
            self._begin_segment(segment_id)
        if index < self._next:
            return lines
        if index > self._next:
            lines.append(note(f"gap: entries {self._next} to {index - 1} are not shown", Style.WARN))
        self._next = index + 1
        self._drawn.append((index, entry))
        match entry:
            case en.AssistantItem(item=en.ToolCall(call_id=call_id, name=name)):
                self._calls[call_id] = name
            case en.Invoke():
                self._failure = None
        lines += draw_entry(entry, self._calls, with_history=fresh)
        match entry:
            case en.ToolResultEntry(item=result):
                self._calls.pop(result.call_id, None)
            case en.RunErrored():
                self._failure = lines[-1]
        return lines

    def _begin_segment(self, segment_id: str) -> None:
        self._segment, self._next = segment_id, 0
        self._drawn.clear()

    def _on_cut(self, cut: ev.LogCut) -> list[Line]:
        if cut.segment_id != self._segment:
            return []
        if cut.reason == "rollback":
            return self._cut(cut.head_entries, "the run had shown nothing and is taken back")
        return self._cut(cut.head_entries, "rewound")

    def _cut(self, head: int, why: str) -> list[Line]:
        gone = self._next - head
        if gone <= 0:
            return []
        self._next = head
        while self._drawn and self._drawn[-1][0] >= head:
            self._drawn.pop()
        return [note(f"{why}: the last {gone} entries are gone")]

    def _settle(self, key: int | str, entry: en.Entry | None) -> None:
        match entry:
            case en.AssistantItem(item=en.ToolCall(name=name)):
                self._blocks[key] = _Block("tool_call", name, finished=True)
            case _:
                self._blocks.pop(key, None)
                self._settled.add(key)

    def _on_stream(self, event: ev.StreamEvent, now: float) -> list[Line]:
        match event:
            case ev.TextDelta(block=key, text=text):
                self._at(key, "text").add(text)
            case ev.TextDone(block=key, text=text) if text:
                done = self._at(key, "text")
                done.text, done.finished = text[-LIVE_CHARS:], True
            case ev.ThinkingStart(block=key):
                self._at(key, "thinking")
            case ev.ThinkingDelta(block=key, text=text):
                self._at(key, "thinking").add(text)
            case ev.ThinkingDone(block=key):
                self._at(key, "thinking").finished = True
            case ev.ToolCallStart(id=key, name=name):
                self._at(key, "tool_call").name = name
            case ev.ToolCallArgsDelta(id=key, json_=piece):
                self._at(key, "tool_call").add(piece)
            case ev.ToolOutputDelta(id=key, text=text) if key in self._blocks:
                block = self._blocks[key]
                block.finished, block.output = True, (block.output + text)[-LIVE_CHARS:]
            case ev.LlmRetry():
                return self._on_retry(event, now)
            case ev.LlmContinuation(attempt=attempt, max_attempts=most, reason=reason):
                self._drop_unfinished()
                text = f"! the stream broke ({one_line(reason)}); going on, {attempt} of {most}"
                return [Line(text, Style.WARN)]
            case ev.LlmCallStart() | ev.LlmCallEnd():
                self._retry = None
        return []

    def _at(self, key: int | str, kind: str) -> _Block:
        """The block of this key; a new one that nobody sees for a block whose entry has come."""
        self._retry = None
        if key in self._settled:
            return _Block(kind)
        return self._blocks.setdefault(key, _Block(kind))

    def _on_retry(self, event: ev.LlmRetry, now: float) -> list[Line]:
        status = f"HTTP {event.status}: " if event.status else ""
        why = one_line(f"{status}{event.error}")
        wait_s = event.wait_ms / 1000
        following = f"attempt {event.failed_attempt + 1} of {event.max_attempts}"
        self._retry = _Retry(following, now + wait_s)
        failed = f"! attempt {event.failed_attempt} of {event.max_attempts} failed ({why})"
        return [Line(f"{failed}; the next in {wait_s:.1f} s", Style.WARN)]

    def _drop_unfinished(self) -> None:
        self._blocks = {key: block for key, block in self._blocks.items() if block.finished}

    def _clear_live(self) -> None:
        self._blocks.clear()
        self._retry = None

    def _on_state(self, event: ev.Event) -> list[Line]:
        match event:
            case ev.Status(status=status, flags=flags):
                return self._set_status(status, flags)
            case ev.RunEnd(result=result):
                self._clear_live()
                if result is RunResult.ERRORED and event.error and self._failure is None:
                    return self._fail(event.error.code, event.error.message)
            case ev.ErrorEvent(code=code, message=message):
                return self._fail(code, message)
            case ev.UsageEvent(context_tokens=tokens):
                self._context_tokens = tokens
                self._usage = self._usage.plus(
                    Usage(**{name: getattr(event, name) for name in Usage.model_fields})
                )
            case ev.Alert():
                alert = AlertRecord(**{n: getattr(event, n) for n in AlertRecord.model_fields})
                if alert not in self._alerts:
                    self._alerts.add(alert)
                    return [_draw_alert(alert)]
            case ev.CompactStart():
                return [note("compacting the history")]
            case ev.CompactFailed(error=error):
                return [note(f"compaction failed, nothing changed: {error}", Style.WARN)]
            case ev.ScopeDenied(path=path, layer=layer):
                return [note(f"refused by its scope ({layer}): {path}", Style.WARN)]
            case ev.Budget(kind=kind, used=used, limit=limit):
                return [note(f"budget {kind}: {used:g} of {limit:g} used", Style.WARN)]
            case ev.ApprovalRequested(id=asked, tool=tool, summary=summary):
                return [note(f"waits for a person ({asked}): {tool} {summary}", Style.WARN)]
            case ev.Shutdown():
                return [note(f"{self.pod} leaves")]
            case ev.UnknownEvent(name=name):
                return [Line(f"· an event of a newer kind: {one_line(name)}", Style.DIM)]
        return []

    def _fail(self, code: str, message: str) -> list[Line]:
        """Draw a failure, unless the run's last entry or the event before has said it."""
        line = failure(code, message)
        if line == self._failure:
            return []
        self._failure = line
        return [line]

    def _set_status(self, status: PodStatus, flags: tuple[Flag, ...] = ()) -> list[Line]:
        before, self.status, self._flags = self.status, status, flags
        if status is PodStatus.PAUSED and before is not PodStatus.PAUSED:
            how = f"/resume or podsup resume {self.pod} goes on, /cancel gives it up"
            return [note(f"paused: {how}")]
        return []

    def _on_fleet(self, event: ev.Event) -> list[Line]:
        pod = self.pod
        match event:
            case ev.PodStarting(incarnation=incarnation):
                self.status = PodStatus.STARTING
                return [note(f"{pod} starts: incarnation {incarnation}")]
            case ev.PodUnreachable(silence_s=silence_s):
                self.status = PodStatus.UNREACHABLE
                return [note(f"{pod} was not heard of for {silence_s:.0f} s", Style.WARN)]
            case ev.PodExited(cause=cause, signal=signal):
                self._clear_live()
                self.status = PodStatus.STOPPING
                return [note(f"{pod} exited: {cause}" + (f" ({signal})" if signal else ""))]
            case ev.PodBackoff(wait_s=wait_s, attempt=attempt):
                self.status = PodStatus.BACKOFF
                return [note(f"{pod} starts again in {wait_s:.1f} s (attempt {attempt})")]
            case ev.PodFailed(cause=cause, message=message):
                self.status = PodStatus.FAILED
                why = f"{cause}: {message}" if message else cause
                return [note(f"{pod} failed: {why}; podsup why {pod}", Style.ERROR)]
            case ev.PodStopped(cause=cause):
                self.status = PodStatus.STOPPED
                return [note(f"{pod} is stopped: {cause}; podsup restore {pod}")]
            case ev.PodDeleted():
                return [note(f"{pod} is deleted")]
            case ev.Status(status=status) if self.status is PodStatus.UNREACHABLE:
                return self._set_status(status)
        return []

    # -- what is shown beside the lines -------------------------------------------------------------

    def live(self, now: float) -> list[Line]:
        """Return what is not committed yet, oldest first, and the countdown of a retry."""
        lines = [line for block in self._blocks.values() for line in block.lines()]
        if self._retry is not None:
            left = max(0.0, self._retry.at - now)
            lines.append(Line(f"⋯ {self._retry.text} in {left:.0f} s", Style.WARN))
        return lines

    def status_line(self) -> str:
        """Return the pod's status, how full its context is, and what it has used, as one line."""
        words = [self.pod, " ".join([self.status or "…", *self._flags])]
        if self._context_window:
            share = 100 * self._context_tokens / self._context_window
            window = f"{_count(self._context_tokens)} of {_count(self._context_window)}"
            words.append(f"context {share:.0f}% ({window})")
        usage = self._usage
        words.append(f"in {_count(usage.input_tokens)} out {_count(usage.output_tokens)}")
        if usage.cost_usd is not None:
            words.append(f"${usage.cost_usd:.4f}")
        return " · ".join(words)


def entry_of(event: ev.LogEvent) -> en.Entry | None:
    """Return the committed entry that an event of the log lane stands for; None where it was left out."""
    if event.omitted is not None:
        return None
    match event:
        case ev.UserMessage(segments=segments):
            return en.UserInput(ts=event.ts, segments=segments)
        case ev.SystemItemEvent(item=item) if item is not None:
            return en.SystemItemEntry(ts=event.ts, item=item)
        case ev.InvokeStart(trigger=trigger, request_id=request_id):
            return en.Invoke(ts=event.ts, trigger=trigger, request_id=request_id)
        case ev.SegmentRotated(entry=entry) | ev.EntryEvent(entry=entry):
            return entry
        case _:
            return None


def _seen_block(block: Block) -> tuple[int | str, _Block]:
    match block:
        case TextSeen(block=key, text=text, finished=finished):
            return key, _Block("text", text=text[-LIVE_CHARS:], finished=finished)
        case ThinkingSeen(block=key, text=text, finished=finished):
            return key, _Block("thinking", text=text[-LIVE_CHARS:], finished=finished)
        case call:
            seen = _Block("tool_call", call.name, call.args, output=call.output_tail)
            seen.finished = call.state in ("running", "done")
            return call.id, seen


def _draw_alert(alert: AlertRecord) -> Line:
    style = Style.ERROR if alert.level is AlertLevel.ERROR else Style.WARN
    return Line(f"! {alert.source}: {one_line(alert.message, 500)}", style)


def _count(tokens: int) -> str:
    return f"{tokens / 1000:.0f}k" if tokens >= 10_000 else str(tokens)
