"""The Responses API as values: what is asked for, and what is made of events. No SDK, no server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from podproc.models.openai_errors import InStreamError, Malformed
from podproc.models.openai_responses_format import (
    ResponsesAssembler,
    input_of,
    request_body,
    usage_of,
)
from podproc.tools.base import ToolSchema
from protocol.entries import Item, Message, Reasoning, ToolCall, ToolResult, UnknownItem, Usage
from protocol.manifest import Reasoning as Effort
from tests.support.providers.openai_server import Script
from tests.support.providers.openai_sse import Frame

USER = Message(role="user", content="hi")
ANSWER = Message(role="assistant", content="done")
CALL = ToolCall(call_id="c1", name="Echo", arguments='{"text": a')
RESULT = ToolResult(call_id="c1", summary="said a", content="a")
THOUGHT = Reasoning(text="hm", summary="hm", encrypted_content="gAAA", signature="rs_1")

HI = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
HM = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "hm"}],
    "encrypted_content": "gAAA",
}
DONE = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "done"}],
}


def events_of(script: Script) -> list[Any]:
    return [frame.data for frame in script.frames if isinstance(frame, Frame)]


def play(script: Script | list[Any]) -> list[ModelEvent]:
    assembler = ResponsesAssembler()
    events = script if isinstance(script, list) else events_of(script)
    found = [event for one in events for event in assembler.feed(one)]
    return [*found, *assembler.end()]


def without(script: Script, *kinds: str) -> list[Any]:
    """Return the events but for some kinds."""
    return [event for event in events_of(script) if event["type"] not in kinds]


# -- the request


def test_a_request_keeps_nothing_at_the_provider_and_says_only_what_was_asked_for() -> None:
    assert request_body(ModelRequest("", (USER,)), "gpt-5") == {
        "model": "gpt-5",
        "input": [HI],
        "max_output_tokens": 8192,
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
    }


def test_a_request_says_all_that_was_asked_for() -> None:
    request = ModelRequest(
        "be good",
        (USER,),
        tools=(ToolSchema("Echo", "Say it.", {"type": "object"}),),
        max_tokens=50,
        temperature=0.5,
        reasoning=Effort.HIGH,
        cache_key="segment-1",
    )
    body = request_body(request, "gpt-5")
    assert body["instructions"] == "be good"
    assert body["tools"] == [
        {
            "type": "function",
            "name": "Echo",
            "description": "Say it.",
            "parameters": {"type": "object"},
            "strict": False,
        }
    ]
    assert (body["max_output_tokens"], body["temperature"]) == (50, 0.5)
    assert body["reasoning"] == {"effort": "high", "summary": "auto"}
    assert body["prompt_cache_key"] == "segment-1"


def test_reasoning_that_is_off_is_asked_for_as_none() -> None:
    body = request_body(ModelRequest("", (USER,), reasoning=Effort.OFF), "gpt-5.1")
    assert body["reasoning"] == {"effort": "none"}


@pytest.mark.parametrize(("model_id", "asks"), [("gpt-4.1", False), ("gpt-6-sol", True)])
def test_a_model_that_cannot_reason_is_not_asked_for_it(model_id: str, asks: bool) -> None:
    assert ("include" in request_body(ModelRequest("", (USER,)), model_id)) is asks


def test_a_history_becomes_input_items_in_order() -> None:
    note = Message(role="system", content="news")
    assert input_of([USER, note, THOUGHT, CALL, RESULT, ANSWER]) == [
        HI,
        {
            "type": "message",
            "role": "developer",
            "content": [{"type": "input_text", "text": "news"}],
        },
        HM,
        {"type": "function_call", "call_id": "c1", "name": "Echo", "arguments": '{"text": a'},
        {"type": "function_call_output", "call_id": "c1", "output": "said a\na"},
        DONE,
    ]


@pytest.mark.parametrize(
    ("items", "sent"),
    [
        ([THOUGHT, ANSWER], [HM, DONE]),
        ([THOUGHT, THOUGHT, ANSWER], [HM, HM, DONE]),
        ([THOUGHT], []),
        ([THOUGHT, USER], [HI]),
        ([THOUGHT, USER, ANSWER], [HI, DONE]),
    ],
)
def test_reasoning_goes_back_only_before_what_it_led_to(items: list[Item], sent: list[Any]) -> None:
    assert input_of(items) == sent


@pytest.mark.parametrize(
    "foreign",
    [
        Reasoning(text="hm", signature="rs_1"),
        Reasoning(text="hm", encrypted_content="redacted"),
        Reasoning(text="hm", signature="reasoning_content"),
        Reasoning(encrypted_content="[{}]", signature="reasoning_details"),
        Reasoning(encrypted_content="{}", signature="extra_content"),
        UnknownItem(kind="picture"),
    ],
)
def test_what_another_format_left_in_the_history_is_not_sent(foreign: Item) -> None:
    assert input_of([USER, foreign, ANSWER]) == [HI, DONE]


# -- the stream


def test_an_answer_in_all_its_parts() -> None:
    script = Script().reasoning("think", "more").text("Hel", "lo").call("c1", '{"a"', ":1}")
    assert play(script.completed(cached=60, reasoning=5)) == [
        ThinkingStart(0),
        ThinkingDelta(0, "thin"),
        ThinkingDelta(0, "k"),
        ThinkingDelta(0, "\n\nmore"),
        ThinkingDone(
            0,
            "think\n\nmore",
            summary="think\n\nmore",
            encrypted_content="gAAA-opaque",
            signature="rs_1",
        ),
        TextDelta(1, "Hel"),
        TextDelta(1, "lo"),
        TextDone(1, "Hello"),
        CallStart("c1", "Echo"),
        CallArgs("c1", '{"a"'),
        CallArgs("c1", ":1}"),
        CallDone("c1", "Echo", '{"a":1}'),
        Figures(Usage(input_tokens=40, output_tokens=7, cache_read_tokens=60)),
        Ended("tool_use"),
    ]


def test_reasoning_without_a_word_is_a_block_with_its_opaque_part() -> None:
    assert play(Script().reasoning().text("a").completed())[:2] == [
        ThinkingStart(0),
        ThinkingDone(0, encrypted_content="gAAA-opaque", signature="rs_1"),
    ]


def test_open_reasoning_is_text_and_not_a_summary() -> None:
    item = {"id": "rs_1", "type": "reasoning", "content": [], "summary": []}
    where = {"output_index": 0, "content_index": 0}
    done = item | {"content": [{"type": "reasoning_text", "text": "hm"}]}
    assert play(
        [
            {"type": "response.output_item.added", "output_index": 0, "item": item},
            {"type": "response.reasoning_text.delta", "delta": "hm", **where},
            {"type": "response.output_item.done", "output_index": 0, "item": done},
        ]
    ) == [ThinkingStart(0), ThinkingDelta(0, "hm"), ThinkingDone(0, "hm", signature="rs_1")]


WHOLE = Script().reasoning("hm").text("a").call("c1", '{"a":1}').completed()


@pytest.mark.parametrize(
    "left_out",
    [
        ("response.output_item.added",),
        ("response.output_item.done",),
        ("response.function_call_arguments.delta",),
        ("response.function_call_arguments.done", "response.function_call_arguments.delta"),
        ("response.output_text.delta", "response.output_text.done"),
        ("response.output_text.done",),
        (
            "response.output_item.added",
            "response.output_item.done",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_text.delta",
            "response.output_text.done",
            "response.reasoning_summary_text.delta",
        ),
    ],
)
def test_nothing_is_lost_where_a_server_leaves_out_events(left_out: tuple[str, ...]) -> None:
    events = play(without(WHOLE, *left_out))
    assert [event.text for event in events if isinstance(event, TextDone)] == ["a"]
    done = [event for event in events if isinstance(event, CallDone)]
    assert [(event.name or "Echo", event.arguments) for event in done] == [("Echo", '{"a":1}')]
    assert len([event for event in events if isinstance(event, CallStart)]) == 1
    assert [event.text for event in events if isinstance(event, ThinkingDone)] == ["hm"]
    assert events[-1] == Ended("tool_use")


def test_a_call_is_not_lost_although_its_end_and_the_output_are_missing() -> None:
    events = without(Script().call("c1", '{"a":1}', is_done=False))
    events.append({"type": "response.completed", "response": {"usage": None}})
    assert play(events)[-2:] == [CallDone("c1", "Echo", '{"a":1}'), Ended("tool_use")]


def test_without_places_nothing_is_told_twice() -> None:
    events = [
        {key: value for key, value in event.items() if key != "output_index"}
        for event in events_of(Script().text("a").completed())
    ]
    assert [event for event in play(events) if isinstance(event, TextDone)] == [TextDone(0, "a")]


@pytest.mark.parametrize(("sent", "arguments"), [("", "{}"), (" ", " "), ('{"a": ', '{"a": ')])
def test_arguments_pass_exactly_as_they_came(sent: str, arguments: str) -> None:
    events = play(Script().call("c1", sent).completed())
    assert CallDone("c1", "Echo", arguments) in events


def test_items_that_overlap_keep_apart() -> None:
    def added(index: int) -> Any:
        item = {"type": "function_call", "call_id": f"c{index}", "name": "Echo"}
        return {"type": "response.output_item.added", "output_index": index, "item": item}

    def delta(index: int, text: str) -> Any:
        kind = "response.function_call_arguments.delta"
        return {"type": kind, "output_index": index, "delta": text}

    events = [added(0), added(1), delta(0, "{"), delta(1, "["), delta(0, "}"), delta(1, "]")]
    events.append({"type": "response.completed", "response": {}})
    done = [event for event in play(events) if isinstance(event, CallDone)]
    assert [(event.call_id, event.arguments) for event in done] == [("c0", "{}"), ("c1", "[]")]


def test_a_refusal_is_shown_and_said() -> None:
    assert play(Script().refusal("No, ", "sorry").completed())[2:] == [
        TextDone(0, "No, sorry"),
        Figures(Usage(input_tokens=100, output_tokens=7)),
        Ended("refusal"),
    ]


@pytest.mark.parametrize(
    ("why", "reason"),
    [("max_output_tokens", "max_tokens"), ("content_filter", "refusal"), ("new", "new")],
)
def test_an_incomplete_answer_says_why_and_keeps_its_text(why: str, reason: str) -> None:
    script = (
        Script().text("Hello", is_done=False).call("c1", "{", status="incomplete", is_done=False)
    )
    events = play(script.incomplete(why))
    assert TextDone(0, "Hello") in events
    assert not [event for event in events if isinstance(event, CallDone)]
    assert events[-1] == Ended(reason)


def test_a_call_that_is_incomplete_is_not_done() -> None:
    events = play(Script().call("c1", "{", status="incomplete").incomplete("max_output_tokens"))
    assert not [event for event in events if isinstance(event, CallDone)]


@pytest.mark.parametrize(
    "script",
    [
        Script().failed("server_error", "it broke"),
        Script().event("error", code="server_error", message="it broke"),
        Script().event("error", error={"code": "server_error", "message": "it broke"}),
    ],
)
def test_a_failure_is_raised(script: Script) -> None:
    with pytest.raises(InStreamError):
        play(script)


def test_without_its_terminal_event_an_answer_is_not_over() -> None:
    assembler = ResponsesAssembler()
    for event in events_of(Script().text("a")):
        assembler.feed(event)
    assert (assembler.is_ended, assembler.is_complete, assembler.end()) == (False, False, [])


def test_figures_count_no_token_twice() -> None:
    figures = {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 6, "cache_write_tokens": 2},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 8},
        "total_tokens": 19,
    }
    assert usage_of(figures) == Usage(
        input_tokens=2, output_tokens=9, cache_read_tokens=6, cache_write_tokens=2
    )


KINDS = [
    "response.created",
    "response.output_item.added",
    "response.output_item.done",
    "response.output_text.delta",
    "response.output_text.done",
    "response.refusal.delta",
    "response.reasoning_summary_text.delta",
    "response.reasoning_text.delta",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.completed",
    "response.incomplete",
    "response.failed",
    "reasoning",
    "message",
    "function_call",
    "new",
]
KEYS = ["type", "item", "delta", "output_index", "content", "summary", "response", "output"]
KEYS += ["id", "call_id", "arguments", "status", "usage", "text", "error", "content_index"]
anything = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.text(max_size=3) | st.sampled_from(KINDS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    ),
    max_leaves=12,
)
events = st.builds(
    lambda kind, rest: rest | {"type": kind},
    st.sampled_from(KINDS),
    st.dictionaries(st.sampled_from(KEYS), anything, max_size=6),
)


@given(st.lists(events | anything, max_size=8))
def test_nothing_a_server_sends_breaks_the_reading(sent: list[Any]) -> None:
    assembler = ResponsesAssembler()
    for one in sent:
        try:
            assembler.feed(one)
        except (InStreamError, Malformed):
            return
    assembler.end()
