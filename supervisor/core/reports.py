"""What children have to tell, until their parent has it. Pure.

A report is stored before its sender is answered, and kept until the parent has taken it, also while
the parent is away. At most 128 wait for one parent; beyond that the oldest that may be lost goes:
never an error, never an end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from protocol.pod_events import Errored, PodEvent, ShutDown, is_agent_visible

CAPACITY = 128


@dataclass(slots=True)
class Report:
    """One report; `sent_at` is when it was last handed out, None when it is to be.

    `while_away`: it came while its parent was at rest, where only somebody's wish could wake it;
    `as_news`: it is told among other things, and wakes nobody.
    """

    parent: str
    event_id: str
    event: PodEvent
    while_away: bool = False
    as_news: bool = False
    sent_at: float | None = None

    @property
    def is_news(self) -> bool:
        """Whether a parent in a new process hears of it among other things, and is not woken."""
        is_visible = is_agent_visible(self.event)
        return is_visible and (self.while_away or isinstance(self.event, ShutDown))


class Reports:
    """The reports that wait, by parent, in the order they came."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[str, Report]] = {}

    def knows(self, report: Report) -> bool:
        """Say whether this report waits already."""
        return report.event_id in self._waiting.get(report.parent, {})

    def store(self, report: Report) -> list[Report]:
        """Take a report; returns those that had to go for it."""
        waiting = self._waiting.setdefault(report.parent, {})
        waiting.setdefault(report.event_id, report)
        over = len(waiting) - CAPACITY
        losable = [r for r in waiting.values() if not isinstance(r.event, Errored | ShutDown)]
        dropped = losable[: max(0, over)]
        for one in dropped:
            del waiting[one.event_id]
        return dropped

    def take(self, parent: str, event_ids: Iterable[str]) -> Iterator[Report]:
        """Forget reports that the parent has, and yield them."""
        waiting = self._waiting.get(parent, {})
        for event_id in event_ids:
            if (report := waiting.pop(event_id, None)) is not None:
                yield report
        if not waiting:
            self._waiting.pop(parent, None)

    def due(self, parent: str, *, before: float) -> list[Report]:
        """Return what the parent is to be told and was not since `before` (monotonic seconds)."""
        waiting = self._waiting.get(parent, {}).values()
        return [report for report in waiting if report.sent_at is None or report.sent_at < before]

    def parents(self) -> list[str]:
        """Return those for whom something waits."""
        return list(self._waiting)
