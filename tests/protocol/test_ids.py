"""Identifiers: UUIDs of version 7 that sort by time."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import uuid7

moments = st.integers(0, 2**48 - 1)
noise = st.binary(min_size=10, max_size=16)


@given(moments, noise)
def test_id_is_a_uuid_of_version_7_that_holds_its_time(now_ms: int, random: bytes) -> None:
    text = uuid7(now_ms, random)
    parsed = uuid.UUID(text)
    assert str(parsed) == text
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == now_ms


@given(moments, noise, moments, noise)
def test_ids_sort_by_time(first: int, one: bytes, second: int, other: bytes) -> None:
    if first != second:
        assert (uuid7(first, one) < uuid7(second, other)) is (first < second)


def test_the_other_74_bits_are_the_randomness() -> None:
    ones = uuid.UUID(uuid7(0, b"\xff" * 10)).int
    noughts = uuid.UUID(uuid7(0, b"\x00" * 10)).int
    assert (ones ^ noughts).bit_count() == 74


def test_too_little_randomness_is_refused() -> None:
    with pytest.raises(ValueError, match="ten random bytes"):
        uuid7(0, b"123456789")
