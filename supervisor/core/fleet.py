"""The fleet: stimuli in, instructions out. Pure; the daemon carries out what it returns.

    fleet.handle(stimulus, now, wall_ms) -> [instruction]

Everything about one pod goes through its lifecycle table (`lifecycle.step`) and its health;
everything the fleet adds is between pods and people: operations that wait for pods, the task that
is delivered once, what an essential pod's end means, and the story that `why` tells. `validate()`
says what must be true after every stimulus; the tests ask after each one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from protocol import control as c
from protocol import events as ev
from protocol import methods as m
from protocol.base import Accepted, Wire
from protocol.calls import Answered
from protocol.entries import Usage
from protocol.errors import (
    Conflict,
    InvalidRequest,
    PodsupError,
)
from protocol.manifest import OnParentExit, PodManifest
from protocol.status import OperationState, PodStatus
from supervisor.core import health as h
from supervisor.core import instructions as li
from supervisor.core import stimuli as s
from supervisor.core.caps import DEFAULT_CAPS, Caps, delete_refusal, start_refusal
from supervisor.core.family import (
    AT_REST,
    parent_of,
)
from supervisor.core.fleet_reads import FleetReads
from supervisor.core.fleet_terms import (
    Asked,
    Beat,
    Begun,
    DeliverTask,
    EndAsked,
    EndFleet,
    EventHeard,
    Forget,
    ForPod,
    Hello,
    Instruction,
    PodStimulus,
    Publish,
    Refused,
    Released,
    Reply,
    ReportAnswered,
    SaveFamily,
    SaveTasked,
    SegmentMoved,
    Spawned,
    StatusHeard,
    Stimulus,
    TaskAnswered,
    Ticked,
    Wish,
    Withdrawn,
)
from supervisor.core.life import NO_PROCESS, Desired, Life, LifePolicy, Phase
from supervisor.core.lifecycle import step
from supervisor.core.member import Member, Tombstone
from supervisor.core.operations import KEPT, SAY_EVERY_S, Operation, look
from supervisor.core.restart import Exit
from supervisor.core.upward import Upward

TOMBSTONES = 100
IS_UP = (Phase.FORKING, Phase.JOINING, Phase.READY, Phase.UNREACHABLE)
"""It is there, or on its way: nobody has to start it."""
EXIT_ESSENTIAL = 9
EXIT_NOTHING = 1


class Fleet(FleetReads):
    """All pods of one supervisor. `epoch` is the supervisor's number in its fleet."""

    def __init__(self, name: str, epoch: int = 1, caps: Caps = DEFAULT_CAPS) -> None:
        super().__init__(name, epoch, caps)
        self._running: dict[str, Operation] = {}
        self._touched: set[str] = set()
        self._answered: Answered[tuple[bool, Wire]] = Answered()
        self.upward = Upward(self.members)
        self._ending: tuple[int, str] | None = None
        self._ended = False
        self._now = 0.0
        self._wall = 0

    @property
    def is_ending(self) -> bool:
        """Whether the fleet is on its way down."""
        return self._ending is not None

    # -- what the daemon puts in

    def add(
        self,
        manifest: PodManifest,
        *,
        policy: LifePolicy,
        limits: h.HealthLimits,
        incarnation: int = 0,
        tasked: bool = False,
        parent: str | None = None,
        peers: tuple[str, ...] = (),
        tombstones: tuple[Tombstone, ...] = (),
        spawned: bool = False,
        was_up: bool = False,
        session: tuple[str, str] | None = None,
    ) -> Member:
        """Add a pod that is not started; `incarnation` is that of its latest process, ever.

        `spawned`: it does not stand in the fleet file; `was_up`: an earlier supervisor had it up,
        and its parent takes it to be; `session`: the session and segment that it has begun.
        """
        member = Member(
            manifest,
            policy,
            limits,
            life=Life(incarnation=incarnation),
            tasked=tasked,
            parent=parent,
            peers=peers,
            tombstones=tombstones,
            spawned=spawned,
            is_owed=was_up,
        )
        if session is not None:
            member.session_id, member.segment_id = session
        self.members[manifest.name] = member
        return member

    def settle_peers(self) -> None:
        """Make peers of both sides what a crash has written down of one."""
        for member in self.members.values():
            for other in [self.members[name] for name in member.peers if name in self.members]:
                other.peers = tuple(sorted({*other.peers, member.name}))
            member.peers = tuple(name for name in member.peers if name in self.members)

    def begin_operation(self, request_id: str, kind: str, pods: Iterable[str]) -> Operation:
        """List a piece of long work; raises Conflict while another has this id."""
        if request_id in self._running:
            raise Conflict(f"other work has the id {request_id}; use another")
        names = tuple(pods)
        since = {n: self.members[n].life.incarnation for n in names if n in self.members}
        operation = Operation(request_id, kind, names, since)
        self.operations[request_id] = self._running[request_id] = operation
        self._touched.update(names)
        over = [id for id in self.operations if id not in self._running]
        for id in over[: max(0, len(self.operations) - KEPT)]:
            del self.operations[id]
        return operation

    def remember(self, sender: str, request_id: str, body: Wire, now: float) -> None:
        """Take over an answer given before this supervisor's life."""
        self._answered.begin(sender, request_id, now)
        self._answered.finish(sender, request_id, (True, body), now)

    def handle(self, stimulus: Stimulus, now: float, wall_ms: int) -> list[Instruction]:
        """Take one stimulus and return what to do, in order."""
        self._now, self._wall = now, wall_ms
        match stimulus:
            case PodStimulus(pod, what):
                out = self._step(pod, what)
            case Refused(pod, refusal, details):
                if pod in self.members:
                    self.members[pod].refusal = details
                out = self._step(pod, refusal)
            case Hello():
                out = self._on_hello(stimulus)
            case Beat():
                out = self._on_beat(stimulus)
            case StatusHeard():
                out = self._on_status(
                    stimulus.pod, stimulus.incarnation, stimulus.status, stimulus.state_seq
                )
            case SegmentMoved():
                out = self._on_segment_moved(stimulus)
            case EventHeard():
                out = self._on_event(stimulus)
            case TaskAnswered(pod, error):
                out = self._on_task_answered(pod, error)
            case Asked():
                out = self._on_asked(stimulus)
            case Begun(operation, kind, pods):
                out = self._start(operation, kind, pods, "start asked")
            case Spawned(request_id, pod, stop_jobs):
                self.members[pod].newborn = True
                self.members[pod].stop_jobs = stop_jobs
                out = self._start(request_id, "spawn", (pod,), "spawn asked")
            case Withdrawn(pod):
                out = self._withdraw(pod)
            case Released(pod):
                out = self._on_released(pod)
            case ReportAnswered():
                out = self.upward.answered(stimulus)
            case EndAsked(cause):
                out = self._end(0, cause)
            case Ticked(elapsed_s, tick_s):
                out = self._on_tick(elapsed_s, tick_s)
        return [*out, *self._settle()]

    # -- pods

    def _step(self, name: str, what: s.Stimulus) -> list[Instruction]:
        member = self.members.get(name)
        if member is None:
            return []
        self._touched.add(name)
        before = member.life
        after, instructions = step(before, what, policy=member.policy, now=self._now)
        member.life = after
        if (after.status, after.incarnation) != (before.status, before.incarnation) and (
            after.phase is not before.phase
        ):
            member.story.append(
                c.StoryLine(
                    at=self._wall,
                    incarnation=after.incarnation,
                    before=before.status,
                    after=after.status,
                    why=_why(after, what),
                )
            )
        if after.incarnation != before.incarnation:
            self._new_incarnation(member)
        if isinstance(what, s.Forked):
            member.started_ms, member.started_at = self._wall, self._now
        if isinstance(what, s.Exited) and after is not before:
            member.exited_ms = self._wall
        out: list[Instruction] = []
        if after.desired is not before.desired and self._ending is None:
            out.append(Wish(name, after.desired))
        for instruction in instructions:
            match instruction:
                case li.Publish(event):
                    out.append(Publish(name, after.incarnation, event))
                case li.PublishBackoff(wait_s, attempt):
                    until = self._wall + int(wait_s * 1000)
                    backoff = ev.PodBackoff(until=until, attempt=attempt, wait_s=wait_s)
                    out.append(Publish(name, after.incarnation, backoff))
                case li.Release():
                    member.releasing = True
                    out.append(ForPod(name, instruction))
                case li.TellParent():
                    out += self._given_up(member)
                case other:
                    out.append(ForPod(name, other))
        return out + self._after_step(member, before)

    def _new_incarnation(self, member: Member) -> None:
        member.health = h.Health()
        member.heard = 0
        member.own_flags = ()
        member.task_sent = False
        member.notification_runs = (0, 0)
        member.refusal = {}
        member.started_ms = member.started_at = None

    def _after_step(self, member: Member, before: Life) -> list[Instruction]:
        became = member.life.phase if member.life.phase is not before.phase else None
        if became is Phase.FAILED:
            member.last_error = member.life.reason
            if member.manifest.essential and self._ending is None:
                return self._end(EXIT_ESSENTIAL, f"essential pod {member.name} failed")
        if became is Phase.READY:
            return [*self._on_ready(member, before), *self._deliver_task(member)]
        return []

    def _on_ready(self, member: Member, before: Life) -> list[Instruction]:
        """Tell who must know that a pod is there, and the pod what it has missed."""
        is_new = before.phase is not Phase.UNREACHABLE
        out: list[Instruction] = []
        if is_new and (rules := member.writes()):
            lender = parent_of(self.members, member.name)
            if lender is None:
                granted = ev.ScopeGranted(rules=rules)
                out.append(Publish(member.name, member.life.incarnation, granted))
            else:
                lent = ev.ScopeDelegated(child=member.name, rules=rules)
                out.append(Publish(lender, self.members[lender].life.incarnation, lent))
        member.is_owed = True
        out += self.upward.is_back(member)
        if member.newborn:
            member.newborn = member.stop_jobs = False
            if member.parent is not None:
                out += self.upward.sub_delegated(member, self._now)
        return out + self.upward.greet(member, is_new=is_new, now=self._now)

    def _given_up(self, member: Member) -> list[Instruction]:
        """A child that has ended is not started again unasked: that is its parent's to decide."""
        is_child = member.parent is not None
        return [Wish(member.name, Desired.DOWN)] if is_child and self._ending is None else []

    def _on_released(self, name: str) -> list[Instruction]:
        member = self.members.get(name)
        if member is None:
            return []
        self._touched.add(name)
        member.releasing = False
        out: list[Instruction] = []
        if member.writes():
            gone = ev.ScopeReclaimed(cause=member.life.cause)
            out.append(Publish(name, member.life.incarnation, gone))
        if member.life.phase in AT_REST and member.is_owed and self._ending is None:
            member.is_owed = False
            out += self.upward.shut_down(member, self._now)
        if member.life.phase in AT_REST:
            out += self._stop_dependents(name)
        return out

    def _stop_dependents(self, parent: str) -> list[Instruction]:
        """Stop the children that are not to outlive their parent; the others are its parent's."""
        return [
            out
            for child in list(self.members.values())
            if child.parent == parent
            and child.manifest.on_parent_exit is OnParentExit.STOP
            and child.life.phase not in AT_REST
            for out in self._step(child.name, s.Stop(cause=f"its parent {parent} ended"))
        ]

    def _deliver_task(self, member: Member) -> list[Instruction]:
        if not member.is_task_due or member.task_sent:
            return []
        member.task_sent = True
        assert member.manifest.task is not None
        return [DeliverTask(member.name, member.manifest.task)]

    def _on_task_answered(self, name: str, error: str | None) -> list[Instruction]:
        member = self.members.get(name)
        if member is None:
            return []
        self._touched.add(name)
        if error is None:
            member.tasked = True
            return [SaveTasked(name)]
        if member.is_ready and not member.tasked:
            member.task_error = error
        return []

    def _on_hello(self, said: Hello) -> list[Instruction]:
        name, hello = said.pod, said.hello
        member = self.members.get(name)
        if member is None or member.life.incarnation != hello.incarnation:
            return []
        resume = hello.resume
        member.planned = said.session
        member.session_id, member.segment_id = resume.session_id, resume.segment_id
        member.turn = resume.turn
        member.sandbox = hello.sandbox
        member.context_tokens, member.context_window = resume.context_tokens, resume.context_window
        if not member.life.endpoint:  # later hellos say nothing that its events have not said
            member.usage = resume.usage
        member.tasked = member.tasked or resume.tasked
        member.health = replace(member.health, fresh=True, silence_s=0.0)
        return self._step(
            name, s.Hello(hello.incarnation, resume.status, hello.pid, hello.endpoint)
        )

    def _on_beat(self, beat: Beat) -> list[Instruction]:
        member = self.members.get(beat.pod)
        if member is None or member.life.incarnation != beat.incarnation:
            return []
        before = member.health
        member.health = h.observe_beat(
            before, beat.seq, status=beat.status, progress=beat.progress, now=self._now
        )
        if member.health is before:
            return []
        member.notification_runs = beat.notification_runs
        said = beat.status if beat.state_seq >= member.heard else member.life.said
        member.heard = max(member.heard, beat.state_seq)
        return self._step(beat.pod, s.Beat(beat.incarnation, said))

    def _on_status(
        self, name: str, incarnation: int, status: PodStatus, state_seq: int
    ) -> list[Instruction]:
        member = self.members.get(name)
        if member is None or member.life.incarnation != incarnation or state_seq < member.heard:
            return []
        member.heard = state_seq
        if member.is_ready and member.life.said is status:
            return []
        return self._step(name, s.StatusChanged(incarnation, status))

    def _on_event(self, heard: EventHeard) -> list[Instruction]:
        member = self.members.get(heard.pod)
        if member is None or member.life.incarnation != heard.incarnation:
            return []
        match heard.event:
            case ev.Status(status=status, flags=own):
                member.own_flags = own
                if status is PodStatus.RUNNING:  # what a run begins with is on disk
                    self._session_begun(member)
                return self._on_status(heard.pod, heard.incarnation, status, heard.lane_seq)
            case ev.RunEnd(result=result):
                member.last_result = result
                self._session_begun(member)
            case ev.UsageEvent(turn=turn, context_tokens=tokens) as figures:
                member.turn, member.context_tokens = turn, tokens
                member.usage = member.usage.plus(
                    Usage(
                        input_tokens=figures.input_tokens,
                        output_tokens=figures.output_tokens,
                        cache_read_tokens=figures.cache_read_tokens,
                        cache_write_tokens=figures.cache_write_tokens,
                        cost_usd=figures.cost_usd,
                    )
                )
            case ev.ErrorEvent(code=code, message=message):
                member.last_error = f"{code}: {message}"
            case _:
                pass
        return []

    def _on_segment_moved(self, moved: SegmentMoved) -> list[Instruction]:
        member = self.members.get(moved.pod)
        if member is not None and member.life.incarnation == moved.incarnation:
            member.planned = (moved.session_id, moved.segment_id)
            member.session_id, member.segment_id = member.planned
        return []

    @staticmethod
    def _session_begun(member: Member) -> None:
        if member.session_id is None and member.planned is not None:
            member.session_id, member.segment_id = member.planned

    def _on_tick(self, elapsed_s: float, tick_s: float) -> list[Instruction]:
        out: list[Instruction] = []
        for member in list(self.members.values()):
            if member.life.phase in (Phase.READY, Phase.UNREACHABLE):
                member.health = h.tick(member.health, elapsed_s, tick_s=tick_s)
                verdict = h.judge(member.health, member.limits)
                if verdict is not h.Verdict.OK:
                    out += self._step(member.name, s.Silence(verdict, member.health.silence_s))
        return out + self.upward.tick(self._now)

    # -- controls

    def _on_asked(self, asked: Asked) -> list[Instruction]:
        control = asked.control
        if control.changes:
            earlier = self._answered.begin(asked.sender, asked.request_id, self._now)
            if isinstance(earlier, tuple):
                ok, body = earlier
                return [Reply(asked.request_id, asked.sender, body, ok, control.method)]
        try:
            body, out = self._answer(asked)
            ok = True
        except PodsupError as error:
            body, out, ok = error.to_body(), [], False
        if control.changes:
            self._answered.finish(asked.sender, asked.request_id, (ok, body), self._now)
        return [Reply(asked.request_id, asked.sender, body, ok, control.method), *out]

    def _answer(self, asked: Asked) -> tuple[Wire, list[Instruction]]:
        match asked.control:
            case c.StatusOf(pod=pod):
                return self.detail(pod, self._now), []
            case c.SeenPods():
                return m.PodRows(pods=tuple(self.seen(asked.sender))), []
            case c.SeenPod(name=pod):
                return self.inspected(asked.sender, pod), []
            case c.ReportUp(event_id=event_id, event=event):
                out = self.upward.report(asked.sender, event_id, event, self._now)
                return Accepted(), out
            case c.RegisterPeers(source=source, peer=peer):
                return self._make_peers(source, peer)
            case c.Why(pod=pod):
                return self.story(pod), []
            case c.Stop(pods=pods, all_pods=everyone, grace_s=grace):
                names = tuple(self.members) if everyone else pods
                return self._each(asked, "stop", names, s.Stop(grace))
            case c.Kill(pods=pods):
                return self._each(asked, "kill", pods, s.Kill())
            case c.Restart(pods=pods, grace_s=grace):
                return self._each(asked, "restart", pods, s.RestartAsked(grace))
            case c.Restore(pod=pod):
                return self._restore(asked, pod)
            case c.Delete(pods=pods):
                return self._delete(asked, pods)
            case c.Down(grace_s=grace):
                operation = self.begin_operation(asked.request_id, "down", self.members)
                out = self._end(0, "down asked", grace)
                return c.Started(operation=operation.id), out
            case other:
                raise InvalidRequest(f"{other.method}: not available in this version")

    def _each(
        self, asked: Asked, kind: str, names: tuple[str, ...], what: s.Stimulus
    ) -> tuple[Wire, list[Instruction]]:
        for name in names:
            self.member(name)
        if self.is_ending and kind in ("restart", "restore"):
            raise Conflict("the fleet is on its way down")
        if not names and kind != "stop":
            raise InvalidRequest(f"{kind}: no pod was named")
        if kind in ("restart", "restore"):
            _require(start_refusal(self.kinship(), names, self.caps))
        operation = self.begin_operation(asked.request_id, kind, names)
        if kind == "restore":
            operation.since = {n: i - 1 for n, i in operation.since.items()}
        out: list[Instruction] = [Publish("", 0, operation.event())]
        for name in names:
            self.members[name].task_error = None
            out += self._step(name, what)
        return c.Started(operation=operation.id), out

    def _start(
        self, operation_id: str, kind: str, names: tuple[str, ...], cause: str
    ) -> list[Instruction]:
        operation = self.begin_operation(operation_id, kind, names)
        out: list[Instruction] = [Publish("", 0, operation.event())]
        for name in names:
            out += self._step(name, s.Start(cause))
        return out

    def _delete(self, asked: Asked, pods: tuple[str, ...]) -> tuple[Wire, list[Instruction]]:
        names = tuple(dict.fromkeys(pods))
        for name in names:
            member = self.member(name)
            if member.releasing:
                raise Conflict(
                    f"the scope of pod {name} is being given back",
                    next_step=f"podsup delete {name}, in a moment",
                )
            if member.life.phase not in AT_REST:
                raise Conflict(
                    f"pod {name} is {self.members[name].life.status}; stop it first",
                    next_step=f"podsup stop {name}",
                )
        _require(delete_refusal(self.kinship(), names, self.caps))
        operation = self.begin_operation(asked.request_id, "delete", names)
        out: list[Instruction] = []
        for name in names:
            out += self._forget(name)
        return c.Started(operation=operation.id), out

    def _forget(self, name: str) -> list[Instruction]:
        """A pod leaves the fleet: its children are its parent's, its parent keeps a tombstone."""
        gone = self.members.pop(name, None)
        if gone is None:
            return []
        self._touched.add(name)
        out: list[Instruction] = [Publish(name, gone.life.incarnation, ev.PodDeleted())]
        out += [*self.upward.forget(name), Forget(name)]
        for other in self.members.values():
            before = (other.parent, other.peers, other.tombstones)
            if other.parent == name:
                other.parent = gone.parent
            other.peers = tuple(peer for peer in other.peers if peer != name)
            if other.name == gone.parent and not gone.newborn:
                told = Tombstone(name=name, session_id=gone.session_id, cause=gone.life.reason)
                other.tombstones = (*other.tombstones, told)[-TOMBSTONES:]
            if (other.parent, other.peers, other.tombstones) != before:
                out.append(self._family_of(other))
        return out

    def _withdraw(self, name: str) -> list[Instruction]:
        """A pod that never was leaves, with whatever waits for it as failed."""
        if name not in self.members:
            return []
        self.members[name].releasing = False
        self._touched.add(name)
        return [*self._settle(), *self._forget(name)]

    @staticmethod
    def _family_of(member: Member) -> SaveFamily:
        return SaveFamily(member.name, member.parent, member.peers, member.tombstones)

    def _restore(self, asked: Asked, name: str) -> tuple[Wire, list[Instruction]]:
        is_live = self.member(name).life.phase in IS_UP
        reply, out = self._each(asked, "restore", (name,), s.Start("restore asked"))
        outcome = "already_live" if is_live else "restored"
        self.operations[asked.request_id].result["outcome"] = outcome
        if asked.sender in self.members:
            told = ev.PodRestored(name=name, outcome=outcome)
            incarnation = self.members[asked.sender].life.incarnation
            out.append(Publish(asked.sender, incarnation, told))
        return reply, out

    def _make_peers(self, source: str, peer: str) -> tuple[Wire, list[Instruction]]:
        if source == peer:
            raise InvalidRequest(f"pod {source} cannot be its own peer")
        one, other = self.member(source), self.member(peer)
        out: list[Instruction] = []
        for mine, theirs in ((one, other), (other, one)):
            if theirs.name not in mine.peers:
                mine.peers = tuple(sorted({*mine.peers, theirs.name}))
                out.append(self._family_of(mine))
        made = ev.PeerRegistered(source=source, peer=peer)
        out.append(Publish(source, one.life.incarnation, made))
        return m.PeersRegistered(source=source, peer=peer), out

    def _end(self, code: int, cause: str, grace: float | None = None) -> list[Instruction]:
        if self._ending is None:
            self._ending = (code, cause)
        out: list[Instruction] = []
        for name in list(self.members):
            out += self._step(name, s.Stop(grace, cause))
        return out

    def _settle(self) -> list[Instruction]:
        """Look at what is waited for, and whether the fleet is over."""
        out: list[Instruction] = []
        touched, self._touched = self._touched, set()
        for operation in list(self._running.values()):
            is_done = look(operation, self.members, touched)
            if is_done:
                del self._running[operation.id]
            elif operation.message == operation.said or self._now - operation.said_at < SAY_EVERY_S:
                continue
            operation.said, operation.said_at = operation.message, self._now
            out.append(Publish("", 0, operation.event()))
            if is_done and operation.kind.startswith("start") and operation.error is not None:
                out += self._end_if_nothing_started()
        if self._ending is None or self._ended:
            return out
        if all(one.life.phase in NO_PROCESS and not one.releasing for one in self.members.values()):
            self._ended = True
            out.append(EndFleet(*self._ending))
        return out

    def _end_if_nothing_started(self) -> list[Instruction]:
        """A fleet none of whose pods could start is over."""
        if self._ending is None and all(
            one.life.phase in NO_PROCESS and one.life.phase is not Phase.BACKOFF
            for one in self.members.values()
        ):
            return self._end(EXIT_NOTHING, "none of its pods could start")
        return []

    def validate(self) -> None:
        """Raise AssertionError where something is true that must not be."""
        for name, member in self.members.items():
            life = member.life
            assert member.name == name
            assert life.pid is None or life.phase not in NO_PROCESS, f"{name}: {life.phase}, a pid"
            assert life.phase in NO_PROCESS or not self._ended, f"{name} outlives its fleet"
            assert life.phase is not Phase.READY or life.endpoint, f"{name} is ready nowhere"
        for operation in self.operations.values():
            is_running = self._running.get(operation.id) is operation
            assert is_running == (operation.state is OperationState.RUNNING), operation.id
            assert (operation.error is not None) == (operation.state is OperationState.FAILED)


def _require(refusal: PodsupError | None) -> None:
    if refusal is not None:
        raise refusal


def _why(life: Life, what: s.Stimulus) -> str:
    last = life.last_exit
    if isinstance(what, s.TreeGone) and last is not None and last.cause not in life.cause:
        return f"{life.cause} ({last.cause})"
    told = life.reason
    return told if life.cause in told else f"{life.cause}: {told}"


def exit_of(code: int | None, signal: str | None, tail: str) -> Exit:
    """Return the exit of a process with its cause in words; `tail` is the end of its log."""
    if signal is not None:
        cause = f"killed by {signal}"
    elif code is not None:
        cause = f"exit code {code}"
    else:
        cause = "unknown exit"
    return Exit(code=code, signal=signal, cause=cause, message=tail)
