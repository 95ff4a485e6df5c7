"""`podsup session` on logs made by hand: no supervisor, no pod, whatever stands in the files."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from protocol.entries import Carried, Entry, SegmentRef, SegmentStart, UnknownEntry
from protocol.errors import Conflict
from protocol.scope import Scope
from protocol.session.store import SessionStore
from protocol.status import RunResult
from supervisor import life_lock
from supervisor.paths import Paths
from supervisor.pod_store import PodMetadata, PodStore
from supervisor.scope_table import Claim, ScopeTable
from supervisor.sessions import find_session, held
from tests.podproc.session.disk import asked, ended, invoked, lines_of, said
from tests.support.home import Home

SESSION = "01a1f950-0000-7000-8000-000000000000"
FIRST, SECOND, THIRD = (f"01a1f950-0000-7000-8000-{n:012x}" for n in (1, 2, 3))
START = SegmentStart(ts=1, session_id=SESSION, system_prompt="be good")
RUN: tuple[Entry, ...] = (START, invoked("r1"), asked("hello"), said("hi"))
END = ended(RunResult.FINISHED)
NULS = bytes(9) + b"\n"


def paths_of(home: Home) -> Paths:
    resolved = Paths.resolve(str(home.home), {}, uid=os.getuid(), passwd_home="/nonexistent")
    return Paths(
        resolved.home, resolved.runtime, resolved.data, resolved.config, home.home / "scope"
    )


def store_of(home: Home) -> SessionStore:
    return SessionStore(paths_of(home).data)


def put(home: Home, data: bytes, segment: str = FIRST) -> Path:
    """Make pod alice, whose record names the segment, and write its log."""
    record = PodMetadata(
        name="alice",
        fleet="f",
        workspace=str(home.work),
        session_id=SESSION,
        segment_id=segment,
        incarnation=1,
        manifest={"name": "alice"},
        created_ms=5,
    )
    PodStore(paths_of(home).data).save(record)
    path = store_of(home).path(SESSION, segment)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def two_segments(home: Home) -> bytes:
    first = lines_of(*RUN, END, said("left"))
    ref = SegmentRef(segment_id=FIRST, at_turn_index=1, at_entry=5)
    again = START.model_copy(update={"forked_from": ref, "carried": Carried(entries=1)})
    second = lines_of(again, END, invoked("r2"), asked("more"), said("yes"), END)
    put(home, first)
    put(home, second, SECOND)
    return b"".join(first.splitlines(keepends=True)[:5]) + second


# -- whose session


@pytest.mark.parametrize("verb", ["show", "export", "fsck", "replay"])
def test_an_unknown_pod_and_one_without_a_session_are_told_apart(home: Home, verb: str) -> None:
    assert "there is no record" in home.podsup("session", verb, "alice", ok=7).stderr
    put(home, b"").unlink()
    failed = home.json("session", verb, "alice", ok=2) if verb != "replay" else None
    if failed is not None:
        assert failed["error"]["code"] == "invalid_request"
        assert "has not begun" in failed["error"]["message"]
    done = home.podsup("--fleet", "other", "session", verb, "alice", ok=7)
    assert "belongs to fleet 'f'" in done.stderr
    assert "not a name" in home.podsup("session", verb, "../alice", ok=2).stderr


def test_where_the_named_segment_was_never_made_the_newest_is_active(home: Home) -> None:
    two_segments(home)
    put(home, b"", THIRD).unlink()
    assert home.podsup("session", "show", "alice", "-o", "name").stdout.split() == [FIRST, SECOND]


# -- show


def test_a_history_over_two_segments_is_one_story(home: Home) -> None:
    two_segments(home)
    assert home.podsup("session", "show", "alice").stdout.split("\n\n")[1].splitlines() == [
        "> hello",
        "hi",
        "── goes on in a new segment",
        "> more",
        "yes",
    ]
    document = home.json("session", "show", "alice")
    assert document["schema"] == 1
    assert (document["state"], document["inputs"]) == ("idle", 2)
    assert [row["segment_id"] for row in document["segments"]] == [FIRST, SECOND]
    assert [row["index"] for row in document["entries"]] == [0, 1, 2, 3, 4, 0, 2, 3, 4, 5]


def test_one_segment_alone_is_shown_as_it_stands(home: Home) -> None:
    two_segments(home)
    shown = home.podsup("session", "show", "alice", "--segment", FIRST).stdout
    assert "left" in shown.splitlines()
    document = home.json("session", "show", "alice", "--segment", SECOND)
    assert [row["index"] for row in document["entries"]] == list(range(6))
    failed = home.podsup("session", "show", "alice", "--segment", THIRD, ok=2)
    assert "has no segment" in failed.stderr


def test_only_the_end_of_a_long_history_is_shown_unless_all_is_asked_for(home: Home) -> None:
    put(home, lines_of(*RUN, *(said(f"word {n}") for n in range(300))))
    lines = home.podsup("session", "show", "alice").stdout.split("\n\n")[1].splitlines()
    assert lines[0] == "── 104 earlier entries: podsup session show alice --all"
    assert lines[1:] == [f"word {n}" for n in range(100, 300)]
    assert "> hello" in home.podsup("session", "show", "alice", "--all").stdout
    assert home.json("session", "show", "alice")["earlier"] == 104


def test_bad_lines_are_marked_and_nothing_of_the_terminal_is_driven(home: Home) -> None:
    good = lines_of(*RUN)
    put(home, good + NULS + lines_of(said("\x1b[2J"), END) + b"\0unterminated")
    shown = home.podsup("session", "show", "alice").stdout
    assert f"✗ damaged: line 5, byte {len(good)} of segment {FIRST}: 9 NUL bytes" in shown
    assert "entries    6, 1 damaged line" in shown
    assert "\x1b" not in shown


def test_a_file_of_garbage_is_shown_exported_checked_and_played_without_a_traceback(
    home: Home,
) -> None:
    put(home, b"\0\xff\n" * 3 + b"{}\n" + b"x" * 5000 + b"\n\n" + b"\0" * 5000)
    assert "6 damaged lines" in home.podsup("session", "show", "alice").stdout
    assert home.podsup("session", "replay", "alice").stdout.count("✗ damaged") == 6
    for form in ("markdown", "openai", "anthropic", "jsonl"):
        target = home.work / form
        home.podsup("session", "export", "alice", "--format", form, "--output", str(target))
        assert target.stat().st_size
    assert "damaged at line 1, byte 0" in home.podsup("session", "fsck", "alice", ok=1).stdout


def test_a_session_that_continues_itself_is_an_error_but_each_segment_can_be_seen(
    home: Home,
) -> None:
    ref = SegmentRef(segment_id=FIRST, at_turn_index=0)
    put(home, lines_of(START.model_copy(update={"forked_from": ref}), said("hi")))
    assert "continues itself" in home.podsup("session", "show", "alice", ok=1).stderr
    assert "continues itself" in home.podsup("session", "fsck", "alice", ok=1).stdout
    assert "hi" in home.podsup("session", "show", "alice", "--segment", FIRST).stdout


# -- export


def test_jsonl_is_the_lines_of_the_session_byte_for_byte(home: Home) -> None:
    expected = two_segments(home)
    target = home.work / "out.jsonl"
    home.podsup("session", "export", "alice", "--format", "jsonl", "--output", str(target))
    assert target.read_bytes() == expected
    assert target.stat().st_mode & 0o777 == 0o600
    newer = UnknownEntry.from_wire({"kind": "dream", "ts": 5, "depth": 3})
    data = lines_of(*RUN, newer) + NULS + lines_of(END)
    put(home, data + b"never committed")
    done = home.podsup("session", "export", "alice", "--format", "jsonl")
    assert done.stdout.encode() == data
    assert done.stderr == "1 damaged line: copied as on disk\n"


def test_what_a_form_lacks_is_said_in_one_line_on_stderr(home: Home) -> None:
    two_segments(home)
    done = home.podsup("session", "export", "alice", "--format", "openai")
    assert [one["role"] for one in json.loads(done.stdout)["messages"]] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    assert done.stderr == "not in openai: run ends, times and costs\n"


def test_an_export_that_cannot_be_written_leaves_the_old_file_and_no_part_of_a_new_one(
    home: Home,
) -> None:
    put(home, lines_of(*RUN, *(said("x" * 1000) for _ in range(100))))
    target = home.work / "out.md"
    target.write_text("old")
    export = f"{' '.join(home.command)} session export alice --format jsonl --output"
    small = subprocess.run(
        ["sh", "-c", f"ulimit -f 8; exec {export} out.md"],
        cwd=home.work,
        env=home.env,
        capture_output=True,
        text=True,
    )
    assert small.returncode == 1
    assert "out.md was not written: File too large" in small.stderr
    assert target.read_text() == "old"
    assert list(home.work.iterdir()) == [target]
    for bad, why in ((".", "Is a directory"), ("no/where", "No such file"), ("/dev/full", "space")):
        failed = home.podsup("session", "export", "alice", "--output", bad, ok=1)
        assert why in failed.stderr
    assert list(home.work.iterdir()) == [target]
    home.podsup("session", "export", "alice", "--output", "/dev/null")
    assert Path("/dev/null").is_char_device()


def test_a_full_stdout_is_an_error_and_a_closed_one_is_none(home: Home) -> None:
    put(home, lines_of(*RUN, *(said("x" * 1000) for _ in range(1000))))
    export = f"{' '.join(home.command)} session export alice"
    for line, code in ((f"{export} >/dev/full", 1), (f"{export} | true", 0)):
        done = subprocess.run(
            ["sh", "-c", line], cwd=home.work, env=home.env, capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr
        assert ("No space left" in done.stderr) == bool(code)
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr


# -- replay


def test_without_a_terminal_a_play_back_waits_for_nothing(home: Home) -> None:
    hour = 3_600_000
    late = [entry.model_copy(update={"ts": n * hour}) for n, entry in enumerate((*RUN, END))]
    put(home, lines_of(*late))
    done = home.podsup("session", "replay", "alice", timeout=5)
    assert done.stdout == "> hello\nhi\n"
    lines = home.podsup("session", "replay", "alice", "-o", "jsonl").stdout.splitlines()
    assert [json.loads(line)["index"] for line in lines] == [0, 1, 2, 3, 4]
    for bad in (["--speed", "nan"], ["--speed", "-1"], ["--until", "0"], ["-o", "json"]):
        home.podsup("session", "replay", "alice", *bad, ok=2)


# -- fsck


def test_a_clean_session_ends_with_0_and_a_damaged_one_with_1_until_it_is_repaired(
    home: Home,
) -> None:
    path = put(home, lines_of(*RUN, END))
    assert "ok, active" in home.podsup("session", "fsck", "alice").stdout
    good = lines_of(*RUN)
    path.write_bytes(good + NULS + lines_of(END, invoked("r2"), asked("more"), END))
    checked = home.json("session", "fsck", "alice", ok=1)
    (row,) = checked["segments"]
    assert (checked["clean"], row["condition"], row["entries"]) == (False, "damaged", 8)
    assert row["problem"] == {"line": 5, "offset": len(good), "cause": "9 NUL bytes"}
    assert path.read_bytes().count(0) == 9
    said_so = home.podsup("session", "fsck", "alice", ok=1)
    assert "next: podsup session fsck alice --repair" in said_so.stderr

    mended = home.json("session", "fsck", "alice", "--repair")
    assert mended["clean"]
    (done,) = mended["repaired"]
    assert (done["segment_id"], done["moved"], done["lines"]) == (FIRST, len(NULS), 1)
    assert path.with_name(done["moved_to"]).read_bytes() == NULS
    again = home.json("session", "fsck", "alice", "--repair")
    assert again["repaired"] == []
    assert again["segments"][0]["aside"] == [done["moved_to"]]
    assert "line 5 was damaged" in home.podsup("session", "show", "alice").stdout


def test_a_segment_that_is_gone_is_a_problem_that_no_repair_mends(home: Home) -> None:
    two_segments(home)
    store_of(home).path(SESSION, FIRST).unlink()
    checked = home.podsup("session", "fsck", "alice", "--repair", ok=1)
    assert f"segment {FIRST}, which the next one continues: there is no such file" in checked.stdout
    assert "nothing can be repaired" in checked.stderr


def test_earlier_segments_are_checked_and_repaired_as_well(home: Home) -> None:
    two_segments(home)
    path = store_of(home).path(SESSION, FIRST)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"hello", b"jello"))
    before = home.json("session", "fsck", "alice", ok=1)["segments"]
    assert [row["condition"] for row in before] == ["damaged", "ok"]
    home.podsup("session", "fsck", "alice", "--repair")
    rows = home.json("session", "show", "alice")["entries"]
    assert [row["index"] for row in rows] == [0, 1, 2, 3, 4, 0, 2, 3, 4, 5]


def test_a_repair_is_refused_while_somebody_holds_the_session(home: Home) -> None:
    path = put(home, lines_of(*RUN) + NULS + lines_of(END, invoked("r2"), asked("x"), END))
    data = path.read_bytes()
    paths = paths_of(home)
    table = ScopeTable(paths.scope_dir, "/another/home", "s")
    lock = life_lock.take(table.life_lock("rival", 1))
    claim = Claim(
        pod="rival", incarnation=1, token="t", scope=Scope(), session_id=SESSION, segment_id=FIRST
    )
    table.register(claim)
    failed = home.podsup("session", "fsck", "alice", "--repair", ok=6)
    assert "is in use by pod 'rival'" in failed.stderr
    assert path.read_bytes() == data
    home.podsup("session", "fsck", "alice", ok=1)
    os.close(lock)
    home.podsup("session", "fsck", "alice", "--repair")


def test_nobody_can_claim_anything_while_a_session_is_held(home: Home) -> None:
    put(home, lines_of(*RUN))
    paths = paths_of(home)
    with held(paths, find_session(paths, "alice")):
        assert life_lock.is_free(paths.scope_dir / "table.lock") is False
    assert life_lock.is_free(paths.scope_dir / "table.lock")
    table = ScopeTable(paths.scope_dir, str(paths.home), "s")
    lock = life_lock.take(table.life_lock("alice", 1))
    table.register(Claim(pod="alice", incarnation=1, token="t", scope=Scope()))
    try:
        with (
            pytest.raises(Conflict, match="in use by pod 'alice'"),
            held(paths, find_session(paths, "alice")),
        ):
            pass
    finally:
        os.close(lock)
