"""What a session can be rewound to: every input of its line, over all its segments.

The line is read from disk, from the active segment back to the first; of an earlier one the entries
before the place where the next one comes from. What cannot be read is no target; the rest is.
Rewinding to an input of the active segment cuts it; to one of an earlier segment, the session goes
on in a new one that comes from there. Either way the input itself is given back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from podproc.recorder import Recorder
from podproc.session.continuing import Continuation
from podproc.tools.base import off_loop
from protocol import methods as m
from protocol.entries import SegmentRef
from protocol.errors import Conflict, InvalidRequest
from protocol.events import RewindSummary
from protocol.segments import Segment, flatten
from protocol.session.line import BadLine, decode_line
from protocol.session.lineage import line_of
from protocol.session.reading import state_of_beginning
from protocol.session.replay import Submitted
from protocol.session.store import SessionStore

PREVIEW = 120
WARNING = "tools ran after this; their effects stay"

_SEGMENTS: TypeAdapter[tuple[Segment, ...]] = TypeAdapter(
    tuple[Segment, ...], config={"defer_build": True}
)


@dataclass(frozen=True, slots=True)
class Input:
    """One input of the line; `start` is the index of its run's first entry.

    `entries` and `tools` count what would go: the line's entries from `start` on, and the results
    of tools among them.
    """

    segment_id: str
    submitted: Submitted
    start: int
    entries: int
    tools: int


def inputs_of(store: SessionStore, session_id: str, segment_id: str) -> list[Input]:
    """Return the inputs of a session's line, newest first. Blocks; raises LineLoops, OSError."""
    found: list[Input] = []
    entries = tools = 0
    for part in reversed(line_of(store, session_id, segment_id)):
        here = part.segment_id
        rows = list(_rows(store.path(session_id, here), part.stop)) if part.start else []
        for index, fields in reversed(list(enumerate(rows))):
            entries += 1
            match fields.get("kind"):
                case "tool_result":
                    tools += 1
                case "user_input" if (said := _submitted(index, fields)) is not None:
                    begins = index > 0 and rows[index - 1].get("kind") == "invoke"
                    found.append(Input(here, said, index - begins, entries + begins, tools))
    return found


def _submitted(index: int, fields: dict[str, Any]) -> Submitted | None:
    try:
        segments = _SEGMENTS.validate_python(fields["segments"])
        return Submitted(index, fields["ts"], segments)
    except (KeyError, ValidationError):
        return None


def _rows(path: Path, stop: int | None) -> Iterator[dict[str, Any]]:
    """Yield the fields of each line; none for one that cannot be read."""
    with path.open("rb") as file:
        for line in islice(file, stop):
            try:
                yield decode_line(line)
            except BadLine:
                yield {}


def targets_of(inputs: list[Input]) -> tuple[m.RewindTarget, ...]:
    """Return inputs as a person sees them, newest first."""
    return tuple(
        m.RewindTarget(
            segment_id=one.segment_id,
            user_input_entry_index=one.submitted.entry_index,
            turn_index=len(inputs) - place,
            timestamp_ms=one.submitted.ts,
            preview=flatten(one.submitted.segments)[:PREVIEW],
            warning=WARNING if one.tools else None,
        )
        for place, one in enumerate(inputs)
    )


class Rewinding:
    """The rewinds of one pod."""

    def __init__(self, store: SessionStore, record: Recorder) -> None:
        self._store = store
        self._record = record

    async def targets(self) -> m.RewindTargets:
        """Return all that can be rewound to, newest first."""
        head = self._record.head_entries
        return m.RewindTargets(head_entries=head, targets=targets_of(await self._inputs()))

    async def apply(self, asked: m.RewindTo) -> m.Rewound:
        """Take the session back; raises PodsupError with nothing changed."""
        record, target = self._record, asked.target
        if asked.expected_head_entries != record.head_entries:
            raise Conflict(
                f"the log has {record.head_entries} entries, not {asked.expected_head_entries}; "
                "look again",
                head_entries=record.head_entries,
            )
        wanted = (target.segment_id, target.user_input_entry_index)
        inputs = await self._inputs()
        places = ((one.segment_id, one.submitted.entry_index) for one in inputs)
        if wanted not in (found := list(places)):
            raise InvalidRequest(f"entry {wanted[1]} of segment {wanted[0]} is no user input")
        one = inputs[found.index(wanted)]
        turns = record.state.turn_count
        if one.segment_id == record.segment_id:
            await record.rewind_to(one.start)
        else:
            await self._go_back_to(one)
        return m.Rewound(
            segment_id=record.segment_id or "",
            head_entries=record.head_entries,
            input=one.submitted.segments,
            summary=RewindSummary(
                discarded_entries=one.entries,
                discarded_turns=turns - record.state.turn_count,
                tools_ran=one.tools,
            ),
        )

    async def _inputs(self) -> list[Input]:
        record = self._record
        if record.session_id is None or record.segment_id is None:
            return []
        return await off_loop(inputs_of, self._store, record.session_id, record.segment_id)

    async def _go_back_to(self, one: Input) -> None:
        """Go on in a new segment from an input of an earlier one."""
        record = self._record
        assert record.session_id is not None
        path = self._store.path(record.session_id, one.segment_id)
        state = await off_loop(state_of_beginning, path, one.start)
        source = SegmentRef(
            segment_id=one.segment_id, at_turn_index=state.turn_count, at_entry=one.start
        )
        there = Continuation(
            state=state,
            source=source,
            is_compacted=False,
            history=state.history,
            system_prompt=state.system_prompt,
            kept_ids=record.unsettled(),
        )
        await record.go_on(lambda: there)
        record.give_up_pause()
