"""What lies around a fleet's scopes and concerns its commands: PATH, the home, what programs need.

All of it is looked up once, when the fleet is started, and told to each pod at its birth. A pod
that could have it looked up again could first put a link there, and have its commands, or those of
the next pod, read where it leads. Looking up follows links; a link that some pod may replace leads
nowhere that counts.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from protocol.base import Wire
from protocol.errors import InvalidScope
from protocol.scope import Resolved, Scope, canonical, is_beneath, may_change, resolved, write_rules

USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc",
    "/opt",
    "/nix",
    "/sys",
    "/proc",
    "/run/systemd/resolve",
    "/run/resolvconf",
)
"""What programs need to run, wherever they come from."""

OF_THE_HOME = (
    ".gitconfig",
    ".config/git/config",
    ".config/git/ignore",
    ".config/git/attributes",
    ".local/lib",
    ".local/share/uv/python",
    ".local/share/uv/tools",
    ".local/share/pipx/venvs",
    ".local/share/mise/installs",
    ".rustup/settings.toml",
    ".rustup/toolchains",
)
"""What is read of the home: how git is set up, and languages that lie beside their PATH."""

OF_A_PREFIX = (
    *("bin", "compiler_compat", "completions", "conda-meta", "conf", "envs", "etc", "host"),
    *("include", "install", "installs", "jmods", "lib", "lib32", "lib64", "libexec", "pkg", "pkgs"),
    *("platform", "plugins", "pyvenv.cfg", "sdk", "share", "shared", "shims", "src", "ssl"),
    *("store", "toolchains", "tools", "version", "versions", "x86_64-conda-linux-gnu"),
)
"""What programs need beside their PATH's folder; in the home nothing else, since keys lie there."""

HOMES = "/home"
"""Where homes lie; others than one's own are homes, too."""


class Surroundings(Wire):
    """What one pod's commands have besides its scope.

    `path` is their PATH, `programs` the folders in which podsup itself looks for what it runs, and
    `readable` what they may read; the last is canonical.
    """

    path: str = USUAL_PATH
    programs: str = USUAL_PATH
    readable: tuple[str, ...] = SYSTEM


class Opened(NamedTuple):
    """A folder of PATH, and what of it and beside it is readable."""

    place: Resolved
    readable: tuple[Resolved, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What was there when a fleet was started."""

    path: tuple[Opened, ...]
    system: tuple[str, ...]
    of_homes: tuple[Resolved, ...]

    def places(self) -> Iterator[str]:
        """Yield every path that decides what commands find, but for the system's."""
        for one in (*(o.place for o in self.path), *self.of_homes, *self._beside()):
            yield from _decisive(one)

    def readable(self, changeable: Iterable[str] = ()) -> tuple[str, ...]:
        """Return what commands may read, less what a pod could have led elsewhere."""
        risky = frozenset(changeable)
        folders = [one for one in self.path if risky.isdisjoint(_decisive(one.place))]
        found = [*(place for one in folders for place in one.readable), *self.of_homes]
        sound = (place.path for place in found if risky.isdisjoint(_decisive(place)))
        return tuple(dict.fromkeys((*self.system, *sound)))

    def searched(self, changeable: Iterable[str] = ()) -> str:
        """Return the folders of PATH, less those in which a pod could put a program."""
        risky = frozenset(changeable)
        kept = (one.place.path for one in self.path if risky.isdisjoint(_decisive(one.place)))
        return ":".join(dict.fromkeys(kept)) or USUAL_PATH

    def _beside(self) -> Iterator[Resolved]:
        return (place for one in self.path for place in one.readable)


def look_around(environment: Mapping[str, str], closed: Iterable[str]) -> Found:
    """Look up what every command may need, as far as it is there.

    Of each folder of PATH its parent is readable, too, since that is where a program's libraries
    are; but not where that would be the root, a home, something above it, or what holds one of the
    `closed` folders. In a home it is only what such a parent usually has: programs keep their keys
    there as well. A folder of PATH that is empty or relative is none.
    """
    homes = _homes(environment)
    own = [*(place.path for place in _there(closed)), *homes]
    path = environment.get("PATH", USUAL_PATH).split(":")
    return Found(
        path=tuple(one for folder in path for one in _opened(folder, homes, own)),
        system=tuple(dict.fromkeys(place.path for place in _there(SYSTEM))),
        of_homes=tuple(_there(f"{home}/{name}" for home in homes for name in OF_THE_HOME)),
    )


def around(
    found: Found, pod: str, changers: Mapping[str, frozenset[str]], own: Scope
) -> Surroundings:
    """Return what one pod of a fleet has around it; `changers` says which places pods may change.

    A command's PATH loses the folders in which another pod could put a program. What lies in the
    pod's own scope is nobody else's to write.
    """
    by_any = frozenset[str]().union(*changers.values())
    by_others = frozenset[str]().union(*(one for name, one in changers.items() if name != pod))
    foreign = frozenset(place for place in by_others if not may_change(own, place))
    return Surroundings(
        path=found.searched(foreign),
        programs=found.searched(by_any),
        readable=found.readable(by_any),
    )


def changeable(found: Found, scopes: Iterable[Scope]) -> frozenset[str]:
    """Return the places on which a fleet's commands depend, and which some scope lets change."""
    held, places = [scope for scope in scopes if write_rules(scope)], {*found.places()}
    return frozenset(place for place in places if any(may_change(scope, place) for scope in held))


def _decisive(place: Resolved) -> tuple[str, ...]:
    return place.path, *place.links


def _opened(folder: str, homes: Sequence[str], own: Sequence[str]) -> Iterator[Opened]:
    with contextlib.suppress(InvalidScope):
        if folder.startswith("/"):
            readable = (one for one in _with_parent(folder, homes) if not _holds_any(one, own))
            yield Opened(resolved(folder), tuple(_there(readable)))


def _holds_any(folder: str, others: Iterable[str]) -> bool:
    real = next(_there([folder]), None)
    return real is not None and any(is_beneath(other, real.path) for other in others)


def _homes(environment: Mapping[str, str]) -> list[str]:
    """Return the homes of this user, canonical: what the environment says, and what is so."""
    told = [environment.get("HOME", "")]
    with contextlib.suppress(KeyError):  # a user without an entry has no home but that
        told.append(pwd.getpwuid(os.geteuid()).pw_dir)
    return list(dict.fromkeys(place.path for place in _there(told)))


def _with_parent(folder: str, homes: Sequence[str]) -> Iterator[str]:
    """Yield a folder of PATH, and its parent or what programs need of that."""
    yield folder
    above = os.path.dirname(folder.rstrip("/"))
    parent = canonical(above)
    if not any(is_beneath(parent, home) for home in (*homes, HOMES)):
        yield from (() if parent == "/" else (above,))
    elif not _is_home(parent, homes) and not parent.endswith("/.local"):
        yield from (f"{above}/{name}" for name in OF_A_PREFIX)


def _is_home(folder: str, homes: Sequence[str]) -> bool:
    return folder in homes or HOMES in (folder, os.path.dirname(folder))


def _there(paths: Iterable[str]) -> Iterator[Resolved]:
    """Yield where paths lead, as far as something is there."""
    for path in paths:
        with contextlib.suppress(InvalidScope):
            place = resolved(path)
            if os.path.exists(place.path):
                yield place
