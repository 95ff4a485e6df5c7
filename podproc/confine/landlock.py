"""Landlock: what a process and all it starts may do beneath which paths.

A ruleset *handles* rights: what is handled is refused wherever no rule grants it. A rule grants
rights at a path and in everything below it; there is no rule that takes away. Which rights a kernel
knows is told by one number, the ABI; what it does not know cannot be refused, and here is left out.

Source: Linux, include/uapi/linux/landlock.h and Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from podproc.confine.kernel import no_new_privileges, open_path, syscall

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1

EXECUTE = 1 << 0
WRITE_FILE = 1 << 1
READ_FILE = 1 << 2
READ_DIR = 1 << 3
_CHANGE_ENTRIES = 0b1_1111_1111 << 4  # REMOVE_DIR to MAKE_SYM
REFER = 1 << 13
TRUNCATE = 1 << 14
IOCTL_DEV = 1 << 15
ABSTRACT_SOCKETS = 1 << 0
SIGNALS = 1 << 1

SCOPES_ABI = 6
"""The first that can refuse signals and abstract sockets; older ones only know paths."""

_SINCE = {REFER: 2, TRUNCATE: 3, IOCTL_DEV: 5}
_ON_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

READ = EXECUTE | READ_FILE | READ_DIR
CHANGE = WRITE_FILE | _CHANGE_ENTRIES | REFER | TRUNCATE
RIGHTS = {
    "list": READ_DIR,
    "read": READ,
    "write": READ | CHANGE,
    "device": READ_FILE | WRITE_FILE,
    "terminal": READ | WRITE_FILE | IOCTL_DEV,
}
"""What each word of a plan grants."""


def abi() -> int:
    """Return the kernel's Landlock ABI, 0 where there is none."""
    try:
        return syscall("landlock_create_ruleset", _CREATE_RULESET, None, 0, _VERSION)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            return 0
        raise


def known(rights: int, abi: int) -> int:
    """Return those of the rights that an ABI knows."""
    return rights & ~sum(bit for bit, since in _SINCE.items() if abi < since)


def restrict(
    grants: Iterable[tuple[str, str]],
    *,
    abi: int,
    handled: int = READ | CHANGE | IOCTL_DEV,
    scoped: int = 0,
) -> None:
    """Confine this thread, and all it starts, to what is granted; raises OSError.

    Running a program gives it no new privileges from now on: the kernel wants that first.
    `grants` are (path, word of `RIGHTS`); a path that is gone or has become a link grants nothing.
    """
    handled = known(handled, abi)
    with _ruleset(handled, scoped if abi >= SCOPES_ABI else 0, abi) as ruleset:
        for path, word in grants:
            with _named(path) as fd:
                if fd is not None:
                    _add(ruleset, fd, RIGHTS[word] & handled)
        _enforce(ruleset)


def change_only_beneath(folder: int, *, abi: int) -> None:
    """Have this thread change no files but those below an open folder, from now on and for good."""
    handled = known(CHANGE, abi)
    with _ruleset(handled, 0, abi) as ruleset:
        _add(ruleset, folder, handled)
        _enforce(ruleset)


@contextmanager
def _ruleset(handled: int, scoped: int, abi: int) -> Iterator[int]:
    attributes = struct.pack("QQQ", handled, 0, scoped)
    size = 24 if abi >= SCOPES_ABI else 8
    ruleset = syscall("landlock_create_ruleset", _CREATE_RULESET, attributes, size, 0)
    try:
        yield ruleset
    finally:
        os.close(ruleset)


@contextmanager
def _named(path: str) -> Iterator[int | None]:
    """Open a path for a rule; None for one that is gone, a link, or out of reach."""
    try:
        fd = open_path(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            raise
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


def _add(ruleset: int, fd: int, rights: int) -> None:
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        rights &= _ON_A_FILE
    if rights:
        rule = struct.pack("=Qi", rights, fd)
        syscall("landlock_add_rule", _ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)


def _enforce(ruleset: int) -> None:
    no_new_privileges()
    syscall("landlock_restrict_self", _RESTRICT_SELF, ruleset, 0)
