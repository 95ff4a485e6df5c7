"""What stands in the way on a real machine: strange files, cleaners, two commands at once."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from supervisor import life_lock
from tests.support.home import Home
from tests.support.waiting import eventually

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

FLEET = """
[fleet]
name = "s"
[[pod]]
name = "a"
scope = { allow = [{ target = "out", permission = "write" }] }
"""


def start(home: Home, text: str = FLEET) -> None:
    home.write("podsup.toml", text)
    home.podsup("start", "-d", "--wait", "idle")


def row(home: Home, pod: str = "a") -> dict[str, object]:
    return next(p for p in home.json("ps")["pods"] if p["name"] == pod)


def pid_of(home: Home, pod: str = "a") -> int:
    pid = row(home, pod)["pid"]
    assert isinstance(pid, int)
    return pid


def test_death_is_seen_though_a_strange_file_lies_among_the_logs(home: Home) -> None:
    start(home)
    (home.home / "data/logs/a/notes.log").write_text("mine")
    os.kill(pid_of(home), signal.SIGKILL)
    eventually(lambda: row(home)["incarnation"] == 2 and row(home)["status"] == "idle", "restarted")


def test_down_ends_the_supervisor_though_a_strange_file_lies_in_the_run_folder(home: Home) -> None:
    start(home)
    (folder,) = (home.home / "run").iterdir()
    (folder / "mine").write_text("x")
    home.podsup("down")
    assert life_lock.is_free(home.home / "data/fleets/s/lock") is True
    assert (folder / "mine").exists(), "a stranger's file is left alone"
    assert not home.processes()


def test_fresh_start_does_not_touch_the_record_of_a_pod_that_lives_in_another_fleet(
    home: Home,
) -> None:
    start(home)
    home.podsup("run", "a", "hello", "--wait")
    record = home.home / "data/pods/a/metadata.json"
    before = record.read_bytes()
    home.write("other.toml", FLEET.replace('"s"', '"other"').replace('"out"', '"elsewhere"'))
    refused = home.podsup("start", "other.toml", "-d", "--fresh", ok=6)
    assert "'a'" in refused.stderr
    assert record.read_bytes() == before
    home.podsup("--fleet", "s", "restart", "a")
    assert "hello" in home.podsup("--fleet", "s", "attach", "a", "--once").stdout


def test_pod_that_was_deleted_and_spawned_again_goes_on_counting_its_incarnations(
    home: Home,
) -> None:
    start(home)
    home.podsup("spawn", "b", "--wait")
    home.podsup("restart", "b")
    home.podsup("stop", "b")
    home.podsup("delete", "b")
    home.podsup("spawn", "b", "--wait")
    assert row(home, "b")["incarnation"] == 3


def test_token_file_that_a_cleaner_removed_is_told_clearly_and_comes_back(home: Home) -> None:
    start(home)
    (token,) = (home.home / "run").glob("*/token")
    token.unlink()
    home.podsup("ps", ok=(0, 1))
    eventually(lambda: home.podsup("ps", ok=None).returncode == 0, "the token is back")
    assert token.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("grace", ["inf", "nan", "-3", "1e300"])
def test_grace_that_is_no_time_is_a_usage_error(home: Home, grace: str) -> None:
    home.podsup("stop", "a", f"--grace={grace}", ok=2)
    home.podsup("down", f"--grace={grace}", ok=2)


def test_down_while_the_fleet_starts_returns_when_nothing_of_it_is_left(home: Home) -> None:
    home.write("podsup.toml", FLEET)
    lock = home.home / "data/fleets/s/lock"
    starting = subprocess.Popen(
        [*home.command, "start", "-d"],
        cwd=home.work,
        env=home.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    eventually(lambda: life_lock.is_free(lock) is False, "the supervisor has its lock")
    home.podsup("down")
    assert life_lock.is_free(lock) is not False
    starting.wait(20)
    assert not home.processes()


def test_many_pods_start_at_once(home: Home) -> None:
    pods = "".join(f'[[pod]]\nname = "p{n}"\n' for n in range(320))
    home.write("podsup.toml", '[fleet]\nname = "many"\n' + pods)
    began = time.monotonic()
    home.podsup("start", "-d", "--wait", "ready", "--timeout", "60", timeout=80)
    assert len(home.json("ps")["pods"]) == 320
    home.podsup("down", timeout=60)
    assert time.monotonic() - began < 80


def test_pod_whose_working_directory_is_gone_fails_with_its_cause_and_is_not_retried(
    home: Home,
) -> None:
    (home.work / "place").mkdir()
    start(home, FLEET + 'cwd = "place"\n')
    home.podsup("stop", "a")
    (home.work / "place").rmdir()
    refused = home.podsup("restart", "a", ok=1)
    assert "working directory" in refused.stderr
    told = row(home)
    assert (told["status"], told["restarts"]) == ("failed", 0)
    story = home.podsup("why", "a").stdout
    assert "place" in story
    assert "Traceback" not in story
