"""Every method a pod answers, and the type of its reply: one class each.

A method that starts a run is answered as soon as the run is accepted and on disk; its outcome is
the `run_end` event with the same request id. Refusals are errors (`protocol.errors`). Methods that
change something are idempotent by request id; reads (`changes = False`) are simply done again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from protocol.base import Accepted as Accepted
from protocol.base import Wire
from protocol.entries import Entry, Usage
from protocol.events import RewindSummary
from protocol.pod_events import PodEvent
from protocol.scope import LentRule
from protocol.segments import Segment
from protocol.snapshot import ScopeSummary
from protocol.status import PodStatus, Relation, RunResult


class Method(Wire):
    """Base of all methods."""

    method: ClassVar[str]
    reply: ClassVar[type[Wire]] = Accepted
    changes: ClassVar[bool] = True


class Run(Method):
    """Submit a user turn; Idle or Paused. Answered once `invoke` and `user_input` are on disk."""

    method: ClassVar[str] = "run"

    input: tuple[Segment, ...] = Field(min_length=1)


class News(Wire):
    """A line about something that may be known already, by the id of its event."""

    event_id: str
    line: str


class Notify(Method):
    """Leave text for the model as a system item before its next request.

    Answered once it is on disk.

    With `auto_run` an idle pod starts a run for it; without, it waits for the next one. `queued`:
    it stands for a run that its parent could not submit, and the run that consumes it reports.
    `news` are lines that follow the message, less those whose events the pod was told of; with none
    left there is nothing to notify of.
    """

    method: ClassVar[str] = "notify"

    message: str = Field(min_length=1)
    auto_run: bool = True
    queued: bool = False
    news: tuple[News, ...] = ()


class PodEventMethod(Method):
    """A child's report, delivered by the supervisor to its parent; idempotent by `event_id`."""

    method: ClassVar[str] = "pod_event"

    event_id: str
    event: PodEvent


class Resume(Method):
    """Continue a paused run."""

    method: ClassVar[str] = "resume"


class Pause(Method):
    """Stop the run and keep it resumable."""

    method: ClassVar[str] = "pause"


class Cancel(Method):
    """Stop the run, or abandon a paused one."""

    method: ClassVar[str] = "cancel"


class Compact(Method):
    """Compact now; Idle only."""

    method: ClassVar[str] = "compact"


class RewindTarget(Wire):
    """One user input that can be rewound to. `turn_index` counts from 1, oldest first."""

    segment_id: str
    user_input_entry_index: int
    turn_index: int = 0
    timestamp_ms: int = 0
    preview: str = ""
    warning: str | None = None


class RewindTargets(Wire):
    """The targets, newest first, and the head they were read at."""

    head_entries: int
    targets: tuple[RewindTarget, ...]


class ListRewindTargets(Method):
    """List what can be rewound to; Idle or Paused."""

    method: ClassVar[str] = "list_rewind_targets"
    reply: ClassVar[type[Wire]] = RewindTargets
    changes: ClassVar[bool] = False


class RewindTargetId(Wire):
    """Names one target."""

    segment_id: str
    user_input_entry_index: int


class Rewound(Wire):
    """What the rewind left and took; effects of tools on files are not undone."""

    segment_id: str
    head_entries: int
    input: tuple[Segment, ...]
    summary: RewindSummary


class RewindTo(Method):
    """Remove an input and everything after it; Idle only, and only at the head the asker saw."""

    method: ClassVar[str] = "rewind_to"
    reply: ClassVar[type[Wire]] = Rewound

    target: RewindTargetId
    expected_head_entries: int


class Completion(Wire):
    """One way to go on typing."""

    value: str
    is_dir: bool = False


class Completions(Wire):
    """At most 100, directories first."""

    entries: tuple[Completion, ...]


class ListCompletions(Method):
    """Complete a reference; answered in every status. Files are relative to the cwd."""

    method: ClassVar[str] = "list_completions"
    reply: ClassVar[type[Wire]] = Completions
    changes: ClassVar[bool] = False

    kind: Literal["file", "knowledge", "workflow"]
    prefix: str = ""


class PodRow(Wire):
    """One pod as another pod sees it."""

    name: str
    relation: Relation
    status: PodStatus
    reachable: bool
    restorable: bool
    reason: str | None = None
    parent: str | None = None
    scope_summary: ScopeSummary = ScopeSummary()
    children: tuple[str, ...] = ()


class PodRows(Wire):
    """All pods visible to the asker."""

    pods: tuple[PodRow, ...]


class ListPods(Method):
    """List the pods visible to this pod: itself, its descendants, its peers."""

    method: ClassVar[str] = "list_pods"
    reply: ClassVar[type[Wire]] = PodRows
    changes: ClassVar[bool] = False


class PodDetail(PodRow):
    """One pod, closely."""

    incarnation: int = 0
    session_id: str | None = None
    segment_id: str | None = None
    last_result: RunResult | None = None
    last_error: str | None = None
    usage: Usage = Usage()
    context_tokens: int = 0
    peers: tuple[str, ...] = ()


class Inspected(Wire):
    """The reply of `inspect_pod`."""

    pod: PodDetail


class InspectPod(Method):
    """One visible pod, closely."""

    method: ClassVar[str] = "inspect_pod"
    reply: ClassVar[type[Wire]] = Inspected
    changes: ClassVar[bool] = False

    name: str


class Restored(Wire):
    """Whether the pod had to be started."""

    name: str
    outcome: Literal["restored", "already_live"]


class RestorePod(Method):
    """Start a visible stopped pod, or say that it is live."""

    method: ClassVar[str] = "restore_pod"
    reply: ClassVar[type[Wire]] = Restored

    name: str


class PeersRegistered(Wire):
    """Both sides see each other now."""

    source: str
    peer: str


class RegisterPeer(Method):
    """Make this pod and `name` visible to each other."""

    method: ClassVar[str] = "register_peer"
    reply: ClassVar[type[Wire]] = PeersRegistered

    name: str


class HistoryPosition(Wire):
    """A place in a segment."""

    index: int


class History(Wire):
    """Committed entries in order; `first_index` is the index of the first of them."""

    segment_id: str | None = None
    first_index: int = 0
    entries: tuple[Entry, ...]
    head_entries: int


class GetHistory(Method):
    """Committed entries: from `since` on, or the last ones before `before`.

    At most `limit` and 4 MiB.
    """

    method: ClassVar[str] = "get_history"
    reply: ClassVar[type[Wire]] = History
    changes: ClassVar[bool] = False

    segment_id: str | None = None
    since: HistoryPosition | None = None
    before: HistoryPosition | None = None
    limit: int = Field(default=200, ge=1, le=10_000)


class ScopeLend(Method):
    """From the supervisor only, at each lend and each return: everything lent from now on.

    The newest number wins. Accepted once nothing of this pod can write there any more, else
    `conflict`.
    """

    method: ClassVar[str] = "scope_lend"

    lent: tuple[LentRule, ...]
    number: int
    stop_jobs: bool = False


class ShutdownMethod(Method):
    """End the pod: it takes no new work, stops its run, and leaves."""

    method: ClassVar[str] = "shutdown"

    grace_ms: int | None = None


METHODS: Mapping[str, type[Method]] = {cls.method: cls for cls in Method.__subclasses__()}
"""The class of each method name."""


def decode_method(name: str, data: Any) -> Method:
    """Return the typed method.

    Raises KeyError for an unknown name, ValidationError for bad parameters.
    """
    return METHODS[name].from_wire(data if data is not None else {})
