"""What a request shows: every summary and every pair, the same beginning as the one before."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podproc.engine.estimate import size_of, size_of_all
from podproc.engine.history import in_call_order
from podproc.engine.projection import LARGE, Projection
from protocol.entries import Item, ToolCall, ToolResult
from tests.podproc.histories import asked, flat, rounds, said, tool_call, tool_result

WINDOW = 4000
"""Tokens: a step is 2000 bytes, 4000 are always kept."""


def one_call(number: int, size: int) -> list[Item]:
    return [tool_call(f"c{number}"), tool_result(f"c{number}", size)]


def bodies(items: tuple[Item, ...]) -> list[int | None]:
    """How many bytes of each result are shown; None for no body, 0 for one that was left out."""
    results = [item for item in items if isinstance(item, ToolResult)]
    return [
        None if one.content is None else 0 if "left out" in one.content else len(one.content)
        for one in results
    ]


def test_a_small_history_is_shown_whole() -> None:
    items = [asked("hi"), *one_call(1, 3000)]
    assert Projection(WINDOW)(items) == tuple(items)
    assert Projection(WINDOW)([]) == ()


def test_large_bodies_far_from_the_end_are_left_out_and_their_summaries_are_not() -> None:
    items = flat([one_call(number, 2000) for number in range(5)])
    shown = Projection(WINDOW)(items)
    assert bodies(shown) == [0, 0, 2000, 2000, 2000]
    first = shown[1]
    assert isinstance(first, ToolResult)
    assert first.summary == "did c0"
    assert first.content is not None
    assert "2000 bytes" in first.content


def test_small_bodies_stay_however_old_they_are() -> None:
    items = flat([one_call(number, LARGE + number % 2) for number in range(20)])
    assert bodies(Projection(WINDOW)(items))[:4] == [LARGE, 0, LARGE, 0]


@pytest.mark.parametrize(
    ("over_by", "shown"),
    [
        (0, [600, 700, 800]),
        (1, [None, 700, 800]),
        (150, [None, 700, 800]),
        (151, [None, None, 800]),
        (500, [None, None, None]),
        (99999, [None, None, None]),
    ],
)
def test_what_is_over_the_window_loses_its_oldest_bodies_and_no_more_than_it_must(
    over_by: int, shown: list[int | None]
) -> None:
    items = flat([one_call(number, 600 + 100 * number) for number in range(3)])
    projected = Projection(WINDOW)(items, over_by=over_by)
    assert bodies(projected) == shown
    assert [one.kind for one in projected] == [one.kind for one in items]


@given(parts=rounds(most=12), over_by=st.integers(0, 30_000))
def test_every_item_is_there_in_call_order_with_all_but_its_body(
    parts: list[list[Item]], over_by: int
) -> None:
    items = in_call_order(flat(parts))
    shown = Projection(WINDOW)(flat(parts), over_by=over_by)
    assert len(shown) == len(items)
    for one, whole in zip(shown, items, strict=True):
        if isinstance(one, ToolResult):
            assert isinstance(whole, ToolResult)
            assert one.model_copy(update={"content": whole.content}) == whole
            assert size_of(one) <= size_of(whole)
        else:
            assert one == whole
    answered = [one.call_id for one in shown if isinstance(one, ToolResult)]
    assert answered == [one.call_id for one in shown if isinstance(one, ToolCall)]
    has_bodies = any(isinstance(one, ToolResult) and one.content for one in shown)
    if over_by and has_bodies:
        plain = Projection(WINDOW)(flat(parts))
        assert size_of_all(plain) - size_of_all(shown) >= over_by * 4


def test_what_is_bare_has_no_body_and_what_is_over_the_window_comes_on_top() -> None:
    items = flat([one_call(number, 600) for number in range(4)])
    assert bodies(Projection(WINDOW)(items, bare=3)) == [None, 600, 600, 600]
    assert bodies(Projection(WINDOW)(items, bare=4, over_by=1)) == [None, None, None, 600]
    assert bodies(Projection(WINDOW)(items, bare=99)) == [None] * 4


@given(parts=rounds(most=25))
def test_between_two_steps_each_request_begins_with_what_the_one_before_showed(
    parts: list[list[Item]],
) -> None:
    project = Projection(WINDOW)
    history: list[Item] = []
    requests: list[tuple[Item, ...]] = []
    sizes: list[int] = []
    for part in parts:
        history += part
        requests.append(project(history))
        sizes.append(size_of_all(history))
    changed = 0
    for (shown, size), (later, grown) in pairwise(zip(requests, sizes, strict=True)):
        if later[: len(shown)] != shown:
            changed += 1
            assert size // project.step < grown // project.step, "it moved without a step"
    assert changed <= sizes[-1] // project.step


@given(parts=rounds(most=25))
def test_the_boundary_never_goes_back_and_keeps_its_distance(parts: list[list[Item]]) -> None:
    project = Projection(WINDOW)
    history: list[Item] = []
    before = 0
    for part in parts:
        history += part
        items = in_call_order(history)
        boundary = project.boundary(items)
        assert boundary >= before
        assert size_of_all(items[boundary:]) >= min(project.keep, size_of_all(items))
        before = boundary


def test_a_model_without_a_window_to_speak_of_breaks_nothing() -> None:
    items = [said("x"), *one_call(1, 2000), *one_call(2, 2000)]
    assert bodies(Projection(1)(items)) == [0, 2000], "the last item is shown in any case"
