"""References in what a person types: found, completed, and written back. Pure.

One grammar for `podsup run`, for `podsup attach` and for programs that want it:

    @path       where a word begins: a file; `@"a path"` where it holds spaces
    #slug       where a word begins: a knowledge page, `#folder/slug` one in a folder
    /slug       at the very start: a workflow, the rest is what it is about

A word begins at the start, after a space and after `(`. What follows a reference's word as
punctuation (`@a.py, then`) is no part of it. People type many signs that are no references, so a
slug begins with a small letter, holds `a-z 0-9 . _ -`, and is a word of its own; a workflow's has
no folder, as that would be a path. Text stay `a@b.org`, `@@name`, `#1`, `# heading`, `#TODO`,
`#!/bin/sh`, colours (`#fff`, `#c0ffee`), the preprocessor's words (`#include`) and `/usr/bin`. A
backslash before the sign makes text of what would be a reference (`\\@path`); everywhere else a
backslash is a backslash.

`as_typed` is the way back: what `parse_text` returned, it reads again from what `as_typed` returns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from protocol.segments import FileRef, KnowledgeRef, Segment, Text, WorkflowInvoke, flatten

Kind: TypeAlias = Literal["file", "knowledge", "workflow"]

_WORD = r"(?:(?<=[\s(])|(?<![\s\S]))"
_END = r"(?=[.,;:!?)]*(?:\s|\Z))"
_SLUG = r"[a-z](?:[a-z0-9._-]*[a-z0-9])?"
_PATH = r"(?:[^\s@\"\\]|(?<=/)@)*(?:[^\s@\"\\,;:!?).]|(?<=/)\.{1,2}|(?<=@)\.{1,2})"
_REFERENCE = re.compile(
    rf"{_WORD}(?P<escape>\\?)(?:"
    rf'@"(?P<quoted>[^"\n]+)"'
    rf"|@(?P<path>{_PATH}){_END}"
    rf"|\#(?P<slug>{_SLUG}(?:/{_SLUG})*){_END}"
    rf")|\A(?P<kept>\\?)/(?P<workflow>{_SLUG})(?=\s|\Z)"
)
_COLOUR = re.compile(r"(?=.*[0-9])(?:[0-9a-f]{3,4}|[0-9a-f]{6}|[0-9a-f]{8})|([0-9a-f])\1{2,7}")
_PREPROCESSOR = frozenset(
    ("include", "define", "undef", "if", "ifdef", "ifndef", "elif", "else", "endif", "pragma")
)
_PLAIN_PATH = re.compile("@" + _PATH)
_ENDS_WORD = re.compile(_END)
_UNFINISHED = re.compile(
    rf'{_WORD}(?:@"(?P<quoted>[^"\n]*)|@(?P<path>[^\s"]*)|\#(?P<slug>[a-z0-9._/-]*))\Z'
    r"|\A/(?P<workflow>[a-z0-9._-]*)\Z"
)


def parse_text(text: str, *, is_start: bool = True) -> tuple[Segment, ...]:
    """Return the text and references of what was typed, in order; nothing for nothing.

    `is_start` is False for a piece that something stands before: a workflow cannot begin there.
    """
    pieces: list[Segment] = []
    plain: list[str] = []
    at = 0
    for found in _REFERENCE.finditer(text):
        segment = _segment_of(found)
        if segment is None or (found["workflow"] and not is_start):
            continue
        if found["escape"] or found["kept"]:
            plain.append(text[at : found.start()])
            at = found.start() + 1
            continue
        plain.append(text[at : found.start()])
        pieces += _text("".join(plain))
        pieces.append(segment)
        plain, at = [], found.end()
    return (*pieces, *_text("".join((*plain, text[at:]))))


def as_typed(segments: Iterable[Segment], *, is_start: bool = True) -> str:
    """Return the line that `parse_text` reads as these segments; other kinds as they are read."""
    line = ""
    pieces = tuple(segments)
    for number, segment in enumerate(pieces):
        match segment:
            case Text(content=content):
                line += _escaped(line, content, is_start)
            case FileRef(path=path):
                following = flatten(pieces[number + 1 : number + 2])
                is_plain = _PLAIN_PATH.fullmatch(f"@{path}") and _ENDS_WORD.match(following)
                line += f"@{path}" if is_plain else f'@"{path}"'
            case _:
                line += flatten((segment,))
    return line


def _segment_of(found: re.Match[str]) -> Segment | None:
    """Return what was referred to; None for what only looks like a page: a colour, a directive."""
    if path := found["quoted"] or found["path"]:
        return FileRef(path=path)
    if slug := found["workflow"]:
        return WorkflowInvoke(slug=slug)
    slug = found["slug"]
    return None if slug in _PREPROCESSOR or _COLOUR.fullmatch(slug) else KnowledgeRef(slug=slug)


def _text(content: str) -> tuple[Segment, ...]:
    return (Text(content=content),) if content else ()


def _escaped(before: str, content: str, is_start: bool) -> str:
    """Return the text with a backslash before each sign that would make a reference of it."""
    whole, at = before, 0
    for found in _REFERENCE.finditer(before + content):
        start = found.start() - len(before)
        if start < 0 or _segment_of(found) is None or (found["workflow"] and not is_start):
            continue
        whole += content[at:start] + "\\"
        at = start
    return whole[len(before) :] + content[at:]


# -- completion


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A reference that is being typed: `prefix` is what there is of it, from `start` on."""

    kind: Kind
    prefix: str
    start: int

    def finished(self, values: Sequence[tuple[str, bool]]) -> str | None:
        """Return what stands in the reference's place now: as far as all values agree.

        `values` are the ways to go on, each with whether it is a directory. A single one is
        whole, with a space after it unless there is more to go into. None where nothing is won.
        """
        names = [value + "/" * (is_dir and not value.endswith("/")) for value, is_dir in values]
        if not names:
            return None
        common = _beginning_of(names)
        if not common.startswith(self.prefix):
            return None
        is_whole = len(names) == 1 and not common.endswith("/")
        if common == self.prefix and not is_whole:
            return None
        sign = {"file": "@", "knowledge": "#", "workflow": "/"}[self.kind]
        if self.kind == "file" and any(char.isspace() or char in '@"\\' for char in common):
            return f'{sign}"{common}' + '" ' * is_whole
        return sign + common + " " * is_whole


def _beginning_of(names: Sequence[str]) -> str:
    """Return what all of the names begin with."""
    first, last = min(names), max(names)
    most = min(len(first), len(last))
    return first[: next((at for at in range(most) if first[at] != last[at]), most)]


def unfinished_at(before: str) -> Unfinished | None:
    """Return the reference that ends where the cursor is; `before` is the line up to there."""
    found = _UNFINISHED.search(before)
    if found is None:
        return None
    for kind, name in _GROUPS:
        if (prefix := found[name]) is not None:
            return Unfinished(kind, prefix, found.start())
    return None


_GROUPS: tuple[tuple[Kind, str], ...] = (
    ("file", "quoted"),
    ("file", "path"),
    ("knowledge", "slug"),
    ("workflow", "workflow"),
)
