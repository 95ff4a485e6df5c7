"""What one request says, in the form of Anthropic's Messages. Pure.

    system prompt        system, one text block
    user                 text in the user's turn
    system items         the same, in `<system-message>`: the form has no third speaker
    assistant, calls     blocks of the assistant's turn, in order
    results              first in the user's turn behind their calls, in call order, `is_error` kept
    reasoning            `thinking` with its signature, `redacted_thinking` where it is sealed

The interface refuses a whole request for one block it does not like, and then refuses the session
for ever; so whatever stands in the history, what comes out of here keeps its rules. Turns alternate
and the user has the first and the last one: an answer that a broken stream cut is followed by a
word to go on, since newer models take no answer to complete. Blank texts are left out, and so is
reasoning that was not signed (its stream broke) or that ends an answer. Each call has one result
right behind it. Arguments that are no JSON object stand as `{"_malformed": text}`, behind which the
error that the tool's registry gave says what is wrong. Without tools a history with calls is
refused too: they are declared from the history then, and may not be used.

Prompt caches: a breakpoint is set behind the system prompt (which covers the tools before it), at
the end of the last user turn but one, and at the end. The middle one is where the request before
this one ended; so what that one wrote is found however many blocks came since. What stands before a
breakpoint does not change while the projection does not prune.

How much the model may think (`engine.reasoning`):

    unset     nothing is said; some models think by default
    off       `disabled`; a model that cannot is refused by its provider
    low …     Claude before 4.6, and models of others: a budget (4,000, 10,000, 20,000 tokens)
              Claude 4.6 and later: `adaptive`, with the word as its effort; 4.7 and later refuse
              budgets. Thoughts are asked for as summaries: a model that thinks unheard looks dead

Thinking counts as output: `max_tokens` is raised by the budget, so that it stays the size of an
answer. A budget is left out while the answer in progress began without thinking, as after a change
of the setting between a call and its result: that is refused too. The temperature is left out: the
SDK's interface has none.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias

from podproc.engine.history import OUTCOME_UNKNOWN
from podproc.models.base import ModelRequest
from protocol.entries import Item, Message, Reasoning, ToolCall, ToolResult, UnknownItem
from protocol.manifest import Reasoning as Effort

if TYPE_CHECKING:
    from anthropic.types import (
        MessageParam,
        RedactedThinkingBlockParam,
        TextBlockParam,
        ThinkingBlockParam,
        ToolParam,
        ToolResultBlockParam,
        ToolUseBlockParam,
    )
    from anthropic.types.message_create_params import MessageCreateParamsStreaming

    Block: TypeAlias = (
        TextBlockParam
        | ToolUseBlockParam
        | ToolResultBlockParam
        | ThinkingBlockParam
        | RedactedThinkingBlockParam
    )

NO_BEGINNING = "(what was asked before is not there)"
GO_ON = "Your answer was cut by a broken connection; go on exactly where it stops."
NOT_CALLED = "A result whose call is not there any more: "
MALFORMED = "_malformed"
BUDGETS = {Effort.LOW: 4_000, Effort.MEDIUM: 10_000, Effort.HIGH: 20_000}
"""Tokens; with the usual `max_tokens` the highest stays below the 32,000 of Opus 4."""

_EFFORTS: dict[Effort, Literal["low", "medium", "high"]] = {
    Effort.LOW: "low",
    Effort.MEDIUM: "medium",
    Effort.HIGH: "high",
}
_VERSION = re.compile(r"claude-(?:[a-z]+-)?(\d{1,2})(?:-(\d{1,2}))?(?!\d)")
_ADAPTIVE_SINCE = (4, 6)
_FOREIGN = re.compile(r"[^a-zA-Z0-9_-]")


def to_params(request: ModelRequest, model_id: str) -> MessageCreateParamsStreaming:
    """Return the arguments of `messages.create` for a streamed answer."""
    messages = _messages(request.items)
    params: MessageCreateParamsStreaming = {
        "model": model_id,
        "max_tokens": request.max_tokens,
        "messages": messages,
        "stream": True,
    }
    if request.tools:
        params["tools"] = tools = _tools(request)
    elif names := _called(request.items):
        params["tools"] = tools = [_gone(name) for name in names]
        params["tool_choice"] = {"type": "none"}
    else:
        tools = []
    if system := _text(request.system_prompt):
        params["system"] = system
    _set_breakpoints(system, tools, messages)
    _set_thinking(params, request.reasoning, messages)
    return params


# -- turns


def _messages(items: Iterable[Item]) -> list[MessageParam]:
    messages: list[MessageParam] = []
    calls: list[ToolCall] = []

    def say(role: Literal["user", "assistant"], blocks: Sequence[Block]) -> None:
        if not blocks:
            return
        if not messages or messages[-1]["role"] != role:
            messages.append(_TURNS[role]())
        content = messages[-1]["content"]
        assert isinstance(content, list)
        content += blocks

    known = (item for item in items if not isinstance(item, UnknownItem))
    for is_answer, group in itertools.groupby(known, _is_answer):
        if is_answer:
            part = list(group)
            blocks = _answer(part)
            if blocks and not messages:
                say("user", _text(NO_BEGINNING))
            say("assistant", blocks)
            calls = [item for item in part if isinstance(item, ToolCall)]
        else:
            say("user", _told(calls, list(group)))
            calls = []
    say("user", _told(calls, []))
    if not messages:
        say("user", _text(NO_BEGINNING))
    if messages[-1]["role"] == "assistant":
        say("user", _system_text(GO_ON))
    return messages


_TURNS: dict[str, Callable[[], MessageParam]] = {
    "user": lambda: {"role": "user", "content": []},
    "assistant": lambda: {"role": "assistant", "content": []},
}


def _is_answer(item: Item) -> bool:
    match item:
        case ToolCall() | Reasoning():
            return True
        case Message(role=role):
            return role == "assistant"
        case _:
            return False


def _answer(items: Iterable[Item]) -> list[Block]:
    blocks: list[Block] = []
    for item in items:
        match item:
            case Message(content=content):
                blocks += _text(content)
            case ToolCall(call_id=call_id, name=name, arguments=arguments):
                blocks.append(
                    {
                        "type": "tool_use",
                        "id": _accepted(call_id),
                        "name": _accepted(name),
                        "input": _input(arguments),
                    }
                )
            case Reasoning(text=text, signature=str(signature)) if signature:
                blocks.append({"type": "thinking", "thinking": text, "signature": signature})
            case Reasoning(text="", summary="", encrypted_content=str(data)) if data:
                blocks.append({"type": "redacted_thinking", "data": data})
    while blocks and _is_thinking(blocks[-1]):
        blocks.pop()
    return blocks


def _told(calls: Sequence[ToolCall], items: Sequence[Item]) -> list[Block]:
    """Return a user's turn: the results of the calls before it, then all that was said."""
    results: dict[str, ToolResult] = {}
    said: list[Block] = []
    called = {call.call_id for call in calls}
    for item in items:
        match item:
            case ToolResult(call_id=call_id) if call_id in called and call_id not in results:
                results[call_id] = item
            case ToolResult():
                said += _system_text(NOT_CALLED + _result_text(item))
            case Message(role="user", content=content):
                said += _text(content)
            case Message(content=content):
                said += _system_text(content)
    return [*(_result(call, results.get(call.call_id)) for call in calls), *said]


def _text(text: str) -> list[TextBlockParam]:
    return [{"type": "text", "text": text}] if text.strip() else []


def _system_text(text: str) -> list[TextBlockParam]:
    return _text(f"<system-message>\n{text}\n</system-message>" if text.strip() else "")


def _result(call: ToolCall, result: ToolResult | None) -> ToolResultBlockParam:
    if result is None:
        result = ToolResult(call_id=call.call_id, summary=OUTCOME_UNKNOWN, is_error=True)
    block: ToolResultBlockParam = {"type": "tool_result", "tool_use_id": _accepted(call.call_id)}
    if text := _result_text(result):
        block["content"] = text
    if result.is_error:
        block["is_error"] = True
        block.setdefault("content", "failed")  # an error has to say something
    return block


def _result_text(result: ToolResult) -> str:
    text = f"{result.summary}\n{result.content}" if result.content else result.summary
    return text if text.strip() else ""


def _input(arguments: str) -> dict[str, object]:
    try:
        given = json.loads(arguments, parse_constant=_refuse)
        # What can be read need not be sendable: half a surrogate pair, 1e999, or too deep.
        json.dumps([[[[[[given]]]]]], ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return {MALFORMED: arguments}
    return given if isinstance(given, dict) else {MALFORMED: arguments}


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _accepted(name: str) -> str:
    """Return an id or a name as the interface takes it; another provider's may be different."""
    return _FOREIGN.sub("_", name) or "_"


def _is_thinking(block: Any) -> bool:
    return block["type"] in ("thinking", "redacted_thinking")


# -- tools


def _tools(request: ModelRequest) -> list[ToolParam]:
    return [
        {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}
        for tool in request.tools
    ]


def _called(items: Iterable[Item]) -> list[str]:
    return sorted({_accepted(item.name) for item in items if isinstance(item, ToolCall)})


def _gone(name: str) -> ToolParam:
    return {"name": name, "description": "Not to be used now.", "input_schema": {"type": "object"}}


# -- caches and thinking


def _set_breakpoints(
    system: Sequence[TextBlockParam], tools: Sequence[ToolParam], messages: Sequence[MessageParam]
) -> None:
    ends: list[Any] = [*(system or tools)[-1:]]
    for message in (*messages[-3:-2], messages[-1]):
        ends += list(message["content"])[-1:]
    for block in ends:
        block["cache_control"] = {"type": "ephemeral"}


def takes_effort(model_id: str) -> bool:
    """Whether a model thinks by effort instead of by a budget: Claude since 4.6.

    So does a Claude whose name has no version: names without one are new.
    """
    if "claude" not in model_id:
        return False
    version = _VERSION.search(model_id)
    return version is None or (int(version[1]), int(version[2] or 0)) >= _ADAPTIVE_SINCE


def _set_thinking(
    params: MessageCreateParamsStreaming, effort: Effort | None, messages: Sequence[MessageParam]
) -> None:
    match effort:
        case None:
            return
        case Effort.OFF:
            params["thinking"] = {"type": "disabled"}
            return
        case Effort.LOW | Effort.MEDIUM | Effort.HIGH:
            budget = BUDGETS[effort]
    if takes_effort(params["model"]):
        params["thinking"] = {"type": "adaptive", "display": "summarized"}
        params["output_config"] = {"effort": _EFFORTS[effort]}
    elif _began_thinking(messages):
        params["thinking"] = {"type": "enabled", "budget_tokens": budget}
    else:
        return
    params["max_tokens"] += budget


def _began_thinking(messages: Sequence[MessageParam]) -> bool:
    """Whether the answer that calls have interrupted, if there is one, begins with thinking."""
    begun: MessageParam | None = None
    for message in reversed(messages):
        if message["role"] == "assistant":
            begun = message
        elif not any(_is_result(block) for block in message["content"]):
            break
    return begun is None or any(_is_thinking(block) for block in list(begun["content"])[:1])


def _is_result(block: Any) -> bool:
    return isinstance(block, dict) and block["type"] == "tool_result"
