"""The list, as data.

An attempt is a program in Bash or Python, run in a cage once where it has to work and once against
what is outside. In it stand for

    $T, T         the folder that it is aimed at, with files f, d/g and a/b/f, an empty folder e,
                  the FIFO p and a file whose name is secret
    $I, SCRATCH   a folder in the scope for whatever it needs
    $PIDS         outside: processes that it is aimed at; where it has to work, unset

Bash runs `shell` in a subshell for each folder. Python has `podproc.escapes.prelude` ahead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from podproc.escapes.ground import PRODUCT_FILES, SECRET_REGIONS
from protocol.cage import BOMB, COUNTED, DEVICE, FIFO, FLEET, MEMORY, SHARED, STAT, UNSEEN


class Control(Enum):
    """Where an attempt has to work."""

    INSIDE = "in the cage, on what is in the scope"
    UNCAGED = "without a cage"


class Victim(Enum):
    """A process outside that an attempt is aimed at."""

    STRANGER = "stranger"
    KEEPER = "keeper"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way out.

    `regions` are aimed at, `inside` is where it has to work. `is_word_taken`: that it worked cannot
    be seen from outside, so it is believed. `gap` is how the cage tells that it is open, for what
    lies below `gap_below`; `apart`: with a keeper of its own; `needs` are programs without which it
    cannot be made. `is_earlier`: a job that was started before `T/a/b` was lent is the process
    aimed at.
    """

    name: str
    what: str
    shell: str = ""
    python: str = ""
    regions: tuple[str, ...] = ()
    inside: str = "in"
    victim: Victim | None = None
    control: Control = Control.INSIDE
    gap: str | None = None
    gap_below: str = "/"
    is_word_taken: bool = False
    unix_sockets: bool = False
    needs: tuple[str, ...] = ()
    apart: bool = False
    is_earlier: bool = False
    processes: int = 4096


CHANGE = (*SECRET_REGIONS, "beside", "opening", "lent", "denied", "shared-read", "shared-lent")
"""Regions in which nothing may be changed."""
SOME = ("home", "closed", "lent", "shared-read")
"""Some of them, for what differs in the way and not in the aim."""


def _changes() -> Iterator[Attempt]:
    """Yield what changes files, in the words of a shell or as Python."""
    for name, what, shell in (
        ("redirect", "write over a file: >", 'echo x > "$T/f"'),
        ("append", "append to a file: >>", 'echo x >> "$T/f"'),
        ("truncate", "truncate a file", 'truncate -s 0 "$T/f"'),
        ("create", "make a file", 'echo x > "$T/new"'),
        ("cp", "copy over a file", 'echo x > "$I/x" && cp -f "$I/x" "$T/f"'),
        ("mv-in", "move a file in", 'echo x > "$I/x" && mv -f "$I/x" "$T/f"'),
        ("mv-out", "move a file out: steal it", 'mv "$T/f" "$I/"'),
        ("rename-across", "move a folder out", 'mv "$T/d" "$I/"'),
        ("rename", "rename a file where it is", 'mv "$T/f" "$T/other"'),
        ("hard-link-out", "link a file out and write it", 'ln "$T/f" "$I/l"; echo x >> "$I/l"'),
        ("hard-link-in", "link a file in", 'echo x > "$I/x" && ln "$I/x" "$T/new"'),
        ("symlink", "write a file through a link", 'ln -s "$T/f" "$I/s"; echo x >> "$I/s"'),
        ("symlink-folder", "write through a linked folder", 'ln -s "$T" "$I/s"; echo x > "$I/s/n"'),
        ("symlink-in", "make a link", 'ln -s f "$T/new"'),
        ("setsid", "write later, from a session of its own", _LATER),
        (
            "dot-dot",
            "write by a path of ..",
            'cd "$I" && echo x >> "$(realpath -sm --relative-to=. "$T")/f"',
        ),
        ("proc-root", "write by /proc/self/root", 'echo x >> "/proc/self/root$T/f"'),
        ("proc-cwd", "write by /proc/self/cwd", 'cd / && echo x >> "/proc/self/cwd$T/f"'),
        ("mkdir", "make a folder", 'mkdir "$T/new"'),
        ("rmdir", "remove a folder", 'rmdir "$T/e"'),
        ("rm", "remove a file", 'rm -f "$T/f"'),
        ("rm-rf", "remove everything", 'rm -rf "$T"'),
        ("unlink", "unlink a FIFO", 'unlink "$T/p"'),
        ("mkfifo", "make a FIFO", 'mkfifo "$T/new"'),
    ):
        regions = CHANGE if name in _EVERYWHERE else SOME
        yield Attempt(name, what, shell=shell, regions=regions)
    yield Attempt(
        "git-hook",
        "write in a hook of git",
        shell=_GIT_HOOK,
        regions=SOME,
        needs=("git",),
    )
    for name, what, python in (
        ("python", "open a file for writing in Python", 'open(f"{T}/f", "w").write("x")'),
        ("unnamed", "link in a file made without a name: O_TMPFILE", _UNNAMED),
        ("exchange", "swap a file with one of ours: RENAME_EXCHANGE", _EXCHANGE),
        ("path-descriptor", "write by a descriptor that only names a file", _PATH_DESCRIPTOR),
        ("bind-socket", "make a socket", _BIND),
    ):
        yield Attempt(name, what, python=python, regions=CHANGE, unix_sockets=name == "bind-socket")
    below_writable = ("lent", "denied", "shared-read", "shared-lent")
    elsewhere = tuple(region for region in CHANGE if region not in below_writable)
    yield Attempt(
        "fifo",
        "write into a FIFO that somebody reads",
        python=_FIFO,
        regions=elsewhere,
        gap=FIFO,
        gap_below="/tmp",
    )
    yield Attempt(
        "fifo-below",
        "write into a FIFO below a writable folder",
        python=_FIFO,
        regions=below_writable,
        gap=FIFO,
    )
    for name, what, python in (
        ("chmod", "change the mode", 'os.chmod(f"{T}/f", 0o707)'),
        ("chmod-folder", "change the mode of a folder", 'os.chmod(f"{T}/d", 0o777)'),
        ("chgrp", "give a file to a group", 'os.chown(f"{T}/f", -1, os.getgid())'),
        ("utime", "change the times", 'os.utime(f"{T}/f", (1, 1))'),
        ("setxattr", "set an attribute", 'os.setxattr(f"{T}/f", "user.podsup", b"x")'),
        ("chattr", "set a flag of a file", _CHATTR),
    ):
        yield Attempt(name, what, python=python, regions=CHANGE, gap=UNSEEN)
    yield Attempt(
        "touch", "change the times: touch", shell='touch -cd @1 "$T/f"', regions=SOME, gap=UNSEEN
    )
    yield Attempt(
        "chown",
        "give a file to another user",
        python='os.chown(f"{T}/f", 65533, 65533)',
        regions=CHANGE,
        control=Control.UNCAGED,
    )


def _regions() -> Iterator[Attempt]:
    """Yield what reaches another's region by moving what is around it, or the parts of a rule."""
    for region, whose in (("above-lent", "what is lent"), ("above-denied", "what is denied")):
        for name, what, shell, python in (
            ("mv", f"move the folder above {whose} away", _MOVED, ""),
            ("exchange", f"swap the folder above {whose}", "", _SWAP),
            ("rm", f"remove the folder above {whose}", 'rm -rf "$T/a"', ""),
            ("mv-it", f"move {whose} itself away", 'mv "$T/a/b" "$I/b"', ""),
            ("link", f"write {whose} by a link", 'ln -s "$T/a/b" "$I/b"; echo x > "$I/b/n"', ""),
        ):
            yield Attempt(f"{region}-{name}", what, shell, python, (region, f"shared-{region}"))
    for name, what, shell, region in (
        ("absent", "make what is lent and not there yet", _MADE, "above-absent"),
        ("absent-mv", "move something to what is lent and not there", _MOVED_IN, "above-absent"),
        ("file-sibling", "write beside the file of a rule", _SIBLING, "one"),
        ("file-remove", "remove the file of a rule", 'rm -f "$T/f"', "one"),
        ("flat-write", "write below a rule that is not recursive", 'echo x >> "$T/d/g"', "flat"),
        ("flat-new", "make a folder where a rule is not recursive", _FLAT_NEW, "flat"),
        ("flat-mv", "move a folder where a rule is not recursive", 'mv "$T/d" "$T/c"', "flat"),
        ("flat-mv-out", "move a file up to a rule that is not recursive", _FLAT_OUT, "flat"),
    ):
        yield Attempt(name, what, shell, "", (region, f"shared-{region}"))
    yield Attempt(
        "file-rename",
        "rename over the file of a rule",
        python='open(f"{SCRATCH}/x", "w").close(); os.rename(f"{SCRATCH}/x", f"{T}/f")',
        regions=("one", "shared-one"),
    )
    yield Attempt(
        "earlier-job",
        "write what is lent through a job from before",
        shell=_EARLIER,
        regions=("later",),
        apart=True,
        is_earlier=True,
    )


def _reads() -> Iterator[Attempt]:
    """Yield what reads secrets."""
    for name, what, shell in (
        ("cat", "read files", 'cat "$T/f" "$T/d/g"'),
        ("find", "list a folder", 'find "$T"; ls -la "$T"; echo "$T"/*'),
        ("proc-root-read", "read by /proc/self/root", 'cat "/proc/self/root$T/f"'),
        ("symlink-read", "read through a link", 'ln -s "$T/f" "$I/s"; cat "$I/s"'),
        ("hard-link-read", "link a file out and read it", 'ln "$T/f" "$I/l"; cat "$I/l"'),
        ("cp-out", "copy a folder out", 'cp -r "$T/d" "$I/"'),
        ("execute", "run a file", 'bash "$T/f" 2>&1; "$T/f"; . "$T/f"'),
    ):
        yield Attempt(name, what, shell=shell, regions=SECRET_REGIONS)
    yield Attempt(
        "opening",
        "read folders beside the opening",
        shell='cat "$T/f"',
        regions=SECRET_REGIONS,
        inside="opening",
    )
    product = " ".join(f'"$T/{path}"' for path in PRODUCT_FILES)
    yield Attempt(
        "product",
        "read token, session log, pod metadata, scope table",
        shell=f'cat {product} "$T/f"; find "$T" -type f',
        regions=("product",),
    )
    yield Attempt(
        "stat",
        "see size and times of a file",
        python='print(T, os.stat(f"{T}/f").st_size); done()',
        regions=SECRET_REGIONS,
        gap=STAT,
        is_word_taken=True,
    )


def _processes() -> Iterator[Attempt]:
    """Yield what looks into processes or does something to them."""
    for name, what, python in (
        ("environ", "read a process's environment", 'print(open(f"/proc/{v.pid}/environ").read())'),
        ("mem", "read a process's memory", _MEM),
        ("fd", "open a process's file", 'print(open(f"/proc/{v.pid}/fd/{v.descriptor}").read())'),
        ("root", "read by a process's root", 'print(open(f"/proc/{v.pid}/root{v.held}").read())'),
        ("cwd", "read by a process's folder", 'print(open(f"/proc/{v.pid}/cwd/f").read())'),
        ("ptrace-attach", "attach to a process: ptrace", _ptrace(16)),
        ("ptrace-seize", "seize a process: ptrace", _ptrace(0x4206)),
        ("pidfd_getfd", "take a process's descriptor", _PIDFD_GETFD),
        ("process_vm_readv", "read a process's memory by call", _VM_READV),
    ):
        yield Attempt(
            name,
            what,
            python=f"v = Victim(T)\n{python}",
            regions=("closed",),
            victim=Victim.STRANGER,
        )
    for name, what, python in (
        ("setns", "enter a process's namespaces", _SETNS),
        ("perf", "watch a process: perf_event_open", _PERF),
    ):
        control = Control.UNCAGED if name == "setns" else Control.INSIDE
        yield Attempt(
            name, what, python=python, victim=Victim.STRANGER, control=control, is_word_taken=True
        )
    for name, what, python in _HURTS:
        body = f"def act(v):\n    {python}\non_victims(T, act)"
        control = Control.INSIDE if name in _SIGNALS else Control.UNCAGED
        for victim in Victim:
            yield Attempt(
                f"{name}-{victim.value}",
                f"{what}: {_WHOSE[victim]}",
                python=body,
                victim=victim,
                control=control,
            )
    yield Attempt(
        "kill-all",
        "signal everybody: kill -1",
        python=_KILL_ALL,
        victim=Victim.STRANGER,
        apart=True,
    )
    yield Attempt(
        "setown",
        "have the kernel signal a process: F_SETOWN",
        python=_SETOWN,
        victim=Victim.STRANGER,
    )
    yield Attempt(
        "others-root",
        "write by the root of another process",
        'for p in ${PIDS:-$$}; do echo x >> "/proc/$p/root$T/f"; done',
        "",
        SOME,
        victim=Victim.KEEPER,
    )
    yield Attempt(
        "bomb",
        "start processes without bound",
        python=_BOMB,
        gap=BOMB,
        is_word_taken=True,
        apart=True,
        processes=400,
    )


def _sockets() -> Iterator[Attempt]:
    """Yield what leads to other programs."""
    for name, what, python in (
        ("unix-path", "connect to the fleet's socket", _UNIX_PATH),
        ("unix-abstract", "connect to an abstract socket", _UNIX_ABSTRACT),
        ("datagram", "send to a datagram socket", _DATAGRAM),
        ("datagram-pair", "send by one end of a datagram pair", _pair("SOCK_DGRAM")),
        ("raw-pair", "send by one end of a raw pair, which is of datagrams", _pair("SOCK_RAW")),
        ("seqpacket-pair", "send by one end of a pair of packets", _pair("SOCK_SEQPACKET")),
        ("stream-pair", "send by one end of a stream pair", _pair("SOCK_STREAM")),
        ("tcp", "connect to a port of this machine", _TCP),
        ("udp", "send to a port of this machine", _UDP),
    ):
        yield Attempt(name, what, python=python, control=Control.UNCAGED)
    yield Attempt(
        "sock_diag",
        "list sockets: NETLINK_SOCK_DIAG",
        python=_SOCK_DIAG,
        control=Control.UNCAGED,
        is_word_taken=True,
    )
    yield Attempt(
        "allowed-path",
        "unix_sockets: connect to the fleet's socket",
        python=_UNIX_PATH,
        unix_sockets=True,
        gap=FLEET,
    )
    yield Attempt(
        "allowed-abstract",
        "unix_sockets: connect to an abstract socket",
        python=_UNIX_ABSTRACT,
        unix_sockets=True,
    )
    yield Attempt("shared-memory", "read System V shared memory", python=_SHARED, gap=MEMORY)
    yield Attempt(
        "message-queue",
        "take from a POSIX message queue",
        python=_QUEUE,
        control=Control.UNCAGED,
        gap=MEMORY,
    )


def _kernel() -> Iterator[Attempt]:
    """Yield what asks the kernel for more than a command may have."""
    for name, what, python in (
        ("clone-user", "clone into a user namespace", _CLONE),
        ("clone3-user", "clone3 into a user namespace", _CLONE3),
        ("mount", "mount a file system", _MOUNT),
        ("umount", "unmount one", _asked('call("umount2", SCRATCH.encode(), 0)')),
        ("remount", "make mounts writable: mount_setattr", _asked(_REMOUNT)),
        (
            "fsopen",
            "make a file system: fsopen",
            'apart(NEWNS)\ncall("fsopen", b"tmpfs", 0)\ndone()',
        ),
        ("open_tree", "copy a mount: open_tree", _OPEN_TREE),
        ("pivot_root", "change the root of all", _asked('call("pivot_root", b".", b".")')),
        ("chroot", "change the own root", "apart()\nos.chroot(SCRATCH)\ndone()"),
        ("mknod", "make a device", _MKNOD),
        ("io_uring", "write past the filter: io_uring", _IO_URING),
        ("add_key", "store a key", 'call("add_key", b"user", b"podsup", b"x", 1, -2)\ndone()'),
        ("keyctl", "find the session's keys", 'call("keyctl", 0, -3, 1)\ndone()'),
        ("bpf", "load into the kernel: bpf", _BPF),
        ("userfaultfd", "stop the kernel halfway: userfaultfd", 'call("userfaultfd", 1)\ndone()'),
        ("tiocsti", "type into a terminal: TIOCSTI", _TIOCSTI),
        ("int80", "call by the numbers of 32 bit", _INT80),
        ("x32", "call by the numbers of x32", "call(0x40000000 + 41, 1, 1, 0)\ndone()"),
        ("capabilities", "hold a capability", _CAPABILITIES),
        ("core_pattern", "open core_pattern for writing", _opened("/proc/sys/kernel/core_pattern")),
        ("sysrq", "open sysrq-trigger for writing", _opened("/proc/sysrq-trigger")),
        ("sys", "open a file of /sys for writing", _opened(*_OF_SYS)),
        ("kmsg", "open the kernel's log for writing", _opened("/dev/kmsg")),
        ("disk", "open the disk for reading", _DISK.replace("FLAGS", "os.O_RDONLY")),
        ("disk-write", "open the disk for writing", _DISK.replace("FLAGS", "os.O_WRONLY")),
        ("dev-mem", "open a device that is nobody's", _opened("/dev/mem", "/dev/kvm", "/dev/fuse")),
    ):
        yield Attempt(name, what, python=python, control=Control.UNCAGED, is_word_taken=True)
    yield Attempt(
        "unshare",
        "have a user namespace: unshare -Ur",
        shell="unshare -Ur true && echo it worked",
        control=Control.UNCAGED,
        is_word_taken=True,
        needs=("unshare",),
    )


def _shared() -> Iterator[Attempt]:
    """Yield what would last beyond the cage, or takes from others what the kernel counts."""
    for name, what, python in (
        ("setuid-chmod", "make a setuid file: chmod", "os.chmod(own, 0o4755)"),
        ("setgid-fchmod", "make a setgid file: fchmod", "os.fchmod(os.open(own, 0), 0o2755)"),
        ("setuid-fchmodat2", "make a setuid file: fchmodat2", _FCHMODAT2),
        ("setuid-open", "make a setuid file: open", "os.open(new, os.O_CREAT | 1, 0o6755)"),
        ("setuid-openat2", "make a setuid file: openat2", _OPENAT2),
        ("setuid-mknod", "make a setuid file: mknod", "os.mknod(new, 0o104755)"),
        ("setuid-unnamed", "make a setuid file: O_TMPFILE", _SETUID_UNNAMED),
    ):
        body = f"{_OWN_FILE}\n{python.strip()}\n{_IS_SETUID}"
        yield Attempt(name, what, python=body, control=Control.UNCAGED, is_word_taken=True)
    for name, what, python in (
        ("lease", "make others wait for a file: F_SETLEASE", _on_own_file("1024, fcntl.F_WRLCK")),
        ("notify", "be told what others do in a folder: F_NOTIFY", _NOTIFY),
        ("aio", "take from the machine's few AIO contexts", _AIO),
        ("signals", "take the signals that the user's programs may queue", _SIGNALS_QUEUED),
        ("queue-bytes", "take the user's bytes for POSIX message queues", _QUEUES),
        ("core", "have a core file left", _CORE),
        ("raise-priority", "raise the own priority", "os.nice(-5)\ndone()"),
        ("real-time", "come before every other program", _REAL_TIME),
        ("subvolume", "ask the file system for a subvolume", _SUBVOLUME),
        ("oom-own", "offer others' memory first", _OOM_OWN),
        ("affinity-own", "choose the own processor", _AFFINITY_OWN),
    ):
        yield Attempt(name, what, python=python, control=Control.UNCAGED, is_word_taken=True)
    yield Attempt(
        "inotify",
        "take a third of the user's inotify instances",
        python=_INOTIFY,
        control=Control.UNCAGED,
        gap=COUNTED,
        is_word_taken=True,
    )
    yield Attempt(
        "device",
        "open a device file that lies in the scope",
        python='os.read(os.open(f"{T}/device", os.O_RDONLY), 1)\ndone()',
        regions=("in",),
        control=Control.UNCAGED,
        gap=DEVICE,
        is_word_taken=True,
    )
    yield Attempt(
        "flock",
        "lock a file that may only be read",
        python=_FLOCK,
        regions=("beside",),
        gap=SHARED,
        is_word_taken=True,
    )


_EVERYWHERE = ("redirect", "create", "mv-in", "mv-out", "hard-link-out", "mkdir", "rm", "mkfifo")
_LATER = (
    'setsid bash -c \'for i in 1 2 3; do sleep 0.1; echo x >> "$0/f"; done\' "$T"'
    " > /dev/null 2>&1 < /dev/null &"
)
_GIT_HOOK = """
R=$(mktemp -d "$I/XXXXXX") && cd "$R" && git init -q . || exit
printf '#!/bin/sh\\necho x >> "%s/f"\\n' "$T" > .git/hooks/pre-commit
chmod +x .git/hooks/pre-commit
git -c user.name=x -c user.email=x@x commit -q --allow-empty -m x
"""
_MOVED = 'mv "$T/a" "$T/c"; mkdir -p "$T/a/b"; echo x > "$T/a/b/f"'
_MADE = 'mkdir -p "$T/x/y"; echo x > "$T/x/y/f"'
_MOVED_IN = 'mkdir -p "$I/x/y"; echo x > "$I/x/y/f"; mv "$I/x" "$T/x"'
_SIBLING = 'echo x > "$T/new"; echo x > "$T/d/g"'
_FLAT_NEW = 'mkdir "$T/n"; echo x > "$T/n/f"'
_FLAT_OUT = 'mv "$T/d/g" "$T/"'
_FIFO = 'os.write(os.open(f"{T}/p", os.O_WRONLY | os.O_NONBLOCK), b"x")'
_UNNAMED = """
fd = os.open(SCRATCH, os.O_TMPFILE | os.O_WRONLY, 0o600)
libc.linkat(-100, f"/proc/self/fd/{fd}".encode(), -100, f"{T}/new".encode(), 0x400)
"""
_EXCHANGE = """
open(f"{SCRATCH}/x", "w").close()
call("renameat2", -100, f"{SCRATCH}/x".encode(), -100, f"{T}/f".encode(), 2)
"""
_SWAP = """
os.makedirs(f"{SCRATCH}/x/b")
call("renameat2", -100, f"{SCRATCH}/x".encode(), -100, f"{T}/a".encode(), 2)
"""
_PATH_DESCRIPTOR = """
fd = os.open(f"{T}/f", os.O_PATH)
os.write(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_APPEND), b"x")
"""
_BIND = """
import socket
os.chdir(T)
socket.socket(socket.AF_UNIX).bind("s")
"""
_CHATTR = """
import fcntl
fd = os.open(f"{T}/f", os.O_RDONLY)
flags = bytearray(8)
fcntl.ioctl(fd, 0x80086601, flags)  # FS_IOC_GETFLAGS
flags[0] ^= 0x40  # not to be dumped
fcntl.ioctl(fd, 0x40086602, flags)  # FS_IOC_SETFLAGS
"""
_EARLIER = """
if [ -z "$PIDS" ]; then
    (exec 7>> "$T/a/b/f" && cd "$T/a/b" && exec sleep 3 > /dev/null 2>&1) & PIDS=$!
    sleep 0.1
fi
for p in $PIDS; do
    echo x >> "/proc/$p/fd/7"; echo x >> "/proc/$p/cwd/new"; echo x >> "/proc/$p/root$T/a/b/f"
done
"""
_MEM = """
with open(f"/proc/{v.pid}/mem", "rb", 0) as memory:
    memory.seek(v.address)
    print(memory.read(64))
"""


def _ptrace(request: int) -> str:
    return f"""
if libc.ptrace({request}, v.pid, None, None) < 0:
    raise OSError(ctypes.get_errno(), "ptrace")
if {request} == 0x4206:
    libc.ptrace(0x4207, v.pid, None, None)
os.waitpid(v.pid, 0x40000000)
print(b"".join(
    (libc.ptrace(2, v.pid, ctypes.c_void_p(v.address + at), None) & (1 << 64) - 1).to_bytes(
        8, sys.byteorder
    )
    for at in range(0, 32, 8)
))
libc.ptrace(17, v.pid, None, None)
"""


_PIDFD_GETFD = """
fd = call("pidfd_getfd", os.pidfd_open(v.pid), v.descriptor, 0)
print(os.pread(fd, 100, 0))
"""
_VM_READV = """
import struct
into = ctypes.create_string_buffer(64)
here = struct.pack("PN", ctypes.addressof(into), 64)
there = struct.pack("PN", v.address, 64)
if libc.process_vm_readv(v.pid, here, 1, there, 1, 0) < 0:
    raise OSError(ctypes.get_errno(), "process_vm_readv")
print(into.raw)
"""
_SETNS = """
if UNCAGED:
    child = os.fork()
    if child == 0:
        try:
            apart()
            time.sleep(0.3)
        finally:
            os._exit(0)
    time.sleep(0.1)
    pids = [child]
else:
    pids = [os.environ["PIDS"], "1", "self"]
for pid in pids:
    for name in ("user", "mnt", "pid", "net", "ipc", "uts"):
        try:
            call("setns", os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY), 0)
        except OSError as error:
            print(pid, name, error)
        else:
            done()
            break
"""
_PERF = """
import struct
v = Victim(T) if "PIDS" not in os.environ else None
pid = v.pid if v else int(os.environ["PIDS"])
attributes = struct.pack("IIQQQQQ", 1, 112, 1, 0, 0, 0, 1 << 5 | 1 << 6).ljust(112, b"\\0")
call("perf_event_open", attributes, pid, -1, -1, 0)
done()
"""
_WHOSE = {Victim.STRANGER: "of a process outside", Victim.KEEPER: "of the keeper"}
_SIGNALS = ("kill", "stop", "tkill", "pidfd-kill")
_HURTS = (
    ("kill", "kill -9", "os.kill(v, 9)"),
    ("stop", "stop the process", "os.kill(v, 19)"),
    ("tkill", "kill a thread", 'call("tkill", v, 9)'),
    ("pidfd-kill", "kill by pidfd", 'call("pidfd_send_signal", os.pidfd_open(v), 9, None, 0)'),
    (
        "prlimit",
        "limit the processor time",
        "import resource; resource.prlimit(v, resource.RLIMIT_CPU, (1000000, 1000001))",
    ),
    ("renice", "lower the priority", "os.setpriority(os.PRIO_PROCESS, v, 19)"),
    ("affinity", "choose the processor", "os.sched_setaffinity(v, {max(os.sched_getaffinity(0))})"),
    ("scheduler", "choose the scheduler", "os.sched_setscheduler(v, 3, os.sched_param(0))"),
    ("ioprio", "lower the priority on the disk", 'call("ioprio_set", 1, v, 3 << 13)'),
    ("oom", "offer the memory", 'open(f"/proc/{v}/oom_score_adj", "w").write("900")'),
)
"""By name: what is done to a process v, which others see."""
_KILL_ALL = """
def act(v):
    # A signal that nobody minds, and that a victim, who blocks it, keeps.
    os.kill(-1, 23)
on_victims(T, act)
"""
_SETOWN = """
import fcntl
def act(v):
    out, into = os.pipe()
    fcntl.fcntl(out, fcntl.F_SETOWN, v)
    fcntl.fcntl(out, 10, 10)  # F_SETSIG, SIGUSR1
    fcntl.fcntl(out, fcntl.F_SETFL, fcntl.fcntl(out, fcntl.F_GETFL) | os.O_ASYNC)
    os.write(into, b"x")
on_victims(T, act)
"""
_BOMB = """
wanted = 600 if "OUTSIDE" in os.environ else 20
started = 0
try:
    for _ in range(wanted):
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
        started += 1
finally:
    print(started, "started", flush=True)
if started == wanted:
    done()
"""
_UNIX_PATH = """
import socket
path = os.environ["STREAM"]
if "OUTSIDE" not in os.environ and not UNCAGED:
    path = f"{SCRATCH}/s"
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
client = socket.socket(socket.AF_UNIX)
client.connect(path)
client.sendall(os.environ["TAG"].encode())
done()
"""
_UNIX_ABSTRACT = """
import socket
name = os.environ["ABSTRACT"]
if "OUTSIDE" not in os.environ and not UNCAGED:
    name = f"{name}-{os.getpid()}"
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"\\0{name}")
    server.listen()
client = socket.socket(socket.AF_UNIX)
client.connect(f"\\0{name}")
client.sendall(os.environ["TAG"].encode())
done()
"""
_DATAGRAM = """
import socket
for path in os.environ["DATAGRAMS"].split(":"):
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(os.environ["TAG"].encode(), path)
"""


def _pair(kind: str) -> str:
    return f"""
import socket
for path in [os.environ["STREAM"], *os.environ["DATAGRAMS"].split(":")]:
    for way in ("sendto", "connect"):
        one, other = socket.socketpair(socket.AF_UNIX, socket.{kind})
        try:
            if way == "sendto":
                one.sendto(os.environ["TAG"].encode(), path)
            else:
                one.connect(path)
                one.send(os.environ["TAG"].encode())
        except OSError as error:
            print(path, error)
"""


_TCP = """
import socket
client = socket.create_connection(("127.0.0.1", int(os.environ["PORT"])), 2)
client.sendall(os.environ["TAG"].encode())
"""
_UDP = """
import socket
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.sendto(os.environ["TAG"].encode(), ("127.0.0.1", int(os.environ["UDP"])))
"""
_SOCK_DIAG = """
import socket, struct
link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4)
link.settimeout(2)
body = struct.pack("BBHIIIII", 1, 0, 0, 0xFFFFFFFF, 0, 1, 0xFFFFFFFF, 0xFFFFFFFF)
link.send(struct.pack("IHHII", 16 + len(body), 20, 0x301, 1, 0) + body)
if struct.unpack_from("IH", link.recv(1 << 20))[1] == 20:
    done()
"""
_SHARED = """
libc.shmat.restype = ctypes.c_void_p
number = os.environ.get("SHARED") if "OUTSIDE" in os.environ else None
if number is None:
    number = libc.shmget(0, 4096, 0o1600)
    text = os.environ["MARK"].encode()
    ctypes.memmove(libc.shmat(number, None, 0), text, len(text))
    libc.shmctl(number, 0, None)
at = libc.shmat(int(number), None, 0)
if at in (None, (1 << 64) - 1):
    raise OSError(ctypes.get_errno(), "shmat")
print(ctypes.string_at(at, 64))
"""
_QUEUE = """
import struct
name = os.environ.get("QUEUE", "").encode()
if "OUTSIDE" not in os.environ:
    name = b"podsup-%d" % os.getpid()
    text = os.environ["MARK"].encode()
    sizes = struct.pack("8q", 0, 1, 64, 0, 0, 0, 0, 0)
    queue = call("mq_open", name, os.O_RDWR | os.O_CREAT, 0o600, sizes)
    call("mq_timedsend", queue, text, len(text), 0, None)
queue = call("mq_open", name, os.O_RDONLY | os.O_NONBLOCK, 0, None)
if "OUTSIDE" not in os.environ:
    call("mq_unlink", name)
into = ctypes.create_string_buffer(64)
call("mq_timedreceive", queue, into, 64, None, None)
print(into.raw)
"""
_CLONE = """
child = call("clone", NEWUSER | 17, 0, 0, 0, 0)
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
done()
"""
_CLONE3 = """
import struct
child = call("clone3", struct.pack("8Q", NEWUSER, 0, 0, 0, 17, 0, 0, 0), 64)
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
done()
"""
_MOUNT = """
apart(NEWNS)
if libc.mount(b"none", SCRATCH.encode(), b"tmpfs", ctypes.c_ulong(0), None) < 0:
    raise OSError(ctypes.get_errno(), "mount")
libc.umount2(SCRATCH.encode(), 2)
done()
"""
_REMOUNT = 'call("mount_setattr", -100, SCRATCH.encode(), 0, bytes(32), 32)'
_OPEN_TREE = """
apart(NEWNS)
call("open_tree", -100, SCRATCH.encode(), 1)
done()
"""


def _asked(act: str) -> str:
    """Return a program that makes a call without sense: only whether it is refused counts."""
    return f"apart(NEWNS)\nif not is_refused(lambda: {act}):\n    done()"


_MKNOD = """
os.mknod(f"{SCRATCH}/n", 0o020600, os.makedev(1, 3))
done()
"""
_IO_URING = """
call("io_uring_setup", 1, ctypes.create_string_buffer(120))
done()
"""
_BPF = """
import struct
# The smallest program there is, a filter of sockets that passes nothing; never attached.
code = struct.pack("BBhi", 0xB7, 0, 0, 0) + struct.pack("BBhi", 0x95, 0, 0, 0)
steps, words = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
attributes = struct.pack(
    "IIQQIIQ", 1, 2, ctypes.addressof(steps), ctypes.addressof(words), 0, 0, 0
).ljust(128, b"\\0")
call("bpf", 5, attributes, 128)
done()
"""
_TIOCSTI = """
import fcntl
theirs, ours = os.openpty()
fcntl.ioctl(ours, 0x540E, 0)  # TIOCSCTTY
fcntl.ioctl(ours, 0x5412, b"x")
done()
"""
_INT80 = """
import mmap
if os.uname().machine != "x86_64":
    raise OSError(errno.ENOSYS, "no such numbers")
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("53 89f8 89f3 89cf 89d1 89fa cd80 5b c3"))
at = ctypes.addressof(ctypes.c_char.from_buffer(page))
result = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_int] * 4)(at)(359, 1, 1, 0)  # socket
if result < 0:
    raise OSError(-result, "socket, by its 32-bit number")
done()
"""
_CAPABILITIES = """
for line in open("/proc/self/status"):
    name, _, value = line.partition(":")
    if name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        print(line)
        if int(value, 16):
            done()
"""
_OF_SYS = (
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/kernel/profiling",
    "/sys/power/state",
    "/sys/kernel/uevent_helper",
)


def _opened(*paths: str) -> str:
    """Return a program that opens files for writing and writes nothing."""
    return f"""
for path in {paths!r}:
    try:
        os.close(os.open(path, os.O_WRONLY))
        done()
    except OSError as error:
        print(error)
"""


_DISK = """
with open("/proc/self/mountinfo") as mounts:
    device = next(line.split()[2] for line in mounts if line.split()[4] == "/")
for line in open("/proc/partitions"):
    words = line.split()
    if ":".join(words[:2]) == device:
        os.close(os.open(f"/dev/{words[3]}", FLAGS))
        done()
"""
"""Of the root's device alone, and nothing is read or written."""

_OWN_FILE = """
import tempfile
folder = tempfile.mkdtemp(dir=SCRATCH)
own, new = f"{folder}/own", f"{folder}/new"
open(own, "w").close()
"""
_IS_SETUID = """
if any(os.stat(f"{folder}/{name}").st_mode & 0o6000 for name in os.listdir(folder)):
    done()
"""
_FCHMODAT2 = 'call("fchmodat2", -100, own.encode(), 0o4755, 0)'
_OPENAT2 = """
import struct
call("openat2", -100, new.encode(), struct.pack("QQQ", os.O_CREAT | 1, 0o4755, 0), 24)
"""
_SETUID_UNNAMED = """
fd = os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o4755)
libc.linkat(-100, f"/proc/self/fd/{fd}".encode(), -100, new.encode(), 0x400)
"""


def _on_own_file(command: str) -> str:
    return f"{_OWN_FILE}\nimport fcntl\nfcntl.fcntl(os.open(own, 0), {command})\ndone()"


_NOTIFY = """
import fcntl, signal
signal.signal(signal.SIGIO, signal.SIG_IGN)
fcntl.fcntl(os.open(SCRATCH, os.O_RDONLY), 1026, 4)  # DN_CREATE
done()
"""
_AIO = """
call("io_setup", 1, ctypes.byref(ctypes.c_ulong(0)))
done()
"""
_SIGNALS_QUEUED = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
libc.sigqueue.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
if all(libc.sigqueue(os.getpid(), 40, None) == 0 for _ in range(6000)):
    done()
"""
_QUEUES = """
import struct
sizes = struct.pack("8q", 0, 8, 8192, 0, 0, 0, 0, 0)
names = [b"podsup-%d-%d" % (os.getpid(), number) for number in range(5)]
try:
    for name in names:
        os.close(call("mq_open", name, os.O_RDWR | os.O_CREAT, 0o600, sizes))
    done()
finally:
    for name in names:
        try:
            call("mq_unlink", name)
        except OSError:
            break
"""
_CORE = """
import resource
resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))
done()
"""
_REAL_TIME = """
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
done()
"""
_SUBVOLUME = """
import fcntl
try:
    fcntl.ioctl(os.open(".", os.O_RDONLY), 0x5000940E, bytearray(4096))  # BTRFS_IOC_SUBVOL_CREATE
except OSError as error:
    if error.errno in (errno.EPERM, errno.EACCES):
        raise
done()  # whatever else it said: it was asked
"""
_OOM_OWN = """
with open("/proc/self/oom_score_adj", "r+") as file:
    before = int(file.read())
    file.seek(0)
    file.write("0")
if before > 0:
    done()
"""
_AFFINITY_OWN = """
before = os.sched_getaffinity(0)
os.sched_setaffinity(0, {max(before)})
if os.sched_getaffinity(0) != before:
    done()
"""
_INOTIFY = """
with open("/proc/sys/fs/inotify/max_user_instances") as file:
    most = int(file.read())
if all(libc.inotify_init1(0) >= 0 for _ in range(most // 3)):
    done()
"""
_FLOCK = """
import fcntl
fcntl.flock(os.open(f"{T}/f", os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
done()
"""

ATTEMPTS: tuple[Attempt, ...] = (
    *_changes(),
    *_regions(),
    *_reads(),
    *_processes(),
    *_sockets(),
    *_kernel(),
    *_shared(),
)
"""Every attempt, in the order in which they are told."""
