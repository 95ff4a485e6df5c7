"""The machine has a cell for every method in every column, and a row for every way a run ends."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import pytest

from podproc import turn_terms as t
from podproc.turn_table import METHODS, Column
from protocol import methods as m
from protocol.error_body import ErrorBody
from protocol.pod_events import Errored, ShutDown
from protocol.segments import Text
from protocol.status import PodStatus, RunResult
from tests.podproc.turns import Machine, ask, child, child_ended, child_lent, in_column, notify, run

COLUMNS = tuple(Column)
TARGET = m.RewindTargetId(segment_id="s", user_input_entry_index=2)


class Row(NamedTuple):
    """One method and what it does: idle; idle, compacting; running; paused."""

    request: t.Request
    idle: str
    compacting: str
    running: str
    paused: str


def same(request: t.Request, everywhere: str) -> Row:
    return Row(request, *[everywhere] * 4)


STORED = "store, accepted"
TABLE = {
    "run": Row(
        run(),
        "begin run -> running",
        " -> idle, compacting",
        "already_running",
        "begin run -> running",
    ),
    "resume": Row(
        ask(m.Resume()),
        "not_paused",
        "not_paused",
        "already_running",
        "begin resume without a note -> running",
    ),
    "notify": Row(notify(), f"{STORED}, begin notify -> running", STORED, STORED, STORED),
    "notify that does not wake": same(notify(auto_run=False), STORED),
    "pod_event that wakes": Row(
        child_ended(), f"{STORED}, begin pod_event -> running", STORED, STORED, STORED
    ),
    "pod_event of an error": Row(
        child(Errored(pod_name="kid", code="internal", message="oops")),
        f"{STORED}, begin pod_event -> running",
        STORED,
        STORED,
        STORED,
    ),
    "pod_event of an end": Row(
        child(ShutDown(pod_name="kid", cause="done")),
        f"{STORED}, begin pod_event -> running",
        STORED,
        STORED,
        STORED,
    ),
    "pod_event of a pause": same(child_ended(RunResult.PAUSED), STORED),
    "pod_event of a cancel": same(child_ended(RunResult.CANCELLED), STORED),
    "pod_event of a rollback": same(child_ended(RunResult.ROLLED_BACK), STORED),
    "pod_event, control-plane": same(child_lent(), "record child, accepted"),
    "pause": Row(
        ask(m.Pause()), "not_running", "not_running", "accepted, stop for pause", "accepted"
    ),
    "cancel": Row(
        ask(m.Cancel()),
        "not_running",
        "accepted, stop compaction",
        "accepted, stop for cancel",
        "abandon",
    ),
    "compact": Row(
        ask(m.Compact()),
        "accepted, start compaction, status idle busy -> idle, compacting",
        "already_running",
        "already_running",
        "invalid_request",
    ),
    "list_rewind_targets": Row(
        ask(m.ListRewindTargets()), "answer", "answer", "already_running", "answer"
    ),
    "rewind_to": Row(
        ask(m.RewindTo(target=TARGET, expected_head_entries=4)),
        "rewind -> idle, compacting",
        "already_running",
        "already_running",
        "invalid_request",
    ),
    "list_pods": same(ask(m.ListPods()), "answer"),
    "inspect_pod": same(ask(m.InspectPod(name="kid")), "answer"),
    "restore_pod": same(ask(m.RestorePod(name="kid")), "answer"),
    "register_peer": same(ask(m.RegisterPeer(name="kid")), "answer"),
    "scope_lend": same(ask(m.ScopeLend(lent=(), number=1)), "answer"),
    "list_completions": same(ask(m.ListCompletions(kind="file")), "answer"),
    "get_history": same(ask(m.GetHistory()), "answer"),
    "shutdown": Row(
        ask(m.ShutdownMethod()),
        "accepted, leave",
        "accepted, stop compaction",
        "accepted, stop for shutdown",
        "accepted, leave",
    ),
}
CELLS = [(name, column) for name in TABLE for column in COLUMNS]


def cell(name: str, column: Column) -> str:
    """Return what the table says; a cell without an arrow stays in its column."""
    _, *cells = TABLE[name]
    text = str(cells[COLUMNS.index(column)])
    return text if "->" in text else f"{text} -> {column}"


def in_phases_of_running() -> dict[str, Machine]:
    """Return machines whose run is staged, is begun, and is being closed."""
    staged, closing = Machine(), Machine().running()
    staged.ask(run())
    closing.feel(t.RunOver(t.Ending.FINISHED))
    return {"staged": staged, "begun": Machine().running(), "closing": closing}


@pytest.mark.parametrize("method", sorted(m.METHODS))
def test_every_method_has_a_row_here_and_there(method: str) -> None:
    rows = [name for name, row in TABLE.items() if row.request.method.method == method]
    assert rows, f"no row for {method}"
    assert len(METHODS[m.METHODS[method]]) == len(COLUMNS), f"a cell of {method} is missing"


@pytest.mark.parametrize(("name", "column"), CELLS)
def test_every_cell_does_what_the_table_says(name: str, column: Column) -> None:
    machine = in_column(column)
    assert f"{machine.ask(TABLE[name].request)} -> {machine.state.column}" == cell(name, column)


@pytest.mark.parametrize(("name", "column"), CELLS)
def test_a_refusal_or_an_answer_changes_nothing(name: str, column: Column) -> None:
    refused = {"not_running", "not_paused", "already_running", "invalid_request", "answer"}
    machine = in_column(column)
    before = machine.state
    if machine.ask(TABLE[name].request) in refused:
        assert machine.state == before


@pytest.mark.parametrize("column", COLUMNS)
def test_an_event_for_the_tools_alone_changes_nothing(column: Column) -> None:
    machine = in_column(column)
    before = machine.state
    machine.ask(child_lent())
    assert machine.state == before


@pytest.mark.parametrize("phase", in_phases_of_running())
@pytest.mark.parametrize(
    ("name"), [name for name, row in TABLE.items() if row.running == "already_running"]
)
def test_what_a_run_refuses_it_refuses_from_staging_to_its_end(name: str, phase: str) -> None:
    machine = in_phases_of_running()[phase]
    before = machine.state
    assert machine.ask(TABLE[name].request) == "already_running"
    assert machine.state == before


@pytest.mark.parametrize("phase", in_phases_of_running())
@pytest.mark.parametrize("method", [m.Pause(), m.Cancel(), m.ShutdownMethod()])
def test_a_stop_is_accepted_from_staging_to_the_end_of_a_run(method: m.Method, phase: str) -> None:
    machine = in_phases_of_running()[phase]
    assert machine.ask(method).split(", ")[0] == "accepted"


@pytest.mark.parametrize("column", [Column.COMPACTING, Column.RUNNING])
def test_a_second_compaction_is_refused_by_the_name_of_compact(column: Column) -> None:
    [refusal] = in_column(column).do(t.Asked(ask(m.Compact())))
    assert isinstance(refusal, t.Reply)
    assert "compact" in str(refusal.error)


@pytest.mark.parametrize("name", ["compact", "rewind_to"])
def test_a_paused_pod_says_what_would_be_allowed(name: str) -> None:
    [refusal] = in_column(Column.PAUSED).do(t.Asked(TABLE[name].request))
    assert isinstance(refusal, t.Reply)
    assert "resume" in str(refusal.error)
    assert "fresh run" in str(refusal.error)


def test_already_running_says_what_runs() -> None:
    machine = Machine()
    machine.ask(run(request_id="first"))
    [refusal] = machine.do(t.Asked(run()))
    assert isinstance(refusal, t.Reply)
    assert refusal.error is not None
    assert refusal.error.details == {"trigger": "user_send", "request_id": "first"}


# -- how runs end --------------------------------------------------------------------------------

ANY = None
STARTED = (t.RunKind.RUN, t.RunKind.NOTIFICATION)
BY_REQUEST = (t.RunKind.RUN, t.RunKind.RESUME)
STOPS = tuple(t.StopWish)


class End(NamedTuple):
    """How the engine ended, who asked for what, and what is said of it; ANY fits all."""

    ending: t.Ending
    wish: tuple[t.StopWish | None, ...] | None
    kind: tuple[t.RunKind, ...] | None
    output: tuple[bool, ...] | None
    result: RunResult
    reason: str | None = "why"
    abandons: bool = False


ENDS = (
    End(t.Ending.FINISHED, ANY, ANY, ANY, RunResult.FINISHED),
    End(t.Ending.LIMIT_REACHED, ANY, ANY, ANY, RunResult.LIMIT_REACHED),
    End(t.Ending.FAILED, ANY, ANY, ANY, RunResult.ERRORED),
    End(t.Ending.PAUSED, ANY, ANY, ANY, RunResult.PAUSED),
    End(t.Ending.STOPPED, (t.StopWish.SHUTDOWN,), ANY, ANY, RunResult.CANCELLED, "shutdown"),
    End(t.Ending.STOPPED, (t.StopWish.PAUSE,), ANY, (True,), RunResult.PAUSED),
    End(t.Ending.STOPPED, (t.StopWish.CANCEL,), ANY, (True,), RunResult.CANCELLED),
    End(
        t.Ending.STOPPED,
        (t.StopWish.PAUSE, t.StopWish.CANCEL),
        STARTED,
        (False,),
        RunResult.ROLLED_BACK,
        None,
    ),
    End(t.Ending.STOPPED, (t.StopWish.PAUSE,), (t.RunKind.RESUME,), (False,), RunResult.PAUSED),
    End(
        t.Ending.STOPPED,
        (t.StopWish.CANCEL,),
        (t.RunKind.RESUME,),
        (False,),
        RunResult.CANCELLED,
        abandons=True,
    ),
)

COMBINATIONS = [
    (ending, wish, kind, output)
    for ending, wish, kind, output in product(t.Ending, (None, *STOPS), t.RunKind, (True, False))
    if not (ending is t.Ending.STOPPED and wish is None)  # only who is asked to stop is stopped
]


def row_for(ending: t.Ending, wish: t.StopWish | None, kind: t.RunKind, output: bool) -> End:
    fitting = [
        row
        for row in ENDS
        if row.ending is ending
        and (row.wish is ANY or wish in row.wish)
        and (row.kind is ANY or kind in row.kind)
        and (row.output is ANY or output in row.output)
    ]
    assert len(fitting) == 1, f"{len(fitting)} rows for {ending}, {wish}, {kind}, output {output}"
    return fitting[0]


def begun(kind: t.RunKind) -> Machine:
    match kind:
        case t.RunKind.RUN:
            return Machine().running()
        case t.RunKind.RESUME:
            return Machine().resumed()
        case t.RunKind.NOTIFICATION:
            return Machine().notified()


WISHES: dict[t.StopWish, m.Method] = {
    t.StopWish.PAUSE: m.Pause(),
    t.StopWish.CANCEL: m.Cancel(),
    t.StopWish.SHUTDOWN: m.ShutdownMethod(),
}


@pytest.mark.parametrize(("ending", "wish", "kind", "output"), COMBINATIONS)
def test_every_run_ends_as_its_row_says(
    ending: t.Ending, wish: t.StopWish | None, kind: t.RunKind, output: bool
) -> None:
    row = row_for(ending, wish, kind, output)
    machine = begun(kind)
    if wish is not None:
        machine.ask(WISHES[wish])
    first = machine.feel(t.RunOver(ending, output=output, reason="why"))
    then = machine.feel(t.Closed())

    status = PodStatus.PAUSED if row.result is RunResult.PAUSED else PodStatus.IDLE
    reason = f" ({row.reason})" if row.reason else ""
    expected = [f"run_end {row.result}{reason}", f"status {status}"]
    expected += [f"report {row.result}"] if kind in BY_REQUEST else []
    expected += ["jobs"]
    expected += ["leave"] if wish is t.StopWish.SHUTDOWN else []
    assert first == f"close {row.result}" + (" and abandon" if row.abandons else "")
    assert then == ", ".join(expected)
    assert machine.state.status is status


@pytest.mark.parametrize("result", RunResult)
def test_every_result_is_the_end_of_some_run(result: RunResult) -> None:
    assert any(row.result is result for row in ENDS), f"no row for {result}"


@pytest.mark.parametrize("ending", t.Ending)
def test_an_end_that_cannot_be_logged_is_an_error_whatever_it_was(ending: t.Ending) -> None:
    machine = Machine().running()
    machine.ask(m.Pause())
    machine.feel(t.RunOver(ending, reason="why"))
    full = ErrorBody(code="internal", message="the disk is full")
    done = machine.do(t.Closed(error=full))
    assert isinstance(done[0], t.PublishRunEnd)
    assert (done[0].result, done[0].reason, done[0].error) == (RunResult.ERRORED, None, full)
    assert machine.state.status is PodStatus.IDLE


def test_run_end_carries_the_plan_so_that_input_and_request_id_are_known() -> None:
    asked = run("take me back", "q-mine")
    machine = Machine()
    machine.ask(asked)
    machine.feel(t.Begun())
    machine.ask(m.Cancel())
    machine.feel(t.RunOver(t.Ending.STOPPED, output=False))
    end = machine.do(t.Closed())[0]
    assert isinstance(end, t.PublishRunEnd)
    assert end.plan.request_id == "q-mine"
    assert end.plan.input == (Text(content="take me back"),)
