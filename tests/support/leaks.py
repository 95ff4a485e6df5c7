"""The leak gate: threads, file descriptors and children that a test began and did not end."""

from __future__ import annotations

import gc
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.support.waiting import eventually

LAZY = ("/dev/urandom", "/.hypothesis/")
"""Opened by Python or Hypothesis when first needed, and then kept."""


@dataclass(frozen=True, slots=True)
class Held:
    """What this process holds at one moment."""

    threads: frozenset[threading.Thread]
    descriptors: dict[int, str]
    children: dict[int, str]

    @classmethod
    def now(cls) -> Self:
        """Look at this process."""
        return cls(frozenset(threading.enumerate()), _descriptors(), _children())

    def since(self, before: Held) -> list[str]:
        """Return one line for each thing held now and not before."""
        lines = [f"thread {thread.name}" for thread in self.threads - before.threads]
        if len(self.descriptors) > len(before.descriptors):
            new = self.descriptors.items() - before.descriptors.items()
            lines += [f"descriptor {fd} -> {target}" for fd, target in sorted(new)]
        born = self.children.keys() - before.children.keys()
        return lines + [f"process {pid}: {self.children[pid]}" for pid in sorted(born)]


def assert_nothing_leaked(before: Held, timeout: float = 10) -> None:
    """Give what is ending a moment to end; raises AssertionError naming what does not."""
    if not Held.now().since(before):
        return
    gc.collect()
    try:
        eventually(lambda: not Held.now().since(before), "nothing is left behind", timeout)
    except AssertionError:
        left = Held.now().since(before)
        assert not left, "the test left behind: " + ", ".join(left)


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the one the listing itself used
            continue
        if not any(lazy in target for lazy in LAZY):
            found[int(name)] = target
    return found


def _children() -> dict[int, str]:
    found = {}
    for path in Path("/proc/self/task").glob("*/children"):
        try:
            pids = path.read_text().split()
        except FileNotFoundError:  # the thread has ended meanwhile
            continue
        for pid in pids:
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
                if state not in "ZX":
                    command = Path(f"/proc/{pid}/cmdline").read_bytes()
                    found[int(pid)] = os.fsdecode(command).replace("\0", " ").strip()
            except FileNotFoundError:
                continue
    return found
