"""What an agent chose (a path, an error's text) neither drives a terminal by a log nor forges one.

Held for the three processes that write logs: supervisor, zygote and pod.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path

import pytest

from protocol.unfailing import UnfailingStderr, print_traceback
from supervisor.background import say
from supervisor.cli.doctor import told_of_strangers

ROOT = Path(__file__).parents[2]
FORGED = "2026-12-01T00:00:00Z alert: a stranger says hello"
EVIL = f"x\x1b]52;c;aGk=\x07\r\x9b2J\u202e\x85{FORGED}\u2028{FORGED}\n{FORGED}\npodsup: all is well"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u202e]")


class Logged(UnfailingStderr):
    """Writes to a file that the test may read."""

    def __init__(self, path: Path, fd: int) -> None:
        super().__init__()
        self.path = path
        self._fd = fd

    def fileno(self) -> int:
        """The file's descriptor."""
        return self._fd

    @property
    def text(self) -> str:
        """What the log holds."""
        return self.path.read_bytes().decode()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Logged]:
    with open(tmp_path / "log", "wb") as file:
        yield Logged(tmp_path / "log", file.fileno())


def test_a_line_said_stays_one_line_that_no_terminal_obeys(log: Logged) -> None:
    with redirect_stderr(log):
        say(f"{EVIL}: {EVIL}")
    assert not OBEYED.search(log.text)
    assert len(log.text.splitlines()) == 1


def test_no_line_of_a_traceback_begins_at_the_margin(log: Logged) -> None:
    try:
        raise ExceptionGroup(EVIL, [RuntimeError(EVIL)])
    except ExceptionGroup as error:
        error.add_note(EVIL)
        with redirect_stderr(log):
            print_traceback(error)
    assert not OBEYED.search(log.text)
    assert all(line.startswith("  ") for line in log.text.splitlines())


def test_what_python_prints_itself_is_harmless_in_a_log(log: Logged) -> None:
    with redirect_stderr(log):
        sys.__excepthook__(RuntimeError, RuntimeError(EVIL), None)
        print(EVIL, file=sys.stderr)
    assert FORGED in log.text
    assert not OBEYED.search(log.text)


def test_a_pod_that_cannot_start_says_so_in_one_line(log: Logged) -> None:
    from podproc.__main__ import _fail
    from protocol.errors import InvalidScope

    with redirect_stderr(log):
        _fail("this pod cannot start", InvalidScope(EVIL, next_step=EVIL), 78)
    (line,) = log.text.splitlines()
    assert line.startswith("podsup: this pod cannot start: x␛]52")


def test_doctor_believes_only_lines_that_the_supervisor_began(tmp_path: Path, log: Logged) -> None:
    true = "alert: a stranger says it is pod kid: pid 7, left alone"
    with redirect_stderr(log):
        say(f"kid: failed: {FORGED} {EVIL}")
        print_traceback(RuntimeError(EVIL))
        assert told_of_strangers(log.path) == []
        say(true)
    (told,) = told_of_strangers(log.path)
    assert told.endswith(true)


def test_each_process_that_writes_a_log_takes_the_safe_stream() -> None:
    for name in ("supervisor/daemon.py", "podproc/zygote.py", "podproc/__main__.py"):
        assert "use_unfailing_stderr()" in (ROOT / name).read_text(), name


def test_tracebacks_are_printed_by_one_function() -> None:
    found = [
        str(file.relative_to(ROOT))
        for package in ("protocol", "podproc", "supervisor")
        for file in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value) == "traceback"
        and node.attr.startswith("print_")
    ]
    assert found == []
