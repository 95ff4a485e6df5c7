"""What this machine can confine commands with, found out by doing it once.

Versions, sysctls and security modules each take a part away, and no list of them is complete. So a
child does what a keeper and a command would do, and says where it failed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from podproc.confine import cell, kernel, landlock, seccomp

_NOTHING: dict[str, Any] = {"mounts": [["cover", "/tmp", []]], "grants": [["/usr", "read"]]}


def look() -> dict[str, Any]:
    """Return the fields of `protocol.cage.CageSupport`; takes some milliseconds and forks."""
    is_root, abi = os.geteuid() == 0, landlock.abi()
    missing: list[str] = []
    level, is_alone = "none", _failure(_try_pid_namespace) is None
    if why := _no_filter() or (None if abi else "the kernel has no Landlock"):
        missing.append(why)
    elif why := _failure(_try_namespaces):
        missing.append(f"namespaces: {why}")
        if abi < landlock.SCOPES_ABI:
            missing.append(f"landlock: ABI {abi}, and {landlock.SCOPES_ABI} is needed")
        elif why := _failure(lambda: _try_landlock(is_alone=is_alone)):
            missing.append(f"landlock: {why}")
        else:
            level = cell.LANDLOCK
    else:
        level = cell.NAMESPACES
    counts = cell.counts_pids() and (is_alone or level == cell.NAMESPACES)
    return {
        "level": level,
        "missing": missing,
        "is_root": is_root,
        "is_alone": is_alone,
        "bounds_processes": counts or not is_root,
    }


def _no_filter() -> str | None:
    machine = seccomp.this_machine()
    return None if seccomp.is_known(machine) else f"no table of system calls for {machine}"


def _try_pid_namespace() -> None:
    kernel.libc("unshare", kernel.CLONE_NEWPID)


def _try_namespaces() -> None:
    cell.enter_user_namespace()
    if (why := _failure(_try_cell)) is not None:
        raise OSError(0, why)


def _try_cell() -> None:
    cell.furnish(network=False, memory="/tmp")
    walls = cell.Walls(cell.NAMESPACES, network=False, unix_sockets=False, is_alone=True)
    walls.enclose(_NOTHING, "/")


def _try_landlock(*, is_alone: bool) -> None:
    walls = cell.Walls(cell.LANDLOCK, network=False, unix_sockets=False, is_alone=is_alone)
    walls.enclose(_NOTHING, "/")


def _failure(attempt: Callable[[], None]) -> str | None:
    """Return why an attempt fails in a child of its own, None where it does not."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            attempt()
            code = 0
        except BaseException as error:
            why: str = getattr(error, "strerror", None) or repr(error)
            os.write(tell, why.encode("utf-8", "replace")[:4096])
        finally:
            os._exit(code)
    os.close(tell)
    with open(told, "rb") as file:
        text = file.read(4096).decode("utf-8", "replace")
    _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status) == 0:
        return None
    return text or "it died"


def main() -> None:
    """Print what this machine can, as JSON."""
    json.dump(look(), sys.stdout)


if __name__ == "__main__":
    main()
