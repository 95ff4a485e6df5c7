"""Real deaths: a process that lives a history of a session and kills itself at a point of it.

    python -m tests.podproc.session.kills SEED [SEED…]

kills one at each point of the table, once for each seed, in a history that begins at random and
ends with the standard one; after each death the session is opened and compared with the notes that
the process has left. The last line says what was done; the exit code is 1 where a promise was
broken. `scripts/chaos session` goes on with it for as long as is asked.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from tests.podproc.session.fail_points import ERRORS, POINTS, FailingFiles, Fault, faults_at
from tests.podproc.session.histories import (
    IN_MEMORY,
    STANDARD,
    Life,
    Note,
    Promised,
    Step,
    Violation,
    check,
    random_steps,
)

LIVES_IN_ONE_PLACE = 12
PATIENCE_S = 20.0


@dataclass
class Tally:
    """What was done so far."""

    lives: int = 0
    operations: int = 0
    failures: int = 0
    repairs: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Return one line."""
        points = len(set(self.kills) & set(POINTS))
        verdict = f"{len(self.problems)} problems" if self.problems else "as it should be"
        return (
            f"{self.lives} lives, {self.operations} operations, {self.failures} failures told; "
            f"{self.kills.total()} kills at {points} of {len(POINTS)} points; "
            f"{self.repairs} repairs; {verdict}"
        )


@dataclass(frozen=True, slots=True)
class Death:
    """How a life ends: by its faults, or from outside after so many seconds."""

    faults: tuple[Fault, ...]
    after_s: float | None = None

    @property
    def point(self) -> str:
        """Where it dies."""
        return self.faults[-1].point if self.after_s is None else "from outside"


class Grave:
    """One session on disk, over the lives of the processes that work on it."""

    def __init__(self, root: Path, tally: Tally) -> None:
        self._root = root / "data"
        self._notes = root / "notes"
        self._promised = Promised()
        self._tally = tally
        self._lives = 0

    def live(self, steps: Sequence[Step], death: Death) -> None:
        """Live once more, die, and look at what is left; raises Violation."""
        self._lives += 1
        self._tally.lives += 1
        self._notes.write_bytes(b"")
        pid = os.fork()
        if pid == 0:
            self._be_killed(steps, death)
        status = self._outlive(pid, death)
        self._read_notes()
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            self._tally.kills[death.point] += 1
        elif status != 0:
            raise Violation(self._notes.with_suffix(".error").read_text())
        self._tally.repairs += sum(map(_is_torn, self._root.rglob("*.jsonl")))
        check(self._root, self._promised)

    def _be_killed(self, steps: Sequence[Step], death: Death) -> NoReturn:
        try:
            notes = os.open(self._notes, os.O_WRONLY | os.O_APPEND)
            files = FailingFiles(*death.faults, die=_kill_myself)
            life = Life(
                self._root,
                files,
                lambda note: _write_all(notes, note.line().encode()),
                name=f"{self._lives}-",
            )
            life.play(steps)
            os._exit(0)
        except BaseException:
            self._notes.with_suffix(".error").write_text(traceback.format_exc())
            os._exit(3)

    @staticmethod
    def _outlive(pid: int, death: Death) -> int:
        if death.after_s is not None:
            time.sleep(death.after_s)
            os.kill(pid, signal.SIGKILL)  # not reaped yet: the pid is still its own
        ends = time.monotonic() + PATIENCE_S
        while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > ends:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise Violation("it hangs")
            time.sleep(0.001)
        return ended[1]

    def _read_notes(self) -> None:
        for line in self._notes.read_text().splitlines(keepends=True):
            if line.endswith("\n"):  # else it was killed before the step began
                note = Note.of_line(line)
                self._tally.operations += note.what == "done"
                self._tally.failures += note.what == "failed"
                self._promised.take(note)


def _kill_myself() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _is_torn(path: Path) -> bool:
    return not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0


@contextlib.contextmanager
def burial() -> Iterator[Path]:
    """Have a folder of which nothing is left."""
    with tempfile.TemporaryDirectory(prefix="psk", dir=IN_MEMORY) as folder:
        yield Path(folder)


def kill_at_each_point(seed: int, tally: Tally) -> None:
    """Kill one process at each point."""
    for point in POINTS:
        dice = random.Random(f"{seed}/{point}")
        steps = [*random_steps(dice, dice.randrange(6) if seed else 0), *STANDARD]
        with burial() as folder:
            where = f"seed {seed}, {point}"
            _live(Grave(folder, tally), steps, Death(faults_at(point, None)), tally, where)


def kill_for(seconds: float, seed: int, tally: Tally) -> None:
    """Live and die again and again until the time is over; stops at the first broken promise."""
    ends = time.monotonic() + seconds
    place = 0
    while time.monotonic() < ends and not tally.problems:
        place += 1
        dice = random.Random(f"{seed}/{place}")
        with burial() as folder:
            grave = Grave(folder, tally)
            for life in range(LIVES_IN_ONE_PLACE):
                death = random_death(dice)
                steps = random_steps(dice, dice.randrange(60))
                if death.after_s is None and dice.random() < 0.8:
                    steps += STANDARD  # which passes every point
                where = f"seed {seed}, place {place}, life {life + 1}"
                if not _live(grave, steps, death, tally, where):
                    break


def random_death(dice: random.Random) -> Death:
    """Return a death at a point or from outside, after errors perhaps."""
    errors = [
        Fault(dice.choice(ERRORS), dice.choice((errno.EIO, errno.ENOSPC)), dice.randint(1, 5))
        for _ in range(dice.choice((0, 0, 1, 3)))
    ]
    if dice.random() < 0.25:
        return Death(tuple(errors), after_s=dice.random() * 0.1)
    point = dice.choice(list(POINTS))
    return Death((*errors, *faults_at(point, None, dice.choice((1, 1, 1, 2, 3, 8)))))


def _live(grave: Grave, steps: Sequence[Step], death: Death, tally: Tally, where: str) -> bool:
    try:
        grave.live(steps, death)
    except Violation as violation:
        tally.problems.append(f"{where}, death {death}: {violation}")
        return False
    return True


def main(seeds: Sequence[str]) -> int:
    """Kill at each point for each seed; returns the exit code."""
    tally = Tally()
    for seed in seeds:
        kill_at_each_point(int(seed), tally)
    missed = sorted(set(POINTS) - set(tally.kills))
    tally.problems += [f"nobody died at {point}" for point in missed]
    print(*tally.problems, sep="\n", end="\n" if tally.problems else "")
    print(tally.summary())
    return bool(tally.problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
