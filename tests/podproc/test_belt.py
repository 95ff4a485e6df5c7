"""The belt around changes of files: a mistake in a tool cannot write elsewhere."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from podproc.confine import landlock
from podproc.tools.belt import confined_to
from podproc.tools.fsview import ScopeView
from protocol.scope import Scope
from tests.podproc.tooling import rule, view_of

pytestmark = pytest.mark.skipif(not landlock.abi(), reason="the kernel has no Landlock")


@contextmanager
def opened(folder: Path) -> Iterator[int]:
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    folder = tmp_path / "inside"
    folder.mkdir()
    return folder


CHANGES: dict[str, Callable[[Path], object]] = {
    "make": lambda folder: (folder / "new").write_text("x"),
    "change": lambda folder: (folder / "old").write_text("x"),
    "truncate": lambda folder: os.truncate(folder / "old", 0),
    "rename": lambda folder: (folder / "old").rename(folder / "other"),
    "remove": lambda folder: (folder / "old").unlink(),
    "make a folder": lambda folder: (folder / "below").mkdir(),
    "link": lambda folder: (folder / "link").symlink_to("old"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_changes_a_file_can_change_its_folder_and_no_other(
    tmp_path: Path, inside: Path, change: Callable[[Path], object]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for folder in (inside, outside):
        (folder / "old").write_text("old")
    with opened(inside) as fd:
        confined_to(fd, lambda: change(inside))
        with pytest.raises(PermissionError):
            confined_to(fd, lambda: change(outside))
    assert [(path.name, path.read_text()) for path in outside.iterdir()] == [("old", "old")]
    change(outside)  # this thread has given up nothing


def test_the_work_s_result_and_its_error_come_back(inside: Path) -> None:
    def fail() -> None:
        raise ValueError("no")

    with opened(inside) as fd:
        assert confined_to(fd, threading.current_thread) is not threading.current_thread()
        with pytest.raises(ValueError, match="no"):
            confined_to(fd, fail)


def test_a_view_that_is_mistaken_about_a_path_still_writes_only_in_the_folder_it_opened(
    tmp_path: Path, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside.txt"

    def mistaken(folder: int, name: str, data: bytes) -> None:
        outside.write_bytes(data)

    def write(view: ScopeView) -> None:
        view.rewrite(str(inside / "a"), lambda before: b"x")

    monkeypatch.setattr("podproc.tools.fsview._replace_at", mistaken)
    scope = Scope(allow=(rule(inside),))
    with pytest.raises(Exception, match="Permission denied"):
        write(view_of(scope, inside, belt=confined_to))
    assert not outside.exists()
    write(view_of(scope, inside))
    assert outside.read_bytes() == b"x"  # so it was the belt that held
