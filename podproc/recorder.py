"""The one writer of a pod's history: log, mirror and log lane move together, in that order.

Every entry is appended to the segment, then folded into the mirror (`Replayed`), then published.
What the model is asked with, what a watcher is shown and what a restart finds are therefore the
same thing. The recorder also knows how runs begin, end, and are taken back, and how the session
goes on in another segment; it decides nothing about when.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from podproc import turn_terms as t
from podproc.engine.estimate import context_tokens
from podproc.engine.history import Cut, closing_results, interrupt_note
from podproc.notifications import Inbox
from podproc.segments import Segments
from podproc.session.continuing import Continuation
from podproc.session.log import SegmentLog
from podproc.tools.base import off_loop
from podproc.turn_terms import ClosePrevious, RunPlan
from podproc.watchers import Watchers
from protocol import entries as en
from protocol import events as ev
from protocol.entries import Item, SystemItem, ToolCall, ToolResult, Usage
from protocol.error_body import ErrorBody
from protocol.errors import ErrorCode, PodsupError
from protocol.session.reading import state_of_beginning
from protocol.session.replay import EMPTY, REPORTED, Replayed, apply, fold
from protocol.snapshot import ALERTS_KEPT, TAIL_BYTES, TAIL_ENTRIES, AlertRecord
from protocol.status import AlertLevel, AlertSource, RunResult, TurnResult

HISTORY_BYTES = 4 * 1024 * 1024
DIED = "the process died during the run"
UNLOGGED = "the end of the run could not be logged"


class Recorder:
    """The history of one pod. `watchers` is set once the publisher is bound.

    Before, nothing is published.
    """

    def __init__(
        self,
        segments: Segments,
        *,
        wall_ms: Callable[[], int],
        system_prompt: Callable[[], Awaitable[str]],
        config: dict[str, Any],
    ) -> None:
        self._segments = segments
        self._wall_ms = wall_ms
        self._render_prompt = system_prompt
        self._config = config
        self._log: SegmentLog | None = None
        self._before_run: Replayed = EMPTY
        self._begun_at = 0
        self._to_publish: list[tuple[int, en.Entry]] = []
        self._meanwhile: list[en.Entry] | None = None
        self._blocks = 0
        self._runs = 0
        self._not_started: set[str] = set()
        self.state: Replayed = EMPTY
        self.alerts: list[AlertRecord] = []
        self.watchers: Watchers | None = None
        self.inbox: Inbox | None = None
        self.reminder: Callable[[], SystemItem | None] | None = None

    # -- opening and reading

    def open(self) -> None:
        """Open the session where there is one; a repaired tail becomes an alert.

        Raises LogDamaged.
        """
        opened = self._segments.open()
        if opened is None:
            return
        self._log, restored = opened
        self.state = restored.state
        for note in restored.notes:
            self.alert(AlertLevel.WARN, note)

    @property
    def session_id(self) -> str | None:
        """The session, once its first record is on disk."""
        return self._segments.session_id if self._log else None

    @property
    def segment_id(self) -> str | None:
        """The active segment, once its first record is on disk."""
        return self._log.segment_id if self._log else None

    @property
    def head_entries(self) -> int:
        """How many entries the active segment holds, as far as the session has them."""
        return self.state.head_entries if self._log else 0

    @property
    def shown_entries(self) -> int:
        """How many of them were published: a run's first ones are not until they are durable.

        What a refused run left in a file that is given up is never shown.
        """
        return self._to_publish[0][0] if self._to_publish else self.state.head_entries

    @property
    def run_number(self) -> int:
        """Counts the runs of this incarnation."""
        return self._runs

    def tail(self) -> tuple[en.Entry, ...]:
        """The last entries, as many as a snapshot carries."""
        if self._log is None:
            return ()
        return self._log.tail(TAIL_ENTRIES, TAIL_BYTES, before=self.shown_entries)[1]

    def history(
        self, since: int | None, before: int | None, limit: int
    ) -> tuple[str | None, int, tuple[en.Entry, ...], int]:
        """Return (segment, first index, entries, head) of the active segment."""
        if self._log is None:
            return None, 0, (), 0
        log = self._log
        if since is not None:
            entries = log.read(since, limit, max_bytes=HISTORY_BYTES)
            return log.segment_id, since, entries, log.head_entries
        first, entries = log.tail(limit, HISTORY_BYTES, before=before)
        return log.segment_id, first, entries, log.head_entries

    def note_config(self) -> None:
        """Log that the manifest changed since the session last ran.

        A new session starts with it.
        """
        if self._log is not None and self.state.config != self._config:
            self.commit(en.ConfigChanged(ts=self._wall_ms(), config=self._config))

    # -- a run

    async def begin(self, plan: RunPlan, close: ClosePrevious) -> None:
        """Commit what a run begins with, durably; it is published by `publish_begin`.

        Where the file is no longer ours alone to write, the session goes on in a new segment first.
        Raises PodsupError; then there is no run, and what was written of it is taken back. A file
        that is given up keeps it, and the session goes on without it elsewhere.
        """
        if self._log is not None and not self._log.is_usable:
            await self._fork(self._log)
        log = self._log or await self._create()
        closing = self._closing(close)
        self._before_run = fold(closing, self.state)
        self._begun_at = log.head_entries + len(closing)
        now = self._wall_ms()
        first: list[en.Entry] = [
            en.Invoke(ts=now, trigger=plan.trigger, request_id=plan.request_id, by=plan.pod)
        ]
        if plan.input:
            first.append(en.UserInput(ts=now, segments=plan.input))
        self._append(*closing, *first)
        try:
            await log.sync()
        except Exception:
            if log.is_usable:
                await self._cut_to(self._begun_at, self._before_run)
            else:  # the file is given up: the next run forks from what was before this one
                self._forget_from(self._begun_at, self._before_run)
            self._publish_pending()  # what closed the run before stays
            raise
        self._runs += 1

    def publish_begin(self) -> None:
        """Publish what `begin` committed."""
        self._publish_pending()

    async def end(
        self,
        result: RunResult,
        reason: str | None,
        error: ErrorBody | None,
        *,
        abandon: bool,
        report: str | None = None,
    ) -> None:
        """Commit the end of a run that is not taken back, durably; `report`: its id upward."""
        now = self._wall_ms()
        if result is RunResult.ERRORED:
            body = error or ErrorBody(code=ErrorCode.INTERNAL, message="unknown failure")
            last: en.Entry = en.RunErrored(
                ts=now, code=body.code, message=body.message, report=report
            )
        else:
            last = en.RunCompleted(ts=now, result=result, reason=reason, report=report)
        try:
            self.commit(last)
            if abandon:
                self._commit_abandonment()
            await self.sync()
        finally:
            self._clear_blocks()

    async def take_back(self) -> None:
        """Take the run back whole: log, mirror, and the notifications it had consumed.

        What others than the run wrote meanwhile stays. Raises LogProblem, with the run in place.
        """
        assert self._log is not None
        written = self._log.read(self._begun_at, self._log.head_entries)
        try:
            meanwhile = await self._cut_to(self._begun_at, self._before_run)
        finally:
            self._clear_blocks()
        if self.inbox is not None:
            self.inbox.give_back()
        self._tell_cut("rollback")
        self._write_again(*written, *meanwhile)
        self.give_up_pause()

    def give_up_pause(self) -> None:
        """Log that a paused run is given up: a cut took away the `invoke` that said so."""
        if self.state.paused:
            self.commit(en.PausedTurnAbandoned(ts=self._wall_ms()))

    async def abandon(self) -> None:
        """Give up a paused run: close its orphans, log the note and `paused_turn_abandoned`."""
        self._commit_abandonment()
        await self.sync()

    def note_reported(self, report: str) -> None:
        """Log that the supervisor has a report: it is not told again; raises LogProblem."""
        if any(end.report == report for end in self.state.owed):
            self.keep(REPORTED, {"report": report})

    def keep(self, domain: str, payload: dict[str, Any]) -> None:
        """Commit what a feature keeps; its newest payload stands for all before."""
        self.commit(en.Extension(ts=self._wall_ms(), domain=domain, payload=payload))

    def kept(self, domain: str) -> Mapping[str, Any] | None:
        """Return what a feature kept last."""
        found = (payload for name, payload in reversed(self.state.extensions) if name == domain)
        return next(found, None)

    async def close_crash(self, report: str | None) -> en.Invoke | None:
        """Close a run that a crash cut, once.

        Return its `invoke`, None where there was none open.
        """
        cut = self.state.open_run
        if cut is None:
            return None
        for entry in self._results(self.state):
            self.commit(entry)
        self.commit(
            en.RunErrored(
                ts=self._wall_ms(),
                code=ErrorCode.INTERRUPTED,
                message=DIED,
                interrupted=True,
                report=report,
            )
        )
        await self.sync()
        return cut

    async def rewind_to(self, start: int) -> None:
        """Cut the active segment before an entry, where a run begins.

        Raises LogProblem with nothing changed.
        """
        assert self._log is not None
        state = await off_loop(state_of_beginning, self._log.path, start)
        owed = self.state.owed
        meanwhile = await self._cut_to(start, state)
        self._tell_cut("rewind")
        self._write_again(*meanwhile)
        self._mark_again(owed)
        self.give_up_pause()
        self.tell_context()

    async def go_on(self, of: Callable[[], Continuation]) -> str:
        """Go on in a new segment, and return its id; raises PodsupError with nothing changed."""
        assert self._log is not None
        assert not self._to_publish, "a run that begins is published first"
        old = self._log

        def with_what_is_owed() -> Continuation:
            there = of()  # where the conversation goes back, what is owed does not
            return replace(there, state=replace(there.state, owed=self.state.owed))

        log, entries = await self._segments.go_on(
            with_what_is_owed, self._config, leaving=old.segment_id
        )
        self._log = log
        self.state = fold(entries)
        old.close()
        carried = entries[0].carried if isinstance(entries[0], en.SegmentStart) else None
        if carried is not None and (runs := carried.run_entries):
            self._begun_at = len(entries) - runs
            self._before_run = fold(entries[: self._begun_at])
        for index, entry in enumerate(entries):
            self._publish(index, entry, _event_of_rotation)
        self.tell_context()
        return log.segment_id

    async def _fork(self, log: SegmentLog) -> None:
        why = log.broken or "another process wrote to the file"

        def fork() -> Continuation:
            state = self.state
            return Continuation(
                state=state,
                source=self.here(state),
                is_compacted=False,
                history=state.history,
                system_prompt=state.system_prompt,
                kept_ids=self.unsettled(),
            )

        await self.go_on(fork)
        self.alert(
            AlertLevel.WARN,
            f"the session goes on in segment {self.segment_id}; {log.path} is left alone: {why}",
            AlertSource.POD,
        )

    def here(self, state: Replayed) -> en.SegmentRef:
        """Return the place of the active segment at which the session was in a state."""
        return en.SegmentRef(
            segment_id=self.segment_id or "",
            at_turn_index=state.turn_count,
            at_entry=state.head_entries,
        )

    def unsettled(self) -> frozenset[str]:
        """Return the ids of what a run has consumed that the inbox still holds as waiting."""
        return self.inbox.unsettled() if self.inbox is not None else frozenset()

    def run_so_far(self) -> tuple[Replayed, tuple[en.Entry, ...]]:
        """Return the state before the present run, and the run's entries."""
        assert self._log is not None
        return self._before_run, self._log.read(self._begun_at, self._log.head_entries)

    # -- what the engine produces

    def items(self) -> Sequence[Item]:
        """The history so far."""
        return self.state.history

    def used_answers(self) -> frozenset[int]:
        """The scripted answers that are used up."""
        return self.state.used_answers

    def drain_notifications(self) -> None:
        """Commit what waits in the notify buffer, and a reminder that is due, as system items."""
        if self.inbox is None:
            return
        messages = self.inbox.take()
        for number, message in enumerate(messages):
            item = message.item.model_copy(update={"id": message.id})
            try:
                self.commit(en.SystemItemEntry(ts=self._wall_ms(), item=item))
            except PodsupError:
                self.inbox.untake(messages[number:])
                raise
        if self.reminder is not None and (due := self.reminder()) is not None:
            self.commit(en.SystemItemEntry(ts=self._wall_ms(), item=due))

    def commit_system(self, *items: SystemItem) -> None:
        """Append and publish what the model is told and nobody typed."""
        for item in items:
            self.commit(en.SystemItemEntry(ts=self._wall_ms(), item=item))

    def commit_item(self, item: Item, block: int | str | None = None) -> None:
        """Append one finished block of an answer, then publish it."""
        self.commit(en.AssistantItem(ts=self._wall_ms(), item=item), block)
        if isinstance(item, ToolCall):
            self._not_started.add(item.call_id)
        if isinstance(item, ToolCall) and self.watchers is not None:
            self.watchers.blocks.run_call(item.call_id, item.name, item.arguments)

    def start_call(self, call_id: str) -> None:
        """A call's tool begins to run: from now on it may have had effects."""
        self._not_started.discard(call_id)

    def commit_result(self, result: ToolResult) -> None:
        """Append one tool result, then publish it."""
        self.commit(en.ToolResultEntry(ts=self._wall_ms(), item=result), result.call_id)
        self.emit(
            ev.ToolResultEvent(
                id=result.call_id,
                summary=result.summary,
                output=result.content,
                is_error=result.is_error,
            )
        )

    def commit_spent(self, usage: Usage, answer: int | None, purpose: str) -> None:
        """Append and publish the figures of a request beside the conversation."""
        entry = en.LlmUsage(
            ts=self._wall_ms(),
            history_len=len(self.state.history),
            answer=answer,
            purpose=purpose,
            **dict(usage),
        )
        self.commit(entry)
        self.emit(
            ev.usage_event(usage, turn=self.turn_number(), context_tokens=self.context_tokens())
        )

    def commit_usage(self, usage: Usage, answer: int | None) -> None:
        """Append and publish the figures of one request."""
        self.commit(
            en.LlmUsage(
                ts=self._wall_ms(),
                history_len=len(self.state.history),
                answer=answer,
                **dict(usage),
            )
        )
        self.emit(
            ev.usage_event(usage, turn=self.turn_number(), context_tokens=self.context_tokens())
        )

    def commit_turn_end(self, result: TurnResult) -> None:
        """Append and publish the end of a turn."""
        turn = self.turn_number()
        self.commit(en.TurnEnd(ts=self._wall_ms(), turn_count=turn))
        self.emit(ev.TurnEnd(turn=turn, result=result))

    def turn_number(self) -> int:
        """The number of the turn that is in progress, or begins next, over the whole session."""
        return self.state.turn_count + 1

    def next_block(self) -> int:
        """Return a block number that was not used in this incarnation."""
        self._blocks += 1
        return self._blocks

    def context_tokens(self) -> int:
        """Tokens of the next request, as `engine.estimate` has them."""
        state = self.state
        return context_tokens(state.history, state.usage_history, prompt=state.system_prompt or "")

    def commit(self, entry: en.Entry, block: int | str | None = None) -> None:
        """Append, fold, publish, behind what is still to be published."""
        self._append(entry)
        self._publish_pending(block)

    async def sync(self) -> None:
        """Return when everything appended is durable."""
        if self._log is not None:
            await self._log.sync()

    def tell_context(self) -> None:
        """Publish how large the context is now, where no request has measured it."""
        self.emit(
            ev.usage_event(Usage(), turn=self.turn_number(), context_tokens=self.context_tokens())
        )

    def emit(self, event: ev.Event) -> None:
        """Publish something that is not logged."""
        if self.watchers is not None:
            self.watchers.publish(event)

    def alert(
        self, level: AlertLevel, message: str, source: AlertSource = AlertSource.ENGINE
    ) -> AlertRecord:
        """Tell people; the last 512 are part of every snapshot."""
        record = AlertRecord(
            level=level, source=source, message=message, timestamp_ms=self._wall_ms()
        )
        self.alerts = [*self.alerts[-(ALERTS_KEPT - 1) :], record]
        self.emit(ev.Alert(**dict(record)))
        return record

    def withdraw(self, alert: AlertRecord) -> None:
        """Show an alert no more whose cause is gone."""
        self.alerts = [one for one in self.alerts if one is not alert]

    def close(self) -> None:
        """Close the log and the inbox."""
        if self._log is not None:
            self._log.close()
        if self.inbox is not None:
            self.inbox.close()

    # -- inside

    async def _create(self) -> SegmentLog:
        first = en.SegmentStart(
            ts=self._wall_ms(),
            session_id=self._segments.session_id,
            system_prompt=await self._render_prompt(),
            config=self._config,
        )
        self._log = self._segments.create(first)
        self.state = apply(self.state, first)
        self._to_publish.append((0, first))
        return self._log

    def _append(self, *entries: en.Entry) -> None:
        assert self._log is not None
        first = self._log.append(*entries)
        if self._meanwhile is not None:
            self._meanwhile += entries
        for offset, entry in enumerate(entries):
            self.state = apply(self.state, entry)
            self._to_publish.append((first + offset, entry))

    async def _cut_to(self, head: int, state: Replayed) -> list[en.Entry]:
        """Cut log and mirror; returns what others wrote while that took its time."""
        assert self._log is not None
        self._meanwhile = []
        try:
            await self._log.cut(head)
        finally:
            meanwhile, self._meanwhile = self._meanwhile, None
        self._forget_from(head, state)
        return meanwhile or []

    def _forget_from(self, head: int, state: Replayed) -> None:
        self.state = state
        self._to_publish = [(index, entry) for index, entry in self._to_publish if index < head]

    def _write_again(self, *entries: en.Entry) -> None:
        """Write again what was cut along with a run and is no part of it."""
        for entry in entries:
            if _outlives_its_run(entry):
                self.commit(entry)

    def _mark_again(self, owed: Sequence[en.RunEnd]) -> None:
        """Write the marks again that a cut, or the file before, has kept; `owed` is what is."""
        still = {end.report for end in owed}
        for end in self.state.owed:
            if end.report not in still:
                self.keep(REPORTED, {"report": end.report})

    def _results(self, state: Replayed) -> list[en.Entry]:
        ids = (call.call_id for call in state.unanswered)
        started = [one for one in ids if one not in self._not_started]
        results = closing_results(state.unanswered, started=started)
        return [en.ToolResultEntry(ts=self._wall_ms(), item=result) for result in results]

    def _closing(self, close: ClosePrevious) -> list[en.Entry]:
        """Return what closes what came before: a run whose end the disk refused, open calls."""
        now, state = self._wall_ms(), self.state
        out: list[en.Entry] = []
        if state.open_run is not None:
            out.append(en.RunErrored(ts=now, code=ErrorCode.INTERNAL, message=UNLOGGED))
            state = fold(out, state)
        out += self._results(state)
        if close is ClosePrevious.RESULTS_AND_NOTE and (note := _note_of(state)) is not None:
            out.append(en.SystemItemEntry(ts=now, item=note))
        return out

    def _commit_abandonment(self) -> None:
        for entry in self._closing(ClosePrevious.RESULTS_AND_NOTE):
            self.commit(entry)
        self.commit(en.PausedTurnAbandoned(ts=self._wall_ms()))

    def _clear_blocks(self) -> None:
        if self.watchers is not None:
            self.watchers.blocks.clear()

    def _publish_pending(self, block: int | str | None = None) -> None:
        """Publish in order; `block` is the one that the last entry finishes."""
        pending, self._to_publish = self._to_publish, []
        for index, entry in pending:
            finished = block if index == pending[-1][0] else None
            if finished is not None and self.watchers is not None:
                self.watchers.blocks.leave(finished)
            self._publish(index, entry, partial(_event_of, block=finished))

    def _publish(self, index: int, entry: en.Entry, event_of: Callable[..., ev.Event]) -> None:
        if self.watchers is not None and self._log is not None:
            where = {"segment_id": self._log.segment_id, "index": index, "ts": entry.ts}
            self.watchers.publish(event_of(entry, where))

    def _tell_cut(self, reason: Literal["rewind", "rollback"]) -> None:
        head, segment_id = self.head_entries, self.segment_id or ""
        self.emit(ev.LogCut(segment_id=segment_id, head_entries=head, reason=reason))


def _note_of(state: Replayed) -> SystemItem | None:
    """Return what the model is to be told of its last run; None where it was not cut short."""
    last = state.last_result
    if not state.note_due or last is None:
        return None
    if isinstance(last, en.RunErrored):
        cause = "crash" if last.interrupted else "failure"
        return interrupt_note(Cut(cause, last.message))
    match last.reason:
        case None:
            return interrupt_note(Cut("user"))
        case t.SHUTDOWN:
            return interrupt_note(Cut("shutdown"))
        case reason:
            return interrupt_note(Cut("reason", reason))


def _outlives_its_run(entry: en.Entry) -> bool:
    """Whether an entry stays when its run is taken back: what features keep, and what was spent."""
    match entry:
        case en.LlmUsage(purpose=purpose):
            return purpose is not None
        case _:
            return isinstance(entry, en.Extension | en.ConfigChanged)


def _event_of_rotation(entry: en.Entry, where: dict[str, Any]) -> ev.Event:
    """An entry that a new segment repeats is no news: no run begins and nobody said it again."""
    if isinstance(entry, en.SegmentStart):
        return ev.SegmentRotated(**where, entry=entry)
    return ev.EntryEvent(**where, entry=entry)


def _event_of(entry: en.Entry, where: dict[str, Any], block: int | str | None) -> ev.Event:
    match entry:
        case en.Invoke(trigger=trigger, request_id=request_id):
            return ev.InvokeStart(**where, trigger=trigger, request_id=request_id)
        case en.UserInput(segments=segments):
            return ev.UserMessage(**where, segments=segments)
        case en.SystemItemEntry(item=item):
            return ev.SystemItemEvent(**where, item=item)
        case en.SegmentStart():
            return ev.SegmentRotated(**where, entry=entry)
        case _:
            return ev.EntryEvent(**where, entry=entry, block=block)
