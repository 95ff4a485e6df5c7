"""What is remembered of pods."""

from __future__ import annotations

import json
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.errors import Conflict, Internal, InvalidRequest
from supervisor.core.member import Tombstone
from supervisor.pod_store import PodMetadata, PodStore, refuse_foreign

BAD_NAMES = ["", ".", "..", "../b", "a/b", "/etc", "A", "-a", ".filed", "a\n", "a\0", "x" * 64]


@pytest.fixture
def data() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ps") as folder:
        yield Path(folder) / "data"


def meta(name: str = "alice", *, workspace: str = "/w", incarnation: int = 1) -> PodMetadata:
    return PodMetadata(
        name=name,
        fleet="f",
        workspace=workspace,
        session_id="s",
        segment_id="g",
        incarnation=incarnation,
        manifest={"name": name, "scope": {"allow": [{"target": "/w", "permission": "write"}]}},
        reclaimed=(Tombstone(name="carl", session_id="t", cause="signal"),),
        peers=("dora",),
        tasked=True,
        created_ms=5,
        desired="down",
    )


def test_what_was_saved_is_loaded(data: Path) -> None:
    PodStore(data).save(meta())
    assert PodStore(data).load("alice") == meta()


def test_a_pod_without_a_record_is_none(data: Path) -> None:
    assert PodStore(data).load("alice") is None
    assert PodStore(data).names() == []


def test_the_file_names_its_schema_fleet_and_workspace(data: Path) -> None:
    PodStore(data).save(meta())
    saved = json.loads((data / "pods/alice/metadata.json").read_bytes())
    assert (saved["schema"], saved["fleet"], saved["workspace"]) == (1, "f", "/w")


def test_records_are_private(data: Path) -> None:
    PodStore(data).save(meta())
    paths = (data / "pods", data / "pods/alice", data / "pods/alice/metadata.json")
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o700, 0o700, 0o600]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_what_is_no_name_never_becomes_a_path(data: Path, name: str) -> None:
    store = PodStore(data)
    for use in (store.load, store.file_away, lambda bad: store.save(meta(bad))):
        with pytest.raises(InvalidRequest, match="not a name"):
            use(name)
    assert not data.exists()


def test_names_are_those_of_pods_with_a_record(data: Path) -> None:
    store = PodStore(data)
    for name in ("bob", "alice", "alice.1"):
        store.save(meta(name))
    store.file_away("bob")
    (data / "pods/empty").mkdir()
    assert store.names() == ["alice", "alice.1"]


def test_a_pod_of_another_workspace_is_refused_with_both_folders(data: Path) -> None:
    store = PodStore(data)
    store.save(meta())
    with pytest.raises(Conflict, match=r"/w, not .*/elsewhere") as refused:
        store.save(meta(workspace="/elsewhere", incarnation=9))
    assert "--fresh" in (refused.value.next_step or "")
    assert store.load("alice") == meta()


def test_a_pod_of_another_fleet_is_refused() -> None:
    refuse_foreign(meta(), fleet="f", workspace="/w")
    with pytest.raises(Conflict, match="'g'"):
        refuse_foreign(meta(), fleet="g", workspace="/w")


def test_a_record_that_is_filed_away_makes_room_and_is_kept(data: Path) -> None:
    store = PodStore(data)
    filed = []
    for incarnation in (1, 2):
        store.save(meta(incarnation=incarnation))
        filed.append(store.file_away("alice"))
        assert store.load("alice") is None
    kept = [json.loads((path / "metadata.json").read_bytes()) for path in filed if path]
    assert [record["incarnation"] for record in kept] == [1, 2]
    assert store.file_away("alice") is None


DAMAGE = {
    "empty": b"",
    "cut": b'{"schema":1,"name":"al',
    "no object": b"[]",
    "missing field": b'{"schema":1,"name":"alice"}',
    "newer": b'{"schema":2}',
}


@pytest.mark.parametrize("text", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_record_is_an_error_that_names_the_file(data: Path, text: bytes) -> None:
    store = PodStore(data)
    store.save(meta())
    path = data / "pods/alice/metadata.json"
    path.write_bytes(text)
    with pytest.raises(Internal, match="cannot be read") as refused:
        store.load("alice")
    assert refused.value.details["path"] == str(path)
    assert "--fresh" in (refused.value.next_step or "")
    with pytest.raises(Internal):
        store.save(meta())
    store.file_away("alice")
    store.save(meta())
    assert store.load("alice") == meta()
