"""What one command of a pod may see and change: an order for its cage, made anew each time.

The scope says what a pod may do at any path; kernels speak other languages. A *place* is a path
where the answer changes: the target of a rule, what is lent, the product's folders. Between places
nothing changes, so an order is worked out from the places alone:

    mounts   (level `namespaces`)  the whole file system is read-only to begin with; at each place
             where something else holds, a mount says so. Folders on the way to a place that may
             not be written, below one that may, become mounts of their own: what is mounted cannot
             be renamed away, and with it what lies beneath.
    grants   Landlock rules, which only ever add. What a folder grants it grants to all below it. A
             folder above a place where less holds therefore grants nothing as a whole, only what
             is in it now, one by one: nothing new can be made in it, at level `landlock`. At level
             `namespaces` mounts hold such places back, and only those that no mount can hold,
             since nothing is there yet, or a link is, or a file that its borrower replaces, are
             treated in this way.

A mount holds a place against the command alone. When somebody outside renames another thing over
what it lies on, or removes that, the kernel takes the mount off, and a command that runs then has
what is above it; the next one finds the new thing held again.

Pure: `Disk` is what it asks of the file system, and all it knows of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from protocol.cage import CageLevel
from protocol.scope import (
    Permission,
    Scope,
    ScopeRule,
    contains,
    effective_permission,
    is_beneath,
    matches,
    overlaps,
)

DEVICES = (
    ("/dev/null", "device"),
    ("/dev/zero", "device"),
    ("/dev/full", "device"),
    ("/dev/random", "read"),
    ("/dev/urandom", "read"),
)
TERMINALS = (("/dev/ptmx", "terminal"), ("/dev/pts", "terminal"), ("/dev/tty", "terminal"))


class Kind(Enum):
    """What is at a path, no link followed."""

    FOLDER = "folder"
    FILE = "file"
    LINK = "link"
    NOTHING = "nothing"


class Disk(Protocol):
    """What is there, as far as an order depends on it."""

    def kind(self, path: str) -> Kind:
        """Return what is at a canonical path."""

    def entries(self, path: str) -> list[str]:
        """Return the names in a folder; none where it cannot be listed."""


class Looks:
    """A disk that remembers what it said, so that an order holds as long as it would say so again.

    To look again costs a tenth of what an order does.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._kinds: dict[str, Kind] = {}
        self._entries: dict[str, list[str]] = {}

    def kind(self, path: str) -> Kind:
        """Return what is at a canonical path."""
        if path not in self._kinds:
            self._kinds[path] = self._disk.kind(path)
        return self._kinds[path]

    def entries(self, path: str) -> list[str]:
        """Return the names in a folder; none where it cannot be listed."""
        if path not in self._entries:
            self._entries[path] = self._disk.entries(path)
        return self._entries[path]

    def hold(self, disk: Disk) -> bool:
        """Say whether a disk gives the same answers."""
        return all(disk.kind(path) is kind for path, kind in self._kinds.items()) and all(
            disk.entries(path) == names for path, names in self._entries.items()
        )


@dataclass(frozen=True, slots=True)
class Territory:
    """What may be done where: the scope with what is lent and closed, over all paths.

    `closed` folders give nothing, `opened` ones in them what the scope says, reading at most, and
    `own` ones everything. `private` are shared folders in whose place the pod has its own.
    """

    scope: Scope
    lent: tuple[ScopeRule, ...] = ()
    closed: tuple[str, ...] = ()
    opened: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    private: Mapping[str, str] = field(default_factory=dict)

    def at(self, path: str) -> Permission | None:
        """Return what may be done at a canonical path."""
        if any(is_beneath(path, one) for one in self.own):
            return Permission.WRITE
        granted = effective_permission(self.scope, path)
        if granted is None:
            return None
        if any(is_beneath(path, one) for one in self.closed):
            return Permission.READ if any(is_beneath(path, one) for one in self.opened) else None
        if granted is Permission.WRITE and any(matches(rule, path) for rule in self.lent):
            return Permission.READ
        return granted

    def within(self, path: str) -> Permission | None:
        """Return what may be done with whatever comes to be in a folder, at no place of its own."""
        return self.at(f"{path.rstrip('/')}/\0")

    def rules(self) -> Iterator[ScopeRule]:
        """Yield every rule that has a say."""
        yield from self.scope.allow
        yield from self.scope.deny
        yield from self.lent


@dataclass(frozen=True, slots=True)
class Order:
    """What one command may, as its keeper carries it out; see `podproc.confine.cell`."""

    mounts: tuple[tuple[Any, ...], ...]
    grants: tuple[tuple[str, str], ...]
    claims: tuple[ScopeRule, ...] = ()
    less: tuple[ScopeRule, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        """Return it as it travels."""
        return {"mounts": self.mounts, "grants": self.grants}

    def could_write(self, rule: ScopeRule) -> bool:
        """Say whether the command can write some path under a rule; rather yes than no."""
        if any(contains(less, rule) for less in self.less):
            return False
        return any(overlaps(claim, rule) for claim in self.claims)


def plan(territory: Territory, disk: Disk, level: CageLevel) -> Order:
    """Return the order for a command; see the head of this module."""
    planner = _Planner(territory, disk, has_mounts=level is CageLevel.NAMESPACES)
    mounts = planner.mounts() if planner.has_mounts else []
    devices = [*DEVICES, *(TERMINALS if planner.has_mounts else ())]
    grants = [*devices, *((place, "write") for place in territory.private), *planner.grants()]
    return Order(
        tuple(mounts),
        tuple(dict.fromkeys(grants)),
        claims=tuple(r for r in territory.scope.allow if r.permission is Permission.WRITE),
        less=(*territory.lent, *territory.scope.deny),
    )


_RANK = {None: 0, Permission.READ: 1, Permission.WRITE: 2}
_WORD = {Permission.READ: "read", Permission.WRITE: "write"}


class _Planner:
    def __init__(self, territory: Territory, disk: Disk, *, has_mounts: bool) -> None:
        self._territory = territory
        self._private = territory.private
        self._disk = disk
        self.has_mounts = has_mounts
        self._uneven = {
            rule.target
            for rule in territory.rules()
            if not rule.recursive and self._kind(rule.target) is Kind.FOLDER
        }
        """Folders in which new folders would be worth less, or more, than they are themselves."""
        self._slippery = {
            rule.target for rule in territory.lent if self._kind(rule.target) is Kind.FILE
        }
        """Places that no mount holds for long: who replaces a file by renaming takes it off."""
        self._frozen: set[str] = set()
        self._places = sorted(self._all_places(), key=lambda path: (path.count("/"), path))
        if "/" in self._places:
            self._places = ["/", *(path for path in self._places if path != "/")]

    def _all_places(self) -> set[str]:
        territory = self._territory
        places = {rule.target for rule in territory.rules()}
        places |= {*territory.closed, *territory.opened, *territory.own}
        for folder in self._uneven:
            places |= {path for path in self._below(folder) if self._kind(path) is Kind.FOLDER}
        if self.has_mounts:
            self._frozen = {*self._to_freeze(places)}
            for folder in self._frozen:
                places |= {folder, *filter(self._is_there, self._below(folder))}
        return places

    def _to_freeze(self, places: Iterable[str]) -> Iterator[str]:
        """Yield folders that get no new entry, since one could be where less holds.

        Landlock sees to that (`_floor`), but not in what is shown below a folder that stands in for
        a shared one: all of that is granted for the stand-in's sake.
        """
        for place in places:
            if place in self._uneven or not self._is_held(place):
                above = [place, *_above(place)]
                folder = next(one for one in above if self._kind(one) is Kind.FOLDER)
                if any(folder != one and is_beneath(folder, one) for one in self._private):
                    yield folder

    def _below(self, folder: str) -> Iterator[str]:
        for name in self._disk.entries(folder):
            yield f"{folder.rstrip('/')}/{name}"

    def _kind(self, path: str) -> Kind:
        return self._disk.kind(path)

    def _is_there(self, path: str) -> bool:
        return self._kind(path) in (Kind.FOLDER, Kind.FILE)

    def _is_held(self, place: str) -> bool:
        """Whether a mount can hold a place, whatever others do with it."""
        return self._is_there(place) and place not in self._slippery

    def _value(self, path: str) -> Permission | None:
        """Return what holds at a path and, of a folder that may be listed, in it."""
        at = self._territory.at(path)
        is_open_folder = at is not None and self._kind(path) is Kind.FOLDER
        return self._territory.within(path) if is_open_folder else at

    # -- mounts

    def mounts(self) -> list[tuple[Any, ...]]:
        """Return what is mounted, the upper before the lower."""
        shown: dict[str, Permission | None] = {"/": Permission.READ}
        stands_in = self._private
        shown |= dict.fromkeys(stands_in)
        for place in self._places:
            if not self._is_there(place) or place in stands_in:
                continue
            above = _nearest(place, shown)
            value = self._value(place)
            if place in self._frozen and value is Permission.WRITE:
                value = Permission.READ
            if value is shown[above]:
                continue
            if shown[above] is Permission.WRITE:
                shown |= dict.fromkeys(_between(above, place), Permission.WRITE)
            shown[place] = value
        if shown["/"] is None:
            shown["/"] = Permission.READ  # the root cannot be covered; what it grants is nothing
        order = sorted(shown, key=lambda path: (path != "/", path.count("/"), path))
        ops: list[tuple[Any, ...]] = []
        for path in order:
            inside = self._inside(path, order, shown) if shown[path] is None else []
            if path in stands_in:
                ops.append(("private", path, stands_in[path], inside))
            elif shown[path] is None:
                ops.append(("cover", path, inside))
            elif path != "/" or shown[path] is Permission.WRITE:
                ops.append((_WORD[shown[path] or Permission.READ], path))
        return ops

    def _inside(
        self, folder: str, order: Sequence[str], shown: Mapping[str, Permission | None]
    ) -> list[tuple[str, str]]:
        """Return what must be made in a folder that stands in for one, to mount other things on."""
        return [
            (self._kind(path).value, os.path.relpath(path, folder))
            for path in order
            if path != folder
            and is_beneath(path, folder)
            and _nearest(path, {one: None for one in shown if one != path}) == folder
        ]

    # -- grants

    def grants(self) -> Iterator[tuple[str, str]]:
        """Yield what Landlock lets pass, places without anything above them first."""
        done: list[str] = []
        for place in self._places:
            if any(is_beneath(place, one) for one in done):
                continue
            if self._is_there(place) and self._value(place) is not None:
                done.append(place)
                yield from self._grant(place, given=None)

    def _grant(self, path: str, *, given: Permission | None) -> Iterator[tuple[str, str]]:
        """Yield what holds at a path and below it, beyond what was given to all of it before."""
        value = self._value(path)
        below = [place for place in self._places if place != path and is_beneath(place, path)]
        floor = self._floor(path, value, below)
        if _RANK[floor] > _RANK[given]:
            assert floor is not None
            given = floor
            yield path, _WORD[floor]
        if floor is value:
            for place in _topmost(below):
                if self._is_there(place):
                    yield from self._grant(place, given=given)
            return
        if floor is None and value is not None and not self._hides_a_folder(path, below):
            yield path, "list"
        names = {*self._disk.entries(path), *(_first_below(path, place) for place in below)}
        for name in sorted(names):
            child = f"{path.rstrip('/')}/{name}"
            if self._is_there(child):
                yield from self._grant(child, given=given)

    def _floor(
        self, path: str, value: Permission | None, below: Sequence[str]
    ) -> Permission | None:
        """Return the least that holds below a path where no mount sees to it."""
        values = [value]
        for place in below:
            if not (self.has_mounts and self._is_held(place)):
                values += [self._territory.at(place), self._value(place)]
        for folder in self._uneven & {path, *below}:
            new_folder = self._territory.at(f"{folder.rstrip('/')}/\0/\0")
            values.append(new_folder)
        return min(values, key=_RANK.__getitem__)

    def _hides_a_folder(self, path: str, below: Sequence[str]) -> bool:
        """Whether to list a folder would list, below it, one that may not even be read."""
        return not self._uneven.isdisjoint({path, *below}) or any(
            self._territory.at(place) is None and self._kind(place) is Kind.FOLDER
            for place in below
        )


def _nearest(path: str, among: Iterable[str]) -> str:
    """Return the lowest of some paths that another one lies at or below."""
    return max((one for one in among if is_beneath(path, one)), key=len)


def _above(path: str) -> Iterator[str]:
    """Yield the folders above a path, the nearest first."""
    while path != "/":
        path = path.rpartition("/")[0] or "/"
        yield path


def _between(above: str, below: str) -> list[str]:
    """Return the folders strictly between two paths."""
    first = above.rstrip("/")
    parts = below[len(first) + 1 :].split("/")
    return [f"{first}/{'/'.join(parts[:depth])}" for depth in range(1, len(parts))]


def _first_below(folder: str, path: str) -> str:
    return path[len(folder.rstrip("/")) + 1 :].split("/")[0]


def _topmost(paths: Sequence[str]) -> list[str]:
    return [one for one in paths if not any(o != one and is_beneath(one, o) for o in paths)]
