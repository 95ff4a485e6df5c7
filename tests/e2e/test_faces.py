"""`run`, `rewind` and `compact` as their user sees them, on a terminal and without one."""

from __future__ import annotations

import json
import re
import signal
import subprocess

import pytest

from tests.e2e.fleets import answers, bash, connect, fleet, start, wait_status
from tests.e2e.terminal import Terminal
from tests.support.home import Home
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

WORDS = " ".join(f"word{n}" for n in range(200))
SLOW = f'match = "slow"\nrepeat = true\ntext = "{WORDS}"'
BUSY = (
    'match = "busy"\ntext = "at last"\nfail_times = 1\n'
    'fail = { status = 529, message = "overloaded" }'
)
WORK = bash("^work$", "echo made", 'text = "I look."\nthinking = "one\\ntwo"')


SUMMARY = (
    'match = "Write the summary now"\nrepeat = true\ndelay_ms = 500\n'
    'text = "## Done\\nAll of it.\\n## Where things stand\\nWell."'
)
LONG = "word " * 100


def start_alice(home: Home, *rows: str) -> None:
    start(home, fleet(f'"alice"\n{answers(*rows, script="chars_per_s = 400")}'))


def test_a_streamed_run_keeps_its_answer_and_its_doings_apart(home: Home) -> None:
    start_alice(home, WORK, BUSY)
    done = home.podsup("run", "alice", "work", "--stream", "-v")
    assert done.stdout.splitlines()[0] == "I look.", "each text is a line of its own"
    told = done.stderr.splitlines()
    assert told[0] == "→ Bash echo made"
    assert told[1].startswith("← Bash: exit code 0")
    assert told[-1].startswith("── finished · in ")
    assert "context 0% (" in told[-1]
    assert home.podsup("run", "alice", "busy", "--stream").stderr == "", "no terminal, no -v"


def test_a_retry_is_told_on_a_terminal_below_the_answer(home: Home) -> None:
    start_alice(home, BUSY)
    command = [*home.command, "run", "alice", "busy", "--stream"]
    with Terminal(command, cwd=home.work, env=home.env) as terminal:
        assert terminal.wait_exit() == 0
        lines = terminal.look().splitlines()
    assert lines[0].startswith("! attempt 1 of 4 failed (HTTP 529: overloaded); the next in ")
    assert lines[1] == "at last"
    assert lines[2].startswith("── finished")


def test_a_streamed_run_as_json_lines_is_its_events_and_its_outcome_last(home: Home) -> None:
    start_alice(home)
    home.podsup("run", "alice", "before", "--wait")
    done = home.podsup("run", "alice", "hello", "--stream", "-o", "jsonl")
    *rows, outcome = [json.loads(line) for line in done.stdout.splitlines()]
    assert (rows[0]["event"], rows[-1]["event"]) == ("invoke_start", "run_end")
    assert "text_delta" in {row["event"] for row in rows}
    assert (outcome["schema"], outcome["result"]) == (1, "finished")
    assert outcome["text"] == "echo: hello"


@pytest.mark.parametrize("more", [("--stream",), ("--wait", "-o", "json")], ids=["text", "json"])
def test_ctrl_c_ends_the_waiting_and_not_the_run(home: Home, more: tuple[str, ...]) -> None:
    start_alice(home, SLOW)
    command = [*home.command, "run", "alice", "slow", *more]
    with connect(home) as client:
        with subprocess.Popen(
            command,
            cwd=home.work,
            env=home.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            wait_status(client, "alice", "running")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=10)
        assert process.returncode == 130
        assert "the run of alice goes on" in err
        assert "podsup cancel alice" in err
        if "json" in more:
            assert json.loads(out)["error"]["code"] == "interrupted"
        assert wait_status(client, "alice", "running")
        home.podsup("cancel", "alice", "--wait")


def test_a_compaction_is_waited_for_and_its_failure_is_said(home: Home) -> None:
    start_alice(home, SUMMARY)
    home.podsup("run", "alice", "hi", "--wait")
    nothing = home.podsup("compact", "alice", "--wait", ok=1)
    assert "the compaction of alice failed, nothing changed: " in nothing.stderr
    home.podsup("run", "alice", f"one {LONG}", "--wait")
    done = home.json("compact", "alice", "--wait")
    assert done["context_tokens_after"] < done["context_tokens_before"]
    assert done["segment_id"] == home.json("status", "alice")["segment_id"]
    home.podsup("run", "alice", f"two {LONG}", "--wait")
    text = home.podsup("compact", "alice", "--wait").stdout
    assert re.fullmatch(r"alice: compacted, \d+ tokens of context are \d+ now\n", text)


def is_at_rest(screen: str) -> bool:
    """Say whether the bar says that the pod is idle: what has shown its text may still run."""
    return "alice · idle" in screen.rstrip().rpartition("\n")[2]


def test_an_attached_terminal_follows_a_compaction_and_a_rewind_behind_it(home: Home) -> None:
    start_alice(home, SUMMARY)
    home.podsup("run", "alice", "first", "--wait")
    home.podsup("run", "alice", f"second {LONG}", "--wait")
    command = [*home.command, "attach", "alice"]
    with Terminal(command, cwd=home.work, env=home.env, columns=4000) as terminal:
        terminal.wait("alice · idle")
        terminal.type("/compact\r")
        terminal.wait("⋯ compacting the history")
        terminal.wait("» summary: ## Done All of it.")
        terminal.type("third\r")
        terminal.wait("echo: third")
        terminal.wait(is_at_rest)
        terminal.type("/rewind 1\r")
        terminal.wait("alice> first")
        terminal.type("\x15again\r")
        text = terminal.wait("echo: again")
        notes = [line for line in text.splitlines() if line.startswith("── ")][1:]
        assert notes == [
            "── compacted: 2 turns are summarised, 0 kept",
            "── rewound: goes on from turn 0, in a new segment",
        ]
        for answer in ("echo: first", "echo: third", "> third"):
            assert text.splitlines().count(answer) == 1
    once = home.podsup("attach", "alice", "--once", "--all").stdout
    assert "echo: third" not in once, "what a rewind left behind is not of the line"
    assert "echo: again" in once


def test_a_rewind_prints_the_input_and_says_what_stays(home: Home) -> None:
    start_alice(home, WORK)
    home.podsup("run", "alice", "work", "--wait")
    listed = home.podsup("rewind", "alice", "--list").stdout.splitlines()
    assert listed[0].split() == ["N", "AGE", "INPUT", "WARNING"]
    assert listed[1].split()[0] == "1"
    done = home.podsup("rewind", "alice", "--to", "1")
    assert done.stdout == "work\n"
    assert "alice: taken back: " in done.stderr
    assert "alice: the effects of 1 tool call stay" in done.stderr
    refused = home.podsup("rewind", "alice", "--to", "1", ok=2)
    assert "pod alice has no input 1; there is none" in refused.stderr


def test_what_is_refused_says_what_can_be_done(home: Home) -> None:
    start_alice(home, SLOW)
    home.podsup("run", "alice", "slow")
    for command in (("run", "alice", "x", "--wait"), ("compact", "alice", "--wait")):
        assert "next: podsup wait alice, or" in home.podsup(*command, ok=6).stderr
    home.podsup("pause", "alice", "--wait")
    with connect(home) as client:
        wait_status(client, "alice", "paused", "idle")
    home.podsup("cancel", "alice", ok=(0, 3))
    home.podsup("stop", "alice")
    for command in (("rewind", "alice", "--list"), ("run", "alice", "x", "--wait")):
        refused = home.podsup(*command, ok=3).stderr
        assert "pod alice is stopped" in refused
        assert "next: podsup restore alice" in refused


def test_an_attached_terminal_completes_rewinds_and_unfolds(home: Home) -> None:
    start_alice(home, WORK)
    home.write("notes one.md", "")
    home.podsup("run", "alice", "work", "--wait")
    command = [*home.command, "attach", "alice"]
    with Terminal(command, cwd=home.work, env=home.env) as terminal:
        text = terminal.wait("alice · idle")
        assert "· thinking: one two" in text
        terminal.type("/thinking\r")
        terminal.wait("· thinking: one\n  two")
        terminal.type("/re\t")
        terminal.wait("resume  rewind")
        terminal.type("wind\r")
        terminal.wait("tools ran after this")
        terminal.type("/rewind 1\r")
        terminal.wait("── the effects of 1 tool call stay")
        terminal.wait("alice> work")
        terminal.type("\x15see @no\t")
        terminal.wait('alice> see @"notes one.md"')
        terminal.type("\x15/nonsense it\r")
        terminal.wait("there is no command /nonsense, and no workflow")
        terminal.wait("alice> /nonsense it")


def test_an_input_whose_run_was_taken_back_comes_back_into_the_line(home: Home) -> None:
    start_alice(home, 'match = "late"\ndelay_ms = 20000\ntext = "never"')
    command = [*home.command, "attach", "alice"]
    with Terminal(command, cwd=home.work, env=home.env) as terminal:
        terminal.wait("alice · idle")
        terminal.type("late \\@x @a.py\r")
        terminal.wait("alice · running")
        terminal.type("\x03")
        terminal.wait("── the run had shown nothing")
        eventually(
            lambda: "alice> late \\@x @a.py" in terminal.look().splitlines()[-2],
            "the input is back in the line",
        )
