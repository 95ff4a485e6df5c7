"""Who lives: identities and life locks, with real processes where a process is what it is about."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from protocol.errors import Conflict
from supervisor import life_lock
from supervisor.identity import Identity, identity_of, is_same_process
from tests.support.waiting import eventually, wait_for_exit

ODD_NAMES = ["a) R 1 (b", "one two", ") Z (", "("]


@contextmanager
def child(code: str, *fds: int) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process that has run the code and now waits; ended at the end, if it still lives."""
    ready = f"{code}\nprint(flush=True)\nimport time; time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", ready], stdout=subprocess.PIPE, pass_fds=fds)
    assert process.stdout is not None
    with process, process.stdout:
        try:
            process.stdout.readline()
            yield process
        finally:
            process.kill()


def own() -> Identity:
    identity = identity_of(os.getpid())
    assert identity is not None
    return identity


def test_this_process_is_itself() -> None:
    assert is_same_process(own()) == "alive"


def test_a_stranger_with_a_reused_pid_is_not_the_holder() -> None:
    before = own().model_copy(update={"start_ticks": own().start_ticks - 1})
    assert is_same_process(before) == "dead"


def test_another_boot_of_this_machine_is_proof_of_death() -> None:
    assert is_same_process(own().model_copy(update={"boot_id": "before"})) == "dead"


@pytest.mark.parametrize(
    "elsewhere",
    [{"machine_id": "other", "boot_id": "other"}, {"machine_id": "other"}, {"pid_ns": 1}],
    ids=["machine", "container", "namespace"],
)
def test_a_process_that_cannot_be_seen_from_here_is_unverifiable(
    elsewhere: dict[str, object],
) -> None:
    assert is_same_process(own().model_copy(update=elsewhere)) == "unverifiable"


def test_another_boot_of_a_machine_without_a_name_is_unverifiable() -> None:
    nameless = own().model_copy(update={"machine_id": "", "boot_id": "before"})
    assert is_same_process(nameless) == "unverifiable"


def test_an_identity_survives_the_wire() -> None:
    assert Identity.from_wire(own().to_wire()) == own()


@pytest.mark.process
@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_process_may_call_itself_what_it_likes(name: str) -> None:
    with child(f"open('/proc/self/comm', 'w').write({name!r})") as process:
        identity = identity_of(process.pid)
        assert identity is not None
        assert identity.start_ticks >= own().start_ticks
        assert is_same_process(identity) == "alive"


@pytest.mark.process
def test_a_zombie_is_dead() -> None:
    with child("") as process:
        identity = identity_of(process.pid)
        assert identity is not None
        process.kill()
        wait_for_exit(process.pid)  # it has exited, and nobody has reaped it
        assert Path(f"/proc/{process.pid}").exists()
        assert is_same_process(identity) == "dead"
        assert identity_of(process.pid) is None
    assert is_same_process(identity) == "dead"


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ps") as folder:
        yield Path(folder) / "0123456789abcdef.1"


def test_a_lock_that_is_held_is_not_free_and_can_not_be_taken(path: Path) -> None:
    fd = life_lock.take(path)
    assert life_lock.is_free(path) is False
    with pytest.raises(Conflict):
        life_lock.take(path)
    os.close(fd)
    assert life_lock.is_free(path) is True


def test_a_lock_without_a_file_proves_nothing(path: Path) -> None:
    assert life_lock.is_free(path) is None


def test_looking_at_a_free_lock_does_not_hold_it(path: Path) -> None:
    os.close(life_lock.take(path))
    assert [life_lock.is_free(path) for _ in range(3)] == [True] * 3
    os.close(life_lock.take(path))


def test_a_lock_file_is_private_and_its_descriptor_is_not_inherited(path: Path) -> None:
    fd = life_lock.take(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_a_settled_lock_is_gone_and_may_be_settled_again(path: Path) -> None:
    os.close(life_lock.take(path))
    life_lock.remove(path)
    life_lock.remove(path)
    assert life_lock.is_free(path) is None


@pytest.mark.process
def test_the_lock_is_the_pods_once_the_supervisor_has_closed_its_copy(path: Path) -> None:
    fd = life_lock.take(path)
    with child("", fd) as process:
        os.close(fd)
        assert life_lock.is_free(path) is False
        os.kill(process.pid, signal.SIGKILL)
        eventually(lambda: life_lock.is_free(path), "the lock is free")


@pytest.mark.process
def test_a_stopped_pod_is_alive(path: Path) -> None:
    fd = life_lock.take(path)
    with child("", fd) as process:
        os.close(fd)
        os.kill(process.pid, signal.SIGSTOP)
        assert life_lock.is_free(path) is False


@pytest.mark.process
def test_a_command_that_outlives_its_pod_does_not_hold_the_pods_lock(path: Path) -> None:
    fd = life_lock.take(path)
    starts_a_command = (
        f"import os, subprocess, sys; os.set_inheritable({fd}, False)\n"
        "sleep = subprocess.Popen(['sleep', '60'], close_fds=False, stdout=subprocess.DEVNULL)\n"
        "print(sleep.pid, end='')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", starts_a_command], stdout=subprocess.PIPE, pass_fds=[fd]
    ) as pod:
        os.close(fd)
        command = int(pod.communicate()[0])
    try:
        assert life_lock.is_free(path) is True
    finally:
        os.kill(command, signal.SIGKILL)
