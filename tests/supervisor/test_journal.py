"""The journal: what it folds to, and what it survives."""

from __future__ import annotations

import os
import resource
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Conflict
from supervisor import jsonl
from supervisor.core.fleet_record import (
    CONTROLS_KEPT,
    KINDS,
    ControlDone,
    Deleted,
    Desired,
    Exited,
    FleetDown,
    FleetRecord,
    FleetStarted,
    Forked,
    Intent,
    Record,
    fold,
    snapshot,
)
from supervisor.identity import Identity
from supervisor.journal import Journal, read, refuse_foreign


def process(pid: int) -> Identity:
    return Identity(machine_id="m", pid_ns=1, boot_id="b", pid=pid, start_ticks=pid)


def intent(pod: str = "a", incarnation: int = 1) -> Intent:
    return Intent(
        pod=pod,
        pod_id=f"id-{pod}",
        incarnation=incarnation,
        token=f"{pod}-{incarnation}",
        life_lock=f"/s/life/{pod}.{incarnation}",
    )


def forked(pod: str = "a", incarnation: int = 1) -> Forked:
    return Forked(pod=pod, incarnation=incarnation, identity=process(incarnation))


def exited(pod: str = "a", incarnation: int = 1) -> Exited:
    return Exited(pod=pod, incarnation=incarnation, cause="signal", signal="SIGKILL", at=7)


def started(epoch: int = 1) -> FleetStarted:
    return FleetStarted(fleet="f", workspace="/w", supervisor=process(99), epoch=epoch)


def done(id: str) -> ControlDone:
    return ControlDone(id=id, method="stop", reply={"operation": id})


def test_a_pod_is_known_from_its_intent_on() -> None:
    pod = fold([started(), intent()]).pods["a"]
    assert pod.intent == intent()
    assert (pod.incarnation, pod.identity, pod.ended, pod.desired) == (1, None, None, "up")


def test_a_pod_that_was_forked_and_exited_has_ended() -> None:
    pod = fold([intent(), forked(), exited()]).pods["a"]
    assert pod.identity == process(1)
    assert pod.ended == exited()


def test_a_restarted_pod_has_not_ended_and_its_last_exit_is_remembered() -> None:
    pod = fold([intent(), forked(), exited(), intent(incarnation=2)]).pods["a"]
    assert (pod.incarnation, pod.identity, pod.ended) == (2, None, None)
    assert pod.last_exit == exited()


def test_late_news_of_an_older_incarnation_do_not_touch_the_newer_one() -> None:
    newer: list[Record] = [intent(), intent(incarnation=2), forked(incarnation=2)]
    pod = fold([*newer, exited(), forked()]).pods["a"]
    assert pod.identity == process(2)
    assert pod.ended is None
    assert fold([*newer, exited(incarnation=2), exited()]).pods["a"].ended is not None


def test_what_is_wished_for_a_pod_outlasts_its_incarnations() -> None:
    records: list[Record] = [intent(), Desired(pod="a", desired="down"), intent(incarnation=2)]
    assert fold(records).pods["a"].desired == "down"


def test_a_deleted_pod_is_forgotten() -> None:
    assert fold([intent(), Deleted(pod="a"), exited()]).pods == {}


def test_a_fleet_that_was_ended_is_down_until_it_is_started_again() -> None:
    assert fold([started(), FleetDown()]).is_down
    again = fold([started(), FleetDown(), started(epoch=2)])
    assert (again.is_down, again.epoch) == (False, 2)


def test_the_newest_answers_are_remembered() -> None:
    record = fold([done(f"c{i}") for i in range(CONTROLS_KEPT + 10)])
    assert len(record.controls) == CONTROLS_KEPT
    assert "c9" not in record.controls
    assert record.controls["c10"].reply == {"operation": "c10"}


PODS = st.sampled_from("abc")
NUMBERS = st.integers(1, 4)
RECORDS = st.one_of(
    st.builds(started, NUMBERS),
    st.builds(intent, PODS, NUMBERS),
    st.builds(forked, PODS, NUMBERS),
    st.builds(exited, PODS, NUMBERS),
    st.builds(Desired, pod=PODS, desired=st.sampled_from(["up", "down"])),
    st.builds(done, st.sampled_from(["x", "y", "z"])),
    st.builds(Deleted, pod=PODS),
    st.builds(FleetDown),
)


@given(st.lists(RECORDS, max_size=30))
def test_a_snapshot_says_what_the_history_said(records: list[Record]) -> None:
    assert fold(snapshot(fold(records))) == fold(records)


@given(st.lists(RECORDS, max_size=20), st.integers(0, 20))
def test_folding_in_two_steps_is_folding_in_one(records: list[Record], at: int) -> None:
    assert fold(records[at:], fold(records[:at])) == fold(records)


def test_every_kind_of_record_is_known_by_its_name() -> None:
    assert {kind: cls.model_fields["kind"].default for kind, cls in KINDS.items()} == {
        kind: kind for kind in KINDS
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text().filter(lambda key: key != "crc"), JSON, min_size=1))
def test_a_line_says_what_was_written(record: dict[str, object]) -> None:
    line = jsonl.encode(record)
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    assert jsonl.decode(line[:-1]) == record


@given(st.data())
def test_one_changed_byte_is_seen(data: st.DataObject) -> None:
    line = bytearray(jsonl.encode(intent().to_wire())[:-1])
    at = data.draw(st.integers(0, len(line) - 1))
    line[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match="checksum"):
        jsonl.decode(bytes(line))


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ps") as folder:
        yield Path(folder) / "fleets" / "f" / "journal.jsonl"


@contextmanager
def opened(path: Path) -> Iterator[Journal]:
    journal = Journal(path)
    try:
        yield journal
    finally:
        journal.close()


HISTORY = (started(), intent(), forked(), exited(), intent(incarnation=2))


def write_history(path: Path) -> FleetRecord:
    with opened(path) as journal:
        for record in HISTORY:
            journal.append(record)
        return journal.record


def test_a_supervisor_finds_what_the_one_before_wrote(path: Path) -> None:
    left = write_history(path)
    assert left == fold(HISTORY)
    assert read(path) == (list(HISTORY), [])
    with opened(path) as journal:
        assert (journal.record, journal.alerts) == (left, [])


def test_opening_rewrites_the_journal_without_its_history(path: Path) -> None:
    with opened(path) as journal:
        for number in range(1, 50):
            journal.append(intent(incarnation=number), exited(incarnation=number))
        record = journal.record
    with opened(path) as journal:
        assert journal.record == record
    assert len(path.read_bytes().splitlines()) == 3


def test_a_journal_holds_tokens_and_is_private(path: Path) -> None:
    write_history(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_fleet_without_a_journal_has_no_record(path: Path) -> None:
    assert read(path) == ([], [])


def test_an_unterminated_end_is_cut_with_an_alert(path: Path) -> None:
    left = write_history(path)
    with path.open("ab") as file:
        file.write(jsonl.encode(exited(incarnation=2).to_wire())[:-9])
    with opened(path) as journal:
        assert journal.record == left
        assert len(journal.alerts) == 1
        journal.append(exited(incarnation=2))
    assert read(path)[1] == []
    assert fold(read(path)[0]).pods["a"].ended is not None


BAD_LINES = {
    "zeros": b"\0" * 40,
    "no json": b"hello",
    "no checksum": b'{"kind":"fleet_down"}',
    "wrong checksum": b'{"kind":"fleet_down","crc":"00000000"}',
    "unknown kind": jsonl.encode({"kind": "invented_later"})[:-1],
    "kind that is no name": jsonl.encode({"kind": ["x"]})[:-1],
    "missing field": jsonl.encode({"kind": "deleted"})[:-1],
    "no utf-8": b'{"kind":"\xff"}',
    "empty": b"",
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_skipped_with_an_alert_and_kept_aside(path: Path, line: bytes) -> None:
    left = write_history(path)
    lines = path.read_bytes().splitlines()
    damaged = b"\n".join([*lines[:2], line, *lines[2:]]) + b"\n"
    path.write_bytes(damaged)
    with opened(path) as journal:
        assert journal.record == left
        (alert,) = journal.alerts
        assert f"{path}:3: " in alert
    assert path.with_name("journal.jsonl.bak").read_bytes() == damaged
    assert read(path)[1] == []


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Let writes beyond a size fail, some of the bytes written, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_append_that_fails_half_way_leaves_no_trace(path: Path) -> None:
    with opened(path) as journal:
        journal.append(started())
        before, record = path.read_bytes(), journal.record
        with no_file_larger_than(len(before) + 20), pytest.raises(OSError, match="large"):
            journal.append(intent())
        assert path.read_bytes() == before
        assert journal.record == record
        journal.append(intent())
        assert read(path) == ([started(), intent()], [])


def test_records_of_one_append_are_written_all_or_none(path: Path) -> None:
    with opened(path) as journal:
        room = len(jsonl.encode(started().to_wire()))
        with no_file_larger_than(room), pytest.raises(OSError, match="large"):
            journal.append(started(), intent())
        assert read(path) == ([], [])


def test_a_full_disk_does_not_keep_a_fleet_from_being_ended(path: Path) -> None:
    left = write_history(path)
    with path.open("ab") as file:
        file.write(b'{"kind":')
    with no_file_larger_than(1):
        journal = Journal(path)
    assert journal.record == left
    assert "keeps its history" in journal.alerts[-1]
    journal.append(FleetDown())
    journal.close()
    assert read(path) == ([*HISTORY, FleetDown()], [])


def test_a_fleet_of_another_workspace_is_refused_with_both_folders() -> None:
    refuse_foreign(FleetRecord(), "/elsewhere")
    refuse_foreign(fold([started()]), "/w")
    with pytest.raises(Conflict, match=r"/w, not to /elsewhere") as refused:
        refuse_foreign(fold([started()]), "/elsewhere")
    assert "--fresh" in (refused.value.next_step or "")


@pytest.mark.process
def test_a_supervisor_killed_at_any_moment_leaves_whole_records(path: Path) -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        journal = Journal(path)
        os.write(writer, b".")
        number = 0
        while True:
            journal.append(intent(incarnation=(number := number + 1)))
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    records, _ = read(path)
    assert records == [intent(incarnation=n) for n in range(1, len(records) + 1)]
    with opened(path) as journal:
        assert journal.record.pods.keys() == ({"a"} if records else set())
