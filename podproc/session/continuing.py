"""What a segment begins with that continues another one. Pure.

A session goes on in a new segment when its history is compacted, when it is rewound to an earlier
segment, and when the file of the present one is no longer its pod's alone to write. The new segment
says where it comes from and carries all that the session is besides its conversation, so it is
restored without those before it.

    segment_start   system prompt, config, history; where it comes from; what is carried
    extension…      the newest payload of each feature
    run entries…    what a run in progress began with, as long as it has shown nothing: a run that
                    is taken back is taken back here

A run that has shown something goes on as `carried.open_run`: it is closed here, never begun again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from protocol import entries as en
from protocol.session.replay import Replayed

REQUEST_IDS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """A segment to be begun. `state` is the session at the place `source` where it comes from.

    `history` is what the model is asked with from now on; `run_entries` what the run in progress
    began with, where it can still be taken back; `kept_ids` those delivered notifications that the
    inbox does not know as delivered yet.
    """

    state: Replayed
    source: en.SegmentRef
    is_compacted: bool
    history: tuple[en.Item, ...]
    system_prompt: str | None
    run_entries: tuple[en.Entry, ...] = ()
    kept_ids: frozenset[str] = frozenset()


def first_entries(
    of: Continuation, *, ts: int, config: dict[str, Any]
) -> tuple[en.SegmentStart, tuple[en.Entry, ...]]:
    """Return the first entry of the new segment and those right behind it; `ts` is epoch ms."""
    state = of.state
    kept = _newest(state.extensions)
    ids = dict.fromkeys(state.request_ids)
    task = tuple(one for one in ids if one == TASK)
    carried = en.Carried(
        entries=len(kept),
        run_entries=len(of.run_entries),
        turn_count=state.turn_count,
        usage=state.usage,
        request_ids=(*task, *[one for one in ids if one != TASK][-REQUEST_IDS:]),
        delivered=tuple(sorted(state.delivered & of.kept_ids)),
        used_answers=tuple(sorted(state.used_answers)),
        open_run=state.open_run,
        last_result=state.last_result,
        paused=state.paused,
        note_due=state.note_due,
        owed=state.owed,
        unasked=state.unasked,
    )
    start = en.SegmentStart(
        ts=ts,
        session_id=state.session_id or "",
        system_prompt=of.system_prompt,
        config=config,
        history=of.history,
        forked_from=None if of.is_compacted else of.source,
        compacted_from=of.source if of.is_compacted else None,
        carried=carried,
    )
    more = (
        en.Extension(ts=ts, domain=domain, payload=dict(payload))
        for domain, payload in kept.items()
    )
    return start, (*more, *of.run_entries)


TASK = "task"
"""The request id of a pod's task: it is delivered once in the life of a session."""


def _newest(extensions: tuple[tuple[str, Mapping[str, Any]], ...]) -> dict[str, Mapping[str, Any]]:
    return dict(extensions)
