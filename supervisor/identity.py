"""Who a process is, so that it can be recognised later: by another process, or after a boot.

A pid alone is no identity: it is used again, and means another process in each pid namespace and on
each machine. With the clock tick at which the process started it is one, within a boot and a
namespace; the rest of an `Identity` says which those are. The tick is field 22 of
`/proc/<pid>/stat`, an integer; times computed from it move with the wall clock.

    same boot, same namespace     there: alive     gone, a zombie, or a stranger with its pid: dead
    other boot of this machine    dead
    anything else                 unverifiable: its process cannot be seen from here, so it may live
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Literal, TypeAlias

from protocol.base import Wire

Life: TypeAlias = Literal["alive", "dead", "unverifiable"]
"""What is known of a process; only `dead` is proof of anything."""

_ENDED = frozenset({b"Z", b"X", b"x"})


class Identity(Wire):
    """One process, once and for all; `start_ticks` counts clock ticks since the boot."""

    machine_id: str
    pid_ns: int
    boot_id: str
    pid: int
    start_ticks: int


def identity_of(pid: int) -> Identity | None:
    """Return the identity of a live process, None when there is none or it is a zombie.

    Raises OSError when the system does not say.
    """
    ticks = _start_ticks(pid)
    if ticks is None:
        return None
    machine_id, boot_id, pid_ns = _here()
    return Identity(
        machine_id=machine_id, pid_ns=pid_ns, boot_id=boot_id, pid=pid, start_ticks=ticks
    )


def boot() -> str:
    """Return the id of this machine's present boot."""
    return _here()[1]


def is_same_process(identity: Identity) -> Life:
    """Say whether that very process still lives."""
    try:
        machine_id, boot_id, pid_ns = _here()
        if identity.boot_id != boot_id:
            same_machine = machine_id and identity.machine_id == machine_id
            return "dead" if same_machine else "unverifiable"
        if identity.machine_id != machine_id or identity.pid_ns != pid_ns:
            return "unverifiable"
        return "alive" if _start_ticks(identity.pid) == identity.start_ticks else "dead"
    except OSError:
        return "unverifiable"


def _start_ticks(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        Path("/proc/self/stat").stat()  # raises where there is no /proc: nothing is known then
        return None
    # The command's name is in parentheses and may hold them, too; after the last come fields 3, 4…
    state, *fields = stat.rpartition(b")")[2].split()
    return None if state in _ENDED else int(fields[22 - 4])


@functools.cache
def _here() -> tuple[str, str, int]:
    """Return machine id, boot id and pid namespace, which do not change while a process lives."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    try:
        machine_id = Path("/etc/machine-id").read_text().strip()
    except FileNotFoundError:  # some containers; then another boot may be another machine
        machine_id = ""
    return machine_id, boot_id, os.stat("/proc/self/ns/pid").st_ino
