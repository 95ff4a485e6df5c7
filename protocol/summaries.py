"""Small figures that stand in many messages, apart so that those are cheap to import."""

from __future__ import annotations

from typing import Literal

from protocol.base import Wire


class Usage(Wire):
    """Tokens of one request or a sum of requests; `cost_usd` is None where the price is unknown."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float | None = None

    def plus(self, other: Usage) -> Usage:
        """Return the sum; a cost that is unknown on one side only is the other's."""
        costs = [c for c in (self.cost_usd, other.cost_usd) if c is not None]
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            cost_usd=sum(costs) if costs else None,
        )


class ScopeSummary(Wire):
    """Absolute paths, for people; the rules themselves are in the manifest."""

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()


class Sandbox(Wire):
    """How well the pod's commands are confined: the level, and what it leaves open."""

    level: Literal["none", "landlock", "namespaces"] = "none"
    unprotected: tuple[str, ...] = ()
