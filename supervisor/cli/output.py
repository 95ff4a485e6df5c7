"""How results and errors are shown.

Results on stdout in the form asked for, everything else on stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from protocol.errors import PodsupError

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


def note(text: str) -> None:
    """Say something that is no result."""
    print(text, file=sys.stderr, flush=True)


def colour(word: str) -> str:
    """Return a status word in its colour, where a terminal shows colours."""
    code = _COLOURS.get(word)
    if code is None or os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        return word
    return f"\x1b[{code}m{word}\x1b[0m"


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
        import json

        print(json.dumps({"schema": SCHEMA, **data}, ensure_ascii=False), flush=True)

    def line(self, data: Mapping[str, Any]) -> None:
        """Print one JSON line of many."""
        import json

        print(json.dumps(data, ensure_ascii=False), flush=True)

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
                for item in data[key]:
                    print(item.get("name") or item.get("pod") or "")
            case _:
                self.table(columns, rows)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print columns as wide as they need to be."""
        lines = [list(columns), *([str(cell) for cell in row] for row in rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
        for number, line in enumerate(lines):
            cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
            if number:
                cells = [cell.replace(cell.strip(), colour(cell.strip()), 1) for cell in cells]
            print("  ".join(cells).rstrip())

    def text(self, data: Mapping[str, Any], text: str) -> None:
        """Print text, or the document behind it."""
        if self.form in ("json", "jsonl"):
            self.document(data)
        elif text:
            print(text, flush=True)

    def error(self, error: PodsupError) -> None:
        """Print an error: cause, evidence, next step."""
        note(f"podsup: {error.message}")
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
