"""What is on disk before a fork: one start that cannot be written is that start's affair alone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import Internal
from protocol.manifest import RunBounds, SupervisorTable
from protocol.scope import Permission, Scope, ScopeRule
from protocol.surroundings import look_around
from supervisor import life_lock
from supervisor.boot import Boot
from supervisor.core.fleet_record import SettingsFixed
from supervisor.core.operator_settings import OperatorSettings, ReadFile
from supervisor.journal import Journal
from supervisor.paths import Paths
from supervisor.pod_store import PodMetadata, PodStore
from supervisor.scope_table import Claim, ScopeTable
from supervisor.starting import Prepared, Starter, Wanted, files_of_others
from supervisor.surroundings import FleetSurroundings
from supervisor.takeover import known_pods
from tests.supervisor.fleets import manifest


def descriptors() -> set[str]:
    """Return where the descriptors of this process point, files alone."""
    links = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.add(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            continue
    return {link for link in links if link.startswith("/tmp")}


@pytest.fixture
def short() -> Iterator[Path]:
    """Yield a folder whose sockets have room."""
    with tempfile.TemporaryDirectory(prefix="ps", dir="/tmp") as folder:
        yield Path(folder)


def paths_in(folder: Path) -> Paths:
    paths = Paths.resolve(
        str(folder / "h"),
        {"PODSUP_SCOPE_DIR": str(folder / "scope")},
        uid=os.getuid(),
        passwd_home="/",
    )
    (folder / "h").mkdir(mode=0o700)
    paths.data.mkdir(mode=0o700)
    (paths.data / "fleets").mkdir(mode=0o700)
    return paths


def test_start_is_told_of_a_path_without_folders_of_other_fleets(short: Path) -> None:
    (folder := short / "venv/bin").mkdir(parents=True)
    paths = paths_in(short)
    found = look_around({"HOME": str(short), "PATH": f"{folder}:/usr/bin"}, [])
    table = ScopeTable(paths.scope_dir, str(paths.home), "f:1")
    journal, pods = Journal(paths.journal("f")), [manifest("alice")]
    starter = Starter(
        paths, journal, table, PodStore(paths.data), surroundings=FleetSurroundings(found)
    )
    told = []
    other = ScopeTable(paths.scope_dir, "/other", "g:1")
    lock = life_lock.take(other.life_lock("bob", 1))
    for incarnation in (1, 2):
        (one,) = starter.prepare([Wanted(pods[0], incarnation)], pods)
        assert isinstance(one, Prepared)
        told.append(one.birth.surroundings.path)
        one.close()
        rule = ScopeRule(target=str(short / "venv"), permission=Permission.WRITE)
        if incarnation == 1:
            other.register(Claim("bob", 1, "t", Scope(allow=(rule,))))
    os.close(lock)
    journal.close()
    assert told == [f"{folder}:/usr/bin", "/usr/bin"]


def test_files_of_other_fleets_are_protected_where_a_pod_may_write_them(short: Path) -> None:
    paths = paths_in(short)
    table = ScopeTable(paths.scope_dir, str(paths.home), "f:1")
    journal = Journal(paths.journal("f"))
    other = Journal(paths.journal("other"))
    files = tuple(ReadFile(path=path, kind="x", sha256="") for path in ("/mono/a", "/far/b"))
    other.append(SettingsFixed(settings=OperatorSettings(files=files)))
    other.close()
    allowed = Scope(allow=(ScopeRule(target="/mono", permission=Permission.WRITE),))
    wide = manifest("wide").model_copy(update={"scope": allowed})
    starter = Starter(
        paths, journal, table, PodStore(paths.data), others=files_of_others(paths, "f")
    )
    for one, found in zip(
        starter.prepare([Wanted(wide, 1), Wanted(manifest("less"), 1)]),
        (("/mono/a",), ()),
        strict=True,
    ):
        assert isinstance(one, Prepared)
        assert one.birth.protected == found
        one.close()
    journal.close()


def test_lowered_bounds_hold_for_spawned_pods_too(short: Path) -> None:
    paths = paths_in(short)
    journal = Journal(paths.journal("f"))
    table = ScopeTable(paths.scope_dir, str(paths.home), "f:1")
    store = PodStore(paths.data)
    (one,) = Starter(paths, journal, table, store).prepare(
        [Wanted(manifest("kid"), 1, spawned=True)]
    )
    assert isinstance(one, Prepared)
    one.close()
    few = RunBounds(per_minute=2, per_hour=3)
    boot = Boot(
        fleet=manifest("kid").fleet,
        file="/f",
        workspace=manifest("kid").workspace,
        operation="up",
        supervisor=SupervisorTable(max_notification_runs=few),
    )
    (known,) = known_pods(boot, store, journal.record)
    journal.close()
    assert known.manifest.max_notification_runs == few


def test_a_start_that_cannot_be_written_fails_alone_and_holds_nothing(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = paths_in(short)
    store = PodStore(paths.data)
    table = ScopeTable(paths.scope_dir, str(paths.home), "f:1")
    journal = Journal(paths.journal("f"))
    really = store.save

    def save(meta: PodMetadata, **more: Any) -> None:
        if meta.name == "bad":
            raise TypeError("Integer exceeds 64-bit range")
        really(meta, **more)

    monkeypatch.setattr(store, "save", save)
    before = descriptors()
    wanted = [Wanted(manifest(name), 1) for name in ("good", "bad", "well")]
    good, bad, well = Starter(paths, journal, table, store).prepare(wanted)
    assert isinstance(bad, Internal)
    assert "64-bit" in str(bad)
    for one in (good, well):
        assert isinstance(one, Prepared)
        one.close()
    journal.close()
    assert [row.pod for row in table.list()] == ["good", "well"]
    assert not table.life_lock("bad", 1).exists()
    assert descriptors() <= before
