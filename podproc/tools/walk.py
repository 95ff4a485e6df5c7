"""Finding files: a walk that stays within the readable scope and knows `.gitignore`.

The walk lists only what may be read, enters no directory through a link, and never shows `.git`.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from podproc.escaping import plain
from podproc.tools.base import ToolFailure
from podproc.tools.fsview import ScopeView
from podproc.tools.globs import BadGlob, Glob, IgnoreRules
from protocol.scope import Permission

Choice: TypeAlias = Callable[[str, bool], bool | None]
"""Asked with a relative path and whether it is a directory: in, out, or for others to say."""

_MOST_IGNORED = 256 * 1024
"""Bytes of a `.gitignore` that count."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file: its path relative to the directory searched, and its time of change."""

    relative: str
    changed_at: float


@dataclass(frozen=True, slots=True)
class _Ignore:
    """The rules of one `.gitignore`; `base` is its directory, ending in a slash."""

    base: str
    rules: IgnoreRules

    def says(self, path: str, is_folder: bool) -> bool | None:
        return self.rules.says(path.removeprefix(self.base), is_folder=is_folder)


def walk(
    view: ScopeView,
    base: str,
    *,
    gitignore: bool,
    hidden: bool,
    links: bool = False,
    choose: Choice = lambda relative, is_folder: None,
    is_typed: Callable[[str], bool] | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Found]:
    """Yield the readable files below a canonical directory, in no particular order.

    With `links`, links to readable files count as files. What is left out is decided as ripgrep
    does, the first to say anything being right: `choose`, the ignore files from the root down (with
    `gitignore`), `is_typed` for files, and a leading dot (without `hidden`).
    """

    start = _prefix_of(base)

    def is_left_out(path: str, is_folder: bool, ignores: tuple[_Ignore, ...]) -> bool:
        relative = path[len(start) :]
        chosen = choose(relative, is_folder)
        if chosen is not None:
            return not chosen
        ignored = _is_ignored(path, is_folder, ignores)
        if not ignored and is_typed is not None and not is_folder:
            return not is_typed(relative)
        if ignored is not None:
            return ignored
        return not hidden and os.path.basename(path).startswith(".")

    above = _ignores_above(view, base) if gitignore else ()
    todo: list[tuple[str, tuple[_Ignore, ...]]] = [(base, above)]
    while todo and not is_stopped():
        folder, ignores = todo.pop()
        prefix = _prefix_of(folder)
        if gitignore:
            ignores = (*ignores, *_ignore_of(view, prefix))
        for entry in _entries(view, folder):
            if is_stopped():
                return
            path = prefix + entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if entry.name == ".git" or view.permission(path) is None:
                continue
            if is_left_out(path, is_folder, ignores):
                continue
            if is_folder:
                todo.append((path, ignores))
            elif (changed_at := _file_time(view, entry, path, links)) is not None:
                yield Found(path[len(start) :], changed_at)


def _entries(view: ScopeView, folder: str) -> Iterator[os.DirEntry[str]]:
    """Yield a folder's entries; none where it went away, or may not be listed."""
    with contextlib.suppress(ToolFailure):
        yield from view.scan(folder)


def glob_of(pattern: str) -> Glob:
    """Return the glob that a model asked for; raises ToolFailure where it is none."""
    try:
        return Glob(pattern)
    except BadGlob as error:
        raise ToolFailure(
            "invalid_argument", f"not a glob: {plain(pattern)}: {plain(str(error))}"
        ) from error


def _prefix_of(folder: str) -> str:
    """Return what the paths below a canonical directory begin with."""
    return "/" if folder == "/" else f"{folder}/"


def _ignore_of(view: ScopeView, prefix: str) -> tuple[_Ignore, ...]:
    try:
        _, head = view.head(f"{prefix}.gitignore", _MOST_IGNORED)
    except ToolFailure:
        return ()
    return (_Ignore(prefix, IgnoreRules.of(head.data.decode("utf-8", "surrogateescape"))),)


def _ignores_above(view: ScopeView, base: str) -> tuple[_Ignore, ...]:
    parts = base.strip("/").split("/")
    folders = ["/", *(f"/{'/'.join(parts[:depth])}/" for depth in range(1, len(parts)))]
    readable = (f for f in folders if view.permission(f.rstrip("/") or "/") is not None)
    return tuple(ignore for folder in readable for ignore in _ignore_of(view, folder))


def _is_ignored(path: str, is_folder: bool, ignores: tuple[_Ignore, ...]) -> bool | None:
    for ignore in reversed(ignores):  # the nearest file that says anything decides
        verdict = ignore.says(path, is_folder)
        if verdict is not None:
            return verdict
    return None


def _file_time(view: ScopeView, entry: os.DirEntry[str], path: str, links: bool) -> float | None:
    """Return when a file, or with `links` the file behind a link, was changed; None for others."""
    try:
        about = entry.stat(follow_symlinks=False)
        if stat.S_ISLNK(about.st_mode) and links:
            about = os.lstat(view.resolve(path, Permission.READ))
    except (OSError, ToolFailure):
        return None
    return about.st_mtime if stat.S_ISREG(about.st_mode) else None
