"""An error on the wire, and back: apart from the errors, which are needed where no model is."""

from __future__ import annotations

from typing import Any

from protocol.base import Wire
from protocol.errors import BY_CODE, Internal, PodsupError


class ErrorBody(Wire):
    """The body of an error reply, and of the error in `run_end` and `error` events."""

    code: str
    message: str
    details: dict[str, Any] | None = None
    next: str | None = None


def error_from_body(body: ErrorBody) -> PodsupError:
    """Return the exception that an error reply stands for; an unknown code becomes `Internal`."""
    details = dict(body.details or {})
    known = BY_CODE.get(body.code)
    if known is None:
        details["foreign_code"] = body.code
    error = (known or Internal)(body.message, next_step=body.next)
    error.details = details
    return error
