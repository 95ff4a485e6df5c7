"""The shell of one supervisor.

Sockets and signals to stimuli, timers, and the carrying out of instructions.

One loop decides; what waits for a disk has a thread of its own. What the fleet core and the broker
return is carried out here, or in `pod_runner` where it is about processes, and nowhere else:

    frames ─► Broker ─► control, hello, beat, reply ─► Fleet.handle ─► fork, signal, release,
    publish …

A signal handler only enqueues.
"""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from protocol import control as c
from protocol import events as ev
from protocol.base import Accepted, Wire
from protocol.calls import OPERATOR
from protocol.errors import (
    Internal,
    NoAnswer,
    PodsupError,
)
from protocol.manifest import Scheme
from protocol.memory_dumps import hide_memory, leave_no_core
from protocol.methods import Notify, PodEventMethod, Run, ShutdownMethod
from protocol.segments import Text
from protocol.status import Lane
from protocol.surroundings import Found, look_around
from protocol.transport import Unroutable, WouldBlock
from protocol.transport.zeromq import ZmqTransport
from protocol.unfailing import use_unfailing_stderr
from protocol.watch import Deliver, Gap
from supervisor import broker as b
from supervisor.answers import Answers
from supervisor.background import Background, say, wall_ms
from supervisor.boot import Boot, Up, clean_environment
from supervisor.core import fleet_terms as f
from supervisor.core import instructions as li
from supervisor.core import stimuli as s
from supervisor.core.caps import Caps
from supervisor.core.family import AT_REST
from supervisor.core.fleet import EXIT_NOTHING, Fleet
from supervisor.core.fleet_record import (
    ControlDone,
    Deleted,
    Desired,
    FleetDown,
    FleetStarted,
    Reported,
    SettingsFixed,
    Spawned,
)
from supervisor.core.fleet_record import Told as ToldRecord
from supervisor.core.operator_settings import without_answers
from supervisor.core.reports import Report
from supervisor.desk import Desk
from supervisor.fleet_events import FleetEvents
from supervisor.identity import identity_of
from supervisor.keys import Keys, models_of
from supervisor.paths import Paths
from supervisor.pod_runner import PodRunner
from supervisor.recovery import remove_runtime
from supervisor.spawning import Spawner
from supervisor.starting import Starter, files_of_others
from supervisor.surroundings import FleetSurroundings
from supervisor.takeover import Taken, add_pod, take_over
from supervisor.version import VERSION
from supervisor.watcher import Told

TICK_S = 1.0
TASK_REQUEST = "task"
TASK_DEADLINE_S = 30.0
REPORT_DEADLINE_S = 30.0
HEARD_S = 5.0


class Daemon:
    """One supervisor of one fleet, from its lock to its end."""

    def __init__(self, boot: Boot, paths: Paths) -> None:
        self._boot = boot
        self._paths = paths
        self._loop = asyncio.get_running_loop()
        self._background = Background()
        self._begun_at = self._last_tick = time.monotonic()
        self._tick_s = min(TICK_S, boot.supervisor.beat_interval_s)
        self._lag_s = 0.0
        self._wakes: dict[str, asyncio.TimerHandle] = {}
        self._in_core: dict[tuple[str, str], b.ControlAsked] = {}
        self._expiry: asyncio.TimerHandle | None = None
        self._telling: dict[tuple[str, str], tuple[str, ...]] = {}
        self._warned: dict[str, float] = {}
        self._down_asked = asyncio.Event()
        self._done: asyncio.Future[int] = self._loop.create_future()

    # -- from nothing to serving

    async def start(self) -> None:
        """Take the fleet, bind the sockets, warm the fork server.

        Raises PodsupError and OSError.
        """
        boot, paths, on_disk = self._boot, self._paths, self._background.on_disk
        taken = self._taken = await on_disk(take_over, boot, paths)
        record = taken.journal.record
        epoch = record.epoch + 1
        self._fleet = Fleet(boot.fleet, epoch, Caps.of(boot.supervisor))
        for done in record.controls.values():
            body = c.Started.from_wire(done.reply)
            self._fleet.remember(OPERATOR, done.id, body, time.monotonic())
        self._fleet.upward.remember(
            Report(one.parent, one.event_id, one.event, one.while_away)
            for one in record.reports.values()
        )
        for pod in taken.pods:
            add_pod(self._fleet, boot, paths, taken.journal, pod)
        self._fleet.settle_peers()
        self._desk = Desk(boot, paths, taken.table, taken.store, taken.journal)
        self._broker = b.Broker(self._presence, self._fleet)
        self._token = secrets.token_urlsafe(24)
        self._token_path = paths.fleet_runtime(boot.fleet) / "token"
        self._broker.trust_operator(self._token)
        self._transport = ZmqTransport(self._loop)
        self._answers = Answers(self._fleet, self._broker, self._send)
        self._spawner = Spawner(
            fleet=self._fleet,
            desk=self._desk,
            background=self._background,
            answers=self._answers,
            feed=self._feed,
            add=partial(add_pod, self._fleet, boot, paths, taken.journal),
            is_done=lambda request_id: request_id in taken.journal.record.controls,
            note=self._note_done,
        )
        found = await on_disk(look_around, os.environ, paths.product_dirs)
        others = await on_disk(files_of_others, paths, boot.fleet)
        self._runner = self._make_runner(taken, found, others)
        zygote = self._background.spawn(self._runner.processes.start_zygote())
        await on_disk(_write_private, self._token_path, self._token)
        identity = identity_of(os.getpid())
        assert identity is not None
        started = FleetStarted(
            fleet=boot.fleet, workspace=boot.workspace, supervisor=identity, epoch=epoch
        )
        fixed = SettingsFixed(settings=boot.settings, pods=tuple(map(without_answers, boot.pods)))
        spawned = (Spawned(pod=without_answers(p.manifest)) for p in taken.pods if p.spawned)
        await on_disk(taken.journal.append, started, fixed, *spawned)
        await zygote  # before anybody can ask for anything: what is asked can be done
        control = paths.control_socket(boot.fleet)
        self._router = self._transport.router(f"ipc://{control}", self._on_frames)
        self._events = FleetEvents(
            self._transport,
            f"ipc://{paths.events_socket(boot.fleet)}",
            epoch=epoch,
            snapshot=self._fleet.snapshot,
        )

    @staticmethod
    def _schemes(taken: Taken) -> list[Scheme]:
        """Return how the fleet's models are spoken to: the fork server imports it beforehand."""
        manifests = (pod.manifest for pod in taken.pods)
        return sorted({m.scheme for manifest in manifests for m in models_of(manifest)})

    def _make_runner(self, taken: Taken, found: Found, others: Sequence[str]) -> PodRunner:
        return PodRunner(
            fleet=self._fleet,
            broker=self._broker,
            paths=self._paths,
            journal=taken.journal,
            table=taken.table,
            starter=Starter(
                self._paths,
                taken.journal,
                taken.table,
                taken.store,
                Keys(self._boot.keys, self._boot.pods),
                surroundings=FleetSurroundings(found),
                own_code=self._boot.own_code,
                start_files=self._boot.start_files,
                others=others,
            ),
            transport=self._transport,
            background=self._background,
            environment=clean_environment(os.environ),
            schemes=self._schemes(taken),
            feed=self._feed,
            out=self._out,
            on_told=self._on_told,
            on_granted=self._spawner.on_granted,
            ask=self._ask,
            before_exit=lambda: self._router.drain(),
        )

    def begin(self) -> None:
        """Start the pods, as the operation that the command waits for."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal, signal.Signals(number).name)
        self._loop.call_later(self._tick_s, self._tick)
        kind = "start idle" if self._boot.wait == "idle" else "start"
        wanted = tuple(pod.manifest.name for pod in self._taken.pods if pod.up)
        self._feed(f.Begun(self._boot.operation, kind, wanted))

    async def until_done(self) -> int:
        """Serve until the fleet has ended; returns its exit code."""
        return await self._done

    # -- stimuli

    def _feed(self, stimulus: f.Stimulus) -> None:
        self._do(self._fleet.handle(stimulus, time.monotonic(), wall_ms()))

    def _on_signal(self, name: str) -> None:
        say(f"{name}: ending the fleet")
        self._feed(f.EndAsked(name))

    def _tick(self) -> None:
        """Silence counts in awake time, and only after every message that had come was taken."""
        if not self._done.done():
            self._loop.call_later(self._tick_s, self._tick)
        self._router.drain()
        self._runner.drain_and_tick()
        now = time.monotonic()
        elapsed, self._last_tick = now - self._last_tick, now
        self._lag_s = max(0.0, elapsed - self._tick_s)
        self._events.tick()
        self._feed(f.Ticked(elapsed, self._tick_s))
        self._runner.lending.retell()
        for alert in self._taken.table.take_alerts():
            say(f"alert: {alert}")
        if not self._token_path.exists():  # cleaners of temporary folders do this
            self._on_disk_later(_write_private, self._token_path, self._token)

    def _on_frames(self, route: bytes, frames: list[bytes]) -> None:
        before = self._broker.counts["garbage"]
        self._out(self._broker.on_frames(route, frames, time.monotonic()))
        if (garbage := self._broker.counts["garbage"]) != before:
            self._say_rarely("garbage", f"garbage: {garbage} messages so far")

    def _say_rarely(self, what: str, text: str) -> None:
        now = time.monotonic()
        if now - self._warned.get(what, -60.0) >= 60.0:
            self._warned[what] = now
            say(f"alert: {text}")

    def _out(self, outs: list[b.Out]) -> None:
        """Carry out what the broker returned."""
        for out in outs:
            match out:
                case b.Send():
                    self._send(out)
                case b.ControlAsked():
                    self._on_control(out)
                case b.HelloAsked():
                    self._runner.on_hello(out)
                case b.StrangerSaidHello(pod, pid):
                    told = f"a stranger says it is pod {pod}: pid {pid}, left alone"
                    self._say_rarely(f"stranger {pid}", told)
                case b.BeatSeen(sender, header) if header.incarnation == sender.incarnation:
                    state_seq = header.seqs.get(Lane.STATE, 0)
                    self._feed(
                        f.Beat(
                            sender.name,
                            sender.incarnation,
                            header.seq,
                            header.status,
                            header.progress,
                            state_seq,
                            header.notification_runs,
                        )
                    )
                case b.ReplySeen(sender, reply):
                    if reply.status is not None and reply.seq is not None:
                        self._feed(
                            f.StatusHeard(sender.name, sender.incarnation, reply.status, reply.seq)
                        )
                case b.OwnAnswered():
                    self._on_own_answered(out)
                case _:
                    pass
        self._schedule_expiry()

    def _on_own_answered(self, answer: b.OwnAnswered) -> None:
        pod, request_id, error = answer.pod, answer.request_id, answer.error
        told = self._telling.pop((pod, request_id), None)
        if request_id == TASK_REQUEST:
            self._feed(f.TaskAnswered(pod, str(error) if error else None))
        elif told is not None:
            is_final = not isinstance(error, NoAnswer)
            if error is not None and is_final:
                say(f"alert: {pod} did not take {request_id}: {error}")
            self._feed(f.ReportAnswered(pod, told, is_final))
        else:
            self._runner.lending.on_answered(pod, request_id, error)

    def _send(self, send: b.Send) -> None:
        try:
            self._router.send(send.route, send.frames)
        except (Unroutable, WouldBlock):
            if send.call is not None:
                self._out(self._broker.undeliverable(send.call))

    def _schedule_expiry(self) -> None:
        """Wake at the earliest deadline; a timer that was set for a later one is moved."""
        at = self._broker.relay.next_deadline()
        if at is None or (self._expiry is not None and self._expiry.when() <= at):
            return
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = self._loop.call_at(at, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        self._out(self._broker.expire(time.monotonic()))

    def _presence(self, name: str) -> tuple[int, bool]:
        member = self._fleet.member(name)
        return member.life.incarnation, member.is_ready

    def _on_told(self, name: str, told: Told) -> None:
        match told:
            case Deliver(header, event):
                self._events.pass_on(header, event)
                self._feed(f.EventHeard(header.pod, header.incarnation, header.seq, event))
            case Gap(lane, first, last):
                say(f"alert: {name}: events {first} to {last} of its {lane} lane were lost")
            case _:
                pass  # a snapshot: only the lane counts here

    # -- controls

    def _on_control(self, asked: b.ControlAsked) -> None:
        """Answer a control; whatever goes wrong on the way, there is an answer."""
        try:
            self._take_control(asked)
        except Exception as error:
            self._answers.refuse(asked, error)

    def _take_control(self, asked: b.ControlAsked) -> None:
        match asked.control:
            case c.ListFleet():
                self._answers.reply(asked, self._ps())
            case c.Ping():
                self._answers.reply(asked, self._pong())
            case c.EventsEndpoint():
                self._answers.reply(
                    asked, c.EndpointInfo(endpoint=self._events.endpoint, epoch=self._fleet.epoch)
                )
            case c.Locks():
                self._background.spawn(self._answer_later(asked, self._desk.allocations))
            case c.LogsTailOf() as wanted:
                work = partial(self._desk.logs_tail, wanted)
                self._background.spawn(self._answer_later(asked, work))
            case c.Down():
                self._down_asked.set()
                self._to_fleet(asked)
            case c.ClaimSegment() as claim:
                self._background.spawn(self._claim_segment(asked, claim))
            case c.Spawn() as spawn:
                self._background.spawn(self._spawner.spawn(asked, spawn))
            case c.Restore(pod=pod):
                go_on = partial(self._to_fleet, asked)
                self._background.spawn(self._spawner.restore(asked, pod, go_on))
            case c.Reclaim(pod=pod):
                members = self._fleet.members
                pods = None if pod is None else {self._fleet.member(pod).name}
                busy = {name for name in members if members[name].life.phase not in AT_REST}
                settle = partial(self._desk.reclaim, pods, busy=busy)
                self._background.spawn(self._answer_later(asked, settle))
            case _:
                self._to_fleet(asked)

    def _to_fleet(self, asked: b.ControlAsked) -> None:
        self._in_core[(asked.sender.name, asked.request_id)] = asked
        self._feed(f.Asked(asked.request_id, asked.sender.name, asked.control))

    async def _answer_later(self, asked: b.ControlAsked, work: Callable[[], Wire]) -> None:
        try:
            self._answers.reply(asked, await self._background.on_disk(work))
        except Exception as error:
            self._answers.refuse(asked, error)

    async def _claim_segment(self, asked: b.ControlAsked, claim: c.ClaimSegment) -> None:
        """Move a pod's claim, and its record, to the segment in which its session goes on."""
        name, incarnation = asked.sender.name, asked.sender.incarnation

        def move() -> None:
            self._desk.claim_segment(name, self._runner.token_of(name, incarnation), claim)
            self._change_metadata(name, {"segment_id": claim.segment_id})

        try:
            await self._background.on_disk(move)
        except Exception as error:
            self._answers.refuse(asked, error)
            return
        self._feed(f.SegmentMoved(name, incarnation, claim.session_id, claim.segment_id))
        self._answers.reply(asked, Accepted())

    def _ps(self) -> c.Ps:
        now = time.monotonic()
        row = c.SupervisorRow(
            pid=os.getpid(),
            version=VERSION,
            uptime_s=round(now - self._begun_at, 3),
            lag_ms=round(self._lag_s * 1000, 3),
        )
        return c.Ps(fleet=self._fleet.name, supervisor=row, pods=self._fleet.rows(now))

    def _pong(self) -> c.Pong:
        return c.Pong(
            fleet=self._fleet.name,
            workspace=self._boot.workspace,
            pid=os.getpid(),
            version=VERSION,
            uptime_s=round(time.monotonic() - self._begun_at, 3),
            epoch=self._fleet.epoch,
        )

    # -- instructions

    def _do(self, instructions: list[f.Instruction]) -> None:
        """Carry out what the fleet wants; answers last, behind what they are about on the disk."""
        for instruction in sorted(instructions, key=lambda one: isinstance(one, f.Reply)):
            match instruction:
                case f.ForPod(pod, what):
                    self._do_for_pod(pod, what)
                case f.Publish(pod, incarnation, event):
                    self._events.publish(pod, incarnation, event)
                    _note(pod, event)
                    if isinstance(event, ev.Operation):
                        self._answers.operation_changed(event)
                case f.DeliverTask(pod, task):
                    run = Run(input=(Text(content=task),))
                    self._ask(pod, TASK_REQUEST, run, TASK_DEADLINE_S)
                case f.Reply():
                    self._background.spawn(self._answer_control(instruction))
                case f.StoreReport(parent, event_id, report, while_away):
                    reported = Reported(
                        parent=parent, event_id=event_id, event=report, while_away=while_away
                    )
                    self._on_disk_later(self._taken.journal.note, reported)
                case f.ForgetReports(parent, event_ids):
                    told = ToldRecord(parent=parent, event_ids=event_ids)
                    self._on_disk_later(self._taken.journal.note, told)
                case f.DeliverReport(parent, event_id, report):
                    method = PodEventMethod(event_id=event_id, event=report)
                    self._background.spawn(self._tell(parent, event_id, method, (event_id,)))
                case f.DeliverNews(parent, request_id, heading, news):
                    notice = Notify(message=heading, auto_run=False, news=news)
                    ids = tuple(one.event_id for one in news)
                    self._background.spawn(self._tell(parent, request_id, notice, ids))
                case f.SaveFamily(pod, parent_name, peers, tombstones):
                    family = {"parent": parent_name, "peers": peers, "reclaimed": tombstones}
                    self._on_disk_later(self._change_metadata, pod, family)
                case f.Wish(pod, desired):
                    self._on_disk_later(self._write_wish, pod, desired.value)
                case f.SaveTasked(pod):
                    self._on_disk_later(self._change_metadata, pod, {"tasked": True})
                case f.Forget(pod):
                    self._on_disk_later(self._forget, pod)
                case f.EndFleet(code, cause):
                    self._background.spawn(self._end(code, cause))

    def _do_for_pod(self, pod: str, what: li.Instruction) -> None:
        life = self._fleet.members[pod].life
        processes = self._runner.processes
        match what:
            case li.Fork(incarnation):
                self._runner.want(pod, incarnation)
            case li.SendShutdown(grace_ms):
                method = ShutdownMethod(grace_ms=grace_ms)
                self._ask(pod, f"shutdown-{life.incarnation}", method, grace_ms / 1000 + 1.0)
            case li.DumpStacks() if life.pid is not None:
                processes.send_signal(life.pid, signal.SIGUSR1)
            case li.Signal(name) if life.pid is not None:
                processes.send_signal(life.pid, signal.Signals[name])
            case li.EndTree():
                self._background.spawn(self._runner.end_tree(pod, life.incarnation))
            case li.Release():
                self._background.spawn(self._runner.release(pod))
            case li.WakeAt(at):
                if (earlier := self._wakes.pop(pod, None)) is not None:
                    earlier.cancel()
                self._wakes[pod] = self._loop.call_at(at, self._wake, pod)
            case _:
                pass

    async def _tell(
        self, parent: str, request_id: str, method: Any, event_ids: tuple[str, ...]
    ) -> None:
        """Tell a parent of its children, behind what it may write by now."""
        await self._runner.lending.settle(parent)
        self._telling[parent, request_id] = event_ids
        self._ask(parent, request_id, method, REPORT_DEADLINE_S)

    def _ask(self, pod: str, request_id: str, method: Any, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        self._out(self._broker.ask(pod, request_id, method.method, method, deadline=deadline))

    def _wake(self, pod: str) -> None:
        self._wakes.pop(pod, None)
        self._feed(f.PodStimulus(pod, s.Tick()))

    async def _answer_control(self, reply: f.Reply) -> None:
        """A changing control's answer is written down before it is given."""
        asked = self._in_core.pop((reply.sender, reply.request_id), None)
        if isinstance(reply.body, c.Started) and reply.ok:
            done = (reply.request_id, reply.method, reply.body)
            await self._background.on_disk(self._note_done, *done)
        elif reply.ok and c.CONTROLS[reply.method].changes:
            await self._background.on_disk(lambda: None)  # behind what it has changed
        if asked is None:
            return
        if isinstance(reply.body, c.Started) and reply.ok:
            self._answers.started(asked, reply.body)
        else:
            self._answers.reply(asked, reply.body, ok=reply.ok)

    async def _end(self, code: int, cause: str) -> None:
        """Everything is gone: write it down, remove the sockets, leave."""
        if code == EXIT_NOTHING:  # whoever started it wants to hear why, and then asks for the end
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARD_S):
                    await self._down_asked.wait()
        await self._background.settle(5.0)
        say(f"the fleet is down: {cause}")
        journal, runtime = self._taken.journal, self._paths.fleet_runtime(self._boot.fleet)
        try:
            await self._background.on_disk(journal.note, FleetDown())
            self._runner.close()
            self._transport.close()
            await self._background.on_disk(remove_runtime, runtime)
            journal.close()
        finally:
            self._done.set_result(code)

    # -- disk

    def _on_disk_later(self, work: Callable[..., Any], *args: Any) -> None:
        self._background.spawn(self._background.on_disk(work, *args))

    def _note_done(self, request_id: str, method: str, body: Wire) -> None:
        done = ControlDone(id=request_id, method=method, reply=body.to_wire())
        self._taken.journal.note(done)

    def _write_wish(self, pod: str, desired: Any) -> None:
        known = self._taken.journal.record.pods.get(pod)
        if known is None or known.desired != desired:
            self._taken.journal.note(Desired(pod=pod, desired=desired))
        self._change_metadata(pod, {"desired": desired})

    def _change_metadata(self, pod: str, changes: dict[str, Any]) -> None:
        store = self._taken.store
        known = store.load(pod)
        if known is not None and (changed := known.model_copy(update=changes)) != known:
            store.save(changed)

    def _forget(self, pod: str) -> None:
        self._taken.journal.note(Deleted(pod=pod))
        self._taken.store.file_away(pod)


def _note(pod: str, event: ev.Event) -> None:
    match event:
        case ev.PodExited(cause=cause):
            say(f"{pod}: {cause}")
        case ev.PodFailed(cause=cause, message=message):
            say(f"{pod}: failed: {cause} {message}".rstrip())
        case _:
            pass


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


async def serve(boot: Boot, answer: Callable[[Up], None]) -> int:
    """Run one supervisor; `answer` is called once, when it is up or has refused."""
    daemon = Daemon(boot, Paths.here(boot.home))
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
    use_unfailing_stderr()
    answer_fd = int(sys.argv[1])
    boot = Boot.model_validate_json(sys.stdin.buffer.read())
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.umask(0o077)
    leave_no_core()
    hide_memory()
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
