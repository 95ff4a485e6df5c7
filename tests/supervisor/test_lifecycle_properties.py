"""What stays true of a life whatever happens, in whatever order."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from protocol.events import PodStopped
from protocol.manifest import Restart
from protocol.status import PodStatus
from supervisor.core.health import Verdict
from supervisor.core.instructions import Fork, Instruction, Publish, Release
from supervisor.core.life import NO_PROCESS, LifePolicy, Phase, StopStage
from supervisor.core.restart import MOST_RESTARTS, WINDOW_S, Exit
from supervisor.core.stimuli import (
    Beat,
    Exited,
    Forked,
    ForkFailed,
    Hello,
    Kill,
    OfIncarnation,
    RestartAsked,
    Silence,
    Start,
    StartRefused,
    StatusChanged,
    Stimulus,
    Stop,
    Tick,
    TreeGone,
)
from tests.supervisor.lives import CRASH, DONE, KILLED, Pod, World

exits = st.sampled_from([DONE, CRASH, KILLED, Exit(78, None, "exit code 78")])
graces = st.sampled_from([None, 0.0, 1.0, 30.0])
ages = st.sampled_from([0, 0, 0, 0, 0, 1])
"""How many incarnations ago a message is from."""

happenings = st.one_of(
    st.builds(Start),
    st.builds(RestartAsked, graces),
    st.builds(Stop, graces),
    st.builds(Kill),
    st.builds(Forked, ages, st.just(4242)),
    st.builds(ForkFailed, ages, st.just("no memory"), st.booleans()),
    st.builds(StartRefused, ages, st.just("write_conflict")),
    st.builds(Hello, ages, st.sampled_from(PodStatus), st.just(4242), st.just("ipc://pod")),
    st.builds(StatusChanged, ages, st.sampled_from(PodStatus)),
    st.builds(Beat, ages, st.sampled_from(PodStatus)),
    st.builds(Silence, st.sampled_from(Verdict), st.floats(0, 100)),
    st.builds(Exited, ages, exits),
    st.builds(TreeGone, ages),
    st.builds(Tick),
)
histories = st.lists(st.tuples(happenings, st.sampled_from([0.0, 0.1, 1.0, 12.0, 61.0])))
policies = st.builds(
    LifePolicy, restart=st.sampled_from(Restart), jitter=st.floats(0, 1, exclude_max=True)
)


def aged(stimulus: Stimulus, incarnation: int) -> Stimulus:
    """Return the stimulus with its age made an incarnation."""
    if not isinstance(stimulus, OfIncarnation):
        return stimulus
    fields = {name: getattr(stimulus, name) for name in stimulus.__dataclass_fields__}
    made: Stimulus = type(stimulus)(
        **{**fields, "incarnation": incarnation - fields["incarnation"]}
    )
    return made


@dataclass
class Witness:
    """What an onlooker knows of one pod's processes, from stimuli and instructions alone."""

    incarnation: int = 0
    answered: bool = False
    exited: bool = False
    alive: bool = False
    asked_down: bool = True
    forks: list[float] = field(default_factory=list)

    def see_stimulus(self, stimulus: Stimulus) -> None:
        """Take note of what happened, before it is acted on."""
        if isinstance(stimulus, OfIncarnation) and stimulus.incarnation != self.incarnation:
            return
        match stimulus:
            case Start() | RestartAsked():
                self.asked_down = False
                self.forks.clear()
            case Stop() | Kill():
                self.asked_down = True
            case Forked() | Hello():
                self.answered = True
            case Exited():
                self.answered = self.exited = True
            case ForkFailed() | StartRefused() if not self.answered:
                self.alive = False
            case TreeGone() if self.exited:
                self.alive = False
            case _:
                pass

    def see_instruction(self, instruction: Instruction, now: float) -> None:
        """Hold what is to be done against what is known."""
        match instruction:
            case Fork(incarnation):
                assert not self.alive, "a start while the incarnation before may live"
                assert not self.asked_down, "a start of a pod that was asked down"
                assert incarnation == self.incarnation + 1
                self.incarnation = incarnation
                self.alive, self.answered, self.exited = True, False, False
                self.forks.append(now)
            case Release() | Publish(PodStopped()):
                assert not self.alive, "released or stopped while something may live"
            case _:
                pass


@given(policies, histories)
def test_nothing_starts_or_is_released_before_the_old_life_is_proven_gone(
    policy: LifePolicy, history: list[tuple[Stimulus, float]]
) -> None:
    pod, witness = Pod(policy), Witness()
    for happening, after_s in history:
        stimulus = aged(happening, pod.life.incarnation)
        witness.see_stimulus(stimulus)
        for instruction in pod.feel(stimulus, after_s=after_s):
            witness.see_instruction(instruction, pod.now)
        for first, last in zip(
            witness.forks, itertools.islice(witness.forks, MOST_RESTARTS + 1, None), strict=False
        ):
            assert last - first >= WINDOW_S, "more restarts than the policy allows"


@given(policies, histories)
def test_every_wait_has_a_deadline_or_an_answer_that_comes(
    policy: LifePolicy, history: list[tuple[Stimulus, float]]
) -> None:
    pod = Pod(policy)
    for happening, after_s in history:
        pod.feel(aged(happening, pod.life.incarnation), after_s=after_s)
        life = pod.life
        timed = life.phase in (Phase.FORKING, Phase.JOINING, Phase.BACKOFF) or (
            life.phase is Phase.STOPPING and life.stage is not StopStage.KILLED
        )
        assert (life.deadline is not None) == timed
        assert life.deadline is None or life.deadline == pod.wake_at
        assert (life.ready_since is not None) == (life.phase is Phase.READY)
        assert (life.stage is not None) == (life.phase in (Phase.ABORTING, Phase.STOPPING))
        assert life.pid is None or life.phase not in (Phase.CLEARING, *NO_PROCESS)


@given(policies, histories, st.booleans(), st.booleans(), graces)
def test_a_stop_ends_any_life_within_its_two_graces_however_stubborn_the_pod(
    policy: LifePolicy,
    history: list[tuple[Stimulus, float]],
    heeds_shutdown: bool,
    heeds_term: bool,
    grace_s: float | None,
) -> None:
    pod = Pod(policy)
    for happening, after_s in history:
        pod.feel(aged(happening, pod.life.incarnation), after_s=after_s)
    world = World(pod, heeds_shutdown=heeds_shutdown, heeds_term=heeds_term)
    asked_at, incarnation = pod.now, pod.life.incarnation
    world.carry_out(pod.feel(Stop(grace_s)))
    if pod.life.phase is Phase.ABORTING:
        world.carry_out(pod.feel(Forked(incarnation, pid=4242)))
    while pod.life.deadline is not None:
        world.carry_out(pod.wake())
    if pod.life.stage is StopStage.KILLED:  # the kill was ordered before this world began
        world.carry_out(pod.feel(Exited(incarnation, KILLED)))
    if pod.life.phase is Phase.CLEARING:
        world.carry_out(pod.feel(TreeGone(incarnation)))
    assert pod.status() in (PodStatus.DEFINED, PodStatus.STOPPED, PodStatus.FAILED)
    assert pod.life.incarnation == incarnation
    longest = policy.grace_s if grace_s is None else grace_s
    assert pod.now - asked_at <= 2 * longest + policy.dump_s


@given(policies, st.lists(st.tuples(st.floats(0, 90), exits), max_size=30))
def test_a_pod_left_to_its_policy_comes_to_rest_or_is_ready(
    policy: LifePolicy, lives: list[tuple[float, Exit]]
) -> None:
    pod = Pod(policy)
    world = World(pod)
    world.carry_out(pod.feel(Start()))
    for life_s, exit in lives:
        if pod.life.ready_since is None:
            break
        world.carry_out(pod.exit(exit, after_s=life_s))
        if pod.life.phase is Phase.BACKOFF:
            world.carry_out(pod.wake())
    assert pod.life.phase in (Phase.READY, Phase.STOPPED, Phase.FAILED)
    assert pod.life.incarnation == pod.life.restarts + 1
