"""The ground: settings parse, scripts can be run, the tests' own tools find what they must."""

from __future__ import annotations

import configparser
import os
import socket
import subprocess
import sys
import threading
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import protocol
from tests.support.home import Home
from tests.support.leaks import Held, assert_nothing_leaked
from tests.support.leftovers import kill_all
from tests.support.waiting import eventually, wait_for_exit

PROJECT = Path(__file__).parents[1]
PACKAGES = ["protocol", "podproc", "supervisor"]
SCRIPTS = [path for path in sorted((PROJECT / "scripts").iterdir()) if path.suffix == ""]


def test_settings_parse_and_name_the_three_packages() -> None:
    setup = configparser.ConfigParser()
    setup.read(PROJECT / "setup.cfg")
    assert setup["options.packages.find"]["include"].split() == [f"{name}*" for name in PACKAGES]
    assert setup["importlinter"]["root_packages"].split() == PACKAGES
    tools = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]
    assert tools["mypy"]["files"] == [*PACKAGES, "tests"]


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_typed_and_says_what_it_owns(package: str) -> None:
    assert (PROJECT / package / "py.typed").exists()
    assert (PROJECT / package / "README.md").read_text().startswith(f"# {package}\n")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_a_strict_bash_program(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\n# ")
    subprocess.run(["bash", "-n", script], check=True)
    assert "\nset -euo pipefail\n" in script.read_text()
    if script.name != "install":
        assert "\n./scripts/install\n" in script.read_text()


def test_installed_command_is_the_command_line_of_the_supervisor() -> None:
    for script in entry_points(group="console_scripts", name="podsup"):
        assert script.value == "supervisor.cli:main"


def test_tests_are_told_apart_from_the_packages_they_mirror() -> None:
    assert Path(sys.modules["tests"].__file__ or "") == PROJECT / "tests/__init__.py"
    assert Path(protocol.__file__ or "") == PROJECT / "protocol/__init__.py"


def test_home_lets_nothing_of_the_testers_machine_in(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PODSUP_FLEET", "XDG_STATE_HOME", "ANTHROPIC_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.setenv(name, "foreign")
    other = Home()
    assert "foreign" not in other.env.values()
    assert other.home.stat().st_mode & 0o777 == 0o700
    assert other.root != home.root
    other.remove()


@pytest.mark.parametrize("how", ["folder", "environment", "argument", "file"])
def test_home_finds_a_process_by_any_single_trace_of_it(home: Home, how: str) -> None:
    trace = home.write("trace", "")
    with trace.open() as file:
        process = subprocess.Popen(
            ["sh", "-c", "read _", *([str(trace)] if how == "argument" else [])],
            cwd=home.work if how == "folder" else "/",
            env={"HOME": str(home.home)} if how == "environment" else {},
            stdin=subprocess.PIPE,
            stdout=file if how == "file" else subprocess.DEVNULL,
        )
    with process:
        eventually(lambda: list(home.processes()) == [process.pid], f"found by its {how}")
        kill_all(home.root)
        wait_for_exit(process.pid)
        assert home.processes() == {}, "a zombie is not alive"


def test_home_that_is_left_with_a_process_and_a_socket_ends_both_and_fails() -> None:
    home = Home()
    with (
        socket.socket(socket.AF_UNIX) as listener,
        subprocess.Popen(["cat"], cwd=home.work, stdin=subprocess.PIPE) as process,
    ):
        listener.bind(str(home.home / "s"))
        assert home.sockets() == [home.home / "s"]
        with pytest.raises(AssertionError, match="processes were left"):
            home.remove()
        wait_for_exit(process.pid)
    assert not home.root.exists()


def test_leak_gate_names_the_thread_the_descriptor_and_the_process() -> None:
    before = Held.now()
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="forgotten")
    thread.start()
    read, write = os.pipe()
    with subprocess.Popen(["cat"], stdin=read) as process:
        with pytest.raises(AssertionError) as failure:
            assert_nothing_leaked(before, timeout=0)
        for named in ("thread forgotten", f"descriptor {write} -> pipe", f"process {process.pid}"):
            assert named in str(failure.value)
        os.close(read)
        os.close(write)
    release.set()
    thread.join()
    assert_nothing_leaked(before)


def test_waiting_in_vain_names_the_condition_and_the_last_error() -> None:
    with pytest.raises(AssertionError, match=r"the file appears .*FileNotFoundError"):
        eventually(lambda: Path("/nowhere").read_text(), "the file appears", timeout=0)
    with pytest.raises(AssertionError, match="did not exit"):
        wait_for_exit(os.getpid(), timeout=0)
