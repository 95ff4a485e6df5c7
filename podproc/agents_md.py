"""What a workspace says to agents: AGENTS.md files, from the workspace's root down to the cwd.

Each folder on the way may have one; CLAUDE.md is read where a folder has no AGENTS.md. The root's
comes first, so that the nearest comes last and has the last word. Where they are too much together
it is the far ones that are cut and left out. A cwd outside the workspace has only its own.

They are read with the pod's scope, and what is not read is said to people, not to the model. The
hashes are of the bytes that were used, so that a log can tell later which text a pod was given.

Everything here blocks; call it off the event loop.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any

from podproc.escaping import plain
from podproc.excerpt import SPARE, block, excerpt, is_binary, rest_of
from podproc.tools.base import ToolFailure
from podproc.tools.fsview import FileHead, NoSuchFile, ScopeDenied, ScopeView
from protocol.errors import InvalidScope
from protocol.scope import canonical, components

NAMES = ("AGENTS.md", "CLAUDE.md")
MOST_OF_ONE = 32 * 1024
MOST_OF_ALL = 96 * 1024


@dataclass(frozen=True, slots=True)
class AgentsText:
    """One file: `bytes` of its `size` were used, and `sha256` is theirs; `note` tells of a cut."""

    path: str
    text: str
    sha256: str
    bytes: int
    size: int
    note: str = ""

    @property
    def block(self) -> str:
        """The text between tags that it cannot close, with the note behind it."""
        shown = block("agents_md", self.text, path=self.path)
        return f"{shown}\n{self.note}" if self.note else shown


@dataclass(frozen=True, slots=True)
class AgentsFiles:
    """All texts, the root's first, and what people are told."""

    texts: tuple[AgentsText, ...] = ()
    alerts: tuple[str, ...] = ()

    def payload(self) -> dict[str, Any]:
        """Return what a log keeps of them: no text, but what tells whether it was the same."""
        return {
            "files": [
                {"path": t.path, "sha256": t.sha256, "bytes": t.bytes, "size": t.size}
                for t in self.texts
            ]
        }


def collect(view: ScopeView, *, workspace: str, cwd: str) -> AgentsFiles:
    """Return the files of the folders from the workspace down to the cwd; raises nothing."""
    texts: list[AgentsText] = []
    alerts: list[str] = []
    taken: set[str] = set()
    left = MOST_OF_ALL
    for folder in reversed(_folders(workspace, cwd)):
        found = _read(view, folder, min(MOST_OF_ONE, left), alerts)
        if found is None or found[0] in taken:
            continue
        path, head = found
        taken.add(path)  # a link to another folder's file adds nothing
        text = _text_of(path, head, left)
        if text.bytes:
            texts.append(text)
            left -= len(text.text.encode())
        if text.note:
            alerts.append(plain(f"{path}: {text.bytes} of {text.size} bytes are used"))
    return AgentsFiles(tuple(reversed(texts)), tuple(reversed(alerts)))


def _folders(workspace: str, cwd: str) -> list[str]:
    """Return the folders to look into, the root's first."""
    try:
        here, root = canonical(cwd), canonical(workspace)
        parts, above = components(here), components(root)
    except InvalidScope:
        return [cwd]
    if parts[: len(above)] != above:
        return [here]
    depths = range(len(above), len(parts) + 1)
    return ["/" + "/".join(parts[:depth]) for depth in depths]


def _read(
    view: ScopeView, folder: str, most: int, alerts: list[str]
) -> tuple[str, FileHead] | None:
    for name in NAMES:
        path = os.path.join(folder, name)
        try:
            real, head = view.head(path, most + SPARE)
        except NoSuchFile:
            continue
        except ScopeDenied as denied:
            if not os.path.lexists(path):
                continue  # there is nothing to tell of
            alerts.append(plain(f"{path} is left out: {denied.message}"))
            return None
        except (ToolFailure, OSError, ValueError) as error:
            alerts.append(plain(f"{path} is left out: {error}"))
            return None
        if is_binary(head.data):
            alerts.append(plain(f"{path} is left out: it is a binary file"))
            return None
        return real, head
    return None


def _text_of(path: str, head: FileHead, left: int) -> AgentsText:
    shown = excerpt(head.data, min(MOST_OF_ONE, left))
    used = hashlib.sha256(head.data[: shown.taken]).hexdigest()
    size = max(head.size, len(head.data))
    note = rest_of(head, shown, path) or ""
    return AgentsText(path, shown.text, used, shown.taken, size, note)
