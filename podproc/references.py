"""What the references in a submission stand for: files, knowledge pages, workflows.

    @path   file_attachment   below the cwd, or absolute; a file's text or a folder's names
    #slug   knowledge         <workspace>/knowledge/<slug>.md
    /slug   workflow          <workspace>/.podsup/workflows/<slug>.md, then the user's own folder

A workflow says what to do, so a run does not begin without it: `check` refuses the request, before
anything is written, where one is unknown, malformed, too large, or not for users. A file or a page
is something to look at: if it cannot be had, people get an alert, the model a placeholder, and the
run goes on. That also befalls a workflow which went away between `check` and `resolve`.

What the pod's scope does not let read is not read, nor looked for. A slug never leaves its folder,
by `..` or by a link; the user's folder of workflows is the operator's own and asks no scope. Every
read is bounded, of regular files only, and opens without waiting: a FIFO or an endless file is
refused like a missing one. Workflows take their share of the bytes first, since they come whole;
the others get what is left in the order in which they stand.

Everything here blocks; call it off the event loop. Not guaranteed: that a file system answers.
"""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeAlias

from podproc.escaping import name_of, plain, quoted
from podproc.excerpt import SPARE, block, excerpt, is_binary, rest_of
from podproc.tools.base import ToolFailure
from podproc.tools.fsview import FileHead, IsDirectory, NoSuchFile, ScopeDenied, ScopeView
from podproc.tools.walk import walk
from protocol import methods as m
from protocol.birth import Birth
from protocol.entries import SystemItem
from protocol.errors import InvalidRequest, InvalidScope
from protocol.scope import Permission, canonical, is_beneath
from protocol.segments import (
    FileRef,
    KnowledgeRef,
    Segment,
    UnknownSegment,
    WorkflowInvoke,
    flatten,
)

MOST_OF_ONE = 64 * 1024
MOST_OF_ALL = 256 * 1024
MOST_NAMES = 200
MOST_REFERENCES = 100
MOST_COMPLETIONS = 100

_FRONT = 8 * 1024
_MOST_PAGES = 2000
_MOST_TOLD = 20
_TYPED = 100
_SLUG = re.compile(r"[a-z0-9][a-z0-9._-]*(?:/[a-z0-9][a-z0-9._-]*)*")
_LONGEST_SLUG = 200
_GRAMMAR = "a slug is made of a-z, 0-9, '.', '_' and '-', with '/' between folders"

Reference: TypeAlias = FileRef | KnowledgeRef | WorkflowInvoke
SlugKind: TypeAlias = Literal["knowledge", "workflow"]


@dataclass(frozen=True, slots=True)
class Places:
    """Where references lead. `view` is what the pod may read, `config_dir` the user's, or ""."""

    view: ScopeView
    cwd: str
    workspace: str
    config_dir: str = ""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What goes behind the user's message, in order, and what people are told."""

    items: tuple[SystemItem, ...] = ()
    alerts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Workflow:
    """A workflow as its file has it; `body` is without the front matter."""

    path: str
    body: str
    for_users: bool = True
    description: str = ""

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return len(self.body.encode())


def places_of(birth: Birth, view: ScopeView) -> Places:
    """Return the places of one pod."""
    manifest = birth.manifest
    return Places(view, manifest.cwd, manifest.workspace, birth.config_dir)


def check(segments: Iterable[Segment], places: Places) -> None:
    """Raise InvalidRequest where a workflow cannot be followed; details carry `known` slugs."""
    slugs = dict.fromkeys(one.slug for one in segments if isinstance(one, WorkflowInvoke))
    if len(slugs) > MOST_REFERENCES:
        raise InvalidRequest(
            f"{len(slugs)} workflows at once; at most {MOST_REFERENCES} references are resolved",
            next_step="name fewer",
        )
    total = sum(_usable_workflow(slug, places).size for slug in slugs)
    if total > MOST_OF_ALL:
        raise InvalidRequest(
            f"the workflows have {total} bytes together; at most {MOST_OF_ALL} are resolved",
            next_step="name fewer",
        )


def resolve(segments: Sequence[Segment], places: Places) -> Resolved:
    """Return one system item per reference, in order and each once; raises nothing."""
    unknown = dict.fromkeys(one.original for one in segments if isinstance(one, UnknownSegment))
    alerts = [
        plain(f"input of an unknown kind, {quoted(kind)}: the model sees a placeholder")
        for kind in islice(unknown, MOST_REFERENCES)
    ]
    found = _distinct(segments, places)
    if len(found) > MOST_REFERENCES:
        alerts.append(f"{len(found)} references: {MOST_REFERENCES} of them are resolved")
        # Workflows have precedence: that there are not too many of them was checked.
        first = sorted(found, key=lambda one: not isinstance(one, WorkflowInvoke))
        kept = set(first[:MOST_REFERENCES])
        found = [one for one in found if one in kept]
    workflows = _workflows(found, places)
    left = MOST_OF_ALL - sum(w.size for w in workflows.values() if isinstance(w, Workflow))
    items = []
    for one in found:
        try:
            match one:
                case FileRef(path=path):
                    item, used = _file_item(path, left, places)
                case KnowledgeRef(slug=slug):
                    item, used = _knowledge_item(slug, left, places)
                case WorkflowInvoke(slug=slug):
                    item, used = _workflow_item(slug, workflows[slug]), 0
        except (ToolFailure, InvalidRequest, OSError, ValueError) as error:
            reason = plain(str(error))
            alerts.append(f"{plain(flatten([one]), _TYPED)}: {reason}")
            item, used = _placeholder(one, reason), 0
        left -= used
        items.append(item)
    return Resolved(tuple(items), tuple(alerts))


def complete_slug(kind: SlugKind, prefix: str, places: Places) -> list[m.Completion]:
    """Return the slugs that begin with the prefix, sorted, 100 at most, for users only."""
    rows: list[m.Completion] = []
    for slug, shelf in sorted(_slugs(kind, prefix, places).items()):
        if kind == "knowledge" or _is_offered(slug, shelf):
            rows.append(m.Completion(value=slug))
        if len(rows) == MOST_COMPLETIONS:
            break
    return rows


# ---- files ---------------------------------------------------------------------------------------


def _file_item(path: str, left: int, places: Places) -> tuple[SystemItem, int]:
    full = os.path.join(places.cwd, path) if path else path
    try:
        _, head = places.view.head(full, min(MOST_OF_ONE, left) + SPARE)
    except IsDirectory:
        return _folder_item(path, full, left, places)
    if is_binary(head.data):
        one = FileRef(path=path)
        body = _block_of(one, f"[binary file of {head.size} bytes, not shown]")
        return SystemItem(kind=_kind_of(one), body=body), 0
    return _text_item(FileRef(path=path), head, left, path)


def _folder_item(typed: str, full: str, left: int, places: Places) -> tuple[SystemItem, int]:
    real = places.view.resolve(full, Permission.READ)
    shown = hidden = 0

    def names() -> Iterator[tuple[bool, str]]:
        nonlocal shown, hidden
        for entry in places.view.scan(real):
            if places.view.permission(os.path.join(real, entry.name)) is None:
                continue
            if entry.name.startswith("."):
                hidden += 1
                continue
            shown += 1
            is_folder = entry.is_dir(follow_symlinks=False)
            yield not is_folder, name_of(entry.name) + ("/" if is_folder else "")

    lines = [name for _, name in heapq.nsmallest(MOST_NAMES, names())]
    while lines and len("\n".join(lines).encode()) > left:
        del lines[len(lines) // 2 :]
    body = "\n".join(lines)
    notes = []
    if shown > len(lines):
        notes.append(f"{shown - len(lines)} more names; to see them: Glob")
    if hidden:
        notes.append(f"{hidden} hidden")
    if not shown and not hidden:
        notes.append("empty")
    text = _block_of(FileRef(path=typed), body, type="directory")
    text += f"\n[{'; '.join(notes)}]" if notes else ""
    return SystemItem(kind="file_attachment", body=text), len(body.encode())


def _text_item(one: Reference, head: FileHead, left: int, path: str) -> tuple[SystemItem, int]:
    shown = excerpt(head.data, min(MOST_OF_ONE, left))
    note = rest_of(head, shown, path)
    body = _block_of(one, shown.text) + (f"\n{note}" if note else "")
    return SystemItem(kind=_kind_of(one), body=body), len(shown.text.encode())


# ---- slugs ---------------------------------------------------------------------------------------


def _knowledge_item(slug: str, left: int, places: Places) -> tuple[SystemItem, int]:
    if not _is_slug(slug):
        raise ToolFailure("invalid_argument", _GRAMMAR)
    for shelf in _shelves("knowledge", places):
        path, head = shelf.head(_page(slug), min(MOST_OF_ONE, left) + SPARE)
        if is_binary(head.data):
            raise ToolFailure("execution_failed", f"{path} is a binary file")
        return _text_item(KnowledgeRef(slug=slug), head, left, path)
    raise NoSuchFile("execution_failed", f"{places.workspace}/knowledge cannot be read")


def _workflow_item(slug: str, workflow: Workflow | Exception) -> SystemItem:
    if isinstance(workflow, Exception):
        raise workflow
    about = {"description": workflow.description} if workflow.description else {}
    body = _block_of(WorkflowInvoke(slug=slug), workflow.body, **about)
    return SystemItem(kind="workflow", body=body)


def _workflows(found: Iterable[Reference], places: Places) -> dict[str, Workflow | InvalidRequest]:
    out: dict[str, Workflow | InvalidRequest] = {}
    left = MOST_OF_ALL
    for one in found:
        if isinstance(one, WorkflowInvoke):
            try:
                workflow = _usable_workflow(one.slug, places)
                if workflow.size > left:
                    raise InvalidRequest(f"{workflow.path} has grown: there is no room for it")
            except InvalidRequest as error:
                out[one.slug] = error
            else:
                out[one.slug] = workflow
                left -= workflow.size
    return out


def _usable_workflow(slug: str, places: Places) -> Workflow:
    """Return a workflow that a user may invoke; raises InvalidRequest."""
    reason = f"/{plain(slug)}: {_GRAMMAR}"
    if _is_slug(slug):
        try:
            workflow = _load_workflow(slug, places)
        except ToolFailure as failure:
            reason = f"/{slug}: {plain(failure.message)}"
        else:
            if workflow.for_users:
                return workflow
            reason = f"/{slug} is not for users: {plain(workflow.path)} says so"
    known = [row.value for row in complete_slug("workflow", "", places)]
    told = ", ".join(known[:_MOST_TOLD]) + (", …" if len(known) > _MOST_TOLD else "")
    step = f"name another one: {told}" if known else "write .podsup/workflows/<slug>.md"
    raise InvalidRequest(f"workflow {reason}", next_step=step, known=known)


def _load_workflow(slug: str, places: Places) -> Workflow:
    """Return the first one there is; raises ToolFailure."""
    unseen: ToolFailure | None = None
    for shelf in _shelves("workflow", places):
        try:
            path, head = shelf.head(_page(slug), MOST_OF_ONE + 1)
        except NoSuchFile:
            continue
        except ScopeDenied as denied:
            if not is_beneath(denied.path, shelf.cwd):
                raise
            unseen = denied  # whether it is there, this pod may not know
            continue
        if len(head.data) > MOST_OF_ONE:
            raise ToolFailure("execution_failed", f"{path} has more than {MOST_OF_ONE} bytes")
        return _parse_workflow(path, head.data)
    raise unseen or NoSuchFile("execution_failed", "there is none of this name")


def _parse_workflow(path: str, data: bytes) -> Workflow:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ToolFailure("execution_failed", f"{path} is not UTF-8: {error.reason}") from error
    if "\0" in text:
        raise ToolFailure("execution_failed", f"{path} is a binary file")
    fields, body = _front_matter(path, text)
    return Workflow(path, body, _is_for_users(path, fields), fields.get("description", ""))


def _front_matter(path: str, text: str) -> tuple[dict[str, str], str]:
    """Return the fields between a first and a later `---` line, and the text behind them."""
    lines = text.removeprefix("\ufeff").splitlines(keepends=True)
    if not lines or lines[0].rstrip() != "---":
        return {}, text
    fields: dict[str, str] = {}
    size = 0
    for number, line in enumerate(lines[1:], 1):
        size += len(line.encode())
        if line.rstrip() == "---":
            return fields, "".join(lines[number + 1 :])
        if size > _FRONT:
            break
        key, colon, value = line.partition(":")
        if colon and not line.startswith((" ", "\t", "#")):
            fields[key.strip().lower()] = _unquoted(value.strip())
    # Taken for text it could be run by users although it says that it is not for them.
    raise ToolFailure("execution_failed", f"{path}: no '---' closes its front matter")


def _unquoted(value: str) -> str:
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if is_quoted else value


def _is_offered(slug: str, shelf: ScopeView) -> bool:
    """Say whether a user may invoke it, as far as its beginning tells."""
    try:
        path, head = shelf.head(_page(slug), 2 * _FRONT)
        fields, _ = _front_matter(path, excerpt(head.data, 2 * _FRONT).text)
        return head.size <= MOST_OF_ONE and _is_for_users(path, fields)
    except ToolFailure:
        return False


def _is_for_users(path: str, fields: Mapping[str, str]) -> bool:
    said = fields.get("user", "true").lower()
    if said not in ("true", "false"):
        raise ToolFailure("execution_failed", f"{path}: user is true or false, not {said!r}")
    return said == "true"


def _slugs(kind: SlugKind, prefix: str, places: Places) -> dict[str, ScopeView]:
    """Return each slug that begins with the prefix, with the folder that it is taken from."""

    def fits(relative: str, is_folder: bool) -> bool | None:
        leads_there = is_folder and prefix.startswith(f"{relative}/")
        return None if leads_there or relative.startswith(prefix) else False

    found: dict[str, ScopeView] = {}
    for shelf in _shelves(kind, places):
        pages = walk(shelf, shelf.cwd, gitignore=False, hidden=False, links=True, choose=fits)
        for page in islice(pages, _MOST_PAGES):
            slug = page.relative.removesuffix(".md")
            if slug != page.relative and _is_slug(slug) and slug.startswith(prefix):
                found.setdefault(slug, shelf)
    return found


def _shelves(kind: SlugKind, places: Places) -> Iterator[ScopeView]:
    """Yield the folders that hold the pages of a kind, the first to have one being right."""
    match kind:
        case "knowledge":
            yield from _shelf(places.workspace, "knowledge", places.view.permission)
        case "workflow":
            yield from _shelf(places.workspace, ".podsup/workflows", places.view.permission)
            if places.config_dir:
                yield from _shelf(places.config_dir, "workflows", lambda path: Permission.READ)


def _shelf(
    base: str, name: str, permission: Callable[[str], Permission | None]
) -> Iterator[ScopeView]:
    try:
        folder = canonical(os.path.join(base, name))
    except InvalidScope:
        return  # it cannot be searched: there is nothing in it for this pod

    yield ScopeView(
        lambda path: permission(path) if is_beneath(path, folder) else None,
        cwd=folder,
        explain=lambda path: None if is_beneath(path, folder) else f"it leads out of {folder}",
    )


def _page(slug: str) -> str:
    return f"{slug}.md"


def _is_slug(slug: str) -> bool:
    return len(slug) <= _LONGEST_SLUG and _SLUG.fullmatch(slug) is not None


# ---- what is said of a reference -----------------------------------------------------------------


def _distinct(segments: Iterable[Segment], places: Places) -> list[Reference]:
    """Return the references, each once: a file by where it is, however it was written."""
    found: dict[tuple[str, str], Reference] = {}
    for one in segments:
        match one:
            case FileRef(path=path):
                found.setdefault(("file", _canonical_or_typed(path, places)), one)
            case KnowledgeRef(slug=slug) | WorkflowInvoke(slug=slug):
                found.setdefault((one.kind, slug), one)
            case _:
                pass
    return list(found.values())


def _canonical_or_typed(path: str, places: Places) -> str:
    try:
        return canonical(path, cwd=places.cwd)
    except (InvalidScope, OSError, ValueError):
        return path


def _block_of(one: Reference, body: str, **about: str) -> str:
    match one:
        case FileRef(path=path):
            return block("file_attachment", body, path=path, **about)
        case KnowledgeRef(slug=slug):
            return block("knowledge", body, slug=slug, **about)
        case WorkflowInvoke(slug=slug):
            return block("workflow", body, slug=slug, **about)


def _kind_of(one: Reference) -> str:
    match one:
        case FileRef():
            return "file_attachment"
        case KnowledgeRef():
            return "knowledge"
        case WorkflowInvoke():
            return "workflow"


def _placeholder(one: Reference, reason: str) -> SystemItem:
    return SystemItem(kind=_kind_of(one), body=_block_of(one, f"[not available: {reason}]"))
