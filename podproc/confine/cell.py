"""From an order to a confined process: what the keeper's parts call, in the order they do.

A *cell* is what all commands of one pod share, made once by its keeper; an *order* is what one
command may, worked out by the pod from the scope at that moment (`podproc.tools.cage`) and carried
out here, by the command's own process right before it becomes the shell. Whatever cannot be
carried out raises, and the command is not run: there is no weaker cage than the one ordered.

    cell     level, network, unix_sockets  user, pid, ipc (and network) namespace; own /proc,
             memory, processes             terminals and shared memory; everything read-only, no
                                           setuid bit counts, and only a few devices open
    order    mounts, grants                own mounts, Landlock rules, no capabilities, the filter

    mounts   ["private", place, source, inside]   a folder of the pod in place of a shared one
             ["cover", path, inside]              nothing is there any more
             ["write" | "read", path]             it is there, and may be changed or not
             `inside`: [kind, relative] of what later mounts of the list lie on
    grants   [path, word]                         see `podproc.confine.landlock.RIGHTS`

Every path is opened without following a link. Copies of what later shows through are taken before
anything is covered, so a workspace below /tmp can be seen in a cage that has a /tmp of its own.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import resource
import socket
import stat
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from podproc.confine import kernel, landlock, seccomp

NAMESPACES = "namespaces"
LANDLOCK = "landlock"

MOST_PROCESSES = 4096
"""How many processes and threads a pod's commands may have, where the kernel can count them."""

PID_MAX_SINCE = (6, 14)
"""The first kernel whose pid_max is that of a pid namespace: on older ones it is the machine's."""

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
"""The device files that open in a cell; its terminals are besides."""

_PART_OF_WATCHES = 16
_FEWEST_INSTANCES = 8
_PART_OF_MEMORY = 16
_SHARED_FILES = 16384
_SEMAPHORES = "250 32000 100 128"
_QUEUES_OF_SYSTEM_V = 128
_MOST_FILES = 4096
_MOST_SIGNALS = 4096
_MOST_QUEUE_BYTES = 256 * 1024
_LIMITS = (
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_NICE, 0),
    (resource.RLIMIT_RTPRIO, 0),
    (resource.RLIMIT_SIGPENDING, _MOST_SIGNALS),
    (resource.RLIMIT_MSGQUEUE, _MOST_QUEUE_BYTES),
)
"""The most that a command may have of what the kernel counts per user, and three that stay at 0."""

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_NO_SUID_DEV_EXEC = 2 | 4 | 8


def enter_user_namespace() -> None:
    """Give this process and its children a user and a pid namespace; it keeps its user."""
    user, group = os.geteuid(), os.getegid()
    kernel.libc("unshare", kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID)
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{file}", "w") as target:
            target.write(text)


def furnish(*, network: bool, memory: str, processes: int = MOST_PROCESSES) -> int:
    """Make the cell of all commands, as the first process of its pid namespace; raises OSError.

    `memory` is a folder: a file system in memory is put there, for orders to show as /dev/shm.
    Returns a descriptor of the cell's /proc in which its own processes may still be changed.
    """
    apart = kernel.CLONE_NEWIPC | (0 if network else kernel.CLONE_NEWNET)
    kernel.libc("unshare", apart)
    if not network:
        _raise_loopback()
    kernel.own_mounts()
    kernel.libc("mount", b"proc", b"/proc", b"proc", _NO_SUID_DEV_EXEC, None)
    bound_processes(processes, is_alone=True)
    _bound_watches()
    _bound_system_v()
    with _closing(_open("/proc")) as path:
        own = kernel.tree_at(path)
    with contextlib.ExitStack() as taken:
        devices = [(path, _device(path, taken)) for path in _DEVICES if _is_device(path)]
        with _closing(kernel.open_path("/")) as root:
            kernel.defuse(root)
            kernel.close_to_writing(root)
        for device, tree in devices:
            _attach_at(tree, device)
    if os.path.isdir("/dev/pts"):
        _furnish_terminals()
    size, files = str(_shared_memory()), str(_SHARED_FILES)
    with _closing(kernel.new_tree("tmpfs", mode="1777", size=size, nr_inodes=files)) as shared:
        _attach_at(shared, memory)
    return own


def _furnish_terminals() -> None:
    """Give the cell terminals of its own; /dev/ptmx must be theirs, too, to find them."""
    with _closing(kernel.new_tree("devpts", has_devices=True, ptmxmode="0666")) as terminals:
        _attach_at(terminals, "/dev/pts")
    if _is_device("/dev/ptmx"):
        with _closing(_open("/dev/pts/ptmx")) as path, _closing(kernel.tree_at(path)) as master:
            _attach_at(master, "/dev/ptmx")


def _is_device(path: str) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISCHR(os.stat(path, follow_symlinks=False).st_mode)
    return False


def _device(path: str, taken: contextlib.ExitStack) -> int:
    """Return a device file that still opens when no other does, attached nowhere."""
    with _closing(_open(path)) as place:
        tree = kernel.tree_at(place)
    taken.callback(os.close, tree)
    kernel.defuse(tree, has_devices=True)
    kernel.close_to_writing(tree)
    return tree


def _bound_watches() -> None:
    """Leave most of what watches files (inotify) to the rest of this user's programs."""
    for name, fewest in (("instances", _FEWEST_INSTANCES), ("watches", 0)):
        with contextlib.suppress(FileNotFoundError):  # a kernel without inotify
            with open(f"/proc/sys/fs/inotify/max_user_{name}") as file:
                most = max(int(file.read()) // _PART_OF_WATCHES, fewest)
            with open(f"/proc/sys/user/max_inotify_{name}", "w") as file:
                file.write(str(most))


def _shared_memory() -> int:
    """Return how many bytes of memory a cell may hold that belong to no process.

    When memory runs out, ending commands gives none of it back.
    """
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _PART_OF_MEMORY


def _bound_system_v() -> None:
    """Bound the shared memory, semaphores and queues of this ipc namespace, where we may."""
    pages = _shared_memory() // os.sysconf("SC_PAGE_SIZE")
    for name, most in (("shmall", pages), ("sem", _SEMAPHORES), ("msgmni", _QUEUES_OF_SYSTEM_V)):
        # Older kernels let nobody do it, newer ones the root of the namespace.
        with contextlib.suppress(OSError), open(f"/proc/sys/kernel/{name}", "w") as file:
            file.write(str(most))


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack_from("16xh", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))[0]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))


def bound_processes(most: int = MOST_PROCESSES, *, is_alone: bool) -> None:
    """Bound a fork bomb, for this process and all it starts.

    By pids, which holds for root, too, or else by the user's processes: in a user namespace those
    of the cell, outside it all there are.
    """
    if is_alone and counts_pids():
        with contextlib.suppress(PermissionError), open("/proc/sys/kernel/pid_max", "w") as file:
            file.write(str(most))
    if not is_alone:
        most += _threads_of(os.geteuid())
    _lower_limit(resource.RLIMIT_NPROC, most)


def bound_files() -> None:
    """Let this process and all it starts open fewer files than the pod and the supervisor may.

    The kernel counts the descriptors on their way through sockets per user, and holds the sum
    against the limit of whoever sends: so those of commands fail before anybody else's.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_endless = hard == resource.RLIM_INFINITY
    _lower_limit(resource.RLIMIT_NOFILE, _MOST_FILES if is_endless else min(_MOST_FILES, hard // 2))


def _lower_limit(limit: int, most: int) -> None:
    _, hard = resource.getrlimit(limit)
    most = most if hard == resource.RLIM_INFINITY else min(hard, most)
    resource.setrlimit(limit, (most, most))


def _threads_of(user: int) -> int:
    """Return how many threads a user has, which is what the kernel holds against the bound."""
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == user:
                    count += len(os.listdir(f"/proc/{name}/task"))
    return count


def counts_pids() -> bool:
    """Say whether a pid namespace has a bound of its own on this kernel."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return found is not None and (int(found[1]), int(found[2])) >= PID_MAX_SINCE


class Walls:
    """What the orders of one pod have in common; made by the keeper, used after each fork."""

    def __init__(self, level: str, *, network: bool, unix_sockets: bool, is_alone: bool) -> None:
        """Prepare the filter; `is_alone`: commands see no process but their pod's own."""
        self.level = level
        self._abi = landlock.abi()
        self._scoped = landlock.ABSTRACT_SOCKETS | (0 if is_alone else landlock.SIGNALS)
        internet = network or level == NAMESPACES
        table = seccomp.rules(unix_sockets=unix_sockets, internet=internet, is_alone=is_alone)
        self._filter = seccomp.assemble(table, seccomp.this_machine())

    def enclose(self, order: dict[str, Any], cwd: str) -> None:
        """Confine this process by an order, and enter its working directory; raises OSError."""
        wanted = _about(cwd)
        if self.level == NAMESPACES:
            _rebuild(order["mounts"])
        if not os.path.samestat(wanted, _about(cwd)):
            raise OSError(errno.EACCES, f"{cwd} is out of this pod's reach")
        os.chdir(cwd)
        for limit, most in _LIMITS:
            _lower_limit(limit, most)
        bound_files()
        kernel.drop_capabilities()
        landlock.restrict(order["grants"], abi=self._abi, scoped=self._scoped)
        seccomp.install(self._filter)


def _about(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise OSError(error.errno, f"{path}: {error.strerror}") from error


def _rebuild(mounts: Iterable[list[Any]]) -> None:
    """Make this process's view of the file system."""
    kernel.own_mounts()
    ops = list(mounts)
    with contextlib.ExitStack() as taken:
        trees = [_copied(op, taken) for op in ops]
        for op, tree in zip(ops, trees, strict=True):
            if op[0] == "cover":
                _cover(op[1], op[2])
            elif op[1] == "/":
                with _closing(kernel.open_path("/")) as root:  # nothing can be put in its place
                    kernel.open_to_writing(root, is_whole=False)
            else:
                _show(op, tree)


def _show(op: list[Any], tree: int) -> None:
    if op[0] == "read":
        kernel.close_to_writing(tree)
    else:
        kernel.open_to_writing(tree)
    if op[0] == "private":
        _furnish_folder(tree, op[3])
    _attach_at(tree, op[1])


def _copied(op: list[Any], taken: contextlib.ExitStack) -> int:
    if op[0] == "cover" or op[1] == "/":
        return -1
    with _closing(_open(op[2] if op[0] == "private" else op[1])) as path:
        tree = kernel.tree_at(path)
    taken.callback(os.close, tree)
    return tree


def _cover(path: str, inside: list[list[str]]) -> None:
    with _closing(_open(path)) as place:
        if not os.path.isdir(f"/proc/self/fd/{place}"):
            with _closing(kernel.open_path("/dev/null")) as nothing:
                tree = kernel.tree_at(nothing)
            with _closing(tree):
                kernel.close_to_writing(tree)
                kernel.attach(tree, place)
            return
        with _closing(kernel.new_tree("tmpfs", mode="0755", size="64k")) as tree:
            _furnish_folder(tree, inside)
            kernel.close_to_writing(tree)
            kernel.attach(tree, place)


def _furnish_folder(folder: int, inside: list[list[str]]) -> None:
    """Make the empty places on which other things will be mounted, without following links.

    What a command has put in the way is moved aside, and never opened: it could be anything.
    """
    for kind, relative in inside:
        *parents, name = relative.split("/")
        with contextlib.ExitStack() as opened:
            here = folder
            for parent in parents:
                _make(here, parent, "folder")
                here = kernel.open_beneath(here, parent)
                opened.callback(os.close, here)
            _make(here, name, kind)


def _make(folder: int, name: str, kind: str) -> None:
    """Have an empty folder or file in a folder, or one that was made there before."""
    is_wanted = stat.S_ISDIR if kind == "folder" else stat.S_ISREG
    with contextlib.suppress(FileNotFoundError):
        if is_wanted(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            return
        os.rename(name, f".{os.urandom(8).hex()}", src_dir_fd=folder, dst_dir_fd=folder)
    if kind == "folder":
        os.mkdir(name, 0o755, dir_fd=folder)
    else:
        os.mknod(name, 0o644 | stat.S_IFREG, dir_fd=folder)


def _attach_at(tree: int, path: str) -> None:
    with _closing(_open(path)) as place:
        kernel.attach(tree, place)


def _open(path: str) -> int:
    try:
        return kernel.open_path(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            raise OSError(error.errno, f"{path} is gone or has become a link") from error
        raise OSError(error.errno, f"{path}: {os.strerror(error.errno or 0)}") from error


@contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)
