"""Glob and Grep over a real folder, and the two engines of Grep against each other."""

from __future__ import annotations

import ast
import asyncio
import os
import shutil
import time
import tracemalloc
from pathlib import Path

import pytest

from podproc.escaping import name_of
from podproc.queries import complete_path
from podproc.references import Places, resolve
from podproc.tools import patterns
from podproc.tools.base import ToolFailure
from podproc.tools.keeper_client import Keeper
from podproc.tools.search import Grep, GrepArgs, OutputMode
from podproc.tools.shell import command_environment
from podproc.tools.walk import glob_of
from protocol.scope import Scope
from protocol.segments import FileRef
from tests.podproc.tooling import Workbench, quiet_call, rule, run, view_of
from tests.support.waiting import eventually


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "ws"
    files = {
        "a.py": "import os\nFOO = 1\n\n\ndef foo():\n    return FOO\n",
        "src/b.py": "foo bar\nfoo\n",
        "src/deep/c.txt": "nothing\nhere\nfoo at the end",
        "src/deep/dos.txt": "one\r\nfoo\r\ntwo\r\n",
        "src/gen/made.py": "foo\n",
        "src/gen/kept.py": "foo\n",
        "build/out.txt": "foo\n",
        ".hidden/x.txt": "foo\n",
        ".git/config": "foo\n",
        ".gitignore": "/build/\n**/gen/*\n",
        "src/.gitignore": "!gen/kept.py\n",
        "src/-dash.md": "foo\n",
        "[slug]/page.md": "foo\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, newline="")
    (root / "bin").write_bytes(b"foo\0foo\n")
    (root / "utf16.txt").write_bytes("foo\n".encode("utf-16"))
    (root / "latin.txt").write_bytes(b"foo caf\xe9\n")
    (root / "loop").symlink_to(root)
    (root / "alias.py").symlink_to("a.py")
    return root


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("*.py", ["a.py", "x/a.py"], ["a.pyc", "a.py/b"]),
        ("src/*.py", ["src/a.py"], ["src/x/a.py", "x/src/a.py"]),
        ("src/**/*.py", ["src/a.py", "src/x/y/a.py"], ["a.py"]),
        ("**/t/*", ["t/a", "x/t/a"], ["t", "t/a/b"]),
        ("src/**", ["src/a", "src/a/b"], ["src", "a"]),
        ("**", ["a", "a/b"], []),
        ("/top.txt", ["top.txt"], ["x/top.txt"]),
        ("*.{ts,tsx}", ["a.ts", "x/a.tsx"], ["a.t", "a.js"]),
        ("{a,b}?.[!0-9]", ["ax.c", "bx.c"], ["ax.1", "cx.c"]),
        ("a+b(c).txt", ["a+b(c).txt"], ["aab(c).txt"]),
        (r"a\*b", ["a*b"], ["axb"]),
        ("[]x]y", ["]y", "xy"], ["y"]),
    ],
)
def test_globs_mean_what_they_mean_to_ripgrep(
    pattern: str, matches: list[str], others: list[str]
) -> None:
    glob = glob_of(pattern)
    assert [path for path in matches if not glob.matches(path)] == []
    assert [path for path in others if glob.matches(path)] == []


def test_a_bad_glob_is_an_error_the_model_can_read() -> None:
    with pytest.raises(ToolFailure, match="not a glob"):
        glob_of("[z-a]")


def test_glob_lists_the_newest_first_and_follows_no_directory_link(tree: Path) -> None:
    for age, name in enumerate(("src/b.py", "a.py", "src/gen/made.py", "src/gen/kept.py")):
        os.utime(tree / name, (1_000_000 - age, 1_000_000 - age))
    bench = Workbench(Scope(allow=(rule(tree, "read"),)), tree)
    found = bench.call("Glob", pattern="**/*.py").content
    assert found is not None
    assert found.splitlines() == [
        "src/b.py", "a.py", "alias.py", "src/gen/made.py", "src/gen/kept.py"
    ]  # fmt: skip
    unignored = bench.call("Glob", pattern="*", path="src/gen", gitignore=True)
    assert unignored.content == "src/gen/kept.py"
    absolute = bench.call("Glob", pattern=f"{tree}/src/*.py", path=str(tree))
    assert absolute.content == "src/b.py"
    assert bench.call("Glob", pattern="config").content == ""


def test_glob_shows_the_newest_thousand(tmp_path: Path) -> None:
    for number in range(1005):
        (tmp_path / f"{number}.txt").touch()
        os.utime(tmp_path / f"{number}.txt", (number, number))
    result = Workbench(Scope(allow=(rule(tmp_path),)), tmp_path).call("Glob", pattern="*")
    assert result.summary == "the newest 1000 of 1005 files"
    assert result.content is not None
    assert result.content.splitlines()[::999] == ["1004.txt", "5.txt"]


@pytest.fixture
def huge(tmp_path: Path) -> Path:
    """Return a folder of very many names."""
    (tmp_path / "a").touch()
    for number in range(20_000):
        os.link(tmp_path / "a", tmp_path / f"{number:05}{'x' * 200}")
    return tmp_path


def test_a_folder_of_very_many_names_is_never_a_list(huge: Path) -> None:
    bench = Workbench(Scope(allow=(rule(huge),)), huge)
    view = view_of(Scope(allow=(rule(huge),)), huge)
    places = Places(view, str(huge), str(huge))
    for look in (
        lambda: bench.call("Glob", pattern="*.nothing").summary,
        lambda: bench.call("Glob", pattern="*", gitignore=True).summary,
        lambda: resolve([FileRef(path=".")], places).items,
        lambda: complete_path(view, ""),
    ):
        tracemalloc.start()
        try:
            assert look()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 5 * 2**20


@pytest.mark.parametrize("multiline", [False, True])
def test_grep_tells_so_many_lines_of_one_file(tmp_path: Path, multiline: bool) -> None:
    (tmp_path / "many").write_bytes(b"\n" * 300_000)
    bench = Workbench(Scope(allow=(rule(tmp_path),)), tmp_path)
    result = bench.call("Grep", pattern="^", multiline=multiline, output_mode="count")
    assert result.content == "many:100000"
    assert result.summary.endswith("the search was ended early: too much to show")


def test_nothing_outside_the_readable_scope_is_found(tmp_path: Path, tree: Path) -> None:
    (tmp_path / "secret.txt").write_text("foo\n")
    (tree / "leak.txt").symlink_to(tmp_path / "secret.txt")
    scope = Scope(allow=(rule(tree, "read"),), deny=(rule(tree / "src/deep", "read"),))
    bench = Workbench(scope, tree)
    files = bench.call("Glob", pattern="*.txt").content
    hits = bench.call("Grep", pattern="foo").content
    assert files is not None
    assert hits is not None
    for listing in (files, hits):
        assert "deep" not in listing
        assert "leak.txt" not in listing
        assert "secret" not in listing
    assert bench.call("Glob", pattern="*", path="..").summary.startswith("denied: ")
    assert bench.call("Grep", pattern="foo", path="../secret.txt").summary.startswith("denied: ")


def test_grep_shows_files_counts_or_lines(tree: Path) -> None:
    bench = Workbench(Scope(allow=(rule(tree, "read"),)), tree)
    files = bench.call("Grep", pattern="foo", path="src")
    assert files.content == "\n".join(
        f"src/{name}" for name in ["-dash.md", "b.py", "deep/c.txt", "deep/dos.txt", "gen/kept.py"]
    )
    assert files.summary == "6 matching lines in 5 files"
    counts = bench.call("Grep", pattern="FOO", type="py", output_mode="count", **{"-i": True})
    assert counts.content == "a.py:3\nsrc/b.py:2\nsrc/gen/kept.py:1"
    lines = bench.call("Grep", pattern="^foo$", glob="*.txt", output_mode="content", context=1)
    assert lines.content is not None
    assert "src/deep/dos.txt-1-one\nsrc/deep/dos.txt:2:foo\nsrc/deep/dos.txt-3-two" in lines.content
    one = bench.call("Grep", pattern="foo", output_mode="content", path="src/b.py", head_limit=1)
    assert one.content == "src/b.py:1:foo bar"
    assert "the first 1 of 2 lines" in one.summary


def test_grep_explains_bad_patterns_and_types(tree: Path) -> None:
    bench = Workbench(Scope(allow=(rule(tree, "read"),)), tree)
    assert "regex parse error" in bench.call("Grep", pattern="(foo").summary
    assert "unrecognized file type" in bench.call("Grep", pattern="x", type="klingon").summary
    assert bench.defects == []


@pytest.mark.process
@pytest.mark.parametrize("multiline", [False, True])
def test_a_pattern_without_end_is_ended_and_the_interpreter_stays_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, multiline: bool
) -> None:
    monkeypatch.setattr(patterns, "LONGEST_S", 1.5)
    (tmp_path / "x.txt").write_text("x" * 60 + "\n")
    view = view_of(Scope(allow=(rule(tmp_path, "read"),)), tmp_path)
    args = GrepArgs(pattern="(x+x+)+y", multiline=multiline)

    async def main() -> float:
        longest, since = 0.0, time.monotonic()
        search = asyncio.ensure_future(
            Grep(view, keeper=None, environment={}).run(args, quiet_call())
        )
        while not search.done():
            await asyncio.sleep(0.01)
            longest, since = max(longest, time.monotonic() - since), time.monotonic()
        with pytest.raises(ToolFailure, match=r"more than 1\.5 s at x\.txt"):
            await search
        return longest

    assert run(main()) < 1.0, "the loop turned meanwhile"


@pytest.mark.process
def test_a_cancelled_search_ends_at_once_whatever_its_pattern(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x" * 60 + "\n")
    view = view_of(Scope(allow=(rule(tmp_path, "read"),)), tmp_path)

    async def main() -> None:
        grep = Grep(view, keeper=None, environment={})
        search = asyncio.ensure_future(grep.run(GrepArgs(pattern="(x+x+)+y"), quiet_call()))
        await asyncio.to_thread(eventually, lambda: children() != [], "the search has begun", 10)
        search.cancel()
        with pytest.raises(asyncio.CancelledError):
            await search
        await asyncio.to_thread(eventually, lambda: children() == [], "its process is gone", 5)

    run(main())


def children() -> list[str]:
    """Return the pids of this process's children."""
    tasks = Path("/proc/self/task").iterdir()
    return [pid for task in tasks for pid in (task / "children").read_text().split()]


@pytest.mark.process
def test_the_process_of_a_pattern_sees_and_keeps_nothing(tmp_path: Path) -> None:
    with patterns.PatternProcess("x", 0, multiline=False, is_stopped=lambda: False) as process:
        assert process.hits("x\ny\nx", "it") == {0, 2}
        (pid,) = children()
        assert Path(f"/proc/{pid}/environ").read_bytes() == b""
        assert {entry.name for entry in Path(f"/proc/{pid}/fd").iterdir()} == {"0", "1", "2"}
    assert children() == []


def test_grep_refuses_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    bench = Workbench(Scope(allow=(rule(tmp_path, "read"),)), tmp_path)
    assert "is not a regular file" in bench.call("Grep", pattern="x", path="pipe").summary


def test_a_hostile_gitignore_and_glob_leave_a_search_quick(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / ("a" * 200 + f"{number}")).write_text("needle\n")
    (tmp_path / ".gitignore").write_text("\n".join(["*a" * 60 + "b", "**/*a*/" * 60 + "b"]))
    bench = Workbench(Scope(allow=(rule(tmp_path, "read"),)), tmp_path)
    since = time.thread_time()
    assert bench.call("Glob", pattern="*a" * 60 + "b", gitignore=True).content == ""
    assert bench.call("Grep", pattern="needle", glob="*a" * 60 + "b").content == ""
    assert "in 20 files" in bench.call("Grep", pattern="needle").summary
    assert time.thread_time() - since < 5


# -- names


ODD = [
    "a\nsrc/forged.py",
    "esc\x1b]52;c;x\x07.py",
    "turned\u202eyp.exe",
    "hidden\u200b.py",
    'quo"te\n.py',
    os.fsdecode(b"latin\xe9.py"),
    '"looks quoted".py',
]


@pytest.mark.parametrize("name", ODD)
def test_no_name_of_a_file_begins_a_line_of_its_own(tmp_path: Path, name: str) -> None:
    path = tmp_path / "ws" / name
    path.parent.mkdir(parents=True)
    path.write_text("needle\n")
    bench = Workbench(Scope(allow=(rule(tmp_path / "ws"),)), tmp_path / "ws")
    shown = name_of(name)
    assert shown.isprintable()
    assert "\ud800" not in shown
    if "\udce9" not in name:
        assert ast.literal_eval(shown) == name, "what is shown says what the name is"
    assert bench.call("Glob", pattern="*").content == shown
    assert bench.call("Grep", pattern="needle").content == shown
    assert bench.call("Grep", pattern="needle", output_mode="count").content == f"{shown}:1"
    lines = bench.call("Grep", pattern="needle", output_mode="content").content
    assert lines == f"{shown}:1:needle"


@pytest.mark.parametrize("name", ODD)
def test_file_tools_take_the_real_name_and_tell_it_on_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("needle\n")
    bench = Workbench(Scope(allow=(rule(tmp_path),)), tmp_path)
    told = [
        bench.call("Read", file_path=name),
        bench.call("Edit", file_path=name, old_string="needle", new_string="pin"),
        bench.call("Write", file_path=name, content="x"),
        bench.call("Read", file_path=f"{name}.absent"),
        bench.call("Read", file_path=f"/elsewhere/{name}"),
        bench.call("Grep", pattern="x", path=f"{name}.absent"),
    ]
    assert path.read_text() == "x"
    for result in told:
        lines = [result.summary, *(result.content or "").splitlines()]
        assert not [line for line in lines if not line.replace("\t", "").isprintable()]
        assert not [line for line in lines if line.startswith("src/forged.py")]


QUERIES = [
    GrepArgs(pattern="foo"),
    GrepArgs(pattern="foo", output_mode=OutputMode.COUNT),
    GrepArgs(pattern="foo", output_mode=OutputMode.CONTENT, context=1),
    GrepArgs(pattern="FOO", ignore_case=True, output_mode=OutputMode.CONTENT),
    GrepArgs(pattern="^foo$", output_mode=OutputMode.CONTENT),
    GrepArgs(pattern="one.*two", multiline=True, output_mode=OutputMode.CONTENT),
    GrepArgs(
        pattern="foo\\nfoo|1\\n\\n", multiline=True, output_mode=OutputMode.CONTENT, context=1
    ),
    GrepArgs(pattern="foo", glob="*.py"),
    GrepArgs(pattern="foo", glob="src/*"),
    GrepArgs(pattern="foo", glob="!*.py"),
    GrepArgs(pattern="foo", glob="!deep"),
    GrepArgs(pattern="foo", glob="**"),
    GrepArgs(pattern="foo", glob="*", type="py"),
    GrepArgs(pattern="foo", glob="gen/**"),
    GrepArgs(pattern="foo", glob=".hidden"),
    GrepArgs(pattern="foo", glob="[slug]/*"),
    GrepArgs(pattern="foo", glob="*.{py,md}"),
    GrepArgs(pattern="foo", type="txt"),
    GrepArgs(pattern="foo", path="src/gen"),
    GrepArgs(pattern="foo", path="src/gen/made.py"),
    GrepArgs(pattern="foo", path=".hidden"),
    GrepArgs(pattern="--foo"),
]


@pytest.mark.process
@pytest.mark.skipif(shutil.which("rg") is None, reason="there is no ripgrep")
@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_ripgrep_and_the_fallback_say_the_same(tree: Path, query: GrepArgs) -> None:
    view = view_of(Scope(allow=(rule(tree, "read"),)), tree)
    environment = command_environment(os.environ)

    async def main() -> None:
        keeper = Keeper(environment=environment)
        try:
            ripgrep = Grep(view, keeper=keeper, environment=environment)
            fallback = Grep(view, keeper=None, environment=environment)
            assert await ripgrep.run(query, quiet_call()) == await fallback.run(query, quiet_call())
        finally:
            await keeper.close()

    run(main())


@pytest.mark.process
@pytest.mark.skipif(shutil.which("rg") is None, reason="there is no ripgrep")
def test_what_ripgrep_complains_about_is_told(tree: Path) -> None:
    view = view_of(Scope(allow=(rule(tree, "read"),)), tree)
    environment = command_environment(os.environ)

    async def main() -> None:
        keeper = Keeper(environment=environment)
        try:
            with pytest.raises(ToolFailure, match="regex parse error"):
                await Grep(view, keeper=keeper, environment=environment).run(
                    GrepArgs(pattern="(foo"), quiet_call()
                )
        finally:
            await keeper.close()

    run(main())
