"""A session over several segments, with a real supervisor: claims, records, kills, rewinds."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from protocol import control as c
from protocol import methods as m
from protocol.errors import PodsupError
from protocol.segments import Text
from supervisor.client import Client
from supervisor.pod_store import PodStore
from tests.e2e.fleets import (
    answers,
    connect,
    fleet,
    history_text,
    paths_of,
    pid_of,
    row,
    start,
    wait_reborn,
)
from tests.support.home import Home

pytestmark = pytest.mark.process

SUMMARY = 'match = "Write the summary"\nrepeat = true\ntext = "## Done\\nWe spoke of apples."\n'
LONG = "apples and pears, " * 60


def orchard(more: str = "") -> str:
    """Return a fleet of one pod with a small window."""
    table = answers(SUMMARY, script="context_window = 3000")
    return fleet(f'"alice"\n{more}\n{table}')


def talk(client: Client, text: str = LONG) -> str:
    """Run once and return the answer."""
    done = client.run("alice", (Text(content=text),), wait=True)
    assert done is not None
    assert done.result == "finished", done.error
    return str(done.text)


def segment_of(home: Home) -> str:
    """Return the segment that the pod's record names."""
    record = PodStore(paths_of(home).data).load("alice")
    assert record is not None
    return record.segment_id


def segments(home: Home) -> list[Path]:
    """Return the files of its session, oldest first."""
    return sorted((paths_of(home).data / "sessions").glob("*/*.jsonl"))


def claimed_segment(client: Client) -> str | None:
    """Return the segment that the scope table says the pod writes to."""
    table: c.Allocations = client.control(c.Locks())
    (allocation,) = table.allocations
    return allocation.segment_id


def test_a_compacted_session_is_claimed_recorded_restored_and_rewound_past(home: Home) -> None:
    start(home, orchard())
    with connect(home) as client:
        for _ in range(3):
            talk(client)
        before = row(client, "alice").context_tokens
        home.podsup("compact", "alice", "--wait")
        assert row(client, "alice").context_tokens < before
        first, second = segments(home)
        assert segment_of(home) == claimed_segment(client) == second.stem
        assert row(client, "alice").segment_id == second.stem
        earlier = pid_of(client, "alice")
        os.kill(earlier, signal.SIGKILL)
        wait_reborn(client, "alice", earlier)
        assert row(client, "alice").segment_id == second.stem
        assert "We spoke of apples." in history_text(client, "alice")
        assert talk(client, "still there?") == "echo: still there?"
        listed: m.RewindTargets = client.send("alice", m.ListRewindTargets())
        assert [target.turn_index for target in listed.targets] == [4, 3, 2, 1]
        home.podsup("rewind", "alice", "--to", "2")
        assert len(segments(home)) == 3
        third = segments(home)[-1]
        assert json.loads(third.read_text().splitlines()[0])["forked_from"]["segment_id"] == (
            first.stem
        )
        assert segment_of(home) == claimed_segment(client) == third.stem
        home.podsup("stop", "alice")
        home.podsup("restore", "alice")
        assert talk(client, "once more") == "echo: once more"


def test_a_long_session_compacts_by_itself_and_goes_on(home: Home) -> None:
    start(home, orchard())
    with connect(home) as client:
        for _ in range(12):
            talk(client)
            assert row(client, "alice").context_tokens < 3000
        assert len(segments(home)) > 1
        assert segment_of(home) == claimed_segment(client) == segments(home)[-1].stem


def test_a_pod_killed_at_its_compactions_has_one_session_whenever_it_was(home: Home) -> None:
    """Killed again and again while it compacts, it comes back with all that was acknowledged."""
    start(home, orchard('restart = "always"'))
    with connect(home) as client:
        for attempt in range(4):
            talk(client, f"{attempt}: {LONG}")
            client.send("alice", m.Compact())
            pid = pid_of(client, "alice")
            os.kill(pid, signal.SIGKILL)
            wait_reborn(client, "alice", pid)
            assert talk(client, f"answer {attempt}") == f"echo: answer {attempt}"
            active = row(client, "alice").segment_id
            assert active == claimed_segment(client)
            assert active in {path.stem for path in segments(home)}
        listed: m.RewindTargets = client.send("alice", m.ListRewindTargets())
        said = [target.preview[:8] for target in reversed(listed.targets)]
        assert said == [text for n in range(4) for text in (f"{n}: apple", f"answer {n}")]


def test_a_claim_on_a_segment_of_another_session_is_refused(home: Home) -> None:
    start(home, orchard())
    with connect(home) as client:
        talk(client, "hi")
        with pytest.raises(PodsupError):
            client.control(c.ClaimSegment(session_id="s", segment_id="g"))
