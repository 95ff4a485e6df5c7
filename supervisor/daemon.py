"""The shell of one supervisor.

Sockets and signals to stimuli, timers, and the carrying out of instructions.

One loop decides; the disk has one thread of its own, in order, so that nothing that waits for a
disk or a lock ever stops the loop. What the fleet core and the broker return is carried out here
and nowhere else:

    frames ─► Broker ─► control, hello, beat, reply ─► Fleet.handle ─► fork, signal, release,
    publish …

A signal handler only enqueues. The order of a start is: life lock, intent, scope row (`starting`),
fork, hello, adopt; of an end: exit seen, tree proven gone, claim released.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from protocol import control as c
from protocol import events as ev
from protocol.base import Wire
from protocol.calls import OPERATOR
from protocol.errors import Conflict, Internal, InvalidRequest, PodsupError
from protocol.manifest import PodManifest, unavailable
from protocol.methods import Run, ShutdownMethod
from protocol.segments import Text
from protocol.status import Lane
from protocol.transport import Unroutable, WouldBlock
from protocol.transport.zeromq import ZmqTransport
from protocol.watch import Deliver, Gap, Watch
from protocol.wire import pack
from supervisor import broker as b
from supervisor import life_lock
from supervisor.boot import Boot, Up, clean_environment
from supervisor.core import fleet as f
from supervisor.core import instructions as li
from supervisor.core import stimuli as s
from supervisor.core.allocations import Adoption
from supervisor.core.fleet_record import (
    ControlDone,
    Deleted,
    Desired,
    Exited,
    FleetDown,
    FleetStarted,
    Forked,
)
from supervisor.core.health import HealthLimits
from supervisor.core.life import LifePolicy
from supervisor.fleet_events import FleetEvents
from supervisor.fleet_file import FleetFileInvalid, resolve_pod
from supervisor.identity import identity_of
from supervisor.journal import Journal, refuse_foreign
from supervisor.logs import log_files, tail
from supervisor.paths import Paths, make_private_dir
from supervisor.pod_store import PodMetadata, PodStore
from supervisor.pod_store import refuse_foreign as refuse_foreign_pod
from supervisor.processes import ExitStatus, Processes, ZygoteDied
from supervisor.recovery import end_recorded, release_claims, remove_sockets
from supervisor.scope_table import ScopeTable
from supervisor.starting import Prepared, Starter, Wanted
from supervisor.version import VERSION
from supervisor.watcher import Told, Watcher

TICK_S = 1.0
TASK_REQUEST = "task"
TASK_DEADLINE_S = 30.0
T = TypeVar("T")


def say(text: str) -> None:
    """Write a line to the supervisor's own log."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    print(f"{stamp}Z {text}", file=sys.stderr, flush=True)


class Daemon:
    """One supervisor of one fleet, from its lock to its end."""

    def __init__(self, boot: Boot, paths: Paths) -> None:
        self._boot = boot
        self._paths = paths
        self._loop = asyncio.get_running_loop()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="disk")
        self._tasks: set[asyncio.Task[Any]] = set()
        self._begun_at = time.monotonic()
        self._tick_s = min(TICK_S, boot.supervisor.beat_interval_s)
        self._last_tick = time.monotonic()
        self._lag_s = 0.0
        self._prepared: dict[str, Prepared] = {}
        self._to_fork: dict[str, int] = {}
        self._hellos: list[b.HelloAsked] = []
        self._wakes: dict[str, asyncio.TimerHandle] = {}
        self._watches: dict[str, Watcher] = {}
        self._pids: dict[int, str] = {}
        self._answers: dict[tuple[str, str], bytes] = {}
        self._expiry: asyncio.TimerHandle | None = None
        self._spawning: set[str] = set()
        self._warned: dict[str, float] = {}
        self._done: asyncio.Future[int] = self._loop.create_future()

    # -- from nothing to serving
    # --------------------------------------------------------------------

    async def start(self) -> None:
        """Take the fleet: lock, journal, what a dead supervisor left, sockets.

        Raises PodsupError.
        """
        boot, paths = self._boot, self._paths
        self._lock_fd = await self._on_disk(self._take_instance_lock)
        self._journal = await self._on_disk(
            Journal, paths.data / "fleets" / boot.fleet / "journal.jsonl"
        )
        for alert in self._journal.alerts:
            say(f"alert: {alert}")
        record = self._journal.record
        if not boot.fresh:
            refuse_foreign(record, boot.workspace)
        self._store = PodStore(paths.data)
        self._table = await self._on_disk(
            ScopeTable, paths.scope_dir, str(paths.home), f"{boot.fleet}:{os.getpid()}"
        )
        runtime = paths.fleet_runtime(boot.fleet)
        await self._on_disk(make_private_dir, paths.runtime)
        await self._on_disk(make_private_dir, runtime)
        await self._on_disk(self._end_what_was_left)
        epoch = record.epoch + 1
        self._fleet = f.Fleet(boot.fleet, epoch)
        for done in record.controls.values():
            body = c.Started.from_wire(done.reply)
            self._fleet.remember(OPERATOR, done.id, body, time.monotonic())
        await self._on_disk(self._load_pods)
        self._starter = Starter(paths, self._journal, self._table, self._store)
        self._processes = Processes(
            on_exit=self._on_exit, environment=clean_environment(os.environ), log=say
        )
        zygote = self._spawn(self._processes.start_zygote())
        self._broker = b.Broker(self._presence)
        token = secrets.token_urlsafe(24)
        self._broker.trust_operator(token)
        await self._on_disk(_write_private, runtime / "token", token)
        self._transport = ZmqTransport(self._loop)
        self._router = self._transport.router(
            f"ipc://{paths.control_socket(boot.fleet)}", self._on_frames
        )
        self._events = FleetEvents(
            self._transport,
            f"ipc://{paths.events_socket(boot.fleet)}",
            epoch=epoch,
            snapshot=self._fleet.snapshot,
        )
        identity = identity_of(os.getpid())
        assert identity is not None
        await self._on_disk(
            self._journal.append,
            FleetStarted(
                fleet=boot.fleet, workspace=boot.workspace, supervisor=identity, epoch=epoch
            ),
        )
        await zygote

    def begin(self) -> None:
        """Start the pods, as the operation that the command waits for."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal, signal.Signals(number).name)
        self._loop.call_later(self._tick_s, self._tick)
        kind = "start idle" if self._boot.wait == "idle" else "start"
        wanted = [n for n, m in self._fleet.members.items() if m.life.desired == "down"]
        wanted = [n for n in wanted if n not in self._left_down]
        self._feed(f.Begun(self._boot.operation, kind, tuple(wanted)))

    async def until_done(self) -> int:
        """Serve until the fleet has ended; returns its exit code."""
        return await self._done

    def _take_instance_lock(self) -> int:
        folder = make_private_dir(self._paths.data) / "fleets"
        folder.mkdir(mode=0o700, exist_ok=True)
        path = make_private_dir(folder / self._boot.fleet) / "lock"
        try:
            fd = life_lock.take(path)
        except Conflict:
            pid = path.read_text().strip() or "unknown"
            raise Conflict(
                f"fleet {self._boot.fleet} has a supervisor already (pid {pid})",
                next_step=f"podsup --fleet {self._boot.fleet} ps, or down",
                pid=int(pid) if pid.isdigit() else None,
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return fd

    def _end_what_was_left(self) -> None:
        record = self._journal.record
        ended = end_recorded(record.pods.values(), grace_s=5.0)
        if ended:
            say("ended after an earlier supervisor: " + ", ".join(e.pod for e in ended))
            self._journal.append(*ended)
        for refused in release_claims(self._table, record.pods.values()):
            say(f"alert: a claim was not released: {refused}")
        remove_sockets(self._paths.fleet_runtime(self._boot.fleet))

    def _load_pods(self) -> None:
        """Add the file's pods, and those that were spawned into this fleet before."""
        boot, store = self._boot, self._store
        self._left_down: set[str] = set()
        named = {manifest.name for manifest in boot.pods}
        for manifest in boot.pods:
            if boot.fresh:
                store.file_away(manifest.name)
            known = store.load(manifest.name)
            if known is not None:
                refuse_foreign_pod(known, fleet=boot.fleet, workspace=boot.workspace)
            self._add(manifest, known)
        for name in store.names():
            if name in named or (known := store.load(name)) is None:
                continue
            if (known.fleet, known.workspace) != (boot.fleet, boot.workspace):
                continue
            if boot.fresh:
                store.file_away(name)
                continue
            self._add(PodManifest.from_wire(known.manifest), known)
            if known.desired == "down":
                self._left_down.add(name)

    def _add(self, manifest: PodManifest, known: PodMetadata | None) -> None:
        recorded = self._journal.record.pods.get(manifest.name)
        incarnation = max(
            known.incarnation if known else 0, recorded.incarnation if recorded else 0
        )
        table = self._boot.supervisor
        self._fleet.add(
            manifest,
            policy=LifePolicy(
                restart=manifest.restart,
                success_codes=manifest.success_codes,
                grace_s=manifest.stop_grace_s,
                jitter=random.random(),
            ),
            limits=HealthLimits(
                beat_interval_s=manifest.beat_interval_s,
                unreachable_after_s=table.unreachable_after_s,
                hang_timeout_s=manifest.hang_timeout_s,
                stall_timeout_s=manifest.stall_timeout_s,
            ),
            incarnation=incarnation,
            tasked=known.tasked if known else False,
        )

    # -- stimuli
    # ------------------------------------------------------------------------------------

    def _feed(self, stimulus: f.Stimulus) -> None:
        self._do(self._fleet.handle(stimulus, time.monotonic(), _wall_ms()))

    def _on_signal(self, name: str) -> None:
        say(f"{name}: ending the fleet")
        self._feed(f.EndAsked(name))

    def _tick(self) -> None:
        """Silence counts in awake time, and only after every message that had come was taken."""
        self._router.drain()
        for watch in list(self._watches.values()):
            watch.drain()
            watch.tick()
        now = time.monotonic()
        elapsed, self._last_tick = now - self._last_tick, now
        self._lag_s = max(0.0, elapsed - self._tick_s)
        self._events.tick()
        self._feed(f.Ticked(elapsed, self._tick_s))
        if not self._done.done():
            self._loop.call_later(self._tick_s, self._tick)

    def _on_frames(self, route: bytes, frames: list[bytes]) -> None:
        before = self._broker.counts["garbage"]
        self._out(self._broker.on_frames(route, frames, time.monotonic()))
        if self._broker.counts["garbage"] != before:
            self._say_rarely(
                "garbage", f"garbage: {self._broker.counts['garbage']} messages so far"
            )

    def _say_rarely(self, what: str, text: str) -> None:
        now = time.monotonic()
        if now - self._warned.get(what, -60.0) >= 60.0:
            self._warned[what] = now
            say(f"alert: {text}")

    def _out(self, outs: list[b.Out]) -> None:
        for out in outs:
            match out:
                case b.Send():
                    self._send(out)
                case b.ControlAsked():
                    self._on_control(out)
                case b.HelloAsked():
                    self._on_hello(out)
                case b.StrangerSaidHello(pod, pid):
                    self._say_rarely(
                        f"stranger {pid}", f"a stranger says it is pod {pod}: pid {pid}, left alone"
                    )
                case b.BeatSeen(sender, header):
                    if header.incarnation == sender.incarnation:
                        self._feed(
                            f.Beat(
                                sender.name,
                                sender.incarnation,
                                header.seq,
                                header.status,
                                header.progress,
                                header.seqs.get(Lane.STATE, 0),
                            )
                        )
                case b.ReplySeen(sender, reply):
                    if reply.status is not None and reply.seq is not None:
                        self._feed(
                            f.StatusHeard(sender.name, sender.incarnation, reply.status, reply.seq)
                        )
                case b.OwnAnswered(pod, request_id, error):
                    if request_id == TASK_REQUEST:
                        self._feed(f.TaskAnswered(pod, str(error) if error else None))
        self._schedule_expiry()

    def _send(self, send: b.Send) -> None:
        try:
            self._router.send(send.route, send.frames)
        except (Unroutable, WouldBlock):
            if send.call is not None:
                self._out(self._broker.undeliverable(send.call))

    def _schedule_expiry(self) -> None:
        if self._expiry is None and (at := self._broker.relay.next_deadline()) is not None:
            self._expiry = self._loop.call_at(at, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        self._out(self._broker.expire(time.monotonic()))

    def _presence(self, name: str) -> tuple[int, bool]:
        member = self._fleet.member(name)
        return member.life.incarnation, member.is_ready

    # -- controls
    # -----------------------------------------------------------------------------------

    def _on_control(self, asked: b.ControlAsked) -> None:
        reply = partial(self._reply, asked)
        match asked.control:
            case c.ListFleet():
                reply(self._ps())
            case c.Ping():
                reply(self._pong())
            case c.EventsEndpoint():
                reply(c.EndpointInfo(endpoint=self._events.endpoint, epoch=self._fleet.epoch))
            case c.Locks():
                self._spawn(self._answer_later(asked, self._allocations))
            case c.LogsTailOf() as wanted:
                self._spawn(self._answer_later(asked, partial(self._logs_tail, wanted)))
            case c.Spawn() as spawn:
                self._spawn(self._spawn_pod(asked, spawn))
            case _:
                self._answers[(asked.sender.name, asked.request_id)] = asked.route
                self._feed(f.Asked(asked.request_id, asked.sender.name, asked.control))

    def _reply(self, asked: b.ControlAsked, body: Wire) -> None:
        self._send(self._broker.reply(asked.route, asked.request_id, body))

    async def _answer_later(self, asked: b.ControlAsked, work: Callable[[], Wire]) -> None:
        try:
            self._reply(asked, await self._on_disk(work))
        except PodsupError as error:
            self._send(self._broker.refuse(asked.route, asked.request_id, error))

    def _ps(self) -> c.Ps:
        now = time.monotonic()
        return c.Ps(
            fleet=self._fleet.name,
            supervisor=c.SupervisorRow(
                pid=os.getpid(),
                version=VERSION,
                uptime_s=round(now - self._begun_at, 3),
                lag_ms=round(self._lag_s * 1000, 3),
            ),
            pods=self._fleet.rows(now),
        )

    def _pong(self) -> c.Pong:
        return c.Pong(
            fleet=self._fleet.name,
            workspace=self._boot.workspace,
            pid=os.getpid(),
            version=VERSION,
            uptime_s=round(time.monotonic() - self._begun_at, 3),
            epoch=self._fleet.epoch,
        )

    def _allocations(self) -> c.Allocations:
        return c.Allocations(
            allocations=tuple(
                c.Allocated(
                    home=row.home,
                    pod=row.pod,
                    incarnation=row.incarnation,
                    pid=row.identity.pid if row.identity else None,
                    supervisor=row.supervisor,
                    scope_allow=row.scope_allow,
                    scope_deny=row.scope_deny,
                    delegated_from=row.delegated_from,
                    session_id=row.session_id,
                    segment_id=row.segment_id,
                    state=row.state.value,
                )
                for row in self._table.list()
            )
        )

    def _logs_tail(self, wanted: c.LogsTailOf) -> c.LogsTail:
        self._fleet.member(wanted.pod)
        files = log_files(self._paths.data, wanted.pod)
        if wanted.previous:
            files = files[:-1]
        if not files:
            raise InvalidRequest(f"pod {wanted.pod} has no such log")
        text = tail(files[-1], most=1024 * 1024, lines=wanted.lines)
        return c.LogsTail(path=str(files[-1]), text=text)

    async def _spawn_pod(self, asked: b.ControlAsked, spawn: c.Spawn) -> None:
        request_id = asked.request_id
        if request_id in self._fleet.operations or request_id in self._journal.record.controls:
            self._reply(asked, c.Started(operation=request_id))
            return
        if request_id in self._spawning:
            return  # the first asking is on its way to an answer
        self._spawning.add(request_id)
        try:
            manifest, known = await self._on_disk(self._resolve_spawn, spawn)
            self._fleet.require_free(manifest.name)
            if self._fleet.is_ending:
                raise Conflict("the fleet is on its way down")
            self._add(manifest, known)
            self._feed(f.Spawned(request_id, manifest.name))
            started = c.Started(operation=request_id)
            await self._on_disk(self._note_done, request_id, spawn.method, started)
            self._reply(asked, started)
        except PodsupError as error:
            self._send(self._broker.refuse(asked.route, request_id, error))
        except FleetFileInvalid as error:
            refusal = InvalidRequest(str(error), next_step="podsup spawn --help")
            self._send(self._broker.refuse(asked.route, request_id, refusal))
        finally:
            self._spawning.discard(request_id)

    def _resolve_spawn(self, spawn: c.Spawn) -> tuple[PodManifest, PodMetadata | None]:
        if spawn.parent is not None:
            raise InvalidRequest("children of pods: not available in this version")
        manifest = resolve_pod(
            spawn.table,
            fleet_file=Path(self._boot.file),
            fleet=self._boot.fleet,
            workspace=self._boot.workspace,
            supervisor=self._boot.supervisor,
            config_dir=self._paths.config,
        )
        if missing := unavailable(manifest):
            raise InvalidRequest("; ".join(missing))
        known = self._store.load(manifest.name)
        if known is not None:
            refuse_foreign_pod(known, fleet=self._boot.fleet, workspace=self._boot.workspace)
        return manifest, known

    # -- instructions
    # -------------------------------------------------------------------------------

    def _do(self, instructions: list[f.Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case f.ForPod(pod, what):
                    self._do_for_pod(pod, what)
                case f.Publish(pod, incarnation, event):
                    self._events.publish(pod, incarnation, event)
                    self._tell_log(pod, event)
                case f.DeliverTask(pod, task):
                    run = Run(input=(Text(content=task),))
                    deadline = time.monotonic() + TASK_DEADLINE_S
                    self._out(
                        self._broker.ask(pod, TASK_REQUEST, Run.method, run, deadline=deadline)
                    )
                case f.Reply():
                    self._spawn(self._answer_control(instruction))
                case f.Wish(pod, desired):
                    self._spawn(self._on_disk(self._write_wish, pod, desired.value))
                case f.SaveTasked(pod):
                    self._spawn(self._on_disk(self._change_metadata, pod, {"tasked": True}))
                case f.Forget(pod):
                    self._spawn(self._on_disk(self._forget, pod))
                case f.EndFleet(code, cause):
                    self._spawn(self._end(code, cause))

    def _do_for_pod(self, pod: str, what: li.Instruction) -> None:
        member = self._fleet.members[pod]
        pid = member.life.pid
        match what:
            case li.Fork(incarnation):
                self._to_fork[pod] = incarnation
                if len(self._to_fork) == 1:
                    self._loop.call_soon(lambda: self._spawn(self._fork_wanted()))
            case li.SendShutdown(grace_ms):
                method = ShutdownMethod(grace_ms=grace_ms)
                deadline = time.monotonic() + grace_ms / 1000 + 1.0
                request_id = f"shutdown-{member.life.incarnation}"
                self._out(
                    self._broker.ask(
                        pod, request_id, ShutdownMethod.method, method, deadline=deadline
                    )
                )
            case li.DumpStacks() if pid is not None:
                self._processes.send_signal(pid, signal.SIGUSR1)
            case li.Signal(name) if pid is not None:
                self._processes.send_signal(pid, signal.Signals[name])
            case li.EndTree():
                self._spawn(self._end_tree(pod, member.life.incarnation, pid))
            case li.Release():
                self._spawn(self._on_disk(self._release, pod))
            case li.WakeAt(at):
                if (earlier := self._wakes.pop(pod, None)) is not None:
                    earlier.cancel()
                self._wakes[pod] = self._loop.call_at(at, self._wake, pod)
            case _:
                pass

    def _wake(self, pod: str) -> None:
        self._wakes.pop(pod, None)
        self._feed(f.PodStimulus(pod, s.Tick()))

    def _tell_log(self, pod: str, event: ev.Event) -> None:
        match event:
            case ev.PodExited(cause=cause):
                say(f"{pod}: {cause}")
            case ev.PodFailed(cause=cause, message=message):
                say(f"{pod}: failed: {cause} {message}".rstrip())
            case _:
                pass

    # -- starting
    # -----------------------------------------------------------------------------------

    async def _fork_wanted(self) -> None:
        wanted, self._to_fork = self._to_fork, {}
        starts = [Wanted(self._fleet.members[pod].manifest, n) for pod, n in wanted.items()]
        try:
            outcomes = await self._on_disk(self._starter.prepare, starts)
        except OSError as error:
            for one in starts:
                self._fork_failed(one, f"cannot write what a start needs: {error}")
            return
        except PodsupError as error:
            for one in starts:
                self._fork_failed(one, str(error))
            return
        for one, outcome in zip(starts, outcomes, strict=True):
            if isinstance(outcome, PodsupError):
                stimulus = s.StartRefused(one.incarnation, outcome.code, str(outcome))
                self._feed(f.PodStimulus(one.manifest.name, stimulus))
            else:
                self._spawn(self._fork(outcome))

    def _fork_failed(self, one: Wanted, message: str) -> None:
        self._feed(f.PodStimulus(one.manifest.name, s.ForkFailed(one.incarnation, message)))

    async def _fork(self, prepared: Prepared) -> None:
        name, incarnation = prepared.name, prepared.incarnation
        self._prepared[name] = prepared
        self._broker.trust_pod(name, incarnation, prepared.token)
        try:
            process = await self._processes.fork(
                pack(prepared.birth), prepared.log_fd, prepared.lock_fd
            )
        except (ZygoteDied, Internal) as error:
            prepared.close()
            await self._processes.end_all_strays()
            self._feed(f.PodStimulus(name, s.ForkFailed(incarnation, str(error))))
            return
        finally:
            prepared.close_log()
        self._pids[process.pid] = name
        prepared.pid = process.pid
        self._feed(f.PodStimulus(name, s.Forked(incarnation, process.pid)))
        if isinstance(prepared.early_hello, b.HelloAsked):
            self._on_hello(prepared.early_hello)

    def _on_hello(self, asked: b.HelloAsked) -> None:
        """Adopt it with the others of this moment; one that overtook its fork's answer waits for it."""
        prepared = self._prepared.get(asked.sender.name)
        if prepared is not None and prepared.pid is None:
            prepared.early_hello = asked
            return
        self._hellos.append(asked)
        if len(self._hellos) == 1:
            self._spawn(self._adopt())

    async def _adopt(self) -> None:
        """Take all hellos that came: adopt in one turn of the table, then welcome each."""
        hellos, self._hellos = self._hellos, []
        outcomes = await self._on_disk(self._adopt_on_disk, hellos)
        for asked, outcome in zip(hellos, outcomes, strict=True):
            if isinstance(outcome, PodsupError):
                say(f"{asked.sender.name}: hello refused: {outcome}")
                self._send(self._broker.refuse(asked.route, asked.request_id, outcome))
                continue
            name = asked.sender.name
            if (prepared := self._prepared.get(name)) is not None:
                prepared.close_lock()
            self._broker.bind(asked.route, asked.sender)
            self._follow(name, asked.hello)
            welcome = c.Welcome(number=outcome)
            self._send(self._broker.reply(asked.route, asked.request_id, welcome))
            self._feed(f.Hello(name, asked.hello))

    def _adopt_on_disk(self, hellos: list[b.HelloAsked]) -> list[int | PodsupError]:
        adoptions: list[Adoption] = []
        forked: list[Forked] = []
        outcomes: list[int | PodsupError] = []
        for asked in hellos:
            hello = asked.hello
            prepared = self._prepared.get(asked.sender.name)
            identity = identity_of(prepared.pid) if prepared and prepared.pid else None
            if prepared is None or identity is None:
                outcomes.append(Internal("the pod that said hello is gone"))
                continue
            outcomes.append(0)
            adoptions.append(Adoption(asked.sender.name, prepared.token, identity))
            forked.append(
                Forked(pod=asked.sender.name, incarnation=hello.incarnation, identity=identity)
            )
        rows = iter(self._table.adopt_many(adoptions))
        self._journal.append(*forked)
        return [
            outcome
            if isinstance(outcome, PodsupError)
            else (row if isinstance(row := next(rows), PodsupError) else row.lend_number)
            for outcome in outcomes
        ]

    def _follow(self, name: str, hello: c.Hello) -> None:
        self._unfollow(name)
        watch = Watch(lambda: secrets.token_hex(8), (Lane.STATE,), complete=True)
        self._watches[name] = Watcher(
            self._transport,
            hello.endpoint,
            watch,
            on_told=partial(self._on_told, name),
            clock=time.monotonic,
        )

    def _unfollow(self, name: str) -> None:
        if (watch := self._watches.pop(name, None)) is not None:
            watch.close()

    def _on_told(self, name: str, told: Told) -> None:
        match told:
            case Deliver(header, event):
                self._events.pass_on(header, event)
                self._feed(f.EventHeard(header.pod, header.incarnation, header.seq, event))
            case Gap(lane, first, last):
                say(f"alert: {name}: events {first} to {last} of its {lane} lane were lost")
            case _:
                pass  # a snapshot: only the lane counts here

    # -- ending
    # -------------------------------------------------------------------------------------

    def _on_exit(self, pid: int, status: ExitStatus) -> None:
        name = self._pids.pop(pid, None)
        if name is None or name not in self._fleet.members:
            return
        member = self._fleet.members[name]
        incarnation = member.life.incarnation
        if (watch := self._watches.get(name)) is not None:
            watch.drain()
        self._router.drain()
        files = log_files(self._paths.data, name)
        is_expected = status.code == 0
        last = "" if is_expected or not files else tail(files[-1])
        self._out(self._broker.drop_pod(name))
        exit_ = f.exit_of(status.code, status.signal, last)
        self._feed(f.PodStimulus(name, s.Exited(incarnation, exit_)))

    async def _end_tree(self, name: str, incarnation: int, pid: int | None) -> None:
        prepared = self._prepared.get(name)
        if prepared is not None:
            prepared.close_lock()
        lock = self._table.life_lock(name, incarnation)
        await self._processes.end_tree(pid or 0, lambda: life_lock.is_free(lock) is not False)
        self._unfollow(name)
        socket = self._paths.pod_socket(self._boot.fleet, name, incarnation)
        socket.unlink(missing_ok=True)
        member = self._fleet.members.get(name)
        last = member.life.last_exit if member else None
        await self._on_disk(
            self._journal.append,
            Exited(
                pod=name,
                incarnation=incarnation,
                cause=last.cause if last else "",
                code=last.code if last else None,
                signal=last.signal if last else None,
                at=_wall_ms(),
            ),
        )
        self._feed(f.PodStimulus(name, s.TreeGone(incarnation)))

    def _release(self, name: str) -> None:
        prepared = self._prepared.get(name)
        if prepared is None:
            return
        try:
            self._table.release(name, prepared.token)
        except PodsupError as error:
            say(f"alert: {name}: its claim was not released: {error}")

    async def _end(self, code: int, cause: str) -> None:
        """Everything is gone: write it down, remove the sockets, leave."""
        others = [task for task in self._tasks if task is not asyncio.current_task()]
        if others:
            await asyncio.wait(others, timeout=5.0)
        say(f"the fleet is down: {cause}")
        await self._on_disk(self._journal.append, FleetDown())
        for watch in self._watches.values():
            watch.close()
        self._processes.close()
        self._transport.close()
        await self._on_disk(self._remove_runtime)
        self._journal.close()
        self._done.set_result(code)

    def _remove_runtime(self) -> None:
        runtime = self._paths.fleet_runtime(self._boot.fleet)
        remove_sockets(runtime)
        (runtime / "token").unlink(missing_ok=True)
        runtime.rmdir()

    # -- disk
    # ---------------------------------------------------------------------------------------

    async def _answer_control(self, reply: f.Reply) -> None:
        """A changing control's answer is written down before it is given."""
        route = self._answers.pop((reply.sender, reply.request_id), None)
        if isinstance(reply.body, c.Started) and reply.ok:
            await self._on_disk(self._note_done, reply.request_id, reply.method, reply.body)
        if route is not None:
            self._send(self._broker.reply(route, reply.request_id, reply.body, ok=reply.ok))

    def _note_done(self, request_id: str, method: str, body: Wire) -> None:
        self._journal.append(ControlDone(id=request_id, method=method, reply=body.to_wire()))

    def _write_wish(self, pod: str, desired: Any) -> None:
        self._journal.append(Desired(pod=pod, desired=desired))
        self._change_metadata(pod, {"desired": desired})

    def _change_metadata(self, pod: str, changes: dict[str, Any]) -> None:
        known = self._store.load(pod)
        if known is not None:
            self._store.save(known.model_copy(update=changes))

    def _forget(self, pod: str) -> None:
        self._journal.append(Deleted(pod=pod))
        self._store.file_away(pod)

    async def _on_disk(self, work: Callable[..., T], *args: Any) -> T:
        return await self._loop.run_in_executor(self._disk, work, *args)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            traceback.print_exception(error)


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


async def serve(boot: Boot, answer: Callable[[Up], None]) -> int:
    """Run one supervisor; `answer` is called once, when it is up or has refused."""
    paths = Paths.here(boot.home)
    daemon = Daemon(boot, paths)
    try:
        await daemon.start()
    except PodsupError as error:
        answer(Up(pid=os.getpid(), error=error.to_body()))
        return 1
    except OSError as error:
        body = Internal(f"the supervisor cannot start: {error}").to_body()
        answer(Up(pid=os.getpid(), error=body))
        return 1
    answer(Up(pid=os.getpid()))
    daemon.begin()
    return await daemon.until_done()


def main() -> None:
    """Run as `python -m supervisor.daemon FD`: the boot record on stdin, the answer to FD."""
    answer_fd = int(sys.argv[1])
    boot = Boot.model_validate_json(sys.stdin.buffer.read())
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.umask(0o077)
    _raise_open_files()

    def answer(up: Up) -> None:
        os.write(answer_fd, up.model_dump_json(exclude_none=True).encode())
        os.close(answer_fd)

    code = asyncio.run(serve(boot, answer))
    sys.stderr.flush()
    os._exit(code)


def _raise_open_files() -> None:
    """A thousand pods need a few thousand descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main()
