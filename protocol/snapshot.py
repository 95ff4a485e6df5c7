"""What a watcher is given before it follows the lanes: the state of one pod at one moment.

The pod builds a `Snapshot` in one uninterrupted step and publishes it on the asker's own topic, so
that every later event has a higher `seq` than `seqs` says. `tail` holds the last committed entries
(200 or 256 KiB at most); earlier ones come by `get_history`. `in_flight` is presentation only: a
block enters with its start event and leaves in the step that publishes its entry.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Discriminator, Field

from protocol.base import Wire
from protocol.entries import Entry
from protocol.status import AlertLevel, AlertSource, Flag, Lane, PodStatus
from protocol.summaries import Sandbox as Sandbox
from protocol.summaries import ScopeSummary as ScopeSummary
from protocol.summaries import Usage

TAIL_ENTRIES = 200
TAIL_BYTES = 256 * 1024
ALERTS_KEPT = 512


class Greeting(Wire):
    """Who this pod is; computed at each hello. `tools` are the names really registered, sorted."""

    pod_name: str
    incarnation: int
    cwd: str
    workspace: str
    provider: str
    model: str
    scope_summary: ScopeSummary = ScopeSummary()
    delegation_summary: ScopeSummary = ScopeSummary()
    sandbox: Sandbox = Sandbox()
    tools: tuple[str, ...] = ()
    context_window: int = 0
    context_tokens: int = 0


class TextBlock(Wire):
    """Text being written."""

    kind: Literal["text"] = "text"
    block: int
    text: str
    finished: bool = False


class ThinkingBlock(Wire):
    """Reasoning being written."""

    kind: Literal["thinking"] = "thinking"
    block: int
    text: str
    finished: bool = False


class ToolCallBlock(Wire):
    """A call being written or running; `output_tail` is the end of what its tool printed."""

    kind: Literal["tool_call"] = "tool_call"
    id: str
    name: str
    args: str = ""
    state: Literal["pending", "streaming_args", "running", "done"] = "pending"
    output_tail: str = ""


Block: TypeAlias = Annotated[TextBlock | ThinkingBlock | ToolCallBlock, Discriminator("kind")]


class InFlight(Wire):
    """The blocks that have begun and whose entry is not committed yet, oldest first."""

    blocks: tuple[Block, ...] = ()


class AlertRecord(Wire):
    """A short text for people."""

    level: AlertLevel
    source: AlertSource
    message: str
    timestamp_ms: int


class Snapshot(Wire):
    """One pod at one moment. `head_entries` is how many entries its active segment holds."""

    segment_id: str | None = None
    head_entries: int = 0
    tail: tuple[Entry, ...] = ()
    greeting: Greeting
    status: PodStatus
    flags: tuple[Flag, ...] = ()
    in_flight: InFlight = InFlight()
    alerts: tuple[AlertRecord, ...] = ()
    seqs: dict[Lane, int] = Field(default_factory=dict)
    usage: Usage = Usage()


class OperationRecord(Wire):
    """Long work the supervisor does; `error` when it failed."""

    id: str
    kind: str
    pods: tuple[str, ...] = ()
    state: str
    message: str = ""
    result: dict[str, object] | None = None
    error: dict[str, object] | None = None


class PodPresence(Wire):
    """Where a pod can be watched, as of a fleet snapshot."""

    name: str
    status: PodStatus
    incarnation: int
    endpoint: str | None = None


class FleetSnapshot(Wire):
    """The fleet at one moment: what a subscriber of the supervisor's events is given first."""

    fleet: str
    epoch: int
    pods: tuple[PodPresence, ...] = ()
    operations: tuple[OperationRecord, ...] = ()
    seqs: dict[Lane, int] = Field(default_factory=dict)
