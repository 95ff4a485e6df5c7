"""A whole pod on a wire in memory: what it promises about disk, wire, restart and end."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from podproc.models import base
from podproc.models.base import ProviderFailure
from protocol import methods as m
from protocol.entries import Message, ToolResult
from protocol.errors import SegmentConflict
from protocol.manifest import Model as ModelTable
from protocol.pod_events import TurnEnded
from protocol.status import RunResult
from protocol.transport.memory import MemoryTransport
from tests.podproc.engines import Hang, Move, PlayedModel, call, end, text
from tests.podproc.pods import EVENTS, RULES, SEGMENT, Home, Life, Sent, alive, drive, say

DONE: list[Move] = [*text("done"), *end()]
SILENT: list[Move] = [Hang()]
TALKING: list[Move] = [base.TextDelta(0, "well"), Hang()]


@pytest.fixture
def house(tmp_path: Path) -> Home:
    return Home(tmp_path)


def script(*answers: dict[str, Any]) -> ModelTable:
    return ModelTable.from_wire({"answers": answers})


def child_ended() -> m.PodEventMethod:
    event = TurnEnded(pod_name="kid", result=RunResult.FINISHED)
    return m.PodEventMethod(event_id="kid.1", event=event)


class Disk:
    """Writes to files of a name fail while it is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, part: str, mark: bytes = b"") -> None:
        self.is_full = False
        self._part, self._mark, self._write = part, mark, os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, fd: int, data: bytes) -> int:
        """Write, or not."""
        path = os.readlink(f"/proc/self/fd/{fd}")
        if self.is_full and self._part in path and self._mark in bytes(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._write(fd, data)


# -- from birth to ready -------------------------------------------------------------------------


def test_nothing_is_announced_before_the_supervisor_has_taken_the_pod(house: Home) -> None:
    async def main() -> None:
        async with alive(house, welcomes=False) as life:
            await life.see("hello")
            assert life.words() == ["hello"]
            assert not house.log.exists()
            life.welcomes = True
            life.ask_who()
            await life.see("status idle")
            assert [word for word in life.words() if word != "tick"] == [
                *("hello", "hello", "status idle"),
            ]

    drive(main())


def test_a_pod_that_nobody_takes_still_leaves_when_it_is_told_to(house: Home) -> None:
    async def main() -> None:
        life = Life(house, welcomes=False)
        await life.see("hello")
        life.pod.leave()
        assert await life.end() == 0

    drive(main())


def test_hello_says_what_the_pod_found(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE)) as life:
            resume = (await life.see("hello")).body["resume"]
            assert (resume["status"], resume.get("session_id"), resume["tasked"]) == (
                *("idle", None, False),
            )
            await life.run("do it", "task")
        async with alive(house, incarnation=2) as life:
            hello = (await life.see("hello")).body
            assert (hello["pod"], hello["incarnation"]) == ("alice", 2)
            resume = hello["resume"]
            assert resume["session_id"]
            assert (resume["turn"], resume["tasked"]) == (1, True)
            assert resume["usage"]["input_tokens"] == 10

    drive(main())


def test_a_pod_names_the_segment_that_it_writes_and_none_before_there_is_one(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE)) as life:
            assert (await life.see("hello")).body["resume"].get("segment_id") is None
            assert life.pod.snapshot().segment_id is None
            await life.run()
            life.ask_who()
            again = (await life.see("hello", 2)).body["resume"]["segment_id"]
            named = {one.body["segment_id"] for one in life.net.sent if "segment_id" in one.body}
            assert named == {again, life.pod.snapshot().segment_id} == {house.log.stem}

    drive(main())


# -- a run ---------------------------------------------------------------------------------------


def test_a_run_is_acknowledged_only_when_its_beginning_is_on_disk(house: Home) -> None:
    on_disk: list[list[str]] = []

    def look(sent: Sent) -> None:
        if sent.what == "reply ok":
            on_disk.append(house.kinds())

    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE)) as life:
            life.net.on_sent = look
            await life.run()

    drive(main())
    assert on_disk[0] == ["segment_start", "invoke", "user_input"]


def test_a_run_is_durable_before_it_is_acknowledged(
    house: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    really = os.fdatasync

    def fdatasync(fd: int) -> None:
        really(fd)
        order.append("durable")

    monkeypatch.setattr(os, "fdatasync", fdatasync)

    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE)) as life:
            life.net.on_sent = lambda sent: order.append(sent.what)
            await life.run()

    drive(main())
    assert order.index("durable") < order.index("invoke_start") < order.index("reply ok")


def test_every_entry_is_on_disk_before_it_is_on_the_wire(house: Home) -> None:
    missing: list[Sent] = []

    def look(sent: Sent) -> None:
        if "index" in sent.body and len(house.entries()) <= sent.body["index"]:
            missing.append(sent)

    async def main() -> None:
        async with alive(
            house, model=PlayedModel([*call("c1", "Glob", '{"pattern":"*"}'), *end()], DONE)
        ) as life:
            life.net.on_sent = look
            await life.run()

    drive(main())
    assert missing == []


def test_a_run_is_told_in_the_order_of_the_protocol(house: Home) -> None:
    async def main() -> list[str]:
        moves = [*text("look"), *call("c1", "Glob", '{"pattern":"*"}'), *end("tool_use")]
        async with alive(house, model=PlayedModel(moves, DONE)) as life:
            await life.ask(m.Notify(message="news", auto_run=False))
            before = len(life.net.sent)
            await life.run()
            return [one.what for one in life.net.sent[before:] if one.what != "tick"]

    assert drive(main()) == [
        *("segment_rotated", "invoke_start", "user_message", "status running", "reply ok"),
        *("turn_start", "system_item", "llm_call_start"),
        *("text_delta", "text_done"),
        *("tool_call_start", "tool_call_args_delta", "tool_call_done"),
        *("entry assistant_item", "entry assistant_item", "entry llm_usage", "usage"),
        *("llm_call_end", "entry tool_result", "tool_result", "entry turn_end", "turn_end"),
        *("turn_start", "llm_call_start", "text_delta", "text_done"),
        *("entry assistant_item", "entry llm_usage", "usage", "llm_call_end"),
        *("entry turn_end", "turn_end", "entry run_completed"),
        *("run_end finished", "status idle"),
    ]


def test_a_subscriber_of_the_log_lane_can_rebuild_the_whole_log(house: Home) -> None:
    async def main() -> list[int]:
        async with alive(house, model=PlayedModel(DONE, DONE)) as life:
            await life.run()
            await life.run()
            return [one.body["index"] for one in life.net.sent if "index" in one.body]

    assert drive(main()) == list(range(len(house.entries())))


ENDINGS: dict[str, tuple[list[Move], m.Method | None, str]] = {
    "finished": (DONE, None, "idle"),
    "limit_reached": ([*text("half"), *end("max_tokens")], None, "idle"),
    "errored": ([ProviderFailure("no such model", status=404)], None, "idle"),
    "paused": (TALKING, m.Pause(), "paused"),
    "cancelled": (TALKING, m.Cancel(), "idle"),
    "rolled_back": (SILENT, m.Cancel(), "idle"),
}


@pytest.mark.parametrize("result", RunResult)
def test_every_run_ends_with_one_run_end_and_then_one_status(
    house: Home, result: RunResult
) -> None:
    moves, stop, status = ENDINGS[result]

    async def main() -> Life:
        async with alive(house, model=PlayedModel(moves)) as life:
            await life.ask(say("hi"), "mine")
            if stop is not None:
                await life.see("text_delta" if moves is TALKING else "llm_call_start")
                await life.ask(stop)
            [told] = await life.ends(1)
            assert told.body["request_id"] == "mine"
        return life

    life = drive(main())
    assert life.words("run_end", "status") == [
        *("status idle", "status running", f"run_end {result}", f"status {status}"),
    ]


def test_one_failure_is_one_error_before_its_run_end(house: Home) -> None:
    async def main() -> Life:
        async with alive(
            house, model=PlayedModel([ProviderFailure("no such model", status=404)])
        ) as life:
            told = await life.run()
            assert told.body["error"]["code"] == "provider_error"
        return life

    life = drive(main())
    assert life.words("error", "run_end") == ["error", "run_end errored"]
    assert life.words("alert") == []
    assert house.entries()[-1]["code"] == "provider_error"


@pytest.mark.parametrize("method", [m.Cancel(), m.Pause()])
def test_a_stop_by_a_person_is_no_error(house: Home, method: m.Method) -> None:
    async def main() -> Life:
        async with alive(house, model=PlayedModel(TALKING)) as life:
            await life.ask(say("hi"))
            await life.see("text_delta")
            await life.ask(method)
            await life.ends(1)
        return life

    assert drive(main()).words("error", "alert") == []


@pytest.mark.parametrize("method", [m.Cancel(), m.Pause()])
def test_a_stop_in_the_very_moment_a_run_is_acknowledged_reaches_it(
    house: Home, method: m.Method
) -> None:
    async def main() -> list[str]:
        async with alive(house, model=PlayedModel(SILENT)) as life:

            def stop(sent: Sent) -> None:
                if sent.what == "reply ok" and sent.id == "mine":
                    life.post(method)

            life.net.on_sent = stop
            life.post(say("hi"), "mine")
            await life.ends(1)
            return life.words("run_end", "status")[-2:]

    assert drive(main()) == ["run_end rolled_back", "status idle"]


def test_a_run_whose_first_append_fails_is_refused_and_nothing_is_published(
    house: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        disk = Disk(monkeypatch, "/sessions/")
        async with alive(house, model=PlayedModel(DONE, DONE)) as life:
            await life.run()
            before, sent = house.log.read_bytes(), len(life.net.sent)
            disk.is_full = True
            refused = await life.ask(say("again"))
            assert refused.what == "reply internal"
            assert "No space left" in refused.body["message"]
            assert [one.what for one in life.net.sent[sent:] if one.what != "tick"] == [
                "reply internal"
            ]
            assert house.log.read_bytes() == before
            disk.is_full = False
            assert (await life.run("again")).what == "run_end finished"

    drive(main())


def test_a_first_run_that_cannot_make_its_session_is_refused(
    house: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        disk = Disk(monkeypatch, "/sessions/")
        async with alive(house, model=PlayedModel(DONE)) as life:
            disk.is_full = True
            assert (await life.ask(say("hi"))).what == "reply internal"
            assert not house.log.exists()
            disk.is_full = False
            assert (await life.run()).what == "run_end finished"

    drive(main())


def test_a_run_whose_log_takes_no_more_runs_no_tool_and_ends_errored(
    house: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        disk = Disk(monkeypatch, "/sessions/")
        arguments = '{"file_path":"made.txt","content":"x"}'

        def fill() -> None:
            disk.is_full = True

        model = PlayedModel([*call("c1", "Write", arguments), fill, *end("tool_use")], DONE)
        async with alive(house, model=model) as life:
            told = await life.run()
            assert told.what == "run_end errored"
            assert life.words("run_end", "status")[-2:] == ["run_end errored", "status idle"]
            disk.is_full = False
            assert not (house.work / "made.txt").exists()
            assert (await life.run("again")).what == "run_end finished"

    drive(main())


def test_a_run_ends_on_the_wire_although_its_inbox_mark_cannot_be_written(
    house: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        disk = Disk(monkeypatch, "inbox", b'"delivered"')
        async with alive(house, model=PlayedModel(DONE, DONE)) as life:
            await life.ask(m.Notify(message="news", auto_run=False))
            disk.is_full = True
            await life.ask(say("hi"))
            await life.ends(1)
            disk.is_full = False

    drive(main())


def test_after_a_failed_fdatasync_the_next_run_goes_on_in_a_new_segment(
    house: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, asked = os.fdatasync, [0]

    def fdatasync(fd: int) -> None:
        asked[0] += 1
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def fail() -> None:
        monkeypatch.setattr(os, "fdatasync", fdatasync)

    async def main() -> None:
        model = PlayedModel([*text("x"), fail, *end()], DONE)
        async with alive(house, model=model) as life:
            assert (await life.run(request_id="first")).what == "run_end errored"
            before = house.log.read_bytes()
            assert asked == [1]
            monkeypatch.setattr(os, "fdatasync", really)
            assert (await life.run("again")).what == "run_end finished"
            assert house.log.read_bytes() == before, "the old file is left alone"
            assert life.claims == [house.segments[1].stem]
        start = house.entries()[0]
        assert start["forked_from"] == {
            "segment_id": SEGMENT,
            "at_turn_index": 1,
            "at_entry": len(house.entries(house.log)),
        }
        shown = [item.content for item in model.requests[-1].items if isinstance(item, Message)]
        assert shown[0] == "hi"
        assert shown[1] == "x"
        assert shown[-1] == "again"
        async with alive(house, incarnation=2, model=PlayedModel(DONE)) as life:
            assert life.told("run_end") == []
            assert (await life.ask(say("hi"), "first")).what == "reply ok", "it is known"
            assert (await life.run("more")).what == "run_end finished"
            assert len(house.segments) == 2

    drive(main())


def test_a_log_that_another_hand_wrote_to_is_left_and_the_next_run_forks(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE, DONE)) as life:
            await life.run()
            with house.log.open("ab") as other:
                other.write(b"not ours\n")
            before = house.log.read_bytes()
            assert (await life.run("again")).what == "run_end finished"
            assert house.log.read_bytes() == before
            assert house.entries()[0]["forked_from"]["segment_id"] == SEGMENT
            assert [one.body["message"] for one in life.told("alert")] == [
                f"the session goes on in segment {house.segments[1].stem}; {house.log} is left "
                "alone: another process wrote to the file"
            ]

    drive(main())


def test_a_fork_that_the_supervisor_refuses_refuses_the_run_and_changes_nothing(
    house: Home,
) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE, DONE)) as life:
            await life.run()
            with house.log.open("ab") as other:
                other.write(b"not ours\n")
            life.on_claim = lambda segment_id: SegmentConflict("somebody has it")
            assert (await life.ask(say("again"))).what == "reply segment_conflict"
            assert house.segments == [house.log]
            life.on_claim = lambda segment_id: None
            assert (await life.run("again")).what == "run_end finished"

    drive(main())


def test_a_segment_that_was_claimed_and_never_made_leaves_the_one_before(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE)) as life:
            await life.run()
        newer = SEGMENT.replace("b1b0", "b1b1")
        birth = house.birth(2).model_copy(update={"segment_id": newer})
        house.birth = lambda incarnation: birth  # type: ignore[method-assign]
        async with alive(house, incarnation=2, model=PlayedModel(DONE)) as life:
            hello = life.told("hello")[0]
            assert hello.body["resume"]["segment_id"] == SEGMENT
            await life.run("again")
        assert house.segments == [house.log]

    drive(main())


# -- the same request again ----------------------------------------------------------------------


def test_a_run_sent_again_has_one_effect_and_the_same_reply(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE)) as life:
            life.post(say("hi"), "mine")
            life.post(say("hi"), "mine")
            await life.ends(1)
            first = [one for one in life.net.sent if one.id == "mine"]
            assert [one.what for one in first] == ["reply ok"]
            again = await life.ask(say("hi"), "mine")
            assert again == first[0]
            assert house.kinds().count("invoke") == 1

    drive(main())


def test_a_run_sent_again_after_a_restart_has_one_effect_and_the_same_reply(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE)) as life:
            first = await life.ask(say("hi"), "mine")
            await life.ends(1)
        before = house.log.read_bytes()
        async with alive(house, incarnation=2) as life:
            assert await life.ask(say("hi"), "mine") == first
            assert house.log.read_bytes() == before
            assert life.words("status") == ["status idle"]

    drive(main())


@pytest.mark.parametrize("method", [m.Notify(message="news", auto_run=False), child_ended()])
def test_a_notification_sent_again_at_once_or_after_a_restart_is_stored_once(
    house: Home, method: m.Method
) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE)) as life:
            first = await life.ask(method, "mine")
            assert await life.ask(method, "mine") == first
            if isinstance(method, m.PodEventMethod):
                await life.ends(1)
        before = house.inbox.read_bytes()
        async with alive(house, incarnation=2) as life:
            assert await life.ask(method, "mine") == first
            assert house.inbox.read_bytes() == before

    drive(main())
    assert house.inbox.read_bytes().count(b'"arrived"') == 1


def test_a_report_is_known_by_its_event_and_not_by_its_request(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE)) as life:
            await life.ask(child_ended(), "one")
            await life.ends(1)
            assert (await life.ask(child_ended(), "two")).what == "reply ok"
            assert len(life.told("run_end")) == 1

    drive(main())


def test_a_refusal_is_the_answer_to_the_same_request_later_too(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(TALKING)) as life:
            assert (await life.ask(m.Cancel(), "early")).what == "reply not_running"
            await life.ask(say("hi"))
            await life.see("text_delta")
            assert (await life.ask(m.Cancel(), "early")).what == "reply not_running"
            assert life.told("run_end") == []

    drive(main())


def test_reads_do_not_make_the_pod_forget_what_it_answered(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(TALKING)) as life:
            assert (await life.ask(m.Cancel(), "early")).what == "reply not_running"
            for _ in range(1001):
                await life.ask(m.ListCompletions(kind="workflow"))
            await life.ask(say("hi"))
            await life.see("text_delta")
            assert (await life.ask(m.Cancel(), "early")).what == "reply not_running"

    drive(main())


# -- crashes -------------------------------------------------------------------------------------


def crashed(house: Home, model: PlayedModel, when: str) -> Home:
    """Run "hi" as "mine"; return what a crash in the moment `when` would leave on disk."""
    left: list[Home] = []

    def look(sent: Sent) -> None:
        if sent.what == when and not left:
            left.append(house.copy("crashed"))

    async def main() -> None:
        async with alive(house, model=model) as life:
            life.net.on_sent = look
            life.post(say("hi"), "mine")
            await life.wait_for(lambda: left, when)

    drive(main())
    return left[0]


def test_a_run_that_a_crash_cut_is_ended_by_the_next_process(house: Home) -> None:
    left = crashed(house, PlayedModel(TALKING), "text_delta")

    async def main() -> None:
        async with alive(left, incarnation=2, model=PlayedModel(DONE)) as life:
            assert life.words("error", "run_end", "status") == [
                *("error", "run_end errored", "status idle"),
            ]
            [told] = life.told("run_end")
            assert told.body["request_id"] == "mine"
            assert told.body["error"]["code"] == "interrupted"
            assert left.entries()[-1]["kind"] == "run_errored"
            await life.run("what now?")
            notes = [e for e in left.entries() if e["kind"] == "system_item"]
            assert [note["item"]["kind"] for note in notes] == ["interrupt"]
            assert "crash" in notes[0]["item"]["body"]

    drive(main())


def test_a_crash_is_closed_once(house: Home) -> None:
    left = crashed(house, PlayedModel(TALKING), "text_delta")

    async def main() -> None:
        async with alive(left, incarnation=2):
            pass
        before = left.log.read_bytes()
        async with alive(left, incarnation=3) as life:
            assert life.told("run_end") == []
        assert left.log.read_bytes() == before

    drive(main())


def test_a_run_that_comes_with_the_welcome_is_not_taken_for_the_one_a_crash_cut(
    house: Home,
) -> None:
    left = crashed(house, PlayedModel(TALKING), "text_delta")

    async def main() -> None:
        life = Life(left, incarnation=2, model=PlayedModel(DONE))
        life.with_welcome = lambda: life.post(say("next"), "next")
        await life.ends(2)
        ends = life.told("run_end")
        assert [(one.what, one.body["request_id"]) for one in ends] == [
            ("run_end errored", "mine"),
            ("run_end finished", "next"),
        ]
        assert await life.end() == 0

    drive(main())


def test_a_dangling_call_is_never_executed_again(house: Home) -> None:
    arguments = '{"file_path":"made.txt","content":"x"}'
    model = PlayedModel([*call("c1", "Write", arguments), *end("tool_use")], DONE)
    left = crashed(house, model, "entry assistant_item")
    assert left.kinds()[-1] == "assistant_item"
    following = PlayedModel(DONE, DONE)

    async def main() -> None:
        async with alive(left, incarnation=2, model=following) as life:
            await life.ask(m.Notify(message="wake up"))
            await life.ends(2)
            await life.run("what now?")

    drive(main())
    assert not (left.work / "made.txt").exists()
    results = [item for item in following.requests[0].items if isinstance(item, ToolResult)]
    assert [(result.call_id, result.is_error) for result in results] == [("c1", True)]
    assert "unknown" in results[0].summary
    assert [entry["kind"] for entry in left.entries()].count("tool_result") == 1


def test_a_crash_before_the_mark_delivers_no_notification_twice(house: Home) -> None:
    left: list[Home] = []

    def look(sent: Sent) -> None:
        if sent.what == "entry run_completed" and not left:
            left.append(house.copy("crashed"))

    async def before() -> None:
        async with alive(house, model=PlayedModel(DONE)) as life:
            life.net.on_sent = look
            await life.ask(m.Notify(message="news"))
            await life.ends(1)

    drive(before())
    assert b'"delivered"' not in left[0].inbox.read_bytes()

    async def after() -> None:
        async with alive(left[0], incarnation=2) as life:
            assert life.words("status") == ["status idle"]

    drive(after())


def test_a_script_goes_on_after_a_restart_where_it_was(house: Home) -> None:
    house.model = script({"text": "one"}, {"text": "two"}, {"text": "three"})

    def said() -> list[str]:
        items = [e["item"] for e in house.entries() if e["kind"] == "assistant_item"]
        return [item["content"] for item in items]

    async def main() -> None:
        for incarnation in (1, 2, 3):
            async with alive(house, incarnation=incarnation) as life:
                await life.run()

    drive(main())
    assert said() == ["one", "two", "three"]


# -- rollback ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [m.Cancel(), m.Pause()])
def test_a_run_without_output_is_taken_back_whole_to_the_byte(
    house: Home, method: m.Method
) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE, SILENT, DONE)) as life:
            await life.run("first")
            await life.ask(m.Notify(message="news", auto_run=False))
            log, inbox = house.log.read_bytes(), house.inbox.read_bytes()
            await life.ask(say("take me back"))
            await life.see("llm_call_start", 2)
            assert house.log.read_bytes() != log
            await life.ask(method)
            told = (await life.ends(2))[-1]
            assert told.body["input"] == [{"kind": "text", "content": "take me back"}]
            assert (house.log.read_bytes(), house.inbox.read_bytes()) == (log, inbox)
            assert life.words("log_cut", "run_end")[-2:] == ["log_cut", "run_end rolled_back"]
            [cut] = life.told("log_cut")
            assert cut.body["head_entries"] == len(house.entries())
            await life.run("again")
            assert "news" in str(life.told("system_item")[-1].body)

    drive(main())


def test_a_resumed_run_without_output_is_not_taken_back(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(TALKING, SILENT, SILENT)) as life:
            await life.ask(say("hi"))
            await life.see("text_delta")
            await life.ask(m.Pause())
            await life.ends(1)
            await life.ask(m.Resume())
            await life.see("llm_call_start", 2)
            await life.ask(m.Pause())
            assert (await life.ends(2))[-1].what == "run_end paused"
            await life.ask(m.Resume())
            await life.see("llm_call_start", 3)
            await life.ask(m.Cancel())
            assert (await life.ends(3))[-1].what == "run_end cancelled"
        assert house.kinds()[-1] == "paused_turn_abandoned"

    drive(main())


# -- paused --------------------------------------------------------------------------------------


async def pause_a_run(life: Life) -> None:
    """Leave the pod paused in a run that has said something."""
    await life.ask(say("hi"), "paused-run")
    await life.see("text_delta")
    await life.ask(m.Pause())
    await life.see("status paused")


async def status_after_restart(house: Home) -> str:
    async with alive(house, incarnation=9) as life:
        return life.words("status")[0]


def test_a_pause_survives_a_restart_and_the_run_goes_on(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(TALKING)) as life:
            await pause_a_run(life)
        async with alive(house, incarnation=2, model=PlayedModel(DONE)) as life:
            assert life.words("status") == ["status paused"]
            assert life.told("run_end") == []
            assert (await life.ask(m.Resume(), "go-on")).what == "reply ok"
            [told] = await life.ends(1)
            assert (told.what, told.body["request_id"]) == ("run_end finished", "go-on")
        assert "system_item" not in house.kinds()

    drive(main())


def test_a_cancelled_pause_is_abandoned_for_good(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(TALKING)) as life:
            await pause_a_run(life)
            assert (await life.ask(m.Cancel())).what == "reply ok"
            assert house.kinds()[-2:] == ["system_item", "paused_turn_abandoned"]
            assert (await life.ask(m.Resume())).what == "reply not_paused"
        assert await status_after_restart(house) == "status idle"

    drive(main())


def test_an_abandonment_that_cannot_be_logged_is_refused_and_the_pod_stays_paused(
    house: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        disk = Disk(monkeypatch, "/sessions/")
        async with alive(house, model=PlayedModel(TALKING, DONE)) as life:
            await pause_a_run(life)
            disk.is_full = True
            assert (await life.ask(m.Cancel())).what == "reply internal"
            disk.is_full = False
            assert (await life.ask(m.Resume())).what == "reply ok"
            await life.see("run_end finished")

    drive(main())


def test_a_fresh_run_closes_the_pause_with_a_note_of_the_true_cause(house: Home) -> None:
    model = PlayedModel([*call("c1", "Glob", '{"pattern":"*"}'), *TALKING], DONE)

    async def main() -> None:
        async with alive(house, model=model) as life:
            await pause_a_run(life)
            await life.run("something else")

    drive(main())
    note = next(e for e in house.entries() if e["kind"] == "system_item")
    assert "user" in note["item"]["body"]
    assert [item.kind for item in model.requests[1].items] == ["message"] * 3


def test_the_run_after_one_that_a_shutdown_cut_is_told_that_cause(house: Home) -> None:
    model = PlayedModel(DONE)

    async def main() -> None:
        async with alive(house, model=PlayedModel(TALKING)) as life:
            await life.ask(say("hi"))
            await life.see("text_delta")
        async with alive(house, incarnation=2, model=model) as life:
            await life.run("go on")

    drive(main())
    note = next(e for e in house.entries() if e["kind"] == "system_item")
    assert "shut down" in note["item"]["body"]
    assert "user" not in note["item"]["body"]


def test_what_a_pod_says_after_a_fresh_run_was_taken_back_is_what_it_is_after_a_restart(
    house: Home,
) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(TALKING, SILENT)) as life:
            await pause_a_run(life)
            await life.ask(say("something else"))
            await life.see("llm_call_start", 2)
            await life.ask(m.Cancel())
            await life.see("run_end rolled_back")
            said = life.words("status")[-1]
        assert await status_after_restart(house) == said == "status idle"

    drive(main())


def test_a_run_refused_while_paused_leaves_the_pod_paused(
    house: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        disk = Disk(monkeypatch, "/sessions/", b'"user_input"')
        async with alive(house, model=PlayedModel(TALKING, DONE)) as life:
            await pause_a_run(life)
            disk.is_full = True
            assert (await life.ask(say("something else"))).what == "reply internal"
            disk.is_full = False
            assert (await life.ask(m.Resume())).what == "reply ok"
            await life.see("run_end finished")

    drive(main())


def test_a_call_that_had_not_started_is_closed_as_one_that_had_no_effect(house: Home) -> None:
    house.engine = RULES.model_copy(update={"max_parallel_tools": 1})
    writes = '{"file_path":"made.txt","content":"x"}'
    moves = [*call("c1", "Read", '{"file_path":"a"}'), *call("c2", "Write", writes), *end()]
    following = PlayedModel(moves, DONE)

    async def main() -> None:
        async with alive(house, model=following) as life:

            def stop(sent: Sent) -> None:
                if sent.what == "llm_call_end":
                    life.post(m.Pause())
                    life.net.on_sent = lambda _: None

            life.net.on_sent = stop
            await life.ask(say("hi"))
            await life.see("status paused")
            await life.ask(m.Resume())
            await life.see("run_end finished")

    drive(main())
    results = [item for item in following.requests[1].items if isinstance(item, ToolResult)]
    assert [result.call_id for result in results] == ["c1", "c2"]
    assert "before it started" in results[1].summary
    assert not (house.work / "made.txt").exists()


# -- rewind --------------------------------------------------------------------------------------


async def targets(life: Life) -> dict[str, Any]:
    return (await life.ask(m.ListRewindTargets())).body


async def rewind(life: Life, preview: str) -> Sent:
    listed = await targets(life)
    row = next(row for row in listed["targets"] if row["preview"] == preview)
    target = m.RewindTargetId(
        segment_id=row["segment_id"], user_input_entry_index=row["user_input_entry_index"]
    )
    return await life.ask(m.RewindTo(target=target, expected_head_entries=listed["head_entries"]))


def test_a_pod_without_a_log_has_no_targets(house: Home) -> None:
    async def main() -> None:
        async with alive(house) as life:
            assert await targets(life) == {"head_entries": 0, "targets": []}

    drive(main())


def test_a_rewind_restores_the_log_to_the_byte_and_gives_the_input_back(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE, DONE, DONE)) as life:
            await life.run("one")
            before = house.log.read_bytes()
            await life.run("two")
            rows = (await targets(life))["targets"]
            assert [(row["preview"], row["turn_index"]) for row in rows] == [("two", 2), ("one", 1)]
            reply = await rewind(life, "two")
            assert reply.what == "reply ok"
            assert reply.body["input"] == [{"kind": "text", "content": "two"}]
            assert reply.body["summary"]["discarded_turns"] == 1
            assert house.log.read_bytes() == before
            assert life.words("log_cut", "rewind_applied", "status", "reply")[-4:] == [
                *("log_cut", "rewind_applied", "status idle", "reply ok"),
            ]

    drive(main())


def test_a_rewind_at_another_head_is_a_conflict(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE)) as life:
            await life.run("one")
            listed = await targets(life)
            target = m.RewindTargetId(
                segment_id=listed["targets"][0]["segment_id"], user_input_entry_index=2
            )
            wrong = m.RewindTo(target=target, expected_head_entries=listed["head_entries"] - 1)
            assert (await life.ask(wrong)).what == "reply conflict"

    drive(main())


def test_only_a_target_whose_discarded_part_ran_tools_has_a_warning(house: Home) -> None:
    moves = [*call("c1", "Glob", '{"pattern":"*"}'), *end("tool_use")]

    async def main() -> None:
        async with alive(house, model=PlayedModel(moves, DONE, DONE)) as life:
            await life.run("with tools")
            await life.run("without")
            rows = (await targets(life))["targets"]
            warned = {row["preview"]: row.get("warning") is not None for row in rows}
            assert warned == {"with tools": True, "without": False}

    drive(main())


def test_what_a_pod_says_after_a_rewind_is_what_it_is_after_a_restart(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(TALKING, DONE)) as life:
            await pause_a_run(life)
            await life.run("something else")
            assert (await rewind(life, "something else")).what == "reply ok"
            said = life.words("status")[-1]
        assert await status_after_restart(house) == said == "status idle"

    drive(main())


# -- notifications -------------------------------------------------------------------------------


def test_a_notification_is_on_disk_when_it_is_answered_and_wakes_an_idle_pod(house: Home) -> None:
    on_disk: list[bytes] = []

    def look(sent: Sent) -> None:
        if sent.what == "reply ok":
            on_disk.append(house.inbox.read_bytes())

    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE)) as life:
            life.net.on_sent = look
            await life.ask(m.Notify(message="news"))
            [told] = await life.ends(1)
            assert told.body.get("request_id") is None

    drive(main())
    assert b"news" in on_disk[0]


def test_what_comes_in_is_shown_once_and_that_is_its_entry(house: Home) -> None:
    def shown(life: Life, words: str) -> list[Sent]:
        return [one for one in life.net.sent if words in str(one.body)]

    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE)) as life:
            await life.ask(m.Notify(message="the news", auto_run=False))
            assert shown(life, "the news") == []
            await life.run("the question")
            [asked], [told] = shown(life, "the question"), shown(life, "the news")
        kinds = house.kinds()
        assert (asked.what, asked.body["index"]) == ("user_message", kinds.index("user_input"))
        assert (told.what, told.body["index"]) == ("system_item", kinds.index("system_item"))

    drive(main())


def test_a_notification_that_waits_is_delivered_by_the_next_process(house: Home) -> None:
    async def main() -> None:
        async with alive(house) as life:
            await life.ask(m.Notify(message="news", auto_run=False))
            assert life.told("run_end") == []
        async with alive(house, incarnation=2, model=PlayedModel(DONE)) as life:
            assert life.words("status") == ["status idle"]
            await life.run()
            assert "news" in str(life.told("system_item")[0].body)

    drive(main())


def test_a_waking_notification_from_before_starts_a_run_at_the_start(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(TALKING)) as life:
            await pause_a_run(life)
            await life.ask(m.Notify(message="news"))
            await life.ask(m.Cancel())
        async with alive(house, incarnation=2, model=PlayedModel(DONE)) as life:
            await life.ends(1)
            assert life.words("run_end", "status") == [
                *("status idle", "status running", "run_end finished", "status idle"),
            ]

    drive(main())


@pytest.mark.parametrize(
    ("method", "trigger"), [(m.Notify(message="news"), "notify"), (child_ended(), "pod_event")]
)
def test_what_comes_after_a_runs_last_request_starts_the_next_without_idle_between(
    house: Home, method: m.Method, trigger: str
) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE, DONE)) as life:

            def late(sent: Sent) -> None:
                if sent.what == "llm_call_end":
                    life.post(method)
                    life.net.on_sent = lambda _: None

            life.net.on_sent = late
            await life.ask(say("hi"))
            await life.ends(2)
            assert life.words("run_end", "status") == [
                *("status idle", "status running", "run_end finished"),
                *("status running", "run_end finished", "status idle"),
            ]
            assert [one.body["trigger"] for one in life.told("invoke_start")] == [
                *("user_send", trigger),
            ]

    drive(main())


# -- watching and reading ------------------------------------------------------------------------


def test_a_snapshot_shows_what_was_published_and_no_more(
    house: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, may_go_on, is_syncing = os.fdatasync, threading.Event(), threading.Event()

    def fdatasync(fd: int) -> None:
        is_syncing.set()
        assert may_go_on.wait(10)
        really(fd)

    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE, DONE)) as life:
            await life.run("one")
            monkeypatch.setattr(os, "fdatasync", fdatasync)
            life.post(say("two"))
            await asyncio.to_thread(is_syncing.wait, 10)
            watcher = MemoryTransport(life.net).subscriber(lambda frames: None)
            watcher.connect(EVENTS)
            watcher.subscribe(b"~hello/n")
            shown = (await life.see("snapshot")).body
            before = len(life.net.sent)
            may_go_on.set()
            await life.ends(2)
            watcher.close()
            later = [one.body["index"] for one in life.net.sent[before:] if "index" in one.body]
            assert shown["head_entries"] == later[0]

    try:
        drive(main())
    finally:
        may_go_on.set()


def test_history_is_answered_in_pages_in_every_status(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE, TALKING)) as life:
            assert (await life.ask(m.GetHistory())).body["entries"] == []
            await life.run()
            await life.ask(say("again"))
            await life.see("text_delta", 2)
            whole = (await life.ask(m.GetHistory())).body
            assert whole["head_entries"] == len(whole["entries"]) == len(house.entries())
            page = m.GetHistory(since=m.HistoryPosition(index=1), limit=2)
            body = (await life.ask(page)).body
            assert (body["first_index"], [e["kind"] for e in body["entries"]]) == (
                *(1, ["invoke", "user_input"]),
            )
            page = m.GetHistory(before=m.HistoryPosition(index=2), limit=1)
            assert (await life.ask(page)).body["entries"][0]["kind"] == "invoke"

    drive(main())


# -- leaving -------------------------------------------------------------------------------------

LEAVE: dict[str, Callable[[Life], object]] = {
    "shutdown": lambda life: life.post(m.ShutdownMethod()),
    "a signal": lambda life: life.pod.leave(),
}


@pytest.mark.parametrize("how", LEAVE)
def test_a_running_pod_ends_its_run_then_says_shutdown_then_joins_its_jobs(
    house: Home, how: str
) -> None:
    async def main() -> Life:
        released = asyncio.Event()
        ended: list[RunResult] = []

        async def job(result: RunResult) -> None:
            await released.wait()
            ended.append(result)

        life = Life(house, model=PlayedModel(SILENT), jobs=(job,))
        await life.see("status idle")
        await life.ask(say("hi"))
        await life.see("llm_call_start")
        LEAVE[how](life)
        await life.see("shutdown")
        assert (await life.ask(say("too late"))).what == "reply unreachable"
        assert (await life.ask(m.Notify(message="too late"))).what == "reply unreachable"
        assert not life.task.done()
        released.set()
        assert await life.end() == 0
        assert ended == [RunResult.CANCELLED]
        return life

    words = drive(main()).words("run_end", "status", "shutdown")
    assert words[-3:] == ["run_end cancelled", "status idle", "shutdown"]
    last = house.entries()[-1]
    assert (last["kind"], last["result"], last["reason"]) == (
        *("run_completed", "cancelled", "shutdown"),
    )
    assert "user_input" in house.kinds()


def test_a_job_that_fails_is_an_error_and_an_alert_and_not_the_end_of_the_pod(house: Home) -> None:
    async def broken(result: RunResult) -> None:
        raise OSError("no such device")

    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE, DONE), jobs=(broken,)) as life:
            await life.run()
            await life.see("alert")
            assert (await life.run("again")).what == "run_end finished"
            assert len(life.told("error")) >= 1

    drive(main())


def test_a_job_that_does_not_end_does_not_keep_the_pod(house: Home) -> None:
    async def forever(result: RunResult) -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        house.stop_grace_s = 0.05
        life = Life(house, model=PlayedModel(DONE), jobs=(forever,))
        await life.see("status idle")
        await life.run()
        assert await life.end() == 0

    drive(main())


def test_a_paused_pod_leaves_as_it_is(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(TALKING)) as life:
            await pause_a_run(life)
            before = house.log.read_bytes()
            await life.ask(m.ShutdownMethod())
            await life.see("shutdown")
        assert house.log.read_bytes() == before
        assert life.words("run_end") == ["run_end paused"]

    drive(main())
