"""What `podsup status` prints of a pod, as a person sees it."""

from __future__ import annotations

from typing import Any

import pytest

from protocol import control as c
from protocol.cage import CageLevel, CageSupport, describe
from protocol.manifest import Sandbox
from supervisor.cli.look import _status_lines
from tests.protocol.samples import SAMPLES

LEVELS = [*CageLevel]
TOOLS = [f"SomeToolNumber{number}" for number in range(30)]


def shown(level: CageLevel, width: int, **changes: Any) -> list[str]:
    (row,) = [one for one in SAMPLES if isinstance(one, c.StatusRow)][:1]
    opened = Sandbox(network=True, unix_sockets=True)
    sandbox = describe(opened, CageSupport(level, is_root=True))
    seen = {"greeting": {"tools": TOOLS}, "in_flight": {"blocks": []}, "alerts": []}
    data = {**row.model_dump(mode="json"), **seen, "sandbox": sandbox.model_dump(), **changes}
    return _status_lines(data, width=width)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("width", [60, 80, 132])
def test_what_a_sandbox_leaves_open_and_the_tools_fit_the_terminal(
    level: CageLevel, width: int
) -> None:
    lines = shown(level, width)
    start = next(n for n, line in enumerate(lines) if line.startswith("  sandbox"))
    end = next(n for n, line in enumerate(lines) if line.startswith("  last exit"))
    assert [line for line in lines[start:end] if len(line) > width] == []
    told = " ".join(" ".join(lines[start:end]).split())
    items = describe(
        Sandbox(network=True, unix_sockets=True), CageSupport(level, is_root=True)
    ).unprotected
    assert all(f"- {' '.join(item.split())}" in told for item in items)
    assert ", ".join(TOOLS) in told


def test_path_that_is_wider_than_the_terminal_stays_whole() -> None:
    path = f"/{'long/' * 30}podsup.toml"
    lines = shown(CageLevel.NONE, 80, sandbox={"level": "none", "unprotected": [f"of {path} all"]})
    assert any(path in line for line in lines)


def test_caps_of_a_pod_fit_eighty_columns() -> None:
    used = {"now": 200, "most": 200}
    keys = (
        "children",
        "tree",
        "depth",
        "notification_runs_per_minute",
        "notification_runs_per_hour",
    )
    lines = shown(CageLevel.NONE, 80, caps=dict.fromkeys(keys, used))
    assert "  unasked    200 of 200 a minute, 200 of 200 an hour" in lines
    assert all(len(line) <= 80 for line in lines if line.startswith(("  caps", "  unasked")))
