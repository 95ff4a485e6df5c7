"""What OpenAI's two formats look like from the server's side, written from their public reference.

Chat Completions: https://platform.openai.com/docs/api-reference/chat/streaming, and where others
differ https://openrouter.ai/docs/api-reference/streaming, https://api-docs.deepseek.com,
https://ai.google.dev/gemini-api/docs/openai. Responses:
https://platform.openai.com/docs/api-reference/responses-streaming. Nothing here looks at our
adapters; `judge_chat` and `judge_responses` refuse, as the provider would, a request that is not of
the format: an unknown field, a call without its result, a reasoning item that nothing follows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.support.providers.openai_sse import Frame, Move, Raw, Received, Reply

KEY = "sk-test-5a1b9c7e3f"
"""The one key that the servers take."""

MODEL = "gpt-test"
Json = dict[str, Any]

DONE = Frame("[DONE]")


# -- Chat Completions


def chunk(
    delta: Json | None = None, finish: str | None = None, *, usage: Json | None = None, **more: Any
) -> Frame:
    """Return one chunk; without a delta and an end, one without choices."""
    choices: list[Json] = []
    if delta is not None or finish is not None:
        choices = [{"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": finish}]
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_750_000_000,
        "model": MODEL,
        "choices": choices,
        "usage": usage,
    }
    return Frame(body | more)


def said(text: str) -> Frame:
    """Return a chunk of text."""
    return chunk({"content": text})


def call_delta(*calls: Json) -> Frame:
    """Return a chunk with pieces of calls."""
    return chunk({"tool_calls": list(calls)})


def piece(
    index: int | None = 0,
    *,
    id: str | None = None,
    name: str | None = None,
    arguments: str | None = None,
    **more: Any,
) -> Json:
    """Return a piece of a call; what is None is left out."""
    function = {"name": name, "arguments": arguments}
    made: Json = {"function": {key: value for key, value in function.items() if value is not None}}
    if index is not None:
        made["index"] = index
    if id is not None:
        made |= {"id": id, "type": "function"}
    return made | more


def chat_usage(given: int = 100, answered: int = 7, *, cached: int = 0, **more: int) -> Json:
    """Return the figures of a request."""
    return {
        "prompt_tokens": given,
        "completion_tokens": answered,
        "total_tokens": given + answered,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    } | more


ROLE = chunk({"role": "assistant", "content": "", "refusal": None})


def chat_end(finish: str = "stop", **usage: int) -> list[Move]:
    """Return how OpenAI ends a stream: the reason alone, the figures alone, `[DONE]`."""
    return [chunk({}, finish), chunk(usage=chat_usage(**usage)), DONE]


def chat(*moves: Move, finish: str = "stop", **settings: Any) -> Reply:
    """Return a whole answer."""
    return Reply([ROLE, *moves, *chat_end(finish)], **settings)


_CHAT_FIELDS = {
    "model",
    "messages",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "tools",
    "temperature",
    "reasoning_effort",
    "prompt_cache_key",
}


def judge_chat(request: Received) -> Reply | None:
    """Refuse what Chat Completions refuses."""
    if (refusal := _judge_common(request, "/v1/chat/completions", _CHAT_FIELDS)) is not None:
        return refusal
    owed: list[str] = []
    for at, message in enumerate(request.body["messages"]):
        role = message["role"]
        if role == "tool":
            if message["tool_call_id"] not in owed:
                return invalid(f"messages.[{at}]: role 'tool' must answer a preceding tool_calls")
            owed.remove(message["tool_call_id"])
            continue
        if owed:
            return invalid(f"messages.[{at}]: tool_call_ids did not have response messages: {owed}")
        if role == "assistant":
            calls = message.get("tool_calls", [])
            owed = [call["id"] for call in calls]
            if not calls and not message["content"]:
                return invalid(f"messages.[{at}]: an assistant message needs content or calls")
            if any(not isinstance(call["function"]["arguments"], str) for call in calls):
                return invalid(f"messages.[{at}]: arguments must be a string")
        elif not isinstance(message["content"], str):
            return invalid(f"messages.[{at}]: content must be a string")
    return invalid(f"tool_call_ids did not have response messages: {owed}") if owed else None


# -- Responses


class Script:
    """Builds the events of one response: each with its sequence number."""

    def __init__(self) -> None:
        self.frames: list[Move] = []
        self.output: list[Json] = []
        self.event("response.created", response=self._response("in_progress"))
        self.event("response.in_progress", response=self._response("in_progress"))

    def event(self, kind: str, **fields: Any) -> Script:
        """Add one event."""
        data = {"type": kind, "sequence_number": len(self.frames)} | fields
        self.frames.append(Frame(data, event=kind))
        return self

    def move(self, move: Move) -> Script:
        """Add something that is no event."""
        self.frames.append(move)
        return self

    def text(self, *pieces: str, status: str = "completed", is_done: bool = True) -> Script:
        """Add a message of one part."""
        at, item_id = len(self.output), f"msg_{len(self.output)}"
        item: Json = {"id": item_id, "type": "message", "role": "assistant", "content": []}
        where = {"item_id": item_id, "output_index": at, "content_index": 0}
        self.event("response.output_item.added", output_index=at, item=item)
        empty = {"type": "output_text", "text": "", "annotations": []}
        self.event("response.content_part.added", part=empty, **where)
        for text in pieces:
            self.event("response.output_text.delta", delta=text, logprobs=[], **where)
        whole = empty | {"text": "".join(pieces)}
        item = item | {"status": status, "content": [whole]}
        self.output.append(item)
        if is_done:
            self.event("response.output_text.done", text=whole["text"], **where)
            self.event("response.content_part.done", part=whole, **where)
            self.event("response.output_item.done", output_index=at, item=item)
        return self

    def refusal(self, *pieces: str) -> Script:
        """Add a message that refuses."""
        at, item_id = len(self.output), f"msg_{len(self.output)}"
        item: Json = {"id": item_id, "type": "message", "role": "assistant", "content": []}
        where = {"item_id": item_id, "output_index": at, "content_index": 0}
        self.event("response.output_item.added", output_index=at, item=item)
        for text in pieces:
            self.event("response.refusal.delta", delta=text, **where)
        part = {"type": "refusal", "refusal": "".join(pieces)}
        self.event("response.refusal.done", refusal=part["refusal"], **where)
        item = item | {"status": "completed", "content": [part]}
        self.output.append(item)
        return self.event("response.output_item.done", output_index=at, item=item)

    def reasoning(
        self, *summaries: str, encrypted: str | None = "gAAA-opaque", id: str = "rs_1"
    ) -> Script:
        """Add a reasoning item, each summary a part of its own."""
        at = len(self.output)
        item: Json = {"id": id, "type": "reasoning", "summary": [], "encrypted_content": ""}
        self.event("response.output_item.added", output_index=at, item=item)
        for number, text in enumerate(summaries):
            where = {"item_id": id, "output_index": at, "summary_index": number}
            part = {"type": "summary_text", "text": ""}
            self.event("response.reasoning_summary_part.added", part=part, **where)
            for letters in (text[:4], text[4:]):
                self.event("response.reasoning_summary_text.delta", delta=letters, **where)
            self.event("response.reasoning_summary_text.done", text=text, **where)
            part = part | {"text": text}
            self.event("response.reasoning_summary_part.done", part=part, **where)
        parts = [{"type": "summary_text", "text": text} for text in summaries]
        item = {"id": id, "type": "reasoning", "summary": parts, "encrypted_content": encrypted}
        self.output.append(item)
        return self.event("response.output_item.done", output_index=at, item=item)

    def call(
        self,
        call_id: str,
        *pieces: str,
        name: str = "Echo",
        status: str = "completed",
        is_done: bool = True,
    ) -> Script:
        """Add a call of a function."""
        at, item_id = len(self.output), f"fc_{len(self.output)}"
        item = {"id": item_id, "type": "function_call", "call_id": call_id, "name": name}
        empty = item | {"arguments": "", "status": "in_progress"}
        self.event("response.output_item.added", output_index=at, item=empty)
        where = {"item_id": item_id, "output_index": at}
        for text in pieces:
            self.event("response.function_call_arguments.delta", delta=text, **where)
        whole = "".join(pieces)
        item = item | {"arguments": whole, "status": status}
        self.output.append(item)
        if is_done:
            self.event("response.function_call_arguments.done", arguments=whole, **where)
            self.event("response.output_item.done", output_index=at, item=item)
        return self

    def completed(self, **usage: int) -> Script:
        """End it well."""
        response = self._response("completed", usage=responses_usage(**usage))
        return self.event("response.completed", response=response)

    def incomplete(self, reason: str) -> Script:
        """End it early."""
        details = {"reason": reason}
        response = self._response("incomplete", incomplete_details=details, usage=responses_usage())
        return self.event("response.incomplete", response=response)

    def failed(self, code: str, message: str) -> Script:
        """End it badly."""
        response = self._response("failed", error={"code": code, "message": message})
        return self.event("response.failed", response=response)

    def reply(self, **settings: Any) -> Reply:
        """Return the answer as it is so far."""
        return Reply(list(self.frames), **settings)

    def _response(self, status: str, **more: Any) -> Json:
        return {
            "id": "resp_1",
            "object": "response",
            "status": status,
            "model": MODEL,
            "output": [] if status == "in_progress" else list(self.output),
            "error": None,
            "incomplete_details": None,
            "usage": None,
        } | more


def responses_usage(
    given: int = 100, answered: int = 7, *, cached: int = 0, reasoning: int = 0
) -> Json:
    """Return the figures of a request."""
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": answered,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": given + answered,
    }


_RESPONSES_FIELDS = {
    "model",
    "input",
    "instructions",
    "stream",
    "store",
    "include",
    "max_output_tokens",
    "tools",
    "temperature",
    "reasoning",
    "prompt_cache_key",
}


def judge_responses(request: Received) -> Reply | None:
    """Refuse what the Responses API refuses, where nothing is stored."""
    if (refusal := _judge_common(request, "/v1/responses", _RESPONSES_FIELDS)) is not None:
        return refusal
    items: Sequence[Json] = request.body["input"]
    calls: set[str] = set()
    answered: set[str] = set()
    for at, item in enumerate(items):
        match item["type"]:
            case "reasoning":
                after = [one for one in items[at:] if one["type"] != "reasoning"]
                is_own = after and (
                    after[0]["type"] == "function_call" or after[0].get("role") == "assistant"
                )
                if not is_own:
                    why = "was provided without its required following item"
                    return invalid(f"Item '{item['id']}' of type 'reasoning' {why}")
                if not item["encrypted_content"]:
                    return invalid(f"Item with id '{item['id']}' not found", status=404)
            case "function_call":
                calls.add(item["call_id"])
            case "function_call_output":
                answered.add(item["call_id"])
            case "message":
                if item["role"] not in ("user", "assistant", "system", "developer"):
                    return invalid(f"Invalid value: '{item['role']}'")
                wanted = "output_text" if item["role"] == "assistant" else "input_text"
                if any(part["type"] != wanted for part in item["content"]):
                    return invalid(f"Invalid value in input[{at}].content")
            case kind:
                return invalid(f"Invalid value: '{kind}'")
    if calls != answered:
        return invalid(f"No tool output found for function call {sorted(calls ^ answered)}")
    return None


# -- errors


def error(status: int, message: str, *, headers: Json | None = None, **fields: Any) -> Reply:
    """Return an HTTP error in OpenAI's form."""
    body = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return plain(status, {"error": body | fields}, headers=headers)


def plain(status: int, body: Any, *, headers: Json | None = None) -> Reply:
    """Return an HTTP answer with any JSON, or text."""
    text = body if isinstance(body, str) else json.dumps(body)
    kind = "text/html" if isinstance(body, str) else "application/json"
    return Reply([Raw(text.encode())], status=status, headers=headers or {}, content_type=kind)


def invalid(message: str, status: int = 400) -> Reply:
    """Return the refusal of a request that is not of the format."""
    return error(status, message)


def _judge_common(request: Received, path: str, fields: set[str]) -> Reply | None:
    if request.headers.get("authorization") != f"Bearer {KEY}":
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        words = f"Incorrect API key provided: {given}. You can find your API key in your account."
        return error(401, words, code="invalid_api_key")
    if request.path != path or request.method != "POST":
        return error(404, f"Invalid URL ({request.method} {request.path})")
    if request.body.get("model") != MODEL:
        words = f"The model `{request.body.get('model')}` does not exist or you do not have access"
        return error(404, words, code="model_not_found")
    if unknown := request.body.keys() - fields:
        return invalid(f"Unknown parameter: '{sorted(unknown)[0]}'.")
    return None
