"""Every event of a pod and of the supervisor: one class each.

Its lane, and when it comes, in the docstring.

An event travels as `[topic, header, body]`. The topic is `<lane>/<pod>/<event>`, the header says
who, when and which number (`seq` counts per lane and incarnation, from 1), the body holds the
fields below. All lanes leave a pod by one socket in order of publication. An event that this
version does not know is carried as `UnknownEvent` and shown as such.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from protocol.base import Wire
from protocol.entries import Entry, SystemItem, Usage
from protocol.error_body import ErrorBody
from protocol.scope import ScopeRule
from protocol.segments import Segment
from protocol.status import (
    AlertLevel,
    AlertSource,
    Flag,
    Lane,
    PodStatus,
    RunResult,
    Trigger,
    TurnResult,
)

LARGE_EVENT_BYTES = 64 * 1024
"""An event whose body is larger carries a reference instead.

PUB drops silently beyond its high-water mark.
"""


class Event(Wire):
    """Base of all events.

    `omitted` is the encoded size of a body that was too large to publish: what is left of it names
    where the rest is (a log position: `get_history`), or is the beginning of its texts.
    """

    event: ClassVar[str]
    lane: ClassVar[Lane]

    omitted: int | None = None


class UnknownEvent(Event):
    """An event of a newer publisher, with what it carried."""

    event: ClassVar[str] = "unknown"
    lane: ClassVar[Lane] = Lane.STATE

    name: str
    data: dict[str, Any] = Field(default_factory=dict)


# -- log: each is one committed entry, published after the append succeeded


class LogEvent(Event):
    """Base of the log lane: the position of the committed entry it stands for."""

    lane: ClassVar[Lane] = Lane.LOG

    segment_id: str
    index: int
    ts: int = 0


class UserMessage(LogEvent):
    """A `user_input` entry: once per `run`, after its `invoke_start`."""

    event: ClassVar[str] = "user_message"

    segments: tuple[Segment, ...] = ()


class SystemItemEvent(LogEvent):
    """A `system_item` entry.

    At the start of a turn for each drained notification, and for resolved references.
    """

    event: ClassVar[str] = "system_item"

    item: SystemItem | None = None


class InvokeStart(LogEvent):
    """An `invoke` entry: the first event of every run."""

    event: ClassVar[str] = "invoke_start"

    trigger: Trigger
    request_id: str | None = None


class SegmentRotated(LogEvent):
    """A `segment_start` entry: at the first run, at a fork and at a compaction."""

    event: ClassVar[str] = "segment_rotated"

    entry: Entry | None = None


class EntryEvent(LogEvent):
    """Every other kind of entry.

    `block` names the streamed block, or the call id, that the entry replaces.
    """

    event: ClassVar[str] = "entry"

    entry: Entry | None = None
    block: int | str | None = None


class LogCut(Event):
    """Entries at and after `head_entries` are gone.

    Before `rewind_applied` or `run_end rolled_back`.
    """

    event: ClassVar[str] = "log_cut"
    lane: ClassVar[Lane] = Lane.LOG

    segment_id: str
    head_entries: int
    reason: str


# -- stream: what happens inside a run, as it happens


class StreamEvent(Event):
    """Base of the stream lane."""

    lane: ClassVar[Lane] = Lane.STREAM


class TurnStart(StreamEvent):
    """Before each request of a run."""

    event: ClassVar[str] = "turn_start"
    turn: int


class TurnEnd(StreamEvent):
    """After the tool results of a turn."""

    event: ClassVar[str] = "turn_end"
    turn: int
    result: TurnResult


class LlmCallStart(StreamEvent):
    """A request is sent."""

    event: ClassVar[str] = "llm_call_start"
    llm_call: int


class LlmCallEnd(StreamEvent):
    """The request's stream is over, well or not."""

    event: ClassVar[str] = "llm_call_end"
    llm_call: int


class LlmRetry(StreamEvent):
    """An attempt failed before its first event and another comes after `wait_ms`."""

    event: ClassVar[str] = "llm_retry"
    llm_call: int
    failed_attempt: int
    max_attempts: int
    wait_ms: int
    elapsed_ms: int
    status: int | None = None
    error: str = ""


class LlmContinuation(StreamEvent):
    """A stream broke later; what was finished is kept and the request is made again."""

    event: ClassVar[str] = "llm_continuation"
    llm_call: int
    attempt: int
    max_attempts: int
    reason: str


class TextDelta(StreamEvent):
    """More text of a block."""

    event: ClassVar[str] = "text_delta"
    block: int
    text: str


class TextDone(StreamEvent):
    """The block is complete; `text` is all of it and may be empty."""

    event: ClassVar[str] = "text_done"
    block: int
    text: str


class ThinkingStart(StreamEvent):
    """Reasoning begins; always comes, even if the provider shows no text."""

    event: ClassVar[str] = "thinking_start"
    block: int


class ThinkingDelta(StreamEvent):
    """More reasoning."""

    event: ClassVar[str] = "thinking_delta"
    block: int
    text: str


class ThinkingDone(StreamEvent):
    """The reasoning block is complete; `text` may be empty."""

    event: ClassVar[str] = "thinking_done"
    block: int
    text: str


class ToolCallStart(StreamEvent):
    """The model begins to write a call."""

    event: ClassVar[str] = "tool_call_start"
    id: str
    name: str


class ToolCallArgsDelta(StreamEvent):
    """More of a call's arguments, as JSON text."""

    event: ClassVar[str] = "tool_call_args_delta"
    id: str
    json_: str = Field(alias="json")


class ToolCallDone(StreamEvent):
    """The call is complete."""

    event: ClassVar[str] = "tool_call_done"
    id: str
    name: str
    arguments: str


class ToolOutputDelta(StreamEvent):
    """A running tool printed something."""

    event: ClassVar[str] = "tool_output_delta"
    id: str
    stream: str
    text: str


class ToolResultEvent(StreamEvent):
    """A tool is done; its entry is committed. A large `output` is left to the entry."""

    event: ClassVar[str] = "tool_result"
    id: str
    summary: str
    output: str | None = None
    is_error: bool = False


# -- state: what the fleet is told


class StateEvent(Event):
    """Base of the state lane; the supervisor republishes all of these for the whole fleet."""

    lane: ClassVar[Lane] = Lane.STATE


class Status(StateEvent):
    """The status or a flag changed; follows every `run_end`."""

    event: ClassVar[str] = "status"
    status: PodStatus
    flags: tuple[Flag, ...] = ()


class RunEnd(StateEvent):
    """Exactly once per run. `input` only where it was rolled back, `error` only where it failed."""

    event: ClassVar[str] = "run_end"
    result: RunResult
    request_id: str | None = None
    reason: str | None = None
    input: tuple[Segment, ...] | None = None
    error: ErrorBody | None = None


class ErrorEvent(StateEvent):
    """Once for a failed run, before its `run_end`, and for failed background work."""

    event: ClassVar[str] = "error"
    code: str
    message: str


class UsageEvent(StateEvent):
    """After each request, with its figures."""

    event: ClassVar[str] = "usage"
    turn: int
    context_tokens: int
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float | None = None


class Alert(StateEvent):
    """A short text for people."""

    event: ClassVar[str] = "alert"
    level: AlertLevel
    source: AlertSource
    message: str
    timestamp_ms: int


class CompactStart(StateEvent):
    """A compaction begins."""

    event: ClassVar[str] = "compact_start"


class CompactDone(StateEvent):
    """The compaction is installed."""

    event: ClassVar[str] = "compact_done"
    new_segment_id: str


class CompactFailed(StateEvent):
    """Nothing changed."""

    event: ClassVar[str] = "compact_failed"
    error: str


class RewindSummary(Wire):
    """What a rewind took away. Effects of tools on files are never undone."""

    discarded_entries: int
    discarded_turns: int
    tools_ran: int


class RewindApplied(StateEvent):
    """The log was cut; the removed input is given back."""

    event: ClassVar[str] = "rewind_applied"
    segment_id: str
    head_entries: int
    input: tuple[Segment, ...]
    summary: RewindSummary


class MemoryWorker(StateEvent):
    """A background job of the memory feature changed state."""

    event: ClassVar[str] = "memory_worker"
    worker: str
    status: str
    run_id: str
    trigger: str
    reason: str | None = None
    message: str | None = None
    timestamp_ms: int


class PeerRegistered(StateEvent):
    """Two pods see each other now."""

    event: ClassVar[str] = "peer_registered"
    source: str
    peer: str


class PodRestored(StateEvent):
    """A stopped pod was started again at this pod's wish."""

    event: ClassVar[str] = "pod_restored"
    name: str
    outcome: str


class ApprovalRequested(StateEvent):
    """A tool call waits for a person."""

    event: ClassVar[str] = "approval_requested"
    id: str
    tool: str = ""
    summary: str = ""
    deadline_ms: int | None = None


class ApprovalResolved(StateEvent):
    """A person answered, or the deadline did."""

    event: ClassVar[str] = "approval_resolved"
    id: str
    answer: str


class ScopeDenied(StateEvent):
    """A write or read outside the scope was refused, at layer `file` or `shell`."""

    event: ClassVar[str] = "scope_denied"
    path: str
    layer: str


class Budget(StateEvent):
    """At 80 % and at 100 % of a budget."""

    event: ClassVar[str] = "budget"
    kind: str
    used: float
    limit: float


class Shutdown(StateEvent):
    """The pod leaves; the last event of an orderly life but its log's end."""

    event: ClassVar[str] = "shutdown"


class Tick(StateEvent):
    """Once a second while something was published in the last 3 s: the newest seq of each lane.

    It has no number of its own: it carries the state lane's newest.
    """

    event: ClassVar[str] = "tick"
    seqs: dict[Lane, int]


# -- state, from the supervisor


class PodStarting(StateEvent):
    """A start of the pod began."""

    event: ClassVar[str] = "pod_starting"
    incarnation: int


class PodReady(StateEvent):
    """The pod said hello: session restored, tools usable, link answered."""

    event: ClassVar[str] = "pod_ready"
    incarnation: int
    pid: int
    endpoint: str


class PodUnreachable(StateEvent):
    """No beat for `silence_s` seconds of the supervisor's awake time."""

    event: ClassVar[str] = "pod_unreachable"
    silence_s: float


class PodExited(StateEvent):
    """The process is gone; by code or by signal name."""

    event: ClassVar[str] = "pod_exited"
    cause: str
    code: int | None = None
    signal: str | None = None


class PodBackoff(StateEvent):
    """The next start comes after `wait_s` seconds (until: epoch milliseconds)."""

    event: ClassVar[str] = "pod_backoff"
    until: int
    attempt: int
    wait_s: float = 0.0


class PodFailed(StateEvent):
    """Nobody will start the pod again without being asked."""

    event: ClassVar[str] = "pod_failed"
    cause: str
    message: str = ""


class PodStopped(StateEvent):
    """The pod and all it started are proven gone."""

    event: ClassVar[str] = "pod_stopped"
    cause: str


class PodDeleted(StateEvent):
    """The pod's record is gone from the fleet; its session stays on disk."""

    event: ClassVar[str] = "pod_deleted"


class ScopeGranted(StateEvent):
    """The pod holds its allocation."""

    event: ClassVar[str] = "scope_granted"
    rules: tuple[ScopeRule, ...] = ()


class ScopeDelegated(StateEvent):
    """The pod lent scope to a child."""

    event: ClassVar[str] = "scope_delegated"
    child: str
    rules: tuple[ScopeRule, ...] = ()


class ScopeReclaimed(StateEvent):
    """The allocation of a pod that is proven gone was given back."""

    event: ClassVar[str] = "scope_reclaimed"
    cause: str


class Operation(StateEvent):
    """Long work changed state: `running` with a message naming each blocker, `done` or `failed`."""

    event: ClassVar[str] = "operation"
    id: str
    state: str
    kind: str = ""
    pods: tuple[str, ...] = ()
    message: str = ""
    result: dict[str, Any] | None = None
    error: ErrorBody | None = None


def _leaves(cls: type[Event]) -> list[type[Event]]:
    below = cls.__subclasses__()
    return [leaf for sub in below for leaf in _leaves(sub)] if below else [cls]


EVENTS: Mapping[str, type[Event]] = {
    leaf.event: leaf for leaf in _leaves(Event) if leaf is not UnknownEvent
}
"""The class of each event name."""


def decode_event(name: str, data: Any) -> Event:
    """Return the typed event; raises pydantic.ValidationError for a malformed known one."""
    known = EVENTS.get(name)
    if known is not None:
        return known.from_wire(data)
    return UnknownEvent(name=name, data=data if isinstance(data, dict) else {})


def usage_event(usage: Usage, *, turn: int, context_tokens: int) -> UsageEvent:
    """Return the event for one request's figures."""
    return UsageEvent(turn=turn, context_tokens=context_tokens, **dict(usage))


def topic(event: Event, pod: str) -> str:
    """Return `<lane>/<pod>/<event>`; the pod is empty for the fleet as a whole."""
    name = event.name if isinstance(event, UnknownEvent) else event.event
    return f"{event.lane}/{pod}/{name}"
