"""Cases of the Messages format: what a server answers, and what has to come of it.

`STREAMS` are answers and the events they become, `FAILURES` what is raised instead, `RUNS` what the
turn loop makes of it. Each case has an id of its own, alike for all formats where the case is.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

from podproc.models.base import (
    CallArgs,
    CallDone,
    CallStart,
    Figures,
    ModelEvent,
    TextDelta,
    TextDone,
    ThinkingDelta,
    ThinkingDone,
    ThinkingStart,
)
from podproc.turn_terms import Ending
from protocol.entries import Usage
from protocol.manifest import Engine, Retry, Timeouts
from tests.podproc.engines import PATIENT
from tests.support.providers.anthropic_server import (
    PING,
    STOP,
    answer,
    begin,
    call,
    end,
    error_event,
    event,
    more,
    reason,
    redacted,
    refusal,
    start,
    text,
    thinking,
)
from tests.support.providers.sse import (
    Cut,
    Drip,
    Head,
    Reply,
    Reset,
    Silence,
    frame,
)

KEY = "sk-ant-api03-this-is-the-key"
MODEL = "claude-test"
NOW = 1_800_000_000.0
IMPATIENT = Engine(
    timeouts=Timeouts(headers_s=1, first_event_s=1.2, idle_s=1),
    retry=Retry(base_s=0.001, cap_s=0.002),
)
"""Long enough for a good answer on a busy machine, short enough to wait for."""


def figures(input_tokens: int = 25, output_tokens: int = 1, read: int = 0, wrote: int = 0) -> Any:
    return Figures(
        Usage(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cache_read_tokens=read,
            cache_write_tokens=wrote,
        )
    )


# -- streams and their events


@dataclass(frozen=True)
class Stream:
    """A case: an answer, and its events between `Opened` with the first figures, and the end."""

    id: str
    reply: Reply
    told: tuple[ModelEvent, ...]
    stop: str = "end_turn"
    last: tuple[ModelEvent, ...] = (figures(25, 15),)


def whole(reply: Reply) -> bytes:
    """Return all bytes of a reply."""
    return b"".join(step for step in reply if isinstance(step, bytes))


def plain(text: str, block: int = 0) -> tuple[ModelEvent, ...]:
    return TextDelta(block, text), TextDone(block, text)


def called(call_id: str, *pieces: str, name: str = "Echo") -> tuple[ModelEvent, ...]:
    args = [CallArgs(call_id, piece) for piece in pieces]
    return CallStart(call_id, name), *args, CallDone(call_id, name, "".join(pieces) or "{}")


STREAMS = (
    Stream(
        "text",
        answer(text("Hel", "lo")),
        (TextDelta(0, "Hel"), *plain("lo")[:1], TextDone(0, "Hello")),
    ),
    Stream(
        "text-unicode",
        answer(text("gr", "üße", " 👋")),
        (TextDelta(0, "gr"), TextDelta(0, "üße"), TextDelta(0, " 👋"), TextDone(0, "grüße 👋")),
    ),
    Stream("text-byte-by-byte", (Drip(whole(answer(text("grüße 👋")))),), plain("grüße 👋")),
    Stream(
        "text-half-surrogates",
        answer(text("a\ud83d", "\ude00b")),
        (TextDelta(0, "a\ufffd"), TextDelta(0, "\ufffdb"), TextDone(0, "a😀b")),
    ),
    Stream(
        "thinking-signed",
        answer(thinking("We", "ll"), text("yes", index=1)),
        (
            ThinkingStart(0),
            ThinkingDelta(0, "We"),
            ThinkingDelta(0, "ll"),
            ThinkingDone(0, "Well", signature="sig"),
            *plain("yes", 1),
        ),
    ),
    Stream(
        "thinking-not-shown",
        answer(thinking(), text("yes", index=1)),
        (ThinkingStart(0), ThinkingDone(0, "", signature="sig"), *plain("yes", 1)),
    ),
    Stream(
        "thinking-redacted",
        answer(redacted("c2VhbGVk"), text("yes", index=1)),
        (ThinkingStart(0), ThinkingDone(0, encrypted_content="c2VhbGVk"), *plain("yes", 1)),
    ),
    Stream(
        "call-single",
        answer(text("so"), call("t1", '{"text": "x"}', index=1), stop="tool_use"),
        (*plain("so"), *called("t1", '{"text": "x"}')),
        "tool_use",
    ),
    Stream(
        "calls-parallel",
        answer(call("t1", '{"text": "x"}'), call("t2", '{"text": "y"}', index=1), stop="tool_use"),
        (*called("t1", '{"text": "x"}'), *called("t2", '{"text": "y"}')),
        "tool_use",
    ),
    Stream(
        "calls-interleaved-with-text",
        answer(
            text("a"),
            call("t1", index=1),
            text("b", index=2),
            call("t2", "{}", index=3),
            stop="tool_use",
        ),
        (*plain("a"), *called("t1"), *plain("b", 2), *called("t2", "{}")),
        "tool_use",
    ),
    Stream(
        "calls-interleaved-with-each-other",
        (
            start(),
            begin(0, "tool_use", id="t1", name="Echo", input={}),
            begin(1, "tool_use", id="t2", name="Echo", input={}),
            more(1, "input_json_delta", partial_json='{"text": '),
            more(0, "input_json_delta", partial_json="{}"),
            end(0),
            more(1, "input_json_delta", partial_json='"y"}'),
            end(1),
            reason("tool_use"),
            STOP,
        ),
        (
            CallStart("t1", "Echo"),
            CallStart("t2", "Echo"),
            CallArgs("t2", '{"text": '),
            CallArgs("t1", "{}"),
            CallDone("t1", "Echo", "{}"),
            CallArgs("t2", '"y"}'),
            CallDone("t2", "Echo", '{"text": "y"}'),
        ),
        "tool_use",
    ),
    Stream(
        "call-arguments-in-pieces",
        answer(call("t1", "", '{"te', 'xt":', ' "x"}'), stop="tool_use"),
        (*called("t1", '{"te', 'xt":', ' "x"}'),),
        "tool_use",
    ),
    Stream(
        "call-arguments-empty",
        answer(call("t1", ""), stop="tool_use"),
        (CallStart("t1", "Echo"),),
        "tool_use",
        (figures(25, 15), CallDone("t1", "Echo", "{}")),
    ),
    Stream(
        "call-arguments-malformed",
        answer(call("t1", '{"text": '), stop="tool_use"),
        (CallStart("t1", "Echo"), CallArgs("t1", '{"text": ')),
        "tool_use",
        (figures(25, 15), CallDone("t1", "Echo", '{"text": ')),
    ),
    Stream(
        "call-arguments-at-start",
        (
            start(),
            begin(0, "tool_use", id="t1", name="Echo", input={"text": "ü"}),
            end(0),
            reason("tool_use"),
            STOP,
        ),
        (CallStart("t1", "Echo"), CallDone("t1", "Echo", '{"text": "ü"}')),
        "tool_use",
    ),
    Stream(
        "call-block-never-closed",
        (
            start(),
            begin(0, "tool_use", id="t1", name="Echo", input={}),
            more(0, "input_json_delta", partial_json="{}"),
            reason("tool_use"),
            STOP,
        ),
        (CallStart("t1", "Echo"), CallArgs("t1", "{}")),
        "tool_use",
        (figures(25, 15), CallDone("t1", "Echo", "{}")),
    ),
    Stream("max-tokens", answer(text("half"), stop="max_tokens"), plain("half"), "max_tokens"),
    Stream(
        "max-tokens-in-a-call",
        answer(call("t1", "{}"), call("t2", '{"text": "ha', index=1), stop="max_tokens"),
        (*called("t1", "{}"), CallStart("t2", "Echo"), CallArgs("t2", '{"text": "ha')),
        "max_tokens",
    ),
    Stream(
        "max-tokens-before-arguments",
        answer(call("t1"), stop="max_tokens"),
        (CallStart("t1", "Echo"),),
        "max_tokens",
    ),
    Stream(
        "max-tokens-in-an-open-call",
        (
            start(),
            begin(0, "tool_use", id="t1", name="Echo", input={}),
            more(0, "input_json_delta", partial_json="{}"),
            reason("max_tokens"),
            STOP,
        ),
        (CallStart("t1", "Echo"), CallArgs("t1", "{}")),
        "max_tokens",
    ),
    Stream(
        "context-window-used-up",
        answer(text("half"), stop="model_context_window_exceeded"),
        plain("half"),
        "max_tokens",
    ),
    Stream(
        "stop-sequence", answer(text("yes"), stop="stop_sequence"), plain("yes"), "stop_sequence"
    ),
    Stream("stop-reason-unknown", answer(text("yes"), stop="brand_new"), plain("yes"), "brand_new"),
    Stream("empty-answer", answer(), ()),
    Stream(
        "unknown-events-and-blocks",
        answer(
            event("brand_new", index=0),
            begin(0, "server_tool_use", id="s1", name="x", input={}),
            more(0, "input_json_delta", partial_json="{}"),
            end(0),
            more(1, "brand_new_delta", x=1),
            begin(1, "text", text=""),
            more(1, "citations_delta", citation={}),
            more(1, "text_delta", text="yes"),
            end(1),
            frame([1], "list"),
            frame("null", "null"),
            b": a comment\n\n",
        ),
        plain("yes", 1),
    ),
    Stream(
        "usage-with-cache",
        (
            start(
                input_tokens=5,
                output_tokens=1,
                cache_read_input_tokens=900,
                cache_creation_input_tokens=70,
            ),
            text("yes"),
            reason("end_turn", output_tokens=9),
            STOP,
        ),
        plain("yes"),
        last=(figures(5, 9, 900, 70),),
    ),
    Stream(
        "usage-late",
        (
            start(input_tokens=0, output_tokens=0),
            text("yes"),
            reason("end_turn", input_tokens=30, output_tokens=9, cache_read_input_tokens=4),
            STOP,
        ),
        plain("yes"),
        last=(figures(30, 9, 4),),
    ),
    Stream(
        "usage-alone-and-twice",
        (
            start(),
            text("yes"),
            reason(None, output_tokens=3),
            reason("end_turn", output_tokens=9),
            reason(None, input_tokens=0, output_tokens=9),
            STOP,
        ),
        plain("yes"),
        last=(figures(25, 3), figures(25, 9), figures(25, 9)),
    ),
    Stream(
        "usage-missing",
        (start(), text("yes"), event("message_delta", delta={"stop_reason": "end_turn"}), STOP),
        plain("yes"),
        last=(),
    ),
)
"""Answers that are whole, and what they become."""


# -- failures


@dataclass(frozen=True)
class Failure:
    """A case: a reply, and what is raised."""

    id: str
    reply: Reply
    words: str
    status: int | None = None
    retryable: bool = True
    retry_after_s: float | None = None
    is_cut: bool = False


TOO_LONG = "prompt is too long: 213142 tokens > 200000 maximum"

FAILURES = (
    Failure(
        "http-400-invalid",
        refusal(400, "invalid_request_error", "messages.0: bad"),
        "request to claude-test: messages.0: bad (request req_011CSHoEeqs5C35K2UUqR7Fy)",
        400,
        False,
    ),
    Failure(
        "http-400-context-too-long",
        refusal(400, "invalid_request_error", TOO_LONG),
        "the history is too long for claude-test",
        400,
        False,
    ),
    Failure(
        "http-401-wrong-key",
        refusal(401, "authentication_error", f"invalid x-api-key: {KEY}"),
        "refuses the API key for claude-test: invalid x-api-key: [the key]",
        401,
        False,
    ),
    Failure(
        "http-402-out-of-credit",
        refusal(402, "billing_error", "no credit"),
        "no credit",
        402,
        False,
    ),
    Failure(
        "http-403-not-allowed",
        refusal(403, "permission_error", "no"),
        "does not let this API key use claude-test",
        403,
        False,
    ),
    Failure(
        "http-404-wrong-model",
        refusal(404, "not_found_error", "model: claude-test"),
        "has no model claude-test",
        404,
        False,
    ),
    Failure(
        "http-404-wrong-address",
        (Head(404, {"content-type": "text/plain"}), b"404 page not found"),
        "404 page not found",
        404,
        False,
    ),
    Failure(
        "http-429-seconds",
        refusal(429, "rate_limit_error", "slow down", {"retry-after": "7"}),
        "limits the rate of requests to claude-test: slow down",
        429,
        True,
        7.0,
    ),
    Failure(
        "http-429-date",
        refusal(
            429, "rate_limit_error", "slow down", {"Retry-After": formatdate(NOW + 12, usegmt=True)}
        ),
        "slow down",
        429,
        True,
        12.0,
    ),
    Failure(
        "http-429-milliseconds",
        refusal(
            429, "rate_limit_error", "slow down", {"retry-after-ms": "250", "retry-after": "1"}
        ),
        "slow down",
        429,
        True,
        0.25,
    ),
    Failure(
        "http-429-no-word-of-when", refusal(429, "rate_limit_error", "slow down"), "slow down", 429
    ),
    Failure(
        "http-500",
        refusal(500, "api_error", "Internal server error"),
        "failed: Internal server error",
        500,
    ),
    Failure(
        "http-502-page",
        (Head(502, {"content-type": "text/html"}), b"<html>" + b"x" * 50_000),
        "bytes dropped]",
        502,
    ),
    Failure(
        "http-529-overloaded",
        refusal(529, "overloaded_error", "Overloaded"),
        "is overloaded: Overloaded",
        529,
    ),
    Failure("http-error-cut", (Head(500), b'{"type": "er', Cut()), "could not be reached"),
    Failure(
        "event-overloaded-first",
        (error_event("overloaded_error", "Overloaded"),),
        "is overloaded: Overloaded",
        529,
    ),
    Failure(
        "event-overloaded-later",
        (start(), text("a"), error_event("overloaded_error", "Overloaded")),
        "is overloaded",
        529,
    ),
    Failure(
        "event-rate-limit",
        (start(), error_event("rate_limit_error", "slow down")),
        "limits the rate",
        429,
    ),
    Failure(
        "event-api-error", (start(), error_event("api_error", "Internal")), "failed: Internal", 500
    ),
    Failure(
        "event-unknown-error",
        (start(), error_event("brand_new_error", "what")),
        "failed: what",
        500,
    ),
    Failure(
        "event-invalid-request",
        (start(), error_event("invalid_request_error", "bad")),
        "bad",
        400,
        False,
    ),
    Failure("event-error-garbage", (start(), frame("oh no", "error")), "oh no", 500),
    Failure(
        "refusal",
        (
            start(),
            text("I"),
            reason("refusal", {"type": "refusal", "category": "bio", "explanation": "no"}),
            STOP,
        ),
        "the model refused to answer (bio: no)",
        None,
        False,
    ),
    Failure("cut-before-first-event", (Head(), Cut()), "broke"),
    Failure(
        "cut-in-text",
        (start(), begin(0, "text", text=""), more(0, "text_delta", text="a"), Cut()),
        "broke",
        is_cut=True,
    ),
    Failure("reset-before-headers", (Reset(),), "could not be reached"),
    Failure("reset-in-text", (start(), text("a"), Reset()), "broke", is_cut=True),
    Failure("garbage-first", (frame("{not json", "message_start"),), "broke"),
    Failure("garbage-later", (start(), frame("{not json", "message_delta")), "broke", is_cut=True),
    Failure("garbage-bytes", (start(), frame(b"\xff\xfe", "ping")), "broke", is_cut=True),
    Failure(
        "no-event-at-all",
        (Head(200, {"content-type": f"text/html; {KEY}"}), b"<html>hello</html>"),
        "answered without an event (text/html; [the key])",
    ),
    Failure("paused-by-provider", answer(text("a"), stop="pause_turn"), "paused", is_cut=True),
)
"""Replies that are no answer, and what is raised."""


# -- what the turn loop makes of it


@dataclass(frozen=True)
class Run:
    """A case: replies, and how the run ends with what was told in between."""

    id: str
    replies: tuple[Reply, ...]
    told: tuple[str, ...]
    ending: Ending = Ending.FINISHED
    words: str = ""
    rules: Engine = PATIENT


WELL = answer(text("well"))
FIRST = ("llm_retry", "entry well", "usage")
CONTINUED = ("entry a", "usage", "llm_continuation", "entry well", "usage")
HALF = (start(), text("a"), begin(1, "text", text=""), more(1, "text_delta", text="unfinis"))
BROKEN_CALL = (start(), text("a"), call("t1", '{"text": "x"}', index=1))

RUNS = (
    Run("text", (WELL,), ("entry well", "usage")),
    Run(
        "tool-call-and-its-result",
        (answer(call("t1", '{"text": "x"}'), stop="tool_use"), WELL),
        ("entry t1", "usage", "sync", "starts t1", "result t1", "entry well", "usage"),
    ),
    Run(
        "parallel-calls",
        (
            answer(
                call("t1", '{"text": "x"}'), call("t2", '{"text": "y"}', index=1), stop="tool_use"
            ),
            WELL,
        ),
        (
            "entry t1",
            "entry t2",
            "usage",
            "sync",
            "starts t1",
            "result t1",
            "starts t2",
            "result t2",
            "entry well",
            "usage",
        ),
    ),
    Run(
        "malformed-arguments-are-an-error-the-model-can-read",
        (answer(call("t1", '{"text": '), stop="tool_use"), WELL),
        ("entry t1", "usage", "sync", "starts t1", "result t1", "entry well", "usage"),
    ),
    Run(
        "http-429", (refusal(429, "rate_limit_error", "slow", {"retry-after-ms": "1"}), WELL), FIRST
    ),
    Run("http-529", (refusal(529, "overloaded_error", "Overloaded"), WELL), FIRST),
    Run("http-500", (refusal(500, "api_error", "oh"), WELL), FIRST),
    Run(
        "http-500-to-the-end",
        (refusal(500, "api_error", "oh"),) * 4,
        ("llm_retry", "llm_retry", "llm_retry"),
        Ending.FAILED,
        "failed: oh",
    ),
    Run(
        "http-429-waits-too-long",
        (refusal(429, "rate_limit_error", "slow", {"retry-after": "3600"}),),
        (),
        Ending.FAILED,
        "the next attempt would come",
    ),
    Run(
        "http-401",
        (refusal(401, "authentication_error", "invalid x-api-key"),),
        (),
        Ending.FAILED,
        "refuses the API key",
    ),
    Run(
        "http-404",
        (refusal(404, "not_found_error", "model: claude-test"),),
        (),
        Ending.FAILED,
        "has no model claude-test",
    ),
    Run(
        "http-400-context-too-long",
        (refusal(400, "invalid_request_error", TOO_LONG),),
        (),
        Ending.FAILED,
        "podsup compact",
    ),
    Run("reset-before-headers", ((Reset(),), WELL), FIRST),
    Run("cut-before-first-event", ((Head(), Cut()), WELL), FIRST),
    Run(
        "overloaded-before-anything-was-shown",
        ((start(), error_event("overloaded_error", "Overloaded")), WELL),
        FIRST,
    ),
    Run(
        "overloaded-in-text",
        ((*HALF, error_event("overloaded_error", "Overloaded")), WELL),
        CONTINUED,
    ),
    Run(
        "error-in-text-that-no-retry-helps",
        ((*HALF, error_event("invalid_request_error", "bad")),),
        (),
        Ending.FAILED,
        "bad",
    ),
    Run("cut-in-text", ((*HALF, Cut()), WELL), CONTINUED),
    Run("reset-in-text", ((*HALF, Reset()), WELL), CONTINUED),
    Run("cut-behind-a-call", ((*BROKEN_CALL, Cut()), WELL), CONTINUED),
    Run("no-terminal-event", ((*BROKEN_CALL, reason("tool_use")), WELL), CONTINUED),
    Run("garbage-in-text", ((*HALF, frame("{no", "message_delta")), WELL), CONTINUED),
    Run("paused-by-provider", (answer(text("a"), stop="pause_turn"), WELL), CONTINUED),
    Run(
        "cut-again-and-again",
        ((*HALF, Cut()),) * 4,
        ("entry a", "usage", "llm_continuation") * 3 + ("entry a", "usage"),
        Ending.FAILED,
        "broke again and again",
    ),
    Run(
        "refusal",
        ((start(), text("I"), reason("refusal"), STOP),),
        (),
        Ending.FAILED,
        "the model refused to answer",
    ),
    Run(
        "max-tokens",
        (answer(text("half"), stop="max_tokens"),),
        ("entry half", "usage"),
        Ending.LIMIT_REACHED,
        "max_tokens",
    ),
    Run(
        "max-tokens-in-a-call",
        (answer(text("half"), call("t1", "{", index=1), stop="max_tokens"),),
        ("entry half", "usage"),
        Ending.LIMIT_REACHED,
        "max_tokens",
    ),
    Run(
        "max-tokens-behind-a-call",
        (answer(call("t1", '{"text": "x"}'), stop="max_tokens"), WELL),
        ("entry t1", "usage", "sync", "starts t1", "result t1", "entry well", "usage"),
    ),
    Run("silence-before-headers", ((Silence(),), WELL), FIRST, rules=IMPATIENT),
    Run("silence-before-first-event", ((Head(), Silence()), WELL), FIRST, rules=IMPATIENT),
    Run("silence-but-for-pings", ((Head(), PING, Silence()), WELL), FIRST, rules=IMPATIENT),
    Run("silence-in-text", ((*HALF, Silence()), WELL), CONTINUED, rules=IMPATIENT),
    Run("slow-drip", ((Drip(whole(WELL), 32, 0.045),),), ("entry well", "usage"), rules=IMPATIENT),
)
"""What a run makes of replies; the model is asked once for each, and never more."""

TOLD = ("entry", "usage", "sync", "starts", "result", "llm_retry", "llm_continuation")

_TABLES: tuple[tuple[str, tuple[Stream | Failure | Run, ...]], ...] = (
    ("streams", STREAMS),
    ("failures", FAILURES),
    ("runs", RUNS),
)
CASE_IDS = tuple(f"{table}/{case.id}" for table, cases in _TABLES for case in cases)
"""Every case by its id, to be set beside those of other formats."""
