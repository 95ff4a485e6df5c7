"""The turn loop: notifications, request, stream, commit, tools, again. Provider-neutral.

    drain notifications ─► request ─► stream ─► commit the answer ─► durable ─► tools ─► next turn
                                         └─ no tool calls: finished

Append before act: what the model answered is in the log before any of its tools starts, and durable
before it has an effect. Nothing of an answer is committed before its terminal event, except what
was finished when a stream broke and is continued; so nothing of a cancelled answer can leak into
the next. Stopping is a cancellation of the task that runs `run()`: it returns what happened
(`RunOver`), it never raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from podproc.engine.history import in_call_order
from podproc.engine.retry import GiveUp, after_failure
from podproc.models import base
from podproc.models.base import ModelRequest, ProviderFailure, StreamCut
from podproc.tools.base import Call, Registry
from podproc.tools.base import ToolResult as Outcome
from podproc.turn_terms import Ending, RunOver, StopWish
from protocol import events as ev
from protocol.entries import Item, Message, Reasoning, ToolCall, ToolResult, Usage
from protocol.error_body import ErrorBody
from protocol.errors import ErrorCode, PodsupError
from protocol.manifest import Engine as EngineRules
from protocol.status import AlertLevel, TurnResult
from protocol.unfailing import print_traceback


class Recorder(Protocol):
    """The one sink of everything a run produces: the log, the lanes, the history."""

    def items(self) -> Sequence[Item]:
        """The history so far."""

    def used_answers(self) -> frozenset[int]:
        """The scripted answers that are used up."""

    def drain_notifications(self) -> None:
        """Commit what waits in the notify buffer as system items."""

    def commit_item(self, item: Item, block: int | str | None = None) -> None:
        """Append one finished block of an answer, then publish it."""

    def start_call(self, call_id: str) -> None:
        """Note that a call's tool begins to run."""

    def commit_result(self, result: ToolResult) -> None:
        """Append one tool result, then publish it."""

    def commit_usage(self, usage: Usage, answer: int | None) -> None:
        """Append and publish the figures of one request."""

    def commit_turn_end(self, result: TurnResult) -> None:
        """Append and publish the end of a turn."""

    async def sync(self) -> None:
        """Return when everything appended is durable."""

    def emit(self, event: ev.Event) -> None:
        """Publish something that is not logged."""

    def alert(self, level: AlertLevel, message: str) -> object:
        """Tell people."""

    def next_block(self) -> int:
        """Return a block number that was not used in this incarnation."""

    def turn_number(self) -> int:
        """The number of the turn that begins now, over the whole session."""


@dataclass(slots=True)
class _Answer:
    """What one stream has given so far."""

    blocks: list[tuple[Item, int | str]] = field(default_factory=list)
    unfinished_calls: set[str] = field(default_factory=set)
    figures: base.Figures | None = None
    ended: base.Ended | None = None
    started: bool = False
    shown: bool = False

    opened: bool = False

    def begin_again(self) -> None:
        """Forget a try of which nothing was shown."""
        self.blocks, self.unfinished_calls = [], set()
        self.figures = self.ended = None
        self.started = self.shown = self.opened = False

    @property
    def calls(self) -> list[ToolCall]:
        return [item for item, _ in self.blocks if isinstance(item, ToolCall)]

    @property
    def is_truncated(self) -> bool:
        """The tokens were used up, and not just behind the last of its calls."""
        ended_early = self.ended is not None and self.ended.stop_reason == "max_tokens"
        return ended_early and (not self.calls or bool(self.unfinished_calls))


@dataclass(slots=True)
class _Batch:
    """Tools that run together; closed when the run is stopped or one of them broke it."""

    is_open: bool = True


class _Names:
    """What blocks and calls of one answer are called: each name once in all that is shown.

    A provider numbers blocks anew in each answer, and may give a call an id that another call has,
    or none.
    """

    def __init__(self, items: Sequence[Item], next_block: Callable[[], int]) -> None:
        self._next_block = next_block
        self._blocks: dict[int, int] = {}
        self._taken = {item.call_id for item in items if isinstance(item, ToolCall)}
        self._calls: dict[str, str] = {}

    def number(self, block: int) -> int:
        if block not in self._blocks:
            self._blocks[block] = self._next_block()
        return self._blocks[block]

    def begin_call(self, given: str) -> str:
        name, count = given or "call", 1
        while name in self._taken:
            count += 1
            name = f"{given or 'call'}-{count}"
        self._taken.add(name)
        self._calls[given] = name
        return name

    def call(self, given: str) -> str:
        return self._calls.get(given) or self.begin_call(given)

    def end_call(self, given: str) -> str:
        name = self.call(given)
        del self._calls[given]
        return name


class _Failed(Exception):
    """The run cannot go on; carries the wire form."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.body = ErrorBody(code=code, message=message)


Clock: TypeAlias = Callable[[], float]


class Room(Protocol):
    """Sees to it that the next request fits: at the start of a run, and between its turns."""

    async def before_run(self) -> None:
        """Make room, and do what a run begins with; nothing was shown yet."""

    async def between_turns(self, *, shown: bool) -> None:
        """Make room for the next request; `shown`: the run can no longer be taken back."""

    def project(self, history: Sequence[Item]) -> tuple[Item, ...]:
        """Return what a request shows of the history."""


class NoRoom:
    """Shows all of the history, in call order."""

    async def before_run(self) -> None:
        """Nothing is to be done."""

    async def between_turns(self, *, shown: bool) -> None:
        """Nothing is to be done."""

    def project(self, history: Sequence[Item]) -> tuple[Item, ...]:
        """Return all of it."""
        return in_call_order(history)


class EngineLoop:
    """Runs one run at a time; `output` says whether the model or a tool has shown something."""

    def __init__(
        self,
        *,
        model: base.Model,
        registry: Registry,
        recorder: Recorder,
        rules: EngineRules,
        system_prompt: Callable[[], str],
        clock: Clock,
        dice: Callable[[], float],
        progress: Callable[[str], None] = lambda what: None,
        room: Room | None = None,
        cost: Callable[[Usage], float | None] = lambda usage: None,
        cache_key: Callable[[], str] = lambda: "",
    ) -> None:
        self._model = model
        self._registry = registry
        self._record = recorder
        self._rules = rules
        self._system_prompt = system_prompt
        self._clock = clock
        self._dice = dice
        self._progress = progress
        self._room = room or NoRoom()
        self._cost = cost
        self._cache_key = cache_key
        self._llm_calls = 0
        self._in_turn = False
        self._strays: set[asyncio.Future[Any]] = set()
        self.output = False
        self._stopped_for = TurnResult.INTERRUPTED

    def stop_for(self, wish: StopWish) -> None:
        """Say why the task that runs this is about to be cancelled."""
        self._stopped_for = TurnResult.PAUSED if wish is StopWish.PAUSE else TurnResult.INTERRUPTED

    async def run(self) -> RunOver:
        """Run turns until something ends the run; cancel the task to stop it."""
        self.output = False
        self._stopped_for = TurnResult.INTERRUPTED
        over = await self._to_its_end()
        if self._in_turn:
            self._in_turn = False
            result = self._stopped_for if over.ending is Ending.STOPPED else TurnResult.INTERRUPTED
            self._record.emit(ev.TurnEnd(turn=self._record.turn_number(), result=result))
        return over

    async def _to_its_end(self) -> RunOver:
        try:
            return await self._in_time()
        except asyncio.CancelledError:
            return RunOver(Ending.STOPPED, output=self.output)
        except _Failed as failed:
            return RunOver(Ending.FAILED, output=self.output, error=failed.body)
        except PodsupError as error:
            return RunOver(Ending.FAILED, output=self.output, error=error.to_body())
        except Exception as error:
            print_traceback(error)
            body = ErrorBody(code=ErrorCode.INTERNAL, message=f"{type(error).__name__}: {error}")
            return RunOver(Ending.FAILED, output=self.output, error=body)

    async def _in_time(self) -> RunOver:
        most = self._rules.timeouts.run_s
        try:
            async with asyncio.timeout(most) as limit:
                return await self._turns()
        except TimeoutError:
            if not limit.expired():
                raise
            raise _Failed(ErrorCode.PROVIDER_ERROR, f"the run took over {most:g} s") from None

    async def _turns(self) -> RunOver:
        record = self._record
        await self._room.before_run()
        for turn in range(1, self._rules.max_turns + 1):
            self._in_turn = True
            record.emit(ev.TurnStart(turn=record.turn_number()))
            record.drain_notifications()
            await self._room.between_turns(shown=self.output)
            answer = await self._answer()
            calls = [] if answer.is_truncated else answer.calls
            if calls:
                await self._run_tools(calls)
            record.commit_turn_end(TurnResult.FINISHED)
            self._in_turn = False
            if calls:
                if turn == self._rules.max_turns:
                    break
                continue
            if answer.is_truncated:
                return RunOver(Ending.LIMIT_REACHED, reason="max_tokens")
            if not any(isinstance(item, Message) and item.content for item, _ in answer.blocks):
                record.alert(AlertLevel.ERROR, "the model gave an empty answer")
            return RunOver(Ending.FINISHED)
        return RunOver(Ending.LIMIT_REACHED, reason="max_turns")

    # -- one request

    async def _answer(self) -> _Answer:
        """Ask until an answer is complete; commit it. Continues a broken stream a few times."""
        for attempt in range(1, self._rules.max_continuations + 2):
            self._llm_calls += 1
            number = self._llm_calls
            self._record.emit(ev.LlmCallStart(llm_call=number))
            self._progress("waiting for the model")
            answer = _Answer()
            try:
                cut = await self._ask(answer, number)
            except _Failed:
                self._record.emit(ev.LlmCallEnd(llm_call=number))
                raise
            if cut is not None:
                answer.blocks = [b for b in answer.blocks if not isinstance(b[0], ToolCall)]
            self._commit(answer)
            if cut is not None and attempt <= self._rules.max_continuations:
                self._record.emit(
                    ev.LlmContinuation(
                        llm_call=number,
                        attempt=attempt,
                        max_attempts=self._rules.max_continuations,
                        reason=cut,
                    )
                )
            self._record.emit(ev.LlmCallEnd(llm_call=number))
            if cut is None:
                return answer
        raise _Failed(ErrorCode.PROVIDER_ERROR, f"the stream broke again and again: {cut}")

    async def _ask(self, answer: _Answer, number: int) -> str | None:
        """Stream one answer, tried again while nothing of it was shown.

        Returns why it broke, None where it is complete.
        """
        began = self._clock()
        failed = 0
        while True:
            try:
                await self._stream(answer)
            except ProviderFailure as error:
                problem = error
                if answer.shown and problem.retryable:
                    return problem.message
            except TimeoutError:
                what = self._silence(answer)
                if answer.started:
                    return what
                problem = ProviderFailure(what, retryable=True)
            except StreamCut as error:
                return str(error)
            else:
                return None if answer.ended else "the stream ended without its terminal event"
            failed += 1
            elapsed = self._clock() - began
            verdict = after_failure(
                self._rules.retry,
                failed_attempt=failed,
                elapsed_s=elapsed,
                retryable=problem.retryable and not answer.shown,
                retry_after_s=problem.retry_after_s,
                dice=self._dice(),
            )
            if isinstance(verdict, GiveUp):
                status = f" (HTTP {problem.status})" if problem.status else ""
                raise _Failed(ErrorCode.PROVIDER_ERROR, f"{problem.message}{status}; {verdict.why}")
            self._record.emit(
                ev.LlmRetry(
                    llm_call=number,
                    failed_attempt=failed,
                    max_attempts=self._rules.retry.attempts,
                    wait_ms=int(verdict.seconds * 1000),
                    elapsed_ms=int(elapsed * 1000),
                    status=problem.status,
                    error=problem.message,
                )
            )
            self._progress("waiting to ask the model again")
            await asyncio.sleep(verdict.seconds)
            answer.begin_again()

    def _silence(self, answer: _Answer) -> str:
        timeouts = self._rules.timeouts
        if answer.started:
            return f"no more events came for {timeouts.idle_s:g} s"
        if answer.opened:
            return f"no first event came for {timeouts.first_event_s:g} s"
        return f"no response came for {min(timeouts.headers_s, timeouts.first_event_s):g} s"

    async def _stream(self, answer: _Answer) -> None:
        request = ModelRequest(
            system_prompt=self._system_prompt(),
            items=self._room.project(self._record.items()),
            tools=tuple(self._registry.schemas()),
            max_tokens=self._rules.max_tokens,
            temperature=self._rules.temperature,
            reasoning=self._rules.reasoning,
            cache_key=self._cache_key(),
            used=self._record.used_answers(),
        )
        names = _Names(request.items, self._record.next_block)
        stream = self._model.stream(request)
        timeouts, clock = self._rules.timeouts, asyncio.get_running_loop().time
        slack = timeouts.idle_s / 20  # moving the deadline at every event would cost more than it
        began = clock()
        try:
            async with asyncio.timeout(min(timeouts.headers_s, timeouts.first_event_s)) as guard:
                moved = -slack
                async for event in stream:
                    if isinstance(event, base.Opened):
                        answer.opened = True
                        guard.reschedule(began + timeouts.first_event_s)
                        continue
                    if not answer.started:
                        answer.started = True
                        self._progress("the model answers")
                    if (now := clock()) - moved >= slack:
                        moved = now
                        guard.reschedule(now + timeouts.idle_s + slack)
                    self._on_event(event, answer, names)
                    if answer.ended is not None:
                        return
        finally:
            if hasattr(stream, "aclose"):
                await self._end([asyncio.ensure_future(stream.aclose())], "the model's connection")

    async def _end(self, tasks: Sequence[asyncio.Future[Any]], what: str) -> None:
        """Wait until tasks that are to end have ended; one that does not is left and told of.

        Being stopped meanwhile shortens nothing: it is heard behind it.
        """
        clock, stopped = asyncio.get_running_loop().time, False
        deadline, left = clock() + STOP_S, set(tasks)
        while left and (wait := deadline - clock()) > 0:
            try:
                _, left = await asyncio.wait(left, timeout=wait)
            except asyncio.CancelledError:
                stopped = True
                left = {task for task in left if not task.done()}
        if left:
            self._strays |= left
            for task in left:
                task.add_done_callback(self._strays.discard)
            self._record.alert(AlertLevel.ERROR, f"{what} did not end within {STOP_S:g} s")
        if stopped:
            raise asyncio.CancelledError

    def _on_event(self, event: base.ModelEvent, answer: _Answer, names: _Names) -> None:
        record, number = self._record, names.number
        if not isinstance(event, base.Figures | base.Ended):
            answer.shown = answer.shown or _shows(event)
            self.output = self.output or answer.shown
        match event:
            case base.TextDelta(block, text):
                for piece in _pieces(text):
                    record.emit(ev.TextDelta(block=number(block), text=piece))
            case base.TextDone(block, text):
                record.emit(ev.TextDone(block=number(block), text=text))
                if text:
                    item = Message(role="assistant", content=text)
                    answer.blocks.append((item, number(block)))
            case base.ThinkingStart(block):
                record.emit(ev.ThinkingStart(block=number(block)))
            case base.ThinkingDelta(block, text):
                for piece in _pieces(text):
                    record.emit(ev.ThinkingDelta(block=number(block), text=piece))
            case base.ThinkingDone(block, text, summary, encrypted, signature):
                record.emit(ev.ThinkingDone(block=number(block), text=text))
                thought = Reasoning(
                    text=text,
                    summary=summary,
                    encrypted_content=encrypted,
                    signature=signature,
                )
                answer.blocks.append((thought, number(block)))
            case base.CallStart(call_id, name):
                call_id = names.begin_call(call_id)
                answer.unfinished_calls.add(call_id)
                record.emit(ev.ToolCallStart(id=call_id, name=name))
            case base.CallArgs(call_id, json):
                for piece in _pieces(json):
                    record.emit(ev.ToolCallArgsDelta(id=names.call(call_id), json_=piece))
            case base.CallDone(call_id, name, arguments):
                call_id = names.end_call(call_id)
                answer.unfinished_calls.discard(call_id)
                record.emit(ev.ToolCallDone(id=call_id, name=name, arguments=arguments))
                call = ToolCall(call_id=call_id, name=name, arguments=arguments)
                answer.blocks.append((call, call_id))
            case base.Figures():
                answer.figures = event
            case base.Ended():
                answer.ended = event
            case base.Opened():
                answer.opened = True

    def _commit(self, answer: _Answer) -> None:
        for item, block in answer.blocks:
            self._record.commit_item(item, block)
        if answer.figures is not None:
            used = answer.figures.answer if answer.ended else None
            usage = answer.figures.usage
            priced = usage.model_copy(update={"cost_usd": self._cost(usage)})
            self._record.commit_usage(priced, used)

    # -- tools

    async def _run_tools(self, calls: list[ToolCall]) -> None:
        """Run a batch, as many at once as may be; what changes the scope, before the rest."""
        await self._record.sync()
        first = [call for call in calls if self._registry.comes_first(call.name)]
        for batch in (first, [call for call in calls if call not in first]):
            if batch:
                await self._run_batch(batch)

    async def _run_batch(self, calls: list[ToolCall]) -> None:
        room = asyncio.Semaphore(self._rules.max_parallel_tools)
        batch = _Batch()
        tasks = [asyncio.create_task(self._run_tool(call, room, batch)) for call in calls]
        try:
            for over in asyncio.as_completed(tasks):
                await over
        finally:
            batch.is_open = False  # what ends from now on is no result of this run any more
            for task in tasks:
                task.cancel()
            await self._end([task for task in tasks if not task.done()], "a tool")

    async def _run_tool(self, call: ToolCall, room: asyncio.Semaphore, batch: _Batch) -> None:
        async with room:
            self._record.start_call(call.call_id)
            self._progress(f"tool {call.name}")

            def emit(stream: str, text: str) -> None:
                for piece in _pieces(text) if batch.is_open else ():
                    self._record.emit(
                        ev.ToolOutputDelta(id=call.call_id, stream=stream, text=piece)
                    )

            try:
                result = await self._registry.call(
                    call.name, call.arguments, Call(call_id=call.call_id, emit=emit)
                )
            except asyncio.CancelledError:
                if (task := asyncio.current_task()) is None or task.cancelling():
                    raise
                # Nobody stopped it: its call must not stay open.
                result = Outcome("execution_failed: the tool was cancelled from within", None, True)
        if not batch.is_open:
            return
        self.output = True
        self._record.commit_result(
            ToolResult(
                call_id=call.call_id,
                summary=result.summary,
                content=result.content,
                is_error=result.is_error,
            )
        )


LONGEST_DELTA = 8192
STOP_S = 2.0
"""Seconds in which a connection or a tool has to end that is told to."""


def _shows(event: base.ModelEvent) -> bool:
    """Whether somebody sees something of it: what an answer had shown is not taken back."""
    match event:
        case base.TextDone(_, text) | base.ThinkingDone(_, text):
            return bool(text)
        case base.Opened():
            return False
        case _:
            return True


def _pieces(text: str) -> list[str]:
    """Cut what came in one piece so that none is too large to publish; usually there is one."""
    if len(text) <= LONGEST_DELTA:
        return [text]
    return [text[at : at + LONGEST_DELTA] for at in range(0, len(text), LONGEST_DELTA)]
