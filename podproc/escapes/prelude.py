"""What attempts in Python begin with: this file's text goes ahead of theirs, in other interpreters.

The standard library alone, and nothing that needs our folders: in a cage they are closed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import time
from collections.abc import Callable
from typing import Any

NUMBERS = {
    "x86_64": {
        "clone": 56,
        "pivot_root": 155,
        "umount2": 166,
        "tkill": 200,
        "mq_open": 240,
        "mq_unlink": 241,
        "mq_timedsend": 242,
        "mq_timedreceive": 243,
        "add_key": 248,
        "keyctl": 250,
        "ioprio_set": 251,
        "ioprio_get": 252,
        "unshare": 272,
        "perf_event_open": 298,
        "setns": 308,
        "renameat2": 316,
        "io_setup": 206,
        "bpf": 321,
        "userfaultfd": 323,
    },
    "aarch64": {
        "clone": 220,
        "pivot_root": 41,
        "umount2": 39,
        "tkill": 130,
        "mq_open": 180,
        "mq_unlink": 181,
        "mq_timedsend": 182,
        "mq_timedreceive": 183,
        "add_key": 217,
        "keyctl": 219,
        "ioprio_set": 30,
        "ioprio_get": 31,
        "unshare": 97,
        "perf_event_open": 241,
        "setns": 268,
        "renameat2": 276,
        "io_setup": 0,
        "bpf": 280,
        "userfaultfd": 282,
    },
}.get(os.uname().machine, {}) | {
    "pidfd_send_signal": 424,
    "io_uring_setup": 425,
    "open_tree": 428,
    "fsopen": 430,
    "clone3": 435,
    "openat2": 437,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
    "fchmodat2": 452,
}
NEWUSER, NEWNS = 0x10000000, 0x20000
UNCAGED = "UNCAGED" in os.environ
SCRATCH = os.environ.get("I", "")
_CHILD_ENDED = 1 << 16

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.ptrace.restype = ctypes.c_long


def call(name: str | int, *args: Any) -> int:
    """Make a system call; returns its result, raises OSError."""
    number = name if isinstance(name, int) else NUMBERS[name]
    wide = [ctypes.c_long(one) if isinstance(one, int) else one for one in args]
    result: int = libc.syscall(ctypes.c_long(number), *wide)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def done() -> None:
    """Say that it worked."""
    print("it worked", flush=True)


def state(pid: int) -> str:
    """Return what others can do to a process, as far as it shows."""
    try:
        lines = _read(f"/proc/{pid}/status").splitlines()
        status = dict(line.split(":", 1) for line in lines)
        stat = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        more = [_read(f"/proc/{pid}/{name}") for name in ("oom_score_adj", "limits")]
    except OSError as error:
        return f"hidden: {error}" if os.path.exists(f"/proc/{pid}") else "gone"
    if stat[0] in "ZX":
        return "gone"
    shown = [status[name].strip() for name in ("Cpus_allowed", "TracerPid")]
    shown += [f"{int(status[name], 16) & ~_CHILD_ENDED:x}" for name in ("SigPnd", "ShdPnd")]
    shown += [*stat[16:17], *stat[37:39], "stopped" if stat[0] in "Tt" else "running"]
    try:
        shown.append(str(call("ioprio_get", 1, pid)))
    except OSError as error:
        shown.append(str(error))
    return "\n".join([*shown, *more])


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


class Victim:
    """Somebody to attempt things on: a stranger where the environment names one, else a child."""

    def __init__(self, folder: str) -> None:
        if "VICTIM_AT" in os.environ:
            self.pid, self.address, self.descriptor = map(int, os.environ["VICTIM_AT"].split())
            self.held = os.environ["VICTIM_HOLDS"]
            return
        import subprocess  # which takes its time, and few need it

        self.held = f"{folder}/f"
        self.child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", os.environ["VICTIM"], self.held],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"SECRET": os.environ["MARK"]},
        )
        self.pid = self.child.pid
        assert self.child.stdout is not None
        self.address, self.descriptor = map(int, self.child.stdout.readline().split())


def on_victims(folder: str, act: Callable[[int], object]) -> None:
    """Do something to those the environment names, or else to a child and say if that shows."""
    if "PIDS" in os.environ:
        for pid in map(int, os.environ["PIDS"].split()):
            try:
                act(pid)
            except OSError as error:
                print(pid, error)
        return
    victim = Victim(folder)
    before = state(victim.pid)
    act(victim.pid)
    for _ in range(100):
        if state(victim.pid) != before:
            done()
            return
        time.sleep(0.01)


def apart(flags: int = 0) -> None:
    """Have namespaces of our own where there is no cage; in one, where that is refused, go on."""
    try:
        call("unshare", NEWUSER | flags)
    except OSError as error:
        if UNCAGED:
            raise
        print(error)


def is_refused(act: Callable[[], object]) -> bool:
    """Say whether a call that makes no sense is refused before anybody looks at its sense."""
    try:
        act()
    except OSError as error:
        print(error)
        return error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS)
    return False
