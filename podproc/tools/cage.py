"""The cage of one pod's commands: what they may read besides the scope, and what is theirs alone.

Readable is the pod's scope, and what programs need to run, which was looked up when the fleet was
started (`protocol.surroundings`). It is the user's to widen: `extra_read`, `extra_write`. The
product's own folders are closed whatever any rule says, but for the pod's own command output. What
follows from all that for one command, at its level, is worked out in `podproc.tools.cage_plan`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from podproc.confine.cell import MOST_PROCESSES
from podproc.confine.kernel import open_path
from podproc.tools.cage_plan import Disk, Kind, Looks, Order, Territory, plan
from podproc.tools.removing import remove_tree
from protocol.cage import CageLevel
from protocol.manifest import Sandbox
from protocol.scope import (
    LentRule,
    Permission,
    Scope,
    ScopeRule,
    canonical,
    effective_permission,
    may_change,
)
from protocol.surroundings import USUAL_PATH

SHARED = ("/tmp", "/var/tmp", "/dev/shm")
"""Folders that everybody writes: at level `namespaces` each pod has its own."""


class RealDisk:
    """The machine's."""

    def kind(self, path: str) -> Kind:
        """Return what is at a canonical path; what cannot be reached is not there."""
        try:
            fd = open_path(path)
        except OSError as error:
            return Kind.LINK if error.errno == errno.ELOOP else Kind.NOTHING
        try:
            return Kind.FOLDER if stat.S_ISDIR(os.fstat(fd).st_mode) else Kind.FILE
        finally:
            os.close(fd)

    def entries(self, path: str) -> list[str]:
        """Return the names in a folder; none where it cannot be listed."""
        try:
            return os.listdir(path)
        except OSError:
            return []


@dataclass(frozen=True, slots=True)
class _Known:
    """An order, and what it depends on."""

    order: Order
    looks: Looks


class Cage:
    """The cage of one pod's commands; `order` blocks, since it looks at the disk.

    `lent` is asked each time. `readable` is what the fleet's surroundings give, canonical like the
    folders that the settings open: what is a link by now is as good as not there. `protected` are
    files that no command may change at level `namespaces`; at `landlock` a denied file would keep
    new ones out of its folder. `room` is a folder of the pod's own for what its commands write
    outside of the scope: it is empty when the first keeper starts, and gone after `close`.
    `processes` is how many processes and threads they may have together.
    """

    def __init__(
        self,
        level: CageLevel,
        settings: Sandbox,
        *,
        scope: Scope,
        lent: Callable[[], tuple[LentRule, ...]],
        closed: Sequence[str],
        protected: Sequence[str] = (),
        opened: str,
        room: str,
        readable: Sequence[str],
        disk: Disk | None = None,
        processes: int = MOST_PROCESSES,
    ) -> None:
        self.level = level
        self._processes = processes
        self._settings = settings
        self._lent = lent
        self._closed = tuple(canonical(path) for path in closed)
        self._protected = tuple(protected) if level is CageLevel.NAMESPACES else ()
        self._opened = (canonical(opened),)
        self._room = canonical(room)
        self._disk = disk or RealDisk()
        self._readable = tuple(readable)
        self._pods_scope = scope
        self._is_furnished = False
        self._known: dict[tuple[bool, tuple[LentRule, ...]], _Known] = {}

    @functools.cached_property
    def _scope(self) -> Scope:
        """The pod's scope with what commands may besides; looked up once, at the first command."""
        reads = [*self._readable, *self._settings.extra_read]
        opened = [
            *(ScopeRule(target=path, permission=Permission.READ) for path in reads),
            *(ScopeRule(target=p, permission=Permission.WRITE) for p in self._settings.extra_write),
        ]
        there = (Kind.FOLDER, Kind.FILE)
        extra = [rule for rule in opened if self._disk.kind(rule.target) in there]
        scope = self._pods_scope
        return scope.model_copy(update={"allow": (*scope.allow, *extra)})

    def searched(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return an environment whose PATH lacks what is lent: borrowers may put programs there."""
        lent = Scope(allow=tuple(self._lent()))
        folders = environment.get("PATH", "").split(":") if lent.allow else []
        if not any(may_change(lent, folder) for folder in folders):
            return dict(environment)
        kept = [folder for folder in folders if not may_change(lent, folder)]
        return {**environment, "PATH": ":".join(kept) or USUAL_PATH}

    def moved(self) -> list[str]:
        """Return what is opened for commands and has become a link, or lies below one; blocks."""
        opened = (*self._readable, *self._settings.extra_read, *self._settings.extra_write)
        return [path for path in opened if self._disk.kind(path) is Kind.LINK]

    @property
    def temporary(self) -> str:
        """Where commands find their private TMPDIR."""
        return "/tmp" if self.level is CageLevel.NAMESPACES else f"{self._room}/tmp"

    @property
    def about(self) -> str:
        """What a model has to know of it, in a sentence or two."""
        said = "Commands write only where this agent may, and in $TMPDIR; the rest is refused."
        if self._settings.network:
            return said
        but = " but loopback" if self.level is CageLevel.NAMESPACES else ""
        return f"{said} They have no network{but}."

    def environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return what commands see: caches and temporary files go where they may be written."""
        cache = f"{self.temporary}/.cache"
        own = {
            "TMPDIR": self.temporary,
            "XDG_CACHE_HOME": cache,
            "npm_config_cache": f"{cache}/npm",
        }
        if os.geteuid() == 0:
            own["TAR_OPTIONS"] = "--no-same-owner"  # root without its powers gives no file away
        return {**environment, **own}

    def cell(self) -> dict[str, Any]:
        """Make the pod's own folders, empty at first, and say what its keeper makes.

        Raises OSError.
        """
        if not self._is_furnished:
            self.close()
        for name in ("tmp", "memory"):
            os.makedirs(f"{self._room}/{name}", 0o700, exist_ok=True)
        self._is_furnished = True
        return {
            "level": self.level.value,
            "network": self._settings.network,
            "unix_sockets": self._settings.unix_sockets,
            "memory": f"{self._room}/memory",
            "processes": self._processes,
        }

    def order(self, *, writes: bool = True) -> Order:
        """Return what a command may that starts now; without `writes` it only reads."""
        lent = tuple(self._lent())
        known = self._known.get((writes, lent))
        if known is None or not known.looks.hold(self._disk):
            looks = Looks(self._disk)
            known = _Known(
                plan(self._territory(lent, looks, writes=writes), looks, self.level), looks
            )
            self._known = {(writes, lent): known}
        return known.order

    def _territory(self, lent: tuple[LentRule, ...], disk: Disk, *, writes: bool) -> Territory:
        has_mounts = self.level is CageLevel.NAMESPACES
        temporary = f"{self._room}/tmp"
        scope = self._scope if writes else _read_only(self._scope)
        return Territory(
            _without(scope, (path for path in self._protected if disk.kind(path) is Kind.FILE)),
            lent,
            self._closed,
            self._opened,
            own=() if has_mounts else (temporary,),
            private=self._stand_ins(temporary, disk) if has_mounts else {},
        )

    def _stand_ins(self, temporary: str, disk: Disk) -> dict[str, str]:
        """Return what stands in for which shared folder; not for one that is the scope's own."""
        own = {"/dev/shm": f"{self._room}/memory"}
        return {
            path: own.get(path, temporary)
            for path in SHARED
            if disk.kind(path) is Kind.FOLDER
            and effective_permission(self._scope, f"{path}/\0") is not Permission.WRITE
        }

    def close(self) -> None:
        """Remove the pod's own folders, once nothing runs any more; raises OSError.

        They are put aside first, in one step: what cannot be removed now is in nobody's way.
        """
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._room, f"{self._room}.{secrets.token_hex(4)}.old")
        for aside in glob.glob(f"{glob.escape(self._room)}.*.old"):
            with contextlib.suppress(OSError):
                remove_tree(aside)


def _read_only(scope: Scope) -> Scope:
    allow = tuple(r.model_copy(update={"permission": Permission.READ}) for r in scope.allow)
    return scope.model_copy(update={"allow": allow})


def _without(scope: Scope, files: Iterable[str]) -> Scope:
    """Deny to change some files. They are there: what is not there, no mount could hold."""
    deny = (
        ScopeRule(target=path, permission=Permission.WRITE)
        for path in files
        if effective_permission(scope, path) is Permission.WRITE
    )
    return scope.model_copy(update={"deny": (*scope.deny, *deny)})
