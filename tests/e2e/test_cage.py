"""The cage of pods' commands with real fleets, at each level: what it lets do, and what it says."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from podproc.confine.support import look
from protocol import cage
from protocol import events as ev
from protocol.cage import CageLevel, CageSupport
from tests.e2e.fleets import DEADLINE_S, answers, bash, fleet, start
from tests.support.home import Home
from tests.support.waiting import eventually
from tests.support.without import LANDLOCK, UNSHARE

pytestmark = pytest.mark.process

_PROJECT = Path(__file__).parents[2]
LACKING = {
    CageLevel.NAMESPACES: (),
    CageLevel.LANDLOCK: (UNSHARE,),
    CageLevel.NONE: (UNSHARE, LANDLOCK),
}
"""The system calls that a machine lacks which has no more than this level."""

HERE = CageSupport.found(look())
if HERE.level is not CageLevel.NAMESPACES:
    pytest.skip("this machine has no namespaces to cage with", allow_module_level=True)

caged = pytest.mark.parametrize("level", [CageLevel.NAMESPACES, CageLevel.LANDLOCK])

SCOPE = 'scope = { allow = [{ target = "mine", permission = "write" }] }\n'


@contextmanager
def machine_with(home: Home, level: CageLevel) -> Iterator[None]:
    """Have podsup started on a machine that has no more than a level."""
    command, environment = home.command, home.env
    if LACKING[level]:
        without = [sys.executable, "-m", "tests.support.without", *LACKING[level], "--"]
        home.command = [*without, *command]
        home.env = {**environment, "PYTHONPATH": str(_PROJECT)}
    try:
        yield
    finally:
        home.command, home.env = command, environment


def alone(*rows: str, sandbox: str = "", name: str = "alice") -> str:
    """Return a fleet of one pod that may write in `mine`."""
    return fleet(f'"{name}"\n{SCOPE}{sandbox}\n{answers(*rows)}')


def start_at(home: Home, level: CageLevel, text: str) -> None:
    with machine_with(home, level):
        start(home, text)


@pytest.mark.parametrize("level", CageLevel)
def test_status_and_greeting_say_the_level_and_all_that_it_leaves_open(
    home: Home, level: CageLevel
) -> None:
    start_at(home, level, alone())
    status = home.json("status", "alice")
    assert status["sandbox"]["level"] == level
    assert status["greeting"]["sandbox"] == status["sandbox"]
    expected = {
        CageLevel.NAMESPACES: {cage.STAT, cage.FIFO},
        CageLevel.LANDLOCK: {cage.UNSEEN, cage.STAT, cage.MEMORY},
        CageLevel.NONE: {cage.UNCAGED},
    }
    assert set(status["sandbox"]["unprotected"]) - {cage.ROOT, cage.BOMB} == expected[level]
    warned = [a["message"] for a in status["alerts"] if cage.UNCAGED in a["message"]]
    assert len(warned) == (level is CageLevel.NONE)
    if level is CageLevel.NONE:
        assert "the kernel has no Landlock" in warned[0]


@pytest.mark.parametrize(
    ("level", "least"),
    [(CageLevel.NONE, "landlock"), (CageLevel.LANDLOCK, "namespaces")],
)
def test_a_pod_that_requires_more_than_there_is_does_not_start_and_says_why(
    home: Home, level: CageLevel, least: str
) -> None:
    required = f'sandbox = {{ mode = "require", level = "{least}" }}'
    home.write("podsup.toml", alone(sandbox=required))
    with machine_with(home, level):
        done = home.podsup("start", "-d", "--wait", "idle", ok=None)
    assert done.returncode == 1
    told = done.stdout + done.stderr
    assert f'"require" asks for level {least} at least, and this machine has {level}' in told
    assert "namespaces: " in told or "no Landlock" in told


@caged
def test_a_command_writes_in_its_scope_and_nowhere_else_and_the_refusal_is_an_event(
    home: Home, level: CageLevel
) -> None:
    commands = "echo a > mine/a; echo b > b; touch $HOME/podsup-was-here"
    start_at(home, level, alone(bash("^go$", commands)))
    done = home.podsup("run", "alice", "go", "--stream", "-o", "jsonl")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    denied = [one["data"] for one in events if one.get("event") == ev.ScopeDenied.event]
    assert (home.work / "mine/a").read_text() == "a\n"
    assert not (home.work / "b").exists()
    assert not (Path.home() / "podsup-was-here").exists()
    assert denied[0] == {"path": str(home.work / "b"), "layer": "shell"}


@caged
def test_temporary_files_last_from_one_command_to_the_next_and_go_with_the_pod(
    home: Home, level: CageLevel
) -> None:
    rows = (
        bash("^put$", "echo kept > $TMPDIR/kept; mkdir -m 000 $TMPDIR/closed"),
        bash("^get$", "cp $TMPDIR/kept mine/kept"),
    )
    start_at(home, level, alone(*rows))
    home.podsup("run", "alice", "put", "--wait")
    home.podsup("run", "alice", "get", "--wait")
    assert (home.work / "mine/kept").read_text() == "kept\n"
    room = home.home / "data/pods/alice/cage"
    assert room.exists()
    home.podsup("stop", "alice")
    assert not room.exists()


@caged
def test_a_command_that_runs_when_its_region_is_lent_is_named_and_stop_jobs_ends_it(
    home: Home, level: CageLevel
) -> None:
    parent = (
        'scope = { allow = [{ target = "src", permission = "write" }] }\n'
        'delegation_scope = { allow = [{ target = "src", permission = "write" }] }\n'
        "feature = { pods = true }\n"
    )
    rows = (
        bash("^job$", "sleep 4242 >/dev/null 2>&1 &"),
        bash("^write$", "echo p > src/lib/p; echo p > src/p"),
    )
    start_at(home, level, fleet(f'"parent"\n{parent}{answers(*rows)}'))
    home.podsup("run", "parent", "job", "--wait")
    lib = home.work / "src/lib"
    lib.mkdir()
    spawn = ("spawn", "kid", "--parent", "parent", "--task", "x", "--write", str(lib))
    refused = home.podsup(*spawn, ok=6)
    assert "sleep 4242" in refused.stdout + refused.stderr

    home.podsup(*spawn, "--stop-jobs")
    home.podsup("run", "parent", "write", "--wait")
    assert not (lib / "p").exists(), "a later cage leaves the region out"
    assert (home.work / "src/p").exists() is (level is CageLevel.NAMESPACES), (
        "where only Landlock holds, a folder above a lent one takes no new entries"
    )


@caged
def test_a_command_whose_cage_cannot_write_there_does_not_stand_against_a_lend(
    home: Home, level: CageLevel
) -> None:
    parent = (
        f"{SCOPE}"
        'delegation_scope = { allow = [{ target = "src", permission = "write" }] }\n'
        "feature = { pods = true }\n"
    )
    job = bash("^job$", "sleep 4243 >/dev/null 2>&1 &")
    (home.work / "src").mkdir()
    start_at(home, level, fleet(f'"parent"\n{parent}{answers(job)}'))
    home.podsup("run", "parent", "job", "--wait")
    home.podsup("spawn", "kid", "--parent", "parent", "--task", "x", "--write", "src")


def test_a_cage_that_is_off_confines_nothing_and_says_so(home: Home) -> None:
    row = bash("^go$", "echo b > b")
    start(home, alone(row, sandbox='sandbox = { mode = "off" }'))
    home.podsup("run", "alice", "go", "--wait")
    assert (home.work / "b").exists()
    assert home.json("status", "alice")["sandbox"] == {
        "level": "none",
        "unprotected": [cage.UNCAGED],
    }
    assert home.json("status", "alice")["alerts"] == []


@caged
def test_commands_of_a_pod_that_was_killed_are_gone_and_the_next_one_starts_in_a_cage(
    home: Home, level: CageLevel
) -> None:
    rows = (bash("^job$", "sleep 4244 >/dev/null 2>&1 &"), bash("^go$", "echo a > mine/a; : > b"))
    start_at(home, level, alone(*rows).replace(SCOPE, f'{SCOPE}restart = "always"\n'))
    home.podsup("run", "alice", "job", "--wait")
    os.kill(home.json("ps")["pods"][0]["pid"], signal.SIGKILL)

    def is_back() -> bool:
        (pod,) = home.json("ps")["pods"]
        return bool(pod["restarts"] == 1 and pod["status"] == "idle")

    eventually(is_back, "it is back", DEADLINE_S)
    assert not any("sleep 4244" in command for command in home.processes().values())
    home.podsup("run", "alice", "go", "--wait")
    assert (home.work / "mine/a").exists()
    assert not (home.work / "b").exists()
