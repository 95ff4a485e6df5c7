"""What was typed into an attached pod's line: a command, or the input segments of a run. Pure.

A paste of several lines stands in the line as `[paste #1: 100 lines]`, which may be moved and
deleted like a word; what is submitted has the pasted text in its place, as one segment. The rest
of the line is read as `supervisor.references` reads it, and an input that comes back into the line
(refused, rolled back, rewound) is written so that it is read as the same again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from protocol.segments import Paste, Segment, Text, WorkflowInvoke
from supervisor.references import as_typed, parse_text

_MARK = re.compile(r"\[paste #(\d+): \d+ lines\]")
_COMMAND = re.compile(r"/([a-z]+)(?:\s+(\d+))?")


class Command(StrEnum):
    """A line that is no input of a run, but an order."""

    RESUME = "resume"
    PAUSE = "pause"
    CANCEL = "cancel"
    COMPACT = "compact"
    REWIND = "rewind"
    THINKING = "thinking"
    DETACH = "detach"
    HELP = "help"


@dataclass(frozen=True, slots=True)
class Order:
    """A command as it was given; `number` is what `/rewind` is told to go back to."""

    command: Command
    number: int | None = None


def order_of(line: str) -> Order | None:
    """Return the order that the line is; None for input, and for what is no command.

    A command is a slash with its word alone; `/rewind` may have a number after it.
    """
    found = _COMMAND.fullmatch(line.strip())
    if found is None or found[1] not in _COMMANDS:
        return None
    command = Command(found[1])
    if found[2] is None:
        return Order(command)
    return Order(command, int(found[2])) if command is Command.REWIND else None


def commands_from(prefix: str) -> list[str]:
    """Return the commands that begin so, in the order of their help."""
    return [command.value for command in Command if command.value.startswith(prefix)]


def workflow_of(segments: Iterable[Segment]) -> str | None:
    """Return the workflow that an input invokes."""
    return next((one.slug for one in segments if isinstance(one, WorkflowInvoke)), None)


_COMMANDS = frozenset(command.value for command in Command)


class Pastes:
    """The pasted texts of one attachment, by their numbers."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}

    def fold(self, pasted: str) -> str:
        """Return what goes into the line: a single line as it is, several as a mark."""
        text = pasted.replace("\r\n", "\n").replace("\r", "\n")
        if "\n" not in text.strip("\n"):
            return text.strip("\n")
        return self._mark(text)

    def segments(self, line: str) -> tuple[Segment, ...]:
        """Return the input segments of a line; none for an empty one."""
        segments: list[Segment] = []
        at = 0
        for mark in _MARK.finditer(line):
            number = int(mark[1])
            if number in self._texts:
                segments += parse_text(line[at : mark.start()], is_start=not at)
                segments.append(self._paste(number))
                at = mark.end()
        return (*segments, *parse_text(line[at:], is_start=not at)) if line.strip() else ()

    def line_of(self, segments: Iterable[Segment]) -> str:
        """Return the line that these segments were, or could have been, typed as."""
        line = ""
        plain: list[Segment] = []
        for segment in segments:
            match segment:
                case Paste(content=content):
                    line += self._typed(line, plain) + self._mark(content)
                    plain = []
                case Text(content=content) if "\n" in content:
                    line += self._typed(line, plain) + self._mark(content)
                    plain = []
                case _:
                    plain.append(segment)
        return line + self._typed(line, plain)

    def _typed(self, line: str, plain: Iterable[Segment]) -> str:
        return as_typed(plain, is_start=not line)

    def _mark(self, text: str) -> str:
        number = len(self._texts) + 1
        self._texts[number] = text
        return f"[paste #{number}: {_lines(text)} lines]"

    def _paste(self, number: int) -> Paste:
        text = self._texts[number]
        return Paste(id=number, chars=len(text), lines=_lines(text), content=text)


def _lines(text: str) -> int:
    return text.removesuffix("\n").count("\n") + 1
