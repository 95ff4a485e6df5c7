"""The turn loop: what it commits, in which order, and what it does when things go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from podproc.engine import loop
from podproc.models import base
from podproc.models.base import Places, ProviderFailure, StreamCut
from podproc.models.scripted import ScriptedModel
from podproc.tools.base import Call
from podproc.turn_terms import Ending, RunOver
from protocol import events as ev
from protocol.entries import Message, Reasoning, ToolCall, ToolResult, Usage
from protocol.manifest import Engine, Model, Retry, ScriptedAnswer, ScriptedCall, Timeouts
from tests.podproc.engines import (
    PATIENT,
    QUICK,
    Bench,
    Custom,
    Hang,
    Move,
    call,
    end,
    text,
    thinking,
)

T = TypeVar("T")

DONE = RunOver(Ending.FINISHED)
BUSY = ProviderFailure("overloaded", status=529)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def finished(*plays: list[Move], **settings: Any) -> Bench:
    """Run the plays to a good end and return what there is to look at."""

    async def main() -> Bench:
        bench = Bench(*plays, **settings)
        assert await bench.run() == DONE
        return bench

    return run(main())


def ended(*plays: list[Move], **settings: Any) -> tuple[RunOver, Bench]:
    """Run the plays to whatever end."""

    async def main() -> tuple[RunOver, Bench]:
        bench = Bench(*plays, **settings)
        return await bench.run(), bench

    return run(main())


def stopped(*plays: list[Move], when: str, **settings: Any) -> tuple[RunOver, Bench]:
    """Run the plays and stop them once something was seen."""

    async def main() -> tuple[RunOver, Bench]:
        bench = Bench(*plays, rules=settings.pop("rules", PATIENT), **settings)
        return await bench.run_and_stop(when), bench

    return run(main())


# -- order ---------------------------------------------------------------------------------------


def test_a_run_is_told_in_the_order_of_the_protocol() -> None:
    async def main() -> list[str]:
        bench = Bench(
            [*thinking("hm"), *text("look", 1), *call("c1"), *end("tool_use", 0)],
            [*text("done"), *end(answer=1)],
        )
        bench.sink.waiting = ["news"]
        assert await bench.run() == DONE
        return bench.sink.seen

    assert run(main()) == [
        *("turn_start", "system_item news", "llm_call_start"),
        *("thinking_start", "thinking_delta", "thinking_done"),
        *("text_delta", "text_done"),
        *("tool_call_start", "tool_call_args_delta", "tool_call_done"),
        *("entry reasoning", "entry look", "entry c1", "usage of answer 0", "llm_call_end"),
        *("sync", "starts c1", "tool_output_delta", "result c1", "turn_end"),
        *("turn_start", "llm_call_start", "text_delta", "text_done"),
        *("entry done", "usage of answer 1", "llm_call_end", "turn_end"),
    ]


def test_a_notification_that_comes_during_a_turn_is_drained_before_the_next_request() -> None:
    async def main() -> list[base.ModelRequest]:
        bench = Bench([*call("c1", "Late"), *end("tool_use")], [*text("done"), *end()])

        async def late(_: Call) -> str:
            bench.sink.waiting.append("news")
            return "ok"

        bench.registry.register(Custom("Late", late), "test")
        assert await bench.run() == DONE
        return bench.model.requests

    first, second = run(main())
    assert Message(role="system", content="news") not in first.items
    assert second.items[-1] == Message(role="system", content="news")


def test_the_request_carries_prompt_history_tools_limits_and_used_answers() -> None:
    bench = finished(
        [*call("c1"), *end("tool_use", 7)],
        [*text("done"), *end()],
        rules=QUICK.model_copy(update={"max_tokens": 99}),
    )
    asked = bench.model.requests[1]
    assert asked.system_prompt == "be good"
    assert [item.kind for item in asked.items] == ["message", "tool_call", "tool_result"]
    assert [tool.name for tool in asked.tools] == ["Echo"]
    assert asked.max_tokens == 99
    assert asked.used == {7}


def test_blocks_of_different_requests_have_different_numbers() -> None:
    bench = finished([*text("a"), *call("c1"), *end("tool_use")], [*text("b"), *end()])
    numbers = [event.block for event in bench.sink.events if isinstance(event, ev.TextDone)]
    assert len(set(numbers)) == 2


# -- append before act ---------------------------------------------------------------------------


def test_calls_are_committed_and_durable_before_any_tool_runs() -> None:
    async def main() -> list[str]:
        bench = Bench(
            [*call("c1", "Look"), *call("c2", "Look"), *end("tool_use")], [*text("x"), *end()]
        )
        before: list[str] = []

        async def look(_: Call) -> str:
            before.extend([] if before else bench.sink.seen)
            return "ok"

        bench.registry.register(Custom("Look", look), "test")
        assert await bench.run() == DONE
        return before

    assert run(main())[-6:] == [
        *("entry c1", "entry c2", "usage", "llm_call_end", "sync", "starts c1"),
    ]


@pytest.mark.parametrize("failing", ["entry c1", "entry c2", "usage", "sync"])
def test_if_the_intent_cannot_be_logged_no_tool_runs_and_the_run_fails(failing: str) -> None:
    async def main() -> tuple[RunOver, Bench]:
        bench = Bench([*call("c1"), *call("c2"), *end("tool_use")])
        bench.sink.failing = {failing}
        return await bench.run(), bench

    over, bench = run(main())
    assert over.ending is Ending.FAILED
    assert over.error is not None
    assert over.error.code == "internal"
    assert bench.echo.ran == []
    assert len(bench.model.requests) == 1


@pytest.mark.parametrize("failing", ["result c1", "turn_end", "entry done"])
def test_the_run_does_not_go_on_in_memory_after_an_append_failed(failing: str) -> None:
    async def main() -> tuple[RunOver, Bench]:
        bench = Bench([*call("c1"), *end("tool_use")], [*text("done"), *end()])
        bench.sink.failing = {failing}
        return await bench.run(), bench

    over, bench = run(main())
    assert over.ending is Ending.FAILED
    assert len(bench.model.requests) == (2 if failing == "entry done" else 1)


# -- tools ---------------------------------------------------------------------------------------


def test_results_are_committed_as_they_complete_and_shown_in_call_order() -> None:
    async def main() -> Bench:
        second_is_done = asyncio.Event()

        async def slow(_: Call) -> str:
            await second_is_done.wait()
            return "slow"

        async def quick(_: Call) -> str:
            second_is_done.set()
            return "quick"

        bench = Bench(
            [*call("c1", "Slow"), *call("c2", "Quick"), *end("tool_use")],
            [*text("done"), *end()],
            tools=[Custom("Slow", slow), Custom("Quick", quick)],
        )
        assert await bench.run() == DONE
        return bench

    bench = run(main())
    assert bench.sink.told("result") == ["result c2", "result c1"]
    shown = [item for item in bench.model.requests[1].items if isinstance(item, ToolResult)]
    assert [item.summary for item in shown] == ["slow", "quick"]


@pytest.mark.parametrize("most", [1, 2, 3])
def test_no_more_tools_run_at_once_than_the_rules_allow(most: int) -> None:
    async def main() -> int:
        at_once = peak = 0

        async def work(_: Call) -> str:
            nonlocal at_once, peak
            at_once += 1
            peak = max(peak, at_once)
            for _step in range(5):
                await asyncio.sleep(0)
            at_once -= 1
            return "ok"

        calls = [move for n in range(6) for move in call(f"c{n}", "Work")]
        bench = Bench(
            [*calls, *end("tool_use")],
            [*text("done"), *end()],
            rules=QUICK.model_copy(update={"max_parallel_tools": most}),
            tools=[Custom("Work", work)],
        )
        assert await bench.run() == DONE
        return peak

    assert run(main()) == most


@pytest.mark.parametrize(
    "arguments", ["", "{", '{"text": ', "[]", "null", '"text"', '{"text": 1}', '{"txt": "typo"}']
)
def test_malformed_arguments_are_an_error_the_model_reads_and_nothing_runs(arguments: str) -> None:
    bench = finished([*call("c1", "Echo", arguments), *end("tool_use")], [*text("sorry"), *end()])
    [result] = [item for item in bench.sink.history if isinstance(item, ToolResult)]
    assert result.is_error
    assert "invalid_argument" in result.summary
    assert bench.echo.ran == []
    stored = next(item for item in bench.sink.history if isinstance(item, ToolCall))
    assert stored.arguments == arguments


def test_an_unknown_tool_and_a_failing_tool_are_results_and_not_the_end() -> None:
    async def broken(_: Call) -> str:
        raise OSError("no such device")

    bench = finished(
        [*call("c1", "Nope"), *call("c2", "Broken"), *end("tool_use")],
        [*text("done"), *end()],
        tools=[Custom("Broken", broken)],
    )
    results = [item for item in bench.sink.history if isinstance(item, ToolResult)]
    assert [result.is_error for result in results] == [True, True]


def test_a_tool_that_cancels_itself_still_has_a_result() -> None:
    async def gives_up(_: Call) -> str:
        raise asyncio.CancelledError

    bench = finished(
        [*call("c1", "GivesUp"), *call("c2"), *end("tool_use")],
        [*text("done"), *end()],
        tools=[Custom("GivesUp", gives_up)],
    )
    results = {item.call_id: item for item in bench.sink.history if isinstance(item, ToolResult)}
    assert set(results) == {"c1", "c2"}
    assert results["c1"].is_error


# -- how an answer ends --------------------------------------------------------------------------


def test_max_tokens_without_calls_is_a_limit_and_keeps_what_was_finished() -> None:
    over, bench = ended([*text("half of"), *end("max_tokens")])
    assert (over.ending, over.reason) == (Ending.LIMIT_REACHED, "max_tokens")
    assert bench.sink.told("entry", "usage", "turn_end") == ["entry half of", "usage", "turn_end"]


def test_max_tokens_with_complete_calls_goes_on() -> None:
    bench = finished([*call("c1"), *end("max_tokens")], [*text("done"), *end()])
    assert bench.echo.ran == ["default"]


def test_max_tokens_in_the_middle_of_its_only_call_is_a_limit() -> None:
    half: list[Move] = [base.CallStart("c1", "Echo"), base.CallArgs("c1", '{"te')]
    over, bench = ended([*half, *end("max_tokens")])
    assert (over.ending, over.reason) == (Ending.LIMIT_REACHED, "max_tokens")
    assert bench.echo.ran == []


def test_max_tokens_in_the_middle_of_a_second_call_is_a_limit() -> None:
    half: list[Move] = [base.CallStart("c2", "Echo"), base.CallArgs("c2", '{"te')]
    over, _ = ended([*call("c1"), *half, *end("max_tokens")], [*text("went on"), *end()])
    assert (over.ending, over.reason) == (Ending.LIMIT_REACHED, "max_tokens")


@pytest.mark.parametrize("empty", [[], thinking("hm"), [base.TextDone(0, "")]])
def test_an_empty_answer_is_an_error_alert(empty: list[Move]) -> None:
    bench = finished([*empty, *end()])
    assert [alert.split(":")[0] for alert in bench.sink.alerts] == ["error"]


def test_an_answer_with_text_is_no_alert() -> None:
    assert finished([*text("done"), *end()]).sink.alerts == []


def test_opaque_reasoning_goes_back_with_the_next_request() -> None:
    thought = base.ThinkingDone(0, "hm", "", "opaque", "signed")
    bench = finished(
        [base.ThinkingStart(0), thought, *call("c1"), *end("tool_use")], [*text("done"), *end()]
    )
    back = next(i for i in bench.model.requests[1].items if isinstance(i, Reasoning))
    assert (back.text, back.encrypted_content, back.signature) == ("hm", "opaque", "signed")


def test_what_comes_after_the_terminal_event_is_not_waited_for() -> None:
    bench = finished([*text("done"), *end(), Hang()])
    assert len(bench.model.requests) == 1


# -- broken streams ------------------------------------------------------------------------------

BREAKS: dict[str, Move] = {
    "cut": StreamCut("connection reset"),
    "silent": Hang(),
}


@pytest.mark.parametrize("how", [*BREAKS, "without a terminal event"])
def test_a_broken_stream_keeps_finished_text_drops_all_calls_and_asks_again(how: str) -> None:
    breaks: list[Move] = [BREAKS[how]] if how in BREAKS else []
    bench = finished(
        [
            *thinking("hm"),
            *text("kept", 1),
            *call("c1"),
            base.TextDelta(2, "lost"),
            *breaks,
        ],
        [*text("done"), *end()],
    )
    assert bench.echo.ran == []
    assert bench.sink.told("entry") == ["entry reasoning", "entry kept", "entry done"]
    assert [item.kind for item in bench.model.requests[1].items] == [
        "message",
        "reasoning",
        "message",
    ]
    [told] = [event for event in bench.sink.events if isinstance(event, ev.LlmContinuation)]
    assert (told.attempt, told.max_attempts) == (1, 3)
    assert told.reason
    assert bench.sink.told("llm_call_start", "llm_continuation", "llm_call_end") == [
        *("llm_call_start", "llm_continuation", "llm_call_end"),
        *("llm_call_start", "llm_call_end"),
    ]


def test_figures_of_a_broken_answer_count_and_its_script_is_not_used_up() -> None:
    bench = finished([*text("kept"), *end(answer=0)[:1]], [*text("done"), *end(answer=0)])
    assert bench.sink.told("usage") == ["usage", "usage of answer 0"]


def test_three_continuations_in_a_row_and_no_more() -> None:
    cut: list[Move] = [base.TextDelta(0, "x"), StreamCut("reset")]
    over, bench = ended(cut, list(cut), list(cut), list(cut))
    assert over.ending is Ending.FAILED
    assert over.error is not None
    assert over.error.code == "provider_error"
    assert len(bench.model.requests) == 4
    assert len(bench.sink.told("llm_continuation")) == 3


def test_continuations_are_counted_in_a_row_and_not_over_the_run() -> None:
    cut: list[Move] = [base.TextDelta(0, "x"), StreamCut("reset")]
    good = [*call("c"), *end("tool_use")]
    bench = finished(cut, cut, cut, good, cut, cut, cut, [*text("done"), *end()])
    assert len(bench.sink.told("llm_continuation")) == 6


def test_a_stream_that_never_begins_is_a_retry_and_not_a_continuation() -> None:
    bench = finished([Hang()], [*text("done"), *end()])
    assert len(bench.sink.told("llm_retry")) == 1
    assert bench.sink.told("llm_continuation") == []
    assert bench.model.closed == 2


def test_a_whole_run_may_be_limited_in_time() -> None:
    rules = Engine(timeouts=Timeouts(run_s=0.05))
    over, bench = ended([base.TextDelta(0, "x"), Hang()], rules=rules)
    assert over.ending is Ending.FAILED
    assert over.error is not None
    assert over.error.code == "provider_error"
    assert bench.model.closed == 1


# -- retries -------------------------------------------------------------------------------------


def retries(bench: Bench) -> list[ev.LlmRetry]:
    return [event for event in bench.sink.events if isinstance(event, ev.LlmRetry)]


def test_a_failure_before_the_first_event_is_tried_again_and_seen() -> None:
    bench = finished([BUSY], [BUSY], [*text("done"), *end()], dice=lambda: 0.5)
    seen = retries(bench)
    assert [(one.failed_attempt, one.max_attempts, one.status) for one in seen] == [
        (1, 4, 529),
        (2, 4, 529),
    ]
    assert {one.error for one in seen} == {"overloaded"}
    assert bench.sink.told("llm_call_start", "llm_retry", "llm_call_end") == [
        *("llm_call_start", "llm_retry", "llm_retry", "llm_call_end"),
    ]


def test_the_fourth_failure_ends_the_run_as_one_error() -> None:
    over, bench = ended([BUSY], [BUSY], [BUSY], [BUSY])
    assert over.ending is Ending.FAILED
    assert over.error is not None
    assert over.error.code == "provider_error"
    assert "overloaded" in over.error.message
    assert "529" in over.error.message
    assert len(retries(bench)) == 3
    assert not any(isinstance(event, ev.ErrorEvent) for event in bench.sink.events)
    assert bench.sink.alerts == []


@pytest.mark.parametrize("problem", [BUSY, ProviderFailure("no such model", status=404)])
def test_a_call_that_was_told_to_begin_is_told_to_end(problem: ProviderFailure) -> None:
    _, bench = ended([problem], rules=Engine(retry=Retry(attempts=1)))
    assert bench.sink.told("llm_call_start", "llm_call_end") == ["llm_call_start", "llm_call_end"]


def test_retry_after_is_honoured() -> None:
    later = ProviderFailure("slow down", status=429, retry_after_s=0.03)
    bench = finished([later], [*text("done"), *end()], dice=lambda: 0.0)
    assert [one.wait_ms for one in retries(bench)] == [30]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refusal_is_not_tried_again(status: int) -> None:
    over, bench = ended([ProviderFailure("no", status=status)])
    assert over.ending is Ending.FAILED
    assert retries(bench) == []


def test_a_failure_in_an_answer_that_was_shown_is_a_broken_stream_and_no_silent_retry() -> None:
    bench = finished([*text("a"), base.TextDelta(1, "x"), BUSY], [*text("done"), *end()])
    assert retries(bench) == []
    assert bench.sink.told("entry", "llm_continuation") == [
        "entry a",
        "llm_continuation",
        "entry done",
    ]


def test_a_refusal_in_an_answer_that_was_shown_fails_the_run() -> None:
    over, bench = ended([base.TextDelta(0, "x"), ProviderFailure("no", status=400)])
    assert over.ending is Ending.FAILED
    assert len(bench.model.requests) == 1


def test_an_overload_in_the_stream_is_tried_again_while_nothing_was_shown() -> None:
    bench = finished([base.Opened(), base.TextDone(0, ""), BUSY], [*text("done"), *end()])
    assert len(retries(bench)) == 1
    assert bench.sink.told("entry") == ["entry done"]


def test_a_call_whose_id_another_call_has_gets_one_of_its_own() -> None:
    twice = [*call("c"), *call("c"), *call(""), *end("tool_use")]
    bench = finished(twice, [*call("c"), *end("tool_use")], [*text("done"), *end()])
    calls = [item.call_id for item in bench.sink.history if isinstance(item, ToolCall)]
    results = [item.call_id for item in bench.sink.history if isinstance(item, ToolResult)]
    assert calls == ["c", "c-2", "call", "c-3"]
    assert sorted(results) == sorted(calls)


def test_a_turn_that_is_cut_is_told_to_be_over_and_is_not_counted() -> None:
    _, bench = stopped([base.TextDelta(0, "x"), Hang()], when="text_delta")
    assert bench.sink.told("turn", "turn_end") == ["turn interrupted"]


def test_a_tool_that_does_not_end_is_left_and_its_late_result_is_nobodys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "STOP_S", 0.05)

    async def main() -> Bench:
        released, over = asyncio.Event(), asyncio.Event()

        async def stays(call: Call) -> str:
            while not released.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await released.wait()
            call.emit("output", "late")
            over.set()
            return "late"

        bench = Bench(
            [*call("c1", "Stays"), *end("tool_use")], rules=PATIENT, tools=[Custom("Stays", stays)]
        )
        await bench.run_and_stop("starts c1")
        released.set()
        await over.wait()
        await asyncio.sleep(0)
        return bench

    bench = run(main())
    assert bench.sink.told("result", "tool_output_delta") == []
    assert any("a tool did not end" in alert for alert in bench.sink.alerts)


def test_headers_that_do_not_come_are_tried_again_before_the_first_event_is_due() -> None:
    quick = Timeouts(headers_s=0.02, first_event_s=30, idle_s=30)
    rules = QUICK.model_copy(update={"timeouts": quick})
    bench = finished([Hang()], [*text("done"), *end()], rules=rules)
    assert [one.error for one in retries(bench)] == ["no response came for 0.02 s"]


def test_an_adapter_with_a_defect_fails_the_run_as_internal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    over, _ = ended([ZeroDivisionError("oops")])
    assert over.ending is Ending.FAILED
    assert over.error is not None
    assert over.error.code == "internal"
    assert "ZeroDivisionError" in over.error.message
    assert "ZeroDivisionError" in capsys.readouterr().err


# -- turns ---------------------------------------------------------------------------------------


def test_turns_used_up_is_a_limit_after_the_tools_of_the_last_turn() -> None:
    again = [*call("c"), *end("tool_use")]
    rules = QUICK.model_copy(update={"max_turns": 2})
    over, bench = ended(again, again, rules=rules)
    assert (over.ending, over.reason) == (Ending.LIMIT_REACHED, "max_turns")
    assert bench.sink.told("result", "turn_end") == [
        "result c",
        "turn_end",
        "result c-2",
        "turn_end",
    ]


def test_an_answer_without_calls_in_the_last_turn_is_finished() -> None:
    rules = QUICK.model_copy(update={"max_turns": 2})
    finished([*call("c"), *end("tool_use")], [*text("done"), *end()], rules=rules)


def test_max_turns_is_per_run_and_not_over_the_life_of_the_session() -> None:
    async def main() -> None:
        again = [*call("c"), *end("tool_use")]
        plays = [*[again, [*text("done"), *end()]] * 3]
        bench = Bench(*plays, rules=QUICK.model_copy(update={"max_turns": 2}))
        bench.sink.turns = 100
        for _ in range(3):
            assert await bench.run() == DONE
        numbers = [e.turn for e in bench.sink.events if isinstance(e, ev.TurnStart)]
        assert numbers == [101, 102, 103, 104, 105, 106]

    run(main())


# -- stopping ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moves", "output"),
    [
        ([], False),
        ([base.Figures(Usage())], False),
        ([base.TextDone(0, "")], False),
        ([base.TextDelta(0, "x")], True),
        ([base.TextDone(0, "x")], True),
        ([base.ThinkingStart(0)], True),
        ([base.ThinkingDelta(0, "x")], True),
        ([base.ThinkingDone(0, "x")], True),
        ([base.CallStart("c", "Echo")], True),
        ([base.CallArgs("c", "{")], True),
        ([base.CallDone("c", "Echo", "{}")], True),
    ],
)
def test_a_stopped_run_says_whether_anything_was_shown(moves: list[Move], output: bool) -> None:
    async def main() -> RunOver:
        there = asyncio.Event()
        bench = Bench([*moves, there.set, Hang()], rules=PATIENT)
        task = asyncio.create_task(bench.loop.run())
        await there.wait()
        task.cancel()
        return await task

    assert run(main()) == RunOver(Ending.STOPPED, output=output)


def test_a_retry_is_no_output() -> None:
    over, _ = stopped([BUSY], [Hang()], when="llm_retry")
    assert over == RunOver(Ending.STOPPED, output=False)


def test_a_stop_does_not_wait_for_the_next_attempt() -> None:
    later = ProviderFailure("slow down", status=429, retry_after_s=20.0)
    began = time.monotonic()
    over, bench = stopped([later], [Hang()], when="llm_retry")
    assert over == RunOver(Ending.STOPPED, output=False)
    assert len(bench.model.requests) == 1
    assert time.monotonic() - began < 10


def test_drained_notifications_are_no_output() -> None:
    async def main() -> RunOver:
        bench = Bench([Hang()], rules=PATIENT)
        bench.sink.waiting = ["news"]
        return await bench.run_and_stop("llm_call_start")

    assert run(main()) == RunOver(Ending.STOPPED, output=False)


def test_output_is_of_this_run_and_not_of_the_one_before() -> None:
    async def main() -> RunOver:
        bench = Bench([*text("done"), *end()], [Hang()], rules=PATIENT)
        assert await bench.run() == DONE
        bench.sink.seen.clear()
        return await bench.run_and_stop("llm_call_start")

    assert run(main()) == RunOver(Ending.STOPPED, output=False)


def test_stopping_closes_the_stream_and_commits_nothing_of_the_answer() -> None:
    over, bench = stopped(
        [*text("never logged"), *call("c1"), base.TextDelta(1, "x"), Hang()], when="tool_call_done"
    )
    assert over == RunOver(Ending.STOPPED, output=True)
    assert bench.model.closed == 1
    assert bench.sink.told("entry", "usage", "result", "turn_end") == []


def test_blocks_of_a_cancelled_answer_do_not_leak_into_the_next() -> None:
    async def main() -> Bench:
        bench = Bench([*text("old"), *call("old"), Hang()], [*text("new"), *end()], rules=PATIENT)
        await bench.run_and_stop("tool_call_done")
        assert await bench.run() == DONE
        return bench

    bench = run(main())
    assert bench.sink.told("entry") == ["entry new"]
    assert bench.echo.ran == []


def test_stopping_ends_running_tools_and_keeps_the_results_there_are() -> None:
    async def main() -> tuple[RunOver, Bench, list[str]]:
        ended: list[str] = []

        async def forever(_: Call) -> str:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.append("forever")
            return "never"

        bench = Bench(
            [*call("c1", "Forever"), *call("c2"), *end("tool_use")],
            rules=PATIENT,
            tools=[Custom("Forever", forever)],
        )
        return await bench.run_and_stop("result c2"), bench, ended

    over, bench, ended = run(main())
    assert over == RunOver(Ending.STOPPED, output=True)
    assert ended == ["forever"]
    assert bench.sink.told("result", "turn_end") == ["result c2"]


def test_being_asked_to_stop_twice_does_not_disturb_the_first() -> None:
    async def main() -> RunOver:
        stopping = asyncio.Event()
        released = asyncio.Event()

        async def cleans_up(_: Call) -> str:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                stopping.set()
                await released.wait()
            return "never"

        bench = Bench(
            [*call("c1", "CleansUp"), *end("tool_use")],
            rules=PATIENT,
            tools=[Custom("CleansUp", cleans_up)],
        )
        task = asyncio.create_task(bench.loop.run())
        await bench.sink.wait_for("sync")
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        await stopping.wait()
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        released.set()
        return await task

    assert run(main()) == RunOver(Ending.STOPPED, output=True)


# -- with the scripted model ---------------------------------------------------------------------


def test_the_scripted_model_goes_through_the_same_loop() -> None:
    table = Model(
        answers=(
            ScriptedAnswer(
                match="^hi$",
                thinking="hm",
                text="Let me see.",
                tool_calls=(ScriptedCall(name="Echo", arguments={"text": "${pod}"}),),
            ),
            ScriptedAnswer(match="^said alice$", text="Done."),
        )
    )

    async def main() -> Bench:
        places = Places(pod="alice", cwd="/w", workspace="/w", fleet="f", incarnation=1)
        bench = Bench(model=ScriptedModel(table, places))
        assert await bench.run() == DONE
        return bench

    bench = run(main())
    assert bench.echo.ran == ["alice"]
    assert bench.sink.used == {0, 1}
    assert bench.sink.history[-1] == Message(role="assistant", content="Done.")
