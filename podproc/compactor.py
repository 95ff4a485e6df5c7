"""Compaction: a disposable engine writes a summary, and the session goes on in a new segment.

    due? ─► split ─► summary (own engine, own history, read-only tools) ─► files ─► measured
         ─► claimed, made, switched to ─► compact_done            nothing is changed before
              any failure: compact_failed

The core is `engine.compaction`; here are the engine that is thrown away, the disk and the log. What
the summary cost is logged whether it was of use or not. Failures are counted in the log, so a
restart does not try again what has failed three times; a compaction that works begins a segment
without the count.

Once the new segment is being made a cancellation comes too late: it is finished, then told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from podproc.engine import compaction as core
from podproc.engine.estimate import BYTES_PER_TOKEN, size_of_all
from podproc.engine.loop import EngineLoop
from podproc.engine.text import cut_text
from podproc.excerpt import block
from podproc.models.base import Model
from podproc.recorder import Recorder
from podproc.session.continuing import Continuation
from podproc.tools.base import Registry, off_loop
from podproc.tools.history import ReadHistory, SearchHistory
from podproc.turn_terms import Ending
from protocol import entries as en
from protocol import events as ev
from protocol.entries import Item, Message, Reasoning, ToolResult, Usage
from protocol.errors import Internal, PodsupError
from protocol.manifest import Compaction as Rules
from protocol.manifest import Engine as EngineRules
from protocol.manifest import ScriptedAnswer
from protocol.session.replay import Replayed
from protocol.status import AlertLevel, AlertSource, TurnResult

DOMAIN = "compaction"
PURPOSE = "compaction"
MOST_TURNS = 12
MOST_S = 300.0
"""Seconds for a whole summary, whatever the engine's own limit is."""

LEAST_FILE = 512
"""Bytes: less of a file is not worth showing."""


class CompactionFailed(Internal):
    """Nothing was changed."""


class NothingToCompact(CompactionFailed):
    """There is nothing a summary could stand for: no failure that counts."""

    def __init__(self) -> None:
        super().__init__("there is nothing to summarise yet")


@dataclass(frozen=True, slots=True)
class Compacted:
    """The new segment is there. `was_cancelled`: somebody asked for the end of it too late."""

    segment_id: str
    was_cancelled: bool = False


class FileSource(Protocol):
    """The files of the pod, as far as its scope lets it read."""

    def touched(self) -> Sequence[str]:
        """Return the paths that were read or written, the latest last."""

    def read(self, path: str) -> str | None:
        """Return the text of a file; None where it cannot be read. Blocks."""


@dataclass(frozen=True, slots=True)
class Summariser:
    """Who writes the summary. `used` are scripted answers that are not for it."""

    model: Model
    rules: EngineRules
    used: Callable[[], frozenset[int]]
    cost: Callable[[Usage], float | None]
    is_pods_own: bool


class Compactor:
    """The compaction of one pod. `prompt` renders the system prompt of a new segment.

    `installed` is called when it has begun; `tools_bytes` is what a request says of the tools.
    """

    def __init__(
        self,
        record: Recorder,
        rules: Rules,
        summariser: Summariser,
        files: FileSource,
        *,
        window: int,
        prompt: Callable[[], Awaitable[str]],
        open_tasks: Callable[[], str | None],
        installed: Callable[[], None],
        tools_bytes: Callable[[], int],
        clock: Callable[[], float],
        dice: Callable[[], float],
        progress: Callable[[str], None],
    ) -> None:
        self._record = record
        self._rules = rules
        self._by = summariser
        self._files = files
        self._window = window
        self._prompt = prompt
        self._open_tasks = open_tasks
        self._installed = installed
        self._tools_bytes = tools_bytes
        self._clock = clock
        self._dice = dice
        self._progress = progress
        self._failed_in_run = False

    # -- by itself, as part of a run

    async def before_run(self) -> None:
        """Compact where the history is over `threshold`; the run has shown nothing yet."""
        self._failed_in_run = False
        await self._if_over(self._rules.threshold, shown=False)

    async def between_turns(self, *, shown: bool) -> None:
        """Compact where it is over `request_threshold`; `shown`: the run has shown something."""
        if shown or not self._failed_in_run:  # else it would be bought again, of the same history
            await self._if_over(self._rules.request_threshold, shown=shown)

    @property
    def failures(self) -> int:
        """How many compactions have failed since the last that worked."""
        kept = self._record.kept(DOMAIN) or {}
        failures = kept.get("failures", 0)
        return failures if isinstance(failures, int) else 0

    async def _if_over(self, fraction: float, *, shown: bool) -> None:
        is_over = self._record.context_tokens() > fraction * self._window
        if not is_over or not self._rules.auto or self.failures >= core.FAILURES:
            return
        if not core.is_worth_it(self._split(self._place(shown)[0]).head, window=self._window):
            return  # it is the run's own input that is large, or what no summary makes less
        self._record.emit(ev.CompactStart())
        try:
            done = await self.compact(shown=shown)
        except CompactionFailed as failure:
            self._failed_in_run = True
            self._record.emit(ev.CompactFailed(error=failure.message))
        except asyncio.CancelledError:
            self._record.emit(ev.CompactFailed(error="cancelled"))
            raise
        else:
            self._record.emit(ev.CompactDone(new_segment_id=done.segment_id))
            if done.was_cancelled:
                raise asyncio.CancelledError

    # -- once

    async def compact(self, *, shown: bool = True) -> Compacted:
        """Compact now.

        Raises CompactionFailed (counted, where something was tried), or CancelledError, with
        nothing changed.
        """
        self._progress("compacting")
        if self._record.segment_id is None:
            raise NothingToCompact
        try:
            return await self._compact(shown)
        except NothingToCompact:
            raise
        except CompactionFailed as failure:
            self._count(failure)
            raise
        except (PodsupError, OSError) as error:
            stopped = CompactionFailed(str(error))
            self._count(stopped)
            raise stopped from error

    def _count(self, failure: CompactionFailed) -> None:
        failures = self.failures + 1
        self._record.alert(AlertLevel.WARN, failure.message, AlertSource.COMPACTOR)
        try:
            self._record.keep(DOMAIN, {"failures": failures})
        except PodsupError as error:
            self._record.alert(AlertLevel.WARN, str(error), AlertSource.COMPACTOR)
        if failures == core.FAILURES:
            self._record.alert(
                AlertLevel.ERROR,
                f"{failures} compactions in a row have failed; none is tried by itself until "
                "`podsup compact` works",
                AlertSource.COMPACTOR,
            )

    async def _compact(self, shown: bool) -> Compacted:
        record = self._record
        state, _, run_entries = self._place(shown)
        before = record.context_tokens()
        parts = self._split(state)
        if not parts.head:
            raise NothingToCompact
        touched = core.files_of(parts.head, known=self._files.touched())
        summary = await self._summarise(parts.head, touched)
        files = await off_loop(self._read_files, summary.files)
        history = core.new_history(summary.text, files, self._open_tasks(), parts.tail)
        prompt = await self._prompt()
        in_run = sum(len(entry.model_dump_json()) for entry in run_entries)
        after = core.tokens_after(
            before=before,
            old=_size(state.system_prompt or "", state.history) + in_run,
            new=_size(prompt, history) + in_run,
            tools=self._tools_bytes(),
        )
        most = int(self._rules.threshold * self._window)
        if (refusal := core.refusal_of(before=before, after=after, most=most)) is not None:
            raise CompactionFailed(refusal)

        def fresh() -> Continuation:
            now, source, run_entries = self._place(shown)
            if now.history != state.history:
                raise CompactionFailed("the history was changed meanwhile")
            return Continuation(
                state=_without(now, DOMAIN),
                source=source,
                is_compacted=True,
                history=history,
                system_prompt=prompt,
                run_entries=tuple(entry for entry in run_entries if not _is_count(entry)),
                kept_ids=record.unsettled(),
            )

        return await _to_the_end(self._install(fresh))

    async def _install(self, fresh: Callable[[], Continuation]) -> str:
        segment_id = await self._record.go_on(fresh)
        self._installed()
        return segment_id

    def _split(self, state: Replayed) -> core.Split:
        total = self._record.context_tokens()
        tail = core.tail_tokens(wanted=self._rules.tail_tokens, total=total)
        return core.split(state.history, state.usage_history, tail)

    def _place(self, shown: bool) -> tuple[Replayed, en.SegmentRef, tuple[en.Entry, ...]]:
        """Return the state to be summarised, where it stands, and what goes on unchanged."""
        record = self._record
        if record.state.open_run is None or shown:
            return record.state, record.here(record.state), ()
        before, entries = record.run_so_far()
        return before, record.here(before), entries

    def _read_files(self, paths: Sequence[str]) -> list[str]:
        room = self._rules.must_read_tokens * BYTES_PER_TOKEN
        found: list[str] = []
        for path in paths:
            if room < LEAST_FILE:
                break
            if (text := self._files.read(path)) is not None:
                found.append(block("file", cut_text(text, room), path=path))
                room -= len(text.encode("utf-8", "replace"))
        return found

    async def _summarise(self, items: Sequence[Item], touched: Sequence[str]) -> core.Summary:
        files = "\n".join(touched[:100]) or "(none)"
        most = min(self._by.model.context_window, self._window) * BYTES_PER_TOKEN // 2
        aside = Aside(
            [
                Message(role="user", content=core.transcript(items, most_bytes=most)),
                Message(role="user", content=core.ASK),
            ],
            used=self._by.used(),
        )
        registry = Registry(on_defect=aside.defects.append, content_limit=16 * 1024)
        for tool in (ReadHistory(items), SearchHistory(items)):
            registry.register(tool, "compaction")
        engine = EngineLoop(
            model=self._by.model,
            registry=registry,
            recorder=aside,
            rules=_bounded(self._by.rules),
            system_prompt=lambda: f"{core.INSTRUCTION}\n\nFiles:\n{files}",
            clock=self._clock,
            dice=self._dice,
            cost=self._by.cost,
        )
        over = await engine.run()
        unlogged = self._log_spent(aside)
        if over.ending is Ending.STOPPED:
            if unlogged is not None:
                self._record.alert(AlertLevel.WARN, str(unlogged), AlertSource.COMPACTOR)
            raise asyncio.CancelledError
        if unlogged is not None:
            raise unlogged
        if over.ending is not Ending.FINISHED:
            why = over.error.message if over.error else str(over.reason)
            raise CompactionFailed(f"the summary was not finished: {why}")
        summary = core.read_summary(aside.text(), touched)
        if not summary.text:
            raise CompactionFailed("the summary is empty")
        return summary

    def _log_spent(self, aside: Aside) -> PodsupError | None:
        """Log what each request cost; return why that could not be done."""
        try:
            for usage, answer in aside.spent:
                answer = answer if self._by.is_pods_own else None
                self._record.commit_spent(usage, answer, PURPOSE)
        except PodsupError as error:
            return error
        return None


def _size(prompt: str, items: Sequence[Item]) -> int:
    return len(prompt.encode("utf-8", "replace")) + size_of_all(items)


def _bounded(rules: EngineRules) -> EngineRules:
    timeouts = rules.timeouts
    most = MOST_S if timeouts.run_s is None else min(MOST_S, timeouts.run_s)
    changes = {"max_turns": MOST_TURNS, "timeouts": timeouts.model_copy(update={"run_s": most})}
    return rules.model_copy(update=changes)


def _without(state: Replayed, domain: str) -> Replayed:
    kept = tuple(one for one in state.extensions if one[0] != domain)
    return replace(state, extensions=kept)


def _is_count(entry: en.Entry) -> bool:
    return isinstance(entry, en.Extension) and entry.domain == DOMAIN


async def _to_the_end(work: Awaitable[str]) -> Compacted:
    """Finish what has begun, however often it is cancelled; that is told beside it."""
    task = asyncio.ensure_future(work)
    was_cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            was_cancelled = True
    if was_cancelled and (task.cancelled() or task.exception() is not None):
        raise asyncio.CancelledError
    return Compacted(task.result(), was_cancelled)


@dataclass(slots=True)
class Aside:
    """The history of an engine that is thrown away: kept in memory, published nowhere."""

    history: list[Item]
    used: frozenset[int]
    spent: list[tuple[Usage, int | None]] = field(default_factory=list)
    defects: list[Exception] = field(default_factory=list)
    _blocks: int = 0

    def text(self) -> str:
        """Return what the model wrote last, behind its last tool."""
        texts: list[str] = []
        for item in reversed(self.history):
            match item:
                case Message(role="assistant", content=content):
                    texts.append(content)
                case Reasoning():
                    continue
                case _:
                    break
        return "\n".join(reversed(texts))

    def items(self) -> Sequence[Item]:
        """The history so far."""
        return self.history

    def used_answers(self) -> frozenset[int]:
        """The scripted answers that are not for it."""
        return self.used

    def drain_notifications(self) -> None:
        """Nobody notifies it."""

    def commit_item(self, item: Item, block: int | str | None = None) -> None:
        """Keep one finished block of an answer."""
        self.history.append(item)

    def start_call(self, call_id: str) -> None:
        """Its tools have no effect."""

    def commit_result(self, result: ToolResult) -> None:
        """Keep one tool result."""
        self.history.append(result)

    def commit_usage(self, usage: Usage, answer: int | None) -> None:
        """Keep the figures of one request."""
        self.spent.append((usage, answer))
        if answer is not None:
            self.used |= {answer}

    def commit_turn_end(self, result: TurnResult) -> None:
        """Its turns are not counted."""

    async def sync(self) -> None:
        """Nothing of it is durable."""

    def emit(self, event: ev.Event) -> None:
        """Nobody watches it."""

    def alert(self, level: AlertLevel, message: str) -> None:
        """What comes of it is told by who has it done."""

    def turn_number(self) -> int:
        """Its turns are not counted."""
        return 1

    def next_block(self) -> int:
        """Return a block number that was not used."""
        self._blocks += 1
        return self._blocks


def unmatched(answers: Sequence[ScriptedAnswer]) -> frozenset[int]:
    """Return the scripted answers that stand for the next in order: they are the pod's own."""
    return frozenset(index for index, answer in enumerate(answers) if answer.match is None)
