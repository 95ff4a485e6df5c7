"""Which case is proved for which format: the cases that every adapter has to stand, by their ids.

None stands where a format has no such case: it ends a stream in one way only, or gives its figures
in one place. `gemini` is the adapter of `openai_chat` at another address: what is its own is in
`test_gemini`.
"""

from __future__ import annotations

from collections.abc import Collection

SCHEMES = ("anthropic", "openai_chat", "openai_responses")

_TESTS = {
    "streams": "test_anthropic.py::test_stream_becomes_events",
    "failures": "test_anthropic.py::"
    "test_failure_says_what_happened_and_whether_it_is_worth_a_retry",
    "runs": "test_anthropic.py::test_run_over_the_wire",
    "openai_chat": "test_openai_cases.py::test_chat_completions",
    "openai_responses": "test_openai_cases.py::test_responses",
}

MATRIX: dict[str, tuple[str | None, str | None, str | None]] = {
    # what                          anthropic, openai_chat, openai_responses
    "text": ("streams/text", "text", "text"),
    "thinking": ("streams/thinking-signed", "reasoning-and-call", "reasoning-and-call"),
    "hidden thinking": (
        "streams/thinking-redacted",
        None,
        "test_openai_responses.py::"
        "test_encrypted_reasoning_goes_back_with_its_call_also_after_a_restore",
    ),
    "a call and its result": ("runs/tool-call-and-its-result", "call-in-pieces", "call-in-pieces"),
    "parallel calls": ("streams/calls-parallel", "calls-parallel", "calls-parallel"),
    "text and calls interleaved": (
        "streams/calls-interleaved-with-text",
        "chat-text-between-calls",
        "responses-text-between-calls",
    ),
    "arguments in pieces": ("streams/call-arguments-in-pieces", "call-in-pieces", "call-in-pieces"),
    "no arguments": (
        "streams/call-arguments-empty",
        "call-without-arguments",
        "call-without-arguments",
    ),
    "malformed arguments": (
        "runs/malformed-arguments-are-an-error-the-model-can-read",
        "call-malformed-arguments",
        "call-malformed-arguments",
    ),
    "usage with a cache": ("streams/usage-with-cache", "usage-cached", "usage-cached"),
    "usage late, or more than once": (
        "streams/usage-alone-and-twice",
        "chat-usage-in-every-chunk",
        None,
    ),
    "usage absent": ("streams/usage-missing", "chat-usage-absent", None),
    "the finish alone": (None, "chat-finish-alone", None),
    "429, seconds": ("failures/http-429-seconds", "http-429-seconds", "http-429-seconds"),
    "429, a date": ("failures/http-429-date", "http-429-date", "http-429-date"),
    "out of credit": (
        "failures/http-402-out-of-credit",
        "http-429-out-of-credit",
        "http-429-out-of-credit",
    ),
    "529": ("runs/http-529", "http-529-always", "http-529-always"),
    "500": ("runs/http-500", "http-500", "http-500"),
    "error in the stream, first": (
        "runs/overloaded-before-anything-was-shown",
        "error-in-stream-first",
        "error-in-stream-first",
    ),
    "error in the stream, later": (
        "runs/overloaded-in-text",
        "error-in-stream-later",
        "error-in-stream-later",
    ),
    "stream cut": ("runs/cut-in-text", "cut-later", "cut-later"),
    "stream cut again and again": ("runs/cut-again-and-again", "cut-always", "cut-always"),
    "no terminal event": ("runs/no-terminal-event", "no-terminal-event", "no-terminal-event"),
    "silence before headers": ("runs/silence-before-headers", "silent-headers", "silent-headers"),
    "silence before the first event": (
        "runs/silence-before-first-event",
        "silent-first-event",
        "silent-first-event",
    ),
    "silence between events": ("runs/silence-in-text", "silent-later", "silent-later"),
    "slow drip": ("runs/slow-drip", "text-slow-drip", "text-slow-drip"),
    "garbage in the stream": ("runs/garbage-in-text", "garbage-later", "garbage-later"),
    "wrong key": ("runs/http-401", "wrong-key", "wrong-key"),
    "wrong model": ("runs/http-404", "wrong-model", "wrong-model"),
    "context too long": (
        "runs/http-400-context-too-long",
        "context-too-long",
        "context-too-long",
    ),
    "refusal": ("runs/refusal", "refusal", "refusal"),
    "max_tokens": ("runs/max-tokens", "max-tokens", "max-tokens"),
    "max_tokens in a call": (
        "runs/max-tokens-in-a-call",
        "max-tokens-in-a-call",
        "max-tokens-in-a-call",
    ),
    "connection reset": (
        "runs/reset-before-headers",
        "reset-before-headers",
        "reset-before-headers",
    ),
    "connection refused": (
        "test_anthropic.py::test_refused_connection_is_worth_a_retry_and_names_the_address",
        "connection-refused",
        "connection-refused",
    ),
}


def test_of(scheme: str, case: str) -> str:
    """Return the test in which a case is played."""
    if "::" in case:
        return case
    table, _, name = case.rpartition("/")
    return f"{_TESTS[table or scheme]}[{name}]"


def table(passed: Collection[str]) -> str:
    """Return the cases by scheme as text: yes where the test of it has passed."""
    rows = [f"{'case':<32}" + "".join(f"{scheme:<18}" for scheme in SCHEMES)]
    for what, cases in MATRIX.items():
        marks = (
            "-" if case is None else "yes" if test_of(scheme, case) in passed else "NO"
            for scheme, case in zip(SCHEMES, cases, strict=True)
        )
        rows.append(f"{what:<32}" + "".join(f"{mark:<18}" for mark in marks))
    return "\n".join(row.rstrip() for row in rows)
