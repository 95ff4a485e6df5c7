"""The outbox: the end of a run that is to be reported is owed until the supervisor has it.

The log is the outbox. An end names its report; a mark says that it was taken; what has no mark is
told again by the next process, under the same id.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from podproc.models import base
from podproc.models.base import ProviderFailure
from protocol import methods as m
from protocol.base import Wire
from protocol.entries import Usage
from protocol.errors import Forbidden, PodsupError, Unreachable
from protocol.pod_events import Errored
from tests.podproc.engines import Hang, Move, PlayedModel, end, text
from tests.podproc.pods import Home, Life, Sent, accept, alive, drive, say
from tests.podproc.test_pod import Disk

DONE: list[Move] = [*text("done"), *end()]
SILENT: list[Move] = [Hang()]
TALKING: list[Move] = [base.TextDelta(0, "well"), Hang()]
FAILING: list[Move] = [ProviderFailure("no such model", status=404)]
LARGE: list[Move] = [
    *text("done"),
    base.Figures(Usage(input_tokens=50_000, output_tokens=9), None),
    base.Ended("end_turn"),
]
"""An answer that says the history is long, so that a summary is shorter."""


def lose(asked: Sent) -> Wire | PodsupError | None:
    """Answer nothing at all."""
    return None


def be_away(asked: Sent) -> Wire | PodsupError | None:
    """Answer as a supervisor does that cannot take it now."""
    return Unreachable("starting")


def refuse(asked: Sent) -> Wire | PodsupError | None:
    """Answer that it will never be taken."""
    return Forbidden("not you")


LOST = {"pod_event": lose}


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A pod that has a parent; it does not wait long for a report that nobody takes."""
    monkeypatch.setattr("podproc.reports.REPORT_S", 0.2)
    return Home(tmp_path, parent="boss")


def wide(*plays: list[Move]) -> PlayedModel:
    """Return a model with room for long histories."""
    model = PlayedModel(*plays)
    model.context_window = 100_000
    return model


def reported_in(house: Home) -> list[str | None]:
    """Return the reports that the ends of runs name, in the newest segment."""
    return [e.get("report") for e in house.entries() if e["kind"].startswith("run_")]


def marks(house: Home) -> list[str]:
    """Return the reports that are marked as taken, in the newest segment."""
    found = (e for e in house.entries() if e["kind"] == "extension" and e["domain"] == "reported")
    return [e["payload"]["report"] for e in found]


async def marked(life: Life, number: int = 1) -> None:
    """Return once so many reports are marked as taken."""

    def are_there() -> bool:
        told = [one for one in life.told("entry") if one.what == "entry extension"]
        return len(told) >= number

    await life.wait_for(are_there, f"{number} marks")


async def next_reports(house: Home, incarnation: int) -> list[tuple[str, str]]:
    """Return what the next process has to tell of the past, before what it tells of itself."""
    own = (f"alice/{incarnation}/1", "finished")
    async with alive(house, incarnation=incarnation, model=wide(DONE)) as life:
        await life.run("one of my own")
        await life.wait_for(lambda: own in life.upward(), "its own report")
        return [one for one in life.upward() if one != own]


def left_by_a_crash(house: Home, when: Callable[[Life, Sent], bool], *plays: list[Move]) -> Home:
    """Run "hi"; return what a crash in the moment `when` would leave on disk."""
    left: list[Home] = []

    async def main() -> None:
        async with alive(house, model=PlayedModel(*plays)) as life:

            def look(sent: Sent) -> None:
                if not left and when(life, sent):
                    left.append(house.copy("crashed"))

            life.net.on_sent = look
            life.post(say("hi"))
            await life.wait_for(lambda: left, "the moment of the crash")
            await life.ends(1)

    drive(main())
    return left[0]


# -- what the log says ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moves", "kind"), [(DONE, "run_completed"), (FAILING, "run_errored")], ids=["done", "failed"]
)
def test_the_end_of_a_run_that_is_to_be_reported_names_its_report(
    house: Home, moves: list[Move], kind: str
) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(moves)) as life:
            await life.run()
            await marked(life)

    drive(main())
    [last] = [e for e in house.entries() if e["kind"].startswith("run_")]
    assert (last["kind"], last["report"]) == (kind, "alice/1/1")
    assert marks(house) == ["alice/1/1"]


def test_the_end_of_a_run_that_the_pod_started_itself_names_none(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE)) as life:
            await life.ask(m.Notify(message="news"))
            await life.ends(1)

    drive(main())
    assert reported_in(house) == [None]


def test_the_end_of_a_run_of_a_pod_without_a_parent_names_none(tmp_path: Path) -> None:
    alone = Home(tmp_path)

    async def main() -> None:
        async with alive(alone, model=PlayedModel(DONE)) as life:
            await life.run()
            assert life.upward() == []

    drive(main())
    assert reported_in(alone) == [None]


# -- until it is taken ---------------------------------------------------------------------------


def test_a_crash_between_the_end_and_its_report_has_it_told_by_the_next_process(
    house: Home,
) -> None:
    left = left_by_a_crash(house, lambda life, sent: sent.what == "entry run_completed", DONE)

    async def main() -> None:
        async with alive(left, incarnation=2) as life:
            assert await life.tells(1) == [("alice/1/1", "finished")]
            assert life.words("run_end", "status", "pod_event") == ["status idle", "pod_event"]
            await marked(life)
        assert await next_reports(left, 3) == []

    drive(main())


def test_a_crash_between_the_taking_of_a_report_and_its_mark_has_it_told_under_the_same_id(
    house: Home,
) -> None:
    left = left_by_a_crash(house, lambda life, sent: sent.what == "pod_event", DONE)
    assert marks(left) == []
    assert drive(next_reports(left, 2)) == [("alice/1/1", "finished")]


@pytest.mark.parametrize("answer", [lose, be_away])
def test_a_report_that_nobody_took_is_told_by_the_next_process_until_one_takes_it(
    house: Home, answer: Any
) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE), answers={"pod_event": answer}) as life:
            await life.run()
            await life.tells(1)
        async with alive(house, incarnation=2, answers={"pod_event": answer}) as life:
            assert (await life.tells(1))[0] == ("alice/1/1", "finished")
        assert marks(house) == []
        assert await next_reports(house, 3) == [("alice/1/1", "finished")]
        assert await next_reports(house, 4) == []

    drive(main())


def test_what_is_told_again_of_a_failure_has_its_code_and_message(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(FAILING), answers=LOST) as life:
            await life.run()
            first = Errored.from_wire((await life.see("pod_event")).body["event"])
        async with alive(house, incarnation=2) as life:
            again = Errored.from_wire((await life.see("pod_event")).body["event"])
            assert again == first
            assert "no such model" in again.message

    drive(main())


def test_all_that_is_owed_is_told_in_the_order_of_the_ends(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE, FAILING), answers=LOST) as life:
            await life.run()
            await life.run()
            await life.tells(2)
        assert await next_reports(house, 2) == [
            *(("alice/1/1", "finished"), ("alice/1/2", "provider_error")),
        ]

    drive(main())


def test_a_report_that_was_taken_is_marked_and_never_told_again(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE)) as life:
            await life.run()
            await marked(life)
        assert marks(house) == ["alice/1/1"]
        assert await next_reports(house, 2) == []

    drive(main())


def test_a_report_that_is_refused_is_an_alert_and_never_told_again(house: Home) -> None:
    async def main() -> None:
        answers = {"pod_event": refuse}
        async with alive(house, model=PlayedModel(DONE), answers=answers) as life:
            await life.run()
            assert "refused: not you" in (await life.see("alert")).body["message"]
            await marked(life)
            assert life.upward() == [("alice/1/1", "finished")]
        assert await next_reports(house, 2) == []

    drive(main())


def test_a_run_that_a_crash_cut_is_told_under_one_id_by_all_who_come_after(house: Home) -> None:
    left = left_by_a_crash(house, lambda life, sent: sent.what == "text_delta", DONE)

    async def main() -> None:
        async with alive(left, incarnation=2, answers=LOST) as life:
            assert await life.tells(1) == [("alice/2/1", "interrupted")]
            assert [one.what for one in life.told("run_end")] == ["run_end errored"]
        async with alive(left, incarnation=3) as life:
            assert await life.tells(1) == [("alice/2/1", "interrupted")]
            assert life.told("run_end") == []
            await marked(life)
        assert await next_reports(left, 4) == []

    drive(main())


@pytest.mark.parametrize("stop", [m.Cancel(), m.Pause()])
def test_a_run_that_was_taken_back_is_reported_and_the_log_says_nothing_of_it(
    house: Home, stop: m.Method
) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE, SILENT)) as life:
            await life.run()
            await marked(life)
            before = house.log.read_bytes()
            await life.ask(say("take me back"))
            await life.see("llm_call_start", 2)
            await life.ask(stop)
            assert (await life.tells(2))[1] == ("alice/1/2", "rolled_back")
        assert house.log.read_bytes() == before
        assert await next_reports(house, 2) == []

    drive(main())


def test_a_mark_that_came_during_a_run_stays_when_that_is_taken_back(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE, SILENT), answers=LOST) as life:
            await life.run()
            report = await life.see("pod_event")
            await life.ask(say("take me back"))
            await life.see("llm_call_start", 2)
            life.reply_to(report, accepted())
            await marked(life)
            life.answers["pod_event"] = accept
            await life.ask(m.Cancel())
            await life.ends(2)
        assert marks(house) == ["alice/1/1"]
        assert await next_reports(house, 2) == []

    drive(main())


def accepted() -> Wire:
    said = accept(Sent("", "", {}))
    assert isinstance(said, Wire)
    return said


def test_a_mark_that_cannot_be_written_is_an_alert_and_the_report_is_told_again(
    house: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        disk = Disk(monkeypatch, "/sessions/", b'"reported"')
        async with alive(house, model=PlayedModel(DONE)) as life:
            disk.is_full = True
            await life.run()
            assert "No space left" in (await life.see("alert")).body["message"]
            disk.is_full = False
        assert await next_reports(house, 2) == [("alice/1/1", "finished")]

    drive(main())


def test_a_run_that_consumed_a_queued_message_is_reported_although_its_inbox_mark_failed(
    house: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        disk = Disk(monkeypatch, "inbox", b'"delivered"')
        async with alive(house, model=PlayedModel(DONE, SILENT)) as life:
            disk.is_full = True
            await life.ask(m.Notify(message="go on", queued=True), sender="boss")
            await life.ends(1)
            disk.is_full = False
            await life.ask(say("take me back"))
            await life.see("llm_call_start", 2)
            await life.ask(m.Cancel())
            assert await life.tells(2) == [
                *(("alice/1/1", "finished"), ("alice/1/2", "rolled_back")),
            ]

    drive(main())


# -- in another segment --------------------------------------------------------------------------


async def fork(life: Life, house: Home) -> None:
    """Have the session go on in a new segment, as another hand wrote to the file."""
    before = len(life.told("run_end"))
    with house.segments[-1].open("ab") as other:
        other.write(b"not ours\n")
    assert (await life.run("in a new segment")).what == "run_end finished"
    assert len(life.told("run_end")) == before + 1


async def compact(life: Life, house: Home) -> None:
    """Have the session go on behind a summary."""
    assert (await life.ask(m.Compact())).what == "reply ok"
    await life.wait_for(lambda: life.told("compact_done", "compact_failed"), "a compaction")
    assert life.words("compact_done", "compact_failed") == ["compact_done"]


WAYS = {"a fork": (fork, [DONE]), "a compaction": (compact, [[*text("## Done\nall"), *end()]])}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_owed_is_carried_into_a_new_segment(house: Home, way: str) -> None:
    go_on, plays = WAYS[way]

    async def main() -> None:
        async with alive(house, model=wide(LARGE, *plays), answers=LOST) as life:
            await life.run()
            await life.tells(1)
            await go_on(life, house)
        assert len(house.segments) == 2
        assert [e["report"] for e in house.entries()[0]["carried"]["owed"]] == ["alice/1/1"]
        assert (await next_reports(house, 2))[0] == ("alice/1/1", "finished")
        assert await next_reports(house, 3) == []

    drive(main())


@pytest.mark.parametrize("way", WAYS)
def test_a_report_that_is_taken_when_the_session_is_in_a_new_segment_is_marked_there(
    house: Home, way: str
) -> None:
    go_on, plays = WAYS[way]

    async def main() -> None:
        async with alive(house, model=wide(LARGE, *plays), answers=LOST) as life:
            await life.run()
            report = await life.see("pod_event")
            await go_on(life, house)
            life.reply_to(report, accepted())
            await life.wait_for(lambda: "alice/1/1" in marks(house), "the mark")
            life.answers["pod_event"] = accept
        assert "alice/1/1" not in [told for told, _ in await next_reports(house, 2)]

    drive(main())


def test_a_report_that_is_taken_while_a_new_segment_is_claimed_is_not_told_again(
    house: Home,
) -> None:
    async def main() -> None:
        summary: list[Move] = [*text("## Done\nall"), *end()]
        async with alive(house, model=wide(LARGE, summary), answers=LOST) as life:
            await life.run()
            report = await life.see("pod_event")
            life.on_claim = lambda segment_id: life.reply_to(report, accepted())
            await compact(life, house)
        assert not house.entries()[0]["carried"].get("owed")
        assert await next_reports(house, 2) == []

    drive(main())


def test_what_is_owed_is_owed_still_when_a_rewind_goes_back_to_the_segment_before(
    house: Home,
) -> None:
    async def main() -> None:
        summary: list[Move] = [*text("## Done\nall"), *end()]
        async with alive(house, model=wide(DONE, LARGE, summary), answers=LOST) as life:
            await life.run("one")
            await life.run("two")
            await compact(life, house)
            assert (await rewind(life, "two")).what == "reply ok"
        assert [told for told, _ in await next_reports(house, 2)] == ["alice/1/1", "alice/1/2"]

    drive(main())


async def rewind(life: Life, preview: str) -> Sent:
    listed = (await life.ask(m.ListRewindTargets())).body
    row = next(row for row in listed["targets"] if row["preview"] == preview)
    index = row["user_input_entry_index"]
    target = m.RewindTargetId(segment_id=row["segment_id"], user_input_entry_index=index)
    return await life.ask(m.RewindTo(target=target, expected_head_entries=listed["head_entries"]))


@pytest.mark.parametrize("way", ["in the segment", "to the segment before"])
def test_a_report_that_was_taken_is_not_owed_again_when_a_rewind_cuts_its_mark(
    house: Home, way: str
) -> None:
    async def main() -> None:
        summary: list[Move] = [*text("## Done\nall"), *end()]
        async with alive(house, model=wide(DONE, LARGE, summary), answers=LOST) as life:
            await life.run("one")
            report = await life.see("pod_event")
            life.answers["pod_event"] = accept
            await life.run("two")
            life.reply_to(report, accepted())
            await life.wait_for(lambda: "alice/1/1" in marks(house), "the mark")
            if way != "in the segment":
                await compact(life, house)
            assert (await rewind(life, "two")).what == "reply ok"
        assert "alice/1/1" not in [told for told, _ in await next_reports(house, 2)]

    drive(main())
