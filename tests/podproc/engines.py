"""The turn loop with a model that plays what a test says, and a sink that remembers in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from podproc.engine.loop import EngineLoop
from podproc.models import base
from podproc.tools.base import Call, Registry, Tool, ToolArgs
from podproc.tools.base import ToolResult as Outcome
from podproc.turn_terms import RunOver
from protocol import events as ev
from protocol.entries import Item, Message, ToolCall, ToolResult, Usage
from protocol.errors import Internal
from protocol.manifest import Engine, Retry, Timeouts
from protocol.status import AlertLevel, TurnResult

QUICK = Engine(
    timeouts=Timeouts(first_event_s=0.05, idle_s=0.05),
    retry=Retry(attempts=4, base_s=0.001, cap_s=0.002, total_s=40),
)
"""Timeouts that a test can wait for."""

PATIENT = Engine(retry=Retry(base_s=0.001, cap_s=0.002))
"""Timeouts that never come, and quick retries."""

STEP_LIMIT_S = 10.0


class Hang:
    """Nothing more comes."""


Move = base.ModelEvent | Exception | Hang | Callable[[], None]


def text(content: str, block: int = 0) -> list[Move]:
    """Return a finished block of text."""
    return [base.TextDelta(block, content), base.TextDone(block, content)]


def thinking(content: str, block: int = 0) -> list[Move]:
    """Return a finished block of reasoning."""
    return [
        base.ThinkingStart(block),
        base.ThinkingDelta(block, content),
        base.ThinkingDone(block, content),
    ]


def call(call_id: str, name: str = "Echo", arguments: str = "{}") -> list[Move]:
    """Return a finished call."""
    return [
        base.CallStart(call_id, name),
        base.CallArgs(call_id, arguments),
        base.CallDone(call_id, name, arguments),
    ]


def end(reason: str = "end_turn", answer: int | None = None) -> list[Move]:
    """Return figures and the terminal event."""
    return [base.Figures(Usage(input_tokens=10, output_tokens=2), answer), base.Ended(reason)]


class PlayedModel:
    """Plays one list of moves for each request; `requests` is what it was asked."""

    provider = "played"
    model_id = "played"
    context_window = 1000

    def __init__(self, *plays: list[Move]) -> None:
        self.plays = list(plays)
        self.requests: list[base.ModelRequest] = []
        self.closed = 0

    async def stream(self, request: base.ModelRequest) -> AsyncIterator[base.ModelEvent]:
        """Play the next list."""
        self.requests.append(request)
        assert self.plays, "the model was asked once more than the test expects"
        try:
            for move in self.plays.pop(0):
                match move:
                    case Exception():
                        raise move
                    case Hang():
                        await asyncio.get_running_loop().create_future()
                    case _ if callable(move):
                        move()
                    case _:
                        yield move
        finally:
            self.closed += 1

    async def close(self) -> None:
        """Nothing is kept open."""


class Sink:
    """A recorder that keeps everything in memory, in one list of words, and fails on order."""

    def __init__(self) -> None:
        self.history: list[Item] = [Message(role="user", content="hi")]
        self.seen: list[str] = []
        self.events: list[ev.Event] = []
        self.alerts: list[str] = []
        self.waiting: list[str] = []
        self.used: set[int] = set()
        self.failing: set[str] = set()
        self.turns = 0
        self._blocks = 0
        self._changed = asyncio.Event()

    def items(self) -> Sequence[Item]:
        """The history."""
        return tuple(self.history)

    def used_answers(self) -> frozenset[int]:
        """What was used."""
        return frozenset(self.used)

    def drain_notifications(self) -> None:
        """Take what waits."""
        for message in self.waiting:
            self.history.append(Message(role="system", content=message))
            self._see(f"system_item {message}")
        self.waiting.clear()

    def commit_item(self, item: Item, block: int | str | None = None) -> None:
        """Append."""
        self._see(f"entry {_of(item)}")
        self.history.append(item)

    def start_call(self, call_id: str) -> None:
        """Note."""
        self._see(f"starts {call_id}")

    def commit_result(self, result: ToolResult) -> None:
        """Append."""
        self._see(f"result {result.call_id}")
        self.history.append(result)

    def commit_usage(self, usage: Usage, answer: int | None) -> None:
        """Count."""
        self._see("usage" if answer is None else f"usage of answer {answer}")
        if answer is not None:
            self.used.add(answer)

    def commit_turn_end(self, result: TurnResult) -> None:
        """Count."""
        self._see("turn_end")
        self.turns += 1

    async def sync(self) -> None:
        """Be durable."""
        self._see("sync")
        await asyncio.sleep(0)

    def emit(self, event: ev.Event) -> None:
        """Publish."""
        self.events.append(event)
        match event:
            case ev.TurnEnd(result=result):
                self.seen.append(f"turn {result}")
            case _:
                self.seen.append(event.event)
        self._changed.set()

    def alert(self, level: AlertLevel, message: str) -> None:
        """Tell."""
        self.alerts.append(f"{level}: {message}")

    def next_block(self) -> int:
        """Count."""
        self._blocks += 1
        return self._blocks

    def turn_number(self) -> int:
        """Count."""
        return self.turns + 1

    def _see(self, what: str) -> None:
        if what in self.failing:
            raise Internal("nothing was added to the log: no space left on device")
        self.seen.append(what)
        self._changed.set()

    def told(self, *kinds: str) -> list[str]:
        """Return what was seen of some kinds, in order."""
        return [what for what in self.seen if what.split()[0] in kinds]

    async def wait_for(self, what: str) -> None:
        """Return once this was seen."""
        async with asyncio.timeout(STEP_LIMIT_S):
            while what not in self.seen:
                self._changed.clear()
                await self._changed.wait()


def _of(item: Item) -> str:
    match item:
        case Message(content=content):
            return content
        case ToolCall(call_id=call_id):
            return call_id
        case _:
            return item.kind


class EchoArgs(ToolArgs):
    text: str = "default"


@dataclass
class Echo:
    """Says what it is told, and keeps it."""

    name: ClassVar[str] = "Echo"
    description: ClassVar[str] = "Say something."
    Args: ClassVar[type[EchoArgs]] = EchoArgs
    ran: list[str] = field(default_factory=list)

    async def run(self, args: EchoArgs, call: Call) -> Outcome:
        """Say it."""
        self.ran.append(args.text)
        call.emit("stdout", args.text)
        return Outcome(f"said {args.text}", args.text)


class NoArgs(ToolArgs):
    pass


@dataclass
class Custom:
    """A tool that does what a test says."""

    name: str
    work: Callable[[Call], Any]
    description: str = "Do it."
    Args: type[ToolArgs] = NoArgs

    async def run(self, args: ToolArgs, call: Call) -> Outcome:
        """Do it."""
        return Outcome(str(await self.work(call)))


class Bench:
    """One loop, its model, its sink and its tools; made inside a running event loop."""

    def __init__(
        self,
        *plays: list[Move],
        rules: Engine = QUICK,
        tools: Sequence[Tool] = (),
        model: base.Model | None = None,
        dice: Callable[[], float] = lambda: 0.5,
    ) -> None:
        self.model = PlayedModel(*plays)
        self.sink = Sink()
        self.echo = Echo()
        self.registry = Registry(on_defect=lambda error: None)
        for tool in (self.echo, *tools):
            self.registry.register(tool, "test")
        self.loop = EngineLoop(
            model=model or self.model,
            registry=self.registry,
            recorder=self.sink,
            rules=rules,
            system_prompt=lambda: "be good",
            clock=asyncio.get_running_loop().time,
            dice=dice,
        )

    async def run(self) -> RunOver:
        """Run to the end."""
        async with asyncio.timeout(STEP_LIMIT_S):
            return await self.loop.run()

    async def run_and_stop(self, when: str) -> RunOver:
        """Run, and stop it as the pod does once something was seen."""
        task = asyncio.create_task(self.loop.run())
        await self.sink.wait_for(when)
        task.cancel()
        async with asyncio.timeout(STEP_LIMIT_S):
            return await task
