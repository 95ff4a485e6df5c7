"""What `podsup doctor` makes of what it sees. Pure: what was seen in, a finding out.

A *problem* is something that podsup cannot work with, or that needs a person: pods that live on
without a supervisor, a folder that others may write. A *warning* is worth knowing, and either mends
itself at the next start or is how this version is. The looking is done by `cli.doctor`, which
changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from protocol.cage import CageLevel, CageSupport, describe
from protocol.manifest import Sandbox as Settings
from supervisor.identity import Life

OLDEST_PYTHON = (3, 11)
MANY_PODS = 1000
FILES_PER_POD = 5
"""What a supervisor has open for each pod is four, measured; one more for what comes and goes."""

LITTLE_SPACE = 64 * 1024 * 1024
TIGHT_SPACE = 1024 * 1024 * 1024


class State(StrEnum):
    """How bad a finding is, least first."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check; `mend` is a command or an action, None where there is none."""

    name: str
    state: State
    text: str
    mend: str | None = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that was refused while looking: why, and what to do."""

    text: str
    mend: str | None = None


@dataclass(frozen=True, slots=True)
class Holder:
    """A row of the scope table whose supervisor is not there, and what is known of its process."""

    pod: str
    home: str
    pid: int | None
    life: Life


@dataclass(frozen=True, slots=True)
class Orphaned:
    """A fleet that was not ended and has no supervisor: its recorded pods that live, with pids."""

    fleet: str
    supervisor_pid: int | None
    alive: Sequence[tuple[str, int | None]] = ()


@dataclass(frozen=True, slots=True)
class Journals:
    """What the journals of this home say; `damage` has a line for each one that was skipped."""

    orphaned: Sequence[Orphaned] = ()
    damage: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Stranger:
    """A life lock that is held and that no row of the scope table accounts for, and by whom."""

    lock: str
    pids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Strangers:
    """Processes nobody gave a token, or a claim: seen now, and told in supervisors' logs."""

    unclaimed: Sequence[Stranger] = ()
    told: Sequence[str] = ()


# -- the installation and the machine --------------------------------------------------------------


def import_name(others: Sequence[str]) -> Finding:
    """Judge the other distributions that provide `supervisor`."""
    if not others:
        return _ok("import name", "only podsup provides 'supervisor'")
    return Finding(
        "import name",
        State.PROBLEM,
        f"'supervisor' is also provided by {', '.join(others)}: it is luck whose code runs",
        "install podsup in an environment of its own: pipx install podsup",
    )


def python_version(version: tuple[int, int, int]) -> Finding:
    """Judge the interpreter's version."""
    text = ".".join(str(part) for part in version)
    if version >= OLDEST_PYTHON:
        return _ok("python", text)
    return Finding("python", State.PROBLEM, f"{text} is too old", "install Python 3.11 or newer")


def kernel_features(missing: Mapping[str, str]) -> Finding:
    """Judge what the kernel refused of what podsup cannot do without: {feature: why}."""
    if not missing:
        return _ok("kernel", "pidfd, child subreaper, /proc children, file locks")
    what = "; ".join(f"{feature}: {why}" for feature, why in missing.items())
    mend = "use Linux 5.4 or newer with /proc, and a scope folder on a local disk"
    return Finding("kernel", State.PROBLEM, what, mend)


def folders(refused: Sequence[Trouble]) -> Finding:
    """Judge the product's folders that exist: ours alone, or why not."""
    return _of_troubles("folders", refused, "ours alone, mode 0700")


def socket_paths(refused: Sequence[Trouble]) -> Finding:
    """Judge whether sockets can have paths in this home."""
    return _of_troubles("socket paths", refused, "short enough")


def disk_space(free: Mapping[str, int]) -> Finding:
    """Judge the free bytes of each file system that podsup writes to, by folder."""
    text = ", ".join(f"{_size(size)} free for {folder}" for folder, size in free.items())
    least = min(free.values())
    mend = None if least >= TIGHT_SPACE else "make room: a session that cannot be written stops"
    return Finding("disk space", _state(least, LITTLE_SPACE, TIGHT_SPACE), text, mend)


def open_files(limit: int) -> Finding:
    """Judge the hard limit of open files (a supervisor raises its own to it)."""
    wanted = MANY_PODS * FILES_PER_POD
    if limit >= wanted:
        return _ok("open files", f"{limit} are allowed, enough for {MANY_PODS} pods")
    return Finding(
        "open files",
        State.WARNING,
        f"{limit} are allowed, enough for {limit // FILES_PER_POD} pods of one fleet",
        f"for {MANY_PODS} raise the hard limit: ulimit -Hn {wanted}",
    )


def ripgrep(path: str | None) -> Finding:
    """Judge whether Grep has ripgrep."""
    if path:
        return _ok("ripgrep", path)
    text = "rg is not on PATH: Grep searches by itself, more slowly"
    return Finding("ripgrep", State.WARNING, text, "install ripgrep")


def model_keys(found: Mapping[str, bool]) -> Finding:
    """Tell which variables of API keys are set, by name; a value is never looked at."""
    there = [name for name, is_set in found.items() if is_set]
    text = f"set: {', '.join(there)}" if there else "none is set; the embedded model needs none"
    return _ok("model keys", text)


def sandbox(support: CageSupport) -> Finding:
    """Tell how well the commands of pods are confined, and what that leaves open."""
    open_ways = describe(Settings(), support).unprotected
    told = f"level {support.level}" + "".join(f"; {way}" for way in open_ways)
    why = "".join(f"; {reason}" for reason in support.missing)
    match support.level:
        case CageLevel.NONE:
            return Finding("sandbox", State.WARNING, told + why, "give pods no task you distrust")
        case CageLevel.LANDLOCK:
            return Finding("sandbox", State.WARNING, told + why, "allow user namespaces")
    return _ok("sandbox", told)


# -- what fleets have left -------------------------------------------------------------------------


def supervisors(running: Mapping[str, bool]) -> Finding:
    """Judge the fleets whose instance lock is held: does anybody listen?"""
    if deaf := [fleet for fleet, listens in running.items() if not listens]:
        return Finding(
            "supervisors",
            State.WARNING,
            f"starting, ending or stopped, for it does not listen: {', '.join(deaf)}",
            "look again; if it stays so: " + _for_each("podsup --fleet {} down", deaf),
        )
    return _ok("supervisors", f"running: {', '.join(running)}" if running else "no fleet runs here")


def scope_table(holders: Sequence[Holder] | Trouble) -> Finding:
    """Judge the rows that no supervisor looks after, or why the table cannot be read."""
    if isinstance(holders, Trouble):
        return Finding("scope table", State.PROBLEM, holders.text, holders.mend)
    told = [
        f"{what}: {', '.join(_holder(holder) for holder in found)}"
        for life, what in (
            ("dead", "rows of the dead"),
            ("unverifiable", "holders that cannot be seen from here keep their claims"),
        )
        if (found := [holder for holder in holders if holder.life == life])
    ]
    if not told:
        return _ok("scope table", "readable, no row of the dead")
    homes = dict.fromkeys(holder.home for holder in holders if holder.life == "dead")
    mend = f"podsup down, or podsup start, in {', '.join(homes)}" if homes else "look there"
    return Finding("scope table", State.WARNING, "; ".join(told), mend)


def journals(seen: Journals) -> Finding:
    """Judge the fleets that nobody ended and nobody supervises."""
    with_pods = [fleet for fleet in seen.orphaned if fleet.alive]
    without = [fleet.fleet for fleet in seen.orphaned if not fleet.alive]
    told = [_orphaned(fleet) for fleet in with_pods]
    if without:
        told.append(f"not ended, without a supervisor or a live pod: {', '.join(without)}")
    told += seen.damage
    if not told:
        return _ok("journals", "every fleet is supervised, or was ended")
    state = State.PROBLEM if with_pods else State.WARNING
    mend = _for_each("podsup --fleet {} down", [fleet.fleet for fleet in seen.orphaned])
    return Finding("journals", state, "; ".join(told), mend or "podsup start writes it anew")


def stale_sockets(by_fleet: Mapping[str, Sequence[str]]) -> Finding:
    """Judge sockets nobody listens on, by fleet; "" is a fleet whose name is not known."""
    if not by_fleet:
        return _ok("sockets", "none is stale")
    paths = [path for found in by_fleet.values() for path in found]
    mends = [_for_each("podsup --fleet {} down", [fleet for fleet in by_fleet if fleet])]
    if unknown := by_fleet.get(""):
        mends.append(f"rm {' '.join(unknown)}")
    text = f"nobody listens on {', '.join(paths)}"
    return Finding("sockets", State.WARNING, text, "; ".join(mend for mend in mends if mend))


def metadata(damaged: Sequence[Trouble]) -> Finding:
    """Judge the records of pods that cannot be read."""
    return _of_troubles("pod records", damaged, "readable")


def sessions(bad_ends: Mapping[str, str]) -> Finding:
    """Judge the last lines of segments: {file: what is wrong}."""
    if not bad_ends:
        return _ok("sessions", "the last record of each is whole")
    return Finding(
        "sessions",
        State.WARNING,
        "; ".join(f"{path}: {why}" for path, why in bad_ends.items()),
        "podsup start: what was never promised is moved aside, anything else is refused by line",
    )


def strangers(seen: Strangers) -> Finding:
    """Judge processes that act as pods and that nobody knows."""
    told = [
        f"pid {', '.join(map(str, stranger.pids)) or 'unknown'} holds {stranger.lock}, "
        "for which there is no claim"
        for stranger in seen.unclaimed
    ]
    told += seen.told
    if not told:
        return _ok("strangers", "none was seen")
    mend = "a start takes a moment: look again; then end them by hand if they are not yours"
    return Finding("strangers", State.WARNING, "; ".join(told), mend)


# -- words -----------------------------------------------------------------------------------------


def _ok(name: str, text: str) -> Finding:
    return Finding(name, State.OK, text)


def _of_troubles(name: str, troubles: Sequence[Trouble], fine: str) -> Finding:
    if not troubles:
        return _ok(name, fine)
    mends = dict.fromkeys(trouble.mend for trouble in troubles if trouble.mend)
    text = "; ".join(trouble.text for trouble in troubles)
    return Finding(name, State.PROBLEM, text, "; ".join(mends) or None)


def _state(value: int, problem_below: int, warning_below: int) -> State:
    if value < problem_below:
        return State.PROBLEM
    return State.WARNING if value < warning_below else State.OK


def _for_each(template: str, names: Iterable[str]) -> str:
    return "; ".join(template.format(name) for name in names)


def _holder(holder: Holder) -> str:
    return f"{holder.pod} (pid {holder.pid or '-'}, {holder.home})"


def _orphaned(fleet: Orphaned) -> str:
    pods = ", ".join(f"{pod} (pid {pid or 'unknown'})" for pod, pid in fleet.alive)
    return (
        f"fleet {fleet.fleet}: its supervisor (pid {fleet.supervisor_pid}) is gone, alive: {pods}"
    )


def _size(size: int) -> str:
    return f"{size / 1024**3:.1f} GiB" if size >= TIGHT_SPACE else f"{size // 1024**2} MiB"
