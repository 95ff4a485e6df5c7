"""Ids become paths, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from podproc.session.log import SegmentLog
from protocol.errors import InvalidRequest
from protocol.ids import uuid7
from protocol.session.store import SessionStore
from tests.podproc.session.disk import START

SESSION, FIRST, SECOND = (uuid7(ms, bytes(10)) for ms in (1, 2, 3))


def test_segments_are_listed_oldest_first_and_strangers_are_not(tmp_path: Path) -> None:
    store = SessionStore(tmp_path)
    assert store.segments(SESSION) == store.sessions() == ()
    for segment in (SECOND, FIRST):
        SegmentLog.create(store.path(SESSION, segment), START).close()
    (store.folder(SESSION) / f"{FIRST}.torn-1").touch()
    (store.folder(SESSION) / f"{FIRST}.jsonl.new").touch()
    (store.folder(SESSION) / "notes.jsonl").touch()
    assert store.segments(SESSION) == (FIRST, SECOND)
    assert store.sessions() == (SESSION,)
    assert store.path(SESSION, FIRST) == tmp_path / "sessions" / SESSION / f"{FIRST}.jsonl"


@pytest.mark.parametrize(
    "bad", ["", "..", "../../etc/passwd", f"{FIRST}/x", FIRST + "\n", "A" * 36]
)
def test_what_is_not_an_id_never_becomes_a_path(tmp_path: Path, bad: str) -> None:
    store = SessionStore(tmp_path)
    for attempt in (
        lambda: store.path(bad, FIRST),
        lambda: store.path(SESSION, bad),
        lambda: store.segments(bad),
    ):
        with pytest.raises(InvalidRequest):
            attempt()
