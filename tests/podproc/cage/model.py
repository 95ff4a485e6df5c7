"""What the kernel makes of an order, worked out path by path, without any of the planner's code.

`Tree` is a disk in memory. `Kernel` carries an order out on it, as `podproc.confine.cell` says:

    mounts   each is attached where its path leads at that moment, and hides what was there, mounts
             included. What it shows was copied before anything was attached: the disk's own, at
             the same path; of `cover` and `private` only what was made in them. The root is
             read-only to begin with. A mount point can be neither renamed nor removed; the folders
             above it can.
    grants   a right holds at a path if it was granted at it or at any folder above it, through all
             mounts. A grant at a path where nothing is, or a link, is none.

To change needs both: a mount that is not read-only, and the right. To make, rename or remove an
entry needs them at its folder. At level `landlock` there are no mounts, and only the right counts.

Left out, since no order can say anything about it: mode, owner, times and attributes; what was open
before; several names of one file (Landlock lets no file gain rights by a new name, and no name
crosses a mount); and that "/" is a mount of the machine's, which no other can be put over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from podproc.confine import landlock
from podproc.tools.cage_plan import Kind, Order, Territory
from protocol.cage import CageLevel
from protocol.scope import Permission

CHANGES_ENTRIES = landlock.CHANGE & ~(landlock.WRITE_FILE | landlock.TRUNCATE | landlock.REFER)
ON_A_FILE = landlock.EXECUTE | landlock.READ_FILE | landlock.WRITE_FILE | landlock.TRUNCATE


class CannotCarryOut(Exception):
    """The order asks for what the kernel refuses: the command would not run."""


def lies_in(path: str, folder: str) -> bool:
    """Say whether a path is a folder or lies anywhere below it."""
    return f"{path}/".startswith("/" if folder == "/" else f"{folder}/")


def above(path: str) -> list[str]:
    """Return the path itself and all folders above it, the root last."""
    parts = path.strip("/").split("/") if path != "/" else []
    return ["/" + "/".join(parts[:depth]) for depth in range(len(parts), -1, -1)]


def parent(path: str) -> str:
    """Return the folder that a path is an entry of."""
    return above(path)[1]


class Tree:
    """A disk in memory: `Tree("/w/d/ /w/file /w/link@")`; the folders above are there, too."""

    def __init__(self, text: str = "", *, things: Mapping[str, Kind] | None = None) -> None:
        """Take it as text, or as what is at each path."""
        self.things = {"/": Kind.FOLDER, **(things or {})}
        for word in text.split():
            path = word.rstrip("/@")
            kind = Kind.FOLDER if word.endswith("/") else Kind.FILE
            self.things[path] = Kind.LINK if word.endswith("@") else kind
        for path in list(self.things):
            for folder in above(path)[1:]:
                self.things.setdefault(folder, Kind.FOLDER)

    def kind(self, path: str) -> Kind:
        """Return what is at a path; below a link is, as on a real disk, a link."""
        for one in above(path):
            kind = self.things.get(one)
            if kind is not None:
                return kind if one == path or kind is Kind.LINK else Kind.NOTHING
        return Kind.NOTHING

    def entries(self, path: str) -> list[str]:
        """Return the names in a folder."""
        return [one.rpartition("/")[2] for one in self.things if one != "/" and parent(one) == path]

    def paths(self) -> Iterator[str]:
        """Yield every file and folder, no links."""
        yield from (path for path, kind in self.things.items() if kind is not Kind.LINK)


@dataclass
class _Mount:
    is_read_only: bool
    is_own: bool = False
    made: dict[str, Kind] | None = None
    """What is in it, where that is not the disk's."""


@dataclass
class Kernel:
    """A command that runs under an order; raises CannotCarryOut where it would not."""

    tree: Tree
    order: Order
    level: CageLevel
    _mounts: dict[str, _Mount] = field(init=False)
    _rights: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        has_mounts = self.level is CageLevel.NAMESPACES
        self._mounts = {"/": _Mount(is_read_only=has_mounts)}
        if not has_mounts and self.order.mounts:
            raise CannotCarryOut("mounts without namespaces")
        for word, path, *more in self.order.mounts:
            self._attach(word, path, more)
        self._rights = {}
        for path, word in self.order.grants:
            kind = self.kind(path)
            if kind in (Kind.FOLDER, Kind.FILE):
                usable = landlock.RIGHTS[word] & (ON_A_FILE if kind is Kind.FILE else ~0)
                self._rights[path] = self._rights.get(path, 0) | usable

    def _attach(self, word: str, path: str, more: Sequence[object]) -> None:
        kind = self.kind(path)
        made: dict[str, Kind] | None = None
        if word in ("cover", "private"):
            inside = more[-1]
            assert isinstance(inside, list)
            made = _made(path, kind, inside)
        shown = self.tree.kind(str(more[0]) if word == "private" else path)
        if kind not in (Kind.FOLDER, Kind.FILE) or (word != "cover" and shown is not kind):
            raise CannotCarryOut(f"{word} {path}: {shown} on {kind}")
        self._mounts = {one: m for one, m in self._mounts.items() if not lies_in(one, path)}
        self._mounts[path] = _Mount(
            is_read_only=word in ("cover", "read"), is_own=word == "private", made=made
        )

    def _mount(self, path: str) -> _Mount:
        return next(self._mounts[one] for one in above(path) if one in self._mounts)

    def kind(self, path: str) -> Kind:
        """Return what the command finds at a path."""
        made = self._mount(path).made
        return self.tree.kind(path) if made is None else made.get(path, Kind.NOTHING)

    def shows(self, path: str) -> bool:
        """Say whether what is found at a path is what the disk has there."""
        return self._mount(path).made is None and self.tree.kind(path) is not Kind.NOTHING

    def _has(self, path: str, right: int) -> bool:
        return any(self._rights.get(one, 0) & right for one in above(path))

    def reads(self, path: str) -> bool:
        """Say whether what is in the disk's file, or which names are in its folder, can be read."""
        is_folder = self.kind(path) is Kind.FOLDER
        right = landlock.READ_DIR if is_folder else landlock.READ_FILE
        return self.shows(path) and self.kind(path) is not Kind.LINK and self._has(path, right)

    def writes(self, path: str) -> bool:
        """Say whether what is in the disk's file can be changed."""
        is_there = self.shows(path) and self.kind(path) is Kind.FILE
        is_read_only = self._mount(path).is_read_only
        return is_there and not is_read_only and self._has(path, landlock.WRITE_FILE)

    def changes(self, folder: str) -> bool:
        """Say whether entries of the disk's folder can be made, renamed and removed."""
        return self.shows(folder) and self._changes(folder)

    def changes_own(self, folder: str) -> bool:
        """Say the same of a folder of the pod in place of a shared one."""
        return self._mount(folder).is_own and self._changes(folder)

    def _changes(self, folder: str) -> bool:
        is_changeable = self.kind(folder) is Kind.FOLDER and not self._mount(folder).is_read_only
        return is_changeable and self._has(folder, CHANGES_ENTRIES)

    def moves(self, path: str) -> bool:
        """Say whether what is at a path can be renamed or removed, with all that is below it."""
        is_there = path != "/" and self.kind(path) is not Kind.NOTHING
        return is_there and path not in self._mounts and self.changes(parent(path))

    def makes(self, path: str) -> str | None:
        """Return the path that would be made so that something new is at this one, if it can be.

        It is the path itself or a folder above it, which is not there, or can be moved away first.
        """
        for one in reversed(above(path)[:-1]):
            is_free = self.kind(one) is Kind.NOTHING or self.moves(one)
            if is_free and self.changes(parent(one)):
                return one
        return None


def _made(folder: str, kind: Kind, inside: list[tuple[str, str]]) -> dict[str, Kind]:
    made = {folder: kind}
    for word, relative in inside:
        path = f"{folder.rstrip('/')}/{relative}"
        for one in above(path)[1:]:
            if lies_in(one, folder):
                made.setdefault(one, Kind.FOLDER)
                if made[one] is not Kind.FOLDER:
                    raise CannotCarryOut(f"{path} is to be made in a file")
        made.setdefault(path, Kind(word))
    return made


# -- what is too much ------------------------------------------------------------------------------


def read_beyond(kernel: Kernel, territory: Territory, kind: Kind) -> list[str]:
    """Return the files, or folders, of the disk that can be read and may not be."""
    there = (path for path in kernel.tree.paths() if kernel.tree.kind(path) is kind)
    return [path for path in there if kernel.reads(path) and territory.at(path) is None]


def written_beyond(kernel: Kernel, territory: Territory) -> list[str]:
    """Return the files of the disk that can be changed and may not be."""
    there = kernel.tree.paths()
    return [
        path for path in there if kernel.writes(path) and territory.at(path) is not Permission.WRITE
    ]


def changed_beyond(kernel: Kernel, territory: Territory) -> list[str]:
    """Return the folders whose entries can be changed although less than write holds in them."""
    return [
        path
        for path in kernel.tree.paths()
        if kernel.changes(path) and territory.within(path) is not Permission.WRITE
    ]


def made_beyond(
    kernel: Kernel, territory: Territory, paths: Iterable[str]
) -> list[tuple[str, str]]:
    """Return at which of some paths something new can be made on the disk and may not be.

    That is a new entry, one in a new folder, and one that takes the place of an old one, or of
    anything above it, that was moved away. With each, the entry by which it begins.
    """
    may_not = (path for path in paths if territory.at(path) is not Permission.WRITE)
    return [(path, made) for path in may_not if (made := kernel.makes(path)) is not None]


def moved_beyond(kernel: Kernel, territory: Territory, paths: Iterable[str]) -> list[str]:
    """Return what can be moved away although, somewhere at or below it, less than write holds."""
    less = [path for path in paths if territory.at(path) is not Permission.WRITE]
    return [
        path
        for path in kernel.tree.things
        if kernel.moves(path) and any(lies_in(one, path) for one in less)
    ]
