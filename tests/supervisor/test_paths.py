"""Where everything is, and what may not be a path."""

from __future__ import annotations

import os
import pwd
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from protocol.errors import Internal, InvalidRequest
from supervisor.cli.app import App, cli
from supervisor.paths import Paths, check_socket_length, fleet_id, make_private_dir, pod_id


def resolve(home: str | None = None, environ: Mapping[str, str] | None = None) -> Paths:
    return Paths.resolve(home, environ or {}, uid=1234, passwd_home="/home/u")


def folders(paths: Paths) -> list[str]:
    return [
        str(folder)
        for folder in (paths.home, paths.runtime, paths.data, paths.config, paths.scope_dir)
    ]


STATE = "/home/u/.local/state/podsup"
SCOPE = f"{STATE}/scope"


@pytest.mark.parametrize(
    ("home", "environ", "expected"),
    [
        (
            None,
            {},
            [STATE, "/tmp/podsup-1234", STATE, "/home/u/.config/podsup", SCOPE],
        ),
        (
            None,
            {"XDG_STATE_HOME": "/s", "XDG_CONFIG_HOME": "/c", "XDG_RUNTIME_DIR": "/r"},
            ["/s/podsup", "/tmp/podsup-1234", "/s/podsup", "/c/podsup", SCOPE],
        ),
        (None, {"PODSUP_HOME": "/h"}, ["/h", "/h/run", "/h/data", "/h/config", SCOPE]),
        ("/o", {"PODSUP_HOME": "/h"}, ["/o", "/o/run", "/o/data", "/o/config", SCOPE]),
        ("/o", {"XDG_STATE_HOME": "/s"}, ["/o", "/o/run", "/o/data", "/o/config", SCOPE]),
        ("/o", {"PODSUP_SCOPE_DIR": "/x"}, ["/o", "/o/run", "/o/data", "/o/config", "/x"]),
        ("/o", {"HOME": "/other"}, ["/o", "/o/run", "/o/data", "/o/config", SCOPE]),
    ],
    ids=["nothing", "xdg", "variable", "option", "home-over-xdg", "scope", "scope-by-passwd"],
)
def test_the_first_that_is_set_counts(
    home: str | None, environ: dict[str, str], expected: list[str]
) -> None:
    assert folders(resolve(home, environ)) == expected


@pytest.fixture
def uid() -> Iterator[int]:
    """Yield a number of a user of whom nothing is in /tmp, before and afterwards."""
    number = 1_900_000_000 + os.getpid()
    yield number
    place = Path(f"/tmp/podsup-{number}")
    if place.is_symlink() or place.is_file():
        place.unlink()
    elif place.is_dir():
        place.rmdir()


def without_home(state: Path, uid: int) -> Paths:
    return Paths.resolve(None, {"XDG_STATE_HOME": str(state)}, uid=uid, passwd_home="/home/u")


TAKEN = {
    "folder": lambda place: place.mkdir(),
    "file": lambda place: place.touch(),
    "link": lambda place: place.symlink_to("/nowhere"),
}


@pytest.mark.parametrize("how", TAKEN)
def test_a_name_in_tmp_that_another_took_leaves_the_state_folder(
    folder: Path, uid: int, how: str
) -> None:
    place = Path(f"/tmp/podsup-{uid}")
    assert without_home(folder, uid).runtime == place
    TAKEN[how](place)
    assert without_home(folder, uid).runtime == folder / "podsup/run"
    assert without_home(folder, os.getuid()).runtime == Path(f"/tmp/podsup-{os.getuid()}")


def test_a_fallback_once_made_is_found_when_the_name_is_free_again(folder: Path) -> None:
    own = folder / "podsup/run"
    own.mkdir(parents=True)
    assert without_home(folder, os.getuid()).runtime == own
    assert without_home(folder, os.getuid() + 1).runtime != own, "another user's is not ours"


def test_a_state_folder_too_deep_for_sockets_is_no_fallback(folder: Path, uid: int) -> None:
    place = Path(f"/tmp/podsup-{uid}")
    place.mkdir()
    deep = folder / ("x" * 60)
    assert without_home(deep, uid).runtime == place


def test_every_socket_of_the_fallback_can_be_bound(folder: Path) -> None:
    room = 107 - len("/podsup/run/12345678/1234567890123456.999999.sock")
    state = folder / ("x" * (room - len(str(folder)) - 1))
    (state / "podsup/run").mkdir(parents=True)
    paths = without_home(state, os.getuid())
    assert len(str(paths.pod_socket("f", "p", 999_999))) == 107


def test_an_empty_variable_counts_as_unset_and_a_relative_xdg_one_too() -> None:
    environ = {"PODSUP_HOME": "", "PODSUP_SCOPE_DIR": "", "HOME": "", "XDG_STATE_HOME": "s"}
    assert resolve(None, environ) == resolve()


def test_a_relative_scope_folder_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="PODSUP_SCOPE_DIR"):
        resolve(None, {"PODSUP_SCOPE_DIR": "scope"})


def test_a_user_without_a_home_is_told_what_to_set() -> None:
    with pytest.raises(InvalidRequest) as refused:
        Paths.resolve(None, {}, uid=1, passwd_home="")
    assert "PODSUP_HOME" in (refused.value.next_step or "")
    assert Paths.resolve("/h", {"PODSUP_SCOPE_DIR": "/s"}, uid=1, passwd_home="")


def test_names_in_paths_are_hashes_of_fixed_length() -> None:
    assert len(fleet_id("f")) == 8
    assert len(pod_id("/h", "alice")) == 16
    assert pod_id("/h", "alice") != pod_id("/other", "alice")
    assert pod_id("/h", "alice") != pod_id("/hal", "ice")


def test_files_and_sockets_have_their_places() -> None:
    paths = resolve("/h")
    fleet, pod = fleet_id("f"), pod_id("/h", "a")
    assert [
        str(path)
        for path in (
            paths.control_socket("f"),
            paths.events_socket("f"),
            paths.pod_socket("f", "a", 3),
            paths.journal("f"),
            paths.log("a", 3),
        )
    ] == [
        f"/h/run/{fleet}/c.sock",
        f"/h/run/{fleet}/e.sock",
        f"/h/run/{fleet}/{pod}.3.sock",
        "/h/data/fleets/f/journal.jsonl",
        "/h/data/logs/a/3.log",
    ]


@pytest.mark.parametrize("name", ["..", "a/../b", "/etc/x", "", "A", "a\n"])
def test_what_is_no_name_never_becomes_a_path(name: str) -> None:
    for use in (resolve("/h").journal, lambda bad: resolve("/h").log(bad, 1)):
        with pytest.raises(InvalidRequest, match="not a name"):
            use(name)


def test_the_longest_names_do_not_lengthen_a_socket_path() -> None:
    longest = resolve("/h").pod_socket("f" * 63, "p" * 63, 1)
    assert len(str(longest)) == len(str(resolve("/h").pod_socket("f", "p", 1)))


def test_a_socket_path_over_107_bytes_is_refused_with_both_lengths_and_what_to_do() -> None:
    check_socket_length(Path("/" + "x" * 106))
    with pytest.raises(InvalidRequest, match="108 bytes") as refused:
        check_socket_length(Path("/" + "x" * 107))
    assert refused.value.details == {"size": 108, "limit": 107}
    assert "--home" in (refused.value.next_step or "")
    with pytest.raises(InvalidRequest):
        resolve("/" + "é" * 45).control_socket("f")


def test_the_limit_is_the_systems(folder: Path) -> None:
    room = 107 - len(str(folder)) - 1
    with socket.socket(socket.AF_UNIX) as fits:
        fits.bind(str(check_socket_length(folder / ("x" * room))))
    with socket.socket(socket.AF_UNIX) as too_long, pytest.raises(OSError, match="too long"):
        too_long.bind(str(folder / ("x" * (room + 1))))


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ps") as folder:
        yield Path(folder)


def test_a_home_is_one_home_however_it_is_spelled(folder: Path) -> None:
    (folder / "real").mkdir()
    (folder / "link").symlink_to("real")
    spelled = [str(folder / "real"), str(folder / "link"), f"{folder}/x/../real/"]
    assert len({resolve(home) for home in spelled}) == 1


def test_a_private_folder_is_made_with_what_leads_to_it(folder: Path) -> None:
    path = folder / "a" / "b"
    assert make_private_dir(path) == make_private_dir(path) == path
    assert [stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent)] == [0o700, 0o700]


def test_a_link_is_not_taken_for_a_private_folder(folder: Path) -> None:
    (folder / "real").mkdir(mode=0o700)
    (folder / "link").symlink_to("real")
    with pytest.raises(Internal, match="is a link"):
        make_private_dir(folder / "link")


def test_a_file_is_not_taken_for_a_folder(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(Internal, match="not a folder"):
        make_private_dir(folder / "file")


def test_a_folder_that_others_may_enter_is_refused_with_the_command_that_mends_it(
    folder: Path,
) -> None:
    folder.chmod(0o750)
    with pytest.raises(Internal, match="0750") as refused:
        make_private_dir(folder)
    assert f"chmod 700 {folder}" in (refused.value.next_step or "")


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder away needs root")
def test_a_folder_of_another_user_is_refused(folder: Path) -> None:
    path = make_private_dir(folder / "theirs")
    os.chown(path, 65534, 65534)
    with pytest.raises(Internal, match="belongs to user 65534"):
        make_private_dir(path)


@pytest.mark.process
def test_paths_bring_no_manifest_and_no_locks_into_a_command() -> None:
    code = "import sys, supervisor.paths as p; p.Paths.here('/h'); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"protocol.manifest", "filelock", "asyncio"} & set(loaded)


# -- a user whose home is not there


def without_passwd_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = pwd.struct_passwd(("u", "x", 1, 1, "", str(tmp_path / "nonexistent"), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: entry)
    monkeypatch.delenv("PODSUP_SCOPE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_user_whose_home_is_not_there_is_told_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_passwd_home(monkeypatch, tmp_path)
    with pytest.raises(InvalidRequest, match="no home folder") as refused:
        Paths.here(str(tmp_path))
    assert "PODSUP_SCOPE_DIR" in str(refused.value.next_step)
    monkeypatch.setenv("PODSUP_SCOPE_DIR", str(tmp_path / "scope"))
    assert Paths.here(str(tmp_path)).scope_dir == tmp_path / "scope"


def test_doctor_names_the_home_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_passwd_home(monkeypatch, tmp_path)
    told = CliRunner().invoke(cli, ["doctor"], obj=App())
    assert told.stdout.startswith("problem  folders")
    assert "PODSUP_SCOPE_DIR" in told.stdout


def test_folder_that_another_user_took_first_asks_for_a_shorter_home(tmp_path: Path) -> None:
    taken = tmp_path / "podsup-1"
    taken.symlink_to("/nowhere")
    with pytest.raises(Internal) as refused:
        make_private_dir(taken)
    assert "shorter --home" in str(refused.value.next_step)
