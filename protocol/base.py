"""The base of everything that crosses a process boundary.

A wire model is frozen and ignores fields it does not know, so that an older reader understands a
newer writer. Unknown *kinds* are a different matter: each tagged union decides in its own file what
an unknown tag becomes. Validators are built at first use (`defer_build`): a command that sends one
method does not pay for the other hundred. Nothing here imports a clock, a socket or a file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_serializer


class Wire(BaseModel):
    """A value on the wire or in a log: immutable, unknown fields ignored, plain data in and out."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", defer_build=True, validate_by_name=True, validate_by_alias=True
    )

    def to_wire(self) -> dict[str, Any]:
        """Return plain data for msgpack or JSON; fields that are None are left out."""
        return self.model_dump(mode="json", exclude_none=True, by_alias=True)

    @classmethod
    def from_wire(cls, data: Any) -> Self:
        """Validate plain data; raises pydantic.ValidationError naming each bad field."""
        return cls.model_validate(data)


class OpenWire(Wire):
    """A value of a kind that this version does not know.

    All it came with is kept, fields that are None too.
    """

    model_config = ConfigDict(extra="allow")

    @model_serializer
    def _all(self) -> dict[str, Any]:
        return dict(self)


class Accepted(Wire):
    """Taken, and on disk where that matters."""

    accepted: Literal[True] = True


def kind_or_unknown(known: frozenset[str]) -> Callable[[Any], str]:
    """Return a discriminator for an open union.

    The value's `kind`, or `unknown` for one not in `known`.
    """

    def kind(value: Any) -> str:
        tag = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
        return tag if isinstance(tag, str) and tag in known else "unknown"

    return kind
