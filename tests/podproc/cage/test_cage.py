"""The cage of one pod: orders that follow the scope, and commands that do not run without one."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from podproc.confine.support import look
from podproc.tools.cage import Cage
from podproc.tools.cage_plan import Order
from podproc.tools.keeper import children
from podproc.tools.keeper_client import Keeper, KeeperError
from podproc.tools.shell import refused_paths
from protocol.cage import CageLevel, CageSupport
from protocol.manifest import Sandbox
from protocol.scope import LentRule, Permission, Scope, ScopeRule
from protocol.surroundings import look_around
from tests.podproc.cage.ground import Ground, Shell, caged
from tests.podproc.tooling import marks, sleepers
from tests.support.waiting import eventually
from tests.support.without import UNSHARE

SUPPORT = CageSupport.found(look())
LEVELS = [CageLevel.NAMESPACES, CageLevel.LANDLOCK]
if SUPPORT.level is not CageLevel.NAMESPACES:
    pytest.skip("this machine has no namespaces to cage with", allow_module_level=True)

levels = pytest.mark.parametrize("level", LEVELS)
_PROJECT = Path(__file__).parents[3]


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    ground = Ground(tmp_path)
    ground.make()
    return ground


def cage_of(
    ground: Ground, level: CageLevel, *, protected: Sequence[Path] = (), **settings: Any
) -> Cage:
    return Cage(
        level,
        Sandbox.model_validate(settings),
        scope=ground.scope(),
        lent=lambda: ground.lent,
        closed=[str(ground.product)],
        opened=str(ground.outputs),
        room=str(ground.product / "room"),
        readable=look_around(os.environ, [str(ground.product)]).readable(),
        protected=[str(one) for one in protected],
    )


def lent(target: Path) -> LentRule:
    return LentRule(target=str(target), permission=Permission.WRITE, pod="kid")


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def run_apart(program: str, ground: Ground, *, without: Sequence[str] = ()) -> str:
    """Run a program over the ground in a process of its own; returns what it printed."""
    lacking = [sys.executable, "-m", "tests.support.without", *without, "--"] if without else []
    argv = [*lacking, sys.executable, "-c", program, str(ground.root)]
    done = subprocess.run(argv, cwd=_PROJECT, stdout=subprocess.PIPE, timeout=30, check=True)
    return done.stdout.decode()


# -- orders


def test_a_lent_file_is_held_by_landlock_as_well_since_its_borrower_renames_over_it(
    ground: Ground,
) -> None:
    """Its mount is gone then, for a command of the lender that runs."""
    (ground.mine / "file").write_text("x")
    (ground.mine / "lib").mkdir()
    cage = cage_of(ground, CageLevel.NAMESPACES)
    assert (str(ground.mine), "write") in cage.order().grants
    ground.lent = (lent(ground.mine / "file"),)
    grants = cage.order().grants
    assert (str(ground.mine), "write") not in grants
    assert (str(ground.mine / "file"), "write") not in grants
    assert (str(ground.mine / "lib"), "write") in grants or str(ground.mine).startswith("/tmp/")


@levels
def test_an_order_is_made_once_and_again_when_something_it_depends_on_has_changed(
    ground: Ground, level: CageLevel
) -> None:
    cage = cage_of(ground, level)
    first = cage.order()
    assert cage.order() is first
    (ground.mine / "lib").mkdir()
    ground.lent = (lent(ground.mine / "lib"),)
    after = cage.order()
    assert after != first
    assert cage.order() is after
    (ground.mine / "lib").rmdir()
    (ground.mine / "lib").symlink_to(ground.work)
    assert cage.order() is not after
    ground.lent = ()
    assert cage.order() == first


@levels
def test_an_order_tells_what_its_command_could_write(ground: Ground, level: CageLevel) -> None:
    cage = cage_of(ground, level)
    (ground.mine / "lib").mkdir()
    assert cage.order().could_write(lent(ground.mine / "lib"))
    assert not cage.order(writes=False).could_write(lent(ground.mine / "lib"))
    assert not cage.order().could_write(lent(ground.work / "other"))
    ground.lent = (lent(ground.mine / "lib"),)
    assert not cage.order().could_write(lent(ground.mine / "lib"))
    assert cage.order().could_write(lent(ground.mine))


def test_what_programs_need_is_readable_and_homes_and_our_folders_are_not(tmp_path: Path) -> None:
    home, tools = tmp_path / "home", tmp_path / "tools"
    for folder in (
        "bin",
        ".tool/bin",
        ".tool/lib",
        ".tool/keys",
        ".local/bin",
        ".local/share/uv/python",
        ".config/git",
    ):
        (home / folder).mkdir(parents=True)
    for name in ("bin", "podsup"):
        (tools / name).mkdir(parents=True)
    (home / "src").mkdir()
    (home / ".config/git/credentials").touch()
    (home / ".config/git/config").touch()
    path = f"{home}/bin:{home}/.tool/bin:{home}/.local/bin:{tools}/bin:relative:/bin:{home}/none"
    found = look_around({"HOME": str(home), "PATH": path}, [str(tools / "podsup")]).readable()
    ours = {one.removeprefix(str(tmp_path)) for one in found if is_below(one, tmp_path)}
    assert ours == {
        "/home/bin",
        "/home/.tool/bin",
        "/home/.tool/lib",
        "/home/.local/bin",
        "/home/.local/share/uv/python",
        "/home/.config/git/config",
        "/tools/bin",
    }
    assert "/usr" in found
    assert "/" not in found


def is_below(path: str, folder: Path) -> bool:
    return path.startswith(f"{folder}/")


def test_without_a_home_in_the_environment_the_user_s_own_is_not_read_for_a_folder_of_the_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    entry = pwd.struct_passwd(("me", "x", os.geteuid(), 0, "", str(tmp_path), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: entry)
    found = look_around({"PATH": f"{tmp_path}/bin:/bin"}, []).readable()
    assert str(tmp_path / "bin") in found
    assert str(tmp_path) not in found


def test_order_denies_a_protected_file_only_where_a_mount_holds_it(ground: Ground) -> None:
    files = [ground.mine / "podsup.toml", ground.mine / "absent", ground.root / "elsewhere"]
    for file in (files[0], files[2]):
        file.touch()

    def order(level: CageLevel, *protected: Path) -> Order:
        return cage_of(ground, level, protected=protected).order()

    for level in LEVELS:
        absent, none = order(level, *files[1:]), order(level)
        assert (absent.mounts, absent.grants) == (none.mounts, none.grants)
    held = order(CageLevel.NAMESPACES, *files)
    assert order(CageLevel.LANDLOCK, *files).grants == order(CageLevel.LANDLOCK).grants
    assert ("read", str(files[0])) in held.mounts
    assert (str(ground.mine), "write") in held.grants


# -- commands

process = pytest.mark.process


@process
def test_protected_file_cannot_be_changed_moved_or_replaced(ground: Ground) -> None:
    """The files stay as they are, and new ones can be made beside them."""
    (ground.mine / "conf/profiles").mkdir(parents=True)
    files = [ground.mine / "podsup.toml", ground.mine / "conf/profiles/kid.toml"]
    for file in files:
        file.write_text("the operator's")
    attempts = [
        f"{attempt} && echo CHANGED"
        for file in files
        for attempt in (
            f"echo mine > {file}",
            f"rm -f {file}",
            f"sed -i s/operator/agent/ {file}",
            f"(touch {file}.new; mv -f {file}.new {file})",
            f"mv {file} {file}.old",
            f"ln {file} {file}.link",
            f"chmod 666 {file}",
        )
    ]
    attempts += [
        f"mv {ground.mine}/conf {ground.mine}/other && echo CHANGED",
        f"mv {ground.mine}/conf/profiles {ground.mine}/other && echo CHANGED",
        f"rm -rf {ground.mine}/conf && echo CHANGED",
        f"umount {files[0]} && echo CHANGED",
    ]

    async def main() -> None:
        async with caged(ground, CageLevel.NAMESPACES, protected=files) as shell:
            for attempt in attempts:
                assert "CHANGED" not in (await shell(attempt)).output, attempt
            new = await shell(f"touch {ground.mine}/new {ground.mine}/conf/profiles/new && echo ok")
            assert new.output == "ok\n"
        async with caged(ground, CageLevel.LANDLOCK, protected=files) as shell:
            new = await shell(f"touch {ground.mine}/newer && echo ok")
            assert new.output == "ok\n", "at this level a denied file would freeze its folder"

    run(main())
    assert [file.read_text() for file in files] == ["the operator's"] * 2
    assert [file.stat().st_nlink for file in files] == [1, 1]


@process
@levels
def test_a_command_whose_cage_cannot_be_built_is_not_run_and_the_next_one_is(
    ground: Ground, level: CageLevel
) -> None:
    async def main() -> None:
        async with caged(ground, level) as shell:
            assert (await shell("echo ok")).output == "ok\n"
            ground.work.rename(ground.root / "elsewhere")
            with pytest.raises(
                KeeperError, match=r"the cage cannot be built: .*/work: No such file"
            ):
                await shell("touch mine/a")
            (ground.root / "elsewhere").rename(ground.work)
            assert (await shell("echo ok")).output == "ok\n"

    run(main())
    assert not (ground.mine / "a").exists()


@process
@levels
def test_a_command_does_not_run_in_a_folder_that_only_looks_like_its_own(
    ground: Ground, level: CageLevel
) -> None:
    async def main() -> None:
        scope = Scope(allow=(ScopeRule(target="/opt", permission=Permission.READ),))
        async with caged(ground, level, scope=scope) as shell:
            if level is CageLevel.NAMESPACES and str(ground.work).startswith("/tmp/"):
                with pytest.raises(KeeperError, match="the cage cannot be built"):
                    await shell("pwd")
            else:
                assert (await shell("ls")).code == 2

    run(main())


@process
def test_a_keeper_with_a_cage_runs_nothing_without_an_order(ground: Ground) -> None:
    async def main() -> None:
        async with caged(ground, CageLevel.NAMESPACES) as shell:

            async def none(*, writes: bool) -> None:
                return None

            shell.keeper._order = none  # type: ignore[method-assign]
            with pytest.raises(KeeperError, match="or none for one that is"):
                await shell("touch mine/a")

    run(main())
    assert not (ground.mine / "a").exists()


@process
def test_a_machine_that_grants_less_than_it_did_runs_nothing_rather_than_uncaged(
    ground: Ground,
) -> None:
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from podproc.tools.keeper_client import KeeperError\n"
        "from protocol.cage import CageLevel\n"
        "from tests.podproc.cage.ground import Ground, caged\n"
        "async def main():\n"
        "    async with caged(Ground(Path(sys.argv[1])), CageLevel.NAMESPACES) as shell:\n"
        "        try:\n"
        "            await shell('touch mine/a')\n"
        "        except KeeperError as error:\n"
        "            print(error)\n"
        "asyncio.run(main())\n"
    )
    told = run_apart(program, ground, without=(UNSHARE,))
    assert told == (
        "commands cannot be caged as was promised: [Errno 1] unshare: Operation not permitted\n"
    )
    assert not (ground.mine / "a").exists()


@process
@levels
def test_who_asks_what_runs_is_told_of_a_command_that_is_about_to_start(
    ground: Ground, level: CageLevel
) -> None:
    """A lend that looked between a command's order and its start would miss it."""

    async def main() -> None:
        async with caged(ground, level) as shell:
            await shell("true")
            starting = asyncio.create_task(hold(shell))
            await asyncio.sleep(0)  # it is on its way, and its order is being made
            (job,) = await shell.keeper.running()
            assert job.command == "600"
            assert shell.keeper.could_write([lent(ground.mine)])
            assert not shell.keeper.could_write([lent(ground.work / "other")])
            await (await starting).kill()

    run(main())


@process
@levels
def test_what_runs_may_be_any_command_that_was_started_since_nothing_ran(
    ground: Ground, level: CageLevel
) -> None:
    """Whose a process is can be guessed wrongly: a lend is not granted on such a guess."""
    lib = ground.mine / "lib"
    lib.mkdir()

    async def main() -> None:
        async with caged(ground, level) as shell:
            await shell("true")
            assert await shell.keeper.running() == []
            assert shell.keeper.could_write([lent(lib)])
            ground.lent = (lent(lib),)
            job = await hold(shell)
            assert not shell.keeper.could_write([lent(lib)]), "of those before none runs"
            ground.lent = ()
            await shell("true")
            assert shell.keeper.could_write([lent(lib)]), "what runs may be what it has left"
            await job.kill()

    run(main())


@process
@levels
def test_commands_that_start_at_once_are_all_among_what_runs(
    ground: Ground, level: CageLevel
) -> None:
    async def main() -> None:
        async with caged(ground, level) as shell:
            await shell("true")
            searching = asyncio.create_task(
                shell.keeper.capture(
                    ["sleep", "600"], cwd="/", environment=shell.environment, limit=10
                )
            )
            await asyncio.sleep(0)  # it is on its way, and asks whether anything runs
            job = await hold(shell)
            await asyncio.to_thread(eventually, lambda: not shell.keeper._launches, "both started")
            assert len(await shell.keeper.running()) == 2
            assert shell.keeper.could_write([lent(ground.mine)])
            searching.cancel()
            await asyncio.gather(searching, return_exceptions=True)
            await job.kill()

    run(main())


async def hold(shell: Shell) -> Any:
    output = os.open(os.devnull, os.O_WRONLY)
    try:
        return await shell.keeper.run(
            ["sleep", "600"],
            cwd=str(shell.ground.work),
            environment=shell.environment,
            output=output,
        )
    finally:
        os.close(output)


@process
@levels
@pytest.mark.parametrize("part", ["outer", "inner", "both"])
def test_a_keeper_that_is_killed_takes_its_cell_along_and_the_next_one_cages_again(
    ground: Ground, level: CageLevel, part: str
) -> None:
    (mark,) = marks(1)

    async def main() -> None:
        async with caged(ground, level) as shell:
            await shell("echo kept > $TMPDIR/kept")
            await shell(f"setsid sleep {mark} >/dev/null 2>&1 & :")
            await asyncio.to_thread(eventually, lambda: sleepers(mark), "it runs")
            outer = shell.keeper.pid
            assert outer is not None
            parts = {"outer": [outer], "inner": children(outer)}
            parts["both"] = [*parts["outer"], *parts["inner"]]
            for pid in parts[part]:
                os.kill(pid, signal.SIGKILL)
            await asyncio.to_thread(eventually, lambda: shell.keeper.pid != outer, "it is seen")
            if part != "both" or level is CageLevel.NAMESPACES or SUPPORT.is_alone:
                await asyncio.to_thread(eventually, lambda: not sleepers(mark), "all is gone")
            done = await shell("cat $TMPDIR/kept; echo x > outside")
            assert done.output.startswith("kept\n")
            assert "outside: " in done.output
            assert shell.keeper.pid != outer

    run(main())


@process
@levels
def test_no_signal_of_a_command_reaches_the_first_process_of_its_namespace(
    ground: Ground, level: CageLevel
) -> None:
    if level is CageLevel.LANDLOCK and not SUPPORT.is_alone:
        pytest.skip("there is no pid namespace at this level for this user")

    async def main() -> None:
        async with caged(ground, level) as shell:
            done = await shell("for s in $(seq 1 64); do kill -$s 1; done 2>/dev/null; echo ok")
            assert done.output == "ok\n"
            pid = shell.keeper.pid
            assert (await shell("echo ok")).output == "ok\n"
            assert shell.keeper.pid == pid

    run(main())


@process
@levels
def test_a_command_has_no_descriptor_but_its_output_and_an_empty_input(
    ground: Ground, level: CageLevel
) -> None:
    async def main() -> None:
        async with caged(ground, level) as shell:
            done = await shell("ls -l /proc/self/fd | sed 's/.* -> //'")
            links = done.output.split("\n")[1:-1]
            assert links[0] == "/dev/null"
            pipes = [link for link in links[1:] if link.startswith("pipe:")]
            assert [link for link in links[1:] if link not in pipes] == [links[-1]], links
            assert links[-1].endswith("/fd"), "the folder that ls reads"

    run(main())


@process
@levels
def test_a_pod_without_room_for_temporary_files_says_so_and_runs_nothing(
    ground: Ground, level: CageLevel
) -> None:
    place, aside = ground.product / "data/pods/me", ground.product / "data/pods/aside"

    async def main() -> None:
        async with caged(ground, level) as shell:
            place.rename(aside)
            place.write_text("in the way")
            with pytest.raises(KeeperError, match=r"no room for temporary files: .*pods/me"):
                await shell("touch mine/a")
            place.unlink()
            aside.rename(place)
            assert (await shell("echo ok")).output == "ok\n"

    run(main())
    assert not (ground.mine / "a").exists()


@process
@levels
def test_what_is_opened_for_commands_is_open_to_them_and_nothing_beside_it(
    ground: Ground, level: CageLevel
) -> None:
    place = ground.root / "place"
    for name in ("read", "write", "beside"):
        (place / name).mkdir(parents=True)
        (place / name / "file").write_text(f"the text of {name}")
    settings = Sandbox(
        extra_read=(str(place / "read"),), extra_write=(str(place / "write"),), network=True
    )

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            async with caged(ground, level, settings=settings) as shell:
                done = await shell(
                    f"cd {place}; for d in read write beside; do cat $d/file; : > $d/new; done;"
                    f"exec 3<>/dev/tcp/127.0.0.1/{port} && echo connected"
                )
        assert re.findall("the text of (?:read|write|beside)", done.output) == [
            "the text of read",
            "the text of write",
        ]
        assert done.output.endswith("connected\n")

    run(main())
    assert [path.parent.name for path in place.glob("*/new")] == ["write"]


MOUNTS = """
import os
for line in open("/proc/self/mountinfo"):
    words = line.split()
    flags = words[5].split(",")
    print(words[4], "nosuid" in flags, "nodev" in flags)
"""


@process
def test_no_mount_of_a_cell_honours_setuid_and_few_have_devices(ground: Ground) -> None:
    """Those of an order, too: what is covered, private, lent or written."""
    (ground.mine / "lib").mkdir()
    ground.lent = (lent(ground.mine / "lib"),)

    async def main() -> None:
        async with caged(ground, CageLevel.NAMESPACES) as shell:
            done = await shell(f"python3 -c '{MOUNTS}'")
            rows = [line.split() for line in done.output.splitlines()]
            assert {suid for _, suid, _ in rows} == {"True"}, done.output
            with_devices = {path for path, _, nodev in rows if nodev == "False"}
            assert with_devices <= DEVICE_MOUNTS, done.output
            assert str(ground.mine / "lib") in {path for path, _, _ in rows}

    run(main())


DEVICE_MOUNTS = {
    *("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"),
    *("/dev/ptmx", "/dev/pts"),
}


@process
@levels
def test_the_usual_devices_open(ground: Ground, level: CageLevel) -> None:
    async def main() -> None:
        async with caged(ground, level) as shell:
            done = await shell(
                "echo x > /dev/null; ! echo x 2> /dev/null > /dev/full || exit 1; "
                "for d in zero random urandom; do head -c 1 /dev/$d | wc -c; done"
            )
            assert (done.code, done.output) == (0, "1\n1\n1\n")

    run(main())


@process
def test_a_cell_has_terminals_of_its_own(ground: Ground) -> None:
    async def main() -> None:
        async with caged(ground, CageLevel.NAMESPACES) as shell:
            done = await shell("script -qec 'echo typed > /dev/tty; tty' /dev/null | tr -d '\\r'")
            assert done.output == "typed\n/dev/pts/0\n"

    run(main())


@process
@levels
def test_what_the_kernel_counts_per_user_is_bounded_for_good(
    ground: Ground, level: CageLevel
) -> None:
    async def main() -> None:
        async with caged(ground, level) as shell:
            done = await shell("ulimit -Hc; ulimit -Hi; ulimit -Hq; ulimit -He; ulimit -i 5000")
            core, signals, queue_bytes, nice, *_ = done.output.splitlines()
            assert (core, nice) == ("0", "0")
            assert int(signals) <= 4096
            assert int(queue_bytes) <= 256 * 1024
            assert done.code != 0, "a limit that is lowered is never raised again"

    run(main())


@process
def test_memory_of_no_process_is_bounded_in_a_cell(ground: Ground) -> None:
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    async def main() -> None:
        async with caged(ground, CageLevel.NAMESPACES) as shell:
            done = await shell("stat -f -c '%b %S %c' /dev/shm; cat /proc/sys/kernel/shmall")
            blocks, size, files, pages = map(int, done.output.split())
            assert 0 < blocks * size <= whole // 16 + size
            assert files <= 16384
            if os.geteuid() == 0:
                assert pages * os.sysconf("SC_PAGE_SIZE") <= whole // 16

    run(main())


@process
@levels
def test_a_command_opens_fewer_files_and_is_never_real_time(
    ground: Ground, level: CageLevel
) -> None:
    pods = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    before = resource.getrlimit(resource.RLIMIT_RTPRIO)
    with suppress(ValueError):  # an ordinary user has none to lose
        resource.setrlimit(resource.RLIMIT_RTPRIO, (9, 9))

    async def main() -> None:
        async with caged(ground, level) as shell:
            done = await shell("ulimit -Hr; ulimit -Hn; ulimit -n")
            assert done.output.split() == ["0", *[str(min(4096, pods // 2))] * 2]

    try:
        run(main())
    finally:
        resource.setrlimit(resource.RLIMIT_RTPRIO, before)


@process
def test_a_cell_has_a_part_of_the_user_s_inotify(ground: Ground) -> None:
    async def main() -> None:
        async with caged(ground, CageLevel.NAMESPACES) as shell:
            for name in ("instances", "watches"):
                whole = int(Path(f"/proc/sys/fs/inotify/max_user_{name}").read_text())
                done = await shell(f"cat /proc/sys/user/max_inotify_{name}")
                assert int(done.output) == max(whole // 16, 8 if name == "instances" else 0)
            done = await shell("echo 100000 > /proc/sys/user/max_inotify_instances")
            assert done.code != 0

    run(main())


@process
@levels
def test_a_command_never_gets_ahead_again(ground: Ground, level: CageLevel) -> None:
    """It comes after everything else, and no call or file of /proc changes that."""
    tries = (
        "nice -n -5 true 2>&1 | grep -q cannot",
        "! echo 0 > /proc/self/oom_score_adj",
        "! echo 0 > /proc/self/autogroup",
        "test $(cat /proc/self/oom_score_adj) = 1000",
        "test $(nice) = 10",
    )

    async def main() -> None:
        async with caged(ground, level) as shell:
            for one in tries:
                assert (await shell(one)).code == 0, one

    run(main())


@process
@levels
def test_a_search_s_program_may_write_nothing(ground: Ground, level: CageLevel) -> None:
    async def main() -> None:
        async with caged(ground, level) as shell:
            script = "echo x > mine/a; echo done"
            output, is_whole = await shell.keeper.capture(
                ["bash", "-c", script],
                cwd=str(ground.work),
                environment=shell.environment,
                limit=1000,
            )
            assert output.endswith(b"done\n")
            assert is_whole
            assert (await shell(script)).output == "done\n"

    run(main())
    assert (ground.mine / "a").exists(), "the shell may"


@process
@levels
def test_what_a_command_left_never_stands_in_the_way_of_the_next_start(
    ground: Ground, level: CageLevel
) -> None:
    """A tree too deep to walk, and names too long to join."""
    deep = "import os\nfor _ in range(1500):\n    os.mkdir('d'); os.chdir('d')\n"
    long = "import os\nfor _ in range(30):\n    os.mkdir('n' * 200); os.chdir('n' * 200)\n"

    async def main() -> None:
        async with caged(ground, level) as shell:
            for script in (deep, long):
                done = await shell(f'cd $TMPDIR && python3 -c "{script}"')
                assert done.code == 0, done.output
        assert list((ground.product / "data/pods/me").iterdir()) == [ground.outputs]
        async with caged(ground, level) as shell:
            assert (await shell("ls $TMPDIR | grep -c '^[dn]'")).output == "0\n"

    run(main())


@process
@levels
def test_a_lent_file_that_its_borrower_replaces_is_not_written_by_a_command_that_runs(
    ground: Ground, level: CageLevel
) -> None:
    """As every Edit of the borrower does: the mount that lay on the old file goes with it."""
    file, tries = ground.mine / "file", ground.mine / "tries/n"
    file.write_text("as lent")
    tries.parent.mkdir()
    ground.lent = (lent(file),)
    loop = f"while :; do echo more >> {file}; echo >> {tries}; sleep 0.01; done 2>/dev/null"

    async def main() -> None:
        async with caged(ground, level) as shell:
            await shell(f"{loop} >/dev/null &")
            for text in ("as edited", "as edited again"):
                new = ground.mine / "new"
                new.write_text(text)
                new.replace(file)
                before = tries.stat().st_size if tries.exists() else 0
                await asyncio.to_thread(
                    eventually, lambda n=before: tries.stat().st_size > n + 3, "it tries on"
                )
                assert file.read_text() == text

    run(main())


@process
@levels
def test_a_keeper_that_ends_while_a_command_is_on_its_way_is_replaced(
    ground: Ground, level: CageLevel
) -> None:
    """Between its order and its start; `stop_jobs` ends a keeper when every order is a new one."""

    async def main() -> None:
        async with caged(ground, level) as shell:
            await shell("true")
            make = shell.keeper._order

            async def make_and_end(*, writes: bool) -> Any:
                shell.keeper._order = make  # type: ignore[method-assign]
                order = await make(writes=writes)
                await shell.keeper.stop_all("a lend says so")
                return order

            for new in (False, True):
                ground.lent = (lent(ground.mine),) if new else ()
                shell.keeper._order = make_and_end  # type: ignore[method-assign]
                async with asyncio.timeout(5):
                    assert (await shell("echo ok")).output == "ok\n"
            async with asyncio.timeout(5):
                assert await shell.keeper.running() == []

    run(main())


@process
@levels
def test_nothing_that_a_command_has_put_on_the_path_is_run_outside_of_its_cage(
    ground: Ground, level: CageLevel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools, mark = ground.mine / "bin", ground.root / "was-run"
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    trap = f"#!/bin/sh\necho $0 >> {mark}\n"

    async def main() -> None:
        async with caged(ground, level) as shell:
            plant = 'for p in chmod rm python3 sh bash env mount; do echo "$TRAP" > mine/bin/$p;'
            await shell(f"mkdir mine/bin; {plant} chmod +x mine/bin/$p; done", TRAP=trap)
            assert (tools / "rm").exists()
            await shell.keeper.stop_all("a new one is started")
            await shell("true")

    run(main())
    assert not mark.exists()
    assert not (ground.product / "data/pods/me/cage").exists()


@process
def test_what_a_command_puts_where_a_later_one_has_a_mount_is_moved_aside(tmp_path: Path) -> None:
    folder = tmp_path if str(tmp_path).startswith("/tmp/") else Path(tempfile.mkdtemp(dir="/tmp"))
    ground = Ground(folder / "g")
    ground.make()
    one = folder / "one"
    one.write_text("one")
    scope = Scope(
        allow=(
            *ground.scope().allow,
            ScopeRule(target=str(one), permission=Permission.READ),
        )
    )

    async def main() -> None:
        async with caged(ground, CageLevel.NAMESPACES, scope=scope) as shell:
            assert (await shell(f"cat {one}")).output == "one"
            up = folder.parent
            for way in (f"mkfifo {one}", f"mkdir {one}", f"ln -s /etc/passwd {one}"):
                await shell(f"mv {folder} {up}/moved-$RANDOM; mkdir -p {folder}; {way}")
                assert (await shell(f"cat {one}")).output == "one", way
            for way in (f"touch {folder}", f"ln -s /etc {folder}", f"mkfifo {folder}"):
                await shell(f"mv {folder} {up}/moved-$RANDOM; {way}")
                assert (await shell(f"cat {one}")).output == "one", way

    run(main())


@process
@levels
def test_what_the_pod_before_has_left_is_not_there_for_the_next_one(
    ground: Ground, level: CageLevel
) -> None:
    async def main() -> None:
        leave = "touch $TMPDIR/a; mkdir -m 000 $TMPDIR/closed $TMPDIR/closed2; ln -s / $TMPDIR/root"
        keeper: Keeper
        async with caged(ground, level) as shell:
            await shell(leave)
            keeper = shell.keeper
            assert (await shell("ls -A $TMPDIR")).output.split()[0] == "a"
        assert keeper.pid is None
        async with caged(ground, level) as shell:
            assert (await shell("ls -d $TMPDIR/a $TMPDIR/closed* $TMPDIR/root")).code == 2

    run(main())
    assert not (ground.product / "data/pods/me/cage").exists()


@pytest.mark.parametrize(
    ("output", "paths"),
    [
        ("touch: cannot touch 'b': Permission denied\n", ["b"]),
        ("bash: line 1: /x/q: Read-only file system\nmore", ["/x/q"]),
        ("PermissionError: [Errno 13] Permission denied: 'foo bar'\n", ["foo bar"]),
        ("mkdir: cannot create directory \u2018a\u2019: Permission denied\n" * 3, ["a"]),
        ("ssh: Permission denied (publickey)\n", []),
        ("".join(f"{n}: Permission denied\n" for n in range(9)), ["0", "1", "2", "3", "4"]),
        ("", []),
    ],
)
def test_paths_that_a_command_says_it_was_refused_are_found_in_its_output(
    output: str, paths: list[str]
) -> None:
    assert refused_paths(output) == paths


def writing(*targets: Path | str) -> Scope:
    read = ScopeRule(target="/", permission=Permission.READ)
    rules = [ScopeRule(target=str(one), permission=Permission.WRITE) for one in targets]
    return Scope(allow=(read, *rules))


@process
@levels
def test_a_scope_of_everything_is_everything_but_what_is_closed(
    ground: Ground, level: CageLevel
) -> None:
    secret = ground.product / "token"
    secret.write_text("secret")
    place = Path(os.environ.get("HOME", "/"))

    async def main() -> None:
        async with caged(ground, level, scope=writing("/")) as shell:
            script = (
                f"echo x > {ground.work}/new; echo x > {place}/{ground.root.name}; cat {secret}"
            )
            done = await shell(script)
            assert "secret" not in done.output, done.output

    try:
        run(main())
        assert (ground.work / "new").exists()
        assert (place / ground.root.name).exists()
    finally:
        (place / ground.root.name).unlink(missing_ok=True)


@process
@levels
def test_a_scope_that_is_the_shared_tmp_is_not_stood_in_for(
    ground: Ground, level: CageLevel
) -> None:
    (ground.product / "token").write_text("secret")

    async def main() -> None:
        mark = f"/tmp/podsup-{ground.root.name}-{os.getpid()}"
        async with caged(ground, level, scope=writing("/tmp")) as shell:
            done = await shell(f"echo x > {mark}; cat {ground.product}/token")
        try:
            assert os.path.exists(mark) is (
                level is CageLevel.NAMESPACES or not str(ground.product).startswith("/tmp/")
            )
            assert "secret" not in done.output
        finally:
            Path(mark).unlink(missing_ok=True)

    run(main())


@process
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_read_only_mount_in_the_scope_stays_read_only_and_the_rest_is_writable(
    ground: Ground,
) -> None:
    """What came read-only into a user namespace cannot be opened there, nor what holds it whole."""
    program = (
        "import asyncio, os, sys\n"
        "from pathlib import Path\n"
        "from podproc.confine import kernel\n"
        "from protocol.cage import CageLevel\n"
        "from tests.podproc.cage.ground import Ground, caged\n"
        "ground = Ground(Path(sys.argv[1]))\n"
        "kernel.own_mounts()\n"
        "kernel.libc('mount', b'none', str(ground.mine / 'disk').encode(), b'tmpfs', 1, None)\n"
        "async def main():\n"
        "    async with caged(ground, CageLevel.NAMESPACES) as shell:\n"
        "        done = await shell('echo x > mine/a; echo x > mine/disk/b')\n"
        "        print(done.output)\n"
        "asyncio.run(main())\n"
    )
    (ground.mine / "disk").mkdir()
    told = run_apart(program, ground)
    assert "mine/disk/b: Read-only file system" in told
    assert "mine/a:" not in told
    assert (ground.mine / "a").exists()
