"""A full disk must not end a process that only wanted to say so. /dev/full is such a disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SAY = """
from protocol.unfailing import use_unfailing_stderr
use_unfailing_stderr()
import sys, traceback
print("a line", file=sys.stderr, flush=True)
print("another")
try:
    1 / 0
except ZeroDivisionError:
    traceback.print_exc()
{more}
"""
ROOT = Path(__file__).parents[2]


def run(code: str, stderr: int) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stderr=stderr,
        stdout=subprocess.PIPE,
        timeout=30,
        check=False,
    )


def test_printing_to_a_full_disk_raises_nothing() -> None:
    with open("/dev/full", "wb") as full:
        assert run(SAY.format(more=""), full.fileno()).returncode == 0


def test_lost_writes_are_counted_and_told_with_the_next_that_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "log"
    more = f"import os\nos.dup2(os.open({str(path)!r}, os.O_WRONLY | os.O_CREAT), 2)\nprint('back')"
    with open("/dev/full", "wb") as full:
        assert run(SAY.format(more=more), full.fileno()).returncode == 0
    told = path.read_text()
    assert "writes were lost]" in told
    assert told.endswith("back\n")
