"""What a request cost: the fleet file's price, the list's, or unknown, which is not nothing."""

from __future__ import annotations

import pytest

from podproc.models.prices import Prices
from protocol.entries import Usage
from protocol.manifest import Price, Scheme

USAGE = Usage(
    input_tokens=1_000_000, output_tokens=100_000, cache_read_tokens=500_000, cache_write_tokens=0
)


def test_a_price_of_ones_own_goes_before_the_list() -> None:
    price = Price(input=3, output=15, cache_read=0.3)
    prices = Prices(Scheme.ANTHROPIC, "claude-sonnet-4-5", price, is_listed=True)
    assert prices.of(USAGE) == pytest.approx(3 + 1.5 + 0.15)


def test_a_listed_model_has_the_lists_price_for_fresh_cached_and_written_tokens() -> None:
    prices = Prices(Scheme.ANTHROPIC, "claude-haiku-4-5", None, is_listed=True)
    fresh = prices.of(Usage(input_tokens=10_000))
    cached = prices.of(Usage(cache_read_tokens=10_000))
    written = prices.of(Usage(cache_write_tokens=10_000))
    assert fresh is not None
    assert cached is not None
    assert written is not None
    assert 0 < cached < fresh < written


@pytest.mark.parametrize(
    ("scheme", "name", "is_listed"),
    [
        (Scheme.ANTHROPIC, "no-such-model", True),
        (Scheme.OPENAI_CHAT, "gpt-4o", False),
        (Scheme.SCRIPTED, "scripted", True),
    ],
)
def test_a_price_that_nobody_knows_is_unknown_and_not_nothing(
    scheme: Scheme, name: str, is_listed: bool
) -> None:
    assert Prices(scheme, name, None, is_listed=is_listed).of(USAGE) is None
