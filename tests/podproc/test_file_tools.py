"""Read, Write and Edit over a real folder."""

from __future__ import annotations

import ctypes
import os
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from podproc.tools import fsview
from podproc.tools.base import ToolFailure
from podproc.tools.fsview import FileState, ScopeDenied
from protocol.scope import Scope
from tests.podproc.tooling import Workbench, rule, view_of


@pytest.fixture
def ws(tmp_path: Path) -> Path:
    folder = tmp_path / "ws"
    folder.mkdir()
    return folder


@pytest.fixture
def bench(ws: Path) -> Workbench:
    return Workbench(Scope(allow=(rule(ws),)), ws)


def test_read_numbers_lines_and_says_how_to_read_on(ws: Path, bench: Workbench) -> None:
    (ws / "a.txt").write_text("".join(f"line {n}\n" for n in range(1, 5001)))
    first = bench.call("Read", file_path="a.txt")
    assert first.content is not None
    assert first.content.startswith("     1\tline 1\n     2\tline 2\n")
    assert first.content.endswith("  2000\tline 2000")
    assert first.summary == f"{ws}/a.txt: lines 1–2000 of 5000; read on with offset 2001"
    last = bench.call("Read", file_path=str(ws / "a.txt"), offset=4999, limit=10)
    assert last.content == "  4999\tline 4999\n  5000\tline 5000"
    assert bench.call("Read", file_path="a.txt", offset=5001).is_error


def test_read_stops_before_the_content_limit_and_at_a_line(ws: Path, bench: Workbench) -> None:
    (ws / "wide.txt").write_text(("x" * 1000 + "\n") * 200)
    result = bench.call("Read", file_path="wide.txt")
    assert result.content is not None
    assert "dropped" not in result.content
    assert result.summary.endswith(f"read on with offset {result.content.count(chr(10)) + 2}")


def test_read_makes_nothing_of_lines_that_it_does_not_show(ws: Path, bench: Workbench) -> None:
    (ws / "many").write_bytes(b"ab\n" * (4 << 20) + b"end")
    tracemalloc.start()
    try:
        last = bench.call("Read", file_path="many", offset=(4 << 20) + 1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert last.content == f"{(4 << 20) + 1}\tend"
    assert peak < 3 * (12 << 20)


@pytest.mark.parametrize(
    "data", [b"\n", b"\n\n", b"a", b"a\n", b"\na", b"a\r\nb\n\nc", b"\n" * 70_000]
)
def test_read_finds_every_line(ws: Path, bench: Workbench, data: bytes) -> None:
    (ws / "f").write_bytes(data)
    lines = data.decode().removesuffix("\n").split("\n")
    for number in {1, 2, 3, 65_535, 65_536, 65_537, len(lines)} & set(range(1, len(lines) + 1)):
        one = bench.call("Read", file_path="f", offset=number, limit=1)
        assert one.content == f"{number:>6}\t{lines[number - 1].rstrip(chr(13))}"
    assert bench.call("Read", file_path="f", offset=len(lines) + 1).is_error


def test_read_cuts_long_lines_and_shows_what_is_not_utf8(ws: Path, bench: Workbench) -> None:
    (ws / "odd.txt").write_bytes(b"caf\xe9\r\n" + b"y" * 3000)
    content = bench.call("Read", file_path="odd.txt").content
    assert content is not None
    assert content.startswith("     1\tcaf\ufffd\n     2\tyyy")
    assert content.endswith("y… [1000 characters more]")


def test_read_refuses_what_is_no_text_file(ws: Path, bench: Workbench) -> None:
    (ws / "bin").write_bytes(b"\x7fELF\0\0")
    os.mkfifo(ws / "fifo")
    (ws / "empty").touch()
    assert "binary file of 6 bytes" in bench.call("Read", file_path="bin").summary
    assert "not a regular file" in bench.call("Read", file_path="fifo").summary
    assert "is a directory" in bench.call("Read", file_path=".").summary
    assert "does not exist" in bench.call("Read", file_path="none").summary
    assert bench.call("Read", file_path="empty").summary == f"{ws}/empty is empty"
    assert "not a path" in bench.call("Read", file_path="a\0b").summary


def test_write_makes_parents_and_may_go_on_without_reading(ws: Path, bench: Workbench) -> None:
    made = bench.call("Write", file_path="a/b/c.txt", content="one\n")
    assert made.summary == f"made {ws}/a/b/c.txt: 1 lines, 4 bytes"
    assert not bench.call("Write", file_path="a/b/c.txt", content="two\n").is_error
    assert (ws / "a/b/c.txt").read_text() == "two\n"
    assert sorted(path.name for path in (ws / "a/b").iterdir()) == ["c.txt"]


@pytest.mark.parametrize("bits", [0o4000, 0o2000, 0o6000, 0o7000])
def test_write_takes_setuid_and_setgid_bits_off_a_file(
    ws: Path, bench: Workbench, bits: int
) -> None:
    script = ws / "run.sh"
    script.write_text("old\n")
    if os.geteuid() == 0:
        os.chown(script, 65534, 65534)
    script.chmod(bits | 0o750)
    bench.call("Read", file_path="run.sh")
    bench.call("Write", file_path="run.sh", content="new\n")
    assert script.stat().st_mode & 0o7777 == bits & 0o1000 | 0o750


def test_write_keeps_the_mode_of_a_file(ws: Path, bench: Workbench) -> None:
    script = ws / "run.sh"
    script.write_text("old")
    script.chmod(0o750)
    bench.call("Read", file_path="run.sh")
    assert not bench.call("Write", file_path="run.sh", content="new").is_error
    assert script.stat().st_mode & 0o7777 == 0o750


def test_a_file_that_was_not_read_is_not_overwritten(ws: Path, bench: Workbench) -> None:
    (ws / "a.txt").write_text("precious")
    refused = bench.call("Write", file_path="a.txt", content="gone")
    assert refused.is_error
    assert "was not read yet" in refused.summary
    assert (
        "was not read yet"
        in bench.call("Edit", file_path="a.txt", old_string="precious", new_string="gone").summary
    )
    assert (ws / "a.txt").read_text() == "precious"


def test_a_file_that_changed_since_it_was_read_is_not_overwritten(
    ws: Path, bench: Workbench
) -> None:
    (ws / "a.txt").write_text("one")
    bench.call("Read", file_path="a.txt")
    (ws / "a.txt").write_text("two")
    for refused in (
        bench.call("Write", file_path="a.txt", content="three"),
        bench.call("Edit", file_path="a.txt", old_string="two", new_string="three"),
    ):
        assert refused.is_error
        assert "was read at 20" in refused.summary
        assert "and changed at 20" in refused.summary
    bench.call("Read", file_path="a.txt")
    assert not bench.call("Write", file_path="a.txt", content="three").is_error


def test_edit_shows_a_diff_and_wants_one_place(ws: Path, bench: Workbench) -> None:
    (ws / "a.txt").write_text("one\ntwo\ntwo\nthree\n")
    bench.call("Read", file_path="a.txt")
    assert (
        "occurs 2 times"
        in bench.call("Edit", file_path="a.txt", old_string="two", new_string="2").summary
    )
    assert (
        "does not occur"
        in bench.call("Edit", file_path="a.txt", old_string="four", new_string="4").summary
    )
    assert (ws / "a.txt").read_text() == "one\ntwo\ntwo\nthree\n"
    result = bench.call("Edit", file_path="a.txt", old_string="one\ntwo", new_string="1\n2")
    assert result.content is not None
    assert result.content.splitlines()[2:] == [
        "@@ -1,5 +1,5 @@", "-one", "-two", "+1", "+2", " two", " three", " "
    ]  # fmt: skip
    everywhere = {"old_string": "t", "new_string": "T", "replace_all": True}
    assert "2 replacements" in bench.call("Edit", file_path="a.txt", **everywhere).summary


def test_edit_refuses_to_multiply_a_file_beyond_the_bound(ws: Path, bench: Workbench) -> None:
    (ws / "a.txt").write_text("a" * 100_000)
    bench.call("Read", file_path="a.txt")
    grown = {"old_string": "a", "new_string": "é" * 1000, "replace_all": True}
    tracemalloc.start()
    try:
        result = bench.call("Edit", file_path="a.txt", **grown)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "would have 200000000 bytes" in result.summary
    assert peak < 10 * 2**20
    assert (ws / "a.txt").stat().st_size == 100_000


def test_edit_shows_no_diff_of_a_huge_file(ws: Path, bench: Workbench) -> None:
    (ws / "a.txt").write_text("x\n" * (1 << 21))
    bench.call("Read", file_path="a.txt")
    everywhere = {"old_string": "x\n", "new_string": "y\n", "replace_all": True}
    assert bench.call("Edit", file_path="a.txt", **everywhere).content == (
        f"[no diff is shown: the file had {1 << 22} bytes and has {1 << 22}]"
    )


def test_edit_leaves_carriage_returns_and_foreign_bytes_alone(ws: Path, bench: Workbench) -> None:
    (ws / "dos.txt").write_bytes(b"caf\xe9\r\none\r\ntwo\r\n")
    bench.call("Read", file_path="dos.txt")
    result = bench.call("Edit", file_path="dos.txt", old_string="one\ntwo", new_string="1\n2")
    assert not result.is_error
    assert (ws / "dos.txt").read_bytes() == b"caf\xe9\r\n1\r\n2\r\n"


def test_edits_of_one_file_in_one_batch_follow_each_other(ws: Path, bench: Workbench) -> None:
    (ws / "n").write_text("0")
    bench.call("Read", file_path="n")
    (ws / "link").symlink_to("n")
    edits = [
        ("Edit", {"file_path": name, "old_string": str(n), "new_string": str(n + 1)})
        for n, name in enumerate(["n", "link", str(ws / "n"), "./n"] * 10)
    ]
    results = bench.batch(*edits)
    assert [result.summary for result in results if result.is_error] == []
    assert (ws / "n").read_text() == "40"


def test_write_outside_the_scope_is_refused_and_reported(tmp_path: Path, ws: Path) -> None:
    (tmp_path / "out").mkdir()
    (ws / "way").symlink_to(tmp_path / "out")
    (ws / "dangling").symlink_to(tmp_path / "out/new")
    bench = Workbench(Scope(allow=(rule(ws), rule(tmp_path / "out", "read"))), ws)
    for path in ("../out/a", "way/a", "dangling", str(tmp_path / "other/a"), "none/../../x"):
        result = bench.call("Write", file_path=path, content="bad")
        assert result.is_error, path
        assert result.summary.startswith("denied: "), path
    assert list((tmp_path / "out").iterdir()) == []
    assert [layer for _, layer in bench.denied] == ["file"] * 5
    assert bench.denied[0][0] == str(tmp_path / "out/a")
    assert bench.defects == []


def test_what_may_only_be_read_is_not_written_and_what_may_not_is_not_read(
    tmp_path: Path, ws: Path
) -> None:
    (ws / "ro").mkdir()
    (ws / "ro/a").write_text("a")
    (ws / "secret").write_text("s")
    scope = Scope(allow=(rule(ws),), deny=(rule(ws / "ro"), rule(ws / "secret", "read")))
    bench = Workbench(scope, ws)
    assert not bench.call("Read", file_path="ro/a").is_error
    assert "may only read there" in bench.call("Write", file_path="ro/a", content="b").summary
    assert bench.call("Read", file_path="secret").summary.startswith("denied: ")


def test_missing_parents_outside_the_scope_are_not_made(tmp_path: Path, ws: Path) -> None:
    bench = Workbench(Scope(allow=(rule(ws / "new/sub"),)), ws)
    assert bench.call("Write", file_path="new/sub/a", content="a").is_error
    assert list(ws.iterdir()) == []


def test_the_products_directories_are_closed_even_inside_the_workspace(ws: Path) -> None:
    home, outputs = ws / "home", ws / "home/data/pods/a/bash-output"
    outputs.mkdir(parents=True)
    (outputs / "1.txt").write_text("output")
    (home / "token").write_text("secret")
    (ws / "way").symlink_to(home)
    bench = Workbench(Scope(allow=(rule(ws),)), ws, closed=[str(home)], opening=str(outputs))
    for path in ("home/token", "way/token"):
        assert bench.call("Read", file_path=path).summary.startswith("denied: "), path
        assert bench.call("Write", file_path=path, content="x").summary.startswith("denied: ")
    assert bench.call("Read", file_path=str(outputs / "1.txt")).content == "     1\toutput"
    assert bench.call("Write", file_path=str(outputs / "1.txt"), content="x").is_error
    assert bench.call("Glob", pattern="token").content == ""
    assert bench.call("Grep", pattern="secret|output").content == ""


def test_a_refusal_says_who_borrowed_the_place(ws: Path) -> None:
    lent = Scope(allow=(rule(ws),), deny=(rule(ws / "lib"),))
    bench = Workbench(lent, ws, explain=lambda path: "lent to kid" if "/lib" in path else None)
    assert "lent to kid" in bench.call("Write", file_path="lib/a", content="a").summary


def test_of_60_000_writes_through_a_flipping_link_none_escapes(memory: Path) -> None:
    ws, outside = memory / "ws", memory / "outside"
    flip = ws / "flip"
    for folder in (ws, outside, flip):
        folder.mkdir()
    (ws / "link").symlink_to(outside)
    view = view_of(Scope(allow=(rule(ws),)), ws)
    is_over = threading.Event()

    def keep_flipping() -> None:
        while not is_over.is_set():
            _exchange(ws / "link", flip)

    flipper = threading.Thread(target=keep_flipping)
    flipper.start()
    outcomes = {"written": 0, "denied": 0}
    try:
        for number in range(60_000):
            try:
                view.rewrite(f"{flip}/{number % 500}", lambda before: b"x")
                outcomes["written"] += 1
            except ScopeDenied:
                outcomes["denied"] += 1
    finally:
        is_over.set()
        flipper.join()
    assert list(outside.iterdir()) == []
    assert all(outcomes.values()), f"the race was not run: {outcomes}"


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory where there is such a thing: syncing 60,000 files would take minutes."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


def _exchange(one: Path, other: Path) -> None:
    """Let two names change places in one step, as no unlink and symlink can."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.renameat2(-100, bytes(one), -100, bytes(other), 2) == 0


def test_a_change_that_is_refused_leaves_no_temporary_file(ws: Path) -> None:
    (ws / "a").write_text("a")
    view = view_of(Scope(allow=(rule(ws),)), ws)

    def refuse(before: FileState | None) -> bytes:
        assert before is not None
        raise ToolFailure("execution_failed", "no")

    with pytest.raises(ToolFailure):
        view.rewrite("a", refuse)
    assert [path.name for path in ws.iterdir()] == ["a"]


def test_the_tracker_names_what_was_touched_latest_last(ws: Path, bench: Workbench) -> None:
    bench.call("Write", file_path="a", content="a")
    bench.call("Write", file_path="b", content="b")
    bench.call("Read", file_path="a")
    assert bench.tracker.touched() == [f"{ws}/b", f"{ws}/a"]


CHANGES: dict[str, dict[str, str]] = {
    "Read": {},
    "Write": {"content": "y"},
    "Edit": {"old_string": "x", "new_string": "y"},
}


@pytest.mark.parametrize("tool", CHANGES)
def test_a_file_that_grows_after_it_was_measured_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    path = tmp_path / "grows"
    path.write_text("x")
    bench = Workbench(Scope(allow=(rule(tmp_path),)), tmp_path)
    bench.call("Read", file_path="grows")
    real = os.fstat

    def measured(fd: int) -> os.stat_result:
        about = real(fd)
        if about.st_size == 1:
            os.truncate(path, 1 << 34)
        return about

    monkeypatch.setattr(os, "fstat", measured)
    arguments = CHANGES[tool]
    tracemalloc.start()
    try:
        result = bench.call(tool, file_path="grows", **arguments)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.is_error
    assert "are not opened whole" in result.summary + (result.content or "")
    assert peak < 4 * fsview.BIGGEST_FILE
