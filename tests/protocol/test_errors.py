"""The error tree: codes and classes, both ways; the drawing; an error from a newer peer."""

from __future__ import annotations

import re

import pytest

from protocol import errors
from protocol.error_body import ErrorBody, error_from_body
from protocol.errors import (
    BY_CODE,
    AlreadyRunning,
    ErrorCode,
    Internal,
    PodsupError,
    TooLarge,
    WriteConflict,
)
from protocol.wire import pack, unpack

CODES = [
    "already_running", "not_running", "not_paused", "provider_error", "tool_error",
    "invalid_request", "forbidden", "unknown_pod", "unreachable", "not_visible", "conflict",
    "write_conflict", "duplicate_pod", "segment_conflict", "not_subset", "invalid_scope",
    "wrong_token", "interrupted", "overloaded", "budget_exhausted", "too_large",
    "unsupported_version", "timeout", "internal",
]  # fmt: skip


def drawn() -> dict[str, str]:
    """Return each class of the drawn tree with the class it hangs from."""
    above: dict[int, str] = {}
    found: dict[str, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        if (match := re.match(r"^    ([ │├└─]*)(\w+)", line)) is None:
            continue
        depth = len(match[1]) // 4
        above[depth] = match[2]
        if depth:
            found[match[2]] = above[depth - 1]
    return found


def declared(cls: type[PodsupError] = PodsupError) -> dict[str, str]:
    """Return the same from the classes themselves."""
    found: dict[str, str] = {}
    for sub in cls.__subclasses__():
        if sub.__module__ == errors.__name__:
            found |= {sub.__name__: cls.__name__} | declared(sub)
    return found


def test_the_codes_are_those_of_the_wire() -> None:
    assert {code.value for code in ErrorCode} == set(CODES)


def test_drawn_tree_is_the_tree_of_the_classes() -> None:
    assert drawn() == declared()


def test_every_code_has_one_class_and_every_leaf_one_code() -> None:
    assert set(BY_CODE) == set(CODES)
    leaves = set(declared()) - set(declared().values())
    assert {cls.__name__ for cls in BY_CODE.values()} == leaves


@pytest.mark.parametrize("code", CODES)
def test_code_becomes_its_class_and_the_class_its_code(code: str) -> None:
    body = ErrorBody(code=code, message="why", details={"seen": 1}, next="podsup ps")
    error = error_from_body(ErrorBody.from_wire(unpack(pack(body))))
    assert type(error) is BY_CODE[code]
    assert (error.code, error.message, str(error)) == (code, "why", "why")
    assert (error.details, error.next_step) == ({"seen": 1}, "podsup ps")
    assert error.to_body() == body


def test_unknown_foreign_code_becomes_internal_and_is_kept_as_evidence() -> None:
    error = error_from_body(ErrorBody(code="moon_phase", message="full", details={"deg": 180}))
    assert type(error) is Internal
    assert error.message == "full"
    assert error.details == {"deg": 180, "foreign_code": "moon_phase"}
    assert error.to_body().code == "internal"


def test_details_that_are_none_are_left_out() -> None:
    error = AlreadyRunning("busy", trigger="notify", request_id=None)
    assert error.details == {"trigger": "notify"}
    assert "details" not in Internal("oops").to_body().to_wire()


def test_errors_carry_their_evidence_as_fields() -> None:
    assert TooLarge("big", size=2, limit=1).to_body().details == {"size": 2, "limit": 1}
    holders = [{"pod": "bob", "pid": 7, "age_s": 1.5}]
    assert WriteConflict("taken", holders=holders).details["holders"] == holders


def test_classes_between_are_never_raised_with_a_code_of_their_own() -> None:
    for name in set(declared().values()):
        assert "code" not in vars(getattr(errors, name)) or name == "PodsupError"
