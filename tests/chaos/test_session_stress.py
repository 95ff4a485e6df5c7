"""A few seconds of `scripts/chaos session`: processes that are killed while they write a session.

Longer: `scripts/chaos session --for 600`. What is watched is said at the head of
scripts/chaos_session.py.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
STRESS = (str(PROJECT / "scripts/chaos"), "session", "--seed", "7", "--for", "3")


@pytest.mark.process
def test_no_kill_loses_or_invents_anything_in_a_session() -> None:
    done = subprocess.run(
        STRESS,
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    *_, summary = done.stdout.splitlines()
    assert summary.endswith("as it should be")
    for what in (r": (\d+) lives", r" (\d+) operations", r"; (\d+) kills", r" (\d+) failures"):
        found = re.search(what, summary)
        assert found, f"no {what!r} in: {summary}"
        assert int(found[1]) >= 1
