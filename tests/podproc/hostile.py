"""A pod among enemies: a model that does every nasty thing, tools to match, and a rash operator.

    Play (what one request gets) ──► Hostile (the model) ──┐
    Step (what the operator does) ─► Stage ────────────────┼─► Life after Life of one pod
                                      ▲ one tick for each message, model event and tool step

A step is due after so many ticks, or when the pod stands still: it is neither running nor changing
its log, or something in it hangs. So the same script gives the same moments on any machine. A kill
takes what is on disk at that very tick: the next life begins with the copy, and whatever the old
one does from then on happened nowhere.

Every text and every call that a model gives bears a mark of its own (`<request>.<part>`), so that
what is found on disk, in a request or among the executions can be traced to where it came from.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from podproc.models import base
from podproc.models.base import ProviderFailure, StreamCut
from podproc.rewinding import inputs_of
from podproc.tools.base import Call, ToolArgs, ToolFailure
from podproc.tools.base import ToolResult as Outcome
from protocol import methods as m
from protocol.birth import Birth
from protocol.entries import Item, Message, Reasoning, ToolCall, ToolResult, Usage
from protocol.manifest import Compaction, Engine, Retry, Timeouts
from protocol.pod_events import ScopeSubDelegated, TurnEnded
from protocol.session.reading import scan
from protocol.session.store import SessionStore
from protocol.status import PodStatus, RunResult
from tests.podproc.pods import SEGMENT, Home, Life, Sent, say

RULES = Engine(
    max_turns=4,
    max_parallel_tools=2,
    max_continuations=2,
    timeouts=Timeouts(headers_s=0.05, first_event_s=0.05, idle_s=0.05),
    retry=Retry(attempts=3, base_s=0.001, cap_s=0.002),
)
WINDOW = 20_000
SCRIPT_S = 20.0

# -- what is played


class Part(StrEnum):
    """One piece of an answer. `open` is never finished, `quiet` never announced."""

    TEXT = "text"
    QUIET_TEXT = "quiet text"
    EMPTY_TEXT = "empty text"
    OPEN_TEXT = "open text"
    THINKING = "thinking"
    SEALED_THINKING = "sealed thinking"
    EMPTY_THINKING = "empty thinking"
    OPEN_THINKING = "open thinking"
    CALL = "call"
    QUIET_CALL = "quiet call"
    OPEN_CALL = "open call"
    SAME_ID = "call with an id that another has"
    NO_ID = "call without an id"
    BAD_JSON = "call whose arguments are no JSON"
    NO_OBJECT = "call whose arguments are no object"
    UNKNOWN_TOOL = "call of a tool that is not there"
    FIGURES = "figures"
    OPENED = "opened"
    BREATH = "a moment of nothing"


class Last(StrEnum):
    """How an answer ends, or does not."""

    ENDED = "ended"
    NO_FIGURES = "ended without figures"
    LATE_FIGURES = "figures behind the end"
    MORE = "more behind the end"
    MAX_TOKENS = "max_tokens"
    NO_END = "no terminal event"
    CUT = "cut"
    OVERLOADED = "overloaded"
    RETRY_AFTER = "a Retry-After"
    FAR_RETRY_AFTER = "a Retry-After that is too far"
    REFUSED = "refused"
    DEFECT = "a defect of the adapter"
    SILENCE = "silence"


class Deed(StrEnum):
    """What a tool does."""

    WORK = "work"
    TALK = "talk"
    FAIL = "fail"
    BREAK = "break"
    HANG = "hang"
    GIVE_UP = "give up"


@dataclass(frozen=True)
class Play:
    """What one request gets; `pace` is how often others get the loop before each event."""

    parts: tuple[tuple[Part, Deed, int], ...] = ((Part.TEXT, Deed.WORK, 0),)
    last: Last = Last.ENDED
    pace: int = 1
    tokens: int = 10


class Do(StrEnum):
    """What an operator does, or fate."""

    RUN = "run"
    RUN_AGAIN = "the last run, sent again"
    RESUME = "resume"
    PAUSE = "pause"
    CANCEL = "cancel"
    NOTIFY = "notify"
    NOTIFY_QUIETLY = "notify, without waking"
    CHILD_FINISHED = "a child has finished"
    CHILD_PAUSED = "a child was paused"
    CHILD_LENT = "a child has lent"
    COMPACT = "compact"
    REWIND = "rewind to the newest input"
    REWIND_FAR = "rewind to the oldest input"
    REWIND_STALE = "rewind at another head"
    SHUTDOWN = "shutdown"
    SIGNAL = "a signal to leave"
    KILL = "kill"


@dataclass(frozen=True)
class Step:
    """One deed of the operator, so many ticks after the one before."""

    do: Do
    after: int = 0


# -- the model


@dataclass
class Asked:
    """One request, and what became of its answer. `life` and `place`: where the wire was."""

    number: int
    life: int
    for_summary: bool
    has_ended: bool = False
    was_closed: bool = False
    is_truncated: bool = False
    place: int = 0


@dataclass
class Defect(Exception):
    """An adapter that is broken."""


@dataclass
class Hostile:
    """The model of all lives of one pod. What it is asked is looked at; `faults` are the results.

    A summary is asked for from it too, and is played from `summaries`; polite where nothing is
    left.
    """

    stage: Stage
    plays: deque[Play]
    summaries: deque[Play]
    provider: str = "hostile"
    model_id: str = "hostile"
    context_window: int = WINDOW
    asked: list[Asked] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    async def close(self) -> None:
        """Nothing is kept open."""

    async def stream(self, request: base.ModelRequest) -> AsyncIterator[base.ModelEvent]:
        """Play what is next."""
        stage = self.stage
        for_summary = any(tool.name == "ReadHistory" for tool in request.tools)
        plays = self.summaries if for_summary else self.plays
        play = plays.popleft() if plays else Play()
        asked = Asked(len(self.asked), stage.number, for_summary)
        self.asked.append(asked)
        self.faults += [f"request {asked.number}: {one}" for one in faults_of(request.items)]
        life, has_calls = stage.life, False
        try:
            for event in _events(play, asked.number):
                for _ in range(play.pace):
                    await asyncio.sleep(0)
                stage.tick()
                match event:
                    case Exception():
                        asked.was_closed = False
                        raise event
                    case None:
                        with stage.hanging():
                            await asyncio.get_running_loop().create_future()
                    case _:
                        asked.has_ended = asked.has_ended or isinstance(event, base.Ended)
                        asked.is_truncated = event == base.Ended("max_tokens") and not has_calls
                        has_calls = has_calls or isinstance(event, base.CallDone)
                        asked.was_closed = True
                        yield event
            asked.was_closed = False
        except asyncio.CancelledError:
            asked.was_closed = True
            raise
        finally:
            asked.place = len(life.net.sent)


def _events(play: Play, number: int) -> Iterator[base.ModelEvent | Exception | None]:
    """Give the events of a play; None is silence."""
    for place, (part, deed, turns) in enumerate(play.parts):
        yield from _part(part, f"{number}.{place}", place, _arguments(number, place, deed, turns))
    figures = base.Figures(Usage(input_tokens=play.tokens, output_tokens=2))
    if play.last not in (Last.NO_FIGURES, Last.LATE_FIGURES):
        yield figures
    match play.last:
        case Last.ENDED | Last.NO_FIGURES:
            yield base.Ended("end_turn")
        case Last.LATE_FIGURES:
            yield base.Ended("end_turn")
            yield figures
        case Last.MORE:
            yield base.Ended("end_turn")
            yield from _part(Part.TEXT, f"{number}.98", 98, "{}")
            yield from _part(Part.CALL, f"{number}.99", 99, _arguments(number, 99, Deed.WORK, 0))
        case Last.MAX_TOKENS:
            yield base.Ended("max_tokens")
        case Last.NO_END:
            return
        case Last.CUT:
            yield StreamCut("the connection broke")
        case Last.OVERLOADED:
            yield ProviderFailure("overloaded", status=529)
        case Last.RETRY_AFTER:
            yield ProviderFailure("slow down", status=429, retry_after_s=0.001)
        case Last.FAR_RETRY_AFTER:
            yield ProviderFailure("come tomorrow", status=429, retry_after_s=86400)
        case Last.REFUSED:
            yield ProviderFailure("no such model", status=404)
        case Last.DEFECT:
            yield Defect()
        case Last.SILENCE:
            yield None


def _arguments(number: int, place: int, deed: Deed, turns: int) -> str:
    return json.dumps({"mark": f"{number}.{place}", "deed": deed, "turns": turns})


def _part(part: Part, mark: str, block: int, arguments: str) -> Iterator[base.ModelEvent | None]:
    half = len(arguments) // 2
    text = f"<{mark}>"
    match part:
        case Part.TEXT:
            yield base.TextDelta(block, text[:2])
            yield base.TextDelta(block, text[2:])
            yield base.TextDone(block, text)
        case Part.QUIET_TEXT:
            yield base.TextDone(block, text)
        case Part.EMPTY_TEXT:
            yield base.TextDone(block, "")
        case Part.OPEN_TEXT:
            yield base.TextDelta(block, text)
        case Part.THINKING:
            yield base.ThinkingStart(block)
            yield base.ThinkingDelta(block, text)
            yield base.ThinkingDone(block, text)
        case Part.SEALED_THINKING:
            yield base.ThinkingStart(block)
            yield base.ThinkingDone(
                block, text, summary="s", encrypted_content="sealed", signature="signed"
            )
        case Part.EMPTY_THINKING:
            yield base.ThinkingDone(block)
        case Part.OPEN_THINKING:
            yield base.ThinkingStart(block)
        case Part.CALL | Part.SAME_ID | Part.NO_ID:
            given = {Part.SAME_ID: "same", Part.NO_ID: ""}.get(part, f"call-{mark}")
            yield base.CallStart(given, "Deed")
            yield base.CallArgs(given, arguments[:half])
            yield base.CallArgs(given, arguments[half:])
            yield base.CallDone(given, "Deed", arguments)
        case Part.QUIET_CALL:
            yield base.CallDone(f"call-{mark}", "Deed", arguments)
        case Part.OPEN_CALL:
            yield base.CallStart(f"call-{mark}", "Deed")
            yield base.CallArgs(f"call-{mark}", arguments[:half])
        case Part.BAD_JSON:
            yield base.CallStart(f"call-{mark}", "Deed")
            yield base.CallDone(f"call-{mark}", "Deed", arguments[:-1])
        case Part.NO_OBJECT:
            yield base.CallDone(f"call-{mark}", "Deed", "[]")
        case Part.UNKNOWN_TOOL:
            yield base.CallStart(f"call-{mark}", "Nonesuch")
            yield base.CallDone(f"call-{mark}", "Nonesuch", "{}")
        case Part.FIGURES:
            yield base.Figures(Usage(input_tokens=7))
        case Part.OPENED:
            yield base.Opened()
        case Part.BREATH:
            yield base.TextDelta(block, "")


def faults_of(items: Sequence[Item]) -> list[str]:
    """Say what is wrong with the items of a request; nothing where all is well."""
    faults: list[str] = []
    calls: list[str] = []
    results: list[str] = []
    seen: set[str] = set()
    told: set[str] = set()

    def end_group() -> None:
        if calls != results:
            faults.append(f"calls {calls} are followed by results {results}")
        calls.clear()
        results.clear()

    for item in items:
        match item:
            case ToolCall(call_id=call_id):
                if results:
                    end_group()
                if call_id in seen:
                    faults.append(f"two calls are named {call_id!r}")
                seen.add(call_id)
                calls.append(call_id)
            case ToolResult(call_id=call_id):
                results.append(call_id)
            case Message(role="assistant") | Reasoning() if not results:
                pass  # an answer that goes on
            case Message(role="system", content=content) if content.startswith("note "):
                end_group()
                if content in told:
                    faults.append(f"{content!r} is told twice")
                told.add(content)
            case _:
                end_group()
    end_group()
    return faults


# -- the tool


class DeedArgs(ToolArgs):
    mark: str
    deed: Deed
    turns: int


@dataclass
class DeedTool:
    """Does what its call says, and writes each execution down before it begins."""

    stage: Stage
    life: Life
    home: HostileHome
    name: ClassVar[str] = "Deed"
    description: ClassVar[str] = "Do something."
    Args: ClassVar[type[DeedArgs]] = DeedArgs

    async def run(self, args: DeedArgs, call: Call) -> Outcome:
        """Do it."""
        with self.home.executions.open("a") as file:
            file.write(f"{args.mark} {call.call_id}\n")
        if self.life is self.stage.life and not self.stage.killed:
            self.stage.look_before_act(call.call_id)
        self.stage.tick()
        for _ in range(args.turns):
            await asyncio.sleep(0)
        match args.deed:
            case Deed.TALK:
                call.emit("stdout", "well\n")
                await asyncio.sleep(0)
                call.emit("stderr", "x" * 9000)
            case Deed.FAIL:
                raise ToolFailure("execution_failed", "it did not work")
            case Deed.BREAK:
                raise Defect
            case Deed.HANG:
                with self.stage.hanging():
                    await self.stage.released.wait()
            case Deed.GIVE_UP:
                raise asyncio.CancelledError
        self.stage.tick()
        return Outcome(f"done {args.mark}", "y" * 40)


# -- the stage


@dataclass
class HostileHome(Home):
    """A home whose record names the segment that was claimed last, as the supervisor's does."""

    named: str = SEGMENT
    engine: Engine = RULES

    @property
    def executions(self) -> Path:
        return self.data / "executions"

    def after_a_kill(self, name: str) -> HostileHome:
        """Copy all that is on disk at this moment."""
        other = HostileHome(self.root.parent / name, compaction=self.compaction, named=self.named)
        shutil.copytree(self.data, other.data)
        return other

    def birth(self, incarnation: int) -> Birth:
        """Return what its next process is told."""
        return super().birth(incarnation).model_copy(update={"segment_id": self.named})


@dataclass
class Ended:
    """One life as it was: what it said up to its end, and what it was asked."""

    number: int
    sent: list[Sent]
    posted: list[str]
    was_killed: bool
    disk: list[tuple[str, bytes]]
    """What its logs were at its end: of a killed one, at that moment."""


class Stage:
    """Plays a script on one pod, life after life; what happened is there for the audit."""

    def __init__(
        self, root: Path, plays: Sequence[Play], steps: Sequence[Step], summaries: Sequence[Play]
    ) -> None:
        self._root = root
        self._steps = deque(steps)
        self._due = steps[0].after if steps else 0
        self._hangs = 0
        self._posted: list[str] = []
        self._runs: list[str] = []
        self._notes = 0
        self._copies = 0
        self._is_changing = True
        self._news = asyncio.Event()
        self.model = Hostile(self, deque(plays), deque(summaries))
        self.home = HostileHome(root / "home0", compaction=Compaction(tail_tokens=50))
        self.home.data.mkdir()
        self.number = 0
        self.life: Life
        self.killed: HostileHome | None = None
        self.released = asyncio.Event()
        self.lives: list[Ended] = []
        self.faults: list[str] = []
        self.done: list[Do] = []

    # -- what happens

    def tick(self) -> None:
        """Something happened: a step may be due."""
        self._news.set()
        if self._is_changing or self.killed is not None or not self._steps:
            return
        self._due -= 1
        if self._due <= 0:
            self._step()

    def hanging(self) -> Any:
        """Be something that hangs, for as long as the block lasts."""
        return _Hanging(self)

    def hang(self, by: int) -> None:
        """Count what hangs."""
        self._hangs += by
        self._news.set()

    def look_before_act(self, call_id: str) -> None:
        """See that the intent is on disk, and no outcome yet, at the moment a tool begins."""
        segment = self.life.pod._record.segment_id
        log = self.home.log.with_name(f"{segment}.jsonl")
        items = [entry["item"] for entry in self.home.entries(log) if "item" in entry]
        mine = [item["kind"] for item in items if item.get("call_id") == call_id]
        if mine[-1:] != ["tool_call"]:
            self.faults.append(f"call {call_id} runs while the log has {mine} of it")

    # -- what is done

    async def play(self) -> None:
        """Play all steps, then see the pod to its end in peace."""
        async with asyncio.timeout(SCRIPT_S):
            await self._begin()
            while self._steps:
                await self._wait(lambda: not self._steps or self._must_go_on() or self._is_still())
                if self._must_go_on():
                    await self._next_life()
                elif self._steps:
                    self._look_at_mirror()
                    self._look_for_stranded()
                    self._step()
            await self._in_peace()

    async def _in_peace(self) -> None:
        """Let what runs come to its end, and one more run close what is open."""
        self.model.plays.clear()
        self.released.set()
        last = ""
        while f"run_end finished {last}" not in self._ends():
            await self._wait(lambda: self._must_go_on() or (self._is_still() and not self._hangs))
            if self._must_go_on():
                await self._next_life()
            elif f"run_end finished {last}" not in self._ends():
                self._look_at_mirror()
                self._look_for_stranded()
                last = self._ask(say("the last"))
        await self._wait(self._is_still)
        self._look_at_mirror()
        await self._end_life()

    def _ends(self) -> list[str]:
        ends = self.life.told("run_end")
        return [f"{end.what} {end.body.get('request_id')}" for end in ends]

    def _step(self) -> None:
        step = self._steps.popleft()
        self._due = self._steps[0].after if self._steps else 0
        self.done.append(step.do)
        match step.do:
            case Do.RUN:
                self._runs.append(self._ask(say(f"run {len(self._runs)}")))
            case Do.RUN_AGAIN if self._runs:
                self._ask(say(f"run {len(self._runs) - 1}"), self._runs[-1])
            case Do.RESUME:
                self._runs.append(self._ask(m.Resume()))
            case Do.PAUSE:
                self._ask(m.Pause())
            case Do.CANCEL:
                self._ask(m.Cancel())
            case Do.NOTIFY | Do.NOTIFY_QUIETLY:
                self._notes += 1
                note = f"note {self._notes}"
                self._ask(m.Notify(message=note, auto_run=step.do is Do.NOTIFY), note)
            case Do.CHILD_FINISHED:
                self._ask(self._child(RunResult.FINISHED))
            case Do.CHILD_PAUSED:
                self._ask(self._child(RunResult.PAUSED))
            case Do.CHILD_LENT:
                lent = ScopeSubDelegated(parent_pod="kid", sub_pod="grandkid")
                self._ask(m.PodEventMethod(event_id=f"kid.lent.{self._notes}", event=lent))
            case Do.COMPACT:
                self._ask(m.Compact())
            case Do.REWIND | Do.REWIND_FAR | Do.REWIND_STALE:
                self._rewind(step.do)
            case Do.SHUTDOWN:
                self._ask(m.ShutdownMethod())
            case Do.SIGNAL:
                asyncio.get_running_loop().call_soon(self.life.pod.leave)
            case Do.KILL:
                self._copies += 1
                self.killed = self.home.after_a_kill(f"home{self._copies}")
                self._close_book(was_killed=True)
        self._news.set()

    def _child(self, result: RunResult) -> m.PodEventMethod:
        self._notes += 1
        event = TurnEnded(pod_name="kid", result=result)
        return m.PodEventMethod(event_id=f"kid.{self._notes}", event=event)

    def _rewind(self, how: Do) -> None:
        record = self.life.pod._record
        if record.session_id is None or record.segment_id is None:
            return
        inputs = inputs_of(SessionStore(self.home.data), record.session_id, record.segment_id)
        if not inputs:
            return
        one = inputs[-1 if how is Do.REWIND_FAR else 0]
        target = m.RewindTargetId(
            segment_id=one.segment_id, user_input_entry_index=one.submitted.entry_index
        )
        head = record.head_entries + (how is Do.REWIND_STALE)
        self._ask(m.RewindTo(target=target, expected_head_entries=head))

    def _ask(self, method: m.Method, request_id: str = "") -> str:
        key = self.life.post(method, request_id)
        self._posted.append(key)
        return key

    # -- lives

    async def _begin(self) -> None:
        self._is_changing = True
        self.number += 1
        self._posted = []
        life = self.life = Life(self.home, incarnation=self.number, model=self.model)
        home = self.home

        def note_claim(segment_id: str) -> None:
            home.named = segment_id

        life.on_claim = note_claim
        life.pod._tools.registry.register(DeedTool(self, life, home), "test")
        life.task.add_done_callback(lambda task: self._news.set())
        life.net.on_sent = lambda sent: self.tick()
        await self._wait(lambda: life.task.done() or bool(life.told("status")))
        self._is_changing = False

    async def _next_life(self) -> None:
        killed, self.killed = self.killed, None
        if killed is None:
            self._close_book(was_killed=False)
        self._is_changing = True
        assert await self.life.end() == 0
        self.home = killed or self.home
        await self._begin()

    async def _end_life(self) -> None:
        self._is_changing = True
        assert await self.life.end() == 0
        self._close_book(was_killed=False)

    def _close_book(self, *, was_killed: bool) -> None:
        sent, posted = list(self.life.net.sent), list(self._posted)
        disk = [(log.stem, log.read_bytes()) for log in self.home.segments]
        self.lives.append(Ended(self.number, sent, posted, was_killed, disk))

    # -- when

    async def _wait(self, probe: Callable[[], bool]) -> None:
        while not probe():
            self._news.clear()
            await self._news.wait()

    def _must_go_on(self) -> bool:
        return self.killed is not None or self.life.task.done()

    def _is_still(self) -> bool:
        state = self.life.pod._turn.state
        replied = {one.id for one in self.life.net.sent if one.what.startswith("reply")}
        if state.leaving or not replied.issuperset(self._posted):
            return False
        works = state.status is PodStatus.RUNNING or state.is_aside or state.abandoning
        return not works or self._hangs > 0

    def _look_at_mirror(self) -> None:
        """See that what the pod has in memory is what its log says, and nothing else."""
        record = self.life.pod._record
        if record.segment_id is None or record._to_publish:
            return
        log = self.home.log.with_name(f"{record.segment_id}.jsonl")
        if scan(log, log.read_bytes()).state != record.state:
            self.faults.append(f"the mirror is not what {log.name} says")

    def _look_for_stranded(self) -> None:
        """See that nothing that wakes waits in an idle pod, but behind a run that went wrong."""
        state, ends = self.life.pod._turn.state, self.life.told("run_end")
        went_well = not ends or ends[-1].what.split()[1] in ("finished", "limit_reached")
        is_idle = state.status is PodStatus.IDLE and not state.is_aside
        if is_idle and went_well and self.life.pod._inbox.waking() is not None:
            self.faults.append("a message that wakes is stranded in an idle pod")


class _Hanging:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def __enter__(self) -> None:
        self._stage.hang(1)

    def __exit__(self, *problem: object) -> None:
        self._stage.hang(-1)
