"""The tools of the session's plan, and the reminder of a plan that nobody looks at.

There is no list here: each call reads the newest one from the log and keeps the changed one there,
so a rewind, a rollback or a restart changes the list by itself. The calls of one batch run at the
same time; between reading and keeping nothing is awaited, so that none is lost.

    what is in the log                  look, change            create
    nothing yet                         an empty list           task 1
    a list                              that list               the next id
    something that is no list           an error that says so   a new list, and it says so

A change that cannot be written did not happen: the call is an error and the list is as before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from podproc.engine.history import OPEN_TASKS
from podproc.tools.base import Call, Tool, ToolArgs, ToolFailure, ToolResult
from podproc.tools.task_list import (
    MOST_DESCRIPTION,
    MOST_SUBJECT,
    Task,
    TaskList,
    TaskRefused,
    TaskStatus,
    Unreadable,
    ranges,
    read,
)
from protocol.entries import SystemItem
from protocol.errors import PodsupError

REMIND_AFTER = 24
"""Requests without a use of a task tool after which open tasks are brought to mind."""

SHOWN_IN_REMINDER = 20

_SUBJECT = f"what is to be done, in one line of at most {MOST_SUBJECT} characters"
_DESCRIPTION = f"what it takes, and when it is done; at most {MOST_DESCRIPTION} characters"
_ORDER = (
    TaskStatus.IN_PROGRESS,
    TaskStatus.PENDING,
    TaskStatus.COMPLETED,
    TaskStatus.CANCELLED,
)


class Reminder:
    """Says when open tasks were forgotten for 24 requests; again after 24 more.

    `open_tasks` is asked only when one is due; without any it stays due. `since` is how many
    requests have passed without a use. The count is the process's own: a restart begins it anew,
    and a reminder that is taken back with its run is not made up for.
    """

    def __init__(self, open_tasks: Callable[[], Sequence[Task]], *, since: int = 0) -> None:
        self._open_tasks = open_tasks
        self._since = since

    def on_use(self) -> None:
        """Note that a task tool was called."""
        self._since = 0

    def on_request(self) -> SystemItem | None:
        """Count a request that is about to be made; return what the model is to be told first."""
        if self._since < REMIND_AFTER:
            self._since += 1
            return None
        if not (tasks := self._open_tasks()):
            return None
        self._since = 1
        return SystemItem(kind="task_reminder", body=_reminder(tasks))


class Tasks:
    """The list as the log has it, and the one way to change it.

    `kept` returns the newest payload; `keep` appends one, and raises PodsupError where the log
    cannot be written.
    """

    def __init__(
        self,
        keep: Callable[[dict[str, Any]], None],
        kept: Callable[[], Mapping[str, Any] | None],
    ) -> None:
        self._keep = keep
        self._kept = kept
        self.reminder = Reminder(self._open_tasks)

    def look(self) -> TaskList:
        """Return the list for a call; raises ToolFailure for one that cannot be read."""
        self.reminder.on_use()
        try:
            return read(self._kept())
        except Unreadable as problem:
            raise ToolFailure(
                "execution_failed",
                f"the tasks kept in the session's log cannot be read: {problem.cause}. "
                "TaskCreate begins a new list",
            ) from problem

    def look_or_begin(self) -> tuple[TaskList, str]:
        """Return the list for a new task, and a warning where one begins for want of another."""
        self.reminder.on_use()
        try:
            return read(self._kept()), ""
        except Unreadable as problem:
            return TaskList(), f"; a new list, as the one kept cannot be read: {problem.cause}"

    def keep(self, changed: TaskList) -> None:
        """Put a changed list in the log; raises ToolFailure, and then nothing has changed."""
        try:
            self._keep(changed.payload())
        except PodsupError as error:
            raise ToolFailure(
                "execution_failed", f"the change could not be kept, nothing is changed: {error}"
            ) from error

    def open_text(self) -> str | None:
        """Return the open tasks as text, for a history that begins anew; None without any."""
        tasks = self._open_tasks()
        return "\n".join([OPEN_TASKS, *_lines(tasks)]) if tasks else None

    def _open_tasks(self) -> tuple[Task, ...]:
        try:
            return read(self._kept()).open_tasks
        except Unreadable:
            return ()


class TaskCreateArgs(ToolArgs):
    """Arguments of TaskCreate."""

    subject: str = Field(description=_SUBJECT)
    description: str = Field("", description=_DESCRIPTION)


class TaskCreate:
    """Adds a task."""

    name: ClassVar[str] = "TaskCreate"
    description: ClassVar[str] = (
        "Add a task to your plan of this session. For work of several steps: one task for each "
        "step, before you begin; not for what one or two calls do. You have the plan still when "
        "earlier messages are gone."
    )
    Args: ClassVar[type[TaskCreateArgs]] = TaskCreateArgs

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    async def run(self, args: TaskCreateArgs, call: Call) -> ToolResult:
        """Return the id of the new task; raises ToolFailure."""
        before, warning = self._tasks.look_or_begin()
        try:
            after = before.create(args.subject, args.description)
        except TaskRefused as refusal:
            raise _failure(refusal) from refusal
        self._tasks.keep(after)
        new = after.tasks[-1]
        gone = {task.id for task in before.tasks} - {task.id for task in after.tasks}
        dropped = f"; dropped for want of room, as over: {ranges(gone)}" if gone else ""
        return ToolResult(f"task {new.id} created: {new.subject}{dropped}{warning}")


class TaskUpdateArgs(ToolArgs):
    """Arguments of TaskUpdate; what is left out stays as it is."""

    id: int
    status: TaskStatus | None = None
    subject: str | None = Field(None, description=_SUBJECT)
    description: str | None = Field(None, description=_DESCRIPTION)


class TaskUpdate:
    """Changes a task."""

    name: ClassVar[str] = "TaskUpdate"
    description: ClassVar[str] = (
        "Change a task of your plan. Set it in_progress when you begin it, completed as soon as "
        "it is done and not before, cancelled when it is not needed any more."
    )
    Args: ClassVar[type[TaskUpdateArgs]] = TaskUpdateArgs

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    async def run(self, args: TaskUpdateArgs, call: Call) -> ToolResult:
        """Return how the task stands now, and how many are open; raises ToolFailure."""
        before = self._tasks.look()
        try:
            after = before.update(
                args.id,
                subject=args.subject,
                description=args.description,
                status=args.status,
            )
        except TaskRefused as refusal:
            raise _failure(refusal) from refusal
        if after == before:
            return ToolResult(f"{_line(after.get(args.id))}; it was so already")
        self._tasks.keep(after)
        return ToolResult(f"{_line(after.get(args.id))}; {len(after.open_tasks)} open")


class TaskGetArgs(ToolArgs):
    """Arguments of TaskGet."""

    id: int


class TaskGet:
    """Shows a task."""

    name: ClassVar[str] = "TaskGet"
    description: ClassVar[str] = "Show one task of your plan with its description."
    Args: ClassVar[type[TaskGetArgs]] = TaskGetArgs

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    async def run(self, args: TaskGetArgs, call: Call) -> ToolResult:
        """Return status and subject, and the description as content; raises ToolFailure."""
        try:
            task = self._tasks.look().get(args.id)
        except TaskRefused as refusal:
            raise _failure(refusal) from refusal
        return ToolResult(_line(task), task.description or None)


class TaskListArgs(ToolArgs):
    """No arguments."""


class TaskListing:
    """Shows all tasks; the model knows it as TaskList, which here is the value."""

    name: ClassVar[str] = "TaskList"
    description: ClassVar[str] = (
        "Show your plan: all tasks by status. Look at it before you begin the next one, and when "
        "you are not sure what is left."
    )
    Args: ClassVar[type[TaskListArgs]] = TaskListArgs

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    async def run(self, args: TaskListArgs, call: Call) -> ToolResult:
        """Return how many there are of each status, and a line for each; raises ToolFailure."""
        found = self._tasks.look().tasks
        if not found:
            return ToolResult("no tasks")
        groups = _by_status(found)
        counts = ", ".join(f"{len(tasks)} {status}" for status, tasks in groups.items())
        lines = [
            line
            for status, tasks in groups.items()
            for line in (f"{status}:", *(f"  {task.id}. {task.subject}" for task in tasks))
        ]
        number = "1 task" if len(found) == 1 else f"{len(found)} tasks"
        return ToolResult(f"{number}: {counts}", "\n".join(lines))


def task_tools(tasks: Tasks) -> tuple[Tool, ...]:
    """Return the tools of the feature `tasks`."""
    return (TaskCreate(tasks), TaskUpdate(tasks), TaskGet(tasks), TaskListing(tasks))


def _failure(refusal: TaskRefused) -> ToolFailure:
    return ToolFailure("invalid_argument", str(refusal))


def _line(task: Task) -> str:
    return f"task {task.id} is {task.status}: {task.subject}"


def _by_status(tasks: Sequence[Task]) -> dict[str, list[Task]]:
    """Return the tasks in groups, what is at work first; words of a newer writer come last."""
    found: dict[str, list[Task]] = {status.value: [] for status in _ORDER}
    for task in tasks:
        found.setdefault(task.status, []).append(task)
    return {status: group for status, group in found.items() if group}


def _lines(tasks: Sequence[Task]) -> list[str]:
    lines = [f"  {task.id}. [{task.status}] {task.subject}" for task in tasks[:SHOWN_IN_REMINDER]]
    if more := len(tasks) - len(lines):
        lines.append(f"  and {more} more: TaskList shows them")
    return lines


def _reminder(tasks: Sequence[Task]) -> str:
    return "\n".join(
        [
            f"Reminder: the task tools were not used for {REMIND_AFTER} requests. Open tasks:",
            *_lines(tasks),
            "If they do not say how the work stands, update them; if they do, just go on. "
            "There is no need to mention this reminder.",
        ]
    )
