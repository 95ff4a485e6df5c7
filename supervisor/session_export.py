"""A session in the forms that others read: rows of its line in, a document and what it lacks out.

    markdown    for people: who said what, and when; calls with their arguments, results in full
    openai      `{"messages": […]}` of Chat Completions: system, user, assistant, tool
    anthropic   `{"system": …, "messages": […]}` of Messages: content blocks, roles in turn

The last two hold the whole conversation, also what a compaction has replaced, and keep the rules of
those interfaces: each answer is followed by the results of its calls, in the order of the calls,
whatever order they finished in. A call without a result (the run was cut) is closed with one that
says so, in the words a pod uses: a transcript with an open call is refused by both. A result
without a call is left out.

What a form cannot carry is counted, never dropped in silence. Lossless is the log itself, which
`--format jsonl` copies.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

import orjson

from protocol import entries as en
from protocol.base import Wire
from protocol.printable import printable
from protocol.segments import flatten
from protocol.session.lineage import MissingSegment, Row
from protocol.session.reading import BadRecord
from supervisor.drawing import one_line
from supervisor.session_view import REPAIRED

OUTCOME_UNKNOWN = (
    "interrupted, outcome unknown: it may have had effects; check before you repeat it"
)
"""What closes a call without a result; a pod says the same to its model."""

NO_BEGINNING = "(what was asked before is not there)"


@dataclass(frozen=True, slots=True)
class Exported:
    """A document, and what it does not carry, in words; empty where nothing is lost."""

    text: str
    lacks: tuple[str, ...] = ()


# -- the conversation: who said what, each result with its call


@dataclass(slots=True)
class Answer:
    """One answer of the model, and the results of its calls, in call order."""

    items: list[en.Item] = field(default_factory=list)
    results: list[tuple[en.ToolCall, en.ToolResult | None]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Told:
    """What a person said, or what the model was told that no person typed."""

    text: str
    is_user: bool


Step: TypeAlias = Answer | Told


@dataclass(frozen=True, slots=True)
class Conversation:
    """All that was said along a line; `lost` counts what is no part of a conversation."""

    system_prompt: str | None
    steps: tuple[Step, ...]
    lost: Mapping[str, int]


class _Talk:
    """A conversation being put together."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.lost: Counter[str] = Counter()
        self._answer: Answer | None = None
        self._open: list[tuple[Answer, int]] = []

    def end_answer(self) -> None:
        self._answer = None

    def tell(self, text: str, *, is_user: bool) -> None:
        self.end_answer()
        self.steps.append(Told(text, is_user))

    def add(self, item: en.Item) -> None:
        match item:
            case en.ToolResult():
                self._settle(item)
            case en.Message(role="assistant") | en.Reasoning() | en.ToolCall():
                if self._answer is None:
                    self._answer = Answer()
                    self.steps.append(self._answer)
                self._answer.items.append(item)
                if isinstance(item, en.ToolCall):
                    self._open.append((self._answer, len(self._answer.results)))
                    self._answer.results.append((item, None))
            case en.Message(role=role, content=content):
                self.tell(content, is_user=role == "user")
            case _:
                self.lost["item of an unknown kind"] += 1

    def _settle(self, result: en.ToolResult) -> None:
        self.end_answer()
        for place, (answer, number) in enumerate(self._open):
            call = answer.results[number][0]
            if call.call_id == result.call_id:
                answer.results[number] = (call, result)
                del self._open[place]
                return
        self.lost["result without its call"] += 1


def conversation(told: Iterable[Row]) -> Conversation:
    """Return the conversation along the rows of a line; the newest system prompt counts."""
    talk = _Talk()
    system_prompt: str | None = None
    is_first = True
    for row in told:
        match row.entry:
            case en.SegmentStart(history=history) as start:
                system_prompt = start.system_prompt or system_prompt
                for item in history if is_first else ():
                    talk.add(item)
                is_first = False
                talk.end_answer()
            case en.UserInput(segments=segments):
                talk.tell(flatten(segments), is_user=True)
            case en.SystemItemEntry(item=item):
                talk.tell(item.body, is_user=False)
            case en.AssistantItem(item=item) | en.ToolResultEntry(item=item):
                talk.add(item)
            case en.LlmUsage() | en.TurnEnd() | en.Invoke():
                talk.end_answer()
            case BadRecord():
                talk.lost["damaged line"] += 1
                talk.end_answer()
            case MissingSegment():
                talk.lost["missing segment"] += 1
            case en.UnknownEntry():
                talk.lost["entry of an unknown kind"] += 1
            case _:
                pass
    return Conversation(system_prompt, tuple(talk.steps), talk.lost)


# -- Chat Completions


def to_openai(told: Iterable[Row]) -> Exported:
    """Return the messages of Chat Completions."""
    talk = conversation(told)
    lost = Counter(talk.lost)
    messages: list[dict[str, Any]] = []
    if talk.system_prompt:
        messages.append({"role": "system", "content": talk.system_prompt})
    for step in talk.steps:
        if isinstance(step, Told):
            messages.append({"role": "user" if step.is_user else "system", "content": step.text})
        else:
            messages += _openai_answer(step, lost)
    return Exported(_dumped({"messages": messages}), _lacks(lost, "run ends, times and costs"))


def _openai_answer(answer: Answer, lost: Counter[str]) -> Iterator[dict[str, Any]]:
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for item in answer.items:
        match item:
            case en.Message(content=content):
                texts += [content] if content else []
            case en.ToolCall(call_id=call_id, name=name, arguments=arguments):
                function = {"name": name, "arguments": arguments}
                calls.append({"id": call_id, "type": "function", "function": function})
            case _:
                lost["reasoning block"] += 1
    if not texts and not calls:
        return
    message: dict[str, Any] = {"role": "assistant", "content": "\n\n".join(texts) or None}
    yield message | ({"tool_calls": calls} if calls else {})
    for call, result in _closed(answer, lost):
        if result.is_error:
            lost["mark that a result is an error"] += 1
        yield {"role": "tool", "tool_call_id": call.call_id, "content": text_of(result)}


# -- Messages


def to_anthropic(told: Iterable[Row]) -> Exported:
    """Return system prompt and messages; what is told in between stands in the user's turn."""
    talk = conversation(told)
    lost = Counter(talk.lost)
    messages: list[dict[str, Any]] = []

    def say(role: str, blocks: list[dict[str, Any]]) -> None:
        if not blocks:
            return
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += blocks
        else:
            messages.append({"role": role, "content": blocks})

    for step in talk.steps:
        if isinstance(step, Told):
            if not step.is_user:
                lost["system item as such (it stands as text of the user)"] += 1
            say("user", _text_block(step.text))
            continue
        blocks = _anthropic_blocks(step, lost)
        if blocks and not messages:
            say("user", _text_block(NO_BEGINNING))
        say("assistant", blocks)
        say("user", [_result_block(call, result) for call, result in _closed(step, lost)])
    system = {"system": talk.system_prompt} if talk.system_prompt else {}
    document = {**system, "messages": messages}
    return Exported(_dumped(document), _lacks(lost, "run ends, times and costs"))


def _anthropic_blocks(answer: Answer, lost: Counter[str]) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    for item in answer.items:
        match item:
            case en.Message(content=content):
                blocks += _text_block(content)
            case en.ToolCall(call_id=call_id, name=name, arguments=arguments):
                given = _object(arguments)
                if given is None:
                    lost["call whose arguments are no JSON object (kept as text)"] += 1
                    given = {"malformed_arguments": arguments}
                blocks.append({"type": "tool_use", "id": call_id, "name": name, "input": given})
            case en.Reasoning(text=text, signature=str(signature)) if signature:
                blocks.append({"type": "thinking", "thinking": text, "signature": signature})
            case _:  # the interface refuses thinking that it has not signed
                lost["reasoning block without a signature"] += 1
    if all(block["type"] == "thinking" for block in blocks):  # it may not stand alone
        lost["reasoning block without an answer"] += len(blocks)
        return []
    return blocks


def _text_block(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}] if text.strip() else []  # a blank one is refused


def _result_block(call: en.ToolCall, result: en.ToolResult) -> dict[str, Any]:
    block = {"type": "tool_result", "tool_use_id": call.call_id, "content": text_of(result)}
    return block | ({"is_error": True} if result.is_error else {})


def _object(arguments: str) -> dict[str, Any] | None:
    try:
        given = orjson.loads(arguments)
        orjson.dumps([[[[[[given]]]]]])  # as deep as it will stand in the document
    except (ValueError, TypeError):
        return None
    return given if isinstance(given, dict) else None


# -- both


def text_of(result: en.ToolResult) -> str:
    """Return a result as one text: its summary, and what it is the summary of."""
    return result.summary if not result.content else f"{result.summary}\n{result.content}"


def _closed(answer: Answer, lost: Counter[str]) -> Iterator[tuple[en.ToolCall, en.ToolResult]]:
    for call, result in answer.results:
        if result is None:
            lost["result of a call (closed as interrupted)"] += 1
            result = en.ToolResult(call_id=call.call_id, summary=OUTCOME_UNKNOWN, is_error=True)
        yield call, result


def _lacks(lost: Mapping[str, int], always: str) -> tuple[str, ...]:
    return (*(f"{count} × {what}" for what, count in lost.items() if count), always)


def _dumped(document: Mapping[str, Any]) -> str:
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n"


# -- Markdown


def to_markdown(told: Iterable[Row], *, title: str) -> Exported:
    """Return the history as a page to read; bookkeeping is left out."""
    lost: Counter[str] = Counter()
    calls: dict[str, str] = {}
    parts = [f"# {_inline(title)}"]
    inputs = 0
    is_first = True
    for row in told:
        match row.entry:
            case en.SegmentStart(system_prompt=prompt, history=history) as start:
                if is_first:
                    parts += ["## System prompt", _fenced(prompt)] if prompt else []
                    for item in history:
                        parts += _item_parts(item, calls, lost)
                elif start.compacted_from:
                    parts.append("*The history was compacted here.*")
                else:
                    parts.append("*The session goes on in a fork here.*")
                is_first = False
            case en.UserInput(ts=ts, segments=segments):
                inputs += 1
                parts += [f"## {inputs}. User, {_time(ts)}", _quoted(flatten(segments))]
            case en.AssistantItem(item=item) | en.ToolResultEntry(item=item):
                parts += _item_parts(item, calls, lost)
            case en.SystemItemEntry(item=item):
                parts.append(_quoted(f"**{_inline(item.kind)}:** {item.body}"))
            case en.RunCompleted(result=result, reason=reason) if result != "finished":
                parts.append(f"*Run {result}{': ' + _inline(reason) if reason else ''}.*")
            case en.RunErrored(code=code, message=message):
                parts.append(f"*Run failed ({_inline(code)}): {_inline(message)}*")
            case en.PausedTurnAbandoned():
                parts.append("*The paused run was given up.*")
            case en.Extension(domain=domain, payload=payload) if domain == REPAIRED:
                cause, moved_to = payload.get("cause"), payload.get("moved_to")
                parts.append(f"**A damaged line stood here** ({cause}); it is in {moved_to}.")
            case BadRecord(line=line, offset=offset, cause=cause):
                where = f"line {line}, byte {offset} of segment {row.segment_id}"
                parts.append(f"**Damaged:** {where}: {_inline(cause)}")
            case MissingSegment(cause=cause):
                parts.append(f"**Missing:** segment {_inline(row.segment_id)}: {_inline(cause)}")
            case Wire():
                lost["bookkeeping record"] += 1
    return Exported("\n\n".join(parts) + "\n", _lacks(lost, "configuration and costs"))


def _item_parts(item: en.Item, calls: dict[str, str], lost: Counter[str]) -> list[str]:
    match item:
        case en.Message(role="assistant", content=content):
            return [printable(content)]
        case en.Message(content=content):
            return [_quoted(content)]
        case en.Reasoning(text=text, summary=summary):
            said = summary or text
            if item.encrypted_content or item.signature:
                lost["sealed part of reasoning"] += 1
            return [_quoted(f"*Thinking:* {said}")] if said else []
        case en.ToolCall(call_id=call_id, name=name, arguments=arguments):
            calls[call_id] = name
            return [f"### Call: {_inline(name)}", _fenced(_pretty(arguments), "json")]
        case en.ToolResult(call_id=call_id, is_error=is_error):
            of = _inline(calls.get(call_id, "a call that is not there"))
            return [f"{'Error' if is_error else 'Result'} of {of}:", _fenced(text_of(item))]
        case _:
            lost["item of an unknown kind"] += 1
            return []


def _inline(text: str) -> str:
    return re.sub(r"([\\`*_<>#\[\]|])", r"\\\1", one_line(text, 500))


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in printable(text).split("\n"))


def _fenced(text: str, language: str = "") -> str:
    """Return a block with a fence that nothing within can close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{printable(text)}\n{fence}"


def _pretty(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return arguments


def _time(ts: int) -> str:
    try:
        return datetime.fromtimestamp(ts / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"at {ts} ms"


FORMS: Mapping[str, Callable[[Iterable[Row], str], Exported]] = {
    "markdown": lambda told, title: to_markdown(told, title=title),
    "openai": lambda told, title: to_openai(told),
    "anthropic": lambda told, title: to_anthropic(told),
}
"""The forms that are made; `jsonl` is copied."""
