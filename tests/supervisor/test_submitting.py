"""Waiting for a pod that is followed, or gone, before anything is sent to it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from protocol import events as ev
from protocol import methods as m
from protocol.entries import (
    Invoke,
    RunCompleted,
    SegmentRef,
    SegmentStart,
    TurnEnd,
)
from protocol.errors import Unreachable
from protocol.snapshot import FleetSnapshot, PodPresence
from protocol.status import Lane, PodStatus, RunResult, Trigger
from protocol.watch import Deliver, Synced
from protocol.wire import EventHeader
from supervisor.following import FLEET
from supervisor.submitting import _look_in_log, until_synced

HEADER = EventHeader(pod="alice", incarnation=1, lane=Lane.STATE, seq=1, ts_ms=0)
POD = ("alice", Synced(HEADER, {}, False))
EXITED = (FLEET, Deliver(HEADER, ev.PodExited(cause="killed by SIGKILL", signal="SIGKILL")))


def fleet(incarnation: int, endpoint: str | None = "ipc://x") -> tuple[str, Synced]:
    row = PodPresence(
        name="alice", status=PodStatus.IDLE, incarnation=incarnation, endpoint=endpoint
    )
    body = FleetSnapshot(fleet="f", epoch=1, pods=(row,)).to_wire()
    return FLEET, Synced(HEADER, body, False)


class Teller:
    """A client that is told what the test says, and has the pages of a log."""

    def __init__(self, *told: Any, pages: dict[tuple[str | None, int | None], m.History]) -> None:
        self._told = list(told)
        self._pages = pages

    async def next_of(self, queue: Any) -> Any:
        assert self._told, "it waits for what nobody will say"
        return self._told.pop(0)

    async def send(self, pod: str, asked: m.GetHistory) -> m.History:
        return self._pages[asked.segment_id, asked.before.index if asked.before else None]


def wait(*told: Any) -> Synced:
    client: Any = Teller(*told, pages={})
    return asyncio.run(until_synced(client, "alice", asyncio.Queue(), 1))


def test_a_pod_that_is_followed_is_waited_for_in_either_order() -> None:
    assert wait(POD, fleet(1)) is POD[1]
    assert wait(fleet(1), POD) is POD[1]


@pytest.mark.parametrize("told", [[fleet(2)], [fleet(1, None)], [fleet(1), EXITED], [EXITED]])
def test_a_pod_that_is_gone_meanwhile_is_not_waited_for(told: list[Any]) -> None:
    with pytest.raises(Unreachable, match="nothing was sent"):
        wait(*told)


def test_a_run_is_looked_for_over_pages_and_segments_before_it_is_taken_for_gone() -> None:
    begun = Invoke(ts=1, trigger=Trigger.USER_SEND, request_id="r")
    done = RunCompleted(ts=1, result=RunResult.FINISHED)
    first = SegmentStart(ts=1, session_id="s")
    source = SegmentRef(segment_id="g1", at_turn_index=1, at_entry=2)
    second = SegmentStart(ts=1, session_id="s", compacted_from=source)
    turn = TurnEnd(ts=1, turn_count=1)

    def page(segment: str, at: int, *entries: Any) -> m.History:
        return m.History(segment_id=segment, first_index=at, entries=entries, head_entries=9)

    pages = {
        (None, None): page("g2", 2, done),
        ("g2", 2): page("g2", 0, second, turn),
        ("g1", 2): page("g1", 0, first, begun),
    }
    client: Any = Teller(pages=pages)
    found = asyncio.run(_look_in_log(client, "alice", "r"))
    assert found is not None
    assert found.result == "finished"
    lost = asyncio.run(_look_in_log(client, "alice", "another"))
    assert lost is not None
    assert lost.result == "rolled_back"
