"""What a request cost, in USD: the fleet file's own price, else the price list's, else unknown.

The list is a library's, with its data in the package: no network. It costs a quarter of a second
and 30 MB to load, so it is loaded for the first request that has no other price. A price that is
not known is None and never 0.
"""

from __future__ import annotations

import functools
from decimal import Decimal

from protocol.entries import Usage
from protocol.manifest import Price, Scheme

_MILLION = 1_000_000
_PROVIDERS = {
    Scheme.ANTHROPIC: "anthropic",
    Scheme.OPENAI_CHAT: "openai",
    Scheme.OPENAI_RESPONSES: "openai",
    Scheme.GEMINI: "google",
}


def own_cost(price: Price, usage: Usage) -> float:
    """Return what a request costs at a price per million tokens."""
    parts = (
        price.input * usage.input_tokens,
        price.output * usage.output_tokens,
        price.cache_read * usage.cache_read_tokens,
        price.cache_write * usage.cache_write_tokens,
    )
    return sum(parts) / _MILLION


class Prices:
    """The prices of one pod's model. `is_listed`: its name means what the provider sells."""

    def __init__(
        self, scheme: Scheme, model_id: str, price: Price | None, *, is_listed: bool
    ) -> None:
        self._price = price
        self._provider = _PROVIDERS.get(scheme) if is_listed else None
        self._model_id = model_id

    def of(self, usage: Usage) -> float | None:
        """Return what a request cost; None where nobody knows."""
        if self._price is not None:
            return own_cost(self._price, usage)
        if self._provider is None:
            return None
        cost = _listed(self._provider, self._model_id, _counts(usage))
        return None if cost is None else float(cost)


def _counts(usage: Usage) -> tuple[int, int, int, int]:
    return (
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
    )


@functools.lru_cache(maxsize=64)
def _listed(provider: str, model_id: str, counts: tuple[int, int, int, int]) -> Decimal | None:
    from genai_prices import Usage as Counted
    from genai_prices import calc_price

    fresh, output, read, written = counts
    counted = Counted(
        input_tokens=fresh + read + written,  # the list counts all that went in
        output_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=written,
    )
    try:
        return calc_price(counted, model_ref=model_id, provider_id=provider).total_price
    except LookupError:
        return None


def preload() -> None:
    """Load the list, so that no pod has to: for the zygote."""
    _listed("anthropic", "", (0, 0, 0, 0))
