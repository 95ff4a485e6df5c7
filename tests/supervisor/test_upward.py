"""What children tell their parents: stored, delivered until it is taken, and by the right route."""

from __future__ import annotations

import pytest

from protocol import control as c
from protocol.base import Accepted
from protocol.entries import Usage
from protocol.manifest import Restart
from protocol.pod_events import (
    Errored,
    PodEvent,
    ScopeSubDelegated,
    ShutDown,
    TurnEnded,
    line_for_model,
)
from protocol.scope import LentRule, Scope
from protocol.status import RunResult
from supervisor.core.fleet_terms import (
    DeliverNews,
    DeliverReport,
    ForgetReports,
    Instruction,
    ReportAnswered,
    Spawned,
    StoreReport,
)
from supervisor.core.health import HealthLimits
from supervisor.core.life import LifePolicy
from supervisor.core.reports import CAPACITY, Report, Reports
from supervisor.core.upward import AGAIN_S
from tests.supervisor.fleets import Driven, manifest, replies
from tests.supervisor.lives import CRASH, DONE
from tests.supervisor.test_children import SRC, bear, family, reports, spawn

RESTARTED = LifePolicy(restart=Restart.ALWAYS)


def ended(name: str = "kid") -> TurnEnded:
    return TurnEnded(pod_name=name, result=RunResult.FINISHED, usage=Usage(input_tokens=1))


def failed(name: str = "kid") -> Errored:
    return Errored(pod_name=name, code="tool_error", message="no")


def gone(name: str = "kid") -> ShutDown:
    return ShutDown(pod_name=name, cause="exit code 1", scope=(SRC,))


def report(
    fleet: Driven, event: PodEvent, id: str = "e1", *, sender: str = "kid"
) -> list[Instruction]:
    """Have a pod report; its request has a new id each time."""
    request = f"{id} at {fleet.now} of {sender}"
    return fleet.ask(c.ReportUp(event_id=id, event=event), request, sender)


def delivered(out: list[Instruction]) -> list[tuple[str, str]]:
    """Return to whom what is to be sent."""
    return [(one.parent, one.event_id) for one in out if isinstance(one, DeliverReport)]


def stored(out: list[Instruction]) -> list[tuple[str, str]]:
    return [(one.parent, one.event_id) for one in out if isinstance(one, StoreReport)]


def ids(told: DeliverNews) -> tuple[str, ...]:
    """Return the events that news are about."""
    return tuple(one.event_id for one in told.news)


def news(out: list[Instruction]) -> list[DeliverNews]:
    return [one for one in out if isinstance(one, DeliverNews)]


def take(fleet: Driven, *ids: str, parent: str = "boss") -> list[Instruction]:
    return fleet.feed(ReportAnswered(parent, ids))


def wait(fleet: Driven, seconds: int, *pods: str) -> list[Instruction]:
    """Let seconds pass, in which these pods beat."""
    out: list[Instruction] = []
    for _ in range(seconds):
        for pod in pods:
            out += fleet.beat(pod, fleet.fleet.member(pod).health.seq + 1)
        out += fleet.silent(1)
    return out


def generations(*, policy: LifePolicy = RESTARTED) -> Driven:
    """top -> middle -> leaf, all ready; the first two come back by themselves."""
    fleet = Driven().add("top", policy=policy)
    bear(fleet, "middle", "top", policy=policy)
    bear(fleet, "leaf", "middle")
    return fleet.up("top", "middle", "leaf")


# -- from a pod


def test_report_is_stored_before_it_is_delivered_and_its_sender_is_answered() -> None:
    fleet = family()
    out = report(fleet, ended())
    told = StoreReport("boss", "e1", ended()), DeliverReport("boss", "e1", ended())
    assert [one for one in out if isinstance(one, StoreReport | DeliverReport)] == list(told)
    (reply,) = replies(out)
    assert (reply.ok, reply.body) == (True, Accepted())


@pytest.mark.parametrize("event", [ended("boss"), failed("top"), ended("")])
def test_sender_of_a_report_is_who_sent_it_whatever_it_says(event: PodEvent) -> None:
    ((_, told),) = reports(report(family(), event))
    assert told == event.model_copy(update={"pod_name": "kid"})


@pytest.mark.parametrize(
    "event", [gone(), ScopeSubDelegated(parent_pod="kid", sub_pod="bud", scope=(SRC,))]
)
def test_what_only_a_supervisor_may_tell_is_nothing_when_a_pod_tells_it(event: PodEvent) -> None:
    (reply,) = report(family(), event)
    assert replies([reply])[0].ok


def test_report_of_a_pod_without_a_parent_is_taken_and_told_to_nobody() -> None:
    (reply,) = report(Driven().add("boss").up("boss"), ended("boss"), sender="boss")
    assert replies([reply])[0].body == Accepted()


def test_report_that_is_sent_again_by_the_same_request_is_answered_from_memory() -> None:
    fleet = family()
    report(fleet, ended())
    (reply,) = report(fleet, ended())
    assert replies([reply])[0].ok


def test_report_that_is_sent_again_by_another_request_waits_once() -> None:
    fleet = family()
    report(fleet, ended())
    fleet.now += 1.0
    report(fleet, ended())
    assert take(fleet, "e1") == [ForgetReports("boss", ("e1",))]
    assert take(fleet, "e1") == []


def test_report_that_waits_is_told_once_whoever_sends_it_again() -> None:
    fleet = family()
    assert delivered(report(fleet, ended())) == [("boss", "e1")]
    fleet.now += 1.0
    again = report(fleet, ended())
    assert (stored(again), delivered(again)) == ([], [])
    (reply,) = replies(again)
    assert (reply.ok, reply.body) == (True, Accepted())


def test_report_that_comes_again_after_it_was_taken_keeps_the_id_by_which_its_parent_knows_it() -> (
    None
):
    fleet = family()
    report(fleet, ended())
    take(fleet, "e1")
    fleet.now += 1.0
    assert delivered(report(fleet, ended())) == [("boss", "e1")]
    assert take(fleet, "e1") == [ForgetReports("boss", ("e1",))]


# -- until it is taken


def test_report_is_taken_once_and_then_forgotten() -> None:
    fleet = family()
    report(fleet, ended())
    assert take(fleet, "e1") == [ForgetReports("boss", ("e1",))]
    assert take(fleet, "e1") == []
    assert delivered(wait(fleet, 20, "boss", "kid")) == []


def test_report_that_is_not_taken_is_tried_again_every_five_seconds() -> None:
    fleet = family()
    assert delivered(report(fleet, ended())) == [("boss", "e1")]
    assert delivered(wait(fleet, int(AGAIN_S), "boss", "kid")) == []
    assert delivered(wait(fleet, 1, "boss", "kid")) == [("boss", "e1")]
    assert delivered(wait(fleet, int(AGAIN_S), "boss", "kid")) == []
    assert delivered(wait(fleet, 1, "boss", "kid")) == [("boss", "e1")]
    assert AGAIN_S == 5.0


def test_report_whose_parent_gave_no_answer_is_kept_and_tried_again() -> None:
    fleet = family()
    report(fleet, ended())
    assert fleet.feed(ReportAnswered("boss", ("e1",), final=False)) == []
    assert delivered(wait(fleet, 6, "boss", "kid")) == [("boss", "e1")]


def test_report_that_the_parent_refuses_for_good_is_forgotten() -> None:
    fleet = family()
    report(fleet, ended())
    refused = ReportAnswered("boss", ("e1",), final=True)
    assert fleet.feed(refused) == [ForgetReports("boss", ("e1",))]


def test_reports_are_taken_one_by_one() -> None:
    fleet = family()
    for number in range(3):
        report(fleet, ended(), f"e{number}")
    assert take(fleet, "e1") == [ForgetReports("boss", ("e1",))]
    assert delivered(wait(fleet, 6, "boss", "kid")) == [("boss", "e0"), ("boss", "e2")]


def test_answer_to_what_nobody_waits_for_is_nothing() -> None:
    fleet = family()
    assert take(fleet, "e9", parent="nobody") == []
    assert take(fleet, "e9") == []


# -- to a parent that is away


def test_report_for_a_silent_parent_is_stored_and_delivered_when_it_is_heard() -> None:
    fleet = family()
    wait(fleet, 12, "kid")
    assert fleet.status("boss") == "unreachable"
    out = report(fleet, ended())
    assert (stored(out), delivered(out)) == ([("boss", "e1")], [])
    assert delivered(wait(fleet, 10, "kid")) == [], "it is not tried while it is away"
    assert delivered(fleet.beat("boss", 1)) == [("boss", "e1")]


def test_report_for_a_parent_that_is_started_again_is_delivered_with_its_hello() -> None:
    fleet = family()
    fleet.exit("boss", CRASH)
    for status in ("stopping", "starting"):
        assert fleet.status("boss") == status
        out = report(fleet, ended(), status)
        assert (stored(out), delivered(out)) == ([("boss", status)], [])
        fleet.clear("boss")
    fleet.now += 1.0
    assert delivered(fleet.join("boss")) == [("boss", "stopping"), ("boss", "starting")]


def test_report_that_the_incarnation_before_did_not_answer_is_delivered_to_the_next() -> None:
    fleet = family()
    assert delivered(report(fleet, ended())) == [("boss", "e1")]
    fleet.gone("boss", CRASH)
    fleet.now += 1.0
    assert delivered(fleet.join("boss")) == [("boss", "e1")]


def test_report_of_an_earlier_supervisors_life_is_delivered_by_this_one() -> None:
    fleet = Driven().add("boss")
    bear(fleet, "kid", "boss")
    fleet.fleet.upward.remember([Report("boss", "e1", failed()), Report("boss", "e2", gone())])
    fleet.start("boss")
    out = fleet.join("boss")
    assert delivered(out) == [("boss", "e1")]
    assert [ids(one) for one in news(out)] == [("e2",)]
    assert take(fleet, "e1", "e2") == [ForgetReports("boss", ("e1", "e2"))]


def test_report_for_a_pod_that_the_fleet_has_no_more_harms_nobody() -> None:
    fleet = family()
    fleet.fleet.upward.remember([Report("nobody", "e1", failed())])
    assert delivered(wait(fleet, 10, "boss", "kid")) == []


# -- in a new process


def orphaned(*kids: str) -> Driven:
    """A boss that is on its way back, and kids that ended meanwhile."""
    fleet = Driven().add("boss", policy=RESTARTED)
    for kid in (*kids, "stays"):
        bear(fleet, kid, "boss")
    fleet.up("boss", *kids, "stays")
    fleet.gone("boss", CRASH)
    for kid in kids:
        fleet.gone(kid, CRASH)
    fleet.now += 1.0
    return fleet


def test_restarted_parent_is_told_of_all_that_ended_in_one_notification() -> None:
    fleet = orphaned("one", "two")
    out = fleet.join("boss")
    assert delivered(out) == []
    (told,) = news(out)
    assert (told.parent, told.request_id) == ("boss", "boss/2/while_away")
    lines = [line_for_model(gone("one")), line_for_model(gone("two"))]
    assert told.heading == "While you were away:"
    assert [one.line for one in told.news] == lines
    assert ids(told) == ("one/1/shut_down", "two/1/shut_down")


def test_restarted_parent_is_told_one_by_one_of_what_did_not_end() -> None:
    fleet = orphaned("one")
    report(fleet, ended(), sender="stays")
    out = fleet.join("boss")
    assert delivered(out) == [("boss", "e1")]
    assert len(news(out)) == 1


def test_restarted_parent_whose_children_all_live_gets_no_notification() -> None:
    assert news(orphaned().join("boss")) == []


def test_news_that_are_taken_are_forgotten() -> None:
    fleet = orphaned("one", "two")
    (told,) = news(fleet.join("boss"))
    assert take(fleet, *ids(told)) == [ForgetReports("boss", ids(told))]
    out = wait(fleet, 20, "boss", "stays")
    assert (news(out), delivered(out)) == ([], [])


def test_parent_that_was_only_silent_is_told_of_each_end_by_itself() -> None:
    """The same process goes on: its run may wait for this child."""
    fleet = family()
    wait(fleet, 12, "kid")
    fleet.gone("kid", CRASH)
    out = fleet.beat("boss", 1)
    assert delivered(out) == [("boss", "kid/1/shut_down")]
    assert news(out) == []


def test_end_of_a_child_while_its_parent_listens_is_told_at_once() -> None:
    out = family().gone("kid", CRASH)
    assert delivered(out) == [("boss", "kid/1/shut_down")]
    assert reports(out) == [("boss", gone())]


def test_second_hello_of_one_process_brings_nothing_again() -> None:
    fleet = orphaned("one")
    fleet.join("boss")
    fleet.now += 1.0
    out = fleet.hello("boss")
    assert (news(out), delivered(out)) == ([], [])


# -- by which route


def test_report_goes_to_the_grandparent_while_the_parent_is_at_rest() -> None:
    """Pitfalls 24 and 29: the route is derived from who is up."""
    fleet = generations()
    assert stored(report(fleet, ended(), "e1", sender="leaf")) == [("middle", "e1")]
    fleet.ask(c.Stop(pods=("middle",)), "stop")
    assert stored(report(fleet, ended(), "e2", sender="leaf")) == [("middle", "e2")], "it lives"
    fleet.gone("middle")
    assert stored(report(fleet, ended(), "e3", sender="leaf")) == [("top", "e3")]
    fleet.ask(c.Restore(pod="middle"), "restore")
    fleet.join("middle")
    assert stored(report(fleet, ended(), "e4", sender="leaf")) == [("middle", "e4")]


def test_end_of_a_child_is_told_to_the_grandparent_while_the_parent_is_at_rest() -> None:
    fleet = generations()
    fleet.ask(c.Stop(pods=("middle",)), "stop")
    fleet.gone("middle")
    out = fleet.gone("leaf", CRASH)
    assert reports(out) == [("middle", gone("leaf")), ("top", gone("leaf"))]
    assert delivered(out) == [("top", "leaf/1/shut_down")]
    fleet.ask(c.Restore(pod="middle"), "restore")
    assert [ids(one) for one in news(fleet.join("middle"))] == [("leaf/1/shut_down",)]


def test_parent_that_was_at_rest_with_nobody_above_is_told_of_everything_in_one_notification() -> (
    None
):
    """Pitfall 29: whoever is restored hears of its children, and is not woken for it."""
    fleet = Driven().add("boss")
    for kid in ("one", "two"):
        bear(fleet, kid, "boss")
    fleet.up("boss", "one", "two")
    fleet.ask(c.Stop(pods=("boss",)), "stop")
    fleet.gone("boss")
    told = report(fleet, ended("two"), "e1", sender="two")
    told += report(fleet, failed("one"), "e2", sender="one")
    told += fleet.gone("one", CRASH)
    waits = [("boss", "e1"), ("boss", "e2"), ("boss", "one/1/shut_down")]
    assert (stored(told), delivered(told)) == (waits, [])
    assert delivered(wait(fleet, 10, "two")) == []
    fleet.ask(c.Restore(pod="boss"), "restore")
    out = fleet.join("boss")
    assert delivered(out) == []
    assert [ids(one) for one in news(out)] == [("e1", "e2", "one/1/shut_down")]


def test_newcomer_is_no_news_for_a_model() -> None:
    fleet = generations()
    fleet.ask(c.Stop(pods=("top",)), "stop")
    fleet.gone("top")
    assert ("top", "bud/1/sub_delegated") in stored(spawn(fleet, "bud", "leaf"))
    fleet.ask(c.Restore(pod="top"), "restore")
    out = fleet.join("top")
    assert news(out) == []
    assert delivered(out) == [("top", "bud/1/sub_delegated")]


def test_what_waits_for_a_pod_at_rest_is_delivered_when_it_is_restored() -> None:
    fleet = generations()
    fleet.exit("middle", DONE)
    report(fleet, ended(), sender="leaf")
    fleet.ask(c.Stop(pods=("middle",)), "stop")
    fleet.clear("middle")
    assert "middle" not in dict(delivered(wait(fleet, 10, "top", "leaf")))
    fleet.ask(c.Restore(pod="middle"), "restore")
    assert delivered(fleet.join("middle")) == [("middle", "e1")]


def test_what_waits_for_one_parent_is_nothing_to_another() -> None:
    fleet = generations()
    report(fleet, ended(), sender="leaf")
    report(fleet, ended(), sender="middle")
    assert take(fleet, "e1", parent="top") == [ForgetReports("top", ("e1",))]
    assert delivered(wait(fleet, 6, "top", "middle", "leaf")) == [("middle", "e1")]


def test_reports_for_a_deleted_pod_are_forgotten_and_its_children_report_to_its_parent() -> None:
    fleet = generations()
    fleet.exit("middle", DONE)
    for number in range(2):
        report(fleet, ended(), f"e{number}", sender="leaf")
    report(fleet, ended(), "top's", sender="middle")
    fleet.ask(c.Stop(pods=("middle",)), "stop")
    fleet.clear("middle")
    out = fleet.ask(c.Delete(pods=("middle",)))
    assert [one for one in out if isinstance(one, ForgetReports)] == [
        ForgetReports("middle", ("e0", "e1"))
    ]
    assert stored(report(fleet, ended(), "e2", sender="leaf")) == [("top", "e2")]
    assert ("top", "top's") in delivered(wait(fleet, 6, "top", "leaf"))


def test_end_of_a_pod_names_what_those_below_it_go_on_to_write() -> None:
    """Pitfall 24: who is told that it may write there must know where its grandchild does."""
    fleet = generations()
    spawn(fleet, "bud", "leaf", scope=Scope())
    fleet.ask(c.Stop(pods=("middle",)), "stop")
    out = fleet.gone("middle")
    kept = (LentRule(**dict(SRC), pod="leaf"),)
    told = ShutDown(pod_name="middle", cause="stop asked", scope=(SRC,), kept=kept)
    assert reports(out) == [("top", told)]
    assert fleet.operation("stop").result == {
        "reclaimed": {"middle": ["/w/src"]},
        "kept": {"middle": {"/w/src": "leaf"}},
    }


def test_child_that_is_back_before_its_parent_was_told_was_never_gone() -> None:
    fleet = Driven().add("boss", policy=RESTARTED)
    bear(fleet, "kid", "boss")
    fleet.up("boss", "kid")
    fleet.exit("boss", CRASH)
    assert stored(fleet.gone("kid", CRASH)) == [("boss", "kid/1/shut_down")]
    fleet.ask(c.Restore(pod="kid"), "restore")
    assert ForgetReports("boss", ("kid/1/shut_down",)) in fleet.join("kid")
    fleet.clear("boss")
    fleet.now += 1.0
    out = fleet.join("boss")
    assert (news(out), delivered(out)) == ([], [])


def test_child_that_is_back_leaves_what_is_told_of_others() -> None:
    fleet = orphaned("one", "two")
    fleet.ask(c.Restore(pod="two"), "restore")
    fleet.join("two")
    (told,) = news(fleet.join("boss"))
    assert ids(told) == ("one/1/shut_down",)


@pytest.mark.parametrize("was_up", [True, False])
def test_child_that_cannot_come_back_is_told_where_its_parent_takes_it_to_be_up(
    was_up: bool,
) -> None:
    fleet = Driven().add("boss").up("boss")
    fleet.fleet.add(
        manifest("kid"),
        policy=LifePolicy(restart=Restart.NEVER),
        limits=HealthLimits(),
        parent="boss",
        was_up=was_up,
    )
    fleet.ask(c.Restore(pod="kid"), "restore")
    assert stored(fleet.refuse("kid")) == [("boss", "kid/1/shut_down")] * was_up


def test_end_of_the_whole_fleet_is_told_to_nobody() -> None:
    fleet = family()
    out = fleet.ask(c.Down()) + fleet.gone("kid") + fleet.gone("boss")
    assert reports(out) == []


# -- of a newcomer


def test_newcomer_is_told_to_each_above_its_spawner_and_not_to_the_spawner() -> None:
    fleet = generations()
    out = spawn(fleet, "bud", "leaf")
    told = ScopeSubDelegated(parent_pod="leaf", sub_pod="bud", scope=(SRC,))
    assert reports(out) == [("middle", told), ("top", told)]
    ids = [("middle", "bud/1/sub_delegated"), ("top", "bud/1/sub_delegated")]
    assert delivered(out) == ids


def test_newcomer_of_a_top_level_pod_is_told_to_nobody() -> None:
    fleet = Driven().add("boss").up("boss")
    assert reports(spawn(fleet, "kid", "boss")) == []


def test_newcomer_is_told_once_however_often_it_is_started_again() -> None:
    fleet = generations()
    out = spawn(fleet, "bud", "leaf", policy=RESTARTED)
    assert [parent for parent, _ in reports(out)] == ["middle", "top"]
    out = fleet.gone("bud", CRASH) + fleet.join("bud")
    assert reports(out) == []


def test_newcomer_that_never_came_up_is_told_to_nobody() -> None:
    fleet = generations()
    bear(fleet, "bud", "leaf")
    out = fleet.feed(Spawned("spawn", "bud")) + fleet.fork("bud") + fleet.gone("bud", CRASH)
    assert reports(out) == []


def test_child_that_starts_with_its_fleet_is_no_newcomer() -> None:
    fleet = Driven().add("top")
    for name, parent in (("middle", "top"), ("leaf", "middle")):
        bear(fleet, name, parent)
    out = fleet.start("top", "middle", "leaf")
    out += [one for name in ("top", "middle", "leaf") for one in fleet.join(name)]
    assert reports(out) == []


# -- how many may wait


def waiting(reports: Reports, parent: str = "boss") -> list[str]:
    return [one.event_id for one in reports.due(parent, before=float("inf"))]


def fill(reports: Reports, *events: PodEvent, parent: str = "boss") -> list[str]:
    """Store events by their number; returns the ids that had to go."""
    return [
        dropped.event_id
        for number, event in enumerate(events)
        for dropped in reports.store(Report(parent, str(number), event))
    ]


def test_hundred_and_twenty_eight_wait_for_one_parent_and_the_oldest_goes_first() -> None:
    reports = Reports()
    assert fill(reports, *[ended()] * (CAPACITY + 2)) == ["0", "1"]
    assert waiting(reports) == [str(number) for number in range(2, CAPACITY + 2)]
    assert CAPACITY == 128


def test_each_parent_has_its_own_hundred_and_twenty_eight() -> None:
    reports = Reports()
    for parent in ("boss", "top"):
        assert fill(reports, *[ended()] * CAPACITY, parent=parent) == []
    assert sorted(reports.parents()) == ["boss", "top"]


@pytest.mark.parametrize("kept", [failed(), gone()], ids=["errored", "shut_down"])
def test_what_went_wrong_or_ended_is_never_dropped(kept: PodEvent) -> None:
    reports = Reports()
    assert fill(reports, *[kept] * (CAPACITY + 5)) == []
    assert len(waiting(reports)) == CAPACITY + 5


@pytest.mark.parametrize("kept", [failed(), gone()], ids=["errored", "shut_down"])
def test_oldest_that_may_be_lost_goes_for_what_may_not(kept: PodEvent) -> None:
    reports = Reports()
    events = [kept, kept, *[ended()] * (CAPACITY - 2), kept, kept]
    assert fill(reports, *events) == ["2", "3"]
    assert waiting(reports)[:3] == ["0", "1", "4"]
    assert waiting(reports)[-2:] == [str(CAPACITY), str(CAPACITY + 1)]


def test_newcomer_that_may_be_lost_goes_where_all_others_may_not() -> None:
    reports = Reports()
    assert fill(reports, *[failed()] * CAPACITY, ended()) == [str(CAPACITY)]


def test_report_that_is_known_takes_no_place_and_keeps_its_turn() -> None:
    reports = Reports()
    fill(reports, *[ended()] * CAPACITY)
    assert fill(reports, ended("again")) == []
    assert waiting(reports)[0] == "0"
    (first,) = reports.take("boss", ["0"])
    assert first.event == ended()


def test_dropped_reports_are_written_down_as_such() -> None:
    fleet = family()
    fleet.exit("boss", CRASH)
    outs = [report(fleet, ended(), f"e{number}") for number in range(CAPACITY + 1)]
    assert not any(isinstance(one, ForgetReports) for out in outs[:-1] for one in out)
    assert outs[-1][-2:] == [
        StoreReport("boss", f"e{CAPACITY}", ended()),
        ForgetReports("boss", ("e0",)),
    ]


def test_report_is_due_until_it_is_handed_out_and_again_after_a_while() -> None:
    reports = Reports()
    fill(reports, ended(), failed())
    first, second = reports.due("boss", before=0.0)
    first.sent_at = 10.0
    assert reports.due("boss", before=10.0) == [second]
    assert reports.due("boss", before=10.1) == [first, second]
    assert reports.due("nobody", before=99.0) == []
    assert [one.event_id for one in reports.take("boss", ["0", "1"])] == ["0", "1"]
    assert reports.parents() == []
