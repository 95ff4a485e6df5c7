"""Removing what somebody else has made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from podproc.tools.removing import remove_tree


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    return folder


def test_files_links_fifos_and_folders_of_any_mode_are_removed(tmp_path: Path, tree: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o500)
    (outside / "kept").touch()
    (tree / "closed/below/deeper").mkdir(parents=True)
    (tree / "closed/below/file").touch(mode=0o000)
    (tree / "link").symlink_to(outside)
    (tree / "closed/link").symlink_to(outside)
    os.mkfifo(tree / "fifo")
    for folder in (tree / "closed/below", tree / "closed"):
        folder.chmod(0o000)
    remove_tree(str(tree))
    assert not tree.exists()
    assert [path.name for path in outside.iterdir()] == ["kept"]
    assert outside.stat().st_mode & 0o777 == 0o500


def test_a_file_with_a_second_name_elsewhere_keeps_its_mode(tmp_path: Path, tree: Path) -> None:
    kept = tmp_path / "kept"
    kept.touch(mode=0o400)
    (tree / "name").hardlink_to(kept)
    remove_tree(str(tree))
    assert kept.stat().st_mode & 0o777 == 0o400


@pytest.mark.parametrize(("name", "depth"), [("d", 3000), ("n" * 250, 60)])
def test_no_depth_and_no_length_is_too_much(tree: Path, name: str, depth: int) -> None:
    here = os.open(tree, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    remove_tree(str(tree))
    assert not tree.exists()


def test_a_link_is_not_a_tree(tmp_path: Path, tree: Path) -> None:
    (tmp_path / "link").symlink_to(tree)
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        remove_tree(str(tmp_path / "link"))
    assert tree.exists()
