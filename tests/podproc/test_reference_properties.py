"""What the sources of the first controller assert in their own tests, each once, of a whole pod."""

from __future__ import annotations

from pathlib import Path

import pytest

from podproc.models import base
from podproc.models.base import ProviderFailure
from protocol import methods as m
from protocol.base import Wire
from protocol.birth import Birth
from protocol.manifest import Feature
from protocol.pod_events import Errored, ScopeSubDelegated, TurnEnded
from protocol.status import PodStatus, Relation, RunResult
from tests.podproc.engines import Hang, Move, PlayedModel, call, end, text
from tests.podproc.pods import Home, Life, Sent, alive, drive, say

DONE: list[Move] = [*text("done"), *end()]
TALKING: list[Move] = [base.TextDelta(0, "well"), Hang()]
FAILING: list[Move] = [ProviderFailure("boom from the test", status=404)]


class Nursery(Home):
    """A home whose pod has the tools for pods of its own."""

    def birth(self, incarnation: int) -> Birth:
        birth = super().birth(incarnation)
        manifest = birth.manifest.model_copy(update={"feature": Feature(pods=True)})
        return birth.model_copy(update={"manifest": manifest})


@pytest.fixture
def house(tmp_path: Path) -> Home:
    """A pod that has a parent."""
    return Nursery(tmp_path, parent="boss")


def triggers(life: Life) -> list[str]:
    """Return what started each run."""
    return [one.body["trigger"] for one in life.told("invoke_start")]


def ended(event_id: str = "kid/1/1") -> m.PodEventMethod:
    event = TurnEnded(pod_name="kid", result=RunResult.FINISHED)
    return m.PodEventMethod(event_id=event_id, event=event)


async def woken(life: Life, method: m.Method, **settings: str) -> Sent:
    """Have an idle pod start a run by itself; return its end."""
    before = len(life.told("run_end"))
    assert (await life.ask(method, **settings)).what == "reply ok"
    return (await life.ends(before + 1))[-1]


async def paused(life: Life) -> None:
    """Have a run that has said something, and pause it."""
    texts = len(life.told("text_delta"))
    assert (await life.ask(say("hi"))).what == "reply ok"
    await life.see("text_delta", texts + 1)
    await life.ask(m.Pause())
    await life.see("status paused")


@pytest.mark.parametrize("sender", ["operator", "boss", ""])
def test_run_and_resume_report_upward_whoever_sent_them_and_no_notification_run_does(
    house: Home, sender: str
) -> None:
    """Sources: a pending run or resume counts as the parent's, one for a notification does not."""

    async def main() -> None:
        async with alive(house, model=PlayedModel(TALKING, DONE, DONE, DONE, DONE)) as life:
            await life.ask(say("hi"), sender=sender)
            await life.see("text_delta")
            await life.ask(m.Pause(), sender=sender)
            await life.ends(1)
            await life.ask(m.Resume(), sender=sender)
            await life.ends(2)
            await woken(life, m.Notify(message="news"), sender=sender)
            await woken(life, ended(), sender="")
            await woken(life, m.Notify(message="go on", queued=True), sender="boss")
            assert triggers(life) == ["user_send", "resume", "notify", "pod_event", "notify"]
            assert await life.tells(3) == [
                *(("alice/1/1", "paused"), ("alice/1/2", "finished"), ("alice/1/3", "finished")),
            ]

    drive(main())


def test_a_notification_starts_a_run_only_of_an_idle_pod_and_only_with_auto_run(
    house: Home,
) -> None:
    """Sources: the gate lets (idle, auto) through and none of the other three."""

    async def main() -> None:
        async with alive(house, model=PlayedModel(TALKING, DONE, DONE)) as life:
            await life.ask(m.Notify(message="idle, not auto", auto_run=False))
            assert triggers(life) == []
            await life.ask(say("hi"))
            await life.see("text_delta")
            await life.ask(m.Notify(message="running, auto"))
            await life.ask(m.Pause())
            await life.see("status paused")
            await life.ask(m.Notify(message="paused, auto"))
            assert (await life.ask(m.Cancel())).what == "reply ok"
            assert triggers(life) == ["user_send"]
            await woken(life, m.Notify(message="idle, auto"))
            assert triggers(life) == ["user_send", "notify"]
        shown = [e["item"]["body"] for e in house.entries() if e["kind"] == "system_item"]
        assert shown[0] == "idle, not auto"
        assert shown[-3:] == ["running, auto", "paused, auto", "idle, auto"]

    drive(main())


def test_a_run_that_was_asked_for_and_finished_is_reported_as_a_turn_that_ended(
    house: Home,
) -> None:
    """Sources: the end of a run of the parent's fires a turn's end that names the child."""

    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE)) as life:
            assert (await life.run()).what == "run_end finished"
            event = TurnEnded.from_wire((await life.see("pod_event")).body["event"])
            assert (event.pod_name, event.result) == ("alice", RunResult.FINISHED)

    drive(main())


def test_a_run_that_the_pod_started_itself_finishes_silently(house: Home) -> None:
    """Sources: nobody connects to the parent after a run that it did not ask for."""

    async def main() -> None:
        async with alive(house, model=PlayedModel(DONE, TALKING)) as life:
            assert (await woken(life, m.Notify(message="news"))).what == "run_end finished"
            await paused(life)
            assert await life.tells(1) == [("alice/1/1", "paused")]

    drive(main())


def test_a_run_that_was_asked_for_and_failed_is_reported_with_its_message(house: Home) -> None:
    """Sources: a failure of the parent's run fires an error that carries its message."""

    async def main() -> None:
        async with alive(house, model=PlayedModel(FAILING)) as life:
            assert (await life.run()).what == "run_end errored"
            event = Errored.from_wire((await life.see("pod_event")).body["event"])
            assert (event.pod_name, event.code) == ("alice", "provider_error")
            assert "boom from the test" in event.message

    drive(main())


def test_a_run_that_the_pod_started_itself_fails_silently(house: Home) -> None:
    """Sources: nobody connects to the parent after a failure that it did not ask for."""

    async def main() -> None:
        async with alive(house, model=PlayedModel(FAILING, TALKING)) as life:
            assert (await woken(life, m.Notify(message="news"))).what == "run_end errored"
            await paused(life)
            assert await life.tells(1) == [("alice/1/1", "paused")]

    drive(main())


def test_a_sub_delegation_while_running_is_for_the_tools_and_neither_buffered_nor_waking(
    house: Home,
) -> None:
    """Sources: the grandchild is registered, and the buffer of the running parent stays empty."""
    event = ScopeSubDelegated(parent_pod="kid", sub_pod="grandkid")
    known: list[str] = ["kid"]

    def seen(asked: Sent) -> Wire:
        return m.PodRows(
            pods=tuple(
                m.PodRow(
                    name=name,
                    relation=Relation.CHILD if name == "kid" else Relation.DESCENDANT,
                    status=PodStatus.IDLE,
                    reachable=True,
                    restorable=False,
                )
                for name in known
            )
        )

    async def main() -> None:
        listing: list[Move] = [*call("c1", "ListPods"), *end("tool_use")]
        model = PlayedModel(listing, DONE, DONE)
        async with alive(house, model=model, answers={"list_pods": seen}) as life:

            def lend(sent: Sent) -> None:
                if sent.what == "turn_start":
                    life.net.on_sent = lambda _: None
                    known.append("grandkid")  # the supervisor's records come first
                    life.post(m.PodEventMethod(event_id="lend", event=event), "lend", "")

            before = house.inbox.read_bytes()
            life.net.on_sent = lend
            assert (await life.run()).what == "run_end finished"
            assert [one.what for one in life.net.sent if one.id == "lend"] == ["reply ok"]
            assert "grandkid" in (await life.see("tool_result")).body["output"]
            assert house.inbox.read_bytes() == before
            assert life.pod._inbox.take() == []
            assert triggers(life) == ["user_send"]
            await life.run("more")
            assert triggers(life) == ["user_send", "user_send"]
        assert "system_item" not in house.kinds()

    drive(main())


def test_a_childs_end_while_running_enters_the_buffer_exactly_once(house: Home) -> None:
    """Sources: an event that the model may see is in the buffer of the running parent, once."""

    async def main() -> None:
        model = PlayedModel(TALKING, DONE, DONE)
        async with alive(house, model=model) as life:
            await life.ask(say("hi"))
            await life.see("text_delta")
            for request_id in ("one", "two", "one"):
                assert (await life.ask(ended(), request_id, sender="")).what == "reply ok"
            assert house.inbox.read_bytes().count(b'"arrived"') == 1
            assert triggers(life) == ["user_send"]
            await life.ask(m.Pause())
            await life.ends(1)
            await life.ask(m.Resume())
            await life.ends(2)
            assert (await life.ask(ended(), "three", sender="")).what == "reply ok"
            assert (await life.run("more")).what == "run_end finished"
            assert triggers(life) == ["user_send", "resume", "user_send"]
        shown = [e["item"]["kind"] for e in house.entries() if e["kind"] == "system_item"]
        assert shown == ["pod_event"]

    drive(main())


def test_compact_while_running_is_already_running_and_its_message_names_compact(
    house: Home,
) -> None:
    """Sources: the refusal has that code, and says compact."""

    async def main() -> None:
        async with alive(house, model=PlayedModel(TALKING)) as life:
            await life.ask(say("hi"))
            await life.see("text_delta")
            refused = await life.ask(m.Compact())
            assert refused.what == "reply already_running"
            assert "compact" in refused.body["message"]
            assert life.words("compact_start", "run_end") == []

    drive(main())
