"""What the rows of the lifecycle's table do: each act makes the next life and says what is wanted.

An act is called in the phases and for the cause that its rows name, and checks neither again. The
deadlines it sets become `WakeAt` in `lifecycle.step`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from protocol.events import (
    PodExited,
    PodFailed,
    PodReady,
    PodStarting,
    PodStopped,
    PodUnreachable,
)
from protocol.status import READY, PodStatus
from supervisor.core.health import Verdict
from supervisor.core.instructions import (
    DumpStacks,
    EndTree,
    Fork,
    Instruction,
    Publish,
    PublishBackoff,
    Release,
    SendShutdown,
    Signal,
    TellParent,
)
from supervisor.core.life import Desired, Life, LifePolicy, Phase, StopStage
from supervisor.core.restart import (
    Backoff,
    Exit,
    GiveUp,
    RestartHistory,
    RestartNow,
    Stay,
    decide,
)
from supervisor.core.stimuli import (
    Asked,
    Beat,
    Exited,
    Forked,
    ForkFailed,
    Hello,
    Kill,
    RestartAsked,
    Silence,
    Start,
    StartRefused,
    StatusChanged,
    Stop,
    Tick,
    TreeGone,
)

Step = tuple[Life, tuple[Instruction, ...]]


@dataclass(frozen=True, slots=True)
class Moment:
    """What an act knows besides the life and the stimulus."""

    policy: LifePolicy
    now: float


# -- starting -------------------------------------------------------------------------------------


def begin(life: Life, asked: Start | RestartAsked, at: Moment) -> Step:
    """Start afresh: earlier restarts are forgotten."""
    return _fork(replace(life, desired=Desired.UP, history=RestartHistory()), asked.cause, at)


def _fork(life: Life, cause: str, at: Moment) -> Step:
    incarnation = life.incarnation + 1
    forking = Life(
        phase=Phase.FORKING,
        cause=cause,
        incarnation=incarnation,
        desired=life.desired,
        deadline=at.now + at.policy.hello_timeout_s,
        last_exit=life.last_exit,
        history=life.history,
        restarts=life.restarts,
    )
    return forking, (Publish(PodStarting(incarnation=incarnation)), Fork(incarnation))


def _restart(life: Life, at: Moment) -> Step:
    assert life.last_exit is not None
    history = life.history.restarted(at.now)
    restarted = replace(life, history=history, restarts=life.restarts + 1)
    return _fork(restarted, f"restart after {life.last_exit.cause}", at)


def forked(life: Life, answer: Forked, at: Moment) -> Step:
    """Await the hello of the new process."""
    deadline = at.now + at.policy.hello_timeout_s
    return replace(life, phase=Phase.JOINING, pid=answer.pid, deadline=deadline), ()


def forked_too_late(life: Life, answer: Forked | Hello, at: Moment) -> Step:
    """End the new process: it was called off while it was made."""
    born = replace(life, phase=Phase.STOPPING, pid=answer.pid)
    return _killed(born) if life.stage is StopStage.KILLED else _termed(born, at)


def unborn(life: Life, answer: ForkFailed, at: Moment) -> Step:
    """Treat a fork that failed as an exit, for the restart policy to judge."""
    exited = Exit(None, None, cause=answer.message, config_error=answer.config_error)
    return _settle(replace(life, last_exit=exited), at)


def refused(life: Life, answer: StartRefused, at: Moment) -> Step:
    """Fail without another try, unless something else is wanted by now."""
    if life.desired is Desired.DOWN or life.again:
        return _settle(life, at)
    return _ended(replace(life, message=answer.message), Phase.FAILED, answer.cause)


# -- being up -------------------------------------------------------------------------------------


def _said(life: Life, status: PodStatus) -> PodStatus:
    # The other statuses are not the pod's to say.
    return status if status in READY else life.said


def _ready(life: Life, cause: str, at: Moment) -> Step:
    assert life.pid is not None
    ready = replace(
        life, phase=Phase.READY, cause=cause, greeted=True, ready_since=at.now, deadline=None
    )
    event = PodReady(incarnation=life.incarnation, pid=life.pid, endpoint=life.endpoint)
    return ready, (Publish(event),)


def reconnected(life: Life, hello: Hello, at: Moment) -> Step:
    """Take over what a new connection of a ready pod says."""
    said = _said(life, hello.status)
    pid = hello.pid if life.pid is None else life.pid  # what the fork brought is no claim
    return replace(life, said=said, pid=pid, endpoint=hello.endpoint), ()


def joined(life: Life, hello: Hello, at: Moment) -> Step:
    """Be ready: the pod said hello."""
    return _ready(reconnected(life, hello, at)[0], "hello", at)


def heard(life: Life, word: StatusChanged | Beat, at: Moment) -> Step:
    """Take over the pod's own word."""
    return replace(life, said=_said(life, word.status)), ()


def back(life: Life, word: StatusChanged | Beat, at: Moment) -> Step:
    """Be ready again: the pod was silent, not dead."""
    return _ready(heard(life, word, at)[0], "heard again", at)


def judged(life: Life, silence: Silence, at: Moment) -> Step:
    """Become unreachable, or be ended for a hang, as the silence says."""
    match silence.verdict:
        case Verdict.HANG | Verdict.STALL as doom:
            ending = replace(
                life,
                phase=Phase.STOPPING,
                cause=doom.value,
                doom=doom.value,
                stage=StopStage.DUMPED,
                grace_s=at.policy.grace_s,
                deadline=at.now + at.policy.dump_s,
            )
            return ending, (DumpStacks(),)
        case Verdict.UNREACHABLE if life.phase is Phase.READY:
            lost = replace(life, phase=Phase.UNREACHABLE, cause="silent")
            return lost, (Publish(PodUnreachable(silence_s=silence.silence_s)),)
        case _:
            return life, ()


# -- being ended ----------------------------------------------------------------------------------


def keep_wish(life: Life, asked: Asked, at: Moment) -> Step:
    """Remember what is wanted, and nothing else."""
    up = isinstance(asked, Start | RestartAsked)
    return replace(life, desired=Desired.UP if up else Desired.DOWN), ()


def change_end(life: Life, asked: Asked, at: Moment) -> Step:
    """Change what follows once all is proven gone."""
    wishing, _ = keep_wish(life, asked, at)
    return replace(wishing, again=wishing.desired is Desired.UP, cause=asked.cause), ()


def ask(life: Life, asked: Stop | RestartAsked, at: Moment) -> Step:
    """Begin a stop with the `shutdown` method."""
    grace_s = _grace_s(asked, at)
    ending = replace(
        change_end(life, asked, at)[0],
        phase=Phase.STOPPING,
        stage=StopStage.ASKED,
        grace_s=grace_s,
        deadline=at.now + grace_s,
    )
    return ending, (SendShutdown(grace_ms=round(grace_s * 1000)),)


def term(life: Life, asked: Stop | RestartAsked, at: Moment) -> Step:
    """Begin a stop with SIGTERM."""
    ending = replace(change_end(life, asked, at)[0], phase=Phase.STOPPING)
    return _termed(replace(ending, grace_s=_grace_s(asked, at)), at)


def kill(life: Life, asked: Kill, at: Moment) -> Step:
    """Kill the whole tree."""
    return _killed(change_end(life, asked, at)[0])


def abort(life: Life, asked: Stop | RestartAsked | Kill, at: Moment) -> Step:
    """Have the process ended as soon as its fork is answered."""
    ending = replace(change_end(life, asked, at)[0], phase=Phase.ABORTING, deadline=None)
    if isinstance(asked, Kill):
        return replace(ending, stage=StopStage.KILLED), ()
    return replace(ending, stage=StopStage.TERMED, grace_s=_grace_s(asked, at)), ()


def hasten(life: Life, asked: Stop | RestartAsked, at: Moment) -> Step:
    """Change what follows a stop in progress, and perhaps shorten it."""
    grace_s = min(life.grace_s, _grace_s(asked, at))
    hastened = replace(change_end(life, asked, at)[0], grace_s=grace_s)
    if life.deadline is None:
        return hastened, ()
    return replace(hastened, deadline=min(life.deadline, at.now + grace_s)), ()


def escalate(life: Life, tick: Tick, at: Moment) -> Step:
    """Go on to the next stage of the stop."""
    return _killed(life) if life.stage is StopStage.TERMED else _termed(life, at)


def hello_overdue(life: Life, tick: Tick, at: Moment) -> Step:
    """End a start that took too long, as a failed one."""
    doom = f"no hello in {at.policy.hello_timeout_s:g} s"
    doomed = replace(life, cause=doom, doom=doom)
    if life.phase is Phase.JOINING:
        return _killed(doomed)
    return replace(doomed, phase=Phase.ABORTING, stage=StopStage.KILLED, deadline=None), ()


def _grace_s(asked: Stop | RestartAsked, at: Moment) -> float:
    return at.policy.grace_s if asked.grace_s is None else asked.grace_s


def _termed(life: Life, at: Moment) -> Step:
    termed = replace(life, stage=StopStage.TERMED, deadline=at.now + life.grace_s)
    return termed, (Signal("SIGTERM"), Signal("SIGCONT"))


def _killed(life: Life) -> Step:
    killed = replace(life, phase=Phase.STOPPING, stage=StopStage.KILLED, deadline=None)
    return killed, (Signal("SIGKILL", whole_tree=True),)


# -- being gone -----------------------------------------------------------------------------------


def exited(life: Life, seen: Exited, at: Moment) -> Step:
    """Record the exit, and have what the process started ended."""
    ended = replace(seen.exit, cause=life.doom) if life.doom else seen.exit
    on_its_way = life.phase in (Phase.ABORTING, Phase.STOPPING)
    gone = replace(
        life,
        phase=Phase.CLEARING,
        cause=life.cause if on_its_way else ended.cause,
        pid=None,
        stage=None,
        deadline=None,
        last_exit=ended,
    )
    event = PodExited(cause=ended.cause, code=ended.code, signal=ended.signal)
    return gone, (Publish(event), EndTree())


def cleared(life: Life, gone: TreeGone, at: Moment) -> Step:
    """Decide what becomes of the pod, now that nothing of it is alive."""
    return _settle(life, at)


def _settle(life: Life, at: Moment) -> Step:
    """Decide what becomes of a pod of which nothing is alive."""
    if life.desired is Desired.DOWN:
        return _ended(life, Phase.STOPPED, life.cause)
    if life.again:
        return _fork(replace(life, history=RestartHistory()), life.cause, at)
    assert life.last_exit is not None
    may_succeed = life.greeted and not life.doom  # a hung pod may well answer SIGTERM with exit 0
    decision = decide(
        life.last_exit,
        life.history,
        policy=at.policy.restart,
        success_codes=at.policy.success_codes if may_succeed else (),
        now=at.now,
        jitter=at.policy.jitter,
    )
    match decision:
        case RestartNow():
            return _restart(life, at)
        case Backoff(wait_s, attempt):
            waiting = _at_rest(life, Phase.BACKOFF, life.last_exit.cause)
            return replace(waiting, deadline=at.now + wait_s), (PublishBackoff(wait_s, attempt),)
        case GiveUp(cause):
            return _ended(replace(life, message=life.last_exit.message), Phase.FAILED, cause)
        case Stay(cause):
            return _ended(life, Phase.STOPPED, cause)
        case _:
            assert_never(decision)


def _ended(life: Life, phase: Phase, cause: str) -> Step:
    failed = phase is Phase.FAILED
    event = PodFailed(cause=cause, message=life.message) if failed else PodStopped(cause=cause)
    return _at_rest(life, phase, cause), (Release(), Publish(event), TellParent(cause))


def _at_rest(life: Life, phase: Phase, cause: str) -> Life:
    return replace(
        life,
        phase=phase,
        cause=cause,
        pid=None,
        ready_since=None,
        stage=None,
        deadline=None,
        doom=None,
        again=False,
    )


def call_off(life: Life, asked: Stop | Kill, at: Moment) -> Step:
    """Be stopped: nothing has to be ended first."""
    return _ended(keep_wish(life, asked, at)[0], Phase.STOPPED, asked.cause)


def backoff_over(life: Life, tick: Tick, at: Moment) -> Step:
    """Make the restart that was waited for."""
    return _restart(life, at)
