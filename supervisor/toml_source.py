"""A configuration file as text and data at once, so that a mistake in the data can name its line.

`tomllib` gives values without positions. This module finds them again by one small scan of a text
that `tomllib` has already accepted, so the scan may be simple: it never judges, it only counts
lines. It knows statements (a table header, or `key = value` up to the newline at which all brackets
are closed), and records the line on which each of them begins under the path that leads to its
value, `("pod", 0, "scope")`. Keys inside an inline table are on the line of the key that holds the
table. A JSON file has no lines.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

from protocol.operator_file import read_operator_file

Loc: TypeAlias = tuple[str | int, ...]
"""The way from a file's root to a value: keys of tables, indexes of arrays."""

_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'  # strings first: in them nothing has a meaning
    r"|'{3}.*?'{3,5}"
    r'|"(?:\\.|[^"\\])*"'
    r"|'[^']*'"
    r"|\#[^\n]*"
    r"|\n|[\[\]{}=.]"
    r"|[^\s\[\]{}=.\"'#]+",
    re.DOTALL,
)

_TOO_DEEP = "its tables and arrays are nested too deeply"


class SyntaxMistake(Exception):
    """The file is no TOML or JSON at all; `line` counts from 1."""

    def __init__(self, message: str, *, line: int | None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


@dataclass(frozen=True, slots=True)
class Source:
    """One file that was read: its values, where they stand, and the digest of its bytes."""

    path: Path
    data: dict[str, Any]
    lines: Mapping[Loc, int] = field(default_factory=dict)
    sha256: str = ""

    def line_of(self, at: Loc) -> int | None:
        """Return the line of a value, or of the nearest thing around it that has one."""
        for length in range(len(at), 0, -1):
            if (line := self.lines.get(at[:length])) is not None:
                return line
        return None


def read_source(path: Path) -> Source:
    """Read a TOML file, or a JSON one by its suffix; raises OSError and SyntaxMistake."""
    data = read_operator_file(path)
    digest = sha256(data).hexdigest()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise SyntaxMistake(f"is not UTF-8 text (at line {line})", line=line) from error
    if path.suffix == ".json":
        return Source(path=path, data=_from_json(text), sha256=digest)
    return Source(path=path, data=_from_toml(text), lines=_lines(text), sha256=digest)


def _from_toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+), column \d+\)$", str(error))
        line = int(found[1]) if found else text.rstrip("\n").count("\n") + 1
        said = str(error).replace("(at end of document)", f"(at line {line}, the end of the file)")
        raise SyntaxMistake(said, line=line) from error
    except RecursionError as error:
        raise SyntaxMistake(_TOO_DEEP, line=None) from error


def _from_json(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise SyntaxMistake(f"{error.msg} (at line {error.lineno})", line=error.lineno) from error
    except RecursionError as error:
        raise SyntaxMistake(_TOO_DEEP, line=None) from error
    if not isinstance(data, dict):
        raise SyntaxMistake("should be an object", line=1)
    return data


def _lines(text: str) -> dict[Loc, int]:
    found: dict[Loc, int] = {}
    last: dict[Loc, int] = {}  # the index of the newest element of each array of tables
    table: Loc = ()

    def below(start: Loc, keys: list[str], line: int) -> Loc:
        """Follow keys into the newest element of each array on the way, noting the line."""
        for key in keys:
            start = (*start, key)
            found.setdefault(start, line)
            if start in last:
                start = (*start, last[start])
        return start

    for line, tokens in _statements(text):
        if tokens[0] != "[":
            below(table, _keys(tokens[: tokens.index("=")]), line)
        elif tokens[1] != "[":
            table = below((), _keys(tokens), line)
        else:
            *parents, name = _keys(tokens)
            array = (*below((), parents, line), name)
            last[array] = last.get(array, -1) + 1
            table = (*array, last[array])
            found.setdefault(array, line)
        found.setdefault(table, line)
    return found


def _statements(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the tokens of each header or assignment, without comments, with its first line."""
    line, depth, began, tokens = 1, 0, 1, list[str]()
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token == "\n" and depth == 0:
            if tokens:
                yield began, tokens
            tokens = []
        elif token != "\n" and not token.startswith("#"):
            began = began if tokens else line
            tokens.append(token)
            depth += (token in ("[", "{")) - (token in ("]", "}"))
        line += token.count("\n")
    if tokens:
        yield began, tokens


def _keys(tokens: list[str]) -> list[str]:
    return [
        tomllib.loads(f"k = {token}")["k"] if token[0] in "\"'" else token
        for token in tokens
        if token not in ("[", "]", ".")
    ]
