"""`podsup doctor --sandbox`: try to break out of the sandbox here, and print what came of it.

The list and its making are the pod's side, run as a program of its own; here is only the table.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import orjson

from protocol.errors import Internal
from protocol.isolation import isolated
from supervisor.cli import exit_codes
from supervisor.cli.app import App, Failed

CHECK_S = 600
_SHOWN = 100


def check_sandbox(app: App) -> None:
    """Run the list and print its table and sum; raises Failed where one got out, and Internal."""
    argv = isolated("podproc.escapes.__main__", "-o", "json")
    try:
        done = subprocess.run(argv, cwd="/", capture_output=True, timeout=CHECK_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise Internal(f"the check took more than {CHECK_S} s and was ended") from error
    if not done.stdout:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise Internal(said[-1] if said else "the check ended without a word")
    found: dict[str, Any] = orjson.loads(done.stdout)
    line = found.pop("line")
    lines = [line for level in found["levels"] for line in _table(level)]
    app.out.lines(found, [*lines, line])
    if done.returncode:
        raise Failed(exit_codes.FAILED)


def _table(level: dict[str, Any]) -> Iterator[str]:
    rows = level["rows"]
    yield f"level {level['level']}, as {level['user']}: {len(rows)} attempts"
    width = max(len(row["what"]) for row in rows)
    for row in rows:
        yield f"  {row['what']:<{width}}  {row['inside']:<20}  {_outside(row)}"


def _outside(row: dict[str, str]) -> str:
    """Return in a line what came of an attempt, and what this level is known to leave open."""
    text = " ".join(row["outside"].split())
    if not row["told"]:
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return f"open: {row['told']}" if text != "refused" else f"refused, though told: {row['told']}"
