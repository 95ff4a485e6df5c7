"""Bash with real processes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from podproc.tools.base import Call, ToolResult
from podproc.tools.keeper_client import Keeper, KeeperLevel
from podproc.tools.output import OutputStore
from podproc.tools.shell import Bash, BashArgs, command_environment
from tests.podproc.test_keeper import all_run, escapes, levels
from tests.podproc.tooling import marks, run, sleepers
from tests.support.waiting import eventually

pytestmark = pytest.mark.process


@dataclass
class Shell:
    """A Bash tool with its keeper; `streamed` is what a watcher has seen."""

    bash: Bash
    keeper: Keeper
    outputs: Path
    streamed: list[str] = field(default_factory=list)

    async def __call__(self, command: str, **more: float | bool) -> ToolResult:
        call = Call("call-1", lambda stream, text: self.streamed.append(text))
        args = BashArgs.model_validate({"command": command, **more})
        return await self.bash.run(args, call)

    def kept(self) -> list[Path]:
        return sorted(self.outputs.iterdir())


@asynccontextmanager
async def shell(tmp_path: Path, level: KeeperLevel = KeeperLevel.SUBREAPER) -> AsyncIterator[Shell]:
    environment = command_environment(os.environ)
    keeper = Keeper(environment=environment, strongest=level)
    outputs = tmp_path / "bash-output"
    bash = Bash(keeper, cwd=str(tmp_path), environment=environment, store=OutputStore(str(outputs)))
    try:
        yield Shell(bash, keeper, outputs)
    finally:
        await keeper.close()
        await bash.close()


def test_a_command_gives_its_output_and_exit_code(tmp_path: Path) -> None:
    async def main() -> None:
        async with shell(tmp_path) as bash:
            result = await bash("pwd; echo oops >&2; exit 3")
            assert result.content == f"{tmp_path}\noops\n"
            assert result.summary.startswith("exit code 3 after 0.")
            assert result.is_error
            assert await bash("true") == ToolResult("exit code 0 after 0.0 s", None)
            assert "ended by SIGSEGV" in (await bash("kill -SEGV $$")).summary
            assert "not found" in ((await bash("nonesuch")).content or "")

    run(main())


def test_output_is_streamed_while_the_command_runs(tmp_path: Path) -> None:
    async def main() -> None:
        async with shell(tmp_path) as bash:
            running = asyncio.create_task(bash("printf 'caf\\303'; read x <go; printf '\\251 end'"))
            os.mkfifo(tmp_path / "go")
            await asyncio.to_thread(eventually, lambda: bash.streamed, "something is streamed")
            assert bash.streamed == ["caf"]
            assert not running.done()
            (tmp_path / "go").write_text("\n")
            assert (await running).content == "café end"
            assert "".join(bash.streamed) == "café end"

    (tmp_path / "go").unlink(missing_ok=True)
    run(main())


@pytest.mark.parametrize(
    ("command", "head", "tail", "size"),
    [
        ("seq 81", "1\n2\n", "\n80\n81\n", 234),
        ("seq -f %0100g 200", f"{1:0100}\n", f"\n{200:0100}\n", 20_200),
    ],
)
def test_long_output_goes_to_a_file_whose_path_is_told(
    tmp_path: Path, command: str, head: str, tail: str, size: int
) -> None:
    async def main() -> None:
        async with shell(tmp_path) as bash:
            content = (await bash(command)).content
            (kept,) = bash.kept()
            assert content is not None
            assert content.startswith(head)
            assert content.endswith(tail)
            assert len(content) < 10_000
            assert str(kept) in content
            assert kept.stat().st_size == size
            assert kept.stat().st_mode & 0o777 == 0o600
            assert bash.outputs.stat().st_mode & 0o777 == 0o700
            assert (await bash("seq 80")).content == "".join(f"{n}\n" for n in range(1, 81))

    run(main())


def test_a_call_returns_while_a_background_job_holds_the_pipe(tmp_path: Path) -> None:
    seconds = marks(1)

    async def main() -> None:
        async with shell(tmp_path) as bash:
            os.mkfifo(tmp_path / "go")
            async with asyncio.timeout(10):
                result = await bash(f"(read x <go; echo later; sleep {seconds[0]}) & echo now")
            content = result.content or ""
            assert content.startswith("now\n")
            (job,) = await bash.keeper.jobs()
            assert f"pid {job.pid}: " in content
            assert result.summary.endswith("left running: 1")
            (kept,) = bash.kept()
            assert str(kept) in content
            (tmp_path / "go").write_text("\n")
            await asyncio.to_thread(
                eventually, lambda: kept.read_text() == "now\nlater\n", "its output is kept"
            )
            assert (await bash(f"kill {job.pid}; echo killed")).content == "killed\n"
        assert sleepers(*seconds) == set()

    run(main())


def test_a_background_command_returns_at_once_and_tells_its_end_in_its_file(tmp_path: Path) -> None:
    async def main() -> None:
        async with shell(tmp_path) as bash:
            os.mkfifo(tmp_path / "go")
            result = await bash("echo begun; read x <go; echo ended; exit 5", background=True)
            (job,) = await bash.keeper.jobs()
            (kept,) = bash.kept()
            assert result == ToolResult(
                f"started in the background: pid {job.pid}", f"output: {kept}"
            )
            (tmp_path / "go").write_text("\n")
            await asyncio.to_thread(
                eventually, lambda: "[exit code 5 after" in kept.read_text(), "the end is told"
            )
            assert kept.read_text().startswith("begun\nended\n")

    run(main())


@levels
def test_a_timeout_kills_everything_within_two_seconds(tmp_path: Path, level: KeeperLevel) -> None:
    seconds = marks(5)

    async def main() -> None:
        async with shell(tmp_path, level) as bash:
            await bash("true")
            async with asyncio.timeout(3):
                result = await bash(f"echo begun; {escapes(seconds)}", timeout=1)
            assert sleepers(*seconds) == set()
            assert result == ToolResult(
                "timed out after 1 s; all it had started was killed", "begun\n", is_error=True
            )
            assert await bash.keeper.jobs() == []

    run(main())


@levels
def test_a_cancellation_kills_everything_within_two_seconds(
    tmp_path: Path, level: KeeperLevel
) -> None:
    seconds = marks(5)

    async def main() -> None:
        async with shell(tmp_path, level) as bash:
            running = asyncio.create_task(bash(escapes(seconds)))
            await asyncio.to_thread(eventually, lambda: all_run(seconds), "all five run")
            running.cancel()
            async with asyncio.timeout(2):
                with pytest.raises(asyncio.CancelledError):
                    await running
            assert sleepers(*seconds) == set()

    run(main())


def test_a_flood_neither_stalls_the_loop_nor_passes_the_cap(tmp_path: Path) -> None:
    async def main() -> None:
        async with shell(tmp_path) as bash:
            await bash("true")
            loop = asyncio.get_running_loop()
            gaps: list[float] = []

            async def beat() -> None:
                while True:
                    since = loop.time()
                    await asyncio.sleep(0.01)
                    gaps.append(loop.time() - since)

            beating = asyncio.create_task(beat())
            content = (await bash("head -c 100000000 /dev/zero | tr '\\0' x")).content or ""
            beating.cancel()
            assert max(gaps) < 1
            assert "less 32891136 bytes without room" in content
            assert sum(file.stat().st_size for file in bash.kept()) == 64 * 1024 * 1024
            assert sum(map(len, bash.streamed)) < 2 * 1024 * 1024

    run(main())


def test_a_keeper_that_dies_fails_the_command_and_the_next_one_works(tmp_path: Path) -> None:
    async def main() -> None:
        async with shell(tmp_path) as bash:
            keeper = bash.keeper
            await bash("true")
            running = asyncio.create_task(bash("echo here; sleep 1000; :"))
            await asyncio.to_thread(eventually, lambda: bash.streamed, "it runs")
            assert keeper.pid is not None
            os.kill(keeper.pid, 9)
            with pytest.raises(Exception, match=r"(?s)the keeper of the pod's commands.*here"):
                await running
            assert (await bash("echo again")).content == "again\n"

    run(main())


def test_commands_see_an_allow_list_and_never_a_key(tmp_path: Path) -> None:
    seen = command_environment(
        {
            "PATH": os.environ["PATH"],
            "HOME": "/home/x",
            "LC_ALL": "C.UTF-8",
            "LC_MYPAT": "secret",
            "LC_": "secret",
            "TERM": "xterm",
            "ANTHROPIC_API_KEY": "secret",
            "OPENAI_API_KEY": "secret",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "BASH_ENV": "/tmp/evil",
            "LD_PRELOAD": "/tmp/evil.so",
            "PODSUP_POD": "pod",
            "PODSUP_FLEET": "fleet",
            "PODSUP_INCARNATION": "1",
            "PODSUP_COOKIE": "cookie",
            "PODSUP_TOKEN": "secret",
            "PODSUP_HOME": "/home/x/.podsup",
        }
    )
    assert "secret" not in seen.values()
    assert seen.keys() == {
        "PATH", "HOME", "LC_ALL", "TERM", "NO_COLOR", "PAGER", "GIT_TERMINAL_PROMPT",
        "PODSUP_POD", "PODSUP_FLEET", "PODSUP_INCARNATION", "PODSUP_COOKIE",
    }  # fmt: skip
    assert seen["TERM"] == "dumb"


def test_a_commands_environment_is_what_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "very-secret")
    monkeypatch.setenv("PODSUP_POD", "me")

    async def main() -> None:
        async with shell(tmp_path) as bash:
            output = (
                await bash("cat /proc/self/environ /proc/$PPID/environ | tr '\\0' '\\n'")
            ).content
            assert output is not None
            assert "PODSUP_POD=me" in output
            assert "very-secret" not in output
            assert (await bash("cat; ls /proc/$$/fd; true")).content == "0\n1\n2\n"

    run(main())


def test_closing_without_the_keeper_lets_go_of_background_output(tmp_path: Path) -> None:
    seconds = marks(2)

    async def main() -> None:
        async with shell(tmp_path) as bash:
            await bash(f"sleep {seconds[0]} &")
            await bash(f"sleep {seconds[1]}", background=True)
            await asyncio.to_thread(eventually, lambda: all_run(seconds), "both sleep")
            await bash.bash.close()

    run(main())
