"""A session's plan as a value: its tasks, the changes it allows, and how it stands in the log.

    payload of the newest extension ── read ──> TaskList ── create, update ──> TaskList ── payload

The log holds the whole list each time, so the newest payload is the list, and a log that is cut
back is a list that is cut back. Whoever wrote the payload may be of another version: fields that
this one does not know are kept, and a status it does not know counts as open, since nothing says
that the task is over. What cannot be read at all is `Unreadable`; a list is never half read.

A full list drops the oldest task that is over to make room for a new one. Ids name one task for
good all the same: each is one above the highest, and what is dropped makes room for a higher one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, Strict, ValidationError

from protocol.base import OpenWire

DOMAIN = "tasks"
"""The domain of the log's extension entries that hold the list."""

MOST_SUBJECT = 200
MOST_DESCRIPTION = 4000
MOST_TASKS = 200


class TaskStatus(StrEnum):
    """Where the work on a task stands."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


OVER = frozenset({TaskStatus.COMPLETED, TaskStatus.CANCELLED})


class TaskRefused(Exception):
    """What a caller asked of a list and cannot have; in words that a model can act on."""


class NoSuchTask(TaskRefused):
    """The list has no task with this id."""

    def __init__(self, task_id: int, known: Iterable[int]) -> None:
        self.task_id = task_id
        self.known = tuple(known)
        there = f"there are: {ranges(self.known)}" if self.known else "there are none yet"
        super().__init__(f"there is no task {task_id}; {there}")


class BadText(TaskRefused):
    """A subject or a description that cannot be kept."""

    def __init__(self, field: str, problem: str) -> None:
        self.field, self.problem = field, problem
        super().__init__(f"the {field} {problem}")


class NothingAsked(TaskRefused):
    """An update that says nothing to change."""

    def __init__(self) -> None:
        statuses = ", ".join(TaskStatus)
        super().__init__(
            f"nothing to change: give a subject, a description or a status ({statuses})"
        )


class ListFull(TaskRefused):
    """No room for one more, and too few tasks are over to make room."""

    def __init__(self, open_tasks: int) -> None:
        self.open_tasks = open_tasks
        super().__init__(
            f"there is no room: {open_tasks} tasks are open, of at most {MOST_TASKS}; "
            "complete or cancel some, or make one of several"
        )


class Unreadable(Exception):
    """A payload that is no list of tasks; `cause` says why."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class Task(OpenWire):
    """One task. `status` is a `TaskStatus`, or a word of a newer writer."""

    id: Annotated[int, Strict(), Field(ge=1)]
    subject: str
    description: str = ""
    status: str = TaskStatus.PENDING.value

    @property
    def is_open(self) -> bool:
        """Whether nothing says that it is over."""
        return self.status not in OVER


class TaskList(OpenWire):
    """All tasks, in the order of their making; each change returns a new list."""

    tasks: tuple[Task, ...] = ()

    @property
    def open_tasks(self) -> tuple[Task, ...]:
        """The tasks that are not over, those in progress first."""
        at_work = TaskStatus.IN_PROGRESS
        return tuple(
            sorted((t for t in self.tasks if t.is_open), key=lambda t: t.status != at_work)
        )

    def get(self, task_id: int) -> Task:
        """Return a task; raises NoSuchTask."""
        for task in self.tasks:
            if task.id == task_id:
                return task
        raise NoSuchTask(task_id, (task.id for task in self.tasks))

    def create(self, subject: str, description: str = "") -> TaskList:
        """Return the list with one task more, its last; raises BadText and ListFull.

        Where there is no room, tasks that are over leave, the oldest first.
        """
        subject = _subject(subject)
        _check("description", description, MOST_DESCRIPTION)
        surplus = len(self.tasks) + 1 - MOST_TASKS
        leaving = {task.id for task in [t for t in self.tasks if not t.is_open][: max(surplus, 0)]}
        if len(leaving) < surplus:
            raise ListFull(len(self.open_tasks))
        highest = max((task.id for task in self.tasks), default=0)
        new = Task(id=highest + 1, subject=subject, description=description)
        kept = tuple(task for task in self.tasks if task.id not in leaving)
        return self.model_copy(update={"tasks": (*kept, new)})

    def update(
        self,
        task_id: int,
        *,
        subject: str | None = None,
        description: str | None = None,
        status: TaskStatus | None = None,
    ) -> TaskList:
        """Return the list with a task changed, equal to this one where nothing differs.

        Any status may follow any other. Raises NoSuchTask, BadText and NothingAsked.
        """
        changes: dict[str, str] = {}
        old = self.get(task_id)
        if subject is not None:
            changes["subject"] = _subject(subject)
        if description is not None:
            _check("description", description, MOST_DESCRIPTION)
            changes["description"] = description
        if status is not None:
            changes["status"] = status.value
        if not changes:
            raise NothingAsked
        new = old.model_copy(update=changes)
        tasks = tuple(new if task.id == task_id else task for task in self.tasks)
        return self.model_copy(update={"tasks": tasks})

    def payload(self) -> dict[str, Any]:
        """Return the plain data that the log keeps; `read` makes the same list of it."""
        return {**dict(self), "tasks": [dict(task) for task in self.tasks]}


def read(payload: Mapping[str, Any] | None) -> TaskList:
    """Return the list that a payload holds, an empty one for None; raises Unreadable."""
    try:
        found = TaskList.from_wire({} if payload is None else payload)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the payload"
        raise Unreadable(f"{where}: {first['msg']}") from error
    if len({task.id for task in found.tasks}) < len(found.tasks):
        raise Unreadable("two of its tasks have the same id")
    return found


def ranges(ids: Iterable[int]) -> str:
    """Return ids in words, neighbours joined: `1-3, 7`."""
    runs: list[tuple[int, int]] = []
    for one in sorted(ids):
        if runs and one == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], one)
        else:
            runs.append((one, one))
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _subject(text: str) -> str:
    """Return a subject in one line: a list shows it so, and no line can pass for another task."""
    line = " ".join(text.split())
    if not line:
        raise BadText("subject", "must not be empty")
    _check("subject", line, MOST_SUBJECT)
    return line


def _check(field: str, text: str, most: int) -> None:
    if len(text) > most:
        raise BadText(field, f"has {len(text)} characters; at most {most}")
    if any("\ud800" <= sign <= "\udfff" for sign in text):  # JSON may say it, a log cannot
        raise BadText(field, "has half a surrogate pair in it, which is no character")
