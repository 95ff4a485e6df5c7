"""Where the disk of a session can fail or its process can die: one table, and the files that do it.

A point is `<recipe>.<role>.<operation>.<phase>`. The product knows nothing of points: it asks
`Files` for operations. Which recipe an operation belongs to the history says (`during`), the role
follows from the path, and the phase is where in the operation the process dies:

    before   nothing of it was done
    half     of a write, the first half was taken
    almost   of a write, all but the last byte: the newline
    after    it was done, and nobody has heard of it

An error can come at `before`; at `half` and `almost` it is a short write. The same files keep what
a loss of power would leave: of a file what was synced of it last, of a folder those names that were
there when it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from podproc.session.files import OsFiles
from tests.podproc.session.disk import Killed

SIMPLE = ("before", "after")
WRITE = ("before", "half", "almost", "after")

RECIPES: dict[str, str] = {
    "create": """
        above.open above.fsync above.close above.mkdir folder.mkdir
        staged.open staged.write staged.fsync staged.close staged.unlink
        log.rename folder.open folder.fsync folder.close log.stat log.close log.unlink
    """,
    "append": "log.stat log.write log.ftruncate",
    "sync": "log.dup log.fdatasync log.close folder.open folder.fsync folder.close",
    "cut": """
        log.stat log.pread staged.open staged.write staged.fsync staged.close staged.unlink
        log.rename log.close folder.open folder.fsync folder.close
    """,
    "open": """
        log.open log.pread log.stat log.ftruncate log.close
        staged.open staged.write staged.fsync staged.close staged.unlink
        torn.rename torn.close folder.open folder.fsync folder.close
    """,
    "read": "log.pread",
    "close": "log.close inbox.close",
    "go_on": """
        record.claim above.open above.fsync above.close
        staged.open staged.write staged.fsync staged.close staged.unlink
        log.rename folder.open folder.fsync folder.close log.stat log.close log.unlink
    """,
    "inbox": """
        above.open above.fsync above.close above.mkdir folder.mkdir
        inbox.open inbox.pread inbox.ftruncate inbox.close
    """,
    "store": "inbox.write inbox.ftruncate",
    "settle": "inbox.write inbox.ftruncate",
    "shrink": """
        staged.open staged.write staged.fsync staged.close staged.unlink
        inbox.rename inbox.close folder.open folder.fsync folder.close
    """,
}
"""Each recipe and its operations; a claim is none of `Files`, but a moment like the others."""

STEPS = tuple(f"{recipe}.{one}" for recipe, all_ in RECIPES.items() for one in all_.split())

ONLY_AFTER = {
    "create.staged.close": "create.staged.fsync.before",
    "create.staged.unlink": "create.staged.fsync.before",
    "create.log.close": "create.folder.open.before",
    "create.log.unlink": "create.folder.fsync.before",
    "append.log.ftruncate": "append.log.write.half",
    "cut.staged.close": "cut.staged.fsync.before",
    "cut.staged.unlink": "cut.log.rename.before",
    "open.log.close": "open.log.pread.before",
    "open.staged.close": "open.staged.fsync.before",
    "open.staged.unlink": "open.torn.rename.before",
    "go_on.staged.close": "go_on.staged.fsync.before",
    "go_on.staged.unlink": "go_on.staged.write.before",
    "go_on.log.unlink": "go_on.folder.open.before",
    "inbox.inbox.close": "inbox.inbox.pread.before",
    "store.inbox.ftruncate": "store.inbox.write.almost",
    "settle.inbox.ftruncate": "settle.inbox.write.half",
    "shrink.staged.close": "shrink.staged.fsync.before",
    "shrink.staged.unlink": "shrink.inbox.rename.before",
}
"""Steps that clean up, and the error that leads there."""


def phases(step: str) -> tuple[str, ...]:
    """Return where in a step a process can die."""
    return WRITE if step.endswith(".write") else SIMPLE


POINTS: dict[str, str] = {f"{step}.{phase}": step for step in STEPS for phase in phases(step)}
"""Every point and its step."""

ERRORS = tuple(
    point
    for point, step in POINTS.items()
    if not step.endswith(".close") and not point.endswith(".after")
)
"""Where an error can come. A close is none of them: the descriptor is gone whatever it says."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens when a point is passed for the n-th time: death, or an error of this number."""

    point: str
    code: int | None = None
    nth: int = 1


def faults_at(point: str, code: int | None, nth: int = 1) -> tuple[Fault, ...]:
    """Return what has to happen so that this does at this point."""
    at = Fault(point, code, nth)
    way = ONLY_AFTER.get(POINTS[point])
    return (at,) if way is None else (Fault(way, errno.ENOSPC), at)


def die_here() -> NoReturn:
    """Die as a task of this process can: nothing of it catches it."""
    raise Killed


class FailingFiles(OsFiles):
    """Real files, on which each fault strikes once. After a death no operation does anything."""

    def __init__(self, *faults: Fault, die: Callable[[], NoReturn] = die_here) -> None:
        self.recipe = ""
        self.passed: Counter[str] = Counter()
        self.struck: list[Fault] = []
        self.is_dead = False
        self._faults = faults
        self._die = die
        self._paths: dict[int, Path] = {}
        self._durable: dict[int, bytes] = {}
        self._given_up: set[int] = set()
        self._undo: dict[Path, list[Callable[[], None]]] = {}

    @contextlib.contextmanager
    def during(self, recipe: str) -> Iterator[None]:
        """Say which recipe the operations inside belong to."""
        before, self.recipe = self.recipe, recipe
        try:
            yield
        finally:
            self.recipe = before

    def passing(self, point: str) -> None:
        """Die or fail here, if that is the plan."""
        if (fault := self._due(point)) is None:
            return
        if fault.code is None:
            self.is_dead = True
            self._die()
        raise OSError(fault.code, os.strerror(fault.code))

    def _due(self, point: str) -> Fault | None:
        if self.is_dead:
            raise Killed
        self.passed[point] += 1
        for fault in self._faults:
            if fault.point == point and fault.nth == self.passed[point]:
                self.struck.append(fault)
                return fault
        return None

    def follow(self, before: FailingFiles) -> None:
        """Take over what a loss of power would leave of what the process before has done."""
        self._durable, self._given_up = before._durable, before._given_up
        self._undo = before._undo

    def bury(self) -> None:
        """Close what a killed process had open, as the kernel does."""
        for fd in self._paths:
            os.close(fd)
        self._paths.clear()

    @contextlib.contextmanager
    def _step(self, op: str, path: Path) -> Iterator[str]:
        step = f"{self.recipe}.{role(path)}.{op}"
        self.passing(f"{step}.before")
        yield step
        self.passing(f"{step}.after")

    @contextlib.contextmanager
    def _after(self, op: str, path: Path) -> Iterator[None]:
        yield
        self.passing(f"{self.recipe}.{role(path)}.{op}.after")

    # -- the operations --------------------------------------------------------------------------

    def open(self, path: Path, flags: int) -> int:
        with self._step("open", path):
            fd = super().open(path, flags)
            self._paths[fd] = path
            if flags & os.O_TRUNC:
                inode = os.fstat(fd).st_ino  # perhaps that of a file that is gone
                self._durable.pop(inode, None)
                self._given_up.discard(inode)
        return fd

    def close(self, fd: int) -> None:
        with self._step("close", self._paths[fd]):
            del self._paths[fd]
            super().close(fd)

    def dup(self, fd: int) -> int:
        with self._step("dup", self._paths[fd]):
            new = super().dup(fd)
            self._paths[new] = self._paths[fd]
        return new

    def write(self, fd: int, data: bytes) -> int:
        with self._step("write", self._paths[fd]) as step:
            for phase, size in (("half", len(data) // 2), ("almost", len(data) - 1)):
                if (fault := self._due(f"{step}.{phase}")) is not None:
                    written = super().write(fd, data[:size])
                    if fault.code is not None:
                        return written
                    self.is_dead = True
                    self._die()
            written = super().write(fd, data)
        return written

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        with self._step("pread", self._paths[fd]):
            return super().pread(fd, size, offset)

    def stat(self, path: Path) -> os.stat_result:
        with self._step("stat", path):
            return super().stat(path)

    def fsync(self, fd: int) -> None:
        with self._step("fsync", self._paths[fd]):
            super().fsync(fd)
            self._is_durable(fd)

    def fdatasync(self, fd: int) -> None:
        """Sync; what an error leaves is not on its way any more: the kernel tries it once."""
        inode = os.fstat(fd).st_ino
        try:
            self.passing(f"{self.recipe}.{role(self._paths[fd])}.fdatasync.before")
        except OSError:
            self._given_up.add(inode)
            raise
        with self._after("fdatasync", self._paths[fd]):
            super().fdatasync(fd)
            self._is_durable(fd)

    def ftruncate(self, fd: int, size: int) -> None:
        with self._step("ftruncate", self._paths[fd]):
            super().ftruncate(fd, size)

    def rename(self, source: Path, target: Path) -> None:
        with self._step("rename", target):
            old = self._left_of(target) if target.exists() else None
            super().rename(source, target)
            renamed = {fd: target for fd, path in self._paths.items() if path == source}
            self._paths.update(renamed)
            self._undo_later(target, lambda: _put_back(target, old))

    def unlink(self, path: Path) -> None:
        with self._step("unlink", path):
            super().unlink(path)

    def mkdir(self, path: Path) -> None:
        with self._step("mkdir", path):
            super().mkdir(path)
            self._undo_later(path, lambda: shutil.rmtree(path, ignore_errors=True))

    # -- what power does to them -----------------------------------------------------------------

    def _undo_later(self, path: Path, undo: Callable[[], None]) -> None:
        self._undo.setdefault(path.parent, []).append(undo)

    def _is_durable(self, fd: int) -> None:
        path = self._paths[fd]
        if path.is_dir():
            self._undo.pop(path, None)
        else:
            info = os.fstat(fd)
            if info.st_ino in self._given_up:
                return
            self._durable[info.st_ino] = os.pread(fd, info.st_size, 0)

    def _left_of(self, path: Path) -> bytes:
        return self._durable.get(path.stat().st_ino, b"")

    def lose_power(self, folder: Path, dice: random.Random) -> None:
        """Leave in the folder what was durable, and of the rest anything."""
        for undo in self._undo.values():
            for one in reversed(undo[dice.randint(0, len(undo)) :]):
                one()
        for path in sorted(folder.rglob("*.jsonl")):
            now, kept = path.read_bytes(), self._left_of(path)
            if now != kept:
                path.write_bytes(_survivor(now, kept, dice))


def _put_back(path: Path, old: bytes | None) -> None:
    if old is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(old)


def _survivor(now: bytes, kept: bytes, dice: random.Random) -> bytes:
    """Return a file of which the first bytes were synced, and the others were on their way."""
    if not now.startswith(kept):  # it was cut since: that may have come about or not
        return dice.choice((now, kept))
    tail = bytearray(now[len(kept) :])
    match dice.choice(("none", "all", "some", "blocks")):
        case "none":
            tail.clear()
        case "some":
            del tail[dice.randint(0, len(tail)) :]
        case "blocks":
            size = dice.choice((16, 64, 512))
            for start in range(0, len(tail), size):
                if dice.random() < 0.4:
                    part = len(tail[start : start + size])
                    lost = bytes(part) if dice.random() < 0.7 else dice.randbytes(part)
                    tail[start : start + part] = lost
    return kept + bytes(tail)


def role(path: Path) -> str:
    """Say what a path is to a session."""
    match path.name:
        case name if name.endswith(".new"):
            return "staged"
        case name if ".torn-" in name:
            return "torn"
        case "inbox.jsonl":
            return "inbox"
        case name if name.endswith(".jsonl"):
            return "log"
        case _:
            return "folder" if path.parent.name in ("sessions", "pods") else "above"
