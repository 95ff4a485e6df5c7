"""The table of one pod's supervised life: (phase, what happened) -> what follows.

`step` looks up one row, lets its act make the next `Life` and the instructions, and does what is
true of every row. A row without an act is ignored, and says why; there is a row for everything,
everywhere. What the table promises:

- Nothing is started while something of the incarnation before may live. `Exited` says that the
  process is gone, `TreeGone` that what it started is gone too; only then is the pod restarted, or
  stopped or failed and its scope released. Silence proves nothing: an unreachable pod keeps its
  scope, and comes back with its next word.
- A stop goes shutdown, grace, SIGTERM (and SIGCONT, or a stopped process would never see it),
  grace, SIGKILL to the whole tree. It may come at any time, and a later one may only shorten it.
  A pod that has not said hello cannot be asked, so its stop begins with SIGTERM.
- Who is wanted down is never restarted, however it exits. Who is wanted up and exits is judged by
  `restart.decide`; before its hello no exit code is a success.
- Every wait ends: by its deadline, by an answer that always comes (to `Fork`, to `EndTree`, the
  kernel's after SIGKILL), or by a person.

Not here: the flags `suspect` and `slow`, which are `health`'s, and everything between pods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from supervisor.core import acts
from supervisor.core.acts import Moment, Step
from supervisor.core.instructions import WakeAt
from supervisor.core.life import MEANING, NO_PROCESS, Life, LifePolicy, Phase
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

Act = Callable[[Life, Any, Moment], Step]


@dataclass(frozen=True, slots=True)
class Row:
    """What follows `cause` in each of `phases`, and why.

    The act (None: nothing is done) leads to one of the phases `to` (empty: the phase stays).
    """

    cause: type[Stimulus]
    phases: tuple[Phase, ...]
    act: Act | None
    to: tuple[Phase, ...]
    why: str


DEFINED = Phase.DEFINED
FORKING, JOINING = Phase.FORKING, Phase.JOINING
READY, UNREACHABLE = Phase.READY, Phase.UNREACHABLE
ABORTING, STOPPING, CLEARING = Phase.ABORTING, Phase.STOPPING, Phase.CLEARING
BACKOFF, STOPPED, FAILED = Phase.BACKOFF, Phase.STOPPED, Phase.FAILED

STARTING = (FORKING, JOINING)
LIVE = (READY, UNREACHABLE)
LEAVING = (ABORTING, STOPPING)
FORK_ANSWERED = (JOINING, READY, UNREACHABLE, STOPPING, CLEARING, *NO_PROCESS)
GONE = (CLEARING, *NO_PROCESS)
FATES = (FORKING, BACKOFF, STOPPED, FAILED)

ROWS: tuple[Row, ...] = (
    Row(Start, NO_PROCESS, acts.begin, (FORKING,), "a new count of restarts begins"),
    Row(Start, (*STARTING, *LIVE), acts.keep_wish, (), "it is up, or on its way up"),
    Row(Start, (*LEAVING, CLEARING), acts.change_end, (), "it starts again when proven gone"),
    Row(RestartAsked, NO_PROCESS, acts.begin, (FORKING,), "there is nothing to stop first"),
    Row(RestartAsked, (FORKING,), acts.abort, (ABORTING,), "there is no process to end yet"),
    Row(RestartAsked, (JOINING,), acts.term, (STOPPING,), "it cannot be asked yet"),
    Row(RestartAsked, LIVE, acts.ask, (STOPPING,), "first it is asked"),
    Row(RestartAsked, LEAVING, acts.hasten, (), "the stop goes on, a start follows"),
    Row(RestartAsked, (CLEARING,), acts.change_end, (), "it starts again when proven gone"),
    Row(Stop, (DEFINED, BACKOFF), acts.call_off, (STOPPED,), "nothing of it is alive"),
    Row(Stop, (FORKING,), acts.abort, (ABORTING,), "there is no process to end yet"),
    Row(Stop, (JOINING,), acts.term, (STOPPING,), "it cannot be asked yet"),
    Row(Stop, LIVE, acts.ask, (STOPPING,), "first it is asked"),
    Row(Stop, LEAVING, acts.hasten, (), "the stop goes on, no start follows"),
    Row(Stop, (CLEARING,), acts.change_end, (), "no start follows"),
    Row(Stop, (STOPPED, FAILED), acts.keep_wish, (), "what happened stays told"),
    Row(Kill, (DEFINED, BACKOFF), acts.call_off, (STOPPED,), "nothing of it is alive"),
    Row(Kill, (FORKING, ABORTING), acts.abort, (ABORTING,), "there is no process to kill yet"),
    Row(Kill, (JOINING, *LIVE, STOPPING), acts.kill, (STOPPING,), "it is not asked"),
    Row(Kill, (CLEARING,), acts.change_end, (), "no start follows"),
    Row(Kill, (STOPPED, FAILED), acts.keep_wish, (), "what happened stays told"),
    Row(Forked, (FORKING,), acts.forked, (JOINING,), "the hello has its time from now"),
    Row(Forked, (ABORTING,), acts.forked_too_late, (STOPPING,), "it was called off meanwhile"),
    Row(Forked, FORK_ANSWERED, None, (), "the fork was answered, or the hello was faster"),
    Row(ForkFailed, (FORKING, ABORTING), acts.unborn, FATES, "an exit without a process"),
    Row(ForkFailed, FORK_ANSWERED, None, (), "the fork was answered"),
    Row(StartRefused, (FORKING,), acts.refused, (FAILED,), "it would be refused again"),
    Row(
        StartRefused,
        (ABORTING,),
        acts.refused,
        (FORKING, STOPPED, FAILED),
        "it fails, if still wanted",
    ),
    Row(StartRefused, FORK_ANSWERED, None, (), "the fork was answered"),
    Row(Hello, (*STARTING, UNREACHABLE), acts.joined, (READY,), "it can be spoken to"),
    Row(Hello, (READY,), acts.reconnected, (), "its link was made anew"),
    Row(Hello, (ABORTING,), acts.forked_too_late, (STOPPING,), "so there is a process"),
    Row(Hello, (STOPPING,), None, (), "it is on its way out"),
    Row(Hello, GONE, None, (), "a late word of a process that is gone"),
    *(
        row
        for word in (StatusChanged, Beat)
        for row in (
            Row(word, (READY,), acts.heard, (), "its own word is its status"),
            Row(word, (UNREACHABLE,), acts.back, (READY,), "it was silent, not dead"),
            Row(word, STARTING, None, (), "it is ready with its hello, not before"),
            Row(word, LEAVING, None, (), "it is on its way out"),
            Row(word, GONE, None, (), "a late word of a process that is gone"),
        )
    ),
    Row(Silence, (READY,), acts.judged, (READY, UNREACHABLE, STOPPING), "a hang is ended"),
    Row(Silence, (UNREACHABLE,), acts.judged, (UNREACHABLE, STOPPING), "a hang is ended"),
    Row(Silence, STARTING, None, (), "the hello has a deadline of its own"),
    Row(Silence, LEAVING, None, (), "the stop has deadlines of its own"),
    Row(Silence, GONE, None, (), "there is nobody to speak"),
    Row(Exited, (*STARTING, *LIVE, *LEAVING), acts.exited, (CLEARING,), "its tree goes next"),
    Row(Exited, GONE, None, (), "its exit is known"),
    Row(TreeGone, (CLEARING,), acts.cleared, FATES, "nothing of it is alive"),
    Row(TreeGone, (*STARTING, *LIVE, *LEAVING), None, (), "itself is not known to be gone"),
    Row(TreeGone, NO_PROCESS, None, (), "that is known"),
    Row(Tick, (FORKING,), acts.hello_overdue, (ABORTING,), "a start without a hello failed"),
    Row(Tick, (JOINING,), acts.hello_overdue, (STOPPING,), "a start without a hello failed"),
    Row(Tick, (STOPPING,), acts.escalate, (), "the grace of this stage is over"),
    Row(Tick, (BACKOFF,), acts.backoff_over, (FORKING,), "the wait is over"),
    Row(Tick, LIVE, None, (), "silence is measured by health"),
    Row(Tick, (ABORTING, CLEARING), None, (), "an answer is awaited that always comes"),
    Row(Tick, (DEFINED, STOPPED, FAILED), None, (), "somebody must ask"),
)
"""The table as it is read: a row for all phases in which a cause means the same."""

TABLE: Mapping[tuple[Phase, type[Stimulus]], Row] = {
    (phase, row.cause): row for row in ROWS for phase in row.phases
}
"""The table as it is looked up."""


def step(life: Life, stimulus: Stimulus, *, policy: LifePolicy, now: float) -> Step:
    """Return the life after the stimulus, and what is to be done, in that order.

    `now` is monotonic and never goes back. Nothing is raised: what means nothing changes nothing.
    """
    if isinstance(stimulus, OfIncarnation) and stimulus.incarnation != life.incarnation:
        return life, ()
    if isinstance(stimulus, Tick) and (life.deadline is None or now < life.deadline):
        return life, ()
    row = TABLE[life.phase, type(stimulus)]
    if row.act is None:
        return life, ()
    after, instructions = row.act(life, stimulus, Moment(policy, now))
    if life.phase is READY and after.phase is not READY:
        after = _no_longer_ready(after, stimulus, now)
    if after.deadline is not None and after.deadline != life.deadline:
        instructions = (*instructions, WakeAt(after.deadline))
    return after, instructions


def _no_longer_ready(after: Life, stimulus: Stimulus, now: float) -> Life:
    """Credit the ready time; the silence that ended it does not count."""
    assert after.ready_since is not None
    silence_s = stimulus.silence_s if isinstance(stimulus, Silence) else 0.0
    history = after.history.after_ready(now - after.ready_since - silence_s)
    return replace(after, ready_since=None, history=history)


def render_table() -> str:
    """Return the phases and the table as Markdown."""
    return "\n".join(
        [
            "| phase | shown as | meaning |",
            "|---|---|---|",
            *(f"| {phase} | {_shown(phase)} | {meaning} |" for phase, meaning in MEANING.items()),
            "",
            "| what happens | in | leads to | why |",
            "|---|---|---|---|",
            *(
                f"| {row.cause.__name__} | {', '.join(row.phases)} | {_leads_to(row)} | {row.why} |"
                for row in ROWS
            ),
            "",
        ]
    )


def _shown(phase: Phase) -> str:
    return "idle, running, paused" if phase is READY else Life(phase=phase).status


def _leads_to(row: Row) -> str:
    return "(ignored)" if row.act is None else ", ".join(row.to) or "(stays)"
