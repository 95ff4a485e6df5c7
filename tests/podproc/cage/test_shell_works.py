"""What people do in a shell, done in the cage with the real programs: a cage that only refuses is
easy to build.

A row is a few commands, each of them a shell of its own in the row's own folder of the scope, and
each has to succeed. Cheap rows of one user at one level share a keeper and run side by side; a
`heavy` row has one to itself.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from podproc.confine import landlock
from podproc.confine.support import look
from podproc.tools.keeper_client import KeeperError, KeeperLevel
from protocol.cage import CageLevel, CageSupport
from protocol.manifest import Sandbox
from tests.podproc.cage.ground import Done, Ground, Shell, caged
from tests.podproc.cage.users import ALL_USERS, USERS, User, can_make_ground, ground_for, run_as

pytestmark = pytest.mark.process

NAMESPACES, LANDLOCK = CageLevel.NAMESPACES, CageLevel.LANDLOCK
LEVELS = (NAMESPACES, LANDLOCK)
AT_ONCE = 3
LONGEST_S = 40
SHOWN = 4000

PROJECT = Path(__file__).parents[3]
SITE = Path(pytest.__file__).parents[1]
VENV = PROJECT / ".venv"
"""The project's own, with a pytest in it."""


@dataclass(frozen=True)
class Row:
    """Commands that have to succeed, what the last of them prints, and where that holds.

    `prepare` makes what they need without a cage: it is given the row's folder. `reads` is what
    they may read besides; `network` is needed at level `landlock`. With `others` they act on
    processes that are not the caller.
    """

    says: str
    commands: tuple[str, ...]
    prints: str | None = None
    needs: tuple[str, ...] = ()
    levels: tuple[CageLevel, ...] = LEVELS
    prepare: Callable[[Path], None] | None = None
    reads: tuple[Path, ...] = ()
    network: bool = False
    heavy: bool = False
    others: bool = False

    def settings(self, level: CageLevel) -> Sandbox:
        network = self.network and level is LANDLOCK
        return Sandbox(network=network, extra_read=tuple(map(str, self.reads)))

    def holds(self, user: User, level: CageLevel) -> bool:
        """Say whether it works: what acts on others is refused where theirs are seen, too."""
        is_alone = level is NAMESPACES or user.uid == 0  # who has a pid namespace
        return level in self.levels and (is_alone or not self.others)


def one(command: str) -> tuple[str, ...]:
    return (command,)


# -- what rows need --------------------------------------------------------------------------------


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def python_package(folder: Path) -> None:
    """Make a package that brings its own build backend: nothing has to come from anywhere."""
    metadata = "Metadata-Version: 2.1\\nName: greeting\\nVersion: 1.0\\n"
    wheel = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    backend = f"""\
import zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(folder + "/greeting-1.0-py3-none-any.whl", "w") as archive:
        archive.write("greeting.py")
        archive.writestr("greeting-1.0.dist-info/METADATA", "{metadata}")
        archive.writestr("greeting-1.0.dist-info/WHEEL", "{wheel}")
        archive.writestr("greeting-1.0.dist-info/RECORD", "")
    return "greeting-1.0-py3-none-any.whl"
"""
    system = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    project = '[project]\nname = "greeting"\nversion = "1.0"\n'
    files = {
        "pyproject.toml": system + project,
        "backend.py": backend,
        "greeting.py": "WORD = 'hello'\n",
    }
    write(folder / "greeting", files)


def node_package(folder: Path) -> None:
    package = {"name": "greeting", "version": "1.0.0", "main": "index.js"}
    files = {"package.json": json.dumps(package), "index.js": "module.exports = 'hello';\n"}
    write(folder / "greeting", files)


def python_tests(folder: Path) -> None:
    text = "def test_sums(tmp_path):\n    (tmp_path / 'x').write_text('x')\n    assert 1 + 1 == 2\n"
    write(folder, {"test_sums.py": text})
    write(folder.parents[1] / "sums", {"test_sums.py": text})


def makefile(folder: Path) -> None:
    rules = "all: one two\n\tcat one two\none two:\n\techo $@ > $@\n"
    program = '#include <stdio.h>\nint main(void) { puts("compiled"); return 0; }\n'
    write(folder, {"Makefile": rules, "hello.c": program, "many/a.txt": "a\n", "many/b.txt": "b\n"})


# -- the rows --------------------------------------------------------------------------------------

NEW = "git init -q -b main {0}; cd {0}; echo one > one; git add one; git commit -q -m first; "
REPOSITORY = NEW.format("repo")
WAIT_FOR_PORT = (
    "port() { timeout 10 sh -c 'until grep -qs port server.log; do sleep 0.02; done'; "
    "sed -n 's/.* port \\([0-9]*\\).*/\\1/p' server.log; }; "
)
SERVE = (
    "echo served > page; "
    "python3 -u -m http.server 0 --bind 127.0.0.1 > server.log 2>&1 & echo $! > server.pid; "
    f"{WAIT_FOR_PORT} port > server.port; test -s server.port; "
)
FETCH = "curl -sS --noproxy '*' http://127.0.0.1:$(cat server.port)/page; "
WAITED = "wait $! || test $? = 143"
"""For one's own child: the last command of a shell takes its place, and reaps nobody."""
END = "kill $(cat {0}.pid); timeout 10 tail --pid=$(cat {0}.pid) -f /dev/null; "
PYTEST = "-q 2>&1 | tail -n 1 | grep -o '1 passed'"
POOL = """python3 - <<'END'
import multiprocessing
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map(abs, [-1, 2]))
END"""
FORKSERVER = """cat > mine/pool.py <<'END'
import multiprocessing
if __name__ == "__main__":
    with multiprocessing.get_context("forkserver").Pool(2) as pool:
        print(pool.map(abs, [-1, 2]))
END
timeout 20 python3 mine/pool.py"""
CHILDREN = """python3 - <<'END'
import asyncio, subprocess
print(subprocess.check_output(["echo", "one"], text=True).strip(), flush=True)
async def main():
    child = await asyncio.create_subprocess_exec("echo", "two")
    await child.wait()
asyncio.run(main())
END"""

ROWS = [
    # git
    Row(
        "git makes a repository, commits and branches",
        one(REPOSITORY + "git branch topic; git status --short; git branch --list --no-column"),
        "* main\n  topic",
        ("git",),
    ),
    Row(
        "git makes a worktree inside the scope and commits in it",
        one(
            REPOSITORY + "git worktree add -q ../tree -b topic; cd ../tree; echo two > one; "
            "git commit -q -a -m second; git status -sb; git log --format=%s"
        ),
        "## topic\nsecond\nfirst",
        ("git",),
    ),
    Row(
        "git stashes, rebases and merges",
        one(
            REPOSITORY + "echo two > one; git stash -q; git switch -q -c topic; echo t > t; "
            "git add t; git commit -q -m topic; git switch -q main; echo m > m; git add m; "
            "git commit -q -m main; git rebase -q main topic; git switch -q main; "
            "git merge -q topic; git stash pop -q; git log --format=%s; git status --short"
        ),
        "topic\nmain\nfirst\n M one",
        ("git",),
    ),
    Row(
        "git status and log show a repository in the readable part of the workspace",
        one("cd ../../readable; git status --short; git log --format=%s; git diff --stat HEAD"),
        "?? two\nfirst",
        ("git",),
    ),
    Row(
        "git clones a repository of the readable part into the scope",
        one("git clone -q ../../readable mine; git -C mine log --format=%s"),
        "first",
        ("git",),
    ),
    # python
    Row(
        "python makes a virtual environment and pip installs a local package into it",
        (
            "python3 -m venv --without-pip --system-site-packages env",
            "env/bin/python -m pip install -q --no-index --disable-pip-version-check ./greeting",
            "env/bin/python -c 'import greeting; print(greeting.WORD)'",
        ),
        "hello",
        ("python3",),
        prepare=python_package,
        heavy=True,
    ),
    Row(
        "pytest runs with the python of PATH, in the scope and in the readable part",
        (
            f"PYTHONPATH={SITE} python3 -m pytest {PYTEST}",
            f"cd ../../sums; PYTHONPATH={SITE} python3 -m pytest {PYTEST}",
        ),
        "1 passed",
        ("python3",),
        prepare=python_tests,
        reads=(SITE,),
        heavy=True,
    ),
    Row(
        "pytest of another project's environment runs once that may be read",
        one(f"PATH={VENV / 'bin'}:$PATH; pytest {PYTEST}"),
        "1 passed",
        (str(VENV / "bin/python"),),
        prepare=python_tests,
        reads=(VENV, VENV.joinpath("bin/python").resolve().parents[1]),
        heavy=True,
    ),
    Row(
        "python starts threads",
        one(
            'python3 -c "import threading as t; them = [t.Thread(target=print, args=(1,)) '
            'for _ in range(4)]; [it.start() for it in them]; [it.join() for it in them]"'
        ),
        "1\n1\n1\n1",
        ("python3",),
    ),
    Row(
        "python runs programs, also from an event loop",
        one(CHILDREN),
        "one\ntwo",
        ("python3",),
    ),
    Row(
        "python keeps a database",
        one(
            "python3 -c \"import sqlite3; db = sqlite3.connect('d.db'); "
            "db.execute('pragma journal_mode=wal'); db.execute('create table t(x)'); "
            "db.execute('insert into t values (7)'); db.commit(); "
            "print(*db.execute('select x from t').fetchone())\""
        ),
        "7",
        ("python3",),
    ),
    Row(
        "processes of a pool share semaphores",
        one(POOL),
        "[1, 2]",
        ("python3",),
        levels=(NAMESPACES,),
    ),
    # node, make, gcc
    Row(
        "npm installs a local package and runs a script",
        (
            "npm init -y",
            "npm install ./greeting",
            'npm pkg set scripts.greet="node -p \'require(\\"greeting\\")\'"',
            "npm run -s greet",
        ),
        "hello",
        ("npm", "node"),
        prepare=node_package,
        heavy=True,
    ),
    Row(
        "node runs a script with children and workers",
        (
            "cat > run.js <<'END'\n"
            "const { execFileSync } = require('child_process');\n"
            "const { Worker } = require('worker_threads');\n"
            "process.stdout.write(execFileSync('echo', ['child']));\n"
            "new Worker('console.log(\"worker\")', { eval: true });\n"
            "END",
            "node run.js",
        ),
        "child\nworker",
        ("node",),
    ),
    Row("make builds in parallel", one("make -s -j2"), "one\ntwo", ("make",), prepare=makefile),
    Row(
        "gcc compiles and the program runs",
        one("gcc -O1 -pipe -o hello hello.c; gcc -o again hello.c; ./hello; ./again"),
        "compiled\ncompiled",
        ("gcc",),
        prepare=makefile,
    ),
    # the shell itself
    Row("pipes and process substitution", one("diff <(echo a) <(echo a) && echo b | cat"), "b"),
    Row("output goes into a process substitution", one("echo a > >(cat > f); wait $!; cat f"), "a"),
    Row(
        "heredocs and herestrings",
        one("cat <<END\nhere\nEND\nread x <<< string; echo $x"),
        "here\nstring",
    ),
    Row(
        "a heredoc larger than a pipe",
        one(f"wc -c <<END\n{'x' * 100_000}\nEND"),
        "100001",
    ),
    Row(
        "background jobs are waited for", one("(echo a > a) & (echo b > b) & wait; cat a b"), "a\nb"
    ),
    Row(
        "a coprocess answers",
        one(
            "coproc cat; echo hi >&${COPROC[1]}; read x <&${COPROC[0]}; echo $x; "
            'eval "exec ${COPROC[1]}>&-"; wait'
        ),
        "hi",
    ),
    Row("a script is made executable and run", one("echo 'echo ran' > s; chmod +x s; ./s"), "ran"),
    Row(
        "a script with an interpreter line runs",
        one("printf '#!/usr/bin/env bash\\necho ran\\n' > s; chmod 755 s; ./s"),
        "ran",
    ),
    Row(
        "umask holds for what is made",
        one("umask 027; touch f; mkdir d; stat -c %a f d"),
        "640\n750",
    ),
    Row("limits are lowered", one("ulimit -n 64; ulimit -c 0; ulimit -t 100; ulimit -n"), "64"),
    Row(
        "priorities of one's own are lowered",
        one("timeout 5 taskset -c 0 true; ionice -c 3 true; nice -n 5 nice"),
        "15",
        ("taskset", "ionice"),
    ),
    Row(
        "limits and priorities of a job are lowered",
        one(
            "sleep 60 & renice -n 15 $! > /dev/null; prlimit --nofile=64 --pid $!; "
            "ps -o ni= -p $!; kill $!; " + WAITED
        ),
        "15",
        ("ps", "prlimit", "renice"),
        others=True,
    ),
    Row(
        "sessions and what ignores a hang-up",
        one("setsid -w echo a; nohup echo b 2> /dev/null; stdbuf -oL echo c"),
        "a\nb\nc",
    ),
    Row(
        "traps and signals",
        one("trap 'echo got' USR1; kill -USR1 $$; sleep 60 & kill $!; wait $! || test $? = 143"),
        "got",
    ),
    # files
    Row(
        "links inside the scope",
        one("echo x > f; ln -s f soft; ln f hard; cat soft hard; readlink soft"),
        "x\nx\nf",
    ),
    Row("a fifo", one("mkfifo f; (echo through > f) & cat f; wait"), "through"),
    Row(
        "files are copied with their times, moved and removed",
        one(
            "cp -a /etc/passwd p; cp -r ../../readable r; mv p q; mv q r/; "
            "touch -d 2020-01-01 r/q; install -m 600 r/q i; rm -rf r; ls"
        ),
        "i",
    ),
    Row("a lock is taken", one("flock lock echo locked"), "locked", ("flock",)),
    Row(
        "tar packs and unpacks",
        one("tar czf many.tgz many; mkdir out; tar xzf many.tgz -C out; cat out/many/*"),
        "a\nb",
        prepare=makefile,
    ),
    Row(
        "sed, find and xargs work on files",
        one(
            "sed -i s/a/z/ many/a.txt; find many -type f -exec chmod 600 {} +; "
            "find many -name '*.txt' -print0 | sort -z | xargs -0 -n 1 -P 2 cat | sort"
        ),
        "b\nz",
        prepare=makefile,
    ),
    Row(
        "a big file is sorted beyond memory",
        one("seq 200000 | shuf > big; sort -n -S 1M big | tail -n 1"),
        "200000",
    ),
    Row(
        "ripgrep searches",
        one("rg -n --no-heading z ../../readable . || rg --files many | sort"),
        "many/a.txt\nmany/b.txt",
        ("rg",),
        prepare=makefile,
    ),
    # places
    Row(
        "devices",
        one(
            "echo gone > /dev/null; head -c 4 /dev/urandom | wc -c; head -c 3 /dev/zero | wc -c; "
            "echo in | cat /dev/stdin; echo out > /dev/stdout; echo error > /dev/stderr; "
            "cat /dev/fd/0 < /dev/null; echo x 2> /dev/null > /dev/full || echo full"
        ),
        "4\n3\nin\nout\nerror\nfull",
    ),
    Row(
        "temporary files are kept from one command to the next",
        (
            "f=$(mktemp); d=$(mktemp -d); echo kept > $f; mv $f $d/f; echo $d > name",
            "cat $(cat name)/f; case $(cat name) in $TMPDIR/*) echo there; esac",
        ),
        "kept\nthere",
    ),
    Row(
        "a temporary file is moved into the scope",
        one("mv $(mktemp) here; cp here $TMPDIR; ls"),
        "here",
    ),
    Row(
        "/tmp, /var/tmp and /dev/shm are there, and kept",
        (
            "for d in /tmp /var/tmp /dev/shm; do mkdir -p $d/a; echo kept > $d/a/kept; done",
            "cat /tmp/a/kept /var/tmp/a/kept /dev/shm/a/kept",
        ),
        "kept\nkept\nkept",
        levels=(NAMESPACES,),
    ),
    Row(
        "a terminal is made by script",
        one("script -qec 'test -t 1 && tty' /dev/null | grep -c /dev/pts/"),
        "1",
        ("script",),
        levels=(NAMESPACES,),
    ),
    Row(
        "a terminal is made by python",
        one("python3 -c \"import pty; pty.spawn(['tty'])\" | grep -c /dev/pts/"),
        "1",
        ("python3",),
        levels=(NAMESPACES,),
    ),
    Row(
        "what the machine is",
        one("{ uname; df .; free; id -u; hostname; nproc; ps aux; date; } > told; uname -s"),
        "Linux",
    ),
    # jobs and servers
    Row(
        "a job is left running, seen and ended by later commands",
        (
            "sleep 600 > /dev/null 2>&1 & echo $! > job.pid",
            "kill -0 $(cat job.pid); ps -o comm= -p $(cat job.pid)",
            END.format("job")
            + "if kill -0 $(cat job.pid) 2> /dev/null; then exit 1; fi; echo ended",
        ),
        "ended",
        ("ps",),
        others=True,
    ),
    Row(
        "a server on loopback is asked by the same command",
        one(SERVE + FETCH + "kill $!; " + WAITED),
        "served",
        ("python3", "curl"),
        network=True,
    ),
    Row(
        "a server on loopback is asked by a later command",
        (SERVE, FETCH + END.format("server")),
        "served",
        ("python3", "curl"),
        levels=(NAMESPACES,),
    ),
]


# -- running them ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """The last command that ran and how it ended; or the program that is `missing`."""

    command: str = ""
    code: int | None = None
    output: str = ""
    missing: str = ""


def furnish(ground: Ground) -> None:
    """Make a home with what cannot be read in it and what can, and a repository to look at."""
    home = ground.root / "home"
    identity = "[user]\n\tname = me\n\temail = me@here\n"
    write(home, {".gitconfig": identity, ".npmrc": "fund=false\n"})
    os.environ["HOME"] = str(home)
    if shutil.which("git"):
        make = NEW.format("readable") + "echo two > two; touch one"
        subprocess.run(["bash", "-ec", make], cwd=ground.work, check=True)


async def run_row(row: Row, ground: Ground, shell: Shell) -> Outcome:
    if missing := [one for one in row.needs if not shutil.which(one)]:
        return Outcome(missing=missing[0])
    folder = ground.mine / str(ROWS.index(row) if row in ROWS else "row")
    folder.mkdir()
    if row.prepare:
        row.prepare(folder)
    outcome = Outcome()
    for command in row.commands:
        try:
            text = f"set -e; cd {folder}\n{command}"
            done = await shell(text, timeout_s=LONGEST_S, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
        except (KeeperError, TimeoutError) as error:
            done = Done(None, repr(error))
        outcome = Outcome(command, done.code, done.output.strip()[-SHOWN:])
        if done.code != 0:
            break
    return outcome


async def run_in(ground: Ground, level: CageLevel, rows: Sequence[Row]) -> list[Outcome]:
    furnish(ground)
    free = asyncio.Semaphore(AT_ONCE)

    async def in_turn(row: Row, shell: Shell) -> Outcome:
        async with free:
            return await run_row(row, ground, shell)

    async with caged(ground, level, settings=rows[0].settings(level)) as shell:
        return list(await asyncio.gather(*(in_turn(row, shell) for row in rows)))


@functools.cache
def outcomes(
    user: User, level: CageLevel, rows: tuple[Row, ...], above: str = "/tmp"
) -> dict[str, Outcome]:
    """Run rows that want the same of their cage below one keeper."""
    with ground_for(user, above=above) as ground:
        done = run_as(user, lambda: asyncio.run(run_in(ground, level, rows)))
    return {row.says: outcome for row, outcome in zip(rows, done, strict=True)}


def companions(row: Row, user: User, level: CageLevel) -> tuple[Row, ...]:
    """Return the rows that are run together with this one."""
    if row.heavy:
        return (row,)
    wanted = row.settings(level)
    cheap = (one for one in ROWS if not one.heavy and one.holds(user, level))
    return tuple(one for one in cheap if one.settings(level) == wanted)


@functools.cache
def support(user: User) -> CageSupport:
    return CageSupport.found(run_as(user, look))


def require(level: CageLevel, user: User) -> None:
    """Skip a test of a level that this user does not get on this machine."""
    found = support(user)
    can_landlock = landlock.abi() >= landlock.SCOPES_ABI and found.level is not CageLevel.NONE
    if found.level is not level and not (level is LANDLOCK and can_landlock):
        pytest.skip(f"no {level} for {user} on this machine: {'; '.join(found.missing)}")


def check(row: Row, outcome: Outcome) -> None:
    if outcome.missing:
        pytest.skip(f"{outcome.missing} cannot be run here by this user")
    shown = f"{outcome.command}\n-- exit code {outcome.code}\n{outcome.output}"
    assert outcome.code == 0, shown
    assert row.prints is None or outcome.output == row.prints, shown


def cases() -> Iterator[ParameterSet]:
    for user in ALL_USERS:
        for level in LEVELS:
            for row in ROWS:
                if row.holds(user, level):
                    yield pytest.param(row, level, user, id=f"{row.says} ({level}, {user})")


levels = pytest.mark.parametrize("level", LEVELS)
users = pytest.mark.parametrize("user", USERS)


@pytest.mark.parametrize(("row", "level", "user"), list(cases()))
def test_what_people_do_works(row: Row, level: CageLevel, user: User) -> None:
    require(level, user)
    check(row, outcomes(user, level, companions(row, user, level))[row.says])


ANYWHERE = Row(
    "a workspace is where it is, and a place for temporary files beside it",
    (
        REPOSITORY + "git clone -q ../../../readable clone; cat clone/one",
        "f=$(mktemp); echo kept > $f; mv $f here; if touch ../../readable/x; then exit 1; fi",
        "cat here repo/one; ls -d ../../readable/.git",
    ),
    "kept\none\n../../readable/.git",
    ("git",),
)


@users
@levels
@pytest.mark.parametrize("above", ["/tmp", "/var/tmp", "/dev/shm", "/opt", "/var/lib"])
def test_a_workspace_works_wherever_it_lies(above: str, level: CageLevel, user: User) -> None:
    require(level, user)
    if not can_make_ground(above):
        pytest.skip(f"no folder can be made in {above}")
    check(ANYWHERE, outcomes(user, level, (ANYWHERE,), above)[ANYWHERE.says])


@users
@levels
def test_twenty_megabytes_come_through_the_pipe_whole(level: CageLevel, user: User) -> None:
    require(level, user)

    async def main(ground: Ground) -> tuple[int | None, int]:
        async with caged(ground, level) as shell:
            done = await shell("head -c 20000000 /dev/zero | tr '\\0' x")
            return done.code, len(done.output)

    with ground_for(user) as ground:
        assert run_as(user, lambda: asyncio.run(main(ground))) == (0, 20_000_000)


@users
def test_at_landlock_without_a_pid_namespace_a_later_command_cannot_end_a_job(user: User) -> None:
    require(LANDLOCK, user)

    async def main(ground: Ground) -> list[Done]:
        async with caged(ground, LANDLOCK, strongest=KeeperLevel.SUBREAPER) as shell:
            left = await shell("sleep 600 > /dev/null 2>&1 & echo $! > mine/job.pid")
            return [left, await shell("kill $(cat mine/job.pid)")]

    with ground_for(user) as ground:
        left, refused = run_as(user, lambda: asyncio.run(main(ground)))
    assert left.code == 0, left
    assert refused.code == 1
    assert "Operation not permitted" in refused.output


async def once(
    ground: Ground, level: CageLevel, command: str, settings: Sandbox | None = None
) -> Done:
    async with caged(ground, level, settings=settings) as shell:
        return await shell(command)


REFUSED = [
    ("shared semaphores", LANDLOCK, POOL, "PermissionError"),
    ("terminals", LANDLOCK, "script -qec tty /dev/null", "Permission denied"),
    ("sockets without network", LANDLOCK, "exec 3<> /dev/tcp/127.0.0.1/9", "Permission denied"),
    ("a fork server", LANDLOCK, FORKSERVER, "PermissionError"),
    ("a fork server", NAMESPACES, FORKSERVER, "PermissionError"),
]


@users
@pytest.mark.parametrize(
    ("level", "command", "told"),
    [pytest.param(*case, id=f"{what} ({case[0]})") for what, *case in REFUSED],
)
def test_what_a_cage_cannot_give_is_refused_and_says_so(
    level: CageLevel, command: str, told: str, user: User
) -> None:
    require(level, user)
    with ground_for(user) as ground:
        done = run_as(user, lambda: asyncio.run(once(ground, level, command)))
    assert done.code, done
    assert told in done.output, done


@users
def test_a_fork_server_runs_where_unix_sockets_are_opened(user: User) -> None:
    require(NAMESPACES, user)
    opened = Sandbox(unix_sockets=True)
    with ground_for(user) as ground:
        done = run_as(user, lambda: asyncio.run(once(ground, NAMESPACES, FORKSERVER, opened)))
    assert done == Done(0, "[1, 2]\n")


CARGO = "cd mine; cargo init -q --name it --vcs none && cargo run -q"


@levels
def test_cargo_of_the_home_builds_and_runs(level: CageLevel) -> None:
    me = ALL_USERS[0]
    require(level, me)

    def build(level: CageLevel) -> Done:
        with ground_for(me) as ground:
            return run_as(me, lambda: asyncio.run(once(ground, level, CARGO)))

    if build(CageLevel.NONE).code != 0:
        pytest.skip("cargo does not build here without a cage either")
    done = build(level)
    assert (done.code, done.output) == (0, "Hello, world!\n"), done.output
