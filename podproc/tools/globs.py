"""Globs and the rules of `.gitignore`, matched in linear time. Pure.

Whoever wrote a pattern may have meant to stall its reader: agents write both kinds. So a path is
matched component by component, and within one a star gives back nothing that it once took; it does
not have to, since between two stars the first place that fits is as good as any later one.

Globs mean what they mean to ripgrep: a pattern without a slash matches a name at any depth, one
with a slash is anchored at the directory searched; `*` and `?` stop at slashes, `**` does not,
`{a,b}` chooses. Besides, a pattern with a set matches itself: `[slug]` is a common name of folders.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

LONGEST = 2000
"""Characters of a glob, and of a line of a `.gitignore`."""

MOST_CHOICES = 200
"""How many patterns one with `{a,b}` may stand for."""

MOST_RULES = 2000
"""Lines of one `.gitignore` that count."""

_TOKEN = re.compile(r"\*+|\?|\[[!^]?\]?[^\]]*\]|\\.|.", re.DOTALL)

_Tokens: TypeAlias = tuple[str, ...]
_Component: TypeAlias = Callable[[str], object]


class BadGlob(ValueError):
    """A pattern that is none, or that asks for too much."""


@dataclass(frozen=True, slots=True)
class _Path:
    """Runs of components; between two runs stands a `**`, that is any number of components.

    A `**` at the end is one component at least: `a/**` is what is inside of `a`.
    """

    runs: tuple[tuple[_Component, ...], ...]

    def matches(self, parts: Sequence[str]) -> bool:
        first, last = self.runs[0], self.runs[-1]
        if len(self.runs) == 1:
            return len(parts) == len(first) and _fits(first, parts, 0)
        end = len(parts) - (len(last) or 1)
        at = len(first)
        if at > end + (not last) or not _fits(first, parts, 0) or not _fits(last, parts, end):
            return False
        for run in self.runs[1:-1]:
            places = range(at, end - len(run) + 1 + (not last))
            found = next((place for place in places if _fits(run, parts, place)), None)
            if found is None:
                return False
            at = found + len(run)
        return at <= end


def _fits(run: Sequence[_Component], parts: Sequence[str], at: int) -> bool:
    return all(fits(parts[at + offset]) for offset, fits in enumerate(run))


class Glob:
    """A pattern that paths relative to the directory searched are held against."""

    def __init__(self, pattern: str) -> None:
        """Read a pattern; raises BadGlob."""
        if len(pattern) > LONGEST:
            raise BadGlob(f"a glob of {len(pattern)} characters; {LONGEST} are allowed")
        is_anchored = "/" in pattern.rstrip("/")
        self._paths: list[_Path] = []
        for tokens in _choices(_TOKEN.findall(pattern.strip("/"))):
            written = tuple(_TOKEN.findall("".join(map(_without_set, tokens))))
            for variant in dict.fromkeys((tokens, written)):
                path = _path(variant, is_anchored=is_anchored)
                self._paths.append(path)
                if pattern.endswith("/"):
                    self._paths.append(_Path((*path.runs, ())))

    def matches(self, relative: str) -> bool:
        """Say whether the path fits."""
        parts = relative.split("/")
        return any(path.matches(parts) for path in self._paths)


def written_sets(pattern: str) -> list[str]:
    """Return the pattern, and after it the one that matches its sets as they are written."""
    literal = "".join(map(_without_set, _TOKEN.findall(pattern)))
    return list(dict.fromkeys((pattern, literal)))


@dataclass(frozen=True, slots=True)
class _Rule:
    path: _Path
    is_negated: bool
    folders_only: bool


class IgnoreRules:
    """The rules of one `.gitignore`, for paths relative to its folder.

    A line that git would not understand is skipped.
    """

    def __init__(self, rules: Iterable[_Rule]) -> None:
        self._last_first = tuple(rules)[::-1]

    @classmethod
    def of(cls, text: str) -> Self:
        """Read a file's text; what is beyond the bounds is left out."""
        lines = text.removeprefix("\ufeff").split("\n")[:MOST_RULES]
        return cls(rule for line in lines if (rule := _rule(line.removesuffix("\r"))) is not None)

    def says(self, relative: str, *, is_folder: bool) -> bool | None:
        """Return whether the path is left out; None where no rule speaks of it."""
        parts = relative.split("/")
        for rule in self._last_first:
            if (is_folder or not rule.folders_only) and rule.path.matches(parts):
                return not rule.is_negated
        return None


def _rule(line: str) -> _Rule | None:
    if len(line) > LONGEST or line.startswith("#"):
        return None
    is_negated = line.startswith("!")
    tokens = _TOKEN.findall(line.removeprefix("!"))
    while tokens and tokens[-1] == " ":
        del tokens[-1]
    folders_only = bool(tokens) and tokens[-1] == "/"
    tokens = tokens[: len(tokens) - folders_only]
    is_anchored = "/" in tokens
    tokens = tokens[1:] if tokens[:1] == ["/"] else tokens
    if not tokens or tokens[-1] == "\\":
        return None
    try:
        return _Rule(_path(tuple(tokens), is_anchored=is_anchored), is_negated, folders_only)
    except BadGlob:
        return None


# ---- reading a pattern ---------------------------------------------------------------------------


def _choices(tokens: Iterable[str]) -> list[_Tokens]:
    """Return every pattern that one with braces stands for; a brace that stays open closes last."""
    outer: list[tuple[list[_Tokens], list[_Tokens]]] = []
    done: list[_Tokens] = []
    here: list[_Tokens] = [()]

    def close() -> None:
        nonlocal done, here
        inside = [*done, *here]
        done, before = outer.pop()
        here = _checked([left + right for left in before for right in inside])

    for token in tokens:
        if token == "{":
            outer.append((done, here))
            done, here = [], [()]
        elif token == "," and outer:
            done, here = _checked([*done, *here]), [()]
        elif token == "}" and outer:
            close()
        else:
            here = [(*one, token) for one in here]
    while outer:
        close()
    return here


def _checked(choices: list[_Tokens]) -> list[_Tokens]:
    if len(choices) > MOST_CHOICES:
        raise BadGlob(f"a glob that stands for more than {MOST_CHOICES} patterns")
    return choices


def _without_set(token: str) -> str:
    """Return a set as the text that it is written as."""
    return "".join(f"\\{sign}" for sign in token) if _is_set(token) else token


def _is_set(token: str) -> bool:
    return len(token) > 1 and token[0] == "["


def _path(tokens: _Tokens, *, is_anchored: bool) -> _Path:
    components: list[list[str]] = [[]]
    for token in tokens:
        if token == "/":
            components.append([])
        else:
            components[-1].append(token)
    runs: list[list[_Component]] = [[]] if is_anchored else [[], []]
    for component in components:
        if component == ["**"]:
            runs.append([])
        else:
            runs[-1].append(_component(component))
    return _Path(tuple(map(tuple, runs)))


def _component(tokens: Sequence[str]) -> _Component:
    """Return what says whether one name fits."""
    if not any(token == "?" or token[0] == "*" or _is_set(token) for token in tokens):
        return "".join(map(_literal, tokens)).__eq__
    pieces = [""]
    for token in tokens:
        if token[0] == "*":
            pieces.append("")
        else:
            pieces[-1] += _one(token)
    first, *others = pieces
    *between, last = others or [""]
    body = first + "".join(f"(?>.*?{piece})" for piece in between)
    try:
        return re.compile(f"{body}.*{last}" if others else body, re.DOTALL).fullmatch
    except re.error as error:
        raise BadGlob(str(error)) from error


def _one(token: str) -> str:
    """Return the regular expression of a token that stands for one character, or for itself."""
    if token == "?":
        return "."
    if not _is_set(token):
        return re.escape(_literal(token))
    is_negated = token[1] in "!^"
    return f"[{'^' if is_negated else ''}{_members(token[1 + is_negated : -1])}]"


def _members(inside: str) -> str:
    out, at = "", 0
    while at < len(inside):
        is_range = at + 2 < len(inside) and inside[at + 1] == "-"
        out += re.escape(inside[at])
        out += f"-{re.escape(inside[at + 2])}" if is_range else ""
        at += 3 if is_range else 1
    return out


def _literal(token: str) -> str:
    return token[1:] if len(token) > 1 and token[0] == "\\" else token
