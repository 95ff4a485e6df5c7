"""Fleets for tests: pods driven by hand, and the fleet asked after each stimulus if it is sound."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from protocol import control as c
from protocol import events as ev
from protocol.error_body import ErrorBody
from protocol.manifest import PodManifest
from protocol.status import OperationState, PodStatus
from supervisor.core import stimuli as s
from supervisor.core.fleet import Fleet
from supervisor.core.fleet_terms import (
    Asked,
    Beat,
    Begun,
    EndFleet,
    EventHeard,
    ForPod,
    Hello,
    Instruction,
    PodStimulus,
    Publish,
    Released,
    Reply,
    Stimulus,
    Ticked,
)
from supervisor.core.health import HealthLimits
from supervisor.core.instructions import Release
from supervisor.core.life import Life, LifePolicy
from supervisor.core.operations import Operation
from supervisor.core.restart import Exit
from tests.supervisor.lives import CRASH, DONE

WALL_MS = 1_700_000_000_000
PID = 4242
REFUSED = "write_conflict"


def manifest(name: str, **settings: Any) -> PodManifest:
    """Return the manifest of a pod that may do nothing."""
    return PodManifest(name=name, fleet="f", workspace="/w", cwd="/w", **settings)


@dataclass
class Driven:
    """One fleet, and the time. Every stimulus is followed by `validate`.

    What is to be released is released at once, unless `gives_back` is off.
    """

    fleet: Fleet = field(default_factory=lambda: Fleet("f"))
    now: float = 100.0
    gives_back: bool = True

    def add(self, *names: str, policy: LifePolicy | None = None, **settings: Any) -> Driven:
        """Add pods; `settings` are their manifests'."""
        for name in names:
            self.fleet.add(
                manifest(name, **settings),
                policy=policy or LifePolicy(),
                limits=HealthLimits(),
            )
        return self

    def feed(self, stimulus: Stimulus, *, after_s: float = 0.0) -> list[Instruction]:
        """Hand over a stimulus `after_s` seconds later; returns what is to be done."""
        self.now += after_s
        out = self.fleet.handle(stimulus, self.now, WALL_MS)
        self.fleet.validate()
        for one in list(out) if self.gives_back else ():
            if isinstance(one, ForPod) and one.what == Release():
                out += self.feed(Released(one.pod))
        return out

    # -- one pod

    def life(self, pod: str) -> Life:
        """Return a pod's life."""
        return self.fleet.members[pod].life

    def status(self, pod: str) -> PodStatus:
        """Return the status that people see."""
        return self.life(pod).status

    def feel(self, pod: str, what: s.Stimulus, *, after_s: float = 0.0) -> list[Instruction]:
        """Have something happen to one pod."""
        return self.feed(PodStimulus(pod, what), after_s=after_s)

    def fork(self, pod: str) -> list[Instruction]:
        """Have its fork answered."""
        return self.feel(pod, s.Forked(self.life(pod).incarnation, PID))

    def hello(self, pod: str, **resume: Any) -> list[Instruction]:
        """Have it say hello."""
        return self.feed(
            Hello(
                pod,
                c.Hello(
                    pod=pod,
                    incarnation=self.life(pod).incarnation,
                    endpoint="ipc://pod",
                    pid=PID,
                    resume=c.Resume(**({"status": PodStatus.IDLE} | resume)),
                ),
            )
        )

    def join(self, *pods: str) -> list[Instruction]:
        """Have forks answered and hellos said."""
        out: list[Instruction] = []
        for pod in pods:
            out += self.fork(pod) + self.hello(pod)
        return out

    def up(self, *pods: str) -> Driven:
        """Start pods, and have them ready."""
        self.start(*pods)
        self.join(*pods)
        return self

    def exit(self, pod: str, how: Exit = CRASH) -> list[Instruction]:
        """Have its process end."""
        return self.feel(pod, s.Exited(self.life(pod).incarnation, how))

    def clear(self, pod: str) -> list[Instruction]:
        """Have its tree proven gone."""
        return self.feel(pod, s.TreeGone(self.life(pod).incarnation))

    def gone(self, pod: str, how: Exit = DONE) -> list[Instruction]:
        """Have its process end, with all it started."""
        return self.exit(pod, how) + self.clear(pod)

    def refuse(self, pod: str, cause: str = REFUSED) -> list[Instruction]:
        """Have its start refused."""
        incarnation = self.life(pod).incarnation
        return self.feel(pod, s.StartRefused(incarnation, cause, "bob writes there"))

    def beat(self, pod: str, seq: int, *, state_seq: int = 0) -> list[Instruction]:
        """Have it beat, idle."""
        incarnation = self.life(pod).incarnation
        waiting = c.Progress(what="waiting")
        return self.feed(Beat(pod, incarnation, seq, PodStatus.IDLE, waiting, state_seq))

    def event(self, pod: str, seq: int, event: ev.Event) -> list[Instruction]:
        """Have an event of its state lane arrive."""
        return self.feed(EventHeard(pod, self.life(pod).incarnation, seq, event))

    def silent(self, seconds: int) -> list[Instruction]:
        """Let seconds pass, one tick each, in which nobody is heard."""
        out: list[Instruction] = []
        for _ in range(seconds):
            out += self.feed(Ticked(1.0, 1.0), after_s=1.0)
        return out

    # -- the fleet

    def start(self, *pods: str, kind: str = "start") -> list[Instruction]:
        """Begin the first operation, `up`."""
        return self.feed(Begun("up", kind, pods))

    def ask(self, control: c.Control, id: str = "q", sender: str = "operator") -> list[Instruction]:
        """Ask for something."""
        return self.feed(Asked(id, sender, control))

    def operation(self, id: str = "q") -> Operation:
        """Return an operation."""
        return self.fleet.operations[id]

    def is_done(self, id: str = "q") -> bool:
        """Say whether an operation ended well."""
        return self.operation(id).state is OperationState.DONE

    def is_running(self, id: str = "q") -> bool:
        """Say whether an operation has not ended."""
        return self.operation(id).state is OperationState.RUNNING

    def failure(self, id: str = "q") -> ErrorBody:
        """Return why an operation failed."""
        error = self.operation(id).error
        assert error is not None, f"{id} is {self.operation(id).state}"
        return error


def replies(out: list[Instruction]) -> list[Reply]:
    """Return the replies among instructions."""
    return [one for one in out if isinstance(one, Reply)]


def refusal(out: list[Instruction]) -> ErrorBody:
    """Return the one refusal that was all that happened."""
    (reply,) = out
    assert isinstance(reply, Reply)
    assert not reply.ok
    assert isinstance(reply.body, ErrorBody)
    return reply.body


def for_pod(out: list[Instruction], pod: str) -> list[object]:
    """Return what is to be done for one pod."""
    return [one.what for one in out if isinstance(one, ForPod) and one.pod == pod]


def published(out: list[Instruction], kind: type[ev.Event]) -> list[ev.Event]:
    """Return the events of a kind that are to be published."""
    return [o.event for o in out if isinstance(o, Publish) and isinstance(o.event, kind)]


def end_of(out: list[Instruction]) -> EndFleet | None:
    """Return the end of the fleet, when it is told."""
    ends = [one for one in out if isinstance(one, EndFleet)]
    assert len(ends) <= 1
    return ends[0] if ends else None
