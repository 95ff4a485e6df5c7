"""The system calls that a caged command may not make: a table, and the filter made of it.

Landlock and namespaces speak of paths, signals and what a process sees. What is left are the calls
that go around them: sockets that lead to the fleet or another program of the user, limits and
priorities of other processes, new namespaces, and interfaces that are checked by nobody.

The filter is classic BPF, a list of comparisons that the kernel runs at each call. What the table
does not name is allowed, up to the newest call that somebody has judged (`_JUDGED`); a newer kernel
has calls above that, and they do not exist in a cage until the table says so. Nor do those of
another architecture, or of the 32-bit one that a 64-bit kernel offers beside its own: they would go
by other numbers.

No file gets a setuid or setgid bit, nor is a device made: such a file counts for every user of the
machine, long after the cage. `openat2` hides its mode in memory, as `clone3` does its flags.

`clone3` hides its flags in memory, where no filter can look: it "does not exist", and libc falls
back to `clone`, whose flags are seen.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from podproc.confine.kernel import PR_SET_SECCOMP, prctl

_FILTER_MODE = 2
_IGNORED = 0
"""No error, and nothing happens: the keeper alone says on which processors commands run."""

_ERRNO, _ALLOW = 0x00050000, 0x7FFF0000
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ABOVE = 0x25
_NR, _ARCH, _ARGS = 0, 4, 16

_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16
_STREAM, _SEQPACKET, _TYPE = 1, 5, 0xF
_NEW_NAMESPACE = 0x7E020080
_PRIO_USER, _IOPRIO_USER = 2, 3
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_X32 = 0x40000000
_REQUEST = 0xFFFF
_CHANGES_BY_A_READER = (
    0x9401,  # btrfs: BTRFS_IOC_SNAP_CREATE
    0x940E,  # BTRFS_IOC_SUBVOL_CREATE
    0x940F,  # BTRFS_IOC_SNAP_DESTROY
    0x9413,  # BTRFS_IOC_DEFAULT_SUBVOL
    0x9417,  # BTRFS_IOC_SNAP_CREATE_V2
    0x9418,  # BTRFS_IOC_SUBVOL_CREATE_V2
    0x941A,  # BTRFS_IOC_SUBVOL_SETFLAGS
    0x9425,  # BTRFS_IOC_SET_RECEIVED_SUBVOL
    0x943F,  # BTRFS_IOC_SNAP_DESTROY_V2
    0xBC10,  # bcachefs: BCH_IOCTL_SUBVOLUME_CREATE
    0xBC11,  # BCH_IOCTL_SUBVOLUME_DESTROY
    0x6F04,  # ocfs2: OCFS2_IOC_REFLINK
    0x6613,  # FS_IOC_SET_ENCRYPTION_POLICY
    0x6685,  # FS_IOC_ENABLE_VERITY
)
"""What ioctl does to a folder or file that is open for reading alone, without asking Landlock.

By type and number, the low half of a request: the other half is the size of its argument.
"""

_SET_ID = 0o6000
_CREATES = 0o100 | 0o20000000
_FILE_TYPE, _CHARACTERS, _BLOCKS = 0o170000, 0o020000, 0o060000
_SET_LEASE, _SET_DELEGATION, _NOTIFY = 1024, 1040, 1026

_FIRST_COMMON = 424
_JUDGED = {"x86_64": (336, 469), "aarch64": (294, 469)}
"""The newest call of the machine's own, and of those that all have, that Linux 6.18 knows.

Whoever raises one has judged every call in between: what it can do in a cage, and why it may.
"""

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NUMBERS = {
    "x86_64": {
        "open": 2,
        "ioctl": 16,
        "socket": 41,
        "socketpair": 53,
        "clone": 56,
        "fcntl": 72,
        "creat": 85,
        "chmod": 90,
        "fchmod": 91,
        "mknod": 133,
        "setpriority": 141,
        "sched_setparam": 142,
        "sched_setscheduler": 144,
        "pivot_root": 155,
        "mount": 165,
        "umount2": 166,
        "sched_setaffinity": 203,
        "io_setup": 206,
        "add_key": 248,
        "request_key": 249,
        "keyctl": 250,
        "ioprio_set": 251,
        "openat": 257,
        "mknodat": 259,
        "fchmodat": 268,
        "unshare": 272,
        "prlimit64": 302,
        "setns": 308,
        "sched_setattr": 314,
        "fanotify_init": 300,
        "bpf": 321,
        "userfaultfd": 323,
    },
    "aarch64": {
        "io_setup": 0,
        "fcntl": 25,
        "ioctl": 29,
        "ioprio_set": 30,
        "mknodat": 33,
        "umount2": 39,
        "mount": 40,
        "pivot_root": 41,
        "fchmod": 52,
        "fchmodat": 53,
        "openat": 56,
        "unshare": 97,
        "sched_setparam": 118,
        "sched_setscheduler": 119,
        "sched_setaffinity": 122,
        "setpriority": 140,
        "socket": 198,
        "socketpair": 199,
        "add_key": 217,
        "request_key": 218,
        "keyctl": 219,
        "clone": 220,
        "prlimit64": 261,
        "fanotify_init": 262,
        "setns": 268,
        "sched_setattr": 274,
        "bpf": 280,
        "userfaultfd": 282,
    },
}
_ABSENT = {"x86_64": frozenset[str](), "aarch64": frozenset({"open", "creat", "chmod", "mknod"})}
"""Calls in the table that a machine never had."""

_EVERYWHERE = {
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "clone3": 435,
    "openat2": 437,
    "mount_setattr": 442,
    "fchmodat2": 452,
    "open_tree_attr": 467,
}


@dataclass(frozen=True, slots=True)
class Test:
    """A comparison of the low half of an argument: `value & mask` with `wanted`."""

    argument: int
    wanted: int
    mask: int = 0xFFFFFFFF
    is_equal: bool = True


@dataclass(frozen=True, slots=True)
class Rule:
    """A call that fails with `error` where all tests hold; without a test, always.

    It does nothing in either case: with error 0 it says that it did.
    """

    call: str
    error: int
    tests: tuple[Test, ...] = ()


def numbers(machine: str) -> dict[str, int]:
    """Return the numbers of the calls in the table; raises KeyError for a machine not known."""
    return _NUMBERS[machine] | _EVERYWHERE


def is_known(machine: str) -> bool:
    """Say whether a filter can be made for a machine."""
    return machine in _NUMBERS


def rules(*, unix_sockets: bool, internet: bool, is_alone: bool) -> Iterator[Rule]:
    """Yield the table.

    `internet`: sockets of IP are allowed; `is_alone`: no process is seen but the pod's own, of
    which the first is its keeper.
    """
    for call in ("add_key", "request_key", "keyctl", "bpf", "userfaultfd", "pivot_root", "setns"):
        yield Rule(call, errno.EPERM)
    yield Rule("fanotify_init", errno.EPERM)
    for call in ("mount", "umount2", "open_tree", "open_tree_attr", "move_mount", "mount_setattr"):
        yield Rule(call, errno.EPERM)
    for call in ("fsopen", "fsconfig", "fsmount", "fspick"):
        yield Rule(call, errno.EPERM)
    for call in ("io_uring_setup", "io_uring_enter", "io_uring_register"):
        yield Rule(call, errno.EPERM)
    yield from _modes()
    for command in (_SET_LEASE, _SET_DELEGATION, _NOTIFY):
        yield Rule("fcntl", errno.EPERM, (Test(1, command),))
    yield Rule("io_setup", errno.ENOSYS)
    yield Rule("clone3", errno.ENOSYS)
    yield Rule("clone", errno.EPERM, (Test(0, 0, _NEW_NAMESPACE, is_equal=False),))
    yield Rule("unshare", errno.EPERM, (Test(0, 0, _NEW_NAMESPACE, is_equal=False),))
    yield from _sockets(unix_sockets=unix_sockets, internet=internet)
    other = Test(0, 1) if is_alone else Test(0, 0, is_equal=False)
    for call in ("prlimit64", "sched_setaffinity", "sched_setscheduler"):
        yield Rule(call, errno.EPERM, (other,))
    yield Rule("sched_setaffinity", _IGNORED)
    for call in ("sched_setparam", "sched_setattr"):
        yield Rule(call, errno.EPERM, (other,))
    for call, of_a_user in (("setpriority", _PRIO_USER), ("ioprio_set", _IOPRIO_USER)):
        yield Rule(call, errno.EPERM, (Test(0, of_a_user),))
        yield Rule(call, errno.EPERM, (Test(1, other.wanted, is_equal=other.is_equal),))
    for request in (_TIOCSTI, _TIOCLINUX):
        yield Rule("ioctl", errno.EPERM, (Test(1, request),))
    for request in _CHANGES_BY_A_READER:
        yield Rule("ioctl", errno.EPERM, (Test(1, request, _REQUEST),))


def _modes() -> Iterator[Rule]:
    """Yield what gives a file a setuid or setgid bit, or makes a device.

    Without mkdir: the kernel takes these bits out of its mode.
    """

    def sets_id(argument: int) -> Test:
        return Test(argument, 0, _SET_ID, is_equal=False)

    def creates(argument: int) -> Test:
        return Test(argument, 0, _CREATES, is_equal=False)

    for call, mode in (("chmod", 1), ("fchmod", 1), ("fchmodat", 2), ("fchmodat2", 2)):
        yield Rule(call, errno.EPERM, (sets_id(mode),))
    yield Rule("creat", errno.EPERM, (sets_id(1),))
    yield Rule("open", errno.EPERM, (creates(1), sets_id(2)))
    yield Rule("openat", errno.EPERM, (creates(2), sets_id(3)))
    yield Rule("openat2", errno.ENOSYS)
    for call, mode in (("mknod", 1), ("mknodat", 2)):
        yield Rule(call, errno.EPERM, (sets_id(mode),))
        for kind in (_CHARACTERS, _BLOCKS):
            yield Rule(call, errno.EPERM, (Test(mode, kind, _FILE_TYPE),))


def _sockets(*, unix_sockets: bool, internet: bool) -> Iterator[Rule]:
    """Yield what leaves IP, routing questions and connected pairs.

    Of pairs only those that stay connected: each end of a datagram pair, and a raw one is none
    else, can still be told to send to any address.
    """
    allowed = [_NETLINK]
    if internet:
        allowed += [_INET, _INET6]
    if unix_sockets:
        allowed.append(_UNIX)
    else:
        lasting = (_STREAM, _SEQPACKET)
        others = (Test(1, one, _TYPE, is_equal=False) for one in lasting)
        yield Rule("socketpair", errno.EACCES, tuple(others))
    yield Rule("socketpair", errno.EACCES, (Test(0, _UNIX, is_equal=False),))
    yield Rule("socket", errno.EACCES, tuple(Test(0, one, is_equal=False) for one in allowed))
    routing_is_0 = Test(2, 0, is_equal=False)
    yield Rule("socket", errno.EACCES, (Test(0, _NETLINK), routing_is_0))


def assemble(table: Iterable[Rule], machine: str, number: Mapping[str, int] | None = None) -> bytes:
    """Return the filter for a machine; raises KeyError for one, or a call, that is not known."""
    number = number or numbers(machine)
    own, common = _JUDGED[machine]
    code = [
        _step(_LOAD, _ARCH),
        _step(_EQUAL, _ARCHITECTURES[machine], 1, 0),
        _step(_RETURN, _ERRNO | errno.ENOSYS),
    ]
    if machine == "x86_64":
        code += [
            _step(_LOAD, _NR),
            _step(_AT_LEAST, _X32, 0, 1),
            _step(_RETURN, _ERRNO | errno.ENOSYS),
        ]
    code += [
        _step(_LOAD, _NR),
        _step(_ABOVE, common, 2, 0),
        _step(_AT_LEAST, _FIRST_COMMON, 2, 0),
        _step(_ABOVE, own, 0, 1),
        _step(_RETURN, _ERRNO | errno.ENOSYS),
    ]
    for rule in table:
        if rule.call in _ABSENT[machine]:
            continue
        tests = [_compare(test) for test in rule.tests]
        left = sum(map(len, tests)) + 1  # steps that follow the look at the number
        code += [_step(_LOAD, _NR), _step(_EQUAL, number[rule.call], 0, left)]
        for test, steps in zip(rule.tests, tests, strict=True):
            left -= len(steps)
            hold, fail = (0, left) if test.is_equal else (left, 0)
            code += [*steps[:-1], _step(_EQUAL, test.wanted, hold, fail)]
        code.append(_step(_RETURN, _ERRNO | rule.error))
    code.append(_step(_RETURN, _ALLOW))
    return b"".join(code)


def _compare(test: Test) -> list[bytes]:
    """Return the steps of a test, the last of which is only held for."""
    return [
        _step(_LOAD, _ARGS + 8 * test.argument),
        _step(_AND, test.mask),
        _step(_EQUAL, test.wanted),
    ]


def _step(code: int, value: int, if_so: int = 0, if_not: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_so, if_not, value)


def install(program: bytes) -> None:
    """Put a filter on this process and all it starts; needs no_new_privs. Raises OSError."""
    steps = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(steps))
    prctl(PR_SET_SECCOMP, _FILTER_MODE, fprog)


def this_machine() -> str:
    """Return the machine's name as tables here have it."""
    return os.uname().machine
