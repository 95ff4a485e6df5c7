"""`podsup attach` on a terminal, and without one."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from typing import IO

import pytest

from protocol.entries import UserInput
from protocol.segments import Paste, Text
from tests.e2e.fleets import (
    answers,
    connect,
    fleet,
    history,
    pid_of,
    start,
    wait_reborn,
    wait_status,
)
from tests.e2e.terminal import Terminal
from tests.support.home import Home
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

SLOW = "chars_per_s = 300"
WORDS = " ".join(f"word{n}" for n in range(100))
SLOW_ANSWER = f'match = "slow"\nrepeat = true\ntext = "{WORDS}"'


def attached(home: Home, *more: str, rows: int = 30) -> Terminal:
    return Terminal(
        [*home.command, "attach", "alice", *more], cwd=home.work, env=home.env, rows=rows
    )


def start_alice(home: Home, *rows: str, script: str = "") -> None:
    start(home, fleet(f'"alice"\n{answers(*rows, script=script)}'))


def drawn(text: str, pattern: str) -> list[str]:
    return re.findall(f"^{pattern}$", text, re.MULTILINE)


@contextlib.contextmanager
def following(home: Home, *more: str) -> Iterator[subprocess.Popen[str]]:
    """An attach without a terminal, its output a pipe that is read without waiting."""
    command = [*home.command, "attach", "alice", *more]
    with subprocess.Popen(
        command,
        cwd=home.work,
        env=home.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        try:
            yield process
        finally:
            process.kill()


def read_until(stream: IO[str] | None, wanted: str) -> str:
    assert stream is not None
    seen: list[str] = []

    def probe() -> bool:
        with contextlib.suppress(TypeError):  # nothing there to read
            seen.append(stream.read())
        return wanted in "".join(seen)

    eventually(probe, f"{wanted!r} is printed")
    return "".join(seen)


def test_two_hundred_entries_of_history_are_drawn_once_and_in_order(home: Home) -> None:
    turns = [
        f'text = "step {n}"\ntool_calls = [{{ name = "Nothing", arguments = {{ n = {n} }} }}]'
        for n in range(40)
    ]
    start_alice(home, *turns, 'text = "all done"')
    home.podsup("run", "alice", "go", "--wait")
    with connect(home) as client:
        assert len(history(client, "alice")) >= 200
    with attached(home, "--all") as terminal:
        text = terminal.wait("alice · idle")
        assert drawn(text, r"step (\d+)") == [str(n) for n in range(40)]
        assert drawn(text, r"→ Nothing n=(\d+)") == [str(n) for n in range(40)]
        assert len(drawn(text, "✗ Nothing: .*")) == 40
        assert (len(drawn(text, "> go")), len(drawn(text, "all done"))) == (1, 1)
        assert terminal.screen.unknown == set()
    with attached(home) as terminal:
        text = terminal.wait("alice · idle")
        assert "earlier entries: podsup attach alice --all" in text
        seen = drawn(text, r"step (\d+)")
        assert seen == [str(n) for n in range(40 - len(seen), 40)]
        assert len(seen) > 30


def test_a_typed_line_runs_and_is_drawn_when_it_is_committed(home: Home) -> None:
    start_alice(home)
    with attached(home) as terminal:
        terminal.wait("alice · idle")
        terminal.type("what is up?\r")
        text = terminal.wait(lambda text: drawn(text, "echo: what is up[?]"))
        text = terminal.wait(lambda text: "alice · idle" in text)
        assert len(drawn(text, r"> what is up\?")) == 1
        assert text.count("what is up?") == 2
        terminal.type("\x04")
        assert terminal.wait_exit() == 0


def test_an_answer_is_seen_as_it_comes_and_once_when_it_is_there(home: Home) -> None:
    start_alice(home, SLOW_ANSWER, script=SLOW)
    with attached(home) as terminal:
        terminal.wait("alice · idle")
        terminal.type("slow\r")
        text = terminal.wait("word3 ")
        assert "word99" not in text
        assert "alice · running" in text
        text = terminal.wait(lambda text: "word99" in text and "alice · idle" in text)
        assert len(re.findall(r"\bword7\b", text)) == 1


def test_ctrl_c_pauses_and_says_how_to_resume_and_again_detaches(home: Home) -> None:
    start_alice(home, SLOW_ANSWER, script=SLOW)
    with connect(home) as client, attached(home) as terminal:
        terminal.wait("alice · idle")
        terminal.type("slow\r")
        terminal.wait("word3 ")
        terminal.type("\x03")
        text = terminal.wait("── paused: ")
        assert "podsup resume alice" in text
        assert "/resume" in text
        wait_status(client, "alice", "paused")
        text = terminal.wait("alice · paused")
        assert "word3" not in text, "what was not committed is gone"
        terminal.type("/resume\r")
        terminal.wait("word3 ")
        terminal.type("\x03")
        wait_status(client, "alice", "paused")
        terminal.type("\x03")
        assert terminal.wait_exit() == 0
        assert "detached" in terminal.look()
        assert wait_status(client, "alice", "paused").pid is not None


def test_ctrl_c_twice_at_once_pauses_and_detaches(home: Home) -> None:
    start_alice(home, SLOW_ANSWER, script=SLOW)
    with connect(home) as client, attached(home) as terminal:
        terminal.wait("alice · idle")
        terminal.type("slow\r")
        terminal.wait("word3 ")
        terminal.type("\x03\x03")
        assert terminal.wait_exit() == 0
        wait_status(client, "alice", "paused")


def test_ctrl_c_clears_a_half_typed_line_before_it_detaches(home: Home) -> None:
    start_alice(home)
    with attached(home) as terminal:
        terminal.wait("alice · idle")
        terminal.type("half a line")
        terminal.wait("alice> half a line")
        terminal.type("\x03")
        terminal.wait(lambda text: "half a line" not in text)
        assert terminal.process.poll() is None
        terminal.type("\x04")
        assert terminal.wait_exit() == 0


def test_a_hundred_pasted_lines_are_one_message(home: Home) -> None:
    pasted = "\r".join(f"line {n} \x1b[31m" for n in range(100))
    start_alice(home)
    with connect(home) as client, attached(home) as terminal:
        terminal.wait("alice · idle")
        terminal.type(f"look: \x1b[200~{pasted}\x1b[201~")
        terminal.wait("look: [paste #1: 100 lines]")
        assert not history(client, "alice"), "nothing is submitted before Enter"
        terminal.type("\r")
        terminal.wait("echo: look: line 0 ␛[31m")
        (submitted,) = (e for e in history(client, "alice") if isinstance(e, UserInput))
        text, paste = submitted.segments
        assert text == Text(content="look: ")
        assert isinstance(paste, Paste)
        assert (paste.lines, paste.content) == (100, pasted.replace("\r", "\n"))


def test_a_resize_keeps_the_screen_usable(home: Home) -> None:
    start_alice(home, SLOW_ANSWER, script=SLOW)
    with attached(home) as terminal:
        terminal.wait("alice · idle")
        terminal.type("slow\r")
        terminal.wait("word9 ")
        for rows, columns in ((12, 60), (5, 40), (40, 120)):
            terminal.resize(rows, columns)
            terminal.wait(lambda text: any("alice>" in line for line in terminal.screen.lines))
        terminal.wait("alice · idle", 20)
        terminal.type("hello\r")
        terminal.wait(lambda text: drawn(text, "echo: hello"))
        assert sum("alice>" in line for line in terminal.screen.lines) == 1


def test_what_is_refused_is_said_and_comes_back_into_the_line(home: Home) -> None:
    start_alice(home, SLOW_ANSWER, script=SLOW)
    with attached(home) as terminal:
        terminal.wait("alice · idle")
        terminal.type("slow\r")
        terminal.wait("word3 ")
        terminal.type("more\r")
        terminal.wait(lambda text: drawn(text, "✗ .*"))
        terminal.wait(lambda text: drawn(text, "alice> more"))
        terminal.type("\x15/nonsense\r")
        terminal.wait("there is no command /nonsense")
        terminal.type("/cancel\r")
        terminal.wait("── run cancelled")


def test_a_pod_that_starts_again_is_followed_and_nothing_is_drawn_twice(home: Home) -> None:
    start_alice(home)
    home.podsup("run", "alice", "first", "--wait")
    with connect(home) as client, attached(home) as terminal:
        terminal.wait("alice · idle")
        earlier = pid_of(client, "alice")
        home.podsup("kill", "alice", ok=None)
        home.podsup("restore", "alice", ok=None)
        wait_reborn(client, "alice", earlier)
        text = terminal.wait("── connected to alice again: incarnation 2")
        assert "── alice exited" in text
        terminal.type("second\r")
        text = terminal.wait(lambda text: drawn(text, "echo: second"))
        assert len(drawn(text, "echo: first")) == 1


def test_a_supervisor_that_is_gone_ends_it_with_code_4(home: Home) -> None:
    start_alice(home)
    with attached(home) as terminal:
        terminal.wait("alice · idle")
        home.podsup("down")
        assert terminal.wait_exit() == 4
        assert "the supervisor of fleet e2e does not run" in terminal.look()


def test_what_the_model_says_does_not_drive_the_terminal(home: Home) -> None:
    start_alice(home, 'text = "\\u001b[2J\\u001b]0;owned\\u0007clear"')
    with attached(home) as terminal:
        terminal.wait("alice · idle")
        terminal.type("go\r")
        text = terminal.wait("␛[2J␛]0;owned␇clear")
        assert drawn(text, "> go")


def test_without_a_terminal_it_follows_only(home: Home) -> None:
    start_alice(home)
    home.podsup("run", "alice", "first", "--wait")
    once = home.podsup("attach", "alice", "--once", input="typed\n").stdout
    assert once.splitlines()[1:] == ["> first", "echo: first"]
    with following(home) as process:
        read_until(process.stdout, "echo: first")
        home.podsup("run", "alice", "second", "--wait")
        text = read_until(process.stdout, "echo: second")
        assert text.splitlines()[:2] == ["> second", "echo: second"]
        home.podsup("stop", "alice")
        assert process.wait(15) == 3
        assert process.stderr is not None
        assert "podsup why alice" in process.stderr.read()


def test_without_a_terminal_it_prints_events_where_json_lines_are_wanted(home: Home) -> None:
    start_alice(home)
    with following(home, "-o", "jsonl") as process:
        first = read_until(process.stdout, "\n")
        assert json.loads(first.splitlines()[0])["type"] == "snapshot"
        home.podsup("run", "alice", "hello", "--wait")
        rows = [json.loads(line) for line in read_until(process.stdout, "run_end").splitlines()]
        names = [row["event"] for row in rows if row["type"] == "event" and row["lane"] != "state"]
        assert names[:3] == ["segment_rotated", "invoke_start", "user_message"]
        assert "text_delta" in names
        assert len({(row["lane"], row["seq"]) for row in rows}) == len(rows)


@pytest.mark.parametrize(("pod", "code"), [("nobody", 7), ("alice", 3)], ids=["unknown", "stopped"])
def test_what_cannot_be_attached_to_is_refused(home: Home, pod: str, code: int) -> None:
    start_alice(home)
    home.podsup("stop", "alice")
    home.podsup("attach", pod, ok=code)
    with Terminal([*home.command, "attach", pod], cwd=home.work, env=home.env) as terminal:
        assert terminal.wait_exit() == code


def test_the_pod_lives_on_when_its_terminal_goes_away(home: Home) -> None:
    start_alice(home, SLOW_ANSWER, script=SLOW)
    with connect(home) as client:
        with attached(home) as terminal:
            terminal.wait("alice · idle")
            terminal.type("slow\r")
            terminal.wait("word3 ")
            terminal.hang_up()
            terminal.process.wait(15)
        with attached(home) as terminal:
            terminal.wait("word3 ")
            terminal.process.terminate()
            assert terminal.wait_exit() == 0
        wait_status(client, "alice", "idle")


def test_an_entry_too_large_to_be_published_is_drawn_all_the_same(home: Home) -> None:
    start_alice(home, f'chunk = 4096\ntext = "{"x" * 80_000} the end"')
    with attached(home) as terminal:
        terminal.wait("alice · idle")
        terminal.type("go\r")
        text = terminal.wait(lambda text: "the end" in text and "alice · idle" in text)
        assert text.count("x" * 100) == 800
