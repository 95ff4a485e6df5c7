"""The two tables of the turn machine: what each method does in each state, and how a run ends.

A row that is not here does not exist. `METHODS` gives one cell for each column; `run_end_of` says
what really happened, which beats what somebody asked for.
"""

from __future__ import annotations

from enum import StrEnum

from podproc.turn_terms import (
    SHUTDOWN,
    Ending,
    RunKind,
    RunOver,
    RunPlan,
    StopWish,
)
from protocol import methods as m
from protocol.status import PodStatus, RunResult, Trigger

# -- the tables


class Column(StrEnum):
    """The columns of the method table."""

    IDLE = "idle"
    COMPACTING = "idle, compacting"
    RUNNING = "running"
    PAUSED = "paused"


class Do(StrEnum):
    """What a cell of the method table does."""

    STAGE_RUN = "stage a run"
    HOLD_RUN = "stage a run behind the compaction"
    STAGE_RESUME = "stage a resume"
    BUFFER = "buffer, and wake if it may"
    ACCEPT = "accepted, nothing to do"
    PAUSE_RUN = "stop the run, to paused"
    CANCEL_RUN = "stop the run, to idle"
    STOP_COMPACTION = "stop the compaction"
    ABANDON = "abandon the paused run"
    COMPACT = "start a compaction"
    REWIND = "rewind"
    ANSWER = "answer"
    LEAVE = "leave"
    REFUSE_RUNNING = "already_running"
    REFUSE_COMPACT = "already_running, naming compact"
    REFUSE_NOT_RUNNING = "not_running"
    REFUSE_NOT_PAUSED = "not_paused"
    REFUSE_WHILE_PAUSED = "invalid_request: resume or start a fresh run first"


_ANYWHERE = (Do.ANSWER,) * 4

METHODS: dict[type[m.Method], tuple[Do, Do, Do, Do]] = {
    # method: (idle, idle and compacting, running, paused)
    m.Run: (Do.STAGE_RUN, Do.HOLD_RUN, Do.REFUSE_RUNNING, Do.STAGE_RUN),
    m.Resume: (
        Do.REFUSE_NOT_PAUSED,
        Do.REFUSE_NOT_PAUSED,
        Do.REFUSE_RUNNING,
        Do.STAGE_RESUME,
    ),
    m.Notify: (Do.BUFFER,) * 4,
    m.PodEventMethod: (Do.BUFFER,) * 4,
    m.Pause: (Do.REFUSE_NOT_RUNNING, Do.REFUSE_NOT_RUNNING, Do.PAUSE_RUN, Do.ACCEPT),
    m.Cancel: (Do.REFUSE_NOT_RUNNING, Do.STOP_COMPACTION, Do.CANCEL_RUN, Do.ABANDON),
    m.Compact: (Do.COMPACT, Do.REFUSE_COMPACT, Do.REFUSE_COMPACT, Do.REFUSE_WHILE_PAUSED),
    m.ListRewindTargets: (Do.ANSWER, Do.ANSWER, Do.REFUSE_RUNNING, Do.ANSWER),
    m.RewindTo: (Do.REWIND, Do.REFUSE_COMPACT, Do.REFUSE_RUNNING, Do.REFUSE_WHILE_PAUSED),
    m.ListPods: _ANYWHERE,
    m.InspectPod: _ANYWHERE,
    m.RestorePod: _ANYWHERE,
    m.RegisterPeer: _ANYWHERE,
    m.ScopeLend: _ANYWHERE,
    m.ListCompletions: _ANYWHERE,
    m.GetHistory: _ANYWHERE,
    m.ShutdownMethod: (Do.LEAVE,) * 4,
}

NEXT_STATUS = {
    RunResult.FINISHED: PodStatus.IDLE,
    RunResult.PAUSED: PodStatus.PAUSED,
    RunResult.CANCELLED: PodStatus.IDLE,
    RunResult.LIMIT_REACHED: PodStatus.IDLE,
    RunResult.ROLLED_BACK: PodStatus.IDLE,
    RunResult.ERRORED: PodStatus.IDLE,
}


def is_told(trigger: Trigger, *, consumed_parents: bool) -> bool:
    """Whether the parent is told how a run ended.

    Of one that somebody submitted, and of one that has consumed a message which the parent queued.
    """
    return trigger in (Trigger.USER_SEND, Trigger.RESUME) or consumed_parents


def run_end_of(plan: RunPlan, wish: StopWish | None, over: RunOver) -> tuple[RunResult, str | None]:
    """Return how a run ended and why: what really happened beats what somebody asked for."""
    match over.ending:
        case Ending.FINISHED:
            return RunResult.FINISHED, over.reason
        case Ending.LIMIT_REACHED:
            return RunResult.LIMIT_REACHED, over.reason
        case Ending.FAILED:
            return RunResult.ERRORED, over.reason
        case Ending.PAUSED:
            return RunResult.PAUSED, over.reason
        case Ending.STOPPED:
            return _stopped(plan, wish, over)


def _stopped(plan: RunPlan, wish: StopWish | None, over: RunOver) -> tuple[RunResult, str | None]:
    taken_back = not over.output and plan.kind is not RunKind.RESUME
    match wish:
        case StopWish.SHUTDOWN:
            return RunResult.CANCELLED, SHUTDOWN
        case _ if taken_back:
            return RunResult.ROLLED_BACK, None
        case StopWish.CANCEL:
            return RunResult.CANCELLED, over.reason
        case _:
            return RunResult.PAUSED, over.reason
