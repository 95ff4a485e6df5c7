"""A run as its asker follows it.

From the request to the `status` after its `run_end`, or its pod's death.

Two sources are joined. The pod's own lanes bring the answer, in one hop; the fleet's events bring
what the pod cannot say (that it is gone), and tell when the supervisor has the pod's new status:
what is asked of it next is then not older than the run. Pure: events in, an outcome at last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from protocol import events as ev
from protocol.entries import (
    AssistantItem,
    Entry,
    Invoke,
    LlmUsage,
    Message,
    RunCompleted,
    RunErrored,
    ToolResultEntry,
    Usage,
)
from protocol.status import RunResult
from protocol.watch import Deliver, Gap, Synced

FLEET = ""
"""The source of what the fleet's events tell; a pod's own lanes have its name."""


@dataclass(frozen=True, slots=True)
class RunDone:
    """How a run ended. `result` is a `RunResult`, or `exited` when its pod is gone.

    `text` is the model's last answer, `usage` what the run used.
    """

    result: str
    reason: str | None = None
    text: str = ""
    usage: Usage = field(default_factory=Usage)
    error: dict[str, Any] | None = None


def outcome_in(entries: Iterable[Entry], request_id: str) -> RunDone | None:
    """Return how a run ended from the log alone; None while it goes on.

    For one who lost sight of it. A run that is not in the log any more was taken back.
    """
    found, texts, usage = False, list[str](), Usage()
    for entry in entries:
        match entry:
            case Invoke(request_id=invoked):
                if found:
                    break
                found = invoked == request_id
            case _ if not found:
                continue
            case AssistantItem(item=Message(content=content)):
                texts.append(content)
            case ToolResultEntry():
                texts.clear()
            case LlmUsage():
                usage = usage.plus(entry.usage)
            case RunCompleted(result=result, reason=reason):
                return RunDone(result.value, reason, "\n".join(texts), usage)
            case RunErrored(code=code, message=message):
                error = {"code": code, "message": message}
                return RunDone(RunResult.ERRORED.value, None, "\n".join(texts), usage, error)
            case _:
                pass
    return None if found else RunDone(RunResult.ROLLED_BACK.value)


@dataclass(slots=True)
class RunFollower:
    """Follows the run that was asked for with `request_id`; `on_text` gets text as it streams."""

    pod: str
    request_id: str
    on_text: Callable[[str], None] = lambda text: None
    ours: bool = False
    texts: list[str] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    end: ev.RunEnd | None = None
    end_seq: int = 0
    incarnation: int = 0
    pod_status_seq: int = 0
    fleet_status_seq: int = 0

    def take(self, source: str, told: Synced | Deliver | Gap) -> RunDone | None:
        """Take what a watcher told; returns the outcome once it is final."""
        if not isinstance(told, Deliver) or told.header.pod != self.pod:
            return None
        if source == FLEET:
            return self._on_fleet(told)
        self._on_pod(told)
        return self._done()

    def _on_pod(self, told: Deliver) -> None:
        header = told.header
        match told.event:
            case ev.InvokeStart(request_id=request_id):
                self.ours = request_id == self.request_id
            case ev.TextDelta(text=text) if self.ours:
                self.on_text(text)
            case ev.EntryEvent(entry=AssistantItem(item=Message(content=content))) if self.ours:
                self.texts.append(content)
            case ev.EntryEvent(entry=ToolResultEntry()) if self.ours:
                self.texts.clear()
            case ev.LogCut() if self.ours:
                self.texts.clear()
            case ev.UsageEvent() as figures if self.ours:
                self.usage = self.usage.plus(
                    Usage(
                        input_tokens=figures.input_tokens,
                        output_tokens=figures.output_tokens,
                        cache_read_tokens=figures.cache_read_tokens,
                        cache_write_tokens=figures.cache_write_tokens,
                        cost_usd=figures.cost_usd,
                    )
                )
            case ev.RunEnd(request_id=request_id) as end if request_id == self.request_id:
                self.end, self.end_seq, self.incarnation = end, header.seq, header.incarnation
                self.ours = False
            case ev.Status() if self.end is not None and header.seq > self.end_seq:
                self.pod_status_seq = self.pod_status_seq or header.seq
            case _:
                pass

    def _on_fleet(self, told: Deliver) -> RunDone | None:
        header = told.header
        match told.event:
            case ev.PodExited(cause=cause):
                return self._done_by_exit(cause)
            case ev.RunEnd(request_id=request_id) as end if request_id == self.request_id:
                self.end, self.end_seq = end, header.seq  # the pod's own word may be still to come
            case ev.Status():
                self.fleet_status_seq = max(self.fleet_status_seq, header.seq)
        return self._done()

    def _done(self) -> RunDone | None:
        if self.end is None or not self.pod_status_seq:
            return None
        if self.fleet_status_seq < self.pod_status_seq:
            return None
        return self._outcome(self.end)

    def _done_by_exit(self, cause: str) -> RunDone:
        if self.end is not None:
            return self._outcome(self.end)
        return RunDone("exited", reason=cause, text=self._text(), usage=self.usage)

    def _outcome(self, end: ev.RunEnd) -> RunDone:
        return RunDone(
            result=RunResult(end.result).value,
            reason=end.reason,
            text=self._text(),
            usage=self.usage,
            error=end.error.to_wire() if end.error else None,
        )

    def _text(self) -> str:
        return "\n".join(self.texts)
