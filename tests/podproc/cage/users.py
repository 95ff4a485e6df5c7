"""Work done as root and as an ordinary user, whoever runs the tests.

A user is a forked child that has given up what it was and reports back over a pipe. What root may
read need not be there for others: the keeper's program and interpreter are found, or copied to
where the user reads them, and PATH keeps the folders that the user can enter.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - asyncio would import it too late
import os
import pickle
import shutil
import signal
import stat
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar, cast

import pytest

from podproc.confine.kernel import PR_SET_PDEATHSIG, prctl
from podproc.tools import keeper_client
from tests.podproc.cage.ground import Ground

T = TypeVar("T")

_PR_SET_DUMPABLE = 4


@dataclass(frozen=True)
class User:
    """Somebody with a shell."""

    name: str
    uid: int
    gid: int

    def __str__(self) -> str:
        return self.name


_ME = User("root" if os.geteuid() == 0 else "ordinary", os.geteuid(), os.getegid())
ALL_USERS = [_ME, User("ordinary", 65534, 65534)] if _ME.uid == 0 else [_ME]
USERS = [pytest.param(user, id=user.name) for user in ALL_USERS]
"""For parametrize: root and an ordinary user; only who runs the tests, where that is not root."""


class WorkFailed(AssertionError):
    """What was done as a user has raised; the text is its traceback."""


def run_as(user: User, work: Callable[[], T]) -> T:
    """Return what `work` returns in a process of this user; what it imports must be there already.

    Raises WorkFailed. A test that is interrupted leaves no process behind.
    """
    with _reachable_keeper(user) as keeper:
        told, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            _do(user, work, keeper, tell)
        os.close(tell)
        report = b""
        try:
            with open(told, "rb") as file:
                report = file.read()
        finally:
            if not report:
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    if not report:
        raise WorkFailed(f"the process of {user} died")
    is_done, result = pickle.loads(report)
    if not is_done:
        raise WorkFailed(result)
    return cast(T, result)


@contextmanager
def ground_for(user: User, *, above: str = "/tmp") -> Iterator[Ground]:
    """Give a ground that belongs to a user, its folders made; all of it is gone afterwards."""
    root = Path(tempfile.mkdtemp(prefix="cage-", dir=above))
    try:
        os.chown(root, user.uid, user.gid)
        ground = Ground(root)
        run_as(user, ground.make)
        yield ground
    finally:
        shutil.rmtree(root)


def can_make_ground(above: str) -> bool:
    """Say whether `ground_for` can make its folder in this one."""
    return os.access(above, os.W_OK | os.X_OK)


def _do(user: User, work: Callable[[], object], keeper: Path, tell: int) -> NoReturn:
    try:
        try:
            _become(user)
            _equip(keeper)
            report = pickle.dumps((True, work()))
        except BaseException:
            report = pickle.dumps((False, traceback.format_exc()))
        with open(tell, "wb") as file:
            file.write(report)
    finally:
        os._exit(0)


def _become(user: User) -> None:
    if os.geteuid() != user.uid:
        os.setgroups([])
        os.setgid(user.gid)
        os.setuid(user.uid)
        prctl(_PR_SET_DUMPABLE, 1)  # else /proc/self stays root's, and with it the uid map
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.umask(0o022)


def _equip(keeper: Path) -> None:
    folders = os.environ["PATH"].split(":")
    os.environ["PATH"] = ":".join(one for one in folders if os.access(one, os.X_OK))
    keeper_client._SCRIPT = str(keeper)
    if not os.access(sys.executable, os.X_OK):
        found = shutil.which("python3")
        assert found, "no python3 on PATH that this user can run"
        sys.executable = found


@contextmanager
def _reachable_keeper(user: User) -> Iterator[Path]:
    """Give the keeper's program, or a copy where the checkout is closed to others."""
    script = Path(keeper_client._SCRIPT)
    if user == _ME or all(folder.stat().st_mode & stat.S_IXOTH for folder in script.parents):
        yield script
        return
    with tempfile.TemporaryDirectory(prefix="keeper-") as name:
        copy = Path(name, "podproc")
        shutil.copytree(script.parents[1] / "confine", copy / "confine")
        os.mkdir(copy / "tools")
        shutil.copy(script, copy / "tools")
        os.chmod(name, 0o755)
        yield copy / "tools" / script.name
