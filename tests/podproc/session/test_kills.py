"""SIGKILL at every point of the table: the deaths of `test_fail_points.py`, in real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.podproc.session.fail_points import POINTS

PROJECT = Path(__file__).parents[3]


@pytest.mark.process
@pytest.mark.parametrize("seed", [0, 1])
def test_a_process_killed_at_any_point_leaves_a_session_that_opens_with_all_that_was_said(
    seed: int,
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.podproc.session.kills", str(seed)],
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert f"{len(POINTS)} kills at {len(POINTS)} of {len(POINTS)} points" in done.stdout
