"""A run as its asker is told of it: a line for what happens beside the answer. Pure.

`Telling` is for one who reads the answer elsewhere: text and thinking make no line, each call and
each result one, and so does whatever makes the run take longer or end. The functions below it say
the same things to every viewer in the same words.
"""

from __future__ import annotations

from protocol import entries as en
from protocol import events as ev
from protocol.entries import Usage
from protocol.snapshot import AlertRecord, Snapshot
from protocol.status import AlertLevel
from protocol.watch import Deliver, Gap, Synced
from supervisor.drawing import Line, Style, draw_entry, draw_segment_start, note, one_line


class Telling:
    """What one pod does, without what it says."""

    def __init__(self) -> None:
        self._calls: dict[str, str] = {}
        self._context_tokens: int | None = None
        self._context_window = 0
        self._compacting = False
        self._said = ""
        self._usage = Usage()

    def take(self, told: Synced | Deliver | Gap) -> list[Line]:
        """Take what a watcher of the pod told; returns what there is to say of it."""
        match told:
            case Synced(body=body):
                seen = Snapshot.from_wire(body).greeting
                self._context_tokens, self._context_window = (
                    seen.context_tokens,
                    seen.context_window,
                )
                return []
            case Gap(lane=lane, first=first, last=last):
                return [
                    note(f"gap: {last - first + 1} events of the {lane} lane are lost", Style.WARN)
                ]
            case Deliver(event=ev.LogEvent() as event):
                return self._on_entry(entry_of(event))
            case Deliver(event=ev.StreamEvent() as event):
                return draw_trouble(event)
            case Deliver(event=event):
                return self._on_state(event)

    def _on_entry(self, entry: en.Entry | None) -> list[Line]:
        match entry:
            case en.AssistantItem(item=en.ToolCall(call_id=call_id, name=name)):
                self._calls[call_id] = name
                return draw_entry(entry, self._calls)
            case en.ToolResultEntry():
                return draw_entry(entry, self._calls)
            case en.SegmentStart() if entry.continues is not None:
                if entry.compacted_from is not None:
                    self._context_tokens, self._compacting = None, False
                return draw_segment_start(entry, self._calls)
            case _:
                return []

    def _on_state(self, event: ev.Event) -> list[Line]:
        match event:
            case ev.UsageEvent(context_tokens=tokens):
                self._context_tokens = tokens
                figures = {name: getattr(event, name) for name in Usage.model_fields}
                self._usage = self._usage.plus(Usage(**figures))
            case ev.Alert(message=message):
                self._said = message
                fields = {name: getattr(event, name) for name in AlertRecord.model_fields}
                return [draw_alert(AlertRecord(**fields))]
            case ev.CompactStart():
                self._compacting = True
                return [note("compacting the history")]
            case ev.CompactDone() if self._compacting:  # its segment_start was too large to come
                self._context_tokens, self._compacting = None, False
                return [note("compacted")]
            case ev.CompactFailed():
                return draw_failed_compaction(event, self._said)
            case ev.Budget():
                return draw_budget(event)
            case ev.ApprovalRequested():
                return draw_approval(event)
        return []

    def summary(self, result: str) -> str:
        """Return the last line: how it ended, what it used, how full the context is."""
        words = [result, *usage_words(self._usage)]
        if self._context_window:
            words.append(context_words(self._context_tokens, self._context_window))
        return note(" · ".join(words)).text


def draw_failed_compaction(event: ev.CompactFailed, said: str) -> list[Line]:
    """Return that a compaction failed, and why, unless the last alert `said` it."""
    why = "" if event.error == said else f": {event.error}"
    return [note(f"compaction failed, nothing changed{why}", Style.WARN)]


def draw_budget(event: ev.Budget) -> list[Line]:
    """Return how much of a budget is used."""
    used = f"{event.used:g} of {event.limit:g}"
    return [note(f"budget {event.kind}: {used} used", Style.WARN)]


def draw_approval(event: ev.ApprovalRequested) -> list[Line]:
    """Return what waits for a person."""
    return [note(f"waits for a person ({event.id}): {event.tool} {event.summary}", Style.WARN)]


def context_words(tokens: int | None, window: int) -> str:
    """Return how full a context is; None for one that nobody has measured."""
    if tokens is None:
        return f"context ? of {count(window)}"
    return f"context {100 * tokens / window:.0f}% ({count(tokens)} of {count(window)})"


def usage_words(usage: Usage) -> list[str]:
    """Return what was used, in tokens and, where it is known, in money."""
    words = [f"in {count(usage.input_tokens)} out {count(usage.output_tokens)}"]
    if usage.cost_usd is not None:
        words.append(f"${usage.cost_usd:.4f}")
    return words


def entry_of(event: ev.LogEvent) -> en.Entry | None:
    """Return the committed entry that a log event stands for; None where it was left out."""
    match event:
        case ev.LogEvent(omitted=int()):
            return None
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


def draw_trouble(event: ev.StreamEvent) -> list[Line]:
    """Return what went wrong between a pod and its provider, and what it does about it."""
    match event:
        case ev.LlmRetry(failed_attempt=failed, max_attempts=most, wait_ms=wait_ms):
            status = f"HTTP {event.status}" if event.status else ""
            why = one_line(": ".join(filter(None, (status, event.error))))
            following = f"the next in {wait_ms / 1000:.1f} s"
            return [Line(f"! attempt {failed} of {most} failed ({why}); {following}", Style.WARN)]
        case ev.LlmContinuation(attempt=attempt, max_attempts=most, reason=reason):
            broke = f"! the stream broke ({one_line(reason)})"
            return [Line(f"{broke}; going on, {attempt} of {most}", Style.WARN)]
        case _:
            return []


def draw_alert(alert: AlertRecord) -> Line:
    """Return a short text for people."""
    style = Style.ERROR if alert.level is AlertLevel.ERROR else Style.WARN
    return Line(f"! {alert.source}: {one_line(alert.message, 500)}", style)


def count(tokens: int) -> str:
    """Return a number of tokens, in thousands where it is large."""
    return f"{tokens / 1000:.0f}k" if tokens >= 10_000 else str(tokens)
