"""`podsup doctor`: look at everything, change nothing, say what is wrong and how to mend it.

Needs no running fleet and talks to none. What it sees is judged in `supervisor.diagnosis`; a look
that fails is a finding, too, and the others go on.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import orjson

from protocol.cage import CageSupport
from protocol.errors import InvalidRequest, PodsupError
from protocol.isolation import isolated
from protocol.manifest import Model, Scheme
from supervisor import diagnosis as d
from supervisor import jsonl, life_lock
from supervisor.choice import running_fleets
from supervisor.cli import exit_codes
from supervisor.cli.app import App, Failed, command
from supervisor.cli.sandbox_check import check_sandbox
from supervisor.core.fleet_record import PodRecord, fold
from supervisor.core.rows import Allocation
from supervisor.foreign import other_owners
from supervisor.identity import Identity, Life, is_same_process
from supervisor.journal import read
from supervisor.logs import tail
from supervisor.paths import Paths, fleet_id, make_private_dir
from supervisor.pod_store import PodStore
from supervisor.reach import is_listening
from supervisor.recovery import holders_of

PR_GET_CHILD_SUBREAPER = 37
LAST_BYTES = 64 * 1024
LOOKING_S = 20
MOST_SESSIONS = 2000
_HIGHEST = 999_999
_STRANGER = re.compile(r"[0-9T:-]+Z alert: a stranger says ")
"""How a line of a supervisor's log begins that tells of one: no text from outside can begin one."""


@dataclass(frozen=True, slots=True)
class Check:
    """One look and the judge of what it sees."""

    name: str
    look: Callable[[Paths], Any]
    judge: Callable[[Any], d.Finding]

    def __call__(self, paths: Paths) -> d.Finding:
        """Return the finding; a look that fails is one."""
        try:
            seen = self.look(paths)
        except (OSError, ValueError, PodsupError) as error:
            return d.Finding(self.name, d.State.PROBLEM, f"could not be looked at: {error}")
        return self.judge(seen)


@command("doctor", example="podsup doctor -o json")
@click.option(
    "--sandbox", is_flag=True, help="Try to break out of the sandbox instead; takes a minute."
)
def doctor(app: App, sandbox: bool) -> None:
    """Check the installation, the machine, and what fleets have left. Changes nothing.

    With --sandbox every attempt of a list is made at each level that this machine has, in
    throw-away folders and processes, beside the same command where it has to work. The last line
    is the sum; exit code 1 where one got out.
    """
    if sandbox:
        check_sandbox(app)
        return
    try:
        paths = Paths.here(app.home)
    except InvalidRequest as error:  # without folders there is nothing to look at
        findings = [d.Finding("folders", d.State.PROBLEM, error.message, error.next_step)]
    else:
        findings = [_at_home(check(paths), app.home) for check in CHECKS]
    if app.output in ("json", "jsonl"):
        app.out.document({"findings": [asdict(finding) for finding in findings]})
    else:
        app.out.put_lines(line for finding in findings for line in _lines(finding))
    if any(finding.state is d.State.PROBLEM for finding in findings):
        raise Failed(exit_codes.FAILED)


def _at_home(finding: d.Finding, home: str | None) -> d.Finding:
    """Have the commands of a finding mean the home that was asked about."""
    if home is None or finding.mend is None:
        return finding
    return replace(finding, mend=finding.mend.replace("podsup ", f"podsup --home {home} "))


def _lines(finding: d.Finding) -> Iterator[str]:
    yield f"{finding.state:<8} {finding.name:<13} {finding.text}"
    if finding.mend and finding.state is not d.State.OK:
        yield f"{'':<22} next: {finding.mend}"


# -- the machine -----------------------------------------------------------------------------------


def _missing_features(paths: Paths) -> dict[str, str]:
    missing = {}
    for feature, try_it in (
        ("pidfd_open", _try_pidfd),
        ("child subreaper", _try_subreaper),
        ("/proc/<pid>/task/*/children", _try_children),
        (f"flock in {paths.scope_dir}", partial(_try_lock, _existing(paths.scope_dir))),
    ):
        try:
            try_it()
        except OSError as error:
            missing[feature] = str(error)
    return missing


def _try_pidfd() -> None:
    os.close(os.pidfd_open(os.getpid()))


def _try_subreaper() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(ctypes.c_int()), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_GET_CHILD_SUBREAPER)")


def _try_children() -> None:
    pid = os.getpid()
    Path(f"/proc/{pid}/task/{pid}/children").read_bytes()


def _try_lock(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    finally:
        os.close(fd)


def _open_folders(paths: Paths) -> list[d.Trouble]:
    """Ask of each folder that must be ours alone, if it is there: nothing is made."""
    wanted = (paths.runtime, paths.data, paths.scope_dir, paths.scope_dir / "life")
    present = [folder for folder in dict.fromkeys(wanted) if os.path.lexists(folder)]
    return list(_troubles(partial(make_private_dir, folder) for folder in present))


def _long_sockets(paths: Paths) -> list[d.Trouble]:
    return list(_troubles([partial(paths.pod_socket, "any", "any", _HIGHEST)]))


def _free_bytes(paths: Paths) -> dict[str, int]:
    folders = dict.fromkeys((paths.data, paths.scope_dir))
    return {str(folder): shutil.disk_usage(_existing(folder)).free for folder in folders}


def _file_limit(paths: Paths) -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def _keys(paths: Paths) -> dict[str, bool]:
    names = [Model(scheme=scheme).key_variable for scheme in Scheme]
    return {name: bool(os.environ.get(name)) for name in dict.fromkeys(names) if name}


def _sandbox_support() -> CageSupport:
    """Have the pod's side try it, in a process of its own; raises OSError or ValueError."""
    argv = isolated("podproc.confine.support")
    try:
        done = subprocess.run(argv, cwd="/", capture_output=True, timeout=LOOKING_S, check=True)
    except subprocess.SubprocessError as error:
        raise OSError(f"{argv[-1]}: {error}") from error
    return CageSupport.found(orjson.loads(done.stdout))


# -- what fleets have left -------------------------------------------------------------------------


def _running(paths: Paths) -> dict[str, bool]:
    return {fleet: is_listening(paths.control_socket(fleet)) for fleet in running_fleets(paths)}


def _rows(paths: Paths) -> list[Allocation]:
    """Return the rows of the scope table as they stand there; raises ValueError when damaged."""
    try:
        table = orjson.loads((paths.scope_dir / "table.json").read_bytes())
    except FileNotFoundError:
        return []
    if not isinstance(table, dict) or table.get("schema") != 1:
        raise ValueError("it is not a table of this version")
    return [Allocation.from_wire(row) for row in table["allocations"]]


def _holders(paths: Paths) -> list[d.Holder] | d.Trouble:
    try:
        rows = _rows(paths)
    except (ValueError, KeyError) as error:
        text = f"{paths.scope_dir / 'table.json'} cannot be read ({error})"
        return d.Trouble(text, "podsup start goes back to the version before")
    return [
        d.Holder(row.pod, row.home, _pid(row.identity), _life_of(paths, row))
        for row in rows
        if not _is_supervised(row)
    ]


def _pid(identity: Identity | None) -> int | None:
    return identity.pid if identity else None


def _life_of(paths: Paths, row: Allocation) -> Life:
    match life_lock.is_free(paths.scope_dir / "life" / f"{row.pod_id}.{row.incarnation}"):
        case True:
            return "dead"
        case False:
            return "alive"
        case None:
            return "dead" if row.identity is None else is_same_process(row.identity)


def _is_supervised(row: Allocation) -> bool:
    """Whether a supervisor looks after the row: it may be about to start that pod again."""
    fleet = row.supervisor.rpartition(":")[0]
    folders = (Path(row.home, "data"), Path(row.home))  # a given home, or the data folder itself
    return any(life_lock.is_free(folder / "fleets" / fleet / "lock") is False for folder in folders)


def _journals(paths: Paths) -> d.Journals:
    running = running_fleets(paths)
    orphaned: list[d.Orphaned] = []
    damage: list[str] = []
    for file in sorted((paths.data / "fleets").glob("*/journal.jsonl")):
        if file.parent.name in running:
            continue  # somebody writes it
        records, alerts = read(file)
        damage += alerts
        fleet = fold(records)
        if fleet.supervisor is not None and not fleet.is_down:
            alive = tuple(
                (pod.name, _pid(pod.identity)) for pod in fleet.pods.values() if _is_alive(pod)
            )
            orphaned.append(d.Orphaned(file.parent.name, fleet.supervisor.pid, alive))
    return d.Journals(orphaned, damage)


def _is_alive(pod: PodRecord) -> bool:
    if pod.intent is None or pod.ended is not None:
        return False
    if (free := life_lock.is_free(Path(pod.intent.life_lock))) is not None:
        return not free
    return pod.identity is not None and is_same_process(pod.identity) != "dead"


def _stale(paths: Paths) -> dict[str, list[str]]:
    """Return sockets nobody listens on, of fleets that do not run."""
    fleets = sorted(file.parent.name for file in (paths.data / "fleets").glob("*/journal.jsonl"))
    names = {fleet_id(fleet): fleet for fleet in fleets}
    running = {fleet_id(fleet) for fleet in running_fleets(paths)}
    stale: dict[str, list[str]] = {}
    for socket in sorted(paths.runtime.glob("*/*.sock")):
        folder = socket.parent.name
        if folder not in running and not is_listening(socket):
            stale.setdefault(names.get(folder, ""), []).append(str(socket))
    return stale


def _damaged_records(paths: Paths) -> list[d.Trouble]:
    store = PodStore(paths.data)
    return list(_troubles(partial(store.load, name) for name in store.names()))


def _bad_ends(paths: Paths) -> dict[str, str]:
    """Look at the last line of each session's newest segment."""
    newest = {file.parent: file for file in sorted((paths.data / "sessions").glob("*/*.jsonl"))}
    found = list(newest.values())[-MOST_SESSIONS:]
    return {str(file): why for file in found if (why := _bad_end(file)) is not None}


def _bad_end(file: Path) -> str | None:
    with file.open("rb") as segment:
        size = segment.seek(0, os.SEEK_END)
        start = segment.seek(max(0, size - LAST_BYTES))
        *lines, rest = segment.read(LAST_BYTES).split(b"\n")
    if rest:
        return f"the last record has no end; its {len(rest)} bytes do not count"
    if not lines or (len(lines) == 1 and start):
        return None if start else "it is empty"  # a record longer than what is looked at
    try:
        jsonl.decode(lines[-1])
    except ValueError as error:
        return f"the last record is damaged: {error}"
    return None


def _strangers(paths: Paths) -> d.Strangers:
    try:
        known = {f"{row.pod_id}.{row.incarnation}" for row in _rows(paths)}
    except (ValueError, KeyError):
        known = set()  # another check tells of it
    locks = sorted((paths.scope_dir / "life").glob("*"))
    held = [lock for lock in locks if lock.name not in known and life_lock.is_free(lock) is False]
    told = [
        line
        for log in sorted((paths.data / "fleets").glob("*/supervisor.log"))
        for line in told_of_strangers(log)
    ]
    return d.Strangers([d.Stranger(str(lock), holders_of(lock)) for lock in held], told[-5:])


def told_of_strangers(log: Path) -> list[str]:
    """Return the lines of a supervisor's log that tell of a stranger."""
    return [line for line in tail(log, most=LAST_BYTES).split("\n") if _STRANGER.match(line)]


# -- help ------------------------------------------------------------------------------------------


def _troubles(tries: Iterable[Callable[[], object]]) -> Iterator[d.Trouble]:
    for one in tries:
        try:
            one()
        except PodsupError as error:
            yield d.Trouble(error.message, error.next_step)


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


CHECKS = (
    Check("import name", lambda paths: other_owners(), d.import_name),
    Check("python", lambda paths: sys.version_info[:3], d.python_version),
    Check("kernel", _missing_features, d.kernel_features),
    Check("folders", _open_folders, d.folders),
    Check("socket paths", _long_sockets, d.socket_paths),
    Check("disk space", _free_bytes, d.disk_space),
    Check("open files", _file_limit, d.open_files),
    Check("ripgrep", lambda paths: shutil.which("rg"), d.ripgrep),
    Check("model keys", _keys, d.model_keys),
    Check("sandbox", lambda paths: _sandbox_support(), d.sandbox),
    Check("supervisors", _running, d.supervisors),
    Check("scope table", _holders, d.scope_table),
    Check("journals", _journals, d.journals),
    Check("sockets", _stale, d.stale_sockets),
    Check("pod records", _damaged_records, d.metadata),
    Check("sessions", _bad_ends, d.sessions),
    Check("strangers", _strangers, d.strangers),
)
"""Everything that is looked at, in the order in which it is told."""
