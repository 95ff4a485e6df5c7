"""The table has a row for everything, everywhere, and its rows do what they say."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import pytest

from protocol.status import PodStatus
from supervisor.core.health import Verdict
from supervisor.core.life import MEANING, Life, Phase
from supervisor.core.lifecycle import ROWS, TABLE, render_table
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
    Stimulus,
    Stop,
    Tick,
    TreeGone,
)
from tests.supervisor.lives import CRASH, in_phase

CAUSES: tuple[type[Stimulus], ...] = get_args(Stimulus)


def samples(incarnation: int) -> list[Stimulus]:
    """Return stimuli of every kind and shade for one incarnation."""
    return [
        Start(),
        RestartAsked(),
        Stop(),
        Stop(grace_s=0.0),
        Kill(),
        Forked(incarnation, pid=4242),
        ForkFailed(incarnation, "no memory"),
        ForkFailed(incarnation, "no such profile", config_error=True),
        StartRefused(incarnation, "write_conflict", "alice holds src"),
        Hello(incarnation, PodStatus.RUNNING, pid=4242, endpoint="ipc://pod"),
        StatusChanged(incarnation, PodStatus.PAUSED),
        Beat(incarnation, PodStatus.RUNNING),
        *(Silence(verdict, 30.0) for verdict in Verdict),
        Exited(incarnation, CRASH),
        TreeGone(incarnation),
        Tick(),
    ]


def test_the_samples_leave_no_cause_out() -> None:
    assert {type(stimulus) for stimulus in samples(1)} == set(CAUSES)


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.__name__)
@pytest.mark.parametrize("phase", Phase)
def test_there_is_one_row_for_each_cause_in_each_phase(phase: Phase, cause: type[Stimulus]) -> None:
    rows = [row for row in ROWS if row.cause is cause and phase in row.phases]
    assert len(rows) == 1, f"{len(rows)} rows for {cause.__name__} in {phase}"
    assert rows[0] is TABLE[phase, cause]
    assert rows[0].why


@pytest.mark.parametrize("phase", Phase)
def test_every_row_leads_where_it_says_and_an_ignored_cause_changes_nothing(phase: Phase) -> None:
    for stimulus in samples(in_phase(phase).life.incarnation):
        pod = in_phase(phase)
        before, row = pod.life, TABLE[phase, type(stimulus)]
        done = pod.feel(stimulus, after_s=1000.0)
        assert pod.life.phase in (row.to or (phase,)), stimulus
        if row.act is None:
            assert (pod.life, done) == (before, ()), stimulus


@pytest.mark.parametrize("phase", Phase)
def test_what_an_earlier_incarnation_says_changes_nothing(phase: Phase) -> None:
    present = in_phase(phase).life.incarnation
    late = [one for one in samples(present - 1) if hasattr(one, "incarnation")]
    assert late
    for stimulus in late:
        pod = in_phase(phase)
        before = pod.life
        assert pod.feel(stimulus) == ()
        assert pod.life == before


@pytest.mark.parametrize("phase", Phase)
def test_a_tick_before_the_deadline_changes_nothing(phase: Phase) -> None:
    pod = in_phase(phase)
    before = pod.life
    assert pod.feel(Tick()) == ()
    assert pod.life == before


@pytest.mark.parametrize("phase", Phase)
def test_every_change_of_phase_leaves_a_cause_that_tells_it(phase: Phase) -> None:
    for stimulus in samples(in_phase(phase).life.incarnation):
        pod = in_phase(phase)
        pod.feel(stimulus, after_s=1000.0)
        assert pod.life.cause
        match stimulus:
            case (
                Start(cause=cause)
                | RestartAsked(cause=cause)
                | Stop(cause=cause)
                | Kill(cause=cause)
            ) if pod.life.phase is not phase:
                assert pod.life.cause == cause


def test_every_status_is_some_phase_and_only_a_ready_pod_shows_its_own_word() -> None:
    shown = Counter(Life(phase=phase, said=PodStatus.PAUSED).status for phase in Phase)
    assert set(shown) == set(PodStatus) - {PodStatus.IDLE, PodStatus.RUNNING}
    assert shown[PodStatus.PAUSED] == 1


def test_every_phase_has_a_meaning() -> None:
    assert set(MEANING) == set(Phase)


def test_the_rendered_table_names_every_phase_and_every_cause() -> None:
    text = render_table()
    assert all(f"| {phase} |" in text for phase in Phase)
    assert all(f"| {cause.__name__} |" in text for cause in CAUSES)
    assert "| Stop | ready, unreachable | stopping | first it is asked |" in text
    assert {line.count("|") for line in text.splitlines() if line} == {4, 5}
