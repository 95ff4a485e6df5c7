"""What a pod answers in every state: history, rewind targets, completions, lends, other pods."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from podproc.recorder import HISTORY_BYTES, Recorder
from podproc.references import MOST_COMPLETIONS, complete_slug, places_of
from podproc.rewinding import Rewinding
from podproc.tools.base import ToolFailure, off_loop
from podproc.tools.fsview import ScopeView
from podproc.tools.pods import Kin, restored
from podproc.toolset import Toolset
from podproc.turn_terms import Request
from protocol import control as c
from protocol import methods as m
from protocol.base import Wire
from protocol.birth import Birth
from protocol.entries import Entry, UnknownEntry
from protocol.errors import Forbidden, InvalidRequest
from protocol.scope import Permission
from protocol.session.line import encode_line
from protocol.session.reading import BadRecord, read_leniently
from protocol.session.store import SessionStore

ASK_S = 10.0
RESTORE_S = 60.0


class Queries:
    """Answers what concerns one pod and not its runs; of others it asks the supervisor."""

    def __init__(
        self,
        birth: Birth,
        record: Recorder,
        tools: Toolset,
        kin: Kin,
        store: SessionStore,
        rewinding: Rewinding,
    ) -> None:
        self._birth = birth
        self._record = record
        self._tools = tools
        self._kin = kin
        self._store = store
        self._rewinding = rewinding

    async def answer(self, request: Request) -> Wire:
        """Return the typed reply; raises PodsupError."""
        match request.method:
            case m.GetHistory() as asked:
                return await self._history(asked)
            case m.ListRewindTargets():
                return await self._rewinding.targets()
            case m.ListCompletions(kind="file", prefix=prefix):
                entries = await off_loop(complete_path, self._tools.view, prefix)
                return m.Completions(entries=tuple(entries))
            case m.ListCompletions(kind="knowledge" | "workflow" as kind, prefix=prefix):
                places = places_of(self._birth, self._tools.view)
                entries = await off_loop(complete_slug, kind, prefix, places)
                return m.Completions(entries=tuple(entries))
            case m.ListPods():
                seen_by_it: m.PodRows = await self._kin.ask(c.SeenPods(), timeout_s=ASK_S)
                return seen_by_it
            case m.InspectPod(name=name):
                seen: m.Inspected = await self._kin.ask(c.SeenPod(name=name), timeout_s=ASK_S)
                return seen
            case m.RestorePod(name=name):
                done = await self._kin.ask(c.Restore(pod=name), timeout_s=RESTORE_S)
                return restored(name, done)
            case m.ScopeLend() if request.sender != "":
                raise Forbidden("scope_lend comes from the supervisor only")
            case m.ScopeLend() as lend:
                await self._tools.lends.lend(lend, self._tools.view, self._tools.keeper)
                return m.Accepted()
            case other:
                raise InvalidRequest(f"{other.method}: nothing answers this")

    async def _history(self, asked: m.GetHistory) -> m.History:
        since = asked.since.index if asked.since else None
        before = asked.before.index if asked.before else None
        active = self._record.segment_id
        if asked.segment_id not in (None, active):
            path = self._store.path(self._birth.session_id, asked.segment_id or "")
            return await off_loop(earlier_history, path, since, before, asked.limit)
        segment, first, entries, head = self._record.history(since, before, asked.limit)
        return m.History(segment_id=segment, first_index=first, entries=entries, head_entries=head)


def earlier_history(path: Path, since: int | None, before: int | None, limit: int) -> m.History:
    """Return entries of a segment that is not written to any more. Blocks.

    A line that is no entry is shown as one of an unknown kind. Raises InvalidRequest where there is
    no such segment.
    """
    if not path.exists():
        raise InvalidRequest(f"the session has no segment {path.stem}")
    rows: list[Entry] = [
        UnknownEntry(kind="damaged", ts=0) if isinstance(row, BadRecord) else row
        for row in read_leniently(path)
    ]
    if since is not None:
        first, page = since, _fitting(rows[since : since + limit])
    else:
        stop = len(rows) if before is None else min(before, len(rows))
        page = _fitting(rows[max(0, stop - limit) : stop][::-1])[::-1]
        first = stop - len(page)
    return m.History(
        segment_id=path.stem, first_index=first, entries=tuple(page), head_entries=len(rows)
    )


def _fitting(rows: list[Entry]) -> list[Entry]:
    """Return as many as fit into one answer, but one at least."""
    sizes = accumulate(len(encode_line(row)) for row in rows)
    return rows[: max(1, sum(size <= HISTORY_BYTES for size in sizes))]


def complete_path(view: ScopeView, prefix: str) -> list[m.Completion]:
    """Return readable paths that begin with `prefix`, as it was typed, directories first.

    Relative to the cwd, 100 at most; what begins with a dot only where the prefix has that dot.
    """
    start = prefix.rpartition("/")[2]
    folder = prefix.removesuffix(start)

    def rows() -> Iterator[tuple[bool, str]]:
        base = view.resolve(folder or ".", Permission.READ)
        for entry in view.scan(base):
            if not entry.name.startswith(start) or (entry.name.startswith(".") and not start):
                continue
            is_dir = _is_readable_dir(view, os.path.join(base, entry.name), entry)
            if is_dir is not None and entry.name.isprintable():  # others cannot be typed, nor told
                yield not is_dir, folder + entry.name

    try:
        first = heapq.nsmallest(MOST_COMPLETIONS, rows())
    except (ToolFailure, ValueError):  # a prefix that is no text for a path, half a surrogate pair
        return []
    return [m.Completion(value=value, is_dir=not is_file) for is_file, value in first]


def _is_readable_dir(view: ScopeView, path: str, entry: os.DirEntry[str]) -> bool | None:
    """Say whether it is a directory, None for what may not be read; a link counts as its target."""
    if not entry.is_symlink():
        is_dir = entry.is_dir(follow_symlinks=False)
        return None if view.permission(path) is None else is_dir
    try:
        return os.path.isdir(view.resolve(path, Permission.READ))
    except (ToolFailure, ValueError):
        return None
