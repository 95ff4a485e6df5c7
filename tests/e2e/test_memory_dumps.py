"""What a fleet's processes let out of their memory: no core file, and not to their own user."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from podproc.tools.keeper import tree
from tests.e2e.fleets import answers, bash, fleet, start
from tests.support.home import Home
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

ALICE = 'task = "go"\n' + answers(bash("^go$", "sleep 4245 >/dev/null 2>&1 &"))


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    """A fleet whose pod has a keeper and a command that runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    home = Home()
    try:
        start(home, fleet(f'"alice"\n{ALICE}'))
        eventually(lambda: any("sleep 4245" in line for line in lines(home)), "alice's job runs")
        yield home
        home.down()
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
        home.remove()


def everybody(home: Home) -> list[int]:
    """Return the pids of the supervisor and of all that lives below it."""
    (lock,) = home.home.glob("data/fleets/*/lock")
    return tree([int(lock.read_text())])


def lines(home: Home) -> list[str]:
    return [read(pid, "cmdline").replace("\0", " ") for pid in everybody(home)]


def read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except FileNotFoundError:
        return ""


def test_no_process_of_a_fleet_can_leave_a_core_file(home: Home) -> None:
    pids = everybody(home)
    assert len(pids) >= 6, "supervisor, fork server, pod, keeper twice, command"
    for pid in pids:
        assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0), read(pid, "cmdline")
        assert int(read(pid, "coredump_filter") or "0", 16) == 0, read(pid, "cmdline")


def test_supervisor_and_fork_server_are_closed_and_pods_are_open(home: Home) -> None:
    supervisor, zygote, pod, *_ = everybody(home)
    owners = [os.stat(f"/proc/{pid}/environ").st_uid for pid in (supervisor, zygote, pod)]
    assert "podproc.zygote" in read(zygote, "cmdline")
    assert "alice" in read(pod, "cmdline")
    assert owners[2] == os.geteuid()
    if os.geteuid() != 0:
        assert owners[:2] == [0, 0]
