"""What a request says in the form of Messages, whatever the history holds."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from podproc.engine.projection import OMITTED, Projection
from podproc.models.anthropic_format import BUDGETS, GO_ON, NO_BEGINNING, takes_effort, to_params
from podproc.models.base import ModelRequest
from podproc.tools.base import ToolSchema
from protocol.entries import Item, Message, Reasoning, ToolCall, ToolResult, UnknownItem
from protocol.manifest import Reasoning as Effort

ECHO = ToolSchema("Echo", "Say it.", {"type": "object", "properties": {"text": {"type": "string"}}})
OLD = "claude-sonnet-4-5"
NEW = "claude-opus-4-7"
SHAPE: TypeAdapter[Any] = TypeAdapter(MessageCreateParamsStreaming)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def said(text: str) -> Message:
    return Message(role="assistant", content=text)


def told(text: str) -> Message:
    return Message(role="system", content=text)


def call(call_id: str, arguments: str = "{}") -> ToolCall:
    return ToolCall(call_id=call_id, name="Echo", arguments=arguments)


def result(call_id: str, summary: str = "done", **more: Any) -> ToolResult:
    return ToolResult(call_id=call_id, summary=summary, **more)


def params(*items: Item, model: str = OLD, **more: Any) -> dict[str, Any]:
    more = {"system_prompt": "be good", "tools": (ECHO,)} | more
    return dict(to_params(ModelRequest(items=items, **more), model))


def unmarked(value: Any) -> Any:
    """Return a request without its breakpoints: they are no part of what is cached."""
    match value:
        case dict():
            return {k: unmarked(v) for k, v in value.items() if k != "cache_control"}
        case list():
            return [unmarked(v) for v in value]
        case _:
            return value


def turns(*items: Item, **more: Any) -> list[tuple[str, list[Any]]]:
    """Return role and blocks of each turn; a text alone stands for its block."""
    return [
        (
            message["role"],
            [block["text"] if block["type"] == "text" else block for block in message["content"]],
        )
        for message in unmarked(params(*items, **more)["messages"])
    ]


def use(call_id: str, given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": "Echo", "input": given}


def outcome(call_id: str, content: str = "done", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **more}


def test_turns_alternate_and_neighbours_of_one_speaker_are_merged() -> None:
    history = (user("a"), user("b"), said("c"), said("d"), user("e"))
    assert turns(*history) == [("user", ["a", "b"]), ("assistant", ["c", "d"]), ("user", ["e"])]


def test_system_items_are_text_of_the_users_turn_in_a_tag() -> None:
    assert turns(user("a"), told("look")) == [
        ("user", ["a", "<system-message>\nlook\n</system-message>"])
    ]


def test_results_stand_first_behind_their_calls_in_call_order() -> None:
    history = (
        user("a"), said("b"), call("c1", '{"text": "x"}'), call("c2"),
        told("note"), result("c2", content="bulk"), result("c1", "no", is_error=True),
    )  # fmt: skip
    assert turns(*history)[1:] == [
        ("assistant", ["b", use("c1", {"text": "x"}), use("c2", {})]),
        (
            "user",
            [
                outcome("c1", "no", is_error=True),
                outcome("c2", "done\nbulk"),
                "<system-message>\nnote\n</system-message>",
            ],
        ),
    ]


def test_call_without_a_result_is_closed_and_a_result_without_a_call_is_text() -> None:
    (_, _, (role, blocks)) = turns(user("a"), call("c1"), result("c9", "lost"))
    assert role == "user"
    assert blocks[0]["tool_use_id"] == "c1"
    assert blocks[0]["is_error"] is True
    assert "lost" in blocks[1]


@pytest.mark.parametrize(
    "arguments",
    ['{"text": ', "[1]", '"x"', "", "null", "NaN", '{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}',
     "[" * 5000 + "]" * 5000],
    ids=["cut", "array", "string", "empty", "null", "nan", "nan-inside", "infinite", "half-a-pair",
         "too-deep"],
)  # fmt: skip
def test_malformed_arguments_are_sent_as_text_with_the_error_behind_them(arguments: str) -> None:
    wrong = result("c1", "invalid_argument: no JSON", is_error=True)
    made = params(user("a"), call("c1", arguments), wrong)
    assert json.dumps(made, allow_nan=False, ensure_ascii=False).encode()
    _, answer, results = made["messages"]
    assert answer["content"][0]["input"] == {"_malformed": arguments}
    assert results["content"][0]["is_error"] is True
    assert results["content"][0]["content"] == "invalid_argument: no JSON"


def test_arguments_are_sent_as_they_came_in_the_order_of_their_keys() -> None:
    text = '{"z": [1, 2.5, null, "ü"], "a": {"b": true}}'
    (_, (_, blocks), _) = turns(user("a"), call("c1", text), result("c1"))
    assert json.dumps(blocks[0]["input"], ensure_ascii=False) == text


def test_signed_and_sealed_reasoning_goes_back_and_unsigned_is_left_out() -> None:
    history = (
        user("a"),
        Reasoning(text="broken"),
        Reasoning(text="well", signature="sig"),
        Reasoning(encrypted_content="sealed"),
        Reasoning(text="", signature="unshown"),
        said("b"),
        user("c"),
    )
    assert turns(*history)[1] == (
        "assistant",
        [
            {"type": "thinking", "thinking": "well", "signature": "sig"},
            {"type": "redacted_thinking", "data": "sealed"},
            {"type": "thinking", "thinking": "", "signature": "unshown"},
            "b",
        ],
    )


def test_reasoning_that_ends_an_answer_is_left_out() -> None:
    signed = Reasoning(text="well", signature="sig")
    assert turns(user("a"), signed, user("b")) == [("user", ["a", "b"])]
    assert turns(user("a"), said("b"), signed)[1] == ("assistant", ["b"])


def test_history_that_begins_with_an_answer_gets_a_users_turn_before_it() -> None:
    assert turns(said("a"), user("b"))[0] == ("user", [NO_BEGINNING])
    assert turns() == [("user", [NO_BEGINNING])]


def test_answer_that_was_cut_is_followed_by_a_word_to_go_on() -> None:
    assert GO_ON in turns(user("a"), said("half an"))[-1][1][0]
    assert turns(user("a"), said("half an"))[-1][0] == "user"


def test_blank_texts_are_left_out() -> None:
    assert turns(user("a"), user(" \n"), told("  "), said("\n"), user("")) == [("user", ["a"])]
    assert "system" not in params(user("a"), system_prompt=" ")
    empty = ToolResult(call_id="c1", summary="", is_error=True)
    assert turns(user("a"), call("c1"), empty)[2][1] == [outcome("c1", "failed", is_error=True)]


def test_ids_and_names_of_other_providers_are_made_acceptable() -> None:
    odd = ToolCall(call_id="call:1|x", name="a.b", arguments="{}")
    (_, (_, [used]), (_, [answered])) = turns(user("a"), odd, result("call:1|x"))
    assert (used["id"], used["name"]) == ("call_1_x", "a_b")
    assert answered["tool_use_id"] == "call_1_x"


def test_item_of_an_unknown_kind_changes_nothing() -> None:
    history = (user("a"), call("c1"), UnknownItem(kind="new"), call("c2"))
    assert turns(*history) == turns(user("a"), call("c1"), call("c2"))


def test_tools_are_declared_with_their_schema() -> None:
    assert unmarked(params(user("a"))["tools"]) == [
        {"name": "Echo", "description": "Say it.", "input_schema": ECHO.parameters}
    ]


def test_history_with_calls_declares_them_where_there_are_no_tools_and_forbids_their_use() -> None:
    made = params(user("a"), call("c1"), result("c1"), tools=())
    assert [tool["name"] for tool in made["tools"]] == ["Echo"]
    assert made["tool_choice"] == {"type": "none"}
    assert "tools" not in params(user("a"), tools=())


# -- thinking


def test_effort_is_a_budget_that_max_tokens_is_raised_by() -> None:
    for effort, budget in BUDGETS.items():
        made = params(user("a"), reasoning=effort, max_tokens=8192)
        assert made["thinking"] == {"type": "enabled", "budget_tokens": budget}
        assert made["max_tokens"] == 8192 + budget <= 32_000
        assert 1024 <= budget < made["max_tokens"]


def test_effort_is_a_word_for_models_that_take_no_budget() -> None:
    made = params(user("a"), model=NEW, reasoning=Effort.MEDIUM, max_tokens=1000)
    assert made["thinking"]["type"] == "adaptive"
    assert made["output_config"] == {"effort": "medium"}
    assert made["max_tokens"] == 1000 + BUDGETS[Effort.MEDIUM]


def test_no_effort_says_nothing_and_off_says_so() -> None:
    assert not {"thinking", "output_config"} & params(user("a")).keys()
    assert params(user("a"), reasoning=Effort.OFF)["thinking"] == {"type": "disabled"}
    assert params(user("a"), reasoning=Effort.OFF, max_tokens=7)["max_tokens"] == 7


def test_budget_is_left_out_while_the_answer_in_progress_began_without_thinking() -> None:
    begun = (user("a"), said("b"), call("c1"), result("c1"), told("note"))
    assert "thinking" not in params(*begun, reasoning=Effort.LOW)
    assert "thinking" in params(*begun, reasoning=Effort.LOW, model=NEW)
    assert "thinking" in params(*begun, said("c"), user("d"), reasoning=Effort.LOW)
    signed = Reasoning(text="well", signature="sig")
    later = (user("a"), signed, call("c1"), result("c1"), call("c2"), result("c2"))
    assert "thinking" in params(*later, reasoning=Effort.LOW)


def test_temperature_is_left_out() -> None:
    assert "temperature" not in params(user("a"), temperature=0.5)


@pytest.mark.parametrize(
    ("model", "by_effort"),
    [
        ("claude-3-7-sonnet-20250219", False), ("claude-sonnet-4-20250514", False),
        ("claude-opus-4-0", False), ("claude-opus-4@20250514", False), ("claude-opus-4-5", False),
        ("claude-haiku-4-5-20251001", False), ("claude-opus-4-6", True), (NEW, True),
        ("anthropic.claude-sonnet-4-6-v1", True), ("claude-sonnet-5", True),
        ("claude-opus-5-20270101", True), ("claude-mythos-preview", True),
        ("glm-4.6", False), ("kimi-k2", False),
    ],
)  # fmt: skip
def test_models_that_take_an_effort_are_told_by_their_version(model: str, by_effort: bool) -> None:
    assert takes_effort(model) is by_effort


# -- breakpoints


def marks(made: dict[str, Any]) -> list[tuple[str, int, int]]:
    """Return where breakpoints are: part, turn, block."""
    found = []
    for part in ("tools", "system"):
        found += [(part, 0, i) for i, b in enumerate(made.get(part, [])) if "cache_control" in b]
    for turn, message in enumerate(made["messages"]):
        found += [
            ("messages", turn, i)
            for i, block in enumerate(message["content"])
            if "cache_control" in block
        ]
    return found


def prefix(made: dict[str, Any], mark: tuple[str, int, int]) -> str:
    """Return all that stands before the end of a marked block, serialised; the mark left out."""
    part, turn, block = mark
    plain = unmarked(made)
    if part == "tools":
        return json.dumps([plain["tools"][: block + 1]])
    if part == "system":
        return json.dumps([plain["tools"], plain["system"][: block + 1]])
    blocks = [[m["role"], b] for m in plain["messages"][:turn] for b in m["content"]]
    last = plain["messages"][turn]
    blocks += [[last["role"], b] for b in last["content"][: block + 1]]
    return json.dumps([plain["tools"], plain["system"], blocks])[:-2]


def test_breakpoints_are_behind_the_system_prompt_the_turn_before_and_the_end() -> None:
    history = (user("a"), said("b"), user("c"), user("d"), said("e"), user("f"), told("g"))
    assert marks(params(*history)) == [("system", 0, 0), ("messages", 2, 1), ("messages", 4, 1)]
    assert marks(params(user("a"))) == [("system", 0, 0), ("messages", 0, 0)]
    assert marks(params(user("a"), system_prompt=""))[0] == ("tools", 0, 0)


def test_prefix_of_every_breakpoint_stays_the_same_over_many_turns_until_a_prune_step() -> None:
    projection = Projection(window=8000)
    history: list[Item] = [user("go")]
    requests, pruned = [], []
    for turn in range(10):
        shown = projection(history)
        requests.append(params(*shown))
        omitted = [
            item.call_id
            for item in shown
            if isinstance(item, ToolResult) and (item.content or "").startswith(OMITTED[:14])
        ]
        pruned.append(omitted)
        thought = Reasoning(text=f"thought {turn}", signature=f"sig {turn}")
        history += [thought, said(f"step {turn}"), call(f"c{turn}-1", '{"text": "ü"}')]
        history += [call(f"c{turn}-2", "broken"), result(f"c{turn}-2", "no", is_error=True)]
        history += [result(f"c{turn}-1", content=f"{turn}" * 1500)]
        if turn % 3 == 2:
            history.append(told(f"note {turn}"))
    steps = {turn for turn in range(1, 10) if pruned[turn] != pruned[turn - 1]}
    assert 0 < len(steps) < 5, "the history must be long enough to be pruned, and pruned in steps"
    for turn in range(1, 10):
        before, now = requests[turn - 1], requests[turn]
        assert len(marks(now)) <= 4
        is_kept = [prefix(now, mark) == prefix(before, mark) for mark in marks(before)]
        assert is_kept[0], "the system prompt never changes"
        assert all(is_kept) is (turn not in steps)
        if turn not in steps:  # where the last request ended is marked, so that it is found again
            assert prefix(before, marks(before)[-1]) in {prefix(now, mark) for mark in marks(now)}


# -- whatever the history is


TEXTS = st.sampled_from(["", " ", "a", "ü\n", "{}"])
ITEMS = st.one_of(
    st.builds(Message, role=st.sampled_from(["user", "assistant", "system"]), content=TEXTS),
    st.builds(
        Reasoning,
        text=TEXTS,
        summary=TEXTS,
        signature=st.sampled_from([None, "", "sig"]),
        encrypted_content=st.sampled_from([None, "", "data"]),
    ),
    st.builds(
        ToolCall, call_id=st.just("?"), name=st.sampled_from(["Echo", "a.b"]), arguments=TEXTS
    ),
    st.builds(
        ToolResult,
        call_id=st.integers(0, 7).map(lambda n: f"c{n}"),
        summary=TEXTS,
        content=st.none() | TEXTS,
        is_error=st.booleans(),
    ),
    st.builds(UnknownItem, kind=st.just("new")),
)


def named(items: Sequence[Item]) -> tuple[Item, ...]:
    """Give each call an id of its own, as the loop does."""
    count = 0
    out: list[Item] = []
    for item in items:
        if isinstance(item, ToolCall):
            item = item.model_copy(update={"call_id": f"c{count}"})
            count += 1
        out.append(item)
    return tuple(out)


@given(
    items=st.lists(ITEMS, max_size=16).map(named),
    effort=st.sampled_from([None, *Effort]),
    tools=st.sampled_from([(), (ECHO,)]),
    prompt=TEXTS,
)
def test_every_history_makes_a_request_that_keeps_the_rules(
    items: tuple[Item, ...], effort: Effort | None, tools: tuple[ToolSchema, ...], prompt: str
) -> None:
    made = params(*items, reasoning=effort, tools=tools, system_prompt=prompt)
    SHAPE.validate_python(made)
    messages = made["messages"]
    roles = [message["role"] for message in messages]
    assert roles[0] == roles[-1] == "user"
    assert all(a != b for a, b in itertools.pairwise(roles))
    assert len(marks(made)) <= 4
    ids: list[str] = []
    for index, message in enumerate(messages):
        blocks = message["content"]
        assert blocks
        assert all(b["text"].strip() for b in blocks if b["type"] == "text")
        kinds = [b["type"] for b in blocks]
        if message["role"] == "assistant":
            assert kinds[-1] not in ("thinking", "redacted_thinking")
            called = [b["id"] for b in blocks if b["type"] == "tool_use"]
            answered = [
                b["tool_use_id"]
                for b in messages[index + 1]["content"]
                if b["type"] == "tool_result"
            ]
            assert called == answered
            ids += called
        else:
            results = kinds.count("tool_result")
            assert kinds[:results] == ["tool_result"] * results
            assert all(b["content"] for b in blocks if b.get("is_error"))
            assert results == 0 or index > 0
    assert len(set(ids)) == len(ids)
    assert bool(ids) <= ("tools" in made)
    said = [i.content for i in items if isinstance(i, Message) and i.content.strip()]
    shown = json.dumps(messages, ensure_ascii=False)
    assert all(json.dumps(text, ensure_ascii=False)[1:-1] in shown for text in said)
