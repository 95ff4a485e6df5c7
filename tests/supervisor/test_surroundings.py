"""Which folders of PATH a pod has, given what the pods of all fleets of the user may write."""

from __future__ import annotations

from pathlib import Path

from protocol.scope import Permission, ScopeRule
from protocol.surroundings import look_around
from supervisor.core.rows import Allocation
from supervisor.surroundings import FleetSurroundings
from tests.supervisor.fleets import manifest


def row(name: str, target: Path, home: str = "/h") -> Allocation:
    rule = ScopeRule(target=str(target), permission=Permission.WRITE)
    return Allocation(
        home=home,
        pod=name,
        pod_id="0" * 16,
        incarnation=1,
        token="t",
        supervisor="s",
        scope_allow=(rule,),
        since_ms=0,
    )


def test_pod_of_another_fleet_takes_a_folder_of_path(tmp_path: Path) -> None:
    folder = tmp_path / "venv/bin"
    folder.mkdir(parents=True)
    found = look_around({"HOME": str(tmp_path / "home"), "PATH": f"{folder}:/usr/bin"}, [])
    around, pods = FleetSurroundings(found), [manifest("alice")]
    for others, path in (
        ([], f"{folder}:/usr/bin"),
        ([row("bob", tmp_path / "venv")], "/usr/bin"),
        ([row("alice", tmp_path / "venv", home="/other")], "/usr/bin"),
        ([row("bob", tmp_path / "elsewhere")], f"{folder}:/usr/bin"),
        ([], f"{folder}:/usr/bin"),
    ):
        has = around.of(pods[0], around.changers(pods, others))
        assert has.path == has.programs == path
        assert (str(folder) in has.readable) is (path != "/usr/bin")
