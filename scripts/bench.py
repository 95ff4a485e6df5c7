"""Measure podsup: scripts/bench [NAME…] [--json]

Each benchmark is a program of its own in a throw-away home, bounded in time; nothing is left of it.
What is printed is the median over rounds of one run, with the least and the greatest, and whether
it meets its goal, which is one for a quiet machine with two cores. Times of two machines, or of two
runs, are hardly comparable; so a physical limit is measured beside ours where there is one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bench_cage
import bench_session
import zmq
from bench_fleet import (
    PATIENCE_S,
    PODSUP,
    Measure,
    Told,
    figure,
    fleet,
    percentile,
    pod_tables,
    podsup,
    spread,
    until,
    watching,
)

from protocol import control as c
from protocol import events as ev
from protocol.methods import ListCompletions, Run
from protocol.scope import Permission, Scope, ScopeRule
from protocol.segments import Text
from protocol.status import Lane
from protocol.watch import Deliver, Gap, Synced
from protocol.wire import RequestHeader, message
from supervisor import life_lock
from supervisor.client import AsyncClient
from supervisor.paths import Paths
from supervisor.scope_table import Claim, ScopeTable
from tests.support.leftovers import kill_all, processes_of, sockets_of

FOREIGN = ("PODSUP", "XDG_", "ANTHROPIC_", "OPENAI_")
Sock = zmq.Socket[bytes]


async def spawn_until_ready(number: int) -> float:
    """Spawn pods, all at once, in a running fleet; returns seconds until all are ready."""
    async with watching() as (client, queue):
        began = time.perf_counter()
        spawning = [
            asyncio.create_task(client.control(c.Spawn(table=_table(i)))) for i in range(number)
        ]
        waiting = number
        while waiting:
            _, told = await queue.get()
            waiting -= isinstance(told, Deliver) and isinstance(told.event, ev.PodReady)
        elapsed = time.perf_counter() - began
        await asyncio.gather(*spawning)
        return elapsed


def _table(number: int) -> dict[str, Any]:
    target = os.path.abspath(f"out/{number}")
    allow = [{"target": target, "permission": "write"}]
    return {"name": f"p{number:04}", "scope": {"allow": allow}}


# -- the benchmarks -------------------------------------------------------------------------------


def start() -> list[Measure]:
    """Fifty pods with a supervisor that is there, a hundred, and fifty from nothing."""
    warm, hundred, cold = [], [], []
    for _ in range(5):
        with fleet(""):
            warm.append(asyncio.run(spawn_until_ready(50)))
        with fleet(pod_tables(50)) as seconds:
            cold.append(seconds)
    for _ in range(3):
        with fleet(""):
            hundred.append(asyncio.run(spawn_until_ready(100)) / 100 * 1000)
    return [
        Measure("start of 50 pods, supervisor warm", "s", warm, at_most=0.25),
        Measure("start of 50 pods, from the command on", "s", cold, at_most=1.8),
        Measure("start of each of 100 pods", "ms", hundred, at_most=4),
    ]


def round_trip() -> list[Measure]:
    """One request to an idle pod and its reply; beside a bare relay that does nothing else."""
    figures: dict[str, list[float]] = {}
    with fleet(pod_tables(1)), relay() as bare, _dealer(_control_endpoint()) as ours:
        token = (Paths.here().fleet_runtime("bench") / "token").read_text()
        request = _requests("p0000", token)
        for _ in range(5):
            for name, socket in (("bare", bare), ("ours", ours)):
                took = sorted(_ping_pong(socket, request, 1000))
                figures.setdefault(f"{name} p50", []).append(took[500] * 1000)
                figures.setdefault(f"{name} p99", []).append(took[990] * 1000)
                figures.setdefault(f"{name} rate", []).append(_pipelined(socket, request, 10_000))
            took = asyncio.run(_library_calls("p0000", 500))
            figures.setdefault("library", []).append(percentile(took, 0.5) * 1000)
    ratio = [a / b for a, b in zip(figures["ours p50"], figures["bare p50"], strict=True)]
    return [
        Measure("round trip, a bare relay, p50", "ms", figures["bare p50"]),
        Measure("round trip, a bare relay, p99", "ms", figures["bare p99"]),
        Measure("round trip to a pod, p50 of 1000", "ms", figures["ours p50"]),
        Measure("round trip to a pod, p50 over the relay's", "x", ratio, at_most=1.4),
        Measure("round trip to a pod, p99", "ms", figures["ours p99"], at_most=1),
        Measure("round trip with supervisor.client, p50", "ms", figures["library"]),
        Measure("32 requests in flight, a bare relay", "/s", figures["bare rate"]),
        Measure("32 requests in flight, to one pod", "/s", figures["ours rate"], at_least=20_000),
    ]


def _control_endpoint() -> str:
    return f"ipc://{Paths.here().control_socket('bench')}"


def _requests(pod: str, token: str) -> Callable[[], list[bytes]]:
    numbers = itertools.count()
    method = ListCompletions(kind="knowledge")

    def request() -> list[bytes]:
        header = RequestHeader(id=f"r{next(numbers)}", to=pod, method=method.method, token=token)
        return message(header, method)

    return request


def _ping_pong(socket: Sock, request: Callable[[], list[bytes]], number: int) -> Iterator[float]:
    for _ in range(number):
        began = time.perf_counter()
        socket.send_multipart(request())
        socket.recv_multipart()
        yield time.perf_counter() - began


def _pipelined(socket: Sock, request: Callable[[], list[bytes]], number: int) -> float:
    began = time.perf_counter()
    for sent in range(number):
        socket.send_multipart(request())
        if sent >= 31:
            socket.recv_multipart()
    for _ in range(31):
        socket.recv_multipart()
    return number / (time.perf_counter() - began)


async def _library_calls(pod: str, number: int) -> list[float]:
    took = []
    async with AsyncClient.connect() as client:
        for _ in range(number):
            began = time.perf_counter()
            await client.send(pod, ListCompletions(kind="knowledge"))
            took.append(time.perf_counter() - began)
    return took


@contextmanager
def _dealer(endpoint: str) -> Iterator[Sock]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.RCVTIMEO, int(PATIENCE_S * 1000))
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(endpoint)
        yield socket


@contextmanager
def relay() -> Iterator[Sock]:
    """Have a relay and an echo, each a process of its own that does nothing else."""
    root = os.environ["BENCH_ROOT"]
    front, back = f"ipc://{root}/front.sock", f"ipc://{root}/back.sock"
    parts = [_part("relay", front, back), _part("echo", back)]
    try:
        with _dealer(front) as socket:
            deadline = time.monotonic() + PATIENCE_S
            while not list(_echoed(socket)):
                assert time.monotonic() < deadline, "the bare relay does not answer"
            yield socket
    finally:
        for part in parts:
            part.kill()
            part.communicate()
        for name in ("front", "back"):
            Path(root, f"{name}.sock").unlink(missing_ok=True)


def _echoed(socket: Sock) -> Iterator[list[bytes]]:
    socket.send_multipart([b"", b""])
    while socket.poll(100):
        yield socket.recv_multipart()


def _part(*args: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--part", *args]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def part_relay(front_at: str, back_at: str) -> None:
    """Hand on what comes at the front to whoever spoke first at the back, and its answers back."""
    with (
        zmq.Context() as context,
        context.socket(zmq.ROUTER) as front,
        context.socket(zmq.ROUTER) as back,
    ):
        back.bind(back_at)
        worker = back.recv_multipart()[0]
        front.bind(front_at)
        poller = zmq.Poller()
        poller.register(front, zmq.POLLIN)
        poller.register(back, zmq.POLLIN)
        while True:
            for socket, _ in poller.poll():
                if socket is front:
                    back.send_multipart([worker, *front.recv_multipart()])
                else:
                    front.send_multipart(back.recv_multipart()[1:])


def part_echo(back_at: str) -> None:
    """Answer everything with itself."""
    with _dealer(back_at) as socket:
        socket.setsockopt(zmq.RCVTIMEO, -1)
        socket.send(b"")
        while True:
            socket.send_multipart(socket.recv_multipart())


def deltas() -> list[Measure]:
    """Text as one watcher gets it, from a pod that streams as fast as it can."""
    size, chunk = 400_000, 16
    answer = f'[[pod.model.answers]]\nrepeat = true\nchunk = {chunk}\ntext = "{"x" * size}"\n'
    with fleet(pod_tables(1, answer)):
        rounds = [asyncio.run(_stream("p0000")) for _ in range(5)]
    assert all(got + lost >= size // chunk for _, got, lost in rounds), "a gap was not told"
    lost = sum(lost for _, _, lost in rounds)
    note = f"{lost} of {sum(got for _, got, _ in rounds) + lost} were lost, each told as a gap"
    return [
        Measure(
            "deltas to one watcher", "/s", [r for r, _, _ in rounds], at_least=150_000, note=note
        )
    ]


async def _stream(pod: str) -> tuple[float, int, int]:
    """Follow one run; returns deltas per second, and how many came and were told to be lost."""
    async with AsyncClient.connect() as client, asyncio.timeout(PATIENCE_S):
        queue: Told = asyncio.Queue()
        await client.watch_pod(pod, queue)
        while not isinstance((await queue.get())[1], Synced):
            pass
        await client.send(pod, Run(input=(Text(content="go"),)))
        got = lost = 0
        began = ended = time.perf_counter()
        while True:
            _, told = await queue.get()
            match told:
                case Deliver(event=ev.TextDelta()):
                    if not got:
                        began = time.perf_counter()
                    got += 1
                    ended = time.perf_counter()
                case Gap(lane=Lane.STREAM, first=first, last=last):
                    lost += last - first + 1
                case Deliver(event=ev.RunEnd()):
                    return (got + lost) / (ended - began), got, lost


def memory() -> list[Measure]:
    """What a hundred idle pods take, shared pages counted by share."""
    with fleet(pod_tables(100)):
        ps = asyncio.run(_ps())
        zygote = next(
            pid
            for pid in _children(ps.supervisor.pid)
            if b"zygote" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        pods = [_pss_mb(pod.pid) for pod in ps.pods if pod.pid is not None]
        return [
            Measure("PSS of a pod, 100 pods", "MB", pods, at_most=6),
            Measure(
                "PSS of the supervisor, 100 pods", "MB", [_pss_mb(ps.supervisor.pid)], at_most=45
            ),
            Measure("PSS of the zygote, 100 pods", "MB", [_pss_mb(zygote)]),
        ]


async def _ps() -> c.Ps:
    async with AsyncClient.connect() as client:
        ps: c.Ps = await client.control(c.ListFleet())
        return ps


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def _pss_mb(pid: int) -> float:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(rollup.partition("\nPss:")[2].split()[0]) / 1000


def crash() -> list[Measure]:
    """SIGKILL to each of a hundred pods with a session, one after the other."""
    with fleet(pod_tables(100, 'task = "Say something."')):
        podsup("wait", *(f"p{i:04}" for i in range(100)))
        noticed, ready = asyncio.run(_kill_each())
    return [
        *spread("kill -9 to the exit told", noticed, None, 100),
        *spread("kill -9 to the replacement ready", ready, 15, 40),
    ]


async def _kill_each() -> tuple[list[float], list[float]]:
    noticed, ready = [], []
    async with watching() as (client, queue):
        ps: c.Ps = await client.control(c.ListFleet())
        for pod in ps.pods:
            await asyncio.sleep(0.02)  # the pod before has left something to write
            assert pod.pid is not None
            began = time.perf_counter()
            os.kill(pod.pid, signal.SIGKILL)
            noticed.append(await until(queue, pod.name, ev.PodExited) - began)
            ready.append(await until(queue, pod.name, ev.PodReady) - began)
    return noticed, ready


def ps() -> list[Measure]:
    """A whole `podsup ps`, from exec to exit."""
    with fleet(pod_tables(3)):
        took = [_time_of([str(PODSUP), "ps"]) for _ in range(20)]
    bare = [_time_of([sys.executable, "-S", "-c", "pass"]) for _ in range(20)]
    return [
        Measure("an interpreter that does nothing", "ms", bare),
        Measure("podsup ps", "ms", took, at_most=150),
    ]


def _time_of(command: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    return (time.perf_counter() - began) * 1000


def scope() -> list[Measure]:
    """Granting and releasing among so many claims: alone, and eight supervisors at once."""
    return [measure for number in (10, 100, 500) for measure in _scope_among(number)]


def _scope_among(number: int) -> list[Measure]:
    folder = Path(os.environ["BENCH_ROOT"], f"scope-{number}")
    table = ScopeTable(folder, "/holders", "bench")
    held = [_take(table, f"p{i}") for i in range(number)]
    table.register_many([_claim(f"p{i}", "/holders") for i in range(number)])
    alone = _grants(folder, "alone", 200)
    parts = [_part("scope", str(folder), f"c{i}", "60") for i in range(8)]
    for part in parts:
        assert part.stdout
        part.stdout.readline()  # it is there: none begins before all are
    for part in parts:
        assert part.stdin
        part.stdin.write("go\n")
        part.stdin.flush()
    contended = [tuple(pair) for part in parts for pair in json.loads(part.communicate()[0])]
    for fd in held:
        os.close(fd)
    grants, releases = zip(*alone, strict=True)
    contended_grants, contended_releases = zip(*contended, strict=True)
    return [
        *spread(f"scope grant, {number} there, alone", grants, 3, None),
        *spread(f"scope release, {number} there, alone", releases, 3, None),
        *spread(f"scope grant, {number} there, 8 at once", contended_grants, None, 60),
        *spread(f"scope release, {number} there, 8 at once", contended_releases, None, 60),
    ]


def part_scope(folder: str, home: str, number: str) -> None:
    """Be one of several supervisors: say so, wait for the word, print the times."""
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(_grants(Path(folder), home, int(number))))


def _grants(folder: Path, home: str, number: int) -> list[tuple[float, float]]:
    """Grant and release one claim after another; returns the seconds of each."""
    table = ScopeTable(folder, f"/{home}", home)
    took = []
    for i in range(number):
        fd = _take(table, f"p{i}")
        began = time.perf_counter()
        table.register(_claim(f"p{i}", f"/{home}"))
        granted = time.perf_counter()
        os.close(fd)
        closed = time.perf_counter()
        table.release(f"p{i}", "token")
        took.append((granted - began, time.perf_counter() - closed))
    return took


def _take(table: ScopeTable, pod: str) -> int:
    return life_lock.take(table.life_lock(pod, 1))


def _claim(pod: str, home: str) -> Claim:
    rule = ScopeRule(target=f"{home}/{pod}", permission=Permission.WRITE)
    return Claim(pod, 1, "token", Scope(allow=(rule,)))


def child() -> list[Measure]:
    """A child of a running pod: from the asking until it has its task; and until it is gone."""
    parent = (
        'name = "boss"\nscope = { allow = [{ target = "out", permission = "write" }] }\n'
        'delegation_scope = { allow = [{ target = "out", permission = "write" }] }\n'
    )
    with fleet(f"[[pod]]\n{parent}"):
        spawned, stopped = asyncio.run(_children_of_one(40))
    return [
        *spread("child spawned, until it has its task", spawned, None, None),
        *spread("child stopped, until its scope is back", stopped, None, None),
    ]


async def _children_of_one(number: int) -> tuple[list[float], list[float]]:
    spawned, stopped = [], []
    async with AsyncClient.connect() as client:
        for i in range(number):
            rule = {"target": f"out/{i}", "permission": "write"}
            table = {"name": f"kid{i}", "task": "hello", "scope": {"allow": [rule]}}
            began = time.perf_counter()
            await client.operate(c.Spawn(table=table, parent="boss"))
            spawned.append(time.perf_counter() - began)
            began = time.perf_counter()
            await client.operate(c.Stop(pods=(f"kid{i}",)))
            stopped.append(time.perf_counter() - began)
    return spawned, stopped


BENCHMARKS: dict[str, tuple[Callable[[], list[Measure]], float]] = {
    "start": (start, 90),
    "round_trip": (round_trip, 45),
    "deltas": (deltas, 45),
    "memory": (memory, 30),
    "crash": (crash, 45),
    "ps": (ps, 30),
    "scope": (scope, 90),
    "child": (child, 60),
    "log": (bench_session.log, 60),
    "restore": (bench_session.restore, 60),
    "run": (bench_session.run, 30),
    "attach": (bench_session.attach, 60),
    "cage": (bench_cage.cage, 60),
}
"""Each benchmark, and how many seconds it may take."""

PARTS: dict[str, Callable[..., None]] = {
    "relay": part_relay,
    "echo": part_echo,
    "scope": part_scope,
}


# -- running them ---------------------------------------------------------------------------------


def measured(name: str) -> list[Measure]:
    """Run one benchmark in its own process and home; raises RuntimeError saying what went wrong."""
    root = Path(tempfile.mkdtemp(prefix="psb", dir="/tmp"))
    env = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    command = [sys.executable, __file__, "--one", name]
    try:
        done = subprocess.run(
            command,
            env=env | {"BENCH_ROOT": str(root)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=BENCHMARKS[name][1],
            cwd=root,
        )
        if done.returncode:
            raise RuntimeError(f"{name} failed with exit code {done.returncode}")
        if left := [*processes_of(root).values(), *(str(path) for path in sockets_of(root))]:
            raise RuntimeError(f"{name} left {left}")
        return [Measure(**fields) for fields in json.loads(done.stdout)]
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{name} took longer than {BENCHMARKS[name][1]:g} s") from None
    finally:
        kill_all(root)
        shutil.rmtree(root, ignore_errors=True)


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "cpus": os.cpu_count(),
        "load": _load(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "pyzmq": zmq.__version__,
    }


def _load() -> float:
    return round(os.getloadavg()[0], 2)


def show(measure: Measure) -> None:
    """Print one line of the table."""
    low, high = min(measure.rounds), max(measure.rounds)
    extent = f"[{figure(low)} – {figure(high)}]" if len(measure.rounds) > 1 else ""
    value = f"{figure(measure.median)} {measure.unit}"
    print(f"{measure.name:<45} {value:>12}  {extent:<21} {measure.goal}".rstrip(), flush=True)
    if measure.note:
        print(f"  {measure.note}")


def main() -> int:
    """Run the benchmarks that are named, or all; returns the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure podsup.")
    parser.add_argument("name", nargs="*", help=", ".join(BENCHMARKS))
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.name) - BENCHMARKS.keys()):
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    about, results, failures = machine(), [], []
    if not asked.json:
        print("  ".join(f"{key} {value}" for key, value in about.items()))
    for name in asked.name or BENCHMARKS:
        try:
            found = measured(name)
        except RuntimeError as error:
            failures.append(str(error))
            print(f"scripts/bench: {error}", file=sys.stderr)
            continue
        results += found
        if not asked.json:
            for measure in found:
                show(measure)
    about["load_at_the_end"] = _load()
    if not asked.json:
        print(f"load {about['load_at_the_end']} at the end")
    else:
        rows = [asdict(m) | {"median": m.median, "goal": m.goal} for m in results]
        print(json.dumps({"schema": 1, "machine": about, "results": rows, "failures": failures}))
    return bool(failures)


def run_one(name: str) -> None:
    """Be the process of one benchmark: prints its measures as JSON."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(json.dumps([asdict(measure) for measure in BENCHMARKS[name][0]()]))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--one", name]:
            run_one(name)
        case ["--part", part, *args]:
            with contextlib.suppress(KeyboardInterrupt):
                PARTS[part](*args)
        case _:
            try:
                sys.exit(main())
            except KeyboardInterrupt:
                sys.exit(130)
