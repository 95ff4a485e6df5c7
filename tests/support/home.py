"""A throw-away podsup home: the product driven from outside, as a user would."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tests.support.leftovers import kill_all, processes_of, sockets_of

FOREIGN = ("PODSUP", "XDG_", "ANTHROPIC_", "OPENAI_")
"""Prefixes of variables that would let the machine of the tester into the test."""

_PROJECT = Path(__file__).parents[2]


class Home:
    """A home, a work folder and an environment, below a path short enough for a socket's name."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="ps", dir="/tmp"))
        self.home = self.root / "h"
        self.work = self.root / "w"
        self.home.mkdir(mode=0o700)
        self.work.mkdir()
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)} | {
            "PODSUP_HOME": str(self.home),
            "PODSUP_SCOPE_DIR": str(self.home / "scope"),
            "NO_COLOR": "1",
        }
        script = Path(sys.prefix, "bin/podsup")
        self.command = [str(script)]
        if not script.exists():  # an interpreter podsup is not installed for
            self.command = [sys.executable, "-m", "supervisor.cli"]
            self.env["PYTHONPATH"] = str(_PROJECT)

    def write(self, name: str, text: str) -> Path:
        """Write a file of the work folder, making the folders it needs."""
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def podsup(
        self,
        *args: str,
        ok: int | Collection[int] | None = 0,
        timeout: float = 90,
        input: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run one command in the work folder, without a terminal.

        `ok` is the exit code wanted, or several, or None for any. Raises AssertionError on another
        and on a printed traceback, subprocess.TimeoutExpired after `timeout` seconds.
        """
        done = subprocess.run(
            [*self.command, *args],
            cwd=self.work,
            env=self.env,
            input=input or "",
            text=True,
            capture_output=True,
            timeout=timeout,
        )
        wanted = {ok} if isinstance(ok, int) else ok
        said = f"podsup {' '.join(args)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert wanted is None or done.returncode in wanted, f"exit {done.returncode}: {said}"
        assert "Traceback (most recent call last)" not in done.stderr, said
        return done

    def json(self, *args: str, ok: int | Collection[int] | None = 0, timeout: float = 90) -> Any:
        """Run one command and return the JSON document it prints."""
        return json.loads(self.podsup(*args, "-o", "json", ok=ok, timeout=timeout).stdout)

    def processes(self) -> dict[int, str]:
        """Return {pid: command line} of every live process of this home."""
        return processes_of(self.root)

    def sockets(self) -> list[Path]:
        """Return every socket file of this home."""
        return sockets_of(self.root)

    def down(self) -> None:
        """End every fleet of this home, as an operator would."""
        for folder in sorted((self.home / "data/fleets").glob("*")):
            self.podsup("--fleet", folder.name, "down", ok=None)

    def remove(self) -> None:
        """End what is left, remove the folders; AssertionError if a process or socket was left."""
        processes, sockets = self.processes(), self.sockets()
        kill_all(self.root)
        shutil.rmtree(self.root, ignore_errors=True)
        assert not processes, f"processes were left: {processes}"
        assert not sockets, f"sockets were left: {sockets}"
