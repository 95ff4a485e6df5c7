"""What children tell their parents: to whom, in which form, and again until it is taken. Pure.

    a run ended            the child reports it, after its status; the supervisor names the sender
    a child is gone        told here, once, when its exit is proven and its scope is free again
    a child was spawned    told to each above its spawner

A parent that is away is told when it is back. A parent that comes back in a new process is told of
all that ended meanwhile in one notification, which wakes nobody: a restart alone buys no request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from protocol.methods import News
from protocol.pod_events import (
    Errored,
    PodEvent,
    ScopeSubDelegated,
    ShutDown,
    TurnEnded,
    line_for_model,
)
from supervisor.core.family import AT_REST, kept_below, line_above, parent_of
from supervisor.core.fleet_terms import (
    DeliverNews,
    DeliverReport,
    ForgetReports,
    Instruction,
    ReportAnswered,
    StoreReport,
)
from supervisor.core.member import Member
from supervisor.core.reports import Report, Reports

AGAIN_S = 5.0
"""How long a report that was handed out and not taken rests before it is tried again."""


class Upward:
    """The reports of one fleet."""

    def __init__(self, members: Mapping[str, Member]) -> None:
        self._members = members
        self._reports = Reports()

    def remember(self, reports: Iterable[Report]) -> None:
        """Take over what an earlier supervisor's journal says."""
        for report in reports:
            self._reports.store(report)

    def report(self, sender: str, event_id: str, event: PodEvent, now: float) -> list[Instruction]:
        """Take what a pod reports of itself; what only a supervisor may tell is nothing.

        It is for the parent that counts, and for the recorded one where nobody above is up.
        """
        if not isinstance(event, TurnEnded | Errored):
            return []
        event = event.model_copy(update={"pod_name": sender})
        recorded = next((one.name for one in line_above(self._members, sender)), None)
        nearest = parent_of(self._members, sender) or recorded
        return [] if nearest is None else self._tell(nearest, event_id, event, now)

    def shut_down(self, child: Member, now: float) -> list[Instruction]:
        """Tell that a pod is gone and what it could write is free."""
        life = child.life
        event = ShutDown(
            pod_name=child.name,
            cause=life.reason,
            scope=child.writes(),
            kept=kept_below(self._members, child.name),
        )
        event_id = f"{child.name}/{life.incarnation}/shut_down"
        out: list[Instruction] = []
        for one in line_above(self._members, child.name):
            out += self._tell(one.name, event_id, event, now)
            if one.life.phase not in AT_REST:
                break  # those before it learn it when they are back
        return out

    def is_back(self, child: Member) -> list[Instruction]:
        """Forget that a pod was gone, where nobody was told so yet."""
        return [
            out
            for parent in self._reports.parents()
            for report in self._reports.due(parent, before=float("inf"))
            if isinstance(report.event, ShutDown) and report.event.pod_name == child.name
            for out in self.answered(ReportAnswered(parent, (report.event_id,)))
        ]

    def sub_delegated(self, child: Member, now: float) -> list[Instruction]:
        """Tell each above the spawner of a newcomer."""
        spawner, *above = line_above(self._members, child.name)
        event = ScopeSubDelegated(parent_pod=spawner.name, sub_pod=child.name, scope=child.writes())
        event_id = f"{child.name}/{child.life.incarnation}/sub_delegated"
        return [out for one in above for out in self._tell(one.name, event_id, event, now)]

    def greet(self, parent: Member, *, is_new: bool, now: float) -> list[Instruction]:
        """Tell a parent that can be spoken to what waits for it."""
        waiting = self._reports.due(parent.name, before=now)
        for report in waiting:
            report.as_news = report.as_news or (is_new and report.is_news)
        return self._hand_out(waiting, now)

    def tick(self, now: float) -> list[Instruction]:
        """Try again what was handed out and is not taken."""
        return [
            out
            for name in self._reports.parents()
            if name in self._members and self._members[name].is_ready
            for out in self._hand_out(self._reports.due(name, before=now - AGAIN_S), now)
        ]

    def answered(self, answer: ReportAnswered) -> list[Instruction]:
        """Forget what the parent has, or will never take."""
        if not answer.final:
            return []
        taken = list(self._reports.take(answer.parent, answer.event_ids))
        ids = tuple(report.event_id for report in taken)
        return [ForgetReports(answer.parent, ids)] if ids else []

    def forget(self, parent: str) -> list[Instruction]:
        """Forget all that waits for a pod that was deleted."""
        ids = tuple(report.event_id for report in self._reports.due(parent, before=float("inf")))
        return self.answered(ReportAnswered(parent, ids))

    def _tell(self, parent: str, event_id: str, event: PodEvent, now: float) -> list[Instruction]:
        away = self._members[parent].life.phase in AT_REST
        report = Report(parent, event_id, event, while_away=away)
        if self._reports.knows(report):
            return []
        dropped = self._reports.store(report)
        out: list[Instruction] = [StoreReport(parent, event_id, event, away)]
        if dropped:
            out.append(ForgetReports(parent, tuple(one.event_id for one in dropped)))
        is_ready = self._members[parent].is_ready
        return out + (self._hand_out([report], now) if is_ready else [])

    def _hand_out(self, reports: Iterable[Report], now: float) -> list[Instruction]:
        """Send what is due: each by itself, and what is news in one notification."""
        out: list[Instruction] = []
        news: list[Report] = []
        for report in reports:
            report.sent_at = now
            if report.as_news:
                news.append(report)
            else:
                out.append(DeliverReport(report.parent, report.event_id, report.event))
        return [*(self._news(news) if news else ()), *out]

    def _news(self, reports: list[Report]) -> list[Instruction]:
        parent = self._members[reports[0].parent]
        request_id = f"{parent.name}/{parent.life.incarnation}/while_away"
        lines = tuple(
            News(event_id=report.event_id, line=line_for_model(report.event)) for report in reports
        )
        return [DeliverNews(parent.name, request_id, "While you were away:", lines)]
