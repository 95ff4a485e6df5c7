"""Which exits are followed by a restart, when, and when no more."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.manifest import Restart
from supervisor.core.restart import (
    HEALTHY_S,
    LONGEST_WAIT_S,
    MOST_RESTARTS,
    WINDOW_S,
    Backoff,
    Decision,
    Exit,
    ExitKind,
    GiveUp,
    RestartHistory,
    RestartNow,
    Stay,
    classify,
    decide,
)
from tests.supervisor.lives import CRASH, DONE, KILLED

UNKNOWN = Exit(None, None, "unknown")
MISSING_KEY = Exit(1, None, "missing_key", config_error=True)


def after(
    exited: Exit,
    history: RestartHistory | None = None,
    *,
    policy: Restart = Restart.ON_FAILURE,
    now: float = 1000.0,
    jitter: float = 0.0,
) -> Decision:
    """Return the decision, with everything at its default that the test is not about."""
    return decide(
        exited,
        history or RestartHistory(),
        policy=policy,
        success_codes=(0, 3),
        now=now,
        jitter=jitter,
    )


@pytest.mark.parametrize(
    ("exited", "kind"),
    [
        (DONE, ExitKind.SUCCESS),
        (Exit(3, None, "exit code 3"), ExitKind.SUCCESS),
        (CRASH, ExitKind.FAILURE),
        (KILLED, ExitKind.FAILURE),
        (UNKNOWN, ExitKind.FAILURE),
        (Exit(78, None, "exit code 78"), ExitKind.CONFIG_ERROR),
        (MISSING_KEY, ExitKind.CONFIG_ERROR),
    ],
)
def test_an_exit_is_classified_by_its_code_and_an_unknown_one_is_no_success(
    exited: Exit, kind: ExitKind
) -> None:
    assert classify(exited, (0, 3)) is kind


@pytest.mark.parametrize(
    ("policy", "exited", "decision"),
    [
        (Restart.NEVER, DONE, Stay("exit code 0")),
        (Restart.NEVER, CRASH, GiveUp("exit code 1")),
        (Restart.NEVER, MISSING_KEY, GiveUp("missing_key")),
        (Restart.ON_FAILURE, DONE, Stay("exit code 0")),
        (Restart.ON_FAILURE, CRASH, RestartNow()),
        (Restart.ON_FAILURE, UNKNOWN, RestartNow()),
        (Restart.ON_FAILURE, MISSING_KEY, GiveUp("missing_key")),
        (Restart.ALWAYS, DONE, RestartNow()),
        (Restart.ALWAYS, CRASH, RestartNow()),
        (Restart.ALWAYS, MISSING_KEY, GiveUp("missing_key")),
    ],
)
def test_each_policy_has_its_answer_to_each_kind_of_exit(
    policy: Restart, exited: Exit, decision: Decision
) -> None:
    assert after(exited, policy=policy) == decision


def test_waits_double_from_half_a_second_to_thirty() -> None:
    waits = [after(CRASH, RestartHistory(attempts=attempts)) for attempts in range(1, 10)]
    assert waits == [
        Backoff(wait_s, attempt)
        for attempt, wait_s in enumerate([0.5, 1, 2, 4, 8, 16, 30, 30, 30], start=2)
    ]


def test_a_year_of_restarts_overflows_nothing() -> None:
    assert after(CRASH, RestartHistory(attempts=1_000_000)) == Backoff(30.0, 1_000_001)


@given(st.integers(min_value=1, max_value=50), st.floats(0, 1, exclude_max=True))
def test_jitter_shortens_a_wait_by_up_to_half(attempts: int, jitter: float) -> None:
    history = RestartHistory(attempts=attempts)
    full, wait = after(CRASH, history), after(CRASH, history, jitter=jitter)
    assert isinstance(full, Backoff)
    assert isinstance(wait, Backoff)
    assert full.wait_s / 2 <= wait.wait_s <= full.wait_s <= LONGEST_WAIT_S


def test_the_first_restart_after_a_healthy_minute_is_immediate() -> None:
    history = RestartHistory(attempts=4)
    assert after(CRASH, history.after_ready(HEALTHY_S)) == RestartNow()


def test_a_life_shorter_than_a_minute_resets_nothing() -> None:
    history = RestartHistory(attempts=4, times=(1.0, 2.0))
    assert history.after_ready(HEALTHY_S - 0.001) == history


def test_the_sixth_restart_within_a_minute_is_not_made_and_the_cause_says_so() -> None:
    history, now = RestartHistory(), 0.0
    for _ in range(MOST_RESTARTS):
        decision = after(CRASH, history, now=now)
        now += decision.wait_s if isinstance(decision, Backoff) else 0
        history = history.restarted(now)
    assert after(CRASH, history, now=now) == GiveUp(
        "5 restarts in 60 s, the last exit: exit code 1"
    )


def test_a_restart_whose_wait_leads_out_of_the_minute_is_made() -> None:
    history = RestartHistory(attempts=5, times=(0.0, 10.0, 20.0, 30.0, 40.0))
    assert after(CRASH, history, now=51.0) == GiveUp(
        "5 restarts in 60 s, the last exit: exit code 1"
    )
    assert after(CRASH, history, now=52.0) == Backoff(8.0, 6)


@given(st.lists(st.floats(0, 90), min_size=1, max_size=60), st.floats(0, 1, exclude_max=True))
def test_never_more_than_five_restarts_in_any_minute(lives_s: list[float], jitter: float) -> None:
    history, now, times = RestartHistory(), 0.0, list[float]()
    for life_s in lives_s:
        now += life_s
        history = history.after_ready(life_s)
        match after(CRASH, history, now=now, jitter=jitter):
            case RestartNow():
                pass
            case Backoff(wait_s, _):
                now += wait_s
            case _:
                break
        times.append(now)
        history = history.restarted(now)
    for first, sixth in zip(times, itertools.islice(times, MOST_RESTARTS, None), strict=False):
        assert sixth - first >= WINDOW_S
