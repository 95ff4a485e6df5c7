"""The next step of a start that has ended its fleet can be taken without a supervisor."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.cli.start import _without_supervisor
from supervisor.logs import open_log


@pytest.mark.parametrize("step", [None, "export KEY=…, then podsup start", "podsup locks"])
def test_step_that_needs_no_supervisor_is_kept(tmp_path: Path, step: str | None) -> None:
    assert _without_supervisor(step, tmp_path) == step


def test_fleet_that_was_ended_is_asked_for_its_logs(tmp_path: Path) -> None:
    assert _without_supervisor("podsup why alice", tmp_path) is None, "nothing was printed"
    with open(open_log(tmp_path, "alice", 1), "wb"):
        assert _without_supervisor("podsup why alice", tmp_path) == "podsup logs alice"
