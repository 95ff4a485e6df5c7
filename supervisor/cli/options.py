"""Option types and options that several commands share."""

from __future__ import annotations

import math
from typing import Any

import click

DAY_S = 86_400.0


class Seconds(click.FloatRange):
    """A time from 0 to a day; `nan` passes every comparison and is refused by name."""

    name = "seconds"

    def __init__(self) -> None:
        super().__init__(0, DAY_S)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the seconds, or fail as a usage error."""
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is no time", param, ctx)
        return seconds


grace_option = click.option(
    "--grace", type=Seconds(), help="Seconds for each stage: shutdown, TERM, KILL."
)
