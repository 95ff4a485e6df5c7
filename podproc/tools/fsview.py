"""The files a pod may see and change: scope rules, closed directories, and safe opening.

Checking a path and then opening it by name is a race: between the two, a directory can become a
link that leads elsewhere. So here a path is made canonical (links inside the scope are fine: they
resolve to a real path, and that one is judged), and what was judged is then opened component by
component from the root, no link followed. A link met on that walk appeared after the check; the
whole attempt is repeated once and then refused. Changes happen relative to the open directory: a
temporary file in it, fsync, and a rename onto the name that was judged.

Behind the rules stands a second gate: the product's own directories are closed whatever the rules
say, but for one opening that may be read.

Everything here but the constructor blocks; call it off the event loop.

Not guaranteed: hard links made by others are not recognised; a replaced file keeps its mode (but
for setuid and setgid bits) and, where permitted, its owner, but not its ACL and extended
attributes; two processes that replace one file within the same instant are not told of each other.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from podproc.escaping import name_of
from podproc.tools.base import ToolFailure
from protocol.errors import InvalidScope
from protocol.scope import Permission, canonical, is_beneath

T = TypeVar("T")

Belt: TypeAlias = Callable[[int, Callable[[], None]], None]
"""Does work that must change nothing but what is below an open folder."""

BIGGEST_FILE = 64 * 1024 * 1024
_PIECE = 1024 * 1024
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class ScopeDenied(ToolFailure):
    """The pod may not do this at this path; `path` is canonical where it could be made so."""

    def __init__(self, path: str, wanted: Permission, reason: str) -> None:
        super().__init__("denied", f"this pod may not {wanted} {name_of(path)}: {reason}")
        self.path = path
        self.wanted = wanted


class NoSuchFile(ToolFailure):
    """Nothing is at the path, which the pod may read."""


class IsDirectory(ToolFailure):
    """A directory is where a file was wanted."""


class _LinkInTheWay(Exception):
    """A component that was no link when the path was judged is one now."""


@dataclass(frozen=True, slots=True)
class FileState:
    """A regular file's bytes and when they were last changed (wall clock, seconds)."""

    data: bytes
    changed_at: float


@dataclass(frozen=True, slots=True)
class FileHead:
    """The first bytes of a regular file, and the size the file said to have after they were read.

    A file that grows meanwhile, or a virtual one, may have said less than was read.
    """

    data: bytes
    size: int


class ScopeView:
    """The file system as one pod may use it.

    `permission_at` answers for canonical paths and is asked anew each time, since a lend changes
    the answer. `closed` directories give nothing; `opening`, inside one of them, may be read where
    the rules allow it. `explain` may say why a path is refused, for instance who borrowed it.
    `belt` does the part of a change that writes, given the open folder it is to stay in.
    """

    def __init__(
        self,
        permission_at: Callable[[str], Permission | None],
        *,
        cwd: str,
        closed: Sequence[str] = (),
        opening: str | None = None,
        explain: Callable[[str], str | None] = lambda path: None,
        belt: Belt | None = None,
    ) -> None:
        self._belt = belt or (lambda folder, work: work())
        self._permission_at = permission_at
        self._writing: Counter[str] = Counter()
        self._written = threading.Condition()
        self._closed = tuple(canonical(path) for path in closed)
        self._opening = None if opening is None else canonical(opening)
        self._explain = explain
        self.cwd = canonical(cwd)

    def permission(self, path: str) -> Permission | None:
        """Return what the pod may do at a canonical path, None for nothing."""
        granted = self._permission_at(path)
        if not any(is_beneath(path, place) for place in self._closed):
            return granted
        opened = self._opening is not None and is_beneath(path, self._opening)
        return Permission.READ if opened and granted is not None else None

    def resolve(self, path: str, wanted: Permission) -> str:
        """Return the canonical path if the pod may do this there; raises ToolFailure."""
        if not path or "\0" in path:
            raise ToolFailure("invalid_argument", f"not a path: {path!r}")
        try:
            real = canonical(path, cwd=self.cwd)
        except InvalidScope as error:
            raise ScopeDenied(path, wanted, error.message) from error
        self._require(real, wanted)
        return real

    def read(self, path: str, *, most: int = BIGGEST_FILE) -> tuple[str, FileState]:
        """Return canonical path and content of a regular file; raises ToolFailure."""

        def attempt(real: str) -> tuple[str, FileState]:
            with self._walk(real) as (folder, name):
                state = _read_at(folder, name, real, most)
            if state is None:
                raise ToolFailure("execution_failed", f"{name_of(real)} does not exist")
            return real, state

        return self._judged(path, Permission.READ, attempt)

    def head(self, path: str, most: int) -> tuple[str, FileHead]:
        """Return canonical path and the first bytes of a regular file, however big it is.

        Raises ToolFailure: NoSuchFile, IsDirectory, ScopeDenied, or one without a name of its own.
        """

        def attempt(real: str) -> tuple[str, FileHead]:
            if real == "/":
                raise IsDirectory("invalid_argument", "/ is a directory")
            try:
                with self._walk(real) as (folder, name), _opened(name, folder) as fd:
                    return real, _head_of(fd, real, most)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise NoSuchFile("execution_failed", f"{name_of(real)} does not exist") from error

        return self._judged(path, Permission.READ, attempt)

    def scan(self, path: str) -> Iterator[os.DirEntry[str]]:
        """Yield the entries of a directory; raises ToolFailure.

        Never all at once, for there may be millions. Ask an entry for its stat before the next:
        it goes through the descriptor.
        """

        def attempt(real: str) -> int:
            with self._walk(f"{real.rstrip('/')}/.") as (folder, _):
                return _open_at(".", _READ, folder)

        listing = self._judged(path, Permission.READ, attempt)
        try:
            with os.scandir(listing) as entries:
                yield from entries
        except OSError as error:
            reason = error.strerror or str(error)
            raise ToolFailure("execution_failed", f"{name_of(path)}: {reason}") from error
        finally:
            os.close(listing)

    def rewrite(
        self, path: str, change: Callable[[FileState | None], bytes]
    ) -> tuple[str, FileState | None, bytes]:
        """Replace or make a file, atomically; returns canonical path, old state and new bytes.

        `change` gets the present state, None where there is no file, and returns the new bytes or
        raises ToolFailure to leave everything as it is. Missing parents are made. The file keeps
        its mode; a new one has what the umask leaves of 0666.
        """

        def attempt(real: str) -> tuple[str, FileState | None, bytes]:
            with self._write_to(real), self._walk(real, make=True) as (folder, name):
                before = _read_at(folder, name, real, BIGGEST_FILE)
                data = change(before)
                self._belt(folder, lambda: _replace_at(folder, name, data))
            return real, before, data

        return self._judged(path, Permission.WRITE, attempt)

    def wait_for_writes(self, concerns: Callable[[str], bool], timeout_s: float) -> list[str]:
        """Wait until no write goes on at a path that concerns; return those that still do.

        A write that begins after the rules were changed sees the new ones, so nothing is missed.
        """

        def going_on() -> list[str]:
            return [path for path in self._writing if concerns(path)]

        with self._written:
            self._written.wait_for(lambda: not going_on(), timeout_s)
            return going_on()

    @contextmanager
    def _write_to(self, real: str) -> Iterator[None]:
        """Be seen writing; then look at the rules once more, since they may be others by now."""
        with self._written:
            self._writing[real] += 1
        try:
            self._require(real, Permission.WRITE)
            yield
        finally:
            with self._written:
                self._writing[real] -= 1
                if not self._writing[real]:
                    del self._writing[real]
                self._written.notify_all()

    def _require(self, real: str, wanted: Permission) -> None:
        granted = self.permission(real)
        if granted is None or not granted.includes(wanted):
            outside = "it may only read there" if granted else "outside its scope"
            raise ScopeDenied(real, wanted, self._explain(real) or outside)

    def _judged(self, path: str, wanted: Permission, attempt: Callable[[str], T]) -> T:
        for _ in range(2):
            real = self.resolve(path, wanted)
            try:
                return attempt(real)
            except _LinkInTheWay:
                continue
            except OSError as error:
                reason = error.strerror or str(error)
                raise ToolFailure("execution_failed", f"{name_of(real)}: {reason}") from error
        raise ScopeDenied(path, wanted, "it turned into a link while it was opened")

    @contextmanager
    def _walk(self, real: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Open the parent of a canonical path, no link followed; yields (descriptor, last name)."""
        *folders, name = real.strip("/").split("/")
        if not name:
            raise ToolFailure("invalid_argument", "the root is not a file")
        here = os.open("/", _DIRECTORY)
        try:
            for depth, folder in enumerate(folders):
                if make and not _exists_at(here, folder):
                    self._require("/" + "/".join(folders[: depth + 1]), Permission.WRITE)
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(folder, dir_fd=here)
                below = _open_at(folder, _DIRECTORY, here)
                os.close(here)
                here = below
            yield here, name
        finally:
            os.close(here)


def _exists_at(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _open_at(name: str, flags: int, folder: int) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP or (error.errno == errno.ENOTDIR and _flips(name, folder)):
            raise _LinkInTheWay from error
        raise


def _flips(name: str, folder: int) -> bool:
    """Say whether what was no directory a moment ago is a link, or something else again by now."""
    try:
        return not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return True


@contextmanager
def _opened(name: str, folder: int) -> Iterator[int]:
    fd = _open_at(name, _READ, folder)
    try:
        yield fd
    finally:
        os.close(fd)


def _read_at(folder: int, name: str, real: str, most: int) -> FileState | None:
    """Return a regular file's content, None if it does not exist."""
    try:
        with _opened(name, folder) as fd:
            about = os.fstat(fd)
            _require_regular(about, real)
            data = b"" if about.st_size > most else _at_most(fd, most + 1)
            if (size := max(about.st_size, len(data))) > most:
                raise ToolFailure(
                    "invalid_argument",
                    f"{name_of(real)} has {size} bytes; files over {most} are not opened whole",
                )
            return FileState(data, about.st_mtime)
    except FileNotFoundError:
        return None


def _head_of(fd: int, real: str, most: int) -> FileHead:
    _require_regular(os.fstat(fd), real)
    data = _at_most(fd, most)
    return FileHead(data, os.fstat(fd).st_size)


def _at_most(fd: int, most: int) -> bytes:
    """Return what a file holds, as much as is asked for: what it said of its size may be over."""
    pieces: list[bytes] = []
    left = most
    while left and (piece := os.read(fd, min(left, _PIECE))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _require_regular(about: os.stat_result, real: str) -> None:
    if stat.S_ISDIR(about.st_mode):
        raise IsDirectory("invalid_argument", f"{name_of(real)} is a directory")
    if not stat.S_ISREG(about.st_mode):
        raise ToolFailure("invalid_argument", f"{name_of(real)} is not a regular file")


def _replace_at(folder: int, name: str, data: bytes) -> None:
    temporary = f".podsup-{secrets.token_hex(6)}.tmp"
    fd = os.open(temporary, _NEW, 0o666, dir_fd=folder)
    try:
        with open(fd, "wb") as file:
            with contextlib.suppress(FileNotFoundError):
                _keep_owner_and_mode(os.stat(name, dir_fd=folder, follow_symlinks=False), fd)
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(temporary, dir_fd=folder)
        raise


def _keep_owner_and_mode(old: os.stat_result, fd: int) -> None:
    """Give a new file the owner and mode of the one it replaces, as far as write(2) would.

    A write takes setuid and setgid bits off a file, for whoever runs it trusts what was there.
    """
    new = os.fstat(fd)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        with contextlib.suppress(PermissionError):
            os.fchown(fd, old.st_uid, old.st_gid)
    os.fchmod(fd, old.st_mode & 0o1777)
