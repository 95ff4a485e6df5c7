"""Which fleet a command means."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol.errors import InvalidRequest, Unreachable
from supervisor import life_lock
from supervisor.choice import choose_fleet, name_in_file, running_fleets
from supervisor.paths import Paths


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    home = tmp_path / "home"
    return Paths(home, home / "run", home / "data", home / "config", home / "scope")


@pytest.fixture
def supervised(paths: Paths) -> Iterator[Callable[[str], int]]:
    """Have a fleet's instance lock held, as its supervisor does; returns the descriptor."""
    held: list[int] = []

    def hold(fleet: str) -> int:
        folder = paths.data / "fleets" / fleet
        folder.mkdir(parents=True, exist_ok=True)
        held.append(life_lock.take(folder / "lock"))
        return held[-1]

    yield hold
    for fd in held:
        os.close(fd)


def write(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "podsup.toml"
    file.write_text(text)
    return file


def test_name_that_is_given_wins_over_the_file_and_what_runs(
    paths: Paths, tmp_path: Path, supervised: Callable[[str], int]
) -> None:
    supervised("running")
    write(tmp_path, '[fleet]\nname = "written"\n')
    assert choose_fleet(paths, "given", tmp_path) == "given"


def test_fleet_of_the_folder_wins_over_what_runs(
    paths: Paths, tmp_path: Path, supervised: Callable[[str], int]
) -> None:
    supervised("running")
    write(tmp_path, '[fleet]\nname = "written"\n')
    assert choose_fleet(paths, None, tmp_path) == "written"


def test_only_fleet_that_runs_is_meant_in_a_folder_without_one(
    paths: Paths, tmp_path: Path, supervised: Callable[[str], int]
) -> None:
    supervised("running")
    ended = paths.data / "fleets" / "ended"
    ended.mkdir()
    os.close(life_lock.take(ended / "lock"))
    assert running_fleets(paths) == ["running"]
    assert choose_fleet(paths, None, tmp_path) == "running"


def test_several_that_run_are_named_and_one_must_be_chosen(
    paths: Paths, tmp_path: Path, supervised: Callable[[str], int]
) -> None:
    supervised("one")
    supervised("another")
    with pytest.raises(InvalidRequest, match=r"another, one$") as refused:
        choose_fleet(paths, None, tmp_path)
    assert refused.value.next_step is not None
    assert "--fleet" in refused.value.next_step


def test_nothing_that_runs_is_an_unreachable_supervisor(paths: Paths, tmp_path: Path) -> None:
    assert running_fleets(paths) == []
    with pytest.raises(Unreachable) as refused:
        choose_fleet(paths, None, tmp_path)
    assert refused.value.details["supervisor"] is True


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('[fleet]\nname = "written"\n', "written"),
        ("", "my-work"),
        ("[fleet]\n", "my-work"),
        ('[fleet]\nworkspace = "sub"\n', "sub"),
        ("fleet = 3\n", "my-work"),
        ('[fleet]\nworkspace = "/"\n', "fleet"),
    ],
)
def test_name_is_the_one_in_the_file_or_that_of_its_workspace(
    tmp_path: Path, text: str, name: str
) -> None:
    assert name_in_file(write(tmp_path / "My Work", text)) == name


def test_file_that_cannot_be_read_names_nothing(tmp_path: Path) -> None:
    assert name_in_file(tmp_path / "podsup.toml") is None
    assert name_in_file(write(tmp_path, "[fleet\n")) is None
    (tmp_path / "podsup.toml").write_bytes(b"\xff")
    assert name_in_file(tmp_path / "podsup.toml") is None
