"""Fixtures for every test, the leak gate around each, and a line on the tests left out."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.home import Home
from tests.support.leaks import Held, assert_nothing_leaked

# A shared machine is slow at times: no example has a deadline, the timeout bounds the whole test.
settings.register_profile(
    "repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "explore", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow]
)

_deselected = pytest.StashKey[Counter[str]]()


@pytest.fixture(autouse=True)
def leak_gate() -> Iterator[None]:
    """Fail a test that leaves a thread, a file descriptor or a child process behind."""
    before = Held.now()
    yield
    assert_nothing_leaked(before)


@pytest.fixture
def home(request: pytest.FixtureRequest) -> Iterator[Home]:
    """A throw-away home of which nothing may be left; for a `process` test the fleet ends first."""
    home = Home()
    try:
        yield home
        if request.node.get_closest_marker("process"):
            home.down()
    finally:
        home.remove()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_deselected] = Counter()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items:
        item.config.stash[_deselected][item.location[0]] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)  # set in an xdist worker
    if output is not None:
        left_out = session.config.stash[_deselected]
        output["deselected"] = dict(left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    with contextlib.suppress(AttributeError, KeyError):  # a worker that crashed has no output
        # Each worker leaves out the same tests: one answer is enough.
        node.config.stash[_deselected] = Counter[str](node.workeroutput["deselected"])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    reports = terminalreporter.stats.get("passed", ())
    passed = {report.nodeid.rpartition("models/")[2] for report in reports}
    if any(node.startswith("test_matrix.py") for node in passed):
        from tests.podproc.models.matrix import table

        terminalreporter.write_line(table(passed))
    skipped = terminalreporter.stats.get("skipped", ())
    closed, unseen = (
        {report.nodeid.rpartition("cage/")[2] for report in some} for some in (reports, skipped)
    )
    if any(node.startswith("test_escapes.py") for node in closed):
        from tests.podproc.cage import escaping

        terminalreporter.write_line(escaping.table(closed, unseen))
    if left_out := config.stash[_deselected]:
        flags = {"-m": config.getoption("markexpr"), "-k": config.getoption("keyword")}
        why = " ".join(f"{flag} '{value}'" for flag, value in flags.items() if value)
        files = ", ".join(f"{path} ({count})" for path, count in sorted(left_out.items()))
        terminalreporter.write_line(f"left out by {why}: {files}")
