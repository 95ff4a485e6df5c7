"""What attempts are aimed at: folders, processes, sockets and memory, all of it made for them.

Each attempt has a folder of its own in each *region* that it is aimed at, so attempts can be made
side by side and a change is the deed of one of them. Victims end with this process: they wait for
the end of their input.

    root/work/beside      read                         root/home       nothing
    root/work/one         read, but one file each      root/product    closed
    root/work/flat        write, not recursive             …/bash-output   the opening: read
    root/work/mine        the scope: write             tmp, shm        nothing, in /tmp and /dev/shm
        in, scratch       where attempts have to work  shared-…        as without, but in /tmp
        lent, denied      read: lent, and denied by a rule
        hidden            nothing, by a rule
        above-…           write, and below, at a/b, lent or denied
    root/work/apart       write, and below, at x/y, lent and not there yet
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import hashlib
import os
import secrets
import select
import shutil
import socket
import stat
import struct
import subprocess
import tempfile
import termios
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from podproc.escapes.prelude import call
from protocol.scope import LentRule, Permission, Scope, ScopeRule

Snapshot: TypeAlias = dict[str, tuple[Any, ...]]
"""Of each path below a folder all that can be changed about it, but for the time of reading."""

SECRET_REGIONS = ("home", "closed", "hidden", "tmp", "shm")
"""Regions of which nothing may be read."""

_READY_S = 10.0
_SHARED = {"tmp": "/tmp", "shm": "/dev/shm"}
_IPC_RMID = 0

VICTIM = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
held = open(sys.argv[1])
os.chdir(os.path.dirname(sys.argv[1]))
secret = os.environ["SECRET"].encode()
print(id(secret) + bytes.__basicsize__ - 1, held.fileno(), flush=True)
sys.stdin.read()
"""
"""Holds a secret in environment, memory and an open file until its input ends; blocks signals."""


@dataclass(frozen=True, slots=True)
class Target:
    """A process that attempts are aimed at, and the file that it holds open."""

    process: subprocess.Popen[bytes]
    held: Path

    @property
    def pid(self) -> int:
        """Its pid."""
        return self.process.pid

    def whereabouts(self) -> str:
        """Wait until it is ready; returns pid, address of its secret, descriptor of its file."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], _READY_S)
        words = self.process.stdout.readline().decode() if ready else ""
        if len(words.split()) != 2:
            raise OSError("a process to attempt things on did not start")
        return f"{self.pid} {words.strip()}"


@dataclass(slots=True)
class Ground:
    """Everything outside a cage that attempts are aimed at, and the cage's own folders."""

    root: Path
    folders: dict[str, Path]
    lent: list[LentRule] = field(default_factory=list)
    secret: str = field(default_factory=lambda: f"SECRET-{secrets.token_hex(8)}")
    mark: str = field(default_factory=lambda: f"INSIDE-{secrets.token_hex(8)}")
    python: str = ""
    _rules: list[ScopeRule] = field(default_factory=list)
    _denied: list[ScopeRule] = field(default_factory=list)
    _pipes: dict[str, int] = field(default_factory=dict)
    _targets: list[Target] = field(default_factory=list)
    _listeners: list[socket.socket] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    shared: Path | None = None
    """Folders below /tmp that the scope is about."""

    @property
    def work(self) -> Path:
        """The workspace, where commands start."""
        return self.root / "work"

    @property
    def product(self) -> Path:
        """What is closed to every command."""
        return self.root / "product"

    @property
    def outputs(self) -> Path:
        """The one opening in what is closed."""
        return self.folders["opening"]

    @property
    def scratch(self) -> Path:
        """Where attempts write what they need."""
        return self.work / "mine/scratch"

    @property
    def held(self) -> Path:
        """What victims hold open, in a folder that is theirs."""
        return self.root / "held/f"

    def scope(self) -> Scope:
        """Return what the pod may do, whose commands are caged."""
        shared = self.shared
        in_shared = (
            ()
            if shared is None
            else (
                _rule(shared / "read", Permission.READ),
                _rule(shared / "mine", Permission.WRITE),
                _rule(shared / "apart", Permission.WRITE),
            )
        )
        allow = (
            *in_shared,
            _rule(self.work, Permission.READ),
            _rule(self.work / "mine", Permission.WRITE),
            _rule(self.work / "apart", Permission.WRITE),
            _rule(self.outputs, Permission.READ),
            *self._rules,
        )
        deny = (
            _rule(self.folders["denied"], Permission.WRITE),
            _rule(self.folders["hidden"], Permission.READ),
            *self._denied,
        )
        return Scope(allow=allow, deny=deny)

    def place(self, region: str, attempt: str) -> Path:
        """Return an attempt's own folder in a region."""
        return self.folders[region] / attempt

    def region_of(self, folder: Path) -> str:
        """Return the region that an attempt's folder is in."""
        return next((n for n, one in self.folders.items() if one == folder.parent), folder.name)

    def furnish(self, region: str, attempt: str) -> None:
        """Make an attempt's own folder in a region, and the rules about it; raises OSError."""
        folder = self.place(region, attempt)
        word = self.secret if region in SECRET_REGIONS else self.mark
        for name in ("d", "e", "a/b"):
            (folder / name).mkdir(parents=True)
        for name in ("f", "d/g", "a/b/f", f"named-{word}"):
            (folder / name).write_text(f"{word}\n")
        os.mkfifo(folder / "p")
        self._pipes[str(folder / "p")] = os.open(
            folder / "p", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
        )
        if attempt == "device":
            with contextlib.suppress(PermissionError):  # only root makes one
                os.mknod(folder / "device", 0o644 | stat.S_IFCHR, os.makedev(1, 5))
        match region.removeprefix("shared-"):
            case "one":
                self._rules.append(_rule(folder / "f", Permission.WRITE))
            case "flat":
                self._rules.append(_rule(folder, Permission.WRITE, recursive=False))
            case "above-lent":
                self.lent.append(lent_rule(folder / "a/b"))
            case "above-absent":
                self.lent.append(lent_rule(folder / "x/y"))
            case "above-denied":
                self._denied.append(_rule(folder / "a/b", Permission.WRITE))

    def start_target(self, held: Path) -> Target:
        """Start a process that holds the secret in its environment, its memory and a file."""
        process = subprocess.Popen(
            [self.python, "-I", "-S", "-c", VICTIM, str(held)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"SECRET": self.secret},
        )
        target = Target(process, held)
        self._targets.append(target)
        return target

    def snapshot(self, folder: Path) -> Snapshot:
        """Look at a folder and all that is in it."""
        found: Snapshot = {}
        for here, folders, files in os.walk(folder):
            if Path(here) == folder == self.product:
                folders.remove("secret")  # of other attempts
            if here == str(self.product / "data/pods"):
                folders.remove("me")  # where the cages are
            for path in (here, *(os.path.join(here, name) for name in (*folders, *files))):
                found[os.path.relpath(path, folder)] = self._look(path)
        return found

    def _look(self, path: str) -> tuple[Any, ...]:
        status = os.lstat(path)
        content: Any = None
        if stat.S_ISREG(status.st_mode):
            content = hashlib.sha256(_read(path)).digest()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        elif path in self._pipes:
            waiting = array.array("i", [0])
            fcntl.ioctl(self._pipes[path], termios.FIONREAD, waiting)
            content = waiting[0]
        attributes = {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
        }
        return (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_ino,
            0 if stat.S_ISDIR(status.st_mode) else status.st_nlink,
            status.st_mtime_ns,
            status.st_ctime_ns,
            sorted(attributes.items()),
            content,
        )

    def received(self) -> str:
        """Take what has arrived at the sockets until now and return it."""
        text = b""
        for listener in self._listeners:
            with contextlib.suppress(BlockingIOError):
                while True:
                    if listener.type is socket.SOCK_DGRAM:
                        text += listener.recv(4096) + b"\n"
                        continue
                    connection, _ = listener.accept()
                    with connection:
                        connection.setblocking(False)
                        with contextlib.suppress(BlockingIOError, ConnectionError):
                            text += connection.recv(4096)
                        text += b"\n"
        return text.decode("utf-8", "replace")

    def open_sockets(self) -> None:
        """Listen where a fleet and other programs would, inside the folders; raises OSError."""
        name = f"podsup-escapes-{secrets.token_hex(8)}"
        run, home = self.product / "run", self.root / "home"
        stream, datagram, log = run / "fleet.sock", run / "log.sock", home / "log.sock"
        port = self._listen(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
        udp = self._listen(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))
        self._listen(socket.AF_UNIX, socket.SOCK_STREAM, str(stream))
        self._listen(socket.AF_UNIX, socket.SOCK_STREAM, f"\0{name}")
        self._listen(socket.AF_UNIX, socket.SOCK_DGRAM, str(datagram))
        self._listen(socket.AF_UNIX, socket.SOCK_DGRAM, str(log))
        self.environment |= {
            "STREAM": str(stream),
            "DATAGRAMS": f"{datagram}:{log}",
            "ABSTRACT": name,
            "PORT": str(port.getsockname()[1]),
            "UDP": str(udp.getsockname()[1]),
        }

    def _listen(self, family: int, kind: int, address: Any) -> socket.socket:
        listener = socket.socket(family, kind)
        self._listeners.append(listener)
        listener.setblocking(False)
        listener.bind(address)
        if kind == socket.SOCK_STREAM:
            listener.listen()
        return listener

    def share_memory(self) -> None:
        """Put the secret into System V shared memory, which lasts as long as this process."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.shmat.restype = ctypes.c_void_p
        number = libc.shmget(0, 4096, 0o1600)
        if number < 0:
            raise OSError(ctypes.get_errno(), "shmget")
        address = libc.shmat(number, None, 0)
        libc.shmctl(number, _IPC_RMID, None)  # it goes with the last process that has it
        text = self.secret.encode()
        ctypes.memmove(address, text, len(text))
        self.environment["SHARED"] = str(number)
        name = f"podsup-{secrets.token_hex(8)}"
        sizes = struct.pack("8q", 0, 1, 64, 0, 0, 0, 0, 0)
        try:
            queue = call("mq_open", name.encode(), os.O_RDWR | os.O_CREAT, 0o600, sizes)
        except OSError:
            return  # a kernel without them: the attempt will tell
        self.environment["QUEUE"] = name
        try:
            call("mq_timedsend", queue, text, len(text), 0, None)
        finally:
            os.close(queue)

    def strays(self) -> list[int]:
        """Return the processes, but our own, whose arguments speak of these folders."""
        word, known = os.fsencode(self.root), {os.getpid(), *(one.pid for one in self._targets)}
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) not in known:
                with contextlib.suppress(OSError):
                    if word in _read(f"/proc/{name}/cmdline"):
                        found.append(int(name))
        return found

    def close(self) -> None:
        """End every process and remove every folder; raises OSError."""
        for target in self._targets:
            target.process.kill()
            _let_go(target.process)
        for listener in self._listeners:
            listener.close()
        if name := self.environment.get("QUEUE"):
            call("mq_unlink", name.encode())
        for fd in self._pipes.values():
            os.close(fd)
        shared = [self.folders[name] for name in _SHARED if name in self.folders]
        for folder in (self.root, *shared, *([self.shared] if self.shared else [])):
            _remove(folder)


def make_ground(above: str) -> Ground:
    """Make the folders, most of them in a new one in `above`; raises OSError."""
    root = Path(tempfile.mkdtemp(prefix="podsup-escapes-", dir=above))
    ground = Ground(root.resolve(), {})
    try:
        mine, work, product = ground.work / "mine", ground.work, ground.product
        ground.folders |= {
            "in": mine / "in",
            "lent": mine / "lent",
            "denied": mine / "denied",
            "hidden": mine / "hidden",
            "above-lent": mine / "above-lent",
            "above-absent": work / "apart/above-absent",
            "above-denied": mine / "above-denied",
            "later": mine / "later",
            "beside": work / "beside",
            "one": work / "one",
            "flat": work / "flat",
            "home": root / "home",
            "closed": product / "secret",
            "opening": product / "data/pods/me/bash-output",
        }
        for folder in (*ground.folders.values(), ground.scratch, product / "run"):
            folder.mkdir(parents=True)
        for name, above in _SHARED.items():
            if os.access(above, os.W_OK):
                made = tempfile.mkdtemp(prefix="podsup-escapes-", dir=above)
                ground.folders[name] = Path(made)
        if "tmp" in ground.folders:
            shared = Path(tempfile.mkdtemp(prefix="podsup-escapes-", dir="/tmp")).resolve()
            ground.shared = shared
            ground.folders |= {
                "shared-read": shared / "read",
                "shared-lent": shared / "mine/lent",
                "shared-above-lent": shared / "mine/above-lent",
                "shared-above-absent": shared / "apart/above-absent",
                "shared-above-denied": shared / "mine/above-denied",
                "shared-one": shared / "one",
                "shared-flat": shared / "flat",
            }
            for name, folder in ground.folders.items():
                if name.startswith("shared-"):
                    folder.mkdir(parents=True)
            ground.lent.append(lent_rule(shared / "mine/lent"))
        for path in PRODUCT_FILES:
            file = product / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{ground.secret}\n")
        ground.held.parent.mkdir()
        ground.held.write_text(f"{ground.secret}\n")
        ground.lent.append(lent_rule(ground.folders["lent"]))
    except BaseException:
        ground.close()
        raise
    return ground


PRODUCT_FILES = (
    "run/token",
    "data/sessions/one/000.jsonl",
    "data/pods/me/meta.json",
    "data/pods/other/meta.json",
    "data/pods/other/bash-output/1.log",
    "scope/table.json",
)
"""What the product keeps in its folders, or something like it; beneath the closed folder."""


def difference(before: Snapshot, after: Snapshot) -> Sequence[str]:
    """Return what has changed, one phrase each."""
    gone = [f"{path} is gone" for path in before.keys() - after.keys()]
    new = [f"{path} is new" for path in after.keys() - before.keys()]
    changed = [
        f"{path} has changed"
        for path in before.keys() & after.keys()
        if before[path] != after[path]
    ]
    return sorted([*gone, *new, *changed])


def written(folders: Iterable[Path]) -> bytes:
    """Return the content of every file below some folders, and their names."""
    found = b""
    for top in folders:
        for here, names, files in os.walk(top):
            found += " ".join([*names, *files]).encode("utf-8", "surrogateescape")
            for name in files:
                path = os.path.join(here, name)
                if stat.S_ISREG(os.lstat(path).st_mode):
                    found += _read(path)
    return found


def _rule(path: Path, permission: Permission, *, recursive: bool = True) -> ScopeRule:
    return ScopeRule(target=str(path), permission=permission, recursive=recursive)


def lent_rule(path: Path) -> LentRule:
    """Return the rule by which a folder is lent."""
    return LentRule(target=str(path), permission=Permission.WRITE, pod="child")


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _let_go(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait()


def _remove(folder: Path) -> None:
    for here, names, _ in os.walk(folder):  # an attempt may have closed one
        for path in (os.path.join(here, name) for name in names):
            if not os.path.islink(path):
                os.chmod(path, 0o700)
    shutil.rmtree(folder)
