"""What was canonical when a fleet was started is opened without following links."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from podproc.canonical import opened
from podproc.toolset import build_toolset
from protocol.cage import CageSupport
from protocol.errors import InvalidScope
from protocol.scope import Permission, Scope, ScopeRule
from tests.podproc.pods import Home
from tests.podproc.test_pod_tools import FakeKin

TARGET = "work/a/b/c"


def put_a_link(root: Path, depth: int) -> Path:
    """Replace one component of the target by a link to a folder outside; return that."""
    outside = root / "outside"
    outside.mkdir()
    link = root.joinpath(*TARGET.split("/")[:depth])
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside)
    return outside


@pytest.mark.parametrize("make", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_link_at_any_component_is_refused(tmp_path: Path, depth: int, make: bool) -> None:
    outside = put_a_link(tmp_path, depth)
    path = tmp_path / TARGET
    link = tmp_path.joinpath(*TARGET.split("/")[:depth])
    with (
        pytest.raises(InvalidScope, match=f"{link}.* link to {outside}|link to {outside}") as told,
        opened(str(path), "the target", make=make),
    ):
        pass
    assert told.value.details["link"] == str(link)
    assert told.value.next_step
    assert os.listdir(outside) == []


def test_missing_folders_are_made_without_links(tmp_path: Path) -> None:
    with opened(str(tmp_path / TARGET), "the target", make=True) as fd:
        assert os.stat(fd).st_ino == (tmp_path / TARGET).stat().st_ino
    with opened(str(tmp_path / TARGET), "the target", make=True):
        pass
    with opened("/", "the target", make=True) as fd:
        assert os.stat(fd).st_ino == os.stat("/").st_ino


def test_file_is_opened_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with opened(str(tmp_path / "file"), "the target", make=True) as fd:
        assert os.stat(fd).st_ino == (tmp_path / "file").stat().st_ino


def test_without_make_a_missing_folder_stays_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), opened(str(tmp_path / "none"), "the target"):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_pod_does_not_start_when_its_target_is_below_a_link(tmp_path: Path, depth: int) -> None:
    outside = put_a_link(tmp_path, depth)
    home = Home(tmp_path / "home")
    rule = ScopeRule(target=str(tmp_path / TARGET), permission=Permission.WRITE)
    birth = home.birth(1)
    manifest = birth.manifest.model_copy(update={"scope": Scope(allow=(rule,))})
    nothing: Callable[..., None] = lambda *args: None  # noqa: E731
    with pytest.raises(InvalidScope, match="the scope's target"):
        build_toolset(
            birth.model_copy(update={"manifest": manifest}),
            life_lock=None,
            support=CageSupport(),
            kin=FakeKin(),
            on_denied=nothing,
            on_defect=nothing,
            keep_tasks=nothing,
            kept_tasks=lambda: None,
        )
    assert os.listdir(outside) == []
