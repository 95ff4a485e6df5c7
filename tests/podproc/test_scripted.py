"""The embedded model: every key of an answer, which answer is taken, and what follows the last."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
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
    Opened,
    Places,
    ProviderFailure,
    StreamCut,
    TextDelta,
    TextDone,
    ThinkingDelta,
    ThinkingDone,
    ThinkingStart,
)
from podproc.models.scripted import ScriptedModel
from protocol.entries import Item, Message, Reasoning, ToolCall, ToolResult, Usage
from protocol.manifest import Model

PLACES = Places(pod="alice", cwd="/w/here", workspace="/w", fleet="review", incarnation=3)
HI: tuple[Item, ...] = (Message(role="user", content="hi"),)


def scripted(*answers: dict[str, Any], **table: Any) -> ScriptedModel:
    return ScriptedModel(Model.from_wire({"answers": answers, **table}), PLACES)


@dataclass
class Played:
    """What one request brought, and how it ended: `whole`, or the failure."""

    events: list[ModelEvent] = field(default_factory=list)
    failure: Exception | None = None

    @property
    def shown(self) -> str:
        """All that was streamed, piece by piece."""
        pieces = [
            event.json if isinstance(event, CallArgs) else event.text
            for event in self.events
            if isinstance(event, TextDelta | ThinkingDelta | CallArgs)
        ]
        return "".join(pieces)

    @property
    def text(self) -> str:
        """The finished text."""
        return "".join(event.text for event in self.events if isinstance(event, TextDone))

    @property
    def answer(self) -> int | None:
        """The index of the answer that was played."""
        [figures] = [event for event in self.events if isinstance(event, Figures)]
        return figures.answer

    @property
    def is_whole(self) -> bool:
        """Whether the terminal event came."""
        return any(isinstance(event, Ended) for event in self.events)

    def calls(self) -> list[CallDone]:
        """The finished calls."""
        return [event for event in self.events if isinstance(event, CallDone)]


def play(model: ScriptedModel, *items: Item, used: set[int] | None = None) -> Played:
    """Make one request."""

    async def main() -> Played:
        played = Played()
        request = ModelRequest("be good", items or HI, used=frozenset(used or ()))
        stream: AsyncIterator[ModelEvent] = model.stream(request)
        try:
            async for event in stream:
                played.events.append(event)
        except (ProviderFailure, StreamCut) as failure:
            played.failure = failure
        return played

    return asyncio.run(main())


def user(content: str) -> Message:
    return Message(role="user", content=content)


def system(content: str) -> Message:
    return Message(role="system", content=content)


def said(content: str) -> Message:
    return Message(role="assistant", content=content)


# -- the stream ----------------------------------------------------------------------------------


def test_an_answer_streams_thinking_then_text_then_calls_then_figures_then_its_end() -> None:
    model = scripted(
        {
            "thinking": "A file will do.",
            "text": "Writing it.",
            "tool_calls": [{"name": "Write", "arguments": {"file_path": "a"}}, {"name": "Read"}],
            "chunk": 100,
        }
    )
    events = play(model).events
    assert [type(event) for event in events] == [
        Opened,
        *(ThinkingStart, ThinkingDelta, ThinkingDone),
        *(TextDelta, TextDone),
        *(CallStart, CallArgs, CallDone),
        *(CallStart, CallArgs, CallDone),
        *(Figures, Ended),
    ]
    numbers = [event.block for event in events if isinstance(event, TextDelta | ThinkingDelta)]
    assert len(set(numbers)) == 2
    assert events[-1] == Ended("tool_use")


def test_calls_are_streamed_as_the_json_they_end_as_and_have_ids_of_their_own() -> None:
    model = scripted({"tool_calls": [{"name": "A", "arguments": {"x": "y" * 200}}, {"name": "A"}]})
    events = [*play(model).events, *play(model).events]
    done = [event for event in events if isinstance(event, CallDone)]
    assert len({call.call_id for call in done}) == 4
    for call in done:
        mine = [event for event in events if isinstance(event, CallArgs)]
        pieces = [event.json for event in mine if event.call_id == call.call_id]
        assert "".join(pieces) == call.arguments
        json.loads(call.arguments)


def test_call_ids_of_two_incarnations_differ() -> None:
    table = Model.from_wire({"answers": [{"tool_calls": [{"name": "A"}]}]})
    ids = {
        play(ScriptedModel(table, Places("alice", "/w", "/w", "f", number))).calls()[0].call_id
        for number in (1, 2)
    }
    assert len(ids) == 2


@pytest.mark.parametrize(("chunk", "pieces"), [(1, 5), (2, 3), (4, 2), (5, 1), (16, 1)])
def test_chunk_is_the_characters_of_each_delta(chunk: int, pieces: int) -> None:
    played = play(scripted({"text": "hello", "chunk": chunk}))
    assert len([e for e in played.events if isinstance(e, TextDelta)]) == pieces
    assert played.shown == played.text == "hello"


def test_a_delta_has_sixteen_characters_by_default() -> None:
    played = play(scripted({"text": "x" * 40}))
    assert [len(e.text) for e in played.events if isinstance(e, TextDelta)] == [16, 16, 8]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"text": "x"}, "end_turn"),
        ({"tool_calls": [{"name": "Read"}]}, "tool_use"),
        ({"text": "x", "stop_reason": "max_tokens"}, "max_tokens"),
        ({"tool_calls": [{"name": "Read"}], "stop_reason": "refusal"}, "refusal"),
    ],
)
def test_the_stop_reason_is_as_written_or_follows_from_the_calls(
    answer: dict[str, Any], reason: str
) -> None:
    assert play(scripted(answer)).events[-1] == Ended(reason)


def test_usage_is_as_written() -> None:
    usage = {"input_tokens": 120, "output_tokens": 30, "cache_read_tokens": 100}
    [figures] = [e for e in play(scripted({"usage": usage})).events if isinstance(e, Figures)]
    assert figures == Figures(Usage(**usage), 0)


def test_usage_that_is_not_written_is_a_quarter_of_the_characters() -> None:
    [figures] = [
        e
        for e in play(scripted({"text": "x" * 40}), user("y" * 80)).events
        if isinstance(e, Figures)
    ]
    assert figures.usage.output_tokens == 10
    assert figures.usage.input_tokens == (80 + len("be good")) // 4


@pytest.mark.parametrize(
    ("settings", "least_s"),
    [
        ({"answer": {"text": "x", "delay_ms": 30}}, 0.03),
        ({"answer": {"text": "x" * 8, "hang_s": 0.03}}, 0.03),
        ({"answer": {"hang_s": 0.03, "tool_calls": [{"name": "Read"}]}}, 0.03),
        ({"answer": {"text": "x" * 8, "chunk": 2}, "chars_per_s": 200}, 0.03),
    ],
)
def test_delays_silence_and_speed_take_their_time(settings: dict[str, Any], least_s: float) -> None:
    answer = settings.pop("answer")

    async def main() -> float:
        loop = asyncio.get_running_loop()
        before = loop.time()
        async for _ in scripted(answer, **settings).stream(ModelRequest("", HI)):
            pass
        return loop.time() - before

    assert asyncio.run(main()) >= least_s


def test_a_delay_is_before_the_first_event_and_a_silence_after_half_of_the_text() -> None:
    async def before_silence(**answer: Any) -> str:
        shown = ""
        stream = scripted(answer).stream(ModelRequest("", HI))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                async for event in stream:
                    shown += event.text if isinstance(event, TextDelta) else ""
                raise AssertionError("it did not hang")
        return shown

    assert asyncio.run(before_silence(text="x" * 40, delay_ms=30_000)) == ""
    half = asyncio.run(before_silence(text="x" * 40, hang_s=30))
    assert 20 <= len(half) <= 21


# -- going wrong ---------------------------------------------------------------------------------


def test_a_failure_comes_before_the_first_event_with_all_it_says() -> None:
    model = scripted(
        {
            "text": "x",
            "fail": {"status": 529, "retry_after_s": 1, "message": "${pod} is overloaded"},
        }
    )
    played = play(model)
    assert played.events == []
    assert isinstance(played.failure, ProviderFailure)
    assert (played.failure.status, played.failure.retry_after_s) == (529, 1)
    assert played.failure.message == "alice is overloaded"
    assert played.failure.retryable


@pytest.mark.parametrize(("status", "retryable"), [(429, True), (500, True), (400, False)])
def test_a_failure_is_tried_again_where_its_status_says_so(status: int, retryable: bool) -> None:
    failure = play(scripted({"fail": {"status": status}})).failure
    assert isinstance(failure, ProviderFailure)
    assert failure.retryable is retryable


def test_fail_times_counts_within_one_incarnation_and_then_the_answer_comes() -> None:
    answers = {"text": "x", "fail": {"status": 503}, "fail_times": 2}
    model = scripted(answers)
    assert [play(model).failure is not None for _ in range(4)] == [True, True, False, False]
    assert play(scripted(answers)).failure is not None


def test_without_fail_times_an_answer_fails_always() -> None:
    model = scripted({"text": "x", "fail": {}})
    assert all(play(model).failure for _ in range(5))


def test_fail_times_of_two_answers_are_counted_apart() -> None:
    one = {"fail": {"status": 503}, "fail_times": 1, "text": "x"}
    model = scripted({"match": "a", **one}, {"match": "b", **one})
    assert play(model, user("a")).failure
    assert play(model, user("b")).failure
    assert play(model, user("a")).is_whole


@pytest.mark.parametrize("characters", [0, 1, 5, 16, 20, 32, 39])
def test_a_stream_is_cut_after_exactly_so_many_characters(characters: int) -> None:
    played = play(scripted({"text": "x" * 40, "cut_after": characters}))
    assert isinstance(played.failure, StreamCut)
    assert len(played.shown) == characters
    assert not played.is_whole
    assert not any(isinstance(event, TextDone | Figures) for event in played.events)


def test_the_characters_before_a_cut_count_over_the_whole_answer() -> None:
    played = play(
        scripted(
            {"thinking": "12345", "text": "67890", "tool_calls": [{"name": "Read"}], "cut_after": 8}
        )
    )
    assert isinstance(played.failure, StreamCut)
    assert played.shown == "12345678"
    assert any(isinstance(event, ThinkingDone) for event in played.events)
    assert played.calls() == []


def test_an_answer_that_is_shorter_than_its_cut_is_whole() -> None:
    assert play(scripted({"text": "short", "cut_after": 500})).is_whole


def test_a_stream_without_a_terminal_event_just_ends() -> None:
    played = play(scripted({"text": "x", "no_terminal_event": True}))
    assert played.failure is None
    assert played.text == "x"
    assert not played.is_whole


# -- which answer --------------------------------------------------------------------------------


def test_answers_without_a_match_are_taken_in_order() -> None:
    model = scripted({"text": "a"}, {"text": "b"}, {"text": "c"})
    assert play(model).text == "a"
    assert play(model, used={0}).text == "b"
    assert play(model, used={0, 2}).text == "b"
    assert play(model, used={0, 1}).answer == 2


def test_nothing_is_used_up_by_being_played_but_by_being_logged() -> None:
    model = scripted({"text": "a"}, {"text": "b"})
    assert [play(model).text for _ in range(3)] == ["a", "a", "a"]


def test_the_first_unused_answer_that_fits_is_taken() -> None:
    model = scripted({"match": "bye", "text": "a"}, {"match": "h", "text": "b"}, {"text": "c"})
    assert play(model).text == "b"
    assert play(model, used={1}).text == "c"
    assert play(model, user("bye")).text == "a"


def test_an_answer_that_repeats_is_never_used_up() -> None:
    model = scripted({"match": "hi", "text": "again", "repeat": True}, {"text": "once"})
    assert play(model, used={0}).text == "again"
    assert play(model, used={0}).answer == 0
    assert play(model, user("bye"), used={0}).text == "once"


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        ("second", True),
        ("^second$", True),
        ("first", False),
        ("summary of b", True),
        ("the bulk", False),
        ("^note$", True),
        (r"a\nsummary of b", True),
        ("SECOND", False),
    ],
)
def test_a_match_is_searched_in_all_that_is_new_since_the_previous_answer(
    match: str, fits: bool
) -> None:
    model = scripted({"match": match, "text": "fits"}, on_exhausted="error")
    played = play(
        model,
        user("first"),
        said("ok"),
        ToolCall(call_id="a", name="Read", arguments="{}"),
        ToolCall(call_id="b", name="Read", arguments="{}"),
        ToolResult(call_id="a", summary="summary of a", content="the bulk"),
        ToolResult(call_id="b", summary="summary of b"),
        system("note"),
        user("second"),
    )
    assert (played.failure is None) is fits


@pytest.mark.parametrize(
    "answer", [said("ok"), Reasoning(text="hm"), ToolCall(call_id="a", name="A", arguments="{}")]
)
def test_what_is_before_any_part_of_an_answer_is_not_new(answer: Item) -> None:
    model = scripted({"match": "old", "text": "fits"}, on_exhausted="error")
    assert play(model, user("old"), answer, user("new")).failure


# -- after the last answer -----------------------------------------------------------------------


def test_echo_is_the_default_and_says_the_last_user_text() -> None:
    played = play(scripted(), user("one"), user("two"), system("note"))
    assert played.text == "echo: two"
    assert played.answer is None
    assert played.is_whole


def test_echo_without_user_text_says_the_newest_system_item() -> None:
    assert play(scripted(), user("one"), said("ok"), system("a"), system("b")).text == "echo: b"


def test_echo_after_tools_says_what_the_user_said() -> None:
    call = ToolCall(call_id="a", name="Read", arguments="{}")
    result = ToolResult(call_id="a", summary="read")
    assert play(scripted(), user("one"), call, result).text == "echo: one"


def test_echo_says_what_a_user_typed_letter_for_letter() -> None:
    assert play(scripted(), user("who is ${pod}?")).text == "echo: who is ${pod}?"


def test_error_fails_for_good() -> None:
    played = play(scripted({"match": "never"}, on_exhausted="error"))
    assert isinstance(played.failure, ProviderFailure)
    assert not played.failure.retryable


def test_repeat_last_plays_the_last_answer_again() -> None:
    model = scripted({"text": "a"}, {"text": "b"}, on_exhausted="repeat_last")
    assert play(model, used={0, 1}).text == "b"


def test_repeat_last_of_no_answers_echoes() -> None:
    assert play(scripted(on_exhausted="repeat_last")).text == "echo: hi"


# -- placeholders --------------------------------------------------------------------------------


def test_placeholders_are_filled_in_thinking_text_and_arguments_at_any_depth() -> None:
    every = "${pod} ${cwd} ${workspace} ${fleet} ${incarnation} ${other} $pod"
    filled = "alice /w/here /w review 3 ${other} $pod"
    model = scripted(
        {
            "thinking": every,
            "text": every,
            "tool_calls": [{"name": "A", "arguments": {"a": every, "b": [{"c": every}, 1, None]}}],
        }
    )
    played = play(model)
    assert played.text == filled
    assert [e.text for e in played.events if isinstance(e, ThinkingDone)] == [filled]
    [call] = played.calls()
    assert json.loads(call.arguments) == {"a": filled, "b": [{"c": filled}, 1, None]}


@given(st.text(), st.text(), st.integers(1, 50))
def test_what_is_streamed_is_what_is_finished(thinking: str, text: str, chunk: int) -> None:
    played = play(scripted({"thinking": thinking, "text": text, "chunk": chunk}))
    finished = [e.text for e in played.events if isinstance(e, ThinkingDone | TextDone)]
    assert played.shown == "".join(finished)
    assert played.is_whole
