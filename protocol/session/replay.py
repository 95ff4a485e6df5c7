"""Replay: what a session is, computed from its entries and from nothing else.

    state = fold(entries)            a whole segment, as read from disk
    state = apply(state, entry)      one entry more, as it is committed

Both are the same step, so the mirror of a living pod and the state of a restored one cannot differ.
The step works on plain fields, as a line holds them: an entry that is committed goes through its
wire form, and a restore of a hundred thousand entries builds models only for the items it keeps.

What matters most for what happens next:

    entries so far …                                  open_run  paused  interrupted  note_due
    … invoke, user_input                              yes       no      yes          no
    … assistant tool_call                             yes       no      yes          no
    … run_completed finished | limit_reached          no        no      unanswered   no
    … run_completed paused                            no        yes     unanswered   yes
    … run_completed cancelled, run_errored            no        no      unanswered   yes
    … then system_item interrupt                      as it was                      no
    … then invoke                                     yes       no      yes          no
    … then paused_turn_abandoned                      no        no      unanswered   no

`unanswered` (tool calls without a result) counts on its own: only a result answers a call, whatever
else follows. A `segment_start` begins the conversation anew and keeps what belongs to the session:
folding a line of segments one after the other (`fold(second, fold(first))`) counts turns, money and
deliveries once. One that has `carried` says itself what belongs to the session, so a segment is
restored without those before it.

An entry of an unknown kind changes nothing but `head_entries`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any, TypeVar

from pydantic import TypeAdapter

from protocol.base import Wire
from protocol.entries import (
    Carried,
    Invoke,
    Item,
    LlmUsage,
    Message,
    Reasoning,
    RunCompleted,
    RunEnd,
    RunErrored,
    ToolCall,
    ToolResult,
    UnknownItem,
    Usage,
)
from protocol.errors import Internal
from protocol.segments import Segment, flatten
from protocol.session.problems import in_words
from protocol.status import RunResult

SCHEMA = 1
"""The newest schema of a segment that this version reads."""

REPORTED = "reported"
"""The domain of a mark that the supervisor has a report: its payload is `{"report": id}`."""

HOUR_MS = 3_600_000

_NOTHING_USED = Usage.model_construct()  # does not build the validator: the import stays cheap


class BadEntry(Internal):
    """An entry of a known kind that lacks what its kind must have; `index` counts from 0."""

    def __init__(self, index: int, kind: object, cause: str) -> None:
        super().__init__(f"entry {index} is not a valid {kind}: {cause}", index=index, cause=cause)
        self.index = index
        self.cause = f"not a valid {kind}: {cause}"


@dataclass(frozen=True, slots=True)
class Submitted:
    """One user input and where it stands; `entry_index` counts the segment's entries from 0."""

    entry_index: int
    ts: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """The state of a session after the entries folded so far.

    The first block is about the present segment, the second about the session. `history` is what
    the model is asked with; `delivered` are ids of notifications that stand in it, or did.
    `note_due`: the model has not been told yet that its last run was cut short. `owed` are ends of
    runs whose report the supervisor has not taken. `unasked` is when runs of the last hour began
    without a person's input, since a person last gave one; epoch ms.
    """

    session_id: str | None = None
    system_prompt: str | None = None
    config: Mapping[str, Any] | None = None
    history: tuple[Item, ...] = ()
    unanswered: tuple[ToolCall, ...] = ()
    user_segments: tuple[Submitted, ...] = ()
    usage_history: tuple[LlmUsage, ...] = ()
    head_entries: int = 0

    turn_count: int = 0
    usage: Usage = _NOTHING_USED
    extensions: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    open_run: Invoke | None = None
    last_result: RunEnd | None = None
    paused: bool = False
    note_due: bool = False
    owed: tuple[RunEnd, ...] = ()
    unasked: tuple[int, ...] = ()
    request_ids: tuple[str, ...] = ()
    delivered: frozenset[str] = frozenset()
    used_answers: frozenset[int] = frozenset()

    @property
    def interrupted(self) -> bool:
        """Whether a run is open, or was closed while calls of it had no result."""
        return self.open_run is not None or bool(self.unanswered)


EMPTY = Replayed()


def fold(entries: Iterable[Wire | Mapping[str, Any]], start: Replayed = EMPTY) -> Replayed:
    """Return the state after `entries`, begun from `start`; raises BadEntry."""
    draft = _Draft(start)
    data: Mapping[str, Any] = {}
    try:
        for entry in entries:
            data = entry.to_wire() if isinstance(entry, Wire) else entry
            draft.step(data)
    except (KeyError, TypeError, ValueError) as error:
        raise BadEntry(draft.head_entries, data.get("kind"), in_words(error)) from error
    return draft.freeze()


def apply(state: Replayed, entry: Wire | Mapping[str, Any]) -> Replayed:
    """Return the state after one entry more, sharing what it does not change; raises BadEntry."""
    return fold((entry,), state)


class _Draft:
    """A state being folded: what it began with, and beside it what was added."""

    def __init__(self, base: Replayed) -> None:
        self._begin(base)

    def _begin(self, base: Replayed) -> None:
        self.base = base
        self.session_id = base.session_id
        self.system_prompt = base.system_prompt
        self.config = base.config
        self.unanswered = list(base.unanswered)
        self.head_entries = base.head_entries
        self.turn_count = base.turn_count
        self.open_run = base.open_run
        self.last_result = base.last_result
        self.paused = base.paused
        self.note_due = base.note_due
        self.history: list[Item] = []
        self.user_segments: list[Submitted] = []
        self.usage_history: list[LlmUsage] = []
        self.spent: list[LlmUsage] = []
        self.extensions: list[tuple[str, Mapping[str, Any]]] = []
        self.owed = list(base.owed)
        self.unasked = base.unasked
        self.request_ids: list[str] = []
        self.delivered: set[str] = set()
        self.used_answers: set[int] = set()

    def step(self, entry: Mapping[str, Any]) -> None:
        match entry.get("kind"):
            case "assistant_item" | "tool_result":
                self._add(_item(entry["item"]))
            case "llm_usage":
                self._count(LlmUsage.model_validate(entry))
            case "turn_end":
                self.turn_count = entry["turn_count"]
            case "system_item":
                item = entry["item"]
                self._add(Message(role="system", content=item["body"]))
                if (delivered := item.get("id")) is not None:
                    self.delivered.add(delivered)
                if item["kind"] == "interrupt":
                    self.note_due = False
            case "user_input":
                segments = _SEGMENTS.validate_python(entry["segments"])
                self.user_segments.append(Submitted(self.head_entries, entry["ts"], segments))
                self._add(Message(role="user", content=flatten(segments)))
            case "invoke":
                self.open_run = Invoke.model_validate(entry)
                self.paused = self.note_due = False
                if self.open_run.request_id is not None:
                    self.request_ids.append(self.open_run.request_id)
                self._count_unasked(self.open_run)
            case "run_completed":
                self.open_run, self.last_result = None, RunCompleted.model_validate(entry)
                self.paused = self.last_result.result is RunResult.PAUSED
                self.note_due = self.paused or self.last_result.result is RunResult.CANCELLED
                self._owe(self.last_result)
            case "run_errored":
                self.open_run, self.last_result = None, RunErrored.model_validate(entry)
                self.paused, self.note_due = False, True
                self._owe(self.last_result)
            case "paused_turn_abandoned":
                self.paused = self.note_due = False
            case "config_changed":
                self.config = entry["config"]
            case "extension" if entry["domain"] == REPORTED:
                self.owed = [end for end in self.owed if end.report != entry["payload"]["report"]]
            case "extension":
                self.extensions.append((entry["domain"], entry["payload"]))
            case "segment_start":
                self._start(entry)
            case _:
                pass
        self.head_entries += 1

    def _add(self, item: Item) -> None:
        self.history.append(item)
        if isinstance(item, ToolCall):
            self.unanswered.append(item)
        elif isinstance(item, ToolResult):
            for position, call in enumerate(self.unanswered):
                if call.call_id == item.call_id:
                    del self.unanswered[position]
                    break

    def _count_unasked(self, begun: Invoke) -> None:
        recent = tuple(ts for ts in self.unasked if ts > begun.ts - HOUR_MS)
        self.unasked = () if begun.has_person else (*recent, begun.ts)

    def _owe(self, end: RunEnd) -> None:
        if end.report is not None and all(one.report != end.report for one in self.owed):
            self.owed.append(end)

    def _count(self, entry: LlmUsage) -> None:
        self.spent.append(entry)
        if entry.purpose is None:
            self.usage_history.append(entry)
        if entry.answer is not None:
            self.used_answers.add(entry.answer)

    def _start(self, entry: Mapping[str, Any]) -> None:
        if (schema := entry.get("schema", SCHEMA)) > SCHEMA:
            raise ValueError(f"schema {schema} is of a newer version; this one reads {SCHEMA}")
        session_id = entry["session_id"]
        kept = self.freeze() if self.session_id == session_id else EMPTY
        if (carried := entry.get("carried")) is not None:
            kept = _carried(Carried.model_validate(carried))
        fresh = replace(
            kept,
            session_id=session_id,
            system_prompt=entry.get("system_prompt"),
            config=entry.get("config", {}),
            history=(),
            unanswered=(),
            user_segments=(),
            usage_history=(),
            head_entries=0,
        )
        self._begin(fresh)
        for item in entry.get("history", ()):
            self._add(_item(item))

    def freeze(self) -> Replayed:
        base = self.base
        return Replayed(
            session_id=self.session_id,
            system_prompt=self.system_prompt,
            config=self.config,
            history=_longer(base.history, self.history),
            unanswered=tuple(self.unanswered),
            user_segments=_longer(base.user_segments, self.user_segments),
            usage_history=_longer(base.usage_history, self.usage_history),
            head_entries=self.head_entries,
            turn_count=self.turn_count,
            usage=_sum(base.usage, self.spent),
            extensions=_longer(base.extensions, self.extensions),
            open_run=self.open_run,
            last_result=self.last_result,
            paused=self.paused,
            note_due=self.note_due,
            owed=tuple(self.owed),
            unasked=self.unasked,
            request_ids=_longer(base.request_ids, self.request_ids),
            delivered=base.delivered | self.delivered,
            used_answers=base.used_answers | self.used_answers,
        )


def _carried(said: Carried) -> Replayed:
    return Replayed(
        turn_count=said.turn_count,
        usage=said.usage,
        request_ids=said.request_ids,
        delivered=frozenset(said.delivered),
        used_answers=frozenset(said.used_answers),
        open_run=said.open_run,
        last_result=said.last_result,
        paused=said.paused,
        note_due=said.note_due,
        owed=said.owed,
        unasked=said.unasked,
    )


T = TypeVar("T")


def _longer(base: tuple[T, ...], added: list[T]) -> tuple[T, ...]:
    return base + tuple(added) if added else base


def _sum(start: Usage, added: list[LlmUsage]) -> Usage:
    """Return the same as `plus` again and again, without a model for each step."""
    if not added:
        return start
    costs = [start.cost_usd, *(entry.cost_usd for entry in added)]
    known = [cost for cost in costs if cost is not None]  # not `sum`: from 3.12 on it rounds once
    return Usage(
        input_tokens=start.input_tokens + sum(e.input_tokens for e in added),
        output_tokens=start.output_tokens + sum(e.output_tokens for e in added),
        cache_read_tokens=start.cache_read_tokens + sum(e.cache_read_tokens for e in added),
        cache_write_tokens=start.cache_write_tokens + sum(e.cache_write_tokens for e in added),
        cost_usd=reduce(add, known) if known else None,
    )


_SEGMENTS: TypeAdapter[tuple[Segment, ...]] = TypeAdapter(
    tuple[Segment, ...], config={"defer_build": True}
)
_ITEMS: Mapping[str, type[Message | ToolCall | ToolResult | Reasoning]] = {
    "message": Message,
    "tool_call": ToolCall,
    "tool_result": ToolResult,
    "reasoning": Reasoning,
}


def _item(data: Mapping[str, Any]) -> Item:
    return _ITEMS.get(data["kind"], UnknownItem).model_validate(data)
