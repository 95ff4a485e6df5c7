"""A whole pod with real files, on a wire in memory, below a supervisor that plays its part."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from podproc.models.base import Model
from podproc.pod import Pod, PostRunJob
from protocol import methods as m
from protocol.base import Accepted, Wire
from protocol.birth import Birth
from protocol.control import Welcome
from protocol.errors import PodsupError
from protocol.manifest import Compaction, Engine, PodManifest, Retry
from protocol.manifest import Model as ModelTable
from protocol.scope import Permission, Scope, ScopeRule
from protocol.segments import Text
from protocol.session.line import decode_line
from protocol.transport import OnFrames
from protocol.transport.memory import MemoryNet, MemoryTransport
from protocol.wire import ForwardHeader, ReplyHeader, WhoHeader, message, read_body, unpack

T = TypeVar("T")

CONTROL, EVENTS = "mem://control", "mem://alice"
SESSION, SEGMENT = "0196b1b0-0000-7000-8000-00000000000a", "0196b1b0-0000-7000-8000-00000000000b"
LIMIT_S = 5.0
RULES = Engine(retry=Retry(base_s=0.001, cap_s=0.002))


@dataclass(frozen=True)
class Sent:
    """One message on the wire: in words, and what it carried."""

    what: str
    id: str
    body: dict[str, Any]


Answer = Callable[[Sent], Wire | PodsupError | None]
"""What a request of the pod's own is answered; None: nothing at all."""


def accept(asked: Sent) -> Wire | PodsupError | None:
    """Answer that it was taken."""
    return Accepted()


class LiveNet(MemoryNet):
    """Hands messages on by itself in the next step of the loop, and keeps them in order."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Sent] = []
        self.on_sent: Callable[[Sent], None] = lambda sent: None
        self.news = asyncio.Event()
        self._is_due = False

    def box(self, deliver: OnFrames, room: int) -> Any:
        """Make a queue that empties itself."""
        made = super().box(deliver, room)
        put = made.put

        def put_and_hand_on(frames: Sequence[bytes]) -> None:
            put(frames)
            if not self._is_due:
                self._is_due = True
                asyncio.get_running_loop().call_soon(self._hand_on)
            if (sent := _read(list(frames))) is not None:
                self.sent.append(sent)
                self.on_sent(sent)
                self.news.set()

        made.put = put_and_hand_on  # type: ignore[method-assign]
        return made

    def _hand_on(self) -> None:
        self._is_due = False
        self.pump()


def _read(frames: list[bytes]) -> Sent | None:
    """Return what a message of the pod says; None for others."""
    if len(frames) != 3:
        return None
    header, body = unpack(frames[1]), read_body(frames[2]) or {}
    match header:
        case {"type": "request", "method": what, "id": key}:
            return Sent(str(what), str(key), body)
        case {"type": "reply", "ok": ok, "id": key}:
            return Sent("reply ok" if ok else f"reply {body['code']}", str(key), body)
        case {"type": _}:
            return None
    name = frames[0].decode().split("/")[2] if frames[0].count(b"/") == 2 else "snapshot"
    match body:
        case {"result": result} if name == "run_end":
            name = f"run_end {result}"
        case {"status": status} if name == "status":
            name = f"status {status}"
        case {"entry": entry} if name == "entry":
            name = f"entry {entry['kind']}"
    return Sent(name, "", body)


@dataclass
class Home:
    """Where one pod lives: what stays when its process ends. `copy` is what a crash would leave.

    `named` is the segment that the supervisor's record of the pod names.
    """

    root: Path
    engine: Engine = RULES
    model: ModelTable = field(default_factory=ModelTable)
    compaction: Compaction = field(default_factory=Compaction)
    parent: str | None = None
    stop_grace_s: float = 5.0
    named: str = SEGMENT

    def __post_init__(self) -> None:
        self.work.mkdir(exist_ok=True, parents=True)

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def log(self) -> Path:
        return self.data / "sessions" / SESSION / f"{SEGMENT}.jsonl"

    @property
    def inbox(self) -> Path:
        return self.data / "pods" / "alice" / "inbox.jsonl"

    @property
    def segments(self) -> list[Path]:
        """The logs of the session's segments, oldest first."""
        return sorted(self.log.parent.glob("*.jsonl"))

    def entries(self, log: Path | None = None) -> list[dict[str, Any]]:
        """A log as it is on disk; the newest."""
        return [decode_line(line) for line in (log or self.segments[-1]).read_bytes().splitlines()]

    def kinds(self) -> list[str]:
        """The kinds of its entries."""
        return [entry["kind"] for entry in self.entries()]

    def copy(self, name: str) -> Home:
        """Copy all that is on disk at this moment."""
        other = Home(self.root / name, self.engine, self.model, self.compaction, self.parent)
        other.named = self.named
        shutil.copytree(self.data, other.data)
        return other

    def birth(self, incarnation: int) -> Birth:
        """Return what its next process is told."""
        manifest = PodManifest(
            name="alice",
            fleet="test",
            workspace=str(self.work),
            cwd=str(self.work),
            model=self.model,
            engine=self.engine,
            compaction=self.compaction,
            stop_grace_s=self.stop_grace_s,
            scope=Scope(allow=(ScopeRule(target=str(self.work), permission=Permission.WRITE),)),
        )
        return Birth(
            manifest=manifest,
            pod_id="p1",
            incarnation=incarnation,
            token="secret",
            cookie="cookie",
            control_endpoint=CONTROL,
            events_endpoint=EVENTS,
            data_dir=str(self.data),
            product_dirs=(str(self.data),),
            session_id=SESSION,
            segment_id=self.named,
            parent=self.parent,
        )


class Life:
    """One incarnation, as its supervisor sees it; `answers` are for what the pod asks, by method.

    Its reports are the requests `pod_event`; they are taken unless told otherwise.
    """

    def __init__(
        self,
        home: Home,
        *,
        incarnation: int = 1,
        model: Model | None = None,
        jobs: tuple[PostRunJob, ...] = (),
        welcomes: bool = True,
        answers: Mapping[str, Answer] = {},
    ) -> None:
        self.home = home
        self.answers: dict[str, Answer] = {"pod_event": accept, **answers}
        self.net = LiveNet()
        self.welcomes = welcomes
        self.with_welcome: Callable[[], object] = lambda: None
        self.claims: list[str] = []
        self.on_claim: Callable[[str], PodsupError | None] = lambda segment_id: None
        self._transport = MemoryTransport(self.net)
        self._route = b""
        self._ids = count(1)
        self._incarnation = incarnation
        self._router = self._transport.router(CONTROL, self._on_message)
        lanes = self._transport.subscriber(lambda frames: None)
        lanes.connect(EVENTS)
        for topic in (b"log/", b"stream/", b"state/"):
            lanes.subscribe(topic)
        self.pod = Pod(home.birth(incarnation), self._transport, model=model, post_run_jobs=jobs)
        self.task = asyncio.create_task(self.pod.live())

    def _on_message(self, route: bytes, frames: list[bytes]) -> None:
        self._route = route
        header = unpack(frames[0])
        if header.get("method") == "hello" and self.welcomes:
            reply = message(ReplyHeader(id=header["id"], ok=True), Welcome())
            self._router.send(route, reply)
            self.with_welcome()
        if header.get("method") == "claim_segment":
            self._on_claim(route, header["id"], (read_body(frames[1]) or {})["segment_id"])
        if (answer := self.answers.get(header.get("method", ""))) is not None:
            asked = Sent(header["method"], header["id"], read_body(frames[1]) or {})
            if (said := answer(asked)) is not None:
                self.reply_to(asked, said)

    def reply_to(self, asked: Sent, said: Wire | PodsupError) -> None:
        """Answer what the pod asked."""
        is_error = isinstance(said, PodsupError)
        body = said.to_body() if isinstance(said, PodsupError) else said
        self._router.send(self._route, message(ReplyHeader(id=asked.id, ok=not is_error), body))

    def _on_claim(self, route: bytes, request_id: str, segment_id: str) -> None:
        if (refusal := self.on_claim(segment_id)) is None:
            self.claims.append(segment_id)
            self.home.named = segment_id
            self._router.send(route, message(ReplyHeader(id=request_id, ok=True), Accepted()))
        else:
            self._router.send(
                route, message(ReplyHeader(id=request_id, ok=False), refusal.to_body())
            )

    def post(self, method: m.Method, request_id: str = "", sender: str = "operator") -> str:
        """Send a request and return its id."""
        key = request_id or f"r{self._incarnation}-{next(self._ids)}"
        header = ForwardHeader(id=key, sender=sender, method=method.method)
        self._router.send(self._route, message(header, method))
        return key

    def ask_who(self) -> None:
        """Have the pod say hello again."""
        self._router.send(self._route, message(WhoHeader()))

    async def ask(self, method: m.Method, request_id: str = "", **settings: Any) -> Sent:
        """Send a request and return its next reply."""
        before = len(self.net.sent)
        key = self.post(method, request_id, **settings)
        return await self.wait_for(
            lambda: next(
                (
                    one
                    for one in self.net.sent[before:]
                    if one.id == key and one.what.startswith("reply")
                ),
                None,
            ),
            f"a reply to {method.method}",
        )

    async def run(self, text: str = "hi", request_id: str = "") -> Sent:
        """Send a run and return its `run_end`, once the status behind it came."""
        before = self.told("run_end")
        assert (await self.ask(say(text), request_id)).what == "reply ok"
        return (await self.ends(len(before) + 1))[-1]

    async def ends(self, number: int) -> list[Sent]:
        """Return the `run_end`s once there are so many, and a status behind the last."""

        def are_there() -> list[Sent] | None:
            ends = self.told("run_end")
            words = self.words("run_end", "status")
            return ends if len(ends) >= number and words[-1].startswith("status") else None

        return await self.wait_for(are_there, f"{number} runs ended")

    async def see(self, what: str, times: int = 1) -> Sent:
        """Return once this was sent so often."""
        return (
            await self.wait_for(
                lambda: (
                    (found := [s for s in self.net.sent if s.what == what])[times - 1 :] and found
                ),
                f"{times} times {what}",
            )
        )[times - 1]

    def upward(self) -> list[tuple[str, str]]:
        """Return each report's id and how the run ended, or the code of its error."""
        return [
            (one.body["event_id"], one.body["event"].get("result") or one.body["event"]["code"])
            for one in self.told("pod_event")
        ]

    async def tells(self, number: int) -> list[tuple[str, str]]:
        """Return the reports once there are so many."""
        await self.see("pod_event", number)
        return self.upward()

    async def wait_for(self, probe: Callable[[], T | None], what: str) -> T:
        """Return the first truthy value; looks after each message, with a deadline."""
        try:
            async with asyncio.timeout(LIMIT_S):
                while not (value := probe()):
                    self.net.news.clear()
                    await self.net.news.wait()
                return value
        except TimeoutError:
            raise AssertionError(f"not seen: {what}; but {self.words()}") from None

    def told(self, *names: str) -> list[Sent]:
        """Return what was sent of these kinds."""
        return [one for one in self.net.sent if one.what.split()[0] in names]

    def words(self, *names: str) -> list[str]:
        """Return in words what was sent, of these kinds or of all, in order."""
        return [one.what for one in self.net.sent if not names or one.what.split()[0] in names]

    async def end(self) -> int:
        """Have it leave; return its exit code."""
        if not self.task.done():
            self.pod.leave()
        try:
            async with asyncio.timeout(LIMIT_S):
                return await self.task
        except BaseException:
            self.pod._record.close()  # the test has failed: let it not be for what it left open
            raise
        finally:
            self._transport.close()


@contextlib.asynccontextmanager
async def alive(home: Home, **settings: Any) -> AsyncIterator[Life]:
    """Have a pod live until the block ends; it is ready when the block begins."""
    life = Life(home, **settings)
    try:
        if life.welcomes:
            await life.wait_for(lambda: life.told("status"), "the first status")
        yield life
    finally:
        life.welcomes = True
        life.net.on_sent = lambda sent: None
        assert await life.end() == 0


def say(text: str) -> m.Run:
    """Return a `run`."""
    return m.Run(input=(Text(content=text),))


def drive(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of its own."""
    return asyncio.run(work)
