"""What the end-to-end tests share: fleets, watched runs, bare connections, facts from /proc.

Everything here stands outside of the product: it sees what an operator, a foreign program or the
kernel sees. `Caller` speaks the wire by itself, so that a reply too many is seen as one.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from protocol import control as c
from protocol import events as ev
from protocol import methods as m
from protocol.base import Wire
from protocol.entries import Entry
from protocol.segments import Text
from protocol.status import Lane
from protocol.watch import Deliver, Gap, Synced
from protocol.wire import EventHeader, RequestHeader, message, unpack
from supervisor.client import AsyncClient, Client
from supervisor.paths import Paths
from supervisor.reach import new_id
from supervisor.watcher import Told
from tests.support.home import Home
from tests.support.waiting import eventually

FLEET = "e2e"
DEADLINE_S = 20.0


# -- fleets --------------------------------------------------------------------------------------


def fleet(*pods: str, supervisor: str = "") -> str:
    """Return a fleet file; each pod is the text of its table, beginning with its name."""
    head = f'[fleet]\nname = "{FLEET}"\n[supervisor]\n{supervisor}\n'
    return head + "".join(f"[[pod]]\nname = {pod}\n" for pod in pods)


def answers(*rows: str, script: str = "") -> str:
    """Return the model table of a scripted pod, to stand last in the pod's text."""
    tables = "".join(f"[[pod.model.answers]]\n{row}\n" for row in rows)
    return f'[pod.model]\nscheme = "scripted"\n{script}\n{tables}'


def bash(match: str, command: str, more: str = "") -> str:
    """Return an answer that runs a command."""
    call = f'{{ name = "Bash", arguments = {{ command = {json.dumps(command)} }} }}'
    return f"match = {json.dumps(match)}\nrepeat = true\ntool_calls = [{call}]\n{more}"


def start(home: Home, text: str, *args: str) -> None:
    """Write the fleet file and start the fleet; returns when its pods are idle."""
    home.write("podsup.toml", text)
    home.podsup("start", "-d", "--wait", "idle", *args)


def connect(home: Home) -> Client:
    """Connect to the fleet of a home."""
    return Client(FLEET, home=str(home.home))


def connected(home: Home) -> AsyncClient:
    """Connect to the fleet of a home, in a loop."""
    return AsyncClient.connect(FLEET, home=str(home.home))


def paths_of(home: Home) -> Paths:
    """Return where a home keeps its files."""
    return Paths.here(str(home.home))


def row(client: Client, pod: str) -> c.StatusRow:
    """Return what the supervisor knows of a pod now."""
    found: c.StatusRow = client.control(c.StatusOf(pod=pod))
    return found


def pid_of(client: Client, pod: str) -> int:
    """Return the pid of a pod that has a process."""
    pid = row(client, pod).pid
    assert pid is not None, f"{pod} has no process"
    return pid


def wait_status(client: Client, pod: str, *wanted: str) -> c.StatusRow:
    """Return the pod's row once its status is one of those."""

    def probe() -> c.StatusRow | None:
        found = row(client, pod)
        return found if found.status in wanted else None

    found = eventually(probe, f"{pod} is {' or '.join(wanted)}", DEADLINE_S)
    assert found is not None
    return found


def wait_reborn(client: Client, pod: str, earlier: int) -> int:
    """Return the pid of the process that came after `earlier`, once it is idle."""

    def probe() -> int | None:
        found = row(client, pod)
        return found.pid if found.status == "idle" and found.pid != earlier else None

    pid = eventually(probe, f"{pod} lives again", DEADLINE_S)
    assert pid is not None
    return pid


def why(client: Client, pod: str) -> str:
    """Return the whole chain of causes of a pod's state, a line each."""
    story: c.Story = client.control(c.Why(pod=pod))
    return "\n".join(f"{line.before} -> {line.after}: {line.why}" for line in story.lines)


def history(client: Client, pod: str) -> tuple[Entry, ...]:
    """Return the pod's committed entries."""
    found: m.History = client.send(pod, m.GetHistory(limit=10_000))
    return found.entries


def history_text(client: Client, pod: str) -> str:
    """Return the pod's committed entries as one text."""
    return json.dumps([entry.to_wire() for entry in history(client, pod)])


# -- runs ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seen:
    """One event as a watcher was told of it."""

    header: EventHeader
    event: ev.Event


def text_run(text: str) -> m.Run:
    """Return a run with this input."""
    return m.Run(input=(Text(content=text),))


class Watching:
    """Everything that one pod's lanes, or the fleet's, tell from a snapshot on."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._queue: asyncio.Queue[tuple[str, Told]] = asyncio.Queue()
        self.seen: list[Seen] = []
        self.gaps: list[Gap] = []

    async def pod(self, name: str, lanes: Iterable[Lane] = tuple(Lane)) -> Watching:
        """Begin with a pod."""
        await self._client.watch_pod(name, self._queue, lanes=lanes)
        return await self._synced()

    async def fleet(self) -> Watching:
        """Begin with the fleet."""
        await self._client.watch_fleet(self._queue)
        return await self._synced()

    async def until(self, wanted: Callable[[list[Seen]], object], what: str) -> list[Seen]:
        """Return what was seen, once it is what is wanted."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not wanted(self.seen):
                    self._take((await self._queue.get())[1])
        except TimeoutError:
            raise AssertionError(f"not in {DEADLINE_S} s: {what}; seen: {self.names()}") from None
        return self.seen

    def names(self) -> list[str]:
        """Return the names of the events seen, in order."""
        return [one.event.event for one in self.seen]

    async def _synced(self) -> Watching:
        async with asyncio.timeout(DEADLINE_S):
            while not isinstance((told := (await self._queue.get())[1]), Synced):
                self._take(told)
        return self

    def _take(self, told: Told) -> None:
        match told:
            case Deliver(header, event):
                self.seen.append(Seen(header, event))
            case Gap():
                self.gaps.append(told)


def run_is_over(request_id: str) -> Callable[[list[Seen]], bool]:
    """Say whether the `status` that follows the run's `run_end` was seen."""

    def is_over(seen: list[Seen]) -> bool:
        kinds = [
            "end"
            if isinstance(one.event, ev.RunEnd) and one.event.request_id == request_id
            else one.event.event
            for one in seen
        ]
        return "end" in kinds and "status" in kinds[kinds.index("end") :]

    return is_over


async def do_run(client: AsyncClient, pod: str, text: str) -> list[Seen]:
    """Submit a run; returns what the pod published up to its end and the status after it."""
    watching = await Watching(client).pod(pod)
    request_id = new_id()
    await client.request(pod, "run", text_run(text), request_id=request_id)
    return await watching.until(run_is_over(request_id), f"the end of {text!r}")


def run_to_end(home: Home, pod: str, text: str) -> ev.RunEnd:
    """Submit a run and return its `run_end`."""

    async def do() -> ev.RunEnd:
        async with connected(home) as client:
            seen = await do_run(client, pod, text)
        return [one.event for one in seen if isinstance(one.event, ev.RunEnd)][-1]

    return asyncio.run(do())


# -- the wire, without the product's client ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply as it came."""

    id: str
    ok: bool
    body: dict[str, Any]

    @property
    def code(self) -> str:
        """`ok`, or the error's code."""
        return "ok" if self.ok else str(self.body["code"])


class Caller:
    """One DEALER: sends what it is told to and keeps every reply, in order."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], home: Home, token: str) -> None:
        self._socket = context.socket(zmq.DEALER)
        self._socket.connect(f"ipc://{paths_of(home).control_socket(FLEET)}")
        self._token = token
        self.answers: list[Answer] = []

    def ask(
        self,
        to: str,
        method: str,
        body: Wire | None = None,
        *,
        request_id: str | None = None,
        deadline_ms: int | None = None,
    ) -> str:
        """Send a request and return its id."""
        header = RequestHeader(
            id=request_id or new_id(),
            to=to,
            method=method,
            deadline_ms=deadline_ms,
            token=self._token,
        )
        self.send_frames(message(header, {} if body is None else body))
        return header.id

    def send_frames(self, frames: list[bytes]) -> None:
        """Send frames as they are."""
        self._socket.send_multipart(frames)

    def wait(self, *ids: str) -> list[Answer]:
        """Return the first reply to each of these ids."""
        missing = set(ids) - {one.id for one in self.answers}
        end = time.monotonic() + DEADLINE_S
        while missing:
            left_ms = int((end - time.monotonic()) * 1000)
            assert left_ms > 0, f"{len(missing)} of {len(ids)} requests were not answered"
            if self._socket.poll(left_ms):
                header, body = self._socket.recv_multipart()
                fields = unpack(header)
                self.answers.append(Answer(fields["id"], fields["ok"], unpack(body) or {}))
                missing.discard(fields["id"])
        return [next(one for one in self.answers if one.id == wanted) for wanted in ids]

    def call(self, to: str, method: str, body: Wire | None = None, **more: Any) -> Answer:
        """Send a request and return its reply."""
        return self.wait(self.ask(to, method, body, **more))[0]

    def fence(self, *pods: str) -> None:
        """Return when all that was on its way has arrived: replies of one connection keep order."""
        self.wait(*(self.ask(to, "list_completions", _NOTHING) for to in pods))
        self.wait(self.ask("", "ping"))

    def of(self, request_id: str) -> list[Answer]:
        """Return every reply to this id so far."""
        return [one for one in self.answers if one.id == request_id]

    def close(self) -> None:
        """Leave at once."""
        self._socket.close(linger=0)


_NOTHING = m.ListCompletions(kind="knowledge")


@contextmanager
def callers(home: Home, count: int = 1, token: str | None = None) -> Iterator[list[Caller]]:
    """Open bare connections, as the operator or as whom the token says."""
    token = operator_token(home) if token is None else token
    with zmq.Context() as context:
        opened = [Caller(context, home, token) for _ in range(count)]
        try:
            yield opened
        finally:
            for caller in opened:
                caller.close()


def operator_token(home: Home) -> str:
    """Return the operator's token of the running fleet."""
    return (paths_of(home).fleet_runtime(FLEET) / "token").read_text()


def journal(home: Home, fleet_name: str = FLEET) -> list[dict[str, Any]]:
    """Return the journal's records."""
    lines = paths_of(home).journal(fleet_name).read_text().splitlines()
    return [json.loads(line) for line in lines]


def pod_token(home: Home, pod: str) -> str:
    """Return the token of the pod's latest incarnation, which nobody but the pod should have."""
    found = [one["token"] for one in journal(home) if one.get("pod") == pod and "token" in one]
    return str(found[-1])


def claims(home: Home) -> list[dict[str, Any]]:
    """Return the rows of the scope table as they are on disk."""
    table = json.loads((home.home / "scope/table.json").read_text())
    rows: list[dict[str, Any]] = table["allocations"]
    return rows


# -- the kernel's word ---------------------------------------------------------------------------


def stat_of(pid: int) -> tuple[str, int]:
    """Return (state letter, parent's pid); raises FileNotFoundError for a pid that is gone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], int(fields[1])


def is_alive(pid: int) -> bool:
    """Say whether the process exists and is no zombie."""
    try:
        return stat_of(pid)[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def below(pid: int) -> list[int]:
    """Return every live process below this one."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and is_alive(int(entry.name)):
            try:
                parents[int(entry.name)] = stat_of(int(entry.name))[1]
            except (FileNotFoundError, ProcessLookupError):
                continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def command_of(pid: int) -> str:
    """Return the command line; empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def running(home: Home, needle: str) -> list[int]:
    """Return the live processes of this home whose command line contains this text."""
    return [pid for pid, command in home.processes().items() if needle in command]
