"""Log entries and the items of a conversation.

One typed decoder for writer, replay and every viewer.

One entry is one JSON line of a segment (`<segment_id>.jsonl`), a flat object with its tag in `kind`
and `ts` in milliseconds since the epoch. The line's own checksum is the log's affair, not the
entry's. Replay is a pure fold over these; what each does to the state stands in its docstring.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag, TypeAdapter, model_validator

from protocol.base import OpenWire, Wire, kind_or_unknown
from protocol.segments import Segment
from protocol.status import RunResult, Trigger
from protocol.summaries import Usage as Usage

# -- items: what the model sees


class Message(Wire):
    """Text of one speaker."""

    kind: Literal["message"] = "message"
    role: Literal["user", "assistant", "system"]
    content: str


class ToolCall(Wire):
    """The model asks for a tool; `arguments` is the JSON text exactly as it came."""

    kind: Literal["tool_call"] = "tool_call"
    call_id: str
    name: str
    arguments: str


class ToolResult(Wire):
    """What the model reads back; `content` may be pruned from a request, `summary` never."""

    kind: Literal["tool_result"] = "tool_result"
    call_id: str
    summary: str
    content: str | None = None
    is_error: bool = False


class Reasoning(Wire):
    """Thinking of the model; opaque parts survive log, restore and the next request."""

    kind: Literal["reasoning"] = "reasoning"
    text: str = ""
    summary: str = ""
    encrypted_content: str | None = None
    signature: str | None = None


class UnknownItem(OpenWire):
    """An item kind this version does not know; its fields are kept."""

    kind: str


Item: TypeAlias = Annotated[
    Annotated[Message, Tag("message")]
    | Annotated[ToolCall, Tag("tool_call")]
    | Annotated[ToolResult, Tag("tool_result")]
    | Annotated[Reasoning, Tag("reasoning")]
    | Annotated[UnknownItem, Tag("unknown")],
    Discriminator(kind_or_unknown(frozenset({"message", "tool_call", "tool_result", "reasoning"}))),
]

SystemKind: TypeAlias = Literal[
    "notification",
    "pod_event",
    "file_attachment",
    "knowledge",
    "workflow",
    "skill",
    "task_reminder",
    "interrupt",
]


class SystemItem(Wire):
    """Something the model is told that no person typed; `body` is exactly what it saw.

    `kind` is one of `SystemKind`, or a word of a newer writer. `id` is the notification's id, or
    the event id of a child's report, where it came from one.
    """

    kind: str
    body: str
    id: str | None = None


# -- entries: what the log holds


class _Entry(Wire):
    ts: int = Field(description="milliseconds since the epoch")


class Invoke(_Entry):
    """A run begins; marks it open until `run_completed` or `run_errored`.

    `by` is the pod that asked for it; None where a person did, or nobody.
    """

    kind: Literal["invoke"] = "invoke"
    trigger: Trigger
    request_id: str | None = None
    by: str | None = None

    @property
    def has_person(self) -> bool:
        """Whether it began with a person's input."""
        return self.by is None and self.trigger in (Trigger.USER_SEND, Trigger.RESUME)


class UserInput(_Entry):
    """What was submitted; appends a user message."""

    kind: Literal["user_input"] = "user_input"
    segments: tuple[Segment, ...]


class AssistantItem(_Entry):
    """One finished block of the model's answer; appends it."""

    kind: Literal["assistant_item"] = "assistant_item"
    item: Item


class ToolResultEntry(_Entry):
    """The outcome of one tool call; appends it."""

    kind: Literal["tool_result"] = "tool_result"
    item: ToolResult


class SystemItemEntry(_Entry):
    """A system item; appends a system message with its stored body."""

    kind: Literal["system_item"] = "system_item"
    item: SystemItem


class TurnEnd(_Entry):
    """A turn is over; `turn_count` counts over the whole session."""

    kind: Literal["turn_end"] = "turn_end"
    turn_count: int


class LlmUsage(_Entry):
    """Figures of one request, after its last assistant item and before its tools.

    `history_len` is the number of items the request was answered with; `answer` the index of the
    scripted answer that was used up. `purpose` names a request beside the conversation, such as
    `compaction`: it counts as spent and says nothing about the size of the context.
    """

    kind: Literal["llm_usage"] = "llm_usage"
    history_len: int
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float | None = None
    answer: int | None = None
    purpose: str | None = None

    @property
    def usage(self) -> Usage:
        """The figures alone."""
        return Usage(
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            cache_read_tokens=self.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens,
            cost_usd=self.cost_usd,
        )


class RunCompleted(_Entry):
    """Closes the run. `paused` leaves it resumable.

    `report` is the id under which the parent is told of it, where there is one to tell.
    """

    kind: Literal["run_completed"] = "run_completed"
    result: RunResult
    reason: str | None = None
    report: str | None = None


class RunErrored(_Entry):
    """Closes the run as failed; `interrupted` when a crash cut it. `report` as for success."""

    kind: Literal["run_errored"] = "run_errored"
    code: str
    message: str
    interrupted: bool = False
    report: str | None = None


RunEnd: TypeAlias = Annotated[RunCompleted | RunErrored, Field(discriminator="kind")]


class SegmentRef(Wire):
    """The place in another segment that a segment continues from.

    The session's line goes on behind the first `at_entry` entries of that segment, when
    `at_turn_index` turns of the session were over.
    """

    segment_id: str
    at_turn_index: int
    at_entry: int | None = None


class Carried(Wire):
    """What the session was when a segment of it began, so that no earlier one has to be read.

    `open_run` is a run that goes on in this segment, `owed` are ends of runs whose report was not
    taken yet. The first `entries` entries behind the `segment_start` are the state of features,
    which stands in earlier segments too; the next `run_entries` are what a run in progress began
    with: they stand behind `at_entry` there, and who has followed has seen them.
    """

    entries: int = 0
    run_entries: int = 0
    turn_count: int = 0
    usage: Usage = Usage.model_construct()
    request_ids: tuple[str, ...] = ()
    delivered: tuple[str, ...] = ()
    used_answers: tuple[int, ...] = ()
    open_run: Invoke | None = None
    last_result: RunEnd | None = None
    paused: bool = False
    note_due: bool = False
    owed: tuple[RunEnd, ...] = ()
    unasked: tuple[int, ...] = ()


class SegmentStart(_Entry):
    """First entry of a segment; seeds the replayed state with its config and history."""

    kind: Literal["segment_start"] = "segment_start"
    schema_: int = Field(default=1, alias="schema")
    session_id: str
    system_prompt: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    history: tuple[Item, ...] = ()
    forked_from: SegmentRef | None = None
    compacted_from: SegmentRef | None = None
    carried: Carried | None = None

    @property
    def continues(self) -> SegmentRef | None:
        """Where the session's line comes from; None for its first segment."""
        return self.forked_from or self.compacted_from


class PausedTurnAbandoned(_Entry):
    """A paused run was given up; clears the interruption."""

    kind: Literal["paused_turn_abandoned"] = "paused_turn_abandoned"


class ConfigChanged(_Entry):
    """The manifest's engine-relevant part changed at a start; replaces config."""

    kind: Literal["config_changed"] = "config_changed"
    config: dict[str, Any]


class Extension(_Entry):
    """Something a feature keeps; collected in order, folded by its owner.

    A segment that continues another one begins with the newest payload of each domain: it has to
    stand for those before it.
    """

    kind: Literal["extension"] = "extension"
    domain: str
    payload: dict[str, Any]


class UnknownEntry(OpenWire):
    """An entry of a newer writer: skipped by replay, shown as such by viewers, kept by rewrites."""

    kind: str = ""
    ts: int = 0

    @model_validator(mode="before")
    @classmethod
    def _be_lenient(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {**data, "kind": str(data.get("kind", ""))}
        return data


Entry: TypeAlias = Annotated[
    Annotated[SegmentStart, Tag("segment_start")]
    | Annotated[Invoke, Tag("invoke")]
    | Annotated[UserInput, Tag("user_input")]
    | Annotated[AssistantItem, Tag("assistant_item")]
    | Annotated[ToolResultEntry, Tag("tool_result")]
    | Annotated[SystemItemEntry, Tag("system_item")]
    | Annotated[TurnEnd, Tag("turn_end")]
    | Annotated[LlmUsage, Tag("llm_usage")]
    | Annotated[RunCompleted, Tag("run_completed")]
    | Annotated[RunErrored, Tag("run_errored")]
    | Annotated[PausedTurnAbandoned, Tag("paused_turn_abandoned")]
    | Annotated[ConfigChanged, Tag("config_changed")]
    | Annotated[Extension, Tag("extension")]
    | Annotated[UnknownEntry, Tag("unknown")],
    Discriminator(
        kind_or_unknown(
            frozenset(
                {
                    "segment_start",
                    "invoke",
                    "user_input",
                    "assistant_item",
                    "tool_result",
                    "system_item",
                    "turn_end",
                    "llm_usage",
                    "run_completed",
                    "run_errored",
                    "paused_turn_abandoned",
                    "config_changed",
                    "extension",
                }
            )
        )
    ),
]

_ENTRY: TypeAdapter[Entry] = TypeAdapter(Entry, config={"defer_build": True})
ENTRY_KINDS: tuple[type[Wire], ...] = (
    SegmentStart,
    Invoke,
    UserInput,
    AssistantItem,
    ToolResultEntry,
    SystemItemEntry,
    TurnEnd,
    LlmUsage,
    RunCompleted,
    RunErrored,
    PausedTurnAbandoned,
    ConfigChanged,
    Extension,
)


def decode_entry(data: Any) -> Entry:
    """Return the typed entry of a decoded line.

    Raises pydantic.ValidationError for a malformed known kind.
    """
    return _ENTRY.validate_python(data)
