"""The list of escapes as tests: which there are, what came of them, and the table at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from podproc.confine.support import look
from podproc.escapes.attempts import ATTEMPTS
from podproc.escapes.run import LEFT, Row, levels_of, run_level
from protocol.cage import CageLevel, CageSupport, describe
from protocol.manifest import Sandbox
from tests.podproc.cage.users import ALL_USERS, User, can_make_ground, run_as

TEST = "test_escapes.py::test_way_out_of_the_cage_is_closed_or_told"
LEVELS = (CageLevel.NAMESPACES, CageLevel.LANDLOCK)
NAMES = (*(attempt.name for attempt in ATTEMPTS), LEFT)
GROUPS = [(level, user) for level in LEVELS for user in ALL_USERS]
_PLACES = ("/srv", "/var/lib", "/tmp")


def make_attempts(level: CageLevel, user: User) -> dict[str, Row] | None:
    """Return what came of every attempt by name; None where that user has no such level."""
    with _place(user) as above:
        rows = run_as(user, lambda: _rows(level, above))
    return None if rows is None else {row.name: row for row in rows}


def _rows(level: CageLevel, above: str) -> list[Row] | None:
    support = CageSupport.found(look())
    return run_level(level, support, above=above) if level in levels_of(support) else None


@contextmanager
def _place(user: User) -> Iterator[str]:
    """Give a folder of the user's; not below /tmp, if possible, where a cage hides everything."""
    above = next(place for place in _PLACES if can_make_ground(place))
    folder = tempfile.mkdtemp(prefix="escapes-", dir=above)
    try:
        os.chown(folder, user.uid, user.gid)
        yield folder
    finally:
        shutil.rmtree(folder)


def table(passed: Collection[str], skipped: Collection[str]) -> str:
    """Return the attempts by level and user as text: what was refused, is told, is not had here."""
    heads = [f"{level}, {user}" for level, user in GROUPS]
    rows = [f"{'way out of the cage':<24}" + "".join(f"{head:<24}" for head in heads)]
    gaps = {
        attempt.name: (attempt.gap if attempt.gap_below == "/" else None, attempt.unix_sockets)
        for attempt in ATTEMPTS
    }
    for name in NAMES:
        gap, unix_sockets = gaps.get(name, (None, False))
        marks = []
        for level, user in GROUPS:
            test = f"{TEST}[{level}-{user}-{name}]"
            support = CageSupport(level, is_root=user.uid == 0, bounds_processes=True)
            told = describe(Sandbox(unix_sockets=unix_sockets), support).unprotected
            fine = "told" if gap in told else "closed"
            marks.append(fine if test in passed else "-" if test in skipped else "OPEN")
        rows.append(f"{name:<24}" + "".join(f"{mark:<24}" for mark in marks))
    return "\n".join(row.rstrip() for row in rows)
