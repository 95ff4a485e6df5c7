"""What a request shows of the history, and how an interruption is closed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podproc.engine.history import (
    NOT_STARTED,
    OUTCOME_UNKNOWN,
    Cut,
    closing_results,
    in_call_order,
    interrupt_note,
)
from protocol.entries import Item, Message, Reasoning, ToolCall, ToolResult


def items(words: str) -> tuple[Item, ...]:
    """Return items: `?a` is a call, `=a` or `=a1` a result of it, `~` a thought, the rest text."""
    return tuple(map(_item, words.split()))


def shown(words: str) -> str:
    """Return in the same shorthand what a request shows."""
    return " ".join(map(_short, in_call_order(items(words))))


def _item(word: str) -> Item:
    match word[0]:
        case "?":
            return ToolCall(call_id=word[1], name="Read", arguments="{}")
        case "=":
            return ToolResult(call_id=word[1], summary=word[1:])
        case "~":
            return Reasoning(text=word)
        case _:
            return Message(role="assistant", content=word)


def _short(item: Item) -> str:
    match item:
        case ToolCall(call_id=call_id):
            return f"?{call_id}"
        case ToolResult(summary=summary):
            return f"={summary}"
        case Reasoning(text=text):
            return text
        case Message(content=content):
            return content
        case _:
            raise AssertionError(item)


@pytest.mark.parametrize(
    ("logged", "seen"),
    [
        ("", ""),
        ("hi", "hi"),
        ("hi ?a =a ok", "hi ?a =a ok"),
        ("hi ?a ?b =a =b ok", "hi ?a ?b =a =b ok"),
        ("hi ?a ?b =b =a ok", "hi ?a ?b =a =b ok"),
        ("hi ?a ?b ?c =c =a =b", "hi ?a ?b ?c =a =b =c"),
        ("hi ~ ?a ?b =b =a ~ ok", "hi ~ ?a ?b =a =b ~ ok"),
        ("?a said ?b =b =a ok", "?a said ?b =a =b ok"),
        ("?a ?b =b", "?a ?b =b"),
        ("?a ?b =b =a note hi", "?a ?b =a =b note hi"),
    ],
)
def test_results_stand_behind_their_calls_in_call_order(logged: str, seen: str) -> None:
    assert shown(logged) == seen


@pytest.mark.parametrize(
    "logged", ["?a =a ?b =b ok", "hi ?a =a ~ ?b =b", "?a ?b =a =b ?c ?d =c =d", "?a =a ?b"]
)
def test_calls_of_successive_answers_are_not_shown_as_one_answer(logged: str) -> None:
    assert shown(logged) == logged


@pytest.mark.parametrize("logged", ["?a =a1 said ?a =a2", "?a =a1 ?a =a2", "hi ?a =a1 ~ ?a =a2 ok"])
def test_a_call_id_that_is_used_again_keeps_the_result_of_each_call(logged: str) -> None:
    assert shown(logged) == logged


calls_of_answers = st.lists(
    st.lists(st.sampled_from("abcdef"), unique=True, min_size=1), max_size=5
)


@given(calls_of_answers, st.randoms(use_true_random=False), st.booleans())
def test_whatever_order_results_finished_in_each_answer_is_followed_by_its_own(
    answers: list[list[str]], random: st.DrawFn, text_between: bool
) -> None:
    logged, wanted = ["hi"], ["hi"]
    for number, calls in enumerate(answers):
        results = [f"={call}{number}" for call in calls]
        asked = [f"?{call}" for call in calls]
        wanted += [*asked, *results]
        random.shuffle(results)  # type: ignore[attr-defined]
        logged += [*asked, *results]
        if text_between:
            logged.append(f"text{number}")
            wanted.append(f"text{number}")
    assert shown(" ".join(logged)) == " ".join(wanted)


@given(calls_of_answers)
def test_what_a_request_showed_is_shown_unchanged_by_the_next_one(answers: list[list[str]]) -> None:
    history: list[str] = ["hi"]
    before = shown("hi")
    for number, calls in enumerate(answers):
        history += [f"?{call}" for call in calls]
        history += [f"={call}{number}" for call in reversed(calls)]
        now = shown(" ".join(history))
        assert now.startswith(before)
        before = now


def test_an_open_call_whose_tool_had_begun_has_an_unknown_outcome() -> None:
    calls = [ToolCall(call_id=c, name="Write", arguments="{}") for c in "abc"]
    results = closing_results(calls, started=["b"])
    assert [r.call_id for r in results] == ["a", "b", "c"]
    assert [r.summary for r in results] == [NOT_STARTED, OUTCOME_UNKNOWN, NOT_STARTED]
    assert all(r.is_error for r in results)


def test_nothing_open_needs_no_result() -> None:
    assert closing_results([], started=["a"]) == []


@pytest.mark.parametrize(
    ("cut", "word"),
    [
        (Cut("user"), "user"),
        (Cut("failure", "overloaded"), "overloaded"),
        (Cut("crash"), "crash"),
        (Cut("shutdown"), "shut down"),
        (Cut("reason", "budget"), "budget"),
    ],
)
def test_the_note_says_the_true_cause(cut: Cut, word: str) -> None:
    note = interrupt_note(cut)
    assert note.kind == "interrupt"
    assert word in note.body
    assert "{" not in note.body


def test_a_failure_with_braces_in_its_message_is_told_as_it_is() -> None:
    assert "got {'a': 1}" in interrupt_note(Cut("failure", "got {'a': 1}")).body
