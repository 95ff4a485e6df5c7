"""The machine has a cell for every method in every column, and a row for every way a run ends."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import pytest

from podproc import turn_terms as t
from podproc.turn_table import METHODS, Column
from protocol import methods as m
from protocol.error_body import ErrorBody
from protocol.errors import Internal
from protocol.events import RewindSummary
from protocol.pod_events import Errored, ShutDown, TurnEnded, wakes_parent
from protocol.segments import Text
from protocol.status import PodStatus, RunResult
from tests.podproc.turns import (
    Machine,
    ask,
    child,
    child_ended,
    child_lent,
    in_column,
    notify,
    run,
    words,
)

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


WHILE_REWINDING = {"cancel": "not_running", "shutdown": "accepted"}
"""What is different where a rewind is under way: it is not stopped, and shutdown waits for it."""


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


def names_of(cells: list[tuple[str, Column]]) -> list[str]:
    return [f"{name} when {column}" for name, column in cells]


@pytest.mark.parametrize("method", sorted(m.METHODS))
def test_every_method_has_a_row_here_and_there(method: str) -> None:
    rows = [name for name, row in TABLE.items() if row.request.method.method == method]
    assert rows, f"no row for {method}"
    assert len(METHODS[m.METHODS[method]]) == len(COLUMNS), f"a cell of {method} is missing"


@pytest.mark.parametrize(("name", "column"), CELLS, ids=names_of(CELLS))
def test_every_cell_does_what_the_table_says(name: str, column: Column) -> None:
    machine = in_column(column)
    assert f"{machine.ask(TABLE[name].request)} -> {machine.state.column}" == cell(name, column)


@pytest.mark.parametrize(("name", "column"), CELLS, ids=names_of(CELLS))
def test_a_refusal_or_an_answer_changes_nothing(name: str, column: Column) -> None:
    refused = {"not_running", "not_paused", "already_running", "invalid_request", "answer"}
    machine = in_column(column)
    before = machine.state
    if machine.ask(TABLE[name].request) in refused:
        assert machine.state == before


@pytest.mark.parametrize("name", TABLE)
def test_a_rewind_is_a_compaction_that_is_not_stopped(name: str) -> None:
    expected = WHILE_REWINDING.get(name, TABLE[name].compacting.split(" ->")[0])
    machine = Machine().rewinding()
    before = machine.state
    assert machine.ask(TABLE[name].request) == expected
    assert machine.state.rewinding
    assert machine.state.flags == (), "busy is a compaction"
    if expected in {"not_running", "not_paused", "already_running", "answer"}:
        assert machine.state == before


@pytest.mark.parametrize("name", ["run", "notify", "pod_event that wakes"])
@pytest.mark.parametrize("works", [True, False])
def test_what_a_rewind_has_held_begins_behind_it(name: str, works: bool) -> None:
    machine = Machine().rewinding()
    machine.ask(TABLE[name].request)
    begins = TABLE[name].idle.split(" ->")[0].removeprefix(f"{STORED}, ")
    done = "rewind_applied, status idle, accepted" if works else "internal"
    assert machine.feel(rewind_over(works=works)) == f"{done}, {begins}"


@pytest.mark.parametrize("works", [True, False])
def test_shutdown_behind_a_rewind_refuses_what_it_has_held(works: bool) -> None:
    machine = Machine().rewinding()
    machine.ask(run())
    assert machine.ask(m.ShutdownMethod()) == "accepted"
    assert machine.ask(run()) == "unreachable"
    done = "rewind_applied, status idle, accepted" if works else "internal"
    assert machine.feel(rewind_over(works=works)) == f"{done}, unreachable, leave"


@pytest.mark.parametrize("name", ["compact", "rewind_to"])
def test_a_second_rewind_or_a_compaction_is_refused_by_what_is_under_way(name: str) -> None:
    [refusal] = Machine().rewinding().do(t.Asked(TABLE[name].request))
    assert isinstance(refusal, t.Reply)
    assert "a rewind is being applied" in str(refusal.error)


def rewind_over(*, works: bool) -> t.RewindOver:
    request = TABLE["rewind_to"].request
    if not works:
        return t.RewindOver(request, error=Internal("the disk is full"))
    summary = RewindSummary(discarded_entries=1, discarded_turns=0, tools_ran=0)
    rewound = m.Rewound(segment_id="s1", head_entries=1, input=(), summary=summary)
    return t.RewindOver(request, rewound)


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


class Told(NamedTuple):
    """A row of the table of ends: what is said, what the pod is then, whether a parent wakes."""

    ending: t.Ending
    wish: t.StopWish | None
    output: bool
    said: str
    status: PodStatus
    wakes: bool


BY_NAME = {
    "finished": Told(t.Ending.FINISHED, None, True, "finished", PodStatus.IDLE, True),
    "pause asked for by an operator": Told(
        t.Ending.STOPPED, t.StopWish.PAUSE, True, "paused (why)", PodStatus.PAUSED, False
    ),
    "pause asked for by a hook or a budget": Told(
        t.Ending.PAUSED, None, True, "paused (why)", PodStatus.PAUSED, False
    ),
    "cancel asked for": Told(
        t.Ending.STOPPED, t.StopWish.CANCEL, True, "cancelled (why)", PodStatus.IDLE, False
    ),
    "turns or answer tokens used up": Told(
        t.Ending.LIMIT_REACHED, None, True, "limit_reached (why)", PodStatus.IDLE, True
    ),
    "pause before any output": Told(
        t.Ending.STOPPED, t.StopWish.PAUSE, False, "rolled_back", PodStatus.IDLE, False
    ),
    "cancel before any output": Told(
        t.Ending.STOPPED, t.StopWish.CANCEL, False, "rolled_back", PodStatus.IDLE, False
    ),
    "provider, tool or internal failure": Told(
        t.Ending.FAILED, None, True, "errored (why)", PodStatus.IDLE, True
    ),
    "shutdown asked for": Told(
        t.Ending.STOPPED, t.StopWish.SHUTDOWN, True, "cancelled (shutdown)", PodStatus.IDLE, False
    ),
    "shutdown before any output": Told(
        t.Ending.STOPPED, t.StopWish.SHUTDOWN, False, "cancelled (shutdown)", PodStatus.IDLE, False
    ),
}


@pytest.mark.parametrize("name", BY_NAME)
def test_a_run_that_was_asked_for_ends_by_name(name: str) -> None:
    row = BY_NAME[name]
    machine = Machine().running()
    if row.wish is not None:
        machine.ask(WISHES[row.wish])
    reason = "why" if row.said.endswith("(why)") else None
    body = ErrorBody(code="provider_error", message="no") if "errored" in row.said else None
    machine.feel(t.RunOver(row.ending, output=row.output, reason=reason, error=body))
    done = machine.do(t.Closed())
    result = RunResult(row.said.split()[0])
    said = words(done).split(", ")
    assert said[:3] == [f"run_end {row.said}", f"status {row.status}", f"report {result}"]
    assert machine.state.status is row.status
    assert machine.state.leaving is (row.wish is t.StopWish.SHUTDOWN)
    told = (
        Errored(pod_name="kid", code=body.code, message=body.message)
        if body
        else TurnEnded(pod_name="kid", result=result)
    )
    assert wakes_parent(told) is row.wakes


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
