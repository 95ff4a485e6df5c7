"""What podsup runs and imports, found before any agent acts: no pod may write it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import all_suffixes

from protocol import isolation
from protocol.errors import InvalidScope
from protocol.manifest import PodManifest
from protocol.scope import canonical, is_beneath, may_change

_START = ("sitecustomize", "usercustomize")
"""What an interpreter imports of its own accord."""


def own_code() -> tuple[str, ...]:
    """Return what podsup is made of, canonical, as far as it is there.

    That is its packages, its import path, the interpreter with what belongs to it, and the folder
    of `podsup`. In a folder that holds our packages and may be written, which a clone's is, it is
    also what would be imported from there when `podsup` starts.
    """
    packages = [f"{isolation.own_root()}/{name}" for name in isolation.PACKAGES]
    interpreter = [sys.executable, os.path.realpath(sys.executable)]
    prefixes = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix]
    command = [os.path.dirname(os.path.abspath(one)) for one in sys.argv[:1] if os.path.isfile(one)]
    path = isolation.kept(sys.path)
    found = _there([*packages, *path, *interpreter, *prefixes, *command])
    return tuple(dict.fromkeys([*found, *_starting([*_own_roots()])]))


def start_files() -> tuple[str, ...]:
    """Return what the interpreter of `podsup` would import beside our code if it were there."""
    return tuple(_starting(one for one in _elsewhere() if one not in _own_roots()))


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
    """Return the folders, canonical, of which podsup's interpreter was told and we are not."""
    return [*_there(isolation.elsewhere)]


def _own_roots() -> set[str]:
    """Return the folder that holds our packages, if Python imports anything from there."""
    return {one for one in _elsewhere() if all(_holds(one, n) for n in isolation.PACKAGES)}


def _holds(folder: str, package: str) -> bool:
    return os.path.isdir(os.path.join(folder, package))


def _starting(folders: Iterable[str]) -> Iterator[str]:
    for folder in folders:
        for name in _START:
            yield from (f"{folder}/{name}{suffix}" for suffix in ("", *all_suffixes()))


def _there(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        try:
            real = canonical(path)
        except InvalidScope:
            continue
        if real != "/" and os.path.exists(real):
            yield real


def _highest(paths: Iterable[str]) -> Iterator[str]:
    found = sorted(set(paths))
    return (one for one in found if not any(is_beneath(one, o) for o in found if o != one))
