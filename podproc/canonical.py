"""Opening what was canonical when it was stored: no link is followed, and what has moved is named.

A target of a scope, or a working directory, was made canonical when the fleet was started. An agent
may have put a link there since. So a pod that starts opens such a path component by component, from
the root, and does not start where one of them is a link by now.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from protocol.errors import InvalidScope
from protocol.scope import components

_NAME = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def opened(path: str, what: str, *, make: bool = False) -> Iterator[int]:
    """Give a descriptor that names what is at a canonical path; raises InvalidScope and OSError.

    With `make`, folders that are missing are made. `what` says in a refusal what the path is.
    """
    here = os.open("/", _NAME)
    try:
        done = ""
        for name in components(path):
            done = f"{done}/{name}"
            try:
                below = _entry(here, name, make=make)
            except OSError as error:  # it knows the last name alone
                raise OSError(error.errno, os.strerror(error.errno or 0), done) from error
            os.close(here)
            here = below
            if stat.S_ISLNK(os.fstat(here).st_mode):
                raise _moved(path, what, link=done, leads_to=os.readlink("", dir_fd=here))
        yield here
    finally:
        os.close(here)


def _entry(folder: int, name: str, *, make: bool) -> int:
    try:
        return os.open(name, _NAME, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise
    with suppress(FileExistsError):  # another pod starts as well
        os.mkdir(name, dir_fd=folder)
    return os.open(name, _NAME, dir_fd=folder)


def _moved(path: str, what: str, *, link: str, leads_to: str) -> InvalidScope:
    if link == path:
        where = f"it is a link to {leads_to} by now"
    else:
        where = f"{link} is a link to {leads_to} by now"
    return InvalidScope(
        f"{what} {path} is not what it was when the fleet was started: {where}",
        next_step=f"look who made {link}, remove it, and start the pod again",
        path=path,
        link=link,
    )
