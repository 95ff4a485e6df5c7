"""What podsup runs and imports, found before any agent acts: no pod may write it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.machinery import all_suffixes

from protocol import isolation
from protocol.errors import InvalidScope
from protocol.manifest import PodManifest
from protocol.scope import is_beneath, may_change, resolved

_START = ("sitecustomize", "usercustomize")
"""What an interpreter imports of its own accord."""


def own_code() -> tuple[str, ...]:
    """Return what podsup is made of, as far as it is there: canonical paths, and links to them.

    That is its packages, its import path, the interpreter with what belongs to it, and the folder
    of `podsup`. podsup runs its interpreter by the name that it was called by, since that makes it
    one of its virtual environment: whoever replaces a link on the way has another one run.
    """
    packages = [f"{isolation.own_root()}/{name}" for name in isolation.PACKAGES]
    interpreter = [sys.executable, os.path.realpath(sys.executable)]
    prefixes = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix]
    command = [os.path.dirname(os.path.abspath(one)) for one in sys.argv[:1] if os.path.isfile(one)]
    path = isolation.kept(sys.path)
    return tuple(dict.fromkeys(_there([*packages, *path, *interpreter, *prefixes, *command])))


def start_files() -> tuple[str, ...]:
    """Return what the interpreter of `podsup` would import beside our code if it were there."""
    return tuple(_starting(_elsewhere()))


def warnings(pods: Iterable[PodManifest]) -> Iterator[str]:
    """Yield what people should know of scopes that hold what podsup is made of."""
    code = own_code()
    open_folders = [*_elsewhere()]
    for pod in pods:
        closed = [one for one in code if may_change(pod.scope, one) and os.path.exists(one)]
        if highest := [*_highest(closed)]:
            yield f"read-only to {pod.name}, since podsup runs it: {', '.join(highest)}"
        for folder in open_folders:
            if may_change(pod.scope, folder):
                yield (
                    f"{pod.name} may write {folder}, from which Python imports when `podsup` "
                    "starts: install podsup in an environment of its own, and unset PYTHONPATH"
                )


def _elsewhere() -> list[str]:
    """Return the folders, canonical, of which podsup's interpreter was told and we are not.

    One that is not there yet counts: who makes it decides what is in it.
    """
    return list(dict.fromkeys(one for path in isolation.elsewhere for one in _names(path)))


def _starting(folders: Iterable[str]) -> Iterator[str]:
    for folder in folders:
        for name in _START:
            yield from (f"{folder}/{name}{suffix}" for suffix in ("", *all_suffixes()))


def _there(paths: Iterable[str]) -> Iterator[str]:
    return (one for path in paths if os.path.exists(path) for one in _names(path))


def _names(path: str) -> Iterator[str]:
    """Yield where a path leads, and the links on the way."""
    with suppress(InvalidScope):
        place = resolved(path)
        yield from (one for one in (place.path, *place.links) if one != "/")


def _highest(paths: Iterable[str]) -> Iterator[str]:
    found = sorted(set(paths))
    return (one for one in found if not any(is_beneath(one, o) for o in found if o != one))
