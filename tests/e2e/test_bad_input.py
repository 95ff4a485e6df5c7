"""Wrong files, foreign records, garbage on the socket, rivals for one fleet: told, and survived."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

from protocol import control as c
from protocol.methods import ListRewindTargets
from protocol.wire import MAX_FRAMES, RequestHeader, message, pack
from supervisor.client import Client
from tests.e2e.fleets import (
    DEADLINE_S,
    FLEET,
    callers,
    connect,
    fleet,
    operator_token,
    paths_of,
    pid_of,
    row,
    run_to_end,
    running,
    start,
)
from tests.support.home import Home
from tests.support.waiting import eventually

pytestmark = pytest.mark.process

HEAD = f'[fleet]\nname = "{FLEET}"\n'
WRITES = 'scope = {{ allow = [{{ target = "{}", permission = "write" }}] }}\n'

BAD_FILES = {
    "unknown key": (HEAD + '[[pod]]\nname = "alice"\ntaks = "hi"\n', ["taks", "task", ":5"]),
    "unknown table": (HEAD + "[supervisr]\n", ["supervisr", "supervisor"]),
    "wrong type": (HEAD + '[[pod]]\nname = "alice"\nstop_grace_s = "5"\n', ["stop_grace_s", ":5"]),
    "bad pod name": (HEAD + '[[pod]]\nname = "../alice"\n', ["../alice", ":4"]),
    "bad fleet name": ('[fleet]\nname = "Not A Name"\n', ["Not A Name", ":2"]),
    "no name": (HEAD + "[[pod]]\ntask = 'hi'\n", ["name"]),
    "same name twice": (HEAD + '[[pod]]\nname = "a"\n[[pod]]\nname = "a"\n', ["a", ":6"]),
    "missing script": (
        HEAD + '[[pod]]\nname = "a"\n[pod.model]\nscheme = "scripted"\nscript = "no.toml"\n',
        ["no.toml", ":7"],
    ),
    "missing profile": (HEAD + '[[pod]]\nname = "a"\nprofile = "no.toml"\n', ["no.toml", ":5"]),
    "scope that escapes": (HEAD + '[[pod]]\nname = "a"\n' + WRITES.format("../x"), ["../x", ":5"]),
    "scopes that overlap": (
        HEAD
        + "".join(
            f'[[pod]]\nname = "{n}"\n' + WRITES.format(t) for n, t in (("a", "s"), ("b", "s/t"))
        ),
        ["a", "b"],
    ),
    "cycle": (
        HEAD
        + "".join(
            f'[[pod]]\nname = "{n}"\ndepends_on = [{{ pod = "{o}", until = "ready" }}]\n'
            for n, o in (("a", "b"), ("b", "a"))
        ),
        ["a", "b", "depends_on"],
    ),
    "no TOML": ("[fleet\n", [":1"]),
    "not UTF-8": ("\udcff\udcfe", []),
    "not in this version": (HEAD + '[[pod]]\nname = "a"\nbudget = { usd = 2.0 }\n', ["budget"]),
}


@pytest.fixture(scope="module")
def empty_home() -> Iterator[Home]:
    """A home in which nothing is ever started."""
    home = Home()
    yield home
    home.remove()


@pytest.mark.parametrize("what", BAD_FILES)
def test_bad_fleet_file_is_refused_with_its_place_and_starts_nothing(
    empty_home: Home, what: str
) -> None:
    home = empty_home
    text, named = BAD_FILES[what]
    (home.work / "podsup.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    said = home.podsup("start", "-d", "--wait", "idle", ok=5).stderr
    assert "podsup.toml" in said
    for word in named:
        assert word in said, f"{word!r} is not in: {said}"
    assert home.processes() == {}
    assert not (home.home / "run").exists() or home.sockets() == []


def test_fleet_file_that_is_not_there_is_told_and_starts_nothing(empty_home: Home) -> None:
    said = empty_home.podsup("start", "nowhere.toml", "-d", ok={2, 5}).stderr
    assert "nowhere.toml" in said
    assert empty_home.processes() == {}


def test_check_finds_all_mistakes_at_once_with_line_key_and_nearest_name(empty_home: Home) -> None:
    empty_home.write("podsup.toml", HEAD + '[[pod]]\nname = "a"\ntaks = "x"\n[[pod]]\nnam = "b"\n')
    mistakes = empty_home.json("check", ok=5)["error"]["details"]["mistakes"]
    found = {(one["line"], one["key"].rpartition(".")[2]): one["suggestion"] for one in mistakes}
    assert (found[5, "taks"], found[7, "nam"]) == ("task", "name")
    empty_home.write("podsup.toml", HEAD + '[[pod]]\nname = "a"\n')
    assert empty_home.json("check")["pods"] == ["a"]


def test_records_of_another_workspace_are_refused_and_fresh_begins_anew(home: Home) -> None:
    start(home, fleet('"alice"'))
    assert run_to_end(home, "alice", "first life").result == "finished"
    home.podsup("down")
    elsewhere = home.write("elsewhere/podsup.toml", fleet('"alice"'))

    error = home.json("start", str(elsewhere), "-d", "--wait", "idle", ok=6)["error"]
    assert error["code"] == "conflict"
    said = home.podsup("start", str(elsewhere), "-d", "--wait", "idle", ok=6).stderr
    for text in (error["message"] + str(error["next"]), said):
        assert str(home.work) in text
        assert str(elsewhere.parent) in text
        assert "--fresh" in text
    assert home.processes() == {}

    home.podsup("start", str(elsewhere), "-d", "--wait", "idle", "--fresh")
    with connect(home) as client:
        assert client.send("alice", ListRewindTargets()).targets == ()
        assert row(client, "alice").turn == 0
    sessions = [path for path in (home.home / "data").rglob("*.jsonl") if "sessions" in path.parts]
    assert any("first life" in path.read_text() for path in sessions), "nothing is deleted"


# -- the control socket --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fleet_home(shared_home: Home) -> Home:
    """One pod that works, whatever is thrown at its supervisor."""
    start(shared_home, fleet('"alice"'))
    return shared_home


@pytest.fixture
def client(fleet_home: Home) -> Iterator[Client]:
    """A well-behaved operator."""
    with connect(fleet_home) as client:
        yield client


def garbage(token: str) -> list[list[bytes]]:
    """Return messages that are none."""
    header = RequestHeader(id="x", to="alice", method="run", token=token).to_wire()
    return [
        [b""],
        [b"", b"", b""],
        [b"\xff\xfe\xfd"],
        [b"GET / HTTP/1.1\r\n\r\n"],
        [os.urandom(4096), os.urandom(64)],
        [pack([1, 2, 3])],
        [pack("header")],
        [pack({})],
        [pack({"v": "one"})],
        [pack({"v": 1})],
        [pack({"v": 1, "type": "nonsense"})],
        [pack({"v": 1, "type": "request"})],
        [pack({**header, "id": ""}), b""],
        [pack({**header, "id": 7}), b""],
        [pack({**header, "deadline_ms": -1}), b""],
        [pack({**header, "method": "x" * 1000}), b""],
        [b"\x92" * 20_000, b""],
        [msgpack.packb({"v": 1, b"\xff": 1}), b""],
        [pack({"v": 1, "type": "beat", "pod": "alice"})],
        [*message(RequestHeader(id="y", token=token, method="ping"))] * MAX_FRAMES,
    ]


def log_of(home: Home) -> str:
    """Return what the supervisor printed."""
    return (paths_of(home).data / "fleets" / FLEET / "supervisor.log").read_text()


def test_garbage_frames_are_counted_and_stop_nobody(fleet_home: Home, client: Client) -> None:
    pids = (client.control(c.Ping()).pid, pid_of(client, "alice"))
    with callers(fleet_home) as (caller,):
        for frames in garbage(operator_token(fleet_home)):
            caller.send_frames(frames)
        caller.fence("alice")
        assert all(one.code in ("ok", "invalid_request") for one in caller.answers)
    eventually(lambda: "garbage" in log_of(fleet_home), "the log counts it", DEADLINE_S)
    assert (client.control(c.Ping()).pid, pid_of(client, "alice")) == pids
    assert run_to_end(fleet_home, "alice", "still well?").result == "finished"


def test_garbage_in_a_known_request_is_answered_as_invalid(
    fleet_home: Home, client: Client
) -> None:
    token = operator_token(fleet_home)
    with callers(fleet_home) as (caller,):
        for number, body in enumerate(
            [b"\xff", pack([1]), pack({"input": 7}), pack({"input": []})]
        ):
            header = RequestHeader(id=f"bad-{number}", to="alice", method="run", token=token)
            caller.send_frames([pack(header), body])
        assert {one.code for one in caller.wait(*(f"bad-{n}" for n in range(4)))} == {
            "invalid_request"
        }
        for to in ("", "alice"):
            assert caller.call(to, "no_such_method").code == "invalid_request"
        other = {**RequestHeader(id="v9", method="ping", token=token).to_wire(), "v": 9}
        caller.send_frames([pack(other), b""])
        (answer,) = caller.wait("v9")
        assert answer.code == "unsupported_version"
        assert answer.body["details"] == {"theirs": 9, "ours": 1}


def test_bytes_that_are_no_zeromq_do_not_disturb_the_supervisor(
    fleet_home: Home, client: Client
) -> None:
    path = str(paths_of(fleet_home).control_socket(FLEET))
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + b"\x00" + bytes(31)
    thrown = [
        b"",
        b"\x00",
        b"GET / HTTP/1.0\r\n\r\n",
        os.urandom(4096),
        greeting,
        greeting + b"\x06" + struct.pack(">Q", 1 << 60),
        greeting + os.urandom(512),
    ]
    for data in thrown:
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(path)
            raw.sendall(data)
            assert client.control(c.Ping()).fleet == FLEET
    assert run_to_end(fleet_home, "alice", "still well?").result == "finished"


# -- rivals --------------------------------------------------------------------------------------


def test_second_supervisor_is_refused_with_the_pid_of_the_first(
    fleet_home: Home, client: Client
) -> None:
    pid = client.control(c.Ping()).pid
    error = fleet_home.json("start", "-d", ok=6)["error"]
    assert error["details"]["pid"] == pid
    assert str(pid) in fleet_home.podsup("start", "-d", "--wait", "idle", ok=6).stderr
    assert client.control(c.Ping()).pid == pid
    assert run_to_end(fleet_home, "alice", "still well?").result == "finished"


def test_of_several_starts_at_once_exactly_one_wins(home: Home) -> None:
    home.write("podsup.toml", fleet('"alice"'))
    rivals = [
        subprocess.Popen(
            [*home.command, "start", "-d", "--wait", "idle"],
            cwd=home.work,
            env=home.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    said = [rival.communicate(timeout=60) for rival in rivals]
    assert sorted(rival.returncode for rival in rivals) == [0, 6, 6], said
    daemons = [*running(home, "supervisor.daemon")]
    assert len(daemons) == 1
    with connect(home) as client:
        assert client.control(c.Ping()).pid == daemons[0]
        assert row(client, "alice").status == "idle"


def test_stale_socket_files_are_no_obstacle(home: Home) -> None:
    home.write("podsup.toml", fleet('"alice"'))
    paths = paths_of(home)
    folder = paths.fleet_runtime(FLEET)
    folder.mkdir(mode=0o700, parents=True)
    folder.parent.chmod(0o700)
    for path in (paths.control_socket(FLEET), paths.events_socket(FLEET), folder / "old.1.sock"):
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
    assert home.podsup("ps", ok=4).stdout == ""
    home.podsup("start", "-d", "--wait", "idle")
    assert run_to_end(home, "alice", "hello").result == "finished"
    assert not (folder / "old.1.sock").exists()


def test_home_too_long_for_a_socket_is_told_with_both_lengths(empty_home: Home) -> None:
    empty_home.write("podsup.toml", fleet('"alice"'))
    long = empty_home.root / ("x" * 100)
    said = empty_home.podsup("--home", str(long), "start", "-d", ok=2).stderr
    assert "107" in said
    assert "--home" in said
    assert empty_home.processes() == {}
    assert not Path(long, "run").exists()
