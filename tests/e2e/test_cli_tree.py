"""The command line as a whole: every example runs, every result is JSON, every mistake is told."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest

from protocol import control as c
from protocol import methods as m
from protocol.errors import UnknownPod, Unreachable
from supervisor.cli.app import cli
from supervisor.client import Client
from tests.e2e.fleets import (
    DEADLINE_S,
    FLEET,
    answers,
    connect,
    fleet,
    row,
    start,
    text_run,
    wait_status,
)
from tests.support.home import Home
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

PROJECT = Path(__file__).parents[2]
SPEAK = 'match = "^speak$"\nrepeat = true\ntext = "half of it, then silence"\nhang_s = 60.0'
FILE = fleet('"alice"\n' + answers(SPEAK), '"bob"')
CONTEXT = click.Context(cli)
COMMANDS = cli.list_commands(CONTEXT)


@pytest.fixture(scope="module")
def fleet_home(shared_home: Home) -> Home:
    """What the examples need: alice, bob, data.txt."""
    shared_home.write("data.txt", "6 times 7\n")
    start(shared_home, FILE)
    return shared_home


def make_ready(home: Home) -> None:
    """Bring the fleet to alice and bob, both idle, and nobody else."""
    try:
        client = connect(home)
    except Unreachable:
        home.podsup("start", "-d", "--wait", "idle")
        client = connect(home)
    with client:
        names = {one.name for one in client.control(c.ListFleet()).pods}
        if "alice" not in names:  # it was deleted
            client.operate(c.Down())
            eventually(lambda: not home.processes(), "the fleet is down", DEADLINE_S)
            make_ready(home)
            return
        if others := tuple(names - {"alice", "bob"}):
            client.operate(c.Kill(pods=others))
            client.operate(c.Delete(pods=others))
        for pod in ("alice", "bob"):
            found = row(client, pod)
            if found.status in ("running", "paused"):
                client.send(pod, m.Cancel())
            elif found.status != "idle":
                client.operate(c.Restart(pods=(pod,)))
            wait_status(client, pod, "idle")
    shutil.rmtree(home.work / "my-fleet", ignore_errors=True)


def speaking(client: Client) -> None:
    client.request("alice", "run", text_run("speak"))
    eventually(lambda: client.snapshot("alice")["in_flight"]["blocks"], "she speaks", DEADLINE_S)


def paused(client: Client) -> None:
    speaking(client)
    client.send("alice", m.Pause())
    wait_status(client, "alice", "paused")


def stopped(client: Client) -> None:
    client.operate(c.Stop(pods=("alice",)))


def said_something(client: Client) -> None:
    client.request("alice", "run", text_run("hello"))
    wait_status(client, "alice", "idle")


PREPARED: dict[str, Callable[[Client], None]] = {
    "session": said_something,
    "pause": speaking,
    "resume": paused,
    "cancel": speaking,
    "restore": stopped,
    "delete": stopped,
    "rewind": said_something,
    "compact": said_something,
    "attach": said_something,
}


def prepare(home: Home, name: str) -> None:
    """Bring the fleet to where the command's example makes sense."""
    make_ready(home)
    if name == "start":
        home.podsup("down")
    elif name in PREPARED:
        with connect(home) as client:
            PREPARED[name](client)


def example_of(name: str) -> list[str]:
    """Return the arguments of the example that a command's help gives."""
    found = cli.get_command(CONTEXT, name)
    assert found is not None
    intro, _, example = (found.epilog or "").partition(": ")
    assert intro == "Example", f"{name} has no example"
    program, *arguments = shlex.split(example)
    assert program == "podsup"
    assert arguments[0] == name
    return arguments


@pytest.mark.parametrize("name", COMMANDS)
def test_command_has_an_example_and_the_example_runs(fleet_home: Home, name: str) -> None:
    arguments = example_of(name)
    prepare(fleet_home, name)
    done = fleet_home.podsup(*arguments)
    assert done.stdout.strip() or name in ("logs", "attach"), "it shows something"


@pytest.mark.parametrize("name", COMMANDS)
def test_example_prints_one_json_document_when_asked_for(fleet_home: Home, name: str) -> None:
    arguments = example_of(name)
    if "json" not in arguments:
        arguments = [*arguments, "-o", "json"]
    prepare(fleet_home, name)
    document = json.loads(fleet_home.podsup(*arguments).stdout)
    assert document["schema"] == 1
    assert "error" not in document or document["error"] is None


@pytest.mark.parametrize("name", COMMANDS)
def test_command_refuses_an_unknown_option_with_a_json_error(fleet_home: Home, name: str) -> None:
    done = fleet_home.podsup("-o", "json", name, "--no-such-option", ok=2)
    document = json.loads(done.stdout)
    assert document["schema"] == 1
    assert set(document["error"]) == {"code", "message", "details", "next"}
    assert document["error"]["code"] == "invalid_request"
    assert "--no-such-option" in done.stderr
    assert name in document["error"]["next"]


def test_help_of_everything_names_every_command_and_its_example(fleet_home: Home) -> None:
    said = fleet_home.podsup("--help").stdout
    for name in COMMANDS:
        assert f"\n  {name} " in said
    for name in ("run", "spawn", "attach"):
        assert "Example: podsup " + name in fleet_home.podsup(name, "--help").stdout
    assert fleet_home.podsup("--version").stdout.startswith("podsup")


# -- what follows until it is stopped ------------------------------------------------------------


@contextmanager
def following(home: Home, *args: str) -> Iterator[Callable[[str], None]]:
    """Run a command that goes on; yields a wait for its output; ends it with Ctrl-C."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            [*home.command, *args],
            cwd=home.work,
            env=home.env | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            text=True,
        )

        def wait_for(text: str) -> None:
            eventually(lambda: text in _whole(out), f"{text!r} is shown", DEADLINE_S)
            assert process.poll() is None, _whole(err)

        try:
            yield wait_for
            process.send_signal(signal.SIGINT)
            assert process.wait(DEADLINE_S) in (0, 130)
            assert "Traceback" not in _whole(err)
        finally:
            process.kill()
            process.wait()


def _whole(file: Any) -> str:
    return os.pread(file.fileno(), 1 << 20, 0).decode()


def test_attach_without_a_terminal_follows_until_it_is_interrupted(fleet_home: Home) -> None:
    make_ready(fleet_home)
    with connect(fleet_home) as client:
        client.request("alice", "run", text_run("the first word"))
        wait_status(client, "alice", "idle")
        with following(fleet_home, "attach", "alice") as wait_for:
            wait_for("echo: the first word")
            client.request("alice", "run", text_run("the next word"))
            wait_for("echo: the next word")
        assert row(client, "alice").status == "idle", "the pod goes on"


def test_events_are_followed_until_it_is_interrupted(fleet_home: Home) -> None:
    make_ready(fleet_home)
    with (
        connect(fleet_home) as client,
        following(fleet_home, "events", "-f", "-o", "jsonl") as wait_for,
    ):
        wait_for('"event": "pod_ready"')
        client.request("alice", "run", text_run("hello"), request_id="followed-by-events")
        wait_for("followed-by-events")


def test_logs_are_followed_over_a_restart_until_it_is_interrupted(fleet_home: Home) -> None:
    make_ready(fleet_home)
    with (
        connect(fleet_home) as client,
        following(fleet_home, "logs", "alice", "-f") as wait_for,
    ):
        for _ in range(2):
            marker = f"printed at {time.monotonic_ns()}"
            logs: c.LogsTail = client.control(c.LogsTailOf(pod="alice"))
            with open(logs.path, "a") as file:
                file.write(marker + "\n")
            wait_for(marker)
            client.operate(c.Restart(pods=("alice",)))


# -- exit codes ----------------------------------------------------------------------------------

EXITS = [
    (0, "ps"),
    (0, "wait alice bob --for idle --timeout 20"),
    (2, "run alice"),
    (2, "ps --wrong"),
    (2, "ps -o yaml"),
    (2, "stop"),
    (2, "start --wait idle"),
    (2, "rewind alice"),
    (2, "events --since yesterday"),
    (2, "nonsense"),
    (3, "resume alice"),
    (3, "pause alice"),
    (3, "cancel alice"),
    (4, "--fleet nowhere ps"),
    (4, "--home HOME/empty ps"),
    (5, "check bad.toml"),
    (5, "start bad.toml -d"),
    (6, "start -d"),
    (6, "spawn alice"),
    (6, "delete alice"),
    (6, "init ."),
    (7, "status nobody"),
    (7, "why nobody"),
    (7, "run nobody hello --wait"),
    (7, "logs nobody"),
    (7, "stop alice nobody"),
    (8, "wait alice --for paused --timeout 0.2"),
]
"""(exit code, command line) in a fleet whose pods alice and bob are idle."""


@pytest.mark.parametrize(("code", "line"), EXITS, ids=lambda value: str(value))
def test_command_line_ends_with_its_code_and_says_why_without_a_traceback(
    fleet_home: Home, code: int, line: str
) -> None:
    make_ready(fleet_home)
    fleet_home.write("bad.toml", "[fleet]\nnam = 1\n")
    arguments = shlex.split(line.replace("HOME", str(fleet_home.root)))
    done = fleet_home.podsup("-o", "json", *arguments, ok=code)
    document = json.loads(done.stdout) if done.stdout else {}
    if code == 0:
        assert "error" not in document
    else:
        assert done.stderr.startswith("podsup: ")
        if "yaml" not in line:
            assert (document["schema"], document["error"]["message"] in done.stderr) == (1, True)
    with connect(fleet_home) as client:
        assert {row(client, pod).status.value for pod in ("alice", "bob")} == {"idle"}


def test_run_on_a_stopped_pod_ends_with_3(fleet_home: Home) -> None:
    prepare(fleet_home, "restore")
    for more in ((), ("--wait",)):
        error = fleet_home.json("run", "alice", "hello", *more, ok=3)["error"]
        assert error["code"] == "unreachable"


def test_essential_pod_that_fails_ends_the_foreground_start_with_9(home: Home) -> None:
    scope = 'scope = { allow = [{ target = "src", permission = "write" }] }\n'
    start(home, fleet('"alice"\n' + scope))
    target = scope.replace('"src"', f'"{home.work / "src"}"')
    text = f'[fleet]\nname = "second"\n[[pod]]\nname = "bob"\n[[pod]]\nname = "rival"\n{target}'
    second = home.write("second/podsup.toml", text + "essential = true\n")
    said = home.podsup("start", str(second), ok=9, timeout=40).stderr
    assert "rival" in said
    home.podsup("--fleet", FLEET, "ps")


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "name"])
def test_output_form_may_stand_before_or_after_the_command(fleet_home: Home, form: str) -> None:
    make_ready(fleet_home)
    before = fleet_home.podsup("-o", form, "ps").stdout
    after = fleet_home.podsup("ps", "-o", form).stdout
    assert len(before.splitlines()) == len(after.splitlines())
    if form == "json":
        assert json.loads(before).keys() == json.loads(after).keys()
    if form == "name":
        assert before == after == "alice\nbob\n"


def test_lines_for_people_have_no_colours_and_results_stand_alone_on_stdout(
    fleet_home: Home,
) -> None:
    make_ready(fleet_home)
    for line in ("ps", "tree", "status alice", "why alice", "locks"):
        done = fleet_home.podsup(*line.split())
        assert "\x1b" not in done.stdout + done.stderr
        assert done.stderr == ""


# -- imports -------------------------------------------------------------------------------------

EVERY_COMMAND = """
import sys, click
from supervisor.cli.app import cli
context = click.Context(cli)
for name in cli.list_commands(context):
    cli.get_command(context, name)
print(sorted({name.partition(".")[0] for name in sys.modules} & {"openai", "anthropic", "podproc"}))
"""


def test_no_command_imports_a_providers_sdk_or_the_pods_code(fleet_home: Home) -> None:
    environment = fleet_home.env | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", EVERY_COMMAND],
        env=environment,
        cwd=fleet_home.work,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
    for line in ("ps", "run alice hello --wait"):
        timed = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "supervisor.cli", *line.split()],
            env=environment,
            cwd=fleet_home.work,
            capture_output=True,
            text=True,
            check=True,
        )
        imported = {one.rpartition("|")[2].strip() for one in timed.stderr.splitlines()}
        assert "protocol" in imported
        assert not imported & {"openai", "anthropic", "podproc", "psutil"}, line


def test_client_names_the_pods_there_are_when_one_is_unknown(fleet_home: Home) -> None:
    make_ready(fleet_home)
    with connect(fleet_home) as client, pytest.raises(UnknownPod) as refused:
        row(client, "nobody")
    assert refused.value.details["known"] == ["alice", "bob"]
