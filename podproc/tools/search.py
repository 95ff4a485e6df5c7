"""Glob and Grep: finding files by name and by content, within the readable scope.

Results are judged by the scope whatever engine found them: a path that may not be read is not
shown.
"""

from __future__ import annotations

import heapq
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from podproc.escaping import name_of
from podproc.tools.base import (
    Call,
    ToolArgs,
    ToolFailure,
    ToolResult,
    off_loop,
    off_loop_until,
)
from podproc.tools.fsview import ScopeView
from podproc.tools.keeper_client import Keeper, KeeperError
from podproc.tools.matching import (
    FileMatches,
    Query,
    read_ripgrep,
    ripgrep_command,
    search_files,
)
from podproc.tools.pattern_worker import MOST_HITS
from podproc.tools.walk import Found, glob_of, walk
from protocol.scope import Permission

MOST_FILES = 1000
_JSON_LIMIT = 32 * 1024 * 1024
_LINE_LENGTH = 500


class GlobArgs(ToolArgs):
    """Arguments of Glob."""

    pattern: str = Field(min_length=1, description='for instance "src/**/*.py" or "*.{ts,tsx}"')
    path: str = Field(".", description="the directory to search")
    gitignore: bool = Field(False, description="leave out what .gitignore files exclude")


class Glob:
    """Finds files by name."""

    name: ClassVar[str] = "Glob"
    description: ClassVar[str] = (
        "Find files by a glob pattern, newest first, 1000 at most. A pattern without a slash "
        "matches names at any depth. A name in double quotes is written with escapes such as \\n."
    )
    Args: ClassVar[type[GlobArgs]] = GlobArgs

    def __init__(self, view: ScopeView) -> None:
        self._view = view

    async def run(self, args: GlobArgs, call: Call) -> ToolResult:
        """Return paths, one a line; raises ToolFailure."""
        return await off_loop_until(lambda stop: self._find(args, stop))

    def _find(self, args: GlobArgs, stop: threading.Event) -> ToolResult:
        base = _directory(self._view, args.path)
        glob = glob_of(args.pattern.removeprefix(f"{base.rstrip('/')}/"))
        everything = walk(
            self._view,
            base,
            gitignore=args.gitignore,
            hidden=True,
            links=True,
            is_stopped=stop.is_set,
        )
        count = 0

        def found() -> Iterator[Found]:
            nonlocal count
            for file in everything:
                if glob.matches(file.relative):
                    count += 1
                    yield file

        newest = heapq.nsmallest(MOST_FILES, found(), lambda f: (-f.changed_at, f.relative))
        shown = [_shown(self._view, os.path.join(base, file.relative)) for file in newest]
        few = f"the newest {len(shown)} of " if count > len(shown) else ""
        return ToolResult(f"{few}{_count(count, 'file')}", "\n".join(shown))


class OutputMode(StrEnum):
    """What Grep shows of each file with a match."""

    CONTENT = "content"
    FILES_WITH_MATCHES = "files_with_matches"
    COUNT = "count"


class GrepArgs(ToolArgs):
    """Arguments of Grep."""

    pattern: str = Field(min_length=1, description="a regular expression")
    path: str = Field(".", description="the file or directory to search")
    glob: str | None = Field(None, description='only files like this, for instance "*.py"')
    type: str | None = Field(None, description='only files of this type, for instance "py"')
    output_mode: OutputMode = OutputMode.FILES_WITH_MATCHES
    context: int = Field(0, ge=0, le=100, description="lines around each match")
    ignore_case: bool = Field(False, alias="-i", description="ignore case")
    multiline: bool = Field(False, description="let the pattern, and its dots, span lines")
    head_limit: int = Field(1000, ge=1, description="lines of output at most")


class Grep:
    """Finds text in files."""

    name: ClassVar[str] = "Grep"
    description: ClassVar[str] = (
        "Search file contents by a regular expression. Hidden, ignored and binary files are "
        "skipped. output_mode: files_with_matches (default), content with line numbers, or count. "
        "A name in double quotes is written with escapes such as \\n."
    )
    Args: ClassVar[type[GrepArgs]] = GrepArgs

    def __init__(
        self,
        view: ScopeView,
        *,
        keeper: Keeper | None,
        environment: Mapping[str, str],
        programs: str | None = None,
    ) -> None:
        """Use ripgrep below the keeper; without a keeper, never.

        It is looked for in `programs`: the environment's PATH, less what pods may write.
        """
        self._view = view
        self._keeper = keeper
        self._environment = environment
        self._ripgrep = (
            shutil.which("rg", path=programs or environment.get("PATH")) if keeper else None
        )

    async def run(self, args: GrepArgs, call: Call) -> ToolResult:
        """Return matches sorted by path; raises ToolFailure."""
        query = await off_loop(self._query, args)
        if self._keeper and self._ripgrep:
            output, is_whole = await self._run_ripgrep(self._keeper, self._ripgrep, query)
            return await off_loop(
                lambda: self._result(read_ripgrep(output, query), args, is_whole=is_whole)
            )
        return await off_loop_until(
            lambda stop: self._result(search_files(self._view, query, is_stopped=stop.is_set), args)
        )

    def _query(self, args: GrepArgs) -> Query:
        real = self._view.resolve(args.path, Permission.READ)
        is_folder = os.path.isdir(real)
        if not is_folder and not os.path.exists(real):
            raise ToolFailure("execution_failed", f"{name_of(real)} does not exist")
        if not is_folder and not os.path.isfile(real):
            raise ToolFailure("invalid_argument", f"{name_of(real)} is not a regular file")
        return Query(
            pattern=args.pattern,
            base=real if is_folder else os.path.dirname(real),
            only=None if is_folder else os.path.basename(real),
            glob=args.glob,
            file_type=args.type,
            ignore_case=args.ignore_case,
            multiline=args.multiline,
            context=args.context if args.output_mode is OutputMode.CONTENT else 0,
        )

    async def _run_ripgrep(self, keeper: Keeper, ripgrep: str, query: Query) -> tuple[bytes, bool]:
        try:
            return await keeper.capture(
                ripgrep_command(ripgrep, query),
                cwd=query.base,
                environment=self._environment,
                limit=_JSON_LIMIT,
            )
        except KeeperError as error:
            raise ToolFailure("execution_failed", str(error)) from error

    def _result(
        self, found: Iterable[FileMatches], args: GrepArgs, *, is_whole: bool = True
    ) -> ToolResult:
        allowed = (file for file in found if self._view.permission(file.path) is not None)
        files = sorted(allowed, key=lambda file: file.path)
        lines = [line for file in files for line in self._lines(file, args)]
        matches = sum(line.is_match for file in files for line in file.lines)
        summary = f"{_count(matches, 'matching line')} in {_count(len(files), 'file')}"
        if len(lines) > args.head_limit:
            summary += f"; the first {args.head_limit} of {len(lines)} lines are shown"
        if not is_whole or (not self._ripgrep and any(len(f.lines) >= MOST_HITS for f in files)):
            summary += "; the search was ended early: too much to show"
        return ToolResult(summary, "\n".join(lines[: args.head_limit]))

    def _lines(self, file: FileMatches, args: GrepArgs) -> Iterator[str]:
        path = _shown(self._view, file.path)
        match args.output_mode:
            case OutputMode.FILES_WITH_MATCHES:
                yield path
            case OutputMode.COUNT:
                yield f"{path}:{sum(line.is_match for line in file.lines)}"
            case OutputMode.CONTENT:
                last = 0
                for line in file.lines:
                    if args.context and last and line.number != last + 1:
                        yield "--"
                    last = line.number
                    sign = ":" if line.is_match else "-"
                    yield f"{path}{sign}{line.number}{sign}{_cut(line.text)}"


def _directory(view: ScopeView, path: str) -> str:
    real = view.resolve(path, Permission.READ)
    if not os.path.isdir(real):
        raise ToolFailure("invalid_argument", f"{name_of(real)} is not a directory")
    return real


def _shown(view: ScopeView, path: str) -> str:
    """Return the path on one line as the model may name it: relative where it is below its cwd."""
    return name_of(path.removeprefix(f"{view.cwd.rstrip('/')}/"))


def _cut(line: str) -> str:
    over = len(line) - _LINE_LENGTH
    return line if over <= 0 else f"{line[:_LINE_LENGTH]}… [{over} characters more]"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
