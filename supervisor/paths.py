"""Where everything is: five folders, and the names of the files and sockets in them.

    home ──┬── runtime   sockets and tokens        not kept over a reboot
           ├── data      sessions, pods, fleets, logs
           └── config    profiles, catalog
    scope_dir            the scope table and the life locks: one per user, whatever the home

With a home (`--home`, `$PODSUP_HOME`) the first three are inside it. Without one they are where
such files belong on this system, and the data folder stands for the home. `home` is free of links,
because together with a pod's name it is the pod's identity: two spellings of one folder must not be
two homes. The scope folder is not inside, because two homes of one user may still not write the
same file. The runtime folder does not follow `$XDG_RUNTIME_DIR`, which is emptied at logout while
fleets live on.

Without a home it is `/tmp/podsup-<uid>`, a name that any user may take first. Where another has, it
is `run` in the data folder; and once that is there it stays the one, whatever becomes of the name
in `/tmp`: so every process finds the fleets that any other has started.

The path of a Unix socket has at most 107 bytes, so sockets are named by short hashes of names; what
is still too long is refused here, with what to do, and not by a `bind` much later.

This module is the only reader of the environment, and cheap to import: every command begins here.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from protocol.errors import Internal, InvalidRequest
from protocol.names import is_pod_name
from protocol.operator_file import foreign, own_users

SOCKET_LIMIT = 107
"""Most bytes of a Unix socket's path: `sun_path` has 108, the last one is NUL."""

_HIGHEST = 999_999
"""An incarnation that no pod outlives."""


@dataclass(frozen=True, slots=True)
class Paths:
    """The folders of one home of one user, all absolute."""

    home: Path
    runtime: Path
    data: Path
    config: Path
    scope_dir: Path

    @classmethod
    def here(cls, home: str | None = None) -> Paths:
        """Return the folders for this process and its user; `home` is the value of `--home`."""
        uid = os.getuid()
        try:
            passwd_home = pwd.getpwuid(uid).pw_dir
        except KeyError:  # a container may run under a number that has no name
            passwd_home = ""
        if not os.path.isdir(passwd_home):  # or under one whose home is in another image
            passwd_home = ""
        return cls.resolve(home, os.environ, uid=uid, passwd_home=passwd_home)

    @classmethod
    def resolve(
        cls, home: str | None, environ: Mapping[str, str], *, uid: int, passwd_home: str
    ) -> Paths:
        """Return the folders for an option, an environment and a user; makes nothing.

        An empty variable counts as unset, and so does an XDG one that is not absolute. Raises
        InvalidRequest for a relative `$PODSUP_SCOPE_DIR`, which would be another table in each
        folder, and where no home folder is known and none was given.
        """
        if home := home or environ.get("PODSUP_HOME"):
            root = Path(os.path.realpath(home))
            runtime, data, config = root / "run", root / "data", root / "config"
        else:
            user = environ.get("HOME") or passwd_home
            state = _xdg(environ, "XDG_STATE_HOME", user, ".local/state")
            data = root = Path(os.path.realpath(state / "podsup"))
            config = _xdg(environ, "XDG_CONFIG_HOME", user, ".config") / "podsup"
            runtime = _runtime_of(uid, data)
        return cls(root, runtime, data, config, _scope_dir(environ, passwd_home))

    @property
    def product_dirs(self) -> tuple[str, ...]:
        """The folders that are closed to pods."""
        return tuple(str(one) for one in (self.runtime, self.data, self.config, self.scope_dir))

    def pod_id(self, pod: str) -> str:
        """Return what stands for a pod in the names of its sockets and life locks."""
        return pod_id(str(self.home), pod)

    def control_socket(self, fleet: str) -> Path:
        """Return where the supervisor takes methods; raises InvalidRequest when too long."""
        return check_socket_length(self.fleet_runtime(fleet) / "c.sock")

    def events_socket(self, fleet: str) -> Path:
        """Return where the supervisor publishes; raises InvalidRequest when too long."""
        return check_socket_length(self.fleet_runtime(fleet) / "e.sock")

    def pod_socket(self, fleet: str, pod: str, incarnation: int) -> Path:
        """Return where one incarnation publishes; raises InvalidRequest when too long."""
        name = f"{self.pod_id(pod)}.{incarnation}.sock"
        return check_socket_length(self.fleet_runtime(fleet) / name)

    def fleet_runtime(self, fleet: str) -> Path:
        """Return the folder of one fleet's sockets."""
        return self.runtime / fleet_id(fleet)

    def journal(self, fleet: str) -> Path:
        """Return the fleet's journal; raises InvalidRequest for what is no name."""
        return self.fleets / checked_name(fleet) / "journal.jsonl"

    @property
    def fleets(self) -> Path:
        """Return the folder with the journals of all fleets."""
        return self.data / "fleets"

    def log(self, pod: str, incarnation: int) -> Path:
        """Return the output file of one incarnation; raises InvalidRequest for what is no name."""
        return self.data / "logs" / checked_name(pod) / f"{incarnation}.log"


def _runtime_of(uid: int, data: Path) -> Path:
    """Return the runtime folder of a user who named no home."""
    usual, own = Path(f"/tmp/podsup-{uid}"), data / "run"
    if _owner(own) == uid or (_owner(usual) not in (None, uid) and _has_room(own)):
        return own
    return usual


def _owner(path: Path) -> int | None:
    try:
        return path.lstat().st_uid
    except OSError:
        return None


def _has_room(runtime: Path) -> bool:
    """Say whether the longest socket's path is short enough below this folder."""
    longest = runtime / fleet_id("") / f"{pod_id('', '')}.{_HIGHEST}.sock"
    return len(os.fsencode(longest)) <= SOCKET_LIMIT


def fleet_id(fleet: str) -> str:
    """Return eight hex digits for a fleet's name."""
    return _digest(fleet, size=4)


def pod_id(home: str, pod: str) -> str:
    """Return sixteen hex digits for a pod in its home: homes share the life locks' folder."""
    return _digest(f"{home}\0{pod}", size=8)


def checked_name(name: str) -> str:
    """Return the name of a pod or a fleet if it may stand in a path; else raises InvalidRequest."""
    if not is_pod_name(name):
        raise InvalidRequest(
            f"not a name: {name!r}",
            next_step="use a-z, 0-9, '.', '_' and '-', at most 63, beginning with a-z or 0-9",
            name=name,
        )
    return name


def check_socket_length(path: Path) -> Path:
    """Return the path if a Unix socket can have it; else raises InvalidRequest, with lengths."""
    size = len(os.fsencode(path))
    if size > SOCKET_LIMIT:
        raise InvalidRequest(
            f"the socket path {path} has {size} bytes, the system allows {SOCKET_LIMIT}",
            next_step=f"choose a --home that is at least {size - SOCKET_LIMIT} bytes shorter",
            size=size,
            limit=SOCKET_LIMIT,
        )
    return path


def make_private_dir(path: Path) -> Path:
    """Make the folder if it is missing, and return it once it is known to be ours alone.

    Raises Internal when it is a link or no folder, belongs to another user, or is open to others:
    what is in it could then be read, or put there, by somebody else.
    """
    if not os.path.lexists(path):
        for folder in (*reversed(path.parents), path):
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        what = "a link" if stat.S_ISLNK(found.st_mode) else "not a folder"
        raise Internal(
            f"{path} is {what}", next_step=f"move {path} away, or use another, shorter --home"
        )
    if found.st_uid != os.geteuid():
        raise Internal(
            f"{path} belongs to user {found.st_uid}, not to you ({os.geteuid()})",
            next_step="use another, shorter --home, or ask its owner to remove it",
        )
    if found.st_mode & 0o077:
        raise Internal(
            f"{path} is open to other users (mode {stat.S_IMODE(found.st_mode):04o})",
            next_step=f"look at what is in it, then: chmod 700 {path}",
        )
    return path


def trusted_config(paths: Paths) -> Path:
    """Return the config folder once nobody else can have put anything there.

    Home, config folder and offered profiles may be missing, and may be links of ours. Raises
    Internal for what belongs to another user, or what others may write.
    """
    for folder in (paths.home, paths.config, paths.config / "profiles"):
        require_own_folder(folder)
    return paths.config


def require_own_folder(folder: Path) -> None:
    """Raise Internal where a folder, or the link that stands for it, may be somebody else's."""
    step = f"look at what is in {folder}, then give it to yourself; or use another --home"
    with suppress(FileNotFoundError):
        link, found = folder.lstat(), folder.stat()
        if stat.S_ISLNK(link.st_mode) and link.st_uid not in own_users():
            raise Internal(f"{folder} is a link of user {link.st_uid}", next_step=step)
        if not stat.S_ISDIR(found.st_mode):
            raise Internal(f"{folder} is not a folder", next_step=f"move {folder} away")
        if (why := foreign(found, folder)) is not None:
            raise Internal(f"{folder} {why}", next_step=step)


def _scope_dir(environ: Mapping[str, str], passwd_home: str) -> Path:
    given = environ.get("PODSUP_SCOPE_DIR")
    if given:
        if not os.path.isabs(given):
            raise InvalidRequest(
                f"PODSUP_SCOPE_DIR is not absolute: {given!r}", next_step="give the whole path"
            )
        return Path(given)
    if not passwd_home:
        raise InvalidRequest(
            "this user has no home folder, and there the scope table would be",
            next_step="set PODSUP_SCOPE_DIR to a folder of your own, the same for all you start",
        )
    return Path(passwd_home, ".local/state/podsup/scope")


def _xdg(environ: Mapping[str, str], variable: str, user: str, below: str) -> Path:
    given = environ.get(variable, "")
    return Path(given) if os.path.isabs(given) else _in_home(user, below)


def _in_home(user: str, below: str) -> Path:
    if not user:
        raise InvalidRequest(
            "this user has no home folder", next_step="set PODSUP_HOME and PODSUP_SCOPE_DIR"
        )
    return Path(user) / below


def _digest(text: str, *, size: int) -> str:
    return blake2b(os.fsencode(text), digest_size=size).hexdigest()
