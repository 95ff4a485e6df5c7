"""The supervisor dies without a word: what the next one, or `down`, makes of it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter

import pytest

from protocol import control as c
from protocol.entries import Invoke, RunErrored, UserInput
from tests.e2e.fleets import (
    DEADLINE_S,
    answers,
    bash,
    below,
    callers,
    claims,
    command_of,
    connect,
    fleet,
    history,
    is_alive,
    pid_of,
    row,
    run_to_end,
    running,
    start,
    text_run,
    wait_status,
)
from tests.support.home import Home
from tests.support.leftovers import kill_all
from tests.support.waiting import eventually, wait_for_exit

pytestmark = pytest.mark.process

SCOPE = 'scope = {{ allow = [{{ target = "{0}", permission = "write" }}] }}\n'
JOB = bash("job", "setsid sleep 8801 & true")
LONG = bash("long", "echo once >> a/marks; sleep 8802")


def two_pods() -> str:
    """Return a fleet whose pods hold claims; alice can leave jobs and work for long."""
    alice = '"alice"\n' + SCOPE.format("a") + answers(JOB, LONG)
    return fleet(alice, '"bob"\n' + SCOPE.format("b"))


def kill_supervisor(home: Home) -> int:
    """Kill the supervisor alone, and return its pid."""
    with connect(home) as client:
        pid: int = client.control(c.Ping()).pid
    os.kill(pid, signal.SIGKILL)
    wait_for_exit(pid)
    return pid


def inputs(home: Home, pod: str) -> list[str]:
    """Return the texts that were submitted to a pod."""
    with connect(home) as client:
        entries = [entry for entry in history(client, pod) if isinstance(entry, UserInput)]
    return [getattr(entry.segments[0], "content", "") for entry in entries]


def pids(home: Home) -> dict[str, int]:
    """Return the pods' pids."""
    with connect(home) as client:
        return {pod: pid_of(client, pod) for pod in ("alice", "bob")}


def test_next_start_ends_the_recorded_pods_then_continues_their_sessions(home: Home) -> None:
    start(home, two_pods())
    assert run_to_end(home, "alice", "before").result == "finished"
    assert run_to_end(home, "alice", "job").result == "finished"
    before = pids(home)
    jobs = eventually(lambda: running(home, "sleep 8801"), "the job runs", DEADLINE_S)
    kill_supervisor(home)
    assert home.podsup("ps", ok=4).stdout == ""

    starting = subprocess.Popen(
        [*home.command, "start", "-d", "--wait", "idle"],
        cwd=home.work,
        env=home.env,
        stdin=subprocess.DEVNULL,
    )
    most: Counter[str] = Counter()
    looks = 0
    while starting.poll() is None:
        looks += 1
        alive = Counter(command_of(pid) for pid in running(home, "podsup pod "))
        most |= Counter({n: k for n, k in alive.items() if n.endswith(("alice", "bob"))})
    assert starting.wait() == 0
    assert looks > 10
    assert set(most.values()) == {1}, f"two processes of one pod: {most}"

    assert not any(is_alive(pid) for pid in (*before.values(), *jobs))
    after = pids(home)
    assert not set(after.values()) & set(before.values())
    assert inputs(home, "alice") == ["before", "job"]
    assert run_to_end(home, "alice", "after").result == "finished"
    assert inputs(home, "alice") == ["before", "job", "after"]
    with connect(home) as client:
        assert row(client, "alice").incarnation == 2
    assert sorted(one["pod"] for one in claims(home)) == ["alice", "bob"]


@pytest.mark.parametrize("pods", ["awake", "stopped"])
def test_down_without_a_supervisor_leaves_no_process_socket_or_claim(home: Home, pods: str) -> None:
    start(home, two_pods())
    assert run_to_end(home, "alice", "job").result == "finished"
    eventually(lambda: running(home, "sleep 8801"), "the job runs", DEADLINE_S)
    if pods == "stopped":
        for pid in pids(home).values():
            os.kill(pid, signal.SIGSTOP)
    left = [*home.processes()]
    kill_supervisor(home)

    home.podsup("down", "--grace", "1")

    assert home.processes() == {}
    assert [pid for pid in left if is_alive(pid)] == []
    assert running(home, "sleep 8801") == []
    assert home.sockets() == []
    assert claims(home) == []
    assert list((home.home / "scope/life").iterdir()) == []
    assert "not running" in home.podsup("down").stdout


def test_everything_killed_at_once_starts_again_with_its_history_and_no_tool_run_twice(
    home: Home,
) -> None:
    start(home, two_pods())
    assert run_to_end(home, "alice", "before").result == "finished"
    with connect(home) as client:
        client.request("alice", "run", text_run("long"), request_id="cut")
    marks = home.work / "a/marks"
    eventually(lambda: marks.read_text() == "once\n", "the tool runs", DEADLINE_S)
    kill_all(home.root)
    assert home.processes() == {}

    home.podsup("start", "-d", "--wait", "idle")

    with connect(home) as client:
        wait_status(client, "alice", "idle")
        entries = history(client, "alice")
        assert [e.request_id for e in entries if isinstance(e, Invoke)][-1] == "cut"
        (errored,) = (e for e in entries if isinstance(e, RunErrored))
        assert (errored.code, errored.interrupted) == ("interrupted", True)
    assert run_to_end(home, "alice", "after").result == "finished"
    assert inputs(home, "alice") == ["before", "long", "after"]
    assert run_to_end(home, "bob", "and you?").result == "finished"
    assert marks.read_text() == "once\n"
    assert running(home, "sleep 8802") == []


def test_down_after_everything_was_killed_says_so_and_leaves_nothing(home: Home) -> None:
    start(home, two_pods())
    kill_all(home.root)
    home.podsup("down")
    assert (home.sockets(), claims(home), home.processes()) == ([], [], {})


def test_supervisor_that_gets_sigterm_ends_its_fleet(home: Home) -> None:
    start(home, two_pods())
    with connect(home) as client:
        supervisor = client.control(c.Ping()).pid
        tree = [supervisor, *below(supervisor)]
    os.kill(supervisor, signal.SIGTERM)
    wait_for_exit(supervisor, DEADLINE_S)
    assert [pid for pid in tree if is_alive(pid)] == []
    assert (home.sockets(), claims(home)) == ([], [])


def test_control_repeated_with_its_id_to_the_next_supervisor_is_not_done_again(home: Home) -> None:
    start(home, two_pods())
    with callers(home) as (caller,):
        first = caller.call("", "restart", c.Restart(pods=("bob",)), request_id="restart-once")
        assert first.ok
    with connect(home) as client:
        eventually(lambda: row(client, "bob").incarnation == 2, "bob restarted", DEADLINE_S)
        wait_status(client, "bob", "idle")
    kill_supervisor(home)
    home.podsup("start", "-d", "--wait", "idle")
    with connect(home) as client, callers(home) as (caller,):
        before = row(client, "bob").incarnation
        again = caller.call("", "restart", c.Restart(pods=("bob",)), request_id="restart-once")
        assert (again.ok, again.body) == (True, first.body)
        caller.call("", "restart", c.Restart(pods=("alice",)), request_id="a-fence")
        eventually(lambda: row(client, "alice").incarnation == 3, "alice restarted", DEADLINE_S)
        assert row(client, "bob").incarnation == before
