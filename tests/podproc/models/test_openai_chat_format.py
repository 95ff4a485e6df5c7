"""Chat Completions as values: what is asked for, and what is made of chunks. No SDK, no server."""

from __future__ import annotations

import json
from itertools import pairwise
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
from podproc.models.openai_chat_format import (
    ChatAssembler,
    Dialect,
    dialect_of,
    messages_of,
    request_body,
    usage_of,
)
from podproc.models.openai_errors import InStreamError, Malformed
from podproc.tools.base import ToolSchema
from protocol.entries import Item, Message, Reasoning, ToolCall, ToolResult, UnknownItem, Usage
from protocol.manifest import Reasoning as Effort

OPENAI, COMPATIBLE = Dialect.OPENAI, Dialect.COMPATIBLE
USER = Message(role="user", content="hi")
NOTE = Message(role="system", content="news")
CALL = ToolCall(call_id="c1", name="Echo", arguments='{"text":"a"}')
RESULT = ToolResult(call_id="c1", summary="said a", content="a")


def chunk(delta: Any = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def call(index: int | None = None, arguments: Any = None, **more: Any) -> dict[str, Any]:
    """Return a piece of a call; `id` and `name` in `more`."""
    function = {"name": more.pop("name", None), "arguments": arguments}
    return {"tool_calls": [{"index": index, "function": function, **more}]}


def play(*chunks: Any) -> list[ModelEvent]:
    assembler = ChatAssembler()
    events = [event for one in chunks for event in assembler.feed(one)]
    return [*events, *assembler.end()]


# -- the request


@pytest.mark.parametrize(
    ("url", "dialect"),
    [
        ("https://api.openai.com/v1", OPENAI),
        ("https://eu.api.openai.com/v1", OPENAI),
        ("https://us1.openai.azure.com/openai/v1", OPENAI),
        ("https://openrouter.ai/api/v1", COMPATIBLE),
        ("https://generativelanguage.googleapis.com/v1beta/openai/", COMPATIBLE),
        ("https://api.openai.com.evil.test/v1", COMPATIBLE),
        ("https://xapi.openai.com/v1", COMPATIBLE),
        ("http://localhost:11434/v1", COMPATIBLE),
        ("nonsense", COMPATIBLE),
        ("http://[", COMPATIBLE),
    ],
)
def test_the_host_decides_the_dialect(url: str, dialect: Dialect) -> None:
    assert dialect_of(url) is dialect


def test_a_request_says_only_what_was_asked_for() -> None:
    assert request_body(ModelRequest("", (USER,)), "m", COMPATIBLE) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 8192,
    }


@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_request_says_all_that_was_asked_for(dialect: Dialect) -> None:
    schema = ToolSchema("Echo", "Say it.", {"type": "object"})
    request = ModelRequest(
        "be good",
        (USER,),
        tools=(schema,),
        max_tokens=50,
        temperature=0.0,
        reasoning=Effort.OFF,
        cache_key="segment-1",
    )
    body = request_body(request, "m", dialect)
    assert body["messages"][0] == {"role": "system", "content": "be good"}
    assert body["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "Echo",
                "description": "Say it.",
                "parameters": {"type": "object"},
            },
        }
    ]
    assert (body["temperature"], body["reasoning_effort"]) == (0.0, "none")
    limits = {key: body.get(key) for key in ("max_tokens", "max_completion_tokens")}
    own = dialect is OPENAI
    assert limits == {
        "max_tokens": None if own else 50,
        "max_completion_tokens": 50 if own else None,
    }
    assert body.get("prompt_cache_key") == ("segment-1" if own else None)


def test_an_answer_with_its_calls_is_one_message() -> None:
    items: list[Item] = [
        USER,
        Reasoning(text="hm", signature="reasoning_content"),
        Message(role="assistant", content="one"),
        Message(role="assistant", content="two"),
        CALL,
        RESULT,
        Message(role="assistant", content="done"),
    ]
    assert messages_of("", items, COMPATIBLE) == [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": "one\n\ntwo",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "Echo", "arguments": '{"text":"a"}'},
                }
            ],
            "reasoning_content": "hm",
        },
        {"role": "tool", "tool_call_id": "c1", "content": "said a\na"},
        {"role": "assistant", "content": "done"},
    ]


def test_notes_stay_system_messages_at_openai_and_become_words_of_the_user_elsewhere() -> None:
    assert messages_of("sys", [USER, NOTE], OPENAI)[1:] == [
        {"role": "user", "content": "hi"},
        {"role": "system", "content": "news"},
    ]
    assert messages_of("sys", [USER, NOTE, USER], COMPATIBLE)[1:] == [
        {"role": "user", "content": "hi\n\n<system-note>\nnews\n</system-note>\n\nhi"}
    ]


@pytest.mark.parametrize("arguments", ['{"text": a', "[1]", "", '"a"', "NaN"])
def test_malformed_arguments_are_wrapped_for_servers_that_would_parse_them(arguments: str) -> None:
    bad = ToolCall(call_id="c1", name="Echo", arguments=arguments)

    def sent(dialect: Dialect) -> str:
        found = messages_of("", [USER, bad, RESULT], dialect)[1]["tool_calls"][0]["function"]
        return str(found["arguments"])

    assert sent(OPENAI) == arguments
    assert json.loads(sent(COMPATIBLE)) == {"malformed_arguments": arguments}


@pytest.mark.parametrize(
    "foreign",
    [
        Reasoning(text="hm", signature="EqoBCkgIBxAB"),
        Reasoning(encrypted_content="redacted"),
        Reasoning(text="hm", encrypted_content="gAAA", signature="rs_1"),
        Reasoning(text="hm", encrypted_content="not json", signature="extra_content"),
        UnknownItem(kind="picture"),
    ],
)
def test_what_another_format_left_in_the_history_is_not_sent(foreign: Item) -> None:
    plain = messages_of("", [USER, CALL, RESULT], COMPATIBLE)
    assert messages_of("", [USER, foreign, CALL, RESULT], COMPATIBLE) == plain


def test_openai_gets_no_field_of_another_server() -> None:
    thoughts: list[Item] = [
        Reasoning(text="hm", signature="reasoning"),
        Reasoning(encrypted_content="[{}]", signature="reasoning_details"),
        Reasoning(encrypted_content="{}", signature="extra_content"),
    ]
    plain = messages_of("", [USER, CALL, RESULT], OPENAI)
    assert messages_of("", [USER, *thoughts, CALL, RESULT], OPENAI) == plain


def test_thinking_without_a_call_stays_at_home() -> None:
    thought = Reasoning(text="hm", signature="reasoning")
    answer = Message(role="assistant", content="done")
    assert messages_of("", [USER, thought, answer], COMPATIBLE)[1:] == [
        {"role": "assistant", "content": "done"}
    ]
    assert messages_of("", [USER, thought], COMPATIBLE) == messages_of("", [USER], COMPATIBLE)


# -- the stream


def test_a_text_is_one_block_until_something_else_comes() -> None:
    assert play(chunk({"content": "a"}), chunk({"content": "b"}), chunk({}, "stop")) == [
        TextDelta(0, "a"),
        TextDelta(0, "b"),
        TextDone(0, "ab"),
        Ended("end_turn"),
    ]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thinking_remembers_the_field_it_came_in(field: str) -> None:
    assert play(chunk({field: "h"}), chunk({field: "m", "content": "a"}), chunk({}, "stop")) == [
        ThinkingStart(0),
        ThinkingDelta(0, "h"),
        ThinkingDelta(0, "m"),
        ThinkingDone(0, "hm", signature=field),
        TextDelta(1, "a"),
        TextDone(1, "a"),
        Ended("end_turn"),
    ]


def test_the_same_thought_in_two_fields_is_told_once() -> None:
    events = play(chunk({"reasoning_content": "hm", "reasoning": "hm"}), chunk({}, "stop"))
    assert events[1] == ThinkingDelta(0, "hm")
    assert events[2] == ThinkingDone(0, "hm", signature="reasoning_content")


def test_reasoning_details_are_joined_and_go_back_as_they_came() -> None:
    first = {"type": "reasoning.text", "text": "h", "index": 0, "format": "x"}
    more = {"type": "reasoning.text", "text": "m", "index": 0, "signature": "S"}
    last = {"type": "reasoning.encrypted", "data": "D", "index": 1}
    events = play(
        chunk({"reasoning": "h", "reasoning_details": [first]}),
        chunk({"reasoning": "m", "reasoning_details": [more, last]}),
        chunk(call(0, "{}", id="c1", name="Echo")),
        chunk({}, "tool_calls"),
    )
    done = next(event for event in events if isinstance(event, ThinkingDone))
    assert done.text == "hm"
    thought = Reasoning(
        text=done.text, encrypted_content=done.encrypted_content, signature=done.signature
    )
    again = Reasoning.from_wire(json.loads(json.dumps(thought.to_wire())))
    sent = messages_of("", [USER, again, CALL, RESULT], COMPATIBLE)[1]
    assert sent["reasoning_details"] == [first | more | {"text": "hm"}, last]


def test_content_may_come_as_parts() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    text = {"type": "text", "text": "a"}
    events = play(chunk({"content": [thinking]}), chunk({"content": [text, 3]}), chunk({}, "stop"))
    assert events[2:] == [
        ThinkingDone(0, "hm", signature="reasoning_content"),
        TextDelta(1, "a"),
        TextDone(1, "a"),
        Ended("end_turn"),
    ]


def test_a_call_is_told_as_it_comes_and_done_at_the_end() -> None:
    assembler = ChatAssembler()
    assert assembler.feed(chunk(call(0, "", id="c1", name="Echo"))) == [CallStart("c1", "Echo")]
    assert assembler.feed(chunk(call(0, '{"a"'))) == [CallArgs("c1", '{"a"')]
    assert assembler.feed(chunk(call(0, ":1}"))) == [CallArgs("c1", ":1}")]
    assert assembler.feed(chunk({}, "tool_calls")) == []
    assert assembler.end() == [CallDone("c1", "Echo", '{"a":1}'), Ended("tool_use")]


def test_a_call_whose_id_comes_late_is_begun_then() -> None:
    events = play(chunk(call(0, '{"a"', name="Echo")), chunk(call(0, ":1}", id="c1")))
    assert events == [CallStart("c1", "Echo"), CallArgs("c1", '{"a"'), CallArgs("c1", ":1}")]


def test_calls_without_ids_never_overlap() -> None:
    assert play(
        chunk(call(0, "1", name="A")),
        chunk(call(1, "2", name="B")),
        chunk(call(0, "3")),
        chunk({}, "tool_calls"),
    ) == [
        CallStart("", "A"),
        CallArgs("", "1"),
        CallArgs("", "3"),
        CallDone("", "A", "13"),
        CallStart("", "B"),
        CallArgs("", "2"),
        CallDone("", "B", "2"),
        Ended("tool_use"),
    ]


def test_two_calls_of_one_id_never_overlap() -> None:
    events = play(
        chunk(call(0, "{}", id="c", name="A")),
        chunk(call(1, "{}", id="c", name="B")),
        chunk({}, "stop"),
    )
    assert [type(event) for event in events if not isinstance(event, CallArgs)] == [
        CallStart,
        CallDone,
        CallStart,
        CallDone,
        Ended,
    ]


@pytest.mark.parametrize(
    ("pieces", "calls"),
    [
        ([call(0, "{}", id="a", name="A"), call(0, "{}", id="b", name="A")], ["A{}", "A{}"]),
        ([call(0, "{}", name="A"), call(0, "{}", name="A")], ["A{}", "A{}"]),
        ([call(0, "", name="A"), call(0, "", name="B")], ["A{}", "B{}"]),
        ([call(None, "{}", name="A"), call(None, "{}", name="B")], ["A{}", "B{}"]),
        # a server that repeats what it has said begins nothing new
        ([call(0, "{", id="a", name="A"), call(0, "}", id="a", name="A")], ["A{}"]),
        ([call(0, "{", name="A"), call(0, "}", name="A")], ["A{}"]),
        ([call(0, "{}", name="A"), call(0, "", name="A")], ["A{}"]),
        ([call(0, "{", id="a", name="A"), call(0, "}", id="other")], ["A{}"]),
        ([call(None, "{", id="a", name="A"), call(None, "}", id="a")], ["A{}"]),
    ],
)
def test_which_pieces_make_which_call(pieces: list[Any], calls: list[str]) -> None:
    events = play(*(chunk(one) for one in pieces), chunk({}, "tool_calls"))
    done = [event for event in events if isinstance(event, CallDone)]
    assert [event.name + event.arguments for event in done] == calls


@pytest.mark.parametrize(
    ("sent", "arguments"),
    [("", "{}"), (None, "{}"), (" ", " "), ('{"a": ', '{"a": '), ({"a": 1}, '{"a": 1}')],
)
def test_arguments_pass_exactly_as_they_came(sent: Any, arguments: str) -> None:
    events = play(chunk(call(0, sent, id="c1", name="A")), chunk({}, "tool_calls"))
    assert CallDone("c1", "A", arguments) in events


@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_an_answer_that_was_cut_short_has_no_call_that_is_not_whole(finish: str) -> None:
    events = play(
        chunk(call(0, "{}", id="a", name="A")),
        chunk(call(1, '{"b": "', id="b", name="B")),
        chunk({}, finish),
    )
    assert [event.call_id for event in events if isinstance(event, CallDone)] == ["a"]


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("stop", "end_turn"),
        ("tool_calls", "tool_use"),
        ("function_call", "tool_use"),
        ("length", "max_tokens"),
        ("model_length", "max_tokens"),
        ("content_filter", "refusal"),
        ("something_new", "something_new"),
    ],
)
def test_each_finish_reason_has_its_word(finish: str, reason: str) -> None:
    assert play(chunk({}, finish)) == [Ended(reason)]


@pytest.mark.parametrize(
    "finish",
    ["error", "insufficient_system_resource", "function_call_filter: MALFORMED_FUNCTION_CALL"],
)
def test_a_finish_reason_may_be_a_failure(finish: str) -> None:
    with pytest.raises(InStreamError):
        play(chunk({}, finish))


def test_without_a_finish_reason_nothing_is_done_but_what_was_spent_is_told() -> None:
    assembler = ChatAssembler()
    assembler.feed(chunk({"content": "a"}, usage={"prompt_tokens": 3, "completion_tokens": 1}))
    assembler.feed(chunk(call(0, "{}", id="a", name="A")))
    assert assembler.end() == [Figures(Usage(input_tokens=3, output_tokens=1))]
    assert not assembler.is_ended


def test_figures_of_the_end_make_it_complete_and_earlier_ones_do_not() -> None:
    figures = {"prompt_tokens": 3, "completion_tokens": 1}
    assembler = ChatAssembler()
    assembler.feed(chunk({"content": "a"}, usage=figures))
    assembler.feed(chunk({}, "stop"))
    assert (assembler.is_ended, assembler.is_complete) == (True, False)
    assembler.feed({"choices": [], "usage": figures})
    assert assembler.is_complete


@pytest.mark.parametrize(
    ("figures", "usage"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 2}, Usage(input_tokens=10, output_tokens=2)),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": 6, "cache_write_tokens": 3},
            },
            Usage(input_tokens=1, output_tokens=2, cache_read_tokens=6, cache_write_tokens=3),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 2, "prompt_cache_hit_tokens": 4},
            Usage(input_tokens=6, output_tokens=2, cache_read_tokens=4),
        ),
        # thinking that is counted in the total alone (Google)
        (
            {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 112},
            Usage(input_tokens=10, output_tokens=102),
        ),
        ({"prompt_tokens": None, "completion_tokens": "2"}, Usage()),
        (
            {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 9}},
            Usage(cache_read_tokens=5),
        ),
    ],
)
def test_no_token_counts_twice(figures: Any, usage: Usage) -> None:
    assert usage_of(figures) == usage


@pytest.mark.parametrize("bad", [None, [], "x", 3])
def test_a_chunk_that_is_no_object_is_malformed(bad: Any) -> None:
    with pytest.raises(Malformed):
        play(bad)


# -- properties

KEYS = [
    "choices",
    "delta",
    "message",
    "finish_reason",
    "content",
    "reasoning_content",
    "reasoning_details",
    "refusal",
    "tool_calls",
    "function_call",
    "function",
    "index",
    "id",
    "name",
    "arguments",
    "extra_content",
    "usage",
    "type",
    "text",
    "thinking",
    "prompt_tokens",
    "prompt_tokens_details",
]
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    ),
    max_leaves=15,
)
deltas = st.dictionaries(st.sampled_from(KEYS), anything, max_size=6)


@given(st.lists(st.builds(chunk, deltas, st.none() | st.just("stop")) | anything, max_size=6))
def test_nothing_a_server_sends_breaks_the_reading(chunks: list[Any]) -> None:
    assembler = ChatAssembler()
    for one in chunks:
        try:
            assembler.feed(one)
        except (InStreamError, Malformed):
            return
    assembler.end()


words = st.text(alphabet='abc {}":,\n', min_size=1, max_size=12)


@st.composite
def sliced(draw: st.DrawFn, text: str) -> list[str]:
    """Cut a text into pieces anywhere."""
    places = draw(st.lists(st.integers(0, len(text)), max_size=4).map(sorted))
    edges = [0, *places, len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


@given(st.data())
def test_however_it_is_cut_an_answer_stays_the_same(data: st.DataObject) -> None:
    thought = data.draw(st.just("") | words)
    text = data.draw(st.just("") | words)
    calls = data.draw(st.lists(words, max_size=3))
    has_ids, has_index = data.draw(st.booleans()), data.draw(st.booleans())
    chunks = [chunk({"reasoning": piece}) for piece in data.draw(sliced(thought))]
    chunks += [chunk({"content": piece}) for piece in data.draw(sliced(text))]
    for number, arguments in enumerate(calls):
        named: dict[str, Any] = {"name": f"T{number}"}
        if has_ids:
            named["id"] = f"c{number}"
        for piece in data.draw(sliced(arguments)):
            chunks.append(chunk(call(number if has_index else None, piece, **named)))
            named = {}
    if data.draw(st.booleans()) and chunks:
        chunks[-1]["choices"][0]["finish_reason"] = "stop"
    else:
        chunks.append(chunk({}, "stop"))
    events = play(*chunks)
    assert "".join(e.text for e in events if isinstance(e, ThinkingDone)) == thought
    assert "".join(e.text for e in events if isinstance(e, ThinkingDelta)) == thought
    assert [e.text for e in events if isinstance(e, TextDone)] == ([text] if text else [])
    done = [(e.name, e.arguments) for e in events if isinstance(e, CallDone)]
    assert done == [(f"T{number}", arguments) for number, arguments in enumerate(calls)]
    assert "".join(e.json for e in events if isinstance(e, CallArgs)) == "".join(calls)
    assert isinstance(events[-1], Ended)
