"""Every command on a terminal, in a fleet whose every foreign text tries to drive that terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from supervisor.cli.app import cli
from tests.e2e.fleets import answers, connect, fleet, paths_of, wait_status
from tests.e2e.terminal import Terminal
from tests.support.home import Home

pytestmark = [pytest.mark.process, pytest.mark.timeout(400)]

SIGNS = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\r\x9b31m\u202e\u200b\u2066"
EVIL = f"x{SIGNS}\nFORGED\tline"
NAME = EVIL.replace("/", "")

OWN = re.compile(r"\x1b\[\d*m")
"""How podsup paints a word or a line."""

DRAWN = re.compile(r"\x1b\[(?!2J)[?>]?[\d;]*[a-zA-Z]|\r|\x1b\[0 q")
"""What an attached screen is drawn with, besides."""

BRINGS_LINES = {
    *("run", "attach", "rewind", "logs"),
    *("session show", "session replay", "session export"),
}
"""What shows a text of several lines: there a line is the text's own."""

CASES: dict[str, list[list[str]]] = {
    "init": [[NAME]],
    "check": [["evil.toml"], ["podsup.toml"]],
    "start": [["evil.toml"], ["podsup.toml", "-d"]],
    "spawn": [["third", "--write", f"out/{NAME}"], ["third", "--profile", NAME]],
    "run": [["alice", "say", "--wait"], ["alice", "say", "--stream"], ["alice", "fail", "--wait"]],
    "notify": [["alice", EVIL], ["alice", EVIL, "--no-auto-run"]],
    "pause": [["alice"]],
    "resume": [["alice"]],
    "cancel": [["alice"]],
    "compact": [["alice", "--wait"]],
    "attach": [["alice", "--once"], ["alice", "--once", "--all"]],
    "wait": [["alice", "--timeout", "5"]],
    "ps": [[], ["-o", "name"]],
    "tree": [[]],
    "status": [["alice"], ["kid"]],
    "why": [["alice"], ["kid"]],
    "locks": [[]],
    "logs": [["alice"]],
    "session show": [["alice"], ["alice", "--all"], ["kid"]],
    "session export": [["alice", "--format", form] for form in ("markdown", "jsonl", "openai")],
    "session fsck": [["alice"]],
    "session replay": [["alice", "--speed", "0"]],
    "events": [[], ["-o", "jsonl"]],
    "rewind": [["alice", "--list"], ["alice", "--to", "1"]],
    "peer": [["alice", "kid"]],
    "reclaim": [[]],
    "models": [[], [NAME]],
    "doctor": [[]],
    "restart": [["kid"]],
    "stop": [["kid"]],
    "restore": [["kid"]],
    "kill": [["kid"]],
    "delete": [["kid"]],
    "down": [["--grace", "1"]],
}
"""How each command is used, in this order; what is refused is a text, too."""


def commands(group: click.Group, prefix: str = "") -> Iterator[str]:
    """Yield the names of all commands, as they are typed."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}"


def complaints(command: str, raw: bytes) -> list[str]:
    """Return what of a command's output a terminal would obey."""
    text = OWN.sub("", raw.decode("utf-8", "replace")).replace("\r\n", "\n")
    bad = [f"{sign!r}" for sign in "\x1b\x07\x9b\u202e\u200b\u2066\r" if sign in text]
    if command not in BRINGS_LINES and re.search(r"^FORGED", text, re.MULTILINE):
        bad.append("a forged line")
    return bad


def on_terminal(home: Home, args: list[str]) -> bytes:
    """Run a command with colours on a terminal, and return what it wrote."""
    env = {name: value for name, value in home.env.items() if name != "NO_COLOR"}
    with Terminal([*home.command, *args], cwd=home.work, env=env) as terminal:
        terminal.wait_exit(60)
        terminal.look()
        return terminal.raw


def toml(text: str) -> str:
    """Return a TOML string."""
    return json.dumps(text)


def evil_fleet(home: Home) -> None:
    """Write a fleet whose pod says, names and asks for what drives a terminal."""
    path = toml(f"/etc/{NAME}")
    spawned = (
        f'{{ name = "kid", task = {toml(EVIL)}, scope = [{{ target = {toml(f"out/{NAME}")} }}] }}'
    )
    calls = ", ".join(
        (
            f'{{ name = "Write", arguments = {{ file_path = {path}, content = {toml(EVIL)} }} }}',
            f'{{ name = "Bash", arguments = {{ command = {toml(f"false {toml(EVIL)}")} }} }}',
            f"{{ name = {toml(NAME)}, arguments = {{ {toml(EVIL)} = 1 }} }}",
            f'{{ name = "SpawnPod", arguments = {spawned} }}',
        )
    )
    rows = (
        f'match = "^go$"\ntext = {toml(EVIL)}\nthinking = {toml(EVIL)}\ntool_calls = [{calls}]',
        f'match = "^say$"\nrepeat = true\ntext = {toml(EVIL)}',
        'match = "^fail$"\nrepeat = true\nfail_times = 9\n'
        f"fail = {{ status = 400, message = {toml(EVIL)} }}",
        f'match = "Write the summary now"\nrepeat = true\ntext = {toml(f"## Done{chr(10)}{EVIL}")}',
    )
    more = (
        'scope = { allow = [{ target = ".", permission = "write" }] }\nfeature = { pods = true }\n'
    )
    more += 'delegation_scope = { allow = [{ target = ".", permission = "write" }] }\ntask = "go"\n'
    home.write("podsup.toml", fleet(f'"alice"\n{more}{answers(*rows)}'))
    home.write(
        "evil.toml", f'[fleet]\nname = "x"\n{toml(EVIL)} = 1\n[[pod]]\nname = {toml(EVIL)}\n'
    )


def test_every_command_has_a_case_here() -> None:
    assert set(CASES) == set(commands(cli))


def test_no_command_lets_foreign_text_drive_the_terminal(home: Home) -> None:
    evil_fleet(home)
    bad: dict[str, list[str]] = {}
    env = {name: value for name, value in home.env.items() if name != "NO_COLOR"}
    start = [*home.command, "start", "podsup.toml"]
    with Terminal(start, cwd=home.work, env=env) as foreground:
        foreground.wait("kid: idle", 60)
        foreground.wait("alice: run finished", 60)
        log = next((paths_of(home).data / "logs/alice").glob("*.log"))
        with log.open("ab") as file:
            file.write(EVIL.encode())
        shown = b""
        for command, uses in CASES.items():
            for args in uses:
                foreground.look()
                raw = on_terminal(home, [*command.split(), *args])
                if found := complaints(command, raw):
                    bad[f"{command} {args}"] = found
                shown += raw
        foreground.wait_exit(60)
        if found := complaints("start", foreground.raw):
            bad["start in the foreground"] = found
    assert not bad
    assert b"FORGED" in shown
    assert b"FORGED" in foreground.raw, "the failed run was told"


def test_no_usage_error_lets_an_argument_drive_the_terminal(home: Home) -> None:
    bad = {}
    refused = [[EVIL], [f"--{EVIL}"], ["ps", f"--{EVIL}"], ["session", EVIL], ["-o", EVIL, "ps"]]
    for args in (*refused, *([*command.split(), NAME, NAME, NAME] for command in commands(cli))):
        if found := complaints("", on_terminal(home, args)):
            bad[" ".join(args)] = found
    assert not bad


def test_an_attached_screen_draws_no_foreign_sign(home: Home) -> None:
    evil_fleet(home)
    home.podsup("start", "-d", "--wait", "idle")
    with connect(home) as client:
        wait_status(client, "alice", "idle")
    with Terminal([*home.command, "attach", "alice"], cwd=home.work, env=home.env) as terminal:
        terminal.wait("alice>")
        terminal.type("pasted\u202ehere")
        terminal.wait("pasted�here")
        terminal.type("\x15say\r")
        terminal.wait(lambda text: text.count("FORGED") > 3)
        terminal.type("\x04")
        terminal.wait_exit()
        raw = DRAWN.sub("", terminal.raw.decode("utf-8", "replace"))
    assert not complaints("attach", raw.encode())


def test_a_result_that_is_no_terminal_is_what_was_said(home: Home) -> None:
    evil_fleet(home)
    home.podsup("start", "-d", "--wait", "idle")
    with connect(home) as client:
        wait_status(client, "alice", "idle")
    said = home.podsup("run", "alice", "say", "--wait").stdout
    assert said == f"{EVIL}\n".replace("\r", "\n"), "text mode of the test reads \\r as a newline"
    assert home.json("run", "alice", "say", "--wait")["text"] == EVIL
    told = home.podsup("status", "kid").stdout
    assert "FORGED" in told
    assert not complaints("status", told.encode())
    assert Path(f"/etc/{NAME}").exists() is False
