"""Which case is proved for which format: the cases that every adapter has to stand, by their ids.

`gemini` is the adapter of `openai_chat` at another address: what is its own is in `test_gemini`.
"""

from __future__ import annotations

from tests.podproc.models.anthropic_cases import CASE_IDS
from tests.support.providers.openai_cases import CASES

SCHEMES = ("anthropic", "openai_chat", "openai_responses")

MATRIX: dict[str, tuple[str, str, str]] = {
    # what                          anthropic, openai_chat, openai_responses
    "text": ("streams/text", "text", "text"),
    "thinking": ("streams/thinking-signed", "reasoning-and-call", "reasoning-and-call"),
    "hidden or redacted thinking": (
        "streams/thinking-redacted",
        "reasoning-and-call",
        "reasoning-and-call",
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
    "usage late, alone or absent": (
        "streams/usage-alone-and-twice",
        "chat-usage-absent",
        "usage-cached",
    ),
    "the finish alone": ("streams/call-single", "chat-finish-alone", "call-in-pieces"),
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
        "test_anthropic.py",
        "connection-refused",
        "connection-refused",
    ),
}


def known(scheme: str) -> set[str]:
    """Return the ids of the cases of a scheme."""
    if scheme == "anthropic":
        return {*CASE_IDS, "test_anthropic.py"}
    return {case.id for case in CASES if scheme in case.schemes}


def table() -> str:
    """Return the cases by scheme, as text."""
    rows = [f"{'case':<32}" + "".join(f"{scheme:<18}" for scheme in SCHEMES)]
    for what, ids in MATRIX.items():
        pairs = zip(SCHEMES, ids, strict=True)
        marks = ("yes" if one in known(scheme) else "NO" for scheme, one in pairs)
        rows.append(f"{what:<32}" + "".join(f"{mark:<18}" for mark in marks))
    return "\n".join(row.rstrip() for row in rows)
