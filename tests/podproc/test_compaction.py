"""Compaction of a whole pod: what it keeps, when it comes by itself, and that nothing is lost."""

from __future__ import annotations

import asyncio
import os
from itertools import pairwise
from pathlib import Path

import pytest

from podproc.engine.history import FILE_NOW
from podproc.models import base
from protocol import methods as m
from protocol.entries import ToolCall, ToolResult
from protocol.errors import SegmentConflict
from protocol.manifest import Compaction
from protocol.transport.memory import MemoryTransport
from protocol.wire import ReplyHeader, message
from tests.podproc.compactions import (
    BY_HAND,
    DONE,
    SUMMARY,
    Minds,
    alerts,
    bulk,
    errors,
    hold_claims,
    inputs,
    lines,
    once,
    reads,
    texts,
    told,
)
from tests.podproc.engines import Hang, Move, call, end, text
from tests.podproc.pods import EVENTS, SEGMENT, Home, Life, alive, drive, say
from tests.podproc.test_pod import Disk, rewind, script
from tests.podproc.test_tasks import PlanningHome

HANGS: list[Move] = [Hang()]
TALKS: list[Move] = [base.TextDelta(0, "well"), Hang()]


@pytest.fixture
def house(tmp_path: Path) -> Home:
    return Home(tmp_path, compaction=BY_HAND)


async def compact(life: Life) -> str:
    """Have it compacted; return how that ended, once the status behind it came."""
    before = len(life.net.sent)
    assert (await life.ask(m.Compact())).what == "reply ok"

    def is_over() -> str | None:
        words = [one.what for one in life.net.sent[before:]]
        ends = [word for word in words if word in ("compact_done", "compact_failed")]
        return ends[0] if ends and words[-1].startswith("status") else None

    return await life.wait_for(is_over, "the end of a compaction")


# -- asked for -----------------------------------------------------------------------------------


def test_a_compaction_puts_a_summary_in_place_of_the_history_and_keeps_its_tail(
    house: Home,
) -> None:
    minds = Minds(DONE, DONE, DONE, DONE, summaries=(SUMMARY,))
    seen_at_claim: list[int] = []

    async def main() -> None:
        async with alive(house, model=minds) as life:
            life.on_claim = lambda segment_id: seen_at_claim.append(len(house.segments))
            await life.run(bulk("first", 2000))
            await life.run(bulk("second", 2000))
            await life.run("third")
            old = house.log.read_bytes()
            before = life.told("usage")[-1].body["context_tokens"]
            start = len(told(life))
            assert await compact(life) == "compact_done"
            assert told(life)[start:] == [
                *("status idle", "compact_start", "segment_rotated"),
                *("compact_done", "status idle"),
            ]
            flags = [one.body["flags"] for one in life.told("status")[-2:]]
            assert flags == [["busy"], []]
            assert house.log.read_bytes().startswith(old), "the old history stays on disk"
            assert seen_at_claim == [1], "it is claimed before it is made"
            assert life.claims == [house.segments[1].stem]
            assert life.told("compact_done")[0].body["new_segment_id"] == life.claims[0]
            after = life.told("usage")[-1].body["context_tokens"]
            assert after < before / 2
            await life.run("fourth")
        assert texts(house)[1:] == ["done", "third", "done"]
        assert house.entries()[0]["compacted_from"] == {
            "segment_id": SEGMENT,
            "at_turn_index": 3,
            "at_entry": len(house.entries(house.log)),
        }
        assert "Nearly all of it." in minds.shown()[0]
        assert minds.shown()[1:] == ["done", "third", "done", "fourth"]

    drive(main())


def test_the_next_process_goes_on_where_the_new_segment_was(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=Minds(DONE, summaries=(SUMMARY,))) as life:
            await life.run(bulk("first", 2000), request_id="task")
            spent = life.told("usage")[-1].body["context_tokens"]
            assert await compact(life) == "compact_done"
        minds = Minds(DONE)
        async with alive(house, incarnation=2, model=minds) as life:
            resume = life.told("hello")[0].body["resume"]
            assert resume["segment_id"] == house.segments[1].stem
            assert (resume["turn"], resume["tasked"]) == (1, True)
            assert resume["context_tokens"] < spent
            assert (await life.ask(say("hi"), "task")).what == "reply ok", "it is known"
            await life.run("second")
            assert len(minds.pod.requests) == 1
            assert "Nearly all" in minds.shown()[0]

    drive(main())


def test_open_tasks_and_agents_md_are_in_the_new_segment(tmp_path: Path) -> None:
    house = PlanningHome(tmp_path, compaction=BY_HAND)
    (house.work / "AGENTS.md").write_text("be careful")
    plan = [
        *call("c1", "TaskCreate", '{"subject":"build it"}'),
        *call("c2", "TaskCreate", '{"subject":"test it"}'),
        *end("tool_use"),
    ]
    over = [*call("c3", "TaskUpdate", '{"id":1,"status":"completed"}'), *end("tool_use")]
    minds = Minds(plan, over, DONE, DONE, summaries=(SUMMARY,))

    async def main() -> None:
        async with alive(house, model=minds) as life:
            await life.run(bulk("first", 2000))
            (house.work / "AGENTS.md").write_text("be bold")
            assert await compact(life) == "compact_done"
            await life.run("second")
        prompts = [one.system_prompt for one in minds.pod.requests]
        assert "be careful" in prompts[0]
        assert "be bold" in prompts[-1]
        tasks = [line for line in minds.shown() if line.startswith("Open tasks")]
        assert len(tasks) == 1
        assert "test it" in tasks[0]
        assert "build it" not in tasks[0]
        kept = {
            entry["domain"]: entry["payload"]
            for entry in house.entries()
            if entry["kind"] == "extension"
        }
        assert [task["status"] for task in kept["tasks"]["tasks"]] == ["completed", "pending"]
        assert "agents_md" in kept

    drive(main())


def test_files_to_read_again_are_shown_within_their_budget_if_they_were_touched(
    house: Home,
) -> None:
    house.compaction = Compaction(auto=False, must_read_tokens=500)
    for name, content in (("a", "A" * 300), ("b", "B" * 5000), ("c", "C" * 300), ("d", "D" * 9)):
        (house.work / f"{name}.txt").write_text(content)
    listed = "\n".join(f"- {house.work}/{name}.txt" for name in "dabc")
    answer = [*text(f"## Done\nAll.\n## Files to read again\n{listed}\n- /etc/passwd"), *end()]
    path = f"{house.work}/{{}}.txt"
    minds = Minds(
        [
            *call("c1", "Read", f'{{"file_path":"{path.format("a")}"}}'),
            *call("c2", "Read", f'{{"file_path":"{path.format("b")}"}}'),
            *call("c3", "Read", f'{{"file_path":"{path.format("c")}"}}'),
            *end("tool_use"),
        ],
        DONE,
        summaries=(answer,),
    )

    async def main() -> None:
        async with alive(house, model=minds) as life:
            await life.run(bulk("first", 2000))
            (house.work / "a.txt").write_text("as it is now")
            assert await compact(life) == "compact_done"

    drive(main())
    shown = [one for one in texts(house) if one.startswith(FILE_NOW)]
    assert len(shown) == 2
    assert path.format("a") in shown[0]
    assert path.format("b") in shown[1]
    assert "as it is now" in shown[0]
    assert "BBBB" in shown[1]
    assert sum(map(len, shown)) < 500 * 4 + 400
    assert "Files to read again" not in texts(house)[0]


def test_the_summariser_may_read_the_old_history_and_its_cost_is_logged(house: Home) -> None:
    looks = [
        *call("h1", "ReadHistory", '{"first":0,"count":2}'),
        *call("h2", "SearchHistory", '{"text":"FIRST"}'),
        *call("h3", "Bash", '{"command":"touch made"}'),
        *end("tool_use"),
    ]
    minds = Minds(DONE, summaries=(looks, SUMMARY))

    async def main() -> None:
        async with alive(house, model=minds) as life:
            await life.run(bulk("first", 2000))
            assert await compact(life) == "compact_done"
            snapshot = life.pod.snapshot()
            assert snapshot.usage.output_tokens == 2 + 2 + 2

    drive(main())
    results = [one for one in minds.summariser.requests[1].items if isinstance(one, ToolResult)]
    assert [one.is_error for one in results] == [False, False, True]
    assert "first xxx" in (results[0].content or "")
    assert "[0] user: first" in (results[1].content or "")
    assert not (house.work / "made").exists()
    spent = [
        (entry.get("purpose"), entry["input_tokens"])
        for entry in house.entries(house.log)
        if entry["kind"] == "llm_usage"
    ]
    assert [purpose for purpose, _ in spent] == [None, "compaction", "compaction"]


@pytest.mark.parametrize("state", ["running", "paused"])
def test_compact_is_refused_while_a_run_is_there(house: Home, state: str) -> None:
    async def main() -> None:
        async with alive(house, model=Minds(TALKS)) as life:
            await life.ask(say("hi"))
            await life.see("text_delta")
            if state == "paused":
                await life.ask(m.Pause())
                await life.see("status paused")
            refusal = await life.ask(m.Compact())
            if state == "running":
                assert refusal.what == "reply already_running"
                assert "compact" in refusal.body["message"]
            else:
                assert refusal.what == "reply invalid_request"
                assert "resume" in refusal.body["message"]
            assert life.words("compact_start") == []

    drive(main())


def test_compact_before_the_first_run_fails_and_the_pod_lives(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=Minds(DONE)) as life:
            assert await compact(life) == "compact_failed"
            assert "nothing to summarise" in errors(life)[0]
            assert (await life.run()).what == "run_end finished"

    drive(main())


# -- nothing is changed --------------------------------------------------------------------------

FAILING: dict[str, tuple[list[list[Move]], str]] = {
    "it fails": ([[base.ProviderFailure("no", retryable=False)]], "no"),
    "it says nothing": ([end()], "empty"),
    "it names files only": ([[*text("## Files to read again\n/a"), *end()]], "empty"),
    "it grows": ([[*text(bulk("long", 3000)), *end()]], "no smaller"),
    "it is cut": ([[*text("## Done"), *end("max_tokens")]], "max_tokens"),
    "it never comes to an end": (
        [[*call(f"h{n}", "ReadHistory", '{"first":0}'), *end("tool_use")] for n in range(12)],
        "max_turns",
    ),
}


@pytest.mark.parametrize("how", FAILING)
def test_a_summary_that_is_of_no_use_changes_nothing(house: Home, how: str) -> None:
    plays, why = FAILING[how]
    minds = Minds(DONE, DONE, summaries=tuple(plays))

    async def main() -> None:
        async with alive(house, model=minds) as life:
            await life.run(bulk("first", 1000))
            before = life.pod._record.state
            assert await compact(life) == "compact_failed"
            assert why in errors(life)[0]
            after = life.pod._record.state
            assert (after.history, after.paused) == (before.history, before.paused)
            assert (house.segments, life.claims) == ([house.log], [])
            assert any(why in one for one in alerts(life))
            spent = after.usage.output_tokens - before.usage.output_tokens
            assert spent == (0 if how == "it fails" else 2 * len(plays)), "what it cost counts"
            await life.run("second")
            assert minds.shown()[0].startswith("first")

    drive(main())
    total = sum(e["output_tokens"] for e in house.entries() if e["kind"] == "llm_usage")
    assert total == 4 + (0 if how == "it fails" else 2 * len(plays))


def test_what_each_request_carries_besides_does_not_make_compactions_without_end(
    auto: Home,
) -> None:
    """What is said of the tools is in the figures and in no history: no summary makes it less."""
    tools = 900
    window = tools * 4 // 3  # the threshold is what the tools take alone
    minds = Minds(*[DONE] * 6, summaries=(SUMMARY,) * 3, window=window, beside=tools)

    async def main() -> None:
        async with alive(auto, model=minds) as life:
            for number in range(6):
                await life.run(f"run {number} {'x' * 400}")
            assert {one.body["error"] for one in life.told("compact_failed")} != set()
            assert not life.told("compact_done")
            assert life.told("compact_start")[3:] == [], "three failures, and no more money"

    drive(main())


def test_figures_that_no_summary_makes_less_do_not_buy_one_before_every_request(
    auto: Home,
) -> None:
    minds = Minds(*[DONE] * 12, summaries=(SUMMARY,) * 12, beside=8000)

    async def main() -> None:
        async with alive(auto, model=minds) as life:
            for number in range(12):
                await life.run(bulk(f"run {number}", 110))
            assert len(life.told("compact_start")) <= 4, "each has 400 tokens to make less of"

    drive(main())


def test_a_segment_that_the_supervisor_refuses_is_not_made(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=Minds(DONE, DONE, summaries=(SUMMARY, SUMMARY))) as life:
            await life.run(bulk("first", 1000))
            life.on_claim = lambda segment_id: SegmentConflict("somebody has it")
            assert await compact(life) == "compact_failed"
            assert "somebody has it" in errors(life)[0]
            assert house.segments == [house.log]
            life.on_claim = lambda segment_id: None
            await life.run("second")
            assert await compact(life) == "compact_done"

    drive(main())


def test_a_full_disk_gives_the_claim_back(house: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, ".jsonl.new")

    async def main() -> None:
        async with alive(house, model=Minds(DONE, DONE, summaries=(SUMMARY,))) as life:
            await life.run(bulk("first", 1000))
            disk.is_full = True
            assert await compact(life) == "compact_failed"
            assert "No space left" in errors(life)[0]
            assert house.segments == [house.log]
            assert len(life.claims) == 2
            assert life.claims[1] == SEGMENT
            assert not list(house.log.parent.glob("*.new"))
            disk.is_full = False
            assert (await life.run("second")).what == "run_end finished"
            assert house.segments == [house.log]

    drive(main())


def test_three_failures_in_a_row_end_it_by_itself_until_one_works_by_hand(house: Home) -> None:
    house.compaction = Compaction()
    fails: list[Move] = [base.ProviderFailure("no", retryable=False)]
    first = Minds(DONE, DONE, DONE, summaries=(fails, fails))
    second = Minds(DONE, DONE, DONE, DONE, summaries=(fails, SUMMARY, SUMMARY))

    async def before() -> None:
        async with alive(house, model=first) as life:
            await life.run(bulk("first", 5000))
            await life.run(bulk("second", 1200))
            await life.run("third")
            assert len(errors(life)) == 2

    async def after() -> None:
        async with alive(house, incarnation=2, model=second) as life:
            await life.run("fourth")
            assert len(errors(life)) == 1
            assert [one for one in alerts(life) if "3 compactions in a row" in one]
            await life.run("fifth")
            assert len(errors(life)) == 1, "none is tried by itself"
            assert len(life.words("compact_start")) == 1
            assert await compact(life) == "compact_done"
            await life.run(bulk("sixth", 4000))
            await life.run(bulk("seventh", 2500))
            assert len(life.words("compact_done")) == 2, "it comes by itself again"

    drive(before())
    drive(after())
    starts = [house.entries(log) for log in house.segments]
    assert [len([e for e in one if e.get("domain") == "compaction"]) for one in starts] == [3, 0, 0]


def test_asking_three_times_where_there_is_nothing_to_summarise_stops_nothing(house: Home) -> None:
    house.compaction = Compaction()

    async def main() -> None:
        async with alive(house, model=Minds(DONE, DONE, summaries=(SUMMARY,))) as life:
            for _ in range(3):
                assert await compact(life) == "compact_failed"
            await life.run(bulk("first", 5500))
            await life.run(bulk("second", 1000))
            assert len(life.words("compact_done")) == 1

    drive(main())


# -- while it is at work -------------------------------------------------------------------------


async def hang(life: Life) -> None:
    """Have it compact, with a summariser that does not come to an end."""
    await life.run(bulk("first", 1000))
    assert (await life.ask(m.Compact())).what == "reply ok"
    await life.see("compact_start")


def test_a_pod_that_compacts_answers_and_is_seen(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=Minds(DONE, DONE, summaries=(HANGS,))) as life:
            await hang(life)
            once(
                life,
                "list_pods",
                lambda: life._router.send(
                    life._route,
                    message(
                        ReplyHeader(id=life.told("list_pods")[0].id, ok=True), m.PodRows(pods=())
                    ),
                ),
            )
            assert (await life.ask(m.ListPods())).what == "reply ok"
            (house.work / "a.txt").touch()
            found = await life.ask(m.ListCompletions(kind="file", prefix="a"))
            assert found.body["entries"][0]["value"] == "a.txt"
            assert (await life.ask(m.GetHistory())).body["head_entries"] == len(house.entries())
            assert (await life.ask(m.ListRewindTargets())).body["targets"] != []
            watcher = MemoryTransport(life.net).subscriber(lambda frames: None)
            watcher.connect(EVENTS)
            watcher.subscribe(b"~hello/n")
            shown = (await life.see("snapshot")).body
            assert (shown["status"], shown["flags"]) == ("idle", ["busy"])
            watcher.close()
            stored = await life.ask(m.Notify(message="news", auto_run=False))
            assert stored.what == "reply ok"
            assert b"news" in house.inbox.read_bytes()
            assert (await life.ask(m.Resume())).what == "reply not_paused"
            assert (await life.ask(m.Pause())).what == "reply not_running"
            again = await life.ask(m.Compact())
            assert again.what == "reply already_running"
            assert "compact" in again.body["message"]
            target = m.RewindTargetId(segment_id=SEGMENT, user_input_entry_index=2)
            rewind = m.RewindTo(target=target, expected_head_entries=6)
            assert (await life.ask(rewind)).what == "reply already_running"

    drive(main())


@pytest.mark.parametrize("works", [True, False])
def test_a_run_that_comes_meanwhile_is_held_and_answered_behind_it(
    house: Home, works: bool
) -> None:
    async def main() -> None:
        minds = Minds(DONE, DONE, summaries=(SUMMARY,))
        async with alive(house, model=minds) as life:
            await life.run(bulk("first", 1000))
            held = hold_claims(life)
            await life.ask(m.Compact())
            await life.see("claim_segment")
            key = life.post(say("held"))
            assert (await life.ask(say("one more"))).what == "reply already_running"
            assert [one for one in life.net.sent if one.id == key] == []
            if not works:
                life.on_claim = lambda segment_id: SegmentConflict("taken")
            held[0]()
            await life.ends(2)
            how = "compact_done" if works else "compact_failed"
            words = [one.what for one in life.net.sent if one.id == key or "reply" not in one.what]
            at = words.index(how)
            assert words[at + 1] == "status idle"
            rest = [one for one in words[at + 2 :] if one in ("reply ok", "status running")]
            assert rest == ["status running", "reply ok"]
            assert inputs(house, house.segments[-1])[-1] == "held"
            assert len(house.segments) == (2 if works else 1)

    drive(main())


def test_a_cancel_ends_a_compaction_and_the_held_run_goes_on(house: Home) -> None:
    summary: list[Move] = [*text("## Done"), *call("h1", "ReadHistory", '{"first":0}')]
    minds = Minds(DONE, DONE, summaries=([*summary, *end("tool_use")], HANGS))

    async def main() -> None:
        async with alive(house, model=minds) as life:
            await hang(life)
            await life.wait_for(lambda: minds.summariser.requests[1:], "the second request")
            key = life.post(say("held"))
            assert (await life.ask(m.Cancel())).what == "reply ok"
            await life.ends(2)
            assert errors(life) == ["cancelled"]
            assert [one.what for one in life.net.sent if one.id == key] == ["reply ok"]
            assert house.segments == [house.log]
            assert inputs(house) == ["first", "held"]
            assert minds.summariser.closed == 2
            kinds = [e.get("purpose") for e in house.entries() if e["kind"] == "llm_usage"]
            assert kinds == [None, "compaction", None], "what it cost is logged"
            assert "compaction" not in [e.get("domain") for e in house.entries()], "no failure"

    drive(main())


def test_a_shutdown_ends_a_compaction_and_refuses_the_held_run(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=Minds(DONE, summaries=(HANGS,))) as life:
            await hang(life)
            key = life.post(say("held"))
            life.post(m.ShutdownMethod())
            assert await asyncio.wait_for(asyncio.shield(life.task), 5) == 0
            assert [one.what for one in life.net.sent if one.id == key] == ["reply unreachable"]
            assert errors(life) == ["cancelled"]
            assert life.words()[-1] == "shutdown"
            assert inputs(house) == ["first"]

    drive(main())


def test_cancels_while_the_segment_is_claimed_come_too_late_however_many(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=Minds(DONE, DONE, summaries=(SUMMARY,))) as life:
            await life.run(bulk("first", 1000))
            held = hold_claims(life)
            await life.ask(m.Compact())
            await life.see("claim_segment")
            for _ in range(3):
                assert (await life.ask(m.Cancel())).what == "reply ok"
            held[0]()
            await life.wait_for(
                lambda: life.words("compact_done", "compact_failed"), "the end of the compaction"
            )
            assert life.words("compact_done", "compact_failed") == ["compact_done"]
            await life.run("second")
            assert inputs(house, house.segments[0]) == ["first"]
            assert inputs(house) == ["second"]

    drive(main())


# -- by itself, before a run ---------------------------------------------------------------------


@pytest.fixture
def auto(tmp_path: Path) -> Home:
    return Home(tmp_path, compaction=Compaction())


def test_a_run_that_would_be_over_the_threshold_begins_with_a_compaction(auto: Home) -> None:
    minds = Minds(DONE, DONE, DONE, summaries=(SUMMARY,))

    async def main() -> None:
        async with alive(auto, model=minds) as life:
            await life.run(bulk("first", 4000))
            start = len(told(life))
            await life.run(bulk("second", 2500), "again")
            assert told(life)[start:] == [
                *("status running", "compact_start", "segment_rotated", "compact_done"),
                *("run_end finished", "status idle"),
            ]
            assert life.told("status")[-2].body["flags"] == []
            assert [*map(len, minds.shown())][1:] == [len("done"), 2500 * 4]
            await life.run("third")
            assert len(life.words("compact_start")) == 1, "one does not follow the other"

    drive(main())
    kinds = auto.kinds()
    at = kinds.index("invoke")
    assert kinds[at : at + 3] == ["invoke", "user_input", "llm_usage"]
    assert auto.entries()[at]["request_id"] == "again"
    start = auto.entries()[0]
    source = start["compacted_from"]["at_entry"]
    assert auto.entries(auto.log)[source]["request_id"] == "again", "it begins there again"
    assert start["carried"]["run_entries"] == len([k for k in kinds[at : at + 3]])


def test_one_compaction_does_not_keep_the_next_from_coming_in_the_same_run(auto: Home) -> None:
    """Pitfall 13: the check was suppressed after a compaction, and the next request overflowed."""
    (auto.work / "big.txt").write_text(lines("B", 5500))
    minds = Minds(DONE, reads("big.txt"), DONE, summaries=(SUMMARY, SUMMARY))

    async def main() -> None:
        async with alive(auto, model=minds) as life:
            await life.run(bulk("first", 4000))
            assert (await life.run(bulk("second", 2500))).what == "run_end finished"
            assert life.words("compact_done", "compact_failed") == ["compact_done"] * 2
            assert life.words("tool_result") == ["tool_result"]

    drive(main())
    assert max(map(minds.tokens, minds.pod.requests)) <= minds.context_window


def test_what_a_summary_has_cost_stays_though_its_run_is_taken_back(auto: Home) -> None:
    looks: list[Move] = [*call("h1", "ReadHistory", '{"first":0}'), *end("tool_use")]
    minds = Minds(DONE, summaries=(looks, HANGS))

    async def main() -> None:
        async with alive(auto, model=minds) as life:
            await life.run(bulk("first", 4000))
            life.post(say(bulk("second", 2500)))
            await life.wait_for(lambda: minds.summariser.requests[1:], "the second request")
            await life.ask(m.Cancel())
            assert (await life.ends(2))[-1].what == "run_end rolled_back"
            assert life.pod._record.state.usage.output_tokens == 2 + 2

    drive(main())
    spent = [e.get("purpose") for e in auto.entries() if e["kind"] == "llm_usage"]
    assert spent == [None, "compaction"]
    assert inputs(auto) == ["first"]


def test_what_is_published_of_a_new_segment_is_what_stands_in_it(auto: Home) -> None:
    async def main() -> None:
        async with alive(auto, model=Minds(DONE, DONE, summaries=(SUMMARY,))) as life:
            await life.run(bulk("first", 4000))
            await life.run(bulk("second", 2500))
            here = auto.segments[1].stem
            told_of = [one.body for one in life.net.sent if one.body.get("segment_id") == here]
            rows = [body for body in told_of if "index" in body]
            assert [body["index"] for body in rows] == list(range(len(auto.entries())))

    drive(main())


@pytest.mark.parametrize("when", ["during", "behind"])
def test_a_cancel_takes_the_run_back_in_whichever_segment_it_is_then(auto: Home, when: str) -> None:
    """Neither the compaction nor the closing of the interruption before is undone."""
    summary = HANGS if when == "during" else SUMMARY
    minds = Minds(
        TALKS,
        HANGS,
        DONE,
        summaries=(summary, SUMMARY),
    )

    async def main() -> None:
        async with alive(auto, model=minds) as life:
            await life.ask(say(bulk("first", 4000)))
            await life.see("text_delta")
            await life.ask(m.Pause())
            await life.see("status paused")
            await life.ask(m.Notify(message="news", auto_run=False))
            life.post(say(bulk("second", 2500)))
            await life.see("compact_start")
            if when == "behind":
                await life.see("compact_done")
                await life.wait_for(lambda: minds.pod.requests[1:], "the request")
            await life.ask(m.Cancel())
            (over,) = (await life.ends(2))[1:]
            assert over.what == "run_end rolled_back"
            assert over.body["input"][0]["content"].startswith("second")
            await life.wait_for(lambda: life.words("status")[-1] == "status idle", "idle")
            assert len(auto.segments) == (1 if when == "during" else 2)
            kinds = auto.kinds()
            assert kinds[-1] == "paused_turn_abandoned"
            assert inputs(auto, auto.segments[-1]) == (["first"] if when == "during" else [])
            if when == "during":
                notes = [e for e in auto.entries() if e.get("item", {}).get("kind") == "interrupt"]
                assert len(notes) == 1
            assert not life.pod._record.state.note_due
            assert errors(life) == (["cancelled"] if when == "during" else [])
            state = life.pod._record.state
        async with alive(auto, incarnation=2, model=minds) as life:
            assert life.words("status", "run_end") == ["status idle"]
            again = life.pod._record.state
            assert (again.history, again.usage) == (state.history, state.usage)
            assert "news" in str(life.pod._inbox._waiting), "it waits again"

    drive(main())


def test_a_cancel_while_the_segment_is_claimed_tells_what_became_of_both(auto: Home) -> None:
    async def main() -> None:
        async with alive(auto, model=Minds(DONE, DONE, summaries=(SUMMARY,))) as life:
            await life.run(bulk("first", 4000))
            held = hold_claims(life)
            life.post(say(bulk("second", 2500)))
            await life.see("claim_segment")
            await life.ask(m.Cancel())
            held[0]()
            over = (await life.ends(2))[-1]
            assert over.what == "run_end rolled_back"
            assert life.words("compact_done", "compact_failed") == ["compact_done"]
            assert len(auto.segments) == 2
            assert inputs(auto) == []
            await life.run("third")
            assert inputs(auto) == ["third"]

    drive(main())


def test_a_full_disk_does_not_make_a_run_go_on_that_was_cancelled(
    auto: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, ".jsonl", b'"purpose":"compaction"')
    looks: list[Move] = [*call("h1", "ReadHistory", '{"first":0}'), *end("tool_use")]
    minds = Minds(DONE, DONE, summaries=(looks, HANGS))

    async def main() -> None:
        async with alive(auto, model=minds) as life:
            await life.run(bulk("first", 4000))
            life.post(say(bulk("second", 2500)))
            await life.wait_for(lambda: minds.summariser.requests[1:], "the second request")
            disk.is_full = True
            await life.ask(m.Cancel())
            over = (await life.ends(2))[-1]
            disk.is_full = False
            assert over.what == "run_end rolled_back"
            assert errors(life) == ["cancelled"]
            assert len(minds.pod.requests) == 1
            assert any("No space left" in one for one in alerts(life))

    drive(main())


def test_a_failure_before_the_run_does_not_outlive_the_success_in_it(auto: Home) -> None:
    """Three in a row: what has worked begins to count anew, in whatever order they came.

    What failed is not bought again of the same history: first something has to be shown.
    """
    fails: list[Move] = [base.ProviderFailure("no", retryable=False)]
    looks: list[Move] = [*call("c1", "Glob", '{"pattern":"*"}'), *end("tool_use")]

    async def main() -> None:
        minds = Minds(DONE, looks, DONE, summaries=(fails, SUMMARY))
        async with alive(auto, model=minds) as life:
            await life.run(bulk("first", 5000))
            await life.run(bulk("second", 2500))
            told = life.words("compact_failed", "compact_done", "tool_result")
            assert told == ["compact_failed", "tool_result", "compact_done"]
            assert life.pod._compactor.failures == 0

    drive(main())


def test_an_input_that_is_over_the_threshold_alone_starts_no_compaction(auto: Home) -> None:
    async def main() -> None:
        async with alive(auto, model=Minds(DONE)) as life:
            assert (await life.run(bulk("first", 7400))).what == "run_end finished"
            assert life.words("compact_start") == []

    drive(main())


def test_a_shutdown_during_it_ends_the_run_and_keeps_its_input(auto: Home) -> None:
    async def main() -> None:
        async with alive(auto, model=Minds(DONE, summaries=(HANGS,))) as life:
            await life.run(bulk("first", 4000))
            life.post(say(bulk("second", 2500)))
            await life.see("compact_start")
            life.post(m.ShutdownMethod())
            assert await asyncio.wait_for(asyncio.shield(life.task), 5) == 0
            assert life.told("run_end")[-1].body["reason"] == "shutdown"
            assert inputs(auto) == ["first", "second"]

    drive(main())


# -- by itself, between turns --------------------------------------------------------------------


def test_a_run_that_grows_over_the_request_threshold_goes_on_in_a_new_segment(auto: Home) -> None:
    (auto.work / "big.txt").write_text(lines("B", 7500))
    crashed: list[Home] = []
    minds = Minds(reads("big.txt"), DONE, DONE, summaries=(SUMMARY,))

    async def main() -> None:
        async with alive(auto, model=minds) as life:
            once(life, "compact_done", lambda: crashed.append(auto.copy("crashed")))
            assert (await life.run("read it", "r")).what == "run_end finished"
            assert told(life) == [
                *("status idle", "segment_rotated", "status running", "compact_start"),
                *("segment_rotated", "compact_done", "run_end finished", "status idle"),
            ]
            assert "Nearly all" in minds.shown(1)[0]
        everything = [entry for log in auto.segments for entry in auto.entries(log)]
        kinds = [entry["kind"] for entry in everything]
        assert kinds.count("tool_result") == 1, "no tool runs twice"
        assert kinds.count("user_input") == kinds.count("invoke") == 1
        assert auto.kinds()[-1] == "run_completed"
        assert "run_completed" not in [e["kind"] for e in auto.entries(auto.log)]
        assert auto.entries()[0]["carried"]["open_run"]["request_id"] == "r"
        async with alive(auto, incarnation=2, model=minds) as life:
            assert life.words("run_end") == []
            assert life.words("status") == ["status idle"]

    async def after_the_crash() -> None:
        (left,) = crashed
        for incarnation in (2, 3):
            async with alive(left, incarnation=incarnation, model=Minds(DONE)) as life:
                ends = [one.body["request_id"] for one in life.told("run_end")]
                assert ends == (["r"] if incarnation == 2 else []), "it is closed once"
                assert (await life.ask(say("x"), "r")).what == "reply ok"
                assert life.words("invoke_start") == []
        assert left.kinds().count("run_errored") == 1
        assert len(left.segments) == 2

    drive(main())
    drive(after_the_crash())


def test_a_resumed_run_between_turns_keeps_its_kind(auto: Home) -> None:
    (auto.work / "big.txt").write_text(lines("B", 7500))
    minds = Minds(TALKS, reads("big.txt"), HANGS, DONE, summaries=(SUMMARY,))

    async def main() -> None:
        async with alive(auto, model=minds) as life:
            await life.ask(say("read it"))
            await life.see("text_delta")
            await life.ask(m.Pause())
            await life.see("status paused")
            await life.ask(m.Resume())
            await life.see("compact_done")
            await life.ask(m.Pause())
            await life.see("status paused", 2)
        async with alive(auto, incarnation=2, model=minds) as life:
            assert life.words("status") == ["status paused"]
            await life.ask(m.Resume())
            await life.see("run_end finished")

    drive(main())


def many_reads(home: Home, turns: int, each: int = 2) -> list[list[Move]]:
    """Return turns that read files, small enough to be shown however old they are."""
    out: list[list[Move]] = []
    for turn in range(turns):
        moves: list[Move] = []
        for number in range(turn * each, (turn + 1) * each):
            (home.work / f"{number}.txt").write_text(lines(chr(97 + number), 240))
            moves += call(f"c{number}", "Read", f'{{"file_path":"{number}.txt"}}')
        out.append([*moves, *end("tool_use")])
    return out


def results_of(request: base.ModelRequest) -> list[ToolResult]:
    """Return the results that a request shows; each stands with its call."""
    calls = [one.call_id for one in request.items if isinstance(one, ToolCall)]
    results = [one for one in request.items if isinstance(one, ToolResult)]
    assert [one.call_id for one in results] == calls
    assert all(one.summary for one in results)
    return results


def test_where_no_summary_can_be_had_the_oldest_bodies_go_and_the_run_has_an_answer(
    auto: Home,
) -> None:
    """Pitfall 13: the next request went over the window, and nothing was said to be finished."""
    fails: list[Move] = [base.ProviderFailure("no", retryable=False)]
    plays = many_reads(auto, 6)
    minds = Minds(*plays, DONE, summaries=(fails,) * 3)

    async def main() -> None:
        async with alive(auto, model=minds) as life:
            assert (await life.run(bulk("read", 6000))).what == "run_end finished"
            assert len(errors(life)) == 3
            over = [one for one in alerts(life) if "over the model's window" in one]
            assert len(over) == 1, "told once in a run"

    drive(main())
    assert minds.shown()[0].startswith("read")
    assert max(map(minds.tokens, minds.pod.requests)) <= minds.context_window
    last = results_of(minds.pod.requests[-1])
    assert last[0].content is None
    assert "l" * 20 in (last[-1].content or ""), "the newest body is there"


@pytest.mark.parametrize("bytes_per_token", [2.5, 4.0, 5.0])
def test_what_was_left_out_of_one_request_is_not_back_in_the_next(
    house: Home, bytes_per_token: float
) -> None:
    """The figures of a request that was cut are small; the history that it was cut from is not."""
    plays = many_reads(house, 12)
    minds = Minds(*plays[:6], DONE, *plays[6:], DONE, window=4000, bytes_per_token=bytes_per_token)

    async def main() -> None:
        async with alive(house, model=minds) as life:
            await life.run("read " + "x" * int(2500 * bytes_per_token))
            await life.run("more")

    drive(main())
    sizes = [minds.tokens(one) for one in minds.pod.requests]
    new = 2 * 1200 * (1 / bytes_per_token - 1 / 4)
    assert max(sizes) <= minds.context_window * 1.01 + max(0, new), sizes
    assert min(sizes[6:]) > minds.context_window * 0.6, "no more goes than has to"
    bare = [
        [one.call_id for one in results_of(request) if one.content is None]
        for request in minds.pod.requests
    ]
    for before, after in pairwise(bare):
        assert after[: len(before)] == before
    assert bare[-1], "something was left out"


def test_the_next_process_leaves_out_again_what_does_not_fit(house: Home) -> None:
    plays = many_reads(house, 8)
    minds = Minds(*plays, DONE, window=4000)
    after = Minds(DONE, window=4000)

    async def main() -> None:
        async with alive(house, model=minds) as life:
            await life.run("read " + "x" * 10_000)
        async with alive(house, incarnation=2, model=after) as life:
            await life.run("more")

    drive(main())
    assert after.tokens(after.pod.requests[0]) <= 4000


def test_after_a_rewind_to_where_something_was_left_out_it_is_left_out_again(house: Home) -> None:
    plays = many_reads(house, 8)
    minds = Minds(*plays, DONE, DONE, DONE, DONE, window=4000)

    async def main() -> None:
        async with alive(house, model=minds) as life:
            await life.run("read " + "x" * 10_000)
            await life.run("more")
            await life.run("and more")
            assert (await rewind(life, "more")).what == "reply ok"
            await life.run("other")

    drive(main())
    assert minds.tokens(minds.pod.requests[-1]) <= 4000


def test_after_a_rewind_all_is_shown_that_fits(house: Home) -> None:
    plays = many_reads(house, 8)
    minds = Minds(plays[0], DONE, *plays[1:], DONE, DONE, window=4000)

    async def main() -> None:
        async with alive(house, model=minds) as life:
            await life.run("read " + "x" * 10_000)
            await life.run("more")
            assert results_of(minds.pod.requests[-1])[0].content is None
            assert (await rewind(life, "more")).what == "reply ok"
            await life.run("other")

    drive(main())
    assert all(one.content for one in results_of(minds.pod.requests[-1]))


def test_each_answer_that_a_summary_has_used_up_is_used_up(house: Home) -> None:
    house.model = script(
        {"text": "hello"},
        {
            "match": "Write the summary now",
            "tool_calls": [{"name": "ReadHistory", "arguments": {"first": 0}}],
        },
        {"match": "items from", "text": "## Done"},
    )

    async def main() -> None:
        async with alive(house) as life:
            await life.run(bulk("first", 1000))
            assert await compact(life) == "compact_done"
            assert house.entries()[0]["carried"]["used_answers"] == [0, 1, 2]

    drive(main())


# -- notifications -------------------------------------------------------------------------------


async def waiting_after(home: Home, incarnation: int) -> list[str]:
    """Restart a pod and return the notifications that its model is shown, over all requests."""
    minds = Minds(DONE)
    async with alive(home, incarnation=incarnation, model=minds) as life:
        await life.run("what is new?")
    return [one for one in minds.shown() if one == "news"]


def test_a_notification_that_a_crash_left_unmarked_is_not_delivered_again_behind_a_compaction(
    house: Home,
) -> None:
    left: list[Home] = []

    async def main() -> None:
        async with alive(house, model=Minds(DONE, DONE)) as life:
            await life.run(bulk("first", 1000))
            await life.ask(m.Notify(message="news", auto_run=False))
            once(life, "entry run_completed", lambda: left.append(house.copy("crashed")))
            await life.run("second")
        assert b'"delivered"' not in left[0].inbox.read_bytes()
        async with alive(left[0], incarnation=2, model=Minds(summaries=(SUMMARY,))) as life:
            assert await compact(life) == "compact_done"
        assert await waiting_after(left[0], 3) == ["news"], "in the tail, and once"

    drive(main())


def test_a_mark_that_could_not_be_written_is_made_up_for(
    house: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, "inbox.jsonl", b'"delivered"')

    async def main() -> None:
        async with alive(house, model=Minds(DONE, DONE, summaries=(SUMMARY,))) as life:
            await life.run(bulk("first", 1000))
            await life.ask(m.Notify(message="news", auto_run=False))
            disk.is_full = True
            await life.run("second")
            assert await compact(life) == "compact_done"
            disk.is_full = False
        assert await waiting_after(house, 2) == ["news"], "in the tail, and once"
        assert b'"delivered"' in house.inbox.read_bytes()

    drive(main())


def test_a_notification_of_a_run_whose_end_was_lost_goes_along_when_the_session_forks(
    house: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.fdatasync

    def fdatasync(fd: int) -> None:
        raise OSError(5, "Input/output error")

    def fail() -> None:
        monkeypatch.setattr(os, "fdatasync", fdatasync)

    async def main() -> None:
        minds = Minds(DONE, [*text("x"), fail, *end()], DONE)
        async with alive(house, model=minds) as life:
            await life.run("first")
            await life.ask(m.Notify(message="news", auto_run=False))
            await life.run("more")
            assert life.words("run_end")[-1] == "run_end errored"
            monkeypatch.setattr(os, "fdatasync", really)
            await life.run("second")
            assert len(house.segments) == 2
            assert minds.shown().count("news") == 1
        assert await waiting_after(house, 2) == ["news"], "in the history, and once"

    drive(main())
