"""What a pod tells its parent of its runs: once each, and again until the supervisor has it.

The end of a run that is told names its report in the log (`run_completed.report`), so it is owed
from the same write on that ends the run. When the supervisor has stored it a mark says so. What is
owed and not marked is sent by the next process, under the same id: who knows it, ignores it. A run
that was taken back is in no log; its report is sent once, and lost with the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias

from podproc.recorder import Recorder
from protocol.birth import Birth
from protocol.control import Control, ReportUp
from protocol.entries import RunEnd, RunErrored
from protocol.error_body import ErrorBody
from protocol.errors import NoAnswer, PodsupError, Timeout
from protocol.pod_events import Errored, PodEvent, TurnEnded
from protocol.status import AlertLevel, AlertSource, RunResult

REPORT_S = 5.0
AGAIN_S = 1.0

Ask: TypeAlias = Callable[[Control, float, str], Awaitable[Any]]
Spawn: TypeAlias = Callable[
    [Coroutine[Any, Any, None], set[asyncio.Task[None]]], asyncio.Task[None]
]


class Reports:
    """The reports of one incarnation; a pod without a parent has nobody to tell."""

    def __init__(self, birth: Birth, record: Recorder, ask: Ask, spawn: Spawn) -> None:
        self._name = birth.manifest.name
        self._incarnation = birth.incarnation
        self._has_parent = birth.parent is not None
        self._record = record
        self._ask = ask
        self._spawn = spawn
        self._count = 0
        self._begun: str | None = None
        self._sending: set[asyncio.Task[None]] = set()

    def next_id(self) -> str | None:
        """Return the id of one more report; None where there is nobody to tell."""
        if not self._has_parent:
            return None
        self._count += 1
        return f"{self._name}/{self._incarnation}/{self._count}"

    def begin(self) -> str | None:
        """Return the id that the end of the present run names; `send` uses it."""
        self._begun = self.next_id()
        return self._begun

    def send(self, result: RunResult, error: ErrorBody | None) -> None:
        """Tell how a run ended."""
        report_id, self._begun = self._begun or self.next_id(), None
        if report_id is None:
            return
        usage = self._record.state.usage
        event: PodEvent = TurnEnded(pod_name=self._name, result=result, usage=usage)
        if error is not None:
            event = Errored(pod_name=self._name, code=error.code, message=error.message)
        self._send(report_id, event)

    def send_owed(self) -> None:
        """Tell what the log says is owed."""
        for end in self._record.state.owed if self._has_parent else ():
            self._send(end.report or "", self._event_of(end))

    async def close(self) -> None:
        """Give what is on its way a moment; the rest stays owed."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=REPORT_S)
        for report in list(self._sending):
            report.cancel()

    def _event_of(self, end: RunEnd) -> PodEvent:
        if isinstance(end, RunErrored):
            return Errored(pod_name=self._name, code=end.code, message=end.message)
        usage = self._record.state.usage
        return TurnEnded(pod_name=self._name, result=end.result, usage=usage)

    def _send(self, report_id: str, event: PodEvent) -> None:
        self._spawn(self._until_stored(ReportUp(event_id=report_id, event=event)), self._sending)

    async def _until_stored(self, report: ReportUp) -> None:
        while True:
            try:
                await self._ask(report, REPORT_S, report.event_id)
            except Timeout:
                continue
            except NoAnswer:
                await asyncio.sleep(AGAIN_S)
                continue
            except PodsupError as refusal:
                message = f"the report of a run was refused: {refusal}"
                self._record.alert(AlertLevel.WARN, message, AlertSource.POD)
            break
        try:
            self._record.note_reported(report.event_id)
        except PodsupError as error:  # it is sent once more, and known by its id
            self._record.alert(AlertLevel.WARN, str(error), AlertSource.POD)
