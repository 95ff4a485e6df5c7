"""When a failed request is tried again, and after how long."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podproc.engine.retry import GiveUp, Wait, after_failure
from podproc.models.base import RETRYABLE, ProviderFailure
from protocol.manifest import Retry

RULE = Retry()


def decide(
    failed_attempt: int = 1,
    *,
    rule: Retry = RULE,
    elapsed_s: float = 0.0,
    retryable: bool = True,
    retry_after_s: float | None = None,
    dice: float = 0.5,
) -> Wait | GiveUp:
    return after_failure(
        rule,
        failed_attempt=failed_attempt,
        elapsed_s=elapsed_s,
        retryable=retryable,
        retry_after_s=retry_after_s,
        dice=dice,
    )


def test_the_defaults_are_four_attempts_half_a_second_ten_at_most_forty_in_all() -> None:
    assert (RULE.attempts, RULE.base_s, RULE.cap_s, RULE.total_s) == (4, 0.5, 10, 40)


@pytest.mark.parametrize(
    ("attempt", "dice", "seconds"),
    [(1, 1.0, 0.5), (2, 1.0, 1.0), (3, 1.0, 2.0), (1, 0.5, 0.25), (3, 0.25, 0.5), (2, 0.0, 0.0)],
)
def test_waits_double_with_full_jitter(attempt: int, dice: float, seconds: float) -> None:
    assert decide(attempt, dice=dice) == Wait(seconds)


def test_waits_are_capped() -> None:
    assert decide(30, rule=Retry(attempts=99, total_s=1000), dice=1.0) == Wait(10)


def test_the_last_attempt_is_the_last() -> None:
    assert isinstance(decide(3), Wait)
    given_up = decide(4)
    assert isinstance(given_up, GiveUp)
    assert "4 attempts" in given_up.why


def test_one_attempt_means_no_retry() -> None:
    assert isinstance(decide(1, rule=Retry(attempts=1)), GiveUp)


def test_what_is_not_worth_a_retry_has_none() -> None:
    assert isinstance(decide(retryable=False, retry_after_s=1.0), GiveUp)


@pytest.mark.parametrize("dice", [0.0, 0.5, 0.99])
def test_retry_after_is_taken_as_it_is_beyond_the_cap_and_without_jitter(dice: float) -> None:
    assert decide(retry_after_s=17.0, dice=dice) == Wait(17.0)
    assert decide(retry_after_s=0.0, dice=dice) == Wait(0.0)


@pytest.mark.parametrize(
    ("elapsed_s", "retry_after_s", "goes_on"),
    [
        (0.0, 40.0, True),
        (0.0, 41.0, False),
        (39.0, 1.0, True),
        (39.5, 1.0, False),
        (40.5, 0.0, False),
    ],
)
def test_nothing_is_tried_that_would_come_after_the_total(
    elapsed_s: float, retry_after_s: float, goes_on: bool
) -> None:
    decision = decide(elapsed_s=elapsed_s, retry_after_s=retry_after_s)
    assert isinstance(decision, Wait if goes_on else GiveUp)


@given(
    st.builds(
        Retry,
        attempts=st.integers(1, 10),
        base_s=st.floats(0, 5),
        cap_s=st.floats(0, 20),
        total_s=st.floats(0, 60),
    ),
    st.integers(1, 12),
    st.floats(0, 100),
    st.none() | st.floats(0, 100),
    st.floats(0, 1, exclude_max=True),
)
def test_a_wait_never_breaks_the_rule(
    rule: Retry, attempt: int, elapsed_s: float, retry_after_s: float | None, dice: float
) -> None:
    decision = decide(
        attempt, rule=rule, elapsed_s=elapsed_s, retry_after_s=retry_after_s, dice=dice
    )
    if isinstance(decision, Wait):
        assert attempt < rule.attempts
        assert elapsed_s + decision.seconds <= rule.total_s
        assert retry_after_s is not None or 0 <= decision.seconds <= rule.cap_s
        assert retry_after_s is None or decision.seconds == retry_after_s


@pytest.mark.parametrize("status", range(400, 600))
def test_the_statuses_that_are_tried_again_are_these(status: int) -> None:
    worth_it = {408, 425, 429, 500, 502, 503, 504, 529}
    assert ProviderFailure("no", status=status).retryable is (status in worth_it)
    assert (status in RETRYABLE) is (status in worth_it)


@pytest.mark.parametrize(("status", "retryable"), [*product([None, 404, 529], [True, False])])
def test_an_adapter_may_know_better(status: int | None, retryable: bool) -> None:
    assert ProviderFailure("no", status=status, retryable=retryable).retryable is retryable


def test_a_failure_without_a_status_is_not_tried_again_by_itself() -> None:
    assert not ProviderFailure("no").retryable
