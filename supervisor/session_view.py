"""A session as people look at it: what it amounts to, and each row of its line as lines. Pure.

An entry is drawn as `podsup attach` draws it. What attach never meets is drawn here: a line that
cannot be read, a segment that is gone, the mark a repair has left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from protocol import entries as en
from protocol.base import Wire
from protocol.entries import Usage
from protocol.session.lineage import MissingSegment, Row
from protocol.session.reading import BadRecord
from protocol.session.replay import EMPTY, BadEntry, Replayed, fold
from supervisor.drawing import Line, Style, draw_entry, note, one_line

REPAIRED = "fsck"
"""The domain of the mark that stands where a repair took a bad line away."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a session amounts to; `state` is `idle`, `running`, `paused`, `interrupted`, `unknown`.

    It is `unknown` where an entry cannot be replayed, such as one of a newer schema.
    """

    entries: int
    bad: int
    missing: int
    inputs: int
    turns: int
    usage: Usage
    state: str


def summarize(told: Sequence[Row], *, is_live: bool) -> Summary:
    """Return what the rows of a whole line, with repeats, amount to."""
    shown = [row for row in told if not row.is_repeat]
    try:
        replayed = fold(row.entry for row in told if isinstance(row.entry, Wire))
        state = _state(replayed, is_live)
    except BadEntry:
        replayed, state = EMPTY, "unknown"
    bad = sum(isinstance(row.entry, BadRecord) for row in shown)
    missing = sum(isinstance(row.entry, MissingSegment) for row in shown)
    return Summary(
        entries=len(shown) - bad - missing,
        bad=bad,
        missing=missing,
        inputs=sum(isinstance(row.entry, en.UserInput) for row in shown),
        turns=replayed.turn_count,
        usage=replayed.usage,
        state=state,
    )


def _state(replayed: Replayed, is_live: bool) -> str:
    if replayed.paused:
        return "paused"
    if replayed.open_run is not None and is_live:
        return "running"
    return "interrupted" if replayed.interrupted else "idle"


def counted(count: int, what: str) -> str:
    """Return a number with its word, in the plural where it is not one."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def header_lines(
    pod: str, session_id: str, segment_ids: Sequence[str], about: Summary
) -> list[str]:
    """Return what stands above a history; the last of the segments is the active one."""
    usage = about.usage
    cost = "unknown" if usage.cost_usd is None else f"${usage.cost_usd:.4f}"
    troubles = [
        counted(count, what)
        for count, what in ((about.bad, "damaged line"), (about.missing, "missing segment"))
        if count
    ]
    before = f", after {len(segment_ids) - 1} earlier" if len(segment_ids) > 1 else ""
    return [
        f"{pod}: {about.state}",
        f"  session    {session_id}",
        f"  segment    {segment_ids[-1]}{before}",
        f"  entries    {', '.join((str(about.entries), *troubles))}",
        f"  turns      {about.turns}, for {counted(about.inputs, 'input')}",
        f"  used       {usage.input_tokens} in, {usage.output_tokens} out, cost {cost}",
    ]


class Drawing:
    """Draws the rows of one line, in order; remembers which tool a call id names."""

    def __init__(self, *, with_history: bool = True) -> None:
        self._calls: dict[str, str] = {}
        self._with_history = with_history

    def draw(self, row: Row) -> list[Line]:
        """Return a row as lines; bookkeeping has none."""
        match row.entry:
            case BadRecord(line=line, offset=offset, cause=cause):
                where = f"line {line}, byte {offset} of segment {row.segment_id}"
                return [Line(f"✗ damaged: {where}: {one_line(cause)}", Style.ERROR)]
            case MissingSegment(cause=cause):
                what = f"✗ missing: segment {one_line(row.segment_id)}: {one_line(cause)}"
                return [Line(what, Style.ERROR)]
            case en.Extension(domain=domain, payload=payload) if domain == REPAIRED:
                return [_draw_repair(payload)]
            case en.AssistantItem(item=en.ToolCall(call_id=call_id, name=name)):
                self._calls[call_id] = name
                return draw_entry(row.entry, self._calls)
            case en.ToolResultEntry(item=result):
                lines = draw_entry(row.entry, self._calls)
                self._calls.pop(result.call_id, None)
                return lines
            case en.SegmentStart(history=history) as start:
                lines = draw_entry(start, self._calls, with_history=self._with_history)
                self._with_history = False
                self._calls |= {
                    item.call_id: item.name for item in history if isinstance(item, en.ToolCall)
                }
                return lines
            case entry:
                return draw_entry(entry, self._calls)


def _draw_repair(payload: dict[str, Any]) -> Line:
    where = f"line {payload.get('line')} was damaged ({payload.get('cause')})"
    return note(f"{where} and is moved to {payload.get('moved_to')}", Style.WARN)


def plain_row(row: Row) -> dict[str, Any]:
    """Return a row as plain data for JSON."""
    place: dict[str, Any] = {"segment_id": row.segment_id, "index": row.index}
    match row.entry:
        case BadRecord(line=line, offset=offset, cause=cause):
            return place | {"bad": {"line": line, "offset": offset, "cause": cause}}
        case MissingSegment(cause=cause):
            return place | {"missing": cause}
        case entry:
            return place | {"entry": entry.to_wire()}


# -- playing back

LONGEST_S = 2.0
"""The longest pause of a play-back, whatever the speed: nobody watches a night go by."""


@dataclass(frozen=True, slots=True)
class Beat:
    """One row of a play-back, and the seconds to wait before it."""

    wait_s: float
    row: Row


def timeline(told: Iterable[Row], *, speed: float, until: int | None = None) -> Iterator[Beat]:
    """Yield the rows with their pauses: as they were, divided by `speed`; at 0 there are none.

    `until` is the number of the last user input to play, counted from 1, with all that followed it.
    A clock that went back costs no time.
    """
    before: int | None = None
    inputs = 0
    for row in told:
        if isinstance(row.entry, en.UserInput):
            inputs += 1
            if until is not None and inputs > until:
                return
        wait_s = 0.0
        if not isinstance(row.entry, BadRecord | MissingSegment):
            at = row.entry.ts
            if before is not None and speed > 0:
                wait_s = min(max(0, at - before) / 1000 / speed, LONGEST_S)
            before = at if before is None else max(before, at)
        yield Beat(wait_s, row)
