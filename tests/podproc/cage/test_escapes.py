"""Every way out of the cage that we know, tried at each level and as each user.

The list is the product's own (`podproc.escapes`). All of it is run once for a level and a user,
whichever worker comes first; the others read what came of it.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from filelock import FileLock

from podproc.escapes.attempts import ATTEMPTS
from podproc.escapes.ground import Ground
from podproc.escapes.run import NOT_HERE, Row, Run, _Try
from protocol.cage import FIFO, CageLevel, CageSupport
from tests.podproc.cage.escaping import GROUPS, NAMES, make_attempts
from tests.podproc.cage.users import User

_CASES = [
    pytest.param(level, user, name, id=f"{level}-{user}-{name}")
    for level, user in GROUPS
    for name in NAMES
]


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Return a folder that all workers of this run have in common."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


def _rows(level: CageLevel, user: User, folder: Path) -> dict[str, Row] | None:
    file = folder / f"escapes-{level}-{user}"
    with FileLock(f"{file}.lock"):
        if not file.exists():
            file.write_bytes(pickle.dumps(make_attempts(level, user)))
        rows: dict[str, Row] | None = pickle.loads(file.read_bytes())
    return rows


@pytest.mark.parametrize(("root", "told"), [("/tmp/home/x", FIFO), ("/srv/x", ""), ("/tmpx/x", "")])
def test_fifo_is_told_of_where_the_home_lies_below_tmp(root: str, told: str) -> None:
    (fifo,) = [attempt for attempt in ATTEMPTS if attempt.name == "fifo"]
    support = CageSupport(CageLevel.NAMESPACES)
    run = Run(CageLevel.NAMESPACES, support, Ground(Path(root), {}))
    assert run._judge(_Try(fifo, [], Path(root)), "").told == told


@pytest.mark.process
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("level", "user", "name"), _CASES)
def test_way_out_of_the_cage_is_closed_or_told(
    level: CageLevel, user: User, name: str, shared_folder: Path
) -> None:
    rows = _rows(level, user, shared_folder)
    if rows is None:
        pytest.skip(f"this machine cannot do {level} as {user}")
    row = rows[name]
    assert row.is_good, f"{row.what}\ninside: {row.inside}\noutside: {row.outside}"
    if row.inside == NOT_HERE:
        pytest.skip(f"{row.what}: {NOT_HERE}")
