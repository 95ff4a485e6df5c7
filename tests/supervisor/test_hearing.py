"""What a pod publishes is taken as its own word only."""

from __future__ import annotations

import pytest

from protocol import events as ev
from protocol.status import Lane, PodStatus
from protocol.watch import Deliver, Gap
from protocol.wire import EventHeader
from supervisor.pod_runner import only_its_own
from supervisor.watcher import Told


def said_by(pod: str, incarnation: int, seq: int = 1) -> Deliver:
    header = EventHeader(pod=pod, incarnation=incarnation, lane=Lane.STATE, seq=seq, ts_ms=0)
    return Deliver(header, ev.Status(status=PodStatus.IDLE))


@pytest.mark.parametrize(("pod", "incarnation"), [("bob", 2), ("alice", 1), ("alice", 3), ("", 2)])
def test_event_in_the_name_of_another_pod_or_incarnation_is_dropped_and_warned_of_once(
    pod: str, incarnation: int
) -> None:
    heard: list[Told] = []
    warnings: list[str] = []
    hear = only_its_own("alice", 2, heard.append, warnings.append)
    for seq in (1, 2, 3):
        hear(said_by(pod, incarnation, seq))
    own = said_by("alice", 2, 4)
    hear(own)
    assert heard == [own]
    assert len(warnings) == 1
    assert all(part in warnings[0] for part in ("alice", repr(pod), str(incarnation)))


def test_gap_in_what_a_pod_says_is_passed_on_though_it_carries_no_name() -> None:
    heard: list[Told] = []
    warnings: list[str] = []
    gap = Gap(Lane.STATE, 1, 2)
    only_its_own("alice", 2, heard.append, warnings.append)(gap)
    assert (heard, warnings) == ([gap], [])
