"""The keeper with real processes: nothing outlives the command, the keeper, or the pod."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from podproc.tools import keeper as keeper_program
from podproc.tools.keeper import children, children_by_parent, frame, take_frames
from podproc.tools.keeper_client import Command, Keeper, KeeperError, KeeperLevel
from tests.podproc.tooling import marks, run, sleepers
from tests.support.waiting import eventually, wait_for_exit

pytestmark = pytest.mark.process

ENVIRONMENT = {"PATH": os.environ["PATH"]}
STANDING = """
import os, resource
score = open("/proc/self/oom_score_adj").read().strip()
print(os.getpriority(0, 0), os.sched_getscheduler(0), score, resource.getrlimit(4))
"""
"""Prints what a process is worth to the kernel: niceness, policy, memory, core file."""

_PROJECT = Path(__file__).parents[2]
_STAND_IN = "tests.podproc.stand_in_pod"

levels = pytest.mark.parametrize(
    "level",
    [
        pytest.param(
            KeeperLevel.PIDNS,
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root has pid namespaces"),
        ),
        KeeperLevel.SUBREAPER,
    ],
)


def escapes(seconds: list[int]) -> str:
    """Return a command whose five sleeps try to get away, each in its own way."""
    one, two, three, four, five = seconds
    return (
        f"setsid sleep {one} & (trap '' TERM; sleep {two}; :) & "
        f"nohup sleep {three} >/dev/null 2>&1 & (env -i setsid sleep {four} &) ; sleep {five}"
    )


@asynccontextmanager
async def keeping(level: KeeperLevel) -> AsyncIterator[Keeper]:
    keeper = Keeper(environment=ENVIRONMENT, strongest=level)
    try:
        yield keeper
    finally:
        await keeper.close()


async def start(keeper: Keeper, text: str, *, cwd: str = "/") -> Command:
    output = os.open(os.devnull, os.O_WRONLY)
    try:
        return await keeper.run(["sh", "-c", text], cwd=cwd, environment=ENVIRONMENT, output=output)
    finally:
        os.close(output)


def all_run(seconds: list[int]) -> bool:
    return sleepers(*seconds) == set(seconds)


@levels
def test_the_keeper_starts_at_the_wanted_level_and_close_proves_its_end(level: KeeperLevel) -> None:
    async def main() -> None:
        keeper = Keeper(environment=ENVIRONMENT, strongest=level)
        assert (keeper.pid, keeper.level) == (None, None)
        await keeper.start()
        pid = keeper.pid
        assert pid is not None
        assert keeper.level is level
        await keeper.close()
        assert not Path(f"/proc/{pid}").exists()
        with pytest.raises(KeeperError, match="the pod is leaving"):
            await keeper.start()

    run(main())


@levels
def test_commands_tell_how_they_ended(level: KeeperLevel) -> None:
    async def main() -> None:
        async with keeping(level) as keeper:
            ended = await (await start(keeper, "exit 3")).wait()
            assert (ended.code, ended.signal, ended.left) == (3, None, ())
            ended = await (await start(keeper, "kill -TERM $$")).wait()
            assert (ended.code, ended.signal) == (None, signal.SIGTERM)

    run(main())


@levels
def test_a_killed_command_takes_all_it_started_along(level: KeeperLevel) -> None:
    seconds, other = marks(5), marks(1)

    async def main() -> None:
        async with keeping(level) as keeper:
            neighbour = await start(keeper, f"sleep {other[0]}; :")
            command = await start(keeper, escapes(seconds))
            await asyncio.to_thread(eventually, lambda: all_run(seconds), "all five run")
            async with asyncio.timeout(2):
                await command.kill()
            assert sleepers(*seconds) == set()
            assert (await command.wait()).signal == signal.SIGKILL
            assert all_run(other)
            assert [job.pid for job in await keeper.jobs()] == [neighbour.pid]

    run(main())


@levels
def test_close_ends_running_commands_and_background_jobs(level: KeeperLevel) -> None:
    seconds, background = marks(5), marks(1)

    async def main() -> None:
        async with keeping(level) as keeper:
            ended = await (await start(keeper, f"setsid sleep {background[0]} &")).wait()
            assert len(ended.left) == 1
            command = await start(keeper, escapes(seconds))
            await asyncio.to_thread(eventually, lambda: all_run(seconds), "all five run")
            await keeper.close()
            assert sleepers(*seconds, *background) == set()
            with pytest.raises(KeeperError, match="the pod is leaving"):
                await command.wait()

    run(main())


@levels
@pytest.mark.parametrize("victim", ["pod", "keeper's first process"])
def test_nothing_outlives_a_killed_pod_and_its_life_lock_is_free_last(
    level: KeeperLevel, victim: str, tmp_path: Path
) -> None:
    seconds = marks(5)
    lock = tmp_path / "life"
    lock.touch()
    pod, keeper_pid = _stand_in(level, escapes(seconds), lock)
    with pod, open(lock) as ours:
        eventually(lambda: all_run(seconds), "all five run")
        with pytest.raises(BlockingIOError):
            fcntl.flock(ours, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if victim != "pod":
            os.kill(keeper_pid, signal.SIGKILL)
            eventually(lambda: not sleepers(*seconds), "the commands of a killed keeper are gone")
        pod.kill()
        fcntl.flock(ours, fcntl.LOCK_EX)
        assert sleepers(*seconds) == set()
        wait_for_exit(keeper_pid)


def test_without_privileges_the_second_level_is_had_and_nothing_outlives_the_pod() -> None:
    seconds = marks(5)
    pod, _ = _stand_in(KeeperLevel.PIDNS, escapes(seconds), wanted=KeeperLevel.SUBREAPER)
    with pod:
        eventually(lambda: all_run(seconds), "all five run")
        pod.kill()
        eventually(lambda: not sleepers(*seconds), "all five are gone")


def _stand_in(
    level: KeeperLevel, command: str, lock: Path | None = None, *, wanted: KeeperLevel | None = None
) -> tuple[subprocess.Popen[str], int]:
    """Start a stand-in pod; where less than `level` is wanted, without any capability."""
    powerless = "powerless" if wanted else ""
    pod = subprocess.Popen(
        [sys.executable, "-m", _STAND_IN, level.value, command, str(lock or ""), powerless],
        cwd=_PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert pod.stdout is not None
    keeper_pid, got = pod.stdout.readline().split()
    assert got == (wanted or level)
    return pod, int(keeper_pid)


@levels
@pytest.mark.parametrize("part", ["outer", "inner"])
def test_a_killed_keeper_ends_its_commands_and_the_next_command_has_a_new_one(
    level: KeeperLevel, part: str
) -> None:
    seconds = marks(5)

    async def main() -> None:
        async with keeping(level) as keeper:
            command = await start(keeper, escapes(seconds))
            await asyncio.to_thread(eventually, lambda: all_run(seconds), "all five run")
            outer = keeper.pid
            assert outer is not None
            os.kill(outer if part == "outer" else children(outer)[0], signal.SIGKILL)
            with pytest.raises(KeeperError, match="it died"):
                await command.wait()
            ended = await (await start(keeper, "exit 4")).wait()
            assert ended.code == 4
            assert keeper.pid != outer
            assert sleepers(*seconds) == set()

    run(main())


@levels
def test_jobs_tell_command_and_age_of_what_runs(level: KeeperLevel) -> None:
    seconds = marks(2)

    async def main() -> None:
        async with keeping(level) as keeper:
            assert await keeper.jobs() == []
            left = await start(keeper, f"sleep {seconds[0]} & exit")
            await left.wait()
            running = await start(keeper, f"sleep {seconds[1]}; :")
            wanted = {left.id: f"sleep {seconds[0]}", running.id: f"sleep {seconds[1]}; :"}
            async with asyncio.timeout(10):  # a fork has its shell's command until it has exec'd
                while {job.id: job.command for job in await keeper.jobs()} != wanted:
                    await asyncio.sleep(0.005)
            assert all(0 <= job.age_s < 60 for job in await keeper.jobs())

    run(main())


@levels
def test_what_a_command_leaves_is_told_apart_from_what_others_leave(level: KeeperLevel) -> None:
    seconds = marks(20)

    async def main() -> None:
        async with keeping(level) as keeper:
            commands = [await start(keeper, f"sleep {number} & exit") for number in seconds]
            ended = await asyncio.gather(*(command.wait() for command in commands))
            await asyncio.to_thread(eventually, lambda: all_run(seconds), "all of them sleep")
            now = {job.pid: job.command for job in await keeper.jobs()}
            left = [[now[job.pid] for job in each.left] for each in ended]
            assert left == [[f"sleep {number}"] for number in seconds]

    run(main())


def test_long_commands_arrive_whole_and_too_long_ones_are_refused_in_words() -> None:
    async def main() -> None:
        async with keeping(KeeperLevel.SUBREAPER) as keeper:
            words = [f"'{'é' * 1000}{number}'" for number in range(60)]
            text, whole = await keeper.capture(
                ["sh", "-c", f"printf %s {' '.join(words)}"],
                cwd="/",
                environment=ENVIRONMENT,
                limit=1 << 20,
            )
            assert whole
            assert text.decode() == "".join(word.strip("'") for word in words)
            with pytest.raises(KeeperError, match="cannot run sh: Argument list too long"):
                await start(keeper, ":" * 200_000)

    run(main())


def test_answers_larger_than_one_read_arrive_whole_whatever_is_asked_meanwhile() -> None:
    seconds = marks(60)

    async def main() -> None:
        async with keeping(KeeperLevel.SUBREAPER) as keeper:
            commands = [await start(keeper, f"sleep {n}; # {'é' * 300}") for n in seconds]
            pids = sorted(command.pid for command in commands)

            async def ask_again_and_again() -> None:
                for _ in range(5):
                    assert sorted(job.pid for job in await keeper.jobs()) == pids

            async with asyncio.timeout(20), asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(ask_again_and_again())

    run(main())


def test_what_cannot_be_started_is_told_in_words() -> None:
    async def main() -> None:
        async with keeping(KeeperLevel.SUBREAPER) as keeper:
            with pytest.raises(KeeperError, match="cannot enter /no/such/place: No such file"):
                await start(keeper, ":", cwd="/no/such/place")
            with pytest.raises(KeeperError, match="cannot run nonesuch: No such file"):
                await keeper.run(["nonesuch"], cwd="/", environment=ENVIRONMENT, output=1)
            assert (await (await start(keeper, ":")).wait()).code == 0

    run(main())


def test_a_command_whose_start_is_cancelled_leaves_nothing() -> None:
    seconds = marks(1)

    async def main() -> None:
        async with keeping(KeeperLevel.SUBREAPER) as keeper:
            await keeper.start()
            starting = asyncio.create_task(start(keeper, f"sleep {seconds[0]}; :"))
            await asyncio.sleep(0)
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
            await asyncio.to_thread(
                eventually,
                lambda: not sleepers(*seconds) and not children(inner_of(keeper)),
                "gone",
            )

    run(main())


def inner_of(keeper: Keeper) -> int:
    assert keeper.pid is not None
    return children(keeper.pid)[0]


def test_capture_ends_a_command_that_says_too_much() -> None:
    async def main() -> None:
        async with keeping(KeeperLevel.SUBREAPER) as keeper:
            output, is_whole = await keeper.capture(
                ["yes"], cwd="/", environment=ENVIRONMENT, limit=100_000
            )
            assert not is_whole
            assert output.startswith(b"y\ny\n")
            assert await keeper.jobs() == []

    run(main())


def test_commands_start_with_default_signals_and_stdio_alone() -> None:
    async def main() -> None:
        old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGHUP})
        ignored = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        lock = os.open(os.devnull, os.O_RDWR)
        keeper = Keeper(environment=ENVIRONMENT, life_lock=lock)
        try:
            output, _ = await keeper.capture(
                ["sh", "-c", "grep -E '^Sig(Blk|Ign)' /proc/self/status; ls /proc/$$/fd; cat"],
                cwd="/",
                environment=ENVIRONMENT,
                limit=1 << 16,
            )
        finally:
            await keeper.close()
            os.close(lock)
            signal.signal(signal.SIGUSR2, ignored)
            signal.pthread_sigmask(signal.SIG_SETMASK, old)
        none = "0000000000000000"
        assert output.decode().split() == ["SigBlk:", none, "SigIgn:", none, "0", "1", "2"]

    run(main())


def test_a_message_larger_than_any_is_refused_by_its_length() -> None:
    received = bytearray(frame({"kind": "jobs"}) + b"\xff\xff\xff\xff{")
    with pytest.raises(ValueError, match="bytes"):
        take_frames(received)


@levels
def test_commands_and_all_they_start_come_after_everything_else(level: KeeperLevel) -> None:
    async def main() -> None:
        async with keeping(level) as keeper:
            output, _ = await keeper.capture(
                ["sh", "-c", '"$0" -c "$1"; setsid -w "$0" -c "$1"', sys.executable, STANDING],
                cwd="/",
                environment=ENVIRONMENT,
                limit=1 << 16,
            )
            assert output.decode().splitlines() == [f"10 {os.SCHED_BATCH} 1000 (0, 0)"] * 2
            assert keeper.pid is not None
            assert os.getpriority(os.PRIO_PROCESS, keeper.pid) == os.getpriority(os.PRIO_PROCESS, 0)
            adjusted = Path(f"/proc/{keeper.pid}/oom_score_adj").read_text()
            assert adjusted == Path("/proc/self/oom_score_adj").read_text()

    run(main())


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor cannot be left out")
def test_a_crowd_of_sessions_leaves_one_processor_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeper_program, "_has_shares_of_sessions", lambda: True)
    every = frozenset(os.sched_getaffinity(0))
    rest = every - {min(every)}
    processors = keeper_program.Processors()
    with sessions(keeper_program._CROWD * len(every) + 1) as pids:
        processors.look(pids)
        assert {frozenset(os.sched_getaffinity(pid)) for pid in pids} == {rest}
        few = pids[:2]
        processors._next = 0.0
        processors.look(few)
        assert {frozenset(os.sched_getaffinity(pid)) for pid in few} == {every}


def test_nobody_looks_at_sessions_that_have_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_program, "_has_shares_of_sessions", lambda: False)
    assert keeper_program.Processors().wait_s() is None


@contextmanager
def sessions(count: int) -> Iterator[list[int]]:
    """Give processes that are each a session of their own."""
    argv = ["sleep", str(marks(1)[0])]
    started = [subprocess.Popen(argv, start_new_session=True) for _ in range(count)]
    try:
        yield [one.pid for one in started]
    finally:
        for one in started:
            one.kill()
            one.wait()


def test_only_the_process_that_was_seen_is_signalled() -> None:
    with subprocess.Popen(["sleep", str(marks(1)[0])]) as child:
        parent, _, began = keeper_program._stat(child.pid)
        assert parent == os.getpid()
        for is_meant in (
            lambda stat: stat.parent == 1,
            lambda stat: stat.began == began - 1,
        ):
            assert keeper_program._signal(child.pid, signal.SIGKILL, is_meant) == 0
        assert child.poll() is None
        told = keeper_program._signal(child.pid, signal.SIGKILL, lambda stat: stat.began == began)
        assert told == began
        assert child.wait() == -signal.SIGKILL
    assert keeper_program._signal(child.pid, signal.SIGKILL, lambda stat: True) == 0


def test_a_stranger_in_a_scan_is_neither_stopped_nor_killed() -> None:
    """Its pid was that of one of ours until a moment ago."""
    argv = ["sh", "-c", f"sleep {marks(1)[0]} & echo $!; wait"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as between:
        assert between.stdout is not None
        stranger = int(between.stdout.readline())
        try:
            keeper_program.kill_trees(lambda: [stranger])
            state = Path(f"/proc/{stranger}/stat").read_text().rpartition(")")[2].split()[0]
            assert state in "RSD", "neither stopped nor dead"
        finally:
            keeper_program.kill_trees(lambda: [between.pid])
        assert between.wait() == -signal.SIGKILL


def test_the_keeper_signals_by_pid_only_its_own_unreaped_child() -> None:
    text = Path(keeper_program.__file__).read_text()
    assert re.findall(r"os\.kill\(.*", text) == ["os.kill(inner, signal.SIGKILL)"]


def test_both_ways_to_list_children_agree() -> None:
    with subprocess.Popen(["sleep", str(marks(1)[0])]) as child:
        try:
            assert children(os.getpid()) == children_by_parent(os.getpid()) == [child.pid]
        finally:
            child.kill()
