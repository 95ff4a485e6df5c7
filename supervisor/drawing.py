"""Entries as lines for people: one line of one style at a time, safe to print. Pure.

What a model, a tool or a file says must not drive the terminal of who looks at it. So every text
passes `printable`. A `Line` never holds a newline. Nothing here depends on the width of a screen;
wrapping is the terminal's.

    > what a person submitted             → a tool call, its telling argument first, on one line
    what the model answered               ← its result's summary (✗ where it failed)
    · thinking, folded to one line        » something the model is told that no person typed
    ── what happened to the pod or its run, or where its history goes on
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from protocol import entries as en
from protocol.printable import printable
from protocol.segments import Paste, Segment, flatten
from protocol.status import RunResult, Trigger

MOST = 160
"""Characters of a text that is folded to one line."""

MOST_ARGUMENT = 60

FOLDED = ("file_attachment", "knowledge", "workflow", "skill", "task_reminder")
"""System items whose body is a document or a list: shown as one line."""

TELLING = ("command", "file_path", "pattern", "query", "url", "names", "name", "subject", "path")
"""The arguments that say most of a call: the first of them that it has stands without its key."""


class Style(StrEnum):
    """What a line is, for the one who paints it."""

    PLAIN = "plain"
    USER = "user"
    DIM = "dim"
    TOOL = "tool"
    WARN = "warn"
    ERROR = "error"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Line:
    """One line, printable, without its newline."""

    text: str
    style: Style = Style.PLAIN


def one_line(text: str, most: int = MOST) -> str:
    """Return the text folded to one line of at most `most` characters."""
    folded = " ".join(printable(text[: most * 8]).split())
    if len(folded) > most or len(text) > most * 8:
        return folded[: most - 1] + "…"
    return folded


def lines_of(
    text: str, style: Style = Style.PLAIN, *, first: str = "", rest: str = ""
) -> list[Line]:
    """Return a text as lines; `first` and `rest` go before the first and the other lines."""
    pieces = printable(text).split("\n")
    return [Line((rest if number else first) + piece, style) for number, piece in enumerate(pieces)]


def note(text: str, style: Style = Style.NOTE) -> Line:
    """Return a line that tells what happened."""
    return Line(f"── {one_line(text)}", style)


def draw_entry(
    entry: en.Entry,
    calls: Mapping[str, str],
    *,
    with_history: bool = False,
    with_thoughts: bool = False,
) -> list[Line]:
    """Return a committed entry as lines; bookkeeping has none.

    `calls` names the tool of each call id. `with_history` also draws what a segment begins with,
    `with_thoughts` all that was thought.
    """
    match entry:
        case en.UserInput(segments=segments):
            return draw_input(segments)
        case en.AssistantItem(item=en.Reasoning(text=text, summary=summary)) if with_thoughts:
            return thoughts(text or summary)
        case en.AssistantItem(item=item) | en.ToolResultEntry(item=item):
            return draw_item(item, calls)
        case en.SystemItemEntry(item=item):
            return _draw_system(item)
        case en.Invoke(trigger=Trigger.RESUME):
            return [note("resumed")]
        case en.Invoke(trigger=trigger) if trigger is not Trigger.USER_SEND:
            return [note(f"the pod began a run by itself: {trigger}")]
        case en.SegmentStart():
            return draw_segment_start(entry, calls, with_history=with_history)
        case en.RunCompleted(result=RunResult.FINISHED):
            return []
        case en.RunCompleted(result=RunResult.PAUSED, reason=None):
            return []  # the status says it, where it still holds
        case en.RunCompleted(result=result, reason=reason):
            return [note(f"run {result}" + (f": {reason}" if reason else ""))]
        case en.RunErrored(code=code, message=message):
            return [failure(code, message)]
        case en.PausedTurnAbandoned():
            return [note("the paused run is given up")]
        case en.ConfigChanged():
            return [note("the pod has a new configuration")]
        case en.UnknownEntry(kind=kind):
            return [Line(f"· an entry of a newer kind: {one_line(kind)}", Style.DIM)]
        case _:
            return []


def draw_input(segments: Iterable[Segment]) -> list[Line]:
    """Return what a person submitted; a paste is folded to its size and first line."""
    shown = "".join(
        _fold_paste(segment) if isinstance(segment, Paste) else flatten((segment,))
        for segment in segments
    )
    return lines_of(shown, Style.USER, first="> ", rest="  ")


def draw_item(item: en.Item, calls: Mapping[str, str]) -> list[Line]:
    """Return one item of a conversation."""
    match item:
        case en.Message(role="assistant", content=content):
            return lines_of(content)
        case en.Message(role="user", content=content):
            return lines_of(content, Style.USER, first="> ", rest="  ")
        case en.Message(content=content):
            return lines_of(content, Style.DIM, first="» ", rest="  ")
        case en.Reasoning(text=text, summary=summary):
            return [thinking(summary or text)]
        case en.ToolCall(name=name, arguments=arguments):
            return [Line(f"→ {call_line(name, arguments)}", Style.TOOL)]
        case en.ToolResult(call_id=call_id, summary=summary, is_error=is_error):
            name = one_line(calls.get(call_id, "result"))
            mark, style = ("✗", Style.ERROR) if is_error else ("←", Style.TOOL)
            return [Line(f"{mark} {name}: {one_line(summary)}", style)]
        case _:
            return [Line(f"· an item of a newer kind: {one_line(item.kind)}", Style.DIM)]


def thinking(text: str) -> Line:
    """Return reasoning folded to one line."""
    return Line(f"· thinking: {one_line(text)}".rstrip(": "), Style.DIM)


def thoughts(text: str) -> list[Line]:
    """Return all of a reasoning."""
    first = "· thinking: " if text else "· thinking"
    return lines_of(text.strip("\n"), Style.DIM, first=first, rest="  ")


def failure(code: str, message: str) -> Line:
    """Return what a run or work in the background failed with."""
    return Line(f"✗ {one_line(code)}: {one_line(message, 500)}", Style.ERROR)


def call_line(name: str, arguments: str) -> str:
    """Return a call as `Name telling key=value …`; arguments that are no object as they are."""
    values = _object_of(arguments)
    if values is None:
        return one_line(f"{name} {arguments}")
    telling, key = _telling(values)
    pairs = (f"{other}={_argument(value)}" for other, value in values.items() if other != key)
    return one_line(" ".join(filter(None, (name, telling, *pairs))))


def call_name(name: str, arguments: str) -> str:
    """Return a call as its name and its telling argument."""
    telling, _ = _telling(_object_of(arguments) or {})
    return one_line(" ".join(filter(None, (name, one_line(telling, MOST_ARGUMENT)))))


def _object_of(arguments: str) -> dict[str, Any] | None:
    try:
        values: Any = json.loads(arguments)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _telling(values: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return what says most of a call, and its key; nothing where no argument does."""
    key = next((key for key in TELLING if key in values), None)
    match values.get(key) if key else None:
        case str() as text if text.strip():
            return one_line(text), key
        case [*names] if names and all(isinstance(name, str) for name in names):
            return one_line(", ".join(names)), key
    return "", None


def _argument(value: Any) -> str:
    if isinstance(value, str) and value and not any(c.isspace() or c == '"' for c in value):
        return one_line(value, MOST_ARGUMENT)
    return one_line(json.dumps(value, ensure_ascii=False), MOST_ARGUMENT)


def _fold_paste(paste: Paste) -> str:
    begin = one_line(paste.content, MOST_ARGUMENT)
    return f"[paste #{paste.id}, {paste.lines} lines, {paste.chars} characters: {begin}]"


def _draw_system(item: en.SystemItem) -> list[Line]:
    label = f"» {one_line(item.kind)}: "
    if item.kind in FOLDED:
        return [Line(label + one_line(item.body), Style.DIM)]
    return lines_of(item.body, Style.DIM, first=label, rest="  ")


def draw_segment_start(
    start: en.SegmentStart,
    calls: Mapping[str, str],
    *,
    with_history: bool = False,
    since: str = "goes on in a new segment",
) -> list[Line]:
    """Return where a segment comes from; `since` says it of a fork.

    What a compaction made of the conversation is one line; so is what else stands in a history
    that no person typed and no model said, as it is documents.
    """
    lines: list[Line] = []
    items = list(start.history)
    if start.compacted_from is not None:
        lines.append(note(_how_compacted(start)))
        if (summary := _summary_of(start)) is not None:
            items.pop(0)
            lines.append(Line(f"» summary: {one_line(summary)}", Style.DIM))
    elif start.forked_from is not None:
        lines.append(note(since))
    if with_history:
        named = {item.call_id: item.name for item in items if isinstance(item, en.ToolCall)}
        for item in items:
            if isinstance(item, en.Message) and item.role == "system":
                lines.append(Line(f"» {one_line(item.content)}", Style.DIM))
            else:
                lines += draw_item(item, {**calls, **named})
    return lines


def _summary_of(start: en.SegmentStart) -> str | None:
    """Return what a compacted history begins with: the summary of what it left out."""
    match start.history:
        case (en.Message(content=content), *_) if start.compacted_from is not None:
            opening, _, text = content.partition("\n\n")
            return content if opening.startswith("#") else text or opening
        case _:
            return None


def _how_compacted(start: en.SegmentStart) -> str:
    """Return how many turns a compaction summarised, and how many it kept as they were."""
    over = start.compacted_from.at_turn_index if start.compacted_from else 0
    kept, answers = 0, False
    for item in start.history[1:]:
        is_answer = isinstance(item, en.ToolCall | en.Reasoning) or (
            isinstance(item, en.Message) and item.role == "assistant"
        )
        kept += is_answer and not answers
        answers = is_answer
    kept = min(kept, over)
    summarised = over - kept
    turns = "1 turn is" if summarised == 1 else f"{summarised} turns are"
    return f"compacted: {turns} summarised, {kept} kept"
