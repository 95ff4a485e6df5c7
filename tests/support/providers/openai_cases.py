"""What a provider may do, each case under one stable id, for the two formats of OpenAI.

A case says what the server replies and what a run of the turn loop makes of it. Most are the same
for both formats: `Talk` says the same thing in either. `python -m
tests.support.providers.openai_cases` prints the table of formats and cases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from podproc.turn_terms import Ending
from protocol.entries import Usage
from tests.support.providers import openai_server as srv
from tests.support.providers.openai_server import KEY, MODEL, Script, piece
from tests.support.providers.openai_sse import Comment, Cut, Frame, Move, Pause, Raw, Reply, Silence

CHAT = "openai_chat"
RESPONSES = "openai_responses"
SCHEMES = (CHAT, RESPONSES)

NOW_MS = 1_767_225_600_000
"""The wall clock of every run: 2026-01-01 00:00:00 UTC."""

USUAL = Usage(input_tokens=100, output_tokens=7)


class Talk(Protocol):
    """Says the same thing in one of the formats."""

    def hello(self, **settings: Any) -> Reply:
        """A whole answer: `Hello there`, in two deltas."""

    def begun(self, *moves: Move) -> Reply:
        """A finished thought `hm`, a text `Hello` that has only begun, then the moves."""

    def opened(self, *moves: Move) -> Reply:
        """The headers and what comes before the first event that shows anything, then the moves."""

    def calls(self, *calls: tuple[str, Sequence[str]], text: str = "") -> Reply:
        """A text, then calls of `Echo` by id, their arguments in pieces."""

    def thought_and_call(self) -> Reply:
        """A thought `hm` with all that must come back, then the call `c1`."""

    def cut_short(self, reason: str) -> Reply:
        """A text `Hello` that ends for a reason of the format's own words: tokens or filter."""

    def cut_call(self) -> Reply:
        """A call that the tokens did not suffice for."""

    def refusal(self) -> Reply:
        """The model says `No, sorry` in the format's own way of refusing."""

    def figures(self, *, cached: int) -> Reply:
        """`Hello there`, with so many of the 100 input tokens read from the cache."""


class ChatTalk:
    """Chat Completions."""

    def hello(self, **settings: Any) -> Reply:
        return srv.chat(srv.said("Hello "), srv.said("there"), **settings)

    def begun(self, *moves: Move) -> Reply:
        thought = srv.chunk({"reasoning_content": "hm"})
        return Reply([srv.ROLE, thought, srv.said("Hello"), *moves])

    def opened(self, *moves: Move) -> Reply:
        return Reply([srv.ROLE, *moves])

    def calls(self, *calls: tuple[str, Sequence[str]], text: str = "") -> Reply:
        moves: list[Move] = [srv.said(text)] if text else []
        for index, (call_id, pieces) in enumerate(calls):
            first = piece(index, id=call_id, name="Echo", arguments="")
            moves.append(srv.call_delta(first))
            moves += [srv.call_delta(piece(index, arguments=more)) for more in pieces]
        return srv.chat(*moves, finish="tool_calls")

    def thought_and_call(self) -> Reply:
        thought = srv.chunk({"reasoning_content": "hm"})
        call = piece(id="c1", name="Echo", arguments='{"text":"a"}')
        return srv.chat(thought, srv.call_delta(call), finish="tool_calls")

    def cut_short(self, reason: str) -> Reply:
        finish = {"tokens": "length", "filter": "content_filter"}[reason]
        return srv.chat(srv.said("Hello"), finish=finish)

    def cut_call(self) -> Reply:
        call = piece(id="c1", name="Echo", arguments='{"text":"a')
        return srv.chat(srv.call_delta(call), finish="length")

    def refusal(self) -> Reply:
        return srv.chat(srv.chunk({"refusal": "No, "}), srv.chunk({"refusal": "sorry"}))

    def figures(self, *, cached: int) -> Reply:
        return Reply([srv.said("Hello "), srv.said("there"), *srv.chat_end(cached=cached)])


class ResponsesTalk:
    """The Responses API."""

    def hello(self, **settings: Any) -> Reply:
        return Script().text("Hello ", "there").completed().reply(**settings)

    def begun(self, *moves: Move) -> Reply:
        script = Script().reasoning("hm").text("Hello", is_done=False)
        return Reply([*script.frames, *moves])

    def opened(self, *moves: Move) -> Reply:
        return Reply([*Script().frames, *moves])

    def calls(self, *calls: tuple[str, Sequence[str]], text: str = "") -> Reply:
        script = Script()
        if text:
            script.text(text)
        for call_id, pieces in calls:
            script.call(call_id, *pieces)
        return script.completed().reply()

    def thought_and_call(self) -> Reply:
        return Script().reasoning("hm").call("c1", '{"text":"a"}').completed().reply()

    def cut_short(self, reason: str) -> Reply:
        why = {"tokens": "max_output_tokens", "filter": "content_filter"}[reason]
        return Script().text("Hello", status="incomplete").incomplete(why).reply()

    def cut_call(self) -> Reply:
        script = Script().call("c1", '{"text":"a', status="incomplete")
        return script.incomplete("max_output_tokens").reply()

    def refusal(self) -> Reply:
        return Script().refusal("No, ", "sorry").completed().reply()

    def figures(self, *, cached: int) -> Reply:
        return Script().text("Hello ", "there").completed(cached=cached).reply()


TALKS: dict[str, Talk] = {CHAT: ChatTalk(), RESPONSES: ResponsesTalk()}


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that a provider may do, and what a run makes of it.

    `history` is what stands behind the user's `hi`, in words; `told` are retries (with the status
    and, after a slash, the milliseconds waited where they are fixed) and continuations, in order;
    `error` are words of the error that ends the run; `stop` is the last stop reason that was heard.
    """

    id: str
    replies: Callable[[Talk], Sequence[Reply]]
    ends: Ending = Ending.FINISHED
    reason: str | None = None
    history: tuple[str, ...] = ("assistant: Hello there",)
    told: tuple[str, ...] = ()
    error: tuple[str, ...] = ()
    usage: Usage | None = USUAL
    stop: str | None = "end_turn"
    asked: int = 1
    ran: tuple[str, ...] = ()
    schemes: tuple[str, ...] = SCHEMES
    is_impatient: bool = False
    is_away: bool = False
    key: str = field(default=KEY, repr=False)
    model_id: str = MODEL


def _chat(*moves: Move, then: Sequence[Reply] = ()) -> Callable[[Talk], Sequence[Reply]]:
    """One stream of Chat Completions exactly as it is said, then the replies."""
    return lambda talk: [Reply(list(moves)), *then]


def _chat_calls(*moves: Move, finish: str = "tool_calls") -> Callable[[Talk], Sequence[Reply]]:
    return lambda talk: [srv.chat(*moves, finish=finish), talk.hello()]


def _script(script: Script) -> Callable[[Talk], Sequence[Reply]]:
    return lambda talk: [script.reply(), talk.hello()]


_A, _B = '{"text":"a"}', '{"text":"b"}'
_CALLED_A = ('call c1 Echo {"text":"a"}', "result c1: said a")
_HELLO = "assistant: Hello there"
_BOTH = (
    'call c1 Echo {"text":"a"}',
    'call c2 Echo {"text":"b"}',
    "result c1: said a",
    "result c2: said b",
    _HELLO,
)
_KEPT_ALIVE: list[Move] = [Comment(), Pause(0.05)] * 4
_WRONG_KEY = "sk-wrong-0d1e2f3a4b"


def _fails(
    id: str,
    replies: Callable[[Talk], Sequence[Reply]],
    *error: str,
    told: tuple[str, ...] = (),
    asked: int = 1,
    key: str = KEY,
    model_id: str = MODEL,
    is_away: bool = False,
) -> Case:
    """A run that ends with an error before anything was finished."""
    return Case(
        id,
        replies,
        ends=Ending.FAILED,
        history=(),
        told=told,
        error=error,
        usage=None,
        stop=None,
        asked=asked,
        key=key,
        model_id=model_id,
        is_away=is_away,
    )


def _limited(headers: dict[str, str]) -> Reply:
    return srv.error(429, "Rate limit reached", headers=headers, code="rate_limit_exceeded")


CASES: list[Case] = [
    # -- whole answers
    Case("text", lambda t: [t.hello()]),
    Case("text-slow-drip", lambda t: [t.hello(drip=1)]),
    Case(
        "text-empty",
        lambda t: [Reply(srv.chat_end()) if t is TALKS[CHAT] else Script().completed().reply()],
        history=(),
    ),
    Case(
        "reasoning-and-call",
        lambda t: [t.thought_and_call(), t.hello()],
        history=("thought: hm", *_CALLED_A, _HELLO),
        asked=2,
        ran=("a",),
    ),
    Case(
        "call-in-pieces",
        lambda t: [t.calls(("c1", ['{"te', 'xt":', '"a"}'])), t.hello()],
        history=(*_CALLED_A, _HELLO),
        asked=2,
        ran=("a",),
    ),
    Case(
        "calls-parallel",
        lambda t: [t.calls(("c1", [_A]), ("c2", [_B])), t.hello()],
        history=_BOTH,
        asked=2,
        ran=("a", "b"),
    ),
    Case(
        "call-without-arguments",
        lambda t: [t.calls(("c1", [])), t.hello()],
        history=("call c1 Echo {}", "result c1: said default", _HELLO),
        asked=2,
        ran=("default",),
    ),
    Case(
        "call-malformed-arguments",
        lambda t: [t.calls(("c1", ['{"text": a'])), t.hello()],
        history=('call c1 Echo {"text": a', "result c1: invalid_argument:", _HELLO),
        asked=2,
    ),
    Case(
        "text-then-call",
        lambda t: [t.calls(("c1", [_A]), text="Look: "), t.hello()],
        history=("assistant: Look: ", *_CALLED_A, _HELLO),
        asked=2,
        ran=("a",),
    ),
    Case(
        "call-id-repeated",
        lambda t: [t.calls(("c1", [_A])), t.calls(("c1", [_B])), t.hello()],
        history=(
            *_CALLED_A,
            'call c1-2 Echo {"text":"b"}',
            "result c1-2: said b",
            _HELLO,
        ),
        asked=3,
        ran=("a", "b"),
    ),
    Case(
        "usage-cached",
        lambda t: [t.figures(cached=64)],
        usage=Usage(input_tokens=36, output_tokens=7, cache_read_tokens=64),
    ),
    # -- ends of another kind
    Case(
        "max-tokens",
        lambda t: [t.cut_short("tokens")],
        ends=Ending.LIMIT_REACHED,
        reason="max_tokens",
        history=("assistant: Hello",),
        stop="max_tokens",
    ),
    Case(
        "max-tokens-in-a-call",
        lambda t: [t.cut_call()],
        ends=Ending.LIMIT_REACHED,
        reason="max_tokens",
        history=(),
        stop="max_tokens",
    ),
    Case(
        "content-filter",
        lambda t: [t.cut_short("filter")],
        history=("assistant: Hello",),
        stop="refusal",
    ),
    Case("refusal", lambda t: [t.refusal()], history=("assistant: No, sorry",), stop="refusal"),
    # -- refused before the first event, and tried again
    Case(
        "http-429-seconds",
        lambda t: [_limited({"retry-after": "0.02"}), t.hello()],
        told=("retry 429/20",),
        asked=2,
    ),
    Case(
        "http-429-date",
        lambda t: [_limited({"retry-after": "Thu, 01 Jan 2026 00:00:01 GMT"}), t.hello()],
        told=("retry 429/1000",),
        asked=2,
    ),
    Case(
        "http-429-milliseconds",
        lambda t: [_limited({"retry-after-ms": "30", "retry-after": "9"}), t.hello()],
        told=("retry 429/30",),
        asked=2,
    ),
    _fails(
        "http-429-out-of-credit",
        lambda t: [srv.error(429, "You exceeded your current quota", type="insufficient_quota")],
        "out of credit",
        "You exceeded your current quota",
        "HTTP 429",
    ),
    _fails(
        "http-402-out-of-credit",
        lambda t: [srv.error(402, "Insufficient Balance")],
        "out of credit",
        "Insufficient Balance",
    ),
    Case(
        "http-500",
        lambda t: [srv.error(500, "The server had an error"), t.hello()],
        told=("retry 500",),
        asked=2,
    ),
    Case(
        "http-503-html",
        lambda t: [srv.plain(503, "<html><body>Bad gateway</body></html>"), t.hello()],
        told=("retry 503",),
        asked=2,
    ),
    _fails(
        "http-529-always",
        lambda t: [srv.error(529, "Overloaded", type="overloaded_error")],
        "is overloaded",
        "Overloaded",
        "4 attempts failed",
        told=("retry 529", "retry 529", "retry 529"),
        asked=4,
    ),
    # -- refused for good
    _fails(
        "wrong-key",
        lambda t: [t.hello()],
        "refused the key",
        MODEL,
        "Incorrect API key provided: [the key]",
        "HTTP 401",
        key=_WRONG_KEY,
    ),
    _fails(
        "forbidden",
        lambda t: [srv.error(403, "Country not supported")],
        "does not let this key use",
        MODEL,
        "Country not supported",
    ),
    _fails(
        "wrong-model",
        lambda t: [t.hello()],
        "knows no model gpt-nope",
        "http://127.0.0.1:",
        "/v1",
        model_id="gpt-nope",
    ),
    _fails(
        "context-too-long",
        lambda t: [
            srv.error(
                400,
                "This model's maximum context length is 128000 tokens.",
                code="context_length_exceeded",
            )
        ],
        "the request is too long",
        MODEL,
        "128000 tokens",
    ),
    _fails(
        "bad-request",
        lambda t: [srv.error(400, "Unsupported value: 'temperature'", param="temperature")],
        "did not accept the request",
        MODEL,
        "Unsupported value",
    ),
    _fails(
        "not-a-stream",
        lambda t: [srv.plain(200, "<html><body>Welcome</body></html>")],
        "answered with text/html instead of a stream of events",
        "check base_url",
    ),
    # -- errors inside the stream
    Case(
        "error-in-stream-first",
        lambda t: [
            t.opened(Frame({"error": {"message": "Overloaded", "code": "overloaded"}})),
            t.hello(),
        ],
        told=("retry 529",),
        asked=2,
    ),
    Case(
        "error-in-stream-later",
        lambda t: [
            t.begun(Frame({"error": {"message": "Provider disconnected", "code": 502}})),
            t.hello(),
        ],
        history=("thought: hm", _HELLO),
        told=("continuation Provider disconnected",),
        asked=2,
    ),
    _fails(
        "error-in-stream-final",
        lambda t: [t.begun(Frame({"error": {"message": "Bad input", "code": 400}}))],
        "did not accept the request",
        "Bad input",
    ),
    # -- streams that break
    Case(
        "cut-before-headers",
        lambda t: [Reply(before=[Cut()]), t.hello()],
        told=("retry None",),
        asked=2,
    ),
    Case(
        "reset-before-headers",
        lambda t: [Reply(before=[Cut(reset=True)]), t.hello()],
        told=("retry None",),
        asked=2,
    ),
    Case(
        "cut-before-first-event",
        lambda t: [t.opened(Cut()), t.hello()],
        told=("retry None",),
        asked=2,
    ),
    Case(
        "empty-stream",
        lambda t: [Reply(), t.hello()],
        told=("retry None",),
        asked=2,
    ),
    Case(
        "cut-later",
        lambda t: [t.begun(Cut()), t.hello()],
        history=("thought: hm", _HELLO),
        told=("continuation lost the connection",),
        asked=2,
    ),
    Case(
        "reset-later",
        lambda t: [t.begun(Cut(reset=True)), t.hello()],
        history=("thought: hm", _HELLO),
        told=("continuation lost the connection",),
        asked=2,
    ),
    Case(
        "garbage-later",
        lambda t: [t.begun(Frame("{nonsense")), t.hello()],
        history=("thought: hm", _HELLO),
        told=("continuation not of the format",),
        asked=2,
    ),
    Case(
        "garbage-not-utf8",
        lambda t: [t.begun(Raw(b"data: \xff\xfe\n\n")), t.hello()],
        history=("thought: hm", _HELLO),
        told=("continuation not of the format",),
        asked=2,
    ),
    Case(
        "garbage-not-an-object",
        lambda t: [t.begun(Frame([1, 2])), t.hello()],
        history=("thought: hm", _HELLO),
        told=("continuation not of the format",),
        asked=2,
    ),
    Case(
        "no-terminal-event",
        lambda t: [t.begun(), t.hello()],
        history=("thought: hm", _HELLO),
        told=("continuation without its terminal event",),
        asked=2,
    ),
    Case(
        "cut-always",
        lambda t: [t.begun(Cut())],
        ends=Ending.FAILED,
        history=("thought: hm",) * 4,
        told=("continuation lost the connection",) * 3,
        error=("the stream broke again and again", "lost the connection"),
        usage=None,
        stop=None,
        asked=4,
    ),
    # -- silence
    Case(
        "silent-headers",
        lambda t: [Reply(before=[Silence()]), t.hello()],
        told=("retry None",),
        asked=2,
        is_impatient=True,
    ),
    Case(
        "silent-first-event",
        lambda t: [t.opened(Silence()), t.hello()],
        told=("retry None",),
        asked=2,
        is_impatient=True,
    ),
    Case(
        "silent-later",
        lambda t: [t.begun(Silence()), t.hello()],
        history=("thought: hm", _HELLO),
        told=("continuation no more events",),
        asked=2,
        is_impatient=True,
    ),
    Case(
        "silent-but-for-comments",
        lambda t: [t.begun(*_KEPT_ALIVE, Silence()), t.hello()],
        history=("thought: hm", _HELLO),
        told=("continuation no more events",),
        asked=2,
        is_impatient=True,
    ),
    # -- nobody there
    _fails(
        "connection-refused",
        lambda t: [t.hello()],
        "could not be reached",
        "4 attempts failed",
        is_away=True,
        told=("retry None",) * 3,
        asked=0,
    ),
    # -- what only Chat Completions leaves open
    Case(
        "chat-finish-alone",
        _chat_calls(srv.call_delta(piece(id="c1", name="Echo", arguments=_A))),
        history=(*_CALLED_A, _HELLO),
        asked=2,
        ran=("a",),
        schemes=(CHAT,),
    ),
    Case(
        "chat-finish-with-the-call",
        lambda t: [
            Reply(
                [
                    srv.chunk(
                        {"tool_calls": [piece(id="c1", name="Echo", arguments=_A)]}, "tool_calls"
                    ),
                    srv.DONE,
                ]
            ),
            t.hello(),
        ],
        history=(*_CALLED_A, _HELLO),
        asked=2,
        ran=("a",),
        schemes=(CHAT,),
    ),
    Case(
        "chat-finish-says-stop",
        _chat_calls(srv.call_delta(piece(id="c1", name="Echo", arguments=_A)), finish="stop"),
        history=(*_CALLED_A, _HELLO),
        asked=2,
        ran=("a",),
        schemes=(CHAT,),
    ),
    Case(
        "chat-calls-in-one-delta",
        _chat_calls(
            srv.call_delta(
                piece(0, id="c1", name="Echo", arguments=_A),
                piece(1, id="c2", name="Echo", arguments=_B),
            )
        ),
        history=_BOTH,
        asked=2,
        ran=("a", "b"),
        schemes=(CHAT,),
    ),
    Case(
        "chat-calls-interleaved",
        _chat_calls(
            srv.call_delta(piece(0, id="c1", name="Echo", arguments='{"text"')),
            srv.call_delta(piece(1, id="c2", name="Echo", arguments='{"text"')),
            srv.call_delta(piece(0, arguments=':"a"}'), piece(1, arguments=':"b"}')),
        ),
        history=_BOTH,
        asked=2,
        ran=("a", "b"),
        schemes=(CHAT,),
    ),
    Case(
        "chat-calls-without-index",
        _chat_calls(
            srv.call_delta(piece(None, id="c1", name="Echo", arguments='{"text"')),
            srv.call_delta(piece(None, arguments=':"a"}')),
            srv.call_delta(piece(None, id="c2", name="Echo", arguments=_B)),
        ),
        history=_BOTH,
        asked=2,
        ran=("a", "b"),
        schemes=(CHAT,),
    ),
    Case(
        "chat-calls-all-index-0",
        _chat_calls(
            srv.call_delta(piece(0, id="c1", name="Echo", arguments=_A)),
            srv.call_delta(piece(0, id="c2", name="Echo", arguments=_B)),
        ),
        history=_BOTH,
        asked=2,
        ran=("a", "b"),
        schemes=(CHAT,),
    ),
    Case(
        "chat-calls-without-ids",
        _chat_calls(
            srv.call_delta(piece(0, name="Echo", arguments='{"text"')),
            srv.call_delta(piece(1, name="Echo", arguments=_B)),
            srv.call_delta(piece(0, arguments=':"a"}')),
        ),
        history=(
            'call call Echo {"text":"a"}',
            'call call-2 Echo {"text":"b"}',
            "result call: said a",
            "result call-2: said b",
            _HELLO,
        ),
        asked=2,
        ran=("a", "b"),
        schemes=(CHAT,),
    ),
    Case(
        "chat-arguments-as-an-object",
        _chat_calls(
            srv.call_delta({"index": 0, "id": "c1", "function": {"name": "Echo", "arguments": {}}})
        ),
        history=("call c1 Echo {}", "result c1: said default", _HELLO),
        asked=2,
        ran=("default",),
        schemes=(CHAT,),
    ),
    Case(
        "chat-function-call",
        _chat_calls(
            srv.chunk({"function_call": {"name": "Echo", "arguments": '{"text"'}}),
            srv.chunk({"function_call": {"arguments": ':"a"}'}}),
            finish="function_call",
        ),
        history=('call call Echo {"text":"a"}', "result call: said a", _HELLO),
        asked=2,
        ran=("a",),
        schemes=(CHAT,),
    ),
    Case(
        "chat-text-between-calls",
        _chat_calls(
            srv.said("one"),
            srv.call_delta(piece(0, id="c1", name="Echo", arguments=_A)),
            srv.said("two"),
            srv.call_delta(piece(1, id="c2", name="Echo", arguments=_B)),
        ),
        history=("assistant: one", "assistant: two", *_BOTH),
        asked=2,
        ran=("a", "b"),
        schemes=(CHAT,),
    ),
    Case(
        "chat-usage-absent",
        _chat(srv.said("Hello there"), srv.chunk({}, "stop"), srv.DONE),
        usage=None,
        schemes=(CHAT,),
    ),
    Case(
        "chat-usage-with-the-end",
        _chat(srv.said("Hello there"), srv.chunk({}, "stop", usage=srv.chat_usage()), Silence()),
        schemes=(CHAT,),
    ),
    Case(
        "chat-usage-in-every-chunk",
        _chat(
            srv.chunk({"content": "Hello "}, usage=srv.chat_usage(100, 1)),
            srv.chunk({"content": "there"}, usage=srv.chat_usage(100, 2)),
            srv.chunk({}, "stop", usage=srv.chat_usage(100, 7)),
            srv.DONE,
        ),
        schemes=(CHAT,),
    ),
    Case(
        "chat-cut-behind-the-end",
        _chat(srv.said("Hello there"), srv.chunk({}, "stop"), Cut()),
        usage=None,
        schemes=(CHAT,),
    ),
    Case(
        "chat-done-without-a-finish-reason",
        lambda t: [t.begun(srv.DONE), t.hello()],
        history=("thought: hm", _HELLO),
        told=("continuation without its terminal event",),
        asked=2,
        schemes=(CHAT,),
    ),
    Case(
        "chat-finish-says-error",
        lambda t: [t.begun(srv.chunk({}, "error"), srv.DONE), t.hello()],
        history=("thought: hm", _HELLO),
        told=("continuation finish_reason error",),
        asked=2,
        schemes=(CHAT,),
    ),
    Case(
        "chat-error-as-an-object",
        lambda t: [
            t.opened(Frame({"object": "error", "message": "engine died", "code": 500})),
            t.hello(),
        ],
        told=("retry 500",),
        asked=2,
        schemes=(CHAT,),
    ),
    Case(
        "chat-max-tokens-behind-a-call",
        lambda t: [
            srv.chat(srv.call_delta(piece(id="c1", name="Echo", arguments=_A)), finish="length"),
            t.hello(),
        ],
        history=(*_CALLED_A, _HELLO),
        asked=2,
        ran=("a",),
        schemes=(CHAT,),
    ),
    # -- what only the Responses API has
    Case(
        "responses-failed",
        lambda t: [Script().failed("server_error", "it broke").reply(), t.hello()],
        told=("retry 500",),
        asked=2,
        schemes=(RESPONSES,),
    ),
    Case(
        "responses-error-event",
        lambda t: [
            Script().event("error", code="rate_limit_exceeded", message="slow", param=None).reply(),
            t.hello(),
        ],
        told=("retry 429",),
        asked=2,
        schemes=(RESPONSES,),
    ),
    Case(
        "responses-call-never-done",
        _script(Script().call("c1", _A, is_done=False).completed()),
        history=(*_CALLED_A, _HELLO),
        asked=2,
        ran=("a",),
        schemes=(RESPONSES,),
    ),
    Case(
        "responses-text-between-calls",
        _script(Script().call("c1", _A).text("two").call("c2", _B).completed()),
        history=(_BOTH[0], "assistant: two", *_BOTH[1:]),
        asked=2,
        ran=("a", "b"),
        schemes=(RESPONSES,),
    ),
    Case(
        "responses-unknown-events",
        _script(
            Script()
            .event("response.web_search_call.searching", output_index=9)
            .text("Hello ", "there")
            .event("response.something.new", output_index=9)
            .completed()
        ),
        schemes=(RESPONSES,),
    ),
]


def runs_of(scheme: str) -> list[Case]:
    """Return the cases of one format."""
    return [case for case in CASES if scheme in case.schemes]


def table() -> str:
    """Return which case is proved for which format."""
    rows = [f"{'case':36} {CHAT:12} {RESPONSES}"]
    for case in CASES:
        marks = ["yes" if scheme in case.schemes else "-" for scheme in SCHEMES]
        rows.append(f"{case.id:36} {marks[0]:12} {marks[1]}")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
