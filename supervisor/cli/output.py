"""How results and errors are shown, and the one door to the terminal.

Results on stdout in the form asked for, everything else on stderr.

Only this module of the command line writes to the two streams. Names, errors and tables come from
outside: they are made harmless whatever the stream is, and none of them can begin a line or a cell
of its own. A text that is itself the result (what a model answered, what a process printed) is
harmless on a terminal, and in a file or a pipe it is what was said. JSON says in escapes what no
terminal should be given. What Python prints by itself (a warning, an exception in a thread) is made
harmless too, since `take_streams` stands before stderr.

A stream that was closed takes everything and shows nothing. A stdout that takes no more (a full
disk, a full pipe that does not wait) is an error like any other, told on stderr; where stderr takes
no more, nothing is told. A reader who has gone is no error.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TextIO, cast

from protocol.errors import Internal, PodsupError
from protocol.printable import json_printable, on_one_line, printable

if TYPE_CHECKING:
    from supervisor.drawing import Line

OUTPUTS = ("table", "json", "jsonl", "name")
SCHEMA = 1

_COLOURS = {
    "idle": "32",
    "running": "36",
    "paused": "33",
    "starting": "34",
    "stopping": "34",
    "unreachable": "31",
    "backoff": "33",
    "failed": "31",
}


_STYLES = {"user": "1", "dim": "90", "tool": "36", "warn": "33", "error": "31", "note": "90"}


class StatusWord(str):
    """A word of `Output.lines` that is painted in the colour of that status."""


class _Shown(io.TextIOBase):
    """Stands before a stream: what anybody prints drives no terminal. It takes every character."""

    encoding = "utf-8"

    def __init__(self, below: TextIO) -> None:
        self._below = below

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._below.isatty()

    def fileno(self) -> int:
        return self._below.fileno()

    def write(self, text: str) -> int:
        _put(printable(text), self._below)
        return len(text)


def take_streams() -> None:
    """Put something where a stream is closed, and what makes text harmless before stderr.

    Without it a file that is opened later could get the number of the closed one.
    """
    sys.stdin = sys.stdin or _nowhere("r")
    sys.stdout = _buffered(sys.stdout or _nowhere("w"))
    sys.stderr = cast(TextIO, _Shown(sys.stderr or _nowhere("w")))


def _buffered(stream: TextIO) -> TextIO:
    """Return the stream with a buffer: without one, what a full pipe leaves out is lost silently.

    It has none where PYTHONUNBUFFERED is set. `_put` flushes anyway.
    """
    if not isinstance(stream.buffer, io.RawIOBase):
        return stream
    fd, errors = stream.fileno(), stream.errors
    return open(fd, "w", encoding=stream.encoding, errors=errors, closefd=False)


def _nowhere(mode: Literal["r", "w"]) -> TextIO:
    return open(os.devnull, mode)


def flush_results() -> None:
    """Have everything printed; raises Internal where stdout takes no more."""
    _put("", sys.stdout)


def give_up_streams() -> None:
    """Nobody reads any more: what is left to print goes nowhere, and quietly."""
    for stream in (sys.stdout, sys.stderr):
        _turn_away(stream)


def note(text: str) -> None:
    """Say something that is no result, on one line."""
    _put(f"{on_one_line(text)}\n", sys.stderr)


def report_crash(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print the traceback of a fault of podsup; what it quotes may come from outside."""
    import traceback

    _put(printable("".join(traceback.format_exception(kind, error, trace))), sys.stderr)


def put_drawn(lines: Iterable[Line]) -> None:
    """Print drawn lines, each in its style where a terminal shows colours."""
    shown = ((printable(line.text).replace("\n", "␊"), line.style) for line in lines)
    _put("".join(f"{_painted(text, _STYLES.get(style))}\n" for text, style in shown), sys.stdout)


def put_result(text: str) -> None:
    """Print a piece of a text that is the result: as it is, unless a terminal would obey it."""
    _put(printable(text) if sys.stdout.isatty() else text, sys.stdout)


def put_stored(data: Iterable[bytes]) -> None:
    """Print what is stored, byte for byte, unless a terminal would obey it."""
    if sys.stdout.isatty():
        for piece in data:
            _put(printable(json_printable(piece.decode("utf-8", "replace"))), sys.stdout)
        return
    from supervisor.durable import write_all

    flush_results()
    for piece in data:
        with _taken_by(sys.stdout):
            write_all(sys.stdout.fileno(), piece)


def is_terminal() -> bool:
    """Whether results go to a terminal."""
    return sys.stdout.isatty()


def terminal_width() -> int:
    """Return how many columns a line may have; 80 where no terminal says."""
    from shutil import get_terminal_size

    return get_terminal_size((80, 24)).columns


def _put(text: str, stream: TextIO) -> None:
    """Write to a stream: the only place that does."""
    encoding = stream.encoding or "utf-8"
    with _taken_by(stream):
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()


@contextmanager
def _taken_by(stream: TextIO) -> Iterator[None]:
    """Raise Internal for what stdout does not take; what stderr does not take is lost."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        _turn_away(stream)
        if stream is sys.stdout:
            why = error.strerror or str(error)
            raise Internal(
                f"stdout takes no more: {why}", next_step="the output so far is not whole"
            ) from error


def _turn_away(stream: TextIO) -> None:
    """Let a stream lead nowhere: else what its buffer holds fails again when the process ends."""
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def _painted(text: str, code: str | None) -> str:
    if code is None or os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        return text
    return f"\x1b[{code}m{text}\x1b[0m"


class Output:
    """Results in one form."""

    def __init__(self, form: str) -> None:
        self.form = form

    @property
    def is_json(self) -> bool:
        """Whether one JSON document is wanted."""
        return self.form == "json"

    def document(self, data: Mapping[str, Any]) -> None:
        """Print one JSON document with the schema's number first."""
        self.line({"schema": SCHEMA, **data})

    def line(self, data: Mapping[str, Any]) -> None:
        """Print one JSON line of many."""
        import json

        _put(f"{json_printable(json.dumps(data, ensure_ascii=False))}\n", sys.stdout)

    def rows(
        self,
        data: Mapping[str, Any],
        key: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[str]],
    ) -> None:
        """Print a list in the form asked for; `data[key]` holds the objects behind the rows."""
        match self.form:
            case "json":
                self.document(data)
            case "jsonl":
                for item in data[key]:
                    self.line(item)
            case "name":
                self.put_lines(item.get("name") or item.get("pod") or "" for item in data[key])
            case _:
                self.table(columns, rows)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print columns as wide as they need to be."""
        lines = [list(columns), *([on_one_line(str(cell)) for cell in row] for row in rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
        text = ""
        for number, line in enumerate(lines):
            cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
            if number:
                cells = [_status_painted(cell) for cell in cells]
            text += f"{'  '.join(cells).rstrip()}\n"
        _put(text, sys.stdout)

    def lines(self, data: Mapping[str, Any], lines: Iterable[str | Sequence[str]]) -> None:
        """Print lines, or the document behind them; a line may come in pieces."""
        if self.form in ("json", "jsonl"):
            self.document(data)
        else:
            self.put_lines(lines)

    def put_lines(self, lines: Iterable[str | Sequence[str]]) -> None:
        """Print lines whatever the form is; a piece that is a status is painted."""
        in_pieces = ((line,) if isinstance(line, str) else line for line in lines)
        _put("".join(f"{''.join(map(_piece, pieces))}\n" for pieces in in_pieces), sys.stdout)

    def text(self, data: Mapping[str, Any], text: str) -> None:
        """Print a text that is the result, or the document behind it."""
        if self.form in ("json", "jsonl"):
            self.document(data)
        elif text:
            put_result(f"{text}\n")

    def error(self, error: PodsupError) -> None:
        """Print an error: cause, evidence, next step; each mistake of a file on its own line."""
        mistakes = [str(one["text"]) for one in error.details.get("mistakes", ())]
        first, *others = mistakes or [error.message]
        note(f"podsup: {first}")
        for text in others:
            note(text)
        for holder in error.details.get("holders", ()):
            note(f"  held by {_holder(holder)}")
        if error.next_step:
            note(f"  next: {error.next_step}")
        if self.form in ("json", "jsonl"):
            self.document(
                {
                    "error": {
                        "code": error.code,
                        "message": error.message,
                        "details": error.details,
                        "next": error.next_step,
                    }
                }
            )


def _status_painted(cell: str) -> str:
    word = cell.strip()
    return cell.replace(word, _painted(word, _COLOURS.get(word)), 1)


def _piece(piece: str) -> str:
    shown = on_one_line(piece)
    return _painted(shown, _COLOURS.get(shown)) if isinstance(piece, StatusWord) else shown


def _holder(holder: Mapping[str, Any]) -> str:
    rule = holder.get("holder_rule") or {}
    target = rule.get("target") if isinstance(rule, Mapping) else rule
    return f"{holder.get('pod')} (pid {holder.get('pid')}): {target}"


def ago(seconds: float | None) -> str:
    """Return a duration in words of one or two letters."""
    if seconds is None:
        return "-"
    whole = int(seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if whole >= size:
            return f"{whole // size}{unit}"
    return f"{whole}s"
