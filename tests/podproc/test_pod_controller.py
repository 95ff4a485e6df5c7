"""A whole pod's decisions on the wire: what stops a run, what follows it, and how a pod leaves."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from podproc import turn_terms as t
from podproc.models import base
from podproc.models.base import ProviderFailure
from protocol import methods as m
from protocol.entries import Usage
from protocol.pod_events import TurnEnded
from protocol.status import RunResult
from protocol.transport.memory import MemoryTransport
from tests.podproc.engines import Hang, Move, PlayedModel, end, text
from tests.podproc.pods import EVENTS, Home, Life, Sent, alive, drive, say
from tests.podproc.test_pod import Disk

DONE: list[Move] = [*text("done"), *end()]
HALF: list[Move] = [*text("half"), *end("max_tokens")]
SILENT: list[Move] = [Hang()]
TALKING: list[Move] = [base.TextDelta(0, "well"), Hang()]
FAILING: list[Move] = [ProviderFailure("no such model", status=404)]
SUMMARY: list[Move] = [*text("## Done\nall"), *end()]
LARGE: list[Move] = [
    *text("done"),
    base.Figures(Usage(input_tokens=50_000, output_tokens=9), None),
    base.Ended("end_turn"),
]
"""An answer that says the history is long, so that a summary is shorter."""


@pytest.fixture
def house(tmp_path: Path) -> Home:
    """A pod that has a parent."""
    return Home(tmp_path, parent="boss")


def wide(*plays: list[Move]) -> PlayedModel:
    """Return a model with room for long histories."""
    model = PlayedModel(*plays)
    model.context_window = 100_000
    return model


def triggers(life: Life) -> list[str]:
    """Return what started each run."""
    return [one.body["trigger"] for one in life.told("invoke_start")]


def shown(house: Home) -> list[str]:
    """Return the system items of the log, as the model read them."""
    return [e["item"]["body"] for e in house.entries() if e["kind"] == "system_item"]


def child_ended() -> m.PodEventMethod:
    event = TurnEnded(pod_name="kid", result=RunResult.FINISHED)
    return m.PodEventMethod(event_id="kid/1/1", event=event)


def once(life: Life, what: str, then: Callable[[], object]) -> None:
    """Do something in the very moment this is sent next."""

    def look(sent: Sent) -> None:
        if sent.what == what:
            life.net.on_sent = lambda _: None
            then()

    life.net.on_sent = look


async def talk(life: Life) -> None:
    """Have a run that has said something and goes on."""
    texts = len(life.told("text_delta"))
    assert (await life.ask(say("hi"))).what == "reply ok"
    await life.see("text_delta", texts + 1)


async def pause(life: Life) -> None:
    """Leave the pod paused in a run that has said something."""
    await talk(life)
    assert (await life.ask(m.Pause())).what == "reply ok"
    await life.see("status paused")


class Gate:
    """Holds back what threads do with one function of `os` while it is shut."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self._really: Callable[..., Any] = getattr(os, name)
        self._reached, self._opened = threading.Event(), threading.Event()
        self._opened.set()
        monkeypatch.setattr(os, name, self._pass)

    def _pass(self, *args: Any) -> Any:
        if threading.current_thread() is not threading.main_thread() and not self._opened.is_set():
            self._reached.set()
            assert self._opened.wait(20), "nobody opened the gate"
        return self._really(*args)

    def shut(self) -> None:
        """Hold back from now on."""
        self._reached.clear()
        self._opened.clear()

    async def reached(self) -> None:
        """Return once somebody waits."""
        assert await asyncio.to_thread(self._reached.wait, 5), "nobody came to the gate"

    def open(self) -> None:
        """Let everybody pass."""
        self._opened.set()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """What makes a rewritten log durable."""
    gate = Gate(monkeypatch, "fsync")
    yield gate
    gate.open()


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """What makes appended entries durable."""
    gate = Gate(monkeypatch, "fdatasync")
    yield gate
    gate.open()


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """What lists a folder."""
    gate = Gate(monkeypatch, "scandir")
    yield gate
    gate.open()


async def target_of(life: Life, preview: str) -> m.RewindTo:
    """Return the rewind to an input, once the log is still: each run's report has its mark."""
    runs = len(life.told("run_end"))
    await life.see("entry extension", runs)
    listed = (await life.ask(m.ListRewindTargets())).body
    row = next(row for row in listed["targets"] if row["preview"] == preview)
    index = row["user_input_entry_index"]
    target = m.RewindTargetId(segment_id=row["segment_id"], user_input_entry_index=index)
    return m.RewindTo(target=target, expected_head_entries=listed["head_entries"])


async def watch(life: Life, times: int = 1) -> dict[str, Any]:
    """Return the snapshot that a new watcher gets."""
    watcher = MemoryTransport(life.net).subscriber(lambda frames: None)
    watcher.connect(EVENTS)
    watcher.subscribe(f"~hello/{times}".encode())
    try:
        return (await life.see("snapshot", times)).body
    finally:
        watcher.close()


# -- stopping ------------------------------------------------------------------------------------


@pytest.mark.parametrize("wishes", [(m.Pause(), m.Cancel()), (m.Cancel(), m.Pause())])
def test_cancel_beats_pause_in_either_order(house: Home, wishes: tuple[m.Method, m.Method]) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(TALKING)) as life:
            await talk(life)
            keys = [life.post(wish) for wish in wishes]
            assert (await life.ends(1))[0].what == "run_end cancelled"
            assert life.words("status")[-1] == "status idle"
            replies = [one.what for one in life.net.sent if one.id in keys]
            assert replies == ["reply ok", "reply ok"]

    drive(main())


@pytest.mark.parametrize("wish", [m.Pause(), m.Cancel()])
def test_a_stop_accepted_after_staging_reaches_the_run_before_its_first_request(
    house: Home, syncs: Gate, wish: m.Method
) -> None:
    model = PlayedModel(DONE)

    async def main() -> None:
        async with alive(house, model=model) as life:
            syncs.shut()
            life.post(say("hi"), "mine")
            await syncs.reached()
            assert (await life.ask(wish)).what == "reply ok"
            syncs.open()
            [told] = await life.ends(1)
            assert (told.what, told.body["request_id"]) == ("run_end rolled_back", "mine")
            assert model.requests == []
            assert (await life.run("again")).what == "run_end finished"

    drive(main())


@pytest.mark.parametrize("wish", [m.Pause(), m.Cancel()])
def test_a_stop_refused_in_idle_leaves_nothing_that_stops_a_later_run(
    house: Home, wish: m.Method
) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE)) as life:
            assert (await life.ask(wish)).what == "reply not_running"
            assert (await life.run()).what == "run_end finished"

    drive(main())


@pytest.mark.parametrize("wish", [m.Pause(), m.Cancel()])
def test_a_stop_that_is_asked_for_too_late_is_accepted_and_the_run_has_finished(
    house: Home, wish: m.Method
) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE, DONE)) as life:
            once(life, "entry run_completed", lambda: life.post(wish, "late"))
            assert (await life.run()).what == "run_end finished"
            assert [one.what for one in life.net.sent if one.id == "late"] == ["reply ok"]
            assert life.words("status")[-1] == "status idle"
            assert (await life.run("again")).what == "run_end finished"

    drive(main())


def test_a_fresh_run_after_a_cancelled_pause_finishes_and_the_model_is_told_once(
    house: Home,
) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(TALKING, DONE)) as life:
            await pause(life)
            assert (await life.ask(m.Cancel())).what == "reply ok"
            assert life.words("status")[-1] == "status idle"
            assert (await life.run("something else")).what == "run_end finished"

    drive(main())
    kinds = house.kinds()
    assert kinds.count("paused_turn_abandoned") == 1
    assert [e["item"]["kind"] for e in house.entries() if e["kind"] == "system_item"] == [
        "interrupt"
    ]


def left_by_a_crash(house: Home) -> Home:
    """Return what a crash in a run that has said something would leave on disk."""
    left: list[Home] = []

    async def main() -> None:
        async with alive(house, model=PlayedModel(TALKING)) as life:
            await talk(life)
            left.append(house.copy("crashed"))

    drive(main())
    return left[0]


@pytest.mark.parametrize("cause", ["user", "failure", "crash"])
def test_the_run_behind_one_that_was_cut_short_tells_the_model_the_true_cause_once(
    house: Home, cause: str
) -> None:
    if cause == "crash":
        house = left_by_a_crash(house)
    firsts = {"user": TALKING, "failure": FAILING}

    async def main() -> None:
        plays = [firsts[cause]] if cause in firsts else []
        async with alive(house, incarnation=2, model=PlayedModel(*plays, DONE, DONE)) as life:
            if cause == "user":
                await pause(life)
            elif cause == "failure":
                await life.run()
            await life.run("something else")
            await life.run("more")

    drive(main())
    [note] = shown(house)
    words = {"user": "user", "failure": "no such model", "crash": "crash"}
    assert [word for word in words.values() if word in note] == [words[cause]]


def test_pausing_a_notification_run_before_output_leaves_the_notification_waiting_in_front(
    house: Home,
) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(SILENT, DONE)) as life:
            await life.ask(m.Notify(message="first"))
            await life.see("llm_call_start")
            await life.ask(m.Notify(message="second"))
            assert (await life.ask(m.Pause())).what == "reply ok"
            assert (await life.ends(1))[0].what == "run_end rolled_back"
            assert life.words("status")[-1] == "status idle"
            assert (await life.run()).what == "run_end finished"
            assert triggers(life) == ["notify", "user_send"]

    drive(main())
    assert shown(house) == ["first", "second"]


# -- the task ------------------------------------------------------------------------------------


async def by_a_restart(life: Life, house: Home) -> None:
    """Change nothing: the segment is the same."""


async def by_a_fork(life: Life, house: Home) -> None:
    """Go on in a new segment, as another hand wrote to the file."""
    with house.segments[-1].open("ab") as other:
        other.write(b"not ours\n")
    await life.run("in a new segment")


async def by_a_compaction(life: Life, house: Home) -> None:
    """Go on behind a summary."""
    assert (await life.ask(m.Compact())).what == "reply ok"
    await life.see("compact_done")


async def by_a_rewind(life: Life, house: Home) -> None:
    """Go back to an input of the segment before a compaction."""
    await by_a_compaction(life, house)
    assert (await life.ask(await target_of(life, "two"))).what == "reply ok"


WAYS: dict[str, tuple[Callable[[Life, Home], Awaitable[None]], list[list[Move]]]] = {
    "a restart": (by_a_restart, []),
    "a fork": (by_a_fork, [DONE]),
    "a compaction": (by_a_compaction, [SUMMARY]),
    "a rewind": (by_a_rewind, [SUMMARY]),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_task_is_delivered_once_whatever_segment_the_session_is_in(house: Home, way: str) -> None:
    go_on, plays = WAYS[way]

    async def main() -> None:
        async with alive(house, model=wide(DONE, LARGE, *plays)) as life:
            await life.run("the task", "task")
            await life.run("two")
            await go_on(life, house)
            assert (await life.ask(say("the task"), "task")).what == "reply ok"
        assert len(house.segments) == {"a restart": 1, "a rewind": 3}.get(way, 2)
        async with alive(house, incarnation=2, model=wide(DONE)) as life:
            assert life.told("hello")[0].body["resume"]["tasked"] is True
            assert (await life.ask(say("the task"), "task")).what == "reply ok"
            await life.run("my own")
            assert len(triggers(life)) == 1

    drive(main())


# -- the end of a run ----------------------------------------------------------------------------


def order_at_the_end(house: Home, **settings: Any) -> list[str]:
    """Run once; return what is said and done from the end of the run on."""
    order: list[str] = []

    async def job(result: RunResult) -> None:
        order.append("job")

    async def main() -> None:
        life = Life(house, jobs=(job,), **settings)
        await life.see("status idle")
        names = {"run_end", "status", "pod_event", "shutdown", "invoke_start"}

        def note(sent: Sent) -> None:
            if sent.what == "llm_call_end" and len(triggers(life)) == 1:
                life.post(m.Notify(message="news"))
            if sent.what == "entry run_completed" and "leaves" in house.root.name:
                life.pod.feed(t.LeaveWhenIdle())
            if sent.what.split()[0] in names:
                order.append(sent.what)

        life.net.on_sent = note
        life.post(say("hi"))
        await life.wait_for(lambda: [x for x in order if x.startswith("run_end")], "the end")
        if "leaves" not in house.root.name:
            await life.ends(2)
        else:
            await life.see("shutdown")
        assert await life.end() == 0

    drive(main())
    return order[order.index("run_end finished") :]


def test_at_the_end_of_a_run_come_run_end_status_report_jobs_and_then_leaving(
    tmp_path: Path,
) -> None:
    house = Home(tmp_path / "leaves", parent="boss")
    assert order_at_the_end(house, model=PlayedModel(DONE)) == [
        *("run_end finished", "status idle", "pod_event", "job", "shutdown"),
    ]
    assert house.inbox.read_bytes().count(b'"delivered"') == 0, "what waits goes with nobody"


def test_at_the_end_of_a_run_come_run_end_report_and_jobs_and_then_the_next_run(
    tmp_path: Path,
) -> None:
    house = Home(tmp_path / "goes on", parent="boss")
    order = order_at_the_end(house, model=PlayedModel(DONE, DONE))
    assert order == [
        *("run_end finished", "pod_event", "job", "invoke_start", "status running"),
        *("run_end finished", "status idle", "job", "shutdown"),
    ]


# -- what follows a run --------------------------------------------------------------------------


@pytest.mark.parametrize(("moves", "result"), [(DONE, "finished"), (HALF, "limit_reached")])
@pytest.mark.parametrize(
    ("late", "trigger"), [(m.Notify(message="news"), "notify"), (child_ended(), "pod_event")]
)
def test_what_came_late_is_staged_after_finished_and_limit_without_an_idle_between(
    house: Home, moves: list[Move], result: str, late: m.Method, trigger: str
) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(moves, DONE)) as life:
            once(life, "llm_call_end", lambda: life.post(late, sender=""))
            await life.ask(say("hi"))
            await life.ends(2)
            assert life.words("run_end", "status")[1:] == [
                *("status running", f"run_end {result}", "status running"),
                *("run_end finished", "status idle"),
            ]
            assert triggers(life) == ["user_send", trigger]

    drive(main())


@pytest.mark.parametrize(
    ("moves", "stop", "result"),
    [
        (TALKING, m.Cancel(), "cancelled"),
        (TALKING, m.Pause(), "paused"),
        (SILENT, m.Cancel(), "rolled_back"),
        (SILENT, m.Pause(), "rolled_back"),
        (TALKING, m.ShutdownMethod(), "cancelled"),
    ],
)
def test_nothing_is_staged_after_cancel_pause_rollback_or_shutdown(
    house: Home, moves: list[Move], stop: m.Method, result: str
) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(moves)) as life:
            await life.ask(say("hi"))
            await life.see("text_delta" if moves is TALKING else "llm_call_start")
            await life.ask(m.Notify(message="news"))
            await life.ask(stop)
            assert (await life.ends(1))[0].what == f"run_end {result}"
        assert triggers(life) == ["user_send"]
        assert house.inbox.read_bytes().count(b'"delivered"') == 0
        assert shown(house) == []

    drive(main())


def test_a_model_that_always_fails_does_not_loop_over_waiting_notifications(
    house: Home,
) -> None:
    model = PlayedModel(*[FAILING] * 4)

    async def main() -> None:
        async with alive(house, model=model) as life:

            def disturb(sent: Sent) -> None:
                if sent.what == "llm_call_start":
                    life.post(m.Notify(message=f"news {len(model.requests)}"))

            life.net.on_sent = disturb
            await life.ask(say("hi"))
            await life.ends(2)
            assert life.words("run_end", "status")[1:] == [
                *("status running", "run_end errored"),
                *("status running", "run_end errored", "status idle"),
            ]
            assert triggers(life) == ["user_send", "notify"], "staged once, and never again"
            life.net.on_sent = lambda _: None
            await life.run("again")
            assert triggers(life) == ["user_send", "notify", "user_send"]
            assert len(shown(house)) >= 2, "what waited went with the next run"

    drive(main())


def test_what_waited_from_before_is_not_staged_behind_a_run_that_failed(
    house: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        disk = Disk(monkeypatch, "/sessions/", b'"notification"')
        async with alive(house, model=PlayedModel(TALKING, DONE)) as life:
            await pause(life)
            await life.ask(m.Notify(message="news"))
            disk.is_full = True
            assert (await life.run("again")).what == "run_end errored"
            assert triggers(life) == ["user_send", "user_send"]
            disk.is_full = False
            assert (await life.run("again")).what == "run_end finished"
        assert shown(house)[-1] == "news"

    drive(main())


def test_a_waking_event_for_a_pod_that_fails_starts_one_run_each(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(*[FAILING] * 3)) as life:
            for number in range(1, 4):
                await life.ask(m.Notify(message=f"news {number}"))
                await life.ends(number)
            assert triggers(life) == ["notify"] * 3
            assert life.upward() == []

    drive(main())


# -- shutdown in every column --------------------------------------------------------------------


async def compacting(life: Life) -> None:
    """Have a compaction that waits for the model."""
    await life.run("one")
    assert (await life.ask(m.Compact())).what == "reply ok"
    await life.see("compact_start")


def test_shutdown_of_an_idle_pod_is_answered_and_it_leaves(house: Home) -> None:
    async def main() -> None:
        async with alive(house) as life:
            assert (await life.ask(m.ShutdownMethod())).what == "reply ok"
            await life.see("shutdown")
            assert life.words("run_end", "status") == ["status idle"]

    drive(main())


def test_shutdown_while_compacting_refuses_the_held_run_and_changes_nothing(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=wide(LARGE, SILENT)) as life:
            await compacting(life)
            before = house.log.read_bytes()
            life.post(say("held"), "held")
            assert (await life.ask(say("second"))).what == "reply already_running"
            assert (await life.ask(m.ShutdownMethod())).what == "reply ok"
            await life.see("shutdown")
            assert [one.what for one in life.net.sent if one.id == "held"] == ["reply unreachable"]
            [failed] = life.told("compact_failed")
            assert failed.body["error"] == "cancelled"
        assert house.log.read_bytes() == before
        assert len(house.segments) == 1

    drive(main())


def test_shutdown_while_rewinding_refuses_the_held_run_and_finishes_the_rewind(
    house: Home, disk: Gate
) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE, DONE)) as life:
            await life.run("one")
            await life.see("entry extension")
            before = house.log.read_bytes()
            await life.run("two")
            rewind = await target_of(life, "two")
            disk.shut()
            life.post(rewind, "rewind")
            await disk.reached()
            life.post(say("held"), "held")
            assert (await life.ask(m.ShutdownMethod())).what == "reply ok"
            assert life.told("shutdown") == []
            disk.open()
            await life.see("shutdown")
            replies = {one.id: one.what for one in life.net.sent if one.id in ("held", "rewind")}
            assert replies == {"held": "reply unreachable", "rewind": "reply ok"}
            assert triggers(life) == ["user_send", "user_send"]
        assert house.log.read_bytes() == before

    drive(main())


def test_shutdown_of_a_running_pod_ends_its_run_and_keeps_its_input(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(SILENT)) as life:
            await life.ask(say("hi"))
            await life.see("llm_call_start")
            assert (await life.ask(m.ShutdownMethod())).what == "reply ok"
            [told] = await life.ends(1)
            assert (told.what, told.body["reason"]) == ("run_end cancelled", "shutdown")
            assert await life.tells(1) == [("alice/1/1", "cancelled")]
        assert "user_input" in house.kinds()

    drive(main())


def test_shutdown_of_a_paused_pod_leaves_it_paused_for_the_next_process(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(TALKING)) as life:
            await pause(life)
            assert (await life.ask(m.ShutdownMethod())).what == "reply ok"
            await life.see("shutdown")
            assert life.words("run_end") == ["run_end paused"]
        async with alive(house, incarnation=2) as life:
            assert life.words("status") == ["status paused"]

    drive(main())


def test_shutdown_while_a_paused_run_is_being_abandoned_answers_the_cancel_first(
    house: Home, syncs: Gate
) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(TALKING)) as life:
            await pause(life)
            syncs.shut()
            life.post(m.Cancel(), "cancel")
            await syncs.reached()
            assert (await life.ask(m.ShutdownMethod())).what == "reply ok"
            assert life.told("shutdown") == []
            syncs.open()
            await life.see("shutdown")
            assert [one.what for one in life.net.sent if one.id == "cancel"] == ["reply ok"]
            assert life.words("status")[-1] == "status idle"
        async with alive(house, incarnation=2) as life:
            assert life.words("status") == ["status idle"]

    drive(main())


# -- leaving once idle ---------------------------------------------------------------------------


def test_a_hook_has_an_idle_pod_leave_at_once(house: Home) -> None:
    async def main() -> None:
        async with alive(house) as life:
            life.pod.feed(t.LeaveWhenIdle())
            await life.see("shutdown")

    drive(main())


def test_a_hook_has_a_running_pod_leave_behind_its_run_and_before_what_waits(
    house: Home,
) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(TALKING)) as life:
            await talk(life)
            await life.ask(m.Notify(message="news"))
            life.pod.feed(t.LeaveWhenIdle())
            assert life.told("shutdown") == []
            await life.ask(m.Cancel())
            await life.see("shutdown")
            assert triggers(life) == ["user_send"]
        assert b"news" in house.inbox.read_bytes()
        assert "Leave" not in str(house.entries())

    drive(main())


def test_a_hook_has_a_paused_pod_wait_and_leave_once_it_is_idle(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(TALKING, DONE)) as life:
            await pause(life)
            life.pod.feed(t.LeaveWhenIdle())
            assert (await life.ask(m.GetHistory())).what == "reply ok"
            assert life.told("shutdown") == []
            assert (await life.ask(m.Resume())).what == "reply ok"
            await life.see("shutdown")
            assert life.words("run_end") == ["run_end paused", "run_end finished"]

    drive(main())


def test_a_hook_has_a_compacting_pod_leave_when_the_compaction_is_over(house: Home) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        slow = SlowModel(gate, LARGE, SUMMARY)
        async with alive(house, model=slow) as life:
            await compacting(life)
            life.pod.feed(t.LeaveWhenIdle())
            assert (await life.ask(m.Notify(message="news"))).what == "reply ok"
            assert life.told("shutdown", "compact_done") == []
            gate.set()
            await life.see("shutdown")
            assert life.words("compact_done", "compact_failed") == ["compact_done"]
            assert triggers(life) == ["user_send"]

    drive(main())


class SlowModel(PlayedModel):
    """A model that answers its second request, and those after, when it may."""

    context_window = 100_000

    def __init__(self, gate: asyncio.Event, *plays: list[Move]) -> None:
        super().__init__(*plays)
        self._gate = gate

    async def stream(self, request: base.ModelRequest) -> Any:
        """Play the next list."""
        if self.requests:
            await self._gate.wait()
        async for event in super().stream(request):
            yield event


# -- work beside the runs keeps nobody waiting -----------------------------------------------------


async def everybody_is_answered(life: Life) -> None:
    """A watcher, a reader and who asks for what cannot be are answered while something waits."""
    assert (await watch(life))["status"] in ("idle", "paused")
    assert (await life.ask(m.GetHistory())).what == "reply ok"
    assert (await life.ask(m.Notify(message="news", auto_run=False))).what == "reply ok"


def test_a_compaction_keeps_nobody_waiting_and_is_cancelled_at_once(house: Home) -> None:
    async def main() -> None:
        async with alive(house, model=wide(LARGE, SILENT, DONE)) as life:
            await compacting(life)
            life.post(say("held"), "held")
            await everybody_is_answered(life)
            assert (await watch(life, 2))["flags"] == ["busy"]
            assert (await life.ask(m.Pause())).what == "reply not_running"
            assert (await life.ask(m.Cancel())).what == "reply ok"
            [told] = (await life.ends(2))[1:]
            assert (told.what, told.body["request_id"]) == ("run_end finished", "held")
            assert life.told("compact_failed")[0].body["error"] == "cancelled"

    drive(main())


def test_a_rewind_keeps_nobody_waiting(house: Home, disk: Gate) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE, DONE)) as life:
            await life.run("one")
            rewind = await target_of(life, "one")
            disk.shut()
            life.post(rewind, "rewind")
            await disk.reached()
            life.post(say("held"), "held")
            await everybody_is_answered(life)
            assert (await life.ask(m.Cancel())).what == "reply not_running"
            assert (await life.ask(m.Compact())).what == "reply already_running"
            disk.open()
            assert [one.what for one in await life.ends(2)] == ["run_end finished"] * 2
            assert life.words("rewind_applied") == ["rewind_applied"]

    drive(main())


def test_an_abandonment_keeps_nobody_waiting(house: Home, syncs: Gate) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(TALKING)) as life:
            await pause(life)
            syncs.shut()
            life.post(m.Cancel(), "cancel")
            await syncs.reached()
            await everybody_is_answered(life)
            assert (await life.ask(m.Resume())).what == "reply not_paused"
            syncs.open()
            await life.wait_for(
                lambda: [one for one in life.net.sent if one.id == "cancel"], "its reply"
            )

    drive(main())


def test_completions_over_a_folder_that_is_not_read_yet_keep_nobody_waiting(
    house: Home, folders: Gate
) -> None:
    async def main() -> None:
        async with alive(house, model=PlayedModel(TALKING)) as life:
            folders.shut()
            life.post(m.ListCompletions(kind="file", prefix=""), "slow")
            await folders.reached()
            await everybody_is_answered(life)
            await talk(life)
            assert (await life.ask(m.Cancel())).what == "reply ok"
            assert (await life.ends(1))[0].what == "run_end cancelled"
            assert (await life.ask(m.ShutdownMethod())).what == "reply ok"
            await life.see("shutdown")
            assert await life.end() == 0
            assert [one for one in life.net.sent if one.id == "slow"] == []
            folders.open()

    drive(main())
