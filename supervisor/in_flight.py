"""What a pod is writing and running before it is committed, as a viewer shows it. Pure.

    text_delta, thinking_*, tool_call_* ─► a block ─► its entry comes ─► no block any more
                                                  └► a call's entry ─► running ─► its result's entry

A run that ends, and a stream that breaks, take their unfinished blocks with them without an event
for each. After a refill of a lane a block's stream events may come later than its entry: a block
whose entry has come is therefore never begun again.

Thinking is shown as it comes, and folded to one line when it is over; a call that runs shows how
long, and the last line that its tool has printed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from protocol import entries as en
from protocol import events as ev
from protocol.snapshot import Block, InFlight, TextBlock, ThinkingBlock
from protocol.status import TurnResult
from supervisor.drawing import (
    Line,
    Style,
    call_line,
    call_name,
    lines_of,
    one_line,
    thinking,
    thoughts,
)

KEPT_CHARS = 4096
"""The end of a block's text that is kept while it streams; its entry brings all of it."""

THOUGHT_CHARS = 100

LONG_S = 1.0
"""A call that runs longer shows for how long."""

_LINE_END = re.compile(r"[\r\n]+")


@dataclass(slots=True)
class _Writing:
    kind: str
    name: str = ""
    text: str = ""
    output: str = ""
    finished: bool = False
    since: float | None = None

    def add(self, piece: str) -> None:
        self.text = (self.text + piece)[-KEPT_CHARS:]

    def lines(self, now: float) -> list[Line]:
        match self.kind:
            case "text":
                return lines_of(self.text)
            case "thinking" if self.finished:
                return [thinking(self.text[-THOUGHT_CHARS:])]
            case "thinking":
                return thoughts(self.text)
            case _ if self.finished:
                return [Line(self._running(now), Style.TOOL)]
            case _:
                return [Line(f"⋯ {call_line(self.name, self.text)}", Style.TOOL)]

    def _running(self, now: float) -> str:
        text = f"⋯ {call_name(self.name, self.text)} runs"
        if self.since is not None and now - self.since >= LONG_S:
            text += f" {now - self.since:.0f} s"
        last = one_line(_LINE_END.split(self.output.rstrip())[-1])
        return f"{text}: {last}" if last else text


@dataclass(frozen=True, slots=True)
class _Retry:
    attempt: str
    at: float


class Live:
    """The blocks in flight, oldest first, and the countdown to a retry."""

    def __init__(self) -> None:
        self._blocks: dict[int | str, _Writing] = {}
        self._settled: set[int | str] = set()
        self._retry: _Retry | None = None

    def restart(self, seen: InFlight) -> None:
        """Go on from a snapshot."""
        self.clear()
        self._settled.clear()
        self._blocks = dict(_seen(block) for block in seen.blocks)

    def clear(self) -> None:
        """The run is over: what it did not commit is gone."""
        self._blocks.clear()
        self._retry = None

    def settle(self, key: int | str, entry: en.Entry | None, now: float) -> None:
        """The block's entry came. A call runs from then on, until its result comes."""
        match entry:
            case en.AssistantItem(item=en.ToolCall(name=name, arguments=arguments)):
                self._blocks[key] = _Writing("tool_call", name, arguments, "", True, now)
            case _:
                self._blocks.pop(key, None)
                self._settled.add(key)

    def take(self, event: ev.StreamEvent, now: float) -> None:
        """Follow the stream lane; `now` is monotonic seconds."""
        match event:
            case ev.TextDelta(block=key, text=text):
                self._at(key, "text").add(text)
            case ev.TextDone(block=key, text=text) if text:
                done = self._at(key, "text")
                done.text, done.finished = text[-KEPT_CHARS:], True
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
                call = self._blocks[key]
                call.finished, call.output = True, (call.output + text)[-KEPT_CHARS:]
            case ev.LlmRetry(failed_attempt=failed, max_attempts=most, wait_ms=wait_ms):
                self._retry = _Retry(f"attempt {failed + 1} of {most}", now + wait_ms / 1000)
            case ev.LlmContinuation():
                self._blocks = {key: one for key, one in self._blocks.items() if one.finished}
            case ev.LlmCallStart() | ev.LlmCallEnd():
                self._retry = None
            case ev.TurnEnd(result=result) if result is not TurnResult.FINISHED:
                self.clear()

    def lines(self, now: float) -> list[Line]:
        """Return what is in flight as lines."""
        lines = [line for block in self._blocks.values() for line in block.lines(now)]
        if self._retry is not None:
            left = max(0.0, self._retry.at - now)
            lines.append(Line(f"⋯ {self._retry.attempt} in {left:.0f} s", Style.WARN))
        return lines

    def _at(self, key: int | str, kind: str) -> _Writing:
        """Return the block of this key; for one whose entry has come, a block nobody sees."""
        self._retry = None
        if key in self._settled:
            return _Writing(kind)
        return self._blocks.setdefault(key, _Writing(kind))


def _seen(block: Block) -> tuple[int | str, _Writing]:
    match block:
        case TextBlock(block=key, text=text, finished=finished):
            return key, _Writing("text", text=text[-KEPT_CHARS:], finished=finished)
        case ThinkingBlock(block=key, text=text, finished=finished):
            return key, _Writing("thinking", text=text[-KEPT_CHARS:], finished=finished)
        case call:
            runs = call.state in ("running", "done")
            return call.id, _Writing("tool_call", call.name, call.args, call.output_tail, runs)
