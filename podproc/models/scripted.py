"""The embedded model: plays a script of answers. No key, no network, deterministic.

It goes through the same interface and streams the same events as the adapters of real providers, so
that demos, tests and load runs exercise everything but the provider. Which answers are used up is
not kept here: it is in the session's log (`llm_usage.answer`), so a restored pod continues its
script where it was, and an answer that was paused, cancelled or cut is played again. Only
`fail_times` counts within this process.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

from podproc.engine.history import is_carried_over, is_interrupt_note
from podproc.models.base import (
    CallArgs,
    CallDone,
    CallStart,
    Ended,
    Figures,
    ModelEvent,
    ModelRequest,
    Opened,
    Places,
    ProviderFailure,
    StreamCut,
    TextDelta,
    TextDone,
    ThinkingDelta,
    ThinkingDone,
    ThinkingStart,
)
from protocol.entries import Item, Message, Reasoning, ToolCall, ToolResult, Usage
from protocol.manifest import Model as ModelTable
from protocol.manifest import OnExhausted, ScriptedAnswer, StopReason

_CONTEXT_WINDOW = 200_000
LOOK_AROUND = 32
"""After so many pieces at full speed, others get the loop."""


class ScriptedModel:
    """Plays the answers of one manifest."""

    provider = "scripted"

    def __init__(self, table: ModelTable, places: Places) -> None:
        self.model_id = table.model_id
        self.context_window = table.context_window or _CONTEXT_WINDOW
        self._table = table
        self._places = places
        self._failed: Counter[int] = Counter()
        self._calls = 0

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Play the answer that fits, with all it says should go wrong."""
        index, answer = self._choose(request)
        if answer.fail is None:
            yield Opened()
        if answer.delay_ms:
            await asyncio.sleep(answer.delay_ms / 1000)
        self._fail(index, answer)
        room = answer.cut_after
        fill = self._places.fill if index >= 0 else str  # an echo is verbatim
        async for event, size in self._events(answer, fill):
            if room is not None and size > room:
                if room:
                    yield _beginning(event, room)
                raise StreamCut(f"the script cuts the stream after {answer.cut_after} characters")
            room = None if room is None else room - size
            yield event
        yield Figures(self._usage(request, answer), index if index >= 0 else None)
        if answer.no_terminal_event:
            return
        reason = answer.stop_reason or (
            StopReason.TOOL_USE if answer.tool_calls else StopReason.END_TURN
        )
        yield Ended(reason.value)

    async def close(self) -> None:
        """Nothing is kept open."""

    def _choose(self, request: ModelRequest) -> tuple[int, ScriptedAnswer]:
        new = _new_input(request.items)
        text = "\n".join(_text_of(item) for item in new)
        answers = self._table.answers
        for index, answer in enumerate(answers):
            if index in request.used and not answer.repeat:
                continue
            if answer.match is None or re.search(answer.match, text, re.MULTILINE):
                return index, answer
        match self._table.on_exhausted:
            case OnExhausted.ERROR:
                raise ProviderFailure("the script has no answer for this request", retryable=False)
            case OnExhausted.REPEAT_LAST if answers:
                return len(answers) - 1, answers[-1]
            case _:
                return -1, ScriptedAnswer(text=f"echo: {_echoed(new, request.items)}")

    def _fail(self, index: int, answer: ScriptedAnswer) -> None:
        if answer.fail is None:
            return
        if answer.fail_times is not None and self._failed[index] >= answer.fail_times:
            return
        self._failed[index] += 1
        raise ProviderFailure(
            self._places.fill(answer.fail.message),
            status=answer.fail.status,
            retry_after_s=answer.fail.retry_after_s,
        )

    async def _events(
        self, answer: ScriptedAnswer, fill: Callable[[str], str]
    ) -> AsyncIterator[tuple[ModelEvent, int]]:
        block = 0
        if answer.thinking:
            yield ThinkingStart(block), 0
            async for piece in self._pieces(fill(answer.thinking), answer.chunk, 0):
                yield ThinkingDelta(block, piece), len(piece)
            yield ThinkingDone(block, fill(answer.thinking)), 0
            block += 1
        if answer.text:
            text = fill(answer.text)
            async for piece in self._pieces(text, answer.chunk, answer.hang_s):
                yield TextDelta(block, piece), len(piece)
            yield TextDone(block, text), 0
        elif answer.hang_s:
            await asyncio.sleep(answer.hang_s)
        for call in answer.tool_calls:
            self._calls += 1
            call_id = f"call-{self._places.incarnation}-{self._calls}"
            arguments = json.dumps(_filled(call.arguments, self._places), ensure_ascii=False)
            yield CallStart(call_id, call.name), 0
            async for piece in self._pieces(arguments, max(answer.chunk, 64), 0):
                yield CallArgs(call_id, piece), len(piece)
            yield CallDone(call_id, call.name, arguments), 0

    async def _pieces(self, text: str, chunk: int, hang_s: float) -> AsyncIterator[str]:
        """Cut the text; pause between pieces where a speed is set, and halfway where it hangs."""
        pace = chunk / self._table.chars_per_s if self._table.chars_per_s else 0.0
        half = len(text) // 2
        for number, start in enumerate(range(0, len(text), chunk), 1):
            if hang_s and start <= half < start + chunk:
                yield text[start : half + 1]
                await asyncio.sleep(hang_s)
                if rest := text[half + 1 : start + chunk]:
                    yield rest
            else:
                yield text[start : start + chunk]
            if pace or number % LOOK_AROUND == 0:
                await asyncio.sleep(pace)

    def _usage(self, request: ModelRequest, answer: ScriptedAnswer) -> Usage:
        if answer.usage is not None:
            figures = answer.usage
            return Usage(
                input_tokens=figures.input_tokens,
                output_tokens=figures.output_tokens,
                cache_read_tokens=figures.cache_read_tokens,
                cache_write_tokens=figures.cache_write_tokens,
            )
        size = len(request.system_prompt) + sum(len(_text_of(item)) for item in request.items)
        return Usage(input_tokens=size // 4, output_tokens=max(1, len(answer.text) // 4))


def _beginning(event: ModelEvent, size: int) -> ModelEvent:
    """Return a piece cut to so many characters."""
    match event:
        case TextDelta(block, text):
            return TextDelta(block, text[:size])
        case ThinkingDelta(block, text):
            return ThinkingDelta(block, text[:size])
        case CallArgs(call_id, text):
            return CallArgs(call_id, text[:size])
        case _:
            return event


def _is_answer(item: Item) -> bool:
    match item:
        case Message(role=role):
            return role == "assistant"
        case ToolCall() | Reasoning():
            return True
        case _:
            return False


def _new_input(items: tuple[Item, ...]) -> list[Item]:
    """What came since the previous answer, since a run that was given up, or since a summary."""
    new: list[Item] = []
    for item in reversed(items):
        if _is_answer(item) or is_interrupt_note(item) or is_carried_over(item):
            break
        new.append(item)
    return new[::-1]


def _text_of(item: Item) -> str:
    match item:
        case Message(content=content):
            return content
        case ToolResult(summary=summary):
            return summary
        case _:
            return ""


def _echoed(new: list[Item], items: tuple[Item, ...]) -> str:
    """The last user text of the new input; without one the newest system item.

    Else the last user text.
    """
    for wanted, where in (("user", new), ("system", new), ("user", items)):
        for item in reversed(where):
            if isinstance(item, Message) and item.role == wanted:
                return item.content
    return ""


def _filled(value: Any, places: Places) -> Any:
    match value:
        case str():
            return places.fill(value)
        case dict():
            return {key: _filled(item, places) for key, item in value.items()}
        case list() | tuple():
            return [_filled(item, places) for item in value]
        case _:
            return value
