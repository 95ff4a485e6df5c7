"""The rotation of a pod's own output file."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from podproc.output_log import rotate_output
from protocol.birth import Birth
from protocol.manifest import Logs
from tests.podproc.pods import Home, alive

LOGS = Logs(size=10, keep=3)


@contextlib.contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Have this process write to a file, as a pod does."""
    kept = os.dup(1), os.dup(2)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        yield
    finally:
        for number, old in enumerate(kept, 1):
            os.dup2(old, number)
            os.close(old)
        os.close(fd)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "1.log"


def parts(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}


def write(letter: bytes) -> None:
    os.write(1, letter * 20)


def test_a_file_over_its_size_is_rotated_and_the_oldest_part_goes(path: Path) -> None:
    with output_to(path):
        for letter in (b"a", b"b", b"c"):
            write(letter)
            assert rotate_output(LOGS) is None
        os.write(2, b"d")
        assert parts(path) == {"1.log": b"d", "1.log.1": b"c" * 20, "1.log.2": b"b" * 20}


def test_a_file_within_its_size_stays(path: Path) -> None:
    with output_to(path):
        os.write(1, b"a")
        assert rotate_output(LOGS) is None
        assert parts(path) == {"1.log": b"a"}


def test_a_single_file_is_emptied(path: Path) -> None:
    with output_to(path):
        write(b"a")
        assert rotate_output(Logs(size=10, keep=1)) is None
        assert parts(path) == {"1.log": b""}


def test_a_rotation_that_finds_its_file_deleted_says_so(path: Path) -> None:
    with output_to(path):
        write(b"a")
        path.unlink()
        assert "could not be rotated" in (rotate_output(LOGS) or "")
        os.write(1, b"still taken")


def test_a_rotation_that_fails_again_and_again_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with output_to(path):
        for letter in (b"a", b"b", b"c"):
            rotate_output(LOGS)
            write(letter)
        before, really, fds = parts(path), os.open, len(os.listdir("/proc/self/fd"))

        def refuse(*_: Any) -> int:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        monkeypatch.setattr(os, "open", refuse)
        for _ in range(5):
            assert "Too many open files" in (rotate_output(LOGS) or "")
        monkeypatch.setattr(os, "open", really)
        assert parts(path) == before
        assert len(os.listdir("/proc/self/fd")) == fds
        assert rotate_output(LOGS) is None
        assert parts(path) == {"1.log": b"", "1.log.1": b"c" * 20, "1.log.2": b"b" * 20}


class Talkative(Home):
    """A pod with a small output file that beats often."""

    def birth(self, incarnation: int) -> Birth:
        """Return what its next process is told."""
        birth = super().birth(incarnation)
        manifest = birth.manifest.model_copy(update={"logs": LOGS})
        return birth.model_copy(update={"manifest": manifest, "beat_interval_s": 0.02})


def test_a_pod_whose_output_cannot_be_rotated_beats_on_and_says_so_once(
    tmp_path: Path, path: Path
) -> None:
    with output_to(path):

        async def main() -> None:
            write(b"a")
            path.unlink()
            async with alive(Talkative(tmp_path / "pod")) as life:
                await life.see("tick", 4)
                alerts = life.pod.snapshot().alerts
                assert ["could not be rotated" in alert.message for alert in alerts].count(
                    True
                ) == 1

        asyncio.run(main())
