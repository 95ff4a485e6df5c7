"""Globs and rules of `.gitignore`: what they mean, and that none can stall its reader."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podproc.tools.globs import MOST_CHOICES, MOST_RULES, BadGlob, Glob, IgnoreRules
from podproc.tools.policy import policy_of
from podproc.tools.shell import BashArgs
from protocol.manifest import Permissions
from tests.podproc.tooling import run

NAME = "a" * 250
HOSTILE = [
    "*a" * 16 + "b",
    "*a" * 120 + "b",
    "?*" * 100 + "b",
    "*[ab]" * 100 + "c",
    "**/" * 300 + "b",
    "{" * 900,
    "**/a/" * 100 + "b",
    "**/*a*/" * 80 + "b",
    "*" * 2000,
    "[a-z]*" * 150 + "\\",
    "*a" * 60 + "/" + "*a" * 60 + "b",
]
PATHS = [NAME, "a/" * 1500 + NAME, f"{NAME}/" * 10 + NAME]
LIMIT_S = 2.0


def took(work: Callable[[], object]) -> float:
    """Return the seconds of processor time that the work took."""
    since = time.thread_time()
    work()
    return time.thread_time() - since


@pytest.mark.parametrize("pattern", HOSTILE)
def test_no_glob_stalls_whoever_matches_it(pattern: str) -> None:
    glob = Glob(pattern)
    assert max(took(partial(glob.matches, path)) for path in PATHS) < LIMIT_S


@pytest.mark.parametrize("sign", ["[", "*", "\\", "!", "#", " ", "/", "{", "[]"])
def test_a_gitignore_of_one_long_line_is_read_soon(sign: str) -> None:
    assert took(partial(IgnoreRules.of, sign * 100_000)) < LIMIT_S / 4


@pytest.mark.parametrize("pattern", HOSTILE)
def test_no_line_of_a_gitignore_stalls_its_reader(pattern: str) -> None:
    rules = IgnoreRules.of(pattern)
    spent = [took(partial(rules.says, path, is_folder=False)) for path in PATHS]
    assert max(spent) < LIMIT_S


@settings(deadline=None)
@given(st.text("ab*?[]{},/\\!-", max_size=60), st.text("ab/", min_size=1, max_size=200))
def test_any_glob_is_refused_or_answers_soon(pattern: str, path: str) -> None:
    def match() -> None:
        with suppress(BadGlob):
            Glob(pattern).matches(path)
        IgnoreRules.of(pattern).says(path, is_folder=True)

    assert took(match) < LIMIT_S


@pytest.mark.parametrize("pattern", ["{a,b}" * 12, "{a,{b,{c,d}}}" * 6, "a" * 3000])
def test_choices_and_length_are_bounded(pattern: str) -> None:
    def read() -> None:
        with pytest.raises(BadGlob, match=rf"\d+ characters|more than {MOST_CHOICES}"):
            Glob(pattern)

    assert took(read) < LIMIT_S


def test_a_gitignore_counts_so_many_lines() -> None:
    text = "\n".join(["x"] * MOST_RULES + ["late"])
    assert IgnoreRules.of(text).says("late", is_folder=False) is None
    assert took(lambda: IgnoreRules.of("*a*\n" * 10_000).says(NAME, is_folder=False)) < LIMIT_S


def test_no_rule_of_a_permission_stalls_a_call() -> None:
    rule = {"tool": "Bash", "pattern": "*a" * 50 + "b", "action": "deny"}
    check = policy_of(Permissions.from_wire({"rule": [rule]}))
    call = BashArgs(command="a" * 20_000)

    async def main() -> str | None:
        return await check("Bash", call)

    assert took(lambda: run(main())) < LIMIT_S


# -- what they mean


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("app/[slug]/page.tsx", ["app/[slug]/page.tsx", "app/s/page.tsx"], ["app/slug/page.tsx"]),
        ("[id].ts", ["[id].ts", "x/[id].ts", "i.ts"], ["id.ts"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/x", "x/a/b"]),
        ("a/**/b/**", ["a/b/c", "a/x/b/y/z"], ["a/b", "a/x/b"]),
        ("**/b/**/c", ["b/c", "x/b/y/c", "b/b/c/c"], ["c", "b/c/d"]),
        ("{a/b,c}/*.py", ["a/b/x.py", "c/x.py"], ["a/x.py", "b/x.py"]),
        ("{a,b{c,d}}", ["a", "bc", "x/bd"], ["b", "bcd"]),
        ("{a,b", ["a", "b"], ["ab"]),
        ("a}b,c", ["a}b,c"], ["a"]),
        ("build/", ["build", "build/x", "y/build/x/z"], ["builds/x"]),
        ("a*b*c", ["abc", "axbxc", "abcbc"], ["ab", "acb"]),
        ("*ab*ab", ["abab", "xabab"], ["ab", "aab"]),
        ("a**b", ["ab", "axb"], ["a/b"]),
        ("[!a]", ["b"], ["a"]),
        ("[a-c&&b]x", ["ax", "&x"], ["dx"]),
        ("\\", ["\\"], ["x"]),
    ],
)
def test_globs_choose_what_they_say(pattern: str, matches: list[str], others: list[str]) -> None:
    glob = Glob(pattern)
    assert [path for path in matches if not glob.matches(path)] == []
    assert [path for path in others if glob.matches(path)] == []


LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *("*.log", "!keep.log", "/top", "dir/", "a/b", "**/a", "a/**", "a/**/b", "#c"),
                *(
                    "\\#c",
                    "!",
                    "x\\",
                    "[z-a]",
                    "[ab]*",
                    "a\\*",
                    "!a",
                    "*",
                    "/*",
                    "!*/",
                    "b ",
                    "b\\ ",
                ),
                "a**b",
            ]
        ),
        st.text("ab*?/!", min_size=1, max_size=6),
    ),
    max_size=5,
)
PLACES = ["a", "b", "ab", "top", "keep.log", "x.log", "#c", "b ", "a/b", "a/a", "b/a", "a/x/b"]
PLACES += ["dir/x", "b/dir/x", "a/ab", "b/top", "a/b/a", "b/keep.log"]


def ignored_by_us(rules: IgnoreRules, path: str) -> bool:
    """Judge as the walk does: what is below a folder that is left out is left out."""
    parts = path.split("/")
    for depth in range(1, len(parts)):
        if rules.says("/".join(parts[:depth]), is_folder=True):
            return True
    return bool(rules.says(path, is_folder=False))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("git")
    subprocess.run(["git", "init", "-q", root], check=True)
    return root


@pytest.mark.process
@settings(deadline=None, max_examples=60)
@given(lines=LINES)
def test_rules_mean_what_they_mean_to_git(repository: Path, lines: list[str]) -> None:
    (repository / ".gitignore").write_text("\n".join(lines) + "\n")
    told = subprocess.run(
        ["git", "-c", "core.excludesFile=", "check-ignore", "--no-index", "-z", "--stdin"],
        cwd=repository,
        input="\0".join(PLACES).encode(),
        capture_output=True,
        env={"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null", "HOME": "/"},
    )
    wanted = {path for path in told.stdout.decode().split("\0") if path}
    rules = IgnoreRules.of("\n".join(lines) + "\n")
    assert {path for path in PLACES if ignored_by_us(rules, path)} == wanted
