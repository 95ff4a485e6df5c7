"""A file that changed behind a pod's back: what counts as a change, and what the refusal says."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from protocol.scope import Scope
from tests.podproc.tooling import Workbench, rule

CALLS: dict[str, dict[str, Any]] = {
    "Write": {"file_path": "a.txt", "content": "ours\n"},
    "Edit": {"file_path": "a.txt", "old_string": "one", "new_string": "ours"},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_text("one\n")
    return path


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(Scope(allow=(rule(tmp_path),)), tmp_path)


def clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


@pytest.mark.parametrize("tool", CALLS)
def test_the_refusal_says_when_the_file_was_read_and_when_it_changed(
    file: Path, bench: Workbench, tool: str
) -> None:
    before = time.time()
    bench.call("Read", file_path="a.txt")
    after = time.time()
    file.write_text("one of another\n")
    os.utime(file, (1_767_225_600, 1_767_225_600))
    refused = bench.call(tool, **CALLS[tool])
    assert refused.is_error
    said = re.search(r"was read at (.{19}) and changed at (.{19}): Read it again", refused.summary)
    assert said is not None
    assert clock(before) <= said[1] <= clock(after)
    assert said[2] == clock(1_767_225_600)
    assert file.read_text() == "one of another\n"


@pytest.mark.parametrize("tool", CALLS)
def test_reading_the_file_again_mends_it(file: Path, bench: Workbench, tool: str) -> None:
    bench.call("Read", file_path="a.txt")
    file.write_text("one of another\n")
    assert bench.call(tool, **CALLS[tool]).is_error
    bench.call("Read", file_path="a.txt")
    assert not bench.call(tool, **CALLS[tool]).is_error
    assert file.read_text().startswith("ours")


@pytest.mark.parametrize("tool", CALLS)
def test_the_same_bytes_written_by_another_are_no_change(
    file: Path, bench: Workbench, tool: str
) -> None:
    bench.call("Read", file_path="a.txt")
    other = file.with_name("other")
    other.write_bytes(file.read_bytes())
    os.utime(other, (1_767_225_600, 1_767_225_600))
    other.rename(file)
    assert not bench.call(tool, **CALLS[tool]).is_error


@pytest.mark.parametrize("tool", CALLS)
def test_other_bytes_with_the_same_length_and_times_are_a_change(
    file: Path, bench: Workbench, tool: str
) -> None:
    bench.call("Read", file_path="a.txt")
    about = file.stat()
    file.write_text("one\t")
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime) == (about.st_size, about.st_mtime)
    assert "was read at" in bench.call(tool, **CALLS[tool]).summary


@pytest.mark.parametrize("first", CALLS)
@pytest.mark.parametrize("then", CALLS)
def test_what_this_pod_wrote_itself_is_known_until_another_changes_it(
    file: Path, bench: Workbench, first: str, then: str
) -> None:
    bench.call("Read", file_path="a.txt")
    assert not bench.call(first, **CALLS[first]).is_error
    again = bench.call("Edit", file_path="a.txt", old_string="ours", new_string="still ours")
    assert not again.is_error
    file.write_text("one of another\n")
    assert "was read at" in bench.call(then, **CALLS[then]).summary
    assert file.read_text() == "one of another\n"


def test_a_part_that_was_read_is_not_enough_when_another_part_changes(
    file: Path, bench: Workbench
) -> None:
    file.write_text("one\ntwo\nthree\n")
    bench.call("Read", file_path="a.txt", offset=1, limit=1)
    file.write_text("one\ntwo\ndrei\n")
    assert "was read at" in bench.call("Edit", **CALLS["Edit"]).summary


def test_a_file_that_is_gone_may_be_written_anew_and_not_edited(
    file: Path, bench: Workbench
) -> None:
    bench.call("Read", file_path="a.txt")
    file.unlink()
    assert "does not exist" in bench.call("Edit", **CALLS["Edit"]).summary
    assert bench.call("Write", **CALLS["Write"]).summary.startswith("made ")
