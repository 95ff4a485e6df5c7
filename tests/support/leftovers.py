"""What still lives of a folder: processes and sockets. As a program, the check that ends the demo.

A process belongs to a folder when its environment, command line, working directory or an open file
names it. All four are looked at, because each alone can be missing: a process title overwrites the
environment, a shell may have started with an empty one, a daemon leaves the folder it began in.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.waiting import eventually


def processes_of(root: Path) -> dict[int, str]:
    """Return {pid: command line} of every live process of `root`; no zombies, and not this one."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if (entry / "stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                continue
            command = (entry / "cmdline").read_bytes()
            if os.fsencode(root) in command + (entry / "environ").read_bytes() or any(
                str(root) in target for target in _links(entry)
            ):
                found[int(entry.name)] = os.fsdecode(command).replace("\0", " ").strip()
        except OSError:  # it ended while we looked, or it is another user's
            continue
    return found


def sockets_of(root: Path) -> list[Path]:
    """Return every socket file below `root`."""
    return [path for path in root.rglob("*") if path.is_socket()]


def kill_all(root: Path) -> None:
    """End every process of `root`: freeze them first, so that none restarts another, then kill."""

    def is_clear() -> bool:
        pids = processes_of(root)
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
        return not pids

    eventually(is_clear, f"every process of {root} is dead")


def _links(entry: Path) -> Iterator[str]:
    for name in ("cwd", *(f"fd/{fd}" for fd in os.listdir(entry / "fd"))):
        try:
            yield os.readlink(entry / name)
        except OSError:
            continue


def main() -> None:
    """Name what is left of a folder, ending it if asked; exit 1 if there was anything."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--kill", action="store_true")
    asked = parser.parse_args()
    left = [f"process {pid}: {command}" for pid, command in processes_of(asked.root).items()]
    left += [f"socket {path}" for path in sockets_of(asked.root)]
    print("\n".join(left) or "nothing is left: no process, no socket")
    if asked.kill:
        kill_all(asked.root)
    sys.exit(bool(left))


if __name__ == "__main__":
    main()
