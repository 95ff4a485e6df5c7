"""A pod's history and live stream as lines of text: snapshots and events in, lines out. Pure.

There is one projection of what is committed: a line leaves here because its entry is in the pod's
log, and once. Nothing that was typed is echoed; it is drawn when its entry comes. What streams
before its entry is never a line of its own: `live` shows it, and shows it no more once the entry
has come. So whatever a run loses (a cancelled answer, a broken stream) vanishes from the screen as
it vanished from the log.

    snapshot ──► sync ──► lines not drawn yet         position = (segment, next index)
    log event ─► take ──► its entry, if new              an index below it: drawn already
    stream ────► take ──► nothing; `live` changes        one above it: a gap, said
    fleet ─────► take ──► what became of the pod      a cut, or a changed tail, moves it back, said

Lines that were printed cannot be taken back: that an entry is gone is a line, too. A new segment
begins with a note of where it comes from; what it repeats of the one before (its history, the
entries it carried over) is drawn to a newcomer alone. A viewer that was away while the history went
on in other segments asks for what it missed of each, as far as `before` leads back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from protocol import entries as en
from protocol import events as ev
from protocol.entries import Usage
from protocol.snapshot import TAIL_ENTRIES, AlertRecord, Snapshot
from protocol.status import Flag, PodStatus
from protocol.watch import Deliver, Gap, Synced
from supervisor.drawing import (
    Line,
    Style,
    draw_entry,
    draw_segment_start,
    failure,
    note,
    one_line,
)
from supervisor.in_flight import Live
from supervisor.telling import (
    context_words,
    draw_alert,
    draw_approval,
    draw_budget,
    draw_failed_compaction,
    draw_trouble,
    entry_of,
    usage_words,
)


@dataclass(frozen=True, slots=True)
class Missing:
    """Entries of a segment before a snapshot's tail: `first` up to `end`, exclusive."""

    segment_id: str
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Passage:
    """Entries of an earlier segment, from `first` on, that a snapshot's segment continues."""

    segment_id: str
    first: int
    entries: tuple[en.Entry, ...]


class Transcript:
    """One pod as a viewer shows it; with `everything` its whole segment, not only the tail.

    Events that carry a reference instead of their entry must be completed before they are taken.
    """

    def __init__(self, pod: str, *, everything: bool = False) -> None:
        self.pod = pod
        self.status: PodStatus | None = None
        self.with_thoughts = False
        self.last_thought: en.Reasoning | None = None
        self._everything = everything
        self._incarnation: int | None = None
        self._unreachable = False
        self._flags: tuple[Flag, ...] = ()
        self._usage = Usage()
        self._context_tokens: int | None = 0
        self._context_window = 0
        self._compacting = False
        self._segment: str | None = None
        self._next = 0
        self._carried = 0
        self._been: set[str] = set()
        self._drawn: deque[tuple[int, en.Entry]] = deque(maxlen=2 * TAIL_ENTRIES)
        self._calls: dict[str, str] = {}
        self._alerts: set[AlertRecord] = set()
        self._said = ""
        self._failure: Line | None = None
        self._live = Live()

    # -- snapshots

    def missing(self, snapshot: Snapshot) -> Missing | None:
        """Return the entries that are wanted, not drawn, and not in the snapshot's tail."""
        if snapshot.segment_id is None or (self._incarnation is None and not self._everything):
            return None
        first = self._next if snapshot.segment_id == self._segment else 0
        end = snapshot.head_entries - len(snapshot.tail)
        return Missing(snapshot.segment_id, first, end) if first < end else None

    def before(self, first: en.Entry) -> Missing | None:
        """Return what is not drawn yet of the segment that another one, beginning so, continues.

        None where nothing is missing, or where a rewind went back to what was drawn long ago. A
        newcomer misses all of it where everything is wanted.
        """
        ref = first.continues if isinstance(first, en.SegmentStart) else None
        if ref is None or ref.at_entry is None or (self._segment is None and not self._everything):
            return None
        if ref.segment_id == self._segment:
            start = self._next
        elif ref.segment_id in self._been:
            return None
        else:
            start = 0
        return Missing(ref.segment_id, start, ref.at_entry) if start < ref.at_entry else None

    def sync(
        self,
        incarnation: int,
        snapshot: Snapshot,
        earlier: Sequence[en.Entry] = (),
        passages: Sequence[Passage] = (),
    ) -> list[Line]:
        """Take a snapshot and return what is not drawn yet.

        `earlier` is all that `missing` asked for, or nothing; `passages` are what `before` asked
        for, oldest first.
        """
        is_first = self._incarnation is None
        start = snapshot.head_entries - len(snapshot.tail) - len(earlier)
        rows = list(enumerate((*earlier, *snapshot.tail), start))
        lines = self._greet(incarnation, snapshot)
        with_history = is_first
        for passage in passages:
            for index, entry in enumerate(passage.entries, passage.first):
                lines += self._commit(passage.segment_id, index, entry, with_history=with_history)
            with_history = False
        if snapshot.segment_id is not None:
            lines += self._move_to(snapshot.segment_id, snapshot.head_entries, rows)
        alerts = [alert for alert in snapshot.alerts if alert not in self._alerts]
        if is_first and rows:
            alerts = [alert for alert in alerts if alert.timestamp_ms >= rows[0][1].ts]
        for index, entry in rows:
            while alerts and alerts[0].timestamp_ms < entry.ts:
                lines.append(draw_alert(alerts.pop(0)))
            lines += self._commit(
                snapshot.segment_id or "", index, entry, with_history=with_history
            )
        lines += map(draw_alert, alerts)
        self._alerts = set(snapshot.alerts)
        self._incarnation = incarnation
        self._unreachable = False
        self._compacting = Flag.BUSY in snapshot.flags
        self._usage = snapshot.usage
        self._context_tokens = snapshot.greeting.context_tokens
        self._context_window = snapshot.greeting.context_window
        self._live.restart(snapshot.in_flight)
        return lines + self._set_status(snapshot.status, snapshot.flags)

    def _greet(self, incarnation: int, snapshot: Snapshot) -> list[Line]:
        if self._incarnation is None:
            of = snapshot.greeting
            return [note(f"{self.pod} · {of.provider}/{of.model} · {of.cwd}")]
        if incarnation != self._incarnation:
            return [note(f"connected to {self.pod} again: incarnation {incarnation}")]
        return []

    def _move_to(
        self, segment_id: str, head: int, rows: Sequence[tuple[int, en.Entry]]
    ) -> list[Line]:
        """Go to a snapshot's segment, or back to where its entries are no longer those drawn."""
        if segment_id == self._segment:
            drawn = dict(self._drawn)
            kept = min(head, self._next)
            changed = (index for index, entry in rows if drawn.get(index, entry) != entry)
            return self._cut(next(changed, kept), "the history was changed meanwhile")
        if self._segment and rows and isinstance(rows[0][1], en.SegmentStart):
            return []  # it says itself where it comes from
        lines = self._begin_segment(segment_id)
        if self._incarnation is None and rows and rows[0][0] > 0:
            self._next = rows[0][0]
            lines.append(note(f"{self._next} earlier entries: podsup attach {self.pod} --all"))
        return lines

    # -- events

    def take(self, told: Synced | Deliver | Gap, now: float) -> list[Line]:
        """Take what a watcher of the pod or of the fleet told; `now` is monotonic seconds."""
        match told:
            case Gap(lane=lane, first=first, last=last):
                lost = f"gap: {last - first + 1} events of the {lane} lane are lost"
                return [note(f"{lost}; a new snapshot follows", Style.WARN)]
            case Deliver(header=header, event=event) if header.epoch is not None:
                return self._on_fleet(event) if header.pod == self.pod else []
            case Deliver(event=event):
                self._unreachable = False
                return self._on_pod(event, now)
            case Synced():
                return []

    def _on_pod(self, event: ev.Event, now: float) -> list[Line]:
        match event:
            case ev.LogEvent():
                entry = entry_of(event)
                if isinstance(event, ev.EntryEvent) and event.block is not None:
                    self._live.settle(event.block, entry, now)
                return self._commit(event.segment_id, event.index, entry, is_live=True)
            case ev.LogCut(segment_id=segment_id, head_entries=head, reason=reason):
                why = "the run had shown nothing" if reason == "rollback" else "rewound"
                if reason != "rollback":
                    self._context_tokens = None
                return self._cut(head, why) if segment_id == self._segment else []
            case ev.StreamEvent():
                self._live.take(event, now)
                return draw_trouble(event)
            case _:
                return self._on_state(event)

    def _commit(
        self,
        segment_id: str,
        index: int,
        entry: en.Entry | None,
        *,
        with_history: bool = False,
        is_live: bool = False,
    ) -> list[Line]:
        """Draw the entry at its position, unless it is drawn; None is one that cannot be had.

        One that `is_live` came right after those before it; nothing lies between.
        """
        lines: list[Line] = []
        if segment_id != self._segment:
            lines += self._begin_segment(segment_id, entry, is_live=is_live)
        if index < self._next:
            return lines
        if index > self._next:
            missed = f"gap: entries {self._next} to {index - 1} are not shown"
            lines.append(note(missed, Style.WARN))
        self._next = index + 1
        if entry is None:
            return [*lines, Line(f"· entry {index} is too large to show", Style.DIM)]
        self._drawn.append((index, entry))
        if isinstance(entry, en.SegmentStart):
            if entry.continues is not None:
                self._been.add(entry.continues.segment_id)
            if not with_history:
                return lines
        elif index < self._carried:
            return lines
        lines += draw_entry(
            entry, self._calls, with_history=with_history, with_thoughts=self.with_thoughts
        )
        match entry:
            case en.AssistantItem(item=en.Reasoning() as thought):
                self.last_thought = thought
            case en.AssistantItem(item=en.ToolCall(call_id=call_id, name=name)):
                self._calls[call_id] = name
            case en.ToolResultEntry(item=result):
                self._calls.pop(result.call_id, None)
            case en.Invoke():
                self._failure = None
            case en.RunErrored():
                self._failure = lines[-1]
        return lines

    def _begin_segment(
        self, segment_id: str, first: en.Entry | None = None, *, is_live: bool = False
    ) -> list[Line]:
        """Go to another segment; returns where it comes from, to one who has seen another."""
        seen, at = self._segment, self._next
        self._segment, self._next, self._carried = segment_id, 0, 0
        self._drawn.clear()
        if seen is None:
            return []
        self._been.add(seen)
        ref = first.continues if isinstance(first, en.SegmentStart) else None
        if not isinstance(first, en.SegmentStart) or ref is None:
            return [note("the session goes on in another segment")]
        lines: list[Line] = []
        drawn = at - (ref.at_entry or 0) if ref.segment_id == seen else 0
        self._carried = _repeated(first, drawn)
        since = "goes on in a new segment"
        if ref.segment_id not in self._been and not is_live:
            lines.append(note("gap: what came between is not shown", Style.WARN))
        elif ref.segment_id != seen:
            since = f"rewound: goes on from turn {ref.at_turn_index}, in a new segment"
        elif ref.at_entry is not None and ref.at_entry > at:
            missed = f"gap: entries {at} to {ref.at_entry - 1} are not shown"
            lines.append(note(missed, Style.WARN))
        elif ref.at_entry is not None and ref.at_entry < at:
            since += f": the last {at - ref.at_entry} entries are taken back"
        if first.compacted_from is not None or ref.segment_id != seen:
            self._context_tokens = None  # the next request measures it
        return lines + draw_segment_start(first, self._calls, since=since)

    def _cut(self, head: int, why: str) -> list[Line]:
        gone = self._next - head
        if gone <= 0:
            return []
        self._next = head
        self._carried = min(self._carried, head)
        while self._drawn and self._drawn[-1][0] >= head:
            self._drawn.pop()
        return [note(f"{why}: the last {gone} entries are taken back")]

    def _on_state(self, event: ev.Event) -> list[Line]:
        match event:
            case ev.Status(status=status, flags=flags):
                return self._set_status(status, flags)
            case ev.RunEnd():
                self._live.clear()
                self._compacting = False
            case ev.ErrorEvent(code=code, message=message):
                return self._fail(failure(code, message))
            case ev.UsageEvent(context_tokens=tokens):
                self._context_tokens = tokens
                figures = {name: getattr(event, name) for name in Usage.model_fields}
                self._usage = self._usage.plus(Usage(**figures))
            case ev.Alert(message=message):
                self._said = message
                fields = {name: getattr(event, name) for name in AlertRecord.model_fields}
                if (alert := AlertRecord(**fields)) not in self._alerts:
                    self._alerts.add(alert)
                    return [draw_alert(alert)]
            case ev.CompactStart():
                self._compacting = True
            case ev.CompactDone():
                self._compacting = False  # the new segment says what became of the history
            case ev.RewindApplied(summary=summary) if summary.tools_ran:
                calls = (
                    "1 tool call" if summary.tools_ran == 1 else f"{summary.tools_ran} tool calls"
                )
                return [note(f"the effects of {calls} stay", Style.WARN)]
            case ev.CompactFailed():
                self._compacting = False
                return draw_failed_compaction(event, self._said)
            case ev.ScopeDenied(path=path, layer=layer):
                return [note(f"refused by its scope ({layer}): {path}", Style.WARN)]
            case ev.Budget():
                return draw_budget(event)
            case ev.ApprovalRequested():
                return draw_approval(event)
            case ev.Shutdown():
                return [note(f"{self.pod} leaves")]
            case ev.UnknownEvent(name=name):
                return [Line(f"· an event of a newer kind: {one_line(name)}", Style.DIM)]
        return []

    def _fail(self, line: Line) -> list[Line]:
        """Draw a failure, unless the run's last entry or the event before has said it."""
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
                self._unreachable = True
                return [note(f"{pod} was not heard of for {silence_s:.0f} s", Style.WARN)]
            case ev.PodExited(cause=cause):
                self._live.clear()
                self._compacting = False
                self.status = PodStatus.STOPPING
                return [note(f"{pod} exited: {cause}")]
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
        return []

    # -- what is shown beside the lines

    def live(self, now: float) -> list[Line]:
        """Return what is not committed yet, the countdown of a retry, and a compaction."""
        lines = self._live.lines(now)
        if self._compacting:
            lines.append(Line("⋯ compacting the history", Style.NOTE))
        return lines

    def status_line(self) -> str:
        """Return the pod's status, how full its context is and what it has used."""
        status = "unreachable" if self._unreachable else self.status or "…"
        words = [self.pod, " ".join((status, *self._flags))]
        if self._context_window:
            words.append(context_words(self._context_tokens, self._context_window))
        words += usage_words(self._usage)
        return " · ".join(words)


def _repeated(start: en.SegmentStart, drawn: int) -> int:
    """Return where a new segment goes on with what its viewer has not seen.

    `drawn` entries were drawn behind the place that it comes from: the beginning of a run, which
    the segment repeats.
    """
    if start.carried is None:
        return 1
    return 1 + start.carried.entries + min(start.carried.run_entries, max(0, drawn))
