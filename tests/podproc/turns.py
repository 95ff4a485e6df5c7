"""A turn machine driven by hand, and its instructions in words."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import assert_never

from podproc import turn_terms as t
from podproc.turn import Turn, TurnState
from podproc.turn_table import Column
from protocol import methods as m
from protocol.errors import PodsupError
from protocol.pod_events import PodEvent, ScopeSubDelegated, TurnEnded
from protocol.segments import Text
from protocol.status import PodStatus, RunResult

_ids = count(1)


def ask(method: m.Method, request_id: str | None = None) -> t.Request:
    """Return a request of an operator, with an id of its own."""
    return t.Request(request_id or f"q{next(_ids)}", "operator", method)


def run(text: str = "hi", request_id: str | None = None) -> t.Request:
    """Return a `run`."""
    return ask(m.Run(input=(Text(content=text),)), request_id)


def notify(*, auto_run: bool = True) -> t.Request:
    """Return a `notify`."""
    return ask(m.Notify(message="look", auto_run=auto_run))


def child(event: PodEvent) -> t.Request:
    """Return a `pod_event`."""
    return ask(m.PodEventMethod(event_id="kid.1", event=event))


def child_ended(result: RunResult = RunResult.FINISHED) -> t.Request:
    """Return a child's report of a run."""
    return child(TurnEnded(pod_name="kid", result=result))


def child_lent() -> t.Request:
    """Return a control-plane event, which the model never hears of."""
    return child(ScopeSubDelegated(parent_pod="kid", sub_pod="grandkid"))


class Machine:
    """A turn with a shell that stores notifications; everything else is answered by the test."""

    def __init__(self, status: PodStatus = PodStatus.IDLE) -> None:
        self.turn = Turn(status)

    @property
    def state(self) -> TurnState:
        return self.turn.state

    def feel(self, stimulus: t.Stimulus) -> str:
        """Take a stimulus; return in words what is done, notifications being stored at once."""
        return words(self.do(stimulus))

    def ask(self, what: t.Request | m.Method) -> str:
        """Take a request."""
        return self.feel(t.Asked(what if isinstance(what, t.Request) else ask(what)))

    def do(self, stimulus: t.Stimulus) -> list[t.Instruction]:
        """Take a stimulus and return what is done."""
        done: list[t.Instruction] = []
        for one in self.turn.handle(stimulus):
            done.append(one)
            if isinstance(one, t.Store):
                done += self.do(t.Stored(one.request, one.wakes))
        return done

    def running(self) -> Machine:
        """Have a run that was begun."""
        self.ask(run())
        self.feel(t.Begun())
        return self

    def compacting(self) -> Machine:
        """Have a compaction on its way."""
        self.ask(m.Compact())
        return self

    def rewinding(self) -> Machine:
        """Have a rewind on its way."""
        target = m.RewindTargetId(segment_id="s", user_input_entry_index=2)
        self.ask(m.RewindTo(target=target, expected_head_entries=4))
        return self

    def paused(self) -> Machine:
        """Have a run that was paused."""
        self.running().ask(m.Pause())
        self.end(t.Ending.STOPPED)
        return self

    def resumed(self) -> Machine:
        """Have a paused run that goes on."""
        self.paused().ask(m.Resume())
        self.feel(t.Begun())
        return self

    def notified(self) -> Machine:
        """Have a notification run that was begun."""
        self.ask(notify())
        self.feel(t.Begun())
        return self

    def end(self, ending: t.Ending, closed: t.Closed | None = None, *, output: bool = True) -> str:
        """Have the engine end and the end be logged."""
        first = self.feel(t.RunOver(ending, output=output))
        return f"{first}, {self.feel(closed or t.Closed())}"


def in_column(column: Column) -> Machine:
    """Return a machine that came to the column by what can really happen."""
    machine = Machine()
    match column:
        case Column.IDLE:
            pass
        case Column.COMPACTING:
            machine.compacting()
        case Column.RUNNING:
            machine.running()
        case Column.PAUSED:
            machine.paused()
        case _:
            assert_never(column)
    assert machine.state.column is column
    return machine


def words(instructions: Iterable[t.Instruction]) -> str:
    """Return the instructions in words, in order."""
    return ", ".join(map(_word, instructions))


def _word(one: t.Instruction) -> str:
    match one:
        case t.Reply(_, error):
            return "accepted" if error is None else _code(error)
        case t.Begin(plan, close):
            note = "" if close is t.ClosePrevious.RESULTS_AND_NOTE else " without a note"
            what = plan.trigger if plan.kind is t.RunKind.NOTIFICATION else plan.kind
            return f"begin {what}{note}"
        case t.SetStatus(status, flags):
            return " ".join(["status", status, *flags])
        case t.StartEngine(_, stop):
            return f"start engine, to stop for {stop}" if stop else "start engine"
        case t.StopEngine(wish):
            return f"stop for {wish}"
        case t.Close():
            return f"close {one.result}" + (" and abandon" if one.abandon else "")
        case t.PublishRunEnd():
            return f"run_end {one.result}" + (f" ({one.reason})" if one.reason else "")
        case t.Report(result):
            return f"report {result}"
        case t.PublishCompaction(segment, error_text):
            return f"compact_done {segment}" if segment else f"compact_failed ({error_text})"
        case _:
            return _PLAIN[type(one)]


_PLAIN: dict[type[t.Instruction], str] = {
    t.Answer: "answer",
    t.Store: "store",
    t.RecordChild: "record child",
    t.PublishBegin: "publish begin",
    t.StartPostRunJobs: "jobs",
    t.Abandon: "abandon",
    t.StartCompaction: "start compaction",
    t.StopCompaction: "stop compaction",
    t.Rewind: "rewind",
    t.PublishRewind: "rewind_applied",
    t.Leave: "leave",
}


def _code(error: PodsupError) -> str:
    return error.code.value
