"""The Chat Completions format, both ways: a request's body, and a stream's chunks as events. Pure.

What the format leaves open, servers fill differently; so this reads leniently:

    finish_reason              ends the answer, `[DONE]` does not: without it the stream was cut.
                               It may come alone, and may say `stop` although there are calls
    tool_calls[].index         may be missing, or 0 for every call; ids may be missing or repeat
    usage                      may come alone after the end, with the end, in every chunk, never
    reasoning_content,         thinking, by one of these names; it goes back by the name it came in,
    reasoning                  with the calls it led to
    reasoning_details          the same as opaque parts (OpenRouter)
    tool_calls[].extra_content opaque (Google: a signature that the next request must have)

A call is begun as soon as it has a name and an id of its own; one without is told in one piece at
the end, so that two without a name never overlap. All calls are done at the very end, in one go:
an answer that is cut has none that is finished. Where the answer was cut short (`length`), a call
is complete if its arguments are.

Opaque parts are kept in `Reasoning`: `signature` is the field that they came in and go back in,
`encrypted_content` their JSON. What belongs to a call stands right before it.

Which dialect a server speaks is decided by its host. OpenAI's own (and Azure's) want
`max_completion_tokens`: newer models refuse `max_tokens`; they alone are told a `prompt_cache_key`,
and take system messages anywhere. Everybody else knows `max_tokens`, and many of their prompt
templates refuse a system message behind the first, two messages of the user in a row, or arguments
that are no JSON object: there, notes become the user's words in a tag, neighbours become one, and
malformed arguments are wrapped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum, auto
from typing import Any
from urllib.parse import urlsplit

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
from podproc.models.openai_errors import InStreamError, Malformed, as_mapping, count
from podproc.tools.base import ToolSchema
from protocol.entries import Item, Message, Reasoning, ToolCall, ToolResult, Usage
from protocol.manifest import Reasoning as Effort


class Dialect(StrEnum):
    """Whose reading of the format a server follows."""

    OPENAI = auto()
    COMPATIBLE = auto()


_OPENAI_HOSTS = ("api.openai.com", ".api.openai.com", ".openai.azure.com")

DETAILS = "reasoning_details"
EXTRA = "extra_content"
_THOUGHT_FIELDS = ("reasoning_content", "reasoning")
FIELDS = frozenset({*_THOUGHT_FIELDS, DETAILS, EXTRA})
"""The words that this format leaves in `Reasoning.signature`."""

MALFORMED = "malformed_arguments"

_REASONS = {
    "stop": "end_turn",
    "stop_sequence": "end_turn",
    "eos_token": "end_turn",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "length": "max_tokens",
    "max_tokens": "max_tokens",
    "model_length": "max_tokens",
    "content_filter": "refusal",
}
_FAILED = ("error", "insufficient_system_resource", "malformed_function_call")
_CUT_SHORT = frozenset({"max_tokens", "refusal"})


def dialect_of(base_url: str) -> Dialect:
    """Return the dialect of the server at an address."""
    try:
        host = urlsplit(base_url).hostname or ""
    except ValueError:  # connecting will say what is wrong with it
        host = ""
    own = any(host == name or (name[0] == "." and host.endswith(name)) for name in _OPENAI_HOSTS)
    return Dialect.OPENAI if own else Dialect.COMPATIBLE


# -- the request


def request_body(request: ModelRequest, model_id: str, dialect: Dialect) -> dict[str, Any]:
    """Return the JSON body of a request."""
    is_own = dialect is Dialect.OPENAI
    body: dict[str, Any] = {
        "model": model_id,
        "messages": messages_of(request.system_prompt, request.items, dialect),
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens" if is_own else "max_tokens": request.max_tokens,
    }
    if request.tools:
        body["tools"] = [_tool(schema) for schema in request.tools]
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.reasoning is not None:
        body["reasoning_effort"] = effort_of(request.reasoning)
    if is_own and request.cache_key:
        body["prompt_cache_key"] = request.cache_key
    return body


def effort_of(effort: Effort) -> str:
    """Return the provider's word for how much to think."""
    return "none" if effort is Effort.OFF else effort.value


def _tool(schema: ToolSchema) -> dict[str, Any]:
    function = {
        "name": schema.name,
        "description": schema.description,
        "parameters": schema.parameters,
    }
    return {"type": "function", "function": function}


@dataclass(slots=True)
class _Said:
    """One answer of the model, as it is gathered from the history."""

    dialect: Dialect
    texts: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    thoughts: dict[str, Any] = field(default_factory=dict)
    extra: Any = None

    def think(self, thought: Reasoning) -> None:
        if self.dialect is Dialect.OPENAI:
            return
        if thought.signature == EXTRA:
            self.extra = _parsed(thought.encrypted_content)
        elif thought.signature == DETAILS:
            self.thoughts.setdefault(DETAILS, []).extend(_parsed(thought.encrypted_content) or ())
        elif thought.signature in _THOUGHT_FIELDS:
            name = str(thought.signature)
            self.thoughts[name] = self.thoughts.get(name, "") + thought.text

    def call(self, call: ToolCall) -> None:
        arguments = call.arguments
        if self.dialect is not Dialect.OPENAI and not is_object(arguments):
            arguments = json.dumps({MALFORMED: arguments}, ensure_ascii=False)
        function = {"name": call.name, "arguments": arguments}
        made: dict[str, Any] = {"id": call.call_id, "type": "function", "function": function}
        if self.extra is not None:
            made[EXTRA], self.extra = self.extra, None
        self.calls.append(made)

    def message(self) -> dict[str, Any] | None:
        """Return it as a message; None where there is nothing to say."""
        text = "\n\n".join(self.texts)
        if self.calls:
            said = {"role": "assistant", "content": text or None, "tool_calls": self.calls}
            return said | self.thoughts
        return {"role": "assistant", "content": text} if text else None


def messages_of(
    system_prompt: str, items: Iterable[Item], dialect: Dialect
) -> list[dict[str, Any]]:
    """Return a history as messages; results stand behind their calls already."""
    out: list[dict[str, Any]] = []
    if system_prompt:
        out.append({"role": "system", "content": system_prompt})
    said = _Said(dialect)
    for item in items:
        match item:
            case Message(role="assistant", content=content):
                said.texts.append(content)
                continue
            case ToolCall():
                said.call(item)
                continue
            case Reasoning():
                said.think(item)
                continue
            case Message() | ToolResult():
                if (answer := said.message()) is not None:
                    out.append(answer)
                said = _Said(dialect)
        match item:
            case ToolResult():
                content = result_text(item)
                out.append({"role": "tool", "tool_call_id": item.call_id, "content": content})
            case Message(role="user", content=content):
                _tell(out, "user", content, dialect)
            case Message(content=content):
                if dialect is Dialect.OPENAI:
                    _tell(out, "system", content, dialect)
                else:
                    _tell(out, "user", f"<system-note>\n{content}\n</system-note>", dialect)
    if (answer := said.message()) is not None:
        out.append(answer)
    return out


def _tell(out: list[dict[str, Any]], role: str, content: str, dialect: Dialect) -> None:
    if dialect is not Dialect.OPENAI and out and out[-1]["role"] == role:
        out[-1]["content"] += f"\n\n{content}"
    else:
        out.append({"role": role, "content": content})


def result_text(result: ToolResult) -> str:
    """Return what the model reads of a tool's result."""
    return f"{result.summary}\n{result.content}" if result.content else result.summary


def is_object(text: str) -> bool:
    """Whether a text is one whole JSON object."""
    return isinstance(_parsed(text), dict)


def _parsed(text: str | None) -> Any:
    try:
        return json.loads(text or "")
    except (ValueError, RecursionError):
        return None


# -- the stream


@dataclass(slots=True)
class _Call:
    """A call as its pieces come."""

    id: str
    name: str
    is_live: bool = False
    pieces: list[str] = field(default_factory=list)
    extra: Any = None

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)

    def is_another(self, call_id: str, name: str, arguments: str) -> bool:
        """Whether a piece that has this call's place begins a new one."""
        if not (name and self.name):
            return False
        if call_id and self.id:
            return call_id != self.id
        return name != self.name or (bool(arguments) and is_object(self.arguments))


class ChatAssembler:
    """Makes events of the chunks of one stream; `feed` each, then `end`.

    `is_ended` once the answer is whole, `is_complete` once nothing of interest can follow.
    """

    def __init__(self) -> None:
        self._blocks = 0
        self._is_thought = False
        self._field = ""
        self._pieces: list[str] | None = None  # of the open block
        self._details: list[dict[str, Any]] = []
        self._calls: list[_Call] = []
        self._places: dict[int | str, _Call] = {}
        self._finish = ""
        self._usage: Usage | None = None
        self._refused = False
        self.is_complete = False

    @property
    def is_ended(self) -> bool:
        """Whether the model has said that its answer is over."""
        return bool(self._finish)

    def feed(self, chunk: object) -> Sequence[ModelEvent]:
        """Take a chunk; raises InStreamError for an error, Malformed for what is no chunk."""
        if not isinstance(chunk, dict):
            raise Malformed("a chunk of the stream is not a JSON object")
        if chunk.get("object") == "error" or chunk.get("error"):
            raise InStreamError(chunk)
        out: list[ModelEvent] = []
        choices = chunk.get("choices")
        if isinstance(choices, list) and choices:
            choice = as_mapping(choices[0])
            delta = choice.get("delta") or choice.get("message")
            if isinstance(delta, dict):
                self._take(delta, out)
            if (finish := choice.get("finish_reason")) and not self._finish:
                self._over(str(finish), out)
        if usage := chunk.get("usage"):
            self._usage = usage_of(usage)
            self.is_complete = bool(self._finish)
        return out

    def end(self) -> Sequence[ModelEvent]:
        """Return what is left to say: the figures, and the calls and the end if it is over."""
        out: list[ModelEvent] = []
        if self._finish:
            reason = _REASONS.get(self._finish, self._finish)
            if reason == "end_turn":
                reason = "refusal" if self._refused else "tool_use" if self._calls else reason
            for made in self._calls:
                self._finish_call(made, out, is_cut=reason in _CUT_SHORT)
        if self._usage is not None:
            out.append(Figures(self._usage))
        if self._finish:
            out.append(Ended(reason))
        return out

    def _take(self, delta: dict[str, Any], out: list[ModelEvent]) -> None:
        text = delta.get("content")
        if type(text) is str and len(delta) == 1:  # nearly all are so
            if text:
                self._piece(text, "", out)
            return
        self._think(delta, out)  # what a server sends together was thought first
        if isinstance(text, str):
            if text:
                self._piece(text, "", out)
        elif text:
            self._parts(text, out)
        if isinstance(refusal := delta.get("refusal"), str) and refusal:
            self._refused = True
            self._piece(refusal, "", out)
        if calls := delta.get("tool_calls"):
            self._close(out)
            for piece in calls if isinstance(calls, list) else ():
                self._call_piece(as_mapping(piece), out)
        if function := delta.get("function_call"):
            self._close(out)
            self._call_piece({"index": "function_call", "function": function}, out)

    def _think(self, delta: dict[str, Any], out: list[ModelEvent]) -> None:
        for name in _THOUGHT_FIELDS:
            if isinstance(text := delta.get(name), str) and text:
                self._piece(text, name, out)
                break
        if isinstance(details := delta.get(DETAILS), list) and details:
            self._open(True, out)
            self._field = DETAILS
            for detail in details:
                _join(self._details, as_mapping(detail))

    def _parts(self, parts: object, out: list[ModelEvent]) -> None:
        """Take content that comes as a list of parts (Mistral)."""
        for part in parts if isinstance(parts, list) else ():
            match part:
                case {"type": "text", "text": str(text)} if text:
                    self._piece(text, "", out)
                case {"type": "thinking", "thinking": list(thoughts)}:
                    for thought in thoughts:
                        if more := _text(as_mapping(thought).get("text")):
                            self._piece(more, "reasoning_content", out)

    def _piece(self, text: str, thought_field: str, out: list[ModelEvent]) -> None:
        is_thought = bool(thought_field)
        if self._pieces is None or self._is_thought is not is_thought:
            self._open(is_thought, out)
        assert self._pieces is not None
        self._pieces.append(text)
        if is_thought:
            self._field = self._field or thought_field
            out.append(ThinkingDelta(self._blocks - 1, text))
        else:
            out.append(TextDelta(self._blocks - 1, text))

    def _open(self, is_thought: bool, out: list[ModelEvent]) -> None:
        if self._pieces is not None:
            if self._is_thought is is_thought:
                return
            self._close(out)
        self._is_thought, self._pieces = is_thought, []
        if is_thought:
            out.append(ThinkingStart(self._blocks))
        self._blocks += 1

    def _close(self, out: list[ModelEvent]) -> None:
        if self._pieces is None:
            return
        text, block = "".join(self._pieces), self._blocks - 1
        self._pieces = None
        if not self._is_thought:
            out.append(TextDone(block, text))
            return
        opaque = json.dumps(self._details, ensure_ascii=False) if self._details else None
        out.append(
            ThinkingDone(block, text, encrypted_content=opaque, signature=self._field or None)
        )
        self._field, self._details = "", []

    def _over(self, finish: str, out: list[ModelEvent]) -> None:
        if any(word in finish.lower() for word in _FAILED):
            message = f"the answer ended with finish_reason {finish}"
            raise InStreamError({"message": message, "code": "server_error"})
        self._close(out)
        self._finish = finish

    def _call_piece(self, piece: dict[str, Any], out: list[ModelEvent]) -> None:
        function = as_mapping(piece.get("function"))
        call_id, name = _text(piece.get("id")), _text(function.get("name"))
        arguments = function.get("arguments")
        if arguments is None:
            arguments = ""
        elif not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        call = self._call_at(piece.get("index"), call_id, name, arguments)
        call.id, call.name = call.id or call_id, call.name or name
        call.extra = piece.get(EXTRA) or call.extra
        told = len(call.pieces) if call.is_live else 0
        if arguments:
            call.pieces.append(arguments)
        if not call.is_live and call.name and call.id and self._is_alone(call):
            call.is_live = True
            out.append(CallStart(call.id, call.name))
        if call.is_live:
            out += [CallArgs(call.id, more) for more in call.pieces[told:]]

    def _call_at(self, index: object, call_id: str, name: str, arguments: str) -> _Call:
        """Return the call that a piece belongs to; a new one where it begins one."""
        place: int | str | None = index if isinstance(index, int | str) else None
        if place is not None:
            call = self._places.get(place)
        else:
            known = [one for one in self._calls if call_id and one.id == call_id]
            call = known[0] if known else self._calls[-1] if self._calls else None
        if call is None or call.is_another(call_id, name, arguments):
            call = _Call(call_id, name)
            self._calls.append(call)
        if place is not None:
            self._places[place] = call
        return call

    def _is_alone(self, call: _Call) -> bool:
        return not any(one is not call and one.id == call.id for one in self._calls)

    def _finish_call(self, call: _Call, out: list[ModelEvent], *, is_cut: bool) -> None:
        arguments = call.arguments
        if not call.is_live:
            out.append(CallStart(call.id, call.name))
            out += [CallArgs(call.id, piece) for piece in call.pieces]
        if is_cut and not is_object(arguments):
            return
        if call.extra is not None:
            opaque = json.dumps(call.extra, ensure_ascii=False)
            out.append(ThinkingStart(self._blocks))
            out.append(ThinkingDone(self._blocks, encrypted_content=opaque, signature=EXTRA))
            self._blocks += 1
        out.append(CallDone(call.id, call.name, arguments or "{}"))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _join(details: list[dict[str, Any]], more: dict[str, Any]) -> None:
    """Add a piece of a detail to the one it continues, else as a new one."""
    last = details[-1] if details else None
    if last is None or any(last.get(key) != more.get(key) for key in ("type", "index")):
        details.append(dict(more))
        return
    for key, value in more.items():
        before = last.get(key)
        if key in ("text", "summary", "data") and isinstance(before, str) and value:
            last[key] = before + str(value)
        elif value is not None:
            last[key] = value


def usage_of(figures: object) -> Usage:
    """Return the tokens of a request; what some leave out of the output is in their total."""
    usage = as_mapping(figures)
    details = as_mapping(usage.get("prompt_tokens_details"))
    given, answered = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
    cached = count(details.get("cached_tokens")) or count(usage.get("prompt_cache_hit_tokens"))
    return split_usage(
        given,
        max(answered, count(usage.get("total_tokens")) - given),
        cached=cached,
        written=count(details.get("cache_write_tokens")),
    )


def split_usage(given: int, answered: int, *, cached: int, written: int) -> Usage:
    """Return figures in which no token of the input counts twice."""
    read = min(given, cached)
    wrote = min(given - read, written)
    return Usage(
        input_tokens=given - read - wrote,
        output_tokens=answered,
        cache_read_tokens=read,
        cache_write_tokens=wrote,
    )
