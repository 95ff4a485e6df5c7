"""Whatever fails and whenever it dies: a session opens again, with all that was promised of it.

The deaths here are played, so that each may be followed by a loss of power; `test_kills.py` has
real ones. What a promise is says `histories.py`, where it can be broken `fail_points.py`.
"""

from __future__ import annotations

import errno
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podproc.session.files import Files
from tests.podproc.session.fail_points import (
    ERRORS,
    ONLY_AFTER,
    POINTS,
    STEPS,
    FailingFiles,
    Fault,
    faults_at,
)
from tests.podproc.session.histories import (
    IN_MEMORY,
    STANDARD,
    Life,
    Promised,
    Step,
    check,
    check_inbox,
    check_mirror,
)
from tests.podproc.session.histories import (
    STEPS as WAYS,
)

CODES = (errno.EIO, errno.ENOSPC)
RELIABLE = ("close",)
"""Operations of `Files` at which a process can die, but that do not fail."""

histories = st.lists(st.tuples(st.sampled_from(WAYS), st.integers(0, 9999)), max_size=25)


@contextmanager
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ps", dir=IN_MEMORY) as folder:
        yield Path(folder) / "data"


def live(
    root: Path, steps: Sequence[Step], *faults: Fault, promised: Promised, name: str = "a"
) -> tuple[FailingFiles, Life, bool]:
    """Live a history; returns whether it came to its end."""
    files = FailingFiles(*faults)
    life = Life(root, files, promised.take, name=name)
    return files, life, life.play(steps)


# -- the table -----------------------------------------------------------------------------------


def test_there_are_points_enough_and_each_has_one_name() -> None:
    assert len(POINTS) >= 30
    assert len(set(STEPS)) == len(STEPS)
    assert set(ONLY_AFTER) <= set(STEPS)
    assert set(ONLY_AFTER.values()) <= set(ERRORS)


def test_every_operation_there_is_has_a_point() -> None:
    operations = {name for name in vars(Files) if not name.startswith("_")}
    assert {step.rsplit(".", 1)[1] for step in STEPS} == operations | {"claim"}


def test_the_standard_history_does_all_operations_of_the_table_and_no_others() -> None:
    """Operations that only clean up are done on the way to their points."""
    passed: set[str] = set()
    for faults in ((), *((Fault(way, errno.ENOSPC),) for way in set(ONLY_AFTER.values()))):
        with place() as root:
            files, _, is_whole = live(root, STANDARD, *faults, promised=Promised())
            assert is_whole
            passed |= set(files.passed)
    assert passed == set(POINTS)


# -- each point once -----------------------------------------------------------------------------


@pytest.mark.parametrize("point", POINTS)
def test_a_death_at_a_point_leaves_a_session_that_opens_with_all_that_was_said(point: str) -> None:
    with place() as root:
        promised = Promised()
        files, _, is_whole = live(root, STANDARD, *faults_at(point, None), promised=promised)
        assert not is_whole, "the point was not reached"
        assert files.struck[-1].point == point
        check(root, promised)
        _, _, is_whole = live(root, STANDARD, promised=promised, name="b")
        assert is_whole
        check(root, promised)


@pytest.mark.parametrize("point", POINTS)
def test_a_loss_of_power_at_a_point_leaves_all_that_was_durable(point: str) -> None:
    for seed in range(3):
        with place() as root:
            promised = Promised()
            files, _, _ = live(root, STANDARD, *faults_at(point, None), promised=promised)
            files.lose_power(root, random.Random(seed))
            check(root, promised, lost_power=True)


@pytest.mark.parametrize("point", [p for p in POINTS if p.startswith(("create", "cut", "go_on"))])
def test_a_loss_of_power_after_the_next_life_leaves_what_that_one_was_promised(point: str) -> None:
    """What a death has left half done is made durable by the process that goes on from there."""
    for seed in range(3):
        with place() as root:
            promised = Promised()
            before, _, _ = live(root, STANDARD, *faults_at(point, None), promised=promised)
            check(root, promised)
            files = FailingFiles()
            files.follow(before)
            assert Life(root, files, promised.take, name="b").play(STANDARD[:1])
            files.lose_power(root, random.Random(seed))
            check(root, promised, lost_power=True)


@pytest.mark.parametrize("point", ERRORS)
def test_an_error_at_a_point_is_told_and_leaves_the_mirror_true(point: str) -> None:
    with place() as root:
        promised = Promised()
        files = FailingFiles(*faults_at(point, errno.EIO))
        life = Watched(root, files, promised)
        assert life.play(STANDARD)
        assert files.struck[-1].point == point
        harmless = point.endswith((".half", ".almost")) or point in UNHEARD
        assert life.failures or harmless, "nobody was told"
        check(root, promised)


UNHEARD = frozenset(
    {
        "append.log.stat.before",  # taken for another hand: LogBroken
        "shrink.folder.open.before",  # the file that a loss of power may bring back is as true
        "shrink.folder.fsync.before",
    }
)


class Watched(Life):
    """A life whose mirror and inbox are compared with their files after each step."""

    def __init__(self, root: Path, files: FailingFiles, promised: Promised) -> None:
        super().__init__(root, files, promised.take)
        self._promised = promised

    async def do(self, name: str, number: int) -> None:
        """Do one step, and look."""
        await super().do(name, number)
        check_mirror(self)
        check_inbox(self.root, self._promised)


# -- random histories ----------------------------------------------------------------------------


@given(st.lists(st.tuples(histories, st.sampled_from(list(POINTS)), st.integers(1, 6)), max_size=4))
def test_whatever_was_done_and_wherever_it_died_it_opens_with_all_that_was_said(
    lives: list[tuple[list[Step], str, int]],
) -> None:
    with place() as root:
        promised = Promised()
        for number, (steps, point, nth) in enumerate(lives):
            faults = faults_at(point, None, nth)
            live(root, steps, *faults, promised=promised, name=f"{number}-")
            check(root, promised)


@given(histories, st.sampled_from(list(POINTS)), st.integers(1, 6), st.integers(0, 2**16))
def test_whatever_was_done_and_wherever_the_power_went_all_that_was_durable_is_there(
    steps: list[Step], point: str, nth: int, seed: int
) -> None:
    with place() as root:
        promised = Promised()
        files, _, _ = live(root, steps, *faults_at(point, None, nth), promised=promised)
        files.lose_power(root, random.Random(seed))
        check(root, promised, lost_power=True)


@given(
    histories,
    st.lists(
        st.builds(Fault, st.sampled_from(ERRORS), st.sampled_from(CODES), st.integers(1, 4)),
        max_size=4,
    ),
    st.integers(0, 2**16),
)
def test_whatever_fails_the_mirror_is_what_a_fresh_opening_gives(
    steps: list[Step], faults: list[Fault], seed: int
) -> None:
    with place() as root:
        promised = Promised()
        files = FailingFiles(*faults)
        Watched(root, files, promised).play(steps)
        check(root, promised)
        files.lose_power(root, random.Random(seed))
        check(root, promised, lost_power=True)
