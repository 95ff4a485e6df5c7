"""Rewinding over several segments: what there is to go back to, and what is there again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from podproc.rewinding import PREVIEW
from protocol import methods as m
from protocol.entries import UnknownEntry
from protocol.errors import SegmentConflict
from protocol.manifest import Compaction
from protocol.session.line import decode_line, encode_line
from tests.podproc.compactions import (
    BY_HAND,
    DONE,
    SUMMARY,
    Minds,
    alerts,
    bulk,
    hold_claims,
    inputs,
    once,
    reads,
)
from tests.podproc.engines import call, end
from tests.podproc.pods import SEGMENT, Home, Life, Sent, alive, drive, say
from tests.podproc.test_compaction import compact
from tests.podproc.test_pod import TALKING, Disk, rewind, script, targets
from tests.podproc.test_tasks import PlanningHome


@pytest.fixture
def house(tmp_path: Path) -> Home:
    return Home(tmp_path, compaction=BY_HAND)


async def previews(life: Life) -> list[tuple[str, int, bool]]:
    """Return the targets as (first word, number, has a warning)."""
    return [
        (row["preview"].split()[0], row["turn_index"], row.get("warning") is not None)
        for row in (await targets(life))["targets"]
    ]


async def back(life: Life, word: str) -> Sent:
    """Rewind to the newest input that begins with a word."""
    rows = (await targets(life))["targets"]
    return await rewind(life, next(r["preview"] for r in rows if r["preview"].startswith(word)))


def history(life: Life) -> list[str]:
    """Return what the model would be asked with, in first words."""
    items = [item.to_wire() for item in life.pod._record.state.history]
    return [str(item.get("content") or item["kind"]).split()[0] for item in items]


# -- targets -------------------------------------------------------------------------------------


def test_targets_are_those_of_all_segments_newest_first_and_numbered_from_the_oldest(
    house: Home,
) -> None:
    plays = [reads("x"), DONE, DONE, DONE, reads("x", "c2"), DONE]
    minds = Minds(*plays, summaries=(SUMMARY, SUMMARY))

    async def main() -> None:
        async with alive(house, model=minds) as life:
            await life.run(bulk("first", 1000))
            await life.run(bulk("second", 1000))
            assert await compact(life) == "compact_done"
            await life.run(bulk("third", 1000))
            assert await compact(life) == "compact_done"
            await life.run("fourth")
            assert await previews(life) == [
                *(("fourth", 4, True), ("third", 3, True)),
                *(("second", 2, True), ("first", 1, True)),
            ]
            rows = (await targets(life))["targets"]
            assert [row["segment_id"] for row in rows] == [
                *(house.segments[2].stem, house.segments[1].stem, SEGMENT, SEGMENT)
            ]
            assert all(len(row["preview"]) <= PREVIEW for row in rows)
            for row in rows:
                log = house.log.with_name(f"{row['segment_id']}.jsonl")
                entry = house.entries(log)[row["user_input_entry_index"]]
                assert entry["kind"] == "user_input"
                assert entry["ts"] == row["timestamp_ms"]
                assert entry["segments"][0]["content"].startswith(row["preview"])

    drive(main())


def test_only_what_goes_is_warned_of(house: Home) -> None:
    minds = Minds(reads("x"), DONE, DONE, DONE, summaries=(SUMMARY,))

    async def main() -> None:
        async with alive(house, model=minds) as life:
            await life.run(bulk("first", 1000))
            await life.run("second")
            assert await compact(life) == "compact_done"
            await life.run("third")
            assert await previews(life) == [
                *(("third", 3, False), ("second", 2, False), ("first", 1, True))
            ]
            reply = await back(life, "second")
            assert reply.body["summary"]["tools_ran"] == 0
            reply = await back(life, "first")
            assert reply.body["summary"]["tools_ran"] == 1

    drive(main())


@pytest.mark.parametrize("shown", [False, True])
def test_a_run_that_went_on_in_another_segment_is_one_target(house: Home, shown: bool) -> None:
    house.compaction = Compaction()
    (house.work / "big.txt").write_text("B" * 70 + "\n")
    minds = Minds(DONE, reads("big.txt"), DONE, DONE, summaries=(SUMMARY,))
    if shown:
        (house.work / "big.txt").write_text(("B" * 73 + "\n") * 375)

    async def main() -> None:
        async with alive(house, model=minds) as life:
            await life.run("first" if shown else bulk("first", 4000))
            await life.run(bulk("second", 10 if shown else 2500))
            assert len(house.segments) == 2
            await life.run("third")
            assert [name for name, _, _ in await previews(life)] == ["third", "second", "first"]
            before = house.segments[0].read_bytes()
            reply = await back(life, "second")
            assert reply.what == "reply ok"
            assert reply.body["input"][0]["content"].startswith("second")
            assert reply.body["summary"] == {
                "discarded_entries": reply.body["summary"]["discarded_entries"],
                "discarded_turns": 3,
                "tools_ran": 1,
            }
            assert house.segments[0].read_bytes() == before
            assert len(house.segments) == (3 if shown else 2)
            assert history(life) == (["first", "done"] if shown else ["The", "done"])
            assert [name for name, _, _ in await previews(life)] == ["first"]

    drive(main())


# -- to an earlier segment -----------------------------------------------------------------------


def test_a_rewind_past_a_compaction_makes_the_session_what_it_was_then(tmp_path: Path) -> None:
    house = PlanningHome(tmp_path, compaction=BY_HAND)
    plan = [*call("c1", "TaskCreate", '{"subject":"build it"}'), *end("tool_use")]
    over = [*call("c2", "TaskUpdate", '{"id":1,"status":"completed"}'), *end("tool_use")]
    minds = Minds(plan, DONE, DONE, over, DONE, DONE, DONE, summaries=(SUMMARY,))

    async def main() -> None:
        async with alive(house, model=minds) as life:
            await life.run(bulk("first", 1000), request_id="one")
            then = life.pod._record.state
            was = house.log.read_bytes()
            await life.run("second", request_id="two")
            assert await compact(life) == "compact_done"
            await life.run("third", request_id="three")
            assert "completed" in str(life.pod._record.kept("tasks"))
            old = {log: log.read_bytes() for log in house.segments}
            start = len(life.net.sent)
            reply = await back(life, "second")
            assert reply.what == "reply ok"
            words = [one.what for one in life.net.sent[start:]]
            assert [w for w in words if w in ("log_cut", "segment_rotated", "rewind_applied")] == [
                *("segment_rotated", "rewind_applied")
            ]
            assert words[-3:] == ["rewind_applied", "status idle", "reply ok"]
            assert {log: log.read_bytes() for log in old} == old, "the old ones are left alone"
            new = house.segments[-1]
            assert life.claims[-1] == new.stem == reply.body["segment_id"]
            assert reply.body["head_entries"] == len(house.entries(new))
            assert house.entries(new)[0]["forked_from"] == {
                "segment_id": SEGMENT,
                "at_turn_index": 2,
                "at_entry": was.count(b"\n"),
            }
            now = life.pod._record.state
            for name in ("history", "turn_count", "usage", "used_answers", "system_prompt"):
                assert getattr(now, name) == getattr(then, name), name
            assert now.request_ids == ("one",)
            assert "pending" in str(life.pod._record.kept("tasks"))
            assert reply.body["summary"]["discarded_turns"] == 3
            await life.run("other")
        again = Minds(DONE)
        async with alive(house, incarnation=2, model=again) as life:
            await life.run("more")
            assert history(life)[0] == "first"
            assert [name for name, _, _ in await previews(life)] == ["more", "other", "first"]

    drive(main())


def test_scripted_answers_that_were_not_used_then_are_to_be_had_again(house: Home) -> None:
    house.model = script(
        *({"text": text} for text in ("one", "two", "three")),
        {"match": "Write the summary now", "text": "## Done"},
    )

    async def main() -> None:
        async with alive(house) as life:
            await life.run(bulk("first", 1000))
            await life.run("second")
            assert await compact(life) == "compact_done"
            await life.run("third")
            assert history(life)[-1] == "three"
            await back(life, "second")
            await life.run("again")
            assert history(life)[-1] == "two"

    drive(main())


def test_a_rewind_after_a_rewind_goes_along_the_line_that_is_left(house: Home) -> None:
    minds = Minds(*[DONE] * 7, summaries=(SUMMARY, SUMMARY))

    async def main() -> None:
        async with alive(house, model=minds) as life:
            await life.run(bulk("first", 1000))
            await life.run("second")
            assert await compact(life) == "compact_done"
            await life.run("third")
            await back(life, "second")
            await life.run("fourth")
            assert await compact(life) == "compact_done"
            await life.run("fifth")
            names = [name for name, _, _ in await previews(life)]
            assert names == ["fifth", "fourth", "first"]
            await back(life, "fourth")
            assert [name for name, _, _ in await previews(life)] == ["first"]
            await life.run("sixth")
            await back(life, "first")
            assert await previews(life) == []
            assert history(life) == []
            await life.run("seventh")
            assert await previews(life) == [("seventh", 1, False)]

    drive(main())


def test_a_paused_run_before_the_target_is_given_up(house: Home) -> None:
    minds = Minds(TALKING, DONE, DONE, summaries=(SUMMARY,))

    async def main() -> None:
        async with alive(house, model=minds) as life:
            await life.ask(say(bulk("first", 1000)))
            await life.see("text_delta")
            await life.ask(m.Pause())
            await life.see("status paused")
            await life.run("second")
            assert await compact(life) == "compact_done"
            assert (await back(life, "second")).what == "reply ok"
            assert life.words("status")[-1] == "status idle"
            assert house.kinds()[-1] == "paused_turn_abandoned"
        async with alive(house, incarnation=2, model=minds) as life:
            assert life.words("status") == ["status idle"]
            assert (await life.ask(m.Resume())).what == "reply not_paused"

    drive(main())


# -- refused, and nothing changed ----------------------------------------------------------------


def asked_for(target: dict[str, Any], head: int, **changes: Any) -> m.RewindTo:
    where = {key: target[key] for key in ("segment_id", "user_input_entry_index")}
    return m.RewindTo(target=m.RewindTargetId(**{**where, **changes}), expected_head_entries=head)


def test_what_is_stale_or_no_target_is_refused(house: Home) -> None:
    minds = Minds(DONE, DONE, DONE, summaries=(SUMMARY,))

    async def main() -> None:
        async with alive(house, model=minds) as life:
            await life.run(bulk("first", 1000))
            await life.run("second")
            listed = await targets(life)
            assert await compact(life) == "compact_done"
            await life.run("third")
            old = listed["targets"][0]
            stale = await life.ask(asked_for(old, listed["head_entries"]))
            assert stale.what == "reply conflict"
            head = (await targets(life))["head_entries"]
            for changes in (
                {"user_input_entry_index": old["user_input_entry_index"] + 1},
                {"user_input_entry_index": -1},
                {"user_input_entry_index": 10**9},
                {"segment_id": house.segments[1].stem},
                {"segment_id": "no such segment"},
                {"segment_id": "../../x"},
            ):
                refusal = await life.ask(asked_for(old, head, **changes))
                assert refusal.what == "reply invalid_request", changes
            assert life.words("rewind_applied", "log_cut") == []
            assert len(house.segments) == 2
            assert (await life.ask(asked_for(old, head))).what == "reply ok"

    drive(main())


REFUSING: dict[str, Callable[[Home, Life, Disk], object]] = {
    "the supervisor": lambda house, life, disk: setattr(
        life, "on_claim", lambda segment_id: SegmentConflict("somebody has it")
    ),
    "the disk": lambda house, life, disk: setattr(disk, "is_full", True),
    "a damaged log": lambda house, life, disk: (
        house.log.write_bytes(house.log.read_bytes().replace(b'"turn_end"', b'"turn_END"', 1))
        and None
    ),
}


@pytest.mark.parametrize("who", REFUSING)
def test_a_rewind_that_cannot_be_done_changes_nothing(
    house: Home, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    minds = Minds(DONE, DONE, DONE, DONE, summaries=(SUMMARY,))
    disk = Disk(monkeypatch, ".jsonl.new")

    async def main() -> None:
        async with alive(house, model=minds) as life:
            await life.run(bulk("first", 1000))
            await life.run("second")
            assert await compact(life) == "compact_done"
            await life.run("third")
            before = (life.pod._record.state, life.pod._record.segment_id, len(house.segments))
            REFUSING[who](house, life, disk)
            reply = await back(life, "second")
            assert (
                reply.what
                == {
                    "the supervisor": "reply segment_conflict",
                    "the disk": "reply internal",
                    "a damaged log": "reply internal",
                }[who]
            )
            assert before == (
                *(life.pod._record.state, life.pod._record.segment_id),
                len(house.segments),
            )
            disk.is_full = False
            assert house.named == house.segments[-1].stem, "the claim is given back"
            assert life.words("status")[-1] == "status idle"
            assert (await life.run("fourth")).what == "run_end finished"
            assert inputs(house) == ["third", "fourth"]

    drive(main())


def test_an_earlier_segment_that_cannot_be_read_has_no_targets_and_the_rest_has(
    house: Home,
) -> None:
    minds = Minds(DONE, DONE, DONE, summaries=(SUMMARY,))

    async def main() -> None:
        async with alive(house, model=minds) as life:
            await life.run(bulk("first", 1000))
            assert await compact(life) == "compact_done"
            await life.run("second")
            aside = house.log.with_name("aside")
            house.log.rename(aside)
            assert [name for name, _, _ in await previews(life)] == ["second"]
            house.log.mkdir()
            assert (await life.ask(m.ListRewindTargets())).what == "reply internal"
            asked = m.GetHistory(segment_id=SEGMENT)
            assert (await life.ask(asked)).what.startswith("reply")
            house.log.rmdir()
            aside.rename(house.log)
            assert (await back(life, "second")).what == "reply ok"

    drive(main())


def test_an_input_that_nobody_can_make_sense_of_is_no_target(house: Home) -> None:
    minds = Minds(DONE, DONE, DONE, summaries=(SUMMARY,))

    async def main() -> None:
        async with alive(house, model=minds) as life:
            await life.run(bulk("first", 1000))
            await life.run("second")
            assert await compact(life) == "compact_done"
            rows = house.log.read_bytes().splitlines(keepends=True)
            at = next(i for i, row in enumerate(rows) if b'"user_input"' in row)
            fields = decode_line(rows[at].removesuffix(b"\n"))
            rows[at] = encode_line(UnknownEntry.from_wire({**fields, "segments": 7}))
            house.log.write_bytes(b"".join(rows))
            assert [name for name, _, _ in await previews(life)] == ["second"]

    drive(main())


# -- while it is at work -------------------------------------------------------------------------


@pytest.mark.parametrize("works", [True, False])
def test_a_run_that_comes_meanwhile_is_held(house: Home, works: bool) -> None:
    minds = Minds(DONE, DONE, DONE, DONE, summaries=(SUMMARY,))

    async def main() -> None:
        async with alive(house, model=minds) as life:
            await life.run(bulk("first", 1000))
            await life.run("second")
            assert await compact(life) == "compact_done"
            listed = await targets(life)
            held = hold_claims(life)
            asked = life.post(asked_for(listed["targets"][0], listed["head_entries"]))
            await life.see("claim_segment", 2)
            key = life.post(say("held"))
            assert (await life.ask(m.Compact())).what == "reply already_running"
            assert (await life.ask(m.Cancel())).what == "reply not_running"
            assert [one.what for one in life.net.sent if one.id in (asked, key)] == []
            if not works:
                life.on_claim = lambda segment_id: SegmentConflict("somebody has it")
            held[0]()
            await life.ends(3)
            replies = [(one.id, one.what) for one in life.net.sent if one.id in (asked, key)]
            answer = "reply ok" if works else "reply segment_conflict"
            assert replies == [(asked, answer), (key, "reply ok")]
            words = ["first", "done", "held", "done"]
            assert history(life) == (words if works else [*history(life)[:-2], *words[-2:]])
            assert inputs(house) == ["held"]

    drive(main())


def test_a_shutdown_waits_for_a_rewind_and_refuses_the_held_run(house: Home) -> None:
    minds = Minds(DONE, DONE, summaries=(SUMMARY,))

    async def main() -> None:
        async with alive(house, model=minds) as life:
            await life.run(bulk("first", 1000))
            await life.run("second")
            assert await compact(life) == "compact_done"
            listed = await targets(life)
            held = hold_claims(life)
            asked = life.post(asked_for(listed["targets"][0], listed["head_entries"]))
            await life.see("claim_segment", 2)
            key = life.post(say("held"))
            assert (await life.ask(m.ShutdownMethod())).what == "reply ok"
            held[0]()
            assert await life.end() == 0
            replies = {one.id: one.what for one in life.net.sent if one.id in (asked, key)}
            assert replies == {asked: "reply ok", key: "reply unreachable"}
        assert inputs(house) == []

    drive(main())


# -- crashes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["compaction", "rewind"])
@pytest.mark.parametrize("when", ["claimed", "made"])
def test_a_crash_leaves_one_session_the_one_before_or_the_one_after(
    house: Home, what: str, when: str
) -> None:
    """Pitfall 17: what a crash leaves is whole, and which of both it is can be told."""
    minds = Minds(DONE, DONE, DONE, summaries=(SUMMARY, SUMMARY))
    left: list[Home] = []

    def copy(segment_id: str = "") -> None:
        left.append(house.copy(f"crashed-{len(left)}"))
        left[-1].named = segment_id or house.named

    async def main() -> None:
        async with alive(house, model=minds) as life:
            await life.run(bulk("first", 1000))
            await life.run("second")
            if what == "rewind":
                assert await compact(life) == "compact_done"
            if when == "claimed":
                life.on_claim = copy
            else:
                once(life, "segment_rotated", copy)
            if what == "rewind":
                assert (await back(life, "second")).what == "reply ok"
            else:
                assert await compact(life) == "compact_done"

    async def after() -> None:
        (crashed,) = left
        count = (1 if what == "compaction" else 2) + (when == "made")
        assert len(crashed.segments) == count
        minds = Minds(DONE)
        async with alive(crashed, incarnation=2, model=minds) as life:
            assert life.words("run_end", "status") == ["status idle"]
            assert alerts(life) == []
            assert life.told("hello")[0].body["resume"]["segment_id"] == crashed.segments[-1].stem
            await life.run("third")
            names = [name for name, _, _ in await previews(life)]
        assert len(crashed.segments) == count
        is_done = what == "rewind" and when == "made"
        assert names == (["third", "first"] if is_done else ["third", "second", "first"])
        has_summary = any("Nearly all" in one for one in minds.shown())
        assert has_summary == ((what, when) in (("compaction", "made"), ("rewind", "claimed")))

    drive(main())
    drive(after())


# -- notifications -------------------------------------------------------------------------------


@pytest.mark.parametrize("segment", ["this", "an earlier"])
@pytest.mark.parametrize("is_full", [False, True])
def test_notifications_of_the_discarded_part_do_not_come_back(
    house: Home, monkeypatch: pytest.MonkeyPatch, segment: str, is_full: bool
) -> None:
    """Nor do they where the disk refused their mark: it is made up for before they are cut."""
    disk = Disk(monkeypatch, "inbox.jsonl", b'"delivered"')
    minds = Minds(DONE, DONE, DONE, summaries=(SUMMARY,))

    async def main() -> None:
        async with alive(house, model=minds) as life:
            await life.run(bulk("first", 1000))
            await life.ask(m.Notify(message="news", auto_run=False))
            disk.is_full = is_full
            await life.run("second")
            if segment != "this":
                assert await compact(life) == "compact_done"
            disk.is_full = False
            assert (await back(life, "second")).what == "reply ok"
        again = Minds(DONE)
        async with alive(house, incarnation=2, model=again) as life:
            await life.run("third")
            assert again.shown()[1:] == ["done", "third"]

    drive(main())


def test_a_notification_before_the_target_is_in_the_history_and_once(
    house: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, "inbox.jsonl", b'"delivered"')
    minds = Minds(DONE, DONE, DONE, summaries=(SUMMARY,))

    async def main() -> None:
        async with alive(house, model=minds) as life:
            await life.ask(m.Notify(message="news", auto_run=False))
            disk.is_full = True
            await life.run(bulk("first", 1000))
            await life.run("second")
            assert await compact(life) == "compact_done"
            assert (await back(life, "second")).what == "reply ok"
            disk.is_full = False
        again = Minds(DONE)
        async with alive(house, incarnation=2, model=again) as life:
            await life.run("third")
            assert again.shown().count("news") == 1

    drive(main())


# -- forks ---------------------------------------------------------------------------------------


def test_a_run_that_could_not_be_made_durable_leaves_nothing_and_the_next_one_forks(
    house: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.fdatasync

    def fdatasync(fd: int) -> None:
        raise OSError(5, "Input/output error")

    minds = Minds(DONE, DONE)

    async def main() -> None:
        async with alive(house, model=minds) as life:
            await life.run("first")
            head = len(house.entries())
            before = life.pod._record.state
            monkeypatch.setattr(os, "fdatasync", fdatasync)
            assert (await life.ask(say("refused"))).what == "reply internal"
            assert life.pod._record.state.history == before.history
            shown = life.pod.snapshot()
            assert shown.head_entries == head
            monkeypatch.setattr(os, "fdatasync", really)
            assert (await life.run("third")).what == "run_end finished"
            assert house.entries()[0]["forked_from"]["at_entry"] == head
            assert minds.shown() == ["first", "done", "third"]
            assert [name for name, _, _ in await previews(life)] == ["third", "first"]
            assert len(house.segments) == 2

    drive(main())
