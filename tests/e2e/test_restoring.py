"""Pods that come back, with their scope, their parent and what they missed; those that cannot."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from protocol import control as c
from protocol import methods as m
from protocol.entries import Invoke
from protocol.errors import Unreachable
from protocol.scope import Scope
from supervisor import life_lock
from supervisor.client import Client
from supervisor.scope_table import Claim, ScopeTable
from tests.e2e.fleets import (
    DEADLINE_S,
    below,
    callers,
    claims,
    connect,
    fleet,
    history,
    is_alive,
    journal,
    pid_of,
    pod_token,
    row,
    running,
    start,
    text_run,
    wait_reborn,
    wait_status,
    why,
)
from tests.e2e.test_children import (
    call,
    claimed,
    did,
    lends,
    on,
    parent,
    refused,
    spawn_call,
    spawned,
    stopped,
    told,
    told_once,
    well,
    writes,
)
from tests.support.home import Home
from tests.support.waiting import eventually, wait_for_exit

pytestmark = pytest.mark.process


def peer_pod(name: str, other: str) -> str:
    """Return a pod that tries all it can on another."""
    return parent(
        name,
        on("tell", call("SendToPeerPod", name=other, message=f"psst, {other}")),
        on("list", call("ListPods")),
        on("order", call("SendToPod", name=other, message="obey")),
        on("stop", call("StopPod", name=other)),
        on("read", call("ReadPodOutput", name=other)),
        on("look", call("InspectPod", name=other)),
        on("look at other", call("InspectPod", name="other")),
        on("tell other", call("SendToPeerPod", name="other", message="psst")),
        on("wait for other", call("WaitForPods", names=["other"])),
        on("restore other", call("RestorePod", name="other")),
        on("look at nobody", call("InspectPod", name="nobody")),
        on("restore nobody", call("RestorePod", name="nobody")),
    )


PARENTS = (
    parent(
        "losing",
        on("spawn", spawn_call("lost", "losing/kid")),
        on("restore", call("RestorePod", name="lost")),
        writes("write", "losing/kid"),
    ),
    parent(
        "away",
        on("spawn", spawn_call("away-one", "away/one"), spawn_call("away-two", "away/two")),
        on("list", call("ListPods")),
    ),
    parent(
        "froze",
        on("spawn", spawn_call("froze-one", "froze/one"), spawn_call("froze-two", "froze/two")),
    ),
    parent(
        "old",
        on("spawn mid", spawn_call("mid", "old/mid", delegation_scope=lends("old/mid"))),
        on("spawn low", spawn_call("low", "old/mid/low")),
        writes("write", "old/mid/low"),
    ),
    parent("other"),
    peer_pod("alice", "bob"),
    peer_pod("bob", "alice"),
)


@pytest.fixture(scope="module")
def family(shared_home: Home) -> Home:
    """A parent for each test, with a folder of its own name to lend."""
    start(shared_home, fleet(*PARENTS))
    return shared_home


@pytest.fixture
def client(family: Home) -> Iterator[Client]:
    """An operator's connection."""
    with connect(family) as client:
        yield client


def kill_supervisor(client: Client) -> None:
    """Kill the supervisor alone."""
    pid = client.control(c.Ping()).pid
    os.kill(pid, signal.SIGKILL)
    wait_for_exit(pid)


def runs(client: Client, pod: str) -> int:
    """Return how many runs a pod ever began."""
    return sum(isinstance(entry, Invoke) for entry in history(client, pod))


@contextmanager
def elsewhere(
    home: Home,
    pod: str,
    *,
    segment: tuple[str | None, str | None] = (None, None),
    supervisor: int | None = None,
    alive: bool = True,
) -> Iterator[None]:
    """A row of a pod of another home, whose supervisor is this process unless it is said."""
    us = f"elsewhere:{supervisor or os.getpid()}"
    table = ScopeTable(home.home / "scope", str(home.root / "elsewhere"), us)
    lock = life_lock.take(table.life_lock(pod, 1))
    try:
        session_id, segment_id = segment
        table.register(
            Claim(pod, 1, "a-token", Scope(), session_id=session_id, segment_id=segment_id)
        )
        if not alive:
            os.close(lock)
        yield
    finally:
        if alive:
            os.close(lock)
        table.release(pod, "a-token")


# -- what keeps a pod from being restored --------------------------------------------------------


def test_each_thing_that_keeps_a_pod_from_being_restored_has_its_own_answer(
    family: Home, client: Client
) -> None:
    spawned(client, "losing", "spawn", "lost")
    family.podsup("spawn", "silent", "--parent", "losing", "--write", "losing/silent", "--wait")
    lost = row(client, "lost")
    assert lost.session_id is not None
    client.operate(c.Stop(pods=("lost", "silent")))
    session = family.home / "data/sessions" / lost.session_id
    log = session / f"{lost.segment_id}.jsonl"
    record = family.home / "data/pods/lost/metadata.json"

    def restore(pod: str, code: int) -> tuple[str, str]:
        error = family.json("restore", pod, ok=code)["error"]
        assert row(client, pod).status == "stopped"
        assert pod not in claimed(family)
        return error["code"], error["message"]

    met = [restore("silent", 2)]
    assert "never began" in met[-1][1]

    aside = record.rename(record.with_name("aside.json"))
    met.append(restore("lost", 7))
    assert "no record of pod lost" in met[-1][1]
    aside.rename(record)

    aside = log.rename(log.with_name("aside.jsonl"))
    met.append(restore("lost", 1))
    assert f"{log} is gone" in met[-1][1]

    log.touch()
    met.append(restore("lost", 1))
    assert f"the log of pod lost is empty: {log}" in met[-1][1]
    aside.replace(log)

    with elsewhere(family, "holder", segment=(lost.session_id, lost.segment_id)):
        met.append(restore("lost", 6))
        assert "in use by 'holder' of elsewhere" in met[-1][1]
        assert "segment_conflict" in refused(client, "losing", "restore")

    assert [code for code, _ in met] == [
        "invalid_request",
        "unknown_pod",
        "internal",
        "internal",
        "segment_conflict",
    ]
    assert len({text for _, text in met}) == 5
    assert "up again" in well(client, "losing", "restore")
    after = row(client, "lost")
    assert (after.session_id, after.segment_id) == (lost.session_id, lost.segment_id)
    assert claimed(family)["lost"] == "losing"
    well(client, "lost", "write")


# -- what a parent has missed --------------------------------------------------------------------


def ends_on_disk(home: Home, parent: str) -> set[str]:
    """Return the ids of the ends that a parent is to be told, as the journal has them."""
    return {
        one["event_id"]
        for one in journal(home)
        if one["kind"] == "reported" and one["parent"] == parent and "shut_down" in one["event_id"]
    }


def taken(home: Home, parent: str) -> set[str]:
    """Return the ids of what a parent has been told."""
    told_of = [one for one in journal(home) if one["kind"] == "told" and one["parent"] == parent]
    return {event_id for one in told_of for event_id in one["event_ids"]}


def test_ends_that_a_parent_could_not_be_told_of_come_as_one_line_that_wakes_nobody(
    family: Home, client: Client
) -> None:
    spawned(client, "froze", "spawn", "froze-one", "froze-two")
    ids = {f"froze-{name}/1/shut_down" for name in ("one", "two")}
    pid, before = pid_of(client, "froze"), runs(client, "froze")
    with stopped(pid):
        for name in ("froze-one", "froze-two"):
            os.kill(pid_of(client, name), signal.SIGKILL)
        eventually(lambda: ends_on_disk(family, "froze") == ids, "both are stored", DEADLINE_S)
        os.kill(pid, signal.SIGKILL)
    wait_reborn(client, "froze", pid)
    eventually(lambda: ids <= taken(family, "froze"), "it was told", DEADLINE_S)
    assert (row(client, "froze").status, runs(client, "froze")) == ("idle", before)

    assert told(client, "froze", "has stopped") == []
    did(client, "froze", "anything?")
    (line,) = told(client, "froze", "has stopped")
    for name in ("froze-one", "froze-two"):
        assert f"Pod {name} has stopped: killed by SIGKILL" in line
    assert line.startswith("While you were away:")


def test_parent_that_was_stopped_is_told_on_its_return_of_the_child_that_ended_meanwhile(
    family: Home, client: Client
) -> None:
    spawned(client, "away", "spawn", "away-one", "away-two")
    before = runs(client, "away")
    client.operate(c.Stop(pods=("away",)))
    assert claimed(family)["away-one"] is None
    os.kill(pid_of(client, "away-one"), signal.SIGKILL)
    eventually(lambda: "away-one" not in claimed(family), "its claim is gone", DEADLINE_S)
    client.operate(c.Restore(pod="away"))
    listed = well(client, "away", "list")
    assert "away-one (child): failed" in listed
    assert "away-two (child): idle" in listed
    assert runs(client, "away") == before + 1, "nothing woke it"
    assert claimed(family)["away-two"] == "away"
    (line,) = told(client, "away", "has stopped")
    assert "away-one" in line
    assert "SIGKILL" in line


def test_end_that_a_parent_has_taken_is_not_told_again_by_the_next_supervisor(home: Home) -> None:
    start(home, fleet(parent("boss", on("spawn", spawn_call("kid", "boss/kid")))))
    with connect(home) as client:
        spawned(client, "boss", "spawn", "kid")
        pid = pid_of(client, "boss")
        with stopped(pid):
            os.kill(pid_of(client, "kid"), signal.SIGKILL)
            eventually(lambda: ends_on_disk(home, "boss"), "its end is stored", DEADLINE_S)
            kill_supervisor(client)
    inbox = home.home / "data/pods/boss/inbox.jsonl"
    eventually(lambda: "kid/1/shut_down" in inbox.read_text(), "the parent took it", DEADLINE_S)
    home.podsup("start", "-d", "--wait", "idle")
    with connect(home) as client:
        told_once(client, "boss", "Pod kid has stopped")


# -- whose child it is then ----------------------------------------------------------------------


def test_child_comes_back_below_the_nearest_of_its_line_that_lives_else_at_the_top(
    family: Home, client: Client
) -> None:
    spawned(client, "old", "spawn mid", "mid")
    spawned(client, "mid", "spawn low", "low")
    client.operate(c.Stop(pods=("low", "mid")))
    well(client, "old", "write")

    client.operate(c.Restore(pod="low"))
    assert (claimed(family)["low"], row(client, "low").parent) == ("old", "old")
    assert "low" in refused(client, "old", "write")
    well(client, "low", "write")
    client.operate(c.Stop(pods=("low", "old")))

    target = "old/mid/low"
    spawn = ("spawn", "squatter", "--write", target, "--wait")
    family.podsup(*spawn)
    error = family.json("restore", "low", ok=6)["error"]
    assert error["code"] == "write_conflict"
    for evidence in ("squatter", str(pid_of(client, "squatter")), str(family.work / target)):
        assert evidence in error["message"]
    client.operate(c.Stop(pods=("squatter",)))

    client.operate(c.Restore(pod="low"))
    assert (claimed(family)["low"], row(client, "low").parent) == (None, None)
    well(client, "low", "write")
    for pod, above in (("old", "old"), ("mid", "mid")):
        client.operate(c.Restore(pod=pod))
        assert (claimed(family)["low"], row(client, "low").parent) == (above, above)
        assert "low" in refused(client, pod, "write")
    assert claimed(family)["mid"] == "old"


def test_deleted_child_is_a_tombstone_of_its_parent_and_its_name_is_free(
    family: Home, client: Client
) -> None:
    spawn = ("spawn", "gone", "--parent", "other", "--write", "other/gone", "--wait")
    family.podsup(*spawn)
    first = claims(family)
    client.operate(c.Stop(pods=("gone",)))
    family.podsup("delete", "gone")
    with callers(family, token=pod_token(family, "other")) as (other,):
        seen = {one["name"]: one for one in other.call("", "list_pods", c.SeenPods()).body["pods"]}
    assert seen["gone"]["reason"].startswith("deleted")
    assert (seen["gone"]["restorable"], seen["gone"]["reachable"]) == (False, False)
    assert family.json("restore", "gone", ok=7)["error"]["code"] == "unknown_pod"
    family.podsup(*spawn)
    again = {one["pod"]: one["session_id"] for one in claims(family)}
    assert again["gone"] not in {one["session_id"] for one in first}


NARROW = parent(
    "boss",
    on("spawn", spawn_call("kept", "boss/kept"), spawn_call("left", "boss/left")),
    writes("write", "boss/kept"),
)


def test_child_of_a_parent_that_may_lend_less_by_now_does_not_come_back(home: Home) -> None:
    wide = fleet(NARROW)
    start(home, wide)
    with connect(home) as client:
        spawned(client, "boss", "spawn", "kept", "left")
    home.podsup("down")
    lent = f"delegation_scope = {{ allow = [{json_rule('boss')}] }}"
    assert lent in wide
    home.write("podsup.toml", wide.replace(lent, lent.replace('"boss"', '"boss/kept"')))

    said = home.podsup("start", "-d", "--wait", "idle", ok=1)
    assert "'boss' may not give 'left' so much any more" in said.stderr
    rows = {one["name"]: one["status"] for one in home.json("ps")["pods"]}
    assert rows == {"boss": "idle", "kept": "idle", "left": "failed"}
    assert claimed(home) == {"boss": None, "kept": "boss"}
    error = home.json("restore", "left", ok=12)["error"]
    assert error["code"] == "not_subset"
    with connect(home) as client:
        assert "not_subset" in why(client, "left")
        assert str(home.work / "boss/left") in row(client, "left").reason
        assert "kept" in refused(client, "boss", "write")
        well(client, "kept", "write")


def test_grandchild_is_judged_by_the_pod_whose_child_it_becomes(home: Home) -> None:
    script = (
        on("spawn", spawn_call("mid", "boss/mid", delegation_scope=lends("boss/mid"))),
        on("spawn low", spawn_call("before-mid", "boss/mid/low")),
        on("say", call("Bash", command="echo said")),
    )
    start(home, fleet(parent("boss", *script)))
    with connect(home) as client:
        spawned(client, "boss", "spawn", "mid")
        spawned(client, "mid", "spawn low", "before-mid")
        assert "said" in well(client, "before-mid", "say")
    home.podsup("down")
    no_bash = 'permissions = { rule = [{ tool = "Bash", action = "deny" }] }'
    home.write("podsup.toml", fleet(parent("boss", *script, more=no_bash)))

    home.podsup("start", "-d", "--wait", "idle", ok=1)
    with connect(home) as client:
        assert "denied" in refused(client, "boss", "say")
        assert "not_subset" in why(client, "mid")
        assert row(client, "before-mid").status == "failed", "it is boss's child, and may Bash"
        assert "not_subset" in why(client, "before-mid")
        assert claimed(home) == {"boss": None}


def json_rule(target: str) -> str:
    """Return a rule as `parent` writes it."""
    return f'{{ target = {json.dumps(target)}, permission = "write" }}'


def test_after_the_death_of_the_supervisor_what_was_lent_is_lent_from_the_first_moment_on(
    home: Home,
) -> None:
    script = (
        on("spawn", spawn_call("kid", "boss/kid", task="write")),
        on("work", call("Bash", command="sleep 8921")),
        writes("write", "boss/kid"),
        writes("write at once", "boss/kid"),
        on("tell", call("SendToPeerPod", name="bob", message="psst")),
    )
    start(home, fleet(parent("boss", *script), '"bob"'))
    home.podsup("peer", "boss", "bob")
    with connect(home) as client:
        spawned(client, "boss", "spawn", "kid")
        before = {pod: row(client, pod) for pod in ("boss", "kid")}
        client.run("boss", "work", wait=False)
        eventually(lambda: running(home, "sleep 8921"), "the parent works", DEADLINE_S)
        client.send("boss", m.Notify(message="write at once"))  # is read before anything else
        kill_supervisor(client)
    home.podsup("start", "-d", "--wait", "idle")

    lent = home.work / "boss/kid"
    with connect(home) as client:
        after = {pod: row(client, pod) for pod in before}
        for pod, known in before.items():
            assert not is_alive(known.pid or 0)
            assert (after[pod].session_id, after[pod].incarnation) == (known.session_id, 2)
        assert claimed(home) == {"boss": None, "kid": "boss", "bob": None}
        assert after["kid"].parent == "boss"

        def first_results() -> list[str]:
            text = json.dumps([entry.to_wire() for entry in history(client, "boss")])
            return [text] if "lent to pod kid" in text else []

        eventually(first_results, "its first write was refused", DEADLINE_S)
        assert sorted(os.listdir(lent)) == ["kid-1.txt"]
        well(client, "kid", "write")
        assert sorted(os.listdir(lent)) == ["kid-1.txt", "kid-2.txt"], "its task is not done again"
        eventually(lambda: len(told(client, "boss", "kid finished")) == 2, "it reports", DEADLINE_S)
        assert (row(client, "bob").peers, row(client, "boss").peers) == (("boss",), ("bob",))
        well(client, "boss", "tell")
        assert told_once(client, "bob", "psst") == "Message from pod boss: psst"


# -- peers ---------------------------------------------------------------------------------------

TO_A_PEER = {
    "run": text_run("obey"),
    "cancel": m.Cancel(),
    "pause": m.Pause(),
    "get_history": m.GetHistory(),
    "shutdown": m.ShutdownMethod(),
}


def test_peers_see_and_tell_each_other_and_nothing_more(family: Home, client: Client) -> None:
    assert "not_visible" in refused(client, "alice", "look")
    assert "forbidden" in refused(client, "alice", "tell")
    family.podsup("peer", "alice", "bob")
    pids = {pod: pid_of(client, pod) for pod in ("alice", "bob", "other")}
    for one, other in (("alice", "bob"), ("bob", "alice")):
        assert row(client, one).peers == (other,)
        assert f"{other} (peer): idle" in well(client, one, "look")
        assert "other" not in well(client, one, "list")
        well(client, one, "tell")
        assert told_once(client, other, "psst") == f"Message from pod {one}: psst, {other}"
    for text in ("order", "stop", "tell other"):
        assert "forbidden" in refused(client, "alice", text), text
    assert refused(client, "alice", "read").startswith("denied")
    for text in ("look at other", "wait for other", "restore other"):
        assert "not_visible" in refused(client, "alice", text), text
    for text in ("look at nobody", "restore nobody"):
        unknown = refused(client, "alice", text)
        assert "unknown_pod" in unknown
        assert "other" not in unknown, "nor is it told who there is"

    heard = len(history(client, "bob"))
    with callers(family, token=pod_token(family, "alice")) as (alice,):
        codes = {method: alice.call("bob", method, body).code for method, body in TO_A_PEER.items()}
        assert codes == dict.fromkeys(TO_A_PEER, "forbidden")
        for control in (c.Stop(pods=("bob",)), c.Kill(pods=("bob",))):
            assert alice.call("", control.method, control).code == "forbidden"
    assert {pod: pid_of(client, pod) for pod in pids} == pids
    assert len(history(client, "bob")) == heard
    family.podsup("peer", "alice", "alice", ok=2)
    family.podsup("peer", "alice", "nobody", ok=7)


# -- the silent and the dead ---------------------------------------------------------------------

IMPATIENT = "beat_interval_s = 0.2\nunreachable_after_s = 2.0\nhang_timeout_s = 0.0"
HASTY = "hang_timeout_s = 4.5\nstop_grace_s = 0.5\n"


@pytest.fixture(scope="module")
def impatient() -> Iterator[Home]:
    """A home whose supervisor soon takes a silent pod to be unreachable."""
    home = Home()
    home.write("profiles/hasty.toml", HASTY)
    scripts = {
        "boss": (
            on("spawn", spawn_call("kid", "boss/kid", profile="hasty")),
            on("job", call("Bash", command="setsid sleep 8931 & true")),
            writes("write", "boss/kid"),
        ),
        "lost": (on("spawn", spawn_call("left", "lost/left")), writes("write", "lost/left")),
    }
    try:
        pods = (parent(name, *script) for name, script in scripts.items())
        start(home, fleet(*pods, supervisor=IMPATIENT))
        yield home
        home.down()
    finally:
        home.remove()


def test_silent_child_keeps_its_scope_until_it_is_ended_and_proven_gone(impatient: Home) -> None:
    home = impatient
    with connect(home) as client:
        spawned(client, "boss", "spawn", "kid")
        did(client, "kid", "job")
        eventually(lambda: running(home, "sleep 8931"), "the job runs", DEADLINE_S)
        pid = pid_of(client, "kid")
        tree = [pid, *below(pid)]
        held = [one for one in claims(home) if one["pod"] == "kid"]

        def is_held() -> bool:
            locks: c.Allocations = client.control(c.Locks())
            state = [one.state for one in locks.allocations if one.pod == "kid"]
            return state == ["held"] and [o for o in claims(home) if o["pod"] == "kid"] == held

        with stopped(*tree):
            flagged = eventually(
                lambda: (seen := row(client, "kid")).flags and seen, "suspect", DEADLINE_S
            )
            assert flagged
            assert (flagged.flags, flagged.status) == (("suspect",), "idle")
            assert is_held()
            assert wait_status(client, "kid", "unreachable").pid == pid
            assert is_held()
            with pytest.raises(Unreachable):
                client.send("kid", text_run("anybody there?"))
            assert "kid" in refused(client, "boss", "write")
            assert told(client, "boss", "has stopped") == []
            eventually(lambda: "kid" not in claimed(home), "its claim is back", DEADLINE_S)
            assert [one for one in tree if is_alive(one)] == []
        assert "hang" in told_once(client, "boss", "Pod kid has stopped")
        well(client, "boss", "write")
        ended = wait_status(client, "kid", "failed")
        assert (ended.incarnation, ended.restarts) == (1, 0)
        story = why(client, "kid")
        steps = (
            "idle -> unreachable: silent",
            "unreachable -> stopping: hang",
            "stopping -> failed",
        )
        places = [story.index(step) for step in steps]
        assert places == sorted(places), story
    events = [one for one in home.json("events", "--pod", "kid")["events"]]
    wanted = ("pod_ready", "pod_unreachable", "pod_exited", "pod_failed", "scope_reclaimed")
    assert [one["event"] for one in events if one["event"] in wanted] == list(wanted)
    by_name = {one["event"]: one["data"] for one in events}
    assert by_name["pod_unreachable"]["silence_s"] >= 2.0
    assert "hang" in by_name["pod_failed"]["cause"]


def test_scope_that_comes_back_to_a_silent_parent_is_its_own_when_it_speaks_again(
    impatient: Home,
) -> None:
    with connect(impatient) as client:
        spawned(client, "lost", "spawn", "left")
        with stopped(pid := pid_of(client, "lost")):
            wait_status(client, "lost", "unreachable")
            asked = ("spawn", "more", "--parent", "lost", "--write", "lost/more", "--wait")
            assert impatient.json(*asked, ok=3)["error"]["code"] == "unreachable"
            os.kill(pid_of(client, "left"), signal.SIGKILL)
            eventually(lambda: "left" not in claimed(impatient), "it is gone", DEADLINE_S)
        wait_status(client, "lost", "idle", "running")
        told_once(client, "lost", "Pod left has stopped")

        def is_written() -> bool:
            (result,) = did(client, "lost", "write")
            return not result.is_error

        eventually(is_written, "it writes there again", DEADLINE_S)
        assert pid_of(client, "lost") == pid
        impatient.podsup(*asked)


def test_reclaim_removes_what_is_dead_with_its_supervisor_and_says_why_the_rest_is_left(
    home: Home,
) -> None:
    start(home, fleet(parent("alice")))
    second = home.write(
        "second/podsup.toml", f'[fleet]\nname = "second"\n[[pod]]\nname = {parent("rival")}'
    )
    there = ("--home", str(home.root / "h2"))
    home.podsup(*there, "start", str(second), "-d", "--wait", "idle")
    with Client("second", home=str(home.root / "h2")) as rivals:
        supervisor = rivals.control(c.Ping()).pid
    with connect(home) as client, elsewhere(home, "kept", alive=False):
        settled: c.Reclaimed = client.control(c.Reclaim())
        assert settled.reclaimed == ()
        assert settled.left == {
            "alice": "alive",
            "rival": "alive",
            "kept": "dead; its supervisor may start it again",
        }
        tree = [supervisor, *below(supervisor)]
        with stopped(*tree):  # so that none restarts another
            for pid in tree:
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: not any(map(is_alive, tree)), "all of it is dead", DEADLINE_S)
        assert "rival" in claimed(home)

        def reclaimed() -> list[str]:
            lines = home.podsup("reclaim").stdout.splitlines()
            return lines if "rival" not in "".join(lines[1:]) else []

        lines = eventually(reclaimed, "its supervisor is no process any more", DEADLINE_S)
        assert lines == [
            "reclaimed: rival",
            "  left alice: alive",
            "  left kept: dead; its supervisor may start it again",
        ]
        assert claimed(home) == {"alice": None, "kept": None}
        assert row(client, "alice").status == "idle"
        home.podsup("spawn", "heir", "--write", str(home.work / "second/rival"), "--wait")
    home.podsup(*there, "--fleet", "second", "down")
