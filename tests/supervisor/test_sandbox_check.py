"""`podsup doctor --sandbox`: the table of attempts, their sum, and what it means for scripts."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from typing import Any

import pytest
from click.testing import CliRunner, Result

from podproc.escapes.run import Row, Total
from protocol.isolation import isolated
from supervisor.cli.app import cli

HELD = {"name": "cp", "what": "copy", "inside": "works", "outside": "refused", "told": ""}
OUT = {**HELD, "name": "mv", "what": "move away", "outside": "SUCCEEDS: home:\n f has changed"}
OPEN = {**OUT, "name": "stat", "told": "sizes can be seen"}
SHUT = {**HELD, "name": "queue", "told": "queues can be used"}
SKIPPED = {**HELD, "name": "kexec", "inside": "cannot be shown here"}
BROKEN = {**HELD, "name": "cat", "inside": "FAILS: no such program"}


def check(
    monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, str]], code: int, *options: str
) -> Result:
    """Run the command over what the attempts say; a program of its own makes them."""
    total = Total.of([[Row(**row) for row in rows]])
    found = {
        "levels": [{"level": "landlock", "user": "root", "rows": rows}],
        "sum": asdict(total),
        "line": total.line(),
    }

    def run(argv: list[str], **settings: Any) -> subprocess.CompletedProcess[bytes]:
        assert argv == isolated("podproc.escapes.__main__", "-o", "json")
        text = json.dumps(found) if rows else ""
        return subprocess.CompletedProcess(argv, code, text.encode(), b"it cannot do that\n")

    monkeypatch.setattr(subprocess, "run", run)
    return CliRunner().invoke(cli, ["doctor", "--sandbox", *options])


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
        "3 attempts at 1 level: 2 held, 0 got out, 1 open, as status says, 0 skipped",
    ]


def test_one_attempt_that_got_out_ends_with_1_and_its_effect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = check(monkeypatch, [HELD, OUT], 1)
    assert done.exit_code == 1
    assert "SUCCEEDS: home: f has changed" in done.output


def test_the_sum_counts_each_attempt_in_one_way() -> None:
    rows = [Row(**row) for row in (HELD, SHUT, OUT, OPEN, SKIPPED, BROKEN)]
    total = Total.of([rows, rows])
    assert total.attempts == 12
    assert total.line() == (
        "12 attempts at 2 levels: 4 held, 2 got out, 2 open, as status says, 2 skipped, 2 unclear"
    )


def test_the_document_is_what_the_attempts_said(monkeypatch: pytest.MonkeyPatch) -> None:
    done = check(monkeypatch, [HELD], 0, "-o", "json")
    document = json.loads(done.output)
    assert document["levels"][0]["rows"] == [HELD]
    assert document["sum"]["held"] == document["sum"]["attempts"] == 1
    assert "line" not in document


def test_a_check_that_could_not_be_made_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    done = check(monkeypatch, [], 1)
    assert done.exit_code != 0
    assert "it cannot do that" in done.output + str(done.exception)
