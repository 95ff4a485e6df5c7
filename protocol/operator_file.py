"""The one door to files that an operator wrote: fleet file, profiles, scripts, template, keys.

Such a file says what podsup does, and it may lie where an agent writes. So nothing about it may be
assumed: it is opened without waiting (a FIFO, a lease), it must be a regular file of this user or
of root that not everybody may write, and no more of it is read than the caller has room for. Where
root is somebody who typed `sudo`, that user's files are theirs, as for git.

A link on the way is followed, since operators use links. `links_on_the_way` names them, for the
caller who knows which folders a pod may write: a link there is not the operator's word.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections.abc import Callable, Iterator

MOST = 1024 * 1024
"""Bytes of a configuration file, at most."""

EVERYBODYS = 0o002
"""The mode bit that no file of an operator has: everybody may write it."""

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_MOST_LINKS = 40


class BadFile(OSError):
    """A file that is not read; `strerror` says why, and what to do."""

    def __init__(self, path: str | os.PathLike[str], why: str) -> None:
        super().__init__(errno.EPERM, why, os.fspath(path))


def read_operator_file(
    path: str | os.PathLike[str],
    *,
    most: int = MOST,
    forbidden: int = EVERYBODYS,
    anybodys: bool = False,
) -> bytes:
    """Return what a file holds; raises BadFile, or the OSError of opening it.

    `forbidden` are the mode bits that it must not have. `anybodys` is for who takes no more than a
    name from it: then its owner does not matter.
    """
    try:
        fd = os.open(path, _FLAGS)
    except BlockingIOError as error:
        raise BadFile(path, "another program holds it with a lease; end that first") from error
    try:
        about = os.fstat(fd)
        why = foreign_owner(about, path) if not anybodys else None
        if (why := why or distrust(about, most=most, forbidden=forbidden)) is not None:
            raise BadFile(path, why)
        with open(fd, "rb", closefd=False) as file:
            data = file.read(most + 1)
    finally:
        os.close(fd)
    if len(data) > most:
        raise BadFile(path, _too_large(most))
    return data


def distrust(about: os.stat_result, *, most: int, forbidden: int = EVERYBODYS) -> str | None:
    """Say why a file of whomever is not read, with what to do; None where it may be."""
    if not stat.S_ISREG(about.st_mode):
        return "is not a regular file; put a plain file in its place"
    if (why := _open_to_others(about, forbidden)) is not None:
        return why
    return _too_large(most) if about.st_size > most else None


def foreign(about: os.stat_result, path: str | os.PathLike[str]) -> str | None:
    """Say why a file or folder may be somebody else's word, with what to do; None where not."""
    return foreign_owner(about, path) or _open_to_others(about, EVERYBODYS)


def own_users() -> set[int]:
    """Return whose files are the operator's: the user's, root's, and of who typed `sudo`."""
    me, asked = os.geteuid(), os.environ.get("SUDO_UID", "")
    return {me, 0, int(asked)} if me == 0 and asked.isdecimal() else {me, 0}


def foreign_owner(about: os.stat_result, path: str | os.PathLike[str]) -> str | None:
    """Say that a file belongs to another user, with what to do; None where it does not."""
    if (owner := about.st_uid) in own_users():
        return None
    if me := os.geteuid():
        return f"belongs to user {owner}, not to you ({me}) or root; use one of your own"
    return (
        f"belongs to user {owner}, and as root podsup takes the word of root alone, or of who "
        f"typed sudo: run podsup as that user (docker run --user {owner}:{about.st_gid}, or "
        f"setpriv --reuid {owner} --regid {about.st_gid} --clear-groups env HOME=… podsup …); "
        f"or look at it, then: chown 0 {shlex.quote(os.path.abspath(path))}"
    )


def _open_to_others(about: os.stat_result, forbidden: int) -> str | None:
    mode = stat.S_IMODE(about.st_mode)
    if mode & forbidden & 0o022:
        return f"may be written by others (mode {mode:04o}); look at it, then: chmod go-w"
    if mode & forbidden:
        return f"may be read by others (mode {mode:04o}); chmod 600"
    return None


def planted_link(path: str | os.PathLike[str], may_write: Callable[[str], bool]) -> str | None:
    """Return the first link on the way to a file that somebody may have put there."""
    return next((link for link in links_on_the_way(os.path.abspath(path)) if may_write(link)), None)


def links_on_the_way(path: str) -> Iterator[str]:
    """Yield each link that leads to an absolute path, by its name in a folder free of links."""
    done: list[str] = []
    todo = path.split("/")[::-1]
    links = 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            del done[-1:]
            continue
        here = "/" + "/".join([*done, part])
        try:
            target = os.readlink(here)
        except OSError:  # no link, or nothing at all
            done.append(part)
            continue
        yield here
        links += 1
        if links > _MOST_LINKS:
            return
        done = [] if target.startswith("/") else done
        todo.extend(target.split("/")[::-1])


def _too_large(most: int) -> str:
    return f"has more than {most} bytes; make it smaller"
