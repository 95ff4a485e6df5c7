"""The system calls that confine a process, as Python functions: by ctypes, each raising OSError.

Numbers from 424 on are the same on every architecture; the older ones needed here have a wrapper in
libc. Nothing here decides anything.

The caller must have one thread: namespaces, capabilities, Landlock domains and seccomp filters
belong to a thread, and are meant for the process that this one is about to become.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from typing import Any

_OPEN_TREE = 428
_MOVE_MOUNT = 429
_FSOPEN = 430
_FSCONFIG = 431
_FSMOUNT = 432
_OPENAT2 = 437
_MOUNT_SETATTR = 442

CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

PR_SET_PDEATHSIG = 1
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522

_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08

_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_MOVE_FROM_EMPTY = 0x04
_MOVE_TO_EMPTY = 0x40
_READ_ONLY, _NO_SUID, _NO_DEVICES = 1, 2, 4
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CREATE = 6
_MS_REC_PRIVATE = 0x4000 | 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


def libc(function: str, *args: Any) -> int:
    """Call a function of libc; returns its result, raises OSError where that is negative."""
    wide = [ctypes.c_ulong(arg) if isinstance(arg, int) else arg for arg in args]
    result: int = getattr(_libc, function)(*wide)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")
    return result


def syscall(name: str, number: int, *args: Any) -> int:
    """Make a system call; returns its result, raises OSError with its name."""
    wide = [ctypes.c_ulong(arg) if isinstance(arg, int) else arg for arg in args]
    result: int = _libc.syscall(ctypes.c_long(number), *wide)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return result


def prctl(option: int, value: Any = 0, more: Any = 0) -> None:
    """Call prctl with zeros behind."""
    libc("prctl", option, value, more, 0, 0)


# -- paths -----------------------------------------------------------------------------------------


def open_path(path: str) -> int:
    """Return a descriptor that only names a path, none of whose components may be a link."""
    return _openat2(-100, path, os.O_PATH | os.O_CLOEXEC, _RESOLVE_NO_SYMLINKS)


def open_beneath(folder: int, path: str) -> int:
    """Return a descriptor that only names a path below a folder, without any link on the way."""
    return _openat2(folder, path, os.O_PATH | os.O_CLOEXEC, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS)


def _openat2(folder: int, path: str, flags: int, resolve: int) -> int:
    how = struct.pack("QQQ", flags, 0, resolve | _RESOLVE_NO_MAGICLINKS)
    return syscall("openat2", _OPENAT2, folder, os.fsencode(path), how, len(how))


# -- mounts ----------------------------------------------------------------------------------------


def own_mounts() -> None:
    """Give this process its own mounts: none arrives from outside any more, none leaves."""
    libc("unshare", CLONE_NEWNS)
    libc("mount", b"none", b"/", None, _MS_REC_PRIVATE, None)


def tree_at(path: int) -> int:
    """Return a copy of the mounts at and below a descriptor's path, attached nowhere."""
    flags = _OPEN_TREE_CLONE | _AT_EMPTY_PATH | _AT_RECURSIVE | os.O_CLOEXEC
    return syscall("open_tree", _OPEN_TREE, path, b"", flags)


def new_tree(kind: str, *, has_devices: bool = False, **options: str) -> int:
    """Return a new file system, tmpfs for instance, attached nowhere.

    No setuid bit counts in it, and no device opens unless `has_devices`.
    """
    attributes = _NO_SUID if has_devices else _NO_SUID | _NO_DEVICES
    context = syscall("fsopen", _FSOPEN, kind.encode(), 1)
    try:
        for key, value in options.items():
            words = (key.encode(), value.encode())
            syscall("fsconfig", _FSCONFIG, context, _FSCONFIG_SET_STRING, *words, 0)
        syscall("fsconfig", _FSCONFIG, context, _FSCONFIG_CREATE, None, None, 0)
        return syscall("fsmount", _FSMOUNT, context, 1, attributes)
    finally:
        os.close(context)


def close_to_writing(tree: int) -> None:
    """Make all mounts of a tree read-only."""
    _set_attributes(tree, on=_READ_ONLY, flags=_AT_RECURSIVE)


def defuse(tree: int, *, has_devices: bool = False) -> None:
    """Make setuid bits and device files in all mounts of a tree count for nothing.

    `has_devices` keeps the device files. Flags that the kernel has locked are only ever added to.
    """
    on = _NO_SUID if has_devices else _NO_SUID | _NO_DEVICES
    _set_attributes(tree, on=on, flags=_AT_RECURSIVE)


def open_to_writing(tree: int, *, is_whole: bool = True) -> None:
    """Undo that for a whole tree, or for its top alone where one below was read-only before us."""
    if is_whole:
        try:
            _set_attributes(tree, off=_READ_ONLY, flags=_AT_RECURSIVE)
            return
        except PermissionError:
            pass  # what came read-only into a user namespace stays so
    with contextlib.suppress(PermissionError):  # all of it did: the kernel tells who writes there
        _set_attributes(tree, off=_READ_ONLY)


def _set_attributes(tree: int, *, on: int = 0, off: int = 0, flags: int = 0) -> None:
    attributes = struct.pack("QQQQ", on, off, 0, 0)
    flags |= _AT_EMPTY_PATH
    syscall("mount_setattr", _MOUNT_SETATTR, tree, b"", flags, attributes, len(attributes))


def attach(tree: int, path: int) -> None:
    """Put a tree where a descriptor's path is."""
    flags = _MOVE_FROM_EMPTY | _MOVE_TO_EMPTY
    syscall("move_mount", _MOVE_MOUNT, tree, b"", path, b"", flags)


# -- what a process may ----------------------------------------------------------------------------


def drop_capabilities() -> None:
    """Give up every capability, and where permitted the means to get one by running a program."""
    for number in range(64):
        try:
            prctl(PR_CAPBSET_DROP, number)
        except OSError:
            break  # beyond the last there is, or not ours to drop: no_new_privs holds then
    prctl(PR_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    libc("capset", header, bytes(24))


def no_new_privileges() -> None:
    """Make setuid programs and file capabilities grant nothing from now on."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
