"""Ending what a dead supervisor has left: by proven identity or by the life lock, or not at all."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from protocol.errors import Conflict, WrongToken
from protocol.scope import Permission, Scope, ScopeRule
from supervisor import life_lock
from supervisor.core.fleet_record import Exited, Intent, PodRecord
from supervisor.identity import identity_of, is_same_process
from supervisor.recovery import end_recorded, holders_of, release_claims, remove_sockets
from supervisor.scope_table import Claim, ScopeTable
from tests.support.waiting import eventually, wait_for_exit

pytestmark = pytest.mark.process

SLEEP = "exec sleep 87"
DEAF = "trap '' TERM; echo up; " + SLEEP
GRACE_S = 0.3


@dataclass
class Left:
    """Processes that hold life locks, as a dead supervisor leaves them."""

    folder: Path
    children: list[subprocess.Popen[str]] = field(default_factory=list)

    def lock(self, pod: str) -> Path:
        return self.folder / f"{pod}.lock"

    def start(self, pod: str, script: str = "echo up; " + SLEEP) -> subprocess.Popen[str]:
        """Start a shell that holds the pod's lock; returns when it has printed a line."""
        fd = life_lock.take(self.lock(pod))
        try:
            return self.run(script, fd)
        finally:
            os.close(fd)

    def run(self, script: str, fd: int) -> subprocess.Popen[str]:
        """Start a shell that has the descriptor; returns when it has printed a line."""
        child = subprocess.Popen(
            ["sh", "-c", script], stdout=subprocess.PIPE, text=True, pass_fds=[fd]
        )
        self.children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline()
        return child

    def record(self, pod: str, process: subprocess.Popen[str] | None = None) -> PodRecord:
        """Return what the journal says of a pod; without a process: its fork was intended only."""
        intent = Intent(
            pod=pod, pod_id=pod, incarnation=3, token="t", life_lock=str(self.lock(pod))
        )
        identity = identity_of(process.pid) if process else None
        return PodRecord(pod, intent=intent, identity=identity)

    def close(self) -> None:
        for child in self.children:
            child.kill()
            child.communicate()


@pytest.fixture
def left() -> Iterator[Left]:
    with tempfile.TemporaryDirectory(prefix="ps") as folder:
        left = Left(Path(folder))
        try:
            yield left
        finally:
            left.close()


def ended_by(child: subprocess.Popen[str]) -> str:
    """Return the name of the signal that ended a child."""
    return signal.Signals(-child.wait(5)).name


def end(*records: PodRecord) -> list[Exited]:
    return end_recorded(records, grace_s=GRACE_S, last_wait_s=5.0)


def test_recorded_pods_are_ended_with_a_term_and_written_down(left: Left) -> None:
    alice, bob = left.start("alice"), left.start("bob")
    exited = end(left.record("alice", alice), left.record("bob", bob))
    assert [(one.pod, one.incarnation) for one in exited] == [("alice", 3), ("bob", 3)]
    assert (ended_by(alice), ended_by(bob)) == ("SIGTERM", "SIGTERM")


def test_pod_that_does_not_heed_a_term_is_killed_after_the_grace(left: Left) -> None:
    deaf = left.start("alice", DEAF)
    assert len(end(left.record("alice", deaf))) == 1
    assert ended_by(deaf) == "SIGKILL"


def test_stopped_pod_is_woken_to_see_its_term(left: Left) -> None:
    alice = left.start("alice")
    alice.send_signal(signal.SIGSTOP)
    end_recorded([left.record("alice", alice)], grace_s=5.0)
    assert ended_by(alice) == "SIGTERM"


def test_stranger_that_has_a_recorded_pid_is_never_signalled(left: Left) -> None:
    stranger = left.start("stranger")
    identity = identity_of(stranger.pid)
    assert identity is not None
    earlier = identity.model_copy(update={"start_ticks": identity.start_ticks - 1})
    os.close(life_lock.take(left.lock("alice")))
    record = PodRecord("alice", intent=left.record("alice").intent, identity=earlier)

    assert [one.pod for one in end(record)] == ["alice"]
    assert is_same_process(identity) == "alive"


def test_stranger_that_only_has_the_lock_file_open_is_never_signalled(left: Left) -> None:
    fd = os.open(left.lock("alice"), os.O_RDONLY | os.O_CREAT)
    stranger = left.run("echo up; " + SLEEP, fd)
    os.close(fd)
    alice = left.start("alice")
    assert holders_of(left.lock("alice")) == [alice.pid]

    assert len(end(left.record("alice"))) == 1
    assert ended_by(alice) == "SIGTERM"
    assert stranger.poll() is None


def test_intent_without_a_fork_needs_nothing_but_to_be_written_down(left: Left) -> None:
    os.close(life_lock.take(left.lock("bob")))
    exited = end(left.record("alice"), left.record("bob"))
    assert [one.pod for one in exited] == ["alice", "bob"]


def test_process_that_was_forked_and_never_recorded_is_found_by_its_lock(left: Left) -> None:
    alice = left.start("alice", DEAF)
    assert [one.pod for one in end(left.record("alice"))] == ["alice"]
    assert ended_by(alice) == "SIGKILL"


def test_what_outlived_its_pod_and_keeps_the_lock_is_killed(left: Left) -> None:
    alice = left.start("alice", "(trap '' TERM; exec sleep 87) & echo $!; " + SLEEP)
    (job,) = (pid for pid in _holders(left, "alice", 2) if pid != alice.pid)
    try:
        assert len(end(left.record("alice", alice))) == 1
        wait_for_exit(job)
        assert ended_by(alice) == "SIGTERM"
    finally:
        if identity_of(job) is not None:
            os.kill(job, signal.SIGKILL)


def _holders(left: Left, pod: str, count: int) -> list[int]:
    def probe() -> list[int] | None:
        pids = holders_of(left.lock(pod))
        asleep = all(Path(f"/proc/{pid}/comm").read_text() == "sleep\n" for pid in pids)
        return pids if asleep and len(pids) == count else None

    found = eventually(probe, f"{count} processes hold the lock of {pod}")
    assert found is not None
    return found


def test_pod_that_is_written_down_as_ended_is_not_looked_at(left: Left) -> None:
    alice = left.start("alice")
    record = left.record("alice", alice)
    last = Exited(pod="alice", incarnation=3, cause="exit code 0", code=0, at=0)
    done = PodRecord("alice", intent=record.intent, identity=record.identity, last_exit=last)
    assert end(done, PodRecord("bob")) == []
    assert alice.poll() is None


def test_earlier_end_does_not_hide_a_later_incarnation(left: Left) -> None:
    alice = left.start("alice")
    record = left.record("alice", alice)
    last = Exited(pod="alice", incarnation=2, cause="exit code 0", code=0, at=0)
    later = PodRecord("alice", intent=record.intent, identity=record.identity, last_exit=last)
    assert len(end(later)) == 1
    assert ended_by(alice) == "SIGTERM"


def test_pods_that_cannot_be_proven_gone_are_named_and_the_others_are_ended(left: Left) -> None:
    alice = left.start("alice")
    held = [life_lock.take(left.lock(pod)) for pod in ("bob", "carol")]
    records = [left.record("alice", alice), left.record("bob"), left.record("carol")]
    try:
        with pytest.raises(Conflict, match=r"gone: bob, carol$"):
            end_recorded(records, grace_s=0.05, last_wait_s=0.05)
    finally:
        for fd in held:
            os.close(fd)
    assert ended_by(alice) == "SIGTERM"


def test_claims_of_the_dead_are_released_and_those_of_others_are_not(left: Left) -> None:
    table = ScopeTable(left.folder / "scope", "/h", "s", clock=lambda: 1)
    records, held = [], []
    for pod, token in (("alice", "t"), ("bob", "another")):
        held.append(life_lock.take(table.life_lock(pod, 3)))
        rule = ScopeRule(target=f"/w/{pod}", permission=Permission.WRITE)
        scope = Scope(allow=(rule,))
        table.register(
            Claim(
                pod=pod,
                incarnation=3,
                token=token,
                scope=scope,
                session_id=None,
                segment_id=None,
            )
        )
        records.append(left.record(pod))
    os.close(held[0])
    try:
        (refused,) = release_claims(table, [*records, PodRecord("carol")])
        assert isinstance(refused, WrongToken)
        assert [row.pod for row in table.list()] == ["bob"]
    finally:
        os.close(held[1])


def test_sockets_are_removed_and_other_files_are_not(left: Left) -> None:
    (left.folder / "token").write_text("secret")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(left.folder / "c.sock"))
    remove_sockets(left.folder)
    assert [path.name for path in left.folder.iterdir()] == ["token"]
    remove_sockets(left.folder / "missing")
