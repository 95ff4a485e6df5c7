"""A session in the forms that others read, held against the rules of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podproc.engine import history
from protocol.entries import (
    AssistantItem,
    Entry,
    LlmUsage,
    Message,
    Reasoning,
    RunErrored,
    SegmentRef,
    ToolCall,
    ToolResult,
    ToolResultEntry,
    UnknownEntry,
)
from protocol.session.lineage import MissingSegment, Row
from protocol.session.reading import BadRecord
from protocol.status import RunResult
from supervisor.session_export import (
    NO_BEGINNING,
    OUTCOME_UNKNOWN,
    Exported,
    to_anthropic,
    to_markdown,
    to_openai,
)
from tests.podproc.session.disk import START, answered, asked, called, ended, invoked, said, told

USAGE = LlmUsage(ts=1, history_len=1)
BAD = BadRecord(7, 300, "2 NUL bytes")
ALWAYS = "run ends, times and costs"


def rows_of(*entries: Entry | BadRecord | MissingSegment) -> list[Row]:
    return [Row("s1", index, entry) for index, entry in enumerate(entries)]


def call(call_id: str, arguments: str) -> AssistantItem:
    return AssistantItem(ts=1, item=ToolCall(call_id=call_id, name="Bash", arguments=arguments))


def thought(text: str, signature: str = "", encrypted: str | None = None) -> AssistantItem:
    item = Reasoning(text=text, signature=signature, encrypted_content=encrypted)
    return AssistantItem(ts=1, item=item)


def failed(call_id: str, content: str) -> ToolResultEntry:
    item = ToolResult(call_id=call_id, summary="exit code 1", content=content, is_error=True)
    return ToolResultEntry(ts=1, item=item)


def messages_of(made: Exported) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(made.text)["messages"]
    return found


TALK = rows_of(
    START,
    invoked("r1"),
    told("notification", "psst"),
    asked("hello"),
    thought("hm", signature="sig"),
    said("I look"),
    call("c1", '{"command": "ls"}'),
    call("c2", "not json"),
    USAGE,
    failed("c2", "boom"),
    answered("c1"),
    said("done"),
    ended(RunResult.FINISHED),
    asked("more"),
    thought("secret", encrypted="x"),
    call("c3", "{}"),
    USAGE,
    RunErrored(ts=1, code="internal", message="m", interrupted=True),
)


def test_chat_completions_have_results_in_call_order_behind_their_calls() -> None:
    made = to_openai(TALK)
    assert messages_of(made) == [
        {"role": "system", "content": "be good"},
        {"role": "system", "content": "psst"},
        {"role": "user", "content": "hello"},
        {
            "role": "assistant",
            "content": "I look",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "Bash", "arguments": '{"command": "ls"}'},
                },
                {
                    "id": "c2",
                    "type": "function",
                    "function": {"name": "Bash", "arguments": "not json"},
                },
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "read 3 lines"},
        {"role": "tool", "tool_call_id": "c2", "content": "exit code 1\nboom"},
        {"role": "assistant", "content": "done"},
        {"role": "user", "content": "more"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c3", "type": "function", "function": {"name": "Bash", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "c3", "content": OUTCOME_UNKNOWN},
    ]
    assert made.lacks == (
        "2 × reasoning block",
        "2 × mark that a result is an error",
        "1 × result of a call (closed as interrupted)",
        ALWAYS,
    )


def test_messages_have_blocks_roles_in_turn_and_signed_thinking() -> None:
    made = to_anthropic(TALK)
    assert json.loads(made.text)["system"] == "be good"
    assert messages_of(made) == [
        {
            "role": "user",
            "content": [{"type": "text", "text": "psst"}, {"type": "text", "text": "hello"}],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "sig"},
                {"type": "text", "text": "I look"},
                {"type": "tool_use", "id": "c1", "name": "Bash", "input": {"command": "ls"}},
                {
                    "type": "tool_use",
                    "id": "c2",
                    "name": "Bash",
                    "input": {"malformed_arguments": "not json"},
                },
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "read 3 lines"},
                {
                    "type": "tool_result",
                    "tool_use_id": "c2",
                    "content": "exit code 1\nboom",
                    "is_error": True,
                },
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "done"}]},
        {"role": "user", "content": [{"type": "text", "text": "more"}]},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "c3", "name": "Bash", "input": {}}],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "c3",
                    "content": OUTCOME_UNKNOWN,
                    "is_error": True,
                }
            ],
        },
    ]
    assert made.lacks == (
        "1 × system item as such (it stands as text of the user)",
        "1 × call whose arguments are no JSON object (kept as text)",
        "1 × reasoning block without a signature",
        "1 × result of a call (closed as interrupted)",
        ALWAYS,
    )


def test_an_open_call_is_closed_in_the_words_of_a_pod() -> None:
    assert history.OUTCOME_UNKNOWN == OUTCOME_UNKNOWN


def test_an_earlier_segments_history_is_told_once_and_the_newest_prompt_counts() -> None:
    again = START.model_copy(
        update={
            "system_prompt": "be better",
            "history": (Message(role="user", content="a summary"),),
            "compacted_from": SegmentRef(segment_id="s0", at_turn_index=1),
        }
    )
    whole = rows_of(START, asked("one"), said("a"), again, asked("two"))
    assert [m["content"] for m in messages_of(to_openai(whole))] == [
        "be better",
        "one",
        "a",
        "two",
    ]
    cut = rows_of(MissingSegment("gone"), again, asked("two"))
    assert [m["content"] for m in messages_of(to_openai(cut))] == ["be better", "a summary", "two"]
    assert to_openai(cut).lacks == ("1 × missing segment", ALWAYS)


def test_what_cannot_be_paired_or_read_is_left_out_and_counted() -> None:
    newer = UnknownEntry.from_wire({"kind": "dream"})
    item = AssistantItem.from_wire({"ts": 1, "item": {"kind": "picture", "url": "x"}})
    told_of = rows_of(START, answered("c9"), BAD, newer, item, asked("x"), said("  "))
    for made in (to_openai(told_of), to_anthropic(told_of)):
        assert made.lacks == (
            "1 × result without its call",
            "1 × damaged line",
            "1 × entry of an unknown kind",
            "1 × item of an unknown kind",
            ALWAYS,
        )
    assert [m["role"] for m in messages_of(to_anthropic(told_of))] == ["user"]


def test_messages_begin_with_a_user_and_never_end_an_answer_with_thinking_alone() -> None:
    told_of = rows_of(START, said("late"), asked("x"), thought("hm", signature="s"))
    made = to_anthropic(told_of)
    assert messages_of(made)[0]["content"] == [{"type": "text", "text": NO_BEGINNING}]
    assert [m["role"] for m in messages_of(made)] == ["user", "assistant", "user"]
    assert "1 × reasoning block without an answer" in made.lacks


@pytest.mark.parametrize(
    "arguments",
    ["", "[1]", "NaN", '{"a": NaN}', '{"a":' * 2000, "[" * 300 + "]" * 300, '"\\ud800"'],
)
def test_arguments_that_are_no_json_object_stay_as_text(arguments: str) -> None:
    blocks = messages_of(to_anthropic(rows_of(START, asked("x"), call("c1", arguments))))[1]
    assert blocks["content"][0]["input"] == {"malformed_arguments": arguments}


ids = st.sampled_from(["c1", "c2", "c3"])
entries = st.one_of(
    st.builds(said, st.text(max_size=5)),
    st.builds(asked, st.text(max_size=5)),
    st.builds(called, ids),
    st.builds(answered, ids),
    st.builds(thought, st.text(max_size=3), signature=st.sampled_from(["", "s"])),
    st.sampled_from([USAGE, BAD, invoked("r"), told("workflow", "w"), ended(RunResult.PAUSED)]),
)


@given(log=st.lists(entries, max_size=25))
def test_whatever_stands_in_a_log_the_forms_keep_their_rules(log: list[Any]) -> None:
    told_of = rows_of(START, *log)
    check_openai(messages_of(to_openai(told_of)))
    check_anthropic(messages_of(to_anthropic(told_of)))
    calls = sum(isinstance(row.entry, AssistantItem) and is_call(row.entry) for row in told_of)
    assert to_anthropic(told_of).text.count('"tool_use"') == calls
    assert to_markdown(told_of, title="t").text.count("### Call") == calls


def is_call(entry: AssistantItem) -> bool:
    return isinstance(entry.item, ToolCall)


def check_openai(messages: Sequence[dict[str, Any]]) -> None:
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            assert message["tool_call_id"] == waiting.pop(0)
            continue
        assert waiting == []
        waiting = [one["id"] for one in message.get("tool_calls", ())]
        assert message["role"] in ("system", "user", "assistant")
        assert message["content"] is not None or waiting
    assert waiting == []


def check_anthropic(messages: Sequence[dict[str, Any]]) -> None:
    roles = [message["role"] for message in messages]
    assert roles == [("user", "assistant")[number % 2] for number in range(len(roles))]
    waiting: list[str] = []
    for message in messages:
        blocks = message["content"]
        assert blocks
        assert all(block["text"].strip() for block in blocks if block["type"] == "text")
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        assert results == waiting
        assert all(block["type"] == "tool_result" for block in blocks[: len(results)])
        waiting = [block["id"] for block in blocks if block["type"] == "tool_use"]
        assert not waiting or message["role"] == "assistant"
    assert waiting == []


def test_markdown_shows_who_said_what_and_no_text_can_close_its_fence() -> None:
    told_of = rows_of(
        MissingSegment("there is no such file"),
        START,
        told("notification", "psst"),
        asked("hel\x1blo\nworld"),
        thought("hm"),
        call("c1", '{"command": "ls"}'),
        USAGE,
        failed("c1", "```\n# not a heading\n````"),
        BAD,
        said("**done**"),
        ended(RunResult.CANCELLED),
    )
    made = to_markdown(told_of, title="Session of pod a_b")
    assert made.text == (
        "# Session of pod a\\_b\n\n"
        "**Missing:** segment s1: there is no such file\n\n"
        "## System prompt\n\n```\nbe good\n```\n\n"
        "> **notification:** psst\n\n"
        "## 1. User, 1970-01-01 00:00:00 UTC\n\n> hel␛lo\n> world\n\n"
        "> *Thinking:* hm\n\n"
        '### Call: Bash\n\n```json\n{\n  "command": "ls"\n}\n```\n\n'
        "Error of Bash:\n\n`````\nexit code 1\n```\n# not a heading\n````\n`````\n\n"
        "**Damaged:** line 7, byte 300 of segment s1: 2 NUL bytes\n\n"
        "**done**\n\n"
        "*Run cancelled.*\n"
    )
    assert made.lacks == ("1 × bookkeeping record", "configuration and costs")


def test_a_time_that_no_calendar_has_is_shown_as_it_is() -> None:
    late = asked("x").model_copy(update={"ts": 2**62})
    assert f"at {2**62} ms" in to_markdown(rows_of(late), title="t").text
