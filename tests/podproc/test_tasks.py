"""The session's plan: its list as a value, its tools, its reminder, and a whole pod with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podproc.tools.base import Registry, ToolResult
from podproc.tools.task_list import (
    MOST_DESCRIPTION,
    MOST_SUBJECT,
    MOST_TASKS,
    BadText,
    ListFull,
    NoSuchTask,
    NothingAsked,
    Task,
    TaskList,
    TaskRefused,
    TaskStatus,
    Unreadable,
    ranges,
    read,
)
from podproc.tools.tasks import (
    REMIND_AFTER,
    SHOWN_IN_REMINDER,
    Reminder,
    Tasks,
    task_tools,
)
from protocol import methods as m
from protocol.birth import Birth
from protocol.entries import Message, SystemItem
from protocol.errors import Internal
from protocol.manifest import Feature
from tests.podproc.engines import Move, PlayedModel, call, end, text
from tests.podproc.pods import Home, Life, Sent, alive, drive
from tests.podproc.test_pod import DONE, Disk, rewind, script
from tests.podproc.tooling import quiet_call, run

FOUR = ["TaskCreate", "TaskGet", "TaskList", "TaskUpdate"]
OVER = (TaskStatus.COMPLETED, TaskStatus.CANCELLED)


def list_of(*statuses: str) -> TaskList:
    """Return a list with a task of each status, `task 1` and so on."""
    rows = [
        {"id": number, "subject": f"task {number}", "description": "", "status": status}
        for number, status in enumerate(statuses, 1)
    ]
    return read({"tasks": rows})


class FakeLog:
    """What the log does for the tools: it keeps each payload, or nothing while it is full."""

    def __init__(self, *payloads: Any) -> None:
        self.payloads = list(payloads)
        self.is_full = False

    def keep(self, payload: dict[str, Any]) -> None:
        """Append."""
        if self.is_full:
            raise Internal("nothing was added to the log: no space left on device")
        self.payloads.append(payload)

    def kept(self) -> Mapping[str, Any] | None:
        """Return the newest."""
        return self.payloads[-1] if self.payloads else None


class Planner:
    """The four tools over a log; `defects` is what they reported."""

    def __init__(self, *payloads: Any) -> None:
        self.log = FakeLog(*payloads)
        self.tasks = Tasks(self.log.keep, self.log.kept)
        self.defects: list[Exception] = []
        self.registry = Registry(on_defect=self.defects.append)
        for tool in task_tools(self.tasks):
            self.registry.register(tool, "tasks")

    def call(self, name: str, **arguments: Any) -> ToolResult:
        """Make one call; a defect fails the test."""
        result = run(self.registry.call(name, arguments, quiet_call()))
        assert self.defects == []
        return result

    def plan(self) -> TaskList:
        """The list as the log has it."""
        return read(self.log.kept())


# -- the list as a value -------------------------------------------------------------------------


def test_tasks_are_numbered_from_one_and_begin_as_pending() -> None:
    made = TaskList().create("first").create("second", "with care")
    assert made.tasks == (
        Task(id=1, subject="first"),
        Task(id=2, subject="second", description="with care", status="pending"),
    )
    assert made.get(2).description == "with care"


@pytest.mark.parametrize("before", TaskStatus)
@pytest.mark.parametrize("after", TaskStatus)
def test_any_status_may_follow_any_other(before: TaskStatus, after: TaskStatus) -> None:
    changed = list_of("pending", before).update(2, status=after)
    assert [task.status for task in changed.tasks] == ["pending", after]


def test_an_update_changes_what_it_names_and_nothing_else() -> None:
    begun = TaskList().create("first", "how").create("second")
    changed = begun.update(1, subject="better")
    assert changed.get(1) == Task(id=1, subject="better", description="how")
    assert changed.get(2) == begun.get(2)
    assert begun.get(1).subject == "first", "a list is a value"
    assert changed.update(1, description="").get(1).description == ""


@pytest.mark.parametrize(
    ("change", "refusal", "said"),
    [
        (lambda plan: plan.get(9), NoSuchTask, "there is no task 9; there are: 1-3"),
        (lambda plan: plan.update(0, subject="x"), NoSuchTask, "no task 0; there are: 1-3"),
        (lambda plan: TaskList().get(1), NoSuchTask, "there is no task 1; there are none yet"),
        (lambda plan: plan.update(1), NothingAsked, "pending, in_progress, completed, cancelled"),
        (lambda plan: plan.create(" \n"), BadText, "the subject must not be empty"),
        (lambda plan: plan.update(1, subject=""), BadText, "the subject must not be empty"),
        (
            lambda plan: plan.create("x" * (MOST_SUBJECT + 1)),
            BadText,
            "the subject has 201 characters; at most 200",
        ),
        (
            lambda plan: plan.create("x", "y" * (MOST_DESCRIPTION + 1)),
            BadText,
            "the description has 4001 characters; at most 4000",
        ),
        (
            lambda plan: plan.update(1, description="y" * (MOST_DESCRIPTION + 1)),
            BadText,
            "the description has 4001 characters; at most 4000",
        ),
        (
            lambda plan: list_of(*["pending"] * MOST_TASKS).create("one more"),
            ListFull,
            "200 tasks are open, of at most 200; complete or cancel some",
        ),
    ],
)
def test_what_a_list_does_not_allow_is_refused_in_words_that_help(
    change: Callable[[TaskList], object], refusal: type[TaskRefused], said: str
) -> None:
    with pytest.raises(refusal, match=r".") as raised:
        change(list_of("pending", "completed", "cancelled"))
    assert said in str(raised.value)


def test_texts_may_be_as_long_as_the_bounds_say() -> None:
    made = TaskList().create("x" * MOST_SUBJECT, "y" * MOST_DESCRIPTION).tasks[0]
    assert (len(made.subject), len(made.description)) == (MOST_SUBJECT, MOST_DESCRIPTION)


def test_a_subject_is_one_line() -> None:
    assert TaskList().create(" write\n  2. [done]\tit ").tasks[0].subject == "write 2. [done] it"


def test_a_full_list_drops_the_oldest_task_that_is_over_and_uses_its_id_no_more() -> None:
    full = list_of("pending", "completed", "cancelled", *["pending"] * (MOST_TASKS - 3))
    more = full.create("one more")
    assert len(more.tasks) == MOST_TASKS
    assert [task.id for task in more.tasks][:3] == [1, 3, 4]
    last = list_of(*["pending"] * (MOST_TASKS - 1), "completed").create("one more")
    assert last.tasks[-1].id == MOST_TASKS + 1, "the newest was dropped, its id is not used again"


def test_what_is_in_progress_is_the_first_that_is_open() -> None:
    plan = list_of("pending", "completed", "in_progress", "cancelled", "pending")
    assert [task.id for task in plan.open_tasks] == [3, 1, 5]


@pytest.mark.parametrize(
    ("ids", "said"),
    [((), ""), ((4,), "4"), ((3, 1, 2), "1-3"), ((1, 3, 4, 9), "1, 3-4, 9")],
)
def test_ids_are_told_in_ranges(ids: tuple[int, ...], said: str) -> None:
    assert ranges(ids) == said


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.text(max_size=5), st.booleans()),
        st.tuples(
            st.just("update"),
            st.integers(1, MOST_TASKS + 9),
            st.sampled_from(TaskStatus),
        ),
    ),
    max_size=12,
)
STARTS = st.sampled_from([0, 3, MOST_TASKS - 2, MOST_TASKS])


@given(start=STARTS, over=st.booleans(), steps=STEPS)
def test_ids_are_never_used_again_and_only_what_is_over_is_dropped(
    start: int, over: bool, steps: list[tuple[Any, ...]]
) -> None:
    plan = list_of(*["completed" if over else "pending"] * start)
    used = {task.id for task in plan.tasks}
    for step in steps:
        try:
            match step:
                case ("create", subject, _):
                    after = plan.create(subject)
                    new = after.tasks[-1].id
                    assert new not in used
                    used.add(new)
                case (_, task_id, status):
                    after = plan.update(task_id, status=status)
        except TaskRefused:
            continue
        gone = [task for task in plan.tasks if all(one.id != task.id for one in after.tasks)]
        assert all(task.status in OVER for task in gone)
        assert len(after.tasks) <= MOST_TASKS
        assert read(after.payload()) == after
        plan = after


@given(start=STARTS, over=st.booleans(), steps=STEPS)
def test_a_change_that_cannot_be_kept_changes_nothing(
    start: int, over: bool, steps: list[tuple[Any, ...]]
) -> None:
    planner = Planner(list_of(*["completed" if over else "pending"] * start).payload())

    async def main() -> None:
        for step in steps:
            match step:
                case ("create", subject, is_full):
                    name, arguments = "TaskCreate", {"subject": subject}
                case (_, task_id, status):
                    is_full = task_id % 2 == 0
                    name, arguments = "TaskUpdate", {"id": task_id, "status": status}
            planner.log.is_full = is_full
            before = list(planner.log.payloads)
            result = await planner.registry.call(name, arguments, quiet_call())
            if is_full or result.is_error:
                assert planner.log.payloads == before
            if is_full and not result.is_error:
                assert result.summary.endswith("it was so already")

    run(main())
    assert planner.defects == []


# -- what another version, or damage, has left ----------------------------------------------------


def test_fields_of_a_newer_version_are_kept_through_changes() -> None:
    rows = [
        {"id": 1, "subject": "old", "description": "", "status": "pending", "owner": None},
        {"id": 2, "subject": "other", "description": "", "status": "blocked", "after": [1]},
    ]
    planner = Planner({"tasks": rows, "title": "the plan"})
    assert planner.call("TaskUpdate", id=1, status="completed").summary == (
        "task 1 is completed: old; 1 open"
    )
    assert planner.call("TaskCreate", subject="new").summary == "task 3 created: new"
    assert planner.log.kept() == {
        "title": "the plan",
        "tasks": [
            {**rows[0], "status": "completed"},
            rows[1],
            {"id": 3, "subject": "new", "description": "", "status": "pending"},
        ],
    }


def test_a_status_of_a_newer_version_counts_as_open_and_is_shown_as_it_is() -> None:
    plan = list_of("pending", "blocked", "completed")
    assert [task.id for task in plan.open_tasks] == [1, 2]
    shown = Planner(plan.payload()).call("TaskList")
    assert shown.summary == "3 tasks: 1 pending, 1 completed, 1 blocked"
    assert "blocked:\n  2. task 2" in (shown.content or "")


UNREADABLE = [
    ({"tasks": "none"}, "tasks: Input should be a valid tuple"),
    ({"tasks": [{"id": "1", "subject": "x"}]}, "tasks.0.id: Input should be a valid integer"),
    ({"tasks": [{"id": 1}]}, "tasks.0.subject: Field required"),
    ({"tasks": [{"id": 1, "subject": "x", "status": 3}]}, "tasks.0.status"),
    ({"tasks": [{"id": 1, "subject": "x"}] * 2}, "two of its tasks have the same id"),
    ({"tasks": [{"id": 0, "subject": "x"}]}, "tasks.0.id: Input should be greater than or equal"),
    ([1, 2], "the payload: Input should be"),
]


@pytest.mark.parametrize(("payload", "cause"), UNREADABLE)
def test_a_list_that_cannot_be_read_is_said_to_be_so_until_a_new_one_begins(
    payload: Any, cause: str
) -> None:
    with pytest.raises(Unreadable) as raised:
        read(payload)
    assert cause in raised.value.cause
    planner = Planner(payload)
    calls: dict[str, dict[str, Any]] = {
        "TaskList": {},
        "TaskGet": {"id": 1},
        "TaskUpdate": {"id": 1, "status": "completed"},
    }
    for name, arguments in calls.items():
        result = planner.call(name, **arguments)
        assert result.is_error
        assert result.summary.startswith("execution_failed: the tasks kept in the session's log")
        assert cause in result.summary
    assert planner.log.payloads == [payload], "looking changes nothing"
    begun = planner.call("TaskCreate", subject="anew")
    assert not begun.is_error
    assert begun.summary.startswith("task 1 created: anew; a new list, as the one kept cannot be")
    assert planner.call("TaskList").content == "pending:\n  1. anew"


def test_a_list_that_cannot_be_read_brings_no_reminder() -> None:
    planner = Planner({"tasks": "none"})
    assert [planner.tasks.reminder.on_request() for _ in range(60)] == [None] * 60


# -- the tools -----------------------------------------------------------------------------------


def test_a_plan_is_made_worked_on_and_shown() -> None:
    planner = Planner()
    assert planner.call("TaskList") == ToolResult("no tasks")
    assert planner.call("TaskCreate", subject="read") == ToolResult("task 1 created: read")
    planner.call("TaskCreate", subject="write", description="in small steps")
    planner.call("TaskCreate", subject="rest")
    assert planner.call("TaskUpdate", id=2, status="in_progress") == ToolResult(
        "task 2 is in_progress: write; 3 open"
    )
    planner.call("TaskUpdate", id=1, status="completed")
    planner.call("TaskUpdate", id=3, status="cancelled")
    assert planner.call("TaskGet", id=2) == ToolResult(
        "task 2 is in_progress: write", "in small steps"
    )
    assert planner.call("TaskGet", id=1) == ToolResult("task 1 is completed: read")
    assert planner.call("TaskList") == ToolResult(
        "3 tasks: 1 in_progress, 1 completed, 1 cancelled",
        "in_progress:\n  2. write\ncompleted:\n  1. read\ncancelled:\n  3. rest",
    )


def test_each_change_keeps_the_whole_list_once() -> None:
    planner = Planner()
    planner.call("TaskCreate", subject="one")
    planner.call("TaskCreate", subject="two")
    planner.call("TaskUpdate", id=1, status="completed")
    assert [len(read(payload).tasks) for payload in planner.log.payloads] == [1, 2, 2]


def test_what_is_so_already_is_not_kept_again() -> None:
    planner = Planner()
    planner.call("TaskCreate", subject="one")
    same = planner.call("TaskUpdate", id=1, status="pending", subject="one")
    assert same == ToolResult("task 1 is pending: one; it was so already")
    assert len(planner.log.payloads) == 1


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("TaskGet", {"id": 7}, "there is no task 7; there are: 1-2"),
        ("TaskUpdate", {"id": 7, "status": "completed"}, "there is no task 7; there are: 1-2"),
        (
            "TaskUpdate",
            {"id": 1, "status": "done"},
            "'pending', 'in_progress', 'completed' or 'cancelled'",
        ),
        ("TaskUpdate", {"id": 1}, "nothing to change"),
        ("TaskCreate", {"subject": ""}, "the subject must not be empty"),
        ("TaskCreate", {"subject": "\ud800"}, "the subject has half a surrogate pair in it"),
        ("TaskUpdate", {"id": 1, "description": "\udfff"}, "the description has half a"),
        ("TaskCreate", {"title": "x"}, "subject: Field required"),
    ],
)
def test_a_call_that_cannot_be_is_an_error_that_says_what_can(
    name: str, arguments: dict[str, Any], said: str
) -> None:
    planner = Planner(list_of("pending", "completed").payload())
    result = planner.call(name, **arguments)
    assert result.is_error
    assert result.summary.startswith("invalid_argument: ")
    assert said in result.summary
    assert len(planner.log.payloads) == 1


def test_a_change_that_is_not_kept_is_an_error_with_its_cause() -> None:
    planner = Planner()
    planner.log.is_full = True
    result = planner.call("TaskCreate", subject="one")
    assert result.is_error
    assert "nothing is changed: nothing was added to the log: no space" in result.summary
    planner.log.is_full = False
    assert planner.call("TaskCreate", subject="one").summary == "task 1 created: one"


def test_a_task_that_is_dropped_for_room_is_named() -> None:
    planner = Planner(list_of("completed", *["pending"] * (MOST_TASKS - 1)).payload())
    assert planner.call("TaskCreate", subject="more").summary == (
        "task 201 created: more; dropped for want of room, as over: 1"
    )


def test_the_calls_of_one_batch_lose_nothing_of_each_other() -> None:
    planner = Planner(list_of("pending").payload())

    async def main() -> list[ToolResult]:
        ask = planner.registry.call
        done = ask("TaskUpdate", {"id": 1, "status": "completed"}, quiet_call())
        made = (ask("TaskCreate", {"subject": f"s{n}"}, quiet_call()) for n in range(20))
        return await asyncio.gather(*made, done)

    assert not any(result.is_error for result in run(main()))
    assert {task.id for task in planner.plan().tasks} == set(range(1, 22))
    assert {task.subject for task in planner.plan().tasks} >= {f"s{n}" for n in range(20)}
    assert planner.plan().get(1).status == "completed"


def test_a_log_that_was_cut_back_is_a_list_that_was_cut_back() -> None:
    planner = Planner()
    planner.call("TaskCreate", subject="one")
    planner.call("TaskCreate", subject="two")
    del planner.log.payloads[1:]
    assert planner.call("TaskList").content == "pending:\n  1. one"


# -- the reminder --------------------------------------------------------------------------------


def due(reminder: Reminder, requests: int) -> list[int]:
    """Make requests; return before which of them, counted from 1, a reminder came."""
    return [n for n in range(1, requests + 1) if reminder.on_request() is not None]


def test_open_tasks_are_brought_to_mind_after_24_requests_and_again_after_24_more() -> None:
    assert REMIND_AFTER == 24
    assert due(Reminder(lambda: list_of("pending").tasks), 80) == [25, 49, 73]


def test_a_use_begins_the_count_anew() -> None:
    reminder = Reminder(lambda: list_of("pending").tasks)
    assert due(reminder, 24) == []
    reminder.on_use()
    assert due(reminder, 30) == [25]
    reminder.on_use()
    assert due(reminder, 24) == []


@pytest.mark.parametrize(("since", "first"), [(0, 25), (10, 15), (24, 1), (90, 1)])
def test_a_count_may_begin_where_another_ended(since: int, first: int) -> None:
    assert due(Reminder(lambda: list_of("pending").tasks, since=since), 25)[0] == first


def test_without_open_tasks_there_is_no_reminder_until_there_are_some() -> None:
    plan = TaskList()
    reminder = Reminder(lambda: plan.open_tasks)
    assert due(reminder, 100) == []
    plan = list_of("completed", "pending")
    assert due(reminder, 30) == [1, 25]


@pytest.mark.parametrize("name", [*FOUR])
def test_each_tool_is_a_use_also_when_it_is_refused(name: str) -> None:
    planner = Planner(list_of("pending").payload())
    assert due(planner.tasks.reminder, 24) == []
    arguments: dict[str, Any] = {"subject": ""} if name == "TaskCreate" else {"id": 9}
    planner.call(name, **({} if name == "TaskList" else arguments))
    assert due(planner.tasks.reminder, 25) == [25]


def told_by(plan: TaskList) -> SystemItem:
    """Return the reminder of a list."""
    item = Reminder(lambda: plan.open_tasks, since=REMIND_AFTER).on_request()
    assert item is not None
    return item


def test_a_reminder_names_the_open_tasks_and_no_others() -> None:
    item = told_by(list_of("pending", "completed", "in_progress"))
    assert item.kind == "task_reminder"
    lines = item.body.splitlines()
    assert "not used for 24 requests" in lines[0]
    assert lines[1:3] == ["  3. [in_progress] task 3", "  1. [pending] task 1"]
    assert "task 2" not in item.body


def test_a_long_reminder_says_how_many_more_there_are() -> None:
    body = told_by(list_of(*["pending"] * (SHOWN_IN_REMINDER + 5))).body
    assert f"task {SHOWN_IN_REMINDER}\n  and 5 more" in body
    assert f"task {SHOWN_IN_REMINDER + 1}" not in body


# -- in a whole pod ------------------------------------------------------------------------------


class PlanningHome(Home):
    """A pod that has the feature."""

    def birth(self, incarnation: int) -> Birth:
        birth = super().birth(incarnation)
        manifest = birth.manifest.model_copy(update={"feature": Feature(tasks=True)})
        return birth.model_copy(update={"manifest": manifest})


@pytest.fixture
def house(tmp_path: Path) -> Home:
    return PlanningHome(tmp_path)


def create(subject: str) -> list[Move]:
    """Return an answer that creates a task."""
    return [*call(f"make {subject}", "TaskCreate", f'{{"subject":"{subject}"}}'), *end("tool_use")]


def update(task_id: int, status: str) -> list[Move]:
    """Return an answer that changes one."""
    arguments = f'{{"id":{task_id},"status":"{status}"}}'
    return [*call(f"{status} {task_id}", "TaskUpdate", arguments), *end("tool_use")]


def look(number: int = 0) -> list[Move]:
    """Return an answer that shows the list."""
    return [*call(f"look {number}", "TaskList"), *end("tool_use")]


def glob(number: int) -> list[Move]:
    """Return an answer that uses another tool."""
    return [*call(f"g{number}", "Glob", '{"pattern":"*"}'), *end("tool_use")]


def results(life: Life) -> list[dict[str, Any]]:
    """Return what the tools said."""
    return [sent.body for sent in life.told("tool_result")]


def reminders(house: Home) -> list[str]:
    """Return the reminders in the log."""
    items = [entry["item"] for entry in house.entries() if entry["kind"] == "system_item"]
    return [item["body"] for item in items if item["kind"] == "task_reminder"]


def test_a_pod_keeps_its_plan_in_its_log_before_the_tool_answers(house: Home) -> None:
    async def main() -> None:
        model = PlayedModel(create("read"), update(1, "in_progress"), DONE)
        async with alive(house, model=model) as life:
            await life.run()

    drive(main())
    kept = [
        (entry["kind"], entry.get("domain"), entry.get("payload"))
        for entry in house.entries()
        if entry["kind"] in ("extension", "tool_result")
    ]
    rows = {"id": 1, "subject": "read", "description": ""}
    assert kept == [
        ("extension", "tasks", {"tasks": [{**rows, "status": "pending"}]}),
        ("tool_result", None, None),
        ("extension", "tasks", {"tasks": [{**rows, "status": "in_progress"}]}),
        ("tool_result", None, None),
    ]


def test_a_pod_that_comes_back_has_its_plan(house: Home) -> None:
    plan: list[dict[str, Any]] = [
        {"tool_calls": [{"name": "TaskCreate", "arguments": {"subject": "read"}}]},
        {"tool_calls": [{"name": "TaskUpdate", "arguments": {"id": 1, "status": "completed"}}]},
        {"text": "done"},
        {"tool_calls": [{"name": "TaskList"}]},
        {"tool_calls": [{"name": "TaskCreate", "arguments": {"subject": "write"}}]},
        {"text": "done"},
    ]
    house.model = script(*plan)

    async def main() -> list[dict[str, Any]]:
        async with alive(house) as life:
            await life.run()
        async with alive(house, incarnation=2) as life:
            await life.run("again")
            return results(life)

    shown = {one["summary"]: one.get("output") for one in drive(main())}
    assert shown == {
        "1 task: 1 completed": "completed:\n  1. read",
        "task 2 created: write": None,
    }


def test_a_rewind_brings_the_plan_back_as_it_was(house: Home) -> None:
    plays = [create("one"), DONE, create("two"), update(1, "cancelled"), DONE, look(), DONE]

    async def main() -> dict[str, Any]:
        async with alive(house, model=PlayedModel(*plays)) as life:
            await life.run("first")
            await life.run("second")
            assert (await rewind(life, "second")).what == "reply ok"
            await life.run("third")
            return results(life)[-1]

    shown = drive(main())
    assert (shown["summary"], shown["output"]) == ("1 task: 1 pending", "pending:\n  1. one")


def test_a_plan_that_cannot_be_written_is_as_before_and_the_model_hears_of_it(
    house: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, "sessions", b'"kind":"extension"')

    def fill(sent: Sent) -> None:
        disk.is_full = disk.is_full or sent.what == "tool_result"

    async def main() -> list[dict[str, Any]]:
        plays = [create("one"), update(1, "completed"), look(), DONE]
        async with alive(house, model=PlayedModel(*plays)) as life:
            life.net.on_sent = fill
            await life.run()
            return results(life)

    made, refused, shown = drive(main())
    assert not made["is_error"]
    assert refused["is_error"]
    assert "nothing is changed" in refused["summary"]
    assert shown["output"] == "pending:\n  1. one"


def test_a_plan_in_the_log_that_is_none_does_not_keep_a_pod_from_living(house: Home) -> None:
    async def main() -> list[dict[str, Any]]:
        async with alive(house, model=PlayedModel(DONE)) as life:
            await life.run()
            life.pod._record.keep("tasks", {"tasks": "none"})
        async with alive(house, incarnation=2, model=PlayedModel(look(), DONE)) as life:
            assert (await life.run("again")).what == "run_end finished"
            return results(life)

    (shown,) = drive(main())
    assert "the tasks kept in the session's log cannot be read" in shown["summary"]


def test_a_model_that_forgets_its_plan_is_reminded_before_its_25th_request_without_it(
    house: Home,
) -> None:
    model = PlayedModel(create("read"), *map(glob, range(24)), DONE)

    async def main() -> None:
        async with alive(house, model=model) as life:
            await life.run()
            (told,) = [one.body["item"] for one in life.told("system_item")]
            assert told["kind"] == "task_reminder"

    drive(main())
    (body,) = reminders(house)
    assert "1. [pending] read" in body
    reminder = Message(role="system", content=body)
    seen = [reminder in request.items for request in model.requests]
    assert seen == [False] * 25 + [True]
    assert model.requests[-1].items[-1] == reminder


def test_a_model_that_uses_its_plan_or_has_none_open_is_not_reminded(house: Home) -> None:
    plays = [create("read"), *map(glob, range(23)), look(), *map(glob, range(23, 46))]
    plays += [update(1, "completed"), *map(glob, range(46, 72)), DONE]

    async def main() -> None:
        async with alive(house, model=PlayedModel(*plays)) as life:
            await life.run()

    drive(main())
    assert reminders(house) == []


def test_a_pod_without_the_feature_has_no_task_tools_and_no_reminder(tmp_path: Path) -> None:
    house = Home(tmp_path)
    model = PlayedModel(create("read"), *map(glob, range(30)), DONE)

    async def main() -> None:
        async with alive(house, model=model) as life:
            assert set(life.pod.snapshot().greeting.tools).isdisjoint(FOUR)
            await life.run()
            assert "no tool is named 'TaskCreate'" in results(life)[0]["summary"]

    drive(main())
    assert {tool.name for tool in model.requests[0].tools}.isdisjoint(FOUR)
    assert reminders(house) == []
    assert "extension" not in house.kinds()


def test_a_pod_with_the_feature_has_all_four(house: Home) -> None:
    async def main() -> tuple[str, ...]:
        async with alive(house) as life:
            return life.pod.snapshot().greeting.tools

    assert set(drive(main())) >= set(FOUR)


def test_what_waits_for_the_model_comes_before_a_reminder(house: Home) -> None:
    model = PlayedModel(create("read"), *map(glob, range(24)), text("x") + end())

    async def main() -> None:
        async with alive(house, model=model) as life:
            results_seen = 0

            def post(sent: Sent) -> None:
                nonlocal results_seen
                results_seen += sent.what == "tool_result"
                if results_seen == 24 and sent.what == "tool_result":
                    life.post(m.Notify(message="news", auto_run=False))

            life.net.on_sent = post
            await life.run()

    drive(main())
    kinds = [entry["item"]["kind"] for entry in house.entries() if entry["kind"] == "system_item"]
    assert kinds == ["notification", "task_reminder"]
