"""What a machine can confine commands with, what a pod asks for, and what is left open. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from protocol.manifest import Sandbox as Settings
from protocol.manifest import SandboxMode
from protocol.summaries import Sandbox


class CageLevel(StrEnum):
    """How well commands are confined, weakest first."""

    NONE = "none"
    LANDLOCK = "landlock"
    NAMESPACES = "namespaces"


_RANK = [CageLevel.NONE, CageLevel.LANDLOCK, CageLevel.NAMESPACES]

UNCAGED = "shell commands are not caged: they can read and write whatever this user can"
UNSEEN = "mode, owner, times and attributes of this user's files can be changed anywhere"
STAT = (
    "whether a file is there, its size, times and attributes, where a link leads, and that "
    "something changes (inotify) can be seen anywhere"
)
REPLACED = (
    "a denied or lent folder, or a denied file, that somebody replaces from outside is open to "
    "commands that run then, if it lies below a writable folder"
)
FIFO = "a FIFO that may only be read can be written, below /tmp or a folder that is writable"
SHARED = (
    "epoll watches, pipe memory and disk space of this user can be used up, and what may be read "
    "can be locked (flock)"
)
COUNTED = "inotify watches of this user, and terminals, can be used up"
DEVICE = "a device file that lies in the scope can be opened"
MEMORY = "System V shared memory and message queues of this user can be used"
BOMB = "a command can start processes without bound"
ROOT = "run as root: what only root may read in /etc and other readable folders can be read"
NETWORK = "network: what a command can read it can send away"
SOCKETS = "unix_sockets: other programs of this user (a desktop bus, docker, ssh-agent) can be used"
OPERATORS = "what podsup itself goes by can be changed by commands: {}"
FLEET = "unix_sockets without namespaces: the fleet's own sockets can be connected to"


@dataclass(frozen=True, slots=True)
class CageSupport:
    """What was found by trying: the strongest level, and why it is not a stronger one.

    `is_alone`: at level `landlock`, too, commands see no process but their pod's own.
    """

    level: CageLevel = CageLevel.NONE
    missing: tuple[str, ...] = ()
    is_root: bool = False
    is_alone: bool = False
    bounds_processes: bool = False

    @classmethod
    def found(cls, fields: Mapping[str, Any]) -> CageSupport:
        """Return what `podproc.confine.support` has found."""
        level, missing = CageLevel(fields["level"]), tuple(fields["missing"])
        return cls(**{**fields, "level": level, "missing": missing})


def chosen_level(settings: Settings, support: CageSupport) -> CageLevel:
    """Return the level at which a pod's commands run."""
    return CageLevel.NONE if settings.mode is SandboxMode.OFF else support.level


def refusal(settings: Settings, support: CageSupport) -> str | None:
    """Say why a pod may not start on this machine, None where it may."""
    if settings.mode is not SandboxMode.REQUIRE:
        return None
    wanted = CageLevel(settings.level.value)
    if _RANK.index(support.level) >= _RANK.index(wanted):
        return None
    why = "; ".join(support.missing) or "nobody has looked"
    return (
        f'sandbox.mode = "require" asks for level {wanted} at least, and this machine has '
        f"{support.level}: {why}"
    )


def describe(settings: Settings, support: CageSupport, protected: Sequence[str] = ()) -> Sandbox:
    """Return the level in force and, in words for people, all that it leaves open.

    `protected` are the operator's files that lie where the pod may write.
    """
    level = chosen_level(settings, support)
    left_open = [*_left_open(level, settings, support)]
    if protected and level is not CageLevel.NAMESPACES:
        left_open.append(OPERATORS.format(", ".join(protected)))
    return Sandbox(level=level.value, unprotected=tuple(left_open))


def _left_open(level: CageLevel, settings: Settings, support: CageSupport) -> Iterator[str]:
    if level is CageLevel.NONE:
        yield UNCAGED
        return
    yield from (STAT, SHARED)
    if level is CageLevel.LANDLOCK:
        yield from (UNSEEN, MEMORY, COUNTED, DEVICE)
    else:
        yield from (FIFO, REPLACED)
    if not support.bounds_processes:
        yield BOMB
    if support.is_root:
        yield ROOT
    if settings.network:
        yield NETWORK
    if settings.unix_sockets:
        yield SOCKETS
        if level is CageLevel.LANDLOCK:
            yield FLEET
    for path in settings.extra_read:
        yield f"extra_read: {path} can be read"
    for path in settings.extra_write:
        yield f"extra_write: {path} can be written, and nobody arbitrates between pods there"


def is_below(settings: Settings, support: CageSupport) -> bool:
    """Say whether `prefer` got less than a cage, so that a person should hear of it."""
    return settings.mode is SandboxMode.PREFER and support.level is CageLevel.NONE
