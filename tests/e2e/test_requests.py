"""Every request gets exactly one answer, to its asker alone; repeated, it still has one effect.

The callers speak the wire by themselves: the product's client would hide an answer too many. A
fence at the end (another request, answered later on the same connection) proves that none is on
its way any more.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from protocol import control as c
from protocol import methods as m
from protocol.base import Wire
from protocol.entries import Invoke, SystemItemEntry
from supervisor.client import Client
from tests.e2e.fleets import (
    DEADLINE_S,
    Answer,
    Caller,
    answers,
    callers,
    connect,
    fleet,
    history,
    pid_of,
    row,
    run_to_end,
    start,
    stat_of,
    text_run,
    wait_reborn,
    wait_status,
)
from tests.support.home import Home
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

SLOW = 'match = "slow"\nrepeat = true\ntext = "so slow"\ndelay_ms = 60000'
SPOKEN = 'match = "speak"\nrepeat = true\ntext = "half of it, then silence"\nhang_s = 60.0'
READ = m.ListCompletions(kind="file", prefix="d")


@pytest.fixture(scope="module")
def fleet_home(shared_home: Home) -> Home:
    """A pod that can be slow, and one that is not."""
    alice = '"alice"\nrestart = "always"\nstop_grace_s = 1.0\n' + answers(SLOW, SPOKEN)
    start(shared_home, fleet(alice, '"bob"'))
    return shared_home


@pytest.fixture
def client(fleet_home: Home) -> Iterator[Client]:
    """A connection; afterwards alice is idle again, whatever was done to her."""
    with connect(fleet_home) as client:
        yield client
        pid = row(client, "alice").pid
        if pid is not None and stat_of(pid)[0] == "T":
            os.kill(pid, signal.SIGCONT)
        client.operate(c.Restart(pods=("alice",)))
        wait_status(client, "alice", "idle")


def begin(client: Client, text: str) -> None:
    """Have alice in a run."""
    client.request("alice", "run", text_run(text))
    wait_status(client, "alice", "running")


def begin_speaking(client: Client) -> None:
    """Have alice in a run that has output, and so is not taken back when it is stopped."""
    begin(client, "speak")
    eventually(lambda: client.snapshot("alice")["in_flight"]["blocks"], "she speaks", DEADLINE_S)


def kill(client: Client, caller: Caller) -> None:
    os.kill(pid_of(client, "alice"), signal.SIGKILL)


def freeze(client: Client, caller: Caller) -> None:
    os.kill(pid_of(client, "alice"), signal.SIGSTOP)


def shut_down(client: Client, caller: Caller) -> None:
    caller.ask("", "stop", c.Stop(pods=("alice",)))


def burst(caller: Caller) -> list[str]:
    """Send reads, notifications and a run, each to be answered within a second."""
    asked: list[tuple[str, Wire]] = [("list_completions", READ), ("list_rewind_targets", NOTHING)]
    asked += [("notify", m.Notify(message=f"note {n}", auto_run=False)) for n in range(8)]
    asked += [("run", text_run("hello")), ("get_history", m.GetHistory())]
    return [caller.ask("alice", method, body, deadline_ms=1000) for method, body in asked]


NOTHING = m.ListRewindTargets()


@pytest.mark.parametrize("harm", [kill, freeze, shut_down])
@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_every_request_gets_one_answer_and_only_its_asker_gets_it(
    fleet_home: Home,
    client: Client,
    harm: Callable[[Client, Caller], None],
    when: str,
) -> None:
    with callers(fleet_home, 3) as (first, second, other):
        if when == "during":
            begin(client, "slow")
        if when == "before":
            harm(client, other)
        asked = {caller: burst(caller) for caller in (first, second)}
        if when == "during":
            harm(client, other)
        for caller, ids in asked.items():
            caller.wait(*ids)
        if when == "after":
            harm(client, other)

        pid = row(client, "alice").pid
        if harm is freeze:
            os.kill(pid or 0, signal.SIGCONT)
            wait_status(client, "alice", "idle", "running")
        else:
            client.operate(c.Restart(pods=("alice",)))
        for caller, ids in asked.items():
            caller.fence("alice")
            counts = Counter(one.id for one in caller.answers if one.id in ids)
            assert counts == dict.fromkeys(ids, 1)
            foreign = {one.id for one in caller.answers} & set(asked[_other(asked, caller)])
            assert not foreign
            codes = {one.code for one in caller.answers if one.id in ids}
            assert codes <= {"ok", "unreachable", "timeout", "already_running"}, codes


def _other(asked: dict[Caller, list[str]], caller: Caller) -> Caller:
    return next(one for one in asked if one is not caller)


def test_deadline_that_is_over_is_answered_with_timeout_and_the_late_reply_is_dropped(
    fleet_home: Home, client: Client
) -> None:
    pid = pid_of(client, "alice")
    with callers(fleet_home) as (caller,):
        os.kill(pid, signal.SIGSTOP)
        note = m.Notify(message="late", auto_run=False)
        late = caller.call("alice", "notify", note, deadline_ms=300)
        assert late.code == "timeout"
        os.kill(pid, signal.SIGCONT)
        caller.fence("alice")
        assert caller.of(late.id) == [late]


def test_more_requests_than_may_wait_for_a_stopped_pod_are_refused_and_none_is_lost(
    fleet_home: Home, client: Client
) -> None:
    pid = pid_of(client, "alice")
    with callers(fleet_home, 10) as opened:
        os.kill(pid, signal.SIGSTOP)
        asked = {
            caller: [caller.ask("alice", "list_completions", READ) for _ in range(32)]
            for caller in opened
        }
        refused = 32 * len(opened) - 256
        eventually(
            lambda: _count(asked, "overloaded") == refused, "the rest is refused", DEADLINE_S
        )
        os.kill(pid, signal.SIGCONT)
        for caller, ids in asked.items():
            caller.wait(*ids)
            caller.fence("alice")
            assert Counter(one.id for one in caller.answers if one.id in ids) == dict.fromkeys(
                ids, 1
            )
        assert (_count(asked, "ok"), _count(asked, "overloaded")) == (256, refused)


def _count(asked: dict[Caller, list[str]], code: str) -> int:
    total = 0
    for caller, ids in asked.items():
        caller.fence()
        total += sum(1 for one in caller.answers if one.id in ids and one.code == code)
    return total


def test_requests_to_one_pod_do_not_wait_for_another_that_is_stopped(
    fleet_home: Home, client: Client
) -> None:
    with callers(fleet_home, 2) as (stuck, free):
        pid = pid_of(client, "alice")
        os.kill(pid, signal.SIGSTOP)
        waiting = stuck.ask("alice", "list_completions", READ)
        assert all(free.call("bob", "list_completions", READ).ok for _ in range(50))
        assert stuck.call("", "ping").ok
        assert stuck.of(waiting) == []
        os.kill(pid, signal.SIGCONT)
        assert stuck.wait(waiting)[0].ok


def test_disk_that_keeps_one_waiting_keeps_nobody_else_waiting(
    fleet_home: Home, client: Client
) -> None:
    with callers(fleet_home) as (caller,), open(fleet_home.home / "scope/table.lock") as table:
        fcntl.flock(table, fcntl.LOCK_EX)
        caller.ask("", "restart", c.Restart(pods=("bob",)))
        wait_status(client, "bob", "starting")
        for _ in range(20):
            assert caller.call("", "list", c.ListFleet()).ok
            assert caller.call("alice", "list_completions", READ).ok
        begin(client, "slow")
        assert row(client, "bob").status == "starting", "its claim still waits"
    wait_status(client, "bob", "idle")


@pytest.mark.parametrize(
    ("to", "code"),
    [("nobody", "unknown_pod"), ("alice", "unreachable")],
    ids=["unknown", "stopped"],
)
def test_request_to_a_pod_that_is_not_there_is_answered(
    fleet_home: Home, client: Client, to: str, code: str
) -> None:
    client.operate(c.Stop(pods=("alice",)))
    with callers(fleet_home) as (caller,):
        for method, body in (("list_completions", READ), ("run", text_run("hello"))):
            assert caller.call(to, method, body).code == code


# -- repeated ------------------------------------------------------------------------------------


def repeated(home: Home, to: str, method: str, body: Wire, request_id: str) -> list[Answer]:
    """Send a request twice at once, then from a new connection as after a lost reply."""
    with callers(home, 2) as (first, second):
        for _ in range(2):
            first.ask(to, method, body, request_id=request_id)
        first.wait(request_id)
        first.fence()
        found = [*first.of(request_id), second.call(to, method, body, request_id=request_id)]
    assert 2 <= len(found) <= 3
    return found


def test_repeated_run_is_one_run_with_one_reply_also_after_the_pod_was_restarted(
    fleet_home: Home, client: Client
) -> None:
    body = text_run("only once")
    replies = repeated(fleet_home, "alice", "run", body, "run-once")
    wait_status(client, "alice", "idle")
    os.kill(pid := pid_of(client, "alice"), signal.SIGKILL)
    wait_reborn(client, "alice", pid)
    replies += repeated(fleet_home, "alice", "run", body, "run-once")
    wait_status(client, "alice", "idle")

    assert [one.code for one in replies] == ["ok"] * len(replies)
    assert all(one.body == replies[0].body for one in replies)
    invoked = [e for e in history(client, "alice") if isinstance(e, Invoke)]
    assert [e.request_id for e in invoked].count("run-once") == 1


def test_repeated_notification_is_told_once_also_after_the_pod_was_restarted(
    fleet_home: Home, client: Client
) -> None:
    body = m.Notify(message="told only once", auto_run=False)
    replies = repeated(fleet_home, "alice", "notify", body, "note-once")
    os.kill(pid := pid_of(client, "alice"), signal.SIGKILL)
    wait_reborn(client, "alice", pid)
    replies += repeated(fleet_home, "alice", "notify", body, "note-once")
    assert run_to_end(fleet_home, "alice", "any news?").result == "finished"
    replies += repeated(fleet_home, "alice", "notify", body, "note-once")
    assert run_to_end(fleet_home, "alice", "any more?").result == "finished"

    assert [one.code for one in replies] == ["ok"] * len(replies)
    items = [e for e in history(client, "alice") if isinstance(e, SystemItemEntry)]
    assert sum(1 for e in items if e.item.body == "told only once") == 1


def test_repeated_pause_resume_and_cancel_are_answered_as_the_first_time(
    fleet_home: Home, client: Client
) -> None:
    begin_speaking(client)
    for method, body, after in (
        ("pause", m.Pause(), "paused"),
        ("resume", m.Resume(), "running"),
        ("cancel", m.Cancel(), "idle"),
    ):
        replies = repeated(fleet_home, "alice", method, body, f"{method}-once")
        assert [one.code for one in replies] == ["ok"] * len(replies), method
        wait_status(client, "alice", after)
        late = repeated(fleet_home, "alice", method, body, f"{method}-once")
        assert [one.code for one in late] == ["ok"] * len(late), f"{method}, when it is long done"
        assert row(client, "alice").status == after
        if method == "resume":
            old = repeated(fleet_home, "alice", "pause", m.Pause(), "pause-once")
            assert {one.code for one in old} == {"ok"}
            assert row(client, "alice").status == "running", "the old pause stops nothing again"


def test_repeated_refusal_stays_a_refusal_when_the_pod_would_accept_by_now(
    fleet_home: Home, client: Client
) -> None:
    first = repeated(fleet_home, "alice", "pause", m.Pause(), "pause-idle")
    begin(client, "speak")
    again = repeated(fleet_home, "alice", "pause", m.Pause(), "pause-idle")
    assert {one.code for one in first + again} == {"not_running"}
    assert row(client, "alice").status == "running"


def test_repeated_rewind_takes_back_one_input(fleet_home: Home, client: Client) -> None:
    for text in ("keep me", "take me back"):
        assert run_to_end(fleet_home, "alice", text).result == "finished"
    listed: m.RewindTargets = client.send("alice", m.ListRewindTargets())
    target = m.RewindTargetId(
        segment_id=listed.targets[0].segment_id,
        user_input_entry_index=listed.targets[0].user_input_entry_index,
    )
    body = m.RewindTo(target=target, expected_head_entries=listed.head_entries)
    replies = repeated(fleet_home, "alice", "rewind_to", body, "rewind-once")
    assert [one.code for one in replies] == ["ok"] * len(replies)
    assert all(one.body == replies[0].body for one in replies)
    left: m.RewindTargets = client.send("alice", m.ListRewindTargets())
    assert [t.preview for t in left.targets] == [t.preview for t in listed.targets[1:]]


def test_repeated_shutdown_of_a_pod_is_answered(fleet_home: Home, client: Client) -> None:
    with callers(fleet_home) as (caller,):
        pid = pid_of(client, "alice")
        for _ in range(3):
            caller.ask("alice", "shutdown", m.ShutdownMethod(), request_id="shut-once")
        first = caller.wait("shut-once")[0]
        assert first.code == "ok"
        reborn = wait_reborn(client, "alice", pid)
        caller.fence("alice")
        assert {one.code for one in caller.of("shut-once")} <= {"ok", "unreachable"}
        assert pid_of(client, "alice") == reborn


def _spawn(client: Client) -> dict[str, Any]:
    return {"name": "carol", "task": "look"}


@pytest.mark.parametrize(
    "verb", ["stop", "kill", "restart", "restore", "spawn", "delete", "reclaim"]
)
def test_repeated_control_is_one_operation_with_one_reply(
    fleet_home: Home, client: Client, verb: str
) -> None:
    last = {one.name: one.incarnation for one in client.control(c.ListFleet()).pods}
    names = list(last)
    if verb in ("restore", "delete"):
        if "carol" not in names:
            client.operate(c.Spawn(table=_spawn(client)))
        client.operate(c.Stop(pods=("carol",)))
    elif verb == "spawn" and "carol" in names:
        client.operate(c.Stop(pods=("carol",)))
        client.operate(c.Delete(pods=("carol",)))
    body: c.Control = {
        "stop": c.Stop(pods=("alice",)),
        "kill": c.Kill(pods=("alice",)),
        "restart": c.Restart(pods=("alice",)),
        "restore": c.Restore(pod="carol"),
        "spawn": c.Spawn(table=_spawn(client)),
        "delete": c.Delete(pods=("carol",)),
        "reclaim": c.Reclaim(),
    }[verb]
    target = "carol" if verb in ("restore", "spawn", "delete") else "alice"
    before = last | {one.name: one.incarnation for one in client.control(c.ListFleet()).pods}

    replies = repeated(fleet_home, "", verb, body, f"{verb}-once")
    assert len({str(one.body) for one in replies}) == 1, replies
    assert {one.code for one in replies} <= {"ok", "invalid_request"}
    if replies[0].ok:
        wanted = {"stop": "stopped", "kill": "stopped", "delete": "gone"}.get(verb, "idle")
        eventually(lambda: _status(client, target) == wanted, f"{target} is {wanted}", DEADLINE_S)
    replies += repeated(fleet_home, "", verb, body, f"{verb}-once")

    assert len({str(one.body) for one in replies}) == 1, replies
    after = {one.name: one.incarnation for one in client.control(c.ListFleet()).pods}
    started = {"restart": 1, "restore": 1, "spawn": 1}.get(verb, 0)
    if verb == "delete":
        assert target not in after
    else:
        assert after[target] == before.get(target, 0) + started


def _status(client: Client, pod: str) -> str:
    ps: c.Ps = client.control(c.ListFleet())
    return {one.name: one.status.value for one in ps.pods}.get(pod, "gone")
