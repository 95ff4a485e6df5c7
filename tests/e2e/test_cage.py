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

SCOPE = 'scope = {{ allow = [{{ target = "{0}", permission = "write" }}] }}\n'
DELEGATION = (
    'delegation_scope = {{ allow = [{{ target = "{0}", permission = "write" }}] }}\n'
    "feature = {{ pods = true }}\n"
)
ALICE = SCOPE.format("alice") + answers(
    bash("^go$", "echo a > alice/a; echo b > b; touch $HOME/podsup-was-here")
)
KEPT = SCOPE.format("kept") + answers(
    bash("^put$", "echo kept > $TMPDIR/kept; mkdir -m 000 $TMPDIR/closed"),
    bash("^get$", "cp $TMPDIR/kept kept/kept"),
)
LENDER = (
    SCOPE.format("src")
    + DELEGATION.format("src")
    + answers(
        bash("^job$", "sleep 4242 >/dev/null 2>&1 &"),
        bash("^write$", "echo p > src/lib/p; echo p > src/p"),
    )
)
ABROAD = (
    SCOPE.format("home")
    + DELEGATION.format("abroad")
    + answers(bash("^job$", "sleep 4243 >/dev/null 2>&1 &"))
)
KILLED = (
    'restart = "always"\n'
    + SCOPE.format("killed")
    + answers(
        bash("^job$", "sleep 4244 >/dev/null 2>&1 &"),
        bash("^go$", "echo a > killed/a; echo b > not-killed"),
    )
)
PODS = {"alice": ALICE, "kept": KEPT, "lender": LENDER, "abroad": ABROAD, "killed": KILLED}


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


@pytest.fixture(scope="module", params=[CageLevel.NAMESPACES, CageLevel.LANDLOCK])
def level(request: pytest.FixtureRequest) -> CageLevel:
    """A level, for all tests of one fleet."""
    found: CageLevel = request.param
    return found


@pytest.fixture(scope="module")
def shared(level: CageLevel) -> Iterator[Home]:
    """A fleet at a level, with a pod for each test."""
    home = Home()
    try:
        with machine_with(home, level):
            start(home, fleet(*(f'"{name}"\n{text}' for name, text in PODS.items())))
        yield home
        home.down()
    finally:
        home.remove()


def left_open(home: Home, level: CageLevel, pod: str) -> set[str]:
    """Return what the status of a pod says, which its greeting has to say, too."""
    status = home.json("status", pod)
    assert status["sandbox"]["level"] == level
    assert status["greeting"]["sandbox"] == status["sandbox"]
    return set(status["sandbox"]["unprotected"]) - {cage.ROOT, cage.BOMB}


def test_status_and_greeting_say_the_level_and_all_that_it_leaves_open(
    shared: Home, level: CageLevel
) -> None:
    expected = {
        CageLevel.NAMESPACES: {cage.STAT, cage.SHARED, cage.FIFO, cage.REPLACED},
        CageLevel.LANDLOCK: {
            *(cage.UNSEEN, cage.STAT, cage.SHARED),
            *(cage.MEMORY, cage.COUNTED, cage.DEVICE),
        },
    }
    assert left_open(shared, level, "alice") == expected[level]
    assert shared.json("status", "alice")["alerts"] == []


def test_a_machine_without_any_level_runs_commands_uncaged_and_alerts(home: Home) -> None:
    with machine_with(home, CageLevel.NONE):
        start(home, fleet(f'"alice"\n{ALICE}', f'"off"\nsandbox = {{ mode = "off" }}\n{answers()}'))
    assert left_open(home, CageLevel.NONE, "alice") == {cage.UNCAGED}
    (alert,) = home.json("status", "alice")["alerts"]
    assert alert["message"] == f"{cage.UNCAGED} (the kernel has no Landlock)"
    assert home.json("status", "off")["alerts"] == []


@pytest.mark.parametrize(
    ("has", "least"), [(CageLevel.NONE, "landlock"), (CageLevel.LANDLOCK, "namespaces")]
)
def test_a_pod_that_requires_more_than_there_is_does_not_start_and_says_why(
    home: Home, has: CageLevel, least: str
) -> None:
    required = f'sandbox = {{ mode = "require", level = "{least}" }}'
    home.write("podsup.toml", fleet(f'"alice"\n{required}\n{answers()}'))
    with machine_with(home, has):
        done = home.podsup("start", "-d", "--wait", "idle", ok=1)
    told = done.stdout + done.stderr
    assert f'"require" asks for level {least} at least, and this machine has {has}' in told
    assert "namespaces: " in told or "no Landlock" in told


def test_a_pod_with_a_cage_can_gain_no_privileges_itself(shared: Home) -> None:
    status = Path(f"/proc/{shared.json('status', 'alice')['pid']}/status").read_text()
    assert "NoNewPrivs:\t1" in status


def test_a_command_writes_in_its_scope_and_nowhere_else_and_the_refusal_is_an_event(
    shared: Home,
) -> None:
    done = shared.podsup("run", "alice", "go", "--stream", "-o", "jsonl")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    denied = [one["data"] for one in events if one.get("event") == ev.ScopeDenied.event]
    assert (shared.work / "alice/a").read_text() == "a\n"
    assert not (shared.work / "b").exists()
    assert not (Path.home() / "podsup-was-here").exists()
    assert denied[0] == {"path": str(shared.work / "b"), "layer": "shell"}


def test_temporary_files_last_from_one_command_to_the_next_and_go_with_the_pod(
    shared: Home,
) -> None:
    shared.podsup("run", "kept", "put", "--wait")
    shared.podsup("run", "kept", "get", "--wait")
    assert (shared.work / "kept/kept").read_text() == "kept\n"
    room = shared.home / "data/pods/kept/cage"
    assert room.exists()
    shared.podsup("stop", "kept")
    assert not room.exists()


def test_a_command_that_runs_when_its_region_is_lent_is_named_and_stop_jobs_ends_it(
    shared: Home, level: CageLevel
) -> None:
    shared.podsup("run", "lender", "job", "--wait")
    lib = shared.work / "src/lib"
    lib.mkdir()
    spawn = ("spawn", "kid", "--parent", "lender", "--task", "x", "--write", str(lib))
    refused = shared.podsup(*spawn, ok=6)
    assert "sleep 4242" in refused.stdout + refused.stderr

    shared.podsup(*spawn, "--stop-jobs")
    shared.podsup("run", "lender", "write", "--wait")
    assert not (lib / "p").exists(), "a later cage leaves the region out"
    assert (shared.work / "src/p").exists() is (level is CageLevel.NAMESPACES), (
        "where only Landlock holds, a folder above a lent one takes no new entries"
    )


def test_a_command_whose_cage_cannot_write_there_does_not_stand_against_a_lend(
    shared: Home,
) -> None:
    (shared.work / "abroad").mkdir()
    shared.podsup("run", "abroad", "job", "--wait")
    shared.podsup("spawn", "guest", "--parent", "abroad", "--task", "x", "--write", "abroad")


def test_commands_of_a_pod_that_was_killed_are_gone_and_the_next_one_is_caged_again(
    shared: Home,
) -> None:
    shared.podsup("run", "killed", "job", "--wait")
    os.kill(shared.json("status", "killed")["pid"], signal.SIGKILL)

    def is_back() -> bool:
        status = shared.json("status", "killed")
        return bool(status["restarts"] == 1 and status["status"] == "idle")

    eventually(is_back, "it is back", DEADLINE_S)
    assert not any("sleep 4244" in command for command in shared.processes().values())
    shared.podsup("run", "killed", "go", "--wait")
    assert (shared.work / "killed/a").exists()
    assert not (shared.work / "not-killed").exists()


def test_a_cage_that_is_off_confines_nothing_and_says_so(home: Home) -> None:
    row = answers(bash("^go$", "echo b > b"))
    start(home, fleet(f'"alice"\nsandbox = {{ mode = "off" }}\n{row}'))
    home.podsup("run", "alice", "go", "--wait")
    assert (home.work / "b").exists()
    assert left_open(home, CageLevel.NONE, "alice") == {cage.UNCAGED}
    status = home.json("status", "alice")
    assert status["alerts"] == []
    assert "NoNewPrivs:\t0" in Path(f"/proc/{status['pid']}/status").read_text(), "it may sudo"
