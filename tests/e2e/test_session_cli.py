"""`podsup session` beside living pods, and a pod that is brought back from a damaged log."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from tests.e2e.fleets import DEADLINE_S, answers, bash, connect, fleet, paths_of, row, start
from tests.e2e.terminal import Terminal
from tests.support.home import Home
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

ALICE = answers(bash("look", "echo found"), 'text = "done"')
FLEET = fleet(f'"alice"\nrestart = "never"\ntask = "look around"\n{ALICE}', f'"bob"\n{answers()}')


def log_of(home: Home, pod: str) -> Path:
    with connect(home) as client:
        found = row(client, pod)
    assert found.session_id is not None
    return paths_of(home).data / f"sessions/{found.session_id}/{found.segment_id}.jsonl"


def damage(log: Path, kind: bytes) -> bytes:
    """Overwrite a part of the first line of a kind with NUL bytes, and return that line."""
    data = log.read_bytes()
    lines = data.splitlines(keepends=True)
    line = next(line for line in lines if line.startswith(b'{"kind":"%b"' % kind))
    bad = line[:10] + bytes(20) + line[30:]
    log.write_bytes(data.replace(line, bad, 1))
    return bad


def test_a_pod_whose_log_is_damaged_starts_again_after_a_repair(home: Home) -> None:
    start(home, FLEET)
    log = log_of(home, "alice")
    attached = home.podsup("attach", "alice", "--once", "--all").stdout.splitlines()[1:]
    shown = home.podsup("session", "show", "alice").stdout
    assert shown.split("\n\n", 1)[1].splitlines() == attached
    assert shown.startswith("alice: idle\n")
    assert "is in use by pod 'alice' (pid " in (
        home.podsup("session", "fsck", "alice", "--repair", ok=6).stderr
    )
    home.podsup("session", "fsck", "alice")
    home.podsup("down")

    bad = damage(log, b"tool_result")
    failed = home.podsup("start", "-d", "--wait", "idle", ok=1)
    assert "podsup session fsck" in failed.stderr
    found = home.json("session", "fsck", "alice", ok=1)["segments"][0]
    assert (found["condition"], found["problem"]["cause"]) == ("damaged", "20 NUL bytes")
    assert "✗ damaged: line 6" in home.podsup("session", "show", "alice").stdout

    mended = home.json("session", "fsck", "alice", "--repair")
    assert mended["clean"]
    assert mended["repaired"][0]["closed"] == 1
    assert (log.with_suffix(".torn-1")).read_bytes() == bad
    home.podsup("restart", "alice")
    home.podsup("run", "alice", "look again", "--wait")
    messages = json.loads(
        home.podsup("session", "export", "alice", "--format", "anthropic").stdout
    )["messages"]
    results = [
        block
        for message in messages
        for block in message["content"]
        if block["type"] == "tool_result"
    ]
    assert [one.get("is_error", False) for one in results] == [True, False]
    assert home.podsup("status", "bob").stdout.startswith("bob: idle")


def test_a_play_back_on_a_terminal_takes_its_time_and_ctrl_c_ends_it_quietly(home: Home) -> None:
    start(home, FLEET)
    command = [*home.command, "session", "replay", "alice"]
    with Terminal(
        [*command, "--speed", "1e-9"], cwd=home.work, env=home.env
    ) as slow:  # each pause is as long as a pause can be
        slow.wait("> look around")
        assert slow.process.poll() is None
        slow.process.send_signal(signal.SIGINT)
        assert slow.wait_exit() == 0
        assert "done" not in slow.look()
        assert "Traceback" not in slow.look()
    with Terminal([*command, "--speed", "0"], cwd=home.work, env=home.env) as quick:
        assert quick.wait_exit() == 0
        assert "done" in quick.look()


def test_a_session_over_several_segments_is_one_story_without_what_was_rewound(home: Home) -> None:
    headings = ("Done", "In progress", "Decisions", "The user's directives", "Where things stand")
    summary = "".join(f"## {heading}\\nnothing\\n" for heading in headings)
    answer = f'match = "summary now"\nrepeat = true\ntext = "{summary}"'
    start(home, fleet(f'"alice"\ntask = "first"\n{answers(answer)}'))
    home.podsup("run", "alice", "second " + "x" * 40_000, "--wait")
    home.podsup("compact", "alice")
    sessions = paths_of(home).data / "sessions"
    eventually(lambda: len([*sessions.glob("*/*.jsonl")]) == 2, "a new segment", DEADLINE_S)
    home.podsup("run", "alice", "third", "--wait")
    shown = home.podsup("session", "show", "alice").stdout
    assert re.search(r"\n── compacted: .*\n» summary: .*\n> third\necho: third\n$", shown), shown
    assert "> first\necho: first\n> second x" in shown

    home.podsup("rewind", "alice", "--to", "2")
    home.podsup("run", "alice", "other", "--wait")
    assert home.podsup("session", "show", "alice").stdout.split("\n\n")[1].splitlines() == [
        "> first",
        "echo: first",
        "── goes on in a new segment",
        "> other",
        "echo: other",
    ]
    assert home.podsup("session", "replay", "alice", "--until", "1").stdout.startswith(
        "> first\necho: first\n"
    )
    assert len(home.podsup("session", "show", "alice", "-o", "name").stdout.split()) == 2
    checked = home.json("session", "fsck", "alice")["segments"]
    assert [one["condition"] for one in checked] == ["ok"] * 3
