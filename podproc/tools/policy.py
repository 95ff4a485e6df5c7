"""The permission policy: which calls the operator's rules allow.

A rule's pattern is held against what a call is about: a command, an address, a name; for a tool
that takes a path, the path. One file has many names, and a rule means the file. So a path is held
against its pattern under all the names by which the call reaches it:

    as written      what the model said, and the same without `.` and `..`
    resolved        the canonical path, with every link followed; what a link on the way is called
    two bases       each of them absolute, and relative to the workspace (and to the working folder)

A refusal (`deny`, `ask`) holds where *any* of these names matches. An `allow` holds only where the
canonical path matches, absolute or relative: a name that the model chose proves nothing. The `path`
of Grep and Glob is what their calls are about; their `pattern` counts for refusals too, and Glob's,
put behind its path, for both. Names are looked up without opening anything.

Limitation: a rule is about the path of the call. A search from a folder above a refused one goes on
into it. Scopes bind that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pydantic import BaseModel

from podproc.tools.base import Policy, off_loop
from protocol.errors import InvalidScope
from protocol.manifest import Action, Permissions
from protocol.scope import is_beneath, names_of

_SUBJECT = ("command", "file_path", "pattern", "path", "url", "query", "name")
_PATHS = ("file_path", "path")
_WILD = frozenset("*?[{")


@dataclass(frozen=True, slots=True)
class Subject:
    """What a call is about: names that a refusal is held against, and those of an allow."""

    refused: tuple[str, ...]
    allowed: tuple[str, ...]

    def matches(self, pattern: str, action: Action) -> bool:
        """Say whether a rule with this pattern is about the call."""
        names = self.allowed if action is Action.ALLOW else self.refused
        return any(fnmatchcase(name, pattern) for name in names)


def subject_of(args: BaseModel) -> str:
    """Return the argument that says what a call without a path is about."""
    return next(_texts(args, _SUBJECT), "")


def policy_of(permissions: Permissions, *, cwd: str = "/", workspace: str = "/") -> Policy:
    """Return the check of every call: the first rule that matches decides, else the default."""

    async def check(tool: str, args: BaseModel) -> str | None:
        rules = [rule for rule in permissions.rule if fnmatchcase(tool, rule.tool)]
        if not rules:
            return _refusal(permissions.default_action, "the default action")
        if (path := next(_texts(args, _PATHS), None)) is None:
            text = (subject_of(args),)
            subject = Subject(text, text)
        else:
            pattern = next(_texts(args, ("pattern",)), None)
            subject = await off_loop(
                _path_subject, path, pattern, cwd=cwd, workspace=workspace, is_glob=tool == "Glob"
            )
        for rule in rules:
            if subject.matches(rule.pattern, rule.action):
                return _refusal(rule.action, f"rule {rule.tool} {rule.pattern!r}")
        return _refusal(permissions.default_action, "the default action")

    return check


def _path_subject(
    path: str, pattern: str | None, *, cwd: str, workspace: str, is_glob: bool
) -> Subject:
    """Return the names of a path, and of what a Glob's pattern finds below it. Looks at links."""
    reached = [(path, "")]
    if pattern is not None and is_glob:
        fixed, wild = _split(pattern)
        reached.append((os.path.join(path, fixed), wild))
    bases = (workspace, cwd)
    refused = [path, *([pattern] if pattern is not None else [])]
    for fixed, wild in reached:
        for name in (os.path.join(cwd, fixed), *_names(fixed, cwd)):
            refused += _relative(os.path.normpath(os.path.join(name, wild)), bases)
    fixed, wild = reached[-1]
    allowed: list[str] = []
    if (names := _names(fixed, cwd)) and ".." not in wild.split("/"):
        allowed += _relative(os.path.join(names[-1], wild) if wild else names[-1], bases)
    return Subject(tuple(dict.fromkeys(refused)), tuple(dict.fromkeys(allowed)))


def _split(pattern: str) -> tuple[str, str]:
    """Return the folders that a glob begins with, and the rest from its first wildcard on."""
    parts = pattern.split("/")
    first = next((n for n, part in enumerate(parts) if _WILD & set(part)), len(parts))
    fixed = "/".join(parts[:first])
    return fixed or ("/" if pattern.startswith("/") else ""), "/".join(parts[first:])


def _names(path: str, cwd: str) -> tuple[str, ...]:
    try:
        return names_of(path or ".", cwd=cwd)
    except InvalidScope:
        return ()


def _relative(path: str, bases: tuple[str, ...]) -> Iterator[str]:
    """Yield an absolute path as it is, and as it is seen from each base that it lies in."""
    yield path
    for base in bases:
        if is_beneath(path, base):
            yield os.path.relpath(path, base)


def _texts(args: BaseModel, names: tuple[str, ...]) -> Iterator[str]:
    values = (getattr(args, name, None) for name in names)
    return (value for value in values if isinstance(value, str))


def _refusal(action: Action, why: str) -> str | None:
    return None if action is Action.ALLOW else f"the permission policy says no ({why})"
