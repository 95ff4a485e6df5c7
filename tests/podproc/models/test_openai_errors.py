"""What providers say of a failure, read and put into words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podproc.models.openai_errors import (
    LONGEST,
    Told,
    Where,
    read_told,
    status_failure,
    stream_failure,
)
from podproc.models.openai_wire import shown_url
from podproc.models.retry_after import retry_after_s
from tests.support.providers.openai_cases import NOW_MS

KEY = "sk-secret-123456"
WHERE = Where("https://models.test/v1", "gpt-x", KEY)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["error", "message", "code", "type", "details", "metadata", "raw", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (None, Told()),
        ("<html>", Told("<html>")),
        ([], Told()),
        ({"message": "m", "type": "T", "code": None}, Told("m", type="t")),
        ({"error": {"message": "m", "code": 502}}, Told("m", "502")),
        ({"error": "no slots"}, Told("no slots")),
        ({"detail": "not found"}, Told("not found")),
        ({"object": "error", "message": "m", "code": 400}, Told("m", "400")),
        ([{"error": {"message": "m", "status": "INVALID"}}], Told("m", type="invalid")),
        (
            {"error": {"message": "m", "metadata": {"provider_name": "P", "raw": "why"}}},
            Told("m (P: why)"),
        ),
        (
            {"error": {"message": "m", "details": [{"@type": "X"}, {"retryDelay": "34.5s"}]}},
            Told("m", retry_after_s=34.5),
        ),
    ],
)
def test_a_body_is_read_in_each_of_its_shapes(body: object, told: Told) -> None:
    assert read_told(body) == told


@given(body=anything, status=st.integers(400, 599))
def test_no_body_breaks_the_reading(body: object, status: int) -> None:
    for failure in (
        status_failure(WHERE, status, body=body, headers={}, now_ms=0),
        stream_failure(WHERE, body),
    ):
        assert failure.message
        assert len(failure.message) < LONGEST + 200


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9.0),
        ({"retry-after": "Thu, 01 Jan 2026 00:00:20 GMT"}, 20.0),
        ({"retry-after": "Wed, 31 Dec 2025 23:59:00 GMT"}, 0.0),
        ({"retry-after": "Thu, 99 Jan 2026 00:00:20 GMT"}, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers, now=NOW_MS / 1000) == seconds


@pytest.mark.parametrize(
    ("status", "body", "words", "retryable"),
    [
        (400, {"message": "bad"}, "did not accept the request for gpt-x: bad", False),
        (401, {"message": "bad"}, "refused the key for gpt-x: bad", False),
        (403, {"message": "bad"}, "does not let this key use gpt-x: bad", False),
        (404, {"message": "bad"}, "knows no model gpt-x: bad", False),
        (408, {"message": "late"}, "did not accept the request for gpt-x: late", True),
        (413, {"message": "Input is too long"}, "the request is too long for gpt-x", False),
        (422, {"detail": "bad"}, "did not accept the request for gpt-x: bad", False),
        (429, {"message": "slow"}, "limits the rate of gpt-x: slow", True),
        (429, {"message": "m", "code": "credit_balance_exhausted"}, "out of credit", False),
        (429, {"message": "m", "type": "insufficient_quota", "code": "x"}, "out of credit", False),
        (429, {"message": "Request too large for gpt-x"}, "the request is too long", False),
        (429, {"message": "Too many tokens, please wait"}, "limits the rate of gpt-x", True),
        (500, {"message": "input exceeds the context size"}, "the request is too long", False),
        (500, None, "failed (model gpt-x): it did not say why", True),
        (502, {"message": "m"}, "failed (model gpt-x): m", True),
        (503, {"message": "m"}, "is overloaded (model gpt-x): m", True),
        (529, {"message": "m"}, "is overloaded (model gpt-x): m", True),
        (501, {"message": "m"}, "failed (model gpt-x): m", False),
    ],
)
def test_a_status_says_whom_what_and_whether_again(
    status: int, body: Any, words: str, retryable: bool
) -> None:
    failure = status_failure(WHERE, status, body=body, headers={"retry-after": "2"}, now_ms=0)
    assert words in failure.message
    assert "https://models.test/v1" in failure.message
    assert (failure.status, failure.retryable) == (status, retryable)
    is_final = "credit" in words or "too long" in words
    assert failure.retry_after_s == (None if is_final else 2.0)


@pytest.mark.parametrize(
    ("body", "status", "retryable"),
    [
        ({"message": "m"}, None, True),
        ({"message": "m", "code": 502}, 502, True),
        ({"message": "m", "code": "429"}, 429, True),
        ({"message": "m", "code": 400}, 400, False),
        ({"message": "m", "code": 3}, None, True),
        ({"message": "m", "code": "rate_limit_exceeded"}, 429, True),
        ({"message": "m", "type": "overloaded_error"}, 529, True),
        ({"message": "The engine is currently overloaded"}, 529, True),
        ({"message": "m", "type": "BadRequestError"}, 400, False),
        ({"message": "maximum context length is 8192"}, 400, False),
        ({"message": "m", "code": "insufficient_quota"}, None, False),
        ({"error": {"message": "m", "type": "InternalServerError", "code": 500}}, 500, True),
    ],
)
def test_an_error_in_a_stream_has_the_status_that_it_means(
    body: Any, status: int | None, retryable: bool
) -> None:
    failure = stream_failure(WHERE, body)
    assert (failure.status, failure.retryable) == (status, retryable)


def test_the_key_is_in_no_message_and_no_repr() -> None:
    body = {"message": f"bad key {KEY}\nand {KEY}"}
    failure = status_failure(WHERE, 401, body=body, headers={}, now_ms=0)
    assert KEY not in failure.message
    assert "[the key] and [the key]" in failure.message
    assert KEY not in repr(WHERE)


def test_a_long_message_is_cut_and_stands_on_one_line() -> None:
    text = WHERE.clean("a\nb" * LONGEST)
    assert len(text) == LONGEST + 1
    assert "\n" not in text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pass@models.test/v1?key=abc#x", "https://models.test/v1"),
        ("http://models.test:port/", "[an invalid base_url]"),
    ],
)
def test_an_address_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert shown_url(url) == shown
