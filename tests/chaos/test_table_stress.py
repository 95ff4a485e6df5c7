"""A few seconds of `scripts/chaos table`: supervisors that are killed while they change the table.

Longer: `scripts/chaos table --for 600`. What is watched is said at the head of scripts/chaos.py.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.leftovers import processes_of

PROJECT = Path(__file__).parents[2]
STRESS = (
    *(str(PROJECT / "scripts/chaos"), "table", "--seed", "7", "--for", "3"),
    *("--operations", "150", "--within", "30"),
)


def count_of(what: str, summary: str) -> int:
    found = re.search(what, summary)
    assert found, f"no {what!r} in: {summary}"
    return int(found[1])


@pytest.mark.process
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "more",
    [(), ("--damage",), ("--damage", "both")],
    ids=["killed", "killed and damaged", "killed and lost with its backup"],
)
def test_no_kill_wedges_the_table_or_lets_two_pods_write_one_path(more: Sequence[str]) -> None:
    done = subprocess.run(
        [*STRESS, *more],
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    folder, *_, summary = done.stdout.splitlines()
    assert summary.endswith("as it should be")
    assert count_of(r": (\d+) operations", summary) >= 100
    assert count_of(r"; (\d+) kills", summary) >= 3
    assert count_of(r"write_conflict (\d+)", summary) > 0
    if more:
        assert count_of(r"\bdamage (\d+)", summary) > 0
    root = Path(folder.removeprefix("in "))
    assert not root.exists()
    assert processes_of(root) == {}
