"""Lives told step by step: what a pod's supervisor does, in which order, and what it never does."""

from __future__ import annotations

import pytest

from protocol.events import (
    PodExited,
    PodFailed,
    PodReady,
    PodStarting,
    PodStopped,
    PodUnreachable,
)
from protocol.manifest import Restart
from protocol.status import PodStatus
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
from supervisor.core.life import Desired, LifePolicy, Phase, StopStage, adopted
from supervisor.core.restart import Exit
from supervisor.core.stimuli import (
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
from tests.supervisor.lives import CRASH, DONE, KILLED, Pod, in_phase

TERM = (Signal("SIGTERM"), Signal("SIGCONT"))
KILL = (Signal("SIGKILL", whole_tree=True),)


def fork(incarnation: int) -> tuple[Instruction, ...]:
    """Return what a start wants done."""
    return Publish(PodStarting(incarnation=incarnation)), Fork(incarnation)


def ended(cause: str) -> tuple[Instruction, ...]:
    """Return what a stopped pod leaves to be done."""
    return Release(), Publish(PodStopped(cause=cause)), TellParent(cause)


def failed(cause: str, message: str = "") -> tuple[Instruction, ...]:
    """Return what a failed pod leaves to be done."""
    return Release(), Publish(PodFailed(cause=cause, message=message)), TellParent(cause)


# -- starting -------------------------------------------------------------------------------------


def test_a_pod_is_ready_with_its_hello_and_not_before() -> None:
    pod = Pod()
    assert pod.feel(Start()) == fork(1)
    assert pod.fork() == ()
    assert pod.status() is PodStatus.STARTING
    assert pod.feel(StatusChanged(1, PodStatus.IDLE)) == ()
    assert pod.status() is PodStatus.STARTING
    ready = PodReady(incarnation=1, pid=4242, endpoint="ipc://pod")
    assert pod.feel(pod.hello()) == (Publish(ready),)
    assert pod.status() is PodStatus.IDLE


def test_a_hello_that_overtakes_the_answer_to_the_fork_is_taken() -> None:
    pod = Pod()
    pod.feel(Start())
    pod.feel(Hello(1, PodStatus.PAUSED, pid=7, endpoint="ipc://pod"))
    assert pod.feel(Forked(1, pid=7)) == ()
    assert (pod.status(), pod.life.pid) == (PodStatus.PAUSED, 7)


def test_a_new_connection_changes_the_endpoint_and_never_the_pid() -> None:
    pod = Pod().up()
    assert pod.feel(Hello(1, PodStatus.RUNNING, pid=1, endpoint="ipc://new")) == ()
    assert (pod.status(), pod.life.pid) == (PodStatus.RUNNING, 4242)
    assert pod.life.endpoint == "ipc://new"


def test_a_pod_without_a_hello_is_killed_and_restarted_as_a_failure() -> None:
    pod = in_phase(Phase.JOINING)
    assert pod.wake() == KILL
    assert pod.now == 110.0
    assert pod.exit(KILLED)[0] == Publish(PodExited(cause="no hello in 10 s", signal="SIGKILL"))
    assert pod.clear() == fork(2)


def test_a_fork_that_is_never_answered_in_time_is_killed_when_it_is() -> None:
    pod = in_phase(Phase.FORKING)
    assert pod.wake() == ()
    assert pod.status() is PodStatus.STOPPING
    assert pod.fork() == KILL


def test_an_exit_before_the_first_hello_is_a_failure_even_with_code_zero() -> None:
    pod = in_phase(Phase.JOINING)
    pod.exit(DONE)
    assert pod.clear() == fork(2)


def test_a_failed_fork_is_tried_again_like_any_failed_start() -> None:
    pod = Pod()
    pod.feel(Start())
    assert pod.feel(ForkFailed(1, "no memory")) == fork(2)
    assert pod.feel(ForkFailed(2, "no memory")) == (PublishBackoff(0.5, 2),)


def test_a_configuration_error_at_the_fork_is_not_retried() -> None:
    pod = Pod()
    pod.feel(Start())
    assert pod.feel(ForkFailed(1, "no such profile", True)) == failed("no such profile")
    assert (pod.status(), pod.life.restarts) == (PodStatus.FAILED, 0)


def test_a_start_that_is_refused_fails_at_once_and_names_the_cause() -> None:
    pod = Pod()
    pod.feel(Start())
    done = pod.feel(StartRefused(1, "write_conflict", "alice holds src"))
    assert done == failed("write_conflict", "alice holds src")
    assert (pod.life.cause, pod.life.message) == ("write_conflict", "alice holds src")
    assert pod.life.desired is Desired.UP


# -- restarting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "exit", [Exit(78, None, "exit code 78"), Exit(1, None, "missing_key", True)]
)
@pytest.mark.parametrize("policy", Restart)
def test_a_configuration_error_is_never_retried(policy: Restart, exit: Exit) -> None:
    pod = Pod(LifePolicy(restart=policy)).up()
    pod.exit(exit)
    assert pod.clear() == failed(exit.cause)
    assert pod.life.restarts == 0


def test_a_crashed_pod_is_restarted_only_when_its_tree_is_proven_gone() -> None:
    pod = Pod().up()
    assert pod.exit(KILLED) == (Publish(PodExited(cause="SIGKILL", signal="SIGKILL")), EndTree())
    assert pod.status() is PodStatus.STOPPING
    assert pod.clear() == fork(2)
    assert pod.life.cause == "restart after SIGKILL"
    assert (pod.life.restarts, pod.life.last_exit) == (1, KILLED)


def test_the_second_restart_waits_and_keeps_the_scope() -> None:
    pod = Pod().up()
    pod.exit()
    pod.clear()
    pod.join()
    pod.exit()
    assert pod.clear() == (PublishBackoff(0.5, 2),)
    assert pod.status() is PodStatus.BACKOFF
    assert pod.wake() == fork(3)


def test_a_pod_that_crashes_just_after_each_start_is_given_up_and_its_parent_told() -> None:
    pod = Pod().up()
    waits = []
    while pod.status() is not PodStatus.FAILED:
        pod.exit(after_s=0.1)
        done = pod.clear()
        waits += [one.wait_s for one in done if isinstance(one, PublishBackoff)]
        if pod.status() is PodStatus.BACKOFF:
            pod.wake()
        if pod.status() is PodStatus.STARTING:
            pod.join()
    assert waits == [0.5, 1, 2, 4]
    assert done == failed("5 restarts in 60 s, the last exit: exit code 1")
    assert pod.life.incarnation == 6


def test_a_healthy_minute_makes_the_next_restart_immediate() -> None:
    pod = in_phase(Phase.BACKOFF)
    pod.wake()
    pod.join()
    pod.exit(after_s=60.0)
    assert pod.clear() == fork(4)


def test_a_minute_of_silence_is_not_a_healthy_minute() -> None:
    pod = in_phase(Phase.BACKOFF)
    pod.wake()
    pod.join()
    pod.feel(Silence(Verdict.HANG, silence_s=60.0), after_s=61.0)
    pod.exit()
    assert pod.clear() == (PublishBackoff(1.0, 3),)


def test_a_healthy_minute_counts_even_if_it_ends_in_silence() -> None:
    pod = in_phase(Phase.BACKOFF)
    pod.wake()
    pod.join()
    pod.feel(Silence(Verdict.UNREACHABLE, silence_s=10.0), after_s=70.0)
    pod.exit()
    assert pod.clear() == fork(4)


def test_a_pod_that_is_done_stays_down_and_is_still_wanted() -> None:
    pod = Pod().up()
    pod.exit(DONE)
    assert pod.clear() == ended("exit code 0")
    assert (pod.status(), pod.life.desired) == (PodStatus.STOPPED, Desired.UP)


def test_a_failure_tells_the_evidence() -> None:
    pod = Pod(LifePolicy(restart=Restart.NEVER)).up()
    pod.exit(Exit(1, None, "exit code 1", message="KeyError: 'x'"))
    assert pod.clear() == failed("exit code 1", "KeyError: 'x'")


def test_a_start_asked_for_forgives_earlier_crashes() -> None:
    pod = in_phase(Phase.BACKOFF)
    assert pod.feel(Start()) == fork(3)
    pod.join()
    pod.exit()
    assert pod.clear() == fork(4)


# -- stopping -------------------------------------------------------------------------------------


def test_a_stop_goes_shutdown_term_kill_with_a_grace_between() -> None:
    pod = Pod().up()
    assert pod.feel(Stop()) == (SendShutdown(5000),)
    assert pod.wake() == TERM
    assert pod.now == 105.0
    assert pod.wake() == KILL
    assert pod.now == 110.0
    pod.exit(KILLED)
    assert pod.clear() == ended("stop asked")


def test_stopped_is_not_said_before_exit_and_tree_are_proven() -> None:
    pod = Pod().up()
    pod.feel(Stop())
    assert pod.feel(TreeGone(1)) == ()
    assert pod.exit(DONE) == (Publish(PodExited(cause="exit code 0", code=0)), EndTree())
    assert pod.status() is PodStatus.STOPPING
    assert pod.clear() == ended("stop asked")
    assert pod.status() is PodStatus.STOPPED


@pytest.mark.parametrize("exit", [DONE, CRASH, KILLED])
def test_a_pod_that_exits_while_stopping_is_not_restarted(exit: Exit) -> None:
    pod = Pod(LifePolicy(restart=Restart.ALWAYS)).up()
    pod.feel(Stop())
    pod.exit(exit)
    assert pod.clear() == ended("stop asked")


def test_a_stop_after_a_crash_prevents_the_restart() -> None:
    pod = Pod().up()
    pod.exit()
    pod.feel(Stop())
    assert pod.clear() == ended("stop asked")


def test_a_stop_during_backoff_works_at_once() -> None:
    pod = in_phase(Phase.BACKOFF)
    assert pod.feel(Stop()) == ended("stop asked")
    assert pod.feel(Tick(), after_s=1000.0) == ()


def test_a_stop_of_a_pod_without_a_hello_begins_with_term() -> None:
    pod = in_phase(Phase.JOINING)
    assert pod.feel(Stop(grace_s=1.0)) == TERM
    assert pod.wake_at == pod.now + 1.0


def test_a_stop_during_the_fork_ends_the_process_as_soon_as_there_is_one() -> None:
    pod = in_phase(Phase.FORKING)
    assert pod.feel(Stop()) == ()
    assert pod.fork() == TERM
    pod.exit(DONE)
    assert pod.clear() == ended("stop asked")


def test_a_hello_during_a_called_off_fork_proves_a_process_that_must_be_ended() -> None:
    pod = in_phase(Phase.FORKING)
    pod.feel(Kill())
    assert pod.feel(pod.hello()) == KILL
    assert pod.feel(ForkFailed(1, "the fork server died")) == ()
    assert pod.status() is PodStatus.STOPPING


@pytest.mark.parametrize("answer", [ForkFailed(1, "no memory"), StartRefused(1, "write_conflict")])
def test_a_stop_during_a_fork_that_brings_nothing_is_done_then(
    answer: ForkFailed | StartRefused,
) -> None:
    pod = in_phase(Phase.FORKING)
    pod.feel(Stop())
    assert pod.feel(answer) == ended("stop asked")


def test_a_second_stop_may_shorten_the_first_and_never_prolongs_it() -> None:
    pod = Pod().up()
    pod.feel(Stop(grace_s=5.0))
    pod.feel(Stop(grace_s=60.0), after_s=2.0)
    assert pod.wake_at == 105.0
    pod.wake()
    assert pod.wake_at == 110.0
    pod.feel(Stop(grace_s=0.5), after_s=1.0)
    assert pod.wake_at == 106.5
    assert pod.wake() == KILL


def test_a_kill_during_a_stop_does_not_wait() -> None:
    pod = Pod().up()
    pod.feel(Stop())
    assert pod.feel(Kill()) == KILL
    pod.exit(KILLED)
    assert pod.clear() == ended("kill asked")


def test_a_killed_pod_is_not_restarted() -> None:
    pod = Pod(LifePolicy(restart=Restart.ALWAYS)).up()
    assert pod.feel(Kill(cause="killed by operator")) == KILL
    pod.exit(KILLED)
    assert pod.clear() == ended("killed by operator")


def test_a_stop_of_a_failed_pod_keeps_what_happened_and_changes_what_is_wanted() -> None:
    pod = in_phase(Phase.FAILED)
    assert pod.feel(Stop()) == ()
    assert pod.status() is PodStatus.FAILED
    assert (pod.life.cause, pod.life.desired) == ("exit code 78", Desired.DOWN)


# -- restart asked for ----------------------------------------------------------------------------


def test_a_restart_is_a_stop_then_a_start_in_the_next_incarnation() -> None:
    pod = Pod(LifePolicy(restart=Restart.NEVER)).up()
    assert pod.feel(RestartAsked(grace_s=2.0)) == (SendShutdown(2000),)
    pod.exit(DONE)
    assert pod.clear() == fork(2)
    assert (pod.life.cause, pod.life.restarts) == ("restart asked", 0)


def test_a_stop_asked_for_after_a_restart_wins() -> None:
    pod = Pod().up()
    pod.feel(RestartAsked())
    pod.feel(Stop())
    pod.exit(DONE)
    assert pod.clear() == ended("stop asked")


def test_a_start_asked_for_during_a_stop_follows_it() -> None:
    pod = Pod().up()
    pod.feel(Stop())
    pod.feel(Start())
    pod.exit(DONE)
    assert pod.clear() == fork(2)


@pytest.mark.parametrize("phase", [Phase.STOPPED, Phase.FAILED, Phase.BACKOFF, Phase.DEFINED])
def test_a_restart_of_a_pod_without_a_process_starts_it(phase: Phase) -> None:
    pod = in_phase(phase)
    assert pod.feel(RestartAsked()) == fork(pod.life.incarnation)


# -- silence --------------------------------------------------------------------------------------


def test_an_unreachable_pod_keeps_its_scope_and_comes_back_with_its_own_status() -> None:
    pod = Pod().up()
    lost = pod.feel(Silence(Verdict.UNREACHABLE, silence_s=10.0))
    assert lost == (Publish(PodUnreachable(silence_s=10.0)),)
    assert pod.feel(Silence(Verdict.UNREACHABLE, silence_s=11.0)) == ()
    assert pod.status() is PodStatus.UNREACHABLE
    ready = PodReady(incarnation=1, pid=4242, endpoint="ipc://pod")
    assert pod.feel(Beat(1, PodStatus.RUNNING)) == (Publish(ready),)
    assert pod.status() is PodStatus.RUNNING


def test_a_suspect_pod_is_left_alone() -> None:
    pod = Pod().up()
    before = pod.life
    assert pod.feel(Silence(Verdict.SUSPECT, silence_s=3.0)) == ()
    assert pod.life == before


@pytest.mark.parametrize("phase", [Phase.READY, Phase.UNREACHABLE])
def test_a_hung_pod_dumps_its_stacks_and_is_ended_with_its_whole_tree(phase: Phase) -> None:
    pod = in_phase(phase)
    assert pod.feel(Silence(Verdict.HANG, silence_s=60.0)) == (DumpStacks(),)
    assert pod.life.stage is StopStage.DUMPED
    assert pod.wake() == TERM
    assert pod.wake() == KILL
    assert pod.exit(KILLED)[0] == Publish(PodExited(cause="hang", signal="SIGKILL"))
    assert pod.clear() == fork(2)


def test_a_hung_pod_that_answers_term_with_exit_code_zero_has_failed_nonetheless() -> None:
    pod = Pod().up()
    pod.feel(Silence(Verdict.HANG, silence_s=60.0))
    pod.wake()
    pod.exit(DONE)
    assert pod.clear() == fork(2)


def test_a_stalled_pod_is_ended_for_its_own_cause() -> None:
    pod = Pod().up()
    pod.feel(Silence(Verdict.STALL))
    assert pod.life.cause == "stall"


def test_a_pod_cannot_claim_a_status_that_is_the_supervisors() -> None:
    pod = Pod().up()
    pod.feel(StatusChanged(1, PodStatus.FAILED))
    assert pod.status() is PodStatus.IDLE


# -- adoption -------------------------------------------------------------------------------------


def test_an_adopted_pod_comes_back_with_its_hello_and_keeps_its_pid() -> None:
    pod = Pod(life=adopted(4, 4242))
    assert pod.status() is PodStatus.UNREACHABLE
    ready = PodReady(incarnation=4, pid=4242, endpoint="ipc://pod")
    assert pod.feel(pod.hello(PodStatus.RUNNING)) == (Publish(ready),)
    assert (pod.status(), pod.life.incarnation) == (PodStatus.RUNNING, 4)


def test_an_adopted_pod_that_ended_well_before_its_hello_is_done() -> None:
    pod = Pod(life=adopted(4, 4242))
    pod.feel(Exited(4, DONE))
    assert pod.clear() == ended("exit code 0")


def test_an_adopted_pod_whose_exit_code_nobody_knows_is_restarted() -> None:
    pod = Pod(life=adopted(4, 4242))
    pod.feel(Exited(4, Exit(None, None, "unknown")))
    assert pod.clear() == fork(5)
