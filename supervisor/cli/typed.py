"""What was typed into an attached pod's line: a command, or the input segments of a run. Pure.

A paste of several lines stands in the line as `[paste #1: 100 lines]`, which may be moved and
deleted like a word; what is submitted has the pasted text in its place, as one segment.
"""

from __future__ import annotations

import re
from enum import StrEnum

from protocol.segments import Paste, Segment, Text
from supervisor.cli.run import parse_input

_MARK = re.compile(r"\[paste #(\d+): \d+ lines\]")
_COMMAND = re.compile(r"/([a-z]+)")


class Command(StrEnum):
    """A line that is no input of a run, but an order."""

    RESUME = "resume"
    PAUSE = "pause"
    CANCEL = "cancel"
    DETACH = "detach"
    HELP = "help"


def command_of(line: str) -> Command | str | None:
    """Return the command that the line is, or its word where there is no such command.

    None for input: only a slash with one word alone is a command, `/etc/hosts is wrong` is not.
    """
    found = _COMMAND.fullmatch(line.strip())
    if found is None:
        return None
    return Command(found[1]) if found[1] in _COMMANDS else found[1]


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
        number = len(self._texts) + 1
        self._texts[number] = text
        return f"[paste #{number}: {_lines(text)} lines]"

    def segments(self, line: str) -> tuple[Segment, ...]:
        """Return the input segments of a line; raises click.UsageError for an empty one."""
        segments: list[Segment] = []
        at = 0
        for mark in _MARK.finditer(line):
            number = int(mark[1])
            if number in self._texts:
                segments += _typed(line[at : mark.start()])
                segments.append(self._paste(number))
                at = mark.end()
        if not segments:
            return parse_input(line)
        return (*segments, *_typed(line[at:]))

    def _paste(self, number: int) -> Paste:
        text = self._texts[number]
        return Paste(id=number, chars=len(text), lines=_lines(text), content=text)


def _typed(text: str) -> tuple[Segment, ...]:
    if text.strip():
        return parse_input(text)
    return (Text(content=text),) if text else ()


def _lines(text: str) -> int:
    return text.removesuffix("\n").count("\n") + 1
