"""Two engines that search file contents, one stream of results.

`ripgrep_command` and `read_ripgrep` speak to ripgrep; `search_files` does the same with `re` where
there is no ripgrep. Both see the same files (hidden and ignored ones left out, as ripgrep does by
default, but with `.gitignore` files as the only source of ignore rules; binary and very big files
skipped) and yield the same lines, so that everything after them is written once.

Not guaranteed: the two dialects of regular expressions differ in rare constructs; and a pattern
that backtracks without end is ended, with an error, where ripgrep would find something.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from podproc.escaping import name_of
from podproc.tools.base import ToolFailure
from podproc.tools.fsview import BIGGEST_FILE, ScopeView
from podproc.tools.globs import written_sets
from podproc.tools.pattern_worker import MOST_HITS, lines_of
from podproc.tools.patterns import PatternProcess, Stopped
from podproc.tools.walk import Choice, glob_of, walk

FILE_TYPES: dict[str, tuple[str, ...]] = {
    "c": ("*.[chH]", "*.[chH].in", "*.cats"),
    "cpp": ("*.[ChH]", "*.[ch]pp", "*.[ch]xx", "*.cc", "*.hh", "*.inl"),
    "csharp": ("*.cs",),
    "css": ("*.css", "*.scss"),
    "go": ("*.go",),
    "html": ("*.ejs", "*.htm", "*.html"),
    "java": ("*.java", "*.jsp", "*.jspx", "*.properties"),
    "js": ("*.cjs", "*.js", "*.jsx", "*.mjs", "*.vue"),
    "json": ("*.json", "*.sarif", "composer.lock"),
    "kotlin": ("*.kt", "*.kts"),
    "lua": ("*.lua",),
    "md": ("*.markdown", "*.md", "*.mdown", "*.mdwn", "*.mdx", "*.mkd", "*.mkdn"),
    "php": ("*.php", "*.php[34578]", "*.pht", "*.phtml"),
    "proto": ("*.proto",),
    "py": ("*.py", "*.pyi"),
    "ruby": ("*.gemspec", "*.rake", "*.rb", "*.rbw", "Gemfile", "Rakefile", "config.ru"),
    "rust": ("*.rs",),
    "sh": ("*.bash", "*.csh", "*.ksh", "*.sh", "*.tcsh", "*.zsh"),
    "sql": ("*.psql", "*.sql"),
    "swift": ("*.swift",),
    "toml": ("*.toml", "Cargo.lock"),
    "ts": ("*.cts", "*.mts", "*.ts", "*.tsx"),
    "txt": ("*.txt",),
    "xml": ("*.dtd", "*.rng", "*.sch", "*.xhtml", "*.xml", "*.xsd", "*.xsl", "*.xslt"),
    "yaml": ("*.yaml", "*.yml"),
}
"""What the fallback knows of file types: the common ones of ripgrep's own table."""


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for below `base`, a canonical directory; `only` names one file in it."""

    pattern: str
    base: str
    only: str | None = None
    glob: str | None = None
    file_type: str | None = None
    ignore_case: bool = False
    multiline: bool = False
    context: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file, numbered from 1, without its end; context where it is no match."""

    number: int
    text: str
    is_match: bool


@dataclass(frozen=True, slots=True)
class FileMatches:
    """A file's matching lines and their context, in order; `path` is canonical."""

    path: str
    lines: tuple[Line, ...]


def ripgrep_command(ripgrep: str, query: Query) -> list[str]:
    """Return the command line to run in `query.base`."""
    options = ["--json", "--no-config", "--no-messages", "--crlf", f"--context={query.context}"]
    options += ["--no-require-git", "--no-ignore-global", "--no-ignore-exclude", "--no-ignore-dot"]
    options.append(f"--max-filesize={BIGGEST_FILE}")
    if query.glob is not None:
        options += [f"--glob={glob}" for glob in written_sets(query.glob)]
    options.append("--glob=!.git")
    if query.file_type is not None:
        options.append(f"--type={query.file_type}")
    if query.ignore_case:
        options.append("--ignore-case")
    if query.multiline:
        options += ["--multiline", "--multiline-dotall"]
    return [ripgrep, *options, "--", query.pattern, f"./{query.only or ''}"]


def read_ripgrep(output: bytes, query: Query) -> Iterator[FileMatches]:
    """Yield what ripgrep's JSON says; raises ToolFailure with its own words for a bad query."""
    complaints: list[str] = []
    lines: list[Line] = []
    for raw in output.split(b"\n"):
        if not raw.startswith(b'{"'):
            complaints.append(raw.decode("utf-8", "replace"))
            continue
        try:
            message = json.loads(raw)
        except ValueError:
            continue  # the last line of an output that was cut
        data = message["data"]
        match message["type"]:
            case "begin":
                lines = []
            case "match" | "context":
                is_match = message["type"] == "match"
                first, text = data["line_number"], _bytes(data["lines"]).decode("utf-8", "replace")
                lines += [
                    Line(first + offset, line.removesuffix("\r"), is_match)
                    for offset, line in enumerate(text.removesuffix("\n").split("\n"))
                ]
            case "end" if data["binary_offset"] is None and lines:
                relative = os.fsdecode(_bytes(data["path"])).removeprefix("./")
                yield FileMatches(os.path.join(query.base, relative), tuple(lines))
    complaint = "\n".join(complaints).strip()
    if complaint:
        raise ToolFailure("invalid_argument", complaint.removeprefix("rg: "))


def search_files(
    view: ScopeView, query: Query, *, is_stopped: Callable[[], bool]
) -> Iterator[FileMatches]:
    """Search without ripgrep; raises ToolFailure for a bad pattern, glob or type."""
    flags = re.MULTILINE | re.DOTALL if query.multiline else re.NOFLAG
    flags |= re.IGNORECASE if query.ignore_case else re.NOFLAG
    with (
        suppress(Stopped),
        PatternProcess(
            query.pattern, int(flags), multiline=query.multiline, is_stopped=is_stopped
        ) as pattern,
    ):
        for relative in _files(view, query, is_stopped):
            path = os.path.join(query.base, relative)
            text = _content(view, path)
            if not text:
                continue
            text = text.removesuffix("\n")
            if hits := pattern.hits(text, name_of(relative)):
                lines = islice(_with_context(text, hits, query.context), MOST_HITS)
                yield FileMatches(path, tuple(lines))


def _files(view: ScopeView, query: Query, is_stopped: Callable[[], bool]) -> Iterable[str]:
    choose, is_typed = _choice(query.glob), _type_filter(query.file_type)
    if query.only is not None:
        return [query.only]
    found = walk(
        view,
        query.base,
        gitignore=True,
        hidden=False,
        choose=choose,
        is_typed=is_typed,
        is_stopped=is_stopped,
    )
    return (file.relative for file in found)


def _choice(glob: str | None) -> Choice:
    """Return ripgrep's view of a glob: it overrides ignore files, types and dots."""
    if glob is None:
        return lambda relative, is_folder: None
    wanted = glob_of(glob.removeprefix("!"))
    if glob.startswith("!"):
        return lambda relative, is_folder: False if wanted.matches(relative) else None

    def choose(relative: str, is_folder: bool) -> bool | None:
        return True if wanted.matches(relative) else (None if is_folder else False)

    return choose


def _type_filter(file_type: str | None) -> Callable[[str], bool] | None:
    if file_type is None:
        return None
    globs = [glob_of(pattern) for pattern in _type_globs(file_type)]
    return lambda relative: any(glob.matches(relative) for glob in globs)


def _type_globs(file_type: str) -> tuple[str, ...]:
    if file_type not in FILE_TYPES:
        known = ", ".join(FILE_TYPES)
        raise ToolFailure(
            "invalid_argument", f"unrecognized file type: {file_type}; known: {known}"
        )
    return FILE_TYPES[file_type]


def _content(view: ScopeView, path: str) -> str | None:
    """Return a file's text with plain line ends, None for a binary or unreadable one."""
    try:
        _, state = view.read(path)
    except ToolFailure:
        return None
    if state.data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return state.data.decode("utf-16", "replace").replace("\r\n", "\n")
    if b"\0" in state.data:
        return None
    return state.data.decode("utf-8", "replace").replace("\r\n", "\n")


def _with_context(text: str, hits: set[int], context: int) -> Iterator[Line]:
    until, left = -1, sorted(hits, reverse=True)
    for index, line in enumerate(lines_of(text)):
        while left and left[-1] <= index + context:
            until = left.pop() + context
        if index <= until:
            yield Line(index + 1, line, index in hits)
        elif not left:
            return


def _bytes(value: dict[str, Any]) -> bytes:
    """Return what ripgrep gives as text where it is UTF-8, and in base64 where not."""
    return value["text"].encode() if "text" in value else base64.b64decode(value["bytes"])
