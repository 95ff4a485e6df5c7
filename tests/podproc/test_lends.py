"""What a pod has lent: where it may not write, and what must have ended before it says so."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from podproc.tools import lends as lends_module
from podproc.tools.base import Registry, ToolResult, off_loop
from podproc.tools.files import Edit, Files, Read, ReadTracker, Write
from podproc.tools.fsview import FileState, ScopeDenied, ScopeView
from podproc.tools.keeper import children
from podproc.tools.keeper_client import Command, Keeper, KeeperError, KeeperLevel
from podproc.tools.lends import Lends
from podproc.tools.search import Glob
from protocol.errors import Conflict
from protocol.methods import ScopeLend
from protocol.scope import LentRule, Permission, Scope
from tests.podproc.test_keeper import ENVIRONMENT, all_run, escapes, levels, start
from tests.podproc.tooling import marks, quiet_call, rule, run, sleepers
from tests.support.waiting import eventually

T = TypeVar("T")

LIMIT_S = 10.0


def lent(target: Path, pod: str = "kid", *, recursive: bool = True) -> LentRule:
    """Return a rule that another pod has the use of."""
    return LentRule(**dict(rule(target, recursive=recursive)), pod=pod)


class WatchedView(ScopeView):
    """A view that tells when somebody waits for its writes."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.is_waited_for = threading.Event()

    def wait_for_writes(self, concerns: Callable[[str], bool], timeout_s: float) -> list[str]:
        """Tell, then wait."""
        self.is_waited_for.set()
        return super().wait_for_writes(concerns, timeout_s)


class Lender:
    """A pod's lends with all that they are about: its view, its file tools, its keeper.

    `on_look` hears of each look at what is granted, with its answer, before the asker has it.
    """

    def __init__(
        self, ws: Path, *, scope: Scope | None = None, level: KeeperLevel = KeeperLevel.SUBREAPER
    ) -> None:
        self.lends = Lends(scope or Scope(allow=(rule(ws),)))
        self.keeper = Keeper(environment=ENVIRONMENT, strongest=level)
        self.on_look: Callable[[str, Permission | None], None] = lambda path, granted: None
        self.view = WatchedView(self._permission_at, explain=self.lends.explain, cwd=str(ws))
        self.denied: list[str] = []
        self._registry = Registry(on_defect=lambda error: None)
        files = Files(self.view, ReadTracker(), on_denied=lambda path, _: self.denied.append(path))
        for tool in (Read(files), Write(files), Edit(files), Glob(self.view)):
            self._registry.register(tool, "core")

    def _permission_at(self, path: str) -> Permission | None:
        granted = self.lends.permission_at(path)
        self.on_look(path, granted)
        return granted

    async def call(self, name: str, **arguments: Any) -> ToolResult:
        """Make a call of a file tool."""
        return await self._registry.call(name, arguments, quiet_call())

    async def write(self, path: str) -> str:
        """Write a file; return the summary."""
        return (await self.call("Write", file_path=path, content="written\n")).summary

    async def may_write(self, path: str) -> bool:
        """Say whether a new file can be written there."""
        return not (await self.write(path)).startswith("denied: ")

    async def lend(self, number: int, *rules: LentRule, stop_jobs: bool = False) -> None:
        """Take what the supervisor says; raises Conflict."""
        asked = ScopeLend(lent=rules, number=number, stop_jobs=stop_jobs)
        await self.lends.lend(asked, self.view, self.keeper)


class HeldWrite:
    """A write in a thread that stands still before it replaces its file, until it may end.

    As a context manager it ends with the block at the latest.
    """

    def __init__(self, view: ScopeView, path: str, order: list[str]) -> None:
        self._begun, self._may_end = threading.Event(), threading.Event()
        self._view, self._path, self._order = view, path, order
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._begun.wait(LIMIT_S)

    def _run(self) -> None:
        self._view.rewrite(self._path, self._change)
        self._order.append("written")

    def _change(self, before: FileState | None) -> bytes:
        self._begun.set()
        assert self._may_end.wait(LIMIT_S)
        return b"written late\n"

    def __enter__(self) -> HeldWrite:
        return self

    def __exit__(self, *failure: object) -> None:
        self.end()

    def end(self) -> None:
        """Let it end, and wait until it has."""
        self._may_end.set()
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()


@asynccontextmanager
async def lending(ws: Path, **settings: Any) -> AsyncIterator[Lender]:
    lender = Lender(ws, **settings)
    try:
        async with asyncio.timeout(LIMIT_S):
            yield lender
    finally:
        await lender.keeper.close()


@pytest.fixture
def ws(tmp_path: Path) -> Path:
    """A workspace with a file at each place that tests are about."""
    folder = tmp_path / "ws"
    for place in ("lib", "lib/sub", "doc", "src"):
        (folder / place).mkdir(parents=True)
        (folder / place / "a").write_text("old\n")
    return folder


async def in_thread(work: Callable[[], object], what: str) -> None:
    """Return once a probe is true, with the loop going on."""
    await asyncio.to_thread(eventually, work, what)


async def waits(lender: Lender, lend: asyncio.Task[None]) -> None:
    """Return once a lend waits for a write in flight."""
    is_waited_for = lender.view.is_waited_for
    await in_thread(lambda: is_waited_for.is_set() or lend.done(), "it waits for the write")
    assert not lend.done()


async def refused(work: Coroutine[Any, Any, None]) -> Conflict:
    """Return the conflict that the work ends in."""
    with pytest.raises(Conflict) as failure:
        await work
    return failure.value


# -- what is granted no more


def test_where_a_region_is_lent_no_tool_writes_and_the_refusal_names_the_borrower(ws: Path) -> None:
    async def main() -> None:
        async with lending(ws) as lender:
            await lender.call("Read", file_path="lib/a")
            await lender.lend(1, lent(ws / "lib"))
            because = f"{ws}/lib is lent to pod kid until it has ended; StopPod ends it"
            write = await lender.call("Write", file_path="lib/a", content="new\n")
            edit = await lender.call("Edit", file_path="lib/a", old_string="old", new_string="new")
            assert write.is_error
            assert write == edit
            assert write.summary == f"denied: this pod may not write {ws}/lib/a: {because}"
            assert because in await lender.write("lib/sub/new")
            assert because in await lender.write("lib/made/for/it")
            assert lender.denied == [f"{ws}/lib/{p}" for p in ("a", "a", "sub/new", "made/for/it")]

    run(main())
    assert sorted(os.listdir(ws / "lib")) == ["a", "sub"]
    assert (ws / "lib/a").read_text() == "old\n"


def test_where_a_region_is_lent_it_is_still_read_and_all_the_rest_is_written(ws: Path) -> None:
    async def main() -> None:
        async with lending(ws) as lender:
            await lender.lend(1, lent(ws / "lib"))
            assert (await lender.call("Read", file_path="lib/sub/a")).content == "     1\told"
            found = (await lender.call("Glob", pattern="lib/**/a")).content
            assert found is not None
            assert len(found.split()) == 2
            assert await lender.write("src/new") == f"made {ws}/src/new: 1 lines, 8 bytes"
            assert await lender.may_write("library")
            await lender.call("Read", file_path="doc/a")
            assert not (
                await lender.call("Edit", file_path="doc/a", old_string="old", new_string="new")
            ).is_error

    run(main())


def test_a_link_from_the_rest_into_a_lent_region_is_no_way_to_write_there(ws: Path) -> None:
    (ws / "src/way").symlink_to(ws / "lib")
    (ws / "src/file").symlink_to("../lib/a")

    async def main() -> None:
        async with lending(ws) as lender:
            await lender.lend(1, lent(ws / "lib"))
            for path in ("src/way/new", "src/file", "src/../lib/new"):
                assert f"{ws}/lib is lent to pod kid" in await lender.write(path), path

    run(main())
    assert sorted(os.listdir(ws / "lib")) == ["a", "sub"]


def test_what_is_lent_without_what_is_below_it_is_the_target_and_its_children(ws: Path) -> None:
    async def main() -> None:
        async with lending(ws) as lender:
            await lender.lend(1, lent(ws / "lib", recursive=False))
            assert not await lender.may_write("lib/new")
            assert await lender.may_write("lib/sub/new")
            assert not await lender.may_write("lib/made/new"), "its parent would be a child of lib"

    run(main())
    assert sorted(os.listdir(ws / "lib")) == ["a", "sub"]


def test_of_two_borrowers_a_refusal_names_the_one_who_has_the_place(ws: Path) -> None:
    async def main() -> None:
        async with lending(ws) as lender:
            await lender.lend(1, lent(ws / "lib", "kid"), lent(ws / "doc", "other"))
            assert f"{ws}/lib is lent to pod kid" in await lender.write("lib/new")
            assert f"{ws}/doc is lent to pod other" in await lender.write("doc/new")

    run(main())


def test_a_lend_grants_nothing_that_the_scope_does_not(tmp_path: Path, ws: Path) -> None:
    (tmp_path / "outside").mkdir()
    scope = Scope(allow=(rule(ws), rule(ws / "doc")), deny=(rule(ws / "doc"),))

    async def main() -> None:
        async with lending(ws, scope=scope) as lender:
            await lender.lend(1, lent(tmp_path / "outside"), lent(ws / "doc"))
            asked = {str(tmp_path / "outside/a"): None, str(ws / "doc/a"): Permission.READ}
            assert {path: lender.lends.permission_at(path) for path in asked} == asked

    run(main())


def test_what_a_pod_is_told_at_its_birth_is_in_force_at_once(ws: Path) -> None:
    lends = Lends(Scope(allow=(rule(ws),)), (lent(ws / "lib"),), 7)
    assert lends.number == 7
    assert lends.permission_at(f"{ws}/lib/a") is Permission.READ
    assert lends.permission_at(f"{ws}/src/a") is Permission.WRITE


# -- numbers


def test_the_newest_number_wins_and_an_older_or_equal_one_agrees_to_nothing_new(ws: Path) -> None:
    async def main() -> None:
        async with lending(ws) as lender:
            await lender.lend(5, lent(ws / "lib"))
            for number in (5, 4, 0):
                await lender.lend(number)
                with pytest.raises(Conflict, match="told of newer lends"):
                    await lender.lend(number, lent(ws / "doc"))
            assert (lender.lends.number, lender.lends.lent) == (5, (lent(ws / "lib"),))
            assert not await lender.may_write("lib/new")
            assert await lender.may_write("doc/new")
            await lender.lend(6)
            assert (lender.lends.number, lender.lends.lent) == (6, ())
            assert await lender.may_write("lib/new")

    run(main())


def test_each_statement_is_whole_what_it_does_not_name_is_given_back(ws: Path) -> None:
    async def main() -> None:
        async with lending(ws) as lender:
            await lender.lend(1, lent(ws / "lib"), lent(ws / "doc"))
            await lender.lend(2, lent(ws / "doc"), lent(ws / "src", "other"))
            assert await lender.may_write("lib/new")
            assert not await lender.may_write("doc/new")
            assert not await lender.may_write("src/new")

    run(main())


def test_a_hello_is_taken_over_unless_something_newer_is_known(ws: Path) -> None:
    async def main() -> None:
        async with lending(ws) as lender:
            await lender.lend(3, lent(ws / "lib"))
            lender.lends.take_over((), 2)
            assert not await lender.may_write("lib/new")
            lender.lends.take_over((lent(ws / "doc"),), 3)
            assert await lender.may_write("lib/new")
            assert not await lender.may_write("doc/new")
            lender.lends.take_over((), 9)
            assert await lender.may_write("doc/new")
            with pytest.raises(Conflict, match="told of newer lends"):
                await lender.lend(8, lent(ws / "src"))
            assert await lender.may_write("src/new")

    run(main())


# -- writes in flight


def test_a_write_in_flight_has_ended_before_its_place_is_lent(ws: Path) -> None:
    order: list[str] = []

    async def main() -> None:
        async with lending(ws) as lender:
            with HeldWrite(lender.view, "lib/a", order) as write:
                asked = asyncio.create_task(lender.lend(1, lent(ws / "lib")))
                asked.add_done_callback(lambda _: order.append("accepted"))
                await waits(lender, asked)
                assert not await lender.may_write("lib/new")
                assert await lender.may_write("src/new")
                assert not asked.done()
                await asyncio.to_thread(write.end)
                await asked

    run(main())
    assert order == ["written", "accepted"]
    assert (ws / "lib/a").read_text() == "written late\n"


def test_a_write_in_flight_elsewhere_is_not_waited_for(ws: Path) -> None:
    order: list[str] = []

    async def main() -> None:
        async with lending(ws) as lender:
            with HeldWrite(lender.view, "src/a", order):
                await lender.lend(1, lent(ws / "lib"))
                order.append("accepted")

    run(main())
    assert order == ["accepted", "written"]


def test_a_write_that_does_not_end_refuses_the_lend_and_everything_is_as_before(
    ws: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lends_module, "PATIENCE_S", 0.05)

    async def main() -> None:
        async with lending(ws) as lender:
            await lender.lend(1, lent(ws / "doc"))
            with HeldWrite(lender.view, "lib/a", []):
                refusal = await refused(lender.lend(2, lent(ws / "doc"), lent(ws / "lib")))
                assert f"{ws}/lib/a" in refusal.message
                assert lender.lends.lent == (lent(ws / "doc"),)
                assert await lender.may_write("lib/new")
                assert not await lender.may_write("doc/new")
            await lender.lend(3, lent(ws / "doc"), lent(ws / "lib"))
            assert not await lender.may_write("lib/newer")

    run(main())
    assert (ws / "lib/a").read_text() == "written late\n"


def test_a_lend_that_is_given_up_leaves_everything_as_before(ws: Path) -> None:
    async def main() -> None:
        async with lending(ws) as lender:
            await lender.lend(1, lent(ws / "doc"))
            lender.view.is_waited_for.clear()
            with HeldWrite(lender.view, "lib/a", []) as write:
                asked = asyncio.create_task(lender.lend(2, lent(ws / "lib")))
                await waits(lender, asked)
                asked.cancel()
                write.end()
                with pytest.raises(asyncio.CancelledError):
                    await asked
            assert lender.lends.lent == (lent(ws / "doc"),)
            assert await lender.may_write("lib/new")

    run(main())


class StoppedLook:
    """Holds who looks at what is granted, at its n-th look, with the answer it is about to get."""

    def __init__(self, look: int) -> None:
        self._look, self._looks = look, 0
        self.is_held, self.may_go_on = threading.Event(), threading.Event()
        self.granted: Permission | None = None

    def __call__(self, path: str, granted: Permission | None) -> None:
        self._looks += 1
        if self._looks == self._look:
            self.granted = granted
            self.is_held.set()
            assert self.may_go_on.wait(LIMIT_S)


def test_a_write_judged_before_the_lend_that_begins_after_it_is_refused(ws: Path) -> None:
    async def main() -> None:
        async with lending(ws) as lender:
            look = lender.on_look = StoppedLook(1)
            write = asyncio.create_task(
                off_loop(lender.view.rewrite, "lib/a", lambda _: b"too late")
            )
            await in_thread(look.is_held.is_set, "the write is judged")
            assert look.granted is Permission.WRITE
            await lender.lend(1, lent(ws / "lib"))
            look.may_go_on.set()
            with pytest.raises(ScopeDenied, match="lent to pod kid"):
                await write

    run(main())
    assert (ws / "lib/a").read_text() == "old\n"


def test_a_write_that_was_let_go_on_is_one_that_the_lend_knows_of(ws: Path) -> None:
    order: list[str] = []

    async def main() -> None:
        async with lending(ws) as lender:
            look = lender.on_look = StoppedLook(2)

            def write() -> None:
                lender.view.rewrite("lib/a", lambda _: b"in time")
                order.append("written")

            writing = asyncio.create_task(off_loop(write))
            await in_thread(look.is_held.is_set, "the write is judged for the last time")
            assert look.granted is Permission.WRITE
            asked = asyncio.create_task(lender.lend(1, lent(ws / "lib")))
            asked.add_done_callback(lambda _: order.append("accepted"))
            await waits(lender, asked)
            assert not await lender.may_write("lib/new")
            assert not asked.done()
            look.may_go_on.set()
            await writing
            await asked

    run(main())
    assert order == ["written", "accepted"]


def test_what_is_given_back_needs_no_waiting(ws: Path) -> None:
    async def main() -> None:
        async with lending(ws) as lender:
            await lender.lend(1, lent(ws / "lib"))
            with HeldWrite(lender.view, "src/a", []):
                lender.view.is_waited_for.clear()
                await lender.lend(2)
                assert await lender.may_write("lib/new")
                assert not lender.view.is_waited_for.is_set()

    run(main())


def test_a_return_passes_a_lend_that_still_waits(ws: Path) -> None:
    async def main() -> None:
        async with lending(ws) as lender:
            await lender.lend(1, lent(ws / "lib"))
            lender.view.is_waited_for.clear()
            with HeldWrite(lender.view, "src/a", []):
                second = asyncio.create_task(lender.lend(2, lent(ws / "lib"), lent(ws / "src")))
                await waits(lender, second)
                third = asyncio.create_task(lender.lend(3, lent(ws / "src")))
                await asyncio.sleep(0)
                assert await lender.may_write("lib/new")
                assert not await lender.may_write("src/new")
                assert not second.done()
                assert not third.done(), "it is not clear yet"
            await second
            await third
            assert (lender.lends.number, lender.lends.lent) == (3, (lent(ws / "src"),))

    run(main())


def test_while_a_lend_waits_all_that_was_lent_before_it_stays_lent(ws: Path) -> None:
    async def main() -> None:
        async with lending(ws) as lender:
            await lender.lend(1, lent(ws / "lib"), lent(ws / "doc"))
            lender.view.is_waited_for.clear()
            with HeldWrite(lender.view, "src/a", []):
                second = asyncio.create_task(lender.lend(2, lent(ws / "lib"), lent(ws / "src")))
                await waits(lender, second)
                for place in ("lib", "doc", "src"):
                    assert not await lender.may_write(f"{place}/new"), place
            await second
            assert await lender.may_write("doc/new"), "it was given back with the same statement"

    run(main())


def test_two_lends_at_once_are_both_accepted_and_both_in_force(ws: Path) -> None:
    both = (lent(ws / "lib", "kid"), lent(ws / "doc", "other"))

    async def main() -> None:
        async with lending(ws) as lender:
            with HeldWrite(lender.view, "lib/a", []):
                first = asyncio.create_task(lender.lend(1, both[0]))
                await waits(lender, first)
                second = asyncio.create_task(lender.lend(2, *both))
                assert not await lender.may_write("lib/new")
                assert not first.done()
                assert not second.done()
            await asyncio.gather(first, second)
            assert (lender.lends.number, lender.lends.lent) == (2, both)
            assert not await lender.may_write("lib/new")
            assert not await lender.may_write("doc/new")

    run(main())


def test_of_two_lends_at_once_one_can_be_refused_and_the_other_goes_on(
    ws: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lends_module, "PATIENCE_S", 0.05)
    one, other = lent(ws / "lib", "kid"), lent(ws / "doc", "other")

    async def main() -> None:
        async with lending(ws) as lender:
            with HeldWrite(lender.view, "lib/a", []):
                first = asyncio.create_task(lender.lend(1, one))
                second = asyncio.create_task(lender.lend(2, one, other))
                second.add_done_callback(lambda task: task.exception())
                await refused(_result(first))
                await asyncio.wait({second})
                await lender.lend(3, other)
                assert await lender.may_write("lib/new")
                assert not await lender.may_write("doc/new")

    run(main())


async def _result(task: asyncio.Task[None]) -> None:
    await task


# -- commands that run


@pytest.mark.process
@levels
def test_a_lend_that_meets_a_running_command_is_refused_and_everything_is_as_before(
    ws: Path, level: KeeperLevel
) -> None:
    [seconds] = marks(1)

    async def main() -> None:
        async with lending(ws, level=level) as lender:
            await lender.lend(1, lent(ws / "doc", "other"))
            command = await start(lender.keeper, f"sleep {seconds}; :")
            await in_thread(lambda: all_run([seconds]), "it runs")
            wanted = (lent(ws / "doc", "other"), lent(ws / "lib"))
            refusal = await refused(lender.lend(2, *wanted))
            [job] = refusal.details["jobs"]
            assert job["command"] == f"sleep {seconds}; :"
            assert 0 <= job["age_s"] < LIMIT_S
            assert refusal.message.startswith("commands of it run that could write there: sleep ")
            assert f"{job['command']} (" in refusal.message
            assert f"{job['age_s']:.0f} s)" in refusal.message
            assert "stop_jobs" in (refusal.next_step or "")
            assert lender.lends.lent == wanted[:1]
            assert await lender.may_write("lib/new")
            assert not await lender.may_write("doc/new")
            assert all_run([seconds])
            await command.kill()
            await lender.lend(3, *wanted)
            assert not await lender.may_write("lib/newer")

    run(main())


@pytest.mark.process
def test_what_a_command_has_left_running_refuses_a_lend_too(ws: Path) -> None:
    [seconds] = marks(1)

    async def main() -> None:
        async with lending(ws) as lender:
            await (await start(lender.keeper, f"setsid sleep {seconds} & exit")).wait()
            await in_thread(lambda: all_run([seconds]), "it runs")
            refusal = await refused(lender.lend(1, lent(ws / "lib")))
            assert f"sleep {seconds} (" in refusal.message
            assert lender.lends.lent == ()

    run(main())


@pytest.mark.process
def test_a_refusal_names_a_few_of_many_commands_and_its_details_all(ws: Path) -> None:
    seconds = marks(7)

    async def main() -> None:
        async with lending(ws) as lender:
            for number in seconds:
                await start(lender.keeper, f"sleep {number}; :")
            refusal = await refused(lender.lend(1, lent(ws / "lib")))
            named = [number for number in seconds if f"sleep {number}; :" in refusal.message]
            assert named == seconds[: lends_module.LISTED]
            assert refusal.message.endswith("; and 2 more")
            commands = [job["command"] for job in refusal.details["jobs"]]
            assert commands == [f"sleep {number}; :" for number in seconds]

    run(main())


@pytest.mark.process
@levels
def test_stop_jobs_ends_the_commands_and_all_they_started_and_the_next_one_works(
    ws: Path, level: KeeperLevel
) -> None:
    seconds = marks(5)

    async def main() -> None:
        async with lending(ws, level=level) as lender:
            command = await start(lender.keeper, escapes(seconds))
            await in_thread(lambda: all_run(seconds), "all five run")
            await lender.lend(1, lent(ws / "lib"), stop_jobs=True)
            assert sleepers(*seconds) == set()
            assert not await lender.may_write("lib/new")
            await _must_have_been_stopped(command)
            assert (await (await start(lender.keeper, "exit 3")).wait()).code == 3

    run(main())


async def _must_have_been_stopped(command: Command) -> None:
    with pytest.raises(KeeperError, match="was lent, and stop_jobs says so"):
        await command.wait()


@pytest.mark.process
def test_stop_jobs_where_none_runs_leaves_the_keeper_alone(ws: Path) -> None:
    async def main() -> None:
        async with lending(ws) as lender:
            assert (await (await start(lender.keeper, "exit 3")).wait()).code == 3
            keeper = lender.keeper.pid
            await lender.lend(1, lent(ws / "lib"), stop_jobs=True)
            assert lender.keeper.pid == keeper is not None

    run(main())


@pytest.mark.process
def test_what_is_given_back_or_lent_already_concerns_no_command(ws: Path) -> None:
    [seconds] = marks(1)

    async def main() -> None:
        async with lending(ws) as lender:
            await lender.lend(1, lent(ws / "lib"), lent(ws / "doc"))
            await start(lender.keeper, f"sleep {seconds}; :")
            await lender.lend(2, lent(ws / "lib"), stop_jobs=True)
            assert not await lender.may_write("lib/new")
            assert await lender.may_write("doc/new")
            await in_thread(lambda: all_run([seconds]), "it still runs")

    run(main())


# -- nothing is agreed to that is not so


def test_a_statement_asked_again_is_agreed_to_when_the_first_one_is(ws: Path) -> None:
    async def main() -> None:
        async with lending(ws) as lender:
            with HeldWrite(lender.view, "lib/a", []):
                first = asyncio.create_task(lender.lend(1, lent(ws / "lib")))
                await in_thread(lender.view.is_waited_for.is_set, "the first waits")
                again = asyncio.create_task(lender.lend(1, lent(ws / "lib")))
                later = asyncio.create_task(lender.lend(2, lent(ws / "lib")))
                assert await lender.may_write("doc/new")  # so each has had its turn
                assert not any(lend.done() for lend in (first, again, later))
            await asyncio.gather(first, again, later)

    run(main())


def test_what_was_refused_is_not_taken_for_clear_by_the_next_statement(
    ws: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lends_module, "PATIENCE_S", 0.05)
    one, other = lent(ws / "lib", "kid"), lent(ws / "doc", "other")

    async def main() -> None:
        async with lending(ws) as lender:
            with HeldWrite(lender.view, "lib/a", []):
                first = asyncio.create_task(lender.lend(1, one))
                second = asyncio.create_task(lender.lend(2, one, other))
                await asyncio.wait({first, second})
                assert isinstance(first.exception(), Conflict)
                assert isinstance(second.exception(), Conflict), "the write in lib goes on"

    run(main())


@pytest.mark.process
def test_a_lend_is_not_agreed_to_by_a_pod_whose_keeper_does_not_answer(
    ws: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lends_module, "PATIENCE_S", 0.3)
    [mark] = marks(1)

    async def main() -> None:
        async with lending(ws) as lender:
            await start(lender.keeper, f"sleep {mark}; :")
            await in_thread(lambda: all_run([mark]), "it runs")
            outer = lender.keeper.pid
            assert outer is not None
            stopped = [outer, *children(outer)]
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            try:
                with pytest.raises(Conflict, match="cannot be known"):
                    await lender.lend(1, lent(ws / "lib"))
                assert await lender.may_write("lib/new")
            finally:
                for pid in stopped:
                    os.kill(pid, signal.SIGCONT)
            await lender.lend(2, lent(ws / "lib"), stop_jobs=True)

    run(main())


@pytest.mark.process
def test_a_lend_waits_for_the_proof_that_a_keeper_which_died_took_all_along(ws: Path) -> None:
    [mark] = marks(1)

    async def main() -> None:
        async with lending(ws) as lender:
            await start(lender.keeper, f"sleep {mark}; :")
            await in_thread(lambda: all_run([mark]), "it runs")
            outer = lender.keeper.pid
            assert outer is not None
            [inner] = children(outer)
            os.kill(inner, signal.SIGSTOP)  # so that it is slow to notice
            os.kill(outer, signal.SIGKILL)
            await in_thread(lambda: lender.keeper.pid is None, "its death is noticed")
            lend = asyncio.create_task(lender.lend(1, lent(ws / "lib")))
            await in_thread(lambda: not lend.done(), "it waits")
            os.kill(inner, signal.SIGCONT)
            await lend
            assert sleepers(mark) == set()

    run(main())


def test_a_later_hello_agrees_to_nothing_that_is_not_clear(
    ws: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lends_module, "PATIENCE_S", 0.05)

    async def main() -> None:
        async with lending(ws) as lender:
            with HeldWrite(lender.view, "lib/a", []):
                lender.lends.take_over((lent(ws / "lib"),), 1)
                assert not await lender.may_write("lib/new")
                with pytest.raises(Conflict, match="still writes"):
                    await lender.lend(1, lent(ws / "lib"))
            await lender.lend(1, lent(ws / "lib"))

    run(main())
