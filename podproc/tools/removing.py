"""Removing a tree that somebody else has made: however deep, however named, whatever is closed.

Nothing recurses and no path is joined: what is found in a folder is removed, or, a folder itself,
moved up into the root and emptied in its turn. Only folders get another mode, by a descriptor: a
file here may have a second name elsewhere, and a link leads there.
"""

from __future__ import annotations

import os
import secrets

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NAMED = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: str) -> None:
    """Remove a folder with all that is in it; raises OSError. Nobody may be changing it."""
    root = os.open(path, _FOLDER)
    try:
        folders = _empty(root, root)
        while folders:
            name = folders.pop()
            here = os.open(name, _FOLDER, dir_fd=root)
            try:
                folders += _empty(here, root)
            finally:
                os.close(here)
            os.rmdir(name, dir_fd=root)
    finally:
        os.close(root)
    os.rmdir(path)


def _empty(folder: int, root: int) -> list[str]:
    """Remove what is in a folder, but move folders to the root; returns their names there."""
    moved: list[str] = []
    with os.scandir(folder) as listing:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in listing]
    for name, is_folder in entries:
        if not is_folder:
            os.unlink(name, dir_fd=folder)
            continue
        _open_up(name, folder)
        moved.append(secrets.token_hex(8))
        os.rename(name, moved[-1], src_dir_fd=folder, dst_dir_fd=root)
    return moved


def _open_up(name: str, folder: int) -> None:
    """Let us read and change a folder, whatever its owner has made of it."""
    fd = os.open(name, _NAMED, dir_fd=folder)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)
