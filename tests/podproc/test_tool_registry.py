"""The registry: whatever goes wrong in a call is a result the model can read."""

from __future__ import annotations

import asyncio
import threading
from typing import ClassVar

import pytest
from pydantic import BaseModel, Field

from podproc.tools.base import (
    Call,
    DuplicateTool,
    Registry,
    ToolArgs,
    ToolFailure,
    ToolResult,
    cut_text,
    off_loop,
)
from tests.podproc.tooling import quiet_call, run


class EchoArgs(ToolArgs):
    text: str = "default"
    times: int = Field(1, alias="-n")


class Echo:
    """Says what it is told; some words make it fail."""

    name: ClassVar[str] = "Echo"
    description: ClassVar[str] = "Say something."
    Args: ClassVar[type[EchoArgs]] = EchoArgs

    async def run(self, args: EchoArgs, call: Call) -> ToolResult:
        match args.text:
            case "fail":
                raise ToolFailure("execution_failed", "as asked\nwith more to say")
            case "defect":
                raise KeyError("oops")
            case "cancel":
                raise asyncio.CancelledError
        return ToolResult("said", args.text * args.times)


def registry(**settings: object) -> tuple[Registry, list[Exception]]:
    defects: list[Exception] = []
    made = Registry(on_defect=defects.append, **settings)  # type: ignore[arg-type]
    made.register(Echo(), "podsup")
    return made, defects


def test_arguments_come_as_json_or_parsed_and_by_alias() -> None:
    tools, _ = registry()
    assert run(tools.call("Echo", '{"text": "a", "-n": 3}', quiet_call())).content == "aaa"
    assert run(tools.call("Echo", {"text": "b"}, quiet_call())).content == "b"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"', "[" * 100_000, '{"text": }'])
def test_malformed_arguments_are_an_error_and_never_defaults(text: str) -> None:
    tools, defects = registry()
    result = run(tools.call("Echo", text, quiet_call()))
    assert result.is_error
    assert result.summary.startswith("invalid_argument: the arguments")
    assert not defects


def test_unknown_and_wrong_arguments_are_named() -> None:
    tools, _ = registry()
    result = run(tools.call("Echo", {"texd": "a", "-n": "many"}, quiet_call()))
    assert result.is_error
    assert "texd: Extra inputs are not permitted" in result.summary
    assert "-n: Input should be a valid integer" in result.summary


def test_an_unknown_tool_is_answered_with_the_names_there_are() -> None:
    tools, _ = registry()
    result = run(tools.call("Ecko", {}, quiet_call()))
    assert result.is_error
    assert "'Ecko'" in result.summary
    assert "Echo" in result.summary


def test_two_tools_of_one_name_are_refused_naming_both_owners() -> None:
    tools, _ = registry()
    with pytest.raises(DuplicateTool) as refused:
        tools.register(Echo(), "plugin x")
    assert refused.value.owners == ("podsup", "plugin x")


def test_a_failure_keeps_its_first_line_in_the_summary_and_all_of_it_in_the_content() -> None:
    tools, defects = registry()
    result = run(tools.call("Echo", {"text": "fail"}, quiet_call()))
    assert result.summary == "execution_failed: as asked"
    assert result.content == "as asked\nwith more to say"
    assert not defects


def test_a_defect_is_a_result_and_is_reported() -> None:
    tools, defects = registry()
    result = run(tools.call("Echo", {"text": "defect"}, quiet_call()))
    assert result.summary == "execution_failed: KeyError: 'oops'"
    assert [type(defect) for defect in defects] == [KeyError]


def test_a_cancellation_passes_through() -> None:
    tools, _ = registry()
    with pytest.raises(asyncio.CancelledError):
        run(tools.call("Echo", {"text": "cancel"}, quiet_call()))


def test_a_call_the_policy_refuses_does_not_run() -> None:
    async def refuse(name: str, args: BaseModel) -> str | None:
        return f"{name} is not for you" if args == EchoArgs(text="secret") else None

    tools, _ = registry(policy=refuse)
    refused = run(tools.call("Echo", {"text": "secret"}, quiet_call()))
    assert (refused.summary, refused.is_error) == ("denied: Echo is not for you", True)
    assert run(tools.call("Echo", {"text": "open"}, quiet_call())).content == "open"


def test_content_is_cut_between_characters_and_says_how_much_is_missing() -> None:
    tools, _ = registry(content_limit=8)
    result = run(tools.call("Echo", {"text": "ééééé"}, quiet_call()))
    assert result.content == "éééé\n[2 bytes dropped]"
    assert cut_text("ééé", 3) == "é\n[4 bytes dropped]"
    assert cut_text("plain", 5) == "plain"


def test_a_name_that_is_not_utf8_does_not_break_the_result() -> None:
    assert cut_text("bad \udcff name", 100) == "bad ? name"


def test_schemas_are_sorted_and_strict() -> None:
    tools, _ = registry()
    (schema,) = tools.schemas()
    assert schema.name == "Echo"
    assert schema.parameters["additionalProperties"] is False
    assert set(schema.parameters["properties"]) == {"text", "-n"}


def test_cancelled_work_in_a_thread_is_over_before_the_cancellation_goes_on() -> None:
    async def main() -> list[str]:

        begun, may_end, log = threading.Event(), threading.Event(), list[str]()

        def work() -> None:
            begun.set()
            may_end.wait(10)
            log.append("work ended")

        task = asyncio.create_task(off_loop(work))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        asyncio.get_running_loop().call_later(0.05, may_end.set)
        with pytest.raises(asyncio.CancelledError):
            await task
        log.append("cancelled")
        return log

    assert run(main()) == ["work ended", "cancelled"]
