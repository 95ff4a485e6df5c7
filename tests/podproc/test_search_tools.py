"""Glob and Grep over a real folder, and the two engines of Grep against each other."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from podproc.tools.base import ToolFailure
from podproc.tools.keeper_client import Keeper
from podproc.tools.search import Grep, GrepArgs, OutputMode
from podproc.tools.shell import command_environment
from podproc.tools.walk import glob_regex
from protocol.scope import Scope
from tests.podproc.tooling import Workbench, quiet_call, rule, run, view_of


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
    regex = glob_regex(pattern)
    assert [path for path in matches if not regex.fullmatch(path)] == []
    assert [path for path in others if regex.fullmatch(path)] == []


def test_a_bad_glob_is_an_error_the_model_can_read() -> None:
    with pytest.raises(ToolFailure, match="not a glob"):
        glob_regex("[z-a]")


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
