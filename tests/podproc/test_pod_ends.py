"""Runs whose end the disk refuses: what they consumed and showed is no later run's."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from protocol import methods as m
from tests.podproc.engines import Hang, Move, PlayedModel, call, end, text
from tests.podproc.pods import Home, Life, alive, drive, say

DONE: list[Move] = [*text("done"), *end()]
SILENT: list[Move] = [Hang()]


class Disk:
    """Writes to the session fail while it is full; with a mark, only of lines that have it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, mark: bytes = b"") -> None:
        self.is_full = False
        self._mark, self._write = mark, os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, fd: int, data: bytes) -> int:
        """Write, or not."""
        is_session = "/sessions/" in os.readlink(f"/proc/self/fd/{fd}")
        if self.is_full and is_session and self._mark in bytes(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._write(fd, data)


@pytest.fixture
def house(tmp_path: Path) -> Home:
    return Home(tmp_path)


async def take_back_a_run(life: Life, number: int) -> str:
    """Start a run that says nothing and cancel it; return how the `number`-th run ended."""
    await life.ask(say("take me back"))
    await life.see("llm_call_start", number)
    await life.ask(m.Cancel())
    return (await life.ends(number))[-1].what


def deliveries(house: Home) -> int:
    return sum("news" in str(entry) for entry in house.entries())


def test_a_run_whose_end_was_not_logged_leaves_the_next_one_nothing_to_give_back(
    house: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        disk = Disk(monkeypatch, b'"run_completed"')
        async with alive(house, model=PlayedModel(DONE, SILENT, DONE)) as life:
            await life.ask(m.Notify(message="news", auto_run=False))
            disk.is_full = True
            assert (await life.run()).what == "run_end errored"
            disk.is_full = False
            assert await take_back_a_run(life, 2) == "run_end rolled_back"
            assert (await life.run()).what == "run_end finished"
            assert deliveries(house) == 1

    drive(main())


def test_a_run_that_could_not_be_taken_back_leaves_the_next_one_nothing_to_give_back(
    house: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        disk = Disk(monkeypatch)
        async with alive(house, model=PlayedModel(SILENT, SILENT, DONE)) as life:
            await life.ask(m.Notify(message="news", auto_run=False))
            await life.ask(say("hi"))
            await life.see("llm_call_start")
            disk.is_full = True
            await life.ask(m.Cancel())
            assert (await life.ends(1))[-1].what == "run_end errored"
            disk.is_full = False
            assert await take_back_a_run(life, 2) == "run_end rolled_back"
            assert (await life.run()).what == "run_end finished"
            assert deliveries(house) == 1

    drive(main())


def test_a_message_whose_run_did_not_end_in_the_log_is_not_delivered_again_after_a_restart(
    house: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        disk = Disk(monkeypatch, b'"run_completed"')
        async with alive(house, model=PlayedModel(DONE)) as life:
            await life.ask(m.Notify(message="news", auto_run=False))
            disk.is_full = True
            await life.run()
            disk.is_full = False
        async with alive(house, incarnation=2, model=PlayedModel(DONE)) as life:
            await life.run()
            assert deliveries(house) == 1

    drive(main())


def test_a_run_whose_end_was_not_logged_leaves_no_block_in_flight(
    house: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        disk = Disk(monkeypatch)

        def fill() -> None:
            disk.is_full = True

        model = PlayedModel([*call("c1", "Glob", '{"pattern":"*"}'), fill, *end("tool_use")])
        async with alive(house, model=model) as life:
            assert (await life.run()).what == "run_end errored"
            assert life.pod.snapshot().in_flight.blocks == ()
            disk.is_full = False

    drive(main())
