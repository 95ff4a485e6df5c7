"""Lives for tests: one pod driven by hand, and a small world that answers its instructions."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.status import PodStatus
from supervisor.core.health import Verdict
from supervisor.core.instructions import EndTree, Fork, Instruction, SendShutdown, Signal, WakeAt
from supervisor.core.life import Life, LifePolicy, Phase
from supervisor.core.lifecycle import step
from supervisor.core.restart import Exit
from supervisor.core.stimuli import (
    Exited,
    Forked,
    Hello,
    Silence,
    Start,
    Stimulus,
    Stop,
    Tick,
    TreeGone,
)

DONE = Exit(0, None, "exit code 0")
CRASH = Exit(1, None, "exit code 1")
KILLED = Exit(None, "SIGKILL", "SIGKILL")


@dataclass
class Pod:
    """One life, the time, and what the last stimulus brought. Wake-ups are kept apart."""

    policy: LifePolicy = field(default_factory=LifePolicy)
    life: Life = field(default_factory=Life)
    now: float = 100.0
    wake_at: float | None = None

    def feel(self, stimulus: Stimulus, *, after_s: float = 0.0) -> tuple[Instruction, ...]:
        """Take a stimulus `after_s` seconds later, and return what is to be done."""
        self.now += after_s
        self.life, instructions = step(self.life, stimulus, policy=self.policy, now=self.now)
        for one in instructions:
            if isinstance(one, WakeAt):
                self.wake_at = one.at
        return tuple(one for one in instructions if not isinstance(one, WakeAt))

    def status(self) -> PodStatus:
        """The status that people see."""
        return self.life.status

    def hello(self, status: PodStatus = PodStatus.IDLE) -> Hello:
        """Return the hello of the present incarnation."""
        return Hello(self.life.incarnation, status, pid=4242, endpoint="ipc://pod")

    def fork(self) -> tuple[Instruction, ...]:
        """Have the fork answered."""
        return self.feel(Forked(self.life.incarnation, pid=4242))

    def join(self) -> tuple[Instruction, ...]:
        """Have the fork answered and the hello said."""
        self.fork()
        return self.feel(self.hello())

    def up(self) -> Pod:
        """Start it, and have it ready."""
        self.feel(Start())
        self.join()
        return self

    def exit(self, how: Exit = CRASH, *, after_s: float = 0.0) -> tuple[Instruction, ...]:
        """Have its process end."""
        return self.feel(Exited(self.life.incarnation, how), after_s=after_s)

    def clear(self) -> tuple[Instruction, ...]:
        """Have its tree proven gone."""
        return self.feel(TreeGone(self.life.incarnation))

    def wake(self) -> tuple[Instruction, ...]:
        """Let the time come that was asked for last."""
        assert self.wake_at is not None
        self.now = max(self.now, self.wake_at)
        return self.feel(Tick())


def in_phase(phase: Phase) -> Pod:
    """Return a pod that came to the phase by what can really happen."""
    pod = Pod()
    if phase is Phase.DEFINED:
        return pod
    pod.feel(Start())
    match phase:
        case Phase.FORKING:
            pass
        case Phase.ABORTING:
            pod.feel(Stop())
        case Phase.JOINING:
            pod.fork()
        case _:
            pod.join()
            _beyond_ready(pod, phase)
    assert pod.life.phase is phase
    return pod


def _beyond_ready(pod: Pod, phase: Phase) -> None:
    match phase:
        case Phase.UNREACHABLE:
            pod.feel(Silence(Verdict.UNREACHABLE, 10.0))
        case Phase.STOPPING:
            pod.feel(Stop())
        case Phase.CLEARING:
            pod.exit()
        case Phase.STOPPED:
            pod.exit(DONE)
            pod.clear()
        case Phase.FAILED:
            pod.exit(Exit(78, None, "exit code 78"))
            pod.clear()
        case Phase.BACKOFF:
            pod.exit()
            pod.clear()
            pod.join()
            pod.exit()
            pod.clear()
        case _:
            pass


@dataclass
class World:
    """Answers what a life wants done; its pod says hello, and heeds what it is set to heed."""

    pod: Pod
    heeds_shutdown: bool = True
    heeds_term: bool = True

    def carry_out(self, instructions: tuple[Instruction, ...]) -> None:
        """Carry them out, and feed back what they bring about, until nothing more follows."""
        for instruction in instructions:
            for answer in self._answers(instruction):
                self.carry_out(self.pod.feel(answer))

    def _answers(self, instruction: Instruction) -> list[Stimulus]:
        incarnation = self.pod.life.incarnation
        match instruction:
            case Fork(incarnation=new):
                return [Forked(new, pid=4242), self.pod.hello()]
            case SendShutdown() if self.heeds_shutdown:
                return [Exited(incarnation, DONE)]
            case Signal("SIGTERM") if self.heeds_term:
                return [Exited(incarnation, Exit(None, "SIGTERM", "SIGTERM"))]
            case Signal("SIGKILL"):
                return [Exited(incarnation, KILLED)]
            case EndTree():
                return [TreeGone(incarnation)]
            case _:
                return []
