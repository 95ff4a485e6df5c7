"""`podsup doctor --cage`: the table of what came of the attempts, and what it means for scripts."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from click.testing import CliRunner, Result

from protocol.isolation import isolated
from supervisor.cli.app import cli

HELD = {"name": "cp", "what": "copy", "inside": "works", "outside": "refused", "told": ""}
OUT = {**HELD, "name": "mv", "what": "move away", "outside": "SUCCEEDS: home:\n f has changed"}
OPEN = {**OUT, "name": "stat", "told": "sizes can be seen"}
SHUT = {**HELD, "name": "queue", "told": "queues can be used"}


def check(
    monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, str]], code: int, *options: str
) -> Result:
    """Run the command over what the attempts say; a program of its own makes them."""
    found = {"levels": [{"level": "landlock", "user": "root", "rows": rows}]}

    def run(argv: list[str], **settings: Any) -> subprocess.CompletedProcess[bytes]:
        assert argv == isolated("podproc.escapes.__main__", "-o", "json")
        text = json.dumps(found) if rows else ""
        return subprocess.CompletedProcess(argv, code, text.encode(), b"it cannot do that\n")

    monkeypatch.setattr(subprocess, "run", run)
    return CliRunner().invoke(cli, ["doctor", "--cage", *options])


def test_a_cage_that_holds_ends_with_0_and_what_is_told_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = check(monkeypatch, [HELD, OPEN, SHUT], 0)
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "level landlock, as root: 3 attempts",
        "  copy       works                 refused",
        "  move away  works                 open: sizes can be seen",
        "  copy       works                 refused, though told: queues can be used",
    ]


def test_one_attempt_that_got_out_ends_with_1_and_its_effect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = check(monkeypatch, [HELD, OUT], 1)
    assert done.exit_code == 1
    assert "SUCCEEDS: home: f has changed" in done.output


def test_the_document_is_what_the_attempts_said(monkeypatch: pytest.MonkeyPatch) -> None:
    done = check(monkeypatch, [HELD], 0, "-o", "json")
    assert json.loads(done.output)["levels"][0]["rows"] == [HELD]


def test_a_check_that_could_not_be_made_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    done = check(monkeypatch, [], 1)
    assert done.exit_code != 0
    assert "it cannot do that" in done.output + str(done.exception)
