"""Silence in awake time: what counts, what does not, and what it is called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.control import Progress
from protocol.status import Flag, PodStatus
from supervisor.core.health import (
    Health,
    HealthLimits,
    Verdict,
    flags,
    judge,
    observe_beat,
    tick,
)

LIMITS = HealthLimits()
WORK = Progress(what="llm call", since_ms=5)


def beat(
    health: Health,
    seq: int,
    *,
    status: PodStatus = PodStatus.IDLE,
    progress: Progress = WORK,
    now: float = 0.0,
) -> Health:
    """Return the health after a beat of which only the named things matter."""
    return observe_beat(health, seq, status=status, progress=progress, now=now)


def silent(ticks: int, health: Health | None = None) -> Health:
    """Return the health after a beat's own tick and so many more without one."""
    health = health or beat(Health(), 1)
    for _ in range(ticks + 1):
        health = tick(health, 1.0, tick_s=1.0)
    return health


@pytest.mark.parametrize(
    ("ticks", "verdict"),
    [
        (0, Verdict.OK),
        (2, Verdict.OK),
        (3, Verdict.SUSPECT),
        (9, Verdict.SUSPECT),
        (10, Verdict.UNREACHABLE),
        (59, Verdict.UNREACHABLE),
        (60, Verdict.HANG),
    ],
)
def test_silence_has_a_name_for_each_length(ticks: int, verdict: Verdict) -> None:
    assert judge(silent(ticks), LIMITS) is verdict


def test_a_hang_timeout_of_zero_means_never() -> None:
    assert judge(silent(10_000), HealthLimits(hang_timeout_s=0)) is Verdict.UNREACHABLE


def test_a_beat_ends_any_silence() -> None:
    assert judge(beat(silent(59), 2), LIMITS) is Verdict.OK


def test_a_beat_that_is_not_newer_changes_nothing() -> None:
    lost = silent(20, beat(Health(), 7))
    assert beat(lost, 7, now=50.0) == lost
    assert beat(lost, 6, now=50.0) == lost


def test_supervisor_stopped_for_six_seconds_suspects_nobody_of_twenty() -> None:
    fleet = [silent(0, beat(Health(), seq)) for seq in range(1, 21)]
    awake = [tick(health, 6.0, tick_s=1.0) for health in fleet]
    assert {judge(health, LIMITS) for health in awake} == {Verdict.OK}
    assert not any(flags(health, LIMITS) for health in awake)


def test_a_laptop_that_slept_all_night_wakes_with_nobody_unreachable() -> None:
    asleep = silent(7)
    assert judge(tick(asleep, 8 * 3600.0, tick_s=1.0), LIMITS) is Verdict.SUSPECT


def test_a_clock_that_went_back_takes_no_silence_away() -> None:
    assert tick(silent(5), -100.0, tick_s=1.0).silence_s == 5.0


def test_beat_age_is_told_in_real_time() -> None:
    assert Health().beat_age_s(5.0) is None
    assert beat(Health(), 1, now=3.0).beat_age_s(5.0) == 2.0


def test_working_on_the_same_thing_for_long_is_slow_and_no_more() -> None:
    health = Health()
    for second in range(1, 200):
        health = beat(health, second, status=PodStatus.RUNNING)
        health = tick(health, 1.0, tick_s=1.0)
    assert flags(health, LIMITS) == {Flag.SLOW}
    assert judge(health, LIMITS) is Verdict.OK
    assert judge(health, HealthLimits(stall_timeout_s=150)) is Verdict.STALL


@pytest.mark.parametrize(
    ("status", "progress"),
    [
        (PodStatus.RUNNING, Progress(what="llm call", since_ms=6)),
        (PodStatus.RUNNING, Progress(what="Bash", since_ms=5)),
        (PodStatus.IDLE, WORK),
        (PodStatus.PAUSED, WORK),
    ],
)
def test_progress_or_rest_ends_slowness(status: PodStatus, progress: Progress) -> None:
    slow = Health(seq=1, still_s=500.0, working=True, progress=WORK)
    assert flags(slow, LIMITS) == {Flag.SLOW}
    assert not flags(beat(slow, 2, status=status, progress=progress), LIMITS)


def test_an_idle_pod_is_never_slow() -> None:
    health = Health()
    for second in range(1, 400):
        health = tick(beat(health, second), 1.0, tick_s=1.0)
    assert not flags(health, LIMITS)


def test_a_silent_pod_is_suspect_by_flag_too() -> None:
    assert flags(silent(3), LIMITS) == {Flag.SUSPECT}


@given(st.lists(st.one_of(st.floats(0, 1000), st.none()), max_size=80))
def test_silence_is_never_more_than_real_silence_nor_than_two_ticks_per_tick(
    happenings: list[float | None],
) -> None:
    """None is a beat, a number the seconds until the next tick."""
    health, seq, real_s, ticks = beat(Health(), 1), 1, 0.0, 0
    for happening in happenings:
        if happening is None:
            seq, real_s, ticks = seq + 1, 0.0, 0
            health = beat(health, seq)
        else:
            real_s, ticks = real_s + happening, ticks + 1
            health = tick(health, happening, tick_s=1.0)
        assert health.silence_s <= real_s
        assert health.silence_s <= 2.0 * ticks
