"""Streams that are closed, full or left: a command says so, or nothing, and shows no traceback."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
E = "\x1b]52;c;ZXZpbA==\x07"
FULL = "podsup: stdout takes no more: "

DOORS = {
    "put_result": "o.put_result('x\\n' * 9)",
    "put_stored": "o.put_stored([b'x\\n'] * 9)",
    "table": "o.Output('table').table(['A'], [['b']])",
    "document": "o.Output('json').document({})",
    "text": "o.Output('table').text({}, 'said')",
    "put_drawn": "o.put_drawn([Line('x', Style.NOTE)])",
    "click": "import click; click.echo('x')",
}
CODE = """
import asyncio, gc, sys, threading, warnings
from supervisor.cli import app, fleet_files, output as o
from supervisor.drawing import Line, Style
def body(*_, **__):
    {body}
fleet_files.check.callback = body
app.run(["check"])
"""


@contextmanager
def dev_full() -> Iterator[int]:
    with open("/dev/full", "wb") as full:
        yield full.fileno()


@contextmanager
def full_pipe() -> Iterator[int]:
    reads, writes = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writes, False)
    try:
        os.write(writes, bytes(fcntl.fcntl(writes, fcntl.F_GETPIPE_SZ)))
        yield writes
    finally:
        os.close(reads)
        os.close(writes)


@contextmanager
def left_pipe() -> Iterator[int]:
    reads, writes = os.pipe2(os.O_CLOEXEC)
    os.close(reads)
    try:
        yield writes
    finally:
        os.close(writes)


def run(
    body: str, stdout: int, *, redirect: str = "", unbuffered: str = ""
) -> subprocess.CompletedProcess[str]:
    code = CODE.format(body=body.replace("\n", "\n    "))
    return subprocess.run(
        ["bash", "-c", f'exec "$@" {redirect}', "_", sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.process
@pytest.mark.parametrize("door", ["put_stored", "table", "click"])
@pytest.mark.parametrize(
    ("outlet", "unbuffered"), [(dev_full, ""), (full_pipe, ""), (full_pipe, "1")]
)
def test_stdout_that_takes_no_more_is_one_clear_error(
    outlet: Callable[[], AbstractContextManager[int]], unbuffered: str, door: str
) -> None:
    with outlet() as stdout:
        done = run(DOORS[door], stdout, unbuffered=unbuffered)
    assert done.stderr.startswith(FULL)
    assert len(done.stderr.splitlines()) == 2
    assert done.returncode == 1


@pytest.mark.process
@pytest.mark.parametrize("redirect", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_take_everything(redirect: str) -> None:
    body = "\n".join([*DOORS.values(), "o.note('x')"])
    done = run(body, subprocess.DEVNULL, redirect=redirect)
    assert done.stderr in ("", "x\n")
    assert done.returncode == 0


@pytest.mark.process
def test_file_opened_later_never_gets_the_number_of_a_closed_stream() -> None:
    body = "o.note(str(open('/dev/null').fileno() > 2))"
    done = run(body, subprocess.DEVNULL, redirect="<&- >&-")
    assert done.stderr == "True\n"


@pytest.mark.process
def test_stderr_that_is_full_hides_no_result() -> None:
    done = run("o.note('x')\no.put_result('said')", subprocess.PIPE, redirect="2>/dev/full")
    assert (done.stdout, done.returncode) == ("said", 0)


@pytest.mark.process
@pytest.mark.parametrize("door", ["put_stored", "table", "click"])
def test_reader_who_has_gone_is_no_error(door: str) -> None:
    with left_pipe() as stdout:
        done = run(DOORS[door], stdout)
    assert done.stderr == ""


# -- what Python prints itself

THREAD = """
def bad(): raise RuntimeError(E)
t = threading.Thread(target=bad); t.start(); t.join()
"""
TASK = """
async def bad(): raise RuntimeError(E)
async def main():
    asyncio.create_task(bad()); await asyncio.sleep(0.01)
asyncio.run(main()); gc.collect()
"""
CALLBACK = """
def bad(): raise RuntimeError(E)
async def main():
    asyncio.get_running_loop().call_soon(bad); await asyncio.sleep(0.01)
asyncio.run(main())
"""
UNRAISABLE = """
class Evil:
    def __del__(self): raise ValueError(E)
Evil()
"""


@pytest.mark.process
@pytest.mark.parametrize(
    "body",
    [THREAD, TASK, CALLBACK, UNRAISABLE, "\nwarnings.warn(E)", "\nraise RuntimeError(E)"],
    ids=["thread", "task", "callback", "unraisable", "warning", "crash"],
)
def test_what_python_prints_by_itself_drives_no_terminal(body: str) -> None:
    done = run(f"E = {E!r}{body}", subprocess.DEVNULL)
    assert "52;c;ZXZpbA==" in done.stderr
    assert "\x1b" not in done.stderr
