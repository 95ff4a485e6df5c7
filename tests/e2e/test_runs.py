"""Runs from the first word to the status after the end, and the task that is delivered once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from protocol import control as c
from protocol import events as ev
from protocol import methods as m
from protocol.entries import Invoke, SystemItemEntry, UserInput
from supervisor.client import AsyncClient, Client
from supervisor.reach import new_id
from tests.e2e.fleets import (
    DEADLINE_S,
    Seen,
    Watching,
    answers,
    bash,
    connect,
    connected,
    fleet,
    history,
    pid_of,
    row,
    run_is_over,
    run_to_end,
    start,
    text_run,
    wait_reborn,
    wait_status,
)
from tests.support.home import Home
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

SCRIPT = answers(
    'match = "^say$"\nrepeat = true\ntext = "forty-two"',
    'match = "^speak$"\nrepeat = true\ntext = "half of it, then silence"\nhang_s = 60.0',
    'match = "^ponder$"\nrepeat = true\ntext = "late"\ndelay_ms = 60000',
    'match = "^fail$"\nrepeat = true\nfail = { status = 400, message = "no such model" }',
    'match = "^cut short$"\nrepeat = true\ntext = "and so"\nstop_reason = "max_tokens"',
    bash("^count$", "echo one; echo two"),
)


@pytest.fixture(scope="module")
def fleet_home(shared_home: Home) -> Home:
    """A pod for every way a run can end."""
    shared_home.write("data.txt", "6 times 7\n")
    start(shared_home, fleet('"alice"\nrestart = "always"\n' + SCRIPT, '"bob"'))
    return shared_home


@pytest.fixture
def client(fleet_home: Home) -> Iterator[Client]:
    """A connection; alice is idle before and after."""
    with connect(fleet_home) as client:
        wait_status(client, "alice", "idle")
        yield client
        if wait_status(client, "alice", "idle", "running", "paused").status != "idle":
            client.send("alice", m.Cancel())
        wait_status(client, "alice", "idle")


async def speaking(watching: Watching) -> None:
    """Return when the run has output."""
    await watching.until(lambda seen: "text_delta" in watching.names(), "she speaks")


async def nothing(client: AsyncClient, watching: Watching) -> None:
    """Let the run go on."""


async def pause(client: AsyncClient, watching: Watching) -> None:
    await speaking(watching)
    await client.send("alice", m.Pause())


async def cancel(client: AsyncClient, watching: Watching) -> None:
    await speaking(watching)
    await client.send("alice", m.Cancel())


async def cancel_at_once(client: AsyncClient, watching: Watching) -> None:
    await client.send("alice", m.Cancel())


ENDS = {
    "finished": ("say", nothing, "idle"),
    "finished, with a tool": ("count", nothing, "idle"),
    "errored": ("fail", nothing, "idle"),
    "limit_reached": ("cut short", nothing, "idle"),
    "paused": ("speak", pause, "paused"),
    "cancelled": ("speak", cancel, "idle"),
    "rolled_back": ("ponder", cancel_at_once, "idle"),
}


@pytest.mark.parametrize("how", ENDS)
def test_run_ends_with_exactly_one_run_end_and_then_its_status(
    fleet_home: Home, client: Client, how: str
) -> None:
    text, act, status = ENDS[how]
    request_id = new_id()

    async def watch_both() -> tuple[list[Seen], list[Seen]]:
        async with connected(fleet_home) as client:
            pod = await Watching(client).pod("alice")
            whole = await Watching(client).fleet()
            await client.request("alice", "run", text_run(text), request_id=request_id)
            await act(client, pod)
            is_over = run_is_over(request_id)
            seen = await pod.until(is_over, "its end"), await whole.until(is_over, "its end")
            # Whatever came after the end has been published when a later request is answered.
            await client.send("alice", m.ListCompletions(kind="knowledge"))
            return seen

    for seen in asyncio.run(watch_both()):
        mine = [one for one in seen if one.header.pod == "alice"]
        ends = [one.event for one in mine if isinstance(one.event, ev.RunEnd)]
        assert [(end.result, end.request_id) for end in ends] == [
            (how.partition(",")[0], request_id)
        ]
        (end,) = (n for n, one in enumerate(mine) if isinstance(one.event, ev.RunEnd))
        after = [one.event for one in mine[end + 1 :] if one.event.event == "status"]
        assert [one.to_wire()["status"] for one in after] == [status]
        errors = [n for n, one in enumerate(mine) if one.event.event == "error"]
        assert len(errors) == (how == "errored")
        assert all(number < end for number in errors)
    assert row(client, "alice").status == status


def test_events_of_a_run_come_in_their_order(fleet_home: Home, client: Client) -> None:
    async def watch() -> list[str]:
        async with connected(fleet_home) as client:
            watching = await Watching(client).pod("alice")
            request_id = new_id()
            await client.request("alice", "run", text_run("count"), request_id=request_id)
            await watching.until(run_is_over(request_id), "its end")
            assert watching.gaps == []
            return [one.event.event for one in watching.seen]

    names = asyncio.run(watch())
    marks = ["invoke_start", "user_message", "status", "turn_start", "llm_call_start", "usage"]
    marks += ["llm_call_end", "tool_result", "turn_end", "run_end"]
    places = [names.index(mark) for mark in marks]
    assert places == sorted(places), names
    assert names[-1] == "status"


# -- the commands --------------------------------------------------------------------------------


def test_waited_run_prints_the_answer_and_nothing_else(fleet_home: Home, client: Client) -> None:
    assert fleet_home.podsup("run", "alice", "say", "--wait").stdout == "forty-two\n"
    assert fleet_home.podsup("run", "alice", "say", "--stream").stdout == "forty-two\n"
    assert fleet_home.podsup("run", "alice", "-", "--wait", input="say").stdout == "forty-two\n"
    told = fleet_home.json("run", "alice", "say", "--wait")
    assert (told["schema"], told["result"], told["text"]) == (1, "finished", "forty-two")
    assert told["usage"]["output_tokens"] > 0


def test_waited_run_that_does_not_finish_says_how_it_ended(
    fleet_home: Home, client: Client
) -> None:
    failed = fleet_home.json("run", "alice", "fail", "--wait", ok=1)
    assert failed["result"] == "errored"
    assert failed["error"]["code"] == "provider_error"
    assert "no such model" in fleet_home.podsup("run", "alice", "fail", "--wait", ok=1).stderr
    limited = fleet_home.json("run", "alice", "cut short", "--wait", ok=1)
    assert (limited["result"], limited["reason"]) == ("limit_reached", "max_tokens")


def test_waited_run_that_takes_too_long_goes_on_and_says_how_to_wait(
    fleet_home: Home, client: Client
) -> None:
    said = fleet_home.podsup("run", "alice", "speak", "--wait", "--timeout", "0.5", ok=8)
    assert "podsup wait alice" in said.stderr
    assert row(client, "alice").status == "running"


def test_run_while_one_runs_is_refused_at_once(fleet_home: Home, client: Client) -> None:
    request_id = new_id()
    client.request("alice", "run", text_run("speak"), request_id=request_id)
    error = fleet_home.json("run", "alice", "say", "--wait", ok=6)["error"]
    assert error["code"] == "already_running"
    assert error["details"] == {"trigger": "user_send", "request_id": request_id}


def test_pause_resume_and_cancel_from_the_command_line(fleet_home: Home, client: Client) -> None:
    for verb in ("pause", "resume", "cancel"):
        error = fleet_home.json(verb, "alice", ok=3)["error"]
        assert error["code"] == ("not_paused" if verb == "resume" else "not_running")
    client.request("alice", "run", text_run("speak"))
    eventually(lambda: client.snapshot("alice")["in_flight"]["blocks"], "she speaks", DEADLINE_S)
    fleet_home.podsup("pause", "alice", "--wait")
    assert row(client, "alice").status == "paused", "not older than what was waited for"
    fleet_home.podsup("resume", "alice")
    wait_status(client, "alice", "running")
    fleet_home.podsup("cancel", "alice", "--wait")
    assert row(client, "alice").status == "idle"


def test_notification_wakes_an_idle_pod_unless_told_not_to(
    fleet_home: Home, client: Client
) -> None:
    runs = len([e for e in history(client, "bob") if isinstance(e, Invoke)])
    fleet_home.podsup("notify", "bob", "for later", "--no-auto-run")
    assert row(client, "bob").status == "idle"
    assert len([e for e in history(client, "bob") if isinstance(e, Invoke)]) == runs

    fleet_home.podsup("notify", "bob", "wake up")
    eventually(
        lambda: len([e for e in history(client, "bob") if isinstance(e, Invoke)]) == runs + 1,
        "a run for it",
        DEADLINE_S,
    )
    wait_status(client, "bob", "idle")
    invoked = [e for e in history(client, "bob") if isinstance(e, Invoke)]
    assert invoked[-1].trigger == "notify"
    told = [e.item.body for e in history(client, "bob") if isinstance(e, SystemItemEntry)]
    assert told[-2:] == ["for later", "wake up"]


def test_run_waits_for_a_run_that_the_pod_started_by_itself(
    fleet_home: Home, client: Client
) -> None:
    client.send("alice", m.Notify(message="speak"))
    wait_status(client, "alice", "running")
    waiting = subprocess.Popen(
        [*fleet_home.command, "run", "alice", "say", "--wait"],
        cwd=fleet_home.work,
        env=fleet_home.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert waiting.stderr is not None
    assert "notification" in waiting.stderr.readline()
    client.send("alice", m.Cancel())
    said, _ = waiting.communicate(timeout=DEADLINE_S)
    assert (waiting.returncode, said) == (0, "forty-two\n")


def test_waited_run_whose_pod_dies_ends_with_3(fleet_home: Home, client: Client) -> None:
    waiting = subprocess.Popen(
        [*fleet_home.command, "run", "alice", "speak", "--wait"],
        cwd=fleet_home.work,
        env=fleet_home.env,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    eventually(lambda: row(client, "alice").status == "running", "it runs", DEADLINE_S)
    os.kill(pid := pid_of(client, "alice"), signal.SIGKILL)
    _, said = waiting.communicate(timeout=DEADLINE_S)
    assert waiting.returncode == 3
    assert "SIGKILL" in said
    wait_reborn(client, "alice", pid)


# -- the task ------------------------------------------------------------------------------------


def tasks(client: Client, pod: str = "carol") -> list[str]:
    """Return the inputs of runs that were the task."""
    entries = history(client, pod)
    told = []
    for before, entry in pairwise(entries):
        if isinstance(before, Invoke) and before.request_id == "task":
            assert isinstance(entry, UserInput)
            told.append(getattr(entry.segments[0], "content", ""))
    return told


def test_task_is_delivered_once_in_the_life_of_a_session(home: Home) -> None:
    start(home, fleet('"carol"\ntask = "Tell me once."', '"dave"'))
    with connect(home) as client:
        assert tasks(client) == ["Tell me once."]
        assert tasks(client, "dave") == []
        os.kill(pid := pid_of(client, "carol"), signal.SIGKILL)
        wait_reborn(client, "carol", pid)
        client.operate(c.Restart(pods=("carol",)))
        assert tasks(client) == ["Tell me once."]
    home.podsup("down")
    home.podsup("start", "-d", "--wait", "idle")
    assert run_to_end(home, "carol", "anything else?").result == "finished"
    with connect(home) as client:
        assert tasks(client) == ["Tell me once."]
        first = row(client, "carol").session_id
    home.podsup("down")

    home.podsup("start", "-d", "--wait", "idle", "--fresh")
    with connect(home) as client:
        assert tasks(client) == ["Tell me once."]
        texts = [e for e in history(client, "carol") if isinstance(e, UserInput)]
        assert len(texts) == 1, "a new session"
        assert row(client, "carol").session_id != first
    files = list(Path(home.home / "data").rglob("*.jsonl"))
    assert sum("anything else?" in path.read_text() for path in files) == 1, "nothing is deleted"


def test_task_that_a_crash_cut_is_not_delivered_again(home: Home) -> None:
    script = answers('match = "Think"\ntext = "late"\ndelay_ms = 60000')
    home.write("podsup.toml", fleet('"carol"\ntask = "Think."\n' + script))
    home.podsup("start", "-d", "--wait", "ready")
    with connect(home) as client:
        wait_status(client, "carol", "running")
        os.kill(pid := pid_of(client, "carol"), signal.SIGKILL)
        wait_reborn(client, "carol", pid)
        assert run_to_end(home, "carol", "go on").result == "finished"
        assert tasks(client) == ["Think."]


def test_spawn_whose_task_is_not_accepted_fails_and_leaves_a_pod_that_can_be_used(
    home: Home,
) -> None:
    start(home, fleet('"alice"'))
    sessions = home.home / "data/sessions"
    sessions.write_text("no folder: no session can begin")

    error = home.json("spawn", "carol", "--task", "Say hello.", "--wait", ok=1)
    assert "its task was not accepted" in error["error"]["message"]
    assert home.json("status", "carol").get("session_id") is None

    sessions.unlink()
    assert run_to_end(home, "carol", "hello").result == "finished"
    now = home.json("status", "carol")
    assert (sessions / now["session_id"] / f"{now['segment_id']}.jsonl").is_file()
