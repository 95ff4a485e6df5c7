"""How large a history is taken to be: measured where it was, interpolated between, else by size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podproc.engine.estimate import PER_ITEM, context_tokens, item_tokens, size_of, size_of_all
from protocol.entries import Item, LlmUsage, Message, Reasoning, ToolCall, ToolResult
from tests.podproc.histories import asked, flat, measured_at, rounds, said


@pytest.mark.parametrize(
    ("item", "size"),
    [
        (asked("abcd"), 4),
        (asked(""), 0),
        (asked("äß€"), 7),
        (asked("\ud800"), 1),
        (ToolCall(call_id="c" * 50, name="Read", arguments='{"a":1}'), 11),
        (ToolResult(call_id="c", summary="done", content="body"), 8),
        (ToolResult(call_id="c", summary="done"), 4),
        (Reasoning(text="a", summary="b", encrypted_content="ccc", signature="dd"), 7),
    ],
)
def test_an_item_is_as_large_as_its_texts_and_a_little_more(item: Item, size: int) -> None:
    assert size_of(item) == PER_ITEM + size


def test_where_nothing_was_measured_four_bytes_are_a_token_and_the_prompt_counts() -> None:
    items = [asked("x" * 84), said("y" * 184)]
    assert context_tokens(items, [], prompt="p" * 400) == 100 + 25 + 50
    assert item_tokens(items, []) == [25, 50]
    assert context_tokens([], []) == 0


def test_behind_the_last_measured_place_the_rest_is_added_by_size() -> None:
    items = [asked("x" * 999), said("y"), asked("z" * 84)]
    one = LlmUsage(
        ts=1,
        history_len=2,
        input_tokens=1,
        output_tokens=20,
        cache_read_tokens=300,
        cache_write_tokens=4000,
    )
    assert context_tokens(items, [one], prompt="p" * 400) == 4321 + 25
    assert context_tokens(items[:2], [one]) == 4321
    assert context_tokens(items, [measured_at(1, 7), one]) == 4321 + 25, "the last one counts"


def test_figures_of_nothing_at_all_measure_nothing() -> None:
    items = [asked("x" * 84), said("y" * 184)]
    assert context_tokens(items, [measured_at(2, 0)], prompt="p" * 400) == 100 + 25 + 50
    assert context_tokens(items, [measured_at(1, 7), measured_at(2, 0)]) == 7 + 50
    assert item_tokens(items, [measured_at(2, 0)]) == [25, 50]


def test_between_measured_places_tokens_are_spread_by_size() -> None:
    items = [asked("x" * 84), asked("x" * 284), asked("x" * 84), asked("x" * 184)]
    usage = [measured_at(2, 800), measured_at(3, 850)]
    assert item_tokens(items, usage) == [200, 600, 50, 50]


def test_where_the_measured_size_shrank_the_sizes_are_the_better_guess() -> None:
    items = [asked("x" * 84), asked("x" * 284), asked("x" * 84)]
    usage = [measured_at(1, 5000), measured_at(2, 900), measured_at(3, 940)]
    assert item_tokens(items, usage) == [5000, 75, 40]


def test_a_place_behind_the_end_breaks_nothing() -> None:
    items = [asked("x" * 84)]
    assert item_tokens(items, [measured_at(3, 90)]) == [90]
    assert context_tokens(items, [measured_at(3, 90)]) == 90


@given(parts=rounds(), data=st.data())
def test_items_have_about_as_many_tokens_as_was_measured_between_two_places(
    parts: list[list[Item]], data: st.DataObject
) -> None:
    items = flat(parts)
    places = data.draw(st.lists(st.integers(0, len(items)), unique=True).map(sorted))
    figures = sorted(data.draw(st.integers(1, 10**6)) for _ in places)
    usage = [measured_at(*pair) for pair in zip(places, figures, strict=True)]
    tokens = item_tokens(items, usage)
    assert len(tokens) == len(items)
    assert all(one >= 0 for one in tokens)
    start = before = 0
    for stop, after in zip(places, figures, strict=True):
        if after > before and stop > start:
            assert after - before - (stop - start) <= sum(tokens[start:stop]) <= after - before
        start, before = stop, after
    assert sum(tokens[start:]) <= size_of_all(items[start:]) // 4


@given(parts=rounds(), more=rounds())
def test_an_estimate_grows_with_its_history(
    parts: list[list[Item]], more: list[list[Item]]
) -> None:
    items, longer = flat(parts), flat([*parts, *more])
    usage = [measured_at(len(items), 500)]
    assert context_tokens(items, usage) == 500 <= context_tokens(longer, usage)
    assert context_tokens(items, []) <= context_tokens(longer, [])
    system = Message(role="system", content="s" * 40)
    assert context_tokens([*longer, system], usage) > context_tokens(longer, usage)
