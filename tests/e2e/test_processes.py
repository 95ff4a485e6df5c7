"""One OS process per pod: who forked it, what it holds, how it dies, and what dies with it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol import control as c
from protocol import events as ev
from protocol.entries import RunErrored, UserInput
from supervisor.client import Client
from tests.e2e.fleets import (
    DEADLINE_S,
    Watching,
    answers,
    bash,
    below,
    callers,
    command_of,
    connect,
    connected,
    fleet,
    history,
    is_alive,
    pid_of,
    row,
    run_to_end,
    running,
    start,
    stat_of,
    text_run,
    wait_reborn,
    wait_status,
    why,
)
from tests.support.home import Home
from tests.support.waiting import eventually, wait_for_exit

pytestmark = pytest.mark.process

JOBS = {
    "new session": "setsid sleep 86{n}1 & ",
    "double fork": "(sleep 86{n}2 &) ; (setsid sh -c 'sleep 86{n}3 & exit' &) ; ",
    "nohup": "nohup sleep 86{n}4 >/dev/null 2>&1 & ",
    "no environment": "env -i setsid /bin/sleep 86{n}5 & ",
}
"""Ways of getting away from whoever started you."""


def jobs(number: int) -> str:
    """Return a command that starts them all, told apart from other tests' by `number`."""
    return "".join(JOBS.values()).format(n=number) + "true"


@pytest.fixture(scope="module")
def waiting_pods(shared_home: Home) -> Home:
    """Two pods that wait."""
    start(shared_home, fleet('"alice"', '"bob"'))
    return shared_home


@pytest.fixture
def shared(waiting_pods: Home) -> Iterator[Client]:
    """A connection to the two pods that wait."""
    with connect(waiting_pods) as client:
        yield client


def zygote_of(supervisor: int) -> int:
    """Return the one fork server below a supervisor, once it is there."""

    def probe() -> int:
        (found,) = (pid for pid in below(supervisor) if "podproc.zygote" in command_of(pid))
        return found

    return eventually(probe, "there is a zygote", DEADLINE_S)


def supervisor_of(client: Client) -> int:
    """Return the supervisor's pid, as it says."""
    pong: c.Pong = client.control(c.Ping())
    return pong.pid


def test_each_pod_is_one_process_forked_from_the_zygote_and_dies_alone(shared: Client) -> None:
    supervisor = supervisor_of(shared)
    alice, bob = pid_of(shared, "alice"), pid_of(shared, "bob")
    zygote = zygote_of(supervisor)

    assert len({alice, bob, zygote, supervisor}) == 4
    assert {stat_of(pid)[1] for pid in (alice, bob)} == {zygote}
    assert stat_of(zygote)[1] == supervisor
    assert len({os.readlink(f"/proc/{pid}/exe") for pid in (alice, bob, zygote, supervisor)}) == 1

    os.kill(alice, signal.SIGKILL)
    wait_for_exit(alice)
    assert is_alive(bob)
    reborn = wait_reborn(shared, "alice", alice)
    assert stat_of(reborn)[1] == zygote
    assert (pid_of(shared, "bob"), zygote_of(supervisor)) == (bob, zygote)


def held_by(pid: int) -> dict[int, str]:
    """Return what a process has open, an eventfd with its number in the kernel."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        target = os.readlink(f"/proc/{pid}/fd/{name}")
        info = Path(f"/proc/{pid}/fdinfo/{name}").read_text()
        if number := re.search(r"eventfd-id:\s*(\d+)", info):
            target = f"eventfd {number[1]}"
        found[int(name)] = target
    return found


def test_fresh_pod_holds_its_own_descriptors_and_nobody_elses(
    shared: Client, shared_home: Home
) -> None:
    pid = wait_reborn(shared, "alice", 0)
    incarnation = row(shared, "alice").incarnation
    home, held = shared_home.home, held_by(pid)
    log = f"{home}/data/logs/alice/{incarnation}.log"

    assert {fd: held.pop(fd) for fd in (0, 1, 2)} == {0: "/dev/null", 1: log, 2: log}
    files = sorted(target for target in held.values() if target.startswith("/"))
    own = [f"{home}/scope/life/", f"{home}/data/pods/alice/inbox.jsonl"]
    assert len(files) == 2, files
    assert files[1].startswith(own[0]), files
    assert files[1].endswith(f".{incarnation}"), files
    assert files[0] == own[1], files
    rest = {re.sub(r"\W*\d+\W*$", "", target) for target in held.values() if target not in files}
    assert rest <= {"socket", "eventfd", "anon_inode:[eventpoll]"}, held

    supervisor = supervisor_of(shared)
    for other in (supervisor, zygote_of(supervisor), pid_of(shared, "bob")):
        common = set(held.values()) & set(held_by(other).values()) - {"anon_inode:[eventpoll]"}
        assert not common, f"shared with {command_of(other)}: {common}"


def test_zygote_killed_leaves_pods_alone_and_a_later_death_still_has_its_cause(
    shared: Client, shared_home: Home
) -> None:
    supervisor = supervisor_of(shared)
    pids = {pod: wait_reborn(shared, pod, 0) for pod in ("alice", "bob")}
    zygote = zygote_of(supervisor)

    os.kill(zygote, signal.SIGKILL)
    wait_for_exit(zygote)
    for pod, pid in pids.items():
        assert run_to_end(shared_home, pod, "still there?").result == "finished"
        assert pid_of(shared, pod) == pid
    successor = zygote_of(supervisor)
    assert successor != zygote

    os.kill(pids["bob"], signal.SIGKILL)
    reborn = wait_reborn(shared, "bob", pids["bob"])
    assert stat_of(reborn)[1] == successor
    exit_ = row(shared, "bob").last_exit
    assert exit_ is not None
    assert (exit_.signal, exit_.code) == ("SIGKILL", None)
    assert "SIGKILL" in why(shared, "bob")
    assert pid_of(shared, "alice") == pids["alice"]


def test_pods_log_file_is_its_stdout_and_stderr(shared: Client, shared_home: Home) -> None:
    pid = wait_reborn(shared, "alice", 0)
    log = shared_home.home / f"data/logs/alice/{row(shared, 'alice').incarnation}.log"
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (1, 2)} == {str(log)}

    os.kill(pid, signal.SIGUSR1)  # asks for the stacks
    eventually(lambda: "podproc" in log.read_text(), "the pod printed into its log", DEADLINE_S)
    tail: c.LogsTail = shared.control(c.LogsTailOf(pod="alice"))
    assert (tail.path, tail.text.strip()) == (str(log), log.read_text().strip())


def test_pod_killed_during_a_tool_comes_back_with_its_session_and_runs_no_tool_twice(
    home: Home,
) -> None:
    slow = bash("work", "echo once >> mine/marks; sleep 8601")
    scope = 'scope = { allow = [{ target = "mine", permission = "write" }] }\n'
    start(home, fleet('"alice"\n' + scope + answers(slow)))
    marks = home.work / "mine/marks"
    assert run_to_end(home, "alice", "before").result == "finished"

    async def killed_in_the_middle() -> ev.RunEnd:
        async with connected(home) as client:
            watching = await Watching(client).fleet()
            await client.request("alice", "run", text_run("work"), request_id="the-run")
            eventually(lambda: marks.read_text() == "once\n", "the tool runs", DEADLINE_S)
            status: c.StatusRow = await client.control(c.StatusOf(pod="alice"))
            os.kill(status.pid or 0, signal.SIGKILL)
            seen = await watching.until(
                lambda seen: any(isinstance(one.event, ev.RunEnd) for one in seen), "run_end"
            )
        return next(one.event for one in seen if isinstance(one.event, ev.RunEnd))

    end = asyncio.run(killed_in_the_middle())
    assert (end.request_id, end.result) == ("the-run", "errored")
    assert end.error is not None
    assert end.error.code == "interrupted"

    with connect(home) as client:
        wait_status(client, "alice", "idle")
        assert run_to_end(home, "alice", "after").result == "finished"
        inputs = [entry for entry in history(client, "alice") if isinstance(entry, UserInput)]
        texts = [getattr(entry.segments[0], "content", "") for entry in inputs]
        assert texts == ["before", "work", "after"]
        assert row(client, "alice").restarts == 1
    assert marks.read_text() == "once\n"
    assert running(home, "sleep 8601") == []


def test_run_taken_the_moment_a_pod_is_back_is_not_closed_as_the_one_its_death_cut(
    home: Home,
) -> None:
    start(home, fleet('"alice"'))
    assert run_to_end(home, "alice", "before").result == "finished"
    with connect(home) as client, callers(home) as (caller,):
        for number in range(10):
            born = row(client, "alice").incarnation
            caller.call("", "restart", c.Restart(pods=("alice",)))
            while row(client, "alice").incarnation == born:
                pass
            attempts = 1
            while not caller.call("alice", "run", text_run(f"run {number}")).ok:
                attempts += 1
            wait_status(client, "alice", "idle")
            closed = [e for e in history(client, "alice") if isinstance(e, RunErrored)]
            assert closed == [], f"restart {number}, after {attempts} attempts: {closed}"


def test_pod_whose_policy_is_never_stays_down_after_a_kill(home: Home) -> None:
    start(home, fleet('"alice"\nrestart = "never"', '"bob"\nrestart = "always"'))
    with connect(home) as client:
        pids = {pod: pid_of(client, pod) for pod in ("alice", "bob")}
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        ended = wait_status(client, "alice", "stopped", "failed")
        assert (ended.pid, ended.incarnation, ended.restarts) == (None, 1, 0)
        assert wait_reborn(client, "bob", pids["bob"])
        assert row(client, "bob").incarnation == 2


@pytest.mark.parametrize("frozen", ["nothing", "the pod", "the pod and all below it"])
def test_stop_does_not_return_while_a_descendant_lives(home: Home, frozen: str) -> None:
    pod = '"alice"\nstop_grace_s = 1.0\n' + answers(bash("jobs", jobs(1)))
    start(home, fleet(pod))
    assert run_to_end(home, "alice", "jobs").result == "finished"
    with connect(home) as client:
        pid = pid_of(client, "alice")
        eventually(lambda: len(running(home, "sleep 861")) == 5, "the jobs run", DEADLINE_S)
        tree = [pid, *below(pid)]
        assert set(running(home, "sleep 861")) < set(tree), "what a pod starts stays below it"
        stopped = {"nothing": [], "the pod": [pid], "the pod and all below it": tree}[frozen]
        for one in stopped:
            os.kill(one, signal.SIGSTOP)

        client.operate(c.Stop(pods=("alice",)))

        assert [one for one in tree if is_alive(one)] == []
        assert row(client, "alice").status == "stopped"


def test_what_a_pod_started_dies_with_it_even_while_no_supervisor_is_awake(home: Home) -> None:
    pod = '"alice"\nrestart = "never"\n' + answers(bash("jobs", jobs(2)))
    start(home, fleet(pod))
    assert run_to_end(home, "alice", "jobs").result == "finished"
    with connect(home) as client:
        pid, supervisor = pid_of(client, "alice"), supervisor_of(client)
        eventually(lambda: len(running(home, "sleep 862")) == 5, "the jobs run", DEADLINE_S)
        tree = below(pid)
        os.kill(supervisor, signal.SIGSTOP)
        try:
            os.kill(pid, signal.SIGKILL)
            eventually(
                lambda: not any(map(is_alive, tree)), "the keeper took all with it", DEADLINE_S
            )
        finally:
            os.kill(supervisor, signal.SIGCONT)
        wait_status(client, "alice", "stopped", "failed")
