"""A silent pod is suspect, unreachable, ended; a supervisor that was away blames nobody."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

from protocol import control as c
from protocol.errors import Unreachable
from supervisor.client import AsyncClient, Client
from tests.e2e.fleets import (
    DEADLINE_S,
    Watching,
    answers,
    bash,
    below,
    claims,
    connect,
    connected,
    fleet,
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
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

SHORT = "beat_interval_s = 0.2\nunreachable_after_s = 2.0\nhang_timeout_s = 0.0"
AWAY_S = 6.0
SCOPE = 'scope = { allow = [{ target = "out/NAME", permission = "write" }] }'


@pytest.fixture(scope="module")
def impatient(shared_home: Home) -> Home:
    """Pods whose silence soon counts; only bob is ended for it."""
    jobs = answers(bash("jobs", "setsid sleep 8701 & true"))
    pods = [
        '"alice"\n' + SCOPE.replace("NAME", "alice"),
        '"bob"\nhang_timeout_s = 3.0\nstop_grace_s = 0.5\n' + jobs,
    ]
    start(shared_home, fleet(*pods, supervisor=SHORT))
    return shared_home


@pytest.fixture
def client(impatient: Home) -> Iterator[Client]:
    """A connection to them."""
    with connect(impatient) as client:
        yield client


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Keep processes from running, without their knowing."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        eventually(lambda: all(stat_of(pid)[0] == "T" for pid in pids), "they are stopped")
        yield
    finally:
        for pid in pids:
            if is_alive(pid):
                os.kill(pid, signal.SIGCONT)


def test_silent_pod_is_suspect_then_unreachable_keeps_its_scope_and_comes_back(
    impatient: Home, client: Client
) -> None:
    pid = pid_of(client, "alice")
    held = [one for one in claims(impatient) if one["pod"] == "alice"]
    assert [rule["target"] for rule in held[0]["scope_allow"] if rule["permission"] == "write"]

    with stopped(pid):
        suspect = eventually(
            lambda: (found := row(client, "alice")).flags and found, "suspect", DEADLINE_S
        )
        assert suspect
        assert (suspect.flags, suspect.status) == (("suspect",), "idle")
        lost = wait_status(client, "alice", "unreachable")
        assert lost.pid == pid
        with pytest.raises(Unreachable):
            client.request("alice", "run", text_run("anybody there?"))
        assert [one for one in claims(impatient) if one["pod"] == "alice"] == held
        locks: c.Allocations = client.control(c.Locks())
        assert [one.state for one in locks.allocations if one.pod == "alice"] == ["held"]

    back = wait_status(client, "alice", "idle")
    assert (back.pid, back.incarnation, back.restarts) == (pid, 1, 0)
    assert run_to_end(impatient, "alice", "there you are").result == "finished"


def test_pod_silent_over_its_hang_timeout_is_ended_with_its_tree_and_started_again(
    impatient: Home, client: Client
) -> None:
    assert run_to_end(impatient, "bob", "jobs").result == "finished"
    pid = pid_of(client, "bob")
    eventually(lambda: running(impatient, "sleep 8701"), "the job runs", DEADLINE_S)
    tree = [pid, *below(pid)]

    with stopped(*tree):
        reborn = wait_reborn(client, "bob", pid)
        assert [one for one in tree if is_alive(one)] == []

    assert (row(client, "bob").incarnation, row(client, "bob").restarts) == (2, 1)
    assert reborn not in tree
    assert "hang" in why(client, "bob")
    log: c.LogsTail = client.control(c.LogsTailOf(pod="bob", previous=True))
    assert log.path.endswith("/1.log")


async def _events_while(home: Home, away: Iterable[int], supervisor: int) -> list[str]:
    """Stop the processes for 6 s; return what the fleet told until two looks after that."""
    async with connected(home) as client:
        watching = await Watching(client).fleet()
        with stopped(*away):
            end = time.monotonic() + AWAY_S
            eventually(lambda: time.monotonic() >= end, "time passes", AWAY_S + DEADLINE_S)
        woken = (await _ping(client)).uptime_s
        async with asyncio.timeout(DEADLINE_S):
            while (await _ping(client)).uptime_s < woken + 2.5:
                await asyncio.sleep(0.05)
        assert (await _ping(client)).pid == supervisor
        # An event of our own: what was published before it has been seen when it is.
        await client.control(c.Stop(pods=(), all_pods=False), timeout_s=DEADLINE_S)
        await watching.until(lambda seen: "operation" in watching.names(), "the last event")
        return watching.names()


async def _ping(client: AsyncClient) -> c.Pong:
    pong: c.Pong = await client.control(c.Ping())
    return pong


@pytest.mark.parametrize("sleeper", ["the supervisor", "supervisor and pods"])
def test_supervisor_that_was_away_for_6_s_declares_nobody_lost(
    impatient: Home, client: Client, sleeper: str
) -> None:
    pids = {pod: wait_reborn(client, pod, 0) for pod in ("alice", "bob")}
    incarnations = {pod: row(client, pod).incarnation for pod in pids}
    pong: c.Pong = client.control(c.Ping())
    away = [pong.pid, *(pids.values() if sleeper == "supervisor and pods" else ())]

    names = asyncio.run(_events_while(impatient, away, pong.pid))

    assert not {"pod_unreachable", "pod_exited", "pod_starting"} & set(names), names
    for pod, pid in pids.items():
        found = row(client, pod)
        assert (found.pid, found.incarnation) == (pid, incarnations[pod])
        assert (found.status, found.flags) == ("idle", ())
