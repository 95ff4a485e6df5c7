"""What is on disk before a fork: one start that cannot be written is that start's affair alone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import Internal
from supervisor.journal import Journal
from supervisor.paths import Paths
from supervisor.pod_store import PodMetadata, PodStore
from supervisor.scope_table import ScopeTable
from supervisor.starting import Prepared, Starter, Wanted
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


def test_a_start_that_cannot_be_written_fails_alone_and_holds_nothing(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path = short
    paths = Paths.resolve(
        str(tmp_path / "h"),
        {"PODSUP_SCOPE_DIR": str(tmp_path / "scope")},
        uid=os.getuid(),
        passwd_home="/",
    )
    (tmp_path / "h").mkdir(mode=0o700)
    paths.data.mkdir(mode=0o700)
    (paths.data / "fleets").mkdir(mode=0o700)
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
