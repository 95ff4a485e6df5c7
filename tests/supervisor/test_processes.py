"""Processes below a supervisor, with a real zygote: how they begin, and how they end."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from protocol import isolation
from protocol.errors import Internal
from protocol.transport.fork_channel import MessageReader, send_message
from supervisor import processes
from supervisor.processes import ExitStatus, Processes, ZygoteDied, children_of, descendants_of
from tests.supervisor.apart import PROJECT, Shell, run_apart, state_of, until
from tests.support.home import Home
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

NO_BIRTH = b"\xc1"
"""No msgpack: the pod ends at once, as one that is configured wrong."""

CONFIG_ERROR = ExitStatus(code=78)
KILLED = ExitStatus(signal="SIGKILL")

LIVING = ("S", "R", "D")
"""States of a process that lives; D: it waits for the disk, as one that makes its folders."""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ps", dir="/tmp") as folder:
        yield Path(folder)


def links_of(pid: int) -> dict[int, str]:
    """Return what a process has open."""
    folder = f"/proc/{pid}/fd"
    found = {}
    for name in os.listdir(folder):
        try:
            found[int(name)] = os.readlink(f"{folder}/{name}")
        except FileNotFoundError:  # the listing's own
            continue
    return found


def of_session(pid: int) -> list[str]:
    """Return the session logs a process has open."""
    return [target for target in links_of(pid).values() if target.endswith(".jsonl")]


def test_exit_is_told_once_by_code_or_signal_and_the_zombie_is_held_until_its_tree_is_ended(
    folder: Path,
) -> None:
    async def scenario(shell: Shell) -> None:
        bad, alice = await asyncio.gather(shell.fork("bad", NO_BIRTH), shell.living())
        assert await shell.status_of(bad) == CONFIG_ERROR
        assert "birth record" in (folder / "bad.log").read_text()
        assert state_of(alice.pid) in LIVING

        shell.processes.send_signal(alice.pid, signal.SIGKILL)
        assert await shell.status_of(alice) == KILLED
        for process in (bad, alice):
            assert state_of(process.pid) == "Z", "its pid may not be used again yet"
            shell.processes.send_signal(process.pid, signal.SIGTERM)
            await shell.end(process)
        assert len(shell.exits) == 2

    run_apart(scenario, folder)


def test_stopped_pod_that_is_to_end_is_continued(folder: Path) -> None:
    async def scenario(shell: Shell) -> None:
        alice = await shell.living()
        os.kill(alice.pid, signal.SIGSTOP)
        await until(lambda: state_of(alice.pid) == "T", "it is stopped")
        shell.processes.send_signal(alice.pid, signal.SIGTERM)
        status = await shell.status_of(alice)
        assert status.signal in (None, "SIGTERM"), "it left by itself, or was not up to that yet"
        await shell.end(alice)

    run_apart(scenario, folder)


def test_zygote_killed_loses_no_exit_status_and_another_one_takes_over(folder: Path) -> None:
    async def scenario(shell: Shell) -> None:
        alice, bob, early = [await shell.living(name) for name in ("alice", "bob", "early")]
        first = shell.processes.zygote_pid
        assert first is not None
        os.kill(early.pid, signal.SIGKILL)
        assert await shell.status_of(early) == KILLED

        os.kill(first, signal.SIGKILL)
        os.kill(bob.pid, signal.SIGUSR2)
        await until(lambda: shell.processes.zygote_pid not in (None, first), "there is another")
        assert await shell.status_of(bob) == ExitStatus(signal="SIGUSR2")
        assert state_of(alice.pid) in LIVING
        os.kill(alice.pid, signal.SIGKILL)
        assert await shell.status_of(alice) == KILLED
        bad = await shell.fork("bad", NO_BIRTH)
        assert await shell.status_of(bad) == CONFIG_ERROR
        for process in (early, bob, alice, bad):
            await shell.end(process)
        assert len(shell.said) == 1

    run_apart(scenario, folder)


def test_fork_that_the_zygote_did_not_live_to_answer_fails(folder: Path) -> None:
    async def scenario(shell: Shell) -> None:
        await shell.processes.start_zygote()
        zygote = shell.processes.zygote_pid
        assert zygote is not None
        os.kill(zygote, signal.SIGSTOP)
        await until(lambda: state_of(zygote) == "T", "it is stopped")
        forks = [asyncio.create_task(shell.fork(name)) for name in ("alice", "bob")]
        await asyncio.sleep(0)
        os.kill(zygote, signal.SIGKILL)
        for fork in forks:
            with pytest.raises(ZygoteDied):
                await fork
        await shell.processes.end_all_strays()
        bad = await shell.fork("bad", NO_BIRTH)
        assert await shell.status_of(bad) == CONFIG_ERROR
        await shell.end(bad)

    run_apart(scenario, folder)


# -- every fork is answered

IMPATIENT_S = 0.5


@contextmanager
def no_free_descriptor() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def make_impatient(shell: Shell) -> None:
    """Let a zygote that owes an answer be given up soon."""
    shell.processes = Processes(
        on_exit=lambda pid, status: shell.exits.append((pid, status)),
        environment=os.environ | {"PYTHONPATH": str(PROJECT)},
        log=shell.said.append,
        answer_s=IMPATIENT_S,
    )


async def stop_zygote(shell: Shell) -> int:
    """Stop the fork server as it is; returns its pid."""
    await shell.processes.start_zygote()
    zygote = shell.processes.zygote_pid
    assert zygote is not None
    os.kill(zygote, signal.SIGSTOP)
    await until(lambda: state_of(zygote) == "T", "it is stopped")
    return zygote


def test_hundreds_of_forks_asked_in_one_turn_are_all_answered(folder: Path) -> None:
    async def scenario(shell: Shell) -> None:
        await shell.processes.start_zygote()
        birth = NO_BIRTH + bytes(3000)
        forks = [shell.fork("many", birth) for _ in range(400)]
        async with asyncio.timeout(20):
            pods = await asyncio.gather(*forks)
        assert len({pod.pid for pod in pods}) == 400
        await until(lambda: len(shell.exits) == 400, "all exits are told", 20)
        assert {status for _, status in shell.exits} == {CONFIG_ERROR}
        for pod in pods:
            await shell.processes.end_tree(pod.pid, lambda: True)
        await until(lambda: len(descendants_of(os.getpid())) == 1, "all are reaped")

    run_apart(scenario, folder)


def test_fork_without_an_interpreter_or_free_descriptors_fails_readably(folder: Path) -> None:
    async def scenario(shell: Shell) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "executable", str(folder / "none"))
            with pytest.raises(Internal, match="fork server could not be started"):
                await shell.fork()
        with no_free_descriptor(), pytest.raises(Internal, match="Too many open files"):
            await shell.processes.start_zygote()
        alice = await shell.living()
        with no_free_descriptor(), pytest.raises(Internal, match="Too many open files"):
            await shell.processes.fork(NO_BIRTH, 0, 0)
        await shell.kill(alice)
        assert shell.said == []

    run_apart(scenario, folder)


def test_fork_whose_pidfd_found_no_room_fails_and_the_zygote_is_replaced(folder: Path) -> None:
    async def scenario(shell: Shell) -> None:
        alice = await shell.living()
        forks = [asyncio.create_task(shell.fork(name)) for name in ("bob", "carol")]
        await asyncio.sleep(0)
        with no_free_descriptor():
            await asyncio.wait(forks, timeout=10)
        for fork in forks:
            with pytest.raises(ZygoteDied):
                fork.result()
        await shell.processes.end_all_strays()
        assert state_of(alice.pid) in LIVING
        bad = await shell.fork("bad", NO_BIRTH)
        assert await shell.status_of(bad) == CONFIG_ERROR
        await shell.end(bad)
        await shell.kill(alice)

    run_apart(scenario, folder)


def test_zygote_that_hangs_is_killed_and_the_fork_it_owes_fails(folder: Path) -> None:
    async def scenario(shell: Shell) -> None:
        make_impatient(shell)
        alice = await shell.living()
        zygote = await stop_zygote(shell)
        with pytest.raises(ZygoteDied):
            await asyncio.wait_for(shell.fork("bob"), 10)
        assert state_of(zygote) == ""
        assert "did not answer a fork" in shell.said[0]
        assert state_of(alice.pid) in LIVING
        await shell.processes.start_zygote()
        await shell.kill(alice)

    run_apart(scenario, folder)


def test_fork_nobody_waits_for_any_more_leaves_nothing(folder: Path) -> None:
    async def scenario(shell: Shell) -> None:
        zygote = await stop_zygote(shell)
        fork = asyncio.create_task(shell.fork())
        await asyncio.sleep(0)
        fork.cancel()
        os.kill(zygote, signal.SIGCONT)
        bad = await shell.fork("bad", NO_BIRTH)
        await shell.status_of(bad)
        await shell.end(bad)
        await until(lambda: descendants_of(os.getpid()) == [zygote], "it is ended and reaped")
        assert len(shell.exits) == 1

    run_apart(scenario, folder)


def test_slow_zygote_loses_no_exit_status(folder: Path) -> None:
    async def scenario(shell: Shell) -> None:
        alice = await shell.living()
        zygote = await stop_zygote(shell)
        asyncio.get_running_loop().call_later(0.8, os.kill, zygote, signal.SIGCONT)
        shell.processes.send_signal(alice.pid, signal.SIGKILL)
        assert await shell.status_of(alice) == KILLED
        assert shell.processes.zygote_pid == zygote
        await shell.end(alice)

    run_apart(scenario, folder)


def test_zygote_that_hangs_is_killed_and_the_kernel_has_the_status_it_owes(folder: Path) -> None:
    async def scenario(shell: Shell) -> None:
        make_impatient(shell)
        alice = await shell.living()
        zygote = await stop_zygote(shell)
        shell.processes.send_signal(alice.pid, signal.SIGKILL)
        assert await shell.status_of(alice) == KILLED
        assert state_of(zygote) == ""
        await shell.processes.start_zygote()
        await shell.end(alice)

    run_apart(scenario, folder)


DOUBLE_FORK = """
import ctypes, os, pathlib
order = pathlib.Path(__file__).with_name("double-fork")

def double_fork():
    if not order.exists():
        return
    order.unlink()
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # as every pod is: a subreaper
    if os.fork():
        return
    os.setsid()
    if os.fork() == 0:
        os.execv("/bin/sleep", ["sleep", "87"])
    os._exit(0)

os.register_at_fork(after_in_child=double_fork)
"""


def test_tree_is_ended_with_what_got_away_below_the_pod_and_not_before_its_lock_is_free(
    folder: Path,
) -> None:
    hook = folder / "hook.py"
    hook.write_text(DOUBLE_FORK)

    def hooked(module: str, *arguments: str) -> list[str]:
        run = f"exec(open({str(hook)!r}).read(), {{'__file__': {str(hook)!r}}})"
        return [sys.executable, "-c", f"{run}; from {module} import main; main()", *arguments]

    async def scenario(shell: Shell) -> None:
        isolation.isolated = hooked
        bob = await shell.living("bob")
        (folder / "double-fork").touch()
        alice = await shell.living("alice")
        await until(lambda: stray_of(alice.pid), "what it started is below it")
        stray = stray_of(alice.pid)
        os.kill(alice.pid, signal.SIGKILL)
        await shell.status_of(alice)
        assert state_of(stray) in LIVING

        is_free = False
        ending = asyncio.create_task(shell.processes.end_tree(alice.pid, lambda: is_free))
        await until(lambda: not state_of(stray), "the stray is ended and reaped")
        assert shell.processes.reaped_strays >= 1
        assert not ending.done()
        assert state_of(alice.pid) == "Z"
        is_free = True
        await asyncio.wait_for(ending, 5)
        await until(lambda: not state_of(alice.pid), "it is reaped")
        assert state_of(bob.pid) in LIVING, "another pod is no stray"
        await shell.kill(bob)

    def stray_of(pod: int) -> int:
        below = [pid for pid in descendants_of(pod) if state_of(pid) != "Z"]
        names = {pid: Path(f"/proc/{pid}/comm").read_text() for pid in below}
        return next((pid for pid, name in names.items() if name == "sleep\n"), 0)

    run_apart(scenario, folder)


def test_pod_has_no_descriptor_of_its_supervisor_its_zygote_or_another_pod(folder: Path) -> None:
    async def scenario(shell: Shell) -> None:
        held = [os.open(folder / "journal", os.O_CREAT | os.O_RDWR)]
        os.set_inheritable(held[0], True)
        alice = await shell.living("alice")
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.set_inheritable(True)
            bob = await shell.living("bob")
            zygote = shell.processes.zygote_pid
            assert zygote is not None
            await until(lambda: of_session(bob.pid), "bob has its log: all its folders are made")
            of_bob = links_of(bob.pid)
            log, lock = f"{folder}/bob.log", f"{folder}/bob.lock"
            assert {fd: of_bob[fd] for fd in (0, 1, 2)} == {0: "/dev/null", 1: log, 2: log}
            files = {t for fd, t in of_bob.items() if fd > 2 and t.startswith("/")}
            assert lock in files
            elsewhere = [f for f in files - {lock} if not f.startswith(f"{folder}/data/pods/bob/")]
            assert elsewhere == []
            for other in (os.getpid(), zygote, alice.pid):
                common = set(of_bob.values()) & set(links_of(other).values())
                assert not [t for t in common if t.startswith((str(folder), "socket:", "pipe:"))]
            assert not [t for t in links_of(zygote).values() if t.startswith(str(folder))]
            assert not any(os.get_inheritable(p.pidfd) for p in (alice, bob))
        os.close(held[0])
        await shell.kill(alice, bob)

    run_apart(scenario, folder)


def test_fork_server_that_cannot_start_is_refused_once_and_not_tried_for_ever(
    folder: Path,
) -> None:
    async def scenario(shell: Shell) -> None:
        isolation.isolated = lambda module, *arguments: ["/bin/false", module, *arguments]
        for _ in range(2):
            with pytest.raises(Internal, match="fork server"):
                await shell.fork()
            assert asyncio.all_tasks() == {asyncio.current_task()}, "nobody tries again"
            assert children_of(os.getpid()) == []

    run_apart(scenario, folder)


def never_ready(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-I", "-c", "import time; time.sleep(87)", module, *arguments]


def test_fork_server_that_does_not_get_ready_is_ended_and_not_tried_for_ever(
    folder: Path,
) -> None:
    async def scenario(shell: Shell) -> None:
        processes.ZYGOTE_READY_S = 0.2
        isolation.isolated = never_ready
        with pytest.raises(Internal, match="did not become ready"):
            await shell.processes.start_zygote()
        assert children_of(os.getpid()) == []
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "nobody tries again"
        assert shell.said == []

    run_apart(scenario, folder)


def test_children_are_found_where_the_kernel_does_not_list_them(folder: Path) -> None:
    for pid, parent in {7: 1, 8: 7, 9: 8, 10: 7}.items():
        (folder / str(pid) / "task" / str(pid)).mkdir(parents=True)
        (folder / str(pid) / "stat").write_text(f"{pid} (a) 7 S) S {parent} 7 7 0 -1")
    (folder / "11").mkdir()  # it ended meanwhile
    (folder / "self").mkdir()
    assert sorted(children_of(7, folder)) == [8, 10]
    assert children_of(12, folder) == []


def test_closing_ends_the_fork_server_and_does_not_start_another(folder: Path) -> None:
    async def scenario(shell: Shell) -> None:
        await shell.processes.start_zygote()
        shell.processes.close()
        assert shell.processes.zygote_pid is None
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert (children_of(os.getpid()), shell.said) == ([], [])

    run_apart(scenario, folder)


def test_pods_that_crash_leave_neither_zombies_nor_handles_below_a_supervisor(home: Home) -> None:
    home.write("podsup.toml", '[[pod]]\nname = "alice"\nrestart = "always"\n')
    home.podsup("start", "-d", "--wait", "ready")
    supervisor = home.json("ps")["supervisor"]["pid"]
    for deaths in range(1, 3):
        os.kill(home.json("ps")["pods"][0]["pid"], signal.SIGKILL)
        eventually(lambda n=deaths: home.json("ps")["pods"][0]["restarts"] == n, "it is restarted")  # type: ignore[misc]
        eventually(lambda: home.json("ps")["pods"][0]["status"] == "idle", "it is back")

    eventually(lambda: len(descendants_of(supervisor)) == 2, "a zygote and one pod are there")
    pidfds = [t for t in links_of(supervisor).values() if t == "anon_inode:[pidfd]"]
    assert len(pidfds) == 1


# -- the zygote alone

BARE = """
import socket, sys
from podproc.zygote import Zygote
from protocol.cage import CageSupport
from protocol.transport.fork_channel import ChannelClosed
{0}
try:
    Zygote(socket.socket(fileno=int(sys.argv[1])), CageSupport()).serve()
except ChannelClosed:
    pass
"""
PYTHON_THREAD = "import threading; threading.Thread(target=sys.stdin.read, daemon=True).start()"
NATIVE_THREAD = "import zmq; held = zmq.Context().socket(zmq.PUB)"


class Served:
    """A zygote without what it preloads, and the other end of its channel."""

    def __init__(self, setup: str) -> None:
        self.channel, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", BARE.format(setup), str(theirs.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": str(PROJECT)},
            )
        self.channel.settimeout(20)
        self._reader = MessageReader(self.channel)
        self._read: list[tuple[dict[str, Any], list[int]]] = []
        assert self.next()["op"] == "ready"

    def next(self) -> dict[str, Any]:
        """Return the next message; closes its descriptors."""
        while not self._read:
            self._read = self._reader.read()
        message, fds = self._read.pop(0)
        for fd in fds:
            os.close(fd)
        return message

    def fork(self) -> dict[str, Any]:
        """Ask for a fork, and return the answer."""
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            message = {"op": "fork", "id": 1, "birth": NO_BIRTH, "fds": 2}
            send_message(self.channel, message, [null, null])
        finally:
            os.close(null)
        return self.next()

    def close(self) -> int:
        """Close the channel; returns how the zygote ends."""
        self.channel.close()
        try:
            return self.process.wait(10)
        finally:
            self.process.kill()
            self.process.communicate()


@pytest.mark.parametrize("setup", [PYTHON_THREAD, NATIVE_THREAD], ids=["python", "native"])
def test_zygote_with_a_second_thread_refuses_to_fork(setup: str) -> None:
    served = Served(setup)
    try:
        answer = served.fork()
        assert (answer["op"], answer["id"]) == ("fork_failed", 1)
        assert "threads" in answer["error"]
        assert children_of(served.process.pid) == []
    finally:
        served.close()


def test_zygote_with_one_thread_forks_reports_the_exit_and_reaps_when_it_is_told() -> None:
    served = Served("")
    try:
        pid = served.fork()["pid"]
        assert served.next() == {"op": "exited", "pid": pid, "code": 78}
        assert state_of(pid) == "Z"
        for _ in range(2):  # a repeated word does no harm
            send_message(served.channel, {"op": "reap", "pid": pid})
        answer = served.fork()
        assert answer["op"] == "forked"
        assert state_of(pid) == ""
    finally:
        assert served.close() == 0


def test_zygote_without_room_for_descriptors_refuses_to_fork_and_goes_on() -> None:
    served = Served("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))")
    try:
        for _ in range(2):
            answer = served.fork()
            assert (answer["op"], answer["id"]) == ("fork_failed", 1)
            assert "descriptors" in answer["error"]
        assert children_of(served.process.pid) == []
    finally:
        assert served.close() == 0


def test_zygote_told_to_reap_before_it_saw_the_death_reports_it_first() -> None:
    served = Served("")
    try:
        pid = served.fork()["pid"]
        served.process.send_signal(signal.SIGSTOP)
        eventually(lambda: state_of(pid) == "Z", "it is dead")
        send_message(served.channel, {"op": "reap", "pid": pid})
        served.process.send_signal(signal.SIGCONT)
        assert served.next() == {"op": "exited", "pid": pid, "code": 78}
        assert served.fork()["op"] == "forked"
        assert state_of(pid) == ""
    finally:
        assert served.close() == 0


def test_zygote_whose_child_was_reaped_by_somebody_else_goes_on() -> None:
    served = Served("signal = __import__('signal'); signal.signal(17, signal.SIG_IGN)")
    try:
        first = served.fork()["pid"]
        eventually(lambda: state_of(first) == "", "the kernel reaped it")
        assert served.fork()["op"] == "forked"
    finally:
        assert served.close() == 0


def test_zygote_ends_when_its_channel_closes() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        zygote = subprocess.Popen(
            [sys.executable, "-m", "podproc.zygote", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            cwd="/",
            env=os.environ | {"PYTHONPATH": str(PROJECT)},
        )
    with ours:
        ours.settimeout(20)
        ((ready, _),) = MessageReader(ours).read()
        assert ready == {"op": "ready", "pid": zygote.pid}
        zygote.send_signal(signal.SIGINT)  # Ctrl-C reaches a whole process group
        assert zygote.poll() is None
    try:
        assert zygote.wait(10) == 0
    finally:
        zygote.kill()
        zygote.wait()
