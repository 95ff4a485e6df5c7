"""The file operations the session log is made of: the seam at which tests make the disk fail.

Each method is the system call of its name. The functions below it are the two recipes that make a
file or a folder survive a loss of power: the name is durable only once the folder that holds it has
been synced.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Protocol

FOLDER_MODE = 0o700
FILE_MODE = 0o600
_CHUNK = 1 << 24
_LOG = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC


class Files(Protocol):
    """What the log asks of the system; every method raises OSError as the call does."""

    def open(self, path: Path, flags: int) -> int:
        """Open a file, new ones for their owner alone."""

    def close(self, fd: int) -> None: ...

    def dup(self, fd: int) -> int: ...

    def write(self, fd: int, data: bytes) -> int:
        """Write once; return how many bytes were taken."""

    def pread(self, fd: int, size: int, offset: int) -> bytes: ...

    def stat(self, path: Path) -> os.stat_result: ...

    def fsync(self, fd: int) -> None: ...

    def fdatasync(self, fd: int) -> None: ...

    def ftruncate(self, fd: int, size: int) -> None: ...

    def rename(self, source: Path, target: Path) -> None: ...

    def unlink(self, path: Path) -> None: ...

    def mkdir(self, path: Path) -> None:
        """Make a folder for its owner alone."""


class OsFiles:
    """The real thing."""

    def open(self, path: Path, flags: int) -> int:
        return os.open(path, flags, FILE_MODE)

    def close(self, fd: int) -> None:
        os.close(fd)

    def dup(self, fd: int) -> int:
        return os.dup(fd)

    def write(self, fd: int, data: bytes) -> int:
        return os.write(fd, data)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def stat(self, path: Path) -> os.stat_result:
        return os.stat(path)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def fdatasync(self, fd: int) -> None:
        os.fdatasync(fd)

    def ftruncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def mkdir(self, path: Path) -> None:
        os.mkdir(path, FOLDER_MODE)


def open_log(files: Files, path: Path) -> int:
    """Open an existing log to read anywhere and write at its end."""
    return files.open(path, _LOG)


def read_range(files: Files, fd: int, start: int = 0, stop: int = sys.maxsize) -> bytes:
    """Return the bytes of an open file from `start` up to `stop` or its end."""
    parts: list[bytes] = []
    while start < stop and (part := files.pread(fd, min(stop - start, _CHUNK), start)):
        parts.append(part)
        start += len(part)
    return b"".join(parts)


def put_in_place(files: Files, path: Path, data: bytes) -> int:
    """Write a new file, sync it, and rename it to `path`; return its open descriptor.

    Whoever has the old file open keeps it unchanged. Raises OSError with the old file still in
    place. The new *name* is durable only after `sync_folder`.
    """
    fd = stage(files, path, data)
    try:
        files.rename(staged(path), path)
    except OSError:
        discard(files, path, fd)
        raise
    return fd


def staged(path: Path) -> Path:
    """Return where the file waits that will be renamed to `path`."""
    return path.with_name(path.name + ".new")


def stage(files: Files, path: Path, data: bytes) -> int:
    """Write and sync the file that will be renamed to `path`; return its open descriptor.

    Raises OSError with nothing left of it.
    """
    fd = files.open(staged(path), _LOG | os.O_CREAT | os.O_TRUNC)
    try:
        rest = data
        while rest:
            rest = rest[files.write(fd, rest) :]
        files.fsync(fd)
    except OSError:
        discard(files, path, fd)
        raise
    return fd


def discard(files: Files, path: Path, fd: int) -> None:
    """Close a staged file and remove it."""
    files.close(fd)
    with contextlib.suppress(OSError):
        files.unlink(staged(path))


def sync_folder(files: Files, folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = files.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        files.fsync(fd)
    finally:
        files.close(fd)


def make_folder(files: Files, folder: Path) -> None:
    """Make a folder and those above it that are missing, each durable before the next.

    The name of one that is there may not be durable yet: whoever made it was perhaps killed, or
    refused, before it came to that.
    """
    if not folder.is_dir():
        make_folder(files, folder.parent)
        with contextlib.suppress(FileExistsError):
            files.mkdir(folder)
    sync_folder(files, folder.parent)
