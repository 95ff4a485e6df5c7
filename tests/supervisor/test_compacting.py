"""How one who waits for a compaction learns of its end."""

from __future__ import annotations

import pytest

from protocol import events as ev
from protocol.errors import Internal, Interrupted, PodsupError, Unreachable
from protocol.snapshot import Greeting, Snapshot
from protocol.status import Flag, PodStatus
from protocol.watch import Deliver, Synced
from protocol.wire import EventHeader
from supervisor.compacting import CANCELLED, Ended, end_in
from supervisor.following import FLEET

SINCE = 7
"""The number that the reply to `compact` carried."""


def told(event: ev.Event, seq: int = SINCE + 1) -> Deliver:
    return Deliver(
        EventHeader(pod="alice", incarnation=1, lane=event.lane, seq=seq, ts_ms=0), event
    )


def snapshot(*flags: Flag) -> Synced:
    greeting = Greeting(
        pod_name="alice", incarnation=1, cwd="/w", workspace="/w", provider="scripted", model="m"
    )
    seen = Snapshot(greeting=greeting, status=PodStatus.IDLE, flags=flags)
    return Synced(told(ev.CompactStart()).header, seen.to_wire(), again=True)


DONE = ev.CompactDone(new_segment_id="s2")


@pytest.mark.parametrize(
    ("source", "what", "ended"),
    [
        ("alice", told(DONE), Ended("s2")),
        ("alice", told(DONE, seq=SINCE), None),
        ("alice", told(ev.CompactFailed(error="of an earlier one"), seq=SINCE), None),
        (FLEET, told(DONE), None),
        ("alice", told(ev.CompactStart()), None),
        ("alice", told(ev.Status(status=PodStatus.IDLE)), None),
        ("alice", snapshot(Flag.BUSY), None),
        ("alice", snapshot(), Ended(None)),
    ],
)
def test_a_compaction_ends_with_its_own_event(
    source: str, what: Deliver | Synced, ended: Ended | None
) -> None:
    assert end_in("alice", source, what, SINCE) == ended


@pytest.mark.parametrize(
    ("source", "event", "error", "words"),
    [
        ("alice", ev.CompactFailed(error="too large"), Internal, "nothing changed: too large"),
        ("alice", ev.CompactFailed(error=CANCELLED), Interrupted, "cancelled"),
        (FLEET, ev.PodExited(cause="SIGKILL", signal="SIGKILL"), Unreachable, "SIGKILL"),
    ],
)
def test_a_compaction_that_comes_to_nothing_says_why(
    source: str, event: ev.Event, error: type[PodsupError], words: str
) -> None:
    with pytest.raises(error, match=words):
        end_in("alice", source, told(event), SINCE)
