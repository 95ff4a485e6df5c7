"""What a pod is writing and running before it is committed, as a viewer shows it. Pure.

    text_delta, thinking_*, tool_call_* ─► a block ─► its entry comes ─► no block any more
                                                  └► a call's entry ─► running ─► its result's entry

A run that ends, and a stream that breaks, take their unfinished blocks with them without an event
for each. After a refill of a lane a block's stream events may come later than its entry: a block
whose entry has come is therefore never begun again.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol import entries as en
from protocol import events as ev
from protocol.snapshot import Block, InFlight, TextBlock, ThinkingBlock
from supervisor.drawing import Line, Style, call_line, lines_of, one_line, thinking

KEPT_CHARS = 4096
"""The end of a block's text that is kept while it streams; its entry brings all of it."""

THOUGHT_CHARS = 100


@dataclass(slots=True)
class _Writing:
    kind: str
    name: str = ""
    text: str = ""
    output: str = ""
    finished: bool = False

    def add(self, piece: str) -> None:
        self.text = (self.text + piece)[-KEPT_CHARS:]

    def lines(self) -> list[Line]:
        match self.kind:
            case "text":
                return lines_of(self.text)
            case "thinking":
                return [thinking(self.text[-THOUGHT_CHARS:])]
            case _ if self.finished:
                last = one_line(self.output.rstrip().rpartition("\n")[2])
                return [Line(f"⋯ {one_line(self.name)} runs {last}".rstrip(), Style.TOOL)]
            case _:
                return [Line(f"⋯ {call_line(self.name, self.text)}", Style.TOOL)]


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

    def settle(self, key: int | str, entry: en.Entry | None) -> None:
        """The block's entry came. A call runs from then on, until its result comes."""
        match entry:
            case en.AssistantItem(item=en.ToolCall(name=name)):
                self._blocks[key] = _Writing("tool_call", name, finished=True)
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

    def lines(self, now: float) -> list[Line]:
        """Return what is in flight as lines."""
        lines = [line for block in self._blocks.values() for line in block.lines()]
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
