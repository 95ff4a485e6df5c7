"""How long a provider asks to be left alone, from the headers of its refusal. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime


def retry_after_s(headers: Mapping[str, str], *, now: float) -> float | None:
    """Return the seconds a response asks to wait, 0 or more; None where it does not say.

    Milliseconds in `retry-after-ms` are preferred to seconds or an HTTP date in `retry-after`.
    `now` is the wall clock in epoch seconds, for the date. Header names are in lower case.
    """
    if (exact := number_of(headers.get("retry-after-ms"))) is not None:
        return max(0.0, exact / 1000)
    told = headers.get("retry-after")
    if (seconds := number_of(told)) is not None:
        return max(0.0, seconds)
    try:
        return max(0.0, parsedate_to_datetime(told or "").timestamp() - now)
    except (ValueError, OverflowError):
        return None


def number_of(text: str | None) -> float | None:
    """Return the finite number that a text is; None where it is none."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
