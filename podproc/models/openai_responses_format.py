"""The Responses format, both ways: a request's body, and a stream's events as ours. Pure.

    response.created
      output_item.added ─ reasoning     ─ reasoning_summary_text.delta*, reasoning_text.delta*  ─┐
      output_item.added ─ message       ─ (output_text.delta* output_text.done)*, refusal.delta* ─┤
      output_item.added ─ function_call ─ function_call_arguments.delta*                         ─┤
      output_item.done  ◄─────────────────────────────────────────────────────────────────────────┘
    response.completed | response.incomplete | response.failed | error

Nothing is kept at the provider (`store` false), so reasoning goes back with the history: its item's
`encrypted_content`, with the id in `Reasoning.signature`, both as `output_item.done` gave them.
Without its encrypted content the provider would look for an item it does not have; and a reasoning
item that nothing of the same answer follows is refused: such ones stay at home. Calls and messages
go back without an id, so that none of them demands a reasoning item.

What is in `response.completed` and was not told before is told then: an answer's calls are not lost
because a server leaves out an event. What follows an event that nobody knows is read on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from podproc.models.base import (
    CallArgs,
    CallDone,
    CallStart,
    Ended,
    Figures,
    ModelEvent,
    ModelRequest,
    TextDelta,
    TextDone,
    ThinkingDelta,
    ThinkingDone,
    ThinkingStart,
)
from podproc.models.openai_chat_format import FIELDS, effort_of, result_text, split_usage
from podproc.models.openai_errors import InStreamError, Malformed, as_mapping, count
from podproc.tools.base import ToolSchema
from protocol.entries import Item, Message, Reasoning, ToolCall, ToolResult, Usage
from protocol.manifest import Reasoning as Effort

_INCOMPLETE = {"max_output_tokens": "max_tokens", "content_filter": "refusal"}
_GAP = "\n\n"
_WITHOUT_REASONING = ("gpt-3", "gpt-4", "chatgpt-4")
"""Models that refuse a request which asks for encrypted reasoning."""

# -- the request


def request_body(request: ModelRequest, model_id: str) -> dict[str, Any]:
    """Return the JSON body of a request."""
    body: dict[str, Any] = {
        "model": model_id,
        "input": input_of(request.items),
        "max_output_tokens": request.max_tokens,
        "store": False,
        "stream": True,
    }
    if not model_id.startswith(_WITHOUT_REASONING):
        body["include"] = ["reasoning.encrypted_content"]
    if request.system_prompt:
        body["instructions"] = request.system_prompt
    if request.tools:
        body["tools"] = [_tool(schema) for schema in request.tools]
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.reasoning is Effort.OFF:
        body["reasoning"] = {"effort": effort_of(request.reasoning)}
    elif request.reasoning is not None:
        body["reasoning"] = {"effort": effort_of(request.reasoning), "summary": "auto"}
    if request.cache_key:
        body["prompt_cache_key"] = request.cache_key
    return body


def _tool(schema: ToolSchema) -> dict[str, Any]:
    # `strict` is the default here, and would refuse schemas with optional arguments.
    return {
        "type": "function",
        "name": schema.name,
        "description": schema.description,
        "parameters": schema.parameters,
        "strict": False,
    }


def input_of(items: Iterable[Item]) -> list[dict[str, Any]]:
    """Return a history as input items; results stand behind their calls already."""
    out: list[dict[str, Any]] = []
    thoughts: list[dict[str, Any]] = []
    for item in items:
        match item:
            case Reasoning():
                if (thought := _reasoning(item)) is not None:
                    thoughts.append(thought)
                continue
            case Message(role="assistant", content=content):
                out += [*thoughts, _message("assistant", "output_text", content)]
            case ToolCall():
                out += [*thoughts, _call(item)]
            case ToolResult():
                out.append(
                    {
                        "type": "function_call_output",
                        "call_id": item.call_id,
                        "output": result_text(item),
                    }
                )
            case Message(role=role, content=content):
                speaker = "developer" if role == "system" else role
                out.append(_message(speaker, "input_text", content))
            case _:
                continue
        thoughts = []
    return out


def _message(role: str, kind: str, text: str) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def _call(call: ToolCall) -> dict[str, Any]:
    return {
        "type": "function_call",
        "call_id": call.call_id,
        "name": call.name,
        "arguments": call.arguments,
    }


def _reasoning(thought: Reasoning) -> dict[str, Any] | None:
    """Return a reasoning item; None for one that is not of this format, or cannot be read there."""
    if not thought.encrypted_content or not thought.signature or thought.signature in FIELDS:
        return None
    parts = [{"type": "summary_text", "text": thought.summary}] if thought.summary else []
    return {
        "type": "reasoning",
        "id": thought.signature,
        "summary": parts,
        "encrypted_content": thought.encrypted_content,
    }


# -- the stream


@dataclass(slots=True)
class _Output:
    """One item of the output as its events come; `kind` is its type, "" while unknown."""

    kind: str
    call_id: str = ""
    name: str = ""
    block: int | None = None
    part: object = None
    pieces: list[str] = field(default_factory=list)
    texts: int = 0
    is_done: bool = False


class ResponsesAssembler:
    """Makes events of the events of one stream; `feed` each, then `end`.

    `is_ended` once the answer is whole, which is also when nothing can follow.
    """

    def __init__(self) -> None:
        self._blocks = 0
        self._outputs: dict[int | None, _Output] = {}
        self._usage: Usage | None = None
        self._reason = ""
        self._refused = False
        self._called = False

    @property
    def is_ended(self) -> bool:
        """Whether the terminal event has come."""
        return bool(self._reason)

    @property
    def is_complete(self) -> bool:
        """Whether nothing of interest can follow."""
        return bool(self._reason)

    def feed(self, event: object) -> Sequence[ModelEvent]:
        """Take an event; raises InStreamError for a failure, Malformed for what is none."""
        if not isinstance(event, dict):
            raise Malformed("an event of the stream is not a JSON object")
        out: list[ModelEvent] = []
        match event.get("type"):
            case "response.output_text.delta":
                self._text(event, _word(event.get("delta")), out)
            case "response.function_call_arguments.delta":
                if delta := _word(event.get("delta")):
                    call = self._at(event, "function_call", out)
                    call.pieces.append(delta)
                    out.append(CallArgs(call.call_id, delta))
            case "response.function_call_arguments.done":
                call = self._at(event, "function_call", out)
                if not call.pieces and (whole := _word(event.get("arguments"))):
                    call.pieces.append(whole)
                    out.append(CallArgs(call.call_id, whole))
            case "response.reasoning_summary_text.delta":
                self._think(event, ("summary", event.get("summary_index")), out)
            case "response.reasoning_text.delta":
                self._think(event, ("content", event.get("content_index")), out)
            case "response.refusal.delta":
                self._refused = True
                self._text(event, _word(event.get("delta")), out)
            case "response.output_text.done" | "response.refusal.done":
                self._text_done(self._at(event, "message", out), out)
            case "response.output_item.added":
                self._added(_place(event), as_mapping(event.get("item")), out)
            case "response.output_item.done":
                self._done(_place(event), as_mapping(event.get("item")), out)
            case "response.completed" | "response.incomplete" | "response.failed" as kind:
                self._over(kind, as_mapping(event.get("response")), out)
            case "error":
                raise InStreamError(event)
            case None if event.get("error"):
                raise InStreamError(event)
            case _:
                pass
        return out

    def end(self) -> Sequence[ModelEvent]:
        """Return what is left to say: the figures, and the end if it is over."""
        out: list[ModelEvent] = []
        if self._usage is not None:
            out.append(Figures(self._usage))
        if self._reason:
            out.append(Ended(self._reason))
        return out

    def _at(self, event: dict[str, Any], kind: str, out: list[ModelEvent]) -> _Output:
        """Return the item that an event is of, which nobody may have announced."""
        index = _place(event)
        found = self._outputs.get(index)
        if found is None:
            found = self._added(index, {"type": kind, "call_id": event.get("item_id")}, out)
        return found

    def _added(self, index: int | None, item: dict[str, Any], out: list[ModelEvent]) -> _Output:
        output = _Output(_word(item.get("type")))
        self._outputs[index] = output
        match output.kind:
            case "reasoning":
                output.block = self._next_block()
                out.append(ThinkingStart(output.block))
            case "function_call":
                output.call_id = _word(item.get("call_id")) or _word(item.get("id"))
                output.name = _word(item.get("name"))
                out.append(CallStart(output.call_id, output.name))
        return output

    def _next_block(self) -> int:
        self._blocks += 1
        return self._blocks - 1

    def _text(self, event: dict[str, Any], delta: str, out: list[ModelEvent]) -> None:
        if not delta:
            return
        output = self._at(event, "message", out)
        part = event.get("content_index")
        if output.block is not None and output.part != part:
            self._text_done(output, out)
        if output.block is None:
            output.block, output.part = self._next_block(), part
            output.texts += 1
        output.pieces.append(delta)
        out.append(TextDelta(output.block, delta))

    def _text_done(self, output: _Output, out: list[ModelEvent]) -> None:
        if output.block is not None:
            out.append(TextDone(output.block, "".join(output.pieces)))
        output.block, output.pieces = None, []

    def _think(self, event: dict[str, Any], part: object, out: list[ModelEvent]) -> None:
        delta = _word(event.get("delta"))
        output = self._at(event, "reasoning", out)
        if not delta or output.block is None:
            return
        if output.pieces and output.part != part:
            delta = _GAP + delta
        output.part = part
        output.pieces.append(delta)
        out.append(ThinkingDelta(output.block, delta))

    def _done(self, index: int | None, item: dict[str, Any], out: list[ModelEvent]) -> None:
        output = self._outputs.get(index)
        if output is None:
            output = self._added(index, item, out)
        if output.is_done:
            return
        output.is_done = True
        match output.kind:
            case "reasoning":
                self._reasoning_done(output, item, out)
            case "message":
                self._message_done(output, item, out)
            case "function_call" if item.get("status") != "incomplete":
                arguments = item.get("arguments")
                if not isinstance(arguments, str) or not arguments:
                    arguments = "".join(output.pieces)
                if not output.pieces and arguments:
                    out.append(CallArgs(output.call_id, arguments))
                name = _word(item.get("name")) or output.name
                self._called = True
                out.append(CallDone(output.call_id, name, arguments or "{}"))

    def _reasoning_done(self, output: _Output, item: dict[str, Any], out: list[ModelEvent]) -> None:
        summary, content = _texts(item.get("summary")), _texts(item.get("content"))
        text = content or summary or "".join(output.pieces)
        if output.block is None:
            output.block = self._next_block()
        if text and not output.pieces:
            out.append(ThinkingDelta(output.block, text))
        out.append(
            ThinkingDone(
                output.block,
                text,
                summary=summary,
                encrypted_content=_word(item.get("encrypted_content")) or None,
                signature=_word(item.get("id")) or None,
            )
        )

    def _message_done(self, output: _Output, item: dict[str, Any], out: list[ModelEvent]) -> None:
        self._text_done(output, out)
        for part in _listed(item.get("content"))[output.texts :]:
            refusal = _word(as_mapping(part).get("refusal"))
            self._refused = self._refused or bool(refusal)
            if text := _word(as_mapping(part).get("text")) or refusal:
                block = self._next_block()
                out += [TextDelta(block, text), TextDone(block, text)]

    def _over(self, kind: str, response: dict[str, Any], out: list[ModelEvent]) -> None:
        if usage := response.get("usage"):
            self._usage = usage_of(usage)
        if kind == "response.failed":
            raise InStreamError(response.get("error") or {"message": "the response failed"})
        is_whole = kind == "response.completed"
        if None not in self._outputs:  # else places say nothing
            for index, item in enumerate(_listed(response.get("output"))):
                if is_whole or as_mapping(item).get("status") == "completed":
                    self._done(index, as_mapping(item), out)
        for place, output in list(self._outputs.items()):
            if is_whole or output.kind != "function_call":
                self._done(place, {}, out)
        if kind == "response.incomplete":
            why = _word(as_mapping(response.get("incomplete_details")).get("reason"))
            self._reason = _INCOMPLETE.get(why, why or "incomplete")
        elif self._refused:
            self._reason = "refusal"
        else:
            self._reason = "tool_use" if self._called else "end_turn"


def _place(event: dict[str, Any]) -> int | None:
    index = event.get("output_index")
    return index if isinstance(index, int) else None


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(parts: object) -> str:
    """Return the texts of a list of parts as paragraphs."""
    found = (_word(as_mapping(part).get("text")) for part in _listed(parts))
    return _GAP.join(text for text in found if text)


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def usage_of(figures: object) -> Usage:
    """Return the tokens of a request; those of reasoning are part of the output."""
    usage = as_mapping(figures)
    details = as_mapping(usage.get("input_tokens_details"))
    return split_usage(
        count(usage.get("input_tokens")),
        count(usage.get("output_tokens")),
        cached=count(details.get("cached_tokens")),
        written=count(details.get("cache_write_tokens")),
    )
