"""The keeper: the process below which lives everything that a pod runs.

    pod ── outer ── inner ── shell ── whatever it starts          one socket: pod ⇄ inner
                                                                  outer watches, inner serves

It is run as a script of the standard library alone (20 ms to readiness), single-threaded, and
imports nothing of the project. It exists so that *nothing outlives the pod*, with no supervisor
alive, whatever a command did to get away: setsid, double forks, ignored signals, a cleared
environment.

Level `pidns` (where the kernel lets us): inner is pid 1 of a pid namespace with its own /proc. When
pid 1 dies the kernel kills all that is in there. Level `subreaper`: outer and inner are child
subreapers, so an orphan lands with them and not with init; whoever ends sweeps: stop everything,
kill everything, reap, until the kernel itself says "no children" (ECHILD), which also means no
descendants.

Who notices what:

    the pod dies or hangs up    outer: PDEATHSIG (parent re-checked), and HUP on the socket
    inner dies                  outer: its pidfd
    outer dies                  inner: PDEATHSIG (pidns), HUP on the tether (only outer holds it)

Outer leaves last: it kills inner, waits for it, which returns only when the kernel has reaped the
whole namespace, and sweeps what was handed to it. Both hold the pod's life lock without ever using
it, so "the lock can be taken" means that the pod and all it started are gone.

Each command's shell is a session leader and a child subreaper itself (that survives exec), so its
whole tree can be found by walking children from it for as long as it lives. A tree is killed by
stopping, scan after scan, until two scans find nobody new, and only then killing: a stopped process
forks nothing. Each is signalled through a pidfd, and only while it is still the one that the scan
saw. What a shell leaves behind is handed to inner and is that command's background job.

Commands come after everything else on the machine: they run at nice 10 as batch work, and first in
line when memory runs out. Where the kernel shares time among sessions (autogroup), nice counts only
within one, so each command's session gets the same. What a command makes of sessions besides is
looked at each second: while there are many, all that the pod runs leaves a processor to others.

Where commands are caged the keeper stays outside: outer makes the user and pid namespace, inner
furnishes the cell that the commands share, and each command's own process, between fork and exec,
encloses itself by the order that came with it (`podproc.confine.cell`). What cannot be built is
told and not run.

Messages are frames of a 4-byte length and JSON; a `run` brings its output descriptor along
(SCM_RIGHTS).

    pod → inner   run{id, argv, cwd, env, order} + fd    kill{id}    jobs{}
    inner → pod   started{id, pid}   failed{id, error}   exited{id, code | signal, left: [job]}
                  killed{id}         jobs{jobs: [{id, pid, command, age_s}]}
    outer → pod   hello{level, inner}    no_cell{error}

Pids in messages are those the commands themselves see; only `inner` is the pod's view.

Not guaranteed: at level `subreaper`, outer and inner killed in one stroke leave their tree behind
(the supervisor's net is for that), and a process that changed its user (sudo) cannot be killed, so
the keeper waits for it. Where outer itself is killed, the lock can be free some milliseconds before
the last process is gone. Orphans of a shell's orphan are reported with id 0 when they have also
left its session.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Container, Iterable
from typing import Any, NamedTuple, NoReturn, TypeAlias

PIDNS = "pidns"
SUBREAPER = "subreaper"
NAMESPACES = "namespaces"
"""The level of a cell that has a user namespace, and so a pid namespace for everybody."""

Enclose: TypeAlias = Callable[[dict[str, Any], str], None]
"""Confines the calling process by an order, and enters its working directory; raises OSError."""

_READY = b"ready"
NO_NAMESPACE = 77
"""Exit code of outer: a pid namespace was made and could not be used; try `subreaper`."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_CLONE_NEWNS = 0x00020000
_CLONE_NEWPID = 0x20000000
_MS_NOSUID_NODEV_NOEXEC = 2 | 4 | 8
_MS_REC_SLAVE = 0x4000 | 1 << 19
_COMMAND_SHOWN = 300
_MAX_FRAME = 64 * 1024 * 1024
_NICE = 10
_FIRST_OUT_OF_MEMORY = 1000
_LOOK_S = 1.0
_LOOK_PART = 0.05
"""How much of inner's time the look at sessions may take where there are thousands."""

_CROWD = 8
"""How many sessions a processor has before a pod's commands leave one to others."""


class PodGone(Exception):
    """The socket to the pod is closed."""


class Process:
    """A child of inner: a command's shell, or an orphan of one."""

    def __init__(self, command_id: int, pid: int, command: str, *, is_shell: bool) -> None:
        self.id = command_id
        self.pid = pid
        self.command = command
        self.is_shell = is_shell
        self.since = time.monotonic()

    def describe(self) -> dict[str, Any]:
        """Return the job as messages carry it."""
        age = round(time.monotonic() - self.since, 3)
        command = self.command or command_line(self.pid)
        return {"id": self.id, "pid": self.pid, "command": command, "age_s": age}


def main(argv: list[str]) -> int:
    """Be the keeper of a pod.

    argv is socket, pod's pid, level to try first, life lock (or -1), cell (JSON, or empty).
    """
    sock = socket.socket(fileno=int(argv[0]))
    pod, level, life_lock = int(argv[1]), argv[2], int(argv[3])
    cell = json.loads(argv[4]) if argv[4] else None
    for fd in (sock.fileno(), life_lock):
        if fd >= 0:
            os.set_inheritable(fd, False)
    wake = _wake_on(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a handler would let a command end its first pid
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != pod:
        return 0
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        level = _enter_pid_namespace(level, cell)
    except OSError as error:
        return _refuse_cell(sock, str(error))
    tether, tied = os.pipe()
    is_ready, ready = os.pipe()
    inner = os.fork()
    if inner == 0:
        os.close(tied)
        os.close(is_ready)
        _be_inner(sock, tether, ready, level, cell)
    os.close(tether)
    os.close(ready)
    if (told := os.read(is_ready, 4096)) != _READY:
        os.waitpid(inner, 0)
        if cell is not None and told:
            return _refuse_cell(sock, told.decode("utf-8", "replace"))
        return NO_NAMESPACE if level == PIDNS else 1
    try:
        send(sock, {"kind": "hello", "level": level, "inner": inner})
        _wait_for_the_end(sock, wake, inner)
    except PodGone:
        pass
    os.kill(inner, signal.SIGKILL)
    os.waitpid(inner, 0)
    end_everything()
    return 0


def _enter_pid_namespace(level: str, cell: dict[str, Any] | None) -> str:
    """Have the next child be the first of a pid namespace where that is had; returns the level."""
    if cell is not None and cell["level"] == NAMESPACES:
        _confine().enter_user_namespace()
        return PIDNS
    if level == PIDNS:
        try:
            _libc("unshare", _CLONE_NEWPID)
        except OSError:
            level = SUBREAPER
    return level


def _refuse_cell(sock: socket.socket, why: str) -> int:
    with contextlib.suppress(PodGone):
        send(sock, {"kind": "no_cell", "error": why})
    return 1


def _confine() -> Any:
    """Return the module that confines; only a keeper whose commands are caged loads it."""
    above = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if above not in sys.path:
        sys.path.append(above)
    from podproc.confine import cell

    return cell


def _be_inner(
    sock: socket.socket, tether: int, ready: int, level: str, cell: dict[str, Any] | None
) -> NoReturn:
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if level == PIDNS:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        try:
            enclose, own = _furnish(level, cell)
        except OSError as error:
            os.write(ready, str(error).encode("utf-8", "replace")[:4096])
            os._exit(1)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        wake = _wake_on(signal.SIGCHLD)
        os.write(ready, _READY)
        os.close(ready)
        Inner(sock, enclose, own).serve(tether, wake)
        end_everything()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


def _furnish(level: str, cell: dict[str, Any] | None) -> tuple[Enclose | None, int]:
    """Make what commands live in.

    Returns what confines one of them, None for an uncaged one, and a /proc that can be written.
    """
    if cell is None:
        if level == PIDNS:
            _enter_namespace()
        return None, _processes()
    confine = _confine()
    if cell["level"] == NAMESPACES:
        own = confine.furnish(
            network=cell["network"], memory=cell["memory"], processes=cell["processes"]
        )
    else:
        if level == PIDNS:
            _enter_namespace()
        confine.bound_processes(cell["processes"], is_alone=level == PIDNS)
        own = _processes()
    walls = confine.Walls(
        cell["level"],
        network=cell["network"],
        unix_sockets=cell["unix_sockets"],
        is_alone=level == PIDNS,
    )
    enclose: Enclose = walls.enclose
    return enclose, own


def _processes() -> int:
    return os.open("/proc", os.O_PATH | os.O_DIRECTORY)


def _enter_namespace() -> None:
    """Give this pid namespace its own /proc; mounts made outside still arrive here, none leave."""
    _libc("unshare", _CLONE_NEWNS)
    _libc("mount", b"none", b"/", None, _MS_REC_SLAVE, None)
    _libc("mount", b"proc", b"/proc", b"proc", _MS_NOSUID_NODEV_NOEXEC, None)


def _wait_for_the_end(sock: socket.socket, wake: int, inner: int) -> None:
    inner_ended = os.pidfd_open(inner)
    poll = select.poll()
    poll.register(sock, 0)  # HUP is always reported; what can be read is inner's
    poll.register(wake, select.POLLIN)
    poll.register(inner_ended, select.POLLIN)
    poll.poll()


class Processors:
    """The processors of a pod's commands: all there are, but for one while there is a crowd.

    Only where each session has a share of its own: else their niceness says enough.
    """

    def __init__(self) -> None:
        self._all = os.sched_getaffinity(0)
        self._is_crowded = False
        self._next = 0.0
        self._is_needed = len(self._all) > 1 and _has_shares_of_sessions()

    def wait_s(self) -> float | None:
        """Return the seconds until the next look, None where nobody has to look."""
        return max(self._next - time.monotonic(), 0.0) if self._is_needed else None

    def look(self, roots: Iterable[int]) -> None:
        """See whether there is a crowd, and put everybody where they belong."""
        began = time.monotonic()
        if not self._is_needed or began < self._next:
            return
        everybody = tree(roots)
        sessions = {_stat(pid).session for pid in everybody}
        was_crowded, self._is_crowded = self._is_crowded, len(sessions) > _CROWD * len(self._all)
        if was_crowded or self._is_crowded:
            chosen = self._all - {min(self._all)} if self._is_crowded else self._all
            for pid in everybody:
                with contextlib.suppress(OSError):  # it has ended, or is another user's
                    os.sched_setaffinity(pid, chosen)
        took = time.monotonic() - began
        self._next = began + max(_LOOK_S, took / _LOOK_PART)


def _has_shares_of_sessions() -> bool:
    try:
        with open("/proc/sys/kernel/sched_autogroup_enabled", "rb") as file:
            return file.read().strip() == b"1"
    except OSError:
        return False


class Inner:
    """Serves the pod: starts, lists and kills commands, and reports their ends.

    `own` is a /proc in which its processes can be changed.
    """

    def __init__(self, sock: socket.socket, enclose: Enclose | None, own: int) -> None:
        self._sock = sock
        self._enclose = enclose
        self._own = own
        self._processors = Processors()
        self._received = bytearray()
        self._descriptors: list[int] = []
        self._living: dict[int, Process] = {}
        self._sessions: dict[int, int] = {}
        self._dying: set[int] = set()

    def serve(self, tether: int, wake: int) -> None:
        """Serve until the pod or outer is gone."""
        poll = select.poll()
        for fd in (self._sock.fileno(), tether, wake):
            poll.register(fd, select.POLLIN)
        try:
            while True:
                ready = {fd for fd, _ in poll.poll(self._patience_ms())}
                if tether in ready:
                    return
                if wake in ready:
                    os.read(wake, 4096)
                self._reap()
                if self._sock.fileno() in ready:
                    self._receive()
                self._processors.look(self._living)
        except PodGone:
            return

    def _patience_ms(self) -> float | None:
        wait_s = self._processors.wait_s() if self._living else None
        return None if wait_s is None else wait_s * 1000

    def _receive(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._sock, 1 << 16, 8)
        except OSError as error:
            raise PodGone from error
        if not data:
            raise PodGone
        self._received += data
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        self._descriptors += descriptors
        try:
            messages = take_frames(self._received)
        except ValueError as error:
            raise PodGone from error
        for message in messages:
            kind = message["kind"]
            if kind == "run":
                self._run(message, self._descriptors.pop(0))
            elif kind == "kill":
                self._dying.add(message["id"])
                self._kill(message["id"])
                self._settle()
            elif kind == "jobs":
                self._adopt([])
                jobs = [process.describe() for process in self._living.values()]
                send(self._sock, {"kind": "jobs", "jobs": jobs})

    def _run(self, message: dict[str, Any], output: int) -> None:
        command_id, argv = message["id"], message["argv"]
        try:
            enclose = self._enclosing(message)
            pid = spawn(argv, message["cwd"], message["env"], output, enclose, self._own)
        except (OSError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or "out of memory"
            send(self._sock, {"kind": "failed", "id": command_id, "error": reason})
            return
        finally:
            os.close(output)
        shown = argv[-1][:_COMMAND_SHOWN]
        self._living[pid] = Process(command_id, pid, shown, is_shell=True)
        self._sessions[pid] = command_id
        send(self._sock, {"kind": "started", "id": command_id, "pid": pid})

    def _enclosing(self, message: dict[str, Any]) -> Callable[[], None] | None:
        """Return what confines the command; raises OSError for a caged one without an order."""
        order, cwd, enclose = message["order"], message["cwd"], self._enclose
        if (order is None) is not (enclose is None):
            raise OSError(0, "an order for a cage that is not there, or none for one that is")
        return None if enclose is None else lambda: enclose(order, cwd)

    def _kill(self, command_id: int) -> None:
        kill_trees(lambda: [p.pid for p in self._living.values() if p.id == command_id])

    def _reap(self) -> None:
        ended: list[tuple[Process, int]] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            process = self._living.pop(pid, None)
            if process is not None:
                ended.append((process, status))
        self._adopt([process.id for process, _ in ended])
        for process, status in ended:
            if process.is_shell:
                self._report_exit(process, os.waitstatus_to_exitcode(status))
        self._settle()

    def _adopt(self, ended: list[int]) -> None:
        """Take in what became our child: by its session, else as left by what has just ended.

        Of two commands that ended together the one not being killed gets it: all the other's
        processes have their SIGKILL already.
        """
        heirs = [i for i in ended if i not in self._dying] or ended
        for pid in children(os.getpid()):
            if pid not in self._living:
                heir = self._sessions.get(_stat(pid).session) or (heirs[0] if heirs else 0)
                self._living[pid] = Process(heir, pid, "", is_shell=False)

    def _report_exit(self, shell: Process, code: int) -> None:
        left = [p.describe() for p in self._living.values() if p.id == shell.id]
        if not left:
            self._sessions.pop(shell.pid, None)
        how = {"code": code} if code >= 0 else {"signal": -code}
        send(self._sock, {"kind": "exited", "id": shell.id, "left": left, **how})

    def _settle(self) -> None:
        for command_id in list(self._dying):
            if any(process.id == command_id for process in self._living.values()):
                self._kill(command_id)
            else:
                self._dying.discard(command_id)
                send(self._sock, {"kind": "killed", "id": command_id})


def spawn(
    argv: list[str],
    cwd: str,
    environment: dict[str, str],
    output: int,
    enclose: Callable[[], None] | None,
    own: int,
) -> int:
    """Start a command as session leader and child subreaper; returns its pid, raises OSError.

    Waits for the exec, so that what goes wrong up to there is told, with what was tried.
    """
    trouble, failed = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(argv, cwd, environment, output, failed, enclose, own)
    os.close(failed)
    with open(trouble, "rb") as file:
        message = file.read(_MAX_FRAME)
    if message:
        os.waitpid(pid, 0)
        raise OSError(0, message.decode("utf-8", "replace"))
    return pid


def _become(
    argv: list[str],
    cwd: str,
    environment: dict[str, str],
    output: int,
    failed: int,
    enclose: Callable[[], None] | None,
    own: int,
) -> NoReturn:
    doing = "cannot start a process"
    try:
        os.setsid()
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        _give_way(own)
        if enclose is None:
            doing = f"cannot enter {cwd}"
            os.chdir(cwd)
        else:
            doing = "the cage cannot be built"
            enclose()
        doing = f"cannot run {argv[0]}"
        os.execvpe(argv[0], argv, environment)
    except BaseException as error:
        reason = getattr(error, "strerror", None) or repr(error)
        os.write(failed, f"{doing}: {reason}".encode("utf-8", "replace"))
    finally:
        os._exit(127)


def _give_way(own: int) -> None:
    """Come after everything else on this machine, as far as the kernel lets us; leave no core."""
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_RTPRIO):
        resource.setrlimit(limit, (0, 0))
    os.nice(_NICE)
    with contextlib.suppress(OSError):
        if os.sched_getscheduler(0) != os.SCHED_IDLE:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    for name, value in (("oom_score_adj", _FIRST_OUT_OF_MEMORY), ("autogroup", _NICE)):
        with contextlib.suppress(OSError):  # not had here, or too many at once for the kernel
            fd = os.open(f"self/{name}", os.O_WRONLY, dir_fd=own)
            os.write(fd, str(value).encode())
            os.close(fd)


def end_everything() -> None:
    """Kill all descendants until the kernel knows of no child, so of no descendant, any more."""
    try:
        while True:
            kill_trees(lambda: children(os.getpid()))
            os.waitpid(-1, 0)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    except ChildProcessError:
        return


def kill_trees(roots: Callable[[], Iterable[int]]) -> None:
    """Stop the trees until two scans in a row find nobody new, then kill all that was found.

    A pid that a scan saw may be another process's by now. So each is held by a pidfd before it is
    looked at: it is ours if its parent is, and still the same if it began at the same time.
    """
    found: dict[int, int] = {}
    quiet = 0
    while quiet < 2:
        new = _stopped(set(tree(roots())), found)
        found |= new
        quiet = 0 if new else quiet + 1
    for pid, began in found.items():
        _signal(pid, signal.SIGKILL, _began_at(began))


def _stopped(seen: set[int], known: Container[int]) -> dict[int, int]:
    """Stop those of a scan that are not known yet; returns when each of them began."""
    ours = seen | {os.getpid()}
    began = {
        pid: _signal(pid, signal.SIGSTOP, lambda stat: stat.parent in ours)
        for pid in seen
        if pid not in known
    }
    return {pid: since for pid, since in began.items() if since}


def _began_at(ticks: int) -> Callable[[Stat], bool]:
    return lambda stat: stat.began == ticks


def tree(roots: Iterable[int]) -> list[int]:
    """Return the roots and all their descendants; a snapshot that may already be wrong."""
    found = list(roots)
    for pid in found:
        found += children(pid)
    return found


def children(pid: int) -> list[int]:
    """Return the children of a process, of all its threads; none for one that is gone."""
    if not os.path.exists("/proc/thread-self/children"):
        return children_by_parent(pid)
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
    except OSError:
        pass  # gone, and its children with it or handed on: the next scan sees them
    return found


def children_by_parent(pid: int) -> list[int]:
    """Return the children by a look at every process, where the kernel lists none."""
    everyone = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [other for other in everyone if _stat(other).parent == pid]


def command_line(pid: int) -> str:
    """Return a process's arguments as one line, empty for one that is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(4 * _COMMAND_SHOWN).rstrip(b"\0").split(b"\0")
    except OSError:
        return ""
    return b" ".join(words).decode("utf-8", "replace")[:_COMMAND_SHOWN]


class Stat(NamedTuple):
    """What tells one process from another; `began` is in ticks since the machine started."""

    parent: int
    session: int
    began: int


def _stat(pid: int) -> Stat:
    """Return the facts of a process, zeros for one that is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return Stat(0, 0, 0)
    return Stat(int(fields[1]), int(fields[3]), int(fields[19]))


def send(sock: socket.socket, message: dict[str, Any]) -> None:
    """Send one message; raises PodGone."""
    try:
        sock.sendall(frame(message))
    except OSError as error:
        raise PodGone from error


def frame(message: dict[str, Any]) -> bytes:
    """Return a message as it travels."""
    body = json.dumps(message).encode()
    return struct.pack("!I", len(body)) + body


def take_frames(received: bytearray) -> list[dict[str, Any]]:
    """Take the whole messages out of what was received and leave the rest.

    Raises ValueError for one that is too large to be of either side.
    """
    messages: list[dict[str, Any]] = []
    while len(received) >= 4:
        end = 4 + struct.unpack_from("!I", received)[0]
        if end > _MAX_FRAME:
            raise ValueError(f"a message of {end} bytes")
        if len(received) < end:
            break
        messages.append(json.loads(received[4:end]))
        del received[:end]
    return messages


def _wake_on(number: signal.Signals) -> int:
    """Have a signal make a pipe readable, and nothing else; returns the pipe."""
    wake, written = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(written, False)
    signal.set_wakeup_fd(written, warn_on_full_buffer=False)
    signal.signal(number, lambda number, frame: None)
    return wake


def _signal(pid: int, number: signal.Signals, is_meant: Callable[[Stat], bool]) -> int:
    """Signal a process if it is the one that is meant; returns when it began, 0 where it is not.

    What is looked at after the pidfd was opened is either what the pidfd holds, or comes after its
    end: then the signal reaches nobody.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):  # of another user: no more to do
        held = os.pidfd_open(pid)
        try:
            stat = _stat(pid)
            if stat.began and is_meant(stat):
                signal.pidfd_send_signal(held, number)
                return stat.began
        finally:
            os.close(held)
    return 0


def _prctl(option: int, value: int) -> None:
    _libc("prctl", option, value, 0, 0, 0)


def _libc(function: str, *args: Any) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    wide = [ctypes.c_ulong(arg) if isinstance(arg, int) else arg for arg in args]
    if getattr(library, function)(*wide) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
