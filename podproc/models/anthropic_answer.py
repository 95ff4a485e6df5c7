"""The events of a Messages stream as the events of an answer. Pure.

    message_start           Figures: input, cache
    content_block_start     ThinkingStart · CallStart
    content_block_delta     TextDelta · ThinkingDelta · CallArgs (a signature is kept)
    content_block_stop      TextDone · ThinkingDone · CallDone
    message_delta           Figures: output; the reason to stop is kept
    message_stop            Ended

Figures are totals so far, and may come early, late, alone or twice; some servers repeat those they
no longer know as zero: the largest of each counts.

A truncated answer closes its last block as if it were whole, and says only then that its tokens
were used up. So a call without arguments, or with some that are no JSON, is held back until the
next block or the reason shows that it was meant. Blocks that were never closed are closed by the
end of the answer, unless that was truncation: a call must not get lost for a missing event.

    end_turn, tool_use, stop_sequence, unknown     Ended, with that word
    max_tokens, model_context_window_exceeded      Ended("max_tokens"): the answer was truncated
    pause_turn                                     StreamCut: the loop asks to go on
    refusal                                        ProviderFailure: half an answer is no success

Events and blocks of other types are skipped: providers may add them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from podproc.models.base import (
    CallArgs,
    CallDone,
    CallStart,
    Ended,
    Figures,
    ModelEvent,
    ProviderFailure,
    StreamCut,
    TextDelta,
    TextDone,
    ThinkingDelta,
    ThinkingDone,
    ThinkingStart,
)
from protocol.entries import Usage

if TYPE_CHECKING:
    from anthropic.types import MessageDeltaUsage, RawContentBlockStartEvent, RawMessageStreamEvent
    from anthropic.types import Usage as FirstUsage
    from anthropic.types.raw_message_delta_event import Delta

_TRUNCATED = ("max_tokens", "model_context_window_exceeded")


@dataclass(slots=True)
class _Text:
    pieces: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Thinking:
    pieces: list[str] = field(default_factory=list)
    signature: str | None = None


@dataclass(slots=True)
class _Sealed:
    data: str


@dataclass(slots=True)
class _Call:
    call_id: str
    name: str
    at_start: object
    pieces: list[str] = field(default_factory=list)


_Block: TypeAlias = _Text | _Thinking | _Sealed | _Call


class Answer:
    """One answer as it comes in; `has_ended` after its terminal event."""

    def __init__(self) -> None:
        self.has_ended = False
        self._open: dict[int, _Block] = {}
        self._held: CallDone | None = None
        self._usage = Usage()
        self._reason: str | None = None
        self._refusal = ""

    def take(self, event: RawMessageStreamEvent) -> Sequence[ModelEvent]:
        """Return what an event of the provider means.

        Raises StreamCut for a pause and ProviderFailure for a refusal. An event that is not of the
        form it says raises AttributeError, TypeError or ValueError.
        """
        if not hasattr(event, "type"):  # JSON, but no event
            return ()
        match event.type:
            case "content_block_delta":
                block, delta = self._open.get(event.index), event.delta
                match delta.type:
                    case "text_delta" if isinstance(block, _Text) and delta.text:
                        block.pieces.append(delta.text)
                        return (TextDelta(event.index, _clean(delta.text)),)
                    case "thinking_delta" if isinstance(block, _Thinking) and delta.thinking:
                        block.pieces.append(delta.thinking)
                        return (ThinkingDelta(event.index, _clean(delta.thinking)),)
                    case "input_json_delta" if isinstance(block, _Call) and delta.partial_json:
                        block.pieces.append(delta.partial_json)
                        return (CallArgs(block.call_id, _clean(delta.partial_json)),)
                    case "signature_delta" if isinstance(block, _Thinking):
                        block.signature = delta.signature
                return ()
            case "content_block_start":
                return (*self._let_go(), *self._begin(event))
            case "content_block_stop":
                return self._finish(event.index)
            case "message_start":
                return (self._figures(event.message.usage),)
            case "message_delta":
                return self._on_delta(event.delta, event.usage)
            case "message_stop":
                return self._end()
            case _:
                return ()

    def _begin(self, event: RawContentBlockStartEvent) -> list[ModelEvent]:
        index, begun = event.index, event.content_block
        match begun.type:
            case "text":
                text = begun.text or ""
                self._open[index] = _Text([text])
                return [TextDelta(index, _clean(text))] if text else []
            case "thinking":
                text = begun.thinking or ""
                self._open[index] = _Thinking([text], begun.signature or None)
                first = [ThinkingDelta(index, _clean(text))] if text else []
                return [ThinkingStart(index), *first]
            case "redacted_thinking":
                self._open[index] = _Sealed(begun.data)
                return [ThinkingStart(index)]
            case "tool_use":
                self._open[index] = _Call(begun.id, begun.name, begun.input)
                return [CallStart(begun.id, begun.name)]
            case _:
                return []

    def _finish(self, index: int) -> list[ModelEvent]:
        match self._open.pop(index, None):
            case _Text(pieces):
                return [TextDone(index, _clean("".join(pieces)))]
            case _Thinking(pieces, signature):
                return [ThinkingDone(index, _clean("".join(pieces)), signature=signature)]
            case _Sealed(data):
                return [ThinkingDone(index, encrypted_content=data)]
            case _Call(call_id, name, at_start, pieces):
                arguments = _clean("".join(pieces))
                if not arguments and at_start:  # a server that does not stream them
                    arguments = json.dumps(at_start, ensure_ascii=False)
                done = CallDone(call_id, name, arguments or "{}")
                if _is_json(arguments):
                    return [done]
                self._held = done
                return []
            case _:
                return []

    def _let_go(self) -> list[ModelEvent]:
        held, self._held = self._held, None
        return [] if held is None else [held]

    def _on_delta(
        self, delta: Delta | None, usage: MessageDeltaUsage | None
    ) -> Sequence[ModelEvent]:
        if delta is not None and delta.stop_reason:
            self._reason = delta.stop_reason
            if (why := delta.stop_details) is not None:
                self._refusal = ": ".join(filter(None, (why.category, why.explanation)))
        return (self._figures(usage),) if usage is not None else ()

    def _end(self) -> list[ModelEvent]:
        self.has_ended = True
        reason = self._reason or "end_turn"
        if reason == "pause_turn":
            raise StreamCut("the provider paused the answer")
        if reason == "refusal":
            why = self._refusal or "it gave no reason"
            raise ProviderFailure(f"the model refused to answer ({why})", retryable=False)
        told: list[ModelEvent] = []
        if reason in _TRUNCATED:
            self._held = None
            reason = "max_tokens"
        else:
            told += self._let_go()
        for index, block in sorted(self._open.items()):
            if not isinstance(block, _Call) or reason != "max_tokens":
                told += [*self._finish(index), *self._let_go()]
        return [*told, Ended(reason)]

    def _figures(self, told: FirstUsage | MessageDeltaUsage | None) -> Figures:
        known = self._usage
        if told is not None:
            self._usage = Usage(
                input_tokens=max(known.input_tokens, told.input_tokens or 0),
                output_tokens=max(known.output_tokens, told.output_tokens or 0),
                cache_read_tokens=max(known.cache_read_tokens, told.cache_read_input_tokens or 0),
                cache_write_tokens=max(
                    known.cache_write_tokens, told.cache_creation_input_tokens or 0
                ),
            )
        return Figures(self._usage)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _clean(text: str) -> str:
    """Return a text without half surrogate pairs: they can be said in JSON, and sent nowhere."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
