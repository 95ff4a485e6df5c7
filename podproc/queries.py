"""What a pod answers in every state: history, rewind targets, completions, lends, other pods."""

from __future__ import annotations

import os

from podproc.recorder import Recorder
from podproc.references import MOST_COMPLETIONS, complete_slug, places_of
from podproc.tools.base import ToolFailure, off_loop
from podproc.tools.fsview import ScopeView
from podproc.tools.pods import Kin, restored
from podproc.toolset import Toolset
from podproc.turn_terms import Request
from protocol import control as c
from protocol import methods as m
from protocol.base import Wire
from protocol.birth import Birth
from protocol.entries import Message, ToolResult
from protocol.errors import Forbidden, InvalidRequest
from protocol.scope import Permission
from protocol.segments import flatten
from protocol.session.replay import Replayed

ASK_S = 10.0
RESTORE_S = 60.0
PREVIEW = 120


class Queries:
    """Answers what concerns one pod and not its runs; of others it asks the supervisor."""

    def __init__(
        self,
        birth: Birth,
        record: Recorder,
        tools: Toolset,
        kin: Kin,
    ) -> None:
        self._birth = birth
        self._record = record
        self._tools = tools
        self._kin = kin

    async def answer(self, request: Request) -> Wire:
        """Return the typed reply; raises PodsupError."""
        match request.method:
            case m.GetHistory() as asked:
                return self._history(asked)
            case m.ListRewindTargets():
                rows = tuple(reversed(rewind_targets(self._record)))
                return m.RewindTargets(head_entries=self._record.head_entries, targets=rows)
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

    def _history(self, asked: m.GetHistory) -> m.History:
        segment, first, entries, head = self._record.history(
            asked.segment_id,
            asked.since.index if asked.since else None,
            asked.before.index if asked.before else None,
            asked.limit,
        )
        return m.History(segment_id=segment, first_index=first, entries=entries, head_entries=head)


def rewind_targets(record: Recorder) -> list[m.RewindTarget]:
    """Return every user input of the active segment, oldest first."""
    state: Replayed = record.state
    return [
        m.RewindTarget(
            segment_id=record.segment_id or "",
            user_input_entry_index=submitted.entry_index,
            turn_index=number,
            timestamp_ms=submitted.ts,
            preview=flatten(submitted.segments)[:PREVIEW],
            warning="tools ran after this; their effects stay" if tools_ran else None,
        )
        for number, (submitted, tools_ran) in enumerate(
            zip(state.user_segments, _tools_ran_since_inputs(state), strict=True), 1
        )
    ]


def _tools_ran_since_inputs(state: Replayed) -> list[bool]:
    """Say for each user input of the segment, oldest first, whether tools ran at it or later."""
    ran = False
    found: list[bool] = []
    for item in reversed(state.history):
        if len(found) == len(state.user_segments):
            break  # what is before them was carried over from an earlier segment
        ran = ran or isinstance(item, ToolResult)
        if isinstance(item, Message) and item.role == "user":
            found.append(ran)
    return found[::-1]


def complete_path(view: ScopeView, prefix: str) -> list[m.Completion]:
    """Return readable paths that begin with `prefix`, as it was typed, directories first.

    Relative to the cwd, 100 at most; what begins with a dot only where the prefix has that dot.
    """
    start = prefix.rpartition("/")[2]
    folder = prefix.removesuffix(start)
    rows: list[m.Completion] = []
    try:
        base = view.resolve(folder or ".", Permission.READ)
        entries = view.scan(base)
    except (ToolFailure, ValueError):  # a prefix that is no text for a path, half a surrogate pair
        return []
    for entry in entries:
        if not entry.name.startswith(start) or (entry.name.startswith(".") and not start):
            continue
        is_dir = _is_readable_dir(view, os.path.join(base, entry.name), entry)
        if is_dir is not None and entry.name.isprintable():  # others cannot be typed, nor told
            rows.append(m.Completion(value=folder + entry.name, is_dir=is_dir))
    rows.sort(key=lambda row: (not row.is_dir, row.value))
    return rows[:MOST_COMPLETIONS]


def _is_readable_dir(view: ScopeView, path: str, entry: os.DirEntry[str]) -> bool | None:
    """Say whether it is a directory, None for what may not be read; a link counts as its target."""
    if not entry.is_symlink():
        is_dir = entry.is_dir(follow_symlinks=False)
        return None if view.permission(path) is None else is_dir
    try:
        return os.path.isdir(view.resolve(path, Permission.READ))
    except (ToolFailure, ValueError):
        return None
