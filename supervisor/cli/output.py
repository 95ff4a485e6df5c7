"""How results and errors are shown, and the one door to the terminal.

Results on stdout in the form asked for, everything else on stderr.

Only this module of the command line writes to the two streams. Names, errors and tables come from
outside: they are made harmless whatever the stream is, and none of them can begin a line or a cell
of its own. A text that is itself the result (what a model answered, what a process printed) is
harmless on a terminal, and in a file or a pipe it is what was said. JSON says in escapes what no
terminal should be given.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from protocol.errors import PodsupError
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

    sys.stdout.flush()
    for piece in data:
        write_all(sys.stdout.fileno(), piece)


def is_terminal() -> bool:
    """Whether results go to a terminal."""
    return sys.stdout.isatty()


def _put(text: str, stream: TextIO | None) -> None:
    """Write to a stream, where it was not closed for us: the only place that does."""
    if stream is None:
        return
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


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
