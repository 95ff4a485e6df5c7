"""What stays true of a fleet whatever is asked, in whatever order the world answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import control as c
from protocol import events as ev
from protocol.manifest import Restart
from protocol.status import PodStatus
from supervisor.core import instructions as li
from supervisor.core import stimuli as s
from supervisor.core.fleet import exit_of
from supervisor.core.fleet_terms import (
    Asked,
    DeliverTask,
    EndAsked,
    EndFleet,
    Forget,
    ForPod,
    Instruction,
    PodStimulus,
    Spawned,
    StatusHeard,
    Stimulus,
    TaskAnswered,
    Ticked,
)
from supervisor.core.life import NO_PROCESS, LifePolicy, Phase
from tests.supervisor.fleets import PID, Driven, replies

PODS = ("alice", "bob", "carol")
EXITS = (
    exit_of(0, None, ""),
    exit_of(1, None, ""),
    exit_of(78, None, ""),
    exit_of(None, "SIGKILL", ""),
)
KINDS = ("start", "start idle")
CONTROLS: tuple[c.Control, ...] = (
    c.Stop(pods=("alice", "bob")),
    c.Stop(all_pods=True, grace_s=0.5),
    c.Kill(pods=("bob",)),
    c.Restart(pods=("alice", "alice", "carol"), grace_s=1.0),
    c.Restart(pods=PODS),
    c.Restore(pod="carol"),
    c.Restore(pod="alice"),
    c.Delete(pods=("carol", "bob")),
    c.Stop(pods=("alice", "mallory")),
    c.StatusOf(pod="bob"),
    c.Why(pod="bob"),
    c.Down(grace_s=1.0),
    c.Drain(),
)
ACTS = ("ask", "answer", "crash", "wake", "say", "repeat", "tick", "end", "answer", "ask", "ask")

happenings = st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 60)), max_size=60)


@dataclass
class World:
    """Three pods and a shell that answers what is wanted, late and in any order.

    `forks`, `trees` and `tasks` are not answered yet; `alive` maps each process's pod to whether it
    has said hello; `claims` are the pods whose scope was claimed and not released.
    """

    driven: Driven
    forks: dict[str, int] = field(default_factory=dict)
    trees: dict[str, int] = field(default_factory=dict)
    tasks: list[str] = field(default_factory=list)
    alive: dict[str, bool] = field(default_factory=dict)
    claims: set[str] = field(default_factory=set)
    wakes: dict[str, float] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    beats: int = 0
    ended: bool = False

    def feed(self, stimulus: Stimulus) -> None:
        """Hand a stimulus over, hold the answer against what is known, and carry it out."""
        out = self.driven.feed(stimulus)
        wanted = [(stimulus.request_id, stimulus.sender)] if isinstance(stimulus, Asked) else []
        assert [(reply.request_id, reply.sender) for reply in replies(out)] == wanted
        for instruction in out:
            self.carry_out(instruction)

    def carry_out(self, instruction: Instruction) -> None:
        """Take note of what is to be done."""
        match instruction:
            case ForPod(pod, li.Fork(incarnation)):
                assert not self.ended, "a start after the end"
                busy = (self.forks, self.trees, self.alive)
                assert not any(pod in one for one in busy), "a start beside an old life"
                self.forks[pod] = incarnation
                self.claims.add(pod)
            case ForPod(pod, li.EndTree()):
                assert pod not in self.alive
                self.trees[pod] = self.driven.life(pod).incarnation
            case ForPod(pod, li.WakeAt(at)):
                self.wakes[pod] = at
            case ForPod(pod, li.Release()):
                assert not any(pod in one for one in (self.forks, self.trees, self.alive))
                self.claims.discard(pod)
            case Forget(pod):
                assert pod not in self.claims, "forgotten with its claim"
            case DeliverTask(pod):
                assert self.alive.get(pod), "a task for a pod that is not there"
                self.tasks.append(pod)
            case EndFleet():
                assert not self.ended, "ended twice"
                assert not {*self.forks, *self.trees, *self.alive}, "somebody lives"
                self.ended = True
            case _:
                pass

    # -- what may happen

    def act(self, act: str, number: int) -> None:
        """Have one thing happen; `number` chooses which."""
        match act:
            case "ask":
                sender = ("operator", "dave")[number % 2]
                control = CONTROLS[number % len(CONTROLS)]
                self.asked.append(Asked(f"q{len(self.asked)}", sender, control))
                self.feed(self.asked[-1])
            case "repeat" if self.asked:
                self.feed(self.asked[number % len(self.asked)])
            case "answer" if answers := list(self.answers(number)):
                answers[number % len(answers)]()
            case "say" if saying := sorted(pod for pod, said in self.alive.items() if said):
                self.say(saying[number % len(saying)], number)
            case "crash" if self.alive:
                pod = sorted(self.alive)[number % len(self.alive)]
                self.exit(pod, number)
            case "wake":
                self.driven.now += number / 4
                self.wake()
            case "tick":
                self.driven.now += number
                self.feed(Ticked(float(number), 1.0))
            case "end" if number > 57:
                self.feed(EndAsked("SIGTERM"))
            case _:
                pass

    def answers(self, number: int) -> Iterator[Callable[[], None]]:
        """Yield one call for each answer that is due."""
        for pod in sorted(self.forks):
            yield partial(self.answer_fork, pod, number)
        for pod in sorted(self.trees):
            yield partial(self.clear, pod)
        for pod in sorted(pod for pod, said in self.alive.items() if not said):
            yield partial(self.hello, pod)
        for pod in self.tasks:
            yield partial(self.answer_task, pod, "the disk is full" if number % 5 == 0 else None)

    def answer_fork(self, pod: str, number: int = 1) -> None:
        incarnation = self.forks.pop(pod)
        match number % 7:
            case 0:
                what: s.Stimulus = s.ForkFailed(incarnation, "no memory")
            case 3:
                what = s.StartRefused(incarnation, "write_conflict", "bob writes there")
            case _:
                what = s.Forked(incarnation, PID)
                self.alive[pod] = False
        self.feed(PodStimulus(pod, what))

    def hello(self, pod: str) -> None:
        self.alive[pod] = True
        for instruction in self.driven.hello(pod):
            self.carry_out(instruction)

    def clear(self, pod: str) -> None:
        self.feed(PodStimulus(pod, s.TreeGone(self.trees.pop(pod))))

    def answer_task(self, pod: str, error: str | None) -> None:
        self.tasks.remove(pod)
        self.feed(TaskAnswered(pod, error))

    def exit(self, pod: str, number: int) -> None:
        del self.alive[pod]
        incarnation = self.driven.life(pod).incarnation
        self.feed(PodStimulus(pod, s.Exited(incarnation, EXITS[number % len(EXITS)])))
        if pod in self.tasks:
            self.answer_task(pod, "ended before it answered")

    def say(self, pod: str, number: int) -> None:
        self.beats += 1
        incarnation = self.driven.life(pod).incarnation
        words = (PodStatus.RUNNING, PodStatus.IDLE, PodStatus.PAUSED)
        seq = self.driven.fleet.members[pod].heard + number % 3
        match number % 4:
            case 0:
                out = self.driven.beat(pod, self.beats, state_seq=seq)
            case 1:
                out = self.driven.event(pod, seq, ev.Status(status=words[number % 3]))
            case _:
                out = self.driven.feed(StatusHeard(pod, incarnation, words[number % 3], seq))
        for instruction in out:
            self.carry_out(instruction)

    def wake(self) -> None:
        for pod in sorted(self.wakes):
            if self.wakes[pod] <= self.driven.now:
                del self.wakes[pod]
                self.feed(PodStimulus(pod, s.Tick()))

    # -- and at last

    def come_to_rest(self) -> None:
        """Answer all that is due, well, until nothing is."""
        for _ in range(200):
            self._answer_all()
            due = [
                pod
                for pod, at in self.wakes.items()
                if pod in self.driven.fleet.members and self.driven.life(pod).deadline == at
            ]
            if not (self.forks or self.trees or self.tasks or due or self._leaving()):
                return
            if due:
                self.driven.now = max(self.driven.now, min(self.wakes[pod] for pod in due))
                self.wake()
        raise AssertionError("it goes on for ever")

    def _answer_all(self) -> None:
        for pod in list(self.forks):
            self.answer_fork(pod)
        for pod, said in list(self.alive.items()):
            if not said:
                self.hello(pod)
        for pod in self._leaving():
            self.exit(pod, 3)
        for pod in list(self.trees):
            self.clear(pod)
        for pod in list(self.tasks):
            self.answer_task(pod, None)
        for pod in list(self.alive):
            self.beats += 1
            heard = self.driven.fleet.members[pod].heard + 1
            for instruction in self.driven.beat(pod, self.beats, state_seq=heard):
                self.carry_out(instruction)

    def _leaving(self) -> list[str]:
        return [pod for pod in self.alive if self.driven.life(pod).phase is Phase.STOPPING]


@settings(max_examples=400)
@given(
    st.sampled_from(Restart),
    st.booleans(),
    st.booleans(),
    st.sampled_from(KINDS),
    happenings,
)
def test_every_control_is_answered_once_every_operation_ends_and_the_end_comes_last(
    restart: Restart, essential: bool, task: bool, kind: str, history: list[tuple[str, int]]
) -> None:
    driven = Driven()
    policy = LifePolicy(restart=restart)
    driven.add("alice", policy=policy, essential=essential, task="look" if task else None)
    driven.add("bob", "carol", policy=policy)
    world = World(driven)
    for instruction in driven.start("alice", "bob", kind=kind):
        world.carry_out(instruction)
    world.feed(Spawned("spawned", "carol"))
    for act, number in history:
        world.act(act, number)

    world.come_to_rest()

    for operation in driven.fleet.operations.values():
        assert operation.state != "running", f"{operation.kind}: {operation.message}"
    lives = {pod: member.life for pod, member in driven.fleet.members.items()}
    for pod, life in lives.items():
        assert (life.phase in NO_PROCESS) == (pod not in world.alive)
        assert life.phase is not Phase.BACKOFF
        assert (pod in world.claims) == (pod in world.alive)
    assert world.ended == driven.fleet.is_ending, "an end that was asked for comes"
    if world.ended:
        assert not world.alive
