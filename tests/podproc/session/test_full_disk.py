"""A disk that is really full: nothing is lost, the file is named, and it goes on with new room."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]
OWN_MOUNTS = ("unshare", "--map-root-user", "--mount")


def can_mount() -> bool:
    """Whether this user has mount namespaces."""
    try:
        return subprocess.run([*OWN_MOUNTS, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.process
def test_a_disk_that_fills_up_costs_nothing_but_what_was_refused(tmp_path: Path) -> None:
    if not can_mount():
        pytest.skip("no file system can be mounted here")
    done = subprocess.run(
        [*OWN_MOUNTS, sys.executable, "-m", "tests.podproc.session.full_disk", str(tmp_path)],
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "before it was full" in done.stdout
